//! Other mount namespaces than the node's own: Slurm may give each job one (`job_container/tmpfs`).
//!
//! Such a namespace is a copy of the node's at the start of the job, and mounts made later do not arrive there. A step's
//! directory is therefore attached there once more. Taking it down again needs nothing: when the node's own mount point is
//! removed, the kernel unmounts all mounts on it in any namespace (`rmdir(2)` on a mount point of another namespace,
//! Linux 3.18), copies of other steps' mounts that the job's namespace was born with included.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};
use parallax_sys::mount::DetachedMount;

/// Attaches the mounted tree at `path` at the same path in the mount namespace of a process; does nothing if it is there already.
///
/// # Errors
/// `ESRCH`-like errors if the process is gone, `ENOENT` if that namespace does not show the directory.
pub fn attach_tree(path: &Path, pid: i32) -> io::Result<()> {
    let namespace = File::open(format!("/proc/{pid}/ns/mnt"))?;
    let device = fs::metadata(path)?.dev();
    let tree = DetachedMount::clone_of_tree(path)?;
    // A thread of its own changes its namespace and ends: the agent's other threads stay where they are. What threads
    // share of the file system (root, working directory) must be its own before that.
    let enter = move || -> io::Result<()> {
        unshare(CloneFlags::CLONE_FS)?;
        setns(&namespace, CloneFlags::CLONE_NEWNS)?;
        if fs::metadata(path)?.dev() == device { Ok(()) } else { tree.attach_at(path) }
    };
    thread::scope(|scope| scope.spawn(enter).join().unwrap_or_else(|_| Err(io::Error::other("the thread panicked"))))
}
