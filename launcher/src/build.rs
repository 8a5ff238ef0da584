//! The making of the step's container, by system calls alone and without privileges over anything but the container.
//!
//! This process enters the user namespace that the agent made for the container. It keeps the user's id, so paths of the node are
//! looked up with the user's own rights, and has all capabilities in that namespace. In a mount namespace of its own it mounts the
//! root directory, puts files and mounts into it ([`crate::plan`]), and leaves the node's mounts behind.

use std::fmt::Display;
use std::fs::{self, DirBuilder, File};
use std::io::{self, Read as _};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use nix::sched::{CloneFlags, unshare};
use parallax_protocol::step_file::{StepFile, StepPaths};
use parallax_spank_hooks::{IMAGE_ID, text as variable};
use parallax_sys::limits::{self, Namespace};
use parallax_sys::mount::{DetachedMount, make_read_only};
use parallax_sys::overlay::Overlay;
use parallax_sys::root::Root;
use rustix::fs::{Mode, OFlags, open};
use rustix::io::Errno;
use rustix::mount::{UnmountFlags, mount_move, unmount};
use rustix::process::{chdir, chroot, fchdir, getgid, getuid, pivot_root, umask};
use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use crate::accounts;
use crate::bundle;
use crate::holder::{self, Held, Report};
use crate::making::{Layers, Making, OTHER_AGENT, root_directory};
use crate::mount_program;
use crate::mpi;
use crate::of_node::OfNode;
use crate::plan::{self, COPIED, Facts, ImageAccounts, Plan};
use crate::request::put_execution;
use crate::show;
use crate::tree::{self, Kind, Settings, Tree};

/// Maximum size of a file that is read from the node or from the image, in bytes.
const MAX_FILE: u64 = 4 << 20;

/// Makes the container of a step.
///
/// # Errors
/// A message for the user.
pub(crate) fn start(making: &Making<'_>) -> Result<Held, String> {
    holder::start(making.deadline, making.step.container.is_none(), |report| make(making, report))
}

/// Adds what failed to an error.
fn failed<E: Display>(what: impl Display) -> impl FnOnce(E) -> String {
    move |error| format!("cannot {what}: {error}")
}

/// Makes the container, which no process holds yet.
fn make(making: &Making<'_>, report: &mut Report) -> Result<Held, String> {
    let Making { paths, step, asked, .. } = making;
    let working_directory = std::env::current_dir().ok();
    let kind = step.directory.as_deref().map(|path| {
        report.at(&format!("looking at the image {}", path.display()));
        tree::look(path)
    });
    let kind = kind.transpose()?;
    // In the user namespace root has no id, and its files look like nobody's.
    report.at("reading the devices and hooks of this node");
    let of_node = OfNode::read(step, asked.request)?;
    umask(Mode::empty());
    // As long as the node's paths are there.
    let kept = step.container.is_some().then(|| File::open(paths.mount_namespace())).transpose();
    let kept = kept.map_err(failed("open the container's mount namespace"))?;
    enter(&paths.container_namespace())?;
    report.at("mounting the image");
    let image = kind.map(|kind| open_image(making, kind)).transpose()?;
    let (tree, settings) = image.unzip();
    let mut step = (*step).clone();
    if let Some(settings) = &settings {
        put_execution(&mut step, settings.execution.clone());
    }
    let making = Making { step: &step, ..*making };
    let root = furnish(&making, tree.as_ref(), &of_node, working_directory, report)?;
    report.at("entering the container");
    leave_node(root)?;
    kept.map_or(Ok(()), |namespace| keep(&namespace).map_err(failed("keep the container for other steps")))?;
    let id = settings.as_ref().and_then(|settings| settings.id);
    let of_image = id.map(|id| (variable(IMAGE_ID).to_owned(), id.to_string()));
    let environment = of_node.devices.environment.into_iter().chain(of_image).collect();
    Ok(Held { pid: None, environment, execution: settings.map(|settings| settings.execution) })
}

/// Opens an image that is a path, inside the container's user namespace.
fn open_image(making: &Making<'_>, kind: Kind) -> Result<(Tree, Settings), String> {
    let path = making.step.directory.as_deref().unwrap_or(Path::new("/"));
    match kind {
        Kind::Directory(settings) => Ok((Tree::open(path)?, *settings)),
        Kind::File => {
            let tree = Tree::of_file(path, making)?;
            let settings = tree.settings(path)?;
            Ok((tree, settings))
        }
    }
}

