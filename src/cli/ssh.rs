//! The system `ssh` and `sftp`: one connection per server that is master and control channel at once.
//!
//! The remote command is a constant; whatever varies travels as JSON on its standard input, so nothing is ever quoted
//! for a remote shell. Host, user, port, keys, agent and jump hosts stay the user's, from ssh_config; everything that
//! could put other bytes on our channel is switched off.
//!
//! **Invariant**: nothing of a session outlives its [`Session`]: no process, no control socket, no log file.

mod verdict;

use std::env;
use std::ffi::OsString;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::{Receiver, bounded, select};

use super::child::{Owned, Tail, plain};
use super::config::inventory::Server;
use super::interrupt::{Interrupt, interrupted};
use crate::crypto::{self, Sha256};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::Artifact;
use verdict::{Class, Ending};

/// All that is ever run on a server.
const COMMAND: &str = "tako-server ctl";

/// What keeps a ssh_config from changing what goes over our channel, and a dead network from hanging us.
const OPTIONS: [&str; 17] = [
    "BatchMode=yes",
    "ConnectTimeout=10",
    "ServerAliveInterval=5",
    "ServerAliveCountMax=3",
    // zstd data gets several times slower with it.
    "Compression=no",
    "RemoteCommand=none",
    "RequestTTY=no",
    "ClearAllForwardings=yes",
    "ForwardAgent=no",
    "ForwardX11=no",
    "PermitLocalCommand=no",
    "VisualHostKey=no",
    "SendEnv=-*",
    "EscapeChar=none",
    "Tunnel=no",
    "ControlPersist=no",
    "LogLevel=VERBOSE",
];

/// `ssh` appends 17 characters to a control path, and macOS allows 104 in all.
const MAX_CONTROL_PATH: usize = 86;
/// Lines of standard error and of the log that are kept for the verdict.
const KEPT_LINES: usize = 40;
const MAX_LOG: u64 = 16 << 10;
/// What `ssh` may take to end once its channel has.
const ENDING: Duration = Duration::from_secs(3);
/// An incoming folder longer than this is no path of ours.
const MAX_REMOTE_PATH: usize = 1024;

/// A running `ssh`.
pub(crate) struct Session {
    server: String,
    ssh: Owned,
    stderr: Tail,
    files: Files,
    destination: Destination,
}

/// A running `sftp`, ended on drop.
pub(crate) struct Upload {
    server: String,
    login: String,
    part: String,
    sftp: Owned,
    stderr: Tail,
    /// Whether bytes were sent; `None` when sftp ended early.
    tell: Receiver<Option<bool>>,
}

/// What goes to `ssh` and `sftp` alike to reach one server.
struct Destination {
    host: String,
    options: Vec<String>,
    /// The same for a person to type.
    login: String,
}

/// The control socket and the log of one session, removed on drop.
struct Files {
    /// `None` when no folder with a path short enough was found; then `sftp` makes a connection of its own.
    control: Option<PathBuf>,
    log: PathBuf,
}

