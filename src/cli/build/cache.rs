//! Artifact cache: `.tako/artifacts/artifact-cache-<target>-<key>.tar.zst`, and a `.json` beside each that says what is
//! in it. The key is over every input that can change the result.
//!
//! **Invariant**: the `.json` is written last, and an archive that does not match it is built again.

use std::fs::{self, File};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::bundle::{Source, frame};
use super::native::Native;
use super::recipe::{Chosen, Recipe};
use super::stage::Step;
use super::{Order, modules, tree};
use crate::archive::Packed;
use crate::cli::project::Project;
use crate::crypto::Sha256;
use crate::disk;
use crate::error::{Context, Result};
use crate::proto::target::Target;

/// Raised when what is packed changes for the same inputs.
const FORMAT: u32 = 2;
/// Artifacts that are kept, newest use first.
const KEPT: usize = 90;
const MAX_META: u64 = 64 << 10;
const PREFIX: &str = "artifact-cache-";
const ARCHIVE: &str = ".tar.zst";
const META: &str = ".json";

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Meta {
    format: u32,
    /// Of the tar.
    sha256: String,
    bytes: u64,
    unpacked: u64,
    /// Of the archive as it lies here.
    file_sha256: String,
    natives: Vec<Native>,
    /// Which image it was built in, behind the name that is in the key. Written since format 2 was, so it may be missing.
    #[serde(default)]
    image: Option<String>,
}

/// What an entry has.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Kept {
    pub packed: Packed,
    pub natives: Vec<Native>,
    pub image: Option<String>,
}

impl Kept {
    fn of(meta: Meta) -> Kept {
        let Meta { format: _, sha256, bytes, unpacked, file_sha256: _, natives, image } = meta;
        Kept { packed: Packed { sha256, bytes, unpacked }, natives, image }
    }

    /// Whether it was built in what the name of the image stands for `now`; where nobody knows that, the name counts.
    pub fn is_of(&self, now: Option<&str>) -> bool {
        now.is_none() || self.image.as_deref() == now
    }
}

/// Thirty-two hex digits over every input that can change what is packed. These are, in order:
///
/// | Input | Why |
/// |---|---|
/// | the format of this key, and our version | another `tako` may pack another way |
/// | target, and the image of a container | what is compiled fits one machine; it has the tools |
/// | hash of the source; the app's folder in it | the files themselves; where commands run |
/// | runtime and its version | it runs the build, and compiles native packages for itself |
/// | `main` and what a preset writes there, `include`, `exclude`, `assets` | what of the result is shipped, and where |
/// | how packages lie in the tree; each command, its folder, what it installs | what is done |
/// | the version, where there is a command | `TAKO_BUILD`, and what a command reads of the repository: the commit |
/// | variables that frameworks bake in, what `mise` adds | see [`super::environment`] |
/// | installed packages that are linked from the user's tree | see [`super::modules`]; others are in the lock file |
///
/// Of an image the key has the name, and the entry beside the archive what the name stood for, see
/// [`super::container::identity`]: so an artifact is found where there is no engine to ask, too.
///
/// Not in it: names of steps; what only a server reads (`start`, `install`, `health`, limits, routes, variables); where the
/// project lies; the rest of the user's environment; the version of the package manager, which a frozen lock file makes
/// no difference to. For those there is `--no-cache`.
///
/// The structs are taken apart by name, so that a new field is no input by oversight.
pub(crate) fn key(project: &Project, order: &Order, target: Target) -> Result<String> {
    let Order {
        source,
        recipe,
        notes: _,
        warnings: _,
        locked: _,
        runtime_version,
        targets: _,
        named: _,
        place,
        steps,
        environment,
        include: _,
        exclude: _,
    } = order;
    let Source { root, app, entries: _, hash: source_hash, version, subject: _, dirty: _, stamps: _ } = source;
    // What of the project is an input has become part of the recipe and of the steps.
    let runtime = project.runtime;
    let Recipe {
        main,
        entry,
        include,
        exclude,
        assets,
        start: _,
        install: _,
        dev: _,
        build_install: _,
        build: _,
        after: _,
        modules: packages,
        makes: _,
        otherwise: _,
        container: _,
        targets: _,
    } = recipe;

    let mut hash = Sha256::new();
    let mut add = |field: &str| frame(&mut hash, field.as_bytes());
    add(&FORMAT.to_string());
    add(env!("CARGO_PKG_VERSION"));
    add(&target.to_string());
    let image = place.image(target);
    add(image.unwrap_or_default());
    add(source_hash);
    add(&app.to_string_lossy());
    add(runtime.as_str());
    add(runtime_version.as_deref().unwrap_or_default());
    add(&main.value);
    add(entry.as_ref().map_or("", |entry| &entry.value));
    add(&format!("{:?}", packages.as_ref().map(|packages| packages.value)));
    let chosen = |list: &Option<Chosen<Vec<String>>>| list.as_ref().map_or(Vec::new(), |list| list.value.clone());
    let exclude = exclude.iter().map(|pattern| pattern.value.clone()).collect();
    let assets = chosen(assets);
    for list in [&chosen(include), &exclude, &assets] {
        // The length keeps a glob from passing from one list to the next.
        add(&list.len().to_string());
        list.iter().for_each(|glob| add(glob));
    }
    add(&steps.len().to_string());
    for step in steps {
        let Step { name: _, command, dir, installs_below, warning: _ } = step;
        add(command);
        add(&dir.to_string_lossy());
        add(&installs_below.as_ref().map_or("-".into(), |below| format!("+{}", below.display())));
    }
    if !steps.is_empty() {
        add(version.as_str());
    }
    environment.given().for_each(|words| words.iter().for_each(|word| add(word)));
    if image.is_none() && (!steps.is_empty() || !assets.is_empty()) {
        add(&modules::fingerprint(root, &tree::linked(source, steps))?);
    }
    Ok(hash.finish()[..32].to_string())
}

