//! One deploy over three real servers, each behind a real `sshd`: who fails, when, and what the others do then.
//!
//! The app and its installer do on each server what files there say (`tests/data/apps/fleet`); what happens in between is
//! waited for by the events that `tako deploy --json` tells.

mod cancel;
mod full;
mod network;
mod phases;
mod plan;
mod secrets;
mod turns;

use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, ChildStdout, Stdio};
use std::sync::mpsc::{Receiver, channel};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::netns::Net;
use crate::sandbox::{Ran, Server, Sshd, User};

/// Longer than anything here takes on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

pub const NAMES: [&str; 3] = ["one", "two", "three"];

pub struct Fleet {
    pub servers: [Server; 3],
    pub sshds: [Sshd; 3],
    pub user: User,
    changes: std::cell::Cell<u32>,
}

impl Fleet {
    pub fn start() -> Fleet {
        Fleet::of([(); 3].map(|()| Server::start()), |_, _| {})
    }

    /// Each on a network of its own.
    pub fn on(net: &Net) -> Fleet {
        let mut fleet = Fleet::of([0, 1, 2].map(|n| Server::at(&net.place(n))), |n, sshd| net.lead(n, sshd));
        // So that a dead network is noticed in seconds. The first value wins, and these come before ours.
        fleet.user = fleet.user.with_ssh("-oServerAliveInterval=1 -oServerAliveCountMax=4 -oConnectTimeout=2");
        fleet
    }

    /// Of these servers; `lead` may put something in front of each.
    pub fn of(servers: [Server; 3], lead: impl Fn(usize, &mut Sshd)) -> Fleet {
        let sshds = [0, 1, 2].map(|n: usize| {
            let mut sshd = Sshd::start(&servers[n]);
            lead(n, &mut sshd);
            sshd
        });
        sshds[0].join(&sshds[1]);
        sshds[0].join(&sshds[2]);
        let user = User::new(&sshds[0]);
        user.use_app("fleet", false);
        let fleet = Fleet { servers, sshds, user, changes: Default::default() };
        fleet.know(&fleet.user);
        fleet
    }

    /// A second person with the same project.
    pub fn other(&self) -> User {
        let user = User::new(&self.sshds[0]);
        user.use_app("fleet", false);
        self.know(&user);
        user
    }

    fn know(&self, user: &User) {
        for (name, sshd) in NAMES.iter().zip(&self.sshds) {
            let port = sshd.port.to_string();
            let port = if sshd.port == 22 { &[][..] } else { &["--port", &port] };
            user.must(&[&["servers", "add", sshd.host(), "--name", name], port].concat());
        }
    }

    /// From now on server `n` does so.
    pub fn say(&self, n: usize, word: &str) {
        fs::write(self.servers[n].dir.path().join(word), "").unwrap();
    }

    pub fn unsay(&self, n: usize, word: &str) {
        fs::remove_file(self.servers[n].dir.path().join(word)).unwrap();
    }

    /// The next version of the app.
    pub fn change(&self) {
        self.changes.set(self.changes.get() + 1);
        self.user.write("change.txt", &format!("change {}", self.changes.get()));
    }

    pub fn live(&self, n: usize) -> Option<String> {
        self.servers[n].status("shop")?["version"].as_str().map(str::to_owned)
    }

    pub fn lives(&self) -> [Option<String>; 3] {
        [0, 1, 2].map(|n| self.live(n))
    }

    pub fn pids(&self, n: usize) -> Vec<u64> {
        let status = self.servers[n].status("shop").unwrap();
        status["instances"].as_array().unwrap().iter().map(|i| i["pid"].as_u64().unwrap()).collect()
    }

    /// A deploy that must succeed, and what it says of each server.
    pub fn deploy(&self) -> Value {
        self.user.result(&["deploy", "--yes", "--json"])
    }

    pub fn begin(&self, args: &[&str]) -> Run {
        Run::begin(&self.user, args)
    }
}

pub fn version(result: &Value) -> String {
    result["version"].as_str().unwrap_or_else(|| panic!("no version in {result}")).to_owned()
}

