//! Remote: one server, reached over ssh or, for a rehearsal, on this machine; speaks `proto::control`.

use crate::cli::config::inventory::Server;
use crate::cli::ui::Ui;
use crate::error::{Error, Kind, Result};
use crate::proto::control::Hello;

// wired at merge
pub(crate) fn probe(_ui: &Ui, server: &Server) -> Result<Hello> {
    Err(Error::new(Kind::Bug, format!("this build of tako cannot connect to {}", server.name)))
}
