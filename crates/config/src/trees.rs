//! The section of images that lie unpacked in directories.

use std::path::PathBuf;

use crate::keys::section;

section! {
    /// Images that lie unpacked in directories of the node, such as on CVMFS. Nothing is written there, and the user's own rights decide.
    "trees" Trees {
        /// Roots of repositories in DUCC's layout, absolute paths, searched in this order for images that no store has.
        paths: Vec<PathBuf> = Vec::new(), example "[\"/cvmfs/unpacked.example.org\"]";
    }
}
