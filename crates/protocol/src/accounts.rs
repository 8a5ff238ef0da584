//! The names of a step's user and groups, which the container's `/etc/passwd` and `/etc/group` are to have.

use serde::{Deserialize, Serialize};

/// The names of a user and of their groups, from the node's user database.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Accounts {
    /// The user; none if the database does not have them.
    pub user: Option<User>,
    /// Those groups that have a name: the primary one first.
    pub groups: Vec<Group>,
}

/// An entry of `passwd(5)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// The name.
    pub name: String,
    /// The user's id.
    pub uid: u32,
    /// The id of the primary group.
    pub gid: u32,
    /// The description.
    pub gecos: String,
    /// The home directory.
    pub home: String,
    /// The shell.
    pub shell: String,
}

/// An entry of `group(5)`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The name.
    pub name: String,
    /// The id.
    pub gid: u32,
}
