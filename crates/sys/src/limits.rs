//! Limits of the kernel that errors do not name: `unshare(2)` returns "No space left on device" if a user has
//! too many namespaces, and `move_mount(2)` if there are too many mounts.
//!
//! Each function takes the error of a call and returns it with the limit's name and value, or unchanged if no limit is the cause.

use std::fs;
use std::io;

/// A kind of namespaces whose number is limited (`namespaces(7)`, "The /proc/sys/user directory").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Namespace {
    /// User namespaces.
    User,
    /// Mount namespaces.
    Mount,
    /// PID namespaces.
    Pid,
}

impl Namespace {
    fn sysctl(self) -> &'static str {
        match self {
            Self::User => "user.max_user_namespaces",
            Self::Mount => "user.max_mnt_namespaces",
            Self::Pid => "user.max_pid_namespaces",
        }
    }
}

/// Sysctls that forbid user namespaces to users, and the value with which they do.
const FORBIDDING: [(&str, u64); 2] =
    [("kernel.unprivileged_userns_clone", 0), ("kernel.apparmor_restrict_unprivileged_userns", 1)];

/// Names the limit that `unshare(2)` or `clone(2)` exceeded when making namespaces of these kinds.
#[must_use]
pub fn of_namespaces(error: io::Error, kinds: &[Namespace]) -> io::Error {
    let limits: Vec<_> = kinds.iter().map(|kind| (kind.sysctl(), read(kind.sysctl()))).collect();
    let forbidding: Vec<_> = FORBIDDING.iter().filter(|(name, value)| read(name) == Some(*value)).collect();
    match error.raw_os_error() {
        Some(libc::ENOSPC | libc::EUSERS) => explained(&error, &reached(&limits)),
        Some(libc::EPERM | libc::EACCES) if kinds.contains(&Namespace::User) && !forbidding.is_empty() => {
            let names: Vec<String> = forbidding.iter().map(|(name, value)| format!("{name} is {value}")).collect();
            explained(&error, &format!("forbidden by sysctl: {}", names.join(", ")))
        }
        _ => of_files(error),
    }
}

/// Names the limit that attaching a mount exceeded.
#[must_use]
pub fn of_mounts(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => explained(&error, &reached(&[("fs.mount-max", read("fs.mount-max"))])),
        _ => of_files(error),
    }
}

/// Names the limit that opening a file exceeded.
#[must_use]
pub fn of_files(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::EMFILE) => {
            let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
            let value = limit.map_or_else(|| "unlimited".to_owned(), |limit| limit.to_string());
            explained(&error, &format!("the process may have {value} (LimitNOFILE= of its systemd unit, ulimit -n)"))
        }
        Some(libc::ENFILE) => explained(&error, &reached(&[("fs.file-max", read("fs.file-max"))])),
        _ => error,
    }
}

/// Names the limit of loop devices.
#[must_use]
pub fn of_loop_devices(error: io::Error) -> io::Error {
    match error.raw_os_error() {
        Some(libc::ENOSPC) => explained(&error, "all loop devices are in use (losetup --list shows by what)"),
        _ => of_files(error),
    }
}

fn read(sysctl: &str) -> Option<u64> {
    fs::read_to_string(format!("/proc/sys/{}", sysctl.replace('.', "/"))).ok()?.trim().parse().ok()
}

/// Returns a message that a limit is reached; the lowest limits come first, as the most likely ones.
fn reached(limits: &[(&str, Option<u64>)]) -> String {
    let mut limits = limits.to_vec();
    limits.sort_by_key(|(_, value)| value.unwrap_or(u64::MAX));
    let one = |(name, value): &(&str, Option<u64>)| match value {
        Some(value) => format!("{name} ({value})"),
        None => (*name).to_owned(),
    };
    let names: Vec<String> = limits.iter().map(one).collect();
    format!("the limit {} is reached; raise it by sysctl", names.join(" or "))
}

fn explained(error: &io::Error, cause: &str) -> io::Error {
    io::Error::new(error.kind(), format!("{error}: {cause}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(number: i32) -> io::Error {
        io::Error::from_raw_os_error(number)
    }

    #[test]
    fn the_lowest_limit_is_named_first() {
        let text = reached(&[("user.max_mnt_namespaces", Some(90)), ("user.max_pid_namespaces", Some(0))]);
        assert_eq!(
            text,
            "the limit user.max_pid_namespaces (0) or user.max_mnt_namespaces (90) is reached; raise it by sysctl"
        );
        assert_eq!(reached(&[("fs.mount-max", None)]), "the limit fs.mount-max is reached; raise it by sysctl");
    }

    #[test]
    fn what_no_limit_is_to_blame_for_stays_as_it_is() {
        for number in [libc::EINVAL, libc::ENOENT, libc::EBUSY] {
            assert_eq!(of_namespaces(error(number), &[Namespace::User]).raw_os_error(), Some(number));
            assert_eq!(of_mounts(error(number)).raw_os_error(), Some(number));
        }
    }

    #[test]
    fn limits_are_named_with_their_values() {
        let text = of_namespaces(error(libc::ENOSPC), &[Namespace::User]).to_string();
        assert!(text.contains("No space left") && text.contains("user.max_user_namespaces ("), "{text}");
        let text = of_mounts(error(libc::ENOSPC)).to_string();
        assert!(text.contains("fs.mount-max ("), "{text}");
        let text = of_files(error(libc::EMFILE)).to_string();
        assert!(text.contains("Too many open files") && text.contains("LimitNOFILE="), "{text}");
    }
}
