//! Everything that may be asked of `tako-server`, and everything it may answer.
//!
//! A connection starts with the server's [`Hello`] and the client's [`Greeting`]. Then each [`Call`] is answered by any
//! number of [`Notice`]s and exactly one [`Reply`] or fault, all with the call's id. Calls of one connection are served
//! in order. A deploy that was accepted goes on when the connection is lost, and keeps its lock; a lock alone does not.
//!
//! **Invariant**: a field that is added later has a default, so that both sides of one protocol version may differ in
//! age; a change that an old peer would misread raises the protocol version.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::Range;
use super::fault::Fault;
pub(crate) use super::logs::{LogLine, LogQuery, Stream};
use super::manifest::Manifest;
use super::name::AppId;
use super::route::Route;
use super::status::{AppStatus, Release};
use super::target::Target;
use super::task::{Blob, Ended, Input, Run, RunRelease};
use super::version::Version;

/// The value of [`Hello::tako`], by which the line is found among a noisy shell's output.
pub(crate) const MAGIC: &str = "hello";

/// The first line from the server.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Hello {
    /// Always [`MAGIC`]; first, so that the line is known by its start.
    pub tako: String,
    pub protocol: Range,
    /// The server program's version.
    pub server: String,
    pub target: Target,
    /// The server's clock, milliseconds since 1970.
    pub clock_ms: u64,
    /// Where uploads go: an absolute folder, on the file system of the releases.
    pub incoming: String,
    /// It understands `Beat`.
    #[serde(default)]
    pub hears_beats: bool,
}

/// The first line from the client.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Greeting {
    /// The version picked from the server's range.
    pub protocol: u32,
    /// The client program's version.
    pub client: String,
    /// Who is there, for locks and the release log: `ana@laptop`.
    pub who: String,
    /// It will send a `Beat` whenever it has said nothing else for [`BEAT`], so that its silence means that it is gone.
    #[serde(default)]
    pub beats: bool,
}

