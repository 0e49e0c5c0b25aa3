//! Backups: whole, cut off, altered, and what a restore does to fences and leases.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sandclock::clock::Clock as _;
use sandclock::domain::event::EventName;
use sandclock::domain::id::WorkerId;
use sandclock::domain::run::Status;
use sandclock::store::transfer::{BackupFile, Digest, Header, Pages, Resting, Transfer, Walk, enter, fill, next_epoch, write_backup};
use sandclock::store::{Change, ChangeId, Guard, Kind, Outcome, Put, RecordId, Renewal};
use tempfile::TempDir;

use super::{ALL, Of, wish};
use crate::store::{ManualClock, event, plain, queued, request, run_id};

/// A store with some runs: number 1 is held by a worker, number 2 waits, the others have ended.
async fn some_runs(store: &Arc<dyn Transfer>, clock: &ManualClock) {
    let now = clock.now();
    let mut puts: Vec<Put> = Vec::new();
    let mut events = Vec::new();
    for number in 1..=40 {
        let mut run = queued(number, "t", "x", now);
        if number > 2 {
            run.status = Status::Completed;
        } else if number == 2 {
            run.queued_at = now + std::time::Duration::from_secs(1);
        }
        events.push(event(&run, EventName::Queued, now));
        puts.push(Put::run(&run, now).unwrap());
    }
    puts.push(plain(Kind::Task, "t", "{\"a\": 1}\n"));
    puts.push(plain(Kind::Result, "odd", "not JSON \u{1} at all"));
    let change = Change { id: ChangeId(7), guards: Vec::new(), puts, deletes: Vec::new(), events };
    assert_eq!(store.apply(vec![change]).await.unwrap(), [Outcome::Applied]);
    assert_eq!(store.claim(request(1, "zombie.1", &[("x", None)], 1)).await.unwrap().len(), 1);
}

async fn write(store: &Arc<dyn Transfer>, path: &Path, clock: &ManualClock) -> Digest {
    let (mut walk, fences_above) = Walk::of_whole(Arc::clone(store).picture().await.unwrap()).await.unwrap();
    write_backup(path, &Header::new("sqlite", clock.now(), fences_above), &mut walk, |_| ()).await.unwrap()
}

struct Backup {
    clock: Arc<ManualClock>,
    folder: TempDir,
    path: PathBuf,
    digest: Digest,
}

async fn some_backup() -> Backup {
    let clock = ManualClock::new();
    let source = Of::Sqlite.spot(&clock).await.unwrap();
    some_runs(&source.store, &clock).await;
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("store.backup");
    let digest = write(&source.store, &path, &clock).await;
    Backup { clock, folder, path, digest }
}

#[tokio::test]
async fn a_backup_is_its_owner_s_alone_and_overwrites_nothing() {
    let Backup { clock, folder, path, digest } = some_backup().await;
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let names: Vec<_> = std::fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names, ["store.backup"], "nothing is left beside it");
    assert_eq!(BackupFile::verify(&path).await.unwrap().digest.difference(&digest), None);
    let source = Of::Sqlite.spot(&clock).await.unwrap();
    let mut walk = Walk::new(source.store.picture().await.unwrap());
    let again = write_backup(&path, &Header::new("sqlite", clock.now(), 0), &mut walk, |_| ()).await.unwrap_err().to_string();
    assert!(again.contains("is there already"), "{again}");
    let nowhere = folder.path().join("none/x");
    let nowhere = write_backup(&nowhere, &Header::new("sqlite", clock.now(), 0), &mut walk, |_| ()).await.unwrap_err().to_string();
    assert!(nowhere.contains("cannot be written"), "{nowhere}");
}

