//! The step's container on this node: the first task that takes the lock makes it, the others wait for it.
//!
//! The container is its namespaces and mounts, kept by a process ([`crate::holder`]); no program of the image runs to make it. The
//! result is recorded for later tasks. A task that dies while it makes the
//! container leaves a marker file, so that the others fail at once.
//!
//! A container that several steps share is kept by files that the agent has made for it, and not by a process, which Slurm would end with
//! its step. A step that cannot make it leaves that to the next one.
//!
//! An image that is in no store is pulled first ([`crate::pull`]).

use std::ffi::{CStr, OsStr};
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parallax_format::layout;
use parallax_format::oci::Execution;
use parallax_join_file::LOCK;
use parallax_protocol::step_file::{StepFile, StepPaths};
use parallax_request::{Mount, Request};
use parallax_sys::process::{Process, start_time};
use rustix::fs::{FlockOperation, flock};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};

use crate::build;
use crate::door::Door;
use crate::holder::Held;
use crate::making::{Layers, Making};
use crate::messages::STEP_ID;
use crate::named;
use crate::node_name::is_first_node;
use crate::podman::Podman;
use crate::pull;
use crate::request::{self, Asked};

/// Error of making the container.
#[derive(Debug)]
pub(crate) enum StartError {
    /// Another task has reported the error.
    Reported,
    /// This task must report the error.
    Here(String),
}

/// The step's container.
pub(crate) struct Container {
    /// The way into it.
    pub door: Door,
    /// Settings for the execution of programs of an image that was pulled or is a directory, which the agent does not know.
    pub pulled: Option<Execution>,
    /// The variables that its devices give tasks, names and values.
    pub environment: Vec<(String, String)>,
    /// Mounts that the step needs in addition, if an earlier step made the container.
    pub mounts: Vec<Mount>,
    /// The process that keeps it, and its start time; none for a container that steps share.
    pub holder: Option<(i32, u64)>,
    /// The lock for which other tasks wait, if this task has made the container.
    pub lock: Option<File>,
}

/// Result of making the container, as recorded for later tasks.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    /// The container's first process, the settings of an image that the agent does not know, and the variables of its devices.
    Ready { pid: i32, start_time: u64, pulled: Option<Execution>, environment: Vec<(String, String)> },
    /// A container that steps share, and the request by which it was made.
    Shared { made_with: Box<Request>, pulled: Option<Execution>, environment: Vec<(String, String)> },
    /// Making the container failed, and the error was reported.
    Failed { attempt: String },
}

/// The files the tasks share.
struct Shared {
    directory: PathBuf,
    /// Whose failure is this task's, too: its step's. Where steps share a container, each step makes an attempt of its own.
    attempt: String,
}

impl Shared {
    fn lock(&self) -> PathBuf {
        self.directory.join(file_name(LOCK))
    }

    fn outcome(&self) -> PathBuf {
        self.directory.join("outcome.json")
    }

    /// Marker file that exists while a task makes the container.
    fn under_way(&self) -> PathBuf {
        self.directory.join("under-way")
    }

    /// Returns the result that is recorded; none of another step's failure.
    fn read_outcome(&self) -> Result<Option<Outcome>, StartError> {
        let recorded: Option<Outcome> = match fs::read(self.outcome()) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| StartError::Here(format!("{} is corrupt: {error}", self.outcome().display())))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => None,
            Err(error) => return Err(StartError::Here(format!("cannot read {}: {error}", self.outcome().display()))),
        };
        Ok(recorded.filter(|outcome| !matches!(outcome, Outcome::Failed { attempt } if *attempt != self.attempt)))
    }

    fn broken(&self, error: io::Error) -> StartError {
        StartError::Here(format!("cannot use {}: {error}", self.directory.display()))
    }

    /// Takes the lock; returns the result if there is one by then. Tasks that wait for the one that makes the container share the lock:
    /// they go on at once, and not one after another.
    fn wait_for_outcome(&self, lock: &File) -> Result<Option<Outcome>, StartError> {
        let lock = |operation| flock(lock, operation);
        match lock(FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return self.read_outcome(),
            Err(Errno::WOULDBLOCK) => {}
            Err(error) => return Err(self.broken(error.into())),
        }
        lock(FlockOperation::LockShared).map_err(|error| self.broken(error.into()))?;
        if let Some(outcome) = self.read_outcome()? {
            return Ok(Some(outcome));
        }
        // The task that had the lock died.
        lock(FlockOperation::LockExclusive).map_err(|error| self.broken(error.into()))?;
        self.read_outcome()
    }

    fn failed(&self) -> Outcome {
        Outcome::Failed { attempt: self.attempt.clone() }
    }

    /// Whether a task of this attempt has begun to make the container.
    fn is_under_way(&self) -> bool {
        fs::read(self.under_way()).is_ok_and(|attempt| attempt == self.attempt.as_bytes())
    }

    fn write_outcome(&self, outcome: &Outcome) -> io::Result<()> {
        let new = self.outcome().with_extension("new");
        let mut file = private_file(&new)?;
        file.write_all(&serde_json::to_vec(outcome)?)?;
        fs::rename(new, self.outcome())?;
        fs::remove_file(self.under_way())
    }
}

