//! Instances that fail, as performed: the cause is found and kept, the place is filled again after a while, or what the
//! instance was for fails with it.
//!
//! The evidence is read in the moment of the failure, on the actor's thread: that costs some milliseconds of an app
//! that has just failed, and later half of it would be gone.

use std::path::Path;
use std::time::{Duration, Instant};

use super::actor::Actor;
use super::cause::{self, Cause, End, Evidence, File, Phase, said};
use super::instance::{Instance, Role, Run};
use super::lifecycle::State;
use super::logs::now_ms;
use super::stage::Stage;
use super::watch::Exit;
use super::{evidence, group, stray};
use crate::error::Error;
use crate::proto::status::Failure;
use crate::proxy::table::EndpointId;

/// A failure, and what the instance had printed.
pub(super) struct Report {
    pub failure: Failure,
    pub last_lines: Vec<String>,
}

impl Phase {
    /// `None` when it was asked to end: what happens then is no failure.
    pub fn of(state: State) -> Option<Phase> {
        match state {
            State::Starting { .. } => Some(Phase::Starting),
            State::Ready { .. } => Some(Phase::Ready),
            State::Healthy { .. } | State::Unhealthy { .. } => Some(Phase::Serving),
            State::Draining { .. } | State::Stopping { .. } | State::Gone => None,
        }
    }
}

impl<S: Stage> Actor<S> {
    /// An instance ended, or will be ended, and nobody asked for it.
    pub(super) fn failed(&mut self, at: usize, end: End, phase: Phase, now: Instant) {
        let report = self.report(at, end, phase);
        let Instance { number, role, .. } = self.instances[at];
        let Failure { release, what, .. } = &report.failure;
        log::warn!("app={} instance={number} release={release} {what}", self.id);
        if let Some(process) = self.instances[at].process() {
            process.voice.remark(&format!("instance {number} {what}"));
        }
        match role {
            Role::Serving | Role::Benched | Role::Dozing => {
                self.last_failure = Some(report.failure);
                self.give_place_up(at, now);
            }
            Role::Fresh | Role::Joined => self.rollout_failed(report),
            Role::Leaving => {}
        }
    }

    /// Its process is gone: the place is given up, or filled again after a while.
    pub(super) fn ended(&mut self, endpoint: EndpointId, now: Instant) {
        let Some(at) = self.instances.iter().position(|i| i.is(endpoint)) else { return };
        let instance = &mut self.instances[at];
        match instance.role {
            Role::Serving | Role::Benched => {
                let up = instance.process().and_then(|p| p.ready).map_or(Duration::ZERO, |ready| now - ready);
                let delay = instance.restarts.ended(up);
                log::info!("app={} instance={} starts again delay_ms={}", self.id, instance.number, delay.as_millis());
                instance.run = Run::Waiting(now + delay);
            }
            Role::Fresh | Role::Joined | Role::Dozing | Role::Leaving => drop(self.instances.remove(at)),
        }
    }

    pub(super) fn could_not_start(&mut self, at: usize, why: &Error, now: Instant) {
        self.failed(at, End::of(why), Phase::Starting, now);
        let delay = self.instances[at].restarts.ended(Duration::ZERO);
        self.instances[at].run = Run::Waiting(now + delay);
    }

    /// What keeps the app from starting anything at all.
    pub(super) fn failed_as_a_whole(&mut self, why: &str) {
        let Some(release) = self.desired.as_ref().map(|d| d.live.clone()) else { return };
        self.last_failure = Some(Failure {
            at_ms: now_ms(),
            release,
            instance: None,
            what: why.into(),
            proof: Vec::new(),
            hint: Some("run `tako secrets sync`: they are sent anew".into()),
            exit_code: None,
            signal: None,
        });
    }

    /// Finds out why.
    pub(super) fn report(&self, at: usize, end: End, phase: Phase) -> Report {
        let instance = &self.instances[at];
        let spec = &instance.spec;
        let manifest = spec.manifest();
        let process = instance.process();
        let last_lines: Vec<String> = process
            .map_or(Vec::new(), |process| process.voice.last_lines().iter().map(|line| said::plain(line)).collect());
        let (exit_code, signal) = match end {
            End::Exit(Exit::Code(code)) => (Some(code), None),
            End::Exit(Exit::Signal(signal)) => (None, Some(signal)),
            End::Exit(Exit::Unknown)
            | End::NotStarted { .. }
            | End::GaveUp(_)
            | End::Unwell
            | End::Stolen(_)
            | End::Elsewhere => (None, None),
        };
        let port = process.and_then(|process| process.addr).map(|addr| addr.port());
        let taken = match end {
            End::Stolen(port) => Some(port),
            End::Elsewhere => port,
            _ => said::taken_port(&last_lines),
        };
        let dir = format!("{}/", self.layout.app_dir(manifest).display().to_string().trim_end_matches('/'));
        // The runtime of a JS app was found and run before.
        let program = spec.launch(&self.stage, &self.layout).ok().and_then(|launch| launch.argv.first());
        let leaf = process.and_then(|process| process.leaf.as_ref());
        // Where the kernel keeps together what belongs together, nobody strays.
        let is_lone = end == End::Exit(Exit::Code(0)) && leaf.is_none() && !manifest.has_sdk();
        let strays = || port.is_some_and(|port| stray::end(&self.layout.app_data(&manifest.app), port) > 0);
        let strayed = process.is_some_and(|process| process.left_others) || is_lone && strays();
        let secrets = spec.secrets.iter().flat_map(|secrets| secrets.values.keys());
        let subject = process.map_or(String::new(), |process| process.subject(spec));
        let machine_oom_kills =
            process.and_then(|p| Some(evidence::machine_oom_kills()?.saturating_sub(p.machine_oom_kills?)));
        let program_name = program.map_or(String::new(), |p| p.to_string_lossy().replace(&dir, ""));
        let Cause { what, proof, hint } = cause::judge(&Evidence {
            listens: process.and_then(|process| match end {
                End::GaveUp(_) => process.listened.clone(),
                End::Unwell | End::Stolen(_) | End::Elsewhere => group::listening(process.pid),
                End::Exit(_) | End::NotStarted { .. } => None,
            }),
            end,
            phase,
            said: &last_lines,
            subject: &subject,
            own_path: manifest.health.is_some(),
            answered: process.map_or("", |process| &process.answered),
            last_bad: process.and_then(|process| process.last_bad),
            startup_s: manifest.limits.startup_timeout_s,
            program: program_name.trim_start_matches("./"),
            file: program.map_or(File::Fine, |program| evidence::file(Path::new(program))),
            has_sdk: manifest.has_sdk(),
            port,
            holder: taken.and_then(evidence::holder),
            strayed,
            oom_kills: leaf.and_then(|leaf| leaf.usage().oom_kills),
            memory_limit: manifest.limits.memory,
            machine_oom_kills,
            given: manifest.vars.keys().chain(secrets).map(String::as_str).collect(),
            dir: &dir,
        });
        let (at_ms, release, number) = (now_ms(), manifest.version.clone(), Some(instance.number));
        let failure = Failure { at_ms, release, instance: number, what, proof, hint, exit_code, signal };
        Report { failure, last_lines }
    }
}

impl End {
    pub fn of(error: &Error) -> End {
        End::NotStarted { error: error.to_string(), hint: error.next_step().map(Into::into) }
    }
}
