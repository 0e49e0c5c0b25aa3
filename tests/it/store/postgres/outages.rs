//! Servers that are away, refuse, or are not what the URL says.

use rustix::process::Signal;

use super::*;

async fn connect(url: &str) -> Result<PostgresStore, StoreError> {
    PostgresStore::connect(url, ServerClock::given(ManualClock::new())).await
}

async fn refused(url: &str) -> StoreError {
    match connect(url).await {
        Ok(_) => panic!("a store at {url}"),
        Err(error) => error,
    }
}

#[tokio::test]
async fn connections_that_broke_while_nobody_used_them_are_not_missed() {
    let Some((database, _, [store])) = daemons::<1>().await else { return };
    enqueue(&store, 1..2, "agent").await;
    store.claim(request(1, "daemon.one", &[("agent", None)], 1)).await.unwrap();
    let mut watcher = outside(&database.url).await;
    for round in 0..5_u128 {
        let ids = [RecordId::run(&run_id(1))];
        let all = join_all((0..6).map(|_| store.get(&ids))).await;
        assert!(all.iter().all(Result::is_ok), "{all:?}");
        let kill = "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = current_database() AND application_name = 'sandclock'";
        assert!(!watcher.fetch_all(kill).await.unwrap().is_empty());
        match round {
            0 => drop(store.get(&ids).await.unwrap()),
            1 => drop(store.apply(vec![Change { puts: vec![plain(Kind::Agent, "agent", "{}")], ..change(round) }]).await.unwrap()),
            2 => drop(store.claim(request(9, "daemon.one", &[("agent", None)], 1)).await.unwrap()),
            3 => drop(store.renew(&worker("daemon.one"), &[(run_id(1), 1)], Duration::from_secs(30)).await.unwrap()),
            _ => drop(store.due(DueKind::Ready, 1).await.unwrap()),
        }
    }
}

#[tokio::test]
async fn a_server_that_left_is_used_again_when_it_is_back() {
    let Some(mut server) = OwnServer::postgres(&[]).await else { return };
    let store = connect(&server.url()).await.unwrap();
    enqueue(&store, 1..2, "agent").await;
    for how in [Some(Stop::Fast), Some(Stop::Immediate), None] {
        match how {
            Some(how) => server.stop(how).await,
            None => server.kill().await,
        }
        let away = store.apply(vec![Change { puts: vec![plain(Kind::Agent, "lost", "{}")], ..change(9) }]).await.unwrap_err();
        assert!(matches!(away, StoreError::Unavailable(_)), "{away:?}");
        let text = away.to_string();
        assert!(text.contains(&format!("127.0.0.1:{}/postgres", server.port())) && !text.contains("sandclock:"), "{text}");
        assert!(matches!(refused(&server.url()).await, StoreError::Unavailable(_)));
        server.start().await;
        assert_eq!(store.get(&[RecordId::run(&run_id(1))]).await.unwrap().iter().flatten().count(), 1, "what was acknowledged is there");
        assert_eq!(store.renew(&worker("daemon.one"), &[(run_id(1), 1)], Duration::from_secs(30)).await.unwrap(), [Renewal::Lost]);
    }
}

#[tokio::test]
async fn a_server_that_does_not_answer_is_not_waited_for_for_ever() {
    let Some(server) = OwnServer::postgres(&[]).await else { return };
    let store = connect(&server.url()).await.unwrap();
    let leases = [(run_id(1), 1)];
    assert_eq!(store.renew(&worker("daemon.one"), &leases, Duration::from_secs(30)).await.unwrap(), [Renewal::Lost]);
    // Its connections are answered by processes of their own.
    let mut watcher = outside(&server.url()).await;
    let pids = watcher.fetch_all("SELECT pid FROM pg_stat_activity WHERE application_name = 'sandclock'").await.unwrap();
    let pids: Vec<_> = pids.iter().filter_map(|row| rustix::process::Pid::from_raw(row.get::<i32, _>(0))).collect();
    pids.iter().for_each(|pid| rustix::process::kill_process(*pid, Signal::STOP).unwrap());
    let silent = store.renew(&worker("daemon.one"), &leases, Duration::from_secs(30)).await.unwrap_err();
    assert!(silent.to_string().contains("did not answer within"), "{silent}");
    assert!(silent.is_transient());
    // The others still stand still; new connections do not.
    assert_eq!(store.renew(&worker("daemon.one"), &leases, Duration::from_secs(30)).await.unwrap(), [Renewal::Lost]);
    pids.iter().for_each(|pid| rustix::process::kill_process(*pid, Signal::CONT).unwrap());
}

