//! slurmstepd, as root: the lease, from asking for it to giving it back.
//!
//! The lease is asked for as early as can be and waited for as late as can be. Its connection is held for the life of this
//! process; should slurmstepd die, the agent sees the connection end.

use std::error::Error;
use std::time::Instant;

use parallax_config::Config;
use parallax_protocol::client::{Client, ClientError};
use parallax_protocol::frame::FrameError;
use parallax_protocol::message::{Grant, LeaseRequest, Mode, Request, Response};
use slurm_spank::{SpankHandle, spank_log_error};

use crate::job::{Job, Setting};
use crate::options::{self, INHERITED_IMAGE, Wanted};
use crate::submit::{RESOLVED, parse_resolved};

/// A step that has an image.
#[derive(Debug)]
pub struct Step {
    setting: Setting,
    wanted: Option<Wanted>,
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

/// The connection that is the lease.
#[derive(Debug)]
struct Held {
    client: Client,
    job: Job,
    config: Config,
    deadline: Instant,
}

impl Step {
    /// Asks for the lease and does not wait; `None` for a step without an image. Before stdio: nothing can be told the user
    /// yet, and an error returned here would drain the node.
    pub fn begin(spank: &SpankHandle) -> Option<Self> {
        let (setting, wanted) = match (Setting::read(spank), options::wanted(spank)) {
            (_, Ok(None)) => return None,
            (Ok(setting), Ok(Some(wanted))) => (setting, wanted),
            (Err(message), _) | (_, Err(message)) => {
                return Some(Self { setting: Setting::default(), wanted: None, lease: Lease::Failed(message) });
            }
        };
        let job = match Job::read(spank) {
            Ok(job) if job.is_extern() => return None,
            Ok(job) => job,
            Err(error) => {
                let message = format!("Slurm does not say which step this is: {error}");
                return Some(Self { setting, wanted: Some(wanted), lease: Lease::Failed(message) });
            }
        };
        let mode = if job.is_script() { Mode::Podman } else { wanted.mode };
        let wanted = Wanted { mode, ..wanted };
        let resolved = spank.getenv(RESOLVED).ok().flatten();
        let image_id =
            resolved.as_deref().and_then(|value| parse_resolved(value, &wanted.image)).map(ToOwned::to_owned);
        let lease = match ask(&setting, &wanted, job, image_id) {
            Ok(held) => Lease::Requested(held),
            Err(message) => Lease::Failed(message),
        };
        Some(Self { setting, wanted: Some(wanted), lease })
    }

    /// The step after a panic in [`Step::begin`]: one that has an image must fail, others must not notice.
    pub fn after_panic(spank: &SpankHandle) -> Option<Self> {
        let failed = || Self {
            setting: Setting::default(),
            wanted: None,
            lease: Lease::Failed("an internal error was caught on the node; tell the administrator".to_owned()),
        };
        options::names_image(spank).then(failed)
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
        let (Some(wanted), Lease::Granted(held, grant)) = (&self.wanted, &self.lease) else { return Ok(()) };
        if wanted.mode == Mode::Podman {
            for (name, value) in &grant.environment {
                spank.setenv(name, value, true)?;
            }
        }
        if held.job.is_script() {
            spank.setenv(INHERITED_IMAGE, &wanted.image, true)?;
        }
        Ok(())
    }

    /// Points the task at the launcher. In the task, as the user.
    pub fn prepare_task(&self, spank: &SpankHandle) -> Result<(), Box<dyn Error>> {
        let launcher = self.setting.launcher.as_str();
        match (&self.lease, &self.wanted) {
            (Lease::Granted(_, grant), Some(Wanted { mode: Mode::Run, .. })) => {
                let directory = grant.directory.to_str().ok_or("the step's directory is not UTF-8")?;
                spank.prepend_task_argv(vec![launcher, "run", directory, "--"])?;
            }
            (Lease::Granted(..), _) => {}
            (Lease::Failed(message), _) => fail_task(spank, launcher, message)?,
            (Lease::Requested(_), _) => {
                fail_task(spank, launcher, "Slurm started the task before the image was there")?
            }
        }
        Ok(())
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

/// Connects to the agent and sends the request.
fn ask(setting: &Setting, wanted: &Wanted, job: Job, image_id: Option<String>) -> Result<Held, String> {
    let config = Config::load(&setting.config).map_err(|error| error.to_string())?;
    let deadline = Instant::now() + config.step.start_deadline();
    let client = Client::connect(&config.agent.socket()).map_err(|error| error.to_string())?;
    let request = Request::Lease(LeaseRequest {
        step: job.step,
        uid: job.uid,
        gid: job.gid,
        image: wanted.image.clone(),
        image_id,
        mode: wanted.mode,
    });
    client.send(&request, deadline).map_err(|error| error.to_string())?;
    Ok(Held { client, job, config, deadline })
}

fn receive(held: &Held) -> Result<Grant, String> {
    match held.client.receive(held.deadline) {
        Ok(Response::Granted(grant)) => Ok(grant),
        Ok(Response::Refused { reason }) => Err(reason),
        Ok(_) => Err("the Parallax agent answered something else than was asked; tell the administrator".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

/// Sends a request and receives its response. A response that was never waited for may come first.
fn exchange(client: &Client, request: &Request, deadline: Instant) -> Result<Response, ClientError> {
    client.send(request, deadline)?;
    loop {
        match client.receive(deadline)? {
            Response::Granted(_) | Response::Refused { .. } => {}
            response => return Ok(response),
        }
    }
}

/// Has the launcher tell the user, once on each node, and fail the task. It does so in the task, where Slurm adds nothing
/// and the node is out of harm's way.
fn fail_task(spank: &SpankHandle, launcher: &str, message: &str) -> Result<(), Box<dyn Error>> {
    let message = if spank.task_id()? == 0 { message } else { "" };
    Ok(spank.prepend_task_argv(vec![launcher, "fail", message, "--"])?)
}
