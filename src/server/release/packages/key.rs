//! Key: one word for all that decides what an installer leaves behind. Two installations of the same key leave the same.
//!
//! | what | how it counts |
//! | --- | --- |
//! | the command | word by word; only those of [`scripts_of`] have a key at all |
//! | where it runs | the folder in the release |
//! | the runtime, the package manager, and `node` where that runs it | name and version of the runtime; of each program its real path, and what tells that the file is another one |
//! | what the manager is | its own `package.json`, where it is a package itself |
//! | the machine | architecture, C library, release of the system |
//! | the user, by number | what it may read and write |
//! | the environment | all of it, by name and value: the app's variables, PATH, HOME, TMPDIR, proxies, the registry |
//! | files of the release | those of [`super::source`]: each by its path and SHA-256 |
//! | settings that lie elsewhere | those of [`settings_of`], by path and SHA-256, also that there is none |
//!
//! Not in it: the release's version and all else of its source; when; what the registry would say today, since a lock file
//! is asked for; secrets, which no installer gets.
//!
//! The struct is taken apart by name, so that a new field is no input by oversight.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::Doubt;
use crate::crypto::Sha256;

/// Goes up with what is hashed or recorded, so that nobody takes over what an older server understood differently.
const FORMAT: &str = "packages 1";

#[derive(Debug, Clone)]
pub(super) struct Inputs {
    pub words: Vec<String>,
    /// Within the release.
    pub dir: String,
    pub runtime: String,
    pub programs: Vec<Program>,
    pub machine: String,
    pub user: Option<u32>,
    pub env: Vec<(OsString, OsString)>,
    pub files: BTreeMap<String, String>,
    pub settings: BTreeMap<PathBuf, Option<String>>,
}

/// A program, and what changes when it is replaced.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Program {
    pub path: PathBuf,
    pub marks: [i64; 5],
}

pub(super) fn key(inputs: &Inputs) -> String {
    let Inputs { words, dir, runtime, programs, machine, user, env, files, settings } = inputs;
    let mut hash = Framed(Sha256::new());
    hash.add(FORMAT.as_bytes());
    hash.list(words.iter().map(|word| vec![word.as_bytes()]));
    hash.add(dir.as_bytes());
    hash.add(runtime.as_bytes());
    let marks = programs.iter().map(|program| program.marks.map(i64::to_be_bytes).concat());
    let marks: Vec<Vec<u8>> = marks.collect();
    hash.list(programs.iter().zip(&marks).map(|(program, marks)| vec![program.path.as_os_str().as_bytes(), marks]));
    hash.add(machine.as_bytes());
    hash.add(user.map(|uid| uid.to_string()).unwrap_or_default().as_bytes());
    let mut env = env.clone();
    env.sort();
    hash.list(env.iter().map(|(name, value)| vec![name.as_bytes(), value.as_bytes()]));
    hash.list(files.iter().map(|(path, sum)| vec![path.as_bytes(), sum.as_bytes()]));
    let sum = |sum: &Option<String>| sum.clone().unwrap_or_default();
    let settings: Vec<_> = settings.iter().map(|(path, of)| (path.as_os_str().as_bytes(), sum(of))).collect();
    hash.list(settings.iter().map(|(path, sum)| vec![*path, sum.as_bytes()]));
    hash.0.finish()
}

/// Each part with its length in front: no two inputs are the same bytes.
struct Framed(Sha256);

impl Framed {
    fn add(&mut self, bytes: &[u8]) {
        self.0.update(&(bytes.len() as u64).to_be_bytes());
        self.0.update(bytes);
    }

    fn list<'b>(&mut self, rows: impl ExactSizeIterator<Item = Vec<&'b [u8]>>) {
        self.0.update(&(rows.len() as u64).to_be_bytes());
        rows.flatten().for_each(|part| self.add(part));
    }
}

/// Whether a command runs scripts of packages. Of any other command than these nobody knows what it reads.
pub(super) fn scripts_of(words: &[String]) -> Result<bool, Doubt> {
    const TOOLS: [&str; 4] = ["npm", "pnpm", "yarn", "bun"];
    const VERBS: [&str; 4] = ["ci", "clean-install", "install", "i"];
    /// Which neither name a file nor another place.
    const FLAGS: [&str; 19] = [
        "--production",
        "--prod",
        "-P",
        "-p",
        "--frozen-lockfile",
        "--immutable",
        "--omit=dev",
        "--omit=optional",
        "--omit=peer",
        "--include=optional",
        "--no-optional",
        "--no-audit",
        "--no-fund",
        "--no-save",
        "--legacy-peer-deps",
        "--strict-peer-deps",
        "--prefer-offline",
        "--no-progress",
        "--ignore-scripts",
    ];
    let unknown = || Doubt(format!("nobody knows what `{}` reads", words.join(" ")));
    let [tool, verb, flags @ ..] = words else { return Err(unknown()) };
    let is_known = TOOLS.contains(&tool.as_str())
        && VERBS.contains(&verb.as_str())
        && flags.iter().all(|flag| FLAGS.contains(&flag.as_str()));
    match is_known {
        true => Ok(!flags.iter().any(|flag| flag == "--ignore-scripts")),
        false => Err(unknown()),
    }
}

