//! User namespaces and subordinate ids.

use std::fs;
use std::path::Path;

use nix::unistd::User;
use parallax_probe::subordinate::{Listed, Source, Subordinate};

use super::check::Check;

const TOPIC: &str = "users";
/// Number of subordinate ids that suffices for any image: ids up to that of nobody.
const ENOUGH: u64 = 65_536;
/// Recommended minimum of user namespaces: a step needs some for each container.
const FEW_NAMESPACES: u64 = 100;

/// A limit of the kernel, below `/proc/sys`.
struct Limit {
    file: &'static str,
    /// Returns `true` if the value forbids user namespaces.
    forbids: fn(u64) -> bool,
    remedy: &'static str,
}

const LIMITS: [Limit; 3] = [
    Limit {
        file: "user/max_user_namespaces",
        forbids: |value| value == 0,
        remedy: "sysctl user.max_user_namespaces=65536",
    },
    Limit {
        file: "kernel/unprivileged_userns_clone",
        forbids: |value| value == 0,
        remedy: "sysctl kernel.unprivileged_userns_clone=1",
    },
    Limit {
        file: "kernel/apparmor_restrict_unprivileged_userns",
        forbids: |value| value == 1,
        remedy: "sysctl kernel.apparmor_restrict_unprivileged_userns=0, or AppArmor profiles that allow userns to podman and crun",
    },
];

/// Checks the kernel's limits, and the subordinate ids of a user: of `name`, or of the calling user unless root.
pub(super) fn check(name: Option<&str>, is_root: bool) -> Vec<Check> {
    let mut checks = limits(Path::new("/proc/sys"));
    let Some(user) = of_option(name, is_root) else { return checks };
    match user {
        Ok(user) => {
            let (uid, gid) = (user.uid.as_raw(), user.gid.as_raw());
            checks.extend(all_subordinate(&Source::of_this_machine(), &user.name, uid, gid));
        }
        Err(name) => {
            let finding = format!("this machine has no user {name}");
            checks.push(Check::problem(TOPIC, finding, "name another with --user, or look at the user database"));
        }
    }
    checks
}

/// The user `name`, or the calling user unless root; an error is the name of an unknown user.
pub(super) fn of_option(name: Option<&str>, is_root: bool) -> Option<Result<User, String>> {
    match name {
        Some(name) => Some(User::from_name(name).ok().flatten().ok_or_else(|| name.to_owned())),
        None if is_root => None,
        None => {
            let uid = nix::unistd::getuid();
            Some(User::from_uid(uid).ok().flatten().ok_or_else(|| uid.to_string()))
        }
    }
}

fn limits(sys: &Path) -> Vec<Check> {
    let mut checks = Vec::new();
    for limit in LIMITS {
        // What a kernel does not have does not limit anything.
        let Ok(text) = fs::read_to_string(sys.join(limit.file)) else { continue };
        let Ok(value) = text.trim().parse::<u64>() else { continue };
        let name = limit.file.replace('/', ".");
        let finding = format!("{name} is {value}");
        checks.push(if (limit.forbids)(value) {
            Check::problem(TOPIC, format!("{finding}: users get no user namespaces"), limit.remedy)
        } else if name == "user.max_user_namespaces" && value < FEW_NAMESPACES {
            Check::warning(TOPIC, format!("{finding}, which is soon used up"), limit.remedy)
        } else {
            Check::ok(TOPIC, finding)
        });
    }
    checks
}

/// Checks the subordinate user and group ids. The module is asked in this process, so one that hangs can be interrupted.
fn all_subordinate(source: &Source, name: &str, uid: u32, gid: u32) -> Vec<Check> {
    let mut checks = Vec::new();
    if let Source::Module(module) = source {
        match Listed::by_module(name, uid) {
            Ok(Listed { users, groups }) => {
                let remedy = format!("add a range of {ENOUGH} ids for {name} to the database behind \"{module}\"");
                let check = |file, text: &str, own| subordinate(&source.describe(file), &remedy, text, name, uid, own);
                return vec![check("/etc/subuid", &users, uid), check("/etc/subgid", &groups, gid)];
            }
            Err(reason) => {
                let finding = format!(
                    "nsswitch.conf names \"{module}\" for subordinate ids, but libsubid cannot be loaded, so /etc/subuid and \
                     /etc/subgid are used: {reason}"
                );
                checks.push(Check::warning(
                    TOPIC,
                    finding,
                    "install libsubid: libsubid5 in Debian, shadow-utils-subid in RHEL",
                ));
            }
        }
    }
    for (file, option, own) in [("/etc/subuid", "--add-subuids", uid), ("/etc/subgid", "--add-subgids", gid)] {
        let text = fs::read_to_string(file).unwrap_or_default();
        checks.push(subordinate(file, &add(option, name), &text, name, uid, own));
    }
    checks
}

