//! Calls that are charged to an account, and guests whose account is empty.

use std::time::Duration;

use sandclock::domain::park::Park;
use sandclock::domain::spend::{BudgetScope, Exhausted, Meter, Spend};
use sandclock::egress::ChargeRefused;
use tokio::sync::Semaphore;

use super::*;

/// An account that has so many calls left.
pub struct Purse {
    left: Semaphore,
    counts_tokens: bool,
    charged: Mutex<Vec<Spend>>,
    /// Charges are made as these are given.
    charges: Semaphore,
    unkept: bool,
}

impl Purse {
    pub fn of(calls: usize) -> Purse {
        let charges = Semaphore::new(Semaphore::MAX_PERMITS);
        Purse { left: Semaphore::new(calls), counts_tokens: false, charged: Mutex::default(), charges, unkept: false }
    }

    /// The same with a budget on tokens.
    pub fn of_tokens(calls: usize) -> Purse {
        Purse { counts_tokens: true, ..Purse::of(calls) }
    }

    pub fn charged(&self) -> Spend {
        self.charged.lock().unwrap().iter().fold(Spend::default(), |sum, one| sum.plus(*one))
    }
}

pub const EMPTY: Exhausted = Exhausted { scope: BudgetScope::Run, meter: Meter::Calls, limit: 2, spent: 2 };

#[async_trait]
impl Account for Purse {
    async fn begin_call(&self) -> Result<(), ChargeRefused> {
        if self.unkept {
            return Err(ChargeRefused::Unkept("the store is away".to_owned()));
        }
        self.left.try_acquire().map(tokio::sync::SemaphorePermit::forget).map_err(|_| ChargeRefused::Exhausted(EMPTY))
    }

    async fn charge(&self, used: Spend) {
        self.charges.acquire().await.unwrap().forget();
        self.charged.lock().unwrap().push(used);
    }

    fn end_call(&self) {}

    fn counts_tokens(&self) -> bool {
        self.counts_tokens
    }
}

#[tokio::test]
async fn a_call_that_a_budget_refuses_ends_the_attempt_whatever_the_guest_makes_of_it() {
    let server = Server::start().await;
    let here = server.address.to_string();
    // One guest would answer, one would fail, one would trap, one waits for no answer.
    for query in [
        format!("O\n{}", get(&here, "/").repeat(4)),
        format!("P\n{}", get(&here, "/").repeat(4)),
        format!("T\n{}", get(&here, "/").repeat(4)),
        format!("O\n{}G h {here} / - - 0 n\nG h {here} / - - 0 r\n", get(&here, "/").repeat(2)),
    ] {
        let before = server.seen().len();
        let purse = Arc::new(Purse::of(2));
        let stage = Stage::new(&format!("allow = [\"http://{here}\"]")).await.charged(Arc::<Purse>::clone(&purse));
        let came = stage.run(&query).await;
        assert_eq!(came.0.ended, Ended::Parked(Park::Budget(EMPTY)), "{query}");
        assert_eq!(server.seen().len() - before, 2);
        assert_eq!(came.rules()[..3], [None, None, Some(Rule::Budget)]);
        let moved: u64 = came.calls()[..2].iter().map(|call| call.bytes_in + call.bytes_out).sum();
        assert_eq!(purse.charged(), Spend { bytes: moved, ..Spend::default() });
    }
}

#[tokio::test]
async fn a_call_that_is_under_way_is_not_cut_by_the_refusal_of_another() {
    let server = Server::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab".to_vec(), Vec::new()).await;
    let here = server.address.to_string();
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]\nmax_seconds = 0.5")).await.charged(Arc::new(Purse::of(1)));
    let came = stage.run(&format!("O\nG h {here} / - - 0 k\n{}", get(&here, "/"))).await;
    assert_eq!(came.0.ended, Ended::Parked(Park::Budget(EMPTY)));
    assert_eq!(came.rules(), [Some(Rule::MaxSeconds), Some(Rule::Budget)], "the first one had all of its time");
}

#[tokio::test]
async fn a_call_that_cannot_be_charged_does_not_leave_and_the_guest_hears_of_it() {
    let server = Server::start().await;
    let here = server.address.to_string();
    let purse = Arc::new(Purse { unkept: true, ..Purse::of(2) });
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]")).await.charged(purse);
    let came = stage.run(&format!("O\n{}", get(&here, "/"))).await;
    assert_eq!((came.lines(), came.rules(), server.seen().len()), (vec![DENIED], vec![Some(Rule::Budget)], 0));
}

#[tokio::test]
async fn a_guest_sees_the_end_of_an_answer_when_it_is_charged() {
    let server = Server::start().await;
    let here = server.address.to_string();
    let purse = Arc::new(Purse { charges: Semaphore::new(0), ..Purse::of(9) });
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]")).await.charged(Arc::<Purse>::clone(&purse));
    let query = format!("O\n{}", get(&here, "/").repeat(2));
    let running = stage.run(&query);
    tokio::pin!(running);
    loop {
        tokio::select! {
            _ = &mut running => panic!("the guest went on before its call was charged"),
            () = tokio::time::sleep(Duration::from_millis(5)) => {}
        }
        if !server.seen().is_empty() {
            break;
        }
    }
    // The second call waits for the charge of the first.
    let waited = tokio::time::timeout(Duration::from_millis(50), &mut running).await;
    assert!(waited.is_err() && server.seen().len() == 1 && stage.logs().is_empty());
    purse.charges.add_permits(2);
    assert_eq!(running.await.lines(), ["200 hello", "200 hello"]);
}

#[tokio::test]
async fn an_answer_that_nobody_reads_is_charged_before_the_attempt_is_over() {
    let server = Server::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab".to_vec(), Vec::new()).await;
    let here = server.address.to_string();
    let purse = Arc::new(Purse::of(9));
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]")).await.charged(Arc::<Purse>::clone(&purse));
    let came = stage.run(&format!("O\nG h {here} / - - 0 k\n")).await;
    let call = &came.calls()[0];
    assert_eq!(purse.charged().bytes, call.bytes_in + call.bytes_out);
    assert!(call.bytes_in > 0);
}

#[tokio::test]
async fn a_compressed_answer_hides_no_tokens() {
    let answer = b"HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-encoding: gzip\r\ncontent-length: 2\r\n\r\nab".to_vec();
    let server = Server::raw(answer, Vec::new()).await;
    let here = server.address.to_string();
    let query = format!("O\nG h {here} / accept-encoding gzip 0 r\n");
    for (purse, line) in [(Purse::of(9), "200 ab"), (Purse::of_tokens(9), DENIED)] {
        let stage = Stage::new(&format!("allow = [\"http://{here}\"]")).await.charged(Arc::new(purse));
        assert_eq!(stage.run(&query).await.lines(), [line]);
    }
    let server = Server::start().await;
    let here = server.address.to_string();
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]")).await.charged(Arc::new(Purse::of_tokens(1)));
    stage.run(&format!("O\nG h {here} / accept-encoding gzip 0 r\n")).await;
    assert_eq!(server.seen()[0].header("accept-encoding"), ["identity"]);
}
