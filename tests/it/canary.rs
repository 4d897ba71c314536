//! A secret is looked for where it must not be, after everything that is done with one: in all files of the server, of the
//! user and of sshd, in what every command said, and, all the while, in the environment and the arguments of every
//! process of this machine.
//!
//! The same search finds what is planted, in each of its forms: else it would prove nothing.

use std::collections::BTreeSet;
use std::fs;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use base64::Engine;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use rustix::process::{Pid, Signal, kill_process};

use crate::http::Client;
use crate::sandbox::{HOST, Ran, Running, Server, Sshd, TAKO, User, wait_for};
use crate::secrets::{has, pids, piped, set};

/// One for each way in, and one that takes the place of another. Each has a part without characters that an escape would
/// change, and some that each of them does.
const TYPED: &str = "typed7391Horse/\"q\\ +%ä";
const PIPED: &str = "piped4417Staple/\"q\\ +%ä";
const LISTED: &str = "listed8052Battery='#$+%ä";
const LINES: &str = "lines6629Correct\nsecond-of-6629\"line\"";
const ROTATED: &str = "rotated2208Zebra/\"q\\ +%ä";
const REFUSED: &str = "refused1173Kettle";
const ALL: [&str; 6] = [TYPED, PIPED, LISTED, LINES, ROTATED, REFUSED];

/// Not one that the tests beside this one look for.
const PLANTED: &str = "planted5513Garden/\"q\\ +%ä";

/// Files above this are not ours: runtimes and programs.
const MAX_FILE: u64 = 64 << 20;

/// Everything that one of these is searched for as.
fn needles(canaries: &[&str]) -> Vec<Vec<u8>> {
    let mut needles = BTreeSet::new();
    for canary in canaries {
        // The part that escapes leave alone stands for the value as it is, in JSON and in a URL.
        let core = &canary[..canary.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(canary.len())];
        assert!(core.len() >= 12, "{core}");
        needles.insert(core.as_bytes().to_vec());
        needles.insert(core.bytes().rev().collect());
        let hex: String = core.bytes().map(|b| format!("{b:02x}")).collect();
        needles.insert(hex.to_uppercase().into_bytes());
        needles.insert(hex.into_bytes());
        // In base64 it looks different by where it begins; what its neighbours change is left out.
        for offset in 0..3 {
            let shifted = ["\0".repeat(offset).as_bytes(), core.as_bytes()].concat();
            let whole = &shifted[..shifted.len() - shifted.len() % 3];
            for text in [STANDARD_NO_PAD.encode(whole), URL_SAFE_NO_PAD.encode(whole)] {
                needles.insert(text.as_bytes()[if offset == 0 { 0 } else { 4 }..].to_vec());
            }
        }
    }
    needles.into_iter().collect()
}

fn pair(bytes: &[u8]) -> usize {
    usize::from(bytes[0]) << 8 | usize::from(bytes[1])
}

struct Search {
    needles: Vec<Vec<u8>>,
    /// Which two bytes one of them begins with: most of what is searched is large and harmless.
    begins: Vec<bool>,
}

impl Search {
    fn of(canaries: &[&str]) -> Search {
        let needles = needles(canaries);
        let mut begins = vec![false; 1 << 16];
        needles.iter().for_each(|needle| begins[pair(needle)] = true);
        Search { needles, begins }
    }

    fn hits(&self, bytes: &[u8]) -> bool {
        bytes.windows(2).enumerate().any(|(at, two)| {
            self.begins[pair(two)] && self.needles.iter().any(|needle| bytes[at..].starts_with(needle))
        })
    }

