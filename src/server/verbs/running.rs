//! Commands: `run` and the `release` command of a deploy. They are let in here, started and carried by the connection
//! that asked, and gone with it.
//!
//! **Invariant**: a release whose `release` command did not end well is gone before anybody hears of it, unless it was
//! live once.

use std::sync::Arc;
use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::proto::control::Reply;
use crate::proto::name::AppId;
use crate::proto::task::{Run, RunRelease};
use crate::proto::version::Version;
use crate::server::app::{Of, Task};
use crate::server::daemon::Daemon;
use crate::server::layout::Layout;
use crate::server::lock::Held;
use crate::server::{release, vet};
use crate::sys::{Attach, Size};

use super::{Outcome, Session, work};

/// A migration that takes longer is no part of a deploy (SPEC 3).
const RELEASE_TIME: Duration = Duration::from_secs(600);

/// A command that was let in, for the thread that carries its bytes to start it.
pub(crate) struct Command {
    pub task: Task,
    pub argv: Vec<String>,
    pub how: Attach,
    /// What it is told of its terminal.
    pub term: Option<String>,
    pub limit: Option<Duration>,
    pub candidate: Option<Candidate>,
}

/// A release that stands or falls with a command; the lock on its app.
pub(crate) struct Candidate {
    layout: Arc<Layout>,
    app: AppId,
    version: Version,
    is_good: bool,
    lock: Arc<Held>,
}

pub(super) fn run(daemon: &Daemon, session: &Session, order: Run) -> Result<Outcome> {
    daemon.may_change()?;
    vet::run(&order)?;
    let Run { app, argv, stdin, tty, release } = order;
    let task = daemon.find(&app)?.task(release.map_or(Of::Live, Of::Earlier))?;
    let how = match &tty {
        Some(tty) => Attach::Terminal(Size { rows: tty.rows, cols: tty.cols }),
        None if stdin => Attach::Pipes,
        None => Attach::Output,
    };
    // Not its arguments, which may be anybody's secret.
    let program = argv.first().map_or("", String::as_str).escape_debug();
    log::info!("app={app} release={} run={program} by={}", task.version(), session.who);
    let term = tty.map(|tty| tty.term);
    Ok(Outcome::Command(Box::new(Command { task, argv, how, term, limit: None, candidate: None })))
}

pub(super) fn release(daemon: &Daemon, session: &Session, order: RunRelease) -> Result<Outcome> {
    daemon.may_change()?;
    vet::run_release(&order)?;
    let RunRelease { manifest, secrets, command } = order;
    let (app, version) = (manifest.app.clone(), manifest.version.clone());
    let lock = session.held(&app)?;
    let layout = daemon.layout.clone();
    if !layout.prepared_marker(&app, &version).is_file() {
        let message = format!("{version} of {app} is not ready on this server");
        return Err(Error::new(Kind::Refused, message).hint("prepare it first"));
    }
    let candidate = Candidate { layout, app: app.clone(), version, is_good: false, lock };
    candidate.lock.at("running the release command");
    let task = daemon.find_or_start(&app)?.task(Of::Coming(Box::new(manifest), secrets))?;
    log::info!("app={app} release={} its release command begins by={}", task.version(), session.who);
    let argv = vec!["/bin/sh".into(), "-c".into(), command];
    Ok(Outcome::Command(Box::new(Command {
        task,
        argv,
        how: Attach::Output,
        term: None,
        limit: Some(RELEASE_TIME),
        candidate: Some(candidate),
    })))
}

pub(super) fn discard(daemon: &Daemon, session: &Session, app: &AppId, version: Version) -> Result<Outcome> {
    daemon.may_change()?;
    let lock = session.held(app)?;
    let (layout, app) = (daemon.layout.clone(), app.clone());
    work(lock, move |_| {
        release::give_up(&layout, &app, &version);
        Ok(Reply::Done)
    })
}

impl Candidate {
    /// It is to be deployed next.
    pub fn stays(&mut self) {
        self.is_good = true;
    }
}

impl Drop for Candidate {
    fn drop(&mut self) {
        if !self.is_good {
            release::give_up(&self.layout, &self.app, &self.version);
        }
    }
}