/// Refuses variables that lead a tool to files which are not looked at.
pub(super) fn check_vars<'v>(vars: impl Iterator<Item = (&'v String, &'v String)>) -> Result<(), Doubt> {
    const OF_TOOLS: [&str; 8] = ["npm_", "pnpm_", "yarn_", "bun_", "node_", "corepack_", "xdg_", "mise_"];
    const PLACES: [&str; 5] = ["home", "path", "init_cwd", "prefix", "bash_env"];
    for (name, value) in vars {
        let small = name.to_ascii_lowercase();
        let is_url = value.starts_with("https://") || value.starts_with("http://");
        let leads = OF_TOOLS.iter().any(|tool| small.starts_with(tool)) && !is_url && value.contains(['/', '.']);
        if leads || PLACES.contains(&small.as_str()) {
            return Err(Doubt(format!("the variable {name} may lead the installer to other files")));
        }
    }
    Ok(())
}

/// Where managers look for settings besides the release: in the folders around it, in their own, and in the system's.
pub(super) fn settings_of(release: &Path, programs: &[Program]) -> Vec<PathBuf> {
    const AROUND: [&str; 7] =
        [".npmrc", ".yarnrc", ".yarnrc.yml", "package.json", "pnpm-workspace.yaml", "bunfig.toml", "mise.toml"];
    let around = release.ancestors().skip(1).flat_map(|dir| AROUND.map(|name| dir.join(name)));
    // `{prefix}/etc/npmrc`, and what a manager that is a package says of itself: `lib/node_modules/npm/bin/npm-cli.js`.
    let beside = programs.iter().flat_map(|program| {
        let up: Vec<&Path> = program.path.ancestors().skip(1).take(3).collect();
        up.into_iter().flat_map(|dir| ["etc/npmrc", "npmrc", "package.json"].map(|name| dir.join(name)))
    });
    let system = ["/etc/npmrc", "/usr/etc/npmrc", "/usr/local/etc/npmrc", "/etc/os-release"].map(PathBuf::from);
    around.chain(beside).chain(system).collect()
}

/// The same, below HOME, where the app may have written them.
pub(super) const OF_HOME: [&str; 10] = [
    ".npmrc",
    ".yarnrc",
    ".yarnrc.yml",
    ".bunfig.toml",
    ".config/.bunfig.toml",
    ".config/pnpm/rc",
    ".config/pnpm/config.yaml",
    ".config/mise/config.toml",
    ".cache/node/corepack/lastKnownGood.json",
    ".node-gyp/.npmrc",
];

