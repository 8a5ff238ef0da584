//! Calls of Podman, with a timeout and in the user namespace of the step's container.
//!
//! By default, rootless Podman begins by making a user namespace, in which the user is root. The launcher starts Podman as root of the
//! namespace that the agent has made for the container, so that files have the container's owners.

use std::ffi::{OsStr, OsString};
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

use nix::sched::{CloneFlags, unshare};
use parallax_protocol::step_file::{StepFile, StepPaths};
use parallax_sys::limits::{self, Namespace};
use parallax_sys::process::Process;
use rustix::mount::{MountPropagationFlags, mount_change};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

/// Slurm's variable for the job of a process.
pub(crate) const JOB_ID: &str = "SLURM_JOB_ID";
/// The places of the system's programs: Podman and others are found there, whatever the job's `PATH` is.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Maximum length of Podman's output in messages, in characters from the end.
const TAIL: usize = 600;

/// The Podman of a step.
#[derive(Debug)]
pub(crate) struct Podman {
    program: PathBuf,
    /// File for Podman's output: conmon, which outlives the call, would keep a pipe open.
    log: PathBuf,
    variables: Vec<(&'static str, PathBuf)>,
    /// Podman's home directory, and below the user's name.
    home: PathBuf,
    user: String,
    /// Words before Podman on the command line.
    prefix: Vec<PathBuf>,
}

impl Podman {
    /// Returns the Podman that uses a step's store and directories.
    pub(crate) fn new(paths: &StepPaths, step: &StepFile, launcher: &Path) -> Self {
        let variables = vec![
            ("CONTAINERS_STORAGE_CONF", paths.storage_conf()),
            ("CONTAINERS_CONF_OVERRIDE", paths.containers_conf()),
            ("XDG_RUNTIME_DIR", paths.runtime_directory()),
        ];
        let prefix = vec![launcher.to_owned(), "podman".into(), paths.directory().to_owned(), "--".into()];
        Self {
            program: step.podman.clone(),
            log: paths.launch_directory().join("podman.log"),
            variables,
            home: paths.launch_directory(),
            user: step.user.clone(),
            prefix,
        }
    }

    /// Calls Podman, with additional variables, waits for it, and returns its standard output.
    ///
    /// # Errors
    /// A message with the end of Podman's output; a call that exceeds the deadline is killed.
    pub(crate) fn ask(
        &self,
        arguments: &[String],
        variables: &[(&str, OsString)],
        deadline: Instant,
    ) -> Result<String, String> {
        let path = self.log.with_extension("answer");
        self.run(arguments, variables, create(&path)?, deadline)?;
        fs::read_to_string(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))
    }

    fn run(
        &self,
        arguments: &[String],
        variables: &[(&str, OsString)],
        stdout: File,
        deadline: Instant,
    ) -> Result<(), String> {
        let name = self.program.display();
        let log = create(&self.log)?;
        let mut line = self.prefix.iter().chain([&self.program]);
        let mut command = Command::new(line.next().unwrap_or(&self.program));
        command.args(line).args(arguments).stdin(Stdio::null()).stdout(stdout).stderr(log).current_dir("/");
        command.env_clear().envs(self.variables.iter().map(|(name, path)| (name, path)));
        // By the job the agent recognizes processes that outlive this one as the step's.
        command.envs(std::env::var_os(JOB_ID).map(|job| (JOB_ID, job)));
        command.envs(variables.iter().map(|(name, value)| (name, value)));
        // No bus of a session, over which Podman could move processes out of the job, and no timers of systemd's for health checks.
        command.env("DBUS_SESSION_BUS_ADDRESS", "disabled:").env("DISABLE_HC_SYSTEMD", "true");
        command.env("PATH", PATH);
        // The user's own settings for Podman are for their own containers, and their home may be far away and slow.
        command.env("HOME", &self.home).env("USER", &self.user);
        let mut child =
            command.spawn().map_err(|error| format!("cannot start {name}: {error}; tell the administrator"))?;
        let left = deadline.saturating_duration_since(Instant::now());
        let ended = i32::try_from(child.id()).ok().and_then(|pid| Process::open(pid).ok());
        let in_time = ended.is_none_or(|process| process.wait_until_ended(left).unwrap_or(true));
        if !in_time {
            let _ = child.kill();
        }
        let status = child.wait().map_err(|error| format!("cannot wait for {name}: {error}"))?;
        if !in_time {
            return Err(format!("{name} took too long{}; tell the administrator", self.said()));
        }
        if status.success() {
            return Ok(());
        }
        Err(format!("{name} failed ({status}){}", self.said()))
    }

