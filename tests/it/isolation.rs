//! An app that means harm beside one that does not. Whatever it tries is refused, and its neighbour never misses a request.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::Duration;

use serde_json::{Value, json};

use crate::http::Client;
use crate::sandbox::{Control, Server, wait_for};
use crate::server::unpack_as;

/// What the hostile app may have.
const MEMORY: u64 = 256 << 20;
const PROCESSES: u32 = 24;
/// Bytes of log that an app may have on disk: five files of ten MiB, and the one that is being written.
const LOGS: u64 = 64 << 20;
/// What the server may take more than before while an app floods its log: it is far below what is said.
const SERVER_GROWTH: u64 = 100 << 20;

/// The hostile program, compiled once.
fn hostile() -> &'static [u8] {
    static PROGRAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/programs/hostile.c");
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("hostile-{}", std::process::id()));
        let compiled = Command::new("cc").args(["-O1", "-o"]).arg(&program).arg(source).status();
        assert!(compiled.expect("cc is installed (make test sees to it)").success());
        let bytes = fs::read(&program).unwrap();
        fs::remove_file(&program).unwrap();
        bytes
    });
    &PROGRAM
}

fn deploy(server: &Server, app: &str, limits: &Value) {
    let mut control = Control::open(server).unwrap();
    unpack_as(server, &mut control, app, "v1", hostile()).unwrap();
    let manifest =
        json!({"app": app, "version": "v1", "runtime": "binary", "main": "run", "health": "/", "limits": limits});
    control.call(json!({"prepare": {"manifest": manifest}})).unwrap();
    let secrets = json!({"hash": "h", "values": {"KEY": "of the neighbour"}});
    let order = json!({"manifest": manifest, "routes": [host(app)], "instances": 1, "secrets": secrets});
    control.call(json!({"deploy": order})).unwrap();
}

fn host(app: &str) -> String {
    format!("{app}.localhost")
}

/// What the hostile app answers.
fn ask(server: &Server, path: &str) -> String {
    let answer = Client::plain(server.http, &host("evil")).unwrap().get(path).unwrap();
    format!("{}{}", if answer.status == 200 { "" } else { "failed: " }, answer.text())
}

fn pid(server: &Server, app: &str) -> u64 {
    server.status(app).unwrap()["instances"][0]["pid"].as_u64().unwrap()
}

fn remarks(server: &Server, app: &str) -> String {
    server.status(app).unwrap()["remarks"].to_string()
}

/// The most memory that a program ever had, and what it has now, in bytes.
fn memory(pid: u32, key: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|l| l.strip_prefix(key)).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() << 10
}

fn is_alive(pid: u64) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ").is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// Where no other user may be taken, there is nothing to see.
fn skipped(what: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {what}");
}

struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// Asks the neighbour without a pause for as long as `during` takes; how often it answered.
fn beside_steady_requests(server: &Server, during: impl FnOnce()) -> usize {
    let over = AtomicBool::new(false);
    thread::scope(|scope| {
        let asking = scope.spawn(|| {
            let mut answered = 0;
            while !over.load(Ordering::Relaxed) {
                let answer = Client::plain(server.http, &host("good")).and_then(|mut client| client.get("/"));
                let answer = answer.unwrap_or_else(|e| panic!("the neighbour missed request {answered}: {e}"));
                assert_eq!((answer.status, answer.text().as_str()), (200, "up"));
                answered += 1;
                thread::sleep(Duration::from_millis(2));
            }
            answered
        });
        // Also when what is done meanwhile fails.
        let end = Over(&over);
        during();
        drop(end);
        asking.join().unwrap()
    })
}

#[test]
fn an_app_gets_at_nothing_of_its_neighbour_or_of_the_server() {
    if !is_root() {
        return skipped("only root gives apps users of their own");
    }
    let mut server = Server::start();
    deploy(&server, "good", &json!({}));
    deploy(&server, "evil", &json!({"memory": MEMORY, "processes": PROCESSES}));
    // A second start finds its folders as a first one leaves them, and puts right what is not.
    assert!(server.shut_down());
    server.boot();
    wait_for("both to serve", || {
        ["good", "evil"].iter().all(|app| server.status(app).is_some_and(|s| s["state"] == "live")).then_some(())
    });
    let (good, us) = (pid(&server, "good"), server.pid());
    let answered = beside_steady_requests(&server, || {
        files(&server);
        processes(&server, good);
        is_confined(&server);
        bombs(&server);
    });
    assert!(answered > 100, "the neighbour answered {answered} times");
    assert_eq!((pid(&server, "good"), server.pid()), (good, us), "nobody was ended");
}

