//! Asset: a file in all codings that it is laid out in, each open, with its fields written beforehand.
//!
//! A file is opened about once a second and asked for often, so what can be formatted is formatted here.

use std::io::Write;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::Stat;

use super::conditional::Validators;
use super::mime::Kind;
use super::negotiate::{self, CODINGS, Coding};
use super::{hashed, path};

/// A file that was changed less than this ago may change once more within the same tick of its clock, so its validators
/// are weak until then (RFC 9110 §8.8.1, §8.8.2.2).
const SETTLED: Duration = Duration::from_secs(1);
/// To be asked for again each time, which costs a 304.
const REVALIDATE: &str = "no-cache";
/// A year, which is as long as anybody keeps anything (RFC 8246).
const FOR_EVER: &str = "public, max-age=31536000, immutable";

pub(in crate::proxy) struct Asset {
    plain: Arc<Variant>,
    coded: [Option<Arc<Variant>>; 3],
}

/// One coding of it.
pub(in crate::proxy) struct Variant {
    pub file: OwnedFd,
    pub size: u64,
    changed: Stamp,
    modified: Option<u64>,
    weak: bool,
    tag: Box<[u8]>,
    /// The fields that a 304 has too (RFC 9110 §15.4.5).
    pub kept: Box<[u8]>,
    /// Those that describe the content.
    pub described: Box<[u8]>,
    /// Content-Length of the whole.
    pub length: Box<[u8]>,
    /// Until when all of it may be taken to be in memory, in the worker's milliseconds.
    pub(super) warm_until: AtomicU64,
}

/// When a file was changed, in the seconds and nanoseconds of its clock.
type Stamp = (i64, u64);

impl Asset {
    pub(super) fn new(plain: Variant, coded: [Option<Variant>; 3]) -> Self {
        Asset { plain: Arc::new(plain), coded: coded.map(|v| v.map(Arc::new)) }
    }

    /// The variant for a client that accepts these codings.
    pub fn choose<'a>(&self, accepted: impl Iterator<Item = &'a [u8]>) -> &Arc<Variant> {
        let mut sizes = [None; 3];
        for (size, variant) in sizes.iter_mut().zip(&self.coded) {
            *size = variant.as_ref().map(|v| v.size);
        }
        if sizes == [None; 3] {
            return &self.plain;
        }
        let chosen = negotiate::choose(accepted, sizes).and_then(|coding| self.coded[coding as usize].as_ref());
        chosen.unwrap_or(&self.plain)
    }

    /// How many descriptors it holds.
    pub(super) fn descriptors(&self) -> usize {
        1 + self.coded.iter().flatten().count()
    }
}

impl Variant {
    pub(super) fn new(
        file: OwnedFd,
        stat: &Stat,
        name: &[u8],
        kind: Kind,
        coding: Option<Coding>,
        varies: bool,
        now: SystemTime,
    ) -> Self {
        let (size, changed) = (stat.st_size as u64, stamp(stat));
        let at = u64::try_from(changed.0).ok().and_then(|s| UNIX_EPOCH.checked_add(Duration::new(s, changed.1 as u32)));
        // A date to come is not told: it would be later than Date (RFC 9110 §8.8.2.1).
        let at = at.filter(|at| *at <= now);
        let weak = at.is_none_or(|at| now.duration_since(at).is_ok_and(|age| age < SETTLED));
        let modified = at.and_then(|at| at.duration_since(UNIX_EPOCH).ok()).map(|d| d.as_secs());
        let tag = tag(size, changed, coding);

        let file_name = &name[memchr::memrchr(b'/', name).map_or(0, |i| i + 1)..];
        debug_assert!(path::extension(name).is_some(), "looked for without an extension");
        let cache = if hashed::has_hash(file_name) { FOR_EVER } else { REVALIDATE };
        let mut kept = format!("Cache-Control: {cache}\r\nETag: {}", if weak { "W/" } else { "" }).into_bytes();
        kept.extend_from_slice(&tag);
        kept.extend_from_slice(if varies { b"\r\nVary: Accept-Encoding\r\n" } else { b"\r\n" });

        let mut described = format!("Content-Type: {}\r\nX-Content-Type-Options: nosniff\r\n", kind.of).into_bytes();
        described.extend_from_slice(b"Accept-Ranges: bytes\r\n");
        // Writing to memory does not fail.
        if let Some(coding) = coding {
            let _ = write!(described, "Content-Encoding: {}\r\n", coding.name());
        }
        if let Some(at) = at {
            let _ = write!(described, "Last-Modified: {}\r\n", httpdate::HttpDate::from(at));
        }
        let length = format!("Content-Length: {size}\r\n").into_bytes().into();
        Variant {
            file,
            size,
            changed,
            modified,
            weak,
            tag: tag.into(),
            kept: kept.into(),
            described: described.into(),
            length,
            warm_until: AtomicU64::new(0),
        }
    }

    pub(super) fn validators(&self) -> Validators<'_> {
        Validators { tag: &self.tag, weak: self.weak, modified: self.modified }
    }

    /// It was not changed, replaced or removed since it was opened. One call to the kernel.
    pub(super) fn is_as_opened(&self) -> bool {
        rustix::fs::fstat(&self.file)
            .is_ok_and(|stat| stat.st_nlink > 0 && stat.st_size as u64 == self.size && stamp(&stat) == self.changed)
    }
}

/// From size and time, and the coding: representations that differ have different tags (RFC 9110 §8.8.3.3).
fn tag(size: u64, changed: Stamp, coding: Option<Coding>) -> Vec<u8> {
    let coding = coding.map_or(String::new(), |c| format!("-{}", CODINGS[c as usize].name()));
    format!("\"{size:x}-{:x}-{:x}{coding}\"", changed.0, changed.1).into_bytes()
}

fn stamp(stat: &Stat) -> Stamp {
    (stat.st_mtime, stat.st_mtime_nsec)
}
