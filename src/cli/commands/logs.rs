//! `tako logs`: what the app printed, of all its servers as one stream.

mod access;
mod last;
mod listen;
mod merge;
mod same;
mod seen;
mod wanted;

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Select, bounded};
use jiff::tz::TimeZone;
use serde_json::json;

use super::{Exit, aim};
use crate::cli::args::Args;
use crate::cli::child::plain;
use crate::cli::config::inventory::Server;
use crate::cli::fanout;
use crate::cli::interrupt::{Interrupt, Trigger};
use crate::cli::remote::{Place, Remote};
use crate::cli::ui::Ui;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{LogLine, Stream};
use crate::proto::name::{AppId, ServerName};
use last::Last;
use merge::{Merge, Next, Piece};
use same::{Line, Same};
use wanted::Wanted;

/// How soon we notice that nobody reads any more.
const LOOK: Duration = Duration::from_millis(200);
/// Messages of one server (64 KiB of text each) that wait for their turn among the others' times; then its server waits.
const MAX_AHEAD: usize = 256;

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let wanted = Wanted::of(args)?;
    let (trigger, interrupt) = Interrupt::of_process()?.or_trigger();
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let servers = aim::servers(&env_name, project.env(&env_name)?, &aim::wanted(args)?)?;
    let app = aim::app(&project, &env_name);
    // One who follows looks at the end.
    let pages = !wanted.follow && !args.flag("no-pager");
    let reading = Reading { ui, wanted: &wanted, app: &app, servers: &servers, pages };
    let (told, failed, left) = until_closed(ui, trigger, || reading.run(&interrupt));
    // Ctrl-C is how following ends, and whoever reads no more has seen enough.
    let mut failed: Vec<_> =
        failed.into_iter().filter(|(_, e)| !((wanted.follow || left) && e.kind() == Kind::Interrupted)).collect();
    if told == 0 && failed.is_empty() && !wanted.follow {
        let names: Vec<&str> = servers.iter().map(|s| s.name.as_str()).collect();
        ui.note(&wanted.nothing_found(&app, &names));
    }
    if let Some(at) = failed.iter().position(|(_, e)| e.kind() == Kind::Interrupted) {
        return Err(failed.swap_remove(at).1);
    }
    let mut failed: BTreeMap<ServerName, Error> = failed.into_iter().collect();
    let asked = servers.into_iter().map(|server| match failed.remove(&server.name) {
        Some(e) => (server.name, Err(e)),
        None => (server.name, Ok(())),
    });
    aim::unanswered(ui, asked.collect())
}

/// Reads until nobody does any more, as after `| head` or when the pager is left: a quiet app would never let us notice
/// by a failed write.
fn until_closed<T>(ui: &Ui, trigger: Trigger, read: impl FnOnce() -> T) -> T {
    let (over, ended) = bounded::<Infallible>(0);
    thread::scope(|scope| {
        scope.spawn(move || {
            let _trigger = trigger;
            while !ui.is_closed() && ended.recv_timeout(LOOK) == Err(RecvTimeoutError::Timeout) {}
        });
        let read = read();
        drop(over);
        read
    })
}

struct Reading<'a> {
    ui: &'a Ui,
    wanted: &'a Wanted,
    app: &'a AppId,
    servers: &'a [Server],
    pages: bool,
}

type Failed = Vec<(ServerName, Error)>;

