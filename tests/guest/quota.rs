//! Limits of writable layers on a disk (`step.scratch_quota`).

use std::fs::{self, Permissions};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use anyhow::{Context as _, ensure};
use parallax_agent::restrict;
use parallax_agent::step::disk::{Disk as Scratch, Quota};
use parallax_config::Step;
use parallax_sys::mount::{DetachedMount, take_down};
use parallax_sys::project_quota;

use super::disk::{Disk, as_user, run};

tests! {
    a_step_on_ext4_has_a_limit,
    a_step_on_xfs_has_a_limit,
    files_are_limited_too,
    projects_are_never_shared,
    the_restricted_agent_sets_limits,
    root_of_a_container_cannot_leave_the_project,
    other_projects_of_the_user_are_removed,
    a_power_cut_leaves_no_limit,
    without_project_quotas_nothing_is_limited,
}

/// The word by which this program is the agent.
pub(crate) const RESTRICTED: &str = "--as-the-agent";
const EXT4: [&str; 6] = ["mkfs.ext4", "-q", "-O", "quota,project", "-E", "quotatype=prjquota"];
const XFS: [&str; 2] = ["mkfs.xfs", "-q"];
const STEP: &str = "6.2-aa";
const FIRST_PROJECT: u32 = 1000;

fn config(quota: &str) -> Step {
    Step {
        scratch_quota: quota.to_owned(),
        scratch_projects: vec![FIRST_PROJECT, FIRST_PROJECT + 2],
        ..Step::default()
    }
}

fn scratch_in(place: &Path, quota: &str) -> anyhow::Result<Scratch> {
    Ok(Scratch::open(place)?.limited(Quota::of(&config(quota))))
}

/// A step's writable layer as its user sees it: mounted where they can reach it.
struct Layer(PathBuf);

impl Layer {
    fn mounted(directory: &OwnedFd, disk: &Disk, name: &str) -> anyhow::Result<Self> {
        rustix::fs::fchown(directory, Some(rustix::fs::Uid::from_raw(1001)), Some(rustix::fs::Gid::from_raw(1001)))?;
        let place = disk.path().with_file_name(name);
        fs::create_dir(&place)?;
        fs::set_permissions(place.parent().context("no parent")?, Permissions::from_mode(0o755))?;
        DetachedMount::of_directory(directory.as_fd())?.attach_at(&place)?;
        Ok(Self(place))
    }

    fn user(&self, script: &str) -> anyhow::Result<String> {
        let done = as_user(&self.0, script)?;
        Ok(format!("{}{}", done.stdout, done.stderr))
    }
}

impl Drop for Layer {
    fn drop(&mut self) {
        if let Err(error) = take_down(&self.0) {
            eprintln!("{error:#}");
        }
    }
}

fn ext4() -> anyhow::Result<Disk> {
    Disk::new(&EXT4, "loop,prjquota")
}

fn a_step_on_ext4_has_a_limit() -> anyhow::Result<()> {
    limits_writers(&ext4()?, "Disk quota exceeded")
}

fn a_step_on_xfs_has_a_limit() -> anyhow::Result<()> {
    limits_writers(&Disk::new(&XFS, "loop,prjquota")?, "No space left on device")
}

