//! The files of a folder on a machine without git, by the same rules: every `.gitignore` on the way, the excludes of
//! the repository, and those that a user has everywhere. Of a user's own settings only the usual place is known
//! (`~/.config/git/ignore`); what is ignored and yet committed is left out, because only git knows.

use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::ignore::Rules;
use super::is_dropped;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};

/// A tree of folders deeper than this is a loop.
const MAX_DEPTH: usize = 64;
/// A longer file of rules is not one.
const MAX_RULES: u64 = 1 << 20;

/// Rules and the folder that they are about, relative to the root.
type Scope = (PathBuf, Rules);

/// The root of the repository that `dir` is in, as git would find it.
pub(super) fn root(dir: &Path) -> Option<&Path> {
    dir.ancestors().find(|folder| folder.join(".git").exists())
}

/// Every file below `root` that no rule ignores, links unfollowed, without looking into what is dropped anyway. `user`
/// is the file of rules that a user has for every repository.
pub(super) fn files(root: &Path, user: Option<&Path>) -> Result<Vec<PathBuf>> {
    let mut walk = Walk { root, user, files: Vec::new() };
    walk.repository(Path::new(""), 0)?;
    Ok(walk.files)
}

/// Where that file is.
pub(super) fn rules_of_user(config: Option<&Path>, home: Option<&Path>) -> Option<PathBuf> {
    let config = config.map(Path::to_path_buf).or_else(|| home.map(|home| home.join(".config")));
    config.map(|config| config.join("git/ignore"))
}

struct Walk<'a> {
    root: &'a Path,
    user: Option<&'a Path>,
    files: Vec<PathBuf>,
}

impl Walk<'_> {
    /// The rules around a repository that lies in another are not about what is in it.
    fn repository(&mut self, below: &Path, depth: usize) -> Result<()> {
        let own = self.root.join(below).join(".git/info/exclude");
        let files = self.user.map(Path::to_path_buf).into_iter().chain([own]);
        let all: Vec<Rules> = files.map(|file| rules(&file)).filter_map(Result::transpose).collect::<Result<_>>()?;
        let mut scopes = all.into_iter().map(|rules| (below.to_path_buf(), rules)).collect();
        self.folder(below, &mut scopes, depth)
    }

    /// The last of `scopes` that says something decides.
    fn folder(&mut self, below: &Path, scopes: &mut Vec<Scope>, depth: usize) -> Result<()> {
        let dir = self.root.join(below);
        if depth > MAX_DEPTH {
            return Err(Error::new(Kind::Config, format!("{} lies too deep", dir.display())));
        }
        let count = scopes.len();
        scopes.extend(rules(&dir.join(".gitignore"))?.map(|rules| (below.to_path_buf(), rules)));
        for entry in fs::read_dir(&dir).context(|| format!("read {}", dir.display()))? {
            let entry = entry.context(|| format!("read {}", dir.display()))?;
            let path = below.join(entry.file_name());
            let is_folder = entry.file_type().context(|| format!("look at {}", entry.path().display()))?.is_dir();
            let dropped = if is_folder { is_dropped(&path.join("x")) } else { is_dropped(&path) };
            if dropped || is_ignored(scopes, &path, is_folder) {
                continue;
            }
            match is_folder {
                true if entry.path().join(".git").exists() => self.repository(&path, depth + 1)?,
                true => self.folder(&path, scopes, depth + 1)?,
                false => self.files.push(path),
            }
        }
        scopes.truncate(count);
        Ok(())
    }
}

fn is_ignored(scopes: &[Scope], path: &Path, is_folder: bool) -> bool {
    let said = scopes.iter().rev().find_map(|(folder, rules)| {
        let below = path.strip_prefix(folder).ok()?;
        rules.say(below.as_os_str().as_bytes(), is_folder)
    });
    said.unwrap_or(false)
}

