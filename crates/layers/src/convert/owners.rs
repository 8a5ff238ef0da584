//! Owners for which users have no ids.
//!
//! A user's range of subordinate ids usually has 65,536 ids, the default of `useradd`, and images are made for that. A single
//! file of a build user with an id from a directory service, such as 1516583083, exceeds any range.

use crate::path::LayerPath;
use crate::tar::entry::Meta;

/// The highest user or group id of a usual range of subordinate ids.
pub const MAX_USUAL_ID: u32 = 65_535;

/// The treatment of owners above [`MAX_USUAL_ID`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owners {
    /// Unchanged.
    #[default]
    Keep,
    /// User and group ids above become 0, independently of each other.
    Squash,
}

/// Files whose user or group id is above [`MAX_USUAL_ID`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnusualOwners {
    /// The number of entries.
    pub entries: u64,
    /// The first entry's path, escaped for a terminal.
    pub path: String,
    /// The first entry's user id.
    pub uid: u32,
    /// The first entry's group id.
    pub gid: u32,
}

/// The owners of a layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnersSeen {
    what: Owners,
    pub(crate) max_uid: u32,
    pub(crate) max_gid: u32,
    /// Owners above [`MAX_USUAL_ID`], squashed or not.
    pub(crate) unusual: UnusualOwners,
}

impl OwnersSeen {
    pub(crate) fn new(what: Owners) -> Self {
        Self { what, ..Self::default() }
    }

    /// Counts an entry's owner, and squashes it if wanted.
    pub(crate) fn take_in(&mut self, path: &LayerPath, meta: &mut Meta) {
        if meta.uid > MAX_USUAL_ID || meta.gid > MAX_USUAL_ID {
            if self.unusual.entries == 0 {
                let (uid, gid) = (meta.uid, meta.gid);
                self.unusual = UnusualOwners { entries: 0, path: path.to_string(), uid, gid };
            }
            self.unusual.entries += 1;
            if self.what == Owners::Squash {
                for id in [&mut meta.uid, &mut meta.gid] {
                    *id = if *id > MAX_USUAL_ID { 0 } else { *id };
                }
            }
        }
        self.count(meta);
    }

    /// Counts the owner of a written entry.
    pub(crate) fn count(&mut self, meta: &Meta) {
        self.max_uid = self.max_uid.max(meta.uid);
        self.max_gid = self.max_gid.max(meta.gid);
    }

    /// Adds the unusual owners of another pass.
    pub(crate) fn add_unusual(&mut self, other: UnusualOwners) {
        if self.unusual.entries == 0 {
            self.unusual = other;
        } else {
            self.unusual.entries += other.entries;
        }
    }
}
