//! `tako servers`: the inventory of this user. Nothing here changes a server.

pub(crate) mod check;
pub(crate) mod status;
mod wizard;

use std::time::SystemTime;

use serde_json::json;

use super::{Exit, aim};
use crate::cli::args::Args;
use crate::cli::config::inventory::{Inventory, Server, check_host, check_user};
use crate::cli::config::ssh_option::SshOption;
use crate::cli::nearest::did_you_mean;
use crate::cli::remote;
use crate::cli::ssh::HostKeys;
use crate::cli::ui::{Ui, units};
use crate::error::{Error, Kind, Result};
use crate::proto::control::Hello;
use crate::proto::name::{EnvName, ServerName};
use crate::proto::target::Target;

/// A server as it was typed, by argument and flags or in answer to questions.
#[derive(Debug, Default)]
struct Given {
    /// The host, with or without a user before it.
    place: String,
    name: Option<String>,
    user: Option<String>,
    port: Option<u16>,
    description: Option<String>,
    target: Option<String>,
    /// `None` where none was given: those that are known stay.
    ssh_options: Option<Vec<SshOption>>,
}

/// `tako servers add [HOST]`. Adding the same server again changes what is given and keeps the rest.
pub(crate) fn add(ui: &Ui, args: &Args) -> Result<Exit> {
    let mut inventory = Inventory::load()?;
    let given = match args.positional(0) {
        Some(_) => Given::of(args)?,
        None => wizard::ask(ui, &inventory, Given::of(args)?)?,
    };
    let mut server = wanted(given, &inventory)?;
    let mut found = String::new();
    if !args.flag("no-check") {
        let hello = remote::probe(ui, &server, &host_keys(args)?)?;
        tell_skew(ui, &server, &hello, SystemTime::now());
        if server.target.is_some_and(|given| args.value("target").is_some() && given != hello.target) {
            return Err(Error::new(
                Kind::Refused,
                format!("{} is {}, not what `--target` says", server.name, hello.target),
            )
            .hint("leave `--target` out"));
        }
        server.target = Some(hello.target);
        found = format!(": tako-server {} · {}", hello.server, hello.target);
    }
    let before = inventory.find(&server.name).ok().cloned();
    let known = before.as_ref() == Some(&server);
    if !known {
        inventory.put(server.clone())?;
        inventory.save()?;
    }
    ui.out(&match (known, before) {
        (true, _) => format!("{} is known already{found}", server.name),
        (false, Some(_)) => format!("{} changed{found}", server.name),
        (false, None) => format!("{} added{found}", server.name),
    });
    if let Some(other) = inventory.servers().iter().find(|other| server.is_also(other)) {
        ui.warn(&format!("{} is the same server by another name: an environment can be on one of them", other.name));
    }
    if server.target.is_none() {
        ui.note("its target is not known yet; `tako servers check` will ask it");
    }
    ui.event("result", json!({ "server": shown(&server), "changed": !known }));
    Ok(Exit::Done)
}

/// `tako servers rm NAME`.
pub(crate) fn rm(ui: &Ui, args: &Args) -> Result<Exit> {
    let name = server_name(args.positional(0).unwrap_or_default())?;
    let mut inventory = Inventory::load()?;
    let Ok(_) = inventory.find(&name) else {
        let guess = did_you_mean(name.as_str(), inventory.servers().iter().map(|s| s.name.as_str()));
        ui.warn(&format!("there was no server `{name}`{}", guess.map_or(String::new(), |g| format!("; {g}"))));
        ui.event("result", json!({ "server": name, "changed": false }));
        return Ok(Exit::Done);
    };
    for env in mapped_by(ui, args, &name) {
        ui.warn(&format!(
            "{env} of this project is on {name}: the next deploy fails until `servers` in [envs.{env}] changes"
        ));
    }
    let removed = forget(ui, &mut inventory, &name)?;
    ui.event("result", json!({ "server": name, "changed": removed }));
    Ok(Exit::Done)
}

/// The environments of this folder's project that are on the server; a project that cannot be read has none to tell of.
fn mapped_by(ui: &Ui, args: &Args, name: &ServerName) -> Vec<EnvName> {
    if !aim::is_project(args).unwrap_or(false) {
        return Vec::new();
    }
    match aim::project(ui, args) {
        Ok(project) => {
            let on_it = project.envs.iter().filter(|(_, env)| env.servers.contains(name));
            on_it.map(|(env, _)| env.clone()).collect()
        }
        Err(e) => {
            ui.warn(&format!("whether this project is on {name} is not known: {e}"));
            Vec::new()
        }
    }
}

/// Whether it was done.
fn forget(ui: &Ui, inventory: &mut Inventory, name: &ServerName) -> Result<bool> {
    if !ui.confirm(&format!("Forget the server {name}? Nothing on it changes."), "`--yes`")? {
        ui.note("nothing was changed");
        return Ok(false);
    }
    inventory.remove(name)?;
    inventory.save()?;
    ui.out(&format!("{name} forgotten"));
    Ok(true)
}

