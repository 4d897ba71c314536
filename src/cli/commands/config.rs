//! `tako config`: the effective configuration of an environment, as a `tako.toml` that says all of it, with where each
//! value came from behind it.
//!
//! What it prints is what `tako deploy` would use here and now. It never opens a secret: their names are all it needs.

mod parts;
mod ssh;
mod toml;
#[cfg(test)]
mod tests;

use serde_json::json;

use super::{Exit, aim};
use crate::cli::args::Args;
use crate::cli::build;
use crate::cli::build::preset::resolve::Wish;
use crate::cli::config::edit::without_bom;
use crate::cli::config::inventory::{Inventory, Server};
use crate::cli::config::vault::Vault;
use crate::cli::project::lines::Lines;
use crate::cli::project::{self, Env, FILE, Project};
use crate::cli::ui::Ui;
use crate::error::{Error, Kind, Result};
use crate::proto::name::{EnvName, ServerName};
use parts::Facts;
use ssh::Given;

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let inventory = Inventory::load()?;
    tell(ui, args, inventory.servers(), &Given::read(args, &inventory)?)
}

/// `known` are the servers of the inventory.
fn tell(ui: &Ui, args: &Args, known: &[Server], given: &Given) -> Result<Exit> {
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let text = project::read(&project.dir)?;
    if text.is_none() {
        ui.note(&format!("there is no {FILE} here: this is what the files of the project say"));
    }
    let env = env(args, &project, &env_name)?;
    let wanted = wanted(args, &env_name, env)?;
    let order = build::order(&project, env.map_or(&project.vars, |env| &env.vars), Wish::Locked)?;
    let vault = Vault::load(&project.dir, &project.name)?;
    let ways = given.ways(&reached(known, env, &wanted));
    let names: Vec<ServerName> = known.iter().map(|server| server.name.clone()).collect();
    let facts = Facts {
        project: &project,
        env_name: &env_name,
        env,
        order: &order,
        lines: &Lines::of(without_bom(text.as_deref().unwrap_or_default())),
        known: &names,
        ways: &ways,
        wanted: &wanted,
        present: &vault
            .presence()
            .into_iter()
            .filter(|(_, envs)| envs.contains(&env_name))
            .map(|(n, _)| n)
            .collect::<Vec<_>>(),
        missing: &vault.missing(&env_name),
    };
    let parts = parts::all(&facts);
    toml::lines(&parts).iter().for_each(|line| ui.out(line));
    ui.event(
        "result",
        json!({
            "app": project.name,
            "env": env_name,
            "version": order.source.version,
            "targets": order.targets,
            "config": parts.iter().flat_map(|part| part.sets.iter().map(|set| json!({
                "section": part.name, "key": set.key, "value": set.value, "from": set.from,
            }))).collect::<Vec<_>>(),
            "steps": order.steps.iter().map(|step| json!({
                "name": step.name, "command": step.command, "dir": step.dir.to_string_lossy(),
            })).collect::<Vec<_>>(),
            "ssh": ways.iter().map(|way| json!({
                "server": way.server, "key": way.key, "value": way.value, "from": way.from,
            })).collect::<Vec<_>>(),
            "secrets": { "set": facts.present, "missing": facts.missing.iter().map(|(name, _)| name).collect::<Vec<_>>() },
        }),
    );
    Ok(Exit::Done)
}

/// A project may be looked at before it says where it runs, but an environment that was named must be there.
fn env<'a>(args: &Args, project: &'a Project, name: &EnvName) -> Result<Option<&'a Env>> {
    match project.envs.get(name) {
        None if args.value("env").is_some() && !name.is_development() => project.env(name).map(Some),
        env => Ok(env),
    }
}

/// Those that the environment is on, or may be while none is written; of them those that were asked about.
fn reached<'a>(known: &'a [Server], env: Option<&Env>, wanted: &[ServerName]) -> Vec<&'a Server> {
    let written = env.map(|env| env.servers.as_slice()).unwrap_or_default();
    let is_in = |names: &[ServerName], server: &Server| names.is_empty() || names.contains(&server.name);
    known.iter().filter(|server| is_in(written, server) && is_in(wanted, server)).collect()
}

fn wanted(args: &Args, env_name: &EnvName, env: Option<&Env>) -> Result<Vec<ServerName>> {
    let wanted = aim::wanted(args)?;
    let written = env.map(|env| env.servers.as_slice()).unwrap_or_default();
    match wanted.iter().find(|name| !written.is_empty() && !written.contains(name)) {
        None => Ok(wanted),
        Some(stranger) => {
            let names = written.iter().map(ServerName::as_str).collect::<Vec<_>>().join(", ");
            Err(Error::new(Kind::Usage, format!("{stranger} is not a server of {env_name}"))
                .hint(format!("{env_name} is on {names}")))
        }
    }
}