pub(crate) fn file(artifacts: &Path, target: Target, key: &str) -> PathBuf {
    artifacts.join(format!("{PREFIX}{target}-{key}{ARCHIVE}"))
}

/// What is in `file`, if it is there and whole; a bad entry is removed.
pub(crate) fn find(file: &Path) -> Result<Option<Kept>> {
    let Some(bytes) = disk::read_if_there(&meta_of(file), MAX_META).unwrap_or_default() else { return Ok(None) };
    let meta = serde_json::from_slice::<Meta>(&bytes).ok().filter(|meta| meta.format == FORMAT && matches(file, meta));
    let Some(meta) = meta else {
        forget(file);
        return Ok(None);
    };
    // Pruning goes by the last use.
    let used = File::options().append(true).open(file).and_then(|f| f.set_modified(SystemTime::now()));
    used.context(|| format!("touch {}", file.display()))?;
    Ok(Some(Kept::of(meta)))
}

/// The same for who only wants to know: nothing is touched.
pub(crate) fn look(file: &Path) -> Option<Kept> {
    let bytes = disk::read_if_there(&meta_of(file), MAX_META).ok()??;
    let meta = serde_json::from_slice::<Meta>(&bytes).ok()?;
    (meta.format == FORMAT && matches(file, &meta)).then(|| Kept::of(meta))
}

/// The archive of the tar with this hash and that tar's size, if there is one here. Whether it is whole is seen when it
/// is read.
pub(crate) fn holding(artifacts: &Path, sha256: &str) -> Option<(PathBuf, u64)> {
    let entries = fs::read_dir(artifacts).ok()?.flatten().map(|entry| entry.path());
    let is_meta =
        |path: &PathBuf| path.file_name().is_some_and(|n| n.as_encoded_bytes().starts_with(PREFIX.as_bytes()));
    entries.filter(|path| is_meta(path) && path.extension().is_some_and(|e| e == "json")).find_map(|path| {
        let meta: Meta = serde_json::from_slice(&disk::read_if_there(&path, MAX_META).ok()??).ok()?;
        let file = path.with_file_name(format!("{}{ARCHIVE}", path.file_stem()?.to_str()?));
        (meta.format == FORMAT && meta.sha256 == sha256 && file.is_file()).then_some((file, meta.unpacked))
    })
}

