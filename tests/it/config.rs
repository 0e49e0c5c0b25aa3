//! The settings, from files and variables as users write them.

mod access;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use sandclock::config::{ConfigFaults, Environment, Loaded, LogFormat, Origin, REFERENCE, Secret, StoreSettings, load, parse};
use sandclock::domain::agent::Limits;
use sandclock::domain::time::{Seconds, Timestamp};

fn read(text: &str, env: &[(&str, &str)]) -> Result<Loaded, ConfigFaults> {
    parse(text, Path::new("x.toml"), &Environment::of(env.iter().copied()))
}

fn good(text: &str, env: &[(&str, &str)]) -> Loaded {
    read(text, env).unwrap_or_else(|faults| panic!("{text}\n{faults}"))
}

/// The faults of a bad configuration, each of which is one line.
fn bad(text: &str, env: &[(&str, &str)]) -> String {
    match read(text, env) {
        Ok(loaded) => panic!("taken: {text} {env:?}: {:?}", loaded.settings),
        Err(faults) => {
            let told = faults.to_string();
            assert_eq!(told.lines().count(), faults.0.len(), "one sentence each: {told}");
            told
        }
    }
}

/// Expects exactly one fault that holds all the given pieces.
fn one_fault(text: &str, env: &[(&str, &str)], pieces: &[&str]) {
    let told = bad(text, env);
    assert_eq!(told.lines().count(), 1, "{told}");
    for piece in pieces {
        assert!(told.contains(piece), "no `{piece}` in: {told}");
    }
}

/// The reference with its defaults taken out of their comments, and the examples too when asked for.
fn uncommented(examples: bool) -> String {
    let line = |line: &str| match line.strip_prefix('#') {
        Some(rest) if !rest.starts_with(' ') => format!("{rest}\n"),
        Some(rest) if examples && rest.starts_with("   ") => format!("{rest}\n"),
        _ => "\n".to_owned(),
    };
    REFERENCE.lines().map(line).collect()
}

#[test]
fn the_reference_states_every_key_with_its_default_and_nothing_else() {
    let defaults = good("", &[]);
    assert_eq!(good(REFERENCE, &[]).settings, defaults.settings, "all of it is commented out");
    let stated = good(&uncommented(false), &[]);
    assert_eq!(stated.settings, defaults.settings, "a default in the reference is stale");
    // An empty text of a secret or of its file is as good as none, so the key itself is looked for.
    let missing: Vec<&str> = stated
        .entries
        .iter()
        .filter(|entry| entry.origin == Origin::Default)
        .map(|entry| entry.key.as_str())
        .filter(|key| !["server.token", "server.token_file"].contains(key))
        .collect();
    assert!(missing.is_empty(), "not in the reference: {missing:?}");
    for key in ["#token = \"\"", "#token_file = \"\""] {
        assert!(REFERENCE.lines().any(|line| line == key), "{key}");
    }
}

#[test]
fn the_reference_s_examples_are_valid_and_show_every_key_of_an_agent() {
    let loaded = good(&uncommented(true), &[]);
    assert_eq!(loaded.settings.tasks.len(), 2);
    for task in &loaded.settings.tasks {
        let judged = task.task(&loaded.settings.default_agent, Timestamp::default());
        let source = judged.unwrap_or_else(|faults| panic!("{faults}")).source.unwrap();
        assert!(Path::new(&source).is_absolute(), "{source}");
    }
    let told = loaded.entries.iter().filter_map(|entry| entry.key.strip_prefix("agents.reporter."));
    let shown: BTreeSet<&str> = told.map(|key| key.split('.').next().unwrap()).collect();
    let unknown = bad("[agents.a]\nzzzzzzzzzzzzzzzzzz = 1", &[]);
    let known = unknown.split("known are ").nth(1).unwrap();
    let known: BTreeSet<&str> = known.split(", ").map(|key| key.trim_matches('`')).collect();
    assert_eq!(shown, known);
}

