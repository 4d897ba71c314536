//! Probe: one thread that asks every instance whether it is well.
//!
//! Non-blocking sockets on one mio poll. Until the first good answer it asks again and again, because a swap waits for
//! it; from then on once a second. A probe that has no answer in time has failed.
//!
//! Fifty idle instances must cost next to nothing, so those who are well are asked in turns that several share
//! [`TURN`]) on connections that last for several questions, the answer is fetched in the next turn instead of waking the
//! thread, and good news is told once.
//!
//! **Invariant**: an instance has one probe at a time. Whoever was told that it is well and has heard nothing since may
//! rely on it.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender};
use mio::{Events, Interest, Poll, Registry, Token};
use zeroize::Zeroizing;

use super::check::{Bad, Check, TIMEOUT, Verdict, gist, judge, status};
use super::instance::Event;
use super::poller::{BELL, Poller};
use super::probing::{Next, Probing, Progress};
use super::usage::Meter;
use crate::error::Result;
use crate::proxy::table::EndpointId;

const EVERY: Duration = Duration::from_secs(1);
/// Until the first good answer.
const EAGER: Duration = Duration::from_millis(10);
/// How far apart the turns of those are who are well: the thread wakes so often, and what one instance does at once to
/// all others is spread over the second.
const TURN: Duration = Duration::from_millis(50);
/// Not more often than this once it was good, however often somebody asks for a probe at once.
const HURRY: Duration = Duration::from_millis(100);

/// A cloneable way to the thread.
#[derive(Clone)]
pub(crate) struct Probe(Arc<Poller<Order>>);

enum Order {
    Add { id: EndpointId, addr: SocketAddr, check: Check, to: Sender<(EndpointId, Event)> },
    Hurry(EndpointId),
    Forget(EndpointId),
}

impl Probe {
    /// The thread is awake every second anyway, and takes the looks of `meter` on its way.
    pub fn start(meter: Meter) -> Result<Probe> {
        let run = |poll, orders| {
            Prober { poll, targets: HashMap::new(), meter, epoch: Instant::now() }.run(&orders);
        };
        Ok(Probe(Arc::new(Poller::start("probe", run)?)))
    }

    /// Probes from now on; replaces what was probed for `id`.
    pub fn add(&self, id: EndpointId, addr: SocketAddr, check: Check, to: Sender<(EndpointId, Event)>) {
        self.0.send(Order::Add { id, addr, check, to });
    }

    /// There is reason to look now.
    pub fn hurry(&self, id: EndpointId) {
        self.0.send(Order::Hurry(id));
    }

    pub fn forget(&self, id: EndpointId) {
        self.0.send(Order::Forget(id));
    }
}

/// The thread's own.
struct Prober {
    poll: Poll,
    targets: HashMap<usize, Target>,
    meter: Meter,
    /// When turns began to be counted.
    epoch: Instant,
}

struct Target {
    id: EndpointId,
    addr: SocketAddr,
    check: Check,
    request: Zeroizing<Vec<u8>>,
    to: Sender<(EndpointId, Event)>,
    epoch: Instant,
    was_good: bool,
    /// What was told last is that it is well.
    is_good: bool,
    started: Instant,
    next: Instant,
    /// Somebody has a reason to ask for `next`.
    hurried: bool,
    /// What was last told of a bad answer.
    answered: String,
    probing: Option<Probing>,
}

impl Prober {
    fn run(mut self, orders: &Receiver<Option<Order>>) {
        let mut events = Events::with_capacity(256);
        loop {
            let now = Instant::now();
            let next = self.targets.values().map(Target::due).min();
            match self.poll.poll(&mut events, next.map(|at| at.saturating_duration_since(now))) {
                Err(e) if e.kind() != io::ErrorKind::Interrupted => log::error!("probe: poll failed error={e}"),
                _ => {}
            }
            let now = Instant::now();
            for event in events.iter().filter(|e| e.token() != BELL) {
                // An event of a target that was forgotten finds nothing.
                if let Some(target) = self.targets.get_mut(&event.token().0) {
                    target.advance(self.poll.registry(), now);
                }
            }
            while let Ok(order) = orders.try_recv() {
                match order {
                    Some(order) => self.serve(order, now),
                    None => return,
                }
            }
            for target in self.targets.values_mut().filter(|t| t.due() <= now) {
                target.tick(self.poll.registry(), now);
            }
            // A swap waits for a first good answer, and a look takes milliseconds.
            if !self.targets.is_empty() && self.targets.values().all(|t| t.was_good) {
                self.meter.tick(now);
            }
        }
    }

