//! An app for the crash tests: it answers who it is, what it was given, and says a line when it is asked to.

use std::env;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::FromRawFd;

fn main() {
    let var = |name: &str| env::var(name).unwrap_or_default();
    if var("PART") == "exits" {
        std::process::exit(3);
    }
    let mut secrets = String::new();
    // SAFETY: it is open when this program starts, and nobody else in it has it.
    let _ = unsafe { File::from_raw_fd(3) }.read_to_string(&mut secrets);
    // `{"token":"…","secrets":{"KEY":"…"}}`
    let secret = secrets.split('"').nth(9).unwrap_or_default().to_owned();
    let listener = TcpListener::bind(format!("127.0.0.1:{}", var("PORT"))).unwrap();
    println!("TAKO:READY:{}", listener.local_addr().unwrap().port());
    let (version, color, pid) = (var("TAKO_BUILD"), var("COLOR"), std::process::id());
    let me = format!(r#"{{"version":"{version}","color":"{color}","secret":"{secret}","pid":{pid}}}"#);
    for stream in listener.incoming().flatten() {
        let me = me.clone();
        std::thread::spawn(move || serve(stream, &me));
    }
}

fn serve(stream: TcpStream, me: &str) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream.try_clone()?);
    loop {
        let (mut first, mut line) = (String::new(), String::new());
        if reader.read_line(&mut first)? == 0 {
            return Ok(());
        }
        while reader.read_line(&mut line)? > 2 {
            line.clear();
        }
        if let Some(words) = first.strip_prefix("GET /say/") {
            println!("{}", words.split(' ').next().unwrap_or_default());
        }
        let length = me.len();
        let head = format!("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: {length}\r\n\r\n");
        (&stream).write_all(format!("{head}{me}").as_bytes())?;
    }
}
