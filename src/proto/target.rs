//! Target: the architecture and C library that an artifact is built for. Never a machine, never a backend.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Kind, Result};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Arch {
    #[serde(rename = "x86_64")]
    X86_64,
    Aarch64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Libc {
    Glibc,
    Musl,
}

/// Written `linux-<arch>-<libc>`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub(crate) struct Target {
    pub arch: Arch,
    pub libc: Libc,
}

impl Target {
    pub fn parse(s: &str) -> Result<Self> {
        let parsed = s.strip_prefix("linux-").and_then(|rest| rest.split_once('-')).and_then(|(arch, libc)| {
            let arch = match arch {
                "x86_64" => Arch::X86_64,
                "aarch64" => Arch::Aarch64,
                _ => return None,
            };
            let libc = match libc {
                "glibc" => Libc::Glibc,
                "musl" => Libc::Musl,
                _ => return None,
            };
            Some(Target { arch, libc })
        });
        parsed.ok_or_else(|| {
            Error::new(Kind::Config, format!("`{}` is not a build target", s.escape_debug()))
                .hint("targets are linux-x86_64-glibc, linux-x86_64-musl, linux-aarch64-glibc, linux-aarch64-musl")
        })
    }

    /// That of the machine we run on. The architecture is that of this program; the C library is told by the
    /// dynamic loader that the system has, because a static build of ours says nothing about it.
    pub fn of_this_machine() -> Result<Self> {
        let arch = match std::env::consts::ARCH {
            "x86_64" => Arch::X86_64,
            "aarch64" => Arch::Aarch64,
            other => return Err(Error::new(Kind::Refused, format!("the architecture {other} is not supported"))),
        };
        let musl = std::fs::read_dir("/lib")
            .is_ok_and(|entries| entries.flatten().any(|e| e.file_name().to_string_lossy().starts_with("ld-musl-")));
        let glibc = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"]
            .iter()
            .any(|p| std::path::Path::new(p).exists());
        Ok(Target { arch, libc: if musl && !glibc { Libc::Musl } else { Libc::Glibc } })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "linux-{}-{}", self.arch, self.libc)
    }
}

impl fmt::Display for Arch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Arch::X86_64 => "x86_64",
            Arch::Aarch64 => "aarch64",
        })
    }
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Libc::Glibc => "glibc",
            Libc::Musl => "musl",
        })
    }
}

impl TryFrom<String> for Target {
    type Error = Error;
    fn try_from(s: String) -> Result<Self> {
        Target::parse(&s)
    }
}

impl From<Target> for String {
    fn from(t: Target) -> String {
        t.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_what_it_writes_and_nothing_else() {
        for s in ["linux-x86_64-glibc", "linux-x86_64-musl", "linux-aarch64-glibc", "linux-aarch64-musl"] {
            assert_eq!(Target::parse(s).unwrap().to_string(), s);
        }
        for bad in ["", "linux", "linux-x86_64", "linux-riscv-glibc", "macos-x86_64-glibc", "linux-x86_64-glibc-x"] {
            assert!(Target::parse(bad).is_err(), "{bad}");
        }
    }
}
