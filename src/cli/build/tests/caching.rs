//! When an artifact is taken from the cache, and when it is built.

use super::*;

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
        cache::key(&project, &order, order.targets[0]).unwrap()
    };
    let same = key(|_, _| {});
    assert_eq!(key(|_, _| {}), same);
    let changes: &[Change] = &[
        ("target", |_, o| o.targets = vec![Target::parse("linux-aarch64-musl").unwrap()]),
        ("container", |_, o| o.place = Where::Container { image: None }),
        ("image", |_, o| o.place = Where::Container { image: Some("x".into()) }),
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
        ("what only a server runs", |p, _| p.release = Some("bin/migrate".into())),
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
        cache::key(&project, &order, order.targets[0]).unwrap()
    };
    assert_eq!(plain("4f2c9ab"), plain("b81e07c"));
}

/// Builds for real; says whether it came from the cache, and what is in it.
fn built(project: &Project, anew: bool) -> (bool, Packed) {
    let order = order(project).unwrap();
    let built = build(project, &order, anew, &Interrupt::never(), &|_| {}).unwrap().remove(0);
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
fn two_environments_share_a_build_unless_it_bakes_in_what_they_differ_in() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "1");
    let mut project = project(dir.path(), "main");
    project.build.run = Some("echo \"$VITE_API $API\" > seen".into());
    let built = |vars: &[(&str, &str)]| {
        let vars = vars.iter().map(|(name, value)| (name.to_string(), value.to_string())).collect();
        let order = super::super::order(&project, &vars, Wish::Locked).unwrap();
        let built = build(&project, &order, false, &Interrupt::never(), &|_| {}).unwrap().remove(0);
        (built.cached, fs::read_to_string(dir.path().join(".tako/build/seen")).unwrap())
    };
    assert_eq!(built(&[("API", "a")]), (false, " \n".into()));
    assert!(built(&[("API", "b")]).0, "the running app's alone");
    assert_eq!(built(&[("API", "a"), ("VITE_API", "a")]), (false, "a \n".into()));
    assert_eq!(built(&[("API", "a"), ("VITE_API", "b c")]), (false, "b c \n".into()));
    assert!(built(&[("API", "b"), ("VITE_API", "a")]).0);
}

#[test]
fn where_nothing_runs_a_variable_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "1");
    let project = project(dir.path(), "main");
    let key = |value: &str| {
        let vars = [("VITE_API".to_string(), value.to_string())].into();
        let order = super::super::order(&project, &vars, Wish::Locked).unwrap();
        cache::key(&project, &order, order.targets[0]).unwrap()
    };
    assert_eq!(key("a"), key("b"));
}

#[test]
fn a_container_sees_of_the_variables_what_a_build_here_does() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "1");
    let mut project = project(dir.path(), "main");
    project.build.run = Some("true".into());
    project.build.container = Some(true);
    let vars = ["API", "VITE_API", "NEXT_PUBLIC_API"].map(|name| (name.to_string(), "x".to_string())).into();
    let order = super::super::order(&project, &vars, Wish::Locked).unwrap();
    assert_eq!(order.vars().collect::<Vec<_>>(), ["NEXT_PUBLIC_API", "VITE_API"]);
    let none = super::super::order(&project, &BTreeMap::new(), Wish::Locked).unwrap();
    let key = |order: &Order| cache::key(&project, order, order.targets[0]).unwrap();
    assert_ne!(key(&order), key(&none));
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
