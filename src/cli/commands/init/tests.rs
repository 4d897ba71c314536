use std::fs;

use super::*;
use crate::cli::args::Wish;
use crate::cli::project::Project;
use crate::cli::ui::Settings;

/// Runs `tako init` without a terminal in `dir`; what it said on both streams.
fn init(dir: &Path, flags: &[&str], yes: bool) -> (Result<Exit>, String) {
    let yes_flag: &[&str] = if yes { &["--yes"] } else { &[] };
    let line = [&["init", "--dir", dir.to_str().unwrap()], flags, yes_flag].concat();
    let Wish::Run(args) = Args::parse(line).unwrap() else { panic!("no run") };
    let (ui, out, err) = Ui::captured(Settings { yes, ..Settings::default() });
    let ended = run(&ui, &args);
    (ended, out.text() + &err.text())
}

fn write_all(dir: &Path, files: &[(&str, &str)]) {
    for (name, text) in files {
        let path = dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
}

fn bun_project() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    write_all(dir.path(), &[("package.json", "{}"), ("bun.lock", ""), ("index.ts", "")]);
    dir
}

fn written(dir: &Path) -> String {
    fs::read_to_string(dir.join(FILE)).unwrap()
}

#[test]
fn writes_a_file_that_loads() {
    let dir = bun_project();
    let (ended, said) = init(dir.path(), &["--name", "shop", "--route", "shop.example.com"], false);
    assert_eq!(ended.unwrap(), Exit::Done, "{said}");
    let mut warnings = Vec::new();
    let project = Project::load(dir.path(), &mut |w| warnings.push(w)).unwrap();
    assert_eq!((project.name.as_str(), project.runtime), ("shop", Runtime::Bun));
    assert_eq!(
        project.env(&crate::proto::name::EnvName::production()).unwrap().routes[0].to_string(),
        "shop.example.com"
    );
    assert!(warnings.is_empty() && !dir.path().join(".gitignore").exists());
    crate::cli::golden::check(Path::new("tests/data/config/init.toml"), &written(dir.path()));
}

