//! `sandclock store check`: how the store stands, and what an acknowledged run can lose.

use std::fmt::Write as _;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use crate::cli::exit::{Exit, Fault};
use crate::cli::human;
use crate::cli::screen::{Colour, Screen};
use crate::cli::table::Sheet;
use crate::cli::{Context, view};
use crate::config;
use crate::daemon::doctor::{self, Checked};
use crate::daemon::open::OpenError;
use crate::domain::time::Timestamp;
use crate::store::StoreError;
use crate::store::report::{Report, Schema, Verdict};

/// An offset of the clocks that is worth a word, in seconds.
const APART: f64 = 1.0;

/// Connect to the store, and say how it is set and what an acknowledged run can lose (exit code 1), or that it cannot be reached (6)
#[derive(Args, Clone, Debug)]
pub struct CheckArgs {
    /// The configuration file [env: SANDCLOCK_CONFIG] [default: sandclock.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// Carries the verb out.
///
/// # Errors
/// The configuration is wrong, or the store cannot be used.
pub async fn execute(args: CheckArgs, context: &Context) -> Result<Exit, Fault> {
    let loaded = config::load(args.config.as_deref(), &context.env).map_err(|faults| Fault::usage(faults.to_string()))?;
    context.screen.status("asking the store");
    let checked = doctor::check(&loaded.settings.store).await.map_err(fault_of)?;
    context.screen.clear_status();
    if args.json {
        let Checked { store, commits, unmeasured, daemons } = &checked;
        let losses: Vec<&str> = store.losses().collect();
        let answer = json!({
            "good": checked.is_good(),
            "losses": losses,
            "store": store,
            "commits": commits,
            "unmeasured": unmeasured,
            "daemons": daemons,
        });
        context.screen.json(&answer.to_string())?;
    } else {
        context.screen.text(&text(&context.screen, &checked, context.now()))?;
    }
    Ok(if checked.is_good() { Exit::Done } else { Exit::Failed })
}

/// How a verb ends that cannot use the store.
pub fn fault_of(error: OpenError) -> Fault {
    let exit = match &error {
        OpenError::Store(StoreError::Unavailable(_)) => Exit::Unreachable,
        #[cfg(feature = "sqlite")]
        OpenError::Sqlite(crate::store::sql::sqlite::OpenError::InUse { .. }) => Exit::Conflict,
        _ => Exit::Failed,
    };
    Fault::new(exit, error.to_string())
}

/// The store's schema for people.
pub fn schema(schema: Schema) -> String {
    match schema {
        Schema { found: 0, known } => format!("none yet; `sandclock store migrate` or the first daemon makes version {known}"),
        Schema { found, known } if found == known => format!("version {found}"),
        Schema { found, known } => format!("version {found}; `sandclock store migrate` or the next daemon brings it to {known}"),
    }
}

fn text(screen: &Screen, checked: &Checked, now: Timestamp) -> String {
    let Checked { store, commits, unmeasured, daemons } = checked;
    let mut sheet = Sheet::new();
    sheet.entry("store", &store.address);
    sheet.entry("version", &store.version);
    sheet.maybe("schema", store.schema.map(schema));
    sheet.maybe("clock", store.clock_offset_seconds.map(clock));
    sheet.maybe("commit", commits.map(|took| format!("{:.1} ms, the slowest of {} {:.1} ms", took.median_ms, took.count, took.slowest_ms)));
    sheet.maybe("commit", unmeasured.as_ref().map(|why| format!("not measured: {why}")));
    for fact in &store.facts {
        sheet.entry(fact.name, &fact.value);
    }
    for daemon in daemons {
        let word = |name: &str| view::shown(daemon, name);
        let seen = view::age(daemon, "last_seen_at", now);
        sheet.entry("daemon", format!("{}: {}, seen {seen}, on {}", word("daemon_id"), word("state"), word("host")));
    }
    format!("{}{}{}", sheet.render(screen), remarks(screen, store), verdict(screen, checked))
}

fn clock(offset: f64) -> String {
    match offset {
        ahead if ahead >= APART => format!("{ahead:.1} s ahead of this machine's; only the store's judges what is due"),
        behind if behind <= -APART => format!("{:.1} s behind this machine's; only the store's judges what is due", -behind),
        near => format!("{:.0} ms from this machine's", near.abs() * 1000.0),
    }
}

fn remarks(screen: &Screen, store: &Report) -> String {
    let mut text = String::new();
    for fact in &store.facts {
        let (mark, says) = match &fact.verdict {
            Verdict::Fine => continue,
            Verdict::Note(says) => (screen.paint(Colour::Dim, "note:"), says),
            Verdict::Unknown(says) => (screen.paint(Colour::Busy, "unknown:"), says),
            Verdict::Loses(says) => (screen.paint(Colour::Bad, "loses:"), says),
        };
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{mark} {}: {}", fact.name, human::one_line(says));
    }
    text
}

fn verdict(screen: &Screen, checked: &Checked) -> String {
    let (colour, words) = match (checked.store.losses().count(), checked.unmeasured.is_some()) {
        (0, false) => (Colour::Good, checked.store.survives.as_str()),
        (0, true) => (Colour::Bad, "the store does not commit now"),
        (_, _) => (Colour::Bad, "a run that was acknowledged can be lost: see above"),
    };
    format!("{}\n", screen.paint(colour, words))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::cli::screen::Terminals;
    use crate::store::report::Fact;

    fn checked(facts: Vec<Fact>) -> Checked {
        let store = Report { facts, clock_offset_seconds: Some(-301.25), ..Report::of_memory() };
        Checked { store, commits: None, unmeasured: None, daemons: vec![] }
    }

    #[test]
    fn what_loses_is_said_below_the_facts_and_made_safe() {
        let screen = Screen::new(Box::new(io::sink()), Box::new(io::sink()), Terminals::default());
        let facts = vec![Fact::fine("fsync", "on"), Fact::loses("policy", "x\u{1b}[2J", "runs are\ndeleted; mend it")];
        let told = text(&screen, &checked(facts), Timestamp::default());
        assert!(!told.contains('\u{1b}'), "{told:?}");
        assert!(told.contains("clock    301.2 s behind this machine's"), "{told}");
        assert!(told.contains("\nloses: policy: runs are deleted; mend it\na run that was acknowledged can be lost"), "{told}");
        let one = serde_json::json!({"daemon_id": "d", "state": "alive", "host": "h", "last_seen_at": "1970-01-01T00:00:00Z"});
        let checked = Checked { daemons: vec![one], ..checked(vec![Fact::note("a", "b", "c")]) };
        let told = text(&screen, &checked, Timestamp::from_micros(5_000_000));
        assert!(told.contains("d: alive, seen 5s ago, on h"), "{told}");
        assert!(told.ends_with("\nnote: a: c\nnothing\n"), "{told}");
    }

    #[test]
    fn a_schema_says_what_it_would_become() {
        assert_eq!(schema(Schema { found: 3, known: 3 }), "version 3");
        assert!(schema(Schema { found: 2, known: 3 }).contains("brings it to 3"));
        assert!(schema(Schema { found: 0, known: 3 }).starts_with("none yet"));
    }
}