    /// Names and contents below `dir`, archives unpacked.
    fn files(&self, dir: &Path) -> Vec<PathBuf> {
        let mut found = Vec::new();
        let mut folders = vec![dir.to_path_buf()];
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
                let path = entry.path();
                let Ok(about) = fs::symlink_metadata(&path) else { continue };
                if about.is_dir() {
                    folders.push(path);
                    continue;
                }
                let content = match about.is_file() && about.len() <= MAX_FILE {
                    true => fs::read(&path).unwrap_or_default(),
                    false => Vec::new(),
                };
                let unpacked = match content.starts_with(&[0x28, 0xb5, 0x2f, 0xfd]) {
                    true => zstd::decode_all(&content[..]).unwrap_or_default(),
                    false => Vec::new(),
                };
                if [path.as_os_str().as_encoded_bytes(), &content, &unpacked].iter().any(|bytes| self.hits(bytes)) {
                    found.push(path);
                }
            }
        }
        found
    }

    /// Of all processes, whoever started them: the app's own instances have their secrets by other means, too.
    fn processes(&self) -> Vec<String> {
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            for what in ["environ", "cmdline", "comm"] {
                // It may have ended since, or be closed to us.
                let bytes = fs::read(entry.path().join(what)).unwrap_or_default();
                if self.hits(&bytes) {
                    found.push(format!("{}/{what}: {}", entry.path().display(), String::from_utf8_lossy(&bytes)));
                }
            }
        }
        found
    }
}

/// What every command said, to be searched at the end.
struct Said(String);

impl Said {
    fn by(&mut self, ran: &Ran, code: i32) {
        assert_eq!(ran.code, code, "{ran}");
        self.0 += &ran.to_string();
    }
}

/// Types a value at the prompt of a terminal once nothing typed is shown any more; what the terminal showed.
fn typed(user: &User, name: &str, value: &str) -> String {
    let plain = user.command(&[]);
    let mut command = Command::new("script");
    command.args(["-qec", &format!("{TAKO} secrets set {name}"), "/dev/null"]).current_dir(user.project());
    for (name, value) in plain.get_envs() {
        match value {
            Some(value) => command.env(name, value),
            None => command.env_remove(name),
        };
    }
    command.env("TERM", "xterm").stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = Running(command.spawn().expect("script is installed, as a part of every system"));
    let terminal = wait_for("the prompt on a terminal", || {
        let mut processes = fs::read_dir("/proc").unwrap().flatten();
        let process = processes.find(|process| {
            let line = fs::read(process.path().join("cmdline")).unwrap_or_default();
            let environ = fs::read(process.path().join("environ")).unwrap_or_default();
            let home = [b"HOME=", user.dir.path().as_os_str().as_encoded_bytes()].concat();
            line.starts_with(format!("{TAKO}\0secrets\0set\0{name}\0").as_bytes())
                && environ.split(|b| *b == 0).any(|variable| variable == home)
        })?;
        let terminal = fs::read_link(process.path().join("fd/0")).ok()?;
        let settings = Command::new("stty").arg("-a").arg("-F").arg(&terminal).output().ok()?;
        String::from_utf8_lossy(&settings.stdout).split_whitespace().any(|word| word == "-echo").then_some(terminal)
    });
    assert!(terminal.starts_with("/dev/pts"), "{terminal:?}");
    child.0.stdin.as_mut().unwrap().write_all(format!("{value}\r").as_bytes()).unwrap();
    let status = wait_for("the value to be taken", || child.0.try_wait().unwrap());
    let mut shown = String::new();
    child.0.stdout.take().unwrap().read_to_string(&mut shown).unwrap();
    assert!(status.success() && shown.contains("(not shown)"), "{shown}");
    shown
}

fn live(server: &Server) {
    wait_for("the app to be live", || (server.status("shop")?["state"] == "live").then_some(()));
}

