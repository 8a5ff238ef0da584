//! Requests to the agent and its responses.
//!
//! The two sides may be of different releases: an update restarts the agent while steps run, and a new plugin may find an old
//! agent. Fields that a receiver does not know are passed over. So a field may be added, with a default, if passing over it does no
//! harm. What an older receiver must not pass over raises [`VERSION`], and only the messages that use it are sent with the new
//! version ([`Versioned`]): all others, and above all the release of a step, are still understood by everybody.

use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use parallax_format::{ContainerRule, is_container_name};

use crate::node::{NodeStatus, SourceStatus};

/// The newest version of the protocol that this release understands; all older ones it understands, too.
pub const VERSION: u32 = 2;

/// A message with the protocol version that it needs.
pub trait Versioned {
    /// The oldest version of the protocol that has everything in this message which must not be passed over.
    fn version(&self) -> u32;
}

impl Versioned for Request {
    fn version(&self) -> u32 {
        match self {
            // In a container of another kind files would have other owners, and in a new one what earlier steps wrote would not be there.
            Self::Lease(request) if request.as_root || request.container.is_some() => 2,
            _ => 1,
        }
    }
}

impl Versioned for Response {
    fn version(&self) -> u32 {
        1
    }
}

/// The mode of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Mode {
    /// Tasks run inside the image.
    #[default]
    Run,
    /// Tasks run on the node; Podman finds the image.
    Podman,
}

impl Mode {
    /// The mode as a user writes it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Run => "run",
            Self::Podman => "podman",
        }
    }
}

/// An invalid [`Mode`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the mode \"{0}\" is unknown; use \"run\" (tasks run inside the image) or \"podman\" (tasks run on the node and call podman)"
)]
pub struct UnknownMode(String);

impl FromStr for Mode {
    type Err = UnknownMode;

    fn from_str(text: &str) -> Result<Self, UnknownMode> {
        match text {
            "run" => Ok(Self::Run),
            "podman" => Ok(Self::Podman),
            other => Err(UnknownMode(other.escape_debug().to_string())),
        }
    }
}

/// A step of a Slurm job on this node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct StepId {
    /// The job's number.
    pub job: u32,
    /// The step's number, as Slurm counts: the highest numbers are for the batch script and the like.
    pub step: u32,
    /// Number of times the job was requeued before.
    pub restart: u32,
}

/// `SLURM_BATCH_SCRIPT` of `slurm/slurm.h`: the step of a batch script.
pub const BATCH_SCRIPT: u32 = 0xffff_fffb;
/// `SLURM_EXTERN_CONT` of `slurm/slurm.h`: the step of processes that come from outside, such as ssh.
pub const EXTERN_CONT: u32 = 0xffff_fffc;
/// `SLURM_INTERACTIVE_STEP` of `slurm/slurm.h`: the step of salloc's shell on a node.
pub const INTERACTIVE_STEP: u32 = 0xffff_fffa;

/// An invalid name of a step.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not a valid step; write it as Slurm does, such as 12.0 or 12.batch")]
pub struct InvalidStep(String);

/// The numbers of the containers that steps of a job share, which are leases of their own: no step of Slurm's has so high a number
/// (`SLURM_MAX_NORMAL_STEP_ID` is higher by some thousands, and a job has far fewer steps). Journals of all releases have room for them.
pub const CONTAINERS: std::ops::Range<u32> = 0xffff_e000..0xffff_e100;

impl StepId {
    /// Whether this is the number of a container that steps share, and not of a step.
    #[must_use]
    pub fn is_container(&self) -> bool {
        CONTAINERS.contains(&self.step)
    }

    /// The job's and the step's number in a text such as `12.0`, `12.batch` or `12.interactive`.
    ///
    /// # Errors
    /// [`InvalidStep`] quotes the text.
    pub fn numbers(text: &str) -> Result<(u32, u32), InvalidStep> {
        let parse = || {
            let (job, step) = text.split_once('.')?;
            let step = match step {
                "batch" => BATCH_SCRIPT,
                "interactive" => INTERACTIVE_STEP,
                "extern" => EXTERN_CONT,
                number => number.parse().ok()?,
            };
            Some((job.parse().ok()?, step))
        };
        parse().ok_or_else(|| InvalidStep(text.escape_debug().to_string()))
    }
}

impl fmt::Display for StepId {
    /// As Slurm shows it: `12.0`, `12.batch`, `12.interactive`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.step {
            BATCH_SCRIPT => write!(f, "{}.batch", self.job),
            INTERACTIVE_STEP => write!(f, "{}.interactive", self.job),
            EXTERN_CONT => write!(f, "{}.extern", self.job),
            step => write!(f, "{}.{step}", self.job),
        }
    }
}

/// A request to the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// Provides an image for a step, until [`Request::Release`] or the end of the connection and of the asking process.
    Lease(LeaseRequest),
    /// Releases this connection's lease, or that of the named step.
    Release {
        /// The step.
        step: StepId,
    },
    /// Makes the step's directory visible in the mount namespace of the asking process, which is one of the step's tasks.
    Attach {
        /// The step.
        step: StepId,
    },
    /// Releases the leases of a job's steps, or of one step, however often the job was requeued. For administrators and for a
    /// job's epilog.
    ReleaseJob {
        /// The job's number.
        job: u32,
        /// The step's number; all of the job's steps without one.
        step: Option<u32>,
    },
    /// Returns the status.
    Status,
    /// Returns the metrics, as Prometheus reads them.
    Metrics,
}

