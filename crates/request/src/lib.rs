//! What a user asks for beside the image: mounts, variables, devices, the working directory, and how the root directory is shown.
//!
//! The plugin parses the options where they are typed, so that errors appear there, and hands the request on in a variable
//! ([`Request::to_variable`]); the launcher reads it in the task. Nothing here does I/O: whether a path exists is known on the
//! node only.

mod annotation;
mod device;
mod error;
mod list;
mod mount;
mod options;
mod request;
mod site;
mod userns;
mod variable;

pub use error::RequestError;
pub use mount::{Mount, MountSource};
pub use options::{is_of_request, options, value_of_variable, variable_of};
pub use request::Request;
pub use site::option_of_site;
pub use userns::Userns;
pub use variable::Variable;
