//! Which of many runs are meant, as flags.

use clap::Args;
use serde_json::{Map, Value, json};

use crate::cli::exit::Fault;
use crate::cli::when::{self, Moment};
use crate::domain::id::{AgentId, RunId, TaskId};
use crate::domain::policy::ErrorKind;
use crate::domain::run::Status;
use crate::domain::time::Timestamp;

/// What is done with them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Verb {
    Rerun,
    Cancel,
}

impl Verb {
    /// The verb as the API's path has it.
    pub(super) fn word(self) -> &'static str {
        match self {
            Verb::Rerun => "rerun",
            Verb::Cancel => "cancel",
        }
    }

    pub(super) fn ask(self) -> &'static str {
        match self {
            Verb::Rerun => "Run",
            Verb::Cancel => "Cancel",
        }
    }

    pub(super) fn done(self) -> &'static str {
        match self {
            Verb::Rerun => "repeated",
            Verb::Cancel => "asked for the cancel of",
        }
    }
}

/// Many runs by what they are.
#[derive(Args, Clone, Debug)]
#[command(next_help_heading = "Many runs at once")]
pub(super) struct ManyArgs {
    /// Those of this task
    #[arg(long, value_parser = TaskId::parse)]
    task: Option<TaskId>,
    /// Those of this agent
    #[arg(long, value_parser = AgentId::parse)]
    agent: Option<AgentId>,
    /// Those of this status; may be given several times
    #[arg(long, value_delimiter = ',', value_parser = Status::ALL.map(Status::as_str))]
    status: Vec<String>,
    /// Those that ended (or were asked for, when they have not ended) since then: `2h`, `30m`, or a time such as 2026-11-22T05:00:00Z
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    since: Option<Moment>,
    /// Those that ended (or were asked for, when they have not ended) before then
    #[arg(long, value_name = "TIME", value_parser = when::moment)]
    until: Option<Moment>,
    /// Those with this kind of error
    #[arg(long, value_name = "KIND", value_parser = error_kind)]
    error_kind: Option<ErrorKind>,
    /// All of them
    #[arg(long)]
    all: bool,
    /// How many at most
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(u64).range(1..))]
    pub(super) limit: u64,
    /// Where the same command before this one says that it goes on
    #[arg(long, value_name = "CURSOR")]
    pub(super) cursor: Option<String>,
    /// Only show which they are
    #[arg(long)]
    pub(super) dry_run: bool,
    /// Do it without asking
    #[arg(long, short, conflicts_with = "dry_run")]
    pub(super) yes: bool,
}

fn error_kind(text: &str) -> Result<ErrorKind, String> {
    serde_json::from_value(json!(text)).map_err(|error| error.to_string())
}

impl ManyArgs {
    /// The one run that is meant, or none when many are.
    pub(super) fn one(&self, run: Option<RunId>, verb: Verb) -> Result<Option<RunId>, Fault> {
        let filter = self.filter(Timestamp::MIN);
        let is_many = self.all || !filter.is_empty();
        let word = verb.word();
        match (run, is_many) {
            (Some(run), true) => Err(Fault::usage(format!("{run} is one run and the flags name many; leave one of them out"))),
            (Some(_), false) if self.dry_run || self.yes || self.cursor.is_some() => {
                Err(Fault::usage("--dry-run, --yes and --cursor are for many runs; with a run's id leave them out"))
            }
            (None, false) => Err(Fault::usage(format!(
                "which runs? Name one, as in `sandclock runs {word} RUN`, or many, as in `sandclock runs {word} --task TASK`; --all means every run"
            ))),
            (None, true) if self.all && !filter.is_empty() => Err(Fault::usage("--all means every run; leave it out, or the other flags")),
            (run, _) => Ok(run),
        }
    }

    fn filter(&self, now: Timestamp) -> Map<String, Value> {
        let given = [
            ("task_id", self.task.as_ref().map(|task| json!(task))),
            ("agent_id", self.agent.as_ref().map(|agent| json!(agent))),
            ("status", (!self.status.is_empty()).then(|| json!(self.status))),
            ("since", self.since.map(|since| json!(since.from(now)))),
            ("until", self.until.map(|until| json!(until.from(now)))),
            ("error_kind", self.error_kind.map(|kind| json!(kind))),
        ];
        given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect()
    }

    /// What every request about them says.
    pub(super) fn wish(&self, now: Timestamp) -> Map<String, Value> {
        let filter = self.filter(now);
        let wish = if self.all { ("all", json!(true)) } else { ("filter", Value::Object(filter)) };
        Map::from_iter([(wish.0.to_owned(), wish.1)])
    }
}
