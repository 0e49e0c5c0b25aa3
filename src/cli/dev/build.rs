//! One build: the agent's own command, in a process group of its own, with its output as it is.
//!
//! Invariant: when a build is over or given up, whichever way it ended, nothing of its process group goes on.

use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::{Duration, SystemTime};

use rustix::process::{Pid, Signal, kill_process_group, test_kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::{Child, Command};
use tokio_util::sync::CancellationToken;

use super::project::{Build, Project};
use crate::config::AGENT_FILE;

/// What cargo is asked for; it tells on stdout which files it made, and shows its messages as ever.
const CARGO: [&str; 5] = ["build", "--release", "--target", TARGET, "--message-format=json-render-diagnostics"];
const TARGET: &str = "wasm32-wasip2";
/// How long a build that was asked to end may take.
const GRACE: Duration = Duration::from_secs(2);
/// How many files are looked at to find a component.
const MOST: usize = 100_000;

/// How a build ended.
pub(super) enum Built {
    /// This is the component.
    Component(PathBuf),
    /// It failed, and what is to be said of that.
    Failed(String),
    /// It was given up.
    Stopped,
}

impl Build {
    /// The command, for people.
    pub(super) fn shown(&self) -> String {
        match self {
            Build::Cargo => format!("cargo build --release --target {TARGET}"),
            Build::Command(command) => command.clone(),
            Build::None => "nothing".to_owned(),
        }
    }
}

/// Builds until it is done, or `stop`.
pub(super) async fn build(project: &Project, stop: &CancellationToken) -> Built {
    let begun = SystemTime::now();
    let spawned = match &project.build {
        Build::None => return found(project, None, begun).await,
        Build::Cargo => spawn(Command::new("cargo").args(CARGO), project, true),
        Build::Command(command) => spawn(Command::new("sh").arg("-c").arg(command), project, false),
    };
    let mut child = match spawned {
        Ok(child) => child,
        Err(error) => {
            return Built::Failed(format!("`{}` cannot be started ({error}); install it, or give another --build", project.build.shown()));
        }
    };
    let group = child.id().and_then(|id| Pid::from_raw(i32::try_from(id).ok()?));
    let made = child.stdout.take();
    let working = async {
        let made = match made {
            Some(stdout) => component_told(stdout).await,
            None => None,
        };
        (child.wait().await, made)
    };
    let (status, made) = tokio::select! {
        done = working => done,
        () = stop.cancelled() => {
            end(&mut child, group).await;
            return Built::Stopped;
        }
    };
    // What it started and left running would go on without anybody who ends it.
    end(&mut child, group).await;
    match status {
        Ok(status) if status.success() => found(project, made, begun).await,
        Ok(status) => Built::Failed(failure(project, status).await),
        Err(error) => Built::Failed(format!("the build's end cannot be told ({error}); build again")),
    }
}

fn spawn(command: &mut Command, project: &Project, tells: bool) -> io::Result<Child> {
    // The answers of the agent alone go to stdout.
    let errors = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    let stdout = if tells { Stdio::piped() } else { errors()? };
    command.current_dir(&project.folder).stdin(Stdio::null()).stdout(stdout).stderr(errors()?).process_group(0).kill_on_drop(true).spawn()
}

/// The last component of which cargo tells that it made it, or that it is fresh.
async fn component_told(stdout: tokio::process::ChildStdout) -> Option<PathBuf> {
    let mut lines = BufReader::new(stdout).lines();
    let mut made = None;
    while let Ok(Some(line)) = lines.next_line().await {
        let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
        if message.get("reason").and_then(Value::as_str) != Some("compiler-artifact") {
            continue;
        }
        let files = message.get("filenames").and_then(Value::as_array).into_iter().flatten().filter_map(Value::as_str);
        made = files.filter(|file| file.ends_with(".wasm")).map(PathBuf::from).next_back().or(made);
    }
    made
}

/// Ends a build with all that it started.
async fn end(child: &mut Child, group: Option<Pid>) {
    let Some(group) = group else { return };
    if kill_process_group(group, Signal::TERM).is_err() {
        // Nothing of it is there any more.
        let _ = child.wait().await;
        return;
    }
    let ending = async {
        let _ = child.wait().await;
        // Its children may need a little longer than the first of them.
        while test_kill_process_group(group).is_ok() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    if tokio::time::timeout(GRACE, ending).await.is_err() {
        let _ = kill_process_group(group, Signal::KILL);
        let _ = child.wait().await;
    }
}

async fn failure(project: &Project, status: ExitStatus) -> String {
    if project.build == Build::Cargo && !has_target(&project.folder).await {
        return format!(
            "the build failed, and the Rust compiler has no {TARGET}: run `rustup target add {TARGET}`, or name one that has it with RUSTC"
        );
    }
    format!("the build failed ({status}); mend what it says above")
}

/// Whether the compiler that cargo takes has what guests need.
async fn has_target(folder: &Path) -> bool {
    let ask = format!("\"${{RUSTC:-rustc}}\" --print target-libdir --target {TARGET}");
    let asked = Command::new("sh").arg("-c").arg(ask).current_dir(folder).stdin(Stdio::null()).output().await;
    let Ok(asked) = asked else { return false };
    let libraries = PathBuf::from(String::from_utf8_lossy(&asked.stdout).trim());
    let entries = std::fs::read_dir(libraries).into_iter().flatten().flatten();
    entries.into_iter().any(|entry| entry.file_name().to_string_lossy().starts_with("libstd-"))
}

/// The component of a build that went well: the one that is named, the one that the build told of, or the newest that it wrote.
async fn found(project: &Project, told: Option<PathBuf>, begun: SystemTime) -> Built {
    if let Some(component) = project.component.clone().or(told) {
        let shown = component.display();
        return match tokio::fs::metadata(&component).await {
            Ok(about) if about.is_file() => Built::Component(component),
            _ => Built::Failed(format!("there is no component `{shown}`; mend `component` in {AGENT_FILE}, or the build")),
        };
    }
    let folder = project.folder.clone();
    let newest = tokio::task::spawn_blocking(move || newest_component(&folder)).await.ok().flatten();
    match newest {
        Some((path, _)) => Built::Component(path),
        None => {
            let passed = begun.elapsed().unwrap_or_default().as_secs_f64();
            Built::Failed(format!(
                "the build ended well after {passed:.1} s and there is no .wasm in the folder; name it with `component` in {AGENT_FILE}"
            ))
        }
    }
}

/// The newest component below a folder, where builds put what they make, and not what they put aside on the way.
fn newest_component(folder: &Path) -> Option<(PathBuf, SystemTime)> {
    let mut waiting = vec![folder.to_owned()];
    let mut newest: Option<(PathBuf, SystemTime)> = None;
    let mut looked = 0_usize;
    while let Some(folder) = waiting.pop() {
        for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
            looked += 1;
            if looked > MOST {
                return newest;
            }
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy();
            match entry.file_type() {
                Ok(kind)
                    if kind.is_dir()
                        && !name.starts_with('.')
                        && !matches!(&*name, "node_modules" | "deps" | "incremental" | ".fingerprint") =>
                {
                    waiting.push(path);
                }
                Ok(kind) if kind.is_file() && name.ends_with(".wasm") && !name.starts_with('.') => {
                    let Ok(at) = entry.metadata().and_then(|about| about.modified()) else { continue };
                    if newest.as_ref().is_none_or(|(_, before)| at > *before) {
                        newest = Some((path, at));
                    }
                }
                _ => {}
            }
        }
    }
    newest
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_component_counts_and_not_what_lies_on_the_way() {
        let folder = tempfile::tempdir().unwrap();
        let put = |name: &str, age: u64| {
            let path = folder.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(&path, "x").unwrap();
            std::fs::File::options().write(true).open(&path).unwrap().set_modified(SystemTime::now() - Duration::from_secs(age)).unwrap();
            path
        };
        assert_eq!(newest_component(folder.path()), None);
        put("old.wasm", 50);
        put("target/wasm32-wasip2/release/deps/agent.wasm", 1);
        put("node_modules/x/y.wasm", 1);
        let made = put("target/wasm32-wasip2/release/agent.wasm", 10);
        assert_eq!(newest_component(folder.path()).unwrap().0, made);
    }
}
