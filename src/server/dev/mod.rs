//! The daemon `tako-dev-server`: local HTTPS names for projects under development. Its room is kept; it is not built
//! yet, and says so.

use std::process::ExitCode;

use crate::logger;

pub(crate) fn main() -> ExitCode {
    logger::start(log::LevelFilter::Info);
    log::error!("local development is not part of this version; deploy with `tako deploy` or try `tako rehearse`");
    ExitCode::FAILURE
}
