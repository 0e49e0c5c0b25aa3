//! `sandclock serve`: the daemon, until a signal.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use clap::Args;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::Context;
use super::exit::{Exit, Fault};
use super::human;
use super::signals::Signals;
use crate::api::{self, Access, ApiSettings, ListenerTls};
use crate::config::{self, Loaded, Server, Settings};
use crate::daemon::open::{OpenError, Opened};
use crate::daemon::reload::{Follower, Source};
use crate::telemetry::{self, Level};

/// How long requests that are being answered may take when the daemon stops.
const REQUEST_GRACE: Duration = Duration::from_secs(5);

/// Start the daemon, until SIGTERM or SIGINT; a second signal ends its grace
#[derive(Args, Clone, Debug)]
pub struct ServeArgs {
    /// The configuration file [env: SANDCLOCK_CONFIG] [default: sandclock.toml, if it is there]
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Serve the API and fire schedules, and execute no runs
    #[arg(long)]
    no_worker: bool,
}

/// Carries the verb out.
///
/// # Errors
/// The configuration is wrong, an address or a folder cannot be had.
pub async fn execute(args: ServeArgs, context: &Context) -> Result<Exit, Fault> {
    let mut loaded = config::load(args.config.as_deref(), &context.env).map_err(|faults| Fault::usage(faults.to_string()))?;
    if args.no_worker {
        loaded.settings.worker.enabled = false;
    }
    let level = telemetry::init(&loaded.settings.logging).map_err(|error| Fault::usage(error.to_string()))?;
    for warning in &loaded.warnings {
        tracing::warn!("{warning}");
    }
    let source = Source { file: args.config, env: context.env.clone() };
    daemon(&loaded, source, &level, context).await?;
    Ok(Exit::Done)
}

/// Opens the daemon, serves its API until the first signal and stops it.
async fn daemon(loaded: &Loaded, source: Source, level: &Level, context: &Context) -> Result<(), Fault> {
    let settings = &loaded.settings;
    let hangups = Signals::hangups()?;
    let (listeners, addresses) = listen(&settings.server).await?;
    let tls = tls(&settings.server, &addresses)?;
    let opened = tokio::select! {
        opened = Opened::open(loaded) => opened.map_err(fault_of)?,
        () = context.signals.asked().cancelled_owned() => return Ok(()),
    };
    let access = Arc::new(Access::new(settings.server.token.clone(), settings.server.tokens.clone()));
    let router = api::router(opened.manager().clone(), api_settings(settings, Arc::clone(&access)));
    let scheme = if settings.server.tls.is_some() { "https" } else { "http" };
    let told = addresses.iter().map(|address| format!("{scheme}://{address}{}", settings.server.api_prefix)).collect::<Vec<_>>().join(", ");
    // Nobody may read stdout, which is no reason not to serve.
    let _ = context.screen.line(&format!("sandclock {} listens on {told}", env!("CARGO_PKG_VERSION")));
    tracing::info!(addresses = told, worker = settings.worker.enabled, "ready");
    let closing = CancellationToken::new();
    let api = tokio::spawn(api::serve(listeners, tls, router, closing.clone(), REQUEST_GRACE));
    let grace = Mutex::new(settings.worker.shutdown_grace);
    let took = |settings: &Settings| {
        access.exchange(settings.server.token.clone(), settings.server.tokens.clone());
        *grace.lock().unwrap_or_else(PoisonError::into_inner) = settings.worker.shutdown_grace;
        if let Err(error) = level.change(&settings.logging) {
            tracing::warn!("{error}");
        }
    };
    tokio::select! {
        () = context.signals.asked().cancelled_owned() => {}
        never = Follower::new(&opened, loaded, source).follow(hangups, took) => match never {},
    }
    let grace = grace.into_inner().unwrap_or_else(PoisonError::into_inner);
    tracing::info!("stopping");
    // The API stays open, and not ready, so that whoever waits for the last attempts can watch or cancel them.
    opened.stop(grace.duration(), context.signals.hurry()).await;
    closing.cancel();
    api.await.map_err(|error| Fault::failed(format!("the API ended in a panic ({error}); what was acknowledged is kept")))?;
    tracing::info!("stopped");
    Ok(())
}

fn api_settings(settings: &Settings, access: Arc<Access>) -> ApiSettings {
    ApiSettings {
        api_prefix: settings.server.api_prefix.clone(),
        access,
        request_timeout: settings.server.request_timeout.duration(),
        max_body_bytes: usize::try_from(settings.server.max_body_bytes).unwrap_or(usize::MAX),
        default_agent: settings.default_agent.clone(),
    }
}

/// What the listeners prove themselves with, where they do.
fn tls(server: &Server, addresses: &[SocketAddr]) -> Result<Option<ListenerTls>, Fault> {
    let tls = server.tls.clone().map(ListenerTls::open).transpose().map_err(|error| Fault::usage(error.to_string()))?;
    if let (None, Some(address)) = (&tls, addresses.iter().find(|address| !address.ip().to_canonical().is_loopback())) {
        tracing::warn!(
            %address,
            "tokens travel unprotected to this address: set server.tls_cert_file, or let only a proxy that speaks TLS reach it"
        );
    }
    Ok(tls)
}

fn fault_of(error: OpenError) -> Fault {
    match error {
        OpenError::Tasks(faults) => Fault::usage(faults.to_string()),
        error => Fault::failed(error.to_string()),
    }
}

/// Listens on every address; without IPv6 on this machine its addresses are left out, as long as one of the others is there.
async fn listen(server: &Server) -> Result<(Vec<TcpListener>, Vec<SocketAddr>), Fault> {
    let mut listeners = Vec::new();
    let mut missing = None;
    for address in &server.listen {
        match TcpListener::bind(address).await {
            Ok(listener) => listeners.push(listener),
            Err(error) if address.is_ipv6() && has_no_such_address(&error) => {
                tracing::warn!(%address, "this machine has no such address; the others are served");
                missing = Some(refused(*address, &error));
            }
            Err(error) => return Err(refused(*address, &error)),
        }
    }
    if let (true, Some(fault)) = (listeners.is_empty(), missing) {
        return Err(fault);
    }
    let addresses = listeners.iter().map(TcpListener::local_addr).collect::<Result<Vec<_>, _>>();
    let addresses = addresses.map_err(|error| Fault::failed(format!("a listener has no address ({error}); start it again")))?;
    Ok((listeners, addresses))
}

fn has_no_such_address(error: &std::io::Error) -> bool {
    let unsupported = rustix::io::Errno::AFNOSUPPORT.raw_os_error();
    error.kind() == std::io::ErrorKind::AddrNotAvailable || error.raw_os_error() == Some(unsupported)
}

fn refused(address: SocketAddr, error: &std::io::Error) -> Fault {
    let mend = match error.kind() {
        std::io::ErrorKind::AddrInUse => "stop what uses it, or set another with `server.listen`",
        _ => "set another with `server.listen`",
    };
    Fault::failed(format!("cannot listen on {address} ({}); {mend}", human::one_line(&error.to_string())))
}
