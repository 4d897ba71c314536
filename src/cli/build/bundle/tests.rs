use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::cli::git::tests::{git, write};
use crate::disk;

fn names(source: &Source) -> Vec<String> {
    source.entries.iter().map(|e| e.path.display().to_string()).collect()
}

fn version(dir: &Path) -> String {
    collect(dir).unwrap().version.to_string()
}

#[test]
fn the_three_forms_of_a_version() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(&dir.join("index.ts"), "1");
    let source = collect(dir).unwrap();
    assert_eq!(source.version.to_string(), format!("nogit_{}", &source.hash[..8]));
    git(dir, &["init", "--quiet"]);
    assert!(version(dir).starts_with("nogit_"), "a repository without a commit");
    git(dir, &["add", "."]);
    git(dir, &["commit", "--quiet", "-m", "First"]);
    let commit = git::look(dir).unwrap().commit.unwrap().id;
    assert_eq!(version(dir), commit);
    // What is dropped changes nothing, tracked or not.
    for dropped in [".env.local", ".tako/secrets", "node_modules/x/index.js", "target/debug/x"] {
        write(&dir.join(dropped), "x");
    }
    assert_eq!(version(dir), commit);
    write(&dir.join("new.ts"), "1");
    let source = collect(dir).unwrap();
    assert!(source.dirty);
    assert_eq!(source.version.to_string(), format!("{commit}_{}", &source.hash[..8]));
    assert_eq!(source.subject.as_deref(), Some("First"));
    fs::remove_file(dir.join("new.ts")).unwrap();
    fs::remove_file(dir.join("index.ts")).unwrap();
    write(&dir.join("other.ts"), "1");
    assert!(version(dir).starts_with(&format!("{commit}_")), "a removed file is a change");
}

#[test]
fn the_root_is_that_of_the_repository_and_the_app_keeps_its_place() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    git(&root, &["init", "--quiet"]);
    write(&root.join("packages/lib/index.ts"), "");
    write(&root.join("apps/web/index.ts"), "");
    write(&root.join("apps/web/.gitignore"), "dist\n");
    write(&root.join("apps/web/dist/x"), "");
    let source = collect(&root.join("apps/web")).unwrap();
    assert_eq!((source.root.as_path(), source.app_dir().unwrap().as_str()), (root.as_path(), "apps/web"));
    assert_eq!(names(&source), ["apps/web/.gitignore", "apps/web/index.ts", "packages/lib/index.ts"]);
    let e = collect(&root.join("apps/web/dist")).unwrap_err();
    assert_eq!(e.kind(), Kind::Config);
}

#[test]
fn what_must_never_travel_does_not() {
    for dropped in [
        ".git/config",
        "a/.git",
        ".tako/x",
        ".env",
        "a/.env.production",
        ".envrc",
        "node_modules",
        "a/node_modules/b",
        "target/x",
        "a/target/b/c",
    ] {
        assert!(is_dropped(Path::new(dropped)), "{dropped}");
    }
    for kept in ["a.env", "env", "targets/x", "src/target", "my_node_modules/x", ".gitignore", ".takofile"] {
        assert!(!is_dropped(Path::new(kept)), "{kept}");
    }
}

#[test]
fn the_hash_is_the_same_for_the_same_files_and_feels_every_change() {
    let hash_of = |make: &dyn Fn(&Path)| {
        let dir = tempfile::tempdir().unwrap();
        make(dir.path());
        collect(dir.path()).unwrap().hash
    };
    let base = |dir: &Path| {
        write(&dir.join("a"), "1");
        write(&dir.join("b/c"), "23");
    };
    let same = hash_of(&base);
    assert_eq!(
        hash_of(&|d| {
            write(&d.join("b/c"), "23");
            write(&d.join("a"), "1")
        }),
        same
    );
    assert_eq!(
        hash_of(&|d| {
            base(d);
            write(&d.join(".env"), "SECRET=1")
        }),
        same
    );
    let executable = |d: &Path| {
        base(d);
        fs::set_permissions(d.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
    };
    let link = |d: &Path| {
        base(d);
        fs::remove_file(d.join("a")).unwrap();
        std::os::unix::fs::symlink("b/c", d.join("a")).unwrap();
    };
    let others = [
        hash_of(&|d| {
            write(&d.join("a"), "12");
            write(&d.join("b/c"), "3")
        }),
        hash_of(&|d| {
            write(&d.join("a"), "1");
            write(&d.join("bc"), "23")
        }),
        hash_of(&|d| {
            base(d);
            write(&d.join("d"), "")
        }),
        hash_of(&executable),
        hash_of(&link),
    ];
    for (n, other) in others.iter().enumerate() {
        assert_ne!(*other, same, "change {n}");
    }
    // Times and the group's and others' bits do not matter.
    assert_eq!(
        hash_of(&|d| {
            base(d);
            fs::set_permissions(d.join("a"), fs::Permissions::from_mode(0o600)).unwrap()
        }),
        same
    );
}

#[test]
fn every_rule_that_git_has_counts() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    git(root, &["init", "--quiet"]);
    write(&root.join(".git/everywhere"), "*.swp\n");
    git(root, &["config", "core.excludesFile", root.join(".git/everywhere").to_str().unwrap()]);
    write(&root.join(".git/info/exclude"), "mine\n");
    write(&root.join(".gitignore"), "*.log\n!keep.log\ndist/\n/only-here\nforced\n");
    write(&root.join("a/.gitignore"), "!b.log\nc.js\n");
    let ignored = ["x.swp", "mine", "b.log", "dist/x", "only-here", "a/c.js", "a/dist/keep.log"];
    let kept = ["a/b.log", "a/keep.log", "a/only-here", "b/c.js", "forced"];
    ignored.iter().chain(&kept).for_each(|name| write(&root.join(name), ""));
    // What was committed is not ignored any more.
    git(root, &["add", "--force", "forced"]);
    let mut expected = vec![".gitignore", "a/.gitignore"];
    expected.extend(kept);
    expected.sort_unstable();
    assert_eq!(names(&collect(root).unwrap()), expected);
}

