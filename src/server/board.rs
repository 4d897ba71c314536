//! Board: what every app wants served, and the one place where tables are made from it.
//!
//! App actors post their routes and endpoints; the Board checks that no two apps own one pattern, builds the next
//! Table and publishes it under its lock (microseconds, no I/O), and passes the proxy's notices on to the apps.

use std::sync::Arc;

use crossbeam_channel::Sender;

use crate::error::Result;
use crate::proto::name::AppId;
use crate::proto::route::Route;
use crate::proxy::Notice;
use crate::proxy::table::Endpoint;

/// A cloneable way to the one Board.
#[derive(Clone)]
pub(crate) struct Board {
    inner: Arc<()>,
}

/// All that one app has in the table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Posting {
    pub routes: Vec<Route>,
    pub endpoints: Vec<Endpoint>,
    /// Largest request body in bytes.
    pub body_limit: u64,
}

/// Routes kept for an app while its deploy is under way; given back when dropped.
pub(crate) struct Claim {}

impl Board {
    /// Which routes of other apps are more specific than one of these (allowed), as `route (app)`.
    ///
    /// # Errors
    /// Conflict, naming the other app, when one owns or has claimed the same pattern.
    pub fn check(&self, _app: &AppId, _routes: &[Route]) -> Result<Vec<String>> {
        unimplemented!()
    }

    /// Keeps `routes` for `app` until the claim is dropped, besides those it has posted.
    ///
    /// # Errors
    /// As [`Board::check`].
    pub fn claim(&self, _app: &AppId, _routes: &[Route]) -> Result<Claim> {
        unimplemented!()
    }

    /// Replaces the app's posting and publishes the new table in one step; returns its generation.
    pub fn post(&self, _app: &AppId, _posting: Posting) -> u64 {
        unimplemented!()
    }

    /// Takes the app off the table.
    pub fn remove(&self, _app: &AppId) -> u64 {
        unimplemented!()
    }

    /// From now on `to` hears every notice of the proxy: acks of any table, drained and failed endpoints of any app.
    /// Replaces an earlier subscription of `app`; ends when the receiver is gone. Sending never blocks.
    pub fn subscribe(&self, _app: &AppId, _to: Sender<Notice>) {
        unimplemented!()
    }
}
