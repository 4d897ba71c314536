//! The effective configuration, section by section, each value with its source. Pure: what was read is an argument.
//!
//! **Invariant**: a value stands here if and only if a deploy would use it; what has no key of its own in `tako.toml` is
//! a remark.

use serde_json::{Value, json};
use toml_edit::Key;

use super::ssh::{Way, remarks};
use crate::cli::build::Order;
use crate::cli::build::recipe::{Chosen, Origin};
use crate::cli::detect;
use crate::cli::project::lines::Lines;
use crate::cli::project::{Env, FILE, Project};
use crate::proto::manifest::{Limits, Runtime};
use crate::proto::name::{EnvName, ServerName};

/// All that is known of a project and one environment of it.
pub(super) struct Facts<'a> {
    pub project: &'a Project,
    pub env_name: &'a EnvName,
    /// `None` when `tako.toml` does not have it.
    pub env: Option<&'a Env>,
    pub order: &'a Order,
    pub lines: &'a Lines,
    /// All servers of the inventory.
    pub known: &'a [ServerName],
    /// How the environment's servers are reached.
    pub ways: &'a [Way],
    /// Those to tell of; empty is all that are anything special.
    pub wanted: &'a [ServerName],
    /// Names of secrets: those that are set, and those that another environment has.
    pub present: &'a [String],
    pub missing: &'a [(String, EnvName)],
}

/// A section of the file, or one that `tako.toml` would have.
pub(super) struct Part {
    /// `build`, `envs.production`; empty for the top of the file.
    pub name: String,
    pub repeated: bool,
    pub sets: Vec<Set>,
    pub remarks: Vec<String>,
}

pub(super) struct Set {
    pub key: String,
    pub value: Value,
    pub from: String,
}

impl Part {
    fn named(name: impl Into<String>) -> Part {
        Part { name: name.into(), repeated: false, sets: Vec::new(), remarks: Vec::new() }
    }

    fn set(&mut self, key: &str, value: impl Into<Value>, from: impl Into<String>) {
        self.sets.push(Set { key: key.into(), value: value.into(), from: from.into() });
    }

    fn remark(&mut self, text: impl Into<String>) {
        self.remarks.push(text.into());
    }

    fn is_empty(&self) -> bool {
        self.sets.is_empty() && self.remarks.is_empty()
    }

    /// `[build]` or `[[build.stages]]`.
    pub fn head(&self) -> String {
        if self.repeated { format!("[[{}]]", self.name) } else { format!("[{}]", self.name) }
    }
}

pub(super) fn all(facts: &Facts<'_>) -> Vec<Part> {
    let mut parts = vec![heading(facts), app(facts), build(facts)];
    parts.extend(stages(facts));
    parts.push(limits(facts));
    parts.extend(facts.env.map(|env| environment(facts, env)));
    parts.extend(facts.env.into_iter().flat_map(|env| per_server(facts, env)));
    parts.push(vars(facts));
    parts.push(secrets(facts));
    parts.push(reaching(facts));
    parts.retain(|part| !part.is_empty());
    parts
}

fn heading(facts: &Facts<'_>) -> Part {
    let source = &facts.order.source;
    let mut part = Part::named("");
    part.remark(format!("{} on {}, as `tako deploy` would use it here and now", facts.project.name, facts.env_name));
    let state = if source.dirty { ", with changes that are in no commit" } else { "" };
    part.remark(format!("version {}{state}, for {}", source.version, facts.order.target_names()));
    if !source.app.as_os_str().is_empty() {
        part.remark(format!("the app is {} of its repository", source.app.display()));
    }
    part
}

fn app(facts: &Facts<'_>) -> Part {
    let Facts { project, order, .. } = facts;
    let recipe = &order.recipe;
    let mut part = Part::named("");
    part.set("name", project.name.as_str(), facts.written(&["name"]).unwrap_or("the name of the folder".into()));
    let detected = || detect::runtime_and_why(&project.dir).map_or("detected".into(), |(_, why)| why);
    part.set("runtime", project.runtime.as_str(), facts.written(&["runtime"]).unwrap_or_else(detected));
    match &order.runtime_version {
        Some(version) => {
            let from = facts.written(&["runtime_version"]).unwrap_or("what is used on this machine".into());
            part.set("runtime_version", version.as_str(), from);
        }
        None if project.runtime != Runtime::Binary => {
            part.set("runtime_version", "latest", "default: there is none on this machine");
        }
        None => {}
    }
    if let Some(preset) = &project.preset {
        part.set("preset", preset.to_string(), facts.written(&["preset"]).unwrap_or_default());
    }
    facts.chosen(&mut part, "main", Some(&recipe.main), &["main"]);
    facts.chosen(&mut part, "start", recipe.start.as_ref(), &["start"]);
    facts.chosen(&mut part, "install", recipe.install.as_ref(), &["install"]);
    facts.chosen(&mut part, "dev", recipe.dev.as_ref(), &["dev"]);
    let sdk = recipe.start.is_none() && project.runtime != Runtime::Binary;
    if let Some(health) = &project.health {
        part.set("health", health.as_str(), facts.written(&["health"]).unwrap_or_default());
    }
    match (recipe.start.is_none(), sdk) {
        (true, true) => part.remark("start: by Tako's entry point, which tells when the app is ready"),
        (true, false) => part.remark("start: `main` itself is executed"),
        (false, _) => {}
    }
    if recipe.install.is_none() && project.runtime != Runtime::Binary {
        part.remark("install: on the server, production dependencies by the lock file that is there");
    }
    if let Some(release) = &project.release {
        part.set("release", release.as_str(), facts.written(&["release"]).unwrap_or_default());
    }
    match (&project.health, sdk) {
        (None, true) => part.remark("health: /status of Tako's entry point"),
        (None, false) => part.remark("health: it accepts connections on $PORT"),
        (Some(_), _) => {}
    }
    part
}

