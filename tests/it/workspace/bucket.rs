//! Workspaces through a real bucket: what guests lay as traps comes out as it went in, and nowhere else.

use std::fs::{File, Permissions};
use std::os::unix::fs::{FileExt as _, MetadataExt as _, PermissionsExt as _};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use sandclock::domain::id::RunId;
use sandclock::workspace::Bucket;
use sandclock::workspace::bucket::{BucketError, GoOn, Progress, Upload, Uploaded};

use super::*;
use crate::servers::bucket::TestBucket;

fn always() -> GoOn {
    Arc::new(|| true)
}

fn run_id() -> RunId {
    RunId::parse(RUN.rsplit('/').next().unwrap()).unwrap()
}

fn upload_of(place: &Place, fence: u64, base: Option<&Uploaded>) -> Upload {
    let dir = place.all.create(RUN).unwrap().dir;
    Upload { run: run_id(), fence, dir, base: base.map(|base| Arc::clone(&base.manifest)), may_go_on: always() }
}

/// Uploads the workspace, and answers with another daemon's view of the bucket too.
async fn uploaded(test: &TestBucket, place: &Place) -> (Uploaded, Arc<Bucket>) {
    let uploaded = test.bucket(Duration::ZERO).upload(&upload_of(place, 1, None), &Progress::default()).await.unwrap();
    (uploaded, test.bucket(Duration::ZERO))
}

/// A new place that is filled from the bucket.
async fn filled(bucket: &Bucket, of: &Uploaded, most: DiskUsage) -> Result<(Place, DiskUsage), BucketError> {
    let keep = tempfile::tempdir().unwrap();
    let all = Workspaces::open(&keep.path().join("root")).unwrap();
    let manifest = bucket.manifest(&run_id(), of.reference).await?;
    let begun = all.begin(RUN, 2).unwrap();
    let found = bucket.fill(&run_id(), &manifest, &begun, most, &always()).await?;
    let run = all.finish(RUN, 2, false, &|| true).unwrap().path;
    assert!(!run.with_file_name(format!("{}@aside", run_id())).exists(), "nothing is left beside it");
    Ok((Place { keep, all, run }, found))
}

#[tokio::test]
async fn whatever_a_guest_lays_out_comes_back_as_it_was() {
    let Some(test) = TestBucket::new() else { return };
    let place = place();
    let at = |name: &str| place.run.join(name);
    let long = "ü".repeat(127);
    fs::create_dir_all(at(&format!("{long}/{long}/{long}/{long}"))).unwrap();
    let hostile = [
        "line\nbreak",
        "..hidden",
        "a\\..\\b",
        "%2e%2e%2f",
        "*?",
        "back\u{8}space",
        "עברית",
        "sp ace",
        "quote\"'",
        "manifest-0",
        "\u{202e}x",
    ];
    for name in hostile {
        fs::write(at(name), name).unwrap();
    }
    fs::write(at(&format!("{long}/{long}/{long}/{long}/deep")), "deep").unwrap();
    fs::write(place.run.join(OsStr::from_bytes(b"not-\xff-utf8")), "bytes").unwrap();
    fs::write(at("nothing"), "").unwrap();
    fs::create_dir(at("empty")).unwrap();
    fs::write(at("script"), "#!").unwrap();
    fs::set_permissions(at("script"), Permissions::from_mode(0o754)).unwrap();
    fs::set_permissions(at("empty"), Permissions::from_mode(0o711)).unwrap();
    fs::hard_link(at("script"), at("again")).unwrap();
    for (target, link) in [("/etc/passwd", "etc"), ("nowhere", "dangling"), ("../../..", "up")] {
        symlink(target, at(link)).unwrap();
    }
    let sparse = File::create(at("sparse")).unwrap();
    sparse.set_len(40 << 20).unwrap();
    sparse.write_all_at(b"island", 30 << 20).unwrap();
    mknodat(CWD, at("pipe"), FileType::Fifo, Mode::from_raw_mode(0o644), 0).unwrap();
    let long_ago = SystemTime::UNIX_EPOCH + Duration::new(1_000_000, 123_456_789);
    File::options().append(true).open(at("nothing")).unwrap().set_modified(long_ago).unwrap();

    let (uploaded, bucket) = uploaded(&test, &place).await;
    fs::remove_file(at("pipe")).unwrap();
    let (copy, found) = filled(&bucket, &uploaded, ROOM).await.unwrap();
    assert_eq!(place.all.list(RUN, None, 1000).unwrap(), copy.all.list(RUN, None, 1000).unwrap(), "names, kinds, sizes and times");
    assert_eq!(copy.all.disk_usage(RUN).unwrap().entries, found.entries);
    for name in hostile {
        assert_eq!(fs::read_to_string(copy.run.join(name)).unwrap(), name);
    }
    let metadata = |name: &str| fs::symlink_metadata(copy.run.join(name)).unwrap();
    assert_eq!((metadata("script").mode() & 0o777, metadata("empty").mode() & 0o777), (0o754, 0o711));
    assert_eq!((metadata("script").ino(), metadata("script").nlink()), (metadata("again").ino(), 2));
    assert_eq!(metadata("nothing").modified().unwrap(), long_ago);
    assert_eq!(fs::read_link(copy.run.join("etc")).unwrap(), Path::new("/etc/passwd"));
    assert_eq!(fs::read(copy.run.join("sparse")).unwrap(), fs::read(at("sparse")).unwrap());
    assert!(metadata("sparse").blocks() * 512 < 20 << 20, "holes stay holes");

    let keys = test.keys().await;
    let is_plain = |key: &String| key.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"/_-".contains(&byte)) && key.starts_with("run_");
    assert!(keys.iter().all(is_plain), "no key has anything of a guest's name: {keys:?}");
    assert!(keys.iter().all(|key| key.len() < 200));
}

