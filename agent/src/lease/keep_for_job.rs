//! The keeping of a job's layers ([`super::job_layers`]): from a step's grant to the end of the job.

use std::sync::PoisonError;

use parallax_protocol::message::StepId;
use parallax_sys::process::Process;

use super::job_layers::JobRun;
use super::keeper;
use super::table::Leases;

impl Leases {
    /// Has the layers of a step stay mounted until its job ends. Returns the process by whose end that is known, which is to be watched,
    /// for the first step of the job.
    pub fn keep_for_job(&self, step: StepId) -> Option<(JobRun, Process)> {
        let lease = self.live().get(&step).cloned()?;
        let run = JobRun::from(step);
        let layers = || {
            let held = lease.resources.lock().unwrap_or_else(PoisonError::into_inner);
            held.as_ref().map(|resources| resources.layers.clone()).unwrap_or_default()
        };
        let found = layers();
        if found.is_empty() {
            return None;
        }
        if let Some(given_up) = self.job_layers.add(run, &found) {
            // If the step has ended since then, its layers are the job's now, or nobody's.
            self.give_up(found);
            self.give_up(given_up);
            return None;
        }
        drop(found);
        let Some(process) = keeper::of_job(step.job, lease.entry.owner).and_then(|keeper| keeper.open_process()) else {
            if !self.has_lease_of(run) {
                self.job_layers.forget(run);
            }
            return None;
        };
        // Nothing if the step has ended already: the next one's layers are kept.
        self.job_layers.keep(run, &layers());
        Some((run, process))
    }

    /// Whether a step of the job has a lease.
    pub(super) fn has_lease_of(&self, run: JobRun) -> bool {
        self.live().keys().any(|step| JobRun::from(*step) == run)
    }

    /// Unmounts the layers of a job that has ended or is to keep none, as far as nobody uses them.
    pub fn release_job_layers(&self, run: JobRun) {
        let layers = self.job_layers.take(Some(run));
        tracing::debug!(job = run.job, layers = layers.len(), "the job's layers are not kept any more");
        self.give_up(layers);
    }
}
