//! Helper: the one thread that waits for disks, so that no loop does.
//!
//! A worker asks for a conn, and goes on; the answer lies in the worker's box when its bell rings. It is not joined at
//! the end: a disk that hangs must not keep the proxy from stopping. It ends by itself when nobody can ask any more.
//!
//! **Invariant**: a question that was taken is answered once. A conn asks one at a time, so boxes hold no more answers
//! than there are conns and [`MAX_JOBS`].

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::SystemTime;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use mio::Waker;

use super::PIECE;
use super::asset::Variant;
use super::open::{Opener, Seen};
use super::root::Root;
use crate::error::{Context, Result};
use crate::proxy::token::Key;

/// Questions that wait. More than this is some seconds of work for a slow disk, and no client waits for so long.
const MAX_JOBS: usize = 4096;

/// How workers reach it.
pub(in crate::proxy) struct Helper {
    jobs: Sender<(usize, Key, Job)>,
    boxes: Vec<Receiver<(Key, Done)>>,
    /// Workers take no look of their own, as if nothing were cached.
    #[cfg(test)]
    pub all_is_cold: std::sync::atomic::AtomicBool,
}

pub(super) enum Job {
    Look { root: Root, name: Box<[u8]> },
    Read { variant: Arc<Variant>, at: u64, length: usize },
}

pub(in crate::proxy) enum Done {
    Looked { root: u64, name: Box<[u8]>, seen: Seen },
    Read { at: u64, bytes: io::Result<Vec<u8>> },
}

impl Helper {
    /// One bell for each worker.
    pub fn start(bells: Arc<[Waker]>) -> Result<Self> {
        let (jobs, asked) = bounded(MAX_JOBS);
        let (to, boxes): (Vec<_>, Vec<_>) = bells.iter().map(|_| unbounded()).unzip(); // bounded by the questions
        let thread = std::thread::Builder::new().name("proxy-disk".into());
        thread.spawn(move || run(&asked, &to, &bells)).context(|| "start the thread proxy-disk".into())?;
        Ok(Helper {
            jobs,
            boxes,
            #[cfg(test)]
            all_is_cold: Default::default(),
        })
    }

    /// The box of a worker.
    pub fn answers(&self, worker: usize) -> Receiver<(Key, Done)> {
        self.boxes[worker].clone()
    }

    /// False when there are too many questions already.
    pub(super) fn ask(&self, worker: usize, conn: Key, job: Job) -> bool {
        self.jobs.try_send((worker, conn, job)).is_ok()
    }
}

fn run(asked: &Receiver<(usize, Key, Job)>, to: &[Sender<(Key, Done)>], bells: &[Waker]) {
    let mut opener = Opener::of_the_helper();
    for (worker, conn, job) in asked {
        let done = match job {
            Job::Look { root, name } => {
                let seen = opener.look(&root, &name, SystemTime::now());
                Done::Looked { root: root.id(), name, seen }
            }
            Job::Read { variant, at, length } => Done::Read { at, bytes: read(&variant, at, length) },
        };
        // A worker that is gone needs no answer.
        if to[worker].send((conn, done)).is_ok()
            && let Err(e) = bells[worker].wake()
        {
            log::error!("wake a proxy worker: {e}"); // it will look at its next event
        }
    }
}

/// One piece, whatever the disk takes for it. Empty at the end of the file.
fn read(variant: &Variant, at: u64, length: usize) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; length.min(PIECE)];
    loop {
        match rustix::io::pread(variant.file.as_fd(), &mut bytes, at) {
            Ok(n) => {
                bytes.truncate(n);
                return Ok(bytes);
            }
            Err(rustix::io::Errno::INTR) => {}
            Err(e) => return Err(e.into()),
        }
    }
}
