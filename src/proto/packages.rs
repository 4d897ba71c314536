//! Package managers of JavaScript: which one a project uses, and what it is told to do. The build and the server ask
//! here, so that what was built with one manager is not installed with another.
//!
//! It never looks at a disk: what lies in a folder is told to it.
//!
//! **Invariant**: only a lock file says which versions there are, so one that is there is used, and used frozen.

use super::manifest::Runtime;

/// What the managers say of a lock file that is not the one of its `package.json`.
pub(crate) const UNFIT: &[&str] = &[
    "can only install with an existing package-lock.json",
    "package.json and package-lock.json or npm-shrinkwrap.json are in sync",
    "ERR_PNPM_OUTDATED_LOCKFILE",
    "ERR_PNPM_NO_LOCKFILE",
    "ERR_PNPM_LOCKFILE_CONFIG_MISMATCH",
    "Your lockfile needs to be updated",
    "The lockfile would have been modified by this install",
    "lockfile had changes, but lockfile is frozen",
];
/// What helps then.
pub(crate) const REFIT: &str = "the lock file does not fit package.json: install once by hand and commit the lock file";

/// What may be asked of the folder that a manager would run in.
pub(crate) struct Folder<'a> {
    /// Whether it has a file of this name.
    pub has: &'a dyn Fn(&str) -> bool,
    /// The text of a file in it, or as much of its beginning as anybody wants to read.
    pub read: &'a dyn Fn(&str) -> Option<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manager {
    Npm,
    Pnpm,
    /// Yarn 1.
    Yarn,
    /// Yarn 2 and later, which has other flags.
    Berry,
    Bun,
    /// Installs for its own runtime alone, and there it is the only one: it reads `package.json`, too.
    Deno,
}

/// A manager, and why it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Choice {
    pub manager: Manager,
    /// Its own lock file; without one the versions float.
    pub lock: Option<&'static str>,
    /// What speaks for another manager and was passed over, in words.
    pub against: Option<String>,
}

const LOCKS: [(&str, Manager); 6] = [
    ("package-lock.json", Manager::Npm),
    ("npm-shrinkwrap.json", Manager::Npm),
    ("pnpm-lock.yaml", Manager::Pnpm),
    ("yarn.lock", Manager::Yarn),
    ("bun.lock", Manager::Bun),
    ("bun.lockb", Manager::Bun),
];

