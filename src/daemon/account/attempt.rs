//! What the calls of one attempt are charged to, and the end of what it may spend.
//!
//! Invariant: the charges of an attempt are made one after the other, each under its fence and with a number of its own: one whose answer was
//! lost is found to be made. An attempt that has nothing left is stopped between its calls, never in one.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::Accounts;
use super::calls::Calls;
use crate::clock::{BootInstant, Clock};
use crate::daemon::committer::{CommitError, Committer};
use crate::daemon::live::LiveRun;
use crate::daemon::patience::Patience;
use crate::daemon::txn::{Stop as TxnStop, Txn};
use crate::domain::budget::{Standing, exhausted, exhausted_at_start, tightest};
use crate::domain::spend::{Exhausted, Meter, Spend};
use crate::domain::time::Seconds;
use crate::egress::{Account, ChargeRefused as Refused};
use crate::sandbox::Stop;

/// The account of one attempt whose run has a budget.
pub(in crate::daemon) struct AttemptAccount {
    accounts: Arc<Accounts>,
    committer: Committer,
    clock: Arc<dyn Clock>,
    live: LiveRun,
    /// When the attempt began, by the clock that runs through suspend.
    began: BootInstant,
    /// How the budgets stood then.
    opened: Vec<Standing>,
    /// One charge at a time.
    turn: Arc<Semaphore>,
    /// Counts the charges.
    charges: AtomicU64,
    /// Those under way.
    calls: Calls,
    /// The budget that has nothing left, once one has.
    spent: watch::Sender<Option<Exhausted>>,
}

/// Why an attempt does not begin.
pub(in crate::daemon) enum NotOpened {
    /// A budget has nothing left.
    Exhausted(Exhausted),
    /// The lease passed before the accounts could be read.
    LeaseLost,
    /// They cannot be read.
    Unread(String),
}

