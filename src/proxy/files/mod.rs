//! Files: what a release has laid out in its `public` folder is answered without asking the app.
//!
//! Pure: `path` makes a name of a request's path, `mime` and `hashed` read it, `conditional`, `range` and `negotiate`
//! read what the client wants, `asset` is a file with its fields, `head` writes them. `root` is a folder that the
//! control plane opened, `open` finds a file below it, `cache` remembers what was found, `helper` is the thread that
//! waits for disks, `send` moves the bytes. A conn uses all this from `conn::file`.
//!
//! **Invariant (confined)**: only regular files below a root are opened, by names of plain segments, through no link.
//! **Invariant (never blocks)**: a worker looks up what the kernel has in its caches, and reads what it has in memory;
//! all else is the helper's.

pub(crate) mod root;
pub(super) mod path;
mod mime;
mod hashed;
mod conditional;
mod range;
mod negotiate;
mod asset;
pub(super) mod head;
mod open;
mod cache;
pub(super) mod helper;
pub(super) mod send;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::SystemTime;

use crossbeam_channel::Receiver;

use self::asset::Variant;
use self::cache::Cache;
use self::helper::{Done, Helper, Job};
use self::open::{Opener, Seen};
use self::root::Root;
use super::http::buf::CHUNK;
use super::http::headers::Fields;
use super::token::Key;

/// Descriptors that the cache of one worker holds at most.
pub(super) const OPEN_FILES: usize = cache::MAX_OPEN;
/// One read of a file. What a full socket has to hold then is what it may hold of any body.
pub(super) const PIECE: usize = 2 * CHUNK;
/// Room for a head before the first piece.
const HEAD_ROOM: usize = 2 << 10;

/// What a worker has for files.
pub(super) struct Files {
    worker: usize,
    cache: Cache,
    opener: Opener,
    answers: Receiver<(Key, Done)>,
    /// Where a name is decoded.
    name: Vec<u8>,
    /// Head and first piece, side by side for one write. Made with the first file.
    pub room: Box<[u8]>,
}

/// What came of a look for a file.
pub(super) enum Found {
    /// In the coding that the client likes best.
    Here(Arc<Variant>),
    Missing,
    /// The helper looks; it will tell the conn.
    Asked,
    /// It has too much to do, or descriptors are out.
    Overloaded,
}

impl Files {
    pub fn new(worker: usize, answers: Receiver<(Key, Done)>) -> Self {
        Files {
            worker,
            cache: Cache::new(),
            opener: Opener::of_a_loop(),
            answers,
            name: Vec::new(),
            room: Box::default(),
        }
    }

    /// Looks for the file that `path` means: in each root, newest first, with the route's prefix and then without.
    pub fn find(&mut self, ask: Look<'_>, helper: &Helper) -> Found {
        if self.room.is_empty() {
            self.room = vec![0; HEAD_ROOM + PIECE].into();
        }
        let mut room = std::mem::take(&mut self.name);
        let found = self.find_in(&ask, &mut room, helper);
        self.name = room;
        found
    }

    fn find_in(&mut self, ask: &Look<'_>, room: &mut Vec<u8>, helper: &Helper) -> Found {
        let bare = ask.path.get(ask.prefix..).filter(|_| ask.prefix > 0);
        for root in ask.roots {
            for path in [Some(ask.path), bare].into_iter().flatten() {
                let Some(name) = path::name(path, room) else { continue };
                match self.find_one(root, name, ask, helper) {
                    Found::Missing => {}
                    found => return found,
                }
            }
        }
        Found::Missing
    }

    fn find_one(&mut self, root: &Root, name: &[u8], ask: &Look<'_>, helper: &Helper) -> Found {
        if let Some(known) = self.cache.get(root.id(), name, ask.now) {
            match known.map(|asset| asset.choose(head::accepted(ask.fields))) {
                Some(variant) if variant.is_as_opened() => return Found::Here(variant.clone()),
                Some(_) => {} // changed since: look again
                None => return Found::Missing,
            }
        }
        #[cfg(test)]
        self.opener.pretend(helper.all_is_cold.load(std::sync::atomic::Ordering::SeqCst));
        match self.opener.look(root, name, SystemTime::now()) {
            Seen::Asset(asset) => {
                let variant = asset.choose(head::accepted(ask.fields)).clone();
                self.cache.put(root.id(), name, Some(asset), ask.now);
                Found::Here(variant)
            }
            Seen::Nothing => {
                self.cache.put(root.id(), name, None, ask.now);
                Found::Missing
            }
            Seen::MayBlock => {
                let job = Job::Look { root: root.clone(), name: name.into() };
                if helper.ask(self.worker, ask.conn, job) { Found::Asked } else { Found::Overloaded }
            }
            Seen::Shortage => Found::Overloaded,
        }
    }

    /// The helper's next answer, and whose it is.
    pub fn hear(&mut self, now: u64) -> Option<(Key, Heard)> {
        let (conn, done) = self.answers.try_recv().ok()?;
        Some((
            conn,
            match done {
                Done::Looked { root, name, seen } => match seen {
                    Seen::Asset(asset) => {
                        self.cache.put(root, &name, Some(asset), now);
                        Heard::Looked
                    }
                    Seen::Nothing => {
                        self.cache.put(root, &name, None, now);
                        Heard::Looked
                    }
                    Seen::MayBlock | Seen::Shortage => Heard::Failed,
                },
                Done::Read { at, bytes } => Heard::Read { at, bytes },
            },
        ))
    }

    pub fn ask_to_read(&self, delivery: &send::Delivery, conn: Key, helper: &Helper) -> bool {
        helper.ask(self.worker, conn, delivery.next_read())
    }

    /// Forgets what lies below roots that no table has any more.
    pub fn keep(&mut self, is_wanted: impl Fn(u64) -> bool) {
        self.cache.keep(is_wanted);
    }

    /// Closes what is held open for too long. True while something is.
    pub fn sweep(&mut self, now: u64) -> bool {
        self.cache.sweep(now)
    }

    pub fn holds_open(&self) -> bool {
        self.cache.holds_open()
    }
}

/// What is looked for, and for whom.
pub(super) struct Look<'a> {
    pub roots: &'a [Root],
    pub path: &'a [u8],
    /// How many bytes of the path are the route's own.
    pub prefix: usize,
    /// Those of the request.
    pub fields: Fields<'a>,
    pub conn: Key,
    pub now: u64,
}

/// What the helper has for a conn.
pub(super) enum Heard {
    /// It is known now; the request can be looked at again.
    Looked,
    Failed,
    Read {
        at: u64,
        bytes: std::io::Result<Vec<u8>>,
    },
}
