//! The user of a step, and the id maps of the mounts made for them.
//!
//! Rootless Podman's user namespace maps id 0 to the user and 1… to the user's subordinate ids, in the order of their
//! numbers ([`parallax_probe::subordinate`]). `--userns=keep-id` puts a second map on top, in which the user's own id is itself
//! and the ids below and above it are the others. The maps here are the products of these: from an id on the image's file system to
//! one on the node.
//!
//! No crate serves: the maps have to be Podman's own, entry by entry, because Podman compares them.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use parallax_format::podman::IdMapEntry;
use parallax_probe::subordinate::{Listed, Source};
pub use parallax_probe::subordinate::{Subordinate, SubordinateRange};
use parallax_sys::user_namespace::{IdRange, MAX_RANGES};
use serde::{Deserialize, Serialize};

use crate::helper::Helper;

/// Subordinate user ids (`subuid(5)`).
const SUBUID: &str = "/etc/subuid";
/// Subordinate group ids (`subgid(5)`).
const SUBGID: &str = "/etc/subgid";

/// The user's properties that mounts need. Kept with the lease and in the journal: a release looks no user up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// The user's name.
    pub name: String,
    /// The user's home directory, if the user database has an absolute one.
    #[serde(default)]
    pub home: Option<PathBuf>,
    /// The user's ids.
    pub users: Ids,
    /// The user's group ids.
    pub groups: Ids,
    /// The module that the subordinate ids are from; none for the files.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subid_module: Option<String>,
}

/// One id of a user and the subordinate ids that come with it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ids {
    /// The id itself.
    pub own: u32,
    /// The subordinate ranges, by their first id.
    pub subordinate: Vec<SubordinateRange>,
}

/// The kind of a container's user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NamespaceKind {
    /// The container's root is the user: Podman's default.
    Plain,
    /// The user is themselves in the container: `--userns=keep-id`.
    KeepId,
}

impl Identity {
    /// Looks a user up in the node's databases. Ranges of subordinate ids that cannot be used are left out.
    ///
    /// # Errors
    /// One sentence for the user: unknown user, unreadable file, or no answer.
    pub fn of(helper: &Helper, uid: u32, gid: u32) -> Result<Self, String> {
        Self::look_up(helper, uid, gid).map(|(identity, _)| identity)
    }

    /// As [`Identity::of`], for a user who is to get containers: these do not start where Podman does not get the map that the files
    /// give.
    ///
    /// # Errors
    /// As [`Identity::of`], or which line of which file is at fault.
    pub fn sound(helper: &Helper, uid: u32, gid: u32) -> Result<Self, String> {
        match Self::look_up(helper, uid, gid)? {
            (identity, None) => Ok(identity),
            (identity, Some(fault)) => {
                Err(format!("the subordinate ids of the user {} cannot be used: {fault}", identity.name))
            }
        }
    }

    /// Makes the identity of a user with a known name, with the subordinate ids from the node's files.
    ///
    /// # Errors
    /// One sentence for the user: which file cannot be read.
    pub fn of_named(name: &str, uid: u32, gid: u32) -> Result<Self, String> {
        Self::with_files(name, uid, gid).map(|(identity, _)| identity)
    }

    /// Makes the identity of a user of whom only the ids are known.
    #[must_use]
    pub fn of_ids(uid: u32, gid: u32) -> Self {
        let ids = |own| Ids { own, subordinate: Vec::new() };
        Self { name: uid.to_string(), home: None, users: ids(uid), groups: ids(gid), subid_module: None }
    }

    fn look_up(helper: &Helper, uid: u32, gid: u32) -> Result<(Self, Option<String>), String> {
        let user = helper
            .user(uid)
            .map_err(|error| format!("the user with the id {uid} cannot be looked up: {error}"))?
            .ok_or_else(|| format!("this node has no user with the id {uid}"))?;
        let (mut identity, fault) = match Source::of_this_machine() {
            Source::Files => Self::with_files(&user.name, uid, gid)?,
            source @ Source::Module(_) => Self::with_module(helper, &user.name, uid, gid, source)?,
        };
        identity.home = Some(user.home).filter(|home| home.is_absolute());
        Ok((identity, fault))
    }

