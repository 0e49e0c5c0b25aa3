//! Opening the file: it is ours or new, nobody else has it, and its schema is this version's.
//!
//! Invariant: a file that is not a sandclock store is not written to.
//!
//! How it fails: [`OpenError`], one sentence that says which file and what to do.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{ErrorKind, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Executor as _, Row as _};

use super::statements::OWNER;

/// What tells a sandclock store from other SQLite databases: `sclk`.
pub const APPLICATION_ID: u32 = 0x7363_6c6b;

/// The schema's versions, oldest first; each brings the one before it forward.
pub const MIGRATIONS: [&str; 4] = [
    include_str!("../migrations/sqlite/0001_records.sql"),
    include_str!("../migrations/sqlite/0002_retention.sql"),
    include_str!("../migrations/sqlite/0003_owner.sql"),
    include_str!("../migrations/sqlite/0004_buckets.sql"),
];

/// How the one writer uses the database.
const WRITER: &str = "PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; \
     PRAGMA journal_size_limit = 67108864; PRAGMA temp_store = MEMORY; PRAGMA cache_size = -16384; PRAGMA trusted_schema = OFF;";

/// Why a store cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// A daemon has it.
    #[error("the store {} is in use by another daemon{holder}; stop that one, or give this one a store of its own", path.display())]
    InUse {
        /// The file.
        path: PathBuf,
        /// The other one's process, where it is known.
        holder: String,
    },
    /// It is somebody else's.
    #[error("{} is a SQLite database of another program; it was not touched, give the store another path", .0.display())]
    Foreign(PathBuf),
    /// It is no database.
    #[error("{} is not a SQLite database; it was not touched, give the store another path or restore the file", .0.display())]
    NotADatabase(PathBuf),
    /// A later sandclock wrote it.
    #[error("the store {} has schema version {found} and this sandclock knows {known}; run the newer sandclock", path.display())]
    Newer {
        /// The file.
        path: PathBuf,
        /// Its version.
        found: i64,
        /// The latest one that is known here.
        known: i64,
    },
    /// Its contents cannot be read.
    #[error("the store {} is damaged: {what}; restore it from a copy, or move it away to begin anew", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What was found.
        what: String,
    },
    /// The system does not let us.
    #[error("the store {} cannot be opened: {what}; see that its directory exists, can be written to and has room", path.display())]
    Unusable {
        /// The file.
        path: PathBuf,
        /// What the system said.
        what: String,
    },
}

/// A connection that can write.
pub struct Opened {
    /// The connection.
    pub connection: SqliteConnection,
    /// The last order that was given to a record.
    pub last_order: i64,
    /// The epoch that the store is in; none when there was no room to take the next one.
    pub epoch: Option<i64>,
}

/// A file that nobody else may open as a store while this lives.
pub struct Claimed {
    /// The file, whatever links led to it.
    pub path: PathBuf,
    /// What keeps others out.
    pub lock: File,
}

/// Makes the directory, takes the lock and looks at the file without touching it.
///
/// # Errors
/// The file is not ours, or another daemon has it.
pub fn prepare(path: &Path) -> Result<Claimed, OpenError> {
    let unusable = |error: std::io::Error| OpenError::Unusable { path: path.to_owned(), what: error.to_string() };
    let path = real(path).map_err(unusable)?;
    let mut lock_path = path.as_os_str().to_owned();
    lock_path.push(".lock");
    let mut lock = OpenOptions::new().read(true).write(true).create(true).truncate(false).open(lock_path).map_err(unusable)?;
    match lock.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => return Err(OpenError::InUse { path, holder: holder(lock) }),
        Err(TryLockError::Error(error)) => return Err(unusable(error)),
    }
    inspect(&path)?;
    // The process number only helps whoever is refused, and a full disk has no room for it.
    if let Err(error) = lock.set_len(0).and_then(|()| writeln!(lock, "{}", std::process::id())) {
        tracing::debug!(%error, "the store's lock file does not name this process");
    }
    Ok(Claimed { path, lock })
}

/// The file without links, so that two ways to it meet at one lock. Its directory is made.
fn real(path: &Path) -> std::io::Result<PathBuf> {
    if path.exists() {
        return path.canonicalize();
    }
    let name = path.file_name().ok_or_else(|| std::io::Error::new(ErrorKind::InvalidInput, "the path names no file"))?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    std::fs::create_dir_all(parent)?;
    Ok(parent.canonicalize()?.join(name))
}

/// Who has the lock, as far as the lock's file tells.
fn holder(mut lock: File) -> String {
    let mut text = String::new();
    match lock.read_to_string(&mut text) {
        Ok(_) if !text.trim().is_empty() => format!(" (process {})", text.trim()),
        _ => String::new(),
    }
}

/// Tells from the file's first bytes whether it is ours; SQLite itself would already leave traces. Nothing is said of one that is not
/// there, or empty.
pub fn inspect(path: &Path) -> Result<(), OpenError> {
    const MAGIC: &[u8; 16] = b"SQLite format 3\0";
    let mut header = Vec::new();
    let read = File::open(path).and_then(|file| file.take(100).read_to_end(&mut header));
    match read {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(OpenError::Unusable { path: path.to_owned(), what: error.to_string() }),
        Ok(0) => return Ok(()),
        Ok(_) => {}
    }
    if header.len() < 100 || !header.starts_with(MAGIC) {
        return Err(OpenError::NotADatabase(path.to_owned()));
    }
    let id = header.get(68..72).and_then(|bytes| bytes.try_into().ok()).map(u32::from_be_bytes);
    if id == Some(APPLICATION_ID) { Ok(()) } else { Err(OpenError::Foreign(path.to_owned())) }
}

