//! The release of a lease: one routine for every cause.
//!
//! The routine continues past errors, reports all of them, and is idempotent. It is bounded in time whatever the store's file
//! system does: detaching a mount is done at once and touches no file of it, and what may wait for the store (the last unmounting
//! of a layer, which waits for reads in progress; inspecting processes that wait for it themselves) is done by a thread that
//! is not waited for beyond a limit. Such a thread continues, and its resources are released when it ends.

use std::path::Path;
use std::sync::{Arc, PoisonError, mpsc};
use std::thread;
use std::time::{Duration, Instant};

use parallax_protocol::message::StepId;

use super::cause::Cause;
use super::job_layers::JobRun;
use super::table::{Lease, Leases, Resources};
use crate::journal::{Entry, LeaseKey};
use crate::layers::MountedLayer;
use crate::processes;
use crate::processes::membership::StepProcesses;
use crate::step::StepDirectory;
use crate::step::disk::DiskDirectory;

/// Timeout for the end of the step's last processes after they were killed.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);
/// Timeout for the search for these processes; includes [`KILL_TIMEOUT`].
const SEARCH_TIMEOUT: Duration = Duration::from_secs(12);
/// Timeout for the removal of the writable layer from the disk; it continues after the timeout.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(3);
/// Timeout for unmounting layers.
const UNMOUNT_TIMEOUT: Duration = Duration::from_secs(3);

impl Leases {
    /// Releases a lease: processes, mounts, loop devices, directories, the journal entry. Returns the problems, one sentence
    /// each. A lease that has ended is not a problem; a release in progress is waited for.
    pub fn release(&self, key: &LeaseKey, cause: Cause) -> Vec<String> {
        match self.lease_of(key.step) {
            // The step may have another lease by now.
            Some(lease) if lease.entry.key == key.directory => self.end(&lease, cause),
            _ => Vec::new(),
        }
    }

    /// Releases the lease that a step has, whatever its key.
    pub fn release_step(&self, step: StepId, cause: Cause) -> Vec<String> {
        self.lease_of(step).map_or_else(Vec::new, |lease| self.end(&lease, cause))
    }

    /// Releases the leases of all steps of a job, or of the steps with this number. Returns these steps and the problems.
    pub fn release_job(&self, job: u32, step: Option<u32>, cause: Cause) -> (Vec<StepId>, Vec<String>) {
        let meant = |id: &&StepId| id.job == job && step.is_none_or(|number| id.step == number);
        let mut steps: Vec<StepId> = self.live().keys().filter(meant).copied().collect();
        steps.sort_unstable();
        let problems = steps.iter().flat_map(|&step| self.release_step(step, cause)).collect();
        if step.is_none() {
            self.job_layers.runs_of(job).into_iter().for_each(|run| self.release_job_layers(run));
        }
        (steps, problems)
    }

    fn lease_of(&self, step: StepId) -> Option<Arc<Lease>> {
        self.live().get(&step).cloned()
    }

    fn end(&self, lease: &Lease, cause: Cause) -> Vec<String> {
        let mut place = lease.resources.lock().unwrap_or_else(PoisonError::into_inner);
        let Some(Resources { directory, disk, layers, marker }) = place.take() else { return Vec::new() };
        let entry = &lease.entry;
        let step = entry.step();
        let started = Instant::now();
        let path = self.step_path(entry.directory());
        let mut problems = end_processes(&path, entry);
        let ended = Instant::now();
        if let Some(Err(error)) = directory.map(StepDirectory::release) {
            problems.push(format!("cannot unmount {}: {error}", path.display()));
        }
        problems.extend(disk.and_then(remove_from_disk));
        problems.extend(self.unmount(layers));
        if !lease.readable {
            self.unmount_orphaned_layers(Some(step));
        }
        drop(marker);
        if let Err(error) = self.journal.remove(entry) {
            problems.push(format!("cannot remove the journal entry {}: {error}", entry.key));
        }
        // Only this lease: the step may not be given another one before.
        self.live().remove(&step);
        let run = JobRun::from(step);
        if !self.has_lease_of(run) {
            self.job_layers.forget(run);
        }
        for problem in &problems {
            tracing::error!(job = step.job, step = %step, "{problem}");
        }
        let (processes, mounts) = (ended - started, ended.elapsed());
        self.metrics.released(cause, started.elapsed(), problems.len());
        tracing::info!(job = step.job, step = %step, uid = entry.request.uid, %cause, ?processes, ?mounts, "released");
        problems
    }
}

