//! What reading the sources costs: `tako deploy` up to where it looks for a server, which is git's answers, every file
//! read and hashed, and the version made of it, beside `sha256sum` of the same files; and the way of 50,000 files into
//! an artifact. Prints min, median and max; judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout)]

mod rows;

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use rows::{heading, row};

const RUNS: usize = 11;
/// A large web project without its packages.
const TREE: (usize, usize) = (20_000, 10_000);
/// Small files, as many as there are in the largest repositories.
const MANY: (usize, usize) = (50_000, 1_000);

fn main() {
    let dir = tempfile::tempdir().unwrap();
    let tree = dir.path().join("tree");
    make(&tree, TREE);
    println!("{} files of {} bytes; {RUNS} runs each, in turn; milliseconds", TREE.0, TREE.1);
    heading();
    collect(&tree, dir.path());
    sha256sum(&tree);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        ours.push(collect(&tree, dir.path()));
        theirs.push(sha256sum(&tree));
    }
    let (ours, theirs) = (row("tako, from start to version", ours), row("find | xargs sha256sum", theirs));
    println!("ratio of the medians {:.2}", ours / theirs);
    fs::remove_dir_all(&tree).unwrap();

    let many = dir.path().join("many");
    make(&many, MANY);
    println!("\n{} files of {} bytes: collected, copied, packed, unpacked, deployed", MANY.0, MANY.1);
    collect(&many, dir.path());
    row("collect", (0..RUNS).map(|_| collect(&many, dir.path())).collect());
    let started = Instant::now();
    assert!(tako(&many, dir.path()).args(["rehearse", "--quiet"]).status().unwrap().success());
    row("tako rehearse, with its server and all", vec![started.elapsed()]);
    row("collect, none touched since", (0..RUNS).map(|_| collect(&many, dir.path())).collect());
}

fn tako(project: &Path, home: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tako"));
    command.current_dir(project).env("TAKO_HOME", home.join("home")).env("HOME", home).stdin(Stdio::null());
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

/// There is no server to deploy to, which is found out right behind the version.
fn collect(project: &Path, home: &Path) -> Duration {
    let started = Instant::now();
    let ended = tako(project, home).args(["deploy", "--yes"]).status().unwrap();
    let took = started.elapsed();
    assert_eq!(ended.code(), Some(3), "a deploy without a server");
    took
}

fn sha256sum(dir: &Path) -> Duration {
    let started = Instant::now();
    let line = "find . -path ./.git -prune -o -type f -print0 | xargs -0 sha256sum";
    assert!(Command::new("sh").args(["-c", line]).current_dir(dir).stdout(Stdio::null()).status().unwrap().success());
    started.elapsed()
}

/// A repository with all of it committed.
fn make(root: &Path, (files, size): (usize, usize)) {
    let mut seed = 1u64;
    for n in 0..files {
        let folder = root.join(format!("src/{}/{}", n % 50, n % 1000 / 50));
        fs::create_dir_all(&folder).unwrap();
        let mut bytes = Vec::with_capacity(size);
        while bytes.len() < size {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            bytes.extend(format!("export const value = {};\n", seed >> 40).bytes());
        }
        bytes.truncate(size);
        fs::write(folder.join(format!("{n}.js")), bytes).unwrap();
    }
    fs::write(root.join("run"), "#!/usr/bin/env python3\nimport os, http.server as h\nh.HTTPServer(('127.0.0.1', int(os.environ['PORT'])), h.SimpleHTTPRequestHandler).serve_forever()\n").unwrap();
    let config = "name = \"shop\"\nruntime = \"binary\"\nruntime_version = \"1\"\nmain = \"run\"\n\n[envs.production]\nroute = \"shop.localhost\"\n";
    fs::write(root.join("tako.toml"), config).unwrap();
    fs::set_permissions(root.join("run"), std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let named = ["-c", "user.name=Ana", "-c", "user.email=ana@example.com"];
    for args in [&["init", "--quiet"][..], &["add", "."], &["commit", "--quiet", "-m", "First"]] {
        assert!(Command::new("git").args(named).args(args).current_dir(root).status().unwrap().success());
    }
}
