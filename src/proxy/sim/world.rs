//! World: the driver of one run. The bytes say who moves next; in the end everyone does what is left to do, and time
//! passes until all is over.

mod set;

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use crossbeam_channel::Receiver;
use mio::{Poll, Waker};

use super::client::Client;
use super::dice::Dice;
use super::endpoint::Endpoint;
use super::net::{Dial, Net};
use super::script::{self, Request};
use crate::proto::route::Route;
use crate::proxy::publish::Shared;
use crate::proxy::table::{self, EndpointId, Standing, Table, Upstream};
use crate::proxy::token::Target;
use crate::proxy::wire;
use crate::proxy::worker::Worker;
use crate::proxy::{Notice, tls};
use set::{address, certificate, settings};

const CLIENTS: usize = 6;
const ENDPOINTS: usize = 3;
const REQUESTS: usize = 24;
/// Rounds that a worker may go on without a byte moved: more is a loop.
const IDLE_ROUNDS: usize = 40;
/// Steps in which everything must have ended: more is a state that keeps itself alive.
const STEPS: usize = 20_000;
/// How much of the other side's output may wait, at a time.
const ROOMS: [usize; 6] = [100_000, 20_000, 5000, 1000, 64_000, 150];
const PIECES: [usize; 8] = [1, 3, 17, 90, 700, 5000, 20_000, usize::MAX];

pub(super) struct World<'a> {
    dice: Dice<'a>,
    calm: bool,
    worker: Worker,
    shared: Arc<Shared>,
    notices: Receiver<Notice>,
    net: Net,
    now: u64,
    clients: Vec<Client>,
    endpoints: Vec<Endpoint>,
    /// From id 1 on; the first is a place holder for no request.
    requests: Vec<Request>,
    published: HashSet<u64>,
    acked: u64,
    stopping: bool,
    body_limit: u64,
}

impl<'a> World<'a> {
    pub fn new(bytes: &'a [u8]) -> Self {
        let mut dice = Dice::new(bytes);
        let calm = dice.roll(5) < 2;
        let poll = Poll::new().expect("an epoll set");
        let bell = Waker::new(poll.registry(), Target::Bell.token()).expect("a bell");
        let (tell, notices) = crossbeam_channel::unbounded();
        let configs = tls::Configs::new().expect("randomness");
        let shared = Arc::new(Shared::new(settings(), 1000, 64 << 20, configs, vec![bell], tell).expect("a helper"));
        let net = Net::new();
        let worker = Worker::new(0, poll, wire::Net::Sim(net.clone()), shared.clone());
        let body_limit = if calm || dice.roll(4) > 0 { 1 << 20 } else { 3000 };
        let mut world = World {
            requests: vec![script::request(&mut Dice::new(&[]), 0, true)],
            dice,
            calm,
            worker,
            shared,
            notices,
            net,
            now: 0,
            clients: Vec::new(),
            endpoints: Vec::new(),
            published: HashSet::new(),
            acked: 0,
            stopping: false,
            body_limit,
        };
        world.net.set_dial(address(0), Dial::Stands);
        for place in 1..ENDPOINTS {
            let dial = world.a_dial();
            world.net.set_dial(address(place), dial);
        }
        world.publish();
        world.round();
        world
    }

    pub fn play(mut self) {
        while !self.dice.is_empty() && !self.worker.is_done() {
            self.step();
        }
        if !self.worker.is_done() {
            self.settle();
            self.check(self.calm);
        }
        self.outlive();
        self.check(false);
        self.check_end();
    }

    fn step(&mut self) {
        match self.dice.roll(20) {
            0 => self.connect(),
            1..=4 => self.client_writes(),
            5..=6 => self.client_reads(),
            7..=8 => self.endpoint_reads(),
            9..=11 => self.endpoint_writes(),
            12..=15 => self.round(),
            16 => self.pass(),
            17 => self.publish(),
            18 => self.fault(),
            _ => self.handshake(),
        }
    }

    fn connect(&mut self) {
        if self.clients.len() == CLIENTS || self.stopping {
            return;
        }
        let (stream, end) = self.net.arrive(self.dice.of(&ROOMS));
        self.clients.push(Client::new(end));
        self.worker.admit(wire::Stream::Sim(stream), [127, 0, 0, 1].into(), false);
    }

    fn client_writes(&mut self) {
        let Some(i) = self.a_client() else { return };
        let n = self.dice.of(&PIECES);
        let client = &self.clients[i];
        let more = !client.done && self.requests.len() <= REQUESTS && (!client.has_more() || self.dice.once_in(3));
        if more {
            let request = script::request(&mut self.dice, self.requests.len(), self.calm);
            self.clients[i].ask(&request);
            self.requests.push(request);
        }
        self.clients[i].write(n);
    }

