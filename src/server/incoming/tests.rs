use std::os::unix::fs::symlink;

use super::*;

const NAME: &str = "shop.aa.tar.zst";

struct World {
    _dir: tempfile::TempDir,
    layout: Layout,
}

impl World {
    fn new() -> World {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        fs::create_dir(layout.incoming()).unwrap();
        World { _dir: dir, layout }
    }

    fn at(&self, name: &str) -> PathBuf {
        self.layout.incoming().join(name)
    }

    fn claim(&self, of: u64) -> Claimed {
        claim(&self.layout, NAME, of, &AtomicBool::new(false)).unwrap()
    }

    fn put(&self, offset: u64, of: u64, bytes: &[u8]) -> Result<u64> {
        let app = AppId::parse("shop").unwrap();
        put(&self.layout, &Piece { app, file: NAME.into(), offset, of, data: STANDARD.encode(bytes) })
    }

    fn names(&self) -> Vec<String> {
        let mut names: Vec<String> = entries(&self.layout.incoming())
            .iter()
            .map(|e| e.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }
}

fn sha256(bytes: &[u8]) -> Option<String> {
    let mut hash = Sha256::new();
    hash.update(bytes);
    Some(hash.finish())
}

#[test]
fn what_was_claimed_is_out_of_reach_of_who_wrote_it_before() {
    let w = World::new();
    let part = w.at(&part_of(NAME));
    fs::write(&part, b"first half").unwrap();
    let stale = OpenOptions::new().append(true).open(&part).unwrap();
    assert_eq!(w.claim(20), Claimed { bytes: 10, sha256: sha256(b"first half") });
    stale.write_all_at(b"late bytes", 10).unwrap();
    (&stale).write_all(b"and more").unwrap();
    assert_eq!(fs::read(&part).unwrap(), b"first half");
    assert_eq!(w.names(), [part_of(NAME)]);
}

#[test]
fn what_cannot_be_the_start_of_it_goes() {
    let w = World::new();
    let part = w.at(&part_of(NAME));
    let nothing = || Claimed { bytes: 0, sha256: None };
    let check = |what: &str| {
        assert_eq!(w.claim(3), nothing(), "{what}");
        assert!(w.names().is_empty(), "{what}: {:?}", w.names());
    };
    check("nothing");
    fs::write(&part, b"").unwrap();
    check("empty");
    fs::write(&part, b"four").unwrap();
    check("longer");
    fs::create_dir(&part).unwrap();
    check("a folder");
    symlink("/etc/hostname", &part).unwrap();
    check("a link");
    assert!(std::process::Command::new("mkfifo").arg(&part).status().unwrap().success());
    check("a pipe");
    fs::write(w.at(NAME), b"four").unwrap();
    check("a whole one of another size");
    fs::write(w.at(NAME), b"one").unwrap();
    fs::write(&part, b"on").unwrap();
    assert_eq!(claim(&w.layout, NAME, 0, &AtomicBool::new(false)).unwrap(), nothing());
    assert!(w.names().is_empty(), "asked to forget it");
    for bad in ["", "../x", ".x", "a/b", &"x".repeat(251)] {
        assert_eq!(claim(&w.layout, bad, 3, &AtomicBool::new(false)).unwrap_err().kind(), Kind::Refused, "{bad:?}");
    }
}

#[test]
fn all_of_it_needs_no_more_bytes() {
    let w = World::new();
    fs::write(w.at(&part_of(NAME)), b"whole").unwrap();
    assert_eq!(w.claim(5), Claimed { bytes: 5, sha256: sha256(b"whole") });
    assert_eq!(w.names(), [NAME]);
    assert_eq!(w.claim(5), Claimed { bytes: 5, sha256: None });
    fs::write(w.at(&part_of(NAME)), b"who").unwrap();
    w.claim(5);
    assert_eq!(w.names(), [NAME]);
}

#[test]
fn a_client_that_is_gone_ends_the_copy_and_what_was_there_stays() {
    let w = World::new();
    fs::write(w.at(&part_of(NAME)), b"first").unwrap();
    let gone = claim(&w.layout, NAME, 9, &AtomicBool::new(true)).unwrap_err();
    assert_eq!(gone.kind(), Kind::Interrupted);
    assert_eq!(w.names(), [part_of(NAME)]);
    assert_eq!(w.claim(9).bytes, 5);
}

#[test]
fn pieces_make_a_whole_in_their_order_alone() {
    let w = World::new();
    fs::write(w.at(&part_of(NAME)), b"of before").unwrap();
    assert_eq!(w.put(0, 9, b"one").unwrap(), 3);
    let refused = |result: Result<u64>| assert_eq!(result.unwrap_err().kind(), Kind::Refused);
    refused(w.put(6, 9, b"x"));
    refused(w.put(2, 9, b"x"));
    refused(w.put(3, 9, b"more than 6"));
    refused(w.put(u64::MAX, 9, b"x"));
    refused(w.put(3, 9, b""));
    assert_eq!(w.put(3, 9, b"two").unwrap(), 6);
    assert_eq!(w.names(), [part_of(NAME)]);
    assert_eq!(w.put(6, 9, b"six").unwrap(), 9);
    assert_eq!(w.names(), [NAME]);
    assert_eq!(fs::read(w.at(NAME)).unwrap(), b"onetwosix");
    assert_eq!(w.put(0, u64::MAX, b"x").unwrap_err().kind(), Kind::Io);
    let app = AppId::parse("shop").unwrap();
    refused(put(&w.layout, &Piece { app, file: NAME.into(), offset: 0, of: 3, data: "*".into() }));
}

#[test]
fn a_piece_goes_through_no_link() {
    let w = World::new();
    let outside = w.layout.data().join("outside");
    fs::write(&outside, b"abc").unwrap();
    symlink(&outside, w.at(&part_of(NAME))).unwrap();
    assert!(w.put(3, 9, b"x").is_err());
    assert_eq!(w.put(0, 9, b"x").unwrap(), 1);
    assert_eq!(fs::read(&outside).unwrap(), b"abc");
}

#[test]
fn old_uploads_go_and_of_the_others_the_youngest_stay() {
    const HOUR: u64 = 3600;
    let left = |found: &[(&str, u64, u64)], room: u64| {
        let lying = |&(name, bytes, seconds): &(&str, u64, u64)| Lying {
            path: name.into(),
            bytes,
            age: Duration::from_secs(seconds),
        };
        let gone = let_go(found.iter().map(lying).collect(), room);
        let stays = found.iter().map(|f| f.0).filter(|name| !gone.contains(&PathBuf::from(name)));
        stays.collect::<Vec<_>>().join(" ")
    };
    assert_eq!(left(&[("a", 5, HOUR), ("b", 5, 25 * HOUR), ("c", 5, 0)], 100), "a c");
    assert_eq!(left(&[("a", 60, 3 * HOUR), ("b", 60, HOUR), ("c", 30, 5 * HOUR)], 100), "b c");
    // What is arriving may be as large as it is.
    assert_eq!(left(&[("a", 500, 60), ("b", 60, HOUR)], 100), "a b");
    assert_eq!(left(&[("a", 500, 60), ("b", 60, HOUR)], 0), "a");
    assert_eq!(left(&[("folder", 0, HOUR)], 0), "folder");
    assert_eq!(left(&[], 0), "");
}

#[test]
fn an_app_forgets_its_own_uploads_alone() {
    let w = World::new();
    let hash = "ab".repeat(32);
    let names = [
        format!("shop.{hash}.tar.zst.part"),
        format!("shop.{hash}.0011.delta"),
        format!("shop.staging.{hash}.tar.zst.part"),
        format!("shop2.{hash}.tar.zst"),
        "shop.other".to_string(),
    ];
    names.iter().for_each(|name| fs::write(w.at(name), b"x").unwrap());
    forget(&w.layout, &AppId::parse("shop").unwrap());
    let mut left = names[2..].to_vec();
    left.sort();
    assert_eq!(w.names(), left);
}
