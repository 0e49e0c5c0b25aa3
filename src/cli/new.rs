//! `sandclock new`: the folder of a small agent, in a language of choice, that builds with one command outside of any checkout.
//!
//! Invariant: nothing that exists is overwritten. The folder is made beside its place and moved there whole, so that a failure leaves
//! nothing half written.

mod templates;

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};

use super::Context;
use super::exit::{Exit, Fault};

/// The longest name, in bytes: what npm, cargo and file systems all take.
const LONGEST_NAME: usize = 64;
/// Words that cargo or rustc take for something else.
const RESERVED: &[&str] = &[
    "abstract",
    "alloc",
    "as",
    "async",
    "await",
    "become",
    "box",
    "break",
    "const",
    "continue",
    "core",
    "crate",
    "do",
    "dyn",
    "else",
    "enum",
    "extern",
    "false",
    "final",
    "fn",
    "for",
    "gen",
    "if",
    "impl",
    "in",
    "let",
    "loop",
    "macro",
    "match",
    "mod",
    "move",
    "mut",
    "override",
    "priv",
    "proc-macro",
    "proc_macro",
    "pub",
    "ref",
    "return",
    "sandclock-agent",
    "sandclock_agent",
    "self",
    "serde",
    "serde_json",
    "static",
    "std",
    "struct",
    "super",
    "test",
    "trait",
    "true",
    "try",
    "type",
    "typeof",
    "unsafe",
    "unsized",
    "use",
    "virtual",
    "wasip2",
    "where",
    "while",
    "wit-bindgen",
    "yield",
];

/// Write a small agent that builds with one command, runs under `sandclock dev`, and has a test of its own
#[derive(Args, Clone, Debug)]
pub struct NewArgs {
    /// The agent's name
    #[arg(value_name = "NAME")]
    name: String,
    /// Its language
    #[arg(long, value_enum, value_name = "LANGUAGE")]
    lang: Language,
    /// The folder to make; NAME in the current directory when not given
    #[arg(long, value_name = "PATH")]
    dir: Option<PathBuf>,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

/// What an agent is written in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Language {
    /// A Rust library
    Rust,
    /// A Python module
    Python,
    /// A JavaScript module
    Javascript,
    /// An ordinary Rust program, which knows nothing of sandclock
    WasiCommand,
}

impl Language {
    fn name(self) -> &'static str {
        match self {
            Language::Rust => "rust",
            Language::Python => "python",
            Language::Javascript => "javascript",
            Language::WasiCommand => "wasi-command",
        }
    }

    /// The command that builds it, in its folder.
    fn build(self) -> &'static str {
        match self {
            Language::Rust | Language::WasiCommand => "cargo build --release --target wasm32-wasip2",
            Language::Python => "sh build.sh",
            Language::Javascript => "npm run build",
        }
    }

    /// The command that runs its own test, in its folder.
    fn test(self) -> &'static str {
        match self {
            Language::Rust | Language::WasiCommand => "cargo test",
            Language::Python => "python3 -m unittest",
            Language::Javascript => "node --test",
        }
    }

    /// Where the build leaves the component, in its folder.
    fn component(self, name: &str) -> String {
        match self {
            Language::Rust => format!("target/wasm32-wasip2/release/{}.wasm", crate_name(name)),
            Language::WasiCommand => format!("target/wasm32-wasip2/release/{name}.wasm"),
            Language::Python | Language::Javascript => format!("{name}.wasm"),
        }
    }

    /// What its machine needs, in words.
    fn needs(self) -> &'static str {
        match self {
            Language::Rust | Language::WasiCommand => "Rust 1.85 or newer, and once: rustup target add wasm32-wasip2",
            Language::Python => "Python 3.10 or newer with pip",
            Language::Javascript => "node 20 or newer with npm",
        }
    }
}

/// What was made.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Made {
    name: String,
    language: Language,
    folder: PathBuf,
    files: Vec<&'static str>,
}

