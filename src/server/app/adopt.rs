//! Pure: whether a process that an earlier server left running goes on, or ends.
//!
//! It goes on when it is what the state wants, to the deploy and the secrets, when it runs as its user, when there is a
//! place for it, when the port that the note names is its own, and when what it prints can be read. That it answers with its token is seen by
//! its first probe; until that is good nothing is sent to it.
//!
//! **Invariant**: of two processes for one place at most one is adopted.

use std::fmt;
use std::time::Duration;

use super::leftover::Note;
use crate::proto::version::Version;

/// So long an adopted process may take to answer: two probes that are not answered in time, and a third.
pub(super) const PATIENCE: Duration = Duration::from_secs(5);

/// What the state wants to run.
pub(super) struct Wanted<'a> {
    pub release: &'a Version,
    /// Tells two deploys of one release apart, which may differ in vars.
    pub deployed_ms: u64,
    pub secrets: Option<&'a str>,
    /// How many more.
    pub places: usize,
}

/// What can be seen of a process.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Facts {
    /// Whether it runs as whom it should.
    pub is_user: bool,
    /// Whether the port that the note names is its own; `None` when nobody listens there.
    pub listens: Option<bool>,
    /// Whether we can read what it prints.
    pub heard: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    Adopt,
    End(Why),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Why {
    Unwanted,
    Unborn,
    OtherRelease,
    OtherSecrets,
    OtherUser,
    TooMany,
    Silent,
    NotItsPort,
    Unheard,
}

/// `wanted` is `None` when nothing may run.
pub(super) fn fate(note: Option<&Note>, wanted: Option<&Wanted<'_>>, facts: Facts) -> Fate {
    let Some(wanted) = wanted else { return Fate::End(Why::Unwanted) };
    let Some(note) = note else { return Fate::End(Why::Unborn) };
    let is_release = note.release.as_ref() == Some(wanted.release) && note.deployed_ms == wanted.deployed_ms;
    let why = match (is_release, facts.listens) {
        (false, _) => Why::OtherRelease,
        _ if note.secrets.as_deref() != wanted.secrets => Why::OtherSecrets,
        _ if !facts.is_user => Why::OtherUser,
        _ if wanted.places == 0 => Why::TooMany,
        _ if note.port == 0 => Why::Unborn,
        (true, None) => Why::Silent,
        (true, Some(false)) => Why::NotItsPort,
        _ if !facts.heard => Why::Unheard,
        (true, Some(true)) => return Fate::Adopt,
    };
    Fate::End(why)
}

/// As the end of a sentence: it is ended because …
impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Why::Unwanted => "nothing of the app may run",
            Why::Unborn => "it was starting",
            Why::OtherRelease => "another deploy is live",
            Why::OtherSecrets => "the secrets are others",
            Why::OtherUser => "it runs as another user than it should",
            Why::TooMany => "there are enough",
            Why::Silent => "it does not listen any more",
            Why::NotItsPort => "another program listens on its port",
            Why::Unheard => "what it prints cannot be read",
        })
    }
}

#[cfg(test)]
mod tests {
    use zeroize::Zeroizing;

    use super::*;

    fn note() -> Note {
        Note {
            pid: 1,
            started: 1,
            boot: "b".into(),
            token: Zeroizing::new("t".into()),
            port: 4000,
            release: Some(Version::parse("v1").unwrap()),
            deployed_ms: 7,
            secrets: Some("h".into()),
            pipes: [1, 2],
        }
    }

    const FINE: Facts = Facts { is_user: true, listens: Some(true), heard: true };

    /// Every reason to end one that is fine but for it, and those that come first when there are several.
    #[test]
    fn only_what_runs_exactly_as_wanted_goes_on() {
        let (v1, v2) = (Version::parse("v1").unwrap(), Version::parse("v2").unwrap());
        let wanted = |release, deployed_ms, secrets, places| Wanted { release, deployed_ms, secrets, places };
        let right = wanted(&v1, 7, Some("h"), 1);
        let check = |note: Option<Note>, wanted: Option<&Wanted<'_>>, facts, expected| {
            assert_eq!(fate(note.as_ref(), wanted, facts), expected, "{facts:?}");
        };
        let silent = Facts { listens: None, ..FINE };
        let end = Fate::End;
        check(Some(note()), Some(&right), FINE, Fate::Adopt);
        check(Some(note()), None, FINE, end(Why::Unwanted));
        check(None, Some(&right), FINE, end(Why::Unborn));
        check(Some(note()), Some(&wanted(&v2, 7, Some("h"), 1)), FINE, end(Why::OtherRelease));
        check(Some(note()), Some(&wanted(&v1, 8, Some("h"), 1)), FINE, end(Why::OtherRelease));
        check(Some(Note { release: None, ..note() }), Some(&right), FINE, end(Why::OtherRelease));
        check(Some(note()), Some(&wanted(&v1, 7, Some("other"), 1)), FINE, end(Why::OtherSecrets));
        check(Some(note()), Some(&wanted(&v1, 7, None, 1)), FINE, end(Why::OtherSecrets));
        check(Some(Note { secrets: None, ..note() }), Some(&right), FINE, end(Why::OtherSecrets));
        check(Some(note()), Some(&right), Facts { is_user: false, ..FINE }, end(Why::OtherUser));
        check(Some(note()), Some(&wanted(&v1, 7, Some("h"), 0)), FINE, end(Why::TooMany));
        check(Some(Note { port: 0, ..note() }), Some(&right), silent, end(Why::Unborn));
        check(Some(note()), Some(&right), silent, end(Why::Silent));
        check(Some(note()), Some(&right), Facts { listens: Some(false), ..FINE }, end(Why::NotItsPort));
        check(Some(note()), Some(&right), Facts { heard: false, ..FINE }, end(Why::Unheard));
        check(
            Some(note()),
            Some(&wanted(&v2, 8, None, 0)),
            Facts { is_user: false, listens: None, heard: false },
            end(Why::OtherRelease),
        );
    }

    #[test]
    fn an_app_without_secrets_is_adopted_without() {
        let v1 = Version::parse("v1").unwrap();
        let wanted = Wanted { release: &v1, deployed_ms: 7, secrets: None, places: 64 };
        assert_eq!(fate(Some(&Note { secrets: None, ..note() }), Some(&wanted), FINE), Fate::Adopt);
    }
}
