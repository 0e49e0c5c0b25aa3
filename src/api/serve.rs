//! Listens, serves connections, and stops cleanly.
//!
//! Invariants: no more than `MOST_CONNECTIONS` are open at once (further callers wait in the kernel's queue); a caller who is slow
//! with its headers or does not read its answer is dropped within a bound; when `serve` returns, no connection is left.

use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::FromRequestParts;
use axum::http::request::Parts;
use axum::{Extension, Router};
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::stall::StallLimit;
use super::tls::ListenerTls;

/// How many connections are open at once: well below the thousand files that a process may open by default.
const MOST_CONNECTIONS: usize = 512;
/// How long a caller may take for the head of a request, idle time between two requests included.
const HEAD_WITHIN: Duration = Duration::from_secs(30);
/// How long a caller may not read what is sent to it.
const STALLED_FOR: Duration = Duration::from_secs(30);
/// How long to leave the listener alone when the machine has no room for another connection.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Whether the server is to end, for handlers that would otherwise wait for long.
#[derive(Clone, Default)]
pub(super) struct Stopping(CancellationToken);

impl Stopping {
    /// Returns when the server is to end; cancellation safe.
    pub(super) async fn wait(&self) {
        self.0.cancelled().await;
    }
}

impl<S: Send + Sync> FromRequestParts<S> for Stopping {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Infallible> {
        Ok(parts.extensions.get::<Stopping>().cloned().unwrap_or_default())
    }
}

/// What connections share.
struct Server {
    router: Router,
    /// The end has come: no more requests, no more waiting.
    shutdown: CancellationToken,
    /// The grace is over: whatever is left is dropped.
    over: CancellationToken,
    connections: TaskTracker,
    room: Arc<Semaphore>,
    tls: Option<Arc<ListenerTls>>,
}

/// Serves the router on all listeners until `shutdown`. Then it stops accepting, ends event streams and waits, and gives requests
/// that are being answered `grace` to finish.
pub async fn serve(listeners: Vec<TcpListener>, tls: Option<ListenerTls>, router: Router, shutdown: CancellationToken, grace: Duration) {
    let server = Server {
        router: router.layer(Extension(Stopping(shutdown.clone()))),
        shutdown,
        over: CancellationToken::new(),
        connections: TaskTracker::new(),
        room: Arc::new(Semaphore::new(MOST_CONNECTIONS)),
        tls: tls.map(Arc::new),
    };
    futures::future::join_all(listeners.into_iter().map(|listener| server.accept(listener))).await;
    server.shutdown.cancelled().await;
    server.connections.close();
    if tokio::time::timeout(grace, server.connections.wait()).await.is_err() {
        tracing::warn!(connections = server.connections.len(), "requests were not answered within the grace and are dropped");
        server.over.cancel();
        server.connections.wait().await;
    }
}

impl Server {
    /// Accepts until the end.
    async fn accept(&self, listener: TcpListener) {
        loop {
            let accepted = tokio::select! {
                () = self.shutdown.cancelled() => return,
                accepted = self.next(&listener) => accepted,
            };
            match accepted {
                Ok((stream, permit)) => self.spawn(stream, permit),
                Err(error) => {
                    // Too few descriptors, most likely: those that end make room.
                    tracing::warn!(%error, "a connection could not be accepted");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    async fn next(&self, listener: &TcpListener) -> std::io::Result<(TcpStream, tokio::sync::OwnedSemaphorePermit)> {
        let permit = Arc::clone(&self.room).acquire_owned().await.map_err(std::io::Error::other)?;
        let (stream, _): (TcpStream, SocketAddr) = listener.accept().await?;
        Ok((stream, permit))
    }

    fn spawn(&self, stream: TcpStream, permit: tokio::sync::OwnedSemaphorePermit) {
        // Without it a small answer may wait for the acknowledgement of the one before.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "a connection keeps its delay");
        }
        let stream = StallLimit::new(stream, STALLED_FOR);
        let connection = Connection { router: self.router.clone(), shutdown: self.shutdown.clone(), over: self.over.clone() };
        let tls = self.tls.clone();
        self.connections.spawn(async move {
            match tls {
                None => connection.serve(stream).await,
                Some(tls) => connection.serve_safely(&tls, stream).await,
            }
            drop(permit);
        });
    }
}

/// One caller's connection.
struct Connection {
    router: Router,
    shutdown: CancellationToken,
    over: CancellationToken,
}

impl Connection {
    /// Serves a caller with TLS, who has as long for the handshake as for the head of a request.
    async fn serve_safely<T: AsyncRead + AsyncWrite + Unpin>(self, tls: &Arc<ListenerTls>, stream: T) {
        let shaken = tokio::select! {
            shaken = tokio::time::timeout(HEAD_WITHIN, tls.accept(stream)) => shaken,
            () = self.shutdown.cancelled() => return,
        };
        match shaken {
            Ok(Ok(stream)) => self.serve(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a caller could not agree on TLS"),
            Err(_) => tracing::debug!("a caller was too slow with its part of TLS"),
        }
    }

    /// Serves requests until the caller or the server has enough.
    async fn serve<T: AsyncRead + AsyncWrite + Unpin>(self, stream: T) {
        let (io, service) = (TokioIo::new(stream), TowerToHyperService::new(self.router));
        let mut builder = http1::Builder::new();
        let connection = builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN).serve_connection(io, service);
        let mut connection = pin!(connection);
        let ended = tokio::select! {
            ended = connection.as_mut() => ended,
            () = self.shutdown.cancelled() => {
                connection.as_mut().graceful_shutdown();
                tokio::select! {
                    ended = connection.as_mut() => ended,
                    () = self.over.cancelled() => Ok(()),
                }
            }
        };
        if let Err(error) = ended {
            tracing::debug!(%error, "a connection ended early");
        }
    }
}
