//! The same task on many servers at once.

use std::sync::Mutex;
use std::thread;

/// New connections at once. A jump host drops some beyond ten that are not through their handshake (sshd's MaxStartups).
pub(crate) const CONNECTS: usize = 8;
/// Tasks at once on connections that are up; more threads than this help nobody.
pub(crate) const CALLS: usize = 64;

/// Runs `task` on every item, at most `cap` at a time; the results are in the order of the items.
pub(crate) fn each<T: Send, R: Send>(items: Vec<T>, cap: usize, task: impl Fn(T) -> R + Sync) -> Vec<R> {
    let threads = items.len().min(cap.max(1));
    let mut results: Vec<Option<R>> = items.iter().map(|_| None).collect();
    let queue = Mutex::new(items.into_iter().zip(&mut results));
    thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let next = queue.lock().map(|mut queue| queue.next());
                    let Ok(Some((item, result))) = next else { break };
                    *result = Some(task(item));
                }
            });
        }
    });
    drop(queue);
    results.into_iter().map(|r| r.expect("every item was taken by a thread, and the scope waited for it")).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;

    #[test]
    fn results_come_in_the_order_of_the_items() {
        assert_eq!(each((0..50).collect(), 4, |n: i32| n * 2), (0..50).map(|n| n * 2).collect::<Vec<_>>());
        assert_eq!(each(Vec::<i32>::new(), 4, |n| n), Vec::<i32>::new());
    }

    #[test]
    fn runs_as_many_at_once_as_allowed_and_no_more() {
        // The barrier opens only when three are inside together.
        let (barrier, inside, most) = (Barrier::new(3), AtomicUsize::new(0), AtomicUsize::new(0));
        each((0..9).collect(), 3, |_: i32| {
            most.fetch_max(inside.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            barrier.wait();
            inside.fetch_sub(1, Ordering::SeqCst);
        });
        assert_eq!(most.load(Ordering::SeqCst), 3);
    }

    #[test]
    fn a_task_may_change_what_it_is_given() {
        let mut numbers = vec![1, 2, 3];
        each(numbers.iter_mut().collect(), 2, |n: &mut i32| *n += 1);
        assert_eq!(numbers, [2, 3, 4]);
    }
}
