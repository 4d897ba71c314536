//! What a wake costs beyond the app's own boot: the answer to the first request of an app that sleeps, against the time
//! that the same program takes from its start to the word that it listens. Prints min, median and max; judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[path = "../it/http.rs"]
mod http;
mod rows;
#[path = "../it/sandbox.rs"]
mod sandbox;

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use http::Client;
use rows::{heading, row};
use sandbox::{HOST, Running, Server, Sshd, User, wait_for};

const RUNS: usize = 15;
/// On demand, a second without requests is enough.
const ON_DEMAND: &str = "[envs.production]\nroute = \"shop.localhost\"\ninstances = 0\nidle_timeout = 1\n";
/// Says that it listens as soon as it does, so that by hand and under Tako the same is measured.
const SCRIPT: &str = "import { createServer } from 'node:http';
const server = createServer((request, response) => response.end('hello'));
server.listen(Number(process.env.PORT), '127.0.0.1', () => console.log(`TAKO:READY:${server.address().port}`));
";

/// A program, how it is started by hand in its folder, and what `tako.toml` says of it.
struct App {
    name: &'static str,
    by_hand: &'static [&'static str],
    config: &'static str,
}

const APPS: [App; 3] = [
    App {
        name: "a compiled program (examples/hello-binary)",
        by_hand: &["./hello"],
        config: "runtime = \"binary\"\nmain = \"hello\"\n",
    },
    App {
        name: "node:http on Node",
        by_hand: &["node", "index.mjs"],
        config: "runtime = \"node\"\nmain = \"index.mjs\"\nstart = [\"node\", \"{main}\"]\n",
    },
    App {
        name: "node:http on Bun",
        by_hand: &["bun", "index.mjs"],
        config: "runtime = \"bun\"\nmain = \"index.mjs\"\nstart = [\"bun\", \"{main}\"]\n",
    },
];

fn main() {
    println!("{RUNS} wakes of each; milliseconds");
    heading();
    for app in &APPS {
        let program = app.by_hand[0];
        let known =
            |name| Command::new(name).arg("--version").stdout(Stdio::null()).status().is_ok_and(|s| s.success());
        match program.starts_with("./") || known(program) {
            true => measure(app),
            false => println!("skipped: there is no {program} on this machine"),
        }
    }
}

fn measure(app: &App) {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    let source = concat!(env!("CARGO_MANIFEST_DIR"), "/examples/hello-binary/main.rs");
    let program = user.project().join("hello");
    match app.by_hand {
        ["./hello"] => {
            assert!(Command::new("rustc").args(["-O", "-o"]).arg(&program).arg(source).status().unwrap().success())
        }
        _ => user.write("index.mjs", SCRIPT),
    }
    user.write("tako.toml", &format!("name = \"shop\"\n{}\n{ON_DEMAND}", app.config));
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    user.must(&["deploy", "--yes"]);

    let boots = (0..RUNS).map(|_| boot(app.by_hand, &user.project())).collect();
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

    println!("{}", app.name);
    let boot = row("  its own boot, started by hand", boots);
    let first = row("  first answer while it sleeps", first);
    let next = row("  the next answer", next);
    println!("{:<52} {:>17.1}", "  wake beyond boot and answer, of the medians", first - boot - next);
}

/// From the start to the word that it listens.
fn boot(argv: &[&str], dir: &Path) -> Duration {
    let started = Instant::now();
    let mut command = Command::new(argv[0]);
    command.args(&argv[1..]).current_dir(dir).env("PORT", "0");
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).spawn().unwrap();
    let mut child = Running(child);
    let mut line = String::new();
    BufReader::new(child.0.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let took = started.elapsed();
    assert!(line.starts_with("TAKO:READY:"), "{line}");
    child.kill();
    took
}
