//! slurmstepd, as root: the lease, from its request to its release.
//!
//! The lease is requested as early as possible and waited for as late as possible. The connection stays open for the life of
//! this process; if slurmstepd dies, the agent sees the end of the connection.

use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};

use parallax_config::Config;
use parallax_format::Pin;
use parallax_protocol::client::{Client, ClientError};
use parallax_protocol::frame::FrameError;
use parallax_protocol::message::{Grant, LeaseRequest, Mode, Request, Response, Timings};
use parallax_protocol::step_file::StepPaths;
use parallax_request::{Request as Wish, Userns};
use parallax_spank_hooks::{
    IMAGE_DIGEST, IMAGE_ID, JOB_ID, PIN, PODMAN_SETTINGS, REQUEST, STEP_DIRECTORY, TIMINGS_OF_STEP, text,
};
use slurm_spank::{SpankHandle, spank_log_error};

use crate::failure::{Failure, Task};
use crate::job::{Job, Setting};
use crate::options::{self, Wanted, left_by_slurm};

/// Message about an agent that violates the protocol.
const UNEXPECTED: &str = "unexpected response from the Parallax agent; tell the administrator";

/// A step that has an image.
#[derive(Debug)]
pub(crate) struct Step {
    launcher: String,
    lease: Lease,
}

/// State of the lease.
#[derive(Debug)]
enum Lease {
    /// Requested.
    Requested(Held),
    /// Granted.
    Granted(Held, Grant),
    /// The request failed.
    Failed(Failure),
}

/// The connection of the lease, and the request.
#[derive(Debug)]
struct Held {
    client: Client,
    job: Job,
    wanted: Wanted,
    pin: Pin,
    config: Config,
    deadline: Instant,
    /// How long slurmstepd waited for the agent.
    waited: Duration,
}

impl Held {
    /// Returns the mode of the tasks. A script calls srun and Podman itself, so it stays on the node.
    fn mode(&self) -> Mode {
        if self.job.is_script() { Mode::Podman } else { self.wanted.mode.unwrap_or_default() }
    }
}

impl Step {
    /// Requests the lease without waiting; `None` for a step without an image. Runs before stdio is set up: no message can reach
    /// the user yet, and an error returned here would drain the node.
    pub(crate) fn begin(spank: &SpankHandle) -> Option<Self> {
        let job = match Job::read(spank) {
            Ok(job) if job.is_extern() => return None,
            job => job,
        };
        let variable = |name| spank.getenv(name).ok().flatten();
        // A component of a heterogeneous job has a number of its own; tasks see that of the whole job.
        let number = variable(text(JOB_ID)).and_then(|number| number.parse().ok());
        let number = number.or(job.as_ref().ok().map(|job| job.step.job));
        let pin = variable(text(PIN)).and_then(|text| text.parse::<Pin>().ok());
        let pin = pin.filter(|pin| pin.job.is_none() || pin.job == number);
        let wanted = match options::wanted(pin.as_ref()) {
            Ok(None) => return None,
            Ok(Some(wanted)) => wanted,
            Err(message) => return Some(Self::failed(Failure::of_request(message))),
        };
        let job = match job {
            Ok(job) => job,
            Err(error) => {
                return Some(Self::failed(Failure::of_node(format!(
                    "cannot get the step's number from Slurm: {error}"
                ))));
            }
        };
        let number = number.unwrap_or(job.step.job);
        let setting = match Setting::read(spank) {
            Ok(setting) => setting,
            Err(message) => return Some(Self::failed(Failure::of_node(message))),
        };
        let wanted = match variable(text(REQUEST)).map(|value| Wish::from_variable(&value)).transpose() {
            Ok(request) => Wanted { request: request.unwrap_or_default(), ..wanted },
            Err(error) => return Some(Self::failed(Failure::of_request(format!("{}: {error}", text(REQUEST))))),
        };
        let id = pin.and_then(|pin| pin.id_in(number, &wanted.image));
        let pin = Pin { job: Some(number), image: wanted.image.clone(), id };
        let lease = match ask(&setting.config, wanted, job, Job::groups(spank), pin) {
            Ok(held) => Lease::Requested(held),
            Err(message) => Lease::Failed(Failure::of_node(message)),
        };
        Some(Self { launcher: setting.launcher, lease })
    }

    /// Returns a failed step for the case that Slurm failed to register the options, whose values are then unknown.
    pub(crate) fn without_options() -> Self {
        Self::failed(Failure::of_node(
            "this node does not know the options of the step's image: its plugstack.conf differs from that of the other nodes, or Slurm \
             failed to register the options; tell the administrator",
        ))
    }

    /// Returns the step after a panic in [`Step::begin`]: a step with an image must fail, others must not be affected.
    pub(crate) fn after_panic() -> Option<Self> {
        let message = "internal error on the node; tell the administrator";
        options::names_image().then(|| Self::failed(Failure::of_node(message)))
    }

