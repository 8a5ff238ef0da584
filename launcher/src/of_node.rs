//! What a node adds to a container beside paths: its devices and the site's hooks, and the user's groups there.

use parallax_cdi::Specifications;
use parallax_format::device::{DeviceName, WantedDevice};
use parallax_protocol::step_file::StepFile;
use parallax_request::Request;

use crate::devices::{self, Devices, Node};
use crate::hooks::{self, HookFiles};
use crate::node_name::node_name;

/// What the node adds.
#[derive(Debug)]
pub(crate) struct OfNode {
    /// The devices of the site and of the user.
    pub devices: Devices,
    /// The site's hooks.
    pub hook_files: HookFiles,
    /// The user's groups.
    pub groups: Vec<u32>,
}

impl OfNode {
    /// Reads the node's specifications and hooks, and resolves the devices.
    ///
    /// # Errors
    /// A message for the user.
    pub(crate) fn read(step: &StepFile, request: &Request) -> Result<Self, String> {
        let groups = rustix::process::getgroups().unwrap_or_default().into_iter().map(rustix::fs::Gid::as_raw);
        let groups: Vec<u32> = groups.chain([rustix::process::getgid().as_raw()]).collect();
        let wanted: Vec<WantedDevice> = step.devices.iter().chain(&request.devices).cloned().collect();
        let names_specification = wanted.iter().any(|device| matches!(device.name, DeviceName::Cdi(_)));
        let directories = if names_specification { step.cdi_directories.as_slice() } else { &[] };
        let node = Node {
            name: &node_name(),
            groups: &groups,
            matching: &devices::matching,
            exists: &std::path::Path::exists,
        };
        let devices = devices::resolve(&wanted, &Specifications::read(directories), &node)?;
        Ok(Self { devices, hook_files: hooks::read(&step.hook_directories)?, groups })
    }
}
