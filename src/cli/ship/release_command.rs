//! The `release` command of `tako.toml`: run once per deploy on the first server that is deployed to, in the new release,
//! when all servers have it and before any serves it. Where nothing is to be brought to any server it does not run; one
//! that brings the rest after a partial failure runs it again, and a migration that has nothing to do does nothing.
//!
//! **Invariant**: when it does not end well no server has changed, and the new release is on none of them.

use std::collections::VecDeque;

use super::Shipment;
use super::bind::Bound;
use super::tell::{at, end_badly};
use crate::cli::child::plain;
use crate::cli::fanout::{self, CALLS};
use crate::cli::ui::Ui;
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{Notice, Reply, Request, Stream};
use crate::proto::task::{Ended, RunRelease};

/// Lines of its output in the report of a failure.
const SHOWN: usize = 40;
/// A longer line is cut; nobody reads more of it.
const MAX_LINE: usize = 2 << 10;

pub(super) fn run(ui: &Ui, shipment: &Shipment<'_>, bound: &mut [Bound]) -> Result<()> {
    let Some(command) = &shipment.project.release else { return Ok(()) };
    let Some((first, others)) = bound.split_first_mut() else { return Ok(()) };
    let task = ui.task("Release");
    let name = first.place.name().to_string();
    task.set(&format!("{command} on {name}"));
    ui.detail(&format!("{name}: $ {command}"));
    let ran = at(&name, run_on(ui, shipment, command, first));
    match ran {
        Ok(()) => {
            task.done(&format!("{command} on {name}"));
            Ok(())
        }
        Err(e) => {
            give_up(shipment, others);
            match e.kind() {
                Kind::Rejected => task.fail("nothing was changed"),
                _ => end_badly(task, &e),
            }
            Err(e)
        }
    }
}

fn run_on(ui: &Ui, shipment: &Shipment<'_>, command: &str, first: &mut Bound) -> Result<()> {
    let order = RunRelease {
        manifest: first.wish.manifest.clone(),
        secrets: shipment.secrets_for(&first.preflight),
        command: command.into(),
    };
    let mut said = Said::default();
    let reply = first.remote.call(Request::RunRelease(order), &mut |notice| {
        if let Notice::Output { stream, bytes } = notice {
            said.hear(stream, &bytes.0, &mut |line| ui.detail(&format!("  {line}")));
        }
    })?;
    match reply {
        Reply::Ran(ended) if ended.is_good() => Ok(()),
        Reply::Ran(ended) => Err(failed(command, &ended, said.last())),
        other => Err(first.remote.misunderstood(&other)),
    }
}

/// The server that ran it has removed the release by itself; on the others it was to follow.
fn give_up(shipment: &Shipment<'_>, others: &mut [Bound]) {
    fanout::each(others.iter_mut().collect(), CALLS, |bound: &mut Bound| {
        let (app, version) = (shipment.app(), shipment.version.clone());
        // What stays there goes with the next deploy.
        let _ = bound.remote.order(Request::Discard { app, version }, &mut |_| {});
    });
}

fn failed(command: &str, ended: &Ended, lines: Vec<String>) -> Error {
    let how = match ended {
        Ended::Code(code) => format!("failed with exit code {code}"),
        Ended::Signal(signal) => format!("was ended by signal {signal}"),
        Ended::OutOfTime(seconds) => {
            format!("did not end within {}", units::duration(std::time::Duration::from_secs(*seconds)))
        }
        Ended::NotStarted { why, .. } => format!("could not be started: {why}"),
    };
    Error::new(Kind::Rejected, format!("the release command `{command}` {how}"))
        .with_detail(lines)
        .hint("every server serves what it did before; what the command has done elsewhere, as in a database, stays")
}

/// Its last lines, of both streams as they came.
#[derive(Default)]
struct Said {
    parts: [Vec<u8>; 2],
    lines: VecDeque<String>,
}

impl Said {
    fn hear(&mut self, stream: Stream, bytes: &[u8], on: &mut dyn FnMut(&str)) {
        let which = usize::from(stream == Stream::Err);
        for piece in bytes.split_inclusive(|b| *b == b'\n') {
            let part = &mut self.parts[which];
            let (text, ends) = piece.strip_suffix(b"\n").map_or((piece, false), |text| (text, true));
            let room = MAX_LINE.saturating_sub(part.len());
            part.extend_from_slice(&text[..text.len().min(room)]);
            if ends {
                on(self.end_line(which));
            }
        }
    }

    fn end_line(&mut self, which: usize) -> &str {
        let line = plain(&std::mem::take(&mut self.parts[which]));
        if self.lines.len() == SHOWN {
            self.lines.pop_front();
        }
        self.lines.push_back(line);
        self.lines.back().map_or("", String::as_str)
    }

    fn last(mut self) -> Vec<String> {
        for which in 0..2 {
            if !self.parts[which].is_empty() {
                self.end_line(which);
            }
        }
        self.lines.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_lines_are_kept_whole_wherever_they_were_cut() {
        let mut said = Said::default();
        let mut heard = Vec::new();
        for n in 0..50 {
            said.hear(Stream::Out, format!("line {n}\nha").as_bytes(), &mut |line| heard.push(line.to_string()));
            said.hear(Stream::Err, format!("\x1b[31merr {n}\x1b[0m\r\n").as_bytes(), &mut |_| {});
            said.hear(Stream::Out, b"lf\n", &mut |_| {});
        }
        said.hear(Stream::Out, &vec![b'x'; 3 * MAX_LINE], &mut |_| {});
        assert_eq!(heard[49], "line 49");
        let last = said.last();
        assert_eq!((last.len(), last[SHOWN - 1].len()), (SHOWN, MAX_LINE));
        assert_eq!(last[SHOWN - 4..SHOWN - 1], ["line 49", "err 49", "half"]);
    }

    #[test]
    fn a_failure_says_how_it_ended_and_what_stays() {
        let text = |ended| failed("bin/migrate", &ended, Vec::new()).to_string();
        assert_eq!(text(Ended::Code(3)), "the release command `bin/migrate` failed with exit code 3");
        assert_eq!(text(Ended::OutOfTime(600)), "the release command `bin/migrate` did not end within 10m 00s");
        assert_eq!(failed("x", &Ended::Signal(9), Vec::new()).kind(), Kind::Rejected);
    }
}
