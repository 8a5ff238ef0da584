//! A step's directory: one tmpfs with the step store, the layers' mounts and all that Podman writes, unless a disk of the node has that.
//!
//! The directory is built where no user can reach it and given to the user as the last act. From then on root uses no path inside
//! it: the user owns the directory and may do with it what they like. Its end is one detach of the whole tree.

use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parallax_protocol::message;
use parallax_protocol::step_file::{StepFile, StepPaths};
use parallax_sys::mount::{DetachedMount, pin_namespace, take_down};
use rustix::fs::{AtFlags, Gid, Uid};
use rustix::fs::{Mode, OFlags, ResolveFlags, chownat, fchmod, fchown, mkdirat, openat, openat2, symlinkat};
use rustix::mount::{MountPropagationFlags, mount_change};

use super::disk::Disk;
use super::scratch::Size;
use super::store::StepStore;
use super::user_namespaces::Namespaces;
use crate::identity::{Identity, NamespaceKind};
use crate::layers::{StepLayers, Tree};

/// An error of making a step's directory.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {cause}")]
pub struct StepError {
    /// The failed operation.
    what: &'static str,
    /// Those of the system calls.
    cause: io::Error,
}

/// Turns an error of the system into a [`StepError`].
fn failed<E: Into<io::Error>>(what: &'static str) -> impl Fn(E) -> StepError {
    move |error| StepError { what, cause: error.into() }
}

/// Everything a step's directory is made of.
#[derive(Debug)]
pub struct StepPlan<'a> {
    /// The user.
    pub identity: &'a Identity,
    /// The user's namespaces.
    pub namespaces: Arc<Namespaces>,
    /// The step store.
    pub store: StepStore,
    /// The image's layers.
    pub layers: &'a StepLayers,
    /// The directory with the contents of the files, if the image's layer is a metadata image.
    pub tree: Option<&'a Tree>,
    /// The mount program for Podman's configuration, for layers that are files.
    pub mount_program: &'a Path,
    /// True if Podman works in the step.
    pub podman: bool,
    /// The user namespace that the user's processes enter.
    pub entered: NamespaceKind,
    /// The mode of the step.
    pub mode: message::Mode,
    /// The parameters of the launcher.
    pub step_file: StepFile,
    /// The size of the tmpfs.
    pub scratch: Size,
    /// The disk for writable layers; `None` if they are in memory.
    pub disk: Option<Disk>,
}

/// A step's directory that is mounted, until [`StepDirectory::release`] or the end of this value.
#[derive(Debug)]
pub struct StepDirectory {
    path: PathBuf,
    mounted: bool,
    /// Held so that other steps of the user find them.
    namespaces: Option<Arc<Namespaces>>,
}

