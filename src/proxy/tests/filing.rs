//! Files: answered by us when they are there, by the app when they are not.

use std::fs;
use std::net::Shutdown;
use std::path::Path;
use std::time::SystemTime;

use super::*;
use crate::proxy::files::root::Root;

/// A folder to serve from, with its files dated long ago.
struct Folder(tempfile::TempDir);

impl Folder {
    fn new(files: &[(&str, &[u8])]) -> Self {
        let folder = Folder(tempfile::tempdir().unwrap());
        for (name, content) in files {
            folder.write(name, content);
        }
        folder
    }

    fn write(&self, name: &str, content: &[u8]) {
        let path = self.0.path().join("public").join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, content).unwrap();
        let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(784_111_777);
        fs::File::options().append(true).open(&path).unwrap().set_modified(long_ago).unwrap();
    }

    fn root(&self) -> Root {
        Root::open(self.0.path(), Path::new("public")).unwrap().unwrap()
    }
}

impl World {
    fn publish_files(&self, endpoint: Endpoint, assets: Vec<Root>) {
        let route = |r: &str| (Route::parse(r).unwrap(), 0);
        let (name, endpoints) = ("app".into(), vec![endpoint]);
        let upstream = Upstream { name, endpoints, standing: Standing::Awake, body_limit: 1 << 20, assets };
        let table = Table {
            entries: vec![route("app.test"), route("app.test/app/*"), route("app.test/only.txt")],
            upstreams: vec![upstream],
            certs: self.certs.clone(),
            challenges: self.challenges.clone(),
        };
        self.proxy.as_ref().unwrap().publish(table);
    }

    fn with_files(origin: &Origin, folder: &Folder) -> Self {
        let world = World::with(Limits::DEFAULT, 1);
        world.publish_files(origin.endpoint, vec![folder.root()]);
        world
    }
}

impl Client {
    fn ask(&mut self, method: &str, path: &str, fields: &str) -> Answered {
        self.send(format!("{method} {path} HTTP/1.1\r\nHost: app.test\r\n{fields}\r\n"));
        self.try_read(method == "HEAD").expect("a whole response")
    }
}

