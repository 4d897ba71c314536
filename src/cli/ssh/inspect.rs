//! Inspect: what `ssh` makes of a server's name, and one login of which its log is read closely. Both take the options of a
//! session, so that what is found here is what a deploy meets; nothing else uses them than looking.
//!
//! **Invariant**: nothing here outlives its deadline, whatever a ssh_config runs, a network swallows or a login shell prints.

use std::io::Read;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, select};

use super::destination::Destination;
use super::verdict::{Class, Ending, has_started, is_let_in};
use super::{COMMAND, ENDING, cannot_start, program};
use crate::cli::child::{Owned, each_line, plain};
use crate::cli::config::inventory::Server;
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::cli::remote::hello::find_hello;
use crate::error::{Error, Kind, Result};
use crate::proto::control::Hello;

/// `ssh -G` reads files; only a `Match exec` in them takes its time.
const RESOLVING: Duration = Duration::from_secs(10);
/// A login through two jump hosts, each as slow as `ConnectTimeout` lets it be.
const LOGIN: Duration = Duration::from_secs(40);
/// All options there are, several times over.
const MAX_OPTIONS: u64 = 256 << 10;
/// Of the log of one login at its most talkative.
const MAX_LOG_LINES: usize = 2000;
/// Of what a login shell prints, to be recognised by.
const SAMPLE: usize = 160;

/// Where a name leads, by ssh_config and the inventory.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub host: String,
    pub user: String,
    pub port: u16,
    /// The ProxyJump or ProxyCommand between us and it.
    pub by_way_of: Option<String>,
    /// Keys in the order they are tried, as written; not all need to be there.
    pub keys: Vec<String>,
}

/// What one login came to.
pub(crate) struct Login {
    /// The log of `ssh`, then what the far side wrote to standard error.
    log: Vec<String>,
    pub hello: Option<Hello>,
    /// Bytes before the hello, or instead of it.
    pub noise: usize,
    /// How they begin.
    pub sample: String,
    exit: Option<i32>,
    server: String,
    login: String,
}

/// How far a login came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Reached {
    Nothing,
    /// The far side said what it is.
    Banner,
    /// Its host key is one that we trust.
    HostKey,
    LoggedIn,
    /// The login shell has come to what it was told to run.
    Shell,
    /// `tako-server` is there and was started.
    Program,
    /// The daemon behind it said hello.
    Hello,
}

/// What `ssh -G` says.
pub(super) struct Asked {
    /// A key in small letters and its value, one a line.
    pub text: String,
    exit: Option<i32>,
    err: Receiver<Vec<String>>,
}

/// What `ssh` makes of the user's configuration and our options; nothing connects. Within `limit`, else there is no text.
///
/// # Errors
/// Config, NotFound without an `ssh` on this machine, Interrupted.
pub(super) fn configuration(destination: &Destination, limit: Duration, interrupt: &Interrupt) -> Result<Asked> {
    let mut command = program("TAKO_SSH", "ssh", &destination.arguments);
    command.arg("-G");
    let (mut ssh, out, err) = start(&mut command, destination, None, |mut stdout| {
        let mut text = Vec::new();
        // Cut off it is no configuration, which is seen by who reads it.
        let _ = stdout.by_ref().take(MAX_OPTIONS).read_to_end(&mut text);
        String::from_utf8_lossy(&text).into_owned()
    })?;
    let text = heard(&out, limit, interrupt)?;
    let exit = ssh.wait_for(if text.is_some() { ENDING } else { Duration::ZERO }).and_then(|status| status.code());
    Ok(Asked { text: text.unwrap_or_default(), exit, err })
}

/// What `ssh` is told to connect to.
///
/// # Errors
/// Config for what `ssh` does not take, Timeout, NotFound without an `ssh` on this machine, Interrupted.
pub(crate) fn resolve(server: &Server, interrupt: &Interrupt) -> Result<Resolved> {
    let destination = Destination::of(server)?;
    let asked = configuration(&destination, RESOLVING, interrupt)?;
    match options(&asked.text) {
        Some(resolved) if asked.exit == Some(0) => Ok(resolved),
        _ => Err(Error::new(Kind::Config, format!("{}: ssh does not take its configuration", server.name))
            .with_detail(asked.err.recv_timeout(ENDING).unwrap_or_default())
            .hint(format!("see what `{}` says", destination.login))),
    }
}

