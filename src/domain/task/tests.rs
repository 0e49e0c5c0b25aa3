//! Tasks from JSON: every fault, all at once, and the seed's shapes.

use serde_json::json;

use super::*;

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn agent() -> AgentId {
    AgentId::parse("default").unwrap()
}

fn parse(value: Value) -> Result<Task, Faults> {
    Task::parse(value, &agent(), None, NOW)
}

/// A good task with these fields instead.
fn with(more: &Value) -> Value {
    let mut body = json!({"task_id": "health_report", "query": "Check system health.", "schedule": {"type": "manual"}});
    body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    body
}

fn fields(faults: &Faults) -> Vec<&str> {
    faults.iter().map(|fault| fault.field.as_str()).collect()
}

#[test]
fn a_task_has_the_seeds_shape_and_defaults() {
    let task = parse(with(&json!({"timeout_seconds": 60}))).unwrap();
    let captured = json!({
        "task_id": "health_report", "agent_id": "default", "query": "Check system health.",
        "schedule": {"type": "manual", "seconds": null, "expression": null, "run_at": null, "timezone": "UTC", "start_at": null,
            "end_at": null, "jitter_seconds": null, "misfire_policy": "run_once"},
        "enabled": true, "timeout_seconds": 60,
        "retry_policy": {"max_retries": 0, "initial_delay_seconds": 30, "max_delay_seconds": 300, "backoff": "fixed",
            "retry_on": ["exception", "timeout"]},
        "overlap_policy": "skip_if_running",
        "session_policy": {"mode": "task", "session_id": null},
        "workspace_policy": {"namespace_template": "background/{agent_id}/{task_id}/{run_id}", "write_run_json": true,
            "write_events_jsonl": true},
        "metadata": {}, "created_at": NOW, "updated_at": NOW,
    });
    assert_begins_with(&serde_json::to_value(task).unwrap(), &captured, "task");
}

/// Ours has the seed's keys first, in the seed's order, with the seed's values; what we add comes after.
fn assert_begins_with(ours: &Value, seeds: &Value, at: &str) {
    match (ours, seeds) {
        (Value::Object(ours), Value::Object(seeds)) => {
            let first: Vec<&String> = ours.keys().take(seeds.len()).collect();
            assert_eq!(first, seeds.keys().collect::<Vec<_>>(), "{at}");
            seeds.iter().for_each(|(key, value)| assert_begins_with(&ours[key], value, &format!("{at}.{key}")));
        }
        _ => assert_eq!(ours, seeds, "{at}"),
    }
}

#[test]
fn a_task_survives_its_record() {
    let task = parse(with(&json!({
        "overlap_policy": "allow_parallel", "max_parallel": 3, "on_unknown": "hold", "timeout_seconds": 0.25,
        "retry_policy": {"max_retries": 2, "retry_on": ["exception", "memory"], "jitter": 0.5},
        "session_policy": {"mode": "fixed", "session_id": "s"},
        "schedule": {"type": "cron", "expression": "*/5 * * * *", "timezone": "Europe/Berlin", "jitter_seconds": 1.5},
    })))
    .unwrap();
    let record = serde_json::to_string(&task).unwrap();
    assert_eq!(serde_json::from_str::<Task>(&record).unwrap(), task);
}

