//! Vault: a project's secrets in `.tako/secrets`, names in clear, values sealed with the environment's key.
//!
//! The file is made to be committed: one secret a line, sorted, so that a change shows as a change of one line. Every
//! value is bound to its app, environment and name, so that nobody who can write the file can move one elsewhere. The
//! keys stay on this machine, below `keys/` of the user's own folder, or come from `TAKO_SECRETS_KEY_<ENV>`.
//!
//! **Invariant**: all values of an environment open with one key. A value is never sealed with a key that does not
//! open the others.

#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::env;
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use crate::cli::project::is_reserved;
use crate::crypto::{KEY_LEN, Key};
use crate::disk::{make_dirs, private_dir, read_if_there, write_atomic};
use crate::error::{Error, Kind, Result};
use crate::proto::control::Secrets;
use crate::proto::name::{AppName, EnvName};
use crate::proto::paths;

/// Longest value in bytes; certificates with their chains fit many times.
pub(crate) const MAX_VALUE: usize = 64 << 10;
/// All names and values of an environment, in bytes: they travel in one message and lie in one pipe.
pub(crate) const MAX_ALL: usize = 400 << 10;
/// A dozen environments full of secrets.
const MAX_FILE: u64 = 8 << 20;
const MAX_NAME: usize = 128;
const FORMAT: u32 = 1;

pub(crate) struct Vault {
    path: PathBuf,
    /// The folder of the keys of this app.
    keys: PathBuf,
    app: AppName,
    /// How to look up an environment variable.
    var: fn(&str) -> Option<String>,
    stored: Stored,
}

/// The file.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stored {
    format: u32,
    /// By environment, then by name: the sealed value in base64.
    envs: BTreeMap<EnvName, BTreeMap<String, String>>,
}

impl Vault {
    /// An absent file is an empty vault.
    pub fn load(project: &Path, app: &AppName) -> Result<Vault> {
        Vault::load_with(project, app, &paths::home()?)
    }

    fn load_with(project: &Path, app: &AppName, home: &Path) -> Result<Vault> {
        let path = project.join(".tako/secrets");
        let stored = match read_if_there(&path, MAX_FILE)? {
            Some(bytes) => read(&bytes)?,
            None => Stored { format: FORMAT, envs: BTreeMap::new() },
        };
        Ok(Vault {
            path,
            keys: home.join("keys").join(app.as_str()),
            app: app.clone(),
            var: |name| env::var(name).ok(),
            stored,
        })
    }

    /// All secrets of `env`, opened, with their keyed hash. An env without secrets gives an empty set.
    ///
    /// # Errors
    /// Config when the key of `env` is not on this machine, or a value does not open with it.
    pub fn open(&self, env: &EnvName) -> Result<Secrets> {
        let Some(sealed) = self.stored.envs.get(env).filter(|s| !s.is_empty()) else {
            return Ok(Secrets { hash: String::new(), values: BTreeMap::new() });
        };
        let key = self.key(env)?.ok_or_else(|| self.no_key(env))?;
        let mut values = BTreeMap::new();
        for (name, value) in sealed {
            values.insert(name.clone(), self.open_one(&key, env, name, value)?);
        }
        check_total(&values)?;
        Ok(Secrets { hash: hash(&key, &values), values })
    }

    /// Names that another environment has and `env` lacks, with that environment.
    pub fn missing(&self, env: &EnvName) -> Vec<(String, EnvName)> {
        let mut missing: BTreeMap<&str, &EnvName> = BTreeMap::new();
        for (other, names) in &self.stored.envs {
            for name in names.keys().filter(|name| !self.has(env, name)) {
                missing.entry(name).or_insert(other);
            }
        }
        missing.into_iter().map(|(name, other)| (name.into(), other.clone())).collect()
    }

    /// Every name with the environments that have it.
    pub fn presence(&self) -> BTreeMap<String, Vec<EnvName>> {
        let mut presence: BTreeMap<String, Vec<EnvName>> = BTreeMap::new();
        for (env, names) in &self.stored.envs {
            for name in names.keys() {
                presence.entry(name.clone()).or_default().push(env.clone());
            }
        }
        presence
    }

