//! What `tako init` can tell of a project without asking: each answer with the file that gave it.
//!
//! It reads a few small files and runs nothing. A guess that may be wrong is an answer that a person can change, and
//! never one that is written where the truth would be found by itself later.

use std::fs;
use std::path::{Path, PathBuf};

use crate::cli::build::preset::built_in;
use crate::cli::detect::{self, Needs, Package};
use crate::disk::read_if_there;
use crate::proto::manifest::Runtime;

/// A source file or a list of dependencies beyond this is not looked into.
const MAX_TEXT: u64 = 256 << 10;
/// Places in a source that are looked at for a port; a short program has a few hundred.
const MAX_MARKS: usize = 2_000;
/// Folders of a workspace that are named as a hint.
const MAX_APPS: usize = 6;
/// Folders that are looked into for them.
const MAX_FOLDERS: usize = 200;

/// Packages that a project with the preset `hono` may need, of npm and of JSR.
const HONO: [(&str, &str); 3] = [("@hono/node-server", "hono"), ("hono", "hono"), ("@hono/hono", "hono")];

/// An answer, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Seen<T> {
    pub value: T,
    pub why: String,
}

#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Found {
    pub runtime: Option<Seen<Runtime>>,
    /// The preset for the framework that the project depends on.
    pub preset: Option<Seen<String>>,
    /// A file that nobody would find by itself; `None` with a runtime that has one by habit too.
    pub main: Option<Seen<String>>,
    /// The file that is found by itself, each time.
    pub habit: Option<String>,
    pub build: Option<Seen<String>>,
    pub start: Option<Vec<String>>,
    pub install: Option<Vec<String>>,
    pub health: Option<Seen<String>>,
    /// The package manager, for people.
    pub packages: Option<Seen<&'static str>>,
    /// Worth a word: what the app itself may have to change.
    pub remarks: Vec<String>,
}

impl Found {
    /// What the files in `dir` say; `runtime` is what a person said already.
    pub fn of(dir: &Path, runtime: Option<Runtime>) -> Found {
        let found = match (detect::runtime_and_why(dir), runtime) {
            (Some((found, why)), None) => Some(Seen { value: found, why }),
            (_, Some(given)) => Some(Seen { value: given, why: "--runtime".into() }),
            (None, None) => None,
        };
        match found {
            Some(Seen { value: Runtime::Binary, .. }) | None => {
                let program = cargo(dir).or_else(|| go(dir)).or_else(|| python(dir)).unwrap_or_default();
                Found { runtime: found.or(program.runtime), ..program }
            }
            Some(runtime) => script(dir, runtime),
        }
    }
}

fn script(dir: &Path, runtime: Seen<Runtime>) -> Found {
    let habit = detect::main(dir, runtime.value);
    let started = detect::started(dir).map(|(value, why)| Seen { value, why });
    let preset = preset(dir, runtime.value, started.is_some() || habit.is_some());
    let (main, habit) = match (&preset, habit) {
        // It says what is run.
        (Some(_), _) => (None, None),
        (None, Some(habit)) => (None, Some(habit)),
        (None, None) => (started.or_else(|| usual_main(dir)), None),
    };
    Found { runtime: Some(runtime), preset, main, habit, packages: packages(dir), ..Found::default() }
}

/// What an app is made with, as its dependencies tell, if there is a preset for that; the first that is there counts.
/// Some of them are also only a part of an app that has a `server` of its own.
fn preset(dir: &Path, runtime: Runtime, server: bool) -> Option<Seen<String>> {
    let there = |name: &str| dir.join(name).is_file();
    let needs = Needs::of(dir, runtime);
    let known = detect::FAMILIES.into_iter().chain(HONO);
    let is_it = |needed: &str, name: &str| {
        let fits = match (name, runtime) {
            // Neither is always the whole app.
            ("vite", _) => !server && there("index.html"),
            ("hono", Runtime::Node) => !server && needed == "@hono/node-server",
            // The preset knows how it is developed.
            ("hono", Runtime::Deno) => there("main.ts"),
            // The file that is there says it all.
            ("hono", _) => false,
            _ => true,
        };
        fits && built_in::family(runtime, name).is_some()
    };
    known.into_iter().find_map(|(needed, name)| {
        let file = needs.file_with(needed).filter(|_| is_it(needed, name))?;
        Some(Seen { value: name.into(), why: format!("`{needed}` in {file}") })
    })
}