/// All that is done with secrets, on a server of this kind.
fn cycle(mut server: Server, temp: &Path) {
    let mut sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    let search = Search::of(&ALL);
    let seen = Mutex::new(BTreeSet::new());
    let over = AtomicBool::new(false);
    let places: Vec<PathBuf> = [server.dir.path(), user.dir.path(), sshd.dir(), temp].map(PathBuf::from).into();

    thread::scope(|scope| {
        // What is there for a moment only is looked for all the time.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                let files = [user.dir.path(), temp].map(|dir| search.files(dir)).concat();
                let files = files.into_iter().map(|path| path.display().to_string());
                seen.lock().unwrap().extend(files.chain(search.processes()));
                thread::sleep(std::time::Duration::from_millis(30));
            }
        });
        struct Over<'a>(&'a AtomicBool);
        impl Drop for Over<'_> {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let _end = Over(&over);
        let said = use_secrets(&mut server, &mut sshd, &user, temp);
        assert!(!search.hits(said.0.as_bytes()), "a command said it: {}", said.0);
        let listed = Command::new("ps").arg("auxeww").output().map(|ran| ran.stdout).unwrap_or_default();
        assert!(!search.hits(&listed), "ps shows it");
    });
    let found: Vec<PathBuf> = places.iter().flat_map(|dir| search.files(dir)).collect();
    assert!(found.is_empty(), "{found:?}");
    assert!(seen.lock().unwrap().is_empty(), "{seen:?}");
}

fn use_secrets(server: &mut Server, sshd: &mut Sshd, user: &User, temp: &Path) -> Said {
    let mut said = Said(String::new());
    let port = sshd.port.to_string();
    let options = format!("{} -vvv", sshd.options());
    let loud = |args: &[&str]| {
        let mut command = user.command(args);
        command.env("TAKO_SSH_OPTIONS", &options).env("TMPDIR", temp);
        Ran::from(args, command.output().unwrap())
    };
    said.by(&user.run(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &port]), 0);
    said.0 += &typed(user, "TYPED", TYPED);
    said.by(&piped(user, &["secrets", "set", "PIPED", "-", "--verbose"], PIPED), 0);
    let quoted = LINES.replace('\n', "\\n").replace('"', "\\\"");
    let dotenv = format!("LISTED={LISTED}\nLINES=\"{quoted}\"\n");
    said.by(&piped(user, &["secrets", "import", "--json", "-"], &dotenv), 0);
    // What is refused is not repeated.
    said.by(&piped(user, &["secrets", "import", "-"], &format!("{REFUSED}\nx={REFUSED}\nA='{REFUSED}")), 1);
    said.by(&user.run(&["secrets", "set", "PIPED", "as-an-argument"]), 2);

    said.by(&loud(&["deploy", "--yes", "--verbose"]), 0);
    for (name, value) in [("TYPED", TYPED), ("PIPED", PIPED), ("LISTED", LISTED), ("LINES", LINES)] {
        assert!(has(server, name, value), "{name} is not what it was set to");
    }
    said.by(&loud(&["scale", "2", "--json"]), 0);
    set(user, "PIPED", ROTATED);
    said.by(&loud(&["secrets", "sync", "--verbose"]), 0);
    assert!(has(server, "PIPED", ROTATED));
    said.by(&loud(&["secrets", "sync", "--json"]), 0);
    user.write("change.txt", "two");
    said.by(&loud(&["deploy", "--yes", "--json", "--verbose"]), 0);
    said.by(&loud(&["releases", "rollback", "--verbose"]), 0);
    assert!(has(server, "PIPED", ROTATED));

    let victim = pids(server)[0];
    kill(victim, Signal::KILL);
    wait_for("another instance in its place", || {
        let pids = pids(server);
        (!pids.is_empty() && !pids.contains(&victim)).then_some(())
    });
    user.use_app("exits", true);
    said.by(&loud(&["deploy", "--yes", "--verbose"]), 4);
    user.use_app("mixed", true);

    // Sleeping and waking.
    user.write("tako.toml", &(user.read("tako.toml") + "idle_timeout = 1\n"));
    said.by(&loud(&["deploy", "--yes"]), 0);
    said.by(&loud(&["scale", "0"]), 0);
    wait_for("its sleep", || (server.status("shop")?["state"] == "asleep").then_some(()));
    assert!(has(server, "PIPED", ROTATED));
    said.by(&loud(&["scale", "1"]), 0);

    assert!(server.shut_down(), "{}", server.log());
    server.boot();
    live(server);
    said.by(&loud(&["logs", "--lines", "1000"]), 0);
    said.by(&loud(&["status", "--instances", "--verbose"]), 0);
    said.by(&loud(&["releases", "ls", "--json"]), 0);

    // The end that leaves the most behind: no core is written, and nothing else.
    let limits = fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find(|line| line.starts_with("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().skip(4).take(2).collect::<Vec<_>>(), ["0", "0"], "{core}");
    kill(server.pid().into(), Signal::ABORT);
    let ended = server.end("an abort");
    assert!(!std::os::unix::process::ExitStatusExt::core_dumped(&ended), "{ended}");
    server.boot();
    live(server);
    assert!(has(server, "PIPED", ROTATED) && Client::plain(server.http, HOST).unwrap().get("/").unwrap().status == 200);

    // Commands that have read them and fail.
    sshd.stop();
    said.by(&loud(&["secrets", "sync", "--verbose"]), 6);
    said.by(&loud(&["deploy", "--yes", "--json"]), 6);
    let mut wrong = user.command(&["secrets", "sync"]);
    wrong.env("TAKO_SECRETS_KEY_PRODUCTION", "BwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwcHBwc=");
    said.by(&Ran::from(&["secrets", "sync"], wrong.output().unwrap()), 3);
    said
}

fn kill(pid: u64, signal: Signal) {
    kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), signal).unwrap();
}

