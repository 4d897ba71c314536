//! Where the makers of the runtimes publish them: addresses, names of archives, and what lies where inside.
//!
//! Pure: it says what there is to ask for and asks for nothing. A mirror has one folder for each tool, and below it the
//! layout of the tool's own releases.

use crate::error::{Error, Kind, Result};
use crate::proto::manifest::Runtime;
use crate::proto::target::{Arch, Libc, Target};

/// One published archive.
#[derive(Debug, PartialEq)]
pub(super) struct Source {
    pub url: String,
    /// A list of SHA-256 sums that names the archive.
    pub sums: String,
    /// The archive's file name.
    pub name: String,
    pub pack: Pack,
}

#[derive(Debug, PartialEq)]
pub(super) enum Pack {
    /// A zip archive; the program is this file in it.
    Zip(String),
    /// A `tar.gz` whose one folder holds `bin`, `lib` and more.
    TarGz,
}

/// What the machine can run.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Machine {
    pub target: Target,
    /// Bun's plain build needs it.
    pub avx2: bool,
}

/// # Errors
/// Refused when the version is not a whole one, or when nobody publishes the tool for this machine.
pub(super) fn source(runtime: Runtime, version: &str, machine: Machine, mirror: Option<&str>) -> Result<Source> {
    if !is_whole(version) {
        let message = format!("{} {version} cannot be downloaded: it is not a whole version", runtime.as_str());
        return Err(Error::new(Kind::Refused, message).hint("write `runtime_version` in full, such as 22.1.0"));
    }
    let Machine { target: Target { arch, libc }, avx2 } = machine;
    let tool = runtime.as_str();
    let base = |upstream: &str| match mirror {
        Some(mirror) => format!("{}/{tool}", mirror.trim_end_matches('/')),
        None => upstream.to_owned(),
    };
    match runtime {
        Runtime::Bun => {
            let (arch, has_baseline) = if arch == Arch::X86_64 { ("x64", true) } else { ("aarch64", false) };
            let libc = if libc == Libc::Musl { "-musl" } else { "" };
            let baseline = if has_baseline && !avx2 { "-baseline" } else { "" };
            let build = format!("bun-linux-{arch}{libc}{baseline}");
            let dir = format!("{}/bun-v{version}", base("https://github.com/oven-sh/bun/releases/download"));
            let name = format!("{build}.zip");
            Ok(Source {
                url: format!("{dir}/{name}"),
                sums: format!("{dir}/SHASUMS256.txt"),
                name,
                pack: Pack::Zip(format!("{build}/bun")),
            })
        }
        Runtime::Node => {
            let arch = if arch == Arch::X86_64 { "x64" } else { "arm64" };
            // For musl there are builds of the project's own, which it does not call official.
            let (upstream, libc) = match libc {
                Libc::Glibc => ("https://nodejs.org/dist", ""),
                Libc::Musl => ("https://unofficial-builds.nodejs.org/download/release", "-musl"),
            };
            let dir = format!("{}/v{version}", base(upstream));
            let name = format!("node-v{version}-linux-{arch}{libc}.tar.gz");
            Ok(Source { url: format!("{dir}/{name}"), sums: format!("{dir}/SHASUMS256.txt"), name, pack: Pack::TarGz })
        }
        Runtime::Deno if libc == Libc::Musl => {
            let message = format!("nobody publishes deno for {}", machine.target);
            Err(Error::new(Kind::Refused, message).hint("put a `deno` for musl on the PATH of tako-server"))
        }
        Runtime::Deno => {
            let arch = if arch == Arch::X86_64 { "x86_64" } else { "aarch64" };
            let name = format!("deno-{arch}-unknown-linux-gnu.zip");
            let dir = format!("{}/v{version}", base("https://github.com/denoland/deno/releases/download"));
            Ok(Source {
                url: format!("{dir}/{name}"),
                sums: format!("{dir}/{name}.sha256sum"),
                name,
                pack: Pack::Zip("deno".into()),
            })
        }
        Runtime::Binary => Err(Error::new(Kind::Bug, "a binary has no runtime")),
    }
}

/// The sum of `name` in a list as `sha256sum` writes it.
pub(super) fn sum_of(list: &str, name: &str) -> Option<String> {
    list.lines().find_map(|line| {
        let (sum, file) = line.trim().split_once(char::is_whitespace)?;
        let file = file.trim_start().trim_start_matches('*');
        let is_sum = sum.len() == 64 && sum.bytes().all(|b| b.is_ascii_hexdigit());
        (is_sum && file.rsplit('/').next() == Some(name)).then(|| sum.to_ascii_lowercase())
    })
}

