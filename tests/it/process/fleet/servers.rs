//! The server behind a fleet, or the servers, and what they do to it.

use std::any::Any;
use std::time::{Duration, Instant};

use mongodb::bson::doc;
use sqlx::ConnectOptions as _;
use sqlx::postgres::PgConnectOptions;
use tokio::net::TcpStream;

use crate::servers::own::{OwnServer, ReplicaSet, Stop};
use crate::servers::proxy::Proxy;

/// The most connections of a server that is to run out of them, where one says so at its start.
pub const FEW: usize = 60;

/// For how long nobody else gets a connection.
const TAKEN: Duration = Duration::from_secs(2);

/// One server, which daemons reach by ways that can be cut; or a replica set, whose members they find by themselves.
pub enum Servers {
    One(Box<OwnServer>),
    Set(ReplicaSet),
}

impl Servers {
    /// A way to it and the URL by that way; no way to a set.
    pub async fn way(&self) -> (Option<Proxy>, String) {
        match self {
            Servers::One(server) => {
                let way = Proxy::to(server.port()).await;
                let url = server.url_by(way.port());
                (Some(way), url)
            }
            Servers::Set(set) => (None, set.url()),
        }
    }

    pub fn one(server: OwnServer) -> Servers {
        Servers::One(Box::new(server))
    }

    /// The only one.
    pub fn only(&mut self) -> &mut OwnServer {
        match self {
            Servers::One(server) => server,
            Servers::Set(_) => panic!("it is a set"),
        }
    }

    /// Ends the server, in this way or by `kill -9`, and starts it after a while.
    pub async fn restart(&mut self, how: Option<Stop>, after: Duration) {
        let server = match self {
            Servers::One(server) => server,
            Servers::Set(set) => loop {
                // The borrow ends with the look.
                if set.primary().await.is_some() {
                    break set.primary().await.expect("the primary that was just there");
                }
            },
        };
        match how {
            Some(how) => server.stop(how).await,
            None => server.kill().await,
        }
        tokio::time::sleep(after).await;
        server.start().await;
    }

    /// Lets the primary of a set step down.
    pub async fn step_down(&self) {
        let Servers::Set(set) = self else { panic!("only a primary steps down") };
        let client = mongodb::Client::with_uri_str(set.url()).await.unwrap();
        let step_down = doc! { "replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 10 };
        // It may close the connection before it has answered.
        let _closed = client.database("admin").run_command(step_down).await;
        client.shutdown().await;
    }

    /// Cuts the daemons' connections and takes all there are, for a while.
    pub async fn take_all(&mut self, ways: &[Proxy]) {
        let server = self.only();
        let (url, port) = (server.url(), server.port());
        let since = Instant::now();
        let mut taken: Vec<Box<dyn Any + Send>> = Vec::new();
        while since.elapsed() < TAKEN {
            ways.iter().for_each(Proxy::cut);
            for _ in 0..FEW {
                if url.starts_with("postgres") {
                    let Ok(connection) = url.parse::<PgConnectOptions>().unwrap().connect().await else { break };
                    taken.push(Box::new(connection));
                } else if let Ok(connection) = TcpStream::connect(("127.0.0.1", port)).await {
                    taken.push(Box::new(connection));
                }
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    }
}
