//! A schema is shown before it is brought forward, and only then.

use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};

use super::{check, store};
use crate::process::daemon::Home;
use crate::servers;

async fn migrate(folder: &std::path::Path, url: &str, more: &[&str]) -> Value {
    let line: Vec<&str> = ["migrate", "--json"].iter().chain(more).copied().collect();
    let ended = store(folder, url, &line).await;
    assert_eq!(ended.code, 0, "{ended:?}");
    serde_json::from_str(&ended.out).unwrap()
}

/// Shown twice without a change, brought forward once.
async fn shows_and_applies(folder: &std::path::Path, url: &str, found: u64, known: u64) {
    for _ in 0..2 {
        let shown = migrate(folder, url, &["--dry-run"]).await;
        assert_eq!(
            (&shown["schema"], &shown["due"], &shown["applied"]),
            (&json!({"found": found, "known": known}), &json!(true), &json!(false))
        );
    }
    let told = store(folder, url, &["migrate"]).await;
    assert!(told.out.ends_with(&format!("\ndone: the schema is version {known}\n")), "{told:?}");
    let again = migrate(folder, url, &[]).await;
    assert_eq!((&again["schema"]["found"], &again["applied"]), (&json!(known), &json!(false)));
}

#[tokio::test]
async fn a_new_store_is_made_on_each_server() {
    let folder = tempfile::tempdir().unwrap();
    shows_and_applies(folder.path(), "sqlite:///new.db", 0, 4).await;
    if let Some(database) = servers::postgres().await {
        shows_and_applies(folder.path(), &database.url, 0, 2).await;
    }
    if let Some(database) = servers::mongodb() {
        shows_and_applies(folder.path(), &database.url.replace("/?", &format!("/{}?", database.name)), 0, 2).await;
    }
}

/// A file as the first release left it, with a task in it.
#[tokio::test]
async fn an_older_file_is_brought_forward() {
    let folder = tempfile::tempdir().unwrap();
    let first = include_str!("../../../src/store/sql/migrations/sqlite/0001_records.sql");
    let file = sqlx::sqlite::SqliteConnectOptions::new().filename(folder.path().join("old.db")).create_if_missing(true);
    let mut connection = file.connect().await.unwrap();
    let made = format!("PRAGMA application_id = {}; {first}; PRAGMA user_version = 1", 0x7363_6c6b);
    connection.execute(AssertSqlSafe(made)).await.unwrap();
    connection.close().await.unwrap();
    let (_, answer) = check(folder.path(), "sqlite:///old.db").await;
    assert_eq!(answer["store"]["schema"], json!({"found": 1, "known": 4}), "{answer}");
    shows_and_applies(folder.path(), "sqlite:///old.db", 1, 4).await;
}

#[tokio::test]
async fn a_store_in_use_needs_nothing_and_the_memory_store_never() {
    let home = Home::new("", &[]);
    let _daemon = home.start(&[]).await;
    let told = migrate(home.0.path(), "sqlite", &[]).await;
    assert_eq!((&told["due"], &told["applied"]), (&json!(false), &json!(false)), "{told}");
    let told = migrate(home.0.path(), "memory", &[]).await;
    assert_eq!((&told["schema"], &told["due"]), (&json!(null), &json!(false)), "{told}");
}
