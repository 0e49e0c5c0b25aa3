//! Valid bodies, and what becomes of them when they are changed at random places.

use proptest::prelude::*;
use proptest::sample::{Index, select};
use serde_json::{Map, Number, Value, json};

use super::text;

/// What is done to one place of a body.
#[derive(Clone, Debug)]
pub enum Change {
    Replace(Value),
    Remove,
    Rename(String),
    Add(String, Value),
    Wrap,
}

/// Bodies of tasks that are accepted as they are.
pub fn tasks() -> Vec<Value> {
    let base = json!({"task_id": "t", "query": "say hello", "schedule": {"type": "manual"}});
    let with = |more: Value| {
        let mut body = base.clone();
        body.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        body
    };
    vec![
        base.clone(),
        with(json!({"schedule": {"type": "interval", "seconds": 90.5, "start_at": "2040-01-01T00:00:00Z", "jitter_seconds": 3}})),
        with(
            json!({"schedule": {"type": "cron", "expression": "*/5 1-3 1,15 * MON", "timezone": "America/New_York", "end_at": "2040-01-01T00:00"}}),
        ),
        with(
            json!({"schedule": {"type": "once", "run_at": "2039-11-01T01:30:00", "timezone": "Europe/Berlin", "misfire_policy": "skip_missed"}}),
        ),
        with(json!({"schedule": {"type": "interval", "seconds": 60, "misfire_policy": "bounded", "max_catch_up": 5}, "enabled": false})),
        with(json!({
            "agent_id": "default", "timeout_seconds": 1.5, "overlap_policy": "queue_next", "metadata": {"a": [1, null, {"b": "c"}]}, "max_queued": 3,
            "retry_policy": {"max_retries": 2, "initial_delay_seconds": 0.5, "max_delay_seconds": 9, "backoff": "exponential",
                "retry_on": ["exception", "timeout", "memory"], "jitter": 0.5},
            "session_policy": {"mode": "fixed", "session_id": "mine"},
            "workspace_policy": {"namespace_template": "x/{agent_id}/{run_id}", "write_run_json": true, "write_events_jsonl": false},
            "on_unknown": "hold", "max_recoveries": 1, "cancel_grace_seconds": 0,
        })),
        with(json!({"overlap_policy": "allow_parallel", "max_parallel": 2})),
    ]
}

fn number() -> impl Strategy<Value = Value> {
    let known = [0.0, -0.0, -1.0, 0.5, 1e-7, 1e300, -1e300, 3_162_240_000.0, 3_162_240_001.0, 9e15, 0.1 + 0.2];
    prop_oneof![
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        (-3i64..20_000).prop_map(Value::from),
        select(known.to_vec()).prop_map(Value::from),
        any::<f64>().prop_map(|number| Number::from_f64(number).map_or(Value::Null, Value::Number)),
    ]
}

/// Any JSON, not deep.
pub fn value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(Value::Bool),
        3 => number(),
        4 => text().prop_map(Value::String),
    ];
    leaf.prop_recursive(3, 12, 4, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::Array),
            proptest::collection::vec((text(), inner), 0..4).prop_map(|pairs| Value::Object(Map::from_iter(pairs))),
        ]
    })
}

fn change() -> impl Strategy<Value = Change> {
    prop_oneof![
        6 => value().prop_map(Change::Replace),
        1 => Just(Change::Remove),
        1 => text().prop_map(Change::Rename),
        1 => (text(), value()).prop_map(|(name, value)| Change::Add(name, value)),
        1 => Just(Change::Wrap),
    ]
}

/// One of these bodies, changed at up to three places.
pub fn changed(bodies: Vec<Value>) -> impl Strategy<Value = Value> {
    (select(bodies), proptest::collection::vec((any::<Index>(), change()), 0..4)).prop_map(|(mut body, changes)| {
        for (at, change) in changes {
            let mut places = Vec::new();
            find_places(&body, &mut Vec::new(), &mut places);
            let place = at.get(&places).clone();
            apply(&mut body, &place, change);
        }
        body
    })
}

fn find_places(value: &Value, path: &mut Vec<String>, places: &mut Vec<Vec<String>>) {
    places.push(path.clone());
    let children: Vec<(String, &Value)> = match value {
        Value::Object(object) => object.iter().map(|(name, value)| (name.clone(), value)).collect(),
        Value::Array(list) => list.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, child) in children {
        path.push(name);
        find_places(child, path, places);
        path.pop();
    }
}

fn child<'a>(value: &'a mut Value, name: &str) -> Option<&'a mut Value> {
    match value {
        Value::Object(object) => object.get_mut(name),
        Value::Array(list) => list.get_mut(name.parse::<usize>().ok()?),
        _ => None,
    }
}

fn apply(body: &mut Value, place: &[String], change: Change) {
    let (last, above) = match place.split_last() {
        Some((last, above)) => (Some(last), above),
        None => (None, place),
    };
    let Some(parent) = above.iter().try_fold(&mut *body, |value, name| child(value, name)) else { return };
    match (change, last) {
        (Change::Replace(value), None) => *parent = value,
        (Change::Replace(value), Some(last)) => {
            if let Some(at) = child(parent, last) {
                *at = value;
            }
        }
        (Change::Wrap, Some(last)) => {
            if let Some(at) = child(parent, last) {
                *at = Value::Array(vec![at.take()]);
            }
        }
        (Change::Remove, Some(last)) => {
            if let Value::Object(object) = parent {
                object.shift_remove(last);
            }
        }
        (Change::Rename(name), Some(last)) => {
            if let Value::Object(object) = parent
                && let Some(value) = object.shift_remove(last)
            {
                object.insert(name, value);
            }
        }
        (Change::Add(name, value), _) => {
            if let Value::Object(object) = parent {
                object.insert(name, value);
            }
        }
        (Change::Wrap | Change::Remove | Change::Rename(_), None) => *parent = Value::Array(vec![parent.take()]),
    }
}
