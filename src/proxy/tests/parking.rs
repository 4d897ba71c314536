//! Requests that wait while their app wakes.

use super::securing::ask;
use super::*;

const ON_DEMAND: Standing = Standing::OnDemand { patience: PATIENCE };

impl World {
    fn publish_standing(&self, standing: Standing, endpoints: &[Endpoint]) -> u64 {
        let endpoints = endpoints.to_vec();
        let (name, body_limit) = ("app".into(), 64 << 20);
        self.publish_upstream(Upstream { name, endpoints, standing, body_limit, assets: vec![] })
    }

    fn sleeping(limits: Limits, workers: usize) -> Self {
        let world = World::with(limits, workers);
        world.publish_standing(ON_DEMAND, &[]);
        world
    }

    /// How many requests wait.
    fn parked(&self) -> usize {
        let index = self.proxy.as_ref().unwrap().shared.newest().unwrap();
        index.lasting[0].waiting.load(Ordering::SeqCst)
    }

    fn wait_for_parked(&self, n: usize) {
        wait_until(&format!("{n} wait"), || self.parked() == n);
    }

    /// A client whose request waits.
    fn waiting(&self, request: &str) -> Client {
        let (mut client, before) = (self.client(), self.parked());
        client.send(request);
        self.wait_for_parked(before + 1);
        client
    }

    fn wakes(&self) -> usize {
        self.notices.try_iter().filter(|notice| matches!(notice, Notice::Wake(name) if &**name == "app")).count()
    }

    fn rounds(&self) -> u64 {
        self.proxy.as_ref().unwrap().shared.rounds.load(Ordering::SeqCst)
    }
}

impl Client {
    /// Something has come that was not read.
    fn has_more(&mut self) -> bool {
        self.stream.set_nonblocking(true).unwrap();
        let came = !self.reader.buffer().is_empty() || self.stream.peek(&mut [0]).is_ok();
        self.stream.set_nonblocking(false).unwrap();
        came
    }
}

fn wake() -> Notice {
    Notice::Wake("app".into())
}

/// Reads one answer without a second descriptor, of which this test needs many.
fn read_from(stream: &TcpStream) -> Answered {
    let mut reader = BufReader::new(stream);
    let head = read_head(&mut reader).unwrap();
    let body = read_body(&mut reader, &head, false).unwrap();
    Answered { status: head[9..12].parse().unwrap(), head, body }
}

#[test]
fn a_thousand_wait_for_one_wake_and_the_next_is_refused() {
    let origin = Origin::new(|seen| ok(seen.head.split(' ').nth(1).unwrap().as_bytes()));
    let world = World::sleeping(Limits::DEFAULT, 3);
    let clients: Vec<TcpStream> = (0..1000)
        .map(|i| {
            let mut stream = TcpStream::connect(world.http).unwrap();
            stream.set_read_timeout(Some(PATIENCE)).unwrap();
            stream.write_all(get(&format!("/{i}")).as_bytes()).unwrap();
            stream
        })
        .collect();
    world.wait_for_parked(1000);
    let mut late = world.client();
    let answer = late.get("/");
    assert_eq!((answer.status, answer.text()), (503, "App startup queue is full\n"));
    assert_eq!(answer.field("retry-after"), Some("1"));
    world.hear(&wake());
    world.publish_standing(ON_DEMAND, &[origin.endpoint]);
    for (i, stream) in clients.iter().enumerate() {
        let answer = read_from(stream);
        assert_eq!((answer.status, answer.text()), (200, format!("/{i}").as_str()));
    }
    assert_eq!((world.parked(), world.wakes()), (0, 0), "all places are free, and it was said once");
    assert_eq!(late.get("/late").text(), "/late");
}

#[test]
fn those_who_wait_are_let_go_in_order_and_in_groups() {
    const WAITING: usize = 100;
    let world = World::sleeping(Limits::DEFAULT, 1);
    let clients: Vec<Client> = (0..WAITING).map(|i| world.waiting(&get(&format!("/{i}")))).collect();
    assert_eq!(world.proxy.as_ref().unwrap().metrics().parked, WAITING as u64);
    // Links are made in the order of choice, one for each: nothing is answered before all have come.
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let before = world.rounds();
    world.publish_standing(ON_DEMAND, &[endpoint_at(listener.local_addr().unwrap())]);
    let mut links = Vec::new();
    for i in 0..WAITING {
        let (stream, _) = listener.accept().unwrap();
        let mut reader = BufReader::new(stream.try_clone().unwrap());
        let seen = read_request(&mut reader).unwrap();
        assert!(seen.head.starts_with(&format!("GET /{i} ")), "{i}: {}", seen.head);
        links.push(stream);
    }
    assert!(world.rounds() - before >= WAITING as u64 / 32, "not all in one pass of the loop");
    for (mut link, mut client) in links.into_iter().zip(clients) {
        link.write_all(&ok(b"x")).unwrap();
        assert_eq!(client.read().text(), "x");
    }
}

