//! A workspace as people have it: the app in `apps/web`, a package it uses in `packages/greeting`, a stage in a sibling
//! that makes its styles; built from a clean tree and started from the release of the whole repository.

use std::fs;
use std::path::Path;
use std::process::Command;

use serde_json::Value;

use crate::deploy::world;
use crate::http::Client;
use crate::sandbox::{HOST, User};

const CONFIG: &str = r#"
name = "shop"
runtime = "node"
main = "dist/index.mjs"

[build]
build = "node build.mjs && mkdir -p node_modules/.cache && date >> node_modules/.cache/builds"

[[build.stages]]
name = "styles"
working_dir = "../../packages/styles"
run = "node build.mjs"

[envs.production]
route = "shop.localhost"
servers = ["box"]
"#;

const FILES: [(&str, &str); 10] = [
    ("package.json", r#"{"name": "acme", "private": true, "workspaces": ["apps/*", "packages/*"]}"#),
    (".gitignore", "node_modules/\ndist/\nsecrets.txt\n"),
    ("secrets.txt", "not for servers"),
    ("packages/greeting/package.json", r#"{"name": "@acme/greeting", "version": "1.0.0", "main": "index.js"}"#),
    ("packages/greeting/index.js", "module.exports = (name) => `hello ${name}`;\n"),
    (
        "packages/styles/build.mjs",
        "import fs from 'node:fs';\nfs.mkdirSync('../../apps/web/public', { recursive: true });\nfs.writeFileSync('../../apps/web/public/site.css', 'body{}');\n",
    ),
    ("apps/web/package.json", r#"{"name": "web", "version": "1.0.0", "dependencies": {"@acme/greeting": "*"}}"#),
    // At build time the package is found through the workspace, and so it is when the app runs.
    (
        "apps/web/build.mjs",
        "import fs from 'node:fs';\nimport greet from '@acme/greeting';\nfs.mkdirSync('dist', { recursive: true });\nconst page = fs.readFileSync('src/index.mjs', 'utf8').replace('BUILT', greet('builder'));\nfs.writeFileSync('dist/index.mjs', page);\n",
    ),
    (
        "apps/web/src/index.mjs",
        "import greet from '@acme/greeting';\nexport default { fetch: (request) => new Response(`${greet('visitor')}, BUILT says ${new URL(request.url).pathname}`) };\n",
    ),
    ("apps/web/tako.toml", CONFIG),
];

fn git(dir: &Path, args: &[&str]) {
    let named = ["-c", "user.name=Ana", "-c", "user.email=ana@example.com"];
    let out = Command::new("git").args(named).args(args).current_dir(dir).output().unwrap();
    assert!(out.status.success(), "git {args:?}: {}", String::from_utf8_lossy(&out.stderr));
}

/// The repository in the project's folder, installed and committed.
fn repository(user: &User) {
    let root = user.project();
    for entry in fs::read_dir(&root).unwrap().flatten() {
        fs::remove_file(entry.path()).unwrap();
    }
    for (name, text) in FILES {
        fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
        user.write(name, text);
    }
    let mut npm = Command::new("npm");
    npm.args(["install", "--offline", "--no-audit", "--no-fund"]).env("npm_config_cache", user.home().join("npm"));
    let out = npm.current_dir(&root).output().unwrap();
    assert!(out.status.success(), "npm install: {}", String::from_utf8_lossy(&out.stderr));
    git(&root, &["init", "--quiet"]);
    git(&root, &["add", "."]);
    git(&root, &["commit", "--quiet", "-m", "A shop"]);
}

#[test]
fn an_app_of_a_workspace_is_built_and_runs_with_its_siblings() {
    let (server, _sshd, user) = world();
    repository(&user);
    let root = user.project();
    let deploy = || {
        let event = user.result(&["deploy", "--yes", "--json", "--dir", "apps/web"]);
        event["version"].as_str().unwrap().to_string()
    };
    let version = deploy();
    let status = || Command::new("git").args(["status", "--porcelain"]).current_dir(&root).output().unwrap().stdout;
    // Our own folder says itself that it is ignored, and nothing else is new.
    assert_eq!(String::from_utf8(status()).unwrap(), "", "the user's tree is as it was");
    assert!(!version.contains('_'), "{version} is the commit");

    let get = |path: &str| Client::plain(server.http, HOST).unwrap().get(path).unwrap().text();
    assert_eq!(get("/a"), "hello visitor, hello builder says /a");
    assert_eq!(get("/site.css"), "body{}");
    let release = server.app("shop").join("releases").join(&version);
    assert!(release.join("packages/greeting/index.js").is_file() && !release.join("secrets.txt").exists());
    let app: serde_json::Value = serde_json::from_slice(&fs::read(release.join("app.json")).unwrap()).unwrap();
    assert_eq!((app["dir"].as_str(), app["commit_message"].as_str()), (Some("apps/web"), Some("A shop")));

    let own = root.join("apps/web/.tako");
    assert!(own.join("artifacts").join(format!("{version}-source.tar.zst")).is_file());
    // A change in the package is one of the app, and what the build cached is there for the next one.
    user.write("packages/greeting/index.js", "module.exports = (name) => `good day ${name}`;\n");
    let second = deploy();
    assert!(second.starts_with(&format!("{version}_")), "{second}");
    assert_eq!(get("/b"), "good day visitor, good day builder says /b");
    let builds = fs::read_to_string(own.join("build/apps/web/node_modules/.cache/builds")).unwrap();
    assert_eq!(builds.lines().count(), 2);
    let second_release = server.app("shop").join("releases").join(&second);
    assert!(!second_release.join("apps/web/node_modules/.cache").exists(), "a cache does not ship");
    assert!(!root.join("apps/web/node_modules/.cache").exists() && !root.join("apps/web/public").exists());
}

#[test]
fn fifty_thousand_files_are_a_project_like_any_other() {
    const FILES: usize = 50_000;
    let (server, _sshd, user) = world();
    for n in 0..FILES {
        let folder = user.project().join(format!("data/{}/{}", n % 50, n % 1000 / 50));
        if n < 1000 {
            fs::create_dir_all(&folder).unwrap();
        }
        fs::write(folder.join(format!("{n}.txt")), format!("file {n}\n")).unwrap();
    }
    git(&user.project(), &["init", "--quiet"]);
    git(&user.project(), &["add", "."]);
    git(&user.project(), &["commit", "--quiet", "-m", "Many"]);
    let first = user.result(&["deploy", "--yes", "--json"]);
    let there = |version: &Value| {
        let data = server.app("shop").join("releases").join(version.as_str().unwrap()).join("data");
        let folders = fs::read_dir(data).unwrap().flat_map(|entry| fs::read_dir(entry.unwrap().path()).unwrap());
        folders.map(|entry| fs::read_dir(entry.unwrap().path()).unwrap().count()).sum::<usize>()
    };
    assert_eq!(there(&first["version"]), FILES);
    assert_eq!(Client::plain(server.http, HOST).unwrap().get("/").unwrap().json()["version"], first["version"]);

    user.write("data/49/19/49999.txt", "changed\n");
    let second = user.result(&["deploy", "--yes", "--json"]);
    assert_eq!(there(&second["version"]), FILES);
    let sent = |key: &str| second["servers"][0]["sent"][key].as_u64().unwrap();
    assert!(sent("bytes") * 10 < sent("of"), "{} bytes for one of {FILES} files", sent("bytes"));
}
