//! `tako status`: what runs where and what it takes, asked of every server of every environment at once; with `--all`, or
//! where there is no `tako.toml`, of every server that is known about every app on it.

use std::collections::BTreeMap;

use serde_json::json;

use super::{Exit, aim, failure};
use crate::cli::args::Args;
use crate::cli::config::inventory::{Inventory, Server};
use crate::cli::interrupt::Interrupt;
use crate::cli::remote::Remote;
use crate::cli::ui::Ui;
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Reply, Request};
use crate::proto::name::{AppId, EnvName, ServerName};
use crate::proto::status::{AppState, AppStatus, InstanceStatus};
use crate::proto::version::Version;

/// What one server said of one app.
struct Found {
    server: ServerName,
    /// `None` when the server was asked for all of its apps and could not answer.
    app: Option<AppId>,
    /// `None` when it has no app of that name.
    status: Result<Option<AppStatus>, Unheard>,
}

/// Why nothing is known; of one server it is the same for all of its apps.
#[derive(Debug, Clone)]
struct Unheard {
    kind: Kind,
    word: &'static str,
    message: String,
}

/// What all of them said, and who did not.
struct Heard {
    found: Vec<Found>,
    asked: Vec<(ServerName, Result<()>)>,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let interrupt = Interrupt::of_process()?;
    let env = args.value("env").map(|_| aim::env_name(args)).transpose()?;
    let heard = match args.flag("all") {
        true => of_servers(ui, args, env.as_ref(), &interrupt)?,
        false if !aim::is_project(args)? => {
            ui.note("there is no tako.toml here, so this is all that runs on the servers you know");
            of_servers(ui, args, env.as_ref(), &interrupt)?
        }
        false => of_project(ui, args, env, &interrupt)?,
    };
    interrupt.check()?;
    tell(ui, &heard.found, args.flag("instances"));
    aim::unanswered(ui, heard.asked)
}

/// The project's app in one environment, or in all of them. Each server is asked once, about all that concerns it.
fn of_project(ui: &Ui, args: &Args, env: Option<EnvName>, interrupt: &Interrupt) -> Result<Heard> {
    let project = aim::project(ui, args)?;
    let wanted = aim::wanted(args)?;
    let one = env.is_some();
    let envs = match env {
        Some(name) => {
            project.env(&name)?;
            vec![name]
        }
        None => project.envs.keys().filter(|name| !name.is_development()).cloned().collect(),
    };
    let mut places: Vec<(AppId, Server)> = Vec::new();
    let (mut elsewhere, mut unmapped) = (None, Vec::new());
    for env_name in envs {
        let Some(env) = project.envs.get(&env_name) else { continue };
        match aim::servers(&env_name, env, &wanted) {
            Ok(servers) => places.extend(servers.into_iter().map(|server| (aim::app(&project, &env_name), server))),
            // Asked for all environments, one that is not on the wanted server, or on none yet, is no error.
            Err(e) if !one && e.kind() == Kind::Usage => elsewhere = Some(e),
            Err(e) if !one && e.kind() == Kind::NeedsInput => ui.note(&format!("{env_name}: {e}")),
            Err(e) if !one && e.kind() == Kind::Config => unmapped.push((env_name, e)),
            Err(e) => return Err(e),
        }
    }
    if places.is_empty()
        && let Some(e) = unmapped.pop().map(|(_, e)| e).or(elsewhere)
    {
        return Err(e);
    }
    for (env_name, e) in unmapped {
        ui.note(&format!("! {env_name}: {e}"));
        e.next_step().iter().for_each(|hint| ui.note(&format!("  hint: {hint}")));
    }
    let mut servers: Vec<Server> = Vec::new();
    for (_, server) in &places {
        if !servers.contains(server) {
            servers.push(server.clone());
        }
    }
    let answers = aim::ask_each(ui, &servers, interrupt, |remote| {
        let here = places.iter().filter(|(_, server)| server.name.as_str() == remote.name());
        let apps: Vec<&AppId> = here.map(|(app, _)| app).collect();
        apps.into_iter().map(|app| Ok((app.clone(), status(remote, app)?))).collect::<Result<BTreeMap<_, _>>>()
    });
    let found = places.into_iter().filter_map(|(app, server)| {
        let (_, answer) = answers.iter().find(|(name, _)| *name == server.name)?;
        let status = answer.as_ref().map(|apps| apps.get(&app).cloned().flatten()).map_err(Unheard::of);
        Some(Found { server: server.name, app: Some(app), status })
    });
    let found = found.collect();
    Ok(Heard { found, asked: answers.into_iter().map(|(server, answer)| (server, answer.map(drop))).collect() })
}

