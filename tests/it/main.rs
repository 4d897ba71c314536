//! The one integration binary: black box, over the real programs.
//!
//! `sandbox` is a private world (data, socket, home, server, sshd) that ends with its value; `http` is a client that
//! counts every byte against us; `web` is what is downloaded from; `traffic` is steady load that forgives nothing; `small`
//! is an app to measure around and `figures` what the server takes. The other modules are the tests, by what a user does;
//! `websocket` brings peers that others wrote. `tidy` holds the rules of the house.
#![allow(clippy::unwrap_used)]

mod sandbox;
mod http;
mod traffic;
#[allow(dead_code)] // The unit tests of the server use the rest of these two.
mod web;
#[allow(dead_code)]
mod published;
mod small;
mod figures;
#[path = "../../src/cli/golden.rs"]
mod golden;

mod tidy;
mod control;
mod deploy;
mod deploys;
mod monorepo;
mod uploads;
mod ssh;
mod operations;
mod assets;
mod websocket;
mod failures;
mod broken;
mod on_demand;
mod programs;
mod isolation;
mod recovery;
mod preparing;
mod builds;
mod releases;
mod full_disk;
mod crashes;
mod adoption;
mod bad_input;
mod cli;
mod server;
mod tls;
mod observe;
mod logs;
