//! What is known, and what is said about it. The words of runtimes are as Node 20, Bun 1.4 and Deno 2.9 print them.

use std::fmt::Write;

use super::*;

/// An exit with these last lines.
fn exit(code: i32) -> Evidence<'static> {
    Evidence {
        end: End::Exit(Exit::Code(code)),
        phase: Phase::Starting,
        said: &[],
        subject: "its port",
        own_path: false,
        last_bad: None,
        answered: "",
        startup_s: 2,
        program: "run",
        file: File::Fine,
        has_sdk: false,
        port: Some(20_000),
        listens: None,
        holder: None,
        strayed: false,
        oom_kills: None,
        memory_limit: None,
        machine_oom_kills: None,
        given: vec!["SET_ALREADY"],
        dir: "/r/v1/",
    }
}

fn signal(number: i32) -> Evidence<'static> {
    Evidence { end: End::Exit(Exit::Signal(number)), phase: Phase::Serving, ..exit(0) }
}

fn gave_up(why: Why) -> Evidence<'static> {
    let phase = match why {
        Why::NeverReady => Phase::Starting,
        Why::NeverHealthy => Phase::Ready,
        Why::Unhealthy => Phase::Serving,
    };
    Evidence { end: End::GaveUp(why), phase, ..exit(0) }
}

fn at(addresses: &[&str]) -> Option<Vec<SocketAddr>> {
    Some(addresses.iter().map(|a| a.parse().unwrap()).collect())
}

#[track_caller]
fn check(e: &Evidence<'_>, what: &str, hint: &str) {
    let cause = judge(e);
    assert_eq!(cause.what, what, "{cause:?}");
    let told = cause.hint.as_deref().unwrap_or("");
    assert!(told.contains(hint) && hint.is_empty() == told.is_empty(), "no {hint:?} in {cause:?}");
}

/// An exit with code 1 after these lines; the reason alone.
#[track_caller]
fn says(text: &str, why: &str, hint: &str) {
    let said: Vec<String> = text.lines().map(Into::into).collect();
    check(&Evidence { said: &said, ..exit(1) }, &format!("exited with code 1 before it was ready: {why}"), hint);
    let proof = judge(&Evidence { said: &said, ..exit(1) }).proof;
    assert!(!proof.is_empty() && proof.iter().all(|line| said.contains(line)), "{proof:?}");
}

#[test]
fn what_is_not_known_is_told_as_it_is() {
    let said: Vec<String> = (1..=9).map(|n| format!("line {n}")).collect();
    let cause = judge(&Evidence { said: &said, ..exit(3) });
    assert_eq!((cause.what.as_str(), cause.hint), ("exited with code 3 before it was ready", None));
    assert_eq!(cause.proof, said[4..]);
    check(&exit(3), "exited with code 3 before it was ready and printed nothing", "");
    let ready = Evidence { phase: Phase::Ready, said: &said, ..exit(3) };
    check(&ready, "exited with code 3 before it was healthy", "");
    check(&Evidence { phase: Phase::Serving, said: &said, ..exit(3) }, "exited with code 3", "");
}

#[test]
fn an_exit_without_an_error_is_no_server() {
    let said = ["done".to_string(), "Error: Cannot find module 'x'".to_string()];
    let e = Evidence { said: &said, ..exit(0) };
    check(
        &e,
        "exited with code 0 before it was ready: it ended by itself, but a server must go on",
        "listens on $PORT",
    );
    let e = Evidence { strayed: true, said: &said, ..exit(0) };
    check(&e, "exited with code 0 before it was ready: it went into the background", "foreground");
}

