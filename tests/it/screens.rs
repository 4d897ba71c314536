//! What people see, from first contact to a deploy that fails: real commands over real `ssh` to three servers, in a real
//! terminal.
//!
//! Each screen is compared with the one that was reviewed, `tests/data/screens/terminal/NAME.txt`, without its colours and
//! with one word for whatever differs from run to run (times, sizes, ports). `docs/screens/NAME.svg` is the picture of a
//! screen as it was; that it still shows what the text says is tested too. `BLESS=1` renews both.

mod picture;

use std::fs;
use std::path::Path;
use std::process::Command;

use crate::golden;
use crate::sandbox::{Server, Sshd, User};
use crate::terminal::{Terminal, plain};

const NAMES: [&str; 3] = ["fra1", "nyc1", "sin1"];

/// It waits while there is a file `gate` in its data folder, and fails when there is one called `fail`.
const APP: &str = r#"import { existsSync } from "node:fs";
import { createServer } from "node:http";

const there = (name) => existsSync(`${process.env.TAKO_DATA_DIR}/${name}`);

if (there("fail")) {
  console.error("Error: connect ECONNREFUSED 10.0.0.5:5432");
  console.error("    at Socket.<anonymous> (src/db.js:14:9)");
  process.exit(1);
}
while (there("gate")) await new Promise((resolve) => setTimeout(resolve, 20));
console.log("connected to the database");
createServer((request, response) => {
  console.log(`${request.method} ${request.url}`);
  response.end("hello\n");
}).listen(process.env.PORT);
"#;

const CONFIG: &str = r#"name = "my-app"
runtime = "node"
main = "index.mjs"

[envs.production]
route = "my-app.example.com"
servers = ["fra1", "nyc1", "sin1"]
instances = 2
"#;

struct World {
    servers: Vec<Server>,
    _sshds: Vec<Sshd>,
    user: User,
}

impl World {
    fn new() -> World {
        let servers: Vec<Server> = NAMES.iter().map(|_| Server::start()).collect();
        let sshds: Vec<Sshd> = servers.iter().map(Sshd::start).collect();
        let user = User::new(&sshds[0]);
        sshds[1..].iter().for_each(|other| sshds[0].join(other));
        for (name, sshd) in NAMES.iter().zip(&sshds) {
            user.must(&["servers", "add", "127.0.0.1", "--name", name, "--port", &sshd.port.to_string()]);
        }
        let world = World { servers, _sshds: sshds, user };
        world.user.write("index.mjs", APP);
        world.user.write("tako.toml", CONFIG);
        world.git(&["init", "--quiet", "--initial-branch", "main"]);
        world.commit("Initial checkout");
        world
    }

    /// With a date of its own and nothing of this machine, so that it has the same name each time.
    fn commit(&self, message: &str) {
        self.git(&["add", "."]);
        self.git(&["commit", "--quiet", "-m", message]);
    }

    fn git(&self, args: &[&str]) {
        let mut git = Command::new("git");
        git.args(args).current_dir(self.user.project()).env("HOME", self.user.dir.path());
        for role in ["AUTHOR", "COMMITTER"] {
            git.env(format!("GIT_{role}_NAME"), "Ana").env(format!("GIT_{role}_EMAIL"), "ana@example.com");
            git.env(format!("GIT_{role}_DATE"), "2026-01-02T03:04:05Z");
        }
        assert!(git.status().unwrap().success(), "git {args:?}");
    }

    fn change(&self, message: &str) {
        self.user.write("index.mjs", &format!("{APP}// {message}\n"));
        self.commit(message);
    }

    fn type_in(&self, args: &[&str]) -> Terminal {
        Terminal::run(self.user.command(args).env("USER", "ana"))
    }

    /// Sets or takes away one of the files that the app looks for.
    fn mark(&self, server: &str, name: &str, there: bool) {
        let at = NAMES.iter().position(|n| *n == server).unwrap();
        let file = self.servers[at].app("my-app").join("shared/data").join(name);
        if there { fs::write(file, "").unwrap() } else { fs::remove_file(file).unwrap() }
    }
}

#[test]
fn what_people_see_of_a_server_that_is_new() {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    let config = user.dir.path().join("ssh_config");
    let known = user.dir.path().join("known_hosts");
    let alias = format!(
        "Host fra1.example.com\n  HostName 127.0.0.1\n  Port {}\n  StrictHostKeyChecking ask\n  UserKnownHostsFile {}\n",
        sshd.port,
        known.display()
    );
    let theirs = fs::read_to_string(sshd.dir().join("ssh_config")).unwrap();
    fs::write(&config, alias + &theirs).unwrap();
    let args = ["servers", "add", "fra1.example.com"];
    let mut command = user.command(&args);
    command.env("TAKO_SSH_OPTIONS", format!("-F {}", config.display()));
    let terminal = Terminal::run(&command);
    terminal.shows(&["SHA256:", "[y/N"]);
    terminal.press(&["y", "Enter"]);
    let (screen, status) = terminal.end();
    assert_eq!(status, 0, "{}", plain(&screen));
    check("first-contact", &args, &screen);
    assert!(fs::read_to_string(known).unwrap().contains("ssh-ed25519"));
}

