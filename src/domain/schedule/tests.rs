use proptest::prelude::*;
use proptest::sample::select;
use serde_json::{Value, json};

use super::*;
use crate::domain::input::{Faults, Fields};

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap_or_else(|error| panic!("{text}: {error}"))
}

fn read(value: Value) -> Result<Schedule, Faults> {
    let mut faults = Faults::new();
    let schedule = Schedule::parse(Fields::open("schedule", value, &mut faults));
    faults.into_result(())?;
    Ok(schedule.expect("a schedule where there is no fault"))
}

fn schedule(value: Value) -> Schedule {
    read(value.clone()).unwrap_or_else(|faults| panic!("{value}: {faults}"))
}

/// The fields with faults, in order.
fn faulty(value: Value) -> Vec<String> {
    let faults = read(value.clone()).expect_err(&value.to_string());
    faults.iter().map(|fault| fault.field.trim_start_matches("schedule.").to_owned()).collect()
}

fn task() -> TaskId {
    TaskId::parse("t").unwrap()
}

fn moment(now: Timestamp) -> Moment {
    Moment { now, jitter: Duration::ZERO, grace: Duration::from_secs(60), batch: 100 }
}

#[test]
fn json_is_the_seeds_with_its_nine_keys_in_order() {
    assert_eq!(
        serde_json::to_string(&schedule(json!({"type": "manual"}))).unwrap(),
        r#"{"type":"manual","seconds":null,"expression":null,"run_at":null,"timezone":"UTC","start_at":null,"end_at":null,"jitter_seconds":null,"misfire_policy":"run_once"}"#
    );
    assert_eq!(Schedule::manual(), schedule(json!({"type": "manual"})));
    let full = schedule(json!({
        "type": "interval", "seconds": 0.25, "timezone": "Europe/Berlin", "start_at": "2026-01-01T00:00:00",
        "end_at": "2026-12-31T23:59:59.5+00:00", "jitter_seconds": 3, "misfire_policy": "bounded", "max_catch_up": 7
    }));
    assert_eq!(
        serde_json::to_string(&full).unwrap(),
        concat!(
            r#"{"type":"interval","seconds":0.25,"expression":null,"run_at":null,"timezone":"Europe/Berlin","start_at":"2025-12-31T23:00:00.000000Z","#,
            r#""end_at":"2026-12-31T23:59:59.500000Z","jitter_seconds":3,"misfire_policy":"bounded","max_catch_up":7}"#
        )
    );
}

#[test]
fn what_was_written_is_read_back() {
    for value in [
        json!({"type": "manual", "start_at": "2026-01-01T00:00:00Z", "jitter_seconds": 0}),
        json!({"type": "interval", "seconds": 3600, "misfire_policy": "queue_all", "max_catch_up": 5}),
        json!({"type": "cron", "expression": " 0 9 * * MON ", "timezone": "America/New_York"}),
        json!({"type": "once", "run_at": "2020-01-01T00:00:00Z", "timezone": "EST5EDT"}),
    ] {
        let before = schedule(value);
        let text = serde_json::to_string(&before).unwrap();
        assert_eq!(serde_json::from_str::<Schedule>(&text).unwrap(), before);
        assert_eq!(schedule(serde_json::from_str(&text).unwrap()), before, "its own JSON is a valid input, nulls and all");
    }
    for text in [
        r#"{"type":"interval","timezone":"UTC","misfire_policy":"run_once"}"#,
        r#"{"type":"cron","expression":"61 * * * *","timezone":"UTC","misfire_policy":"run_once"}"#,
        r#"{"type":"manual","timezone":"Mars/Base","misfire_policy":"run_once"}"#,
    ] {
        assert!(serde_json::from_str::<Schedule>(text).is_err(), "{text}");
    }
}