/// Mounts the container's root directory, and puts into it what the plan has and what hooks add.
fn furnish(
    making: &Making<'_>,
    tree: Option<&Tree>,
    of_node: &OfNode,
    working_directory: Option<PathBuf>,
    report: &mut Report,
) -> Result<Root, String> {
    let Making { paths, step, asked, layers, .. } = making;
    let root = tree.map_or_else(|| mount_root(paths, layers, |_| Ok(())), Tree::root)?;
    let mut accounts = accounts::of_step(step, getuid().as_raw(), getgid().as_raw());
    if let Some(user) = accounts.user.as_mut().filter(|user| !root.has(Path::new(&user.shell))) {
        "/bin/sh".clone_into(&mut user.shell);
    }
    report.at("reading files of the node and of the image");
    let facts = Facts {
        home: std::env::var_os("HOME").map(PathBuf::from),
        working_directory,
        job_tmp: std::env::var_os("TMPDIR").map(PathBuf::from),
        step_tmp: own_tmp(paths, step)?,
        devices: of_node.devices.mounts.clone(),
        mpi_directories: mpi::directories_of_task(),
        copied: COPIED.iter().filter_map(|path| Some((path.into(), file_of_node(Path::new(path))?))).collect(),
        image_accounts: image_accounts(&root)?,
        accounts,
    };
    let plan = plan::plan(asked.request, step, facts, |path| {
        report.at(&format!("looking for {} on this node", path.display()));
        path.exists()
    });
    let root = match tree {
        Some(tree) => mount_tree(paths, step, tree, &plan)?,
        None => root,
    };
    carry_out(&plan, making, &root, report)?;
    bundle::prepare(making, of_node, &plan, |what| report.at(what))?;
    if plan.read_only {
        make_read_only(&root).map_err(failed("make the root directory read-only"))?;
    }
    Ok(root)
}

/// Shows the container, which is this process's root directory, in the mount namespace in which it outlives this process.
fn keep(namespace: &File) -> io::Result<()> {
    let tree = DetachedMount::clone_of_tree(Path::new("/"))?;
    move_into_link_name_space(namespace.as_fd(), Some(LinkNameSpaceType::Mount))?;
    let place = open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty())?;
    tree.attach_over(place)
}

/// Enters the user namespace and a mount namespace of its own, a copy in which nothing is propagated to the node.
fn enter(namespace: &Path) -> Result<(), String> {
    let file = File::open(namespace).map_err(failed(format!("open {}", namespace.display())))?;
    move_into_link_name_space(file.as_fd(), Some(LinkNameSpaceType::User))
        .map_err(failed("enter the step's user namespace"))?;
    unshare(CloneFlags::CLONE_NEWNS)
        .map_err(|error| limits::of_namespaces(error.into(), &[Namespace::Mount]))
        .map_err(failed("make a mount namespace"))
}

/// Mounts the root directory of an image that is a directory, with room for what the plan puts into it.
fn mount_tree(paths: &StepPaths, step: &StepFile, tree: &Tree, plan: &Plan) -> Result<Root, String> {
    let files = plan.files.iter().map(|(path, _)| path.as_path());
    let places = files.chain(plan.mounts.iter().map(|mount| mount.target.as_path()));
    mount_root(paths, &tree.layers(), |writable| {
        if tree.make_room(writable, places)? && step.as_root {
            tree::tell_limits(step);
        }
        Ok(())
    })
    .map_err(|error| tree.explain(error))
}

/// Mounts the root directory, an overlay over the image's layers with the step's writable layer, which `prepare` gets first.
fn mount_root(
    paths: &StepPaths,
    layers: &Layers,
    prepare: impl FnOnce(&Path) -> io::Result<()>,
) -> Result<Root, String> {
    let what = "mount the image";
    let place = root_directory(paths);
    let [upper, work] = writable_layer(&paths.graph_root());
    for directory in [&place, &upper, &work] {
        let made = DirBuilder::new().recursive(directory == &place).mode(0o755).create(directory);
        made.map_err(failed(format!("create {}", directory.display())))?;
    }
    chdir(&layers.directory).map_err(failed(format!("enter {}", layers.directory.display())))?;
    let text = |path: &Path| path.to_str().map(ToOwned::to_owned).ok_or_else(|| failed(what)("a path is not UTF-8"));
    let overlay =
        Overlay { lower: layers.names.clone(), upper: Some([text(&upper)?, text(&work)?]), user_attributes: true };
    if let Some(program) = &layers.mount_program {
        like_root(&upper, None).map_err(failed(what))?;
        mount_program::mount(program, paths, &overlay, &place)?;
    } else {
        let top = layers.names.first().ok_or_else(|| failed(what)(OTHER_AGENT))?;
        let top = fs::metadata(top).map_err(failed(what))?;
        like_root(&upper, Some(&top)).map_err(failed(what))?;
        prepare(&upper).map_err(failed(what))?;
        let (mount, _) = overlay.mount(&[], &text(&place)?).map_err(failed(what))?;
        let over = open(&place, OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).map_err(failed(what))?;
        DetachedMount::from(mount).attach_over(&over).map_err(failed(what))?;
    }
    Root::open(&place).map_err(failed(what))
}