/// Returns the step's container, and makes it if no other task has made it. `lock` is the tasks' lock if this task has it.
pub(crate) fn obtain(
    paths: &StepPaths,
    step: &StepFile,
    asked: Asked<'_>,
    lock: Option<File>,
) -> Result<Container, StartError> {
    let request = asked.request;
    let shared = Shared { directory: paths.launch_directory(), attempt: attempt(step) };
    let broken = |error| shared.broken(error);
    if let Some(outcome) = shared.read_outcome()? {
        return outcome.container(paths, step, request);
    }
    let lock = match lock {
        Some(lock) => lock,
        None => {
            let lock = private_file(&shared.lock()).map_err(broken)?;
            if let Some(outcome) = shared.wait_for_outcome(&lock)? {
                return outcome.container(paths, step, request);
            }
            lock
        }
    };
    if shared.is_under_way() {
        shared.write_outcome(&shared.failed()).map_err(broken)?;
        return Err(StartError::Here(
            "the task that was starting the container was ended before it was done".to_owned(),
        ));
    }
    private_file(&shared.under_way()).and_then(|mut file| file.write_all(shared.attempt.as_bytes())).map_err(broken)?;
    let made = make(paths, step, asked);
    let (outcome, failure) = match made {
        Ok(outcome) => (outcome, None),
        Err(message) => (shared.failed(), Some(message)),
    };
    shared.write_outcome(&outcome).map_err(broken)?;
    match failure {
        Some(message) => Err(StartError::Here(message)),
        None => Ok(Container { lock: Some(lock), ..outcome.container(paths, step, request)? }),
    }
}

/// Returns the container that this process is in, a step's own, by what is recorded of it.
pub(crate) fn entered(paths: &StepPaths, step: &StepFile, request: &Request) -> Result<Container, StartError> {
    let shared = Shared { directory: paths.launch_directory(), attempt: attempt(step) };
    let gone = || StartError::Here("the step's container is gone; start the step again".to_owned());
    shared.read_outcome()?.ok_or_else(gone)?.container(paths, step, request)
}

/// Identifies this attempt to make a container among those of all steps that share it.
fn attempt(step: &StepFile) -> String {
    let variable = |name| std::env::var(name).unwrap_or_default();
    step.container.as_ref().map_or_else(|| "-".to_owned(), |_| variable(STEP_ID))
}

impl Outcome {
    fn container(self, paths: &StepPaths, step: &StepFile, request: &Request) -> Result<Container, StartError> {
        let gone = || StartError::Here("the step's container is gone; start the step again".to_owned());
        match self {
            Self::Failed { .. } => Err(StartError::Reported),
            Self::Ready { pid, start_time: started, pulled, environment } => {
                // The pidfd is opened before the comparison, so a later process with the same number cannot be mistaken for this one.
                let process = Process::open(pid).ok().filter(|_| start_time(pid).is_ok_and(|now| now == started));
                Ok(Container {
                    door: Door::Process(process.ok_or_else(gone)?),
                    pulled,
                    environment,
                    mounts: Vec::new(),
                    holder: Some((pid, started)),
                    lock: None,
                })
            }
            Self::Shared { made_with, pulled, environment } => {
                let name = step.container.as_deref().unwrap_or_default();
                let mounts = named::check(name, &made_with, request, step.mount_home).map_err(StartError::Here)?;
                let door = Door::of_files(paths).map_err(|_| gone())?;
                Ok(Container { door, pulled, environment, mounts, holder: None, lock: None })
            }
        }
    }
}

/// Makes the container.
fn make(paths: &StepPaths, step: &StepFile, asked: Asked<'_>) -> Result<Outcome, String> {
    let deadline = Instant::now() + Duration::from_secs(step.start_timeout.into());
    if let Some(notice) = step.notice.as_ref().filter(|_| is_first_node()) {
        eprintln!("parallax: {notice}");
    }
    let (layers, pulled) = match &step.image_id {
        Some(_) => {
            let (names, mount_program) = (step.layers.clone(), step.mount_program.clone());
            (Layers { directory: paths.store().join(layout::OVERLAY), names, mount_program }, None)
        }
        None if step.directory.is_some() => (Layers::default(), None),
        None => {
            let launcher =
                std::env::current_exe().map_err(|error| format!("cannot find the launcher's own path: {error}"))?;
            let podman = Podman::new(paths, step, &launcher);
            // The variable has precedence, as in Podman.
            let home = std::env::var_os("HOME").map(PathBuf::from).or_else(|| step.home.clone());
            let pulled = pull::pull(&podman, step, home.as_deref(), paths, deadline)?;
            (pulled.layers, Some(pulled.execution))
        }
    };
    let mut step = step.clone();
    if let Some(execution) = &pulled {
        request::put_execution(&mut step, execution.clone());
    }
    let Held { pid, environment, execution } =
        build::start(&Making { paths, step: &step, asked, layers: &layers, deadline })
            .map_err(|error| format!("cannot start the container: {error}"))?;
    let pulled = pulled.or(execution);
    let Some(pid) = pid else {
        return Ok(Outcome::Shared { made_with: Box::new(asked.request.clone()), pulled, environment });
    };
    let start_time = start_time(pid).map_err(|_| "the container ended as soon as it was made".to_owned())?;
    Ok(Outcome::Ready { pid, start_time, pulled, environment })
}

/// The last part of a path in the step's directory.
pub(crate) fn file_name(path: &'static CStr) -> &'static OsStr {
    Path::new(OsStr::from_bytes(path.to_bytes())).file_name().unwrap_or_default()
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
