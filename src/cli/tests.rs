//! What the parser takes and refuses.

use clap::{CommandFactory as _, Parser as _};
use proptest::strategy::Strategy as _;

use super::*;

fn parse(line: &str) -> Result<Cli, clap::Error> {
    Cli::try_parse_from(std::iter::once("sandclock").chain(line.split('|')))
}

#[test]
fn the_definition_holds_together() {
    Cli::command().debug_assert();
}

#[test]
fn the_help_names_every_exit_code() {
    let help = Cli::command().render_help().to_string();
    for exit in Exit::ALL {
        assert!(help.contains(exit.meaning()), "{exit:?} in {help}");
    }
}

proptest::proptest! {
    #[test]
    fn any_line_is_taken_or_refused_with_a_word(
        words in proptest::collection::vec(
            proptest::prop_oneof![
                proptest::sample::select(vec![
                    "serve", "run", "check", "init", "config", "status", "tasks", "runs", "agents", "list", "show", "create", "events", "logs", "--id", "--schedule",
                    "--timeout", "--limit", "--metadata", "--config", "-o", "--", "-", "--json", "--query", "--attempt", "--server", "t", "0", "-1", "1e999", "{}",
                    "every 5s", "cron", "../x", "http://h", "\u{0}",
                ]).prop_map(str::to_owned),
                "[ -~]{0,8}",
            ],
            0..8,
        ),
    ) {
        match Cli::try_parse_from(std::iter::once("sandclock".to_owned()).chain(words)) {
            Ok(_) => {}
            Err(refusal) => proptest::prop_assert!(!refusal.to_string().trim().is_empty()),
        }
    }
}

#[test]
fn every_verb_of_the_manual_is_taken() {
    for line in [
        "serve",
        "serve|--config|x.toml|--no-worker",
        "run|p.wasm|--query|q|--workspace|d|--timeout|2.5|--config|c|--agent|a|--json",
        "dev",
        "dev|d|--query|q|--build|make|--config|c|--agent|a|--timeout|2|--keep|--json",
        "new|--lang|rust|my-agent",
        "new|my-agent|--lang|wasi-command|--dir|d|--json",
        "check|p.wasm|--json",
        "init|dir",
        "config|check|--config|x.toml",
        "config|show|--origin|--json",
        "status|--server|http://h:1|--json",
        "agents|list",
        "agents|show|a",
        "agents|delete|a|--force",
        "plugins|--json",
        "tasks|list|--agent|a|--limit|5|--cursor|c|--order|asc",
        "tasks|show|t|--json",
        "tasks|create|--id|t|--query|q|--schedule|cron \"*/5 * * * *\"|--timezone|Europe/Berlin|--overlap|queue_next|--replace",
        "tasks|create|--file|-|--replace",
        "tasks|run|t|--wait|--timeout|5|--query|q|--metadata|{\"a\":1}",
        "tasks|pause|t",
        "tasks|resume|t",
        "tasks|delete|t|--runs",
        "tasks|next|t|--count|3",
        "tasks|status|t",
        "tasks|skips|t",
        "runs|list|--task|t|--status|failed",
        "runs|show|run_1",
        "runs|cancel|run_1",
        "runs|resume|run_1",
        "runs|events|run_1|--follow|--json",
        "runs|attempts|run_1",
        "runs|workspace|run_1|--get|a/b.md|-o|out.md",
        "runs|result|run_1|-o|out.md",
        "runs|logs|run_1|--attempt|2|--follow",
        "runs|wait|run_1|--timeout|5",
    ] {
        assert!(parse(line).is_ok(), "{line}: {}", parse(line).unwrap_err());
    }
}

#[test]
fn what_cannot_be_meant_is_refused_before_anything_is_sent() {
    for line in [
        "tasks|show|../x",
        "runs|show|",
        "runs|list|--status|finished",
        "runs|list|--limit|0",
        "tasks|create|--id|t",
        "tasks|create|--file|f|--query|q",
        "tasks|create|--id|t|--query|q|--schedule|now and then",
        "tasks|create|--id|t|--query|q|--overlap|maybe",
        "tasks|run|t|--timeout|5",
        "tasks|run|t|--metadata|[]",
        "runs|wait|run_1|--timeout|0",
        "runs|logs|run_1|--attempt|0",
        "runs|workspace|run_1|-o|x",
        "runs|workspace|run_1|--get|x|--json",
        "status|--server|localhost:8000",
        "frobnicate",
    ] {
        assert_eq!(parse(line).unwrap_err().exit_code(), 2, "{line}");
    }
}