/// Every app on the known servers, or on those that are wanted.
fn of_servers(ui: &Ui, args: &Args, env: Option<&EnvName>, interrupt: &Interrupt) -> Result<Heard> {
    let (inventory, wanted) = (Inventory::load()?, aim::wanted(args)?);
    let servers: Vec<Server> = match wanted.as_slice() {
        [] => inventory.servers().to_vec(),
        names => names.iter().map(|name| inventory.find(name).cloned()).collect::<Result<_>>()?,
    };
    if servers.is_empty() {
        return Err(Error::new(Kind::Config, "no server is known yet").hint("run `tako servers add HOST` first"));
    }
    let (mut found, mut asked) = (Vec::new(), Vec::new());
    for (server, apps) in aim::ask_each(ui, &servers, interrupt, |remote| statuses(remote, None)) {
        match apps {
            Ok(apps) => {
                let wanted = apps.into_iter().filter(|status| env.is_none_or(|env| status.app.env == *env));
                found.extend(wanted.map(|status| Found {
                    server: server.clone(),
                    app: Some(status.app.clone()),
                    status: Ok(Some(status)),
                }));
                asked.push((server, Ok(())));
            }
            Err(e) => {
                found.push(Found { server: server.clone(), app: None, status: Err(Unheard::of(&e)) });
                asked.push((server, Err(e)));
            }
        }
    }
    // By app; who could not answer comes last.
    found.sort_by(|a, b| (a.app.is_none(), &a.app, &a.server).cmp(&(b.app.is_none(), &b.app, &b.server)));
    if found.is_empty() {
        let names = servers.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        ui.note(&format!("no app is on {names}"));
    }
    Ok(Heard { found, asked })
}

impl Unheard {
    fn of(e: &Error) -> Unheard {
        Unheard { kind: e.kind(), word: aim::unanswered_word(e), message: e.to_string() }
    }
}

fn status(remote: &mut Remote, app: &AppId) -> Result<Option<AppStatus>> {
    match statuses(remote, Some(app)) {
        Ok(apps) => Ok(apps.into_iter().find(|status| status.app == *app)),
        Err(e) if e.kind() == Kind::NotFound => Ok(None),
        Err(e) => Err(e),
    }
}

fn statuses(remote: &mut Remote, app: Option<&AppId>) -> Result<Vec<AppStatus>> {
    match remote.call(Request::Status { app: app.cloned() }, &mut |_| {})? {
        Reply::Status(apps) => Ok(apps),
        other => Err(remote.misunderstood(&other)),
    }
}

fn tell(ui: &Ui, all: &[Found], instances: bool) {
    let differ = differing(all);
    if !all.is_empty() {
        let rows: Vec<Vec<String>> = all.iter().map(|found| row(found, &differ)).collect();
        ui.table(&["APP", "ENV", "SERVER", "STATE", "RELEASE", "INST", "CPU", "MEM", "SINCE"], &rows);
    }
    for app in differ.keys() {
        ui.note(&format!("≠ releases of {app} differ between servers: `tako releases ls --env {}`", app.env));
    }
    for (server, status) in there(all) {
        failure::lines(server, status).iter().for_each(|line| ui.note(line));
    }
    // What is true of a server is true of all that it runs: each remark once.
    let mut remarks: BTreeMap<(&ServerName, &String), Vec<String>> = BTreeMap::new();
    for (server, status) in there(all) {
        for remark in &status.remarks {
            remarks.entry((server, remark)).or_default().push(status.app.to_string());
        }
    }
    for ((server, remark), apps) in &remarks {
        ui.note(&format!("· {server}: {}: {remark}", apps.join(", ")));
    }
    if instances {
        for (server, status) in there(all).filter(|(_, status)| !status.instances.is_empty()) {
            ui.caption(&format!("{} in {} on {server}", status.app.app, status.app.env));
            let rows: Vec<Vec<String>> = status.instances.iter().map(|i| instance_row(i, status)).collect();
            let head = ["#", "STATE", "RELEASE", "PID", "PORT", "UP", "CPU", "MEM", "RESTARTS"];
            // Where all is well the last column would only take room.
            let shown = head.len() - usize::from(status.instances.iter().all(|i| i.restarts == 0));
            ui.table(&head[..shown], &rows);
        }
    }
    ui.event("result", json!({ "apps": all.iter().map(told).collect::<Vec<_>>() }));
}

