//! The files of a user, as written: `tako.toml`, the server inventory, the secrets vault.
//!
//! Reading order: `section` reads TOML with places, `problem` tells what is wrong at a place; `tako_toml` and
//! `inventory` are files read that way, `places` and `transport` more sections of the latter, by `settings`; `edit` writes into them
//! without touching what is not ours, `alone` one process at a time; `vault` keeps secrets, `keyring` their keys, and
//! `dotenv` reads those of others.

pub(crate) mod problem;
pub(crate) mod section;
pub(crate) mod edit;
pub(crate) mod tako_toml;
pub(crate) mod inventory;
mod settings;
pub(crate) mod ssh_option;
pub(crate) mod places;
pub(crate) mod transport;
pub(crate) mod alone;
pub(crate) mod keyring;
pub(crate) mod vault;
pub(crate) mod dotenv;
