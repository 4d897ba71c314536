//! Patience: how long the far side may be silent, in which phase, and how that is waited out. What is said is not read
//! here.
//!
//! **Invariant**: every wait ends, with a thing, the far side's end, an interrupt or its limit; only the time in which a
//! person is asked, and that in which we were stopped ourselves, does not count.

use std::io::Read;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, select};

use crate::cli::interrupt::{Interrupt, interrupted};
use crate::error::{Error, Kind, Result};

/// A live server says something at least every few seconds; ssh itself gives up on a dead network after 15.
const SILENCE: Duration = Duration::from_secs(30);
/// From the start of ssh to the hello: names, jump hosts, each with a ConnectTimeout of its own, the key exchange, the
/// login and its shell. sshd itself gives up a login after this long (LoginGraceTime), and a slow machine may need it.
const CONNECTING: Duration = Duration::from_secs(120);
/// The same on a connection that stands: only a login shell has to start. ssh notices a dead network after 15 s, so what
/// takes longer than that hangs; then we make a connection of our own.
const REUSING: Duration = Duration::from_secs(20);

/// A wait that ends so much later than it should was not ours: somebody pressed Ctrl-Z, or the machine slept. What the far
/// side said meanwhile lies unread, and its reader runs on no sooner than we do.
const STOPPED: Duration = Duration::from_secs(1);

/// When the last byte came in, for the deadline. Milliseconds since `start`.
pub(super) struct LastHeard {
    start: Instant,
    at_ms: AtomicU64,
    any: AtomicBool,
}

impl LastHeard {
    pub fn new() -> LastHeard {
        LastHeard { start: Instant::now(), at_ms: AtomicU64::new(0), any: AtomicBool::new(false) }
    }

    pub fn now(&self) {
        let ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.at_ms.store(ms, Ordering::Relaxed);
    }

    pub fn ago(&self) -> Duration {
        self.start.elapsed().saturating_sub(Duration::from_millis(self.at_ms.load(Ordering::Relaxed)))
    }

    /// Whether a single byte has come in.
    pub fn any(&self) -> bool {
        self.any.load(Ordering::Relaxed)
    }

    /// What is left until the silence is too long.
    pub fn left(&self, patience: &Patience) -> Duration {
        if patience.questions.as_ref().is_some_and(|open| open.load(Ordering::Acquire) > 0) {
            // What ssh does after the answer has its own time.
            self.now();
        }
        let at = Duration::from_millis(self.at_ms.load(Ordering::Relaxed));
        (at + patience.limit).saturating_sub(self.start.elapsed())
    }

    /// Whether the silence is too long, at the end of a wait that was to take `asked` and took `took`.
    pub fn is_over(&self, patience: &Patience, asked: Duration, took: Duration) -> bool {
        if took > asked + STOPPED {
            self.now();
        }
        self.left(patience).is_zero()
    }
}

/// How long the far side may be silent, and what that means.
pub(super) struct Patience {
    limit: Duration,
    kind: Kind,
    what: &'static str,
    hint: &'static str,
    /// That somebody here has to answer; meanwhile nobody is late.
    questions: Option<Arc<AtomicUsize>>,
}

impl Patience {
    /// While somebody here has questions to answer, nobody is late.
    pub fn connecting(questions: Option<Arc<AtomicUsize>>) -> Patience {
        Patience { questions, ..Patience::CONNECTING }
    }

    /// The limit is over.
    pub fn passed(&self, name: &str) -> Error {
        Error::new(self.kind, format!("{name}: {} for {} s", self.what, self.limit.as_secs())).hint(self.hint)
    }

    pub const REUSING: Patience = Patience { limit: REUSING, ..Patience::CONNECTING };
    const CONNECTING: Patience = Patience {
        limit: CONNECTING,
        kind: Kind::Unreachable,
        what: "connecting, and no word",
        hint: "is the server overloaded? try again, or look with `tako servers check`",
        questions: None,
    };
    pub const TALKING: Patience = Patience {
        limit: SILENCE,
        kind: Kind::Timeout,
        what: "nothing heard",
        hint: "what the server had begun it finishes by itself; `tako status` shows how it ended",
        questions: None,
    };
}

