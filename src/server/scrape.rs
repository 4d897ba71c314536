//! Scrape: answers `GET /metrics` on an address of its own, for a Prometheus on this machine.
//!
//! **Invariant**: one thread, one request at a time, each with a limit in bytes and in time: whoever asks can hold up
//! nobody but others who ask.

use std::io::{self, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use crate::error::{Context, Result};

/// A head that is longer is none of Prometheus.
const MAX_HEAD: usize = 8 << 10;
/// For the whole request, and for each write of the answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Out of descriptors: try again so much later.
const PAUSE: Duration = Duration::from_millis(100);

/// What there is to tell; `None` once the proxy is gone.
pub(crate) type Page = Box<dyn Fn() -> Option<String> + Send>;

/// Starts the thread `metrics`; it ends with the process.
pub(crate) fn serve(listener: Arc<TcpListener>, page: Page) -> Result<()> {
    listener.set_nonblocking(false).context(|| "make the metrics listener blocking".into())?;
    let run = move || {
        loop {
            match listener.accept() {
                Ok((stream, peer)) => {
                    if let Err(e) = answer(stream, &page) {
                        log::debug!("metrics peer={peer}: {e}");
                    }
                }
                Err(e) => {
                    log::warn!("metrics cannot accept: {e}");
                    thread::sleep(PAUSE);
                }
            }
        }
    };
    thread::Builder::new().name("metrics".into()).spawn(run).context(|| "start the thread metrics".into())?;
    Ok(())
}

fn answer(mut stream: TcpStream, page: &Page) -> io::Result<()> {
    let head = read_head(&mut stream)?;
    let (status, body) = respond(&head, page);
    let mut out = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\nContent-Length: {}\r\n\
         Cache-Control: no-store\r\nConnection: close\r\n\r\n",
        body.len()
    );
    out.push_str(&body);
    stream.set_write_timeout(Some(PATIENCE))?;
    stream.write_all(out.as_bytes())
}

fn read_head(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let deadline = Instant::now() + PATIENCE;
    let mut head = Vec::new();
    let mut piece = [0; 1024];
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < MAX_HEAD {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(io::ErrorKind::TimedOut.into());
        }
        stream.set_read_timeout(Some(left))?;
        match stream.read(&mut piece)? {
            0 => break,
            n => head.extend_from_slice(&piece[..n]),
        }
    }
    Ok(head)
}

fn respond(head: &[u8], page: &Page) -> (&'static str, String) {
    let head = String::from_utf8_lossy(head);
    let mut words = head.lines().next().unwrap_or("").split(' ');
    let host = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        name.eq_ignore_ascii_case("host").then(|| value.trim())
    });
    match (words.next(), words.next(), words.next()) {
        (Some("GET"), Some(_), Some(version)) if version.starts_with("HTTP/1.") && !is_local(host.unwrap_or("")) => {
            ("403 Forbidden", "the Host is not this machine\n".into())
        }
        (Some("GET"), Some("/metrics"), Some(version)) if version.starts_with("HTTP/1.") => match page() {
            Some(page) => ("200 OK", page),
            None => ("503 Service Unavailable", "stopping\n".into()),
        },
        (Some("GET"), Some(_), Some(version)) if version.starts_with("HTTP/1.") => {
            ("404 Not Found", "see /metrics\n".into())
        }
        (Some(_), Some(_), Some(version)) if version.starts_with("HTTP/1.") => {
            ("405 Method Not Allowed", "only GET\n".into())
        }
        _ => ("400 Bad Request", "not a request\n".into()),
    }
}

/// Whether it names this machine: a page in a browser here must not read this by a name that it made lead here.
fn is_local(host: &str) -> bool {
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let address = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || address.parse::<std::net::IpAddr>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn asked(request: &str) -> String {
        let page: Page = Box::new(|| Some("x 1\n".into()));
        respond(request.as_bytes(), &page).0.into()
    }

    #[test]
    fn answers_get_metrics_and_nothing_else() {
        let with = |line: &str, host: &str| asked(&format!("{line}\r\nHost: {host}\r\n\r\n"));
        assert_eq!(with("GET /metrics HTTP/1.1", "127.0.0.1:9"), "200 OK");
        assert_eq!(with("GET /metrics HTTP/1.0", "[::1]:9"), "200 OK");
        assert_eq!(with("GET /metrics HTTP/1.1", "localhost"), "200 OK");
        assert_eq!(with("GET /metrics HTTP/1.1", "rebound.example:80"), "403 Forbidden");
        assert_eq!(with("GET / HTTP/1.1", "localhost"), "404 Not Found");
        assert_eq!(with("POST /metrics HTTP/1.1", "localhost"), "405 Method Not Allowed");
        assert_eq!(asked("GET /metrics HTTP/1.1\r\n\r\n"), "403 Forbidden");
        assert_eq!(asked(""), "400 Bad Request");
        assert_eq!(asked("\u{16}\u{3}\u{1}"), "400 Bad Request");
    }

    #[test]
    fn a_silent_client_is_given_up_and_the_next_one_served() {
        let listener = Arc::new(TcpListener::bind("127.0.0.1:0").unwrap());
        let addr = listener.local_addr().unwrap();
        serve(listener, Box::new(|| Some("x 1\n".into()))).unwrap();
        let silent = TcpStream::connect(addr).unwrap();
        let mut client = TcpStream::connect(addr).unwrap();
        client.write_all(b"GET /metrics HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n").unwrap();
        client.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nx 1\n"), "{answer}");
        drop(silent);
    }
}
