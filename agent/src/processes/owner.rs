//! The users that processes belong to.

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;

use crate::identity::{Identity, Ids};

/// Returns the pids of the user's processes.
///
/// # Errors
/// `/proc` cannot be read.
pub fn of(identity: &Identity) -> io::Result<Vec<i32>> {
    let mut found = Vec::new();
    for entry in fs::read_dir("/proc")? {
        found.extend(entry?.file_name().to_str().and_then(|name| name.parse::<i32>().ok()));
    }
    found.retain(|&pid| is_users(pid, identity));
    Ok(found)
}

pub(super) fn is_users(pid: i32, identity: &Identity) -> bool {
    owner(pid).is_some_and(|uid| owns(&identity.users, uid))
}

/// Returns the effective user of a process: the owner of its directory in `/proc` (`proc(5)`), which needs no access to the process.
fn owner(pid: i32) -> Option<u32> {
    fs::metadata(format!("/proc/{pid}")).ok().map(|metadata| metadata.uid())
}

fn owns(ids: &Ids, uid: u32) -> bool {
    uid == ids.own || ids.subordinate.iter().any(|range| uid >= range.start && uid - range.start < range.count)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::SubordinateRange;

    #[test]
    fn nobody_elses_processes_are_looked_at() {
        let ids = Ids { own: 7, subordinate: vec![SubordinateRange { start: 100, count: 10 }] };
        assert!(owns(&ids, 7) && owns(&ids, 100) && owns(&ids, 109));
        assert!(!owns(&ids, 0) && !owns(&ids, 110) && !owns(&ids, 99));
    }

    #[test]
    fn a_process_has_an_owner() {
        assert_eq!(owner(i32::try_from(std::process::id()).unwrap()), Some(rustix::process::geteuid().as_raw()));
    }
}
