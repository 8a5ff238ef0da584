//! No filter, for other architectures: nothing is denied.

/// There are no filters for this architecture.
pub(super) const SUPPORTED: bool = false;

/// Denies nothing.
///
/// # Errors
/// None.
#[allow(clippy::unnecessary_wraps, reason = "as where there are filters")]
pub(super) fn apply() -> Result<(), String> {
    Ok(())
}