    fn serve(&mut self, order: Order, now: Instant) {
        match order {
            Order::Add { id, addr, check, to } => {
                let target = Target {
                    id,
                    addr,
                    request: check.request(),
                    check,
                    to,
                    epoch: self.epoch,
                    was_good: false,
                    is_good: false,
                    started: now,
                    next: now,
                    hurried: false,
                    answered: String::new(),
                    probing: None,
                };
                self.targets.insert(id.0 as usize, target);
            }
            Order::Hurry(id) => {
                if let Some(target) = self.targets.get_mut(&(id.0 as usize)) {
                    target.next = target.next.min(target.started + HURRY);
                    target.hurried = true;
                }
            }
            Order::Forget(id) => {
                self.targets.remove(&(id.0 as usize));
            }
        }
    }
}

impl Target {
    fn due(&self) -> Instant {
        match &self.probing {
            Some(probing) if !probing.told => probing.look.unwrap_or(self.started + TIMEOUT),
            _ => self.next,
        }
    }

    fn tick(&mut self, registry: &Registry, now: Instant) {
        match &self.probing {
            Some(probing) if !probing.told && probing.look.is_some() => self.look(registry, now),
            Some(probing) if !probing.told => {
                self.tell(Verdict::Bad(Bad::Silent), now);
                self.end(registry);
            }
            _ => self.begin(registry, now),
        }
    }

    fn begin(&mut self, registry: &Registry, now: Instant) {
        self.started = now;
        let patient = self.is_good && !self.hurried;
        let look = patient.then(|| self.next_turn(now));
        self.hurried = false;
        let again = look.is_some_and(|look| self.probing.as_mut().is_some_and(|probing| probing.renew(look)));
        match again {
            true => self.advance(registry, now),
            false => {
                self.end(registry);
                self.ask(look, registry, now);
            }
        }
    }

    /// On a new connection.
    fn ask(&mut self, look: Option<Instant>, registry: &Registry, now: Instant) {
        let Ok(probing) = Probing::open(self.addr, look) else {
            return self.tell(Verdict::Bad(Bad::Refused), now);
        };
        self.probing = Some(probing);
        // On this machine a connection stands at once, or never: the rest is seldom more than one wait for the answer.
        self.advance(registry, now);
        if look.is_none() {
            self.watch(registry, now);
        }
    }

    /// When all who are asked now will have answered, and the thread is awake for others anyway.
    fn next_turn(&self, now: Instant) -> Instant {
        on_grid(self.epoch, TURN, Duration::ZERO, now + TURN / 8)
    }

    /// The answer is there by now, as good as always; who is slower is waited for.
    fn look(&mut self, registry: &Registry, now: Instant) {
        self.advance(registry, now);
        if self.probing.as_ref().is_some_and(|probing| !probing.told) {
            self.watch(registry, now);
        }
    }

    fn watch(&mut self, registry: &Registry, now: Instant) {
        let Some(probing) = &mut self.probing else { return };
        probing.look = None;
        let interest = match probing.waits_to_write(&self.request) {
            true => Interest::READABLE | Interest::WRITABLE,
            false => Interest::READABLE,
        };
        if registry.register(&mut probing.stream, Token(self.id.0 as usize), interest).is_err() {
            self.probing = None;
            self.tell(Verdict::Bad(Bad::Refused), now);
        }
    }

    fn advance(&mut self, registry: &Registry, now: Instant) {
        let Some(probing) = &mut self.probing else { return };
        let Progress { verdict, next } = probing.advance(&self.check, &self.request);
        let patient = probing.look.is_some();
        if let Some(verdict) = verdict
            && !probing.told
        {
            probing.told = true;
            self.tell(verdict, now);
        }
        match next {
            Next::More => {}
            Next::Idle if patient => {}
            Next::Idle | Next::Over => self.end(registry),
            Next::Stale => {
                self.end(registry);
                self.ask(patient.then(|| self.next_turn(now)), registry, now);
            }
        }
    }