impl StepDirectory {
    /// Makes the directory `path` and all that is in it. After a failure nothing is left.
    ///
    /// # Errors
    /// [`StepError`] says which part failed.
    pub fn build(path: &Path, plan: &StepPlan<'_>) -> Result<Self, StepError> {
        fs::create_dir(path).map_err(failed("cannot create the step's directory"))?;
        let mut step = Self { path: path.to_owned(), mounted: true, namespaces: None };
        let files = plan.scratch.files.map(|files| files.to_string());
        let mut options = vec![("size", plan.scratch.size.as_str()), ("mode", "0700")];
        options.extend(files.as_deref().map(|files| ("nr_inodes", files)));
        let tmpfs = DetachedMount::tmpfs(&options).map_err(failed("cannot create the step's tmpfs"))?;
        let root = openat(tmpfs.as_fd(), ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(failed("cannot open the step's tmpfs"))?;
        write_contents(&root, path, plan).map_err(failed("cannot write the step store"))?;
        tmpfs.attach_at(path).map_err(failed("cannot mount the step's tmpfs"))?;
        let entered =
            plan.namespaces.of(plan.entered).map_err(failed("cannot create a user namespace for the user"))?;
        attach_layers(&root, plan).map_err(failed("cannot mount a layer for the step"))?;
        attach_files(&root, plan).map_err(failed("cannot mount a layer's file for the step"))?;
        make_graph_root(&root, path, plan).map_err(failed("cannot make the directory of the writable layer"))?;
        let user = place_of_namespace(plan.mode, path);
        if plan.step_file.container.is_some() {
            keep_namespaces(&root, path, &user, plan)?;
        } else {
            pin_namespace(&*entered, &user).map_err(failed("cannot pin the user namespace"))?;
        }
        let (uid, gid) = owner(plan.identity);
        fchown(&root, Some(uid), Some(gid)).map_err(failed("cannot change the owner of the step's directory"))?;
        step.namespaces = Some(Arc::clone(&plan.namespaces));
        Ok(step)
    }

    /// Adopts a directory that an earlier agent made.
    #[must_use]
    pub fn adopt(path: &Path) -> Self {
        Self { path: path.to_owned(), mounted: true, namespaces: None }
    }

    /// Unmounts and removes the directory with all its mounts. A directory that is gone already is not an error.
    ///
    /// # Errors
    /// Those of the system calls. The directory is then as it was.
    pub fn release(mut self) -> io::Result<()> {
        self.mounted = false;
        take_down(&self.path)
    }
}

impl Drop for StepDirectory {
    fn drop(&mut self) {
        if self.mounted {
            if let Err(error) = take_down(&self.path) {
                tracing::error!(directory = %self.path.display(), "cannot unmount a step's directory: {error}");
            }
        }
    }
}

fn owner(identity: &Identity) -> (Uid, Gid) {
    (Uid::from_raw(identity.users.own), Gid::from_raw(identity.groups.own))
}

/// Writes everything but the mounts; `root` is the tmpfs, which no user can reach yet.
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
    for sidecar in &plan.store.sidecars {
        match plan.layers {
            StepLayers::Paths(paths) => symlinkat(of_layer(paths, sidecar.layer)?, &store, sidecar.path.as_str())?,
            _ => write_file(&store, &sidecar.path, b"")?,
        }
    }
    let paths = StepPaths::new(path);
    write_file(root, "step.json", &serde_json::to_vec(&plan.step_file)?)?;
    let place = place_of_namespace(plan.mode, path);
    write_file(root, place.file_name().and_then(OsStr::to_str).unwrap_or_default(), b"")?;
    if plan.podman {
        write_file(root, "storage.conf", storage_conf(&paths, plan).as_bytes())?;
        write_file(root, "containers.conf", containers_conf(&paths).as_bytes())?;
    }
    let own = [paths.runtime_directory(), paths.launch_directory()];
    own.iter().try_for_each(|own| make_own(root, own, plan))
}

