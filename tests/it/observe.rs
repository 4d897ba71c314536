//! What an operator sees of traffic: access logs and metrics, against requests that the test counts itself.

use std::fs;
use std::net::SocketAddr;
use std::path::Path;

use serde_json::{Value, json};

use crate::http::Client;
use crate::sandbox::{Control, HOST, Server, free_port, wait_for};
use crate::server::deploy;

/// The lines of a log, once there are so many.
fn lines(path: &Path, count: usize) -> Vec<Value> {
    wait_for(&format!("{count} lines in {}", path.display()), || {
        let text = fs::read_to_string(path).unwrap_or_default();
        (text.lines().count() >= count).then(|| text.lines().map(|l| serde_json::from_str(l).unwrap()).collect())
    })
}

fn scrape(at: SocketAddr) -> String {
    let answer = Client::plain(at, "localhost").unwrap().get("/metrics").unwrap();
    assert_eq!(answer.status, 200);
    assert!(answer.header("content-type").unwrap().starts_with("text/plain; version=0.0.4"));
    answer.text()
}

/// The value of the one sample that begins so.
fn value(page: &str, sample: &str) -> u64 {
    let found: Vec<&str> = page.lines().filter_map(|l| l.strip_prefix(sample)?.strip_prefix(' ')).collect();
    assert_eq!(found.len(), 1, "{sample} in:\n{page}");
    found[0].parse().unwrap()
}

#[test]
fn every_request_is_told_in_a_file_and_counted() {
    let at = SocketAddr::from(([127, 0, 0, 1], free_port()));
    let server = Server::with(&["--metrics", &at.to_string()]);
    deploy(&server, "v1", "").unwrap();
    let mut plain = Client::plain(server.http, HOST).unwrap();
    let mut secure = Client::tls(server.https, HOST).unwrap();
    for n in 0..3 {
        assert_eq!(plain.get(&format!("/plain?n={n}")).unwrap().status, 200);
    }
    let posted = secure.request("POST", "/secure", Some(b"12345")).unwrap();
    assert_eq!(posted.status, 200);
    assert_eq!(Client::plain(server.http, "nobody.localhost").unwrap().get("/lost").unwrap().status, 404);

    let told = lines(&server.app("shop").join("shared/logs/access.log"), 4);
    let paths: Vec<&str> = told.iter().filter_map(|l| l["path"].as_str()).collect();
    assert_eq!(paths, ["/plain?n=0", "/plain?n=1", "/plain?n=2", "/secure"]);
    let last = &told[3];
    assert_eq!(
        (&last["app"], &last["method"], &last["status"], &last["host"], &last["tls"], &last["end"]),
        (&json!("shop"), &json!("POST"), &json!(200), &json!(HOST), &json!("1.3"), &json!("done"))
    );
    assert_eq!(last["request_id"], posted.header("x-request-id").unwrap());
    assert!(last["total_ms"].as_f64() >= last["upstream_ms"].as_f64() && last["upstream_ms"].is_number(), "{last}");
    assert!(told.iter().all(|l| l["peer"] == "127.0.0.1" && l["retries"] == 0), "{told:?}");
    let own = lines(&server.data().join("logs/access.log"), 1);
    assert_eq!(
        (&own[0]["app"], &own[0]["path"], &own[0]["reason"]),
        (&Value::Null, &json!("/lost"), &json!("Not found"))
    );

    let page = scrape(at);
    assert_eq!(value(&page, r#"tako_http_requests_total{app="shop",status="2xx"}"#), 4);
    assert_eq!(value(&page, r#"tako_http_requests_total{app="shop",status="5xx"}"#), 0);
    assert_eq!(value(&page, r#"tako_http_request_ends_total{app="shop",by="done"}"#), 4);
    assert_eq!(value(&page, r#"tako_http_own_answers_total{status="404",reason="Not found"}"#), 1);
    assert_eq!(value(&page, r#"tako_http_request_duration_seconds_count{app="shop"}"#), 4);
    let sum = |name: &str| told.iter().map(|l| l[name].as_u64().unwrap()).sum::<u64>();
    assert_eq!(value(&page, r#"tako_http_request_bytes_total{app="shop"}"#), sum("bytes_in"));
    assert_eq!(value(&page, r#"tako_http_response_bytes_total{app="shop"}"#), sum("bytes_out"));
    assert_eq!(value(&page, r#"tako_endpoints{app="shop"}"#), 1);
    assert_eq!(value(&page, r#"tako_tls_handshakes_total{kind="full"}"#), 1);
    assert_eq!(value(&page, r#"tako_access_lines_lost_total{at="queue"}"#), 0);

    let mut control = Control::open(&server).unwrap();
    control.call(json!({"lock": {"app": "shop", "version": "v1"}})).unwrap();
    control.call(json!({"delete": {"app": "shop"}})).unwrap();
    assert!(!scrape(at).contains("shop"), "an app that is gone is in no label");
    assert!(!server.app("shop").exists());
}

#[test]
fn an_orderly_stop_keeps_the_last_line_and_off_writes_none() {
    let mut server = Server::start();
    let missed = |server: &Server| Client::plain(server.http, "nobody.localhost").unwrap().get("/").unwrap().status;
    assert_eq!(missed(&server), 404);
    assert!(server.shut_down());
    let log = server.data().join("logs/access.log");
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 1);

    server.boot_with(&["--access-log", "off"]);
    assert_eq!(missed(&server), 404);
    assert!(server.shut_down());
    assert_eq!(fs::read_to_string(&log).unwrap().lines().count(), 1, "nothing was added");
}