#[test]
fn what_people_see() {
    let world = World::new();
    let ended = |name: &str, args: &[&str], code: i32| {
        let (screen, status) = world.type_in(args).end();
        assert_eq!(status, code, "{}", plain(&screen));
        check(name, args, &screen);
    };

    world.user.write("tako.toml", &CONFIG.replace("instances", "instancs"));
    ended("config-error", &["deploy"], 3);
    world.user.write("tako.toml", CONFIG);

    ended("success", &["deploy", "--yes"], 0);

    world.change("Fix cart rounding");
    world.mark("nyc1", "gate", true);
    let deploy = world.type_in(&["deploy", "--yes"]);
    let running = deploy.shows(&["fra1      2/2 live", "sin1      2/2 live", "nyc1      instance 1/2"]);
    check("progress", &["deploy", "--yes"], &running);
    ended("lock-held", &["deploy", "--yes"], 7);
    world.mark("nyc1", "gate", false);
    assert_eq!(deploy.end().1, 0);

    world.change("Add coupons");
    world.mark("nyc1", "fail", true);
    ended("failure", &["deploy", "--yes"], 5);
    ended("status", &["status"], 0);
    ended("releases", &["releases", "ls"], 0);
    ended("logs", &["logs", "--server", "nyc1", "--lines", "12"], 0);
    world.mark("nyc1", "fail", false);
    ended("dry-run", &["deploy", "--dry-run"], 0);
}

/// Compares a screen with the one that was reviewed, and the picture with both.
fn check(name: &str, args: &[&str], screen: &str) {
    let command = format!("tako {}", args.join(" "));
    let here = Command::new("uname").arg("-n").output().unwrap().stdout;
    let screen = screen.replace(String::from_utf8(here).unwrap().trim(), "laptop");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let picture = root.join(format!("docs/screens/{name}.svg"));
    if std::env::var_os("BLESS").is_some() {
        fs::create_dir_all(picture.parent().unwrap()).unwrap();
        fs::create_dir_all(root.join("tests/data/screens/terminal")).unwrap();
        fs::write(&picture, picture::of(&command, &screen)).unwrap();
    }
    let shown = format!("$ {command}\n{}\n", plain(&screen));
    golden::check(&Path::new("tests/data/screens/terminal").join(format!("{name}.txt")), &steady(&shown));
    let drawn = fs::read_to_string(&picture).unwrap_or_default();
    assert_eq!(steady(&picture::text(&drawn)), steady(&shown), "{} is of another screen", picture.display());
}

/// A screen without what differs from run to run: two blanks for any more, and a word for each sort of number.
fn steady(screen: &str) -> String {
    let line = |line: &str| {
        let parts: Vec<String> = line.trim_end().split("  ").map(|part| words(part.trim())).collect();
        let mut line = String::new();
        for (at, part) in parts.iter().enumerate().filter(|(at, part)| *at == 0 || !part.is_empty()) {
            line.push_str(if at == 0 { "" } else { "  " });
            line.push_str(part);
        }
        line
    };
    screen.lines().map(line).map(|line| line + "\n").collect()
}

fn words(part: &str) -> String {
    let mut steady: Vec<String> = Vec::new();
    for word in part.split(' ') {
        let last_is_number = steady.last().is_some_and(|last| is_number(last));
        let word = match word {
            _ if word.strip_suffix('%').is_some_and(is_number) => "PART".into(),
            "B" | "kB" | "MB" | "GB" if last_is_number => {
                *steady.last_mut().unwrap() = "SIZE".into();
                continue;
            }
            "ms" | "s" if last_is_number => {
                *steady.last_mut().unwrap() = "TIME".into();
                continue;
            }
            _ if is_duration(word) => "TIME".into(),
            _ if word.contains("SHA256:") => "SHA256:FINGERPRINT".into(),
            _ if is_clock(word) => "CLOCK".into(),
            _ if word.chars().next().is_some_and(|c| ('\u{2800}'..='\u{28ff}').contains(&c)) => "SPIN".into(),
            _ => port(word),
        };
        // "1m 40s" is one duration.
        if !(word == "TIME" && steady.last().is_some_and(|last| last == "TIME")) {
            steady.push(word);
        }
    }
    steady.join(" ")
}

fn is_number(word: &str) -> bool {
    !word.is_empty() && word.bytes().all(|b| b.is_ascii_digit() || b == b'.')
}

fn is_duration(word: &str) -> bool {
    let word = word.trim_matches(['(', ')', ',', ';', ':', '[', ']']);
    ["ms", "s", "m", "h"].iter().any(|unit| word.strip_suffix(unit).is_some_and(is_number))
}

fn is_clock(word: &str) -> bool {
    word.len() >= 8
        && word.matches([':', '-']).count() > 1
        && word.bytes().all(|b| b.is_ascii_digit() || b"-:.TZ".contains(&b))
}

/// A port that was free a moment ago is not one that was chosen.
fn port(word: &str) -> String {
    let bare = word.trim_end_matches([')', ',', ';']);
    match bare.rsplit_once(':') {
        Some((host, digits)) if digits.len() >= 4 && digits.bytes().all(|b| b.is_ascii_digit()) => {
            format!("{host}:PORT{}", &word[bare.len()..])
        }
        _ => word.into(),
    }
}
