//! `tako status`: what runs where, asked of every server of every environment at once.

use std::collections::BTreeSet;

use serde_json::json;

use super::{Exit, aim};
use crate::cli::args::Args;
use crate::cli::interrupt::Interrupt;
use crate::cli::ui::Ui;
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{AppState, AppStatus, Reply, Request};
use crate::proto::name::{AppId, EnvName, ServerName};
use crate::proto::version::Version;

/// What one server said of one app; `None` when it has none of that name.
type Found = Result<Option<AppStatus>>;
/// An environment, its app, and what each of its servers said.
type Answers = (EnvName, AppId, Vec<(ServerName, Found)>);

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let interrupt = Interrupt::of_process()?;
    let project = aim::project(ui, args)?;
    let envs = match args.value("env") {
        Some(_) => {
            let name = aim::env_name(args)?;
            project.env(&name)?;
            vec![name]
        }
        None => project.envs.keys().filter(|name| !name.is_development()).cloned().collect(),
    };
    let mut all = Vec::new();
    for env_name in envs {
        let Some(env) = project.envs.get(&env_name) else { continue };
        let app = aim::app(&project, &env_name);
        match aim::servers(&env_name, env, &[]) {
            Ok(servers) => {
                let found = aim::on_each(&servers, &interrupt, |remote| status(remote, &app));
                all.push((env_name, app, found));
            }
            // Asked for all environments, one that is on no server yet is no error.
            Err(e) if args.value("env").is_none() && matches!(e.kind(), Kind::NeedsInput | Kind::Config) => {
                ui.note(&format!("{env_name}: {e}"));
            }
            Err(e) => return Err(e),
        }
    }
    interrupt.check()?;
    tell(ui, &all);
    let failed: Vec<(ServerName, Error)> = all
        .into_iter()
        .flat_map(|(_, _, found)| found)
        .filter_map(|(server, found)| Some((server, found.err()?)))
        .collect();
    let count = failed.len();
    match aim::failure(failed, count) {
        Some(e) => Err(e),
        None => Ok(Exit::Done),
    }
}

fn status(remote: &mut crate::cli::remote::Remote, app: &AppId) -> Found {
    match remote.call(Request::Status { app: Some(app.clone()) }, &mut |_| {}) {
        Ok(Reply::Status(apps)) => Ok(apps.into_iter().find(|status| status.app == *app)),
        Ok(other) => Err(remote.misunderstood(&other)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn tell(ui: &Ui, all: &[Answers]) {
    let mut rows = Vec::new();
    let mut remarks = Vec::new();
    let mut events = Vec::new();
    for (env, app, found) in all {
        let live = |found: &Found| found.as_ref().ok().and_then(|s| s.as_ref()?.version.clone());
        let versions: BTreeSet<Version> = found.iter().filter_map(|(_, found)| live(found)).collect();
        if versions.len() > 1 {
            remarks.push(format!("≠ releases of {app} differ between servers: tako releases ls --env {env}"));
        }
        for (server, found) in found {
            rows.push(row(app, env, server, found, versions.len() > 1));
            if let Ok(Some(AppStatus { last_failure: Some(why), .. })) = found {
                remarks.push(format!("! {server}: the last instance that failed: {why}"));
            }
            if let Ok(Some(status)) = found {
                remarks.extend(status.remarks.iter().map(|remark| format!("· {server}: {app}: {remark}")));
            }
            events.push(match found {
                Ok(Some(status)) => json!({ "env": env, "server": server, "ok": true, "status": status }),
                Ok(None) => json!({ "env": env, "server": server, "ok": true, "status": null }),
                Err(e) => json!({ "env": env, "server": server, "ok": false, "message": e.to_string() }),
            });
        }
    }
    if !rows.is_empty() {
        ui.table(&["APP", "ENV", "SERVER", "STATE", "RELEASE", "INST", "MEM", "SINCE"], &rows);
        remarks.iter().for_each(|line| ui.note(line));
    }
    ui.event("result", json!({ "apps": events }));
}

fn row(app: &AppId, env: &EnvName, server: &ServerName, found: &Found, differs: bool) -> Vec<String> {
    let dash = || "–".to_string();
    let cells = match found {
        Ok(Some(status)) => {
            let healthy = status.instances.iter().filter(|i| i.state == "healthy").count();
            // On demand, one is what a request would start.
            let wanted = status.wanted.max(1);
            let memory: u64 = status.instances.iter().map(|i| i.memory).sum();
            let mark = if differs { " ≠" } else { "" };
            [
                state(status.state).to_string(),
                status.version.as_ref().map_or_else(dash, |v| format!("{v}{mark}")),
                format!("{healthy}/{wanted}"),
                if memory == 0 { dash() } else { units::size(memory) },
                if status.since_ms == 0 { dash() } else { units::age(aim::since(status.since_ms)) },
            ]
        }
        Ok(None) => ["○ not deployed".into(), dash(), dash(), dash(), dash()],
        Err(e) if e.kind() == Kind::Unreachable => ["! unreachable".into(), dash(), dash(), dash(), dash()],
        Err(_) => ["! failed".into(), dash(), dash(), dash(), dash()],
    };
    [app.app.to_string(), env.to_string(), server.to_string()].into_iter().chain(cells).collect()
}

fn state(state: AppState) -> &'static str {
    match state {
        AppState::Live => "● live",
        AppState::Degraded => "! degraded",
        AppState::Idle => "○ idle",
        AppState::Asleep => "○ asleep",
        AppState::Failed => "! start failed",
        AppState::Starting => "● starting",
        AppState::Deploying => "● deploying",
        AppState::CrashLooping => "! crash-looping",
        AppState::Unknown => "? unknown",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::InstanceStatus;

    #[test]
    fn a_row_tells_state_release_and_instances_of_one_server() {
        let instance = |state: &str| InstanceStatus {
            number: 1,
            version: Version::parse("4f2c9ab").unwrap(),
            pid: 1,
            port: 1,
            state: state.into(),
            up_ms: 1,
            memory: 59_000_000,
        };
        let status = AppStatus {
            app: AppId::parse("shop").unwrap(),
            state: AppState::Degraded,
            version: Some(Version::parse("4f2c9ab").unwrap()),
            routes: Vec::new(),
            wanted: 2,
            instances: vec![instance("healthy"), instance("starting")],
            since_ms: 0,
            last_failure: None,
            remarks: Vec::new(),
        };
        let (app, env, server) = (&status.app.clone(), &EnvName::production(), &ServerName::parse("fra1").unwrap());
        let cells = |found: Found, differs| row(app, env, server, &found, differs)[2..].join(" ");
        assert_eq!(cells(Ok(Some(status.clone())), true), "fra1 ! degraded 4f2c9ab ≠ 1/2 118 MB –");
        let asleep = AppStatus { state: AppState::Asleep, wanted: 0, instances: Vec::new(), ..status };
        assert_eq!(cells(Ok(Some(asleep)), false), "fra1 ○ asleep 4f2c9ab 0/1 – –");
        assert_eq!(cells(Ok(None), false), "fra1 ○ not deployed – – – –");
        assert_eq!(cells(Err(Error::new(Kind::Unreachable, "x")), false), "fra1 ! unreachable – – – –");
    }
}
