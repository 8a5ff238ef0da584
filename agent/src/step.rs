//! A step's directory: one tmpfs with the step store, the layers' mounts and all that Podman writes.
//!
//! It is put together where nobody can reach it and given to the user as the last act. From then on root uses no path inside
//! it: the user owns the directory and may do with it what they like. Its end is one detach of the whole tree.

use std::fs;
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parallax_protocol::step_file::{StepFile, StepPaths};
use parallax_sys::mount::{DetachedMount, pin_namespace, take_down};
use parallax_sys::user_namespace::UserNamespace;
use rustix::fs::{AtFlags, Gid, Uid};
use rustix::fs::{Mode, OFlags, ResolveFlags, chownat, fchmod, fchown, mkdirat, openat, openat2, symlinkat};

use crate::identity::{Identity, NamespaceKind};
use crate::layers::MountedLayer;
use crate::step_store::StepStore;

/// Why a step's directory could not be made.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct StepError {
    /// What failed.
    what: &'static str,
    /// What the system said.
    source: io::Error,
}

/// Turns an error of the system into a [`StepError`].
fn failed<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> StepError {
    move |error| StepError { what, source: error.into() }
}

/// Everything a step's directory is made of.
#[derive(Debug)]
pub struct StepPlan<'a> {
    /// The user.
    pub identity: &'a Identity,
    /// The step store.
    pub store: StepStore,
    /// The image's layers, base first.
    pub layers: &'a [Arc<MountedLayer>],
    /// What the launcher needs to know.
    pub step_file: StepFile,
    /// The size of the tmpfs, as `tmpfs(5)` takes it.
    pub scratch_size: &'a str,
}

/// A step's directory that is mounted, until [`StepDirectory::take_down`] or the end of this value.
#[derive(Debug)]
pub struct StepDirectory {
    path: PathBuf,
    standing: bool,
}

impl StepDirectory {
    /// Makes the directory `path` and all that is in it. What was made before a failure is taken down again.
    ///
    /// # Errors
    /// [`StepError`] says which part failed.
    pub fn build(path: &Path, plan: &StepPlan<'_>) -> Result<Self, StepError> {
        fs::create_dir(path).map_err(failed("the step's directory can't be made"))?;
        let step = Self { path: path.to_owned(), standing: true };
        let options = [("size", plan.scratch_size), ("mode", "0700")];
        let tmpfs = DetachedMount::tmpfs(&options).map_err(failed("the step's tmpfs can't be made"))?;
        let root = openat(tmpfs.as_fd(), ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("the step's tmpfs can't be opened"))?;
        write_contents(&root, path, plan).map_err(failed("the step store can't be written"))?;
        tmpfs.attach_at(path).map_err(failed("the step's tmpfs can't be mounted"))?;
        let namespaces =
            Namespaces::new(plan.identity).map_err(failed("no user namespace can be made for the user"))?;
        attach_layers(&root, plan, &namespaces).map_err(failed("a layer can't be mounted for the step"))?;
        pin_namespace(&namespaces.plain, &StepPaths::new(path).user_namespace())
            .map_err(failed("the user namespace can't be kept"))?;
        let (uid, gid) = owner(plan.identity);
        fchown(&root, Some(uid), Some(gid)).map_err(failed("the step's directory can't be given to its user"))?;
        Ok(step)
    }

    /// Takes over a directory that an earlier agent made.
    #[must_use]
    pub fn adopt(path: &Path) -> Self {
        Self { path: path.to_owned(), standing: true }
    }

    /// Takes the directory down with all its mounts. What is gone already is no error.
    ///
    /// # Errors
    /// What the system said. The directory is then as it was.
    pub fn take_down(mut self) -> io::Result<()> {
        self.standing = false;
        take_down(&self.path)
    }
}

impl Drop for StepDirectory {
    fn drop(&mut self) {
        if self.standing {
            if let Err(error) = take_down(&self.path) {
                tracing::error!(directory = %self.path.display(), "a step's directory can't be taken down: {error}");
            }
        }
    }
}

