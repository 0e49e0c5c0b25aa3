//! Connecting: the server is one that transactions work on, and its collections are this version's.
//!
//! Invariant: whatever the URL says, writes wait for the majority and its journal, and reads go to the primary.
//!
//! How it fails: a server that cannot be reached now is [`StoreError::Unavailable`]; what no waiting mends is [`StoreError::Invalid`].

use std::sync::atomic::AtomicU64;
use std::sync::{Mutex, OnceLock};
use std::time::Duration;

use ::mongodb::bson::{Document, doc};
use ::mongodb::error::{Error, ErrorKind};
use ::mongodb::event::{EventHandler, command::CommandEvent};
use ::mongodb::options::{
    ClientOptions, CollectionOptions, DatabaseOptions, IndexOptions, ReadConcern, ReadPreference, ReturnDocument, SelectionCriteria,
};
use ::mongodb::{Client, Collection, Database, IndexModel};
use tokio::sync::Semaphore;

use super::super::StoreError;
use super::super::server::{ServerClock, at_first};
use super::abandoned::APPLICATION;
use super::documents::LeaseDoc;
use super::errors::{DUPLICATE_KEY, Server};
use super::pipelines::{AGENT, AGENT_BUCKETS, AGENT_LIVE, KIND, ORDERS, PARTS, READY, READY_DUE, RUN, STATUS, TASK, TASK_STATUS, WAIT};
use super::{CALL, DATABASE, MongoOptions, MongoStore, OnCommand, STATEMENT, Tables, durable};

/// The schema that this sandclock knows.
pub const SCHEMA: i64 = 2;
/// How long a server is looked for.
const FIND: Duration = Duration::from_secs(5);
/// What servers of version 6.0 speak.
const OLDEST_WIRE: i32 = 17;
/// The most connections that all but renewals use.
const CONNECTIONS: u32 = 16;
/// The most connections that renewals use.
const RENEWING: u32 = 2;
/// How much of what daemons told each other is kept.
const HINT_BYTES: u64 = 1 << 20;
/// There is such a collection already.
const NAMESPACE_EXISTS: i32 = 48;
/// The most characters of a name of a connection that are sent; the server takes 128 bytes.
const MOST_NAME: usize = 32;
/// Databases that are the server's own.
const RESERVED: [&str; 3] = ["admin", "local", "config"];

/// Connects to what the URL names.
pub async fn connect(url: &str, options: &MongoOptions, clock: ServerClock) -> Result<MongoStore, StoreError> {
    let mut store = reach(url, options, clock).await?;
    store.part = store.bounded(store.open()).await.map_err(at_first)?;
    Ok(store)
}

/// What can reach the store that the URL names, and has not yet.
pub async fn reach(url: &str, options: &MongoOptions, clock: ServerClock) -> Result<MongoStore, StoreError> {
    let late = |_| {
        StoreError::Unavailable(format!(
            "the MongoDB server did not answer within {} s; see that it runs and can be reached",
            CALL.as_secs()
        ))
    };
    let client_options = tokio::time::timeout(CALL, parse(url)).await.map_err(late)??;
    let named = client_options.default_database.clone().filter(|name| !RESERVED.contains(&name.as_str()));
    let name = options.database.clone().or(named).unwrap_or_else(|| DATABASE.to_owned());
    check_names(&name, &options.prefix)?;
    let hosts: Vec<String> = client_options.hosts.iter().map(ToString::to_string).collect();
    let server = Server::new(format!("{}/{name}", hosts.join(",")));
    let client = client(&client_options, client_options.max_pool_size.unwrap_or(CONNECTIONS), options, &server)?;
    let tables = Tables::of(&database(&client, &name), &options.prefix);
    let renewing = Renewing { options: client_options, given: options.clone(), database: name };
    Ok(MongoStore {
        clock,
        told_at: Mutex::default(),
        server,
        client,
        tables,
        renewed: OnceLock::new(),
        renewing,
        applying: Semaphore::new(1),
        claiming: Semaphore::new(1),
        part: 0,
        fences_above: AtomicU64::new(0),
        doubtful: Mutex::default(),
    })
}

/// How the connections of renewals are made. The driver works on the runtime that makes them, and renewals have one of their own, so that
/// no other work holds them up.
pub struct Renewing {
    options: ClientOptions,
    given: MongoOptions,
    database: String,
}

impl MongoStore {
    /// The leases, by connections of the runtime that renewed first.
    ///
    /// # Errors
    /// No client can be made.
    pub fn renewed(&self) -> Result<&Collection<LeaseDoc>, StoreError> {
        if let Some(leases) = self.renewed.get() {
            return Ok(leases);
        }
        let Renewing { options, given, database: name } = &self.renewing;
        let client = client(options, RENEWING, given, &self.server)?;
        let leases = database(&client, name).collection_with_options(self.tables.leases.name(), of_leases());
        Ok(self.renewed.get_or_init(|| leases))
    }
}

