//! `tako deploy`: checks everything that can be checked here, then ships.

use std::time::{Duration, Instant};

use serde_json::json;

use super::{Exit, aim, change};
use crate::cli::args::Args;
use crate::cli::build::{self, Order};
use crate::cli::config::inventory::{Inventory, Server};
use crate::cli::config::vault::Vault;
use crate::cli::interrupt::Interrupt;
use crate::cli::project::{Env, Project};
use crate::cli::remote::Place;
use crate::cli::ship::{End, Shipment, Shipped, ship};
use crate::cli::ui::Ui;
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::control::Secrets;
use crate::proto::name::{EnvName, ServerName};
use crate::proto::version::Version;

/// Lines of an instance's last output in the report.
const SHOWN: usize = 20;

/// What the checks found.
struct Checked {
    project: Project,
    env_name: EnvName,
    order: Order,
    secrets: Secrets,
    servers: Vec<Server>,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let start = Instant::now();
    let interrupt = Interrupt::of_process()?;
    let task = ui.task("Check");
    let Checked { project, env_name, order, secrets, servers } = match check(ui, args) {
        Ok(checked) => checked,
        Err(e) => {
            // Why is told once, at the end.
            task.fail("nothing was changed");
            return Err(e);
        }
    };
    let env = project.env(&env_name)?;
    let version = order.source.version.clone();
    ui.heading(&heading(&project, &env_name, &version, order.source.subject.as_deref()));
    let (routes, secret_count) =
        (units::count(env.routes.len(), "route"), units::count(secrets.values.len(), "secret"));
    task.done(&format!("config, {routes}, {secret_count}"));
    if env_name.is_production() && ui.is_interactive() && !args.flag("yes") {
        let names = servers.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
        if !ui.confirm(&format!("deploy to production on {names}?"), "--yes")? {
            return Err(Error::new(Kind::Interrupted, "nothing was deployed"));
        }
    }
    interrupt.check()?;
    let checked = start.elapsed();

    let places: Vec<Place> = servers.into_iter().map(Place::Ssh).collect();
    let shipment = Shipment {
        project: &project,
        env_name: &env_name,
        env,
        order: &order,
        build_anew: args.flag("no-cache"),
        version,
        secrets,
        places: &places,
    };
    let shipped = ship(ui, &shipment, &interrupt).map_err(|e| match e.kind() {
        Kind::Interrupted => Error::new(Kind::Interrupted, "interrupted; every server is as it was"),
        _ => e,
    })?;
    tell_result(ui, &shipment, &shipped, checked, start.elapsed());
    if interrupt.is_heard() && shipped.ends.iter().any(|end| end.result.is_err()) {
        return Err(Error::new(Kind::Interrupted, "interrupted while the servers were deploying")
            .hint("they finish or go back by themselves; `tako status` shows how it ended"));
    }
    conclude(ui, &shipment, shipped, start.elapsed())
}

/// All that can be found out without a server. Only the choice of servers asks, and writes, something.
fn check(ui: &Ui, args: &Args) -> Result<Checked> {
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let env = project.env(&env_name)?;
    let wish = aim::preset_wish(args);
    let mut order = build::order(&project, wish)?;
    let secrets = secrets(ui, &project, &env_name)?;
    let (servers, written) = servers(ui, args, &project, &env_name, env)?;
    if written {
        // `tako.toml` is a source like any other: the same tree must have the same version the next time.
        order = build::order(&project, wish)?;
    }
    order.notes.iter().for_each(|note| ui.note(note));
    Ok(Checked { project, env_name, order, secrets, servers })
}

/// All secrets of the environment, if none is missing that another one has; what another one lacks is worth a word.
pub(crate) fn secrets(ui: &Ui, project: &Project, env: &EnvName) -> Result<Secrets> {
    let vault = Vault::load(&project.dir, &project.name)?;
    let missing = vault.missing(env);
    if let Some((first, _)) = missing.first() {
        let lines = missing.iter().map(|(name, other)| format!("{name} is set in {other}")).collect();
        return Err(Error::new(Kind::Config, format!("{env} lacks {}", units::count(missing.len(), "secret")))
            .with_detail(lines)
            .hint(format!("run `tako secrets set {first} --env {env}`")));
    }
    if let Some((name, other)) = vault.extra(env).first() {
        ui.warn(&format!("{env} has {name}, which {other} lacks: a deploy there will be refused"));
    }
    vault.open(env)
}

