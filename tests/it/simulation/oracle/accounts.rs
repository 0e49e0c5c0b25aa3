//! What runs spend: each call is charged before it leaves, none leaves that the budget has no room for, and everything is counted once.

use std::collections::BTreeMap;

use sandclock::domain::budget::{Part, RunAccount, Standing};
use sandclock::domain::id::RunId;
use sandclock::domain::run::AttemptStatus;
use sandclock::domain::spend::{BudgetScope, Meter, Spend};
use sandclock::store::{Change, Guard, Kind, Put};

use super::{GuestId, Model, Oracle};

/// What the guests of a run did.
#[derive(Default)]
struct Calls {
    wanted: u64,
    left: u64,
    /// The tokens that were used under each fence.
    tokens: BTreeMap<u64, u64>,
}

#[derive(Default)]
pub struct Accounts {
    /// Of deleted runs, too.
    runs: BTreeMap<RunId, RunAccount>,
    calls: BTreeMap<RunId, Calls>,
    /// The parts of the agents' accounts.
    agents: BTreeMap<String, Part>,
}

fn read<T: serde::de::DeserializeOwned>(put: &Put) -> T {
    serde_json::from_slice(&put.body).expect("what is put is of its kind")
}

impl Model {
    pub(super) fn judge_accounts(&mut self, change: &Change) {
        for put in change.puts.iter().filter(|put| put.id.kind == Kind::Account) {
            if put.id.key.starts_with("a/") && !put.id.key.ends_with("granted") {
                self.accounts.agents.insert(put.id.key.to_string(), read(put));
            } else if put.id.key.starts_with("r/") {
                self.judge_account(change, read(put));
            }
        }
    }

    fn judge_account(&mut self, change: &Change, account: RunAccount) {
        let id = account.run_id.clone();
        let Some(life) = self.runs.get(&id) else { return self.fault(format!("{id} has an account and is not there")) };
        let before = self.accounts.runs.get(&id).map_or_else(Spend::default, |before| before.spent);
        let (after, fence) = (account.spent, life.fence());
        let allowance = life.run.policy.budget.run;
        let standing = Standing { scope: BudgetScope::Run, allowance, granted: account.granted.amount, spent: before };
        let is_held = change.guards.contains(&Guard::Held(id.clone(), fence));
        let is_spent = Meter::ALL.into_iter().find(|meter| standing.exhausted_in(*meter, &Spend::default()).is_some());
        let who: Vec<&String> = account.granted.grants.iter().filter_map(|grant| grant.by.as_ref()).collect();
        let twice = who.iter().find(|by| who.iter().filter(|other| other == by).count() > 1);
        let fault = if let Some(by) = twice {
            Some(format!("{by} granted {id} more, and it was made twice"))
        } else if after != before && !is_held {
            Some(format!("a charge of {id} does not carry the fence {fence}"))
        } else if after.calls < before.calls || after.tokens < before.tokens {
            Some(format!("{id} had spent {before:?} and has now spent {after:?}"))
        } else if after.calls > before.calls
            && let Some(meter) = is_spent
        {
            Some(format!("a call of {id} was charged and it has no {} left: {before:?}", meter.as_str()))
        } else {
            None
        };
        self.accounts.runs.insert(id, account);
        if let Some(fault) = fault {
            self.fault(fault);
        }
    }

    /// What was charged is what was done: no less than is known for certain, and no more than there can have been.
    pub(super) fn judge_spent(&mut self) {
        let mut faults = Vec::new();
        let mut all = (0, 0);
        for (run, account) in &self.accounts.runs {
            let none = Calls::default();
            let calls = self.accounts.calls.get(run).unwrap_or(&none);
            let tries = self.runs.get(run).map(|life| life.tries.as_slice()).unwrap_or_default();
            let is_certain = |fence: &u64| {
                let seen = tries.iter().find(|seen| seen.fence == *fence).map(|seen| seen.status);
                !matches!(seen, None | Some(AttemptStatus::Interrupted | AttemptStatus::Running))
            };
            let certain: u64 = calls.tokens.iter().filter(|(fence, _)| is_certain(fence)).map(|(_, tokens)| tokens).sum();
            let most: u64 = calls.tokens.values().sum();
            let spent = account.spent;
            if !(calls.left..=calls.wanted).contains(&spent.calls) || !(certain..=most).contains(&spent.tokens) {
                let did = format!("{} of {} calls left, {certain} to {most} tokens were used", calls.left, calls.wanted);
                faults.push(format!("{run} has spent {} calls and {} tokens; {did}", spent.calls, spent.tokens));
            }
            all = (all.0 + spent.calls, all.1 + spent.tokens);
        }
        let of_agents = self.accounts.agents.values().fold(Spend::default(), |sum, part| sum.plus(part.used.spent));
        if (of_agents.calls, of_agents.tokens) != all {
            faults.push(format!("the agents have spent {} calls and {} tokens; their runs {all:?}", of_agents.calls, of_agents.tokens));
        }
        self.faults.append(&mut faults);
    }
}

impl Oracle {
    /// A guest wants a call.
    pub fn wants_call(&self, id: GuestId) {
        self.tell(|model| {
            let Some((run, _)) = model.guest(id) else { return };
            model.accounts.calls.entry(run).or_default().wanted += 1;
        });
    }

    /// A guest's call leaves.
    pub fn calls(&self, id: GuestId) {
        self.tell(|model| {
            let Some((run, _)) = model.guest(id) else { return };
            let calls = model.accounts.calls.entry(run.clone()).or_default();
            calls.left += 1;
            let (left, charged) = (calls.left, model.accounts.runs.get(&run).map_or(0, |account| account.spent.calls));
            if left > charged {
                model.fault(format!("call {left} of {run} left and was not charged: {charged} were"));
            }
        });
    }

    /// What a guest's call used.
    pub fn uses(&self, id: GuestId, tokens: u64) {
        self.tell(|model| {
            let Some((run, _)) = model.guest(id) else { return };
            let fence = model.fence_of(id);
            *model.accounts.calls.entry(run).or_default().tokens.entry(fence).or_default() += tokens;
        });
    }

    /// A grant was acknowledged.
    pub fn granted(&self, run: &RunId, by: &str) {
        self.tell(|model| {
            let account = model.accounts.runs.get(run);
            let is_there = account.is_some_and(|account| account.granted.grants.iter().any(|grant| grant.by.as_deref() == Some(by)));
            if !is_there {
                model.fault(format!("{by} granted {run} more, which was acknowledged and is not there"));
            }
        });
    }
}
