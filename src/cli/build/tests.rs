mod caching;
mod running;
mod targets;

use std::fs;

use super::recipe::{Chosen, Modules, Origin};
use super::*;
use crate::cli::git::tests::{git, write};
use crate::cli::project;
use crate::proto::manifest::{Limits, Runtime};
use crate::proto::name::AppName;
use crate::proto::version::Version;

fn project(dir: &Path, main: &str) -> Project {
    Project {
        dir: dir.to_path_buf(),
        name: AppName::parse("shop").unwrap(),
        runtime: Runtime::Binary,
        runtime_version: Some("1".into()),
        main: Some(main.into()),
        preset: None,
        start: Some(vec!["sh".into(), "{main}".into()]),
        install: None,
        dev: None,
        health: None,
        release: None,
        build: project::Build::default(),
        limits: Limits::default(),
        vars: BTreeMap::new(),
        envs: BTreeMap::new(),
    }
}

fn order(project: &Project) -> Result<Order> {
    super::order(project, &BTreeMap::new(), Wish::Locked)
}

fn tree_of(dir: &Path, order: &Order) -> Result<PathBuf> {
    let dir = dir.join(".tako/build");
    tree::make(&dir, &order.source, &order.steps, order.recipe.modules(), &Interrupt::never())
}

/// Of a project in which something was built.
fn turn_in(dir: &Path) -> Turn {
    turn::take(&dir.join(".tako"), &Interrupt::never(), &mut |_| {}).unwrap()
}

/// Runs the steps of a build as `build` does, up to what would be packed.
fn shipped(project: &Project) -> Result<Vec<String>> {
    let order = order(project)?;
    let tree = tree_of(&project.dir, &order)?;
    let turn = turn_in(&project.dir);
    for step in &order.steps {
        stage::run(&tree, &order.source, &order.environment, step, &turn, &Interrupt::never(), &mut |_| {})?;
    }
    let app = tree.join(&order.source.app);
    preset::write_entry(&app, &order.recipe)?;
    assets::merge(&tree, &order.source.root, &app, &preset::assets(&app, &order.recipe))?;
    preset::check_made(&app, &order.recipe)?;
    entry::check(&app, &entry(project, &order, order.targets[0]))?;
    let mut files = pick::files(&tree, &Rule::new(&order.recipe, &order.source, &order.include, &order.exclude))?;
    files.sort();
    Ok(files.iter().map(|f| f.display().to_string()).collect())
}

/// Every path below `dir` with its content, without `.tako`.
fn listing(dir: &Path) -> Vec<(PathBuf, String)> {
    let mut all = Vec::new();
    let mut open = vec![dir.to_path_buf()];
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()) {
            match entry.is_dir() {
                true if entry.ends_with(".tako") => {}
                true => open.push(entry),
                false => all.push((entry.clone(), fs::read_to_string(&entry).unwrap())),
            }
        }
    }
    all.sort();
    all
}

#[test]
fn a_build_never_touches_the_sources() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(&dir.join("src/a.js"), "source");
    write(&dir.join("main"), "source");
    write(&dir.join("node_modules/dep/index.js"), "installed");
    write(&dir.join(".gitignore"), "node_modules/\n");
    let before = listing(dir);
    let mut project = project(dir, "main");
    project.build.install = Some("mkdir -p node_modules/dep && echo new > node_modules/dep/index.js".into());
    project.build.run = Some("rm src/a.js; echo built > main; mkdir dist; echo x > dist/x".into());
    assert_eq!(shipped(&project).unwrap(), [".gitignore", "dist/x", "main", "src"]);
    assert_eq!(listing(dir), before);
    assert_eq!(fs::read_to_string(dir.join(".tako/build/main")).unwrap(), "built\n");
}

