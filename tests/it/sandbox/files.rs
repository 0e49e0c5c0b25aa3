//! The workspace: what a guest may do in it, the quota by every road, and the ways out that are none.

use super::*;
use crate::guest::files;
use std::os::unix::fs::symlink;

/// "insufficient-space" in `wasi:filesystem`.
const NO_SPACE: &str = "23";
const MIB: u64 = 1024 * 1024;

/// The rounds that went well, and the code that ended them.
fn told(report: &AttemptReport) -> (u64, &str) {
    let (rounds, code) = answer(report).split_once(' ').unwrap();
    (rounds.parse().unwrap(), code)
}

/// What `du` would say, without following links.
fn measure(folder: &Path) -> DiskUse {
    let mut sum = DiskUse::default();
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let meta = std::fs::symlink_metadata(entry.path()).unwrap();
        sum.files += 1;
        if meta.is_dir() {
            let inner = measure(&entry.path());
            sum = DiskUse { bytes: sum.bytes + inner.bytes, files: sum.files + inner.files };
        } else {
            sum.bytes += meta.len();
        }
    }
    sum
}

#[tokio::test]
async fn a_guest_reads_what_it_wrote_and_its_use_is_told() {
    let report = Try::new(&files::write_text("output.md", "# Done")).run().await;
    assert_eq!(answer(&report), "# Done");
    let attempt = Try::new(&files::write_file("note.txt", 100_000));
    let report = attempt.run().await;
    assert_eq!(answer(&report), "100000 none");
    assert_eq!(report.usage.workspace, DiskUse { bytes: 100_000, files: 1 });
    assert_eq!(report.usage.disk_bytes_written, 100_000);
    assert_eq!(measure(attempt.folder()), report.usage.workspace);

    let mut attempt = Try::new(&files::read_file("note.txt"));
    attempt.spec.found = None;
    std::fs::write(attempt.folder().join("note.txt"), "as it was").unwrap();
    let report = attempt.run().await;
    assert_eq!(answer(&report), "read as it was");
    assert_eq!(report.usage.workspace, DiskUse { bytes: 9, files: 1 });
}

#[tokio::test]
async fn no_road_leads_past_the_byte_limit() {
    let roads: &[(&str, Vec<u8>)] = &[
        ("write", files::fill_by_write(4096)),
        ("offset", files::fill_by_offset(4096)),
        ("stream", files::fill_by_stream(4096)),
        ("append", files::fill_by_append(4096)),
        ("zeroes", files::fill_by_zeroes(4096)),
        ("splice", files::fill_by_splice(4096)),
        ("set_size", files::fill_by_set_size(4096)),
        ("unlinked", files::fill_by_unlinked(4096)),
    ];
    for (road, guest) in roads {
        let attempt = Try::new(guest).limited(|limits| limits.disk_bytes = 2 * MIB);
        let report = attempt.run().await;
        let (rounds, code) = told(&report);
        assert_eq!(code, NO_SPACE, "{road}");
        assert!(rounds > 0, "{road}");
        assert!(measure(attempt.folder()).bytes <= 2 * MIB, "{road}");
        assert!(report.usage.workspace.bytes <= 2 * MIB, "{road}: {:?}", report.usage);
        assert!(report.usage.workspace.bytes >= measure(attempt.folder()).bytes, "{road}");
    }
}

#[tokio::test]
async fn the_byte_limit_can_be_used_to_the_last_byte() {
    let attempt = Try::new(&files::fill_by_write(4096)).limited(|limits| limits.disk_bytes = 2 * MIB);
    let report = attempt.run().await;
    assert_eq!(told(&report), (32, NO_SPACE));
    assert_eq!(report.usage.workspace, DiskUse { bytes: 2 * MIB, files: 1 });
}

#[tokio::test]
async fn no_road_leads_past_the_file_limit() {
    let roads: &[(&str, Vec<u8>)] = &[
        ("files", files::fill_by_files(1_000)),
        ("folders", files::fill_by_folders(1_000)),
        ("depth", files::fill_by_depth(1_000)),
        ("links", files::fill_by_links(1_000)),
        ("symlinks", files::fill_by_symlinks(1_000)),
    ];
    for (road, guest) in roads {
        let attempt = Try::new(guest).limited(|limits| limits.disk_files = 50);
        let report = attempt.run().await;
        let (rounds, code) = told(&report);
        assert_eq!(code, NO_SPACE, "{road}");
        assert!((49..=50).contains(&rounds), "{road}: {rounds}");
        assert_eq!(measure(attempt.folder()).files, 50, "{road}");
        assert_eq!(report.usage.workspace.files, 50, "{road}");
    }
}

#[tokio::test]
async fn what_is_given_back_can_be_used_again() {
    for guest in [files::churn(200), files::churn_files(200)] {
        let attempt = Try::new(&guest).limited(|limits| (limits.disk_bytes, limits.disk_files) = (65_536, 1));
        let report = attempt.run().await;
        assert_eq!(told(&report), (200, "none"));
        assert_eq!(report.usage.disk_bytes_written, 200 * 65_536);
        assert_eq!(report.usage.workspace, measure(attempt.folder()));
    }
}

