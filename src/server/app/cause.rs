//! Pure: why an instance failed, from all that is known about it: what happened in one line, the proof, the next step.
//!
//! Facts go before words: how it ended and what its program file is are judged in `ended`, where its sockets listen and
//! how it answers here; what it printed is judged in `said`, and only where the facts leave room for it. `evidence` reads
//! the facts.
//!
//! **Invariant**: a cause is named only when a fact or a line of output says so, and that fact or line is in its proof;
//! else what is known is told as it is.

pub(crate) mod said;
mod rules;
mod ended;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use super::check::Bad;
use super::lifecycle::{MISSES_DEAD, Why};
use super::watch::Exit;
use ended::{by_exit, by_file};
use said::{Said, Words};

/// Last lines of output that follow a proof which is a fact, and that are all the proof there is without one.
const LAST: usize = 5;
/// Characters of one line of proof; a report is read by people.
const WIDTH: usize = 300;

/// What there is to know about one failure.
pub(crate) struct Evidence<'a> {
    pub end: End,
    pub phase: Phase,
    /// What it printed last, oldest first, without colours.
    pub said: &'a [String],
    /// What was asked for its health: `/status`, or `its port`.
    pub subject: &'a str,
    /// The path is the app's own choice, and no promise of the SDK.
    pub own_path: bool,
    pub last_bad: Option<Bad>,
    /// The gist of that answer, if it was one.
    pub answered: &'a str,
    pub startup_s: u64,
    /// Its program, as people know it: a path in the release, or a full one.
    pub program: &'a str,
    pub file: File,
    /// It runs under the SDK, which takes the port that it is given.
    pub has_sdk: bool,
    /// Where it should listen; `None` while only it can tell.
    pub port: Option<u16>,
    /// Where its group listens; `None` when nobody is left or we may not look.
    pub listens: Option<Vec<SocketAddr>>,
    /// Who has the port that it says is taken, or that it took for its own.
    pub holder: Option<Holder>,
    /// It ended, and what it had started went on.
    pub strayed: bool,
    /// Kills for want of memory in its cgroup since it started; `None` without a cgroup.
    pub oom_kills: Option<u64>,
    /// In bytes, of the instance.
    pub memory_limit: Option<u64>,
    /// Kills for want of memory of the whole machine.
    pub machine_oom_kills: Option<u64>,
    /// Names of its vars and secrets.
    pub given: Vec<&'a str>,
    /// Folder of the release, with a slash at its end: left out of what people read.
    pub dir: &'a str,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum End {
    /// It ended, and nobody had asked for it.
    Exit(Exit),
    /// There never was a process: why, and what to do where that is known already.
    NotStarted { error: String, hint: Option<String> },
    /// It was given up.
    GaveUp(Why),
    /// It was healthy in a rollout that was not over, and is not any more.
    Unwell,
    /// It says that it listens on this port, and it does not.
    Stolen(u16),
    /// Another program listens on the port that it was given, and it does not.
    Elsewhere,
}

/// How far it had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Phase {
    Starting,
    Ready,
    Serving,
}

/// What a program file is.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum File {
    /// As far as can be seen.
    Fine,
    Missing,
    Folder,
    Empty,
    NotExecutable,
    /// Text without a first line that names who runs it.
    Text,
    /// Its first line names a program that is not there.
    Interpreter {
        name: String,
        carriage_return: bool,
    },
    /// The loader that it asks for is not there.
    Loader(String),
    /// For a machine of another kind.
    Foreign {
        made_for: String,
        here: &'static str,
    },
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Holder {
    pub pid: u32,
    pub name: String,
}

#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Cause {
    /// As the end of a sentence that starts with the instance.
    pub what: String,
    pub proof: Vec<String>,
    pub hint: Option<String>,
}

/// A reason that facts give.
struct Reason {
    why: String,
    proof: Vec<String>,
    hint: String,
}

pub(crate) fn judge(e: &Evidence<'_>) -> Cause {
    let facts = by_facts(e);
    if let Some(Reason { why, mut proof, hint }) = facts {
        proof.extend(last_words(e, LAST.saturating_sub(proof.len())));
        return cause(e, &why, proof, Some(hint));
    }
    if let Some(Said { why, proof, hint }) = by_words(e) {
        return cause(e, &why, proof, Some(hint));
    }
    let hint = match &e.end {
        End::NotStarted { hint, .. } => hint.clone(),
        End::GaveUp(Why::NeverReady) => Some("if it only needs longer, raise `startup_timeout`".into()),
        End::Exit(_) | End::GaveUp(_) | End::Unwell | End::Stolen(_) | End::Elsewhere => None,
    };
    cause(e, "", last_words(e, LAST), hint)
}