#[test]
fn a_file_is_served_with_its_fields_and_the_connection_stays() {
    let origin = Origin::named("app");
    let folder = Folder::new(&[("x.css", b"body{}"), ("main.3f2a1b9c.js", b"1"), ("e.txt", b""), ("a b.bin", b"2")]);
    let world = World::with_files(&origin, &folder);
    let mut client = world.client();
    for _ in 0..3 {
        let answer = client.get("/x.css?v=1");
        assert_eq!((answer.status, answer.text()), (200, "body{}"));
        assert_eq!(answer.field("content-type"), Some("text/css; charset=utf-8"));
        assert_eq!(answer.field("content-length"), Some("6"));
        assert_eq!(answer.field("cache-control"), Some("no-cache"));
        assert_eq!(answer.field("last-modified"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
        assert_eq!(answer.field("accept-ranges"), Some("bytes"));
        assert_eq!(answer.field("x-content-type-options"), Some("nosniff"));
        assert!(answer.field("etag").unwrap().starts_with('"') && answer.field("date").is_some());
        assert_eq!(answer.field("vary"), None, "there is but one form of it");
    }
    assert_eq!(client.get("/main.3f2a1b9c.js").field("cache-control"), Some("public, max-age=31536000, immutable"));
    assert_eq!(client.get("/e.txt").body, b"");
    assert_eq!(client.get("/a%20b.bin").field("content-type"), Some("application/octet-stream"));
    let head = client.ask("HEAD", "/x.css", "");
    assert_eq!((head.status, head.field("content-length")), (200, Some("6")));
    assert_eq!(client.get("/x.css").text(), "body{}", "nothing followed the HEAD");
    assert_eq!(origin.conns(), 0);
}

#[test]
fn what_is_no_file_is_the_apps() {
    let origin = Origin::new(|seen| ok(seen.head.split(' ').nth(1).unwrap().as_bytes()));
    let folder = Folder::new(&[("x.css", b"file"), ("plain", b"file"), (".env", b"file"), (".git/c.x", b"file")]);
    folder.write("d.css/inner.txt", b"file");
    std::os::unix::fs::symlink("/etc/hostname", folder.0.path().join("public/out.txt")).unwrap();
    let world = World::with_files(&origin, &folder);
    let mut client = world.client();
    for path in
        ["/", "/plain", "/none.css", "/.env", "/.git/c.x", "/d.css", "/out.txt", "//x.css", "/x.css/", "/x.css/y.z"]
    {
        for _ in 0..2 {
            assert_eq!(client.get(path).text(), path, "asked twice, the second time from memory");
        }
    }
    assert_eq!(client.ask("POST", "/x.css", "Content-Length: 0\r\n").text(), "/x.css");
    assert_eq!(client.ask("GET", "/x.css", "Connection: upgrade\r\nUpgrade: websocket\r\n").text(), "/x.css");
    client.send("GET /x.css HTTP/1.1\r\nHost: app.test\r\nContent-Length: 2\r\n\r\nhi");
    assert_eq!(client.read().text(), "/x.css");
    assert_eq!(client.ask("GET", &format!("/{}.css", "a".repeat(7000)), "").status, 200);
    assert_eq!(client.get("/x.css").text(), "file");
}

#[test]
fn a_path_route_is_tried_with_its_prefix_and_then_without() {
    let origin = Origin::named("app");
    let folder =
        Folder::new(&[("one.txt", b"bare"), ("app/two.txt", b"full"), ("two.txt", b"bare"), ("only.txt", b"o")]);
    let world = World::with_files(&origin, &folder);
    let mut client = world.client();
    for (path, expected) in [
        ("/app/one.txt", "bare"),
        ("/app/two.txt", "full"),
        ("/two.txt", "bare"),
        ("/only.txt", "o"),
        ("/app/three.txt", "app"),
        ("/app/app/two.txt", "full"),
    ] {
        assert_eq!(client.get(path).text(), expected, "{path}");
    }
}

#[test]
fn rfc9110_13_conditions_are_heeded() {
    let origin = Origin::named("app");
    let folder = Folder::new(&[("x.css", b"body{}")]);
    let world = World::with_files(&origin, &folder);
    let mut client = world.client();
    let tag = client.get("/x.css").field("etag").unwrap().to_string();
    let same = client.try_conditional(&format!("If-None-Match: \"x\", W/{tag}\r\n"));
    assert_eq!((same.status, same.field("etag"), same.field("content-length")), (304, Some(tag.as_str()), None));
    assert_eq!((same.field("cache-control"), same.field("content-type")), (Some("no-cache"), None));
    let mut status = |fields: &str| client.try_conditional(fields).status;
    assert_eq!(status("If-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), 304);
    assert_eq!(status("If-None-Match: \"x\"\r\nIf-Modified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n"), 200);
    assert_eq!(status("If-Match: \"x\"\r\n"), 412);
    assert_eq!(status(&format!("If-Match: {tag}\r\n")), 200);
    assert_eq!(status("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:36 GMT\r\n"), 412);
    assert_eq!(origin.conns(), 0);
}

impl Client {
    /// Takes so little in advance that a large answer cannot be on its way as a whole.
    fn narrow(self) -> Self {
        rustix::net::sockopt::set_socket_recv_buffer_size(&self.stream, 64 << 10).unwrap();
        self
    }

    fn try_conditional(&mut self, fields: &str) -> Answered {
        self.ask("GET", "/x.css", fields)
    }
}

#[test]
fn rfc9110_14_ranges_are_served() {
    let origin = Origin::named("app");
    let folder = Folder::new(&[("x.css", b"0123456789")]);
    let world = World::with_files(&origin, &folder);
    let mut client = world.client();
    let tag = client.get("/x.css").field("etag").unwrap().to_string();
    let mut check = |fields: &str, status, range: Option<&str>, body: &str| {
        let answer = client.ask("GET", "/x.css", fields);
        assert_eq!((answer.status, answer.field("content-range"), answer.text()), (status, range, body), "{fields}");
    };
    check("Range: bytes=2-4\r\n", 206, Some("bytes 2-4/10"), "234");
    check("Range: bytes=-3\r\n", 206, Some("bytes 7-9/10"), "789");
    check("Range: bytes=8-\r\n", 206, Some("bytes 8-9/10"), "89");
    check("Range: bytes=10-\r\n", 416, Some("bytes */10"), "");
    check("Range: bytes=0-1,3-4\r\n", 200, None, "0123456789");
    check(&format!("Range: bytes=2-4\r\nIf-Range: {tag}\r\n"), 206, Some("bytes 2-4/10"), "234");
    check("Range: bytes=2-4\r\nIf-Range: \"x\"\r\n", 200, None, "0123456789");
    let head = client.ask("HEAD", "/x.css", "Range: bytes=2-4\r\n");
    assert_eq!((head.status, head.field("content-length")), (200, Some("10")));
}

#[test]
fn rfc9110_12_5_3_a_smaller_sibling_is_served_to_who_takes_it() {
    let origin = Origin::named("app");
    let folder = Folder::new(&[("x.css", b"long long"), ("x.css.br", b"br"), ("x.css.gz", b"gzi"), ("p.png", b"png")]);
    folder.write("p.png.gz", b"never looked for");
    let world = World::with_files(&origin, &folder);
    let mut client = world.client();
    let mut check = |accept: &str, coding: Option<&str>, body: &str| {
        let answer = client.ask("GET", "/x.css", accept);
        assert_eq!((answer.field("content-encoding"), answer.text()), (coding, body), "{accept}");
        assert_eq!(answer.field("vary"), Some("Accept-Encoding"));
        assert_eq!(answer.field("content-type"), Some("text/css; charset=utf-8"));
        answer.field("etag").unwrap().to_string()
    };
    let tags = [
        check("", None, "long long"),
        check("Accept-Encoding: gzip, br\r\n", Some("br"), "br"),
        check("Accept-Encoding: gzip, br;q=0\r\n", Some("gzip"), "gzi"),
    ];
    check("Accept-Encoding: zstd\r\n", None, "long long");
    assert!(tags[0] != tags[1] && tags[1] != tags[2], "{tags:?}");
    let same = client.ask("GET", "/x.css", &format!("Accept-Encoding: br\r\nIf-None-Match: {}\r\n", tags[1]));
    assert_eq!((same.status, same.field("vary")), (304, Some("Accept-Encoding")));
    let png = client.ask("GET", "/p.png", "Accept-Encoding: gzip\r\n");
    assert_eq!((png.text(), png.field("vary")), ("png", None));
}

#[test]
fn large_files_arrive_whole_however_slowly_they_are_read() {
    let origin = Origin::named("app");
    let large: Vec<u8> = (0..6_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let folder = Folder::new(&[("large.bin", &large), ("x.css", b"small")]);
    let world = World::with_files(&origin, &folder);
    let mut slow = world.client();
    slow.send(get("/large.bin") + &get("/x.css"));
    slow.stream.shutdown(Shutdown::Write).unwrap();
    // While it does not read, others are served by the same worker.
    let mut other = world.client();
    for _ in 0..20 {
        assert_eq!(other.get("/x.css").text(), "small");
    }
    assert!(slow.read().body == large);
    assert_eq!(slow.read().text(), "small");
    slow.expect_end();
    let part = other.ask("GET", "/large.bin", "Range: bytes=100000-4000000\r\n");
    assert!(part.status == 206 && part.body == large[100_000..=4_000_000]);
}

#[test]
fn a_file_with_a_hash_in_its_name_arrives_whole_by_the_short_way() {
    let origin = Origin::named("app");
    let large: Vec<u8> = (0..20_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let (one, other) = ("large-3f2a1b9c.bin", "hundred-3f2a1b9d.bin");
    let folder = Folder::new(&[(one, &large), (other, &large[..100 << 10]), ("x.css", b"small")]);
    let world = World::with_files(&origin, &folder);
    let mut client = world.client();
    for _ in 0..50 {
        client.send(get(&format!("/{other}")) + &get("/x.css"));
        assert!(client.read().body == large[..100 << 10]);
        assert_eq!(client.read().text(), "small");
        let part = client.ask("GET", &format!("/{other}"), "Range: bytes=1000-90000\r\n");
        assert!(part.status == 206 && part.body == large[1000..=90_000]);
    }
    let mut client = world.client().narrow();
    for _ in 0..3 {
        client.send(get(&format!("/{one}")) + &get("/x.css"));
        assert!(client.read().body == large);
        assert_eq!(client.read().text(), "small");
    }
}

#[test]
fn files_are_served_over_tls() {
    let origin = Origin::named("app");
    let large: Vec<u8> = (0..2_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let folder = Folder::new(&[("large.bin", &large), ("x.css", b"small")]);
    let world = World::with_files(&origin, &folder);
    let mut client = BufReader::new(world.secure("app.test"));
    for (path, expected) in [("/x.css", &b"small"[..]), ("/large.bin", &large), ("/x.css", b"small")] {
        let answer = securing::ask(&mut client, &get(path));
        assert!(answer.status == 200 && answer.body == expected, "{path}: {}", answer.head);
    }
}

#[test]
fn what_is_not_in_memory_is_fetched_by_the_helper() {
    let origin = Origin::new(|seen| ok(seen.head.split(' ').nth(1).unwrap().as_bytes()));
    let large: Vec<u8> = (0..3_000_000u32).map(|i| (i * 7 % 251) as u8).collect();
    let folder = Folder::new(&[("large.bin", &large), ("x.css", b"long long"), ("x.css.br", b"br")]);
    let world = World::with_files(&origin, &folder);
    world.proxy.as_ref().unwrap().shared.helper.all_is_cold.store(true, Ordering::SeqCst);
    for name in ["large.bin", "x.css"] {
        let file = fs::File::open(folder.0.path().join("public").join(name)).unwrap();
        file.sync_all().unwrap();
        rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    }
    let mut client = world.client();
    // Pipelined: what follows a request whose file is looked for must neither be lost nor overtake it.
    client.send(get("/large.bin") + &get("/none.css") + &get("/x.css") + &get("/x.css"));
    assert!(client.read().body == large);
    assert_eq!(client.read().text(), "/none.css");
    assert_eq!((client.read().text(), client.read().text()), ("long long", "long long"));
    assert_eq!(client.ask("GET", "/x.css", "Accept-Encoding: br\r\n").text(), "br");
}

#[test]
fn a_file_that_becomes_shorter_cuts_the_response_visibly() {
    let origin = Origin::named("app");
    let folder = Folder::new(&[("large.bin", &vec![7; 30 << 20])]);
    let world = World::with_files(&origin, &folder);
    let mut client = world.client().narrow();
    client.send(get("/large.bin"));
    let head = read_head(&mut client.reader).unwrap();
    assert_eq!(field(&head, "content-length"), Some("31457280"));
    fs::File::options().write(true).open(folder.0.path().join("public/large.bin")).unwrap().set_len(1 << 20).unwrap();
    let mut body = Vec::new();
    let end = client.reader.read_to_end(&mut body);
    assert!(body.len() < 30 << 20 && body.iter().all(|b| *b == 7), "nothing is put in the place of what is gone");
    assert!(end.is_err(), "a reset, not an end");
}

#[test]
fn a_new_table_is_seen_at_once_and_former_folders_are_looked_in_last() {
    let origin = Origin::named("app");
    let (old, new) = (Folder::new(&[("old.js", b"old"), ("x.js", b"old")]), Folder::new(&[("x.js", b"new")]));
    new.write("new.js", b"new");
    let world = World::with_files(&origin, &old);
    let mut client = world.client();
    let mut check = |expected: [&str; 3]| {
        let got = ["/old.js", "/x.js", "/new.js"].map(|path| client.get(path).text().to_string());
        assert_eq!(got, expected);
    };
    let (first, second) = (old.root(), new.root());
    check(["old", "old", "app"]);
    world.publish_files(origin.endpoint, vec![second.clone(), first]);
    check(["old", "new", "new"]);
    world.publish_files(origin.endpoint, vec![second]);
    check(["app", "new", "new"]);
    world.publish_files(origin.endpoint, vec![]);
    check(["app", "app", "app"]);
}

#[test]
fn a_file_that_is_replaced_is_served_anew_at_once() {
    let origin = Origin::named("app");
    let folder = Folder::new(&[("x.css", b"one")]);
    let world = World::with_files(&origin, &folder);
    let mut client = world.client();
    for content in ["one", "two!", "three"] {
        let path = folder.0.path().join("public/x.css");
        fs::write(folder.0.path().join("next"), content).unwrap();
        fs::rename(folder.0.path().join("next"), path).unwrap();
        let answer = client.get("/x.css");
        assert_eq!(
            (answer.text(), answer.field("content-length")),
            (content, Some(content.len().to_string().as_str()))
        );
    }
}

#[test]
fn an_idle_worker_keeps_no_file_open() {
    let origin = Origin::named("app");
    let folder = Folder::new(&[("x.css", b"one")]);
    let world = World::with_files(&origin, &folder);
    assert_eq!(world.client().get("/x.css").text(), "one");
    let path = fs::canonicalize(folder.0.path().join("public/x.css")).unwrap();
    let is_open = || {
        let fds = fs::read_dir("/proc/self/fd").unwrap().flatten();
        fds.filter_map(|fd| fs::read_link(fd.path()).ok()).any(|target| target == path)
    };
    assert!(is_open());
    wait_until("the file is closed", || !is_open());
}