fn usual_main(dir: &Path) -> Option<Seen<String>> {
    const STEMS: [&str; 6] = ["server", "src/server", "app", "src/app", "main", "src/main"];
    let names = STEMS.iter().flat_map(|stem| ["ts", "js", "mjs"].map(|ext| format!("{stem}.{ext}")));
    let found = names.into_iter().find(|name| dir.join(name).is_file())?;
    Some(Seen { why: "found here".into(), value: found })
}

fn packages(dir: &Path) -> Option<Seen<&'static str>> {
    const LOCKS: [(&str, &str); 6] = [
        ("bun.lock", "bun"),
        ("bun.lockb", "bun"),
        ("pnpm-lock.yaml", "pnpm"),
        ("yarn.lock", "yarn"),
        ("package-lock.json", "npm"),
        ("deno.lock", "deno"),
    ];
    let root = detect::source_root(dir);
    let mut up = String::new();
    for above in dir.ancestors().take_while(|above| above.starts_with(root)) {
        if let Some((lock, manager)) = LOCKS.iter().find(|(lock, _)| above.join(lock).is_file()) {
            return Some(Seen { value: manager, why: format!("{up}{lock}") });
        }
        up.push_str("../");
    }
    None
}

fn cargo(dir: &Path) -> Option<Found> {
    let manifest: toml_edit::DocumentMut = text(&dir.join("Cargo.toml"))?.parse().ok()?;
    let package = manifest.get("package")?.get("name")?.as_str()?;
    let bins = manifest.get("bin").and_then(|bins| bins.as_array_of_tables());
    let named = bins.and_then(|bins| bins.iter().next()?.get("name")?.as_str());
    if named.is_none() && !dir.join("src/main.rs").is_file() && !dir.join("src/bin").is_dir() {
        return None;
    }
    // A workspace has its target folder elsewhere, and `main` lies in the app.
    let apart = match dir.join("Cargo.lock").is_file() || manifest.get("workspace").is_some() {
        true => "",
        false => " --target-dir target",
    };
    let why = || "Cargo.toml".to_string();
    Some(
        Found {
            runtime: Some(Seen { value: Runtime::Binary, why: why() }),
            main: Some(Seen { value: format!("target/release/{}", named.unwrap_or(package)), why: why() }),
            build: Some(Seen { value: format!("cargo build --release --locked{apart}"), why: why() }),
            ..Found::default()
        }
        .with_source(dir, &["src/main.rs", "src/lib.rs", "src/server.rs"]),
    )
}

fn go(dir: &Path) -> Option<Found> {
    let module = text(&dir.join("go.mod"))?;
    let module = module.lines().find_map(|line| line.strip_prefix("module "))?.trim();
    let name = detect::tidy(module.rsplit('/').next()?)?;
    let (package, source) = match dir.join("main.go").is_file() {
        true => (".".to_string(), "main.go".to_string()),
        false => {
            let command = fs::read_dir(dir.join("cmd")).ok()?.flatten().take(MAX_FOLDERS).map(|e| e.path());
            let mut commands: Vec<PathBuf> = command.filter(|c| c.join("main.go").is_file()).collect();
            commands.sort();
            let command = commands.first()?.file_name()?.to_str()?;
            (format!("./cmd/{command}"), format!("cmd/{command}/main.go"))
        }
    };
    let why = || "go.mod".to_string();
    Some(
        Found {
            runtime: Some(Seen { value: Runtime::Binary, why: why() }),
            main: Some(Seen { value: format!("bin/{name}"), why: why() }),
            build: Some(Seen {
                value: format!("CGO_ENABLED=0 go build -trimpath -o bin/{name} {package}"),
                why: why(),
            }),
            ..Found::default()
        }
        .with_source(dir, &[&source]),
    )
}