#[test]
fn installed_packages_are_linked_where_nothing_installs_them() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    git(&root, &["init", "--quiet"]);
    write(&root.join(".gitignore"), "node_modules/\n");
    for package in ["", "apps/web/", "packages/ui/"] {
        write(&root.join(format!("{package}index.js")), "x");
        write(&root.join(format!("{package}node_modules/.bin/tool")), "#!/bin/sh\necho ran > tool-ran\n");
        let tool = root.join(format!("{package}node_modules/.bin/tool"));
        fs::set_permissions(tool, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    let mut project = project(&root.join("apps/web"), "index.js");
    project.build.run = Some("tool".into());
    let files = shipped(&project).unwrap();
    assert_eq!(files, [".gitignore", "apps/web/index.js", "apps/web/tool-ran", "index.js", "packages/ui/index.js"]);
    let tree = project.dir.join(".tako/build");
    for package in ["", "apps/web", "packages/ui"] {
        assert!(tree.join(package).join("node_modules/.bin/tool").exists(), "{package}");
    }
    let stage = project::Stage {
        name: None,
        working_dir: Some("../../packages/ui".into()),
        install: Some("mkdir node_modules".into()),
        run: "true".into(),
    };
    project.build.stages = vec![stage];
    shipped(&project).unwrap();
    assert!(tree.join("packages/ui/node_modules").is_dir() && !tree.join("packages/ui/node_modules/.bin").exists());
    assert!(tree.join("node_modules/.bin/tool").exists());
}

#[test]
fn ships_what_the_globs_say_and_always_main() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(&dir.join("a.js"), "");
    write(&dir.join("a.test.js"), "");
    write(&dir.join("lib/b.js"), "");
    let mut project = project(dir, "target/release/app");
    project.build.run = Some(
        "mkdir -p target/release .output/server/node_modules/x .output/.tako lib/.tako empty; touch target/release/app \
         target/release/junk .output/server/node_modules/x/i.js .output/.tako/j.js lib/.tako/k.js .env.local"
            .into(),
    );
    let all = [
        ".output/.tako/j.js",
        ".output/server/node_modules/x/i.js",
        "a.js",
        "a.test.js",
        "empty",
        "lib/b.js",
        "target/release/app",
    ];
    assert_eq!(shipped(&project).unwrap(), all);
    project.build.exclude = vec!["**/*.test.js".into(), "empty".into(), "target".into()];
    assert_eq!(shipped(&project).unwrap(), [all[0], all[1], "a.js", "lib/b.js", "target/release/app"]);
    project.build.include = vec!["lib".into()];
    assert_eq!(shipped(&project).unwrap(), ["lib/b.js", "target/release/app"]);
    project.build.include = vec!["../x".into()];
    assert_eq!(shipped(&project).unwrap_err().kind(), Kind::Config);
}

#[test]
fn assets_are_merged_into_public_in_order() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(&dir.join("main"), "");
    for (file, text) in
        [("public/a", "public"), ("public/b", "public"), ("one/b", "one"), ("one/c/d", "one"), ("two/c", "two")]
    {
        write(&dir.join(file), text);
    }
    let mut project = project(dir, "main");
    let built = dir.join(".tako/build/public");
    let read = |name: &str| fs::read_to_string(built.join(name)).unwrap();
    project.build.assets = vec!["one".into()];
    project.build.include = vec!["main".into()];
    assert_eq!(shipped(&project).unwrap(), ["main", "public/a", "public/b", "public/c/d"]);
    assert_eq!((read("a").as_str(), read("b").as_str(), read("c/d").as_str()), ("public", "one", "one"));
    project.build.assets = vec!["one".into(), "two".into(), "public".into()];
    shipped(&project).unwrap();
    assert_eq!((read("b").as_str(), read("c").as_str()), ("public", "two"));
    project.build.assets = vec!["dist".into()];
    let e = shipped(&project).unwrap_err();
    assert!(e.kind() == Kind::Build && e.to_string().contains("`dist`"), "{e}");
}

#[test]
fn main_must_exist_after_the_build() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), "");
    let e = shipped(&project(dir.path(), "dist/main.js")).unwrap_err();
    assert!(e.kind() == Kind::Build && e.next_step().is_some_and(|hint| hint.contains("main")), "{e}");
}