    fn tell(&mut self, verdict: Verdict, now: Instant) {
        let is_good = verdict == Verdict::Good;
        self.was_good |= is_good;
        // The pause counts from the probe's start, but after one that took long there is still a short one.
        self.next = match (is_good, self.was_good) {
            (true, _) => turn(self.id, self.epoch, (self.started + EVERY / 2).max(now + HURRY)),
            (false, true) => (self.started + EVERY).max(now + HURRY),
            (false, false) => now + EAGER,
        };
        // That it is well still is no news, and would wake its actor every second.
        let is_news = !(is_good && self.is_good);
        self.is_good = is_good;
        if is_news {
            let _ = self.to.send((self.id, Event::Probed(verdict)));
        }
    }

    fn end(&mut self, registry: &Registry) {
        if let Some(mut probing) = self.probing.take() {
            match probing.look {
                None => drop(registry.deregister(&mut probing.stream)),
                Some(_) => probing.drain(),
            }
            self.tell_answer(&probing.answer);
        }
    }

    /// What a bad answer says, once for each that is another one: it may name the reason.
    fn tell_answer(&mut self, answer: &[u8]) {
        let Check::Http { redirects, .. } = self.check else { return };
        let is_good = status(answer).is_some_and(|status| judge(status, redirects) == Verdict::Good);
        let told = if is_good { String::new() } else { gist(answer) };
        if told != self.answered {
            self.answered.clone_from(&told);
            let _ = self.to.send((self.id, Event::Answered(told)));
        }
    }
}

/// The next turn of this target from `earliest` on: it has one in each [`EVERY`], the same as every so many others.
fn turn(id: EndpointId, epoch: Instant, earliest: Instant) -> Instant {
    let turns = (EVERY.as_nanos() / TURN.as_nanos()) as u64;
    on_grid(epoch, EVERY, TURN * (id.0 % turns) as u32, earliest)
}

/// The first moment from `earliest` on that lies `phase` after a whole number of `step`s since `epoch`.
fn on_grid(epoch: Instant, step: Duration, phase: Duration, earliest: Instant) -> Instant {
    let since = earliest.saturating_duration_since(epoch).saturating_sub(phase);
    let nanos = since.as_nanos().next_multiple_of(step.as_nanos());
    epoch + phase + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX / 2))
}

#[cfg(test)]
mod tests {
    use std::io::{Read, Write};
    use std::net::TcpListener;
    use std::thread::JoinHandle;

    use crossbeam_channel::unbounded;

    use super::*;

    struct Run {
        probe: Probe,
        verdicts: Receiver<(EndpointId, Event)>,
    }

    fn probe(addr: SocketAddr, check: Check) -> Run {
        let (to, verdicts) = unbounded();
        let probe = Probe::start(Meter::default()).unwrap();
        probe.add(EndpointId(5), addr, check, to);
        Run { probe, verdicts }
    }

