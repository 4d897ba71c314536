//! A project as its developer has it: a folder of its own with a repository and installed packages.
//!
//! The sources are those of `tests/apps/<name>`; the packages come from their registries once and stay under
//! `target/apps` for the next run. What `tako` built there before is removed, so that every run builds anew.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// What the sources say in the page, before and after the change.
pub const EDITIONS: [&str; 2] = ["first edition", "second edition"];
/// Kept from one run to the next.
const KEPT: [&str; 2] = ["node_modules", ".git"];

pub struct Project {
    pub dir: PathBuf,
}

impl Project {
    /// With `runtime` in its `tako.toml`, or as it is.
    pub fn new(name: &str, runtime: Option<&str>) -> Project {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        let folder = runtime.map_or(name.into(), |runtime| format!("{name}-on-{runtime}"));
        let (from, dir) = (root.join("tests/apps").join(name), root.join("target/apps").join(folder));
        fs::create_dir_all(&dir).unwrap();
        for entry in fs::read_dir(&dir).unwrap().flatten().filter(|e| !KEPT.iter().any(|kept| e.file_name() == *kept)) {
            match entry.file_type().unwrap().is_dir() {
                true => fs::remove_dir_all(entry.path()).unwrap(),
                false => fs::remove_file(entry.path()).unwrap(),
            }
        }
        copy(&from, &dir);
        if let Some(runtime) = runtime {
            let config = dir.join("tako.toml");
            let text = fs::read_to_string(&config).unwrap();
            fs::write(config, format!("runtime = \"{runtime}\"\n{text}")).unwrap();
        }
        let project = Project { dir };
        project.install();
        project.commit();
        project
    }

    /// The one file that every project has, in the folder for such files of its framework.
    pub fn logo(&self) -> Vec<u8> {
        let there = ["public", "static"].map(|folder| self.dir.join(folder).join("logo.svg"));
        fs::read(there.iter().find(|path| path.exists()).unwrap()).unwrap()
    }

    /// Puts the second edition in the place of the first.
    pub fn change(&self) {
        let changed = change_below(&self.dir);
        assert!(changed > 0, "no file of {} says {:?}", self.dir.display(), EDITIONS[0]);
    }

    /// With the package manager of the lock file that is there, unless it did so before from the same files.
    fn install(&self) {
        let (program, args, lock) = match () {
            () if self.dir.join("package-lock.json").exists() => {
                ("npm", &["ci", "--no-audit", "--no-fund"][..], "package-lock.json")
            }
            () if self.dir.join("bun.lock").exists() => ("bun", &["install", "--frozen-lockfile"][..], "bun.lock"),
            () => return,
        };
        let read = |name: &str| fs::read_to_string(self.dir.join(name)).unwrap();
        let wanted = format!("{}\n{}", read("package.json"), read(lock));
        let stamp = self.dir.join("node_modules/.installed-from");
        if fs::read_to_string(&stamp).is_ok_and(|there| there == wanted) {
            return;
        }
        must(Command::new(program).args(args).current_dir(&self.dir));
        fs::write(stamp, wanted).unwrap();
    }

    /// A repository of its own: the source root would be this program's else.
    fn commit(&self) {
        let git = |args: &[&str]| {
            let names = ["-c", "user.name=A Developer", "-c", "user.email=dev@example.com"];
            must(Command::new("git").args(names).args(args).current_dir(&self.dir));
        };
        if !self.dir.join(".git").exists() {
            git(&["init", "--quiet"]);
        }
        fs::write(self.dir.join(".git/info/exclude"), "node_modules\n").unwrap();
        git(&["add", "--all"]);
        git(&["commit", "--quiet", "--allow-empty", "--message", "as it was"]);
    }
}

fn must(command: &mut Command) {
    let output = command.output().unwrap_or_else(|e| panic!("{command:?}: {e}"));
    let said = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {}\n{}", said(&output.stdout), said(&output.stderr));
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap_or_else(|e| panic!("{}: {e}", from.display())).flatten() {
        let target = to.join(entry.file_name());
        match entry.file_type().unwrap().is_dir() {
            true => copy(&entry.path(), &target),
            false => drop(fs::copy(entry.path(), target).unwrap()),
        }
    }
}

/// How many files were changed.
fn change_below(dir: &Path) -> usize {
    let entries = fs::read_dir(dir).unwrap().flatten();
    let ours = entries.filter(|e| !KEPT.iter().any(|kept| e.file_name() == *kept) && e.file_name() != ".tako");
    ours.map(|entry| match entry.file_type().unwrap().is_dir() {
        true => change_below(&entry.path()),
        false => {
            let text = fs::read(entry.path()).ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default();
            let changed = text.replace(EDITIONS[0], EDITIONS[1]);
            if changed == text {
                return 0;
            }
            fs::write(entry.path(), changed).unwrap();
            1
        }
    })
    .sum()
}
