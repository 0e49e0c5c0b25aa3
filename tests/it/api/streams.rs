//! Event streams: nothing missing, nothing twice, and an end.

use std::time::Duration;

use futures::StreamExt as _;
use serde_json::{Value, json};

use super::house::{House, Order, house};

/// Reads a stream frame by frame.
struct Reader {
    body: futures::stream::BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

#[derive(Debug, PartialEq)]
struct Frame {
    id: u64,
    name: String,
    data: Value,
}

impl Reader {
    async fn open(house: &House, path: &str, last: Option<u64>) -> Reader {
        let mut request = house.client.get(house.url(path)).header("accept", "text/event-stream");
        if let Some(last) = last {
            request = request.header("last-event-id", last);
        }
        let response = request.send().await.unwrap();
        assert_eq!((response.status().as_u16(), &response.headers()["content-type"]), (200, &"text/event-stream".parse().unwrap()));
        Reader { body: response.bytes_stream().boxed(), text: String::new() }
    }

    /// The next event; none at the end of the stream.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some((frame, rest)) = self.text.split_once("\n\n") {
                let field = |name: &str| frame.lines().find_map(|line| line.strip_prefix(name).map(str::to_owned));
                let event = field("id: ").map(|id| Frame {
                    id: id.parse().unwrap(),
                    name: field("event: ").unwrap(),
                    data: serde_json::from_str(&field("data: ").unwrap()).unwrap(),
                });
                self.text = rest.to_owned();
                if event.is_some() {
                    return event;
                }
                continue;
            }
            let chunk = tokio::time::timeout(Duration::from_secs(60), self.body.next()).await.expect("the stream is silent");
            self.text.push_str(std::str::from_utf8(&chunk?.unwrap()).unwrap());
        }
    }

    async fn rest(&mut self) -> Vec<Frame> {
        let mut frames = Vec::new();
        while let Some(frame) = self.next().await {
            frames.push(frame);
        }
        frames
    }
}

fn ids(frames: &[Frame]) -> Vec<u64> {
    frames.iter().map(|frame| frame.id).collect()
}

#[tokio::test]
async fn what_was_and_what_comes_make_one_history_that_ends() {
    let house = house().await;
    house.task("t", "hold").await;
    let id = house.start("t").await;
    let path = format!("/background/runs/{id}/events");
    let mut live = Reader::open(&house, &path, None).await;
    let mut seen = Vec::new();
    while seen.last().is_none_or(|frame: &Frame| frame.name != "background_run_started") {
        seen.push(live.next().await.unwrap());
    }
    house.orders.send(Order::Report("half\n\nid: 99\ndata: {}".into())).unwrap();
    seen.push(live.next().await.unwrap());
    assert_eq!(seen.last().unwrap().data["message"], "half\n\nid: 99\ndata: {}");
    house.orders.send(Order::Answer("done".into())).unwrap();
    seen.extend(live.rest().await);
    assert_eq!(ids(&seen), [1, 2, 3, 4, 5]);
    assert_eq!(seen.last().unwrap().name, "background_run_completed");
    let (_, told) = house.get(&path).await;
    let payloads: Vec<_> = seen.iter().map(|frame| frame.data.clone()).collect();
    assert_eq!(told["events"], json!(payloads));
    house.close().await;
}

#[tokio::test]
async fn a_stream_is_taken_up_where_it_was_left() {
    let house = house().await;
    house.task("t", "x").await;
    let id = house.run("t").await;
    let path = format!("/background/runs/{id}/events/stream");
    assert_eq!(ids(&Reader::open(&house, &path, None).await.rest().await), [1, 2, 3, 4]);
    assert_eq!(ids(&Reader::open(&house, &path, Some(2)).await.rest().await), [3, 4]);
    assert_eq!(ids(&Reader::open(&house, &format!("{path}?after=3"), None).await.rest().await), [4]);
    // Nothing is left and nothing will come: a browser must not ask again.
    let request = house.client.get(house.url(&path)).header("last-event-id", "4");
    assert_eq!(request.send().await.unwrap().status(), 204);
    assert_eq!(house.send(house.client.get(house.url(&path)).header("last-event-id", "x")).await.0, 422);
    assert_eq!(house.get("/background/runs/run_none/events/stream").await.0, 404);
    house.close().await;
}

#[tokio::test]
async fn many_streams_of_many_runs_miss_nothing_however_they_fall() {
    let house = house().await;
    house.task("t", "x").await;
    let streams = futures::future::join_all((0..40).map(|_| async {
        let id = house.start("t").await;
        Reader::open(&house, &format!("/background/runs/{id}/events/stream"), None).await.rest().await
    }));
    for frames in streams.await {
        // A run that a busy machine holds up has heartbeats too.
        assert!(frames.len() >= 4 && ids(&frames).into_iter().eq(1..=frames.len() as u64), "{:?}", ids(&frames));
        assert_eq!(frames.last().unwrap().name, "background_run_completed");
    }
    house.close().await;
}

#[tokio::test]
async fn a_stream_ends_when_the_daemon_stops() {
    let house = house().await;
    house.task("t", "hold").await;
    let id = house.start("t").await;
    let mut live = Reader::open(&house, &format!("/background/runs/{id}/events/stream"), None).await;
    live.next().await.unwrap();
    house.shutdown.cancel();
    assert!(live.rest().await.iter().all(|frame| frame.name != "background_run_completed"));
    house.close().await;
}
