//! Test guests, written as text and made into components here: no wasm tool chain, a few kilobytes and milliseconds each, the same bytes
//! every time. `plain` has the well-behaved ones, `hostile` what attacks CPU, memory and the host's patience, `files` what attacks the
//! workspace, `command` the agents that are plain `wasi:cli` commands and files that are no agents.
//!
//! [`agent`] surrounds the instructions of `run` with what they use of [`host`], and knows one short form: `@"text"` stands for the
//! address and length of that text.

pub mod command;
mod drift;
pub mod files;
mod host;
pub mod hostile;
pub mod http;
pub mod memory;
pub mod plain;

use std::collections::HashMap;
use std::fmt::Write;
use wit_component::{ComponentEncoder, StringEncoding, embed_component_metadata};
use wit_parser::Resolve;

/// A fixture by name, for the tests that go through all of them.
pub type Fixture = (&'static str, fn() -> Vec<u8>);

/// Where the texts of a guest start in its memory; below lie its answer (16) and what host calls return (256).
const TEXTS: usize = 1024;

/// A component of `world` in `worlds.wit` around a core module.
pub fn component_from_wat(wat: &str, world: &str) -> Vec<u8> {
    let mut module = wat::parse_str(wat).unwrap_or_else(|e| panic!("{e}\n{wat}"));
    let mut resolve = Resolve::default();
    resolve.push_str("agent.wit", include_str!("../../../wit/agent.wit")).unwrap();
    let package = resolve.push_str("worlds.wit", include_str!("worlds.wit")).unwrap();
    let world = resolve.select_world(&[package], Some(world)).unwrap();
    embed_component_metadata(&mut module, &resolve, world, StringEncoding::UTF8).unwrap();
    let mut encoder = ComponentEncoder::default();
    let encoder = encoder.validate(true).module(&module).unwrap_or_else(|e| panic!("{e:?}\n{wat}"));
    encoder.encode().unwrap_or_else(|e| panic!("{e:?}\n{wat}"))
}

/// An agent whose `run` has the instructions `body` (`$query` and `$query_len` are its argument; it leaves the address of its result, as
/// `$ok`, `$retry` and `$err` give it). `extra` goes into the module beside it.
pub fn agent(body: &str, extra: &str) -> Vec<u8> {
    component_from_wat(&agent_wat(body, extra), "fixture")
}

fn agent_wat(body: &str, extra: &str) -> String {
    module(&agent_items(body, extra))
}

/// What makes a module an agent.
fn agent_items(body: &str, extra: &str) -> String {
    let entry = "sandclock:agent/entry@0.1.0#run";
    format!(
        r#"{extra}
  (func (export "{entry}") (param $query i32) (param $query_len i32) (result i32)
    (local $i i32) (local $n i64) (local $fd i32) (local $code i32)
    {body})
  (func (export "cabi_post_{entry}") (param i32) {})"#,
        if extra.contains("$post_return") { "(call $post_return)" } else { "" }
    )
}

/// A core module of `items`, with the imports and helpers they name, their texts, a memory and an allocator.
fn module(items: &str) -> String {
    module_with(items, "")
}

/// The same with imports that are not of [`host`].
fn module_with(items: &str, more_imports: &str) -> String {
    let (mut items, data) = place_texts(&with_helpers(items));
    if !items.contains("\"cabi_realloc\"") {
        items.push_str(host::ALLOCATOR);
    }
    let imports = host::IMPORTS.iter().filter(|import| names(&items, import.name)).fold(String::new(), |mut text, import| {
        let _ = writeln!(text, "  (import \"{}\" \"{}\" (func {} {}))", import.interface, import.function, import.name, import.shape);
        text
    });
    format!(
        "(module\n{more_imports}{imports}  (memory (export \"memory\") 2)\n  (global $heap (mut i32) (i32.const 131072))\n{data}\n{items})"
    )
}

/// Adds the helpers that the text names, and those that these name.
fn with_helpers(items: &str) -> String {
    let mut text = items.to_string();
    let mut missing: Vec<&(&str, &str)> = host::HELPERS.iter().collect();
    loop {
        let (needed, rest) = missing.into_iter().partition::<Vec<&(&str, &str)>, _>(|(name, _)| names(&text, name));
        if needed.is_empty() {
            return text;
        }
        needed.iter().for_each(|(_, helper)| text.push_str(helper));
        missing = rest;
    }
}

/// Whether the text has the identifier `name`, and not just a longer one.
fn names(text: &str, name: &str) -> bool {
    text.match_indices(name).any(|(at, _)| !text[at + name.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// Replaces each `@"text"` by its address and length; gives the data segments that put the texts there.
fn place_texts(items: &str) -> (String, String) {
    let (mut out, mut data, mut next) = (String::new(), String::new(), TEXTS);
    let mut placed: HashMap<&str, usize> = HashMap::new();
    let mut rest = items;
    while let Some((before, after)) = rest.split_once("@\"") {
        let (text, tail) = after.split_once('"').unwrap();
        let address = *placed.entry(text).or_insert_with(|| {
            let escaped: String = text.bytes().map(|byte| format!("\\{byte:02x}")).collect();
            let _ = writeln!(data, "  (data (i32.const {next}) \"{escaped}\")");
            next += text.len();
            next - text.len()
        });
        let _ = write!(out, "{before}(i32.const {address}) (i32.const {})", text.len());
        rest = tail;
    }
    assert!(next < host::OUT, "the texts of a fixture must end before its output buffer");
    out.push_str(rest);
    (out, data)
}

#[test]
fn every_fixture_is_a_valid_component_and_always_the_same() {
    for (name, make) in plain::ALL.iter().chain(hostile::ALL).chain(files::ALL).chain(command::ALL).chain(http::ALL) {
        let bytes = make();
        wasmparser::Validator::new_with_features(wasmparser::WasmFeatures::all())
            .validate_all(&bytes)
            .unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(bytes[..8], *b"\0asm\x0d\0\x01\0", "{name} is not a component");
        assert_eq!(bytes, make(), "{name} differs from call to call");
    }
}

#[test]
fn a_fixture_imports_only_what_it_calls() {
    let text = agent_wat("(call $report @\"hi\" (i32.const 0) (f64.const 0)) (call $ok @\"hi\")", "");
    assert_eq!(text.matches("(import").count(), 1, "{text}");
    assert_eq!(text.matches("(data").count(), 1, "{text}");
}
