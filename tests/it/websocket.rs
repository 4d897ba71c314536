//! WebSockets through the whole program: peers that others wrote, a thousand that are idle, and what becomes of open
//! ones when their instance is replaced or removed. What the proxy does with the bytes is tested beside it.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use crate::deploy::{world, world_with};
use crate::http::{Client, WebSocket};
use crate::sandbox::{HOST, Server, User, wait_for};

/// Tunnels that are open at once; each takes two descriptors of the server.
const MANY: usize = 1_000;

/// Where `make setup` puts what the tests bring themselves.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools")
}

/// The peers of the matrix, by the programs that run them.
struct Peers {
    node: PathBuf,
    python: PathBuf,
}

impl Peers {
    /// `None`, said aloud, when one could not be installed.
    #[expect(clippy::print_stdout, reason = "a skipped test must not look like one that passed")]
    fn find() -> Option<Peers> {
        let path = std::env::var_os("PATH").unwrap();
        let node = std::env::split_paths(&path).map(|dir| dir.join("node")).find(|file| file.is_file())?;
        let peers = Peers { node, python: tools().join("python/bin/python") };
        let websockets = Command::new(&peers.python).args(["-c", "import websockets"]).status();
        let found = tools().join("node_modules/ws").is_dir() && websockets.is_ok_and(|status| status.success());
        if !found {
            println!("skipped: ws or websockets is not installed in target/tools, see tests/setup.sh");
        }
        found.then_some(peers)
    }

    /// Each with the arguments of the script that is next to it in `tests/data/ws`.
    fn run(&self, script: &str) -> Vec<String> {
        let text = |path: &Path| path.to_str().unwrap().to_string();
        match script.ends_with(".mjs") {
            true => vec![text(&self.node), script.into(), text(&tools())],
            false => vec![text(&self.python), script.into()],
        }
    }
}

fn data(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/ws").join(name)
}

/// Deploys `script` of `tests/data/ws` as a program of its own.
fn deploy_peer(user: &User, peers: &Peers, script: &str) {
    let start = peers.run(script).iter().map(|word| format!("{word:?}")).collect::<Vec<_>>().join(", ");
    user.write(
        "tako.toml",
        &format!(
            "name = \"shop\"\nruntime = \"binary\"\nmain = {script:?}\nstart = [{start}]\n\n\
             [envs.production]\nroute = {HOST:?}\n"
        ),
    );
    user.write(script, &std::fs::read_to_string(data(script)).unwrap());
    user.must(&["deploy", "--yes"]);
}

fn every_client_understands(script: &str) {
    let Some(peers) = Peers::find() else { return };
    // Whose Python this is, and whether others may run it, is the machine's business.
    let (server, _sshd, user) = world_with(&["--app-users", "off"]);
    deploy_peer(&user, &peers, script);
    for client in ["client.mjs", "client.py"] {
        for base in [format!("ws://{}", server.http), format!("wss://{}", server.https)] {
            let words = peers.run(data(client).to_str().unwrap());
            let ran = Command::new(&words[0]).args(&words[1..]).args([&base, HOST]).output().unwrap();
            let (said, error) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
            assert!(ran.status.success(), "{client} to {script} over {base}:\n{said}{error}\n{}", server.log());
            assert_eq!(said.lines().filter(|line| line.starts_with("ok ")).count(), 10, "{said}");
        }
    }
}

#[test]
fn a_server_of_ws_and_all_clients_understand_each_other() {
    every_client_understands("server.mjs");
}

#[test]
fn a_server_of_websockets_and_all_clients_understand_each_other() {
    every_client_understands("server.py");
}

/// A tunnel to the app `mixed`, and the version of the instance at its end.
fn open(server: &Server, tls: bool) -> (WebSocket, String) {
    let client = match tls {
        true => Client::tls(server.https, HOST),
        false => Client::plain(server.http, HOST),
    };
    let mut tunnel = client.unwrap().upgrade("/ws").unwrap();
    let version = tunnel.receive().unwrap().expect("the app names itself on open");
    (tunnel, version)
}

/// Resident memory in bytes.
fn memory(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("Linux tells it");
    line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
}

#[test]
#[expect(clippy::print_stdout, reason = "memory is told, not judged")]
fn a_thousand_idle_tunnels_live_on() {
    use rustix::process::{Resource, getrlimit, setrlimit};
    let mut limit = getrlimit(Resource::Nofile);
    limit.current = limit.maximum;
    setrlimit(Resource::Nofile, limit).unwrap();

    let (server, _sshd, user) = world();
    user.must(&["deploy", "--yes"]);
    // What the first ones warm up is not theirs.
    let mut tunnels: Vec<WebSocket> = (0..40).map(|n| open(&server, n % 2 == 0).0).collect();
    for tls in [false, true] {
        let before = memory(server.pid());
        let fresh = MANY / 2 - 20;
        tunnels.extend((0..fresh).map(|_| open(&server, tls).0));
        let each = memory(server.pid()).saturating_sub(before) / fresh;
        println!("an idle tunnel takes {each} bytes of the server, TLS: {tls}");
        assert!(each < 64 << 10, "{each} bytes: an idle tunnel holds a buffer");
    }
    assert_eq!(tunnels.len(), MANY);
    // A new table under them, and ordinary traffic beside them.
    user.must(&["scale", "2"]);
    assert_eq!(Client::plain(server.http, HOST).unwrap().get("/").unwrap().status, 200);
    for (n, tunnel) in tunnels.iter_mut().enumerate() {
        assert!(tunnel.echoes(&format!("still here {n}")).unwrap(), "tunnel {n}");
    }
}

