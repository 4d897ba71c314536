//! `tako rehearse`: the real pipeline against a private `tako-server` on this machine: no root, no ssh, no server.
//!
//! With `--traffic` it deploys a second time while requests arrive, and counts those that failed. The expected number
//! is zero.

mod private;
mod traffic;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crossbeam_channel::select;
use serde_json::json;

use super::deploy::report::tell_result;
use super::deploy::secrets;
use super::{Exit, aim};
use crate::cli::args::Args;
use crate::cli::build::{self, Order};
use crate::cli::interrupt::Interrupt;
use crate::cli::project::{Env, Project};
use crate::cli::remote::Place;
use crate::cli::ship::tell::beyond_boot;
use crate::cli::ship::{Shipment, Shipped, ship};
use crate::cli::ui::Ui;
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Deployed, Info, Secrets};
use crate::proto::name::EnvName;
use crate::proto::route::Route;
use crate::proto::version::Version;
use private::Private;
use traffic::{Count, Target, Traffic};

/// Traffic before and after the second deploy, so that its beginning and end are covered.
const MARGIN: Duration = Duration::from_millis(700);
/// How often a server that is kept is looked after.
const LOOK: Duration = Duration::from_millis(500);

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let interrupt = Interrupt::of_process()?;
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let env = rehearsed(&project, &env_name)?;
    let reading = ui.waiting("Check", "reading the sources");
    let order = build::order(&project, &env.vars, aim::preset_wish(args))?;
    drop(reading);
    order.notes.iter().for_each(|note| ui.note(note));
    order.warnings.iter().for_each(|warning| ui.warn(warning));
    let secrets = secrets(ui, &project, &env_name)?;

    let task = ui.task("Server");
    let mut private = match Private::start(&interrupt) {
        Ok(private) => private,
        Err(e) => {
            task.fail(&e.to_string());
            return Err(e);
        }
    };
    let info = match private.info(&interrupt) {
        Ok(info) => info,
        Err(e) => {
            task.fail(&e.to_string());
            return Err(e.with_detail(private.log()));
        }
    };
    task.done(&format!("tako-server {} on loopback", info.server));
    let play = Play {
        ui,
        interrupt: &interrupt,
        project: &project,
        env_name: &env_name,
        env: &env,
        order: &order,
        secrets: &secrets,
    };
    let (keeps, with_traffic) = (args.flag("keep"), args.flag("traffic"));
    let played = play.all(&private, &info, args.flag("no-cache"), with_traffic, keeps);
    match played {
        Err(e) if matches!(e.kind(), Kind::Interrupted | Kind::Build | Kind::Config) => return Err(e),
        Err(e) => {
            private.log().iter().for_each(|line| ui.detail(line));
            return Err(alone(e, &private));
        }
        Ok(()) => {}
    }
    if keeps {
        ui.note("serving until Ctrl-C");
        keep(&mut private, &interrupt)?;
    } else if !with_traffic {
        ui.note("  it has answered and is gone again; `--keep` leaves it running, to look at");
    }
    Ok(Exit::Done)
}

/// With a next step that can still be taken when the server and its folder are gone.
fn alone(e: Error, private: &Private) -> Error {
    match e.next_step().map(|hint| without_server(hint, &private.folder().display().to_string())) {
        Some(hint) => e.hint(hint),
        None => e,
    }
}

/// A hint without the clauses that send one to the server's files or its logs.
fn without_server(hint: &str, folder: &str) -> String {
    let lasts = |clause: &&str| !clause.contains(folder) && !clause.contains("`tako logs`");
    match hint.split("; ").filter(lasts).collect::<Vec<_>>() {
        none if none.is_empty() => {
            "that is the beginning and the end of what it said; the rest went with the server".into()
        }
        clauses => clauses.join("; "),
    }
}

/// What every step of a rehearsal needs.
struct Play<'a> {
    ui: &'a Ui,
    interrupt: &'a Interrupt,
    project: &'a Project,
    env_name: &'a EnvName,
    env: &'a Env,
    order: &'a Order,
    secrets: &'a Secrets,
}

