//! The OCI hooks of the step's container: those of the site's directories and those of devices.
//!
//! A hook runs as the step's user, in the container's user namespace with all capabilities there, and in the container's mount
//! namespace before the root directory is changed: it sees the paths of the node, and the container's root below them.

use std::fs::{self, DirBuilder, File};
use std::os::unix::fs::DirBuilderExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use parallax_oci_hooks::{Container, HookFile, Stage, StagedHook, read_hooks};
use parallax_protocol::step_file::StepPaths;
use parallax_sys::process::{Process, inherit_standard_streams_only};
use rustix::process::{Pid, Signal, kill_process_group};

use crate::capabilities::with_capabilities;
use crate::node_name::node_name;
use crate::podman::{JOB_ID, PATH, end_of};

/// Time before the deadline of the container at which a hook is ended, so that its name is told.
const MARGIN: Duration = Duration::from_millis(500);

/// A file of a hook, parsed, with its path.
pub(crate) type HookFiles = Vec<(PathBuf, HookFile)>;

/// Reads the hooks of these directories, those of lower priority first.
///
/// # Errors
/// A message for the user: a file is invalid. A container must not lack what the site prepares in it.
pub(crate) fn read(directories: &[PathBuf]) -> Result<HookFiles, String> {
    read_hooks(directories)
        .into_iter()
        .map(|read| {
            read.map_err(|unusable| format!("cannot use the hooks of this node: {unusable}; tell the administrator"))
        })
        .collect()
}

/// Returns the hooks that a container has and that run, in their order: by stage, those of the site before those of devices.
pub(crate) fn select(files: &HookFiles, of_devices: &[StagedHook], container: &Container<'_>) -> Vec<StagedHook> {
    let of_site = files.iter().flat_map(|(path, file)| file.hooks_for(container, path));
    let all: Vec<StagedHook> = of_site.filter(|hook| hook.stage.runs()).chain(of_devices.iter().cloned()).collect();
    Stage::ALL.into_iter().flat_map(|stage| all.iter().filter(move |hook| hook.stage == stage).cloned()).collect()
}

/// The bundle of the container: the directory with what hooks are told.
pub(crate) fn bundle(paths: &StepPaths) -> PathBuf {
    paths.launch_directory().join("bundle")
}

/// Runs the hooks of a container, one after the other. `report` gets what is about to be done.
///
/// # Errors
/// A message for the user: a hook failed, with the end of what it wrote.
pub(crate) fn run(
    hooks: &[StagedHook],
    container: &Container<'_>,
    paths: &StepPaths,
    deadline: Instant,
    mut report: impl FnMut(&str),
) -> Result<(), String> {
    if hooks.is_empty() {
        return Ok(());
    }
    let bundle = bundle(paths);
    let state = bundle.join("state.json");
    let write = || -> std::io::Result<()> {
        // An earlier step may have failed to make a container that steps share.
        DirBuilder::new().recursive(true).mode(0o755).create(&bundle)?;
        fs::write(bundle.join("config.json"), container.config(hooks).to_string())?;
        fs::write(&state, container.state().to_string())?;
        // A hook that goes on beside the tasks must not keep their other descriptors open.
        inherit_standard_streams_only()
    };
    write().map_err(|error| format!("cannot write {}: {error}", bundle.display()))?;
    for hook in hooks {
        report(&format!("running the {}", name(hook)));
        run_one(hook, paths, &state, deadline)?;
    }
    Ok(())
}

/// The name of a hook in sentences.
fn name(hook: &StagedHook) -> String {
    format!("hook {} ({} of {})", hook.hook.path.display(), hook.stage, hook.origin.display())
}

