//! Manifest: what a release says of itself, written as `app.json` beside its code.
//!
//! It is made by `tako` from `tako.toml` and the build, travels with `Deploy`, and is all that a server needs to start
//! the release again after a reboot, except its secrets.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

use super::name::AppId;
use super::version::Version;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Manifest {
    /// The app and its environment.
    pub app: AppId,
    pub version: Version,
    pub runtime: Runtime,
    /// As resolved at build time, e.g. `1.3.2`; `None` when nobody could tell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub runtime_version: Option<String>,
    /// Where the app lies inside the release: relative, empty for its root.
    #[serde(default)]
    pub dir: String,
    /// The file to run, relative to `dir`.
    pub main: String,
    /// Overrides how the runtime starts it; `{main}` stands for `main`. A command of one's own is supervised like
    /// any program that listens on `$PORT`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub start: Option<Vec<String>>,
    /// Overrides how production dependencies are installed on the server; an empty list installs nothing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub install: Option<Vec<String>>,
    /// The path that tells health by 2xx or 3xx; `None` means the SDK's `/status`, or a TCP accept without the SDK.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub health: Option<String>,
    /// The app's own environment variables, merged; never Tako's and never secrets.
    #[serde(default)]
    pub vars: BTreeMap<String, String>,
    #[serde(default)]
    pub limits: Limits,
    /// First line of the commit that was built.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub commit_message: Option<String>,
    /// Whether the tree had changes that are in no commit.
    #[serde(default)]
    pub git_dirty: bool,
}

/// What runs the app.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Runtime {
    Bun,
    Node,
    Deno,
    /// Any program that listens on `$PORT`.
    Binary,
}

/// Limits in seconds and bytes; the defaults are those of the documented `tako.toml`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub(crate) struct Limits {
    /// An on-demand app without requests for this long is stopped.
    pub idle_timeout_s: u64,
    /// An instance must be ready within this.
    pub startup_timeout_s: u64,
    /// Requests in flight on a replaced instance may take this long to finish.
    pub drain_timeout_s: u64,
    /// Largest request body, in bytes; 413 beyond.
    pub request_body: u64,
    /// Bytes that an instance may have in memory; `None`, here and below, is as much as there is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// Thousandths of a core that an instance may use.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cpu_milli: Option<u32>,
    /// Processes and threads that an instance may have.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
}

/// What may be asked for as memory: less starts no program, more has no machine.
pub(crate) const MEMORY: RangeInclusive<u64> = 1 << 20..=1 << 44;
/// In thousandths of a core; the kernel rations in steps of 1 %.
pub(crate) const CPU_MILLI: RangeInclusive<u32> = 10..=1_024_000;
/// A runtime has a dozen threads before it does anything; the kernel has four million numbers.
pub(crate) const PROCESSES: RangeInclusive<u32> = 1..=4_194_304;

impl Default for Limits {
    fn default() -> Self {
        Limits {
            idle_timeout_s: 300,
            startup_timeout_s: 30,
            drain_timeout_s: 30,
            request_body: 128 << 20,
            memory: None,
            cpu_milli: None,
            processes: None,
        }
    }
}

/// How many instances an app may have; 0 is on demand.
pub(crate) const MAX_INSTANCES: u32 = 64;

impl Runtime {
    pub fn parse(s: &str) -> Option<Self> {
        Some(match s {
            "bun" => Runtime::Bun,
            "node" => Runtime::Node,
            "deno" => Runtime::Deno,
            "binary" => Runtime::Binary,
            _ => return None,
        })
    }

    pub fn as_str(self) -> &'static str {
        match self {
            Runtime::Bun => "bun",
            Runtime::Node => "node",
            Runtime::Deno => "deno",
            Runtime::Binary => "binary",
        }
    }
}

impl Manifest {
    /// Whether the app runs under our SDK entry point, which signals readiness and answers `/status`.
    pub fn has_sdk(&self) -> bool {
        self.start.is_none() && self.runtime != Runtime::Binary
    }
}
