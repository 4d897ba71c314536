//! Every path under the data directory, by name: one place to see what lies where on a server.
//!
//! ```text
//! {data}/apps/<id>/releases/<version>/   app.json, code, logs -> ../../shared/logs; complete once .complete is there
//!                 /current               -> releases/<version>, for people; nothing is started through it
//!                 /shared/logs, /shared/data; access.log and older ones are in logs, too
//!                 /state.json            desired state; its absence means the app is not there
//!                 /secrets.<n>.sealed    under the host key; `state.json` says which one is meant
//!                 /user                  the number of the user that it runs as
//!                 /bases/<sha256>.<size>.<version>.tar.zst   the last artifacts, for the next one to be a delta against
//!                 /home, /tmp            its HOME and TMPDIR; the latter is emptied when nothing of it runs
//!                 /run/<n>.json          about a running instance, to find it after a crash; and <n>.born
//!                 /.deploy_lock          who is changing the app, for people; the lock itself is in memory
//! {data}/apps/.<id>.deleted/             what is left of an app that is gone; removed at the next start if not before
//! {data}/incoming/                       uploads
//! {data}/logs/access.log                 requests of no app, and older ones
//! {data}/certs/<host>/                   chain.pem, key.pem; self-signed beside those that we made
//! {data}/runtimes/<tool>/<version>/bin/  programs that run apps
//! {data}/cache/                          the home of installers when the server's user has none
//! {data}/last-user                       the number that the newest app was given
//! {data}/lock                            held while a daemon runs on this folder
//! {data}/sdk/<hash>/                     the embedded JavaScript entry points
//! {data}/host.key                        seals what must not lie in clear
//! ```

use std::path::{Path, PathBuf};

use crate::proto::manifest::Manifest;
use crate::proto::name::AppId;
use crate::proto::version::Version;

#[derive(Debug, Clone)]
pub(crate) struct Layout {
    data: PathBuf,
}

impl Layout {
    /// `data` should be absolute: it is told to apps and clients.
    pub fn new(data: PathBuf) -> Self {
        Layout { data }
    }

    pub fn data(&self) -> &Path {
        &self.data
    }

    pub fn apps(&self) -> PathBuf {
        self.data.join("apps")
    }

    pub fn app(&self, id: &AppId) -> PathBuf {
        self.apps().join(id.to_string())
    }

    /// What an app's folder is called while it is removed.
    pub fn deleted(&self, id: &AppId) -> PathBuf {
        self.apps().join(format!(".{id}.deleted"))
    }

    pub fn releases(&self, id: &AppId) -> PathBuf {
        self.app(id).join("releases")
    }

    pub fn release(&self, id: &AppId, version: &Version) -> PathBuf {
        self.releases(id).join(version.as_str())
    }

    /// Where the app's code lies in its release.
    pub fn app_dir(&self, manifest: &Manifest) -> PathBuf {
        self.release(&manifest.app, &manifest.version).join(&manifest.dir)
    }

    /// Written last into a release that is laid out in full.
    pub fn complete_marker(&self, id: &AppId, version: &Version) -> PathBuf {
        self.release(id, version).join(".complete")
    }

    /// Written once the release is able to start.
    pub fn prepared_marker(&self, id: &AppId, version: &Version) -> PathBuf {
        self.release(id, version).join(".prepared")
    }

    /// The last artifacts of the app.
    pub fn bases(&self, id: &AppId) -> PathBuf {
        self.app(id).join("bases")
    }

    pub fn current(&self, id: &AppId) -> PathBuf {
        self.app(id).join("current")
    }

    pub fn shared(&self, id: &AppId) -> PathBuf {
        self.app(id).join("shared")
    }

    pub fn logs(&self, id: &AppId) -> PathBuf {
        self.app(id).join("shared/logs")
    }

    /// The requests that a route led to the app.
    pub fn access_log(&self, id: &AppId) -> PathBuf {
        self.logs(id).join("access.log")
    }

    /// All that the installer of the last release said.
    pub fn install_log(&self, id: &AppId) -> PathBuf {
        self.logs(id).join("install.log")
    }

    /// What is of no app.
    pub fn own_logs(&self) -> PathBuf {
        self.data.join("logs")
    }

    pub fn own_access_log(&self) -> PathBuf {
        self.own_logs().join("access.log")
    }

    /// The app's own data, given to it as `TAKO_DATA_DIR`.
    pub fn app_data(&self, id: &AppId) -> PathBuf {
        self.app(id).join("shared/data")
    }

    /// Given to it as `HOME`.
    pub fn app_home(&self, id: &AppId) -> PathBuf {
        self.app(id).join("home")
    }

    /// Given to it as `TMPDIR`.
    pub fn app_tmp(&self, id: &AppId) -> PathBuf {
        self.app(id).join("tmp")
    }

    pub fn state(&self, id: &AppId) -> PathBuf {
        self.app(id).join("state.json")
    }

    /// `name` is what the app's state calls them.
    pub fn secrets(&self, id: &AppId, name: &str) -> PathBuf {
        self.app(id).join(format!("secrets.{name}.sealed"))
    }

    /// Which user it runs as.
    pub fn user(&self, id: &AppId) -> PathBuf {
        self.app(id).join("user")
    }

    /// So that no number is given again soon after its app was deleted.
    pub fn last_user(&self) -> PathBuf {
        self.data.join("last-user")
    }

    pub fn run(&self, id: &AppId) -> PathBuf {
        self.app(id).join("run")
    }

    pub fn deploy_lock(&self, id: &AppId) -> PathBuf {
        self.app(id).join(".deploy_lock")
    }

    pub fn incoming(&self) -> PathBuf {
        self.data.join("incoming")
    }

    pub fn certs(&self) -> PathBuf {
        self.data.join("certs")
    }

    pub fn runtimes(&self) -> PathBuf {
        self.data.join("runtimes")
    }

    /// One version of a tool; a folder of that name is whole.
    pub fn runtime(&self, tool: &str, version: &str) -> PathBuf {
        self.runtimes().join(tool).join(version)
    }

    pub fn cache(&self) -> PathBuf {
        self.data.join("cache")
    }

    /// Held for as long as a daemon runs on this data directory.
    pub fn lock(&self) -> PathBuf {
        self.data.join("lock")
    }

    pub fn sdk(&self) -> PathBuf {
        self.data.join("sdk")
    }

    pub fn host_key(&self) -> PathBuf {
        self.data.join("host.key")
    }
}
