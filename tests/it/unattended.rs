//! Nobody is there: every command that there is, run by what cannot answer. A closed standard input, a pipe that says
//! something and never ends, a terminal in CI and one with `--no-input`: none may wait, none may read what is not meant
//! for it, and where an answer is needed the flag to give is named.

use std::io::{Read, Write, pipe};
use std::os::fd::AsFd;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::cli::{COMMANDS, documented};
use crate::sandbox::{Ran, Running, TAKO, User};

/// Questions that the table's command lines do not lead to, and the flag or argument that answers them.
const MORE: &[(&[&str], &str)] =
    &[(&["servers", "add"], "HOST"), (&["servers", "rm", "box"], "--yes"), (&["delete"], "--confirm")];

/// What is said on the pipe: good answers to questions that must not be asked.
const ANSWERS: &[u8] = b"y\nshop\nyes\n";

/// How long a command may take; far more than any of them needs.
const PATIENCE: Duration = Duration::from_secs(60);

#[derive(Debug, Clone, Copy)]
enum Way {
    Closed,
    Pipe,
    /// A terminal, and `CI=1`.
    Ci,
    /// A terminal, and `--no-input`.
    NoInput,
}

impl Way {
    /// Runs `tako` and gives up on it after a while.
    fn run(self, user: &User, args: &[&str]) -> Ran {
        let (reader, mut writer) = pipe().unwrap();
        writer.write_all(ANSWERS).unwrap();
        let mut command = match self {
            Way::Closed => {
                let mut shell = Command::new("sh");
                shell.args(["-c", r#"exec "$0" "$@" <&-"#, TAKO]).args(args);
                shell
            }
            Way::Pipe => {
                let mut tako = Command::new(TAKO);
                tako.args(args).stdin(reader.try_clone().unwrap());
                tako
            }
            Way::Ci | Way::NoInput => {
                let flag = if matches!(self, Way::NoInput) { &["--no-input"][..] } else { &[] };
                let words: Vec<String> = [&[TAKO], args, flag].concat().iter().map(|w| format!("'{w}'")).collect();
                let mut script = Command::new("script");
                // It has a pipe of its own, and what it reads there is typed.
                script.args(["-qefc", &words.join(" "), "/dev/null"]).stdin(reader.try_clone().unwrap());
                script
            }
        };
        for (name, value) in user.command(args).get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        if matches!(self, Way::Ci) {
            command.env("CI", "1");
        }
        command.current_dir(user.project()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = Running(command.spawn().unwrap());
        let (mut stdout, mut stderr) = (child.0.stdout.take().unwrap(), child.0.stderr.take().unwrap());
        // From the start: nothing of it may wait for us.
        let (out, err) = std::thread::scope(|scope| {
            let out = scope.spawn(move || all(&mut stdout));
            let err = scope.spawn(move || all(&mut stderr));
            let began = Instant::now();
            while child.0.try_wait().unwrap().is_none() && began.elapsed() < PATIENCE {
                std::thread::sleep(Duration::from_millis(10));
            }
            let ended = child.0.try_wait().unwrap().is_some();
            child.kill();
            let (out, err) = (out.join().unwrap(), err.join().unwrap());
            assert!(ended, "{self:?}: `tako {}` waits: {}", args.join(" "), String::from_utf8_lossy(&err));
            (out, err)
        });
        let status = child.0.wait().unwrap();
        // The input of `tako run` is that of its command.
        if matches!(self, Way::Pipe) && args[..] != ["run", "true"] {
            assert_eq!(left(&reader), ANSWERS.len(), "`tako {}` read what was not for it", args.join(" "));
        }
        Ran::from(args, Output { status, stdout: out, stderr: err })
    }

    fn check(self, user: &User, args: &[&str], code: i32, names: &str) {
        let ran = self.run(user, args);
        assert_eq!(ran.code, code, "{self:?}: {ran}");
        // Of a terminal both come as one.
        let said = format!("{}{}", ran.out, ran.err);
        for prompt in ["[y/N]", "(not shown)", "host name, address or alias of your ssh_config:"] {
            assert!(!said.contains(prompt), "{self:?}: {ran}");
        }
        // What to give instead of an answer; on a terminal it may be folded.
        let hint = said.split_once("hint:").map_or("", |(_, hint)| hint);
        assert!(code != 10 || hint.contains(names), "{self:?}: {ran}");
    }

    fn walk(self, user: &User) {
        user.write("change.txt", &format!("{self:?}"));
        for (name, args, code) in COMMANDS {
            // A key does not go to a screen, whether there is one or not.
            let is_screen = matches!(self, Way::Ci | Way::NoInput) && *name == "secrets-key-export";
            self.check(user, args, if is_screen { 2 } else { *code }, "");
        }
        for (args, names) in MORE {
            self.check(user, args, 10, names);
        }
        // Nobody is there, and the next walk begins like this one.
        user.must(&["servers", "rm", "other", "--yes"]);
    }
}

fn all(stream: &mut impl Read) -> Vec<u8> {
    let mut bytes = Vec::new();
    stream.read_to_end(&mut bytes).unwrap();
    bytes
}

/// Bytes that are in the pipe, without waiting for more.
fn left(mut reader: impl Read + AsFd) -> usize {
    let mut bytes = [0; 64];
    let ready = poll(&mut [PollFd::new(&reader, PollFlags::IN)], Some(&Timespec::default())).unwrap();
    if ready == 0 { 0 } else { reader.read(&mut bytes).unwrap() }
}

fn walk(ways: &[Way]) {
    let (_server, _sshd, user) = super::deploy::world();
    user.must(&["deploy"]);
    ways.iter().for_each(|way| way.walk(&user));
}

#[test]
fn every_command_ends_by_itself_without_a_standard_input() {
    walk(&[Way::Closed]);
    // None of the table is forgotten: each has its help text.
    let mut tried: Vec<&str> = COMMANDS.iter().map(|(name, ..)| *name).collect();
    let mut documented = documented();
    tried.sort_unstable();
    documented.sort_unstable();
    assert_eq!(tried, documented);
}

#[test]
fn every_command_leaves_a_pipe_alone_that_is_not_meant_for_it() {
    walk(&[Way::Pipe]);
}

#[test]
fn every_command_asks_nobody_on_a_terminal_of_ci_or_when_told_not_to() {
    walk(&[Way::Ci, Way::NoInput]);
}
