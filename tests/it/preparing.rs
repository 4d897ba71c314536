//! Releases that are made ready on the server: runtimes that it has not, dependencies of a registry.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::json;

use crate::cli::skipped;
use crate::http::Client;
use crate::published::{gzip, zip};
use crate::sandbox::{Control, HOST, Ran, Server, Sshd, User, wait_for};
use crate::web::{Page, Web};

/// Where a program lies, links resolved.
pub fn program(tool: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap();
    fs::canonicalize(std::env::split_paths(&path).map(|dir| dir.join(tool)).find(|p| p.is_file())?).ok()
}

/// PATH without the folders in which there is a `tool`.
pub fn path_without(tool: &str) -> String {
    let path = std::env::var_os("PATH").unwrap();
    let dirs = std::env::split_paths(&path).filter(|dir| !dir.join(tool).exists());
    std::env::join_paths(dirs).unwrap().into_string().unwrap()
}

/// A user whose server has this in its environment.
pub fn world(args: &[&str], env: &[(&str, &str)]) -> (Server, Sshd, User) {
    let server = Server::with_env(args, env);
    let sshd = Sshd::start(&server);
    let user = User::new(&sshd);
    user.use_app("mixed", false);
    user.must(&["servers", "add", "127.0.0.1", "--name", "box", "--port", &sshd.port.to_string()]);
    (server, sshd, user)
}

pub fn sha256(bytes: &[u8]) -> String {
    ring::digest::digest(&ring::digest::SHA256, bytes).as_ref().iter().map(|b| format!("{b:02x}")).collect()
}

pub fn page(server: &Server) -> String {
    Client::plain(server.http, HOST).unwrap().get("/").unwrap().text().to_owned()
}

/// The name of Bun's build for this machine, as its makers publish it.
fn bun_build() -> &'static str {
    #[cfg(target_arch = "x86_64")]
    return if std::arch::is_x86_feature_detected!("avx2") { "bun-linux-x64" } else { "bun-linux-x64-baseline" };
    #[cfg(not(target_arch = "x86_64"))]
    "bun-linux-aarch64"
}

#[test]
fn a_runtime_that_is_nowhere_on_the_server_is_downloaded() {
    let Some(bun) = program("bun") else {
        return skipped("bun");
    };
    let version = String::from_utf8(Command::new(&bun).arg("--version").output().unwrap().stdout).unwrap();
    let version = version.trim();
    let archive = zip(&[(&format!("{}/bun", bun_build()), &fs::read(bun).unwrap(), true)]);
    let web = Web::start();
    let dir = format!("/bun/bun-v{version}");
    let at = format!("{dir}/{}.zip", bun_build());
    web.publish(&at, &format!("{dir}/SHASUMS256.txt"), &sha256(&archive), Page::Whole(archive));

    let (mut server, _sshd, user) =
        world(&["--runtime-mirror", &web.url()], &[("PATH", &path_without("bun")), ("http_proxy", "")]);
    user.use_app("bun-fetch", false);
    let ran = user.must(&["deploy", "--yes"]);
    assert!(ran.err.contains(&format!("download bun {version}")), "{ran}");
    let greeting = format!("bun {version} says hello to /\n");
    assert_eq!(page(&server), greeting);
    assert!(server.data().join(format!("runtimes/bun/{version}/bin/bun")).is_file());
    let left = fs::read_dir(server.data().join("runtimes")).unwrap().flatten().map(|e| e.file_name());
    assert_eq!(left.collect::<Vec<_>>(), ["bun"]);

    // Once is enough; and after a crash the same program starts, with no mirror to be asked.
    user.write("change.txt", "two");
    user.must(&["deploy", "--yes"]);
    assert_eq!(web.asked(&at), 1);
    server.crash();
    server.boot();
    wait_for("the app to serve again", || (page(&server) == greeting).then_some(()));
}

