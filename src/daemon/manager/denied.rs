//! What a run was refused.

use super::Manager;
use crate::daemon::error::ManagerError;
use crate::domain::http::{Denied, WhyDenied};
use crate::domain::id::RunId;

impl Manager {
    /// The refused calls of a run's attempts that have ended, each with the rule that stopped it.
    ///
    /// # Errors
    /// There is no such run.
    pub async fn why_denied(&self, id: &RunId) -> Result<WhyDenied, ManagerError> {
        let run = self.run(id).await?;
        let mut told = WhyDenied { run_id: run.run_id.clone(), agent_id: run.agent_id.clone(), total: 0, denied: Vec::new() };
        for attempt in self.attempts(id).await? {
            let Some(http) = attempt.http else { continue };
            told.total = told.total.saturating_add(http.refused);
            told.denied.extend(http.calls.into_iter().filter_map(|call| {
                let url = format!("{}{}", call.origin, call.path);
                let refusal = call.refused?;
                Some(Denied { attempt: attempt.attempt_number, at: call.at, method: call.method, url, refusal })
            }));
        }
        Ok(told)
    }
}