#[tokio::test]
async fn errors_name_the_place_and_the_mend_and_no_secret() {
    let Some(database) = servers::postgres().await else { return };
    let rest = database.url.split_once('@').unwrap().1;
    let server = rest.split_once('/').unwrap().0;
    let user = database.url.split_once('@').unwrap().0;
    let invalid = [
        (format!("postgres://somebody:hunter2@{rest}"), "the user or the password"),
        (format!("{user}@{server}/hunter3"), "create the database"),
        ("postgres://somebody:hun/ter2@localhost/db".to_owned(), "percent-encoded"),
        ("postgres://somebody:123/hunter2@localhost/db".to_owned(), "percent-encoded"),
        ("mysql://somebody:hunter2@localhost/db".to_owned(), "postgresql://"),
        (format!("postgres://somebody:hunter2@{rest}?sslmode=require"), "TLS"),
    ];
    let password = user.rsplit_once(':').unwrap().1;
    for (url, mend) in invalid {
        let error = refused(&url).await;
        let text = error.to_string();
        assert!(matches!(error, StoreError::Invalid(_)) && text.contains(mend), "{text}");
        assert!(!["hunter2", "ter2", "somebody", password].iter().any(|secret| text.contains(secret)), "{text}");
    }
    let away = refused("postgres://somebody:hunter2@127.0.0.1:9/db").await;
    let text = away.to_string();
    assert!(matches!(away, StoreError::Unavailable(_)) && text.contains("127.0.0.1:9/db"), "{text}");
    assert!(!text.contains("hunter2") && !text.contains("somebody"), "{text}");
}

