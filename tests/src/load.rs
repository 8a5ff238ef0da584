//! How large the tests' fixed loads are: small in `make test`, large in `make soak`, which sets `PARALLAX_TEST_LOAD=large`.

use anyhow::bail;

/// Variable that says how large the fixed loads are: `small` (the default) or `large`.
pub const VARIABLE: &str = "PARALLAX_TEST_LOAD";

/// A load's size: `small` or `large`, as [`VARIABLE`] says.
///
/// # Errors
/// The variable has another value.
pub fn size<T>(small: T, large: T) -> anyhow::Result<T> {
    match std::env::var(VARIABLE).as_deref() {
        Err(std::env::VarError::NotPresent) | Ok("small") => Ok(small),
        Ok("large") => Ok(large),
        other => bail!("{VARIABLE} is neither \"small\" nor \"large\": {other:?}"),
    }
}
