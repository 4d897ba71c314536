//! How fast an artifact of 50 MiB that does not compress comes to a server, over a real `sshd` on loopback: by `tako deploy`,
//! and the same file by plain `sftp` and `scp`, in turns; on a connection that stands, and with making one. Prints min,
//! median and max in MB/s, and the ratio of the medians; judges nothing.
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
        let (sent, connect) = sftp.deploy("cold", &["--no-mux"]);
        ours_cold.push(rate(sent + connect));
        sftp.user.must(&["status", "--server", "warm"]);
        ours.push(rate(sftp.deploy("warm", &[]).0));
        for (is_cold, rates) in [(false, &mut put), (true, &mut put_cold)] {
            rates.push(rate(peer.sftp(&file, is_cold)));
        }
        for (is_cold, rates) in [(false, &mut scp), (true, &mut scp_cold)] {
            rates.push(rate(peer.scp(&file, is_cold)));
        }
        pieces.build(n);
        pieces.user.must(&["status", "--server", "warm"]);
        by_pieces.push(rate(pieces.deploy("warm", &[]).0));
    }
    println!("{RUNS} runs each, in turns; {SIZE} bytes that do not compress, loopback SSH; MB/s");
    println!("{:<52} {:>8} {:>8} {:>8}", "", "min", "median", "max");
    let ours = row("tako deploy, its upload", ours);
    let put = row("sftp put, on a connection that stands", put);
    let scp = row("scp, on a connection that stands", scp);
    let ours_cold = row("tako deploy, connecting and its upload", ours_cold);
    let put_cold = row("sftp put, connecting", put_cold);
    let scp_cold = row("scp, connecting", scp_cold);
    let by_pieces = row("tako deploy, its upload without sftp", by_pieces);
    println!("tako / sftp          {:>6.2} x    connecting  {:>6.2} x", ours / put, ours_cold / put_cold);
    println!("tako / scp           {:>6.2} x    connecting  {:>6.2} x", ours / scp, ours_cold / scp_cold);
    println!("without sftp / with  {:>6.2} x", by_pieces / ours);
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
            user.must(&["servers", "add", "127.0.0.1", "--name", name, "--port", &sshd.port.to_string()]);
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

/// Prints a line; its median.
fn row(what: &str, mut values: Vec<f64>) -> f64 {
    assert!(!values.is_empty(), "{what}: nothing was measured");
    values.sort_by(f64::total_cmp);
    let (min, median, max) = (values[0], values[values.len() / 2], values[values.len() - 1]);
    println!("{what:<52} {min:>8.1} {median:>8.1} {max:>8.1}");
    median
}