/// Has `pack` make the archive under a temporary name, and puts it in place with its `.json`.
pub(crate) fn store(
    file: &Path,
    natives: &[Native],
    image: Option<String>,
    pack: impl FnOnce(&Path) -> Result<Packed>,
) -> Result<Packed> {
    let temp = file.with_extension("tmp");
    let _ = fs::remove_file(&temp);
    let stored = pack(&temp).and_then(|packed| {
        let file_sha256 = sha256_of(&temp).context(|| format!("read {}", temp.display()))?;
        fs::rename(&temp, file).context(|| format!("write {}", file.display()))?;
        let Packed { sha256, bytes, unpacked } = packed.clone();
        let natives = natives.to_vec();
        let meta = Meta { format: FORMAT, sha256, bytes, unpacked, file_sha256, natives, image };
        let meta = serde_json::to_vec(&meta).context(|| "describe the artifact".into())?;
        disk::write_atomic(&meta_of(file), &meta, 0o644)?;
        Ok(packed)
    });
    if stored.is_err() {
        let _ = fs::remove_file(&temp);
    }
    stored
}

/// Removes all but the artifacts used last, and halves of entries. Failing at it harms nobody.
pub(crate) fn prune(artifacts: &Path, kept: &Path) {
    prune_to(artifacts, kept, KEPT);
}

fn prune_to(artifacts: &Path, kept: &Path, count: usize) {
    let Ok(entries) = fs::read_dir(artifacts) else { return };
    let mut archives: Vec<(SystemTime, PathBuf)> = Vec::new();
    for path in entries.flatten().map(|entry| entry.path()) {
        let name = path.file_name().and_then(|n| n.to_str()).unwrap_or_default();
        // Those that are being written have a dot before.
        if !name.trim_start_matches('.').starts_with(PREFIX) {
            continue;
        }
        let half = match (name.strip_suffix(META), name.ends_with(ARCHIVE)) {
            _ if name.starts_with('.') => true,
            (Some(stem), _) => !path.with_file_name(format!("{stem}{ARCHIVE}")).exists(),
            (None, true) => !meta_of(&path).exists(),
            // Under the lock, a temporary file is one that a crash left.
            (None, false) => true,
        };
        if half {
            let _ = fs::remove_file(&path);
        } else if name.ends_with(ARCHIVE) && path != kept {
            let used = path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            archives.push((used, path));
        }
    }
    archives.sort();
    archives.reverse();
    archives.iter().skip(count.saturating_sub(1)).for_each(|(_, path)| forget(path));
}

fn forget(file: &Path) {
    // The description first: without it the archive counts for nothing.
    let _ = fs::remove_file(meta_of(file));
    let _ = fs::remove_file(file);
}

fn matches(file: &Path, meta: &Meta) -> bool {
    fs::metadata(file).is_ok_and(|found| found.len() == meta.bytes)
        && sha256_of(file).is_ok_and(|hash| hash == meta.file_sha256)
}

fn meta_of(file: &Path) -> PathBuf {
    let name = file.file_name().and_then(|n| n.to_str()).unwrap_or_default();
    file.with_file_name(format!("{}{META}", name.strip_suffix(ARCHIVE).unwrap_or(name)))
}