#[test]
fn w_30_every_fault_of_a_field_is_found_at_the_door() {
    for (body, field) in [
        (json!({"task_id": "../x"}), "task_id"),
        (json!({"task_id": ""}), "task_id"),
        (json!({"task_id": "."}), "task_id"),
        (json!({"task_id": ".."}), "task_id"),
        (json!({"task_id": "abc\n"}), "task_id"),
        (json!({"task_id": "a b"}), "task_id"),
        (json!({"task_id": "a/b"}), "task_id"),
        (json!({"task_id": "x".repeat(129)}), "task_id"),
        (json!({"task_id": null}), "task_id"),
        (json!({"task_id": 5}), "task_id"),
        (json!({"agent_id": ".."}), "agent_id"),
        (json!({"query": ""}), "query"),
        (json!({"query": " \n\t"}), "query"),
        (json!({"query": null}), "query"),
        (json!({"query": 1}), "query"),
        (json!({"query": "x".repeat(300_000)}), "query"),
        (json!({"query": "\u{1}".repeat(200_000)}), "query"),
        (json!({"schedule": null}), "schedule"),
        (json!({"schedule": "manual"}), "schedule"),
        (json!({"schedule": {}}), "schedule.type"),
        (json!({"schedule": {"type": "daily"}}), "schedule.type"),
        (json!({"schedule": {"type": "interval"}}), "schedule.seconds"),
        (json!({"schedule": {"type": "interval", "seconds": 0}}), "schedule.seconds"),
        (json!({"schedule": {"type": "interval", "seconds": -1}}), "schedule.seconds"),
        (json!({"schedule": {"type": "interval", "seconds": 1e300}}), "schedule.seconds"),
        (json!({"schedule": {"type": "cron"}}), "schedule.expression"),
        (json!({"schedule": {"type": "cron", "expression": "61 * * * *"}}), "schedule.expression"),
        (json!({"schedule": {"type": "cron", "expression": "* * * *"}}), "schedule.expression"),
        (json!({"schedule": {"type": "once"}}), "schedule.run_at"),
        (json!({"schedule": {"type": "manual", "seconds": 5}}), "schedule.seconds"),
        (json!({"schedule": {"type": "manual", "timezone": "utc+1"}}), "schedule.timezone"),
        (json!({"schedule": {"type": "manual", "colour": 1}}), "schedule.colour"),
        (json!({"schedule": {"type": "manual", "jitter_seconds": -1}}), "schedule.jitter_seconds"),
        (json!({"enabled": "yes"}), "enabled"),
        (json!({"timeout_seconds": 0}), "timeout_seconds"),
        (json!({"timeout_seconds": -3}), "timeout_seconds"),
        (json!({"timeout_seconds": "60"}), "timeout_seconds"),
        (json!({"overlap_policy": "skip"}), "overlap_policy"),
        (json!({"retry_policy": {"max_retries": -1}}), "retry_policy.max_retries"),
        (json!({"retry_policy": {"initial_delay_seconds": -1}}), "retry_policy.initial_delay_seconds"),
        (json!({"retry_policy": {"max_delay_seconds": -5, "initial_delay_seconds": 0}}), "retry_policy.max_delay_seconds"),
        (json!({"retry_policy": {"initial_delay_seconds": 9, "max_delay_seconds": 8}}), "retry_policy.max_delay_seconds"),
        (json!({"retry_policy": {"backoff": "linear"}}), "retry_policy.backoff"),
        (json!({"retry_policy": {"retry_on": ["anything"]}}), "retry_policy.retry_on"),
        (json!({"retry_policy": {"jitter": 2}}), "retry_policy.jitter"),
        (json!({"retry_policy": {"retries": 2}}), "retry_policy.retries"),
        (json!({"retry_policy": []}), "retry_policy"),
        (json!({"session_policy": {"mode": "fixed"}}), "session_policy.session_id"),
        (json!({"session_policy": {"mode": "fixed", "session_id": " "}}), "session_policy.session_id"),
        (json!({"session_policy": {"mode": "run", "session_id": "x"}}), "session_policy.session_id"),
        (json!({"session_policy": {"mode": "shared"}}), "session_policy.mode"),
        (json!({"metadata": []}), "metadata"),
        (json!({"metadata": {"a": "x".repeat(70_000)}}), "metadata"),
        (json!({"max_queued": 10_001}), "max_queued"),
        (json!({"max_parallel": 2}), "max_parallel"),
        (json!({"max_parallel": 0, "overlap_policy": "allow_parallel"}), "max_parallel"),
        (json!({"on_unknown": "maybe"}), "on_unknown"),
        (json!({"max_recoveries": -1}), "max_recoveries"),
        (json!({"cancel_grace_seconds": -1}), "cancel_grace_seconds"),
        (json!({"overlap": "queue_next"}), "overlap"),
        (json!({"created_at": NOW}), "created_at"),
    ] {
        let faults = parse(with(&body)).unwrap_err();
        assert_eq!(fields(&faults), [field], "{body:.200}: {faults:.400}");
    }
}

#[test]
fn all_faults_are_reported_at_once() {
    let faults = parse(json!({
        "task_id": "../x", "query": " ", "schedule": null, "timeout_seconds": 0, "retry_policy": {"max_retries": -1, "jitter": 9},
        "workspace_policy": {"namespace_template": "x"}, "overlap": 1,
    }))
    .unwrap_err();
    let mut found = fields(&faults);
    found.sort_unstable();
    assert_eq!(
        found,
        [
            "overlap",
            "query",
            "retry_policy.jitter",
            "retry_policy.max_retries",
            "schedule",
            "task_id",
            "timeout_seconds",
            "workspace_policy.namespace_template",
        ]
    );
    assert!(parse(json!("a task")).unwrap_err().to_string().contains("must be an object, not a string"));
}

