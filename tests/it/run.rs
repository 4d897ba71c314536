//! `tako run` and the `release` command of a deploy: over a real `sshd`, with real programs.

use std::fs;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::process::{Child, Command, Output, Stdio};
use std::thread;

use rustix::process::{Pid, Signal, kill_process};
use rustix::pty::OpenptFlags;
use rustix::termios::{Winsize, tcgetattr, tcsetwinsize};
use serde_json::{Value, json};

use crate::deploy::world_with;
use crate::http::Client;
use crate::sandbox::{Control, HOST, Ran, Running, Server, Sshd, TAKO, User, wait_for};
use crate::traffic::Traffic;

/// An app that is live, and a user who may run commands in it.
fn live() -> (Server, Sshd, User) {
    let (server, sshd, user) = world_with(&[]);
    user.must(&["deploy", "--yes"]);
    (server, sshd, user)
}

fn run(user: &User, args: &[&str]) -> Ran {
    user.run(&[&["run"], args].concat())
}

/// With this as its input; the bytes as they came.
fn run_with(user: &User, args: &[&str], input: &[u8]) -> Output {
    let mut command = user.command(&[&["run"], args].concat());
    command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let (mut stdin, input) = (child.stdin.take().unwrap(), input.to_vec());
    // It may end before it has read all.
    let writing = thread::spawn(move || drop(stdin.write_all(&input)));
    let output = child.wait_with_output().unwrap();
    writing.join().unwrap();
    output
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Waits until nothing of the app runs but so many process groups.
fn wait_for_groups(server: &Server, count: usize) {
    wait_for(&format!("{count} groups of the app"), || (server.groups().len() == count).then_some(()));
}

fn secret(user: &User, name: &str, value: &str) {
    let mut set = user.command(&["secrets", "set", name, "--env", "production", "-"]);
    let mut child = set.stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(value.as_bytes()).unwrap();
    assert!(child.wait().unwrap().success());
}

#[test]
fn the_end_and_both_streams_come_through_as_they_are() {
    let (server, _sshd, user) = live();
    let ran = run(&user, &["sh", "-c", "echo out; echo err >&2; exit 7"]);
    assert_eq!((ran.code, ran.out.as_str(), ran.err.as_str()), (7, "out\n", "err\n"));
    assert_eq!(run(&user, &["sh", "-c", "kill -TERM $$"]).code, 143);
    assert_eq!(run(&user, &["node", "-e", "process.exit(5)"]).code, 5);
    run(&user, &["no-such-program"]).assert_failed(127, &["`no-such-program`", "PATH"]);
    run(&user, &["./index.mjs"]).assert_failed(126, &["may not run `./index.mjs`"]);
    run(&user, &["--release", "zzz", "true"]).assert_failed(1, &["no release `zzz`"]);
    run(&user, &["--server", "elsewhere", "true"]).assert_failed(2, &["elsewhere"]);
    run(&user, &["-t", "true"]).assert_failed(2, &["needs a terminal"]);
    let version = server.current("shop").unwrap();
    assert_eq!(run(&user, &["--release", &version[..9], "--", "sh", "-c", "echo $TAKO_BUILD"]).out.trim(), version);

    let result = user.run(&["run", "--json", "sh", "-c", "echo hi; printf '\\377' >&2; kill -9 $$"]);
    let events: Vec<Value> = result.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((result.code, &events[0]["text"], &events[1]["base64"]), (137, &json!("hi\n"), &json!("/w==")));
    let last = events.last().unwrap();
    assert_eq!((&last["event"], &last["exit"], &last["signal"]), (&json!("result"), &json!(137), &json!(9)));

    // Ten megabytes of anything and one more beside.
    let script =
        "head -c 10000000 /dev/urandom | tee $TMPDIR/out & head -c 1000000 /dev/urandom | tee $TMPDIR/err >&2; wait";
    let output = run_with(&user, &["sh", "-c", script], b"");
    let there = |name: &str| fs::read(server.app("shop").join("tmp").join(name)).unwrap();
    assert!(output.status.success() && output.stdout.len() == 10_000_000);
    assert!(output.stdout == there("out") && output.stderr == there("err"));
    wait_for_groups(&server, 1);
}

#[test]
fn what_is_piped_in_arrives_to_its_last_byte() {
    let (_server, _sshd, user) = live();
    let mut input = vec![0u8; 10_000_000];
    fs::File::open("/dev/urandom").unwrap().read_exact(&mut input).unwrap();
    let output = run_with(&user, &["cat"], &input);
    assert!(output.status.success() && output.stdout == input, "{}", String::from_utf8_lossy(&output.stderr));
    // One that has read enough ends, although there is more.
    let output = run_with(&user, &["head", "-c", "3"], &input);
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), &input[..3]));
    // Whoever reads us has read enough: as in any pipe.
    let mut child = user.command(&["run", "yes"]).stdout(Stdio::piped()).spawn().unwrap();
    child.stdout.take().unwrap().read_exact(&mut [0; 100]).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(141));
}