/// What it says of the server `name`.
pub fn of<'a>(result: &'a Value, name: &str) -> &'a Value {
    let servers = result["servers"].as_array().unwrap_or_else(|| panic!("no servers in {result}"));
    servers.iter().find(|s| s["server"] == name).unwrap_or_else(|| panic!("no {name} in {result}"))
}

/// How each server stands, in the order of their names.
pub fn states(result: &Value) -> [&str; 3] {
    NAMES.map(|name| of(result, name)["state"].as_str().unwrap_or_else(|| panic!("no state in {result}")))
}

/// The event `name` of a run that may have failed.
pub fn event(ran: &Ran, name: &str) -> Value {
    let mut events = ran.out.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    events.rfind(|event| event["event"] == name).unwrap_or_else(|| panic!("no event {name}: {ran}"))
}

/// A command with `--json` that is under way.
pub struct Run {
    args: String,
    child: Child,
    events: Receiver<String>,
    seen: Vec<String>,
}

impl Run {
    pub fn begin(user: &User, args: &[&str]) -> Run {
        let mut command = user.command(args);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let events = lines(child.stdout.take().unwrap());
        Run { args: args.join(" "), child, events, seen: Vec::new() }
    }

    /// Waits for a task to say this.
    pub fn until(&mut self, task: &str, text: &str) {
        let told = |line: &String| {
            let event: Value = serde_json::from_str(line).unwrap_or_default();
            event["task"] == task && event["text"].as_str().is_some_and(|t| t.contains(text))
        };
        while !self.seen.iter().any(told) {
            match self.events.recv_timeout(PATIENCE) {
                Ok(line) => self.seen.push(line),
                Err(_) => panic!("{task} never said {text:?}: {}", self.ended()),
            }
        }
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(i32::try_from(self.child.id()).unwrap()).unwrap(), signal).unwrap();
    }

    /// Ctrl-C.
    pub fn interrupt(&self) {
        self.signal(Signal::INT);
    }

    /// Waits for it to say that it cancels, which is on its standard error.
    pub fn until_it_cancels(&mut self) {
        let mut said = String::new();
        let mut stderr = BufReader::new(self.child.stderr.take().unwrap());
        while !said.contains("cancelling") {
            let read = stderr.read_line(&mut said).unwrap();
            assert_ne!(read, 0, "it ended without a word of cancelling: {said}");
        }
        // Nobody must wait for us to read the rest.
        thread::spawn(move || std::io::copy(&mut stderr, &mut std::io::sink()));
    }

    /// The `ssh` that it has started, by their arguments.
    pub fn connections(&self) -> Vec<(Pid, String)> {
        let parent = format!("PPid:\t{}\n", self.child.id());
        let processes = fs::read_dir("/proc").unwrap().flatten().filter(|process| {
            fs::read_to_string(process.path().join("status")).is_ok_and(|status| status.contains(&parent))
        });
        let command = |path: std::path::PathBuf| {
            let pid = Pid::from_raw(path.file_name()?.to_str()?.parse().ok()?)?;
            let line = fs::read(path.join("cmdline")).ok()?;
            Some((pid, String::from_utf8_lossy(&line).replace('\0', " ")))
        };
        processes.filter_map(|process| command(process.path())).collect()
    }

    pub fn end(mut self) -> Ran {
        self.ended()
    }

    fn ended(&mut self) -> Ran {
        self.seen.extend(self.events.iter());
        let mut err = Vec::new();
        if let Some(mut stderr) = self.child.stderr.take() {
            stderr.read_to_end(&mut err).unwrap();
        }
        let status = self.child.wait().unwrap();
        let stdout = self.seen.join("\n").into_bytes();
        Ran::from(&[&self.args], std::process::Output { status, stdout, stderr: err })
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn lines(stdout: ChildStdout) -> Receiver<String> {
    let (to, lines) = channel();
    thread::spawn(move || {
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            if to.send(line).is_err() {
                return;
            }
        }
    });
    lines
}