#[tokio::test]
async fn a_manifest_is_listed_and_opened_as_its_directory_is() {
    let Some(test) = TestBucket::new() else { return };
    let place = place();
    for folder in ["a", "a.b", "a/b", "a b", "z/y/x"] {
        fs::create_dir_all(place.run.join(folder)).unwrap();
    }
    for file in ["a/1", "a/b/2", "a.b/3", "a-", "a0", "z/y/x/4", "é", "a\u{7f}"] {
        fs::write(place.run.join(file), file).unwrap();
    }
    symlink("a", place.run.join("link")).unwrap();
    make_deep(&place.run.join("z"), 80);
    let (uploaded, bucket) = uploaded(&test, &place).await;
    let manifest = bucket.manifest(&run_id(), uploaded.reference).await.unwrap();
    for limit in [1, 2, 3, 7, 1000] {
        let mut after: Option<String> = None;
        loop {
            let (here, there) = (place.all.list(RUN, after.as_deref(), limit).unwrap(), manifest.list(after.as_deref(), limit));
            assert_eq!(here, there, "{limit} after {after:?}");
            match here.next {
                Some(next) => after = Some(next),
                None => break,
            }
        }
    }
    for after in ["a/", "a/b/", "b", "%", "zzz", "a/b/2/x"] {
        assert_eq!(place.all.list(RUN, Some(after), 5).unwrap(), manifest.list(Some(after), 5), "{after}");
    }
    for file in ["a/1", "é", "a", "link", "link/1", "a/1/x", "no", "a/no", "../x", "a//1", "/a", "", "x\0y"] {
        let here = place.all.open_file(RUN, file).map(|file| (file.size, file.modified_at)).map_err(|error| error.to_string());
        let there = manifest.open(&run_id(), RUN, file).map(|file| (file.size, file.modified_at)).map_err(|error| error.to_string());
        assert_eq!(here, there, "{file}");
    }
}

#[tokio::test]
async fn a_deep_tree_goes_both_ways() {
    let Some(test) = TestBucket::new() else { return };
    let place = place();
    make_deep(&place.run, 700);
    let (uploaded, bucket) = uploaded(&test, &place).await;
    let (copy, _) = filled(&bucket, &uploaded, ROOM).await.unwrap();
    assert_eq!(copy.all.disk_usage(RUN).unwrap(), place.all.disk_usage(RUN).unwrap());
    copy.all.remove(RUN).unwrap();
    place.all.remove(RUN).unwrap();
}

