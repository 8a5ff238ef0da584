//! Owners that users have no ids for.
//!
//! A user's range of subordinate ids usually has 65,536 ids, as `useradd` gives them, and images are made for that. A single
//! file of a build user with an id from a directory service, 1516583083 say, is beyond any range.

use crate::path::LayerPath;
use crate::tar::entry::Meta;

/// The highest user or group id that a usual range of subordinate ids has.
pub const MAX_USUAL_ID: u32 = 65_535;

/// What becomes of owners above [`MAX_USUAL_ID`].
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Owners {
    /// They stay as they are.
    #[default]
    Keep,
    /// A user id above becomes 0, and so does a group id above, each by itself.
    Squash,
}

/// Files whose user or group id is above [`MAX_USUAL_ID`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UnusualOwners {
    /// How many entries of the layer.
    pub entries: u64,
    /// The first one's path, escaped for a terminal.
    pub path: String,
    /// The first one's user id.
    pub uid: u32,
    /// The first one's group id.
    pub gid: u32,
}

/// The owners of a layer.
#[derive(Debug, Clone, Default)]
pub(crate) struct OwnersSeen {
    what: Owners,
    pub(crate) max_uid: u32,
    pub(crate) max_gid: u32,
    /// What there was above [`MAX_USUAL_ID`], squashed or not.
    pub(crate) unusual: UnusualOwners,
}

impl OwnersSeen {
    pub(crate) fn new(what: Owners) -> Self {
        Self { what, ..Self::default() }
    }

    /// Counts an entry's owner, and changes it if it is to be.
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

    /// Counts the owner of something that is written.
    pub(crate) fn count(&mut self, meta: &Meta) {
        self.max_uid = self.max_uid.max(meta.uid);
        self.max_gid = self.max_gid.max(meta.gid);
    }

    /// Takes over what was seen of unusual owners elsewhere.
    pub(crate) fn add_unusual(&mut self, other: UnusualOwners) {
        if self.unusual.entries == 0 {
            self.unusual = other;
        } else {
            self.unusual.entries += other.entries;
        }
    }
}
