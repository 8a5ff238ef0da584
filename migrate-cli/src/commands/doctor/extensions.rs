//! CDI devices and OCI hooks.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use parallax_cdi::Specifications;
use parallax_config::Run;
use parallax_format::device::DeviceName;
use parallax_oci_hooks::{Hook, Stage, read_hooks};

use super::check::Check;

const DEVICES: &str = "devices";
const HOOKS: &str = "hooks";
/// What to do about a hook that does not run.
const MOVE: &str = "use a hook of the stage createRuntime or createContainer";

/// Checks the specifications and hooks that the configuration names.
pub(super) fn check(config: &Run) -> Vec<Check> {
    let mut checks = devices(config, &Specifications::read(&config.cdi_directories));
    checks.extend(hooks(&config.hook_directories));
    checks
}

fn devices(config: &Run, specifications: &Specifications) -> Vec<Check> {
    let mut checks: Vec<Check> = specifications
        .unusable
        .iter()
        .map(|(path, error)| {
            let finding = format!("{} cannot be used: {error}", path.display());
            Check::warning(DEVICES, finding, "correct the file, or have the vendor's tool write it anew")
        })
        .collect();
    let conflicts = specifications.devices.conflicts();
    checks.extend(conflicts.map(|conflict| Check::warning(DEVICES, conflict.to_string(), "remove one of them")));
    let idle: BTreeSet<String> = specifications
        .devices
        .hooks()
        .filter(|hook| !hook.stage.runs())
        .map(|hook| does_not_run(&hook.hook, &[hook.stage], &hook.origin.display().to_string()))
        .collect();
    checks.extend(idle.into_iter().map(|finding| Check::warning(DEVICES, finding, MOVE)));
    for device in config.devices.iter().filter(|device| !device.optional) {
        if let DeviceName::Cdi(name) = &device.name {
            if let Err(error) = specifications.devices.edits(std::slice::from_ref(name)) {
                let finding = format!("run.devices: {error}; steps with an image fail here");
                checks.push(Check::warning(DEVICES, finding, format!("add the device, or write \"?{name}\"")));
            }
        }
    }
    if checks.is_empty() {
        let names: Vec<String> = specifications.devices.names().map(ToString::to_string).collect();
        let names = if names.is_empty() { "none".to_owned() } else { names.join(", ") };
        checks.push(Check::ok(DEVICES, format!("CDI devices: {names}")));
    }
    checks
}

fn does_not_run(hook: &Hook, stages: &[Stage], origin: &str) -> String {
    let stages: Vec<&str> = stages.iter().map(|stage| stage.name()).collect();
    format!("the hook {} of {origin} does not run at {}", hook.path.display(), stages.join(", "))
}

fn hooks(directories: &[PathBuf]) -> Vec<Check> {
    let unusable = |path: &Path, reason: &str| {
        let finding = format!("{} cannot be used: {reason}; steps with an image fail here", path.display());
        Check::problem(HOOKS, finding, "correct or remove it")
    };
    let (mut checks, mut count) = (Vec::new(), 0);
    for read in read_hooks(directories) {
        match read {
            Err(error) => checks.push(unusable(&error.path, &error.reason)),
            Ok((path, file)) if !file.hook().path.exists() => {
                checks.push(unusable(&path, &format!("there is no {}", file.hook().path.display())));
            }
            Ok((path, file)) => {
                count += 1;
                let idle: Vec<Stage> = file.stages().iter().copied().filter(|stage| !stage.runs()).collect();
                if !idle.is_empty() {
                    let finding = does_not_run(file.hook(), &idle, &path.display().to_string());
                    checks.push(Check::warning(HOOKS, finding, MOVE));
                }
            }
        }
    }
    if checks.is_empty() && !directories.is_empty() {
        checks.push(Check::ok(HOOKS, format!("{count} in run.hook_directories")));
    }
    checks
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::MetadataExt as _;

    use super::super::check::State;
    use super::*;

    #[test]
    fn devices_are_listed_and_those_of_the_site_looked_for() {
        let findings = |devices: &str| {
            let text = format!("stores = [\"/s\"]\n[run]\ncdi_directories = []\ndevices = [{devices}]\n");
            check(&parallax_config::Config::parse(&text).unwrap().run)
        };
        assert_eq!(findings("\"?a/b=c\", \"/dev/null\""), [Check::ok(DEVICES, "CDI devices: none")]);
        let missing = findings("\"a/b=c\"");
        assert_eq!(missing[0].state, State::Warning);
        assert!(missing[0].finding.contains("there is no device \"a/b=c\""), "{missing:?}");
    }

    #[test]
    fn hooks_that_do_not_run_and_files_that_fail_steps_are_named() {
        let directory = tempfile::tempdir().unwrap();
        let write = |name: &str, path: &str, stages: &str| {
            let text = format!(
                r#"{{"version":"1.0.0","hook":{{"path":"{path}"}},"when":{{"always":true}},"stages":[{stages}]}}"#
            );
            fs::write(directory.path().join(name), text).unwrap();
        };
        write("a.json", "/bin/sh", r#""prestart","poststop","poststart""#);
        write("b.json", "/nonexistent/hook", r#""prestart""#);
        write("c.json", "/bin/sh", r#""start""#);
        let of_root = fs::metadata(directory.path()).unwrap().uid() == 0;
        let checks = hooks(&[directory.path().to_owned()]);
        let has = |state, part: &str| checks.iter().any(|check| check.state == state && check.finding.contains(part));
        if of_root {
            assert!(has(State::Warning, "does not run at poststop, poststart"), "{checks:?}");
            assert!(has(State::Problem, "there is no /nonexistent/hook"), "{checks:?}");
            assert!(has(State::Problem, "unknown variant `start`"), "{checks:?}");
        } else {
            assert!(has(State::Problem, "does not belong to root"), "{checks:?}");
        }
        assert!(hooks(&[]).is_empty());
    }
}
