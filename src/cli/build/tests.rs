use std::collections::BTreeMap;
use std::fs;

use super::*;
use crate::cli::git::tests::{git, write};
use crate::cli::project;
use crate::proto::manifest::{Limits, Runtime};
use crate::proto::name::AppName;

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
        build: project::Build::default(),
        limits: Limits::default(),
        envs: BTreeMap::new(),
    }
}

/// Runs the steps of a build as `build` does, up to what would be packed.
fn shipped(project: &Project) -> Result<Vec<String>> {
    let order = order(project)?;
    let tree = tree::make(&project.dir.join(".tako/build"), &order.source, &order.steps)?;
    for step in &order.steps {
        stage::run(&tree, &order.source, step, order.targets[0], &Interrupt::never(), &mut |_| {})?;
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
        "mkdir -p target/release .output/server/node_modules/x empty; touch target/release/app target/release/junk \
         .output/server/node_modules/x/i.js .env.local"
            .into(),
    );
    let all = [".output/server/node_modules/x/i.js", "a.js", "a.test.js", "empty", "lib/b.js", "target/release/app"];
    assert_eq!(shipped(&project).unwrap(), all);
    project.build.exclude = vec!["**/*.test.js".into(), "empty".into(), "target".into()];
    assert_eq!(shipped(&project).unwrap(), [all[0], "a.js", "lib/b.js", "target/release/app"]);
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
fn a_command_that_fails_shows_its_last_lines() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "");
    let mut project = project(dir.path(), "main");
    project.build.run =
        Some("i=0; while [ $i -lt 60 ]; do echo line $i; i=$((i+1)); done; echo oops >&2; exit 3".into());
    let e = shipped(&project).unwrap_err();
    assert_eq!(e.kind(), Kind::Build);
    assert!(e.to_string().contains("ended with exit code 3"), "{e}");
    assert_eq!((e.detail().len(), e.detail()[0].as_str(), e.detail()[39].as_str()), (40, "line 21", "oops"));
}

#[test]
fn a_command_that_leaves_something_running_still_ends() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "");
    let mut project = project(dir.path(), "main");
    project.build.run = Some("sleep 60 & echo done".into());
    let start = std::time::Instant::now();
    shipped(&project).unwrap();
    assert!(start.elapsed() < std::time::Duration::from_secs(30), "{:?}", start.elapsed());
}

#[test]
fn an_interrupt_stops_the_command() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "");
    let mut project = project(dir.path(), "main");
    project.build.run = Some("echo started; sleep 60".into());
    let order = order(&project).unwrap();
    let tree = tree::make(&dir.path().join(".tako/build"), &order.source, &order.steps).unwrap();
    let (trigger, interrupt) = Interrupt::never().or_trigger();
    let mut trigger = Some(trigger);
    let target = order.targets[0];
    let run = stage::run(&tree, &order.source, &order.steps[0], target, &interrupt, &mut |_| drop(trigger.take()));
    let e = run.unwrap_err();
    assert_eq!(e.kind(), Kind::Interrupted);
}

#[test]
fn main_must_exist_after_the_build() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), "");
    let e = shipped(&project(dir.path(), "dist/main.js")).unwrap_err();
    assert!(e.kind() == Kind::Build && e.next_step().is_some_and(|hint| hint.contains("main")), "{e}");
}

