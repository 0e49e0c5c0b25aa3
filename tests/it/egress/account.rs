//! Calls that are charged to an account, and guests whose account is empty.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use http_body_util::{BodyExt as _, Empty};
use hyper::Request;
use sandclock::clock::{BootInstant, Clock};
use sandclock::domain::http::HttpFault;
use sandclock::domain::id::AgentId;
use sandclock::domain::park::Park;
use sandclock::domain::spend::{BudgetScope, Exhausted, Meter, Spend};
use sandclock::domain::time::Timestamp;
use sandclock::egress::{ChargeRefused, Timing};
use tokio::sync::{Notify, Semaphore};

use super::*;

/// An account that has so many calls left.
pub struct Purse {
    left: Semaphore,
    counts_tokens: bool,
    counts_money: bool,
    /// Told of each call that is refused.
    refused: Notify,
    /// What happens while a call is charged.
    meanwhile: Box<dyn Fn() + Send + Sync>,
    charged: Mutex<Vec<Spend>>,
    /// Charges are made as these are given.
    charges: Semaphore,
    unkept: bool,
}

impl Purse {
    pub fn of(calls: usize) -> Purse {
        let charges = Semaphore::new(Semaphore::MAX_PERMITS);
        Purse {
            left: Semaphore::new(calls),
            counts_tokens: false,
            counts_money: false,
            refused: Notify::new(),
            meanwhile: Box::new(|| {}),
            charged: Mutex::default(),
            charges,
            unkept: false,
        }
    }

    /// The same with a budget on tokens.
    pub fn of_tokens(calls: usize) -> Purse {
        Purse { counts_tokens: true, ..Purse::of(calls) }
    }

    /// The same with a budget on money.
    pub fn of_money(calls: usize) -> Purse {
        Purse { counts_money: true, ..Purse::of_tokens(calls) }
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
        (self.meanwhile)();
        self.left.try_acquire().map(tokio::sync::SemaphorePermit::forget).map_err(|_| {
            self.refused.notify_one();
            ChargeRefused::Exhausted(EMPTY)
        })
    }

    async fn charge(&self, used: Spend) {
        self.charges.acquire().await.unwrap().forget();
        self.charged.lock().unwrap().push(used);
    }

    fn end_call(&self) {}

    fn counts_tokens(&self) -> bool {
        self.counts_tokens
    }

    fn counts_money(&self) -> bool {
        self.counts_money
    }
}

/// The machine's clocks, and for leases and time limits what the test adds to them.
#[derive(Default)]
struct Ahead(AtomicU64);

impl Clock for Ahead {
    fn now(&self) -> Timestamp {
        SystemClock.now()
    }

    fn steady(&self) -> Timestamp {
        SystemClock.steady()
    }

    fn boot(&self) -> BootInstant {
        BootInstant(SystemClock.boot().0 + self.0.load(Ordering::SeqCst))
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
async fn a_time_limit_that_passes_while_the_last_calls_end_parks_the_run() {
    let server = Server::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab".to_vec(), Vec::new()).await;
    let here = server.address.to_string();
    let (clock, purse) = (Arc::new(Ahead::default()), Arc::new(Purse::of(1)));
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]")).await.charged(Arc::<Purse>::clone(&purse));
    let stage = Stage { signals: AttemptSignals::by(Arc::<Ahead>::clone(&clock)), ..stage };
    let query = format!("O\nG h {here} / - - 0 k\n{}", get(&here, "/"));
    let late = async {
        purse.refused.notified().await;
        clock.0.fetch_add(3_600_000_000_000, Ordering::SeqCst);
    };
    let (came, ()) = tokio::join!(stage.run(&query), late);
    assert_eq!(came.0.ended, Ended::Parked(Park::Budget(EMPTY)), "the time was up for want of a grant");
    assert_eq!(came.rules(), [None, Some(Rule::Budget)]);
}

/// An account with which the lease is lost while a call is charged.
fn losing(lease_is_lost: impl Fn() + Send + Sync + 'static) -> Arc<Purse> {
    Arc::new(Purse { meanwhile: Box::new(lease_is_lost), ..Purse::of(9) })
}

#[tokio::test]
async fn a_request_does_not_leave_when_the_lease_is_lost_while_it_is_charged() {
    let server = Server::start().await;
    let here = server.address.to_string();
    let text = format!("[agents.fetch.http]\nallow = [\"http://{here}\"]\n");
    let settings = config::parse(&text, Path::new("sandclock.toml"), &Environment::of([])).unwrap().settings;
    let policy = &settings.agents[&AgentId::parse("fetch").unwrap()].http;
    for method in ["GET", "POST"] {
        let is_lost = Arc::new(AtomicBool::new(false));
        let account = losing({
            let is_lost = Arc::clone(&is_lost);
            move || is_lost.store(true, Ordering::SeqCst)
        });
        let gateway = Gateway::new(tokio::runtime::Handle::current(), Arc::new(SystemClock));
        let http = gateway.attempt(policy, "fetch", ("run_1", 1), Some(account));
        let holds = move |_| async move { if is_lost.load(Ordering::SeqCst) { Err("the lease is lost".to_owned()) } else { Ok(()) } };
        let body = Empty::new().map_err(|never| match never {}).boxed_unsync();
        let request = Request::builder().method(method).uri(format!("http://{here}/")).body(body).unwrap();
        let sent = http.send(request, Timing::default(), Box::new(|changes| Box::pin(holds(changes)))).await;
        assert_eq!(sent.err(), Some(HttpFault::Denied), "{method}");
        let refused = http.record().calls[0].refused.clone().unwrap();
        assert_eq!((refused.rule, &*refused.sentence, server.seen().len()), (Rule::Lease, "the lease is lost", 0));
    }
}

#[tokio::test]
async fn an_effect_is_kept_after_its_charge() {
    let server = Server::start().await;
    let here = server.address.to_string();
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]")).await;
    let host = Arc::clone(&stage.host);
    let stage = stage.charged(losing(move || host.is_lost.store(true, Ordering::SeqCst)));
    let came = stage.run(&format!("O\nP h {here} / - - 1 r\n")).await;
    assert_eq!((came.lines(), came.rules(), server.seen().len()), (vec![DENIED], vec![Some(Rule::Lease)], 0));
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
