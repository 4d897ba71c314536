//! Build: from a Project to an Artifact, on this machine.
//!
//! `bundle` says which files are the source and what their Version is, `checkout` what they lack, and `sources` keeps
//! them; `preset` and `recipe` what is done with it by default, `packages` how dependencies are installed; `tree` makes a
//! clean copy to run them in; `stage` runs them in an `environment`, or `container` in Docker, one build in its `turn`,
//! after any `leftover` of another one, and `verdict` has the words for those that fail; `assets` merges what is served as files, `entry` looks whether the
//! result can start, `glob` and `pick` choose what of it is shipped; `native` tells which machines it is for, and `fit`
//! which server gets it; `cache` remembers what was made of what, installed `modules` included.
//!
//! **Invariant**: nothing is written into the user's tree but below `.tako/`.

pub(crate) mod assets;
pub(crate) mod bundle;
pub(crate) mod cache;
mod checkout;
pub(crate) mod container;
pub(crate) mod entry;
pub(crate) mod environment;
pub(crate) mod fit;
pub(crate) mod glob;
#[cfg(feature = "lab")]
pub mod lab;
mod leftover;
mod many;
pub(crate) mod modules;
pub(crate) mod native;
pub(crate) mod packages;
pub(crate) mod pick;
pub(crate) mod preset;
pub(crate) mod recipe;
mod sources;
pub(crate) mod stage;
pub(crate) mod tree;
pub(crate) mod turn;
pub(crate) mod verdict;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::interrupt::Interrupt;
use super::project::Project;
use super::ui::units;
use crate::archive::Packed;
use crate::archive::pack::pack;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::Runtime;
use crate::proto::target::Target;
use bundle::Source;
use cache::Kept;
use container::{Wanted, Where};
use entry::Entry;
use environment::Environment;
use glob::Globs;
use native::Native;
use pick::Rule;
use preset::Effective;
use preset::facts::Facts;
use preset::lock::Locked;
use preset::resolve::Wish;
use recipe::{Modules, Recipe};
use stage::Step;
use turn::Turn;

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
    /// What is probably not as its author thinks.
    pub warnings: Vec<String>,
    locked: Option<Locked>,
    pub runtime_version: Option<String>,
    /// One artifact for each.
    pub targets: Vec<Target>,
    /// They were chosen: not just this machine's.
    named: bool,
    place: Where,
    pub steps: Vec<Step>,
    environment: Environment,
    include: Globs,
    exclude: Globs,
}

/// An artifact in the local cache.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    pub target: Target,
    pub file: PathBuf,
    pub packed: Packed,
    /// What is compiled in it.
    pub natives: Vec<Native>,
    /// It was made by an earlier build of the same inputs.
    pub cached: bool,
    /// The command that took the most of it: `bun run build`.
    pub how: String,
}

impl Order {
    pub fn target_names(&self) -> String {
        self.targets.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
    }

    /// The variables of `[vars]` that the build sees, too.
    pub fn vars(&self) -> impl Iterator<Item = &str> {
        self.environment.vars().keys().map(String::as_str)
    }

