//! How a deploy ended: the `result` event, the last words, and the exit code.

use std::time::Duration;

use serde_json::json;

use crate::cli::commands::{Exit, aim, change};
use crate::cli::project::Env;
use crate::cli::ship::tell::rejected;
use crate::cli::ship::{End, Shipment, Shipped, Stand};
use crate::cli::ui::Ui;
use crate::cli::ui::units;
use crate::error::{Error, Kind, Result};
use crate::proto::name::EnvName;
use crate::proto::version::Version;

/// Lines of an instance's last output in the report.
const SHOWN: usize = 20;

/// What the last words are about.
pub(super) struct Ending<'a> {
    pub env_name: &'a EnvName,
    pub env: &'a Env,
    pub version: &'a Version,
    /// The user called it off, in time or not.
    pub is_cancelled: bool,
    /// Of who saw all of it.
    pub total: Option<Duration>,
}

/// The `result` event.
pub(crate) fn tell_result(ui: &Ui, shipment: &Shipment<'_>, shipped: &Shipped, check: Duration, total: Duration) {
    let ms = |d: Duration| u64::try_from(d.as_millis()).unwrap_or(u64::MAX);
    let times = &shipped.times;
    ui.event(
        "result",
        json!({
            "app": shipment.project.name,
            "env": shipment.env_name,
            "version": shipment.version,
            "urls": urls(shipment.env),
            "servers": told(&shipped.ends),
            "artifacts": shipped.built.iter().map(|built| json!({
                "target": built.target,
                "bytes": built.packed.bytes,
                "unpacked": built.packed.unpacked,
                "cached": built.cached,
            })).collect::<Vec<_>>(),
            "durations_ms": {
                "check": ms(check),
                "build": ms(times.build),
                "connect": ms(times.connect),
                "upload": ms(times.upload),
                "deploy": ms(times.deploy),
                "total": ms(total),
            },
        }),
    );
}

/// How it ended on each server, and what was sent there.
pub(super) fn told(ends: &[End]) -> Vec<serde_json::Value> {
    let one = |end: &End| {
        let mut told = change::told(&end.server, end.previous.as_ref(), &end.result);
        told["sent"] = json!(end.sent);
        told["state"] = json!(match end.stand {
            Stand::Live => "live",
            Stand::Untouched => "unchanged",
            Stand::Kept => "kept",
            Stand::Unknown => "unknown",
        });
        told
    };
    ends.iter().map(one).collect()
}

/// The last words, and the exit code.
pub(super) fn conclude(ui: &Ui, ending: &Ending<'_>, ends: Vec<End>) -> Result<Exit> {
    let live = ends.iter().filter(|end| end.result.is_ok()).count();
    if live == ends.len() {
        if ending.is_cancelled {
            ui.note("it was too late to cancel");
        }
        let urls = urls(ending.env).join("  ");
        ui.success(&match (ends.iter().all(|end| end.stand == Stand::Untouched), ending.total) {
            (true, Some(_)) => format!("{} is live already, nothing to do   {urls}", ending.version),
            (false, Some(total)) => format!("Live in {}   {urls}", units::duration(total)),
            (_, None) => format!("{} is live   {urls}", ending.version),
        });
        return Ok(Exit::Done);
    }
    let kept = ends.iter().all(|end| end.stand == Stand::Kept);
    let error = report(ending, ends);
    let error = if kept { rejected(error) } else { error };
    if live == 0 || error.kind() == Kind::Interrupted {
        return Err(error);
    }
    ui.error(&error);
    Ok(Exit::Partly)
}

/// A server, what served there before, what is known of it, and why it does not serve the new one.
type Failed = (String, Option<Version>, Stand, Error);

