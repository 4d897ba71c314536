//! `tako servers add` without a HOST, on a terminal: asks for what the flags did not say, with what ssh would do as the
//! answer to each question but the first. It decides nothing: its answers go the way of the flags.

use super::{Given, name_of, server_name};
use crate::cli::config::inventory::{Inventory, Server, check_host, check_user};
use crate::cli::interrupt::Interrupt;
use crate::cli::ssh::inspect;
use crate::cli::ui::Ui;
use crate::error::{Error, Kind, Result};
use crate::proto::name::ServerName;

/// # Errors
/// NeedsInput where nobody can answer, Interrupted.
pub(super) fn ask(ui: &Ui, inventory: &Inventory, given: Given) -> Result<Given> {
    let place = until(ui, "host name, address or alias of your ssh_config", None, "HOST", |answer| {
        let (user, host) = split(answer);
        check_host(host).and_then(|()| user.map_or(Ok(()), check_user)).map(|()| answer.to_string())
    })?;
    let (typed_user, host) = split(&place);
    let given = Given { user: given.user.or(typed_user.map(Into::into)), place: host.into(), ..given };
    let there = as_ssh_has_it(ui, &given)?;

    let name = match given.name {
        Some(name) => name,
        None => {
            let guess = name_of(host).ok().map(|name| name.to_string());
            until(ui, "what to call it", guess.as_deref(), "--name", |answer| free(inventory, host, answer))?
        }
    };
    let user = match given.user {
        Some(user) => Some(user),
        None => {
            let answer = until(ui, "user to log in as", Some(&there.user), "--user", |answer| {
                check_user(answer).map(|()| answer.to_string())
            })?;
            // What ssh does by itself needs no entry.
            Some(answer).filter(|user| *user != there.user)
        }
    };
    let port = match given.port {
        Some(port) => Some(port),
        None => {
            let default = there.port.to_string();
            let answer = until(ui, "port of sshd", Some(&default), "--port", |answer| match answer.parse::<u16>() {
                Ok(port) if port > 0 => Ok(port),
                _ => Err(Error::new(Kind::Usage, "a port is a number from 1 to 65535")),
            })?;
            Some(answer).filter(|port| *port != there.port)
        }
    };
    Ok(Given { name: Some(name), user, port, ..given })
}

/// `user@host`.
pub(super) fn split(place: &str) -> (Option<&str>, &str) {
    match place.rsplit_once('@') {
        Some((user, host)) => (Some(user), host),
        None => (None, place),
    }
}

/// Asks again until the answer is one; the end of the input and Ctrl-C end it.
fn until<T>(
    ui: &Ui,
    question: &str,
    default: Option<&str>,
    flag: &str,
    accept: impl Fn(&str) -> Result<T>,
) -> Result<T> {
    loop {
        let answer = ui.ask(question, default, flag)?;
        match accept(&answer) {
            Ok(value) => return Ok(value),
            Err(e) => ui.warn(&e.to_string()),
        }
    }
}

fn free(inventory: &Inventory, host: &str, answer: &str) -> Result<String> {
    let name = server_name(answer)?;
    match inventory.find(&name) {
        Ok(other) if other.host != host => {
            Err(Error::new(Kind::Conflict, format!("there is a server `{name}` already, at {}", other.host)))
        }
        _ => Ok(name.to_string()),
    }
}

/// What ssh would do, told so that a surprise in an ssh_config is seen before anything connects.
fn as_ssh_has_it(ui: &Ui, given: &Given) -> Result<inspect::Resolved> {
    let server = Server {
        name: ServerName::parse("new").expect("three letters are a name"),
        host: given.place.clone(),
        port: given.port,
        user: given.user.clone(),
        description: None,
        target: None,
        ssh_options: given.ssh_options.clone().unwrap_or_default(),
    };
    let there = inspect::resolve(&server, &Interrupt::of_process()?)?;
    let way = there.by_way_of.as_ref().map_or_else(String::new, |way| format!(", by way of {way}"));
    ui.note(&format!("ssh goes to {}@{} port {}{way}", there.user, there.host, there.port));
    Ok(there)
}
