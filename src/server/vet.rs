//! What a client may ask for: manifests, orders and artifact names, checked before anything touches a disk or a clock.

use std::path::{Component, Path};

use crate::error::{Error, Kind, Result};
use crate::proto::control::{Artifact, Deploy, LogQuery, Secrets};
use crate::proto::manifest::{CPU_MILLI, MAX_INSTANCES, MEMORY, Manifest, PROCESSES};
use crate::proto::name::AppId;
use crate::proto::task::{Run, RunRelease};

/// Longer than any deploy, idle time or drain that is meant, and far from overflowing a clock.
const MAX_SECONDS: u64 = 30 * 24 * 3600;
/// Longest file name that Linux has.
const MAX_NAME: usize = 255;
/// Secrets travel to each instance in one bootstrap message, which is bounded at twice this.
const MAX_SECRETS: usize = 512 << 10;
/// All words of a command; Linux takes 128 KiB of each.
const MAX_COMMAND: usize = 128 << 10;
/// Longest name of a terminal type; those that there are have some twenty letters.
const MAX_TERM: usize = 64;
/// The first line of a commit, in bytes; `tako` sends 200 characters of it.
const MAX_MESSAGE: usize = 1024;
/// Longest text that is looked for in a log; a line of it is not much longer.
const MAX_GREP: usize = 4 << 10;

pub(crate) fn deploy(order: &Deploy) -> Result<()> {
    manifest(&order.manifest)?;
    instances(order.instances)?;
    if order.routes.is_empty() {
        return Err(refused(format!("{} has no route", order.manifest.app)).hint("give it one in tako.toml"));
    }
    order.secrets.as_ref().map_or(Ok(()), |held| secrets(&order.manifest.app, held))
}

pub(crate) fn secrets(app: &AppId, secrets: &Secrets) -> Result<()> {
    let mut size = 0;
    for (name, value) in &secrets.values {
        if !is_variable(name) || value.contains('\0') {
            return Err(refused(format!("`{}` cannot be a secret's name or value", name.escape_debug())));
        }
        size += name.len() + value.len();
    }
    match size > MAX_SECRETS {
        true => Err(refused(format!("the secrets of {app} are larger than {MAX_SECRETS} bytes"))),
        false => Ok(()),
    }
}

pub(crate) fn run(order: &Run) -> Result<()> {
    let size = order.argv.iter().map(|word| word.len() + 1).sum::<usize>();
    if order.argv.is_empty() || size > MAX_COMMAND || order.argv.iter().any(|word| word.contains('\0')) {
        return Err(refused(format!("a command of {} words and {size} bytes cannot be run", order.argv.len())));
    }
    let term = order.tty.as_ref().map_or("", |tty| &tty.term);
    if term.len() > MAX_TERM || !term.bytes().all(|b| b.is_ascii_graphic()) {
        return Err(refused("the terminal has no name that a program could be told".into()));
    }
    match order.release.as_ref().is_some_and(|start| start.is_empty() || start.len() > MAX_NAME) {
        true => Err(refused("a release is named by the start of its version".into())),
        false => Ok(()),
    }
}

pub(crate) fn run_release(order: &RunRelease) -> Result<()> {
    manifest(&order.manifest)?;
    order.secrets.as_ref().map_or(Ok(()), |held| secrets(&order.manifest.app, held))?;
    let command = &order.command;
    match command.trim().is_empty() || command.len() > MAX_COMMAND || command.contains('\0') {
        true => Err(refused(format!("the release command of {} cannot be run", order.manifest.app))),
        false => Ok(()),
    }
}

pub(crate) fn manifest(m: &Manifest) -> Result<()> {
    let of = |what: &str| format!("the manifest of {} {}: {what}", m.app, m.version);
    if !(m.dir.is_empty() || is_inside(&m.dir)) {
        return Err(refused(of("`dir` leads out of the release")));
    }
    if !is_inside(&m.main) {
        return Err(refused(of("`main` is not a file inside the app")));
    }
    if m.runtime_version.as_ref().is_some_and(|v| !is_tool_version(v)) {
        return Err(refused(of("`runtime_version` is not a version")));
    }
    if m.start.as_ref().is_some_and(Vec::is_empty) {
        return Err(refused(of("`start` is empty")));
    }
    let words = m.start.iter().chain(&m.install).flatten();
    if words.chain(m.vars.values()).any(|w| w.contains('\0')) || m.vars.keys().any(|name| !is_variable(name)) {
        return Err(refused(of("an argument or variable holds what no process can be given")));
    }
    if m.health.as_ref().is_some_and(|h| !h.starts_with('/') || h.bytes().any(|b| !b.is_ascii_graphic())) {
        return Err(refused(of("`health` is not a path")));
    }
    if m.commit_message.as_ref().is_some_and(|text| text.len() > MAX_MESSAGE || text.contains(char::is_control)) {
        return Err(refused(of("`commit_message` is not one line of text")));
    }
    let l = &m.limits;
    if [l.idle_timeout_s, l.startup_timeout_s, l.drain_timeout_s].iter().any(|s| *s > MAX_SECONDS) {
        return Err(refused(of("a timeout is longer than 30 days")));
    }
    let in_range = l.memory.is_none_or(|bytes| MEMORY.contains(&bytes))
        && l.cpu_milli.is_none_or(|milli| CPU_MILLI.contains(&milli))
        && l.processes.is_none_or(|n| PROCESSES.contains(&n));
    if !in_range {
        return Err(refused(of("a limit is out of range")));
    }
    Ok(())
}

