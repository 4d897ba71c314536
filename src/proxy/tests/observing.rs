//! What is told of requests: their lines, and the numbers.

use std::net::Shutdown;

use serde_json::Value;

use super::*;
use crate::proxy::counters::{App, Metrics};
use crate::proxy::journal::{self, Inlet};
use crate::proxy::tests::tunnelling::{UPGRADE, echo};

/// A world whose lines can be read.
struct Watched {
    world: World,
    inlet: Inlet,
    lines: Vec<(Option<String>, Value)>,
}

impl Watched {
    fn new(limits: Limits, endpoints: &[Endpoint]) -> Self {
        let (outlet, inlet) = journal::channel();
        let world = World::logging(limits, 2, Some(outlet));
        world.publish(endpoints);
        Watched { world, inlet, lines: Vec::new() }
    }

    /// Waits for the next line: the app it is kept for, and what it says.
    fn line(&mut self) -> (Option<String>, Value) {
        while self.lines.is_empty() {
            let batch = self.inlet.next().expect("the workers live");
            for (app, lines) in batch.parts() {
                for line in std::str::from_utf8(lines).unwrap().lines() {
                    self.lines.push((app.map(ToString::to_string), serde_json::from_str(line).unwrap()));
                }
            }
            self.inlet.give_back(batch);
        }
        self.lines.remove(0)
    }

    fn metrics(&self) -> Metrics {
        self.world.proxy.as_ref().unwrap().metrics()
    }

    fn app(&self) -> App {
        self.metrics().apps["app"].clone()
    }
}

/// These members of a line, as JSON.
fn pick(line: &Value, names: &[&str]) -> String {
    names.iter().map(|name| line[name].to_string()).collect::<Vec<_>>().join(" ")
}

