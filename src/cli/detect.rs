//! What a project's files say when `tako.toml` says nothing: its runtime, the file to run, and what `package.json` and
//! Deno's own file have.
//!
//! An unreadable file says nothing here; the tool that needs it will say what is wrong with it.

pub(crate) mod deno;

use std::path::Path;

use serde_json::Value;

use crate::disk::read_if_there;
use crate::proto::manifest::Runtime;
use deno::DenoFile;

/// A package.json beyond this is not one.
const MAX_PACKAGE_JSON: u64 = 1 << 20;
const EXTENSIONS: [&str; 5] = ["ts", "tsx", "js", "jsx", "mjs"];

const DENO: [&str; 3] = ["deno.json", "deno.jsonc", "deno.lock"];
const BUN: [&str; 2] = ["bun.lock", "bun.lockb"];

/// The runtime that the files in `dir` were written for; `None` when they do not say.
pub(crate) fn runtime(dir: &Path) -> Option<Runtime> {
    runtime_and_why(dir).map(|(runtime, _)| runtime)
}

/// The same with the file that says so, relative to `dir`. A package of a workspace is run by what the workspace has.
pub(crate) fn runtime_and_why(dir: &Path) -> Option<(Runtime, String)> {
    let any = |dir: &Path, names: &[&'static str]| names.iter().copied().find(|n| dir.join(n).exists());
    if let Some(name) = any(dir, &DENO) {
        return Some((Runtime::Deno, name.into()));
    }
    if let Some(name) = any(dir, &BUN) {
        return Some((Runtime::Bun, name.into()));
    }
    let package = dir.join("package.json").exists();
    if !package {
        return None;
    }
    let bun = |dir: &Path| Package::of(dir).is_some_and(|p| p.manager().is_some_and(|m| m == "bun"));
    if bun(dir) {
        return Some((Runtime::Bun, "packageManager in package.json".into()));
    }
    let root = source_root(dir);
    let mut up = String::new();
    for above in dir.ancestors().skip(1).take_while(|above| above.starts_with(root)) {
        up.push_str("../");
        // The nearest lock file is the one that counts.
        if any(above, &["package-lock.json", "pnpm-lock.yaml", "yarn.lock"]).is_some() {
            break;
        }
        if let Some(name) = any(above, &BUN) {
            return Some((Runtime::Bun, format!("{up}{name}")));
        }
        if bun(above) {
            return Some((Runtime::Bun, format!("packageManager in {up}package.json")));
        }
    }
    Some((Runtime::Node, "package.json".into()))
}

/// The file that a JavaScript project of this shape runs: `index.<ext>`, then `src/index.<ext>`, and what Deno calls
/// it by habit.
pub(crate) fn main(dir: &Path, runtime: Runtime) -> Option<String> {
    let stems: &[&str] = match runtime {
        Runtime::Bun | Runtime::Node => &["index", "src/index"],
        Runtime::Deno => &["index", "src/index", "main", "src/main"],
        Runtime::Binary => &[],
    };
    let names = stems.iter().flat_map(|stem| EXTENSIONS.iter().map(move |ext| format!("{stem}.{ext}")));
    names.into_iter().find(|name| dir.join(name).is_file())
}

/// The root of the source tree: the nearest folder at or above `dir` with a `.git`, else `dir` itself.
pub(crate) fn source_root(dir: &Path) -> &Path {
    dir.ancestors().find(|a| a.join(".git").exists()).unwrap_or(dir)
}

/// Packages that tell the preset of an app, the most telling first: most of the frameworks bring Vite themselves.
pub(crate) const FAMILIES: [(&str, &str); 9] = [
    ("next", "nextjs"),
    ("@tanstack/react-start", "tanstack-start"),
    ("@tanstack/solid-start", "tanstack-start"),
    ("@sveltejs/kit", "sveltekit"),
    ("astro", "astro"),
    ("nuxt", "nuxt"),
    ("@react-router/dev", "react-router"),
    ("@remix-run/dev", "remix"),
    ("vite", "vite"),
];
/// Who uses one of these beside Vite has a server, so that the files alone are not the app.
const SERVERS: [&str; 9] =
    ["express", "fastify", "hono", "koa", "elysia", "h3", "@hono/hono", "@oak/oak", "@fresh/core"];

/// The preset that the project's dependencies suggest.
pub(crate) fn family(dir: &Path, runtime: Runtime) -> Option<&'static str> {
    if runtime == Runtime::Binary {
        return None;
    }
    let needs = Needs::of(dir, runtime);
    let (_, family) = FAMILIES.into_iter().find(|(name, _)| needs.file_with(name).is_some())?;
    (family != "vite" || !SERVERS.into_iter().any(|server| needs.file_with(server).is_some())).then_some(family)
}

/// What a project needs, to run or to build, in whichever file it says so.
pub(crate) struct Needs {
    package: Option<Package>,
    deno: Option<DenoFile>,
}

impl Needs {
    pub fn of(dir: &Path, runtime: Runtime) -> Needs {
        // Others do not read it.
        let deno = (runtime == Runtime::Deno).then(|| DenoFile::of(dir)).flatten();
        Needs { package: Package::of(dir), deno }
    }

