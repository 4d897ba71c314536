//! The server is killed at every named point of everything it does, and started again: then all is as it was before or
//! as it should have become, nothing is left over, and the next deploy works.
//!
//! What it passes on its way is learned by doing each thing once without a crash; a point that nothing passes is a
//! failure, so one that is added to the program is tested or told of.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{LazyLock, Mutex};
use std::thread;
use std::time::Instant;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::http::Client;
use crate::sandbox::{Control, HOST, Server, wait_for};

#[allow(dead_code)] // The function in it is the program's.
#[path = "../../src/server/crash.rs"]
mod crash;

/// Servers at a time.
const LANES: usize = 4;
/// The second route of who has it.
const SECOND: &str = "second.localhost";

/// Seconds without a request after which an app on demand sleeps; enough to be killed and found awake in.
const IDLE: u64 = 5;

/// The program of all releases, packed as an upload.
struct Artifact {
    packed: Vec<u8>,
    about: Value,
    /// The same as a delta against itself, as what is the same is sent a second time.
    delta: Vec<u8>,
}

static PROGRAM: LazyLock<Vec<u8>> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let program = dir.path().join("app");
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/crash/main.rs");
    let built = Command::new("rustc")
        .args(["--edition=2024", "-Copt-level=1", "-Cstrip=symbols", "-o"])
        .args([&program, &source])
        .status()
        .expect("rustc is there, as cargo is");
    assert!(built.success());
    fs::read(program).unwrap()
});

static ARTIFACT: LazyLock<Artifact> = LazyLock::new(|| {
    let mut tar = tar::Builder::new(Vec::new());
    let mut head = tar::Header::new_gnu();
    head.set_size(PROGRAM.len() as u64);
    head.set_mode(0o755);
    tar.append_data(&mut head, "run", &PROGRAM[..]).unwrap();
    // Who installs with them is said by the manifest.
    for name in ["package.json", "package-lock.json"] {
        head.set_size(2);
        tar.append_data(&mut head, name, &b"{}"[..]).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let packed = zstd::encode_all(&tar[..], 1).unwrap();
    let sha256 = ring::digest::digest(&ring::digest::SHA256, &tar);
    let sha256: String = sha256.as_ref().iter().map(|b| format!("{b:02x}")).collect();
    let about = json!({"file": "up.tar.zst", "sha256": sha256, "bytes": packed.len(), "unpacked": tar.len()});
    let mut delta = zstd::stream::write::Encoder::with_ref_prefix(Vec::new(), 3, &tar[..]).unwrap();
    delta.long_distance_matching(true).unwrap();
    std::io::Write::write_all(&mut delta, &tar).unwrap();
    let delta = delta.finish().unwrap();
    Artifact { packed, about, delta }
});

/// An `npm` that needs no network.
static NPM: LazyLock<TempDir> = LazyLock::new(|| {
    let dir = TempDir::new().unwrap();
    let npm = dir.path().join("npm");
    fs::write(&npm, "#!/bin/sh\nmkdir -p node_modules/a && echo whole > node_modules/a/index.js\n").unwrap();
    // Each app's own user runs it.
    for path in [dir.path(), &npm] {
        fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
    }
    dir
});

/// All that changes together, as it is wanted or as it is found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct State {
    pub version: String,
    pub color: String,
    pub secret: String,
    pub second: bool,
    pub instances: usize,
}

pub fn state(version: &str, color: &str, secret: &str, second: bool, instances: usize) -> State {
    State { version: version.into(), color: color.into(), secret: secret.into(), second, instances }
}

/// Where a scenario begins.
#[derive(Clone, Copy)]
enum From {
    Nothing,
    /// [`before`] is live.
    Live,
    /// The same, with packages that were installed.
    Installed,
    /// It was; the server that is tested is one that starts on what was left in order, as [`before`].
    Stopped,
    /// It was, with one instance more; that server was killed, and its instances run.
    Killed,
}

/// Something that the server does.
struct Scenario {
    name: &'static str,
    from: From,
    act: fn(&Server, &mut Control) -> Result<(), Value>,
    /// What it is to become; `None` is nothing at all.
    after: Option<State>,
}

/// What is live where something is, with v0 before it.
fn before() -> State {
    state("v1", "green", "one", false, 2)
}

