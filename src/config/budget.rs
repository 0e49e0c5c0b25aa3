//! `[agents.NAME.budget]`: what an agent's runs, each task and the agent in one day may spend.

use serde_json::Value as Json;

use super::agents::given;
use super::document::{Node, Value};
use super::section::{Reading, Section, seconds_json, seconds_of, whole_of};
use crate::domain::budget::{Allowance, Budget, MOST_COUNTED};
use crate::domain::spend::Money;
use crate::domain::time::Seconds;

/// A hundred years of seconds: many attempts take their time at once.
const MOST_SECONDS: f64 = 3_000_000_000.0;

/// Reads the table; what is not given is not limited.
pub(super) fn budget<'a>(reading: &mut Reading<'a>, node: Option<&'a Node>, path: &str) -> Budget {
    let mut section = reading.open(node, path.to_owned()).file_only();
    let (run, task, day) = (section.node("run"), section.node("task"), section.node("day"));
    section.finish();
    let mut of = |name: &str, node| allowance(reading, node, format!("{path}.{name}"));
    Budget { run: of("run", run), task: of("task", task), day: of("day", day) }
}

fn allowance<'a>(reading: &mut Reading<'a>, node: Option<&'a Node>, path: String) -> Allowance {
    let mut section = reading.open(node, path).file_only();
    let seconds = |section: &mut Section<'_, '_>, name| -> Option<Seconds> {
        given(section, name, seconds_json, |node| seconds_of(node, &(0.001..=MOST_SECONDS)))
    };
    let (wall_seconds, cpu_seconds) = (seconds(&mut section, "wall_seconds"), seconds(&mut section, "cpu_seconds"));
    let counted = |section: &mut Section<'_, '_>, name| -> Option<u64> {
        given(section, name, |most: &u64| (*most).into(), |node| whole_of(node, &(1..=MOST_COUNTED)))
    };
    let (calls, bytes, tokens) = (counted(&mut section, "calls"), counted(&mut section, "bytes"), counted(&mut section, "tokens"));
    let money = given(&mut section, "money", |money: &Money| Json::from(money.units()), money_of);
    section.finish();
    Allowance { wall_seconds, cpu_seconds, calls, bytes, tokens, money }
}

fn money_of(node: &Node) -> Result<Money, String> {
    let units = match &node.value {
        Value::Fraction(units) => Some(*units),
        // Any whole number that loses digits as a fraction is past every amount.
        #[allow(clippy::cast_precision_loss)]
        Value::Whole(units) => Some(*units as f64),
        _ => None,
    };
    let money = units.and_then(Money::from_units).filter(|money| *money > Money::ZERO);
    money.ok_or_else(|| format!("must be an amount of money above 0, such as 0.5, not {}", node.value.describe()))
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::{Environment, parse};
    use super::*;
    use crate::domain::id::AgentId;

    #[test]
    fn each_meter_is_read_in_its_table_and_faults_are_told_at_their_keys() {
        let read = |text: &str| parse(text, Path::new("s.toml"), &Environment::default());
        let text = "[agents.a]\nbudget = { run = { tokens = 200000, money = 0.5, cpu_seconds = 1.5 }, day = { money = 20, calls = 3 } }\n\
                    [agents.a.budget.task]\nbytes = 7\nwall_seconds = 60\n";
        // A table that was written inline cannot be added to.
        assert!(read(text).is_err());
        let text = "[agents.a.budget]\nrun = { tokens = 200000, money = 0.5, cpu_seconds = 1.5 }\nday = { money = 20, calls = 3 }\n\
                    [agents.a.budget.task]\nbytes = 7\nwall_seconds = 60\n";
        let loaded = read(text).unwrap();
        let budget = loaded.settings.agents[&AgentId::parse("a").unwrap()].budget;
        assert_eq!((budget.run.tokens, budget.run.money), (Some(200_000), Money::from_units(0.5)));
        assert_eq!((budget.run.cpu_seconds, budget.day.calls), (Seconds::from_f64(1.5), Some(3)));
        assert_eq!((budget.day.money, budget.task.bytes), (Money::from_units(20.0), Some(7)));
        assert_eq!(budget.task.wall_seconds, Some(Seconds::whole(60)));
        assert!(loaded.entries.iter().any(|entry| entry.key == "agents.a.budget.run.money" && entry.value == 0.5));
        for (bad, key) in [
            ("run = { tokens = 0 }", "agents.a.budget.run.tokens"),
            ("run = { token = 1 }", "agents.a.budget.run.token"),
            ("week = { tokens = 1 }", "agents.a.budget.week"),
            ("day = { money = \"5\" }", "agents.a.budget.day.money"),
            ("day = { money = 0 }", "agents.a.budget.day.money"),
            ("task = 5", "agents.a.budget.task"),
            ("task = { wall_seconds = 0 }", "agents.a.budget.task.wall_seconds"),
        ] {
            let told = read(&format!("[agents.a.budget]\n{bad}\n")).unwrap_err().to_string();
            assert!(told.contains(key), "{told}");
        }
    }
}
