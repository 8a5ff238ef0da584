//! Entering the container and becoming the user's command.
//!
//! The task joins the container's user and mount namespaces and keeps everything else: its number, its place in Slurm's control
//! group, its terminal, its signals. The user id is the same inside and outside.

use std::ffi::{CString, OsStr, OsString};
use std::fmt;
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use nix::errno::Errno;
use parallax_sys::process::restore_sigpipe;
use rustix::thread::{CapabilitySet, remove_capability_from_bounding_set};

use crate::door::{BOUNDS, Door};
use crate::environment::{self, Variables};
use crate::late_mounts::{LateClones, LateMounts};
use crate::node_program::{Cloned, NodeProgram};

/// Where a task starts.
#[derive(Debug)]
pub(crate) enum Directories<'a> {
    /// In the directory that the user asked for.
    Exactly(&'a Path),
    /// In the directory in which the task would start on the node; `None` if that no longer exists.
    OfNode(Option<&'a Path>),
    /// In the first of these that the container has: the directory on the node, the image's; else in `/`.
    FirstOf([Option<&'a Path>; 2]),
}

impl Directories<'_> {
    /// The directories, of which the first that can be entered counts.
    pub(crate) fn in_order(&self) -> Vec<&Path> {
        match self {
            Self::Exactly(path) => vec![path],
            Self::OfNode(path) => path.iter().copied().collect(),
            Self::FirstOf(paths) => paths.iter().flatten().copied().chain([Path::new("/")]).collect(),
        }
    }

    /// Changes to the directory.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn enter(&self) -> Result<(), String> {
        match self {
            Self::Exactly(path) => std::env::set_current_dir(path).map_err(|error| {
                format!(
                    "cannot start in {}: {error}; --parallax-workdir names a directory of the container, and --parallax-mount shows \
                     one of the node there",
                    path.display()
                )
            }),
            Self::OfNode(Some(path)) => std::env::set_current_dir(path).map_err(|error| {
                let path = path.display();
                format!(
                    "cannot start in {path}: the container does not show it ({error}); --parallax-mount={path} shows it, and \
                     --parallax-workdir names a directory of the container"
                )
            }),
            Self::OfNode(None) => Err("cannot start in the step's directory: it no longer exists on the node; \
                                       --parallax-workdir names a directory of the container"
                .to_owned()),
            Self::FirstOf(paths) => {
                let entered = paths.iter().flatten().any(|path| std::env::set_current_dir(path).is_ok());
                if entered || std::env::set_current_dir("/").is_ok() {
                    return Ok(());
                }
                Err("cannot enter the container: cannot change to its root directory; tell the administrator".to_owned())
            }
        }
    }
}

/// Moves this process into the container, with at most the privileges of the container's own processes. Mounts a program and
/// directories of the node into the container.
pub(crate) fn enter(container: &Door, program: Option<NodeProgram>, late: Option<LateMounts>) -> Result<(), String> {
    let failed = |error: &dyn fmt::Display| format!("cannot enter the container: {error}; tell the administrator");
    if program.is_none() && late.is_none() {
        container.enter().map_err(|error| failed(&error))?;
    } else {
        let clone = || (program.map(NodeProgram::clone_mount), late.map(LateMounts::clone_mounts));
        let (program, late) = container.enter_after(clone).map_err(|error| failed(&error))?;
        // If cloning fails, the image may still have a program at that path.
        program.and_then(Result::ok).map_or(Ok(()), Cloned::show)?;
        late.map_or(Ok(()), |late| late.and_then(LateClones::show))?;
    }
    limit_capabilities(BOUNDS).map_err(|error| failed(&error))
}

/// Drops from the bounding set all capabilities but these, one bit each, of those that this kernel knows: capabilities(7) numbers them
/// without gaps, and prctl(2) has EINVAL for the others.
pub(crate) fn limit_capabilities(bounds: u64) -> rustix::io::Result<()> {
    for bit in (0..u64::BITS).map(|number| 1 << number).filter(|bit| bounds & bit == 0) {
        let Some(capability) = CapabilitySet::from_bits(bit) else { break };
        match remove_capability_from_bounding_set(capability) {
            Err(rustix::io::Errno::INVAL) => break,
            result => result?,
        }
    }
    Ok(())
}

/// Error of executing the user's command.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Failure {
    command: String,
    errno: Errno,
}