#[test]
fn signals_are_told_apart() {
    let ended = |number, name: &str| format!("was ended by signal {number} ({name}) and printed nothing: ");
    let check = |e: Evidence<'_>, what: String, hint: &str| check(&e, &what, hint);
    check(signal(9), ended(9, "SIGKILL") + "it was killed from outside, not by Tako", "dmesg");
    let oom = Evidence { oom_kills: Some(1), machine_oom_kills: Some(1), ..signal(9) };
    check(oom, ended(9, "SIGKILL") + "it ran out of memory", "memory");
    let oom = Evidence { oom_kills: Some(3), memory_limit: Some(256 << 20), ..signal(9) };
    check(oom, ended(9, "SIGKILL") + "it reached its memory limit of 256 MiB", "raise `memory`");
    let oom = Evidence { oom_kills: Some(0), machine_oom_kills: Some(2), ..signal(9) };
    check(oom, ended(9, "SIGKILL") + "the machine ran out of memory", "memory");
    check(signal(15), ended(15, "SIGTERM") + "it was ended from outside, not by Tako", "who sends");
    let crashed = "it crashed: native code touched memory that is not its own";
    check(signal(11), ended(11, "SIGSEGV") + crashed, "native modules");
    check(signal(6), ended(6, "SIGABRT") + "it aborted itself", "printed last");
    // A shell in between.
    let told = "exited with code 139 and printed nothing: what it ran was ended by a signal: ";
    check(Evidence { phase: Phase::Serving, ..exit(139) }, told.to_owned() + crashed, "native modules");

    let said = ["FATAL ERROR: Reached heap limit Allocation failed - JavaScript heap out of memory".to_string()];
    let heap = Evidence { said: &said, ..signal(6) };
    check(heap, "was ended by signal 6 (SIGABRT): its JavaScript heap is out of memory".into(), "max-old-space-size");
}

#[test]
fn a_file_that_cannot_be_a_program_is_named() {
    let fails = |file: File, why: &str, hint: &str| {
        let end = End::NotStarted { error: "start `run`: no such file or directory".into(), hint: None };
        let e = Evidence { end, file, ..exit(0) };
        check(&e, &format!("could not be started: {why}"), hint);
        assert_eq!(judge(&e).proof, ["start `run`: no such file or directory"]);
    };
    fails(File::Missing, "there is no file `run` on the server", "`main`");
    fails(File::Folder, "`run` is a folder, not a program", "`main`");
    fails(File::Empty, "the file `run` is empty", "build");
    fails(File::NotExecutable, "`run` is not executable", "chmod +x run");
    let interpreter = |carriage_return| File::Interpreter { name: "/bin/zsh".into(), carriage_return };
    fails(interpreter(false), "the interpreter of `run`, `/bin/zsh`, is not on the server", "install");
    let crlf = "the first line of `run` ends with a carriage return, so `/bin/zsh\\r` is looked for";
    fails(interpreter(true), crlf, "LF");
    let musl = "/lib/ld-musl-x86_64.so.1";
    fails(File::Loader(musl.into()), &format!("`run` needs the loader `{musl}`, which is not on the server"), "musl");

    let foreign = File::Foreign { made_for: "aarch64".into(), here: "Linux on x86_64" };
    fails(foreign, "`run` is built for aarch64, and this server is Linux on x86_64", "build run for");
    fails(File::Text, "`run` has no `#!` line, so the kernel does not know what runs it", "#!/usr/bin/env");
}

#[test]
fn what_cannot_be_started_for_another_reason_tells_its_error() {
    let end = End::NotStarted { error: "node is not installed on this server".into(), hint: Some("install it".into()) };
    check(&Evidence { end, ..exit(0) }, "could not be started: node is not installed on this server", "install it");
}

#[test]
fn sockets_tell_why_nobody_is_reached() {
    let never = |listens: Option<Vec<SocketAddr>>| Evidence {
        listens,
        last_bad: Some(Bad::Refused),
        ..gave_up(Why::NeverReady)
    };
    let check = |e: Evidence<'_>, what: &str, hint: &str| check(&e, &format!("not ready after 2s{what}"), hint);
    check(never(None), "", "startup_timeout");
    check(never(at(&[])), ": it listens on no port", "$PORT");
    let other = never(at(&["127.0.0.1:3000", "[::]:9229"]));
    assert_eq!(judge(&other).proof, ["listening: 127.0.0.1:3000, [::]:9229"]);
    check(other, ": it listens on port 3000, 9229, and not on $PORT (20000)", "PORT");
    let six = ": it listens on [::1]:20000 only, and is asked at 127.0.0.1:20000";
    check(never(at(&["[::1]:20000"])), six, "$HOST");
    let sdk = |listens| Evidence { has_sdk: true, port: None, last_bad: None, ..never(listens) };
    check(sdk(at(&[])), ": it listens on no port", "export a fetch handler");
    let hidden = ": it listens on port 443, but not with a plain HTTP server that Tako could see";
    check(sdk(at(&["0.0.0.0:443"])), hidden, "without TLS");
    // Listening nowhere is no cause when it says what it waits for.
    let said = ["Error: connect ECONNREFUSED 10.0.0.5:5432".to_string()];
    let waits = Evidence { said: &said, ..never(at(&[])) };
    check(waits, ": 10.0.0.5:5432 (PostgreSQL?) refused the connection", "address");
}

