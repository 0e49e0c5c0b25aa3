//! `sandclock dev` as a process without a terminal: sources that are edited, broken and mended, and its end in every phase.
//!
//! The agents' sources are texts of WebAssembly's text format, and their build command is a copy: what is built is watched here, not how.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use rustix::process::{Pid, Signal, test_kill_process_group};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::process::{Child, ChildStdin};
use tokio::sync::watch;

use super::stage::{file, sandclock, signal};
use crate::guest::{agent, plain};
use crate::process::daemon::patiently;

/// A folder with sources beside the folder in which `sandclock dev` is started.
struct Desk {
    root: tempfile::TempDir,
}

/// A `sandclock dev` that goes on.
struct Dev {
    child: Child,
    input: Option<ChildStdin>,
    out: watch::Receiver<Vec<String>>,
    err: watch::Receiver<Vec<String>>,
}

fn follow(stream: impl tokio::io::AsyncRead + Unpin + Send + 'static) -> watch::Receiver<Vec<String>> {
    let (sender, lines) = watch::channel(Vec::new());
    let mut reading = BufReader::new(stream).lines();
    tokio::spawn(async move {
        while let Ok(Some(line)) = reading.next_line().await {
            sender.send_modify(|lines| lines.push(line));
        }
    });
    lines
}

impl Desk {
    /// The component `made` is what the build command copies, unless there is a file `broken`.
    fn new() -> Desk {
        let desk = Desk { root: tempfile::tempdir().unwrap() };
        for folder in ["agent", "agent/src", "work"] {
            std::fs::create_dir(desk.path(folder)).unwrap();
        }
        let build = r#"if [ -e src/broken ]; then printf 'error: \033[31mno such thing\033[0m\n' >&2; exit 3; fi; mkdir -p target; cp src/made target/agent.wasm"#;
        file(&desk.path("agent"), "agent.toml", format!("build = '''{build}'''\nquery = \"q\"\n").as_bytes());
        desk
    }

    fn path(&self, name: &str) -> PathBuf {
        self.root.path().join(name)
    }

    /// Writes the source whose component answers so, as an editor does: aside, and then over it.
    fn source(&self, component: &[u8]) {
        let aside = file(&self.path("agent/src"), ".made.swp", component);
        std::fs::rename(aside, self.path("agent/src/made")).unwrap();
    }

    fn start(&self, more: &[&str]) -> Dev {
        self.start_in(&std::env::var("PATH").unwrap(), more)
    }

    /// With these folders of programs.
    fn start_in(&self, programs: &str, more: &[&str]) -> Dev {
        let line: Vec<&str> = ["dev", "../agent"].iter().chain(more).copied().collect();
        let mut command = sandclock(&self.path("work"), &line);
        command.stdin(Stdio::piped()).env("PATH", programs);
        let mut child = command.spawn().unwrap();
        let (out, err) = (follow(child.stdout.take().unwrap()), follow(child.stderr.take().unwrap()));
        Dev { input: child.stdin.take(), child, out, err }
    }
}

impl Dev {
    /// Waits until stderr has this so many times.
    async fn told(&mut self, text: &str, times: usize) {
        let has = |lines: &Vec<String>| lines.iter().filter(|line| line.contains(text)).count() >= times;
        patiently(text, self.err.wait_for(has)).await.unwrap();
    }

    /// Waits until the answers on stdout are these.
    async fn answered(&mut self, answers: &[&str]) {
        let err = self.err.clone();
        let found = patiently(&format!("{answers:?}"), self.out.wait_for(|lines| lines.len() >= answers.len())).await.unwrap().clone();
        assert_eq!(found, answers, "{:#?}", err.borrow());
    }

    async fn types(&mut self, line: &str) {
        self.input.as_mut().unwrap().write_all(format!("{line}\n").as_bytes()).await.unwrap();
    }

    /// Ctrl-C, and the end that must come of it.
    async fn interrupted(mut self) -> Vec<String> {
        signal(&self.child, Signal::INT);
        let status = patiently("the end", self.child.wait()).await.unwrap();
        let told = self.err.borrow().clone();
        assert_eq!(status.code(), Some(130), "{told:#?}");
        assert!(!told.iter().any(|line| line.contains("panicked")), "{told:#?}");
        told
    }
}

