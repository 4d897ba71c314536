use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, SystemTime};

use super::*;
use crate::archive::delta::{self, Whole};
use crate::proto::manifest::Runtime;
use crate::proto::target::Target;
use crate::server::lock::{Locks, Purpose};
use crate::server::runtime::Runtimes;
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
        Artifact {
            file: "up.tar.zst".into(),
            sha256: packed.sha256,
            bytes: packed.bytes,
            unpacked: packed.unpacked,
            base: None,
        }
    }

    fn unpack(&self, v: &str, files: &[(&str, &str)]) -> PathBuf {
        let artifact = self.upload(files);
        unpack(&self.layout, &self.id, &version(v), &artifact, None).unwrap();
        self.layout.release(&self.id, &version(v))
    }

    /// Uploads these files as a delta against what `base` was laid out from.
    fn upload_delta(&self, base: &str, files: &[(&str, &str)]) -> Artifact {
        let whole = self.upload(files);
        let archive = self.dir.path().join("whole.tar.zst");
        fs::rename(self.layout.incoming().join(&whole.file), &archive).unwrap();
        let is_base = |path: &PathBuf| path.to_string_lossy().ends_with(&format!(".{base}.tar.zst"));
        let file = entries(&self.layout.bases(&self.id)).into_iter().find(is_base).unwrap();
        let name = file.file_name().unwrap().to_str().unwrap().to_owned();
        let parts: Vec<&str> = name.splitn(3, '.').collect();
        let from = Whole { file: &file, sha256: parts[0], unpacked: parts[1].parse().unwrap() };
        let to = Whole { file: &archive, sha256: &whole.sha256, unpacked: whole.unpacked };
        let bytes = delta::make(from, to, &self.layout.incoming().join("up.delta")).unwrap();
        Artifact { file: "up.delta".into(), bytes, base: Some(parts[0].into()), ..whole }
    }

    fn bases(&self) -> Vec<String> {
        let mut names: Vec<String> =
            bases::kept(&self.layout, &self.id).into_iter().map(|b| b.version.to_string()).collect();
        names.sort();
        names
    }

    fn manifest(&self, v: &str) -> Manifest {
        let json = format!(r#"{{"app":"shop","version":"{v}","runtime":"binary","main":"run"}}"#);
        serde_json::from_str(&json).unwrap()
    }

    fn prepare(&self, manifest: &Manifest) -> (Result<()>, Vec<String>) {
        let mut said = Vec::new();
        let done = self.preparing(manifest, |preparing| preparing.run(&mut |what| said.push(what)));
        (done, said)
    }

    fn preparing<T>(&self, manifest: &Manifest, act: impl FnOnce(&Preparing<'_>) -> T) -> T {
        let layout = std::sync::Arc::new(self.layout.clone());
        let runtimes = Runtimes::new(layout, Target::of_this_machine().unwrap(), None);
        let gone = &AtomicBool::new(false);
        act(&Preparing { layout: &self.layout, runtimes: &runtimes, manifest, user: None, anew: false, gone })
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
fn a_delta_against_the_last_release_makes_the_next() {
    let w = world();
    let many: String = (0..20_000).map(|n| format!("{n}\n")).collect();
    w.unpack("v1", &[("a", &many), ("b", "one")]);
    let mut last = "v1".to_owned();
    for n in 2..6 {
        let next = format!("v{n}");
        let artifact = w.upload_delta(&last, &[("a", &many), ("b", &next)]);
        assert!(artifact.bytes < 500, "{}", artifact.bytes);
        unpack(&w.layout, &w.id, &version(&next), &artifact, None).unwrap();
        let release = w.layout.release(&w.id, &version(&next));
        assert_eq!(fs::read_to_string(release.join("b")).unwrap(), next);
        assert_eq!(fs::read_to_string(release.join("a")).unwrap(), many);
        assert_eq!(w.bases(), [last, next.clone()]);
        assert!(entries(&w.layout.incoming()).is_empty());
        last = next;
    }
    // Nobody but us looks into the folder.
    assert_eq!(fs::metadata(w.layout.bases(&w.id)).unwrap().mode() & 0o777, 0o700);
}

#[test]
fn a_delta_that_is_refused_leaves_nothing_and_takes_a_base_in_doubt_with_it() {
    type Damage = fn(&World, &mut Artifact);
    let damages: [(&str, Damage, bool); 7] = [
        ("not kept", |_, artifact| artifact.base = Some("0".repeat(64)), true),
        ("of another app", |w, _| drop(disk::remove_tree(&w.layout.bases(&w.id))), false),
        ("damaged", |w, _| fs::write(entries(&w.layout.bases(&w.id)).remove(0), b"x").unwrap(), false),
        ("wrong checksum", |_, artifact| artifact.sha256 = "0".repeat(64), false),
        ("wrong checksum", |_, artifact| artifact.unpacked += 1, false),
        (
            "damaged",
            |w, artifact| {
                fs::write(w.layout.incoming().join("up.delta"), b"another format").unwrap();
                artifact.bytes = 14;
            },
            false,
        ),
        ("bytes", |_, artifact| artifact.bytes += 1, true),
    ];
    for (n, (words, damage, stays)) in damages.iter().enumerate() {
        let w = world();
        w.unpack("v1", &[("a", "one")]);
        let mut artifact = w.upload_delta("v1", &[("a", "two")]);
        damage(&w, &mut artifact);
        let e = unpack(&w.layout, &w.id, &version("v2"), &artifact, None).unwrap_err();
        assert!(matches!(e.kind(), Kind::Refused | Kind::NotFound), "{n}: {e}");
        assert!(e.to_string().contains(words) || *words == "of another app", "{n}: {e}");
        assert!(entries(&w.layout.incoming()).is_empty(), "{n}: {e}");
        assert_eq!(w.left_in_releases(), ["v1"], "{n}");
        assert_eq!(w.bases().len(), usize::from(*stays), "{n}: {e}");
        assert_eq!(entries(&w.layout.bases(&w.id)).len(), usize::from(*stays), "{n}: {e}");
        // And what follows is the whole.
        w.unpack("v2", &[("a", "two")]);
        assert!(w.bases().contains(&"v2".to_owned()), "{n}");
    }
}

#[test]
fn a_start_removes_what_was_being_rebuilt() {
    let w = world();
    w.unpack("v1", &[("a", "one")]);
    fs::write(w.layout.bases(&w.id).join(".rebuilt.tmp"), "half").unwrap();
    tidy(&w.layout, &w.id);
    assert_eq!(entries(&w.layout.bases(&w.id)).len(), 1);
    assert_eq!(w.bases(), ["v1"]);
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
fn an_installer_that_fails_shows_its_last_lines_and_a_new_release_goes_with_it() {
    let w = world();
    let release = w.unpack("v1", &[("run", "x")]);
    let install = Some(["sh", "-c", "echo begun; echo no such package >&2; exit 1"].map(str::to_owned).to_vec());
    let manifest = Manifest { install, ..w.manifest("v1") };
    let e = w.prepare(&manifest).0.unwrap_err();
    assert_eq!((e.kind(), e.detail().last().map(String::as_str)), (Kind::Rejected, Some("no such package")));
    let kept = w.layout.install_log(&w.id);
    assert!(e.next_step().unwrap().contains(&kept.display().to_string()), "{e:?}");
    assert_eq!(fs::read_to_string(kept).unwrap().lines().count(), 2);
    assert!(!release.exists());

    // What mostly helps stands before it.
    w.unpack("v1", &[("run", "x")]);
    let script = "echo 'npm error `npm ci` can only install packages when your package.json and package-lock.json or \
                  npm-shrinkwrap.json are in sync.'; exit 1";
    let install = Some(["sh", "-c", script].map(str::to_owned).to_vec());
    let e = w.prepare(&Manifest { install, ..w.manifest("v1") }).0.unwrap_err();
    assert!(
        e.next_step().unwrap().starts_with("the lock file does not fit package.json: install once by hand"),
        "{e:?}"
    );

    // One that was live is needed for a rollback.
    w.unpack("v1", &[("run", "x")]);
    crate::server::state::save(&w.layout, &w.desired("v1", &[])).unwrap();
    w.prepare(&manifest).0.unwrap_err();
    w.prepare(&Manifest { install: Some(vec![]), ..manifest }).0.unwrap();
}

#[test]
fn an_installer_runs_as_the_app_with_its_home_and_behind_everything_else() {
    if !rustix::process::geteuid().is_root() {
        return; // nobody else has users for apps
    }
    let w = world();
    let user = User { uid: 70_006, gid: 70_006 };
    for dir in [w.dir.path(), w.layout.data()] {
        fs::set_permissions(dir, fs::Permissions::from_mode(0o711)).unwrap();
    }
    fs::create_dir(w.layout.apps()).unwrap();
    fs::set_permissions(w.layout.apps(), fs::Permissions::from_mode(0o711)).unwrap();
    let artifact = w.upload(&[("run", "x")]);
    unpack(&w.layout, &w.id, &version("v1"), &artifact, Some(user)).unwrap();
    let script = "id -u > made; echo $HOME $TMPDIR >> made; nice >> made; mktemp >> made; touch ~/.cached";
    let install = Some(["sh", "-c", script].map(str::to_owned).to_vec());
    let manifest = Manifest { install, ..w.manifest("v1") };
    w.preparing(&manifest, |p| Preparing { user: Some(user), ..*p }.run(&mut |_| {})).unwrap();

    let made = w.layout.release(&w.id, &version("v1")).join("made");
    let said = fs::read_to_string(&made).unwrap();
    let said: Vec<&str> = said.lines().collect();
    let (home, tmp) = (w.layout.app_home(&w.id).display().to_string(), w.layout.app_tmp(&w.id).display().to_string());
    assert_eq!(said[..2], ["70006", &format!("{home} {tmp}")]);
    assert!(said[2].parse::<u32>().unwrap() > 10 && said[3].starts_with(&tmp), "{said:?}");
    assert!(w.layout.app_home(&w.id).join(".cached").exists());
    // From now on the release is ours, and read-only for the app.
    let meta = fs::metadata(&made).unwrap();
    assert_eq!((meta.uid(), meta.gid(), meta.mode() & 0o777), (0, 70_006, 0o640));
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
    let of = |dir: &str, runtime| {
        w.preparing(&Manifest { dir: dir.into(), runtime, ..w.manifest("v1") }, |p| p.installer(None))
    };
    assert_eq!(of("apps/web", Runtime::Node).unwrap().1, release);
    assert_eq!(of("", Runtime::Bun).unwrap().0.join(" "), "bun install --production");
    fs::remove_file(release.join("package-lock.json")).unwrap();
    assert!(of("apps/web", Runtime::Bun).is_none());
}

#[test]
fn activating_points_current_at_the_release_and_describes_it() {
    let w = world();
    w.unpack("v1", &[("run", "x")]);
    let release =
        w.unpack("v2", &[("run", "x"), ("app.json", "the app's own"), ("mise.toml", "[tools]\njq = \"1\"\n")]);
    activate(&w.layout, &w.manifest("v1")).unwrap();
    let node = Manifest {
        app: AppId::parse("shop.staging").unwrap(),
        runtime: Runtime::Node,
        runtime_version: Some("22.1.0".into()),
        dir: "apps/web".into(),
        start: Some(vec!["node".into(), "{main}".into()]),
        install: Some(vec![]),
        vars: [("A".to_owned(), "b".to_owned())].into(),
        commit_message: Some("Fix the cart".into()),
        git_dirty: true,
        ..w.manifest("v2")
    };
    let staging = w.layout.release(&node.app, &node.version);
    fs::create_dir_all(staging.parent().unwrap()).unwrap();
    fs::rename(&release, &staging).unwrap();
    describe(&w.layout, &node).unwrap();
    let told: serde_json::Value = serde_json::from_slice(&fs::read(staging.join("app.json")).unwrap()).unwrap();
    let expected = serde_json::json!({
        "app": "shop", "env": "staging", "version": "v2", "runtime": "node", "runtime_version": "22.1.0",
        "dir": "apps/web", "main": "run", "start": ["node", "{main}"], "install": [], "vars": { "A": "b" },
        "limits": {
            "idle_timeout_s": 300, "startup_timeout_s": 30, "drain_timeout_s": 30, "request_body": 128 << 20,
        },
        "commit_message": "Fix the cart", "git_dirty": true,
    });
    assert_eq!(told, expected);
    let mise = fs::read_to_string(staging.join("mise.toml")).unwrap();
    assert_eq!(mise, "[tools]\njq = \"1\"\nnode = \"22.1.0\"\n");
    // Again, it touches nothing.
    let before = staging.join("app.json").metadata().unwrap().ino();
    describe(&w.layout, &node).unwrap();
    assert_eq!(staging.join("app.json").metadata().unwrap().ino(), before);
    activate(&w.layout, &w.manifest("v2")).unwrap();
    assert_eq!(fs::read_link(w.layout.current(&w.id)).unwrap(), Path::new("releases/v2"));
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
    for v in ["live", "b", "a", "stranger"] {
        w.unpack(v, &[("run", "x")]);
        // The time of a folder says nothing: the oldest ones stay, and what is of today goes.
        let folder = fs::File::open(w.layout.release(&w.id, &version(v))).unwrap();
        let age = if v == "live" || v == "b" { 400 } else { 0 };
        folder.set_modified(SystemTime::now() - Duration::from_millis(age * DAY_MS)).unwrap();
    }
    let mut desired = w.desired("live", &[("b", 3, false), ("gone", 2, false), ("a", 1, false)]);
    prune(&w.layout, &mut desired, &[], 100 * DAY_MS);
    let kept: Vec<_> = desired.releases.iter().map(|r| r.manifest.version.as_str()).collect();
    assert_eq!(kept, ["live", "b"]);
    assert_eq!(w.left_in_releases(), ["b", "live"]);
}

#[test]
fn what_somebody_is_about_to_deploy_is_no_stranger() {
    let w = world();
    let locks = Locks::new(w.layout.clone().into());
    let check = |purpose: Option<Purpose>, coming: Option<&str>, expected: &[&str]| {
        for v in ["live", "next", "left"] {
            w.unpack(v, &[("run", "x")]);
        }
        fs::create_dir_all(w.layout.releases(&w.id).join(".next.0.staging")).unwrap();
        let held = purpose.map(|p| locks.take(&w.id, "ana", p, coming.map(version).as_ref()).unwrap());
        prune(&w.layout, &mut w.desired("live", &[]), &[], 100 * DAY_MS);
        drop(held);
        assert_eq!(w.left_in_releases(), expected);
    };
    check(Some(Purpose::Deploy), Some("next"), &[".next.0.staging", "live", "next"]);
    check(Some(Purpose::Deploy), None, &[".next.0.staging", "left", "live", "next"]);
    check(Some(Purpose::Rollback), None, &[".next.0.staging", "live"]);
    check(None, None, &[".next.0.staging", "live"]);
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
    old.set_modified(SystemTime::now() - incoming::LEFT_OVER * 2).unwrap();
    tidy(&w.layout, &w.id);
    incoming::tidy(&w.layout, SystemTime::now());
    assert_eq!(w.left_in_releases(), ["v1"]);
    assert!(w.layout.incoming().join("young.part").exists());
    assert!(!w.layout.incoming().join("old.part").exists());
}
