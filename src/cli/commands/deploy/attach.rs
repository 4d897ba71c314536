//! `tako deploy --attach`: joins the deploy that is under way, and ends as it would have: or tells how the last one ended.
//!
//! **Invariant**: it changes nothing; Ctrl-C leaves the servers to it.

use serde_json::json;

use super::report::{Ending, conclude, told, urls};
use crate::cli::args::Args;
use crate::cli::commands::{Exit, aim};
use crate::cli::fanout::{self, CONNECTS};
use crate::cli::interrupt::Interrupt;
use crate::cli::remote::{Place, Remote};
use crate::cli::ship::live::{attach, stand, status};
use crate::cli::ship::tell::{end_badly, went_live};
use crate::cli::ship::{End, Stand};
use crate::cli::ui::{Task, Ui};
use crate::cli::upload::Sent;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Deployed, Joined};
use crate::proto::name::{AppId, ServerName};
use crate::proto::status::AppStatus;
use crate::proto::version::Version;

/// What one server told.
struct Heard {
    server: String,
    about: Option<Joined>,
    /// Afterwards.
    status: Option<AppStatus>,
    result: Result<Deployed>,
}

pub(super) fn run(ui: &Ui, args: &Args, interrupt: &Interrupt) -> Result<Exit> {
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let env = project.env(&env_name)?;
    let app = aim::app(&project, &env_name);
    let servers = aim::servers(&env_name, env, &aim::wanted(args)?)?;
    let tasks: Vec<Task> = servers.iter().map(|server| ui.task(server.name.as_str())).collect();
    let lines = servers.into_iter().map(Place::Ssh).zip(tasks).collect();
    let heard = fanout::each(lines, CONNECTS, |(place, task)| hear(&place, &app, task, interrupt));
    if interrupt.is_heard() {
        let env = if env_name.is_production() { String::new() } else { format!(" --env {env_name}") };
        return Err(Error::new(Kind::Interrupted, "left; what the servers are at they finish by themselves")
            .hint(format!("`tako deploy --attach{env}` joins them again")));
    }
    let Some(version) = newest(&heard) else { return Err(nothing(&app, heard)) };
    let ends: Vec<End> = heard.into_iter().map(|heard| end(heard, &version, interrupt)).collect();
    ui.event(
        "result",
        json!({ "app": project.name, "env": env_name, "version": version, "urls": urls(env), "servers": told(&ends) }),
    );
    conclude(ui, &Ending { env_name: &env_name, env, version: &version, is_cancelled: false, total: None }, ends)
}

fn hear(place: &Place, app: &AppId, task: Task, interrupt: &Interrupt) -> Heard {
    task.set("connecting");
    let server = place.name().to_string();
    let (about, status, result) = match Remote::connect(place, interrupt) {
        Err(e) => (None, None, Err(e)),
        Ok(mut remote) => {
            let (about, result) = attach(&mut remote, app.clone(), &task);
            // Who was not told of a deploy, or of its failure, still knows what it serves.
            let status = if result.is_ok() { None } else { status(&mut remote, app).ok().flatten() };
            (about, status, result)
        }
    };
    match (&result, &status) {
        (Ok(deployed), _) => task.done(&went_live(deployed)),
        (Err(e), Some(AppStatus { version: Some(version), .. })) if e.kind() == Kind::NotFound => {
            task.done(&format!("nothing was deployed lately, {version} is live"));
        }
        (Err(e), _) => end_badly(task, e),
    }
    Heard { server, about, status, result }
}

/// What the youngest of the rollouts is about.
fn newest(heard: &[Heard]) -> Option<Version> {
    let joined = heard.iter().filter_map(|heard| heard.about.as_ref());
    joined.min_by_key(|joined| joined.since_ms).and_then(|joined| joined.version.clone())
}

/// No server knows of a rollout.
fn nothing(app: &AppId, heard: Vec<Heard>) -> Error {
    let count = heard.len();
    let failed = heard
        .into_iter()
        .filter_map(|heard| Some((ServerName::parse(&heard.server).ok()?, heard.result.err()?)))
        .collect();
    aim::failure(failed, count)
        .unwrap_or_else(|| Error::new(Kind::NotFound, format!("nothing of {app} is being deployed")))
}

fn end(heard: Heard, version: &Version, interrupt: &Interrupt) -> End {
    let Heard { server, about, status, result } = heard;
    let is_it = about.is_some_and(|joined| joined.version.as_ref() == Some(version));
    let serves = status.as_ref().and_then(|status| status.version.clone());
    let (stand, result) = match result {
        result if is_it => (stand(&result, interrupt), result),
        // Of another one, or of none since it was started: what it serves counts.
        Ok(deployed) if deployed.version == *version => (Stand::Untouched, Ok(deployed)),
        Ok(deployed) => (Stand::Kept, Err(other(&deployed.version))),
        Err(e) if e.kind() == Kind::NotFound && serves.as_ref() == Some(version) => {
            let instances = status.as_ref().map_or(0, |status| status.wanted);
            (Stand::Untouched, Ok(Deployed { version: version.clone(), previous: None, instances, swaps: Vec::new() }))
        }
        Err(e) => (stand(&Err::<Deployed, _>(Error::new(e.kind(), "")), interrupt), Err(e)),
    };
    End { server, previous: serves, sent: Sent::nothing(0), stand, result }
}

fn other(version: &Version) -> Error {
    Error::new(Kind::Rejected, format!("its last deploy was that of {version}"))
}