fn run_one(staged: &StagedHook, paths: &StepPaths, state: &Path, deadline: Instant) -> Result<(), String> {
    let failed = |what: &str, said: &str| format!("the {} {what}{said}", name(staged));
    let could_not_start = |error: std::io::Error| failed(&format!("cannot be started: {error}"), "");
    let hook = &staged.hook;
    let log = state.with_file_name("hook.log");
    let output = File::create(&log).map_err(could_not_start)?;
    let mut command = Command::new(&hook.path);
    if let Some(own) = hook.args.first() {
        command.arg0(own);
    }
    command.args(hook.arguments()).current_dir(bundle(paths)).process_group(0);
    command.stdin(Stdio::from(File::open(state).map_err(could_not_start)?));
    command.stdout(output.try_clone().map_err(could_not_start)?).stderr(output);
    // By its environment the agent recognizes a process as the step's.
    command.env_clear().env("PATH", PATH).env("XDG_RUNTIME_DIR", paths.runtime_directory());
    command.envs(std::env::var_os(JOB_ID).map(|job| (JOB_ID, job)));
    command.envs(hook.env.iter().filter_map(|variable| variable.split_once('=')));
    let mut child = with_capabilities(|| command.spawn()).and_then(|child| child).map_err(could_not_start)?;
    let left = deadline.saturating_duration_since(Instant::now()).saturating_sub(MARGIN);
    let limit = hook.timeout.map_or(left, |seconds| Duration::from_secs(seconds.into()).min(left));
    let pid = i32::try_from(child.id()).unwrap_or_default();
    let in_time = Process::open(pid).and_then(|process| process.wait_until_ended(limit)).unwrap_or(true);
    if !in_time {
        let _ = Pid::from_raw(pid).map(|group| kill_process_group(group, Signal::KILL));
    }
    let status = child.wait().map_err(could_not_start)?;
    let node = node_name();
    let said = end_of(&fs::read(&log).unwrap_or_default());
    if !in_time {
        return Err(failed(&format!("did not end within {} s on the node {node}", limit.as_secs()), &said));
    }
    if status.success() { Ok(()) } else { Err(failed(&format!("failed on the node {node} ({status})"), &said)) }
}

#[cfg(test)]
mod tests {
    use parallax_oci_hooks::Hook;

    use super::*;

    fn staged(stage: Stage, script: &str, timeout: Option<u32>) -> StagedHook {
        let args = ["sh", "-c", script].map(str::to_owned).to_vec();
        let hook = Hook { path: "/bin/sh".into(), args, env: vec!["A=1".into()], timeout };
        StagedHook { stage, hook, origin: "/etc/x.json".into() }
    }

    fn ran(script: &str, timeout: Option<u32>) -> (Result<(), String>, tempfile::TempDir) {
        let directory = tempfile::tempdir().unwrap();
        let paths = StepPaths::new(directory.path());
        fs::create_dir(paths.launch_directory()).unwrap();
        let state = directory.path().join("launch/bundle/state.json");
        fs::create_dir(bundle(&paths)).unwrap();
        fs::write(&state, "{\"id\":\"6.0\"}").unwrap();
        let deadline = Instant::now() + Duration::from_secs(60);
        (run_one(&staged(Stage::Prestart, script, timeout), &paths, &state, deadline), directory)
    }

    #[test]
    fn a_hook_gets_the_state_and_its_own_environment() {
        let (result, directory) = ran("cat >got; echo $A $HOME >>got; pwd >>got", None);
        result.unwrap();
        let got = fs::read_to_string(directory.path().join("launch/bundle/got")).unwrap();
        assert!(got.starts_with("{\"id\":\"6.0\"}1\n") && got.ends_with("/launch/bundle\n"), "{got}");
    }

    #[test]
    fn a_hook_that_fails_or_hangs_is_named() {
        let (result, _directory) = ran("echo no device >&2; exit 3", None);
        let message = result.unwrap_err();
        let begin = format!("the hook /bin/sh (prestart of /etc/x.json) failed on the node {}", node_name());
        assert_eq!(message, format!("{begin} (exit status: 3): no device"));
        let (result, _directory) = ran("echo waiting; exec sleep 600", Some(1));
        let message = result.unwrap_err();
        assert!(message.contains("did not end within 1 s on the node") && message.ends_with(": waiting"), "{message}");
    }

    #[test]
    fn hooks_run_by_stage_and_the_sites_first() {
        let text = r#"{"version":"1.0.0","hook":{"path":"/site"},"when":{"always":true},
                       "stages":["createContainer","poststop","prestart"]}"#;
        let files = vec![("/f".into(), HookFile::parse(text).unwrap())];
        let of_devices = [staged(Stage::Prestart, "", None), staged(Stage::CreateRuntime, "", None)];
        let hooks = select(&files, &of_devices, &Container::default());
        let order: Vec<(&str, &str)> =
            hooks.iter().map(|hook| (hook.stage.name(), hook.hook.path.to_str().unwrap())).collect();
        let expected = [
            ("prestart", "/site"),
            ("prestart", "/bin/sh"),
            ("createRuntime", "/bin/sh"),
            ("createContainer", "/site"),
        ];
        assert_eq!(order, expected);
    }

    #[test]
    fn files_that_are_not_usable_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("x.json"), "{}").unwrap();
        fs::write(directory.path().join("readme"), "").unwrap();
        let message = read(&[directory.path().to_owned()]).unwrap_err();
        assert!(message.contains("x.json: ") && message.contains("tell the administrator"), "{message}");
        assert!(read(&["/nonexistent".into()]).unwrap().is_empty());
    }
}
