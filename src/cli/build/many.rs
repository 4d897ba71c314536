//! The same for many files, on all cores: what takes the time is opening them, one after the other.
//!
//! **Invariant**: the answer is that of one thread: results in the order of the input, and of several errors the one
//! that comes first in it.

use std::num::NonZero;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;

use crate::error::Result;

/// More threads than this wait for the same disk.
const MAX_THREADS: usize = 16;
/// What a thread takes at a time: few enough that none is left alone with the last ones.
const CHUNK: usize = 64;

/// `act` on each of `all`.
///
/// # Errors
/// The first of those of `act`.
pub(super) fn each<T: Sync, R: Send>(all: &[T], act: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = thread::available_parallelism().map_or(1, NonZero::get).min(MAX_THREADS);
    each_on(threads, all, act)
}

fn each_on<T: Sync, R: Send>(threads: usize, all: &[T], act: impl Fn(&T) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = threads.min(all.len().div_ceil(CHUNK));
    if threads <= 1 {
        return all.iter().map(act).collect();
    }
    let (next, failed) = (AtomicUsize::new(0), AtomicBool::new(false));
    let take = || {
        let mut done = Vec::new();
        // Chunks are taken in order, so those before a failure are in somebody's hands already and will be done.
        while !failed.load(Ordering::Relaxed) {
            let chunk = next.fetch_add(1, Ordering::Relaxed);
            let Some(rest) = all.get(chunk * CHUNK..) else { break };
            let results: Result<Vec<R>> = rest.iter().take(CHUNK).map(&act).collect();
            if results.is_err() {
                failed.store(true, Ordering::Relaxed);
            }
            done.push((chunk, results));
        }
        done
    };
    let mut done: Vec<(usize, Result<Vec<R>>)> = thread::scope(|scope| {
        let others: Vec<_> = (1..threads).map(|_| scope.spawn(take)).collect();
        let mut done = take();
        others.into_iter().for_each(|other| done.extend(other.join().expect("a panic here is one there")));
        done
    });
    done.sort_by_key(|(chunk, _)| *chunk);
    let mut results = Vec::with_capacity(all.len());
    for (_, chunk) in done {
        results.extend(chunk?);
    }
    Ok(results)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};

    #[test]
    fn answers_as_one_thread_would() {
        let all: Vec<usize> = (0..1000).collect();
        for threads in [1, 2, 7] {
            let doubled = each_on(threads, &all, |n| Ok(n * 2)).unwrap();
            assert_eq!(doubled, all.iter().map(|n| n * 2).collect::<Vec<_>>());
            let bad = |n: &usize| match n % 300 {
                299 => Err(Error::new(Kind::Io, n.to_string())),
                _ => Ok(()),
            };
            assert_eq!(each_on(threads, &all, bad).unwrap_err().to_string(), "299");
        }
        assert!(each_on(4, &Vec::<u8>::new(), |_| Ok(())).unwrap().is_empty());
    }
}