#[tokio::test]
async fn what_an_attempt_finds_counts() {
    let mut attempt = Try::new(&files::fill_by_write(4096)).limited(|limits| limits.disk_bytes = 2 * MIB);
    std::fs::create_dir(attempt.folder().join("before")).unwrap();
    std::fs::write(attempt.folder().join("before/half"), vec![0; MIB as usize]).unwrap();
    attempt.spec.found = None;
    let report = attempt.run().await;
    assert_eq!(told(&report), (16, NO_SPACE));
    assert_eq!(report.usage.workspace, DiskUse { bytes: 2 * MIB, files: 3 });
}

#[tokio::test]
async fn a_guest_that_fails_for_want_of_space_fails_by_the_disk() {
    // Fills the disk, then traps as a guest does that did not expect it.
    let guest = crate::guest::agent(
        r#"(local.set $fd (call $create @"big"))
        (loop $again
          (call $write (local.get $fd) (i32.const 65536) (i32.const 65536) (local.get $n) (i32.const 256))
          (if (i32.lt_s (call $result64) (i32.const 0)) (then unreachable))
          (local.set $n (i64.add (local.get $n) (i64.const 65536)))
          (br $again))
        unreachable"#,
        "",
    );
    let report = Try::new(&guest).limited(|limits| limits.disk_bytes = MIB).run().await;
    let (kind, message) = failure(&report);
    assert_eq!(kind, ErrorKind::Disk);
    assert!(message.contains("`disk_bytes` of 1048576"), "{message}");
}

#[tokio::test]
async fn no_path_leads_out() {
    let outside = "outside the workspace";
    let guests: &[(&str, Vec<u8>)] = &[
        ("parent", files::read_file("../secret")),
        ("far parent", files::read_file("../../../../../../etc/passwd")),
        ("absolute", files::read_file("/etc/passwd")),
        ("symlink", files::read_by_symlink("../secret")),
        ("absolute symlink", files::read_by_symlink("/etc/passwd")),
        ("symlink to a parent", files::read_by_symlink("x/../../secret")),
        ("a link that was there", files::read_file("way/out")),
        ("hard link", files::link("../secret", "stolen")),
        ("rename", files::rename("inside", "../moved")),
        ("folder", files::make_folder("../made")),
        ("write", files::write_text("../secret", "overwritten")),
    ];
    for (road, guest) in guests {
        let mut attempt = Try::new(guest);
        std::fs::write(attempt.workspace.path().join("secret"), outside).unwrap();
        std::fs::create_dir(attempt.folder().join("way")).unwrap();
        symlink("../../secret", attempt.folder().join("way/out")).unwrap();
        attempt.spec.found = None;
        let report = attempt.run().await;
        let text = answer(&report);
        assert!(!text.contains("read ") && !text.ends_with("none"), "{road}: {text}");
        let left: Vec<_> = std::fs::read_dir(attempt.workspace.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(left.len(), 2, "{road}: {left:?}");
        assert_eq!(std::fs::read_to_string(attempt.workspace.path().join("secret")).unwrap(), outside, "{road}");
    }
}

#[tokio::test]
async fn a_link_to_a_secret_is_not_made() {
    let attempt = Try::new(&files::symlink("/etc/passwd", "passwd"));
    let report = attempt.run().await;
    assert_ne!(told(&report).1, "none");
    assert_eq!(measure(attempt.folder()).files, 0);
    assert_eq!(report.usage.workspace, DiskUse::default());
}

#[tokio::test]
async fn names_are_the_guest_s_own() {
    let attempt = Try::new(&files::odd_names());
    assert_eq!(answer(&attempt.run().await), "made");
    assert_eq!(measure(attempt.folder()).files, 4);
}

#[tokio::test]
async fn a_workspace_that_is_a_link_or_missing_is_refused() {
    let mut attempt = Try::new(&files::read_file("x"));
    let folder = attempt.folder().to_owned();
    attempt.spec.workspace = attempt.workspace.path().join("link");
    symlink(&folder, &attempt.spec.workspace).unwrap();
    assert_eq!(failure(&attempt.run().await).0, ErrorKind::Host);
    attempt.spec.workspace = folder.join("missing");
    assert_eq!(failure(&attempt.run().await).0, ErrorKind::Host);
}

/// Makes `$name` with a chunk of 64 KiB in it, closed; leaves a code.
const MAKE: &str = r#"(func $make (param $path i32) (param $len i32) (result i32)
  (local $fd i32) (local $code i32)
  (local.set $fd (call $create (local.get $path) (local.get $len)))
  (if (i32.lt_s (local.get $fd) (i32.const 0)) (then (return (local.get $fd))))
  (call $write (local.get $fd) (i32.const 65536) (i32.const 65536) (i64.const 0) (i32.const 256))
  (local.set $code (call $result64))
  (call $drop_descriptor (local.get $fd))
  (local.get $code))"#;

