//! Builds as a user sees them, through `tako rehearse`: real package managers, real `mise`, commands that fail, that
//! ignore signals, and two at once.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::ExitStatusExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tempfile::TempDir;

use crate::cli::skipped;
use crate::preparing::{path_without, program, registry};
use crate::sandbox::{Ran, TAKO, wait_for};

/// Answers on `$PORT`; needs nothing that is installed.
const APP: &str = "#!/usr/bin/env node\n\
    require('node:http').createServer((_, a) => a.end('up')).listen(process.env.PORT, '127.0.0.1');\n";

/// A project and its owner's home.
pub struct Shop {
    dir: TempDir,
    path: String,
}

impl Shop {
    /// An app that is built by `build`.
    pub fn new(build: &str) -> Shop {
        let shop = Shop { dir: TempDir::new().unwrap(), path: std::env::var("PATH").unwrap() };
        shop.write("run", APP);
        fs::set_permissions(shop.at("run"), fs::Permissions::from_mode(0o755)).unwrap();
        shop.write("tako.toml", &format!("runtime = \"binary\"\nmain = \"run\"\n[build]\nbuild = '''{build}'''\n"));
        shop
    }

    pub fn at(&self, name: &str) -> PathBuf {
        self.dir.path().join("shop").join(name)
    }

    fn write(&self, name: &str, text: &str) {
        fs::create_dir_all(self.at(name).parent().unwrap()).unwrap();
        fs::write(self.at(name), text).unwrap();
    }

    /// A file of the build tree.
    fn built(&self, name: &str) -> String {
        let path = self.at(".tako/build").join(name);
        fs::read_to_string(&path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
    }

    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new(TAKO);
        command.args(args).current_dir(self.at("")).stdin(Stdio::null());
        command.env("HOME", self.dir.path().join("home")).env("TAKO_HOME", self.dir.path().join("home"));
        command.env("PATH", &self.path).env_remove("CI").env("http_proxy", "");
        command
    }

    pub fn run(&self, args: &[&str]) -> Ran {
        Ran::from(args, self.command(args).output().unwrap())
    }

    /// Whether the artifact came from the cache.
    fn is_cached(&self, args: &[&str]) -> bool {
        let args = [&["rehearse", "--json"], args].concat();
        let ran = self.run(&args);
        assert_eq!(ran.code, 0, "{ran}");
        let events = ran.out.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        let result = events.rev().find(|event| event["event"] == "result");
        result.unwrap_or_else(|| panic!("no result: {ran}"))["artifacts"][0]["cached"].as_bool().unwrap()
    }
}

/// Processes that are there, zombies left out.
fn alive(pids: &[u32]) -> Vec<u32> {
    let is_alive = |pid: &u32| {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        stat.rsplit(") ").next().is_some_and(|rest| !rest.is_empty() && !rest.starts_with('Z'))
    };
    pids.iter().copied().filter(is_alive).collect()
}

fn signal(child: &Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}

/// A build that ignores SIGTERM, with children of its own that do, too; each writes down who it is, and the first one
/// that it was asked to end.
const DEAF: &str = "trap 'echo asked > ../asked' TERM
sh -c 'trap \"\" TERM; echo $$ >> ../pids; while :; do sleep 600; done' &
sh -c 'sh -c \"echo \\$\\$ >> ../pids; sleep 600; :\" & wait' &
echo $$ >> ../pids
while :; do sleep 600 & wait; done";

