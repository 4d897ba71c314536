//! Presets: from what a project says and has to its Recipe and the commands of its build; and which version of the
//! runtime is in use.
//!
//! `facts` looks at the project, `file` reads a preset, `built_in` has ours, `resolve` says which text a name stands for:
//! that of `lock`, of `fetch` or of ours. How voices are merged is the business of `recipe`.

pub(crate) mod facts;
pub(crate) mod file;
pub(crate) mod built_in;
pub(crate) mod resolve;
pub(crate) mod lock;
pub(crate) mod fetch;

use std::fs;
use std::path::{Component, Path, PathBuf};
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::bundle::Source;
use super::environment::mise;
use super::packages::Packages;
use super::recipe::{self, Layers, Origin, Recipe};
use super::stage::Step;
use crate::cli::child::{Owned, each_line};
use crate::cli::detect;
use crate::cli::project::{FILE, Project, Stage};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::Runtime;
use facts::Facts;
use lock::Locked;
use resolve::Wish;

/// `<tool> --version` takes milliseconds; `mise` may look at a slow disk.
const ASK: Duration = Duration::from_secs(5);
/// Ours take two or three KiB.
const MAX_PRESET: u64 = 64 << 10;

/// The effective preset, and what it was made of.
#[derive(Debug)]
pub(crate) struct Effective {
    pub recipe: Recipe,
    /// For `build.lock.json`; `None` where no preset is named.
    pub locked: Option<Locked>,
    /// What the user should know.
    pub notes: Vec<String>,
}

/// What is done with `project`, everybody heard.
///
/// # Errors
/// Config when nobody knows which file to run; those of [`resolve::resolve`].
pub(crate) fn effective(project: &Project, wish: Wish) -> Result<Effective> {
    let mut notes = Vec::new();
    let locked = match &project.preset {
        Some(wanted) => {
            let shelf = || resolve::shelf();
            Some(resolve::resolve(&project.dir, wanted, project.runtime, wish, shelf, &mut notes)?)
        }
        None => None,
    };
    let preset = match &locked {
        Some(locked) => file::read(&format!("preset {}", locked.preset), &locked.text)?,
        None => file::Layer::default(),
    };
    let base = file::read(&format!("base preset {}", project.runtime.as_str()), built_in::base(project.runtime))?;
    let found = detect::main(&project.dir, project.runtime);
    let layers = Layers {
        config: &file::Layer::of(project),
        preset: &preset,
        base: &base,
        runtime: project.runtime,
        found: found.as_deref(),
    };
    let recipe = recipe::merge(&layers).ok_or_else(|| no_main(project))?;
    let undecided = project.preset.is_none() && project.main.is_none() && project.start.is_none();
    if let Some(family) = detect::family(&project.dir, project.runtime).filter(|_| undecided) {
        notes.push(format!("this looks like an app for the preset `{family}`: preset = \"{family}\" in tako.toml"));
    }
    Ok(Effective { recipe, locked, notes })
}

/// What the files suggest is said, never done: a wrong guess would only fail on a server.
fn no_main(project: &Project) -> Error {
    let said = |message: &str| Error::new(Kind::Config, message);
    if project.runtime == Runtime::Binary {
        let line = "add a line to tako.toml such as: main = \"bin/my-app\", also when the build makes it";
        return said("a binary app needs to say which file to run").hint(line);
    }
    let error = said("the file to run is not clear: there is no index.ts, index.js, src/index.ts or src/index.js");
    if !project.dir.join(FILE).exists() {
        return error.hint("there is no tako.toml yet: run `tako init`, which asks for what the files do not say");
    }
    if let Some(family) = detect::family(&project.dir, project.runtime) {
        return error.hint(format!("add a line to tako.toml: preset = \"{family}\""));
    }
    match detect::started(&project.dir) {
        Some((main, why)) => error.hint(format!("by {why}, add a line to tako.toml: main = \"{main}\"")),
        None => error.hint("add a line to tako.toml such as: main = \"server.js\", also when the build makes it"),
    }
}

