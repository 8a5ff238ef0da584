//! The user namespace of a container, by what its user is in it.

use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::RequestError;

/// What the user is in the container.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Userns {
    /// Themselves: the id is the same inside and outside.
    KeepId,
    /// Root, over the files of the image and over the user's subordinate ids.
    Root,
}

impl FromStr for Userns {
    type Err = RequestError;

    fn from_str(text: &str) -> Result<Self, RequestError> {
        match text {
            "keep-id" => Ok(Self::KeepId),
            "root" => Ok(Self::Root),
            other => Err(RequestError::Userns(other.to_owned())),
        }
    }
}
