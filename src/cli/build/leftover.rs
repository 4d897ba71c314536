//! Leftover: the commands of a build whose `tako` was killed so hard that it could not end them. They write into the build
//! tree that the next build is about to use, and nothing of theirs is wanted any more.
//!
//! What is remembered of a command is its process group and when that began. A number is given to another process only
//! when neither a process nor a group has it any more, so while the leader is there its start time tells who it is. A
//! group may outlive its leader; then one of its members has to show that it belongs to this build: it works in the
//! tree, or was started with the tree on its PATH.
//!
//! **Invariant**: nothing is signalled of which that is not known. Where there is no `/proc` nothing is remembered.

use std::fmt;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use crossbeam_channel::select;
use rustix::process::{Pid, Signal};

use crate::cli::interrupt::{Interrupt, interrupted};
use crate::error::{Context, Error, Kind, Result};
use crate::sys;

/// What it may take to end after SIGTERM.
const GRACE: Duration = Duration::from_secs(2);
/// After SIGKILL; the kernel needs a moment to take a process down, longer where a disk is slow.
const DEATH: Duration = Duration::from_secs(10);
/// How often we look whether it is gone.
const LOOK: Duration = Duration::from_millis(20);
/// More of a process's environment is not looked at; PATH stands far before.
const MAX_ENVIRONMENT: u64 = 1 << 20;

/// The group of a running command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Note {
    group: u32,
    /// Clock ticks from boot to the start of its leader (proc_pid_stat(5), field 22).
    started: u64,
    /// Of the machine, on which alone the numbers mean something.
    boot: String,
}

/// What the kernel says of a process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Process {
    pid: u32,
    group: u32,
    started: u64,
    /// It has ended, and nobody has asked how.
    is_dead: bool,
}

impl Note {
    /// `None` where processes cannot be told apart.
    pub fn of(leader: Pid) -> Option<Note> {
        let leader = process(leader.as_raw_nonzero().get().unsigned_abs())?;
        Some(Note { group: leader.pid, started: leader.started, boot: boot_id()? })
    }

    pub fn parse(text: &str) -> Option<Note> {
        let mut words = text.split(' ');
        let (group, started, boot) = (words.next()?.parse().ok()?, words.next()?.parse().ok()?, words.next()?);
        // Group 1 and below would be everybody to killpg(2).
        (group > 1 && !boot.is_empty()).then(|| Note { group, started, boot: boot.into() })
    }

    /// Ends what still runs of it. `saying` hears so before that.
    ///
    /// # Errors
    /// Busy when it does not go; Interrupted.
    pub fn end(&self, tree: &Path, interrupt: &Interrupt, saying: &mut dyn FnMut(&str)) -> Result<()> {
        let members = self.members();
        let works_there = |process: &Process| works_in(process.pid, tree);
        let is_here = boot_id().is_some_and(|boot| boot == self.boot);
        let Some(group) = i32::try_from(self.group).ok().and_then(Pid::from_raw) else { return Ok(()) };
        if !is_here || members.is_empty() || !self.is_ours(process(self.group), &members, &works_there) {
            return Ok(());
        }
        saying(&format!("ending what a build that was killed left running (process group {})", self.group));
        for (signal, limit) in [(Signal::TERM, GRACE), (Signal::KILL, DEATH)] {
            let doing = || format!("end what an earlier build left running, process group {}", self.group);
            sys::kill_group(group, signal).context(doing)?;
            let until = Instant::now() + limit;
            let [bell, sibling] = interrupt.bells();
            while Instant::now() < until {
                if self.members().is_empty() {
                    return Ok(());
                }
                select! {
                    recv(bell) -> _ => return Err(interrupted()),
                    recv(sibling) -> _ => return Err(interrupted()),
                    default(LOOK) => {}
                }
            }
        }
        Err(Error::new(Kind::Busy, format!("process group {} of an earlier build does not end", self.group))
            .hint("it uses the build tree; look what it waits for, then run this again"))
    }

