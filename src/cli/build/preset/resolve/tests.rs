use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread::{self, JoinHandle};
use std::time::Duration;

use super::super::MAX_PRESET;
use super::*;
use crate::net::Patience;

/// Longer than anything here takes.
const LONG: Duration = Duration::from_secs(60);

const RUNTIME: Runtime = Runtime::Node;
const GOOD: &str = "main = \"server.js\"\n";
const OTHER: &str = "main = \"other.js\"\n";

/// What the place answers to one request after the other; its last answer from then on.
#[derive(Clone)]
enum Answer {
    Preset(String, Option<&'static str>),
    /// 304 for whoever has this tag, else the preset.
    Tagged(&'static str, &'static str),
    Status(u16),
    Raw(Vec<u8>),
    /// Nothing, for as long as the client waits.
    Silence,
}

/// A place for presets on loopback. It hears what is asked.
struct Host {
    address: SocketAddr,
    answer: Arc<Mutex<Option<Answer>>>,
    heard: Arc<Mutex<Vec<String>>>,
    thread: Option<JoinHandle<()>>,
}

impl Host {
    fn start() -> Host {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let (answer, heard) = (Arc::new(Mutex::new(Some(Answer::Status(500)))), Arc::default());
        let (theirs, hears) = (Arc::clone(&answer), Arc::clone(&heard));
        let thread = thread::spawn(move || {
            for stream in listener.incoming() {
                let answer: Option<Answer> = theirs.lock().unwrap().clone();
                let Some(answer) = answer else { return };
                serve(stream.unwrap(), &answer, &hears);
            }
        });
        Host { address, answer, heard, thread: Some(thread) }
    }

    fn says(&self, answer: Answer) {
        *self.answer.lock().unwrap() = Some(answer);
    }

    fn asked(&self) -> usize {
        self.heard.lock().unwrap().len()
    }
}

impl Drop for Host {
    fn drop(&mut self) {
        *self.answer.lock().unwrap() = None;
        let _ = TcpStream::connect(self.address);
        self.thread.take().unwrap().join().unwrap();
    }
}

fn serve(mut stream: TcpStream, answer: &Answer, heard: &Mutex<Vec<String>>) {
    let (mut head, mut buffer) = (Vec::new(), [0; 4096]);
    while !head.windows(4).any(|w| w == b"\r\n\r\n") {
        match stream.read(&mut buffer).unwrap_or(0) {
            0 => return,
            n => head.extend_from_slice(&buffer[..n]),
        }
    }
    let head = String::from_utf8(head).unwrap();
    let with = |body: &str, etag: &str| {
        format!("HTTP/1.1 200 OK\r\n{etag}Content-Length: {}\r\nConnection: close\r\n\r\n{body}", body.len())
            .into_bytes()
    };
    let bytes = match answer {
        Answer::Preset(text, etag) => with(text, &etag.map_or(String::new(), |e| format!("ETag: {e}\r\n"))),
        Answer::Tagged(_, tag) if head.contains(tag) => b"HTTP/1.1 304 No\r\nConnection: close\r\n\r\n".to_vec(),
        Answer::Tagged(text, tag) => with(text, &format!("ETag: {tag}\r\n")),
        Answer::Status(code) => format!("HTTP/1.1 {code} No\r\nContent-Length: 0\r\n\r\n").into_bytes(),
        Answer::Raw(bytes) => bytes.clone(),
        Answer::Silence => Vec::new(),
    };
    let silent = bytes.is_empty();
    heard.lock().unwrap().push(head);
    let _ = stream.write_all(&bytes);
    if silent {
        // It ends when the client has had enough.
        let _ = stream.read(&mut buffer);
    }
}

/// A project, a home and a place.
struct World {
    dir: tempfile::TempDir,
    home: tempfile::TempDir,
    host: Host,
}

impl World {
    fn new() -> World {
        let (dir, home) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::create_dir(dir.path().join(".tako")).unwrap();
        World { dir, home, host: Host::start() }
    }

    fn shelf(&self) -> Shelf {
        let mut shelf = Shelf::new(&format!("http://{}/", self.host.address), self.home.path()).unwrap();
        // Only who will never answer is not waited for: on a busy machine an answer takes its time.
        let silence = match *self.host.answer.lock().unwrap() {
            Some(Answer::Silence) => Duration::from_millis(300),
            _ => LONG,
        };
        shelf.patience = Patience { connect: LONG, silence, whole: LONG };
        shelf
    }

