//! The one integration binary: black box, over the real programs.
//!
//! `sandbox` is a private world (data, socket, home, server, sshd) that ends with its value; `http` is a client that
//! counts every byte against us; `web` is what is downloaded from; `traffic` is steady load that forgives nothing; `small`
//! is an app to measure around, `terminal` a screen to look at, `figures` what the server takes and `relay` a network that
//! breaks; `netns` are real ones, and `alone` a test in namespaces of its own. The other modules are the tests, by what a user does;
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
mod terminal;
mod figures;

mod relay;
mod alone;
mod netns;
#[path = "../../src/cli/golden.rs"]
mod golden;

mod tidy;
mod control;
mod deploy;
mod deploys;
mod fleet;
mod several;
mod monorepo;
mod uploads;
mod ssh;
mod broken_uploads;
mod operations;
mod secrets;
mod canary;
mod assets;
mod websocket;
mod failures;
mod broken;
mod on_demand;
mod programs;
mod isolation;
mod recovery;
mod preparing;
mod packages;
mod builds;
mod releases;
mod full_disk;
mod crashes;
mod adoption;
mod bad_input;
mod cli;
mod unattended;
mod server;
mod tls;
mod observe;
mod screens;

mod logs;
mod run;
