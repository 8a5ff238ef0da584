//! The step's container on this node: the first task that takes the lock makes it, the others wait for it.
//!
//! The container is created but never started (see [`crate::runtime`]), so it has all its namespaces and mounts and runs no
//! program of the image. The result is recorded for later tasks. A task that dies while it makes the
//! container leaves a marker file, so that the others fail at once.
//!
//! An image that is in no store is pulled first ([`crate::pull`]).

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use parallax_protocol::step_file::{StepFile, StepPaths};
use parallax_sys::process::{Process, start_time};
use rustix::fs::{FlockOperation, flock};
use rustix::process::Uid;
use serde::{Deserialize, Serialize};

use crate::args::RUNTIME_FLAG;
use crate::mounts;
use crate::podman::Podman;
use crate::pull::{self, Execution};

/// The container's name in the step's own Podman storage.
const NAME: &str = "step";

/// Error of making the container.
#[derive(Debug)]
pub enum StartError {
    /// Another task has reported the error.
    Reported,
    /// This task must report the error.
    Here(String),
}

/// The step's container.
pub struct Container {
    /// Its first process.
    pub process: Process,
    /// Settings of a pulled image for the execution of programs, which the agent does not know.
    pub pulled: Option<Execution>,
}

/// Result of making the container, as recorded for later tasks.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    /// The container's first process, and the settings of a pulled image.
    Ready { pid: i32, start_time: u64, pulled: Option<Execution> },
    /// Making the container failed, and the error was reported.
    Failed,
}

/// The files the tasks share.
struct Shared {
    directory: PathBuf,
}

impl Shared {
    fn lock(&self) -> PathBuf {
        self.directory.join("lock")
    }

    fn outcome(&self) -> PathBuf {
        self.directory.join("outcome.json")
    }

    /// Marker file that exists while a task makes the container.
    fn under_way(&self) -> PathBuf {
        self.directory.join("under-way")
    }

    fn pid_file(&self) -> PathBuf {
        self.directory.join("pid")
    }

    fn read_outcome(&self) -> Result<Option<Outcome>, StartError> {
        match fs::read(self.outcome()) {
            Ok(bytes) => serde_json::from_slice(&bytes)
                .map(Some)
                .map_err(|error| StartError::Here(format!("{} is corrupt: {error}", self.outcome().display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StartError::Here(format!("cannot read {}: {error}", self.outcome().display()))),
        }
    }

    fn write_outcome(&self, outcome: &Outcome) -> io::Result<()> {
        let new = self.outcome().with_extension("new");
        let mut file = private_file(&new)?;
        file.write_all(&serde_json::to_vec(outcome)?)?;
        fs::rename(new, self.outcome())?;
        fs::remove_file(self.under_way())
    }
}

/// Returns the step's container, and makes it if no other task has made it.
pub fn obtain(paths: &StepPaths, step: &StepFile) -> Result<Container, StartError> {
    let shared = Shared { directory: paths.launch_directory() };
    let broken = |error: io::Error| StartError::Here(format!("cannot use {}: {error}", shared.directory.display()));
    if let Some(outcome) = shared.read_outcome()? {
        return outcome.container();
    }
    let lock = private_file(&shared.lock()).map_err(broken)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| broken(error.into()))?;
    if let Some(outcome) = shared.read_outcome()? {
        return outcome.container();
    }
    if shared.under_way().exists() {
        shared.write_outcome(&Outcome::Failed).map_err(broken)?;
        return Err(StartError::Here(
            "the task that was starting the container was ended before it was done".to_owned(),
        ));
    }
    private_file(&shared.under_way()).map_err(broken)?;
    let made = make(paths, step, &shared);
    let (outcome, failure) = match made {
        Ok(outcome) => (outcome, None),
        Err(message) => (Outcome::Failed, Some(message)),
    };
    shared.write_outcome(&outcome).map_err(broken)?;
    drop(lock);
    match failure {
        Some(message) => Err(StartError::Here(message)),
        None => outcome.container(),
    }
}

impl Outcome {
    fn container(self) -> Result<Container, StartError> {
        let Self::Ready { pid, start_time: started, pulled } = self else { return Err(StartError::Reported) };
        // The pidfd is opened before the comparison, so a later process with the same number cannot be mistaken for this one.
        let process = Process::open(pid).ok().filter(|_| start_time(pid).is_ok_and(|now| now == started));
        let process =
            process.ok_or_else(|| StartError::Here("the step's container is gone; start the step again".to_owned()))?;
        Ok(Container { process, pulled })
    }
}

/// Makes the container.
fn make(paths: &StepPaths, step: &StepFile, shared: &Shared) -> Result<Outcome, String> {
    let deadline = Instant::now() + Duration::from_secs(step.start_timeout.into());
    let launcher = std::env::current_exe().map_err(|error| format!("cannot find the launcher's own path: {error}"))?;
    let podman = Podman::new(paths, step, &launcher);
    if let Some(notice) = &step.notice {
        eprintln!("parallax: {notice}");
    }
    let (image_id, pulled) = match &step.image_id {
        Some(id) => (id.clone(), None),
        None => {
            // The variable has precedence, as in Podman.
            let home = variable_home().or_else(|| step.home.clone());
            let (id, execution) = pull::pull(&podman, &step.image, home.as_deref(), deadline)?;
            (id, Some(execution))
        }
    };
    let pid_file = shared.pid_file();
    podman
        .call(&run_call(step, &launcher, &pid_file, &image_id), deadline)
        .map_err(|error| format!("cannot start the container: {error}{}", advice(rustix::process::getuid())))?;
    let pid = fs::read_to_string(&pid_file)
        .map_err(|error| format!("cannot read podman's {}: {error}", pid_file.display()))?;
    let pid = pid.trim().parse().map_err(|_| format!("invalid process number in {}", pid_file.display()))?;
    let start_time = start_time(pid).map_err(|_| "the container ended as soon as it was made".to_owned())?;
    Ok(Outcome::Ready { pid, start_time, pulled })
}

/// Returns the advice for a container that could not be started. Podman assumes that root owns the whole node.
fn advice(user: Uid) -> &'static str {
    if user.is_root() { "; start the step as an ordinary user" } else { "" }
}

