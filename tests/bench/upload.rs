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

fn main() {
    let sftp = world("Subsystem sftp internal-sftp");
    let pieces = world("");
    let peer = Peer::start(&sftp);
    let [mut ours, mut ours_cold, mut by_pieces] = <[Vec<f64>; 3]>::default();
    let [mut put, mut put_cold, mut scp, mut scp_cold] = <[Vec<f64>; 4]>::default();
    for n in 1..=RUNS {
        let (file, sent, connect) = deploy(&sftp, n);
        let bytes = fs::metadata(&file).unwrap().len();
        let rate = |took: Duration| bytes as f64 / 1e6 / took.as_secs_f64();
        ours.push(rate(sent));
        ours_cold.push(rate(sent + connect));
        for (is_cold, rates) in [(false, &mut put), (true, &mut put_cold)] {
            rates.push(rate(peer.sftp(&file, is_cold)));
        }
        for (is_cold, rates) in [(false, &mut scp), (true, &mut scp_cold)] {
            rates.push(rate(peer.scp(&file, is_cold)));
        }
        by_pieces.push(rate(deploy(&pieces, n).1));
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

fn world(sshd_lines: &str) -> (Server, Sshd, User) {
    let server = Server::start();
    let sshd = Sshd::with(&server, sshd_lines);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    (server, sshd, user)
}

/// The artifact, how long it took to send it, and to connect before.
fn deploy((server, _, user): &(Server, Sshd, User), n: u64) -> (PathBuf, Duration, Duration) {
    fs::write(user.project().join("movie.bin"), noise(n)).unwrap();
    // So that nobody makes a delta first, and every run makes a connection.
    let _ = fs::remove_dir_all(server.app("shop").join("bases"));
    let runtime = user.dir.path().join(format!("r{n}"));
    fs::create_dir(&runtime).unwrap();
    let mut command = user.command(&["deploy", "--yes", "--json", "--verbose"]);
    let ran = command.env("XDG_RUNTIME_DIR", runtime).output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr));
    assert!(ran.status.success(), "{out}{err}");
    let result: Value = serde_json::from_str(out.lines().last().unwrap()).unwrap();
    let ms = |text: &str| Duration::from_millis(text.parse().unwrap());
    let said = format!("{out}{err}");
    let sent = said.split_once(" arrived in ").and_then(|(_, rest)| rest.split_once(" ms")).expect("it tells").0;
    let connect = result["durations_ms"]["connect"].to_string();
    let artifacts = fs::read_dir(user.project().join(".tako/artifacts")).unwrap().flatten().map(|e| e.path());
    let newest = artifacts
        .filter(|path| path.extension().is_some_and(|e| e == "zst"))
        .max_by_key(|path| fs::metadata(path).unwrap().modified().unwrap());
    (newest.unwrap(), ms(sent), ms(&connect))
}

/// Plain OpenSSH to the same `sshd`.
struct Peer {
    dir: PathBuf,
    port: u16,
    options: Vec<String>,
    control: String,
}

impl Peer {
    fn start((server, sshd, _): &(Server, Sshd, User)) -> Peer {
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
