//! Runtimes: where the program lies that runs an app, and with which arguments.

use std::ffi::OsString;
use std::path::PathBuf;

use super::layout::Layout;
use crate::error::Result;
use crate::proto::manifest::{Manifest, Runtime};

/// How a release is started.
pub(crate) struct Launch {
    /// The program's full path and its arguments.
    pub argv: Vec<OsString>,
    /// Put in front of PATH: where the runtime lies, `node_modules/.bin`.
    pub path: Vec<PathBuf>,
}

/// The runtime's program: what is cached under the data directory, else what `mise` has, else what is on PATH.
///
/// # Errors
/// NotFound, naming the runtime and how to install it.
pub(crate) fn find(_layout: &Layout, _runtime: Runtime, _version: Option<&str>) -> Result<PathBuf> {
    unimplemented!()
}

/// The argument list of a release; a JS app without a `start` of its own runs under the SDK's entry point.
pub(crate) fn launch(_layout: &Layout, _manifest: &Manifest) -> Result<Launch> {
    unimplemented!()
}

/// Writes the embedded SDK under the data directory, once per content.
pub(crate) fn lay_out_sdk(_layout: &Layout) -> Result<()> {
    unimplemented!()
}
