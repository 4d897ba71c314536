//! Deploys that change nothing about an app's packages: what was installed for an earlier release is there again, and no
//! installer runs. Whatever could make a difference does.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::SystemTime;

use serde_json::{Value, json};

use crate::cli::skipped;
use crate::http::Client;
use crate::preparing::{page, path_without, program, registry, sha256, shop_with_a_dependency, world};
use crate::sandbox::{Control, HOST, Ran, Server, User};
use crate::web::Web;

/// What the release answers; it may change what was installed with it, or add to that, if it is let.
fn app(code: &str) -> String {
    let app = r#"
        import fs from "node:fs";
        import { greeting } from "tiny-greeting";
        const at = (name) => new URL(`./node_modules/tiny-greeting/${name}`, import.meta.url);
        const tried = (act) => { try { act(); return "done"; } catch (e) { return e.code; } };
        const pages = {
          "/": () => `CODE: ${greeting}${fs.existsSync(at("note")) ? ", noted" : ""}`,
          "/note": () => tried(() => fs.writeFileSync(at("note"), "x")),
          "/spoil": () => tried(() => fs.writeFileSync(at("index.mjs"), "export const greeting = 'spoilt';")),
        };
        export default { fetch: (request) => new Response(pages[new URL(request.url).pathname]()) };
    "#;
    app.replace("CODE", code)
}

const GOOD: &str = "hello from a package";

/// When an installer ran last, by the file of all that it said.
fn installed(server: &Server) -> SystemTime {
    fs::metadata(server.app("shop").join("shared/logs/install.log")).unwrap().modified().unwrap()
}

/// How often the registry was asked for anything that is wanted here.
fn requests(web: &Web) -> usize {
    ["/tiny-greeting", "/tiny-greeting/-/tiny-greeting-1.0.0.tgz"].iter().map(|path| web.asked(path)).sum()
}

fn deploy(user: &User, flags: &[&str]) -> Ran {
    user.must(&[&["deploy", "--yes"], flags].concat())
}

/// Deploys it as another version whose packages are those of `from`.
fn takes_from(user: &User, server: &Server, web: &Web, code: &str, from: &str) -> String {
    let (before, asked) = (installed(server), requests(web));
    user.write("index.mjs", &app(code));
    let ran = deploy(user, &[]);
    assert!(ran.err.contains(&format!("packages unchanged since {from}")), "{ran}\n{}", server.log());
    assert!(!ran.err.contains("install dependencies"), "{ran}");
    assert_eq!((installed(server), requests(web)), (before, asked), "no installer ran, and nobody asked the registry");
    assert_eq!(page(server), format!("{code}: {GOOD}"));
    server.current("shop").unwrap()
}

/// Deploys it with this file changed, which needs an installer.
fn installs(user: &User, server: &Server, why: &str, flags: &[&str]) -> String {
    let before = installed(server);
    user.write("index.mjs", &app(why));
    let ran = deploy(user, flags);
    assert!(ran.err.contains("install dependencies") && !ran.err.contains("unchanged since"), "{why}: {ran}");
    assert_ne!(installed(server), before, "{why}");
    assert_eq!(page(server), format!("{why}: {GOOD}"));
    server.current("shop").unwrap()
}

