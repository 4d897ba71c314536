//! Course: a rollout as it is told: to who asked for it, to those who join later, and to whoever finds the app locked
//! because of it. It knows no connection: who listens has a channel, and may go away.
//!
//! **Invariant**: who joins hears all of it from the start, and its end exactly once, also long after it. The hold on
//! the app is given up before anybody hears of the end.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use crossbeam_channel::{Receiver, Sender, unbounded};

use super::Event;
use crate::error::{Error, Result};
use crate::proto::control::{Deployed, Joined, Notice, Step};
use crate::proto::fault::Fault;
use crate::proto::version::Version;

/// What is kept for those who join: six steps of each of at most 64 instances, and a few words besides.
const MAX_TOLD: usize = 512;

/// What keeps others from changing the app. It is told each step, and dropped at the end.
pub(crate) type Hold = Box<dyn Fn(&str) + Send + Sync>;

/// Who asks for a rollout.
pub(crate) struct Who {
    /// For the release log, and for others who wait.
    pub name: String,
    pub hold: Option<Hold>,
}

/// The last rollout of an app, also after its end.
pub(super) type Latest = Arc<Mutex<Option<Arc<Course>>>>;

pub(super) struct Course {
    by: String,
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    version: Option<Version>,
    told: Vec<Notice>,
    // None of them blocks: a rollout has few steps, so the channels need no bound of their own.
    listeners: Vec<Sender<Event>>,
    hold: Option<Hold>,
    end: Option<Result<Deployed, Fault>>,
}

/// The actor's side; when it is dropped without a [`Teller::done`], everybody hears that nothing more comes.
pub(super) struct Teller {
    course: Arc<Course>,
}

impl Teller {
    /// And what the first listener hears.
    pub fn begin(by: Who) -> (Teller, Receiver<Event>) {
        let (to, heard) = unbounded();
        let inner = Inner { listeners: vec![to], hold: by.hold, ..Inner::default() };
        let course = Course { by: by.name, began: Instant::now(), inner: Mutex::new(inner) };
        (Teller { course: Arc::new(course) }, heard)
    }

    /// From here on it is what others join.
    pub fn publish(&self, version: Version, latest: &Latest) {
        self.course.inner().version = Some(version);
        *latest.lock().unwrap_or_else(PoisonError::into_inner) = Some(self.course.clone());
    }

    pub fn notice(&self, notice: Notice) {
        let mut inner = self.course.inner();
        if let (Some(hold), Notice::Step { number, of, step: Step::Starting }) = (&inner.hold, &notice) {
            hold(&format!("rolling {number}/{of}"));
        }
        inner.listeners.retain(|to| to.send(Event::Notice(notice.clone())).is_ok());
        if inner.told.len() < MAX_TOLD {
            inner.told.push(notice);
        }
    }

    pub fn done(self, end: Result<Deployed>) {
        let end = end.map_err(Fault::from);
        // Before anybody hears of it: they may want to change the app at once.
        let hold = self.course.inner().hold.take();
        drop(hold);
        let mut inner = self.course.inner();
        for to in inner.listeners.drain(..) {
            let _ = to.send(Event::Done(end.clone().map_err(Error::from)));
        }
        inner.end = Some(end);
    }
}

impl Drop for Teller {
    fn drop(&mut self) {
        let mut inner = self.course.inner();
        let ended = (inner.hold.take(), std::mem::take(&mut inner.listeners));
        drop(inner);
        drop(ended);
    }
}

impl Course {
    /// Everything that was told, and what will be.
    pub fn join(&self) -> (Joined, Receiver<Event>) {
        let (to, heard) = unbounded();
        let mut inner = self.inner();
        let joined = Joined {
            who: self.by.clone(),
            version: inner.version.clone(),
            since_ms: u64::try_from(self.began.elapsed().as_millis()).unwrap_or(u64::MAX),
            ended: inner.end.is_some(),
        };
        for notice in &inner.told {
            let _ = to.send(Event::Notice(notice.clone()));
        }
        match &inner.end {
            Some(end) => drop(to.send(Event::Done(end.clone().map_err(Error::from)))),
            None => inner.listeners.push(to),
        }
        (joined, heard)
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<&str> for Who {
    fn from(name: &str) -> Who {
        Who { name: name.into(), hold: None }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::error::Kind;

    fn step(number: u32) -> Notice {
        Notice::Step { number, of: 2, step: Step::Starting }
    }

    fn deployed() -> Deployed {
        let version = Version::parse("v2").unwrap();
        Deployed { version, previous: None, instances: 2, swaps: Vec::new() }
    }

    fn heard(events: &Receiver<Event>) -> Vec<String> {
        let words = |event| match event {
            Event::Notice(Notice::Step { number, .. }) => format!("step {number}"),
            Event::Notice(_) => "another".into(),
            Event::Done(Ok(deployed)) => format!("live {}", deployed.version),
            Event::Done(Err(e)) => e.to_string(),
        };
        events.try_iter().map(words).collect()
    }

    #[test]
    fn who_joins_hears_all_of_it_whenever_that_is() {
        let latest = Latest::default();
        let (teller, first) = Teller::begin("ana@laptop".into());
        teller.publish(Version::parse("v2").unwrap(), &latest);
        let course = latest.lock().unwrap().clone().unwrap();
        teller.notice(step(1));
        let (joined, second) = course.join();
        assert_eq!((joined.who.as_str(), joined.ended), ("ana@laptop", false));
        teller.notice(step(2));
        // Who went away keeps nobody from hearing.
        drop(course.join());
        teller.done(Ok(deployed()));
        let (joined, last) = course.join();
        assert!(joined.ended && joined.version == Some(Version::parse("v2").unwrap()));
        for events in [first, second, last] {
            assert_eq!(heard(&events), ["step 1", "step 2", "live v2"]);
        }
    }

    #[test]
    fn the_hold_hears_the_steps_and_is_gone_before_the_end_is_told() {
        struct Flag(Arc<AtomicBool>);
        impl Drop for Flag {
            fn drop(&mut self) {
                self.0.store(true, Ordering::Relaxed);
            }
        }
        let (gone, steps): (Arc<AtomicBool>, Arc<Mutex<Vec<String>>>) = Default::default();
        let (flag, note) = (Flag(gone.clone()), steps.clone());
        let hold: Hold = Box::new(move |step| {
            let _held = &flag;
            note.lock().unwrap().push(step.into());
        });
        let (teller, events) = Teller::begin(Who { name: "ana".into(), hold: Some(hold) });
        teller.notice(step(1));
        assert!(!gone.load(Ordering::Relaxed));
        teller.done(Err(Error::new(Kind::Rejected, "boom")));
        assert!(gone.load(Ordering::Relaxed));
        assert_eq!(*steps.lock().unwrap(), ["rolling 1/2"]);
        assert_eq!(heard(&events), ["step 1", "boom"]);
    }

    #[test]
    fn an_actor_that_is_gone_keeps_nobody_waiting() {
        let latest = Latest::default();
        let (teller, events) = Teller::begin("ana".into());
        teller.publish(Version::parse("v2").unwrap(), &latest);
        drop(teller);
        assert!(events.recv().is_err());
    }
}