#[test]
fn every_setting_has_a_variable_and_the_reference_names_it() {
    let named: BTreeSet<&str> =
        REFERENCE.split(|c: char| !(c.is_ascii_uppercase() || c == '_')).filter(|word| word.starts_with("SANDCLOCK_")).collect();
    // Each variable alone, with a value that nothing takes, must be heard.
    for variable in &named {
        if matches!(
            *variable,
            "SANDCLOCK_TOKEN" | "SANDCLOCK_DATA_DIR" | "SANDCLOCK_WORKSPACE_DIR" | "SANDCLOCK_PLUGINS_DIR" | "SANDCLOCK_CACHE_DIR"
        ) {
            let loaded = good("", &[(variable, "given")]);
            let heard = loaded.entries.iter().any(|entry| entry.origin == Origin::Environment { variable: (*variable).to_owned() });
            assert!(heard, "{variable}");
        } else {
            one_fault("", &[(variable, "/?")], &[&format!("{variable}: ")]);
        }
    }
    let settings = good("", &[]).entries.len() - 1;
    assert_eq!(named.len(), settings, "one variable for each setting but the default agent's plugin");
}

#[test]
fn the_defaults_are_those_of_the_design() {
    let settings = good("", &[]).settings;
    let listen: Vec<String> = settings.server.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:8000", "[::1]:8000"]);
    assert_eq!(settings.store, StoreSettings::Sqlite { path: PathBuf::from(".sandclock/sandclock.db") });
    assert_eq!(settings.worker.lease, Seconds::whole(30));
    assert_eq!(settings.limits, Limits::default());
    let agents: Vec<(&str, &str)> = settings.agents.iter().map(|(id, agent)| (id.as_str(), agent.plugin.as_str())).collect();
    assert_eq!(agents, [("default", "hello")]);
    let cores = u32::try_from(std::thread::available_parallelism().unwrap().get()).unwrap();
    assert_eq!(settings.worker.max_running, cores * 4);
}

#[test]
fn environment_beats_file_beats_default_and_the_seed_comes_between() {
    let file = "[worker]\nenabled = true\nmax_running = 5\n[paths]\nworkspace = \"f\"\n";
    let env = [("SANDCLOCK_MAX_RUNNING", "6"), ("OMNICOREAGENT_BACKGROUND_START_WORKER", "off"), ("OMNICOREAGENT_WORKSPACE_DIR", "seed")];
    let loaded = good(file, &env);
    assert_eq!(loaded.settings.worker.max_running, 6);
    assert!(!loaded.settings.worker.enabled);
    assert_eq!(loaded.settings.paths.workspace, Path::new("seed"));
    let origin = |key: &str| loaded.entries.iter().find(|entry| entry.key == key).unwrap().origin.to_string();
    assert_eq!(origin("worker.max_running"), "SANDCLOCK_MAX_RUNNING");
    assert_eq!(origin("worker.enabled"), "OMNICOREAGENT_BACKGROUND_START_WORKER");
    assert_eq!(origin("worker.lease_seconds"), "default");
    assert_eq!(good(file, &[]).entries.iter().find(|entry| entry.key == "worker.max_running").unwrap().origin.to_string(), "x.toml:3");
    let own = [("OMNICOREAGENT_WORKSPACE_DIR", "seed"), ("SANDCLOCK_WORKSPACE_DIR", "own")];
    assert_eq!(good(file, &own).settings.paths.workspace, Path::new("own"));
    assert_eq!(good(file, &[("SANDCLOCK_MAX_RUNNING", "")]).settings.worker.max_running, 5, "empty is unset");
}

