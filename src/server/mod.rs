//! The daemon `tako-server`.

pub(crate) mod layout;
pub(crate) mod state;
pub(crate) mod board;
pub(crate) mod release;
pub(crate) mod runtime;
pub(crate) mod app;
pub(crate) mod dev;

use std::process::ExitCode;

pub(crate) fn main() -> ExitCode {
    unimplemented!()
}
