//! Assets: the folders of `[build] assets` merged into `public/`, which the server answers from without asking the app.
//!
//! Everything there is public, so it may come from the build alone: a link is followed and becomes what it leads to,
//! if that lies in the build tree or in an installed package. One that leads anywhere else is an error and never a
//! file of this machine on the web.
//!
//! **Invariant**: `public/` is replaced by the whole merge or stays as the build left it.

use std::fs::{self, Metadata};
use std::path::{Component, Path, PathBuf};

use super::pick::never_ships;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};

/// Where the merge ends up; what the build put there comes first, unless it is named among the assets.
pub(super) const PUBLIC: &str = "public";
/// A tree of folders deeper than this is a loop.
const MAX_DEPTH: usize = 64;

/// Merges `assets`, folders of `app`, into its `public/` in order: a later one wins. `app` lies in the build tree at
/// `tree`, which was made of the sources at `root`.
///
/// # Errors
/// Build naming the folder or the link that is wrong.
pub(super) fn merge(tree: &Path, root: &Path, app: &Path, assets: &[String]) -> Result<()> {
    if assets.is_empty() {
        return Ok(());
    }
    let merge = Merge { tree: real(tree)?, root: real(root)? };
    let (public, merged) = (app.join(PUBLIC), app.join(".public.merging"));
    disk::remove_tree(&merged)?;
    disk::make_dirs(&merged, 0o755)?;
    let named = assets.iter().any(|asset| app.join(asset).components().eq(public.components()));
    if !named && let Ok(found) = public.symlink_metadata() {
        merge.folder(&public, PUBLIC, &found, &merged)?;
    }
    for asset in assets {
        let folder = app.join(asset);
        let Ok(found) = folder.symlink_metadata() else {
            return Err(wrong(format!("the assets folder `{asset}` does not exist after the build"))
                .hint("fix `assets` in [build] of tako.toml, or the build that makes it"));
        };
        merge.folder(&folder, asset, &found, &merged)?;
    }
    disk::remove_tree(&public)?;
    fs::rename(&merged, &public).context(|| format!("replace {}", public.display()))
}

struct Merge {
    tree: PathBuf,
    /// The packages of a build tree are links into this one.
    root: PathBuf,
}

impl Merge {
    /// A folder that was named: `name` is how.
    fn folder(&self, folder: &Path, name: &str, found: &Metadata, to: &Path) -> Result<()> {
        let full = match found.is_symlink() {
            true => self.followed(folder, name)?,
            false => real(folder)?,
        };
        if !full.is_dir() {
            return Err(wrong(format!("`{name}` is not a folder, so it cannot be merged into `{PUBLIC}/`"))
                .hint("`assets` in [build] of tako.toml takes folders; all in them is served"));
        }
        self.lay_over(&full, name, to, &mut vec![full.clone()])
    }

    /// Puts all that is in `from` into `to`, in place of what is there. `from` has no link in its path; `above` are
    /// the folders that we are in, `name` is for people.
    fn lay_over(&self, from: &Path, name: &str, to: &Path, above: &mut Vec<PathBuf>) -> Result<()> {
        if above.len() > MAX_DEPTH {
            return Err(wrong(format!("`{name}` lies too deep")));
        }
        for entry in fs::read_dir(from).context(|| format!("read {}", from.display()))? {
            let entry = entry.context(|| format!("read {}", from.display()))?;
            let (target, file_name) = (to.join(entry.file_name()), entry.file_name());
            let name = format!("{name}/{}", file_name.display());
            let found = entry.metadata().context(|| format!("look at {name}"))?;
            let (source, found) = match found.is_symlink() {
                true => {
                    let source = self.followed(&entry.path(), &name)?;
                    let found = source.metadata().context(|| format!("look at {name}"))?;
                    (source, found)
                }
                false => (entry.path(), found),
            };
            // Two folders become one; of everything else the later one stays.
            if let Ok(there) = target.symlink_metadata()
                && !(there.is_dir() && found.is_dir())
            {
                disk::remove_tree(&target)?;
            }
            if found.is_dir() {
                if above.contains(&source) {
                    return Err(wrong(format!("the link `{name}` leads back to a folder it lies in")));
                }
                disk::make_dirs(&target, 0o755)?;
                above.push(source.clone());
                self.lay_over(&source, &name, &target, above)?;
                above.pop();
            } else if found.is_file() {
                // A copy and never a hard link: what a link leads to may be the user's own.
                fs::copy(&source, &target).context(|| format!("copy {name}"))?;
            }
        }
        Ok(())
    }

    /// What a link leads to, in the build tree or in a package.
    fn followed(&self, link: &Path, name: &str) -> Result<PathBuf> {
        let leads = fs::read_link(link).map(|to| to.display().to_string()).unwrap_or_default();
        let Ok(full) = link.canonicalize() else {
            return Err(wrong(format!("the link `{name}` leads to `{leads}`, which does not exist after the build"))
                .hint("assets are files that everybody may see: put the file itself there, or remove the link"));
        };
        let in_package = |path: &Path| path.components().any(|c| c == Component::Normal("node_modules".as_ref()));
        let inside = match (full.strip_prefix(&self.tree), full.strip_prefix(&self.root)) {
            (Ok(below), _) => Some(below),
            (_, Ok(below)) if in_package(below) => Some(below),
            _ => None,
        };
        match inside {
            Some(below) if !below.ancestors().any(never_ships) => Ok(full),
            _ => Err(wrong(format!("the link `{name}` leads to `{leads}`, which is not part of the build"))
                .hint("assets are files that everybody may see: put the file itself there, or remove the link")),
        }
    }
}

