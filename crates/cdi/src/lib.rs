//! The Container Device Interface (CDI): specifications of devices, as vendors' tools write them, and what a device changes in a
//! container.
//!
//! - [`Specification`]: one file, JSON or YAML, of version 0.3.0 to 1.1.0.
//! - [`Devices`]: all devices of a node, by their names.
//! - [`Edits`]: what a device changes.
//! - [`Specifications`]: those of some directories. The only part that reads anything.

mod devices;
mod directories;
mod edits;
mod error;
mod specification;
mod yaml;

pub use devices::{Devices, Unknown};
pub use directories::Specifications;
pub use edits::{DeviceNode, Edits, Mount};
pub use error::SpecificationError;
pub use specification::{Format, Specification};
