//! The watcher and its poll.

use std::fs;
use std::io::Write as _;
use std::os::unix::fs::symlink;
use std::time::Duration;

use sandclock::plugins::{Digest, PluginState};
use tokio_util::sync::CancellationToken;

use super::{House, component, serving, status, until};

#[tokio::test]
async fn the_watcher_notices_every_way_in_which_a_file_comes_changes_and_goes() {
    let house = House::new();
    let first = house.put("early.wasm", &component(1));
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "what was there before", |now| serving(now, "early") == Some(first)).await;

    let written = house.put("hello.wasm", &component(2));
    until(&catalogue, "a file that was written", |now| serving(now, "hello") == Some(written)).await;
    fs::rename(house.aside("new", &component(3)), house.path("hello.wasm")).unwrap();
    let renamed = Digest::of(&component(3));
    until(&catalogue, "a file that was moved over it", |now| serving(now, "hello") == Some(renamed)).await;
    symlink(house.aside("target", &component(4)), house.path("linked.wasm")).unwrap();
    let linked = Digest::of(&component(4));
    until(&catalogue, "a link", |now| serving(now, "linked") == Some(linked)).await;
    fs::hard_link(house.path("early.wasm"), house.path("hard.wasm")).unwrap();
    until(&catalogue, "a hard link", |now| serving(now, "hard") == Some(first)).await;
    house.put("hello.wasm", &component(5)[..20]);
    until(&catalogue, "a bad file", |now| matches!(status(now, "hello.wasm").state, PluginState::Rejected { .. })).await;
    assert_eq!(serving(&catalogue, "hello"), Some(renamed));
    fs::remove_file(house.path("hello.wasm")).unwrap();
    until(&catalogue, "a file that was removed", |now| serving(now, "hello").is_none()).await;
    fs::rename(house.path("early.wasm"), house.path("late.wasm")).unwrap();
    until(&catalogue, "a new name", |now| serving(now, "late") == Some(first) && serving(now, "early").is_none()).await;

    cancel.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn a_file_that_is_unlinked_and_written_again_is_never_missing() {
    let house = House::new();
    let first = house.put("hello.wasm", &component(1));
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "the first", |now| serving(now, "hello") == Some(first)).await;
    for number in 2..12 {
        fs::remove_file(house.path("hello.wasm")).unwrap();
        let next = house.put("hello.wasm", &component(number));
        until(&catalogue, "the next", |now| {
            assert!(serving(now, "hello").is_some(), "the agent is missing between two forms of its file");
            serving(now, "hello") == Some(next)
        })
        .await;
    }
    cancel.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn polling_alone_notices_what_gives_no_notification() {
    let mut house = House::new();
    house.settings.poll_interval = Duration::from_millis(20);
    // The file behind a link lies outside of the folder, where no notification comes from.
    let target = house.aside("target", &component(1));
    symlink(&target, house.path("linked.wasm")).unwrap();
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "the first", |now| serving(now, "linked") == Some(Digest::of(&component(1)))).await;
    fs::write(&target, component(2)).unwrap();
    until(&catalogue, "the second", |now| serving(now, "linked") == Some(Digest::of(&component(2)))).await;

    // The folder itself goes and another comes under its path.
    fs::rename(&house.settings.folder, house.root.path().join("away")).unwrap();
    until(&catalogue, "the loss of the folder", |now| now.fault().is_some()).await;
    assert!(serving(&catalogue, "linked").is_some());
    fs::create_dir(&house.settings.folder).unwrap();
    let hello = house.put("hello.wasm", &component(3));
    until(&catalogue, "the new folder", |now| serving(now, "hello") == Some(hello) && serving(now, "linked").is_none()).await;
    cancel.cancel();
    watching.await.unwrap();
}

/// A component of which the first so many bytes are a component too.
fn extended(number: u32) -> (Vec<u8>, usize) {
    let mut bytes = component(number);
    let whole = bytes.len();
    bytes.extend([0, 66, 1, b'x']);
    bytes.extend([7; 64]);
    (bytes, whole)
}