/// The commands of a build in order: install and build of the recipe, else the package manager's; then the stages.
///
/// # Errors
/// Config for a stage that leaves the source root.
pub(crate) fn steps(project: &Project, recipe: &Recipe, source: &Source, facts: &Facts) -> Result<Vec<Step>> {
    let packages = Packages::of(project.runtime, source);
    let build = recipe.build.as_ref().map(|b| b.value.clone());
    let build = build.or_else(|| default_build(project.runtime, facts, &packages));
    // A checkout that was never installed, as in CI; otherwise the user's packages are linked. Who has a build of their
    // own installs for it, too.
    let default = recipe.build.as_ref().is_none_or(|build| build.from != Origin::Config);
    let needed = build.is_some() && default && facts.dependencies && !facts.installed;
    let ours = needed && recipe.build_install.is_none() && project.runtime != Runtime::Binary;
    let mut steps: Vec<Step> = ours.then(|| packages.install()).into_iter().collect();
    let mut add = |name: String, command: &str, dir: &Path, below: Option<&Path>| {
        if !command.trim().is_empty() {
            let installs_below = below.map(Path::to_path_buf);
            let (command, dir) = (command.trim().into(), dir.into());
            steps.push(Step { name, command, dir, installs_below, warning: None });
        }
    };
    // A workspace installs for all its packages.
    let install = recipe.build_install.as_ref().map(|install| &install.value);
    install.iter().for_each(|command| add("install".into(), command, &source.app, Some(Path::new(""))));
    build.iter().for_each(|command| add("build".into(), command, &source.app, None));
    recipe.after.iter().for_each(|after| add("after the build".into(), &after.value, &source.app, None));
    for (n, stage) in project.build.stages.iter().enumerate() {
        let dir = working_dir(&source.app, stage)?;
        let name = stage.name.clone().unwrap_or_else(|| (n + 1).to_string());
        stage.install.iter().for_each(|command| add(format!("stage {name}: install"), command, &dir, Some(&dir)));
        add(format!("stage {name}"), &stage.run, &dir, None);
    }
    Ok(steps)
}

/// A server installs only what a lock file says. Without one an app starts without its packages, and says so only there.
pub(crate) fn nothing_installed(runtime: Runtime, recipe: &Recipe, source: &Source, facts: &Facts) -> Option<String> {
    let by_lock = recipe.install.is_none() && matches!(runtime, Runtime::Bun | Runtime::Node);
    if !by_lock || !facts.in_production || Packages::are_installed_on_server(runtime, source) {
        return None;
    }
    let install = Packages::of(runtime, source).install().command;
    Some(format!(
        "package.json has dependencies, but no lock file is part of the source, so the server installs none: run `{install}` \
         and commit the lock file; where the build bundles them, say `install = []` in tako.toml"
    ))
}

fn default_build(runtime: Runtime, facts: &Facts, packages: &Packages) -> Option<String> {
    match runtime {
        // Where Bun is the runtime, Node may not be there.
        Runtime::Bun if facts.build_script => Some("bun run build".into()),
        Runtime::Node | Runtime::Deno if facts.build_script => Some(packages.run("build")),
        Runtime::Bun | Runtime::Node | Runtime::Deno | Runtime::Binary => None,
    }
}

/// Writes the preset's own `main` into the built app, unless there is one.
pub(crate) fn write_entry(app: &Path, recipe: &Recipe) -> Result<()> {
    let Some(entry) = &recipe.entry else { return Ok(()) };
    let path = app.join(&recipe.main.value);
    if path.symlink_metadata().is_ok() {
        return Ok(());
    }
    fs::write(&path, &entry.value).context(|| format!("write {}", path.display()))
}

/// Some presets know what their builds make; a build that makes something else would only fail on the server.
///
/// # Errors
/// Build with the preset's own advice.
pub(crate) fn check_made(app: &Path, recipe: &Recipe) -> Result<()> {
    let Some(makes) = recipe.makes.as_ref().map(|makes| &makes.value) else { return Ok(()) };
    if makes.is_empty() || makes.iter().any(|file| app.join(file).is_file()) {
        return Ok(());
    }
    let names: Vec<String> = makes.iter().map(|name| format!("`{name}`")).collect();
    let error = Error::new(Kind::Build, format!("the build made no {}", names.join(" or ")));
    Err(recipe.otherwise.iter().fold(error, |e, otherwise| e.hint(otherwise.value.clone())))
}

/// The folders to merge into `public/`. A preset may name one that only some apps have: it ends in `?`.
pub(crate) fn assets(app: &Path, recipe: &Recipe) -> Vec<String> {
    let there = |asset: &String| match asset.strip_suffix('?') {
        Some(optional) => app.join(optional).is_dir().then(|| optional.to_string()),
        None => Some(asset.clone()),
    };
    recipe.assets().iter().filter_map(there).collect()
}

