//! What an app pays for saying a gigabyte: how long each of its writes takes when `tako-server` keeps its log, beside the
//! same program writing to `/dev/null` and to `cat > /dev/null`; and what the server pays: memory, processor, disk. Prints
//! min, median, p99 and max; judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[path = "../it/sandbox.rs"]
mod sandbox;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Instant;

use sandbox::{Server, Sshd, User, wait_for};

const RUNS: usize = 3;
const CONFIG: &str = "name = \"shop\"\nruntime = \"binary\"\nmain = \"flood\"\n\n[envs.production]\n\
                      route = \"shop.localhost\"\n";
/// Writes a gigabyte in pieces of 4 KiB, each 32 lines with their number, as fast as it is let; then how long it took and
/// each write, to the file that it is given, or to one in its data folder while it answers probes.
const APP: &str = r#"
use std::io::Write;
use std::path::PathBuf;
use std::time::Instant;

fn main() {
    let served = std::env::var_os("TAKO_DATA_DIR").map(PathBuf::from);
    if served.is_some() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        println!("TAKO:READY:{}", listener.local_addr().unwrap().port());
        std::thread::spawn(|| serve(listener));
    }
    let file = served.clone().map_or_else(|| std::env::args().nth(1).unwrap().into(), |dir| dir.join("times"));
    let (mut out, mut times) = (std::io::stdout().lock(), Vec::with_capacity(1 << 18));
    let begun = Instant::now();
    for n in 0..1u32 << 18 {
        let text: String = (0..32).map(|line| format!("{:0>127}\n", n * 32 + line)).collect();
        let started = Instant::now();
        out.write_all(text.as_bytes()).unwrap();
        out.flush().unwrap();
        times.push(started.elapsed().as_nanos() as u64);
    }
    let mut text = format!("{}\n", begun.elapsed().as_millis());
    for time in times { text += &format!("{time}\n"); }
    std::fs::write(file.with_extension("part"), text).unwrap();
    std::fs::rename(file.with_extension("part"), &file).unwrap();
    while served.is_some() { std::thread::park(); }
}

fn serve(listener: std::net::TcpListener) {
    for stream in listener.incoming().flatten() {
        std::thread::spawn(move || {
            let (mut stream, mut buffer) = (stream, [0; 4096]);
            while std::io::Read::read(&mut stream, &mut buffer).is_ok_and(|n| n > 0) {
                let _ = stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n");
            }
        });
    }
}
"#;

fn main() {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    let program = user.project().join("flood");
    let source = user.dir.path().join("flood.rs");
    fs::write(&source, APP).unwrap();
    assert!(Command::new("rustc").args(["-O", "-o"]).arg(&program).arg(&source).status().unwrap().success());
    fs::write(user.project().join("tako.toml"), CONFIG).unwrap();
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);

    println!("1 GiB in 262,144 writes of 4 KiB (32 lines each); microseconds a write, the middle one of {RUNS} runs");
    println!("{:<28} {:>9} {:>9} {:>9} {:>9} {:>12}", "", "min", "median", "p99", "max", "MB/s");
    let times = user.dir.path().join("times");
    row("to /dev/null", || by_hand(&program, &times, false));
    row("to `cat > /dev/null`", || by_hand(&program, &times, true));
    let before = processor_ms(server.pid());
    let mut round = 0;
    row("kept by tako-server", || {
        round += 1;
        fs::write(user.project().join("round"), round.to_string()).unwrap();
        let times = server.app("shop").join("shared/data/times");
        let _ = fs::remove_file(&times);
        user.must(&["deploy", "--yes"]);
        wait_for("the end of the flood", || fs::read_to_string(&times).ok())
    });

    let cpu = (processor_ms(server.pid()) - before) / RUNS as u64;
    println!("\nserver, per GiB: {:.1} s of processor, deploy included", cpu as f64 / 1000.0);
    let status = fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    for (name, what) in [("VmRSS:", "now"), ("VmHWM:", "at most")] {
        let kb: f64 =
            status.lines().find_map(|l| l.strip_prefix(name)).unwrap().trim().trim_end_matches(" kB").parse().unwrap();
        println!("server, resident memory {what}: {:.1} MiB", kb / 1024.0);
    }
    let dir = server.app("shop").join("shared/logs");
    let files = fs::read_dir(dir).unwrap().flatten().filter(|e| e.file_name().to_string_lossy().starts_with("app.log"));
    let kept: u64 = files.map(|e| e.metadata().unwrap().len()).sum();
    println!("kept on disk: {:.1} MiB of {RUNS} GiB", kept as f64 / (1 << 20) as f64);

    println!("\nreading what is kept, through ssh, wall time in ms");
    for args in [&["logs", "--lines", "100"][..], &["logs", "--grep", "nowhere"], &["logs", "--since", "1h", "--json"]]
    {
        let started = Instant::now();
        let ran = user.must(args);
        println!(
            "tako {:<36} {:>8} {:>10} lines",
            args.join(" "),
            started.elapsed().as_millis(),
            ran.out.lines().count()
        );
    }
}

fn by_hand(program: &Path, times: &Path, through_cat: bool) -> String {
    let mut cat = through_cat.then(|| {
        let sink = fs::File::create("/dev/null").unwrap();
        Command::new("cat").stdin(Stdio::piped()).stdout(sink).spawn().unwrap()
    });
    let out: Stdio = match cat.as_mut().and_then(|cat| cat.stdin.take()) {
        Some(pipe) => pipe.into(),
        None => fs::File::create("/dev/null").unwrap().into(),
    };
    assert!(Command::new(program).arg(times).stdout(out).status().unwrap().success());
    if let Some(mut cat) = cat {
        cat.wait().unwrap();
    }
    fs::read_to_string(times).unwrap()
}

/// The run whose median is in the middle.
fn row(what: &str, mut run: impl FnMut() -> String) {
    let mut runs: Vec<(u64, Vec<u64>)> = (0..RUNS)
        .map(|_| {
            let text = run();
            let mut lines = text.lines().map(|l| l.parse::<u64>().unwrap());
            let took = lines.next().unwrap();
            let mut times: Vec<u64> = lines.collect();
            times.sort_unstable();
            (took, times)
        })
        .collect();
    runs.sort_by_key(|(_, times)| times[times.len() / 2]);
    let (took, times) = &runs[RUNS / 2];
    let us = |at: usize| times[at] as f64 / 1000.0;
    let (last, megabytes) = (times.len() - 1, (1u64 << 30) as f64 / 1e6);
    println!(
        "{what:<28} {:>9.1} {:>9.1} {:>9.1} {:>9.1} {:>12.0}",
        us(0),
        us(last / 2),
        us(last * 99 / 100),
        us(last),
        megabytes * 1000.0 / *took as f64
    );
}

/// User and system time of a process.
fn processor_ms(pid: u32) -> u64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    let after = stat.rsplit_once(')').unwrap().1;
    let ticks: u64 = after.split_whitespace().skip(11).take(2).map(|t| t.parse::<u64>().unwrap()).sum();
    // A tick is 10 ms on every Linux that we know.
    ticks * 10
}
