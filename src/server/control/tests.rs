use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::time::Instant;

use crossbeam_channel::bounded;

use super::connection::{BEAT, Connection, Following, MAX_WHO, Turn, of_lines, who};
use super::hearing::{Hearing, Patience, QUIET};
use super::*;
use crate::proto::control::{Greeting, LogLine, Notice, Reply};
use crate::proto::target::Target;
use crate::proxy::table::Table;
use crate::server::app::Told;
use crate::server::board::{Board, Publish};
use crate::server::certs::Folder;
use crate::server::daemon::About;
use crate::server::layout::Layout;
use crate::server::runtime::Runtimes;
use crate::server::users::Users;
use crate::server::verbs::Session;

/// Longer than anything here takes, so that a test that hangs ends.
const SOON: Duration = Duration::from_secs(20);

/// Takes tables and shows them to nobody: the control plane does not wait for a proxy here.
struct Nowhere;

impl Publish for Nowhere {
    fn publish(&self, _table: Table) -> u64 {
        0
    }

    fn metrics(&self) -> crate::proxy::counters::Metrics {
        crate::proxy::counters::Metrics::default()
    }

    fn stop(self: Box<Self>, _deadline: Instant) {}
}

pub(super) struct World {
    pub dir: tempfile::TempDir,
    socket: PathBuf,
    pub daemon: Arc<Daemon>,
    _control: Control,
}

pub(super) fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let layout = Arc::new(Layout::new(dir.path().join("data")));
    for sub in [layout.apps(), layout.incoming(), layout.certs()] {
        fs::create_dir_all(sub).unwrap();
    }
    let (_, notices) = bounded(0);
    let board = Board::start(Box::new(Nowhere), notices, Folder::open(layout.clone()).unwrap()).unwrap();
    let about = About {
        target: Target::of_this_machine().unwrap(),
        http: vec!["127.0.0.1:80".into()],
        https: vec!["127.0.0.1:443".into()],
    };
    let start = Box::new(|_, _| Err(Error::new(Kind::Refused, "nothing is started here")));
    let users = Arc::new(Users::new(layout.clone(), true));
    let runtimes = Arc::new(Runtimes::new(layout.clone(), about.target, None));
    let daemon = Arc::new(Daemon::new(layout, board, users, runtimes, about, start, Box::new(|_| {})));
    let socket = dir.path().join("run/tako.sock");
    let control = Listener::bind(&socket).unwrap().serve(daemon.clone()).unwrap();
    World { dir, socket, daemon, _control: control }
}

struct Client {
    stream: UnixStream,
    reader: BufReader<UnixStream>,
}

impl World {
    fn connect(&self) -> Client {
        let stream = UnixStream::connect(&self.socket).unwrap();
        stream.set_read_timeout(Some(SOON)).unwrap();
        let reader = BufReader::new(stream.try_clone().unwrap());
        Client { stream, reader }
    }

