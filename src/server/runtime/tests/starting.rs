//! How a release is started, with programs that are here: tests of `launch` and the SDK.

use std::os::unix::fs::PermissionsExt;

use super::super::*;

struct World {
    _dir: tempfile::TempDir,
    layout: Layout,
}

/// A data directory that has its own programs, so that those of this machine do not matter.
fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().into());
    for tool in ["node", "bun", "deno"] {
        program(&layout.runtimes().join(tool).join("1.2.3/bin").join(tool));
    }
    World { _dir: dir, layout }
}

fn program(path: &Path) {
    fs::create_dir_all(path.parent().unwrap()).unwrap();
    fs::write(path, "#!/bin/sh\necho v1.2.3\n").unwrap();
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn manifest(runtime: &str) -> Manifest {
    let version = if runtime == "binary" { "" } else { r#""runtime_version":"1.2.3","# };
    serde_json::from_str(&format!(
        r#"{{"app":"shop","version":"v1","runtime":"{runtime}",{version}"dir":"web","main":"src/index.js"}}"#
    ))
    .unwrap()
}

/// The arguments with the world's folder as `~` and the SDK's as `SDK`.
fn argv(w: &World, manifest: &Manifest) -> String {
    let launch = launch(&w.layout, manifest).unwrap();
    let words: Vec<String> = launch.argv.iter().map(|a| a.to_string_lossy().into_owned()).collect();
    let sdk = sdk_dir(&w.layout).display().to_string();
    words.join(" ").replace(&sdk, "SDK").replace(&w.layout.data().display().to_string(), "~")
}

#[test]
fn a_javascript_app_runs_under_the_entry_point_of_its_runtime() {
    let w = world();
    let check = |runtime: &str, expected: &str| assert_eq!(argv(&w, &manifest(runtime)), expected);
    check("node", "~/runtimes/node/1.2.3/bin/node SDK/node.mjs src/index.js");
    check("bun", "~/runtimes/bun/1.2.3/bin/bun SDK/bun.mjs src/index.js");
    check("deno", "~/runtimes/deno/1.2.3/bin/deno run --allow-all --no-prompt SDK/deno.mjs src/index.js");
}

#[test]
fn deno_is_told_where_the_app_has_its_dependencies() {
    let w = world();
    let release = w.layout.data().join("apps/shop/releases/v1");
    fs::create_dir_all(release.join("web/node_modules")).unwrap();
    fs::write(release.join("deno.json"), "{}").unwrap();
    fs::write(w.layout.data().join("apps/deno.json"), "not the app's").unwrap();
    let flags = || {
        let line = argv(&w, &manifest("deno"));
        line.split("--no-prompt ").nth(1).unwrap().split(" SDK").next().unwrap().to_owned()
    };
    assert_eq!(flags(), "--no-lock --config ~/apps/shop/releases/v1/deno.json --node-modules-dir=manual");
    fs::write(release.join("deno.lock"), "{}").unwrap();
    fs::remove_dir(release.join("web/node_modules")).unwrap();
    assert_eq!(flags(), "--config ~/apps/shop/releases/v1/deno.json");
}

#[test]
fn a_binary_is_started_where_it_lies() {
    let w = world();
    assert_eq!(argv(&w, &manifest("binary")), "~/apps/shop/releases/v1/web/src/index.js");
}

#[test]
fn a_start_of_its_own_gets_main_and_a_full_path() {
    let w = world();
    let check = |runtime: &str, start: &[&str], expected: &str| {
        let start = Some(start.iter().map(|s| s.to_string()).collect());
        assert_eq!(argv(&w, &Manifest { start, ..manifest(runtime) }), expected);
    };
    check("node", &["node", "--x", "{main}"], "~/runtimes/node/1.2.3/bin/node --x src/index.js");
    check("binary", &["./bin/run", "--main={main}"], "~/apps/shop/releases/v1/web/./bin/run --main=src/index.js");
    check("binary", &["/bin/sh", "run.sh"], "/bin/sh run.sh");
    program(&w.layout.data().join("apps/shop/releases/v1/web/node_modules/.bin/next"));
    check("node", &["next", "start"], "~/apps/shop/releases/v1/web/node_modules/.bin/next start");
}

#[test]
fn puts_the_runtime_and_the_projects_programs_on_path() {
    let w = world();
    let path = launch(&w.layout, &manifest("bun")).unwrap().path;
    assert!(path[0].ends_with("runtimes/bun/1.2.3/bin") && path[1].ends_with("web/node_modules/.bin"));
}

#[test]
fn reads_the_version_that_a_program_says() {
    let w = world();
    let node = here(&w.layout, Runtime::Node, Some("1.2.3")).unwrap();
    assert_eq!(version_of(&w.layout, &node).as_deref(), Some("1.2.3"));
    assert_eq!(version_of(&w.layout, Path::new("/nowhere/node")), None);
}

#[test]
fn a_mirror_is_over_tls_or_on_this_machine() {
    let check = |url, expected: Option<bool>| assert_eq!(Mirror::parse(url).map(|m| m.plain), expected, "{url}");
    check("https://mirror.test/x", Some(false));
    check("http://127.0.0.1:8080", Some(true));
    check("http://localhost/runtimes", Some(true));
    check("http://[::1]:8080/", Some(true));
    check("http://[::1]", Some(true));
    check("http://mirror.test", None);
    check("http://localhost.evil.test", None);
    check("http://127.0.0.1:80@evil.test/", None);
    check("https://", None);
    check("https:///x", None);
    check("file:///x", None);
    check("", None);
}

#[test]
fn lays_the_sdk_out_once_and_repairs_it() {
    let w = world();
    lay_out_sdk(&w.layout).unwrap();
    let core = sdk_dir(&w.layout).join("core.mjs");
    let before = fs::metadata(&core).unwrap().modified().unwrap();
    lay_out_sdk(&w.layout).unwrap();
    assert_eq!(fs::metadata(&core).unwrap().modified().unwrap(), before);
    fs::write(&core, "cut sho").unwrap();
    lay_out_sdk(&w.layout).unwrap();
    assert_eq!(fs::read_to_string(&core).unwrap(), SDK[0].1);
}