fn python(dir: &Path) -> Option<Found> {
    const MAINS: [&str; 7] =
        ["main.py", "app.py", "server.py", "src/main.py", "app/main.py", "src/app.py", "manage.py"];
    let listed = ["pyproject.toml", "requirements.txt"].into_iter().find(|name| dir.join(name).is_file());
    let main = MAINS.into_iter().find(|name| dir.join(name).is_file())?;
    let why = listed.unwrap_or(main).to_string();
    let lists: String =
        ["pyproject.toml", "requirements.txt"].iter().filter_map(|name| text(&dir.join(name))).collect();
    let source = text(&dir.join(main)).unwrap_or_default();
    let words = |line: &str| line.split(' ').map(str::to_string).collect::<Vec<_>>();
    let shell = |line: String| vec!["sh".to_string(), "-c".to_string(), line];
    let (python, install) = if dir.join("uv.lock").is_file() {
        (".venv/bin/python", Some(words("uv sync --frozen --no-dev")))
    } else if dir.join("requirements.txt").is_file() {
        let line = "python3 -m venv .venv && .venv/bin/pip install --quiet -r requirements.txt";
        (".venv/bin/python", Some(shell(line.into())))
    } else {
        ("python3", None)
    };
    let module = main.trim_end_matches(".py").replace('/', ".");
    // Only where the name of the application is plain to see: the rest is for its author to say.
    let variable = ["app", "application"].into_iter().find(|name| {
        source.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.trim_start().starts_with("= ")))
    });
    let start = match variable {
        Some(app) if lists.contains("uvicorn") || lists.contains("fastapi") => {
            shell(format!("exec {python} -m uvicorn {module}:{app} --host $HOST --port $PORT"))
        }
        Some(app) if lists.contains("gunicorn") => {
            shell(format!("exec {python} -m gunicorn {module}:{app} --bind $HOST:$PORT"))
        }
        _ => vec![python.into(), "{main}".into()],
    };
    let found = Found {
        runtime: Some(Seen { value: Runtime::Binary, why: why.clone() }),
        main: Some(Seen { value: main.into(), why }),
        start: Some(start),
        install,
        ..Found::default()
    };
    Some(found.with_source(dir, &[main]))
}

impl Found {
    /// Looks into the program's own text for its health path, and for a port of its own.
    fn with_source(mut self, dir: &Path, files: &[&str]) -> Found {
        const PATHS: [&str; 5] = ["/healthz", "/health", "/readyz", "/up", "/ping"];
        for file in files {
            let Some(source) = text(&dir.join(file)) else { continue };
            let quoted =
                |path: &&&str| source.contains(&format!("\"{path}\"")) || source.contains(&format!("'{path}'"));
            if self.health.is_none()
                && let Some(path) = PATHS.iter().find(quoted)
            {
                self.health = Some(Seen { value: (*path).into(), why: (*file).into() });
            }
            // Whoever names the variable knows; what is started with it in its arguments need not.
            let told = source.contains("PORT") || self.start.iter().flatten().any(|word| word.contains("$PORT"));
            if let (false, Some(port)) = (told, port_in(&source)) {
                self.remarks.push(format!(
                    "{file} seems to listen on port {port}: Tako gives every instance a port of its own in $PORT"
                ));
            }
        }
        self
    }
}

/// A port in a text such as `":8080"`, `0.0.0.0:3000` or `port=8000`.
fn port_in(source: &str) -> Option<u16> {
    let starts = source.match_indices([':', '=', '(', ',']);
    starts.take(MAX_MARKS).find_map(|(at, mark)| {
        let (before, rest) = (source.get(..at)?, source.get(at + 1..)?);
        let number = if mark == ":" { rest } else { rest.trim_start_matches(' ') };
        let digits = number.bytes().take_while(u8::is_ascii_digit).count();
        let after = number.get(digits..)?.chars().next();
        let meant = match mark {
            // The colon is within the text: `":8080"`, and not behind one: `"a":1999`.
            ":" => match before.chars().next_back() {
                Some(quote @ ('"' | '\'')) => after == Some(quote),
                last => last.is_some_and(|c| c.is_ascii_digit()),
            },
            "=" => before.trim_end().to_ascii_lowercase().ends_with("port"),
            _ => before.to_ascii_lowercase().ends_with("listen") || before.ends_with(['"', '\'']),
        };
        let port = number.get(..digits).filter(|d| (4..=5).contains(&d.len()))?.parse().ok()?;
        (meant && port >= 1024).then_some(port)
    })
}

/// The packages of a workspace that look like apps, when `dir` is the root of one and no app itself.
pub(super) fn apps_below(dir: &Path) -> Vec<String> {
    let package = Package::of(dir);
    let root = package.as_ref().is_some_and(Package::is_workspace_root)
        || ["pnpm-workspace.yaml", "turbo.json", "nx.json", "lerna.json"].iter().any(|name| dir.join(name).is_file());
    if !root || package.is_some_and(|p| p.script("start").is_some()) {
        return Vec::new();
    }
    let groups = ["apps", "packages", "services", "sites"].map(|group| (group, dir.join(group)));
    let mut found = Vec::new();
    for (group, folder) in groups {
        let mut names: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().take(MAX_FOLDERS).collect();
        names.sort_by_key(fs::DirEntry::file_name);
        for entry in names {
            let runs = |p: Package| p.script("start").or(p.script("dev")).is_some();
            if Package::of(&entry.path()).is_some_and(runs) || entry.path().join("tako.toml").is_file() {
                found.push(format!("{group}/{}", entry.file_name().display()));
            }
        }
    }
    found.truncate(MAX_APPS);
    found
}