    pub fn has(&self, env: &EnvName, name: &str) -> bool {
        self.stored.envs.get(env).is_some_and(|names| names.contains_key(name))
    }

    /// Sets a value, making the environment's key if this is its first secret. Whether a new key was made.
    ///
    /// # Errors
    /// Refused for a value that is empty, too long or no environment variable; Config when the key of `env` is not on
    /// this machine or is not the one of the other values.
    pub fn set(&mut self, env: &EnvName, name: &str, value: &str) -> Result<bool> {
        check_name(name)?;
        check_value(name, value)?;
        let mut values = self.open(env)?.values;
        values.insert(name.into(), Zeroizing::new(value.into()));
        check_total(&values)?;

        let (key, new) = match self.key(env)? {
            Some(key) => (key, false),
            None => (self.make_key(env)?, true),
        };
        let sealed = key.seal(value.as_bytes(), &self.place(env, name))?;
        self.stored.envs.entry(env.clone()).or_default().insert(name.into(), STANDARD.encode(sealed));
        Ok(new)
    }

    /// Whether it was there. Needs no key.
    pub fn remove(&mut self, env: &EnvName, name: &str) -> bool {
        let Some(names) = self.stored.envs.get_mut(env) else { return false };
        let was_there = names.remove(name).is_some();
        if names.is_empty() {
            self.stored.envs.remove(env);
        }
        was_there
    }

    pub fn save(&self) -> Result<()> {
        if let Some(dir) = self.path.parent() {
            make_dirs(dir, 0o755)?;
        }
        let mut text = serde_json::to_vec_pretty(&self.stored)
            .map_err(|e| Error::new(Kind::Bug, "write the secrets").because(e))?;
        text.push(b'\n');
        // Readable like any other file of the repository: there is nothing in clear but names.
        write_atomic(&self.path, &text, 0o644)
    }

    /// Where the key of `env` lies.
    pub fn key_path(&self, env: &EnvName) -> PathBuf {
        self.keys.join(format!("{env}.key"))
    }

    fn key(&self, env: &EnvName) -> Result<Option<Key>> {
        let variable = key_variable(env);
        let (text, from) = match (self.var)(&variable).filter(|text| !text.is_empty()) {
            Some(text) => (Zeroizing::new(text), variable),
            None => {
                let path = self.key_path(env);
                let Some(bytes) = read_if_there(&path, 1024)? else { return Ok(None) };
                (Zeroizing::new(String::from_utf8(bytes).unwrap_or_default()), path.display().to_string())
            }
        };
        let bytes = STANDARD.decode(text.trim()).map(Zeroizing::new).ok();
        match bytes.and_then(|bytes| Key::from_bytes(&bytes)) {
            Some(key) => Ok(Some(key)),
            None => Err(Error::new(Kind::Config, format!("{from} does not hold a key"))
                .hint(format!("a key is {KEY_LEN} bytes in base64, as the one who set the secrets has it"))),
        }
    }

    fn make_key(&self, env: &EnvName) -> Result<Key> {
        let key = Key::random()?;
        if let Some(keys) = self.keys.parent() {
            private_dir(keys)?;
        }
        private_dir(&self.keys)?;
        let text = Zeroizing::new(STANDARD.encode(key.as_bytes()) + "\n");
        write_atomic(&self.key_path(env), text.as_bytes(), 0o600)?;
        Ok(key)
    }

    fn open_one(&self, key: &Key, env: &EnvName, name: &str, sealed: &str) -> Result<Zeroizing<String>> {
        let fail = |why: &str| {
            Error::new(Kind::Config, format!("the secret {name} of {env} {why}")).hint(format!(
                "get the key it was set with as {}; if the app was renamed, set its secrets anew",
                self.key_path(env).display()
            ))
        };
        let sealed = STANDARD.decode(sealed).map_err(|_| fail("is damaged"))?;
        let value =
            key.open(&sealed, &self.place(env, name)).ok_or_else(|| fail("does not open with the key that is here"))?;
        match std::str::from_utf8(&value) {
            Ok(text) => Ok(Zeroizing::new(text.into())),
            Err(_) => Err(fail("is not UTF-8")),
        }
    }