#[test]
fn all_faults_come_at_once_each_with_its_line() {
    let told = bad(
        "[server]\nlisten = [\"nowhere\"]\nlitsen = 1\n[worker]\nmax_running = -3\nlease_seconds = \"30\"\n[stroe]\nurl = \"memory\"\n[limits]\nevents = 99999999999\n",
        &[("SANDCLOCK_POLL_SECONDS", "soon")],
    );
    for piece in [
        "x.toml:2: `server.listen` has `nowhere`",
        "x.toml:3: `server.litsen` is not a setting: did you mean `listen`?",
        "x.toml:5: `worker.max_running` must be a whole number from 1 to 10000, not -3, or `auto`",
        "x.toml:6: `worker.lease_seconds` must be a number of seconds from 3 to 3600, not `30`",
        "x.toml:7: `stroe` is not a setting: did you mean `store`?",
        "x.toml:10: `limits.events` must be a whole number from 0 to 1000000, not 99999999999",
        "SANDCLOCK_POLL_SECONDS: `scheduler.poll_seconds` must be a number of seconds from 0.05 to 3600, not `soon`",
    ] {
        assert!(told.contains(piece), "no `{piece}` in:\n{told}");
    }
    assert_eq!(told.lines().count(), 7, "{told}");
}

#[test]
fn retention_is_a_time_or_never_and_a_0_is_not_guessed_at() {
    let retention = good("[retention]\ncompleted_seconds = 1\nfailed_seconds = \"never\"", &[]).settings.retention;
    assert_eq!((retention.completed, retention.failed, retention.skipped), (Some(Seconds::whole(1)), None, Some(Seconds::whole(604_800))));
    let never = good("", &[("SANDCLOCK_RETENTION_SKIPPED_SECONDS", "never")]);
    assert_eq!(never.settings.retention.skipped, None);
    assert!(never.entries.iter().any(|entry| entry.key == "retention.skipped_seconds" && entry.value == "never"));
    for value in ["0", "0.5", "-1", "\"forever\"", "true", "1e99"] {
        let mend = ["retention.cancelled_seconds", "from 1 to", "`never` keeps them for ever"];
        one_fault(&format!("[retention]\ncancelled_seconds = {value}"), &[], &mend);
    }
    let bounds = good("[queue]\nmax_queued_runs = 0\n[agents.a]\nmax_queued_runs = 3", &[]).settings;
    assert_eq!(bounds.queue.max_queued_runs, 0);
    assert_eq!(bounds.agents.values().map(|agent| agent.max_queued_runs).collect::<Vec<_>>(), [Some(3), None]);
    one_fault("[agents.a]\nmax_queued_runs = 0", &[], &["agents.a.max_queued_runs", "from 1 to"]);
}

#[test]
fn what_is_not_toml_is_told_by_line_without_showing_it() {
    one_fault("[server]\ntoken = \"tiger-7421\n", &[], &["x.toml:2: this is not TOML"]);
    assert!(!bad("[server]\ntoken = \"tiger-7421\n", &[]).contains("tiger"));
    bad("[server", &[]);
    one_fault("a = 1\na = 2", &[], &["x.toml:2: this is not TOML"]);
    one_fault("\u{feff}[worker]\nmax_running = 0", &[], &["x.toml:2: "]);
}