/// A writer gets an error and lives, another step and root are not limited, and nothing is left.
fn limits_writers(disk: &Disk, error: &str) -> anyhow::Result<()> {
    let scratch = scratch_in(&disk.path(), "20m")?;
    let layers = [
        Layer::mounted(&scratch.create(STEP)?, disk, "one")?,
        Layer::mounted(&scratch.create("7.0-bb")?, disk, "two")?,
    ];
    let shown = layers[0].user(
        "mkdir -p deep/er; head -c 30M /dev/zero >deep/er/file; echo end $?; rm -r deep; head -c 10M /dev/zero >file; echo $?",
    )?;
    ensure!(shown.contains(error) && shown.contains("end 1\n0\n"), "{shown}");
    let other = layers[1].user("head -c 15M /dev/zero >file; echo $?; df --output=size -m .")?;
    ensure!(other.starts_with("0\n") && other.trim_end().ends_with("20"), "{other}");
    fs::write(disk.path().join("of-root"), vec![1; 40 << 20])?;
    drop(layers);
    for step in [STEP, "7.0-bb"] {
        scratch.remove(step)?;
    }
    ensure!(scratch.names()?.is_empty(), "{:?}", scratch.names());
    rustix::fs::sync();
    for project in [FIRST_PROJECT, FIRST_PROJECT + 1] {
        let used = project_quota::is_in_use(fs::File::open(disk.path())?, project)?;
        ensure!(!used, "the project {project} is left");
    }
    Ok(())
}

fn files_are_limited_too() -> anyhow::Result<()> {
    let disk = ext4()?;
    let scratch = scratch_in(&disk.path(), "1m")?;
    let layer = Layer::mounted(&scratch.create(STEP)?, &disk, "one")?;
    // 256, of which the step's two directories are two.
    let shown = layer.user("i=0; while true 2>/dev/null >$i; do i=$((i + 1)); done; ls | wc -l")?;
    ensure!(shown.lines().any(|line| line == "254"), "{shown}");
    drop(layer);
    Ok(scratch.remove(STEP)?)
}

fn projects_are_never_shared() -> anyhow::Result<()> {
    let disk = ext4()?;
    // Somebody's files have the first project, and the second has a limit.
    let foreign = disk.path().join("foreign");
    fs::create_dir(&foreign)?;
    project_quota::set(fs::File::open(&foreign)?, FIRST_PROJECT)?;
    project_quota::limit(fs::File::open(&foreign)?, FIRST_PROJECT + 1, 1 << 20, 0)?;
    let scratch = scratch_in(&disk.path(), "20m")?;
    scratch.create(STEP)?;
    let steps = disk.path().join("parallax-steps");
    let project = |name: &str| project_quota::of_directory(fs::File::open(steps.join(name))?);
    ensure!(project(STEP)? == FIRST_PROJECT + 2, "{}", project(STEP)?);
    let error = scratch.create("7.0-bb").err().context("a project was shared")?.to_string();
    ensure!(error.contains("from 1000 to 1002") && error.contains("step.scratch_projects"), "{error}");
    // As the agent does after a failure.
    scratch.remove("7.0-bb")?;
    scratch.remove(STEP)?;
    ensure!(project_quota::is_in_use(fs::File::open(&foreign)?, FIRST_PROJECT + 1)?, "another's limit was lifted");
    Ok(())
}

/// With the system calls and the capabilities that the agent keeps.
fn the_restricted_agent_sets_limits() -> anyhow::Result<()> {
    for (mkfs, error) in [(&EXT4[..], "Disk quota exceeded"), (&XFS[..], "No space left")] {
        let disk = Disk::new(mkfs, "loop,prjquota")?;
        let agent = |argument: &str| run(Command::new(std::env::current_exe()?).args([RESTRICTED, argument]));
        let path = disk.path();
        let scratch = path.to_str().context("no UTF-8")?;
        agent(&format!("{scratch}:create"))?;
        let directory = fs::File::open(disk.path().join("parallax-steps").join(STEP).join("user"))?;
        let layer = Layer::mounted(&directory.into(), &disk, "one")?;
        let shown = layer.user("head -c 30M /dev/zero >file")?;
        ensure!(shown.contains(error), "{shown}");
        drop(layer);
        agent(&format!("{scratch}:remove"))?;
        ensure!(scratch_in(&disk.path(), "1m")?.names()?.is_empty(), "it is left");
    }
    Ok(())
}

