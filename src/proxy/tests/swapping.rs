//! New tables under traffic: order, acks and drains.

use super::*;

/// Holds each request until it is told to answer.
struct Gate {
    origin: Origin,
    arrived: Receiver<()>,
    open: crossbeam_channel::Sender<()>,
}

fn gate(name: &'static str) -> Gate {
    let (tell, arrived) = crossbeam_channel::unbounded();
    let (open, opened) = crossbeam_channel::unbounded();
    let origin = Origin::new(move |_| {
        tell.send(()).unwrap();
        opened.recv_timeout(PATIENCE).unwrap();
        ok(name.as_bytes())
    });
    Gate { origin, arrived, open }
}

#[test]
fn acks_every_generation_in_order() {
    let world = World::new();
    let origin = Origin::named("x");
    let generations: Vec<u64> = (0..20).map(|_| world.publish(&[origin.endpoint])).collect();
    assert!(generations.is_sorted_by(|a, b| a < b));
    for generation in generations {
        assert_eq!(world.hear(&Notice::Acked(generation)), []);
    }
}

#[test]
fn an_endpoint_that_never_had_traffic_is_drained_once() {
    let origin = Origin::named("x");
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    let generation = world.publish(&[]);
    world.hear(&Notice::Acked(generation));
    assert_eq!(world.hear(&Notice::Drained(origin.endpoint.id)), []);
    let generation = world.publish(&[]);
    assert_eq!(world.hear(&Notice::Acked(generation)), [], "said once");
}

#[test]
fn drained_is_said_only_when_the_last_response_is_relayed() {
    let (old, new) = (gate("old"), Origin::named("new"));
    let world = World::serving(Limits::DEFAULT, &[old.origin.endpoint]);
    let (mut first, mut second) = (world.client(), world.client());
    for client in [&mut first, &mut second] {
        client.send(get("/"));
        old.arrived.recv_timeout(PATIENCE).unwrap();
    }
    let generation = world.publish(&[new.endpoint]);
    assert!(!world.hear(&Notice::Acked(generation)).contains(&Notice::Drained(old.origin.endpoint.id)));
    assert_eq!(world.client().get("/").text(), "new");
    old.open.send(()).unwrap();
    // One of them has its answer; the other still holds the endpoint.
    wait_until("one answer", || {
        [&first, &second].iter().any(|c| {
            c.stream.set_nonblocking(true).unwrap();
            let came = c.stream.peek(&mut [0]).is_ok();
            c.stream.set_nonblocking(false).unwrap();
            came
        })
    });
    assert!(world.notices.try_recv().is_err(), "drained too early");
    old.open.send(()).unwrap();
    assert_eq!(world.hear(&Notice::Drained(old.origin.endpoint.id)), []);
    // The clients' connections are theirs, and go on.
    for client in [&mut first, &mut second] {
        assert_eq!(client.read().text(), "old");
        assert_eq!(client.get("/").text(), "new");
    }
}

#[test]
fn what_is_put_back_is_not_drained_until_it_is_removed_again() {
    let (old, new) = (gate("old"), Origin::named("new"));
    let world = World::serving(Limits::DEFAULT, &[old.origin.endpoint]);
    let mut client = world.client();
    client.send(get("/"));
    old.arrived.recv_timeout(PATIENCE).unwrap();
    world.publish(&[new.endpoint]);
    let back = world.publish(&[old.origin.endpoint]);
    world.hear(&Notice::Acked(back));
    old.open.send(()).unwrap();
    assert_eq!(client.read().text(), "old");
    let last = world.publish(&[new.endpoint]);
    // The rollback drained the new one perhaps, never the old.
    let before = world.hear(&Notice::Acked(last));
    assert!(!before.contains(&Notice::Drained(old.origin.endpoint.id)), "{before:?}");
    world.hear(&Notice::Drained(old.origin.endpoint.id));
}

