use std::fs;

use super::*;

/// Runs git as a user would, with a name to commit under and no configuration of this machine.
pub fn git(dir: &Path, args: &[&str]) {
    let mut command = Command::new("git");
    command.args(["-c", "user.name=Ana", "-c", "user.email=ana@example.com", "-c", "init.defaultBranch=main"]);
    command.args(args).current_dir(dir).env("GIT_CONFIG_NOSYSTEM", "1").env("GIT_CONFIG_GLOBAL", "/dev/null");
    for variable in LOCAL_VARIABLES {
        command.env_remove(variable);
    }
    let out = command.output().unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

pub fn write(path: &Path, text: &str) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, text).unwrap();
}

fn names(mut paths: Vec<PathBuf>) -> Vec<String> {
    paths.sort();
    paths.into_iter().map(|p| p.display().to_string()).collect()
}

#[test]
fn tells_root_commit_and_changes() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path().canonicalize().unwrap();
    assert_eq!(place(&repo).unwrap(), Place::InNone);
    git(&repo, &["init", "--quiet"]);
    write(&repo.join("apps/web/a.js"), "1");
    write(&repo.join("gone"), "1");
    assert_eq!(place(&repo.join("apps/web")).unwrap(), Place::In(repo.clone()));
    assert_eq!(look(&repo).unwrap().commit, None);
    git(&repo, &["add", "."]);
    git(&repo, &["commit", "--quiet", "-m", "Fix \u{1b}[31mcart rounding\n\nBody."]);
    let seen = look(&repo).unwrap();
    let commit = seen.commit.unwrap();
    assert_eq!(commit.subject, "Fix cart rounding");
    assert!(commit.id.len() >= 7 && commit.id.bytes().all(|b| b.is_ascii_hexdigit()), "{}", commit.id);
    assert!(seen.changes.is_empty() && seen.files.unwatched.is_empty());
    git(&repo, &["mv", "gone", "moved\nand renamed"]);
    write(&repo.join("apps/web/a.js"), "2");
    write(&repo.join("new file"), "");
    let seen = look(&repo).unwrap();
    assert_eq!(names(seen.changes), ["apps/web/a.js", "gone", "moved\nand renamed", "new file"]);
    assert_eq!(seen.commit.unwrap().id, commit.id);
}

#[test]
fn a_conflict_is_a_change() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path();
    let save = |text: &str| {
        write(&repo.join("a file"), text);
        git(repo, &["add", "."]);
        git(repo, &["commit", "--quiet", "-m", text]);
    };
    git(repo, &["init", "--quiet"]);
    save("one");
    git(repo, &["checkout", "--quiet", "-b", "other"]);
    save("two");
    git(repo, &["checkout", "--quiet", "main"]);
    save("three");
    let merge = Command::new("git").args(["merge", "--quiet", "other"]).current_dir(repo).output().unwrap();
    assert!(!merge.status.success());
    assert_eq!(names(look(repo).unwrap().changes), ["a file"]);
}

#[test]
fn runs_nothing_that_the_repository_configures() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path();
    git(repo, &["init", "--quiet"]);
    write(&repo.join("a"), "1");
    git(repo, &["add", "."]);
    git(repo, &["commit", "--quiet", "-m", "First"]);
    let (mark, script) = (repo.join("ran"), repo.join(".git/script"));
    write(&script, &format!("#!/bin/sh\necho \"$0 $*\" >> '{}'\n", mark.display()));
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
    fs::set_permissions(&script, mode).unwrap();
    let script = script.to_str().unwrap();
    for hook in ["post-index-change", "fsmonitor-watchman", "pre-commit"] {
        std::os::unix::fs::symlink(script, repo.join(".git/hooks").join(hook)).unwrap();
    }
    for key in ["core.fsmonitor", "core.pager", "pager.log", "pager.status", "gpg.program", "core.editor"] {
        git(repo, &["config", key, script]);
    }
    for (key, value) in [
        ("log.showSignature", "true"),
        ("status.showUntrackedFiles", "no"),
        ("status.branch", "true"),
        ("color.ui", "always"),
        ("core.quotePath", "true"),
        ("alias.status", "!false"),
        ("core.abbrev", "40"),
    ] {
        git(repo, &["config", key, value]);
    }
    write(&repo.join("n\u{e9}w"), "");
    let seen = look(repo).unwrap();
    assert_eq!((names(seen.changes), seen.commit.unwrap().id.len()), (vec!["n\u{e9}w".to_string()], 7));
    assert_eq!(names(seen.files.paths), ["a", "n\u{e9}w"]);
    assert!(!mark.exists(), "{}", fs::read_to_string(&mark).unwrap());
}

