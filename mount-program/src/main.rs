//! `parallax-mount-program`: what Podman's `mount_program` names where there is no agent.
//!
//! Podman starts it for each mount, in its user and mount namespaces: `parallax-mount-program -o OPTIONS TARGET`. Layers that
//! lie in SquashFS files are mounted with squashfuse, and an overlay is put on top; all else goes to fuse-overlayfs as it
//! came. docs/mount-program.md tells the whole of it.
//!
//! - [`options`]: the `-o` string taken apart (pure).
//! - [`layer`]: what a lower directory is.
//! - [`plan`]: what is to be mounted how (pure).
//! - [`fuse`]: programs that serve a file system.
//! - [`mount`]: carrying the plan out.
//! - [`settings`]: the variables a site can set.

use std::env;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use options::Options;
use plan::Plan;
use settings::Settings;

mod fuse;
mod layer;
mod mount;
mod options;
mod plan;
mod settings;

const USAGE: &str = "\
Usage: parallax-mount-program -o OPTIONS TARGET
       parallax-mount-program --version | --help

Podman starts this program for each mount if storage.conf or --storage-opt names it:
  podman --storage-opt additionalimagestore=STORE \\
         --storage-opt mount_program=/usr/libexec/parallax/parallax-mount-program run IMAGE

Variables:
  PARALLAX_MP_SQUASHFUSE_CMD      serves SquashFS files (squashfuse_ll, else squashfuse)
  PARALLAX_MP_SQUASHFUSE_FLAG     further arguments for it, separated by spaces
  PARALLAX_MP_FUSE_OVERLAYFS_CMD  the overlay where the kernel's can't be used (fuse-overlayfs)
  PARALLAX_MP_UID, _GID           if both are set, the owner of all files of an image
  PARALLAX_MP_LOGLEVEL            \"info\" or \"debug\": say on standard error what was mounted and why so
";

/// What the arguments ask for.
enum Order {
    Mount { options: OsString, target: PathBuf },
    Version,
    Help,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = env::args_os().skip(1).collect();
    match order(&arguments) {
        Some(Order::Version) => {
            println!("parallax-mount-program {}", env!("CARGO_PKG_VERSION"));
            ExitCode::SUCCESS
        }
        Some(Order::Help) => {
            print!("{USAGE}");
            ExitCode::SUCCESS
        }
        Some(Order::Mount { options, target }) => match run(&options, &target) {
            Ok(()) => ExitCode::SUCCESS,
            Err(message) => {
                eprintln!("parallax-mount-program: {message}");
                ExitCode::FAILURE
            }
        },
        None => {
            eprint!("{USAGE}");
            ExitCode::from(2)
        }
    }
}

fn order(arguments: &[OsString]) -> Option<Order> {
    match arguments {
        [one] if one == "--version" || one == "-V" => Some(Order::Version),
        [one] if one == "--help" || one == "-h" => Some(Order::Help),
        [flag, options, target] if flag == "-o" => {
            Some(Order::Mount { options: options.clone(), target: target.into() })
        }
        _ => None,
    }
}

fn run(text: &OsStr, target: &Path) -> Result<(), String> {
    let settings = Settings::from_environment(|name| env::var_os(name));
    let options = Options::parse(text).map_err(|error| error.to_string())?;
    // Podman's own layers lie beside the container's; without one, Podman is in that directory.
    let own_home = match &options.upper {
        Some(upper) => upper.directory.parent().and_then(Path::parent).map(Path::to_owned),
        None => env::current_dir().ok(),
    };
    match plan::plan(&options, own_home.as_deref(), layer::look_up).map_err(|error| error.to_string())? {
        Plan::PassThrough => Err(pass_through(text, target, &settings)),
        Plan::Overlay(plan) => {
            let how = mount::mount_overlay(&plan, target, &settings).map_err(|error| error.to_string())?;
            if settings.verbose {
                let count = plan.layers.len();
                eprintln!("parallax-mount-program: {}: {count} layers under {how}", target.display());
            }
            Ok(())
        }
    }
}

/// Becomes fuse-overlayfs; returns only if that fails, and says why.
fn pass_through(text: &OsStr, target: &Path, settings: &Settings) -> String {
    let program = settings.fuse_overlayfs.to_string_lossy();
    if settings.verbose {
        eprintln!("parallax-mount-program: {}: no SquashFS files, left to {program}", target.display());
    }
    let error = Command::new(&settings.fuse_overlayfs).arg("-o").arg(text).arg(target).exec();
    if error.kind() == ErrorKind::NotFound {
        format!("{} has no SquashFS files, and {program}, which is to mount it, is not installed", target.display())
    } else {
        format!("{program} can't be started: {error}")
    }
}
