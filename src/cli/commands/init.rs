//! `tako init`: a first `tako.toml`, from what can be detected and a question or two.

use std::fmt::Write;
use std::fs;
use std::path::Path;

use serde_json::json;

use super::Exit;
use crate::cli::args::Args;
use crate::cli::detect;
use crate::cli::project::FILE;
use crate::cli::ui::Ui;
use crate::disk::{read_if_there, write_atomic};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::Runtime;
use crate::proto::name::AppName;
use crate::proto::route::Route;

/// What Tako leaves in a project that belongs to this machine alone. Not among them: `.tako/secrets`.
const IGNORED: [&str; 2] = [".tako/artifacts/", ".tako/build/"];
/// A .gitignore beyond this is left alone.
const MAX_GITIGNORE: u64 = 1 << 20;

struct Start {
    name: AppName,
    runtime: Runtime,
    /// `None` leaves it to detection.
    main: Option<String>,
    route: Route,
}

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let dir = args.dir()?;
    let path = dir.join(FILE);
    if path.exists() && !ui.confirm(&format!("There is a {FILE} here already. Replace it?"), "`--yes` to replace it")? {
        ui.note("nothing was changed");
        return Ok(Exit::Done);
    }
    let start = ask(ui, args, &dir)?;
    write_atomic(&path, text(&start).as_bytes(), 0o644)?;
    let ignored = ignore(&dir)?;

    ui.out(&format!("wrote {FILE}: {} on {}, at {}", start.name, start.runtime.as_str(), start.route));
    match ignored {
        Ignored::Added => {
            ui.note("added Tako's build folders to .gitignore; .tako/secrets is encrypted and belongs in git")
        }
        Ignored::AllOfIt => {
            ui.warn("your .gitignore leaves out all of .tako; .tako/secrets is encrypted and belongs in git: ignore .tako/artifacts/ and .tako/build/ instead");
        }
        Ignored::Nothing => {}
    }
    ui.note("next: `tako rehearse` tries it on this machine; `tako servers add HOST` and `tako deploy` ship it");
    ui.event("result", json!({ "file": path.display().to_string(), "name": start.name, "runtime": start.runtime, "route": start.route }));
    Ok(Exit::Done)
}

/// Flags first, then what the files say, then the person.
fn ask(ui: &Ui, args: &Args, dir: &Path) -> Result<Start> {
    let usage = |e: Error| e.with_kind(Kind::Usage);
    let found_name = dir.file_name().and_then(|n| AppName::from_dir(&n.to_string_lossy()));
    let name = match (args.value("name"), found_name) {
        (Some(name), _) => AppName::parse(name).map_err(usage)?,
        // Who says the route or `--yes` wants no more questions than needed.
        (None, Some(found)) if !ui.is_interactive() || args.flag("yes") || args.value("route").is_some() => found,
        (None, found) => {
            let found = found.as_ref().map(AppName::as_str);
            AppName::parse(&ui.ask("Name of the app", found, "`--name NAME`")?).map_err(usage)?
        }
    };
    let runtime = match (args.value("runtime"), detect::runtime(dir)) {
        (Some(runtime), _) => runtime_of(runtime)?,
        (None, Some(found)) => {
            ui.note(&format!("runtime: {}", found.as_str()));
            found
        }
        (None, None) => runtime_of(&ui.ask("Runtime: bun, node, deno or binary", None, "`--runtime RUNTIME`")?)?,
    };
    let main = match (args.value("main"), detect::main(dir, runtime)) {
        (Some(main), _) => Some(main.to_string()),
        (None, Some(found)) => {
            ui.note(&format!("main: {found}"));
            None
        }
        (None, None) => Some(ui.ask("File to run, also when the build makes it", None, "`--main FILE`")?),
    };
    if let Some(main) = &main {
        check_main(main)?;
    }
    let example = format!("{name}.example.com");
    let route = match args.value("route") {
        Some(route) => route.to_string(),
        None => ui.ask(&format!("Host name for production, such as {example}"), None, "`--route ROUTE`")?,
    };
    Ok(Start { name, runtime, main, route: Route::parse(&route).map_err(usage)? })
}