    impl Run {
        fn next(&self) -> Verdict {
            loop {
                match self.verdicts.recv_timeout(Duration::from_secs(60)).unwrap() {
                    (EndpointId(5), Event::Probed(verdict)) => return verdict,
                    (EndpointId(5), Event::Answered(_)) => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    fn http() -> Check {
        let token = Some(Zeroizing::new("secret".to_string()));
        Check::Http { path: "/status".into(), host: "tako.internal".into(), token, redirects: false }
    }

    /// Answers each connection with the next of `answers`, then stops listening; returns the requests.
    fn app(answers: Vec<&'static [u8]>) -> (SocketAddr, JoinHandle<Vec<String>>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let serve = move || {
            let mut requests = Vec::new();
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let mut request = vec![0; 4096];
                let n = stream.read(&mut request).unwrap();
                requests.push(String::from_utf8_lossy(&request[..n]).into_owned());
                let _ = stream.write_all(answer);
            }
            requests
        };
        (addr, std::thread::spawn(serve))
    }

    #[test]
    fn asks_again_at_once_until_the_first_good_answer() {
        let (addr, thread) = app(vec![
            b"HTTP/1.1 500 Oh\r\n\r\n",
            b"HTTP/1.1 302 Away\r\n\r\n",
            b"garbage\r\n\r\n",
            b"",
            b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok",
        ]);
        let begin = Instant::now();
        let run = probe(addr, http());
        assert_eq!(run.next(), Verdict::Bad(Bad::Status(500)));
        assert_eq!(run.next(), Verdict::Bad(Bad::Status(302)));
        assert_eq!(run.next(), Verdict::Bad(Bad::Broken));
        assert_eq!(run.next(), Verdict::Bad(Bad::Broken));
        assert_eq!(run.next(), Verdict::Good);
        // Once a second it would have been four of them later.
        assert!(begin.elapsed() < EVERY * 4, "{:?}", begin.elapsed());
        let requests = thread.join().unwrap();
        assert!(requests[0].starts_with("GET /status HTTP/1.1\r\nHost: tako.internal\r\n"), "{}", requests[0]);
        assert!(requests[0].contains("\r\nX-Tako-Internal-Token: secret\r\n"));
        // Nobody listens any more; somebody tells us to look.
        run.probe.hurry(EndpointId(5));
        assert_eq!(run.next(), Verdict::Bad(Bad::Refused));
    }

    #[test]
    fn turns_come_once_a_second_and_are_shared() {
        let epoch = Instant::now();
        let at = |id, ms| (turn(EndpointId(id), epoch, epoch + Duration::from_millis(ms)) - epoch).as_millis();
        assert_eq!([at(0, 0), at(0, 1), at(1, 0), at(19, 0), at(20, 0), at(21, 7)], [0, 1000, 50, 950, 0, 50]);
        // However late the thread wakes for its turn, the next one is a second after it.
        assert!((0..499).all(|late| at(3, 150 + late + 500) == 1150));
    }

    #[test]
    fn that_it_is_well_is_told_once_until_it_was_not() {
        let (addr, thread) = app(vec![
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
            b"HTTP/1.1 500 Oh\r\n\r\n",
            b"HTTP/1.1 200 OK\r\n\r\n",
        ]);
        let run = probe(addr, http());
        assert_eq!(
            [run.next(), run.next(), run.next()],
            [Verdict::Good, Verdict::Bad(Bad::Status(500)), Verdict::Good]
        );
        assert_eq!(thread.join().unwrap().len(), 4);
    }

    #[test]
    fn who_was_well_and_is_slow_once_is_waited_for() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let app = std::thread::spawn(move || {
            let answer = |after: Duration| {
                let (mut stream, _) = listener.accept().unwrap();
                assert!(stream.read(&mut [0; 4096]).unwrap() > 0);
                // An app that works on something else.
                std::thread::sleep(after);
                stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").unwrap();
            };
            answer(Duration::ZERO);
            answer(TURN * 4);
            answer(Duration::ZERO);
            // Nothing is said to the last one.
            listener.accept().unwrap()
        });
        let run = probe(addr, http());
        assert_eq!([run.next(), run.next()], [Verdict::Good, Verdict::Bad(Bad::Silent)]);
        app.join().unwrap();
    }

    #[test]
    fn a_connection_lasts_for_more_than_one_question_and_its_end_is_no_verdict() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let app = std::thread::spawn(move || {
            // How many questions each connection brings, as far as it is answered.
            for questions in [1, 3, 1] {
                let (mut stream, _) = listener.accept().unwrap();
                for _ in 0..questions {
                    assert!(stream.read(&mut [0; 4096]).unwrap() > 0, "asked on another connection");
                    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").unwrap();
                }
            }
            let (mut stream, _) = listener.accept().unwrap();
            stream.write_all(b"HTTP/1.1 500 Oh\r\n\r\n").unwrap();
        });
        let run = probe(addr, http());
        assert_eq!([run.next(), run.next()], [Verdict::Good, Verdict::Bad(Bad::Status(500))]);
        app.join().unwrap();
    }

    #[test]
    fn an_accept_is_enough_without_a_path() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        assert_eq!(probe(listener.local_addr().unwrap(), Check::Tcp).next(), Verdict::Good);
    }

    #[test]
    fn who_accepts_and_says_nothing_has_failed() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let run = probe(listener.local_addr().unwrap(), http());
        assert_eq!(run.next(), Verdict::Bad(Bad::Silent));
    }

    #[test]
    fn an_endless_answer_is_cut() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            let mut sent = 0;
            // Ends when the other side has had enough and closed.
            while let Ok(n) = stream.write(&[b'x'; 4096]) {
                sent += n;
            }
            sent
        });
        let run = probe(addr, http());
        assert_eq!(run.next(), Verdict::Bad(Bad::Broken));
        drop(run);
        assert!(thread.join().unwrap() < 64 << 20);
    }
}
