//! What keeps a daemon from starting: one clear sentence for each, an exit code, and nothing half done.

use std::path::Path;
use std::time::Duration;

use serde_json::json;
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};

use super::daemon::Home;
use crate::cli::stage::{Ended, ended, file};
use crate::guest::plain;

const GOOD: &str = "[[tasks]]\ntask_id = \"good\"\nquery = \"q\"\nschedule = { type = \"manual\" }\n";

/// The sentence that a refused command told, after its name; its log lines come before.
fn sentence(ended: &Ended) -> String {
    let told: Vec<&str> = ended.err.lines().filter(|line| line.starts_with("sandclock: ")).collect();
    assert_eq!(told.len(), 1, "{}", ended.err);
    assert!(ended.err.trim_end().ends_with(told[0]), "{}", ended.err);
    assert_eq!(ended.out, "", "it never said that it listens");
    told[0].trim_start_matches("sandclock: ").to_owned()
}

/// Wants that a daemon refuses to start for a reason of the machine, in a sentence with these pieces.
async fn refuses(home: &Home, variables: &[(&str, String)], pieces: &[&str]) {
    let mut command = home.serve(&[]);
    command.envs(variables.iter().map(|(name, value)| (*name, value.as_str())));
    let ended = ended(command).await;
    let told = sentence(&ended);
    assert_eq!(ended.code, 1, "{told}");
    assert!(!ended.err.contains("panicked"), "{}", ended.err);
    pieces.iter().for_each(|piece| assert!(told.contains(piece), "no `{piece}` in: {told}"));
}