/// How every connection to the file is opened.
pub fn options(path: &Path) -> SqliteConnectOptions {
    SqliteConnectOptions::new()
        .filename(path)
        .busy_timeout(Duration::from_secs(5))
        .foreign_keys(false)
        .row_buffer_size(1024)
        .disable_statement_logging()
}

/// Opens the connection that writes, of a file that [`prepare`] let pass, brings its schema forward and takes the next epoch.
///
/// # Errors
/// The file is damaged, of a later version, or the system does not let us.
pub async fn open(path: &Path) -> Result<Opened, OpenError> {
    let options = options(path);
    let told = |error: sqlx::Error| told(path, &error);
    let mut connection = options.clone().create_if_missing(true).connect().await.map_err(told)?;
    let pages: i64 = number(&mut connection, "PRAGMA page_count").await.map_err(told)?;
    if pages == 0 {
        // Before the log exists, so that the file itself always says whose it is.
        let mark = format!("PRAGMA page_size = 8192; PRAGMA application_id = {APPLICATION_ID}");
        connection.execute(AssertSqlSafe(mark)).await.map_err(told)?;
    }
    connection.execute(WRITER).await.map_err(told)?;
    migrate(path, &mut connection).await?;
    // Counts of nothing only take room, and a full disk has none for their removal.
    match connection.execute("DELETE FROM count WHERE n = 0").await {
        Err(error) if !matches!(super::failed(&error), super::StoreError::Full(_)) => return Err(told(error)),
        Ok(_) | Err(_) => {}
    }
    let last_order = last_order(&mut connection).await.map_err(told)?;
    let epoch = match take_epoch(&mut connection).await {
        Ok(epoch) => Some(epoch),
        Err(error) if matches!(super::failed(&error), super::StoreError::Full(_)) => None,
        Err(error) => return Err(told(error)),
    };
    Ok(Opened { connection, last_order, epoch })
}

/// Takes the next epoch: whoever had the one before writes nothing any more.
pub async fn take_epoch(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    // What a statement returns comes before its commit, which a full disk may still refuse.
    connection.execute("UPDATE owner SET epoch = epoch + 1").await?;
    number(connection, OWNER).await
}

/// Opens another connection that writes, of a store that is open.
pub async fn connect(options: &SqliteConnectOptions) -> Result<Opened, sqlx::Error> {
    let mut connection = options.connect().await?;
    connection.execute(WRITER).await?;
    let last_order = last_order(&mut connection).await?;
    let epoch = Some(number(&mut connection, OWNER).await?);
    Ok(Opened { connection, last_order, epoch })
}

/// Sees that the schema is this version's, where it cannot be brought forward.
///
/// # Errors
/// It is another version's.
pub async fn check_version(path: &Path, connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let (found, known) = (version(path, connection).await?, MIGRATIONS.len());
    if usize::try_from(found).is_ok_and(|found| found == known) {
        return Ok(());
    }
    let what = format!("it has schema version {found} and this sandclock reads {known}; start its daemon with this one once");
    Err(OpenError::Unusable { path: path.to_owned(), what })
}

/// The schema's version.
///
/// # Errors
/// A later release wrote it, or it cannot be read.
pub async fn version(path: &Path, connection: &mut SqliteConnection) -> Result<i64, OpenError> {
    let found = number(connection, "PRAGMA user_version").await.map_err(|error| told(path, &error))?;
    let known = i64::try_from(MIGRATIONS.len()).unwrap_or(i64::MAX);
    if found > known {
        return Err(OpenError::Newer { path: path.to_owned(), found, known });
    }
    Ok(found)
}

async fn migrate(path: &Path, connection: &mut SqliteConnection) -> Result<(), OpenError> {
    let told = |error: sqlx::Error| told(path, &error);
    let found = version(path, connection).await?;
    for (version, migration) in (1_i64..).zip(MIGRATIONS).skip_while(|(version, _)| *version <= found) {
        let sql = format!("BEGIN IMMEDIATE; {migration} PRAGMA user_version = {version}; COMMIT");
        connection.execute(AssertSqlSafe(sql)).await.map_err(told)?;
    }
    Ok(())
}

/// The last order that was given to a record.
pub async fn last_order(connection: &mut SqliteConnection) -> Result<i64, sqlx::Error> {
    number(connection, "SELECT coalesce(max(seq), 0) FROM sqlite_sequence WHERE name = 'record'").await
}

/// The one number that a statement finds.
pub async fn number(connection: &mut SqliteConnection, sql: &'static str) -> Result<i64, sqlx::Error> {
    connection.fetch_one(sql).await?.try_get(0)
}

/// What an error means for the file.
pub fn told(path: &Path, error: &sqlx::Error) -> OpenError {
    let (path, what) = (path.to_owned(), super::said(error));
    match super::failed(error) {
        super::StoreError::Corrupt(_) => OpenError::Damaged { path, what },
        _ => OpenError::Unusable { path, what },
    }
}
