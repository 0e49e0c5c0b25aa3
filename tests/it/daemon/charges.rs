//! Charges whose answers are lost: each is made once, whatever others do meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sandclock::sandbox::Usage;
use sandclock::store::{Change, ChangeId, Index, Kind, Outcome, PageRequest, Put, Record, Scope};

use super::budget::{account, call, call_in_vain, met, of_task, tokens};
use super::faulty::Fault;
use super::harness::PATIENCE;
use super::*;

#[tokio::test]
async fn a_charge_whose_answer_is_lost_is_made_once_and_the_end_adds_only_the_rest() {
    let world = World::new().await;
    let daemon = world.start().await;
    let task = daemon.task(json!({"budget": {"run": {"calls": 100}}})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    for fault in [Fault::After, Fault::Before] {
        let once = Arc::new(AtomicBool::new(true));
        *world.faulty.plan.lock().unwrap() = Box::new(move |call| (call == "apply" && once.swap(false, Ordering::SeqCst)).then_some(fault));
        call(&guest, tokens(9)).await;
    }
    let mut usage = Usage { wall: Duration::from_secs(2), cpu: Some(Duration::from_secs(1)), ..Usage::default() };
    usage.http.total = 2;
    guest.end_having_used(Ended::Completed("done".to_owned()), usage);
    daemon.settled(&run).await;
    let stands = daemon.run_budget(&run).await.unwrap();
    let used = &stands["used"];
    assert_eq!((&used["calls"], &used["tokens"], &used["wall_seconds"]), (&json!(2), &json!(18), &json!(2)), "{stands}");
    let sums = of_task(&daemon, &task).await;
    assert_eq!((&sums["calls"], &sums["tokens"], &sums["wall_seconds"]), (&json!(2), &json!(18), &json!(2)));
}

#[tokio::test]
async fn a_charge_whose_answer_is_lost_is_made_once_though_others_have_written_since() {
    let world = World::new().await;
    if world.is_shared() {
        return;
    }
    let daemon = world.start().await;
    let task = daemon.task(json!({"budget": {"run": {"calls": 1}}})).await;
    let run = daemon.fire(&task).await.run_id;
    let guest = world.stage.guest().await;
    // The only call is charged and the answer to that lost; nothing can be read until grants and other runs have written to all accounts.
    let (mut heard, away) = world.faulty.lose_an_answer();
    let others = async {
        heard.recv().await.unwrap();
        let store = world.faulty.behind();
        let kept = store.list(Scope::All(Kind::Account), PageRequest::first(100)).await.unwrap().records;
        let again = |record: Record| Put {
            index: Index { run: record.id.key.starts_with("r/").then(|| run.clone()), ..Index::default() },
            id: record.id,
            body: record.body,
        };
        let puts: Vec<Put> = kept.into_iter().map(again).collect();
        assert_eq!(puts.len(), 3, "the run's, and a part of the task's and the agent's");
        let change = Change { id: ChangeId(7), guards: vec![], puts, deletes: vec![], events: vec![] };
        assert_eq!(store.apply(vec![change]).await.unwrap(), [Outcome::Applied]);
        away.store(false, Ordering::SeqCst);
    };
    let charging = account(&guest);
    let both = async { tokio::join!(others, charging.begin_call()).1 };
    tokio::time::timeout(PATIENCE, both).await.expect("its only call is refused, for it is charged").unwrap();
    assert_eq!(of_task(&daemon, &task).await["calls"], 1);
    charging.end_call();
    call_in_vain(guest).await;
    assert_eq!(met(&daemon.settled(&run).await).spent, 1);
}
