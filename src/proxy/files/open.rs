//! Open: from a name below a root to an open file, confined by the kernel.
//!
//! `openat2` resolves below the root and through no link at all: a link could give a hidden file a harmless name, and
//! the way without `openat2` (an old kernel, a system call filter) could not tell which links stay inside. That way
//! goes segment by segment and refuses links just the same.
//!
//! A loop asks only for what the kernel has cached (RESOLVE_CACHED, Linux 5.12); where it cannot ask so, it leaves the
//! question to the helper.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::time::SystemTime;

use rustix::fs::{FileType, Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

use super::asset::{Asset, Variant};
use super::negotiate::CODINGS;
use super::path::MAX_NAME;
use super::root::Root;
use super::{mime, path};

/// Non-blocking, because opening a pipe would wait for its other end.
const READ: OFlags =
    OFlags::RDONLY.union(OFlags::NONBLOCK).union(OFlags::NOFOLLOW).union(OFlags::NOCTTY).union(OFlags::CLOEXEC);
const CONFINED: ResolveFlags =
    ResolveFlags::BENEATH.union(ResolveFlags::NO_MAGICLINKS).union(ResolveFlags::NO_SYMLINKS);

/// What a look at the disk said.
pub(in crate::proxy) enum Seen {
    Asset(Asset),
    /// No file that is served: none, no regular one, or one that cannot be read.
    Nothing,
    /// The answer is not in the kernel's caches.
    MayBlock,
    /// Out of descriptors or memory.
    Shortage,
}

pub(super) struct Opener {
    /// Without waiting for a disk.
    cached: bool,
    /// The kernel cannot tell what it has cached.
    blind: bool,
}

impl Opener {
    pub fn of_a_loop() -> Self {
        Opener { cached: true, blind: false }
    }

    pub fn of_the_helper() -> Self {
        Opener { cached: false, blind: false }
    }

    #[cfg(test)]
    pub fn pretend(&mut self, blind: bool) {
        self.blind |= blind;
    }

    /// The file of this name and its siblings in other codings. `now` is the time of the look.
    pub fn look(&mut self, root: &Root, name: &[u8], now: SystemTime) -> Seen {
        match self.asset(root, name, now) {
            Ok(asset) => Seen::Asset(asset),
            Err(Errno::AGAIN) if self.cached => Seen::MayBlock,
            Err(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => Seen::Shortage,
            Err(_) => Seen::Nothing,
        }
    }

    fn asset(&mut self, root: &Root, name: &[u8], now: SystemTime) -> Result<Asset, Errno> {
        let kind = mime::kind(path::extension(name).unwrap_or_default());
        let (file, stat) = self.regular(root, name)?;
        let mut coded = [None, None, None];
        if kind.shrinks {
            let mut sibling = Vec::with_capacity(MAX_NAME);
            for coding in CODINGS {
                sibling.clear();
                sibling.extend_from_slice(name);
                sibling.extend_from_slice(coding.ending().as_bytes());
                coded[coding as usize] = match self.regular(root, &sibling) {
                    Ok((_, stat)) if stat.st_size == 0 => None, // no coding makes nothing of something
                    Ok(found) => Some(found),
                    Err(e @ (Errno::AGAIN | Errno::MFILE | Errno::NFILE | Errno::NOMEM)) => return Err(e),
                    Err(_) => None,
                };
            }
        }
        let varies = coded.iter().any(Option::is_some);
        let variant = |(file, stat), coding| Variant::new(file, &stat, name, kind, coding, varies, now);
        let mut codings = CODINGS.into_iter();
        let coded = coded.map(|found| codings.next().and_then(|coding| Some(variant(found?, Some(coding)))));
        Ok(Asset::new(variant((file, stat), None), coded))
    }

    fn regular(&mut self, root: &Root, name: &[u8]) -> Result<(OwnedFd, rustix::fs::Stat), Errno> {
        let file = if self.cached { self.without_waiting(root.fd(), name)? } else { beneath(root.fd(), name, READ)? };
        let stat = rustix::fs::fstat(&file)?;
        match FileType::from_raw_mode(stat.st_mode) {
            FileType::RegularFile => Ok((file, stat)),
            _ => Err(Errno::NOENT),
        }
    }

    fn without_waiting(&mut self, root: BorrowedFd<'_>, name: &[u8]) -> Result<OwnedFd, Errno> {
        if self.blind {
            return Err(Errno::AGAIN);
        }
        match rustix::fs::openat2(root, name, READ, Mode::empty(), CONFINED.union(ResolveFlags::CACHED)) {
            Err(Errno::INVAL | Errno::NOSYS | Errno::PERM) => {
                self.blind = true;
                Err(Errno::AGAIN)
            }
            result => result,
        }
    }
}

/// Opens `name` below `root`, through no link. May wait for a disk.
pub(super) fn beneath(root: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    match rustix::fs::openat2(root, name, flags, Mode::empty(), CONFINED) {
        // A system call filter says EPERM for what it does not know.
        Err(Errno::NOSYS | Errno::PERM) => by_steps(root, name, flags),
        result => result,
    }
}

/// The same without `openat2`: one folder after the other, each opened in the one before and none through a link.
pub(super) fn by_steps(root: BorrowedFd<'_>, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let (mut at, mut rest) = (None::<OwnedFd>, name);
    while let Some(slash) = memchr::memchr(b'/', rest) {
        let here = at.as_ref().map_or(root, |fd| fd.as_fd());
        at = Some(rustix::fs::openat(here, plain(&rest[..slash])?, folder, Mode::empty())?);
        rest = &rest[slash + 1..];
    }
    rustix::fs::openat(at.as_ref().map_or(root, |fd| fd.as_fd()), plain(rest)?, flags | OFlags::NOFOLLOW, Mode::empty())
}

/// A segment that leads nowhere but down.
fn plain(segment: &[u8]) -> Result<&[u8], Errno> {
    match segment {
        b"" | b"." | b".." => Err(Errno::XDEV), // as the kernel says it of a name that leads out
        segment => Ok(segment),
    }
}
