//! What a command of a build sees of the machine: the shell that runs it, its variables and, through `mise`, its tools.
//!
//! The user's own variables are passed on, but for what Tako sets where an app runs (`NODE_ENV`, `PORT` …) and all that
//! begins with `TAKO_`, keys of secrets among them: a shell that was left in `development` must not change what is shipped.
//!
//! Of the variables in `tako.toml` a build sees those that frameworks write into what they build, by their own naming,
//! before the shell's of the same name. The others are for the running app alone: so one build serves all environments
//! that do not differ in what it would bake in.
//!
//! **Invariant**: what is passed on and ends up in what frameworks build, by their own naming, is in [`Environment::given`],
//! and so in the key of the cache.

use std::collections::{BTreeMap, BTreeSet};
use std::env;
use std::ffi::{OsStr, OsString};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::bundle::Source;
use super::stage::Step;
use crate::cli::child::{Owned, Tail};
use crate::cli::project::is_reserved;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::target::Target;

/// `mise` answers in milliseconds, but a file of the project's may have it run something.
const ASK: Duration = Duration::from_secs(20);
/// Longer answers are of no use to anybody.
const MAX_ANSWER: u64 = 1 << 20;
/// Lines of what `mise` complains about.
const SHOWN: usize = 20;

/// Variables whose values frameworks write into what they build, as their manuals say: Vite, Next.js, Nuxt, SvelteKit and
/// Astro, Create React App, Vue CLI, Gatsby, Bun, Expo.
const BAKED: [&str; 9] =
    ["VITE_", "NEXT_PUBLIC_", "NUXT_", "PUBLIC_", "REACT_APP_", "VUE_APP_", "GATSBY_", "BUN_PUBLIC_", "EXPO_PUBLIC_"];

/// Where `mise` looks for what a project wants, in each folder.
const MISE_FILES: [&str; 12] = [
    "mise.toml",
    ".mise.toml",
    "mise.local.toml",
    ".mise.local.toml",
    "mise",
    ".mise",
    ".config/mise.toml",
    ".config/mise",
    ".tool-versions",
    ".config/mise.local.toml",
    "mise/config.toml",
    ".mise/config.toml",
];

/// As it is for the steps of one build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Environment {
    /// What `mise` adds, by the folder of a step; a folder for which it has nothing is not in it.
    mise: BTreeMap<PathBuf, BTreeMap<String, String>>,
    /// Of the user's own, what is baked in.
    baked: BTreeMap<String, String>,
    /// The same of `[vars]`.
    vars: BTreeMap<String, String>,
    target: Option<Target>,
}

impl Environment {
    /// That of `steps` on this machine, for an environment with `vars`; where nothing runs, nothing is looked at.
    ///
    /// # Errors
    /// Config in the words of `mise`, when it cannot read what the project has for it.
    pub fn of(source: &Source, steps: &[Step], vars: &BTreeMap<String, String>) -> Result<Environment> {
        let inside = Environment::of_container(steps, vars);
        if steps.is_empty() {
            return Ok(inside);
        }
        let baked = env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_baked));
        let baked = baked.map(|(name, value)| (lossy(&name), lossy(&value)));
        let baked = baked.filter(|(name, _)| !inside.vars.contains_key(name)).collect();
        let mut mise = BTreeMap::new();
        for dir in steps.iter().map(|step| &step.dir).collect::<BTreeSet<_>>() {
            let Some(added) = ask_mise(&source.root, dir)? else { continue };
            let wanted = dir.ancestors().any(|d| MISE_FILES.iter().any(|f| source.root.join(d).join(f).exists()));
            if wanted || !added.is_empty() {
                mise.insert(dir.clone(), added);
            }
        }
        Ok(Environment { mise, baked, ..inside })
    }

    /// That of `steps` in a container, which has nothing of this machine.
    pub fn of_container(steps: &[Step], vars: &BTreeMap<String, String>) -> Environment {
        let vars = vars.iter().filter(|(name, _)| !steps.is_empty() && is_baked(name));
        Environment {
            vars: vars.map(|(name, value)| (name.clone(), value.clone())).collect(),
            ..Environment::default()
        }
    }

    /// What it has of `[vars]`.
    pub fn vars(&self) -> &BTreeMap<String, String> {
        &self.vars
    }

    /// The same for the build of one target, which its commands are told.
    pub fn for_target(&self, target: Target) -> Environment {
        Environment { target: Some(target), ..self.clone() }
    }

    #[cfg(test)]
    pub fn for_test(name: &str, value: &str) -> Environment {
        Environment { baked: BTreeMap::from([(name.into(), value.into())]), ..Environment::default() }
    }

    /// Every variable and tool of the machine that may change what is built: `(where, name, value)`.
    pub fn given(&self) -> impl Iterator<Item = [String; 3]> {
        let Environment { mise, baked, vars, target: _ } = self;
        let baked = baked.iter().chain(vars).map(|(name, value)| ["".into(), name.clone(), value.clone()]);
        let mise = mise.iter().flat_map(|(dir, added)| {
            // That it runs through `mise` at all is a difference, too.
            let through = [dir.to_string_lossy().into_owned(), "mise".into(), String::new()];
            let added =
                added.iter().map(|(name, value)| [dir.to_string_lossy().into_owned(), name.clone(), value.clone()]);
            [through].into_iter().chain(added)
        });
        baked.chain(mise)
    }

    /// `step` as it is run in `tree`.
    ///
    /// It is no login shell: those read `/etc/profile`, which on Debian and others sets PATH anew, and the tools of `mise`
    /// and of the project would be gone from it.
    pub fn command(&self, tree: &Path, source: &Source, step: &Step) -> Command {
        let mut command = match self.mise.contains_key(&step.dir) {
            true => {
                let mut command = mise(&source.root);
                command.args(["exec", "--", "/bin/sh"]);
                command
            }
            false => Command::new("/bin/sh"),
        };
        command.arg("-c").arg(&step.command).current_dir(tree.join(&step.dir));
        let ours = env::vars_os().filter(|(name, _)| name.to_str().is_some_and(is_reserved));
        ours.for_each(|(name, _)| {
            command.env_remove(name);
        });
        command.envs(&self.vars);
        if let Some(target) = self.target {
            command.env("TAKO_TARGET", target.to_string());
        }
        // An app finds the same there.
        command.env("TAKO_BUILD", source.version.as_str());
        command.env("PATH", path(tree, source, step));
        command
    }
}