#[test]
fn a_preset_may_want_packages_as_files_of_its_own() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(&dir.join("main"), "");
    for (file, text) in [("pkg/index.js", "installed"), (".cache/x", "cache"), ("@s/deep/a/b.js", "deep")] {
        write(&dir.join("node_modules").join(file), text);
    }
    std::os::unix::fs::symlink("../pkg/index.js", dir.join("node_modules/@s/link")).unwrap();
    let project = project(dir, "main");
    let order = order(&project).unwrap();
    let build = dir.join(".tako/build");
    let tree = tree::make(&build, &order.source, &order.steps, Modules::Copy, &Interrupt::never()).unwrap();
    let modules = tree.join("node_modules");
    assert!(!modules.is_symlink() && !modules.join("pkg").is_symlink() && !modules.join(".cache").exists());
    fs::write(modules.join("pkg/index.js"), "built").unwrap();
    assert_eq!(fs::read_to_string(modules.join("@s/link")).unwrap(), "built");
    assert_eq!(fs::read_to_string(modules.join("@s/deep/a/b.js")).unwrap(), "deep");
    assert_eq!(fs::read_to_string(dir.join("node_modules/pkg/index.js")).unwrap(), "installed");
}

#[test]
fn a_named_preset_is_remembered_where_git_sees_it() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    write(&dir.join("src/index.ts"), "");
    let mut project = project(dir, "main");
    (project.main, project.runtime) = (None, Runtime::Bun);
    project.preset = Some(project::preset_ref::PresetRef::parse("hono").unwrap());
    write(&dir.join(".tako/.gitignore"), "*\n!secrets\n");
    let say = |_: Said<'_>| {};
    build(&project, &order(&project).unwrap(), false, &Interrupt::never(), &say).unwrap();
    let locked = preset::lock::load(dir).unwrap().unwrap();
    assert_eq!((locked.preset.as_str(), locked.source.as_str()), ("hono", "embedded"));
    assert_eq!(fs::read_to_string(dir.join(".tako/.gitignore")).unwrap(), "*\n!secrets\n!build.lock.json\n");
    // Rules of somebody's own stay, and a preset that nobody names is forgotten.
    write(&dir.join(".tako/.gitignore"), "mine\n");
    project.preset = None;
    build(&project, &order(&project).unwrap(), false, &Interrupt::never(), &say).unwrap();
    assert_eq!(fs::read_to_string(dir.join(".tako/.gitignore")).unwrap(), "mine\n");
    assert!(preset::lock::load(dir).unwrap().is_none());
}

