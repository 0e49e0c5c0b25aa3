//! From TOML and environment to typed settings.
//!
//! Invariant: nothing else in the crate reads either. The environment beats the file, the file beats the defaults, and
//! every setting remembers which it was. It fails with all that is wrong at once, one sentence each, and then gives no
//! settings at all; only in a text that is not TOML are the settings not judged.

mod agent_file;
mod agents;
mod bounds;
mod bucket;
mod budget;
pub mod changes;
mod client;
mod document;
mod environment;
mod fault;
mod hash;
mod http;
mod named_store;
mod prices;
mod provider;
mod registered;
mod section;
mod seed;
mod server;
mod settings;
pub mod spec;
mod store_url;
mod tokens;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::domain::agent::Limits;
use crate::domain::id::AgentId;
use crate::domain::time::Seconds;

pub use crate::domain::secret::{Secret, TokenHash};
pub use agent_file::{AGENT_FILE, AgentFile, agent_file};
pub use client::{Client, client};
pub use environment::Environment;
pub use fault::{ConfigFault, ConfigFaults, Origin};
pub use named_store::{NamedStore, named_store, shows_password};
pub use registered::registered_agent;
pub use section::Entry;
pub use settings::{
    AgentSettings, BucketSettings, LogFormat, Logging, NamedToken, Paths, Queue, Retention, Scheduler, Server, Settings, StoreSettings,
    TaskEntry, TlsFiles, Worker,
};

pub use store_url::ServerUrl;
pub use tokens::is_token_name;

use document::{Node, Table, Value};
use fault::{shown, suggestion};
use section::{Reading, Section, key, text_of, whole_of};
use store_url::StoreUrl;

/// Every key of config/sandclock.toml, commented, with its default.
pub const REFERENCE: &str = include_str!("../../config/sandclock.toml");

/// The largest file that is read, in bytes.
const LARGEST_FILE: u64 = 16 * 1024 * 1024;
const SECTIONS: [&str; 17] = [
    "default_agent",
    "server",
    "tokens",
    "store",
    "paths",
    "workspace",
    "worker",
    "scheduler",
    "queue",
    "retention",
    "plugins",
    "agents",
    "credentials",
    "prices",
    "limits",
    "tasks",
    "logging",
];

/// The settings, and what is to be said of them.
#[derive(Clone, Debug, PartialEq)]
pub struct Loaded {
    /// The settings.
    pub settings: Settings,
    /// Every setting with its value and origin, in the order of the reference.
    pub entries: Vec<Entry>,
    /// What does no harm and should be known, one sentence each.
    pub warnings: Vec<String>,
    /// The file that was read.
    pub file: Option<Arc<Path>>,
}

/// Loads the settings from a file, if there is one, and the environment. Blocks on the file system.
///
/// # Errors
/// The file, or the token's file that it names, cannot be read; a value, a key or a variable is wrong. All are told.
pub fn load(file: Option<&Path>, env: &Environment) -> Result<Loaded, ConfigFaults> {
    let Some(file) = file.map(Path::to_owned).or_else(|| env.config_file()) else {
        return parse("", Path::new(""), env).map(|loaded| Loaded { file: None, ..loaded });
    };
    match text_in(&file) {
        Ok(text) => parse(&text, &file, env),
        Err(message) => Err(ConfigFaults(vec![ConfigFault { origin: Origin::Default, key: None, message }])),
    }
}

fn text_in(file: &Path) -> Result<String, String> {
    let name = shown(&file.to_string_lossy());
    let unreadable = |error: std::io::Error| format!("the configuration file `{name}` cannot be read ({error}); name one that can");
    let about = std::fs::metadata(file).map_err(unreadable)?;
    if about.is_dir() {
        return Err(format!("the configuration file `{name}` is a folder; name the file in it"));
    }
    if about.len() > LARGEST_FILE {
        return Err(format!("the configuration file `{name}` is larger than {LARGEST_FILE} bytes; split off what is not configuration"));
    }
    let bytes = std::fs::read(file).map_err(unreadable)?;
    String::from_utf8(bytes).map_err(|error| {
        format!("the configuration file `{name}` is not UTF-8 at byte {}; save it as UTF-8", error.utf8_error().valid_up_to())
    })
}

/// As [`load`], with the file's text given; `file` is the name that faults and tasks carry.
///
/// # Errors
/// As [`load`].
pub fn parse(text: &str, file: &Path, env: &Environment) -> Result<Loaded, ConfigFaults> {
    let file: Arc<Path> = Arc::from(file);
    let root = document::parse(text, &file).map_err(ConfigFaults)?;
    let default = AgentId::parse(agents::DEFAULT_AGENT)
        .map_err(|error| ConfigFaults(vec![ConfigFault { origin: Origin::Default, key: None, message: error.to_string() }]))?;
    let seed = seed::translate(env);
    let mut reading = Reading { env, seed, faults: env.faults().collect(), entries: Vec::new(), variables: BTreeSet::new() };
    let settings = read(&mut reading, &root, default);
    let mut faults = reading.faults;
    faults.append(&mut reading.seed.faults);
    if !faults.is_empty() {
        return Err(ConfigFaults(faults));
    }
    let mut warnings = reading.seed.warnings;
    warnings.extend(unknown_variables(env, &reading.variables));
    Ok(Loaded { settings, entries: reading.entries, warnings, file: Some(file) })
}

