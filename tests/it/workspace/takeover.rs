//! A run's directory when the next attempt takes it over from one that may still be at work.

use std::fs::{File, OpenOptions, Permissions};
use std::io::Write as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::panic::{AssertUnwindSafe, catch_unwind, resume_unwind};
use std::sync::atomic::AtomicU32;
use std::time::{Duration, SystemTime};

use super::*;

/// The attempt under `fence` takes over from the one under `lost`.
fn takeover(fence: u64, lost: u64) -> Takeover {
    Takeover { fence, lost: Some(lost), most: ROOM }
}

fn aside(place: &Place) -> PathBuf {
    place.all.root().join(format!("{RUN}@aside"))
}

/// The names in the folder of what was set aside.
fn set_aside(place: &Place) -> Vec<String> {
    let Ok(entries) = fs::read_dir(aside(place)) else { return Vec::new() };
    let mut names: Vec<String> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

#[test]
fn a_copy_has_all_of_it_and_shares_none_of_it() {
    let place = place();
    let at = |name: &str| place.run.join(name);
    let outside = place.keep.path().join("outside");
    fs::write(&outside, "not the guest's").unwrap();
    fs::create_dir_all(at("a/b/empty")).unwrap();
    fs::write(at("a/b/file"), "text").unwrap();
    fs::write(at("script"), "#!").unwrap();
    fs::set_permissions(at("script"), Permissions::from_mode(0o754)).unwrap();
    fs::set_permissions(at("a/b"), Permissions::from_mode(0o711)).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000);
    File::options().append(true).open(at("a/b/file")).unwrap().set_modified(long_ago).unwrap();
    for (target, link) in [("b/file", "a/inside"), ("nowhere", "dangling"), ("/etc", "etc"), (outside.to_str().unwrap(), "out")] {
        symlink(target, at(link)).unwrap();
    }
    fs::hard_link(at("a/b/file"), at("again")).unwrap();
    fs::hard_link(&outside, at("stolen")).unwrap();
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(1 << 32).unwrap();
    sparse.write_all_at(b"island", 1 << 31).unwrap();

    let before = place.all.disk_usage(RUN).unwrap();
    let taken = place.all.take_over(RUN, takeover(2, 1), &|| true).unwrap();
    assert_eq!((taken.path.as_path(), taken.is_fresh), (place.run.as_path(), false));
    let found = taken.found.unwrap();
    assert_eq!(place.all.disk_usage(RUN).unwrap(), before);
    let targets: usize = ["b/file", "nowhere", "/etc", outside.to_str().unwrap()].iter().map(|target| target.len()).sum();
    assert_eq!((found.bytes, found.entries), (before.bytes + targets as u64, before.entries), "a quota counts what links point to by name");

    let old = |name: &str| aside(&place).join("fence-1").join(name);
    assert_eq!(fs::read_to_string(at("a/b/file")).unwrap(), "text");
    assert_eq!(fs::metadata(at("a/b/file")).unwrap().modified().unwrap(), long_ago);
    assert_eq!(fs::metadata(at("script")).unwrap().mode() & 0o777, 0o754);
    assert_eq!(fs::metadata(at("a/b")).unwrap().mode() & 0o777, 0o711);
    assert!(at("a/b/empty").is_dir());
    for link in ["a/inside", "dangling", "etc", "out"] {
        assert_eq!(fs::read_link(at(link)).unwrap(), fs::read_link(old(link)).unwrap());
    }
    let inode = |path: PathBuf| fs::symlink_metadata(path).unwrap().ino();
    assert_eq!(inode(at("again")), inode(at("a/b/file")), "a file with two names is still one");
    for name in ["again", "stolen", "script", "sparse"] {
        assert_ne!(inode(at(name)), inode(old(name)), "{name}");
    }
    assert_eq!(fs::metadata(at("stolen")).unwrap().nlink(), 1);
    let copied = File::open(at("sparse")).unwrap();
    let mut island = [0; 6];
    copied.read_exact_at(&mut island, 1 << 31).unwrap();
    assert_eq!((&island, copied.metadata().unwrap().len()), (b"island", 1 << 32));
    assert!(copied.metadata().unwrap().blocks() < 1 << 12, "holes stay holes");
    assert!(paths(&place.all, 100).iter().all(|path| !path.contains("aside") && !path.contains("fence")));
}