/// Logs in on a connection of its own, whatever others are open, runs what a deploy runs, and says nothing to it.
///
/// # Errors
/// As [`resolve`]; a login that fails is none.
pub(crate) fn login(server: &Server, interrupt: &Interrupt) -> Result<Login> {
    let destination = Destination::of(server)?;
    let mut command = program("TAKO_SSH", "ssh", &destination.arguments);
    // The first value of an option wins.
    command.args(["-o", "LogLevel=DEBUG1", "-o", "ControlMaster=no", "-o", "ControlPath=none"]);
    let (mut ssh, out, err) = start(&mut command, &destination, Some(COMMAND), |stdout| {
        let mut stream = Sampled { stream: stdout, kept: Vec::new(), bytes: 0 };
        let greeted = find_hello(&mut stream).map(|(greeted, _)| greeted);
        let noise = greeted.as_ref().map_or(stream.bytes, |(_, noise)| *noise);
        stream.kept.truncate(noise);
        (greeted.map(|(hello, _)| hello), noise, stream.kept)
    })?;
    let heard = heard(&out, LOGIN, interrupt)?;
    let said_hello = heard.as_ref().is_some_and(|(hello, ..)| hello.is_some());
    // Killed where it has not ended: a login that takes too long, or one whose shell never stops printing.
    let exit = ssh.wait_for(if heard.is_some() { ENDING } else { Duration::ZERO }).and_then(|status| status.code());
    drop(ssh);
    let mut log = err.recv_timeout(ENDING).unwrap_or_default();
    if heard.is_none() {
        let seconds = LOGIN.as_secs();
        log.push(match is_let_in(&log) {
            true => format!("no word of it within {seconds} s"),
            false => format!("Connection timed out: not logged in after {seconds} s"),
        });
    }
    let (hello, noise, sample) = heard.unwrap_or_default();
    let exit = exit.filter(|_| !said_hello);
    let sample = plain(sample.split(|b| *b == b'\n').find(|line| !line.is_empty()).unwrap_or_default());
    Ok(Login { log, hello, noise, sample, exit, server: server.name.to_string(), login: destination.login })
}

impl Login {
    pub fn reached(&self) -> Reached {
        match self.hello {
            Some(_) => Reached::Hello,
            None => reached(&self.log, self.exit),
        }
    }

    /// Why it got no further.
    pub fn error(&self) -> Error {
        let ending = Ending { exit: self.exit, log: &self.log, greeted: false, login: &self.login };
        let class = Class::of(&ending);
        let class = if self.noise > 0 { class.after_noise() } else { class };
        class.error(&self.server, &ending)
    }

    /// Kind and fingerprint of the host key.
    pub fn host_key(&self) -> Option<String> {
        let (kind, print) = told(&self.log, "debug1: Server host key: ")?.split_once(' ')?;
        Some(format!("{} {print}", kind.trim_start_matches("ssh-")))
    }

    pub fn exchange(&self) -> Option<&str> {
        told(&self.log, "debug1: kex: algorithm: ")
    }

    /// How it was let in: the method, and the key if it was one.
    pub fn way_in(&self) -> Option<String> {
        let method = told(&self.log, "Authenticated to ")?.rsplit_once("using ")?.1.trim_matches(['"', '.']);
        let accepted =
            told(&self.log, "debug1: Server accepts key: ").map(|key| key.split(" explicit").next().unwrap_or(key));
        Some(match accepted {
            Some(key) => format!("{method}, {key}"),
            None => method.to_string(),
        })
    }
}

