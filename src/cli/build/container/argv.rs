//! What is asked of `docker`, word by word. Pure.
//!
//! **Invariant**: nothing of this machine is mounted, no variable of ours is passed, and what comes from a project
//! stands where `docker` takes it for a value.

use std::ffi::OsString;
use std::path::Path;

use super::Argv;
use super::verdict::About;
use crate::cli::build::bundle::Source;
use crate::cli::build::stage::Step;
use crate::crypto::Sha256;
use crate::proto::manifest::Runtime;
use crate::proto::target::{Arch, Target};

/// Where the source lies in a container, and the last part of it.
pub(super) const ROOT: &str = "/tako/src";
pub(super) const ROOT_NAME: &str = "src";
const CACHES: &str = "/tako/cache";
const LABEL: &str = "tako.build";
/// What the first process of a container says when it runs.
pub(super) const UP: &str = "tako:up";
/// Far more than a parallel build has; a fork bomb ends here.
const PROCESSES: &str = "4096";
/// All that package managers need as root inside; raw sockets, devices and the like are none of it.
const CAPABILITIES: [&str; 7] = ["CHOWN", "DAC_OVERRIDE", "FOWNER", "FSETID", "KILL", "SETGID", "SETUID"];

/// `$1` goes in front of PATH, `$2` is the command. Not a login shell: `/etc/profile` would take the image's PATH away.
const SHELL: &str = "PATH=$1:$PATH; export PATH; \
    if command -v mise >/dev/null 2>&1; then exec mise exec -- /bin/sh -c \"$2\"; fi; exec /bin/sh -c \"$2\"";

/// What is kept from build to build, each in a volume of its own.
struct Cache {
    kind: &'static str,
    /// Variables that say where it is, and folders below it.
    variables: &'static [(&'static str, &'static str)],
}

const MISE: Cache = Cache { kind: "mise", variables: &[("MISE_DATA_DIR", "data"), ("MISE_CACHE_DIR", "cache")] };
const NPM: Cache = Cache { kind: "npm", variables: &[("npm_config_cache", "")] };
const PNPM: Cache = Cache { kind: "pnpm", variables: &[("npm_config_store_dir", "")] };
const YARN: Cache =
    Cache { kind: "yarn", variables: &[("YARN_CACHE_FOLDER", "cache"), ("YARN_GLOBAL_FOLDER", "berry")] };
const BUN: Cache = Cache { kind: "bun", variables: &[("BUN_INSTALL_CACHE_DIR", "")] };
const DENO: Cache = Cache { kind: "deno", variables: &[("DENO_DIR", "")] };
const CARGO: Cache = Cache { kind: "cargo", variables: &[("CARGO_HOME", "")] };
const GO: Cache = Cache { kind: "go", variables: &[("GOMODCACHE", "mod"), ("GOCACHE", "build")] };
const PIP: Cache = Cache { kind: "pip", variables: &[("PIP_CACHE_DIR", "pip"), ("UV_CACHE_DIR", "uv")] };

fn caches(runtime: Runtime) -> &'static [Cache] {
    match runtime {
        Runtime::Bun => &[MISE, BUN, NPM],
        Runtime::Node => &[MISE, NPM, PNPM, YARN],
        Runtime::Deno => &[MISE, DENO, NPM],
        // It may be written in anything, with a front end beside it.
        Runtime::Binary => &[MISE, CARGO, GO, PIP, NPM],
    }
}

/// A cache volume as it is mounted.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Volume {
    pub name: String,
    path: String,
    env: Vec<String>,
}

/// One for each kind, target and image: what was compiled against one C library is no use with another.
pub(super) fn volumes(runtime: Runtime, target: Target, image: &str) -> Vec<Volume> {
    let mut hash = Sha256::new();
    hash.update(image.as_bytes());
    let image = &hash.finish()[..8];
    let volume = |cache: &Cache| {
        let path = format!("{CACHES}/{}", cache.kind);
        let variable =
            |(name, below): &(&str, &str)| format!("{name}={}", format!("{path}/{below}").trim_end_matches('/'));
        let env = cache.variables.iter().map(variable).collect();
        Volume { name: format!("tako-build-cache-{}-{target}-{image}", cache.kind), path, env }
    };
    caches(runtime).iter().map(volume).collect()
}

