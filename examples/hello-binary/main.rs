//! A web app as one plain program: any executable that listens on `$PORT` is an app for Tako.
//!
//! On its own: `rustc -O -o hello main.rs && PORT=3000 ./hello`.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::mpsc::sync_channel;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

/// Connections at a time, a thread for each; a client beyond them waits in the accept queue.
const MAX_CONNECTIONS: usize = 512;
/// A request needs little, and there may be many of them.
const STACK: usize = 256 << 10;
/// A longer request head is refused.
const MAX_HEAD: u64 = 16 << 10;
/// A longer body is refused.
const MAX_BODY: u64 = 8 << 20;
/// Longer than a proxy keeps an idle connection, so that it is never us who close first.
const IDLE: Duration = Duration::from_secs(65);

fn main() -> io::Result<()> {
    let port: u16 = env::var("PORT").ok().and_then(|port| port.parse().ok()).unwrap_or(3000);
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    let version: Arc<str> = env::var("TAKO_BUILD").unwrap_or_else(|_| "dev".into()).into();
    println!("TAKO:READY:{}", listener.local_addr()?.port());
    // One entry per open connection: sending waits while it is full.
    let (open, closed) = sync_channel::<()>(MAX_CONNECTIONS);
    let closed = Arc::new(Mutex::new(closed));
    for stream in listener.incoming() {
        let Ok(stream) = stream else { continue };
        let (version, closed) = (version.clone(), closed.clone());
        open.send(()).expect("the receiver lives as long as main");
        thread::Builder::new().stack_size(STACK).spawn(move || {
            // A client that leaves in the middle is no news.
            let _ = serve(stream, &version);
            let _ = closed.lock().map(|closed| closed.recv());
        })?;
    }
    Ok(())
}

/// Answers one request after the other until the client closes.
fn serve(stream: TcpStream, version: &str) -> io::Result<()> {
    stream.set_read_timeout(Some(IDLE))?;
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut writer = stream;
    loop {
        let Some(request) = read_head(&mut reader)? else { return Ok(()) };
        if request.chunked || request.length > MAX_BODY {
            let status = if request.chunked { "411 Length Required" } else { "413 Content Too Large" };
            return reply(&mut writer, version, status, "text/plain", b"", false);
        }
        if request.expects {
            writer.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = Vec::new();
        (&mut reader).take(request.length).read_to_end(&mut body)?;
        if (body.len() as u64) < request.length {
            return Ok(());
        }
        let page = format!("Hello from version {version}, process {}\n", std::process::id()).into_bytes();
        let (status, answer) = match (request.method.as_str(), request.path.as_str()) {
            ("GET", "/") => ("200 OK", page),
            ("POST", "/echo") => ("200 OK", body),
            _ => ("404 Not Found", b"no such page\n".to_vec()),
        };
        reply(&mut writer, version, status, "text/plain; charset=utf-8", &answer, request.keep_alive)?;
        if !request.keep_alive {
            return Ok(());
        }
    }
}

struct Request {
    method: String,
    path: String,
    length: u64,
    chunked: bool,
    expects: bool,
    keep_alive: bool,
}

/// `None` at the end of the connection, and for what is not HTTP.
fn read_head(reader: &mut impl BufRead) -> io::Result<Option<Request>> {
    let mut head = reader.take(MAX_HEAD);
    let mut line = String::new();
    head.read_line(&mut line)?;
    let mut words = line.split_whitespace();
    let (Some(method), Some(target), Some(protocol)) = (words.next(), words.next(), words.next()) else {
        return Ok(None);
    };
    let mut request = Request {
        method: method.to_owned(),
        path: target.split('?').next().unwrap_or(target).to_owned(),
        length: 0,
        chunked: false,
        expects: false,
        keep_alive: protocol == "HTTP/1.1",
    };
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end();
        if line.is_empty() {
            return Ok(Some(request));
        }
        let Some((name, value)) = line.split_once(':') else { return Ok(None) };
        let value = value.trim();
        match name.to_ascii_lowercase().as_str() {
            "content-length" => match value.parse() {
                Ok(length) => request.length = length,
                Err(_) => return Ok(None),
            },
            "transfer-encoding" => request.chunked = true,
            "expect" => request.expects = value.eq_ignore_ascii_case("100-continue"),
            "connection" => request.keep_alive &= !value.eq_ignore_ascii_case("close"),
            _ => {}
        }
    }
}

fn reply(out: &mut impl Write, version: &str, status: &str, kind: &str, body: &[u8], keep: bool) -> io::Result<()> {
    let connection = if keep { "keep-alive" } else { "close" };
    let length = body.len();
    let mut answer = format!(
        "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\nX-Version: {version}\r\nConnection: {connection}\r\n\r\n"
    )
    .into_bytes();
    answer.extend_from_slice(body);
    out.write_all(&answer)
}
