//! Workspaces against guests that lay traps: links, pipes, endless trees, names that steer terminals.

mod bucket;
mod logs;
mod takeover;

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs;
use std::io::Read as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{CWD, FileType, Mode, OFlags, mkdirat, mknodat, openat};
use sandclock::workspace::{DiskUsage, FileKind, Takeover, WorkspaceError, Workspaces};
use tempfile::TempDir;

const RUN: &str = "background/agent/task/run_0192f0c1d2e37a4b8c9d0e1f2a3b4c5d";
const OTHER: &str = "background/agent/task/run_ffffffffffffffffffffffffffffffff";

/// More than any test has.
const ROOM: DiskUsage = DiskUsage { bytes: 1 << 50, entries: 1 << 20 };
/// An attempt that is not the first and has lost none before it.
const ALONE: Takeover = Takeover { fence: 2, lost: None, most: ROOM };

struct Place {
    keep: TempDir,
    all: Workspaces,
    run: PathBuf,
}

fn place() -> Place {
    let keep = tempfile::tempdir().unwrap();
    let all = Workspaces::open(&keep.path().join("root")).unwrap();
    let run = all.create(RUN).unwrap().path;
    Place { keep, all, run }
}

fn text_of(all: &Workspaces, file: &str) -> String {
    let mut text = String::new();
    all.open_file(RUN, file).unwrap().file.read_to_string(&mut text).unwrap();
    text
}

/// All paths of a run's workspace, page by page.
fn paths(all: &Workspaces, page: usize) -> Vec<String> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let listed = all.list(RUN, after.as_deref(), page).unwrap();
        assert!(listed.entries.len() <= page);
        found.extend(listed.entries.into_iter().map(|entry| entry.path));
        match listed.next {
            Some(next) => after = Some(next),
            None => return found,
        }
    }
}

