//! The step's one container on this node: the first task that takes the lock makes it, the others wait for it.
//!
//! The container is created but never started (see [`crate::runtime`]), so it has all its namespaces and mounts and runs nothing
//! of the image's. What came of it is written down for the tasks that come later, and a task that dies while it makes the
//! container leaves a mark, so that the others fail at once.
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

/// Why there is no container.
#[derive(Debug)]
pub enum StartError {
    /// Another task has told the user.
    Reported,
    /// This task is to tell the user.
    Here(String),
}

/// The step's container.
pub struct Container {
    /// Its first process.
    pub process: Process,
    /// What the image says of the execution of programs, if it was pulled: the agent does not know it.
    pub pulled: Option<Execution>,
}

/// What came of making the container, as later tasks read it.
#[derive(Debug, Serialize, Deserialize)]
enum Outcome {
    /// The container's first process, and what an image that was pulled says of itself.
    Ready { pid: i32, start_time: u64, pulled: Option<Execution> },
    /// It could not be made, and the user knows.
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

    /// There from the begin of the making until its outcome is known.
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
                .map_err(|error| StartError::Here(format!("{} is damaged: {error}", self.outcome().display()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(StartError::Here(format!("{} can't be read: {error}", self.outcome().display()))),
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

/// The step's container; makes it if no task has yet.
pub fn obtain(paths: &StepPaths, step: &StepFile) -> Result<Container, StartError> {
    let shared = Shared { directory: paths.launch_directory() };
    let broken = |error: io::Error| StartError::Here(format!("{} is of no use: {error}", shared.directory.display()));
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
        // Held first, compared then: what has the number afterwards can't be taken for it.
        let process = Process::open(pid).ok().filter(|_| start_time(pid).is_ok_and(|now| now == started));
        let process =
            process.ok_or_else(|| StartError::Here("the step's container is gone; start the step again".to_owned()))?;
        Ok(Container { process, pulled })
    }
}

/// Makes the container.
fn make(paths: &StepPaths, step: &StepFile, shared: &Shared) -> Result<Outcome, String> {
    let deadline = Instant::now() + Duration::from_secs(step.start_timeout.into());
    let launcher = std::env::current_exe().map_err(|error| format!("the launcher can't find itself: {error}"))?;
    let podman = Podman::new(paths, step, &launcher);
    if let Some(notice) = &step.notice {
        eprintln!("parallax: {notice}");
    }
    let (image_id, pulled) = match &step.image_id {
        Some(id) => (id.clone(), None),
        None => {
            // As Podman itself: the variable first.
            let home = variable_home().or_else(|| step.home.clone());
            let (id, execution) = pull::pull(&podman, &step.image, home.as_deref(), deadline)?;
            (id, Some(execution))
        }
    };
    let pid_file = shared.pid_file();
    podman
        .call(&run_call(step, &launcher, &pid_file, &image_id), deadline)
        .map_err(|error| format!("the container can't be started: {error}{}", advice(rustix::process::getuid())))?;
    let pid =
        fs::read_to_string(&pid_file).map_err(|error| format!("podman made no {}: {error}", pid_file.display()))?;
    let pid = pid.trim().parse().map_err(|_| format!("{} holds no process number", pid_file.display()))?;
    let start_time = start_time(pid).map_err(|_| "the container ended as soon as it was made".to_owned())?;
    Ok(Outcome::Ready { pid, start_time, pulled })
}

/// What to do about a container that was not started. Podman takes root for somebody who has the whole node.
fn advice(user: Uid) -> &'static str {
    if user.is_root() { "; start the step as an ordinary user" } else { "" }
}

/// The arguments by which Podman makes the container.
fn run_call(step: &StepFile, launcher: &Path, pid_file: &Path, image_id: &str) -> Vec<String> {
    let shown = mounts::choose(step, variable_home().as_deref(), std::env::current_dir().ok().as_deref(), Path::exists);
    let mut call = vec![format!("--runtime={}", launcher.display())];
    call.push(format!("--runtime-flag={RUNTIME_FLAG}={}", step.runtime.display()));
    call.extend(["run", "--detach", "--pull=never", "--name", NAME, "--userns=keep-id"].map(str::to_owned));
    // The tasks keep the node's own namespaces but for those of users and mounts; what the container shows of /proc, /dev and
    // /sys must be of the same.
    call.extend(["--network=host", "--pid=host", "--uts=host", "--cgroupns=host"].map(str::to_owned));
    call.extend(["--security-opt=label=disable", "--security-opt=seccomp=unconfined"].map(str::to_owned));
    call.push(format!("--pidfile={}", pid_file.display()));
    call.extend(passwd_entry(&step.user, home(step).as_deref()).map(|entry| format!("--passwd-entry={entry}")));
    call.extend(shown.iter().map(mounts::argument));
    // The command is never executed, but runtimes look whether they could. This is there in every container.
    call.extend(["--entrypoint", "", image_id, "/proc/self/exe"].map(str::to_owned));
    call
}

/// The line for the user in the container's `/etc/passwd`, where the image has none: with their own home. Podman reads the text
/// with its variables (`$USERNAME` and the like) replaced, so a name or a path with `$` is left to its default.
fn passwd_entry(user: &str, home: Option<&Path>) -> Option<String> {
    let home = home?.to_str()?;
    let plain = |text: &str| !text.is_empty() && !text.contains([':', '$', '\n']);
    let (uid, gid) = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    (plain(user) && plain(home)).then(|| format!("{user}:*:{uid}:{gid}:{user}:{home}:/bin/sh"))
}

/// The user's home directory: that of the user database, as on the node; without one, as the job's environment names it.
fn home(step: &StepFile) -> Option<PathBuf> {
    step.home.clone().or_else(variable_home)
}

/// The home directory in the job's environment: `srun --export=NONE` leaves none.
fn variable_home() -> Option<PathBuf> {
    std::env::var_os("HOME").map(PathBuf::from)
}

fn private_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(path)
}
