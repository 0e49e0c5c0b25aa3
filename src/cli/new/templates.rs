//! The files of a new agent in each language, as this binary carries them.
//!
//! Invariant: what stands for a name in them is `{{name}}`, or `{{crate}}` where Rust wants underscores; nothing else is replaced, and the
//! libraries and WIT files are those of the contract that this binary serves.

use super::Language;

/// A file's path below the agent's folder, and its text.
pub(super) type File = (&'static str, &'static str);

/// Pairs of a path in the new folder and a file of this repository.
macro_rules! files {
    ($($path:literal from $source:literal),* $(,)?) => { &[$(($path, include_str!(concat!("../../../", $source)))),*] };
}

const RUST: &[File] = files![
    "Cargo.toml" from "src/cli/new/rust/Cargo.toml.in",
    "src/lib.rs" from "src/cli/new/rust/lib.rs.in",
    "agent.toml" from "src/cli/new/rust/agent.toml.in",
    ".gitignore" from "src/cli/new/rust/gitignore.in",
    "README.md" from "src/cli/new/rust/README.md.in",
];

/// The library of Rust agents.
const RUST_LIBRARY: &[File] = files![
    "sandclock-agent/Cargo.toml" from "wit/rust/Cargo.toml",
    "sandclock-agent/src/bindings.rs" from "wit/rust/src/bindings.rs",
    "sandclock-agent/src/config.rs" from "wit/rust/src/config.rs",
    "sandclock-agent/src/http/events.rs" from "wit/rust/src/http/events.rs",
    "sandclock-agent/src/http/mod.rs" from "wit/rust/src/http/mod.rs",
    "sandclock-agent/src/http/response.rs" from "wit/rust/src/http/response.rs",
    "sandclock-agent/src/http/retry_after.rs" from "wit/rust/src/http/retry_after.rs",
    "sandclock-agent/src/http/url.rs" from "wit/rust/src/http/url.rs",
    "sandclock-agent/src/http/wire.rs" from "wit/rust/src/http/wire.rs",
    "sandclock-agent/src/lib.rs" from "wit/rust/src/lib.rs",
    "sandclock-agent/src/memory.rs" from "wit/rust/src/memory.rs",
    "sandclock-agent/src/services.rs" from "wit/rust/src/services.rs",
    "sandclock-agent/src/steps.rs" from "wit/rust/src/steps.rs",
];

const COMMAND: &[File] = files![
    "Cargo.toml" from "src/cli/new/wasi-command/Cargo.toml.in",
    "src/main.rs" from "src/cli/new/wasi-command/main.rs.in",
    "agent.toml" from "src/cli/new/wasi-command/agent.toml.in",
    ".gitignore" from "src/cli/new/wasi-command/gitignore.in",
    "README.md" from "src/cli/new/wasi-command/README.md.in",
];

const PYTHON: &[File] = files![
    "agent.py" from "src/cli/new/python/agent.py.in",
    "test_agent.py" from "src/cli/new/python/test_agent.py.in",
    "build.sh" from "src/cli/new/python/build.sh.in",
    "agent.toml" from "src/cli/new/python/agent.toml.in",
    ".gitignore" from "src/cli/new/python/gitignore.in",
    "README.md" from "src/cli/new/python/README.md.in",
    "requirements.txt" from "scripts/guest-python/requirements.txt",
];

/// The module of Python agents.
const PYTHON_LIBRARY: &[File] = files![
    "sandclock/__init__.py" from "wit/python/sandclock/__init__.py",
    "sandclock/_failures.py" from "wit/python/sandclock/_failures.py",
    "sandclock/_host.py" from "wit/python/sandclock/_host.py",
    "sandclock/_http.py" from "wit/python/sandclock/_http.py",
    "sandclock/local.py" from "wit/python/sandclock/local.py",
];

const JAVASCRIPT: &[File] = files![
    "agent.js" from "src/cli/new/javascript/agent.js.in",
    "agent.test.js" from "src/cli/new/javascript/agent.test.js.in",
    "package.json" from "src/cli/new/javascript/package.json.in",
    "package-lock.json" from "scripts/guest-javascript/package-lock.json",
    "agent.toml" from "src/cli/new/javascript/agent.toml.in",
    ".gitignore" from "src/cli/new/javascript/gitignore.in",
    "README.md" from "src/cli/new/javascript/README.md.in",
];

/// The module of JavaScript agents.
const JAVASCRIPT_LIBRARY: &[File] = files![
    "sandclock/http.js" from "wit/javascript/http.js",
    "sandclock/local.js" from "wit/javascript/local.js",
    "sandclock/sandclock.js" from "wit/javascript/sandclock.js",
];

/// The contract, for tool chains that must be told of it.
const WIT: &[File] = files![
    "wit/agent.wit" from "wit/agent.wit",
    "wit/languages.wit" from "wit/languages.wit",
    "wit/deps/clocks.wit" from "wit/deps/clocks.wit",
    "wit/deps/config.wit" from "wit/deps/config.wit",
    "wit/deps/filesystem.wit" from "wit/deps/filesystem.wit",
    "wit/deps/http.wit" from "wit/deps/http.wit",
    "wit/deps/io.wit" from "wit/deps/io.wit",
    "wit/deps/keyvalue.wit" from "wit/deps/keyvalue.wit",
    "wit/deps/logging.wit" from "wit/deps/logging.wit",
];

/// Every file of an agent in this language; only those of the first list have names to fill in.
pub(super) fn files(language: Language) -> [&'static [File]; 3] {
    match language {
        Language::Rust => [RUST, RUST_LIBRARY, &[]],
        Language::WasiCommand => [COMMAND, &[], &[]],
        Language::Python => [PYTHON, PYTHON_LIBRARY, WIT],
        Language::Javascript => [JAVASCRIPT, JAVASCRIPT_LIBRARY, WIT],
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::*;

    /// The files below a folder of this repository, by their paths in it.
    fn below(folder: &Path, prefix: &str, found: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let name = format!("{prefix}/{}", entry.file_name().to_str().unwrap());
            if entry.file_type().unwrap().is_dir() {
                below(&entry.path(), &name, found);
            } else {
                found.insert(name);
            }
        }
    }

    #[test]
    fn each_library_is_carried_whole() {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("wit");
        for (library, prefix, folder) in [
            (RUST_LIBRARY, "sandclock-agent/src", root.join("rust/src")),
            (PYTHON_LIBRARY, "sandclock", root.join("python/sandclock")),
            (JAVASCRIPT_LIBRARY, "sandclock", root.join("javascript")),
            (WIT, "wit/deps", root.join("deps")),
        ] {
            let mut there = BTreeSet::new();
            below(&folder, prefix, &mut there);
            there.retain(|name| !name.contains("__pycache__") && !name.ends_with("/package.json") && !name.ends_with(".test.js"));
            let carried: BTreeSet<String> =
                library.iter().map(|(path, _)| (*path).to_owned()).filter(|path| path.starts_with(&format!("{prefix}/"))).collect();
            assert_eq!(carried, there);
        }
    }

    #[test]
    fn the_tools_of_a_new_agent_are_those_that_the_examples_are_built_with() {
        let given = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
        let of_new = given(JAVASCRIPT.iter().find(|(path, _)| *path == "package.json").unwrap().1);
        let of_examples = given(include_str!("../../../scripts/guest-javascript/package.json"));
        assert_eq!((&of_new["devDependencies"], &of_new["engines"]), (&of_examples["devDependencies"], &of_examples["engines"]));
    }
}