/// As Docker says it.
pub(super) fn platform(target: Target) -> &'static str {
    match target.arch {
        Arch::X86_64 => "linux/amd64",
        Arch::Aarch64 => "linux/arm64",
    }
}

pub(super) fn list(label: &str) -> Argv {
    words(&["ps", "--all", "--quiet", "--filter", &format!("label={LABEL}={label}")])
}

pub(super) fn remove(containers: &[String]) -> Argv {
    let names = containers.iter().map(OsString::from);
    words(&["rm", "--force", "--volumes"]).into_iter().chain(names).collect()
}

pub(super) fn platform_of(image: &str) -> Argv {
    words(&["image", "inspect", "--format", "{{.Os}}/{{.Architecture}}", image])
}

pub(super) fn identity_of(image: &str) -> Argv {
    words(&["image", "inspect", "--format", "{{.Id}}{{range .RepoDigests}} {{.}}{{end}}", image])
}

pub(super) fn pull(about: About<'_>) -> Argv {
    words(&["pull", "--platform", about.platform, about.image])
}

pub(super) fn create(name: &str, label: &str, about: About<'_>, env: &[String], volumes: &[Volume]) -> Argv {
    let mut argv = words(&["create", "--name", name, "--label", &format!("{LABEL}={label}"), "--rm", "--interactive"]);
    // It was pulled if it was not here; this must not find another one.
    argv.extend(words(&["--pull", "never", "--platform", about.platform]));
    argv.extend(words(&["--pids-limit", PROCESSES, "--cap-drop", "ALL"]));
    for capability in CAPABILITIES {
        argv.extend(words(&["--cap-add", capability]));
    }
    // The tree was made by us or by its owner: `mise` need not ask whether to trust it, and nobody is there to answer.
    for variable in [format!("MISE_TRUSTED_CONFIG_PATHS={ROOT}"), "MISE_YES=1".into()].iter().chain(env) {
        argv.extend(words(&["--env", variable]));
    }
    for Volume { name, path, env } in volumes {
        argv.extend(words(&["--mount", &format!("type=volume,source={name},target={path}")]));
        env.iter().for_each(|variable| argv.extend(words(&["--env", variable])));
    }
    let wait = format!("echo {UP}; while read -r _; do :; done");
    argv.extend(words(&["--entrypoint", "/bin/sh", about.image, "-c", &wait]));
    argv
}

pub(super) fn copy_in(container: &str) -> Argv {
    words(&["cp", "-", &format!("{container}:/")])
}

pub(super) fn copy_out(container: &str) -> Argv {
    words(&["cp", &format!("{container}:{ROOT}"), "-"])
}

pub(super) fn start(container: &str) -> Argv {
    words(&["start", "--attach", "--interactive", container])
}

pub(super) fn user_of(container: &str) -> Argv {
    words(&["inspect", "--format", "{{.Config.User}}", container])
}

pub(super) fn chown(container: &str, user: &str) -> Argv {
    words(&["exec", "--user", "0", container, "chown", "-R", user, "/tako"])
}

pub(super) fn exec(container: &str, source: &Source, step: &Step) -> Argv {
    let mut argv = words(&["exec", "--workdir"]);
    argv.push(inside(&step.dir));
    argv.extend(words(&[container, "/bin/sh", "-c", SHELL, "tako"]));
    argv.push(bins(source, step));
    argv.push(OsString::from(&step.command));
    argv
}

/// The programs of installed packages, as for a build on this machine.
fn bins(source: &Source, step: &Step) -> OsString {
    let mut folders = vec![step.dir.as_path(), &source.app, Path::new("")];
    folders.dedup();
    let bins: Vec<OsString> = folders.into_iter().map(|dir| inside(&dir.join("node_modules/.bin"))).collect();
    bins.join(&OsString::from(":"))
}

fn inside(dir: &Path) -> OsString {
    match dir.as_os_str().is_empty() {
        true => ROOT.into(),
        false => Path::new(ROOT).join(dir).into_os_string(),
    }
}

