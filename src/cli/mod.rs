//! `tako`: what a person types.

pub(crate) mod args;
pub(crate) mod ui;
pub(crate) mod config;
pub(crate) mod project;
pub(crate) mod commands;
pub(crate) mod git;
pub(crate) mod build;
pub(crate) mod ship;
pub(crate) mod fanout;
pub(crate) mod remote;
pub(crate) mod ssh;
pub(crate) mod child;
pub(crate) mod interrupt;

use std::process::ExitCode;

pub(crate) fn main() -> ExitCode {
    unimplemented!()
}