#[test]
fn a_command_has_what_an_instance_has_and_nothing_of_the_servers() {
    let server = Server::with_env(&[], &[("SERVER_ONLY", "yes")]);
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    user.write("tako.toml", &(user.read("tako.toml") + "\n[vars]\nCOLOR = \"red\"\nPORT = \"1\"\n"));
    secret(&user, "API_KEY", "two\nlines and a \"quote\"");
    user.must(&["deploy", "--yes"]);
    let script = "const e = process.env; console.log(JSON.stringify({key: e.API_KEY, color: e.COLOR, port: e.PORT, \
                  fd: e.TAKO_BOOTSTRAP_FD, env: e.TAKO_ENV, theirs: e.SERVER_ONLY, home: e.HOME, cwd: process.cwd(), \
                  uid: process.getuid(), status: require('fs').readFileSync('/proc/self/status', 'utf8')}))";
    let ran = run(&user, &["node", "-e", script]);
    let seen: Value = serde_json::from_str(&ran.out).unwrap_or_else(|e| panic!("{e}: {ran}"));
    assert_eq!(seen["key"], "two\nlines and a \"quote\"");
    assert_eq!((&seen["color"], &seen["port"], &seen["env"]), (&json!("red"), &json!("0"), &json!("production")));
    assert_eq!((&seen["fd"], &seen["theirs"]), (&Value::Null, &Value::Null));
    let version = server.current("shop").unwrap();
    assert_eq!(seen["cwd"], json!(server.app("shop").join("releases").join(version)));
    let status = seen["status"].as_str().unwrap();
    assert!(status.contains("CapEff:\t0000000000000000") && status.contains("NoNewPrivs:\t1"), "{status}");
    let instance = server.status("shop").unwrap()["instances"][0]["pid"].as_u64().unwrap();
    let owner = fs::read_to_string(format!("/proc/{instance}/status")).unwrap();
    let uids = |text: &str| text.lines().find(|l| l.starts_with("Uid:")).map(str::to_string);
    assert_eq!(uids(status), uids(&owner), "the user of the instances");
    if rustix::process::geteuid().is_root() {
        assert_ne!(seen["uid"], 0);
        assert_eq!(seen["home"], json!(server.app("shop").join("home")));
        let home = run(&user, &["sh", "-c", "cat ../../state.json; touch x; cat /proc/1/environ"]);
        assert!(home.code != 0 && home.err.matches("ermission denied").count() == 3, "{home}");
    }
}

