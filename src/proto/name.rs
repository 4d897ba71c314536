//! Names that people give: apps, environments, servers, and the id of an app in an environment.
//!
//! They end up in paths, host names, log lines and arguments, so they are parsed once, by one rule each, and are
//! harmless from then on: no separator, no dot-dot, no leading dash.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Length limit of every name: that of a DNS label (RFC 1035 §2.3.4), because app names become one.
const MAX: usize = 63;

pub(crate) const PRODUCTION: &str = "production";
pub(crate) const DEVELOPMENT: &str = "development";

/// The name of an app: 1–63 of `a-z 0-9 -`, starts with a letter, does not end with a hyphen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct AppName(String);

/// The name of an environment: 1–63 of `a-z 0-9 -`, starts with a letter, does not end with a hyphen.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct EnvName(String);

/// The name of a server in the inventory: 1–63 of `a-z A-Z 0-9 . _ -`, starts with a letter or digit.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct ServerName(String);

/// An app in an environment, as a server knows it: `app` for production, `app.env` for any other, so that several
/// environments share a host and production keeps the short paths.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct AppId {
    pub app: AppName,
    pub env: EnvName,
}

impl AppName {
    pub fn parse(s: &str) -> Result<Self> {
        label("app name", s).map(AppName)
    }

    /// What a directory's name says: lower-case, `_ . -` and runs of them become one `-`, all else is dropped,
    /// leading non-letters and trailing hyphens are trimmed. `None` when nothing is left.
    pub fn from_dir(dir: &str) -> Option<Self> {
        let mut name = String::new();
        for c in dir.chars().flat_map(char::to_lowercase) {
            match c {
                'a'..='z' | '0'..='9' => name.push(c),
                '_' | '.' | '-' if !name.ends_with('-') => name.push('-'),
                _ => {}
            }
        }
        let name = name.trim_start_matches(|c: char| !c.is_ascii_lowercase());
        let name = &name[..name.len().min(MAX)];
        AppName::parse(name.trim_end_matches('-')).ok()
    }
}

impl EnvName {
    pub fn parse(s: &str) -> Result<Self> {
        label("environment name", s).map(EnvName)
    }

    pub fn production() -> Self {
        EnvName(PRODUCTION.into())
    }

    pub fn is_production(&self) -> bool {
        self.0 == PRODUCTION
    }

    pub fn is_development(&self) -> bool {
        self.0 == DEVELOPMENT
    }
}

impl ServerName {
    pub fn parse(s: &str) -> Result<Self> {
        let good = s.len() <= MAX
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-".contains(&b));
        match good {
            true => Ok(ServerName(s.into())),
            false => {
                Err(bad("server name", s, "use 1–63 letters, digits, `.`, `_` or `-`, starting with a letter or digit"))
            }
        }
    }
}

impl AppId {
    pub fn new(app: AppName, env: EnvName) -> Self {
        AppId { app, env }
    }

    pub fn parse(s: &str) -> Result<Self> {
        let (app, env) = match s.split_once('.') {
            Some((app, env)) => (AppName::parse(app)?, EnvName::parse(env)?),
            None => (AppName::parse(s)?, EnvName::production()),
        };
        if s.contains('.') && env.is_production() {
            // One app, one spelling: else `app` and `app.production` would be two folders.
            return Err(bad("app id", s, "production is written without its name"));
        }
        Ok(AppId { app, env })
    }
}

fn label(what: &str, s: &str) -> Result<String> {
    let good = s.len() <= MAX
        && s.starts_with(|c: char| c.is_ascii_lowercase())
        && !s.ends_with('-')
        && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    match good {
        true => Ok(s.into()),
        false => Err(bad(what, s, "use 1–63 of a-z, 0-9 and `-`, starting with a letter and not ending with `-`")),
    }
}

fn bad(what: &str, s: &str, rule: &str) -> Error {
    let shown: String = s.chars().take(80).flat_map(char::escape_debug).collect();
    Error::new(Kind::Config, format!("`{shown}` is not a valid {what}")).hint(rule)
}

impl fmt::Display for AppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.env.is_production() {
            true => write!(f, "{}", self.app),
            false => write!(f, "{}.{}", self.app, self.env),
        }
    }
}

/// String in, string out, for serde and for messages; the three name types differ in their rule alone.
macro_rules! as_string {
    ($($name:ident),*) => {$(
        impl $name {
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    )*};
}
as_string!(AppName, EnvName, ServerName);

macro_rules! through_string {
    ($($name:ident),*) => {$(
        impl TryFrom<String> for $name {
            type Error = Error;
            fn try_from(s: String) -> Result<Self> {
                $name::parse(&s)
            }
        }

        impl From<$name> for String {
            fn from(name: $name) -> String {
                name.to_string()
            }
        }
    )*};
}
through_string!(AppName, EnvName, ServerName, AppId);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn app_names_are_dns_labels_that_start_with_a_letter() {
        for good in ["a", "my-app", "a1", "a-1-b", &"a".repeat(63)] {
            assert!(AppName::parse(good).is_ok(), "{good}");
        }
        for bad in ["", "1a", "-a", "a-", "A", "a_b", "a.b", "a/b", "..", "a b", "ä", &"a".repeat(64)] {
            assert_eq!(AppName::parse(bad).unwrap_err().kind(), Kind::Config, "{bad}");
        }
    }

    #[test]
    fn a_directory_name_becomes_an_app_name() {
        let check = |dir: &str, expected: Option<&str>| {
            assert_eq!(AppName::from_dir(dir).as_ref().map(AppName::as_str), expected, "{dir}");
        };
        check("my-app", Some("my-app"));
        check("My_App.v2", Some("my-app-v2"));
        check("__a--b__", Some("a-b"));
        check("99 bottles", Some("bottles"));
        check("Café!", Some("caf"));
        check("123", None);
        check("", None);
        check(&"x".repeat(80), Some(&"x".repeat(63)));
    }

    #[test]
    fn an_app_id_has_one_spelling() {
        assert_eq!(AppId::parse("shop").unwrap().to_string(), "shop");
        assert_eq!(AppId::parse("shop.staging").unwrap().to_string(), "shop.staging");
        assert!(AppId::parse("shop.production").is_err());
        assert!(AppId::parse("shop.staging.x").is_err());
        assert!(AppId::parse("../etc").is_err());
    }

    #[test]
    fn server_names_cannot_pass_for_options_or_paths() {
        assert!(ServerName::parse("fra1.example").is_ok());
        for bad in ["", "-oProxyCommand=x", "a/b", ".a", "a b", "a;b"] {
            assert!(ServerName::parse(bad).is_err(), "{bad}");
        }
    }
}