/// The manager of a project for `runtime`, by its lock file. Of several lock files the one that `package.json` names in
/// `packageManager` or `devEngines` counts, else the one of the runtime's own tool, else the first of the list. `None`
/// when nothing in the folder speaks for any.
pub(crate) fn choose(runtime: Runtime, folder: &Folder<'_>) -> Option<Choice> {
    if runtime == Runtime::Deno {
        return deno(folder);
    }
    let named = named(folder);
    let found: Vec<(&'static str, Manager)> = LOCKS.into_iter().filter(|(lock, _)| (folder.has)(lock)).collect();
    let own = match runtime {
        Runtime::Bun => Manager::Bun,
        Runtime::Node | Runtime::Deno | Runtime::Binary => Manager::Npm,
    };
    let of = |manager: Manager| found.iter().find(|(_, m)| *m == manager.lock_kind());
    let lock = named.and_then(of).or_else(|| of(own)).or_else(|| found.first());
    let Some((lock, manager)) = lock.copied() else {
        return named.map(|manager| Choice { manager, lock: None, against: None });
    };
    let manager = match manager {
        Manager::Yarn if is_berry(named, folder) => Manager::Berry,
        other => other,
    };
    let others: Vec<&str> = found.iter().filter(|(_, m)| *m != manager.lock_kind()).map(|(lock, _)| *lock).collect();
    let against = match (named, others.as_slice()) {
        (Some(named), _) if named.lock_kind() != manager.lock_kind() => {
            Some(format!("package.json names {}, which has no lock file here", named.program()))
        }
        (None, [_, ..]) => Some(format!("there is {} too", others.join(" and "))),
        (None, []) | (Some(_), _) => None,
    };
    // Where Bun runs, npm may not be there; Bun reads its lock file, but cannot hold on to it.
    match (runtime, manager) {
        (Runtime::Bun, Manager::Npm) if named != Some(Manager::Npm) => {
            Some(Choice { manager: Manager::Bun, lock: None, against })
        }
        _ => Some(Choice { manager, lock: Some(lock), against }),
    }
}

/// What installs the dependencies that an app has in production, where a lock file says which: the tool and its
/// arguments. `version` is that of the runtime which is there, as far as it is known.
pub(crate) fn production(runtime: Runtime, version: Option<&str>, folder: &Folder<'_>) -> Option<Vec<&'static str>> {
    let has = folder.has;
    match runtime {
        Runtime::Binary => None,
        Runtime::Deno => {
            let all = choose(runtime, folder)?.install().split(' ');
            Some(all.chain(version.is_some_and(leaves_out).then_some("--prod")).collect())
        }
        Runtime::Bun | Runtime::Node => {
            let choice = choose(runtime, folder)?;
            match (choice.manager, choice.lock) {
                (Manager::Bun, None) if LOCKS.iter().any(|(lock, _)| has(lock)) => {
                    Some(vec!["bun", "install", "--production"])
                }
                (_, None) => None,
                (manager, Some(_)) => Some(manager.production()),
            }
        }
    }
}

impl Choice {
    /// The command that installs all that a build needs; what is not locked is allowed to float, also where the manager
    /// thinks otherwise because it runs in CI.
    pub fn install(&self) -> &'static str {
        match (self.manager, self.lock.is_some()) {
            (Manager::Npm, true) => "npm ci",
            (Manager::Npm, false) => "npm install",
            (Manager::Pnpm, true) => "pnpm install --frozen-lockfile",
            (Manager::Pnpm, false) => "pnpm install --no-frozen-lockfile",
            (Manager::Yarn, true) => "yarn install --frozen-lockfile",
            (Manager::Yarn, false) => "yarn install",
            (Manager::Berry, true) => "yarn install --immutable",
            (Manager::Berry, false) => "yarn install --no-immutable",
            (Manager::Bun, true) => "bun install --frozen-lockfile",
            (Manager::Bun, false) => "bun install",
            (Manager::Deno, true) => "deno install --frozen",
            (Manager::Deno, false) => "deno install",
        }
    }
}

impl Manager {
    pub fn program(self) -> &'static str {
        match self {
            Manager::Npm => "npm",
            Manager::Pnpm => "pnpm",
            Manager::Yarn | Manager::Berry => "yarn",
            Manager::Bun => "bun",
            Manager::Deno => "deno",
        }
    }

    fn production(self) -> Vec<&'static str> {
        match self {
            Manager::Npm => vec!["npm", "ci", "--omit=dev"],
            Manager::Pnpm => vec!["pnpm", "install", "--prod", "--frozen-lockfile"],
            Manager::Yarn => vec!["yarn", "install", "--production", "--frozen-lockfile"],
            // It has no flag to leave development dependencies out that also holds on to the lock file.
            Manager::Berry => vec!["yarn", "install", "--immutable"],
            Manager::Bun => vec!["bun", "install", "--production", "--frozen-lockfile"],
            Manager::Deno => vec!["deno", "install", "--frozen"],
        }
    }

    /// Both Yarns have a `yarn.lock`.
    fn lock_kind(self) -> Manager {
        match self {
            Manager::Berry => Manager::Yarn,
            other => other,
        }
    }
}

/// Whether a Deno of this version knows `--prod`, which came with 2.8; before, it ends at a flag that it does not know.
/// As of 2.9 it still lays down what a lock file has, development dependencies among it.
fn leaves_out(version: &str) -> bool {
    let mut numbers = version.split('.').map_while(|number| number.parse::<u32>().ok());
    (numbers.next(), numbers.next()) >= (Some(2), Some(8))
}

fn deno(folder: &Folder<'_>) -> Option<Choice> {
    let any = |names: &[&str]| names.iter().copied().any(folder.has);
    let lock = any(&["deno.lock"]).then_some("deno.lock");
    let some = lock.is_some() || any(&["deno.json", "deno.jsonc", "package.json"]);
    some.then_some(Choice { manager: Manager::Deno, lock, against: None })
}

fn is_berry(named: Option<Manager>, folder: &Folder<'_>) -> bool {
    // Only later ones write this into the head of the lock file.
    let marked = || (folder.read)("yarn.lock").is_some_and(|text| text.lines().take(8).any(|l| l == "__metadata:"));
    named == Some(Manager::Berry) || (folder.has)(".yarnrc.yml") || marked()
}

