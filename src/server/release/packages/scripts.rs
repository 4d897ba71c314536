//! Scripts: what an installer would run besides itself, and whether that may look at an app's source.
//!
//! A script of the project may read anything of it, and so may one of a package: that of `@prisma/client` generates code
//! from the project's schema. Such a project is installed anew for each release. But the programs that most scripts of
//! packages start compile or fetch what is the package's own, and those are known by name.
//!
//! **Invariant**: a script that is not known reads the source.

/// What a manager runs for the project itself and for each part of a workspace.
const OF_PROJECTS: [&str; 9] = [
    "preinstall",
    "install",
    "postinstall",
    "prepublish",
    "preprepare",
    "prepare",
    "postprepare",
    "dependencies",
    "pnpm:devPreinstall",
];
/// What it runs for a package that comes from a registry.
const OF_PACKAGES: [&str; 3] = ["preinstall", "install", "postinstall"];

/// Hooks of Git, which a release has not, and questions about who installs.
const PROJECT_TOOLS: [&str; 6] = ["husky", "is-ci", "lefthook", "simple-git-hooks", "only-allow", "true"];
/// Compile or fetch the native half of the package that they are started in.
const PACKAGE_TOOLS: [&str; 8] = [
    "node-gyp",
    "node-gyp-build",
    "node-gyp-build-optional-packages",
    "node-pre-gyp",
    "prebuild-install",
    "napi-postinstall",
    "only-allow",
    "true",
];
/// Packages whose scripts are programs of their own, which were read: they choose or fetch the package's own binary, or
/// print a line.
const PACKAGES: [&str; 11] = [
    "@parcel/watcher",
    "@swc/core",
    "@tailwindcss/oxide",
    "core-js",
    "core-js-pure",
    "cpu-features",
    "es5-ext",
    "esbuild",
    "protobufjs",
    "sharp",
    "ssh2",
];

/// The script of the project by which the source may be read.
pub(super) fn of_project(package: &serde_json::Value) -> Option<&'static str> {
    first_unknown(package, &OF_PROJECTS, &PROJECT_TOOLS)
}

/// The same for a package that was installed.
pub(super) fn of_package(package: &serde_json::Value) -> Option<&'static str> {
    match package["name"].as_str() {
        Some(name) if PACKAGES.contains(&name) => None,
        _ => first_unknown(package, &OF_PACKAGES, &PACKAGE_TOOLS),
    }
}

fn first_unknown(package: &serde_json::Value, names: &[&'static str], tools: &[&str]) -> Option<&'static str> {
    let scripts = &package["scripts"];
    names.iter().copied().find(|name| match &scripts[*name] {
        serde_json::Value::Null => false,
        serde_json::Value::String(script) => !is_known(script, tools),
        // A manager would not run it; but who knows.
        _ => true,
    })
}

/// Whether these are commands of the list and nothing else.
fn is_known(script: &str, tools: &[&str]) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || " -_=./:@,".contains(c);
    script.split("&&").flat_map(|s| s.split("||")).flat_map(|s| s.split(';')).map(str::trim).all(|command| {
        let mut words = command.split_whitespace();
        let first = match words.next() {
            Some("npx") => words.find(|word| !word.starts_with('-')),
            first => first,
        };
        // `npx tool@1.2`
        let tool = first.map(|word| word.split('@').next().unwrap_or(word));
        command.chars().all(plain) && (tool.is_none_or(|tool| tools.contains(&tool)) || command == "exit 0")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_reads_nothing_and_all_else_may() {
        let check = |of: fn(&serde_json::Value) -> Option<&'static str>, json: &str, expected: Option<&str>| {
            assert_eq!(of(&serde_json::from_str(json).unwrap()), expected, "{json}");
        };
        let project = |scripts: &str, expected| check(of_project, &format!("{{\"scripts\":{scripts}}}"), expected);
        project("{}", None);
        project(r#"{"build":"vite build","test":"rm -rf /","start":"node ."}"#, None);
        project(r#"{"prepare":"husky"}"#, None);
        project(r#"{"prepare":"is-ci || husky install","preinstall":"npx -y only-allow pnpm"}"#, None);
        project(r#"{"prepare":"husky || true","install":"exit 0"}"#, None);
        project(r#"{"postinstall":"prisma generate"}"#, Some("postinstall"));
        project(r#"{"postinstall":"patch-package"}"#, Some("postinstall"));
        project(r#"{"prepare":"husky && npm run build"}"#, Some("prepare"));
        project(r#"{"prepare":"husky $(cat x)"}"#, Some("prepare"));
        project(r#"{"prepare":"husky > x"}"#, Some("prepare"));
        project(r#"{"prepare":"husky & node x"}"#, Some("prepare"));
        project(r#"{"prepare":"true | node x"}"#, Some("prepare"));
        project(r#"{"prepare":"husky\nnode x"}"#, Some("prepare"));
        project(r#"{"install":"node-gyp rebuild"}"#, Some("install"));
        project(r#"{"dependencies":"node x"}"#, Some("dependencies"));
        project(r#"{"install":["node","x"]}"#, Some("install"));

        check(of_package, "{}", None);
        check(of_package, r#"{"name":"a","scripts":{"prepare":"tsc"}}"#, None);
        check(
            of_package,
            r#"{"name":"bcrypt","scripts":{"install":"node-pre-gyp install --fallback-to-build"}}"#,
            None,
        );
        let sqlite = r#"{"scripts":{"install":"prebuild-install -r napi || node-gyp rebuild --release"}}"#;
        check(of_package, sqlite, None);
        check(of_package, r#"{"name":"esbuild","scripts":{"postinstall":"node install.js"}}"#, None);
        check(of_package, r#"{"name":"other","scripts":{"postinstall":"node install.js"}}"#, Some("postinstall"));
        let prisma = r#"{"name":"@prisma/client","scripts":{"postinstall":"node scripts/postinstall.js"}}"#;
        check(of_package, prisma, Some("postinstall"));
    }
}