#[test]
fn every_fault_is_reported() {
    assert_eq!(faulty(json!({})), ["type"]);
    assert_eq!(faulty(json!({"type": "hourly"})), ["type"]);
    assert_eq!(
        faulty(json!({"type": "manual", "seconds": 1, "expression": "* * * * *", "run_at": "2026-01-01T00:00:00Z"})),
        ["seconds", "expression", "run_at"]
    );
    assert_eq!(faulty(json!({"type": "interval", "seconds": 5, "expression": "* * * * *"})), ["expression"]);
    assert_eq!(faulty(json!({"type": "interval", "seconds": null})), ["seconds"]);
    assert_eq!(faulty(json!({"type": "cron", "expression": null})), ["expression"]);
    assert_eq!(faulty(json!({"type": "once"})), ["run_at"]);
    for seconds in [json!(0), json!(-1), json!(0.0009), json!(1e300), json!("5"), json!(true)] {
        assert_eq!(faulty(json!({"type": "interval", "seconds": seconds})), ["seconds"]);
    }
    for expression in ["61 * * * *", "0 0 30 2 *", "* * * *", "@reboot", ""] {
        assert_eq!(faulty(json!({"type": "cron", "expression": expression})), ["expression"]);
    }
    for time in [json!("tomorrow"), json!(5), json!("2026-02-30T00:00:00"), json!("2026-01-01"), json!("9999-12-31T23:59:59"), json!({})] {
        assert_eq!(faulty(json!({"type": "once", "run_at": time})), ["run_at"]);
    }
    assert_eq!(
        faulty(json!({
            "type": "cron", "expression": "x", "timezone": "utc", "start_at": "2026-01-02T00:00:00Z", "end_at": "2026-01-02T00:00:00Z",
            "jitter_seconds": -1, "misfire_policy": "never", "colour": "red"
        })),
        ["timezone", "expression", "jitter_seconds", "misfire_policy", "end_at", "colour"]
    );
    assert_eq!(faulty(json!({"type": "manual", "misfire_policy": "bounded"})), ["max_catch_up"]);
    assert_eq!(faulty(json!({"type": "manual", "misfire_policy": "bounded", "max_catch_up": 0})), ["max_catch_up"]);
    assert_eq!(faulty(json!({"type": "manual", "max_catch_up": 3})), ["max_catch_up"]);
}

#[test]
fn a_schedule_that_could_never_run_is_refused() {
    let end = "2026-06-01T00:00:00Z";
    assert_eq!(faulty(json!({"type": "once", "run_at": "2026-06-01T00:00:01Z", "end_at": end})), ["end_at"]);
    assert_eq!(faulty(json!({"type": "once", "run_at": "2026-06-01T00:00:01Z", "start_at": "2026-06-01T00:00:02Z"})), ["start_at"]);
    assert_eq!(faulty(json!({"type": "cron", "expression": "@yearly", "start_at": "2026-02-01T00:00:00Z", "end_at": end})), ["end_at"]);
    schedule(json!({"type": "once", "run_at": end, "end_at": end}));
}

#[test]
fn an_unknown_zone_is_met_with_the_nearest_name() {
    for (given, meant) in
        [("utc", "`UTC`"), ("berlin", "Europe/Berlin"), ("america/new york", "America/New_York"), ("Europe/Berln", "Europe/Berlin")]
    {
        let message = read(json!({"type": "manual", "timezone": given})).unwrap_err().to_string();
        assert!(message.contains(meant), "{given}: {message}");
    }
    assert!(read(json!({"type": "manual", "timezone": "\n"})).unwrap_err().to_string().contains(r"`\n` is not"));
    assert_eq!(faulty(json!({"type": "manual", "timezone": 3})), ["timezone"]);
}

#[test]
fn w_28_a_time_without_an_offset_is_in_the_schedules_zone() {
    let run_at = |zone: &str, text: &str| match schedule(json!({"type": "once", "run_at": text, "timezone": zone})).timing {
        Timing::Once { run_at } => run_at.to_string(),
        _ => unreachable!(),
    };
    assert_eq!(run_at("America/New_York", "2026-07-01T09:00:00"), "2026-07-01T13:00:00.000000Z");
    assert_eq!(run_at("America/New_York", "2026-07-01 09:00"), "2026-07-01T13:00:00.000000Z");
    assert_eq!(run_at("America/New_York", "2026-07-01T09:00:00.5+02:00"), "2026-07-01T07:00:00.500000Z");
    assert_eq!(run_at("America/New_York", "2026-03-08T02:30:00"), "2026-03-08T07:00:00.000000Z", "in the gap: its end");
    assert_eq!(run_at("America/New_York", "2026-11-01T01:30:00"), "2026-11-01T05:30:00.000000Z", "in the repeated hour: the first");
}

