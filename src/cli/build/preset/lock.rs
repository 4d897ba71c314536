//! `.tako/build.lock.json`: which preset a project was built with, so that it is built with the same one again, on any
//! machine and without a network. It is meant to be committed.
//!
//! The preset itself is in it: it is small, a change of it can be reviewed, and nothing has to be asked for again.
//!
//! **Invariant**: what is read back is what was written, or an error; never another preset under the old hash.

use std::fs;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::MAX_PRESET;
use crate::cli::project::preset_ref::PresetRef;
use crate::crypto::Sha256;
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::manifest::Runtime;

/// Raised when an older Tako would misread it.
const FORMAT: u32 = 1;
/// A preset of empty lines, each with its indentation, quotes and comma; and what is said of it.
const MAX_LOCK: u64 = MAX_PRESET * 8 + (16 << 10);
/// Where a preset of ours comes from.
pub(crate) const EMBEDDED: &str = "embedded";

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Locked {
    format: u32,
    /// As `tako.toml` names it, with its pin.
    pub preset: String,
    pub runtime: Runtime,
    /// An address, or `embedded`.
    pub source: String,
    /// `master` or a commit; of an embedded one the version of Tako.
    #[serde(rename = "ref")]
    pub reference: String,
    /// Of `text`, lower-case hex.
    pub sha256: String,
    /// Line by line, so that a change of it can be read.
    #[serde(rename = "lines", serialize_with = "as_lines", deserialize_with = "from_lines")]
    pub text: String,
}

fn as_lines<S: Serializer>(text: &str, to: S) -> std::result::Result<S::Ok, S::Error> {
    to.collect_seq(text.split('\n'))
}

fn from_lines<'de, D: Deserializer<'de>>(from: D) -> std::result::Result<String, D::Error> {
    Ok(Vec::<String>::deserialize(from)?.join("\n"))
}

impl Locked {
    pub fn new(wanted: &PresetRef, runtime: Runtime, source: &str, reference: &str, text: String) -> Locked {
        Locked {
            format: FORMAT,
            preset: wanted.to_string(),
            runtime,
            source: source.into(),
            reference: reference.into(),
            sha256: hash(&text),
            text,
        }
    }

    pub fn is_of(&self, wanted: &PresetRef, runtime: Runtime) -> bool {
        self.preset == wanted.to_string() && self.runtime == runtime
    }
}

pub(crate) fn hash(text: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(text.as_bytes());
    hash.finish()
}

/// What the project in `dir` was built with.
///
/// # Errors
/// Config when the file was changed by hand or by a merge.
pub(crate) fn load(dir: &Path) -> Result<Option<Locked>> {
    let path = path(dir);
    let wrong = |why: String| {
        Error::new(Kind::Config, format!("{} {why}", path.display()))
            .hint("take the committed one back, or remove it and build again")
    };
    let Some(bytes) = disk::read_if_there(&path, MAX_LOCK).map_err(|e| e.with_kind(Kind::Config))? else {
        return Ok(None);
    };
    let locked: Locked = serde_json::from_slice(&bytes).map_err(|e| wrong(format!("is not what Tako wrote: {e}")))?;
    if locked.format != FORMAT {
        return Err(wrong(format!("has the format {}, and this Tako knows {FORMAT}", locked.format)));
    }
    if locked.sha256 != hash(&locked.text) {
        return Err(wrong(format!("says another hash than its preset `{}` has", locked.preset)));
    }
    Ok(Some(locked))
}

/// Writes it unless it is there already; without a preset there is nothing to remember.
pub(crate) fn save(dir: &Path, locked: Option<&Locked>) -> Result<()> {
    let path = path(dir);
    let Some(locked) = locked else {
        return match fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        };
    };
    let mut json = serde_json::to_vec_pretty(locked).context(|| format!("describe the preset {}", locked.preset))?;
    json.push(b'\n');
    match fs::read(&path).is_ok_and(|there| there == json) {
        true => Ok(()),
        false => disk::write_atomic(&path, &json, 0o644),
    }
}

fn path(dir: &Path) -> PathBuf {
    dir.join(".tako/build.lock.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn locked(dir: &Path) -> Locked {
        fs::create_dir_all(dir.join(".tako")).unwrap();
        let wanted = PresetRef::parse("vite@4f2c9ab").unwrap();
        Locked::new(&wanted, Runtime::Bun, "https://example.com", "4f2c9ab", "main = \"é\"\n".into())
    }

    #[test]
    fn comes_back_as_it_was_and_is_for_one_preset_and_runtime() {
        let dir = tempfile::tempdir().unwrap();
        let locked = locked(dir.path());
        assert_eq!(load(dir.path()).unwrap(), None);
        save(dir.path(), Some(&locked)).unwrap();
        assert_eq!(load(dir.path()).unwrap().as_ref(), Some(&locked));
        let is_of = |name: &str, runtime| locked.is_of(&PresetRef::parse(name).unwrap(), runtime);
        assert!(is_of("vite@4f2c9ab", Runtime::Bun));
        assert!(!is_of("vite", Runtime::Bun) && !is_of("vite@4f2c9ab", Runtime::Node));
        save(dir.path(), None).unwrap();
        save(dir.path(), None).unwrap();
        assert_eq!(load(dir.path()).unwrap(), None);
    }

    #[test]
    fn what_somebody_changed_is_an_error_that_says_what_to_do() {
        let dir = tempfile::tempdir().unwrap();
        save(dir.path(), Some(&locked(dir.path()))).unwrap();
        let text = fs::read_to_string(path(dir.path())).unwrap();
        let merged = format!("<<<<<<< ours\n{text}");
        for bad in [text.replace("main", "mian"), text.replace(": 1", ": 9"), text[..40].into(), merged, String::new()]
        {
            fs::write(path(dir.path()), &bad).unwrap();
            let e = load(dir.path()).unwrap_err();
            assert_eq!(e.kind(), Kind::Config, "{bad}");
            assert!(e.to_string().contains("build.lock.json") && e.next_step().unwrap().contains("remove it"), "{e}");
        }
        fs::write(path(dir.path()), vec![b' '; MAX_LOCK as usize + 1]).unwrap();
        assert_eq!(load(dir.path()).unwrap_err().kind(), Kind::Config);
    }
}
