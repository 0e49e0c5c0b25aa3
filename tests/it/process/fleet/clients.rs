//! Clients that go from one daemon to the next until one has answered.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use serde_json::Value;
use tokio::sync::watch;
use uuid::Uuid;

use super::super::daemon::id;
use super::super::workload::{Clients, Dice, FED};

/// How long a client waits for an answer before it asks elsewhere.
const IMPATIENCE: Duration = Duration::from_secs(3);

/// Where daemons are to be found at the moment.
pub type Doors = watch::Sender<Vec<String>>;

/// Clients of several daemons that are up all the while, and how many runs they have asked for.
pub struct Roaming {
    pub clients: Clients,
    pub asked: Arc<AtomicU64>,
    is_over: watch::Sender<bool>,
}

/// One client.
pub struct Client {
    http: reqwest::Client,
    doors: watch::Receiver<Vec<String>>,
    dice: Dice,
}

impl Client {
    pub fn new(doors: &Doors, dice: &mut Dice) -> Client {
        let http = reqwest::Client::builder().no_proxy().build().unwrap();
        Client { http, doors: doors.subscribe(), dice: dice.another() }
    }

    /// Asks until somebody answers whole, with 200 or 409; under the key, so that what was asked twice is done once.
    async fn post(&mut self, path: &str, key: Option<&str>) -> (u16, String) {
        loop {
            let doors = self.doors.borrow_and_update().clone();
            let door = &doors[usize::try_from(self.dice.roll(doors.len() as u64)).unwrap()];
            let mut request = self.http.post(format!("{door}{path}")).timeout(IMPATIENCE);
            if let Some(key) = key {
                request = request.header("Idempotency-Key", key);
            }
            let answered = async {
                let response = request.send().await.ok()?;
                Some((response.status().as_u16(), response.text().await.ok()?))
            };
            match answered.await {
                Some((status @ (200 | 409), text)) => return (status, text),
                None | Some((503, _)) => tokio::time::sleep(Duration::from_millis(self.dice.roll(100))).await,
                Some(other) => panic!("{other:?}"),
            }
        }
    }

    /// A run of a task.
    pub async fn run(&mut self, task: &str) -> Value {
        let key = Uuid::now_v7().to_string();
        let (status, text) = self.post(&format!("/background/tasks/{task}/run"), Some(&key)).await;
        assert_eq!(status, 200, "{text}");
        serde_json::from_str(&text).unwrap()
    }

    /// Lets others have their turn.
    async fn rest(&mut self) {
        tokio::time::sleep(Duration::from_millis(self.dice.roll(250))).await;
    }
}

impl Roaming {
    /// One client a task that asks for runs, and one that asks for runs and for their cancels.
    pub fn start(doors: &Doors, dice: &mut Dice) -> Roaming {
        let (mut clients, asked, is_over) = (Clients::default(), Arc::<AtomicU64>::default(), watch::Sender::new(false));
        for task in FED.iter().map(|(task, _)| *task).chain(["doomed"]) {
            let mut client = Client::new(doors, dice);
            let (asked, is_over) = (Arc::clone(&asked), is_over.subscribe());
            let (acknowledged, cancelled) = (clients.acknowledged.clone(), Arc::clone(&clients.cancelled));
            clients.feeding.spawn(async move {
                while !*is_over.borrow() {
                    asked.fetch_add(1, Ordering::Relaxed);
                    let run = id(&client.run(task).await).to_owned();
                    acknowledged.send_modify(|runs| runs.push(run.clone()));
                    if task == "doomed" && client.post(&format!("/background/runs/{run}/cancel"), None).await.0 == 200 {
                        cancelled.lock().unwrap().push(run);
                    }
                    client.rest().await;
                }
            });
        }
        Roaming { clients, asked, is_over }
    }

    /// Ends the clients when what they have asked for last was acknowledged.
    pub async fn end(&mut self) {
        self.is_over.send_replace(true);
        self.clients.done().await;
    }
}