    /// What the name of the image for `target` stands for, where it is built in one and somebody knows.
    fn image_now(&self, target: Target, interrupt: Option<&Interrupt>) -> Result<Option<String>> {
        self.place.image(target).map_or(Ok(None), |image| container::identity::identity(image, interrupt))
    }
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

/// Resolves everything that a build for an environment with `vars` depends on, and writes nothing into the project.
///
/// # Errors
/// Config naming what is wrong with the project.
pub(crate) fn order(project: &Project, vars: &BTreeMap<String, String>, wish: Wish) -> Result<Order> {
    let Effective { recipe, locked, notes } = preset::effective(project, wish)?;
    let include = Globs::parse(recipe.include()).context(|| "[build] include".into())?;
    let exclude = Globs::parse(&recipe.exclude()).context(|| "[build] exclude".into())?;
    let source = bundle::collect(&project.dir)?;
    let named = recipe.targets.iter().flat_map(|targets| &targets.value);
    let named = named.map(|target| Target::parse(target)).collect::<Result<Vec<Target>>>()?;
    let image = project.build.image.as_deref();
    let place = Where::of(recipe.container.as_ref().map(|c| c.value), !named.is_empty(), image)?;
    let mut facts = Facts::of(project, &source)?;
    // What is installed here is for this machine.
    facts.installed &= place == Where::Here;
    let steps = preset::steps(project, &recipe, &source, &facts)?;
    let mut warnings = checkout::warnings(&source)?;
    warnings.extend(preset::nothing_installed(project.runtime, &recipe, &source, &facts));
    let runtime_version = preset::runtime_version(project, &source);
    // After the runtime was asked for: that may have made `mise` install it. A container has its own.
    let environment = match place {
        Where::Here => Environment::of(&source, &steps, vars)?,
        Where::Container { .. } => Environment::of_container(&steps, vars),
    };
    let (named, targets) = match named.is_empty() {
        true => (false, vec![Target::of_this_machine()?]),
        false => (true, named),
    };
    Ok(Order {
        source,
        recipe,
        notes,
        warnings,
        locked,
        runtime_version,
        targets,
        named,
        place,
        steps,
        environment,
        include,
        exclude,
    })
}

/// One artifact of a build that is not run.
pub(crate) struct Planned {
    pub target: Target,
    /// As an earlier build made it.
    pub packed: Option<Packed>,
    /// What would be run otherwise.
    pub steps: Vec<String>,
}

/// What [`build`] would do; it writes nothing.
pub(crate) fn planned(project: &Project, order: &Order, anew: bool) -> Result<Vec<Planned>> {
    let artifacts = project.dir.join(".tako/artifacts");
    let one = |target: &Target| {
        let file = cache::file(&artifacts, *target, &cache::key(project, order, *target)?);
        let kept = if anew { None } else { cache::look(&file) };
        let now = match &kept {
            Some(_) => order.image_now(*target, None)?,
            None => None,
        };
        let packed = kept.filter(|kept| kept.is_of(now.as_deref())).map(|kept| kept.packed);
        let steps = order.steps.iter().map(Step::title).collect();
        Ok(Planned { target: *target, packed, steps })
    };
    order.targets.iter().map(one).collect()
}

/// The artifacts of `order`, one for each target, from the cache unless they are to be made `anew`, or built. `say` hears
/// how it goes.
///
/// # Errors
/// Build with the last output of the command that failed; Refused when the sources changed meanwhile; Interrupted.
pub(crate) fn build(
    project: &Project,
    order: &Order,
    anew: bool,
    interrupt: &Interrupt,
    say: &dyn Fn(Said<'_>),
) -> Result<Vec<Built>> {
    let dir = project.dir.join(".tako");
    let artifacts = dir.join("artifacts");
    disk::make_dirs(&artifacts, 0o755).and_then(|()| keep_out_of_git(&dir)).map_err(unwritable)?;
    let turn = turn::take(&dir, interrupt, &mut |whom| say(Said::Waiting(whom))).map_err(unwritable)?;
    preset::lock::save(&project.dir, order.locked.as_ref())?;
    let making = Making { project, order, artifacts: &artifacts, anew, turn: &turn, interrupt, say };
    // Who wants nothing from before has the sources read, whatever is remembered of them.
    let checked = if anew { order.source.check() } else { Ok(()) };
    let built = checked.and_then(|()| order.targets.iter().map(|target| making.artifact(*target)).collect());
    match &built {
        // A file is not what it was, or not what it was remembered to be.
        Err(e) if e.kind() == Kind::Refused => bundle::forget(&project.dir),
        _ => bundle::remember(&project.dir, &order.source),
    }
    built
}

/// A build in its turn.
struct Making<'a> {
    project: &'a Project,
    order: &'a Order,
    artifacts: &'a Path,
    anew: bool,
    turn: &'a Turn,
    interrupt: &'a Interrupt,
    say: &'a dyn Fn(Said<'_>),
}