#[test]
fn wrong_types_and_extreme_numbers_are_refused_everywhere() {
    for (text, piece) in [
        ("server = 5", "`server` must be a table such as `[server]`, not 5"),
        ("agents = []", "`agents` must hold tables"),
        ("agents.a = 1", "`agents.a` must be a table"),
        ("tasks = {}", "`tasks` must be written as `[[tasks]]`"),
        ("tasks = [1]", "must hold tables"),
        ("default_agent = \"a b\"", "`default_agent` names no agent"),
        ("[server]\nlisten = \"127.0.0.1:8000\"", "must be a list"),
        ("[server]\nlisten = []", "1 to 16 addresses"),
        ("[server]\nlisten = [1]", "must be a text in quotes, not 1"),
        ("[server]\nlisten = [\"127.0.0.1:1\", \"127.0.0.1:1\"]", "twice"),
        ("[server]\nlisten = [\"127.0.0.1:70000\"]", "not an address"),
        ("[server]\nlisten = [\"127.0.0.1\"]", "not an address"),
        ("[server]\napi_prefix = \"api/\"", "such as `/api`"),
        ("[server]\napi_prefix = \"/a/../b\"", "such as `/api`"),
        ("[server]\nmax_body_bytes = 99999999999999999999", "not 99999999999999999999"),
        ("[server]\nrequest_timeout_seconds = nan", "number of seconds"),
        ("[server]\nrequest_timeout_seconds = inf", "number of seconds"),
        ("[server]\ntoken = \"with space\"", "without spaces"),
        ("[paths]\ndata = \"\"", "must not be empty"),
        ("[paths]\ndata = \"a\\u0000b\"", "zero byte"),
        ("[worker]\nenabled = \"yes\"", "must be true or false"),
        ("[worker]\nmax_running = 0", "from 1 to 10000"),
        ("[worker]\nmax_running = 1.5", "from 1 to 10000"),
        ("[worker]\nlease_seconds = 1", "from 3 to 3600"),
        ("[worker]\ntimeout_seconds = 0", "seconds from 0.001"),
        ("[worker]\ntimeout_seconds = 9223372036854775807", "seconds from 0.001"),
        ("[logging]\nlevel = \"inof\"", "did you mean `info`?"),
        ("[logging]\nlevel = \"info,a b=debug\"", "no name"),
        ("[logging]\nformat = \"xml\"", "`text` or `json`"),
        ("[limits]\nmemory_bytes = 1", "from 65536 to 4294967296"),
        ("[limits]\noutput_bytes = 1048576", "to 983040"),
        ("[agents.a]\nplugin = \"a.wasm\"", "without `.wasm`"),
        ("[agents.a]\nplugin = \"../a\"", "must be a plugin's name"),
        ("[agents.a]\nname = \"\"", "1 to 256 characters"),
        ("[agents.a]\nenv = { \"A=B\" = \"x\" }", "rename it"),
        ("[agents.a]\nenv = { A = 1 }", "must be a text in quotes"),
        ("[agents.a]\nconfig = { a = nan }", "must not hold NaN"),
        ("[agents.a]\nconfg = {}", "did you mean `config`?"),
        ("[agents.a.limits]\nmemory = 1", "`agents.a.limits.memory` is not a setting"),
        ("[agents.\"../x\"]\n", "`agents.../x` has a bad name"),
        ("[agents.\"a\\nb\"]\n", "`agents.a\\nb` has a bad name"),
        ("[store]\nurl = \"redis://u:tiger@\"", "names no host"),
        ("[store]\nurl = 5", "must be a text"),
    ] {
        one_fault(text, &[], &[piece]);
    }
}

#[test]
fn w_37_a_database_in_memory_is_refused_with_the_store_that_is_meant() {
    for url in ["sqlite:///:memory:", "sqlite://:memory:", "sqlite::memory:", "sqlite://", "sqlite:///"] {
        one_fault("", &[("SANDCLOCK_STORE", url)], &["SANDCLOCK_STORE: ", "use `memory`"]);
    }
    assert_eq!(good("", &[("SANDCLOCK_STORE", "memory")]).settings.store, StoreSettings::Memory);
}

#[test]
fn the_names_of_a_store_are_for_the_stores_that_have_them() {
    let mongodb = good("", &[("SANDCLOCK_STORE", "mongodb"), ("SANDCLOCK_STORE_DATABASE", "d"), ("SANDCLOCK_STORE_PREFIX", "p_")]);
    assert!(
        matches!(mongodb.settings.store, StoreSettings::Mongodb { database: Some(database), prefix, .. } if database == "d" && prefix == "p_")
    );
    for (url, file, piece) in [
        ("sqlite", "prefix = \"x\"", "means nothing"),
        ("postgres://u:tiger@h/d", "prefix = \"x\"", "means nothing for the store `postgres://h/d`"),
        ("redis://h", "database = \"x\"", "means nothing"),
        ("redis://h", "prefix = \"a b\"", "letters"),
        ("mongodb://h", "database = \"a.b\"", "letters"),
    ] {
        one_fault(&format!("[store]\n{file}\n"), &[("SANDCLOCK_STORE", url)], &[piece]);
    }
}