/// What is deployed over it.
fn next() -> State {
    state("v2", "blue", "two", true, 2)
}

fn scenarios() -> Vec<Scenario> {
    vec![
        Scenario {
            name: "first deploy",
            from: From::Nothing,
            act: |s, c| ship(s, c, &next(), "npm"),
            after: Some(next()),
        },
        Scenario { name: "deploy", from: From::Live, act: |s, c| ship(s, c, &next(), ""), after: Some(next()) },
        Scenario {
            name: "deploy by a delta",
            from: From::Live,
            act: |s, c| {
                let base = ARTIFACT.about["sha256"].clone();
                let about = json!({"file": "up.delta", "bytes": ARTIFACT.delta.len(), "base": base});
                ship_as(s, c, &next(), "", &ARTIFACT.delta, &about)
            },
            after: Some(next()),
        },
        Scenario {
            name: "deploy with packages of the one before",
            from: From::Installed,
            // Another variable would be another installation.
            act: |s, c| ship(s, c, &State { color: "green".into(), ..next() }, "npm"),
            after: Some(State { color: "green".into(), ..next() }),
        },
        Scenario {
            name: "deploy of the same release",
            from: From::Live,
            act: |s, c| ship(s, c, &State { version: "v1".into(), ..next() }, ""),
            after: Some(State { version: "v1".into(), ..next() }),
        },
        Scenario {
            name: "deploy that fails",
            from: From::Live,
            act: |s, c| ship(s, c, &next(), "exits"),
            after: Some(before()),
        },
        Scenario {
            name: "rollback",
            from: From::Live,
            act: |_, c| c.call(json!({"rollback": {"app": "shop", "version": null}})).map(drop),
            after: Some(State { version: "v0".into(), color: "red".into(), ..before() }),
        },
        Scenario {
            name: "scale up",
            from: From::Live,
            act: |_, c| c.call(json!({"scale": {"app": "shop", "instances": 4}})).map(drop),
            after: Some(State { instances: 4, ..before() }),
        },
        Scenario {
            name: "scale down",
            from: From::Live,
            act: |_, c| c.call(json!({"scale": {"app": "shop", "instances": 1}})).map(drop),
            after: Some(State { instances: 1, ..before() }),
        },
        Scenario {
            name: "new secrets",
            from: From::Live,
            act: |_, c| {
                let secrets = json!({"hash": "hash of two", "values": {"KEY": "two"}});
                c.call(json!({"secrets": {"app": "shop", "secrets": secrets}})).map(drop)
            },
            after: Some(State { secret: "two".into(), ..before() }),
        },
        Scenario {
            name: "delete",
            from: From::Live,
            act: |_, c| c.call(json!({"delete": {"app": "shop"}})).map(drop),
            after: None,
        },
        Scenario { name: "start", from: From::Stopped, act: |_, _| Ok(()), after: Some(before()) },
        Scenario { name: "start after a crash", from: From::Killed, act: |_, _| Ok(()), after: Some(before()) },
    ]
}

/// Uploads and deploys.
pub fn ship(server: &Server, control: &mut Control, to: &State, part: &str) -> Result<(), Value> {
    ship_as(server, control, to, part, &ARTIFACT.packed, &json!({}))
}

/// Uploads these bytes, of which `about` says what is not so with the whole archive.
fn ship_as(
    server: &Server,
    control: &mut Control,
    to: &State,
    part: &str,
    bytes: &[u8],
    about: &Value,
) -> Result<(), Value> {
    let State { version, color, secret, second, instances } = to;
    control.call(json!({"lock": {"app": "shop", "version": version}}))?;
    let mut artifact = ARTIFACT.about.clone();
    artifact.as_object_mut().unwrap().extend(about.as_object().unwrap().clone());
    fs::write(server.data().join("incoming").join(artifact["file"].as_str().unwrap()), bytes).unwrap();
    control.call(json!({"unpack": {"app": "shop", "version": version, "artifact": artifact}}))?;
    let mut manifest = json!({"app": "shop", "version": version, "runtime": "binary", "main": "run", "health": "/",
                          "vars": {"COLOR": color, "PART": part}, "limits": {"idle_timeout_s": IDLE}});
    if part == "npm" {
        manifest["install"] = json!(["npm", "ci"]);
    }
    control.call(json!({"prepare": {"manifest": manifest}}))?;
    let routes: Vec<&str> = [HOST, SECOND].into_iter().take(1 + usize::from(*second)).collect();
    let secrets = json!({"hash": format!("hash of {secret}"), "values": {"KEY": secret}});
    let order = json!({"manifest": manifest, "routes": routes, "instances": instances, "secrets": secrets});
    control.call(json!({"deploy": order})).map(drop)
}

