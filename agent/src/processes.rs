//! The step's processes that Slurm does not know: Podman's pause process, conmon, containers.
//!
//! A process belongs to a step if its environment, its command line or its root file system names the step's directory,
//! whose name no other step ever has, and if it is in the step's job ([`membership`]); or if it descends from such a process.
//! The user controls all of these facts but the control group and the ancestors, so only processes of the user's own ids are
//! inspected: users can end no processes but their own.

mod end;
mod evidence;
pub mod membership;
mod owner;

pub use self::end::{end, find};
pub use self::evidence::control_group_of_owner;
pub use self::owner::of;
