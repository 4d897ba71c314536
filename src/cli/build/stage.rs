//! One command of a build: run by the shell in the build tree, in a process group of its own, heard line by line.

use std::collections::VecDeque;
use std::env;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{bounded, select};

use super::bundle::Source;
use crate::cli::child::{Owned, each_line};
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::error::{Context, Error, Kind, Result};
use crate::proto::target::Target;

/// Lines of output that a failure shows.
const SHOWN: usize = 40;
/// Lines read ahead of the terminal; then the command waits.
const AHEAD: usize = 256;
/// What a command may take to end once it closed its output, and its output once it ended.
const ENDING: Duration = Duration::from_secs(5);
/// How often we look for the end of a command whose output something else holds open.
const LOOK: Duration = Duration::from_millis(200);

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
}

/// Runs `step` in `tree` for `target`; `on` hears its output, both streams as one.
///
/// # Errors
/// Build with the last lines, when it does not end with 0; Interrupted.
pub(crate) fn run(
    tree: &Path,
    source: &Source,
    step: &Step,
    target: Target,
    interrupt: &Interrupt,
    on: &mut dyn FnMut(&str),
) -> Result<()> {
    let mut command = Command::new("/bin/sh");
    command.arg("-c").arg(&step.command).current_dir(tree.join(&step.dir)).env("PATH", path(tree, source, step));
    command.env("TAKO_TARGET", target.to_string());
    hear(&mut command, &step.command, interrupt, on)?.or_failed(step)
}

/// How a command ended, and the last lines that it printed.
pub(super) struct Heard {
    status: Option<ExitStatus>,
    pub last: Vec<String>,
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
            false => {
                let message = format!("{}: `{}` {}", step.name, step.command, ending(self.status));
                Err(Error::new(Kind::Build, message).with_detail(self.last))
            }
        }
    }
}

/// Runs `command`, which is `shown` to people; `on` hears its output, both streams as one.
///
/// # Errors
/// Interrupted; then it is gone with all that it started.
pub(super) fn hear(
    command: &mut Command,
    shown: &str,
    interrupt: &Interrupt,
    on: &mut dyn FnMut(&str),
) -> Result<Heard> {
    let doing = || format!("run `{shown}`");
    let (reader, writer) = std::io::pipe().context(doing)?;
    command.stdin(Stdio::null()).stdout(writer.try_clone().context(doing)?).stderr(writer);
    let mut owned = Owned::spawn(command).context(doing)?;
    // The command holds our ends of the pipe too; without this the reader would never see its end.
    command.stdout(Stdio::null()).stderr(Stdio::null());

    let (line, lines) = bounded(AHEAD);
    thread::spawn(move || {
        each_line(reader, |text| {
            // Nobody listens any more after an interrupt.
            let _ = line.send(text);
        });
    });
    let mut last = VecDeque::new();
    let mut ended = None;
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
    Ok(Heard { status, last: last.into() })
}

fn ending(status: Option<ExitStatus>) -> String {
    use std::os::unix::process::ExitStatusExt;
    match status.map(|s| (s.code(), s.signal())) {
        Some((Some(code), _)) => format!("ended with exit code {code}"),
        Some((None, Some(signal))) => format!("was ended by signal {signal}"),
        _ => "did not end".into(),
    }
}

/// The programs of installed packages first, as every package manager does for its scripts.
fn path(tree: &Path, source: &Source, step: &Step) -> OsString {
    let folders = [&step.dir, &source.app, &PathBuf::new()];
    let mut dirs: Vec<PathBuf> = folders.iter().map(|dir| tree.join(dir).join("node_modules/.bin")).collect();
    dirs.dedup();
    let inherited = env::var_os("PATH").unwrap_or_default();
    dirs.extend(env::split_paths(&inherited));
    // A folder with a colon in its name cannot be in PATH at all.
    env::join_paths(dirs).unwrap_or(inherited)
}
