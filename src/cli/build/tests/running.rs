//! How commands run, end and fail.

use super::*;

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
    let tree = tree_of(dir.path(), &order).unwrap();
    let (trigger, interrupt) = Interrupt::never().or_trigger();
    let mut trigger = Some(trigger);
    let Order { source, environment, steps, .. } = &order;
    let e = stage::run(&tree, source, environment, &steps[0], &turn_in(dir.path()), &interrupt, &mut |_| {
        drop(trigger.take())
    })
    .unwrap_err();
    assert_eq!(e.kind(), Kind::Interrupted);
}

#[test]
fn a_command_sees_the_users_variables_but_none_of_tako() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "");
    let mut project = project(dir.path(), "main");
    project.build.run = Some("env > seen; echo $0 $- > shell".into());
    let order = order(&project).unwrap();
    let tree = tree_of(dir.path(), &order).unwrap();
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
    let tree = tree_of(dir.path(), &order).unwrap();
    let Order { source, environment, steps, .. } = &order;
    let mut heard = 0;
    let ran = stage::run(&tree, source, environment, &steps[0], &turn_in(dir.path()), &Interrupt::never(), &mut |_| {
        heard += 1
    });
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
fn of_an_installation_that_fails_both_ends_are_shown() {
    let dir = tempfile::tempdir().unwrap();
    write(&dir.path().join("main"), "");
    let fails = |lines: usize| {
        let mut project = project(dir.path(), "main");
        project.build.install = Some(format!("seq {lines}; exit 1"));
        let order = order(&project).unwrap();
        let tree = tree_of(dir.path(), &order).unwrap();
        let Order { source, environment, steps, .. } = &order;
        stage::run(&tree, source, environment, &steps[0], &turn_in(dir.path()), &Interrupt::never(), &mut |_| {})
            .unwrap_err()
    };
    assert_eq!(fails(40).detail()[11..13], ["12", "13"]);
    let (long, flood) = (fails(41), fails(1000));
    assert_eq!(long.detail()[11..14], ["12", "… 1 more lines …", "14"]);
    assert_eq!((flood.detail()[0].as_str(), flood.detail()[12].as_str()), ("1", "… 960 more lines …"));
    assert_eq!((flood.detail()[13].as_str(), flood.detail()[40].as_str()), ("973", "1000"));
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