/// Why nothing was made.
#[derive(Debug, thiserror::Error)]
enum NewError {
    #[error(
        "an agent cannot be called `{0}`: a name is a lower-case letter, and then lower-case letters, digits, `-` and `_`, of {LONGEST_NAME} at most"
    )]
    Name(String),
    #[error("an agent cannot be called `{0}`: the word means something else to Rust; choose another, such as `{0}-agent`")]
    Reserved(String),
    #[error("`{}` exists already and is not overwritten: remove it, or name another folder with --dir", .0.display())]
    Exists(PathBuf),
    #[error("`{}` cannot be made ({source}): make its parent writable, or name another folder with --dir", .path.display())]
    Io { path: PathBuf, source: io::Error },
}

impl Made {
    fn text(&self) -> String {
        let (language, folder) = (self.language, self.folder.display());
        format!(
            "made {folder}: {} files, see its README.md\n\nneeds: {}\n\ncd {folder}\n{build:<44}  # makes {}\n{test:<44}  # its own tests\n\
             {dev:<44}  # builds and runs it, again whenever you save\n",
            self.files.len(),
            language.needs(),
            language.component(&self.name),
            build = language.build(),
            test = language.test(),
            dev = "sandclock dev . --query \"world\"",
        )
    }

    fn json(&self) -> serde_json::Value {
        serde_json::json!({
            "name": self.name, "lang": self.language.name(), "folder": self.folder.to_string_lossy(), "files": self.files,
            "build": self.language.build(), "test": self.language.test(), "component": self.language.component(&self.name),
        })
    }
}

/// Carries `new` out.
///
/// # Errors
/// The name is none, something is there already, or the file system refuses.
pub fn execute(args: &NewArgs, context: &Context) -> Result<Exit, Fault> {
    let folder = args.dir.clone().unwrap_or_else(|| PathBuf::from(&args.name));
    let made = check(&args.name).and_then(|()| make(&args.name, args.lang, &folder)).map_err(|error| {
        let exit = match error {
            NewError::Name(_) | NewError::Reserved(_) => Exit::Usage,
            NewError::Exists(_) => Exit::Conflict,
            NewError::Io { .. } => Exit::Failed,
        };
        Fault::new(exit, error.to_string())
    })?;
    if args.json {
        context.screen.json(&made.json().to_string())?
    } else {
        context.screen.text(&made.text())?
    }
    Ok(Exit::Done)
}

/// Every tool takes such a name as it is: cargo, npm, a shell, a URL, and the daemon as an agent's.
fn check(name: &str) -> Result<(), NewError> {
    let is_one = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-' || byte == b'_';
    if name.len() > LONGEST_NAME || !name.starts_with(|first: char| first.is_ascii_lowercase()) || !name.bytes().all(is_one) {
        return Err(NewError::Name(name.chars().take(LONGEST_NAME).collect()));
    }
    if RESERVED.contains(&name) { Err(NewError::Reserved(name.to_owned())) } else { Ok(()) }
}

/// A crate's name as rustc writes it.
fn crate_name(name: &str) -> String {
    name.replace('-', "_")
}

/// Makes the folder. Blocks on the file system.
fn make(name: &str, language: Language, folder: &Path) -> Result<Made, NewError> {
    // A link in its place would lead the files elsewhere.
    if folder.symlink_metadata().is_ok_and(|there| !there.is_dir() || !is_empty(folder)) {
        return Err(NewError::Exists(folder.to_owned()));
    }
    let failed = |source| NewError::Io { path: folder.to_owned(), source };
    let place = std::path::absolute(folder).map_err(failed)?;
    let (Some(parent), Some(last)) = (place.parent(), place.file_name()) else {
        return Err(NewError::Exists(folder.to_owned()));
    };
    let mut beside = OsString::from(".");
    beside.push(last);
    beside.push(format!(".new-{}", std::process::id()));
    let beside = parent.join(beside);
    let [own, library, contract] = templates::files(language);
    let texts = own.iter().map(|(path, text)| (*path, text.replace("{{name}}", name).replace("{{crate}}", &crate_name(name))));
    let others = library.iter().chain(contract).map(|(path, text)| (*path, (*text).to_owned()));
    let files: Vec<(&'static str, String)> = texts.chain(others).collect();
    std::fs::create_dir_all(parent).and_then(|()| std::fs::create_dir(&beside)).map_err(failed)?;
    let moved = write(&beside, &files).and_then(|()| std::fs::rename(&beside, &place));
    if let Err(error) = moved {
        // What was made under this process's own name is nobody else's.
        let _ = std::fs::remove_dir_all(&beside);
        let is_there =
            matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty | io::ErrorKind::NotADirectory);
        return Err(if is_there { NewError::Exists(folder.to_owned()) } else { failed(error) });
    }
    Ok(Made { name: name.to_owned(), language, folder: folder.to_owned(), files: files.into_iter().map(|(path, _)| path).collect() })
}