/// Variables that look like ours are told of and not refused: orchestrators make some of their own from a service's name.
fn unknown_variables(env: &Environment, known: &BTreeSet<&'static str>) -> Vec<String> {
    let also = [environment::CONFIG_FILE, client::URL];
    let unknown = env.names().filter(|name| name.starts_with(environment::OWN) && !known.contains(name) && !also.contains(name));
    unknown
        .map(|name| {
            let near = suggestion(name, known.iter().copied());
            let near = if near.starts_with("did") { near } else { "the reference file lists those that are".to_owned() };
            format!("{} is not a variable that sandclock reads: {near}", shown(name))
        })
        .collect()
}

fn read<'a>(reading: &mut Reading<'a>, root: &'a Table, default: AgentId) -> Settings {
    reading.refuse_unknown(root, "", &SECTIONS);
    let default_agent = default_agent(reading, root, default);
    let tokens = tokens::read(reading, root.get("tokens"));
    let server = server::read(reading.section(root, "server"), tokens);
    let paths = paths(reading.section(root, "paths"));
    let store = store(reading.section(root, "store"), &paths.data);
    let bucket = bucket::read(reading.section(root, "workspace"));
    let worker = worker(reading.section(root, "worker"));
    let scheduler = scheduler(reading.section(root, "scheduler"));
    let queue = bounds::queue(reading.section(root, "queue"));
    let retention = bounds::retention(reading.section(root, "retention"));
    let quarantine_after = plugins(reading.section(root, "plugins"));
    let logging = logging(reading.section(root, "logging"));
    let mut section = reading.section(root, "limits");
    let limits = agents::limits(&mut section, &Limits::default());
    section.finish();
    let credentials = http::credentials(reading, root.get("credentials"));
    let prices = prices::read(reading, root.get("prices"));
    let agents = agents::agents(reading, root.get("agents"), &default_agent, (&limits, &credentials));
    let tasks = agents::tasks(reading, root.get("tasks"));
    Settings {
        server,
        store,
        paths,
        bucket,
        worker,
        scheduler,
        queue,
        retention,
        default_agent,
        agents,
        limits,
        credentials: credentials.into_iter().filter_map(|(name, credential)| Some((name, credential?))).collect(),
        prices: Arc::new(prices),
        quarantine_after,
        tasks,
        logging,
    }
}

fn default_agent<'a>(reading: &mut Reading<'a>, root: &'a Table, default: AgentId) -> AgentId {
    let mut section = reading.top(root);
    let show = |id: &AgentId| id.as_str().into();
    section.or(key("default_agent", "SANDCLOCK_DEFAULT_AGENT"), default, show, |node| {
        AgentId::parse(text_of(node)?).map_err(|error| format!("names no agent: {error}"))
    })
}

fn paths(mut section: Section<'_, '_>) -> Paths {
    let data = section.path(key("data", "SANDCLOCK_DATA_DIR"), PathBuf::from(".sandclock"));
    let workspace = section.path(key("workspace", "SANDCLOCK_WORKSPACE_DIR"), data.join("workspace"));
    let plugins = section.path(key("plugins", "SANDCLOCK_PLUGINS_DIR"), PathBuf::from("plugins"));
    let cache = section.path(key("cache", "SANDCLOCK_CACHE_DIR"), data.join("cache"));
    section.finish();
    Paths { data, workspace, plugins, cache }
}

fn store(mut section: Section<'_, '_>, data: &Path) -> StoreSettings {
    let read = |node: &Node| {
        let text = text_of(node)?;
        store_url::parse(text).map(|url| (url.shown(text), url))
    };
    let default = ("sqlite".to_owned(), StoreUrl::Sqlite);
    let (_, url) = section.or(key("url", "SANDCLOCK_STORE"), default, |(shown, _)| shown.as_str().into(), read);
    let show = |name: &Option<String>| name.as_deref().unwrap_or_default().into();
    let name = |node: &Node, takers: bool, longest: usize| {
        let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'-' | b':');
        match text_of(node)? {
            "" => Ok(None),
            _ if !takers => Err(format!("means nothing for the store `{}`; leave it out", url.shown("that is set"))),
            text if text.len() <= longest && text.bytes().all(is_fit) => Ok(Some(text.to_owned())),
            _ => Err(format!("must be at most {longest} letters, digits, `_`, `-` and `:`")),
        }
    };
    let is_mongodb = matches!(url, StoreUrl::Mongodb(_));
    let has_prefix = is_mongodb || matches!(url, StoreUrl::Redis(_));
    let database = section.or(key("database", "SANDCLOCK_STORE_DATABASE"), None, show, |node| name(node, is_mongodb, 38));
    let prefix = section.or(key("prefix", "SANDCLOCK_STORE_PREFIX"), None, show, |node| name(node, has_prefix, 60));
    section.finish();
    settings_of(url, data, database, prefix)
}

