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
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

use super::alone::alone_in;
use super::keyring::{Found, Keyring};
use crate::cli::project::is_reserved;
use crate::crypto::Key;
use crate::disk::{make_dirs, read_if_there, write_atomic};
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
    pub keys: Keyring,
    app: AppName,
    stored: Stored,
}

/// What became of values that were set.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Changes {
    pub added: Vec<String>,
    pub changed: Vec<String>,
    /// They had these values already; not a byte of theirs is written anew.
    pub same: Vec<String>,
    /// The environment had no key before.
    pub new_key: bool,
}

/// The file.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
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
        Ok(Vault { path, keys: Keyring::new(app, home), app: app.clone(), stored })
    }

    /// Reads, changes and saves as one step, which waits for that of another process.
    ///
    /// # Errors
    /// Those of `change`: then nothing is saved. Busy when the other process does not end.
    pub fn edit<T>(project: &Path, app: &AppName, change: impl FnOnce(&mut Vault) -> Result<T>) -> Result<T> {
        Vault::edit_with(project, app, &paths::home()?, change)
    }

    fn edit_with<T>(
        project: &Path,
        app: &AppName,
        home: &Path,
        change: impl FnOnce(&mut Vault) -> Result<T>,
    ) -> Result<T> {
        let dir = project.join(".tako");
        make_dirs(&dir, 0o755)?;
        let _alone = alone_in(&dir)?;
        let mut vault = Vault::load_with(project, app, home)?;
        let before = vault.stored.clone();
        let changed = change(&mut vault)?;
        if vault.stored != before {
            vault.save()?;
        }
        Ok(changed)
    }

    /// All secrets of `env`, opened, with their keyed hash. An env without secrets gives an empty set.
    ///
    /// # Errors
    /// Config when the key of `env` is not on this machine, or a value does not open with it.
    pub fn open(&self, env: &EnvName) -> Result<Secrets> {
        let Some(sealed) = self.stored.envs.get(env).filter(|s| !s.is_empty()) else {
            return Ok(Secrets { hash: String::new(), values: BTreeMap::new() });
        };
        let found = self.keys.find(env)?.ok_or_else(|| self.keys.missing(env))?;
        let mut values = BTreeMap::new();
        for (name, value) in sealed {
            values.insert(name.clone(), self.open_one(&found, env, name, value)?);
        }
        check_total(&values)?;
        Ok(Secrets { hash: hash(&found.key, env, &values), values })
    }

    /// The key of `env`, for somebody else to use.
    ///
    /// # Errors
    /// Config when it is not on this machine, or does not open what is here.
    pub fn key(&self, env: &EnvName) -> Result<Key> {
        let has_secrets = self.stored.envs.contains_key(env);
        match self.keys.find(env)? {
            Some(found) => self.try_key(env, &found).map(|_| found.key),
            None if has_secrets => Err(self.keys.missing(env)),
            None => Err(Error::new(Kind::Config, format!("{env} has no key yet"))
                .hint(format!("its first secret makes one: `tako secrets set NAME --env {env}`"))),
        }
    }

    /// Whether there was a value to try it on.
    ///
    /// # Errors
    /// Config when it does not open all values of `env`.
    pub fn try_key(&self, env: &EnvName, found: &Found) -> Result<bool> {
        let sealed = self.stored.envs.get(env);
        for (name, value) in sealed.into_iter().flatten() {
            self.open_one(found, env, name, value)?;
        }
        Ok(sealed.is_some_and(|names| !names.is_empty()))
    }

    /// Names that another environment has and `env` lacks, with that environment. What only development has is nobody's
    /// business but the developers'.
    pub fn missing(&self, env: &EnvName) -> Vec<(String, EnvName)> {
        let mut missing: BTreeMap<&str, &EnvName> = BTreeMap::new();
        let others = self.stored.envs.iter().filter(|(other, _)| !other.is_development());
        for (other, names) in others {
            for name in names.keys().filter(|name| !self.has(env, name)) {
                missing.entry(name).or_insert(other);
            }
        }
        missing.into_iter().map(|(name, other)| (name.into(), other.clone())).collect()
    }

    /// Names that `env` has and another environment lacks, as what was forgotten there shows before it is deployed.
    pub fn extra(&self, env: &EnvName) -> Vec<(String, EnvName)> {
        let others = self.stored.envs.keys().filter(|other| *other != env && !other.is_development());
        let lacking = others.flat_map(|other| self.missing(other).into_iter().map(move |(name, _)| (name, other)));
        let mut extra: BTreeMap<String, EnvName> = BTreeMap::new();
        for (name, other) in lacking.filter(|(name, _)| self.has(env, name)) {
            extra.entry(name).or_insert_with(|| other.clone());
        }
        extra.into_iter().collect()
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

    /// Sets all of these or none, making the environment's key if they are its first secrets.
    ///
    /// # Errors
    /// Refused for a value that is empty, too long or no environment variable; Config when the key of `env` is not on
    /// this machine or is not the one of the other values.
    pub fn set(&mut self, env: &EnvName, new: &BTreeMap<String, Zeroizing<String>>) -> Result<Changes> {
        for (name, value) in new {
            check_name(name)?;
            check_value(name, value)?;
        }
        let mut values = self.open(env)?.values;
        let mut changes = Changes::default();
        for (name, value) in new {
            let list = match values.insert(name.clone(), value.clone()) {
                None => &mut changes.added,
                Some(before) if before == *value => &mut changes.same,
                Some(_) => &mut changes.changed,
            };
            list.push(name.clone());
        }
        check_total(&values)?;
        let key = match self.keys.find(env)? {
            Some(found) => found.key,
            None => {
                changes.new_key = true;
                let key = Key::random()?;
                self.keys.put(env, &key)?;
                key
            }
        };
        let mut sealed = BTreeMap::new();
        for name in changes.added.iter().chain(&changes.changed) {
            let value = key.seal(new[name].as_bytes(), &self.place(env, name))?;
            sealed.insert(name.clone(), STANDARD.encode(value));
        }
        self.stored.envs.entry(env.clone()).or_default().append(&mut sealed);
        Ok(changes)
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

    fn save(&self) -> Result<()> {
        let mut text = serde_json::to_vec_pretty(&self.stored)
            .map_err(|e| Error::new(Kind::Bug, "write the secrets").because(e))?;
        text.push(b'\n');
        // Readable like any other file of the repository: there is nothing in clear but names.
        write_atomic(&self.path, &text, 0o644)
    }

    fn open_one(&self, found: &Found, env: &EnvName, name: &str, sealed: &str) -> Result<Zeroizing<String>> {
        let Found { key, from } = found;
        let fail = |why: &str| {
            Error::new(Kind::Config, format!("the secret {name} of {env} {why}")).hint(
                "get the key it was set with: `tako secrets key export` prints it where it is; if the app was renamed, \
                 set its secrets anew",
            )
        };
        let sealed = STANDARD.decode(sealed).map_err(|_| fail("is damaged"))?;
        let value = key
            .open(&sealed, &self.place(env, name))
            .ok_or_else(|| fail(&format!("does not open with the key in {from}")))?;
        match std::str::from_utf8(&value) {
            Ok(text) => Ok(Zeroizing::new(text.into())),
            Err(_) => Err(fail("is not UTF-8")),
        }
    }

    /// What a value is bound to. None of the three can hold a `/`.
    fn place(&self, env: &EnvName, name: &str) -> Vec<u8> {
        format!("{}/{env}/{name}", self.app).into_bytes()
    }
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

pub(super) fn is_name(name: &str) -> bool {
    (1..=MAX_NAME).contains(&name.len())
        && name.starts_with(|c: char| c.is_ascii_uppercase() || c == '_')
        && name.bytes().all(|b| b.is_ascii_uppercase() || b.is_ascii_digit() || b == b'_')
}

pub(crate) fn check_value(name: &str, value: &str) -> Result<()> {
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
fn hash(key: &Key, env: &EnvName, values: &BTreeMap<String, Zeroizing<String>>) -> String {
    let size: usize = values.iter().map(|(name, value)| 16 + name.len() + value.len()).sum();
    // Room for all of it at once: growing would leave copies behind.
    let mut message = Zeroizing::new(Vec::with_capacity(64 + env.as_str().len() + size));
    message.extend_from_slice(b"tako secrets 2");
    message.extend_from_slice(&(env.as_str().len() as u64).to_be_bytes());
    message.extend_from_slice(env.as_str().as_bytes());
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
