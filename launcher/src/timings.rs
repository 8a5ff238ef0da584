//! The durations of a step's start, for users who ask for them (`--parallax-timings`).

use std::env;
use std::ffi::OsString;
use std::time::Duration;

use parallax_request::Request;
use parallax_spank_hooks::{TIMINGS_OF_STEP, text};

use crate::node_name::node_name;

/// Slurm's variable for a task's number on its node.
const LOCAL_ID: &str = "SLURM_LOCALID";

/// Prints how long this task waited for the container, or made it, and how long it took to join it. The node's first task also prints
/// what the agent did for the step.
pub(crate) fn print(request: &Request, container: Duration, join: Duration) {
    if request.timings != Some(true) {
        return;
    }
    if let (Ok("0"), Ok(step)) = (env::var(LOCAL_ID).as_deref(), env::var(text(TIMINGS_OF_STEP))) {
        eprintln!("parallax: agent of {}: {step}", node_name());
    }
    eprintln!("parallax: container {} us, join {} us", container.as_micros(), join.as_micros());
}

/// Whether a variable is for the launcher alone.
pub(crate) fn is_own(name: &OsString) -> bool {
    name == text(TIMINGS_OF_STEP)
}
