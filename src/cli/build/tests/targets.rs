//! Which artifact goes to which server.

use super::*;

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
    let built = build(&project, &made, false, &Interrupt::never(), &|_| {}).unwrap();
    assert_eq!(built.iter().map(|b| b.target).collect::<Vec<_>>(), [one, two]);
    assert_ne!(built[0].packed.sha256, built[1].packed.sha256);
    for target in [one, two] {
        assert_eq!(fit::pick(&made, &built, "fra1", target).unwrap().target, target);
    }
    let e = fit::check(&made, "fra1", other).unwrap_err();
    assert_eq!((e.kind(), e.to_string().starts_with("fra1: it is linux-aarch64-musl")), (Kind::Config, true), "{e}");
    let all = "`targets = [\"linux-x86_64-glibc\", \"linux-x86_64-musl\", \"linux-aarch64-musl\"]`";
    assert!(e.next_step().unwrap().contains(all), "{:?}", e.next_step());
    assert!(build(&project, &made, false, &Interrupt::never(), &|_| {}).unwrap().iter().all(|b| b.cached));
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
    let built = build(&project, &made, false, &Interrupt::never(), &|_| {}).unwrap();
    assert_eq!(fit::pick(&made, &built, "fra1", elsewhere).unwrap().target, here);
    fs::copy(std::env::current_exe().unwrap(), dir.path().join("main")).unwrap();
    let made = order(&project).unwrap();
    for cached in [false, true] {
        let built = build(&project, &made, false, &Interrupt::never(), &|_| {}).unwrap();
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
