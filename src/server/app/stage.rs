//! Stage: what an app's actor asks of the rest of the server, so that it can be played without proxy and runtimes.

use crossbeam_channel::Sender;

use crate::error::Result;
use crate::proto::manifest::Manifest;
use crate::proto::name::AppId;
use crate::proto::route::Route;
use crate::proto::version::Version;
use crate::proxy::Notice;
use crate::server::board::{Board, Claim, Posting};
use crate::server::layout::Layout;
use crate::server::release;
use crate::server::runtime::{self, Launch};
use crate::server::state::Desired;

pub(crate) trait Stage: Send + 'static {
    type Claim: Send;

    fn claim(&self, app: &AppId, routes: &[Route]) -> Result<Self::Claim>;
    fn post(&self, app: &AppId, posting: Posting) -> u64;
    fn remove(&self, app: &AppId) -> u64;
    fn subscribe(&self, app: &AppId, to: Sender<Notice>);

    fn launch(&self, layout: &Layout, manifest: &Manifest) -> Result<Launch>;
    fn is_complete(&self, layout: &Layout, app: &AppId, version: &Version) -> bool;
    fn describe(&self, layout: &Layout, manifest: &Manifest) -> Result<()>;
    fn activate(&self, layout: &Layout, manifest: &Manifest) -> Result<()>;
    fn discard(&self, layout: &Layout, app: &AppId, version: &Version) -> Result<()>;
    fn prune(&self, layout: &Layout, desired: &mut Desired, running: &[Version], now_ms: u64);
}

impl Stage for Board {
    type Claim = Claim;

    fn claim(&self, app: &AppId, routes: &[Route]) -> Result<Claim> {
        Board::claim(self, app, routes)
    }

    fn post(&self, app: &AppId, posting: Posting) -> u64 {
        Board::post(self, app, posting)
    }

    fn remove(&self, app: &AppId) -> u64 {
        Board::remove(self, app)
    }

    fn subscribe(&self, app: &AppId, to: Sender<Notice>) {
        Board::subscribe(self, app, to);
    }

    fn launch(&self, layout: &Layout, manifest: &Manifest) -> Result<Launch> {
        runtime::launch(layout, manifest)
    }

    fn is_complete(&self, layout: &Layout, app: &AppId, version: &Version) -> bool {
        release::is_complete(layout, app, version)
    }

    fn describe(&self, layout: &Layout, manifest: &Manifest) -> Result<()> {
        release::describe(layout, manifest)
    }

    fn activate(&self, layout: &Layout, manifest: &Manifest) -> Result<()> {
        release::activate(layout, manifest)
    }

    fn discard(&self, layout: &Layout, app: &AppId, version: &Version) -> Result<()> {
        release::discard(layout, app, version)
    }

    fn prune(&self, layout: &Layout, desired: &mut Desired, running: &[Version], now_ms: u64) {
        release::prune(layout, desired, running, now_ms);
    }
}