async fn parse(url: &str) -> Result<ClientOptions, StoreError> {
    // What the driver says of a URL may repeat its password.
    ClientOptions::parse(url).await.map_err(|error| match *error.kind {
        ErrorKind::DnsResolve { .. } => {
            StoreError::Unavailable("the name in the MongoDB URL cannot be resolved; see the name, and the DNS".to_owned())
        }
        _ => StoreError::Invalid(
            "the MongoDB URL cannot be read; it is mongodb://USER:PASSWORD@HOST:PORT/?OPTIONS, with special characters percent-encoded"
                .to_owned(),
        ),
    })
}

fn check_names(database: &str, prefix: &str) -> Result<(), StoreError> {
    let is_plain = |text: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || letter == '_' || letter == '-');
    if database.is_empty() || database.len() > 63 || !is_plain(database) || RESERVED.contains(&database) {
        return Err(StoreError::Invalid(
            "the name of the MongoDB database is not one; give 1 to 63 letters, digits, `-` and `_`, and none of the server's own"
                .to_owned(),
        ));
    }
    if prefix.len() > 63 || !is_plain(prefix) {
        return Err(StoreError::Invalid(
            "the prefix of the MongoDB collections is not one; give at most 63 letters, digits, `-` and `_`".to_owned(),
        ));
    }
    Ok(())
}

fn client(from: &ClientOptions, connections: u32, options: &MongoOptions, server: &Server) -> Result<Client, StoreError> {
    let mut own = from.clone();
    own.app_name = Some(application(from.app_name.as_deref()));
    own.server_selection_timeout = Some(FIND);
    own.connect_timeout = Some(FIND);
    own.selection_criteria = Some(primary());
    own.write_concern = Some(durable());
    own.read_concern = Some(ReadConcern::majority());
    own.retry_reads = Some(true);
    own.retry_writes = Some(true);
    own.max_pool_size = Some(connections);
    own.min_pool_size = own.min_pool_size.map(|least| least.min(connections));
    own.command_event_handler = options.on_command.clone().map(handler);
    Client::with_options(own).map_err(|error| server.failed(&error))
}

/// What the server calls our connections: by our name, and the one that the URL gives.
fn application(given: Option<&str>) -> String {
    match given {
        Some(given) if !given.starts_with(APPLICATION) => format!("{APPLICATION} {given}").chars().take(MOST_NAME).collect(),
        Some(given) => given.to_owned(),
        None => APPLICATION.to_owned(),
    }
}

fn handler(on_command: OnCommand) -> EventHandler<CommandEvent> {
    EventHandler::callback(move |event| {
        if let CommandEvent::Started(started) = event {
            on_command(&started.command_name, &started.command);
        }
    })
}

fn primary() -> SelectionCriteria {
    SelectionCriteria::ReadPreference(ReadPreference::Primary)
}

fn database(client: &Client, name: &str) -> Database {
    let options = DatabaseOptions::builder().read_concern(ReadConcern::majority()).write_concern(durable()).selection_criteria(primary());
    client.database_with_options(name, options.build())
}

fn of_leases() -> CollectionOptions {
    CollectionOptions::builder().read_concern(ReadConcern::local()).write_concern(durable()).selection_criteria(primary()).build()
}

impl Tables {
    fn of(database: &Database, prefix: &str) -> Tables {
        let name = |table: &str| format!("{prefix}{table}");
        Tables {
            records: database.collection(&name("records")),
            leases: database.collection_with_options(&name("leases"), of_leases()),
            events: database.collection(&name("events")),
            counts: database.collection(&name("counts")),
            meta: database.collection(&name("meta")),
            meta_now: database.collection_with_options(&name("meta"), of_leases()),
            hints: database.collection(&name("hints")),
        }
    }
}

impl MongoStore {
    /// Looks at the server, brings the schema forward, and answers which part of the counts is this handle's.
    async fn open(&self) -> Result<u32, StoreError> {
        self.check_server().await?;
        if self.version().await? < SCHEMA {
            self.create().await?;
        }
        let next = self.tables.meta.find_one_and_update(doc! { "_id": "handles" }, doc! { "$inc": { "n": 1_i64 } });
        let next = next.upsert(true).return_document(ReturnDocument::After).await.map_err(|error| self.server.failed(&error))?;
        let number = next.and_then(|next| next.get_i64("n").ok()).unwrap_or(0);
        self.read_now().await?;
        // Changes and claims have a part each.
        Ok(u32::try_from(number.rem_euclid(i64::from(PARTS / 2))).unwrap_or(0) * 2)
    }