/// `None` where there is no such file. A link is none, as for git.
fn rules(path: &Path) -> Result<Option<Rules>> {
    match path.symlink_metadata() {
        Ok(found) if found.is_file() => Ok(disk::read_if_there(path, MAX_RULES)?.map(|text| Rules::parse(&text))),
        Ok(_) => Ok(None),
        Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => Ok(None),
        Err(e) => Err(e).context(|| format!("read {}", path.display())),
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::os::unix::ffi::OsStringExt;

    use super::*;
    use crate::cli::git;
    use crate::cli::git::tests::write;

    fn found(root: &Path, user: Option<&Path>) -> Vec<PathBuf> {
        let mut files = files(root, user).unwrap();
        files.sort();
        files
    }

    #[test]
    fn finds_the_files_and_follows_no_link() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("a/b"), "");
        write(&dir.path().join("node_modules/x/y"), "");
        write(&dir.path().join(".env"), "");
        std::os::unix::fs::symlink("..", dir.path().join("loop")).unwrap();
        assert_eq!(found(dir.path(), None), [Path::new("a/b"), Path::new("loop")]);
    }

    #[test]
    fn a_repository_has_its_excludes_and_one_inside_it_has_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path();
        for name in ["a", "b", "c", "inner/a", "inner/b", "inner/c", "inner/.git/HEAD", "ignored/.git/HEAD"] {
            write(&root.join(name), "");
        }
        write(&root.join(".git/info/exclude"), "a\n/ignored\n");
        write(&root.join("inner/.git/info/exclude"), "b\n");
        write(&root.join("ignored/x"), "");
        let home = tempfile::tempdir().unwrap();
        write(&home.path().join(".config/git/ignore"), "c\n");
        let user = rules_of_user(None, Some(home.path())).unwrap();
        assert_eq!(found(root, Some(&user)), [Path::new("b"), Path::new("inner/a")]);
        assert_eq!(super::root(&root.join("inner/deep")), Some(root.join("inner").as_path()));
    }

    /// Numbers that are the same in every run.
    struct Dice(u64);

    impl Dice {
        fn throw(&mut self, sides: usize) -> usize {
            self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (self.0 >> 33) as usize % sides
        }

        fn one<'a>(&mut self, of: &[&'a str]) -> &'a str {
            of[self.throw(of.len())]
        }
    }

    const NAMES: [&str; 14] =
        ["a", "b", "ab", "abc", "c.o", "a.o", ".x", "a b", "a ", "[a]", "b\\", "\u{e9}", "-", "#a"];
    const PIECES: [&str; 32] = [
        "a",
        "b",
        "c",
        "*",
        "?",
        "**",
        "/",
        "/",
        "**/",
        "/**",
        "/**/",
        "[a-b]",
        "[!a]",
        "[^b.]",
        "[]a]",
        "[[:alpha:]]",
        "[[:nope:]]",
        "[a",
        "\\",
        "\\*",
        "\\ ",
        " ",
        ".o",
        "*.o",
        "ab",
        ".x",
        "\u{e9}",
        "[a-",
        "\\[a\\]",
        "[/]",
        "#",
        "[\\]-a]",
    ];

    fn rules_by(dice: &mut Dice) -> String {
        let mut text = String::new();
        for _ in 0..=dice.throw(5) {
            text.push_str(["", "", "", "!", "/", "#"][dice.throw(6)]);
            (0..=dice.throw(4)).for_each(|_| text.push_str(dice.one(&PIECES)));
            text.push_str(["", "", "/", " "][dice.throw(4)]);
            text.push_str(["\n", "\n", "\n", "\r\n"][dice.throw(4)]);
        }
        text
    }

    fn fill(dice: &mut Dice, dir: &Path, depth: usize) {
        if dice.throw(3) == 0 || depth == 0 {
            write(&dir.join(".gitignore"), &rules_by(dice));
        }
        for name in NAMES {
            match dice.throw(5) {
                0 | 1 => write(&dir.join(name), ""),
                2 if depth < 3 => {
                    fs::create_dir(dir.join(name)).unwrap();
                    fill(dice, &dir.join(name), depth + 1);
                }
                _ => {}
            }
        }
    }

    #[test]
    fn agrees_with_git_on_random_trees_and_rules() {
        /// Enough to meet every pair of pieces.
        const TREES: usize = 60;
        let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let root = dir.path();
        let mut dice = Dice(7);
        for tree in 0..TREES {
            let tree = root.join(tree.to_string());
            fs::create_dir(&tree).unwrap();
            fill(&mut dice, &tree, 0);
            // A name that is no text.
            fs::write(tree.join(std::ffi::OsString::from_vec(b"a\xff".to_vec())), "").unwrap();
        }
        let mut expected = git::files_outside(root, scratch.path()).unwrap().paths;
        expected.sort();
        let (found, known): (BTreeSet<_>, BTreeSet<_>) =
            (found(root, None).into_iter().collect(), expected.into_iter().collect());
        let rules = |path: &PathBuf| {
            let files = path.ancestors().skip(1).map(|folder| root.join(folder).join(".gitignore"));
            files.filter_map(|file| fs::read_to_string(file).ok()).collect::<Vec<_>>()
        };
        let differ: Vec<_> = found.symmetric_difference(&known).take(5).map(|path| (path, rules(path))).collect();
        assert!(differ.is_empty(), "{differ:#?}");
        let everything = files_at(root).len();
        assert!(found.len() * 10 > everything && found.len() * 10 < everything * 9, "{} of {everything}", found.len());
    }

    fn files_at(dir: &Path) -> Vec<PathBuf> {
        let entries = fs::read_dir(dir).unwrap().map(|e| e.unwrap().path());
        entries.flat_map(|path| if path.is_dir() { files_at(&path) } else { vec![path] }).collect()
    }
}
