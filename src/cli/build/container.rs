//! Container: the commands of a build, run by Docker in a fresh container of a builder image instead of on this machine.
//!
//! ```text
//! image there? (pull) ─ create ─ copy the tree in ─ start ─ exec each step ─ copy the tree out ─ remove
//! ```
//!
//! Files travel as tar streams through `docker cp`, so that the engine may be on another machine and nothing of this one
//! is mounted; what packages were downloaded stays in cache volumes. `argv` says what is asked of `docker`, `docker`
//! asks, `stream` packs and unpacks the tree, `identity` tells which image a name stands for, `verdict` says in our words why it went wrong. No variable of our
//! environment and no secret goes in.
//!
//! **Invariant**: a container lives as long as we do. It ends when the stream to its first process does, so that it is
//! gone after a `kill -9`, too; one that was never started is found by its label at the next build of the project.

mod argv;
mod docker;
pub(crate) mod identity;
mod stream;
mod verdict;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use super::Said;
use super::bundle::{Source, frame};
use super::stage::{self, Step};
use super::turn::Turn;
use crate::cli::child::Owned;
use crate::cli::interrupt::Interrupt;
use crate::crypto::{self, Sha256};
use crate::disk;
use crate::error::{Error, Kind, Result};
use crate::proto::manifest::Runtime;
use crate::proto::target::{Libc, Target};
use docker::Docker;
pub(super) use stream::Wanted;
use verdict::About;

/// Of images made for this: a shell, a compiler and `mise`, on the C library of the target.
const IMAGE_GLIBC: &str = "ghcr.io/lilienblum/tako-builder-glibc:v1";
const IMAGE_MUSL: &str = "ghcr.io/lilienblum/tako-builder-musl:v1";
/// What removing a container may take before we go; the next build finds it.
const REMOVING: Duration = Duration::from_secs(20);

/// Where the commands of a build run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Where {
    Here,
    /// In containers of this image, or of the default one for each target.
    Container {
        image: Option<String>,
    },
}

impl Where {
    /// `container` is what was said of it; without a word, `named` targets are built in containers.
    ///
    /// # Errors
    /// Config for an image that nothing would be built in.
    pub fn of(container: Option<bool>, named: bool, image: Option<&str>) -> Result<Where> {
        match container.unwrap_or(named) {
            true => Ok(Where::Container { image: image.map(Into::into) }),
            false if image.is_some() => {
                Err(Error::new(Kind::Config, "`image` in [build] has no effect: nothing is built in a container")
                    .hint("add `container = true` to [build], or remove `image`"))
            }
            false => Ok(Where::Here),
        }
    }

    /// The image that `target` is built in, if it is.
    pub fn image(&self, target: Target) -> Option<&str> {
        match (self, target.libc) {
            (Where::Here, _) => None,
            (Where::Container { image: Some(image) }, _) => Some(image),
            (Where::Container { image: None }, Libc::Glibc) => Some(IMAGE_GLIBC),
            (Where::Container { image: None }, Libc::Musl) => Some(IMAGE_MUSL),
        }
    }
}

/// What is built in a container.
pub(super) struct Work<'a> {
    pub project: &'a Path,
    pub runtime: Runtime,
    pub source: &'a Source,
    pub steps: &'a [Step],
    /// What its commands see besides, all of it committed with the project.
    pub vars: &'a BTreeMap<String, String>,
    pub target: Target,
    pub image: &'a str,
    /// The clean tree to copy in; the built one takes its place.
    pub tree: &'a Path,
    pub wanted: &'a Wanted<'a>,
    pub turn: &'a Turn,
}

/// Runs the steps and brings the tree back. Tells the [`identity`](mod@identity) of the image that it was done in.
///
/// # Errors
/// Build with the last output of what failed, and a next step where Docker is the reason; Interrupted.
pub(super) fn run(work: &Work<'_>, interrupt: &Interrupt, say: &dyn Fn(Said<'_>)) -> Result<Option<String>> {
    let about = About { image: work.image, platform: argv::platform(work.target) };
    let docker = Docker { interrupt, about };
    let label = label(work.project);
    sweep(&docker, &label)?;
    provide_image(&docker, work.turn, say)?;
    let identity = identity::identity(work.image, Some(interrupt))?;

    let container = Container::create(&docker, work, &label)?;
    say(Said::Doing(&format!("copy the source into a container of {}", work.image)));
    docker.feed(&argv::copy_in(&container.name), "copy the source into the container", |stdin| {
        stream::pack(work.tree, argv::ROOT, stdin)
    })?;
    let running = container.start()?;
    running.give_to_its_user()?;
    for step in work.steps {
        interrupt.check()?;
        step.warning.iter().for_each(|warning| say(Said::Warning(warning)));
        say(Said::Running(&step.title()));
        let mut command = docker::command(&argv::exec(&running.container.name, work.source, step));
        let heard = stage::hear(&mut command, work.turn, interrupt, &mut |line| say(Said::Output(line)))?;
        heard.or_failed(step)?;
    }
    say(Said::Doing("copy the result out of the container"));
    running.copy_out(work)?;
    Ok(identity)
}