/// One error for all that failed: why, what runs where, and what to do. It is never called when all is well.
fn report(ending: &Ending<'_>, ends: Vec<End>) -> Error {
    let version = ending.version;
    let count = ends.len();
    let (live, failed): (Vec<End>, Vec<End>) = ends.into_iter().partition(|end| end.result.is_ok());
    let failed: Vec<Failed> =
        failed.into_iter().filter_map(|end| Some((end.server, end.previous, end.stand, end.result.err()?))).collect();
    if let (true, false, [(server, previous, stand, error)]) = (live.is_empty(), ending.is_cancelled, &failed[..]) {
        return alone(ending, server, previous.as_ref(), *stand, error);
    }
    let mut lines = Vec::new();
    // Servers on which the same happened are told together.
    let same = |a: &Failed, b: &Failed| (a.3.to_string(), a.3.detail()) == (b.3.to_string(), b.3.detail());
    let told: Vec<&Failed> = failed.iter().filter(|f| !is_left(f)).collect();
    for group in told.chunk_by(|a, b| same(a, b)) {
        lines.push(aim::named(&names(group.iter().map(|(server, ..)| server)), &group[0].3));
        lines.extend(shown(&group[0].3).iter().map(|line| format!("│ {line}")));
    }
    lines.extend(standing(version, &live, &failed));

    // Where the causes differ, what they have in common is that the release did not come up.
    let kind = failed.first().map_or(Kind::Rejected, |(.., first)| first.kind());
    let kind = if failed.iter().all(|(.., e)| e.kind() == kind) { kind } else { Kind::Rejected };
    let left = failed.iter().any(is_left);
    let on = if live.is_empty() { "none".into() } else { live.len().to_string() };
    let (kind, message) = match (ending.is_cancelled, left) {
        (true, true) => (Kind::Interrupted, "left to the servers, which finish or go back by themselves".into()),
        (true, false) if live.is_empty() && failed.iter().all(|(_, _, stand, _)| *stand == Stand::Kept) => {
            (Kind::Interrupted, "cancelled; every server serves what it did before".into())
        }
        (true, false) => (Kind::Interrupted, format!("cancelled; {version} is live on {on} of {count} servers")),
        (false, _) => (kind, format!("{version} is live on {on} of {count} servers")),
    };
    let error = Error::new(kind, message).with_detail(lines);
    let env = env_flag(ending.env_name);
    if left {
        return error.hint(format!("`tako deploy --attach{env}` joins them again and tells how it ended"));
    }
    let back = match live.iter().find_map(|end| end.previous.as_ref().filter(|p| *p != version)) {
        Some(previous) => format!("; `tako releases rollback {previous}{env}` puts every server back"),
        None => String::new(),
    };
    let again = match live.is_empty() {
        true => format!("`tako deploy{env}` tries again and sends only what is missing"),
        false => format!("`tako deploy{env}` retries {} only", names(failed.iter().map(|(server, ..)| server))),
    };
    let next = if kind == Kind::Rejected { format!("find out why, then {again}") } else { again };
    let error = error.hint(format!("{next}{back}"));
    match failed.iter().find(|(.., e)| e.kind() == Kind::Rejected) {
        Some((server, ..)) => error.more(logs_of(ending, server)),
        None => error,
    }
}

/// We went, and it goes on.
fn is_left((_, _, stand, error): &Failed) -> bool {
    *stand == Stand::Unknown && error.kind() == Kind::Interrupted
}

/// What runs where, in columns.
fn standing(version: &Version, live: &[End], failed: &[Failed]) -> Vec<String> {
    let mut rows: Vec<(&str, String, String)> = Vec::new();
    if !live.is_empty() {
        rows.push(("live", names(live.iter().map(|end| &end.server)), version.to_string()));
    }
    let same = |a: &&Failed, b: &&Failed| (a.2, &a.1) == (b.2, &b.1);
    let all: Vec<&Failed> = failed.iter().collect();
    for group in all.chunk_by(same) {
        let (_, previous, stand, _) = group[0];
        let before = previous.as_ref().map_or("nothing", Version::as_str);
        let (word, serves) = match stand {
            Stand::Unknown => ("unknown", format!("{before} before")),
            Stand::Kept | Stand::Live | Stand::Untouched => ("kept", before.to_string()),
        };
        rows.push((word, names(group.iter().map(|(server, ..)| server)), serves));
    }
    let width = rows.iter().map(|(_, servers, _)| servers.len()).max().unwrap_or(0);
    rows.iter().map(|(word, servers, serves)| format!("{word:<9} {servers:<width$}   {serves}")).collect()
}

