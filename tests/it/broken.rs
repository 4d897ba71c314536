//! Apps that are broken, each in its own way, put on a real server: it must say why, and what to do about it.

use std::fs;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::deploy::world;
use crate::http::Client;
use crate::sandbox::{Control, HOST, Server, wait_for};
use crate::server::unpack;

/// Deploys at the same time: the fixtures that run into their time limit only wait.
const AT_ONCE: usize = 8;
/// What does not come up has so many seconds: a runtime must have started in them on a busy machine. Others have more
/// than they take there.
const SHORT: u64 = 6;

struct Fixture {
    name: &'static str,
    runtime: &'static str,
    /// Path, content, mode.
    files: Vec<(&'static str, Vec<u8>, u32)>,
    /// Beyond what all have in common.
    manifest: Value,
    /// Words of the fault's message and of its hint.
    says: Vec<String>,
    hints: &'static str,
}

/// A program without the SDK.
fn program(name: &'static str, run: impl Into<Vec<u8>>, says: &str, hints: &'static str) -> Fixture {
    let files = vec![("run", run.into(), 0o755)];
    let manifest = json!({"main": "run", "limits": {"startup_timeout_s": 60}});
    Fixture { name, runtime: "binary", files, manifest, says: vec![says.into()], hints }
}

fn sh(name: &'static str, script: &str, says: &str, hints: &'static str) -> Fixture {
    program(name, format!("#!/bin/sh\n{script}\n"), says, hints)
}

/// The same in JavaScript.
fn script(name: &'static str, code: &str, says: &str, hints: &'static str) -> Fixture {
    program(name, format!("#!/usr/bin/env node\n{code}\n"), says, hints)
}

/// An app under the SDK.
fn app(runtime: &'static str, name: &'static str, code: &str, says: &str, hints: &'static str) -> Fixture {
    let files = vec![("index.mjs", code.into(), 0o644)];
    let manifest = json!({"main": "index.mjs", "install": [], "limits": {"startup_timeout_s": 60}});
    Fixture { name, runtime, files, manifest, says: vec![says.into()], hints }
}

impl Fixture {
    /// Its time runs out.
    fn short(self) -> Fixture {
        self.with("limits", json!({"startup_timeout_s": SHORT}))
    }

    fn with(mut self, name: &str, value: Value) -> Fixture {
        self.manifest[name] = value;
        self
    }

    fn and(mut self, says: impl Into<String>) -> Fixture {
        self.says.push(says.into());
        self
    }

    fn deploy(&self, server: &Server) -> Result<Value, Value> {
        let mut control = Control::open(server).unwrap();
        let id = format!("b-{}", self.name);
        let mut tar = tar::Builder::new(Vec::new());
        for (path, content, mode) in &self.files {
            let mut head = tar::Header::new_gnu();
            head.set_size(content.len() as u64);
            head.set_mode(*mode);
            tar.append_data(&mut head, path, content.as_slice()).unwrap();
        }
        let tar = tar.into_inner().unwrap();
        let packed = zstd::encode_all(&tar[..], 1).unwrap();
        let file = format!("{id}.tar.zst");
        fs::write(server.data().join("incoming").join(&file), &packed).unwrap();
        let sha256: String =
            ring::digest::digest(&ring::digest::SHA256, &tar).as_ref().iter().map(|b| format!("{b:02x}")).collect();
        let artifact = json!({"file": file, "sha256": sha256, "bytes": packed.len(), "unpacked": tar.len()});
        let mut manifest = json!({"app": id, "version": "v1", "runtime": self.runtime});
        manifest.as_object_mut().unwrap().extend(self.manifest.as_object().unwrap().clone());
        control.call(json!({"lock": {"app": id, "version": "v1"}})).unwrap();
        control.call(json!({"unpack": {"app": id, "version": "v1", "artifact": artifact}})).unwrap();
        control.call(json!({"prepare": {"manifest": manifest}})).unwrap();
        let routes = [format!("{id}.localhost")];
        let result = control.call(json!({"deploy": {"manifest": manifest, "routes": routes, "instances": 1}}));
        control.call(json!({"unlock": {"app": id}})).unwrap();
        result
    }