#[test]
fn who_goes_away_frees_its_place() {
    let limits = Limits { parked: 3, half_closed: Duration::from_millis(50), ..Limits::DEFAULT };
    let world = World::sleeping(limits, 2);
    let (reset, left, mut stays) = (world.waiting(&get("/")), world.waiting(&get("/")), world.waiting(&get("/")));
    assert_eq!(world.client().get("/").status, 503);
    rustix::net::sockopt::set_socket_linger(&reset.stream, Some(Duration::ZERO)).unwrap();
    drop(reset);
    world.wait_for_parked(2);
    drop(left);
    world.wait_for_parked(1);
    let mut next = world.waiting(&get("/"));
    let origin = Origin::named("x");
    world.publish_standing(ON_DEMAND, &[origin.endpoint]);
    assert_eq!((stays.read().text(), next.read().text()), ("x", "x"));
    assert!(origin.conns() <= 2, "nobody asked for those who left");
    assert_eq!(world.wakes(), 1);
}

#[test]
fn a_client_that_only_closed_its_half_has_its_answer_if_the_app_wakes_in_time() {
    let (world, origin) = (World::sleeping(Limits::DEFAULT, 1), Origin::named("x"));
    let mut client = world.waiting(&get("/"));
    client.stream.shutdown(std::net::Shutdown::Write).unwrap();
    world.publish_standing(ON_DEMAND, &[origin.endpoint]);
    assert_eq!(client.read().text(), "x");
}

#[test]
fn patience_ends_with_504_and_the_next_request_asks_again() {
    let world = World::with(Limits::DEFAULT, 1);
    let patience = Duration::from_millis(400);
    world.publish_standing(Standing::OnDemand { patience }, &[]);
    let mut client = world.client();
    let (begun, before) = (Instant::now(), world.rounds());
    let answer = client.get("/");
    assert_eq!((answer.status, answer.text()), (504, "App startup timed out\n"));
    assert!(begun.elapsed() >= patience);
    assert!(world.rounds() - before < 30, "waiting costs no turns: {}", world.rounds() - before);
    assert_eq!(world.wakes(), 1);
    assert_eq!(client.get("/").status, 504, "and the client's connection goes on");
    assert_eq!((world.wakes(), world.parked()), (1, 0));
}

#[test]
fn each_table_says_what_becomes_of_those_who_wait() {
    let world = World::sleeping(Limits::DEFAULT, 2);
    for (standing, status, text) in
        [(Standing::Failed, 502, "App failed to start\n"), (Standing::Awake, 503, "No healthy backend\n")]
    {
        let (mut one, mut other) = (world.waiting(&get("/")), world.waiting(&get("/")));
        world.publish_standing(standing, &[]);
        for client in [&mut one, &mut other] {
            let answer = client.read();
            assert_eq!((answer.status, answer.text()), (status, text));
        }
        assert_eq!(one.get("/").status, status, "at once, and the client's connection goes on");
        world.publish_standing(ON_DEMAND, &[]);
    }
    assert_eq!(world.wakes(), 2, "once a sleep");
    let mut client = world.waiting(&get("/"));
    let nothing = Table { entries: vec![], upstreams: vec![], certs: world.certs.clone(), challenges: Arc::default() };
    world.proxy.as_ref().unwrap().publish(nothing);
    assert_eq!(client.read().status, 404, "the app is not there any more");
    world.publish_standing(ON_DEMAND, &[]);
    assert_eq!(world.parked(), 0);
}

#[test]
fn a_stop_lets_nobody_wait() {
    let mut world = World::sleeping(Limits { stop_idle: Duration::from_millis(50), ..short() }, 2);
    let (mut one, mut kept) = (world.waiting(&get("/")), world.client());
    kept.send("GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n");
    assert_eq!(kept.read().status, 404);
    let begun = Instant::now();
    world.stop(PATIENCE);
    assert!(begun.elapsed() < PATIENCE / 2);
    let answer = one.read();
    assert_eq!((answer.status, answer.text(), answer.field("connection")), (503, "Stopping\n", Some("close")));
    one.expect_end();
}