#[test]
fn a_command_ends_with_its_client_and_with_ctrl_c() {
    let (server, _sshd, user) = live();
    let begin = |script: &str| {
        let mut child = user.command(&["run", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        child
    };
    wait_for_groups(&server, 1);
    let mut killed = begin("echo begun; setsid sleep 600 & sleep 600");
    assert!(server.groups().len() > 1);
    killed.kill().unwrap();
    killed.wait().unwrap();
    // What has made a session of its own is reached by the kernel's groups, where there are any.
    let status = server.status("shop").unwrap();
    let grouped = !status.to_string().contains("what leaves the process group");
    if grouped {
        wait_for_groups(&server, 1);
    }
    let left = server.groups().len();

    let mut child = begin("echo begun; exec sleep 600");
    kill_process(pid(&child), Signal::INT).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "as if it had run here");
    let mut child = begin("trap 'echo bye; exit 3' INT; echo begun; while :; do sleep 0.05; done");
    kill_process(pid(&child), Signal::INT).unwrap();
    let mut said = String::new();
    child.stdout.take().unwrap().read_to_string(&mut said).unwrap();
    assert_eq!((child.wait().unwrap().code(), said.as_str()), (Some(3), "bye\n"));
    wait_for_groups(&server, left);
}

#[test]
fn a_command_ends_with_the_server_and_with_its_app() {
    let (mut server, _sshd, user) = live();
    let begin = || {
        let mut child = user.command(&["run", "sh", "-c", "echo begun; exec sleep 600"]);
        let mut child = child.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 6]).unwrap();
        child
    };
    let mut child = begin();
    user.must(&["delete", "--confirm", "shop"]);
    assert_eq!(child.wait().unwrap().code(), Some(143));
    assert!(!server.app("shop").exists());
    run(&user, &["true"]).assert_failed(1, &["no app shop"]);
    user.must(&["deploy", "--yes"]);
    let mut child = begin();
    assert!(server.shut_down());
    assert!(!child.wait().unwrap().success());
    assert!(server.groups().is_empty());
}

/// Memory of a process that is its own, in KiB.
fn rss(pid: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|l| l.starts_with("RssAnon:")).unwrap_or("RssAnon: 0");
    line.split_whitespace().nth(1).and_then(|n| n.parse().ok()).unwrap_or(0)
}

#[test]
fn a_reader_that_does_not_read_stops_the_command_and_nobody_else() {
    let (server, _sshd, user) = live();
    let before = rss(server.pid());
    let script = "while echo a line that is said again and again; do :; done; echo over >&2";
    let mut child = Running(user.command(&["run", "sh", "-c", script]).stdout(Stdio::piped()).spawn().unwrap());
    let mut stdout = child.0.stdout.take().unwrap();
    stdout.read_exact(&mut [0; 1000]).unwrap();
    // It has stopped when it does not use the processor any more.
    let ours: Vec<u64> = server.groups().into_iter().collect();
    let used = || {
        let stat = |pid: &u64| fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        let ticks = |stat: String| -> u64 {
            let fields: Vec<u64> = stat
                .rsplit(')')
                .next()
                .unwrap_or_default()
                .split_whitespace()
                .skip(11)
                .take(2)
                .filter_map(|n| n.parse().ok())
                .collect();
            fields.iter().sum()
        };
        ours.iter().map(|pid| ticks(stat(pid))).sum::<u64>()
    };
    let mut last = (used(), 0);
    wait_for("the command to stand still", || {
        thread::sleep(std::time::Duration::from_millis(50));
        let now = used();
        last = if now == last.0 { (now, last.1 + 1) } else { (now, 0) };
        (last.1 > 10).then_some(())
    });
    assert_eq!(Client::plain(server.http, HOST).unwrap().get("/").unwrap().status, 200);
    assert!(user.must(&["status"]).out.contains("live"));
    assert_eq!(run(&user, &["echo", "beside"]).out, "beside\n");
    let grown = rss(server.pid()).saturating_sub(before);
    assert!(grown < 32 << 10, "the server has {grown} KiB more");
    assert!(rss(child.0.id()) < 64 << 10, "the client has {} KiB", rss(child.0.id()));
    // It goes on where it was.
    let mut more = vec![0; 4 << 20];
    stdout.read_exact(&mut more).unwrap();
    assert!(more.windows(8).any(|w| w == b"\na line "));
    child.kill();
    wait_for_groups(&server, 1);
}

