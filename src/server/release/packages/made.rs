//! Made: what an installer added to a release, and whether another release may have the same.
//!
//! **Invariant**: what is answered is all that it did: it changed and removed nothing that was there before, no link of
//! it leads out of the release, no script of it can have read the source, and no part of the source was copied into it.

use std::collections::BTreeMap;
use std::io::Read;

use memchr::memmem::Finder;

use super::source::joined;
use super::tree::{Listing, Node, Tree};
use super::{Doubt, in_packages, scripts};

/// A text that mentions the release is written anew with each, so it is no large one; others are code.
const MAX_TEXT: u64 = 1 << 20;
/// More of them than any compiler or shell leaves.
const MAX_MENTIONS: usize = 20_000;
/// More of a `package.json` is not read, and no manager would.
const MAX_PACKAGE: u64 = 4 << 20;
const PIECE: usize = 256 << 10;

/// What is there now and was not, when all else is as it was.
pub(super) fn made(before: &Listing, mut after: Listing) -> Result<Listing, Doubt> {
    for (path, was) in before {
        let is_same = match (was, after.remove(path)) {
            (Node::Folder { .. }, Some(Node::Folder { .. })) => true,
            // Whoever hands a release over sets its modes, and what may be run stays so.
            (Node::File(was), Some(Node::File(is))) => {
                (was.size, was.written, was.inode) == (is.size, is.written, is.inode)
            }
            (was, is) => is.as_ref() == Some(was),
        };
        if !is_same {
            return Err(Doubt(format!("the installer changed {path}")));
        }
    }
    Ok(after)
}

/// Whether another release may have it. `own` are the names of packages that are part of the source, `scripts` is whether
/// any were run.
pub(super) fn check(tree: &Tree, made: &Listing, own: &dyn Fn(&str) -> bool, scripts: bool) -> Result<(), Doubt> {
    for (path, node) in made {
        let up = parent(path);
        if in_packages(up) && !made.contains_key(up) {
            return Err(Doubt(format!("{path} was put among packages that the archive brought")));
        }
        match node {
            Node::Link(target) => {
                joined(up, target).ok_or_else(|| Doubt(format!("{path} leads to {target}")))?;
            }
            Node::Other => return Err(Doubt(format!("{path} is neither a file nor a folder"))),
            Node::File(_) if is_package(path) => {
                let package = tree.read(path, MAX_PACKAGE)?;
                // Not JSON: not a package.
                let package: serde_json::Value = serde_json::from_slice(&package).unwrap_or_default();
                if package["name"].as_str().is_some_and(own) {
                    return Err(Doubt(format!("{path} is a copy of a part of the source")));
                }
                if let Some(script) = scripts::of_package(&package).filter(|_| scripts) {
                    return Err(Doubt(format!("the {script} script of {path} may have read the source")));
                }
            }
            Node::File(_) | Node::Folder { .. } => {}
        }
    }
    Ok(())
}

/// The files that mention one of these paths, all of them text.
pub(super) fn mentions(tree: &Tree, made: &Listing, paths: &[String]) -> Result<Vec<String>, Doubt> {
    let finders: Vec<Finder<'_>> = paths.iter().map(Finder::new).collect();
    let longest = paths.iter().map(String::len).max().unwrap_or_default();
    let mut buffer = vec![0; PIECE + longest];
    let mut found = Vec::new();
    let files = made.iter().filter_map(|(path, node)| match node {
        Node::File(stamp) if stamp.size > 0 => Some((path, stamp)),
        _ => None,
    });
    for (path, stamp) in files {
        if !mentioned(tree, path, &finders, longest, &mut buffer)? {
            continue;
        }
        if stamp.size > MAX_TEXT || tree.read(path, MAX_TEXT)?.contains(&0) {
            return Err(Doubt(format!("{path} mentions its release and is no text")));
        }
        found.push(path.clone());
        if found.len() > MAX_MENTIONS {
            return Err(Doubt(format!("more than {MAX_MENTIONS} files mention their release")));
        }
    }
    Ok(found)
}

/// The text with these paths replaced by one of as many, where no name goes on behind them.
pub(super) fn rewritten(text: &[u8], paths: &BTreeMap<String, String>) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(text.len() + 64), text);
    while !rest.is_empty() {
        let ends =
            |old: &&String| !rest.get(old.len()).is_some_and(|b| b.is_ascii_alphanumeric() || b"._-".contains(b));
        let old = paths.keys().find(|old| rest.starts_with(old.as_bytes()) && ends(old));
        match old {
            Some(old) => {
                out.extend_from_slice(paths[old].as_bytes());
                rest = &rest[old.len()..];
            }
            None => {
                out.push(rest[0]);
                rest = &rest[1..];
            }
        }
    }
    out
}

