//! Change: what `scale`, `releases rollback` and the like have in common: one request that rolls instances on every
//! server of an environment, each server on its own.

use serde_json::{Value, json};

use super::{Exit, aim};
use crate::cli::config::inventory::Server;
use crate::cli::fanout::{self, CONNECTS};
use crate::cli::interrupt::Interrupt;
use crate::cli::remote::{Place, Remote};
use crate::cli::ship::tell::{beyond_boot, step_words};
use crate::cli::ui::Ui;
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Deployed, Reply, Request};
use crate::proto::name::ServerName;
use crate::proto::version::Version;

/// Asks every server, shows a line for each, and tells how it ended.
pub(crate) fn on_servers(
    ui: &Ui,
    servers: Vec<Server>,
    interrupt: &Interrupt,
    request: impl Fn() -> Request + Sync,
) -> Result<Exit> {
    let count = servers.len();
    let lines = servers.into_iter().map(|server| (ui.task(server.name.as_str()), server)).collect();
    let results = fanout::each(lines, CONNECTS, |(task, server)| {
        task.set("connecting");
        let changed = Remote::connect(&Place::Ssh(server.clone()), interrupt).and_then(|mut remote| {
            let reply = remote.call(request(), &mut |notice| {
                if let Some(words) = step_words(&notice) {
                    task.set(&words);
                }
            })?;
            match reply {
                Reply::Deployed(deployed) => Ok(deployed),
                other => Err(remote.misunderstood(&other)),
            }
        });
        match &changed {
            Ok(deployed) => task.done(&shown(deployed)),
            Err(e) => task.fail(&e.to_string()),
        }
        (server.name, changed)
    });
    conclude(ui, results, count)
}

fn conclude(ui: &Ui, results: Vec<(ServerName, Result<Deployed>)>, count: usize) -> Result<Exit> {
    let told: Vec<Value> = results.iter().map(|(server, changed)| told(server.as_str(), None, changed)).collect();
    let mut versions = results.iter().filter_map(|(_, changed)| Some(&changed.as_ref().ok()?.version));
    let first = versions.next();
    // One version only if all servers agree on it.
    let version = first.filter(|first| versions.all(|other| other == *first));
    ui.event("result", json!({ "version": version, "servers": told }));
    end(ui, "changed", results, count)
}

/// How it ended on all of them together; that `what` was done on some alone is told with what is where.
pub(crate) fn end<T>(ui: &Ui, what: &str, results: Vec<(ServerName, Result<T>)>, count: usize) -> Result<Exit> {
    let (mut done, mut failed): (Vec<ServerName>, Vec<(ServerName, Error)>) = Default::default();
    for (server, result) in results {
        match result {
            Ok(_) => done.push(server),
            Err(e) => failed.push((server, e)),
        }
    }
    if failed.iter().any(|(_, e)| e.kind() == Kind::Interrupted) {
        return Err(left_to_it(&done, &failed));
    }
    match (done.as_slice(), failed.as_slice()) {
        (_, []) => Ok(Exit::Done),
        ([], _) => aim::failure(failed, count).map_or(Ok(Exit::Done), Err),
        _ => {
            ui.error(&aim::partly(what, &done, &failed));
            Ok(Exit::Partly)
        }
    }
}

/// A server that was asked is not called back.
fn left_to_it(done: &[ServerName], failed: &[(ServerName, Error)]) -> Error {
    let names = |all: &[&ServerName]| all.iter().map(|server| server.as_str()).collect::<Vec<_>>().join(", ");
    let (open, failed): (Vec<_>, Vec<_>) = failed.iter().partition(|(_, e)| e.kind() == Kind::Interrupted);
    let mut detail = match done {
        [] => Vec::new(),
        done => vec![format!("done      {}", names(&done.iter().collect::<Vec<_>>()))],
    };
    detail.push(format!("not known {}", names(&open.iter().map(|(server, _)| server).collect::<Vec<_>>())));
    detail.extend(failed.iter().map(|(server, e)| format!("failed    {}", aim::named(server.as_str(), e))));
    Error::new(Kind::Interrupted, "interrupted; what a server has begun it finishes by itself")
        .with_detail(detail)
        .hint("`tako status` shows how it ended")
}

/// How it ended on one server, in the `result` event of every command that rolls instances. `kept` is what serves there
/// when it failed.
pub(crate) fn told(server: &str, kept: Option<&Version>, result: &Result<Deployed>) -> Value {
    match result {
        Ok(Deployed { version, previous, instances, swaps }) => json!({
            "server": server,
            "ok": true,
            "version": version,
            "previous": previous,
            "instances": instances,
            "swaps": swaps,
        }),
        Err(e) => told_failure(server, kept, e),
    }
}

pub(crate) fn told_failure(server: &str, kept: Option<&Version>, e: &Error) -> Value {
    json!({
        "server": server,
        "ok": false,
        "version": kept,
        "kind": e.kind(),
        "message": e.to_string(),
        "detail": e.detail(),
    })
}

fn shown(deployed: &Deployed) -> String {
    let what = match deployed.instances {
        0 => format!("{} live on demand", deployed.version),
        n => format!("{} live · {}", deployed.version, units::count(n as usize, "instance")),
    };
    match beyond_boot(deployed).into_iter().max() {
        Some(swap) => format!("{what} · serving {} after ready", units::swap(swap)),
        None => what,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::ui::Settings;

    #[test]
    fn after_ctrl_c_it_is_told_that_servers_go_on_by_themselves() {
        let name = |s| ServerName::parse(s).unwrap();
        let e = |kind, text: &str| Err::<(), _>(Error::new(kind, text));
        let (ui, _, _) = Ui::captured(Settings::default());
        let results = vec![
            (name("fra1"), Ok(())),
            (name("nyc1"), e(Kind::Interrupted, "interrupted")),
            (name("sin1"), e(Kind::Unreachable, "sin1: gone")),
        ];
        let e = end(&ui, "changed", results, 3).unwrap_err();
        assert_eq!((e.kind(), e.next_step()), (Kind::Interrupted, Some("`tako status` shows how it ended")));
        assert_eq!(e.detail(), ["done      fra1", "not known nyc1", "failed    sin1: gone"]);
    }
}
