//! Version: the identity of what was deployed.
//!
//! `{commit}` for a clean git tree, `{commit}_{hash8}` for one with changes, `nogit_{hash8}` without a commit. To a
//! server it is an opaque word that must be safe as a folder's name.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Longest version id we accept; ours have at most 49 characters.
const MAX: usize = 128;

/// 1–128 of letters, digits, `.`, `-`, `_`; never `.` or `..`, never a leading `-` or `.`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Version(String);

impl Version {
    pub fn parse(s: &str) -> Result<Self> {
        let good = (1..=MAX).contains(&s.len())
            && s.starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_')
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        if good {
            return Ok(Version(s.into()));
        }
        let shown: String = s.chars().take(80).flat_map(char::escape_debug).collect();
        Err(Error::new(Kind::Refused, format!("`{shown}` is not a valid version"))
            .hint("use 1–128 letters, digits, `.`, `-`, `_`, starting with a letter or digit"))
    }

    /// The version of a source tree: its commit if it has one (7 or more hex digits), and the first eight hex digits
    /// of its content's hash when the commit does not tell all.
    pub fn of(commit: Option<&str>, changed: bool, source_hash: &str) -> Result<Self> {
        let hash8 = source_hash.get(..8).unwrap_or(source_hash);
        match commit {
            Some(commit) if changed => Version::parse(&format!("{commit}_{hash8}")),
            Some(commit) => Version::parse(commit),
            None => Version::parse(&format!("nogit_{hash8}")),
        }
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(&self.0)
    }
}

impl TryFrom<String> for Version {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        Version::parse(&s)
    }
}

impl From<Version> for String {
    fn from(v: Version) -> String {
        v.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_is_safe_as_a_folder_name() {
        for good in ["4f2c9ab", "4f2c9ab_0011aabb", "nogit_deadbeef", "v1.2.3-rc.1", &"a".repeat(128)] {
            assert!(Version::parse(good).is_ok(), "{good}");
        }
        for bad in ["", ".", "..", ".hidden", "-rf", "a/b", "a b", "a\0", "é", &"a".repeat(129)] {
            assert!(Version::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_three_forms() {
        let of = |commit, changed| Version::of(commit, changed, "0123456789abcdef").unwrap().to_string();
        assert_eq!(of(Some("4f2c9ab"), false), "4f2c9ab");
        assert_eq!(of(Some("4f2c9ab"), true), "4f2c9ab_01234567");
        assert_eq!(of(None, true), "nogit_01234567");
    }
}
