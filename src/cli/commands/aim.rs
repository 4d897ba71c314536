//! Aim: which project, environment and servers a command is about, from its flags, `tako.toml` and the inventory.

use std::time::{Duration, SystemTime};

use super::Exit;
use crate::cli::args::Args;
use crate::cli::build::preset::resolve::Wish;
use crate::cli::config::inventory::{Inventory, Server};
use crate::cli::fanout::{self, CONNECTS};
use crate::cli::interrupt::Interrupt;
use crate::cli::nearest::did_you_mean;
use crate::cli::project::{Env, FILE, Project};
use crate::cli::remote::{Place, Remote};
use crate::cli::ui::Ui;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::name::{AppId, EnvName, ServerName};

/// A server that was asked something small and has not answered by then is not going to: ssh gives up on a silent
/// network after 10 s, and an answer takes milliseconds.
const ANSWER: Duration = Duration::from_secs(15);

/// The project of this folder, or of `--dir`.
pub(crate) fn project(ui: &Ui, args: &Args) -> Result<Project> {
    // As git will name it, whatever links lead here.
    let dir = args.dir()?.canonicalize().context(|| "find the project's folder".into())?;
    Project::load(&dir, &mut |warning| ui.warn(&warning))
}

/// Whether this folder, or that of `--dir`, is a project or inside of one.
pub(crate) fn is_project(args: &Args) -> Result<bool> {
    Ok(args.dir()?.ancestors().any(|dir| dir.join(FILE).exists()))
}

/// `--update-preset`.
pub(crate) fn preset_wish(args: &Args) -> Wish {
    match args.flag("update-preset") {
        true => Wish::Newest,
        false => Wish::Locked,
    }
}

/// That of `--env`, else production.
pub(crate) fn env_name(args: &Args) -> Result<EnvName> {
    match args.value("env") {
        Some(name) => EnvName::parse(name).map_err(|e| e.with_kind(Kind::Usage)),
        None => Ok(EnvName::production()),
    }
}

pub(crate) fn app(project: &Project, env: &EnvName) -> AppId {
    AppId::new(project.name.clone(), env.clone())
}

/// How the servers of an environment were found.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Mapping {
    /// As `tako.toml` says, or a part of it.
    Written(Vec<Server>),
    /// The only one that is known: worth writing down.
    OnlyOne(Server),
    /// Named on the command line while `tako.toml` says nothing.
    Named(Vec<Server>),
    /// Somebody has to choose.
    Open(Vec<Server>),
}

/// Pure: what the mapping is, for `wanted` servers from the command line.
///
/// # Errors
/// NotFound for a wanted name that the inventory does not have (Config for one in `tako.toml`), Usage for one outside the
/// environment, Config without any.
pub(crate) fn mapping(
    env_name: &EnvName,
    env: &Env,
    known: &[Server],
    wanted: &[ServerName],
    find: impl Fn(&ServerName) -> Result<Server>,
) -> Result<Mapping> {
    if !env.servers.is_empty() {
        if let Some(stranger) = wanted.iter().find(|name| !env.servers.contains(name)) {
            let names = env.servers.iter().map(ServerName::as_str).collect::<Vec<_>>().join(", ");
            let guess = did_you_mean(stranger.as_str(), env.servers.iter().map(ServerName::as_str));
            let said = format!("{env_name} is on {names}; `servers` in [envs.{env_name}] of tako.toml says so");
            return Err(Error::new(Kind::Usage, format!("{stranger} is not a server of {env_name}"))
                .hint(guess.map_or(said.clone(), |guess| format!("{guess} {said}"))));
        }
        let chosen = env.servers.iter().filter(|name| wanted.is_empty() || wanted.contains(name));
        // The file names a server that is not there: it is the file that has to change, or the inventory.
        let found = chosen.map(|name| find(name).map_err(|e| e.with_kind(Kind::Config)));
        return found.collect::<Result<_>>().and_then(|all| apart(all, env_name)).map(Mapping::Written);
    }
    if !wanted.is_empty() {
        let found = wanted.iter().map(find).collect::<Result<_>>();
        return found.and_then(|all| apart(all, env_name)).map(Mapping::Named);
    }
    match known {
        [] => Err(Error::new(Kind::Config, "no server is known yet").hint("run `tako servers add HOST` first")),
        [one] if env_name.is_production() => Ok(Mapping::OnlyOne(one.clone())),
        several => Ok(Mapping::Open(several.to_vec())),
    }
}

