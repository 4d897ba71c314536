//! The servers a user knows: `[[servers]]` in `~/.tako/config.toml`. Comments and other sections survive edits.

use crate::error::Result;
use crate::proto::name::ServerName;
use crate::proto::target::Target;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Server {
    pub name: ServerName,
    /// A host name, an address or an alias of the user's ssh_config. Harmless as an argument: no leading dash, no
    /// white space, no `%`, no shell characters.
    pub host: String,
    /// `None` leaves it to ssh_config.
    pub port: Option<u16>,
    pub user: Option<String>,
    pub description: Option<String>,
    /// As found when the server was added.
    pub target: Option<Target>,
}

/// The inventory file, read and to be written back.
pub(crate) struct Inventory {}

impl Inventory {
    /// # Errors
    /// Config, with file, line and fix.
    pub fn load() -> Result<Inventory> {
        unimplemented!()
    }

    pub fn servers(&self) -> &[Server] {
        unimplemented!()
    }

    /// # Errors
    /// NotFound with a did-you-mean.
    pub fn find(&self, _name: &ServerName) -> Result<&Server> {
        unimplemented!()
    }

    /// Adds the server, or replaces the one of that name.
    pub fn put(&mut self, _server: Server) -> Result<()> {
        unimplemented!()
    }

    /// Whether there was one.
    pub fn remove(&mut self, _name: &ServerName) -> Result<bool> {
        unimplemented!()
    }

    pub fn save(&self) -> Result<()> {
        unimplemented!()
    }
}
