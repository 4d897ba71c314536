//! How fast an artifact of 50 MiB that does not compress comes to a server, over a real `sshd` on loopback: by `tako deploy`,
//! and the same file by plain `sftp` and `scp`, in turns; on a connection that stands, and with making one. Each turn begins
//! with another one, and each waits until the apps that were deployed before have started and the machine is at rest, because
//! encryption takes all of two cores. Prints min, median and max in MB/s, and the median of the ratios in each turn; judges
//! nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[path = "../it/sandbox.rs"]
mod sandbox;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use sandbox::{Server, Sshd, User};
use serde_json::Value;

const RUNS: u64 = 9;
/// Ours, sftp and scp, each on a connection that stands and with making one.
const WAYS: u64 = 6;
const SIZE: usize = 50 << 20;

/// The first has it built, the next makes a connection, to the third one stands.
const NAMES: [&str; 3] = ["built", "cold", "warm"];

struct World {
    servers: Vec<Server>,
    sshds: Vec<Sshd>,
    user: User,
}

fn main() {
    let sftp = World::new("Subsystem sftp internal-sftp");
    let pieces = World::new("");
    let peer = Peer::start(&sftp);
    let [mut ours, mut ours_cold, mut by_pieces] = <[Vec<f64>; 3]>::default();
    let [mut put, mut put_cold, mut scp, mut scp_cold] = <[Vec<f64>; 4]>::default();
    for n in 1..=RUNS {
        let file = sftp.build(n);
        let bytes = fs::metadata(&file).unwrap().len();
        let rate = |took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
        for turn in 0..WAYS {
            rest();
            match (n + turn) % WAYS {
                0 => ours.push(rate({
                    sftp.user.must(&["status", "--server", "warm"]);
                    sftp.deploy("warm", &[]).0
                })),
                1 => put.push(rate(peer.sftp(&file, false))),
                2 => scp.push(rate(peer.scp(&file, false))),
                3 => ours_cold.push(rate({
                    let (sent, connect) = sftp.deploy("cold", &["--no-mux"]);
                    sent + connect
                })),
                4 => put_cold.push(rate(peer.sftp(&file, true))),
                _ => scp_cold.push(rate(peer.scp(&file, true))),
            }
        }
        pieces.build(n);
        pieces.user.must(&["status", "--server", "warm"]);
        rest();
        by_pieces.push(rate(pieces.deploy("warm", &[]).0));
    }
    println!("{RUNS} runs each, in turns; {SIZE} bytes that do not compress, loopback SSH; MB/s");
    println!("{:<52} {:>8} {:>8} {:>8}", "", "min", "median", "max");
    for (what, rates) in [
        ("tako deploy, its upload", &ours),
        ("sftp put, on a connection that stands", &put),
        ("scp, on a connection that stands", &scp),
        ("tako deploy, connecting and its upload", &ours_cold),
        ("sftp put, connecting", &put_cold),
        ("scp, connecting", &scp_cold),
        ("tako deploy, its upload without sftp", &by_pieces),
    ] {
        row(what, rates);
    }
    let ratio = |of: &[f64], to: &[f64]| median(&of.iter().zip(to).map(|(of, to)| of / to).collect::<Vec<_>>());
    println!(
        "tako / sftp          {:>6.2} x    connecting  {:>6.2} x",
        ratio(&ours, &put),
        ratio(&ours_cold, &put_cold)
    );
    println!(
        "tako / scp           {:>6.2} x    connecting  {:>6.2} x",
        ratio(&ours, &scp),
        ratio(&ours_cold, &scp_cold)
    );
    println!("without sftp / with  {:>6.2} x", ratio(&by_pieces, &ours));
}

/// Until nine tenths of the processors' time are nobody's, or it is a busy machine.
fn rest() {
    const WINDOW: Duration = Duration::from_millis(100);
    const PATIENCE: Duration = Duration::from_secs(10);
    let until = Instant::now() + PATIENCE;
    let look = || -> (u64, u64) {
        let stat = fs::read_to_string("/proc/stat").unwrap();
        // proc(5): `cpu`, then user, nice, system, idle, iowait and more, in ticks.
        let ticks: Vec<u64> =
            stat.lines().next().unwrap().split_whitespace().skip(1).map(|n| n.parse().unwrap()).collect();
        (ticks[3] + ticks[4], ticks.iter().sum())
    };
    while Instant::now() < until {
        let (idle, all) = look();
        std::thread::sleep(WINDOW);
        let (idle_now, all_now) = look();
        if (idle_now - idle) * 10 >= (all_now - all) * 9 {
            return;
        }
    }
}

