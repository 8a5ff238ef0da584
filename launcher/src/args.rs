//! What the callers say: the plugin, the launcher itself, and Podman. None is a person, so this is a protocol and not a command
//! line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// `run DIRECTORY FILE -- COMMAND…`: run the command in the container of the step that has this directory.
    Run {
        /// The step's directory.
        directory: PathBuf,
        /// The command and its arguments, at least one.
        command: Vec<OsString>,
    },
    /// `podman DIRECTORY -- PODMAN ARGUMENT…`: become Podman in the step's user namespace.
    Podman {
        /// The step's directory.
        directory: PathBuf,
        /// Podman and its arguments.
        command: Vec<OsString>,
    },
    /// `--parallax-runtime=RUNTIME ARGUMENT…`: be the OCI runtime for Podman.
    Runtime {
        /// The OCI runtime that does the work.
        program: PathBuf,
        /// The arguments for it.
        arguments: Vec<OsString>,
    },
    /// `node DIRECTORY FILE -- COMMAND…`: run the command on the node, where Podman finds the image of the step that has this directory.
    Node {
        /// The step's directory.
        directory: PathBuf,
        /// The command and its arguments, at least one.
        command: Vec<OsString>,
    },
    /// `pause DIRECTORY --`: start the step's pause process.
    Pause {
        /// The step's directory.
        directory: PathBuf,
    },
    /// `hold DIRECTORY --`: be the step's pause process. The directory is there so that the process is recognized as the step's.
    Hold,
    /// `tell MESSAGE FILE -- COMMAND…`: say something and run the command, on the node.
    Tell {
        /// What to say.
        message: OsString,
        /// The command and its arguments, at least one.
        command: Vec<OsString>,
    },
    /// `fail MESSAGE -- …`: say why the step has no image, if there is a message, and fail.
    Fail {
        /// What to say; empty in all tasks of a node but one.
        message: OsString,
    },
}

/// The flag by which Podman is told to tell us which OCI runtime to use (`podman --runtime-flag`, without the dashes).
pub const RUNTIME_FLAG: &str = "parallax-runtime";

/// Reads the arguments behind the program's name; `None` if they are not an order.
pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Order> {
    let verb = arguments.next()?;
    if let Some(flag) = verb.to_str()?.strip_prefix("--") {
        let program = flag.strip_prefix(RUNTIME_FLAG)?.strip_prefix('=')?;
        return Some(Order::Runtime { program: program.into(), arguments: arguments.collect() });
    }
    let object = arguments.next()?;
    let verb = verb.to_str()?;
    let file = if matches!(verb, "run" | "node" | "tell") { Some(arguments.next()?) } else { None };
    if arguments.next()? != "--" {
        return None;
    }
    let mut command =
        || -> Option<Vec<OsString>> { Some(arguments.by_ref().collect()).filter(|all: &Vec<_>| !all.is_empty()) };
    match verb {
        "run" => Some(Order::Run { directory: object.into(), command: broadcast(command()?, &file?) }),
        "podman" => Some(Order::Podman { directory: object.into(), command: command()? }),
        "node" => Some(Order::Node { directory: object.into(), command: broadcast(command()?, &file?) }),
        "pause" => Some(Order::Pause { directory: object.into() }),
        "hold" => Some(Order::Hold),
        "tell" => Some(Order::Tell { message: object, command: broadcast(command()?, &file?) }),
        "fail" => Some(Order::Fail { message: object }),
        _ => None,
    }
}

/// Names the program that `srun --bcast` has put into a directory: srun hands on the directory alone, and slurmstepd adds the
/// file's name to what it executes (`exec_task`, Slurm 23.11 to 26.05), which is the launcher here.
fn broadcast(mut command: Vec<OsString>, file: &OsStr) -> Vec<OsString> {
    if let Some(program) = command.first_mut().filter(|program| program.as_bytes().ends_with(b"/")) {
        program.push(file);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pause;

    fn order(arguments: &[&str]) -> Option<Order> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn orders() {
        let command = vec!["sh".into(), "--".into()];
        assert_eq!(order(&["run", "/d", "f", "--", "sh", "--"]), Some(Order::Run { directory: "/d".into(), command }));
        assert_eq!(
            order(&["tell", "this", "f", "--", "sh"]),
            Some(Order::Tell { message: "this".into(), command: vec!["sh".into()] })
        );
        assert_eq!(
            order(&["node", "/d", "f", "--", "sh"]),
            Some(Order::Node { directory: "/d".into(), command: vec!["sh".into()] })
        );
        assert_eq!(order(&[pause::VERBS[0], "/d", "--"]), Some(Order::Pause { directory: "/d".into() }));
        assert_eq!(order(&[pause::VERBS[1], "/d", "--"]), Some(Order::Hold));
        assert_eq!(order(&["fail", "why", "--", "sh"]), Some(Order::Fail { message: "why".into() }));
    }

    #[test]
    fn the_file_of_a_broadcast() {
        let run = |program: &str| match order(&["run", "/d", "slurm_bcast_1.0_n1", "--", program, "/"]) {
            Some(Order::Run { command, .. }) => command,
            other => panic!("{other:?}"),
        };
        assert_eq!(run("/home/u1/"), ["/home/u1/slurm_bcast_1.0_n1", "/"]);
        assert_eq!(run("/home/u1"), ["/home/u1", "/"]);
    }

    #[test]
    fn podman_calls_the_runtime_with_its_flag_first() {
        assert_eq!(
            order(&["--parallax-runtime=/usr/bin/crun", "start", "id"]),
            Some(Order::Runtime { program: "/usr/bin/crun".into(), arguments: vec!["start".into(), "id".into()] })
        );
        assert_eq!(order(&["--version"]), None);
    }

    #[test]
    fn what_is_none() {
        for arguments in [&[][..], &["run", "/d", "f", "--"], &["run", "/d", "--", "sh"], &["walk", "/d", "--", "sh"]] {
            assert_eq!(order(arguments), None);
        }
    }
}
