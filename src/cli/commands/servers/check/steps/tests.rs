use super::*;
use crate::proto::Range;
use crate::proto::name::ServerName;
use crate::proto::target::Target;

fn server() -> Server {
    Server {
        name: ServerName::parse("fra1").unwrap(),
        host: "fra1".into(),
        port: None,
        user: None,
        description: None,
        target: None,
        ssh_options: Vec::new(),
    }
}

fn hello(clock_ms: u64) -> Hello {
    Hello {
        tako: "hello".into(),
        protocol: PROTOCOL,
        server: "0.1.0".into(),
        target: Target::parse("linux-x86_64-glibc").unwrap(),
        clock_ms,
        incoming: String::new(),
        hears_beats: false,
    }
}

fn info(free_bytes: u64, https: &[&str]) -> Info {
    Info {
        server: "0.1.0".into(),
        target: Target::parse("linux-x86_64-glibc").unwrap(),
        pid: 1,
        http: vec!["0.0.0.0:80".into(), "[::]:80".into()],
        https: https.iter().map(ToString::to_string).collect(),
        data_dir: "/opt/tako".into(),
        free_bytes,
        up_ms: None,
        cert_problems: Vec::new(),
    }
}

#[test]
fn what_ssh_makes_of_a_name_is_told_in_words() {
    let to = |by_way_of: Option<&str>| Resolved {
        host: "fra1.example.com".into(),
        user: "ana".into(),
        port: 2222,
        by_way_of: by_way_of.map(Into::into),
        keys: ["~/.ssh/a", "~/.ssh/b", "~/.ssh/c"].map(Into::into).into(),
    };
    let address: IpAddr = "203.0.113.7".parse().unwrap();
    let check = |to: &Resolved, addresses: &[IpAddr], there: &[&str], expected: &str| {
        assert_eq!(resolved(to, addresses, |key| there.contains(&key)), expected);
    };
    let agent = "ana@fra1.example.com port 2222 (203.0.113.7) · no key file, so an agent's";
    check(&to(None), &[address], &[], agent);
    let jump = "ana@fra1.example.com port 2222 · by way of bastion · key ~/.ssh/b";
    check(&to(Some("bastion")), &[], &["~/.ssh/b"], jump);
    let two = "ana@fra1.example.com port 2222 · keys ~/.ssh/a, ~/.ssh/c";
    check(&to(None), &[], &["~/.ssh/a", "~/.ssh/c"], two);
    let same = Resolved { host: "203.0.113.7".into(), ..to(None) };
    check(&same, &[address], &["~/.ssh/a"], "ana@203.0.113.7 port 2222 · key ~/.ssh/a");
}

#[test]
fn a_banner_is_found_behind_other_lines_and_nothing_else_is_one() {
    let check = |said: &[u8], expected: Option<&str>| assert_eq!(read_banner(said).as_deref(), expected);
    check(b"SSH-2.0-OpenSSH_9.2p1 Debian-2\r\nmore", Some("SSH-2.0-OpenSSH_9.2p1 Debian-2"));
    check(b"Welcome\r\nSSH-2.0-x\x1b[2J\r\n", Some("SSH-2.0-x"));
    check(b"HTTP/1.1 400 Bad Request\r\n\r\n", None);
    check(b"", None);
    check(&[b'x'; 20_000], None);
    check(&b"no\n".repeat(20_000), None);
}

#[test]
fn a_protocol_that_is_not_ours_ends_the_walk() {
    let text = |found: Result<Found>| match found {
        Ok(Found::Fine(text)) => text,
        other => panic!("{other:?}"),
    };
    let expected = format!("tako-server 0.1.0 · linux-x86_64-glibc · protocol {}", PROTOCOL.max);
    assert_eq!(text(version(&server(), &hello(0))), expected);
    let newer = Hello { protocol: Range { min: PROTOCOL.max + 1, max: PROTOCOL.max + 2 }, ..hello(0) };
    assert_eq!(version(&server(), &newer).unwrap_err().kind(), Kind::Incompatible);
}

#[test]
fn what_is_odd_is_told_and_does_not_end_the_walk() {
    let at = |ms| UNIX_EPOCH + Duration::from_millis(ms);
    assert_eq!(clock(&hello(90_000), at(100_000)), Found::Fine("10.0s away from this one".into()));
    let odd = "1m 40s away from this one; certificates depend on it";
    assert_eq!(clock(&hello(0), at(100_000)), Found::Odd(odd.into()));
    assert_eq!(clock(&hello(200_000), at(100_000)), Found::Odd(odd.into()));

    assert_eq!(disk(&info(12_000_000_000, &[])), Found::Fine("12 GB free in /opt/tako".into()));
    let odd = "only 900 MB free in /opt/tako; a deploy may need more";
    assert_eq!(disk(&info(900_000_000, &[])), Found::Odd(odd.into()));

    let fine = "http on 0.0.0.0:80, [::]:80 · https on 0.0.0.0:443";
    assert_eq!(proxy(&info(0, &["0.0.0.0:443"])), Found::Fine(fine.into()));
    assert_eq!(proxy(&info(0, &[])), Found::Odd("http on 0.0.0.0:80, [::]:80 · nothing for https".into()));
}