#[test]
fn w_28_an_interval_is_anchored_and_keeps_its_phase() {
    let now = at("2026-01-01T00:00:10Z");
    let anchored = |start: &str| schedule(json!({"type": "interval", "seconds": 60, "start_at": start})).first(now);
    assert_eq!(anchored("2026-01-01T00:05:00Z"), Some(at("2026-01-01T00:05:00Z")), "the first is at start_at itself");
    assert_eq!(anchored("2025-12-31T23:59:30Z"), Some(at("2026-01-01T00:00:30Z")), "a past start_at gives the phase");
    assert_eq!(anchored("2025-12-31T23:59:10Z"), Some(now));
    let free = schedule(json!({"type": "interval", "seconds": 0.1, "end_at": "2026-01-01T00:00:10.250Z"}));
    let first = free.first(now).unwrap();
    assert_eq!(first, at("2026-01-01T00:00:10.1Z"));
    // The dispatch is late, the next occurrence is not.
    assert_eq!(free.due(first, &moment(at("2026-01-01T00:00:10.17Z"))).next, Some(at("2026-01-01T00:00:10.2Z")));
    assert_eq!(free.next(at("2026-01-01T00:00:10.2Z")), None, "not after end_at");
    let long = schedule(json!({"type": "interval", "seconds": 3_000_000_000u64}));
    assert_eq!(long.next(at("9990-01-01T00:00:00Z")), None, "not after the calendar");
}

#[test]
fn w_28_cron_respects_its_window_and_once_too() {
    let cron = schedule(json!({
        "type": "cron", "expression": "0 * * * *", "start_at": "2026-01-01T05:00:00Z", "end_at": "2026-01-01T06:00:00Z"
    }));
    let start = at("2026-01-01T05:00:00Z");
    assert_eq!(cron.first(at("2026-01-01T00:00:00Z")), Some(start), "start_at itself is inside");
    assert_eq!(cron.first(start), Some(at("2026-01-01T06:00:00Z")), "strictly after now");
    assert_eq!(cron.next(start), Some(at("2026-01-01T06:00:00Z")));
    assert_eq!(cron.next(at("2026-01-01T06:00:00Z")), None);
    let once = schedule(json!({"type": "once", "run_at": "2020-01-01T00:00:00Z"}));
    assert_eq!(once.first(start), Some(at("2020-01-01T00:00:00Z")), "also when it has passed");
    assert_eq!(once.next(at("2020-01-01T00:00:00Z")), None);
    assert_eq!(Schedule::manual().first(start), None);
}

#[test]
fn w_28_jitter_differs_by_task_stays_in_its_bounds_and_does_not_add_up() {
    let jittery = schedule(json!({"type": "interval", "seconds": 60, "jitter_seconds": 10}));
    let mut seen = std::collections::BTreeSet::new();
    let mut upper_half = 0;
    for number in 0..200 {
        let task = TaskId::parse(&format!("task-{number}")).unwrap();
        let jitter = jittery.jitter_of(&task, "a", at("2026-01-01T00:00:00Z"));
        assert!(jitter <= Duration::from_secs(10));
        assert_eq!(jitter, jittery.jitter_of(&task, "a", at("2026-01-01T00:00:00Z")), "the same whenever it is asked");
        upper_half += u32::from(jitter > Duration::from_secs(5));
        seen.insert(jitter);
    }
    assert!(seen.len() > 190 && (60..140).contains(&upper_half), "{} {upper_half}", seen.len());
    assert!(seen.iter().any(|jitter| jitter.subsec_micros() != 0));
    assert_eq!(jittery.next(at("2026-01-01T00:00:00Z")), Some(at("2026-01-01T00:01:00Z")), "the phase knows no jitter");
    // Jitter longer than the interval would make occurrences overtake one another.
    let wild = schedule(json!({"type": "interval", "seconds": 1, "jitter_seconds": 3600}));
    assert!((0..50).all(|n| wild.jitter_of(&task(), "a", Timestamp::from_seconds(n)) <= Duration::from_secs(1)));
    assert_eq!(Schedule::manual().jitter_of(&task(), "a", Timestamp::MAX), Duration::ZERO);
}

