//! What the plugin says. It is the only caller, so this is a protocol and not a command line for people.

use std::ffi::OsString;
use std::path::PathBuf;

/// What is to be done.
#[derive(Debug, PartialEq, Eq)]
pub enum Order {
    /// `run DIRECTORY -- COMMAND…`: run the command in the container of the step that has this directory.
    Run {
        /// The step's directory.
        directory: PathBuf,
        /// The command and its arguments, at least one.
        command: Vec<OsString>,
    },
    /// `fail MESSAGE -- …`: say why the step has no image, if there is a message, and fail.
    Fail {
        /// What to say; empty in all tasks of a node but one.
        message: OsString,
    },
}

/// Reads the arguments behind the program's name; `None` if they are not an order.
pub fn parse(mut arguments: impl Iterator<Item = OsString>) -> Option<Order> {
    let (verb, object, separator) = (arguments.next()?, arguments.next()?, arguments.next()?);
    if separator != "--" {
        return None;
    }
    match verb.to_str()? {
        "run" => {
            let command: Vec<OsString> = arguments.collect();
            (!command.is_empty()).then_some(Order::Run { directory: object.into(), command })
        }
        "fail" => Some(Order::Fail { message: object }),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order(arguments: &[&str]) -> Option<Order> {
        parse(arguments.iter().map(OsString::from))
    }

    #[test]
    fn orders() {
        let command = vec!["sh".into(), "--".into()];
        assert_eq!(order(&["run", "/d", "--", "sh", "--"]), Some(Order::Run { directory: "/d".into(), command }));
        assert_eq!(order(&["fail", "why", "--", "sh"]), Some(Order::Fail { message: "why".into() }));
    }

    #[test]
    fn what_is_none() {
        for arguments in [&[][..], &["run", "/d", "--"], &["run", "/d", "sh", "x"], &["walk", "/d", "--", "sh"]] {
            assert_eq!(order(arguments), None);
        }
    }
}