/// `tako servers ls`.
pub(crate) fn ls(ui: &Ui, _args: &Args) -> Result<Exit> {
    let inventory = Inventory::load()?;
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "–".into());
    let have_options = inventory.servers().iter().any(|s| !s.ssh_options.is_empty());
    let row = |s: &Server| {
        let options = s.ssh_options.iter().map(SshOption::as_str).collect::<Vec<_>>().join(", ");
        let mut row = vec![
            s.name.to_string(),
            s.host.clone(),
            or_dash(s.user.clone()),
            or_dash(s.port.map(|p| p.to_string())),
            or_dash(s.target.map(|t| t.to_string())),
            s.description.clone().unwrap_or_default(),
        ];
        // Few have any.
        row.extend(have_options.then(|| or_dash(Some(options).filter(|o| !o.is_empty()))));
        row
    };
    match inventory.servers() {
        [] => ui.note("no servers yet: run `tako servers add HOST`"),
        servers => {
            let rows: Vec<Vec<String>> = servers.iter().map(row).collect();
            let head = ["NAME", "HOST", "USER", "PORT", "TARGET", "DESCRIPTION", "SSH OPTIONS"];
            ui.table(&head[..head.len() - usize::from(!have_options)], &rows);
        }
    }
    ui.event("result", json!({ "servers": inventory.servers().iter().map(shown).collect::<Vec<_>>() }));
    Ok(Exit::Done)
}

impl Given {
    fn of(args: &Args) -> Result<Given> {
        let text = |flag: &str| args.value(flag).map(str::to_string);
        let given: Vec<&str> = args.values("ssh-option").collect();
        // An empty one alone takes away those that are known.
        let options = given.iter().filter(|option| !option.is_empty()).map(|option| SshOption::parse(option));
        let options = options.collect::<Result<Vec<_>>>().map_err(|e| e.with_kind(Kind::Usage))?;
        let port = args.parsed::<u16>("port")?;
        if port == Some(0) {
            return Err(Error::new(Kind::Usage, "`--port 0` is no port").hint("leave it out for the one of ssh"));
        }
        Ok(Given {
            place: args.positional(0).unwrap_or_default().into(),
            name: text("name"),
            user: text("user"),
            port,
            description: text("description"),
            target: text("target"),
            ssh_options: (!given.is_empty()).then_some(options),
        })
    }
}

/// What the flags say about its host key.
fn host_keys(args: &Args) -> Result<HostKeys> {
    match (args.value("fingerprint"), args.flag("accept-new")) {
        (Some(fingerprint), _) => HostKeys::pinned(fingerprint),
        (None, true) => Ok(HostKeys::AcceptNew),
        (None, false) => Ok(HostKeys::AsConfigured),
    }
}

/// The server that is described, over what the inventory has under that name.
fn wanted(given: Given, inventory: &Inventory) -> Result<Server> {
    let (user, host) = wizard::split(&given.place);
    let usage = |e: Error| e.with_kind(Kind::Usage);
    check_host(host).map_err(usage)?;
    let user = given.user.as_deref().or(user);
    user.map_or(Ok(()), check_user).map_err(usage)?;
    let target = given.target.as_deref().map(Target::parse).transpose().map_err(usage)?;
    let name = match &given.name {
        Some(name) => server_name(name)?,
        None => name_of(host)?,
    };
    let known = inventory.find(&name).ok();
    if let Some(other) = known.filter(|k| k.host != host) {
        return Err(Error::new(Kind::Conflict, format!("there is a server `{name}` already, at {}", other.host))
            .hint(format!("choose another name with `--name`, or run `tako servers rm {name}` first")));
    }
    Ok(Server {
        host: host.into(),
        port: given.port.or(known.and_then(|k| k.port)),
        user: user.map(Into::into).or_else(|| known.and_then(|k| k.user.clone())),
        description: given.description.or_else(|| known.and_then(|k| k.description.clone())),
        target: target.or(known.and_then(|k| k.target)),
        ssh_options: given.ssh_options.or_else(|| known.map(|k| k.ssh_options.clone())).unwrap_or_default(),
        name,
    })
}

/// `fra1` for `fra1.example.com`; an address keeps all its digits.
fn name_of(host: &str) -> Result<ServerName> {
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let name = if is_address { host } else { host.split('.').next().unwrap_or(host) };
    ServerName::parse(name).map_err(|_| {
        Error::new(Kind::Usage, format!("`{name}` cannot be a server's name")).hint("choose one with `--name`")
    })
}

fn server_name(name: &str) -> Result<ServerName> {
    ServerName::parse(name).map_err(|e| e.with_kind(Kind::Usage))
}

fn tell_skew(ui: &Ui, server: &Server, hello: &Hello, now: SystemTime) {
    if let Some(skew) = check::steps::skew(hello, now) {
        let skew = units::duration(skew);
        ui.warn(&format!("the clock of {} is {skew} away from this one; certificates depend on it", server.name));
    }
}

