use std::path::Path;

use super::*;
use crate::cli::args::Wish;
use crate::cli::config::transport::Transport;
use crate::cli::detect;
use crate::cli::golden;
use crate::cli::ui::Settings;
use crate::proto::target::Target;

const FILES: [(&str, &str); 5] = [
    ("package.json", r#"{"scripts":{"build":"vite build"},"dependencies":{"vite":"6"}}"#),
    ("package-lock.json", "{}"),
    ("index.html", "<p>"),
    ("server.js", ""),
    ("css/in.css", ""),
];

fn folder(files: &[(&str, &str)], config: Option<&str>) -> tempfile::TempDir {
    let all: Vec<(&str, &str)> = files.iter().copied().chain(config.map(|text| (FILE, text))).collect();
    detect::tests::folder(&all)
}

/// What `tako config` prints, and what it says beside that; the machine's own part is left out.
fn config(dir: &Path, flags: &[&str], json: bool) -> (Result<Exit>, String, String) {
    let line = [&["config", "--dir", dir.to_str().unwrap()], flags].concat();
    let Wish::Run(args) = Args::parse(line).unwrap() else { panic!("no run") };
    let (ui, out, err) = Ui::captured(Settings { json, ..Settings::default() });
    let none = Given {
        file: String::new(),
        lines: Lines::of(""),
        written: Transport::default(),
        variables: Vec::new(),
        no_mux: false,
    };
    let ended = tell(&ui, &args, &[], &none);
    let target = Target::of_this_machine().unwrap().to_string();
    let plain = |text: String| {
        let text = text.replace(&target, "TARGET").replace(&dir.display().to_string(), "DIR");
        // The version is that of the files, which is told elsewhere.
        match text.split_once("# version nogit_") {
            Some((before, after)) => format!("{before}# version nogit_HASH{}", &after[8..]),
            None => text,
        }
    };
    (ended, plain(out.text()), plain(err.text()))
}

const SHOP: &str = r#"name = "shop"
runtime = "node"
runtime_version = "22.1.0"
preset = "vite"
health = "/up"
release = "npm run migrate"

[build]
build = "npm run all"
exclude = ["**/*.map", "docs/**", "**/*.test.{js,ts}", "**/__tests__/**"]

[[build.stages]]
name = "css"
run = "make css"

[vars]
A = "base"
B = "base \"quoted\""

[vars.staging]
A = "staging"
VITE_API = "https://api.staging.example.com"

[limits]
cpu = 1.5

[envs.production]
route = "shop.example.com"
instances = 2
servers = ["fra1", "n.y-c"]

[envs.production.server."n.y-c"]
instances = 4

[envs.staging]
routes = ["a.test", "b.test/api/*"]
"#;

#[test]
fn every_value_is_told_with_its_source() {
    let dir = folder(&FILES, Some(SHOP));
    let screen = |flags: &[&str]| {
        let (ended, out, err) = config(dir.path(), flags, false);
        ended.unwrap();
        format!("# tako config {}\n{out}{err}\n", flags.join(" "))
    };
    let all = [&[][..], &["--env", "staging"], &["--server", "fra1"]].map(screen).concat();
    golden::check(Path::new("tests/data/screens/config.txt"), &all);
}

#[test]
fn what_it_prints_is_a_tako_toml_that_means_the_same() {
    let dir = folder(&FILES, Some(SHOP));
    let (_, printed, _) = config(dir.path(), &[], false);
    let again = folder(&FILES, Some(&printed));
    let load = |dir: &Path| Project::load(dir, &mut |w| panic!("{w}")).unwrap_or_else(|e| panic!("{:#?}", e.detail()));
    let (first, second) = (load(dir.path()), load(again.path()));
    let production = EnvName::production();
    assert_eq!(first.env(&production).unwrap(), second.env(&production).unwrap());
    assert_eq!((&first.limits, first.runtime_version), (&second.limits, second.runtime_version));
    let (_, twice, _) = config(again.path(), &[], false);
    let values = |text: &str| {
        text.lines()
            .filter(|l| !l.starts_with('#'))
            .map(|l| l.split("  # ").next().unwrap().trim_end().to_string())
            .collect::<Vec<_>>()
    };
    assert_eq!(values(&printed), values(&twice));
}

#[test]
fn a_program_gets_the_same_as_values() {
    let dir = folder(&FILES, Some(SHOP));
    let (ended, out, _) = config(dir.path(), &["--env", "staging"], true);
    ended.unwrap();
    let told: serde_json::Value = serde_json::from_str(out.trim()).unwrap();
    assert_eq!((&told["event"], &told["app"], &told["env"]), (&json!("result"), &json!("shop"), &json!("staging")));
    let of = |section: &str, key: &str| {
        let all = told["config"].as_array().unwrap();
        let found = all.iter().find(|set| set["section"] == section && set["key"] == key).unwrap();
        (found["value"].clone(), found["from"].clone())
    };
    assert_eq!(of("vars", "A"), (json!("staging"), json!("tako.toml:21")));
    assert_eq!(of("vars", "B"), (json!("base \"quoted\""), json!("tako.toml:18")));
    assert_eq!(of("envs.staging", "instances"), (json!(1), json!("default")));
    assert_eq!(told["steps"].as_array().unwrap().last().unwrap()["command"], "make css");
}

#[test]
fn without_a_file_it_tells_what_is_there() {
    let dir = folder(&[("deno.json", "{}"), ("main.ts", "")], None);
    let (ended, out, err) = config(dir.path(), &[], false);
    ended.unwrap();
    assert!(err.contains("there is no tako.toml here"), "{err}");
    assert!(out.contains("main = \"main.ts\"") && out.contains("# the file is there"), "{out}");
}

#[test]
fn what_is_wrong_is_an_error_as_everywhere() {
    let check = |text: &str, flags: &[&str], kind, said: &str| {
        let dir = folder(&FILES, Some(text));
        let e = config(dir.path(), flags, false).0.unwrap_err();
        assert_eq!(e.kind(), kind);
        assert!(e.to_string().contains(said), "{e}");
    };
    check("nmae = \"a\"\nmian = \"b\"\n", &[], Kind::Config, "2 errors");
    check(SHOP, &["--env", "qa"], Kind::Config, "[envs.qa]");
    check(SHOP, &["--server", "lon1"], Kind::Usage, "lon1 is not a server of production");
}