fn runtime_of(name: &str) -> Result<Runtime> {
    Runtime::parse(name).ok_or_else(|| {
        Error::new(Kind::Usage, format!("`{}` is not a runtime", name.escape_debug()))
            .hint("use bun, node, deno or binary")
    })
}

/// The rule of `tako.toml`, told before the file is written.
fn check_main(main: &str) -> Result<()> {
    let inside = !main.trim().is_empty()
        && !main.starts_with('/')
        && !main.split('/').any(|part| part == "..")
        && !main.contains(char::is_control);
    match inside {
        true => Ok(()),
        false => Err(Error::new(Kind::Usage, format!("`{}` is not a file of this project", main.escape_debug()))
            .hint("give a path inside the app's directory, such as server.js")),
    }
}

/// Small on purpose: what is not here has a default.
fn text(start: &Start) -> String {
    let quoted = |text: &str| toml_edit::Value::from(text).to_string();
    let mut text = String::new();
    let _ =
        writeln!(text, "# What Tako deploys, and where. `tako deploy` ships it; `tako rehearse` tries it here first.");
    let _ = writeln!(text, "name = {}", quoted(start.name.as_str()));
    let _ = writeln!(text, "runtime = {}", quoted(start.runtime.as_str()));
    if let Some(main) = &start.main {
        let _ = writeln!(text, "main = {}", quoted(main));
    }
    let _ = write!(
        text,
        "
# [build]
# build = \"npm run build\"

# [vars]
# LOG_LEVEL = \"info\"

[envs.production]
route = {}
# instances = 2     # 0 starts the app on its first request
",
        quoted(&start.route.to_string())
    );
    text
}

enum Ignored {
    Added,
    /// The user's own lines leave out more than ours would.
    AllOfIt,
    Nothing,
}

