//! What is told of a shipment: words for a line of the progress tree, and of several errors the one that matters.

use std::time::Duration;

use crate::cli::build::Built;
use crate::cli::ui::Task;
use crate::cli::ui::units;
use crate::cli::upload::Sent;
use crate::error::{Context, Error, Kind, Result};
use crate::proto::control::{Deployed, Notice, Step, Swap};
use crate::proto::name::EnvName;
use crate::proto::status::Failure;

/// As what it is to who asked for a deploy, when no server has changed by it: the deploy has failed, and what served
/// before serves. Failures that say more than that, to a script, stay what they are.
pub(crate) fn rejected(e: Error) -> Error {
    match e.kind() {
        Kind::NotFound | Kind::Conflict | Kind::Refused | Kind::Timeout | Kind::Io => e.with_kind(Kind::Rejected),
        Kind::Usage | Kind::Config | Kind::Busy | Kind::Unreachable | Kind::Incompatible | Kind::Build => e,
        Kind::Rejected | Kind::NeedsInput | Kind::Interrupted | Kind::Bug => e,
    }
}

/// A step that was stopped because of another one has not failed: its line just ends.
pub(crate) fn end_badly(task: Task, e: &Error) {
    if e.kind() != Kind::Interrupted {
        task.fail(&e.to_string());
    }
}

/// The error with its server's name in front, which those of the connection have already.
pub(crate) fn at<T>(server: &str, result: Result<T>) -> Result<T> {
    match result {
        Err(e) if e.to_string().starts_with(&format!("{server}: ")) => Err(e),
        other => other.context(|| server.to_string()),
    }
}

/// The flags that narrow a command down to these servers.
pub(crate) fn alone<'a>(env: &EnvName, servers: impl Iterator<Item = &'a str>) -> String {
    let env = if env.is_production() { String::new() } else { format!(" --env {env}") };
    servers.fold(env, |flags, server| format!("{flags} --server {server}"))
}

/// The error with a way around it, beside its own next step.
pub(crate) fn or(e: Error, way: &str) -> Error {
    match e.next_step().map(str::to_string) {
        Some(hint) => e.hint(format!("{hint}{} or: {way}", if hint.ends_with('?') { "" } else { "," })),
        None => e.hint(way),
    }
}

/// Who has a lock, without since when: a line that only counts seconds says nothing new.
pub(super) fn without_age(busy: &str) -> String {
    let age = |rest: &str| {
        let (seconds, rest) = rest.split_at(rest.find(|c: char| !c.is_ascii_digit())?);
        rest.strip_prefix('s').filter(|_| !seconds.is_empty()).map(str::to_owned)
    };
    let found = busy.rmatch_indices(" for ").find_map(|(at, word)| Some((at, age(&busy[at + word.len()..])?)));
    found.map_or_else(|| busy.into(), |(at, rest)| format!("{}{rest}", &busy[..at]))
}

/// What a server that was lost for a while says afterwards of the release.
pub(super) fn did_not_come_up(server: &str, failure: Option<Failure>) -> Error {
    const HINT: &str = "`tako logs` shows what it printed";
    let error = |why: &str| Error::new(Kind::Rejected, format!("{server}: the new release did not come up{why}"));
    match failure {
        Some(failure) => {
            let error = error(&format!(": {failure}"));
            error.with_detail(failure.proof).hint(failure.hint.unwrap_or_else(|| HINT.into()))
        }
        None => error("").hint(HINT),
    }
}

/// One line for what was built.
pub(super) fn made(built: &[Built]) -> String {
    match built {
        [one] => format!("{} · {}", one.how, units::size(one.packed.bytes)),
        several => {
            let targets = several.iter().map(|built| built.target.to_string()).collect::<Vec<_>>().join(", ");
            let cached = several.iter().all(|built| built.cached);
            if cached { format!("{targets} · nothing changed") } else { targets }
        }
    }
}

/// What one server was sent.
pub(super) fn sent_to(sent: &Sent) -> String {
    match sent.bytes {
        0 => "already there".into(),
        _ => format!("{} and prepared", all_sent(std::slice::from_ref(sent))),
    }
}