fn build(facts: &Facts<'_>) -> Part {
    let Order { recipe, steps, source, .. } = facts.order;
    let mut part = Part::named("build");
    for (key, chosen) in [("install", &recipe.build_install), ("build", &recipe.build)] {
        let step = steps.iter().find(|step| step.name == key);
        match (chosen, step) {
            (Some(_), _) => facts.chosen(&mut part, key, chosen.as_ref(), &["build", key]),
            (None, Some(step)) => {
                let why = if key == "install" { "nothing is installed here yet" } else { "the script of package.json" };
                part.set(key, step.command.as_str(), why);
            }
            (None, None) => {}
        }
    }
    facts.chosen(&mut part, "include", recipe.include.as_ref(), &["build", "include"]);
    if !recipe.exclude.is_empty() {
        let patterns: Vec<&str> = recipe.exclude.iter().map(|pattern| pattern.value.as_str()).collect();
        let mut from: Vec<String> =
            recipe.exclude.iter().map(|pattern| facts.origin(pattern.from, &["build", "exclude"])).collect();
        from.dedup();
        part.set("exclude", json!(patterns), from.join(", "));
    }
    facts.chosen(&mut part, "assets", recipe.assets.as_ref(), &["build", "assets"]);
    if let Some(after) = &recipe.after {
        part.remark(format!("after the build: {} ({})", after.value, facts.origin(after.from, &[])));
    }
    let files = crate::cli::ui::units::count(source.entries.len(), "file");
    match steps.len() {
        0 => part.remark(format!("nothing is run: the {files} of the source are shipped as they are")),
        _ => part.remark(format!("it is run in a copy of the {files} of the source")),
    }
    if recipe.include.is_none() {
        part.remark("include: all but .git, .tako, .env*, and what is installed anew elsewhere");
    }
    part
}

fn stages(facts: &Facts<'_>) -> Vec<Part> {
    let stages = facts.project.build.stages.iter().enumerate();
    let part = |(n, stage): (usize, &crate::cli::project::Stage)| {
        let from = facts.lines.of_stage(n).map_or(FILE.into(), |line| format!("{FILE}:{line}"));
        let mut part = Part { repeated: true, ..Part::named("build.stages") };
        let keys = [("name", &stage.name), ("working_dir", &stage.working_dir), ("install", &stage.install)];
        for (key, value) in keys {
            value.iter().for_each(|value| part.set(key, value.as_str(), from.clone()));
        }
        part.set("run", stage.run.as_str(), from);
        part
    };
    stages.map(part).collect()
}

fn limits(facts: &Facts<'_>) -> Part {
    let limits = &facts.project.limits;
    let from = |key| facts.written(&["limits", key]).unwrap_or("default".into());
    let mut part = Part::named("limits");
    part.set("request_body", size(limits.request_body), from("request_body"));
    if let Some(memory) = limits.memory {
        part.set("memory", size(memory), from("memory"));
    }
    if let Some(milli) = limits.cpu_milli {
        part.set("cpu", f64::from(milli) / 1000.0, from("cpu"));
    }
    if let Some(processes) = limits.processes {
        part.set("processes", processes, from("processes"));
    }
    part
}

/// As a person would write it.
fn size(bytes: u64) -> Value {
    let units = [(30, 'G'), (20, 'M'), (10, 'K')];
    match units.into_iter().find(|(shift, _)| bytes > 0 && bytes.is_multiple_of(1 << shift)) {
        Some((shift, unit)) => format!("{}{unit}", bytes >> shift).into(),
        None => bytes.into(),
    }
}

