//! Out of descriptors. The limit is the process's, so each test runs itself again in a process of its own.

use std::fs::File;
use std::process::Command;

use rustix::process::{Resource, Rlimit, setrlimit};

use super::*;

const INSIDE: &str = "TAKO_TEST_FEW_DESCRIPTORS";

/// True in the process where descriptors are few; elsewhere runs the test `name` there and reports how it went.
fn inside(name: &str) -> bool {
    if std::env::var_os(INSIDE).is_some() {
        let few = Rlimit { current: Some(256), maximum: Some(256) };
        setrlimit(Resource::Nofile, few).unwrap();
        return true;
    }
    let name = format!("proxy::tests::starving::{name}");
    let tests = std::env::current_exe().unwrap();
    let output = Command::new(tests).args(["--exact", &name, "--nocapture"]).env(INSIDE, "1").output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && said.contains("1 passed"), "{said}{}", String::from_utf8_lossy(&output.stderr));
    false
}

/// Takes every descriptor there is.
fn take_all() -> Vec<File> {
    std::iter::from_fn(|| File::open("/dev/null").ok()).collect()
}

#[test]
fn a_client_waits_in_the_queue_until_there_is_a_descriptor() {
    if !inside("a_client_waits_in_the_queue_until_there_is_a_descriptor") {
        return;
    }
    let world = World::serving(Limits { sweep: Duration::from_millis(50), ..Limits::DEFAULT }, &[]);
    let mut taken = take_all();
    taken.pop(); // for the client
    let mut stream = TcpStream::connect(world.http).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.write_all(get("/").as_bytes()).unwrap();
    let rounds = || world.proxy.as_ref().unwrap().shared.rounds.load(Ordering::SeqCst);
    let (begun, before) = (Instant::now(), rounds());
    std::thread::park_timeout(Duration::from_millis(500));
    wait_until("it does not give up", || rounds() - before >= 2);
    let (passed, sweeps) = (rounds() - before, begun.elapsed().as_millis() as u64 / 50);
    assert!(passed < sweeps * 8, "nor does it spin: {passed} rounds");
    drop(taken);
    let mut reader = BufReader::new(stream);
    assert!(read_head(&mut reader).unwrap().starts_with("HTTP/1.1 503 "), "no endpoint, but an answer");
}

#[test]
fn a_request_without_a_descriptor_for_its_link_is_told_to_come_again() {
    if !inside("a_request_without_a_descriptor_for_its_link_is_told_to_come_again") {
        return;
    }
    let origin = Origin::named("x");
    let world = World::with(Limits { link_idle: Duration::ZERO, ..Limits::DEFAULT }, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    assert_eq!(client.get("/").status, 200);
    let generation = world.publish(&[]);
    world.hear(&Notice::Acked(generation)); // which closes the link
    world.publish(&[origin.endpoint]);
    let taken = take_all();
    let answer = client.get("/");
    assert_eq!((answer.status, answer.field("retry-after")), (503, Some("1")));
    drop(taken);
    assert_eq!(client.get("/").text(), "x");
    while let Ok(notice) = world.notices.try_recv() {
        assert!(!matches!(notice, Notice::Failed(_)), "the endpoint has no part in it");
    }
}

#[test]
fn idle_links_give_their_descriptors_to_those_in_need() {
    if !inside("idle_links_give_their_descriptors_to_those_in_need") {
        return;
    }
    let first = Origin::named("first");
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let second = endpoint_at(listener.local_addr().unwrap());
    let world = World::with(Limits::DEFAULT, 1);
    world.publish(&[first.endpoint]);
    let mut client = world.client();
    assert_eq!(client.get("/").text(), "first");
    // The link to the first stays idle while the next request needs one to the second.
    world.publish(&[first.endpoint, second]);
    let taken = take_all();
    client.send(get("/"));
    client.stream.set_read_timeout(Some(Duration::from_millis(300))).unwrap();
    assert!(client.reader.fill_buf().is_err(), "no answer yet, and none of our own");
    client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    drop(taken);
    let (mut stream, _) = listener.accept().unwrap();
    read_request(&mut BufReader::new(stream.try_clone().unwrap())).unwrap();
    stream.write_all(&ok(b"second")).unwrap();
    assert_eq!(client.read().text(), "second");
}

#[test]
fn idle_clients_give_their_descriptors_to_those_who_come() {
    if !inside("idle_clients_give_their_descriptors_to_those_who_come") {
        return;
    }
    let world = World::with(Limits { sweep: PATIENCE, ..Limits::DEFAULT }, 1);
    world.publish(&[]);
    let mut idle: Vec<Client> = (0..8).map(|_| world.client()).collect();
    for client in &mut idle {
        assert_eq!(client.get("/").status, 503);
    }
    let mut taken = take_all();
    drop(taken.drain(..2)); // for a client with its two handles
    let mut late = world.client();
    assert_eq!(late.get("/").status, 503, "it is let in at once, not at the next sweep");
    idle[0].expect_end();
}