#[test]
fn a_runtime_that_cannot_be_had_changes_nothing() {
    let web = Web::start();
    let path = path_without("bun");
    let (server, _sshd, user) = world(&["--runtime-mirror", &web.url()], &[("PATH", &path)]);
    let v1 = user.result(&["deploy", "--yes", "--json"])["version"].as_str().unwrap().to_owned();
    user.use_app("bun-fetch", false);
    let config = user.read("tako.toml");
    user.write("tako.toml", &config.replace("main =", "runtime_version = \"1.0.99\"\nmain ="));
    let ran = user.run(&["deploy", "--yes"]);
    assert_ne!(ran.code, 0, "{ran}");
    assert!(ran.err.contains("there is no bun 1.0.99 at") && ran.err.contains(&web.url()), "{ran}");
    assert_eq!(server.releases("shop"), [&*v1]);
    assert_eq!(Client::plain(server.http, HOST).unwrap().get("/").unwrap().json()["version"], *v1);
}

/// A registry with `tiny-greeting` 1.0.0 in it, and a package.json that says there is `other-greeting` 2.0.0.
pub fn registry() -> Web {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registry");
    let web = Web::start();
    let tarball = "/tiny-greeting/-/tiny-greeting-1.0.0.tgz";
    let lock = fs::read_to_string(data.join("package-lock.json")).unwrap();
    let integrity = lock.split('"').find(|word| word.starts_with("sha512-")).unwrap();
    // The other one is for a package.json that the lockfile does not know.
    for (name, version) in [("tiny-greeting", "1.0.0"), ("other-greeting", "2.0.0")] {
        let packument = json!({
            "name": name,
            "dist-tags": {"latest": version},
            "versions": {version: {
                "name": name,
                "version": version,
                "type": "module",
                "main": "index.mjs",
                "dist": {"integrity": integrity, "tarball": format!("{}{tarball}", web.url())},
            }},
        });
        web.put(&format!("/{name}"), Page::Whole(packument.to_string().into()));
    }
    web.put(tarball, Page::Whole(fs::read(data.join("tiny-greeting-1.0.0.tgz")).unwrap()));
    web
}

/// A project that needs a package of a registry.
pub fn shop_with_a_dependency(lockfile: &str, runtime: &str, path: &str) -> (Server, Sshd, User, Web) {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/registry");
    let read = |name: &str| fs::read_to_string(data.join(name)).unwrap();
    let web = registry();
    let lock = read(lockfile).replace("REGISTRY", &web.url());

    let (server, sshd, user) =
        world(&["--runtime-mirror", &web.url()], &[("NPM_CONFIG_REGISTRY", &web.url()), ("PATH", path)]);
    user.write("index.mjs", &read("index.mjs"));
    user.write("package.json", &read("package.json"));
    user.write(lockfile, &lock);
    let config = format!(
        "name = \"shop\"\nruntime = \"{runtime}\"\nmain = \"index.mjs\"\n\n[envs.production]\nroute = \"{HOST}\"\n"
    );
    user.write("tako.toml", &config);
    (server, sshd, user, web)
}

/// Deploys it, then a change of `package.json` that the lockfile does not know.
fn installs_from(lockfile: &str, runtime: &str, installer: &str) {
    if program(installer.split(' ').next().unwrap()).is_none() {
        return skipped(installer);
    }
    let (server, _sshd, user, web) = shop_with_a_dependency(lockfile, runtime, &path_without("no-such-tool"));
    let ran = user.must(&["deploy", "--yes"]);
    assert!(ran.err.contains(&format!("install dependencies ({installer})")), "{ran}");
    assert_eq!(page(&server), "hello from a package");
    assert_eq!(web.asked("/tiny-greeting/-/tiny-greeting-1.0.0.tgz"), 1, "installed on the server, and once");
    let v1 = server.current("shop").unwrap();
    let said = fs::read_to_string(server.app("shop").join("shared/logs/install.log")).unwrap();
    assert!(!said.trim().is_empty());

    let package =
        user.read("package.json").replace("\"1.0.0\"\n  }", "\"1.0.0\",\n    \"other-greeting\": \"2.0.0\"\n  }");
    assert!(package.contains("other-greeting"));
    user.write("package.json", &package);
    let ran = user.run(&["deploy", "--yes"]);
    assert_failed_in_the_words_of(&ran, installer);
    assert_eq!(page(&server), "hello from a package");
    assert_eq!(server.current("shop").as_deref(), Some(v1.as_str()));
    assert_eq!(server.releases("shop"), [v1], "the failed release is removed");
    assert!(!server.app("shop").join(".deploy_lock").exists());
}