/// What all servers were sent together, of what would have been sent in full.
pub(super) fn all_sent(sent: &[Sent]) -> String {
    let (bytes, of) = sent.iter().filter(|s| s.bytes > 0).fold((0, 0), |all, s| (all.0 + s.bytes, all.1 + s.of));
    let mut bases: Vec<String> = sent.iter().filter_map(|s| s.base.as_ref()).map(ToString::to_string).collect();
    bases.sort();
    bases.dedup();
    match bases.is_empty() {
        _ if bytes == 0 => "nothing to send, it is there already".into(),
        true => format!("{} sent", units::size(bytes)),
        false => format!("{} sent of {} (delta from {})", units::size(bytes), units::size(of), bases.join(", ")),
    }
}

/// One line for a server that is live.
pub(crate) fn went_live(deployed: &Deployed) -> String {
    let what = match deployed.instances {
        0 => "live on demand".to_string(),
        n => format!("{n}/{n} live"),
    };
    match beyond_boot(deployed).into_iter().max() {
        Some(swap) => format!("{what} · serving {} after ready", units::swap(swap)),
        None => what,
    }
}

/// What each swap took beyond the app's own boot.
pub(crate) fn beyond_boot(deployed: &Deployed) -> Vec<Duration> {
    let beyond = |swap: &Swap| Duration::from_micros(swap.total_us.saturating_sub(swap.boot_us));
    deployed.swaps.iter().map(beyond).collect()
}

/// What a notice of a rollout says on the server's line; `None` for those that are over in a moment.
pub(crate) fn step_words(notice: &Notice) -> Option<String> {
    let (number, of, step) = match notice {
        Notice::Step { number, of, step } => (number, of, step),
        Notice::Doing { what } => return Some(what.clone()),
        Notice::Live { .. } | Notice::Lines { .. } | Notice::Beat | Notice::Joined(_) => return None,
        Notice::Output { .. } | Notice::Wants { .. } => return None,
    };
    let step = match step {
        Step::Starting => "starting",
        Step::Ready => "waiting for its health check",
        Step::Draining => "serving, draining the one before",
        Step::Healthy | Step::InBalancing | Step::Stopped => return None,
    };
    Some(format!("instance {number}/{of} · {step}"))
}