/// Notes each arrival of bytes.
pub(super) struct Listening<R> {
    pub stream: R,
    pub heard: Arc<LastHeard>,
}

impl<R: Read> Read for Listening<R> {
    fn read(&mut self, buf: &mut [u8]) -> std::io::Result<usize> {
        let read = self.stream.read(buf)?;
        // The end is not a word.
        if read > 0 {
            self.heard.now();
            self.heard.any.store(true, Ordering::Relaxed);
        }
        Ok(read)
    }
}

/// The next thing on `channel`; `None` when its sender is gone.
pub(super) fn wait<T>(
    channel: &Receiver<T>,
    heard: &LastHeard,
    patience: &Patience,
    interrupt: &Interrupt,
    name: &str,
) -> Result<Option<T>> {
    /// How soon it is seen that a question was asked or answered.
    const LOOK: Duration = Duration::from_secs(1);
    let [signal, sibling] = interrupt.bells();
    loop {
        let left = heard.left(patience);
        let until = if patience.questions.is_some() { left.min(LOOK) } else { left }.max(Duration::from_millis(1));
        let asked = Instant::now();
        let got = select! {
            recv(channel) -> got => got.map_err(|_| RecvTimeoutError::Disconnected),
            recv(signal) -> _ => return Err(interrupted()),
            recv(sibling) -> _ => return Err(interrupted()),
            default(until) => Err(RecvTimeoutError::Timeout),
        };
        match got {
            Ok(thing) => return Ok(Some(thing)),
            Err(RecvTimeoutError::Disconnected) => return Ok(None),
            Err(RecvTimeoutError::Timeout) if heard.is_over(patience, until, asked.elapsed()) => {
                return Err(patience.passed(name));
            }
            Err(RecvTimeoutError::Timeout) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::bounded;

    use super::*;

    fn patience(questions: usize) -> Patience {
        let questions = Some(Arc::new(AtomicUsize::new(questions)));
        Patience { limit: Duration::from_millis(20), ..Patience::connecting(questions) }
    }

    #[test]
    fn a_silence_ends_and_says_what_was_waited_for() {
        let (_open, things) = bounded::<()>(1);
        let heard = LastHeard::new();
        let e = wait(&things, &heard, &patience(0), &Interrupt::never(), "fra1").unwrap_err();
        assert_eq!((e.kind(), e.to_string().as_str()), (Kind::Unreachable, "fra1: connecting, and no word for 0 s"));
    }

    #[test]
    fn nobody_is_late_while_a_person_is_asked() {
        let heard = LastHeard::new();
        let waiting = patience(1);
        // Far beyond the limit, and the whole of it is left.
        let late = Instant::now() + waiting.limit * 2;
        while Instant::now() < late {
            std::hint::spin_loop();
        }
        assert!(heard.left(&waiting) > waiting.limit / 2);
    }

    #[test]
    fn nobody_is_late_while_we_were_stopped_ourselves() {
        let asked = Duration::from_millis(5);
        let check = |took: Duration, expected: bool| {
            let heard = LastHeard::new();
            let patience = Patience { limit: Duration::from_secs(10), ..Patience::TALKING };
            // As if nothing had been heard since then.
            let long_ago = LastHeard { start: heard.start.checked_sub(patience.limit).unwrap(), ..heard };
            assert_eq!(long_ago.is_over(&patience, asked, took), expected, "{took:?}");
        };
        check(asked, true);
        check(asked + STOPPED, true);
        check(asked + STOPPED * 2, false);
    }

    #[test]
    fn the_end_of_the_far_side_is_heard_at_once() {
        let (open, things) = bounded::<()>(1);
        drop(open);
        let got = wait(&things, &LastHeard::new(), &Patience::TALKING, &Interrupt::never(), "fra1");
        assert_eq!(got.unwrap(), None);
    }
}