fn assert_failed_in_the_words_of(ran: &Ran, installer: &str) {
    let words = match installer.split(' ').next().unwrap() {
        "npm" => "Missing: other-greeting@2.0.0 from lock file",
        "bun" => "lockfile had changes, but lockfile is frozen",
        _ => "The lockfile is out of date",
    };
    ran.assert_failed(4, &["install the dependencies of shop", "failed with exit status: 1", words, "install.log"]);
}

#[test]
fn npm_installs_what_the_lockfile_says() {
    installs_from("package-lock.json", "node", "npm ci --omit=dev");
}

/// Node and its npm of this machine, packed as its makers do.
fn node_archive(version: &str) -> Option<Vec<u8>> {
    let (node, npm) = (program("node")?, program("npm")?);
    // Some distributions keep what npm needs elsewhere.
    let npm = npm.ancestors().nth(2).filter(|dir| dir.ends_with("node_modules/npm"))?;
    let root =
        PathBuf::from(format!("node-v{version}-linux-{}", if cfg!(target_arch = "x86_64") { "x64" } else { "arm64" }));
    let mut tar = tar::Builder::new(Vec::new());
    tar.follow_symlinks(false);
    tar.append_path_with_name(&node, root.join("bin/node")).unwrap();
    tar.append_dir_all(root.join("lib/node_modules/npm"), npm).unwrap();
    let mut head = tar::Header::new_gnu();
    head.set_entry_type(tar::EntryType::Symlink);
    head.set_size(0);
    tar.append_link(&mut head, root.join("bin/npm"), "../lib/node_modules/npm/bin/npm-cli.js").unwrap();
    Some(gzip(&tar.into_inner().unwrap()))
}

#[test]
fn a_node_that_was_downloaded_brings_the_npm_that_installs() {
    let said = Command::new("node").arg("--version").output().unwrap().stdout;
    let version = String::from_utf8(said).unwrap().trim().trim_start_matches('v').to_owned();
    let Some(archive) = node_archive(&version) else {
        return skipped("node with its npm beside it");
    };
    let (server, _sshd, user, web) = shop_with_a_dependency("package-lock.json", "node", &path_without("node"));
    let dir = format!("/node/v{version}");
    let arch = if cfg!(target_arch = "x86_64") { "x64" } else { "arm64" };
    let at = format!("{dir}/node-v{version}-linux-{arch}.tar.gz");
    web.publish(&at, &format!("{dir}/SHASUMS256.txt"), &sha256(&archive), Page::Whole(archive));
    let ran = user.must(&["deploy", "--yes"]);
    assert!(ran.err.contains(&format!("unpack node {version}")) && ran.err.contains("npm ci"), "{ran}");
    assert_eq!(page(&server), "hello from a package");
    assert!(server.data().join(format!("runtimes/node/{version}/bin/npm")).is_symlink());
}

#[test]
fn bun_installs_what_the_lockfile_says() {
    installs_from("bun.lock", "bun", "bun install --production --frozen-lockfile");
}

#[test]
fn deno_installs_what_the_lockfile_says() {
    installs_from("deno.lock", "deno", "deno install --frozen --prod");
}

#[test]
fn an_installer_ends_with_the_client_that_wanted_it() {
    let (server, _sshd, user) = world(&[], &[]);
    let marker = server.dir.path().join("pid");
    let script = format!("echo $$ > {}; chmod 666 {0}; sleep 600", marker.display());
    let config = user.read("tako.toml");
    fs::write(&marker, "").unwrap();
    fs::set_permissions(&marker, std::os::unix::fs::PermissionsExt::from_mode(0o666)).unwrap();
    user.write("tako.toml", &config.replace("name =", &format!("install = [\"sh\", \"-c\", \"{script}\"]\nname =")));
    let mut child = user
        .command(&["deploy", "--yes"])
        .stdout(std::process::Stdio::null())
        .stderr(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let pid = wait_for("the installer to run", || {
        let pid = fs::read_to_string(&marker).ok()?;
        pid.ends_with('\n').then(|| pid.trim().to_owned())
    });
    child.kill().unwrap();
    child.wait().unwrap();
    wait_for("the installer to end", || (!Path::new("/proc").join(&pid).exists()).then_some(()));
    let lock = json!({"lock": {"app": "shop", "version": null}});
    let mut control = Control::open(&server).unwrap();
    wait_for("the lock to be free", || control.call(lock.clone()).ok());
    wait_for("the release to be removed", || server.releases("shop").is_empty().then_some(()));
}
