//! The parsers of the domain: ids, times, spans, schedules, tasks, patches, templates.

use std::time::Duration;

use proptest::prelude::*;
use proptest::sample::select;
use sandclock::domain::id::{AgentId, RunId, TaskId, WorkerId};
use sandclock::domain::input::{Faults, Fields};
use sandclock::domain::policy::WorkspacePolicy;
use sandclock::domain::schedule::{Cron, Moment, Schedule, ScheduleState};
use sandclock::domain::task::Task;
use sandclock::domain::time::{Seconds, Timestamp};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::json::{changed, tasks, value};
use super::{cases, is_one_sentence, text};

const NOW: Timestamp = Timestamp::from_seconds(1_800_000_000);

fn agent() -> AgentId {
    AgentId::parse("default").unwrap()
}

/// What is written and read back is the same, and is written the same again.
fn comes_back<T: Serialize + DeserializeOwned + PartialEq + std::fmt::Debug>(value: &T) -> Result<(), TestCaseError> {
    let written = serde_json::to_string(value).unwrap();
    let read: T = serde_json::from_str(&written).map_err(|error| TestCaseError::fail(format!("{written}: {error}")))?;
    prop_assert_eq!(&read, value);
    prop_assert_eq!(serde_json::to_string(&read).unwrap(), written);
    Ok(())
}

fn are_sentences(faults: &Faults) -> Result<(), TestCaseError> {
    prop_assert!(!faults.is_empty());
    faults.iter().try_for_each(|fault| is_one_sentence(&fault.message))
}

fn schedule(value: Value) -> Result<Schedule, Faults> {
    let mut faults = Faults::new();
    let schedule = Schedule::parse(Fields::open("schedule", value, &mut faults));
    let Some(schedule) = schedule else { return Err(faults) };
    faults.into_result(schedule)
}

/// A walk of a schedule from some present, which must go forward and end.
fn is_walked(schedule: &Schedule, now: Timestamp) -> Result<(), TestCaseError> {
    let mut at = schedule.first(now);
    for _ in 0..4 {
        let Some(before) = at else { return Ok(()) };
        at = schedule.next(before);
        prop_assert!(at.is_none_or(|at| at > before), "{schedule:?} does not go on after {before}");
    }
    let state = ScheduleState::new(TaskId::parse("t").unwrap(), "i".into(), schedule, now);
    comes_back(&state)?;
    let later = now + Duration::from_secs(40 * 86_400);
    let due = state.due(schedule, later, Duration::from_secs(60), 7);
    prop_assert!(due.fire.len() <= 7);
    let advance = state.dispatched(schedule, &due, later);
    let totals = advance.state.totals;
    prop_assert_eq!(totals.occurrences, totals.runs + totals.skipped);
    if let Some(first) = schedule.first(now) {
        let moment = Moment { now: later, jitter: Duration::ZERO, grace: Duration::from_secs(60), batch: 3 };
        prop_assert!(schedule.due(first, &moment).fire.len() <= 3);
        let jitter = schedule.jitter_of(&TaskId::parse("t").unwrap(), "i", first);
        prop_assert!(schedule.jitter().map_or(Duration::ZERO, Seconds::duration) >= jitter);
    }
    Ok(())
}

/// Something like one field of a cron expression, mostly within its bounds.
fn field(low: u32, high: u32, names: &'static [&'static str]) -> impl Strategy<Value = String> {
    let number = move || prop_oneof![9 => low..=high, 1 => 0u32..70];
    let item = prop_oneof![
        9 => Just("*".to_owned()),
        9 => number().prop_map(|number| number.to_string()),
        6 => (number(), number()).prop_map(|(first, last)| format!("{first}-{last}")),
        3 => (number(), number(), 1..=high).prop_map(|(first, last, step)| format!("{first}-{last}/{step}")),
        3 => (1..=high).prop_map(|step| format!("*/{step}")),
        3 => select(names.to_vec()).prop_map(str::to_owned),
        1 => select(vec!["L", "?", "1#2", "LW", "", "-", "/", "1/", "4294967296", "-1", "*/0"]).prop_map(str::to_owned),
    ];
    proptest::collection::vec(item, 1..3).prop_map(|items| items.join(","))
}