fn cause(e: &Evidence<'_>, why: &str, proof: Vec<String>, hint: Option<String>) -> Cause {
    let what = match why {
        "" => event(e),
        why => format!("{}: {}", event(e), why.replace(e.dir, "")),
    };
    let proof = proof.into_iter().map(|line| line.chars().take(WIDTH).collect()).collect();
    Cause { what: what.chars().take(WIDTH).collect(), proof, hint }
}

/// What happened, which is known in any case.
fn event(e: &Evidence<'_>) -> String {
    let (subject, limit) = (e.subject, e.startup_s);
    match (&e.end, e.last_bad) {
        (End::Exit(exit), _) => {
            let when = match e.phase {
                Phase::Starting => " before it was ready",
                Phase::Ready => " before it was healthy",
                Phase::Serving => "",
            };
            let nothing = if e.said.iter().all(|l| l.trim().is_empty()) { " and printed nothing" } else { "" };
            format!("{exit}{when}{nothing}")
        }
        (End::NotStarted { error, .. }, _) if e.file == File::Fine => format!("could not be started: {error}"),
        (End::NotStarted { .. }, _) => "could not be started".into(),
        (End::GaveUp(Why::NeverReady), _) => format!("not ready after {limit}s"),
        (End::GaveUp(Why::NeverHealthy), Some(bad)) => format!("is up but {subject} {bad}"),
        (End::GaveUp(Why::NeverHealthy), None) => format!("is up but {subject} was not asked within {limit}s"),
        (End::GaveUp(Why::Unhealthy), Some(bad)) => {
            format!("was killed because {subject} {bad} {MISSES_DEAD} times")
        }
        (End::GaveUp(Why::Unhealthy), None) => "was killed because it failed its probes".into(),
        (End::Unwell, Some(bad)) => format!("became unhealthy: {subject} {bad}"),
        (End::Unwell, None) => "became unhealthy".into(),
        (End::Stolen(port), _) => format!("says that it listens on port {port}, which is another program's"),
        (End::Elsewhere, _) => "does not listen on its port, and another program does".into(),
    }
}

fn by_facts(e: &Evidence<'_>) -> Option<Reason> {
    match &e.end {
        End::NotStarted { .. } => by_file(e),
        End::Exit(exit) => by_exit(e, *exit),
        End::GaveUp(Why::NeverReady | Why::NeverHealthy) => by_sockets(e).or_else(|| by_answer(e)),
        End::GaveUp(Why::Unhealthy) | End::Unwell => by_answer(e),
        End::Stolen(port) => by_owner(e, &format!("print `TAKO:READY:` with the port of its own socket, not {port}")),
        End::Elsewhere => by_owner(e, "make it listen on the port that the variable PORT says, on 127.0.0.1"),
    }
}

/// Whose port it is.
fn by_owner(e: &Evidence<'_>, hint: &str) -> Option<Reason> {
    let why = match &e.holder {
        Some(holder) => format!("it belongs to {holder}"),
        None => "the sockets of the app do not have it".into(),
    };
    Some(Reason { why, proof: listening(e).into_iter().collect(), hint: hint.into() })
}

/// It runs, and is not where it should be.
fn by_sockets(e: &Evidence<'_>) -> Option<Reason> {
    let listens = e.listens.as_ref()?;
    let reason = |why: String, hint: String| Some(Reason { why, proof: listening(e).into_iter().collect(), hint });
    match e.port {
        // It may be right that it has no socket yet: what it printed says why, if it does.
        _ if listens.is_empty() => {
            if by_words(e).is_some() {
                return None;
            }
            let longer = "if it only needs longer, raise `startup_timeout`";
            match e.has_sdk {
                true => reason(
                    "it listens on no port".into(),
                    format!("serve with `listen()` or export a fetch handler; {longer}"),
                ),
                false => reason("it listens on no port".into(), format!("make it listen on $PORT; {longer}")),
            }
        }
        Some(port) if listens.iter().any(|at| at.port() == port && reaches(at.ip())) => match e.last_bad {
            Some(Bad::Refused) | None => reason(
                format!("it listens on its port, but {} has not answered yet", e.subject),
                "answer it at once, or raise `startup_timeout`".into(),
            ),
            Some(Bad::Silent | Bad::Broken | Bad::Status(_)) => None,
        },
        Some(port) => match listens.iter().find(|at| at.port() == port) {
            Some(at) => reason(
                format!("it listens on {at} only, and is asked at 127.0.0.1:{port}"),
                "make it listen on $HOST (127.0.0.1), or on 0.0.0.0".into(),
            ),
            None => reason(
                format!("it listens on {}, and not on $PORT ({port})", ports(listens)),
                "make it listen on the port that the variable PORT says".into(),
            ),
        },
        None => reason(
            format!("it listens on {}, but not with a plain HTTP server that Tako could see", ports(listens)),
            "serve HTTP without TLS from the process that is started, or set `start` and listen on $PORT".into(),
        ),
    }
}

