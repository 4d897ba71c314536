//! A web server of the standard library alone, a thread for each connection.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::thread;

const EDITION: &str = "first edition";

fn main() -> io::Result<()> {
    let port = env::var("PORT").unwrap_or_else(|_| "3000".into());
    let listener = TcpListener::bind(format!("127.0.0.1:{port}"))?;
    for stream in listener.incoming() {
        let stream = stream?;
        // Who hangs up ends its own connection only.
        thread::spawn(move || serve(stream));
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut first, mut length) = (String::new(), 0);
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            let line = line.trim_end().to_ascii_lowercase();
            if line.is_empty() {
                break;
            }
            if let Some(value) = line.strip_prefix("content-length:") {
                length = value.trim().parse().unwrap_or(0);
            }
        }
        let mut body = vec![0; length];
        reader.read_exact(&mut body)?;
        let mut words = first.split(' ');
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let (status, kind, text) = answer(method, path, &String::from_utf8_lossy(&body));
        let length = text.len();
        write!(stream, "HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {length}\r\n\r\n{text}")?;
    }
}

fn answer(method: &str, path: &str, body: &str) -> (&'static str, &'static str, String) {
    const HTML: &str = "text/html; charset=utf-8";
    let page = |words: String| {
        format!("<!doctype html><html lang=\"en\"><title>Rust</title><link rel=\"icon\" href=\"/logo.svg\"><p>{words}</p></html>")
    };
    match (method, path, path.strip_prefix("/hello/")) {
        ("GET", "/", _) => ("200 OK", HTML, page(format!("{EDITION}, {}", env::var("GREETING").unwrap_or_default()))),
        ("GET", _, Some(name)) => ("200 OK", HTML, page(format!("Hello, {name}"))),
        ("POST", "/api/echo", _) => {
            // As much of JSON as one text without quotes needs.
            let text = body.split('"').nth(3).unwrap_or_default();
            let length = text.chars().count();
            ("200 OK", "application/json", format!("{{\"said\":\"{text}\",\"length\":{length}}}"))
        }
        _ => ("404 Not Found", "text/plain", "no such page\n".into()),
    }
}