#[test]
fn jitter_is_no_lateness() {
    let jittery = schedule(json!({"type": "interval", "seconds": 1, "jitter_seconds": 1, "misfire_policy": "skip_missed"}));
    let mut state = ScheduleState::new(task(), "a".into(), &jittery, Timestamp::from_seconds(0));
    for _ in 0..500 {
        let now = state.due_at().unwrap();
        let due = state.due(&jittery, now, Duration::ZERO, 10);
        assert_eq!((due.fire.as_slice(), due.skipped), ([state.next_nominal_at.unwrap()].as_slice(), None));
        state = state.dispatched(&jittery, &due, now).state;
    }
    assert_eq!(state.totals, Totals { occurrences: 500, runs: 500, skipped: 0 });
    assert_eq!(state.last_due_at, Some(Timestamp::from_seconds(500)));
}

#[test]
fn each_misfire_policy_decides_about_two_weeks_off() {
    let (first, now) = (at("2026-01-01T00:00:00Z"), at("2026-01-15T00:00:00.0005Z"));
    let due = |policy: &str, bound: Value| {
        let timing = json!({"type": "interval", "seconds": 0.001, "misfire_policy": policy, "max_catch_up": bound});
        schedule(timing).due(first, &moment(now))
    };
    let all = 14 * 86_400_000 + 1;
    let last = at("2026-01-15T00:00:00Z");
    let milli = Duration::from_millis(1);

    let once = due("run_once", Value::Null);
    assert_eq!((once.fire, once.next, once.more), (vec![last], Some(last + milli), false));
    assert_eq!(once.skipped, Some(Skipped { first, last: last - milli, count: all - 1, reason: SkipReason::Missed }));

    let skip = due("skip_missed", Value::Null);
    let kept = last - Duration::from_secs(60) + milli;
    assert_eq!(skip.skipped, Some(Skipped { first, last: kept - milli, count: all - 60_000, reason: SkipReason::Missed }));
    assert_eq!((skip.fire.len(), skip.fire.first().copied(), skip.more), (100, Some(kept), true));
    assert_eq!(skip.next, Some(kept + milli * 100), "what does not fit in the batch is left for the next pass");

    let queue = due("queue_all", Value::Null);
    assert_eq!(queue.skipped.map(|range| (range.count, range.reason)), Some((all - 1000, SkipReason::Bound)));
    assert_eq!(queue.fire.first().copied(), Some(last - milli * 999));
    let bounded = due("bounded", json!(3));
    assert_eq!(bounded.skipped.map(|range| range.count), Some(all - 3));
    assert_eq!((bounded.fire.len(), bounded.fire.last().copied(), bounded.more), (3, Some(last), false));
}

#[test]
fn nothing_is_due_before_its_time_and_a_late_once_runs_or_is_missed() {
    let first = at("2026-01-01T00:00:00Z");
    let every = schedule(json!({"type": "interval", "seconds": 5}));
    let early = every.due(first, &moment(first - Duration::from_micros(1)));
    assert_eq!(early, Due { next: Some(first), ..Due::default() });
    assert_eq!(every.due(first, &moment(first)).fire, [first]);
    let once = |policy: &str| {
        schedule(json!({"type": "once", "run_at": "2026-01-01T00:00:00Z", "misfire_policy": policy}))
            .due(first, &moment(first + Duration::from_secs(61)))
    };
    assert_eq!(once("run_once"), Due { fire: vec![first], ..Due::default() });
    let missed = Skipped { first, last: first, count: 1, reason: SkipReason::Missed };
    assert_eq!(once("skip_missed"), Due { skipped: Some(missed), ..Due::default() });
}

#[test]
fn an_occurrence_is_missed_when_it_is_later_than_the_grace() {
    let first = at("2026-01-01T00:00:00Z");
    let once = schedule(json!({"type": "once", "run_at": first, "misfire_policy": "skip_missed"}));
    let late = |micros: u64| once.due(first, &moment(first + Duration::from_micros(micros))).fire.len();
    assert_eq!((late(60_000_000), late(60_000_001)), (1, 0));
}

