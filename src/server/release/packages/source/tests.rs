use super::*;
use crate::server::release::packages::tree::Stamp;

/// Files as `path=content`, a link as `path>target`.
fn looked(files: &[&str], dir: &str, tool: &str, scripts: bool) -> Result<Source, Doubt> {
    let stamp = Stamp { mode: 0o644, size: 0, written: (0, 0), inode: 1 };
    let (mut before, mut contents) = (Listing::new(), BTreeMap::new());
    for file in files {
        let (path, content) = file.split_once('=').unwrap_or((file, ""));
        let (path, node) = match path.split_once('>') {
            Some((path, target)) => (path, Node::Link(target.into())),
            None => (path, Node::File(stamp)),
        };
        for (at, _) in path.match_indices('/') {
            before.insert(path[..at].into(), Node::Folder { mode: 0o755 });
        }
        before.insert(path.into(), node);
        contents.insert(path.to_owned(), content.as_bytes().to_vec());
    }
    look(&before, dir, tool, scripts, &|path, limit| match contents[path].len() as u64 > limit {
        true => Err(Doubt("too much".into())),
        false => Ok(contents[path].clone()),
    })
}

const PACKAGE: &str = r#"package.json={"name":"shop","dependencies":{"express":"^4"}}"#;

#[test]
fn what_an_installer_reads_is_found_wherever_it_lies() {
    let files = [
        PACKAGE,
        "package-lock.json=1",
        ".npmrc=x",
        "apps/web/package.json={\"name\":\"web\"}",
        "apps/web/.yarnrc.yml",
        "patches/express.patch=y",
        "vendor/a.tgz",
        ".yarn/releases/yarn.cjs",
        ".output/server/node_modules/x/package.json={\"name\":\"x\"}",
        "src/index.js",
        "README.md",
    ];
    let source = looked(&files, "", "npm", true).unwrap();
    let names: Vec<&str> = source.files.keys().map(String::as_str).collect();
    let read = [
        ".npmrc",
        ".yarn/releases/yarn.cjs",
        "apps/web/.yarnrc.yml",
        "apps/web/package.json",
        "package-lock.json",
        "package.json",
        "patches/express.patch",
        "vendor/a.tgz",
    ];
    assert_eq!(names, read);
    assert_eq!(source.own.iter().map(String::as_str).collect::<Vec<_>>(), ["shop", "web"]);

    // Whatever else changes, it is the same; and of these each other content is another.
    let changed = |n: usize, to: &str| {
        let mut files = files;
        files[n] = to;
        looked(&files, "", "npm", true).unwrap()
    };
    assert_eq!(changed(9, "src/index.js=changed"), source);
    assert_eq!(changed(10, "src/more.js"), source);
    let others = [(0, "package.json={}"), (1, "package-lock.json=2"), (2, ".npmrc=y"), (5, "patches/express.patch=z")];
    others.iter().for_each(|(n, to)| assert_ne!(changed(*n, to), source, "{to}"));
    for (n, to) in [(6, "vendor/a.tgz=1"), (7, ".yarn/releases/yarn.cjs=1"), (2, "bunfig.toml=x"), (2, "lib/.npmrc=x")]
    {
        assert_ne!(changed(n, to), source, "{to}");
    }
}