/// Whether a framework writes the value of this variable into what it builds.
fn is_baked(name: &str) -> bool {
    BAKED.iter().any(|prefix| name.starts_with(prefix))
}

/// The programs of installed packages first, as every package manager does for its scripts.
fn path(tree: &Path, source: &Source, step: &Step) -> OsString {
    let folders = [&step.dir, &source.app, &PathBuf::new()];
    let mut dirs: Vec<PathBuf> = folders.iter().map(|dir| tree.join(dir).join("node_modules/.bin")).collect();
    dirs.dedup();
    let inherited = env::var_os("PATH").unwrap_or_default();
    dirs.extend(env::split_paths(&inherited));
    // A folder with a colon in its name cannot be in PATH at all.
    env::join_paths(dirs).unwrap_or(inherited)
}

/// `mise`, which may read the files of the project: it asks before it trusts a folder, and the build tree is a new one
/// each time. Who deploys a project runs its commands anyway.
pub(crate) fn mise(root: &Path) -> Command {
    let trusted = env::var_os("MISE_TRUSTED_CONFIG_PATHS").unwrap_or_default();
    let all = [root.to_path_buf()].into_iter().chain(env::split_paths(&trusted).filter(|p| !p.as_os_str().is_empty()));
    let mut command = Command::new("mise");
    command.env("MISE_TRUSTED_CONFIG_PATHS", env::join_paths(all).unwrap_or(trusted));
    command
}

/// What `mise` adds to the environment in `dir` below `root`; `None` when there is no `mise`.
fn ask_mise(root: &Path, dir: &Path) -> Result<Option<BTreeMap<String, String>>> {
    let mut command = mise(root);
    command.args(["env", "--json"]).current_dir(root.join(dir));
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut owned = match Owned::spawn_leashed(&mut command) {
        // Also when the folder is not there: the step itself tells that better.
        Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        other => other.context(|| "start mise".into())?,
    };
    let words = owned.child.stderr.take().map(|stderr| Tail::of(stderr, SHOWN));
    let stdout = owned.child.stdout.take().expect("stdout was asked to be a pipe");
    let (answer, answered) = bounded(1);
    thread::spawn(move || {
        let mut text = Vec::new();
        // Too much of it is no JSON either.
        let read = stdout.take(MAX_ANSWER).read_to_end(&mut text);
        let _ = answer.send(read.map(|_| text));
    });
    let text = answered.recv_timeout(ASK).ok().and_then(std::io::Result::ok);
    let status = text.as_ref().and_then(|_| owned.wait_for(ASK));
    let said = text.filter(|_| status.is_some_and(|s| s.success()));
    match said.and_then(|text| serde_json::from_slice(&text).ok()) {
        Some(said) => Ok(Some(added(said, &env::var_os("PATH").unwrap_or_default()))),
        None => Err(Error::new(Kind::Config, format!("`mise env` failed in {}", root.join(dir).display()))
            .with_detail(words.map(|w| w.lines()).unwrap_or_default())
            .hint("`mise doctor` says more; the tools of a build come from mise where it is installed")),
    }
}

/// Of PATH only what is new in it: the rest is the same terminal's as ever.
fn added(mut said: BTreeMap<String, String>, path: &OsStr) -> BTreeMap<String, String> {
    let known: BTreeSet<PathBuf> = env::split_paths(path).collect();
    let new = said.remove("PATH").unwrap_or_default();
    let new: Vec<String> =
        env::split_paths(&new).filter(|dir| !known.contains(dir)).map(|dir| dir.display().to_string()).collect();
    let new: Vec<String> = new.into_iter().filter(|dir| !dir.is_empty()).collect();
    if !new.is_empty() {
        said.insert("PATH".into(), new.join(":"));
    }
    said
}

fn lossy(text: &OsStr) -> String {
    text.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_what_mise_says_counts_what_it_adds() {
        let check = |said: &[(&str, &str)], expected: &[(&str, &str)]| {
            let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(n, v)| (n.to_string(), v.to_string())).collect();
            let expected: BTreeMap<String, String> = map(expected);
            assert_eq!(added(map(said), OsStr::new("/usr/bin:/bin")), expected);
        };
        check(&[("PATH", "/usr/bin:/bin")], &[]);
        check(&[("PATH", "/m/node/22/bin:/usr/bin:/bin"), ("A", "1")], &[("PATH", "/m/node/22/bin"), ("A", "1")]);
        check(&[], &[]);
    }

    #[test]
    fn what_frameworks_write_into_their_output_is_known_by_its_name() {
        for name in ["VITE_API", "NEXT_PUBLIC_URL", "PUBLIC_X", "NUXT_PUBLIC_X"] {
            assert!(is_baked(name), "{name}");
        }
        for name in ["HOME", "PATH", "MY_VITE_X", "API_KEY"] {
            assert!(!is_baked(name), "{name}");
        }
    }
}
