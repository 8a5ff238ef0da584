//! The agent's restrictions of itself: a few capabilities, and the system calls that it makes.
//!
//! The agent restricts itself before it does anything else, so that it is as restricted without systemd as with it, and so that every
//! test of the agent tests the restrictions. A call that is not on the list fails with `EPERM` and is logged; nothing is killed for
//! it. The lists were made from the code and tried by the cluster's tests, which fail if a call is denied; what
//! look-ups of users need is not on them: the helper does these ([`crate::helper`]).

use std::io;

use rustix::thread::{
    CapabilitySet, CapabilitySets, capability_is_in_bounding_set, remove_capability_from_bounding_set, set_no_new_privs,
};

// Those for which seccompiler makes filters. Elsewhere the agent keeps all system calls, and logs so.
#[cfg(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64"))]
mod filter;
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64", target_arch = "riscv64")))]
#[path = "restrict/no_filter.rs"]
mod filter;
#[cfg(test)]
mod no_filter;

/// True if system calls can be filtered on machines of this architecture.
pub const FILTERS: bool = filter::SUPPORTED;

/// An error of the agent's restrictions.
#[derive(Debug, thiserror::Error)]
pub enum RestrictError {
    /// Capabilities cannot be given up.
    #[error("cannot drop capabilities: {0}")]
    Capabilities(io::Error),
    /// System calls cannot be filtered.
    #[error("cannot filter system calls: {0}")]
    Calls(String),
}

/// The capabilities that the agent keeps, and what for.
pub const CAPABILITIES: CapabilitySet = CapabilitySet::SYS_ADMIN // mounts, id maps of mounts, loop devices, setns
    .union(CapabilitySet::SYS_CHROOT) // setns of a mount namespace
    .union(CapabilitySet::SYS_PTRACE) // /proc/PID/environ, root and ns of users' processes
    .union(CapabilitySet::KILL) // ending them
    .union(CapabilitySet::SETUID) // user namespaces that belong to users, and their maps
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETFCAP) // a map with root in it (Linux 5.12)
    .union(CapabilitySet::CHOWN) // a step's directory becomes the user's
    .union(CapabilitySet::DAC_READ_SEARCH); // stores of an account whose files others cannot read

/// Drops all other capabilities and system calls, for this process and its children, irrevocably. To be called while there is one
/// thread only.
///
/// # Errors
/// [`RestrictError`].
pub fn apply() -> Result<(), RestrictError> {
    keep_capabilities().map_err(RestrictError::Capabilities)?;
    set_no_new_privs(true).map_err(|error| RestrictError::Capabilities(error.into()))?;
    filter::apply().map_err(RestrictError::Calls)
}

fn keep_capabilities() -> io::Result<()> {
    for capability in CapabilitySet::all().difference(CAPABILITIES).iter() {
        // A kernel older than the capability does not know it, and whoever does not have CAP_SETPCAP was restricted before.
        if capability_is_in_bounding_set(capability).unwrap_or(false) {
            remove_capability_from_bounding_set(capability)?;
        }
    }
    let has = rustix::thread::capabilities(None)?;
    let kept = CapabilitySets {
        effective: has.effective.intersection(CAPABILITIES),
        permitted: has.permitted.intersection(CAPABILITIES),
        inheritable: CapabilitySet::empty(),
    };
    Ok(rustix::thread::set_capabilities(None, kept)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_agent_without_a_filter_starts() {
        let here = ["x86_64", "aarch64", "riscv64"].contains(&std::env::consts::ARCH);
        assert_eq!((FILTERS, no_filter::SUPPORTED), (here, false));
        assert_eq!(no_filter::apply(), Ok(()));
    }
}
