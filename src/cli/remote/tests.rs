use std::fs::{self, Permissions};
use std::io::BufRead;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;
use crate::proto::Range;
use crate::proto::control::MAGIC;
use crate::proto::target::Target;

/// Hands out one byte at a time: every split point at once.
struct Drip<'a>(&'a [u8]);

impl Read for Drip<'_> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let n = self.0.len().min(1);
        buf[..n].copy_from_slice(&self.0[..n]);
        self.0 = &self.0[n..];
        Ok(n)
    }
}

fn hello(range: (u32, u32), incoming: &Path) -> String {
    let hello = Hello {
        tako: MAGIC.into(),
        protocol: Range { min: range.0, max: range.1 },
        server: "9.9.9".into(),
        target: Target::parse("linux-x86_64-glibc").unwrap(),
        clock_ms: 1,
        incoming: incoming.display().to_string(),
        hears_beats: false,
    };
    serde_json::to_string(&hello).unwrap() + "\n"
}

/// A stand-in for `tako-server`: a shell script that is handed the hello and does `then`.
fn stand_in(dir: &Path, hello: &str, then: &str) -> Place {
    let program = dir.join("tako-server");
    fs::write(dir.join("hello"), hello).unwrap();
    fs::write(&program, format!("#!/bin/sh\ncat {}/hello\n{then}\n", dir.display())).unwrap();
    fs::set_permissions(&program, Permissions::from_mode(0o755)).unwrap();
    Place::Here { name: "here".into(), program, socket: dir.join("sock") }
}

fn connect(place: &Place) -> Result<Remote> {
    // Another test's fork may hold the script open for writing for a moment (ETXTBSY).
    let until = Instant::now() + Duration::from_secs(10);
    loop {
        match Remote::connect(place, &Interrupt::never()) {
            Err(e) if e.to_string().contains("text file busy") && Instant::now() < until => thread::yield_now(),
            other => return other,
        }
    }
}

#[test]
fn finds_the_hello_behind_what_a_shell_printed() {
    let line = hello((1, 1), Path::new("/in"));
    let check = |noise: &str, rest: &str, found: bool| {
        let all = format!("{noise}{line}{rest}");
        for split in [false, true] {
            let got = match split {
                false => find_hello(&mut all.as_bytes()),
                true => find_hello(&mut Drip(all.as_bytes())),
            };
            assert_eq!(got.is_some(), found, "{} bytes of noise", noise.len());
            let Some(((hello, before), mut after)) = got else { continue };
            assert_eq!((hello.server.as_str(), before), ("9.9.9", noise.len()));
            // Whatever was read too far is handed on.
            after.extend(if split { rest.as_bytes() } else { b"" }.iter().skip(after.len()));
            assert_eq!(after, rest.as_bytes());
        }
    };
    check("", "", true);
    check("", "{\"id\":1}\n", true);
    check("Welcome!\nYou have mail.\n", "x\n", true);
    check("no line feed", "", true);
    check("{\"tako\":\"hell\n", "", true);
    check(&"noise\n".repeat(10_000), "", true);
    check(&"noise\n".repeat(20_000), "", false);
}

#[test]
fn a_hello_that_is_cut_short_or_no_hello_is_none() {
    assert!(find_hello(&mut &b"{\"tako\":\"hello\",\"prot"[..]).is_none());
    assert!(find_hello(&mut &b"{\"tako\":\"hello\"}\n"[..]).is_none());
    assert!(find_hello(&mut std::io::repeat(b'x')).is_none());
}

#[test]
fn a_call_hears_its_notices_and_gets_its_reply() {
    let dir = tempfile::tempdir().unwrap();
    let then = r#"read greeting; echo "$greeting" > greeting; read call
        echo '{"id":99,"body":{"reply":"done"}}'
        echo '{"id":1,"body":{"notice":"beat"}}'
        echo '{"id":1,"body":{"reply":"done"}}'
        read call; echo '{"id":2,"body":{"fault":{"kind":"busy","message":"locked","hint":"wait"}}}'; read end"#;
    let then = then.replace("> greeting", &format!("> {}/greeting", dir.path().display()));
    let mut remote = connect(&stand_in(dir.path(), &hello((1, 7), dir.path()), &then)).unwrap();
    let mut notices = Vec::new();
    remote.order(Request::Info, &mut |n| notices.push(n)).unwrap();
    assert_eq!(notices, [Notice::Beat]);
    let greeting = fs::read(dir.path().join("greeting")).unwrap();
    let greeting: Greeting = serde_json::from_slice(greeting.lines().next().unwrap().unwrap().as_bytes()).unwrap();
    assert!(greeting.protocol == 1 && greeting.who.contains('@'), "{greeting:?}");
    let e = remote.call(Request::Info, &mut |_| {}).unwrap_err();
    assert_eq!((e.kind(), e.to_string().as_str(), e.next_step()), (Kind::Busy, "locked", Some("wait")));
}

#[test]
fn a_server_of_another_age_is_told_apart_by_who_must_be_upgraded() {
    let dir = tempfile::tempdir().unwrap();
    let e = connect(&stand_in(dir.path(), &hello((7, 9), dir.path()), "read x")).err().unwrap();
    assert_eq!(e.kind(), Kind::Incompatible);
    assert_eq!(e.next_step(), Some("upgrade tako on this machine"));
}

#[test]
fn a_program_that_ends_is_an_error_with_its_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let e = connect(&stand_in(dir.path(), "", "echo no socket >&2; exit 1")).err().unwrap();
    assert_eq!(e.kind(), Kind::Unreachable);
    let mut remote = connect(&stand_in(dir.path(), &hello((1, 1), dir.path()), "read g; read c; exit 0")).unwrap();
    assert_eq!(remote.call(Request::Info, &mut |_| {}).unwrap_err().kind(), Kind::Unreachable);
}

#[test]
fn nonsense_instead_of_an_answer_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut remote =
        connect(&stand_in(dir.path(), &hello((1, 1), dir.path()), "read g; read c; echo boo; read x")).unwrap();
    assert_eq!(remote.call(Request::Info, &mut |_| {}).unwrap_err().kind(), Kind::Refused);
}

#[test]
fn an_interrupt_ends_a_wait() {
    let dir = tempfile::tempdir().unwrap();
    let mut remote = connect(&stand_in(dir.path(), &hello((1, 1), dir.path()), "read g; read c; read x")).unwrap();
    let (trigger, interrupt) = Interrupt::never().or_trigger();
    remote.interrupt = interrupt;
    drop(trigger);
    assert_eq!(remote.call(Request::Info, &mut |_| {}).unwrap_err().kind(), Kind::Interrupted);
}

#[test]
fn who_has_nothing_to_say_says_that_he_is_there() {
    let (theirs, ours) = std::io::pipe().unwrap();
    let greeting = Greeting { protocol: 1, client: "0.1.0".into(), who: "ana".into(), beats: true };
    let calls = start_writer(ours, greeting, Duration::from_millis(1));
    let mut lines = std::io::BufReader::new(theirs).lines().map(Result::unwrap);
    assert!(lines.next().unwrap().ends_with(r#""beats":true}"#));
    assert_eq!(lines.next().unwrap(), r#"{"id":0,"request":"beat"}"#);
    calls.send(Call { id: 1, request: Request::Info }).unwrap();
    assert!(lines.any(|line| line == r#"{"id":1,"request":"info"}"#));
    drop(calls);
    // The thread ends with whoever could call.
    assert!(lines.all(|line| line.contains("beat")));
}
