//! Route: a host and path pattern that an app answers to, and the total order in which patterns are tried.
//!
//! Forms: `host`, `*.host`, `host/path`, `host/path/*`, `*.host/path/*`; `host` is `host/*`. `/api/*` matches `/api`,
//! `/api/` and `/api/x`, not `/apix`. An exact path ignores one trailing slash. A wildcard host matches one or more
//! labels, never the bare suffix.
//!
//! **Invariant**: of two different routes that match one request, exactly one comes first by [`Route::precedence`]:
//! exact host, then the longer wildcard suffix; then the longer literal path; then exact path before wildcard.

use std::cmp::Reverse;
use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

/// Longest host name (RFC 1035 §2.3.4, without the root dot).
const MAX_HOST: usize = 253;
/// A route's path is typed by a person; longer than this is a mistake.
const MAX_PATH: usize = 1024;

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Route {
    host: Host,
    path: Path,
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Host {
    Exact(String),
    /// `*.suffix`, held without the `*.`.
    Below(String),
}

#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Path {
    /// Without a trailing slash.
    Exact(String),
    /// The literal before `/*`; empty for the whole host.
    Below(String),
}

/// Sorts the route that must be tried first to the front.
pub(crate) type Precedence<'a> = (bool, Reverse<usize>, Reverse<usize>, bool, &'a Route);

impl Route {
    /// # Errors
    /// Config, saying which part is wrong and how it should look.
    pub fn parse(s: &str) -> Result<Self> {
        let fail = |why: &str| {
            Error::new(Kind::Config, format!("`{}` is not a valid route: {why}", s.escape_debug()))
                .hint("write a host with an optional path, such as app.example.com, *.example.com or example.com/api/*")
        };
        if s.contains("://") {
            return Err(fail("leave out the scheme"));
        }
        let (host, path) = s.split_at(s.find('/').unwrap_or(s.len()));
        let (wild, name) = match host.strip_prefix("*.") {
            Some(suffix) => (true, suffix),
            None => (false, host),
        };
        let name = name.strip_suffix('.').unwrap_or(name).to_ascii_lowercase();
        check_host(&name).map_err(fail)?;
        let host = if wild { Host::Below(name) } else { Host::Exact(name) };

        let path = match path.strip_suffix("/*") {
            Some(literal) => Path::Below(literal.into()),
            None => match path.strip_suffix('/').unwrap_or(path) {
                "" => Path::Below(String::new()),
                literal => Path::Exact(literal.into()),
            },
        };
        check_path(path.literal()).map_err(fail)?;
        Ok(Route { host, path })
    }

    /// The whole rule on one request: what the tests hold the proxy's table, which looks up in two steps, against.
    #[cfg(test)]
    pub fn matches(&self, host: &str, path: &str) -> bool {
        self.matches_host(host) && self.matches_path(path)
    }

    /// `host` must be lower-case, without port and trailing dot.
    pub fn matches_host(&self, host: &str) -> bool {
        match &self.host {
            Host::Exact(name) => host == name,
            Host::Below(suffix) => {
                host.strip_suffix(suffix.as_str()).is_some_and(|rest| rest.len() > 1 && rest.ends_with('.'))
            }
        }
    }

    /// `path` starts with `/` and has no query.
    pub fn matches_path(&self, path: &str) -> bool {
        match &self.path {
            Path::Exact(literal) => path.strip_suffix('/').unwrap_or(path) == literal,
            Path::Below(literal) => {
                path.strip_prefix(literal.as_str()).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            }
        }
    }

    /// The host name without `*.`.
    pub fn host(&self) -> &str {
        match &self.host {
            Host::Exact(name) | Host::Below(name) => name,
        }
    }

    /// Whether the host is `*.host`.
    pub fn is_wildcard(&self) -> bool {
        matches!(self.host, Host::Below(_))
    }

    /// The literal part of the path, without trailing slash or `/*`; empty for the whole host.
    pub fn path_prefix(&self) -> &str {
        self.path.literal()
    }

    pub fn precedence(&self) -> Precedence<'_> {
        (
            self.is_wildcard(),
            Reverse(self.host().len()),
            Reverse(self.path_prefix().len()),
            matches!(self.path, Path::Below(_)),
            self,
        )
    }

    /// The scheme and host under which a person can open it, if it names one host.
    pub fn url(&self) -> Option<String> {
        (!self.is_wildcard()).then(|| format!("https://{}{}", self.host(), self.path_prefix()))
    }
}

/// Whether `host` (lower-case, no port) is private by name: RFC 6761, RFC 6762, RFC 8375 and `.internal`.
pub(crate) fn is_private_host(host: &str) -> bool {
    const SUFFIXES: [&str; 7] = [".localhost", ".local", ".test", ".invalid", ".example", ".home.arpa", ".internal"];
    !host.contains('.') || SUFFIXES.iter().any(|s| host.ends_with(s))
}

impl Path {
    fn literal(&self) -> &str {
        match self {
            Path::Exact(literal) | Path::Below(literal) => literal,
        }
    }
}

fn check_host(name: &str) -> Result<(), &'static str> {
    if name.is_empty() {
        return Err("the host is missing");
    }
    if name.len() > MAX_HOST {
        return Err("the host is longer than 253 characters");
    }
    if name.contains(':') {
        return Err("a route has no port");
    }
    for label in name.split('.') {
        match label {
            "" => return Err("the host has an empty label"),
            l if l.contains('*') => return Err("`*` stands alone, as the first label of the host"),
            l if l.len() > 63 => return Err("a label of the host is longer than 63 characters"),
            l if l.starts_with('-') || l.ends_with('-') => return Err("a label of the host starts or ends with `-`"),
            l if !l.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'_') => {
                return Err("the host has characters other than letters, digits, `-`, `_` and `.`");
            }
            _ => {}
        }
    }
    Ok(())
}

