//! Fault: an [`Error`] that can travel. The kind survives, so that the far side picks the same exit code.

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Fault {
    pub kind: Kind,
    pub message: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// Lines of proof, such as the last output of an instance.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub detail: Vec<String>,
}

impl From<Error> for Fault {
    fn from(e: Error) -> Fault {
        Fault {
            kind: e.kind(),
            message: e.to_string(),
            hint: e.next_step().map(Into::into),
            detail: e.detail().to_vec(),
        }
    }
}

impl From<Fault> for Error {
    fn from(f: Fault) -> Error {
        let e = Error::new(f.kind, f.message).with_detail(f.detail);
        match f.hint {
            Some(hint) => e.hint(hint),
            None => e,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_survives_the_trip() {
        let e = Error::new(Kind::Rejected, "not ready").hint("look at the log").with_detail(vec!["boom".into()]);
        let line = serde_json::to_string(&Fault::from(e)).unwrap();
        let back: Error = serde_json::from_str::<Fault>(&line).unwrap().into();
        assert_eq!(
            (back.kind(), back.to_string().as_str(), back.next_step()),
            (Kind::Rejected, "not ready", Some("look at the log"))
        );
        assert_eq!(back.detail(), ["boom"]);
    }

    #[test]
    fn a_kind_from_the_future_is_still_an_error() {
        let f: Fault = serde_json::from_str(r#"{"kind":"quantum","message":"x"}"#).unwrap();
        assert_eq!(f.kind, Kind::Bug);
    }
}
