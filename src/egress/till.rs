//! What the calls of one attempt owe to its account, and the receipt for it.
//!
//! Invariants: what a call has used is charged once, by a task that goes on when the call is given up; no later call of the attempt leaves
//! before that, and the attempt's end waits for it. A budget that was found empty stays in mind, for the attempt ends by it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use futures::FutureExt as _;
use futures::future::{BoxFuture, Shared};
use tokio::runtime::Handle;
use tokio::sync::Notify;

use super::account::{Account, Refused};
use crate::domain::http::{Refusal, Rule};
use crate::domain::price::Prices;
use crate::domain::receipt::{ModelUse, Models, Tokens};
use crate::domain::spend::{Exhausted, Money, Spend};

/// Ready when something, and all before it, has been charged.
pub type Charged = Shared<BoxFuture<'static, ()>>;

#[derive(Default)]
struct State {
    last: Option<Charged>,
    /// Calls that have left.
    calls: u64,
    models: Models,
    /// Calls that may still have something to charge.
    open: u32,
    exhausted: Option<Exhausted>,
}

/// The calls' side of an attempt's account; without an account everything is free.
pub struct Till {
    runtime: Handle,
    account: Option<Arc<dyn Account>>,
    prices: Arc<Prices>,
    state: Mutex<State>,
    closed: Notify,
}

impl Till {
    /// Of an account, whose charges are made on this runtime and at these prices.
    pub fn new(runtime: &Handle, account: Option<Arc<dyn Account>>, prices: Arc<Prices>) -> Arc<Self> {
        Arc::new(Till { runtime: runtime.clone(), account, prices, state: Mutex::default(), closed: Notify::new() })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether what answers say of their cost must be seen.
    pub fn counts_tokens(&self) -> bool {
        self.account.as_ref().is_some_and(|account| account.counts_tokens())
    }

    /// The budget that was found empty, if one was.
    pub fn exhausted(&self) -> Option<Exhausted> {
        self.state().exhausted
    }

    /// Asks whether a call may leave, once all that ended before it is charged.
    ///
    /// # Errors
    /// It must not leave.
    pub async fn begin(&self) -> Result<(), Refusal> {
        let Some(account) = &self.account else { return Ok(()) };
        self.owed().await;
        account.begin_call().await.map_err(|refused| {
            if let Refused::Exhausted(exhausted) = refused {
                self.state().exhausted.get_or_insert(exhausted);
            }
            Refusal { rule: Rule::Budget, sentence: refused.to_string(), toml: None }
        })
    }

    /// Charges what a call has used; what comes back is ready when that is done, and may be let go.
    pub fn charge(&self, used: Spend) -> Option<Charged> {
        let account = Arc::clone(self.account.as_ref()?);
        if used == Spend::default() {
            return None;
        }
        let mut state = self.state();
        let before = state.last.take();
        let charging = self.runtime.spawn(async move {
            account.charge(used).await;
            if let Some(before) = before {
                before.await;
            }
        });
        // A charge that panicked is no reason for the guest to wait.
        let charged = charging.map(|_| ()).boxed().shared();
        state.last = Some(charged.clone());
        Some(charged)
    }

    /// A call that is to be charged leaves.
    pub fn open(&self) {
        let mut state = self.state();
        state.open += 1;
        state.calls += 1;
    }

    /// How many calls have left.
    pub fn calls(&self) -> u64 {
        self.state().calls
    }

    /// What models were asked.
    pub fn models(&self) -> Models {
        self.state().models.clone()
    }

    /// Adds a call of a model to the receipt; gives it with its price.
    pub fn add(&self, model: Option<&str>, tokens: Tokens) -> ModelUse {
        let counts_money = self.account.as_ref().is_some_and(|account| account.counts_money());
        let price = self.prices.of(model.unwrap_or_default());
        // A budget of money would be none for a model that the table does not know, or an answer that names none.
        let dearest = || self.prices.dearest().filter(|_| counts_money);
        let (money, unpriced_tokens) = match price.copied().or_else(dearest) {
            Some(price) => (price.of(&tokens), 0),
            None => (Money::ZERO, tokens.total()),
        };
        let used = ModelUse { calls: 1, tokens, money, unpriced_tokens };
        let mut state = self.state();
        state.models.add(model, used);
        if unpriced_tokens == 0 && state.models.currency.is_empty() {
            state.models.currency.clone_from(&self.prices.currency);
        }
        used
    }

    /// Such a call has ended and has charged all.
    pub fn close(&self) {
        let mut state = self.state();
        state.open = state.open.saturating_sub(1);
        drop(state);
        if let Some(account) = &self.account {
            account.end_call();
        }
        self.closed.notify_waiters();
    }

    /// Returns when what was to be charged by now is.
    async fn owed(&self) {
        let last = self.state().last.clone();
        if let Some(last) = last {
            last.await;
        }
    }

    /// Returns when no call is open and all is charged. A call that was given up is open until whoever carried it notices.
    pub async fn settled(&self) {
        loop {
            let closed = self.closed.notified();
            tokio::pin!(closed);
            closed.as_mut().enable();
            if self.state().open == 0 {
                break;
            }
            closed.await;
        }
        self.owed().await;
    }
}