impl Reading<'_> {
    /// How many lines were told, what went wrong, and whether nobody read any more.
    fn run(&self, interrupt: &Interrupt) -> (u64, Failed, bool) {
        // All are connected before the first is read, so that the earlier lines of all are there to be put in order.
        let connected = fanout::each(self.servers.iter().collect(), fanout::CONNECTS, |server: &Server| {
            let _waiting = self.ui.waiting(server.name.as_str(), "connecting");
            Remote::connect(&Place::Ssh(server.clone()), interrupt)
        });
        let mut failed = Vec::new();
        let mut remotes = Vec::new();
        for (server, remote) in self.servers.iter().zip(connected) {
            match remote {
                Ok(remote) => remotes.push((server, remote)),
                Err(e) => self.fail(&mut failed, &server.name, e),
            }
        }
        // From here on there is something to read, and nothing to wait for is drawn.
        let pager = (self.pages && !remotes.is_empty()).then(|| self.ui.pager()).flatten();
        let told = thread::scope(|scope| {
            let mut names = Vec::new();
            let mut heard = Vec::new();
            let mut ends = Vec::new();
            for (server, mut remote) in remotes {
                let (to, pieces) = bounded(MAX_AHEAD);
                names.push(&server.name);
                heard.push(pieces);
                ends.push(scope.spawn(move || listen::to_server(self.wanted, self.app, server, &mut remote, &to)));
            }
            let told = self.tell_all(&names, &heard);
            for (name, end) in names.into_iter().zip(ends) {
                match end.join() {
                    Ok(Ok(())) => {}
                    Ok(Err(e)) => failed.push((name.clone(), e)),
                    Err(panic) => std::panic::resume_unwind(panic),
                }
            }
            told
        });
        let left = self.ui.is_closed();
        // Waits for the person to be done.
        drop(pager);
        (told, failed, left)
    }

    /// Puts the servers' lines in order of time; ends with the last of them. How many lines there were.
    fn tell_all(&self, names: &[&ServerName], heard: &[Receiver<Vec<Piece>>]) -> u64 {
        let several = self.servers.len() > 1;
        let mut merge = Merge::new(names.len(), self.wanted.follow, Instant::now());
        let mut same = Same::new(false);
        // Of one server it is its own last lines that were asked for.
        let mut last = self.wanted.lines().filter(|_| names.len() > 1).map(Last::new);
        let mut told = 0;
        loop {
            let now = Instant::now();
            let (server, piece) = match merge.next(now) {
                Next::Piece(server, piece) => (server, piece),
                Next::Live => {
                    told += self.tell_last(names, &mut same, last.take());
                    self.tell_lines(names, same.go_live(now));
                    continue;
                }
                Next::Wait(patience) => {
                    self.tell_lines(names, same.due(now));
                    let both = [patience, same.patience(now)].into_iter().flatten().min();
                    hear(&mut merge, heard, both);
                    continue;
                }
                Next::End => {
                    told += self.tell_last(names, &mut same, last.take());
                    self.tell_lines(names, same.end());
                    return told;
                }
            };
            let name = several.then_some(names[server]);
            match piece {
                Piece::Line(line) => match &mut last {
                    Some(last) => last.push((server, line)),
                    None => {
                        told += 1;
                        self.tell_line(names, &mut same, (server, line), now);
                    }
                },
                Piece::UpToDate => {}
                Piece::Missed(lines) => {
                    self.tell_lines(names, same.end());
                    self.ui.event("missed", json!({"server": name, "lines": lines}));
                    let at = name.map_or_else(String::new, |name| format!("{name}: "));
                    self.ui
                        .warn(&format!("{at}{lines} lines came faster than they could be told, and are missing here"));
                }
                Piece::Broken(why) => {
                    self.tell_lines(names, same.end());
                    self.ui.event("connection", json!({"server": names[server], "state": "lost", "why": why}));
                    self.ui.note(&format!("[{}] connection lost, trying again", names[server]));
                    self.ui.detail(&why);
                }
                Piece::Back => {
                    self.tell_lines(names, same.end());
                    self.ui.event("connection", json!({"server": names[server], "state": "back"}));
                    self.ui.note(&format!("[{}] connected again", names[server]));
                }
                // With one server it is the end, and the error of the command.
                Piece::Lost(why) if several && self.wanted.follow => {
                    self.tell_lines(names, same.end());
                    let why = why.to_string();
                    let why = why.strip_prefix(&format!("{}: ", names[server])).unwrap_or(&why);
                    self.ui.warn(&format!("no more is heard of {}: {why}", names[server]));
                }
                Piece::Lost(_) => {}
            }
        }
    }

    /// How many there were.
    fn tell_last(&self, names: &[&ServerName], same: &mut Same, last: Option<Last>) -> u64 {
        let Some((lines, left_out)) = last.map(Last::end) else { return 0 };
        if left_out > 0 {
            self.ui.warn(&format!(
                "so many lines do not fit: these are the last {}, and {left_out} before them are missing; \
                 `--since` and `--until` tell any number",
                lines.len()
            ));
        }
        let now = Instant::now();
        let count = lines.len() as u64;
        lines.into_iter().for_each(|line| self.tell_line(names, same, line, now));
        count
    }

    fn tell_line(&self, names: &[&ServerName], same: &mut Same, line: Line, now: Instant) {
        // A program is told of each.
        let lines = match self.ui.is_json() {
            true => vec![(line, 1)],
            false => same.on(line, now),
        };
        self.tell_lines(names, lines);
    }

    fn tell_lines(&self, names: &[&ServerName], lines: Vec<(Line, u64)>) {
        for ((server, line), count) in lines {
            let name = (self.servers.len() > 1).then_some(names[server]);
            if self.ui.is_json() {
                self.ui
                    .event(if self.wanted.access { "access" } else { "log" }, event(name, &line, self.wanted.access));
                continue;
            }
            let name = name.map(|name| self.ui.tinted(server, &format!("[{name}]")));
            let shown = shown(name.as_deref(), &line, self.wanted.access, jiff::Timestamp::now(), &TimeZone::system());
            self.ui.out(&if count > 1 { format!("{shown}  × {count}") } else { shown });
        }
    }

    fn fail(&self, failed: &mut Failed, name: &ServerName, e: Error) {
        if self.wanted.follow && self.servers.len() > 1 && e.kind() != Kind::Interrupted {
            self.ui.warn(&format!("nothing is heard of {name}: {e}"));
        }
        failed.push((name.clone(), e));
    }
}