/// Makes a directory of the user's with the name of `path`.
fn make_own(parent: &OwnedFd, path: &Path, plan: &StepPlan<'_>) -> io::Result<()> {
    let (uid, gid) = owner(plan.identity);
    let name = path.file_name().unwrap_or_default();
    mkdirat(parent, name, Mode::from_raw_mode(0o700))?;
    Ok(chownat(parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}

/// Makes the graph root: a directory of the tmpfs, or the step's directory on the disk, which is then mounted there.
fn make_graph_root(root: &OwnedFd, path: &Path, plan: &StepPlan<'_>) -> io::Result<()> {
    let name_of = |path: &Path| path.file_name().and_then(OsStr::to_str).map(ToOwned::to_owned);
    let paths = StepPaths::new(path);
    let (Some(key), Some(name)) = (name_of(path), name_of(&paths.graph_root())) else {
        return Err(io::ErrorKind::InvalidInput.into());
    };
    mkdirat(root, &name, Mode::from_raw_mode(0o700))?;
    let directory = match &plan.disk {
        Some(disk) => disk.create(&key)?,
        None => openat(root, &name, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?,
    };
    if plan.podman {
        make_own(&directory, &paths.copies(), plan)?;
    }
    let (uid, gid) = owner(plan.identity);
    fchown(&directory, Some(uid), Some(gid))?;
    if plan.disk.is_some() {
        DetachedMount::of_directory(directory.as_fd())?.attach(root, &name)?;
    }
    Ok(())
}

/// Makes the namespaces of a container that steps share, and pins them. No user can reach the directory yet.
fn keep_namespaces(root: &OwnedFd, path: &Path, user: &Path, plan: &StepPlan<'_>) -> Result<(), StepError> {
    let (own, mounts) = Namespaces::with_mounts(plan.identity, plan.entered)
        .map_err(failed("cannot create the namespaces of the container"))?;
    pin_namespace(own, user).map_err(failed("cannot pin the user namespace"))?;
    let pin = || -> io::Result<()> {
        let paths = StepPaths::new(path);
        let (kept, file) = (paths.kept(), paths.mount_namespace());
        let name = kept.file_name().unwrap_or_default();
        mkdirat(root, name, Mode::from_raw_mode(0o755))?;
        DetachedMount::tmpfs(&[("mode", "0755"), ("nr_inodes", "2")])?.attach_at(&kept)?;
        mount_change(&kept, MountPropagationFlags::PRIVATE)?;
        File::create(&file)?;
        pin_namespace(mounts, &file)
    };
    pin().map_err(failed("cannot pin the mount namespace"))
}

/// The file by which the step's user namespace is entered.
fn place_of_namespace(mode: message::Mode, directory: &Path) -> PathBuf {
    let paths = StepPaths::new(directory);
    match mode {
        message::Mode::Run => paths.container_namespace(),
        message::Mode::Podman => paths.user_namespace(),
    }
}

fn write_file(directory: &OwnedFd, name: &str, bytes: &[u8]) -> io::Result<()> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
    let mode = Mode::from_raw_mode(0o644);
    let file = openat(directory, name, flags, mode)?;
    // Independently of the umask.
    fchmod(&file, mode)?;
    File::from(file).write_all(bytes)
}

fn attach_layers(root: &OwnedFd, plan: &StepPlan<'_>) -> io::Result<()> {
    let StepLayers::Mounted(layers) = plan.layers else { return Ok(()) };
    for mount in &plan.store.mounts {
        let layer = of_layer(layers, mount.layer)?.another_mount()?;
        layer.map_ids(plan.namespaces.of(mount.kind)?.as_fd())?;
        let directory = directory_in_store(root, &mount.directory)?;
        if plan.tree.is_some() {
            // What is mounted over this mount must not appear over the one that all steps share.
            layer.make_private()?;
        }
        layer.attach(&directory, &mount.name)?;
        if let Some(tree) = plan.tree {
            // Over the metadata image itself: an overlay wants attached layers (before Linux 6.15).
            let metadata = directory_in_store(root, &format!("{}/{}", mount.directory, mount.name))?;
            tree.mount(metadata.as_fd())?.attach(&directory, &mount.name)?;
        }
    }
    Ok(())
}

fn attach_files(root: &OwnedFd, plan: &StepPlan<'_>) -> io::Result<()> {
    let StepLayers::Files(files) = plan.layers else { return Ok(()) };
    for sidecar in &plan.store.sidecars {
        let (directory, name) = sidecar.path.rsplit_once('/').ok_or(io::ErrorKind::InvalidInput)?;
        let file = DetachedMount::of_file(of_layer(files, sidecar.layer)?.as_fd())?;
        file.attach(&directory_in_store(root, directory)?, name)?;
    }
    Ok(())
}

fn of_layer<T>(layers: &[T], index: usize) -> io::Result<&T> {
    layers.get(index).ok_or_else(|| io::ErrorKind::InvalidInput.into())
}

fn directory_in_store(root: &OwnedFd, path: &str) -> io::Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
    Ok(openat2(root, format!("store/{path}"), flags, Mode::empty(), resolve)?)
}

/// Podman's storage configuration: the step store for images, the step's tmpfs for all that is written.
///
/// Where the graph root is depends on who calls: rootless Podman 5.4 passes over `graphroot`, even in a file that
/// `CONTAINERS_STORAGE_CONF` names, and 5.8 warns at every call if both keys are there.
fn storage_conf(paths: &StepPaths, plan: &StepPlan<'_>) -> String {
    let graph_root_key = if plan.identity.users.own == 0 { "graphroot" } else { "rootless_storage_path" };
    let mut text = format!(
        "[storage]\ndriver = \"overlay\"\n{graph_root_key} = \"{}\"\nrunroot = \"{}\"\n",
        paths.graph_root().display(),
        paths.runtime_directory().join("containers").display(),
    );
    let store = if plan.step_file.directory.is_some() { paths.store_of_directory() } else { paths.store() };
    // An image that is to be pulled is in no store.
    if !plan.store.is_empty() || plan.step_file.directory.is_some() {
        let _ = write!(text, "\n[storage.options]\nadditionalimagestores = [\"{}\"]\n", store.display());
    }
    if plan.store.needs_mount_program() {
        let program = plan.mount_program.display();
        let _ = write!(text, "\n[storage.options.overlay]\nmount_program = \"{program}\"\n");
    }
    text
}

/// Podman's configuration for a job: no systemd session to make cgroups, no journal to write to, and a place inside the step for
/// what it is pulling and for its locks (else they stay in `/dev/shm`, a file for each user); and what HPC programs expect, the
/// node's own network.
fn containers_conf(paths: &StepPaths) -> String {
    format!(
        "[containers]\nlog_driver = \"k8s-file\"\nnetns = \"host\"\n\n\
         [engine]\ncgroup_manager = \"cgroupfs\"\nevents_logger = \"file\"\nlock_type = \"file\"\nimage_copy_tmp_dir = \"{}\"\n",
        paths.copies().display()
    )
}
