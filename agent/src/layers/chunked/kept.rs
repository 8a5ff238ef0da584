//! Descriptors of layers in chunks that systemd keeps (`FDSTORE=1`, sd_notify(3)) while the agent restarts. The worker has copies, too, so
//! they are needed if both end at the same time: the last copy of a device that is closed fails all reads of the layer.
//!
//! systemd gives them up when the unit is stopped, and those of a device when its file is used by nothing any more.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::{BorrowedFd, OwnedFd};

use parallax_sys::activation::Passed;
use sd_notify::NotifyState;

/// Beginning of the names of the descriptors.
const PREFIX: &str = "lazy-";

/// What a descriptor of a layer is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Part {
    Device,
    Slots,
    Index,
    Whole,
}

impl Part {
    const ALL: [Self; 4] = [Self::Device, Self::Slots, Self::Index, Self::Whole];

    /// Returns the name of this descriptor of a layer.
    fn name(self, mount: &str) -> String {
        let part = match self {
            Self::Device => "device",
            Self::Slots => "slots",
            Self::Index => "index",
            Self::Whole => "whole",
        };
        format!("{PREFIX}{part}-{mount}")
    }
}

/// What systemd keeps of a layer. With this value it forgets that.
#[derive(Debug)]
pub(super) struct Keeping {
    mount: String,
}

impl Keeping {
    /// Takes over what is kept of the layer of a mount; nothing needs to be.
    pub(super) fn of(mount: &str) -> Self {
        Self { mount: mount.to_owned() }
    }

    /// Has systemd keep a descriptor, unless it has it already. Does nothing without systemd.
    ///
    /// # Errors
    /// Those of the socket.
    pub(super) fn keep(&self, part: Part, descriptor: BorrowedFd<'_>) -> io::Result<()> {
        let name = part.name(&self.mount);
        sd_notify::notify_with_fds(&[NotifyState::FdStore, NotifyState::FdName(&name)], &[descriptor])
    }
}

impl Drop for Keeping {
    fn drop(&mut self) {
        for part in Part::ALL {
            forget(&part.name(&self.mount));
        }
    }
}

/// Has systemd forget a descriptor, if it has it.
fn forget(name: &str) {
    if let Err(error) = sd_notify::notify(&[NotifyState::FdStoreRemove, NotifyState::FdName(name)]) {
        tracing::warn!(name, "systemd keeps a descriptor that is not needed: {error}");
    }
}

/// The descriptors of a layer that systemd kept.
#[derive(Debug)]
pub(in crate::layers) struct KeptLayer {
    pub(super) device: OwnedFd,
    pub(super) slots: OwnedFd,
    pub(super) index: File,
    pub(super) whole: Option<File>,
}

/// The descriptors that systemd kept of layers in chunks, by name. With this value it forgets those that were not taken.
#[derive(Debug, Default)]
pub struct KeptLayers(HashMap<String, OwnedFd>);

impl KeptLayers {
    /// Tells them from the sockets, which are returned in their order.
    #[must_use]
    pub fn of(passed: Vec<Passed>) -> (Vec<OwnedFd>, Self) {
        let (kept, sockets): (Vec<Passed>, _) = passed.into_iter().partition(|passed| passed.name.starts_with(PREFIX));
        let kept = kept.into_iter().map(|passed| (passed.name, passed.descriptor)).collect();
        (sockets.into_iter().map(|passed| passed.descriptor).collect(), Self(kept))
    }

    /// Takes those of the layer of a mount; `None` unless all that are needed are there.
    pub(in crate::layers) fn take(&mut self, mount: &str) -> Option<KeptLayer> {
        let [device, slots, index, whole] = Part::ALL.map(|part| self.0.remove(&part.name(mount)));
        Some(KeptLayer { device: device?, slots: slots?, index: index?.into(), whole: whole.map(File::from) })
    }
}

impl Drop for KeptLayers {
    fn drop(&mut self) {
        for name in self.0.keys() {
            forget(name);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn passed(name: &str) -> Passed {
        Passed { name: name.to_owned(), descriptor: File::open("/dev/null").unwrap().into() }
    }

    #[test]
    fn descriptors_of_layers_are_told_from_sockets_and_complete() {
        let names =
            ["parallax-agent.socket", "lazy-device-a.1", "lazy-index-a.1", "lazy-slots-a.1", "", "lazy-device-b.2"];
        let (sockets, mut kept) = KeptLayers::of(names.map(passed).into());
        assert_eq!((sockets.len(), kept.0.len()), (2, 4));
        assert!(kept.take("b.2").is_none());
        assert!(kept.take("a.1").is_some_and(|layer| layer.whole.is_none()));
        assert!(kept.take("a.1").is_none());
        assert!(kept.0.is_empty());
    }
}