impl World {
    fn new(sshd_lines: &str) -> World {
        let servers: Vec<Server> = NAMES.iter().map(|_| Server::start()).collect();
        let sshds: Vec<Sshd> = servers.iter().map(|server| Sshd::with(server, sshd_lines)).collect();
        let user = User::new(&sshds[0]);
        sshds[1..].iter().for_each(|other| sshds[0].join(other));
        user.use_app("mixed", false);
        let mapped = format!("[envs.production]\nservers = {NAMES:?}");
        user.write("tako.toml", &user.read("tako.toml").replace("[envs.production]", &mapped));
        for (name, sshd) in NAMES.iter().zip(&sshds) {
            // What is known of a server has a part in how it is connected to: this connection is not to be kept.
            let port = sshd.port.to_string();
            user.must(&["servers", "add", "127.0.0.1", "--name", name, "--port", &port, "--no-mux"]);
        }
        World { servers, sshds, user }
    }

    /// The artifact of the next version, which no server has a base for.
    fn build(&self, n: u64) -> PathBuf {
        fs::write(self.user.project().join("movie.bin"), noise(n)).unwrap();
        for server in &self.servers {
            let _ = fs::remove_dir_all(server.app("shop").join("bases"));
        }
        self.user.must(&["deploy", "--yes", "--server", "built"]);
        let artifacts = fs::read_dir(self.user.project().join(".tako/artifacts")).unwrap().flatten().map(|e| e.path());
        let built = artifacts.filter(|path| {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with("artifact-cache-") && name.ends_with(".tar.zst")
        });
        built.max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap()).unwrap()
    }

    /// How long it took to send it, and to connect before.
    fn deploy(&self, server: &str, more: &[&str]) -> (Duration, Duration) {
        let ran = self.user.must(&[&["deploy", "--yes", "--json", "--verbose", "--server", server], more].concat());
        let result: Value = serde_json::from_str(ran.out.lines().last().unwrap()).unwrap();
        let said = format!("{}{}", ran.out, ran.err);
        let sent = said.split_once(" arrived in ").and_then(|(_, rest)| rest.split_once(" ms")).expect("it tells").0;
        let connect = result["durations_ms"]["connect"].as_u64().unwrap();
        (Duration::from_millis(sent.parse().unwrap()), Duration::from_millis(connect))
    }
}

/// Plain OpenSSH to the same `sshd`.
struct Peer {
    dir: PathBuf,
    port: u16,
    options: Vec<String>,
    control: String,
}

impl Peer {
    fn start(world: &World) -> Peer {
        let (server, sshd) = (&world.servers[0], &world.sshds[0]);
        let dir = server.dir.path().join("peer");
        fs::create_dir(&dir).unwrap();
        let options = sshd.options().split(' ').map(Into::into).collect();
        let control = format!("ControlPath={}", dir.join("c").display());
        let peer = Peer { dir, port: sshd.port, options, control };
        let mut master = peer.command("ssh", "-p", false);
        let started = master.args(["-f", "-N", "-M", "127.0.0.1"]).stderr(Stdio::null()).status().unwrap();
        assert!(started.success());
        peer
    }

    fn command(&self, program: &str, port: &str, is_cold: bool) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options).args(["-o", "Compression=no"]).arg(port).arg(self.port.to_string());
        command.args(["-o", if is_cold { "ControlPath=none" } else { &self.control }]);
        command
    }

    fn sftp(&self, file: &Path, is_cold: bool) -> Duration {
        let batch = self.dir.join("batch");
        fs::write(&batch, format!("put \"{}\" \"{}\"\n", file.display(), self.dir.join("there").display())).unwrap();
        let mut command = self.command("sftp", "-P", is_cold);
        command.arg("-b").arg(&batch).arg("127.0.0.1");
        self.time(command)
    }

    fn scp(&self, file: &Path, is_cold: bool) -> Duration {
        let mut command = self.command("scp", "-P", is_cold);
        command.arg(file).arg(format!("127.0.0.1:{}", self.dir.join("there").display()));
        self.time(command)
    }

    fn time(&self, mut command: Command) -> Duration {
        let started = Instant::now();
        let ran = command.stdin(Stdio::null()).output().unwrap();
        let took = started.elapsed();
        assert!(ran.status.success(), "{}", String::from_utf8_lossy(&ran.stderr));
        fs::remove_file(self.dir.join("there")).unwrap();
        took
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let mut exit = self.command("ssh", "-p", false);
        let _ = exit.args(["-O", "exit", "127.0.0.1"]).stderr(Stdio::null()).status();
    }
}

/// Other bytes for another `seed`.
fn noise(seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    (0..SIZE / 8).flat_map(|_| next()).collect()
}

fn row(what: &str, values: &[f64]) {
    assert!(!values.is_empty(), "{what}: nothing was measured");
    let (min, max) = (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(0.0, f64::max));
    println!("{what:<52} {min:>8.1} {:>8.1} {max:>8.1}", median(values));
}

fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted[sorted.len() / 2]
}