/// Adds [`IGNORED`] to the app's `.gitignore`, if this is a git repository.
fn ignore(dir: &Path) -> Result<Ignored> {
    let path = dir.join(".gitignore");
    let here = read_if_there(&path, MAX_GITIGNORE)?;
    if here.is_none() && !detect::source_root(dir).join(".git").exists() {
        return Ok(Ignored::Nothing);
    }
    let Ok(mut text) = String::from_utf8(here.unwrap_or_default()) else { return Ok(Ignored::Nothing) };
    let has = |line: &str| {
        text.lines().any(|l| l.trim().trim_start_matches('/').trim_end_matches('/') == line.trim_end_matches('/'))
    };
    if has(".tako") || has(".tako/*") || has(".tako/**") {
        return Ok(Ignored::AllOfIt);
    }
    let missing: Vec<&str> = IGNORED.into_iter().filter(|line| !has(line)).collect();
    if missing.is_empty() {
        return Ok(Ignored::Nothing);
    }
    let end = if text.contains("\r\n") { "\r\n" } else { "\n" };
    if !text.is_empty() && !text.ends_with('\n') {
        text.push_str(end);
    }
    for line in missing {
        text.push_str(line);
        text.push_str(end);
    }
    // Not atomically: the file may be a link, and its permissions are the user's.
    fs::write(&path, text).context(|| format!("write {}", path.display()))?;
    Ok(Ignored::Added)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::args::Wish;
    use crate::cli::project::Project;
    use crate::cli::ui::Settings;

    /// Runs `tako init` without a terminal in `dir`; what it said on both streams.
    fn init(dir: &Path, flags: &[&str], yes: bool) -> (Result<Exit>, String) {
        let line = [&["init", "--dir", dir.to_str().unwrap()], flags].concat();
        let Wish::Run(args) = Args::parse(line).unwrap() else { panic!("no run") };
        let (ui, out, err) = Ui::captured(Settings { yes, ..Settings::default() });
        let ended = run(&ui, &args);
        (ended, out.text() + &err.text())
    }

    fn bun_project() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in [("package.json", "{}"), ("bun.lock", ""), ("index.ts", "")] {
            fs::write(dir.path().join(name), text).unwrap();
        }
        dir
    }

    #[test]
    fn writes_a_file_that_loads() {
        let dir = bun_project();
        let (ended, said) = init(dir.path(), &["--name", "shop", "--route", "shop.example.com"], false);
        assert_eq!(ended.unwrap(), Exit::Done, "{said}");
        let mut warnings = Vec::new();
        let project = Project::load(dir.path(), &mut |w| warnings.push(w)).unwrap();
        assert_eq!((project.name.as_str(), project.runtime, &project.main), ("shop", Runtime::Bun, &None));
        assert_eq!(
            project.env(&crate::proto::name::EnvName::production()).unwrap().routes[0].to_string(),
            "shop.example.com"
        );
        assert!(warnings.is_empty() && !dir.path().join(".gitignore").exists());
        crate::cli::golden::check(
            Path::new("tests/data/config/init.toml"),
            &fs::read_to_string(dir.path().join(FILE)).unwrap(),
        );
    }

    #[test]
    fn what_cannot_be_detected_must_be_given() {
        let dir = tempfile::tempdir().unwrap();
        let check = |flags: &[&str], flag: &str| {
            let e = init(dir.path(), flags, true).0.unwrap_err();
            assert_eq!(e.kind(), Kind::NeedsInput, "{e}");
            assert!(e.next_step().unwrap().contains(flag), "{e}: {:?}", e.next_step());
        };
        check(&["--name", "a"], "--runtime");
        check(&["--name", "a", "--runtime", "node"], "--main");
        check(&["--name", "a", "--runtime", "node", "--main", "x.js"], "--route");
        assert!(!dir.path().join(FILE).exists());
        let (ended, _) =
            init(dir.path(), &["--name", "a", "--runtime", "binary", "--main", "app", "--route", "a.test"], false);
        ended.unwrap();
        assert_eq!(Project::load(dir.path(), &mut |_| {}).unwrap().main.as_deref(), Some("app"));
    }

    #[test]
    fn refuses_bad_answers_before_anything_is_written() {
        let dir = bun_project();
        for flags in [
            &["--name", "No", "--route", "a.test"][..],
            &["--name", "a", "--route", "https://a.test"],
            &["--name", "a", "--route", "a.test", "--runtime", "java"],
            &["--name", "a", "--route", "a.test", "--main", "../x.js"],
        ] {
            assert_eq!(init(dir.path(), flags, true).0.unwrap_err().kind(), Kind::Usage, "{flags:?}");
        }
        assert!(!dir.path().join(FILE).exists());
    }

    #[test]
    fn never_replaces_a_file_without_consent() {
        let dir = bun_project();
        fs::write(dir.path().join(FILE), "# mine\n").unwrap();
        let flags = ["--name", "a", "--route", "a.test"];
        let e = init(dir.path(), &flags, false).0.unwrap_err();
        assert_eq!(
            (e.kind(), fs::read_to_string(dir.path().join(FILE)).unwrap().as_str()),
            (Kind::NeedsInput, "# mine\n")
        );
        init(dir.path(), &flags, true).0.unwrap();
        assert!(fs::read_to_string(dir.path().join(FILE)).unwrap().contains("a.test"));
    }

    #[test]
    fn ignores_what_is_built_and_never_the_secrets() {
        let dir = bun_project();
        fs::create_dir(dir.path().join(".git")).unwrap();
        let gitignore = dir.path().join(".gitignore");
        let flags = ["--name", "a", "--route", "a.test"];
        init(dir.path(), &flags, true).0.unwrap();
        assert_eq!(fs::read_to_string(&gitignore).unwrap(), ".tako/artifacts/\n.tako/build/\n");
        fs::write(&gitignore, "node_modules\r\n/.tako/build").unwrap();
        init(dir.path(), &flags, true).0.unwrap();
        assert_eq!(fs::read_to_string(&gitignore).unwrap(), "node_modules\r\n/.tako/build\r\n.tako/artifacts/\r\n");
        fs::write(&gitignore, ".tako/\n").unwrap();
        let (_, said) = init(dir.path(), &flags, true);
        assert!(said.contains("belongs in git"), "{said}");
        assert_eq!(fs::read_to_string(&gitignore).unwrap(), ".tako/\n");
    }
}