#[test]
fn w_33_a_template_keeps_runs_apart_and_inside() {
    for bad in [
        "",
        "x",
        "{run_id}",
        "background/{agent_id}/{task_id}",
        "background/{foo}/{run_id}",
        "background/{agent_id.x}/{run_id}",
        "../../{run_id}",
        "/abs/{run_id}",
        "a//{run_id}",
        "a/./{run_id}",
        "a/.hidden/{run_id}",
        "a/{run_id}/{run_id}",
        "a/run_x/{run_id}",
        "a b/{run_id}",
        "a\n/{run_id}",
        "a/{run_id}/",
        "a/x{run_id}",
        "a\\b/{run_id}",
        "a%2e%2e/{run_id}",
    ] {
        let faults = parse(with(&json!({"workspace_policy": {"namespace_template": bad}}))).unwrap_err();
        assert_eq!(fields(&faults), ["workspace_policy.namespace_template"], "{bad:?}");
    }
    for good in ["a/{run_id}", "background/{agent_id}/{task_id}/{run_id}", "x/{task_id}-{agent_id}.v1/{run_id}"] {
        parse(with(&json!({"workspace_policy": {"namespace_template": good}}))).unwrap();
    }
}

#[test]
fn a_patch_changes_what_it_names_and_nothing_else() {
    let before = parse(with(&json!({"timeout_seconds": 60, "metadata": {"a": 1}, "max_recoveries": 9}))).unwrap();
    let later = Timestamp::from_seconds(1_800_000_100);
    let after = before.patched(json!({"query": "Other.", "retry_policy": {"max_retries": 2}, "timeout_seconds": null}), later).unwrap();
    let mut expected = before.clone();
    expected.query = "Other.".to_owned();
    expected.retry_policy.max_retries = 2;
    expected.timeout_seconds = None;
    expected.updated_at = later;
    assert_eq!(after, expected);
    assert!(before.patched(json!({}), later).unwrap().same_as(&before));
}

#[test]
fn w_34_a_patch_cannot_make_a_second_task() {
    let task = parse(with(&json!({}))).unwrap();
    let faults = task.patched(json!({"task_id": "other", "agent_id": "other"}), NOW).unwrap_err();
    assert_eq!(fields(&faults), ["task_id", "agent_id"]);
}

#[test]
fn w_30_a_patch_is_checked_like_a_task() {
    let task = parse(with(&json!({}))).unwrap();
    for (patch, field) in [
        (json!({"query": null}), "query"),
        (json!({"query": " "}), "query"),
        (json!({"schedule": null}), "schedule"),
        (json!({"schedule": {"type": "cron", "expression": "nonsense"}}), "schedule.expression"),
        (json!({"enabled": null}), "enabled"),
        (json!({"overlap_policy": null}), "overlap_policy"),
        (json!({"retry_policy": null}), "retry_policy"),
        (json!({"session_policy": null}), "session_policy"),
        (json!({"workspace_policy": null}), "workspace_policy"),
        (json!({"timeout_seconds": 0}), "timeout_seconds"),
        (json!({"max_parallel": 2}), "max_parallel"),
        (json!({"color": 1}), "color"),
    ] {
        let faults = task.patched(patch.clone(), NOW).unwrap_err();
        assert_eq!(fields(&faults), [field], "{patch}");
    }
    assert!(task.patched(json!([]), NOW).is_err());
}

#[test]
fn a_patch_of_the_policy_may_not_leave_max_parallel_without_a_meaning() {
    let task = parse(with(&json!({"overlap_policy": "allow_parallel", "max_parallel": 2}))).unwrap();
    let faults = task.patched(json!({"overlap_policy": "queue_next"}), NOW).unwrap_err();
    assert_eq!(fields(&faults), ["max_parallel"]);
    assert_eq!(task.patched(json!({"overlap_policy": "queue_next", "max_parallel": null}), NOW).unwrap().capacity(), Some(1));
}

#[test]
fn session_ids_follow_the_mode() {
    let run = crate::domain::id::RunId::parse("run_1").unwrap();
    for (policy, session) in [
        (json!({}), "background:default:health_report"),
        (json!({"mode": "run"}), "background:run_1"),
        (json!({"mode": "fixed", "session_id": "mine"}), "mine"),
    ] {
        let task = parse(with(&json!({"session_policy": policy}))).unwrap();
        assert_eq!(task.session_policy.session_of(&task.agent_id, &task.task_id, &run), session);
    }
}