/// Starts `ssh` with the options of a session; what `read` makes of its output, and the lines of its errors, come by
/// their channels.
fn start<T: Send + 'static>(
    command: &mut Command,
    destination: &Destination,
    run: Option<&str>,
    read: impl FnOnce(std::process::ChildStdout) -> T + Send + 'static,
) -> Result<(Owned, Receiver<T>, Receiver<Vec<String>>)> {
    for option in &destination.options {
        command.arg("-o").arg(option);
    }
    command.args(["--", &destination.host]).args(run);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut ssh = Owned::spawn(command).map_err(|e| cannot_start("ssh", "TAKO_SSH", e))?;
    let stdout = ssh.child.stdout.take().expect("stdout was asked to be a pipe");
    let stderr = ssh.child.stderr.take().expect("stderr was asked to be a pipe");
    let ((to, out), (lines_to, lines)) = (bounded(1), bounded(1));
    thread::spawn(move || to.send(read(stdout)));
    thread::spawn(move || {
        let mut kept = Vec::new();
        each_line(stderr, |line| {
            if kept.len() < MAX_LOG_LINES {
                kept.push(line);
            }
        });
        lines_to.send(kept)
    });
    Ok((ssh, out, lines))
}

/// `None` when nothing came in time.
fn heard<T>(out: &Receiver<T>, limit: Duration, interrupt: &Interrupt) -> Result<Option<T>> {
    let [signal, sibling] = interrupt.bells();
    select! {
        recv(out) -> got => Ok(got.ok()),
        recv(signal) -> _ => Err(interrupted()),
        recv(sibling) -> _ => Err(interrupted()),
        default(limit) => Ok(None),
    }
}

/// The start of what passes.
struct Sampled<R> {
    stream: R,
    kept: Vec<u8>,
    bytes: usize,
}

impl<R: Read> Read for Sampled<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buf)?;
        self.bytes += read;
        let room = SAMPLE.saturating_sub(self.kept.len());
        self.kept.extend_from_slice(&buf[..read.min(room)]);
        Ok(read)
    }
}

/// What `ssh -G` printed: a key in small letters and its value, one a line.
fn options(text: &str) -> Option<Resolved> {
    let all = || text.lines().filter_map(|line| line.split_once(' '));
    let one = |key: &str| all().find(|(k, _)| *k == key).map(|(_, value)| value.trim().to_string());
    let set = |key: &str| one(key).filter(|value| value != "none" && !value.is_empty());
    Some(Resolved {
        host: set("hostname")?,
        user: set("user")?,
        port: set("port")?.parse().ok()?,
        by_way_of: set("proxyjump").or_else(|| set("proxycommand")),
        keys: all().filter(|(key, _)| *key == "identityfile").map(|(_, value)| value.to_string()).collect(),
    })
}

fn reached(log: &[String], exit: Option<i32>) -> Reached {
    let says = |text: &str| log.iter().any(|line| line.contains(text));
    match exit {
        _ if is_let_in(log) && has_started(log) => Reached::Program,
        // A login shell says 127 when there is no such command, and more when it could not be started or was killed.
        Some(127) if is_let_in(log) => Reached::Shell,
        Some(126 | 128..=254) if is_let_in(log) => Reached::Program,
        // With a word of nobody it was the shell that ended, whatever the status.
        _ if is_let_in(log) => Reached::LoggedIn,
        _ if says("Authentications that can continue") || says("matches the ") => Reached::HostKey,
        _ if says("Remote protocol version") => Reached::Banner,
        _ => Reached::Nothing,
    }
}