/// The data of a server that was stopped in order with [`before`] live.
static STOPPED: LazyLock<TempDir> = LazyLock::new(|| {
    let mut server = Server::start();
    let v0 = State { version: "v0".into(), color: "red".into(), ..before() };
    let mut control = Control::open(&server).unwrap();
    for state in [v0, before()] {
        ship(&server, &mut control, &state, "").unwrap();
    }
    drop(control);
    assert!(server.shut_down(), "{}", server.log());
    let dir = TempDir::new().unwrap();
    copy(&server.data(), dir.path());
    dir
});

fn copy(from: &Path, to: &Path) {
    let copied = Command::new("cp").arg("-a").arg(from.join(".")).arg(to).status().unwrap();
    assert!(copied.success());
}

/// One run of a scenario, up to the end of the act or of the server.
struct Run {
    server: Server,
    /// What `TAKO_CRASH` names.
    file: PathBuf,
}

impl Run {
    /// The server dies at `point` during the scenario; `-` is no point.
    fn of(scenario: &Scenario, point: &str) -> Run {
        let mut server = Server::nowhere();
        let file = server.dir.path().join("crash");
        fs::create_dir(server.data()).unwrap();
        if !matches!(scenario.from, From::Nothing | From::Installed) {
            copy(STOPPED.path(), &server.data());
        }
        if let From::Killed = scenario.from {
            server.boot();
            live(&server);
            Control::open(&server).unwrap().call(json!({"scale": {"app": "shop", "instances": 3}})).unwrap();
            server.crash();
            // As if the new number had been written and no more.
            let path = server.app("shop").join("state.json");
            let mut state: Value = serde_json::from_slice(&fs::read(&path).unwrap()).unwrap();
            state["instances"] = json!(2);
            fs::write(&path, state.to_string()).unwrap();
        }
        let starts = matches!(scenario.from, From::Stopped | From::Killed);
        if starts {
            fs::write(&file, point).unwrap();
        }
        let path = format!("{}:{}", NPM.path().display(), std::env::var("PATH").unwrap());
        server.launch(&[], &[("TAKO_CRASH", &file), ("PATH", Path::new(&path))]);
        if !starts {
            server.meet();
            if let From::Installed = scenario.from {
                let v0 = State { version: "v0".into(), color: "red".into(), ..before() };
                let mut control = Control::open(&server).unwrap();
                [v0, before()].iter().for_each(|state| ship(&server, &mut control, state, "npm").unwrap());
            }
            if let From::Live | From::Installed = scenario.from {
                live(&server);
            }
            // In one step: it may be read at any time.
            fs::write(file.with_extension("new"), point).unwrap();
            fs::rename(file.with_extension("new"), &file).unwrap();
            let mut control = Control::open(&server).unwrap();
            // It ends with the connection, if the server gets to it.
            let _ = (scenario.act)(&server, &mut control);
        }
        Run { server, file }
    }

    fn passed(&self) -> BTreeSet<String> {
        let text = fs::read_to_string(self.file.with_extension("passed")).unwrap_or_default();
        text.lines().map(str::to_owned).collect()
    }
}

pub fn live(server: &Server) {
    wait_for("the app to be live", || (server.status("shop")?["state"] == "live").then_some(()));
}