#[test]
fn what_was_due_before_the_end_is_decided_after_it() {
    let first = at("2026-01-01T00:00:00Z");
    let end = at("2026-01-01T01:00:00Z");
    for timing in
        [json!({"type": "interval", "seconds": 60, "end_at": end}), json!({"type": "cron", "expression": "* * * * *", "end_at": end})]
    {
        let due = schedule(timing).due(first, &moment(at("2026-02-01T00:00:00Z")));
        assert_eq!((due.fire, due.next, due.more), (vec![end], None, false));
        assert_eq!(due.skipped.map(|range| (range.last, range.count)), Some((end - Duration::from_secs(60), 60)));
    }
}

#[test]
fn w_19_an_edit_keeps_the_pause_and_a_resume_moves_past_now() {
    let hourly = schedule(json!({"type": "cron", "expression": "@hourly", "misfire_policy": "queue_all"}));
    let daily = schedule(json!({"type": "cron", "expression": "@daily", "misfire_policy": "queue_all"}));
    let state = ScheduleState::new(task(), "a".into(), &hourly, at("2026-01-01T00:30:00Z"));
    assert_eq!(state.due_at(), Some(at("2026-01-01T01:00:00Z")));
    let state = state.paused(Some("no plugin".into()), at("2026-01-01T00:40:00Z"));
    assert_eq!(state.due_at(), None);
    let later = at("2026-01-01T05:30:00Z");
    assert_eq!(state.due(&hourly, later, Duration::ZERO, 9).fire, []);

    let edited = state.edited(&hourly, &daily, later);
    assert!(edited.state.paused && edited.state.paused_reason.is_some());
    assert_eq!((edited.state.schedule_revision, edited.state.next_nominal_at), (2, Some(at("2026-01-02T00:00:00Z"))));
    assert_eq!(edited.skipped.map(|range| (range.count, range.reason)), Some((5, SkipReason::Paused)));

    let resumed = edited.state.resumed(&daily, at("2026-01-04T10:00:00Z"));
    assert_eq!(resumed.state.due_at(), Some(at("2026-01-05T00:00:00Z")));
    assert!(!resumed.state.paused && resumed.state.paused_reason.is_none());
    let range = resumed.skipped.unwrap();
    assert_eq!((range.first, range.last, range.count), (at("2026-01-02T00:00:00Z"), at("2026-01-04T00:00:00Z"), 3));
    assert_eq!(resumed.state.totals, Totals { occurrences: 8, runs: 0, skipped: 8 });
    let again = resumed.state.resumed(&daily, at("2027-01-01T00:00:00Z"));
    assert_eq!(again, Advance { state: resumed.state, skipped: None }, "only what is paused is resumed");
}

#[test]
fn what_is_due_when_a_task_is_disabled_or_edited_is_in_a_range() {
    let every = schedule(json!({"type": "interval", "seconds": 10}));
    let state = ScheduleState::new(task(), "a".into(), &every, Timestamp::from_seconds(0));
    let enabled = state.enabled(&every, Timestamp::from_seconds(35));
    assert_eq!(enabled.skipped.map(|range| (range.count, range.reason)), Some((3, SkipReason::Disabled)));
    assert_eq!(enabled.state.next_nominal_at, Some(Timestamp::from_seconds(40)), "the phase stays");
    assert_eq!(state.edited(&every, &every, Timestamp::from_seconds(15)).skipped.map(|range| range.reason), Some(SkipReason::Missed));
    let narrowed = schedule(json!({"type": "interval", "seconds": 10, "start_at": "1970-01-01T00:00:30Z"}));
    let edited = state.edited(&every, &narrowed, Timestamp::from_seconds(15));
    assert_eq!(edited.skipped.map(|range| range.reason), Some(SkipReason::OutsideWindow));
    assert_eq!(edited.state.next_due_at, Some(Timestamp::from_seconds(30)));
}

#[test]
fn the_states_json_has_the_seeds_keys_first() {
    let state = ScheduleState::new(task(), "i1".into(), &Schedule::manual(), Timestamp::from_seconds(0));
    let text = serde_json::to_string(&state).unwrap();
    assert!(
        text.starts_with(concat!(
            r#"{"task_id":"t","next_due_at":null,"last_due_at":null,"last_dispatched_at":null,"paused":false,"paused_reason":null,"#,
            r#""schedule_revision":1,"misfire_cursor":null,"updated_at":"1970-01-01T00:00:00.000000Z","#
        )),
        "{text}"
    );
    assert_eq!(serde_json::from_str::<ScheduleState>(&text).unwrap(), state);
}

