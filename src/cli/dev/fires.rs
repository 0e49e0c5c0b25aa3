//! The tasks that the configuration gives an agent, and when they fire next.

use crate::cli::human;
use crate::config::Loaded;
use crate::domain::id::AgentId;
use crate::domain::schedule::Timing;
use crate::domain::task::Task;
use crate::domain::time::Timestamp;

/// How many fire times of a task are shown.
const SHOWN: usize = 3;

fn tasks(loaded: &Loaded, agent: Option<&AgentId>, now: Timestamp) -> Vec<Task> {
    let settings = &loaded.settings;
    let good = settings.tasks.iter().filter_map(|entry| entry.task(&settings.default_agent, now).ok());
    good.filter(|task| Some(&task.agent_id) == agent).collect()
}

/// What the agent's first task asks.
pub(super) fn first_query(loaded: &Loaded, agent: Option<&AgentId>, now: Timestamp) -> Option<String> {
    tasks(loaded, agent, now).into_iter().map(|task| task.query).find(|query| !query.is_empty())
}

/// One line for each task of the agent, as a daemon would fire it that reads the configuration now.
pub(super) fn next(loaded: &Loaded, agent: Option<&AgentId>, now: Timestamp) -> Vec<String> {
    let shown = |task: Task| {
        let times: Vec<String> = std::iter::successors(task.schedule.first(now), |nominal| task.schedule.next(*nominal))
            .take(SHOWN)
            .map(|at| format!("{} ({})", human::local(at), human::age(at, now)))
            .collect();
        let when = match (task.enabled, task.schedule.timing(), times.is_empty()) {
            (false, ..) => "is disabled".to_owned(),
            (true, Timing::Manual, _) => "runs when it is asked for".to_owned(),
            (true, _, true) => "fires no more".to_owned(),
            (true, _, false) => format!("fires next at {}", times.join(", ")),
        };
        format!("task {} {when}", task.task_id)
    };
    tasks(loaded, agent, now).into_iter().map(shown).collect()
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::config::{Environment, parse};

    #[test]
    fn each_task_of_the_agent_has_its_line() {
        let text = "[[tasks]]\ntask_id = \"a\"\nagent_id = \"me\"\nquery = \"first\"\nschedule = { type = \"cron\", expression = \"0 6 * * *\" }\n\
            [[tasks]]\ntask_id = \"b\"\nagent_id = \"me\"\nquery = \"q\"\nschedule = { type = \"manual\" }\n\
            [[tasks]]\ntask_id = \"c\"\nagent_id = \"other\"\nquery = \"q\"\nschedule = { type = \"manual\" }\n";
        let loaded = parse(text, Path::new("s.toml"), &Environment::default()).unwrap();
        let me = AgentId::parse("me").unwrap();
        let now = Timestamp::parse("2026-11-22T05:00:00Z").unwrap();
        let lines = next(&loaded, Some(&me), now);
        assert_eq!(lines.len(), 2);
        assert!(lines[0].starts_with("task a fires next at ") && lines[0].contains("(in 1h), "), "{}", lines[0]);
        assert_eq!(lines[1], "task b runs when it is asked for");
        assert_eq!(first_query(&loaded, Some(&me), now).as_deref(), Some("first"));
        assert!(next(&loaded, None, now).is_empty());
    }
}