fn files(server: &Server) {
    let (data, good, evil) = (server.data(), server.app("good"), server.app("evil"));
    let secrets = |app: &Path| {
        let sealed = fs::read_dir(app).unwrap().flatten().map(|e| e.path());
        sealed.into_iter().find(|p| p.to_string_lossy().ends_with(".sealed")).expect("it has secrets")
    };
    let notes: Vec<PathBuf> = fs::read_dir(good.join("run")).unwrap().flatten().map(|e| e.path()).collect();
    assert!(!notes.is_empty());
    for app in [&good, &evil] {
        wait_for("its log", || app.join("shared/logs/app.log").exists().then_some(()));
    }
    let cert = fs::read_dir(data.join("certs")).unwrap().flatten().next().map(|e| e.path().join("key.pem"));
    let reads = [
        good.join("releases/v1/run"),
        good.join("releases/v1/app.json"),
        good.join("state.json"),
        evil.join("state.json"),
        secrets(&good),
        secrets(&evil),
        good.join("shared/logs/app.log"),
        evil.join("shared/logs/app.log"),
        evil.join("releases/v1/logs/app.log"),
        data.join("host.key"),
        data.join("logs/access.log"),
        data.join("lock"),
        evil.join("user"),
    ];
    for path in reads.iter().chain(&notes).chain(&cert) {
        assert!(path.exists() || path.ends_with("access.log"), "{} is not there to be read", path.display());
        refused(server, "read", path.display());
    }
    let folders = ["releases", "releases/v1", "shared/data", "shared", "home", "tmp", "run", "shared/logs"];
    for folder in folders.map(|f| good.join(f)).into_iter().chain([data.clone(), data.join("apps"), good.clone()]) {
        refused(server, "list", folder.display());
    }
    for folder in ["certs", "incoming", "cache", "logs", "apps/evil", "apps/evil/run", "apps/evil/shared/logs"] {
        refused(server, "list", data.join(folder).display());
        refused(server, "write", data.join(folder).join("x").display());
    }
    for path in ["run", "app.json", "new", ".complete", "logs/new"] {
        refused(server, "write", evil.join("releases/v1").join(path).display());
    }
    for path in ["shared/data/x", "home/x", "tmp/x", "shared/x", "x"] {
        refused(server, "write", good.join(path).display());
    }
    for path in ["apps/x", "x", "sdk/x", "runtimes/x", "apps/evil/x", "apps/evil/shared/x"] {
        refused(server, "write", data.join(path).display());
    }
    for group in ["/sys/fs/cgroup/cgroup.procs", "/sys/fs/cgroup/unified/cgroup.procs"] {
        refused(server, "write", group);
    }
    refused(server, "manage", server.socket().display());
    // What it must be able to read, so that the above says something.
    for path in [evil.join("releases/v1/run"), evil.join("releases/v1/app.json"), "/etc/hostname".into()] {
        assert!(ask(server, &format!("/read?{}", path.display())).starts_with("yes"), "{}", path.display());
    }
}

fn processes(server: &Server, good: u64) {
    for pid in [good, server.pid().into(), 1] {
        for file in ["environ", "mem", "maps", "fd/3", "fd/0", "stack"] {
            refused(server, "read", format!("/proc/{pid}/{file}"));
        }
        for folder in ["fd", "root", "cwd", "map_files"] {
            refused(server, "list", format!("/proc/{pid}/{folder}/"));
        }
        for verb in ["signal", "trace", "steal"] {
            refused(server, verb, pid);
        }
    }
}

fn is_confined(server: &Server) {
    let own = ask(server, "/own");
    let user: u32 = own.strip_prefix("uid=").unwrap().split(' ').next().unwrap().parse().unwrap();
    assert!((70_000..100_000).contains(&user), "{own}");
    let none = "0000000000000000";
    let ours = rustix::process::getrlimit(rustix::process::Resource::Nofile).maximum;
    let files = ours.map_or(65_536, |most| most.min(65_536));
    assert_eq!(
        own,
        format!(
            "uid={user} gid={user} groups=0 data=1 home=1 tmp=1 stdout=1 secret=1 core=0 files={files} umask=027 oom=500 \
             CapPrm: {none} CapBnd: {none} CapAmb: {none} NoNewPrivs: 1"
        )
    );
}

fn bombs(server: &Server) {
    // All instances together, and one that replaces another, where the kernel cannot count them one by one.
    let forks = ask(server, "/forks");
    let children: u32 = forks.split(':').next().unwrap().parse().unwrap_or_else(|_| panic!("{forks}"));
    assert!(children < 2 * PROCESSES && forks.contains("Resource temporarily unavailable"), "{forks}");

    // Refused by the limit of the process, or killed by that of its group and started anew.
    let memory_bomb = ask(server, "/memory?1024");
    assert!(!memory_bomb.starts_with("yes"), "{memory_bomb}");
    wait_for("it to be there again", || (ask(server, "/") == "up").then_some(()));

    let before = memory(server.pid(), "VmRSS:");
    assert_eq!(ask(server, "/flood?150"), "yes");
    let done = wait_for("all to be said", || Some(ask(server, "/flooded")).filter(|said| said != "not yet"));
    assert_eq!(done, "yes");
    let most = memory(server.pid(), "VmHWM:");
    assert!(most < before + SERVER_GROWTH, "the server had {before} bytes, and {most} while it was flooded");
    let logs = fs::read_dir(server.app("evil").join("shared/logs")).unwrap().flatten();
    let size: u64 = logs.map(|e| e.metadata().unwrap().len()).sum();
    assert!(size < LOGS, "{size} bytes of logs");
}

