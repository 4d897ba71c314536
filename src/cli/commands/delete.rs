//! `tako delete`: stops the app and removes all of it, its data included, from the servers of one environment.

use serde_json::json;

use super::{Exit, aim, change};
use crate::cli::args::Args;
use crate::cli::config::inventory::Server;
use crate::cli::fanout::{self, CONNECTS};
use crate::cli::interrupt::Interrupt;
use crate::cli::remote::{Place, Remote};
use crate::cli::ui::{Task, Ui};
use crate::error::{Error, Kind, Result};
use crate::proto::control::Request;
use crate::proto::name::ServerName;

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let interrupt = Interrupt::of_process()?;
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let servers = aim::servers(&env_name, project.env(&env_name)?, &[])?;
    let names = servers.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    // The whole name has to be typed: what goes cannot be brought back.
    let typed = match args.value("confirm") {
        Some(name) => name.to_string(),
        None => {
            let flag = format!("--confirm {}", project.name);
            ui.note(&format!(
                "this stops {} in {env_name} on {names} and removes its releases, logs and data",
                project.name
            ));
            ui.ask("type the app's name to delete it", None, &flag)?
        }
    };
    if typed != project.name.as_str() {
        return Err(Error::new(
            Kind::Refused,
            format!("`{}` is not the app's name; nothing was deleted", typed.escape_debug()),
        )
        .hint(format!("the app is `{}`", project.name)));
    }
    let app = aim::app(&project, &env_name);
    let results = fanout::each(
        servers.iter().map(|server| (ui.task(server.name.as_str()), server)).collect(),
        CONNECTS,
        |(task, server): (Task, &Server)| {
            task.set("deleting");
            let deleted = Remote::connect(&Place::Ssh(server.clone()), &interrupt).and_then(|mut remote| {
                match remote.order(Request::Delete { app: app.clone() }, &mut |_| {}) {
                    // Already as wanted: a second try after a partial failure must be able to succeed.
                    Err(e) if e.kind() == Kind::NotFound => Ok(false),
                    other => other.map(|()| true),
                }
            });
            match &deleted {
                Ok(true) => task.done("gone"),
                Ok(false) => task.done("was not there"),
                Err(e) => task.fail(&e.to_string()),
            }
            (server.name.clone(), deleted)
        },
    );
    let told = |(server, deleted): &(ServerName, Result<bool>)| match deleted {
        Ok(deleted) => json!({ "server": server, "ok": true, "deleted": deleted }),
        Err(e) => json!({ "server": server, "ok": false, "message": e.to_string() }),
    };
    ui.event("result", json!({ "app": app, "servers": results.iter().map(told).collect::<Vec<_>>() }));
    for (server, deleted) in &results {
        match deleted {
            Ok(true) => ui.success(&format!("{app} is gone from {server}")),
            Ok(false) => ui.success(&format!("{app} was not on {server}")),
            Err(_) => {}
        }
    }
    change::end(ui, "deleted", results, servers.len())
}
