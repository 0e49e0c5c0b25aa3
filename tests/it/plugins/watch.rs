//! The watcher and its poll.

use std::fs;
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