impl Failure {
    /// Returns the exit code that a shell would return.
    pub(crate) fn exit_code(&self) -> u8 {
        if self.errno == Errno::ENOENT { 127 } else { 126 }
    }

    /// Whether the kernel does not know the program's format, as of one for another processor.
    pub(crate) fn is_unknown_format(&self) -> bool {
        self.errno == Errno::ENOEXEC
    }

    /// Returns the message for a command outside the image.
    pub(crate) fn on_the_node(&self) -> String {
        format!("cannot execute \"{}\": {}", self.command, self.errno.desc())
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.errno {
            Errno::ENOENT => write!(f, "there is no \"{}\" in the image", self.command),
            errno => write!(f, "cannot execute \"{}\": {}", self.command, errno.desc()),
        }
    }
}

/// Executes the command, searched for in the image's `PATH`. As without an image, the program gets its full path as its name
/// (`_build_path` in slurmstepd). Returns only on failure.
pub(crate) fn execute(command: &[OsString], variables: &Variables) -> Failure {
    let name = command.first().map_or(OsStr::new(""), OsString::as_os_str);
    let failure = |errno| Failure { command: name.to_string_lossy().into_owned(), errno };
    let Ok(mut arguments) = command.iter().map(|part| CString::new(part.as_bytes())).collect::<Result<Vec<_>, _>>()
    else {
        return failure(Errno::EINVAL);
    };
    let entries = environment::to_exec(variables);
    // As in tasks of Slurm. Messages about a failure go to standard error, which slurmstepd reads.
    restore_sigpipe();
    let mut worst = Errno::ENOENT;
    for candidate in candidates(name, variables) {
        if let Some(own) = arguments.first_mut() {
            own.clone_from(&candidate);
        }
        let Err(errno) = nix::unistd::execve(&candidate, &arguments, &entries);
        // As execvp(3): continue if the file is not found or not executable for this user, and remember the latter.
        match errno {
            Errno::ENOENT | Errno::ENOTDIR => {}
            Errno::EACCES => worst = Errno::EACCES,
            other => return failure(other),
        }
    }
    failure(worst)
}

fn candidates(name: &OsStr, variables: &Variables) -> Vec<CString> {
    if name.is_empty() {
        return Vec::new();
    }
    if name.as_bytes().contains(&b'/') {
        let here = if name.as_bytes().starts_with(b".") { std::env::current_dir().ok() } else { None };
        let whole = here.map_or_else(|| name.to_owned(), |here| [here.as_os_str(), name].join(OsStr::new("/")));
        return CString::new(whole.into_vec()).into_iter().collect();
    }
    let directories = environment::path(variables);
    directories
        .iter()
        .filter_map(|directory| CString::new(Path::new(directory).join(name).as_os_str().as_bytes()).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn variables(path: &str) -> Variables {
        Variables::from([("PATH".into(), path.into())])
    }

    #[test]
    fn a_name_is_sought_in_the_path_and_a_path_is_not() {
        let found = |name: &str| candidates(OsStr::new(name), &variables("/a:/b"));
        assert_eq!(found("x"), [c"/a/x".to_owned(), c"/b/x".to_owned()]);
        assert_eq!(found("a/x"), [c"a/x".to_owned()]);
        let here = std::env::current_dir().unwrap();
        assert_eq!(found("./x"), [CString::new(format!("{}/./x", here.display())).unwrap()]);
        assert!(found("").is_empty());
    }

    #[test]
    fn a_missing_command_and_one_that_is_no_program() {
        let failure = execute(&["no-such-command".into()], &variables("/usr/bin:/bin"));
        assert_eq!(failure.exit_code(), 127);
        let failure = execute(&["/etc/passwd".into()], &variables("/bin"));
        assert_eq!(failure.exit_code(), 126);
        assert!(failure.to_string().contains("/etc/passwd"));
    }
}