    /// Whether the fault names the cause, with a proof.
    fn is_named_by(&self, fault: &Value) -> bool {
        let (message, hint) = (fault["message"].as_str().unwrap_or(""), fault["hint"].as_str().unwrap_or(""));
        self.says.iter().all(|words| message.contains(words)) && hint.contains(self.hints)
    }
}

/// A C program, linked with these arguments more.
fn compile(dir: &Path, name: &str, code: &str, arguments: &[&str]) -> Vec<u8> {
    let (source, program) = (dir.join(format!("{name}.c")), dir.join(name));
    fs::write(&source, code).unwrap();
    let done = Command::new("cc").arg(&source).args(["-o", name]).args(arguments).current_dir(dir).status().unwrap();
    assert!(done.success(), "cc {name}");
    fs::read(program).unwrap()
}

/// For another machine, by the number in its header.
fn foreign() -> Vec<u8> {
    let mut program = fs::read("/bin/true").unwrap();
    let other: u16 = if cfg!(target_arch = "aarch64") { 62 } else { 183 };
    program[18..20].copy_from_slice(&other.to_le_bytes());
    program
}

fn has(tool: &str) -> bool {
    Command::new(tool).arg("--version").output().is_ok_and(|out| out.status.success())
}

/// Gives up rights that root has and an app's own user has not.
fn without(right: &str, command: &str) -> String {
    let drop = format!("setpriv --bounding-set=-{right}");
    format!("{drop} true 2>/dev/null && exec {drop} {command}\nexec {command}")
}

/// `taken` is a port of this very process, `server` one of the server.
fn fixtures(dir: &Path, taken: u16, server: u16) -> Vec<Fixture> {
    let us = std::process::id();
    let serve = |answer: &str| {
        format!("require('http').createServer((q, a) => {{ {answer} }}).listen(process.env.PORT, '127.0.0.1');")
    };
    let library = |dir: &Path| {
        compile(dir, "libgone.so", "int gone(void) { return 1; }", &["-shared", "-fPIC"]);
        let program = compile(dir, "uses", "int gone(void); int main() { return gone(); }", &["-L.", "-lgone"]);
        fs::remove_file(dir.join("libgone.so")).unwrap();
        program
    };
    let loader = if cfg!(target_arch = "aarch64") { "/lib/ld-none-aarch64.so.1" } else { "/lib/ld-none-x86_64.so.1" };
    let mut all = vec![
        // What it loads.
        app("node", "package", "import 'express';", "the module `express` is missing", "dependencies"),
        app("node", "file", "import './build/server.mjs';", "it loads `build/server.mjs`", "part of the release"),
        app("node", "main", "", "it loads `dist/index.mjs`", "part of the release").with("main", json!("dist/index.mjs")),
        app("node", "syntax", "const a = {\nlet b = ;\n", "syntax error at index.mjs:2", "correct it"),
        // What it is given.
        app("node", "variable", "if (!process.env.DATABASE_URL) throw new Error('DATABASE_URL is not set');",
            "the variable DATABASE_URL is not set", "tako secrets set DATABASE_URL"),
        script("no-file", "require('fs').readFileSync('config/prod.json')", "the file `config/prod.json` is not there", "release"),
        sh("denied", &format!("umask 777; : > $TAKO_DATA_DIR/locked\n{}", without("dac_override,-dac_read_search",
            "node -e 'require(\"fs\").readFileSync(process.env.TAKO_DATA_DIR + \"/locked\")'")),
            "it is not allowed to use", "TAKO_DATA_DIR").and("locked"),
        script("disk", "require('fs').writeFileSync('/dev/full', 'x')", "the disk is full", "df"),
        sh("descriptors", "ulimit -n 40; exec node -e 'for (;;) require(\"fs\").openSync(\"/dev/null\")'",
            "too many files", "limit"),
        // Whom it needs.
        script("refused", "require('net').connect(1, '127.0.0.1')", "127.0.0.1:1 refused the connection", "it runs"),
        script("refused-while-waiting",
            "setInterval(() => require('net').connect(1, '127.0.0.1').on('error', (e) => console.error(String(e))), 200)",
            "127.0.0.1:1 refused the connection", "address").and("not ready after 6s").short(),
        script("name", "require('net').connect(5432, 'db.invalid')", "the host name `db.invalid` is not known", "spelling"),
        // Its port.
        script("taken", &format!("require('http').createServer().listen({taken}, '127.0.0.1')"),
            &format!("port {taken} is in use already by"), "$PORT").and(format!("(pid {us})")),
        script("other-port", "require('http').createServer().listen(0, '127.0.0.1')",
            "it listens on port", "PORT").and("and not on $PORT").short(),
        script("other-address", "require('http').createServer().listen(process.env.PORT, '127.0.0.2')",
            "it listens on 127.0.0.2:", "$HOST").short(),
        sh("privileged", &without("net_bind_service", "node -e 'require(\"http\").createServer().listen(80)'"),
            "it may not listen on port 80", "$PORT"),
        app("node", "never-listens", "setInterval(() => {}, 1000);", "it listens on no port", "fetch handler").short(),
        sh("never-listens-either", "echo up; exec sleep 600", "it listens on no port", "$PORT").short(),
        script("slow", &format!("console.log('compiling'); setTimeout(() => {{ {} }}, 60000)", serve("a.end()")),
            "it listens on no port", "startup_timeout").and("not ready after 6s").short(),
        sh("port-of-another", &format!("echo TAKO:READY:{server}; exec sleep 600"),
            &format!("says that it listens on port {server}"), "TAKO:READY:").and("it belongs to tako-server"),
        // Its answers.
        script("answers-500", &serve("a.statusCode = 500; a.end()"), "/up answered 500", "printed")
            .with("health", json!("/up")).short(),
        script("answers-404", &serve("a.statusCode = 404; a.end()"), "/up answered 404", "set `health`")
            .with("health", json!("/up")).short(),
        script("answers-401", &serve("a.statusCode = 401; a.end()"), "/up answered 401", "without a login")
            .with("health", json!("/up")).short(),
        script("answers-nothing", &serve(""), "/up did not answer within 2s", "at once").with("health", json!("/up")).short(),
        script("answers-garbage",
            "require('net').createServer((s) => s.end('220 smtp ready\\r\\n')).listen(process.env.PORT, '127.0.0.1')",
            "/up broke off without an HTTP answer", "plain HTTP").with("health", json!("/up")).short(),
        // How it ends.
        sh("ends", "echo migrated; exit 0", "it ended by itself", "listens on $PORT"),
        sh("daemon", "setsid sh -c 'touch $TAKO_DATA_DIR/up; exec sleep 600' >/dev/null 2>&1 </dev/null &\n\
            until [ -e $TAKO_DATA_DIR/up ]; do sleep 0.01; done", "it went into the background", "foreground"),
        program("segv", compile(dir, "segv", "int main() { *(volatile int *)0 = 1; }", &["-w"]), "SIGSEGV", "native")
            .and("touched memory"),
        script("abort", "process.abort()", "SIGABRT", "printed last").and("aborted itself"),
        sh("ill", "kill -ILL $$", "SIGILL", "processor").and("instruction"),
        sh("killed", "kill -KILL $$", "it was killed from outside, not by Tako", "dmesg"),
        sh("terminated", "kill -TERM $$", "it was ended from outside, not by Tako", "who sends"),
        sh("heap", "exec node --max-old-space-size=20 -e 'const a = []; for (;;) a.push(new Array(1e4).fill(Math.random()))'",
            "JavaScript heap is out of memory", "max-old-space-size"),
        script("uncaught", "undefined.foo()", "nobody caught `TypeError: Cannot read", "thrown"),
        script("rejection", "Promise.reject('no luck')", "nobody handled the rejection `no luck`", "thrown"),
        sh("unknown", "echo I give up; exit 7", "exited with code 7 before it was ready", "tako logs"),
        // What its program is.
        program("no-program", "", "there is no file `bin/server`", "`main`").with("main", json!("bin/server")),
        Fixture {
            files: vec![("run/server", b"#!/bin/sh\n".to_vec(), 0o755)],
            ..program("folder", "", "`run` is a folder", "`main`")
        },
        Fixture {
            files: vec![("run", b"#!/bin/sh\n".to_vec(), 0o644)],
            ..program("not-executable", "", "`run` is not executable", "chmod +x run")
        },
        program("empty", "", "the file `run` is empty", "build"),
        program("foreign", foreign(), "`run` is built for", "build run for Linux on").and("this server is Linux on"),
        program("library", library(dir), "the shared library `libgone.so` is missing", "libgone.so"),
        program("loader", compile(dir, "loader", "int main() { return 0; }", &[&format!("-Wl,--dynamic-linker={loader}")]),
            &format!("needs the loader `{loader}`"), "C library"),
        program("interpreter", "#!/usr/bin/python9\n", "`/usr/bin/python9`, is not on the server", "install"),
        program("interpreter-of-env", "#!/usr/bin/env nodee\n", "the program `nodee` is not on the server", "install nodee"),
        program("carriage-return", "#!/bin/sh\r\necho\r\n", "ends with a carriage return", "LF"),
        program("no-first-line", "import http from 'node:http';\nconst a = 1;\n", "`run` has no `#!` line", "#!/usr/bin/env"),
        sh("command", "exec gunicornn app:app", "the program `gunicornn` is not on the server", "gunicornn"),
    ];
    if has("bun") {
        all.extend([
            app(
                "bun",
                "bun-file",
                "import './build/server.mjs';",
                "it loads `./build/server.mjs`",
                "part of the release",
            ),
            app("bun", "bun-syntax", "const a = {\nlet b = ;\n", "syntax error at index.mjs:2", "correct it"),
            app("bun", "bun-uncaught", "null.foo()", "nobody caught `TypeError: null", "thrown"),
            app("bun", "bun-refused", "await fetch('http://127.0.0.1:1/')", "refused the connection", "it runs"),
        ]);
    }
    if has("deno") {
        all.extend([
            app("deno", "deno-package", "import 'express';", "the module `express` is missing", "dependencies"),
            app("deno", "deno-syntax", "const a = {\nlet b = ;\n", "syntax error at index.mjs:2", "correct it"),
            app(
                "deno",
                "deno-rejection",
                "Promise.reject(new Error('no luck'))",
                "nobody handled the rejection `Error: no luck`",
                "thrown",
            ),
            app(
                "deno",
                "deno-taken",
                &format!("import net from 'node:net'; net.createServer().listen({taken}, '127.0.0.1')"),
                &format!("port {taken} is in use already by"),
                "$PORT",
            ),
        ]);
    }
    all
}

#[test]
#[allow(clippy::print_stdout)] // A table for whoever looks.
fn the_cause_is_named() {
    let dir = TempDir::new().unwrap();
    let server = Server::start();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let fixtures = fixtures(dir.path(), taken.local_addr().unwrap().port(), server.http.port());
    let (next, told) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..AT_ONCE {
            scope.spawn(|| {
                while let Some(fixture) = fixtures.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let fault = fixture.deploy(&server).expect_err(fixture.name);
                    told.lock().unwrap().push((fixture, fault));
                }
            });
        }
    });
    let told = told.into_inner().unwrap();
    let mut wrong = Vec::new();
    for (fixture, fault) in &told {
        assert_eq!(fault["kind"], "rejected", "{}: {fault}", fixture.name);
        let named = fixture.is_named_by(fault);
        let mark = if named { "ok" } else { "NO" };
        println!("{mark} {:22} {}\n{:26}hint: {}", fixture.name, fault["message"], "", fault["hint"]);
        if !named {
            wrong.push(format!("{}: {fault:#}\nwanted {:?} and {:?}", fixture.name, fixture.says, fixture.hints));
        }
    }
    println!("{} of {} causes named, in {:?}", told.len() - wrong.len(), told.len(), begun.elapsed());
    assert!(told.len() >= 25);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    // What went into the background does not stay there.
    let strays = || {
        let all = fs::read_dir("/proc").unwrap().flatten();
        let data = format!("TAKO_DATA_DIR={}", server.app("b-daemon").join("shared/data").display());
        let given = |env: Vec<u8>| env.split(|b| *b == 0).any(|v| v == data.as_bytes());
        all.filter(|p| fs::read(p.path().join("environ")).is_ok_and(given)).count()
    };
    wait_for("the daemon to end", || (strays() == 0).then_some(()));
}

