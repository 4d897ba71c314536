//! `tako logs`: what the app printed, of all its servers as one stream.

use std::convert::Infallible;
use std::thread;
use std::time::Duration;

use crossbeam_channel::{RecvTimeoutError, bounded};
use serde_json::json;

use super::{Exit, aim};
use crate::cli::args::Args;
use crate::cli::child::plain;
use crate::cli::fanout;
use crate::cli::interrupt::{Interrupt, Trigger};
use crate::cli::remote::{Place, Remote};
use crate::cli::ui::Ui;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{LogLine, Notice, Request, Stream};
use crate::proto::name::ServerName;

/// How soon we notice that nobody reads any more.
const LOOK: Duration = Duration::from_millis(200);
/// Without `--lines`.
const LINES: u32 = 100;

pub(crate) fn run(ui: &Ui, args: &Args) -> Result<Exit> {
    let (trigger, interrupt) = Interrupt::of_process()?.or_trigger();
    let project = aim::project(ui, args)?;
    let env_name = aim::env_name(args)?;
    let servers = aim::servers(&env_name, project.env(&env_name)?, &aim::wanted(args)?)?;
    let app = aim::app(&project, &env_name);
    let follow = args.flag("tail");
    let lines = args.parsed("lines")?.unwrap_or(LINES);
    let several = servers.len() > 1;
    // Without `--tail` the lines of all servers are put in order of time; with it they come as they come.
    let count = servers.len();
    let read = || {
        fanout::each(servers, if follow { count } else { fanout::CONNECTS }, |server| {
            let mut kept = Vec::new();
            let mut on = |notice| {
                if let Notice::Lines { lines, .. } = notice {
                    match follow {
                        true => lines.iter().for_each(|line| tell(ui, several.then_some(&server.name), line)),
                        false => kept.extend(lines),
                    }
                }
            };
            let read = Remote::connect(&Place::Ssh(server.clone()), &interrupt).and_then(|mut remote| {
                remote.order(
                    Request::Logs(crate::proto::control::LogQuery {
                        app: app.clone(),
                        follow,
                        lines: Some(lines),
                        since_ms: None,
                        until_ms: None,
                        days: None,
                        grep: None,
                        ignore_case: false,
                        release: None,
                        instance: None,
                        stream: None,
                    }),
                    &mut on,
                )
            });
            (server.name, kept, read)
        })
    };
    let results = match follow {
        true => until_closed(ui, trigger, read),
        false => read(),
    };
    let mut all: Vec<(ServerName, LogLine)> = Vec::new();
    let mut failed: Vec<(ServerName, Error)> = Vec::new();
    for (server, lines, read) in results {
        all.extend(lines.into_iter().map(|line| (server.clone(), line)));
        match read {
            // Ctrl-C is how following ends.
            Err(e) if !(follow && e.kind() == Kind::Interrupted) => failed.push((server, e)),
            _ => {}
        }
    }
    // Stable, so that lines of one moment stay as their server had them.
    all.sort_by_key(|(_, line)| line.at_ms);
    all.iter().for_each(|(server, line)| tell(ui, several.then_some(server), line));
    match aim::failure(failed, count) {
        Some(e) => Err(e),
        None => Ok(Exit::Done),
    }
}

/// Follows until nobody reads any more, as after `| head`: a quiet app would never let us notice by a failed write.
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

fn tell(ui: &Ui, server: Option<&ServerName>, line: &LogLine) {
    let stream = match line.stream {
        Stream::Out => "out",
        Stream::Err => "err",
    };
    ui.event(
        "log",
        json!({
            "at_ms": line.at_ms,
            "server": server,
            "release": line.release,
            "instance": line.instance,
            "stream": stream,
            "text": line.text,
        }),
    );
    ui.out(&shown(server, line));
}

/// `12:03:07.250 [fra1] #1 GET /`; standard error is marked, because colour alone must not tell.
fn shown(server: Option<&ServerName>, line: &LogLine) -> String {
    let at = i64::try_from(line.at_ms).ok().and_then(|ms| jiff::Timestamp::from_millisecond(ms).ok());
    let at = at
        .map_or_else(String::new, |at| at.to_zoned(jiff::tz::TimeZone::system()).strftime("%H:%M:%S%.3f ").to_string());
    let server = server.map_or_else(String::new, |server| format!("[{server}] "));
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
    fn a_line_names_its_server_only_among_several() {
        let mut line = LogLine {
            at_ms: 0,
            release: "4f2c9ab".into(),
            instance: 2,
            stream: Stream::Out,
            text: "\x1b[31mGET\x1b[0m /\x07".into(),
        };
        let after_time = |text: String| text.split_once(' ').unwrap().1.to_string();
        assert_eq!(after_time(shown(None, &line)), "#2 GET /");
        line.stream = Stream::Err;
        let server = ServerName::parse("fra1").unwrap();
        assert_eq!(after_time(shown(Some(&server), &line)), "[fra1] #2 ! GET /");
    }
}