#[test]
fn a_line_tells_a_request_and_its_id_is_the_one_that_both_sides_saw() {
    let origin = Origin::new(|seen| ok(seen.field("x-request-id").unwrap().as_bytes()));
    let mut watched = Watched::new(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = watched.world.client();
    let request = "POST /a%20b?c=\"d\" HTTP/1.1\r\nHost: app.test\r\nUser-Agent: test/1\r\nReferer: http://x/\r\n\
        Content-Length: 5\r\n\r\nhello";
    let began = Instant::now();
    client.send(request);
    let answer = client.read();
    let (app, line) = watched.line();
    // Its end is told after the answer has gone, so perhaps after it was read.
    let took = began.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(app.as_deref(), Some("app"));
    let said = pick(&line, &["app", "method", "host", "path", "protocol", "user_agent", "referer", "peer", "tls"]);
    let expected = r#""app" "POST" "app.test" "/a%20b?c=\"d\"" "HTTP/1.1" "test/1" "http://x/" "127.0.0.1" null"#;
    assert_eq!(said, expected);
    assert_eq!(pick(&line, &["status", "retries", "reused", "reason", "end"]), r#"200 0 false null "done""#);
    assert_eq!(line["endpoint"], origin.endpoint.id.0);
    assert_eq!(line["bytes_in"], request.len());
    assert_eq!(line["bytes_out"], answer.head.len() + answer.body.len());
    let id = line["request_id"].as_str().unwrap();
    assert_eq!((id, id), (answer.text(), answer.field("x-request-id").unwrap()));
    let time = |name: &str| line[name].as_f64().unwrap();
    assert!(time("total_ms") <= took && time("queue_ms") + time("upstream_ms") <= time("total_ms"), "{line}");
    let told: jiff::Timestamp = line["time"].as_str().unwrap().parse().unwrap();
    assert!(told.duration_until(jiff::Timestamp::now()).as_millis().abs() < 20_000, "{line}");

    // The next one goes out on the same link, with an id of the client's.
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nX-Request-Id: mine\r\n\r\n");
    assert_eq!(client.read().field("x-request-id"), Some("mine"));
    assert_eq!(pick(&watched.line().1, &["request_id", "reused"]), r#""mine" true"#);
    assert_eq!((watched.app().opened, watched.app().reused), (1, 1));
}

#[test]
fn an_app_that_names_a_request_itself_is_not_contradicted() {
    let origin = Origin::new(|_| b"HTTP/1.1 200 OK\r\nx-request-id: own\r\nContent-Length: 0\r\n\r\n".to_vec());
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let answer = world.client().get("/");
    assert_eq!(answer.head.to_lowercase().matches("x-request-id").count(), 1, "{}", answer.head);
    assert_eq!(answer.field("x-request-id"), Some("own"));
}

#[test]
fn each_refusal_has_its_line_its_reason_and_its_count() {
    let gone = Nobody::new();
    let silent = Origin::raw(|mut stream| drop(stream.read_to_end(&mut Vec::new())));
    let rude = Origin::raw(|mut stream| {
        read_head(&mut BufReader::new(stream.try_clone().unwrap()));
        let _ = stream.write_all(b"SSH-2.0\r\n\r\n");
    });
    let limits = Limits { response_head: Duration::from_secs(3), ..short() };
    let mut watched = Watched::new(limits, &[]);
    let ask = |watched: &mut Watched, request: &str| {
        let mut client = watched.world.client();
        client.send(request);
        let answer = client.read();
        let (app, line) = watched.line();
        assert_eq!(line["status"], answer.status, "{line}");
        assert_eq!(line["request_id"], answer.field("x-request-id").unwrap(), "{line}");
        assert_eq!(line["bytes_out"], answer.head.len() + answer.body.len(), "{line}");
        (app.unwrap_or("-".into()), pick(&line, &["status", "reason", "end"]))
    };
    let all = |app: &str, said: &str| (app.to_string(), said.to_string());
    assert_eq!(ask(&mut watched, &get("/")), all("app", r#"503 "No healthy backend" "proxy-connect""#));
    watched.world.publish(&[gone.endpoint]);
    assert_eq!(ask(&mut watched, &get("/")), all("app", r#"502 "Bad gateway" "endpoint-connect""#));
    watched.world.publish(&[silent.endpoint]);
    assert_eq!(ask(&mut watched, &get("/")), all("app", r#"504 "Gateway timeout" "timeout-wait""#));
    watched.world.publish(&[rude.endpoint]);
    assert_eq!(ask(&mut watched, &get("/")), all("app", r#"502 "Bad gateway" "endpoint-wait""#));
    watched.world.publish_limited(&[silent.endpoint], 4);
    let long = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 5\r\n\r\n";
    assert_eq!(ask(&mut watched, long), all("app", r#"413 "Request body too large" "proxy-request""#));
    let other = get("/").replace("app.test", "other.test");
    assert_eq!(ask(&mut watched, &other), all("-", r#"404 "Not found" "proxy-request""#));
    let smuggled = get("/").replace("\r\n\r\n", "\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n");
    let why = r#"400 "both Content-Length and Transfer-Encoding" "proxy-request""#;
    assert_eq!(ask(&mut watched, &smuggled), all("-", why));
    assert_eq!(ask(&mut watched, "\u{1}\u{2}\r\n\r\n").0, "-");
    assert_eq!(ask(&mut watched, "GET / HTT"), all("-", r#"408 "Request timeout" "timeout-request""#));

    let metrics = watched.metrics();
    let count = |status: u16, why: &'static str| metrics.answers.get(&(status, why)).copied();
    assert_eq!(count(503, "No healthy backend"), Some(1));
    assert_eq!(count(502, "Bad gateway"), Some(2));
    assert_eq!(count(400, "both Content-Length and Transfer-Encoding"), Some(1));
    assert_eq!(metrics.answers.values().sum::<u64>(), 9, "{:?}", metrics.answers);
    let app = &metrics.apps["app"];
    assert_eq!((app.classes, app.ends), ([0, 0, 0, 0, 1, 4], [0, 0, 2, 1, 2]));
    assert_eq!(app.failures, 1, "bytes that are no answer are one; a limit of ours is none");
    assert_eq!(app.duration.counts.iter().sum::<u64>(), 5);
}

#[test]
fn a_client_that_leaves_is_a_499_or_cut_in_its_response() {
    let origin = Origin::raw(|mut stream| {
        let head = read_head(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        if head.contains("/begin") {
            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").unwrap();
        }
        let _ = stream.read_to_end(&mut Vec::new());
    });
    let limits = Limits { half_closed: Duration::from_millis(50), ..Limits::DEFAULT };
    let mut watched = Watched::new(limits, &[origin.endpoint]);
    let client = {
        let mut client = watched.world.client();
        client.send(get("/wait"));
        client
    };
    wait_until("the endpoint has it", || origin.conns() == 1);
    client.stream.shutdown(Shutdown::Both).unwrap();
    assert_eq!(pick(&watched.line().1, &["status", "bytes_out", "end"]), r#"499 0 "client-wait""#);

    let mut client = watched.world.client();
    client.send(get("/begin"));
    let head = read_head(&mut client.reader).unwrap();
    client.reader.read_exact(&mut [0; 4]).unwrap();
    rustix::net::sockopt::set_socket_linger(&client.stream, Some(Duration::ZERO)).unwrap();
    drop(client);
    let (_, line) = watched.line();
    assert_eq!(pick(&line, &["status", "end"]), r#"200 "client-response""#);
    assert_eq!(line["bytes_out"], head.len() + 4);
    assert_eq!(watched.app().ends, [0, 2, 0, 0, 0]);
}

#[test]
fn an_endpoint_that_breaks_off_is_to_blame() {
    let origin = Origin::raw(|mut stream| {
        read_head(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\npart").unwrap();
    });
    let mut watched = Watched::new(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = watched.world.client();
    client.send(get("/"));
    assert!(client.try_read(false).is_none(), "cut short");
    assert_eq!(pick(&watched.line().1, &["status", "end"]), r#"200 "endpoint-response""#);
    assert_eq!(watched.app().ends, [0, 0, 1, 0, 0]);
}

#[test]
fn a_tunnel_is_counted_while_it_stands_and_told_at_its_end() {
    let origin = echo(b"");
    let mut watched = Watched::new(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = watched.world.client();
    client.send(UPGRADE);
    let head = read_head(&mut client.reader).unwrap();
    wait_until("it is a tunnel", || watched.metrics().tunnels == 1);
    client.send("12345");
    client.reader.read_exact(&mut [0; 5]).unwrap();
    client.stream.shutdown(Shutdown::Write).unwrap();
    client.expect_end();
    let (app, line) = watched.line();
    assert_eq!(app.as_deref(), Some("app"));
    assert_eq!(pick(&line, &["status", "end"]), r#"101 "done""#);
    assert_eq!(line["bytes_in"], UPGRADE.len() + 5);
    assert_eq!(line["bytes_out"], head.len() + 5);
    assert_eq!(watched.metrics().tunnels, 0);
    let app = watched.app();
    assert_eq!((app.classes[1], app.duration.counts.iter().sum::<u64>()), (1, 0));
}

#[test]
fn the_numbers_are_those_of_the_traffic() {
    let (one, other) = (Origin::named("one"), Origin::named("other"));
    let gone = Nobody::new();
    let watched = Watched::new(Limits::DEFAULT, &[one.endpoint, other.endpoint, gone.endpoint]);
    let mut sent = 0;
    let mut got = 0;
    for _ in 0..4 {
        let mut client = watched.world.client();
        for _ in 0..25 {
            let answer = client.get("/");
            assert_eq!(answer.status, 200);
            sent += get("/").len() as u64;
            got += (answer.head.len() + answer.body.len()) as u64;
        }
    }
    wait_until("all are gone", || watched.metrics().connections == 0);
    let (metrics, app) = (watched.metrics(), watched.app());
    assert_eq!((app.classes, app.ends), ([0, 0, 100, 0, 0, 0], [100, 0, 0, 0, 0]));
    assert_eq!((app.bytes_in, app.bytes_out), (sent, got));
    assert_eq!((app.duration.counts.iter().sum::<u64>(), app.upstream.counts.iter().sum::<u64>()), (100, 100));
    assert!(app.upstream.sum_us <= app.duration.sum_us);
    assert!(app.failures >= 30 && app.failures == app.retries, "{app:?}");
    assert_eq!(app.endpoints, 3);
    assert_eq!((metrics.accepted, metrics.lost_lines, metrics.panics), (4, 0, 0));
    assert!(metrics.answers.is_empty(), "{:?}", metrics.answers);
    assert_eq!(metrics.buffered, 0, "nothing is in flight");
}

#[test]
fn an_app_that_leaves_the_table_leaves_the_numbers() {
    let origin = Origin::named("x");
    let watched = Watched::new(Limits::DEFAULT, &[origin.endpoint]);
    assert_eq!(watched.world.client().get("/").status, 200);
    wait_until("it is counted", || watched.app().classes[2] == 1);
    let certs = watched.world.certs.clone();
    watched.world.proxy.as_ref().unwrap().publish(Table {
        entries: vec![],
        upstreams: vec![],
        certs,
        challenges: Arc::default(),
    });
    assert!(watched.metrics().apps.is_empty());
    assert_eq!(watched.metrics().tables, 2);
}

#[test]
fn handshakes_are_counted_by_how_they_went() {
    let origin = Origin::named("x");
    let mut watched = Watched::new(Limits::DEFAULT, &[origin.endpoint]);
    let session = crate::proxy::tls::tests::client(&[&watched.world.certs], "app.test");
    let mut stream = rustls::StreamOwned::new(session, TcpStream::connect(watched.world.https).unwrap());
    stream.write_all(get("/").as_bytes()).unwrap();
    assert!(read_head(&mut BufReader::new(&mut stream)).unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(watched.line().1["tls"], "1.3");
    let mut noise = Client::new(watched.world.https);
    noise.send("GET / HTTP/1.1\r\n\r\n");
    let _ = noise.reader.read_to_end(&mut Vec::new());
    drop(Client::new(watched.world.https));
    let failed = |why: &'static str| watched.metrics().failed_handshakes.get(&(0, why)).copied();
    wait_until("both are counted", || failed("not TLS") == Some(1) && failed("unfinished") == Some(1));
    assert_eq!((watched.metrics().full_handshakes, watched.metrics().resumed_handshakes), (1, 0));
}
