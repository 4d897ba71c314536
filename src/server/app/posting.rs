//! What an app has on the board: computed from its instances each time, never edited.

use super::actor::Actor;
use super::instance::Instance;
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
            body_limit: live.manifest().limits.request_body,
        };
        if self.posted.as_ref() == Some(&posting) || self.ending.is_some() {
            return self.generation;
        }
        let known = self.posted.take().map_or(Vec::new(), |p| p.endpoints);
        for endpoint in posting.endpoints.iter().filter(|e| !known.contains(e)) {
            let process = self.instances.iter_mut().filter_map(Instance::process_mut);
            for process in process.filter(|p| p.endpoint == endpoint.id) {
                (process.posted, process.drained) = (true, false);
            }
        }
        self.generation = self.stage.post(&self.id, posting.clone());
        self.posted = Some(posting);
        self.generation
    }

    pub fn is_acked(&self, generation: u64) -> bool {
        self.acked >= generation
    }

    pub fn is_posted(&self) -> bool {
        self.posted.is_some()
    }
}
