//! The app of `make test-vm`: it does to its machine what it is told, so that the limits around it can be seen to hold.
//!
//! `GET /` says who it is; `POST /sh` runs the body as a shell script and answers with what it printed; `POST /eat` takes
//! memory until something stops it. One connection at a time and no threads: when the process limit is reached, it
//! still answers.

use std::env;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};

/// What is taken at once; small against any limit.
const BITE: usize = 1 << 20;

fn main() -> io::Result<()> {
    let port: u16 = env::var("PORT").ok().and_then(|port| port.parse().ok()).expect("Tako sets PORT");
    let listener = TcpListener::bind(("127.0.0.1", port))?;
    println!("TAKO:READY:{port}");
    for stream in listener.incoming() {
        // A client that leaves in the middle is no news.
        let _ = stream.and_then(serve);
    }
    Ok(())
}

fn serve(mut stream: TcpStream) -> io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut first, mut length) = (String::new(), 0);
    reader.read_line(&mut first)?;
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        if line.trim().is_empty() {
            break;
        }
        if let Some(value) = line.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = String::new();
    reader.take(length).read_to_string(&mut body)?;
    let answer = match first.split(' ').nth(1) {
        Some("/sh") => shell(&body),
        Some("/eat") => eat(),
        _ => format!("{} {}\n", env::var("TAKO_BUILD").unwrap_or_default(), std::process::id()),
    };
    let length = answer.len();
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{answer}")
}

/// Both streams of the script; what it leaves in the background must not hold them.
fn shell(script: &str) -> String {
    let child = Command::new("/bin/sh").args(["-c", &format!("exec 2>&1\n{script}")]).stdin(Stdio::null()).output();
    match child {
        Ok(output) => String::from_utf8_lossy(&output.stdout).into_owned(),
        Err(e) => format!("{e}\n"),
    }
}

fn eat() -> ! {
    let mut eaten = Vec::new();
    loop {
        eaten.push(vec![1u8; BITE]);
    }
}
