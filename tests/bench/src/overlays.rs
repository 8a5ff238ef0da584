//! Takes samples of overlays over a layer in a SquashFS file: mounted by hand, and by mount programs.
//!
//! This runs on a node in Podman's user namespace, as `bench on-node overlays PLAN`, and in a mount namespace of its own. Each
//! sample begins with no program at work that serves a file system, and ends with that again.

use std::fs;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, unshare};
use parallax_sys::process::Process;
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::{Deserialize, Serialize};

use super::sampler::{Sample, Samples, turns};

/// What to mount how, and how often.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct OverlaysPlan {
    /// The layer as Podman names it; the SquashFS file lies beside it.
    pub lower: String,
    /// Further options, if the overlay is to have an id map; it is fuse-overlayfs then.
    pub id_map: Option<String>,
    /// The mount programs. By hand comes first, always.
    pub programs: Vec<String>,
    /// How many rounds come before those that count.
    pub warm_ups: usize,
    /// How many rounds count.
    pub rounds: usize,
}

/// How long a program that serves a file system may take to end.
const ENDING: Duration = Duration::from_secs(20);

/// Takes the samples: of each round first the overlay by hand, then those of the mount programs.
///
/// # Errors
/// A mount failed.
pub(crate) fn sample(plan: &OverlaysPlan) -> anyhow::Result<Samples> {
    unshare(CloneFlags::CLONE_NEWNS).context("a mount namespace")?;
    let mut rounds = Vec::new();
    for round in 0..plan.warm_ups + plan.rounds {
        let mut samples = vec![None; 1 + plan.programs.len()];
        for index in turns(round, samples.len()) {
            let program = index.checked_sub(1).and_then(|index| plan.programs.get(index));
            samples[index] = Some(once(plan, program.map(String::as_str))?);
        }
        if round >= plan.warm_ups {
            rounds.push(samples.into_iter().flatten().collect());
        }
    }
    Ok(Samples { job: None, rounds })
}

fn once(plan: &OverlaysPlan, program: Option<&str>) -> anyhow::Result<Sample> {
    // Podman sets TMPDIR to a directory on the node's root, which is an overlay itself.
    let directory = tempfile::tempdir_in("/tmp").context("a directory in /tmp")?;
    std::env::set_current_dir(directory.path())?;
    for name in ["layer", "upper", "work", "merged", "empty"] {
        fs::create_dir(name)?;
    }
    let begin = Instant::now();
    match (program, &plan.id_map) {
        (Some(program), id_map) => by_program(program, &plan.lower, id_map.as_deref())?,
        (None, None) => {
            squashfuse(&plan.lower)?;
            let options = c"lowerdir=layer:empty,upperdir=upper,workdir=work,userxattr";
            mount("overlay", "merged", "overlay", MountFlags::empty(), options)?;
        }
        (None, Some(id_map)) => {
            squashfuse(&plan.lower)?;
            let options = format!("lowerdir=layer,upperdir=upper,workdir=work,{id_map}");
            run(Command::new("fuse-overlayfs").args(["-o", &options, "merged"]))?;
        }
    }
    let elapsed = begin.elapsed();
    ensure!(Path::new("merged/etc").exists(), "there is no overlay by {}", program.unwrap_or("hand"));
    for mounted in ["merged", "layer"] {
        // Only the one by hand has its layer there.
        let _ = unmount(mounted, UnmountFlags::DETACH);
    }
    wait_for_servers()?;
    std::env::set_current_dir("/")?;
    Ok(Sample { elapsed, processor: None, stderr: String::new() })
}

fn squashfuse(lower: &str) -> anyhow::Result<()> {
    // It returns when it serves.
    run(Command::new("squashfuse_ll").args([&format!("{lower}.squash"), "layer"]))
}

fn by_program(program: &str, lower: &str, id_map: Option<&str>) -> anyhow::Result<()> {
    let here = std::env::current_dir()?;
    let here = here.display();
    let id_map = id_map.map(|map| format!(",{map}")).unwrap_or_default();
    let options = format!("lowerdir={lower},upperdir={here}/upper,workdir={here}/work{id_map}");
    run(Command::new(program).args(["-o", &options, &format!("{here}/merged")]))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status();
    let status = status.with_context(|| format!("{:?} can't be started", command.get_program()))?;
    ensure!(status.success(), "{:?} failed ({status})", command.get_program());
    Ok(())
}

/// Waits until no program that serves a file system is at work.
fn wait_for_servers() -> anyhow::Result<()> {
    for entry in fs::read_dir("/proc")? {
        let entry = entry?;
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let name = fs::read_to_string(entry.path().join("comm")).unwrap_or_default();
        if name.starts_with("squashfuse") || name.starts_with("fuse-overlayfs") {
            if let Ok(process) = Process::open(pid) {
                ensure!(process.wait_until_ended(ENDING)?, "process {pid} ({}) does not end", name.trim());
            }
        }
    }
    Ok(())
}
