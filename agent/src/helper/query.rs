//! The questions that the helper answers.

use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

/// The first argument of the helper.
pub(super) const HELP: &str = "--parallax-helper";
/// The helper's name in process listings, 15 characters at most.
pub(super) const NAME: &str = "parallax-helper";
/// Time limit of a look-up in the user database, the time in the queue included.
pub const LOOK_UP_TIMEOUT: Duration = Duration::from_secs(10);
/// Time limit of the trials; more than they take by themselves at most ([`parallax_probe::probe`]).
pub(super) const PROBE_TIMEOUT: Duration = Duration::from_secs(25);
/// Maximum number of groups in a question; the names of further groups are not looked up.
pub(super) const MAX_GROUPS: usize = 4096;
/// Maximum length of a question in bytes; ids of groups are the longest part of one, ten digits and a comma each.
pub(super) const MAX_QUERY: usize = 4096 + 11 * MAX_GROUPS;

/// A question to the helper.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(super) enum Query {
    /// The user with this id.
    UserById(u32),
    /// The user with this name.
    UserByName(String),
    /// The ids of all groups of a user, the given one included.
    Groups {
        /// The user's name.
        user: String,
        /// A group that the user has in any case.
        gid: u32,
    },
    /// The names of a user and of groups.
    Accounts {
        /// The user's id.
        uid: u32,
        /// The ids of the groups, the primary one first; at most [`MAX_GROUPS`].
        groups: Vec<u32>,
    },
    /// The subordinate ids of a user from the module that nsswitch.conf names.
    SubordinateIds {
        /// The user's name.
        user: String,
        /// The user's id.
        uid: u32,
    },
    /// The node's abilities, with the mount program of the configuration file.
    Probe,
}

impl Query {
    pub(super) fn timeout(&self) -> Duration {
        if *self == Self::Probe { PROBE_TIMEOUT } else { LOOK_UP_TIMEOUT }
    }

    /// Whether an answer may be used for a short time.
    pub(super) fn may_be_remembered(&self) -> bool {
        matches!(self, Self::UserById(_) | Self::Accounts { .. })
    }

    pub(super) fn what(&self) -> &'static str {
        match self {
            Self::Probe => "the trials",
            Self::SubordinateIds { .. } => "the source of subordinate ids",
            _ => "the user database",
        }
    }
}

/// An entry of the user database (`passwd(5)`).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The user's name.
    pub name: String,
    /// The user's id.
    pub uid: u32,
    /// The id of the user's primary group.
    pub gid: u32,
    /// The user's home directory.
    pub home: PathBuf,
}