proptest! {
    #[test]
    fn whatever_comes_in_is_refused_or_works_to_the_ends_of_the_calendar(
        timing in select(vec![
            json!({"type": "manual"}), json!({"type": "interval", "seconds": 0.001}), json!({"type": "interval", "seconds": 3_162_240_000u64}),
            json!({"type": "cron", "expression": "* * * * *"}), json!({"type": "cron", "expression": "0 0 29 2 *"}),
            json!({"type": "cron", "expression": "30 2 * * *"}), json!({"type": "once", "run_at": "0001-01-01T00:00:00Z"}),
            json!({"type": "once", "run_at": "2026-03-08T02:30:00"}), json!({"type": "once", "run_at": "9999-12-31T23:59:59.999999Z"}),
            json!({"type": "interval", "seconds": f64::MAX}), json!({"type": "cron", "expression": "\u{7f} * * * *"}), json!({"type": []}),
        ]),
        times in proptest::collection::vec(
            select(vec![
                Value::Null, Value::Null, json!("0001-01-01T00:00:00Z"), json!("9999-12-31T23:59:59.999999Z"), json!("9999-12-29T00:00:00"),
                json!("0001-01-04T00:00"), json!("2026-03-08T02:30:00"), json!("0000-00-00T00:00:00Z"), json!("+262142-01-01T00:00:00"),
            ]),
            2,
        ),
        zone in select(vec!["UTC", "Pacific/Apia", "America/New_York", "Asia/Manila", "Africa/Monrovia", "../etc"]),
        jitter in select(vec![Value::Null, json!(0), json!(3_162_240_000u64)]),
        policy in select(vec![json!("run_once"), json!("skip_missed"), json!("queue_all"), json!("x")]),
        now in select(vec![Timestamp::MIN, Timestamp::from_seconds(1_772_955_000), Timestamp::MAX]),
    ) {
        let mut value = timing;
        for (name, given) in [("start_at", &times[0]), ("end_at", &times[1]), ("jitter_seconds", &jitter), ("misfire_policy", &policy)] {
            value[name] = given.clone();
        }
        value["timezone"] = zone.into();
        let read = read(value);
        let Ok(schedule) = read else { return Ok(()) };
        let mut state = ScheduleState::new(task(), "i".into(), &schedule, now);
        for now in [now, now + Duration::from_secs(100_000)] {
            let due = state.due(&schedule, now, Duration::ZERO, 3);
            let advance = state.dispatched(&schedule, &due, now);
            let counted = advance.skipped.map_or(0, |range| range.count) + due.fire.len() as u64;
            prop_assert!(state.due_at().is_none_or(|due_at| due_at > now) || counted > 0, "what is due is decided");
            prop_assert!(advance.state.next_nominal_at.is_none() || advance.state.next_nominal_at >= state.next_nominal_at);
            state = advance.state;
        }
    }
}

#[test]
fn occurrences_that_a_budget_holds_back_one_after_the_other_are_one_range() {
    let every = schedule(json!({"type": "interval", "seconds": 10}));
    let state = ScheduleState::new(TaskId::parse("t").unwrap(), "i".into(), &every, Timestamp::from_seconds(0));
    let skip = |state: &ScheduleState, at: i64| {
        let nominal = state.next_nominal_at.unwrap();
        let due = Due { fire: Vec::new(), skipped: None, next: every.next(nominal), ..Due::default() };
        let refused = Skipped { first: nominal, last: nominal, count: 1, reason: SkipReason::Budget };
        state.dispatched(&every, &due, Timestamp::from_seconds(at)).state.refused(Some(refused), Timestamp::from_seconds(at))
    };
    let first = skip(&state, 10).joined(None);
    let one = first.skipped.unwrap();
    assert_eq!(first.state.out_of_budget, Some((one.first, one.at)));
    let second = skip(&first.state, 20).joined(Some(&one));
    let both = second.skipped.unwrap();
    assert_eq!((both.first, both.at, both.count), (one.first, one.at, 2));
    assert_eq!((second.state.totals.skipped, second.state.totals.occurrences), (2, 2));
    // Whatever else happens to the schedule ends the range.
    assert_eq!(second.state.enabled(&every, Timestamp::from_seconds(45)).state.out_of_budget, None);
}
