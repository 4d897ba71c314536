//! Three hundred deploys in a row under 500 requests a second: prints what the server takes every 50 deploys, and fails if
//! a request did or if anything has grown.
#![allow(clippy::unwrap_used, clippy::print_stdout, dead_code)]

#[path = "../it/deploys.rs"]
mod deploys;
#[path = "../it/figures.rs"]
mod figures;
#[path = "../it/http.rs"]
mod http;
#[path = "../it/sandbox.rs"]
mod sandbox;
#[path = "../it/small.rs"]
mod small;

use deploys::{Plan, run};

fn main() {
    run(&Plan { deploys: 300, instances: 2, rate: 500, every: 50 }, &mut |line| println!("{line}"));
}