/// All results, or the error to tell.
pub(super) fn all<T>(results: Vec<Result<T>>) -> Result<Vec<T>> {
    let mut good = Vec::with_capacity(results.len());
    let mut bad = Vec::new();
    for result in results {
        match result {
            Ok(t) => good.push(t),
            Err(e) => bad.push(e),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(telling(bad.into_iter())) }
}

/// Of several errors the one that caused the others; where several servers failed by themselves, it lists them.
pub(super) fn telling(errors: impl Iterator<Item = Error>) -> Error {
    let (interrupted, mut causes): (Vec<Error>, Vec<Error>) = errors.partition(|e| e.kind() == Kind::Interrupted);
    if causes.is_empty() {
        return interrupted.into_iter().next().unwrap_or_else(|| Error::new(Kind::Bug, "an error got lost"));
    }
    let first = causes.remove(0);
    if causes.is_empty() {
        return first;
    }
    let detail = first.detail().iter().cloned().chain(causes.iter().map(Error::to_string)).collect();
    first.with_detail(detail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::version::Version;

    #[test]
    fn a_way_around_stands_beside_the_next_step() {
        let staging = EnvName::parse("staging").unwrap();
        assert_eq!(alone(&staging, ["fra1", "sin1"].into_iter()), " --env staging --server fra1 --server sin1");
        assert_eq!(alone(&EnvName::production(), ["fra1"].into_iter()), " --server fra1");
        let check = |e: Error, expected: &str| assert_eq!(or(e, "go around").next_step(), Some(expected));
        let e = || Error::new(Kind::Unreachable, "nyc1: gone");
        check(e(), "go around");
        check(e().hint("is it on?"), "is it on? or: go around");
        check(e().hint("switch it on"), "switch it on, or: go around");
    }

    #[test]
    fn the_cause_is_told_and_not_those_it_stopped() {
        let e = |kind, text: &str| Err::<(), _>(Error::new(kind, text));
        let told = |results| all::<()>(results).unwrap_err();
        let stopped = || e(Kind::Interrupted, "interrupted");
        let both = told(vec![stopped(), e(Kind::Busy, "fra1: locked"), Ok(()), e(Kind::Unreachable, "nyc1: gone")]);
        assert_eq!((both.kind(), both.to_string().as_str()), (Kind::Busy, "fra1: locked"));
        assert_eq!(both.detail(), ["nyc1: gone"]);
        assert_eq!(told(vec![stopped(), stopped()]).kind(), Kind::Interrupted);
        assert_eq!(all(vec![Ok(1), Ok(2)]).unwrap(), [1, 2]);
    }

    #[test]
    fn what_a_server_refused_is_a_deploy_that_failed() {
        let check = |kind, expected| {
            let e = rejected(Error::new(kind, "fra1: x").hint("y"));
            assert_eq!((e.kind(), e.to_string().as_str(), e.next_step()), (expected, "fra1: x", Some("y")));
        };
        for kind in [Kind::Refused, Kind::Io, Kind::Timeout, Kind::NotFound, Kind::Conflict, Kind::Rejected] {
            check(kind, Kind::Rejected);
        }
        for kind in [Kind::Unreachable, Kind::Busy, Kind::Config, Kind::Build, Kind::Interrupted, Kind::Bug] {
            check(kind, kind);
        }
    }

    #[test]
    fn a_line_that_waits_does_not_count_the_seconds() {
        let check = |busy: &str, expected: &str| assert_eq!(without_age(busy), expected);
        check(
            "a: shop is being deployed by ana for 40s (4f2c9ab, rolling 1/2)",
            "a: shop is being deployed by ana (4f2c9ab, rolling 1/2)",
        );
        check("shop is being deployed by one for all for 0s", "shop is being deployed by one for all");
        check("too busy for you", "too busy for you");
        check("for s for 12", "for s for 12");
    }

    #[test]
    fn a_server_is_named_once() {
        let told = |text: &str| at::<()>("fra1", Err(Error::new(Kind::Busy, text))).unwrap_err().to_string();
        assert_eq!((told("locked").as_str(), told("fra1: lost").as_str()), ("fra1: locked", "fra1: lost"));
    }

    #[test]
    fn what_was_sent_is_told_beside_what_it_stands_for() {
        let sent = |bytes, base: Option<&str>| Sent {
            bytes,
            of: 2_440_000,
            base: base.map(|base| Version::parse(base).unwrap()),
        };
        let check = |all: &[Sent], expected: &str| assert_eq!(all_sent(all), expected);
        let (delta, whole, nothing) = (sent(19_400, Some("b81e07c")), sent(2_440_000, None), sent(0, None));
        check(&[nothing.clone(), nothing.clone()], "nothing to send, it is there already");
        check(std::slice::from_ref(&whole), "2.4 MB sent");
        check(&[delta.clone(), nothing.clone()], "19 kB sent of 2.4 MB (delta from b81e07c)");
        check(&[delta.clone(), delta.clone()], "38 kB sent of 4.8 MB (delta from b81e07c)");
        check(&[delta.clone(), whole], "2.4 MB sent of 4.8 MB (delta from b81e07c)");
        check(&[delta.clone(), sent(600, Some("77d0e1c"))], "20 kB sent of 4.8 MB (delta from 77d0e1c, b81e07c)");
        assert_eq!(sent_to(&delta), "19 kB sent of 2.4 MB (delta from b81e07c) and prepared");
        assert_eq!(sent_to(&nothing), "already there");
    }

    #[test]
    fn a_live_server_tells_its_slowest_swap() {
        let mut deployed = Deployed {
            version: Version::parse("v1").unwrap(),
            previous: None,
            instances: 2,
            swaps: vec![Swap { boot_us: 400_000, total_us: 403_000 }, Swap { boot_us: 500_000, total_us: 512_400 }],
        };
        assert_eq!(went_live(&deployed), "2/2 live · serving 12 ms after ready");
        // Clocks of two processes may disagree by a little.
        deployed.swaps = vec![Swap { boot_us: 5, total_us: 3 }];
        assert_eq!(beyond_boot(&deployed), [Duration::ZERO]);
        (deployed.instances, deployed.swaps) = (0, Vec::new());
        assert_eq!(went_live(&deployed), "live on demand");
    }
}
