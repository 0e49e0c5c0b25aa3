//! The room through which guests reach the world: outgoing HTTP, judged, paid for and recorded.
//!
//! Invariants: a request leaves only when an entry of the agent's allow-list agrees with it and the address that it connects to is public
//! or granted; credentials are put in here, for the one host that they name, and known to the redactor before; whatever becomes of a
//! call, it is counted, bounded and recorded. How it fails: the guest is told that its request was refused or broke, and the record says
//! why and which lines of the configuration would allow it.

mod account;
pub mod address;
mod attempt;
mod bill;
mod body;
mod client;
mod credential;
mod ledger;
mod pace;
mod redact;
mod till;
mod usage;

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use arc_swap::ArcSwap;
use tokio::runtime::Handle;

pub use account::{Account, Refused as ChargeRefused};
pub use attempt::{AttemptHttp, Begin, Timing};
pub use body::GuestBody;
pub use client::{Lookup, SystemLookup};
pub use redact::{Held, Redactor};

use crate::clock::Clock;
use crate::domain::price::Prices;
use client::Clients;
use credential::Values;
use pace::Pace;

/// What all attempts of a daemon share: clients, credentials, paces.
pub struct Gateway {
    runtime: Handle,
    clock: Arc<dyn Clock>,
    clients: Clients,
    values: Values,
    paces: Mutex<HashMap<String, Arc<Pace>>>,
    redactor: Arc<Redactor>,
    prices: ArcSwap<Prices>,
}

impl Gateway {
    /// A gateway whose connections live on this runtime, which must have timers and input and output. Nothing is opened yet.
    pub fn new(runtime: Handle, clock: Arc<dyn Clock>) -> Arc<Self> {
        Self::with_lookup(runtime, clock, Arc::new(SystemLookup))
    }

    /// The same with another resolver.
    pub fn with_lookup(runtime: Handle, clock: Arc<dyn Clock>, lookup: Arc<dyn Lookup>) -> Arc<Self> {
        let redactor = Arc::<Redactor>::default();
        let values = Values::new(Arc::clone(&redactor));
        Arc::new(Gateway {
            runtime,
            clock,
            clients: Clients::new(lookup),
            values,
            paces: Mutex::default(),
            redactor,
            prices: ArcSwap::default(),
        })
    }

    /// What takes the secrets of this daemon out of texts.
    pub fn redactor(&self) -> &Arc<Redactor> {
        &self.redactor
    }

    /// Puts a price table into force for the attempts that start from now on.
    pub fn set_prices(&self, prices: Arc<Prices>) {
        self.prices.store(prices);
    }

    fn pace(&self, credential: &str) -> Arc<Pace> {
        let mut paces = self.paces.lock().unwrap_or_else(PoisonError::into_inner);
        Arc::clone(paces.entry(credential.to_owned()).or_default())
    }
}
