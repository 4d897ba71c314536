//! `tako.toml` as written: every key with its type and its place, nothing merged, nothing defaulted. What the values
//! mean is for `project` to say.

use std::ops::Range;

use toml_edit::{Item, Value};

use super::problem::Problem;
use super::section::{Problems, Section, Spanned};
use crate::proto::manifest::{MAX_INSTANCES, PROCESSES};

/// Far beyond what a person writes.
pub(crate) const MAX_FILE: u64 = 1 << 20;

/// The longest that an app may idle before it is stopped: thirty days, for ever in practice.
const MAX_IDLE_S: u64 = 30 * 24 * 3600;
/// The longest that a start or a drain may take: a deploy waits for both.
const MAX_WAIT_S: u64 = 3600;

type Text = Option<Spanned<String>>;
type Texts = Option<Spanned<Vec<Spanned<String>>>>;

#[derive(Debug, Default)]
pub(crate) struct TakoToml {
    pub name: Text,
    pub runtime: Text,
    pub runtime_version: Text,
    pub main: Text,
    pub preset: Text,
    pub start: Texts,
    pub install: Texts,
    pub dev: Texts,
    pub health: Text,
    pub release: Text,
    pub build: Build,
    pub vars: Vec<Var>,
    /// `[vars.<env>]`.
    pub env_vars: Vec<(Spanned<String>, Vec<Var>)>,
    pub envs: Vec<(Spanned<String>, Env)>,
    pub limits: Limits,
}

/// `[limits]`, of every environment.
#[derive(Debug, Default)]
pub(crate) struct Limits {
    pub request_body: Option<Spanned<Amount>>,
    pub memory: Option<Spanned<Amount>>,
    /// Cores.
    pub cpu: Option<Spanned<f64>>,
    pub processes: Option<Spanned<u64>>,
}

#[derive(Debug, Default)]
pub(crate) struct Build {
    pub install: Text,
    pub run: Text,
    pub include: Texts,
    pub exclude: Texts,
    pub assets: Texts,
    pub targets: Texts,
    pub container: Option<Spanned<bool>>,
    pub image: Text,
    pub stages: Vec<Stage>,
}

#[derive(Debug)]
pub(crate) struct Stage {
    pub at: Range<usize>,
    pub name: Text,
    pub working_dir: Text,
    pub install: Text,
    pub run: Text,
}

#[derive(Debug)]
pub(crate) struct Var {
    pub name: Spanned<String>,
    pub value: String,
}

#[derive(Debug)]
pub(crate) struct Env {
    pub route: Text,
    pub routes: Texts,
    /// Where `routes` stands, if both are there.
    pub routes_key: Option<Range<usize>>,
    pub servers: Texts,
    pub run: Run,
    pub per_server: Vec<(Spanned<String>, Run)>,
}

/// What an environment says of running, and a server of that environment otherwise.
#[derive(Debug, Default)]
pub(crate) struct Run {
    pub instances: Option<Spanned<u64>>,
    pub idle_timeout: Option<Spanned<u64>>,
    pub startup_timeout: Option<Spanned<u64>>,
    pub drain_timeout: Option<Spanned<u64>>,
}

/// A size as `"128M"` or as a number of bytes.
#[derive(Debug)]
pub(crate) enum Amount {
    Text(String),
    Bytes(i64),
}

impl TakoToml {
    pub fn read(root: Section<'_>, problems: &Problems) -> TakoToml {
        let file = TakoToml {
            name: root.text("name"),
            runtime: root.text("runtime"),
            runtime_version: root.text("runtime_version"),
            main: root.text("main"),
            preset: root.text("preset"),
            start: root.texts("start"),
            install: root.texts("install"),
            dev: root.texts("dev"),
            health: root.text("health"),
            release: root.text("release"),
            build: root.section("build").map(read_build).unwrap_or_default(),
            ..read_named(&root, problems)
        };
        root.finish();
        file
    }
}