#[test]
fn says_which_files_git_was_told_not_to_watch() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path();
    git(repo, &["init", "--quiet"]);
    for name in ["a", "b", "c"] {
        write(&repo.join(name), "1");
    }
    git(repo, &["add", "."]);
    git(repo, &["commit", "--quiet", "-m", "First"]);
    git(repo, &["update-index", "--assume-unchanged", "b"]);
    write(&repo.join("b"), "2");
    let seen = look(repo).unwrap();
    assert!(seen.changes.is_empty());
    assert_eq!((names(seen.files.unwatched), names(seen.files.paths).len()), (vec!["b".to_string()], 3));
}

#[test]
fn explains_a_repository_of_somebody_else() {
    use std::os::unix::process::ExitStatusExt;
    let check = |stderr: &str, words: [&str; 2]| {
        let status = std::process::ExitStatus::from_raw(128 << 8);
        let e = failed("find the git repository", &Output { status, stdout: vec![], stderr: stderr.into() });
        let said = format!("{e} {}", e.next_step().unwrap_or_default());
        assert!(e.kind() == Kind::Config && words.iter().all(|w| said.contains(w)), "{said}");
    };
    check(
        "fatal: detected dubious ownership in repository at '/srv/x'\nTo add an exception for this directory, \
         call:\n\n\tgit config --global --add safe.directory /srv/x\n",
        ["another user", "`git config --global --add safe.directory /srv/x`"],
    );
    check("fatal: this operation must be run in a work tree\n", ["work tree", "checkout"]);
}

#[test]
fn hears_of_folders_that_are_closed_to_it() {
    let said = "warning: unable to access '/root/.config/git/ignore': Permission denied\n\
                warning: could not open directory 'a': b/': Permission denied\n\
                warning: could not open directory 'c/d/': Too many levels of symbolic links\n";
    let expected = [("a': b", "permission denied"), ("c/d", "too many levels of symbolic links")];
    assert!(closed(said.as_bytes()).eq(expected.map(|(folder, why)| (folder.into(), why.into()))));
}

#[test]
fn lists_what_is_not_ignored_and_looks_into_repositories_inside() {
    let dir = tempfile::tempdir().unwrap();
    let repo = dir.path();
    git(repo, &["init", "--quiet"]);
    write(&repo.join(".gitignore"), "dist/\n*.log\n");
    write(&repo.join("dist/x.js"), "");
    write(&repo.join("a.log"), "");
    write(&repo.join("b\n.js"), "");
    fs::create_dir(repo.join("inner")).unwrap();
    git(&repo.join("inner"), &["init", "--quiet"]);
    write(&repo.join("inner/c.js"), "");
    let seen = look(repo).unwrap();
    assert_eq!(names(seen.files.paths), [".gitignore", "b\n.js", "inner/c.js"]);
    assert_eq!(names(seen.changes), [".gitignore", "b\n.js", "inner/"]);
}

#[test]
fn a_folder_without_a_repository_still_has_its_ignore_rules() {
    let (dir, scratch) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    write(&dir.path().join(".gitignore"), "dist/\n");
    write(&dir.path().join("dist/x.js"), "");
    write(&dir.path().join("src/y.js"), "");
    // A repository that lies there has rules of its own.
    fs::create_dir(dir.path().join("inner")).unwrap();
    git(&dir.path().join("inner"), &["init", "--quiet"]);
    write(&dir.path().join("inner/.gitignore"), "b\n");
    write(&dir.path().join("inner/a"), "");
    write(&dir.path().join("inner/b"), "");
    let found = files_outside(dir.path(), scratch.path()).unwrap().paths;
    assert_eq!(names(found), [".gitignore", "inner/.gitignore", "inner/a", "src/y.js"]);
    assert!(!dir.path().join(".git").exists());
}