fn real(path: &Path) -> Result<PathBuf> {
    path.canonicalize().context(|| format!("find {}", path.display()))
}

fn wrong(message: String) -> Error {
    Error::new(Kind::Build, message)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    /// A source root with a build tree in it: `app` is `web` in that tree.
    struct World(tempfile::TempDir);

    impl World {
        /// `path -> target` makes a link, `path=text` a file; paths are those of the app unless they begin with `/`,
        /// which is the source root.
        fn with(things: &[&str]) -> World {
            let world = World(tempfile::tempdir().unwrap());
            fs::create_dir_all(world.app()).unwrap();
            for thing in things {
                let (path, content) = thing.split_once(" -> ").or_else(|| thing.split_once('=')).unwrap();
                let path = match path.strip_prefix('/') {
                    Some(below) => world.0.path().join(below),
                    None => world.app().join(path),
                };
                fs::create_dir_all(path.parent().unwrap()).unwrap();
                match thing.contains(" -> ") {
                    true => symlink(content.replace("ROOT", world.0.path().to_str().unwrap()), path).unwrap(),
                    false => fs::write(path, content).unwrap(),
                }
            }
            world
        }

        fn app(&self) -> PathBuf {
            self.tree().join("web")
        }

        fn tree(&self) -> PathBuf {
            self.0.path().join(".tako/build")
        }

        fn merge(&self, assets: &[&str]) -> Result<()> {
            let assets: Vec<String> = assets.iter().map(|a| (*a).into()).collect();
            merge(&self.tree(), self.0.path(), &self.app(), &assets)
        }

        /// What is in `public/`: `path=text`, sorted.
        fn public(&self) -> Vec<String> {
            let (public, mut found) = (self.app().join(PUBLIC), Vec::new());
            let mut open = vec![public.clone()];
            while let Some(dir) = open.pop() {
                for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
                    assert!(!path.is_symlink(), "{}", path.display());
                    match path.is_dir() {
                        true => open.push(path),
                        false => {
                            let below = path.strip_prefix(&public).unwrap().display();
                            found.push(format!("{below}={}", fs::read_to_string(&path).unwrap()));
                        }
                    }
                }
            }
            found.sort();
            found
        }
    }

    #[test]
    fn a_later_folder_wins_whatever_it_has_there() {
        let check = |things: &[&str], assets: &[&str], expected: &[&str]| {
            let world = World::with(things);
            world.merge(assets).unwrap_or_else(|e| panic!("{things:?}: {e}"));
            assert_eq!(world.public(), expected, "{things:?}");
        };
        check(&["a/x=1"], &["a"], &["x=1"]);
        check(&["a/x=1", "b/x=2", "b/y=2"], &["a", "b"], &["x=2", "y=2"]);
        check(&["a/x=1", "b/x=2"], &["b", "a"], &["x=1"]);
        check(&["a/d/x=1", "b/d/y=2"], &["a", "b"], &["d/x=1", "d/y=2"]);
        // A file in place of a folder, and the other way round.
        check(&["a/d/x=1", "b/d=2"], &["a", "b"], &["d=2"]);
        check(&["a/d/x=1", "b/d=2"], &["b", "a"], &["d/x=1"]);
        // What lies in public/ is the first of them, or where it is named.
        check(&["public/x=0", "public/y=0", "a/x=1"], &["a"], &["x=1", "y=0"]);
        check(&["public/x=0", "public/y=0", "a/x=1"], &["a", "public/."], &["x=0", "y=0"]);
        check(&["public/x=0", "public/build/x=1"], &["public/build"], &["build/x=1", "x=1"]);
        check(&["a/.well-known/x=1"], &["./a/"], &[".well-known/x=1"]);
    }

    #[test]
    fn a_link_becomes_what_it_leads_to() {
        let world = World::with(&[
            "a/x -> ../shared/x",
            "shared/x=shared",
            "a/dir -> ../shared",
            "a/package.js -> ../node_modules/package/index.js",
            "node_modules -> ROOT/web/node_modules",
            "/web/node_modules/package/index.js=package",
            "static -> a",
        ]);
        world.merge(&["static"]).unwrap();
        assert_eq!(world.public(), ["dir/x=shared", "package.js=package", "x=shared"]);
    }

    #[test]
    fn nothing_of_this_machine_becomes_public() {
        let check = |things: &[&str], assets: &[&str], said: &[&str]| {
            let world = World::with(&[things, &["public/kept=as it was", "/.env=secret"]].concat());
            let e = world.merge(assets).unwrap_err();
            assert_eq!(e.kind(), Kind::Build);
            assert!(said.iter().all(|s| e.to_string().contains(s)), "{things:?}: {e}");
            assert_eq!(world.public(), ["kept=as it was"], "{things:?}");
        };
        check(&["a/x -> /etc/hostname"], &["a"], &["`a/x`", "`/etc/hostname`", "not part of the build"]);
        check(&["a/x -> ROOT/.env"], &["a"], &["not part of the build"]);
        check(&["a/x -> ../.env.local", ".env.local=secret"], &["a"], &["not part of the build"]);
        check(&["a/x -> ../.env.local"], &["a"], &["does not exist after the build"]);
        check(&["a -> /etc"], &["a"], &["`a`", "`/etc`"]);
        check(&["a/up -> ..", "a/x=1"], &["a"], &["leads back", "`a/up/a"]);
        check(&["a/b/loop -> ../../a"], &["a"], &["`a/b/loop` leads back"]);
        check(&["a=file"], &["a"], &["`a` is not a folder"]);
        check(&["b/x=1"], &["b", "a"], &["`a` does not exist after the build"]);
    }
}
