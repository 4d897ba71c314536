//! Secrets: in memory that is wiped, sealed on disk, on the pipe to each instance, and in the environment of a `task`.
//! Nowhere else.
//!
//! Every set of secrets has a file of its own, named in the app's state: a state and its secrets change in one step.
//!
//! **Invariant**: a sealed file opens under this host's key for this app alone; one that was moved is refused.

use std::fs;

use serde::Serialize;
use zeroize::Zeroizing;

use super::super::layout::Layout;
use crate::crypto::{self, Key};
use crate::disk;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::Secrets;
use crate::proto::name::AppId;
use crate::sys::MAX_BOOTSTRAP;

/// What an instance reads on its bootstrap descriptor.
#[derive(Serialize)]
struct Bootstrap<'a> {
    token: &'a str,
    secrets: &'a std::collections::BTreeMap<String, Zeroizing<String>>,
}

/// A name for secrets that are to be saved, which none had before.
pub(crate) fn new_name() -> Result<String> {
    Ok(crypto::hex(&crypto::random::<8>()?))
}

/// The secrets sealed for this app under `name`.
///
/// # Errors
/// Refused when they do not open: another host's key, another app's file, damage; and when they are not there.
pub(crate) fn load(layout: &Layout, key: &Key, id: &AppId, name: &str) -> Result<Secrets> {
    let path = layout.secrets(id, name);
    let sealed = disk::read_if_there(&path, 2 * MAX_BOOTSTRAP as u64)?.ok_or_else(|| {
        Error::new(Kind::Refused, format!("{} is missing", path.display()))
            .hint("run `tako secrets sync`: they are sent anew")
    })?;
    let plain = key.open(&sealed, &bound_to(id)).ok_or_else(|| {
        Error::new(Kind::Refused, format!("{} does not open under this server's key", path.display()))
            .hint("run `tako secrets sync`: they are sent anew")
    })?;
    serde_json::from_slice(&plain).context(|| format!("understand {}", path.display()))
}

pub(crate) fn save(layout: &Layout, key: &Key, id: &AppId, name: &str, secrets: &Secrets) -> Result<()> {
    let plain = json(secrets, room(secrets))?;
    disk::write_atomic(&layout.secrets(id, name), &key.seal(&plain, &bound_to(id))?, 0o600)
}

/// Removes what is sealed under any other name.
pub(crate) fn keep_only(layout: &Layout, id: &AppId, name: Option<&str>) -> Result<()> {
    let kept = name.map(|name| layout.secrets(id, name));
    for entry in fs::read_dir(layout.app(id)).into_iter().flatten().flatten() {
        let file = entry.file_name();
        let is_ours = file.to_str().is_some_and(|f| f.starts_with("secrets.") && f.ends_with(".sealed"));
        let path = entry.path();
        if is_ours && Some(&path) != kept.as_ref() {
            fs::remove_file(&path).context(|| format!("remove {}", path.display()))?;
        }
    }
    Ok(())
}

/// # Errors
/// Refused when it would not fit the pipe.
pub(crate) fn payload(token: &str, secrets: Option<&Secrets>) -> Result<Zeroizing<Vec<u8>>> {
    let none = std::collections::BTreeMap::new();
    let values = secrets.map_or(&none, |s| &s.values);
    let bytes = json(&Bootstrap { token, secrets: values }, secrets.map_or(128, room))?;
    if bytes.len() > MAX_BOOTSTRAP {
        return Err(Error::new(Kind::Refused, format!("the secrets are larger than {MAX_BOOTSTRAP} bytes together")));
    }
    Ok(bytes)
}

fn json(value: &impl Serialize, room: usize) -> Result<Zeroizing<Vec<u8>>> {
    // Never grown while it is written: a buffer that moves leaves a copy behind.
    let mut bytes = Zeroizing::new(Vec::with_capacity(room));
    serde_json::to_writer(&mut *bytes, value).context(|| "write the secrets".into())?;
    Ok(bytes)
}

/// More than the secrets take as JSON: a byte becomes six at most (`\u0000`).
fn room(secrets: &Secrets) -> usize {
    256 + 6 * secrets.hash.len() + secrets.values.iter().map(|(k, v)| 6 * (k.len() + v.len()) + 8).sum::<usize>()
}

fn bound_to(id: &AppId) -> Vec<u8> {
    format!("tako secrets of {id}").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn some() -> Secrets {
        let values = [("KEY".to_string(), Zeroizing::new("va\"lue".to_string()))].into();
        Secrets { hash: "h".into(), values }
    }

    #[test]
    fn opens_for_the_same_app_alone_and_lies_nowhere_in_clear() {
        let dir = tempfile::tempdir().unwrap();
        let layout = Layout::new(dir.path().into());
        let (a, b) = (AppId::parse("a").unwrap(), AppId::parse("b").unwrap());
        for id in [&a, &b] {
            disk::make_dirs(&layout.app(id), 0o700).unwrap();
        }
        let key = Key::random().unwrap();
        assert_eq!(load(&layout, &key, &a, "1").unwrap_err().kind(), Kind::Refused);
        save(&layout, &key, &a, "1", &some()).unwrap();
        assert_eq!(load(&layout, &key, &a, "1").unwrap().values, some().values);
        let sealed = fs::read(layout.secrets(&a, "1")).unwrap();
        assert!(!sealed.windows(3).any(|w| w == b"KEY"));
        fs::copy(layout.secrets(&a, "1"), layout.secrets(&b, "1")).unwrap();
        assert_eq!(load(&layout, &key, &b, "1").unwrap_err().kind(), Kind::Refused);
        assert_eq!(load(&layout, &Key::random().unwrap(), &a, "1").unwrap_err().kind(), Kind::Refused);
        save(&layout, &key, &a, "2", &some()).unwrap();
        keep_only(&layout, &a, Some("2")).unwrap();
        assert!(!layout.secrets(&a, "1").exists() && layout.secrets(&a, "2").exists());
        keep_only(&layout, &a, None).unwrap();
        assert!(!layout.secrets(&a, "2").exists() && layout.secrets(&b, "1").exists());
    }

    #[test]
    fn an_instance_reads_its_token_and_its_secrets() {
        let bytes = payload("t0", Some(&some())).unwrap();
        assert_eq!(std::str::from_utf8(&bytes).unwrap(), r#"{"token":"t0","secrets":{"KEY":"va\"lue"}}"#);
        assert_eq!(payload("t0", None).unwrap().as_slice(), br#"{"token":"t0","secrets":{}}"#);
        let huge = Secrets {
            hash: String::new(),
            values: [("K".to_string(), Zeroizing::new("x".repeat(MAX_BOOTSTRAP)))].into(),
        };
        assert_eq!(payload("t", Some(&huge)).unwrap_err().kind(), Kind::Refused);
    }
}