/// Returns Podman's arguments for making the container.
fn run_call(step: &StepFile, launcher: &Path, pid_file: &Path, image_id: &str) -> Vec<String> {
    let shown = mounts::choose(step, variable_home().as_deref(), std::env::current_dir().ok().as_deref(), Path::exists);
    let mut call = vec![format!("--runtime={}", launcher.display())];
    call.push(format!("--runtime-flag={RUNTIME_FLAG}={}", step.runtime.display()));
    call.extend(["run", "--detach", "--pull=never", "--name", NAME, "--userns=keep-id"].map(str::to_owned));
    // The tasks keep the node's namespaces except those of users and mounts; the container's /proc, /dev and /sys must be those
    // of the same namespaces.
    call.extend(["--network=host", "--pid=host", "--uts=host", "--cgroupns=host"].map(str::to_owned));
    call.extend(["--security-opt=label=disable", "--security-opt=seccomp=unconfined"].map(str::to_owned));
    call.push(format!("--pidfile={}", pid_file.display()));
    call.extend(passwd_entry(&step.user, home(step).as_deref()).map(|entry| format!("--passwd-entry={entry}")));
    call.extend(shown.iter().map(mounts::argument));
    // The command is never executed, but runtimes check whether it is executable. This path exists in every container.
    call.extend(["--entrypoint", "", image_id, "/proc/self/exe"].map(str::to_owned));
    call
}

/// Returns the user's line for the container's `/etc/passwd`, used if the image has none, with the user's home. Podman replaces
/// variables in the text (`$USERNAME` and others), so a name or a path with `$` gets Podman's default.
fn passwd_entry(user: &str, home: Option<&Path>) -> Option<String> {
    let home = home?.to_str()?;
    let plain = |text: &str| !text.is_empty() && !text.contains([':', '$', '\n']);
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    (plain(user) && plain(home)).then(|| format!("{user}:*:{uid}:{gid}:{user}:{home}:/bin/sh"))
}

/// Returns the user's home directory: that of the user database, as on the node, else that of the job's environment.
fn home(step: &StepFile) -> Option<PathBuf> {
    step.home.clone().or_else(variable_home)
}

/// Returns the home directory of the job's environment; `None` with `srun --export=NONE`.
fn variable_home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