fn answers(text: &str) -> Vec<u8> {
    agent(&format!(r#"(call $report @"at work" (i32.const 1) (f64.const 0.5)) (call $ok @"{text}")"#), "")
}

/// Reports "at work" and sleeps until it is asked to stop.
fn sleeper() -> Vec<u8> {
    let body = r#"(call $report @"asleep" (i32.const 0) (f64.const 0)) (drop (call $sleep (i32.const 3600000))) (call $ok @"woken")"#;
    agent(body, "")
}

#[tokio::test]
async fn an_edit_is_built_and_answered_and_an_error_is_shown_as_it_is_until_it_is_mended() {
    let desk = Desk::new();
    desk.source(&answers("one"));
    let mut dev = desk.start(&[]);
    dev.answered(&["one"]).await;
    dev.told("at work", 1).await;
    desk.source(&answers("two"));
    dev.answered(&["one", "two"]).await;
    file(&desk.path("agent/src"), "broken", b"");
    dev.told("error: \u{1b}[31mno such thing\u{1b}[0m", 1).await;
    dev.told("the component before it stays", 1).await;
    // The one before answers on, and what is no component is refused as the daemon would.
    dev.types("again").await;
    dev.answered(&["one", "two", "two"]).await;
    desk.source(b"this is no component");
    std::fs::remove_file(desk.path("agent/src/broken")).unwrap();
    dev.told("is not WebAssembly", 1).await;
    desk.source(&answers("three"));
    dev.answered(&["one", "two", "two", "three"]).await;
    // What an editor leaves beside the sources, and a source that is written as it was, build nothing.
    for name in [".made.swp", "made~", "4913", ".#made", "#made#"] {
        file(&desk.path("agent/src"), name, b"x");
    }
    desk.source(&answers("three"));
    dev.types("last").await;
    dev.answered(&["one", "two", "two", "three", "three"]).await;
    let told = dev.interrupted().await;
    assert_eq!(told.iter().filter(|line| line.contains("building: ")).count(), 5, "{told:#?}");
}

#[tokio::test]
async fn a_typed_line_is_the_next_query_and_the_last_one_is_asked_again() {
    let desk = Desk::new();
    desk.source(&plain::echo());
    let config =
        "[[tasks]]\ntask_id = \"daily\"\nagent_id = \"agent\"\nquery = \"x\"\nschedule = { type = \"cron\", expression = \"@daily\" }\n";
    file(&desk.path("work"), "sandclock.toml", config.as_bytes());
    let mut dev = desk.start(&["--config", "sandclock.toml"]);
    dev.answered(&["q"]).await;
    dev.told("task daily fires next at ", 1).await;
    dev.types("typed").await;
    dev.answered(&["q", "typed"]).await;
    dev.interrupted().await;
    let mut dev = desk.start(&["--json"]);
    let line = patiently("a report", dev.out.wait_for(|lines| !lines.is_empty())).await.unwrap()[0].clone();
    let report: Value = serde_json::from_str(&line).unwrap();
    assert_eq!((report["status"].as_str(), report["result"].as_str()), (Some("completed"), Some("typed")));
    // A second one for the same agent would share its workspace.
    let mut second = desk.start(&[]);
    assert_eq!(patiently("the refusal", second.child.wait()).await.unwrap().code(), Some(4));
    dev.interrupted().await;
}

#[tokio::test]
async fn changes_during_a_build_make_one_more_build_and_a_change_during_a_run_ends_it() {
    let desk = Desk::new();
    // The build waits for `go` the first time.
    let build = r#"echo begun >&2; [ -e ../gone ] || while [ ! -e ../go ]; do sleep 0.02; done; touch ../gone; mkdir -p target; cp src/made target/agent.wasm"#;
    file(&desk.path("agent"), "agent.toml", format!("build = '''{build}'''\nquery = \"q\"\n").as_bytes());
    desk.source(&answers("stale"));
    let mut dev = desk.start(&[]);
    dev.told("begun", 1).await;
    for text in ["first", "second", "third"] {
        desk.source(&answers(text));
    }
    file(desk.root.path(), "go", b"");
    dev.answered(&["third"]).await;
    desk.source(&sleeper());
    dev.told("asleep", 1).await;
    desk.source(&answers("awake"));
    dev.told("changed: src/made", 2).await;
    dev.answered(&["third", "woken", "awake"]).await;
    let told = dev.interrupted().await;
    assert_eq!(told.iter().filter(|line| *line == "begun").count(), 4, "{told:#?}");
}

#[tokio::test]
async fn a_build_that_writes_a_source_each_time_ends_all_the_same() {
    let desk = Desk::new();
    let build = "date +%s%N > src/generated; mkdir -p target; cp src/made target/agent.wasm";
    file(&desk.path("agent"), "agent.toml", format!("build = '''{build}'''\nquery = \"q\"\n").as_bytes());
    desk.source(&answers("one"));
    let mut dev = desk.start(&[]);
    dev.answered(&["one"]).await;
    dev.told("each build changes src/generated", 1).await;
    desk.source(&answers("two"));
    dev.answered(&["one", "two"]).await;
    // What a build wrote once is a source all the same, and somebody saves it.
    file(&desk.path("agent"), "src/generated", b"by hand");
    dev.answered(&["one", "two", "two"]).await;
    dev.interrupted().await;
}

#[tokio::test]
async fn a_folder_with_a_component_alone_is_watched_without_a_build() {
    let desk = Desk::new();
    std::fs::remove_file(desk.path("agent/agent.toml")).unwrap();
    std::fs::remove_dir(desk.path("agent/src")).unwrap();
    let put = |component: &[u8]| file(&desk.path("agent"), "solo.wasm", component);
    put(&answers("one"));
    let mut dev = desk.start(&["--query", "q"]);
    dev.answered(&["one"]).await;
    put(&answers("two"));
    dev.answered(&["one", "two"]).await;
    let told = dev.interrupted().await;
    assert!(!told.iter().any(|line| line.contains("building")), "{told:#?}");
}

/// The process groups of a build's processes, which it wrote into a file.
async fn group(path: &Path) -> Pid {
    let reading = async {
        loop {
            let text = std::fs::read_to_string(path).unwrap_or_default();
            if let Ok(id) = text.trim().parse() {
                return Pid::from_raw(id).unwrap();
            }
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    patiently("the build's number", reading).await
}

#[tokio::test]
async fn an_interrupt_leaves_no_process_in_any_phase() {
    // While it builds: a build with a child, that takes no notice of a polite request.
    let desk = Desk::new();
    let build = "trap '' TERM INT; sleep 1000 & echo $$ > ../group; wait; sleep 1000";
    desk.source(&answers("one"));
    let dev = desk.start(&["--build", build]);
    let building = group(&desk.path("group")).await;
    assert!(test_kill_process_group(building).is_ok());
    dev.interrupted().await;
    let gone = async {
        while test_kill_process_group(building).is_ok() {
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    };
    patiently("the end of the build", gone).await;

    // After a build that left something running, and by the end of its terminal.
    let desk = Desk::new();
    let build = "sleep 1000 & echo $$ > ../group; mkdir -p target; cp src/made target/agent.wasm";
    desk.source(&answers("one"));
    let mut dev = desk.start(&["--build", build]);
    dev.answered(&["one"]).await;
    let left = group(&desk.path("group")).await;
    assert!(test_kill_process_group(left).is_err(), "what the build started goes on");
    signal(&dev.child, Signal::HUP);
    assert_eq!(patiently("the end", dev.child.wait()).await.unwrap().code(), Some(130));

    // While it runs, and while it waits.
    let desk = Desk::new();
    desk.source(&sleeper());
    let mut dev = desk.start(&[]);
    dev.told("asleep", 1).await;
    dev.interrupted().await;
    desk.source(&answers("one"));
    let mut dev = desk.start(&[]);
    dev.answered(&["one"]).await;
    dev.told("workspace: ", 1).await;
    dev.interrupted().await;
}

#[tokio::test]
async fn what_cannot_be_developed_says_so_at_once() {
    let desk = Desk::new();
    for (content, sentence) in [("bild = 1", "did you mean `build`?"), ("", "tells how to build it")] {
        file(&desk.path("agent"), "agent.toml", content.as_bytes());
        let mut dev = desk.start(&[]);
        dev.told(sentence, 1).await;
        assert_eq!(patiently("the end", dev.child.wait()).await.unwrap().code(), Some(2));
    }
}

/// A program of this name that the folder `bin` holds.
fn tool(desk: &Desk, name: &str, script: &str) {
    use std::os::unix::fs::PermissionsExt as _;
    std::fs::create_dir_all(desk.path("bin")).unwrap();
    let path = file(&desk.path("bin"), name, format!("#!/bin/sh\n{script}\n").as_bytes());
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn cargo_says_which_component_it_made_and_a_compiler_without_the_target_is_named() {
    let desk = Desk::new();
    std::fs::remove_file(desk.path("agent/agent.toml")).unwrap();
    file(&desk.path("agent"), "Cargo.toml", b"");
    desk.source(&answers("one"));
    // As cargo tells it, in a target folder that is elsewhere, beside a newer component that is not the agent's.
    let (made, other) = (desk.path("elsewhere.wasm"), desk.path("agent/other.wasm"));
    let messages = format!(r#"{{"reason":"compiler-artifact","filenames":["{}"]}}"#, made.display());
    let script = format!(
        r#"if [ -e broken ]; then echo "error[E0463]: can't find crate" >&2; exit 101; fi
        [ "$*" = "build --release --target wasm32-wasip2 --message-format=json-render-diagnostics" ] || exit 9
        echo "   Compiling agent" >&2
        cp src/made {}; cp src/made {}; echo '{{"reason":"compiler-artifact","filenames":["x.rlib"]}}'; echo '{messages}'; echo '{{"reason":"build-finished"}}'"#,
        made.display(),
        other.display()
    );
    tool(&desk, "cargo", &script);
    tool(&desk, "rustc", "echo /nowhere/at/all");
    let path = format!("{}:{}", desk.path("bin").display(), std::env::var("PATH").unwrap());
    let mut dev = desk.start_in(&path, &["--query", "q"]);
    dev.answered(&["one"]).await;
    dev.told("   Compiling agent", 1).await;
    desk.source(&answers("two"));
    dev.answered(&["one", "two"]).await;
    file(&desk.path("agent"), "broken", b"");
    dev.told("error[E0463]: can't find crate", 1).await;
    dev.told("run `rustup target add wasm32-wasip2`", 1).await;
    dev.interrupted().await;
}
