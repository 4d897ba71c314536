//! What `tako-server` tells of an app: how it stands, what each of its instances takes, why one failed, and which releases
//! it has had. The same rule for fields that are added later holds as in `control`.

use serde::{Deserialize, Serialize};

use super::name::AppId;
use super::route::Route;
use super::version::Version;

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct AppStatus {
    pub app: AppId,
    pub state: AppState,
    pub version: Option<Version>,
    pub routes: Vec<Route>,
    /// As wanted; 0 is on demand.
    pub wanted: u32,
    pub instances: Vec<InstanceStatus>,
    /// When the live release went live, milliseconds since 1970.
    pub since_ms: u64,
    /// The last failure since the live release went live, also that of a release that was to take its place.
    #[serde(default)]
    pub last_failure: Option<Failure>,
    /// Places whose process failed, until they get another one.
    #[serde(default)]
    pub waiting: Vec<Waiting>,
    /// What its operator should know about the machine that it runs on: limits and walls that it cannot give.
    #[serde(default)]
    pub remarks: Vec<String>,
}

/// Why an instance failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Failure {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub release: Version,
    /// `None` when it is about all of them.
    pub instance: Option<u32>,
    /// What happened, as the end of a sentence that starts with the instance: `exited with code 1: …`.
    pub what: String,
    /// The lines or facts that show it.
    #[serde(default)]
    pub proof: Vec<String>,
    /// The next step.
    #[serde(default)]
    pub hint: Option<String>,
    /// How the process ended, if it did.
    #[serde(default)]
    pub exit_code: Option<i32>,
    #[serde(default)]
    pub signal: Option<i32>,
}

/// A place that waits for its next process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Waiting {
    pub number: u32,
    /// How often its process ended in a row.
    pub restarts: u32,
    /// Until it is started again.
    pub next_ms: u64,
}

/// Lines of a failure's report: its proof, and what the instance printed last.
const REPORT: usize = 20;

impl Failure {
    /// The proof, then the last of `lines` that it does not have.
    pub fn detail(&self, lines: &[String]) -> Vec<String> {
        let more: Vec<&String> =
            lines.iter().filter(|line| !line.trim().is_empty() && !self.proof.contains(line)).collect();
        let room = REPORT.saturating_sub(self.proof.len());
        let more = more[more.len().saturating_sub(room)..].iter().map(ToString::to_string);
        self.proof.iter().cloned().chain(more).collect()
    }
}

/// One sentence: `instance 1 exited with code 1`.
impl std::fmt::Display for Failure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.instance {
            Some(number) => write!(f, "instance {number} {}", self.what),
            None => f.write_str(&self.what),
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum AppState {
    /// At least one healthy instance, none missing.
    Live,
    /// Some healthy, some missing.
    Degraded,
    /// Nothing is wanted: it was never deployed, or is being deleted.
    Idle,
    /// On demand, nothing runs: the next request starts an instance.
    Asleep,
    /// On demand, and the last start failed: requests are refused until the next one may be tried.
    Failed,
    /// Instances are coming up, none healthy yet.
    Starting,
    /// A rollout is under way.
    Deploying,
    /// Instances end again and again; restarts are backing off.
    CrashLooping,
    #[serde(other)]
    Unknown,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct InstanceStatus {
    pub number: u32,
    pub version: Version,
    pub pid: u32,
    pub port: u16,
    /// The lifecycle state's name: `healthy`, `draining`…
    pub state: String,
    pub up_ms: u64,
    /// Resident memory in bytes, with that of all processes that it started.
    pub memory: u64,
    /// Processor time of the same processes since the start.
    #[serde(default)]
    pub cpu_ms: u64,
    /// Thousandths of one core that they took in the last seconds.
    #[serde(default)]
    pub cpu_permille: u32,
    /// How often this place was filled again because its process ended by itself.
    #[serde(default)]
    pub restarts: u32,
}

#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct Release {
    pub version: Version,
    pub live: bool,
    /// When it last went live, milliseconds since 1970.
    pub deployed_ms: u64,
    pub by: String,
    pub commit_message: Option<String>,
    pub git_dirty: bool,
    /// It was rolled back or replaced after a failure.
    pub bad: bool,
    /// Why it never went live, if it did not; then it is not there to go back to.
    #[serde(default)]
    pub failure: Option<String>,
}