/// Three numbers, and perhaps a pre-release.
fn is_whole(version: &str) -> bool {
    let numbers = version.split(['-', '+']).next().unwrap_or_default();
    let parts: Vec<&str> = numbers.split('.').collect();
    parts.len() == 3 && parts.iter().all(|p| !p.is_empty() && p.bytes().all(|b| b.is_ascii_digit()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(target: &str, avx2: bool) -> Machine {
        Machine { target: Target::parse(target).unwrap(), avx2 }
    }

    #[test]
    fn knows_what_the_archives_are_called() {
        let check = |runtime, target, avx2, url: &str, pack| {
            let source = source(runtime, "1.2.3", machine(target, avx2), None).unwrap();
            assert_eq!((source.url.as_str(), source.pack), (url, pack));
            assert!(source.url.ends_with(&format!("/{}", source.name)));
        };
        let bun = |file: &str| format!("https://github.com/oven-sh/bun/releases/download/bun-v1.2.3/{file}.zip");
        for (target, avx2, build) in [
            ("linux-x86_64-glibc", true, "bun-linux-x64"),
            ("linux-x86_64-glibc", false, "bun-linux-x64-baseline"),
            ("linux-x86_64-musl", true, "bun-linux-x64-musl"),
            ("linux-x86_64-musl", false, "bun-linux-x64-musl-baseline"),
            ("linux-aarch64-glibc", false, "bun-linux-aarch64"),
            ("linux-aarch64-musl", false, "bun-linux-aarch64-musl"),
        ] {
            check(Runtime::Bun, target, avx2, &bun(build), Pack::Zip(format!("{build}/bun")));
        }
        for (target, url) in [
            ("linux-x86_64-glibc", "https://nodejs.org/dist/v1.2.3/node-v1.2.3-linux-x64.tar.gz"),
            ("linux-aarch64-glibc", "https://nodejs.org/dist/v1.2.3/node-v1.2.3-linux-arm64.tar.gz"),
            (
                "linux-x86_64-musl",
                "https://unofficial-builds.nodejs.org/download/release/v1.2.3/node-v1.2.3-linux-x64-musl.tar.gz",
            ),
        ] {
            check(Runtime::Node, target, true, url, Pack::TarGz);
        }
        for (target, arch) in [("linux-x86_64-glibc", "x86_64"), ("linux-aarch64-glibc", "aarch64")] {
            let url =
                format!("https://github.com/denoland/deno/releases/download/v1.2.3/deno-{arch}-unknown-linux-gnu.zip");
            check(Runtime::Deno, target, true, &url, Pack::Zip("deno".into()));
        }
    }

    #[test]
    fn says_no_to_what_nobody_publishes_and_to_half_a_version() {
        let e = source(Runtime::Deno, "2.1.0", machine("linux-x86_64-musl", true), None).unwrap_err();
        assert!(e.to_string().contains("linux-x86_64-musl") && e.next_step().is_some(), "{e}");
        for version in ["22", "22.1", "lts", "22.1.x", "..", "1.2.3.4"] {
            let e = source(Runtime::Node, version, machine("linux-x86_64-glibc", true), None).unwrap_err();
            assert!(e.to_string().contains("not a whole version"), "{e}");
        }
        source(Runtime::Bun, "1.3.0-canary.1", machine("linux-x86_64-glibc", true), None).unwrap();
    }

    #[test]
    fn a_mirror_has_a_folder_for_each_tool() {
        let at = |runtime| {
            let machine = machine("linux-x86_64-glibc", true);
            source(runtime, "1.2.3", machine, Some("https://mirror.test/r/")).unwrap().sums
        };
        assert_eq!(at(Runtime::Bun), "https://mirror.test/r/bun/bun-v1.2.3/SHASUMS256.txt");
        assert_eq!(at(Runtime::Node), "https://mirror.test/r/node/v1.2.3/SHASUMS256.txt");
        assert_eq!(at(Runtime::Deno), "https://mirror.test/r/deno/v1.2.3/deno-x86_64-unknown-linux-gnu.zip.sha256sum");
    }

    #[test]
    fn finds_a_sum_in_its_list() {
        let (a, b) = ("a".repeat(64), "B".repeat(64));
        let list = format!("{a}  x.zip\n{b} *dist/y.zip\nnot-a-sum z.zip\n");
        assert_eq!(sum_of(&list, "x.zip"), Some(a));
        assert_eq!(sum_of(&list, "y.zip"), Some("b".repeat(64)));
        for none in ["z.zip", "zip", "", "x"] {
            assert_eq!(sum_of(&list, none), None, "{none}");
        }
    }
}
