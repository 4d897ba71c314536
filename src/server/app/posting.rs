//! What an app has on the board: computed from its instances each time, never edited.

use std::time::Instant;

use super::actor::Actor;
use super::assets;
use super::instance::{Instance, Role, Traffic};
use super::spec::Spec;
use super::stage::Stage;
use crate::proxy::files::root::Root;
use crate::server::board::Posting;

impl<S: Stage> Actor<S> {
    /// Posts what should be in balancing, if that is something new; returns the generation that has it.
    pub fn publish(&mut self) -> u64 {
        let Some(live) = &self.live else { return self.generation };
        let mut serving: Vec<&Instance> = self.instances.iter().filter(|i| i.in_balancing().is_some()).collect();
        serving.sort_by_key(|i| i.number);
        let posting = Posting {
            routes: live.record.routes.clone(),
            endpoints: serving.into_iter().filter_map(Instance::in_balancing).collect(),
            standing: self.standing(),
            body_limit: live.manifest().limits.request_body,
            assets: self.roots(),
        };
        if self.posted.as_ref() == Some(&posting) || self.ending.is_some() {
            return self.generation;
        }
        self.post(posting.clone());
        self.posted = Some(posting);
        self.generation
    }

    /// Where files are looked for. What the pages of a new instance refer to that is in balancing before the commit is
    /// looked for last, so that until then nothing of the old release is hidden by it.
    fn roots(&self) -> Vec<Root> {
        let joined = self.instances.iter().any(|i| i.role == Role::Joined);
        let next = self.rolling.as_ref().filter(|_| joined).and_then(|rolling| rolling.assets.clone());
        self.assets.roots().into_iter().chain(next).collect()
    }

    /// At boot there is nothing to go back to: an app without its assets is better than none.
    pub fn open_assets(&mut self, spec: &Spec) {
        match assets::open(&self.layout, spec.manifest()) {
            Ok(root) => self.assets.replace(spec.manifest().version.clone(), root, Instant::now()),
            Err(e) => log::error!("app={} serves without its assets error={e}", self.id),
        }
    }

    /// Posts, and remembers of each process which post it is out of balancing by.
    pub fn post(&mut self, posting: Posting) {
        let generation = self.stage.post(&self.id, posting.clone());
        for process in self.instances.iter_mut().filter_map(Instance::process_mut) {
            let is_in = posting.endpoints.iter().any(|e| e.id == process.endpoint);
            process.traffic = match process.traffic {
                _ if is_in => Traffic::In,
                Traffic::In => Traffic::Out { since: generation },
                out => out,
            };
        }
        self.generation = generation;
    }

    pub fn is_acked(&self, generation: u64) -> bool {
        self.acked >= generation
    }

    pub fn is_posted(&self) -> bool {
        self.posted.is_some()
    }
}
