//! Tako ships web apps to your own servers as native processes.
#![allow(dead_code)] // TEMPORARY while the rooms are being filled; goes with the first end-to-end run.
#![allow(clippy::unimplemented)]

pub(crate) mod error;
pub(crate) mod logger;
pub(crate) mod disk;
pub(crate) mod crypto;
pub(crate) mod archive;
pub(crate) mod sys;
pub(crate) mod proto;
pub(crate) mod proxy;
pub(crate) mod server;
pub(crate) mod cli;

use std::process::ExitCode;

/// `tako`: what a person types.
pub fn tako() -> ExitCode {
    cli::main()
}

/// `tako-server`: what runs on a server.
pub fn tako_server() -> ExitCode {
    server::main()
}

/// `tako-dev-server`: what runs on a developer's machine.
pub fn tako_dev_server() -> ExitCode {
    server::dev::main()
}
