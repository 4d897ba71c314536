//! Build: from a Project to an Artifact, on this machine.
//!
//! `bundle` says which files are the source and what their Version is, and `sources` keeps them; `preset` and `recipe`
//! what is done with it by default, `packages` how dependencies are installed; `tree` makes a clean copy to run them in;
//! `stage` runs them in an `environment`, one build in its `turn`, and `verdict` has the words for those that fail;
//! `assets` merges what is served as files, `entry` looks whether the result can start, `glob` and `pick` choose what of
//! it is shipped; `cache` remembers what was made of what, installed `modules` included.
//!
//! **Invariant**: nothing is written into the user's tree but below `.tako/`.

pub(crate) mod assets;
pub(crate) mod bundle;
pub(crate) mod cache;
mod copied;
pub(crate) mod entry;
pub(crate) mod environment;
pub(crate) mod glob;
mod many;
pub(crate) mod modules;
pub(crate) mod packages;
pub(crate) mod pick;
pub(crate) mod preset;
pub(crate) mod recipe;
mod sources;
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
use crate::proto::manifest::Runtime;
use crate::proto::target::Target;
use bundle::Source;
use entry::Entry;
use environment::Environment;
use glob::Globs;
use pick::Rule;
use preset::lock::Locked;
use preset::resolve::Wish;
use preset::{Effective, Facts};
use recipe::Recipe;
use stage::Step;

/// A .gitignore beyond this is somebody's own.
const MAX_GITIGNORE: u64 = 64 << 10;

/// What a release has of its own in its root, and what becomes of a file that a source has there.
const REPLACED: [(&str, &str); 2] = [
    ("app.json", "your app.json is not in the release: Tako writes its own there, which says what the release is"),
    ("logs", "your folder logs/ is not in the release: there it is the place of the app's logs on the server"),
];

/// What is known before anything is built: enough to refuse early and to ask the servers.
pub(crate) struct Order {
    pub source: Source,
    /// How it is built and started, once `tako.toml` and the presets are merged.
    pub recipe: Recipe,
    /// What the user should know about how it was chosen.
    pub notes: Vec<String>,
    locked: Option<Locked>,
    pub runtime_version: Option<String>,
    pub target: Target,
    pub steps: Vec<Step>,
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
    /// Something is not as its author may think.
    Warning(&'a str),
    /// A command was started.
    Running(&'a str),
    /// A line of a command's output.
    Output(&'a str),
}

/// Resolves everything that a build depends on, and writes nothing into the project.
///
/// # Errors
/// Config naming what is wrong with the project.
pub(crate) fn order(project: &Project, wish: Wish) -> Result<Order> {
    let Effective { recipe, locked, notes } = preset::effective(project, wish)?;
    let include = Globs::parse(recipe.include()).context(|| "[build] include".into())?;
    let exclude = Globs::parse(&recipe.exclude()).context(|| "[build] exclude".into())?;
    let source = bundle::collect(&project.dir)?;
    let steps = preset::steps(project, &recipe, &source, &Facts::of(project, &source)?)?;
    let runtime_version = preset::runtime_version(project, &source);
    // After the runtime was asked for: that may have made `mise` install it.
    let environment = Environment::of(&source, &steps)?;
    let target = Target::of_this_machine()?;
    Ok(Order { source, recipe, notes, locked, runtime_version, target, steps, environment, include, exclude })
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
    preset::lock::save(&project.dir, order.locked.as_ref())?;
    let key = cache::key(project, order)?;
    let file = cache::file(&artifacts, order.target, &key);
    let keep_sources = |from: &Path| -> Result<()> {
        let left_out = sources::keep(&artifacts, &order.source, from)?;
        left_out.iter().for_each(|path| say(Said::Doing(&format!("the source archive cannot hold {path:?}"))));
        Ok(())
    };
    if !anew && let Some(packed) = cache::find(&file)? {
        keep_sources(&order.source.root)?;
        return Ok(Built { file, packed, cached: true, how: "from the cache, nothing changed".into() });
    }
    if turn.waited && bundle::collect(&project.dir)?.hash != order.source.hash {
        return Err(
            Error::new(Kind::Refused, "the sources changed while another build was waited for").hint("run it again")
        );
    }
    let tree = tree::make(&dir.join("build"), &order.source, &order.steps)?;
    keep_sources(&tree)?;
    if order.recipe.copies_modules() {
        say(Said::Doing("copy the installed packages"));
        copied::modules(&tree, &order.source, interrupt)?;
    }
    for step in &order.steps {
        interrupt.check()?;
        step.warning.iter().for_each(|warning| say(Said::Warning(warning)));
        say(Said::Running(&step.title()));
        let mut on = |line: &str| say(Said::Output(line));
        stage::run(&tree, &order.source, &order.environment, step, interrupt, &mut on)?;
    }
    let app = tree.join(&order.source.app);
    preset::write_entry(&app, &order.recipe)?;
    assets::merge(&tree, &order.source.root, &app, &preset::assets(&app, &order.recipe))?;
    preset::check_made(&app, &order.recipe)?;
    entry::check(&app, &entry(project, order))?;
    let files = pick::files(&tree, &Rule::new(&order.recipe, &order.source, &order.include, &order.exclude))?;
    interrupt.check()?;
    REPLACED
        .iter()
        .filter(|(path, _)| files.iter().any(|f| f.starts_with(path)))
        .for_each(|(_, said)| say(Said::Warning(said)));
    say(Said::Doing(&format!("pack {} files", files.len())));
    let packed = cache::store(&file, |temp| pack(&tree, &files, temp))?;
    cache::prune(&artifacts, &file);
    let how = match order.steps.last() {
        Some(step) => format!("{} · {} files", step.title(), files.len()),
        None => format!("{} files", files.len()),
    };
    Ok(Built { file, packed, cached: false, how })
}

/// Of our own folder only what a team shares is meant to be committed. Who wrote a rule of their own keeps it.
fn keep_out_of_git(dir: &Path) -> Result<()> {
    const RULES: &str = "*\n!secrets\n!build.lock.json\n";
    /// As written by earlier versions.
    const BEFORE: &str = "*\n!secrets\n";
    let path = dir.join(".gitignore");
    match disk::read_if_there(&path, MAX_GITIGNORE) {
        Ok(Some(there)) if there != BEFORE.as_bytes() => Ok(()),
        Ok(_) => disk::write_atomic(&path, RULES.as_bytes(), 0o644),
        Err(_) => Ok(()),
    }
}

/// What the server will start.
fn entry<'a>(project: &Project, order: &'a Order) -> Entry<'a> {
    let recipe = &order.recipe;
    let executed = project.runtime == Runtime::Binary && recipe.start.is_none();
    Entry { main: &recipe.main.value, runtime: project.runtime, executed, target: order.target }
}

#[cfg(test)]
mod tests;