    /// Returns the end of Podman's output.
    fn said(&self) -> String {
        end_of(&fs::read(&self.log).unwrap_or_default())
    }
}

/// Returns the end of a program's output on one line, after a colon; an empty text if there is none.
pub(crate) fn end_of(output: &[u8]) -> String {
    let text = String::from_utf8_lossy(output);
    let line = text.lines().map(str::trim).filter(|line| !line.is_empty()).collect::<Vec<_>>().join(" / ");
    let skip = line.chars().count().saturating_sub(TAIL);
    let tail: String = line.chars().skip(skip).collect();
    if tail.is_empty() { String::new() } else { format!(": {tail}") }
}

fn create(path: &Path) -> Result<File, String> {
    File::create(path).map_err(|error| format!("cannot write {}: {error}", path.display()))
}

/// Enters the step's user namespace and a new mount namespace, and executes Podman. Returns only on failure, with a message.
pub(crate) fn become_podman(directory: &Path, command: &[OsString]) -> String {
    let failed = |what: &str, error: &dyn std::fmt::Display| format!("cannot start podman: {what}: {error}");
    let (uid, gid) = (rustix::process::getuid(), rustix::process::getgid());
    if let Err(error) = enter_namespace(&StepPaths::new(directory).container_namespace()) {
        return failed("cannot enter the step's user namespace", &error);
    }
    let mut podman = Command::new(command.first().map_or(OsStr::new(""), OsString::as_os_str));
    podman.args(command.get(1..).unwrap_or_default());
    // These variables tell Podman and its libraries that the namespace exists, and its owner (containers/storage, pkg/unshare).
    podman.env("_CONTAINERS_USERNS_CONFIGURED", "done");
    podman.env("_CONTAINERS_ROOTLESS_UID", uid.as_raw().to_string());
    podman.env("_CONTAINERS_ROOTLESS_GID", gid.as_raw().to_string());
    failed("cannot execute it", &podman.exec())
}

/// Enters the user namespace at `path` and a new mount namespace, as root there.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn enter_namespace(path: &Path) -> io::Result<()> {
    let namespace = File::open(path)?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::User))?;
    // Mounts made here do not propagate to the node, and unmounts on the node propagate here.
    unshare(CloneFlags::CLONE_NEWNS).map_err(|error| limits::of_namespaces(error.into(), &[Namespace::Mount]))?;
    mount_change("/", MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC)?;
    nix::unistd::setresgid(0.into(), 0.into(), 0.into())?;
    Ok(nix::unistd::setresuid(0.into(), 0.into(), 0.into())?)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn podman(script: &str) -> (tempfile::TempDir, Podman) {
        let directory = tempfile::tempdir().unwrap();
        let podman = Podman {
            program: "/bin/sh".into(),
            log: directory.path().join("log"),
            variables: vec![("XDG_RUNTIME_DIR", "/somewhere".into())],
            home: directory.path().to_owned(),
            user: String::new(),
            prefix: Vec::new(),
        };
        fs::write(directory.path().join("script"), script).unwrap();
        (directory, podman)
    }

    fn call(script: &str, timeout: Duration) -> Result<(), String> {
        let (directory, podman) = podman(script);
        podman.ask(&[directory.path().join("script").display().to_string()], &[], Instant::now() + timeout).map(drop)
    }

    #[test]
    fn a_failure_says_what_podman_said() {
        let message =
            call("echo first >&2; echo 'Error: no such thing' >&2; exit 5", Duration::from_secs(20)).unwrap_err();
        assert!(message.contains("first / Error: no such thing") && message.contains('5'), "{message}");
    }

    #[test]
    fn a_call_that_hangs_is_ended() {
        let message = call("exec sleep 600", Duration::from_millis(100)).unwrap_err();
        assert!(message.contains("took too long"), "{message}");
    }

    #[test]
    fn the_step_is_in_the_environment_and_the_jobs_own_is_not() {
        call("test \"$XDG_RUNTIME_DIR\" = /somewhere && test -z \"$CARGO\"", Duration::from_secs(20)).unwrap();
    }
}
