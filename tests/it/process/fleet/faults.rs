//! What befalls a fleet.

use std::time::Duration;

use super::super::daemon::patiently;
use super::super::workload::LEASE;
use super::Fleet;
use crate::servers::own::Stop;

/// Longer than a lease.
const LONG: Duration = LEASE.saturating_add(Duration::from_millis(500));

/// A fault, and its end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Fault {
    /// A daemon is killed, and started again.
    Kill,
    /// A daemon is killed, and started again when others have taken its runs.
    KillForLong,
    /// A daemon stands still for longer than its leases, and wakes.
    Freeze,
    /// The server ends in this way, or by `kill -9`, and starts again. Of a set it is the primary.
    Restart(Option<Stop>),
    /// The primary steps down.
    StepDown,
    /// All connections are cut, several times.
    Cut,
    /// Nothing reaches a daemon from the server, nor the server from it, for longer than its leases.
    Silence,
    /// The server has no connections left for daemons.
    Full,
}

impl Fleet {
    /// Lets a fault happen to whom the dice choose, and end.
    pub async fn befall(&mut self, fault: Fault) {
        let whom = self.one_of_them();
        println!("{fault:?}: {whom}");
        match fault {
            Fault::Kill => {
                self.kill(whom).await;
                self.pause(300).await;
                self.start(whom).await;
            }
            Fault::KillForLong => {
                self.kill(whom).await;
                tokio::time::sleep(LONG).await;
                self.start(whom).await;
            }
            Fault::Freeze => {
                let daemon = self.daemon(whom);
                daemon.freeze().await;
                tokio::time::sleep(LONG).await;
                daemon.thaw();
            }
            Fault::Restart(how) => {
                let after = Duration::from_millis(self.dice.roll(1500));
                self.servers.restart(how, after).await;
            }
            Fault::StepDown => self.servers.step_down().await,
            Fault::Cut => {
                for _ in 0..3 {
                    self.ways.iter().for_each(|way| way.cut());
                    self.pause(400).await;
                }
            }
            Fault::Silence => {
                self.ways[whom].silence();
                tokio::time::sleep(LONG).await;
                self.ways[whom].open();
            }
            Fault::Full => self.servers.take_all(&self.ways).await,
        }
        self.works().await;
    }

    async fn pause(&mut self, most_ms: u64) {
        tokio::time::sleep(Duration::from_millis(self.dice.roll(most_ms))).await;
    }

    /// Returns when every daemon takes work again, and some runs were acknowledged since.
    pub async fn works(&self) {
        for daemon in self.daemons.iter().flatten() {
            patiently("a daemon that is ready", async {
                while daemon.client.get(format!("{}/ready", daemon.url)).send().await.unwrap().status() != 200 {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
            })
            .await;
        }
        self.roaming.clients.more(10).await;
    }
}