impl Play<'_> {
    fn all(&self, private: &Private, info: &Info, build_anew: bool, with_traffic: bool, keeps: bool) -> Result<()> {
        let first = self.order.source.version.clone();
        let place = private.place();
        self.deploy(&place, &first, build_anew)?;
        // An address at which nobody answers any more helps nobody.
        if keeps {
            self.tell_urls(info);
        }
        if !with_traffic {
            return Ok(());
        }
        let second = Version::parse(&format!("{first}-again"))?;
        let target = target(self.env, info)?;
        let traffic = Traffic::start(&target)?;
        let kinds = traffic.kinds.clone();
        self.pause()?;
        let again = self.deploy(&place, &second, false);
        let paused = self.pause();
        let count = traffic.finish();
        let deployed = again.and_then(|deployed| paused.map(|()| deployed))?;
        self.tell_traffic(&first, &second, &kinds, &count, &deployed);
        match count.failed {
            0 => Ok(()),
            n => Err(Error::new(Kind::Io, format!("{n} of {} requests failed during the deploy", count.sent))
                .with_detail(count.first_failure.into_iter().collect())),
        }
    }

    /// The same steps as a real deploy, to the one private server.
    fn deploy(&self, place: &Place, version: &Version, build_anew: bool) -> Result<Deployed> {
        let start = Instant::now();
        self.ui.heading(&format!("{} → rehearsal   {version}", self.project.name));
        let shipment = Shipment {
            project: self.project,
            env_name: self.env_name,
            env: self.env,
            order: self.order,
            build_anew,
            // The server is new.
            force: true,
            wait: Duration::ZERO,
            version: version.clone(),
            secrets: self.secrets.clone(),
            places: std::slice::from_ref(place),
        };
        let shipped = ship(self.ui, &shipment, self.interrupt)?;
        tell_result(self.ui, &shipment, &shipped, Duration::ZERO, start.elapsed());
        let Shipped { ends, .. } = shipped;
        let end = ends.into_iter().next().ok_or_else(|| Error::new(Kind::Bug, "the deploy had no server"))?;
        let deployed = end.result?;
        self.ui.success(&format!("Live in {}", units::duration(start.elapsed())));
        Ok(deployed)
    }

    fn tell_urls(&self, info: &Info) {
        let Some(port) = port_of(&info.https) else { return };
        for route in &self.env.routes {
            let host = host_of(route);
            self.ui.out(&format!("https://{host}:{port}{}", route.path_prefix()));
            self.ui.note(&format!(
                "  curl -k --resolve {host}:{port}:127.0.0.1 https://{host}:{port}{}",
                route.path_prefix()
            ));
        }
    }

    fn tell_traffic(&self, first: &Version, second: &Version, kinds: &[&str], count: &Count, deployed: &Deployed) {
        let spread = Spread::of(beyond_boot(deployed));
        self.ui.out(&format!("{first} → {second}"));
        self.ui.out(&format!("{} requests sent ({}) · {} failed", count.sent, kinds.join(", "), count.failed));
        if let Some(Spread { min, median, max }) = spread {
            let [min, median, max] = [min, median, max].map(units::swap);
            self.ui.out(&format!("swap beyond the app's own boot: min {min} · median {median} · max {max}"));
        }
        self.ui.event(
            "rehearsal",
            json!({
                "versions": [first, second],
                "requests": count.sent,
                "failed": count.failed,
                "first_failure": count.first_failure,
                "kinds": kinds,
                "swaps": deployed.swaps,
            }),
        );
    }

    fn pause(&self) -> Result<()> {
        let [signal, sibling] = self.interrupt.bells();
        select! {
            recv(signal) -> _ => {}
            recv(sibling) -> _ => {}
            default(MARGIN) => {}
        }
        self.interrupt.check()
    }
}

/// The environment as it is deployed; one without routes gets a name that every browser resolves to this machine.
fn rehearsed(project: &Project, env_name: &EnvName) -> Result<Env> {
    match project.envs.get(env_name) {
        Some(env) if !env.routes.is_empty() => project.env(env_name).cloned(),
        Some(env) => Ok(Env { routes: vec![own_route(project)?], ..env.clone() }),
        None if env_name.is_production() => Ok(Env {
            routes: vec![own_route(project)?],
            servers: Vec::new(),
            instances: 1,
            limits: project.limits.clone(),
            vars: project.vars.clone(),
            per_server: BTreeMap::new(),
        }),
        // The project's own words for it.
        None => project.env(env_name).cloned(),
    }
}

fn own_route(project: &Project) -> Result<Route> {
    Route::parse(&format!("{}.localhost", project.name))
}

/// A wildcard stands for some name below it.
fn host_of(route: &Route) -> String {
    match route.is_wildcard() {
        true => format!("rehearsal.{}", route.host()),
        false => route.host().to_string(),
    }
}

