//! Usage: what the processes of an instance take, processor time and memory, with all that the instance started.
//!
//! The kernel lists no process group, so one look over `/proc` is for every instance of every app, and who asks shortly
//! after another gets the same look. A rate takes two looks: the probes, which run anyway, take one now and then
//! ([`Meter::tick`]), so that a status needs no waiting and an idle server no wake-up more.
//!
//! **Invariant**: looks take at most one part in [`SHARE`] of the time, however many processes the machine has.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use super::group::{self, Stat};

/// Between two looks that nobody asked for: the rate is one of the last ten to twenty seconds.
const EVERY: Duration = Duration::from_secs(10);
/// A shorter time would tell little: the kernel counts in hundredths of a second.
const SHORTEST: Duration = Duration::from_secs(5);
/// Who asks again within this gets the same look, as all apps do that one status asks for.
const FRESH: Duration = Duration::from_millis(500);
/// A look on a machine with thousands of processes takes long, and is the rarer for it.
const SHARE: u32 = 500;

/// What the processes of an instance take.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    /// Since the instance was started.
    pub cpu: Duration,
    /// Thousandths of one core, lately.
    pub permille: u32,
    /// Resident bytes; what processes share counts for each.
    pub memory: u64,
}

/// Cloneable; all clones share the looks.
#[derive(Clone, Default)]
pub(crate) struct Meter(Arc<Mutex<Looks>>);

/// The last look, and two earlier ones that are far enough apart for a rate.
#[derive(Default)]
struct Looks {
    last: Option<Arc<Look>>,
    mark: Option<Arc<Look>>,
    earlier: Option<Arc<Look>>,
}

/// What every process had taken at a moment.
struct Look {
    at: Instant,
    cost: Duration,
    processes: HashMap<u32, Taken>,
}

#[derive(Clone, Copy)]
struct Taken {
    group: u32,
    /// Tells it from another process that has had its number.
    born: u64,
    cpu: Duration,
    memory: u64,
}

/// Whose usage is asked for.
#[derive(Clone, Copy)]
pub(crate) enum Who<'a> {
    /// A process group.
    Group(u32),
    These(&'a [u32]),
}

impl Meter {
    /// To be called by who is awake anyway, as often as it likes.
    pub fn tick(&self, now: Instant) {
        // Somebody else is at it.
        let Ok(mut looks) = self.0.try_lock() else { return };
        if looks.mark_is_due(now) {
            looks.look(now);
        }
    }

    /// What `who` take, the first of whom was started at `started`; nothing when they have ended.
    pub fn usage(&self, who: Who<'_>, started: Instant, now: Instant) -> Usage {
        // Held while the kernel is asked: it answers from memory, and who waits wants the same answer.
        let mut looks = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // One that is younger than the last look is not in it.
        let is_stale = |last: &Arc<Look>| last.at < started || last.is_older(FRESH.max(last.cost * SHARE), now);
        if looks.last.as_ref().is_none_or(is_stale) {
            looks.look(now);
        }
        looks.usage(who, started)
    }
}

impl Looks {
    fn mark_is_due(&self, now: Instant) -> bool {
        self.mark.as_ref().is_none_or(|mark| mark.is_older(EVERY.max(mark.cost * SHARE), now))
    }

    fn look(&mut self, now: Instant) {
        self.put(Look::take(now));
    }

    fn put(&mut self, look: Look) {
        let look = Arc::new(look);
        if self.mark_is_due(look.at) {
            self.earlier = self.mark.replace(look.clone());
        }
        self.last = Some(look);
    }

    fn usage(&self, who: Who<'_>, started: Instant) -> Usage {
        let Some(last) = &self.last else { return Usage::default() };
        let base = [&self.mark, &self.earlier].into_iter().flatten().find(|base| last.at >= base.at + SHORTEST);
        // Of instances that are younger it is the time since their start that counts.
        let base = base.filter(|base| base.at >= started);
        let from = base.map_or(started, |base| base.at);
        let mut usage = Usage::default();
        let mut ran = Duration::ZERO;
        for (pid, now) in last.of(who) {
            let then = base.and_then(|base| base.processes.get(&pid)).filter(|then| then.born == now.born);
            ran += now.cpu.saturating_sub(then.map_or(Duration::ZERO, |then| then.cpu));
            usage.cpu += now.cpu;
            usage.memory += now.memory;
        }
        let passed = last.at.saturating_duration_since(from);
        let permille = ran.as_millis() * 1000 / passed.as_millis().max(1);
        Usage { permille: u32::try_from(permille).unwrap_or(u32::MAX), ..usage }
    }
}

