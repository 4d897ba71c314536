//! Three networks with a server's place on each: a network namespace behind a pair of virtual cables, with an address and
//! a name. They can be slow, and go away without a word, as networks do.
//!
//! All of it lies in namespaces of the test's own ([`crate::alone`]), so that no name or address can collide with
//! anything, and nothing is left of it, also not by a test that is killed. Where that cannot be had there are loopback
//! ports with a relay in front of each, and the reason is printed.

use std::fs;
use std::io::Write;
use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::alone;
use crate::relay::Relay;
use crate::sandbox::{Place, Sshd};

const NAMES: [&str; 3] = ["one", "two", "three"];
/// Network, mounts (names of networks, /etc/hosts) and processes.
const NAMESPACES: [&str; 6] = ["-n", "-m", "-p", "--fork", "--kill-child", "--mount-proc"];
/// `$@` are the names. Everything that is used later is tried here.
const LAY: &str = r#"set -e
mkdir -p /run/netns
mount -t tmpfs networks /run/netns
ip link set lo up
cp /etc/hosts /run/netns/.hosts
n=0
for name; do
    n=$((n + 1))
    ip netns add $name
    ip link add $name type veth peer name eth0 netns $name
    ip addr add 10.47.$n.1/24 dev $name
    ip link set $name up
    ip -n $name addr add 10.47.$n.2/24 dev eth0
    ip -n $name link set lo up
    ip -n $name link set eth0 up
    tc qdisc add dev $name root tbf rate 1mbit burst 32kbit latency 400ms
    tc qdisc del dev $name root
    nsenter --net=/run/netns/$name true
    echo "10.47.$n.2 $name.test" >>/run/netns/.hosts
done
mount --bind /run/netns/.hosts /etc/hosts"#;

pub enum Net {
    Cables,
    /// What leads to each server.
    Relays(OnceLock<Relay>, OnceLock<Relay>, OnceLock<Relay>),
}

impl Net {
    /// For `test`, which is `module::name`; `None` when it was done by the program that was started again.
    pub fn of(test: &str) -> Option<Net> {
        if alone::is_alone() {
            run("sh", &[&["-c", LAY, "sh"], &NAMES[..]].concat());
            return Some(Net::Cables);
        }
        match cannot() {
            None => {
                alone::again(test, &NAMESPACES);
                None
            }
            Some(why) => {
                let _ = writeln!(std::io::stderr(), "on loopback ports, without network namespaces: {why}");
                Some(Net::Relays(OnceLock::new(), OnceLock::new(), OnceLock::new()))
            }
        }
    }

    pub fn place(&self, n: usize) -> Place {
        match self {
            Net::Relays(..) => Place::here(),
            Net::Cables => Place {
                host: format!("{}.test", NAMES[n]),
                address: [10, 47, n as u8 + 1, 2].into(),
                namespace: Some(Path::new("/run/netns").join(NAMES[n])),
            },
        }
    }

    /// Puts what is needed in front of server `n`.
    pub fn lead(&self, n: usize, sshd: &mut Sshd) {
        if let Some(place) = self.relay_place(n) {
            let relay = place.get_or_init(|| Relay::start(sshd.port));
            sshd.through(relay.port);
        }
    }

    /// A megabit per second up to server `n`.
    pub fn slow(&self, n: usize) {
        match self.relay(n) {
            Some(relay) => relay.be_slow(true),
            None => {
                let shape = ["root", "tbf", "rate", "1mbit", "burst", "32kbit", "latency", "400ms"];
                run("tc", &[&["qdisc", "add", "dev", NAMES[n]], &shape[..]].concat());
            }
        }
    }

    /// As fast as ever.
    pub fn relieve(&self, n: usize) {
        match self.relay(n) {
            Some(relay) => relay.be_slow(false),
            None => run("tc", &["qdisc", "del", "dev", NAMES[n], "root"]),
        }
    }

    /// What is sent to server `n`, and by it, goes nowhere, and nobody is told.
    pub fn cut(&self, n: usize) {
        match self.relay(n) {
            Some(relay) => relay.die(),
            None => run("ip", &["-n", NAMES[n], "link", "set", "eth0", "down"]),
        }
    }

    /// The user's own end, so that who connects is told at once; relays cannot tell.
    pub fn unplug(&self, n: usize) {
        match self.relay(n) {
            Some(relay) => relay.die(),
            None => run("ip", &["link", "set", NAMES[n], "down"]),
        }
    }

    /// All of it is as it was.
    pub fn mend(&self, n: usize) {
        match self.relay(n) {
            Some(relay) => relay.revive(),
            None => {
                run("ip", &["-n", NAMES[n], "link", "set", "eth0", "up"]);
                run("ip", &["link", "set", NAMES[n], "up"]);
            }
        }
    }

    fn relay(&self, n: usize) -> Option<&Relay> {
        Some(self.relay_place(n)?.get().expect("a relay leads to it"))
    }

    fn relay_place(&self, n: usize) -> Option<&OnceLock<Relay>> {
        match self {
            Net::Cables => None,
            Net::Relays(one, two, three) => Some([one, two, three][n]),
        }
    }
}

/// Why there can be no networks of our own, found out by making them.
fn cannot() -> Option<&'static str> {
    static WHY: OnceLock<Option<String>> = OnceLock::new();
    let tried = WHY.get_or_init(|| {
        if !rustix::process::geteuid().is_root() {
            return Some("that takes root".into());
        }
        let _ = fs::create_dir_all("/run/netns");
        let ran = Command::new("unshare").args(NAMESPACES).args(["sh", "-c", LAY, "sh"]).args(NAMES).output();
        match ran {
            Ok(ran) if ran.status.success() => None,
            Ok(ran) => Some(String::from_utf8_lossy(&ran.stderr).trim().replace('\n', "; ")),
            Err(e) => Some(format!("unshare: {e}")),
        }
    });
    tried.as_deref()
}

fn run(program: &str, args: &[&str]) {
    let ran = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(ran.status.success(), "{program} {args:?}: {}", String::from_utf8_lossy(&ran.stderr));
}