#[test]
fn answers_tell_what_is_wrong_with_the_health_check() {
    let path = |why, bad| Evidence {
        subject: "/up",
        own_path: true,
        last_bad: Some(bad),
        listens: at(&["0.0.0.0:20000"]),
        ..gave_up(why)
    };
    let never = |bad| path(Why::NeverReady, bad);
    check(&never(Bad::Status(404)), "not ready after 2s: /up answered 404", "set `health`");
    check(&never(Bad::Status(500)), "not ready after 2s: /up answered 500", "printed");
    let told = Evidence { answered: "HTTP/1.1 500 Oh · no queue", ..never(Bad::Status(500)) };
    assert_eq!(judge(&told).proof, ["answer: HTTP/1.1 500 Oh · no queue", "listening: 0.0.0.0:20000"]);
    check(&never(Bad::Silent), "not ready after 2s: /up did not answer within 2s", "event loop");
    check(&never(Bad::Broken), "not ready after 2s: /up broke off without an HTTP answer", "plain HTTP");
    let slow = ": it listens on its port, but /up has not answered yet";
    check(&never(Bad::Refused), &format!("not ready after 2s{slow}"), "startup_timeout");
    let ill = |bad| path(Why::Unhealthy, bad);
    check(&ill(Bad::Silent), "was killed because /up did not answer within 2s 5 times", "at once");
    let refused = "was killed because /up refused the connection 5 times";
    check(&ill(Bad::Refused), refused, "socket");
    let end = End::Unwell;
    let unwell = Evidence { end, ..ill(Bad::Status(503)) };
    check(&unwell, "became unhealthy: /up answered 503", "printed");
    let ready = path(Why::NeverHealthy, Bad::Status(302));
    check(&ready, "is up but /up answered 302", "redirect");
}

#[test]
fn the_port_of_another_program_is_named_with_its_owner() {
    let holder = || Some(Holder { pid: 7, name: "nginx".into() });
    let stolen = Evidence { end: End::Stolen(8080), holder: holder(), listens: at(&[]), ..exit(0) };
    let what = "says that it listens on port 8080, which is another program's: it belongs to nginx (pid 7)";
    check(&stolen, what, "TAKO:READY:");
    let elsewhere = Evidence { end: End::Elsewhere, holder: holder(), listens: at(&["127.0.0.1:3000"]), ..exit(0) };
    let what = "does not listen on its port, and another program does: it belongs to nginx (pid 7)";
    check(&elsewhere, what, "PORT");
    let said = ["Error: listen EADDRINUSE: address already in use 127.0.0.1:4999".to_string()];
    let e = Evidence { said: &said, holder: holder(), ..exit(1) };
    check(&e, "exited with code 1 before it was ready: port 4999 is in use already by nginx (pid 7)", "$PORT");
    assert_eq!(said::taken_port(&said), Some(4999));
    let port = |line: &str| said::taken_port(&[line.to_string()]);
    assert_eq!(port("error: Failed to start server. Is port 4998 in use?"), Some(4998));
    assert_eq!(port("Uncaught (in promise) AddrInUse: Address already in use (os error 98)"), None);
    assert_eq!(port("OSError: [Errno 98] Address already in use"), None);
    assert_eq!(port("listening on 80"), None);
}

#[test]
fn missing_modules() {
    let node = "Error [ERR_MODULE_NOT_FOUND]: Cannot find package 'express' imported from /r/v1/index.mjs\n    \
                at packageResolve (node:internal/modules/esm/resolve:873:9) {\n  code: 'ERR_MODULE_NOT_FOUND'\n}\n\nNode.js v20.20.2";
    says(node, "the module `express` is missing", "add express to the dependencies");
    says("Error: Cannot find module 'pg'\nRequire stack:\n- /r/v1/a.js", "the module `pg` is missing", "pg");
    let relative = "error: Cannot find module './nope.mjs' from '/r/v1/index.mjs'\n\nBun v1.4.5 (Linux x64)";
    says(relative, "it loads `./nope.mjs`, which is not there", "part of the release");
    let deno = "error: Module not found \"file:///r/v1/nope.mjs\".\n    at file:///r/v1/missingrel.mjs:1:15";
    says(deno, "it loads `nope.mjs`, which is not there", "part of the release");
    let deno = "error: Import \"express\" not a dependency\n  hint: If you want to use the npm package, try";
    says(deno, "the module `express` is missing", "dependencies");
    says("ModuleNotFoundError: No module named 'flask'", "the module `flask` is missing", "flask");
}