#[tokio::test]
async fn a_second_daemon_is_refused_and_the_first_one_undisturbed() {
    let home = Home::new("", &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    let store = format!("sqlite:///{}", home.path(".sandclock/sandclock.db").display());
    refuses(&home, &[], &["another daemon uses the data directory `.sandclock`", "paths.data"]).await;
    let elsewhere = [("SANDCLOCK_DATA_DIR", "other".to_owned()), ("SANDCLOCK_STORE", store)];
    refuses(&home, &elsewhere, &["sandclock.db is in use by another daemon (process ", "stop that one"]).await;
    let address = daemon.url.trim_start_matches("http://").to_owned();
    let listening = [("SANDCLOCK_DATA_DIR", "third".to_owned()), ("SANDCLOCK_LISTEN", address.clone())];
    refuses(&home, &listening, &[&format!("cannot listen on {address}"), "server.listen"]).await;
    assert!(!home.path("third").exists(), "the port was looked at first");

    daemon.task("t", "echo", json!({})).await;
    let run = daemon.fire("t").await;
    assert_eq!(daemon.terminal(&run).await["status"], "completed");
    daemon.stop().await;
}

#[tokio::test]
async fn what_a_dead_daemon_has_left_hinders_nobody() {
    let home = Home::new("", &[("echo", plain::echo())]);
    for holder in ["", "1\n", "999999999\n", "nonsense"] {
        let daemon = home.start(&[]).await;
        let store = home.path(".sandclock/sandclock.db.lock");
        assert_eq!(std::fs::read_to_string(&store).unwrap().trim(), daemon.pid().to_string());
        daemon.kill().await;
        // The number of the dead process may be anybody's by now.
        std::fs::write(store, holder).unwrap();
    }
    home.start(&[]).await.stop().await;
}

/// A database of another program.
async fn photos(path: &Path) {
    let options = SqliteConnectOptions::new().filename(path).create_if_missing(true).busy_timeout(Duration::ZERO);
    let mut other = options.connect().await.unwrap();
    other.execute("CREATE TABLE photo (photo BLOB)").await.unwrap();
    other.close().await.unwrap();
}

#[tokio::test]
async fn a_store_that_cannot_be_used_is_told_and_not_touched() {
    let home = Home::new(GOOD, &[]);
    let store = |name: &str| vec![("SANDCLOCK_STORE", format!("sqlite:///{name}"))];
    photos(&home.path("photos.db")).await;
    std::fs::create_dir(home.path("folder")).unwrap();
    file(home.0.path(), "notes.txt", b"Buy milk.\n");
    for (name, piece) in [
        ("photos.db", "photos.db is a SQLite database of another program; it was not touched"),
        ("notes.txt", "notes.txt is not a SQLite database; it was not touched"),
        ("folder", "folder cannot be opened"),
        ("notes.txt/store.db", "store.db cannot be opened"),
        ("/proc/store.db", "/proc/store.db cannot be opened"),
    ] {
        let before = std::fs::read(home.path(name)).ok();
        refuses(&home, &store(name), &[piece]).await;
        assert!(std::fs::read(home.path(name)).ok() == before, "{name} was touched");
    }
    refuses(&home, &[("SANDCLOCK_DATA_DIR", "/proc/sandclock".to_owned())], &["the folder `/proc/sandclock` cannot be made"]).await;
    refuses(&home, &[("SANDCLOCK_DATA_DIR", "notes.txt".to_owned())], &["the folder `notes.txt` cannot be made"]).await;
    refuses(&home, &[("SANDCLOCK_PLUGINS_DIR", "notes.txt".to_owned())], &["the folder `notes.txt` cannot be made"]).await;
}

#[tokio::test]
async fn a_damaged_store_is_told() {
    let home = Home::new("", &[("echo", plain::echo())]);
    let daemon = home.start(&[]).await;
    daemon.task("t", "echo", json!({})).await;
    let run = daemon.fire("t").await;
    daemon.terminal(&run).await;
    daemon.stop().await;
    let path = home.path(".sandclock/sandclock.db");
    let whole = std::fs::read(&path).unwrap();
    let mut damaged = whole.clone();
    damaged[100..].fill(0xa5);
    std::fs::write(&path, &damaged).unwrap();
    refuses(&home, &[], &["sandclock.db is damaged", "restore it from a copy"]).await;
    std::fs::write(&path, &whole).unwrap();
    let daemon = home.start(&[]).await;
    assert_eq!(daemon.run(&run).await["status"], "completed");
    daemon.stop().await;
}

#[tokio::test]
async fn a_faulty_configuration_is_told_with_its_line_and_leaves_nothing_behind() {
    let task = |fields: &str| format!("{GOOD}[[tasks]]\n{fields}\n");
    let manual = "schedule = { type = \"manual\" }";
    for (config, told) in [
        ("[server\n".to_owned(), "sandclock.toml:1: this is not TOML"),
        ("a = \n".to_owned(), "sandclock.toml:1: this is not TOML"),
        ("[worker]\nmax_runing = 3\n".to_owned(), "sandclock.toml:2: `worker.max_runing` is not a setting: did you mean `max_running`?"),
        ("[wroker]\n".to_owned(), "sandclock.toml:1: `wroker` "),
        ("[worker]\n\nlease_seconds = 1\n".to_owned(), "sandclock.toml:3: `worker.lease_seconds` must be "),
        ("[store]\nurl = \"redis://\"\n".to_owned(), "sandclock.toml:2: `store.url` "),
        ("[server]\ntoken_file = \"nowhere\"\n".to_owned(), "sandclock.toml:2: `server.token_file` "),
        ("[agents.\"../x\"]\n".to_owned(), "sandclock.toml:1: `agents.../x` has a bad name"),
        (task(&format!("task_id = \"../x\"\nquery = \"q\"\n{manual}")), "sandclock.toml:5: `tasks` has a task whose id is bad"),
        (task(&format!("task_id = \"good\"\nquery = \"q\"\n{manual}")), "sandclock.toml:5: `tasks` has the task `good` a second time"),
        (task(&format!("query = \"q\"\n{manual}")), "sandclock.toml:5: `tasks` has a task without a `task_id`"),
        (
            task("task_id = \"t\"\nquery = \"q\"\nschedule = { type = \"cron\", expression = \"61 * * * *\" }"),
            "sandclock.toml:8: `tasks.t.schedule.expression` ",
        ),
        (task(&format!("task_id = \"t\"\nquery = \" \"\n{manual}")), "sandclock.toml:7: `tasks.t.query` must not be blank"),
        (task(&format!("task_id = \"t\"\nquery = \"q\"\nqurey = \"q\"\n{manual}")), "sandclock.toml:8: `tasks.t.qurey` "),
        (task(&format!("task_id = \"t\"\nagent_id = \"a/b\"\nquery = \"q\"\n{manual}")), "sandclock.toml:7: `tasks.t.agent_id` "),
    ] {
        let home = Home::new(&config, &[]);
        let ended = home.refused(&[]).await;
        let sentence = sentence(&ended);
        assert!(sentence.starts_with(told), "no `{told}`: {sentence}\n{config}");
        assert_eq!(ended.code, 2, "{sentence}");
        assert!(!home.path(".sandclock").exists(), "something was made before the configuration was judged: {sentence}");
    }
}

#[tokio::test]
async fn nothing_of_a_configuration_is_kept_when_one_task_is_faulty() {
    let home = Home::new(GOOD, &[]);
    let daemon = home.start(&[]).await;
    let before = daemon.get("/background/tasks").await;
    assert_eq!(before["total"], 1);
    daemon.stop().await;
    let second = GOOD.replace("good", "second");
    let faulty = "[[tasks]]\ntask_id = \"third\"\nquery = \"\"\nschedule = { type = \"interval\", seconds = 0 }\nenabled = 3\n";
    home.configure(&format!("{}{second}{faulty}", GOOD.replace("\"q\"", "\"other\"")));
    let ended = home.refused(&[]).await;
    assert_eq!(ended.code, 2, "{}", ended.err);
    for field in ["query", "schedule.seconds", "enabled"] {
        assert!(ended.err.contains(&format!("`tasks.third.{field}` ")), "every fault is told at once: {}", ended.err);
    }
    home.configure(GOOD);
    let daemon = home.start(&[]).await;
    assert_eq!(daemon.get("/background/tasks").await, before);
    daemon.stop().await;
}