#[test]
fn whatever_the_lost_attempt_still_writes_goes_where_it_was_set_aside() {
    let place = place();
    let before = place.all.create(RUN).unwrap();
    let mut log = OpenOptions::new().create(true).append(true).open(place.run.join("log")).unwrap();
    log.write_all(b"1\n").unwrap();
    let after = place.all.take_over(RUN, takeover(2, 1), &|| true).unwrap();
    log.write_all(b"zombie\n").unwrap();
    before.write_mirrors(Some(b"stale"), None).unwrap();
    assert!(before.write_output_if_absent("stale").unwrap());
    assert_eq!(paths(&place.all, 100), ["log"]);
    assert_eq!(text_of(&place.all, "log"), "1\n");
    after.write_mirrors(Some(b"fresh"), None).unwrap();
    assert_eq!(text_of(&place.all, "run.json"), "fresh");
    let old = aside(&place).join("fence-1");
    assert_eq!(fs::read_to_string(old.join("log")).unwrap(), "1\nzombie\n");
    assert_eq!(fs::read_to_string(old.join("run.json")).unwrap(), "stale");
}

/// Takes over and dies at the `last` time that it is asked whether to go on, as `kill -9` would have it; says whether it came to that.
fn dies(place: &Place, takeover: Takeover, last: u32) -> bool {
    let asked = AtomicU32::new(0);
    let ask = || {
        if asked.fetch_add(1, Ordering::SeqCst) == last {
            // Unlike a panic it writes nothing.
            resume_unwind(Box::new("the daemon died, as the test wants"));
        }
        true
    };
    catch_unwind(AssertUnwindSafe(|| place.all.take_over(RUN, takeover, &ask))).is_err()
}

/// A run's directory with a few things in it.
fn filled() -> Place {
    let place = place();
    fs::create_dir_all(place.run.join("folder/inner")).unwrap();
    fs::write(place.run.join("folder/one"), "1").unwrap();
    fs::hard_link(place.run.join("folder/one"), place.run.join("two")).unwrap();
    symlink("two", place.run.join("link")).unwrap();
    place
}

fn assert_whole(place: &Place, takeover: Takeover) {
    assert_eq!(paths(&place.all, 100), ["folder", "folder/inner", "folder/one", "link", "two"], "{takeover:?}");
    assert_eq!(text_of(&place.all, "two"), "1");
    let left = set_aside(place);
    assert!(left.len() == 1 && left[0].starts_with("fence-"), "{takeover:?} leaves {left:?}");
}

#[test]
fn a_takeover_that_died_anywhere_is_finished_by_the_next_attempt() {
    // The same daemon's next attempt, another daemon's, and whoever only writes the mirrors of a run that has ended.
    let next = [takeover(3, 1), takeover(3, 2), Takeover { fence: 3, lost: None, most: ROOM }];
    for takeover_after in next {
        for last in 0.. {
            let place = filled();
            let died = dies(&place, takeover(2, 1), last);
            let is_settled = !died || last < 2;
            place.all.take_over(RUN, takeover_after, &|| true).unwrap();
            if takeover_after.lost.is_some() || !is_settled {
                assert_whole(&place, takeover_after);
            }
            place.all.remove(RUN).unwrap();
            assert_eq!(fs::read_dir(place.all.root()).unwrap().count(), 0);
            if !died {
                assert!(last > 8, "it was asked before every step, not {last} times");
                break;
            }
        }
    }
}

#[test]
fn takeovers_that_die_one_after_the_other_lose_nothing() {
    for (first, second) in [(1, 1), (2, 2), (5, 5), (8, 4), (4, 8), (8, 8)] {
        let place = filled();
        assert!(dies(&place, takeover(2, 1), first));
        assert!(dies(&place, takeover(3, 2), second));
        place.all.take_over(RUN, takeover(4, 3), &|| true).unwrap();
        assert_whole(&place, takeover(4, 3));
        assert_eq!(set_aside(&place), ["fence-3"]);
    }
}

#[test]
fn a_takeover_is_made_once_and_only_the_latest_generation_stays() {
    let place = filled();
    for (fence, lost) in [(2, 1), (3, 1), (5, 4), (9, 5), (10, 5)] {
        let taken = place.all.take_over(RUN, takeover(fence, lost), &|| true).unwrap();
        assert_eq!(taken.found.is_some(), [2, 5, 9].contains(&fence), "the attempts after it find it done");
        assert_eq!(set_aside(&place), [format!("fence-{lost}")]);
        fs::write(place.run.join(format!("by-{fence}")), "").unwrap();
    }
    assert!(["by-2", "by-3", "by-5", "by-9", "by-10"].iter().all(|name| place.run.join(name).exists()));
}

#[test]
fn an_attempt_that_was_itself_taken_over_changes_nothing() {
    let place = filled();
    place.all.take_over(RUN, takeover(3, 2), &|| true).unwrap();
    let mut old = File::create(place.run.join("by-3")).unwrap();
    for stale in [takeover(2, 1), takeover(1, 0)] {
        assert!(matches!(place.all.take_over(RUN, stale, &|| true), Err(WorkspaceError::Stopped { .. })));
        assert_eq!(set_aside(&place), ["fence-2"]);
    }
    old.write_all(b"still mine").unwrap();
    assert_eq!(text_of(&place.all, "by-3"), "still mine");
    // One that has a copy under way counts as well.
    fs::create_dir(aside(&place).join("copy-7")).unwrap();
    assert!(matches!(place.all.take_over(RUN, takeover(6, 5), &|| true), Err(WorkspaceError::Stopped { .. })));
    assert_eq!(set_aside(&place), ["copy-7", "fence-2"]);
}

