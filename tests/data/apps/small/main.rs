//! The smallest app that can be measured around: one program without dependencies, a thread for each connection.
//!
//! `GET /` names its version, `POST /echo` sends the body back, `GET /asked` tells how many requests there were.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

/// A connection needs little, and there may be hundreds.
const STACK: usize = 64 << 10;
/// A longer head or body is not from our tests.
const MAX: u64 = 64 << 10;
/// Longer than the proxy keeps an idle link, so that it is never us who close first.
const IDLE: Duration = Duration::from_secs(65);

fn main() -> io::Result<()> {
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let version: Arc<str> = env::var("TAKO_BUILD").unwrap_or_else(|_| "dev".into()).into();
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    println!("TAKO:READY:{}", listener.local_addr()?.port());
    let asked = Arc::new(AtomicU64::new(0));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let (version, asked) = (version.clone(), asked.clone());
        // A client that leaves in the middle is no news.
        let run = move || drop(serve(&stream, &version, &asked));
        thread::Builder::new().stack_size(STACK).spawn(run)?;
    }
    Ok(())
}

/// Answers one request after the other until the client closes.
fn serve(stream: &TcpStream, version: &str, asked: &AtomicU64) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::with_capacity(8 << 10, stream);
    let mut line = String::new();
    while reader.by_ref().take(MAX).read_line(&mut line)? > 0 {
        let mut words = line.split_whitespace();
        let (method, path) = (words.next().unwrap_or("").to_owned(), words.next().unwrap_or("").to_owned());
        let (mut length, mut keep) = (0, true);
        loop {
            line.clear();
            if reader.by_ref().take(MAX).read_line(&mut line)? == 0 {
                return Ok(());
            }
            let Some((name, value)) = line.split_once(':') else { break };
            match name.to_ascii_lowercase().as_str() {
                "content-length" => length = value.trim().parse::<u64>().map_err(io::Error::other)?.min(MAX),
                "connection" => keep = !value.trim().eq_ignore_ascii_case("close"),
                _ => {}
            }
        }
        line.clear();
        asked.fetch_add(1, Ordering::Relaxed);
        let mut body = vec![0; length as usize];
        reader.read_exact(&mut body)?;
        let answer = match (method.as_str(), path.as_str()) {
            ("POST", "/echo") => body,
            ("GET", "/asked") => asked.load(Ordering::Relaxed).to_string().into_bytes(),
            _ => version.as_bytes().to_vec(),
        };
        let connection = if keep { "keep-alive" } else { "close" };
        let length = answer.len();
        let head = format!(
            "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nX-Version: {version}\r\nConnection: {connection}\r\n\r\n"
        );
        (&*stream).write_all(&[head.as_bytes(), answer.as_slice()].concat())?;
        if !keep {
            return Ok(());
        }
    }
    Ok(())
}
