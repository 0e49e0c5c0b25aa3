//! Guests and servers that want more than there is: calls, bytes, time.

use std::time::Duration;

use super::*;

/// An answer of status 200 that broke: wasmtime-wasi-http gives an answer's stream no code of its own.
const BROKE: &str = "200 !999";

async fn stage(server: &Server, limits: &str) -> Stage {
    Stage::new(&format!("allow = [\"http://{}\"]\n{limits}", server.address)).await
}

#[tokio::test]
async fn the_call_after_the_last_is_refused_and_so_are_all_that_follow() {
    let server = Server::start().await;
    let stage = stage(&server, "max_calls = 2").await;
    let came = stage.run(&format!("O\n{}", get(&server.address.to_string(), "/").repeat(4))).await;
    assert_eq!(came.lines(), ["200 hello", "200 hello", DENIED, DENIED]);
    assert_eq!((came.rules()[2], server.seen().len()), (Some(Rule::MaxCalls), 2));
    let toml = came.calls()[2].refused.clone().unwrap().toml.unwrap();
    assert_eq!(toml, "[agents.fetch.http]\nmax_calls = 4");
}

#[tokio::test]
async fn refused_calls_count_and_a_flood_of_them_keeps_a_bounded_record() {
    let server = Server::start().await;
    let stage = stage(&server, "max_calls = 400").await;
    let came = stage.run(&format!("O\n{}", get("x", "/").repeat(500))).await;
    assert_eq!(came.lines().len(), 500);
    assert_eq!((came.record().total, came.record().refused, came.calls().len()), (500, 500, 250));
}

#[tokio::test]
async fn bytes_to_the_host_end_at_the_limit() {
    let server = Server::start().await;
    let stage = stage(&server, "max_request_bytes = 20000").await;
    let here = server.address.to_string();
    let came = stage.run(&format!("O\nP h {here} / - - 2 r\nP h {here} / - - 9 r\n{}", get(&here, "/"))).await;
    let lines = came.lines();
    assert_eq!((lines[0], lines[1], lines[2]), ("200 hello", "E17", DENIED));
    assert_eq!(came.rules(), [None, Some(Rule::MaxRequestBytes), Some(Rule::MaxRequestBytes)]);
}

#[tokio::test]
async fn an_answer_that_never_ends_ends_at_the_limit() {
    let chunk = [b"10000\r\n".to_vec(), vec![b'x'; 0x10000], b"\r\n".to_vec()].concat();
    let server = Server::raw(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_vec(), chunk).await;
    let stage = stage(&server, "max_response_bytes = 1000000").await;
    let came = stage.run(&format!("O\nG h {} / - - 0 d\n", server.address)).await;
    let line = came.lines()[0].to_owned();
    let bytes = line.strip_prefix(BROKE).unwrap_or_else(|| panic!("{line}"));
    assert!(bytes.parse::<u64>().unwrap() <= 1_000_000, "{line}");
    assert_eq!(came.rules(), [Some(Rule::MaxResponseBytes)]);
    assert!(came.calls()[0].bytes_in < 1_100_000);
}

#[tokio::test]
async fn a_server_that_dawdles_ends_with_the_attempt_s_time_for_calls() {
    for (first, told) in
        [(&b"HTTP/1.1 200 OK\r\nx-sl"[..], "E33"), (b"", "E33"), (b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab", "200 ab!999")]
    {
        let server = Server::raw(first.to_vec(), Vec::new()).await;
        let stage = stage(&server, "max_seconds = 0.3").await;
        let came = stage.run(&format!("O\n{0}{0}", get(&server.address.to_string(), "/"))).await;
        assert_eq!(came.lines(), [told, DENIED], "{}", String::from_utf8_lossy(first));
        assert_eq!(came.rules(), [Some(Rule::MaxSeconds), Some(Rule::MaxSeconds)]);
    }
}

#[tokio::test]
async fn as_many_calls_as_may_be_are_under_way_at_once() {
    let server = Server::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab".to_vec(), Vec::new()).await;
    let stage = stage(&server, "max_concurrent = 2").await;
    let here = server.address;
    let came = stage.run(&format!("O\nG h {here} / - - 0 k\nG h {here} / - - 0 k\nG h {here} / - - 0 k\n")).await;
    assert_eq!(came.lines(), ["200", "200", DENIED]);
    assert_eq!((came.rules()[2], server.connections()), (Some(Rule::MaxConcurrent), 2));
}

#[tokio::test]
async fn an_answer_made_of_headers_is_refused() {
    for (count, size) in [(200, 10), (50, 2000), (1, 500_000)] {
        let headers: String = (0..count).map(|n| format!("x-{n}: {}\r\n", "v".repeat(size))).collect();
        let server = Server::raw(format!("HTTP/1.1 200 OK\r\n{headers}content-length: 0\r\n\r\n").into_bytes(), Vec::new()).await;
        let stage = stage(&server, "").await;
        let came = stage.run(&format!("O\n{}", get(&server.address.to_string(), "/"))).await;
        let line = came.lines()[0].to_owned();
        assert!(matches!(line.as_str(), "E26" | "E7"), "{count} of {size}: {line}");
        let call = &came.calls()[0];
        assert!(call.refused.is_some() || call.failed.is_some(), "{call:?}");
    }
    let server = Server::raw(Vec::new(), b"x-more: and more\r\n".to_vec()).await;
    let stage = stage(&server, "").await;
    let came = stage.run(&format!("O\n{}", get(&server.address.to_string(), "/"))).await;
    assert_eq!(came.lines(), ["E7"], "what never begins an answer is none");
}

#[tokio::test]
async fn a_guest_s_end_ends_its_calls() {
    let server = Server::raw(b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nab".to_vec(), Vec::new()).await;
    let stage = stage(&server, "").await;
    let (query, signals) = (format!("O\n{}", get(&server.address.to_string(), "/")), Arc::clone(&stage.signals));
    let came = {
        let running = stage.run(&query);
        tokio::pin!(running);
        loop {
            tokio::select! {
                came = &mut running => break came,
                () = tokio::time::sleep(Duration::from_millis(5)), if server.connections() == 0 => {}
                () = std::future::ready(()), if server.connections() > 0 => signals.trap_now(sandclock::sandbox::Stop::LeaseLost),
            }
        }
    };
    assert!(matches!(came.0.ended, Ended::Stopped(_)));
    assert_eq!(came.record().total, 1);
}