#[test]
fn stores_are_chosen_by_every_form_of_the_seed() {
    let store = |env: &[(&str, &str)]| good("", env).settings.store;
    let at = |path: &str| StoreSettings::Sqlite { path: PathBuf::from(path) };
    let (kind, url) = ("OMNICOREAGENT_BACKGROUND_TASK_STORE", "OMNICOREAGENT_BACKGROUND_TASK_STORE_URL");
    assert_eq!(store(&[(kind, "in_memory")]), StoreSettings::Memory);
    assert_eq!(store(&[(kind, "in_memory"), (url, "sqlite:///x.db")]), at("x.db"), "a url means sql");
    assert_eq!(store(&[(url, "sqlite:////var/x.db")]), at("/var/x.db"));
    assert_eq!(store(&[(kind, "sql"), (url, "sqlite:///x.db")]), at("x.db"));
    assert_eq!(store(&[(kind, "sql")]), at(".sandclock/sandclock.db"));
    assert_eq!(store(&[(kind, "sql"), ("DATABASE_URL", "sqlite:///y.db")]), at("y.db"));
    assert_eq!(store(&[("DATABASE_URL", "sqlite:///y.db")]), at(".sandclock/sandclock.db"), "other programs' url is not ours");
    assert_eq!(store(&[(kind, ""), (url, "")]), at(".sandclock/sandclock.db"), "empty is unset");
    assert_eq!(store(&[("SANDCLOCK_STORE", "memory"), (kind, "redis")]), StoreSettings::Memory, "ours wins");
    assert_eq!(store(&[("SANDCLOCK_DATA_DIR", "/d")]), at("/d/sandclock.db"));
    let shown = |env: &[(&str, &str)]| {
        let loaded = good("", env);
        assert!(!format!("{loaded:?}").contains("tiger"));
        match loaded.settings.store {
            StoreSettings::Postgres { url } => (url.to_string(), url.expose().contains("tiger"), None, String::new()),
            StoreSettings::Redis { url, prefix } => (url.to_string(), url.expose().contains("tiger"), None, prefix),
            StoreSettings::Mongodb { url, database, prefix } => (url.to_string(), url.expose().contains("tiger"), database, prefix),
            other => panic!("{other:?}"),
        }
    };
    let (uri, database) = ("OMNICOREAGENT_BACKGROUND_TASK_STORE_URI", "OMNICOREAGENT_BACKGROUND_TASK_STORE_DATABASE");
    let prefix = "OMNICOREAGENT_BACKGROUND_TASK_STORE_PREFIX";
    let is = |url: &str, database: Option<&str>, prefix: &str| (url.to_owned(), true, database.map(str::to_owned), prefix.to_owned());
    assert_eq!(shown(&[(kind, "sql"), (url, "postgresql+asyncpg://u:tiger@h/d")]), is("postgres://h/d", None, ""));
    assert_eq!(shown(&[(kind, "sql"), ("DATABASE_URL", "postgresql://u:tiger@h/d")]), is("postgres://h/d", None, ""));
    assert_eq!(shown(&[(kind, "redis"), (url, "redis://u:tiger@h")]), is("redis://h", None, "sandclock"));
    assert_eq!(shown(&[(kind, "redis"), (url, "rediss://u:tiger@h:1/2"), (prefix, "mine")]), is("rediss://h:1/2", None, "mine"));
    assert_eq!(shown(&[(kind, "redis"), ("REDIS_URL", "redis://u:tiger@r")]), is("redis://r", None, "sandclock"));
    assert_eq!(shown(&[(kind, "redis")]).0, "redis://localhost:6379");
    assert_eq!(shown(&[(uri, "mongodb://u:tiger@h")]), is("mongodb://h", None, ""), "a uri means mongodb");
    assert_eq!(
        shown(&[(kind, "mongodb"), ("MONGODB_URI", "mongodb+srv://u:tiger@h/x"), (database, "d")]),
        is("mongodb+srv://h/x", Some("d"), "")
    );
    assert_eq!(shown(&[(kind, "mongodb"), (uri, "mongodb://u:tiger@h"), ("MONGODB_DATABASE", "d")]), is("mongodb://h", Some("d"), ""));
    assert_eq!(store(&[("SANDCLOCK_STORE", "memory"), (kind, "redis"), (prefix, "mine")]), StoreSettings::Memory, "ours wins");
    one_fault("", &[(kind, "sqlit")], &["OMNICOREAGENT_BACKGROUND_TASK_STORE: ", "did you mean `sqlite`?"]);
}