impl Session {
    /// Starts `ssh`; whether it gets through shows on the returned streams.
    ///
    /// # Errors
    /// Config for a host or user that must not become an argument; NotFound without an `ssh` on this machine.
    pub fn start(server: &Server) -> Result<(Session, ChildStdin, ChildStdout)> {
        let destination = Destination::of(server)?;
        let files = Files::new(&runtime_dir()?)?;
        let mut command = program("TAKO_SSH", "ssh");
        command.arg("-E").arg(&files.log);
        if let Some(control) = &files.control {
            command.arg("-o").arg("ControlMaster=yes").arg("-o").arg(control_option(control));
        }
        for option in &destination.options {
            command.arg("-o").arg(option);
        }
        command.args(["--", &destination.host, COMMAND]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut ssh = Owned::spawn(&mut command).map_err(|e| cannot_start("ssh", "TAKO_SSH", e))?;
        let stdin = ssh.child.stdin.take().expect("stdin was asked to be a pipe");
        let stdout = ssh.child.stdout.take().expect("stdout was asked to be a pipe");
        let stderr = Tail::of(ssh.child.stderr.take().expect("stderr was asked to be a pipe"), KEPT_LINES);
        let server = server.name.to_string();
        Ok((Session { server, ssh, stderr, files, destination }, stdin, stdout))
    }

    /// Why the channel ended, and whether another try may help. `greeted` tells whether it ever worked.
    pub fn verdict(&mut self, greeted: bool) -> (Error, bool) {
        let exit = self.ssh.wait_for(ENDING).and_then(|status| status.code());
        let mut log = self.files.read_log();
        log.extend(self.stderr.lines());
        let ending = Ending { exit, log: &log, greeted, login: &self.destination.login };
        let class = Class::of(&ending);
        (class.error(&self.server, &ending), class.is_retryable())
    }

    /// Begins to put `file` into the server's `incoming` folder as `artifact.file`: under a name of its own first, then
    /// by a rename. Without `again`, one that lies there with the right size is left alone.
    pub fn start_upload(&self, file: &Path, incoming: &str, artifact: &Artifact, again: bool) -> Result<Upload> {
        let remote = remote_path(incoming, &artifact.file)?;
        let part = format!("{}.{}.part", artifact.file, hex8()?);
        let (folder, name) = file
            .parent()
            .zip(file.file_name().and_then(|n| n.to_str()))
            .ok_or_else(|| Error::new(Kind::Bug, format!("{} is not a file's path", file.display())))?;
        let mut command = program("TAKO_SFTP", "sftp");
        command.args(["-b", "-", "-o", "ControlMaster=no"]);
        if let Some(control) = &self.files.control {
            command.arg("-o").arg(control_option(control));
        }
        for option in &self.destination.options {
            command.arg("-o").arg(option);
        }
        command.args(["--", &self.destination.for_sftp()]).current_dir(folder);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut sftp = Owned::spawn(&mut command).map_err(|e| cannot_start("sftp", "TAKO_SFTP", e))?;
        let stdin = sftp.child.stdin.take().expect("stdin was asked to be a pipe");
        let stdout = sftp.child.stdout.take().expect("stdout was asked to be a pipe");
        let stderr = Tail::of(sftp.child.stderr.take().expect("stderr was asked to be a pipe"), KEPT_LINES);

        // The talk with sftp blocks, so it has a thread; dropping `sftp` ends both.
        let part_path = remote_path(incoming, &part)?;
        let batch = Batch { remote, part: part_path, name: name.into(), bytes: artifact.bytes, again };
        let (told, tell) = bounded(1);
        thread::spawn(move || {
            // Nobody listens any more after an interrupt.
            let _ = told.send(batch.run(stdin, stdout));
        });
        let (server, login) = (self.server.clone(), self.destination.login.clone());
        Ok(Upload { server, login, part, sftp, stderr, tell })
    }
}

impl Upload {
    /// The name in the incoming folder under which the bytes arrive.
    pub fn part(&self) -> &str {
        &self.part
    }

    /// How it ended, if it does within `limit`: whether bytes were sent.
    ///
    /// # Errors
    /// Interrupted; then it is stopped.
    pub fn wait(&mut self, limit: Duration, interrupt: &Interrupt) -> Result<Option<Result<bool>>> {
        let [signal, sibling] = interrupt.bells();
        let sent = select! {
            recv(self.tell) -> sent => sent.unwrap_or(None),
            recv(signal) -> _ => return Err(interrupted()),
            recv(sibling) -> _ => return Err(interrupted()),
            default(limit) => return Ok(None),
        };
        let exit = self.sftp.wait_for(ENDING).and_then(|status| status.code());
        Ok(Some(match (sent, exit) {
            (Some(sent), Some(0)) => Ok(sent),
            _ => Err(self.failed(exit, &self.stderr.lines())),
        }))
    }

