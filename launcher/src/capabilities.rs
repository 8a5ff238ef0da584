//! The capabilities of this process in the container's user namespace, for the programs that it executes.

use rustix::thread::{
    CapabilitySets, capabilities, clear_ambient_capability_set, configure_capability_in_ambient_set, set_capabilities,
};

/// Runs `body` while programs that this process executes keep its capabilities, which a user who is not root would lose.
///
/// # Errors
/// Those of the system calls.
pub(crate) fn with_capabilities<T>(body: impl FnOnce() -> T) -> std::io::Result<T> {
    let sets = capabilities(None)?;
    set_capabilities(None, CapabilitySets { inheritable: sets.permitted, ..sets })?;
    for capability in sets.permitted.iter() {
        configure_capability_in_ambient_set(capability, true)?;
    }
    let result = body();
    clear_ambient_capability_set()?;
    set_capabilities(None, sets)?;
    Ok(result)
}
