//! The causes of a lease's end.

use std::fmt;

/// The cause of a lease's end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cause {
    /// The step's slurmstepd asked for the release.
    Asked,
    /// The connection ended.
    Connection,
    /// The step's slurmstepd ended.
    Process,
    /// An administrator or a job's epilog asked for the release.
    Command,
    /// The agent was restarted and the lease's slurmstepd was gone.
    Restart,
}

impl Cause {
    /// All causes.
    pub const ALL: [Self; 5] = [Self::Asked, Self::Connection, Self::Process, Self::Command, Self::Restart];

    /// The name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Asked => "asked",
            Self::Connection => "connection",
            Self::Process => "process",
            Self::Command => "command",
            Self::Restart => "restart",
        }
    }
}

impl fmt::Display for Cause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
