//! The arguments of the launcher's callers: the plugin and the launcher itself. No caller is a person, so the arguments
//! are a protocol and not a command line.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;

/// The parsed arguments.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// `run DIRECTORY FILE -- COMMAND…`: run the command in the container of the step that has this directory.
    Run {
        /// The step's directory.
        directory: PathBuf,
        /// The command and its arguments, at least one.
        command: Vec<OsString>,
    },
    /// `locked DIRECTORY FILE LOCK -- COMMAND…`: the same for a task that has taken the lock of the step's tasks, which is open.
    Locked {
        /// The step's directory.
        directory: PathBuf,
        /// The lock's descriptor.
        lock: i32,
        /// The command and its arguments, at least one.
        command: Vec<OsString>,
    },
    /// `inside DIRECTORY STARTED_IN -- COMMAND…`: this process is in the container; run the command there, or say why that cannot be.
    Inside {
        /// The descriptor of the step's directory, which has no path in the container.
        directory: i32,
        /// The directory of the node in which the task began.
        started_in: PathBuf,
        /// The command and its arguments, at least one.
        command: Vec<OsString>,
    },
    /// `podman DIRECTORY -- PODMAN ARGUMENT…`: become Podman as root of the container's user namespace.
    Podman {
        /// The step's directory.
        directory: PathBuf,
        /// Podman and its arguments.
        command: Vec<OsString>,
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
    /// `store DIRECTORY --`: write the store in which Podman finds the step's image, a directory.
    Store {
        /// The step's directory.
        directory: PathBuf,
    },
    /// `hold DIRECTORY --`: be the step's pause process. By the directory the process is recognized as the step's.
    Hold,
    /// `tell MESSAGE FILE -- COMMAND…`: print a message and run the command, on the node.
    Tell {
        /// The message.
        message: OsString,
        /// The command and its arguments, at least one.
        command: Vec<OsString>,
    },
    /// `fail MESSAGE -- …`: print why the step has no image, unless the message is empty, and fail.
    Fail {
        /// The message; empty in all tasks of a node except one.
        message: OsString,
    },
}

/// Parses the arguments after the program's name; `None` if they are invalid.
pub(crate) fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Order> {
    let verb = arguments.next()?;
    let object = arguments.next()?;
    let verb = verb.to_str()?;
    let file =
        if matches!(verb, "run" | "locked" | "inside" | "node" | "tell") { Some(arguments.next()?) } else { None };
    let lock = if verb == "locked" { Some(arguments.next()?) } else { None };
    if arguments.next()? != "--" {
        return None;
    }
    let mut command =
        || -> Option<Vec<OsString>> { Some(arguments.by_ref().collect()).filter(|all: &Vec<_>| !all.is_empty()) };
    match verb {
        "run" => Some(Order::Run { directory: object.into(), command: broadcast(command()?, &file?) }),
        "locked" => Some(Order::Locked {
            directory: object.into(),
            lock: number(&lock?)?,
            command: broadcast(command()?, &file?),
        }),
        "inside" => Some(Order::Inside { directory: number(&object)?, started_in: file?.into(), command: command()? }),
        "podman" => Some(Order::Podman { directory: object.into(), command: command()? }),
        "node" => Some(Order::Node { directory: object.into(), command: broadcast(command()?, &file?) }),
        "pause" => Some(Order::Pause { directory: object.into() }),
        "store" => Some(Order::Store { directory: object.into() }),
        "hold" => Some(Order::Hold),
        "tell" => Some(Order::Tell { message: object, command: broadcast(command()?, &file?) }),
        "fail" => Some(Order::Fail { message: object }),
        _ => None,
    }
}

fn number(word: &OsStr) -> Option<i32> {
    word.to_str()?.parse().ok()
}

/// Completes the path of a program that `srun --bcast` has put into a directory: srun passes the directory alone, and slurmstepd
/// appends the file's name to the path that it executes (`exec_task`, Slurm 23.11 to 26.05), here that of the launcher.
fn broadcast(mut command: Vec<OsString>, file: &OsStr) -> Vec<OsString> {
    if let Some(program) = command.first_mut().filter(|program| program.as_bytes().ends_with(b"/")) {
        program.push(file);
    }
    command
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{image_store, pause};

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
        let command = vec!["sh".into()];
        let locked = Order::Locked { directory: "/d".into(), lock: 4, command: command.clone() };
        assert_eq!(order(&["locked", "/d", "f", "4", "--", "sh"]), Some(locked));
        let inside = Order::Inside { directory: 5, started_in: "/w".into(), command };
        assert_eq!(order(&["inside", "5", "/w", "--", "sh"]), Some(inside));
        assert_eq!(order(&["locked", "/d", "f", "x", "--", "sh"]), None);
        assert_eq!(order(&[pause::VERBS[0], "/d", "--"]), Some(Order::Pause { directory: "/d".into() }));
        assert_eq!(order(&[pause::VERBS[1], "/d", "--"]), Some(Order::Hold));
        assert_eq!(order(&[image_store::VERB, "/d", "--"]), Some(Order::Store { directory: "/d".into() }));
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
    fn what_is_none() {
        for arguments in [&[][..], &["run", "/d", "f", "--"], &["run", "/d", "--", "sh"], &["walk", "/d", "--", "sh"]] {
            assert_eq!(order(arguments), None);
        }
    }
}