#[tokio::test]
async fn a_backup_that_was_cut_off_or_altered_is_refused() {
    let Backup { folder, path, .. } = some_backup().await;
    let whole = std::fs::read(&path).unwrap();
    let lines: Vec<&[u8]> = whole.split_inclusive(|byte| *byte == b'\n').collect();
    let without = |at: usize| [&lines[..at], &lines[at + 1..]].concat().concat();
    let last = lines.len() - 1;
    let mut swapped = lines.clone();
    swapped.swap(3, 4);
    let altered = String::from_utf8(whole.clone()).unwrap().replacen("\"rev\":", "\"rev\":1", 1).into_bytes();
    let doubled = [&lines[..4], &lines[3..]].concat().concat();
    for (name, bytes, wanted) in [
        ("cut in a line", whole[..whole.len() / 2].to_vec(), "cut off"),
        ("cut behind a line", lines[..last].concat(), "cut off"),
        ("without a record", without(3), "altered or is missing"),
        ("without its header", without(0), "no backup"),
        ("swapped", swapped.concat(), "altered or is missing"),
        ("altered", altered, "altered or is missing"),
        ("doubled", doubled, "altered or is missing"),
        ("with more behind it", [whole.clone(), lines[3].to_vec()].concat(), "behind the last"),
        ("with a line that is none", [&lines[..3], &[b"{}\n"], &lines[3..]].concat().concat(), "neither a record nor an event"),
        ("of a later form", String::from_utf8(whole.clone()).unwrap().replacen("backup\":1", "backup\":9", 1).into_bytes(), "form 9"),
        ("empty", Vec::new(), "no backup"),
        ("something else", vec![0; 64], "no backup"),
    ] {
        let broken = folder.path().join(name);
        std::fs::write(&broken, bytes).unwrap();
        let refused = BackupFile::verify(&broken).await.err().unwrap_or_else(|| panic!("{name} is taken")).to_string();
        assert!(refused.contains(wanted), "{name}: {refused}");
    }
}

async fn restored(backup: &Backup, of: Of) -> Option<(super::Spot, u64)> {
    let target = of.spot(&backup.clock).await?;
    let verified = BackupFile::verify(&backup.path).await.unwrap();
    let fences_above = next_epoch(verified.digest.last_fence, backup.clock.now());
    let wish = sandclock::store::transfer::Wish { fences_above, ..wish(backup.clock.now()) };
    let mut pages = Resting(BackupFile::open(&backup.path).await.unwrap(), backup.clock.now());
    let filled = fill(&target.store, &mut pages as &mut dyn Pages, wish, |_| ()).await.unwrap();
    assert_eq!(filled.found.total(), backup.digest.total());
    enter(&*target.store).await.unwrap();
    Some((target, fences_above))
}

#[tokio::test]
async fn a_restore_has_old_leases_lose_and_every_new_fence_above_them() {
    let backup = some_backup().await;
    for of in ALL {
        let Some((target, above)) = restored(&backup, of).await else { continue };
        let store = &target.store;
        let zombie = WorkerId::parse("zombie.1").unwrap();
        let lease = std::time::Duration::from_secs(30);
        // Its lease has not passed by the clock, but by the restore.
        assert_eq!(store.renew(&zombie, &[(run_id(1), 1)], lease).await.unwrap(), [Renewal::Lost], "{of:?}");
        let late = Change {
            id: ChangeId(9),
            guards: vec![Guard::Held(run_id(1), 1)],
            puts: vec![plain(Kind::Task, "late", "{}")],
            deletes: Vec::new(),
            events: Vec::new(),
        };
        assert!(matches!(store.apply(vec![late]).await.unwrap()[..], [Outcome::Refused(_)]), "{of:?}");
        let expired = store.due(sandclock::store::DueKind::ExpiredLeases, 10).await.unwrap().records;
        assert_eq!(expired.iter().map(|record| record.id.clone()).collect::<Vec<_>>(), [RecordId::run(&run_id(1))], "{of:?}");
        // A run of the backup, and one of the same name as one that was lost with what came after it.
        let now = backup.clock.now();
        let new = Change { id: ChangeId(10), puts: vec![Put::run(&queued(99, "t", "x", now), now).unwrap()], ..empty() };
        store.apply(vec![new]).await.unwrap();
        backup.clock.advance(std::time::Duration::from_secs(2));
        let claimed = store.claim(request(2, "new.1", &[("x", None)], 10)).await.unwrap();
        assert_eq!(claimed.len(), 2, "{of:?}");
        for claim in &claimed {
            assert_eq!(claim.run.lease_generation, above + 1, "{of:?}");
        }
        assert_eq!(store.renew(&WorkerId::parse("new.1").unwrap(), &[(run_id(2), above + 1)], lease).await.unwrap().len(), 1);
        backup.clock.advance(std::time::Duration::from_secs(60));
    }
}

fn empty() -> Change {
    Change { id: ChangeId(0), guards: Vec::new(), puts: Vec::new(), deletes: Vec::new(), events: Vec::new() }
}
