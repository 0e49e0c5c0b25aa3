//! `sandclock approvals`: what runs ask people, and the answers.

use clap::{Args, Subcommand};
use serde_json::{Map, Value};

use super::Context;
use super::caller::{Caller, Order, PageArgs};
use super::exit::{Exit, Fault};
use super::remote::ClientArgs;
use super::table::{Cell, Table};
use super::{human, view};
use crate::domain::id::{RunId, TaskId};

/// What runs ask people: list it, answer it
#[derive(Args, Clone, Debug)]
pub(super) struct ApprovalsArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// List the runs that wait for a person
    List(ListArgs),
    /// Show what a run has asked so far, and the answers
    Show {
        /// The run's id
        #[arg(value_parser = RunId::parse)]
        run: RunId,
    },
    /// Say yes; the run goes on
    Approve(AnswerArgs),
    /// Say no; the run goes on and its agent is told
    Deny(AnswerArgs),
}

#[derive(Args, Clone, Debug)]
struct ListArgs {
    /// Only those of this task
    #[arg(long, value_parser = TaskId::parse)]
    task: Option<TaskId>,
    #[command(flatten)]
    page: PageArgs,
}

#[derive(Args, Clone, Debug)]
struct AnswerArgs {
    /// The run's id
    #[arg(value_parser = RunId::parse)]
    run: RunId,
    /// The name of the question; what the run waits for when none is given
    key: Option<String>,
    /// What to tell the agent with it
    #[arg(long, value_name = "TEXT")]
    note: Option<String>,
    /// Who decides; the name of the token when none is given
    #[arg(long, value_name = "NAME")]
    by: Option<String>,
}

pub(super) async fn execute(args: ApprovalsArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    match args.verb {
        Verb::List(list) => {
            let mut query = list.page.query(Order::Asc);
            query.extend(list.task.as_ref().map(|task| ("task_id", task.to_string())));
            let answer = caller.remote.get(&["approvals"], &query).await?;
            caller.show(&answer, |answer| waiting(&caller, answer))
        }
        Verb::Show { run } => {
            let answer = caller.remote.get(&["runs", run.as_str(), "approvals"], &[]).await?;
            caller.show(&answer, |answer| asked(&caller, &run, answer))
        }
        Verb::Approve(given) => decide(&caller, "approve", given).await,
        Verb::Deny(given) => decide(&caller, "deny", given).await,
    }
}

async fn decide(caller: &Caller<'_>, decision: &str, args: AnswerArgs) -> Result<Exit, Fault> {
    let run = args.run;
    let seen = match args.key {
        Some(key) => Seen { key, question: None, attempt: None },
        None => waits_for(caller, &run).await?,
    };
    let given = [("decision", Some(decision.to_owned())), ("note", args.note), ("approver", args.by)];
    let mut body: Map<String, Value> = given.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text?.into()))).collect();
    body.extend(seen.attempt.map(|attempt| ("attempt".to_owned(), attempt.into())));
    let (key, body) = (seen.key, Value::Object(body));
    let answer = caller.remote.post(&["runs", run.as_str(), "approvals", &key], Some(&body)).await?;
    caller.show(&answer, |answer| {
        let word = if decision == "approve" { "approved" } else { "denied" };
        let question = seen.question.map(|question| format!(" ({})", human::cut(&human::one_line(&question), 200))).unwrap_or_default();
        format!("{word} `{}`{question}: {run} is {}\n", human::one_line(&key), human::one_line(&view::shown(answer, "status")))
    })
}

/// A question as it was seen when it was answered.
struct Seen {
    key: String,
    question: Option<String>,
    attempt: Option<u64>,
}

/// What the run waits for.
async fn waits_for(caller: &Caller<'_>, run: &RunId) -> Result<Seen, Fault> {
    let answer = caller.remote.get(&["runs", run.as_str()], &[]).await?;
    let (question, attempt) = (view::text(&answer.value, "parked.question"), view::count(&answer.value, "attempt"));
    view::text(&answer.value, "parked.key").map(|key| Seen { key, question, attempt }).ok_or_else(|| {
        let status = human::one_line(&view::shown(&answer.value, "status"));
        Fault::new(Exit::Conflict, format!("{run} is {status} and waits for no answer; `sandclock approvals show {run}` has what it asked"))
    })
}

fn waiting(caller: &Caller<'_>, answer: &Value) -> String {
    let now = caller.now();
    let mut table = Table::new(&["RUN", "TASK", "KEY", "ASKED", "UNTIL", "QUESTION"]);
    for one in view::list(answer, "approvals") {
        let held = || "(held: resume it or cancel it)".to_owned();
        table.row(vec![
            Cell::new(view::shown(one, "run_id")),
            Cell::new(view::shown(one, "task_id")),
            Cell::new(view::text(one, "key").map_or_else(held, |key| human::one_line(&key))),
            Cell::new(view::age(one, "asked_at", now)),
            Cell::new(view::age(one, "until", now)),
            Cell::new(human::cut(&human::one_line(&view::shown(one, "question")), 100)),
        ]);
    }
    caller.page(&table, answer, "no run waits for a person")
}

fn asked(caller: &Caller<'_>, run: &RunId, answer: &Value) -> String {
    let now = caller.now();
    let mut table = Table::new(&["KEY", "ASKED", "ANSWER", "BY", "NOTE", "QUESTION"]);
    for one in view::list(answer, "approvals") {
        let word = match view::at(one, "answer.approved").and_then(Value::as_bool) {
            Some(true) => "approved",
            Some(false) => "denied",
            None => "",
        };
        table.row(vec![
            Cell::new(human::one_line(&view::shown(one, "key"))),
            Cell::new(view::age(one, "asked_at", now)),
            Cell::new(word),
            Cell::new(human::one_line(&view::text(one, "answer.by").unwrap_or_default())),
            Cell::new(human::one_line(&view::text(one, "answer.note").unwrap_or_default())),
            Cell::new(human::cut(&human::one_line(&view::shown(one, "question")), 100)),
        ]);
    }
    caller.page(&table, answer, &format!("{run} has asked nothing"))
}
