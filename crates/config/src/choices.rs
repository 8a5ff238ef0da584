//! How steps get images: the backend for mounts, verification, and images that no store has.

use serde::{Deserialize, Serialize};

use crate::keys::{Described, Shape, choices};

choices! {
    /// How the layers of images are mounted (`agent.mounts`).
    Mounts default Auto {
        /// By the kernel if the node supports it and the store's owner is trusted, else by FUSE.
        Auto = "auto";
        /// By the kernel only. On a node without support, or if the store's owner is not trusted, the step is refused.
        Native = "native";
        /// By FUSE only, in processes of the step's user.
        Fuse = "fuse";
    }
}

choices! {
    /// How the kernel reads the files of layers (`agent.layer_reads`).
    LayerReads default Buffered {
        /// By the page cache, with readahead. The kernel keeps what it has read of a file in memory for the next step, beside the unpacked
        /// files, and drops it when memory is short.
        Buffered = "buffered";
        /// Past the page cache, for nodes that need the memory: nothing is kept of a file but its unpacked files.
        Direct = "direct";
    }
}

choices! {
    /// When a SquashFS file is compared with the SHA-256 recorded at its migration (`agent.verify`).
    Verify default Off {
        /// Never.
        Off = "off";
        /// At its first mount on the node after the agent's start, and again if the file has changed.
        First = "first";
        /// At every new mount. A step that shares an existing mount makes no new one.
        Always = "always";
    }
}

choices! {
    /// What happens to a step whose image is in no store (`step.on_missing`).
    OnMissing default Error {
        /// The step fails with an error message.
        Error = "error";
        /// Podman pulls the image in the step, on each node separately, into the step's own storage, and the step prints a line on
        /// standard error. Nothing is pulled for a user who may not read one of the stores. The pull counts as part of
        /// `step.start_timeout` and needs space within `step.scratch_size`.
        Pull = "pull";
    }
}

choices! {
    /// What the containers of `run` mode have as `/tmp` (`run.tmp`).
    Tmp default Node {
        /// The node's directory, or that of the job where Slurm gives each job one.
        Node = "node";
        /// An empty directory beside the step's writable layer that ends with the container.
        Step = "step";
    }
}

/// What happens to a step whose store or repository is not there, or does not respond (`step.on_unreachable`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize, Serialize)]
#[serde(try_from = "String", into = "String")]
pub enum OnUnreachable {
    /// The step is refused.
    #[default]
    Error,
    /// Podman pulls the image.
    Pull,
    /// The step waits for it, for so many seconds.
    Wait(u32),
}

impl OnUnreachable {
    const WAIT: &str = "wait:";

    /// Refuses a wait that is not shorter than a step's timeout, in seconds.
    pub(crate) fn check(self, start_timeout: u32) -> Result<(), String> {
        match self {
            Self::Wait(seconds) if !(1..start_timeout).contains(&seconds) => Err(format!(
                "invalid \"step.on_unreachable\": {seconds} is not from 1 to {} seconds, less than \"step.start_timeout\"",
                start_timeout - 1
            )),
            _ => Ok(()),
        }
    }
}

impl TryFrom<String> for OnUnreachable {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let seconds = || text.strip_prefix(Self::WAIT)?.parse().ok();
        match text.as_str() {
            "error" => Ok(Self::Error),
            "pull" => Ok(Self::Pull),
            _ => seconds().map(Self::Wait).ok_or_else(|| format!("\"{text}\" is not error, pull or wait:SECONDS")),
        }
    }
}

impl From<OnUnreachable> for String {
    fn from(value: OnUnreachable) -> Self {
        match value {
            OnUnreachable::Error => "error".to_owned(),
            OnUnreachable::Pull => "pull".to_owned(),
            OnUnreachable::Wait(seconds) => format!("{}{seconds}", OnUnreachable::WAIT),
        }
    }
}

impl Described for OnUnreachable {
    const SHAPE: Shape = Shape { kind: "error, pull or wait:SECONDS", choices: &[], list: false };
}

/// An owner of stores that the kernel may read (`agent.trusted_owners`): a name, or a number.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum Owner {
    /// The user's id.
    Id(u32),
    /// The user's name on the node.
    Name(String),
}

impl Described for Owner {
    const SHAPE: Shape = Shape { kind: "user name or id", choices: &[], list: false };
}

/// Returns `true` for a size in the format of tmpfs(5).
pub(crate) fn is_tmpfs_size(text: &str) -> bool {
    let digits = text.strip_suffix(['k', 'm', 'g', 'K', 'M', 'G', '%']).unwrap_or(text);
    !digits.is_empty() && digits.len() <= 15 && digits.bytes().all(|b| b.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_are_shorter_than_the_steps_timeout() {
        let parsed = |text: &str| OnUnreachable::try_from(text.to_owned());
        for text in ["error", "pull", "wait:30"] {
            assert_eq!(String::from(parsed(text).unwrap()), text);
        }
        for text in ["", "wait", "wait:", "wait:-1", "wait:1.5", "Error"] {
            assert!(parsed(text).unwrap_err().contains("wait:SECONDS"), "{text}");
        }
        let fits = |seconds| OnUnreachable::Wait(seconds).check(60).is_ok();
        assert_eq!([0, 1, 59, 60].map(fits), [false, true, true, false]);
    }
}