/// One server by two names would be deployed to twice at once, and lock itself out.
fn apart(servers: Vec<Server>, env: &EnvName) -> Result<Vec<Server>> {
    let twice =
        servers.iter().enumerate().find_map(|(at, one)| Some((one, servers[..at].iter().find(|s| s.is_also(one))?)));
    match twice {
        None => Ok(servers),
        Some((one, other)) => {
            Err(Error::new(Kind::Config, format!("{} and {} are the same server, {}", other.name, one.name, one.host))
                .hint(format!("leave one of them out of `servers` in [envs.{env}], or put its address right by `tako servers add HOST --name NAME`")))
        }
    }
}

/// The names given by `--server`, if any.
pub(crate) fn wanted(args: &Args) -> Result<Vec<ServerName>> {
    args.values("server").map(|name| ServerName::parse(name).map_err(|e| e.with_kind(Kind::Usage))).collect()
}

/// The servers of an environment, for commands that change no mapping.
pub(crate) fn servers(env_name: &EnvName, env: &Env, wanted: &[ServerName]) -> Result<Vec<Server>> {
    let inventory = Inventory::load()?;
    match mapping(env_name, env, inventory.servers(), wanted, |name| inventory.find(name).cloned())? {
        Mapping::Written(servers) | Mapping::Named(servers) => Ok(servers),
        Mapping::OnlyOne(server) => Ok(vec![server]),
        Mapping::Open(servers) => Err(undecided(env_name, &servers)),
    }
}

/// Several servers, and nothing says which.
pub(crate) fn undecided(env_name: &EnvName, servers: &[Server]) -> Error {
    let first = servers.first().map_or("NAME", |s| s.name.as_str());
    let names = servers.iter().map(|s| s.name.as_str()).collect::<Vec<_>>().join(", ");
    Error::new(Kind::NeedsInput, format!("nothing says which servers {env_name} is on; known are {names}"))
        .hint(format!("add `servers = [\"{first}\"]` to [envs.{env_name}] in tako.toml, or give --server {first}"))
}

/// Asks all `servers` at once, each for no longer than [`ANSWER`]: one that hangs has its say in its own row, and the
/// others are told. The results are in their order.
pub(crate) fn ask_each<R: Send>(
    ui: &Ui,
    servers: &[Server],
    interrupt: &Interrupt,
    task: impl Fn(&mut Remote) -> Result<R> + Sync,
) -> Vec<(ServerName, Result<R>)> {
    let results = fanout::each(servers.iter().collect(), CONNECTS, |server: &Server| {
        let _waiting = ui.waiting(server.name.as_str(), "asking");
        let asked = interrupt.within(ANSWER, |interrupt| {
            Remote::connect(&Place::Ssh(server.clone()), interrupt).and_then(|mut remote| task(&mut remote))
        });
        asked.unwrap_or_else(|| {
            Err(Error::new(Kind::Timeout, format!("{}: no answer within {} s", server.name, ANSWER.as_secs()))
                .hint(format!("`tako servers check {}` shows where it hangs", server.name)))
        })
    });
    servers.iter().map(|s| s.name.clone()).zip(results).collect()
}

/// How one that did not answer stands in a table.
pub(crate) fn unanswered_word(e: &Error) -> &'static str {
    match e.kind() {
        Kind::Unreachable => "! unreachable",
        Kind::Timeout => "! no answer",
        Kind::Incompatible => "! other version",
        _ => "! failed",
    }
}

/// The end of a command that asked several servers and has told what they said: a line for each that did not answer, or
/// the one error when there was nobody else.
pub(crate) fn unanswered(ui: &Ui, asked: Vec<(ServerName, Result<()>)>) -> Result<Exit> {
    let count = asked.len();
    let failed: Vec<(ServerName, Error)> = asked.into_iter().filter_map(|(s, r)| Some((s, r.err()?))).collect();
    if failed.len() == count {
        // One that hangs cannot be reached, for who asks by the exit code.
        let told = |e: Error| if e.kind() == Kind::Timeout { e.with_kind(Kind::Unreachable) } else { e };
        return failure(failed, count).map_or(Ok(Exit::Done), |e| Err(told(e)));
    }
    let (absent, failed): (Vec<_>, Vec<_>) = failed.into_iter().partition(|(_, e)| e.kind() == Kind::NotFound);
    // An answer, too.
    absent.iter().for_each(|(server, e)| ui.note(&format!("· {}", named(server.as_str(), e))));
    for (server, e) in &failed {
        ui.note(&format!("! {} (`tako servers check {server}`)", named(server.as_str(), e)));
    }
    Ok(if failed.is_empty() { Exit::Done } else { Exit::Unanswered })
}