#[test]
#[allow(clippy::print_stdout)] // A figure, not asserted.
fn an_exit_is_reported_at_once() {
    let server = Server::start();
    let fixture = sh("exit", "echo $(date +%s%N); exit 7", "exited with code 7", "");
    let mut took: Vec<Duration> = (0..15)
        .map(|_| {
            let fault = fixture.deploy(&server).unwrap_err();
            let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
            let said = fault["detail"][0].as_str().unwrap().parse().unwrap();
            now.saturating_sub(Duration::from_nanos(said))
        })
        .collect();
    took.sort();
    println!("from exit to report: min {:?}, median {:?}, max {:?}", took[0], took[7], took[14]);
}

/// Serves until there is a file `broken`.
const FRAGILE: &str = r#"#!/usr/bin/env node
const fs = require("node:fs");
if (fs.existsSync(process.env.TAKO_DATA_DIR + "/broken")) throw new Error("LICENSE_KEY is not set");
require("node:http").createServer((_, answer) => answer.end("well")).listen(process.env.PORT, "127.0.0.1");
"#;

#[test]
fn a_crash_loop_is_told_is_found_again_by_the_next_server_and_ends_with_its_reason() {
    let (mut server, _sshd, user) = world();
    let mut control = Control::open(&server).unwrap();
    unpack(&server, &mut control, "v1", FRAGILE).unwrap();
    let manifest = json!({"app": "shop", "version": "v1", "runtime": "binary", "main": "run", "health": "/"});
    control.call(json!({"prepare": {"manifest": manifest}})).unwrap();
    control.call(json!({"deploy": {"manifest": manifest, "routes": [HOST], "instances": 1}})).unwrap();
    drop(control);
    let ask = |server: &Server| Client::plain(server.http, HOST).unwrap().get("/").unwrap();
    assert_eq!(ask(&server).text(), "well");

    let broken = server.app("shop").join("shared/data/broken");
    fs::write(&broken, "").unwrap();
    let pid = server.status("shop").unwrap()["instances"][0]["pid"].to_string();
    assert!(Command::new("kill").args(["-KILL", &pid]).status().unwrap().success());
    let is_looping = |server: &Server| {
        let status = server.status("shop")?;
        // Between two starts, so that the next one has a time.
        let waits = status["waiting"][0]["restarts"].as_u64().is_some_and(|n| n >= 3);
        (status["state"] == "crash-looping" && waits).then_some(status)
    };
    let status = wait_for("the loop", || is_looping(&server));
    let failure = &status["last_failure"];
    assert_eq!(failure["what"], "exited with code 1 before it was ready: the variable LICENSE_KEY is not set");
    assert_eq!(failure["proof"][0], "Error: LICENSE_KEY is not set");
    assert_eq!((&failure["exit_code"], &failure["release"]), (&json!(1), &json!("v1")));
    assert!(status["waiting"][0]["next_ms"].as_u64().unwrap() <= 30_000);
    assert_eq!(ask(&server).status, 503);
    wait_for("the whole story in `tako status`", || {
        let told = user.must(&["status"]);
        let words = [
            "! crash-looping",
            "restarts, next in",
            "the variable LICENSE_KEY is not set",
            "tako secrets set LICENSE_KEY",
        ];
        words.iter().all(|w| told.out.contains(w) || told.err.contains(w)).then_some(())
    });

    // Nothing of it is kept, and all of it is observed anew.
    assert!(server.shut_down());
    server.boot();
    let status = wait_for("the loop", || is_looping(&server));
    assert!(status["last_failure"]["what"].as_str().unwrap().contains("LICENSE_KEY is not set"), "{status}");
    assert_eq!(ask(&server).status, 503);

    fs::remove_file(&broken).unwrap();
    wait_for("it to serve again", || (ask(&server).status == 200).then_some(()));
}
