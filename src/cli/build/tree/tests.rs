use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::symlink;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::process::Command;

use super::*;
use crate::cli::build::bundle::collect;
use crate::cli::build::environment::Environment;
use crate::cli::build::{stage, turn};
use crate::cli::git::tests::{git, write};
use crate::cli::interrupt::Interrupt;
use crate::crypto::Sha256;

/// Every path below `dir` but `.tako`, with its kind, mode and content, as one hash.
fn fingerprint(dir: &Path) -> String {
    let (mut paths, mut open) = (Vec::new(), vec![dir.to_path_buf()]);
    while let Some(dir) = open.pop() {
        for path in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            if path.symlink_metadata().unwrap().is_dir() && !path.ends_with(".tako") {
                open.push(path.clone());
            }
            paths.push(path);
        }
    }
    paths.sort();
    let mut hash = Sha256::new();
    for path in paths.iter().filter(|path| !path.ends_with(".tako")) {
        let found = path.symlink_metadata().unwrap();
        hash.update(path.as_os_str().as_bytes());
        hash.update(format!("\0{:o}\0", found.mode()).as_bytes());
        match () {
            () if found.is_symlink() => hash.update(fs::read_link(path).unwrap().as_os_str().as_bytes()),
            () if found.is_file() => {
                hash.update(format!("{} {}\0", found.mtime(), found.mtime_nsec()).as_bytes());
                hash.update(&fs::read(path).unwrap());
            }
            () => {}
        }
    }
    hash.finish()
}

fn step(command: &str, dir: &str, installs_below: Option<&str>) -> Step {
    Step {
        name: "test".into(),
        command: command.into(),
        dir: dir.into(),
        installs_below: installs_below.map(Into::into),
        warning: None,
    }
}

/// Makes the tree of `app` and runs `commands` in it; what they wrote to their output.
fn build(app: &Path, commands: &[&str]) -> Vec<String> {
    let source = collect(app).unwrap();
    let steps: Vec<Step> = commands.iter().map(|c| step(c, source.app.to_str().unwrap(), None)).collect();
    let tree = make(&app.join(".tako/build"), &source, &steps, Modules::Link, &Interrupt::never()).unwrap();
    let turn = turn::take(&app.join(".tako"), &Interrupt::never(), &mut |_| {}).unwrap();
    let mut lines = Vec::new();
    for step in &steps {
        let mut on = |line: &str| lines.push(line.to_string());
        let ran = stage::run(&tree, &source, &Environment::default(), step, &turn, &Interrupt::never(), &mut on);
        ran.unwrap_or_else(|e| panic!("{e}: {:?}", e.detail()));
    }
    lines
}