/// It is where it should be, and does not answer well.
fn by_answer(e: &Evidence<'_>) -> Option<Reason> {
    let bad = e.last_bad?;
    let subject = e.subject;
    let why = match (&e.end, bad) {
        (End::GaveUp(Why::NeverReady), _) => format!("{subject} {bad}"),
        // The event itself says the rest.
        (_, Bad::Status(404)) if e.own_path => "the health path is not there".into(),
        _ => String::new(),
    };
    let hint = match bad {
        Bad::Status(404) if e.own_path => {
            format!("serve {subject}, or set `health` to a path that the app answers with 2xx")
        }
        Bad::Status(401 | 403) => format!("let {subject} be asked without a login"),
        Bad::Status(300..=399) => format!("answer {subject} with 2xx and not with a redirect"),
        Bad::Status(500..) => format!("see what the app printed, and why {subject} fails"),
        Bad::Status(_) => format!("answer a plain GET of {subject} with 2xx"),
        Bad::Silent => format!("answer {subject} at once: no slow query in it, and nothing that blocks the event loop"),
        Bad::Broken => "serve plain HTTP there: Tako ends TLS itself".to_owned(),
        // While it starts, what is refused is only not there yet.
        Bad::Refused if e.phase != Phase::Serving => return None,
        Bad::Refused => "find out why it closed its socket; see what it printed".to_owned(),
    };
    let answered = (!e.answered.is_empty()).then(|| format!("answer: {}", e.answered));
    Some(Reason { why, proof: answered.into_iter().chain(listening(e)).collect(), hint })
}

fn by_words(e: &Evidence<'_>) -> Option<Said> {
    match &e.end {
        // Its output is from before; why it could not be started is another matter.
        End::NotStarted { .. } | End::Stolen(_) | End::Elsewhere => None,
        End::Exit(Exit::Code(0)) => None,
        End::Exit(_) => said::find(&Words::of(e)).or_else(|| said::uncaught(&Words::of(e))),
        End::GaveUp(_) | End::Unwell => said::find(&Words::of(e)),
    }
}

/// One line that says where it listens.
fn listening(e: &Evidence<'_>) -> Option<String> {
    let listens = e.listens.as_ref()?;
    let told = match listens.as_slice() {
        [] => "none of its processes listens on a TCP port".into(),
        some => format!("listening: {}", some.iter().map(SocketAddr::to_string).collect::<Vec<_>>().join(", ")),
    };
    Some(told)
}

fn last_words(e: &Evidence<'_>, count: usize) -> Vec<String> {
    let said: Vec<&String> = e.said.iter().filter(|line| !line.trim().is_empty()).collect();
    said[said.len().saturating_sub(count)..].iter().map(ToString::to_string).collect()
}

/// Whether a connection to 127.0.0.1 gets there. A socket of `::` takes IPv4 too unless it was told not to.
fn reaches(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip == Ipv4Addr::LOCALHOST || ip.is_unspecified(),
        IpAddr::V6(ip) => ip.is_unspecified(),
    }
}

fn ports(listens: &[SocketAddr]) -> String {
    let mut ports: Vec<u16> = listens.iter().map(SocketAddr::port).collect();
    ports.sort_unstable();
    ports.dedup();
    let told: Vec<String> = ports.iter().map(u16::to_string).collect();
    format!("port {}", told.join(", "))
}

impl std::fmt::Display for Holder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} (pid {})", self.name, self.pid)
    }
}

impl<'a> Words<'a> {
    fn of(e: &'a Evidence<'_>) -> Words<'a> {
        Words { lines: e.said, given: &e.given, holder: e.holder.as_ref(), dir: e.dir, port: e.port }
    }
}

#[cfg(test)]
mod tests;
