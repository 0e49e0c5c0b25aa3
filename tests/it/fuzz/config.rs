//! The configuration file and the environment.

use std::path::Path;

use proptest::prelude::*;
use proptest::sample::{Index, select};
use sandclock::config::{Environment, Loaded, REFERENCE, StoreSettings, client, parse};

use super::{cases, is_one_sentence, text};

const FILE: &str = "sandclock.toml";

fn are_sentences(faults: &sandclock::config::ConfigFaults) -> Result<(), TestCaseError> {
    prop_assert!(!faults.0.is_empty());
    faults.0.iter().try_for_each(|fault| is_one_sentence(&fault.to_string()))
}

/// The reference file without its comments' marks, so that every key is set.
fn full() -> String {
    let set = |line: &str| match line.strip_prefix("# ") {
        Some(rest) if rest.contains(" = ") && rest.split(" = ").next().is_some_and(|key| !key.contains(' ')) => rest.to_owned(),
        _ => line.to_owned(),
    };
    let text: Vec<String> = REFERENCE.lines().map(set).collect();
    text.join("\n")
}

/// One change of a line: another value, a cut, a doubled line, any text.
fn spoil(text: &str, at: Index, what: u8, by: &str) -> String {
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    let keys: Vec<usize> = (0..lines.len()).filter(|at| lines[*at].contains(" = ") || lines[*at].starts_with('[')).collect();
    let line = *at.get(&keys);
    let key = lines[line].split(" = ").next().unwrap().to_owned();
    lines[line] = match what % 6 {
        0 => format!("{key} = {by}"),
        1 => format!("{key} = {:?}", by),
        2 => lines[line].chars().take(at.index(lines[line].len() + 1)).collect(),
        3 => format!("{0}\n{0}", lines[line]),
        4 => format!("{by} = 1"),
        _ => format!("{}{by}", lines[line]),
    };
    lines.join("\n")
}

fn toml_value() -> impl Strategy<Value = String> {
    prop_oneof![
        2 => text(),
        1 => any::<i64>().prop_map(|number| number.to_string()),
        1 => any::<f64>().prop_map(|number| format!("{number:?}")),
        1 => select(vec![
            "true", "[]", "{}", "[1, 'a']", "{a = 1}", "1979-05-27", "07:32:00", "0x_f", "0xffffffffffffffffffff", "1e400", "-1", "0", "+inf", "\"\"", "'auto'",
            "\"sqlite:///x\"", "\"127.0.0.1:0\"", "\"[::1]:80\"", "\"0.0.0.0:8000\"", "\"x\\u0000\"",
        ]).prop_map(str::to_owned),
    ]
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn a_spoiled_file_is_read_or_refused(at in any::<Index>(), again in any::<Index>(), what in any::<u8>(), by in toml_value()) {
        let spoiled = spoil(&spoil(&full(), at, what, &by), again, what / 6, &by);
        match parse(&spoiled, Path::new(FILE), &Environment::default()) {
            Ok(loaded) => is_the_same_again(&spoiled, &loaded)?,
            Err(faults) => are_sentences(&faults)?,
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(given in prop_oneof![text(), "[\\[\\]a-z=\"'.\n #{},0-9-]{0,80}"]) {
        if let Err(faults) = parse(&given, Path::new(FILE), &Environment::default()) {
            are_sentences(&faults)?;
        }
    }

    #[test]
    fn any_environment_is_read_or_refused(
        pairs in proptest::collection::vec((select(variables()), prop_oneof![text(), toml_value()]), 0..5),
    ) {
        let env = Environment::of(pairs.iter().map(|(name, value)| (name.as_str(), value.as_str())));
        match parse("", Path::new(FILE), &env) {
            Ok(loaded) => loaded.warnings.iter().try_for_each(|warning| is_one_sentence(warning))?,
            Err(faults) => are_sentences(&faults)?,
        }
        if let Err(faults) = client(&env) {
            are_sentences(&faults)?;
        }
    }

    #[test]
    fn a_stores_url_names_a_file_or_a_server_or_is_refused(
        scheme in select(vec!["sqlite", "SQLITE", "sqlite+x", "memory", "in_memory", "redis", "mongodb", "postgresql+asyncpg", "file", ""]),
        slashes in select(vec![":", ":/", "://", ":///", ":////", "", ":///:memory:"]),
        path in text(), secret in "[a-z]{12}",
    ) {
        let url = format!("{scheme}{slashes}{path}");
        let load = |url: &str| parse("", Path::new(FILE), &Environment::of([("SANDCLOCK_STORE", url)]));
        match load(&url) {
            Ok(Loaded { settings, .. }) => {
                let is_whole = match &settings.store {
                    StoreSettings::Sqlite { path } => !path.as_os_str().is_empty(),
                    StoreSettings::Memory => true,
                    StoreSettings::Postgres { url, .. } => url.to_string().starts_with("postgres://"),
                    StoreSettings::Redis { url, .. } => url.to_string().starts_with("redis://"),
                    StoreSettings::Mongodb { url, .. } => url.to_string().starts_with("mongodb://"),
                };
                prop_assert!(is_whole, "{url}");
            }
            Err(faults) => are_sentences(&faults)?,
        }
        match load(&format!("{scheme}://user:{secret}@host/{path}")) {
            Ok(loaded) => prop_assert!(scheme.starts_with("sqlite") || !format!("{loaded:?}").contains(&secret), "{:?}", loaded),
            Err(faults) => prop_assert!(!faults.to_string().contains(&secret), "{}", faults),
        }
    }
}

fn is_the_same_again(text: &str, loaded: &Loaded) -> Result<(), TestCaseError> {
    let again = parse(text, Path::new(FILE), &Environment::default()).unwrap();
    prop_assert_eq!(&again, loaded);
    Ok(())
}

/// Every variable that the reference names, and some that it does not.
fn variables() -> Vec<String> {
    let own =
        REFERENCE.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).filter(|word| word.starts_with("SANDCLOCK_") && word.len() > 12);
    let seed = ["TASK_STORE", "TASK_STORE_URL", "AGENT_ID", "START_WORKER"].map(|name| format!("OMNICOREAGENT_BACKGROUND_{name}"));
    let serve = ["HOST", "PORT", "API_PREFIX", "AUTH_ENABLED", "AUTH_TOKEN", "REQUEST_TIMEOUT", "LOG_LEVEL"]
        .map(|name| format!("OMNICOREAGENT_SERVE_{name}"));
    let mut names: Vec<String> = own.map(str::to_owned).chain(seed).chain(serve).collect();
    names.extend(
        ["DATABASE_URL", "SANDCLOCK_URL", "SANDCLOCK_TOKEN", "SANDCLOCK_NO_SUCH", "OMNICOREAGENT_WORKSPACE_DIR"].map(str::to_owned),
    );
    names.sort();
    names.dedup();
    assert!(names.len() > 20, "{names:?}");
    names
}