/// What there is, if every witness says the same; else what they say.
fn observe(server: &Server) -> Result<Option<State>, String> {
    let Some(status) = server.status("shop") else { return absent(server) };
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let instances = status["instances"].as_array().unwrap();
    if status["state"] != "live" || instances.iter().any(|i| i["state"] != "healthy") {
        return Err(format!("not settled: {status}"));
    }
    let version = text(&status["version"]);
    let read =
        |path: PathBuf| -> Value { serde_json::from_slice(&fs::read(path).unwrap_or_default()).unwrap_or_default() };
    let written = read(server.app("shop").join("state.json"));
    let about = read(server.app("shop").join("releases").join(&version).join("app.json"));
    let record = written["releases"].as_array().unwrap().iter().find(|r| r["manifest"]["version"] == version[..]);
    let vars = record.map_or(Value::Null, |r| r["manifest"]["vars"].clone());
    let checked =
        Control::open(server).unwrap().call(json!({"preflight": {"app": "shop", "version": "v9", "routes": [HOST]}}));
    let mut answers = BTreeSet::new();
    for _ in 0..2 * instances.len() {
        let answer = Client::plain(server.http, HOST).and_then(|mut c| c.get("/")).map_err(|e| e.to_string())?;
        if answer.status != 200 {
            return Err(format!("answers {}", answer.status));
        }
        answers.insert(answer.json().to_string());
    }
    let second =
        Client::plain(server.http, SECOND).and_then(|mut c| c.get("/")).map_err(|e| e.to_string())?.status == 200;
    let one: Value = serde_json::from_str(answers.first().unwrap()).unwrap();
    let found = State {
        version: version.clone(),
        color: text(&one["color"]),
        secret: text(&one["secret"]),
        second,
        instances: instances.len(),
    };
    let routes: Vec<&str> = [HOST, SECOND].into_iter().take(1 + usize::from(second)).collect();
    let pids: BTreeSet<u64> = instances.iter().map(|i| i["pid"].as_u64().unwrap()).collect();
    let mut agree = BTreeMap::new();
    agree.insert("routes", status["routes"] == json!(routes));
    agree.insert("wanted", status["wanted"] == json!(found.instances) && written["instances"] == status["wanted"]);
    agree.insert("versions", instances.iter().all(|i| i["version"] == version[..]) && written["live"] == version[..]);
    agree.insert("current", server.current("shop").as_deref() == Some(&version));
    agree.insert("vars", vars["COLOR"] == found.color[..] && about["vars"] == vars);
    let hash = format!("hash of {}", found.secret);
    agree.insert(
        "secrets",
        written["secrets_hash"] == hash[..] && checked.unwrap()["preflight"]["secrets_hash"] == hash[..],
    );
    agree.insert(
        "answers",
        answers.iter().all(|a| {
            let answer: Value = serde_json::from_str(a).unwrap();
            answer["version"] == version[..]
                && answer["color"] == found.color[..]
                && answer["secret"] == found.secret[..]
                && pids.contains(&answer["pid"].as_u64().unwrap())
        }),
    );
    agree.insert("processes", server.groups() == pids);
    agree.insert("files", left_over(server, instances.len()).is_empty());
    match agree.values().all(|is_so| *is_so) {
        true => Ok(Some(found)),
        false => Err(format!("{found:?} {agree:?} {:?} {status} {written}", left_over(server, instances.len()))),
    }
}

fn absent(server: &Server) -> Result<Option<State>, String> {
    let answer = Client::plain(server.http, HOST).and_then(|mut c| c.get("/")).map_err(|e| e.to_string())?;
    let (groups, files, current) = (server.groups(), left_over(server, 0), server.current("shop"));
    match answer.status == 404 && groups.is_empty() && files.is_empty() && current.is_none() {
        true => Ok(None),
        false => Err(format!("gone, but {} {groups:?} {files:?} {current:?}", answer.status)),
    }
}

/// Files that nobody needs who has so many instances.
fn left_over(server: &Server, instances: usize) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut notes = 0;
    let mut sealed = 0;
    let mut folders = vec![server.data().join("apps")];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name().to_string_lossy().into_owned());
            let is_bad = [".tmp", ".staging", ".deleted", ".deploy_lock"].iter().any(|end| name.ends_with(end));
            notes += usize::from(folder.ends_with("run"));
            sealed += usize::from(name.ends_with(".sealed"));
            if is_bad {
                found.push(path.clone());
            }
            if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                folders.push(path);
            }
        }
    }
    // Two notes about each; and no secrets but those it runs with. An app that never was has those of its first deploy
    // until the next one.
    if notes != 2 * instances {
        found.push(format!("{notes} notes").into());
    }
    if sealed > 1 {
        found.push(format!("{sealed} sealed files").into());
    }
    found
}