#[tokio::test]
async fn more_than_may_be_is_not_downloaded_and_mirrors_do_not_count() {
    let Some(test) = TestBucket::new() else { return };
    let place = place();
    fs::write(place.run.join("run.json"), "x".repeat(5000)).unwrap();
    fs::write(place.run.join("file"), "12345").unwrap();
    let (uploaded, bucket) = uploaded(&test, &place).await;
    assert!(filled(&bucket, &uploaded, DiskUsage { bytes: 5, entries: 1 }).await.is_ok());
    for most in [DiskUsage { bytes: 4, entries: 1 }, DiskUsage { bytes: 5, entries: 0 }] {
        let refused = filled(&bucket, &uploaded, most).await.map(drop).unwrap_err();
        assert!(refused.to_string().contains("limits.disk_bytes"), "{refused}");
    }
}

#[tokio::test]
async fn an_upload_that_was_cut_off_goes_on_where_it_was() {
    let Some(test) = TestBucket::new() else { return };
    let place = place();
    for number in 0..40 {
        fs::write(place.run.join(format!("f{number}")), format!("content {number}")).unwrap();
    }
    let (bucket, progress) = (test.bucket(Duration::ZERO), Progress::default());
    // It may go on until half of the files are there.
    let steps = Arc::new(std::sync::atomic::AtomicUsize::new(0));
    let may_go_on: GoOn = Arc::new(move || steps.fetch_add(1, Ordering::SeqCst) < 100);
    let stopped = Upload { may_go_on, ..upload_of(&place, 1, None) };
    let refused = bucket.upload(&stopped, &progress).await.map(drop).unwrap_err();
    assert!(refused.is_stop(), "{refused}");
    let done = test.objects.puts().len();
    assert!((1..40).contains(&done), "{done}");
    let uploaded = bucket.upload(&upload_of(&place, 1, None), &progress).await.unwrap();
    // What was under way when it was cut off is repeated, and the manifest comes last.
    let rest = test.objects.puts();
    assert!((40 - done + 1..=40 - done + 1 + 16).contains(&rest.len()) && rest.len() < 41, "{done} {rest:?}");
    assert!(filled(&test.bucket(Duration::ZERO), &uploaded, ROOM).await.is_ok());
}

#[tokio::test]
async fn a_newer_manifest_takes_what_is_superfluous_along_and_leaves_a_later_attempt_s() {
    let Some(test) = TestBucket::new() else { return };
    let place = place();
    fs::write(place.run.join("kept"), "kept").unwrap();
    fs::write(place.run.join("changed"), "1").unwrap();
    let bucket = test.bucket(Duration::ZERO);
    let first = bucket.upload(&upload_of(&place, 1, None), &Progress::default()).await.unwrap();
    fs::write(place.run.join("changed"), "3").unwrap();
    let run = run_id();
    let of = |fence: u64, what: &str| format!("{run}/{fence}/{}", blake3::hash(what.as_bytes()));
    test.spoil(&of(2, "a lost attempt's"), b"a lost attempt's").await;
    test.spoil(&of(4, "a later attempt's"), b"a later attempt's").await;
    let third = bucket.upload(&upload_of(&place, 3, Some(&first)), &Progress::default()).await.unwrap();
    bucket.tidy(&run, third.reference, &third.manifest).await.unwrap();
    let mut wanted = vec![of(1, "kept"), of(3, "3"), of(4, "a later attempt's"), format!("{run}/3/manifest-{}", third.reference.hash)];
    wanted.sort();
    assert_eq!(test.keys().await, wanted);
    let (copy, _) = filled(&test.bucket(Duration::ZERO), &third, ROOM).await.unwrap();
    assert_eq!(text_of(&copy.all, "changed"), "3");
    bucket.remove(&run).await.unwrap();
    assert!(test.keys().await.is_empty());
    bucket.remove(&run).await.unwrap();
}

#[tokio::test]
async fn a_spoilt_manifest_is_refused_whatever_it_says() {
    let Some(test) = TestBucket::new() else { return };
    let place = place();
    let (uploaded, bucket) = uploaded(&test, &place).await;
    let key = format!("{}/1/manifest-{}", run_id(), uploaded.reference.hash);
    test.spoil(&key, br#"{"version":1,"piece_bytes":8388608,"entries":[{"in":0,"name":"../x","mode":420,"modified":[0,0],"is":"dir"}]}"#)
        .await;
    let refused = bucket.manifest(&run_id(), uploaded.reference).await.map(drop).unwrap_err();
    assert!(matches!(refused, BucketError::Corrupt { .. }) && refused.to_string().contains(&key), "{refused}");
}