/// The worker may see neither the table with endpoints nor the one before it, only the sleep after.
#[test]
fn a_sleep_that_follows_unseen_is_told_of_again() {
    let (world, origin) = (World::sleeping(Limits::DEFAULT, 2), Origin::named("x"));
    let mut client = world.waiting(&get("/"));
    world.hear(&wake());
    for _ in 0..50 {
        // The origin stands, so whoever does see the endpoint is answered.
        world.publish_standing(ON_DEMAND, &[origin.endpoint]);
        world.publish_standing(ON_DEMAND, &[]);
        // It waits on, now in another sleep; or it was quick, and then the next request waits.
        wait_until("another wake", || {
            if client.has_more() {
                assert_eq!(client.read().text(), "x");
                client.send(get("/"));
            }
            world.wakes() > 0
        });
    }
    wait_until("it waits", || world.parked() == 1 || client.has_more());
    world.publish_standing(ON_DEMAND, &[origin.endpoint]);
    assert_eq!(client.read().text(), "x");
}

#[test]
fn other_tables_change_nothing_for_those_who_wait() {
    let (world, origin) = (World::sleeping(Limits::DEFAULT, 2), Origin::named("x"));
    let mut client = world.waiting(&get("/"));
    let mut last = 0;
    for _ in 0..50 {
        last = world.publish_standing(ON_DEMAND, &[]);
    }
    let heard = world.hear(&Notice::Acked(last));
    assert_eq!(heard.iter().filter(|n| **n == wake()).count(), 1);
    world.publish_standing(ON_DEMAND, &[origin.endpoint]);
    assert_eq!(client.read().text(), "x");
}