fn program(path: &Path, text: &str) {
    write(path, text);
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn npm(dir: &Path, args: &[&str]) {
    let cache = dir.join(".git/npm-cache");
    let mut command = Command::new("npm");
    command.args(args).args(["--offline", "--no-audit", "--no-fund"]).current_dir(dir).env("npm_config_cache", cache);
    let out = command.output().unwrap();
    assert!(out.status.success(), "npm {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// A workspace as npm lays it out: an app in `apps/web`, a package in `packages/ui`, and one that is installed from a
/// folder outside, as one from the registry would be.
fn workspace(dir: &Path) -> PathBuf {
    let root = dir.join("root");
    write(&dir.join("left-pad/package.json"), r#"{"name": "left-pad", "version": "1.0.0", "bin": "cli.js"}"#);
    write(&dir.join("left-pad/index.js"), "exports.pad = (s) => ' ' + s;");
    program(&dir.join("left-pad/cli.js"), "#!/usr/bin/env node\nconsole.log('cli of', __filename);");
    write(&root.join("package.json"), r#"{"private": true, "workspaces": ["packages/*", "apps/*"]}"#);
    write(
        &root.join("packages/ui/package.json"),
        r#"{"name": "@acme/ui", "version": "1.0.0", "bin": {"ui": "bin.js"}, "dependencies": {"left-pad": "1.0.0"}}"#,
    );
    write(&root.join("packages/ui/index.js"), "exports.title = require('left-pad').pad('title');");
    program(&root.join("packages/ui/bin.js"), "#!/usr/bin/env node\nconsole.log('ui of', __filename);");
    write(
        &root.join("apps/web/package.json"),
        r#"{"name": "web", "version": "1.0.0", "dependencies": {"@acme/ui": "*"}}"#,
    );
    write(&root.join("apps/web/index.js"), "console.log(require('@acme/ui').title, require.resolve('left-pad'));");
    write(&root.join(".gitignore"), "node_modules\ndist\n.tako\n");
    git(&root, &["init", "--quiet"]);
    let mut pack = Command::new("npm");
    assert!(pack.args(["pack", "--silent", "../left-pad"]).current_dir(&root).output().unwrap().status.success());
    npm(&root, &["install", "--silent", "--no-save", "--install-links", "./left-pad-1.0.0.tgz"]);
    fs::remove_file(root.join("left-pad-1.0.0.tgz")).unwrap();
    root.canonicalize().unwrap()
}

#[test]
fn node_finds_the_packages_of_a_workspace() {
    let dir = tempfile::tempdir().unwrap();
    let root = workspace(dir.path());
    assert!(root.join("node_modules/@acme/ui").is_symlink() && root.join("node_modules/left-pad").is_dir());
    let app = root.join("apps/web");
    let said = build(&app, &["node index.js", "left-pad", "ui"]);
    let tree = app.join(".tako/build");
    // A package is where it was installed; one of the workspace is built as it is in the tree.
    assert_eq!(said[0], format!(" title {}", root.join("node_modules/left-pad/index.js").display()));
    assert_eq!(said[1], format!("cli of {}", root.join("node_modules/left-pad/cli.js").display()));
    assert_eq!(said[2], format!("ui of {}", tree.join("packages/ui/bin.js").display()));
    // The links within the tree do not say where it is.
    assert_eq!(fs::read_link(tree.join("node_modules/@acme/ui")).unwrap(), Path::new("../../packages/ui"));
    assert_eq!(fs::read_link(tree.join("node_modules/web")).unwrap(), Path::new("../apps/web"));
}

#[test]
fn a_build_that_writes_wherever_it_can_leaves_the_users_tree_as_it_was() {
    let dir = tempfile::tempdir().unwrap();
    let root = workspace(dir.path());
    for name in
        [".vite/deps/x.js", ".cache/x", ".prisma/client/index.js", "@prisma/client/index.js", ".package-lock.json"]
    {
        write(&root.join("node_modules").join(name), "user's");
    }
    let app = root.join("apps/web");
    write(&app.join("node_modules/.cache/x"), "user's");
    write(&app.join(".next/cache/x"), "user's");
    write(&root.join(".gitignore"), "node_modules\ndist\n.tako\n.next\n");
    let before = fingerprint(&root);
    build(
        &app,
        &[
            // Sources, here and in the sibling.
            "echo built > index.js; rm package.json; mkdir dist; echo x > dist/x; echo x > ../../packages/ui/index.js",
            // Caches, where tools look for them.
            "for m in node_modules ../../node_modules; do mkdir -p $m/.vite/deps $m/.cache $m/.astro .next/cache; \
             echo built | tee $m/.vite/deps/x.js $m/.cache/x $m/.astro/x .next/cache/x; done",
            // Generated code, a package of the workspace through its link, programs, notes of a package manager.
            "cd ../../node_modules && echo built | tee .prisma/client/index.js @prisma/client/index.js @acme/ui/index.js \
             .bin/new .package-lock.json new-file && mkdir -p new @new/scope && echo x > new/index.js",
            "cd ../../node_modules && rm .bin/left-pad left-pad && mkdir left-pad && echo x > left-pad/index.js",
        ],
    );
    assert_eq!(fingerprint(&root), before);
    // What it wrote is there, and what the user had in such places was not.
    let tree = app.join(".tako/build");
    let read = |name: &str| fs::read_to_string(tree.join(name)).unwrap();
    assert_eq!(
        (read("packages/ui/index.js"), read("node_modules/.vite/deps/x.js")),
        ("built\n".into(), "built\n".into())
    );
    // A build that installs for itself removes what is there first, and only what is the tree's.
    build(&app, &["rm -rf ../../node_modules/* ../../node_modules/.[!.]* && ls -A ../../node_modules | wc -l"]);
    assert_eq!(fingerprint(&root), before);
}

#[test]
fn a_package_manager_that_a_build_runs_by_itself_stays_in_the_tree() {
    let dir = tempfile::tempdir().unwrap();
    let root = workspace(dir.path());
    write(&root.join("vendor/dep/package.json"), r#"{"name": "dep", "version": "1.0.0"}"#);
    write(
        &root.join("package.json"),
        r#"{"private": true, "workspaces": ["packages/*"], "dependencies": {"dep": "file:vendor/dep"}}"#,
    );
    write(&root.join("packages/ui/package.json"), r#"{"name": "@acme/ui", "version": "1.0.0"}"#);
    npm(&root, &["install", "--silent"]);
    let before = fingerprint(&root);
    let npm = |verb: &str| format!("npm {verb} --offline --no-audit --no-fund --silent --cache \"$PWD/../cache\"");
    for verb in ["install", "ci", "install --install-links", "prune"] {
        build(&root, &[&npm(verb)]);
        assert_eq!(fingerprint(&root), before, "npm {verb}");
    }
    assert!(root.join(".tako/build/node_modules/dep/package.json").exists());
}

#[test]
fn packages_as_pnpm_lays_them_out_are_found_where_they_are() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    let modules = root.join("node_modules");
    let store = modules.join(".pnpm/dep@1.0.0/node_modules");
    write(&store.join("dep/index.js"), "module.exports = 'dep with ' + require('deeper');");
    program(&store.join("dep/cli.js"), "#!/usr/bin/env node\nconsole.log(require('.'));");
    write(&modules.join(".pnpm/deeper@1.0.0/node_modules/deeper/index.js"), "module.exports = 'deeper';");
    symlink("../../deeper@1.0.0/node_modules/deeper", store.join("deeper")).unwrap();
    symlink(".pnpm/dep@1.0.0/node_modules/dep", modules.join("dep")).unwrap();
    symlink(".pnpm/gone@1.0.0/node_modules/gone", modules.join("gone")).unwrap();
    // Its programs are scripts that go by their own place.
    let shim = "#!/bin/sh\nbasedir=$(dirname \"$0\")\nexec node \"$basedir/../dep/cli.js\" \"$@\"\n";
    program(&modules.join(".bin/dep"), shim);
    write(&modules.join(".modules.yaml"), "layoutVersion: 5\n");
    write(&modules.join("single.js"), "module.exports = 'single';");
    write(&root.join("packages/ui/index.js"), "module.exports = 'ui';");
    fs::create_dir_all(root.join("web/node_modules/@acme")).unwrap();
    symlink("../../../packages/ui", root.join("web/node_modules/@acme/ui")).unwrap();
    write(&root.join("web/index.js"), "console.log(require('dep'), require('single'), require.resolve('@acme/ui'));");
    write(&root.join("web/package.json"), "{}");
    git(&root, &["init", "--quiet"]);
    write(&root.join(".gitignore"), "node_modules\n");
    let before = fingerprint(&root);
    let said = build(&root.join("web"), &["node index.js", "dep", "echo x > ../node_modules/single.js"]);
    let tree = root.join("web/.tako/build");
    let ui = tree.join("packages/ui/index.js");
    assert_eq!(said, [format!("dep with deeper single {}", ui.display()), "dep with deeper".into()]);
    assert_eq!(fingerprint(&root), before);
    assert!(!tree.join("node_modules/.pnpm").exists() && !tree.join("node_modules/gone").is_symlink());
}

#[test]
fn caches_go_from_build_to_build_and_nothing_else_does() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    git(&root, &["init", "--quiet"]);
    write(&root.join(".gitignore"), "node_modules\n");
    write(&root.join("package.json"), "{}");
    write(&root.join("apps/web/index.js"), "");
    write(&root.join("crates/api/Cargo.toml"), "");
    write(&root.join("plain/x"), "");
    // The user's own are never taken along.
    write(&root.join("node_modules/.cache/user"), "");
    let app = root.join("apps/web");
    let tree = app.join(".tako/build");
    let caches = [
        "apps/web/.next/cache/x",
        "apps/web/node_modules/.vite/x",
        "node_modules/.cache/x",
        ".turbo/x",
        "crates/api/target/x",
    ];
    let others = ["apps/web/.next/server/x", "apps/web/target/x", "plain/.turbo/x", "node_modules/other/x", "dist/x"];
    build(&app, &[]);
    assert!(!tree.join("node_modules/.cache").exists());
    caches.iter().chain(&others).for_each(|name| write(&tree.join(name), "made by the build"));
    build(&app, &[]);
    for name in caches {
        assert!(tree.join(name).exists(), "{name}");
    }
    for name in others {
        assert!(!tree.join(name).exists(), "{name}");
    }
    // Where packages are installed anew, their folder is left to that.
    let source = collect(&app).unwrap();
    make(&tree, &source, &[step("true", "apps/web", Some("apps"))], Modules::Link, &Interrupt::never()).unwrap();
    assert!(!tree.join("apps/web/node_modules").exists() && tree.join("node_modules/.cache/x").exists());
    // They outlive a tree that could not be made.
    fs::remove_file(root.join("plain/x")).unwrap();
    let e = make(&tree, &source, &[], Modules::Link, &Interrupt::never()).unwrap_err();
    assert!(e.to_string().contains("plain/x"), "{e}");
    build(&app, &[]);
    assert!(tree.join(".turbo/x").exists() && !tree.with_extension("old").exists());
    for name in caches {
        let cache = Path::new(name).parent().unwrap();
        assert!(is_cache(cache, &folders(&source)), "{name}");
    }
    assert!(!is_cache(Path::new("plain/dist/.turbo"), &folders(&source)), "what a build made is the build's");
}

#[test]
fn a_link_is_laid_down_as_it_is_and_never_written_through() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    let outside = dir.path().join("outside");
    write(&outside, "not ours");
    write(&root.join("a/x"), "x");
    symlink("a", root.join("link")).unwrap();
    symlink(&outside, root.join("out")).unwrap();
    // A name that comes after the link, and lies below it.
    build(&root, &["cat link/x; cat out"]);
    let tree = root.join(".tako/build");
    assert_eq!(fs::read_link(tree.join("link")).unwrap(), Path::new("a"));
    assert_eq!(fs::read_link(tree.join("out")).unwrap(), outside);
}