fn installs_once(lockfile: &str, runtime: &str, tool: &str) {
    if program(tool).is_none() {
        return skipped(tool);
    }
    let (server, _sshd, user, web) = shop_with_a_dependency(lockfile, runtime, &path_without("no-such-tool"));
    user.write("index.mjs", &app("first"));
    deploy(&user, &[]);
    let v1 = server.current("shop").unwrap();
    assert!(requests(&web) > 0);
    let v2 = takes_from(&user, &server, &web, "second", &v1);

    // The copy is no other release's, and the app can no more write into it than into what was installed.
    let packages = |version: &str| server.app("shop").join("releases").join(version).join("node_modules/tiny-greeting");
    for version in [&v1, &v2] {
        let file = fs::metadata(packages(version).join("index.mjs")).unwrap();
        assert_eq!(file.nlink(), 1);
        if rustix::process::geteuid().is_root() {
            assert_eq!((file.uid(), file.mode() & 0o777), (0, 0o640), "{version}");
            assert!(file.gid() >= 70_000, "{version}");
            assert_eq!(Client::plain(server.http, HOST).unwrap().get("/spoil").unwrap().text(), "EACCES");
        }
    }

    // Without the release that it came from: the next one has it all the same, and the way back is open.
    fs::remove_dir_all(server.app("shop").join("releases").join(&v1)).unwrap();
    let v3 = takes_from(&user, &server, &web, "third", &v2);
    user.must(&["releases", "rollback", &v2, "--yes"]);
    assert_eq!(page(&server), format!("second: {GOOD}"));

    // Whatever could make a difference; and then that is what is taken.
    let lock = user.read(lockfile);
    user.write(lockfile, &format!("{lock}\n"));
    let v4 = installs(&user, &server, "another lock file", &[]);
    takes_from(&user, &server, &web, "fifth", &v4);
    user.write(".npmrc", "fund=false\n");
    let v6 = installs(&user, &server, "another .npmrc", &[]);
    user.write("package.json", &user.read("package.json").replace("1.0.0\",\n  \"private", "1.0.1\",\n  \"private"));
    installs(&user, &server, "another package.json", &[]);
    let config = user.read("tako.toml");
    user.write("tako.toml", &format!("{config}\n[vars]\nNPM_CONFIG_FUND = \"false\"\n"));
    installs(&user, &server, "another variable", &[]);
    user.write("tako.toml", &config);
    installs(&user, &server, "no cache", &["--no-cache"]);
    // What somebody changed by hand is not handed on.
    let v10 = installs(&user, &server, "no cache again", &["--no-cache"]);
    fs::write(packages(&v10).join("index.mjs"), "export const greeting = 'spoilt';").unwrap();
    let releases = server.app("shop").join("releases");
    fs::read_dir(&releases).unwrap().flatten().map(|e| e.file_name()).filter(|name| *name != *v10).for_each(|name| {
        let _ = fs::remove_file(releases.join(name).join(".packages"));
    });
    installs(&user, &server, "what was tampered with", &[]);
    assert!(server.log().contains("index.mjs was written to since it was installed"), "{}", server.log());
    assert!([v3, v6].iter().all(|version| releases.join(version).join("node_modules").is_dir()));
}

#[test]
fn npm_installs_once_for_releases_that_need_the_same() {
    installs_once("package-lock.json", "node", "npm");
}

#[test]
fn bun_installs_once_for_releases_that_need_the_same() {
    installs_once("bun.lock", "bun", "bun");
}

/// Managers whose lock files they make themselves.
fn also_by(tool: &str, lockfile: &str, locks: &str) {
    if program(tool).is_none() {
        return skipped(tool);
    }
    let web = registry();
    let (server, _sshd, user) = world(&[], &[("NPM_CONFIG_REGISTRY", &web.url())]);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registry");
    let package = fs::read_to_string(data.join("package.json")).unwrap();
    user.write("package.json", &package);
    user.write(".npmrc", &format!("registry={}/\n", web.url()));
    user.write("index.mjs", &app("first"));
    user.write(
        "tako.toml",
        &format!("runtime = \"node\"\nmain = \"index.mjs\"\n[envs.production]\nroute = \"{HOST}\"\n"),
    );
    user.write(".gitignore", "node_modules\n.tako\n");
    let mut command = Command::new("/bin/sh");
    command.args(["-c", locks]).current_dir(user.project()).env("HOME", user.dir.path()).env_remove("CI");
    let made = command.env("http_proxy", "").output().unwrap();
    assert!(user.project().join(lockfile).exists(), "{}", String::from_utf8_lossy(&made.stderr));
    let _ = fs::remove_dir_all(user.project().join("node_modules"));
    deploy(&user, &[]);
    let v1 = server.current("shop").unwrap();
    let v2 = takes_from(&user, &server, &web, "second", &v1);
    // Not a word of the other release is left in it.
    let grep =
        Command::new("grep").args(["-rlF", &v1]).arg(server.app("shop").join("releases").join(v2)).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&grep.stdout), "");
}

#[test]
fn pnpm_installs_once() {
    also_by("pnpm", "pnpm-lock.yaml", "pnpm install --lockfile-only");
}

#[test]
fn yarn_installs_once() {
    also_by("yarn", "yarn.lock", "yarn install --no-progress");
}

