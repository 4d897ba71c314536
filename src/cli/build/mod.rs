//! Build: from a Project to an Artifact, on this machine.
//!
//! `bundle` says which files are the source and what their Version is; `preset` and `recipe` what is
//! done with it by default; `tree` makes a clean copy to run them in; `stage` runs them; `glob` and `pick` choose what of the result
//! is shipped; `cache` remembers what was made of what.
//!
//! **Invariant**: nothing is written into the user's tree but below `.tako/`.

pub(crate) mod bundle;
pub(crate) mod cache;
mod copied;
pub(crate) mod glob;
pub(crate) mod pick;
pub(crate) mod preset;
pub(crate) mod recipe;
pub(crate) mod stage;
pub(crate) mod tree;

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use super::interrupt::Interrupt;
use super::project::Project;
use crate::archive::Packed;
use crate::archive::pack::pack;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::target::Target;
use bundle::Source;
use glob::Globs;
use pick::Rule;
use preset::lock::Locked;
use preset::resolve::Wish;
use preset::{Effective, Facts};
use recipe::Recipe;
use stage::Step;

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
    steps: Vec<Step>,
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
    let runtime_version = preset::runtime_version(project);
    Ok(Order {
        source,
        recipe,
        notes,
        locked,
        runtime_version,
        target: Target::of_this_machine()?,
        steps,
        include,
        exclude,
    })
}

/// The artifact of `order`, from the cache or built. `say` hears how it goes.
///
/// # Errors
/// Build with the last output of the command that failed; Busy while another `tako` builds the same project;
/// Interrupted.
pub(crate) fn build(project: &Project, order: &Order, interrupt: &Interrupt, say: &dyn Fn(Said<'_>)) -> Result<Built> {
    let dir = project.dir.join(".tako");
    let artifacts = dir.join("artifacts");
    disk::make_dirs(&artifacts, 0o755)?;
    keep_out_of_git(&dir)?;
    let _lock = lock(&dir)?;
    preset::lock::save(&project.dir, order.locked.as_ref())?;
    let key = cache::key(project, order);
    let file = cache::file(&artifacts, order.target, &key);
    if let Some(packed) = cache::find(&file)? {
        return Ok(Built { file, packed, cached: true, how: "nothing changed".into() });
    }
    let tree = tree::make(&dir.join("build"), &order.source, &order.steps)?;
    if order.recipe.copies_modules() {
        say(Said::Doing("copy the installed packages"));
        copied::modules(&tree, &order.source, interrupt)?;
    }
    for step in &order.steps {
        interrupt.check()?;
        say(Said::Running(&step.command));
        stage::run(&tree, &order.source, step, interrupt, &mut |line| say(Said::Output(line)))?;
    }
    let app = tree.join(&order.source.app);
    preset::write_entry(&app, &order.recipe)?;
    tree::merge_assets(&app, &preset::assets(&app, &order.recipe))?;
    preset::check_made(&app, &order.recipe)?;
    check_main(&app, &order.recipe.main.value)?;
    let files = pick::files(&tree, &Rule::new(&order.recipe, &order.source, &order.include, &order.exclude))?;
    interrupt.check()?;
    say(Said::Doing(&format!("pack {} files", files.len())));
    let packed = cache::store(&file, |temp| pack(&tree, &files, temp))?;
    cache::prune(&artifacts, &file);
    let how = match order.steps.last() {
        Some(step) => format!("{} · {} files", step.command, files.len()),
        None => format!("{} files", files.len()),
    };
    Ok(Built { file, packed, cached: false, how })
}

/// Of our own folder only these are meant to be committed. Who wrote a rule of their own keeps it.
const IGNORED: &str = "*\n!secrets\n!build.lock.json\n";
/// What an earlier Tako wrote.
const IGNORED_BEFORE: &str = "*\n!secrets\n";

fn keep_out_of_git(dir: &Path) -> Result<()> {
    let path = dir.join(".gitignore");
    match fs::read_to_string(&path) {
        Ok(there) if there != IGNORED_BEFORE => Ok(()),
        Ok(_) => disk::write_atomic(&path, IGNORED.as_bytes(), 0o644),
        Err(e) if e.kind() == io::ErrorKind::NotFound => disk::write_atomic(&path, IGNORED.as_bytes(), 0o644),
        // Not text: a rule of somebody's own, whatever it says.
        Err(e) if e.kind() == io::ErrorKind::InvalidData => Ok(()),
        Err(e) => Err(e).context(|| format!("read {}", path.display())),
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

/// Held while the build tree is in use; it ends with the process, so it is never left behind.
fn lock(dir: &Path) -> Result<File> {
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path);
    let file = file.context(|| format!("open {}", path.display()))?;
    match rustix::fs::flock(&file, rustix::fs::FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(file),
        Err(rustix::io::Errno::WOULDBLOCK) => {
            Err(Error::new(Kind::Busy, "another tako is building this project").hint("wait until it is done"))
        }
        Err(e) => Err(e).context(|| format!("lock {}", path.display())),
    }
}

#[cfg(test)]
mod tests;