pub(crate) fn logs(query: &LogQuery) -> Result<()> {
    let texts = [("look for a text", &query.grep), ("a release has no name", &query.release)];
    match texts.iter().find(|(_, text)| text.as_ref().is_some_and(|t| t.len() > MAX_GREP)) {
        Some((what, _)) => Err(refused(format!("{what} of more than {MAX_GREP} bytes"))),
        None => Ok(()),
    }
}

pub(crate) fn instances(count: u32) -> Result<()> {
    match count <= MAX_INSTANCES {
        true => Ok(()),
        false => Err(refused(format!("{count} instances: there can be 0 to {MAX_INSTANCES}"))),
    }
}

pub(crate) fn artifact(artifact: &Artifact) -> Result<()> {
    upload_name(&artifact.file)
}

/// It must be that of a file in the incoming folder and of nothing else.
pub(crate) fn upload_name(name: &str) -> Result<()> {
    let plain = (1..=MAX_NAME).contains(&name.len())
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"._-+".contains(&b));
    match plain {
        true => Ok(()),
        false => {
            let shown: String = name.chars().take(80).flat_map(char::escape_debug).collect();
            Err(refused(format!("`{shown}` is not the name of an uploaded file")))
        }
    }
}

/// As a tool calls itself: safe as a folder's name and as the end of an argument.
pub(crate) fn is_tool_version(s: &str) -> bool {
    (1..=64).contains(&s.len())
        && s.starts_with(|c: char| c.is_ascii_alphanumeric())
        && s.bytes().all(|b| b.is_ascii_alphanumeric() || b"._+-".contains(&b))
}

/// Relative, and no step leads up.
fn is_inside(path: &str) -> bool {
    let inside = |c| matches!(c, Component::Normal(_) | Component::CurDir);
    let mut steps = Path::new(path).components();
    !path.contains('\0') && steps.clone().any(|c| matches!(c, Component::Normal(_))) && steps.all(inside)
}

fn is_variable(name: &str) -> bool {
    !name.is_empty() && !name.contains(['=', '\0'])
}

fn refused(message: String) -> Error {
    Error::new(Kind::Refused, message)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::control::Secrets;
    use crate::proto::manifest::Limits;
    use crate::proto::route::Route;

    fn good() -> Manifest {
        serde_json::from_str(r#"{"app":"shop","version":"v1","runtime":"node","main":"src/index.js"}"#).unwrap()
    }

    #[test]
    fn takes_a_plain_manifest() {
        manifest(&good()).unwrap();
        manifest(&Manifest { dir: "apps/web".into(), health: Some("/up?x=1".into()), ..good() }).unwrap();
    }

    #[test]
    fn refuses_what_leads_out_or_breaks_a_process_or_a_clock() {
        let limits = |s| Limits { drain_timeout_s: s, ..Default::default() };
        let bad = [
            Manifest { dir: "..".into(), ..good() },
            Manifest { dir: "/etc".into(), ..good() },
            Manifest { dir: "a/../../b".into(), ..good() },
            Manifest { main: String::new(), ..good() },
            Manifest { main: "../x.js".into(), ..good() },
            Manifest { main: "/bin/sh".into(), ..good() },
            Manifest { main: "a\0b".into(), ..good() },
            Manifest { runtime_version: Some("../../x".into()), ..good() },
            Manifest { runtime_version: Some("-x".into()), ..good() },
            Manifest { start: Some(vec![]), ..good() },
            Manifest { start: Some(vec!["a\0".into()]), ..good() },
            Manifest { vars: [("A=B".to_owned(), String::new())].into(), ..good() },
            Manifest { vars: [("A".to_owned(), "\0".to_owned())].into(), ..good() },
            Manifest { health: Some("up".into()), ..good() },
            Manifest { health: Some("/up\r\nX: y".into()), ..good() },
            Manifest { commit_message: Some("a\nb".into()), ..good() },
            Manifest { commit_message: Some("x".repeat(1025)), ..good() },
            Manifest { limits: limits(u64::MAX), ..good() },
            Manifest { limits: Limits { memory: Some(0), ..Default::default() }, ..good() },
            Manifest { limits: Limits { cpu_milli: Some(u32::MAX), ..Default::default() }, ..good() },
            Manifest { limits: Limits { processes: Some(0), ..Default::default() }, ..good() },
        ];
        for m in bad {
            assert_eq!(manifest(&m).unwrap_err().kind(), Kind::Refused, "{m:?}");
        }
    }

    #[test]
    fn an_artifact_is_a_plain_name() {
        let check = |file: &str| {
            artifact(&Artifact { file: file.into(), sha256: "0".into(), bytes: 1, unpacked: 1, base: None })
        };
        check("4f2c9ab-linux.tar.zst").unwrap();
        for bad in ["", ".", "..", ".x", "a/b", "/etc/passwd", "../host.key", "a\0b", "a b", "é", &"a".repeat(256)] {
            assert_eq!(check(bad).unwrap_err().kind(), Kind::Refused, "{bad}");
        }
    }

    #[test]
    fn an_order_has_routes_and_secrets_that_fit() {
        let secrets = |name: &str, value: &str| {
            let values = [(name.to_owned(), zeroize::Zeroizing::new(value.to_owned()))].into();
            Some(Secrets { hash: "h".into(), values })
        };
        let routes = || vec![Route::parse("a.test").unwrap()];
        let order = |routes, instances, secrets| Deploy { manifest: good(), routes, instances, secrets };
        deploy(&order(routes(), 64, secrets("A", "x"))).unwrap();
        assert!(deploy(&order(vec![], 1, None)).is_err());
        assert!(deploy(&order(routes(), 65, None)).is_err());
        assert!(deploy(&order(routes(), 1, secrets("A=B", "x"))).is_err());
        assert!(deploy(&order(routes(), 1, secrets("A", &"x".repeat(MAX_SECRETS)))).is_err());
    }
}