/// The processes of the app that are there, in whatever state.
fn pids(server: &Server) -> Vec<u64> {
    let status = server.status("shop").expect("the app is there");
    status["instances"].as_array().unwrap().iter().filter_map(|instance| instance["pid"].as_u64()).collect()
}

fn gone(server: &Server, pid: u64) {
    wait_for("the old instance to end", || (!pids(server).contains(&pid)).then_some(()));
}

/// Deploys the app `mixed` anew, with this drain limit; returns the process that serves it.
fn deploy(server: &Server, user: &User, change: &str, drain_s: u32) -> u64 {
    let before = server.status("shop").map(|_| pids(server)).unwrap_or_default();
    user.write("change.txt", change);
    let route = format!("route = {HOST:?}\n");
    let config = user.read("tako.toml");
    let (head, _) = config.split_once(&route).unwrap();
    user.write("tako.toml", &format!("{head}{route}drain_timeout = {drain_s}\n"));
    user.must(&["deploy", "--yes"]);
    let new = pids(server).into_iter().filter(|pid| !before.contains(pid)).collect::<Vec<_>>();
    assert_eq!(new.len(), 1, "one instance of the new version");
    new[0]
}

#[test]
fn tunnels_stay_with_their_instance_until_they_end() {
    let (server, _sshd, user) = world();
    // A limit that no part of this test waits for.
    let first = deploy(&server, &user, "one", 600);
    let (mut plain, v1) = open(&server, false);
    let (mut secure, _) = open(&server, true);

    let second = deploy(&server, &user, "two", 600);
    let (mut newer, v2) = open(&server, false);
    assert_ne!(v1, v2, "a new tunnel reaches the new version");
    assert!(plain.echoes("on").unwrap() && secure.echoes("and on").unwrap());
    assert!(pids(&server).contains(&first));
    drop((plain, secure));
    gone(&server, first);

    user.must(&["releases", "rollback"]);
    assert_eq!(open(&server, true).1, v1);
    assert!(newer.echoes("not rolled back").unwrap());
    assert!(pids(&server).contains(&second));
    drop(newer);
    gone(&server, second);
}

#[test]
fn at_the_drain_limit_tunnels_end_and_what_was_said_before_arrives() {
    const LIMIT_S: u32 = 3;
    let (server, _sshd, user) = world();
    let old = deploy(&server, &user, "one", LIMIT_S);
    let mut tunnels = [false, true].map(|tls| open(&server, tls).0);
    let words = "words ".repeat(10_000);
    for tunnel in &mut tunnels {
        for _ in 0..8 {
            tunnel.send(&words).unwrap();
        }
    }
    // One loop serves them all: when this one is answered, the app has written its answers to the others.
    let (mut witness, _) = open(&server, false);
    for n in 0..3 {
        assert!(witness.echoes(&format!("{n}")).unwrap());
    }
    let asked = Instant::now();
    deploy(&server, &user, "two", LIMIT_S);
    // A deploy on a busy machine may take longer than the limit; before it nothing ends.
    let lives = witness.echoes("the limit is not yet over").unwrap_or(false);
    assert!(lives || asked.elapsed() > secs(LIMIT_S));
    gone(&server, old);
    assert!(asked.elapsed() >= secs(LIMIT_S), "ended after {:?}", asked.elapsed());
    for tunnel in &mut tunnels {
        for n in 0..8 {
            assert_eq!(tunnel.receive().unwrap().as_deref(), Some(&*words), "answer {n}");
        }
        assert_eq!(tunnel.receive().unwrap(), None, "the app says goodbye");
    }
}

#[test]
fn a_deleted_app_keeps_its_tunnels_until_the_drain_limit() {
    const LIMIT_S: u32 = 2;
    let (server, _sshd, user) = world();
    deploy(&server, &user, "one", LIMIT_S);
    let (mut tunnel, _) = open(&server, true);
    let asked = Instant::now();
    let mut deleting = user.command(&["delete", "--confirm", "shop"]).spawn().unwrap();
    wait_for("the route to be gone", || {
        let answer = Client::plain(server.http, HOST).ok()?.get("/").ok()?;
        (answer.status == 404).then_some(())
    });
    if tunnel.echoes("still here").unwrap_or(false) {
        assert_eq!(tunnel.receive().unwrap(), None, "the app says goodbye");
    }
    assert!(asked.elapsed() >= secs(LIMIT_S), "ended after {:?}", asked.elapsed());
    assert!(deleting.wait().unwrap().success());
    assert!(!server.app("shop").exists());
}

fn secs(n: u32) -> Duration {
    Duration::from_secs(n.into())
}
