//! Arguments as typed: the command table, the parser by `lexopt`, did-you-mean.

use crate::error::Result;

/// One command's arguments, checked against its row of the command table.
pub(crate) struct Args {}

impl Args {
    /// Whether `--name` was given.
    pub fn flag(&self, _name: &str) -> bool {
        unimplemented!()
    }

    /// The value of `--name VALUE`.
    pub fn value(&self, _name: &str) -> Option<&str> {
        unimplemented!()
    }

    /// The value of `--name VALUE`, parsed.
    ///
    /// # Errors
    /// Usage, naming the flag and what it takes.
    pub fn parsed<T: std::str::FromStr>(&self, _name: &str) -> Result<Option<T>> {
        unimplemented!()
    }

    /// The positional arguments; the table says how many there may be.
    pub fn positional(&self, _index: usize) -> Option<&str> {
        unimplemented!()
    }
}