/// Removes what earlier builds of the project left; under its lock none of it can be in use.
fn sweep(docker: &Docker<'_>, label: &str) -> Result<()> {
    let left = docker.ask(&argv::list(label), "look for containers of earlier builds")?;
    if !left.is_empty() {
        // One that is just going away by itself is as good.
        docker.try_to(&argv::remove(&left), REMOVING);
    }
    Ok(())
}

/// Pulls the image when it is not here for the platform.
fn provide_image(docker: &Docker<'_>, turn: &Turn, say: &dyn Fn(Said<'_>)) -> Result<()> {
    let found = docker.try_to_ask(&argv::platform_of(docker.about.image))?;
    if found.is_some_and(|lines| lines.first().is_some_and(|line| line.as_str() == docker.about.platform)) {
        return Ok(());
    }
    let command = format!("docker pull {}", docker.about.image);
    say(Said::Running(&command));
    let mut pull = docker::command(&argv::pull(docker.about));
    let heard = stage::hear(&mut pull, turn, docker.interrupt, &mut |line| say(Said::Output(line)));
    let heard = heard.map_err(verdict::not_started)?;
    match heard.succeeded() {
        true => Ok(()),
        false => Err(verdict::pull(docker.about, heard.last)),
    }
}

/// Removed on drop.
struct Container<'a> {
    docker: &'a Docker<'a>,
    name: String,
}

impl<'a> Container<'a> {
    fn create(docker: &'a Docker<'a>, work: &Work<'_>, label: &str) -> Result<Container<'a>> {
        let random: String = crypto::random::<8>()?.iter().map(|b| format!("{b:02x}")).collect();
        // The name is ours and known before there is a container, so that an interrupt finds it.
        let container = Container { docker, name: format!("tako-build-{random}") };
        let volumes = argv::volumes(work.runtime, work.target, work.image);
        let mut env = vec![format!("TAKO_TARGET={}", work.target), format!("TAKO_BUILD={}", work.source.version)];
        env.extend(work.vars.iter().map(|(name, value)| format!("{name}={value}")));
        let create = argv::create(&container.name, label, docker.about, &env, &volumes);
        docker.settle(&create, "create a container")?;
        Ok(container)
    }

    /// Starts it, to run until the stream to it ends.
    fn start(self) -> Result<Running<'a>> {
        let keeper = self.docker.keep(&argv::start(&self.name), argv::UP, "start the container")?;
        Ok(Running { container: self, _keeper: keeper })
    }
}

impl Drop for Container<'_> {
    fn drop(&mut self) {
        self.docker.try_to(&argv::remove(std::slice::from_ref(&self.name)), REMOVING);
    }
}

/// In this order: the container goes first.
struct Running<'a> {
    container: Container<'a>,
    /// The program that holds the stream to it.
    _keeper: Owned,
}

impl Running<'_> {
    /// An image may say that its commands run as somebody else than root.
    fn give_to_its_user(&self) -> Result<()> {
        let user = self.container.docker.ask(&argv::user_of(&self.container.name), "look at the container")?;
        match user.first().map(|user| user.trim()) {
            None | Some("" | "0" | "root" | "0:0" | "root:root") => Ok(()),
            Some(user) => {
                let chown = argv::chown(&self.container.name, user);
                self.container.docker.ask(&chown, "give the source to the user of the image").map(drop)
            }
        }
    }

    fn copy_out(&self, work: &Work<'_>) -> Result<()> {
        let doing = "copy the result out of the container";
        let take = |wanted: &Wanted<'_>| {
            disk::remove_tree(work.tree)?;
            disk::make_dirs(work.tree, 0o755)?;
            let mut complete = true;
            let argv = argv::copy_out(&self.container.name);
            self.container.docker.drain(&argv, doing, |stdout| {
                complete = stream::unpack(stdout, argv::ROOT_NAME, work.tree, wanted)?;
                Ok(())
            })?;
            Ok::<bool, Error>(complete)
        };
        // A file that is wanted may be a second name of one that is not.
        if !take(work.wanted)? && !take(&Wanted { enters: &|_| true, ..*work.wanted })? {
            return Err(Error::new(Kind::Refused, "the container's files link to each other in a circle"));
        }
        Ok(())
    }
}

/// Stands for one checkout on one machine: the engine may be shared with others.
fn label(project: &Path) -> String {
    let mut hash = Sha256::new();
    frame(&mut hash, rustix::system::uname().nodename().to_bytes());
    let full: PathBuf = fs::canonicalize(project).unwrap_or_else(|_| project.into());
    frame(&mut hash, full.as_os_str().as_encoded_bytes());
    hash.finish()[..16].to_string()
}

type Argv = Vec<OsString>;

#[cfg(test)]
mod tests;
