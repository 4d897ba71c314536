//! The files of a user, as written: `tako.toml`, the server inventory, the secrets vault.

pub(crate) mod inventory;
pub(crate) mod vault;
