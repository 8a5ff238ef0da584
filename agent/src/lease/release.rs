//! The end of a lease: one routine, whatever led to it.
//!
//! It goes on past errors, names them all, and may be called any number of times. It is bounded in time whatever the store's file
//! system does: detaching a mount is done at once and touches no file of it, and what may wait for the store (the last unmounting
//! of a layer, which waits for reads under way; looking at processes that wait for it themselves) is done by a thread that
//! is not waited for beyond a limit. Such a thread goes on, and what it holds goes with its end.

use std::path::Path;
use std::sync::{Arc, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use parallax_protocol::message::StepId;

use super::cause::Cause;
use super::table::{Held, Lease, Leases};
use crate::journal::{Entry, LeaseKey};
use crate::layers::MountedLayer;
use crate::processes;
use crate::processes::membership::StepProcesses;

/// How long the end of a step waits for its last processes to go after they were killed.
const KILL_PATIENCE: Duration = Duration::from_secs(10);
/// How long it waits for the search for them; more than [`KILL_PATIENCE`], which is within.
const SEARCH_PATIENCE: Duration = Duration::from_secs(12);
/// How long it waits for layers to be unmounted.
const UNMOUNT_PATIENCE: Duration = Duration::from_secs(3);

impl Leases {
    /// Takes down all that a lease holds: processes, mounts, loop devices, directories, the journal's entry. Returns what could not
    /// be, one sentence each. A lease that has ended is no problem; a release that is under way is waited for.
    pub fn release(&self, key: &LeaseKey, cause: Cause) -> Vec<String> {
        match self.lease_of(key.step) {
            // The step may have another lease by now.
            Some(lease) if lease.entry.key == key.directory => self.end(&lease, cause),
            _ => Vec::new(),
        }
    }

    /// The same for whatever lease a step has.
    pub fn release_step(&self, step: StepId, cause: Cause) -> Vec<String> {
        self.lease_of(step).map_or_else(Vec::new, |lease| self.end(&lease, cause))
    }

    /// The same for all steps of a job, or those with this number. Returns the steps that had a lease too.
    pub fn release_job(&self, job: u32, step: Option<u32>, cause: Cause) -> (Vec<StepId>, Vec<String>) {
        let meant = |id: &&StepId| id.job == job && step.is_none_or(|number| id.step == number);
        let mut steps: Vec<StepId> = self.live().keys().filter(meant).copied().collect();
        steps.sort_unstable();
        let problems = steps.iter().flat_map(|&step| self.release_step(step, cause)).collect();
        (steps, problems)
    }

    fn lease_of(&self, step: StepId) -> Option<Arc<Lease>> {
        self.live().get(&step).cloned()
    }

    fn end(&self, lease: &Lease, cause: Cause) -> Vec<String> {
        let mut place = lease.held.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Held { directory, layers, hold }) = place.take() else { return Vec::new() };
        let entry = &lease.entry;
        let step = entry.step();
        let started = Instant::now();
        let mut problems = end_processes(&self.step_path(&entry.key), entry);
        let ended = Instant::now();
        if let Err(error) = directory.take_down() {
            problems.push(format!("{} can't be taken down: {error}", self.step_path(&entry.key).display()));
        }
        // Those that are to stay mounted for a while are held once more.
        self.layers.keep_idle(&layers);
        // Only the last holder of a layer unmounts it; without any there is nothing that could take long.
        let last: Vec<MountedLayer> = layers.into_iter().filter_map(Arc::into_inner).collect();
        if !last.is_empty() && within(UNMOUNT_PATIENCE, move || drop(last)).is_none() {
            problems.push(
                "layers of the image are still being unmounted: the store does not answer; they go when it does"
                    .to_owned(),
            );
        }
        if !lease.readable {
            self.take_down_orphaned_layers(Some(step));
        }
        drop(hold);
        if let Err(error) = self.journal.remove(entry) {
            problems.push(format!("the journal's entry {} can't be removed: {error}", entry.key));
        }
        // Only this lease: the step may not be given another one before.
        self.live().remove(&step);
        for problem in &problems {
            tracing::error!(job = step.job, step = %step, "{problem}");
        }
        let (processes, mounts) = (ended - started, ended.elapsed());
        self.metrics.released(cause, started.elapsed(), problems.len());
        tracing::info!(job = step.job, step = %step, uid = entry.request.uid, %cause, ?processes, ?mounts, "released");
        problems
    }
}

fn end_processes(path: &Path, entry: &Entry) -> Vec<String> {
    let (step, path) = (entry.step(), path.to_owned());
    let owner = entry.owner.pid_if_alive();
    let control_group = entry.control_group.clone().or_else(|| processes::control_group_of_owner(owner?));
    // Whose a process is can be asked without waiting; looking into it can't.
    let identity = entry.user();
    if matches!(processes::of(&identity), Ok(found) if found.is_empty()) {
        return Vec::new();
    }
    let search = move || {
        let control_group = control_group.as_deref();
        let processes = StepProcesses { directory: &path, job: step.job, owner, control_group };
        let (ended, problems) = processes::end(&processes, &identity, KILL_PATIENCE);
        if ended > 0 {
            tracing::debug!(job = step.job, step = %step, ended, "ended processes that outlived the step");
        }
        problems
    };
    within(SEARCH_PATIENCE, search).unwrap_or_else(|| {
        vec!["the step's processes can't all be looked at: one of them does not let itself".to_owned()]
    })
}

/// Does something in a thread of its own. Returns what it gave, or `None` if it has not ended in time; it then goes on.
fn within<T: Send + 'static>(patience: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let body = move || {
        let _ = sender.send(work());
    };
    // Without a thread it is not done here either: it might never come back. What `work` holds is dropped, which is all
    // there is to do for layers, and may wait.
    thread::Builder::new().name("release".to_owned()).stack_size(256 * 1024).spawn(body).ok()?;
    receiver.recv_timeout(patience).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_left_alone() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (go, wait) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || wait.recv().is_ok()), None);
        drop(go);
    }
}
