//! Turn: one build at a time in a project, because all of them use one build tree. Who comes second waits.
//!
//! The file says who has it, for people, and in its second line which process group runs for them: a `tako` that was
//! killed leaves that behind, and whoever is next ends it first.
//!
//! **Invariant**: the lock is the kernel's and ends with its process, whatever the file says.

use std::env;
use std::fs::File;
use std::io::{Read, Seek};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::time::Duration;

use crossbeam_channel::select;
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use rustix::process::Pid;

use super::leftover::Note;
use crate::cli::child::plain;
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::error::{Context, Result};

/// How often we look whether it is our turn.
const LOOK: Duration = Duration::from_millis(100);
/// More of a command line is not shown to those who wait.
const MAX_NAME: usize = 120;
/// A longer file is not one of ours.
const MAX_TEXT: u64 = 1 << 10;

/// Held while the build tree is in use.
#[derive(Debug)]
pub(crate) struct Turn {
    file: File,
    pub waited: bool,
}

/// Waits for it, however long, and ends what a build that was killed left running; `waiting` hears once of each.
///
/// # Errors
/// Interrupted; Io when there can be no lock; Busy when what was left does not end.
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
    let left = text(&mut file).and_then(|text| Note::parse(text.lines().nth(1)?));
    if let Some(left) = left {
        // As the kernel names the folders of processes.
        let tree = dir.canonicalize().context(doing)?.join("build");
        left.end(&tree, interrupt, waiting)?;
    }
    let turn = Turn { file, waited };
    turn.say(&our_name());
    Ok(turn)
}

impl Turn {
    /// A command is about to be started.
    pub(super) fn runs(&self) -> Running<'_> {
        Running { turn: self }
    }

    /// Nobody fails for it: without the text it is another tako that is waited for. Written first and cut then, there is
    /// no moment at which it says nothing.
    fn say(&self, text: &str) {
        let _ = self.file.write_all_at(text.as_bytes(), 0).and_then(|()| self.file.set_len(text.len() as u64));
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let _ = self.file.set_len(0);
    }
}

/// A command of the build, remembered as long as the value lives.
pub(super) struct Running<'a> {
    turn: &'a Turn,
}

impl Running<'_> {
    /// It leads the group of all that it starts.
    pub fn is(&self, leader: Pid) {
        if let Some(note) = Note::of(leader) {
            self.turn.say(&format!("{}\n{note}\n", our_name()));
        }
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.turn.say(&our_name());
    }
}

/// As it was typed; nothing secret is ever an argument of ours.
fn our_name() -> String {
    let words: Vec<String> = env::args().skip(1).collect();
    let line: String = words.join(" ").chars().take(MAX_NAME).collect();
    format!("`tako {}` (process {})", line.trim_end(), std::process::id())
}

fn holder(file: &mut File) -> String {
    let text = text(file).unwrap_or_default();
    let name = plain(text.lines().next().unwrap_or_default().as_bytes());
    if name.is_empty() { "another tako".into() } else { name }
}

fn text(file: &mut File) -> Option<String> {
    let mut text = Vec::new();
    file.rewind().and_then(|()| file.take(MAX_TEXT).read_to_end(&mut text)).ok()?;
    Some(String::from_utf8_lossy(&text).into_owned())
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::CommandExt;
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

    /// A group that would run for long: its leader, and a child of it. `mask` is how they take SIGTERM.
    fn group(tree: &Path, mask: &str) -> std::process::Child {
        let mut command = std::process::Command::new("/bin/sh");
        command.args(["-c", &format!("{mask} sleep 600 & echo up; wait; sleep 600")]).current_dir(tree);
        let mut child = command.process_group(0).stdout(std::process::Stdio::piped()).spawn().unwrap();
        child.stdout.as_mut().unwrap().read_exact(&mut [0; 3]).unwrap();
        child
    }

    /// As the file is left by a process that is killed.
    fn left_by(dir: &Path, leader: Pid) {
        let turn = take(dir, &Interrupt::never(), &mut |_| {}).unwrap();
        let running = turn.runs();
        running.is(leader);
        let text = std::fs::read(dir.join("lock")).unwrap();
        drop(running);
        drop(turn);
        assert_eq!(std::fs::read(dir.join("lock")).unwrap(), b"");
        std::fs::write(dir.join("lock"), text).unwrap();
    }

    /// The words of who takes the turn, and whether the pipe that all of the group have open is closed by then.
    fn next(dir: &Path) -> String {
        let mut said = String::new();
        take(dir, &Interrupt::never(), &mut |words| said.push_str(words)).unwrap();
        said
    }

    #[test]
    fn what_a_killed_build_left_running_is_ended_first() {
        for mask in ["", "trap '' TERM;"] {
            let dir = tempfile::tempdir().unwrap();
            let tree = dir.path().join("build");
            std::fs::create_dir(&tree).unwrap();
            // With its leader.
            let mut child = group(&tree, mask);
            left_by(dir.path(), Pid::from_child(&child));
            assert!(next(dir.path()).contains(&format!("(process group {})", child.id())));
            assert_eq!(child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap(), 0);
            child.wait().unwrap();
            // Without it; the others work in the tree.
            let mut child = group(&tree, mask);
            left_by(dir.path(), Pid::from_child(&child));
            child.kill().unwrap();
            child.wait().unwrap();
            assert!(next(dir.path()).contains("process group"), "{mask}");
            assert_eq!(child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap(), 0);
        }
    }

    #[test]
    fn what_may_be_somebody_elses_is_left_alone() {
        let (dir, elsewhere) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let mut child = group(elsewhere.path(), "");
        let leader = Pid::from_child(&child);
        left_by(dir.path(), leader);
        let text = std::fs::read_to_string(dir.path().join("lock")).unwrap();
        let (name, note) = text.trim_end().split_once('\n').unwrap();
        let words: Vec<&str> = note.split(' ').collect();
        let later = words[1].parse::<u64>().unwrap() + 1;
        for other in [format!("{} {later} {}", words[0], words[2]), format!("{} {} other-boot", words[0], words[1])] {
            std::fs::write(dir.path().join("lock"), format!("{name}\n{other}\n")).unwrap();
            assert_eq!(next(dir.path()), "", "{other}");
        }
        // Nothing tells whose the others are.
        left_by(dir.path(), leader);
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(next(dir.path()), "");
        crate::sys::kill_group(leader, rustix::process::Signal::KILL).unwrap();
        assert_eq!(child.stdout.take().unwrap().read_to_end(&mut Vec::new()).unwrap(), 0);
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