impl Look {
    fn take(now: Instant) -> Look {
        let (tick, page) = (rustix::param::clock_ticks_per_second(), rustix::param::page_size());
        let taken = |stat: Stat| Taken {
            group: stat.group,
            born: stat.started,
            cpu: Duration::from_millis(stat.ticks.saturating_mul(1000) / tick.max(1)),
            memory: stat.pages.saturating_mul(page as u64),
        };
        let processes = group::stats().map(|(pid, stat)| (pid, taken(stat))).collect();
        Look { at: now, cost: now.elapsed(), processes }
    }

    fn of(&self, who: Who<'_>) -> Vec<(u32, Taken)> {
        match who {
            Who::Group(group) => {
                self.processes.iter().filter(|(_, t)| t.group == group).map(|(pid, t)| (*pid, *t)).collect()
            }
            Who::These(pids) => pids.iter().filter_map(|pid| Some((*pid, *self.processes.get(pid)?))).collect(),
        }
    }

    fn is_older(&self, age: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.at) >= age
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::{self, Spawn};

    fn look(at: Instant, cpu_ms: u64) -> Look {
        let cpu = Duration::from_millis(cpu_ms);
        // A count that is less than before is another process's.
        let born = u64::from(cpu_ms == 501);
        let taken = Taken { group: 7, born, cpu, memory: 4096 };
        Look { at, cost: Duration::from_millis(1), processes: [(70, taken)].into() }
    }

    #[test]
    fn the_rate_is_that_of_the_last_seconds_or_since_the_start() {
        let start = Instant::now();
        let at = |s: u64| start + Duration::from_secs(s);
        let check = |looks: &[(u64, u64)], started: u64, permille: u32| {
            let mut all = Looks::default();
            looks.iter().for_each(|(s, cpu_ms)| all.put(look(at(*s), *cpu_ms)));
            let expected = Usage { cpu: Duration::from_millis(looks.last().unwrap().1), permille, memory: 4096 };
            for who in [Who::Group(7), Who::These(&[70, 71])] {
                assert_eq!(all.usage(who, at(started)), expected, "{looks:?} since {started}");
            }
            assert_eq!(all.usage(Who::Group(8), at(started)), Usage::default());
        };
        // One look alone: since the start.
        check(&[(100, 500)], 99, 500);
        // A busy start long ago, idle since: the last look that is five seconds away or more counts.
        check(&[(100, 5000), (110, 5100), (111, 5110)], 0, 10);
        check(&[(100, 5000), (110, 5100), (116, 5400)], 0, 50);
        // A process that is younger than the looks, under a number that was another's.
        check(&[(100, 5000), (110, 5100), (120, 501)], 119, 501);
        // One of an older instance, the same.
        check(&[(100, 5000), (110, 5100), (120, 501)], 0, 50);
        // More than one core.
        check(&[(100, 0), (110, 25_000)], 0, 2500);
    }

    #[test]
    fn looks_are_shared_and_bounded() {
        let (meter, now) = (Meter::default(), Instant::now());
        let at = |meter: &Meter| meter.0.lock().unwrap().last.as_ref().map(|look| look.at);
        meter.tick(now);
        assert_eq!(at(&meter), Some(now));
        meter.tick(now + Duration::from_secs(9));
        meter.usage(Who::Group(1), now, now + Duration::from_millis(10));
        assert_eq!(at(&meter), Some(now), "too early for another look");
        // On a machine where a look takes a second.
        meter.0.lock().unwrap().put(Look { at: now, cost: Duration::from_secs(1), processes: HashMap::new() });
        meter.usage(Who::Group(1), now, now + Duration::from_secs(499));
        assert_eq!(at(&meter), Some(now));
        let later = now + Duration::from_secs(501);
        meter.usage(Who::Group(1), now, later);
        assert_eq!(at(&meter), Some(later));
        let even_later = later + Duration::from_millis(1);
        meter.usage(Who::Group(1), even_later, even_later);
        assert_eq!(at(&meter), Some(even_later), "it was not there before");
    }

    #[test]
    fn what_an_instance_started_counts_with_it() {
        // The leader waits while its child works; the kernel's count of what ended is its parent's.
        let script = "(i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done); sleep 600 & echo; wait";
        let started = Instant::now();
        let mut spawned = sys::spawn(&Spawn::plain(&sys::shell(script))).unwrap();
        std::io::Read::read_exact(&mut spawned.stdout, &mut [0]).unwrap();
        let id = spawned.child.id();
        let usage = Meter::default().usage(Who::Group(id), started, Instant::now());
        sys::kill_group(spawned.pid, rustix::process::Signal::KILL).unwrap();
        spawned.child.wait().unwrap();
        assert!(usage.cpu > Duration::ZERO && usage.permille > 0 && usage.memory > 1 << 16, "{usage:?}");
        // The sleeper is not ours to wait for.
        let deadline = Instant::now() + Duration::from_secs(10);
        while Meter::default().usage(Who::Group(id), started, Instant::now()) != Usage::default() {
            assert!(Instant::now() < deadline, "somebody is left");
            std::thread::yield_now();
        }
    }
}