#[test]
fn there_are_only_so_many_at_once() {
    let (server, _sshd, user) = live();
    let request = json!({"run": {"app": "shop", "argv": ["sleep", "600"], "stdin": true}});
    let mut held: Vec<Control> = (0..8).map(|_| Control::open(&server).unwrap()).collect();
    for control in &mut held {
        control.begin(request.clone());
        assert!(control.read().unwrap()["body"]["notice"]["wants"]["bytes"].as_u64().unwrap() > 0);
    }
    run(&user, &["true"]).assert_failed(7, &["8 commands of this app"]);
    // A request that is none of the command's ends both, and nobody else.
    let mut one = held.pop().unwrap();
    one.begin(json!("info"));
    let fault = one.read().unwrap();
    assert!(fault["body"]["fault"]["message"].as_str().unwrap().contains("command is running"), "{fault}");
    drop(held);
    wait_for("places that are free again", || (run(&user, &["true"]).code == 0).then_some(()));
}

/// A terminal that `tako` runs on.
struct Terminal {
    ours: fs::File,
    theirs: OwnedFd,
    child: Running,
    said: Vec<u8>,
}

impl Terminal {
    fn start(user: &User, args: &[&str]) -> Terminal {
        let flags = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
        let ours = rustix::pty::openpt(flags).unwrap();
        rustix::pty::grantpt(&ours).unwrap();
        rustix::pty::unlockpt(&ours).unwrap();
        let theirs = rustix::pty::ioctl_tiocgptpeer(&ours, flags).unwrap();
        resize(&ours, 24, 80);
        let there = user.command(&[]);
        // It becomes the program, with the terminal as its own.
        let mut command = Command::new("setsid");
        command.args(["--ctty", TAKO, "run"]).args(args).current_dir(user.project());
        for (name, value) in there.get_envs() {
            match value {
                Some(value) => command.env(name, value),
                None => command.env_remove(name),
            };
        }
        let stdio = || Stdio::from(theirs.try_clone().unwrap());
        command.env("TERM", "vt220").stdin(stdio()).stdout(stdio()).stderr(stdio());
        let child = Running(command.spawn().unwrap());
        Terminal { ours: ours.into(), theirs, child, said: Vec::new() }
    }

    fn types(&mut self, keys: &str) {
        self.ours.write_all(keys.as_bytes()).unwrap();
    }

    /// Reads until this was said; what was said up to then.
    fn hears(&mut self, text: &str) -> String {
        let found = |said: &[u8]| said.windows(text.len()).position(|w| w == text.as_bytes());
        let at = wait_for(&format!("{text:?} on the terminal"), || {
            use rustix::event::{PollFd, PollFlags, Timespec, poll};
            let mut fds = [PollFd::new(&self.ours, PollFlags::IN)];
            let moment = Timespec { tv_sec: 0, tv_nsec: 10_000_000 };
            if found(&self.said).is_none() && poll(&mut fds, Some(&moment)).unwrap() > 0 {
                let mut bytes = [0; 4096];
                let read = self.ours.read(&mut bytes).unwrap();
                self.said.extend_from_slice(&bytes[..read]);
            }
            found(&self.said)
        });
        let rest = self.said.split_off(at + text.len());
        String::from_utf8(std::mem::replace(&mut self.said, rest)).unwrap()
    }

    /// Whether keys are as they are where nobody has changed it.
    fn is_plain(&self) -> bool {
        let modes = tcgetattr(&self.theirs).unwrap();
        modes.local_modes.contains(rustix::termios::LocalModes::ECHO | rustix::termios::LocalModes::ICANON)
            && modes.output_modes.contains(rustix::termios::OutputModes::OPOST)
    }

    fn ends(&mut self) -> Option<i32> {
        wait_for("its end", || self.child.0.try_wait().unwrap()).code()
    }
}

