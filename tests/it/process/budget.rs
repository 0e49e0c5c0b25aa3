//! A run that loops over calls under a budget: the real gateway, the command line, and a kill while it waits.

use serde_json::json;

use super::daemon::{Home, id};
use crate::egress::get;
use crate::egress::server::Server;
use crate::guest::http::fetch;

#[tokio::test]
async fn calls_end_with_the_budget_and_go_on_with_a_grant_after_a_kill() {
    let server = Server::start().await;
    let here = server.address.to_string();
    let config = format!(
        "[agents.fetch.http]\nallow = [\"http://{here}\"]\n[agents.fetch.budget]\nrun = {{ calls = 2 }}\nday = {{ calls = 1000 }}\n"
    );
    let home = Home::new(&config, &[("fetch", fetch())]);
    let daemon = home.start(&[]).await;
    daemon.task("t", "fetch", json!({})).await;
    let query = json!({"query": format!("P\n{}", get(&here, "/").repeat(4))});
    let run = daemon.post("/background/tasks/t/run", query).await;
    let told = daemon.event(&run, |event| event["event"] == "background_run_awaiting_budget").await;
    assert_eq!((&told["budget"]["scope"], &told["budget"]["limit"], &told["budget"]["spent"]), (&json!("run"), &json!(2), &json!(2)));
    assert_eq!(server.seen().len(), 2, "a call left that nothing was left for");
    daemon.kill().await;

    let daemon = home.start(&[]).await;
    let (run_id, folder) = (id(&run), home.0.path());
    let shown = daemon.verb(folder, &["budget", "show"]).await;
    assert!(shown.out.contains(run_id) && shown.out.contains("calls"), "{}", shown.out);
    let shown = daemon.verb(folder, &["budget", "show", "--run", run_id]).await;
    assert!(shown.out.contains("calls 2") && shown.out.lines().any(|line| line.starts_with("run")), "{}", shown.out);
    let why = daemon.verb(folder, &["runs", "why", run_id]).await;
    assert!(why.out.contains(&format!("sandclock budget grant --run {run_id} --calls MORE")), "{}", why.out);
    let refused = daemon.verb(folder, &["budget", "grant", "--run", run_id, "--tokens", "5"]).await;
    assert!(refused.code != 0 && refused.err.contains("tokens"), "{refused:?}");
    assert_ne!(daemon.verb(folder, &["budget", "grant", "--run", run_id]).await.code, 0);
    let granted = ["budget", "grant", "--run", run_id, "--calls", "4", "--idempotency-key", "once"];
    for _ in 0..2 {
        let told = daemon.verb(folder, &granted).await;
        assert_eq!((told.code, told.out.lines().next()), (0, Some("granted; 1 run goes on")), "{told:?}");
    }
    // Its calls begin anew, for it keeps no checkpoints.
    let ended = daemon.terminal(&run).await;
    assert_eq!(ended["status"], "completed", "{ended}");
    assert_eq!(server.seen().len(), 6);
    let stands = daemon.get(&format!("/background/runs/{run_id}/budget")).await;
    assert_eq!(stands["budgets"][0]["meters"]["calls"], json!({"limit": 2, "granted": 4, "spent": 6, "left": 0}), "{stands}");
    assert_eq!(stands["budgets"][1]["meters"]["calls"]["spent"], 6);
    assert!(stands["used"]["bytes"].as_u64().unwrap() > 0);
    let agent = daemon.get("/background/agents/fetch").await;
    assert_eq!((&agent["used"]["calls"], &agent["used"]["runs"], &agent["used"]["attempts"]), (&json!(6), &json!(1), &json!(2)), "{agent}");
    daemon.stop().await;
}
