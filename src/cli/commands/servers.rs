//! `tako servers`: the inventory of this user. Nothing here changes a server.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde_json::json;

use super::Exit;
use crate::cli::args::Args;
use crate::cli::config::inventory::{Inventory, Server, check_host, check_user};
use crate::cli::nearest::did_you_mean;
use crate::cli::remote;
use crate::cli::ssh::HostKeys;
use crate::cli::ui::{Ui, units};
use crate::error::{Error, Kind, Result};
use crate::proto::control::Hello;
use crate::proto::name::ServerName;
use crate::proto::target::Target;

/// Certificates and tokens begin to fail when clocks differ by more.
const MAX_SKEW: Duration = Duration::from_secs(30);

/// `tako servers add HOST`. Adding the same server again changes what is given and keeps the rest.
pub(crate) fn add(ui: &Ui, args: &Args) -> Result<Exit> {
    let mut inventory = Inventory::load()?;
    let mut server = wanted(args, &inventory)?;
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
    }
    let before = inventory.find(&server.name).ok().cloned();
    let known = before.as_ref() == Some(&server);
    if !known {
        inventory.put(server.clone())?;
        inventory.save()?;
    }
    ui.out(&match (known, before) {
        (true, _) => format!("{} is known already", server.name),
        (false, Some(_)) => format!("{} changed", server.name),
        (false, None) => format!("{} added", server.name),
    });
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
    let removed = forget(ui, &mut inventory, &name)?;
    ui.event("result", json!({ "server": name, "changed": removed }));
    Ok(Exit::Done)
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
    let row = |s: &Server| {
        vec![
            s.name.to_string(),
            s.host.clone(),
            or_dash(s.user.clone()),
            or_dash(s.port.map(|p| p.to_string())),
            or_dash(s.target.map(|t| t.to_string())),
            s.description.clone().unwrap_or_default(),
        ]
    };
    match inventory.servers() {
        [] => ui.note("no servers yet: run `tako servers add HOST`"),
        servers => {
            let rows: Vec<Vec<String>> = servers.iter().map(row).collect();
            ui.table(&["NAME", "HOST", "USER", "PORT", "TARGET", "DESCRIPTION"], &rows);
        }
    }
    ui.event("result", json!({ "servers": inventory.servers().iter().map(shown).collect::<Vec<_>>() }));
    Ok(Exit::Done)
}

/// `tako servers check [NAME]`: connects to each and says what it found. A target that was not known is kept.
pub(crate) fn check(ui: &Ui, args: &Args) -> Result<Exit> {
    let mut inventory = Inventory::load()?;
    let servers = match args.positional(0) {
        Some(name) => vec![inventory.find(&server_name(name)?)?.clone()],
        None => inventory.servers().to_vec(),
    };
    if servers.is_empty() {
        ui.note("no servers yet: run `tako servers add HOST`");
    }
    let mut failed: Vec<(ServerName, Error)> = Vec::new();
    let mut results = Vec::new();
    for mut server in servers {
        let task = ui.task(server.name.as_str());
        match remote::probe(ui, &server, &HostKeys::AsConfigured) {
            Ok(hello) => {
                task.done(&format!("tako-server {} · {}", hello.server, hello.target));
                tell_skew(ui, &server, &hello, SystemTime::now());
                results.push(
                    json!({ "server": server.name, "ok": true, "version": hello.server, "target": hello.target }),
                );
                if server.target != Some(hello.target) {
                    server.target = Some(hello.target);
                    inventory.put(server)?;
                    inventory.save()?;
                }
            }
            Err(e) => {
                task.fail(&e.to_string());
                results.push(json!({ "server": server.name, "ok": false, "why": e.to_string() }));
                failed.push((server.name, e));
            }
        }
    }
    ui.event("result", json!({ "servers": results }));
    match failed.len() {
        0 => Ok(Exit::Done),
        // A single failure is told in full, with its own hint and exit code.
        1 => Err(failed.swap_remove(0).1),
        _ => {
            let kind = failed[0].1.kind();
            let detail = failed.iter().map(|(name, e)| format!("{name}: {e}")).collect();
            Err(Error::new(kind, format!("{} servers have a problem", failed.len()))
                .with_detail(detail)
                .hint("`tako servers check NAME` tells more about one"))
        }
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

/// The server that the arguments describe, over what the inventory has under that name.
fn wanted(args: &Args, inventory: &Inventory) -> Result<Server> {
    let place = args.positional(0).unwrap_or_default();
    let (user, host) = match place.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, place),
    };
    let usage = |e: Error| e.with_kind(Kind::Usage);
    check_host(host).map_err(usage)?;
    let user = args.value("user").or(user);
    user.map_or(Ok(()), check_user).map_err(usage)?;
    let port = args.parsed::<u16>("port")?;
    if port == Some(0) {
        return Err(Error::new(Kind::Usage, "`--port 0` is no port").hint("leave it out for the one of ssh"));
    }
    let target = args.value("target").map(Target::parse).transpose().map_err(usage)?;
    let name = match args.value("name") {
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
        port: port.or(known.and_then(|k| k.port)),
        user: user.map(Into::into).or_else(|| known.and_then(|k| k.user.clone())),
        description: args.value("description").map(Into::into).or_else(|| known.and_then(|k| k.description.clone())),
        target: target.or(known.and_then(|k| k.target)),
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
    let here = now.duration_since(UNIX_EPOCH).unwrap_or_default();
    let skew = here.abs_diff(Duration::from_millis(hello.clock_ms));
    if skew > MAX_SKEW {
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
        wanted(&args(&[&["servers", "add"], line].concat()), &Inventory::load_from(home.path())?)
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
            };
            tell_skew(&ui, &server, &hello, UNIX_EPOCH + Duration::from_secs(100));
            err.text()
        };
        assert_eq!(told(100_000), "");
        assert!(told(0).contains("1m 40s away"), "{}", told(0));
    }
}
