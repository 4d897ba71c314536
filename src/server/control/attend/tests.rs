use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::thread;

use super::*;
use crate::server::app::Task;
use crate::server::control::tests::{World, world};
use crate::server::layout::Layout;

/// Longer than anything here takes, so that a test that hangs ends.
const SOON: Duration = Duration::from_secs(20);

/// Runs a shell's script for the client that `act` plays; returns how the connection fared.
fn attend(script: &str, how: Attach, limit: Option<Duration>, act: impl FnOnce(&World, UnixStream)) -> Result<()> {
    let world = world();
    let layout = Arc::new(Layout::new(world.dir.path().join("data")));
    let manifest = r#"{"app":"shop","version":"v1","runtime":"binary","main":"x"}"#;
    let manifest = serde_json::from_str(manifest).unwrap();
    fs::create_dir_all(layout.app_dir(&manifest)).unwrap();
    let task = Task::bare(layout, manifest);
    let argv = ["sh", "-c", script].map(String::from).to_vec();
    let command = Command { task, argv, how, term: None, limit, candidate: None };
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(SOON)).unwrap();
    let daemon = world.daemon.clone();
    let serving = thread::spawn(move || {
        let patience = Patience::new(&ours, None);
        let conn = Connection { stream: &ours, daemon: &daemon, beat: SOON, quiet: SOON };
        conn.attend(1, command, &mut Hearing::new(&patience))
    });
    act(&world, theirs);
    serving.join().unwrap()
}

/// What comes until the reply: output of both streams, and how it ended.
fn hear(stream: UnixStream) -> (Vec<u8>, Vec<u8>, Ended) {
    let (mut out, mut err) = (Vec::new(), Vec::new());
    for line in BufReader::new(stream).lines() {
        match serde_json::from_str::<Answer>(&line.unwrap()).unwrap().body {
            Body::Notice(Notice::Output { stream: Stream::Out, bytes }) => out.extend(bytes.0),
            Body::Notice(Notice::Output { stream: Stream::Err, bytes }) => err.extend(bytes.0),
            Body::Notice(_) => {}
            Body::Reply(Reply::Ran(ended)) => return (out, err, ended),
            other => panic!("{other:?}"),
        }
    }
    panic!("no reply");
}

fn say(stream: &mut UnixStream, input: Input) {
    wire::send(stream, &Call { id: 1, request: Request::Input(input) }).unwrap();
}

#[test]
fn both_streams_and_the_end_are_told_and_what_was_left_behind_is_ended() {
    let heard = |_: &World, stream| {
        let (out, err, ended) = hear(stream);
        assert_eq!((out.as_slice(), err.as_slice(), ended), (&b"out\n"[..], &b"err\n"[..], Ended::Code(3)));
    };
    // The background would hold the pipes for ten minutes.
    attend("sleep 600 & echo out; echo err >&2; exit 3", Attach::Output, None, heard).unwrap();
}

#[test]
fn one_that_is_out_of_time_is_ended_with_all_that_it_started() {
    let heard = |_: &World, stream| {
        let (out, _, ended) = hear(stream);
        assert_eq!((out.as_slice(), ended), (&b"begun\n"[..], Ended::OutOfTime(1)));
    };
    let limit = Some(Duration::from_secs(1));
    attend("echo begun; sleep 600 & sleep 600", Attach::Output, limit, heard).unwrap();
}

#[test]
fn an_input_arrives_whole_and_a_signal_is_not_held_up_by_it() {
    let act = |_: &World, mut stream: UnixStream| {
        say(&mut stream, Input::Bytes(Blob(b"one\n".to_vec())));
        say(&mut stream, Input::Bytes(Blob(b"two".to_vec())));
        say(&mut stream, Input::End);
        assert_eq!(hear(stream).0, b"one\ntwo");
    };
    attend("cat", Attach::Pipes, None, act).unwrap();
    let act = |_: &World, mut stream: UnixStream| {
        // All that may be on its way, to one who reads none of it.
        for _ in 0..WINDOW / PIECE {
            say(&mut stream, Input::Bytes(Blob(vec![b'x'; PIECE])));
        }
        say(&mut stream, Input::Signal(task::Signal::Int));
        assert_eq!(hear(stream).2, Ended::Signal(2));
    };
    attend("exec sleep 600", Attach::Pipes, None, act).unwrap();
}

#[test]
fn who_sends_more_than_was_asked_for_is_shown_out_and_so_is_his_command() {
    let act = |world: &World, mut stream: UnixStream| {
        let done = world.dir.path().join("data/apps/shop/releases/v1/begun");
        let until = Instant::now() + SOON;
        while !done.exists() {
            assert!(Instant::now() < until, "it never began");
            thread::yield_now();
        }
        for _ in 0..WINDOW / PIECE + 4 {
            let call = Call { id: 1, request: Request::Input(Input::Bytes(Blob(vec![b'x'; PIECE]))) };
            if wire::send(&mut stream, &call).is_err() {
                break;
            }
        }
        // Until its side is closed, which is after the command has ended.
        let _ = std::io::copy(&mut stream, &mut std::io::sink());
    };
    let e = attend("touch begun; exec sleep 600", Attach::Pipes, None, act).unwrap_err();
    assert_eq!(e.kind(), Kind::Refused);
}

#[test]
fn a_client_that_goes_away_takes_its_command_with_it() {
    let act = |_: &World, stream: UnixStream| {
        let mut line = String::new();
        BufReader::new(&stream).read_line(&mut line).unwrap();
        assert!(line.contains("output"), "{line}");
    };
    // It would go on for ten minutes, and `attend` waits for its end.
    let e = attend("echo begun; sleep 600 & sleep 600", Attach::Output, None, act).unwrap_err();
    assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Io, "the client is gone"));
}

#[test]
fn what_cannot_be_started_is_told_as_by_a_shell() {
    let world = world();
    let layout = Arc::new(Layout::new(world.dir.path().join("data")));
    let manifest = serde_json::from_str(r#"{"app":"shop","version":"v1","runtime":"binary","main":"x"}"#).unwrap();
    let dir = layout.app_dir(&manifest);
    fs::create_dir_all(&dir).unwrap();
    fs::write(dir.join("plain"), "text").unwrap();
    for (word, code) in [("no-such-program", 127), ("./nothing", 127), ("./plain", 126), ("", 127)] {
        let task = Task::bare(layout.clone(), manifest.clone());
        let started = task.start(&[word.into()], Attach::Output, None).unwrap();
        assert!(matches!(started, Err(Ended::NotStarted { code: c, .. }) if c == code), "{word}");
    }
}
