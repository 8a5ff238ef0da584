//! Layers that stay mounted until their job ends on this node, because the job's next step may use them.
//!
//! A SquashFS file that was just mounted has nothing in the kernel's caches: its directories and pages are unpacked anew for each step.
//! So, if the site wants that (`agent.keep_for_job`), the layers of a job's steps stay mounted until the process ends that lasts as long as
//! the job ([`super::keeper`]). Without such a process each step's layers end with the step. An agent that stops unmounts what no step uses; its successor keeps the layers of later steps.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use parallax_protocol::message::StepId;

use crate::layers::MountedLayer;

/// Maximum number of layers that stay mounted for one job; the layers that were kept first are given up for later ones.
const MAX_LAYERS: usize = 256;

/// A run of a job on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct JobRun {
    /// The job's number.
    pub job: u32,
    /// How often it was requeued.
    pub restart: u32,
}

impl From<StepId> for JobRun {
    fn from(step: StepId) -> Self {
        Self { job: step.job, restart: step.restart }
    }
}

/// What is kept for each job that has had a step with an image since the agent started.
#[derive(Debug, Default)]
pub(super) struct JobLayers(Mutex<HashMap<JobRun, Kept>>);

#[derive(Debug, Default)]
struct Kept {
    /// Whether a process tells when the job ends. Otherwise nothing is kept, and the entry ends with the job's last lease.
    ends: bool,
    layers: Vec<Arc<MountedLayer>>,
}

impl Kept {
    /// Adds layers that are not kept yet; returns those that are given up.
    fn add(&mut self, layers: &[Arc<MountedLayer>]) -> Vec<Arc<MountedLayer>> {
        for layer in layers {
            if !self.layers.iter().any(|known| Arc::ptr_eq(known, layer)) {
                self.layers.push(Arc::clone(layer));
            }
        }
        let excess = self.layers.len().saturating_sub(MAX_LAYERS);
        self.layers.drain(..excess).collect()
    }
}

impl JobLayers {
    fn lock(&self) -> MutexGuard<'_, HashMap<JobRun, Kept>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds layers to those of a job; returns those that are given up for them. `None` for the job's first step, for which the process that
    /// tells the job's end is to be looked for; other steps of the job do not look for it meanwhile.
    ///
    /// A lease's resources are never locked with this table: a release locks it while it has those.
    pub(super) fn add(&self, run: JobRun, layers: &[Arc<MountedLayer>]) -> Option<Vec<Arc<MountedLayer>>> {
        match self.lock().entry(run) {
            Entry::Occupied(known) if known.get().ends => Some(known.into_mut().add(layers)),
            Entry::Occupied(_) => Some(Vec::new()),
            Entry::Vacant(place) => {
                place.insert(Kept::default());
                None
            }
        }
    }

    /// Keeps a job's layers from now on: its end will be known.
    pub(super) fn keep(&self, run: JobRun, layers: &[Arc<MountedLayer>]) {
        let mut jobs = self.lock();
        let kept = jobs.entry(run).or_default();
        kept.ends = true;
        kept.add(layers);
    }

    /// Forgets a job whose end nothing tells, with its last lease.
    pub(super) fn forget(&self, run: JobRun) {
        let mut jobs = self.lock();
        if jobs.get(&run).is_some_and(|kept| !kept.ends) {
            jobs.remove(&run);
        }
    }

    /// Returns the runs of a job of which something is known.
    pub(super) fn runs_of(&self, job: u32) -> Vec<JobRun> {
        self.lock().keys().filter(|run| run.job == job).copied().collect()
    }

    /// Takes what is kept for a job, or for all.
    pub(super) fn take(&self, run: Option<JobRun>) -> Vec<Arc<MountedLayer>> {
        let mut jobs = self.lock();
        match run {
            Some(run) => jobs.remove(&run).map(|kept| kept.layers).unwrap_or_default(),
            None => jobs.values_mut().flat_map(|kept| std::mem::take(&mut kept.layers)).collect(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_job_whose_end_is_unknown_is_forgotten_with_its_last_lease() {
        let jobs = JobLayers::default();
        let runs = [1, 2].map(|job| JobRun { job, restart: 0 });
        jobs.lock().insert(runs[0], Kept::default());
        jobs.lock().insert(runs[1], Kept { ends: true, layers: Vec::new() });
        for run in runs {
            jobs.forget(run);
        }
        assert!(!jobs.lock().contains_key(&runs[0]) && jobs.lock().contains_key(&runs[1]));
        assert!(jobs.take(Some(runs[1])).is_empty() && jobs.lock().is_empty());
    }
}