fn text(path: &Path) -> Option<String> {
    String::from_utf8(read_if_there(path, MAX_TEXT).ok()??).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::detect::tests::folder;

    fn found(files: &[(&str, &str)]) -> Found {
        Found::of(folder(files).path(), None)
    }

    #[test]
    fn a_script_is_what_the_start_command_runs() {
        let check = |package: &str, files: &[&str], expected: Option<(&str, &str)>| {
            let files: Vec<(&str, &str)> = files.iter().map(|f| (*f, "")).chain([("package.json", package)]).collect();
            let main = found(&files).main;
            assert_eq!(main.as_ref().map(|m| (m.value.as_str(), m.why.as_str())), expected, "{package}");
        };
        check("{}", &[], None);
        check("{}", &["index.js", "server.js"], None);
        check("{}", &["server.js", "app.js"], Some(("server.js", "found here")));
        check(r#"{"main":"./lib/run.js"}"#, &["lib/run.js"], Some(("lib/run.js", "main of package.json")));
        check(r#"{"main":"dist/run.js"}"#, &[], None);
        let script = |start: &str, more: &str| format!(r#"{{"scripts":{{"start":"{start}"{more}}}}}"#);
        let start = "script `start` of package.json";
        check(&script("node ./bin/www.js", ""), &["bin/www.js"], Some(("bin/www.js", start)));
        check(&script("node dist/server.js", r#","build":"tsc""#), &[], Some(("dist/server.js", start)));
        check(&script("node dist/server.js", ""), &[], None);
        let long = "cross-env NODE_ENV=production node --enable-source-maps -r ./x server.mjs";
        check(&script(long, ""), &["server.mjs"], Some(("server.mjs", start)));
        check(&script("next start", ""), &[], None);
        check(&script("node ../../x.js", r#","build":"x""#), &[], None);
    }

    #[test]
    fn a_framework_is_told_by_its_package() {
        let check = |package: &str, files: &[&str], expected: Option<&str>| {
            let package = format!(r#"{{"dependencies":{{{package}}},"scripts":{{"start":"node server.js"}}}}"#);
            let all: Vec<(&str, &str)> = files.iter().map(|f| (*f, "")).chain([("package.json", &*package)]).collect();
            assert_eq!(found(&all).preset.map(|p| p.value).as_deref(), expected, "{package} {files:?}");
        };
        check("", &[], None);
        check(r#""next":"15""#, &[], Some("nextjs"));
        check(r#""next":"15","vite":"6""#, &["server.js", "index.html"], Some("nextjs"));
        check(r#""vite":"6","@sveltejs/kit":"2""#, &["index.html"], Some("sveltekit"));
        check(r#""vite":"6""#, &["index.html"], Some("vite"));
        check(r#""vite":"6""#, &[], None);
        check(r#""vite":"6""#, &["index.html", "server.js"], None);
        check(r#""@hono/node-server":"1""#, &[], Some("hono"));
        check(r#""@hono/node-server":"1""#, &["bun.lock"], None);
        check(r#""left-pad":"1""#, &[], None);
        check(r#""hono":"4""#, &[], None);
    }

    #[test]
    fn a_framework_is_told_by_what_deno_imports() {
        let check = |imports: &str, files: &[&str], expected: Option<(&str, &str)>| {
            let deno = format!("{{ // ours\n\"imports\":{{{imports}}},}}");
            let all: Vec<(&str, &str)> = files.iter().map(|f| (*f, "")).chain([("deno.json", &*deno)]).collect();
            let preset = found(&all).preset;
            assert_eq!(preset.as_ref().map(|p| (p.value.as_str(), p.why.as_str())), expected, "{imports} {files:?}");
        };
        check(r#""astro":"npm:astro@5""#, &[], Some(("astro", "`astro` in deno.json")));
        check(r#""hono":"jsr:@hono/hono@4""#, &["main.ts"], Some(("hono", "`@hono/hono` in deno.json")));
        check(r#""hono":"npm:hono@4""#, &["main.ts"], Some(("hono", "`hono` in deno.json")));
        check(r#""hono":"npm:hono@4""#, &["server.ts"], None);
        check(r#""vite":"npm:vite@7""#, &["index.html"], Some(("vite", "`vite` in deno.json")));
        check(r#""vite":"npm:vite@7""#, &["index.html", "main.ts"], None);
        check(r#""std":"jsr:@std/http@1""#, &["main.ts"], None);
    }

    #[test]
    fn a_program_is_built_and_named_as_its_tool_does() {
        let check = |files: &[(&str, &str)], main: &str, build: &str| {
            let found = found(files);
            assert_eq!(found.runtime.unwrap().value, Runtime::Binary);
            assert_eq!((found.main.unwrap().value.as_str(), found.build.unwrap().value.as_str()), (main, build));
        };
        let package = "[package]\nname = \"api\"\n";
        check(
            &[("Cargo.toml", package), ("Cargo.lock", ""), ("src/main.rs", "")],
            "target/release/api",
            "cargo build --release --locked",
        );
        check(
            &[("Cargo.toml", "[package]\nname = \"api\"\n[[bin]]\nname = \"serve\"\n")],
            "target/release/serve",
            "cargo build --release --locked --target-dir target",
        );
        let go = "CGO_ENABLED=0 go build -trimpath -o bin/api";
        check(&[("go.mod", "module example.com/api\n"), ("main.go", "")], "bin/api", &format!("{go} ."));
        check(
            &[("go.mod", "module example.com/api\n"), ("cmd/web/main.go", "")],
            "bin/api",
            &format!("{go} ./cmd/web"),
        );
        assert_eq!(found(&[("Cargo.toml", package), ("src/lib.rs", "")]), Found::default());
    }

    #[test]
    fn a_python_app_is_started_by_what_it_was_written_for() {
        let check = |files: &[(&str, &str)], start: &str, install: Option<&str>| {
            let found = found(files);
            assert_eq!(found.start.unwrap().join(" "), start);
            assert_eq!(found.install.map(|i| i.join(" ")).as_deref(), install);
        };
        check(&[("main.py", "x")], "python3 {main}", None);
        let pip = "sh -c python3 -m venv .venv && .venv/bin/pip install --quiet -r requirements.txt";
        check(&[("app.py", "x"), ("requirements.txt", "requests\n")], ".venv/bin/python {main}", Some(pip));
        check(
            &[("main.py", "app = FastAPI()\n"), ("pyproject.toml", "dependencies = [\"fastapi\"]"), ("uv.lock", "")],
            "sh -c exec .venv/bin/python -m uvicorn main:app --host $HOST --port $PORT",
            Some("uv sync --frozen --no-dev"),
        );
        check(
            &[("src/app.py", "app = Flask(__name__)\n"), ("pyproject.toml", "gunicorn")],
            "sh -c exec python3 -m gunicorn src.app:app --bind $HOST:$PORT",
            None,
        );
    }

    #[test]
    fn a_port_of_its_own_and_a_health_path_are_noticed() {
        let check = |source: &str, port: Option<u16>, health: Option<&str>| {
            let found = found(&[("main.py", source)]);
            let said = port.map(|p| format!("port {p}:"));
            assert_eq!(found.remarks.len(), usize::from(port.is_some()), "{source}: {:?}", found.remarks);
            assert!(said.is_none_or(|s| found.remarks[0].contains(&s)), "{source}");
            assert_eq!(found.health.map(|h| h.value).as_deref(), health, "{source}");
        };
        check("serve(('', 8000))", Some(8000), None);
        check("app.run(port=5000)\n@get('/healthz')", Some(5000), Some("/healthz"));
        check("listen(\"0.0.0.0:3000\")", Some(3000), None);
        check("listen(\":8080\")", Some(8080), None);
        check("serve(('', int(os.environ['PORT'])))", None, None);
        check("x = 2024\ny = {'a': 1999, \"b\":1998}", None, None);
    }

    #[test]
    fn the_root_of_a_workspace_names_its_apps() {
        let root = r#"{"workspaces":["apps/*"]}"#;
        let app = r#"{"scripts":{"dev":"x"}}"#;
        let dir = folder(&[
            ("package.json", root),
            ("apps/web/package.json", app),
            ("apps/api/package.json", app),
            ("packages/ui/package.json", "{}"),
        ]);
        assert_eq!(apps_below(dir.path()), ["apps/api", "apps/web"]);
        assert!(apps_below(&dir.path().join("apps/web")).is_empty());
        let started = r#"{"workspaces":["apps/*"],"scripts":{"start":"node x.js"}}"#;
        assert!(apps_below(folder(&[("package.json", started), ("apps/web/package.json", app)]).path()).is_empty());
    }

    #[test]
    fn the_package_manager_is_told_by_the_nearest_lock_file() {
        let dir = folder(&[(".git/HEAD", ""), ("pnpm-lock.yaml", ""), ("apps/web/package.json", "{}")]);
        let found = Found::of(&dir.path().join("apps/web"), None);
        assert_eq!(found.packages, Some(Seen { value: "pnpm", why: "../../pnpm-lock.yaml".into() }));
    }
}
