//! Vault: a project's secrets in `.tako/secrets`, names in clear, values sealed with the environment's key.

use std::path::Path;

use crate::error::Result;
use crate::proto::control::Secrets;
use crate::proto::name::{AppName, EnvName};

pub(crate) struct Vault {}

impl Vault {
    /// An absent file is an empty vault.
    pub fn load(_project: &Path, _app: &AppName) -> Result<Vault> {
        unimplemented!()
    }

    /// All secrets of `env`, opened, with their keyed hash. An env without secrets gives an empty set.
    ///
    /// # Errors
    /// Config when the key of `env` is not on this machine, or a value does not open with it.
    pub fn open(&self, _env: &EnvName) -> Result<Secrets> {
        unimplemented!()
    }

    /// Names that another environment has and `env` lacks, with that environment.
    pub fn missing(&self, _env: &EnvName) -> Vec<(String, EnvName)> {
        unimplemented!()
    }
}