#[test]
fn a_copy_takes_no_more_than_its_agent_may_have() {
    let place = place();
    fs::write(place.run.join("big"), vec![b'x'; 1000]).unwrap();
    fs::write(place.run.join("run.json"), vec![b'x'; 5000]).unwrap();
    for most in [DiskUsage { bytes: 999, entries: 10 }, DiskUsage { bytes: 5000, entries: 0 }] {
        let told = place.all.take_over(RUN, Takeover { fence: 2, lost: Some(1), most }, &|| true).err().unwrap().to_string();
        assert!(told.contains(&most.bytes.to_string()) && told.contains("limits.disk_bytes"), "{told}");
        assert_eq!(set_aside(&place), ["fence-1"], "what was copied by then is gone, the original is not");
    }
    let most = DiskUsage { bytes: 1000, entries: 1 };
    let taken = place.all.take_over(RUN, Takeover { fence: 3, lost: Some(1), most }, &|| true).unwrap();
    assert_eq!(taken.found, Some(DiskUsage { bytes: 6000, entries: 2 }), "mirrors are copied and not counted against it");
}

#[test]
fn a_run_whose_lost_attempt_never_began_gets_an_empty_directory() {
    let place = place();
    let taken = place.all.take_over(OTHER, takeover(2, 1), &|| true).unwrap();
    assert_eq!((taken.found, taken.path.is_dir()), (Some(DiskUsage::default()), true));
    assert_eq!(taken.path.metadata().unwrap().mode(), place.run.metadata().unwrap().mode());
    fs::write(taken.path.join("kept"), "").unwrap();
    assert_eq!(place.all.take_over(OTHER, takeover(3, 1), &|| true).unwrap().found, None);
    assert!(taken.path.join("kept").exists());
}

#[test]
fn an_empty_directory_that_a_lost_attempt_makes_meanwhile_is_in_nobodys_way() {
    let place = filled();
    let run = place.run.clone();
    let late = move || {
        // As soon as the name is free.
        let _ = fs::create_dir(&run);
        true
    };
    place.all.take_over(RUN, takeover(2, 1), &late).unwrap();
    assert_whole(&place, takeover(2, 1));
}

#[test]
fn deep_and_crowded_trees_are_copied() {
    let place = place();
    make_deep(&place.run, 300);
    for number in 0..300 {
        fs::write(place.run.join(format!("file-{number}")), number.to_string()).unwrap();
        fs::hard_link(place.run.join("file-0"), place.run.join(format!("name-{number}"))).unwrap();
    }
    let before = place.all.disk_usage(RUN).unwrap();
    let found = place.all.take_over(RUN, takeover(2, 1), &|| true).unwrap().found.unwrap();
    assert_eq!((found, place.all.disk_usage(RUN).unwrap()), (before, before));
    assert_eq!(fs::metadata(place.run.join("name-7")).unwrap().nlink(), 301);
}

#[test]
fn a_tree_that_changes_while_it_is_copied_does_no_harm() {
    let most = DiskUsage { bytes: 1 << 20, entries: 100 };
    for _ in 0..20 {
        let (place, done) = (filled(), AtomicBool::new(false));
        // As a guest that is still at work would: it has its directory open.
        let dir = rustix::fs::open(&place.run, OFlags::DIRECTORY | OFlags::RDONLY, Mode::empty()).unwrap();
        let busy = File::create(place.run.join("busy")).unwrap();
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for round in (0_u64..).take_while(|_| !done.load(Ordering::SeqCst)) {
                    busy.write_all_at(&[b'x'; 4096], round % 64 * 4096).unwrap();
                    busy.set_len(round % 32 * 4096).unwrap();
                    let (name, moved) = (format!("n{}", round % 8), format!("folder/inner/n{}", round % 8));
                    mkdirat(&dir, &name, Mode::RWXU).unwrap();
                    rustix::fs::renameat(&dir, &name, &dir, &moved).unwrap();
                    rustix::fs::unlinkat(&dir, &moved, rustix::fs::AtFlags::REMOVEDIR).unwrap();
                }
            });
            let taken = place.all.take_over(RUN, Takeover { most, ..takeover(2, 1) }, &|| true);
            done.store(true, Ordering::SeqCst);
            taken.unwrap();
        });
        assert_eq!(text_of(&place.all, "two"), "1");
    }
}
