//! A private world: folders, a `tako-server` on loopback ports of its own, a real `sshd` in front of it, and the
//! user's home. Everything ends when the value is dropped.

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use serde_json::{Value, json};
use tempfile::TempDir;

pub const TAKO: &str = env!("CARGO_BIN_EXE_tako");
pub const TAKO_SERVER: &str = env!("CARGO_BIN_EXE_tako-server");
pub const HOST: &str = "shop.localhost";

/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(120);

/// Waits until `met` says something; the whole point of it is not to sleep blindly.
pub fn wait_for<T>(what: &str, met: impl FnMut() -> Option<T>) -> T {
    until(met).unwrap_or_else(|| panic!("waited {PATIENCE:?} for {what}"))
}

/// The same, for those who have more to say when it does not.
pub fn until<T>(mut met: impl FnMut() -> Option<T>) -> Option<T> {
    let started = Instant::now();
    while started.elapsed() < PATIENCE {
        if let Some(value) = met() {
            return Some(value);
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    None
}

/// A child that is killed and reaped with its value.
pub struct Running(pub Child);

impl Running {
    pub fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        // TERM first: a server that is killed leaves its apps behind.
        if self.0.try_wait().is_ok_and(|s| s.is_none()) {
            let _ = Command::new("kill").arg(self.0.id().to_string()).status();
            let started = Instant::now();
            while self.0.try_wait().is_ok_and(|s| s.is_none()) && started.elapsed() < Duration::from_secs(15) {
                std::thread::sleep(Duration::from_millis(10));
            }
        }
        self.kill();
    }
}

/// Where a server is, and how it is called there.
#[derive(Debug, Clone)]
pub struct Place {
    pub host: String,
    pub address: IpAddr,
    /// The file of its network namespace. With one of its own a server has the ports that servers have.
    pub namespace: Option<PathBuf>,
}

impl Place {
    /// This machine, on ports that are free.
    pub fn here() -> Place {
        Place { host: "127.0.0.1".into(), address: Ipv4Addr::LOCALHOST.into(), namespace: None }
    }

    fn port(&self, usual: u16, else_: impl FnOnce() -> u16) -> u16 {
        if self.namespace.is_some() { usual } else { else_() }
    }

    /// The program, to be run there.
    fn command(&self, program: &Path) -> Command {
        let Some(namespace) = &self.namespace else { return Command::new(program) };
        let mut command = Command::new("nsenter");
        command.arg(format!("--net={}", namespace.display())).arg(program);
        command
    }
}

/// A `tako-server` with its data.
pub struct Server {
    pub dir: TempDir,
    place: Place,
    /// The program and whom it runs as, if that is not us.
    program: PathBuf,
    user: Option<u32>,
    process: Option<Running>,
    /// Of its environment, besides ours.
    env: Vec<(String, String)>,
    pub http: SocketAddr,
    pub https: SocketAddr,
}

impl Server {
    pub fn start() -> Server {
        Server::with(&[])
    }

    /// With these arguments more.
    pub fn with(args: &[&str]) -> Server {
        Server::with_env(args, &[])
    }

    /// With this in its environment, at each boot.
    pub fn with_env(args: &[&str], env: &[(&str, &str)]) -> Server {
        let mut server = Server::nowhere();
        server.env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        server.boot_with(args);
        server
    }

    /// On another network.
    pub fn at(place: &Place) -> Server {
        let mut server = Server::nowhere();
        server.place = place.clone();
        server.boot();
        server
    }

    /// As another user than root, who cannot change to a third one.
    pub fn as_user(uid: u32) -> Server {
        Server::as_user_at_home(uid, &[])
    }

    /// The same; with `env` it has a home of its own, too.
    pub fn as_user_at_home(uid: u32, env: &[(&str, &str)]) -> Server {
        let mut server = Server::nowhere();
        server.env = env.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        if !env.is_empty() {
            server.env.push(("HOME".into(), server.dir.path().display().to_string()));
        }
        chown(server.dir.path(), Some(uid), Some(uid)).unwrap();
        // Where the build lies may be closed to others.
        server.program = server.dir.path().join("tako-server");
        fs::copy(TAKO_SERVER, &server.program).unwrap();
        server.user = Some(uid);
        server.boot_with(&[]);
        server
    }

    /// Its place only; nothing runs.
    pub fn nowhere() -> Server {
        let unset = SocketAddr::from(([127, 0, 0, 1], 0));
        let (dir, program) = (short_tempdir(), TAKO_SERVER.into());
        let place = Place::here();
        Server { dir, place, program, user: None, process: None, env: Vec::new(), http: unset, https: unset }
    }

    /// Starts the program on the data that is there.
    pub fn boot(&mut self) {
        self.boot_with(&[]);
    }

    pub fn boot_with(&mut self, args: &[&str]) {
        self.launch(args, &[]);
        self.meet();
    }

    /// Starts the program and does not wait for it.
    pub fn launch(&mut self, args: &[&str], env: &[(&str, &Path)]) {
        let log = fs::OpenOptions::new().create(true).append(true).open(self.dir.path().join("server.log")).unwrap();
        let mut command = self.place.command(if self.user.is_some() { Path::new("setpriv") } else { &self.program });
        let listen = |usual| SocketAddr::new(self.place.address, self.place.port(usual, || 0)).to_string();
        if let Some(uid) = self.user.map(|uid| uid.to_string()) {
            // As a service manager starts it that lets it have the low ports.
            command.args(["--reuid", &uid, "--regid", &uid, "--clear-groups"]);
            command.args(["--inh-caps", "+net_bind_service", "--ambient-caps", "+net_bind_service"]);
            command.arg(&self.program);
        }
        let child = command
            .arg("--data-dir")
            .arg(self.data())
            .arg("--socket")
            .arg(self.socket())
            .args(["--http", &listen(80), "--https", &listen(443), "--workers", "2"])
            .args(args)
            .envs(self.env.iter().map(|(name, value)| (name, value)))
            .envs(env.iter().copied())
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        self.process = Some(Running(child));
    }

    /// Waits until it answers, and learns where it listens.
    pub fn meet(&mut self) {
        let info = wait_for("tako-server to answer", || {
            Control::open(self)?.call(json!("info")).ok().map(|reply| reply["info"].clone())
        });
        self.http = info["http"][0].as_str().unwrap().parse().unwrap();
        self.https = info["https"][0].as_str().unwrap().parse().unwrap();
    }

    /// As a crash would: SIGKILL, no goodbye.
    pub fn crash(&mut self) {
        self.process.take().expect("it runs").kill();
    }

    /// As an orderly stop would; says whether it ended with 0.
    pub fn shut_down(&mut self) -> bool {
        let mut process = self.process.take().expect("it runs");
        let _ = Command::new("kill").arg(process.0.id().to_string()).status();
        wait_for("tako-server to stop", || process.0.try_wait().unwrap()).success()
    }

    /// Waits for it to end by itself, of this.
    pub fn end(&mut self, why: &str) -> ExitStatus {
        let mut process = self.process.take().expect("it runs");
        let ended = until(|| process.0.try_wait().unwrap());
        ended.unwrap_or_else(|| panic!("it did not end in {PATIENCE:?}: {why}\n{}", self.log()))
    }

    pub fn pid(&self) -> u32 {
        self.process.as_ref().expect("it runs").0.id()
    }

    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    pub fn socket(&self) -> PathBuf {
        self.dir.path().join("s")
    }

    pub fn app(&self, id: &str) -> PathBuf {
        self.data().join("apps").join(id)
    }

    /// The version that `current` points at.
    pub fn current(&self, id: &str) -> Option<String> {
        let target = fs::read_link(self.app(id).join("current")).ok()?;
        Some(target.file_name()?.to_str()?.to_string())
    }

    /// Names of the releases that are laid out.
    pub fn releases(&self, id: &str) -> Vec<String> {
        let entries = fs::read_dir(self.app(id).join("releases")).into_iter().flatten().flatten();
        let mut names: Vec<String> = entries.map(|e| e.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    pub fn status(&self, id: &str) -> Option<Value> {
        let reply = Control::open(self)?.call(json!({"status": {"app": null}})).ok()?;
        reply["status"].as_array()?.iter().find(|a| a["app"] == id).cloned()
    }

    /// Groups of processes that were given a folder of this server's apps.
    pub fn groups(&self) -> BTreeSet<u64> {
        let given = [b"TAKO_DATA_DIR=", self.data().as_os_str().as_bytes()].concat();
        let processes = fs::read_dir("/proc").unwrap().flatten().filter(|entry| {
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            environment.split(|b| *b == 0).any(|variable| variable.starts_with(&given))
        });
        let group = |stat: String| stat.rsplit(')').next()?.split_whitespace().nth(2)?.parse().ok();
        processes.filter_map(|entry| group(fs::read_to_string(entry.path().join("stat")).ok()?)).collect()
    }

    /// The server's own log, for a failing test to show.
    pub fn log(&self) -> String {
        fs::read_to_string(self.dir.path().join("server.log")).unwrap_or_default()
    }
}

/// What a server that was killed left running is nobody's.
impl Drop for Server {
    fn drop(&mut self) {
        if self.process.is_none() {
            let pids = self.groups().into_iter().filter_map(|group| Pid::from_raw(i32::try_from(group).ok()?));
            for group in pids {
                // It may have ended since.
                let _ = kill_process_group(group, Signal::KILL);
            }
        }
    }
}

/// The control protocol as `ssh` would carry it: `tako-server ctl`, spoken to by hand.
pub struct Control {
    child: Running,
    stdin: Option<ChildStdin>,
    stdout: BufReader<ChildStdout>,
    pub hello: Value,
    next: u64,
}

impl Control {
    /// `None` while nobody answers.
    pub fn open(server: &Server) -> Option<Control> {
        let mut control = Control::connect(server)?;
        control.send(&json!({"protocol": 1, "client": "test", "who": "test@here"}).to_string());
        Some(control)
    }

    /// As [`Control::open`], without the greeting.
    pub fn connect(server: &Server) -> Option<Control> {
        let mut child = Command::new(TAKO_SERVER)
            .args(["ctl", "--socket"])
            .arg(server.socket())
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let stdin = child.stdin.take();
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let mut control = Control { child: Running(child), stdin, stdout, hello: Value::Null, next: 1 };
        control.hello = control.read()?;
        Some(control)
    }

    pub fn send(&mut self, line: &str) {
        // The far side may have hung up already; the next read tells.
        let _ = writeln!(self.stdin.as_mut().expect("open"), "{line}");
    }

    /// The next line; `None` at the end. A silence is a failure, not a test that hangs.
    pub fn read(&mut self) -> Option<Value> {
        if self.stdout.buffer().is_empty() {
            let mut fds = [PollFd::new(self.stdout.get_ref(), PollFlags::IN)];
            let patience = Timespec { tv_sec: PATIENCE.as_secs() as i64, tv_nsec: 0 };
            assert_ne!(poll(&mut fds, Some(&patience)).unwrap(), 0, "tako-server said nothing for {PATIENCE:?}");
        }
        let mut line = String::new();
        match self.stdout.read_line(&mut line) {
            Ok(0) | Err(_) => None,
            Ok(_) => Some(serde_json::from_str(&line).unwrap_or_else(|e| panic!("{e}: {line:?}"))),
        }
    }

    /// The reply, or the fault.
    pub fn call(&mut self, request: Value) -> Result<Value, Value> {
        let id = self.begin(request);
        loop {
            let answer = self.read().ok_or_else(|| json!({"message": "the connection ended"}))?;
            assert_eq!(answer["id"], id);
            let body = &answer["body"];
            if !body["fault"].is_null() {
                return Err(body["fault"].clone());
            }
            if !body["reply"].is_null() {
                return Ok(body["reply"].clone());
            }
        }
    }

    /// Sends a request and does not wait.
    pub fn begin(&mut self, request: Value) -> u64 {
        let id = self.next;
        self.next += 1;
        self.send(&json!({"id": id, "request": request}).to_string());
        id
    }

    /// As a client that is killed.
    pub fn vanish(mut self) {
        self.stdin.take();
        self.child.kill();
    }
}

/// A real `sshd`, with keys of its own, whose users find our `tako-server`.
pub struct Sshd {
    dir: TempDir,
    place: Place,
    pub port: u16,
    process: Running,
}

impl Sshd {
    pub fn start(server: &Server) -> Sshd {
        Sshd::with(server, "Subsystem sftp internal-sftp")
    }

    /// With these lines of configuration; it has an sftp only if they say so.
    pub fn with(server: &Server, lines: &str) -> Sshd {
        Sshd::set_up(server, lines, "")
    }

    /// One whose users find the programs of this folder first.
    pub fn with_programs(server: &Server, dir: &Path) -> Sshd {
        Sshd::set_up(server, "Subsystem sftp internal-sftp", &format!("{}:", dir.display()))
    }

    fn set_up(server: &Server, lines: &str, first: &str) -> Sshd {
        let dir = short_tempdir();
        let at = |name: &str| dir.path().join(name);
        for key in ["host", "user"] {
            let made =
                Command::new("ssh-keygen").args(["-q", "-t", "ed25519", "-N", "", "-f"]).arg(at(key)).status().unwrap();
            assert!(made.success());
        }
        fs::copy(at("user.pub"), at("authorized_keys")).unwrap();
        let bins = Path::new(TAKO_SERVER).parent().unwrap();
        let path = std::env::var("PATH").unwrap();
        let place = server.place.clone();
        let port = place.port(22, free_port);
        let config = format!(
            "ListenAddress {address}:{port}\nHostKey {host}\nAuthorizedKeysFile {keys}\nPidFile none\nUsePAM no\n\
             StrictModes no\nPasswordAuthentication no\nKbdInteractiveAuthentication no\nPermitRootLogin yes\n\
             {lines}\nLogLevel VERBOSE\nSetEnv TAKO_SOCKET={socket} \"PATH={first}{bins}:{path}\" HOME={home}\n",
            // What the shell of whoever runs the tests does at a login is not for them, and may take long.
            address = place.address,
            home = dir.path().display(),
            host = at("host").display(),
            keys = at("authorized_keys").display(),
            socket = server.socket().display(),
            bins = bins.display(),
        );
        fs::write(at("sshd_config"), config).unwrap();
        // Where privilege separation is on (root), sshd insists on this folder.
        let _ = fs::create_dir_all("/run/sshd");
        let process = Sshd::launch(dir.path(), &place, port);
        let sshd = Sshd { dir, place, port, process };
        sshd.know(&fs::read_to_string(sshd.dir.path().join("host.pub")).unwrap());
        fs::write(
            sshd.dir.path().join("ssh_config"),
            format!(
                "Host *\n  IdentityFile {}\n  IdentitiesOnly yes\n  UserKnownHostsFile {}\n  GlobalKnownHostsFile /dev/null\n  StrictHostKeyChecking yes\n",
                sshd.dir.path().join("user").display(),
                sshd.dir.path().join("known_hosts").display(),
            ),
        )
        .unwrap();
        sshd
    }

    /// Makes the user's known_hosts hold this key for the server, and nothing else.
    pub fn know(&self, public_key: &str) {
        let name = match self.port {
            22 => self.place.host.clone(),
            port => format!("[{}]:{port}", self.place.host),
        };
        fs::write(self.dir.path().join("known_hosts"), format!("{name} {public_key}")).unwrap();
    }

    /// The keys that its user knows.
    pub fn known_hosts(&self) -> PathBuf {
        self.dir.path().join("known_hosts")
    }

    /// Makes this one's user know the other server, too, and be known there.
    pub fn join(&self, other: &Sshd) {
        let add = |name: &str, text: String| {
            let file = fs::OpenOptions::new().append(true).open(self.dir.path().join(name));
            file.unwrap().write_all(text.as_bytes()).unwrap();
        };
        add("ssh_config", format!("  IdentityFile {}\n", other.dir.path().join("user").display()));
        add("known_hosts", fs::read_to_string(other.dir.path().join("known_hosts")).unwrap());
    }

    /// What its user calls it.
    pub fn host(&self) -> &str {
        &self.place.host
    }

    /// Its keys, settings and log.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Leads its user through this port instead, where somebody passes on what comes.
    pub fn through(&mut self, port: u16) {
        self.port = port;
        self.know(&fs::read_to_string(self.dir.path().join("host.pub")).unwrap());
    }

    pub fn options(&self) -> String {
        format!("-F {}", self.dir.path().join("ssh_config").display())
    }

    fn launch(dir: &Path, place: &Place, port: u16) -> Running {
        let log = fs::OpenOptions::new().create(true).append(true).open(dir.join("sshd.log")).unwrap();
        let child = place
            .command(Path::new("/usr/sbin/sshd"))
            .args(["-D", "-e", "-f"])
            .arg(dir.join("sshd_config"))
            .stdin(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("sshd is installed (make test installs it)");
        let process = Running(child);
        wait_for("sshd to listen", || TcpStream::connect((place.address, port)).ok());
        process
    }

    /// Its connections end too.
    pub fn stop(&mut self) {
        let listener = self.process.0.id().to_string();
        let parent = |stat: String| stat.rsplit(')').next()?.split_whitespace().nth(1).map(str::to_string);
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let stat = fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            if let (Some(parent), Some(pid)) = (parent(stat), pid)
                && parent == listener
            {
                // It may have ended since.
                let _: Result<(), _> = kill_process(pid, Signal::KILL);
            }
        }
        self.process.kill();
    }

    /// Of its own files: `host.pub`, `user`, `ssh_config`, `known_hosts`, `authorized_keys`.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// On the same port, after a stop.
    pub fn resume(&mut self) {
        self.process = Sshd::launch(self.dir.path(), &self.place, self.port);
    }

    /// How many connections were accepted so far.
    pub fn connections(&self) -> usize {
        let log = fs::read_to_string(self.dir.path().join("sshd.log")).unwrap_or_default();
        log.lines().filter(|l| l.contains("Accepted publickey")).count()
    }
}

impl Drop for Sshd {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A user with a home, a project and servers to deploy to.
pub struct User {
    pub dir: TempDir,
    ssh_options: String,
}

impl User {
    pub fn new(sshd: &Sshd) -> User {
        let user = User { dir: TempDir::new().unwrap(), ssh_options: sshd.options() };
        fs::create_dir(user.project()).unwrap();
        user
    }

    /// Whose ssh is told this as well.
    pub fn with_ssh(mut self, options: &str) -> User {
        self.ssh_options = format!("{} {options}", self.ssh_options);
        self
    }

    pub fn project(&self) -> PathBuf {
        self.dir.path().join("shop")
    }

    pub fn home(&self) -> PathBuf {
        self.dir.path().join("home")
    }

    /// Replaces the project by the app `name` of `tests/data/apps`; `.tako` and `tako.toml` stay when `keep_config`.
    pub fn use_app(&self, name: &str, keep_config: bool) {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/apps").join(name);
        for entry in fs::read_dir(self.project()).unwrap().flatten() {
            if entry.file_type().unwrap().is_file() && !(keep_config && entry.file_name() == "tako.toml") {
                fs::remove_file(entry.path()).unwrap();
            }
        }
        for entry in fs::read_dir(&from).unwrap_or_else(|e| panic!("{}: {e}", from.display())).flatten() {
            if !(keep_config && entry.file_name() == "tako.toml") {
                fs::copy(entry.path(), self.project().join(entry.file_name())).unwrap();
            }
        }
    }

    pub fn write(&self, name: &str, content: &str) {
        fs::write(self.project().join(name), content).unwrap();
    }

    pub fn read(&self, name: &str) -> String {
        fs::read_to_string(self.project().join(name)).unwrap()
    }

    pub fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(TAKO);
        command.args(args).current_dir(self.project()).stdin(Stdio::null());
        command.env("TAKO_HOME", self.home()).env("TAKO_SSH_OPTIONS", &self.ssh_options);
        command.env("HOME", self.dir.path()).env_remove("CI").env_remove("SSH_AUTH_SOCK");
        command.env("XDG_RUNTIME_DIR", self.dir.path());
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::from(args, self.command(args).output().unwrap())
    }

    /// Runs a command that must succeed.
    pub fn must(&self, args: &[&str]) -> Ran {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{ran}");
        ran
    }

    /// The last event of a `--json` run.
    pub fn result(&self, args: &[&str]) -> Value {
        let ran = self.must(args);
        let last = ran.out.lines().last().unwrap_or_else(|| panic!("no output: {ran}"));
        serde_json::from_str(last).unwrap_or_else(|e| panic!("{e}: {ran}"))
    }
}

/// What a command said and how it ended.
pub struct Ran {
    args: String,
    pub code: i32,
    pub out: String,
    pub err: String,
}

impl Ran {
    pub fn from(args: &[&str], output: Output) -> Ran {
        Ran {
            args: args.join(" "),
            code: output.status.code().unwrap_or(-1),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// It failed with this code, and its errors say all of `words`.
    pub fn assert_failed(&self, code: i32, words: &[&str]) {
        assert_eq!(self.code, code, "{self}");
        for word in words {
            assert!(self.err.contains(word), "no {word:?} in: {self}");
        }
    }
}

impl std::fmt::Display for Ran {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "tako {} → {}\n--- out\n{}--- err\n{}", self.args, self.code, self.out, self.err)
    }
}

/// A port that was free a moment ago.
pub fn free_port() -> u16 {
    TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

/// Unix sockets and control paths have short limits, so these folders lie right below the temp folder.
fn short_tempdir() -> TempDir {
    let dir = tempfile::Builder::new().prefix("tk").tempdir().unwrap();
    fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
    dir
}