#[test]
fn the_seed_s_other_variables_map_or_are_told_of() {
    let env = [
        ("OMNICOREAGENT_SERVE_PORT", "9000"),
        ("OMNICOREAGENT_SERVE_API_PREFIX", "/api"),
        ("OMNICOREAGENT_SERVE_REQUEST_TIMEOUT", "10"),
        ("OMNICOREAGENT_SERVE_LOG_LEVEL", "WARNING"),
        ("OMNICOREAGENT_SERVE_AUTH_ENABLED", "Yes"),
        ("OMNICOREAGENT_SERVE_AUTH_TOKEN", "t0ken"),
        ("OMNICOREAGENT_BACKGROUND_AGENT_ID", "support"),
        ("OMNICOREAGENT_SERVE_WORKERS", "1"),
        ("OMNICOREAGENT_COOKBOOK_WORKSPACE_DIR", "/tmp"),
    ];
    let loaded = good("", &env);
    let server = &loaded.settings.server;
    let listen: Vec<String> = server.listen.iter().map(ToString::to_string).collect();
    assert_eq!(listen, ["127.0.0.1:9000", "[::1]:9000"]);
    assert_eq!((server.api_prefix.as_str(), server.request_timeout), ("/api", Seconds::whole(10)));
    assert_eq!(server.token, Some(Secret::new("t0ken")));
    assert_eq!(loaded.settings.logging.level, "warn");
    assert_eq!(loaded.settings.default_agent.as_str(), "support");
    assert!(loaded.settings.agents.is_empty(), "the plugin `support` is an agent by itself");
    assert_eq!(loaded.warnings, ["OMNICOREAGENT_SERVE_WORKERS has no effect here"]);

    let public = [("OMNICOREAGENT_SERVE_HOST", "::"), ("SANDCLOCK_TOKEN", "t")];
    assert_eq!(good("", &public).settings.server.listen[0].to_string(), "[::]:8000");
    one_fault("", &[("OMNICOREAGENT_SERVE_AUTH_ENABLED", "true")], &["set OMNICOREAGENT_SERVE_AUTH_TOKEN"]);
    one_fault("", &[("OMNICOREAGENT_SERVE_AUTH_ENABLED", "maybe")], &["must be true, 1, yes or on"]);
    one_fault("", &[("OMNICOREAGENT_BACKGROUND_START_WORKER", "maybe")], &["must be true, 1, yes or on"]);
    one_fault("", &[("OMNICOREAGENT_BACKGROUND_ENABLED", "0")], &["does nothing else"]);
    one_fault("", &[("OMNICOREAGENT_SERVE_HOST", "example.org")], &["not an address"]);
    let off = good("", &[("OMNICOREAGENT_SERVE_AUTH_TOKEN", "tiger")]);
    assert_eq!(off.settings.server.token, None);
    assert!(off.warnings[0].contains("has no effect unless"), "{:?}", off.warnings);
}

#[test]
fn a_mistyped_variable_is_told_of_and_a_service_s_own_are_no_obstacle() {
    let warnings =
        good("", &[("SANDCLOCK_MAX_RUNING", "3"), ("SANDCLOCK_PORT", "tcp://10.0.0.1:80"), ("SANDCLOCK_URL", "http://h")]).warnings;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("did you mean `SANDCLOCK_MAX_RUNNING`?"), "{warnings:?}");
}