#[test]
fn a_script_that_may_read_the_source_runs_for_each_release() {
    let (server, _sshd, user, _web) =
        shop_with_a_dependency("package-lock.json", "node", &path_without("no-such-tool"));
    user.write("index.mjs", &app("first"));
    let package = user.read("package.json");
    let script = r#""scripts": {"postinstall": "wc -c index.mjs > node_modules/size"}, "type""#;
    user.write("package.json", &package.replace("\"type\"", script));
    deploy(&user, &[]);
    installs(&user, &server, "a longer second", &[]);
    let size = server.app("shop").join("current/node_modules/size");
    assert_eq!(fs::read_to_string(size).unwrap(), format!("{} index.mjs\n", app("a longer second").len()));
    assert!(server.log().contains("the postinstall script of package.json may read the source"), "{}", server.log());
}

/// Lays a release out and starts it, as `tako deploy` does.
fn ship(server: &Server, version: &str, files: &[(&str, &str)]) -> Result<Value, Value> {
    let mut control = Control::open(server).unwrap();
    control.call(json!({"lock": {"app": "shop", "version": version}}))?;
    let mut tar = tar::Builder::new(Vec::new());
    for (name, text) in files {
        let mut head = tar::Header::new_gnu();
        head.set_size(text.len() as u64);
        head.set_mode(0o644);
        tar.append_data(&mut head, name, text.as_bytes()).unwrap();
    }
    let tar = tar.into_inner().unwrap();
    let packed = zstd::encode_all(&tar[..], 1).unwrap();
    fs::write(server.data().join("incoming/up.tar.zst"), &packed).unwrap();
    let artifact = json!({"file": "up.tar.zst", "sha256": sha256(&tar), "bytes": packed.len(), "unpacked": tar.len()});
    control.call(json!({"unpack": {"app": "shop", "version": version, "artifact": artifact}}))?;
    let manifest = json!({"app": "shop", "version": version, "runtime": "node", "main": "index.mjs"});
    control.call(json!({"prepare": {"manifest": manifest}}))?;
    control.call(json!({"deploy": {"manifest": manifest, "routes": [HOST], "instances": 1, "secrets": null}}))
}

#[test]
fn what_a_release_writes_among_its_packages_is_its_own() {
    // An app that runs as its server does may write there.
    if !rustix::process::geteuid().is_root() {
        return skipped("only root starts a server as another user");
    }
    let web = registry();
    let server = Server::as_user_at_home(65_534, &[("NPM_CONFIG_REGISTRY", &web.url()), ("http_proxy", "")]);
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registry");
    let read = |name: &str| fs::read_to_string(data.join(name)).unwrap().replace("REGISTRY", &web.url());
    let (package, lock) = (read("package.json"), read("package-lock.json"));
    let go = |version: &str| {
        let app = app(version);
        let files = [("index.mjs", &*app), ("package.json", &*package), ("package-lock.json", &*lock)];
        let done = ship(&server, version, &files);
        assert!(done.is_ok(), "{done:?}\n{}", server.log());
    };
    let ask = |path: &str| Client::plain(server.http, HOST).unwrap().get(path).unwrap().text().to_owned();
    let has = |version: &str, from: &str| {
        let line = format!("app=shop release={version} has the packages of {from}");
        assert!(server.log().contains(&line), "{}", server.log());
        assert_eq!(ask("/"), format!("{version}: {GOOD}"));
    };
    go("v1");
    let first = installed(&server);
    assert_eq!(ask("/note"), "done");
    assert_eq!(ask("/"), format!("v1: {GOOD}, noted"));
    go("v2");
    has("v2", "v1");
    // Neither the one after it nor the one before has what it makes of a package.
    assert_eq!(ask("/spoil"), "done");
    go("v3");
    has("v3", "v1");
    assert_eq!(installed(&server), first);
    let of = |version: &str| {
        fs::read_to_string(
            server.app("shop").join("releases").join(version).join("node_modules/tiny-greeting/index.mjs"),
        )
        .unwrap()
    };
    assert!(of("v2").contains("spoilt") && of("v1").contains(GOOD) && of("v3").contains(GOOD));
    // Two that were changed are doubt enough.
    assert_eq!(ask("/spoil"), "done");
    go("v4");
    assert_ne!(installed(&server), first);
    assert_eq!(ask("/"), format!("v4: {GOOD}"));
}
