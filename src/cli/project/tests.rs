use super::*;
use crate::cli::golden;
use crate::cli::ui::error_lines;

const DATA: &str = "tests/data/config";

/// A folder named `my-app` with what a bun project has, and `text` as its `tako.toml`. A first line `# folder: empty`
/// leaves the rest out.
struct Folder {
    _temp: tempfile::TempDir,
    dir: PathBuf,
}

impl Folder {
    fn with(text: &[u8]) -> Folder {
        let temp = tempfile::tempdir().unwrap();
        let dir = temp.path().join("my-app");
        fs::create_dir_all(&dir).unwrap();
        if !text.starts_with(b"# folder: empty") {
            for name in ["package.json", "bun.lock", "index.ts"] {
                fs::write(dir.join(name), "{}").unwrap();
            }
        }
        fs::write(dir.join(FILE), text).unwrap();
        Folder { _temp: temp, dir }
    }

    fn load(&self) -> (Result<Project>, Vec<String>) {
        let mut warnings = Vec::new();
        let project = Project::load(&self.dir, &mut |w| warnings.push(w));
        (project, warnings)
    }

    fn file(&self) -> String {
        fs::read_to_string(self.dir.join(FILE)).unwrap()
    }
}

/// The sample files whose names start as given, sorted.
fn samples(wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join(DATA);
    let mut found: Vec<PathBuf> = fs::read_dir(dir)
        .unwrap()
        .map(|e| e.unwrap().path())
        .filter(|p| p.extension().is_some_and(|e| e == "toml") && wanted(p.file_name().unwrap().to_str().unwrap()))
        .collect();
    found.sort();
    found
}

fn expected_beside(sample: &Path) -> PathBuf {
    Path::new(DATA).join(sample.with_extension("txt").file_name().unwrap())
}

#[test]
fn every_malformed_file_is_refused_as_reviewed() {
    let samples = samples(|name| name.starts_with(|c: char| c.is_ascii_digit()));
    assert!(samples.len() >= 30);
    for sample in samples {
        let (project, _) = Folder::with(&fs::read(&sample).unwrap()).load();
        let error = project.err().unwrap_or_else(|| panic!("{} was accepted", sample.display()));
        assert_eq!(error.kind(), Kind::Config, "{}: {error}", sample.display());
        golden::check(&expected_beside(&sample), &format!("error: {}\n", error_lines(&error).join("\n")));
    }
}

#[test]
fn every_good_file_means_what_was_reviewed() {
    for sample in samples(|name| name.starts_with("good-")) {
        let (project, warnings) = Folder::with(&fs::read(&sample).unwrap()).load();
        let mut project = project.unwrap_or_else(|e| panic!("{}: {}", sample.display(), error_lines(&e).join("\n")));
        project.dir = PathBuf::from(".");
        golden::check(&expected_beside(&sample), &format!("{project:#?}\n{warnings:#?}\n"));
    }
}

#[test]
fn a_file_cut_anywhere_is_an_error_or_a_project_and_never_a_panic() {
    let sample = Path::new(env!("CARGO_MANIFEST_DIR")).join(DATA).join("good-everything.toml");
    let text = fs::read_to_string(sample).unwrap();
    let dir = tempfile::tempdir().unwrap();
    for end in 0..text.len() {
        if let Err(e) = Project::read(dir.path(), &text[..end], &mut |_| {}) {
            assert_eq!(e.kind(), Kind::Config, "{end}: {e}");
        }
    }
}

#[test]
fn a_file_that_is_no_text_or_far_too_large_is_refused() {
    let error = Folder::with(b"name = \"a\"\nmain = \"\xff\"\n").load().0.unwrap_err();
    assert_eq!((error.kind(), error.to_string().as_str()), (Kind::Config, "tako.toml:2 is not UTF-8"));
    let error = Folder::with(&vec![b'#'; (1 << 20) + 1]).load().0.unwrap_err();
    assert_eq!(error.kind(), Kind::Config);
    assert!(error.to_string().contains("larger than"), "{error}");
    let deep = format!("a = {}", "[".repeat(100_000));
    assert_eq!(Folder::with(deep.as_bytes()).load().0.unwrap_err().kind(), Kind::Config);
}

