//! A step's directory and what it is made of.
//!
//! - [`store`]: the metadata by which Podman finds the image (pure).
//! - [`directory`]: the directory with the mounts in it.
//! - [`scratch`]: the size of the step's tmpfs.
//! - [`disk`]: the writable layers that are on a disk of the node.
//! - [`user_namespaces`]: the user namespaces that the steps of a user share.
//! - [`job_namespace`]: the mount namespaces that Slurm makes for jobs.

pub mod directory;
pub mod disk;
pub mod job_namespace;
pub mod scratch;
pub mod store;
pub mod user_namespaces;

pub use self::directory::{StepDirectory, StepError, StepPlan};
pub use self::store::{Form, StepStore};
