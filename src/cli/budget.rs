//! `sandclock budget`: what may be spent, what was, and more of it.

use clap::{Args, Subcommand};
use serde_json::{Map, Value, json};

use super::Context;
use super::caller::Caller;
use super::exit::{Exit, Fault};
use super::remote::ClientArgs;
use super::table::{Cell, Table};
use super::tasks::key;
use super::wait::seconds;
use super::{human, view};
use crate::domain::id::{AgentId, RunId, TaskId};
use crate::domain::spend::Money;
use crate::domain::time::Seconds;

/// What runs, tasks and agents may spend, and what they have spent
#[derive(Args, Clone, Debug)]
pub struct BudgetArgs {
    #[command(flatten)]
    client: ClientArgs,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Clone, Debug, Subcommand)]
enum Verb {
    /// Show how a budget stands; the runs that wait for budget when nothing is named
    Show(Whose),
    /// Grant more of a budget, and let the runs go on that wait for it
    Grant(GrantArgs),
}

#[derive(Args, Clone, Debug)]
#[group(multiple = false)]
struct Whose {
    /// Of this run
    #[arg(long, value_name = "RUN", value_parser = RunId::parse)]
    run: Option<RunId>,
    /// Of this task
    #[arg(long, value_name = "TASK", value_parser = TaskId::parse)]
    task: Option<TaskId>,
    /// Of this agent, for the day in UTC
    #[arg(long, value_name = "AGENT", value_parser = AgentId::parse)]
    agent: Option<AgentId>,
}

impl Whose {
    /// The path of its budget; none where nothing is named.
    fn path(&self) -> Option<[&str; 3]> {
        let run = self.run.as_ref().map(|run| ["runs", run.as_str(), "budget"]);
        let task = self.task.as_ref().map(|task| ["tasks", task.as_str(), "budget"]);
        run.or(task).or(self.agent.as_ref().map(|agent| ["agents", agent.as_str(), "budget"]))
    }
}

#[derive(Args, Clone, Debug)]
struct GrantArgs {
    #[command(flatten)]
    whose: Whose,
    #[command(flatten)]
    amount: Amount,
    /// A name of your own for this request: given again with the same request, it grants nothing more
    #[arg(long, value_name = "KEY", value_parser = key)]
    idempotency_key: Option<String>,
}

#[derive(Args, Clone, Debug)]
#[group(required = true, multiple = true)]
struct Amount {
    /// More tokens of models
    #[arg(long, value_name = "N")]
    tokens: Option<u64>,
    /// More money, in the currency of the price table
    #[arg(long, value_name = "X", value_parser = money)]
    money: Option<Money>,
    /// More outgoing calls
    #[arg(long, value_name = "N")]
    calls: Option<u64>,
    /// More bytes of outgoing calls and their answers
    #[arg(long, value_name = "N")]
    bytes: Option<u64>,
    /// More time of attempts from start to end
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    wall_seconds: Option<Seconds>,
    /// More processor time
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    cpu_seconds: Option<Seconds>,
}

fn money(text: &str) -> Result<Money, String> {
    let money = text.parse().ok().and_then(Money::from_units).filter(|money| *money > Money::ZERO);
    money.ok_or_else(|| "write an amount above 0, such as 0.5".to_owned())
}

impl Amount {
    fn body(self) -> Value {
        let fields = [
            ("tokens", self.tokens.map(Value::from)),
            ("money", self.money.map(|money| json!(money))),
            ("calls", self.calls.map(Value::from)),
            ("bytes", self.bytes.map(Value::from)),
            ("wall_seconds", self.wall_seconds.map(|seconds| json!(seconds))),
            ("cpu_seconds", self.cpu_seconds.map(|seconds| json!(seconds))),
        ];
        let given = fields.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?)));
        Value::Object(given.collect::<Map<_, _>>())
    }
}