fn is_empty(folder: &Path) -> bool {
    std::fs::read_dir(folder).is_ok_and(|mut entries| entries.next().is_none())
}

fn write(folder: &Path, files: &[(&'static str, String)]) -> io::Result<()> {
    for (path, text) in files {
        let path = folder.join(path);
        if let Some(parent) = path.parent() {
            std::fs::create_dir_all(parent)?;
        }
        std::fs::write(path, text)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use super::*;

    const ALL: [Language; 4] = [Language::Rust, Language::Python, Language::Javascript, Language::WasiCommand];

    #[test]
    fn hostile_names_are_refused_with_a_sentence() {
        let long = "a".repeat(65);
        for name in
            ["", "..", "../up", "/etc", "a/b", "A", "1a", "-a", "_a", "a b", "a\n", "a\"", "a.b", "é", "a;rm", "$(x)", long.as_str()]
        {
            let error = check(name).unwrap_err();
            assert!(matches!(error, NewError::Name(_)), "{name}: {error}");
        }
        for name in ["fn", "test", "core", "self", "serde", "sandclock-agent"] {
            assert!(check(name).unwrap_err().to_string().contains(&format!("`{name}-agent`")));
        }
        for name in ["a", "my-agent", "a_1", "testing", &"a".repeat(64)] {
            check(name).unwrap();
            crate::domain::id::AgentId::parse(name).unwrap();
        }
    }

    #[test]
    fn every_file_is_there_and_no_place_is_left_to_fill_in() {
        for language in ALL {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("deep/er/my-agent");
            let made = make("my-agent", language, &folder).unwrap();
            for file in &made.files {
                let text = fs::read_to_string(folder.join(file)).unwrap();
                assert!(!text.contains("{{"), "{file}: {text}");
            }
            assert!(fs::read_to_string(folder.join("README.md")).unwrap().contains(language.build()));
            assert!(made.text().contains(&language.component("my-agent")) && made.json()["build"] == language.build());
            assert_eq!(crate::config::agent_file(&folder).unwrap().agent.unwrap().as_str(), "my-agent");
            assert_eq!(fs::read_dir(folder.parent().unwrap()).unwrap().count(), 1, "nothing is left beside it");
        }
    }

    #[test]
    fn what_exists_stays_as_it_is() {
        let root = tempfile::tempdir().unwrap();
        let path = |name: &str| root.path().join(name);
        fs::create_dir_all(path("full/src")).unwrap();
        fs::write(path("file"), "mine").unwrap();
        fs::create_dir(path("target")).unwrap();
        symlink(path("target"), path("link")).unwrap();
        symlink(path("nowhere"), path("dangling")).unwrap();
        for name in ["full", "file", "link", "dangling"] {
            let error = make("a", Language::Python, &path(name)).unwrap_err();
            assert!(matches!(&error, NewError::Exists(there) if *there == path(name)), "{error}");
        }
        assert_eq!(fs::read_to_string(path("file")).unwrap(), "mine");
        assert!(is_empty(&path("target")) && !path("nowhere").exists());
        assert_eq!(fs::read_dir(root.path()).unwrap().count(), 5);
        make("a", Language::Python, &path("target")).unwrap();
        assert!(matches!(make("a", Language::Python, &path("target")), Err(NewError::Exists(_))), "a second time");
        let below_file = make("a", Language::Python, &path("file/a")).unwrap_err();
        assert!(below_file.to_string().contains("cannot be made"), "{below_file}");
        assert!(matches!(make("a", Language::Python, Path::new("/")), Err(NewError::Exists(_))));
    }
}
