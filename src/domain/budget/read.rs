//! Budgets and grants as JSON says them.

use super::{Allowance, Budget};
use crate::domain::input::Fields;
use crate::domain::spend::{Meter, Money};
use crate::domain::time::Seconds;

/// The most that a limit or a grant of something counted may say: up to here every whole number is exact in JSON.
pub const MOST_COUNTED: u64 = 1 << 53;
/// The names of the meters, as fields.
pub const ALLOWANCE_FIELDS: [&str; 6] = [
    Meter::WallSeconds.as_str(),
    Meter::CpuSeconds.as_str(),
    Meter::Calls.as_str(),
    Meter::Bytes.as_str(),
    Meter::Tokens.as_str(),
    Meter::Money.as_str(),
];

/// Takes the meters that are given; what else is there is for the caller to take or to refuse.
pub fn read_allowance(fields: &mut Fields<'_>) -> Allowance {
    let mut seconds = |name: &str| {
        let given: Option<Seconds> = fields.optional(name);
        given.filter(|given| !given.is_zero() || refuse(fields, name))
    };
    let (wall_seconds, cpu_seconds) = (seconds(Meter::WallSeconds.as_str()), seconds(Meter::CpuSeconds.as_str()));
    let mut counted = |name: &str| {
        let given: Option<u64> = fields.optional(name);
        given.filter(|given| (1..=MOST_COUNTED).contains(given) || refuse(fields, name))
    };
    let (calls, bytes, tokens) = (counted(Meter::Calls.as_str()), counted(Meter::Bytes.as_str()), counted(Meter::Tokens.as_str()));
    let money: Option<Money> = fields.optional(Meter::Money.as_str());
    let money = money.filter(|given| *given > Money::ZERO || refuse(fields, Meter::Money.as_str()));
    Allowance { wall_seconds, cpu_seconds, calls, bytes, tokens, money }
}

/// Records that an amount is none that can be; answers with false.
fn refuse(fields: &mut Fields<'_>, name: &str) -> bool {
    fields.fault(name, format!("must be more than 0, and at most {MOST_COUNTED} of what is counted; leave it out where nothing limits it"));
    false
}

/// Reads a task's own budget: of its runs, and of itself.
pub fn read_task_budget(mut fields: Fields<'_>) -> Budget {
    let mut budget = Budget::default();
    for (name, allowance) in [("run", &mut budget.run), ("task", &mut budget.task)] {
        if let Some(mut inner) = fields.nested(name) {
            *allowance = read_allowance(&mut inner);
            inner.refuse_rest(&ALLOWANCE_FIELDS);
        }
    }
    if fields.has("day") {
        fields.fault("day", "is an agent's: set it in `[agents.NAME.budget]`; a task has `run` and `task`");
        fields.raw("day");
    }
    fields.refuse_rest(&["run", "task"]);
    budget
}