/// Waits until all is settled, and says how.
fn settled(server: &Server, what: &str) -> Option<State> {
    let begun = Instant::now();
    loop {
        match observe(server) {
            Ok(state) => return state,
            Err(why) => assert!(begun.elapsed().as_secs() < 120, "{what}: {why}\n{}", server.log()),
        }
        thread::sleep(std::time::Duration::from_millis(10));
    }
}

/// True when it became what it should, false when it stayed what it was.
fn crash_at(scenario: &Scenario, point: &str) -> bool {
    let what = format!("{}, killed at \"{point}\"", scenario.name);
    let Run { mut server, file } = Run::of(scenario, point);
    assert_eq!(server.end(&what).signal(), Some(9), "{what}\n{}", server.log());
    fs::remove_file(file).unwrap();
    server.boot();
    let old = if matches!(scenario.from, From::Nothing) { None } else { Some(before()) };
    let found = settled(&server, &what);
    assert!(found == old || found == scenario.after, "{what}: {found:?}\n{}", server.log());
    if let From::Nothing | From::Installed = scenario.from {
        packages_are_whole(&server, &what);
    }
    let last = state("v9", "white", "nine", true, 1);
    let done = ship(&server, &mut Control::open(&server).unwrap(), &last, "");
    assert!(done.is_ok(), "the deploy after {what}: {done:?}\n{}", server.log());
    assert_eq!(settled(&server, &format!("the deploy after {what}")), Some(last));
    assert!(server.shut_down(), "{what}\n{}", server.log());
    assert_eq!(server.groups(), BTreeSet::new(), "{what}");
    found == scenario.after
}

/// In every release that can be started.
fn packages_are_whole(server: &Server, what: &str) {
    let releases = server.app("shop").join("releases");
    for version in server.releases("shop") {
        let release = releases.join(&version);
        if release.join(".prepared").exists() {
            let package = fs::read_to_string(release.join("node_modules/a/index.js")).unwrap_or_default();
            assert_eq!(package, "whole\n", "{what}: {version}\n{}", server.log());
        }
    }
}

#[test]
#[allow(clippy::print_stderr)]
fn whenever_the_server_is_killed_all_is_as_before_or_as_it_should_be() {
    if cfg!(not(debug_assertions)) {
        return; // There are no points.
    }
    let begun = Instant::now();
    let scenarios = scenarios();
    let passed = side_by_side(scenarios.iter().collect(), |scenario| {
        let mut run = Run::of(scenario, "-");
        run.server.meet();
        assert_eq!(settled(&run.server, scenario.name), scenario.after, "{}", scenario.name);
        run.passed().into_iter().map(|point| (scenario, point)).collect::<Vec<_>>()
    });
    let work: Vec<_> = passed.into_iter().flatten().collect();
    let passed: BTreeSet<String> = work.iter().map(|(_, point)| point.clone()).collect();
    let listed: BTreeSet<String> = crash::POINTS.iter().map(|p| p.to_string()).collect();
    let missed: Vec<_> = listed.difference(&passed).collect();
    assert!(missed.is_empty(), "nothing passes these: {missed:?}");
    let count = work.len();
    let became = side_by_side(work, |(scenario, point)| crash_at(scenario, &point));
    let became = became.into_iter().filter(|became| *became).count();
    eprintln!("{count} crashes at {} points, {became} as it should be, {:?}", passed.len(), begun.elapsed());
    assert!(became > 0 && became < count);
}

/// Does all of it, a few at a time.
fn side_by_side<T: Send, R: Send>(work: Vec<T>, each: impl Fn(T) -> R + Sync) -> Vec<R> {
    let (queue, done) = (Mutex::new(work), Mutex::new(Vec::new()));
    let lane = || {
        loop {
            let next = queue.lock().unwrap().pop();
            let Some(task) = next else { return };
            let result = each(task);
            done.lock().unwrap().push(result);
        }
    };
    thread::scope(|scope| (0..LANES).for_each(|_| drop(scope.spawn(lane))));
    done.into_inner().unwrap()
}
