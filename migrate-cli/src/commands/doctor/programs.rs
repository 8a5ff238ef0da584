//! Podman and its helpers.

use std::fs::{self, Metadata};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use parallax_config::Run;
use parallax_sys::process::Process;

use super::check::Check;

const TOPIC: &str = "podman";
/// The oldest supported Podman, and the oldest tested one.
const OLDEST: [u32; 2] = [4, 3];
const TESTED: [u32; 2] = [5, 0];
/// Timeout of a program that prints its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(10);
/// Maximum size of its output in bytes.
const MAX_OUTPUT: u64 = 16 * 1024;
/// The OCI runtimes that Podman knows, in its order.
const RUNTIMES: [&str; 2] = ["crun", "runc"];
/// Directories in which programs are searched.
const DIRECTORIES: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// Checks the programs that the configuration names, and those that Podman needs.
pub(super) fn check(config: &Run) -> Vec<Check> {
    let mut checks = vec![podman(&config.podman, version(&config.podman))];
    checks.push(runtime(RUNTIMES.iter().find_map(|name| find(name)).as_deref()));
    checks.extend(["newuidmap", "newgidmap"].map(|name| id_mapper(name, find(name).as_deref())));
    checks
}

fn podman(path: &Path, said: Result<String, String>) -> Check {
    let said = match said {
        Ok(text) => text,
        Err(reason) => return Check::problem(TOPIC, reason, "install podman, or set run.podman in the configuration"),
    };
    let line = first_line(&said);
    match numbers(line) {
        Some(version) if version >= TESTED => Check::ok(TOPIC, format!("{}: {line}", path.display())),
        Some(version) if version >= OLDEST => {
            Check::warning(TOPIC, format!("{}: {line}", path.display()), "use Podman 5, which is tested")
        }
        _ => {
            let finding = format!("{}: \"{line}\" is an unsupported version of Podman", path.display());
            Check::problem(TOPIC, finding, "use Podman 5")
        }
    }
}

/// Checks the OCI runtime, which Podman chooses itself.
fn runtime(path: Option<&Path>) -> Check {
    match path {
        Some(path) => Check::ok(TOPIC, format!("OCI runtime {}", path.display())),
        None => Check::problem(TOPIC, "no OCI runtime is installed", "install crun, for Podman in podman mode"),
    }
}

/// Checks newuidmap and newgidmap, which write the id maps of users and need privileges.
fn id_mapper(name: &str, path: Option<&Path>) -> Check {
    let remedy = "install uidmap (Debian) or shadow-utils, for Podman in podman mode";
    let Some(path) = path else { return Check::problem(TOPIC, format!("{name} is not installed"), remedy) };
    let set_user_id = |metadata: &Metadata| metadata.permissions().mode() & 0o4000 != 0;
    let mut capability = [0_u8; 64];
    let is_able = fs::metadata(path).is_ok_and(|metadata| set_user_id(&metadata))
        || rustix::fs::getxattr(path, c"security.capability", &mut capability).is_ok();
    if is_able {
        Check::ok(TOPIC, format!("{} may write id maps", path.display()))
    } else {
        let finding = format!("{} is neither set-user-id root nor has capabilities", path.display());
        Check::problem(TOPIC, finding, "reinstall its package")
    }
}

/// Finds a program in the system's directories.
pub(super) fn find(name: &str) -> Option<PathBuf> {
    DIRECTORIES.iter().map(|directory| Path::new(directory).join(name)).find(|path| path.is_file())
}

/// Returns a program's output for `--version`.
///
/// # Errors
/// The program cannot be started, fails or hangs.
pub(super) fn version(program: &Path) -> Result<String, String> {
    let name = program.display();
    let failed = |error: std::io::Error| format!("{name} cannot be started: {error}");
    let mut child = Command::new(program)
        .arg("--version")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .map_err(failed)?;
    let process = Process::open(i32::try_from(child.id()).unwrap_or_default()).map_err(failed)?;
    let ended = process.wait_until_ended(VERSION_TIMEOUT).map_err(failed)?;
    if !ended {
        child.kill().map_err(failed)?;
    }
    let status = child.wait().map_err(failed)?;
    if !ended {
        return Err(format!("{name} --version did not end within {} s", VERSION_TIMEOUT.as_secs()));
    }
    let mut text = String::new();
    if let Some(output) = child.stdout.take() {
        std::io::Read::read_to_string(&mut std::io::Read::take(output, MAX_OUTPUT), &mut text).map_err(failed)?;
    }
    if status.success() { Ok(text) } else { Err(format!("{name} --version failed ({status})")) }
}

/// Returns the first two numbers of a version in a text: `podman version 5.4.2` is 5, 4.
pub(super) fn numbers(text: &str) -> Option<[u32; 2]> {
    text.split_whitespace().find_map(|word| {
        let mut parts = word.split('.').map(str::parse);
        Some([parts.next()?.ok()?, parts.next()?.ok()?])
    })
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::*;

    #[test]
    fn versions_are_judged() {
        let state = |said: &str| podman(Path::new("/p"), Ok(said.to_owned())).state;
        assert_eq!(state("podman version 5.4.2\n"), State::Ok);
        assert_eq!(state("podman version 4.9.3"), State::Warning);
        assert_eq!(state("podman version 4.2.0"), State::Problem);
        assert_eq!(state("something"), State::Problem);
        assert_eq!(podman(Path::new("/p"), Err("gone".into())).state, State::Problem);
        assert_eq!(numbers("slurm-wlm 24.11.5"), Some([24, 11]));
        assert_eq!(numbers("no version"), None);
    }

    #[test]
    fn a_program_that_fails_or_is_not_there_is_named() {
        assert!(version(Path::new("/nonexistent")).unwrap_err().contains("/nonexistent cannot be started"));
        assert!(version(Path::new("/bin/false")).unwrap_err().contains("/bin/false --version failed"));
        assert_eq!(id_mapper("newuidmap", None).state, State::Problem);
        assert_eq!(runtime(None).state, State::Problem);
        assert_eq!(id_mapper("newuidmap", Some(Path::new("/bin/true"))).state, State::Problem);
    }
}