/// Makes or removes a step's directory as the agent, in a process of its own.
pub(crate) fn as_the_agent(argument: &str) -> ExitCode {
    let done = || -> anyhow::Result<()> {
        let (place, act) = argument.rsplit_once(':').context("no act")?;
        restrict::apply()?;
        let scratch = scratch_in(Path::new(place), "20m")?;
        match act {
            "create" => {
                scratch.create(STEP)?;
            }
            _ => scratch.remove(STEP)?,
        }
        Ok(())
    };
    match done() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

fn root_of_a_container_cannot_leave_the_project() -> anyhow::Result<()> {
    let disk = ext4()?;
    let scratch = scratch_in(&disk.path(), "20m")?;
    let layer = Layer::mounted(&scratch.create(STEP)?, &disk, "one")?;
    let shown = layer.user(
        "mkdir own; unshare --user --map-root-user sh -c 'id -u; chattr -p 0 own || echo refused; chattr -P . || echo refused'",
    )?;
    ensure!(shown.starts_with("0\n") && shown.matches("refused").count() == 2, "{shown}");
    let directory = fs::File::open(layer.0.join("own"))?;
    ensure!(project_quota::of_directory(directory)? == FIRST_PROJECT, "it is in another project");
    drop(layer);
    Ok(scratch.remove(STEP)?)
}

/// Outside of containers a user may change the project of their own files: it must not keep them, nor lift another step's limit.
fn other_projects_of_the_user_are_removed() -> anyhow::Result<()> {
    let disk = ext4()?;
    let scratch = scratch_in(&disk.path(), "20m")?;
    let layer = Layer::mounted(&scratch.create(STEP)?, &disk, "one")?;
    scratch.create("7.0-bb")?;
    let shown =
        layer.user("mkdir -p a/b/c/d && touch a/b/c/d/e && chattr -R -p 1001 a && chattr -p 1001 . && lsattr -pd .")?;
    ensure!(shown.trim_start().starts_with("1001 "), "{shown}");
    drop(layer);
    scratch.remove(STEP)?;
    ensure!(scratch.names()? == ["7.0-bb"], "{:?}", scratch.names());
    let other = Layer::mounted(&fs::File::open(disk.path().join("parallax-steps/7.0-bb/user"))?.into(), &disk, "two")?;
    let shown = other.user("head -c 30M /dev/zero >file")?;
    ensure!(shown.contains("Disk quota exceeded"), "{shown}");
    drop(other);
    Ok(scratch.remove("7.0-bb")?)
}

fn a_power_cut_leaves_no_limit() -> anyhow::Result<()> {
    let disk = ext4()?;
    let directory = scratch_in(&disk.path(), "20m")?.create(STEP)?;
    let path = disk.path().join("parallax-steps").join(STEP).join("user");
    fs::write(path.join("file"), vec![1; 5 << 20])?;
    chown(&path, Some(1001), Some(1001))?;
    drop(directory);
    // Another agent, of a configuration that has no limit any more.
    let later = Scratch::open(&disk.path())?;
    ensure!(later.names()? == [STEP], "{:?}", later.names());
    later.remove(STEP)?;
    rustix::fs::sync();
    ensure!(!project_quota::is_in_use(fs::File::open(disk.path())?, FIRST_PROJECT)?, "the project is left");
    Ok(())
}

fn without_project_quotas_nothing_is_limited() -> anyhow::Result<()> {
    for (mkfs, options) in [(&EXT4[..2], "loop"), (&EXT4[..], "loop"), (&XFS[..], "loop")] {
        let disk = Disk::new(mkfs, options)?;
        let scratch = scratch_in(&disk.path(), "20m")?;
        ensure!(!scratch.enforces_limits(), "{mkfs:?} enforces limits");
        let layer = Layer::mounted(&scratch.create(STEP)?, &disk, "one")?;
        let shown = layer.user("head -c 30M /dev/zero >file; echo $?")?;
        ensure!(shown == "0\n", "{shown}");
        drop(layer);
        scratch.remove(STEP)?;
    }
    Ok(())
}