    fn failed(failure: Failure) -> Self {
        Self { launcher: Setting::default().launcher, lease: Lease::Failed(failure) }
    }

    /// Waits for the lease, and sets its variables for the tasks. Runs as the user, before the tasks are forked.
    pub(crate) fn await_lease(&mut self, spank: &SpankHandle) {
        // An earlier failure is kept.
        let unknown = Failure::of_node("internal error: no wait for the image");
        let lease = std::mem::replace(&mut self.lease, Lease::Failed(unknown));
        self.lease = match lease {
            Lease::Requested(mut held) => {
                let started = Instant::now();
                match receive(&held) {
                    Ok(grant) => {
                        held.waited = started.elapsed();
                        Lease::Granted(held, grant)
                    }
                    Err(failure) => Lease::Failed(failure),
                }
            }
            known => known,
        };
        if let Err(error) = self.set_variables(spank) {
            self.lease = Lease::Failed(Failure::of_node(format!("cannot set the variables for podman: {error}")));
        }
    }

    fn set_variables(&self, spank: &SpankHandle) -> Result<(), Box<dyn Error>> {
        for name in left_by_slurm() {
            spank.unsetenv(&name)?;
        }
        let Lease::Granted(held, grant) = &self.lease else { return Ok(()) };
        spank.setenv(text(PIN), held.pin.to_string(), true)?;
        if let Some(image) = &grant.image {
            spank.setenv(text(IMAGE_ID), &image.id, true)?;
            spank.setenv(text(IMAGE_DIGEST), &image.digest, true)?;
        } else {
            spank.unsetenv(text(IMAGE_ID))?;
            spank.unsetenv(text(IMAGE_DIGEST))?;
        }
        if held.wanted.request.timings == Some(true) && held.mode() == Mode::Run {
            spank.setenv(text(TIMINGS_OF_STEP), timings(held, grant), true)?;
        }
        if held.mode() == Mode::Podman {
            for (name, value) in &grant.environment {
                spank.setenv(name, value, true)?;
            }
            for (name, value) in PODMAN_SETTINGS {
                spank.setenv(text(name), text(value), true)?;
            }
            let directory = grant.directory.to_str().ok_or("the step's directory is not UTF-8")?;
            spank.setenv(text(STEP_DIRECTORY), directory, true)?;
        }
        if held.job.is_script() {
            for (name, value) in held.wanted.inheritance() {
                spank.setenv(name, value, true)?;
            }
        }
        Ok(())
    }

    /// Ensures that the task sees the step's directory: Slurm may have given the job a private mount namespace. Runs in the
    /// task, as root, in that namespace.
    pub(crate) fn show_in_task(&mut self) {
        let Lease::Granted(held, grant) = &self.lease else { return };
        if StepPaths::new(&grant.directory).step_file().exists() {
            return;
        }
        let deadline = Instant::now() + held.config.step.start_deadline();
        let request = Request::Attach { step: held.job.step };
        let answer =
            Client::connect(&held.config.agent.socket()).and_then(|client| exchange(&client, &request, deadline));
        self.lease = match answer {
            Ok(Response::Attached) => return,
            Ok(Response::Refused { reason, .. }) => Lease::Failed(Failure::of_node(reason)),
            Ok(_) => Lease::Failed(Failure::of_node(UNEXPECTED)),
            Err(error) => Lease::Failed(Failure::of_node(error.to_string())),
        };
    }

    /// Points the task at the launcher. Runs in the task, as the user.
    pub(crate) fn prepare_task(&self, spank: &SpankHandle) -> Result<(), Box<dyn Error>> {
        match &self.lease {
            Lease::Granted(held, grant) if held.mode() == Mode::Run => {
                let directory = grant.directory.to_str().ok_or("the step's directory is not UTF-8")?;
                let file = broadcast_file(spank, held.job);
                // The launcher measures how long tasks wait.
                let is_timed = held.wanted.request.timings == Some(true);
                let joiner = joiner(&self.launcher).filter(|_| !is_timed);
                let launcher = self.launcher.as_str();
                let first = joiner.as_ref().map_or([launcher, "run"], |joiner| [joiner.as_str(), launcher]);
                Ok(spank.prepend_task_argv([&first[..], &[directory, &file, "--"]].concat())?)
            }
            Lease::Granted(held, grant) => {
                let directory = grant.directory.to_str().ok_or("the step's directory is not UTF-8")?;
                let file = broadcast_file(spank, held.job);
                let mut words = vec![self.launcher.as_str(), "node", directory, &file, "--"];
                // Of little weight, and most often the same on all nodes.
                let is_first = number_in_step(spank).unwrap_or(spank.task_id()?) == 0;
                if let Some(notice) = grant.notice.as_ref().filter(|_| is_first) {
                    words.splice(0..0, [self.launcher.as_str(), "tell", notice, &file, "--"]);
                }
                Ok(spank.prepend_task_argv(words)?)
            }
            Lease::Failed(failure) => self.fail_task(spank, failure),
            Lease::Requested(_) => {
                self.fail_task(spank, &Failure::of_node("Slurm started the task before the image was ready"))
            }
        }
    }

