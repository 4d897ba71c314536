//! Build: from a Project to an Artifact, on this machine.
//!
//! `bundle` says which files are the source and what their Version is; `preset` which commands a runtime runs by
//! default, `packages` how dependencies are installed; `tree` makes a clean copy to run them in; `stage` runs them in an
//! `environment`, one build in its `turn`, and `verdict` has the words for those that fail; `glob` and `pick` choose what
//! of the result is shipped; `cache` remembers what was made of what, installed `modules` included.
//!
//! **Invariant**: nothing is written into the user's tree but below `.tako/`.

pub(crate) mod bundle;
pub(crate) mod cache;
pub(crate) mod environment;
pub(crate) mod glob;
pub(crate) mod modules;
pub(crate) mod packages;
pub(crate) mod pick;
pub(crate) mod preset;
pub(crate) mod stage;
pub(crate) mod tree;
pub(crate) mod turn;
pub(crate) mod verdict;

use std::path::{Path, PathBuf};

use super::interrupt::Interrupt;
use super::project::Project;
use crate::archive::Packed;
use crate::archive::pack::pack;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::target::Target;
use bundle::Source;
use environment::Environment;
use glob::Globs;
use pick::Rule;
use preset::Facts;
use stage::Step;

/// What is known before anything is built: enough to refuse early and to ask the servers.
pub(crate) struct Order {
    pub source: Source,
    pub runtime_version: Option<String>,
    pub target: Target,
    steps: Vec<Step>,
    environment: Environment,
    include: Globs,
    exclude: Globs,
}

/// An artifact in the local cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    pub file: PathBuf,
    pub packed: Packed,
    /// It was made by an earlier build of the same inputs.
    pub cached: bool,
    /// The command that took the most of it: `bun run build`.
    pub how: String,
}

/// What a build says while it works.
pub(crate) enum Said<'a> {
    Doing(&'a str),
    /// Somebody else builds here.
    Waiting(&'a str),
    Warning(&'a str),
    /// A command was started.
    Running(&'a str),
    /// A line of a command's output.
    Output(&'a str),
}

/// Resolves everything that a build depends on, and writes nothing.
///
/// # Errors
/// Config naming what is wrong with the project.
pub(crate) fn order(project: &Project) -> Result<Order> {
    let include = Globs::parse(&project.build.include).context(|| "[build] include".into())?;
    let exclude = Globs::parse(&project.build.exclude).context(|| "[build] exclude".into())?;
    let source = bundle::collect(&project.dir)?;
    let steps = preset::steps(project, &source, &Facts::of(project, &source)?)?;
    let runtime_version = preset::runtime_version(project, &source);
    // After the runtime was asked for: that may have made `mise` install it.
    let environment = Environment::of(&source, &steps)?;
    Ok(Order { source, runtime_version, target: Target::of_this_machine()?, steps, environment, include, exclude })
}

/// The artifact of `order`, from the cache unless it is to be made `anew`, or built. `say` hears how it goes.
///
/// # Errors
/// Build with the last output of the command that failed; Refused when the sources changed meanwhile; Interrupted.
pub(crate) fn build(
    project: &Project,
    order: &Order,
    anew: bool,
    interrupt: &Interrupt,
    say: &dyn Fn(Said<'_>),
) -> Result<Built> {
    let dir = project.dir.join(".tako");
    let artifacts = dir.join("artifacts");
    disk::make_dirs(&artifacts, 0o755)?;
    keep_out_of_git(&dir)?;
    let turn = turn::take(&dir, interrupt, &mut |whom| say(Said::Waiting(whom)))?;
    let key = cache::key(project, order)?;
    let file = cache::file(&artifacts, order.target, &key);
    if !anew && let Some(packed) = cache::find(&file)? {
        return Ok(Built { file, packed, cached: true, how: "from the cache, nothing changed".into() });
    }
    if turn.waited && bundle::collect(&project.dir)?.hash != order.source.hash {
        return Err(
            Error::new(Kind::Refused, "the sources changed while another build was waited for").hint("run it again")
        );
    }
    let tree = tree::make(&dir.join("build"), &order.source, &order.steps)?;
    for step in &order.steps {
        interrupt.check()?;
        step.warning.iter().for_each(|warning| say(Said::Warning(warning)));
        say(Said::Running(&step.title()));
        let mut on = |line: &str| say(Said::Output(line));
        stage::run(&tree, &order.source, &order.environment, step, interrupt, &mut on)?;
    }
    let app = tree.join(&order.source.app);
    tree::merge_assets(&app, &project.build.assets)?;
    check_main(&app, &project.main)?;
    let files = pick::files(&tree, &Rule::new(project, &order.source, &order.include, &order.exclude))?;
    interrupt.check()?;
    say(Said::Doing(&format!("pack {} files", files.len())));
    let packed = cache::store(&file, |temp| pack(&tree, &files, temp))?;
    cache::prune(&artifacts, &file);
    let how = match order.steps.last() {
        Some(step) => format!("{} · {} files", step.title(), files.len()),
        None => format!("{} files", files.len()),
    };
    Ok(Built { file, packed, cached: false, how })
}

/// Of our own folder only the secrets are meant to be committed. Who wrote a rule of their own keeps it.
fn keep_out_of_git(dir: &Path) -> Result<()> {
    let path = dir.join(".gitignore");
    match path.exists() {
        true => Ok(()),
        false => disk::write_atomic(&path, b"*\n!secrets\n", 0o644),
    }
}

/// `main` is checked before anything is packed, so that a server never sees a release that cannot start.
fn check_main(app: &Path, main: &str) -> Result<()> {
    match app.join(main).is_file() {
        true => Ok(()),
        false => Err(Error::new(Kind::Build, format!("`{main}` does not exist after the build"))
            .hint("set `main` in tako.toml to the file that starts the app, or `[build] build` to what makes it")),
    }
}

#[cfg(test)]
mod tests;