/// The servers to deploy to; a choice that was made here is written into `tako.toml`, which is told too.
fn servers(ui: &Ui, args: &Args, project: &Project, env_name: &EnvName, env: &Env) -> Result<(Vec<Server>, bool)> {
    let inventory = Inventory::load()?;
    let find = |name: &ServerName| inventory.find(name).cloned();
    let chosen = match aim::mapping(env_name, env, inventory.servers(), &aim::wanted(args)?, find)? {
        aim::Mapping::Written(servers) => return Ok((servers, false)),
        aim::Mapping::OnlyOne(server) => vec![server],
        aim::Mapping::Named(servers) => servers,
        aim::Mapping::Open(known) if ui.is_interactive() => ask(ui, env_name, &known)?,
        aim::Mapping::Open(known) => return Err(aim::undecided(env_name, &known)),
    };
    let names: Vec<ServerName> = chosen.iter().map(|s| s.name.clone()).collect();
    project.write_servers(env_name, &names)?;
    let names = names.iter().map(ServerName::as_str).collect::<Vec<_>>().join(", ");
    ui.note(&format!("{env_name} is on {names} from now on: see [envs.{env_name}] in tako.toml"));
    Ok((chosen, true))
}

fn ask(ui: &Ui, env_name: &EnvName, known: &[Server]) -> Result<Vec<Server>> {
    let names = known.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    let answer = ui.ask(&format!("which servers is {env_name} on? ({names})"), None, "--server NAME")?;
    let chosen: Vec<&str> = answer.split([',', ' ']).filter(|name| !name.is_empty()).collect();
    let find = |name: &&str| {
        let found = known.iter().find(|s| s.name.as_str() == *name).cloned();
        found.ok_or_else(|| Error::new(Kind::NotFound, format!("there is no server `{}`", name.escape_debug())))
    };
    match chosen.is_empty() {
        true => Err(Error::new(Kind::NeedsInput, "no server was chosen").hint("give --server NAME")),
        false => chosen.iter().map(find).collect(),
    }
}

fn heading(project: &Project, env: &EnvName, version: &Version, subject: Option<&str>) -> String {
    let subject = subject.map_or_else(String::new, |s| format!(" \"{s}\""));
    format!("{} → {env}   {version}{subject}", project.name)
}

/// The `result` event.
pub(crate) fn tell_result(ui: &Ui, shipment: &Shipment<'_>, shipped: &Shipped, check: Duration, total: Duration) {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let times = &shipped.times;
    ui.event(
        "result",
        json!({
            "app": shipment.project.name,
            "env": shipment.env_name,
            "version": shipment.version,
            "urls": urls(shipment.env),
            "servers": shipped.ends.iter().map(told).collect::<Vec<_>>(),
            "artifacts": shipped.built.iter().map(|built| json!({
                "target": built.target,
                "bytes": built.packed.bytes,
                "unpacked": built.packed.unpacked,
                "cached": built.cached,
            })).collect::<Vec<_>>(),
            "durations_ms": {
                "check": ms(check),
                "build": ms(times.build),
                "connect": ms(times.connect),
                "upload": ms(times.upload),
                "deploy": ms(times.deploy),
                "total": ms(total),
            },
        }),
    );
}

/// How it ended on one server, and what was sent there.
fn told(end: &End) -> serde_json::Value {
    let mut told = change::told(&end.server, end.previous.as_ref(), &end.result);
    told["sent"] = json!(end.sent);
    told
}

/// The last words, and the exit code.
fn conclude(ui: &Ui, shipment: &Shipment<'_>, shipped: Shipped, total: Duration) -> Result<Exit> {
    let live = shipped.ends.iter().filter(|end| end.result.is_ok()).count();
    if live == shipped.ends.len() {
        ui.success(&format!("Live in {}   {}", units::duration(total), urls(shipment.env).join("  ")));
        return Ok(Exit::Done);
    }
    let error = report(&shipment.version, shipped.ends);
    if live == 0 {
        return Err(error);
    }
    ui.error(&error);
    Ok(Exit::Partly)
}

/// A server, what served there before, and why it does not serve the new one.
type Failed = (String, Option<Version>, Error);