#[test]
fn every_sort_of_request_waits_whole() {
    let origin = Origin::new(|seen| {
        let line = seen.head.lines().next().unwrap();
        let sum: usize = seen.body.iter().map(|b| *b as usize).sum();
        ok(format!("{line} {} {sum}", seen.body.len()).as_bytes())
    });
    let world = World::sleeping(Limits::DEFAULT, 2);
    let body: Vec<u8> = (0..4 << 20).map(|i| (i % 251) as u8).collect();
    let sum: usize = body.iter().map(|b| *b as usize).sum();
    let mut large = world.client();
    let mut writing = large.stream.try_clone().unwrap();
    let length = body.len();
    // Nobody reads it meanwhile, so the write does not end before the wake.
    let writer = std::thread::spawn(move || {
        write!(writing, "POST /large HTTP/1.1\r\nHost: app.test\r\nContent-Length: {length}\r\n\r\n").unwrap();
        writing.write_all(&body).unwrap();
    });
    world.wait_for_parked(1);
    let mut chunked = world
        .waiting("POST /chunked HTTP/1.1\r\nHost: app.test\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    let mut partly = world.waiting("POST /partly HTTP/1.1\r\nHost: app.test\r\nContent-Length: 6\r\n\r\nabc");
    let mut pipelined = world.waiting(&(get("/first") + &get("/second")));
    let mut head = world.waiting("HEAD /head HTTP/1.1\r\nHost: app.test\r\n\r\n");
    let mut old = world.waiting("GET /old HTTP/1.0\r\nHost: app.test\r\n\r\n");
    let mut secure = BufReader::new(world.secure("app.test"));
    let asking = std::thread::spawn(move || ask(&mut secure, &get("/secure")));
    world.wait_for_parked(7);
    partly.send("d");
    world.publish_standing(ON_DEMAND, &[origin.endpoint]);
    partly.send("ef");
    assert_eq!(large.read().text(), format!("POST /large HTTP/1.1 {length} {sum}"));
    writer.join().unwrap();
    assert_eq!(chunked.read().text(), "POST /chunked HTTP/1.1 3 294");
    assert_eq!(partly.read().text(), "POST /partly HTTP/1.1 6 597");
    assert_eq!(pipelined.read().text(), "GET /first HTTP/1.1 0 0");
    assert_eq!(pipelined.read().text(), "GET /second HTTP/1.1 0 0");
    assert_eq!(head.try_read(true).unwrap().status, 200);
    assert_eq!(old.read().text(), "GET /old HTTP/1.1 0 0");
    assert_eq!(asking.join().unwrap().text(), "GET /secure HTTP/1.1 0 0");
}

#[test]
fn a_refused_head_or_body_wakes_nobody() {
    let world = World::sleeping(Limits::DEFAULT, 1);
    let mut client = world.client();
    client.send("GET / HTTP/1.1\r\nHost: unknown.test\r\n\r\n");
    assert_eq!(client.read().status, 404);
    client.send(format!("POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n", 65 << 20));
    assert_eq!(client.read().status, 413);
    assert_eq!(world.wakes(), 0);
}

#[test]
fn activity_is_told_while_a_request_or_a_tunnel_is_in_flight_and_not_after() {
    let (open, opened) = crossbeam_channel::unbounded::<()>();
    let origin = Origin::new(move |seen| {
        opened.recv_timeout(PATIENCE).unwrap();
        match seen.field("upgrade") {
            None => ok(b"x"),
            Some(_) => {
                b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n".to_vec()
            }
        }
    });
    let brief = Duration::from_millis(20);
    let world = World::with(Limits { sweep: brief, ..Limits::DEFAULT }, 2);
    let generation = world.publish_standing(ON_DEMAND, &[origin.endpoint]);
    world.hear(&Notice::Acked(generation));
    let active = Notice::Activity("app".into());
    let quiet = || wait_until("quiet", || world.notices.recv_timeout(brief * 10).is_err());

    let mut client = world.client();
    client.send(get("/"));
    for _ in 0..3 {
        assert_eq!(world.hear(&active), []);
    }
    open.send(()).unwrap();
    assert_eq!(client.read().text(), "x");
    quiet();
    client.send("GET / HTTP/1.1\r\nHost: app.test\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\n");
    open.send(()).unwrap();
    assert!(read_head(&mut client.reader).unwrap().starts_with("HTTP/1.1 101 "));
    for _ in 0..5 {
        assert_eq!(world.hear(&active), []);
    }
    drop(client);
    quiet();
    // What is over between two looks is told all the same.
    open.send(()).unwrap();
    assert_eq!(world.client().get("/").status, 200);
    world.hear(&active);
}

/// Asleep and awake again at any moment, a table a hundred times a second: every request is answered by the app.
#[test]
fn nothing_is_lost_while_an_app_sleeps_and_wakes_between_a_hundred_tables_a_second() {
    const LASTS: Duration = Duration::from_secs(3);
    const BEAT: Duration = Duration::from_millis(10);
    let origin = Origin::new(|seen| ok(&seen.body));
    let world = Arc::new(World::sleeping(Limits::DEFAULT, 3));
    let done = Arc::new(AtomicBool::new(false));
    let counts = [(); 6].map(|()| Arc::new(AtomicUsize::new(0)));
    let clients: Vec<_> = counts
        .iter()
        .enumerate()
        .map(|(i, asked)| {
            let (world, done, asked) = (world.clone(), done.clone(), asked.clone());
            std::thread::spawn(move || {
                let mut client = world.client();
                while !done.load(Ordering::SeqCst) {
                    let n = i + asked.fetch_add(1, Ordering::SeqCst);
                    if n % 3 == 0 {
                        client = world.client();
                    }
                    let body = "b".repeat(n % 100);
                    client.send(format!(
                        "POST / HTTP/1.1\r\nHost: app.test\r\nContent-Length: {}\r\n\r\n{body}",
                        body.len()
                    ));
                    let answer = client.read();
                    assert_eq!((answer.status, answer.text()), (200, body.as_str()));
                }
            })
        })
        .collect();
    // Asleep until a wake is heard, then awake for some tables.
    let (begun, mut wakes, mut awake_for) = (Instant::now(), 0, 0);
    let asked = || counts.each_ref().map(|count| count.load(Ordering::SeqCst));
    let is_enough = |wakes| wakes > 10 && asked().iter().all(|n| *n > 10);
    let goes_on = |wakes| match begun.elapsed() {
        elapsed if elapsed < LASTS => true,
        elapsed => elapsed < LASTS + PATIENCE && !is_enough(wakes),
    };
    while goes_on(wakes) && !clients.iter().any(|client| client.is_finished()) {
        // Not by waiting for a notice: the channel yields some times before it sleeps, and on a busy machine a yield is
        // long, so that tables would come once a second.
        std::thread::park_timeout(BEAT);
        for notice in world.notices.try_iter() {
            if notice == wake() {
                (wakes, awake_for) = (wakes + 1, 1 + wakes % 3);
            }
        }
        let endpoints = if awake_for > 0 { vec![origin.endpoint] } else { vec![] };
        awake_for = i32::max(awake_for - 1, 0);
        world.publish_standing(ON_DEMAND, &endpoints);
    }
    done.store(true, Ordering::SeqCst);
    // Those that wait now.
    world.publish_standing(ON_DEMAND, &[origin.endpoint]);
    clients.into_iter().for_each(|client| client.join().unwrap());
    assert!(is_enough(wakes), "{wakes} wakes, {:?}", asked());
    assert_eq!(world.parked(), 0);
}
