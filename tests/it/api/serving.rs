//! Who may ask, and how the server stops.

use std::time::Duration;

use serde_json::json;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use super::house::{House, house, house_with, house_with_token, settings};

/// Sends a request as it is written here and returns the answer's status.
async fn raw(house: &House, head: &str) -> u16 {
    let mut stream = TcpStream::connect(house.base.strip_prefix("http://").unwrap()).await.unwrap();
    stream.write_all(format!("{head}\r\nConnection: close\r\nContent-Length: 0\r\n\r\n").as_bytes()).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8(answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[tokio::test]
async fn only_the_token_opens_and_health_is_open() {
    let house = house_with_token("t0ken").await;
    for path in ["/background/status", "/background/none", "/nowhere", "/background/runs/run_x/events/stream"] {
        let response = house.client.get(house.url(path)).send().await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["www-authenticate"]), (401, &"Bearer".parse().unwrap()), "{path}");
        let (status, problem) = house.send(house.client.get(house.url(path)).bearer_auth("t0kem")).await;
        assert_eq!(status, 401);
        assert!(!problem.to_string().contains("t0ke"), "{problem}");
    }
    let authorized = |path: &str| house.client.get(house.url(path)).bearer_auth("t0ken");
    assert_eq!(house.send(authorized("/background/status")).await.0, 200);
    assert_eq!(house.send(authorized("/nowhere")).await.0, 404);
    assert_eq!(house.get("/health").await, (200, json!({"status": "ok"})));
    assert_eq!(house.get("/ready").await, (200, json!({"status": "ready"})));
    // With a token the name under which the daemon is reached is its owner's affair.
    let head = "GET /background/status HTTP/1.1\r\nHost: sandclock.example\r\nAuthorization: Bearer t0ken";
    assert_eq!(raw(&house, head).await, 200);
    house.close().await;
}

#[tokio::test]
async fn a_foreign_web_page_gets_nowhere_without_a_token() {
    let house = house().await;
    assert_eq!(raw(&house, "GET /background/status HTTP/1.1\r\nHost: rebound.example:8000").await, 421);
    assert_eq!(raw(&house, "GET /background/status HTTP/1.1\r\nHost: [::1]:8000").await, 200);
    assert_eq!(raw(&house, "GET /background/status HTTP/1.1").await, 400);
    assert_eq!(raw(&house, "POST /background/tasks/t/run HTTP/1.1\r\nHost: localhost\r\nOrigin: http://evil.example").await, 403);
    assert_eq!(raw(&house, "POST /background/tasks/t/run HTTP/1.1\r\nHost: localhost\r\nOrigin: http://localhost").await, 404);
    let response = house.client.get(house.url("/background/status")).header("origin", "http://evil.example").send().await.unwrap();
    assert!(!response.headers().contains_key("access-control-allow-origin"));
    house.close().await;
}

#[tokio::test]
async fn stopping_ends_waits_with_the_runs_id_and_closes_the_door() {
    let house = house().await;
    house.task("t", "hold").await;
    let request = house.client.post(house.url("/background/tasks/t/run")).json(&json!({"wait": true})).send();
    let waiting = tokio::spawn(request);
    // The wait has begun once the run is there.
    while house.manager.status().await.unwrap()["runs"] == 0 {
        tokio::task::yield_now().await;
    }
    house.shutdown.cancel();
    let response = waiting.await.unwrap().unwrap();
    assert_eq!(response.status(), 503);
    let problem: serde_json::Value = response.json().await.unwrap();
    assert!(problem["run_id"].as_str().unwrap().starts_with("run_"), "{problem}");
    let address = house.base.strip_prefix("http://").unwrap().to_owned();
    house.close().await;
    assert!(TcpStream::connect(address).await.is_err());
}

#[tokio::test]
async fn a_request_that_does_not_come_to_an_end_does_not_hold_the_daemon() {
    let house = house_with(settings(), Duration::from_millis(50)).await;
    let mut stream = TcpStream::connect(house.base.strip_prefix("http://").unwrap()).await.unwrap();
    stream
        .write_all(b"POST /background/tasks HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: 9\r\n\r\n{")
        .await
        .unwrap();
    // The connection is taken up once another one, made later, is answered.
    assert_eq!(house.get("/health").await.0, 200);
    house.close().await;
    let mut rest = Vec::new();
    // Whether it is closed or reset is the kernel's affair; that it is over is what counts.
    let _ = stream.read_to_end(&mut rest).await;
    assert!(rest.is_empty());
}