/// Piece by piece, each with the end of the last in front.
fn mentioned(
    tree: &Tree,
    path: &str,
    finders: &[Finder<'_>],
    longest: usize,
    buffer: &mut [u8],
) -> Result<bool, Doubt> {
    let (mut file, _) = tree.file(path)?;
    let mut kept = 0;
    loop {
        let read = file.read(&mut buffer[kept..]).map_err(|e| Doubt::of(&path, e))?;
        let filled = kept + read;
        if read == 0 {
            return Ok(false);
        }
        if finders.iter().any(|finder| finder.find(&buffer[..filled]).is_some()) {
            return Ok(true);
        }
        kept = longest.saturating_sub(1).min(filled);
        buffer.copy_within(filled - kept..filled, 0);
    }
}

/// That of a package itself, and not one that lies somewhere in it: `node_modules/a/package.json`, also `@b/a`.
fn is_package(path: &str) -> bool {
    let Some((folder, "package.json")) = path.rsplit_once('/') else { return false };
    let Some((up, _)) = folder.rsplit_once('/') else { return false };
    let is_modules = |path: &str| path == "node_modules" || path.ends_with("/node_modules");
    is_modules(up) || up.rsplit_once('/').is_some_and(|(above, scope)| scope.starts_with('@') && is_modules(above))
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(folder, _)| folder)
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn write(root: &Path, name: &str, text: impl AsRef<[u8]>) {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        fs::write(root.join(name), text).unwrap();
    }

    /// What is there to be taken over after `act` was the installer of a small source.
    fn after(act: impl FnOnce(&Path)) -> Result<(tempfile::TempDir, Tree, Listing), Doubt> {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), "src/index.js", "x");
        write(dir.path(), "old/node_modules/a/index.js", "x");
        symlink("../src", dir.path().join("old/link")).unwrap();
        let tree = Tree::open(dir.path()).unwrap();
        let before = tree.list(&[]).unwrap();
        act(dir.path());
        let made = made(&before, tree.list(&[]).unwrap())?;
        check(&tree, &made, &|name| name == "mine", true)?;
        Ok((dir, tree, made))
    }

    #[test]
    fn what_was_added_is_found_and_nothing_else_may_have_happened() {
        let (_dir, _, found) = after(|dir| {
            write(dir, "node_modules/a/index.js", "a");
            write(dir, "src/node_modules/b/package.json", "{}");
            write(dir, "bun.lock", "x");
            fs::create_dir(dir.join("node_modules/.bin")).unwrap();
            symlink("../a/index.js", dir.join("node_modules/.bin/a")).unwrap();
            symlink("../src", dir.join("node_modules/mine")).unwrap();
        })
        .unwrap();
        let found: Vec<&str> = found.keys().map(String::as_str).collect();
        let expected = [
            "bun.lock",
            "node_modules",
            "node_modules/.bin",
            "node_modules/.bin/a",
            "node_modules/a",
            "node_modules/a/index.js",
            "node_modules/mine",
            "src/node_modules",
            "src/node_modules/b",
            "src/node_modules/b/package.json",
        ];
        assert_eq!(found, expected);

        let check = |words: &str, act: fn(&Path)| match after(act) {
            Err(Doubt(why)) => assert!(why.contains(words), "{why} and not {words}"),
            Ok(_) => panic!("{words}"),
        };
        check("changed src/index.js", |dir| write(dir, "src/index.js", "longer"));
        check("changed src/index.js", |dir| {
            write(dir, "new", "x");
            fs::rename(dir.join("new"), dir.join("src/index.js")).unwrap();
        });
        check("changed src/index.js", |dir| fs::remove_file(dir.join("src/index.js")).unwrap());
        check("changed old/link", |dir| {
            fs::remove_file(dir.join("old/link")).unwrap();
            symlink("../other", dir.join("old/link")).unwrap();
        });
        check("changed old/node_modules", |dir| {
            fs::remove_dir_all(dir.join("old/node_modules")).unwrap();
            symlink("../src", dir.join("old/node_modules")).unwrap();
        });
        check("leads to /etc", |dir| symlink("/etc/passwd", dir.join("x")).unwrap());
        check("leads to ../v1", |dir| symlink("../v1/node_modules", dir.join("node_modules")).unwrap());
        check("neither", |dir| drop(std::os::unix::net::UnixListener::bind(dir.join("socket")).unwrap()));
        check("among packages", |dir| write(dir, "old/node_modules/b/index.js", ""));
        check("copy of a part", |dir| write(dir, "node_modules/alias/package.json", "{\"name\":\"mine\"}"));
        let prisma = "{\"scripts\":{\"postinstall\":\"node scripts/postinstall.js\"}}";
        check("postinstall script of node_modules/@prisma/client", |dir| {
            write(dir, "node_modules/@prisma/client/package.json", "{\"scripts\":{\"postinstall\":\"node p\"}}");
        });
        // That of a test of a package is not run.
        let nested = format!("{prisma}\n");
        assert!(after(|dir| write(dir, "node_modules/a/test/x/package.json", nested)).is_ok());
    }

    #[test]
    fn files_that_say_where_they_lie_are_found_and_say_another_place() {
        let old = "/data/apps/shop/releases/v1".to_owned();
        let far = [vec![b'x'; PIECE - 9], format!("{old}/x").into_bytes()].concat();
        let (_dir, tree, made) = after(|dir| {
            write(dir, "node_modules/.bin/a", format!("NODE_PATH={old}/node_modules:{old}"));
            write(dir, "node_modules/far", &far);
            write(dir, "node_modules/none", "/data/apps/shop/releases");
        })
        .unwrap();
        let found = mentions(&tree, &made, std::slice::from_ref(&old)).unwrap();
        assert_eq!(found, ["node_modules/.bin/a", "node_modules/far"]);

        let (_dir, tree, made) = after(|dir| write(dir, "node_modules/a.node", format!("\0{old}\0"))).unwrap();
        let why = mentions(&tree, &made, std::slice::from_ref(&old)).unwrap_err().0;
        assert!(why.contains("a.node mentions its release and is no text"), "{why}");

        let paths = BTreeMap::from([(old.clone(), "/data/apps/shop/releases/v22".to_owned())]);
        let check = |text: &str, expected: &str| {
            assert_eq!(String::from_utf8(rewritten(text.as_bytes(), &paths)).unwrap(), expected);
        };
        check("", "");
        check(&format!("a{old}/b:{old}"), "a/data/apps/shop/releases/v22/b:/data/apps/shop/releases/v22");
        check(&format!("{old}.1 {old}_2"), &format!("{old}.1 {old}_2"));
        check("/data/apps/shop/releases/v", "/data/apps/shop/releases/v");
    }
}