/// What is where after a change that some servers took and others did not.
pub(crate) fn partly(what: &str, done: &[ServerName], failed: &[(ServerName, Error)]) -> Error {
    let kind = failed.first().map_or(Kind::Bug, |(_, e)| e.kind());
    let names = done.iter().map(ServerName::as_str).collect::<Vec<_>>().join(", ");
    let mut detail = vec![format!("done    {names}")];
    for (server, e) in failed {
        detail.push(format!("failed  {}", named(server.as_str(), e)));
        detail.extend(e.detail().iter().map(|line| format!("        {line}")));
    }
    let message = format!("{what} on {} of {} servers", done.len(), done.len() + failed.len());
    Error::new(kind, message)
        .with_detail(detail)
        .hint("run it again for the others once that is put right; what is done stays done")
}

/// What is told when some servers failed: one error in full, several different ones in short.
pub(crate) fn failure(failed: Vec<(ServerName, Error)>, of: usize) -> Option<Error> {
    let count = failed.len();
    let names = failed.iter().map(|(name, _)| name.as_str()).collect::<Vec<_>>().join(", ");
    let mut failed = failed.into_iter();
    let (name, first) = failed.next()?;
    // Where the same happened everywhere it is one error.
    let same = |(_, e): &(ServerName, Error)| e.kind() == first.kind() && e.to_string() == first.to_string();
    if failed.as_slice().iter().all(same) {
        let hint = first.next_step().map(str::to_string);
        let whole = Error::new(first.kind(), named(&names, &first)).with_detail(first.detail().to_vec());
        return Some(match hint {
            Some(hint) => whole.hint(hint),
            None => whole,
        });
    }
    let kind = first.kind();
    let detail = std::iter::once((name, first)).chain(failed).map(|(name, e)| named(name.as_str(), &e)).collect();
    Some(Error::new(kind, format!("{count} of {of} servers have a problem")).with_detail(detail))
}

/// The error with its server's name in front, which one of the connection has already.
pub(crate) fn named(server: &str, e: &Error) -> String {
    let text = e.to_string();
    match text.strip_prefix(server).is_some_and(|rest| rest.starts_with(": ")) {
        true => text,
        false => format!("{server}: {text}"),
    }
}