/// The settings of a store, with their defaults.
fn settings_of(url: StoreUrl, data: &Path, database: Option<String>, prefix: Option<String>) -> StoreSettings {
    match url {
        StoreUrl::Memory => StoreSettings::Memory,
        StoreUrl::Sqlite => StoreSettings::Sqlite { path: data.join("sandclock.db") },
        StoreUrl::SqliteAt(path) => StoreSettings::Sqlite { path },
        StoreUrl::Postgres(url) => StoreSettings::Postgres { url },
        StoreUrl::Redis(url) => StoreSettings::Redis { url, prefix: prefix.unwrap_or_else(|| "sandclock".to_owned()) },
        StoreUrl::Mongodb(url) => StoreSettings::Mongodb { url, database, prefix: prefix.unwrap_or_default() },
    }
}

fn worker(mut section: Section<'_, '_>) -> Worker {
    let day = 86_400.0;
    let enabled = section.flag(key("enabled", "SANDCLOCK_WORKER_ENABLED"), true);
    let cores = std::thread::available_parallelism().map_or(1, |cores| u32::try_from(cores.get()).unwrap_or(1));
    let automatic = cores.saturating_mul(4);
    let max_running = section.or(
        key("max_running", "SANDCLOCK_MAX_RUNNING"),
        automatic,
        |most| (*most).into(),
        |node| match &node.value {
            Value::Text(text) if text == "auto" => Ok(automatic),
            _ => whole_of(node, &(1..=10_000)).map_err(|message| format!("{message}, or `auto`")),
        },
    );
    // The worker stops a guest two seconds before the lease ends, and needs time before that to renew it.
    let lease = section.seconds(key("lease_seconds", "SANDCLOCK_LEASE_SECONDS"), Seconds::whole(30), 3.0..=3600.0);
    let shutdown_grace = section.seconds(key("shutdown_grace_seconds", "SANDCLOCK_SHUTDOWN_GRACE_SECONDS"), Seconds::whole(30), 0.0..=day);
    let cancel_grace = section.seconds(key("cancel_grace_seconds", "SANDCLOCK_CANCEL_GRACE_SECONDS"), Seconds::whole(5), 0.0..=3600.0);
    let timeout = section.seconds(key("timeout_seconds", "SANDCLOCK_TIMEOUT_SECONDS"), Seconds::whole(3600), 0.001..=agents::LONGEST);
    let max_recoveries = section.whole(key("max_recoveries", "SANDCLOCK_MAX_RECOVERIES"), 3, 0..=1000);
    section.finish();
    Worker { enabled, max_running, lease, shutdown_grace, cancel_grace, timeout, max_recoveries }
}

fn scheduler(mut section: Section<'_, '_>) -> Scheduler {
    let dispatch_batch = section.whole(key("dispatch_batch", "SANDCLOCK_DISPATCH_BATCH"), 256, 1..=10_000);
    let misfire_grace =
        section.seconds(key("misfire_grace_seconds", "SANDCLOCK_MISFIRE_GRACE_SECONDS"), Seconds::whole(60), 0.0..=agents::LONGEST);
    let poll = section.seconds(key("poll_seconds", "SANDCLOCK_POLL_SECONDS"), Seconds::whole(5), 0.05..=3600.0);
    section.finish();
    Scheduler { dispatch_batch, misfire_grace, poll }
}

fn plugins(mut section: Section<'_, '_>) -> u32 {
    let quarantine_after = section.whole(key("quarantine_after", "SANDCLOCK_QUARANTINE_AFTER"), 5, 0..=1_000_000);
    section.finish();
    quarantine_after
}

fn logging(mut section: Section<'_, '_>) -> Logging {
    let level = section.or(key("level", "SANDCLOCK_LOG_LEVEL"), "info".to_owned(), |level| level.as_str().into(), level_of);
    let show = |format: &LogFormat| match format {
        LogFormat::Text => "text".into(),
        LogFormat::Json => "json".into(),
    };
    let format = section.or(key("format", "SANDCLOCK_LOG_FORMAT"), LogFormat::Text, show, |node| match text_of(node)? {
        "text" => Ok(LogFormat::Text),
        "json" => Ok(LogFormat::Json),
        other => Err(format!("must be `text` or `json`, not `{}`", shown(other))),
    });
    section.finish();
    Logging { level, format }
}

/// The filter's own parser takes a mistyped level for the name of a target, so the parts are judged here.
fn level_of(node: &Node) -> Result<String, String> {
    const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
    let text = text_of(node)?;
    let target = |name: &str| !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b':'));
    for part in text.split(',') {
        let (named, level) = part.split_once('=').map_or((None, part), |(name, level)| (Some(name), level));
        if !LEVELS.contains(&level) {
            return Err(format!("has `{}`, which is no level: {}", shown(level), suggestion(level, LEVELS)));
        }
        if let Some(name) = named.filter(|name| !target(name)) {
            return Err(format!("has the target `{}`, which is no name: write it as in `info,sandclock::api=debug`", shown(name)));
        }
    }
    Ok(text.to_owned())
}
