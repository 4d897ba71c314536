//! The management socket, as anybody who reaches it could use it.

use serde_json::json;

use crate::sandbox::{Control, Server, wait_for};

#[test]
fn says_hello_first_and_speaks_only_versions_it_knows() {
    let server = Server::start();
    let mut control = Control::connect(&server).unwrap();
    assert_eq!(control.hello["tako"], "hello");
    assert!(control.hello["protocol"]["min"].as_u64().unwrap() <= control.hello["protocol"]["max"].as_u64().unwrap());
    control.send(&json!({"protocol": 999, "client": "9.9", "who": "x@y"}).to_string());
    let fault = control.read().expect("a fault before the end");
    assert_eq!(fault["body"]["fault"]["kind"], "incompatible", "{fault}");
    assert!(control.read().is_none());
}

#[test]
fn broken_and_oversized_lines_end_their_connection_and_nothing_else() {
    let server = Server::start();
    let huge = "x".repeat(3 << 20);
    for bad in ["{", "null", r#"{"request":"info"}"#, r#"{"id":-1,"request":"info"}"#, "\u{0}", &huge] {
        let mut control = Control::open(&server).unwrap();
        control.send(bad);
        if let Some(answer) = control.read() {
            assert_eq!(answer["body"]["fault"]["kind"], "refused", "{answer}");
        }
        assert!(control.read().is_none(), "the connection must end after {:?}", &bad[..bad.len().min(40)]);
    }
    assert!(Control::open(&server).unwrap().call(json!("info")).is_ok());
}

#[test]
fn a_lock_lives_as_long_as_its_connection() {
    let server = Server::start();
    let lock = json!({"lock": {"app": "shop", "version": "v1"}});
    let mut first = Control::open(&server).unwrap();
    first.call(lock.clone()).unwrap();
    first.call(lock.clone()).expect("taking it twice is fine");
    let mut second = Control::open(&server).unwrap();
    let fault = second.call(lock.clone()).unwrap_err();
    assert_eq!(fault["kind"], "busy");
    assert!(fault["message"].as_str().unwrap().contains("test@here"), "{fault}");
    let file = std::fs::read(server.app("shop").join(".deploy_lock")).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&file).unwrap();
    assert_eq!(
        (&told["who"], &told["version"], &told["step"]),
        (&json!("test@here"), &json!("v1"), &json!("uploading"))
    );
    first.vanish();
    wait_for("the lock to be free", || second.call(lock.clone()).ok());
}

#[test]
fn changes_need_the_lock() {
    let server = Server::start();
    let mut control = Control::open(&server).unwrap();
    let artifact = json!({"file": "x.tar.zst", "sha256": "0".repeat(64), "bytes": 1, "unpacked": 1});
    let fault = control.call(json!({"unpack": {"app": "shop", "version": "v1", "artifact": artifact}})).unwrap_err();
    assert_eq!(fault["kind"], "refused", "{fault}");
    assert!(server.releases("shop").is_empty());
}

#[test]
fn an_upload_is_only_ever_taken_from_its_folder() {
    let server = Server::start();
    std::fs::write(server.dir.path().join("outside.tar.zst"), "x").unwrap();
    let mut control = Control::open(&server).unwrap();
    control.call(json!({"lock": {"app": "shop", "version": "v1"}})).unwrap();
    for file in ["../../outside.tar.zst", "/etc/passwd", "..", "", "a/b", "gone.tar.zst"] {
        let artifact = json!({"file": file, "sha256": "0".repeat(64), "bytes": 1, "unpacked": 1});
        let unpack = json!({"unpack": {"app": "shop", "version": "v1", "artifact": artifact}});
        assert!(control.call(unpack).is_err(), "{file}");
    }
    assert!(server.releases("shop").is_empty());
    assert!(server.dir.path().join("outside.tar.zst").exists());
}

#[test]
fn a_request_that_is_not_known_gets_its_fault_and_the_next_one_is_served() {
    let server = Server::start();
    let mut control = Control::open(&server).unwrap();
    for unknown in
        [json!("no_such_verb"), json!({"delete": {"app": "../x"}}), json!({"scale": {"app": "shop"}}), json!(7)]
    {
        let fault = control.call(unknown.clone()).unwrap_err();
        assert_eq!(fault["kind"], "refused", "{unknown}: {fault}");
    }
    assert!(control.call(json!("info")).is_ok());
}
