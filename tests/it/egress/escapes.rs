//! Guests that try to reach what is not theirs.

use super::*;

/// Makes one request under `allow`, wants it refused by `rule` without a byte to the server, and the refusal's TOML to allow it.
async fn refused(http: &str, line: &str, rule: Rule, server: &Server) {
    let stage = Stage::new(http).await;
    let came = stage.run(&format!("O\n{}\n", line.trim_end())).await;
    assert_eq!(came.lines(), [DENIED], "{line}: {:?}", came.calls());
    assert_eq!(came.rules(), [Some(rule)], "{line}");
    assert_eq!((server.seen().len(), server.connections()), (0, 0), "{line}");
    assert_eq!((came.record().total, came.record().refused, came.0.usage.requests_denied), (1, 1, 1), "{line}");
    assert_eq!(stage.effects(), 0, "{line}: what is refused begins nothing");
}

/// The refusal's own lines let the same request through to the address.
async fn mended(stage: &Stage, line: &str) -> Vec<String> {
    let came = stage.run(&format!("O\n{line}\n")).await;
    let toml = came.calls()[0].refused.as_ref().unwrap().toml.clone().unwrap();
    let http = toml.strip_prefix("[agents.fetch.http]\n").unwrap();
    let mended = Stage::new(http).await;
    mended.names.answers("name.test", &[&["127.0.0.1"]]);
    mended.run(&format!("O\n{line}\n")).await.lines().into_iter().map(str::to_owned).collect()
}

#[tokio::test]
async fn what_is_listed_is_reached_and_recorded() {
    let server = Server::start().await;
    let port = server.port();
    let stage = Stage::new(&format!("allow = [\"http://127.0.0.1:{port}\"]")).await;
    let came =
        stage.run(&format!("O\n{}P h 127.0.0.1:{port} /a/b?secret=1 x-own yes 3 r\n", get(&format!("127.0.0.1:{port}"), "/ok"))).await;
    assert_eq!(came.lines(), ["200 hello", "200 hello"]);
    let seen = server.seen();
    assert_eq!((seen[1].method.as_str(), seen[1].path.as_str(), seen[1].body), ("POST", "/a/b?secret=1", 3 * 4096));
    assert_eq!((seen[1].header("host"), seen[1].header("x-own")), (vec![format!("127.0.0.1:{port}").as_str()], vec!["yes"]));
    let calls = came.calls();
    assert_eq!((calls[1].path.as_str(), calls[1].status, calls[1].bytes_in > 5), ("/a/b", Some(200), true));
    assert!(calls[1].bytes_out > 3 * 4096 && calls[1].bytes_out < 3 * 4096 + 500, "{}", calls[1].bytes_out);
    assert_eq!(calls[0].origin, format!("http://127.0.0.1:{port}"));
    assert_eq!(server.connections(), 1, "the second call takes the first one's connection");
    assert_eq!(stage.effects(), 1, "a GET changes nothing outside, a POST may");
    let traces: Vec<Vec<&str>> = seen.iter().map(|seen| seen.header("traceparent")[0].split('-').collect()).collect();
    assert_eq!((traces[0][1], traces[0][1].len(), traces[0][2].len()), (traces[1][1], 32, 16));
    assert_ne!(traces[0][2], traces[1][2], "each call has a span of its own");
}

#[tokio::test]
async fn an_agent_without_a_list_reaches_nobody() {
    let server = Server::start().await;
    refused("", &get(&server.address.to_string(), "/"), Rule::Host, &server).await;
    let stage = Stage::new("").await;
    let lines = mended(&stage, get(&server.address.to_string(), "/").trim_end()).await;
    assert_eq!(lines, ["200 hello"], "the lines of a refusal are the mend");
}