fn environment(facts: &Facts<'_>, env: &Env) -> Part {
    let name = facts.env_name.as_str();
    let mut part = Part::named(format!("envs.{name}"));
    let routes: Vec<String> = env.routes.iter().map(ToString::to_string).collect();
    let key = ["route", "routes"].into_iter().find_map(|key| facts.written(&["envs", name, key]));
    if let Some(from) = key {
        part.set("routes", routes, from);
    }
    match (env.servers.as_slice(), facts.known) {
        ([], _) if facts.env_name.is_development() => {}
        ([], [one]) if facts.env_name.is_production() => {
            part.set("servers", json!([one]), "the only one that is known");
        }
        ([], []) => part.remark("servers: none is known; run `tako servers add HOST`"),
        ([], _) => part.remark("servers: to be chosen; `tako deploy` asks, or give --server NAME"),
        (servers, _) => {
            part.set("servers", json!(servers), facts.written(&["envs", name, "servers"]).unwrap_or_default())
        }
    }
    numbers(&mut part, env.instances, &env.limits, |key| {
        facts.written(&["envs", name, key]).unwrap_or("default".into())
    });
    part
}

/// A section for each server that has something of its own, and for each that was asked about.
fn per_server(facts: &Facts<'_>, env: &Env) -> Vec<Part> {
    let name = facts.env_name.as_str();
    let asked = facts.wanted.iter().filter(|server| !env.per_server.contains_key(server));
    let special = env.per_server.keys().filter(|server| facts.wanted.is_empty() || facts.wanted.contains(server));
    let part = |server: &ServerName| {
        let (instances, limits) = env.on(server);
        let mut part = Part::named(format!("envs.{name}.server.{}", Key::new(server.as_str()).display_repr()));
        numbers(&mut part, instances, &limits, |key| {
            let own = facts.written(&["envs", name, "server", server.as_str(), key]);
            own.or_else(|| facts.written(&["envs", name, key])).unwrap_or("default".into())
        });
        part
    };
    special.chain(asked).map(part).collect()
}

fn numbers(part: &mut Part, instances: u32, limits: &Limits, from: impl Fn(&str) -> String) {
    part.set("instances", instances, from("instances"));
    part.set("idle_timeout", limits.idle_timeout_s, from("idle_timeout"));
    part.set("startup_timeout", limits.startup_timeout_s, from("startup_timeout"));
    part.set("drain_timeout", limits.drain_timeout_s, from("drain_timeout"));
}

fn vars(facts: &Facts<'_>) -> Part {
    let env = facts.env_name.as_str();
    let mut part = Part::named("vars");
    for (name, value) in facts.env.into_iter().flat_map(|env| &env.vars) {
        let from = facts.written(&["vars", env, name]).or_else(|| facts.written(&["vars", name]));
        part.set(name, value.as_str(), from.unwrap_or_default());
    }
    if !part.sets.is_empty() {
        let seen: Vec<&str> = facts.order.vars().collect();
        part.remark(match seen.as_slice() {
            [] => "for the running app: a build sees those that frameworks bake in, such as VITE_*".into(),
            seen => format!("a build sees {}; the others are for the running app", seen.join(", ")),
        });
    }
    let mode = if facts.env_name.is_development() { "development" } else { "production" };
    part.remark(format!("by Tako: ENV, TAKO_ENV: {env}; NODE_ENV, BUN_ENV, DENO_ENV: {mode};"));
    part.remark("HOST, PORT, TAKO_BUILD and TAKO_DATA_DIR: those of each instance");
    part
}

fn secrets(facts: &Facts<'_>) -> Part {
    let mut part = Part::named("");
    if !facts.present.is_empty() {
        part.remark(format!("secrets: {}", facts.present.join(", ")));
    }
    for (name, other) in facts.missing {
        part.remark(format!(
            "secrets: {name} is set in {other} and missing here; run `tako secrets set {name} --env {}`",
            facts.env_name
        ));
    }
    part
}

fn reaching(facts: &Facts<'_>) -> Part {
    Part { remarks: remarks(facts.ways), ..Part::named("") }
}

impl Facts<'_> {
    /// `tako.toml:7`, if a key is there.
    fn written(&self, path: &[&str]) -> Option<String> {
        self.lines.of_key(path).map(|line| format!("{FILE}:{line}"))
    }

    fn origin(&self, origin: Origin, path: &[&str]) -> String {
        match origin {
            Origin::Config => self.written(path).unwrap_or(FILE.into()),
            Origin::Preset => match &self.project.preset {
                Some(preset) => format!("preset {preset}"),
                None => "preset".into(),
            },
            Origin::Base => format!("base preset of {}", self.project.runtime.as_str()),
            Origin::Detected => "the file is there".into(),
        }
    }

    fn chosen<T: Clone + Into<Value>>(&self, part: &mut Part, key: &str, chosen: Option<&Chosen<T>>, path: &[&str]) {
        if let Some(chosen) = chosen {
            part.set(key, chosen.value.clone().into(), self.origin(chosen.from, path));
        }
    }
}
