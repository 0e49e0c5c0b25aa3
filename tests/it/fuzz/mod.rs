//! Hostile input at every door: nothing panics, nothing hangs, what is refused is refused in a sentence, and what is accepted comes back
//! as it went in.
//!
//! `PROPTEST_CASES` raises the number of cases; what stays private is tried beside its code.

mod api;
mod config;
mod domain;
mod json;
mod paths;
mod plugins;
mod records;

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// As many cases as a door is worth in the ordinary run, or as `PROPTEST_CASES` says if that is more.
fn cases(ordinary: u32) -> Config {
    let wanted = std::env::var("PROPTEST_CASES").ok().and_then(|cases| cases.parse().ok()).unwrap_or(0);
    Config { cases: ordinary.max(wanted), failure_persistence: None, ..Config::default() }
}

/// Tries values of a strategy on something that is made once.
fn try_all<S: Strategy>(ordinary: u32, strategy: &S, mut holds: impl FnMut(S::Value) -> Result<(), TestCaseError>) {
    let holds = std::cell::RefCell::new(&mut holds);
    if let Err(failure) = TestRunner::new(cases(ordinary)).run(strategy, |value| (holds.borrow_mut())(value)) {
        panic!("{failure}");
    }
}

/// Texts that parsers stumble over, and any others.
fn text() -> impl Strategy<Value = String> {
    let known = [
        "",
        " ",
        ".",
        "..",
        "/",
        "../..",
        "a/b",
        "\0",
        "\n",
        "a\r\nb: c",
        "\u{1b}[2J",
        "\u{202e}",
        "é",
        "🦀",
        "١",
        "null",
        "true",
        "0",
        "-0",
        "1e999",
        "NaN",
        "inf",
        "{run_id}",
        "/{run_id}",
        "{agent_id}/{task_id}/{run_id}",
        "{}",
        "%00",
        "%2e%2e",
        "'; drop table run; --",
        "9223372036854775808",
        "0001-01-01T00:00:00Z",
        "9999-12-31T23:59:60Z",
        "2026-11-01T01:30:00",
        "2026-03-08 02:30",
        "+262143-01-01T00:00:00Z",
        "Europe/Berlin",
        "* * * * *",
        "0 0 29 2 *",
        "@daily",
        "run_00000000000000000000000000000000",
    ];
    prop_oneof![
        3 => proptest::sample::select(known.to_vec()).prop_map(str::to_owned),
        2 => "[ -~]{0,24}",
        1 => any::<String>(),
        1 => ("[a-z{}/%é]", 1usize..3000).prop_map(|(piece, times)| piece.repeat(times)),
    ]
}

/// What every refusal looks like: one sentence without line breaks or control characters, and not endless.
fn is_one_sentence(sentence: &str) -> Result<(), TestCaseError> {
    prop_assert!(!sentence.trim().is_empty(), "an empty refusal");
    prop_assert!(!sentence.chars().any(char::is_control), "control characters in {sentence:?}");
    prop_assert!(sentence.chars().count() <= 4001, "{} characters: {sentence}", sentence.chars().count());
    Ok(())
}
