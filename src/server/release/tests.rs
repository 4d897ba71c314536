use std::os::unix::fs::{PermissionsExt, symlink};

use super::*;
use crate::server::state::{Desired, Record};

const DAY_MS: u64 = 24 * 3600 * 1000;

struct World {
    dir: tempfile::TempDir,
    layout: Layout,
    id: AppId,
}

fn world() -> World {
    let dir = tempfile::tempdir().unwrap();
    let layout = Layout::new(dir.path().join("data"));
    fs::create_dir_all(layout.incoming()).unwrap();
    World { dir, layout, id: AppId::parse("shop").unwrap() }
}

fn version(s: &str) -> Version {
    Version::parse(s).unwrap()
}

impl World {
    /// Uploads an archive of these files.
    fn upload(&self, files: &[(&str, &str)]) -> Artifact {
        let root = self.dir.path().join("project");
        let _ = fs::remove_dir_all(&root);
        for (name, text) in files {
            fs::create_dir_all(root.join(name).parent().unwrap()).unwrap();
            fs::write(root.join(name), text).unwrap();
        }
        let names: Vec<PathBuf> = files.iter().map(|(name, _)| name.into()).collect();
        let packed = crate::archive::pack::pack(&root, &names, &self.layout.incoming().join("up.tar.zst")).unwrap();
        Artifact { file: "up.tar.zst".into(), sha256: packed.sha256, bytes: packed.bytes, unpacked: packed.unpacked }
    }

    fn unpack(&self, v: &str, files: &[(&str, &str)]) -> PathBuf {
        let artifact = self.upload(files);
        unpack(&self.layout, &self.id, &version(v), &artifact, None).unwrap();
        self.layout.release(&self.id, &version(v))
    }

