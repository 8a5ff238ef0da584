//! The program: all steps in order.

use std::env;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::io::{self, ErrorKind, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, ExitCode};

use parallax_config::LogLevel;

use crate::command_line::Order;
use crate::layer::{self, LayerError, Source};
use crate::log::{self, Log};
use crate::mount;
use crate::options::Options;
use crate::plan::{self, OverlayPlan, Plan};
use crate::programs::is_missing;
use crate::settings::{self, Settings};

const USAGE: &str = "\
Usage: parallax-mount-program -o OPTIONS TARGET
       parallax-mount-program --squashfs FILE TARGET
       parallax-mount-program --version | --help

Podman starts this program for each mount if storage.conf or --storage-opt names it:
  podman --storage-opt additionalimagestore=STORE \\
         --storage-opt mount_program=/usr/libexec/parallax/parallax-mount-program run IMAGE

With --squashfs it mounts a SquashFS file alone, read-only, as Parallax's launcher does for files of users.

Configuration: the section [mount_program] of /etc/parallax/parallax.toml, overridden by environment variables:
  PARALLAX_MP_SQUASHFUSE_CMD      program that serves SquashFS files (squashfuse_ll, else squashfuse)
  PARALLAX_MP_SQUASHFUSE_FLAG     additional arguments for squashfuse, separated by spaces
  PARALLAX_MP_FUSE_OVERLAYFS_CMD  overlay where the kernel's cannot be used (fuse-overlayfs)
  PARALLAX_MP_UID, _GID           owner of all files of an image, if both are set
  PARALLAX_MP_START_TIMEOUT       timeout for the start of each program, in seconds (30)
  PARALLAX_MP_LOGLEVEL            error, warning, info or debug (info)
  PARALLAX_MP_LOGFILE             file to log to, instead of the journal or standard error
  PARALLAX_MP_CONFIG              file that assigns these variables (/etc/parallax-mount.conf)
";

/// Runs the program with these arguments.
pub fn run(arguments: &[OsString]) -> ExitCode {
    match Order::parse(arguments) {
        Ok(Order::Version) => print(&format!("parallax-mount-program {}\n", env!("CARGO_PKG_VERSION"))),
        Ok(Order::Help) => print(USAGE),
        Ok(Order::Mount { options, target }) => {
            with_settings(|settings, log| carry_out(&options, &target, settings, log))
        }
        Ok(Order::SquashFs { file, target }) => with_settings(|settings, log| squashfs(&file, &target, settings, log)),
        Err(wrong) => {
            log::complain(&wrong);
            let _ = io::stderr().write_all(USAGE.as_bytes());
            ExitCode::from(2)
        }
    }
}

/// Prints to standard output. A closed pipe is not an error.
fn print(text: &str) -> ExitCode {
    match io::stdout().write_all(text.as_bytes()) {
        Err(error) if error.kind() != ErrorKind::BrokenPipe => ExitCode::FAILURE,
        _ => ExitCode::SUCCESS,
    }
}

fn with_settings(act: impl FnOnce(&Settings, &Log) -> Result<(), String>) -> ExitCode {
    let found = match settings::load(settings::environment) {
        Ok(found) => found,
        Err(error) => {
            Log::open(LogLevel::Error, None).say(LogLevel::Error, &error.to_string());
            return ExitCode::FAILURE;
        }
    };
    let log = Log::open(found.settings.log_level, found.settings.log_file.as_deref());
    for (level, note) in &found.notes {
        log.say(*level, note);
    }
    match act(&found.settings, &log) {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            log.say(LogLevel::Error, &message);
            ExitCode::FAILURE
        }
    }
}

fn carry_out(text: &OsStr, target: &Path, settings: &Settings, log: &Log) -> Result<(), String> {
    let mut options = Options::parse(text).map_err(|error| error.to_string())?;
    if !has_selinux() {
        options.drop_contexts();
    }
    // Podman's own layers lie beside the container's; without one, Podman is in that directory.
    let own_home = match &options.upper {
        Some(upper) => upper.directory.parent().and_then(Path::parent).map(Path::to_owned),
        None => env::current_dir().ok(),
    };
    let plan = match plan::plan(&options, own_home.as_deref(), layer::look_up).map_err(|error| error.to_string())? {
        Plan::PassThrough => return Err(pass_through(text, target, settings, log)),
        Plan::Overlay(plan) => plan,
    };
    say_where(&plan, log);
    let mounted = mount::mount_overlay(&plan, target, settings, log).map_err(|error| error.to_string())?;
    let (layers, shared) = (mounted.count.layers, mounted.count.shared);
    let message = format!(
        "{}: {layers} SquashFS layers, {shared} of them served already, under {}",
        target.display(),
        mounted.overlay
    );
    log.say(LogLevel::Info, &message);
    Ok(())
}

/// Mounts a SquashFS file.
fn squashfs(file: &Path, target: &Path, settings: &Settings, log: &Log) -> Result<(), String> {
    let sidecar = layer::file(file).map_err(|error| match error {
        LayerError::Damaged { sidecar, reason } => format!("{} cannot be mounted: {reason}", sidecar.display()),
        other => other.to_string(),
    })?;
    mount::mount_file(&sidecar, target, settings, log).map_err(|error| error.to_string())?;
    log.say(LogLevel::Info, &format!("{}: {}", target.display(), sidecar.path.display()));
    Ok(())
}

/// Logs the shared file systems of the layers, one per line.
fn say_where(plan: &OverlayPlan, log: &Log) {
    let mut said = Vec::new();
    for sidecar in plan.layers.iter().filter_map(Source::sidecar) {
        let Some(kind) = sidecar.shared_file_system.filter(|kind| !said.contains(kind)) else { continue };
        said.push(kind);
        log.say(LogLevel::Info, &format!("{} is on a shared file system, {kind}", sidecar.path.display()));
    }
}

/// Whether the kernel supports SELinux contexts.
fn has_selinux() -> bool {
    fs::read_to_string("/proc/filesystems").is_ok_and(|text| text.contains("selinuxfs"))
}

/// Executes fuse-overlayfs; returns only on failure, with the reason.
fn pass_through(text: &OsStr, target: &Path, settings: &Settings, log: &Log) -> String {
    let programs = &settings.fuse_overlayfs;
    let program = programs.shown();
    log.say(LogLevel::Info, &format!("{}: no SquashFS files, left to {program}", target.display()));
    for name in &programs.names {
        let error = Command::new(name).arg("-o").arg(text).arg(target).exec();
        if !is_missing(name, &error) {
            return format!("{program} cannot be started{}: {error}", programs.origin());
        }
    }
    format!("{} has no SquashFS files and is left to fuse-overlayfs: {}", target.display(), programs.missing())
}