/// How often a client says that it is there; a few of them may be late together without harm.
pub(crate) const BEAT: Duration = Duration::from_secs(5);

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Call {
    pub id: u64,
    pub request: Request,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Answer {
    pub id: u64,
    pub body: Body,
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Body {
    Notice(Notice),
    Reply(Reply),
    Fault(Fault),
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// → `Reply::Info`.
    Info,
    /// Can this be deployed here? Changes nothing. → `Reply::Preflight`, or Conflict naming the other app.
    Preflight {
        app: AppId,
        version: Version,
        routes: Vec<Route>,
        /// Asks too whether all that is live already.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        wish: Option<Box<Wish>>,
    },
    /// Keeps others from changing the app until `Unlock` or the end of this connection, and of what it began. →
    /// `Reply::Done`, or Busy saying who has it and how far they are. Taken twice by one connection is fine.
    Lock { app: AppId, version: Option<Version> },
    /// → `Reply::Done`.
    Unlock { app: AppId },
    /// How much of an upload has arrived, for a progress bar. `file` is a name in the incoming folder, no path.
    /// → `Reply::Incoming`, of 0 bytes while it is not there.
    Incoming { file: String },
    /// Checks an uploaded artifact and lays it out as a release; needs the lock. → `Reply::Done`. A delta that is refused,
    /// for whatever reason, is gone then, and the client sends the whole archive.
    Unpack { app: AppId, version: Version, artifact: Artifact },
    /// Makes the release able to start: runtime there, dependencies installed; needs the lock. → `Reply::Done`.
    Prepare {
        manifest: Manifest,
        /// Installs them also where those of an earlier release would do.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        anew: bool,
    },
    /// Puts a prepared release live; needs the lock. Notices tell the steps. → `Reply::Deployed`.
    Deploy(Deploy),
    /// → `Reply::Status`, of every app when `app` is `None`.
    Status { app: Option<AppId> },
    /// The app's output. Notices `Lines`; with `follow` it goes on until the client hangs up, or to a fault when the app
    /// is deleted. → `Reply::Done`, or Busy when too many are reading.
    Logs(LogQuery),
    /// → `Reply::Releases`, newest first.
    Releases { app: AppId },
    /// Puts an earlier release live again with its routes and vars; `None` means the last good one before the live
    /// one. Notices as for a deploy. → `Reply::Deployed`.
    Rollback { app: AppId, version: Option<Version> },
    /// 0 is on demand. Notices as for a deploy. → `Reply::Deployed`.
    Scale { app: AppId, instances: u32 },
    /// Stops the app and removes all of it. → `Reply::Done`.
    Delete { app: AppId },
    /// Joins the app's rollout, or hears how the last one ended: first a notice `Joined`, then those of a deploy from
    /// its start. → `Reply::Deployed` or its fault, or NotFound when there was none since the server started.
    Attach { app: AppId },
    /// Calls the app's deploy of `version` off, whoever began it: what served goes on serving. → `Reply::Done`, and
    /// Interrupted to who waits for the deploy; Conflict when it is live already, NotFound when there is none.
    Cancel { app: AppId, version: Version },
    /// One command with all that an instance gets, for as long as this client is there. Notices `Output`, and `Wants`
    /// when it has an input, which is sent as `Input` under the id of this call. → `Reply::Ran`.
    Run(Run),
    /// For the command that runs, and without an answer.
    Input(Input),
    /// Runs the `release` command in a prepared release that is not live yet; needs the lock. Unless it ends well, a
    /// release that never was live is gone then. Notices `Output`. → `Reply::Ran`.
    RunRelease(RunRelease),
    /// Removes a release that never was live, because its deploy was given up; needs the lock. → `Reply::Done`.
    Discard { app: AppId, version: Version },
    /// Which secrets are in force. → `Reply::SecretsHash`, or NotFound.
    SecretsHash { app: AppId },
    /// These secrets for the live release: its instances are replaced one by one, unless it has these already. Notices as
    /// for a deploy. → `Reply::Deployed`; when the new instances fail the old secrets stay in force.
    Secrets { app: AppId, secrets: Secrets },
    /// Makes what has arrived of the upload `file`, which has `of` bytes in all, this client's own to go on from; needs the
    /// lock. With 0 bytes in all what is there is forgotten. → `Reply::Incoming`; of all bytes when nothing is left to
    /// send, with the SHA-256 of those that are there unless it is all under its final name.
    Claim { app: AppId, file: String, of: u64 },
    /// The next piece of an upload, where there is no sftp; needs the lock. → `Reply::Incoming`. Several may be sent ahead;
    /// when one is refused, so are those after it.
    Put(Piece),
    /// The client is there. At any time, and without an answer.
    Beat,
}

/// A piece of an upload on this connection. The last one gives the file its name, the others are in [`part_of`] it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Piece {
    pub app: AppId,
    /// A name in the incoming folder, no path.
    pub file: String,
    /// What is there already.
    pub offset: u64,
    /// Of the whole file.
    pub of: u64,
    /// Base64.
    pub data: String,
}

/// What an upload is called in the incoming folder while it is not whole.
pub(crate) fn part_of(file: &str) -> String {
    format!("{file}.part")
}

/// An archive in the server's incoming folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Artifact {
    /// Its file name there: no path.
    pub file: String,
    /// SHA-256 of the uncompressed tar, lower-case hex.
    pub sha256: String,
    /// Compressed bytes.
    pub bytes: u64,
    /// Uncompressed bytes of the tar.
    pub unpacked: u64,
    /// The file is a delta, and this the SHA-256 of the tar that it is against: one of those in [`Preflight::bases`].
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub base: Option<String>,
}

/// An earlier artifact of an app that the server has kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Base {
    /// SHA-256 of its tar, lower-case hex.
    pub sha256: String,
    /// The release that it became.
    pub version: Version,
}

#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Deploy {
    pub manifest: Manifest,
    pub routes: Vec<Route>,
    /// 0 is on demand.
    pub instances: u32,
    /// `None` keeps those that the server has.
    pub secrets: Option<Secrets>,
}

/// A deploy as far as it is known before the build; with its routes and version.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Wish {
    pub manifest: Manifest,
    pub instances: u32,
}

/// The secrets of one app in one environment. Held by both sides in memory that is wiped; no `Debug` shows a value.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Secrets {
    /// HMAC of names and values by the environment's key, which the server never has; told back by preflight.
    pub hash: String,
    pub values: BTreeMap<String, Zeroizing<String>>,
}

impl Secrets {
    /// Whether they are those with this hash. Where there are none there is no hash either.
    pub fn are(&self, hash: Option<&str>) -> bool {
        hash.map_or(self.values.is_empty(), |hash| hash == self.hash)
    }
}