    /// `leader` is who has the group's number now.
    fn is_ours(&self, leader: Option<Process>, members: &[Process], works_there: &dyn Fn(&Process) -> bool) -> bool {
        match leader {
            Some(leader) => leader.started == self.started,
            None => members.iter().any(|member| member.started >= self.started && works_there(member)),
        }
    }

    fn members(&self) -> Vec<Process> {
        let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
        let all = entries.filter_map(|entry| process(entry.file_name().to_str()?.parse().ok()?));
        all.filter(|process| process.group == self.group && !process.is_dead).collect()
    }
}

impl fmt::Display for Note {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {} {}", self.group, self.started, self.boot)
    }
}

/// Its folder is the tree or in it, also when that was removed; or its environment names the tree.
fn works_in(pid: u32, tree: &Path) -> bool {
    if fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|dir| dir.starts_with(tree)) {
        return true;
    }
    let mut environment = Vec::new();
    let read = File::open(format!("/proc/{pid}/environ"))
        .and_then(|file| file.take(MAX_ENVIRONMENT).read_to_end(&mut environment));
    let below = [tree.as_os_str().as_bytes(), b"/"].concat();
    read.is_ok() && memchr::memmem::find(&environment, &below).is_some()
}

fn boot_id() -> Option<String> {
    Some(fs::read_to_string("/proc/sys/kernel/random/boot_id").ok()?.trim().into())
}

fn process(pid: u32) -> Option<Process> {
    parse(pid, &String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))
}

fn parse(pid: u32, stat: &str) -> Option<Process> {
    // The second field is the program's name in parentheses, and may hold anything, also parentheses.
    let fields: Vec<&str> = stat.get(stat.rfind(')')? + 2..)?.split(' ').collect();
    let is_dead = matches!(*fields.first()?, "Z" | "X" | "x");
    Some(Process { pid, group: fields.get(2)?.parse().ok()?, started: fields.get(19)?.parse().ok()?, is_dead })
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: &str = "70 900 b-1";

    fn note() -> Note {
        Note::parse(NOTE).unwrap()
    }

    #[test]
    fn a_note_is_read_as_it_was_written_and_nothing_else_is_one() {
        assert_eq!(note().to_string(), NOTE);
        for wrong in ["", "70", "70 900", "70 900 ", "1 900 b", "0 900 b", "-7 900 b", "x 900 b"] {
            assert_eq!(Note::parse(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn a_group_is_ours_when_its_leader_is_or_a_member_shows_it() {
        let process = |pid, started| Process { pid, group: 70, started, is_dead: false };
        let check = |leader: Option<u64>, members: &[(u32, u64)], there: &[u32], expected| {
            let members: Vec<Process> = members.iter().map(|(pid, started)| process(*pid, *started)).collect();
            let leader = leader.map(|started| process(70, started));
            let ours = note().is_ours(leader, &members, &|p| there.contains(&p.pid));
            assert_eq!(ours, expected, "{leader:?} {members:?} {there:?}");
        };
        check(Some(900), &[(70, 900), (71, 901)], &[], true);
        // Somebody else has the number by now, wherever they work.
        check(Some(950), &[(70, 950), (71, 951)], &[70, 71], false);
        check(None, &[(71, 901), (72, 950)], &[72], true);
        check(None, &[(71, 901), (72, 950)], &[], false);
        // Nothing of a command is older than the command.
        check(None, &[(71, 899)], &[71], false);
        check(None, &[], &[], false);
    }

    #[test]
    fn reads_what_the_kernel_says_of_a_process() {
        let rest = "S 1 70 70 0 -1 4194560 1 0 0 0 1 2 0 0 20 0 1 0 901 1000 10";
        let expected = Process { pid: 71, group: 70, started: 901, is_dead: false };
        assert_eq!(parse(71, &format!("71 (a) b (c) {rest}")), Some(expected));
        let dead = rest.replacen('S', "Z", 1);
        assert_eq!(parse(71, &format!("71 (x) {dead}")), Some(Process { is_dead: true, ..expected }));
        for wrong in ["", "71", "71 (x)", "71 (x) S 1"] {
            assert_eq!(parse(71, wrong), None, "{wrong}");
        }
    }
}