#[test]
fn missing_settings() {
    let lacks = |text: &str, name: &str| {
        says(text, &format!("the variable {name} is not set"), &format!("tako secrets set {name}"));
    };
    lacks("Error: DATABASE_URL is not set\n    at file:///r/v1/env.mjs:1:37", "DATABASE_URL");
    lacks("error: Missing required environment variable: TOKEN", "TOKEN");
    lacks("KeyError: 'SECRET'", "SECRET");
    lacks("panic: REDIS_URL must be set", "REDIS_URL");
    // What it has is not missing, and a name in the program is no variable.
    let known = |text: &str| said::find(&Words::of(&Evidence { said: &[text.to_string()], ..exit(1) }));
    assert_eq!(known("Error: SET_ALREADY is not set"), None);
    assert_eq!(known("ReferenceError: API_KEY is not defined"), None);
    assert_eq!(known("TypeError: Cannot read properties of undefined (reading 'A_B')"), None);
}

#[test]
fn errors_of_the_system() {
    says("Error: ENOSPC: no space left on device, write", "the disk is full", "df");
    says("Error: EMFILE: too many open files, open '/x/y'", "it has too many files or sockets open", "limit");
    let file = "Error: ENOENT: no such file or directory, open '/r/v1/conf.json'\n  code: 'ENOENT',";
    says(file, "the file `conf.json` is not there", "part of the release");
    says(
        "Error: EACCES: permission denied, open '/etc/shadow'",
        "it is not allowed to use `/etc/shadow`",
        "TAKO_DATA_DIR",
    );
    let port = "Error: listen EACCES: permission denied 127.0.0.1:80";
    says(port, "it may not listen on port 80, which is for root", "$PORT");
    says("Error: spawn ffmpeg ENOENT", "it starts the program `ffmpeg`, which is not there", "install ffmpeg");
    says(
        "/usr/bin/env: \u{2018}nodee\u{2019}: No such file or directory",
        "the program `nodee` is not on the server",
        "nodee",
    );
    says("sh: 1: gunicorn: not found", "the program `gunicorn` is not on the server", "gunicorn");
    let crlf = "/usr/bin/env: \u{2018}node\\r\u{2019}: No such file or directory";
    says(crlf, "its first line ends with a carriage return, so `node\\r` is looked for", "LF");
    let closed = "the program `nodee` is not on the server, or not where the app's user may run it";
    says("/usr/bin/env: ‘nodee’: Permission denied", closed, "for every user");
    says("/r/v1/run: 2: exec: nodee: Permission denied", closed, "for every user");
    says("open /etc/shadow: permission denied", "it is not allowed to use `/etc/shadow`", "right");
    says("/r/v1/run: 3: cannot create /x: Permission denied", "it is not allowed to use `/x`", "right");
    says("cat: /nope: No such file or directory", "the file `/nope` is not there", "release");
    let library =
        "./run: error while loading shared libraries: libpq.so.5: cannot open shared object file: No such file";
    says(library, "the shared library `libpq.so.5` is missing", "libpq.so.5");
    let libc = "./run: /lib/x86_64-linux-gnu/libc.so.6: version `GLIBC_2.39' not found (required by ./run)";
    says(libc, "the server's C library is older than `GLIBC_2.39`, which it needs", "statically");
}

#[test]
fn others_that_are_needed_and_do_not_answer() {
    let refused =
        |text: &str, place: &str| says(text, &format!("{place} refused the connection"), "check that it runs");
    refused("Error: connect ECONNREFUSED 127.0.0.1:6379", "127.0.0.1:6379 (Redis?)");
    refused("Error: connect ECONNREFUSED ::1:5432", "::1:5432 (PostgreSQL?)");
    refused(
        "error: Uncaught (in promise) ConnectionRefused: Connection refused (os error 111)",
        "a service that it needs",
    );
    says("Error: getaddrinfo ENOTFOUND db", "the host name `db` is not known", "spelling");
    says("dial tcp: lookup db.internal: no such host", "the host name `that it connects to` is not known", "spelling");
    let login = "error: password authentication failed for user \"shop\"";
    says(login, "a service that it needs refused its login", "password");
}

