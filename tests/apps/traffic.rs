//! Browsers and clients that forgive nothing while a new release goes live.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crate::http::{Client, Response};
use crate::project::EDITIONS;
use crate::{App, assets_of, echoes};

/// Between two requests of one client: every moment of the swap is met, and the app's own boot is not starved.
const PAUSE: Duration = Duration::from_millis(20);

pub struct Traffic {
    stop: Arc<AtomicBool>,
    /// Pages of each edition.
    pages: Arc<[AtomicUsize; 2]>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

impl Traffic {
    /// Readers of the page and of what it refers to, and clients of the API, each with kept and with new connections.
    pub fn start(app: &'static App, https: SocketAddr) -> Traffic {
        let (stop, pages): (Arc<AtomicBool>, Arc<[AtomicUsize; 2]>) = Default::default();
        let kinds = [(true, true), (true, false), (false, true), (false, false)];
        let clients = kinds.into_iter().filter(|(reads, _)| *reads || app.echo.is_some()).map(|(reads, keeps)| {
            let (stop, pages) = (stop.clone(), pages.clone());
            thread::spawn(move || {
                let (mut kept, mut failures) = (None, Vec::new());
                while !stop.load(Ordering::Relaxed) {
                    let turn = if reads { read(app, https, &mut kept, &pages) } else { echo(app, https, &mut kept) };
                    if let Err(e) = turn {
                        failures.push(format!("reads={reads} keeps={keeps}: {e}"));
                        kept = None;
                    }
                    if !keeps {
                        kept = None;
                    }
                    thread::sleep(PAUSE);
                }
                failures
            })
        });
        let clients = clients.collect();
        Traffic { stop, pages, clients }
    }

    /// How many pages of each edition were seen so far.
    pub fn pages(&self) -> [usize; 2] {
        [0, 1].map(|n| self.pages[n].load(Ordering::Relaxed))
    }

    /// What failed.
    pub fn stop(self) -> Vec<String> {
        self.stop.store(true, Ordering::Relaxed);
        self.clients.into_iter().flat_map(|client| client.join().expect("a client panicked")).collect()
    }
}

/// A page and an asset of it, as a browser does it: what a page names must be there, also after the next release.
fn read(app: &App, https: SocketAddr, kept: &mut Option<Client>, pages: &[AtomicUsize; 2]) -> io::Result<()> {
    let page = ask(app, https, kept, |client| client.get("/"))?;
    let text = page.text();
    let edition = EDITIONS.iter().position(|edition| text.contains(edition));
    let edition = edition.ok_or_else(|| io::Error::other(format!("a page of no edition: {text}")))?;
    if let Some(asset) = assets_of(&text).into_iter().next() {
        ask(app, https, kept, |client| client.get(&asset)).map_err(|e| io::Error::other(format!("{asset}: {e}")))?;
    }
    pages[edition].fetch_add(1, Ordering::Relaxed);
    Ok(())
}

fn echo(app: &App, https: SocketAddr, kept: &mut Option<Client>) -> io::Result<()> {
    let path = app.echo.expect("there is one");
    let (body, expected) = echoes("under load");
    let answer = ask(app, https, kept, |client| client.post_json(path, &body))?;
    match answer.json() == expected {
        true => Ok(()),
        false => Err(io::Error::other(format!("came back: {}", answer.text()))),
    }
}

/// The connection to use, and only an answer that is well.
fn ask(
    app: &App,
    https: SocketAddr,
    kept: &mut Option<Client>,
    ask: impl FnOnce(&mut Client) -> io::Result<Response>,
) -> io::Result<Response> {
    // A connection that was announced to end is not used again: that is no failure of anybody.
    let client = match kept.take().filter(|client| !client.closed) {
        Some(client) => kept.insert(client),
        None => kept.insert(Client::tls(https, &app.host())?),
    };
    let answer = ask(client)?;
    match answer.status {
        200 => Ok(answer),
        status => Err(io::Error::other(format!("{status} {}", answer.text()))),
    }
}
