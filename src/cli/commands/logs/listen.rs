//! Listen: the thread of one server: asks for its lines, and, where they are followed, asks for what came since after a
//! connection that was lost.
//!
//! **Invariant**: of what the server keeps no line is told twice and none is left out, however often the connection breaks;
//! it is tried again until it works or nobody wants it any more, and an error that another try does not mend ends it.

use std::time::Duration;

use crossbeam_channel::{Sender, select};

use super::merge::Piece;
use super::seen::Seen;
use super::wanted::Wanted;
use crate::cli::config::inventory::Server;
use crate::cli::interrupt::{Interrupt, interrupted};
use crate::cli::remote::{Place, Remote};
use crate::crypto;
use crate::error::{Error, Kind, Result};
use crate::proto::control::{LogQuery, Notice, Request};
use crate::proto::name::AppId;

/// Before the first attempt to connect again; before each that follows it is twice as long, up to [`LONGEST`].
const FIRST: Duration = Duration::from_millis(500);
/// A server that is gone for longer is not helped by being asked more often, and its return is seen soon enough.
const LONGEST: Duration = Duration::from_secs(30);

/// Until all is told, or for as long as it is followed. Whatever the server has to say goes `to` who merges it.
pub(super) fn to_server(
    wanted: &Wanted,
    app: &AppId,
    server: &Server,
    remote: &mut Remote,
    to: &Sender<Vec<Piece>>,
) -> Result<()> {
    // It is heard to its end.
    let tell = |pieces| drop(to.send(pieces));
    let listened = listen(wanted, app, server, remote, &tell);
    listened.inspect_err(|e| {
        if e.kind() != Kind::Interrupted {
            tell(vec![Piece::Lost(e.to_string())]);
        }
    })
}

fn listen(
    wanted: &Wanted,
    app: &AppId,
    server: &Server,
    remote: &mut Remote,
    tell: &impl Fn(Vec<Piece>),
) -> Result<()> {
    let first = wanted.query(app, remote.hello().clock_ms);
    let mut query = first.clone();
    let (mut seen, mut is_heard) = (Seen::new(), false);
    loop {
        let (asked_ms, mut known) = (remote.hello().clock_ms, seen.known());
        let ended = remote.order(Request::Logs(query), &mut |notice| {
            let Notice::Lines { mut lines, missed, up_to_date } = notice else { return };
            is_heard = true;
            lines.retain(|line| !known.has(line));
            if first.follow {
                lines.iter().for_each(|line| seen.on(line));
            }
            if up_to_date {
                seen.begin(asked_ms);
            }
            let gap = (missed > 0).then_some(Piece::Missed(missed));
            let lines = lines.into_iter().map(Piece::Line);
            tell(gap.into_iter().chain(lines).chain(up_to_date.then_some(Piece::UpToDate)).collect());
        });
        match ended {
            Err(e) if first.follow && is_heard && may_come_back(&e) => tell(vec![Piece::Broken(e.to_string())]),
            ended => return ended,
        }
        *remote = come_back(server, remote.interrupt())?;
        tell(vec![Piece::Back]);
        query = match seen.since_ms() {
            Some(since) => LogQuery { since_ms: Some(since), lines: None, ..first.clone() },
            None => first.clone(),
        };
    }
}

/// A lost connection; and a server that is stopping, for another one will take its place.
fn may_come_back(e: &Error) -> bool {
    matches!(e.kind(), Kind::Unreachable | Kind::Timeout | Kind::Busy)
}

fn come_back(server: &Server, interrupt: &Interrupt) -> Result<Remote> {
    let mut longest = FIRST;
    loop {
        pause(longest, interrupt)?;
        match Remote::connect(&Place::Ssh(server.clone()), interrupt) {
            Err(e) if may_come_back(&e) => longest = (longest * 2).min(LONGEST),
            back => return back,
        }
    }
}

/// Half of it to all of it: those that were cut off together come back apart.
fn pause(longest: Duration, interrupt: &Interrupt) -> Result<()> {
    let [random] = crypto::random::<1>()?;
    let pause = longest / 2 + longest * u32::from(random) / 510;
    let [signal, sibling] = interrupt.bells();
    select! {
        recv(signal) -> _ => Err(interrupted()),
        recv(sibling) -> _ => Err(interrupted()),
        default(pause) => Ok(()),
    }
}