    /// The file that names `package`, if it is needed.
    pub fn file_with(&self, package: &str) -> Option<&'static str> {
        if self.package.as_ref().is_some_and(|known| known.needs(package)) {
            return Some("package.json");
        }
        self.deno.as_ref().filter(|deno| deno.imports(package)).map(|deno| deno.name)
    }
}

/// The file that package.json starts, and what in it says so: the first script that runs one, else `main`. One that is
/// not there counts only where a build may make it.
pub(crate) fn started(dir: &Path) -> Option<(String, String)> {
    let package = Package::of(dir)?;
    let builds = package.script("build").is_some();
    let inside = |file: &str| tidy(file).filter(|file| dir.join(file).is_file());
    let script = |name: &str| {
        let file = run_by(package.script(name)?)?;
        let file = if builds { tidy(file) } else { inside(file) };
        Some((file?, format!("script `{name}` of package.json")))
    };
    let found = ["start", "serve", "start:prod"].into_iter().find_map(script);
    found.or_else(|| Some((inside(package.main()?)?, "main of package.json".into())))
}

/// The file in a command line such as `NODE_ENV=production node --enable-source-maps dist/server.js`.
fn run_by(line: &str) -> Option<&str> {
    // What comes after the first command is not looked at.
    let line = line.split(['&', '|', ';']).next()?;
    let words = line.split_ascii_whitespace().skip_while(|word| word.contains('=') || *word == "cross-env");
    let mut words = words.skip_while(|word| !matches!(*word, "node" | "bun" | "deno" | "tsx" | "ts-node"));
    words.next()?;
    words.find(|word| {
        let script = [".js", ".mjs", ".cjs", ".ts", ".mts", ".tsx", ".jsx"].iter().any(|end| word.ends_with(end));
        !word.starts_with('-') && script
    })
}

/// A path inside of the app, without `./`.
pub(crate) fn tidy(file: &str) -> Option<String> {
    let file = file.strip_prefix("./").unwrap_or(file);
    let inside = !file.is_empty() && !file.starts_with('/') && !file.split('/').any(|part| part == "..");
    (inside && !file.contains(char::is_control)).then(|| file.to_string())
}

/// A `package.json`.
pub(crate) struct Package(Value);

impl Package {
    /// That of `dir`, if there is one that can be read.
    pub fn of(dir: &Path) -> Option<Package> {
        let bytes = read_if_there(&dir.join("package.json"), MAX_PACKAGE_JSON).ok()??;
        serde_json::from_slice(&bytes).ok().map(Package)
    }

    /// The name in `packageManager`, without its version.
    pub fn manager(&self) -> Option<&str> {
        self.0.get("packageManager")?.as_str()?.split('@').next()
    }

    pub fn script(&self, name: &str) -> Option<&str> {
        self.0.get("scripts")?.get(name)?.as_str().map(str::trim).filter(|s| !s.is_empty())
    }

    pub fn main(&self) -> Option<&str> {
        self.0.get("main")?.as_str()
    }

    fn needs(&self, package: &str) -> bool {
        ["dependencies", "devDependencies"]
            .iter()
            .any(|kind| self.0.get(kind).is_some_and(|k| k.get(package).is_some()))
    }

