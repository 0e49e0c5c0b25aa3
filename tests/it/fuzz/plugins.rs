//! Whole plugin files with changed bytes, through reading, validation, compiling and preparing.

use std::fs;

use proptest::prelude::*;
use proptest::sample::Index;
use sandclock::plugins::{Catalogue, PluginSettings, PluginState, Preparer};
use wasmtime::Engine;
use wasmtime::component::Component;

use super::{is_one_sentence, try_all};

struct Any;

impl Preparer for Any {
    type Prepared = ();
    fn prepare(&self, _: &Component) -> Result<(), String> {
        Ok(())
    }
}

fn component() -> Vec<u8> {
    let text = r#"(component
        (import "sandclock:agent/progress@0.1.0" (instance $progress (export "cancelled" (func (result bool)))))
        (core module $m (memory (export "memory") 1) (table 4 funcref) (global (mut i32) (i32.const 7)) (data (i32.const 0) "text")
            (func $f (export "run") (param i32 i32) (result i32) (loop (br_if 0 (i32.eqz (local.get 0)))) (i32.load (local.get 1)))
            (func (export "cabi_realloc") (param i32 i32 i32 i32) (result i32) (i32.const 0)) (elem (i32.const 0) $f))
        (core instance $i (instantiate $m))
        (func (export "run") (param "query" string) (result u32)
            (canon lift (core func $i "run") (memory $i "memory") (realloc (func $i "cabi_realloc")))))"#;
    wat::parse_str(text).unwrap()
}

#[test]
fn any_bytes_in_the_plugins_folder_serve_or_are_refused() {
    let root = tempfile::tempdir().unwrap();
    let settings = PluginSettings::new(root.path().join("plugins"), root.path().join("cache"));
    let folder = settings.folder.clone();
    fs::create_dir(&folder).unwrap();
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let _inside = runtime.enter();
    let catalogue = Catalogue::open(settings, Engine::default(), Any).unwrap();
    let whole = component();
    fs::write(folder.join("good.wasm"), &whole).unwrap();
    let change = (any::<Index>(), any::<u8>(), 0u8..3);
    let files = proptest::collection::vec(proptest::collection::vec(change, 1..4), 24);
    try_all(3, &files, |files| {
        for (number, changes) in files.into_iter().enumerate() {
            let mut bytes = whole.clone();
            for (at, byte, what) in changes {
                let at = 8 + at.index(bytes.len() - 8);
                match what {
                    0 => bytes[at] = byte,
                    1 => bytes.insert(at, byte),
                    _ => drop(bytes.remove(at)),
                }
            }
            fs::write(folder.join(format!("p{number}.wasm")), bytes).unwrap();
        }
        runtime.block_on(catalogue.scan());
        let list = catalogue.list();
        prop_assert_eq!(list.len(), 25);
        for status in list {
            match status.state {
                PluginState::Rejected { reason } => {
                    prop_assert_ne!(status.stem, "good");
                    is_one_sentence(&reason)?;
                }
                PluginState::Accepted { .. } => {}
                PluginState::Compiling => return Err(TestCaseError::fail(format!("{} is not judged after a scan", status.stem))),
            }
        }
        Ok(())
    });
}
