//! The image of a step in podman mode that is a directory: an additional image store, in which Podman finds the directory as an image.
//!
//! The agent opens no path of the user's, so the step's first task writes the store, as the user, where the agent's configuration of
//! Podman has it. The image's layer is a symbolic link to the directory. Above it lies a layer with the directories in
//! which Podman has to make mount points and files, with owners of the container (see [`crate::tree`]). As in the stores that the agent
//! makes, there is a second chain for `--userns=keep-id`: without one, Podman would copy the whole image.

mod layout;

use std::fs::{self, DirBuilder, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _, symlink};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parallax_format::{ImageName, ImageRef, RequestedImage, ducc};
use parallax_protocol::step_file::{StepFile, StepPaths};
use rustix::fs::{FlockOperation, flock};

use crate::holder::read_until;
use crate::podman::{end_of, enter_namespace};
use crate::tree::{self, Kind, Settings, Tree};
use layout::{Chain, Described};

/// The verb of the command line of the process that writes the store.
pub(crate) const VERB: &str = "store";
/// The file with the image's id, written last; empty if Podman has no image.
const DONE: &str = "done";

/// Ensures that Podman finds the step's image, if it is a directory: the first task that takes the lock writes the store. Returns the
/// image's id.
///
/// # Errors
/// A message for the user: the directory cannot be used, or hangs.
pub(crate) fn ensure(
    directory: &Path,
    read: impl Fn(&StepPaths) -> Result<StepFile, String>,
) -> Result<Option<String>, String> {
    let paths = StepPaths::new(directory);
    // The step has another image, which the agent has put into its store.
    if paths.store().join(parallax_format::layout::OVERLAY_IMAGES).exists() {
        return Ok(None);
    }
    let step = read(&paths)?;
    let Some(path) = &step.directory else { return Ok(None) };
    // Of all tasks, those that wait for the lock included.
    let deadline = Instant::now() + Duration::from_secs(step.start_timeout.into());
    let broken = |error: io::Error| format!("cannot use {}: {error}", paths.launch_directory().display());
    let done = paths.store_of_directory().join(DONE);
    let known = || fs::read_to_string(&done).ok().map(|id| Some(id).filter(|id| !id.is_empty()));
    let lock = paths.launch_directory().join("store.lock");
    let lock = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(lock).map_err(broken)?;
    flock(&lock, FlockOperation::LockExclusive).map_err(|error| broken(error.into()))?;
    if let Some(id) = known() {
        return Ok(id);
    }
    // In a process of its own, since this one becomes the user's command, outside of the namespace.
    let mut command = Command::new(std::env::current_exe().map_err(broken)?);
    command.arg(VERB).arg(directory).arg("--");
    match in_time(command, deadline).map_err(broken)? {
        Some((said, is_done)) => {
            known().filter(|_| is_done).ok_or_else(|| format!("Podman cannot have the image{}", end_of(&said)))
        }
        None => Err(format!(
            "Podman cannot have the image: {} took too long to answer; tell the administrator",
            path.display()
        )),
    }
}

/// Runs a program that says nothing but errors, and returns these and whether it succeeded; `None` if it is not done by the deadline.
fn in_time(mut command: Command, deadline: Instant) -> io::Result<Option<(Vec<u8>, bool)>> {
    if Instant::now() >= deadline {
        return Ok(None);
    }
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let said = child.stderr.take().map_or(Ok((Vec::new(), true)), |errors| read_until(&errors.into(), deadline))?;
    match said {
        (said, true) => Ok(Some((said, child.wait()?.success()))),
        // What waits for a file system may not end before that answers, so nobody waits for it.
        _ => child.kill().map(|()| None),
    }
}

/// Writes the store of the step that has this directory.
///
/// # Errors
/// A message for the user.
pub(crate) fn write(paths: &StepPaths, step: &StepFile) -> Result<(), String> {
    let path = step.directory.as_deref().unwrap_or(Path::new("/"));
    let kind = tree::look(path)?;
    // Root's Podman needs no user namespace.
    if !rustix::process::geteuid().is_root() {
        enter_namespace(&paths.user_namespace())
            .map_err(|error| format!("cannot enter the step's user namespace: {error}"))?;
    }
    let failed = |error: io::Error| format!("cannot write {}: {error}", paths.store_of_directory().display());
    let store = Store { root: &paths.store_of_directory() };
    // Of an attempt that was ended.
    match fs::remove_dir_all(store.root) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let id = match kind {
        Kind::File => store.empty().map(|()| String::new()),
        Kind::Directory(settings) => store.with_image(path, step, &settings),
    };
    fs::write(store.root.join(DONE), id.map_err(failed)?).map_err(failed)
}