fn make_deep(top: &Path, levels: usize) {
    let mut at = openat(CWD, top, OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    for _ in 0..levels {
        mkdirat(&at, "deeper", Mode::from_raw_mode(0o755)).unwrap();
        mkdirat(&at, "beside", Mode::from_raw_mode(0o755)).unwrap();
        at = openat(&at, "deeper", OFlags::PATH | OFlags::DIRECTORY, Mode::empty()).unwrap();
    }
    let bottom = openat(&at, "bottom", OFlags::CREATE | OFlags::WRONLY, Mode::from_raw_mode(0o644)).unwrap();
    rustix::io::write(&bottom, b"12345").unwrap();
}

#[test]
fn a_workspace_is_made_once_and_again_after_its_folders_went() {
    let place = place();
    assert!(place.run.is_absolute() && place.run.starts_with(place.all.root()) && place.run.ends_with(RUN));
    assert!(!place.all.create(RUN).unwrap().is_fresh);
    assert!(place.all.create(OTHER).unwrap().is_fresh);
    place.all.remove(RUN).unwrap();
    assert!(place.run.parent().unwrap().exists(), "the folder is another run's too");
    place.all.remove(OTHER).unwrap();
    assert!(place.all.root().is_dir());
    assert_eq!(fs::read_dir(place.all.root()).unwrap().count(), 0, "empty folders go, the root stays");
    place.all.remove(RUN).unwrap();
    // The folders above it are still remembered as open directories.
    assert!(place.all.create(RUN).unwrap().is_fresh);
    assert!(place.run.is_dir());
}

#[test]
fn makers_and_removers_of_neighbours_do_not_disturb_each_other() {
    let place = place();
    place.all.remove(RUN).unwrap();
    std::thread::scope(|scope| {
        for worker in 0..4 {
            let all = &place.all;
            scope.spawn(move || {
                for round in 0..200 {
                    let path = format!("background/agent/task/run_{worker}_{round}");
                    let made = all.create(&path).unwrap();
                    assert!(made.is_fresh);
                    made.write_mirrors(Some(b"{}"), None).unwrap();
                    all.remove(&path).unwrap();
                }
            });
        }
    });
    assert_eq!(fs::read_dir(place.all.root()).unwrap().count(), 0);
}

#[test]
fn a_workspace_is_not_made_through_a_link_nor_outside() {
    let place = place();
    let outside = place.keep.path().join("outside");
    fs::create_dir(&outside).unwrap();
    symlink(&outside, place.all.root().join("linked")).unwrap();
    for path in ["linked/run_1", "linked/deeper/run_1"] {
        assert!(matches!(place.all.create(path), Err(WorkspaceError::Link { .. })), "{path}");
        assert!(matches!(place.all.take_over(path, ALONE, &|| true), Err(WorkspaceError::Link { .. })), "{path}");
        assert!(place.all.remove(path).is_err());
    }
    for path in ["../outside/run_1", "/etc/run_1", "a/../../run_1", ".logs/run_1", "", &format!("{RUN}/run_1")] {
        assert!(matches!(place.all.create(path), Err(WorkspaceError::BadPath { .. })), "{path}");
        assert!(place.all.list(path, None, 10).is_err());
        assert!(place.all.remove(path).is_err());
        assert!(place.all.disk_usage(path).is_err());
    }
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
}

#[test]
fn mirrors_are_whole_and_replace_what_a_guest_put_there() {
    let place = place();
    let secret = place.keep.path().join("secret");
    fs::write(&secret, "secret").unwrap();
    symlink(&secret, place.run.join("run.json")).unwrap();
    fs::create_dir(place.run.join("events.jsonl")).unwrap();
    fs::write(place.run.join("events.jsonl/kept"), "guest's").unwrap();
    fs::create_dir_all(place.run.join("events.jsonl.guest-1/full")).unwrap();

    place.all.create(RUN).unwrap().write_mirrors(Some(b"{\"a\":1}"), Some(b"{}\n")).unwrap();
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert!(fs::symlink_metadata(place.run.join("run.json")).unwrap().is_file());
    assert_eq!(text_of(&place.all, "run.json"), "{\"a\":1}");
    assert_eq!(text_of(&place.all, "events.jsonl"), "{}\n");
    assert_eq!(text_of(&place.all, "events.jsonl.guest-2/kept"), "guest's");

    place.all.create(RUN).unwrap().write_mirrors(None, Some(b"{}\n{}\n")).unwrap();
    assert_eq!(text_of(&place.all, "run.json"), "{\"a\":1}");
    assert_eq!(text_of(&place.all, "events.jsonl"), "{}\n{}\n");
    assert!(paths(&place.all, 100).iter().all(|path| !path.starts_with('.')), "no temporary file is left");
}

#[test]
fn a_mirror_does_not_write_into_a_file_that_has_another_name_outside() {
    let place = place();
    let outside = place.keep.path().join("outside");
    fs::write(&outside, "before").unwrap();
    fs::hard_link(&outside, place.run.join("run.json")).unwrap();
    place.all.create(RUN).unwrap().write_mirrors(Some(b"new"), None).unwrap();
    assert_eq!(fs::read_to_string(&outside).unwrap(), "before");
    assert_eq!(text_of(&place.all, "run.json"), "new");
}

#[test]
fn mirrors_make_a_workspace_that_is_missing() {
    let place = place();
    place.all.take_over(OTHER, ALONE, &|| true).unwrap().write_mirrors(Some(b"{}"), None).unwrap();
    assert_eq!(fs::read(place.all.root().join(OTHER).join("run.json")).unwrap(), b"{}");
    // A run that was skipped has no workspace until its mirrors are rebuilt.
    assert!(!place.all.create(OTHER).unwrap().is_fresh);
}

#[test]
fn the_answer_becomes_output_md_only_where_the_guest_left_none() {
    let place = place();
    assert!(place.all.create(RUN).unwrap().write_output_if_absent("the answer").unwrap());
    assert!(!place.all.create(RUN).unwrap().write_output_if_absent("another").unwrap());
    assert_eq!(text_of(&place.all, "output.md"), "the answer");

    let outside = place.keep.path().join("outside");
    for target in [outside.as_path(), Path::new("nowhere")] {
        fs::remove_file(place.run.join("output.md")).unwrap();
        symlink(target, place.run.join("output.md")).unwrap();
        assert!(!place.all.create(RUN).unwrap().write_output_if_absent("the answer").unwrap());
        assert!(!outside.exists() && !place.run.join("nowhere").exists());
    }
    assert_eq!(paths(&place.all, 100), ["output.md"]);
}

#[test]
fn only_regular_files_inside_can_be_opened() {
    let place = place();
    fs::create_dir_all(place.run.join("artifacts/deep")).unwrap();
    fs::write(place.run.join("artifacts/deep/report.txt"), "found").unwrap();
    symlink("/etc/passwd", place.run.join("file-link")).unwrap();
    symlink("/etc", place.run.join("folder-link")).unwrap();
    symlink("artifacts", place.run.join("inner-link")).unwrap();
    symlink("loop", place.run.join("loop")).unwrap();
    mknodat(CWD, place.run.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    let socket = std::os::unix::net::UnixListener::bind(place.run.join("socket")).unwrap();

    let report = place.all.open_file(RUN, "artifacts/deep/report.txt").unwrap();
    assert_eq!(report.size, 5);
    assert!(report.modified_at.micros() > 0);
    assert_eq!(text_of(&place.all, "artifacts/deep/report.txt"), "found");

    let open = |file: &str| place.all.open_file(RUN, file).unwrap_err();
    for file in ["file-link", "folder-link/passwd", "inner-link/deep/report.txt", "loop", "loop/x"] {
        assert!(matches!(open(file), WorkspaceError::Link { .. }), "{file}");
    }
    for file in ["", "/etc/passwd", "..", "../x", "artifacts/../../x", "./artifacts", "artifacts/", "a\0b"] {
        assert!(matches!(open(file), WorkspaceError::BadPath { .. }), "{file:?}");
    }
    for file in ["missing", "artifacts/missing", "artifacts/deep/report.txt/x", &"n".repeat(300)] {
        assert!(matches!(open(file), WorkspaceError::NotFound { .. }), "{file}");
    }
    // A pipe without a writer would block whoever opens it plainly.
    for file in ["artifacts", "pipe", "socket"] {
        assert!(matches!(open(file), WorkspaceError::NotAFile { .. }), "{file}");
    }
    drop(socket);
}

/// Raises a flag when it goes, so that a failed assertion does not leave a thread spinning.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn a_folder_that_turns_into_a_link_again_and_again_is_never_followed() {
    let place = place();
    let outside = place.keep.path().join("outside");
    fs::create_dir(&outside).unwrap();
    fs::write(outside.join("file"), "outside").unwrap();
    let (honest, trap) = (place.run.join("honest"), place.run.join("trap"));
    fs::create_dir(&honest).unwrap();
    fs::write(honest.join("file"), "inside").unwrap();
    symlink(&outside, &trap).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let _ends = Ends(&is_over);
        scope.spawn(|| {
            while !is_over.load(Ordering::Relaxed) {
                let exchange = rustix::fs::RenameFlags::EXCHANGE;
                rustix::fs::renameat_with(CWD, &honest, CWD, &trap, exchange).unwrap();
            }
        });
        let (mut opened, mut refused) = (0, 0);
        for _ in 0..1000 {
            match place.all.open_file(RUN, "honest/file") {
                Ok(mut open) => {
                    let mut text = String::new();
                    open.file.read_to_string(&mut text).unwrap();
                    assert_eq!(text, "inside");
                    opened += 1;
                }
                Err(_) => refused += 1,
            }
            let listed = place.all.list(RUN, None, 100).unwrap();
            assert!(listed.entries.iter().all(|entry| entry.size != "outside".len() as u64));
            assert!(place.all.disk_usage(RUN).unwrap().bytes <= 2 * "inside".len() as u64);
        }
        assert_eq!(opened + refused, 1000);
    });
    place.all.remove(RUN).unwrap();
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "outside");
}

