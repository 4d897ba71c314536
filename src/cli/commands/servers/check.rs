//! `tako servers check`: the way to one server walked step by step, each told with what was found, up to the first that
//! fails; and the same for all servers at once, a line each.
//!
//! **Invariant**: it looks and changes nothing but the target in our own inventory; every step has a deadline.

pub(crate) mod steps;

use std::time::SystemTime;

use serde_json::json;

use self::steps::{
    Found, Step, addresses, banner, clock, disk, info, judge, key_file, not_ours, proxy, resolved, tcp, version,
};
use super::server_name;
use crate::cli::args::Args;
use crate::cli::commands::{Exit, aim};
use crate::cli::config::inventory::{Inventory, Server};
use crate::cli::config::ssh_option::SshOption;
use crate::cli::fanout::{self, CONNECTS};
use crate::cli::interrupt::Interrupt;
use crate::cli::remote::{Place, Remote};
use crate::cli::ssh::inspect::{self, Resolved};
use crate::cli::ui::waiting::{Mark, Waiting};
use crate::cli::ui::{Ui, units};
use crate::error::{Error, Result};
use crate::proto::control::{Hello, Info};

/// Columns of the longest step's name.
const WIDTH: usize = 11;

/// Where a walk ended.
type Failed = (Step, Error);

/// What is known at the end of a walk.
struct Well {
    hello: Hello,
    info: Info,
    odd: usize,
}

/// `tako servers check [NAME]`. A target that was not known is kept.
pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let inventory = Inventory::load()?;
    let interrupt = Interrupt::of_process()?;
    match args.positional(0) {
        Some(name) => one(ui, inventory.find(&server_name(name)?)?.clone(), inventory, &interrupt),
        None => all(ui, inventory, &interrupt),
    }
}

fn one(ui: &Ui, server: Server, mut inventory: Inventory, interrupt: &Interrupt) -> Result<Exit> {
    let mut waiting: Option<Waiting> = None;
    let walked = Walk { server: &server, interrupt }.run(&mut |step, said| {
        waiting = None;
        match said {
            None => waiting = Some(ui.waiting(step.word(), "…")),
            Some(said) => tell(ui, &server, step, said),
        }
    });
    drop(waiting);
    let result = json!({ "servers": [summary(&server, &walked)] });
    ui.event("result", result);
    match walked {
        Ok(well) => {
            keep_target(&mut inventory, vec![(server, well.hello)])?;
            Ok(Exit::Done)
        }
        Err((_, e)) => Err(e),
    }
}

fn all(ui: &Ui, mut inventory: Inventory, interrupt: &Interrupt) -> Result<Exit> {
    let servers = inventory.servers().to_vec();
    if servers.is_empty() {
        ui.note("no servers yet: run `tako servers add HOST`");
    }
    let width = servers.iter().map(|s| s.name.as_str().chars().count()).max().unwrap_or(0);
    let walked = fanout::each(servers, CONNECTS, |server| {
        let _waiting = ui.waiting(server.name.as_str(), "checking");
        let walked = Walk { server: &server, interrupt }.run(&mut |step, said| {
            if ui.is_json()
                && let Some(said) = said
            {
                tell(ui, &server, step, said);
            }
        });
        (server, walked)
    });
    interrupt.check()?;
    ui.event("result", json!({ "servers": walked.iter().map(|(s, w)| summary(s, w)).collect::<Vec<_>>() }));
    let count = walked.len();
    let (mut well, mut failed) = (Vec::new(), Vec::new());
    for (server, walked) in walked {
        match walked {
            Ok(found) => {
                let (mark, more) = match found.odd {
                    0 => (Mark::Good, String::new()),
                    odd => {
                        (Mark::Odd, format!(" · {}: `tako servers check {}`", units::count(odd, "remark"), server.name))
                    }
                };
                let Hello { server: version, target, .. } = &found.hello;
                let free = units::size(found.info.free_bytes);
                ui.item(
                    mark,
                    server.name.as_str(),
                    width,
                    &format!("tako-server {version} · {target} · {free} free{more}"),
                );
                well.push((server, found.hello));
            }
            Err((step, e)) => {
                ui.item(Mark::Bad, server.name.as_str(), width, &format!("{}: {}", step.word(), without(&server, &e)));
                failed.push((server.name, e));
            }
        }
    }
    keep_target(&mut inventory, well)?;
    let several = failed.len() > 1;
    match aim::failure(failed, count) {
        None => Ok(Exit::Done),
        Some(e) if several && e.next_step().is_none() => Err(e.hint("`tako servers check NAME` tells more about one")),
        Some(e) => Err(e),
    }
}

/// What a server says of itself is written down where it was not known, or was something else.
fn keep_target(inventory: &mut Inventory, well: Vec<(Server, Hello)>) -> Result<()> {
    let news: Vec<_> = well.into_iter().filter(|(server, hello)| server.target != Some(hello.target)).collect();
    for (server, hello) in &news {
        inventory.put(Server { target: Some(hello.target), ..server.clone() })?;
    }
    match news.is_empty() {
        true => Ok(()),
        false => inventory.save(),
    }
}

