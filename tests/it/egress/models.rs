//! What models used, as their answers say it: counted, priced and charged, and the guest sees the answers as they are.

use sandclock::domain::receipt::{Models, Tokens};
use sandclock::domain::spend::{Money, Spend};

use super::account::Purse;
use super::*;

const PRICES: &str = "[prices]\ncurrency = \"EUR\"\n[prices.models.\"made-up-*\"]\ninput = 2.0\ncached_input = 1.0\noutput = 10.0\n";
const ANSWER: &str = r#"{"model":"made-up-1","choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":100,"completion_tokens":20,
"total_tokens":120,"prompt_tokens_details":{"cached_tokens":40}}}"#;
/// (60 * 2 + 40 * 1 + 20 * 10) / 1e6
const COST: Money = Money::from_nanos(360_000);

/// An answer of one connection, with its length or in chunks of so many bytes.
fn answer(status: &str, headers: &str, body: &str, chunks: Option<usize>) -> Vec<u8> {
    let head = format!("HTTP/1.1 {status}\r\nconnection: close\r\n{headers}");
    match chunks {
        None => format!("{head}content-length: {}\r\n\r\n{body}", body.len()).into_bytes(),
        Some(size) => {
            let chunk = |part: &[u8]| [format!("{:x}\r\n", part.len()).as_bytes(), part, b"\r\n"].concat();
            let parts: Vec<u8> = body.as_bytes().chunks(size).flat_map(chunk).collect();
            [format!("{head}transfer-encoding: chunked\r\n\r\n").as_bytes(), &parts, b"0\r\n\r\n"].concat()
        }
    }
}

fn json(body: &str) -> Vec<u8> {
    answer("200 OK", "content-type: application/json\r\n", body, None)
}

fn events() -> String {
    let delta = "data: {\"model\":\"made-up-1\",\"choices\":[{\"delta\":{\"content\":\"token\"}}],\"usage\":null}\r\n\r\n".repeat(20);
    let usage = "{\"model\":\"made-up-1\",\"choices\":[],\"usage\":{\"prompt_tokens\":100,\"completion_tokens\":20,\"total_tokens\":120,\
                 \"prompt_tokens_details\":{\"cached_tokens\":40}}}";
    format!("{delta}data: {usage}\r\n\r\ndata: [DONE]\r\n\r\n")
}

struct Asked {
    came: Came,
    charged: Spend,
}

impl Asked {
    fn models(&self) -> &Models {
        &self.came.0.usage.models
    }

    /// What was charged is what the receipt says.
    fn check(&self) {
        let (usage, all) = (&self.came.0.usage, self.models().all);
        assert_eq!((self.charged.tokens, self.charged.money), (all.tokens.total(), all.money));
        assert_eq!(self.charged.bytes, usage.outgoing.bytes());
        let moved: u64 = self.came.calls().iter().map(|call| call.bytes_in + call.bytes_out).sum();
        assert_eq!(usage.outgoing.bytes(), moved);
    }
}

/// Asks a server that gives every connection the same answer; `lines` has `@` for its address.
async fn ask(answer: Vec<u8>, lines: &str) -> Asked {
    ask_for(Purse::of(9), PRICES, answer, lines).await
}

/// The same at these prices, charged to this account.
async fn ask_for(purse: Purse, prices: &str, answer: Vec<u8>, lines: &str) -> Asked {
    let server = Server::raw(answer, Vec::new()).await;
    let here = server.address.to_string();
    let purse = Arc::new(purse);
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]\n{prices}")).await.charged(Arc::<Purse>::clone(&purse));
    let came = stage.run(&format!("O\n{}", lines.replace('@', &here))).await;
    let asked = Asked { came, charged: purse.charged() };
    asked.check();
    asked
}

const CHAT: &str = "P h @ /v1/chat/completions - - 1 r\n";

#[tokio::test]
async fn a_model_s_answer_is_counted_and_priced_whole_or_streamed_and_the_guest_sees_all_of_it() {
    let events = events();
    let stream = "content-type: text/event-stream\r\n";
    for (answer, body) in [
        (json(ANSWER), ANSWER),
        (answer("200 OK", "", ANSWER, Some(7)), ANSWER),
        (answer("200 OK", stream, &events, None), &events),
        (answer("200 OK", stream, &events, Some(1)), &events),
        (answer("200 OK", stream, &events, Some(13)), &events),
        (answer("200 OK", stream, &events, Some(1000)), &events),
    ] {
        let asked = ask(answer, CHAT).await;
        assert_eq!(asked.came.0.ended, Ended::Completed(format!("200 {body}\n")));
        let all = asked.models().all;
        assert_eq!(all.tokens, Tokens { input: 100, cached: 40, output: 20, estimated: 0 });
        assert_eq!((all.calls, all.money, all.unpriced_tokens, &*asked.models().currency), (1, COST, 0, "EUR"));
        assert_eq!(asked.models().by_model["made-up-1"], all);
    }
}