/// The directories of the writable layer. Those of an earlier step's failed attempt to make the container may still be in use.
fn writable_layer(graph_root: &Path) -> [PathBuf; 2] {
    let numbered = |number: u32| ["upper", "work"].map(|name| graph_root.join(format!("{name}{number}")));
    (0..u32::MAX).map(numbered).find(|[upper, _]| !upper.exists()).unwrap_or_else(|| numbered(u32::MAX))
}

/// Gives the writable layer's directory the owner and the permissions of the image's root directory, which it stands for.
fn like_root(upper: &Path, image: Option<&fs::Metadata>) -> io::Result<()> {
    let (uid, gid, mode) = image.map_or((0, 0, 0o755), |root| (root.uid(), root.gid(), root.mode() & 0o7777));
    fs::set_permissions(upper, fs::Permissions::from_mode(mode))?;
    match std::os::unix::fs::chown(upper, Some(uid), Some(gid)) {
        // An owner that has no id in the namespace.
        Err(error) if error.raw_os_error() == Some(Errno::INVAL.raw_os_error()) => Ok(()),
        result => result,
    }
}

/// Reads a file of the node; `None` if the file does not exist.
fn file_of_node(path: &Path) -> Option<Vec<u8>> {
    let read = || -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        File::open(path)?.take(MAX_FILE).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    match read() {
        Ok(bytes) => Some(bytes),
        Err(_) if path.ends_with("hostname") => Some([rustix::system::uname().nodename().to_bytes(), b"\n"].concat()),
        Err(_) => None,
    }
}

/// Makes the directory that becomes `/tmp`, if the step is to have one of its own: on the step's tmpfs, whose size is limited.
fn own_tmp(paths: &StepPaths, step: &StepFile) -> Result<PathBuf, String> {
    let path = paths.graph_root().join("tmp");
    if step.own_tmp {
        DirBuilder::new()
            .recursive(true)
            .mode(0o1777)
            .create(&path)
            .map_err(failed(format!("create {}", path.display())))?;
    }
    Ok(path)
}

fn image_accounts(root: &Root) -> Result<ImageAccounts, String> {
    let read = |path: &str| {
        let text = root.read(Path::new(path), MAX_FILE).map_err(failed(format!("read {path} of the image")))?;
        Ok::<_, String>(text.unwrap_or_default())
    };
    Ok(ImageAccounts { passwd: read("/etc/passwd")?, group: read("/etc/group")? })
}

fn carry_out(plan: &Plan, making: &Making<'_>, root: &Root, report: &mut Report) -> Result<(), String> {
    for (path, contents) in &plan.files {
        root.replace(path, contents).map_err(failed(format!("write {} in the container", path.display())))?;
    }
    for mount in &plan.mounts {
        match mount.source.path() {
            Some(path) => report.at(&format!("mounting {} of this node", path.display())),
            None => report.at("mounting a tmpfs"),
        }
        show::show(mount, making, root)?;
    }
    Ok(())
}

/// Makes the container's root directory this process's, and detaches all mounts of the node.
fn leave_node(root: Root) -> Result<(), String> {
    let what = "enter the container's root directory";
    fchdir(&root).map_err(failed(what))?;
    match pivot_root(".", ".") {
        // The old root lies over the new one.
        Ok(()) => unmount(".", UnmountFlags::DETACH).map_err(failed("detach the mounts of the node"))?,
        // The node's root is the initial ramdisk's, which cannot be left. It is covered.
        Err(Errno::INVAL) => {
            mount_move(".", "/").map_err(failed(what))?;
            chroot(".").map_err(failed(what))?;
        }
        Err(error) => return Err(failed(what)(error)),
    }
    chdir("/").map_err(failed(what))
}