/// Chosen is held, even before there is a connection; and what moves on goes by the newest table.
#[test]
fn an_endpoint_is_not_drained_while_a_connection_to_it_is_tried() {
    let ((at, _filling), next) = (super::failing::full(), Origin::named("next"));
    let hanging = endpoint_at(at);
    let world = World::with(Limits { connect: Duration::from_secs(3), ..Limits::DEFAULT }, 1);
    world.publish(&[hanging]);
    let mut client = world.client();
    client.send(get("/"));
    // One worker takes its clients in order: when the second has its answer, the first has chosen.
    let mut second = world.client();
    second.send("GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n");
    assert_eq!(second.read().status, 404);
    let generation = world.publish(&[next.endpoint]);
    let before = world.hear(&Notice::Acked(generation));
    assert!(!before.contains(&Notice::Drained(hanging.id)), "drained while held");
    assert_eq!(client.read().text(), "next");
    world.hear(&Notice::Drained(hanging.id));
}

#[test]
fn idle_links_to_a_removed_endpoint_are_closed() {
    let (ended, heard) = crossbeam_channel::bounded(1);
    let origin = Origin::raw(move |mut stream| {
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        read_request(&mut reader).unwrap();
        stream.write_all(&ok(b"x")).unwrap();
        ended.send(reader.read(&mut [0]).unwrap()).unwrap();
    });
    let world = World::serving(Limits::DEFAULT, &[origin.endpoint]);
    world.client().get("/");
    world.publish(&[]);
    assert_eq!(heard.recv_timeout(PATIENCE), Ok(0));
}

#[test]
fn a_new_table_does_not_begin_the_round_anew() {
    let (a, b) = (Origin::named("a"), Origin::named("b"));
    let world = World::with(Limits::DEFAULT, 1);
    let mut got = String::new();
    for _ in 0..6 {
        world.publish(&[a.endpoint, b.endpoint]);
        got += world.client().get("/").text();
    }
    assert!(["ababab", "bababa"].contains(&got.as_str()), "{got}");
}

const CHUNKED_POST: &str =
    "POST / HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";

/// Steady traffic of all sorts over many swaps: nothing fails, and after the first response of a new version no
/// connection sees the old one.
#[test]
fn swaps_under_traffic_lose_nothing_and_never_flip_back() {
    const SWAPS: usize = 25;
    let world = Arc::new(World::with(Limits::DEFAULT, 3));
    let version = |n: usize| Origin::new(move |seen| ok(format!("{n} {}", seen.body.len()).as_bytes()));
    let mut serving = version(0);
    world.publish(&[serving.endpoint]);
    // The newest version anybody has seen: a request sent after that must not get an older one.
    let newest = Arc::new(AtomicUsize::new(0));
    let (done, requests) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = (0..6)
        .map(|i| {
            let (world, newest, done, requests) = (world.clone(), newest.clone(), done.clone(), requests.clone());
            std::thread::spawn(move || {
                let mut client = world.client();
                let mut n = i;
                while !done.load(Ordering::SeqCst) {
                    n += 1;
                    let body = "b".repeat(n % 50);
                    let (request, count) = match n % 4 {
                        0 => (
                            format!(
                                "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n{body}",
                                body.len()
                            ),
                            1,
                        ),
                        1 => (CHUNKED_POST.to_string(), 1),
                        2 => (get("/") + &get("/"), 2),
                        _ => (get("/"), 1),
                    };
                    if n % 7 == 0 {
                        client = world.client();
                    }
                    let floor = newest.load(Ordering::SeqCst);
                    client.send(request);
                    for _ in 0..count {
                        let answer = client.read();
                        assert_eq!(answer.status, 200, "{}", answer.text());
                        let got: usize = answer.text().split(' ').next().unwrap().parse().unwrap();
                        assert!(got >= floor, "version {got} after {floor}");
                        newest.fetch_max(got, Ordering::SeqCst);
                        requests.fetch_add(1, Ordering::SeqCst);
                    }
                }
            })
        })
        .collect();
    for n in 1..=SWAPS {
        let before = requests.load(Ordering::SeqCst);
        wait_until("traffic", || {
            requests.load(Ordering::SeqCst) > before + 40 || clients.iter().any(|c| c.is_finished())
        });
        let next = version(n);
        world.publish(&[next.endpoint]);
        let old = std::mem::replace(&mut serving, next);
        let said = world.hear(&Notice::Drained(old.endpoint.id));
        assert!(!said.iter().any(|n| matches!(n, Notice::Drained(_) | Notice::Failed(_))), "{said:?}");
        drop(old); // gone at once, as an app would be
    }
    done.store(true, Ordering::SeqCst);
    clients.into_iter().for_each(|c| c.join().unwrap());
    assert_eq!(newest.load(Ordering::SeqCst), SWAPS);
}