#[test]
fn submodules_and_repositories_inside_are_part_of_the_source() {
    let dir = tempfile::tempdir().unwrap();
    let (library, root) = (dir.path().join("library"), dir.path().join("root"));
    for repository in [&library, &root] {
        fs::create_dir(repository).unwrap();
        git(repository, &["init", "--quiet"]);
        write(&repository.join("index.js"), "");
        write(&repository.join(".gitignore"), "dist\n");
        git(repository, &["add", "."]);
        git(repository, &["commit", "--quiet", "-m", "First"]);
    }
    let url = library.to_str().unwrap();
    for name in ["lib", "left-empty"] {
        git(&root, &["-c", "protocol.file.allow=always", "submodule", "--quiet", "add", url, name]);
    }
    git(&root, &["submodule", "--quiet", "deinit", "--force", "left-empty"]);
    git(&root, &["commit", "--quiet", "-m", "Add the library"]);
    write(&root.join("lib/dist"), "");
    assert!(collect(&root).unwrap().dirty, "what was not fetched is a part of the commit");
    git(&root, &["rm", "--quiet", "left-empty"]);
    git(&root, &["commit", "--quiet", "-m", "Without it"]);
    let clean = collect(&root).unwrap();
    let files = [".gitignore", ".gitmodules", "index.js", "lib/.gitignore", "lib/index.js"];
    assert_eq!(names(&clean), files);
    assert!(!clean.dirty, "{}", clean.version);
    write(&root.join("lib/index.js"), "changed");
    assert!(collect(&root).unwrap().dirty, "a change in a submodule is one of the source");
    git(&root.join("lib"), &["checkout", "--quiet", "."]);
    // A checkout that was put there, and is in no commit.
    git(&root, &["clone", "--quiet", url, "other"]);
    let source = collect(&root).unwrap();
    assert_eq!(names(&source)[5..], ["other/.gitignore", "other/index.js"]);
    assert!(source.dirty);
    // An app that lies in a submodule has that for its repository.
    assert_eq!(collect(&root.join("lib")).unwrap().root, root.join("lib").canonicalize().unwrap());
}

#[test]
fn a_file_that_git_does_not_watch_makes_no_clean_version() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    git(root, &["init", "--quiet"]);
    write(&root.join("a"), "1");
    git(root, &["add", "."]);
    git(root, &["commit", "--quiet", "-m", "First"]);
    let clean = version(root);
    for flag in ["--assume-unchanged", "--skip-worktree"] {
        git(root, &["update-index", flag, "a"]);
        write(&root.join("a"), flag);
        assert!(version(root).starts_with(&format!("{clean}_")), "{flag}");
        git(root, &["update-index", &flag.replacen("--", "--no-", 1), "a"]);
    }
}

#[test]
fn a_checkout_without_all_of_the_commit_is_not_the_commit() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    git(root, &["init", "--quiet"]);
    write(&root.join("apps/web/a"), "1");
    write(&root.join("apps/api/b"), "1");
    git(root, &["add", "."]);
    git(root, &["commit", "--quiet", "-m", "First"]);
    let clean = version(root);
    assert!(!clean.contains('_'));
    git(root, &["sparse-checkout", "set", "apps/web"]);
    assert!(!root.join("apps/api").exists());
    assert!(version(root).starts_with(&format!("{clean}_")), "{}", version(root));
    git(root, &["sparse-checkout", "disable"]);
    assert_eq!(version(root), clean);
}