#[test]
fn the_key_feels_every_input() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), "1");
    let base = project(dir.path(), "a");
    let key = |project: &Project| {
        let order = order(project).unwrap();
        cache::key(project, &order, order.targets[0])
    };
    let same = key(&base);
    assert_eq!(key(&base), same);
    let changes: [fn(&mut Project); 10] = [
        |p| p.main = Some("b".into()),
        |p| p.runtime_version = Some("2".into()),
        |p| p.runtime = Runtime::Deno,
        |p| p.build.run = Some("make".into()),
        |p| p.build.include = vec!["x".into()],
        |p| p.build.exclude = vec!["x".into()],
        |p| p.build.assets = vec!["x".into()],
        |p| p.build.container = Some(true),
        |p| (p.build.container, p.build.image) = (Some(true), Some("x".into())),
        |p| (p.build.container, p.build.targets) = (Some(false), vec![Target::parse("linux-aarch64-musl").unwrap()]),
    ];
    let mut keys = vec![same];
    for change in changes {
        let mut project = base.clone();
        change(&mut project);
        keys.push(key(&project));
    }
    write(&dir.path().join("a"), "2");
    keys.push(key(&base));
    let count = keys.len();
    keys.sort();
    keys.dedup();
    assert_eq!(keys.len(), count);
}

#[test]
fn two_builds_of_one_project_do_not_meet() {
    let dir = tempfile::tempdir().unwrap();
    let first = lock(dir.path()).unwrap();
    assert_eq!(lock(dir.path()).unwrap_err().kind(), Kind::Busy);
    drop(first);
    lock(dir.path()).unwrap();
}

#[test]
fn each_server_gets_the_artifact_of_its_target() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "#!/bin/sh\n");
    executable(&dir.path().join("main"));
    let [one, two, other] =
        ["linux-x86_64-glibc", "linux-x86_64-musl", "linux-aarch64-musl"].map(|t| Target::parse(t).unwrap());
    let mut project = project(dir.path(), "main");
    project.build.targets = vec![one, two];
    project.build.container = Some(false);
    project.build.run = Some("echo $TAKO_TARGET > target-of-mine".into());
    let made = order(&project).unwrap();
    let built = build(&project, &made, &Interrupt::never(), &|_| {}).unwrap();
    assert_eq!(built.iter().map(|b| b.target).collect::<Vec<_>>(), [one, two]);
    assert_ne!(built[0].packed.sha256, built[1].packed.sha256);
    for target in [one, two] {
        assert_eq!(fit::pick(&made, &built, "fra1", target).unwrap().target, target);
    }
    let e = fit::check(&made, "fra1", other).unwrap_err();
    assert_eq!((e.kind(), e.to_string().starts_with("fra1: it is linux-aarch64-musl")), (Kind::Config, true), "{e}");
    let all = "`targets = [\"linux-x86_64-glibc\", \"linux-x86_64-musl\", \"linux-aarch64-musl\"]`";
    assert!(e.next_step().unwrap().contains(all), "{:?}", e.next_step());
    assert!(build(&project, &made, &Interrupt::never(), &|_| {}).unwrap().iter().all(|b| b.cached));
}

#[test]
fn scripts_go_to_any_server_and_programs_to_their_own() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "#!/bin/sh\n");
    executable(&dir.path().join("main"));
    let project = project(dir.path(), "main");
    let here = Target::of_this_machine().unwrap();
    let elsewhere = Target::parse("linux-aarch64-musl").unwrap();
    let elsewhere = if here == elsewhere { Target::parse("linux-x86_64-glibc").unwrap() } else { elsewhere };
    let made = order(&project).unwrap();
    let built = build(&project, &made, &Interrupt::never(), &|_| {}).unwrap();
    assert_eq!(fit::pick(&made, &built, "fra1", elsewhere).unwrap().target, here);
    fs::copy(std::env::current_exe().unwrap(), dir.path().join("main")).unwrap();
    let made = order(&project).unwrap();
    for cached in [false, true] {
        let built = build(&project, &made, &Interrupt::never(), &|_| {}).unwrap();
        assert_eq!((built.len(), built[0].cached), (1, cached));
        assert!(fit::pick(&made, &built, "fra1", here).is_ok());
        let e = fit::pick(&made, &built, "fra1", elsewhere).unwrap_err();
        assert!(e.kind() == Kind::Config && e.to_string().contains("`main` was compiled for"), "{e}");
        assert!(e.next_step().unwrap().contains("container = true"), "{:?}", e.next_step());
    }
}

fn executable(path: &Path) {
    fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
}
