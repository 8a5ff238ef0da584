//! The Go tool's command line: its options, with one dash or two, its checks and their order, and its messages.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use super::log::Level;
use super::words;

/// Options with a value, and switches.
const VALUES: [&str; 6] = ["image", "podmanRoot", "roStoragePath", "mksquashfsPath", "mksquashfs-opts", "log-level"];
const SWITCHES: [&str; 3] = ["migrate", "rmi", "version"];

/// The help, printed after each mistake too.
pub(super) const USAGE: &str = "
Parallax
OCI image migration tool for Podman on HPC systems

Usage:
  parallax --migrate --image <image[:tag]> [options]
  parallax --rmi     --image <image[:tag]> [options]

Options:
  --migrate\tMigrate an image
  --rmi\tRemove an image
  --image\tThe name (:tag) of the image
  --podmanRoot\tPath to Podman root storage directory (default \"/var/lib/containers/storage\")
  --roStoragePath\tPath to read-only storage location (default \"/mnt/nfs/podman\")
  --mksquashfsPath\tPath to mksquashfs binary (default \"/usr/bin/mksquashfs\")
  --mksquashfs-opts\tParameters for mksquashfs
  --log-level\tLogging level (debug, info, warn, error, fatal, panic) (default \"info\")
  --version\tPrint version

This is the command line of earlier versions. parallax help shows the present one.
";

/// The requested operation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Operation {
    /// Bring an image from Podman's storage into the store.
    Migrate,
    /// Remove an image from the store.
    Remove,
}

/// A valid command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Arguments {
    /// The operation.
    pub operation: Operation,
    /// The image as typed.
    pub image: String,
    /// Podman's storage.
    pub podman_root: PathBuf,
    /// The store.
    pub store: PathBuf,
    /// The words for mksquashfs; empty if none were given.
    pub mksquashfs_options: Vec<String>,
    /// The last log level that is printed.
    pub level: Level,
}

/// Result of parsing a command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Parsed {
    /// Work.
    Work(Arguments),
    /// Print the version.
    Version,
    /// Print the help.
    Help,
}

/// The options as they were typed.
#[derive(Debug, Default)]
struct Raw {
    values: [Option<String>; VALUES.len()],
    switches: [bool; SWITCHES.len()],
    help: bool,
}

/// Returns `true` if a command line (without the program's name) is one of the Go tool: it begins with an option, and has an
/// option that only the Go tool has. `--version` counts too, because scripts parse its output.
#[must_use]
pub(crate) fn is_meant(arguments: &[String]) -> bool {
    if matches!(arguments, [only] if ["--version", "-version", "-help"].contains(&only.as_str())) {
        return true;
    }
    let known = |argument: &String| {
        let name = option_name(argument).map(|name| name.split('=').next().unwrap_or(name));
        name.is_some_and(|name| {
            name != "version" && name != "log-level" && (VALUES.contains(&name) || SWITCHES.contains(&name))
        })
    };
    arguments.first().is_some_and(|first| first.starts_with('-')) && arguments.iter().any(known)
}

fn option_name(argument: &str) -> Option<&str> {
    let name = argument.strip_prefix("--").or_else(|| argument.strip_prefix('-'))?;
    (!name.is_empty() && !name.starts_with(['-', '='])).then_some(name)
}

/// Reads and checks a command line, without the program's name.
///
/// # Errors
/// The first failed check, in the Go tool's order.
pub(super) fn parse(arguments: &[String]) -> Result<Parsed, String> {
    let raw = Raw::read(arguments)?;
    if raw.help {
        return Ok(Parsed::Help);
    }
    let [migrate, remove, version] = raw.switches;
    if version {
        return Ok(Parsed::Version);
    }
    let operation = match (migrate, remove) {
        (true, false) => Operation::Migrate,
        (false, true) => Operation::Remove,
        _ => return Err("Must specify either -migrate or -rmi".to_owned()),
    };
    let [image, podman_root, store, mksquashfs, options, level] = raw.values;
    let image = image.filter(|image| !image.is_empty());
    let image = image.ok_or("Must specify -image image (e.g. -image ubuntu:latest)")?;
    let path = |given: Option<String>, default: &str| given.unwrap_or_else(|| default.to_owned());
    let podman_root = path(podman_root, "/var/lib/containers/storage");
    check_directory(&podman_root).map_err(|error| format!("podmanRoot. Podman root directory: {error}"))?;
    let store = path(store, "/mnt/nfs/podman");
    check_directory(&store).map_err(|error| format!("roStoragePath. Read-only storage path: {error}"))?;
    check_executable(&path(mksquashfs, "/usr/bin/mksquashfs"))
        .map_err(|error| format!("mksquashfsPath. mksquashfs binary: {error}"))?;
    let level = path(level, "info");
    let level = Level::parse(&level).ok_or_else(|| format!("Invalid log level {level:?}"))?;
    let mksquashfs_options =
        words::split(&options.unwrap_or_default()).map_err(|error| format!("invalid mksquashfs-opts: {error}"))?;
    Ok(Parsed::Work(Arguments {
        operation,
        image,
        podman_root: podman_root.into(),
        store: store.into(),
        mksquashfs_options,
        level,
    }))
}

impl Raw {
    fn read(arguments: &[String]) -> Result<Self, String> {
        let mut raw = Self::default();
        let mut arguments = arguments.iter();
        while let Some(argument) = arguments.next() {
            // The first that is no option ends them.
            if argument == "--" || !argument.starts_with('-') || argument == "-" {
                break;
            }
            let name = option_name(argument).ok_or_else(|| format!("bad flag syntax: {argument}"))?;
            let (name, value) = match name.split_once('=') {
                Some((name, value)) => (name, Some(value)),
                None => (name, None),
            };
            let switch = SWITCHES.iter().zip(&mut raw.switches).find(|(known, _)| **known == name);
            let text = VALUES.iter().zip(&mut raw.values).find(|(known, _)| **known == name);
            if let Some((_, switch)) = switch {
                *switch = match value {
                    None => true,
                    Some(value) => truth(value)
                        .ok_or_else(|| format!("invalid boolean value {value:?} for -{name}: parse error"))?,
                };
            } else if let Some((_, text)) = text {
                let value = value.map(ToOwned::to_owned).or_else(|| arguments.next().cloned());
                *text = Some(value.ok_or_else(|| format!("flag needs an argument: -{name}"))?);
            } else if name == "h" || name == "help" {
                raw.help = true;
                return Ok(raw);
            } else {
                return Err(format!("flag provided but not defined: -{name}"));
            }
        }
        Ok(raw)
    }
}

fn truth(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}

fn stat(path: &str) -> Result<fs::Metadata, String> {
    fs::metadata(path).map_err(|error| {
        let reason = error.to_string();
        // As Go words it: without the number, in small letters.
        let reason = reason.split(" (os error").next().unwrap_or_default().to_lowercase();
        format!("stat {path}: {reason}")
    })
}

fn check_directory(path: &str) -> Result<(), String> {
    if stat(path)?.is_dir() { Ok(()) } else { Err(format!("{path} is not a directory")) }
}

fn check_executable(path: &str) -> Result<(), String> {
    let metadata = stat(path)?;
    if metadata.is_dir() {
        Err(format!("{path} is a directory, not an executable"))
    } else if metadata.permissions().mode() & 0o111 == 0 {
        Err(format!("{path} is not executable"))
    } else {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    fn error(line: &str) -> String {
        parse(&words(line)).unwrap_err()
    }

    #[test]
    fn the_old_command_line_is_told_from_the_new_one() {
        for line in [
            "--migrate --image a",
            "-rmi -image=a",
            "--podmanRoot /x --roStoragePath /y --migrate --image a",
            "--image a",
            "--version",
            "-version",
            "-help",
        ] {
            assert!(is_meant(&words(line)), "{line}");
        }
        for line in [
            "migrate docker://a",
            "--store /x list",
            "rmi a",
            "--help",
            "-V",
            "list --version",
            "",
            "migrate --platform x",
        ] {
            assert!(!is_meant(&words(line)), "{line}");
        }
    }

    #[test]
    fn one_dash_or_two_and_values_apart_or_not() {
        for line in [
            "--migrate --image a:1 --podmanRoot / --roStoragePath /tmp --mksquashfsPath /bin/sh --log-level warn",
            "-migrate -image=a:1 -podmanRoot=/ -roStoragePath=/tmp -mksquashfsPath=/bin/sh -log-level=WARNING rest",
            "--rmi=false --migrate=t --image a:1 --podmanRoot / --roStoragePath /tmp --mksquashfsPath /bin/sh --log-level=warn",
        ] {
            let Parsed::Work(arguments) = parse(&words(line)).unwrap() else { panic!("{line}") };
            assert_eq!(arguments.operation, Operation::Migrate);
            assert_eq!((arguments.image.as_str(), arguments.store), ("a:1", PathBuf::from("/tmp")));
            assert_eq!(arguments.level, Level::Warning);
        }
        assert_eq!(parse(&words("--migrate --version")), Ok(Parsed::Version));
        assert_eq!(parse(&words("--migrate -h")), Ok(Parsed::Help));
    }

    #[test]
    fn checks_come_in_their_order_and_say_what_scripts_look_for() {
        let directories = "--podmanRoot / --roStoragePath /tmp";
        for (line, says) in [
            ("--image a", "Must specify either -migrate or -rmi"),
            ("--migrate --rmi --image a", "Must specify either -migrate or -rmi"),
            ("--migrate", "Must specify -image image (e.g. -image ubuntu:latest)"),
            (
                "--migrate --image a --podmanRoot /none",
                "podmanRoot. Podman root directory: stat /none: no such file or directory",
            ),
            (
                "--rmi --image a --podmanRoot /dev/null",
                "podmanRoot. Podman root directory: /dev/null is not a directory",
            ),
            (
                "--rmi --image a --podmanRoot / --roStoragePath /none",
                "roStoragePath. Read-only storage path: stat /none: no such file or directory",
            ),
            ("--migrate --what", "flag provided but not defined: -what"),
            ("--migrate --image", "flag needs an argument: -image"),
            ("--migrate=maybe", "invalid boolean value \"maybe\" for -migrate: parse error"),
        ] {
            assert_eq!(error(line), says, "{line}");
        }
        let more = |rest: &str| error(&format!("--migrate --image a {directories} {rest}"));
        assert_eq!(
            more("--mksquashfsPath /tmp"),
            "mksquashfsPath. mksquashfs binary: /tmp is a directory, not an executable"
        );
        assert_eq!(
            more("--mksquashfsPath /etc/passwd"),
            "mksquashfsPath. mksquashfs binary: /etc/passwd is not executable"
        );
        assert_eq!(more("--mksquashfsPath /bin/sh --log-level loud"), "Invalid log level \"loud\"");
        assert_eq!(
            more("--mksquashfsPath /bin/sh --mksquashfs-opts `id`"),
            "invalid mksquashfs-opts: commands in backticks are not executed"
        );
    }
}
