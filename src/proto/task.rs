//! Task: one command in a release, as it is asked for and as it is told. What goes to and fro while it runs is bytes,
//! which JSON cannot hold as they are.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::control::Secrets;
use super::manifest::Manifest;
use super::name::AppId;

/// Bytes of input that a client may send beyond those that the server has asked for with `Notice::Wants`: none. And this
/// many the server asks for at most, so that it never holds more and still hears a signal behind them.
pub(crate) const WINDOW: usize = 256 << 10;
/// Bytes of one message; as base64 and JSON that is far below the longest line of the protocol.
pub(crate) const PIECE: usize = 32 << 10;

/// A command in the live release of an app, or in another one that was live once.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Run {
    pub app: AppId,
    /// The program, looked up on the app's own PATH, and its arguments.
    pub argv: Vec<String>,
    /// Whether it has an input; on a terminal it always has.
    #[serde(default)]
    pub stdin: bool,
    #[serde(default)]
    pub tty: Option<Tty>,
    /// The start of a release's version.
    #[serde(default)]
    pub release: Option<String>,
}

/// The `release` command of a deploy.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct RunRelease {
    pub manifest: Manifest,
    /// Those that the deploy brings; `None` is those that the server has.
    pub secrets: Option<Secrets>,
    /// For the shell.
    pub command: String,
}

/// The terminal at the other end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tty {
    pub rows: u16,
    pub cols: u16,
    /// Its `TERM`.
    pub term: String,
}

/// What a client says while its command runs. It is not answered; what comes after the end is not heard.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Input {
    Bytes(Blob),
    /// There is no more of it.
    End,
    /// The terminal is of this size now.
    Size {
        rows: u16,
        cols: u16,
    },
    /// For all of the command's process group.
    Signal(Signal),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Signal {
    Int,
    Term,
    Hup,
    Quit,
    Kill,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Ended {
    Code(u8),
    Signal(i32),
    /// It was ended after so many seconds.
    OutOfTime(u64),
    /// It never began: 127 when there is no such program, 126 when it cannot be run; and why.
    NotStarted {
        code: u8,
        why: String,
    },
}

/// Bytes, as base64.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct Blob(pub Vec<u8>);

impl Serialize for Blob {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_str(&STANDARD.encode(&self.0))
    }
}

impl<'de> Deserialize<'de> for Blob {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        let text = String::deserialize(from)?;
        STANDARD.decode(text).map(Blob).map_err(D::Error::custom)
    }
}

/// Not its content: that is a stranger's, and may be secret.
impl std::fmt::Debug for Blob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Blob({} bytes)", self.0.len())
    }
}

impl Ended {
    /// As a shell would tell it.
    pub fn code(&self) -> u8 {
        match self {
            Ended::Code(code) | Ended::NotStarted { code, .. } => *code,
            Ended::Signal(signal) => 128u8.saturating_add(u8::try_from(*signal).unwrap_or(0)),
            // As timeout(1) does.
            Ended::OutOfTime(_) => 124,
        }
    }

    pub fn is_good(&self) -> bool {
        *self == Ended::Code(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_travel_as_text() {
        let all: Vec<u8> = (0..=255).collect();
        let line = serde_json::to_string(&Input::Bytes(Blob(all.clone()))).unwrap();
        assert!(line.is_ascii() && !line.contains('\n'));
        let Input::Bytes(back) = serde_json::from_str(&line).unwrap() else { panic!("{line}") };
        assert_eq!(back.0, all);
        assert!(serde_json::from_str::<Blob>("\"no base64!\"").is_err());
        assert_eq!(format!("{:?}", Blob(b"secret".to_vec())), "Blob(6 bytes)");
    }

    #[test]
    fn ends_have_the_codes_of_a_shell() {
        let not_there = Ended::NotStarted { code: 127, why: String::new() };
        let codes = [Ended::Code(0), Ended::Code(3), Ended::Signal(2), Ended::Signal(15), not_there];
        assert_eq!(codes.map(|end| end.code()), [0, 3, 130, 143, 127]);
        assert_eq!(Ended::OutOfTime(600).code(), 124);
    }
}