fn words(words: &[&str]) -> Argv {
    words.iter().map(OsString::from).collect()
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    const ABOUT: About<'_> = About { image: "me/builder:v1", platform: "linux/amd64" };

    fn shown(argv: &Argv) -> String {
        argv.iter().map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
    }

    fn target(s: &str) -> Target {
        Target::parse(s).unwrap()
    }

    #[test]
    fn a_container_is_found_again_and_bounded_and_mounts_nothing_of_this_machine() {
        let target = target("linux-x86_64-musl");
        let volumes = volumes(Runtime::Bun, target, ABOUT.image);
        let argv = create("tako-build-1", "abcd", ABOUT, &["TAKO_BUILD=v1".into()], &volumes[..2]);
        let expected = "create --name tako-build-1 --label tako.build=abcd --rm --interactive \
            --pull never --platform linux/amd64 --pids-limit 4096 --cap-drop ALL --cap-add CHOWN --cap-add DAC_OVERRIDE \
            --cap-add FOWNER --cap-add FSETID --cap-add KILL --cap-add SETGID --cap-add SETUID \
            --env MISE_TRUSTED_CONFIG_PATHS=/tako/src --env MISE_YES=1 --env TAKO_BUILD=v1 \
            --mount type=volume,source=tako-build-cache-mise-linux-x86_64-musl-709ed392,target=/tako/cache/mise \
            --env MISE_DATA_DIR=/tako/cache/mise/data --env MISE_CACHE_DIR=/tako/cache/mise/cache \
            --mount type=volume,source=tako-build-cache-bun-linux-x86_64-musl-709ed392,target=/tako/cache/bun \
            --env BUN_INSTALL_CACHE_DIR=/tako/cache/bun \
            --entrypoint /bin/sh me/builder:v1 -c echo tako:up; while read -r _; do :; done";
        assert_eq!(shown(&argv), expected);
        let all = [Runtime::Bun, Runtime::Node, Runtime::Deno, Runtime::Binary];
        for runtime in all {
            let argv = shown(&create("n", "l", ABOUT, &[], &super::volumes(runtime, target, "x")));
            assert!(!argv.contains("type=bind") && !argv.contains("--volume ") && !argv.contains(" -v "), "{argv}");
        }
    }

    #[test]
    fn a_volume_is_of_one_kind_target_and_image() {
        let names = |runtime, target: &str, image| -> Vec<String> {
            volumes(runtime, self::target(target), image).into_iter().map(|v| v.name).collect()
        };
        let mut all = names(Runtime::Node, "linux-x86_64-glibc", "a");
        all.extend(names(Runtime::Node, "linux-x86_64-musl", "a"));
        all.extend(names(Runtime::Node, "linux-x86_64-glibc", "b"));
        let count = all.len();
        all.sort();
        all.dedup();
        assert_eq!(all.len(), count, "{all:?}");
        assert!(all.iter().all(|name| name.starts_with("tako-build-cache-")), "{all:?}");
        let [bun, node] = [Runtime::Bun, Runtime::Node].map(|r| names(r, "linux-x86_64-glibc", "a"));
        assert!(bun.contains(&node[0]), "two runtimes share the cache of a kind");
    }

    #[test]
    fn the_platform_is_that_of_the_target() {
        assert_eq!(platform(target("linux-x86_64-musl")), "linux/amd64");
        assert_eq!(platform(target("linux-aarch64-glibc")), "linux/arm64");
    }

    #[test]
    fn a_command_is_one_word_and_runs_in_its_folder() {
        let source = Source {
            root: "/x".into(),
            app: "apps/web".into(),
            entries: Vec::new(),
            hash: "0".into(),
            version: crate::proto::version::Version::parse("v1").unwrap(),
            subject: None,
            dirty: false,
            stamps: Default::default(),
        };
        let step = |dir: &str| Step {
            name: "build".into(),
            command: "echo '$1'; \"x y\"".into(),
            dir: PathBuf::from(dir),
            installs_below: None,
            warning: None,
        };
        let argv = exec("c", &source, &step("apps/web"));
        assert_eq!(argv[..3], ["exec", "--workdir", "/tako/src/apps/web"].map(OsString::from));
        assert_eq!(argv[argv.len() - 1], "echo '$1'; \"x y\"");
        assert_eq!(argv[argv.len() - 2], "/tako/src/apps/web/node_modules/.bin:/tako/src/node_modules/.bin");
        assert_eq!(exec("c", &source, &step(""))[2], "/tako/src");
    }
}