    fn with_files(name: &str, uid: u32, gid: u32) -> Result<(Self, Option<String>), String> {
        // subgid(5) too is by user, not by group.
        let (users, user_fault) = read_ids(Path::new(SUBUID), name, uid, uid)?;
        let (groups, group_fault) = read_ids(Path::new(SUBGID), name, uid, gid)?;
        let identity = Self { name: name.to_owned(), home: None, users, groups, subid_module: None };
        Ok((identity, user_fault.or(group_fault)))
    }

    /// Takes the subordinate ids from a module, or from the files if libsubid is not installed, as Podman does.
    fn with_module(
        helper: &Helper,
        name: &str,
        uid: u32,
        gid: u32,
        source: Source,
    ) -> Result<(Self, Option<String>), String> {
        let listed = helper
            .subordinate_ids(name, uid)
            .map_err(|error| format!("the subordinate ids of the user {name} cannot be looked up: {error}"))?;
        let Some(Listed { users, groups }) = listed else { return Self::with_files(name, uid, gid) };
        let (users, user_fault) = parse_ids(&users, &source.describe(SUBUID), name, uid, uid);
        let (groups, group_fault) = parse_ids(&groups, &source.describe(SUBGID), name, uid, gid);
        let subid_module = match source {
            Source::Files => None,
            Source::Module(module) => Some(module),
        };
        let identity = Self { name: name.to_owned(), home: None, users, groups, subid_module };
        Ok((identity, user_fault.or(group_fault)))
    }

    /// Returns the place where the subordinate ids of `file` come from, for messages.
    #[must_use]
    pub fn source_of(&self, file: &str) -> String {
        self.subid_module.clone().map_or(Source::Files, Source::Module).describe(file)
    }
}

/// Reads the subordinate ids that belong to `own`, and the fault, if a line has one.
fn read_ids(path: &Path, name: &str, uid: u32, own: u32) -> Result<(Ids, Option<String>), String> {
    let text = match fs::read_to_string(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        other => other.map_err(|error| format!("cannot read {}: {error}", path.display()))?,
    };
    Ok(parse_ids(&text, &path.display().to_string(), name, uid, own))
}

fn parse_ids(text: &str, source: &str, name: &str, uid: u32, own: u32) -> (Ids, Option<String>) {
    let Subordinate { ranges, faults } = Subordinate::parse(text, name, uid, own);
    let fault = faults.iter().find(|fault| fault.is_fatal());
    (Ids { own, subordinate: ranges }, fault.map(|fault| fault.describe(source)))
}

impl Ids {
    /// Returns the number of subordinate ids.
    #[must_use]
    pub fn subordinate_count(&self) -> u32 {
        self.subordinate.iter().fold(0, |sum, range| sum.saturating_add(range.count))
    }

    /// Returns `true` if an id on an image's file system has one on the node.
    #[must_use]
    pub fn covers(&self, kind: NamespaceKind, id: u32) -> bool {
        self.map(kind).iter().any(|range| id >= range.inside && id - range.inside < range.count)
    }

    /// Returns the map from ids on the image's file system to ids on the node.
    #[must_use]
    pub fn map(&self, kind: NamespaceKind) -> Vec<IdRange> {
        let own = |inside| IdRange { inside, outside: self.own, count: 1 };
        let mut map = match kind {
            NamespaceKind::Plain => {
                let mut map = vec![own(0)];
                map.extend(self.slice(0, u32::MAX - 1, 1));
                map
            }
            NamespaceKind::KeepId => {
                let below = self.own.min(self.subordinate_count());
                let mut map = self.slice(0, below, 0);
                map.push(own(self.own));
                map.extend(self.slice(below, u32::MAX, self.own + 1));
                map
            }
        };
        map.truncate(MAX_RANGES);
        map
    }

    /// The map of the container's namespace in the terms of Podman's, exactly as Podman writes it for
    /// `--userns=keep-id` (`getRootlessKeepIDMapping`, Podman 4.3 to 5.8): it is compared entry by entry.
    #[must_use]
    pub fn podman_keep_id_map(&self) -> Vec<IdMapEntry> {
        let total = self.subordinate_count();
        let mut map = Vec::new();
        if total > 0 && self.own != 0 {
            map.push(IdMapEntry { container_id: 0, host_id: 1, size: self.own.min(total) });
        }
        map.push(IdMapEntry { container_id: self.own, host_id: 0, size: 1 });
        if total > self.own {
            map.push(IdMapEntry { container_id: self.own + 1, host_id: self.own + 1, size: total - self.own });
        }
        map
    }

