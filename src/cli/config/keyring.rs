//! Keyring: the keys that open an app's secrets, one for each environment: a file below `keys/` of the user's own folder,
//! or the variable `TAKO_SECRETS_KEY_<ENV>`, which comes first.
//!
//! It never knows what a key opens: that is the vault's.
//!
//! **Invariant**: a key lies in a file of 0600 in a folder of 0700, and is never part of an error.

use std::env;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use zeroize::Zeroizing;

use crate::crypto::{KEY_LEN, Key};
use crate::disk::{private_dir, read_if_there, write_atomic};
use crate::error::{Error, Kind, Result};
use crate::proto::name::{AppName, EnvName};

/// A key in base64 is 44 characters.
pub(crate) const MAX_TEXT: u64 = 1024;

pub(crate) struct Keyring {
    /// The folder of the keys of this app.
    dir: PathBuf,
    /// How to look up an environment variable.
    pub var: fn(&str) -> Option<String>,
}

/// A key, and where it was found.
pub(crate) struct Found {
    pub key: Key,
    /// A variable or a file.
    pub from: String,
}

impl Keyring {
    pub fn new(app: &AppName, home: &Path) -> Keyring {
        Keyring { dir: home.join("keys").join(app.as_str()), var: |name| env::var(name).ok() }
    }

    /// Where the key of `env` lies.
    pub fn path(&self, env: &EnvName) -> PathBuf {
        self.dir.join(format!("{env}.key"))
    }

    /// # Errors
    /// Config, naming the variable or the file that holds something else.
    pub fn find(&self, env: &EnvName) -> Result<Option<Found>> {
        let variable = variable(env);
        match (self.var)(&variable).filter(|text| !text.is_empty()).map(Zeroizing::new) {
            Some(text) => Ok(Some(Found { key: parse(&text, &variable)?, from: variable })),
            None => {
                let from = self.path(env).display().to_string();
                Ok(self.in_file(env)?.map(|key| Found { key, from }))
            }
        }
    }

    /// That of the file, whatever the variable says.
    pub fn in_file(&self, env: &EnvName) -> Result<Option<Key>> {
        let path = self.path(env);
        let Some(bytes) = read_if_there(&path, MAX_TEXT)? else { return Ok(None) };
        let bytes = Zeroizing::new(bytes);
        parse(std::str::from_utf8(&bytes).unwrap_or_default(), &path.display().to_string()).map(Some)
    }

    /// Replaces the one in the file.
    pub fn put(&self, env: &EnvName, key: &Key) -> Result<()> {
        if let Some(keys) = self.dir.parent() {
            private_dir(keys)?;
        }
        private_dir(&self.dir)?;
        write_atomic(&self.path(env), text(key).as_bytes(), 0o600)
    }

    /// There is none, and these are the ways to get it.
    pub fn missing(&self, env: &EnvName) -> Error {
        let lines = vec![
            format!(
                "`tako secrets key export --env {env}` where it is, and `tako secrets key import --env {env}` here"
            ),
            format!("or a copy of the file itself, as {}", self.path(env).display()),
            format!("or the variable {}, as in CI", variable(env)),
        ];
        Error::new(Kind::Config, format!("the key of the secrets of {env} is not on this machine"))
            .with_detail(lines)
            .hint("get it from whoever set the secrets, in one of these ways")
    }
}

/// The environment variable that overrides the key file: `TAKO_SECRETS_KEY_PRODUCTION`.
pub(crate) fn variable(env: &EnvName) -> String {
    format!("TAKO_SECRETS_KEY_{}", env.as_str().to_ascii_uppercase().replace('-', "_"))
}

/// A line as [`parse`] reads it.
pub(crate) fn text(key: &Key) -> Zeroizing<String> {
    // Room for all of it at once: growing would leave a copy behind.
    let mut text = Zeroizing::new(String::with_capacity(KEY_LEN * 2));
    STANDARD.encode_string(key.as_bytes(), &mut text);
    text.push('\n');
    text
}

/// `from` is where the text was found.
///
/// # Errors
/// Config.
pub(crate) fn parse(text: &str, from: &str) -> Result<Key> {
    let bytes = STANDARD.decode(text.trim()).map(Zeroizing::new).ok();
    bytes.and_then(|bytes| Key::from_bytes(&bytes)).ok_or_else(|| {
        Error::new(Kind::Config, format!("{from} does not hold a key"))
            .hint(format!("a key is {KEY_LEN} bytes in base64, as `tako secrets key export` prints it"))
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn env_name(name: &str) -> EnvName {
        EnvName::parse(name).unwrap()
    }

    #[test]
    fn a_key_is_private_and_read_as_it_was_put() {
        let home = tempfile::tempdir().unwrap();
        let ring = Keyring::new(&AppName::parse("shop").unwrap(), home.path());
        let (env, key) = (env_name("production"), Key::random().unwrap());
        assert!(ring.in_file(&env).unwrap().is_none());
        ring.put(&env, &key).unwrap();
        assert_eq!(ring.in_file(&env).unwrap().unwrap().as_bytes(), key.as_bytes());
        assert!(ring.find(&env_name("staging")).unwrap().is_none());
        let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let (file, dir) = (ring.path(&env), home.path().join("keys/shop"));
        assert_eq!((mode(&file), mode(&dir), mode(dir.parent().unwrap())), (0o600, 0o700, 0o700));
    }

    #[test]
    fn what_is_no_key_is_told_by_where_it_is_and_not_by_what_it_is() {
        assert_eq!(variable(&env_name("pre-prod")), "TAKO_SECRETS_KEY_PRE_PROD");
        let key = Key::random().unwrap();
        assert_eq!(parse(&format!(" {}\r\n", &*text(&key)), "x").unwrap().as_bytes(), key.as_bytes());
        for bad in ["", "hunter2", "aHVudGVyMg==", &STANDARD.encode([7; 31]), &STANDARD.encode([7; 33]), "é"] {
            let error = parse(bad, "TAKO_SECRETS_KEY_QA").unwrap_err();
            assert_eq!(
                (error.kind(), error.to_string().as_str()),
                (Kind::Config, "TAKO_SECRETS_KEY_QA does not hold a key")
            );
            assert!(bad.is_empty() || !error.next_step().unwrap().contains(bad));
        }
    }
}
