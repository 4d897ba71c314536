//! What a deploy costs, over a real `sshd` on loopback: wall time with nothing to do, rolled anew, and with one
//! line changed, and per instance what the swap takes beyond the app's own boot. Prints min, median and max; judges nothing.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

mod rows;
#[path = "../it/sandbox.rs"]
mod sandbox;

use std::time::{Duration, Instant};

use rows::{heading, row};
use sandbox::{Server, Sshd, User};

const RUNS: usize = 15;
const INSTANCES: [u32; 2] = [1, 4];

fn main() {
    println!("{RUNS} deploys each of tests/data/apps/mixed, loopback SSH; milliseconds");
    heading();
    INSTANCES.into_iter().for_each(measure);
}

fn measure(instances: u32) {
    let server = Server::start();
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    let config =
        user.read("tako.toml").replace("[envs.production]", &format!("[envs.production]\ninstances = {instances}"));
    user.write("tako.toml", &config);
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    user.must(&["deploy", "--yes"]);

    let (mut boots, mut swaps) = (Vec::new(), Vec::new());
    let mut deploy = |more: &[&str]| {
        let started = Instant::now();
        let result = user.result(&[&["deploy", "--yes", "--json"], more].concat());
        let wall = started.elapsed();
        for swap in result["servers"][0]["swaps"].as_array().into_iter().flatten() {
            let us = |name: &str| {
                Duration::from_micros(swap[name].as_u64().unwrap_or_else(|| panic!("no {name} in {result}")))
            };
            boots.push(us("boot_us"));
            swaps.push(us("total_us") - us("boot_us"));
        }
        let build = Duration::from_millis(result["durations_ms"]["build"].as_u64().unwrap());
        (wall, wall - build)
    };
    let nothing: Vec<Duration> = (0..RUNS).map(|_| deploy(&[]).0).collect();
    let (anew, besides): (Vec<Duration>, Vec<Duration>) = (0..RUNS).map(|_| deploy(&["--force"])).unzip();
    let (one_line, one_line_besides): (Vec<Duration>, Vec<Duration>) = (0..RUNS)
        .map(|n| {
            user.write("change.txt", &format!("line {n}"));
            deploy(&[])
        })
        .unzip();

    println!("{instances} instance(s)");
    row("  tako deploy, nothing changed", nothing);
    row("  tako deploy --force, nothing changed", anew);
    row("    without the build", besides);
    row("  tako deploy, one line changed", one_line);
    row("    without the build", one_line_besides);
    row("  the app's own boot, per instance", boots);
    row("  swap beyond that boot, per instance", swaps);
}
