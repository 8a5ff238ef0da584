//! `parallax doctor`.
//!
//! One file for each topic; each returns its findings as [`Check`]s and prints nothing.
//!
//! - [`check`]: a finding and its remedy.
//! - [`kernel`]: capabilities of the kernel and FUSE, found by probes.
//! - [`programs`]: Podman and its helpers.
//! - [`extensions`]: CDI devices and OCI hooks.
//! - [`users`]: user namespaces and subordinate ids.
//! - [`slurm`]: the plugin.
//! - [`agent`]: the node agent.
//! - [`squashfs`]: the tools that images are migrated with.
//! - [`stores`]: the image stores; [`squashed`]: those in which root has no rights.
//! - [`trees`]: repositories of unpacked images.
//! - [`file_systems`]: the file systems of stores, repositories, home directories and writable layers.

use std::fmt::Write as _;

use anyhow::ensure;
use parallax_config::{Agent, Config};
use parallax_probe::probe;

use crate::global::Global;
use crate::output::{print, print_json};
use crate::units;
use check::{Check, State};

mod agent;
mod check;
mod extensions;
mod file_systems;
mod kernel;
mod lazy;
mod programs;
mod slurm;
mod squashed;
mod squashfs;
mod stores;
mod trees;
mod users;

/// Options of `parallax doctor`.
#[derive(Debug, clap::Args)]
pub(crate) struct Options {
    /// User whose subordinate ids are checked [default: the calling user, unless root]
    #[arg(long, value_name = "NAME")]
    user: Option<String>,
    /// Slurm's list of SPANK plugins (plugstack.conf)
    #[arg(long, value_name = "FILE", default_value = slurm::PLUGSTACK)]
    plugstack: std::path::PathBuf,
    /// Print a JSON array with one object for each check
    #[arg(long)]
    json: bool,
}

/// Checks this machine.
///
/// # Errors
/// If there is a problem.
pub(crate) fn run(global: &Global, options: &Options) -> anyhow::Result<()> {
    let is_root = rustix::process::geteuid().is_root();
    let mut checks = Vec::new();
    let config = match Config::load(&global.config) {
        Ok(config) => {
            let path = global.config.display();
            checks.push(match config.warning() {
                None => Check::ok("configuration", format!("{path} is valid")),
                Some(warning) => Check::warning("configuration", format!("{path}: {warning}"), "remove the key"),
            });
            Some(config)
        }
        Err(error) => {
            let remedy = format!("put a valid configuration at {}", global.config.display());
            checks.push(Check::problem("configuration", error.to_string(), remedy));
            None
        }
    };
    let agent_config = config.as_ref().map_or_else(Agent::default, |config| config.agent.clone());
    let stores = config.as_ref().map_or(&[][..], |config| &config.stores);
    let is_lazy = config.as_ref().is_some_and(|config| config.lazy.enabled);
    let findings = probe(&agent_config.mount_program, is_lazy);
    let needs =
        kernel::Needs { compressors: stores::compressors(stores), erofs: stores::need_erofs(stores), lazy: is_lazy };
    checks.extend(kernel::check(&findings, agent_config.mounts, &needs, is_root));
    let run = config.as_ref().map_or_else(Default::default, |config| config.run.clone());
    checks.extend(programs::check(&run));
    checks.extend(extensions::check(&run));
    checks.extend([squashfs::check(), squashfs::check_erofs()]);
    checks.extend(users::check(options.user.as_deref(), is_root));
    checks.extend(slurm::check(&options.plugstack));
    checks.extend(agent::check(&agent_config, &findings, is_root));
    checks.extend(stores::check(stores, &agent_config, is_root));
    let repositories = config.as_ref().map_or(&[][..], |config| &config.trees.paths);
    checks.extend(trees::check(repositories, &findings));
    checks.extend(config.as_ref().into_iter().flat_map(|config| lazy::check(&config.lazy, stores, is_root)));
    checks.extend(
        config.as_ref().into_iter().flat_map(|config| file_systems::check(config, options.user.as_deref(), is_root)),
    );

    if options.json {
        print_json(&checks)?;
    } else {
        print(&table(&checks))?;
    }
    let count = |state| checks.iter().filter(|check| check.state == state).count();
    let problems = count(State::Problem);
    ensure!(problems == 0, "{} found", units::count(problems, "problem"));
    if !options.json && !global.quiet {
        let warnings = count(State::Warning);
        print(&format!("no problem found, {}\n", units::count(warnings, "warning")))?;
    }
    Ok(())
}

fn table(checks: &[Check]) -> String {
    checks.iter().fold(String::new(), |mut text, check| {
        let state = match check.state {
            State::Ok => "ok",
            State::Warning => "warning",
            State::Problem => "problem",
        };
        let _ = writeln!(text, "{state:<8} {:<14} {}", check.topic, check.finding);
        if let Some(remedy) = &check.remedy {
            let _ = writeln!(text, "{:23} -> {remedy}", "");
        }
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_line_that_is_not_ok_has_its_remedy_below() {
        let checks = [Check::ok("podman", "version 5.4.2"), Check::problem("slurm", "no plugin", "install it")];
        let expected = "ok       podman         version 5.4.2\n\
                        problem  slurm          no plugin\n                        -> install it\n";
        assert_eq!(table(&checks), expected);
        let json = serde_json::to_value(&checks[1]).unwrap();
        assert_eq!(json["state"], "problem");
    }
}
