//! Modules: a fingerprint of installed packages that a build uses as they lie in the user's tree. They are no part of the
//! source, and still what a bundler puts into its output.
//!
//! Reading all of them takes longer than most builds. What counts is what the package managers keep about an installation,
//! the names and the `package.json` of the packages on top, and all that lies in a folder outside of the source that one of
//! them is a link to (`npm link`), by size and time. **A file that was changed by hand inside of an installed package is not
//! seen.**

use std::fs::{self, File, Metadata};
use std::io::{self, Read};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::bundle::frame;
use crate::crypto::Sha256;
use crate::error::{Context, Error, Kind, Result};

/// What npm, pnpm (two), Yarn 1, Yarn 2 and later, and Deno write about what they installed.
const MARKERS: [&str; 6] = [
    ".package-lock.json",
    ".modules.yaml",
    ".pnpm/lock.yaml",
    ".yarn-integrity",
    ".yarn-state.yml",
    ".deno/.setup-cache.bin",
];
/// Files and folders below a linked package; one that has more is told to be built without the cache.
const MAX_LINKED: usize = 50_000;
/// A `package.json` is a few KB; the lock file of a large workspace tens of MB.
const MAX_READ: u64 = 256 << 20;

/// Over the `node_modules` folders at `dirs`, each relative to `root`.
///
/// # Errors
/// Io naming what could not be read; Refused for a link to something vast.
pub(crate) fn fingerprint(root: &Path, dirs: &[PathBuf]) -> Result<String> {
    let mut hash = Sha256::new();
    for dir in dirs {
        frame(&mut hash, dir.as_os_str().as_bytes());
        let full = root.join(dir);
        for marker in MARKERS {
            add_file(&mut hash, &full.join(marker)).context(|| format!("read {}", full.join(marker).display()))?;
        }
        packages(&mut hash, root, &full)?;
    }
    Ok(hash.finish())
}

/// The packages of a `node_modules` or of a scope in it.
fn packages(hash: &mut Sha256, root: &Path, dir: &Path) -> Result<()> {
    for path in sorted(dir)? {
        let name = path.file_name().unwrap_or_default().as_bytes();
        // Programs of packages and caches of tools; what is installed is told by the markers.
        if name.starts_with(b".") {
            continue;
        }
        frame(hash, name);
        let doing = || format!("read {}", path.display());
        let found = path.symlink_metadata().context(doing)?;
        if found.is_symlink() {
            frame(hash, fs::read_link(&path).context(doing)?.as_os_str().as_bytes());
            // A link that leads nowhere is one, too.
            if let Some(target) = path.canonicalize().ok().filter(|target| !target.starts_with(root)) {
                linked(hash, &target)?;
            }
        } else if name.starts_with(b"@") && found.is_dir() {
            packages(hash, root, &path)?;
        } else {
            add_file(hash, &path.join("package.json")).context(doing)?;
        }
        hash.update(b"/");
    }
    Ok(())
}

/// All that lies in a package elsewhere, but for what is installed in it.
fn linked(hash: &mut Sha256, package: &Path) -> Result<()> {
    let (mut open, mut count) = (vec![package.to_path_buf()], 0);
    while let Some(dir) = open.pop() {
        for path in sorted(&dir)? {
            count += 1;
            if count > MAX_LINKED {
                let message =
                    format!("{} is linked into node_modules and has over {MAX_LINKED} files", package.display());
                return Err(Error::new(Kind::Refused, message).hint("install the package instead of linking it"));
            }
            let skipped = path.file_name().is_some_and(|name| name == "node_modules" || name == ".git");
            let found: Metadata = path.symlink_metadata().context(|| format!("look at {}", path.display()))?;
            if skipped {
                continue;
            }
            frame(hash, path.as_os_str().as_bytes());
            if found.is_dir() {
                open.push(path);
            } else {
                [found.size().to_le_bytes(), found.mtime().to_le_bytes(), found.mtime_nsec().to_le_bytes()]
                    .iter()
                    .for_each(|number| hash.update(number));
            }
        }
    }
    Ok(())
}

fn sorted(dir: &Path) -> Result<Vec<PathBuf>> {
    let doing = || format!("read {}", dir.display());
    let entries = fs::read_dir(dir).context(doing)?;
    let mut paths: Vec<PathBuf> =
        entries.map(|entry| entry.map(|e| e.path())).collect::<io::Result<_>>().context(doing)?;
    paths.sort_by(|a, b| a.as_os_str().as_bytes().cmp(b.as_os_str().as_bytes()));
    Ok(paths)
}

/// The content, or that there is none.
fn add_file(hash: &mut Sha256, path: &Path) -> io::Result<()> {
    let mut content = Vec::new();
    let found = match File::open(path) {
        Ok(file) if file.metadata()?.is_file() => file.take(MAX_READ).read_to_end(&mut content).map(|_| true)?,
        Ok(_) => false,
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => false,
        Err(e) => return Err(e),
    };
    hash.update(if found { b"+" } else { b"-" });
    frame(hash, &content);
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;
    use crate::cli::git::tests::write;

    #[test]
    fn feels_what_is_installed_and_what_is_linked() {
        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().canonicalize().unwrap();
        let (root, elsewhere) = (base.join("app"), base.join("lib"));
        let modules = root.join("node_modules");
        write(&modules.join("a/package.json"), "{\"version\":\"1\"}");
        write(&modules.join("a/index.js"), "1");
        write(&modules.join("@s/b/package.json"), "{\"version\":\"1\"}");
        write(&modules.join(".bin/tool"), "1");
        write(&elsewhere.join("src/index.js"), "1");
        write(&root.join("packages/ui/index.js"), "1");
        symlink("../packages/ui", modules.join("ui")).unwrap();
        let now = || fingerprint(&root, &["node_modules".into()]).unwrap();
        let mut seen = vec![now()];
        let same = |what: &str, seen: &[String]| assert_eq!(&now(), seen.last().unwrap(), "{what}");
        same("nothing changed", &seen);
        write(&modules.join(".bin/tool"), "2");
        write(&modules.join(".cache/x"), "2");
        same("what is hidden", &seen);
        // It is in the source hash.
        write(&root.join("packages/ui/index.js"), "2");
        same("a package of the workspace", &seen);

        let last = std::cell::RefCell::new(String::new());
        let mut differs = |what: &str, change: &dyn Fn()| {
            change();
            let now = now();
            assert!(!seen.contains(&now), "{what}");
            last.replace(now.clone());
            seen.push(now);
        };
        differs("another version", &|| write(&modules.join("a/package.json"), "{\"version\":\"2\"}"));
        differs("another version in a scope", &|| write(&modules.join("@s/b/package.json"), "{\"version\":\"2\"}"));
        differs("one more", &|| write(&modules.join("c/package.json"), "{}"));
        differs("one less", &|| fs::remove_dir_all(modules.join("@s")).unwrap());
        for (n, marker) in MARKERS.into_iter().enumerate() {
            differs(marker, &|| write(&modules.join(marker), &n.to_string()));
        }
        differs("a link", &|| symlink(&elsewhere, modules.join("lib")).unwrap());
        differs("a change behind a link", &|| write(&elsewhere.join("src/index.js"), "12"));
        differs("a new file behind a link", &|| write(&elsewhere.join("src/more.js"), "1"));
        write(&elsewhere.join("node_modules/x/index.js"), "1");
        assert_eq!(
            fingerprint(&root, &["node_modules".into()]).unwrap(),
            *last.borrow(),
            "what the linked one has installed"
        );
        differs("a link to nowhere", &|| fs::rename(&elsewhere, base.join("moved")).unwrap());
    }
}
