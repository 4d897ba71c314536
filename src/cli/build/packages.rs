//! Packages: how what a build needs is installed, by the files of the source. A file that git ignores does not count: it
//! is not in the build tree.

use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use super::bundle::Source;
use super::stage::Step;
use crate::proto::manifest::Runtime;
use crate::proto::packages::{Choice, Folder, Manager, choose, production};

/// More of a `package.json` or of the head of a lock file is not looked at.
const MAX_READ: u64 = 1 << 20;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Packages {
    choice: Choice,
    /// Where the lock file lies, which is the root of a workspace; relative to the source root.
    dir: PathBuf,
}

impl Packages {
    /// Of the nearest folder with a lock file, from the app's up to the source root; else of the nearest `package.json` that
    /// names a manager; else what comes with the runtime.
    pub fn of(runtime: Runtime, source: &Source) -> Packages {
        let found: Vec<Packages> = source
            .app
            .ancestors()
            .filter_map(|dir| {
                let has = |name: &str| is_there(source, &dir.join(name));
                let read = |name: &str| has(name).then(|| beginning_of(&source.root.join(dir).join(name))).flatten();
                let choice = choose(runtime, &Folder { has: &has, read: &read })?;
                Some(Packages { choice, dir: dir.into() })
            })
            .collect();
        let locked = found.iter().find(|p| p.choice.lock.is_some() || p.choice.against.is_some());
        locked.or(found.first()).cloned().unwrap_or_else(|| {
            let manager = match runtime {
                Runtime::Bun => Manager::Bun,
                Runtime::Deno => Manager::Deno,
                Runtime::Node | Runtime::Binary => Manager::Npm,
            };
            Packages { choice: Choice { manager, lock: None, against: None }, dir: source.app.clone() }
        })
    }

    /// Whether the server, which looks in the same folders, finds what says how to install for production.
    pub fn are_installed_on_server(runtime: Runtime, source: &Source) -> bool {
        source.app.ancestors().any(|dir| {
            let has = |name: &str| is_there(source, &dir.join(name));
            let read = |name: &str| has(name).then(|| beginning_of(&source.root.join(dir).join(name))).flatten();
            production(runtime, None, &Folder { has: &has, read: &read }).is_some()
        })
    }

    pub fn install(&self) -> Step {
        let Packages { choice, dir } = self;
        let warning = choice.against.as_ref().map(|against| {
            let by = choice.lock.map_or(String::new(), |lock| format!(" by {lock}"));
            format!(
                "{} installs{by}, but {against}: remove what is not used, or name the one in `packageManager` of package.json",
                choice.manager.program()
            )
        });
        let command = choice.install().to_string();
        Step { name: "install".into(), command, dir: dir.clone(), installs_below: Some(dir.clone()), warning }
    }

    /// What runs a script of `package.json`.
    pub fn run(&self, script: &str) -> String {
        match self.choice.manager {
            // Of package.json or of its own file.
            Manager::Deno => format!("deno task {script}"),
            manager => format!("{} run {script}", manager.program()),
        }
    }
}

fn is_there(source: &Source, path: &Path) -> bool {
    let bytes = path.as_os_str().as_bytes();
    source.entries.binary_search_by(|entry| entry.path.as_os_str().as_bytes().cmp(bytes)).is_ok()
}

fn beginning_of(path: &Path) -> Option<String> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_READ).read_to_end(&mut bytes).ok()?;
    Some(String::from_utf8_lossy(&bytes).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::build::bundle;
    use crate::cli::git::tests::{git, write};

    #[test]
    fn the_lock_file_of_the_workspace_says_how_and_where() {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().canonicalize().unwrap();
        git(&root, &["init", "--quiet"]);
        let app = root.join("apps/web");
        write(&app.join("package.json"), "{}");
        let check = |command: &str, dir: &str, warning: Option<&str>| {
            let step = Packages::of(Runtime::Node, &bundle::collect(&app).unwrap()).install();
            assert_eq!((step.command.as_str(), step.dir.to_str().unwrap()), (command, dir));
            assert_eq!(step.installs_below.as_deref(), Some(Path::new(dir)));
            let said = step.warning.unwrap_or_default();
            assert!(warning.map_or(said.is_empty(), |words| said.contains(words)), "{said}");
        };
        check("npm install", "apps/web", None);
        write(&root.join("package.json"), "{\"packageManager\":\"pnpm@9.1.0\"}");
        check("pnpm install --no-frozen-lockfile", "", None);
        write(&root.join("pnpm-lock.yaml"), "");
        check("pnpm install --frozen-lockfile", "", None);
        write(&root.join("package.json"), "{}");
        write(&root.join("yarn.lock"), "");
        check("pnpm install --frozen-lockfile", "", Some("there is yarn.lock too"));
        // The nearest one wins, but not one that git ignores.
        write(&app.join("package-lock.json"), "{}");
        check("npm ci", "apps/web", None);
        write(&app.join(".gitignore"), "package-lock.json\n");
        check("pnpm install --frozen-lockfile", "", Some("yarn.lock"));
    }

    #[test]
    fn scripts_are_run_by_the_manager() {
        let dir = tempfile::tempdir().unwrap();
        write(&dir.path().join("yarn.lock"), "");
        let of = |runtime| Packages::of(runtime, &bundle::collect(dir.path()).unwrap()).run("build");
        assert_eq!(of(Runtime::Node), "yarn run build");
        std::fs::remove_file(dir.path().join("yarn.lock")).unwrap();
        write(&dir.path().join("package-lock.json"), "{}");
        assert_eq!([of(Runtime::Node), of(Runtime::Bun)], ["npm run build", "bun run build"]);
        // Whatever lock file there is.
        assert_eq!(of(Runtime::Deno), "deno task build");
    }
}