    fn client_reads(&mut self) {
        if let Some(i) = self.a_client() {
            let n = self.dice.of(&PIECES);
            self.clients[i].read(n);
        }
    }

    fn endpoint_reads(&mut self) {
        if let Some(i) = self.an_endpoint() {
            let n = self.dice.of(&PIECES);
            self.endpoints[i].read(n, &self.requests);
        }
    }

    fn endpoint_writes(&mut self) {
        if let Some(i) = self.an_endpoint() {
            let n = self.dice.of(&PIECES);
            self.endpoints[i].write(n, &self.requests);
        }
    }

    /// Some connection that waits is taken, or refused, or reported on for no reason.
    fn handshake(&mut self) {
        let Some(i) = self.an_endpoint() else { return };
        let endpoint = &self.endpoints[i];
        match endpoint.end.is_dialing() {
            true if !self.calm && self.dice.once_in(4) => endpoint.end.refuse(),
            true => endpoint.end.accept(self.dice.of(&ROOMS)),
            false => endpoint.end.nudge(),
        }
    }

    fn pass(&mut self) {
        self.now += if self.calm {
            self.dice.of(&[1, 5, 20, 150]) // 256 steps of which leave every limit alone that begins anew with a byte
        } else {
            self.dice.of(&[1, 10, 200, 1100, 5500, 31_000, 61_000])
        };
        self.round();
    }

    fn publish(&mut self) {
        let mask = self.dice.roll(1 << ENDPOINTS) | usize::from(self.calm || self.published.is_empty());
        let places = (0..ENDPOINTS).filter(|place| mask >> place & 1 == 1);
        let endpoints = places.map(|place| table::Endpoint { id: EndpointId(place as u64), addr: address(place) });
        self.publish_these(endpoints.collect());
    }

    fn publish_these(&mut self, endpoints: Vec<table::Endpoint>) {
        self.published.extend(endpoints.iter().map(|e| e.id.0));
        let (name, standing) = ("app".into(), Standing::Awake);
        let upstream = Upstream { name, endpoints, standing, body_limit: self.body_limit, assets: vec![] };
        let route = Route::parse("app.test").expect("a literal that is a route");
        let certs = certificate();
        self.shared.publish(Table {
            entries: vec![(route, 0)],
            upstreams: vec![upstream],
            certs,
            challenges: Arc::default(),
        });
    }

    fn fault(&mut self) {
        let what = self.dice.roll(10);
        if self.calm {
            // An end of one side only is no fault: the client has asked for all it wants.
            if let Some(i) = self.a_client().filter(|_| what == 0) {
                (self.clients[i].done, self.clients[i].ends) = (true, true);
            }
            return;
        }
        match what {
            0..=4 => {
                let Some(i) = self.a_client() else { return };
                let client = &mut self.clients[i];
                match what {
                    0 => client.reset(),
                    1 => client.finish(),
                    2 => client.stuck = true,
                    _ => (client.done, client.ends) = (true, true),
                }
            }
            5..=8 => {
                let Some(i) = self.an_endpoint() else { return };
                let endpoint = &mut self.endpoints[i];
                match what {
                    5 => drop(endpoint.leave(true)),
                    6 => {
                        if let Some(id) = endpoint.leave(false) {
                            self.requests[id].reply.blurred = true;
                        }
                    }
                    7 => endpoint.stuck = true,
                    _ if endpoint.is_idle() => endpoint.spoil(),
                    _ => {}
                }
            }
            _ if self.dice.once_in(8) => self.stop(),
            _ => {
                let (place, dial) = (self.dice.roll(ENDPOINTS), self.a_dial());
                self.net.set_dial(address(place), dial);
            }
        }
    }

    fn stop(&mut self) {
        let deadline = self.now + self.dice.of(&[0, 100, 3000, 30_000]);
        self.shared.stop(self.worker.instant(deadline));
        self.stopping = true;
        self.round();
    }

    fn a_dial(&mut self) -> Dial {
        self.dice
            .of(&[Dial::Stands, Dial::Waits, Dial::Refuses, Dial::Fails, Dial::Shortage]
                [..if self.calm { 4 } else { 5 }])
    }

    fn a_client(&mut self) -> Option<usize> {
        (!self.clients.is_empty()).then(|| self.dice.roll(self.clients.len()))
    }

    /// The later links are the livelier ones.
    fn an_endpoint(&mut self) -> Option<usize> {
        let live: Vec<usize> = (0..self.endpoints.len()).filter(|i| !self.endpoints[*i].end.is_closed()).collect();
        (!live.is_empty()).then(|| live[self.dice.roll(live.len())])
    }