#[tokio::test]
async fn a_file_that_is_replaced_is_given_back() {
    // Writes `b` and renames it over `a`, twenty times, with room for two.
    let guest = crate::guest::agent(
        r#"(block $end (loop $again
          (br_if $end (i32.lt_s (local.tee $code (call $make @"b")) (i32.const 0)))
          (call $rename_at (call $root) @"b" (call $root) @"a" (i32.const 256))
          (br_if $end (i32.lt_s (local.tee $code (call $result8)) (i32.const 0)))
          (local.set $n (i64.add (local.get $n) (i64.const 1)))
          (br_if $again (i64.lt_u (local.get $n) (i64.const 20)))))
        (call $told (local.get $n) (local.get $code))"#,
        MAKE,
    );
    let attempt = Try::new(&guest).limited(|limits| (limits.disk_bytes, limits.disk_files) = (131_072, 2));
    let report = attempt.run().await;
    assert_eq!(told(&report), (20, "none"));
    assert_eq!(report.usage.workspace, DiskUse { bytes: 65_536, files: 1 });
}

#[tokio::test]
async fn a_rename_that_does_nothing_gives_nothing_back() {
    // `a` and `b` are one file: renaming one onto the other, or onto itself, leaves both.
    let guest = crate::guest::agent(
        r#"(drop (call $make @"a"))
        (call $link_at (call $root) (i32.const 0) @"a" (call $root) @"b" (i32.const 256))
        (call $rename_at (call $root) @"a" (call $root) @"b" (i32.const 256))
        (local.set $code (call $result8))
        (call $rename_at (call $root) @"b" (call $root) @"b" (i32.const 256))
        (call $told (local.get $n) (i32.or (local.get $code) (call $result8)))"#,
        MAKE,
    );
    let attempt = Try::new(&guest);
    let report = attempt.run().await;
    assert_eq!(told(&report), (0, "none"));
    assert_eq!(measure(attempt.folder()).files, 2);
    assert_eq!(report.usage.workspace, DiskUse { bytes: 65_536, files: 2 });
}

#[tokio::test]
async fn a_name_of_two_gives_its_name_back_and_the_last_one_the_bytes() {
    let unlink = |name: &str| format!(r#"(call $unlink_file_at (call $root) @"{name}" (i32.const 256))"#);
    let body = |unlinks: &str| {
        let setup = r#"(drop (call $make @"a")) (call $link_at (call $root) (i32.const 0) @"a" (call $root) @"b" (i32.const 256))"#;
        crate::guest::agent(&format!(r#"{setup} {unlinks} (call $ok @"done")"#), MAKE)
    };
    let report = Try::new(&body(&unlink("a"))).run().await;
    assert_eq!(report.usage.workspace, DiskUse { bytes: 65_536, files: 1 });
    let report = Try::new(&body(&[unlink("a"), unlink("b")].concat())).run().await;
    assert_eq!(report.usage.workspace, DiskUse::default());
}

#[tokio::test]
async fn opening_to_cut_gives_back_and_opening_to_create_anew_does_not_take_twice() {
    // open-flags: create 1, exclusive 4, truncate 8; descriptor-flags: read 1, write 2.
    let open = |oflags: u32| {
        format!(
            r#"(call $open_at (call $root) (i32.const 1) @"a" (i32.const {oflags}) (i32.const 2) (i32.const 256)) (call $put_code (call $result32)) (call $put @" ")"#
        )
    };
    let guest = |opens: &[u32]| {
        let opens: String = opens.iter().map(|oflags| open(*oflags)).collect();
        crate::guest::agent(&format!(r#"(drop (call $make @"a")) {opens} (call $ok_out)"#), MAKE)
    };
    let attempt = Try::new(&guest(&[1 | 8])).limited(|limits| limits.disk_files = 1);
    let report = attempt.run().await;
    assert_eq!(answer(&report), "none ");
    assert_eq!(report.usage.workspace, DiskUse { bytes: 0, files: 1 });
    // "exist" is 7. What is not made costs nothing.
    let report = Try::new(&guest(&[1, 1 | 4])).run().await;
    assert_eq!(answer(&report), "none 7 ");
    assert_eq!(report.usage.workspace, DiskUse { bytes: 65_536, files: 1 });
}

#[tokio::test]
async fn file_streams_are_limited_in_number() {
    // "insufficient-memory" is 22.
    let guest = crate::guest::agent(
        r#"(local.set $fd (call $create @"a"))
        (block $end (loop $again
          (call $append_stream (local.get $fd) (i32.const 256))
          (br_if $end (i32.lt_s (local.tee $code (call $result32)) (i32.const 0)))
          (local.set $n (i64.add (local.get $n) (i64.const 1)))
          (br $again)))
        (call $told (local.get $n) (local.get $code))"#,
        "",
    );
    assert_eq!(told(&Try::new(&guest).run().await), (256, "22"));
}