/// The manager that `package.json` names.
fn named(folder: &Folder<'_>) -> Option<Manager> {
    let package: serde_json::Value = serde_json::from_str(&(folder.read)("package.json")?).ok()?;
    if let Some(field) = package["packageManager"].as_str() {
        return manager(field);
    }
    let engine = &package["devEngines"]["packageManager"];
    let engine = engine.as_array().and_then(|all| all.first()).unwrap_or(engine);
    manager(&format!("{}@{}", engine["name"].as_str()?, engine["version"].as_str().unwrap_or_default()))
}

/// As Corepack spells it: `pnpm@9.1.0+sha512.0fa3…`.
fn manager(field: &str) -> Option<Manager> {
    let (name, version) = field.trim().split_once('@').unwrap_or((field.trim(), ""));
    match name {
        "npm" => Some(Manager::Npm),
        "pnpm" => Some(Manager::Pnpm),
        "bun" => Some(Manager::Bun),
        "yarn" => {
            let major: String = version
                .trim_start_matches(['^', '~', '>', '=', 'v', ' '])
                .chars()
                .take_while(char::is_ascii_digit)
                .collect();
            Some(if matches!(major.as_str(), "" | "0" | "1") { Manager::Yarn } else { Manager::Berry })
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The files of a folder as `name` or `name=content`.
    fn with<T>(files: &[&str], ask: impl FnOnce(&Folder<'_>) -> T) -> T {
        let split =
            |file: &&str| file.split_once('=').map_or((file.to_string(), String::new()), |(n, c)| (n.into(), c.into()));
        let files: Vec<(String, String)> = files.iter().map(split).collect();
        let has = |name: &str| files.iter().any(|(n, _)| n == name);
        let read = |name: &str| files.iter().find(|(n, _)| n == name).map(|(_, content)| content.clone());
        ask(&Folder { has: &has, read: &read })
    }

    #[test]
    fn a_lock_file_or_package_json_names_the_manager() {
        let check = |runtime, files: &[&str], expected: Option<&str>| {
            let choice = with(files, |folder| choose(runtime, folder));
            assert_eq!(choice.as_ref().map(Choice::install), expected, "{runtime:?} {files:?}");
        };
        let node = |files: &[&str], expected| check(Runtime::Node, files, Some(expected));
        node(&["package-lock.json"], "npm ci");
        node(&["npm-shrinkwrap.json"], "npm ci");
        node(&["pnpm-lock.yaml"], "pnpm install --frozen-lockfile");
        node(&["yarn.lock=# yarn lockfile v1"], "yarn install --frozen-lockfile");
        node(&["yarn.lock=# This file\n\n__metadata:\n  version: 8"], "yarn install --immutable");
        node(&["yarn.lock", ".yarnrc.yml"], "yarn install --immutable");
        node(&["yarn.lock", "package.json={\"packageManager\":\"yarn@4.1.0\"}"], "yarn install --immutable");
        node(&["yarn.lock", "package.json={\"packageManager\":\"yarn@1.22.22\"}"], "yarn install --frozen-lockfile");
        node(&["bun.lock"], "bun install --frozen-lockfile");
        check(Runtime::Bun, &["bun.lockb"], Some("bun install --frozen-lockfile"));
        check(Runtime::Bun, &["package-lock.json"], Some("bun install"));
        check(Runtime::Bun, &["package-lock.json", "package.json={\"packageManager\":\"npm@10\"}"], Some("npm ci"));
        check(Runtime::Deno, &["deno.json", "deno.lock", "package-lock.json"], Some("deno install --frozen"));
        check(Runtime::Deno, &["package.json={}", "package-lock.json"], Some("deno install"));
        check(Runtime::Deno, &["package-lock.json"], None);
        check(Runtime::Node, &["package.json={}"], None);
        check(Runtime::Node, &["package.json={\"packageManager\":\"vlt@1\"}"], None);
        check(Runtime::Node, &["package.json=not json"], None);
        // Named, and nothing is locked.
        node(&["package.json={\"packageManager\":\"pnpm@9.1.0+sha512.0fa3\"}"], "pnpm install --no-frozen-lockfile");
        node(&["package.json={\"packageManager\":\"yarn@4\"}"], "yarn install --no-immutable");
        let engines = "package.json={\"devEngines\":{\"packageManager\":{\"name\":\"yarn\",\"version\":\"^4.0.0\"}}}";
        node(&[engines, "yarn.lock", "package-lock.json"], "yarn install --immutable");
    }

    #[test]
    fn of_several_lock_files_package_json_decides_else_the_runtime_and_it_is_told() {
        let check = |runtime, files: &[&str], expected: &str, against: Option<&str>| {
            let choice = with(files, |folder| choose(runtime, folder)).unwrap();
            assert_eq!((choice.install(), choice.against.as_deref()), (expected, against), "{files:?}");
        };
        let both = ["pnpm-lock.yaml", "package-lock.json"];
        check(Runtime::Node, &both, "npm ci", Some("there is pnpm-lock.yaml too"));
        let pnpm = "package.json={\"packageManager\":\"pnpm@9.1.0+sha512.0fa3\"}";
        check(Runtime::Node, &[both[0], both[1], pnpm], "pnpm install --frozen-lockfile", None);
        let both = ["bun.lock", "package-lock.json"];
        check(Runtime::Bun, &both, "bun install --frozen-lockfile", Some("there is package-lock.json too"));
        check(Runtime::Node, &both, "npm ci", Some("there is bun.lock too"));
        let against = Some("package.json names pnpm, which has no lock file here");
        check(Runtime::Node, &["yarn.lock", pnpm], "yarn install --frozen-lockfile", against);
        check(Runtime::Node, &["package-lock.json", "npm-shrinkwrap.json"], "npm ci", None);
    }

    #[test]
    fn a_server_installs_what_production_needs_and_only_from_a_lock_file() {
        let check = |runtime, files: &[&str], expected: Option<&str>| {
            let plan = with(files, |folder| production(runtime, None, folder)).map(|argv| argv.join(" "));
            assert_eq!(plan.as_deref(), expected, "{runtime:?} {files:?}");
        };
        check(Runtime::Node, &["package.json"], None);
        check(Runtime::Node, &["package-lock.json", "bun.lock"], Some("npm ci --omit=dev"));
        check(Runtime::Node, &["pnpm-lock.yaml"], Some("pnpm install --prod --frozen-lockfile"));
        check(Runtime::Node, &["yarn.lock"], Some("yarn install --production --frozen-lockfile"));
        check(Runtime::Node, &["yarn.lock", ".yarnrc.yml"], Some("yarn install --immutable"));
        check(Runtime::Node, &["bun.lock"], Some("bun install --production --frozen-lockfile"));
        check(Runtime::Bun, &["bun.lockb"], Some("bun install --production --frozen-lockfile"));
        check(Runtime::Bun, &["bun.lock", "package-lock.json"], Some("bun install --production --frozen-lockfile"));
        check(Runtime::Bun, &["package-lock.json"], Some("bun install --production"));
        check(Runtime::Bun, &["package.json"], None);
        let pnpm = "package.json={\"packageManager\":\"pnpm@9.1.0\"}";
        check(Runtime::Node, &[pnpm], None);
        check(
            Runtime::Node,
            &["package-lock.json", "pnpm-lock.yaml", pnpm],
            Some("pnpm install --prod --frozen-lockfile"),
        );
        check(Runtime::Deno, &["deno.json"], Some("deno install"));
        check(Runtime::Deno, &["deno.json", "deno.lock"], Some("deno install --frozen"));
        check(Runtime::Deno, &["main.ts"], None);
        check(Runtime::Binary, &["package-lock.json"], None);
    }

    #[test]
    fn deno_leaves_development_out_where_it_knows_how() {
        let check = |version: Option<&str>, files: &[&str], expected: &str| {
            let plan = with(files, |folder| production(Runtime::Deno, version, folder)).unwrap();
            assert_eq!(plan.join(" "), expected, "{version:?}");
        };
        let (package, locked) = (&["package.json"], &["package.json", "deno.lock"]);
        for knows in ["2.8.0", "2.9.6", "2.10", "3.0.0", "2.8.0-rc.1"] {
            check(Some(knows), package, "deno install --prod");
            check(Some(knows), locked, "deno install --frozen --prod");
        }
        for unknown in [None, Some("2.7.14"), Some("1.46.3"), Some("2"), Some(""), Some("canary")] {
            check(unknown, package, "deno install");
            check(unknown, locked, "deno install --frozen");
        }
    }
}
