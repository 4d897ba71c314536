//! A relay in front of `sshd`: it counts what goes up, holds it at a byte of the test's choice, and cuts all connections when
//! it is told, as networks do.

use std::io::{Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};
use std::thread;

pub struct Relay {
    pub port: u16,
    shared: Arc<Shared>,
}

/// Told when what is held is cut.
type Shared = (Mutex<State>, Condvar);

#[derive(Default)]
struct State {
    up: u64,
    limit: Option<u64>,
    connections: Vec<TcpStream>,
    held: bool,
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
                thread::spawn(move || pass(up, server, Some(&counted)));
                thread::spawn(move || pass(down, client, None));
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

    pub fn cut(&self) {
        let mut state = self.shared.0.lock().unwrap();
        state.cut();
        state.held = false;
        self.shared.1.notify_all();
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
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

fn pass(mut from: TcpStream, mut to: TcpStream, counted: Option<&Shared>) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(n) = from.read(&mut buffer) {
        let (admitted, is_last) = counted.map_or((n, false), |shared| admit(shared, n));
        if n == 0 || to.write_all(&buffer[..admitted]).is_err() {
            break;
        }
        if let (true, Some((state, cut))) = (is_last, counted) {
            let mut state = state.lock().unwrap();
            state.held = true;
            drop(cut.wait_while(state, |state| state.held).unwrap());
        }
    }
    // Either side may be gone by now.
    let _ = to.shutdown(Shutdown::Write);
}