#[tokio::test]
async fn a_folder_that_is_a_link_is_followed_when_the_link_is_switched() {
    let mut house = House::new();
    let at = |name: &str| house.root.path().join(name);
    let mut digests = Vec::new();
    for (version, number) in [("v1", 1), ("v2", 2)] {
        fs::create_dir(at(version)).unwrap();
        fs::write(at(version).join("hello.wasm"), component(number)).unwrap();
        digests.push(Digest::of(&component(number)));
    }
    let (link, next) = (at("current"), at("next"));
    symlink("v1", &link).unwrap();
    house.settings.folder = link.clone();
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "the first folder", |now| serving(now, "hello") == Some(digests[0])).await;
    symlink("v2", &next).unwrap();
    fs::rename(&next, &link).unwrap();
    until(&catalogue, "the second folder", |now| serving(now, "hello") == Some(digests[1])).await;
    // It is the second folder that is watched now.
    let third = house.put("hello.wasm", &component(3));
    until(&catalogue, "a file in it", |now| serving(now, "hello") == Some(third)).await;

    // A folder that is removed with all that is in it leaves what serves, until another one is there.
    fs::remove_file(&link).unwrap();
    until(&catalogue, "the loss", |now| now.fault().is_some()).await;
    assert_eq!(serving(&catalogue, "hello"), Some(third));
    fs::create_dir(&link).unwrap();
    let fourth = house.put("hello.wasm", &component(4));
    until(&catalogue, "the new folder", |now| serving(now, "hello") == Some(fourth) && now.fault().is_none()).await;
    cancel.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn files_that_are_links_through_a_link_are_followed_when_that_is_switched() {
    let house = House::new();
    for (version, number) in [("..v1", 1), ("..v2", 2)] {
        fs::create_dir(house.path(version)).unwrap();
        fs::write(house.path(version).join("hello.wasm"), component(number)).unwrap();
    }
    symlink("..v1", house.path("..data")).unwrap();
    symlink("..data/hello.wasm", house.path("hello.wasm")).unwrap();
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "the first", |now| serving(now, "hello") == Some(Digest::of(&component(1)))).await;
    symlink("..v2", house.path("..data_tmp")).unwrap();
    fs::rename(house.path("..data_tmp"), house.path("..data")).unwrap();
    until(&catalogue, "the second", |now| serving(now, "hello") == Some(Digest::of(&component(2)))).await;
    cancel.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn half_of_a_slow_copy_never_serves_though_it_is_a_component_itself() {
    let house = House::new();
    let first = house.put("hello.wasm", &component(1));
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "the first", |now| serving(now, "hello") == Some(first)).await;
    let (bytes, half) = extended(2);
    // The writer pauses for longer than the folder has to be quiet, after what would be a whole component too.
    let mut file = fs::File::create(house.path("hello.wasm")).unwrap();
    let mut changes = catalogue.changes();
    for part in [&bytes[..half / 2], &bytes[half / 2..half]] {
        file.write_all(part).unwrap();
        let noticed = async {
            loop {
                changes.changed().await.unwrap();
                assert_eq!(serving(&catalogue, "hello"), Some(first), "{:?}", status(&catalogue, "hello.wasm"));
            }
        };
        assert!(tokio::time::timeout(Duration::from_millis(400), noticed).await.is_err());
        assert_eq!(status(&catalogue, "hello.wasm").state, PluginState::Accepted { digest: first }, "it is not even judged");
    }
    file.write_all(&bytes[half..]).unwrap();
    drop(file);
    until(&catalogue, "the whole", |now| serving(now, "hello") == Some(Digest::of(&bytes))).await;
    cancel.cancel();
    watching.await.unwrap();
}

#[tokio::test]
async fn what_editors_and_downloads_leave_beside_a_plugin_is_never_listed() {
    let house = House::new();
    let first = house.put("hello.wasm", &component(1));
    let catalogue = house.open();
    let cancel = CancellationToken::new();
    let watching = catalogue.watch(cancel.clone());
    until(&catalogue, "the first", |now| serving(now, "hello") == Some(first)).await;
    for name in [
        ".hello.wasm.swp",
        "hello.wasm~",
        "4913",
        ".#hello.wasm",
        "#hello.wasm#",
        "hello.wasm.part",
        "hello.wasm.crdownload",
        ".hello.wasm.Xa3",
    ] {
        fs::write(house.path(name), b"half").unwrap();
    }
    // As editors save: the file becomes its backup, and another one takes its name.
    fs::rename(house.path("hello.wasm"), house.path("hello.wasm~")).unwrap();
    fs::rename(house.aside("saved", &component(2)), house.path("hello.wasm")).unwrap();
    until(&catalogue, "the second", |now| {
        assert!(serving(now, "hello").is_some(), "it is missing between two forms of its file");
        serving(now, "hello") == Some(Digest::of(&component(2)))
    })
    .await;
    assert_eq!(catalogue.list().len(), 1, "{:?}", catalogue.list());
    cancel.cancel();
    watching.await.unwrap();
}