fn there(all: &[Found]) -> impl Iterator<Item = (&ServerName, &AppStatus)> {
    all.iter().filter_map(|found| Some((&found.server, found.status.as_ref().ok()?.as_ref()?)))
}

/// Apps that do not have the same release live on all of their servers, and the one that went live last.
fn differing(all: &[Found]) -> BTreeMap<AppId, Version> {
    let mut versions: BTreeMap<&AppId, BTreeMap<&Version, u64>> = BTreeMap::new();
    for (_, status) in there(all) {
        if let Some(version) = &status.version {
            let since = versions.entry(&status.app).or_default().entry(version).or_default();
            *since = status.since_ms.max(*since);
        }
    }
    let several = versions.into_iter().filter(|(_, versions)| versions.len() > 1);
    let newest = |versions: BTreeMap<&Version, u64>| {
        versions.into_iter().max_by_key(|(_, since)| *since).map(|(version, _)| version.clone())
    };
    several.filter_map(|(app, versions)| Some((app.clone(), newest(versions)?))).collect()
}

fn told(found: &Found) -> serde_json::Value {
    let Found { server, app, status } = found;
    let env = app.as_ref().map(|app| &app.env);
    match status {
        Ok(status) => json!({ "app": app, "env": env, "server": server, "ok": true, "status": status }),
        Err(e) => json!({
            "app": app,
            "env": env,
            "server": server,
            "ok": false,
            "kind": e.kind,
            "message": e.message,
        }),
    }
}

fn row(found: &Found, differ: &BTreeMap<AppId, Version>) -> Vec<String> {
    let dash = || "–".to_string();
    let cells = match &found.status {
        Ok(Some(status)) => {
            let healthy = status.instances.iter().filter(|i| i.state == "healthy").count();
            // On demand, one is what a request would start.
            let wanted = status.wanted.max(1);
            let memory: u64 = status.instances.iter().map(|i| i.memory).sum();
            let permille: u32 = status.instances.iter().map(|i| i.cpu_permille).sum();
            // Those that have not what went live last.
            let differs = differ.get(&status.app).is_some_and(|newest| status.version.as_ref() != Some(newest));
            let mark = if differs { " ≠" } else { "" };
            [
                state(status.state).to_string(),
                status.version.as_ref().map_or_else(dash, |v| format!("{v}{mark}")),
                format!("{healthy}/{wanted}"),
                if status.instances.is_empty() { dash() } else { units::percent(permille) },
                if memory == 0 { dash() } else { units::size(memory) },
                if status.since_ms == 0 { dash() } else { units::age(aim::since(status.since_ms)) },
            ]
        }
        Ok(None) => nothing("○ not deployed"),
        Err(e) => nothing(e.word),
    };
    let named = |name: Option<&str>| name.map_or_else(dash, Into::into);
    let app = found.app.as_ref();
    let place = [named(app.map(|a| a.app.as_str())), named(app.map(|a| a.env.as_str())), found.server.to_string()];
    place.into_iter().chain(cells).collect()
}

fn nothing(state: &str) -> [String; 6] {
    [state, "–", "–", "–", "–", "–"].map(String::from)
}