#[test]
fn a_listing_has_every_level_in_byte_order() {
    let place = place();
    for folder in ["a", "a/b", "a/b/empty", "z"] {
        fs::create_dir(place.run.join(folder)).unwrap();
    }
    for file in ["a.txt", "a-1", "a/x", "a/b/y", "a/b.md", "a0", "run.json", "z/é"] {
        fs::write(place.run.join(file), "1234").unwrap();
    }
    symlink("/etc", place.run.join("link")).unwrap();
    mknodat(CWD, place.run.join("pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();

    let all = place.all.list(RUN, None, 1000).unwrap();
    let listed: Vec<&str> = all.entries.iter().map(|entry| entry.path.as_str()).collect();
    let expected = ["a", "a-1", "a.txt", "a/b", "a/b.md", "a/b/empty", "a/b/y", "a/x", "a0", "link", "pipe", "run.json", "z", "z/é"];
    assert_eq!(listed, expected);
    assert!(expected.is_sorted());
    assert_eq!((all.next, all.note), (None, None));
    let entry = |path: &str| all.entries.iter().find(|entry| entry.path == path).unwrap();
    assert_eq!((entry("a/b/y").name.as_str(), entry("a/b/y").size, entry("a/b/y").kind), ("y", 4, FileKind::File));
    assert_eq!((entry("a/b").is_dir, entry("a/b").size, entry("a/b").kind), (true, 0, FileKind::Dir));
    assert_eq!((entry("link").is_dir, entry("link").kind), (false, FileKind::Symlink));
    assert_eq!(entry("pipe").kind, FileKind::Other);
    for page in 1..=expected.len() {
        assert_eq!(paths(&place.all, page), expected, "pages of {page}");
    }
    assert!(matches!(place.all.list(OTHER, None, 10), Err(WorkspaceError::NotFound { .. })));
}

#[test]
fn ten_thousand_files_are_paged_without_gap_or_repetition_while_others_come_and_go() {
    let place = place();
    let steady: Vec<String> = (0..10_000).map(|number| format!("{}/file-{number:05}", number % 7)).collect();
    for folder in 0..7 {
        fs::create_dir(place.run.join(folder.to_string())).unwrap();
    }
    for file in &steady {
        fs::write(place.run.join(file), "").unwrap();
    }
    let (mut found, mut after, mut round) = (Vec::new(), None, 0);
    loop {
        let page = place.all.list(RUN, after.as_deref(), 173).unwrap();
        found.extend(page.entries.into_iter().map(|entry| entry.path));
        round += 1;
        // Before, at and after the cursor.
        for folder in 0..7 {
            fs::write(place.run.join(format!("{folder}/file-{:05}-{round}", round * 97)), "").unwrap();
            let _ = fs::remove_file(place.run.join(format!("{folder}/file-{:05}-{}", (round / 2) * 97, round / 2)));
        }
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert!(found.is_sorted());
    let distinct: HashSet<&String> = found.iter().collect();
    assert_eq!(distinct.len(), found.len(), "nothing comes twice");
    assert!(steady.iter().all(|file| distinct.contains(file)), "nothing that stayed is missing");
}

#[test]
fn many_empty_folders_fill_pages_too() {
    let place = place();
    // Each name is the beginning of the next, so the folders' insides stand in the opposite order of the folders.
    let names: Vec<String> = (1..=200).map(|length| "!".repeat(length)).chain((0..300).map(|number| format!("d{number:03}"))).collect();
    for name in &names {
        fs::create_dir(place.run.join(name)).unwrap();
    }
    assert_eq!(paths(&place.all, 7), names);
}

#[test]
fn a_tree_two_thousand_levels_deep_is_listed_in_part_counted_and_removed() {
    let place = place();
    make_deep(&place.run, 2000);
    let mut after = None;
    let (mut deepest, mut noted) = (0, false);
    loop {
        let page = place.all.list(RUN, after.as_deref(), 50).unwrap();
        deepest = page.entries.iter().map(|entry| entry.path.split('/').count()).max().unwrap_or(0).max(deepest);
        noted |= page.note.is_some_and(|note| note.contains("64 directories deep"));
        match page.next {
            Some(next) => after = Some(next),
            None => break,
        }
    }
    assert!(noted, "what is left out is said");
    assert_eq!(deepest, 64);
    let usage = place.all.disk_usage(RUN).unwrap();
    assert_eq!((usage.bytes, usage.entries), (5, 4001));
    place.all.remove(RUN).unwrap();
    assert!(!place.run.exists());
}

#[test]
fn removal_leaves_what_links_point_to() {
    let place = place();
    let outside = place.keep.path().join("outside");
    fs::create_dir_all(outside.join("folder")).unwrap();
    fs::write(outside.join("folder/file"), "kept").unwrap();
    symlink(&outside, place.run.join("folder-link")).unwrap();
    symlink(outside.join("folder/file"), place.run.join("file-link")).unwrap();
    fs::create_dir(place.run.join("inner")).unwrap();
    symlink("../../../../../../outside", place.run.join("inner/up")).unwrap();
    fs::write(place.run.join("inner/file"), "gone").unwrap();
    mknodat(CWD, place.run.join("inner/pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    assert_eq!(place.all.disk_usage(RUN).unwrap().bytes, 4);
    place.all.remove(RUN).unwrap();
    assert!(!place.run.exists());
    assert_eq!(fs::read_to_string(outside.join("folder/file")).unwrap(), "kept");

    // A link in the place of the workspace itself is removed as a link.
    fs::create_dir_all(place.run.parent().unwrap()).unwrap();
    symlink(&outside, &place.run).unwrap();
    assert!(place.all.list(RUN, None, 10).is_err());
    assert!(place.all.create(RUN).is_err());
    place.all.remove(RUN).unwrap();
    assert!(fs::symlink_metadata(&place.run).is_err());
    assert_eq!(fs::read_to_string(outside.join("folder/file")).unwrap(), "kept");
}

#[test]
fn two_removals_at_once_both_succeed() {
    let place = place();
    for folder in 0..40 {
        fs::create_dir_all(place.run.join(format!("{folder}/inner"))).unwrap();
        fs::write(place.run.join(format!("{folder}/inner/file")), "x").unwrap();
    }
    std::thread::scope(|scope| {
        for _ in 0..2 {
            scope.spawn(|| place.all.remove(RUN).unwrap());
        }
    });
    assert!(!place.run.exists());
}

#[test]
fn names_that_no_one_expects_are_listed_paged_and_removed() {
    let place = place();
    let names: [&[u8]; 6] = [b"new\nline", b"\x1b[2Jclear", b"bad\xff\xfeutf8", b"bad\xfe\xffutf8", b"100%25 sure", " space".as_bytes()];
    for name in names {
        fs::write(place.run.join(OsStr::from_bytes(name)), "x").unwrap();
    }
    fs::create_dir(place.run.join(OsStr::from_bytes(b"\xc3("))).unwrap();
    fs::write(place.run.join(OsStr::from_bytes(b"\xc3(/in")), "x").unwrap();
    let expected = [
        "\u{1b}[2Jclear",
        " space",
        "100%25 sure",
        "bad\u{fffd}\u{fffd}utf8",
        "bad\u{fffd}\u{fffd}utf8",
        "new\nline",
        "\u{fffd}(",
        "\u{fffd}(/in",
    ];
    for page in 1..=8 {
        assert_eq!(paths(&place.all, page), expected);
    }
    assert_eq!(text_of(&place.all, "new\nline"), "x");
    assert!(matches!(place.all.open_file(RUN, "bad\u{fffd}\u{fffd}utf8"), Err(WorkspaceError::NotFound { .. })));
    let refusal = place.all.open_file(RUN, "no\n\u{1b}[31m\u{202e}such").unwrap_err().to_string();
    assert!(!refusal.contains(['\n', '\u{1b}', '\u{202e}']), "{refusal:?}");
    assert_eq!(place.all.disk_usage(RUN).unwrap().entries, 8);
    place.all.remove(RUN).unwrap();
    assert!(!place.run.exists());
}

#[test]
fn usage_counts_holes_and_counts_a_file_with_two_names_once() {
    let place = place();
    fs::File::create(place.run.join("sparse")).unwrap().set_len(1 << 30).unwrap();
    fs::write(place.run.join("one"), "12345").unwrap();
    fs::hard_link(place.run.join("one"), place.run.join("two")).unwrap();
    let usage = place.all.disk_usage(RUN).unwrap();
    assert_eq!((usage.bytes, usage.entries), ((1 << 30) + 5, 3));
}