impl Making<'_> {
    fn artifact(&self, target: Target) -> Result<Built> {
        let Making { project, order, artifacts, anew, turn, interrupt, say } = *self;
        let key = cache::key(project, order, target)?;
        let file = cache::file(artifacts, target, &key);
        let keep_sources = |from: &Path| -> Result<()> {
            let left_out = sources::keep(artifacts, &order.source, from)?;
            left_out.iter().for_each(|path| say(Said::Doing(&format!("the source archive cannot hold {path:?}"))));
            Ok(())
        };
        if !anew && let Some(kept) = cache::find(&file)? {
            if kept.is_of(order.image_now(target, Some(interrupt))?.as_deref()) {
                keep_sources(&order.source.root)?;
                let how = "from the cache, nothing changed".into();
                let Kept { packed, natives, image: _ } = kept;
                return Ok(Built { target, file, packed, natives, cached: true, how });
            }
            say(Said::Doing("build again: the image is another one than last time"));
        }
        if turn.waited && bundle::collect(&project.dir)?.hash != order.source.hash {
            return Err(Error::new(Kind::Refused, "the sources changed while another build was waited for")
                .hint("run it again"));
        }
        let rule = Rule::new(&order.recipe, &order.source, &order.include, &order.exclude);
        let dir = project.dir.join(".tako/build");
        if anew {
            // What frameworks have cached there would be carried over.
            disk::remove_tree(&dir)?;
        }
        let modules = self.modules(target);
        if modules == Modules::Copy {
            say(Said::Doing("copy the installed packages"));
        }
        let tree = tree::make(&dir, &order.source, &order.steps, modules, interrupt)?;
        keep_sources(&tree)?;
        let image = self.steps(&tree, &rule, target)?;
        let app = tree.join(&order.source.app);
        preset::write_entry(&app, &order.recipe)?;
        assets::merge(&tree, &order.source.root, &app, &preset::assets(&app, &order.recipe))?;
        preset::check_made(&app, &order.recipe)?;
        entry::check(&app, &entry(project, order, target))?;
        let files = pick::files(&tree, &rule)?;
        let natives = native::of(&tree, &files, &rule.main);
        check_natives(order, &natives, target)?;
        interrupt.check()?;
        REPLACED
            .iter()
            .filter(|(path, _)| files.iter().any(|f| f.starts_with(path)))
            .for_each(|(_, said)| say(Said::Warning(said)));
        say(Said::Doing(&format!("pack {}", units::count(files.len(), "file"))));
        let packed = cache::store(&file, &natives, image, |temp| pack(&tree, &files, temp)).map_err(unpackable)?;
        cache::prune(artifacts, &file);
        let how = match order.steps.last() {
            Some(step) => format!("{} · {}", step.title(), units::count(files.len(), "file")),
            None => units::count(files.len(), "file"),
        };
        Ok(Built { target, file, packed, natives, cached: false, how })
    }

    /// How packages come into the tree. A container has none of the links' targets, and installs its own.
    fn modules(&self, target: Target) -> Modules {
        match self.order.place.image(target) {
            None => self.order.recipe.modules(),
            Some(_) => Modules::Link,
        }
    }

    /// Tells which image a container was of.
    fn steps(&self, tree: &Path, rule: &Rule<'_>, target: Target) -> Result<Option<String>> {
        let Making { project, order, turn, interrupt, say, .. } = *self;
        let vars: Vec<&str> = order.vars().collect();
        if !vars.is_empty() {
            say(Said::Doing(&format!("with {} of [vars]", vars.join(", "))));
        }
        let Some(image) = order.place.image(target) else {
            let environment = order.environment.for_target(target);
            for step in &order.steps {
                interrupt.check()?;
                step.warning.iter().for_each(|warning| say(Said::Warning(warning)));
                say(Said::Running(&step.title()));
                let mut on = |line: &str| say(Said::Output(line));
                stage::run(tree, &order.source, &environment, step, turn, interrupt, &mut on)?;
            }
            return Ok(None);
        };
        let assets = order.recipe.assets().iter().map(|asset| asset.strip_suffix('?').unwrap_or(asset));
        let assets: Vec<PathBuf> = assets.map(|asset| order.source.app.join(asset)).collect();
        let wanted = Wanted {
            enters: &|dir| rule.enters(dir) || assets.iter().any(|a| a.starts_with(dir) || dir.starts_with(a)),
            ships: &|path| rule.ships(path) || assets.iter().any(|a| path.starts_with(a)),
        };
        let work = container::Work {
            project: &project.dir,
            runtime: project.runtime,
            source: &order.source,
            steps: &order.steps,
            vars: order.environment.vars(),
            target,
            image,
            tree,
            wanted: &wanted,
            turn,
        };
        container::run(&work, interrupt, say)
    }
}

/// The state of the project rather than of the machine.
fn unwritable(e: Error) -> Error {
    match e.kind() {
        Kind::Io if e.next_step().is_none() => {
            e.with_kind(Kind::Config).hint("Tako builds below .tako in the project: that has to be writable for you")
        }
        _ => e,
    }
}

/// What no archive may hold is the project's to mend.
fn unpackable(e: Error) -> Error {
    match e.kind() {
        Kind::Refused if e.next_step().is_none() => e.with_kind(Kind::Build).hint(
            "the server takes plain names, and links that are relative and stay inside of the release (`ln -sr` makes \
             such): change it, or leave it out by `exclude` in [build] of tako.toml",
        ),
        _ => e,
    }
}

/// What was named must be what was built.
fn check_natives(order: &Order, natives: &[Native], target: Target) -> Result<()> {
    match native::misfit(natives, target).filter(|_| order.named) {
        None => Ok(()),
        Some(native) => {
            let message = format!("`{}` was compiled for {}, not for {target}", native.file, native.machine());
            Err(Error::new(Kind::Build, message).hint(match &order.place {
                Where::Here => "build for $TAKO_TARGET, which is set to it, or write `container = true` in [build]",
                Where::Container { .. } => {
                    "does the image have that C library? look at `image` and `targets` in [build]"
                }
            }))
        }
    }
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
fn entry<'a>(project: &Project, order: &'a Order, target: Target) -> Entry<'a> {
    let recipe = &order.recipe;
    let executed = project.runtime == Runtime::Binary && recipe.start.is_none();
    Entry { main: &recipe.main.value, runtime: project.runtime, executed, target }
}

#[cfg(test)]
mod tests;