/// Something like a cron expression, which is one in most cases.
fn expression() -> impl Strategy<Value = String> {
    let months = &["JAN", "feb", "Mar-MAY", "nov-feb", "2-apr"];
    let days = &["SUN", "mon", "fri-Mon", "0-7", "5-mon", "tue-4/2"];
    let fields = (field(0, 59, &["*"]), field(0, 23, &["22-3"]), field(1, 31, &["29-31"]), field(1, 12, months), field(0, 7, days));
    (fields, 0u32..12).prop_map(|((minute, hour, day, month, weekday), form)| match form {
        0 => format!("{minute} {hour} {day} {month}"),
        1 => format!(" {minute}\t{hour}  {day} {month} {weekday} "),
        2 => format!("{minute} {hour} {day} {month} {weekday} *"),
        _ => format!("{minute} {hour} {day} {month} {weekday}"),
    })
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn ids_are_plain_names_or_are_refused(given in text()) {
        match RunId::parse(&given) {
            Ok(id) => {
                prop_assert_eq!(id.as_str(), &given);
                prop_assert!(!given.is_empty() && given.len() <= 128 && !given.starts_with('.') && !given.contains('/'));
                comes_back(&id)?;
                prop_assert_eq!(WorkerId::of(&given, "1").is_ok(), given.len() <= 126);
            }
            Err(refused) => is_one_sentence(&refused.to_string())?,
        }
    }

    #[test]
    fn times_come_back(micros in any::<i64>(), given in text(), offset in -86_399i32..86_400) {
        let at = Timestamp::from_micros(micros);
        comes_back(&at)?;
        let local = chrono::FixedOffset::east_opt(offset).unwrap();
        let shown = at.to_datetime().with_timezone(&local).to_rfc3339();
        // RFC 3339 has no seconds in an offset, and four digits for a year.
        if offset % 60 == 0 && shown.len() <= 32 && !shown.starts_with(['-', '+']) {
            prop_assert_eq!(Timestamp::parse(&shown).unwrap(), at, "{}", shown);
        }
        if let Ok(at) = Timestamp::parse(&given) {
            comes_back(&at)?;
        }
    }

    #[test]
    fn spans_come_back(seconds in prop_oneof![any::<f64>(), 0.0..4e9, 0.0..1.0], micros in 0u64..3_162_240_000_000_000) {
        if let Some(span) = Seconds::from_f64(seconds) {
            prop_assert!(span <= Seconds::MAX);
            comes_back(&span)?;
        }
        comes_back(&Seconds::from_duration(Duration::from_micros(micros)))?;
    }

    #[test]
    fn cron_expressions_are_walked_or_refused(given in prop_oneof![4 => expression(), 1 => text()], from in any::<i64>()) {
        match Cron::parse(&given) {
            Ok(cron) => {
                prop_assert_eq!(cron.expression(), &given);
                for zone in ["UTC", "America/New_York", "Australia/Lord_Howe", "Pacific/Apia"] {
                    let schedule = schedule(json!({"type": "cron", "expression": given, "timezone": zone})).unwrap();
                    comes_back(&schedule)?;
                    is_walked(&schedule, Timestamp::from_micros(from))?;
                }
            }
            Err(refused) => is_one_sentence(&refused.to_string())?,
        }
    }

    #[test]
    fn templates_make_workspaces_of_their_own_or_are_refused(given in text(), agent in "[a-z0-9_.-]{1,40}", task in "[a-z0-9_.-]{1,40}") {
        let template = if given.len() % 2 == 0 { given } else { format!("{given}/{{run_id}}") };
        let (Ok(agent), Ok(task)) = (AgentId::parse(&agent), TaskId::parse(&task)) else { return Ok(()) };
        match WorkspacePolicy::fault_of_template(&template) {
            Some(fault) => is_one_sentence(&fault)?,
            None => {
                let policy = WorkspacePolicy { namespace_template: template, ..WorkspacePolicy::default() };
                let path = policy.path_of(&agent, &task, &RunId::parse("run_1").unwrap());
                prop_assert!(path.ends_with("/run_1") && !path.contains(['{', '}']), "{}", path);
                prop_assert!(path.split('/').all(|part| !part.is_empty() && !part.starts_with('.')), "{}", path);
            }
        }
    }
}