impl AttemptAccount {
    /// Reads the accounts for an attempt that is about to begin. A store that is away is asked again as long as the lease holds.
    pub(in crate::daemon) async fn open(
        accounts: Arc<Accounts>,
        committer: Committer,
        clock: Arc<dyn Clock>,
        live: LiveRun,
    ) -> Result<AttemptAccount, NotOpened> {
        let mut patience = Patience::new();
        let opened = loop {
            if !live.signals.may_act() {
                return Err(NotOpened::LeaseLost);
            }
            let of = Arc::clone(&accounts);
            let read = committer.commit(accounts.reads(), Vec::new(), move |txn: &mut Txn<'_>| of.standings::<Infallible>(txn)).await;
            match read {
                Ok(standings) => break standings,
                Err(CommitError::Store(error)) if !error.is_transient() => return Err(NotOpened::Unread(error.to_string())),
                Err(_) => patience.wait().await,
            }
        };
        if let Some(exhausted) = exhausted_at_start(&opened) {
            return Err(NotOpened::Exhausted(exhausted));
        }
        let began = clock.boot();
        Ok(AttemptAccount {
            accounts,
            committer,
            clock,
            live,
            began,
            opened,
            turn: Arc::new(Semaphore::new(1)),
            charges: AtomicU64::new(0),
            calls: Calls::none(),
            spent: watch::Sender::new(None),
        })
    }

    /// The budget that has nothing left, if the attempt met one.
    pub(in crate::daemon) fn exhausted(&self) -> Option<Exhausted> {
        *self.spent.borrow()
    }

    fn limits(&self, meter: Meter) -> bool {
        self.opened.iter().any(|standing| standing.limit(meter).is_some())
    }

    /// The time that the attempt has taken so far, which no account has yet.
    pub(in crate::daemon) fn so_far(&self) -> Spend {
        let wall = Duration::from_nanos(self.clock.boot().0.saturating_sub(self.began.0));
        Spend {
            wall_seconds: Seconds::from_duration(wall),
            cpu_seconds: Seconds::from_duration(self.live.signals.cpu()),
            ..Spend::default()
        }
    }

    /// Stops the guest when a budget has nothing left, as soon as no call is under way.
    pub(in crate::daemon) async fn watch(&self) -> Infallible {
        let left = |meter| tightest(&self.opened, meter);
        let time_of = |meter| async move {
            let Some((standing, micros)) = left(meter) else { return std::future::pending().await };
            let limit = Duration::from_micros(micros);
            match meter {
                Meter::CpuSeconds => self.live.signals.cpu_taken(limit).await,
                _ => tokio::time::sleep(limit.saturating_sub(self.so_far().wall_seconds.duration())).await,
            }
            let limit = standing.limit(meter).unwrap_or(micros);
            Exhausted { scope: standing.scope, meter, limit, spent: standing.spent.of(meter).saturating_add(micros) }
        };
        let mut told = self.spent.subscribe();
        let met = tokio::select! {
            biased;
            // The sender lives as long as this.
            _ = told.wait_for(Option::is_some) => None,
            exhausted = time_of(Meter::CpuSeconds) => Some(exhausted),
            exhausted = time_of(Meter::WallSeconds) => Some(exhausted),
        };
        if let Some(exhausted) = met {
            self.meet(exhausted);
        }
        self.calls.kept(&self.live.signals).await;
        self.live.signals.trap_now(Stop::BudgetSpent);
        std::future::pending().await
    }

    fn meet(&self, exhausted: Exhausted) {
        self.spent.send_if_modified(|spent| {
            let is_first = spent.is_none();
            spent.get_or_insert(exhausted);
            is_first
        });
    }

    /// Takes the turn for one charge; whoever is still on the way to the store has it. Its number comes with it.
    async fn turn(&self) -> (Arc<OwnedSemaphorePermit>, u64) {
        match Arc::clone(&self.turn).acquire_owned().await {
            Ok(turn) => (Arc::new(turn), self.charges.fetch_add(1, Ordering::Relaxed) + 1),
            // Nobody closes it.
            Err(_) => std::future::pending().await,
        }
    }

    /// Makes one charge; where it is for a call that is about to leave, only when every budget has something left.
    async fn make(&self, more: Spend, is_call: bool) -> Result<(), Failed> {
        let (turn, number) = self.turn().await;
        let fence = self.live.fence;
        let mut patience = Patience::new();
        loop {
            let may = if is_call { self.live.signals.may_act() } else { self.live.signals.holds_lease() };
            if !may {
                return Err(Failed::Unkept(
                    "the attempt may begin nothing more: it is stopped, or the lease of its run is lost".to_owned(),
                ));
            }
            let (accounts, turn, so_far) = (Arc::clone(&self.accounts), Arc::clone(&turn), self.so_far());
            let decide = move |txn: &mut Txn<'_>| -> Result<(), TxnStop<Exhausted>> {
                // The next charge waits until this one is decided, also where nobody waits for it any more.
                let _turn = &turn;
                txn.held(&accounts.run.run_id, fence);
                if is_call {
                    let standings = accounts.standings(txn)?;
                    let is_made = accounts.account(txn)?.has_charged(fence, number);
                    if let Some(exhausted) = exhausted(&standings, &so_far).filter(|_| !is_made) {
                        return Err(TxnStop::Refused(exhausted));
                    }
                }
                accounts.charge(txn, (fence, number), more)
            };
            let reads = if is_call { self.accounts.reads() } else { self.accounts.written() };
            match self.committer.commit(reads, Vec::new(), decide).await {
                Ok(()) => return Ok(()),
                Err(CommitError::Refused(exhausted)) => return Err(Failed::Exhausted(exhausted)),
                Err(error) if error.is_loss() => return Err(Failed::Unkept("the lease of its run is lost".to_owned())),
                Err(CommitError::Store(error)) if !error.is_transient() => return Err(Failed::Unkept(error.to_string())),
                Err(_) => patience.wait().await,
            }
        }
    }
}

enum Failed {
    Exhausted(Exhausted),
    Unkept(String),
}

#[async_trait]
impl Account for AttemptAccount {
    async fn begin_call(&self) -> Result<(), Refused> {
        if self.exhausted().is_none() {
            // From here on: a guest must not be stopped between the charge and the call.
            let call = self.calls.one();
            match self.make(Spend { calls: 1, ..Spend::default() }, true).await {
                Ok(()) => {
                    call.begins();
                    return Ok(());
                }
                Err(Failed::Unkept(why)) => return Err(Refused::Unkept(why)),
                Err(Failed::Exhausted(exhausted)) => {
                    // Whoever stops the guest must not take it for a call that has given it something to keep.
                    drop(call);
                    self.meet(exhausted);
                }
            }
        }
        // The guest hears nothing of it: it is stopped in this call, once its other calls have ended.
        std::future::pending().await
    }

    async fn charge(&self, used: Spend) {
        if used != Spend::default() && self.make(used, false).await.is_err() {
            // The attempt's end adds what was not charged.
            tracing::debug!("what a call used is charged with the attempt's end");
        }
    }

    fn end_call(&self) {
        self.calls.end_one();
    }

    fn counts_tokens(&self) -> bool {
        self.limits(Meter::Tokens) || self.limits(Meter::Money)
    }

    fn counts_money(&self) -> bool {
        self.limits(Meter::Money)
    }
}