#[tokio::test]
async fn another_host_port_scheme_method_or_path_is_refused() {
    let server = Server::start().await;
    let port = server.port();
    let allow = format!("allow = [{{ url = \"http://127.0.0.1:{port}/in/\", methods = [\"GET\"] }}, \"https://127.0.0.1:{port}/x\"]");
    let allow = allow.as_str();
    let here = format!("127.0.0.1:{port}");
    refused(allow, &get(&format!("127.0.0.2:{port}"), "/in/"), Rule::Host, &server).await;
    refused(allow, &get(&format!("localhost:{port}"), "/in/"), Rule::Host, &server).await;
    refused(allow, &get("127.0.0.1:1", "/in/"), Rule::Port, &server).await;
    refused(allow, &get("127.0.0.1", "/in/"), Rule::Port, &server).await;
    refused(allow, &format!("P h {here} /in/a - - 0 r"), Rule::Method, &server).await;
    refused(allow, &format!("H h {here} /in/a - - 0 r"), Rule::Method, &server).await;
    refused(&format!("allow = [\"http://{here}\"]"), &format!("G s {here} / - - 0 r"), Rule::Scheme, &server).await;
    refused(&format!("allow = [\"http://{here}\"]"), &format!("C h {here} / - - 0 r"), Rule::Url, &server).await;
    for path in [
        "/",
        "/in",
        "/out",
        "/in/../out",
        "/in/%2e%2e/out",
        "/in/.%2E/out",
        "//in/a",
        "/in/..%2fout",
        "/in/..%5cout",
        "/in/%252e%252e/out",
        "/in/..;/out",
        "/in/x/../../out",
    ] {
        refused(allow, &get(&here, path), Rule::Path, &server).await;
    }
    let stage = Stage::new(allow).await;
    assert_eq!(stage.run(&format!("O\n{}", get(&here, "/in/./a//b?../c"))).await.lines(), ["200 hello"]);
    assert_eq!(server.seen()[0].path, "/in/a//b?../c");
    assert_eq!(mended(&stage, &format!("P h {here} /in/a - - 0 r")).await, ["200 hello"]);
    assert_eq!(mended(&stage, &format!("G h {here} /out - - 0 r")).await, ["200 hello"]);
}

#[tokio::test]
async fn a_redirect_leads_nowhere_that_is_not_listed() {
    let (here, elsewhere) = (Server::start().await, Server::start().await);
    let stage = Stage::new(&format!("allow = [\"http://{}\"]", here.address)).await;
    let to = format!("/to/http://{}/x", elsewhere.address);
    let came = stage.run(&format!("O\n{}{}", get(&here.address.to_string(), &to), get(&elsewhere.address.to_string(), "/x"))).await;
    assert_eq!(came.lines(), ["302 hello", DENIED], "the guest gets the redirect itself and may not follow it");
    assert_eq!((here.seen().len(), elsewhere.connections()), (1, 0));
    assert_eq!(came.rules(), [None, Some(Rule::Port)]);
}

#[tokio::test]
async fn a_name_that_stands_for_an_address_inside_is_refused() {
    let server = Server::start().await;
    let line = get(&format!("name.test:{}", server.port()), "/");
    for inside in [
        "127.0.0.1",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
        "172.16.0.1",
        "100.64.0.1",
        "0.0.0.0",
        "224.0.0.1",
        "::1",
        "::",
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
        "64:ff9b::7f00:1",
        "2002:7f00:1::",
        "fd00:ec2::254",
        "fe80::1",
        "ff02::1",
    ] {
        let stage = Stage::new(&format!("allow = [\"http://name.test:{}\"]", server.port())).await;
        stage.names.answers("name.test", &[&[inside]]);
        let came = stage.run(&format!("O\n{line}")).await;
        assert_eq!((came.lines(), came.rules()), (vec![DENIED], vec![Some(Rule::Address)]), "{inside}");
        let refusal = came.calls()[0].refused.clone().unwrap();
        assert!(refusal.toml.unwrap().contains("addresses = ["), "{inside}");
        assert!(refusal.sentence.contains("name.test"), "{}", refusal.sentence);
    }
    assert_eq!(server.connections(), 0);
    let stage = Stage::new(&format!("allow = [\"http://name.test:{}\"]", server.port())).await;
    stage.names.answers("name.test", &[&["127.0.0.1"]]);
    assert_eq!(mended(&stage, line.trim_end()).await, ["200 hello"], "listing the address lets it through");
}