#[test]
fn whatever_is_found_makes_a_file_that_loads() {
    let mut screens = String::new();
    let mut check = |name: &str, files: &[(&str, &str)]| {
        let dir = tempfile::tempdir().unwrap();
        write_all(dir.path(), files);
        let (ended, said) = init(dir.path(), &["--name", "shop", "--route", "shop.example.com"], true);
        ended.unwrap_or_else(|e| panic!("{name}: {e}: {said}"));
        screens += &format!("# {name}\n{said}\n");
        Project::load(dir.path(), &mut |w| panic!("{name}: {w}")).unwrap();
        crate::cli::golden::check(Path::new(&format!("tests/data/config/init-{name}.toml")), &written(dir.path()));
    };
    check("express", &[("package.json", r#"{"scripts":{"start":"node server.js"}}"#), ("server.js", "")]);
    check("nextjs", &[("package.json", r#"{"dependencies":{"next":"15"}}"#), ("pnpm-lock.yaml", "")]);
    check("deno", &[("deno.json", "{}"), ("main.ts", "")]);
    check("deno-hono", &[("deno.jsonc", "{\"imports\":{\"hono\":\"jsr:@hono/hono@4\",}}"), ("main.ts", "")]);
    check(
        "rust",
        &[("Cargo.toml", "[package]\nname = \"api\"\n"), ("Cargo.lock", ""), ("src/main.rs", "\"/healthz\"")],
    );
    check(
        "python",
        &[("main.py", "app = FastAPI()\n"), ("pyproject.toml", "dependencies = [\"fastapi\"]"), ("uv.lock", "")],
    );
    check("odd-names", &[("package.json", r#"{"scripts":{"start":"node 'a\"b.js"}}"#), ("'a\"b.js", "")]);
    check(
        "a-port-of-its-own",
        &[("go.mod", "module example.com/api\n"), ("main.go", "http.ListenAndServe(\":8080\")")],
    );
    crate::cli::golden::check(Path::new("tests/data/screens/init.txt"), &screens);
}

#[test]
fn what_cannot_be_detected_must_be_given_and_is_told_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let check = |flags: &[&str], missing: &str| {
        for yes in [false, true] {
            let e = init(dir.path(), flags, yes).0.unwrap_err();
            assert_eq!(e.kind(), Kind::NeedsInput, "{e}");
            assert!(e.next_step().unwrap().contains(&format!("give `{missing}`")), "{e}: {:?}", e.next_step());
        }
    };
    check(&["--name", "a"], "--runtime RUNTIME --main FILE --route ROUTE");
    check(&["--name", "a", "--runtime", "node"], "--main FILE --route ROUTE");
    check(&["--name", "a", "--runtime", "node", "--main", "x.js"], "--route ROUTE");
    assert!(!dir.path().join(FILE).exists());
    let flags = ["--name", "a", "--runtime", "binary", "--main", "app", "--route", "a.test"];
    init(dir.path(), &flags, false).0.unwrap();
    assert!(written(dir.path()).contains("main = \"app\""));
}

#[test]
fn refuses_bad_answers_before_anything_is_written() {
    let dir = bun_project();
    for flags in [
        &["--name", "No", "--route", "a.test"][..],
        &["--name", &"a".repeat(64), "--route", "a.test"],
        &["--name", "a", "--route", "https://a.test"],
        &["--name", "a", "--route", "a.test", "--runtime", "java"],
        &["--name", "a", "--route", "a.test", "--main", "../x.js"],
        &["--name", "a", "--route", "a.test", "--server", "no/name"],
        &["--name", "a", "--route", "a.test", "--preset", "js/nextjs"],
        &["--name", "a", "--route", "a.test", "--preset", "nextsj"],
    ] {
        assert_eq!(init(dir.path(), flags, true).0.unwrap_err().kind(), Kind::Usage, "{flags:?}");
    }
    let e = init(dir.path(), &["--runtime", "nod", "--route", "a.test"], true).0.unwrap_err();
    assert_eq!(e.next_step(), Some("did you mean `node`?"));
    assert!(!dir.path().join(FILE).exists());
}

#[test]
fn never_replaces_a_file_without_consent() {
    let dir = bun_project();
    write_all(dir.path(), &[(FILE, "# mine\n")]);
    let flags = ["--name", "a", "--route", "a.test"];
    for yes in [false, true] {
        let e = init(dir.path(), &flags, yes).0.unwrap_err();
        assert_eq!((e.kind(), written(dir.path()).as_str()), (Kind::NeedsInput, "# mine\n"));
        assert!(e.detail().iter().any(|line| line.contains("a.test")) && e.next_step().unwrap().contains("--force"));
    }
    init(dir.path(), &[&flags[..], &["--force"]].concat(), false).0.unwrap();
    assert!(written(dir.path()).contains("a.test"));
    // The same again is no question.
    let (ended, said) = init(dir.path(), &flags, false);
    assert!(ended.is_ok() && said.contains("nothing was changed"), "{said}");
}

#[test]
fn the_root_of_a_workspace_is_no_app() {
    let dir = tempfile::tempdir().unwrap();
    let app = r#"{"scripts":{"dev":"x"}}"#;
    write_all(dir.path(), &[("package.json", r#"{"workspaces":["apps/*"]}"#), ("apps/web/package.json", app)]);
    let e = init(dir.path(), &["--route", "a.test"], true).0.unwrap_err();
    assert_eq!((e.kind(), e.detail()), (Kind::Config, &["apps/web".to_string()][..]));
    assert!(e.next_step().unwrap().contains("apps/web`"), "{e}");
    let (ended, _) = init(dir.path(), &["--route", "a.test", "--main", "x.js"], true);
    ended.unwrap();
}

#[test]
fn keeps_out_of_git_what_is_built_and_never_the_secrets() {
    let dir = bun_project();
    crate::cli::git::tests::git(dir.path(), &["init", "--quiet"]);
    let flags = ["--name", "a", "--route", "a.test", "--force"];
    let (_, said) = init(dir.path(), &flags, true);
    assert!(said.contains("added .tako/ to .gitignore"), "{said}");
    let gitignore = dir.path().join(".gitignore");
    assert_eq!(fs::read_to_string(&gitignore).unwrap(), ".tako/*\n!.tako/secrets\n!.tako/build.lock.json\n");
    fs::write(&gitignore, ".tako/\n").unwrap();
    let (_, said) = init(dir.path(), &flags, true);
    assert!(said.contains("belongs in git") && said.contains(".gitignore:1:.tako/"), "{said}");
    assert_eq!(fs::read_to_string(&gitignore).unwrap(), ".tako/\n");
}