#[test]
fn an_agent_overrides_limits_key_by_key() {
    let text = "[limits]\nevents = 5\nhandles = 99\n[agents.a]\nmax_running = 2\n[agents.a.limits]\nevents = 7\n[agents.default]\nmax_running = 1\n[agents.\"b.c\"]\n";
    let settings = good(text, &[("SANDCLOCK_LIMITS_HANDLES", "100")]).settings;
    let agent = |name: &str| settings.agents.iter().find(|(id, _)| id.as_str() == name).unwrap().1;
    assert_eq!((agent("a").limits.events, agent("a").limits.handles), (7, 100));
    assert_eq!((agent("b.c").limits.events, agent("b.c").plugin.as_str()), (5, "b.c"));
    assert_eq!((agent("default").plugin.as_str(), agent("default").max_running), ("hello", Some(1)));
}

#[test]
fn tasks_keep_their_table_their_lines_and_their_file() {
    let text = "[[tasks]]\ntask_id = \"a\"\nquery = \"q\"\nschedule = { type = \"once\", run_at = 2027-01-01 00:00:00 }\n\n[[tasks]]\ntask_id = \"b\"\n[tasks.schedule]\ntype = \"once\"\nrun_at = 2027-01-01T00:00:00+09:00\n[tasks.metadata]\nlevel = 3\n";
    let tasks = good(text, &[]).settings.tasks;
    assert_eq!(tasks.iter().map(|task| (task.task_id(), task.line)).collect::<Vec<_>>(), [("a", 1), ("b", 6)]);
    assert_eq!(tasks[0].table["schedule"]["run_at"], "2027-01-01T00:00:00");
    assert_eq!(tasks[1].table["schedule"]["run_at"], "2027-01-01T00:00:00+09:00");
    assert_eq!(tasks[1].table["metadata"]["level"], 3);
    assert_eq!(&*tasks[0].file, Path::new("x.toml"));
    let fault = tasks[1].fault("schedule.run_at", "is late").to_string();
    assert_eq!(fault, "x.toml:10: `tasks.b.schedule.run_at` is late");
}

#[test]
fn a_task_needs_a_good_id_of_its_own() {
    one_fault("[[tasks]]\nquery = \"q\"", &[], &["x.toml:1: `tasks` has a task without a `task_id`"]);
    one_fault("[[tasks]]\ntask_id = \"../x\"", &[], &["`../x` is not a valid task_id"]);
    one_fault("[[tasks]]\ntask_id = 5", &[], &["must be a text in quotes, not 5"]);
    one_fault("[[tasks]]\ntask_id = \"a\"\n[[tasks]]\ntask_id = \"a\"", &[], &["x.toml:3: ", "a second time, after line 1"]);
    one_fault("[[tasks]]\ntask_id = \"a\"\ntimeout_seconds = 99999999999999999999", &[], &["past 64 bits"]);
}

#[test]
fn files_are_read_and_unreadable_ones_are_a_sentence() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("x.toml");
    std::fs::write(&file, "[logging]\nformat = \"json\"").unwrap();
    assert_eq!(load(Some(&file), &Environment::default()).unwrap().settings.logging.format, LogFormat::Json);
    let named = Environment::of([("SANDCLOCK_CONFIG", file.to_str().unwrap())]);
    assert_eq!(load(None, &named).unwrap().settings.logging.format, LogFormat::Json);
    assert_eq!(load(None, &Environment::default()).unwrap().file, None);
    std::fs::write(&file, [b'a', 0xff]).unwrap();
    for (path, piece) in
        [(file.as_path(), "not UTF-8 at byte 1"), (folder.path(), "is a folder"), (Path::new("/nowhere/x"), "cannot be read")]
    {
        let told = load(Some(path), &Environment::default()).unwrap_err().to_string();
        assert!(told.contains(piece) && told.lines().count() == 1, "{told}");
    }
}

