//! How `tako status` tells of what failed on a server: what loops, the last cause, its proof, the next step.

use super::aim;
use crate::cli::ui::units;
use crate::proto::name::ServerName;
use crate::proto::status::{AppState, AppStatus, Failure};

/// Lines of proof in a status; the report of a deploy has more.
const SHOWN: usize = 3;

/// Nothing where nothing failed.
pub(super) fn lines(server: &ServerName, status: &AppStatus) -> Vec<String> {
    let mut lines = Vec::new();
    if status.state == AppState::CrashLooping {
        lines.push(format!("! {server}: {}", looping(status)));
    }
    if let Some(failure) = &status.last_failure {
        let Failure { at_ms, release, proof, hint, .. } = failure;
        let ago = units::ago(aim::since(*at_ms));
        // One that was to take the place of the live release is not part of it.
        let of = match &status.version {
            Some(live) if live != release => format!("{release} was not put live: "),
            _ => String::new(),
        };
        lines.push(format!("! {server}: {of}{failure} ({ago})"));
        lines.extend(proof.iter().take(SHOWN).map(|line| format!("  │ {line}")));
        lines.extend(hint.iter().map(|hint| format!("  hint: {hint}")));
    }
    lines
}

fn looping(status: &AppStatus) -> String {
    let ended = status.waiting.iter().map(|w| w.restarts).chain(status.instances.iter().map(|i| i.restarts)).max();
    let restarts = units::count(ended.unwrap_or(0) as usize, "restart");
    match status.waiting.iter().map(|w| w.next_ms).min() {
        Some(ms) => format!("crash-looping, {restarts}, next in {} s", ms.div_ceil(1000)),
        None => format!("crash-looping, {restarts}, now starting"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::name::AppId;
    use crate::proto::status::Waiting;
    use crate::proto::version::Version;

    #[test]
    fn a_loop_is_told_with_its_cause_proof_and_hint() {
        let mut status = AppStatus {
            app: AppId::parse("shop").unwrap(),
            state: AppState::CrashLooping,
            version: Some(Version::parse("v1").unwrap()),
            routes: Vec::new(),
            wanted: 1,
            instances: Vec::new(),
            since_ms: 0,
            last_failure: Some(Failure {
                at_ms: u64::MAX,
                release: Version::parse("v1").unwrap(),
                instance: Some(1),
                what: "exited with code 1: the disk is full".into(),
                proof: (1..=4).map(|n| format!("line {n}")).collect(),
                hint: Some("free some space".into()),
                exit_code: Some(1),
                signal: None,
            }),
            waiting: vec![Waiting { number: 1, restarts: 7, next_ms: 11_200 }],
            remarks: Vec::new(),
        };
        let server = ServerName::parse("fra1").unwrap();
        let told = lines(&server, &status);
        assert_eq!(told[0], "! fra1: crash-looping, 7 restarts, next in 12 s");
        assert!(told[1].starts_with("! fra1: instance 1 exited with code 1: the disk is full ("), "{told:?}");
        assert_eq!(told[2..], ["  │ line 1", "  │ line 2", "  │ line 3", "  hint: free some space"]);

        status.version = Some(Version::parse("v0").unwrap());
        status.state = AppState::Live;
        let told = lines(&server, &status);
        assert!(told[0].starts_with("! fra1: v1 was not put live: instance 1 exited"), "{told:?}");
        status.last_failure = None;
        assert!(lines(&server, &status).is_empty());
    }
}
