//! A web server of a few pages on loopback, as a mirror of runtimes or a registry of packages: it can break off, fall
//! silent, and wait until the test lets it go on.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Condvar, Mutex};

#[derive(Clone)]
pub enum Page {
    Whole(Vec<u8>),
    /// Announced whole, and cut off after so many bytes.
    Cut(Vec<u8>, usize),
    /// Announced whole, and nothing more after so many bytes, with the connection left open.
    Silent(Vec<u8>, usize),
    /// Not sent before [`Web::let_go`].
    Held(Vec<u8>),
}

pub struct Web {
    pub addr: SocketAddr,
    state: Arc<State>,
}

#[derive(Default)]
struct State {
    pages: Mutex<BTreeMap<String, Page>>,
    asked: Mutex<Vec<String>>,
    held: Mutex<bool>,
    go_on: Condvar,
}

impl Web {
    pub fn start() -> Web {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        let state = Arc::new(State { held: Mutex::new(true), ..State::default() });
        let shared = state.clone();
        // It ends with the test's process; what it holds until then is little.
        std::thread::spawn(move || {
            for stream in listener.incoming().map_while(Result::ok) {
                let state = shared.clone();
                std::thread::spawn(move || serve(stream, &state));
            }
        });
        Web { addr, state }
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.addr)
    }

    pub fn put(&self, path: &str, page: Page) {
        self.state.pages.lock().unwrap().insert(path.into(), page);
    }

    /// The archive and its list of sums, as a tool's release has them.
    pub fn publish(&self, archive: &str, sums: &str, sum: &str, page: Page) {
        let name = archive.rsplit('/').next().unwrap();
        self.put(sums, Page::Whole(format!("{}  other.zip\n{sum}  {name}\n", "0".repeat(64)).into()));
        self.put(archive, page);
    }

    /// How often a path was asked for.
    pub fn asked(&self, path: &str) -> usize {
        self.state.asked.lock().unwrap().iter().filter(|p| *p == path).count()
    }

    /// Sends what was held.
    pub fn let_go(&self) {
        *self.state.held.lock().unwrap() = false;
        self.state.go_on.notify_all();
    }
}

/// Errors are those of a client that hangs up.
fn serve(mut stream: TcpStream, state: &State) {
    let Ok(reader) = stream.try_clone() else { return };
    let mut lines = BufReader::new(reader).lines().map_while(Result::ok);
    while let Some(request) = lines.next() {
        while lines.next().is_some_and(|l| !l.is_empty()) {}
        let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
        state.asked.lock().unwrap().push(path.clone());
        let page = state.pages.lock().unwrap().get(&path).cloned();
        let (bytes, most) = match page {
            None => {
                if stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n").is_err() {
                    return;
                }
                continue;
            }
            Some(Page::Whole(bytes)) => (bytes, usize::MAX),
            Some(Page::Cut(bytes, most) | Page::Silent(bytes, most)) => (bytes, most),
            Some(Page::Held(bytes)) => {
                let held = state.held.lock().unwrap();
                drop(state.go_on.wait_while(held, |held| *held).unwrap());
                (bytes, usize::MAX)
            }
        };
        let kind = if bytes.starts_with(b"{") { "application/json" } else { "application/octet-stream" };
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", bytes.len());
        let sent = stream.write_all(head.as_bytes()).and_then(|()| stream.write_all(&bytes[..bytes.len().min(most)]));
        match state.pages.lock().unwrap().get(&path) {
            Some(Page::Cut(..)) => return,
            // Until the client has had enough.
            Some(Page::Silent(..)) => while lines.next().is_some() {},
            _ => {}
        }
        if sent.is_err() {
            return;
        }
    }
}