/// Relative to the source root.
fn working_dir(app: &Path, stage: &Stage) -> Result<PathBuf> {
    let mut dir = app.to_path_buf();
    let given = stage.working_dir.as_deref().unwrap_or_default();
    for part in Path::new(given).components() {
        let inside = match part {
            Component::CurDir => true,
            Component::Normal(name) => {
                dir.push(name);
                true
            }
            Component::ParentDir => dir.pop(),
            Component::RootDir | Component::Prefix(_) => false,
        };
        if !inside {
            return Err(Error::new(Kind::Config, format!("working_dir `{given}` leaves the source root"))
                .hint("give a folder relative to the app, inside the repository"));
        }
    }
    Ok(dir)
}

/// The version of the runtime: as configured, else as `mise` would run it, else as `mise.toml` says, else as the one
/// on PATH says; `None` when nobody can tell.
pub(crate) fn runtime_version(project: &Project, source: &Source) -> Option<String> {
    let tool = match project.runtime {
        Runtime::Binary => return project.runtime_version.clone(),
        tool => tool.as_str(),
    };
    let ask = |mut command: Command| {
        command.arg("--version").current_dir(&project.dir);
        ask(command).as_deref().and_then(version_in)
    };
    let by_mise = || {
        let mut command = mise(&source.root);
        command.args(["exec", "--", tool]);
        ask(command)
    };
    project
        .runtime_version
        .clone()
        .or_else(by_mise)
        .or_else(|| in_mise_toml(&project.dir, tool))
        .or_else(|| ask(Command::new(tool)))
}

fn in_mise_toml(dir: &Path, tool: &str) -> Option<String> {
    let text = fs::read_to_string(dir.join("mise.toml")).ok()?;
    let document: toml_edit::DocumentMut = text.parse().ok()?;
    document.get("tools")?.get(tool)?.as_str().and_then(version_in)
}

/// The first output line of a program that says its version and nothing else.
fn ask(mut command: Command) -> Option<String> {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null());
    let mut owned = Owned::spawn(&mut command).ok()?;
    let stdout = owned.child.stdout.take()?;
    let (line, first) = bounded(1);
    thread::spawn(move || {
        each_line(stdout, |text| {
            // Only the first one has room.
            let _ = line.try_send(text);
        });
    });
    let said = first.recv_timeout(ASK).ok()?;
    owned.wait_for(ASK)?.success().then_some(said)
}

/// The first word that looks like a version: `v20.1.0`, `deno 2.1.4 (stable…)`.
fn version_in(line: &str) -> Option<String> {
    let words = line.split_ascii_whitespace().map(|word| word.strip_prefix('v').unwrap_or(word));
    let good = |word: &&str| {
        word.len() <= 64
            && word.starts_with(|c: char| c.is_ascii_digit())
            && word.bytes().all(|b| b.is_ascii_alphanumeric() || b".-+".contains(&b))
    };
    words.into_iter().find(good).map(Into::into)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_the_version_in_what_a_runtime_says() {
        let check = |line: &str, expected: Option<&str>| assert_eq!(version_in(line).as_deref(), expected, "{line}");
        check("v20.20.2", Some("20.20.2"));
        check("1.3.2", Some("1.3.2"));
        check("deno 2.1.4 (stable, release, x86_64-unknown-linux-gnu)", Some("2.1.4"));
        check("22", Some("22"));
        check("latest", None);
        check("../../etc", None);
        check("", None);
    }

    #[test]
    fn a_runtime_builds_only_what_has_a_build_script() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("pnpm-lock.yaml"), "").unwrap();
        let source = crate::cli::build::bundle::collect(dir.path()).unwrap();
        let script = Facts { build_script: true, ..Facts::default() };
        let check = |runtime, facts: &Facts, expected: Option<&str>| {
            let packages = Packages::of(runtime, &source);
            assert_eq!(default_build(runtime, facts, &packages).as_deref(), expected);
        };
        check(Runtime::Bun, &script, Some("bun run build"));
        check(Runtime::Node, &script, Some("pnpm run build"));
        check(Runtime::Bun, &Facts::default(), None);
        check(Runtime::Deno, &script, Some("deno task build"));
        check(Runtime::Deno, &Facts::default(), None);
        check(Runtime::Binary, &script, None);
    }

    #[test]
    fn a_stage_stays_inside_the_source_root() {
        let check = |dir: Option<&str>, expected: Option<&str>| {
            let stage = Stage { name: None, working_dir: dir.map(Into::into), install: None, run: "x".into() };
            let found = working_dir(Path::new("apps/web"), &stage).ok();
            assert_eq!(found, expected.map(PathBuf::from), "{dir:?}");
        };
        check(None, Some("apps/web"));
        check(Some("css"), Some("apps/web/css"));
        check(Some("../../packages/ui/."), Some("packages/ui"));
        check(Some("../.."), Some(""));
        check(Some("../../.."), None);
        check(Some("/etc"), None);
    }
}