#[test]
fn who_may_read_more_is_installed_anew() {
    let check = |files: &[&str], dir: &str, scripts: bool, expected: Option<&str>| {
        // The manager whose lock file there is.
        let has = |lock: &str| files.iter().any(|file| file.split('=').next().unwrap().ends_with(lock));
        let tools = [("bun.lock", "bun"), ("pnpm-lock.yaml", "pnpm"), ("yarn.lock", "yarn")];
        let tool = tools.iter().find(|(lock, _)| has(lock)).map_or("npm", |(_, tool)| tool);
        let said = looked(files, dir, tool, scripts).err().map(|doubt| doubt.0);
        match (said, expected) {
            (None, None) => {}
            (Some(said), Some(words)) if said.contains(words) => {}
            (said, _) => panic!("{files:?}: {said:?} and not {expected:?}"),
        }
    };
    let with = |file: &str, expected| check(&[PACKAGE, "package-lock.json", file], "", true, expected);
    with("x", None);
    check(&[PACKAGE], "", true, Some("no lock file"));
    check(&[PACKAGE, "package-lock.json"], "apps/web", true, Some("no lock file"));
    check(&["apps/web/package.json={}", "apps/web/bun.lock"], "apps/web", true, None);
    with("node_modules/x/package.json", Some("node_modules already"));
    with(".output/node_modules/x/package.json", None);
    with(".pnpmfile.cjs", Some(".pnpmfile.cjs may read"));
    with("native/binding.gyp", Some("binding.gyp may read"));
    with(".yarn/plugins/a.cjs", Some("may read"));
    with(".npmrc>/etc/npmrc", Some(".npmrc is not a file"));

    let script = r#"package.json={"scripts":{"postinstall":"prisma generate"}}"#;
    check(&[script, "bun.lock"], "", true, Some("the postinstall script of package.json"));
    check(&[script, "bun.lock"], "", false, None);
    // That of an example counts only where it may be a part of what is installed.
    let example = r#"example/package.json={"scripts":{"prepare":"node x"}}"#;
    with(example, None);
    check(&[PACKAGE, "pnpm-lock.yaml", "pnpm-workspace.yaml", example], "", true, Some("example/package.json"));
    let parts = r#"package.json={"workspaces":["example"]}"#;
    check(&[parts, "bun.lock", example], "", true, Some("the prepare script of example/package.json"));

    let depends = |on: &str, file: &str, expected| {
        let package = format!(r#"package.json={{"dependencies":{{"a":"{on}"}}}}"#);
        check(&[&package, "bun.lock", file], "", true, expected);
    };
    depends("file:lib/a", "lib/a/package.json={\"name\":\"a\"}", None);
    depends("./lib/a", "lib/a/package.json={\"name\":\"a\"}", None);
    depends("file:lib/a.tgz", "lib/a.tgz", None);
    depends("workspace:*", "x", None);
    depends("file:lib/a", "lib/b", Some("depends on file:lib/a"));
    depends("file:../a", "a/package.json={}", Some("depends on"));
    depends("file:lib/a", "lib/a/package.json={}", Some("depends on file:lib/a"));
    depends("exec:./gen.js", "gen.js", Some("depends on exec:"));
    depends("file:/opt/a", "opt/a/package.json={}", Some("depends on"));
    depends("link:~/a", "a/package.json={}", Some("depends on"));
    depends(
        "file:lib/a",
        "lib/a/package.json={\"name\":\"a\",\"scripts\":{\"install\":\"x\"}}",
        Some("the install script of lib/a"),
    );
    let deep = r#"package.json={"overrides":{"a":{"b":"file:/opt/b"}}}"#;
    check(&[deep, "bun.lock"], "", true, Some("depends on file:/opt/b"));

    for bad in ["\u{feff}{}", "{} // x", "{\"a\":1e999}", ""] {
        with(&format!("lib/package.json={bad}"), Some("lib/package.json: "));
    }
    with("lib/package.yaml=x", Some("package.yaml may read"));
    with("lib/package.json={\"directories\":{\"bin\":\"bin\"}}", Some("has programs in a folder"));
    with("lib/package.json={\"bin\":\"../../x\"}", Some("has programs in"));
    with("lib/package.json={\"bin\":{\"a\":1}}", Some("has programs in"));

    let large = format!("package.json={{\"name\":\"{}\"}}", "x".repeat(MAX_PACKAGES as usize));
    check(&[&large, "package-lock.json"], "", true, Some("too much"));
    let large = format!("package-lock.json={}", "x".repeat(1 + (MAX_BYTES as usize)));
    check(&[PACKAGE, &large], "", true, Some("too much"));
}

#[test]
fn a_manager_holds_on_to_its_own_lock_file() {
    let check = |tool: &str, lock: &str, good: bool| {
        assert_eq!(looked(&[PACKAGE, lock], "", tool, true).is_ok(), good, "{tool} {lock}");
    };
    check("npm", "npm-shrinkwrap.json", true);
    check("npm", "yarn.lock", false);
    check("pnpm", "package-lock.json", false);
    check("yarn", "yarn.lock", true);
    // It takes that over.
    check("bun", "package-lock.json", true);
    check("bun", "yarn.lock", false);
    check("other", "package-lock.json", false);
}

#[test]
fn of_a_program_counts_what_a_link_to_it_needs() {
    let with = |file: &str| {
        let part = r#"cli/package.json={"name":"cli","bin":{"a":"./run.js"}}"#;
        let root = r#"package.json={"workspaces":["cli"]}"#;
        looked(&[root, part, "package-lock.json", file], "", "npm", true).unwrap()
    };
    let first = with("cli/run.js=#!/usr/bin/env node\n1");
    assert_eq!(with("cli/run.js=#!/usr/bin/env node\n2"), first);
    for other in ["cli/run.js=#!/usr/bin/env node\r\n1", "cli/run.js=1", "cli/other.js", "cli/run.js=#!/bin/sh\n1"] {
        assert_ne!(with(other), first, "{other}");
    }
    assert_ne!(super::first(true, b"#!/bin/sh\n"), super::first(false, b"#!/bin/sh\n"));
}

#[test]
fn variables_that_a_manager_takes_from_a_file_count() {
    let with = |file: &str| looked(&[PACKAGE, "bun.lock", file], "", "bun", true).unwrap();
    for (one, other) in [(".env=A=1", ".env=A=2"), (".env.production=1", ".env.production=2"), (".env.yarn=1", "x")] {
        assert_ne!(with(one), with(other), "{one}");
    }
    assert_eq!(with(".envoy=1"), with(".envoy=2"));
}

#[test]
fn settings_that_lead_to_programs_are_refused() {
    let check = |path: &str, text: &str, good: bool| {
        assert_eq!(check_settings(path, text.as_bytes()).is_ok(), good, "{path}: {text}");
    };
    check(".npmrc", "fund=false\n@a:registry=https://git.example/\n//git.example/:_authToken=a/b\n", true);
    check(".npmrc", "\u{feff}node-options = --require ./x.js", false);
    check(".npmrc", "a=1\n\"script-shell\"=./sh", false);
    check("apps/web/.npmrc", "userconfig=./other", false);
    check("/usr/share/nodejs/npm/npmrc", "globalconfig = /etc/npmrc", true);
    check(".npmrc", "globalconfig = ./npmrc", false);
    check("/home/.config/pnpm/rc", "global-pnpmfile=/x.js", false);
    check("pnpm-workspace.yaml", "packages:\n  - a\npnpmfile: config/a.cjs", false);
    check("pnpm-workspace.yaml", "packages:\n  - plugins/*\n  - shell\n  - 'git'\n", true);
    check(".yarnrc.yml", "nodeLinker: node-modules\nyarnPath: .yarn/releases/yarn-4.1.0.cjs", true);
    check(".yarnrc", "yarn-path \"./.yarn/releases/yarn-1.22.cjs\"", true);
    check(".yarnrc.yml", "yarnPath: .yarn/releases/../../x.cjs", false);
    check("/home/.yarnrc.yml", "yarnPath: .yarn/releases/yarn.cjs", false);
    check(".yarnrc", "yarn-path \"./tools/yarn.js\"", false);
    check(".yarnrc.yml", "plugins:\n  - ./tools/plugin.cjs", false);
    check("bunfig.toml", "[install.security]\nscanner = \"x\"", false);
    check("README.md", "shell: x", true);
    let said = looked(&[PACKAGE, "pnpm-lock.yaml", ".npmrc=pnpmfile=./x.cjs"], "", "pnpm", true).unwrap_err().0;
    assert!(said.contains(".npmrc sets pnpmfile"), "{said}");
}

#[test]
fn a_way_is_followed_by_its_words() {
    let check = |folder: &str, place: &str, expected: Option<&str>| {
        assert_eq!(joined(folder, place).as_deref(), expected, "{folder} {place}");
    };
    check("", "a", Some("a"));
    check("a/b", "../c", Some("a/c"));
    check("a/b", "./../../c/", Some("c"));
    check("a", "../..", None);
    check("", "../x", None);
    check("a", "/x", None);
    check("a", "~/x", None);
}
