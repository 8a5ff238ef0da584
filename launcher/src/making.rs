//! What a container is made from.

use std::path::PathBuf;
use std::time::Instant;

use parallax_protocol::step_file::{StepFile, StepPaths};

use crate::request::Asked;

/// The layers of the container's root directory.
#[derive(Debug, Default)]
pub(crate) struct Layers {
    /// The directory in which they are.
    pub directory: PathBuf,
    /// Their names in it, the topmost first.
    pub names: Vec<String>,
    /// The program that mounts them, if they are SquashFS files.
    pub mount_program: Option<PathBuf>,
}

/// What a container is made from.
#[derive(Debug)]
pub(crate) struct Making<'a> {
    /// The files of the step.
    pub paths: &'a StepPaths,
    /// The step's parameters.
    pub step: &'a StepFile,
    /// What the user asks for.
    pub asked: Asked<'a>,
    /// The image's layers.
    pub layers: &'a Layers,
    /// The time by which the container must be ready.
    pub deadline: Instant,
}

/// What to do about a step's file that an agent of another form wrote.
pub(crate) const OTHER_AGENT: &str =
    "this node's agent is of another version than its launcher; tell the administrator to restart parallax-agent";

/// Where the root directory is while the container is made.
pub(crate) fn root_directory(paths: &StepPaths) -> PathBuf {
    paths.launch_directory().join("root")
}