    fn manifest(&self, v: &str) -> Manifest {
        let json = format!(r#"{{"app":"shop","version":"{v}","runtime":"binary","main":"run"}}"#);
        serde_json::from_str(&json).unwrap()
    }

    fn prepare(&self, manifest: &Manifest) -> (Result<()>, Vec<String>) {
        let mut said = Vec::new();
        let done = prepare(&self.layout, manifest, None, &mut |what| said.push(what), &AtomicBool::new(false));
        (done, said)
    }

    fn left_in_releases(&self) -> Vec<String> {
        let mut names: Vec<String> = entries(&self.layout.releases(&self.id))
            .iter()
            .map(|p| p.file_name().unwrap().to_string_lossy().into_owned())
            .collect();
        names.sort();
        names
    }

    fn desired(&self, live: &str, others: &[(&str, u64, bool)]) -> Desired {
        let record = |v: &str, deployed_ms, bad| Record {
            manifest: self.manifest(v),
            routes: vec![],
            deployed_ms,
            by: "ana".into(),
            bad,
        };
        let mut desired = Desired::new(self.id.clone(), record(live, 0, false), 1);
        desired.releases.extend(others.iter().map(|(v, at, bad)| record(v, *at, *bad)));
        desired
    }
}

#[test]
fn lays_a_release_out_in_full_and_takes_the_upload_away() {
    let w = world();
    let release = w.unpack("v1", &[("src/index.js", "hi")]);
    assert!(is_complete(&w.layout, &w.id, &version("v1")));
    assert_eq!(fs::read_to_string(release.join("src/index.js")).unwrap(), "hi");
    assert_eq!(fs::read_link(release.join("logs")).unwrap(), Path::new("../../shared/logs"));
    assert!(release.join("logs").is_dir());
    assert!(entries(&w.layout.incoming()).is_empty());
    assert_eq!(w.left_in_releases(), ["v1"]);
}

#[test]
fn replaces_a_folder_without_the_marker_and_leaves_a_complete_one_alone() {
    let w = world();
    let release = w.layout.release(&w.id, &version("v1"));
    fs::create_dir_all(&release).unwrap();
    fs::write(release.join("half"), "x").unwrap();
    w.unpack("v1", &[("a", "one")]);
    assert!(!release.join("half").exists());
    w.unpack("v1", &[("a", "two")]);
    assert_eq!(fs::read_to_string(release.join("a")).unwrap(), "one");
}

#[test]
fn what_an_archive_brings_under_our_names_counts_for_nothing() {
    let w = world();
    let release = w.unpack("v1", &[("run", "x"), (".prepared", "x"), ("logs/old.log", "x")]);
    assert!(!w.layout.prepared_marker(&w.id, &version("v1")).exists());
    assert!(fs::symlink_metadata(release.join("logs")).unwrap().is_symlink());
}

#[test]
fn refuses_uploads_that_are_not_what_was_announced_and_leaves_nothing() {
    let w = world();
    let check = |artifact: Artifact, expected: Kind, words: &str| {
        let e = unpack(&w.layout, &w.id, &version("v1"), &artifact, None).unwrap_err();
        assert_eq!(e.kind(), expected, "{e}");
        assert!(e.to_string().contains(words), "{e}");
        assert!(w.left_in_releases().is_empty());
    };
    let good = w.upload(&[("a", "x")]);
    check(Artifact { file: "../host.key".into(), ..good.clone() }, Kind::Refused, "not the name");
    check(Artifact { file: "other".into(), ..good.clone() }, Kind::NotFound, "other");
    check(Artifact { bytes: good.bytes + 1, ..good.clone() }, Kind::Refused, "bytes");
    check(Artifact { unpacked: u64::MAX, ..good.clone() }, Kind::Io, "free");
    check(Artifact { sha256: "0".repeat(64), ..good.clone() }, Kind::Refused, "checksum");
    symlink("up.tar.zst", w.layout.incoming().join("link")).unwrap();
    check(Artifact { file: "link".into(), ..good }, Kind::Refused, "not a file");
}

#[test]
fn prepares_once_by_the_command_it_is_given() {
    let w = world();
    let release = w.unpack("v1", &[("run", "x")]);
    let install = Some(["sh", "-c", "echo \"$GREETING\" >> made"].map(str::to_owned).to_vec());
    let vars = [("GREETING".to_owned(), "hello".to_owned())].into();
    let manifest = Manifest { install, vars, ..w.manifest("v1") };
    let (done, said) = w.prepare(&manifest);
    done.unwrap();
    assert_eq!(said.len(), 1);
    assert!(w.prepare(&manifest).1.is_empty());
    assert_eq!(fs::read_to_string(release.join("made")).unwrap(), "hello\n");
}

#[test]
fn an_installer_that_fails_shows_its_last_lines_and_may_try_again() {
    let w = world();
    w.unpack("v1", &[("run", "x")]);
    let install = Some(["sh", "-c", "echo no such package; exit 1"].map(str::to_owned).to_vec());
    let manifest = Manifest { install, ..w.manifest("v1") };
    for _ in 0..2 {
        let e = w.prepare(&manifest).0.unwrap_err();
        assert_eq!((e.kind(), e.detail()), (Kind::Rejected, &["no such package".to_owned()][..]));
    }
    w.prepare(&Manifest { install: Some(vec![]), ..manifest }).0.unwrap();
}

#[test]
fn prepares_nothing_that_is_not_there() {
    let w = world();
    assert_eq!(w.prepare(&w.manifest("v1")).0.unwrap_err().kind(), Kind::Refused);
}

#[test]
fn finds_the_lockfile_of_a_workspace_above_the_app_and_not_above_the_release() {
    let w = world();
    let release = w.unpack("v1", &[("apps/web/run", "x"), ("package-lock.json", "{}")]);
    fs::write(w.layout.releases(&w.id).join("bun.lock"), "").unwrap();
    let of = |dir: &str, runtime| installer(&w.layout, &Manifest { dir: dir.into(), runtime, ..w.manifest("v1") });
    assert_eq!(of("apps/web", Runtime::Node).unwrap().1, release);
    assert_eq!(of("", Runtime::Bun).unwrap().0.join(" "), "bun install --production");
    fs::remove_file(release.join("package-lock.json")).unwrap();
    assert!(of("apps/web", Runtime::Bun).is_none());
}

#[test]
fn activating_points_current_at_the_release_and_describes_it() {
    let w = world();
    w.unpack("v1", &[("run", "x")]);
    let release = w.unpack("v2", &[("run", "x")]);
    activate(&w.layout, &w.manifest("v1")).unwrap();
    let node = Manifest { runtime: Runtime::Node, runtime_version: Some("22.1.0".into()), ..w.manifest("v2") };
    describe(&w.layout, &node).unwrap();
    activate(&w.layout, &node).unwrap();
    assert_eq!(fs::read_link(w.layout.current(&w.id)).unwrap(), Path::new("releases/v2"));
    let told: Manifest = serde_json::from_slice(&fs::read(release.join("app.json")).unwrap()).unwrap();
    assert_eq!(told, node);
    assert_eq!(fs::read_to_string(release.join("mise.toml")).unwrap(), "[tools]\nnode = \"22.1.0\"\n");
}

#[test]
fn keeps_the_live_the_previous_the_running_and_ten_young_ones() {
    let w = world();
    let now = 100 * DAY_MS;
    let check = |others: &[(&str, u64, bool)], running: &[&str], expected: &[&str]| {
        let running: Vec<Version> = running.iter().map(|v| version(v)).collect();
        let gone = let_go(&w.desired("live", others), &running, now);
        assert_eq!(gone.iter().map(Version::as_str).collect::<Vec<_>>(), expected);
    };
    // The live record is the oldest of all: it stays.
    check(&[], &[], &[]);
    check(&[("a", 1, false)], &[], &[]);
    check(&[("b", 2, false), ("a", 1, false)], &[], &["a"]);
    check(&[("b", 2, false), ("a", 1, false)], &["a"], &[]);
    // A bad one is not what a rollback needs.
    check(&[("c", 3, true), ("b", 2, false), ("a", 1, false)], &[], &["c", "a"]);
    check(&[("b", 2, true), ("a", 1, true)], &[], &["a"]);
    check(&[("b", now - 5, false), ("a", now - 29 * DAY_MS, false)], &[], &[]);
    check(&[("b", now - 5, false), ("a", now - 30 * DAY_MS, false)], &[], &["a"]);
    // A clock that went back makes nothing old.
    check(&[("b", now + DAY_MS, false), ("a", now + 1, false)], &[], &[]);
    let names: Vec<String> = (0..13).map(|n| format!("r{n:02}")).collect();
    let many: Vec<_> = names.iter().enumerate().map(|(n, v)| (v.as_str(), now - n as u64, false)).collect();
    check(&many, &[], &["r11", "r12"]);
}

#[test]
fn pruning_removes_folders_with_their_records_and_forgets_what_is_gone() {
    let w = world();
    for v in ["live", "b", "a"] {
        w.unpack(v, &[("run", "x")]);
    }
    let stranger = w.layout.release(&w.id, &version("stranger"));
    let fresh = w.layout.release(&w.id, &version("fresh"));
    fs::create_dir_all(&stranger).unwrap();
    fs::create_dir_all(&fresh).unwrap();
    let old = SystemTime::now() - LEFT_OVER * 2;
    fs::File::open(&stranger).unwrap().set_modified(old).unwrap();
    let mut desired = w.desired("live", &[("b", 3, false), ("gone", 2, false), ("a", 1, false)]);
    prune(&w.layout, &mut desired, &[], 100 * DAY_MS);
    let kept: Vec<_> = desired.releases.iter().map(|r| r.manifest.version.as_str()).collect();
    assert_eq!(kept, ["live", "b"]);
    assert_eq!(w.left_in_releases(), ["b", "fresh", "live"]);
}

#[test]
fn a_discarded_release_is_gone() {
    let w = world();
    let release = w.unpack("v1", &[("run", "x")]);
    fs::set_permissions(release.join("run"), fs::Permissions::from_mode(0o400)).unwrap();
    discard(&w.layout, &w.id, &version("v1")).unwrap();
    discard(&w.layout, &w.id, &version("v1")).unwrap();
    assert!(w.left_in_releases().is_empty());
}

#[test]
fn tidies_staging_folders_and_uploads_of_yesterday() {
    let w = world();
    w.unpack("v1", &[("run", "x")]);
    fs::create_dir_all(w.layout.releases(&w.id).join(".v2.0.staging/deep")).unwrap();
    fs::write(w.layout.incoming().join("young.part"), "x").unwrap();
    fs::write(w.layout.incoming().join("old.part"), "x").unwrap();
    let old = fs::File::open(w.layout.incoming().join("old.part")).unwrap();
    old.set_modified(SystemTime::now() - LEFT_OVER * 2).unwrap();
    tidy(&w.layout, &w.id);
    tidy_incoming(&w.layout, SystemTime::now());
    assert_eq!(w.left_in_releases(), ["v1"]);
    assert!(w.layout.incoming().join("young.part").exists());
    assert!(!w.layout.incoming().join("old.part").exists());
}