/// One error for all that failed: what runs where, the last output, and what to do. It is never called when all is well.
fn report(version: &Version, ends: Vec<End>) -> Error {
    let count = ends.len();
    let (live, failed): (Vec<End>, Vec<End>) = ends.into_iter().partition(|end| end.result.is_ok());
    let mut failed: Vec<Failed> =
        failed.into_iter().filter_map(|end| Some((end.server, end.previous, end.result.err()?))).collect();
    if let (true, [_]) = (live.is_empty(), failed.as_slice()) {
        let (server, previous, error) = failed.remove(0);
        return alone(&server, previous.as_ref(), error);
    }
    let mut lines = Vec::new();
    if !live.is_empty() {
        let names: Vec<&str> = live.iter().map(|end| end.server.as_str()).collect();
        lines.push(format!("live   {}   {version}", names.join(", ")));
    }
    // Servers on which the same happened are told together.
    let same = |a: &Failed, b: &Failed| (&a.1, a.2.to_string(), a.2.detail()) == (&b.1, b.2.to_string(), b.2.detail());
    for group in failed.chunk_by(same) {
        let (_, previous, error) = &group[0];
        let servers: Vec<&str> = group.iter().map(|(server, ..)| server.as_str()).collect();
        lines.push(format!("{}   {}   {error}", state_of(error), servers.join(", ")));
        lines.extend(shown(error).iter().map(|line| format!("  │ {line}")));
        lines.extend(previous.iter().map(|previous| {
            format!(
                "  ↩ {previous} {}",
                match state_of(error) {
                    "kept" => "keeps serving",
                    _ => "served before",
                }
            )
        }));
    }
    // Where the causes differ, what they have in common is that the release did not come up.
    let kind = failed.first().map_or(Kind::Rejected, |(_, _, first)| first.kind());
    let kind = if failed.iter().all(|(_, _, e)| e.kind() == kind) { kind } else { Kind::Rejected };
    let back = match live.first().and_then(|end| end.previous.as_ref()) {
        Some(previous) => format!("; `tako releases rollback {previous}` puts every server back"),
        None => String::new(),
    };
    let on = if live.is_empty() { "none".into() } else { live.len().to_string() };
    let next = match kind {
        Kind::Rejected => "find out why, then `tako deploy` again",
        _ => "`tako deploy` tries again and sends only what is missing",
    };
    Error::new(kind, format!("{version} is live on {on} of {count} servers"))
        .with_detail(lines)
        .hint(format!("{next}{back}"))
}

/// The only server there is: its own error is the whole story.
fn alone(server: &str, previous: Option<&Version>, error: Error) -> Error {
    let mut lines = shown(&error).to_vec();
    lines.extend(previous.filter(|_| state_of(&error) == "kept").map(|p| format!("↩ kept {p} serving")));
    let text = aim::named(server, &error);
    let hint = error.next_step().unwrap_or("find out why, then `tako deploy` again").to_string();
    Error::new(error.kind(), text).with_detail(lines).hint(hint)
}

/// A server that fell silent may have gone on.
fn state_of(error: &Error) -> &'static str {
    match error.kind() {
        Kind::Unreachable | Kind::Timeout | Kind::Interrupted => "unknown",
        _ => "kept",
    }
}

fn shown(error: &Error) -> &[String] {
    &error.detail()[error.detail().len().saturating_sub(SHOWN)..]
}

fn urls(env: &Env) -> Vec<String> {
    env.routes.iter().map(|route| route.url().unwrap_or_else(|| format!("https://{route}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::upload::Sent;
    use crate::proto::control::Deployed;

    fn version(s: &str) -> Version {
        Version::parse(s).unwrap()
    }

    fn end(server: &str, result: Result<()>) -> End {
        let deployed = Deployed { version: version("4f2c9ab"), previous: None, instances: 1, swaps: Vec::new() };
        let (previous, sent) = (Some(version("b81e07c")), Sent::nothing(1));
        End { server: server.into(), previous, sent, result: result.map(|()| deployed) }
    }

    fn rejected() -> Error {
        Error::new(Kind::Rejected, "instance 1 of 2 not ready after 30s").with_detail(vec!["Error: no database".into()])
    }

    #[test]
    fn one_server_that_refused_tells_its_last_output_and_what_still_serves() {
        let e = report(&version("4f2c9ab"), vec![end("fra1", Err(rejected()))]);
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Rejected, "fra1: instance 1 of 2 not ready after 30s"));
        assert_eq!(e.detail(), ["Error: no database", "↩ kept b81e07c serving"]);
    }

    #[test]
    fn servers_that_differ_are_listed_with_what_runs_where() {
        let ends = vec![end("fra1", Ok(())), end("nyc1", Err(rejected())), end("sin1", Ok(()))];
        let e = report(&version("4f2c9ab"), ends);
        assert_eq!(e.to_string(), "4f2c9ab is live on 2 of 3 servers");
        let expected = [
            "live   fra1, sin1   4f2c9ab",
            "kept   nyc1   instance 1 of 2 not ready after 30s",
            "  │ Error: no database",
            "  ↩ b81e07c keeps serving",
        ];
        assert_eq!(e.detail(), expected);
        assert!(e.next_step().is_some_and(|hint| hint.contains("rollback b81e07c")));
    }

    #[test]
    fn what_a_lost_server_serves_is_not_claimed() {
        let lost = || Error::new(Kind::Unreachable, "nyc1: the connection was lost");
        let e = report(&version("4f2c9ab"), vec![end("nyc1", Err(lost()))]);
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Unreachable, "nyc1: the connection was lost"));
        assert!(e.detail().is_empty());
        // Where the causes differ the kind is that of a deploy that failed.
        let e = report(&version("4f2c9ab"), vec![end("nyc1", Err(lost())), end("fra1", Err(rejected()))]);
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Rejected, "4f2c9ab is live on none of 2 servers"));
        assert!(e.detail()[0].starts_with("unknown   nyc1"), "{:?}", e.detail());
    }
}