fn owner(identity: &Identity) -> (Uid, Gid) {
    (Uid::from_raw(identity.users.own), Gid::from_raw(identity.groups.own))
}

/// Writes everything but the mounts; `root` is the tmpfs, which nobody else can reach yet.
fn write_contents(root: &OwnedFd, path: &Path, plan: &StepPlan<'_>) -> io::Result<()> {
    let readable = Mode::from_raw_mode(0o755);
    mkdirat(root, "store", readable)?;
    let store = openat(root, "store", OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for directory in &plan.store.directories {
        mkdirat(&store, directory.as_str(), readable)?;
    }
    for (file, bytes) in &plan.store.files {
        write_file(&store, file, bytes)?;
    }
    for (link, target) in &plan.store.links {
        symlinkat(target.as_str(), &store, link.as_str())?;
    }
    let paths = StepPaths::new(path);
    write_file(root, "step.json", &serde_json::to_vec(&plan.step_file)?)?;
    write_file(root, "user-namespace", b"")?;
    write_file(root, "storage.conf", storage_conf(&paths, plan.identity).as_bytes())?;
    write_file(root, "containers.conf", CONTAINERS_CONF.as_bytes())?;
    let (uid, gid) = owner(plan.identity);
    for own in [paths.graph_root(), paths.runtime_directory(), paths.launch_directory()] {
        let name = own.file_name().unwrap_or_default();
        mkdirat(root, name, Mode::from_raw_mode(0o700))?;
        chownat(root, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}

fn write_file(directory: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let file = openat(directory, name, flags, mode)?;
    // Whatever the umask is.
    fchmod(&file, mode)?;
    fs::File::from(file).write_all(bytes)
}

/// The user's namespaces: their maps are those of the layers' mounts, and Podman is run in the plain one.
struct Namespaces {
    plain: UserNamespace,
    keep_id: UserNamespace,
}

impl Namespaces {
    fn new(identity: &Identity) -> io::Result<Self> {
        let make = |kind| {
            let (users, groups) = (&identity.users, &identity.groups);
            UserNamespace::new(users.own, groups.own, &users.map(kind), &groups.map(kind))
        };
        Ok(Self { plain: make(NamespaceKind::Plain)?, keep_id: make(NamespaceKind::KeepId)? })
    }

    fn of(&self, kind: NamespaceKind) -> &UserNamespace {
        match kind {
            NamespaceKind::Plain => &self.plain,
            NamespaceKind::KeepId => &self.keep_id,
        }
    }
}

fn attach_layers(root: &OwnedFd, plan: &StepPlan<'_>, namespaces: &Namespaces) -> io::Result<()> {
    for mount in &plan.store.mounts {
        let layer = plan.layers.get(mount.layer).ok_or(io::ErrorKind::InvalidInput)?.another_mount()?;
        layer.map_ids(namespaces.of(mount.kind).as_fd())?;
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let directory = openat2(root, format!("store/{}", mount.directory), flags, Mode::empty(), resolve)?;
        layer.attach(&directory, "diff")?;
    }
    Ok(())
}

/// Podman's storage configuration: the step store for images, the step's tmpfs for all that is written.
///
/// Where the graph root is depends on who calls: rootless Podman 5.4 passes over `graphroot`, even in a file that
/// `CONTAINERS_STORAGE_CONF` names, and 5.8 warns at every call if both keys are there.
fn storage_conf(paths: &StepPaths, identity: &Identity) -> String {
    let graph_root_key = if identity.users.own == 0 { "graphroot" } else { "rootless_storage_path" };
    format!(
        "[storage]\ndriver = \"overlay\"\n{graph_root_key} = \"{}\"\nrunroot = \"{}\"\n\n\
         [storage.options]\nadditionalimagestores = [\"{}\"]\n",
        paths.graph_root().display(),
        paths.runtime_directory().join("containers").display(),
        paths.store().display(),
    )
}

/// What Podman needs to work in a job: no systemd session to make cgroups, no journal to write to; and what HPC programs
/// expect, the node's own network.
const CONTAINERS_CONF: &str = "[containers]\nlog_driver = \"k8s-file\"\nnetns = \"host\"\n\n\
                               [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\n";
