//! `sandclock tasks list` and `sandclock tasks skips`.

use serde_json::Value;

use crate::cli::caller::{Caller, Order, PageArgs};
use crate::cli::exit::{Exit, Fault};
use crate::cli::table::{Cell, Table};
use crate::cli::{human, view};
use crate::domain::id::{AgentId, TaskId};

pub(super) async fn execute(caller: &Caller<'_>, agent: Option<&AgentId>, page: &PageArgs) -> Result<Exit, Fault> {
    let mut query = page.query(Order::Asc);
    if let Some(agent) = agent {
        query.push(("agent_id", agent.to_string()));
    }
    let answer = caller.remote.get(&["tasks"], &query).await?;
    let empty = match (agent, &page.cursor) {
        (_, Some(_)) => "no more tasks".to_owned(),
        (Some(agent), None) => format!("no tasks of agent {agent}; `sandclock tasks list` has those of all"),
        (None, None) => "no tasks yet: make one with `sandclock tasks create --id NAME --query TEXT --schedule 'every 1h'`".to_owned(),
    };
    caller.show(&answer, |tasks| text(caller, tasks, &empty))
}

fn text(caller: &Caller<'_>, tasks: &Value, empty: &str) -> String {
    let mut table = Table::new(&["TASK", "AGENT", "SCHEDULE", "ENABLED", "OVERLAP", "CHANGED", "QUERY"]);
    for task in view::list(tasks, "tasks") {
        table.row(vec![
            Cell::new(view::shown(task, "task_id")),
            Cell::new(view::shown(task, "agent_id")),
            Cell::new(view::schedule(task)),
            Cell::new(if view::flag(task, "enabled") { "yes" } else { "no" }),
            Cell::new(view::shown(task, "overlap_policy")),
            Cell::new(view::age(task, "updated_at", caller.now())),
            Cell::new(human::cut(&human::one_line(&view::shown(task, "query")), 60)),
        ]);
    }
    caller.page(&table, tasks, empty)
}

pub(super) async fn skips(caller: &Caller<'_>, task: &TaskId, page: &PageArgs) -> Result<Exit, Fault> {
    let answer = caller.remote.get(&["tasks", task.as_str(), "skips"], &page.query(Order::Desc)).await?;
    caller.show(&answer, |skips| {
        let mut table = Table::new(&["FIRST", "LAST", "COUNT", "REASON", "DECIDED"]);
        let local = |skip: &Value, name: &str| view::time(skip, name).map(human::local).unwrap_or_default();
        for skip in view::list(skips, "skips") {
            table.row(vec![
                Cell::new(local(skip, "first")),
                Cell::new(local(skip, "last")),
                Cell::number(view::shown(skip, "count")),
                Cell::new(view::shown(skip, "reason")),
                Cell::new(view::age(skip, "at", caller.now())),
            ]);
        }
        caller.page(&table, skips, &format!("no occurrence of task {task} was skipped"))
    })
}