    fn no_key(&self, env: &EnvName) -> Error {
        Error::new(Kind::Config, format!("the key of the secrets of {env} is not on this machine")).hint(format!(
            "put the key of the one who set them into {} or {}",
            self.key_path(env).display(),
            key_variable(env)
        ))
    }

    /// What a value is bound to. None of the three can hold a `/`.
    fn place(&self, env: &EnvName, name: &str) -> Vec<u8> {
        format!("{}/{env}/{name}", self.app).into_bytes()
    }
}

/// The environment variable that overrides the key file: `TAKO_SECRETS_KEY_PRODUCTION`.
fn key_variable(env: &EnvName) -> String {
    format!("TAKO_SECRETS_KEY_{}", env.as_str().to_ascii_uppercase().replace('-', "_"))
}

/// # Errors
/// Config, with the rule.
pub(crate) fn check_name(name: &str) -> Result<()> {
    if !is_name(name) {
        let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
        return Err(Error::new(Kind::Config, format!("`{shown}` is not a valid name for a secret"))
            .hint("use capital letters, digits and `_`, such as API_KEY"));
    }
    match is_reserved(name) {
        true => Err(Error::new(Kind::Config, format!("{name} is set by Tako itself")).hint("choose another name")),
        false => Ok(()),
    }
}

fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

fn check_value(name: &str, value: &str) -> Result<()> {
    let fail =
        |why: String, hint: &str| Err(Error::new(Kind::Refused, format!("the value of {name} {why}")).hint(hint));
    if value.is_empty() {
        return fail("is empty".into(), "to remove a secret run `tako secrets rm`");
    }
    if value.len() > MAX_VALUE {
        return fail(format!("is longer than {} KiB", MAX_VALUE >> 10), "large data belongs into a file on the server");
    }
    if value.contains('\0') {
        return fail("holds a zero byte".into(), "encode it, for example in base64");
    }
    Ok(())
}

fn check_total(values: &BTreeMap<String, Zeroizing<String>>) -> Result<()> {
    let all: usize = values.iter().map(|(name, value)| name.len() + value.len()).sum();
    match all <= MAX_ALL {
        true => Ok(()),
        false => Err(Error::new(Kind::Refused, format!("the secrets are larger than {} KiB together", MAX_ALL >> 10))
            .hint("large data belongs into a file on the server")),
    }
}

/// Keyed, so that it tells nothing without the key; every field with its length before it, so that no two sets look
/// the same.
fn hash(key: &Key, values: &BTreeMap<String, Zeroizing<String>>) -> String {
    let mut message = Zeroizing::new(b"tako secrets 1".to_vec());
    for (name, value) in values {
        for field in [name.as_bytes(), value.as_bytes()] {
            message.extend_from_slice(&(field.len() as u64).to_be_bytes());
            message.extend_from_slice(field);
        }
    }
    key.sign(&message)
}

fn read(bytes: &[u8]) -> Result<Stored> {
    let damaged = |why: String| {
        Error::new(Kind::Config, format!("read .tako/secrets: {why}"))
            .hint("restore the file from version control; after a merge keep both sides' lines and valid JSON")
    };
    let stored: Stored = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if stored.format != FORMAT {
        return Err(Error::new(
            Kind::Config,
            format!(".tako/secrets has format {}, this version reads {FORMAT}", stored.format),
        )
        .hint("update tako"));
    }
    // A name that became Tako's own later can still be read, and removed.
    if let Some(name) = stored.envs.values().flat_map(BTreeMap::keys).find(|name| !is_name(name)) {
        return Err(damaged(format!("`{}` is no name for a secret", name.escape_debug())));
    }
    Ok(stored)
}
