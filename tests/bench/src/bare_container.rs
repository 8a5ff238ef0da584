//! The system calls that a container comes to at the least, made by hand: what the launcher's time is measured against.
//!
//! The benchmark's own binary does this on a node, as `bench on-node bare-container ROUNDS`.

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::fs::chown;
use std::path::Path;
use std::time::Instant;

use anyhow::{Context as _, ensure};
use nix::sched::{CloneFlags, setns, unshare};
use nix::unistd::{Gid, Uid, setgid, setgroups, setuid};
use parallax_sys::mount::DetachedMount;
use parallax_sys::overlay::Overlay;
use parallax_sys::process::in_child;
use parallax_sys::user_namespace::{IdRange, UserNamespace};
use rustix::fs::{Mode, OFlags, open};
use rustix::mount::{UnmountFlags, unmount};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, WaitOptions, chdir, fchdir, pivot_root, waitpid};

/// For whom.
const USER: u32 = 1001;
/// What a container shows of the node at the least.
const SHOWN: [&str; 4] = ["proc", "sys", "dev", "tmp"];

/// Makes containers over a layer of its own, and prints how many milliseconds each takes.
///
/// # Errors
/// A system call failed.
pub(crate) fn run(rounds: usize) -> anyhow::Result<()> {
    let directory = tempfile::tempdir_in("/run").context("a directory in /run")?;
    let place = |name: &str| directory.path().join(name);
    fs::create_dir(place("layer"))?;
    SHOWN.iter().try_for_each(|name| fs::create_dir(place("layer").join(name)))?;
    for owned in ["root", "upper", "work"] {
        fs::create_dir(place(owned))?;
        chown(place(owned), Some(USER), Some(USER))?;
    }
    chown(directory.path(), Some(USER), Some(USER))?;
    let own = [IdRange { inside: USER, outside: USER, count: 1 }];
    let namespace = UserNamespace::new(USER, USER, &own, &own).context("a user namespace")?;
    let times: Vec<f64> =
        (0..rounds).map(|_| once(&namespace, directory.path())).collect::<anyhow::Result<Vec<f64>>>()?;
    println!("{}", serde_json::to_string(&times)?);
    Ok(())
}

/// The process that makes the container becomes the user first, which is not measured: the launcher is the user's from its start.
fn once(namespace: &UserNamespace, directory: &Path) -> anyhow::Result<f64> {
    let (reader, writer) = pipe_with(PipeFlags::CLOEXEC)?;
    let child = in_child(|| {
        let measured = as_user().and_then(|()| {
            let begin = Instant::now();
            let maker = in_child(|| i32::from(make(namespace, directory).is_err()))?;
            let ended = waitpid(Pid::from_raw(maker.pid()), WaitOptions::empty())?;
            ensure!(ended.is_some_and(|(_, status)| status.exit_status() == Some(0)), "the container was not made");
            Ok(begin.elapsed().as_secs_f64() * 1000.0)
        });
        i32::from(measured.and_then(|time| Ok(serde_json::to_writer(File::from(writer), &time)?)).is_err())
    })?;
    let time = io::read_to_string(File::from(reader))?;
    waitpid(Pid::from_raw(child.pid()), WaitOptions::empty())?;
    time.parse().with_context(|| format!("the node answered {time:?}"))
}

fn as_user() -> anyhow::Result<()> {
    setgroups(&[])?;
    setgid(Gid::from_raw(USER))?;
    Ok(setuid(Uid::from_raw(USER))?)
}

fn make(namespace: &UserNamespace, directory: &Path) -> anyhow::Result<()> {
    setns(namespace.as_fd(), CloneFlags::CLONE_NEWUSER)?;
    unshare(CloneFlags::CLONE_NEWNS)?;
    chdir(directory)?;
    let overlay = Overlay {
        lower: vec!["layer".to_owned()],
        upper: Some(["upper".to_owned(), "work".to_owned()]),
        user_attributes: true,
    };
    let (mount, _) = overlay.mount(&[], "root").map_err(anyhow::Error::msg)?;
    DetachedMount::from(mount).attach_over(directory_at("root")?)?;
    chdir("root")?;
    for name in SHOWN {
        DetachedMount::clone_of_tree(&Path::new("/").join(name))?.attach_over(directory_at(name)?)?;
    }
    fchdir(directory_at(".")?)?;
    pivot_root(".", ".")?;
    Ok(unmount(".", UnmountFlags::DETACH)?)
}

fn directory_at(path: &str) -> rustix::io::Result<OwnedFd> {
    open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
}
