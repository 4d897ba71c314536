//! The end of the data plane.

use super::*;

#[test]
fn what_is_in_flight_finishes_and_says_close() {
    let (tell, arrived) = crossbeam_channel::bounded(1);
    let (open, opened) = crossbeam_channel::bounded::<()>(1);
    let origin = Origin::new(move |_| {
        tell.send(()).unwrap();
        opened.recv_timeout(PATIENCE).unwrap();
        ok(b"late")
    });
    let mut world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send(get("/"));
    arrived.recv_timeout(PATIENCE).unwrap();
    let reading = std::thread::spawn(move || {
        open.send(()).unwrap();
        let answer = client.read();
        client.expect_end();
        answer
    });
    world.stop(PATIENCE);
    let answer = reading.join().unwrap();
    assert_eq!(answer.text(), "late");
}

#[test]
fn an_idle_connection_is_served_once_more() {
    let origin = Origin::named("x");
    let mut world = World::serving(Limits { stop_idle: PATIENCE, ..Limits::DEFAULT }, &[origin.endpoint]);
    let mut client = world.client();
    assert_eq!(client.get("/").field("connection"), None);
    let stopping = std::thread::spawn(move || {
        let begun = Instant::now();
        world.stop(PATIENCE * 2);
        begun.elapsed()
    });
    // Before the workers hear of it an answer does not say so yet.
    wait_until("the last answer", || client.get("/").field("connection") == Some("close"));
    client.expect_end();
    drop(client);
    assert!(stopping.join().unwrap() < PATIENCE, "with nobody left there is nothing to wait for");
}

#[test]
fn idle_connections_and_the_deadline_end_it() {
    let origin = Origin::raw(|stream| {
        let mut reader = BufReader::new(stream);
        let _ = reader.read_to_end(&mut Vec::new());
    });
    let brief = Duration::from_millis(100);
    let mut world = World::serving(Limits { stop_idle: brief, ..short() }, &[origin.endpoint]);
    let idle = world.client();
    wait_until("it is accepted", || world.proxy.as_ref().unwrap().shared.conns.load(Ordering::SeqCst) == 1);
    let begun = Instant::now();
    world.stop(PATIENCE);
    assert!(begun.elapsed() < PATIENCE / 2, "idle clients do not hold it up");
    drop(idle);

    let mut world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut stuck = world.client();
    stuck.send(get("/"));
    wait_until("it is forwarded", || origin.conns() == 1);
    let begun = Instant::now();
    world.stop(brief);
    assert!(begun.elapsed() < PATIENCE / 2);
    assert!(stuck.try_read(false).is_none());
}

/// HTTP/1.0 knows the end of a body by the close alone, so the close must not look like one.
#[test]
fn rfc9112_8_a_response_cut_by_the_deadline_never_looks_whole() {
    let origin = Origin::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_request(&mut reader).unwrap();
        stream.write_all(b"HTTP/1.1 200 OK\r\n\r\nhalf").unwrap();
        let _ = reader.read(&mut [0]);
    });
    let mut world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let mut client = world.client();
    client.send("GET / HTTP/1.0\r\nHost: app.test\r\n\r\n");
    read_head(&mut client.reader).unwrap();
    world.stop(Duration::from_millis(50));
    let mut rest = Vec::new();
    assert!(client.reader.read_to_end(&mut rest).is_err(), "ended cleanly after {rest:?}");
}

#[test]
fn accepts_nothing_before_the_first_table_and_loses_nothing() {
    let origin = Origin::named("waited");
    let world = World::new();
    let mut early = world.client();
    early.send(get("/"));
    world.publish(&[origin.endpoint]);
    assert_eq!(early.read().text(), "waited");
}
