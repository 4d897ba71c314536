use std::collections::BTreeMap;
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
        build: project::Build::default(),
        limits: Limits::default(),
        envs: BTreeMap::new(),
    }
}

fn order(project: &Project) -> Result<Order> {
    super::order(project, Wish::Locked)
}

/// Runs the steps of a build as `build` does, up to what would be packed.
fn shipped(project: &Project) -> Result<Vec<String>> {
    let order = order(project)?;
    let tree = tree::make(&project.dir.join(".tako/build"), &order.source, &order.steps)?;
    for step in &order.steps {
        stage::run(&tree, &order.source, &order.environment, step, &Interrupt::never(), &mut |_| {})?;
    }
    let app = tree.join(&order.source.app);
    preset::write_entry(&app, &order.recipe)?;
    assets::merge(&tree, &order.source.root, &app, &preset::assets(&app, &order.recipe))?;
    preset::check_made(&app, &order.recipe)?;
    entry::check(&app, &entry(project, &order))?;
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
    let Order { source, environment, steps, .. } = &order;
    let e = stage::run(&tree, source, environment, &steps[0], &interrupt, &mut |_| drop(trigger.take())).unwrap_err();
    assert_eq!(e.kind(), Kind::Interrupted);
}

#[test]
fn main_must_exist_after_the_build() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("a"), "");
    let e = shipped(&project(dir.path(), "dist/main.js")).unwrap_err();
    assert!(e.kind() == Kind::Build && e.next_step().is_some_and(|hint| hint.contains("main")), "{e}");
}

fn chosen<T>(value: T) -> Chosen<T> {
    Chosen { value, from: Origin::Config }
}

fn list(items: &[&str]) -> Option<Chosen<Vec<String>>> {
    Some(chosen(items.iter().map(|item| (*item).into()).collect()))
}

/// A project, what is ordered for it, and one change to either.
type Change = (&'static str, fn(&mut Project, &mut Order));

#[test]
fn the_key_feels_every_input_and_nothing_else() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().canonicalize().unwrap();
    write(&root.join("a"), "1");
    write(&root.join("node_modules/x/package.json"), "{}");
    let key = |change: fn(&mut Project, &mut Order)| {
        let mut project = project(&root, "a");
        project.build.run = Some("make".into());
        let mut order = order(&project).unwrap();
        change(&mut project, &mut order);
        cache::key(&project, &order).unwrap()
    };
    let same = key(|_, _| {});
    assert_eq!(key(|_, _| {}), same);
    let changes: &[Change] = &[
        ("target", |_, o| o.target = Target::parse("linux-aarch64-musl").unwrap()),
        ("source", |_, o| o.source.hash = "00".into()),
        ("app's folder", |_, o| o.source.app = "apps/web".into()),
        ("runtime", |p, _| p.runtime = Runtime::Deno),
        ("runtime's version", |_, o| o.runtime_version = Some("2".into())),
        ("no version of the runtime", |_, o| o.runtime_version = None),
        ("main", |_, o| o.recipe.main.value = "b".into()),
        ("include", |_, o| o.recipe.include = list(&["x"])),
        ("exclude", |_, o| o.recipe.exclude = vec![chosen("x".into())]),
        ("assets", |_, o| o.recipe.assets = list(&["x"])),
        ("two assets", |_, o| o.recipe.assets = list(&["x", "y"])),
        ("their order", |_, o| o.recipe.assets = list(&["y", "x"])),
        ("entry", |_, o| o.recipe.entry = Some(chosen("x".into()))),
        ("copied packages", |_, o| o.recipe.modules = Some(chosen(Modules::Copy))),
        ("command", |_, o| o.steps[0].command = "make all".into()),
        ("its folder", |_, o| o.steps[0].dir = "b".into()),
        ("what it installs", |_, o| o.steps[0].installs_below = Some("b".into())),
        ("that it installs all", |_, o| o.steps[0].installs_below = Some("".into())),
        ("one command more", |_, o| o.steps.push(o.steps[0].clone())),
        ("no command", |_, o| o.steps.clear()),
        ("version", |_, o| o.source.version = Version::parse("4f2c9ab").unwrap()),
        ("environment", |_, o| o.environment = Environment::for_test("VITE_A", "1")),
        ("its value", |_, o| o.environment = Environment::for_test("VITE_A", "2")),
        ("its name", |_, o| o.environment = Environment::for_test("VITE_B", "2")),
        ("installed packages", |_, o| write(&o.source.root.join("node_modules/x/package.json"), "{\"a\":1}")),
    ];
    let mut seen = vec![same];
    for (what, change) in changes {
        let key = key(*change);
        assert!(!seen.contains(&key), "{what}");
        seen.push(key);
    }
    write(&root.join("node_modules/x/package.json"), "{}");
    let indifferent: &[Change] = &[
        ("a step's name", |_, o| o.steps[0].name = "x".into()),
        ("a warning", |_, o| o.steps[0].warning = Some("x".into())),
        ("the commit's first line", |_, o| o.source.subject = Some("x".into())),
        ("what only a server reads", |p, _| p.health = Some("/x".into())),
        ("how it starts", |p, _| p.start = Some(vec!["x".into()])),
    ];
    for (what, change) in indifferent {
        assert_eq!(key(*change), seen[0], "{what}");
    }
    // Where no command runs, a commit of the same files is the same artifact.
    let plain = |version: &str| {
        let project = project(&root, "a");
        let mut order = order(&project).unwrap();
        order.source.version = Version::parse(version).unwrap();
        cache::key(&project, &order).unwrap()
    };
    assert_eq!(plain("4f2c9ab"), plain("b81e07c"));
}

