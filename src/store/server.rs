//! What the stores behind a network share: the server's present, which alone judges leases and due times, and what is said of a server
//! that is not believed.
//!
//! How it fails: before a server has told its present there is none.

use std::sync::{Arc, Mutex, PoisonError};
#[cfg(any(feature = "postgres", feature = "redis"))]
use std::time::Duration;

use super::StoreError;
use super::request::Times;
use crate::clock::Clock;
use crate::domain::time::Timestamp;

/// How a sentence about a server begins whose certificate is refused.
const UNPROVEN: &str = "does not prove who it is";

/// What is to be said of a server, if what a client said of it is that its certificate is refused. `option` is how the store's URL names
/// the file of a CA.
pub fn unproven(said: &str, option: &str) -> Option<String> {
    let (_, why) = said.split_once("invalid peer certificate: ")?;
    // What follows is a driver's own.
    let why = why.split(", labels:").next().unwrap_or(why);
    Some(format!(
        "{UNPROVEN}: its certificate is refused ({why}); name the CA that signed it by `{option}=FILE` in the store's URL, and see that it is \
         made out to this host and has not expired"
    ))
}

/// An error of the first connection. A certificate that is refused then stays refused; later it is an outage like another, for somebody
/// is changing it.
pub fn at_first(error: StoreError) -> StoreError {
    match error {
        StoreError::Unavailable(what) if what.contains(UNPROVEN) => StoreError::Invalid(what),
        error => error,
    }
}

/// The present by a server's clock.
pub struct ServerClock {
    clock: Arc<dyn Clock>,
    is_given: bool,
    /// What the server told last, and when that was by this machine's clock that does not step.
    told: Mutex<Option<(Timestamp, Timestamp)>>,
}

impl ServerClock {
    /// The present that the server tells; between two answers it is reckoned by this clock's steady time, whatever its wall clock says.
    pub fn of_server(clock: Arc<dyn Clock>) -> Self {
        ServerClock { clock, is_given: false, told: Mutex::default() }
    }

    /// This clock in place of the server's, so that tests say what time it is.
    pub fn given(clock: Arc<dyn Clock>) -> Self {
        ServerClock { clock, is_given: true, told: Mutex::default() }
    }

    /// The present that judges in place of the server's; none when the server judges.
    pub(super) fn instead(&self) -> Option<Times> {
        self.is_given.then(|| Times::of_clock(&*self.clock))
    }

    /// Takes in what the server just told, and answers with the present that judges.
    pub(super) fn tell(&self, server: Timestamp) -> Times {
        *self.told.lock().unwrap_or_else(PoisonError::into_inner) = Some((server, self.clock.steady()));
        self.instead().unwrap_or(Times { now: server, steady: server })
    }

    /// The present, if the server told it no longer ago than so.
    #[cfg(any(feature = "postgres", feature = "redis"))]
    pub(super) fn now_within(&self, age: Duration) -> Option<Timestamp> {
        let told = *self.told.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = told.is_some_and(|(_, at)| self.clock.steady().since(at) <= age);
        if self.is_given || is_recent { self.now() } else { None }
    }

    /// The present as far as it is known; none as long as the server has told nothing.
    pub(super) fn now(&self) -> Option<Timestamp> {
        if let Some(times) = self.instead() {
            return Some(times.now);
        }
        let (server, at) = (*self.told.lock().unwrap_or_else(PoisonError::into_inner))?;
        Some(server + self.clock.steady().since(at))
    }
}