#[tokio::test]
async fn what_nobody_said_is_estimated_and_marked() {
    // Without usage, of an unknown model, and 4096 bytes of request.
    let silent = ask(json("{\"choices\":[]}"), CHAT).await;
    let all = silent.models().all;
    assert_eq!(all.tokens, Tokens { input: 1024, cached: 0, output: 4, estimated: 1028 });
    assert_eq!((all.money, all.unpriced_tokens, &*silent.models().currency), (Money::ZERO, 1028, ""));
    assert!(silent.models().by_model.contains_key("(unnamed)"));
    // Compressed, without a budget that would refuse it.
    let packed = ask(answer("200 OK", "content-type: application/json\r\ncontent-encoding: gzip\r\n", "xxxxxxxx", None), CHAT).await;
    assert_eq!(packed.models().all.tokens.estimated, 1026);
    // Given up in the middle: the answer is never read, or breaks off.
    let unread = ask(answer("200 OK", "content-type: text/event-stream\r\n", &events(), None), "P h @ /v1/completions - - 1 k\n").await;
    assert_eq!(unread.models().all.tokens.estimated, unread.models().all.tokens.total());
    assert_eq!((unread.models().all.calls, unread.models().all.tokens.input), (1, 1024));
    let mut broken = answer("200 OK", "content-type: text/event-stream\r\n", &events(), None);
    broken.truncate(broken.len() / 2);
    let server = Server::raw(broken, Vec::new()).await;
    let here = server.address.to_string();
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]\nmax_seconds = 0.3\n{PRICES}")).await;
    let came = stage.run(&format!("O\n{}", CHAT.replace('@', &here))).await;
    let all = came.0.usage.models.all;
    assert!(all.tokens.output > 5 && all.tokens.estimated == all.tokens.total() && all.money > Money::ZERO, "{all:?}");
}

#[tokio::test]
async fn where_money_is_limited_a_model_without_a_price_costs_the_highest_of_each() {
    let prices = format!("{PRICES}[prices.models.\"other\"]\ninput = 3.0\ncached_input = 0.5\noutput = 4.0\n");
    let unknown = ANSWER.replace("made-up-1", "unheard-of");
    let unnamed = ANSWER.replace("\"model\":\"made-up-1\",", "");
    // (60 * 3 + 40 * 1 + 20 * 10) / 1e6
    let dearest = Money::from_nanos(420_000);
    for (answer, name) in [(&unknown, "unheard-of"), (&unnamed, "(unnamed)")] {
        let free = ask_for(Purse::of_tokens(9), &prices, json(answer), CHAT).await;
        assert_eq!((free.charged.money, free.models().all.unpriced_tokens), (Money::ZERO, 120), "{name}");
        let asked = ask_for(Purse::of_money(9), &prices, json(answer), CHAT).await;
        assert_eq!((asked.charged.money, asked.charged.tokens), (dearest, 120), "{name}");
        let told = asked.models().by_model[name];
        assert_eq!((told.money, told.unpriced_tokens, &*asked.models().currency), (dearest, 0, "EUR"));
    }
    // One that has a price costs that, and where there is none at all nothing can be charged.
    assert_eq!(ask_for(Purse::of_money(9), &prices, json(ANSWER), CHAT).await.charged.money, COST);
    assert_eq!(ask_for(Purse::of_money(9), "", json(ANSWER), CHAT).await.models().all.unpriced_tokens, 120);
}

#[tokio::test]
async fn what_is_no_model_s_costs_no_tokens() {
    let none = |asked: &Asked| assert!(asked.models().is_empty(), "{:?}", asked.models());
    none(&ask(json(ANSWER), "G h @ /v1/chat/completions - - 0 r\n").await);
    none(&ask(json("{\"choices\":[]}"), "P h @ /v1/other - - 1 r\n").await);
    none(&ask(answer("200 OK", "content-type: text/html\r\n", ANSWER, None), "P h @ /page - - 1 r\n").await);
    none(&ask(answer("429 Too Many Requests", "content-type: application/json\r\n", "{\"error\":{}}", None), CHAT).await);
    none(&ask(answer("500 Oops", "", "oops", None), CHAT).await);
    // Whoever says what was used is believed, whatever the path.
    assert_eq!(ask(json(ANSWER), "P h @ /gateway - - 1 r\n").await.models().all.tokens.total(), 120);
    // A host that is not there has used nothing.
    let purse = Arc::new(Purse::of(9));
    let stage = Stage::new("allow = [\"http://127.0.0.1:1\"]").await.charged(Arc::<Purse>::clone(&purse));
    let came = stage.run("O\nP h 127.0.0.1:1 /v1/chat/completions - - 1 r\n").await;
    assert!(came.0.usage.models.is_empty() && purse.charged().tokens == 0);
}

#[tokio::test]
async fn calls_at_once_are_counted_each_for_itself() {
    let asked = ask(json(ANSWER), "P h @ /v1/responses - - 1 k\nP h @ /v1/embeddings - - 1 r\nP h @ /v1/responses - - 1 k\n").await;
    let all = asked.models().all;
    assert_eq!((all.calls, asked.came.0.usage.outgoing.calls), (3, 3));
    // Two were never read to their ends.
    assert!(all.tokens.total() > 120 && all.tokens.estimated > 0 && all.tokens.estimated < all.tokens.total(), "{all:?}");
}

#[tokio::test]
async fn names_of_models_are_bounded_and_hold_no_secret() {
    let long = format!("{{\"model\":\"m{}\",\"usage\":{{\"total_tokens\":5}}}}", "\\u0007".repeat(15));
    let asked = ask(json(&long), CHAT).await;
    let name = asked.models().by_model.keys().next().unwrap();
    assert!(name.len() <= 128 && !name.contains('\u{7}'), "{name}");
}