fn instance_row(instance: &InstanceStatus, status: &AppStatus) -> Vec<String> {
    let InstanceStatus { number, version, pid, port, state, up_ms, memory, cpu_permille, restarts, .. } = instance;
    // Of a rollout, or on its way out.
    let other = if Some(version) == status.version.as_ref() { "" } else { " ≠" };
    let mark = if state == "healthy" { "●" } else { "○" };
    vec![
        number.to_string(),
        format!("{mark} {state}"),
        format!("{version}{other}"),
        pid.to_string(),
        if *port == 0 { "–".into() } else { port.to_string() },
        units::age(std::time::Duration::from_millis(*up_ms)),
        units::percent(*cpu_permille),
        units::size(*memory),
        restarts.to_string(),
    ]
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
    use std::path::Path;

    use super::*;
    use crate::cli::golden;
    use crate::cli::ui::Settings;
    use crate::error::Error;
    use crate::proto::status::{Failure, Waiting};

    fn instance(number: u32, state: &str) -> InstanceStatus {
        InstanceStatus {
            number,
            version: Version::parse("4f2c9ab").unwrap(),
            pid: 31_000 + number,
            port: 40_000,
            state: state.into(),
            up_ms: 7_300_000,
            memory: 59_000_000,
            cpu_ms: 120_000,
            cpu_permille: 32,
            restarts: if state == "healthy" { 0 } else { 7 },
        }
    }

    fn found(server: &str, app: &str, state: AppState, version: &str, instances: Vec<InstanceStatus>) -> Found {
        let app = AppId::parse(app).unwrap();
        let status = AppStatus {
            app: app.clone(),
            state,
            version: Some(Version::parse(version).unwrap()),
            routes: Vec::new(),
            wanted: 2,
            instances,
            since_ms: 0,
            last_failure: None,
            waiting: Vec::new(),
            remarks: Vec::new(),
        };
        Found { server: ServerName::parse(server).unwrap(), app: Some(app), status: Ok(Some(status)) }
    }

    /// Those of the manual, and one whose second instance does not come up.
    fn sample() -> Vec<Found> {
        let two = || vec![instance(1, "healthy"), instance(2, "healthy")];
        let mut all = vec![
            found("fra1", "my-app", AppState::Live, "4f2c9ab", two()),
            found("nyc1", "my-app", AppState::Live, "b81e07c", two()),
            found("fra1", "docs", AppState::Asleep, "91ab3f0", Vec::new()),
            found(
                "sin1",
                "shop",
                AppState::CrashLooping,
                "4f2c9ab",
                vec![instance(1, "healthy"), instance(2, "starting")],
            ),
        ];
        if let Ok(Some(status)) = &mut all[3].status {
            status.last_failure = Some(Failure {
                at_ms: u64::MAX,
                release: Version::parse("4f2c9ab").unwrap(),
                instance: Some(2),
                what: "exited with code 1 before it was ready: nobody listens at 10.0.0.5:5432".into(),
                proof: vec!["Error: connect ECONNREFUSED 10.0.0.5:5432".into()],
                hint: Some("start what should listen there, or correct the address in the vars or secrets".into()),
                exit_code: Some(1),
                signal: None,
            });
            status.waiting = vec![Waiting { number: 2, restarts: 7, next_ms: 11_200 }];
        }
        if let Ok(Some(status)) = &mut all[0].status {
            status.since_ms = u64::MAX;
        }
        let lab = Unheard::of(&Error::new(Kind::Unreachable, "lab: connection timed out after 10s"));
        let api = |status| Found {
            server: ServerName::parse("lab").unwrap(),
            app: Some(AppId::parse("api.staging").unwrap()),
            status,
        };
        all.extend([api(Ok(None)), api(Err(lab))]);
        all
    }

    #[test]
    fn screens_are_as_reviewed() {
        let mut screens = String::new();
        for (name, (ui, out, err)) in [
            ("without a terminal", Ui::captured(Settings::default())),
            ("60 columns", Ui::captured_narrow(true)),
            ("60 columns of ASCII", Ui::captured_narrow(false)),
        ] {
            tell(&ui, &sample(), true);
            screens += &format!("# {name}\n{}# and on standard error\n{}", out.text(), err.text());
        }
        golden::check(Path::new("tests/data/screens/status.txt"), &screens);
    }

    #[test]
    fn a_program_is_told_all_of_it() {
        let (ui, out, _) = Ui::captured(Settings { json: true, ..Settings::default() });
        tell(&ui, &sample(), false);
        let event: serde_json::Value = serde_json::from_str(&out.text()).unwrap();
        let apps = event["apps"].as_array().unwrap();
        assert_eq!(apps.len(), 6);
        assert_eq!(
            (&apps[0]["app"], &apps[0]["env"], &apps[0]["server"]),
            (&json!("my-app"), &json!("production"), &json!("fra1"))
        );
        let instance = &apps[0]["status"]["instances"][1];
        for (name, expected) in
            [("number", 2), ("pid", 31_002), ("cpu_ms", 120_000), ("cpu_permille", 32), ("restarts", 0)]
        {
            assert_eq!(instance[name], expected, "{name}");
        }
        assert_eq!((&apps[4]["ok"], &apps[4]["status"]), (&json!(true), &json!(null)));
        assert_eq!((&apps[5]["ok"], &apps[5]["kind"]), (&json!(false), &json!("unreachable")));
    }
}