#[test]
fn syntax_errors_tell_where() {
    let node = "file:///r/v1/syntax.mjs:2\nlet b = ;\n    ^\n\nSyntaxError: Unexpected identifier 'b'\n    at compile (node:x)";
    says(node, "a syntax error at syntax.mjs:2: Unexpected identifier 'b'", "correct it");
    let bun =
        "2 | let b = ;\n            ^\nerror: Unexpected ;\n    at /r/v1/syntax.mjs:2:9\n\nBun v1.4.5 (Linux x64)";
    says(bun, "a syntax error at syntax.mjs:2:9: Unexpected ;", "correct it");
    let module = "SyntaxError: Cannot use import statement outside a module";
    says(module, "an ES module was loaded as CommonJS", "\"type\"");
}

#[test]
fn errors_that_nobody_caught() {
    let node = "TypeError: x is not a function\n    at node:internal/x:1:1\n    at file:///r/v1/index.mjs:4:3\n\nNode.js v20.20.2";
    says(node, "nobody caught `TypeError: x is not a function`", "where it was thrown");
    let said: Vec<String> = node.lines().map(Into::into).collect();
    let proof = judge(&Evidence { said: &said, ..exit(1) }).proof;
    assert_eq!(proof, ["TypeError: x is not a function", "    at file:///r/v1/index.mjs:4:3"]);
    let deno = "error: Uncaught (in promise) Error: no luck";
    says(deno, "nobody handled the rejection `Error: no luck`", "thrown");
    let plain = "UnhandledPromiseRejection: This error originated […]. The promise rejected with the reason \"plain\".";
    says(plain, "nobody handled the rejection `plain`", "thrown");
    // The app may have caught it, told it and ended.
    says("Error: no luck\n    at x", "its last error is `Error: no luck`", "thrown");
    says(
        "thread 'main' panicked at src/main.rs:2:5:",
        "it panicked: `thread 'main' panicked at src/main.rs:2:5:`",
        "thrown",
    );
}

#[test]
fn the_last_that_is_known_counts() {
    says("Error: connect ECONNREFUSED 10.0.0.5:5432\nretrying\nError: ENOSPC: no space left", "the disk is full", "df");
}

#[test]
fn colours_are_no_words() {
    assert_eq!(said::plain("\u{1b}[0m\u{1b}[1m\u{1b}[31merror\u{1b}[0m: no"), "error: no");
    assert_eq!(said::plain("a\tb\u{7}\u{1b}["), "a\tb");
}

/// Whatever an app prints: no panic, and nothing that is longer than a report may be.
#[test]
fn no_line_makes_it_fail() {
    let words = [
        "Error: ",
        "EADDRINUSE",
        "spawn ",
        " ENOENT",
        "'",
        "\"",
        "`",
        ":",
        "é€🎉",
        "A_B",
        " not set",
        "version `",
        "' not found",
        "Cannot find module ",
        "env: ",
        "No such file or directory",
        ": not found",
        "Is port ",
        " in use?",
        "SyntaxError: ",
        "getaddrinfo ENOTFOUND",
        "ECONNREFUSED",
        "127.0.0.1:80",
        "Import \"",
        "\" not a dependency",
        "error: ",
        "\\r",
        " ",
        "with the reason ",
        "Uncaught ",
        "/r/v1/",
        "error while loading shared libraries: ",
        "listen EACCES: permission denied ",
    ];
    let mut dice = 1u64;
    for _ in 0..20_000 {
        let mut line = String::new();
        for _ in 0..5 {
            dice = dice.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let _ = write!(line, "{}", words[(dice >> 33) as usize % words.len()]);
        }
        let said = [line];
        for code in [1, 127] {
            let cause = judge(&Evidence { said: &said, ..exit(code) });
            assert!(cause.what.chars().count() <= WIDTH, "{cause:?}");
        }
        said::taken_port(&said);
    }
}
