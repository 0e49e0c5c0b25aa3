use serde_json::{Value, json};

use super::*;
use crate::domain::id::RunId;
use crate::domain::input::{Faults, Fields};
use crate::domain::time::Timestamp;

fn standing(scope: BudgetScope, allowance: Allowance, spent: Spend) -> Standing {
    Standing { scope, allowance, granted: Spend::default(), spent }
}

fn calls(calls: u64) -> Spend {
    Spend { calls, ..Spend::default() }
}

fn at(text: &str) -> Timestamp {
    Timestamp::parse(text).unwrap()
}

fn read(value: Value) -> Result<Budget, String> {
    let mut faults = Faults::new();
    let budget = read_task_budget(Fields::open("budget", value, &mut faults));
    faults.into_result(budget).map_err(|faults| faults.to_string())
}

#[test]
fn a_task_says_less_than_its_agent_and_never_more() {
    let task = read(json!({"run": {"tokens": 5}, "task": {"money": 0.5}})).unwrap();
    let agent = Budget {
        run: Allowance { tokens: Some(100), calls: Some(7), ..Allowance::default() },
        day: Allowance { calls: Some(9), ..Allowance::default() },
        ..Budget::default()
    };
    let both = task.within(&agent);
    let more = read(json!({"run": {"tokens": 101, "calls": 8}})).unwrap().within(&agent);
    assert_eq!((more.run.tokens, more.run.calls), (Some(100), Some(7)));
    assert_eq!((both.run.tokens, both.run.calls, both.day.calls), (Some(5), Some(7), Some(9)));
    assert_eq!(both.task.money, Money::from_units(0.5));
    assert_eq!(serde_json::from_value::<Budget>(serde_json::to_value(both).unwrap()).unwrap(), both);
}

#[test]
fn limits_of_nothing_and_unknown_meters_are_refused_each_at_its_field() {
    for (bad, field) in [
        (json!({"run": {"tokens": 0}}), "budget.run.tokens"),
        (json!({"task": {"wall_seconds": 0}}), "budget.task.wall_seconds"),
        (json!({"task": {"money": -1}}), "budget.task.money"),
        (json!({"run": {"money": 0}}), "budget.run.money"),
        (json!({"run": {"calls": MOST_COUNTED + 1}}), "budget.run.calls"),
        (json!({"run": {"token": 5}}), "budget.run.token"),
        (json!({"week": {}}), "budget.week"),
        (json!({"day": {"calls": 1}}), "budget.day"),
    ] {
        let told = read(bad).unwrap_err();
        assert!(told.starts_with(field), "{told}");
    }
}

#[test]
fn a_budget_is_at_its_end_when_as_much_as_its_limit_is_spent() {
    let allowance = Allowance { calls: Some(3), ..Allowance::default() };
    let of = |spent| standing(BudgetScope::Task, allowance, spent);
    assert_eq!(exhausted(&[of(calls(2))], &Spend::default()), None);
    let told = exhausted(&[of(calls(2))], &calls(1)).unwrap();
    assert_eq!((told.limit, told.spent, told.meter), (3, 3, Meter::Calls));
    let granted = Standing { granted: calls(2), ..of(calls(3)) };
    assert_eq!((exhausted(&[granted], &Spend::default()), granted.left(Meter::Calls)), (None, Some(2)));
    assert_eq!(granted.left(Meter::Tokens), None);
}

#[test]
fn only_a_grant_or_another_day_gives_more_than_what_was_met() {
    let allowance = Allowance { calls: Some(3), wall_seconds: Some(Seconds::whole(2)), ..Allowance::default() };
    let met = Exhausted { scope: BudgetScope::Day, meter: Meter::Calls, limit: 3, spent: 3 };
    let of = |scope, spent| standing(scope, allowance, spent);
    assert!(!of(BudgetScope::Day, calls(3)).has_more_than(&met));
    assert!(of(BudgetScope::Day, calls(0)).has_more_than(&met), "the day is another");
    assert!(Standing { granted: calls(1), ..of(BudgetScope::Day, calls(3)) }.has_more_than(&met));
    assert!(!of(BudgetScope::Task, calls(0)).has_more_than(&met));
    let time = Exhausted { meter: Meter::WallSeconds, limit: 2_000_000, spent: 2_000_000, ..met };
    assert!(!of(BudgetScope::Day, calls(0)).has_more_than(&time), "an attempt that is known less exactly must not go round and round");
}

#[test]
fn a_run_whose_calls_are_spent_may_begin_another_attempt_and_one_without_time_may_not() {
    let allowance = Allowance { calls: Some(1), cpu_seconds: Some(Seconds::whole(1)), ..Allowance::default() };
    let run = standing(BudgetScope::Run, allowance, calls(1));
    assert_eq!(exhausted_at_start(&[run]), None);
    assert!(exhausted_at_start(&[Standing { scope: BudgetScope::Task, ..run }]).is_some());
    let slow = Spend { cpu_seconds: Seconds::whole(2), ..Spend::default() };
    let told = exhausted_at_start(&[Standing { spent: slow, ..run }]).unwrap();
    assert_eq!((told.meter, told.spent), (Meter::CpuSeconds, 2_000_000));
}

