//! What an app has on the board: computed from its instances each time, never edited.

use super::actor::Actor;
use super::instance::{Instance, Traffic};
use super::stage::Stage;
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
        };
        if self.posted.as_ref() == Some(&posting) || self.ending.is_some() {
            return self.generation;
        }
        self.post(posting.clone());
        self.posted = Some(posting);
        self.generation
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
