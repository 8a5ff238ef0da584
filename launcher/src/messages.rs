//! Messages for the user: each once on a node, however many tasks have the same to say.

use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::path::Path;

use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;

/// Slurm's variable for the number of a task's step.
pub(crate) const STEP_ID: &str = "SLURM_STEP_ID";

/// The messages of a step's tasks on this node.
#[derive(Debug)]
pub(crate) struct Messages {
    /// The directory that the tasks share, open: in the container it has no path.
    directory: Option<OwnedFd>,
    /// The name of this node.
    node: String,
}

impl Messages {
    /// Opens the directory that the step's tasks share. Without it every task prints what it has to say.
    pub(crate) fn of_step(shared: &Path, node: String) -> Self {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Self { directory: open(shared, flags, Mode::empty()).ok(), node }
    }

    /// Prints a message about this node, with its name.
    pub(crate) fn print_of_node(&self, message: &str) {
        self.print(&with_node(message, &self.node));
    }

    /// Prints a message, unless another task of the step on this node has printed the same.
    pub(crate) fn print(&self, message: &str) {
        let step = std::env::var(STEP_ID).unwrap_or_default();
        if self.is_first(&step, message) {
            eprintln!("parallax: {message}");
        }
    }

    /// Whether no other task of the step has this message. A marker file in the directory is one that has.
    fn is_first(&self, step: &str, message: &str) -> bool {
        let Some(directory) = &self.directory else { return true };
        let mut hasher = DefaultHasher::new();
        message.hash(&mut hasher);
        // A directory may be that of several steps, which share a container.
        let name = format!("told-{step}-{:016x}", hasher.finish());
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        !matches!(openat(directory, name, flags, Mode::RUSR | Mode::WUSR), Err(Errno::EXIST))
    }
}

/// Adds the node's name to a message that does not have it.
fn with_node(message: &str, node: &str) -> String {
    if message.contains(&format!("the node {node}")) { message.to_owned() } else { format!("node {node}: {message}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_told_once_for_each_step() {
        let directory = tempfile::tempdir().unwrap();
        let messages = || Messages::of_step(directory.path(), "n1".into());
        assert!(messages().is_first("0", "a"));
        assert!(!messages().is_first("0", "a"));
        assert!(messages().is_first("0", "b"));
        assert!(messages().is_first("1", "a"));
        let without = Messages::of_step(Path::new("/nonexistent"), "n1".into());
        assert!(without.is_first("0", "a") && without.is_first("0", "a"));
    }

    #[test]
    fn a_message_names_the_node_once() {
        assert_eq!(with_node("the container is gone", "n1"), "node n1: the container is gone");
        let named = "cannot mount /x: No such file or directory on the node n1";
        assert_eq!(with_node(named, "n1"), named);
    }
}