impl std::fmt::Debug for Secrets {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Secrets({} names)", self.values.len())
    }
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Reply {
    Done,
    Info(Info),
    Preflight(Preflight),
    Incoming {
        bytes: u64,
        #[serde(default, skip_serializing_if = "Option::is_none")]
        sha256: Option<String>,
    },
    Deployed(Deployed),
    Status(Vec<AppStatus>),
    Releases(Vec<Release>),
    Ran(Ended),
    SecretsHash {
        hash: Option<String>,
    },
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Info {
    pub server: String,
    pub target: Target,
    pub pid: u32,
    /// Where the proxy listens.
    pub http: Vec<String>,
    pub https: Vec<String>,
    pub data_dir: String,
    pub free_bytes: u64,
    /// Since the start of the program; an older server does not say.
    #[serde(default)]
    pub up_ms: Option<u64>,
    /// Certificates of the user's that cannot be used: `host: why`.
    #[serde(default)]
    pub cert_problems: Vec<String>,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Preflight {
    /// The release is laid out in full: no upload is needed.
    pub complete: bool,
    pub live: Option<Version>,
    /// Of the secrets that the server holds.
    pub secrets_hash: Option<String>,
    pub free_bytes: u64,
    /// Routes of other apps that are more specific than one of these, as `route (app)`: allowed, worth a word.
    pub overlaps: Vec<String>,
    /// What a delta may be against, newest first. A server that knows no deltas tells of none.
    #[serde(default)]
    pub bases: Vec<Base>,
    /// What was wished for is what is live, and it is well. Secrets are compared by their hash, by who has it.
    #[serde(default)]
    pub serves_this: bool,
}

/// What went live.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Deployed {
    pub version: Version,
    pub previous: Option<Version>,
    pub instances: u32,
    /// One per instance that was started.
    pub swaps: Vec<Swap>,
}

/// How long one instance took.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Swap {
    /// From spawn to the app's own ready signal, in microseconds: the app's time.
    pub boot_us: u64,
    /// From spawn until every proxy worker sends requests to it and none to the one it replaced: boot and ours.
    pub total_us: u64,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Notice {
    /// Instance `number` of `of` (from 1) is at `step`.
    Step { number: u32, of: u32, step: Step },
    /// What the server does apart from instances: `install dependencies`.
    Doing { what: String },
    /// The routes and the release are committed; only draining is left.
    Live { version: Version },
    /// Of a log, in order; `missed` lines before these came faster than this client took them, whether it wanted them or
    /// not.
    Lines {
        lines: Vec<LogLine>,
        #[serde(default)]
        missed: u64,
        /// What was kept has been told up to here; what comes after it is told as it is said. A server that does not know
        /// of this never says so.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        up_to_date: bool,
    },
    /// Of a command, in the order of each stream.
    Output { stream: Stream, bytes: Blob },
    /// So many bytes of input more may be sent to a command.
    Wants { bytes: usize },
    /// Nothing new, still at it: keeps the connection known to be alive.
    Beat,
    /// What the notices after this one are about.
    Joined(Joined),
}

/// A rollout that somebody else began.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Joined {
    pub who: String,
    pub version: Option<Version>,
    /// Since it began.
    pub since_ms: u64,
    /// It is over: what follows is how it went.
    pub ended: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Step {
    Starting,
    Ready,
    Healthy,
    InBalancing,
    Draining,
    Stopped,
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Both directions: the line means the value, and the value is written as that line.
    fn line<T: Serialize + for<'a> Deserialize<'a>>(line: &str) -> T {
        let value: T = serde_json::from_str(line).unwrap();
        assert_eq!(serde_json::to_string(&value).unwrap(), line);
        value
    }

    #[test]
    fn an_archive_without_a_base_is_told_as_to_a_server_that_knows_no_deltas() {
        let whole: Artifact = line(r#"{"file":"a.tar.zst","sha256":"ab","bytes":1,"unpacked":2}"#);
        assert_eq!(whole.base, None);
        let delta: Artifact = line(r#"{"file":"a.delta","sha256":"ab","bytes":1,"unpacked":2,"base":"cd"}"#);
        assert_eq!(delta.base.as_deref(), Some("cd"));
    }

    #[test]
    fn a_server_of_before_deltas_has_no_bases() {
        let old = r#"{"complete":false,"live":null,"secrets_hash":null,"free_bytes":1,"overlaps":[]}"#;
        assert_eq!(serde_json::from_str::<Preflight>(old).unwrap().bases, []);
        let new: Preflight = line(
            r#"{"complete":false,"live":"v1","secrets_hash":null,"free_bytes":1,"overlaps":[],"bases":[{"sha256":"ab","version":"v1"}],"serves_this":false}"#,
        );
        assert_eq!(new.bases[0].version.as_str(), "v1");
    }
}