/// The remedy for a user with too few ids in a file.
fn add(option: &str, name: &str) -> String {
    format!("usermod {option} FIRST-LAST {name}, with {ENOUGH} ids that nobody else has")
}

/// Checks the ids that a source lists in the form of subuid(5).
fn subordinate(source: &str, remedy: &str, text: &str, name: &str, uid: u32, own: u32) -> Check {
    let Subordinate { ranges, faults } = Subordinate::parse(text, name, uid, own);
    if let Some(fault) = faults.iter().find(|fault| fault.is_fatal()).or(faults.first()) {
        let effect = if fault.is_fatal() { "no container starts" } else { "its ids are not used" };
        let finding = format!("{}: {effect}", fault.describe(source));
        return Check::problem(TOPIC, finding, format!("correct the line in {source}"));
    }
    let count: u64 = ranges.iter().map(|range| u64::from(range.count)).sum();
    match count {
        0 => Check::problem(TOPIC, format!("{source} has no ids for {name}: most images do not start"), remedy),
        1..ENOUGH => {
            let finding = format!("{source} has only {count} ids for {name}: some images do not start");
            Check::warning(TOPIC, finding, remedy)
        }
        _ => Check::ok(TOPIC, format!("{source} has {count} ids for {name}")),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::*;

    #[test]
    fn subordinate_ids_are_counted() {
        let state = |text: &str| subordinate("/etc/subuid", &add("--add-subuids", "u1"), text, "u1", 1001, 1001).state;
        assert_eq!(state("u1:100000:65536\n"), State::Ok);
        assert_eq!(state("1001:100000:65536\n"), State::Ok);
        assert_eq!(state("u1:100000:32768\nu1:200000:32768\n"), State::Ok);
        assert_eq!(state("u1:100000:32768\n1001:200000:32768\n"), State::Ok);
        assert_eq!(state("u1:100000:1000\n"), State::Warning);
        assert_eq!(state("u2:100000:65536\n"), State::Problem);
    }

    #[test]
    fn a_line_at_fault_is_named() {
        for (text, part) in [
            ("u1:100000:65536\n1001:100000:65536\n", "line 2 of /etc/subuid (\"1001:100000:65536\") overlaps line 1"),
            ("u1:100000:65536\nu1:bad:x\n", "line 2 of /etc/subuid (\"u1:bad:x\") is malformed: its ids are not used"),
        ] {
            let check = subordinate("/etc/subuid", &add("--add-subuids", "u1"), text, "u1", 1001, 1001);
            assert!(check.state == State::Problem && check.finding.contains(part), "{}", check.finding);
        }
    }

    #[test]
    fn a_user_without_ids_is_a_problem() {
        let state = |text: &str| subordinate("/etc/subuid", &add("--add-subuids", "u1"), text, "u1", 1001, 1001).state;
        assert_eq!(state(""), State::Problem);
    }

    #[test]
    fn limits_that_forbid_namespaces_are_problems() {
        let directory = tempfile::tempdir().unwrap();
        for sub in ["user", "kernel"] {
            fs::create_dir(directory.path().join(sub)).unwrap();
        }
        let states = |files: &[(&str, &str)]| -> Vec<State> {
            for (file, value) in files {
                fs::write(directory.path().join(file), format!("{value}\n")).unwrap();
            }
            limits(directory.path()).iter().map(|check| check.state).collect()
        };
        assert_eq!(states(&[]), []);
        assert_eq!(states(&[("user/max_user_namespaces", "96365")]), [State::Ok]);
        assert_eq!(states(&[("user/max_user_namespaces", "5")]), [State::Warning]);
        let forbidden = [
            ("user/max_user_namespaces", "0"),
            ("kernel/unprivileged_userns_clone", "0"),
            ("kernel/apparmor_restrict_unprivileged_userns", "1"),
        ];
        assert_eq!(states(&forbidden), [State::Problem; 3]);
        let allowed = [
            ("user/max_user_namespaces", "1000"),
            ("kernel/unprivileged_userns_clone", "1"),
            ("kernel/apparmor_restrict_unprivileged_userns", "0"),
        ];
        assert_eq!(states(&allowed), [State::Ok; 3]);
    }

    #[test]
    fn a_user_who_is_not_there_is_named() {
        let checks = check(Some("no-such-user"), true);
        assert!(checks.last().is_some_and(|check| check.finding.contains("no-such-user")));
    }
}
