//! Project: `tako.toml` as meant: checked, merged, with defaults. What a command works with.
//!
//! **Invariant**: a `Project` that exists is right in all that can be known without building it; a file with errors
//! yields all of them at once, and no `Project`.

pub(crate) mod preset_ref;
pub(crate) mod lines;
mod meaning;
mod environment;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use toml_edit::{Array, TableLike};

use crate::cli::config::edit::{edited, put, without_bom};
use crate::cli::config::problem::report;
use crate::cli::config::section::{Problems, Section, parse};
use crate::cli::config::tako_toml::{MAX_FILE, TakoToml};
use crate::cli::nearest::did_you_mean;
use crate::disk::{read_if_there, write_atomic};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::{Limits, Runtime};
use crate::proto::name::{AppName, EnvName, ServerName};
use crate::proto::route::Route;
use crate::proto::target::Target;
use preset_ref::PresetRef;

pub(crate) const FILE: &str = "tako.toml";

/// Environment variables that Tako sets; what a project sets there has no effect.
const RESERVED: [&str; 9] =
    ["ENV", "TAKO_ENV", "TAKO_BUILD", "NODE_ENV", "BUN_ENV", "DENO_ENV", "HOST", "PORT", "TAKO_DATA_DIR"];

/// Whether Tako sets the environment variable `name` itself.
pub(crate) fn is_reserved(name: &str) -> bool {
    RESERVED.contains(&name) || name.starts_with("TAKO_")
}

#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// The app's directory, where `tako.toml` is or would be; absolute.
    pub dir: PathBuf,
    pub name: AppName,
    /// As configured or detected.
    pub runtime: Runtime,
    pub runtime_version: Option<String>,
    /// As configured, like the three below; what is done in the end is in the build's Recipe.
    pub main: Option<String>,
    pub preset: Option<PresetRef>,
    pub start: Option<Vec<String>>,
    pub install: Option<Vec<String>>,
    pub dev: Option<Vec<String>>,
    pub health: Option<String>,
    /// For the shell of the first server, before a deploy swaps anything.
    pub release: Option<String>,
    pub build: Build,
    /// `[limits]`; the times in it are defaults.
    pub limits: Limits,
    /// `[vars]` alone, for an environment that the file does not have.
    pub vars: BTreeMap<String, String>,
    pub envs: BTreeMap<EnvName, Env>,
}

/// How the artifacts are made.
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
    /// What to build for, each once; empty means this machine's.
    pub targets: Vec<Target>,
    /// Whether it is built in containers; `None` leaves it to the preset and to `targets`.
    pub container: Option<bool>,
    /// Instead of the default builder images.
    pub image: Option<String>,
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
    pub fn load(dir: &Path, warn: &mut dyn FnMut(String)) -> Result<Project> {
        let dir = std::path::absolute(dir).context(|| format!("find {}", dir.display()))?;
        match read(&dir)? {
            Some(text) => Project::read(&dir, without_bom(&text), warn),
            // What is wrong then is that there is no file, not what the file would have to say.
            None => Project::read(&dir, "", warn).map_err(|_| no_file(&dir)),
        }
    }

    fn read(dir: &Path, text: &str, warn: &mut dyn FnMut(String)) -> Result<Project> {
        let fail = |problems| {
            report(FILE, text, problems)
                .unwrap_or_else(|| Error::new(Kind::Bug, format!("{FILE} has no error after all")))
        };
        let document = parse(text).map_err(|problem| fail(vec![problem]))?;
        let problems = Problems::default();
        let file = TakoToml::read(Section::root(&document, &problems), &problems);
        let project = meaning::project(dir, file, &problems, warn);
        match (project, problems.into_vec()) {
            (Some(project), found) if found.is_empty() => Ok(project),
            (_, found) => Err(fail(found)),
        }
    }

    /// The environment to deploy.
    ///
    /// # Errors
    /// Config: unknown (with did-you-mean), `development`, or without routes.
    pub fn env(&self, name: &EnvName) -> Result<&Env> {
        if name.is_development() {
            return Err(Error::new(Kind::Config, "`development` belongs to your own machine and is not deployed")
                .hint("name another environment with `--env`"));
        }
        match self.envs.get(name) {
            Some(env) if env.routes.is_empty() => Err(Error::new(Kind::Config, format!("[envs.{name}] has no route"))
                .hint("add a line such as: route = \"app.example.com\"")),
            Some(env) => Ok(env),
            None => Err(self.no_env(name)),
        }
    }

    fn no_env(&self, name: &EnvName) -> Error {
        if !self.dir.join(FILE).exists() {
            return no_file(&self.dir);
        }
        let error = Error::new(Kind::Config, format!("{FILE} has no [envs.{name}]"));
        let others: Vec<&str> = self.envs.keys().filter(|e| !e.is_development()).map(EnvName::as_str).collect();
        if let Some(guess) = did_you_mean(name.as_str(), others.iter().copied()) {
            return error.hint(guess);
        }
        match others.is_empty() {
            true => error.hint(format!("add [envs.{name}] with a line such as: route = \"app.example.com\"")),
            false => error.hint(format!("it has {}", others.join(", "))),
        }
    }

    /// Writes `servers = ["name"]` into `[envs.<env>]` of `tako.toml`, keeping the rest as it is.
    pub fn write_servers(&self, env: &EnvName, servers: &[ServerName]) -> Result<()> {
        let path = self.dir.join(FILE);
        let text = read(&self.dir)?.ok_or_else(|| self.no_env(env))?;
        let written = edited(&text, |document| {
            let envs = document.get_mut("envs").and_then(|item| item.as_table_like_mut());
            let table: Option<&mut dyn TableLike> =
                envs.and_then(|e| e.get_mut(env.as_str())).and_then(|item| item.as_table_like_mut());
            let table = table.ok_or_else(|| self.no_env(env))?;
            put(table, "servers", servers.iter().map(ServerName::as_str).collect::<Array>());
            Ok(())
        })?;
        // Through a symlink, not over it.
        let path = fs::canonicalize(&path).unwrap_or(path);
        write_atomic(&path, written.as_bytes(), mode_of(&path))
    }
}

fn no_file(dir: &Path) -> Error {
    let error = Error::new(Kind::Config, format!("there is no {FILE} in {}", dir.display()));
    match dir.ancestors().skip(1).find(|a| a.join(FILE).is_file()) {
        Some(above) => error.hint(format!("there is one above: run this there, or with `--dir {}`", above.display())),
        None => error.hint("run `tako init`"),
    }
}

/// The text of `tako.toml` in `dir`, if there is one.
pub(crate) fn read(dir: &Path) -> Result<Option<String>> {
    let path = dir.join(FILE);
    let Some(bytes) = read_if_there(&path, MAX_FILE).map_err(|e| e.with_kind(Kind::Config))? else { return Ok(None) };
    match String::from_utf8(bytes) {
        Ok(text) => Ok(Some(text)),
        Err(e) => {
            let line = e.as_bytes()[..e.utf8_error().valid_up_to()].iter().filter(|b| **b == b'\n').count() + 1;
            Err(Error::new(Kind::Config, format!("{FILE}:{line} is not UTF-8")).hint("save the file as UTF-8"))
        }
    }
}

/// A rewritten file keeps its permissions.
pub(crate) fn mode_of(path: &Path) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    fs::metadata(path).map_or(0o644, |m| m.permissions().mode() & 0o777)
}

impl Env {
    /// Instances and limits for one server.
    pub fn on(&self, server: &ServerName) -> (u32, Limits) {
        self.per_server.get(server).cloned().unwrap_or((self.instances, self.limits.clone()))
    }
}
