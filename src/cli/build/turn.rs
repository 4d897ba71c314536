//! Turn: one build at a time in a project, because all of them use one build tree. Who comes second waits.
//!
//! **Invariant**: the lock is the kernel's and ends with its process; the text beside it is only for people.

use std::env;
use std::fs::File;
use std::io::{Read, Seek, Write};
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::select;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;

use crate::cli::child::plain;
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::error::{Context, Result};

/// How often we look whether it is our turn.
const LOOK: Duration = Duration::from_millis(100);
/// More of a command line is not shown to those who wait.
const MAX_NAME: usize = 120;

/// Held while the build tree is in use.
#[derive(Debug)]
pub(crate) struct Turn {
    file: File,
    pub waited: bool,
}

/// Waits for it, however long; `waiting` hears once for whom.
///
/// # Errors
/// Interrupted; Io when there can be no lock.
pub(crate) fn take(dir: &Path, interrupt: &Interrupt, waiting: &mut dyn FnMut(&str)) -> Result<Turn> {
    let path = dir.join("lock");
    let doing = || format!("lock {}", path.display());
    let mut file = File::options().create(true).truncate(false).read(true).write(true).open(&path).context(doing)?;
    let mut waited = false;
    loop {
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => break,
            Err(Errno::INTR) => continue,
            Err(Errno::WOULDBLOCK) => {}
            Err(e) => return Err(e).context(doing),
        }
        if !waited {
            waiting(&format!("waiting for {}, which is building this project", holder(&mut file)));
        }
        waited = true;
        let [signal, sibling] = interrupt.bells();
        select! {
            recv(signal) -> _ => return Err(interrupted()),
            recv(sibling) -> _ => return Err(interrupted()),
            default(LOOK) => {}
        }
    }
    // Nobody fails for it: without the text it is another tako that is waited for.
    let _ = file.set_len(0).and_then(|()| file.rewind()).and_then(|()| file.write_all(our_name().as_bytes()));
    Ok(Turn { file, waited })
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// As it was typed; nothing secret is ever an argument of ours.
fn our_name() -> String {
    let words: Vec<String> = env::args().skip(1).collect();
    let line: String = words.join(" ").chars().take(MAX_NAME).collect();
    format!("`tako {}` (process {})", line.trim_end(), std::process::id())
}

fn holder(file: &mut File) -> String {
    let mut text = Vec::new();
    let read = file.rewind().and_then(|()| file.take(4 * MAX_NAME as u64).read_to_end(&mut text));
    match read {
        Ok(n) if n > 0 => plain(&text),
        _ => "another tako".into(),
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use super::*;
    use crate::error::Kind;

    #[test]
    fn the_second_waits_for_the_first_by_name() {
        let dir = tempfile::tempdir().unwrap();
        let first = take(dir.path(), &Interrupt::never(), &mut |_| panic!("nobody is there")).unwrap();
        assert!(!first.waited);
        let mut first = Some(first);
        let mut said = String::new();
        let second = take(dir.path(), &Interrupt::never(), &mut |words| {
            said = words.into();
            drop(first.take());
        });
        assert!(second.unwrap().waited && said.contains(&format!("(process {})", std::process::id())), "{said}");
    }

    #[test]
    fn whoever_waits_can_be_interrupted() {
        let dir = tempfile::tempdir().unwrap();
        let _first = take(dir.path(), &Interrupt::never(), &mut |_| {}).unwrap();
        let (trigger, interrupt) = Interrupt::never().or_trigger();
        let (heard, waiting) = crossbeam_channel::bounded(1);
        let path = dir.path().to_path_buf();
        let second = thread::spawn(move || take(&path, &interrupt, &mut |_| heard.send(()).unwrap()));
        waiting.recv_timeout(Duration::from_secs(20)).unwrap();
        drop(trigger);
        assert_eq!(second.join().unwrap().unwrap_err().kind(), Kind::Interrupted);
    }
}
