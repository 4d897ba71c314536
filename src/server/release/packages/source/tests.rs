use super::*;
use crate::server::release::packages::tree::Stamp;

/// Files as `path=content`, a link as `path>target`.
fn looked(files: &[&str], dir: &str, scripts: bool) -> Result<Source, Doubt> {
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
    look(&before, dir, scripts, &|path, limit| match contents[path].len() as u64 > limit {
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
    let source = looked(&files, "", true).unwrap();
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
        looked(&files, "", true).unwrap()
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
        let said = looked(files, dir, scripts).err().map(|doubt| doubt.0);
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
    depends("file:/opt/a", "opt/a/package.json={}", Some("depends on"));
    depends("link:~/a", "a/package.json={}", Some("depends on"));
    depends("file:lib/a", "lib/a/package.json={\"scripts\":{\"install\":\"x\"}}", Some("the install script of lib/a"));
    let deep = r#"package.json={"overrides":{"a":{"b":"file:/opt/b"}}}"#;
    check(&[deep, "bun.lock"], "", true, Some("depends on file:/opt/b"));

    let large = format!("package-lock.json={}", "x".repeat(1 + (MAX_BYTES as usize)));
    check(&[PACKAGE, &large], "", true, Some("too much"));
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
