//! One section of `~/.tako/config.toml`. The others belong to others, who find out themselves what is wrong there.

use std::path::Path;

use super::edit::without_bom;
use super::problem::report;
use super::section::{Problems, Section, parse};
use crate::disk::read_if_there;
use crate::error::{Error, Kind, Result};

pub(super) const FILE: &str = "config.toml";
/// Far beyond what a person writes.
const MAX_FILE: u64 = 1 << 20;

/// What `read` makes of the section `name`; `None` where there is none.
///
/// # Errors
/// Config, with file, line and fix.
pub(super) fn section<T>(
    home: &Path,
    name: &'static str,
    read: impl FnOnce(Section<'_>, &Problems) -> T,
) -> Result<Option<T>> {
    let path = home.join(FILE);
    let bytes = read_if_there(&path, MAX_FILE)?.unwrap_or_default();
    let text = String::from_utf8(bytes).map_err(|_| {
        Error::new(Kind::Config, format!("{} is not UTF-8", path.display())).hint("save the file as UTF-8")
    })?;
    let text = without_bom(&text);
    let fail = |problems| report(&path.display().to_string(), text, problems).map_or(Ok(()), Err);
    let document = match parse(text) {
        Ok(document) => document,
        Err(problem) => return fail(vec![problem]).map(|()| None),
    };
    let problems = Problems::default();
    let found = Section::root(&document, &problems).section(name).map(|section| read(section, &problems));
    fail(problems.into_vec())?;
    Ok(found)
}
