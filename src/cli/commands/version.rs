//! `tako version`.

use serde_json::json;

use super::Exit;
use crate::cli::args::Args;
use crate::cli::ui::Ui;
use crate::error::Result;
use crate::proto::PROTOCOL;

pub(crate) fn run(ui: &Ui, _args: &Args) -> Result<Exit> {
    ui.out(&text());
    ui.event("result", json!({ "version": env!("CARGO_PKG_VERSION"), "protocol": PROTOCOL }));
    Ok(Exit::Done)
}

/// One line, also that of `tako --version`.
pub(crate) fn text() -> String {
    format!("tako {}", env!("CARGO_PKG_VERSION"))
}