fn check_path(literal: &str) -> Result<(), &'static str> {
    if literal.len() > MAX_PATH {
        return Err("the path is longer than 1024 characters");
    }
    for segment in literal.split('/').skip(1) {
        match segment {
            "" => return Err("the path has an empty segment"),
            "." | ".." => return Err("the path has a `.` or `..` segment"),
            s if s.contains('*') => return Err("`*` stands alone, as the last segment of the path"),
            // pchar of RFC 3986 §3.3, without percent-encoding: one spelling of a path, not many.
            s if !s.bytes().all(|b| b.is_ascii_alphanumeric() || b"-._~!$&'()+,;=:@".contains(&b)) => {
                return Err("the path has a character that a URL path cannot hold as it is");
            }
            _ => {}
        }
    }
    Ok(())
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_wildcard() {
            f.write_str("*.")?;
        }
        f.write_str(self.host())?;
        match &self.path {
            Path::Exact(literal) => f.write_str(literal),
            Path::Below(literal) if literal.is_empty() => Ok(()),
            Path::Below(literal) => write!(f, "{literal}/*"),
        }
    }
}

impl TryFrom<String> for Route {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        Route::parse(&s)
    }
}

impl From<Route> for String {
    fn from(r: Route) -> String {
        r.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn route(s: &str) -> Route {
        Route::parse(s).unwrap()
    }

    #[test]
    fn prints_what_it_parsed_in_one_spelling() {
        let check = |s: &str, expected: &str| assert_eq!(route(s).to_string(), expected, "{s}");
        check("example.com", "example.com");
        check("example.com/*", "example.com");
        check("example.com/", "example.com");
        check("EXAMPLE.com.", "example.com");
        check("*.example.com", "*.example.com");
        check("example.com/api", "example.com/api");
        check("example.com/api/", "example.com/api");
        check("example.com/api/*", "example.com/api/*");
        check("*.example.com/a/b/*", "*.example.com/a/b/*");
    }

    #[test]
    fn refuses_what_it_cannot_mean() {
        for bad in [
            "",
            "/",
            "/api",
            "*",
            "*.",
            "a..b",
            "a.*.b",
            "a*.b",
            "https://a.b",
            "a.b:80",
            "a b",
            "-a.b",
            "a-.b",
            "é.de",
            "a.b/*/c",
            "a.b/x*",
            "a.b//c",
            "a.b/../c",
            "a.b/./c",
            "a.b/c?d",
            "a.b/c#d",
            "a.b/%2e",
        ] {
            assert_eq!(Route::parse(bad).map(|r| r.to_string()).unwrap_err().kind(), Kind::Config, "{bad}");
        }
        assert!(Route::parse(&format!("{}.com", "a".repeat(64))).is_err());
    }

    #[test]
    fn matches_hosts_and_paths() {
        let check = |r: &str, host: &str, path: &str, expected| {
            assert_eq!(route(r).matches(host, path), expected, "{r} against {host}{path}");
        };
        check("a.b", "a.b", "/", true);
        check("a.b", "a.b", "/x/y", true);
        check("a.b", "x.a.b", "/", false);
        check("*.a.b", "x.a.b", "/", true);
        check("*.a.b", "x.y.a.b", "/", true);
        check("*.a.b", "a.b", "/", false);
        check("*.a.b", ".a.b", "/", false);
        check("*.a.b", "xa.b", "/", false);
        check("a.b/api/*", "a.b", "/api", true);
        check("a.b/api/*", "a.b", "/api/", true);
        check("a.b/api/*", "a.b", "/api/x", true);
        check("a.b/api/*", "a.b", "/apix", false);
        check("a.b/api", "a.b", "/api", true);
        check("a.b/api", "a.b", "/api/", true);
        check("a.b/api", "a.b", "/api//", false);
        check("a.b/api", "a.b", "/api/x", false);
    }

    #[test]
    fn tries_the_most_specific_first() {
        let expected = [
            "x.a.b/api/v1",
            "x.a.b/api/*",
            "x.a.b",
            "*.x.a.b",
            "*.a.b/api/v1/long",
            "*.a.b/api",
            "*.a.b/api/*",
            "*.a.b",
        ];
        let mut routes: Vec<Route> = expected.iter().rev().map(|s| route(s)).collect();
        routes.sort_by(|a, b| a.precedence().cmp(&b.precedence()));
        assert_eq!(routes.iter().map(Route::to_string).collect::<Vec<_>>(), expected);
    }

    #[test]
    fn private_names_are_told_by_name_alone() {
        for private in ["localhost", "a.localhost", "intranet", "a.local", "a.test", "x.home.arpa", "db.internal"] {
            assert!(is_private_host(private), "{private}");
        }
        for public in ["example.com", "local.example.com", "mylocalhost.com"] {
            assert!(!is_private_host(public), "{public}");
        }
    }

    proptest::proptest! {
        #[test]
        fn printing_and_parsing_is_stable(s in "(\\*\\.)?[a-z]{1,5}(\\.[a-z]{1,5}){0,2}(/[a-z~]{1,4}){0,3}(/\\*|/)?") {
            let once = route(&s);
            proptest::prop_assert_eq!(&route(&once.to_string()), &once);
        }

        #[test]
        fn never_panics(s in "\\PC{0,40}") {
            let _ = Route::parse(&s);
        }
    }
}