    fn round(&mut self) {
        if self.worker.is_done() {
            return;
        }
        let room = self.dice.of(&[usize::MAX, 1, usize::MAX, 3]);
        let reports = self.net.reports(room);
        log::trace!("round at {}", self.now);
        self.worker.round_at(self.now, reports.into_iter());
        for (addr, end) in self.net.dialed() {
            let place = (0..ENDPOINTS).find(|place| address(*place) == addr).expect("it was published");
            self.endpoints.push(Endpoint::new(end, place));
        }
        self.listen();
        if self.worker.is_at_rest() {
            self.worker.check();
        }
    }

    fn listen(&mut self) {
        while let Ok(notice) = self.notices.try_recv() {
            match notice {
                Notice::Acked(generation) => {
                    assert_eq!(generation, self.acked + 1, "generations are acked in order");
                    self.acked = generation;
                }
                Notice::Drained(id) => {
                    assert!(self.published.remove(&id.0), "drained twice, or never published");
                    let mut links = self.endpoints.iter().filter(|e| e.place as u64 == id.0);
                    assert!(links.all(|e| e.end.is_closed()), "drained with a link open");
                }
                Notice::Failed(_) | Notice::Wake(_) | Notice::Activity(_) => {}
            }
        }
    }

    /// Rounds until nothing moves by itself, and then the proof that nothing was forgotten: a report on everything
    /// that is so already must not move anything either.
    fn rest(&mut self) {
        let (mut moved, mut idle) = (self.net.moved(), 0);
        while !(self.worker.is_done() || self.net.is_silent() && self.worker.is_at_rest()) {
            self.round();
            let now = self.net.moved();
            idle = if now == moved { idle + 1 } else { 0 };
            moved = now;
            assert!(idle < IDLE_ROUNDS, "the loop turns and nothing moves");
        }
    }

    fn prove_rest(&mut self) {
        self.rest();
        let moved = self.net.moved();
        for end in self.clients.iter().map(|c| &c.end).chain(self.endpoints.iter().map(|e| &e.end)) {
            end.nudge();
        }
        self.rest();
        assert_eq!(self.net.moved(), moved, "a wake-up was lost: there was more to do, and nobody would have come");
    }

    /// Everyone who still moves does what is left to do.
    fn settle(&mut self) {
        self.prove_rest();
        for step in 0..STEPS {
            let before = self.net.moved();
            let mut busy = false;
            for client in &mut self.clients {
                busy |= client.has_more() && client.end.is_up() && !client.stuck;
                client.write(usize::MAX);
                client.read(usize::MAX);
            }
            for endpoint in &mut self.endpoints {
                if endpoint.end.is_dialing() && !endpoint.stuck {
                    endpoint.end.accept(30_000);
                    busy = true;
                }
                endpoint.read(usize::MAX, &self.requests);
                busy |= endpoint.has_more() && endpoint.end.is_up() && !endpoint.stuck;
                endpoint.write(usize::MAX, &self.requests);
            }
            if step % 8 == 0 {
                self.prove_rest()
            } else {
                self.rest()
            }
            if !busy && self.net.moved() == before && self.net.is_silent() {
                return self.prove_rest();
            }
        }
        panic!("it does not come to rest");
    }

    /// Time passes until all has ended, as every state must.
    fn outlive(&mut self) {
        for _ in 0..STEPS {
            if self.worker.is_done() {
                break;
            }
            self.settle();
            if self.worker.is_done() {
                break;
            }
            match self.worker.patience() {
                Some(wait) => self.now += wait.as_millis() as u64,
                None if !self.worker.has_conns() => break,
                // Only silent event streams are left, and the kernel finds their clients gone.
                None => {
                    let streams = self.clients.iter_mut().filter(|c| !c.end.is_closed());
                    for client in streams {
                        assert!(client.end.is_kept_alive(), "a state without an end");
                        client.reset();
                    }
                }
            }
            self.round();
        }
        assert!(self.worker.is_done() || !self.worker.has_conns(), "it does not end");
    }

    fn check(&self, calm: bool) {
        for client in &self.clients {
            client.check(&self.requests, calm && !client.left);
        }
        let mut seen = HashMap::new();
        for endpoint in &self.endpoints {
            endpoint.check(&self.requests, calm, &mut seen);
        }
    }

    fn check_end(mut self) {
        if !self.worker.is_done() {
            self.publish_these(Vec::new());
            self.round();
            assert!(self.published.is_empty(), "never drained: {:?}", self.published);
        }
        self.worker.close_all();
        assert!(!self.worker.has_conns());
        self.worker.check();
        let ends = self.clients.iter().map(|c| &c.end).chain(self.endpoints.iter().map(|e| &e.end));
        for end in ends.clone() {
            assert!(end.is_closed() || self.stopping, "a connection was left open");
        }
        let ends: Vec<_> = ends.cloned().collect();
        drop(self.worker);
        assert!(ends.iter().all(|end| end.is_closed()), "a connection was lost");
    }
}