/// Builds for real; says whether it came from the cache, and what is in it.
fn built(project: &Project, anew: bool) -> (bool, Packed) {
    let order = order(project).unwrap();
    let built = build(project, &order, anew, &Interrupt::never(), &|_| {}).unwrap();
    (built.cached, built.packed)
}

#[test]
fn a_bad_entry_is_built_again_and_no_cache_builds_anyway() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "1");
    let mut project = project(dir.path(), "main");
    // Each build leaves its mark outside of the tree.
    let marks = dir.path().join(".tako/marks");
    project.build.run = Some(format!("mkdir -p out; echo built > out/x; echo . >> '{}'", marks.display()));
    let builds = || fs::read_to_string(&marks).unwrap().lines().count();
    let (cached, first) = built(&project, false);
    assert_eq!((cached, builds()), (false, 1));
    assert_eq!(built(&project, false), (true, first.clone()));
    assert_eq!(builds(), 1);
    assert_eq!(built(&project, true), (false, first.clone()));
    assert_eq!(builds(), 2);

    let artifacts = dir.path().join(".tako/artifacts");
    let of = |end: &str| {
        let mut paths = fs::read_dir(&artifacts).unwrap().map(|e| e.unwrap().path());
        let is_it = |name: &str| name.starts_with("artifact-cache-") && name.ends_with(end);
        paths.find(|p| is_it(p.file_name().unwrap().to_str().unwrap())).unwrap()
    };
    let (archive, meta) = (of(".tar.zst"), of(".json"));
    let whole = fs::read(&archive).unwrap();
    let damages: [(&str, &dyn Fn()); 6] = [
        ("a flipped bit", &|| {
            let mut bytes = whole.clone();
            bytes[whole.len() / 2] ^= 1;
            fs::write(&archive, bytes).unwrap();
        }),
        ("cut short", &|| fs::write(&archive, &whole[..whole.len() / 2]).unwrap()),
        ("empty", &|| fs::write(&archive, "").unwrap()),
        ("no archive", &|| fs::remove_file(&archive).unwrap()),
        // As after a crash between the two writes.
        ("no description", &|| fs::remove_file(&meta).unwrap()),
        ("no JSON", &|| fs::write(&meta, "{").unwrap()),
    ];
    for (n, (what, damage)) in damages.iter().enumerate() {
        damage();
        assert_eq!(built(&project, false), (false, first.clone()), "{what}");
        assert_eq!(builds(), 3 + n, "{what}");
        assert_eq!(fs::read(&archive).unwrap(), whole, "{what}");
        assert!(built(&project, false).0, "{what}");
    }
    // The archive of the sources is beside the two.
    assert_eq!(fs::read_dir(&artifacts).unwrap().count(), 3);
}

#[test]
fn sources_that_changed_while_another_build_was_waited_for_are_not_built() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "1");
    let project = project(dir.path(), "main");
    let order = order(&project).unwrap();
    disk::make_dirs(&dir.path().join(".tako"), 0o755).unwrap();
    let first = turn::take(&dir.path().join(".tako"), &Interrupt::never(), &mut |_| {}).unwrap();
    let first = std::cell::Cell::new(Some(first));
    let e = build(&project, &order, false, &Interrupt::never(), &|said| {
        if matches!(said, Said::Waiting(_)) {
            write(&dir.path().join("main"), "2");
            drop(first.take());
        }
    });
    let e = e.unwrap_err();
    assert!(e.kind() == Kind::Refused && e.to_string().contains("changed"), "{e}");
}

