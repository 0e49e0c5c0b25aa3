//! A way to a server that a test can cut, or let nothing through.

use std::net::SocketAddr;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};

/// What becomes of connections.
#[derive(Clone, Copy, Debug, Default)]
struct Way {
    /// How often all of them were cut.
    cuts: u32,
    /// Nothing arrives any more, and nobody is told.
    is_silent: bool,
}

/// A listener that passes what it gets on to a server.
pub struct Proxy {
    port: u16,
    way: watch::Sender<Way>,
    passing: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a free port of 127.0.0.1 for who wants the server on that port.
    pub async fn to(server: u16) -> Proxy {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let way = watch::Sender::new(Way::default());
        let passing = tokio::spawn(pass(listener, SocketAddr::from(([127, 0, 0, 1], server)), way.subscribe()));
        Proxy { port, way, passing }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Ends all connections; new ones are passed on.
    pub fn cut(&self) {
        self.way.send_modify(|way| way.cuts += 1);
    }

    /// Holds back what is sent, by connections that there are and by new ones.
    pub fn silence(&self) {
        self.way.send_modify(|way| way.is_silent = true);
    }

    /// Lets pass again, and first what was held back, as a network does that repeats what was not acknowledged.
    pub fn open(&self) {
        self.way.send_modify(|way| way.is_silent = false);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.passing.abort();
    }
}

async fn pass(listener: TcpListener, server: SocketAddr, way: watch::Receiver<Way>) {
    let mut connections = JoinSet::new();
    loop {
        let Ok((client, _)) = listener.accept().await else { return };
        connections.spawn(connect(client, server, way.clone()));
        while connections.try_join_next().is_some() {}
    }
}

async fn connect(client: TcpStream, server: SocketAddr, mut way: watch::Receiver<Way>) {
    let cuts = way.borrow_and_update().cuts;
    let mut ways = (way.clone(), way.clone());
    let passing = async {
        if ways.0.wait_for(|way| !way.is_silent).await.is_err() {
            return;
        }
        // A server that is away refuses, and so does this.
        let Ok(server) = TcpStream::connect(server).await else { return };
        let ((from_client, to_client), (from_server, to_server)) = (client.into_split(), server.into_split());
        tokio::select! {
            () = copy(from_client, to_server, &mut ways.0) => {}
            () = copy(from_server, to_client, &mut ways.1) => {}
        }
    };
    tokio::select! {
        _ = way.wait_for(|way| way.cuts != cuts) => {}
        () = passing => {}
    }
}

async fn copy(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, way: &mut watch::Receiver<Way>) {
    let mut buffer = vec![0; 1 << 16];
    loop {
        let Ok(read @ 1..) = from.read(&mut buffer).await else { return };
        if way.wait_for(|way| !way.is_silent).await.is_err() || to.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}