    /// Has the launcher fail the task, and print the reason if this is the task that does. This happens in the task, where Slurm adds no
    /// message and the node is not affected.
    fn fail_task(&self, spank: &SpankHandle, failure: &Failure) -> Result<(), Box<dyn Error>> {
        let node = node_name(spank);
        let in_step = number_in_step(spank);
        let message = failure.told_by(Task { node: node.as_deref(), on_node: spank.task_id()?, in_step });
        Ok(spank.prepend_task_argv(vec![&self.launcher, "fail", &message, "--"])?)
    }

    /// Releases the lease and waits, up to a deadline, for the end of the cleanup.
    pub(crate) fn end(self) {
        let (Lease::Granted(held, _) | Lease::Requested(held)) = self.lease else { return };
        let Held { client, job, config, .. } = held;
        let deadline = Instant::now() + config.step.end_deadline();
        let request = Request::Release { step: job.step };
        let result = match exchange(&client, &request, deadline) {
            // The agent was restarted meanwhile, and knows the lease from its journal.
            Err(ClientError::Exchange(FrameError::Closed)) => {
                Client::connect(&config.agent.socket()).and_then(|client| exchange(&client, &request, deadline))
            }
            result => result,
        };
        match result {
            Ok(Response::Released { problems }) => {
                for problem in problems {
                    spank_log_error!("parallax: {problem}");
                }
            }
            Ok(_) => {}
            Err(error) => spank_log_error!("parallax: cannot release the step's image: {error}"),
        }
    }
}

/// Returns the name of this node, as Slurm calls it.
fn node_name(spank: &SpankHandle) -> Option<String> {
    spank.getenv("SLURMD_NODENAME").ok().flatten()
}

/// Returns the task's number among all tasks of the step, of all components.
fn number_in_step(spank: &SpankHandle) -> Option<i32> {
    spank.getenv("SLURM_PROCID").ok().flatten()?.parse().ok()
}

/// The program beside the launcher that joins a container without it; none on processors that it is not made for.
fn joiner(launcher: &str) -> Option<String> {
    let path = Path::new(launcher).with_file_name("parallax-join");
    path.exists().then_some(path)?.into_os_string().into_string().ok()
}

/// Returns the name of the file that `srun --bcast` writes if no name is given (`slurm_bcast_JOB.STEP_NODE`).
fn broadcast_file(spank: &SpankHandle, job: Job) -> String {
    let node = node_name(spank).unwrap_or_default();
    format!("slurm_bcast_{}.{}_{node}", job.step.job, job.step.step)
}

/// The durations of a step's grant, a part of a line for the user.
fn timings(held: &Held, grant: &Grant) -> String {
    let Timings { resolve, layers, step_store } = grant.timings;
    let waited = held.waited.as_micros();
    format!(
        "image found in {resolve} us, layers mounted in {layers} us, store made in {step_store} us; Slurm waited {waited} us"
    )
}

/// Connects to the agent and sends the request.
fn ask(config: &Path, wanted: Wanted, job: Job, groups: Option<Vec<u32>>, pin: Pin) -> Result<Held, String> {
    let config = Config::load(config).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + config.step.start_deadline();
    let client = Client::connect(&config.agent.socket()).map_err(|error| error.to_string())?;
    let held = Held { client, job, wanted, pin, config, deadline, waited: Duration::ZERO };
    let request = Request::Lease(LeaseRequest {
        step: job.step,
        uid: job.uid,
        gid: job.gid,
        groups,
        image: held.wanted.image.clone(),
        image_id: held.pin.id.map(|id| id.to_string()),
        mode: held.mode(),
        memory: job.memory,
        as_root: held.mode() == Mode::Run && held.wanted.request.userns == Some(Userns::Root),
        container: held.wanted.request.container().filter(|_| held.mode() == Mode::Run).map(ToOwned::to_owned),
        rule: held.wanted.request.rule,
    });
    held.client.send(&request, deadline).map_err(|error| error.to_string())?;
    Ok(held)
}

fn receive(held: &Held) -> Result<Grant, Failure> {
    match held.client.receive(held.deadline) {
        Ok(Response::Granted(grant)) => Ok(grant),
        Ok(Response::Refused { reason, everywhere: true }) => Err(Failure::of_request(reason)),
        Ok(Response::Refused { reason, .. }) => Err(Failure::of_node(reason)),
        Ok(_) => Err(Failure::of_node(UNEXPECTED)),
        Err(error) => Err(Failure::of_node(error.to_string())),
    }
}

/// Sends a request and receives its response. The grant of a lease for which nobody waited may come first.
fn exchange(client: &Client, request: &Request, deadline: Instant) -> Result<Response, ClientError> {
    client.send(request, deadline)?;
    loop {
        match client.receive(deadline)? {
            Response::Granted(_) => {}
            response => return Ok(response),
        }
    }
}
