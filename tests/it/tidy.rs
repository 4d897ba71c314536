//! The rules of the house, as a test: who may import whom, file heads, lengths, dependencies.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which rooms the files of a room may name by `crate::…`; the longest prefix of the file's path counts.
const MAY_IMPORT: &[(&str, &[&str])] = &[
    ("lib.rs", &[]),
    ("error.rs", &[]),
    ("logger.rs", &[]),
    ("sys.rs", &["error"]),
    ("sys/", &["error", "sys"]),
    ("disk.rs", &["error"]),
    ("crypto.rs", &["error"]),
    ("archive", &["error", "disk", "crypto"]),
    ("net.rs", &["error"]),
    ("proto/", &["error", "sys", "proto"]),
    ("proxy/", &["error", "sys", "disk", "crypto", "proxy", "proto::route", "proto::name"]),
    (
        "server/dev/",
        &[
            "error",
            "logger",
            "sys",
            "disk",
            "crypto",
            "proto",
            "server::app",
            "server::board",
            "server::mint",
            "server::dev",
        ],
    ),
    (
        "server/app/",
        &[
            "error",
            "sys",
            "disk",
            "crypto",
            "proto",
            "proxy",
            "server::app",
            "server::board",
            "server::layout",
            "server::state",
            "server::crash",
            "server::release",
            "server::rotating",
            "server::runtime",
            "server::cgroup",
            "server::owner",
            "server::users",
        ],
    ),
    ("server/", &["error", "logger", "sys", "disk", "crypto", "archive", "net", "proto", "proxy", "server"]),
    ("cli/", &["error", "sys", "disk", "crypto", "archive", "net", "proto", "cli"]),
];

/// Lines without tests beyond which a file needs a seam, or its reason here.
const LONG: usize = 420;
const LONG_WITH_REASON: &[(&str, &str)] = &[];

const FORBIDDEN: &[&str] =
    &["tokio", "async-std", "smol", "aws-lc-rs", "aws-lc-sys", "openssl-sys", "native-tls", "webpki-roots"];
/// Crates in the release build, without ourselves.
const BUDGET: usize = 75;

fn root() -> PathBuf {
    env!("CARGO_MANIFEST_DIR").into()
}

/// Every source file with its path below `src/`.
fn sources() -> Vec<(String, String)> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) {
        for entry in fs::read_dir(dir).unwrap().flatten() {
            let path = entry.path();
            match path.is_dir() {
                true => walk(&path, found),
                false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
                false => {}
            }
        }
    }
    let src = root().join("src");
    let mut paths = Vec::new();
    walk(&src, &mut paths);
    paths.sort();
    let name = |p: &Path| p.strip_prefix(&src).unwrap().to_str().unwrap().to_string();
    paths.iter().map(|p| (name(p), fs::read_to_string(p).unwrap())).collect()
}

fn is_test(name: &str) -> bool {
    name.ends_with("/tests.rs") || name.contains("/tests/")
}

/// The file without its inline tests.
fn code(text: &str) -> &str {
    text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or(text)
}

#[test]
fn rooms_import_only_what_the_map_allows() {
    let mut wrong = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name) && !name.starts_with("bin/")) {
        let allowed =
            MAY_IMPORT.iter().filter(|(prefix, _)| name.starts_with(prefix)).max_by_key(|(prefix, _)| prefix.len());
        let (_, allowed) = allowed.unwrap_or_else(|| panic!("src/{name} is in no room of the map"));
        for part in code(text).split("crate::").skip(1) {
            for path in named(part) {
                let covered = |a: &&str| path == **a || path.starts_with(&format!("{a}::"));
                if !allowed.iter().any(covered) {
                    wrong.push(format!("src/{name} imports crate::{path}"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// What follows `crate::`: one path, or the first names of a braced list.
fn named(part: &str) -> Vec<String> {
    let word = |s: &str| -> String {
        let path: String = s.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_' || *c == ':').collect();
        path.trim_end_matches(':').to_string()
    };
    match part.strip_prefix('{').and_then(|rest| rest.split_once('}')) {
        Some((list, _)) => list.split(',').map(word).filter(|w| !w.is_empty()).collect(),
        None => vec![word(part)],
    }
}

#[test]
fn every_file_says_what_it_is_for() {
    for (name, text) in sources() {
        if !name.starts_with("bin/") && !is_test(&name) {
            assert!(text.starts_with("//!"), "src/{name} has no head");
        }
    }
}

#[test]
fn a_long_file_has_a_reason() {
    let mut wrong = Vec::new();
    for (name, text) in sources().iter().filter(|(name, _)| !is_test(name)) {
        let lines = code(text).lines().count();
        match (lines > LONG, LONG_WITH_REASON.iter().any(|(n, _)| n == name)) {
            (true, false) => {
                wrong.push(format!("src/{name} has {lines} lines: find the seam, or give its reason here"))
            }
            (false, true) => wrong.push(format!("src/{name} needs no excuse any more")),
            _ => {}
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn unsafe_stays_in_one_room() {
    for (name, text) in sources() {
        let lines = text.lines().filter(|l| !l.trim_start().starts_with("//"));
        let count = lines.filter(|l| l.contains("unsafe ") || l.contains("unsafe_code")).count();
        assert!(count == 0 || ["sys.rs", "sys/birth.rs"].contains(&name.as_str()), "src/{name} has unsafe");
    }
}

#[test]
fn vendor_notes_name_every_dependency_and_no_other() {
    let manifest: toml_edit::DocumentMut = fs::read_to_string(root().join("Cargo.toml")).unwrap().parse().unwrap();
    let mut direct = BTreeSet::new();
    for section in ["dependencies", "dev-dependencies"] {
        direct.extend(manifest[section].as_table().unwrap().iter().map(|(name, _)| name.to_string()));
    }
    let notes = fs::read_to_string(root().join("vendor-notes.md")).unwrap();
    let rows = notes.lines().filter_map(|l| l.strip_prefix("| `")?.split_once('`'));
    let noted: BTreeSet<String> = rows.map(|(name, _)| name.to_string()).collect();
    assert_eq!(direct, noted);
}

#[test]
fn the_release_build_stays_within_its_budget() {
    let cargo = std::env::var("CARGO").unwrap_or_else(|_| "cargo".into());
    let tree = Command::new(cargo)
        .args(["tree", "-e", "normal", "--prefix", "none", "--locked", "--offline"])
        .current_dir(root())
        .output()
        .unwrap();
    assert!(tree.status.success(), "{}", String::from_utf8_lossy(&tree.stderr));
    let tree = String::from_utf8(tree.stdout).unwrap();
    let crates: BTreeSet<&str> =
        tree.lines().map(|l| l.trim_end_matches(" (*)")).filter(|l| !l.starts_with("tako ")).collect();
    assert!(crates.len() <= BUDGET, "{} crates, the budget is {BUDGET}", crates.len());
    let lock = fs::read_to_string(root().join("Cargo.lock")).unwrap();
    for name in FORBIDDEN {
        assert!(!lock.contains(&format!("name = \"{name}\"")), "{name} is in Cargo.lock");
    }
}
