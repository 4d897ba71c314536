//! `tako secrets sync`: the secrets of an environment to its servers, without a deploy.
//!
//! Each server says which secrets it has by their keyed hash, so they travel only where that differs, and only there are
//! instances replaced. Each server takes them in full or keeps those that it had.

use serde_json::{Value, json};

use crate::cli::args::Args;
use crate::cli::commands::{Exit, aim, change, deploy};
use crate::cli::config::inventory::Server;
use crate::cli::fanout::{self, CONNECTS};
use crate::cli::interrupt::Interrupt;
use crate::cli::remote::{Place, Remote};
use crate::cli::ship::tell::step_words;
use crate::cli::ui::{Task, Ui, units};
use crate::error::{Kind, Result};
use crate::proto::control::{Deployed, Reply, Request, Secrets};
use crate::proto::name::{AppId, ServerName};

/// What became of the secrets on one server.
enum Synced {
    Unchanged,
    Taken(Deployed),
}

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let interrupt = Interrupt::of_process()?;
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let env = project.env(&env_name)?;
    let secrets = deploy::secrets(ui, &project, &env_name)?;
    let servers = aim::servers(&env_name, env, &aim::wanted(args)?)?;
    let app = aim::app(&project, &env_name);

    let count = servers.len();
    let lines: Vec<(Task, Server)> = servers.into_iter().map(|s| (ui.task(s.name.as_str()), s)).collect();
    let results = fanout::each(lines, CONNECTS, |(task, server)| {
        task.set("connecting");
        let synced = Remote::connect(&Place::Ssh(server.clone()), &interrupt)
            .and_then(|mut remote| sync(&mut remote, &app, &secrets, &task));
        match &synced {
            Ok(synced) => task.done(&shown(synced, secrets.values.len())),
            Err(e) => task.fail(&e.to_string()),
        }
        (server.name, synced)
    });
    conclude(ui, results, count)
}

fn sync(remote: &mut Remote, app: &AppId, secrets: &Secrets, task: &Task) -> Result<Synced> {
    let held = remote.call(Request::SecretsHash { app: app.clone() }, &mut |_| {}).map_err(|e| match e.kind() {
        Kind::NotFound => e.hint("`tako deploy` brings it there, with its secrets"),
        _ => e,
    });
    let held = match held? {
        Reply::SecretsHash { hash } => hash,
        other => return Err(remote.misunderstood(&other)),
    };
    if secrets.are(held.as_deref()) {
        return Ok(Synced::Unchanged);
    }
    let request = Request::Secrets { app: app.clone(), secrets: secrets.clone() };
    let reply = remote.call(request, &mut |notice| {
        if let Some(words) = step_words(&notice) {
            task.set(&words);
        }
    })?;
    match reply {
        Reply::Deployed(deployed) => Ok(Synced::Taken(deployed)),
        other => Err(remote.misunderstood(&other)),
    }
}

fn shown(synced: &Synced, secrets: usize) -> String {
    let secrets = units::count(secrets, "secret");
    match synced {
        Synced::Unchanged => format!("{secrets} unchanged"),
        Synced::Taken(Deployed { swaps, .. }) if swaps.is_empty() => {
            format!("{secrets} taken · the app sleeps and has them when it wakes")
        }
        Synced::Taken(Deployed { swaps, .. }) => {
            format!("{secrets} taken · {} replaced", units::count(swaps.len(), "instance"))
        }
    }
}

fn conclude(ui: &Ui, results: Vec<(ServerName, Result<Synced>)>, count: usize) -> Result<Exit> {
    let told: Vec<Value> = results.iter().map(told).collect();
    ui.event("result", json!({ "servers": told }));
    change::end(ui, "the secrets are in force", results, count)
}

fn told((server, synced): &(ServerName, Result<Synced>)) -> Value {
    match synced {
        Ok(Synced::Unchanged) => json!({ "server": server, "ok": true, "changed": false }),
        Ok(Synced::Taken(Deployed { version, instances, swaps, .. })) => json!({
            "server": server,
            "ok": true,
            "changed": true,
            "version": version,
            "instances": instances,
            "swaps": swaps,
        }),
        Err(e) => change::told_failure(server.as_str(), None, e),
    }
}