#[track_caller]
fn refused(server: &Server, verb: &str, what: impl std::fmt::Display) {
    let answer = ask(server, &format!("/{verb}?{what}"));
    assert!(answer.starts_with("no: "), "{verb} {what}: {answer}");
}

#[test]
fn what_an_instance_left_behind_ends_with_it_and_with_the_next_server() {
    let mut server = Server::start();
    deploy(&server, "evil", &json!({}));
    if remarks(&server, "evil").contains("may outlive") {
        return skipped("no cgroup v2 that may be written");
    }
    let daemon = || ask(&server, "/daemon").parse::<u64>().unwrap();
    // It ends with a crash of its instance,
    let kill = |pid: u64| assert!(Command::new("kill").args(["-KILL", &pid.to_string()]).status().unwrap().success());
    let first = daemon();
    assert!(is_alive(first));
    kill(pid(&server, "evil"));
    wait_for("the daemon of a crashed instance to end", || (!is_alive(first)).then_some(()));
    // with the next server, when both its instance and the one that started that were killed,
    wait_for("a new instance", || (ask(&server, "/") == "up").then_some(()));
    let (second, instance) = (daemon(), pid(&server, "evil"));
    server.crash();
    kill(instance);
    assert!(is_alive(second));
    server.boot();
    wait_for("the daemon of a killed server to end", || (!is_alive(second)).then_some(()));
    // and with its app.
    wait_for("a new instance", || (ask(&server, "/") == "up").then_some(()));
    let third = ask(&server, "/daemon").parse::<u64>().unwrap();
    Control::open(&server).unwrap().call(json!({"delete": {"app": "evil"}})).unwrap();
    assert!(!is_alive(third), "gone before the answer");
    assert!(!server.app("evil").exists());
}

#[test]
fn a_server_that_may_not_change_users_says_so_and_keeps_apps_out_of_its_memory() {
    if !is_root() {
        return skipped("the server of the other tests is one already");
    }
    let server = Server::as_user(65_534);
    deploy(&server, "good", &json!({}));
    deploy(&server, "evil", &json!({"memory": MEMORY, "cpu_milli": 500, "processes": PROCESSES}));
    assert_eq!(ask(&server, "/"), "up");
    let own = ask(&server, "/own");
    assert!(own.starts_with("uid=65534 gid=65534 groups=0 data=1 home=0 tmp=1 stdout=1 secret=1 core=0"), "{own}");
    // The server has one; what it starts does not.
    assert!(own.contains("CapPrm: 0000000000000000") && own.contains("CapAmb: 0000000000000000"), "{own}");
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    assert!(status.contains("CapAmb:\t0000000000000400"), "{status}");
    let why = "apps run as the server's own user (uid 65534), which is not root";
    assert!(remarks(&server, "evil").contains(why), "{}", remarks(&server, "evil"));
    assert!(remarks(&server, "evil").contains("`processes` limits nothing"), "{}", remarks(&server, "evil"));
    assert_eq!(server.log().matches(why).count(), 1, "{}", server.log());
    for file in ["environ", "mem", "maps", "fd/3"] {
        refused(&server, "read", format!("/proc/{}/{file}", server.pid()));
    }
    for verb in ["trace", "steal"] {
        refused(&server, verb, server.pid());
    }
    // The limit of each process is there all the same.
    let memory_bomb = ask(&server, "/memory?1024");
    assert!(!memory_bomb.starts_with("yes"), "{memory_bomb}");
}

#[test]
fn a_folder_that_keeps_apps_out_is_named_at_the_start() {
    if !is_root() {
        return skipped("apps have no users of their own");
    }
    let dir = tempfile::tempdir().unwrap();
    fs::set_permissions(dir.path(), std::os::unix::fs::PermissionsExt::from_mode(0o700)).unwrap();
    let ran = Command::new(crate::sandbox::TAKO_SERVER)
        .arg("--data-dir")
        .arg(dir.path().join("data"))
        .arg("--socket")
        .arg(dir.path().join("s"))
        .args(["--http", "127.0.0.1:0", "--https", "127.0.0.1:0"])
        .output()
        .unwrap();
    let said = String::from_utf8(ran.stderr).unwrap();
    assert!(!ran.status.success());
    assert!(said.contains(&format!("{} (mode 0700) keeps the apps' users out", dir.path().display())), "{said}");
    assert!(said.contains("--app-users off"), "{said}");
}