/// Waits for one of those that the merge has nothing of.
fn hear(merge: &mut Merge, heard: &[Receiver<Vec<Piece>>], patience: Option<Duration>) {
    let lacking: Vec<usize> = merge.lacking().collect();
    let mut select = Select::new();
    lacking.iter().for_each(|server| {
        select.recv(&heard[*server]);
    });
    let ready = match patience {
        None => select.select(),
        Some(patience) => match select.select_timeout(patience) {
            Ok(ready) => ready,
            Err(_) => return,
        },
    };
    let server = lacking[ready.index()];
    match ready.recv(&heard[server]) {
        Ok(pieces) => merge.push(server, pieces, Instant::now()),
        Err(_) => merge.end(server),
    }
}

/// A line for a program; one of the access log is told as it lies in the file.
fn event(server: Option<&ServerName>, line: &LogLine, access: bool) -> serde_json::Value {
    let raw = access.then(|| serde_json::from_str::<serde_json::Value>(&line.text).ok()).flatten();
    match raw {
        Some(request) => json!({ "server": server, "request": request }),
        None => json!({
            "at_ms": line.at_ms,
            "server": server,
            "release": line.release,
            "instance": line.instance,
            "stream": match line.stream {
                Stream::Out => "out",
                Stream::Err => "err",
            },
            "text": line.text,
        }),
    }
}

/// `12:03:07.250 [fra1] #1 GET /`, with the day unless it is today; standard error is marked, because colour alone must
/// not tell.
fn shown(server: Option<&str>, line: &LogLine, access: bool, now: jiff::Timestamp, zone: &TimeZone) -> String {
    let at = i64::try_from(line.at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let at = at.map_or_else(String::new, |at| {
        let at = at.to_zoned(zone.clone());
        let is_today = at.date() == now.to_zoned(zone.clone()).date();
        at.strftime(if is_today { "%H:%M:%S%.3f " } else { "%Y-%m-%d %H:%M:%S%.3f " }).to_string()
    });
    let server = server.map_or_else(String::new, |server| format!("{server} "));
    if access {
        return format!("{at}{server}{}", plain(access::shown(&line.text).as_bytes()));
    }
    let mark = match line.stream {
        Stream::Out => "",
        Stream::Err => "! ",
    };
    format!("{at}{server}#{} {mark}{}", line.instance, plain(line.text.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_server_only_among_several_and_its_day_only_when_it_is_another() {
        let mut line = LogLine {
            at_ms: 3_723_004,
            release: "4f2c9ab".into(),
            instance: 2,
            stream: Stream::Out,
            text: "\x1b[31mGET\x1b[0m /\x07".into(),
        };
        let now = |hours: i64| jiff::Timestamp::from_second(hours * 3600).unwrap();
        assert_eq!(shown(None, &line, false, now(2), &TimeZone::UTC), "01:02:03.004 #2 GET /");
        line.stream = Stream::Err;
        let later = shown(Some("[fra1]"), &line, false, now(30), &TimeZone::UTC);
        assert_eq!(later, "1970-01-01 01:02:03.004 [fra1] #2 ! GET /");
    }
}
