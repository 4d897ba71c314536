//! Memory: what waits for peers is bounded, and to reach the bound is to wait, not to fail.

use super::*;

const MEMORY: usize = 1 << 20;
/// What the last one to be let through may add: both directions of one turn, grown to the next power of two.
const BEYOND: usize = 256 << 10;

/// `/small` is small; everything else goes on for as long as the client reads.
fn origin() -> Origin {
    Origin::raw(|mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        while let Some(head) = read_head(&mut reader) {
            if head.starts_with("GET /small") {
                if stream.write_all(&ok(b"small")).is_err() {
                    return;
                }
                continue;
            }
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n");
            while stream.write_all(&[7; 64 << 10]).is_ok() {}
            return;
        }
    })
}

/// Follows what waits until `until`; the most there was.
fn most(world: &World, what: &str, mut until: impl FnMut() -> bool) -> usize {
    let mut most = 0;
    wait_until(what, || {
        most = most.max(world.bytes_waiting());
        until()
    });
    most
}

#[test]
fn many_slow_readers_pin_what_is_allowed_and_no_more() {
    let origin = origin();
    let patient = Duration::from_secs(2);
    let limits = Limits { memory: MEMORY, pace: PATIENCE, pace_when_short: patient, ..Limits::DEFAULT };
    let world = World::with(limits, 1);
    world.publish(&[origin.endpoint]);
    let mut slow: Vec<Client> = (0..100).map(|_| world.client()).collect();
    for client in &mut slow {
        client.send(get("/endless"));
    }
    // A hundred times what each may pin would be several times as much.
    let peak = most(&world, "memory is short", || world.bytes_waiting() >= MEMORY / 8 * 7);
    let mut good = world.client();
    good.send(get("/small"));
    let (tell, told) = crossbeam_channel::bounded(1);
    std::thread::spawn(move || tell.send(good.read().status));
    // It waits until those who do not read have had their time, and is served.
    let peak = peak.max(most(&world, "the good one is served", || told.try_recv().is_ok_and(|status| status == 200)));
    assert!(peak < MEMORY + BEYOND, "{peak}");
    drop(slow);
    wait_until("all is given back", || world.bytes_waiting() == 0);
}

#[test]
fn heads_that_drip_in_wait_for_memory_and_are_served() {
    let origin = origin();
    let world = World::with(Limits { memory: MEMORY, head: PATIENCE, ..Limits::DEFAULT }, 1);
    world.publish(&[origin.endpoint]);
    let mut clients: Vec<Client> = (0..200).map(|_| world.client()).collect();
    let request = get("/small");
    let (first, rest) = request.split_at(20);
    for client in &mut clients {
        client.send(first);
    }
    let peak = most(&world, "memory is exhausted", || world.bytes_waiting() >= MEMORY && world.conns() == [200]);
    // These have said all they have to say, so nothing but the memory that comes back can wake them.
    let mut whole: Vec<Client> = (0..20).map(|_| world.client()).collect();
    for client in &mut whole {
        client.send(&request);
    }
    wait_until("they are in", || world.conns() == [220]);
    for client in &mut clients {
        client.send(rest);
    }
    for client in clients.iter_mut().chain(&mut whole) {
        assert_eq!(client.read().status, 200);
    }
    let peak = peak.max(world.bytes_waiting());
    assert!(peak < MEMORY + BEYOND, "{peak}");
    wait_until("all is given back", || world.bytes_waiting() == 0);
}

#[test]
fn a_big_head_leaves_nothing_behind() {
    let origin = origin();
    let world = World::with(Limits::DEFAULT, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    let big = get("/small").replace("\r\n\r\n", &format!("\r\nCookie: {}\r\n\r\n", "x".repeat(12 << 10)));
    let (first, rest) = big.split_at(12 << 10);
    client.send(first);
    wait_until("it waits", || world.bytes_waiting() > 0);
    client.send(rest);
    assert_eq!(client.read().status, 200);
    wait_until("an idle connection holds nothing", || world.bytes_waiting() == 0);
}
