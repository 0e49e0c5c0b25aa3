//! The closed set of lists, and the statement that reads a page of each.

use super::super::{Kind, PageRequest, Scope};
use super::rows::{ORDER, RECORD};
use crate::domain::run::Status;

/// A page's statement; its parameters are the two of the scope, the order to start behind, and how many records.
pub struct PageQuery {
    /// The statement.
    pub sql: String,
    /// What the scope asks for; empty when the statement says it.
    pub first: String,
    /// What the scope asks for beside it; empty when that is all.
    pub second: String,
    /// The order that the page starts behind.
    pub after: i64,
    /// How many records, one more than the page so that a further one shows.
    pub limit: i64,
}

impl PageQuery {
    /// The statement that reads this page.
    pub fn new(scope: &Scope, page: PageRequest) -> PageQuery {
        let (conditions, first, second) = conditions(scope);
        let (compare, direction, none) = if page.newest_first { ("<", "DESC", i64::MAX) } else { (">", "ASC", i64::MIN) };
        let parts: Vec<String> = conditions
            .iter()
            .map(|condition| {
                format!("SELECT {RECORD} FROM record AS r LEFT JOIN lease AS l ON l.run = r.ord WHERE {condition} AND r.ord {compare} $3")
            })
            .collect();
        PageQuery {
            sql: format!("{} ORDER BY {ORDER} {direction} LIMIT $4 + 0", parts.join(" UNION ALL ")),
            first,
            second,
            after: page.after.unwrap_or(none),
            limit: i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1),
        }
    }
}

/// The scope's conditions with their parameters; what any of them fits is listed. Each is walked along an index of its own, and partial
/// indexes are used only where the condition spells theirs.
fn conditions(scope: &Scope) -> (Vec<String>, String, String) {
    let status_text = |status: &Status| status.as_str().to_owned();
    let one = |condition: &str, first: String| (vec![condition.to_owned()], first, String::new());
    let of_kind = |kind: Kind| one(&format!("r.kind = '{}'", kind.as_str()), String::new());
    match scope {
        Scope::All(kind) => of_kind(*kind),
        Scope::TasksOfAgent(agent) => one("r.agent = $1 AND r.kind = 'task'", agent.to_string()),
        Scope::Runs { task: None, status: None } => of_kind(Kind::Run),
        Scope::Runs { task: None, status: Some(status) } => one("r.status = $1", status_text(status)),
        Scope::Runs { task: Some(task), status: None } => one("r.task = $1 AND r.kind = 'run'", task.to_string()),
        Scope::Runs { task: Some(task), status: Some(status) } => {
            (vec!["r.task = $1 AND r.status = $2".to_owned()], task.to_string(), status_text(status))
        }
        Scope::LiveRunsOfAgent(agent) => one("r.agent = $1 AND r.live = 1", agent.to_string()),
        Scope::LiveRunsOfTask(task) => {
            let live = Status::ALL.iter().filter(|status| !status.is_terminal());
            (live.map(|status| format!("r.task = $1 AND r.status = '{}'", status.as_str())).collect(), task.to_string(), String::new())
        }
        Scope::Attempts(run) => one("r.run = $1 AND r.kind = 'attempt'", run.to_string()),
        Scope::SkipRanges(task) => one("r.task = $1 AND r.kind = 'skip_range'", task.to_string()),
        Scope::BucketsOfAgent(agent) => one("r.agent = $1 AND r.kind = 'key_value'", agent.to_string()),
    }
}