    fn failed(&self, exit: Option<i32>, log: &[String]) -> Error {
        let ending = Ending { exit, log, greeted: false, login: &self.login };
        match Class::of(&ending) {
            Class::Other | Class::Program | Class::NotInstalled => {
                let why = log.last().map_or("sftp ended without a word", String::as_str);
                Error::new(Kind::Unreachable, format!("{}: upload the artifact: {why}", self.server))
                    .with_detail(log.to_vec())
                    .hint("may the SSH user write into the server's incoming folder, and is the disk full?")
            }
            class => class.error(&self.server, &ending),
        }
    }
}

/// One conversation with `sftp -b -`. It echoes each command and reads the next when it is done with the last.
struct Batch {
    remote: String,
    part: String,
    /// Of the local file, in the folder that sftp runs in. Ours, so free of characters that sftp gives a meaning.
    name: String,
    bytes: u64,
    again: bool,
}

impl Batch {
    /// Whether bytes were sent; `None` when sftp ended early.
    fn run(&self, mut stdin: ChildStdin, stdout: ChildStdout) -> Option<bool> {
        let mut lines = BufReader::new(stdout.take(MAX_LOG)).lines().map_while(std::result::Result::ok);
        if !self.again {
            // The dash lets the batch go on when there is no such file. `pwd` tells us that the listing is over.
            write!(stdin, "-ls -ln \"{}\"\npwd\n", self.remote).ok()?;
            let mut there = false;
            loop {
                match lines.next()? {
                    line if line.starts_with("Remote working directory") => break,
                    line => there |= listed_size(&line, &self.remote) == Some(self.bytes),
                }
            }
            if there {
                return Some(false);
            }
        }
        writeln!(stdin, "put \"{}\" \"{}\"", self.name, self.part).ok()?;
        writeln!(stdin, "rename \"{}\" \"{}\"", self.part, self.remote).ok()?;
        drop(stdin);
        lines.for_each(drop);
        Some(true)
    }
}

/// The size in a line of `ls -ln`, if the line is about `path`.
fn listed_size(line: &str, path: &str) -> Option<u64> {
    let fields: Vec<&str> = line.split_ascii_whitespace().collect();
    let [mode, _links, _uid, _gid, size, .., name] = fields[..] else { return None };
    (mode.starts_with('-') && name == path).then(|| size.parse().ok())?
}

impl Destination {
    fn of(server: &Server) -> Result<Destination> {
        check_word("host", &server.host, b"._-:")?;
        let mut options: Vec<String> = OPTIONS.map(Into::into).into();
        if let Some(user) = &server.user {
            check_word("user", user, b"._-+@")?;
            options.push(format!("User={user}"));
        }
        if let Some(port) = server.port {
            options.push(format!("Port={port}"));
        }
        Ok(Destination { host: server.host.clone(), options, login: login(server) })
    }

    /// `sftp` takes what follows a colon for a path.
    fn for_sftp(&self) -> String {
        match self.host.contains(':') {
            true => format!("[{}]", self.host),
            false => self.host.clone(),
        }
    }
}

impl Files {
    fn new(dir: &Path) -> Result<Files> {
        let name = hex8()? + &hex8()?;
        let control = dir.join(&name);
        let short = control.as_os_str().len() <= MAX_CONTROL_PATH;
        Ok(Files { control: short.then_some(control), log: dir.join(name + ".log") })
    }

