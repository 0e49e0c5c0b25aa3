//! The closed set of lists, and the statement that reads a page of each.

use super::super::{Kind, PageRequest, Scope};
use super::rows::RECORD;
use crate::domain::run::Status;

/// A page's statement; its parameters are the two of the scope, the order to start behind, and how many records.
pub struct PageQuery {
    /// The statement.
    pub sql: String,
    /// What the scope asks for.
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
        let (condition, first, second) = condition(scope);
        let (compare, direction, none) = if page.newest_first { ("<", "DESC", i64::MAX) } else { (">", "ASC", i64::MIN) };
        PageQuery {
            sql: format!(
                "SELECT {RECORD} FROM record AS r LEFT JOIN lease AS l ON l.run = r.ord \
                 WHERE {condition} AND r.ord {compare} $3 ORDER BY r.ord {direction} LIMIT $4"
            ),
            first,
            second,
            after: page.after.unwrap_or(none),
            limit: i64::try_from(page.limit).unwrap_or(i64::MAX).saturating_add(1),
        }
    }
}

/// The scope's condition with its parameters. Partial indexes are used only where the condition spells theirs.
fn condition(scope: &Scope) -> (&'static str, String, String) {
    const KIND: &str = "r.kind = $1";
    let status_text = |status: &Status| status.as_str().to_owned();
    match scope {
        Scope::All(kind) => (KIND, kind.as_str().to_owned(), String::new()),
        Scope::TasksOfAgent(agent) => ("r.agent = $1 AND r.kind = 'task'", agent.to_string(), String::new()),
        Scope::Runs { task: None, status: None } => (KIND, Kind::Run.as_str().to_owned(), String::new()),
        Scope::Runs { task: None, status: Some(status) } => ("r.status = $1", status_text(status), String::new()),
        Scope::Runs { task: Some(task), status: None } => ("r.task = $1 AND r.kind = 'run'", task.to_string(), String::new()),
        Scope::Runs { task: Some(task), status: Some(status) } => ("r.task = $1 AND r.status = $2", task.to_string(), status_text(status)),
        Scope::LiveRunsOfAgent(agent) => ("r.agent = $1 AND r.live = 1", agent.to_string(), String::new()),
        Scope::LiveRunsOfTask(task) => ("r.task = $1 AND r.live = 1", task.to_string(), String::new()),
        Scope::Attempts(run) => ("r.run = $1 AND r.kind = 'attempt'", run.to_string(), String::new()),
        Scope::SkipRanges(task) => ("r.task = $1 AND r.kind = 'skip_range'", task.to_string(), String::new()),
    }
}