#[test]
fn an_environment_to_deploy_is_known_and_is_not_development() {
    let text = "name = \"shop\"\n[envs.production]\nroute = \"a.test\"\n[envs.staging]\nroute = \"b.test\"\n[envs.development]\n";
    let folder = Folder::with(text.as_bytes());
    let project = folder.load().0.unwrap();
    let env = |name: &str| EnvName::parse(name).unwrap();
    assert_eq!(project.env(&env("staging")).unwrap().routes[0].to_string(), "b.test");
    let hint = |name: &str| {
        let error = project.env(&env(name)).unwrap_err();
        assert_eq!(error.kind(), Kind::Config);
        error.next_step().unwrap().to_string()
    };
    assert_eq!(hint("stagin"), "did you mean `staging`?");
    assert_eq!(hint("qa"), "it has production, staging");
    assert_eq!(hint("development"), "name another environment with `--env`");

    let below = folder.dir.join("src");
    fs::create_dir(&below).unwrap();
    fs::write(below.join("index.ts"), "").unwrap();
    fs::write(below.join("package.json"), "").unwrap();
    let lost = Project::load(&below, &mut |_| {}).unwrap().env(&env("production")).unwrap_err();
    assert!(lost.to_string().starts_with("there is no tako.toml in "), "{lost}");
    assert!(lost.next_step().unwrap().contains("--dir"), "{lost}");
    let empty = tempfile::tempdir().unwrap();
    let nothing = Project::load(empty.path(), &mut |_| {}).unwrap_err();
    assert_eq!((nothing.kind(), nothing.next_step()), (Kind::Config, Some("run `tako init`")));
}

#[test]
fn a_build_stage_may_work_anywhere_in_the_source_tree() {
    let stage = |dir: &str| format!("[[build.stages]]\nworking_dir = \"{dir}\"\nrun = \"x\"\n");
    let folder = Folder::with(stage("../shared").as_bytes());
    assert!(folder.load().0.is_err());
    fs::create_dir(folder.dir.parent().unwrap().join(".git")).unwrap();
    assert_eq!(folder.load().0.unwrap().build.stages[0].working_dir.as_deref(), Some("../shared"));
    fs::write(folder.dir.join(FILE), stage("../../shared")).unwrap();
    assert!(folder.load().0.unwrap_err().to_string().contains("leaves the source tree"));
}

#[test]
fn servers_are_written_back_without_touching_the_rest() {
    let check = |before: &str, after: &str| {
        let folder = Folder::with(before.as_bytes());
        let project = folder.load().0.unwrap();
        let names = ["fra1", "nyc1"].map(|n| ServerName::parse(n).unwrap());
        project.write_servers(&EnvName::production(), &names).unwrap();
        assert_eq!(folder.file(), after);
        assert_eq!(folder.load().0.unwrap().env(&EnvName::production()).unwrap().servers, names);
    };
    check(
        "# top\n[envs.production] # live\nroute = \"a.test\" # here\n\n# next\n[envs.staging]\nroute = \"b.test\"\n",
        "# top\n[envs.production] # live\nroute = \"a.test\" # here\nservers = [\"fra1\", \"nyc1\"]\n\n# next\n\
         [envs.staging]\nroute = \"b.test\"\n",
    );
    check(
        "\u{feff}[envs.production]\r\nroute = \"a.test\"\r\nservers = [\"x\"] # old\r\n",
        "\u{feff}[envs.production]\r\nroute = \"a.test\"\r\nservers = [\"fra1\", \"nyc1\"] # old\r\n",
    );
    check(
        "envs.production = { route = \"a.test\" }\n",
        "envs.production = { route = \"a.test\" , servers = [\"fra1\", \"nyc1\"] }\n",
    );
    let folder = Folder::with(b"[envs.staging]\nroute = \"b.test\"\n");
    let project = folder.load().0.unwrap();
    assert!(project.write_servers(&EnvName::production(), &[]).is_err());
}

proptest::proptest! {
    #[test]
    fn no_text_makes_it_panic(text in "(name|main|start|\\[envs|\\[vars|\\[build|\\]|\\.|=|\"|'|\n|\\{|\\}|,|é|1|true|production|\\PC){0,30}") {
        let _ = Project::read(Path::new("/nowhere"), &text, &mut |_| {});
    }
}
