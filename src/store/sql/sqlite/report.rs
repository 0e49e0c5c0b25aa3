//! How a SQLite file keeps what it acknowledges, which is up to the disk below it.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::statvfs;
use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection};
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, Row as _};

use super::super::super::report::{self, Commits, Fact, Report, Schema};
use super::super::super::{ChangeId, Store as _};
use super::SqliteStore;
use super::open::{MIGRATIONS, OpenError, inspect, number, options, told, version};
use super::room::{Room, Spare};
use crate::clock::Clock;

/// Looks at the file without a lock, and makes nothing.
pub async fn look(path: &Path) -> Result<Report, OpenError> {
    inspect(path)?;
    let mut facts = Vec::new();
    let mut found = 0;
    if path.metadata().is_ok_and(|file| file.len() > 0) {
        let mut connection = options(path).read_only(true).connect().await.map_err(|error| told(path, &error))?;
        found = version(path, &mut connection).await?;
        facts = of_file(&mut connection).await.map_err(|error| told(path, &error))?;
        // It has only read.
        let _ = connection.close().await;
    }
    facts.extend(of_disk(path));
    let count = |count: i64| u64::try_from(count).unwrap_or(0);
    Ok(Report {
        kind: "sqlite",
        address: path.display().to_string(),
        version: format!("SQLite {}", library().await),
        schema: Some(Schema { found: count(found), known: u64::try_from(MIGRATIONS.len()).unwrap_or(u64::MAX) }),
        clock_offset_seconds: None,
        facts,
        survives: "a run that was acknowledged is in the file's log, synced; it survives the daemon's and the machine's end".to_owned(),
    })
}

/// The version of the library that is built in.
async fn library() -> String {
    let version = async {
        let mut connection = SqliteConnectOptions::new().in_memory(true).disable_statement_logging().connect().await?;
        connection.fetch_one("SELECT sqlite_version()").await?.try_get::<String, _>(0)
    };
    version.await.unwrap_or_default()
}

async fn of_file(connection: &mut SqliteConnection) -> Result<Vec<Fact>, sqlx::Error> {
    let mode: String = connection.fetch_one("PRAGMA journal_mode").await?.try_get(0)?;
    let pages = number(connection, "PRAGMA page_count").await?;
    let bytes = pages.saturating_mul(number(connection, "PRAGMA page_size").await?);
    Ok(vec![
        Fact::fine("size", mebibytes(u64::try_from(bytes).unwrap_or(0))),
        Fact::fine("journal_mode", mode),
        Fact::fine("synchronous", "FULL: the daemon syncs every commit"),
    ])
}

fn of_disk(path: &Path) -> Vec<Fact> {
    let there = folder_of(path);
    vec![file_system(kind_of(&there)), room(path, &there)]
}

/// The folder of the file, or the nearest one that is there.
fn folder_of(path: &Path) -> PathBuf {
    let path = std::path::absolute(path).unwrap_or_else(|_| path.to_owned());
    path.ancestors().skip(1).find(|folder| folder.is_dir()).unwrap_or(Path::new("/")).to_owned()
}

fn room(path: &Path, there: &Path) -> Fact {
    let Ok(disk) = statvfs(there) else {
        return Fact::unknown("free space", "the system does not tell it; see that the disk does not run full");
    };
    let left = mebibytes(disk.f_bavail.saturating_mul(disk.f_frsize));
    match Room::of(path).check(Spare::default()) {
        Ok(()) => Fact::fine("free space", left),
        Err(_) => Fact::note("free space", left, "so little is left that nothing new is begun; make room on the disk"),
    }
}

fn mebibytes(bytes: u64) -> String {
    match bytes >> 20 {
        mebibytes if mebibytes >= 10_240 => format!("{} GiB", mebibytes >> 10),
        mebibytes => format!("{mebibytes} MiB"),
    }
}

/// What a file system is called, by the number that the system has for it.
#[cfg(target_os = "linux")]
fn kind_of(folder: &Path) -> Option<u64> {
    // The width and the sign of the number differ between machines; it has 32 bits.
    rustix::fs::statfs(folder).ok().and_then(|disk| u64::try_from(i128::from(disk.f_type) & 0xffff_ffff).ok())
}

/// Other systems have no such number.
#[cfg(not(target_os = "linux"))]
fn kind_of(_folder: &Path) -> Option<u64> {
    None
}

