//! Hashes: digests, chain ids, and names that are derived from them.

use parallax_format::digest::{DiffId, Digest, LayerId, Sha256};
use parallax_format::podman::{BigData, Link};
use sha2::Digest as _;

/// The ids of a chain of layers, base first: chain IDs of the OCI image specification over the diffIDs.
#[must_use]
pub fn chain_ids(diff_ids: impl IntoIterator<Item = DiffId>) -> Vec<LayerId> {
    let mut chain: Vec<LayerId> = Vec::new();
    for diff_id in diff_ids {
        let next = match chain.last() {
            None => *diff_id,
            Some(below) => sha256(format!("{} {}", Digest::from(**below), Digest::from(diff_id)).as_bytes()),
        };
        chain.push(next.into());
    }
    chain
}

/// Returns the short name of the layer with this id (any text that differs between layers).
///
/// containers/storage draws short names at random; here they come from the layer's id, so that the same layer has the same
/// link in every store.
#[must_use]
pub fn link_of_layer(id: &str) -> Link {
    Link::of_hash(&sha2::Sha256::digest(id.as_bytes()).into())
}

/// Returns a piece of an image's big data.
#[must_use]
pub fn big_data<'a>(key: &'a str, bytes: &'a [u8]) -> BigData<'a> {
    BigData { key, bytes, digest: sha256(bytes).into() }
}

/// The SHA-256 of some bytes.
#[must_use]
pub fn sha256(bytes: &[u8]) -> Sha256 {
    <[u8; 32]>::from(sha2::Sha256::digest(bytes)).into()
}

/// Takes the SHA-256 of bytes that come in pieces.
#[derive(Debug, Default, Clone)]
pub struct Digester(sha2::Sha256);

impl Digester {
    /// Takes in more bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The SHA-256 of all bytes.
    #[must_use]
    pub fn finish(self) -> Sha256 {
        <[u8; 32]>::from(self.0.finalize()).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_are_stable_and_differ() {
        assert_eq!(link_of_layer("a"), link_of_layer("a"));
        assert_ne!(link_of_layer("a"), link_of_layer("b"));
        assert!(Link::try_from(link_of_layer("a").as_str().to_owned()).is_ok());
    }

    #[test]
    fn a_chain_begins_with_the_diff_id() {
        let (base, top) = (sha256(b"base"), sha256(b"top"));
        let chain = chain_ids([base.into(), top.into()]);
        assert_eq!(*chain[0], base);
        assert_eq!(*chain[1], sha256(format!("sha256:{base} sha256:{top}").as_bytes()));
    }
}
