//! Refusals of leases: a message for the user, and who can remove the reason.

/// The kind of a refusal: who can remove the reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RefusalKind {
    /// The user, by another request: an unknown image, a store without access.
    User,
    /// The administrator: a store, node or user database that is not in order.
    Administrator,
    /// Time: the agent has reached a limit; a retry helps.
    Busy,
}

impl RefusalKind {
    /// All kinds.
    pub const ALL: [Self; 3] = [Self::User, Self::Administrator, Self::Busy];

    /// The name in logs and metrics.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::User => "user",
            Self::Administrator => "administrator",
            Self::Busy => "busy",
        }
    }
}

/// A refused request: one sentence for the user, its kind, and where it holds.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The kind.
    pub kind: RefusalKind,
    /// One sentence for the user, with what to do.
    pub message: String,
    /// True if the reason is in the request alone, so that all nodes of a step say the same.
    pub everywhere: bool,
}

impl Refusal {
    /// Makes a refusal whose reason the user can remove. The message says how.
    pub fn user(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::User, message: message.into(), everywhere: false }
    }

    /// Makes a refusal of a request that no node can grant. The message says how the user can change it.
    pub fn request(message: impl Into<String>) -> Self {
        Self { everywhere: true, ..Self::user(message) }
    }

    /// Makes a refusal whose reason only the administrator can remove. The message says what to ask the administrator for.
    pub fn administrator(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Administrator, message: message.into(), everywhere: false }
    }

    /// Makes a refusal because of a limit of the agent. The message asks for a retry.
    pub fn busy(message: impl Into<String>) -> Self {
        Self { kind: RefusalKind::Busy, message: message.into(), everywhere: false }
    }
}

/// Makes a refusal for the administrator from a reason alone: the message tells the user to report it.
pub(crate) fn refused(reason: &str) -> Refusal {
    Refusal::administrator(format!("{reason}; tell the administrator"))
}

/// The refusal of a step for a container that is not there.
pub(super) fn no_container(name: &str) -> Refusal {
    Refusal::user(format!(
        "this job has no container \"{name}\" on this node; a step that names its image makes it \
         (--parallax-image=IMAGE --parallax-name={name})"
    ))
}