/// The only server there is: its own error is the whole story.
fn alone(ending: &Ending<'_>, server: &str, previous: Option<&Version>, stand: Stand, error: &Error) -> Error {
    let mut lines = shown(error).to_vec();
    lines.extend(previous.filter(|_| stand == Stand::Kept).map(|p| format!("↩ kept {p} serving")));
    let text = aim::named(server, error);
    let hint = error.next_step().unwrap_or("find out why, then `tako deploy` again").to_string();
    let told = Error::new(error.kind(), text).with_detail(lines).hint(hint);
    match error.kind() {
        Kind::Rejected => told.more(logs_of(ending, server)),
        _ => told,
    }
}

/// The command that shows what the new release printed there.
fn logs_of(ending: &Ending<'_>, server: &str) -> String {
    format!("tako logs --server {server} --release {}{}", ending.version, env_flag(ending.env_name))
}

fn env_flag(env: &EnvName) -> String {
    if env.is_production() { String::new() } else { format!(" --env {env}") }
}

fn names<'a>(servers: impl Iterator<Item = &'a String>) -> String {
    servers.map(String::as_str).collect::<Vec<_>>().join(", ")
}

fn shown(error: &Error) -> &[String] {
    &error.detail()[error.detail().len().saturating_sub(SHOWN)..]
}

