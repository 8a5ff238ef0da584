//! The request of the job that this process belongs to.

use std::sync::OnceLock;

use parallax_request::Request;
use parallax_spank_hooks::{self as names, PIN};

/// The variable by which a request travels.
pub(crate) const VARIABLE: &str = names::text(names::REQUEST);

/// The request of the job that this process belongs to, as it was when the program started; `None` without a job that has an image.
pub(crate) fn of_job() -> Option<&'static Result<Request, String>> {
    static JOB: OnceLock<Option<Result<Request, String>>> = OnceLock::new();
    let read = || {
        std::env::var_os(names::text(PIN))?;
        Some(match std::env::var(VARIABLE) {
            Ok(value) => Request::from_variable(&value).map_err(|error| format!("{VARIABLE}: {error}")),
            Err(_) => Ok(Request::default()),
        })
    };
    JOB.get_or_init(read).as_ref()
}