/// Returns the names of an image for Podman: that by which it was requested, or its public name, or else the last part of its path.
fn names(step: &StepFile, path: &Path) -> Vec<String> {
    let requested = match RequestedImage::parse(&step.image) {
        // A short name means a local image first, and that of Docker Hub last.
        Ok(RequestedImage::InStore(ImageRef::Name(names))) => names.last().cloned(),
        _ => None,
    };
    let public = || {
        let image = parallax_trees::Image::of_path(path).ok()??;
        let name = image.name.clone().or_else(|| Some(path.strip_prefix(&image.repository).ok()?.to_str()?.to_owned()));
        ducc::image_name(&name?)
    };
    let local = || ImageName::for_storing(&path.file_name()?.to_str()?.to_lowercase()).ok();
    requested.or_else(public).or_else(local).map(|name| name.to_string()).into_iter().collect()
}

/// The store that is written.
struct Store<'a> {
    root: &'a Path,
}

impl Store<'_> {
    /// Writes a store without images: the configuration of Podman names it, so it must be there.
    fn empty(&self) -> io::Result<()> {
        self.directories(&[])?;
        self.files(layout::lists(&[], None))
    }

    /// Writes the store of a directory and returns the image's id.
    fn with_image(&self, path: &Path, step: &StepFile, settings: &Settings) -> io::Result<String> {
        // Later containers get this directory, also if a link on the path leads elsewhere then.
        let place = path.canonicalize()?;
        let tree = Tree::open(&place).map_err(io::Error::other)?;
        let names = names(step, path);
        let image = Described::new(&place, settings, names);
        let plain = Chain::plain(&place);
        let chains: Vec<Chain> =
            [plain].into_iter().chain(step.keep_id_maps.as_ref().map(|maps| Chain::keep_id(&place, maps))).collect();
        self.directories(&chains)?;
        let own = settings.execution.directory();
        for chain in &chains {
            symlink(&place, self.root.join(chain.base_files()))?;
            let room = self.root.join(chain.room_files());
            DirBuilder::new().mode(0o755).create(&room)?;
            tree.make_room_for_podman(&room, own.as_deref())?;
            if let Some((uid, gid)) = chain.root() {
                give(&room, uid, gid)?;
            }
        }
        let links = chains.iter().flat_map(Chain::links);
        links.into_iter().try_for_each(|(link, target)| symlink(target, self.root.join(link)))?;
        self.files(
            chains.iter().flat_map(Chain::files).chain(image.files()).chain(layout::lists(&chains, Some(&image))),
        )?;
        Ok(image.id.to_string())
    }

    fn directories(&self, chains: &[Chain]) -> io::Result<()> {
        let mut builder = DirBuilder::new();
        builder.recursive(true).mode(0o755).create(self.root)?;
        let known = parallax_format::layout::PODMANS_DIRECTORIES.map(str::to_owned).into_iter();
        for directory in known.chain(chains.iter().flat_map(Chain::directories)) {
            builder.create(self.root.join(directory))?;
        }
        Ok(())
    }

    fn files(&self, files: impl IntoIterator<Item = (String, Vec<u8>)>) -> io::Result<()> {
        for (file, bytes) in files {
            let path = self.root.join(file);
            path.parent().map_or(Ok(()), fs::create_dir_all)?;
            fs::write(path, bytes)?;
        }
        Ok(())
    }
}

/// Gives what belongs to this namespace's root, in a directory of which everything was made here, to other ids.
fn give(path: &Path, uid: u32, gid: u32) -> io::Result<()> {
    let metadata = path.symlink_metadata()?;
    if metadata.is_dir() {
        for entry in fs::read_dir(path)? {
            give(&entry?.path(), uid, gid)?;
        }
    }
    let given = |id: u32, other: u32| (id == 0).then_some(other);
    std::os::unix::fs::chown(path, given(metadata.uid(), uid), given(metadata.gid(), gid))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_hangs_is_ended() {
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            command
        };
        let soon = |milliseconds| Instant::now() + Duration::from_millis(milliseconds);
        assert_eq!(in_time(shell("echo no >&2; exit 1"), soon(60_000)).unwrap(), Some((b"no\n".to_vec(), false)));
        assert_eq!(in_time(shell("exec sleep 600"), soon(20)).unwrap(), None);
        // Tasks that waited for that do not try again.
        assert_eq!(in_time(shell("true"), Instant::now()).unwrap(), None);
    }

    #[test]
    fn an_image_has_the_name_that_it_was_requested_by_or_one_of_its_path() {
        let step = |image: &str| -> StepFile {
            let step = serde_json::json!({
                "image": image, "user": "u1", "environment": [], "mounts": [], "mount_home": true, "mount_workdir": true,
                "podman": "/usr/bin/podman", "start_timeout": 1
            });
            serde_json::from_value(step).unwrap()
        };
        let names = |image: &str, path: &str| names(&step(image), Path::new(path));
        assert_eq!(names("python:3", "/cvmfs/x/.flat/ab/ab"), ["docker.io/library/python:3"]);
        assert_eq!(names("quay.io/a/b", "/x"), ["quay.io/a/b:latest"]);
        assert_eq!(names("/shared/Debian:12", "/shared/Debian:12"), ["localhost/debian:12"]);
        assert!(names("/shared/-x", "/shared/-x").is_empty());
    }
}