impl Program {
    /// # Errors
    /// When there is none.
    pub fn at(path: &Path) -> Result<Program, Doubt> {
        let real = fs::canonicalize(path).map_err(|e| Doubt::of(&path.display(), e))?;
        let meta = fs::metadata(&real).map_err(|e| Doubt::of(&path.display(), e))?;
        let inode = i64::from_ne_bytes(meta.ino().to_ne_bytes());
        let size = i64::from_ne_bytes(meta.size().to_ne_bytes());
        Ok(Program { path: real, marks: [inode, size, meta.mtime(), meta.ctime(), meta.ctime_nsec()] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn inputs() -> Inputs {
        let program = |path: &str| Program { path: path.into(), marks: [1, 2, 3, 4, 5] };
        Inputs {
            words: ["npm", "ci", "--omit=dev"].map(str::to_owned).to_vec(),
            dir: String::new(),
            runtime: "node 22.1.0".into(),
            programs: vec![program("/usr/bin/node"), program("/usr/bin/npm")],
            machine: "linux-x86_64-glibc".into(),
            user: Some(70_001),
            env: vec![("A".into(), "b".into()), ("PATH".into(), "/bin".into())],
            files: [("package.json", "11"), ("package-lock.json", "22")].map(|(p, s)| (p.into(), s.into())).into(),
            settings: [("/etc/npmrc", None), ("/home/.npmrc", Some("33".into()))].map(|(p, s)| (p.into(), s)).into(),
        }
    }

    #[test]
    fn each_input_alone_makes_another_key() {
        type Change = fn(&mut Inputs);
        let changes: [(&str, Change); 24] = [
            ("a flag", |i| i.words.push("--no-audit".into())),
            ("a word", |i| i.words[1] = "install".into()),
            ("words that read the same together", |i| i.words = vec!["npm".into(), "ci --omit=dev".into()]),
            ("the folder", |i| i.dir = "apps/web".into()),
            ("the runtime", |i| i.runtime = "bun 22.1.0".into()),
            ("its version", |i| i.runtime = "node 22.1.1".into()),
            ("where the manager lies", |i| i.programs[1].path = "/usr/local/bin/npm".into()),
            ("another file there", |i| i.programs[0].marks[0] = 9),
            ("of another size", |i| i.programs[0].marks[1] = 9),
            ("written at another time", |i| i.programs[0].marks[2] = 9),
            ("changed at another time", |i| i.programs[0].marks[3] = 9),
            ("the machine", |i| i.machine = "linux-x86_64-musl".into()),
            ("the user", |i| i.user = Some(70_002)),
            ("no user", |i| i.user = None),
            ("a variable", |i| i.env[0].1 = "c".into()),
            ("its name", |i| i.env[0].0 = "B".into()),
            ("one more", |i| i.env.push(("NPM_CONFIG_REGISTRY".into(), "http://x".into()))),
            ("one fewer", |i| drop(i.env.pop())),
            ("a file", |i| drop(i.files.insert("package-lock.json".into(), "23".into()))),
            ("a file more", |i| drop(i.files.insert(".npmrc".into(), "44".into()))),
            ("a file fewer", |i| drop(i.files.remove("package-lock.json"))),
            ("a setting", |i| drop(i.settings.insert("/home/.npmrc".into(), Some("34".into())))),
            ("a setting that is there now", |i| drop(i.settings.insert("/etc/npmrc".into(), Some("1".into())))),
            ("a setting that is gone", |i| drop(i.settings.insert("/home/.npmrc".into(), None))),
        ];
        let mut seen = vec![key(&inputs())];
        for (what, change) in changes {
            let mut inputs = inputs();
            change(&mut inputs);
            let key = key(&inputs);
            assert!(!seen.contains(&key), "{what}");
            seen.push(key);
        }
        assert_eq!(key(&inputs()), seen[0]);
        let mut other_order = inputs();
        other_order.env.reverse();
        assert_eq!(key(&other_order), seen[0], "an environment has no order");
        assert_eq!(seen[0].len(), 64);
    }

    #[test]
    fn only_commands_that_are_known_have_a_key() {
        let check = |command: &str, expected: Option<bool>| {
            let words: Vec<String> = command.split(' ').map(str::to_owned).collect();
            assert_eq!(scripts_of(&words).ok(), expected, "{command}");
        };
        check("npm ci --omit=dev", Some(true));
        check("npm ci --omit=dev --ignore-scripts", Some(false));
        check("pnpm install --prod --frozen-lockfile", Some(true));
        check("yarn install --production --frozen-lockfile", Some(true));
        check("yarn install --immutable", Some(true));
        check("bun install --production --frozen-lockfile", Some(true));
        check("bun install --production", Some(true));
        for other in ["npm", "npm run x", "npm ci --prefix=/x", "npm install express", "./npm ci", "sh -c x"] {
            check(other, None);
        }
        check("deno install --frozen", None);
        check("pip install -r requirements.txt", None);
    }

    #[test]
    fn variables_that_name_files_are_refused() {
        let check = |name: &str, value: &str, good: bool| {
            let vars = [(&name.to_owned(), &value.to_owned())];
            assert_eq!(check_vars(vars.into_iter()).is_ok(), good, "{name}={value}");
        };
        check("GREETING", "/etc/hello", true);
        check("NPM_CONFIG_REGISTRY", "https://registry.example/", true);
        check("NODE_ENV", "production", true);
        check("NODE_OPTIONS", "--max-old-space-size=512", true);
        check("NODE_OPTIONS", "--require ./hook.js", false);
        check("npm_config_userconfig", "/etc/my-npmrc", false);
        check("YARN_RC_FILENAME", ".other", false);
        check("XDG_CONFIG_HOME", "/x", false);
        check("Home", "x", false);
    }

    #[test]
    fn settings_are_looked_for_around_the_release_and_the_programs() {
        let npm = Program { path: "/usr/lib/node_modules/npm/bin/npm-cli.js".into(), marks: [0; 5] };
        let node = Program { path: "/opt/node/bin/node".into(), marks: [0; 5] };
        let found = settings_of(Path::new("/data/apps/shop/releases/v1"), &[npm, node]);
        let is_in = |path: &str| found.contains(&PathBuf::from(path));
        assert!(is_in("/data/apps/shop/releases/package.json") && is_in("/.yarnrc.yml") && is_in("/data/.npmrc"));
        assert!(is_in("/usr/lib/node_modules/npm/package.json") && is_in("/usr/lib/node_modules/npm/npmrc"));
        assert!(is_in("/opt/node/etc/npmrc") && is_in("/etc/npmrc") && is_in("/etc/os-release"));
        assert!(!found.iter().any(|path| path.starts_with("/data/apps/shop/releases/v1")));
    }
}
