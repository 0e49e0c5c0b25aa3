//! What is compiled, and what the compile cache is trusted with.

use std::fs::{self, Permissions};
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use sandclock::plugins::{Catalogue, Digest, Loader};
use wasmtime::Engine;

use super::{House, Plain, component, names, reason, serving};

#[tokio::test]
async fn the_same_bytes_are_compiled_and_prepared_once() {
    let house = House::new();
    for name in ["a.wasm", "b.wasm", "c.wasm"] {
        house.put(name, &component(1));
    }
    let catalogue = house.open();
    assert_eq!(catalogue.scan().await.accepted, names(&["a", "b", "c"]));
    let (a, b) = (catalogue.serving("a").unwrap(), catalogue.serving("b").unwrap());
    assert!(Arc::ptr_eq(&a.prepared, &b.prepared));
    assert_eq!((a.stem.as_str(), b.stem.as_str()), ("a", "b"));
    assert_eq!((catalogue.loader().compiles(), house.prepared.load(Ordering::SeqCst)), (1, 1));
}

#[tokio::test]
async fn a_compile_that_takes_too_long_is_refused_and_not_cached() {
    let mut house = House::new();
    house.settings.compile_time_limit = Duration::ZERO;
    house.put("slow.wasm", &component(1));
    let catalogue = house.open();
    assert_eq!(catalogue.scan().await.rejected, names(&["slow.wasm"]));
    assert!(reason(&catalogue, "slow.wasm").contains("takes longer than 0 s"));
    // The next file's turn comes when the overlong compile has ended.
    house.put("next.wasm", &component(2));
    assert_eq!(catalogue.scan().await.rejected, names(&["next.wasm"]));
    assert!(house.cached().is_empty());
}

#[tokio::test]
async fn a_restart_compiles_nothing_again() {
    let house = House::new();
    let (a, b) = (house.put("a.wasm", &component(1)), house.put("b.wasm", &component(2)));
    let before = house.open();
    before.scan().await;
    assert_eq!((before.loader().compiles(), house.cached().len()), (2, 2));
    drop(before);

    let after = house.open();
    assert_eq!(after.scan().await.accepted, names(&["a", "b"]));
    assert_eq!((serving(&after, "a"), serving(&after, "b")), (Some(a), Some(b)));
    assert_eq!(after.loader().compiles(), 0);

    let mut config = wasmtime::Config::new();
    config.epoch_interruption(true);
    let other = Engine::new(&config).unwrap();
    let other = Catalogue::open(house.settings.clone(), other, Plain::default()).unwrap();
    other.scan().await;
    assert_eq!((other.loader().compiles(), house.cached().len()), (2, 4), "another engine's code is not taken");
}

#[tokio::test]
async fn a_tampered_cache_file_is_never_loaded() {
    let house = House::new();
    house.put("a.wasm", &component(1));
    house.open().scan().await;
    let path = house.cached().pop().unwrap();
    let whole = fs::read(&path).unwrap();

    let flipped = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 1;
        bytes
    };
    let foreign = {
        // A compiled component that another daemon, with a key of its own, authenticated.
        let house = House::new();
        house.put("a.wasm", &component(1));
        house.open().scan().await;
        fs::read(house.cached().pop().unwrap()).unwrap()
    };
    assert_eq!(foreign.len(), whole.len());
    let bare = whole[..whole.len() - 40].to_vec();
    for bytes in [flipped(0), flipped(20), flipped(whole.len() - 1), flipped(whole.len() - 40), whole[..30].to_vec(), vec![], bare, foreign]
    {
        fs::write(&path, &bytes).unwrap();
        let catalogue = house.open();
        assert_eq!(catalogue.scan().await.accepted, names(&["a"]));
        assert_eq!(catalogue.loader().compiles(), 1, "a file of {} bytes was loaded", bytes.len());
    }
    let catalogue = house.open();
    catalogue.scan().await;
    assert_eq!(catalogue.loader().compiles(), 0, "the last one wrote a good file in its place");

    // The file of another plugin, in place of this one's, is authentic and still not this plugin's.
    house.put("b.wasm", &component(2));
    catalogue.scan().await;
    let other = house.cached().into_iter().find(|file| *file != path).unwrap();
    fs::copy(&other, &path).unwrap();
    let catalogue = house.open();
    catalogue.scan().await;
    assert_eq!(catalogue.loader().compiles(), 1);
}

#[tokio::test]
async fn a_cache_that_others_can_write_is_not_used() {
    let house = House::new();
    house.put("a.wasm", &component(1));
    house.open().scan().await;
    for mode in [0o777, 0o770, 0o702] {
        fs::set_permissions(&house.settings.cache, Permissions::from_mode(mode)).unwrap();
        let catalogue = house.open();
        assert!(catalogue.loader().cache_fault().unwrap().contains("can be written by other users"));
        assert_eq!(catalogue.scan().await.accepted, names(&["a"]), "it is compiled without a cache");
        fs::copy(house.path("a.wasm"), house.path("same.wasm")).unwrap();
        assert_eq!(catalogue.scan().await.accepted, names(&["same"]));
        assert_eq!(catalogue.loader().compiles(), 1, "what is in memory is not compiled again");
        fs::remove_file(house.path("same.wasm")).unwrap();
    }
    fs::set_permissions(&house.settings.cache, Permissions::from_mode(0o700)).unwrap();
    let private = house.root.path().join("private");
    fs::rename(&house.settings.cache, &private).unwrap();
    symlink(&private, &house.settings.cache).unwrap();
    assert!(house.open().loader().cache_fault().is_some(), "a link may point elsewhere at any time");
}

#[tokio::test]
async fn the_cache_is_private_and_a_key_that_others_could_read_is_replaced() {
    let house = House::new();
    house.put("a.wasm", &component(1));
    house.open().scan().await;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let key = house.settings.cache.join("key");
    assert_eq!((mode(&house.settings.cache), mode(&key)), (0o700, 0o600));
    let old = fs::read(&key).unwrap();

    fs::set_permissions(&key, Permissions::from_mode(0o640)).unwrap();
    let catalogue = house.open();
    catalogue.scan().await;
    assert_eq!((catalogue.loader().compiles(), mode(&key)), (1, 0o600));
    assert_ne!(fs::read(&key).unwrap(), old);
    assert_eq!(fs::read_dir(&house.settings.cache).unwrap().count(), 2, "no temporary files stay");
}

#[tokio::test]
async fn a_file_elsewhere_is_loaded_under_the_same_rules() {
    let house = House::new();
    let loader = Loader::open(&house.settings, Engine::default(), Plain::default()).unwrap();
    let loaded = loader.load(&house.aside("tool.wasm", &component(1))).await.unwrap();
    assert_eq!((loaded.stem.as_str(), loaded.digest), ("tool", Digest::of(&component(1))));
    let refused = loader.load(&house.aside("core.wasm", &wat::parse_str("(module)").unwrap())).await.unwrap_err();
    assert!(refused.to_string().contains("`core.wasm` is a core module"), "{refused}");
    let refused = loader.load(&house.root.path().join("none.wasm")).await.unwrap_err();
    assert!(refused.to_string().contains("`none.wasm`"), "{refused}");
}
