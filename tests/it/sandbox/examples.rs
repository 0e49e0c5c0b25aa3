//! The example agents of `plugins/`, as `make plugins` builds them.

use std::collections::BTreeMap;

use super::*;

const PAGE_QUERY: &str = "Customer Acme reports ticket TCK-1042: checkout is failing with 502 since the last deploy. Review it, decide and write the support note.";

fn example(name: &str, query: &str) -> Try {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("plugins").join(name).with_extension("wasm");
    let guest = std::fs::read(&path).unwrap_or_else(|e| panic!("{} cannot be read ({e}): run `make plugins`", path.display()));
    let mut attempt = Try::new(&guest);
    attempt.spec.query = query.to_owned();
    attempt
}

/// The files of a workspace with their content.
fn files(folder: &Path) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if path.is_dir() {
            found.extend(files(&path).into_iter().map(|(inner, text)| (format!("{name}/{inner}"), text)));
        } else {
            found.insert(name, std::fs::read_to_string(&path).unwrap());
        }
    }
    found
}

#[tokio::test]
async fn hello_greets() {
    let attempt = example("hello", "world");
    assert_eq!(answer(&attempt.run().await), "Hello, world!");
    assert_eq!(attempt.host.shown(), [Shown::Report("greeting".to_owned(), Some(0.5))]);
}

#[tokio::test]
async fn health_report_tells_of_its_sandbox() {
    let mut attempt = example("health-report", "Check system health.");
    attempt.spec.context.trigger = "once".to_owned();
    attempt.spec.context.due_at = Some("2026-01-02T03:04:05Z".to_owned());
    assert_eq!(answer(&attempt.run().await), "The sandbox is healthy.");
    let files = files(attempt.folder());
    assert_eq!(files.keys().collect::<Vec<_>>(), ["output.md"], "the probe is cleared away");
    for part in ["run_1, attempt 1", "once, due at 2026-01-02T03:04:05Z", "writable; 256 KiB", "Asked: Check system health."] {
        assert!(files["output.md"].contains(part), "{part} is missing in {}", files["output.md"]);
    }
    let event = attempt.host.shown().into_iter().find_map(|shown| match shown {
        Shown::Event(name, payload) if name == "health" => serde_json::from_str::<serde_json::Value>(&payload).ok(),
        _ => None,
    });
    assert_eq!(event, Some(serde_json::json!({"warnings": 0, "files": 0, "writable": true})));
}

#[tokio::test]
async fn health_report_says_when_the_workspace_is_too_small() {
    let attempt = example("health-report", "").limited(|limits| limits.disk_bytes = 100 * 1024);
    assert_eq!(answer(&attempt.run().await), "The sandbox needs attention: 1 warning in output.md.");
}

#[tokio::test]
async fn support_operations_writes_the_same_bytes_whoever_runs_it() {
    let (first, mut second) = (example("support-operations", PAGE_QUERY), example("support-operations", PAGE_QUERY));
    second.spec.context = AttemptContext { run_id: "run_2".to_owned(), attempt: 3, trigger: "cron".to_owned(), ..Default::default() };
    let answers = (first.run().await, second.run().await);
    assert_eq!(answer(&answers.0), "TCK-1042 of Acme: escalate, P1, owned by the on-call engineer.");
    assert_eq!(answer(&answers.0), answer(&answers.1));
    let written = files(first.folder());
    assert_eq!(written.keys().collect::<Vec<_>>(), ["data/support.json", "output.md", "tickets/tck-1042.md"]);
    assert_eq!(written, files(second.folder()));
}

#[tokio::test]
async fn support_operations_takes_the_ticket_from_the_query_and_the_data_from_the_workspace() {
    let attempt = example("support-operations", "We were charged twice and want a refund.");
    let seed = include_str!("../../../plugins/support-operations/data/support.json");
    std::fs::create_dir(attempt.folder().join("data")).unwrap();
    std::fs::write(attempt.folder().join("data/support.json"), seed.replace("Globex", "Hooli")).unwrap();
    assert!(answer(&attempt.run().await).starts_with("TCK-1043 of Hooli: refund after review"));
    assert!(files(attempt.folder()).contains_key("tickets/tck-1043.md"));
}

#[tokio::test]
async fn support_operations_fails_for_good_on_a_ticket_it_does_not_have() {
    let report = example("support-operations", "Review TCK-9999").run().await;
    let (kind, message) = failure(&report);
    assert_eq!(kind, ErrorKind::GuestPermanent);
    assert!(message.contains("there is no ticket TCK-9999: the desk has TCK-1042"), "{message}");
}