impl Leases {
    /// Gives up layers: the last user of each unmounts it, unless it stays in the idle layer cache. Returns the problem.
    fn unmount(&self, layers: Vec<Arc<MountedLayer>>) -> Option<String> {
        // The idle layer cache keeps a reference of its own.
        self.layers.keep_idle(&layers);
        // Only the last reference to a layer unmounts it; without one nothing can block.
        let last: Vec<MountedLayer> = layers.into_iter().filter_map(Arc::into_inner).collect();
        let is_done = last.is_empty() || within(UNMOUNT_TIMEOUT, move || drop(last)).is_some();
        (!is_done).then(|| {
            "timed out unmounting layers of the image: the store does not respond; they are unmounted when it does"
                .to_owned()
        })
    }

    /// Gives up layers that were kept for a job.
    pub(super) fn give_up(&self, layers: Vec<Arc<MountedLayer>>) {
        if let Some(problem) = self.unmount(layers) {
            tracing::error!("{problem}");
        }
    }
}

/// Removes a lease's directory on the disk; returns the problem. What takes long continues.
fn remove_from_disk(disk: DiskDirectory) -> Option<String> {
    let started = Instant::now();
    let shown = disk.name.clone();
    let removed = within(REMOVE_TIMEOUT, move || {
        let problem = disk.remove().err();
        if let Some(problem) = problem.as_ref().filter(|_| started.elapsed() >= REMOVE_TIMEOUT) {
            tracing::error!("{problem}");
        }
        problem
    });
    removed.unwrap_or_else(|| {
        tracing::info!(directory = shown, "still removing the writable layer");
        None
    })
}

fn end_processes(path: &Path, entry: &Entry) -> Vec<String> {
    let (step, path, shared) = (entry.step(), path.to_owned(), entry.container.is_some());
    let owner = entry.owner.pid_if_alive();
    let control_group = entry.control_group.clone().or_else(|| processes::control_group_of_owner(owner?));
    // The owner of a process can be read without blocking; its other facts cannot.
    let identity = entry.user();
    if matches!(processes::of(&identity), Ok(found) if found.is_empty()) {
        return Vec::new();
    }
    let search = move || {
        let control_group = control_group.as_deref();
        let processes = StepProcesses { directory: &path, job: step.job, owner, control_group, shared };
        let (ended, problems) = processes::end(&processes, &identity, KILL_TIMEOUT);
        if ended > 0 {
            tracing::debug!(job = step.job, step = %step, ended, "killed processes that outlived the step");
        }
        problems
    };
    within(SEARCH_TIMEOUT, search).unwrap_or_else(|| {
        vec!["timed out inspecting the step's processes: at least one is blocked in the kernel".to_owned()]
    })
}

/// Runs `work` in a thread. Returns its result, or `None` if the timeout expires; the thread then continues.
fn within<T: Send + 'static>(timeout: Duration, work: impl FnOnce() -> T + Send + 'static) -> Option<T> {
    let (sender, receiver) = mpsc::sync_channel(1);
    let body = move || {
        let _ = sender.send(work());
    };
    // Without a thread `work` does not run here either: it may never return. Its captures are dropped, which unmounts the
    // layers and may block.
    thread::Builder::new().name("release".to_owned()).stack_size(256 * 1024).spawn(body).ok()?;
    receiver.recv_timeout(timeout).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_beyond_the_timeout_is_not_waited_for() {
        assert_eq!(within(Duration::from_secs(60), || 7), Some(7));
        let (go, wait) = mpsc::channel::<()>();
        assert_eq!(within(Duration::from_millis(10), move || wait.recv().is_ok()), None);
        drop(go);
    }
}