#[test]
fn a_command_sees_the_users_variables_but_none_of_tako() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "");
    let mut project = project(dir.path(), "main");
    project.build.run = Some("env > seen; echo $0 $- > shell".into());
    let order = order(&project).unwrap();
    let tree = tree::make(&dir.path().join(".tako/build"), &order.source, &order.steps).unwrap();
    let mut command = order.environment.command(&tree, &order.source, &order.steps[0]);
    // As if the user's terminal had them: what is removed is decided by name.
    let named: Vec<String> = command.get_envs().map(|(name, _)| name.to_string_lossy().into_owned()).collect();
    assert!(named.contains(&"TAKO_BUILD".to_string()), "{named:?}");
    assert!(command.status().unwrap().success());
    let seen = fs::read_to_string(tree.join("seen")).unwrap();
    let value = |name: &str| seen.lines().find_map(|l| l.strip_prefix(&format!("{name}="))).map(str::to_string);
    assert_eq!(value("TAKO_BUILD").unwrap(), order.source.version.as_str());
    assert_eq!(value("HOME"), std::env::var("HOME").ok());
    let first = tree.join("node_modules/.bin");
    assert!(value("PATH").unwrap().starts_with(first.to_str().unwrap()), "{seen}");
}

/// Runs one command as the build of a project; its error, and how many lines were heard.
fn fails(run: &str) -> (Error, usize) {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "");
    let mut project = project(dir.path(), "main");
    project.build.run = Some(run.into());
    let order = order(&project).unwrap();
    let tree = tree::make(&dir.path().join(".tako/build"), &order.source, &order.steps).unwrap();
    let Order { source, environment, steps, .. } = &order;
    let mut heard = 0;
    let ran = stage::run(&tree, source, environment, &steps[0], &Interrupt::never(), &mut |_| heard += 1);
    (ran.unwrap_err(), heard)
}

#[test]
fn however_much_a_command_says_only_the_end_is_kept() {
    // A line of 256 MB, then a flood, then bytes that are no text and would drive a terminal.
    let (e, heard) = fails(
        "head -c 268435456 /dev/zero | tr '\\0' x; echo; seq 200000; \
         printf '\\033[31mr\\377d\\033[0m \\033]0;title\\007end\\n'; exit 1",
    );
    assert_eq!(heard, 200_002);
    assert_eq!(e.detail().len(), 40);
    assert_eq!(e.detail()[38..], ["200000", "r\u{fffd}d end"]);
    assert!(e.next_step().is_some_and(|hint| hint.contains("--verbose")), "{:?}", e.next_step());
}

#[test]
fn a_failure_says_how_it_ended_and_what_helps() {
    let check = |run: &str, message: &str, hint: Option<&str>| {
        let (e, _) = fails(run);
        assert_eq!(e.to_string(), message);
        let told = e.next_step().unwrap_or_default();
        assert!(hint.map_or(told.is_empty(), |words| told.contains(words)), "{told}");
    };
    check("exit 7", "build: `exit 7` ended with exit code 7", None);
    check("kill -KILL $$", "build: `kill -KILL $$` was ended by SIGKILL", Some("memory runs out"));
    check(
        "sh -c 'kill -SEGV $$'; exit $?",
        "build: `sh -c 'kill -SEGV $$'; exit $?` ended with exit code 139 (SIGSEGV, it crashed)",
        None,
    );
    check(
        "set -e\nno-such-tool --x\n",
        "build: `no-such-tool --x` ended with exit code 127",
        Some("there is no `no-such-tool` here"),
    );
    check("touch x; ./x", "build: `touch x; ./x` ended with exit code 126", Some("chmod +x"));
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
    let tree = tree::make(&dir.join(".tako/build"), &order.source, &order.steps).unwrap();
    copied::modules(&tree, &order.source, &Interrupt::never()).unwrap();
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
        let e = order(&project).err().unwrap();
        assert!(e.kind() == Kind::Config && e.next_step().unwrap().contains(hint), "{e}: {:?}", e.next_step());
    };
    check(r#"{"dependencies":{"next":"16"}}"#, Runtime::Node, "preset = \"nextjs\"");
    check(r#"{"scripts":{"start":"node ./app.js"}}"#, Runtime::Node, "main = \"app.js\"");
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
