//! slurmstepd, as root: the lease, from asking for it to giving it back.
//!
//! The lease is asked for as early as can be and waited for as late as can be. Its connection is held for the life of this
//! process; should slurmstepd die, the agent sees the connection end.

use std::error::Error;
use std::path::Path;
use std::time::Instant;

use parallax_config::Config;
use parallax_protocol::client::{Client, ClientError};
use parallax_protocol::frame::FrameError;
use parallax_protocol::message::{Grant, LeaseRequest, Mode, Request, Response};
use parallax_protocol::step_file::StepPaths;
use parallax_spank_hooks::{PODMAN_SETTINGS, STEP_DIRECTORY, text};
use slurm_spank::{SpankHandle, spank_log_error};

use crate::job::{Job, Setting};
use crate::options::{self, LEFT_BY_SLURM, Wanted};
use crate::pin::{self, Pin};

/// What is said of an agent that does not keep to the protocol.
const UNEXPECTED: &str = "the Parallax agent answered something else than was asked; tell the administrator";

/// A step that has an image.
#[derive(Debug)]
pub struct Step {
    launcher: String,
    lease: Lease,
}

/// How far the lease has come.
#[derive(Debug)]
enum Lease {
    /// Asked for.
    Requested(Held),
    /// There.
    Granted(Held, Grant),
    /// Not to be had; the sentence for the user.
    Failed(String),
}

/// The connection that is the lease, and what it was asked for.
#[derive(Debug)]
struct Held {
    client: Client,
    job: Job,
    wanted: Wanted,
    pin: Pin,
    config: Config,
    deadline: Instant,
}

impl Held {
    /// What the tasks get. A script calls srun and Podman itself, so it stays on the node.
    fn mode(&self) -> Mode {
        if self.job.is_script() { Mode::Podman } else { self.wanted.mode.unwrap_or_default() }
    }
}

impl Step {
    /// Asks for the lease and does not wait; `None` for a step without an image. Before stdio: nothing can be told the user
    /// yet, and an error returned here would drain the node.
    pub fn begin(spank: &SpankHandle) -> Option<Self> {
        let wanted = match options::wanted() {
            Ok(None) => return None,
            Ok(Some(wanted)) => wanted,
            Err(message) => return Some(Self::failed(message)),
        };
        let job = match Job::read(spank) {
            Ok(job) if job.is_extern() => return None,
            Ok(job) => job,
            Err(error) => return Some(Self::failed(format!("Slurm does not say which step this is: {error}"))),
        };
        let setting = match Setting::read(spank) {
            Ok(setting) => setting,
            Err(message) => return Some(Self::failed(message)),
        };
        let variable = |name| spank.getenv(name).ok().flatten();
        let pin = variable(pin::VARIABLE).as_deref().and_then(Pin::parse);
        // A component of a heterogeneous job has a number of its own; tasks see that of the whole job.
        let number = variable(pin::JOB_ID).unwrap_or_else(|| job.step.job.to_string());
        let id = pin.and_then(|pin| pin.id_in(&number, &wanted.image));
        let pin = Pin { job: Some(number), image: wanted.image.clone(), id };
        let lease = match ask(&setting.config, wanted, job, Job::groups(spank), pin) {
            Ok(held) => Lease::Requested(held),
            Err(message) => Lease::Failed(message),
        };
        Some(Self { launcher: setting.launcher, lease })
    }

    /// The step where Slurm did not take the options, so that it is not known what they are: it must fail.
    pub fn without_options() -> Self {
        Self::failed("Slurm did not take the options of Parallax on this node; tell the administrator".to_owned())
    }

    /// The step after a panic in [`Step::begin`]: one that has an image must fail, others must not notice.
    pub fn after_panic() -> Option<Self> {
        let message = "an internal error was caught on the node; tell the administrator";
        options::names_image().then(|| Self::failed(message.to_owned()))
    }

    fn failed(message: String) -> Self {
        Self { launcher: Setting::default().launcher, lease: Lease::Failed(message) }
    }

    /// Waits for the lease, and hands its variables to the tasks. As the user, before the tasks are forked.
    pub fn await_lease(&mut self, spank: &SpankHandle) {
        // A failure stays what it was.
        let lease = std::mem::replace(&mut self.lease, Lease::Failed("the image was not waited for".to_owned()));
        self.lease = match lease {
            Lease::Requested(held) => match receive(&held) {
                Ok(grant) => Lease::Granted(held, grant),
                Err(message) => Lease::Failed(message),
            },
            known => known,
        };
        if let Err(error) = self.set_variables(spank) {
            self.lease = Lease::Failed(format!("the variables for podman can't be set: {error}"));
        }
    }