    /// Refuses a server that the store cannot be on, and answers with what it says of itself.
    pub async fn check_server(&self) -> Result<Document, StoreError> {
        let hello = self.client.database("admin").run_command(doc! { "hello": 1 }).await.map_err(|error| self.server.failed(&error))?;
        if hello.get_i32("maxWireVersion").unwrap_or(0) < OLDEST_WIRE {
            return Err(StoreError::Invalid(format!("{} is older than MongoDB 6.0; update the server", self.server)));
        }
        if !hello.contains_key("setName") {
            return Err(StoreError::Invalid(format!(
                "{} is not a member of a replica set, and only those have transactions; start it with --replSet NAME and call \
                 rs.initiate() once, one member is enough",
                self.server
            )));
        }
        Ok(hello)
    }

    /// The schema's version, 0 where there is none; one of a later release is refused.
    pub async fn version(&self) -> Result<i64, StoreError> {
        let schema = self.tables.meta.find_one(doc! { "_id": "schema" }).max_time(STATEMENT).await;
        let schema = schema.map_err(|error| self.server.failed(&error))?;
        let found = schema.and_then(|schema| schema.get_i64("version").ok()).unwrap_or(0);
        if found > SCHEMA {
            return Err(StoreError::Invalid(format!(
                "{} has schema version {found} and this sandclock knows {SCHEMA}; run the newer sandclock",
                self.server
            )));
        }
        Ok(found)
    }

    /// Makes what there is not. Several may do so at once, and again.
    async fn create(&self) -> Result<(), StoreError> {
        let failed = |error: Error| self.server.failed(&error);
        let tables = &self.tables;
        let database = database(&self.client, &tables.meta.namespace().db);
        for name in [tables.records.name(), tables.leases.name(), tables.events.name(), tables.counts.name(), tables.meta.name()] {
            if let Err(error) = database.create_collection(name).await
                && !is_code(&error, NAMESPACE_EXISTS)
            {
                return Err(failed(error));
            }
        }
        if let Err(error) = database.create_collection(tables.hints.name()).capped(true).size(HINT_BYTES).await
            && !is_code(&error, NAMESPACE_EXISTS)
        {
            return Err(failed(error));
        }
        tables.records.create_indexes(record_indexes()).await.map_err(failed)?;
        tables.leases.create_indexes(lease_indexes()).await.map_err(failed)?;
        self.note(ORDERS, doc! { "$setOnInsert": { "n": 0_i64 } }).await?;
        self.note("schema", doc! { "$max": { "version": SCHEMA } }).await
    }

    async fn note(&self, id: &str, change: Document) -> Result<(), StoreError> {
        let meta: &Collection<Document> = &self.tables.meta;
        let mut done = meta.update_one(doc! { "_id": id }, change.clone()).upsert(true).await;
        if done.as_ref().is_err_and(|error| is_code(error, DUPLICATE_KEY)) {
            // Another daemon has just made it.
            done = meta.update_one(doc! { "_id": id }, change).await;
        }
        done.map(drop).map_err(|error| self.server.failed(&error))
    }
}

fn is_code(error: &Error, code: i32) -> bool {
    super::errors::code(error) == Some(code)
}

fn index(name: &str, keys: Document, only: Option<Document>) -> IndexModel {
    let options = IndexOptions::builder().name(name.to_owned()).partial_filter_expression(only).build();
    IndexModel::builder().keys(keys).options(options).build()
}

/// One for each way of finding records. Pages run along `ord`.
fn record_indexes() -> Vec<IndexModel> {
    let has = |field: &str| Some(doc! { field: { "$exists": true } });
    let is = |field: &str| Some(doc! { field: true });
    vec![
        index(KIND, doc! { "kind": 1, "ord": 1 }, None),
        index(TASK, doc! { "task": 1, "kind": 1, "ord": 1 }, has("task")),
        index(TASK_STATUS, doc! { "task": 1, "status": 1, "ord": 1 }, has("status")),
        index(AGENT, doc! { "agent": 1, "kind": 1, "ord": 1 }, Some(doc! { "kind": "task" })),
        index(AGENT_BUCKETS, doc! { "agent": 1, "ord": 1 }, Some(doc! { "kind": "key_value", "agent": { "$exists": true } })),
        index(AGENT_LIVE, doc! { "agent": 1, "ord": 1 }, is("live")),
        index(RUN, doc! { "run": 1, "kind": 1, "ord": 1 }, has("run")),
        index(STATUS, doc! { "status": 1, "ord": 1 }, has("status")),
        index(READY, doc! { "agent": 1, "due": 1, "ord": 1 }, is("ready")),
        index(READY_DUE, doc! { "due": 1 }, is("ready")),
        index(WAIT, doc! { "wait": 1, "due": 1, "ord": 1 }, has("wait")),
    ]
}

fn lease_indexes() -> Vec<IndexModel> {
    vec![
        index("until", doc! { "until": 1, "ord": 1 }, None),
        index("daemon", doc! { "daemon": 1, "until": 1, "ord": 1 }, None),
        index("token", doc! { "token": 1 }, None),
    ]
}