    fn read_log(&self) -> Vec<String> {
        let Ok(mut file) = File::open(&self.log) else { return Vec::new() };
        let length = file.metadata().map_or(0, |m| m.len());
        let mut bytes = Vec::new();
        let _ = file.seek(SeekFrom::Start(length.saturating_sub(MAX_LOG)));
        let _ = file.take(MAX_LOG).read_to_end(&mut bytes);
        let lines: Vec<String> = bytes.split(|b| *b == b'\n').map(plain).filter(|l| tells_something(l)).collect();
        lines[lines.len().saturating_sub(KEPT_LINES)..].to_vec()
    }
}

/// Not the farewell of every session, nor the frame around a warning.
fn tells_something(line: &str) -> bool {
    let frame = line.bytes().all(|b| b == b'@');
    !(frame || line.starts_with("Transferred: ") || line.starts_with("Bytes per second: "))
}

impl Drop for Files {
    fn drop(&mut self) {
        for file in self.control.iter().chain([&self.log]) {
            let _ = fs::remove_file(file);
        }
    }
}

/// A private folder for sockets with a short path: that of the login session, else one of our own.
fn runtime_dir() -> Result<PathBuf> {
    let own = || PathBuf::from(format!("/tmp/tako-{}", rustix::process::getuid().as_raw()));
    let dir = match env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from) {
        // Sixteen digits and a slash go below it.
        Some(dir) if dir.is_dir() && dir.as_os_str().len() + "/tako/".len() + 16 <= MAX_CONTROL_PATH => {
            dir.join("tako")
        }
        _ => own(),
    };
    disk::make_dirs(&dir, 0o700)?;
    let found = fs::symlink_metadata(&dir).context(|| format!("look at {}", dir.display()))?;
    if !found.is_dir() || found.uid() != rustix::process::getuid().as_raw() {
        return Err(Error::new(Kind::Refused, format!("{} is not a folder of ours", dir.display()))
            .hint("remove it, or set XDG_RUNTIME_DIR"));
    }
    disk::private_dir(&dir)?;
    Ok(dir)
}

/// `ssh` or what the environment says instead, with the extra options of the environment in front: in ssh the first
/// value of an option wins, and who sets the variable means it.
fn program(variable: &str, default: &str) -> Command {
    let chosen = env::var_os(variable).filter(|v| !v.is_empty()).unwrap_or_else(|| OsString::from(default));
    let mut command = Command::new(chosen);
    command.args(env::var("TAKO_SSH_OPTIONS").unwrap_or_default().split_whitespace());
    // The texts that the verdict looks for are those of the C locale.
    command.env("LC_ALL", "C");
    command
}

fn cannot_start(program: &str, variable: &str, e: std::io::Error) -> Error {
    let failed: Result<()> = Err(e).context(|| format!("start {program}"));
    failed.expect_err("an error stays one").hint(format!("install OpenSSH, or say where it is with {variable}"))
}

/// In an option's value `ssh` expands `%`, which our paths have only if the user's runtime folder has.
fn control_option(path: &Path) -> String {
    format!("ControlPath={}", path.display().to_string().replace('%', "%%"))
}

/// All that was set by flags and variables; the rest is in ssh_config for both.
fn login(server: &Server) -> String {
    let mut words = vec!["ssh".to_string()];
    words.extend(env::var("TAKO_SSH_OPTIONS").unwrap_or_default().split_whitespace().map(Into::into));
    words.extend(server.port.map(|port| format!("-p {port}")));
    words.push(match &server.user {
        Some(user) => format!("{user}@{}", server.host),
        None => server.host.clone(),
    });
    words.join(" ")
}

/// Letters, digits and `also`, not starting like an option.
fn check_word(what: &str, word: &str, also: &[u8]) -> Result<()> {
    let good = (1..=253).contains(&word.len())
        && !word.starts_with('-')
        && word.bytes().all(|b| b.is_ascii_alphanumeric() || also.contains(&b));
    match good {
        true => Ok(()),
        false => Err(Error::new(Kind::Config, format!("`{}` is not a valid SSH {what}", word.escape_debug()))
            .hint("give such a host an alias in ~/.ssh/config and use that")),
    }
}