fn sha256_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let (mut hash, mut buf) = (Sha256::new(), vec![0; 64 << 10]);
    loop {
        match file.read(&mut buf)? {
            0 => return Ok(hash.finish()),
            n => hash.update(&buf[..n]),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::error::{Error, Kind};

    fn entry(dir: &Path, name: &str) -> PathBuf {
        let file = dir.join(format!("{PREFIX}{name}{ARCHIVE}"));
        let packed = store(&file, &[], None, |temp| {
            fs::write(temp, name).unwrap();
            Ok(Packed { sha256: "ab".into(), bytes: name.len() as u64, unpacked: 9 })
        });
        assert_eq!(packed.unwrap().unpacked, 9);
        file
    }

    fn names(dir: &Path) -> Vec<String> {
        let mut names: Vec<String> =
            fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn finds_what_it_stored() {
        let dir = tempfile::tempdir().unwrap();
        let file = entry(dir.path(), "one");
        let packed = Packed { sha256: "ab".into(), bytes: 3, unpacked: 9 };
        assert_eq!(find(&file).unwrap(), Some(Kept { packed, natives: Vec::new(), image: None }));
        assert_eq!(find(&dir.path().join("artifact-cache-other.tar.zst")).unwrap(), None);
        assert_eq!(holding(dir.path(), "ab"), Some((file.clone(), 9)));
        assert_eq!(holding(dir.path(), "cd"), None);
        assert_eq!(names(dir.path()), ["artifact-cache-one.json", "artifact-cache-one.tar.zst"]);
    }

    #[test]
    fn an_entry_counts_while_its_image_is_the_one_that_the_name_stands_for() {
        let check = |image: Option<&str>, now: Option<&str>, expected| {
            let packed = Packed { sha256: "ab".into(), bytes: 3, unpacked: 9 };
            let kept = Kept { packed, natives: Vec::new(), image: image.map(Into::into) };
            assert_eq!(kept.is_of(now), expected, "{image:?} {now:?}");
        };
        check(None, None, true);
        check(Some("sha256:1"), None, true);
        check(Some("sha256:1"), Some("sha256:1"), true);
        check(Some("sha256:1"), Some("sha256:2"), false);
        // Built when nobody could tell.
        check(None, Some("sha256:1"), false);

        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("artifact-cache-x.tar.zst");
        let pack = |temp: &Path| {
            fs::write(temp, "x").unwrap();
            Ok(Packed { sha256: "ab".into(), bytes: 1, unpacked: 1 })
        };
        store(&file, &[], Some("sha256:1".into()), pack).unwrap();
        assert_eq!(find(&file).unwrap().unwrap().image.as_deref(), Some("sha256:1"));
        assert_eq!(look(&file).unwrap().image.as_deref(), Some("sha256:1"));
        // As earlier versions wrote it.
        let text = fs::read_to_string(meta_of(&file)).unwrap();
        fs::write(meta_of(&file), text.replace(",\"image\":\"sha256:1\"", "")).unwrap();
        assert_eq!(find(&file).unwrap().unwrap().image, None);
    }

    #[test]
    fn a_bad_entry_is_no_entry_and_goes_away() {
        let damages: [fn(&Path); 5] = [
            |file| fs::write(file, "two").unwrap(),
            |file| fs::write(file, "onetwo").unwrap(),
            |file| fs::remove_file(file).unwrap(),
            |file| fs::write(meta_of(file), "{").unwrap(),
            |file| fs::write(meta_of(file), "{\"format\":99}").unwrap(),
        ];
        for (n, damage) in damages.iter().enumerate() {
            let dir = tempfile::tempdir().unwrap();
            let file = entry(dir.path(), "one");
            damage(&file);
            assert_eq!(find(&file).unwrap(), None, "damage {n}");
            assert!(names(dir.path()).is_empty(), "damage {n}: {:?}", names(dir.path()));
        }
    }

    #[test]
    fn a_pack_that_fails_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("artifact-cache-x.tar.zst");
        let failed = store(&file, &[], None, |temp| {
            fs::write(temp, "half").unwrap();
            Err(Error::new(Kind::Io, "disk full"))
        });
        assert!(failed.is_err() && names(dir.path()).is_empty());
    }

    #[test]
    fn prunes_to_the_ones_used_last_without_halves() {
        let dir = tempfile::tempdir().unwrap();
        let files = ["a", "b", "c", "d"].map(|name| entry(dir.path(), name));
        for (n, file) in files.iter().enumerate() {
            let at = SystemTime::UNIX_EPOCH + Duration::from_secs(1000 * (n as u64 + 1));
            File::options().append(true).open(file).unwrap().set_modified(at).unwrap();
        }
        fs::remove_file(meta_of(&files[3])).unwrap();
        fs::write(dir.path().join("artifact-cache-x.tar.tmp"), "").unwrap();
        fs::write(dir.path().join("artifact-cache-y.json"), "").unwrap();
        fs::write(dir.path().join(".artifact-cache-z.json.7-1-0.tmp"), "").unwrap();
        fs::write(dir.path().join("notes.txt"), "").unwrap();
        // `a` is the oldest and the one just made.
        prune_to(dir.path(), &files[0], 2);
        let expected = [
            "artifact-cache-a.json",
            "artifact-cache-a.tar.zst",
            "artifact-cache-c.json",
            "artifact-cache-c.tar.zst",
            "notes.txt",
        ];
        assert_eq!(names(dir.path()), expected);
        // A use makes it young again.
        find(&files[2]).unwrap().unwrap();
        assert!(files[2].metadata().unwrap().modified().unwrap() > SystemTime::now() - Duration::from_secs(600));
    }
}