#[test]
fn a_repository_of_dotfiles_is_not_the_root_of_everything() {
    let home = Path::new("/home/ana");
    let check = |root: &str, dir: &str, expected| {
        assert_eq!(is_for_dotfiles(Path::new(root), Path::new(dir), Some(home)), expected, "{root} {dir}");
    };
    check("/home/ana", "/home/ana/code/shop", true);
    check("/home/ana/code", "/home/ana/code/shop", false);
    check("/home/ana", "/home/ana", false);
    check("/srv", "/srv/shop", false);
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    git(&root, &["init", "--quiet"]);
    write(&root.join("shop/index.js"), "");
    write(&root.join("diary"), "");
    let (found, seen) = look(&root.join("shop"), Some(&root)).unwrap();
    assert_eq!((found, seen.files.paths), (root.join("shop"), vec![PathBuf::from("index.js")]));
}

#[test]
fn names_are_bytes_and_links_are_what_they_say() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path();
    git(root, &["init", "--quiet"]);
    let long = "n".repeat(255);
    // Composed and decomposed, control characters, no text at all, a path of more than a thousand bytes.
    let files = ["\u{e9}", "e\u{301}", "a\nb", " ", "-rf", "\"q\"", "back\\slash", &long];
    files.iter().for_each(|name| write(&root.join(name), name));
    let deep: PathBuf = std::iter::repeat_n(long.as_str(), 5).collect::<PathBuf>().join("x");
    let deep = Path::new("deep").join(deep);
    write(&root.join(&deep), "");
    let raw = PathBuf::from(OsString::from_vec(b"raw\xff\xfe".to_vec()));
    fs::write(root.join(&raw), "").unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for (name, to) in [("in", "deep"), ("out", "../../elsewhere"), ("absolute", "/etc/passwd"), ("gone", "nothing")] {
        symlink(to, root.join(name)).unwrap();
    }
    let with_git = collect(root).unwrap();
    let found = |path: &Path| with_git.entries.iter().find(|e| e.path == path).map(|e| &e.what);
    for path in files.iter().map(Path::new).chain([deep.as_path(), raw.as_path()]) {
        assert!(matches!(found(path), Some(What::File { .. })), "{}", path.display());
    }
    assert_eq!(found(Path::new("out")), Some(&What::Link { to: "../../elsewhere".into() }));
    assert_eq!(found(Path::new("absolute")), Some(&What::Link { to: "/etc/passwd".into() }));
    assert_eq!(with_git.entries.len(), files.len() + 2 + 4, "no folder, and nothing behind a link");
    // Without a repository, and without git, it is the same set.
    fs::remove_dir_all(root.join(".git")).unwrap();
    assert_eq!(collect(root).unwrap().hash, with_git.hash);
    let paths = sorted(walk::files(root, None).unwrap()).unwrap();
    let (walked, _) = read::entries(root, paths, &Known::default()).unwrap();
    assert_eq!(hash(&walked), with_git.hash);
}

#[test]
fn a_folder_that_cannot_be_read_is_an_error_that_names_it() {
    // Root may read everything, but not what has a longer name than the kernel takes.
    let deep = |root: &Path, top: &str| {
        let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::CLOEXEC;
        let open = |at: &_, name: &str| rustix::fs::openat(at, name, flags, rustix::fs::Mode::empty()).unwrap();
        fs::create_dir_all(root.join(top)).unwrap();
        let mut at = std::os::fd::OwnedFd::from(fs::File::open(root.join(top)).unwrap());
        for _ in 0..17 {
            let name = "d".repeat(255);
            rustix::fs::mkdirat(&at, &name, rustix::fs::Mode::RWXU).unwrap();
            at = open(&at, &name);
        }
        rustix::fs::openat(&at, "x", rustix::fs::OFlags::CREATE | rustix::fs::OFlags::WRONLY, rustix::fs::Mode::RWXU)
            .unwrap();
    };
    for is_repository in [true, false] {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        write(&root.join("index.ts"), "");
        if is_repository {
            git(&root, &["init", "--quiet"]);
        }
        // Of what is left out anyway nobody is told.
        deep(&root, "node_modules");
        assert_eq!(names(&collect(&root).unwrap()), ["index.ts"]);
        deep(&root, "data");
        let e = collect(&root).unwrap_err();
        let expected = format!("read the folder {}/data/ddd", root.display());
        assert!(e.to_string().starts_with(&expected) && e.to_string().contains("file name too long"), "{e}");
        assert!(e.kind() == Kind::Config && e.next_step().unwrap().contains(".gitignore"));
        write(&root.join(".gitignore"), "data/\n");
        assert_eq!(names(&collect(&root).unwrap()), [".gitignore", "index.ts"]);
        disk::remove_tree(&root.join("data")).unwrap();
        disk::remove_tree(&root.join("node_modules")).unwrap();
    }
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), "");
    // Longer than a path may be: below the limit where it was made, above it where it is read.
    let path = PathBuf::from("a").join("x".repeat(4096));
    let e = read::entries(dir.path(), vec!["a".into(), path], &Known::default()).unwrap_err();
    assert!(e.to_string().contains("read ") && e.to_string().contains("/a/xxx"), "{e}");
}