#[test]
fn secrets_are_nowhere_in_clear() {
    let temp = tempfile::tempdir().unwrap();
    let server = Server::with_env(&[], &[("TMPDIR", temp.path().to_str().unwrap())]);
    cycle(server, temp.path());
}

#[test]
fn nor_on_a_server_that_is_not_root() {
    if !rustix::process::geteuid().is_root() {
        // The other test is this one then.
        return;
    }
    let temp = tempfile::tempdir().unwrap();
    cycle(Server::as_user(65_534), temp.path());
}

#[test]
fn the_search_finds_what_is_planted() {
    let search = Search::of(&[PLANTED]);
    let other = Search::of(&["another3306Value"]);
    let dir = tempfile::tempdir().unwrap();
    let plain = PLANTED.as_bytes();
    let json = serde_json::to_vec(PLANTED).unwrap();
    let url: String = PLANTED
        .bytes()
        .map(|b| if b.is_ascii_alphanumeric() { char::from(b).to_string() } else { format!("%{b:02X}") })
        .collect();
    let hex: String = plain.iter().map(|b| format!("{b:02x}")).collect();
    let mut forms = vec![plain.to_vec(), json, url.into_bytes(), plain.iter().rev().copied().collect()];
    forms.extend([hex.to_uppercase().into_bytes(), hex.into_bytes()]);
    for before in ["", "x", "xy", "{\"API_KEY\":\""] {
        let whole = format!("{before}{PLANTED}\"}}");
        forms.extend([STANDARD_NO_PAD.encode(&whole), URL_SAFE_NO_PAD.encode(&whole)].map(String::into_bytes));
    }
    for (n, form) in forms.into_iter().enumerate() {
        let around = [b"some text before ".to_vec(), form, b" and after".to_vec()].concat();
        let path = dir.path().join("file");
        for content in [zstd::encode_all(&around[..], 3).unwrap(), around] {
            fs::write(&path, content).unwrap();
            assert_eq!(search.files(dir.path()), std::slice::from_ref(&path), "form {n}");
            assert!(other.files(dir.path()).is_empty(), "form {n}");
        }
    }
    fs::write(dir.path().join("file"), "").unwrap();
    assert!(search.files(dir.path()).is_empty());
    fs::write(dir.path().join(PLANTED.replace('/', "-")), "").unwrap();
    assert_eq!(search.files(dir.path()).len(), 1, "a name");

    assert!(search.processes().is_empty());
    let sleep = |command: &mut Command| Running(command.stdin(Stdio::piped()).spawn().unwrap());
    for (what, planted) in [
        ("environ", sleep(Command::new("sleep").arg("600").env("X", PLANTED))),
        ("cmdline", sleep(Command::new("sh").args(["-c", "read x; :", PLANTED]))),
    ] {
        wait_for(what, || search.processes().iter().any(|p| p.contains(what)).then_some(()));
        assert!(other.processes().is_empty());
        drop(planted);
    }
}