proptest! {
    #![proptest_config(cases(1500))]

    #[test]
    fn tasks_are_accepted_whole_or_refused_with_the_field(body in changed(tasks()), now in any::<i64>()) {
        match Task::parse(body.clone(), &agent(), None, NOW) {
            Ok(task) => {
                comes_back(&task)?;
                is_walked(&task.schedule, NOW)?;
                is_walked(&task.schedule, Timestamp::from_micros(now))?;
                // What is shown is what can be given.
                let mut shown = serde_json::to_value(&task).unwrap();
                for added in ["created_at", "updated_at", "source"] {
                    shown.as_object_mut().unwrap().shift_remove(added);
                }
                let again = Task::parse(shown.clone(), &agent(), None, NOW).map_err(|faults| TestCaseError::fail(format!("{shown}: {faults}")))?;
                prop_assert!(again.same_as(&task), "{} is {:?}", shown, again);
            }
            Err(faults) => {
                are_sentences(&faults)?;
                if body.is_object() {
                    prop_assert!(faults.iter().all(|fault| !fault.field.is_empty()), "{}", faults);
                }
            }
        }
    }

    #[test]
    fn a_patch_changes_what_it_names_or_nothing(which in 0usize..7, patch in changed(tasks())) {
        let task = Task::parse(tasks().swap_remove(which), &agent(), None, NOW).unwrap();
        let mut patch = patch;
        if let Some(fields) = patch.as_object_mut() {
            fields.shift_remove("task_id");
            fields.shift_remove("agent_id");
        }
        match task.patched(patch.clone(), NOW) {
            Ok(after) => {
                comes_back(&after)?;
                prop_assert_eq!((&after.task_id, &after.agent_id, after.created_at), (&task.task_id, &task.agent_id, task.created_at));
                prop_assert!(after.patched(patch, NOW).unwrap().same_as(&after), "a patch is not the same the second time");
            }
            Err(faults) => are_sentences(&faults)?,
        }
    }

    #[test]
    fn any_json_is_read_or_refused(body in value()) {
        match Task::parse(body.clone(), &agent(), None, NOW) {
            Ok(task) => comes_back(&task)?,
            Err(faults) => are_sentences(&faults)?,
        }
        if let Err(faults) = schedule(body) {
            are_sentences(&faults)?;
        }
    }
}

proptest! {
    #![proptest_config(cases(200))]

    #[test]
    fn zones_are_known_or_refused(given in text()) {
        match schedule(json!({"type": "manual", "timezone": given})) {
            Ok(schedule) => comes_back(&schedule)?,
            Err(faults) => are_sentences(&faults)?,
        }
    }
}

#[test]
fn the_farthest_occurrence_is_found_in_bounded_work() {
    // The rarest dates that an expression can name: 29 February on one weekday, over the centuries that have none.
    for (expression, from) in
        [("0 0 29 2 */7", "1872-03-01T00:00:00Z"), ("59 23 29 2 */6", "2096-03-01T00:00:00Z"), ("0 0 29 FEB *", "9997-01-01T00:00:00Z")]
    {
        for zone in ["UTC", "Pacific/Apia", "Africa/Casablanca"] {
            let schedule = schedule(json!({"type": "cron", "expression": expression, "timezone": zone})).unwrap();
            let mut at = schedule.first(Timestamp::parse(from).unwrap());
            let mut found = 0;
            while let Some(now) = at.filter(|_| found < 300) {
                found += 1;
                at = schedule.next(now);
            }
            assert!(found == 300 || at.is_none());
        }
    }
}
