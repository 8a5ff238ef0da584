//! Containers that the steps of a job share (`--parallax-name`).
//!
//! Such a container is a lease of its own. It has a number beside those of steps ([`CONTAINERS`]), and the process that lasts as long as
//! the job on this node as its owner ([`keeper`]). So all that holds for the leases of steps holds for it: the journal, the adoption
//! by another agent, the release when the owner ends, however it ends. The steps' own leases have no resources.

use std::sync::{Arc, Mutex, PoisonError};

use parallax_format::{ContainerRule, RequestedImage};
use parallax_protocol::message::{CONTAINERS, LeaseRequest, StepId, Timings};
use parallax_sys::process::Process;

use super::cause::Cause;
use super::find::Found;
use super::keeper;
use super::refusal::{Refusal, no_container, refused};
use super::subject::{Acquired, Made, Subject};
use super::table::{Lease, Leases, Resources};
use crate::journal::{LeaseKey, Owner};

impl Leases {
    /// Provides the container of this name for a step, and makes it if none of the job's steps has made it.
    pub(super) fn acquire_shared(
        &self,
        request: LeaseRequest,
        name: &str,
        owner: Owner,
        subject: &Subject<'_>,
    ) -> Result<Acquired, Refusal> {
        let StepId { job, restart, .. } = request.step;
        let lock = self.containers.of((job, restart, request.uid, name.to_owned()));
        let _only = lock.lock().unwrap_or_else(PoisonError::into_inner);
        let (made, keeper) = match self.container(&request, name) {
            Some(_) if request.rule == Some(ContainerRule::Create) => {
                return Err(Refusal::user(format!(
                    "this job has a container \"{name}\" already, and \":create\" asks for a new one; leave that out to join it, or \
                     give another name"
                )));
            }
            None if request.rule == Some(ContainerRule::Exec) => return Err(no_container(name)),
            Some(lease) => {
                check(&lease, &request, name, subject.found)?;
                (
                    Made { lease, notice: None, timings: Timings { resolve: subject.resolve(), ..Timings::default() } },
                    None,
                )
            }
            None => {
                let (made, process) = self.make_container(&request, name, owner, subject)?;
                let key = made.lease.entry.lease_key();
                (made, Some((key, process)))
            }
        };
        match self.join(request, owner, &made.lease, subject) {
            Ok(key) => Ok(self.acquired(key, made, subject, keeper)),
            Err(refusal) => {
                // Nobody watches its owner.
                if let Some((key, _)) = keeper {
                    self.release(&key, Cause::Connection);
                }
                Err(refusal)
            }
        }
    }

    /// Returns the request with the image of the container that it names in place of one.
    ///
    /// # Errors
    /// [`Refusal`]: the job has no such container on this node.
    pub(super) fn with_image_of_container(&self, request: LeaseRequest) -> Result<LeaseRequest, Refusal> {
        let Ok(RequestedImage::OfContainer(name)) = RequestedImage::parse(&request.image) else { return Ok(request) };
        let container = self.container(&request, &name).filter(|_| request.container.as_deref() == Some(&name));
        let container = container.ok_or_else(|| no_container(&name))?;
        let entry = &container.entry;
        Ok(LeaseRequest {
            image: entry.request.image.clone(),
            image_id: entry.image.as_ref().map(|image| image.id.to_string()),
            // The user says nothing of it either.
            as_root: entry.request.as_root,
            ..request
        })
    }

    /// Returns the container of this name, if the job has it on this node.
    fn container(&self, request: &LeaseRequest, name: &str) -> Option<Arc<Lease>> {
        let is_meant = |lease: &&Arc<Lease>| {
            let (step, own) = (lease.entry.step(), &lease.entry.request);
            let is_of_job = step.is_container() && (step.job, step.restart) == (request.step.job, request.step.restart);
            is_of_job && own.uid == request.uid && own.container.as_deref() == Some(name)
        };
        self.live().values().find(is_meant).cloned()
    }

    fn make_container(
        &self,
        request: &LeaseRequest,
        name: &str,
        owner: Owner,
        subject: &Subject<'_>,
    ) -> Result<(Made, Process), Refusal> {
        let job = request.step.job;
        let keeper = keeper::of_job(job, owner).and_then(|keeper| Some((keeper, keeper.open_process()?)));
        let (keeper, process) = keeper.ok_or_else(|| {
            Refusal::administrator(format!(
                "the container \"{name}\" cannot be kept for the job: nothing tells this node when job {job} ends; tell the \
                 administrator to set PrologFlags=Contain in slurm.conf"
            ))
        })?;
        let free = {
            let live = self.live();
            let number = |step| StepId { step, ..request.step };
            CONTAINERS.map(number).find(|step| !live.contains_key(step))
        };
        let step = free.ok_or_else(|| Refusal::user(format!("job {job} has too many containers on this node")))?;
        // Another name of the job may be given the same number meanwhile.
        let _beginning = self.begin(step)?;
        Ok((self.make(LeaseRequest { step, ..request.clone() }, keeper, subject)?, process))
    }

    /// Grants the step's own lease, which has no resources.
    fn join(
        &self,
        request: LeaseRequest,
        owner: Owner,
        container: &Lease,
        subject: &Subject<'_>,
    ) -> Result<LeaseKey, Refusal> {
        let mut entry = self.entry(request, owner, subject.identity, &[])?;
        entry.container = Some(container.entry.key.clone());
        entry.image.clone_from(&container.entry.image);
        entry.image_names.clone_from(&container.entry.image_names);
        entry.source.clone_from(&container.entry.source);
        self.journal.write(&entry).map_err(|error| refused(&format!("cannot write the agent's journal: {error}")))?;
        let key = entry.lease_key();
        tracing::info!(step = %key.step, uid = entry.request.uid, container = entry.directory(), "granted in a container");
        let resources = Resources { directory: None, disk: None, layers: Vec::new(), marker: None };
        let lease = Lease { entry, readable: true, resources: Mutex::new(Some(resources)) };
        self.live().insert(key.step, Arc::new(lease));
        Ok(key)
    }
}

/// Refuses a step that wants something else under a name than what is there.
fn check(lease: &Lease, request: &LeaseRequest, name: &str, found: &Found) -> Result<(), Refusal> {
    let has = &lease.entry;
    let same_image = match found {
        Found::Image { image, .. } => has.image.as_ref().is_some_and(|own| own.id == image.id),
        Found::Directory { .. } | Found::Missing(_) => has.image.is_none() && has.request.image == request.image,
    };
    if !same_image {
        let id = has.image.as_ref().map_or_else(String::new, |image| format!(" (id {:.12})", image.id));
        return Err(Refusal::user(format!(
            "the container \"{name}\" of this job has the image \"{}\"{id} and not \"{}\"; give another --parallax-name",
            has.request.image, request.image
        )));
    }
    if has.request.as_root != request.as_root {
        let (is, not) = if request.as_root { ("keep-id", "root") } else { ("root", "keep-id") };
        return Err(Refusal::user(format!(
            "the container \"{name}\" of this job was made with --parallax-userns={is} and not {not}; give another --parallax-name"
        )));
    }
    if lease.resources.lock().unwrap_or_else(PoisonError::into_inner).is_none() {
        return Err(Refusal::busy("the container of this name is being removed, since its job has ended"));
    }
    Ok(())
}
