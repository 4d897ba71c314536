//! Where both sides look when nobody says otherwise.

use std::env;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};

pub(crate) const DATA_DIR: &str = "/opt/tako";
pub(crate) const SOCKET: &str = "/var/run/tako/tako.sock";

/// The management socket: `TAKO_SOCKET`, else [`SOCKET`].
pub(crate) fn socket() -> PathBuf {
    env::var_os("TAKO_SOCKET").map_or_else(|| SOCKET.into(), PathBuf::from)
}

/// The user's own folder: `TAKO_HOME`, else `~/.tako`.
pub(crate) fn home() -> Result<PathBuf> {
    if let Some(home) = env::var_os("TAKO_HOME").filter(|h| !h.is_empty()) {
        return Ok(home.into());
    }
    match env::home_dir() {
        Some(home) if !home.as_os_str().is_empty() => Ok(home.join(".tako")),
        _ => {
            Err(Error::new(Kind::Config, "there is no home directory to keep keys and servers in")
                .hint("set TAKO_HOME"))
        }
    }
}
