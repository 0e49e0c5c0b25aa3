//! What an attempt may spend: asked before its guest begins, watched while it runs, and settled with its outcome.

use std::sync::Arc;

use super::{Word, Work};
use crate::daemon::account::{Accounts, AttemptAccount, NotOpened};
use crate::daemon::executor::Start;
use crate::domain::lifecycle::Outcome;
use crate::domain::park::Park;
use crate::domain::policy::ErrorKind;
use crate::domain::run::Usage;
use crate::domain::spend::{Exhausted, Spend};
use crate::sandbox::{Ended, Stop};
use crate::store::PARKED_FOR;

/// The run waits for a grant.
pub(super) fn parked(exhausted: Exhausted) -> Outcome {
    Outcome::Parked { park: Park::Budget(exhausted), wait: PARKED_FOR }
}

/// What a guest's end comes to when a budget had nothing left for it: whatever it made of being refused, the run waits. One that answered
/// all the same, or that ends for another reason, does as it does.
pub(super) fn stopped_by(ended: &Ended, account: Option<&AttemptAccount>) -> Option<(Outcome, Spend)> {
    let account = account?;
    let exhausted = account.exhausted()?;
    let is_by_it = matches!(ended, Ended::Stopped(Stop::BudgetSpent) | Ended::Failed { .. } | Ended::TimedOut);
    is_by_it.then(|| (parked(exhausted), account.so_far()))
}

impl Work<'_> {
    /// The accounts that the attempt writes to, under the budgets of its task and its agent.
    pub(super) fn accounts(&self, start: &dyn Start) -> Arc<Accounts> {
        let budget = self.run.policy.budget.within(&start.budget());
        Arc::new(Accounts::new(Arc::clone(&self.run), budget, self.inner.settings().worker.daemon()))
    }

    /// Opens the account of an attempt whose run has a budget; where that has nothing left, the attempt ends at once.
    pub(super) async fn account(&self, accounts: &Arc<Accounts>) -> Result<Option<Arc<AttemptAccount>>, Word> {
        if !accounts.is_limited() {
            return Ok(None);
        }
        let (committer, clock, live) = (self.inner.committer.clone(), Arc::clone(&self.inner.clock), self.live.clone());
        let opened = AttemptAccount::open(Arc::clone(accounts), committer, clock, live).await;
        opened.map(|account| Some(Arc::new(account))).map_err(|not| match not {
            NotOpened::Exhausted(exhausted) => Word::Outcome(parked(exhausted), Usage::default()),
            NotOpened::LeaseLost if self.live.signals.holds_lease() => {
                Word::HandBack("the daemon was stopped before the attempt began", None)
            }
            NotOpened::LeaseLost => Word::Lost,
            NotOpened::Unread(why) => {
                let message = format!("the accounts of the run's budgets cannot be read: {why}");
                Word::Outcome(Outcome::Failed { kind: ErrorKind::Host, message, after: None }, Usage::default())
            }
        })
    }
}
