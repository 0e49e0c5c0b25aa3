//! `sandclock new`: each language's folder, away from any checkout, is built by the command that it documents, developed, accepted, and tested
//! by its own test.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::process::Signal;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::stage::{Ended, ended, program, sandclock, signal};

/// How long a build, and what the debug build takes to compile what it made, may take on a machine with much else to do.
const PATIENCE: Duration = Duration::from_secs(400);

/// Waits for what must come.
async fn patiently<T>(what: &str, coming: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, coming).await.unwrap_or_else(|_| panic!("it never came: {what}"))
}

/// A new agent's folder, and what its machine has.
struct Fresh {
    root: tempfile::TempDir,
    told: Value,
    /// What every command gets beside what it must have.
    environment: Vec<(&'static str, String)>,
}

/// What a script that sets up a tool chain prints last.
async fn set_up(script: &str) -> String {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("scripts").join(script);
    let done = patiently("a tool chain", ended(with_machine(program(script.parent().unwrap(), script.as_os_str())))).await;
    assert_eq!(done.code, 0, "{}", done.err);
    done.out.lines().last().unwrap().to_owned()
}

/// With what the machine says of its tools.
fn with_machine(mut command: Command) -> Command {
    for name in ["PATH", "HOME", "CARGO_HOME", "RUSTUP_HOME", "RUSTUP_TOOLCHAIN", "XDG_CACHE_HOME"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

impl Fresh {
    async fn new(language: &str, environment: Vec<(&'static str, String)>) -> Fresh {
        let root = tempfile::tempdir().unwrap();
        let made = ended(sandclock(root.path(), &["new", "--lang", language, "my-agent", "--json"])).await;
        assert_eq!(made.code, 0, "{}", made.err);
        Fresh { told: serde_json::from_str(&made.out).unwrap(), root, environment }
    }

    fn folder(&self) -> PathBuf {
        self.root.path().join("my-agent")
    }

    fn told(&self, name: &str) -> &str {
        self.told[name].as_str().unwrap()
    }

    fn with(&self, command: Command) -> Command {
        let mut command = with_machine(command);
        command.envs(self.environment.iter().map(|(name, value)| (*name, value)));
        command
    }

    /// Does one of the documented commands in the folder.
    async fn does(&self, what: &str) -> Ended {
        let mut command = self.with(program(&self.folder(), "sh".as_ref()));
        command.args(["-c", self.told(what)]);
        let done = patiently(what, ended(command)).await;
        assert_eq!(done.code, 0, "{}\n{}", done.out, done.err);
        done
    }

    /// `sandclock dev` builds and runs it, until its answer is there.
    async fn developed(&self) {
        let mut dev = self.with(sandclock(&self.folder(), &["dev", "."])).spawn().unwrap();
        let mut answers = BufReader::new(dev.stdout.take().unwrap()).lines();
        let answer = patiently("the answer", answers.next_line()).await.unwrap();
        signal(&dev, Signal::INT);
        let done: Ended = dev.wait_with_output().await.unwrap().into();
        assert_eq!((answer.as_deref(), done.code), (Some("Hello, world!"), 130), "{}", done.err);
        assert!(done.err.contains("completed after"), "{}", done.err);
    }

    /// The component that the build made is accepted, and runs as it is.
    async fn accepted(&self) {
        let component = self.told("component");
        let check = ended(sandclock(&self.folder(), &["check", component])).await;
        assert_eq!(check.code, 0, "{}", check.err);
        let run = ended(sandclock(&self.folder(), &["run", component, "--query", " you ", "--workspace", "here"])).await;
        assert_eq!((run.code, run.out.as_str()), (0, "Hello, you!\n"), "{}", run.err);
        assert_eq!(std::fs::read_to_string(self.folder().join("here/note.md")).unwrap(), "# Hello, you!\n");
    }

    /// Its own test passes, and fails when the agent greets otherwise.
    async fn tested(&self, source: &str) {
        self.does("test").await;
        let source = self.folder().join(source);
        let text = std::fs::read_to_string(&source).unwrap();
        std::fs::write(&source, text.replacen("Hello, {", "Bye, {", 1).replacen("Hello, $", "Bye, $", 1)).unwrap();
        let mut command = self.with(program(&self.folder(), "sh".as_ref()));
        command.args(["-c", self.told("test")]);
        let broken = patiently("a test that fails", ended(command)).await;
        assert_ne!(broken.code, 0, "{}\n{}", broken.out, broken.err);
        assert!(format!("{}{}", broken.out, broken.err).contains("Bye, world!"), "{}\n{}", broken.out, broken.err);
    }
}

/// With the compiler that builds the examples, what it has fetched, and what it has compiled before.
async fn of_rust(language: &str) -> Fresh {
    let environment = vec![("RUSTC", set_up("setup-guest-rust.sh").await), ("CARGO_NET_OFFLINE", "true".to_owned())];
    let fresh = Fresh::new(language, environment).await;
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("new-{language}"));
    std::fs::create_dir_all(&target).unwrap();
    symlink(target, fresh.folder().join("target")).unwrap();
    fresh
}

#[tokio::test]
async fn a_new_agent_in_rust_is_built_developed_accepted_and_tested() {
    let fresh = of_rust("rust").await;
    fresh.does("build").await;
    fresh.developed().await;
    fresh.accepted().await;
    fresh.tested("src/lib.rs").await;
}

#[tokio::test]
async fn a_new_plain_program_is_built_developed_accepted_and_tested() {
    let fresh = of_rust("wasi-command").await;
    fresh.does("build").await;
    fresh.developed().await;
    fresh.accepted().await;
    fresh.tested("src/main.rs").await;
}

#[tokio::test]
async fn a_new_agent_in_python_is_built_developed_accepted_and_tested() {
    let componentize = PathBuf::from(set_up("setup-guest-python.sh").await);
    let fresh = Fresh::new("python", Vec::new()).await;
    // What the build fetches the first time.
    symlink(componentize.with_file_name("lib"), fresh.folder().join(".tools")).unwrap();
    let settings = std::fs::read_to_string(fresh.folder().join("agent.toml")).unwrap();
    assert!(settings.contains(&format!("build = \"{}\"", fresh.told("build"))), "what dev builds with is what is documented: {settings}");
    fresh.developed().await;
    fresh.accepted().await;
    fresh.tested("agent.py").await;
}

#[tokio::test]
async fn a_new_agent_in_javascript_is_built_developed_accepted_and_tested() {
    let bin = PathBuf::from(set_up("setup-guest-javascript.sh").await);
    let path = format!("{}:{}", bin.display(), std::env::var("PATH").unwrap());
    let fresh = Fresh::new("javascript", vec![("PATH", path)]).await;
    // What the build fetches the first time.
    symlink(bin.with_file_name("node_modules"), fresh.folder().join("node_modules")).unwrap();
    let settings = std::fs::read_to_string(fresh.folder().join("agent.toml")).unwrap();
    assert!(settings.contains(&format!("build = \"{}\"", fresh.told("build"))), "what dev builds with is what is documented: {settings}");
    fresh.developed().await;
    fresh.accepted().await;
    fresh.tested("agent.js").await;
}

#[tokio::test]
async fn what_cannot_be_made_is_a_sentence_and_an_exit_code() {
    let root = tempfile::tempdir().unwrap();
    let new = async |more: &[&str]| ended(sandclock(root.path(), &[&["new", "--lang", "python"], more].concat())).await;
    for name in ["../up", "A", "a\u{1b}[2J", "", "class name"] {
        let refused = new(&["--", name]).await;
        assert_eq!(refused.code, 2, "{name}: {}", refused.err);
        assert!(refused.err.contains("an agent cannot be called `") && !refused.err.contains('\u{1b}'), "{}", refused.err);
    }
    assert_eq!(std::fs::read_dir(root.path()).unwrap().count(), 0, "nothing was made");
    let made = new(&["mine", "--dir", "else/where"]).await;
    assert_eq!(made.code, 0, "{}", made.err);
    assert!(made.out.contains("cd else/where\nsh build.sh ") && made.out.contains("Python 3.10 or newer"), "{}", made.out);
    let again = new(&["mine", "--dir", "else/where"]).await;
    assert_eq!(again.code, 4, "{}", again.err);
    assert!(again.err.contains("`else/where` exists already and is not overwritten"), "{}", again.err);
    let unknown = ended(sandclock(root.path(), &["new", "mine", "--lang", "cobol"])).await;
    assert!(unknown.code == 2 && unknown.err.contains("wasi-command"), "{}", unknown.err);
}
