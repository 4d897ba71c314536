//! Many connections: from one address, in all, and on the workers.

use std::net::Shutdown;

use super::*;

fn served(world: &World) -> Client {
    let mut client = world.client();
    assert_eq!(client.get("/").status, 200);
    client
}

#[test]
fn who_comes_too_often_from_one_address_is_told_to_come_again() {
    let origin = Origin::named("x");
    let world = World::with(Limits { conns_per_forwarder: 4, linger: PATIENCE, ..Limits::DEFAULT }, 1);
    world.publish(&[origin.endpoint]);
    let mut inside: Vec<Client> = (0..4).map(|_| served(&world)).collect();
    for _ in 0..3 {
        let mut client = world.client();
        client.send(get("/"));
        let answer = client.read();
        let said = (answer.status, answer.field("retry-after"), answer.field("connection"));
        assert_eq!(said, (429, Some("1"), Some("close")));
        client.expect_end();
    }
    // Over TLS a word would cost a handshake: it is done without.
    let mut secure = Client::new(world.https);
    assert!(matches!(secure.reader.read(&mut [0]), Ok(0) | Err(_)));
    assert_eq!(inside[3].get("/").status, 200, "those inside are not disturbed");
    inside.pop();
    wait_until("the place is free", || {
        let mut client = world.client();
        client.send(get("/"));
        client.read().status == 200
    });
}

#[test]
fn being_turned_away_is_not_counted_and_does_not_pile_up() {
    let origin = Origin::named("x");
    let world = World::with(Limits { conns_per_forwarder: 1, linger: PATIENCE, ..Limits::DEFAULT }, 1);
    world.publish(&[origin.endpoint]);
    let inside = served(&world);
    // These do not close, so those that got a word linger.
    let outside: Vec<Client> = (0..200).map(|_| world.client()).collect();
    let cut = |client: &Client| {
        client.stream.set_nonblocking(true).unwrap();
        let peeked = client.stream.peek(&mut [0]);
        client.stream.set_nonblocking(false).unwrap();
        !matches!(peeked, Err(e) if e.kind() == std::io::ErrorKind::WouldBlock)
    };
    wait_until("all are told", || outside.iter().all(cut));
    assert!(world.conns()[0] <= 1 + 64, "{:?}", world.conns());
    drop((inside, outside));
    wait_until("all are gone", || world.conns() == [0]);
    served(&world);
}

#[test]
fn room_is_made_by_closing_the_longest_idle() {
    let origin = Origin::named("x");
    let world = World::with(Limits { conns: 16, idle_when_busy: PATIENCE, ..Limits::DEFAULT }, 1);
    world.publish(&[origin.endpoint]);
    // Half of them later than the others, by more than the clock's millisecond.
    let mut early: Vec<Client> = (0..8).map(|_| served(&world)).collect();
    std::thread::park_timeout(Duration::from_millis(20));
    let mut late: Vec<Client> = (0..12).map(|_| served(&world)).collect();
    let gone = early.iter_mut().filter_map(|client| {
        client.stream.set_nonblocking(true).unwrap();
        client.reader.fill_buf().ok()
    });
    assert!(gone.count() >= 4, "the first ones had to go");
    for client in &mut late {
        assert_eq!(client.get("/").status, 200, "whoever was served last is not disturbed");
    }
}

#[test]
fn when_most_are_taken_who_was_idle_before_leaves_early_too() {
    let origin = Origin::named("x");
    let limits = Limits { conns: 20, idle_when_busy: Duration::from_millis(50), ..Limits::DEFAULT };
    let world = World::with(Limits { sweep: Duration::from_millis(20), ..limits }, 1);
    world.publish(&[origin.endpoint]);
    let mut early: Vec<Client> = (0..16).map(|_| served(&world)).collect();
    std::thread::park_timeout(Duration::from_millis(200));
    assert_eq!(world.conns(), [16], "four fifths are not most");
    // That it comes is enough: it may be so slow to ask that it has to leave as well.
    let _one_more = world.client();
    early[0].expect_end();
    wait_until("they leave", || world.conns()[0] <= 16);
}

#[test]
fn nobody_leaves_in_the_middle_of_a_request_and_who_comes_waits() {
    let (open, opened) = crossbeam_channel::unbounded::<()>();
    let origin = Origin::new(move |_| {
        opened.recv_timeout(PATIENCE).unwrap();
        ok(b"x")
    });
    let limits = Limits { conns: 16, sweep: Duration::from_millis(20), idle_when_busy: PATIENCE, ..Limits::DEFAULT };
    let world = World::with(limits, 1);
    world.publish(&[origin.endpoint]);
    let asks = |_| {
        let mut client = world.client();
        client.send(get("/"));
        client
    };
    let mut busy: Vec<Client> = (0..16).map(asks).collect();
    wait_until("all are with the endpoint", || origin.conns() == 16);
    // One more than the limit: that it is reached is seen when somebody comes.
    busy.push(asks(16));
    wait_until("all are in", || world.conns() == [17]);
    let mut late = world.client();
    late.send(get("/"));
    late.stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
    assert!(late.reader.fill_buf().is_err(), "it is in the queue");
    late.stream.set_read_timeout(Some(PATIENCE)).unwrap();
    // Those that were served are idle now, so they make room, though nobody closed.
    (0..18).for_each(|_| open.send(()).unwrap());
    for client in &mut busy {
        assert_eq!(client.read().status, 200);
    }
    assert_eq!(late.read().status, 200);
}

#[test]
fn connections_that_stay_are_spread_over_the_workers() {
    let origin = Origin::named("x");
    let world = World::with(Limits::DEFAULT, 2);
    world.publish(&[origin.endpoint]);
    let _clients: Vec<Client> = (0..64).map(|_| served(&world)).collect();
    wait_until("all are counted", || world.conns().iter().sum::<usize>() == 64);
    // A difference of eight is left alone; a burst may add some.
    assert!(world.conns().iter().all(|n| *n >= 20), "{:?}", world.conns());
}

#[test]
fn a_stop_loses_no_connection_on_its_way_between_workers() {
    for _ in 0..10 {
        let origin = Origin::named("x");
        // However long it takes a client to ask after it was let in, it is not for being idle that it goes.
        let patient = Limits { stop_idle: PATIENCE, half_closed: PATIENCE, ..Limits::DEFAULT };
        let mut world = World::with(patient, 4);
        world.publish(&[origin.endpoint]);
        let http = world.http;
        let coming = std::thread::spawn(move || {
            let mut clients: Vec<Client> = (0..100).map(|_| Client::new(http)).collect();
            for client in &mut clients {
                client.send(get("/"));
                // And nothing else, so that none is waited for once it has its answer.
                client.stream.shutdown(Shutdown::Write).unwrap();
            }
            clients
        });
        // Not how many are in at a time: where all is slow they go one by one.
        wait_until("some were let in", || world.proxy.as_ref().unwrap().metrics().accepted > 30);
        world.stop(PATIENCE);
        let clients = coming.join().unwrap();
        // What is in the kernel's queue is for a successor; all else was let in, so it was answered.
        let queued = std::iter::from_fn(|| world.listener.accept().ok()).count();
        let answers = clients.into_iter().filter_map(|mut client| client.try_read(false));
        let answered = answers.inspect(|answer| assert_eq!(answer.status, 200)).count();
        assert_eq!(answered + queued, 100);
    }
}