fn resize(terminal: impl AsFd, rows: u16, cols: u16) {
    tcsetwinsize(terminal, Winsize { ws_row: rows, ws_col: cols, ws_xpixel: 0, ws_ypixel: 0 }).unwrap();
}

#[test]
fn a_terminal_is_one_from_end_to_end() {
    let (server, _sshd, user) = live();
    let mut terminal = Terminal::start(&user, &["-it", "sh", "-c", "PS1='> ' exec sh -i"]);
    terminal.hears("> ");
    assert!(!terminal.is_plain());
    terminal.types("stty size; echo $TERM on $(tty)\r");
    assert!(terminal.hears("> ").contains("24 80\r\nvt220 on /dev/pts/"));
    resize(&terminal.ours, 40, 121);
    // The change travels beside what is typed.
    wait_for("the new size", || {
        terminal.types("stty size\r");
        terminal.hears("\r\n");
        terminal.hears("> ").contains("40 121").then_some(())
    });
    // Keys that mean something here mean nothing here.
    terminal.types("stty raw -echo; echo re''ady; head -c 3 | od -An -tx1; stty sane\r");
    terminal.hears("ready");
    terminal.types("\x03\x1b\x04");
    terminal.hears("03 1b 04");
    terminal.hears("> ");
    // It speaks when the terminal is its own: what comes before that is the shell's, which would start it all the same.
    terminal.types("sh -c 'echo a; exec sleep 600'\r");
    terminal.hears("a\r\n");
    terminal.types("\x03");
    terminal.hears("> ");
    terminal.types("exit 9\r");
    assert_eq!(terminal.ends(), Some(9));
    assert!(terminal.is_plain());
    wait_for_groups(&server, 1);
}

#[test]
fn a_terminal_is_put_back_whatever_happens() {
    let (server, mut sshd, user) = live();
    for signal in [Signal::TERM, Signal::HUP] {
        let mut terminal = Terminal::start(&user, &["-t", "sh", "-c", "echo ready; exec sleep 600"]);
        terminal.hears("ready");
        assert!(!terminal.is_plain());
        kill_process(pid(&terminal.child.0), signal).unwrap();
        assert_eq!(terminal.ends(), Some(130));
        assert!(terminal.is_plain());
    }
    run(&user, &["true"]);
    let mut terminal = Terminal::start(&user, &["-t", "no-such-program"]);
    terminal.hears("`no-such-program`");
    assert_eq!(terminal.ends(), Some(127));
    assert!(terminal.is_plain());

    let mut terminal = Terminal::start(&user, &["-t", "sh", "-c", "echo ready; exec sleep 600"]);
    terminal.hears("ready");
    // As when the machine goes away: the connection ends, and nobody says why.
    let children = fs::read_to_string(format!("/proc/{0}/task/{0}/children", terminal.child.0.id())).unwrap();
    for ssh in children.split_whitespace().filter_map(|pid| Pid::from_raw(pid.parse().ok()?)) {
        kill_process(ssh, Signal::KILL).unwrap();
    }
    assert_eq!(terminal.ends(), Some(6));
    terminal.hears("the connection was lost");
    assert!(terminal.is_plain());
    sshd.stop();
    wait_for_groups(&server, 1);
}

/// Two servers of one environment, and a user who knows both.
fn two() -> [(Server, Sshd); 2] {
    [(); 2].map(|()| {
        let server = Server::start();
        let sshd = Sshd::start(&server);
        (server, sshd)
    })
}

fn with_release(user: &User, script: &str) {
    let config = user.read("tako.toml");
    if !config.contains("release =") {
        user.write("tako.toml", &format!("release = \"sh release.sh\"\n{config}"));
    }
    user.write("release.sh", script);
}