    fn set_variables(&self, spank: &SpankHandle) -> Result<(), Box<dyn Error>> {
        for name in LEFT_BY_SLURM {
            spank.unsetenv(name)?;
        }
        let Lease::Granted(held, grant) = &self.lease else { return Ok(()) };
        spank.setenv(pin::VARIABLE, held.pin.value(), true)?;
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

    /// Makes sure that the task sees the step's directory: Slurm may have given the job a mount namespace of its own. In the
    /// task, as root, when it is in that namespace.
    pub fn show_in_task(&mut self) {
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
            Ok(Response::Refused { reason }) => Lease::Failed(reason),
            Ok(_) => Lease::Failed(UNEXPECTED.to_owned()),
            Err(error) => Lease::Failed(error.to_string()),
        };
    }

    /// Points the task at the launcher. In the task, as the user.
    pub fn prepare_task(&self, spank: &SpankHandle) -> Result<(), Box<dyn Error>> {
        match &self.lease {
            Lease::Granted(held, grant) if held.mode() == Mode::Run => {
                let directory = grant.directory.to_str().ok_or("the step's directory is not UTF-8")?;
                let file = broadcast_file(spank, held.job);
                Ok(spank.prepend_task_argv(vec![&self.launcher, "run", directory, &file, "--"])?)
            }
            Lease::Granted(held, grant) => {
                let directory = grant.directory.to_str().ok_or("the step's directory is not UTF-8")?;
                let file = broadcast_file(spank, held.job);
                let mut words = vec![self.launcher.as_str(), "node", directory, &file, "--"];
                if let (Some(notice), 0) = (&grant.notice, spank.task_id()?) {
                    words.splice(0..0, [self.launcher.as_str(), "tell", notice, &file, "--"]);
                }
                Ok(spank.prepend_task_argv(words)?)
            }
            Lease::Failed(message) => self.fail_task(spank, message),
            Lease::Requested(_) => self.fail_task(spank, "Slurm started the task before the image was there"),
        }
    }

    /// Has the launcher tell the user, once on each node, and fail the task. It does so in the task, where Slurm adds
    /// nothing and the node is out of harm's way.
    fn fail_task(&self, spank: &SpankHandle, message: &str) -> Result<(), Box<dyn Error>> {
        let message = if spank.task_id()? == 0 { message } else { "" };
        Ok(spank.prepend_task_argv(vec![&self.launcher, "fail", message, "--"])?)
    }

    /// Gives the lease back and waits, up to a deadline, until nothing is left of it.
    pub fn end(self) {
        let (Lease::Granted(held, _) | Lease::Requested(held)) = self.lease else { return };
        let Held { client, job, config, .. } = held;
        let deadline = Instant::now() + config.step.end_deadline();
        let request = Request::Release { step: job.step };
        let result = match exchange(&client, &request, deadline) {
            // The agent was started anew since, and knows the lease from its journal.
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
            Err(error) => spank_log_error!("parallax: the step's image was not given back: {error}"),
        }
    }
}

/// Name of the file that `srun --bcast` makes of the program if it is told no name (`slurm_bcast_JOB.STEP_NODE`).
fn broadcast_file(spank: &SpankHandle, job: Job) -> String {
    let node = spank.getenv("SLURMD_NODENAME").ok().flatten().unwrap_or_default();
    format!("slurm_bcast_{}.{}_{node}", job.step.job, job.step.step)
}

/// Connects to the agent and sends the request.
fn ask(config: &Path, wanted: Wanted, job: Job, groups: Option<Vec<u32>>, pin: Pin) -> Result<Held, String> {
    let config = Config::load(config).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + config.step.start_deadline();
    let client = Client::connect(&config.agent.socket()).map_err(|error| error.to_string())?;
    let held = Held { client, job, wanted, pin, config, deadline };
    let request = Request::Lease(LeaseRequest {
        step: job.step,
        uid: job.uid,
        gid: job.gid,
        groups,
        image: held.wanted.image.clone(),
        image_id: held.pin.id.clone(),
        mode: held.mode(),
        memory: job.memory,
    });
    held.client.send(&request, deadline).map_err(|error| error.to_string())?;
    Ok(held)
}

fn receive(held: &Held) -> Result<Grant, String> {
    match held.client.receive(held.deadline) {
        Ok(Response::Granted(grant)) => Ok(grant),
        Ok(Response::Refused { reason }) => Err(reason),
        Ok(_) => Err(UNEXPECTED.to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Sends a request and receives its response. The grant of a lease that was never waited for may come first.
fn exchange(client: &Client, request: &Request, deadline: Instant) -> Result<Response, ClientError> {
    client.send(request, deadline)?;
    loop {
        match client.receive(deadline)? {
            Response::Granted(_) => {}
            response => return Ok(response),
        }
    }
}