fn deaf() -> (Shop, Child, Vec<u32>) {
    let shop = Shop::new(DEAF);
    let child = shop.command(&["rehearse"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let pids = wait_for("the build to start its processes", || {
        let text = fs::read_to_string(shop.at(".tako/pids")).ok()?;
        let pids: Vec<u32> = text.lines().filter_map(|line| line.parse().ok()).collect();
        (pids.len() == 3).then_some(pids)
    });
    assert_eq!(alive(&pids).len(), 3);
    (shop, child, pids)
}

#[test]
fn ctrl_c_ends_all_that_a_build_started() {
    let (shop, mut child, pids) = deaf();
    signal(&child, Signal::INT);
    let status = child.wait().unwrap();
    assert_eq!(status.code(), Some(130));
    wait_for("the processes to be gone", || alive(&pids).is_empty().then_some(()));
    assert!(shop.at(".tako/asked").exists(), "first it is asked to end");
}

#[test]
fn a_second_ctrl_c_ends_them_at_once() {
    let (shop, mut child, pids) = deaf();
    signal(&child, Signal::INT);
    wait_for("the first one to be passed on", || shop.at(".tako/asked").exists().then_some(()));
    // It may have waited long enough already; then it ends by itself, and so do they.
    let _ = kill_process(Pid::from_child(&child), Signal::INT);
    let status = child.wait().unwrap();
    assert!(status.signal() == Some(2) || status.code() == Some(130), "{status:?}");
    wait_for("the processes to be gone", || alive(&pids).is_empty().then_some(()));
}

#[test]
fn what_a_killed_tako_left_running_is_ended_before_the_next_build() {
    // The second time the command that it began with is gone, too, and only what that started goes on.
    for leader_goes in [false, true] {
        let (shop, mut child, pids) = deaf();
        wait_for("the build to be remembered", || {
            (fs::read_to_string(shop.at(".tako/lock")).ok()?.lines().count() == 2).then_some(())
        });
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(alive(&pids).len(), 3);
        if leader_goes {
            let lock = fs::read_to_string(shop.at(".tako/lock")).unwrap();
            let leader = lock.lines().nth(1).and_then(|line| line.split(' ').next()?.parse().ok()).unwrap();
            kill_process(Pid::from_raw(leader).unwrap(), Signal::KILL).unwrap();
            wait_for("its leader to be gone", || (alive(&pids).len() < 3).then_some(()));
        }
        shop.write("tako.toml", "runtime = \"binary\"\nmain = \"run\"\n[build]\nbuild = 'true'\n");
        let ran = shop.run(&["rehearse"]);
        assert!(ran.code == 0 && ran.err.contains("ending what a build that was killed left running"), "{ran}");
        assert!(alive(&pids).is_empty(), "{:?}", alive(&pids));
        assert_eq!(fs::read_to_string(shop.at(".tako/lock")).unwrap(), "");
    }
}

#[test]
fn the_second_build_of_a_project_waits_and_takes_what_the_first_one_made() {
    let shop = Shop::new("echo . >> ../builds; while [ ! -e ../go ]; do sleep 0.02; done");
    let spawn = |to: &str| {
        let log = fs::File::create(shop.dir.path().join(to)).unwrap();
        shop.command(&["rehearse"]).stdout(Stdio::null()).stderr(log).spawn().unwrap()
    };
    let mut first = spawn("first");
    wait_for("the first build", || shop.at(".tako/builds").exists().then_some(()));
    let said = |name: &str| fs::read_to_string(shop.dir.path().join(name)).unwrap();
    let waits = |name: &str| {
        let words = format!("waiting for `tako rehearse` (process {}), which is building this project", first.id());
        wait_for("the other one to say for whom it waits", || said(name).contains(&words).then_some(()));
    };
    let (mut second, mut third) = (spawn("second"), spawn("third"));
    waits("second");
    waits("third");
    signal(&third, Signal::INT);
    assert_eq!(third.wait().unwrap().code(), Some(130), "who waits can be interrupted");
    fs::write(shop.at(".tako/go"), "").unwrap();
    assert!(first.wait().unwrap().success(), "{}", said("first"));
    assert!(second.wait().unwrap().success(), "{}", said("second"));
    assert!(said("second").contains("from the cache"), "{}", said("second"));
    assert_eq!(fs::read_to_string(shop.at(".tako/builds")).unwrap().lines().count(), 1);
}

#[test]
fn what_was_built_once_is_taken_from_the_cache_until_an_input_changes() {
    let shop = Shop::new("echo \"$VITE_API $SECRET_OF_MINE\" > seen");
    assert!(!shop.is_cached(&[]));
    assert!(shop.is_cached(&[]));
    assert!(!shop.is_cached(&["--no-cache"]));
    let with = |name: &str| {
        let ran = shop.command(&["rehearse", "--json"]).env(name, "changed").output().unwrap();
        let ran = Ran::from(&["rehearse", name], ran);
        assert_eq!(ran.code, 0, "{ran}");
        ran.out.contains("\"cached\":true")
    };
    assert!(with("SECRET_OF_MINE"), "nobody can know which of the others matter");
    assert!(!with("VITE_API"));
    assert_eq!(shop.built("seen"), "changed \n");
}

#[test]
fn a_build_gets_the_users_environment_without_what_is_for_tako_or_the_app() {
    let shop = Shop::new("env > seen");
    let mut command = shop.command(&["rehearse"]);
    command.env("TAKO_SECRETS_KEY_PRODUCTION", "x").env("NODE_ENV", "development").env("PORT", "1").env("MINE", "1");
    let ran = Ran::from(&["rehearse"], command.output().unwrap());
    assert_eq!(ran.code, 0, "{ran}");
    let seen = shop.built("seen");
    let names: Vec<&str> = seen.lines().filter_map(|line| Some(line.split_once('=')?.0)).collect();
    assert!(names.contains(&"MINE") && names.contains(&"TAKO_BUILD"), "{seen}");
    for name in ["TAKO_SECRETS_KEY_PRODUCTION", "TAKO_HOME", "NODE_ENV", "PORT"] {
        assert!(!names.contains(&name), "{name} in {seen}");
    }
}

#[test]
fn a_command_that_fails_is_told_with_its_last_lines_and_what_helps() {
    let shop = Shop::new("printf 'caf\\351 \\033[31mred\\033[0m\\n'; nosuchtool --flag");
    let ran = shop.run(&["rehearse"]);
    ran.assert_failed(
        8,
        &["build: `printf", "ended with exit code 127", "caf\u{fffd} red", "there is no `nosuchtool` here"],
    );
    assert!(!ran.err.contains('\x1b'), "{ran}");
    let shop = Shop::new("true");
    shop.write("css/x", "");
    let config = fs::read_to_string(shop.at("tako.toml")).unwrap();
    let stage = "[[build.stages]]\nname = \"css\"\nworking_dir = \"css\"\nrun = \"pwd; exit 4\"\n";
    shop.write("tako.toml", &format!("{config}{stage}"));
    shop.run(&["rehearse"]).assert_failed(8, &["stage css: `pwd; exit 4` in css ended with exit code 4", "build/css"]);
}

/// A folder of programs that `make test` installs besides those on PATH.
fn tools(below: &str) -> Option<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools").join(below).join("node_modules/.bin");
    dir.is_dir().then_some(dir)
}

/// A project whose build needs a package, installed by `tool` (found in `at` first) on this machine and on the server, from
/// a lock file that `locks` makes.
fn installs(tool: &str, at: Option<PathBuf>, lock: &str, locks: &str, expected: &str) {
    let mut shop = Shop::new("");
    if let Some(at) = at {
        shop.path = format!("{}:{}", at.display(), shop.path);
    } else if program(tool).is_none() {
        return skipped(tool);
    }
    let web = registry();
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registry");
    let package = fs::read_to_string(data.join("package.json")).unwrap();
    let package = package.replace("\"type\"", "\"scripts\": {\"build\": \"node make.mjs\"},\n  \"type\"");
    assert!(package.contains("scripts"));
    shop.write("package.json", &package);
    shop.write("index.mjs", &fs::read_to_string(data.join("index.mjs")).unwrap());
    let make =
        "import { greeting } from 'tiny-greeting';\nimport fs from 'node:fs';\nfs.writeFileSync('made', greeting);\n";
    shop.write("make.mjs", make);
    shop.write("tako.toml", "runtime = \"node\"\nmain = \"index.mjs\"\n");
    shop.write(".npmrc", &format!("registry={}/\n", web.url()));
    shop.write(".gitignore", "node_modules\n.tako\n");
    if expected.contains("--immutable") {
        // The registry does not say how old anything is.
        let config = "nodeLinker: node-modules\nenableTelemetry: false\nnpmMinimalAgeGate: 0\nunsafeHttpWhitelist: [\"127.0.0.1\"]\n";
        shop.write(".yarnrc.yml", &format!("{config}npmRegistryServer: \"{}\"\n", web.url()));
    }
    // The way its owner would have made it.
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(locks).current_dir(shop.at("")).env("PATH", &shop.path).env("http_proxy", "");
    command.env("HOME", shop.dir.path().join("home")).env_remove("CI");
    let made = command.output().unwrap();
    assert!(
        shop.at(lock).exists(),
        "{}{}",
        String::from_utf8_lossy(&made.stdout),
        String::from_utf8_lossy(&made.stderr)
    );
    let _ = fs::remove_dir_all(shop.at("node_modules"));

    let ran = shop.run(&["rehearse", "--verbose"]);
    assert_eq!(ran.code, 0, "{ran}");
    assert!(ran.err.contains(&format!("$ {expected}")), "{ran}");
    assert!(ran.err.contains(&format!("$ {tool} run build")), "{ran}");
    assert!(ran.err.contains(&format!("install dependencies ({tool} ")), "the server uses the same: {ran}");
    assert_eq!(shop.built("made"), "hello from a package");
    assert!(!shop.at("node_modules").exists(), "nothing is installed in the user's tree");

    // What the lock file does not know is not installed.
    shop.write(
        "package.json",
        &package.replace("\"1.0.0\"\n  }", "\"1.0.0\",\n    \"other-greeting\": \"2.0.0\"\n  }"),
    );
    shop.run(&["rehearse"])
        .assert_failed(8, &[&format!("install: `{expected}` ended with exit code"), "the lock file does not fit"]);

    // Without the tool it is said where it comes from.
    if tool != "npm" {
        shop.path = path_without(tool);
        let words = [format!("there is no `{tool}` here"), "brings it".into()];
        shop.run(&["rehearse"]).assert_failed(8, &[&words[0], &words[1]]);
    }
}

#[test]
fn npm_installs_for_a_build() {
    installs("npm", None, "package-lock.json", "npm install --package-lock-only", "npm ci");
}

#[test]
fn pnpm_installs_for_a_build() {
    let expected = "pnpm install --frozen-lockfile";
    installs("pnpm", None, "pnpm-lock.yaml", "pnpm install --lockfile-only", expected);
}

#[test]
fn yarn_1_installs_for_a_build() {
    installs("yarn", None, "yarn.lock", "yarn install --no-progress", "yarn install --frozen-lockfile");
}

#[test]
fn a_later_yarn_installs_for_a_build() {
    let Some(berry) = tools("berry") else {
        return skipped("yarn 4");
    };
    installs("yarn", Some(berry), "yarn.lock", "yarn install --no-immutable", "yarn install --immutable");
}

#[test]
fn bun_installs_for_a_build() {
    installs("bun", None, "bun.lock", "bun install --lockfile-only", "bun install --frozen-lockfile");
}

#[test]
fn of_several_lock_files_one_counts_and_it_is_said_which() {
    let web = registry();
    let shop = Shop::new("");
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registry");
    let read = |name: &str| fs::read_to_string(data.join(name)).unwrap();
    shop.write(
        "package.json",
        &read("package.json").replace("\"type\"", "\"scripts\": {\"build\": \"true\"},\n  \"type\""),
    );
    shop.write("package-lock.json", &read("package-lock.json").replace("REGISTRY", &web.url()));
    shop.write("yarn.lock", "");
    shop.write("index.mjs", &read("index.mjs"));
    shop.write(".npmrc", &format!("registry={}/\n", web.url()));
    shop.write("tako.toml", "runtime = \"node\"\nmain = \"index.mjs\"\n");
    let ran = shop.run(&["rehearse"]);
    assert_eq!(ran.code, 0, "{ran}");
    assert!(ran.err.contains("npm installs by package-lock.json, but there is yarn.lock too"), "{ran}");
    // An address is told only where somebody still answers.
    assert!(!ran.out.contains("https://") && ran.err.contains("`--keep` leaves it running"), "{ran}");
}

#[test]
fn tools_and_variables_come_from_mise_where_it_is() {
    if program("mise").is_none() {
        return skipped("mise");
    }
    let shop = Shop::new("which node > node; echo \"$OF_MISE $OF_MINE\" > variables");
    // As if mise had installed it.
    let bin = shop.dir.path().join("mise/installs/node/20.99.1/bin");
    fs::create_dir_all(&bin).unwrap();
    std::os::unix::fs::symlink(program("node").unwrap(), bin.join("node")).unwrap();
    let config = "[tools]\nnode = \"20.99.1\"\n[env]\nOF_MISE = \"from mise\"\n";
    shop.write("mise.toml", config);
    shop.write(".gitignore", "mise.local.toml\n");
    let rehearse = || {
        let mut command = shop.command(&["rehearse", "--json"]);
        for (name, dir) in [("MISE_DATA_DIR", "mise"), ("MISE_CONFIG_DIR", "config"), ("MISE_STATE_DIR", "state")] {
            command.env(name, shop.dir.path().join(dir));
        }
        // It must not have to ask anybody.
        command.env("MISE_CACHE_DIR", shop.dir.path().join("cache")).env("MISE_OFFLINE", "1").env("MISE_PARANOID", "1");
        Ran::from(&["rehearse"], command.output().unwrap())
    };
    let ran = rehearse();
    assert_eq!(ran.code, 0, "{ran}");
    assert_eq!(shop.built("node").trim(), bin.join("node").to_str().unwrap());
    assert_eq!(shop.built("variables"), "from mise \n");
    assert!(rehearse().out.contains("\"cached\":true"));
    // A file that is no source and still says something.
    shop.write("mise.local.toml", "[env]\nOF_MINE = \"mine\"\n");
    let ran = rehearse();
    assert!(ran.out.contains("\"cached\":false"), "{ran}");
    assert_eq!(shop.built("variables"), "from mise mine\n");
    shop.write("mise.toml", "[tools\n");
    let ran = rehearse();
    assert_eq!(ran.code, 3, "{ran}");
    assert!(ran.err.contains("`mise env` failed") && ran.err.contains("mise.toml"), "{ran}");
}