    pub fn is_workspace_root(&self) -> bool {
        self.0.get("workspaces").is_some()
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use std::fs;

    /// A project of these files.
    pub(crate) fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        for (name, text) in files {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        dir
    }

    #[test]
    fn the_files_tell_the_runtime() {
        let check = |files: &[(&str, &str)], expected| assert_eq!(runtime(folder(files).path()), expected, "{files:?}");
        check(&[], None);
        check(&[("package.json", "{}")], Some(Runtime::Node));
        check(&[("package.json", "not json")], Some(Runtime::Node));
        check(&[("package.json", r#"{"packageManager":"bun@1.3.0"}"#)], Some(Runtime::Bun));
        check(&[("package.json", r#"{"packageManager":"bundler@1"}"#)], Some(Runtime::Node));
        check(&[("package.json", "{}"), ("bun.lockb", "")], Some(Runtime::Bun));
        check(&[("package.json", "{}"), ("bun.lock", ""), ("deno.jsonc", "")], Some(Runtime::Deno));
    }

    #[test]
    fn a_workspace_speaks_for_its_packages_and_nothing_above_it() {
        let check = |files: &[(&str, &str)], expected: (Runtime, &str)| {
            let all = [files, &[("repo/.git/HEAD", ""), ("repo/apps/web/package.json", "{}")]].concat();
            let (runtime, why) = runtime_and_why(&folder(&all).path().join("repo/apps/web")).unwrap();
            assert_eq!((runtime, why.as_str()), expected, "{files:?}");
        };
        check(&[], (Runtime::Node, "package.json"));
        check(&[("repo/bun.lock", "")], (Runtime::Bun, "../../bun.lock"));
        let bun = r#"{"packageManager":"bun@1.3.0"}"#;
        check(&[("repo/package.json", bun)], (Runtime::Bun, "packageManager in ../../package.json"));
        check(&[("repo/bun.lock", ""), ("repo/apps/pnpm-lock.yaml", "")], (Runtime::Node, "package.json"));
        check(&[("bun.lock", "")], (Runtime::Node, "package.json"));
        check(&[("repo/bun.lock", ""), ("repo/apps/web/deno.json", "{}")], (Runtime::Deno, "deno.json"));
    }

    #[test]
    fn the_main_file_is_the_first_that_is_there() {
        let check = |files: &[&str], runtime, expected: Option<&str>| {
            let files: Vec<(&str, &str)> = files.iter().map(|f| (*f, "")).collect();
            assert_eq!(main(folder(&files).path(), runtime).as_deref(), expected, "{files:?}");
        };
        check(&["index.js", "index.ts", "src/index.ts"], Runtime::Bun, Some("index.ts"));
        check(&["src/index.jsx"], Runtime::Node, Some("src/index.jsx"));
        check(&["main.ts"], Runtime::Node, None);
        check(&["main.ts"], Runtime::Deno, Some("main.ts"));
        check(&["index.js"], Runtime::Binary, None);
    }

    #[test]
    fn the_source_root_is_where_git_is() {
        let dir = folder(&[(".git/HEAD", ""), ("apps/web/index.ts", "")]);
        assert_eq!(source_root(&dir.path().join("apps/web")), dir.path());
    }

    #[test]
    fn dependencies_suggest_a_preset() {
        let check = |package: &str, expected| {
            let dir = folder(&[("package.json", package)]);
            assert_eq!(family(dir.path(), Runtime::Node), expected, "{package}");
            assert_eq!(family(dir.path(), Runtime::Binary), None);
        };
        check(r#"{"dependencies":{"next":"1","react":"1"}}"#, Some("nextjs"));
        check(r#"{"dependencies":{"@sveltejs/kit":"1"},"devDependencies":{"vite":"1"}}"#, Some("sveltekit"));
        check(r#"{"devDependencies":{"vite":"1"}}"#, Some("vite"));
        check(r#"{"dependencies":{"express":"1"},"devDependencies":{"vite":"1"}}"#, None);
        check(r#"{"dependencies":{"nextra":"1"}}"#, None);
        check(r#"{"dependencies":["next"]}"#, None);
        check("[]", None);
        check("{", None);
    }

    #[test]
    fn the_imports_of_deno_suggest_a_preset_too() {
        let check = |name: &str, file: &str, expected| {
            let dir = folder(&[(name, file)]);
            assert_eq!(family(dir.path(), Runtime::Deno), expected, "{file}");
            assert_eq!(family(dir.path(), Runtime::Node), None, "only Deno reads it: {file}");
        };
        check("deno.json", r#"{"imports":{"astro":"npm:astro@5"}}"#, Some("astro"));
        check("deno.jsonc", "{ // the site\n\"imports\": {\"kit\": \"npm:@sveltejs/kit@2\",}}", Some("sveltekit"));
        check("deno.json", r#"{"imports":{"vite":"npm:vite@7"}}"#, Some("vite"));
        check("deno.json", r#"{"imports":{"vite":"npm:vite@7","hono":"jsr:@hono/hono@4"}}"#, None);
        check("deno.json", r#"{"imports":{"vite":"npm:vite@7","fresh":"jsr:@fresh/core@2"}}"#, None);
        check("deno.json", r#"{"imports":{"astro":"./astro.ts"}}"#, None);
        check("deno.json", "{ torn", None);
    }

    #[test]
    fn package_json_tells_what_it_starts() {
        let check = |package: &str, files: &[&str], expected: Option<(&str, &str)>| {
            let files: Vec<(&str, &str)> = files.iter().map(|f| (*f, "")).chain([("package.json", package)]).collect();
            let found = started(folder(&files).path());
            assert_eq!(found.as_ref().map(|(file, why)| (file.as_str(), why.as_str())), expected, "{package}");
        };
        let script = |start: &str, more: &str| format!(r#"{{"scripts":{{"start":"{start}"{more}}}}}"#);
        let start = "script `start` of package.json";
        check(&script("node ./bin/www.js", ""), &["bin/www.js"], Some(("bin/www.js", start)));
        check(&script("bun run src/server.ts", ""), &["src/server.ts"], Some(("src/server.ts", start)));
        check(&script("node dist/server.js", r#","build":"tsc""#), &[], Some(("dist/server.js", start)));
        check(&script("node dist/server.js", ""), &[], None);
        let long = "cross-env NODE_ENV=production node --enable-source-maps -r ./x server.mjs";
        check(&script(long, ""), &["server.mjs"], Some(("server.mjs", start)));
        check(&script("next start", ""), &[], None);
        check(&script("node ../../x.js", r#","build":"x""#), &[], None);
        check(r#"{"main":"./lib/run.js"}"#, &["lib/run.js"], Some(("lib/run.js", "main of package.json")));
        check(r#"{"main":"dist/run.js"}"#, &[], None);
        check(r#"{"main":"../x.js"}"#, &[], None);
        check(r#"{"main":"a\n.js"}"#, &[], None);
        check("{}", &[], None);
    }
}
