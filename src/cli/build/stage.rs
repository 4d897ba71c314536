//! One command of a build: run by the shell in the build tree, in a process group of its own, heard line by line.
//!
//! **Invariant**: whatever it says, and however much, takes a bounded memory and cannot drive the terminal; when it is
//! over, well or badly, nothing of its group runs.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select};

use super::bundle::Source;
use super::environment::Environment;
use super::turn::Turn;
use super::verdict;
use crate::cli::child::{Owned, each_line};
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::error::{Context, Error, Kind, Result};

/// Lines of output that a failure shows.
const SHOWN: usize = 40;
/// As many of them, of an installation, are its first.
const FIRST: usize = 12;
/// Lines read ahead of the terminal; then the command waits.
const AHEAD: usize = 256;
/// What a command may take to end once it closed its output, and its output once it ended.
const ENDING: Duration = Duration::from_secs(5);
/// How often we look for the end of a command whose output something else holds open.
const LOOK: Duration = Duration::from_millis(200);
/// Of a command that is a script, this much names it.
const NAMED: usize = 100;

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Step {
    /// For people: `build`, `stage css`.
    pub name: String,
    /// For the shell.
    pub command: String,
    /// Relative to the source root.
    pub dir: PathBuf,
    /// It installs packages for the folders below this one.
    pub installs_below: Option<PathBuf>,
    /// Said before it is run.
    pub warning: Option<String>,
}

impl Step {
    /// The command in one line: of a script the first that does something.
    pub fn title(&self) -> String {
        let says_little = |line: &str| line.is_empty() || line.starts_with('#') || line.starts_with("set -");
        let mut lines = self.command.lines().map(str::trim).filter(|line| !says_little(line));
        let first = lines.next().unwrap_or_default();
        let short: String = first.chars().take(NAMED).collect();
        match short.len() < first.len() || lines.next().is_some() {
            true => format!("{short} …"),
            false => short,
        }
    }
}

/// Runs `step` in `tree`; `on` hears its output, both streams as one.
///
/// # Errors
/// Build with the last lines, when it does not end with 0; Interrupted.
pub(crate) fn run(
    tree: &Path,
    source: &Source,
    environment: &Environment,
    step: &Step,
    turn: &Turn,
    interrupt: &Interrupt,
    on: &mut dyn FnMut(&str),
) -> Result<()> {
    if !tree.join(&step.dir).is_dir() {
        let message = format!("{}: the folder `{}` is not in the sources", step.name, step.dir.display());
        return Err(Error::new(Kind::Build, message).hint("is it in a .gitignore, or its `working_dir` misspelt?"));
    }
    let mut command = environment.command(tree, source, step);
    match hear(&mut command, turn, interrupt, on) {
        Ok(heard) => heard.or_failed(step),
        Err(e) if e.kind() == Kind::Interrupted => Err(e),
        Err(e) => Err(e).context(|| format!("{}: run `{}`", step.name, step.title())),
    }
}

/// How a command ended, and the first and last lines that it printed.
pub(super) struct Heard {
    status: Option<ExitStatus>,
    first: Vec<String>,
    pub last: Vec<String>,
    /// Of all lines.
    count: usize,
}

impl Heard {
    pub fn succeeded(&self) -> bool {
        self.status.is_some_and(|status| status.success())
    }

    /// # Errors
    /// Build with the last lines, when it did not end with 0.
    pub fn or_failed(self, step: &Step) -> Result<()> {
        match self.succeeded() {
            true => Ok(()),
            false => Err(failed(step, self)),
        }
    }
}

/// Runs `command`; `on` hears its output, both streams as one.
///
/// # Errors
/// Interrupted; then it is gone with all that it started.
pub(super) fn hear(
    command: &mut Command,
    turn: &Turn,
    interrupt: &Interrupt,
    on: &mut dyn FnMut(&str),
) -> Result<Heard> {
    let doing = || format!("start {}", command.get_program().display());
    let (reader, writer) = std::io::pipe().context(doing)?;
    let second = writer.try_clone().context(doing)?;
    command.stdin(Stdio::null()).stdout(second).stderr(writer);
    // Dropped after the command, which is remembered until then.
    let running = turn.runs();
    let owned = Owned::spawn_leashed(command);
    let mut owned = owned.context(|| format!("start {}", command.get_program().display()))?;
    running.is(owned.pid());
    // The command holds our ends of the pipe too; without this the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (line, lines) = bounded(AHEAD);
    thread::spawn(move || {
        each_line(reader, |text| {
            // Nobody listens any more after an interrupt.
            let _ = line.send(text);
        });
    });
    let (mut first, mut last) = (Vec::new(), VecDeque::new());
    let (mut ended, mut count) = (None, 0);
    let [signal, sibling] = interrupt.bells();
    let status = loop {
        // With the command's end, what it left in the background is stopped, and the pipe with it.
        if owned.wait_for(Duration::ZERO).is_some() && ended.get_or_insert_with(Instant::now).elapsed() > ENDING {
            break owned.wait_for(Duration::ZERO);
        }
        select! {
            recv(lines) -> text => match text {
                Ok(text) => {
                    on(&text);
                    count += 1;
                    if first.len() < SHOWN {
                        first.push(text.clone());
                    }
                    if last.len() == SHOWN {
                        last.pop_front();
                    }
                    last.push_back(text);
                }
                Err(_) => break owned.wait_for(ENDING),
            },
            recv(signal) -> _ => return Err(interrupted()),
            recv(sibling) -> _ => return Err(interrupted()),
            default(LOOK) => {}
        }
    };
    Ok(Heard { status, first, last: last.into(), count })
}

/// The end is shown, of an installation the beginning, too: npm says first what is wrong, and then for fifty lines how it
/// could be used. What helps may be found in either.
fn failed(step: &Step, heard: Heard) -> Error {
    let Heard { status, first, last: lines, count } = heard;
    let place = match step.dir.as_os_str().is_empty() {
        true => String::new(),
        false => format!(" in {}", step.dir.display()),
    };
    let message = format!("{}: `{}`{place} {}", step.name, step.title(), verdict::ending(status));
    let hint = verdict::hint(status, &lines)
        .or_else(|| verdict::hint(status, &first))
        .or_else(|| (lines.len() == SHOWN).then(|| "with `--verbose` you see all that it says".into()));
    let shown = match step.installs_below.is_some() && count > SHOWN {
        true => both_ends(first, lines, count),
        false => lines,
    };
    let error = Error::new(Kind::Build, message).with_detail(shown);
    match hint {
        Some(hint) => error.hint(hint),
        None => error,
    }
}

/// As many lines as [`SHOWN`], and one that says what is not shown.
fn both_ends(mut first: Vec<String>, mut last: Vec<String>, count: usize) -> Vec<String> {
    first.truncate(FIRST);
    first.push(format!("… {} more lines …", count - SHOWN));
    first.extend(last.drain(FIRST..));
    first
}