    /// Maps ids from `inside` on to the subordinate ids from number `skip` on, at most up to number `until`.
    fn slice(&self, skip: u32, until: u32, inside: u32) -> Vec<IdRange> {
        let mut number = 0_u32;
        let mut next = inside;
        let mut map = Vec::new();
        for range in &self.subordinate {
            let (first, last) = (number.max(skip), number.saturating_add(range.count).min(until));
            if first < last {
                let count = last - first;
                map.push(IdRange { inside: next, outside: range.start + (first - number), count });
                next = next.saturating_add(count);
            }
            number = number.saturating_add(range.count);
        }
        map
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(own: u32, ranges: &[(u32, u32)]) -> Ids {
        Ids { own, subordinate: ranges.iter().map(|&(start, count)| SubordinateRange { start, count }).collect() }
    }

    fn range(inside: u32, outside: u32, count: u32) -> IdRange {
        IdRange { inside, outside, count }
    }

    #[test]
    fn the_plain_map_makes_the_user_root() {
        let map = ids(1001, &[(100_000, 65_536)]).map(NamespaceKind::Plain);
        assert_eq!(map, [range(0, 1001, 1), range(1, 100_000, 65_536)]);
    }

    #[test]
    fn the_keep_id_map_leaves_the_user_in_place() {
        let map = ids(1001, &[(100_000, 65_536)]).map(NamespaceKind::KeepId);
        assert_eq!(map, [range(0, 100_000, 1001), range(1001, 1001, 1), range(1002, 101_001, 64_535)]);
    }

    #[test]
    fn ranges_are_joined_in_the_order_of_their_numbers() {
        let map = ids(5, &[(1000, 3), (2000, 10)]).map(NamespaceKind::KeepId);
        assert_eq!(map, [range(0, 1000, 3), range(3, 2000, 2), range(5, 5, 1), range(6, 2002, 8)]);
    }

    #[test]
    fn a_user_id_above_all_subordinate_ids() {
        let user = ids(200_000, &[(300_000, 65_536)]);
        assert_eq!(user.map(NamespaceKind::KeepId), [range(0, 300_000, 65_536), range(200_000, 200_000, 1)]);
        assert!(user.covers(NamespaceKind::KeepId, 65_535) && !user.covers(NamespaceKind::KeepId, 65_536));
    }

    #[test]
    fn nobody_without_subordinate_ids_covers_root_with_keep_id() {
        let user = ids(1003, &[]);
        assert!(user.covers(NamespaceKind::Plain, 0) && !user.covers(NamespaceKind::Plain, 1));
        assert!(!user.covers(NamespaceKind::KeepId, 0));
        assert_eq!(user.podman_keep_id_map(), [IdMapEntry { container_id: 1003, host_id: 0, size: 1 }]);
    }

    #[test]
    fn podmans_own_keep_id_map() {
        let entry = |container_id, host_id, size| IdMapEntry { container_id, host_id, size };
        assert_eq!(
            ids(1001, &[(100_000, 65_536)]).podman_keep_id_map(),
            [entry(0, 1, 1001), entry(1001, 0, 1), entry(1002, 1002, 64_535)]
        );
    }

    #[test]
    fn the_line_at_fault_is_named() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("subuid");
        let read = |text: &str| {
            fs::write(&path, text).unwrap();
            read_ids(&path, "u1", 1001, 1001).unwrap()
        };
        assert_eq!(read("1001:200:9\nu1:bad:1\nu1:100:5\n"), (ids(1001, &[(100, 5), (200, 9)]), None));
        let (kept, fault) = read("u1:100:5\nu1:102:5\n");
        assert_eq!(kept, ids(1001, &[(100, 5)]));
        assert_eq!(fault, Some(format!("line 2 of {} (\"u1:102:5\") overlaps line 1", path.display())));
        fs::remove_file(&path).unwrap();
        assert_eq!(read_ids(&path, "u1", 1001, 1001).unwrap(), (ids(1001, &[]), None));
    }
}