fn target(env: &Env, info: &Info) -> Result<Target> {
    let address = info.http.first().and_then(|address| address.parse::<SocketAddr>().ok());
    let address = address.ok_or_else(|| Error::new(Kind::Bug, "the private server names no HTTP address"))?;
    let route = env.routes.first().ok_or_else(|| Error::new(Kind::Config, "the environment has no route"))?;
    let path = if route.path_prefix().is_empty() { "/".into() } else { route.path_prefix().to_string() };
    Ok(Target { address, host: host_of(route), path })
}

fn port_of(addresses: &[String]) -> Option<u16> {
    addresses.first()?.parse::<SocketAddr>().ok().map(|address| address.port())
}

/// Until Ctrl-C, which is how it is meant to end.
fn keep(private: &mut Private, interrupt: &Interrupt) -> Result<()> {
    while !interrupt.is_heard() {
        if private.has_ended() {
            return Err(Error::new(Kind::Io, "the private tako-server ended by itself").with_detail(private.log()));
        }
        let [signal, sibling] = interrupt.bells();
        select! {
            recv(signal) -> _ => {}
            recv(sibling) -> _ => {}
            default(LOOK) => {}
        }
    }
    Ok(())
}

#[derive(Debug, PartialEq, Eq)]
struct Spread {
    min: Duration,
    median: Duration,
    max: Duration,
}

impl Spread {
    fn of(mut times: Vec<Duration>) -> Option<Spread> {
        times.sort();
        Some(Spread { min: *times.first()?, median: times[times.len() / 2], max: *times.last()? })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::manifest::Limits;

    #[test]
    fn the_spread_of_swaps() {
        let ms = Duration::from_millis;
        assert_eq!(Spread::of(Vec::new()), None);
        let spread = Spread::of(vec![ms(9), ms(1), ms(3)]).unwrap();
        assert_eq!(spread, Spread { min: ms(1), median: ms(3), max: ms(9) });
    }

    #[test]
    fn a_hint_sends_nobody_to_a_server_that_is_gone() {
        let check = |hint: &str, expected: &str| assert_eq!(without_server(hint, "/tmp/r-1"), expected);
        check("make it listen on $PORT; see the docs", "make it listen on $PORT; see the docs");
        check("fix the app and deploy again; see `tako logs` for all that was said", "fix the app and deploy again");
        let gone = "that is the beginning and the end of what it said; the rest went with the server";
        check("all that it said is in /tmp/r-1/data/apps/a/install.log on the server", gone);
    }

    #[test]
    fn a_project_that_says_no_environment_is_rehearsed_with_its_variables() {
        let dir = tempfile::tempdir().unwrap();
        let text = "name = \"shop\"\nruntime = \"node\"\n\n[vars]\nVITE_API = \"/api\"\n";
        std::fs::write(dir.path().join("tako.toml"), text).unwrap();
        let project = Project::load(dir.path(), &mut |w| panic!("{w}")).unwrap();
        let env = rehearsed(&project, &EnvName::production()).unwrap();
        assert_eq!(env.routes[0].to_string(), "shop.localhost");
        assert_eq!(env.vars["VITE_API"], "/api");
        let staging = EnvName::parse("staging").unwrap();
        assert_eq!(rehearsed(&project, &staging).unwrap_err().kind(), Kind::Config);
    }

    #[test]
    fn requests_go_to_the_first_route() {
        let check = |route: &str, host: &str, path: &str| {
            let env = Env {
                routes: vec![Route::parse(route).unwrap()],
                servers: Vec::new(),
                instances: 1,
                limits: Limits::default(),
                vars: BTreeMap::new(),
                per_server: BTreeMap::new(),
            };
            let info = Info {
                server: "1".into(),
                target: crate::proto::target::Target::parse("linux-x86_64-glibc").unwrap(),
                pid: 1,
                http: vec!["127.0.0.1:8080".into()],
                https: Vec::new(),
                data_dir: "/".into(),
                free_bytes: 1,
                up_ms: None,
                cert_problems: Vec::new(),
            };
            let target = target(&env, &info).unwrap();
            assert_eq!((target.host.as_str(), target.path.as_str(), target.address.port()), (host, path, 8080));
        };
        check("shop.localhost", "shop.localhost", "/");
        check("*.example.com", "rehearsal.example.com", "/");
        check("example.com/api/*", "example.com", "/api");
    }
}