/// The rest of the last line that begins so: with a jump host there may be several, and the last is of the server.
fn told<'a>(log: &'a [String], start: &str) -> Option<&'a str> {
    log.iter().rev().find_map(|line| line.strip_prefix(start))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_ssh_would_do() {
        let text =
            "host fra1\nuser ana\nhostname 203.0.113.7\nport 2222\nidentityfile ~/.ssh/a\nidentityfile ~/.ssh/b c\n";
        let plain = Resolved {
            host: "203.0.113.7".into(),
            user: "ana".into(),
            port: 2222,
            by_way_of: None,
            keys: vec!["~/.ssh/a".into(), "~/.ssh/b c".into()],
        };
        for (more, by_way_of) in [
            ("", None),
            ("proxyjump bastion\n", Some("bastion")),
            ("proxyjump none\nproxycommand none\n", None),
            ("proxycommand nc -x proxy %h %p\n", Some("nc -x proxy %h %p")),
        ] {
            let expected = Resolved { by_way_of: by_way_of.map(Into::into), ..plain.clone() };
            assert_eq!(options(&format!("{text}{more}")), Some(expected), "{more}");
        }
        for bad in ["", "hostname a\nuser b\n", "hostname a\nuser b\nport 99999\n", "hostname\nuser b\nport 1"] {
            assert_eq!(options(bad), None, "{bad}");
        }
    }

    #[test]
    fn the_log_tells_how_far_a_login_came() {
        let check = |log: &[&str], exit, expected| {
            let log: Vec<String> = log.iter().map(ToString::to_string).collect();
            assert_eq!(reached(&log, exit), expected, "{log:?} {exit:?}");
        };
        let banner = "debug1: Remote protocol version 2.0, remote software version OpenSSH_9.2p1";
        let key = "debug1: Host '[127.0.0.1]:2222' is known and matches the ED25519 host key.";
        let ways = "debug1: Authentications that can continue: publickey";
        let inside = "Authenticated to 127.0.0.1 ([127.0.0.1]:2222) using \"publickey\".";
        check(&[], Some(255), Reached::Nothing);
        check(&["ssh: connect to host 127.0.0.1 port 1: Connection refused"], Some(255), Reached::Nothing);
        check(&[banner, "Host key verification failed."], Some(255), Reached::Banner);
        check(&[banner, key], Some(255), Reached::HostKey);
        check(&[banner, key, ways, "ana@fra1: Permission denied (publickey)."], Some(255), Reached::HostKey);
        check(&[banner, key, ways, inside], Some(127), Reached::Shell);
        check(&[banner, key, ways, inside], Some(137), Reached::Program);
        // The shell came to nothing that it was told.
        check(&[banner, key, ways, inside], Some(3), Reached::LoggedIn);
        check(&[banner, key, ways, inside, "nvm: broken"], Some(0), Reached::LoggedIn);
        check(&[banner, key, ways, inside, "tako-server: connect to /s"], Some(1), Reached::Program);
        // Cut off after the login: nothing is known of the program.
        check(&[banner, key, ways, inside], Some(255), Reached::LoggedIn);
        check(&[banner, key, ways, inside], None, Reached::LoggedIn);
    }

    #[test]
    fn what_a_login_found_is_read_from_its_log() {
        let log = "debug1: Remote protocol version 2.0, remote software version OpenSSH_9.2p1 Debian-2\n\
                   debug1: kex: algorithm: sntrup761x25519-sha512@openssh.com\n\
                   debug1: Server host key: ssh-ed25519 SHA256:Ab12\n\
                   debug1: Authentications that can continue: publickey,password\n\
                   debug1: Server accepts key: /home/ana/.ssh/id ED25519 SHA256:Cd34 explicit\n\
                   Authenticated to 127.0.0.1 ([127.0.0.1]:2222) using \"publickey\".";
        let login = Login {
            log: log.lines().map(Into::into).collect(),
            hello: None,
            noise: 0,
            sample: String::new(),
            exit: Some(127),
            server: "fra1".into(),
            login: "ssh fra1".into(),
        };
        assert_eq!(login.host_key().as_deref(), Some("ed25519 SHA256:Ab12"));
        assert_eq!(login.exchange(), Some("sntrup761x25519-sha512@openssh.com"));
        assert_eq!(login.way_in().as_deref(), Some("publickey, /home/ana/.ssh/id ED25519 SHA256:Cd34"));
        assert_eq!(login.error().to_string(), "fra1: tako-server is not installed there");
        let log = "debug1: Authenticating to 127.0.0.1:2222 as 'ana'\n\
                   debug1: Authentications that can continue: publickey,password\n\
                   debug1: Offering public key: /home/ana/.ssh/id ED25519 SHA256:Cd34 explicit\n\
                   ana@fra1: Permission denied (publickey,password).";
        let refused = Login { log: log.lines().map(Into::into).collect(), exit: Some(255), ..login };
        let told = refused.error();
        assert_eq!(
            told.detail()[1..],
            [
                "tried /home/ana/.ssh/id ED25519 SHA256:Cd34, as ana",
                "no agent was asked",
                "the server lets in by publickey,password"
            ]
        );
    }
}
