//! What a wake costs beyond the app's own boot: the answer to the first request of an app that sleeps, against the time
//! that the same program takes from its start to the word that it listens. Prints min, median and max; judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[path = "../it/http.rs"]
mod http;
#[path = "../it/sandbox.rs"]
mod sandbox;

use std::fs;
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::Client;
use sandbox::{HOST, Running, Server, Sshd, User, wait_for};

const RUNS: usize = 15;
/// On demand, a second without requests is enough.
const CONFIG: &str = "name = \"shop\"\nruntime = \"binary\"\nmain = \"hello\"\n\n[envs.production]\n\
                      route = \"shop.localhost\"\ninstances = 0\nidle_timeout = 1\n";

fn main() {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    let program = user.project().join("hello");
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello-binary/main.rs");
    assert!(Command::new("rustc").args(["-O", "-o"]).arg(&program).arg(source).status().unwrap().success());
    fs::write(user.project().join("tako.toml"), CONFIG).unwrap();
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    user.must(&["deploy", "--yes"]);

    let boots = (0..RUNS).map(|_| boot(&program)).collect();
    let (mut first, mut next) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        wait_for("its sleep", || {
            let status = server.status("shop")?;
            (status["state"] == "asleep" && status["instances"].as_array()?.is_empty()).then_some(())
        });
        let mut client = Client::plain(server.http, HOST).unwrap();
        for times in [&mut first, &mut next] {
            let started = Instant::now();
            let answer = client.get("/").unwrap();
            times.push(started.elapsed());
            assert_eq!(answer.status, 200, "{}", answer.text());
        }
    }

    println!("{RUNS} wakes of examples/hello-binary; milliseconds");
    println!("{:<44} {:>8} {:>8} {:>8}", "", "min", "median", "max");
    let boot = row("the app's own boot, started by hand", boots);
    let first = row("first answer of an app that sleeps", first);
    let next = row("the next answer", next);
    println!("{:<44} {:>17.1}", "wake beyond boot and answer, of the medians", first - boot - next);
}

/// From the start to the word that it listens.
fn boot(program: &std::path::Path) -> Duration {
    let started = Instant::now();
    let child = Command::new(program).env("PORT", "0").stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let took = started.elapsed();
    assert!(line.starts_with("TAKO:READY:"), "{line}");
    child.kill();
    took
}

/// Prints a row and returns its median.
fn row(what: &str, mut times: Vec<Duration>) -> f64 {
    times.sort();
    let ms = |d: Duration| d.as_secs_f64() * 1000.0;
    let (min, median, max) = (ms(times[0]), ms(times[times.len() / 2]), ms(times[times.len() - 1]));
    println!("{what:<44} {min:>8.1} {median:>8.1} {max:>8.1}");
    median
}
