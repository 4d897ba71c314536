//! Take: what an installer made in one release is copied into another, node by node and by the record alone.
//!
//! Always a copy, which costs no room where the file system shares what is equal (Btrfs, XFS: `copy_file_range`). Never a
//! hard link: the file would belong to two releases, and when one of them is lent to its app's user for an installation
//! (`owner::lend`) that user could write into the other, which may be running.
//!
//! **Invariant**: nothing is copied that is not as it was recorded, also while it is copied; and what is there in the new
//! release is neither written over nor added to.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};

use super::Doubt;
use super::made::rewritten;
use super::record::Record;
use super::tree::{Listing, Node, Stamp, Tree};

/// Copies it; what is there afterwards is in `made`, also when that is not all of it. `places` are the paths of the old
/// release with that of the new one, `is_over` is asked now and then.
pub(super) fn take(
    from: &Tree,
    to: &Tree,
    record: &Record,
    places: &BTreeMap<String, String>,
    is_over: &dyn Fn() -> bool,
    made: &mut Listing,
) -> Result<(), Doubt> {
    let mentions: BTreeSet<&str> = record.head.mention.iter().map(String::as_str).collect();
    for (path, node) in &record.made {
        if is_over() {
            return Err(Doubt("nobody waits for it any more".into()));
        }
        match node {
            Node::Folder { mode } => {
                to.make_folder(path, *mode)?;
                made.insert(path.clone(), node.clone());
            }
            Node::Link(target) => {
                if from.link(path)? != *target {
                    return Err(Doubt(format!("{path} leads elsewhere by now")));
                }
                to.make_link(path, target)?;
                made.insert(path.clone(), node.clone());
            }
            Node::File(stamp) => {
                check(from, path, *stamp)?;
                let new = copy(from, to, path, *stamp, mentions.contains(path.as_str()).then_some(places))?;
                made.insert(path.clone(), Node::File(new));
                // Nothing hinders an app that runs as we do from writing in the meantime.
                check(from, path, *stamp)?;
            }
            Node::Other => return Err(Doubt(format!("{path} cannot be copied"))),
        }
    }
    Ok(())
}

/// What to remove to be rid of all that was copied.
pub(super) fn tops(made: &Listing) -> impl Iterator<Item = &str> {
    let is_top = |path: &&String| path.rsplit_once('/').is_none_or(|(folder, _)| !made.contains_key(folder));
    made.keys().filter(is_top).map(String::as_str)
}

fn check(from: &Tree, path: &str, stamp: Stamp) -> Result<(), Doubt> {
    match from.file(path)?.1 == stamp {
        true => Ok(()),
        false => Err(Doubt(format!("{path} was written to since it was installed"))),
    }
}

/// With `places` those are replaced in it.
fn copy(
    from: &Tree,
    to: &Tree,
    path: &str,
    stamp: Stamp,
    places: Option<&BTreeMap<String, String>>,
) -> Result<Stamp, Doubt> {
    let (file, _) = from.file(path)?;
    to.make_file(path, stamp.mode, |new| match places {
        Some(places) => {
            let mut text = Vec::new();
            file.take(stamp.size).read_to_end(&mut text)?;
            new.write_all(&rewritten(&text, places))
        }
        // The kernel copies, where it can by sharing.
        None => match io::copy(&mut file.take(stamp.size), new)? == stamp.size {
            true => Ok(()),
            false => Err(io::ErrorKind::UnexpectedEof.into()),
        },
    })
}