#[test]
fn what_is_not_clear_is_told_with_what_the_files_suggest() {
    let check = |package: &str, runtime, hint: &str| {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("package.json"), package);
        let mut project = project(dir.path(), "main");
        (project.main, project.runtime) = (None, runtime);
        if runtime != Runtime::Binary {
            let e = order(&project).err().unwrap();
            assert!(e.next_step().unwrap().contains("run `tako init`"), "{e}: {:?}", e.next_step());
        }
        write(&dir.path().join("tako.toml"), "");
        let e = order(&project).err().unwrap();
        assert!(e.kind() == Kind::Config && e.next_step().unwrap().contains(hint), "{e}: {:?}", e.next_step());
    };
    check(r#"{"dependencies":{"next":"16"}}"#, Runtime::Node, "preset = \"nextjs\"");
    check(r#"{"scripts":{"start":"node ./app.js","build":"tsc"}}"#, Runtime::Node, "main = \"app.js\"");
    check("{}", Runtime::Bun, "main = \"server.js\"");
    check("{}", Runtime::Binary, "main = \"bin/my-app\"");
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("package.json"), r#"{"dependencies":{"astro":"5"}}"#);
    write(&dir.path().join("index.js"), "");
    let mut project = project(dir.path(), "index.js");
    project.runtime = Runtime::Node;
    assert!(order(&project).unwrap().notes.is_empty(), "who says `main` knows");
    (project.main, project.start) = (None, None);
    assert!(order(&project).unwrap().notes[0].contains("preset = \"astro\""));
}

#[test]
fn packages_that_no_server_would_install_are_told() {
    let check = |files: &[(&str, &str)], runtime, install: Option<Vec<String>>, told: Option<&str>| {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| write(&dir.path().join(name), text));
        let mut project = project(dir.path(), "index.js");
        (project.runtime, project.install) = (runtime, install);
        let warnings = order(&project).unwrap().warnings;
        assert_eq!(warnings.len(), usize::from(told.is_some()), "{files:?}: {warnings:?}");
        assert!(told.is_none_or(|words| warnings[0].contains(words)), "{warnings:?}");
    };
    let package = ("package.json", r#"{"dependencies":{"express":"4"}}"#);
    check(&[package], Runtime::Node, None, Some("run `npm install` and commit"));
    check(&[package], Runtime::Bun, None, Some("run `bun install` and commit"));
    check(&[package, ("package-lock.json", "{}")], Runtime::Node, None, None);
    // Bun reads the lock file of npm.
    check(&[package, ("package-lock.json", "{}")], Runtime::Bun, None, None);
    check(&[package, ("yarn.lock", ""), (".gitignore", "yarn.lock")], Runtime::Node, None, Some("no lock file"));
    check(&[package], Runtime::Node, Some(Vec::new()), None);
    check(&[package], Runtime::Binary, None, None);
    check(&[package], Runtime::Deno, None, None);
    check(&[("package.json", r#"{"devDependencies":{"vite":"8"}}"#)], Runtime::Node, None, None);
}

#[test]
fn what_no_archive_may_hold_fails_the_build_and_says_what_to_do() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "exit");
    std::os::unix::fs::symlink("/etc/passwd", dir.path().join("abs")).unwrap();
    let mut project = project(dir.path(), "main");
    let built = |project: &Project| build(project, &order(project).unwrap(), false, &Interrupt::never(), &|_| {});
    let e = built(&project).unwrap_err();
    assert!(e.kind() == Kind::Build && e.to_string().contains("abs"), "{e}");
    assert!(e.next_step().unwrap().contains("`exclude`"), "{:?}", e.next_step());
    project.build.exclude = vec!["abs".into()];
    built(&project).unwrap();
}

#[test]
fn deno_builds_by_a_task_or_a_script_once_packages_are_installed() {
    let check = |files: &[(&str, &str)], expected: &[&str]| {
        let dir = tempfile::tempdir().unwrap();
        files.iter().for_each(|(name, text)| write(&dir.path().join(name), text));
        let mut project = project(dir.path(), "main.ts");
        project.runtime = Runtime::Deno;
        let steps: Vec<String> = order(&project).unwrap().steps.into_iter().map(|step| step.command).collect();
        assert_eq!(steps, expected, "{files:?}");
    };
    let task = r#"{ // Comments are allowed.
        "imports": { "vite": "npm:vite@8" }, "tasks": { "build": "vite build" }, }"#;
    check(&[("deno.jsonc", task)], &["deno install", "deno task build"]);
    check(&[("deno.json", task), ("deno.lock", "{}")], &["deno install --frozen", "deno task build"]);
    check(&[("deno.json", task), ("node_modules/vite/package.json", "{}")], &["deno task build"]);
    check(&[("deno.json", r#"{"tasks":{"build":{"dependencies":["css","js"]}}}"#)], &["deno task build"]);
    let script = r#"{"scripts":{"build":"astro build"},"dependencies":{"astro":"7"}}"#;
    check(&[("package.json", script), ("deno.json", "{}")], &["deno install", "deno task build"]);
    check(&[("deno.json", r#"{"imports":{"hono":"npm:hono"},"tasks":{"dev":"x","build":" "}}"#)], &[]);
    check(&[("deno.json", "{ torn")], &[]);
}

#[test]
fn the_main_of_a_preset_is_written_once_and_its_promises_are_kept() {
    let dir = tempfile::tempdir().unwrap();
    let dir = dir.path();
    let mut project = project(dir, "main");
    (project.main, project.runtime) = (None, Runtime::Node);
    project.preset = Some(project::preset_ref::PresetRef::parse("static").unwrap());
    write(&dir.join("dist/page.html"), "<p>");
    let e = shipped(&project).unwrap_err();
    assert!(e.kind() == Kind::Build && e.to_string().contains("public/index.html"), "{e}");
    assert!(e.next_step().unwrap().contains("assets"), "{:?}", e.next_step());
    write(&dir.join("dist/index.html"), "<p>");
    assert_eq!(shipped(&project).unwrap(), ["public/index.html", "public/page.html", "tako-entry.mjs"]);
    let built = dir.join(".tako/build/tako-entry.mjs");
    assert!(fs::read_to_string(&built).unwrap().contains("export default"));
    write(&dir.join("tako-entry.mjs"), "mine");
    shipped(&project).unwrap();
    assert_eq!(fs::read_to_string(&built).unwrap(), "mine");
}
