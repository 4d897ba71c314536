//! `tako deploy`: checks everything that can be checked here, then ships. With `--dry-run` it tells what it would do, with
//! `--attach` it joins a deploy that is under way.

mod attach;
mod plan;
pub(crate) mod report;

use std::str::FromStr;
use std::time::{Duration, Instant};

use super::{Exit, aim};
use crate::cli::args::Args;
use crate::cli::build::{self, Order};
use crate::cli::config::inventory::{Inventory, Server};
use crate::cli::config::vault::Vault;
use crate::cli::interrupt::Interrupt;
use crate::cli::project::{Env, Project};
use crate::cli::remote::Place;
use crate::cli::ship::{Shipment, ship};
use crate::cli::ui::{Task, Ui, units};
use crate::error::{Error, Kind, Result};
use crate::proto::control::Secrets;
use crate::proto::name::{EnvName, ServerName};
use crate::proto::version::Version;
use report::{Ending, conclude, tell_result};

/// A deploy that is not over by then will not be.
const MAX_WAIT: Duration = Duration::from_secs(24 * 3600);
/// Sources are mostly read within it; who waits longer is told for what.
const MOMENT: Duration = Duration::from_secs(1);

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
    if args.flag("attach") {
        return attach::run(ui, args, &interrupt);
    }
    let wait = args.parsed::<Wait>("wait")?.map_or(Duration::ZERO, |wait| wait.0);
    let phase = ui.phase("Check");
    let task = ui.task("Check");
    let Checked { project, env_name, order, secrets, servers } = match check(ui, args, &task) {
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
    drop(phase);
    let places: Vec<Place> = servers.into_iter().map(Place::Ssh).collect();
    let shipment = Shipment {
        project: &project,
        env_name: &env_name,
        env,
        order: &order,
        build_anew: args.flag("no-cache"),
        force: args.flag("force"),
        wait,
        version,
        secrets,
        places: &places,
    };
    if args.flag("dry-run") {
        return plan::run(ui, &shipment, &interrupt);
    }
    if env_name.is_production() && ui.is_interactive() && !args.flag("yes") {
        let names = places.iter().map(Place::name).collect::<Vec<_>>().join(", ");
        if !ui.confirm(&format!("deploy to production on {names}?"), "--yes")? {
            return Err(Error::new(Kind::Interrupted, "nothing was deployed"));
        }
    }
    interrupt.check()?;
    let checked = start.elapsed();

    let shipped = ship(ui, &shipment, &interrupt).map_err(|e| match e.kind() {
        Kind::Interrupted => Error::new(Kind::Interrupted, "interrupted; every server is as it was"),
        _ => e,
    })?;
    tell_result(ui, &shipment, &shipped, checked, start.elapsed());
    let ending = Ending {
        env_name: &env_name,
        env,
        version: &shipment.version,
        is_cancelled: interrupt.is_heard(),
        total: Some(start.elapsed()),
    };
    conclude(ui, &ending, shipped.ends)
}

/// All that can be found out without a server. Only the choice of servers asks, and writes, something.
fn check(ui: &Ui, args: &Args, task: &Task) -> Result<Checked> {
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let env = project.env(&env_name)?;
    let wish = aim::preset_wish(args);
    let order = || {
        let _late = task.set_after(MOMENT, "reading the sources");
        build::order(&project, &env.vars, wish)
    };
    let mut ordered = order()?;
    let secrets = secrets(ui, &project, &env_name)?;
    let (servers, written) = servers(ui, args, &project, &env_name, env)?;
    if written {
        // `tako.toml` is a source like any other: the same tree must have the same version the next time.
        ordered = order()?;
    }
    let order = ordered;
    order.notes.iter().for_each(|note| ui.note(note));
    order.warnings.iter().for_each(|warning| ui.warn(warning));
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
    let listed = names.iter().map(ServerName::as_str).collect::<Vec<_>>().join(", ");
    if args.flag("dry-run") {
        // It is a source, and so the version would be another one.
        ui.note(&format!(
            "the deploy would write {listed} into [envs.{env_name}] of tako.toml, which gives a new version"
        ));
        return Ok((chosen, false));
    }
    project.write_servers(env_name, &names)?;
    ui.note(&format!("{env_name} is on {listed} from now on: see [envs.{env_name}] in tako.toml"));
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

/// `--wait`: a number with its unit.
struct Wait(Duration);

impl FromStr for Wait {
    type Err = ();

    fn from_str(s: &str) -> Result<Wait, ()> {
        let (number, unit) = s.split_at(s.find(|c: char| !c.is_ascii_digit()).ok_or(())?);
        let seconds = match unit {
            "s" => 1,
            "m" => 60,
            "h" => 3600,
            _ => return Err(()),
        };
        let wait = Duration::from_secs(number.parse::<u32>().map_err(|_| ())?.into()) * seconds;
        (wait <= MAX_WAIT).then_some(Wait(wait)).ok_or(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_has_a_unit_and_an_end() {
        let check =
            |s: &str, expected: Option<u64>| assert_eq!(s.parse::<Wait>().ok().map(|w| w.0.as_secs()), expected);
        check("90s", Some(90));
        check("5m", Some(300));
        check("24h", Some(86_400));
        for wrong in ["", "5", "m", "5d", "-5m", "25h", "5 m", "99999999999s", "4294967295h", "5µ"] {
            check(wrong, None);
        }
    }
}
