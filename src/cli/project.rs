//! Project: `tako.toml` as meant: checked, merged, with defaults. What a command works with.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::error::Result;
use crate::proto::manifest::{Limits, Runtime};
use crate::proto::name::{AppName, EnvName, ServerName};
use crate::proto::route::Route;

#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// The app's directory, where `tako.toml` is or would be; absolute.
    pub dir: PathBuf,
    pub name: AppName,
    /// As configured or detected.
    pub runtime: Runtime,
    pub runtime_version: Option<String>,
    /// As configured; else resolved from what lies in `dir`. Its existence is checked after the build.
    pub main: String,
    pub start: Option<Vec<String>>,
    pub install: Option<Vec<String>>,
    pub health: Option<String>,
    pub build: Build,
    pub request_body: u64,
    pub envs: BTreeMap<EnvName, Env>,
}

/// How the artifact is made, all on this machine for now.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Build {
    /// Shell commands; `None` means the runtime's default, which may be nothing.
    pub install: Option<String>,
    pub run: Option<String>,
    /// Globs relative to the app directory; empty means everything.
    pub include: Vec<String>,
    /// Added to the runtime's own.
    pub exclude: Vec<String>,
    /// Folders merged into `public/` in order, the later wins.
    pub assets: Vec<String>,
    pub stages: Vec<Stage>,
}

/// A build step of the project's own, run after the runtime's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stage {
    pub name: Option<String>,
    /// Relative to the app directory, inside the source root.
    pub working_dir: Option<String>,
    pub install: Option<String>,
    pub run: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Env {
    pub routes: Vec<Route>,
    pub servers: Vec<ServerName>,
    pub instances: u32,
    pub limits: Limits,
    /// `[vars]` and `[vars.<env>]` merged.
    pub vars: BTreeMap<String, String>,
    /// `[envs.<env>.server.<name>]`, resolved against the env's own values.
    pub per_server: BTreeMap<ServerName, (u32, Limits)>,
}

impl Project {
    /// Reads the project of `dir` (an absent `tako.toml` is an empty one). Warnings go to `warn`.
    ///
    /// # Errors
    /// Config with every error of the file at once, each with place, caret and fix.
    pub fn load(_dir: &Path, _warn: &mut dyn FnMut(String)) -> Result<Project> {
        unimplemented!()
    }

    /// The environment to deploy.
    ///
    /// # Errors
    /// Config: unknown (with did-you-mean), `development`, or without routes.
    pub fn env(&self, _name: &EnvName) -> Result<&Env> {
        unimplemented!()
    }

    /// Writes `servers = ["name"]` into `[envs.<env>]` of `tako.toml`, keeping the rest as it is.
    pub fn write_servers(&self, _env: &EnvName, _servers: &[ServerName]) -> Result<()> {
        unimplemented!()
    }
}

impl Env {
    /// Instances and limits for one server.
    pub fn on(&self, server: &ServerName) -> (u32, Limits) {
        self.per_server.get(server).cloned().unwrap_or((self.instances, self.limits.clone()))
    }
}