    fn resolve(&self, name: &str, wish: Wish) -> (Result<Locked>, Vec<String>) {
        let mut notes = Vec::new();
        let wanted = PresetRef::parse(name).unwrap();
        let found = resolve(self.dir.path(), &wanted, RUNTIME, wish, || Ok(Some(self.shelf())), &mut notes);
        (found, notes)
    }

    /// Resolves it without a word, as for the first time.
    fn fetched(&self, name: &str) -> Locked {
        let (found, notes) = self.resolve(name, Wish::Locked);
        assert!(notes.is_empty(), "{notes:?}");
        found.unwrap()
    }

    fn lock(&self, locked: &Locked) {
        lock::save(self.dir.path(), Some(locked)).unwrap();
    }
}

fn preset(text: &str) -> Answer {
    Answer::Preset(text.into(), None)
}

/// Every way in which a place fails.
fn failures() -> Vec<(&'static str, Answer)> {
    let page = "<html>log in first</html>";
    vec![
        ("500", Answer::Status(500)),
        ("304 unasked", Answer::Status(304)),
        ("403", Answer::Status(403)),
        ("silence", Answer::Silence),
        ("no http", Answer::Raw(b"\x00\xff garbage\r\n\r\n".to_vec())),
        ("a page", preset(page)),
        ("unknown keys", preset("mian = \"x\"\n")),
        ("refused keys", preset("[envs.production]\nroute = \"a.test\"\n")),
        ("no utf-8", Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n\xff\xfe".to_vec())),
        ("cut", Answer::Raw(b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\nmain = \"x\"\n".to_vec())),
        ("too large", preset(&"#\n".repeat(MAX_PRESET as usize))),
        ("a loop", Answer::Raw(b"HTTP/1.1 302 F\r\nLocation: /again\r\nContent-Length: 0\r\n\r\n".to_vec())),
    ]
}

#[test]
fn a_preset_is_fetched_from_where_a_git_host_has_it() {
    let world = World::new();
    world.host.says(preset(GOOD));
    let found = world.fetched("company");
    let base = format!("http://{}", world.host.address);
    assert_eq!((found.text.as_str(), found.reference.as_str()), (GOOD, "master"));
    assert_eq!(found.source, format!("{base}/master/node/company.toml"));
    let pinned = world.fetched("company@4F2C9AB");
    assert_eq!((pinned.reference.as_str(), pinned.source), ("4f2c9ab", format!("{base}/4f2c9ab/node/company.toml")));
    assert_eq!(pinned.sha256, lock::hash(GOOD));
}

#[test]
fn the_lock_wins_until_somebody_asks_for_a_newer_one() {
    let world = World::new();
    world.host.says(preset(GOOD));
    world.lock(&world.fetched("company"));
    world.host.says(preset(OTHER));
    assert_eq!((world.fetched("company").text.as_str(), world.host.asked()), (GOOD, 1));
    assert_eq!(world.resolve("company", Wish::Newest).0.unwrap().text, OTHER);
    // Another spec is another preset.
    assert_eq!(world.fetched("company@4f2c9ab").text, OTHER);
}

#[test]
fn what_has_not_changed_is_not_sent_again() {
    let world = World::new();
    world.host.says(Answer::Tagged(GOOD, "\"one\""));
    world.fetched("company");
    assert_eq!(world.fetched("company").text, GOOD);
    let heard = world.host.heard.lock().unwrap().clone();
    assert!(!heard[0].to_lowercase().contains("if-none-match") && heard[1].contains("\"one\""), "{heard:?}");
}

#[test]
fn a_place_that_fails_never_fails_a_build() {
    for (why, failure) in failures() {
        // With what Tako brings, with an earlier copy, and with the lock of this very project.
        let world = World::new();
        world.host.says(failure.clone());
        let (found, notes) = world.resolve("vite", Wish::Locked);
        assert_eq!(found.unwrap().source, EMBEDDED, "{why}");
        assert!(notes.len() == 1 && notes[0].contains("comes with Tako"), "{why}: {notes:?}");

        world.host.says(preset(GOOD));
        let copy = world.fetched("vite");
        world.host.says(failure.clone());
        let (found, notes) = world.resolve("vite", Wish::Locked);
        assert_eq!(found.unwrap(), copy, "{why}");
        assert!(notes[0].contains("fetched earlier"), "{why}: {notes:?}");

        world.lock(&copy);
        assert_eq!(world.fetched("vite"), copy, "{why}");
        std::fs::remove_dir_all(world.home.path()).unwrap();
        let (found, notes) = world.resolve("vite", Wish::Newest);
        assert_eq!(found.unwrap(), copy, "{why}");
        assert!(notes[0].contains("build.lock.json"), "{why}: {notes:?}");
    }
}

#[test]
fn who_was_never_there_is_told_why_and_what_to_do() {
    for (why, failure) in failures() {
        let world = World::new();
        world.host.says(failure);
        for name in ["company", "company@4f2c9ab"] {
            let e = world.resolve(name, Wish::Locked).0.unwrap_err();
            assert!(matches!(e.kind(), Kind::Config | Kind::Refused), "{why}: {e}");
            assert!(e.to_string().contains("company"), "{why}: {e}");
        }
    }
    let world = World::new();
    world.host.says(Answer::Status(404));
    let e = world.resolve("vtie", Wish::Locked).0.unwrap_err();
    assert!(e.next_step().unwrap().contains("did you mean `vite`?"), "{e}: {:?}", e.next_step());
    assert_eq!(world.resolve("vite", Wish::Locked).0.unwrap().source, EMBEDDED);
}

#[test]
fn a_pin_is_met_by_one_content_for_ever() {
    let world = World::new();
    world.host.says(preset(GOOD));
    let first = world.fetched("company@4f2c9ab");
    assert_eq!((world.fetched("company@4f2c9ab"), world.host.asked()), (first.clone(), 1));
    world.host.says(preset(OTHER));
    let e = world.resolve("company@4f2c9ab", Wish::Newest).0.unwrap_err();
    assert!(e.kind() == Kind::Refused && e.to_string().contains("when it was pinned"), "{e}");
    // On another machine there is no copy, but the lock.
    world.lock(&first);
    std::fs::remove_dir_all(world.home.path()).unwrap();
    assert_eq!(world.resolve("company@4f2c9ab", Wish::Newest).0.unwrap_err().kind(), Kind::Refused);
    assert_eq!(world.fetched("company@4f2c9ab"), first);
    // A copy that was damaged is none.
    world.host.says(Answer::Status(500));
    let (found, notes) = world.resolve("company@4f2c9ab", Wish::Newest);
    assert_eq!((found.unwrap(), notes.len()), (first, 1));
}

#[test]
fn a_copy_that_was_damaged_is_none() {
    let world = World::new();
    world.host.says(preset(GOOD));
    world.fetched("company@4f2c9ab");
    let folder = world.home.path().join("presets");
    let file = std::fs::read_dir(&folder).unwrap().next().unwrap().unwrap().path();
    for damage in ["", "{}", &std::fs::read_to_string(&file).unwrap().replace("server", "evil")] {
        std::fs::write(&file, damage).unwrap();
        assert_eq!(world.fetched("company@4f2c9ab").text, GOOD, "{damage}");
    }
    assert_eq!(world.host.asked(), 4);
}

#[test]
fn without_a_place_there_is_what_tako_brings() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join(".tako")).unwrap();
    let check = |name: &str, runtime| {
        let mut notes = Vec::new();
        let found =
            resolve(dir.path(), &PresetRef::parse(name).unwrap(), runtime, Wish::Locked, || Ok(None), &mut notes);
        (found, notes)
    };
    let found = check("nextjs", RUNTIME).0.unwrap();
    assert_eq!((found.source.as_str(), found.text.as_str()), (EMBEDDED, built_in::family(RUNTIME, "nextjs").unwrap()));
    assert!(check("nextjs@4f2c9ab", RUNTIME).0.unwrap_err().next_step().unwrap().contains("TAKO_PRESET_URL"));
    assert!(check("nextjs", Runtime::Binary).0.unwrap_err().next_step().unwrap().contains("bun, node, deno"));
    // An older Tako had another one: it stays, and the user knows.
    let older = Locked::new(&PresetRef::parse("nextjs").unwrap(), RUNTIME, EMBEDDED, "tako 0.0.1", GOOD.into());
    lock::save(dir.path(), Some(&older)).unwrap();
    let (found, notes) = check("nextjs", RUNTIME);
    assert_eq!(found.unwrap(), older);
    assert!(notes[0].contains("--update-preset"), "{notes:?}");
}

#[test]
fn a_place_is_asked_over_https_or_on_this_machine() {
    let check = |base: &str, good: bool| assert_eq!(Shelf::new(base, Path::new("/x")).is_ok(), good, "{base}");
    check("https://example.com/presets/", true);
    check("http://127.0.0.1:8000", true);
    check("http://localhost/a", true);
    check("http://example.com", false);
    check("http://127.0.0.1:80@example.com", false);
    check("ftp://example.com", false);
    check("https://example.com/?ref=", false);
    check("https://", false);
    check("presets", false);
}