/// A server says where uploads go; only a plain path goes into a command for sftp.
fn remote_path(incoming: &str, file: &str) -> Result<String> {
    let plain = |s: &str| s.bytes().all(|b| b.is_ascii_alphanumeric() || b"/._-+@,=".contains(&b));
    if incoming.len() > MAX_REMOTE_PATH || !incoming.starts_with('/') || !plain(incoming) || !plain(file) {
        let message = format!("the server's incoming folder `{}` has a name we do not use", incoming.escape_debug());
        return Err(
            Error::new(Kind::Refused, message).hint("move its data to a path of letters, digits, `.`, `_`, `-`")
        );
    }
    Ok(format!("{}/{file}", incoming.trim_end_matches('/')))
}

fn hex8() -> Result<String> {
    let mut hash = Sha256::new();
    hash.update(&crypto::random::<16>()?);
    Ok(hash.finish()[..8].to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::name::ServerName;

    fn server(host: &str, user: Option<&str>) -> Server {
        Server {
            name: ServerName::parse("fra1").unwrap(),
            host: host.into(),
            port: Some(2222),
            user: user.map(Into::into),
            description: None,
            target: None,
        }
    }

    #[test]
    fn a_host_or_user_that_could_pass_for_an_option_or_a_command_is_refused() {
        for bad in ["", "-oProxyCommand=x", "a b", "a;b", "a%h", "a`b`", "$(x)", "a/b", "a@b", "a\nb"] {
            assert_eq!(Destination::of(&server(bad, None)).err().map(|e| e.kind()), Some(Kind::Config), "{bad:?}");
        }
        for bad in ["", "-l", "a b", "a;b", "a%r"] {
            assert!(Destination::of(&server("fra1", Some(bad))).is_err(), "{bad:?}");
        }
        for good in ["fra1.example.com", "10.0.0.1", "fe80::1", "my_alias"] {
            assert!(Destination::of(&server(good, Some("ana"))).is_ok(), "{good}");
        }
    }

    #[test]
    fn user_and_port_of_the_inventory_go_in_as_options() {
        let destination = Destination::of(&server("fe80::1", Some("ana"))).unwrap();
        assert!(destination.options.contains(&"User=ana".into()) && destination.options.contains(&"Port=2222".into()));
        assert_eq!((destination.host.as_str(), destination.for_sftp().as_str()), ("fe80::1", "[fe80::1]"));
    }

    #[test]
    fn only_a_plain_remote_path_reaches_sftp() {
        assert_eq!(remote_path("/opt/tako/incoming/", "a.tar.zst").unwrap(), "/opt/tako/incoming/a.tar.zst");
        for bad in ["", "incoming", "/a\nrm x", "/a\"b", "/a b", "/a*", &format!("/{}", "a".repeat(2000))] {
            assert!(remote_path(bad, "x").is_err(), "{bad:?}");
        }
        assert!(remote_path("/a", "x\n!sh").is_err());
    }

    #[test]
    fn reads_the_size_of_the_listed_file_alone() {
        let line = "-rw-r--r--    1 0        0            1234 Oct  3 10:00 /in/x.tar.zst";
        assert_eq!(listed_size(line, "/in/x.tar.zst"), Some(1234));
        assert_eq!(listed_size(line, "/in/y.tar.zst"), None);
        assert_eq!(listed_size("sftp> -ls -ln \"/in/x.tar.zst\"", "/in/x.tar.zst"), None);
        assert_eq!(listed_size("drwxr-xr-x 2 0 0 4096 Oct 3 10:00 /in/x", "/in/x"), None);
    }

    #[test]
    fn a_control_path_that_is_too_long_is_done_without() {
        let short = Files::new(Path::new("/run/user/1000/tako")).unwrap();
        assert!(short.control.as_ref().is_some_and(|c| c.as_os_str().len() <= MAX_CONTROL_PATH));
        assert!(Files::new(Path::new(&format!("/{}", "a".repeat(80)))).unwrap().control.is_none());
    }
}