#[test]
fn the_least_that_is_left_counts() {
    let of = |seconds| Allowance { wall_seconds: Some(Seconds::whole(seconds)), ..Allowance::default() };
    let spent = Spend { wall_seconds: Seconds::whole(4), ..Spend::default() };
    let (run, day) = (standing(BudgetScope::Run, of(10), spent), standing(BudgetScope::Day, of(6), spent));
    let (tight, left) = tightest(&[run, day], Meter::WallSeconds).unwrap();
    assert_eq!((tight.scope, left), (BudgetScope::Day, 2_000_000));
    assert!(tightest(&[run, day], Meter::Calls).is_none());
}

#[test]
fn an_attempt_is_charged_once_and_pays_the_rest_at_its_end() {
    let mut account = RunAccount::new(RunId::parse("run_1").unwrap());
    account.charge(5, 1, calls(1));
    assert!(account.has_charged(5, 1) && !account.has_charged(5, 2) && account.has_charged(4, 9));
    account.charge(5, 2, Spend { tokens: 100, ..Spend::default() });
    let rest = account.settle(5, Spend { calls: 1, tokens: 120, bytes: 7, ..Spend::default() });
    assert_eq!(rest, Spend { tokens: 20, bytes: 7, ..Spend::default() });
    assert!(account.has_charged(5, u64::MAX - 1), "whatever comes late is in the rest");
    // What was charged and is not among what it is known to have used stays.
    assert_eq!(account.settle(6, calls(2)), calls(2));
    assert_eq!(account.spent, Spend { calls: 3, tokens: 120, bytes: 7, ..Spend::default() });
}

#[test]
fn a_day_ends_at_midnight_in_utc_and_a_clock_that_is_set_back_opens_no_new_one() {
    let (evening, morning) = (at("2026-11-23T23:59:59.5Z"), at("2026-11-24T00:00:00Z"));
    assert_eq!((Day::end_of(evening), Day::end_of(morning)), (morning, at("2026-11-25T00:00:00Z")));
    let mut part = Part::default();
    let more = Used { spent: calls(1), ..Used::default() };
    part.add_on_day(more, evening);
    assert_eq!(part.on_day(morning), Spend::default());
    part.add_on_day(more, morning);
    part.add_on_day(more, evening);
    assert_eq!((part.on_day(morning), part.on_day(evening), part.used.spent), (calls(2), calls(2), calls(3)));
    let json = serde_json::to_value(&part).unwrap();
    assert_eq!((&json["calls"], &json["day"]["day"]), (&json!(3), &json!("2026-11-24")));
    assert_eq!(serde_json::from_value::<Part>(json).unwrap(), part);
}

#[test]
fn a_clock_that_was_years_ahead_leaves_neither_what_was_spent_nor_what_was_granted() {
    let (now, later, ahead) = (at("2026-11-23T10:00:00Z"), at("2026-11-23T11:00:00Z"), at("2031-02-03T00:00:00Z"));
    let (mut part, more) = (Part::default(), Used { spent: calls(1), ..Used::default() });
    part.add_on_day(more, ahead);
    assert_eq!(part.on_day(now), Spend::default(), "the budget of each day would be spent until that one");
    part.add_on_day(more, now);
    part.add_on_day(more, later);
    assert_eq!((part.on_day(later), part.used.spent), (calls(2), calls(3)));
    let grant = |at| Grant { at, by: None, amount: Allowance { calls: Some(2), ..Allowance::default() } };
    let mut granted = Granted::default();
    granted.add_on_day(grant(ahead));
    assert_eq!(granted.on_day(now), Spend::default(), "each day would have more until that one");
    granted.add_on_day(grant(now));
    assert_eq!((granted.on_day(later), granted.grants.len()), (calls(2), 2));
}

#[test]
fn a_grant_of_a_day_is_of_that_day_and_the_history_is_bounded() {
    let grant = |text: &str| Grant { at: at(text), by: None, amount: Allowance { calls: Some(2), ..Allowance::default() } };
    let mut granted = Granted::default();
    granted.add_on_day(grant("2026-11-23T10:00:00Z"));
    granted.add_on_day(grant("2026-11-23T11:00:00Z"));
    assert_eq!((granted.on_day(at("2026-11-23T12:00:00Z")), granted.on_day(at("2026-11-24T00:00:00Z"))), (calls(4), Spend::default()));
    granted.add_on_day(grant("2026-11-24T11:00:00Z"));
    assert_eq!((granted.amount, granted.grants.len()), (calls(2), 3));
    for _ in 0..100 {
        granted.add(grant("2026-11-24T11:00:00Z"));
    }
    assert_eq!(granted.grants.len(), 50);
}
