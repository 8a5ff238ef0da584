//! What hooks are told of the step's container, and when they run.

use std::ffi::OsString;

use parallax_oci_hooks::{BundleMount, Container};
use parallax_request::{Mount, MountSource};
use rustix::fs::Mode;
use rustix::process::umask;

use crate::environment;
use crate::hooks;
use crate::making::{Making, root_directory};
use crate::of_node::OfNode;
use crate::plan::Plan;
use crate::request::with_entrypoint;

/// Runs the hooks of a container whose root directory is complete.
///
/// # Errors
/// As [`hooks::run`].
pub(crate) fn prepare(
    making: &Making<'_>,
    of_node: &OfNode,
    plan: &Plan,
    report: impl FnMut(&str),
) -> Result<(), String> {
    if of_node.hook_files.is_empty() && of_node.devices.hooks.is_empty() {
        return Ok(());
    }
    let Making { paths, step, asked, deadline, .. } = making;
    let lossy = |word: &OsString| word.to_string_lossy().into_owned();
    let arguments: Vec<String> = with_entrypoint(asked.request, step, asked.command).iter().map(lossy).collect();
    let of_devices = &of_node.devices.environment;
    let rules = environment::rules(&step.environment, of_devices, &asked.request.variables);
    let variables = environment::apply(&rules, std::env::vars_os());
    let entries: Vec<String> =
        variables.iter().map(|(name, value)| format!("{}={}", lossy(name), lossy(value))).collect();
    let directory = asked.request.working_directory.as_ref().or(step.working_directory.as_ref());
    let own_mount = |mount: &Mount| mount.source.path().is_some();
    let (bundle, root, system) = (hooks::bundle(paths), root_directory(paths), rustix::system::uname());
    let container = Container {
        id: &paths.directory().file_name().map_or_else(String::new, |name| name.to_string_lossy().into_owned()),
        pid: i32::try_from(std::process::id()).unwrap_or_default(),
        bundle: &bundle.to_string_lossy(),
        root: &root.to_string_lossy(),
        read_only: plan.read_only,
        hostname: &system.nodename().to_string_lossy(),
        arguments: &arguments,
        environment: &entries,
        working_directory: &directory.map_or_else(|| "/".to_owned(), |path| path.to_string_lossy().into_owned()),
        uid: rustix::process::getuid().as_raw(),
        gid: rustix::process::getgid().as_raw(),
        groups: &of_node.groups,
        annotations: &asked.request.annotations,
        has_bind_mounts: asked.request.mounts.iter().any(own_mount),
        mounts: &described(&plan.mounts),
        devices: &of_node.devices.described(),
    };
    let hooks = hooks::select(&of_node.hook_files, &of_node.devices.hooks, &container);
    // Files that hooks make have the usual permissions.
    let mask = umask(Mode::WGRP | Mode::WOTH);
    let result = hooks::run(&hooks, &container, paths, *deadline, report);
    umask(mask);
    result
}

/// The mounts as `config.json` has them.
fn described(mounts: &[Mount]) -> Vec<BundleMount> {
    let describe = |mount: &Mount| {
        let (kind, source) = match &mount.source {
            MountSource::Path(path) => ("bind", path.display().to_string()),
            MountSource::Squashfs(file) => ("squashfs", file.display().to_string()),
            MountSource::Tmpfs => ("tmpfs", "tmpfs".to_owned()),
        };
        let binding = (kind == "bind").then_some("rbind");
        let propagation = (kind == "bind").then_some(if mount.private { "rprivate" } else { "rslave" });
        let access = Some(if mount.read_only { "ro" } else { "rw" });
        let options = [binding, propagation, access].into_iter().flatten().collect();
        BundleMount { destination: mount.target.display().to_string(), kind, source, options }
    };
    mounts.iter().map(describe).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mounts_are_described_as_mount_knows_them() {
        let mount =
            |source, read_only, private| Mount { source, target: "/t".into(), read_only, private, optional: false };
        let mounts = [
            mount(MountSource::Path("/a".into()), true, false),
            mount(MountSource::Path("/b".into()), false, true),
            mount(MountSource::Tmpfs, false, false),
        ];
        let described = described(&mounts);
        let options: Vec<String> = described.iter().map(|mount| mount.options.join(",")).collect();
        assert_eq!(options, ["rbind,rslave,ro", "rbind,rprivate,rw", "rw"]);
        let sources: Vec<&str> = described.iter().map(|mount| mount.source.as_str()).collect();
        assert_eq!(sources, ["/a", "/b", "tmpfs"]);
    }
}