/// The arguments of [`Request::Lease`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LeaseRequest {
    /// The step.
    pub step: StepId,
    /// The user the step runs as.
    pub uid: u32,
    /// The group the step runs as.
    pub gid: u32,
    /// The supplementary groups of the step's tasks; without them the agent asks the user database.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub groups: Option<Vec<u32>>,
    /// The image as the user wrote it.
    pub image: String,
    /// The image id it meant when the job was submitted, where the store could be read there.
    pub image_id: Option<String>,
    /// The mode.
    pub mode: Mode,
    /// The memory that the step, or else its job, may use on this node, in megabytes, if it is limited.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub memory: Option<u64>,
    /// True if the user is to be root in the container of run mode. Version 2.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub as_root: bool,
    /// The name of the container of run mode that all steps of the job share which name it. Version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// Whether that container must be new, or must be there. Version 2.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rule: Option<ContainerRule>,
}

/// The invalid user or group id (`chown(2)`).
const NO_ID: u32 = u32::MAX;

impl LeaseRequest {
    /// Returns the error in the ids or in the container's name, if any; the image's name is checked by its own grammar.
    #[must_use]
    pub fn fault(&self) -> Option<&'static str> {
        let no_id = self.uid == NO_ID || self.gid == NO_ID;
        let bad_name = self.container.as_deref().is_some_and(|name| !is_container_name(name));
        match (no_id, bad_name) {
            (true, _) => Some("invalid uid or gid (4294967295)"),
            (false, true) => Some("invalid name of a container"),
            (false, false) => None,
        }
    }
}

/// A response of the agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Response {
    /// The lease is granted.
    Granted(Grant),
    /// The step's lease is released, except for the problems named.
    Released {
        /// The problems of the release, one sentence each.
        problems: Vec<String>,
    },
    /// The leases of these steps are released, except for the problems named.
    ReleasedSteps {
        /// The steps that had a lease.
        steps: Vec<StepId>,
        /// The problems of the release, one sentence each.
        problems: Vec<String>,
    },
    /// The step's directory is visible.
    Attached,
    /// The status.
    Status(Status),
    /// The metrics.
    Metrics {
        /// Prometheus' text format.
        text: String,
    },
    /// The request is refused.
    Refused {
        /// One sentence for the user: what, why, and what to do.
        reason: String,
        /// True if the reason is in the request alone: every node with the same configuration refuses the request with this sentence.
        #[serde(default, skip_serializing_if = "std::ops::Not::not")]
        everywhere: bool,
    },
}

impl Response {
    /// A refusal whose reason is one of this node.
    #[must_use]
    pub fn refused(reason: String) -> Self {
        Self::Refused { reason, everywhere: false }
    }
}

/// The contents of a granted lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// The step's directory.
    pub directory: PathBuf,
    /// Variables that make Podman use the step store.
    pub environment: Vec<(String, String)>,
    /// A notice for the user, if something differs from what they may expect.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub notice: Option<String>,
    /// The image that the step gets; `None` for one that Podman is to pull, and from agents that do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub image: Option<GrantedImage>,
    /// The durations of the parts of the grant.
    pub timings: Timings,
}

/// The image of a granted lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GrantedImage {
    /// The image id, 64 hexadecimal digits.
    pub id: String,
    /// The manifest's digest, `sha256:` and 64 hexadecimal digits.
    pub digest: String,
}

/// Durations of the parts of a grant in microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Timings {
    /// Finding the image's record.
    pub resolve: u64,
    /// Mounting the layers that were not mounted yet.
    pub layers: u64,
    /// Writing the step store and attaching its mounts.
    pub step_store: u64,
}

/// The status of an agent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The agent's version.
    pub version: String,
    /// The steps that have a lease.
    pub steps: Vec<StepStatus>,
    /// The diffIDs of the layers that are mounted.
    pub layers: Vec<String>,
    /// The node's abilities.
    pub node: NodeStatus,
}

/// A step that has a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StepStatus {
    /// The step.
    pub step: StepId,
    /// Its user.
    pub uid: u32,
    /// Its image, as the user wrote it.
    pub image: String,
    /// The id of the image that it got, 64 hexadecimal digits; `None` for one that Podman pulls.
    #[serde(default)]
    pub image_id: Option<String>,
    /// The names of that image when the step got it.
    #[serde(default)]
    pub image_names: Vec<String>,
    /// The source of its layers; `None` for an image that Podman pulls, and from agents that do not say it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// The mode.
    pub mode: Mode,
    /// The name of the container that the step shares; for a number of [`CONTAINERS`] the container's own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
    /// The step's directory.
    pub directory: PathBuf,
    /// Time of the grant in seconds since 1970.
    pub since: u64,
}

#[cfg(test)]
mod tests;
