//! `.gitignore`: what Tako keeps in `.tako/` belongs to one machine, but for two files that a team shares.
//!
//! **Invariant**: a file of the user's keeps its lines, its line ends, its permissions, and its place behind a link.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::cli::{detect, git};
use crate::disk::{read_if_there, write_atomic};
use crate::error::Result;

/// All of it but what is encrypted or says which preset was used.
const LINES: [&str; 3] = [".tako/*", "!.tako/secrets", "!.tako/build.lock.json"];
/// A .gitignore beyond this is left alone.
const MAX_GITIGNORE: u64 = 1 << 20;

/// What became of the `.gitignore` of an app.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Ignored {
    Added,
    Nothing,
    /// A rule of the user's, as `file:line:pattern` if it is known, leaves out more than ours would.
    AllOfIt(Option<String>),
    /// Why it could not be written.
    Failed(String),
}

/// Adds what is missing of [`LINES`], if this is a git repository.
pub(super) fn ignore(dir: &Path) -> Ignored {
    match add(dir) {
        Ok(added) => match left_out(dir) {
            Some(rule) => Ignored::AllOfIt(rule),
            None if added => Ignored::Added,
            None => Ignored::Nothing,
        },
        Err(e) => Ignored::Failed(e.to_string()),
    }
}

fn add(dir: &Path) -> Result<bool> {
    let path = dir.join(".gitignore");
    let here = read_if_there(&path, MAX_GITIGNORE)?;
    if here.is_none() && !detect::source_root(dir).join(".git").exists() {
        return Ok(false);
    }
    let Some(text) = here.map_or(Some(String::new()), |bytes| String::from_utf8(bytes).ok()) else { return Ok(false) };
    match with_ours(&text) {
        Some(text) => {
            // Through a link, not over it.
            let path = fs::canonicalize(&path).unwrap_or(path);
            let mode = fs::metadata(&path).map_or(0o644, |m| m.permissions().mode() & 0o777);
            write_atomic(&path, text.as_bytes(), mode).map(|()| true)
        }
        None => Ok(false),
    }
}

/// `None` when there is nothing to add: it is there, or the user's own lines speak about the folder already.
fn with_ours(text: &str) -> Option<String> {
    let has = |line: &str| text.lines().any(|l| l.trim().trim_start_matches('/') == line);
    // Whoever lists folders of ours by name, or all of it, has decided.
    let of_ours = |line: &str| line.trim().trim_start_matches(['!', '/', '*']).split('/').next() == Some(".tako");
    let theirs = text.lines().any(|line| of_ours(line) && !LINES.contains(&line.trim()));
    let missing: Vec<&str> = LINES.into_iter().filter(|line| !has(line)).collect();
    if theirs || missing.is_empty() {
        return None;
    }
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    let mut text = text.to_string();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push_str(end);
    }
    for line in missing {
        text.push_str(line);
        text.push_str(end);
    }
    Some(text)
}

/// Which rule keeps the secrets out of git, of this `.gitignore` or of any above; git knows best, if it is there.
fn left_out(dir: &Path) -> Option<Option<String>> {
    match git::ignored_by(dir, Path::new(".tako/secrets")) {
        Ok(rule) => rule.map(Some),
        Err(_) => {
            let text = fs::read_to_string(dir.join(".gitignore")).ok()?;
            let all =
                |line: &str| matches!(line.trim().trim_start_matches('/').trim_end_matches('/'), ".tako" | ".tako/**");
            text.lines().any(all).then_some(None)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::git::tests::git;

    #[test]
    fn adds_what_is_missing_and_keeps_what_is_there() {
        let ours = ".tako/*\n!.tako/secrets\n!.tako/build.lock.json\n";
        let check = |before: &str, after: Option<&str>| assert_eq!(with_ours(before).as_deref(), after, "{before:?}");
        check("", Some(ours));
        check("node_modules", Some(&format!("node_modules\n{ours}")));
        check("a\r\nb", Some(&format!("a\r\nb\r\n{}", ours.replace('\n', "\r\n"))));
        check(ours, None);
        check("/.tako/*\n!/.tako/secrets\n!.tako/build.lock.json\n", None);
        check(".tako/*\n!.tako/secrets\n", Some(ours));
        // The user's own words.
        check(".tako/\n", None);
        check(".tako/artifacts/\n.tako/build/\n", None);
        check("**/.tako\n", None);
        check(".takoyaki\n", Some(&format!(".takoyaki\n{ours}")));
    }

    #[test]
    fn git_says_whether_the_secrets_are_left_out() {
        let dir = tempfile::tempdir().unwrap();
        let app = dir.path().join("apps/web");
        fs::create_dir_all(&app).unwrap();
        assert_eq!(ignore(&app), Ignored::Nothing);
        assert!(!app.join(".gitignore").exists());
        git(dir.path(), &["init", "--quiet"]);
        assert_eq!(ignore(&app), Ignored::Added);
        assert_eq!(ignore(&app), Ignored::Nothing);
        fs::write(dir.path().join(".gitignore"), "a\n.tako/\n").unwrap();
        let Ignored::AllOfIt(Some(rule)) = ignore(&app) else { panic!("{:?}", ignore(&app)) };
        assert_eq!(rule, ".gitignore:2:.tako/");
    }

    #[test]
    fn a_link_stays_one_and_permissions_stay_as_they_are() {
        let dir = tempfile::tempdir().unwrap();
        let shared = dir.path().join("shared");
        fs::write(&shared, "a\n").unwrap();
        fs::set_permissions(&shared, fs::Permissions::from_mode(0o600)).unwrap();
        std::os::unix::fs::symlink("shared", dir.path().join(".gitignore")).unwrap();
        assert_eq!(ignore(dir.path()), Ignored::Added);
        assert!(dir.path().join(".gitignore").is_symlink());
        assert_eq!(shared.metadata().unwrap().permissions().mode() & 0o777, 0o600);
        assert!(fs::read_to_string(&shared).unwrap().starts_with("a\n.tako/*\n"));
        fs::write(&shared, vec![b'#'; (1 << 20) + 1]).unwrap();
        assert!(matches!(ignore(dir.path()), Ignored::Failed(why) if why.contains("larger")));
    }
}