fn file_system(kind: Option<u64>) -> Fact {
    const IN_MEMORY: &str = "everything is lost when the machine ends; give the store a path on a disk";
    const REMOTE: &str = "a file system behind a network does not keep SQLite's locks and syncs as they must be: what was acknowledged may \
                          be lost and the file damaged; give the store a path on a disk of this machine, or use PostgreSQL";
    const LAYER: &str = "the file is in a container's own layer, and is lost when the container is made anew; put it on a volume";
    const SOMEBODY_S: &str = "a program stands between the store and its disk; see that it syncs what it is told to";
    let (name, lost) = match kind {
        Some(0x0102_1994) => ("tmpfs", Some(IN_MEMORY)),
        Some(0x8584_58f6) => ("ramfs", Some(IN_MEMORY)),
        Some(0x6969) => ("nfs", Some(REMOTE)),
        Some(0xff53_4d42 | 0xfe53_4d42 | 0x517b) => ("smb", Some(REMOTE)),
        Some(0x0102_1997) => ("9p", Some(REMOTE)),
        Some(0x00c3_6400) => ("ceph", Some(REMOTE)),
        Some(0x794c_7630) => ("overlay", Some(LAYER)),
        Some(0x6573_5546) => return Fact::note("file system", "fuse", SOMEBODY_S),
        Some(0x6a65_6a63) => return Fact::note("file system", "virtiofs", SOMEBODY_S),
        Some(0xef53) => ("ext4", None),
        Some(0x5846_5342) => ("xfs", None),
        Some(0x9123_683e) => ("btrfs", None),
        Some(0x2fc1_2fc1) => ("zfs", None),
        Some(0xf2f5_2010) => ("f2fs", None),
        Some(other) => return Fact::fine("file system", format!("number {other:#x}")),
        None => return Fact::unknown("file system", "the system does not tell it; see that it is on a disk of this machine"),
    };
    lost.map_or_else(|| Fact::fine("file system", name), |lost| Fact::loses("file system", name, lost))
}

/// A folder that goes with this value.
struct Scratch(PathBuf);

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
            tracing::warn!(folder = %self.0.display(), %error, "the folder of the measurement could not be removed; remove it");
        }
    }
}

/// Measures commits of a store of its own beside the file.
pub async fn measure_beside(path: &Path, clock: Arc<dyn Clock>, first: ChangeId) -> Result<Commits, OpenError> {
    let unusable = |what: String| OpenError::Unusable { path: path.to_owned(), what };
    let folder = folder_of(path).join(format!(".sandclock-check-{:032x}", first.0));
    std::fs::create_dir(&folder).map_err(|error| unusable(error.to_string()))?;
    let folder = Scratch(folder);
    let store = SqliteStore::open(&folder.0.join("check.db"), clock).await?;
    let measured = report::measure(&store, first).await;
    store.close().await;
    measured.map_err(|error| unusable(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::super::super::super::report::Verdict;
    use super::*;
    use crate::clock::SystemClock;

    #[tokio::test]
    async fn a_file_that_is_not_there_is_told_and_not_made() {
        let folder = tempfile::tempdir().unwrap();
        let report = look(&folder.path().join("a/b/x.db")).await.unwrap();
        assert_eq!(report.schema, Some(Schema { found: 0, known: 4 }));
        assert!(report.version.starts_with("SQLite 3."), "{}", report.version);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_store_that_a_daemon_has_is_read_and_measured_beside_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        let clock: Arc<dyn Clock> = Arc::new(SystemClock);
        let store = SqliteStore::open(&path, Arc::clone(&clock)).await.unwrap();
        let report = look(&path).await.unwrap();
        assert_eq!(report.schema, Some(Schema { found: 4, known: 4 }));
        assert!(report.facts.contains(&Fact::fine("journal_mode", "wal")), "{report:?}");
        let before = std::fs::read_dir(folder.path()).unwrap().count();
        assert!(measure_beside(&path, clock, ChangeId(7)).await.unwrap().count > 0);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), before);
        store.close().await;
        // Whoever only looked left nothing that keeps the next one out.
        look(&path).await.unwrap();
        SqliteStore::open(&path, Arc::new(SystemClock)).await.unwrap().close().await;
    }

    #[tokio::test]
    async fn what_is_not_ours_or_newer_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        std::fs::write(&path, "no database, though it is longer than a header of one hundred bytes. ".repeat(3)).unwrap();
        assert!(matches!(look(&path).await, Err(OpenError::NotADatabase(_))));
        std::fs::remove_file(&path).unwrap();
        SqliteStore::open(&path, Arc::new(SystemClock)).await.unwrap().close().await;
        let mut connection = options(&path).connect().await.unwrap();
        connection.execute("PRAGMA user_version = 99").await.unwrap();
        connection.close().await.unwrap();
        assert!(matches!(look(&path).await, Err(OpenError::Newer { found: 99, .. })));
    }

    #[test]
    fn disks_that_lose_are_told() {
        let loses = |kind| matches!(file_system(kind).verdict, Verdict::Loses(_));
        assert!([0x0102_1994, 0x6969, 0x794c_7630].into_iter().all(|kind| loses(Some(kind))));
        assert!(![0xef53, 0x5846_5342, 1].into_iter().any(|kind| loses(Some(kind))) && !loses(None));
    }
}
