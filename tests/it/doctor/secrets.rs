//! Passwords are given by files and the environment alone: nobody sees one in the list of processes.

use super::{empty_configuration, on};
use crate::cli::stage::{ended, sandclock};
use crate::process::daemon::Starting;
use crate::servers;

/// The words that a process was started with.
fn words(pid: u32) -> String {
    String::from_utf8(std::fs::read(format!("/proc/{pid}/cmdline")).unwrap()).unwrap().replace('\0', " ")
}

/// The processes that this one has started and not waited for, as the system tells them.
fn children(pid: u32) -> Vec<String> {
    let processes = std::fs::read_dir("/proc").unwrap().filter_map(|entry| std::fs::read_to_string(entry.ok()?.path().join("status")).ok());
    processes.filter(|status| status.lines().any(|line| line.split_whitespace().eq(["PPid:", &pid.to_string()]))).collect()
}

#[tokio::test]
async fn a_daemon_s_password_is_not_among_its_words_nor_a_child_s() {
    let Some(database) = servers::postgres().await else { return };
    let folder = tempfile::tempdir().unwrap();
    empty_configuration(folder.path());
    let password = database.url.split_once("://").unwrap().1.split(['@', ':']).nth(1).unwrap().to_owned();
    let mut serve = on(folder.path(), &database.url, &["serve", "--config", "sandclock.toml"]);
    serve.env("SANDCLOCK_LISTEN", "127.0.0.1:0").env("SANDCLOCK_TOKEN", "tiger-of-the-test");
    let daemon = Starting::new(serve).listening().await;
    let pid = daemon.pid();
    let told = words(pid);
    assert!(told.contains("serve") && !told.contains(&password) && !told.contains("tiger"), "{told}");
    // What compiles and what executes is threads of the one process: there is no child that could have its environment.
    assert_eq!(children(pid), [""; 0]);
    let log = daemon.log().join("\n");
    assert!(!log.contains(&password) && !log.contains("tiger"), "{log}");
}

/// No verb but those that name a daemon takes an address, and that one has its token from elsewhere.
#[tokio::test]
async fn no_verb_takes_a_store_s_url_as_a_word() {
    let folder = tempfile::tempdir().unwrap();
    for line in [["serve", "--help"].as_slice(), &["run", "--help"], &["store", "check", "--help"], &["store", "migrate", "--help"]] {
        let help = ended(sandclock(folder.path(), line)).await.out;
        for word in ["--store", "--url", "--password", "--token <"] {
            assert!(!help.contains(word), "{line:?} takes {word}: {help}");
        }
    }
}