#[test]
fn a_release_command_runs_once_before_any_server_changes() {
    let [(first, sshd), (second, other)] = two();
    sshd.join(&other);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    for (name, port) in [("one", sshd.port), ("two", other.port)] {
        user.must(&["servers", "add", "127.0.0.1", "--name", name, "--port", &port.to_string()]);
    }
    let config = user.read("tako.toml");
    let config = config.replace("[envs.production]", "[envs.production]\nservers = [\"one\", \"two\"]");
    user.write("tako.toml", &config);
    secret(&user, "DATABASE", "first-secret");
    // Also at the very first deploy, with the secrets that it brings, in the new release.
    let script = "echo \"$TAKO_BUILD $DATABASE $(pwd)\" >> $TAKO_DATA_DIR/ran; ls -d ../../current/ >> $TAKO_DATA_DIR/before 2>&1; echo migrating";
    with_release(&user, script);
    let shown = user.must(&["deploy", "--yes", "--verbose"]);
    assert!(shown.err.contains("migrating"), "{shown}");
    let ran = |server: &Server| fs::read_to_string(server.app("shop").join("shared/data/ran")).unwrap_or_default();
    let v1 = first.current("shop").unwrap();
    let there =
        |server: &Server, version: &str| server.app("shop").join("releases").join(version).display().to_string();
    assert_eq!(ran(&first), format!("{v1} first-secret {}\n", there(&first, &v1)));
    assert_eq!(ran(&second), "");
    let before = fs::read_to_string(first.app("shop").join("shared/data/before")).unwrap();
    assert!(before.contains("No such file"), "nothing was live then: {before}");

    // Again with a secret that no server has yet; not when nothing has changed at all, unless that is asked for.
    secret(&user, "DATABASE", "second-secret");
    user.must(&["deploy", "--yes"]);
    user.must(&["deploy", "--yes"]);
    assert_eq!(ran(&first).matches("second-secret").count(), 1);
    user.must(&["deploy", "--yes", "--force"]);
    assert_eq!(ran(&first).matches("second-secret").count(), 2);
    assert_eq!(ran(&second), "");

    // One that fails: nothing has changed anywhere, and nobody has noticed.
    let traffic = Traffic::start(first.http, first.https, HOST);
    with_release(
        &user,
        "echo begins; for i in $(seq 60); do echo line $i; done; echo 'relation \"x\" exists' >&2; exit 3",
    );
    let failed = user.run(&["deploy", "--yes"]);
    failed.assert_failed(
        4,
        &["one: the release command `sh release.sh` failed with exit code 3", "relation \"x\" exists", "line 60"],
    );
    assert!(!failed.err.contains("line 10\n"), "{failed}");
    for server in [&first, &second] {
        assert_eq!(server.current("shop"), Some(v1.clone()));
        assert_eq!(server.releases("shop"), [v1.as_str()], "the new release is gone");
        assert_eq!(server.status("shop").unwrap()["state"], "live");
    }
    traffic.stop().assert_lossless(&[&v1]);
}

#[test]
fn a_release_command_ends_with_ctrl_c_and_leaves_nothing() {
    let (server, _sshd, user) = live();
    let v1 = server.current("shop").unwrap();
    wait_for_groups(&server, 1);
    with_release(&user, "echo begun; touch $TAKO_DATA_DIR/begun; exec sleep 600");
    let deploy = user.command(&["deploy", "--yes"]).stderr(Stdio::piped()).stdout(Stdio::null()).spawn().unwrap();
    wait_for("the release command", || server.app("shop").join("shared/data/begun").exists().then_some(()));
    // Whoever else deploys is told.
    user.run(&["deploy", "--yes"]).assert_failed(7, &["being deployed"]);
    kill_process(pid(&deploy), Signal::INT).unwrap();
    let ended = Ran::from(&["deploy"], deploy.wait_with_output().unwrap());
    ended.assert_failed(130, &["every server is as it was"]);
    wait_for_groups(&server, 1);
    wait_for("the new release to be gone", || (server.releases("shop") == [v1.as_str()]).then_some(()));
    assert_eq!(server.current("shop"), Some(v1));
    // It stays out of the way of the next one.
    with_release(&user, "true");
    user.must(&["deploy", "--yes"]);
}
