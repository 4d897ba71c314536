//! Secrets: in memory that is wiped, sealed on disk, and on the pipe to each instance. Nowhere else.
//!
//! **Invariant**: a sealed file opens under this host's key for this app alone; one that was moved is refused.

use serde::Serialize;
use zeroize::Zeroizing;

use super::super::layout::Layout;
use crate::crypto::Key;
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

/// The secrets sealed for this app; `None` when it has none.
///
/// # Errors
/// Refused when they do not open: another host's key, another app's file, damage.
pub(crate) fn load(layout: &Layout, key: &Key, id: &AppId) -> Result<Option<Secrets>> {
    let path = layout.secrets(id);
    let Some(sealed) = disk::read_if_there(&path, 2 * MAX_BOOTSTRAP as u64)? else { return Ok(None) };
    let plain = key.open(&sealed, &bound_to(id)).ok_or_else(|| {
        Error::new(Kind::Refused, format!("{} does not open under this server's key", path.display()))
            .hint("deploy again: the secrets are sent anew")
    })?;
    serde_json::from_slice(&plain).context(|| format!("understand {}", path.display())).map(Some)
}

pub(crate) fn save(layout: &Layout, key: &Key, id: &AppId, secrets: Option<&Secrets>) -> Result<()> {
    let path = layout.secrets(id);
    let Some(secrets) = secrets else {
        return match std::fs::remove_file(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => {
                Err(e).context(|| format!("remove {}", path.display()))
            }
            _ => Ok(()),
        };
    };
    let plain = json(secrets, room(secrets))?;
    disk::write_atomic(&path, &key.seal(&plain, &bound_to(id))?, 0o600)
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
        assert!(load(&layout, &key, &a).unwrap().is_none());
        save(&layout, &key, &a, Some(&some())).unwrap();
        assert_eq!(load(&layout, &key, &a).unwrap().unwrap().values, some().values);
        let sealed = std::fs::read(layout.secrets(&a)).unwrap();
        assert!(!sealed.windows(3).any(|w| w == b"KEY"));
        std::fs::copy(layout.secrets(&a), layout.secrets(&b)).unwrap();
        assert_eq!(load(&layout, &key, &b).unwrap_err().kind(), Kind::Refused);
        assert_eq!(load(&layout, &Key::random().unwrap(), &a).unwrap_err().kind(), Kind::Refused);
        save(&layout, &key, &a, None).unwrap();
        assert!(load(&layout, &key, &a).unwrap().is_none());
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