#[tokio::test]
async fn a_name_that_changes_its_address_is_judged_at_every_connection() {
    let server = Server::start().await;
    let allow = format!("allow = [{{ url = \"http://name.test:{}\", addresses = [\"127.0.0.1\"] }}]\nmax_seconds = 3", server.port());
    let stage = Stage::new(&allow).await;
    // Another address of this machine, at which the server would answer as well.
    stage.names.answers("name.test", &[&["127.0.0.2"], &["169.254.169.254", "127.0.0.1"], &["127.0.0.2"]]);
    let line = get(&format!("name.test:{}", server.port()), "/");
    let came = stage.run(&format!("O\n{line}{line}")).await;
    assert_eq!(came.lines(), [DENIED, "200 hello"], "of two addresses the one that may be is taken");
    assert_eq!((came.rules(), server.connections()), (vec![Some(Rule::Address), None], 1));
    // In turn inside, at new connections.
    let other = Stage::new(&allow).await;
    other.names.answers("name.test", &[&["169.254.169.254"], &["127.0.0.2"], &["10.0.0.1"], &["127.0.0.2"]]);
    let came = other.run(&format!("O\n{}", line.repeat(4))).await;
    assert_eq!(came.lines(), [DENIED; 4]);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn a_connection_of_one_agent_s_rights_serves_no_other() {
    let server = Server::start().await;
    let url = format!("http://name.test:{}", server.port());
    let granted = format!("allow = [{{ url = \"{url}\", addresses = [\"127.0.0.0/8\"] }}]");
    let names = Arc::<Names>::default();
    names.answers("name.test", &[&["127.0.0.1"]]);
    let gateway = Gateway::with_lookup(tokio::runtime::Handle::current(), Arc::new(SystemClock), Arc::<Names>::clone(&names));
    let line = get(&format!("name.test:{}", server.port()), "/");
    let mut stages = Vec::new();
    for http in [&granted, &format!("allow = [\"{url}\"]")] {
        let mut stage = Stage::new(http).await;
        stage.foreground = stage.foreground.with_gateway(Arc::clone(&gateway));
        stages.push(stage);
    }
    assert_eq!(stages[0].run(&format!("O\n{line}")).await.lines(), ["200 hello"]);
    assert_eq!(stages[1].run(&format!("O\n{line}")).await.lines(), [DENIED], "the open connection is not its own");
    assert_eq!(stages[0].run(&format!("O\n{line}")).await.lines(), ["200 hello"]);
    assert_eq!(server.connections(), 1);
}

#[tokio::test]
async fn odd_spellings_of_an_address_are_the_address_or_nothing() {
    let server = Server::start().await;
    let port = server.port();
    let allow = format!("allow = [\"http://name.test:{port}\", \"http://93.184.215.14:{port}\"]");
    for host in ["2130706433", "0x7f000001", "0177.0.0.1", "127.1", "[::ffff:127.0.0.1]", "[::ffff:7f00:1]", "[::1]", "0", "127.0.0.1."] {
        refused(&allow, &get(&format!("{host}:{port}"), "/"), Rule::Host, &server).await;
    }
    let stage = Stage::new(&format!("allow = [\"http://127.0.0.1:{port}\"]")).await;
    assert_eq!(stage.run(&format!("O\n{}", get(&format!("2130706433:{port}"), "/"))).await.lines(), ["200 hello"]);
}

#[tokio::test]
async fn user_info_in_a_url_is_refused() {
    let server = Server::start().await;
    let here = server.address.to_string();
    let allow = format!("allow = [\"http://{here}\"]");
    for authority in [format!("user:hunter2@{here}"), format!("name.test@{here}"), format!("@{here}"), format!("{here}@name.test")] {
        let stage = Stage::new(&allow).await;
        let came = stage.run(&format!("O\n{}", get(&authority, "/"))).await;
        let line = came.lines()[0];
        assert!(line.starts_with('E'), "{authority}: {line}");
        let record = serde_json::to_string(came.record()).unwrap();
        assert!(!record.contains("hunter2"), "{record}");
    }
    assert_eq!(server.connections(), 0);
}

#[tokio::test]
async fn a_host_header_that_lies_reaches_nobody() {
    let server = Server::start().await;
    let here = server.address.to_string();
    let stage = Stage::new(&format!("allow = [\"http://{here}\"]")).await;
    for (name, told) in [("host", "H1 200 hello"), ("Host", "H1 200 hello"), ("connection", "H1 200 hello"), ("te", "200 hello")] {
        let came = stage.run(&format!("O\nG h {here} / {name} evil.test 0 r\n")).await;
        assert_eq!(came.lines(), [told], "{name}");
    }
    for name in ["x-forwarded-host", "X-Forwarded-Any", "x-http-method-override", "x-original-url", "traceparent", "forwarded", "expect"] {
        assert_eq!(stage.run(&format!("O\nG h {here} / {name} evil.test 0 r\n")).await.lines(), ["200 hello"], "{name}");
    }
    for seen in server.seen() {
        assert_eq!(seen.header("host"), [here.as_str()]);
        assert!(!seen.headers.iter().any(|(_, value)| value.contains("evil")), "{seen:?}");
    }
}

#[tokio::test]
async fn a_path_that_is_a_url_asks_no_other_host() {
    let (here, elsewhere) = (Server::start().await, Server::start().await);
    let stage = Stage::new(&format!("allow = [\"http://{}\"]", here.address)).await;
    let path = format!("http://{}/x", elsewhere.address);
    let came = stage.run(&format!("O\n{}", get(&here.address.to_string(), &path))).await;
    assert_eq!(came.lines(), ["E902"], "it is no path");
    assert_eq!(elsewhere.connections(), 0);
}

#[tokio::test]
async fn nothing_leaves_under_a_lost_lease_or_after_a_stop() {
    let server = Server::start().await;
    let here = server.address.to_string();
    let allow = format!("allow = [\"http://{here}\"]");
    let stage = Stage::new(&allow).await;
    stage.host.is_lost.store(true, std::sync::atomic::Ordering::SeqCst);
    let came = stage.run(&format!("O\nP h {here} / - - 0 r\nG h {here} / - - 0 r\n")).await;
    assert_eq!((came.lines(), came.rules()), (vec![DENIED, "200 hello"], vec![Some(Rule::Lease), None]));
    assert_eq!(server.seen().iter().map(|seen| seen.method.as_str()).collect::<Vec<_>>(), ["GET"]);
    let stage = Stage::new(&allow).await;
    stage.signals.set_lease_end(1);
    let came = stage.run(&format!("O\n{}", get(&here, "/"))).await;
    assert!(matches!(came.0.ended, Ended::Stopped(sandclock::sandbox::Stop::LeaseLost)), "{:?}", came.0.ended);
    assert_eq!(server.seen().len(), 1);
}

#[tokio::test]
async fn a_failure_after_a_refusal_is_told_as_such() {
    let server = Server::start().await;
    let stage = Stage::new("allow = [\"https://api.example.com\"]").await;
    for (how, says) in [("P", "it says: E15"), ("T", "the guest trapped")] {
        let came = stage.run(&format!("{how}\n{}", get(&server.address.to_string(), "/x?key=1"))).await;
        let (kind, message) = came.failure();
        assert_eq!(kind, ErrorKind::EgressDenied);
        let origin = format!("GET http://{}/x: `[agents.fetch.http]` does not list `127.0.0.1`; ", server.address);
        assert!(message.contains(&origin) && message.contains(says) && !message.contains("key=1"), "{message}");
    }
    let dead = { Server::start().await.address };
    let stage = Stage::new(&format!("allow = [\"http://{dead}\"]")).await;
    let came = stage.run(&format!("P\n{}", get(&dead.to_string(), "/"))).await;
    assert_eq!(came.failure(), (ErrorKind::GuestPermanent, "E6\n"), "a host that is down is no refusal");
    assert!(came.calls()[0].failed.as_ref().unwrap().contains("refused"), "{:?}", came.calls());
}