fn tell(ui: &Ui, server: &Server, step: Step, said: Result<&Found, &Error>) {
    let (mark, state, text) = match said {
        Ok(Found::Fine(text)) => (Mark::Good, "ok", text.clone()),
        Ok(Found::Odd(text)) => (Mark::Odd, "odd", text.clone()),
        Ok(Found::Skipped(text)) => (Mark::Skipped, "skipped", text.clone()),
        Err(e) => (Mark::Bad, "failed", without(server, e)),
    };
    ui.item(mark, step.word(), WIDTH, &text);
    ui.event("step", json!({ "server": server.name, "step": step.word(), "state": state, "found": text }));
}

/// An error names its server, and so does its line.
fn without(server: &Server, e: &Error) -> String {
    let text = e.to_string();
    text.strip_prefix(&format!("{}: ", server.name)).map_or(text.clone(), Into::into)
}

fn summary(server: &Server, walked: &Result<Well, Failed>) -> serde_json::Value {
    match walked {
        Ok(Well { hello, info, odd }) => json!({
            "server": server.name,
            "ok": true,
            "version": hello.server,
            "target": hello.target,
            "remarks": odd,
            "free_bytes": info.free_bytes,
            "http": info.http,
            "https": info.https,
        }),
        Err((step, e)) => json!({
            "server": server.name,
            "ok": false,
            "step": step.word(),
            "kind": e.kind(),
            "why": e.to_string(),
            "detail": e.detail(),
            "hint": e.next_step(),
        }),
    }
}

struct Walk<'a> {
    server: &'a Server,
    interrupt: &'a Interrupt,
}

/// Hears of each step when it begins, and of how it ended.
type Say<'a> = dyn FnMut(Step, Option<Result<&Found, &Error>>) + 'a;

impl Walk<'_> {
    fn run(&self, say: &mut Say<'_>) -> Result<Well, Failed> {
        let mut odd = 0;
        let mut say = |step, said: Option<Result<&Found, &Error>>| {
            odd += usize::from(matches!(said, Some(Ok(Found::Odd(_)))));
            say(step, said);
        };
        let say: &mut Say<'_> = &mut say;
        let to = step(say, Step::Resolve, || self.resolve())?;
        let direct = to.by_way_of.is_none();
        let stream = step(say, Step::Tcp, || match direct {
            true => tcp(self.server, &to).map(|(stream, found)| (Some(stream), found)),
            false => Ok((None, not_ours("it is reached", &to))),
        })?;
        step(say, Step::Banner, || match stream {
            Some(stream) => Ok(((), Found::Fine(banner(self.server, stream)?))),
            None => Ok(((), not_ours("it is heard", &to))),
        })?;
        say(Step::HostKey, None);
        let login = inspect::login(self.server, self.interrupt).map_err(|e| {
            say(Step::HostKey, Some(Err(&e)));
            (Step::HostKey, e)
        })?;
        for (at, found) in judge(&login) {
            step(say, at, || found.map(|found| ((), found)))?;
        }
        let hello = step(say, Step::Version, || {
            let hello = login.hello.clone().ok_or_else(|| login.error())?;
            let found = version(self.server, &hello)?;
            Ok((hello, found))
        })?;
        step(say, Step::Clock, || Ok(((), clock(&hello, SystemTime::now()))))?;
        let info = step(say, Step::Disk, || {
            let info = info(&mut Remote::connect(&Place::Ssh(self.server.clone()), self.interrupt)?)?;
            let found = disk(&info);
            Ok((info, found))
        })?;
        step(say, Step::Proxy, || Ok(((), proxy(&info))))?;
        Ok(Well { hello, info, odd })
    }

    fn resolve(&self) -> Result<(Resolved, Found)> {
        let to = inspect::resolve(self.server, self.interrupt)?;
        let addresses = match to.by_way_of {
            None => addresses(self.server, &to)?,
            Some(_) => Vec::new(),
        };
        let mut found = resolved(&to, &addresses, |key| key_file(key).is_some_and(|path| path.exists()));
        if !self.server.ssh_options.is_empty() {
            let options: Vec<&str> = self.server.ssh_options.iter().map(SshOption::as_str).collect();
            found += &format!(" · with {}", options.join(", "));
        }
        Ok((to, Found::Fine(found)))
    }
}

fn step<T>(say: &mut Say<'_>, step: Step, walk: impl FnOnce() -> Result<(T, Found)>) -> Result<T, Failed> {
    say(step, None);
    match walk() {
        Ok((value, found)) => {
            say(step, Some(Ok(&found)));
            Ok(value)
        }
        Err(e) => {
            say(step, Some(Err(&e)));
            Err((step, e))
        }
    }
}