    /// A client past the greeting.
    fn greeted(&self, who: &str) -> Client {
        let mut client = self.connect();
        assert!(client.hear().starts_with(r#"{"tako":"hello""#));
        client.say(&format!(r#"{{"protocol":1,"client":"0.1.0","who":"{who}"}}"#));
        client
    }
}

impl Client {
    fn say(&mut self, line: &str) {
        writeln!(self.stream, "{line}").unwrap();
    }

    /// The next line; empty at the end of the connection.
    fn hear(&mut self) -> String {
        let mut line = String::new();
        self.reader.read_line(&mut line).unwrap();
        line
    }

    fn ask(&mut self, line: &str) -> String {
        self.say(line);
        self.hear()
    }

    fn lock_shop(&mut self) -> String {
        self.ask(r#"{"id":1,"request":{"lock":{"app":"shop","version":"4f2c9ab"}}}"#)
    }
}

const DONE: &str = "{\"id\":1,\"body\":{\"reply\":\"done\"}}\n";

fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let until = Instant::now() + SOON;
    while !holds() {
        assert!(Instant::now() < until, "{what}");
        thread::yield_now();
    }
}

#[test]
fn says_hello_and_answers_calls_in_order() {
    let w = world();
    let mut client = w.greeted("ana@laptop");
    client.say(r#"{"id":1,"request":"info"}"#);
    client.say(r#"{"id":2,"request":{"status":{"app":null}}}"#);
    let info = client.hear();
    assert!(info.starts_with(r#"{"id":1,"body":{"reply":{"info":"#), "{info}");
    assert!(info.contains(&format!("\"pid\":{}", std::process::id())) && info.contains("127.0.0.1:443"), "{info}");
    assert_eq!(client.hear(), "{\"id\":2,\"body\":{\"reply\":{\"status\":[]}}}\n");
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.hear(), "");
}

#[test]
fn preflight_says_what_would_happen() {
    let w = world();
    let mut client = w.greeted("ana@laptop");
    let answer = client.ask(r#"{"id":1,"request":{"preflight":{"app":"shop","version":"v1","routes":["shop.test"]}}}"#);
    let answer: Answer = serde_json::from_str(&answer).unwrap();
    let Body::Reply(Reply::Preflight(p)) = answer.body else { panic!("{answer:?}") };
    assert!(!p.complete && p.live.is_none() && p.overlaps.is_empty() && p.free_bytes > 0);
}

#[test]
fn a_client_of_another_protocol_is_told_what_to_upgrade() {
    let w = world();
    let mut client = w.connect();
    client.hear();
    let answer = client.ask(r#"{"protocol":99,"client":"9.0.0","who":"ana"}"#);
    assert!(answer.contains(r#""kind":"incompatible""#) && answer.contains("upgrade tako-server"), "{answer}");
    assert_eq!(client.hear(), "");
}

#[test]
fn a_broken_or_endless_line_gets_one_fault_and_the_end() {
    let w = world();
    let endless = "x".repeat(wire::MAX_LINE + 10);
    for line in ["{", "[]", r#"{"request":"info"}"#, &endless] {
        let mut client = w.greeted("ana@laptop");
        // The server may close before all of an endless line is written.
        let _ = writeln!(client.stream, "{line}");
        let answer = client.hear();
        assert!(answer.starts_with(r#"{"id":0,"body":{"fault":{"kind":"refused""#), "{answer}");
        assert_eq!(client.hear(), "");
    }
    assert!(w.greeted("ana").ask(r#"{"id":1,"request":"info"}"#).contains("info"));
}

#[test]
fn an_unknown_request_gets_a_fault_with_its_number() {
    let w = world();
    let mut client = w.greeted("ana@laptop");
    let answer = client.ask(r#"{"id":7,"request":"explode"}"#);
    assert!(answer.starts_with(r#"{"id":7,"body":{"fault":{"kind":"refused""#), "{answer}");
    assert!(client.ask(r#"{"id":8,"request":"info"}"#).contains("info"));
}

#[test]
fn refuses_what_needs_a_lock_and_changes_nothing() {
    let w = world();
    let mut client = w.greeted("ana@laptop");
    let artifact = r#"{"file":"x","sha256":"0","bytes":1,"unpacked":1}"#;
    let unpack = format!(r#"{{"id":1,"request":{{"unpack":{{"app":"shop","version":"v1","artifact":{artifact}}}}}}}"#);
    let answer = client.ask(&unpack);
    assert!(answer.contains(r#""kind":"refused""#) && answer.contains("not locked"), "{answer}");
    assert_eq!(client.lock_shop(), DONE);
    assert!(client.ask(&unpack).contains(r#""kind":"not_found""#));
    assert!(!w.dir.path().join("data/apps/shop/releases").exists());
}

#[test]
fn a_lock_is_one_clients_and_goes_with_it() {
    let w = world();
    let mut ana = w.greeted("ana@laptop");
    assert_eq!(ana.lock_shop(), DONE);
    assert_eq!(ana.lock_shop(), DONE);
    let mut bo = w.greeted("bo@ci");
    let answer = bo.lock_shop();
    assert!(answer.contains(r#""kind":"busy""#), "{answer}");
    assert!(answer.contains("shop is being deployed by ana@laptop for 0s (4f2c9ab, uploading)"), "{answer}");
    drop(ana);
    eventually("the lock is free once its client is gone", || bo.lock_shop() == DONE);
    assert_eq!(bo.ask(r#"{"id":1,"request":{"unlock":{"app":"shop"}}}"#), DONE);
    assert_eq!(w.greeted("ana@laptop").lock_shop(), DONE);
}

#[test]
fn a_client_that_vanishes_while_work_is_done_stops_it_and_frees_its_lock() {
    let w = world();
    let release = w.dir.path().join("data/apps/shop/releases/v1");
    fs::create_dir_all(&release).unwrap();
    fs::write(release.join(".complete"), "").unwrap();
    let mut ana = w.greeted("ana@laptop");
    assert_eq!(ana.lock_shop(), DONE);
    let answer = ana.ask(
        r#"{"id":2,"request":{"prepare":{"manifest":{"app":"shop","version":"v1","runtime":"binary","main":"run",
           "install":["sh","-c","touch begun; sleep 60; touch ended"]}}}}"#
            .replace('\n', "")
            .as_str(),
    );
    assert!(answer.contains("install dependencies"), "{answer}");
    eventually("the installer runs", || release.join("begun").exists());
    let started = Instant::now();
    drop(ana);
    let mut bo = w.greeted("bo@ci");
    eventually("the lock is free once its client is gone", || bo.lock_shop() == DONE);
    assert!(started.elapsed() < SOON);
    assert!(!release.join(".prepared").exists() && !release.join("ended").exists());
}

/// A client, whose promise to speak is this, of a server that waits for `quiet`.
fn promising(w: &World, beats: bool, quiet: Duration) -> Client {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(SOON)).unwrap();
    let daemon = w.daemon.clone();
    thread::spawn(move || Connection { stream: &ours, daemon: &daemon, beat: BEAT, quiet }.converse());
    let mut client = Client { reader: BufReader::new(theirs.try_clone().unwrap()), stream: theirs };
    assert!(client.hear().contains(r#""hears_beats":true"#));
    client.say(&format!(r#"{{"protocol":1,"client":"0.1.0","who":"ana@laptop","beats":{beats}}}"#));
    client
}

#[test]
fn a_client_that_falls_silent_without_an_end_loses_its_lock_and_is_told() {
    let w = world();
    let mut bo = w.greeted("bo@ci");
    let mut ana = promising(&w, true, Duration::from_millis(50));
    assert_eq!(ana.lock_shop(), DONE);
    eventually("the lock is free though the connection stands", || bo.lock_shop() == DONE);
    let told = ana.hear();
    assert!(told.contains(r#""kind":"unreachable""#) && told.contains("nothing was heard of the client"), "{told}");
    assert_eq!(ana.hear(), "");
}

#[test]
fn a_client_that_falls_silent_while_work_is_done_stops_it_and_frees_its_lock() {
    let w = world();
    let release = w.dir.path().join("data/apps/shop/releases/v1");
    fs::create_dir_all(&release).unwrap();
    fs::write(release.join(".complete"), "").unwrap();
    let mut ana = promising(&w, true, Duration::from_millis(300));
    assert_eq!(ana.lock_shop(), DONE);
    ana.say(
        &r#"{"id":2,"request":{"prepare":{"manifest":{"app":"shop","version":"v1","runtime":"binary","main":"run",
           "install":["sh","-c","touch begun; sleep 60; touch ended"]}}}}"#
            .replace('\n', ""),
    );
    eventually("the installer runs, or it was too late for it", || {
        // On a machine that does much else the silence may be over before it begins.
        release.join("begun").exists() || w.greeted("bo@ci").lock_shop() == DONE
    });
    let mut bo = w.greeted("bo@ci");
    eventually("the lock is free", || bo.lock_shop() == DONE);
    assert!(!release.join(".prepared").exists() && !release.join("ended").exists());
}

#[test]
fn a_client_that_beats_or_never_promised_to_keeps_its_lock() {
    let w = world();
    let mut bo = w.greeted("bo@ci");
    // An older one says nothing between its calls.
    let mut older = promising(&w, false, Duration::from_millis(1));
    assert_eq!(older.lock_shop(), DONE);
    let mut ana = promising(&w, true, SOON);
    let lock = r#"{"id":1,"request":{"lock":{"app":"blog","version":"4f2c9ab"}}}"#;
    assert_eq!(ana.ask(lock), DONE);
    for _ in 0..3 {
        ana.say(r#"{"id":0,"request":"beat"}"#);
    }
    // A beat is no call: what comes after it is answered, and nothing else.
    assert!(ana.ask(r#"{"id":7,"request":"info"}"#).starts_with(r#"{"id":7,"body":{"reply":{"info""#));
    assert!(bo.lock_shop().contains(r#""kind":"busy""#) && bo.ask(lock).contains(r#""kind":"busy""#));
    assert_eq!(older.lock_shop(), DONE);
}

#[test]
fn deletes_what_was_never_started() {
    let w = world();
    let mut client = w.greeted("ana@laptop");
    let delete = r#"{"id":1,"request":{"delete":{"app":"shop"}}}"#;
    assert!(client.ask(delete).contains(r#""kind":"not_found""#));
    let app = w.dir.path().join("data/apps/shop");
    fs::create_dir_all(app.join("releases/v1")).unwrap();
    fs::write(app.join("state.json"), "damaged").unwrap();
    assert_eq!(client.ask(delete), DONE);
    assert!(!app.exists());
}

#[test]
fn the_connection_that_is_one_too_many_is_told_so() {
    let w = world();
    let mut clients: Vec<Client> = (0..MAX_CONNECTIONS).map(|_| w.greeted("ana")).collect();
    for client in &mut clients {
        assert!(client.ask(r#"{"id":1,"request":"info"}"#).contains("info"));
    }
    let mut last = w.connect();
    assert!(last.hear().starts_with(r#"{"tako":"hello""#));
    let answer = last.hear();
    assert!(answer.contains(r#""kind":"busy""#), "{answer}");
    assert_eq!(last.hear(), "");
    clients.pop();
    eventually("there is room again", || {
        let mut client = w.connect();
        client.hear();
        // Turned away, the connection may end before this is written.
        let _ = writeln!(client.stream, r#"{{"protocol":1,"client":"x","who":"x"}}"#);
        let _ = writeln!(client.stream, r#"{{"id":1,"request":"info"}}"#);
        client.hear().contains("info")
    });
}

#[test]
fn a_stale_socket_is_replaced_a_living_one_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("tako.sock");
    drop(UnixListener::bind(&path).unwrap());
    let living = Listener::bind(&path).unwrap();
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o660);
    assert_eq!(Listener::bind(&path).err().unwrap().kind(), Kind::Busy);
    drop(living);
    assert!(!path.exists());
    fs::write(&path, "precious").unwrap();
    assert_eq!(Listener::bind(&path).err().unwrap().kind(), Kind::Refused);
    assert_eq!(fs::read(&path).unwrap(), b"precious");
}

#[test]
fn stopping_takes_the_socket_away_unless_it_is_a_successors() {
    let w = world();
    let World { _control: control, socket, dir: _dir, .. } = w;
    fs::remove_file(&socket).unwrap();
    let _successor = UnixListener::bind(&socket).unwrap();
    control.stop();
    assert!(socket.exists());
    let World { _control: control, socket, dir: _dir, .. } = world();
    control.stop();
    assert!(!socket.exists());
}

#[test]
fn a_greeting_that_drips_in_has_a_deadline() {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let until = Instant::now() + Duration::from_millis(50);
    let patience = Patience::new(&ours, Some(until));
    theirs.write_all(b"{").unwrap();
    let e = wire::Reader::new(&patience).next::<Greeting>().unwrap_err();
    assert_eq!(e.kind(), Kind::Timeout);
}

/// A connection on which something is followed, and the client's end of it.
fn following(w: &World, endless: bool, beat: Duration) -> (Client, crossbeam_channel::Sender<Result<Told>>) {
    let (ours, theirs) = UnixStream::pair().unwrap();
    theirs.set_read_timeout(Some(SOON)).unwrap();
    let (to, heard) = bounded(1);
    let daemon = w.daemon.clone();
    thread::spawn(move || {
        let it = Following { heard, turns: of_lines, closed: || Ok(Reply::Done), endless };
        let connection = Connection { stream: &ours, daemon: &daemon, beat, quiet: QUIET };
        let patience = Patience::new(&ours, None);
        let mut hearing = Hearing::new(&patience);
        let _ = connection.follow(1, &mut Session::new("ana".into()), &it, &mut hearing);
    });
    (Client { reader: BufReader::new(theirs.try_clone().unwrap()), stream: theirs }, to)
}

#[test]
fn a_client_that_waits_hears_a_beat() {
    let w = world();
    let (mut client, _working) = following(&w, false, Duration::from_millis(1));
    assert_eq!(client.hear(), "{\"id\":1,\"body\":{\"notice\":\"beat\"}}\n");
}

#[test]
fn a_client_hears_a_beat_also_among_events_that_tell_it_nothing() {
    let w = world();
    let (mut client, looks) = following(&w, true, Duration::from_millis(300));
    // More often than the beat, until the connection is over.
    let looking = thread::spawn(move || {
        while looks.send(Ok(Told { missed: 0, lines: Vec::new(), up_to_date: false })).is_ok() {
            thread::yield_now();
        }
    });
    assert_eq!(client.hear(), "{\"id\":1,\"body\":{\"notice\":\"beat\"}}\n");
    drop(client);
    looking.join().unwrap();
}

#[test]
fn what_has_no_end_ends_with_the_clients_last_word() {
    let w = world();
    let (mut client, _more) = following(&w, true, BEAT);
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert_eq!(client.hear(), DONE);
}

#[test]
fn what_has_an_end_is_told_to_the_end_after_the_clients_last_word() {
    let w = world();
    let (mut client, work) = following(&w, false, Duration::from_millis(1));
    client.stream.shutdown(Shutdown::Write).unwrap();
    assert!(client.hear().contains("beat"));
    drop(work);
    let mut last = client.hear();
    while last.contains("beat") {
        last = client.hear();
    }
    assert_eq!(last, DONE);
}

#[test]
fn many_long_lines_are_told_in_messages_that_fit() {
    let line = |n: usize| LogLine {
        at_ms: 0,
        release: "v1".into(),
        instance: 1,
        stream: crate::proto::control::Stream::Out,
        text: "\u{1}".repeat(n),
    };
    let turns = of_lines(Ok(Told { missed: 7, lines: (0..40).map(|_| line(16 << 10)).collect(), up_to_date: true }));
    let (mut count, mut told) = (0, 0);
    let mut ends = Vec::new();
    for turn in turns {
        let Turn::Notice(notice) = turn else { panic!("only notices") };
        let Notice::Lines { lines, missed, up_to_date } = &notice else { panic!("only lines") };
        ends.push(*up_to_date);
        count += lines.len();
        told += missed;
        wire::send(&mut io::sink(), &Answer { id: 1, body: Body::Notice(notice) }).unwrap();
    }
    assert_eq!((count, told), (40, 7));
    assert!(ends.len() > 2 && ends.pop() == Some(true) && !ends.contains(&true), "what was kept ends once: {ends:?}");
    assert!(
        of_lines(Ok(Told { missed: 0, lines: Vec::new(), up_to_date: false })).is_empty(),
        "a look at who listens is no message"
    );
    assert_eq!(of_lines(Ok(Told { missed: 1, lines: Vec::new(), up_to_date: false })).len(), 1);
}

#[test]
fn a_name_cannot_break_a_log_line() {
    assert_eq!(who("ana\n\u{1b}[31m@laptop"), "ana[31m@laptop");
    assert_eq!(who(""), "somebody");
    assert_eq!(who(&"x".repeat(1000)).len(), MAX_WHO);
}