fn shown(s: &Server) -> serde_json::Value {
    json!({
        "name": s.name,
        "host": s.host,
        "user": s.user,
        "port": s.port,
        "target": s.target,
        "description": s.description,
        "ssh_options": s.ssh_options.iter().map(SshOption::as_str).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Wish;
    use crate::cli::ui::Settings;

    fn args(line: &[&str]) -> Args {
        match Args::parse(line).unwrap() {
            Wish::Run(args) => args,
            Wish::Help(_) | Wish::Version => panic!("{line:?} runs nothing"),
        }
    }

    fn wanted_from(line: &[&str], text: &str) -> Result<Server> {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("config.toml"), text).unwrap();
        wanted(Given::of(&args(&[&["servers", "add"], line].concat()))?, &Inventory::load_from(home.path())?)
    }

    #[test]
    fn a_server_is_named_after_its_host() {
        let check = |line: &[&str], name: &str, host: &str, user: Option<&str>| {
            let server = wanted_from(line, "").unwrap();
            assert_eq!(
                (server.name.as_str(), server.host.as_str(), server.user.as_deref()),
                (name, host, user),
                "{line:?}"
            );
        };
        check(&["fra1.example.com"], "fra1", "fra1.example.com", None);
        check(&["203.0.113.7"], "203.0.113.7", "203.0.113.7", None);
        check(&["deploy@fra1"], "fra1", "fra1", Some("deploy"));
        check(&["deploy@fra1", "--user", "ana", "--name", "x"], "x", "fra1", Some("ana"));
        check(&["2001:db8::1", "--name", "six"], "six", "2001:db8::1", None);
    }

    #[test]
    fn refuses_what_ssh_could_take_for_something_else() {
        for line in [
            &["--", "-oProxyCommand=x"][..],
            &["a b"],
            &["root;x@host"],
            &["@host"],
            &["host", "--user", "-l"],
            &["host", "--port", "0"],
            &["host", "--port", "70000"],
            &["host", "--target", "linux"],
            &["host", "--name", "../x"],
            &["host", "--ssh-option", "RemoteCommand=x"],
            &["host", "--ssh-option", "-p 22"],
            &["2001:db8::1"],
        ] {
            assert_eq!(wanted_from(line, "").unwrap_err().kind(), Kind::Usage, "{line:?}");
        }
    }

    #[test]
    fn adding_again_keeps_what_is_not_given() {
        let known = "[[servers]]\nname = \"fra1\"\nhost = \"fra1\"\nport = 2222\ndescription = \"old\"\n";
        let server = wanted_from(&["fra1", "--user", "ana"], known).unwrap();
        assert_eq!(
            (server.port, server.user.as_deref(), server.description.as_deref()),
            (Some(2222), Some("ana"), Some("old"))
        );
        let known_options = format!("{known}ssh_options = [\"ConnectTimeout=30\"]\n");
        let options = |line: &[&str]| {
            let server = wanted_from(&[&["fra1"], line].concat(), &known_options).unwrap();
            server.ssh_options.iter().map(|o| o.as_str().to_string()).collect::<Vec<_>>()
        };
        assert_eq!(options(&[]), ["ConnectTimeout=30"]);
        assert_eq!(options(&["--ssh-option", "-4", "--ssh-option", "User=x"]), ["-4", "User=x"]);
        assert_eq!(options(&["--ssh-option", ""]), [""; 0]);
        let error = wanted_from(&["fra1.example.com"], known).unwrap_err();
        assert_eq!(
            (error.kind(), error.to_string().as_str()),
            (Kind::Conflict, "there is a server `fra1` already, at fra1")
        );
    }

    #[test]
    fn forgets_a_server_only_after_a_yes() {
        let home = tempfile::tempdir().unwrap();
        let mut inventory = Inventory::load_from(home.path()).unwrap();
        let fra = wanted_from(&["fra1"], "").unwrap();
        inventory.put(fra.clone()).unwrap();
        inventory.save().unwrap();
        let (ui, ..) = Ui::captured(Settings::default());
        let error = forget(&ui, &mut inventory, &fra.name).unwrap_err();
        assert_eq!((error.kind(), inventory.servers().len()), (Kind::NeedsInput, 1));
        assert!(error.next_step().unwrap().contains("--yes"), "{error}");
        let (ui, ..) = Ui::captured(Settings { yes: true, ..Settings::default() });
        assert!(forget(&ui, &mut inventory, &fra.name).unwrap());
        assert!(Inventory::load_from(home.path()).unwrap().servers().is_empty());
    }

    #[test]
    fn a_clock_that_is_off_is_worth_a_warning() {
        let server = wanted_from(&["fra1"], "").unwrap();
        let told = |clock_ms| {
            let (ui, _, err) = Ui::captured(Settings::default());
            let hello = Hello {
                tako: "hello".into(),
                protocol: crate::proto::PROTOCOL,
                server: "0".into(),
                target: Target::parse("linux-x86_64-glibc").unwrap(),
                clock_ms,
                incoming: String::new(),
                hears_beats: false,
            };
            tell_skew(&ui, &server, &hello, SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(100));
            err.text()
        };
        assert_eq!(told(100_000), "");
        assert!(told(0).contains("1m 40s away"), "{}", told(0));
    }
}