/// Time since a server's stamp; nothing when its clock is ahead of ours.
pub(crate) fn since(then_ms: u64) -> Duration {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    now.saturating_sub(Duration::from_millis(then_ms))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::proto::manifest::Limits;

    fn name(s: &str) -> ServerName {
        ServerName::parse(s).unwrap()
    }

    fn server(s: &str) -> Server {
        let (port, user, description, target) = (None, None, None, None);
        Server { name: name(s), host: s.into(), port, user, description, target, ssh_options: Vec::new() }
    }

    fn map(env: &str, written: &[&str], known: &[&str], wanted: &[&str]) -> Result<Mapping> {
        let env_name = EnvName::parse(env).unwrap();
        let env = Env {
            routes: Vec::new(),
            servers: written.iter().map(|s| name(s)).collect(),
            instances: 1,
            limits: Limits::default(),
            vars: BTreeMap::new(),
            per_server: BTreeMap::new(),
        };
        let known: Vec<Server> = known.iter().map(|s| server(s)).collect();
        let wanted: Vec<ServerName> = wanted.iter().map(|s| name(s)).collect();
        mapping(&env_name, &env, &known, &wanted, |name| {
            let found = known.iter().find(|s| s.name == *name).cloned();
            found.ok_or_else(|| Error::new(Kind::NotFound, format!("no server {name}")))
        })
    }

    #[test]
    fn servers_come_from_the_file_the_flag_or_the_only_one_known() {
        let (a, b) = (server("a"), server("b"));
        assert_eq!(
            map("production", &["a", "b"], &["a", "b"], &[]).unwrap(),
            Mapping::Written(vec![a.clone(), b.clone()])
        );
        assert_eq!(map("production", &["a", "b"], &["a", "b"], &["b"]).unwrap(), Mapping::Written(vec![b.clone()]));
        assert_eq!(map("production", &[], &["a"], &[]).unwrap(), Mapping::OnlyOne(a.clone()));
        assert_eq!(map("production", &[], &["a", "b"], &["b"]).unwrap(), Mapping::Named(vec![b.clone()]));
        assert_eq!(map("production", &[], &["a", "b"], &[]).unwrap(), Mapping::Open(vec![a.clone(), b]));
        // Only production falls back by itself.
        assert_eq!(map("staging", &[], &["a"], &[]).unwrap(), Mapping::Open(vec![a]));
    }

    #[test]
    fn names_that_do_not_fit_are_errors() {
        let kind = |result: Result<Mapping>| result.unwrap_err().kind();
        assert_eq!(kind(map("production", &[], &[], &[])), Kind::Config);
        assert_eq!(kind(map("production", &["a"], &["a", "b"], &["b"])), Kind::Usage);
        assert_eq!(kind(map("production", &["gone"], &["a"], &[])), Kind::Config);
        assert_eq!(kind(map("production", &[], &["a"], &["x"])), Kind::NotFound);
    }

    #[test]
    fn one_server_by_two_names_is_an_error() {
        let at = |s: &str, port| Server { host: "203.0.113.7".into(), port, ..server(s) };
        let ask = |port| apart(vec![at("a", None), server("b"), at("c", port)], &EnvName::production());
        assert_eq!(ask(Some(2222)).unwrap().len(), 3);
        let e = ask(None).unwrap_err();
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Config, "a and c are the same server, 203.0.113.7"));
    }

    #[test]
    fn a_name_that_was_nearly_right_is_suggested() {
        let e = map("production", &["fra1", "nyc1"], &["fra1", "nyc1"], &["fra"]).unwrap_err();
        assert!(e.next_step().unwrap().starts_with("did you mean `fra1`? production is on fra1, nyc1"), "{e:?}");
    }

    #[test]
    fn after_a_change_of_some_it_is_told_what_is_where() {
        let e = Error::new(Kind::Unreachable, "nyc1: no answer in time").with_detail(vec!["proof".into()]);
        let e = partly("changed", &[name("fra1"), name("sin1")], &[(name("nyc1"), e)]);
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Unreachable, "changed on 2 of 3 servers"));
        assert_eq!(e.detail(), ["done    fra1, sin1", "failed  nyc1: no answer in time", "        proof"]);
    }

    #[test]
    fn servers_that_did_not_answer_have_a_line_and_decide_the_exit_code() {
        use crate::cli::ui::Settings;
        let check = |asked: Vec<(&str, Result<()>)>, expected: Result<Exit, Kind>, told: &str| {
            let (ui, _, err) = Ui::captured(Settings::default());
            let ended = unanswered(&ui, asked.into_iter().map(|(server, result)| (name(server), result)).collect());
            assert_eq!((ended.map_err(|e| e.kind()), err.text().as_str()), (expected, told));
        };
        let away = || Err(Error::new(Kind::Unreachable, "lab: no answer in time"));
        let absent = || Err(Error::new(Kind::NotFound, "shop is not on this server"));
        check(vec![("fra1", Ok(()))], Ok(Exit::Done), "");
        let line = "! lab: no answer in time (`tako servers check lab`)\n";
        check(vec![("fra1", Ok(())), ("lab", away())], Ok(Exit::Unanswered), line);
        check(vec![("fra1", Ok(())), ("lab", absent())], Ok(Exit::Done), "· lab: shop is not on this server\n");
        check(vec![("lab", away())], Err(Kind::Unreachable), "");
    }

    #[test]
    fn one_failure_is_told_in_full_and_several_in_short() {
        let e = |text: &str| Error::new(Kind::Unreachable, text).hint("do this");
        assert!(failure(Vec::new(), 2).is_none());
        let one = failure(vec![(name("a"), e("boom"))], 2).unwrap();
        assert_eq!((one.to_string().as_str(), one.next_step()), ("a: boom", Some("do this")));
        let alike = failure(vec![(name("a"), e("boom")), (name("b"), e("boom"))], 2).unwrap();
        assert_eq!(alike.to_string(), "a, b: boom");
        let two = failure(vec![(name("a"), e("a: boom")), (name("b"), e("bang"))], 3).unwrap();
        assert_eq!(two.to_string(), "2 of 3 servers have a problem");
        assert_eq!(two.detail(), ["a: boom", "b: bang"]);
    }
}
