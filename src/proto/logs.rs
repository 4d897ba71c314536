//! What may be asked of an app's logs, and how their lines are told.
//!
//! **Invariant**: as of [`super::control`]: a field that is added later has a default.

use serde::{Deserialize, Serialize};

use super::name::AppId;

/// Which lines of an app's log: those that meet every wish that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LogQuery {
    pub app: AppId,
    /// And what comes after, until the client hangs up.
    #[serde(default)]
    pub follow: bool,
    /// The last so many of those that are kept; all of them without.
    #[serde(default)]
    pub lines: Option<u32>,
    /// Not before, milliseconds since 1970 by the server's clock.
    #[serde(default)]
    pub since_ms: Option<u64>,
    /// Not after.
    #[serde(default)]
    pub until_ms: Option<u64>,
    /// Not older than so many days.
    #[serde(default)]
    pub days: Option<u32>,
    /// The text holds this, literally.
    #[serde(default)]
    pub grep: Option<String>,
    /// … in upper or lower case.
    #[serde(default)]
    pub ignore_case: bool,
    /// The start of a release's version.
    #[serde(default)]
    pub release: Option<String>,
    #[serde(default)]
    pub instance: Option<u32>,
    #[serde(default)]
    pub stream: Option<Stream>,
    /// Of the requests that the proxy led to it instead of what it printed: the text of a line is one JSON object, of no
    /// release and no instance; the stream is `err` where the answer was 500 or above.
    #[serde(default)]
    pub access: bool,
}

impl LogQuery {
    /// All that is kept of this app's.
    #[cfg(test)]
    pub fn of(app: AppId) -> LogQuery {
        LogQuery {
            app,
            follow: false,
            lines: None,
            since_ms: None,
            until_ms: None,
            days: None,
            grep: None,
            ignore_case: false,
            release: None,
            instance: None,
            stream: None,
            access: false,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct LogLine {
    /// Milliseconds since 1970.
    pub at_ms: u64,
    pub release: String,
    pub instance: u32,
    pub stream: Stream,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Stream {
    Out,
    Err,
}
