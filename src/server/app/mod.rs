//! The actor of one App: a thread that owns its desired state, its instances and its rollout.

use std::sync::Arc;

use crossbeam_channel::Receiver;

use super::board::Board;
use super::layout::Layout;
use super::state::Desired;
use crate::crypto::Key;
use crate::error::Result;
use crate::proto::control::{AppStatus, Deploy, Deployed, LogLine, Notice, Release};
use crate::proto::name::AppId;
use crate::proto::version::Version;

/// What every app needs of the daemon.
#[derive(Clone)]
pub(crate) struct World {
    pub layout: Arc<Layout>,
    pub board: Board,
    /// Seals secrets at rest.
    pub host_key: Key,
    // `watch`, `probe`, `logs` handles are added by app/.
}

/// A cloneable way to an app's actor.
#[derive(Clone)]
pub(crate) struct Handle {}

/// What a long verb says while it works; `Done` is the last. A receiver that is dropped changes nothing.
pub(crate) enum Event {
    Notice(Notice),
    Done(Result<Deployed>),
}

/// Starts the shared threads (`watch`, `probe`, `logs`) once per daemon.
pub(crate) fn world(_layout: Arc<Layout>, _board: Board, _host_key: Key) -> Result<World> {
    unimplemented!()
}

/// Starts the actor; with a desired state it starts the instances too (boot). `None` is an app about to be deployed
/// for the first time.
pub(crate) fn start(_id: AppId, _desired: Option<Desired>, _world: &World) -> Result<Handle> {
    unimplemented!()
}

impl Handle {
    /// `by` is who asked, for the release log.
    pub fn deploy(&self, _order: Deploy, _by: String) -> Receiver<Event> {
        unimplemented!()
    }

    pub fn rollback(&self, _to: Option<Version>, _by: String) -> Receiver<Event> {
        unimplemented!()
    }

    pub fn scale(&self, _instances: u32) -> Receiver<Event> {
        unimplemented!()
    }

    /// Stops every instance and takes the app off the board; the actor ends. Files are the caller's to remove.
    pub fn delete(&self) -> Receiver<Event> {
        unimplemented!()
    }

    /// Stops the instances for the end of the daemon: TERM, grace, KILL. Desired state is untouched.
    pub fn stop(&self) {
        unimplemented!()
    }

    pub fn status(&self) -> Result<AppStatus> {
        unimplemented!()
    }

    pub fn releases(&self) -> Result<Vec<Release>> {
        unimplemented!()
    }

    /// Hash of the secrets held, for preflight.
    pub fn secrets_hash(&self) -> Option<String> {
        unimplemented!()
    }

    /// Whether nothing was ever deployed here.
    pub fn is_empty(&self) -> bool {
        unimplemented!()
    }

    /// The last `lines` of output, and with `follow` what comes after, until the receiver is dropped.
    pub fn logs(&self, _lines: u32, _follow: bool) -> Receiver<Vec<LogLine>> {
        unimplemented!()
    }
}