/// The sections whose keys are names that the user chose.
fn read_named(root: &Section<'_>, problems: &Problems) -> TakoToml {
    let mut file = TakoToml::default();
    if let Some(vars) = root.section("vars") {
        for (name, item) in vars.entries() {
            match item.as_table_like() {
                None => file.vars.extend(read_var(name, item, problems)),
                Some(_) => {
                    let of_env = vars.as_section(&name.value, item, name.at.clone());
                    let entries = of_env.map(|s| s.entries()).unwrap_or_default();
                    let read = entries.into_iter().filter_map(|(name, item)| read_var(name, item, problems));
                    file.env_vars.push((name, read.collect()));
                }
            }
        }
    }
    if let Some(envs) = root.section("envs") {
        for (name, item) in envs.entries() {
            if let Some(section) = envs.as_section(&name.value, item, name.at.clone()) {
                file.envs.push((name, read_env(section)));
            }
        }
    }
    if let Some(limits) = root.section("limits") {
        let least = u64::from(*PROCESSES.start());
        file.limits = Limits {
            request_body: read_amount(&limits, "request_body", problems),
            memory: read_amount(&limits, "memory", problems),
            cpu: limits.decimal("cpu"),
            processes: limits.number("processes", least, u64::from(*PROCESSES.end())),
        };
        limits.finish();
    }
    file
}

fn read_build(section: Section<'_>) -> Build {
    let build = Build {
        install: section.text("install"),
        run: section.text("build"),
        include: section.texts("include"),
        exclude: section.texts("exclude"),
        assets: section.texts("assets"),
        targets: section.texts("targets"),
        container: section.flag("container"),
        image: section.text("image"),
        stages: section.sections("stages").into_iter().map(read_stage).collect(),
    };
    section.finish();
    build
}

fn read_stage(section: Section<'_>) -> Stage {
    let stage = Stage {
        at: section.at().clone(),
        name: section.text("name"),
        working_dir: section.text("working_dir"),
        install: section.text("install"),
        run: section.text("run"),
    };
    section.finish();
    stage
}

fn read_env(section: Section<'_>) -> Env {
    let env = Env {
        route: section.text("route"),
        routes: section.texts("routes"),
        routes_key: section.at_key("routes"),
        servers: section.texts("servers"),
        run: read_run(&section),
        per_server: section.section("server").map(read_per_server).unwrap_or_default(),
    };
    section.finish();
    env
}

fn read_per_server(section: Section<'_>) -> Vec<(Spanned<String>, Run)> {
    let mut servers = Vec::new();
    for (name, item) in section.entries() {
        if let Some(server) = section.as_section(&name.value, item, name.at.clone()) {
            servers.push((name, read_run(&server)));
            server.finish();
        }
    }
    servers
}

fn read_run(section: &Section<'_>) -> Run {
    Run {
        instances: section.number("instances", 0, MAX_INSTANCES.into()),
        idle_timeout: section.number("idle_timeout", 1, MAX_IDLE_S),
        startup_timeout: section.number("startup_timeout", 1, MAX_WAIT_S),
        drain_timeout: section.number("drain_timeout", 0, MAX_WAIT_S),
    }
}

fn read_var(name: Spanned<String>, item: &Item, problems: &Problems) -> Option<Var> {
    let value = match item.as_value() {
        Some(Value::String(text)) => text.value().clone(),
        Some(Value::Integer(n)) => n.value().to_string(),
        // `1.0` stays what it is.
        Some(Value::Float(n)) => format!("{:?}", n.value()),
        Some(Value::Boolean(b)) => b.value().to_string(),
        _ => {
            let message = format!("the variable `{}` is not a single value", name.value.escape_debug());
            problems.add(Problem::at(&name.at, message, "make it a text in quotes, a number, true or false"));
            return None;
        }
    };
    Some(Var { name, value })
}

fn read_amount(section: &Section<'_>, key: &'static str, problems: &Problems) -> Option<Spanned<Amount>> {
    let (at, item) = section.any(key)?;
    if let Some(text) = item.as_str() {
        return Some(Spanned { value: Amount::Text(text.into()), at });
    }
    if let Some(bytes) = item.as_integer() {
        return Some(Spanned { value: Amount::Bytes(bytes), at });
    }
    problems.add(Problem::at(&at, format!("`{key}` is not a size"), "write it as \"128M\" or as a number of bytes"));
    None
}