#[tokio::test]
async fn too_many_connections_pass() {
    let Some(server) = OwnServer::postgres(&["-c", "max_connections=10", "-c", "superuser_reserved_connections=0"]).await else { return };
    let store = connect(&server.url()).await.unwrap();
    let mut others = Vec::new();
    while let Ok(other) = server.url().parse::<sqlx::postgres::PgConnectOptions>().unwrap().connect().await {
        others.push(other);
    }
    let full = store.due(DueKind::Ready, 1).await.unwrap_err();
    assert!(matches!(full, StoreError::Unavailable(_)), "{full:?}");
    let gone = others.pop().unwrap();
    sqlx::Connection::close(gone).await.unwrap();
    let mut answer = store.due(DueKind::Ready, 1).await;
    // The server lets go of a connection a moment after it was closed.
    while answer.is_err() {
        answer = store.due(DueKind::Ready, 1).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn several_daemons_start_at_once_on_a_new_database_and_a_later_version_is_refused() {
    let Some(database) = servers::postgres().await else { return };
    let starts = (0..8).map(|_| {
        let url = database.url.clone();
        tokio::spawn(async move { connect(&url).await.map(drop) })
    });
    for start in join_all(starts).await {
        start.unwrap().unwrap();
    }
    let mut watcher = outside(&database.url).await;
    watcher.execute("INSERT INTO schema_version (version) VALUES (99)").await.unwrap();
    let later = refused(&database.url).await;
    assert!(matches!(later, StoreError::Invalid(_)) && later.to_string().contains("run the newer sandclock"), "{later}");
}

#[tokio::test]
async fn tables_of_another_program_are_left_alone() {
    let Some(database) = servers::postgres().await else { return };
    let mut other = servers_outside(&database.url).await;
    other
        .execute("CREATE SCHEMA sandclock; CREATE TABLE sandclock.event (note text); INSERT INTO sandclock.event VALUES ('mine')")
        .await
        .unwrap();
    let foreign = refused(&database.url).await;
    assert!(matches!(foreign, StoreError::Invalid(_)) && foreign.to_string().contains("another program"), "{foreign}");
    let tables = other.fetch_all("SELECT FROM pg_tables WHERE schemaname = 'sandclock'").await.unwrap();
    assert_eq!(tables.len(), 1, "nothing was made beside them");
}

async fn servers_outside(url: &str) -> PgConnection {
    url.parse::<sqlx::postgres::PgConnectOptions>().unwrap().connect().await.unwrap()
}

#[tokio::test]
async fn what_the_server_says_is_told_apart_and_conflicts_are_decided_again() {
    let Some((database, _, [store])) = daemons::<1>().await else { return };
    let mut server = outside(&database.url).await;
    let fails = "CREATE SEQUENCE tries; CREATE FUNCTION fails() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
         PERFORM nextval('tries'); RAISE EXCEPTION 'no' USING ERRCODE = substr(new.id, 7, 5); END $$; \
         CREATE TRIGGER fails BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION fails()";
    server.execute(fails).await.unwrap();
    let mut number = 0;
    let mut put = async |code: &str| {
        number += 1;
        store.apply(vec![Change { puts: vec![plain(Kind::Agent, code, "{}")], ..change(number) }]).await.unwrap_err()
    };
    assert!(matches!(put("53100").await, StoreError::Full(_)));
    assert!(matches!(put("57P03").await, StoreError::Unavailable(_)));
    assert!(matches!(put("25006").await, StoreError::Unavailable(_)), "a server that may not write now, as after a failover");
    assert!(matches!(put("55P03").await, StoreError::Unavailable(_)));
    assert!(matches!(put("XX001").await, StoreError::Corrupt(_)));
    assert!(matches!(put("42501").await, StoreError::Invalid(_)));
    let mut tries = async || server.fetch_one("SELECT last_value FROM tries").await.unwrap().get::<i64, _>(0);
    assert_eq!(tries().await, 6, "once each");
    for conflict in ["40P01", "40001", "23505"] {
        let before = tries().await;
        assert!(matches!(put(conflict).await, StoreError::Unavailable(_)));
        assert_eq!(tries().await - before, 8, "decided again, but not for ever");
    }
    server.execute("DROP TRIGGER fails ON record").await.unwrap();
    assert_eq!(store.apply(vec![Change { puts: vec![plain(Kind::Agent, "goes", "{}")], ..change(99) }]).await.unwrap(), [Outcome::Applied]);
}

#[tokio::test]
async fn a_transaction_that_stands_still_ends() {
    let Some((database, _, [store])) = daemons::<1>().await else { return };
    let mut watcher = outside(&database.url).await;
    // What the store's own connections are set to, told by one of them.
    watcher
        .execute(
            "CREATE TABLE told (name text, value text); CREATE FUNCTION tells() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN \
             INSERT INTO told SELECT s, current_setting(s) FROM unnest(ARRAY['idle_in_transaction_session_timeout', 'lock_timeout', \
             'statement_timeout', 'synchronous_commit', 'application_name', 'transaction_isolation']) AS s; RETURN new; END $$; \
             CREATE TRIGGER tells BEFORE INSERT ON record FOR EACH ROW EXECUTE FUNCTION tells()",
        )
        .await
        .unwrap();
    store.apply(vec![Change { puts: vec![plain(Kind::Agent, "agent", "{}")], ..change(1) }]).await.unwrap();
    let told = watcher.fetch_all("SELECT value FROM told ORDER BY name").await.unwrap();
    let told: Vec<String> = told.iter().map(|row| row.get(0)).collect();
    assert_eq!(told, ["sandclock", "5s", "6s", "10s", "on", "read committed"]);
}
