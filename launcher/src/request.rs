//! What the user asks for beside the image, as the plugin hands it on.

use std::ffi::OsString;

use parallax_format::oci::Execution;
use parallax_protocol::step_file::StepFile;
use parallax_request::Request;
use parallax_spank_hooks::{REQUEST, text};

/// What the task that makes the container asks for.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Asked<'a> {
    /// Its options.
    pub request: &'a Request,
    /// Its command, without the image's entry point.
    pub command: &'a [OsString],
}

/// Reads the step's request from the environment.
///
/// # Errors
/// A message for the user: the variable is malformed, because the user or a prolog changed it.
pub(crate) fn of_step() -> Result<Request, String> {
    match std::env::var(text(REQUEST)) {
        Ok(value) => Request::from_variable(&value).map_err(|error| format!("{}: {error}", text(REQUEST))),
        Err(_) => Ok(Request::default()),
    }
}

/// Puts the settings of a pulled image, which the agent does not know, into a step's parameters.
pub(crate) fn put_execution(step: &mut StepFile, execution: Execution) {
    step.working_directory = execution.directory();
    step.environment = execution.environment.unwrap_or_default();
    step.entrypoint = execution.entrypoint.unwrap_or_default();
}

/// Returns the command with the image's entry point before it, if the user asks for that.
pub(crate) fn with_entrypoint(request: &Request, step: &StepFile, command: &[OsString]) -> Vec<OsString> {
    let entrypoint = if request.entrypoint == Some(true) { step.entrypoint.as_slice() } else { &[] };
    entrypoint.iter().map(OsString::from).chain(command.iter().cloned()).collect()
}