/// Carries the verb out.
///
/// # Errors
/// The daemon is unreachable, or does not know what is named.
pub async fn execute(args: BudgetArgs, context: &Context) -> Result<Exit, Fault> {
    let caller = Caller::new(context, &args.client)?;
    match args.verb {
        Verb::Show(whose) => match whose.path() {
            Some(path) => {
                let answer = caller.remote.get(&path, &[]).await?;
                caller.show(&answer, |answer| stands(&caller, answer))
            }
            None => {
                let answer = caller.remote.get(&["runs"], &[("status", "awaiting_budget".to_owned())]).await?;
                caller.show(&answer, |answer| waiting(&caller, answer))
            }
        },
        Verb::Grant(GrantArgs { whose, amount, idempotency_key }) => {
            let Some(path) = whose.path() else {
                return Err(Fault::usage("say whose budget: add --run RUN, --task TASK or --agent AGENT"));
            };
            let answer = caller.remote.post_once(&path, &amount.body(), idempotency_key.as_deref()).await?;
            caller.show(&answer, |answer| granted(&caller, answer))
        }
    }
}

fn rows(table: &mut Table, budget: &Value) {
    let meters = view::at(budget, "meters").and_then(Value::as_object);
    for (meter, of) in meters.into_iter().flatten() {
        let number = |name: &str| Cell::number(human::one_line(&view::shown(of, name)));
        table.row(vec![
            Cell::new(view::shown(budget, "scope")),
            Cell::new(meter.clone()),
            number("limit"),
            number("granted"),
            number("spent"),
            number("left"),
        ]);
    }
}

fn budgets(caller: &Caller<'_>, of: &[&Value]) -> String {
    let mut table = Table::new(&["BUDGET", "METER", "LIMIT", "GRANTED", "SPENT", "LEFT"]);
    of.iter().for_each(|budget| rows(&mut table, budget));
    if table.is_empty() { "nothing limits it\n".to_owned() } else { table.render(&caller.context.screen) }
}

fn stands(caller: &Caller<'_>, answer: &Value) -> String {
    let all: Vec<&Value> = view::list(answer, "budgets").iter().collect();
    format!("used: {}\n{}", used(answer), budgets(caller, &all))
}

/// What was used, in one line: the meters that are not at nothing.
pub(super) fn used(value: &Value) -> String {
    let used = view::at(value, "used").and_then(Value::as_object);
    let told: Vec<String> = used
        .into_iter()
        .flatten()
        .filter(|(_, amount)| amount.as_f64().is_some_and(|amount| amount > 0.0))
        .map(|(name, amount)| human::one_line(&format!("{name} {amount}")))
        .collect();
    if told.is_empty() { "nothing".to_owned() } else { told.join(", ") }
}

fn granted(caller: &Caller<'_>, answer: &Value) -> String {
    let resumed = view::count(answer, "resumed").unwrap_or(0);
    let outcome = match (view::text(answer, "still_spent"), resumed) {
        (Some(still), _) => format!("granted, and no run goes on: {}", human::one_line(&still)),
        (None, 0) => "granted; no run waited for it".to_owned(),
        (None, 1) => "granted; 1 run goes on".to_owned(),
        (None, more) => format!("granted; {more} runs go on"),
    };
    let budget = view::at(answer, "budget").into_iter().collect::<Vec<_>>();
    format!("{outcome}\n{}", budgets(caller, &budget))
}

fn waiting(caller: &Caller<'_>, answer: &Value) -> String {
    let mut table = Table::new(&["RUN", "TASK", "BUDGET", "METER", "SINCE", "UNTIL"]);
    for run in view::list(answer, "runs") {
        table.row(vec![
            Cell::new(view::shown(run, "run_id")),
            Cell::new(view::shown(run, "task_id")),
            Cell::new(view::shown(run, "parked.scope")),
            Cell::new(view::shown(run, "parked.meter")),
            Cell::new(view::age(run, "parked.since", caller.now())),
            Cell::new(view::moment(run, "parked.until", caller.now()).unwrap_or_default()),
        ]);
    }
    caller.page(&table, answer, "no run waits for budget; `sandclock budget show --task TASK` shows how one stands")
}
