//! Root: a folder whose files are served. The control plane opens it, so the proxy needs no path and follows no rename.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::open;

/// Cheap to clone; the folder is open as long as one of the clones lives.
#[derive(Debug, Clone)]
pub(crate) struct Root(Arc<Folder>);

#[derive(Debug)]
struct Folder {
    id: u64,
    fd: OwnedFd,
}

impl Root {
    /// Opens the folder `below` in `base`. `None` when there is none, when it is no folder, or when it is reached through
    /// a link: that would let a release serve anything in it, its configuration included.
    ///
    /// # Errors
    /// Those of the kernel that are about the disk and not about the name.
    pub fn open(base: &Path, below: &Path) -> io::Result<Option<Root>> {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let opened = rustix::fs::open(base, folder, Mode::empty())
            .and_then(|base| open::beneath(base.as_fd(), below.as_os_str().as_bytes(), folder | OFlags::NOFOLLOW));
        match opened {
            Ok(fd) => Ok(Some(Root(Arc::new(Folder { id: NEXT.fetch_add(1, Ordering::Relaxed), fd })))),
            Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::XDEV) => Ok(None),
            Err(e) => Err(e.into()),
        }
    }

    /// Never used twice, so what is remembered of one folder is never taken for another's.
    pub fn id(&self) -> u64 {
        self.0.id
    }

    pub fn fd(&self) -> BorrowedFd<'_> {
        self.0.fd.as_fd()
    }
}

/// The same opened folder.
impl PartialEq for Root {
    fn eq(&self, other: &Self) -> bool {
        self.0.id == other.0.id
    }
}

impl Eq for Root {}
