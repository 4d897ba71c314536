//! Installed packages in the build tree: a `node_modules` of its own, with a link to each package of the user's.
//!
//! One link to the whole folder would be simpler, and every tool that keeps a cache in `node_modules`, or installs once
//! more, would write into the user's tree. So the folder, its scopes and its `.bin` are real and belong to the build; a
//! package is a link to where it really lies (also for pnpm, whose folders are links themselves), and one of the
//! workspace leads to its copy in the build tree. Nothing else of the folder is taken along: caches are the build's own,
//! and what package managers note down for themselves is not about this folder.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Component, Path, PathBuf};

use super::copy::Copier;
use crate::disk;
use crate::error::{Context, Result};

const FOLDER: &str = "node_modules";
/// Written by generators that a build runs (`prisma generate`), so they are copied.
const WRITTEN: [&str; 2] = [".prisma", "@prisma/client"];

/// The tree at `tree`, made of the sources at `root`.
pub(super) struct Installed<'a> {
    pub root: &'a Path,
    pub tree: &'a Path,
    pub copier: &'a Copier<'a>,
}

impl Installed<'_> {
    /// Copies the packages that are installed in `folder` of the sources, if there are any, for the builds that refuse
    /// links which lead out of the tree (Turbopack does).
    pub fn copy(&self, folder: &Path) -> Result<()> {
        let installed = self.root.join(folder).join(FOLDER);
        if !installed.is_dir() {
            return Ok(());
        }
        let here = self.tree.join(folder).join(FOLDER);
        // What tools keep for themselves is not part of what is installed.
        self.copier.folder(&installed, &here, |name| name != ".cache")
    }

    /// Makes links to the packages that are installed in `folder` of the sources, if there are any.
    pub fn link(&self, folder: &Path) -> Result<()> {
        let installed = self.root.join(folder).join(FOLDER);
        if !installed.is_dir() {
            return Ok(());
        }
        let here = self.tree.join(folder).join(FOLDER);
        self.packages(&installed, &here, "")?;
        // Last, because they lead to packages.
        self.programs(&installed.join(".bin"), &here.join(".bin"))
    }

    /// `scope` is empty or `@scope/`.
    fn packages(&self, installed: &Path, here: &Path, scope: &str) -> Result<()> {
        disk::make_dirs(here, 0o755)?;
        for entry in fs::read_dir(installed).context(|| format!("read {}", installed.display()))? {
            let entry = entry.context(|| format!("read {}", installed.display()))?;
            let (path, to) = (entry.path(), here.join(entry.file_name()));
            let is_folder = entry.file_type().context(|| format!("look at {}", path.display()))?.is_dir();
            let name = format!("{scope}{}", entry.file_name().display());
            if is_folder && WRITTEN.contains(&name.as_str()) {
                self.copier.folder(&path, &to, |_| true)?;
            } else if name.starts_with('.') {
                continue;
            } else if is_folder && scope.is_empty() && name.starts_with('@') {
                self.packages(&path, &to, &format!("{name}/"))?;
            } else {
                self.one(&path, &to)?;
            }
        }
        Ok(())
    }

    fn programs(&self, installed: &Path, here: &Path) -> Result<()> {
        if !installed.is_dir() {
            return Ok(());
        }
        disk::make_dirs(here, 0o755)?;
        for entry in fs::read_dir(installed).context(|| format!("read {}", installed.display()))? {
            let entry = entry.context(|| format!("read {}", installed.display()))?;
            let (path, to) = (entry.path(), here.join(entry.file_name()));
            // Most lead to `../package/…`, which is the right one from here too.
            let target = fs::read_link(&path).ok().filter(|target| target.is_relative());
            if target.is_some_and(|target| here.join(&target).exists() && symlink(target, &to).is_ok()) {
                continue;
            }
            self.one(&path, &to)?;
        }
        Ok(())
    }

    /// A link to a package or a copy of a file; nothing for a link that leads nowhere.
    fn one(&self, path: &Path, to: &Path) -> Result<()> {
        let real = match path.canonicalize() {
            Ok(real) => real,
            Err(e) if e.kind() == io::ErrorKind::NotFound => return Ok(()),
            Err(e) => return Err(e).context(|| format!("find {}", path.display())),
        };
        let found = real.metadata().context(|| format!("look at {}", real.display()))?;
        if let Some(ours) = self.in_tree(&real) {
            return symlink(self.from(to, &ours), to).context(|| format!("link {}", to.display()));
        }
        match found.is_dir() {
            true => symlink(&real, to).context(|| format!("link {}", to.display())),
            false => {
                // As small as programs of `.bin` are; a link could be written through.
                let executable = found.permissions().mode() & 0o100 != 0;
                self.copier.file(&real, to, executable).map(drop).context(|| format!("copy {}", real.display()))
            }
        }
    }

    /// Where the tree has what is part of the sources.
    fn in_tree(&self, real: &Path) -> Option<PathBuf> {
        let below = real.strip_prefix(self.root).ok()?;
        let installed = |part: Component<'_>| part.as_os_str().as_bytes() == FOLDER.as_bytes();
        (!below.components().any(installed) && self.tree.join(below).exists()).then(|| below.into())
    }

    /// From the link `to` in the tree to what lies at `below` in it: the tree may be moved.
    fn from(&self, to: &Path, below: &Path) -> PathBuf {
        let depth = to.strip_prefix(self.tree).map_or(1, |link| link.components().count());
        std::iter::repeat_n(Path::new(".."), depth - 1).chain([below]).collect()
    }
}
