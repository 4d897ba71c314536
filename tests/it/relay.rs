//! A relay in front of `sshd`: it counts what goes up, holds it at a byte of the test's choice, is slow or dead both ways
//! without a word, and cuts all connections when it is told, as networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;
use std::time::Duration;

/// At a time, and how long that takes on a slow one: about a megabit per second.
const SLOW: (usize, Duration) = (16 << 10, Duration::from_millis(128));

pub struct Relay {
    pub port: u16,
    shared: Arc<Shared>,
}

/// Told when what is held is cut, and when what is dead lives again.
type Shared = (Mutex<State>, Condvar);

#[derive(Default)]
struct State {
    up: u64,
    limit: Option<u64>,
    connections: Vec<TcpStream>,
    held: bool,
    dead: bool,
    slow: bool,
}

impl State {
    fn cut(&mut self) {
        for stream in self.connections.drain(..) {
            // It may have ended by itself.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

impl Relay {
    pub fn start(to: u16) -> Relay {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let relay = Relay { port: listener.local_addr().unwrap().port(), shared: Arc::default() };
        let shared = relay.shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let Ok(server) = TcpStream::connect(("127.0.0.1", to)) else { return };
                let mut known = shared.0.lock().unwrap();
                for stream in [&client, &server] {
                    stream.set_nodelay(true).unwrap();
                    known.connections.push(stream.try_clone().unwrap());
                }
                drop(known);
                let (up, down) = (client.try_clone().unwrap(), server.try_clone().unwrap());
                let counted = shared.clone();
                let both = shared.clone();
                thread::spawn(move || pass(up, server, &counted, true));
                thread::spawn(move || pass(down, client, &both, false));
            }
        });
        relay
    }

    /// After `bytes` from now nothing goes on, and nobody is told.
    pub fn hold_after(&self, bytes: u64) {
        let mut state = self.shared.0.lock().unwrap();
        state.limit = Some(state.up + bytes);
    }

    /// Up, since the last time.
    pub fn count(&self) -> u64 {
        let mut state = self.shared.0.lock().unwrap();
        assert!(state.limit.is_none(), "{:?} was not reached at {}", state.limit, state.up);
        std::mem::take(&mut state.up)
    }

    pub fn is_held(&self) -> bool {
        self.shared.0.lock().unwrap().held
    }

    /// From now on nothing passes, either way, and nobody is told.
    pub fn die(&self) {
        self.shared.0.lock().unwrap().dead = true;
    }

    pub fn revive(&self) {
        self.shared.0.lock().unwrap().dead = false;
        self.shared.1.notify_all();
    }

    pub fn be_slow(&self, slow: bool) {
        self.shared.0.lock().unwrap().slow = slow;
    }

    pub fn cut(&self) {
        let mut state = self.shared.0.lock().unwrap();
        state.cut();
        state.held = false;
        self.shared.1.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.revive();
        self.cut();
    }
}

/// How many of `n` bytes may go on, and whether that was it.
fn admit(shared: &Shared, n: usize) -> (usize, bool) {
    let mut state = shared.0.lock().unwrap();
    let left = state.limit.map(|limit| limit - state.up).filter(|left| *left <= n as u64);
    let admitted = left.map_or(n, |left| left as usize);
    state.up += admitted as u64;
    state.limit = state.limit.filter(|_| left.is_none());
    (admitted, left.is_some())
}

/// Waits while nothing passes; how much may at a time, and how long that takes.
fn pace(shared: &Shared) -> (usize, Duration) {
    let state = shared.1.wait_while(shared.0.lock().unwrap(), |state| state.dead).unwrap();
    if state.slow { SLOW } else { (64 << 10, Duration::ZERO) }
}

fn pass(mut from: TcpStream, mut to: TcpStream, shared: &Shared, is_counted: bool) {
    let mut buffer = vec![0; 64 << 10];
    loop {
        let (most, time) = pace(shared);
        let Ok(n) = from.read(&mut buffer[..most]) else { break };
        // It may have died while we waited for it.
        pace(shared);
        thread::sleep(time * n as u32 / most as u32);
        let (admitted, is_last) = if is_counted { admit(shared, n) } else { (n, false) };
        if n == 0 || to.write_all(&buffer[..admitted]).is_err() {
            break;
        }
        if is_last {
            let mut state = shared.0.lock().unwrap();
            state.held = true;
            drop(shared.1.wait_while(state, |state| state.held).unwrap());
        }
    }
    // Either side may be gone by now.
    let _ = to.shutdown(Shutdown::Write);
}
