//! What a request costs, in what can be counted: calls to the kernel and to the allocator. Time is measured elsewhere.

use super::*;

const REQUESTS: u64 = 200;

impl World {
    /// Calls on streams and allocations of all workers so far.
    fn costs(&self) -> (u64, u64) {
        let shared = &self.proxy.as_ref().unwrap().shared;
        // The round that has answered is over when the next one is.
        let rounds = shared.rounds.load(Ordering::SeqCst);
        let mut other = self.client();
        wait_until("the answering round is over", || {
            other.get("/");
            shared.rounds.load(Ordering::SeqCst) > rounds + 2
        });
        (shared.calls.load(Ordering::Relaxed), shared.allocations.load(Ordering::Relaxed))
    }
}

/// What `REQUESTS` on a kept connection cost, beyond what measuring costs.
fn costs_of(request: &str) -> (u64, u64) {
    let origin = Origin::named("x");
    let mut world = World::with(Limits::DEFAULT, 1);
    world.publish(&[origin.endpoint]);
    let mut client = world.client();
    let mut ask = |n: u64| {
        for _ in 0..n {
            client.send(request);
            assert_eq!(client.read().text(), "x");
        }
    };
    ask(50); // pools and buffers grow to their size
    let before = world.costs();
    ask(REQUESTS);
    let after = world.costs();
    world.stop(Duration::ZERO);
    (after.0 - before.0, after.1 - before.1)
}

/// A measurement opens a connection and asks a few times, which is all of what is left to chance.
const NOISE: u64 = 60;

#[test]
fn a_request_on_a_kept_connection_takes_two_reads_and_two_writes_and_no_memory() {
    let request = get("/a/path?with=query")
        .replace("\r\n\r\n", "\r\nAccept: text/html, */*\r\nUser-Agent: x\r\nCookie: a=b\r\n\r\n");
    let (calls, allocations) = costs_of(&request);
    assert!((4 * REQUESTS..4 * REQUESTS + NOISE).contains(&calls), "{calls} calls for {REQUESTS} requests");
    assert!(allocations < NOISE, "{allocations} allocations for {REQUESTS} requests");
}

#[test]
fn what_must_not_be_sent_twice_costs_one_look_at_the_link() {
    let request = "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: 3\r\n\r\nabc";
    let (calls, allocations) = costs_of(request);
    assert!((5 * REQUESTS..5 * REQUESTS + NOISE).contains(&calls), "{calls} calls for {REQUESTS} requests");
    assert!(allocations < NOISE, "{allocations} allocations for {REQUESTS} requests");
}