#[test]
fn the_small_files_are_valid() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("config");
    let store = |name: &str| load(Some(&root.join(name)), &Environment::default()).unwrap().settings.store;
    assert_eq!(store("memory.toml"), StoreSettings::Memory);
    assert_eq!(store("sqlite.toml"), StoreSettings::Sqlite { path: PathBuf::from(".sandclock/sandclock.db") });
    let shown = |store: StoreSettings| match store {
        StoreSettings::Postgres { url, .. } | StoreSettings::Redis { url, .. } | StoreSettings::Mongodb { url, .. } => url.to_string(),
        other => panic!("{other:?}"),
    };
    assert_eq!(shown(store("postgres.toml")), "postgres://localhost:5432/sandclock");
    assert_eq!(shown(store("redis.toml")), "redis://localhost:6379/0");
    assert_eq!(shown(store("mongodb.toml")), "mongodb://localhost:27017/");
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "\\PC{0,200}", at in 0usize..6000, junk in "[\\[\\]{}=\"'.,#\\n0-9a-z-]{0,12}") {
        let _ = read(&text, &[]);
        let mut spoiled = uncommented(true);
        let at = (0..=at.min(spoiled.len())).rev().find(|at| spoiled.is_char_boundary(*at)).unwrap();
        spoiled.insert_str(at, &junk);
        if let Err(faults) = read(&spoiled, &[("SANDCLOCK_LISTEN", &text.replace('\0', "")), ("SANDCLOCK_LOG_LEVEL", &junk)]) {
            proptest::prop_assert!(!faults.0.is_empty());
            proptest::prop_assert_eq!(faults.to_string().lines().count(), faults.0.len());
        }
    }
}

#[test]
fn a_bucket_is_taken_with_its_credentials_and_what_is_wrong_with_it_is_told() {
    let bucket = |text: &str, env: &[(&str, &str)]| good(text, env).settings.bucket;
    assert_eq!(bucket("", &[("AWS_ACCESS_KEY_ID", "id")]), None);
    let aws = [("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "tiger-7421")];
    let given = bucket("[workspace]\nbucket = \"s3://name/a/b/\"\nendpoint = \"https://h:9000/\"\npatience_seconds = 1.5", &aws).unwrap();
    assert_eq!((given.name.as_str(), given.prefix.as_str(), given.endpoint.as_deref()), ("name", "a/b", Some("https://h:9000")));
    assert_eq!(given.credentials.iter().map(|(name, value)| (name.as_str(), value.expose())).collect::<Vec<_>>(), aws);
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("key");
    std::fs::write(&path, "lion-1\n").unwrap();
    let path = path.to_str().unwrap();
    let text = format!("[workspace]\nbucket = \"s3://name\"\naccess_key_id = \"me\"\nsecret_key_file = \"{path}\"\n");
    let given = bucket(&text, &aws).unwrap();
    let own = [("AWS_ACCESS_KEY_ID", "me"), ("AWS_SECRET_ACCESS_KEY", "lion-1")];
    assert_eq!(given.credentials.iter().map(|(name, value)| (name.as_str(), value.expose())).collect::<Vec<_>>(), own, "ours win");
    assert!(!format!("{:?} {:?}", good(&text, &aws), bucket("[workspace]\nbucket = \"s3://name\"", &aws)).contains("tiger"));
    for wrong in
        ["name", "s3://", "s3:///x", "s3://a/../b", "s3://a//b", "s3://id:tiger-7421@host/a", "https://host/a", "s3://a/.b", "s3://a/b c"]
    {
        let told = bad(&format!("[workspace]\nbucket = \"{wrong}\""), &[]);
        assert!(told.contains("must be `s3://NAME`") && !told.contains("tiger"), "{told}");
    }
    one_fault("[workspace]\nendpoint = \"http://h\"", &[], &["x.toml:2: ", "workspace.allow_http"]);
    assert!(good("[workspace]\nendpoint = \"http://h\"\nallow_http = true", &[]).settings.bucket.is_none());
    one_fault("[workspace]\nendpoint = \"https://id:tiger@h\"", &[], &["without credentials"]);
    one_fault("[workspace]\naccess_key_id = \"me\"", &[], &["go together"]);
    one_fault(&format!("[workspace]\nsecret_key_file = \"{path}\""), &[], &["go together"]);
    one_fault("[workspace]\nsecret_key_file = \"/nowhere\"", &[], &["cannot be read"]);
}