pub(super) fn urls(env: &Env) -> Vec<String> {
    env.routes.iter().map(|route| route.url().unwrap_or_else(|| format!("https://{route}"))).collect()
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::cli::upload::Sent;
    use crate::proto::control::Deployed;
    use crate::proto::manifest::Limits;

    fn version(s: &str) -> Version {
        Version::parse(s).unwrap()
    }

    fn end(server: &str, stand: Stand, result: Result<()>) -> End {
        let deployed = Deployed { version: version("4f2c9ab"), previous: None, instances: 1, swaps: Vec::new() };
        let (previous, sent) = (Some(version("b81e07c")), Sent::nothing(1));
        End { server: server.into(), previous, sent, stand, result: result.map(|()| deployed) }
    }

    fn live(server: &str) -> End {
        end(server, Stand::Live, Ok(()))
    }

    fn rejected() -> Error {
        Error::new(Kind::Rejected, "instance 1 of 2 not ready after 30s").with_detail(vec!["Error: no database".into()])
    }

    /// The report as a person reads it.
    fn told(is_cancelled: bool, ends: Vec<End>) -> (Kind, Vec<String>) {
        let e = of_a_deploy(is_cancelled, |ending| report(ending, ends));
        (e.kind(), crate::cli::ui::error_lines(&e))
    }

    fn of_a_deploy<T>(is_cancelled: bool, act: impl FnOnce(&Ending<'_>) -> T) -> T {
        let (env_name, version) = (EnvName::production(), version("4f2c9ab"));
        let env = Env {
            routes: Vec::new(),
            servers: Vec::new(),
            instances: 1,
            limits: Limits::default(),
            vars: BTreeMap::new(),
            per_server: BTreeMap::new(),
        };
        let total = Some(Duration::from_secs(1));
        act(&Ending { env_name: &env_name, env: &env, version: &version, is_cancelled, total })
    }

    #[test]
    fn what_every_server_refused_is_a_deploy_that_failed() {
        let refused = |stand| end("fra1", stand, Err(Error::new(Kind::Io, "no space left on device")));
        for (stand, expected) in [(Stand::Kept, Kind::Rejected), (Stand::Unknown, Kind::Io)] {
            let (ui, _, _) = Ui::captured(crate::cli::ui::Settings::default());
            let e = of_a_deploy(false, |ending| conclude(&ui, ending, vec![refused(stand)])).err().unwrap();
            // Nothing was started, so there are no logs to look at.
            assert_eq!((e.kind(), e.shows_more()), (expected, None), "{stand:?}");
        }
    }

    #[test]
    fn one_server_that_refused_tells_its_last_output_and_what_still_serves() {
        let (kind, lines) = told(false, vec![end("fra1", Stand::Kept, Err(rejected()))]);
        let expected = [
            "fra1: instance 1 of 2 not ready after 30s",
            "  Error: no database",
            "  ↩ kept b81e07c serving",
            "  hint: find out why, then `tako deploy` again",
            "  more: tako logs --server fra1 --release 4f2c9ab",
        ];
        assert_eq!((kind, lines), (Kind::Rejected, expected.map(String::from).to_vec()));
    }

    #[test]
    fn servers_that_differ_are_listed_with_what_runs_where() {
        let ends = vec![live("fra1"), end("nyc1", Stand::Kept, Err(rejected())), live("sin1")];
        let expected = [
            "4f2c9ab is live on 2 of 3 servers",
            "  nyc1: instance 1 of 2 not ready after 30s",
            "  │ Error: no database",
            "  live      fra1, sin1   4f2c9ab",
            "  kept      nyc1         b81e07c",
            "  hint: find out why, then `tako deploy` retries nyc1 only; `tako releases rollback b81e07c` puts every \
             server back",
            "  more: tako logs --server nyc1 --release 4f2c9ab",
        ];
        assert_eq!(told(false, ends), (Kind::Rejected, expected.map(String::from).to_vec()));
    }

    #[test]
    fn what_a_lost_server_serves_is_not_claimed() {
        let lost = || end("nyc1", Stand::Unknown, Err(Error::new(Kind::Unreachable, "nyc1: the connection was lost")));
        let (kind, lines) = told(false, vec![lost()]);
        assert_eq!((kind, lines[0].as_str()), (Kind::Unreachable, "nyc1: the connection was lost"));
        assert!(!lines.iter().any(|line| line.contains("kept") || line.contains("more:")), "{lines:?}");
        // Where the causes differ the kind is that of a deploy that failed.
        let (kind, lines) = told(false, vec![lost(), end("fra1", Stand::Kept, Err(rejected()))]);
        assert_eq!((kind, lines[0].as_str()), (Kind::Rejected, "4f2c9ab is live on none of 2 servers"));
        assert!(lines.contains(&"  unknown   nyc1   b81e07c before".to_string()), "{lines:?}");
    }

    #[test]
    fn a_deploy_that_was_cancelled_tells_what_runs_where() {
        let cancelled = |server| end(server, Stand::Kept, Err(Error::new(Kind::Interrupted, "cancelled by ana")));
        let (kind, lines) = told(true, vec![cancelled("fra1"), cancelled("nyc1")]);
        assert_eq!((kind, lines[0].as_str()), (Kind::Interrupted, "cancelled; every server serves what it did before"));
        let (kind, lines) = told(true, vec![live("fra1"), cancelled("nyc1")]);
        assert_eq!((kind, lines[0].as_str()), (Kind::Interrupted, "cancelled; 4f2c9ab is live on 1 of 2 servers"));
        assert!(lines.contains(&"  kept      nyc1   b81e07c".to_string()), "{lines:?}");
        let left = |server| end(server, Stand::Unknown, Err(Error::new(Kind::Interrupted, "interrupted")));
        let (kind, lines) = told(true, vec![live("fra1"), left("nyc1")]);
        assert_eq!(
            (kind, lines[0].as_str()),
            (Kind::Interrupted, "left to the servers, which finish or go back by themselves")
        );
        assert!(lines.last().unwrap().contains("tako deploy --attach"), "{lines:?}");
    }
}
