//! The process that answers one question.

use std::ffi::CString;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::path::Path;

use nix::errno::Errno;
use nix::unistd::{Gid, getgrouplist};
use parallax_config::Config;
use parallax_probe::subordinate::Listed;
use parallax_probe::{Findings, probe};
use parallax_protocol::accounts::{self, Accounts};
use rustix::process::{Signal, set_parent_process_death_signal};
use rustix::thread::{CapabilitySet, CapabilitySets, set_capabilities, set_no_new_privs};
use serde::Serialize;

use super::query::{Query, User};

/// Writes the answer to a question. Returns the exit code of the process.
pub(super) fn write(query: &Query, reply: OwnedFd, config: &Path) -> i32 {
    if set_parent_process_death_signal(Some(Signal::KILL)).is_err() {
        return 1;
    }
    let written = match query {
        Query::UserById(uid) => answer(reply, as_nobody_special().and_then(|()| user_by_id(*uid))),
        Query::UserByName(name) => answer(reply, as_nobody_special().and_then(|()| user_by_name(name))),
        Query::Groups { user, gid } => answer(reply, as_nobody_special().and_then(|()| groups(user, *gid))),
        Query::Accounts { uid, groups } => answer(reply, as_nobody_special().map(|()| accounts(*uid, groups))),
        Query::SubordinateIds { user, uid } => answer(reply, as_nobody_special().map(|()| subordinate_ids(user, *uid))),
        Query::Probe => answer(reply, trials(config)),
    };
    i32::from(written.is_err())
}

fn answer<T: Serialize>(reply: OwnedFd, answer: Result<T, String>) -> io::Result<()> {
    Ok(serde_json::to_writer(File::from(reply), &answer)?)
}

/// Drops the privileges that a look-up does not need: it runs third-party code, which talks to the network. Root's id is kept, as some
/// modules read files that only root can, and the capability to read such files of other accounts.
fn as_nobody_special() -> Result<(), String> {
    let kept = CapabilitySet::DAC_READ_SEARCH;
    let sets = CapabilitySets { effective: kept, permitted: kept, inheritable: CapabilitySet::empty() };
    // Without new privileges root's programs get no capabilities back either.
    set_no_new_privs(true)
        .and_then(|()| set_capabilities(None, sets))
        .map_err(|error| format!("cannot drop capabilities: {error}"))
}

fn user_by_id(uid: u32) -> Result<Option<User>, String> {
    found(nix::unistd::User::from_uid(uid.into()))
}

fn user_by_name(name: &str) -> Result<Option<User>, String> {
    found(nix::unistd::User::from_name(name))
}

fn found(user: nix::Result<Option<nix::unistd::User>>) -> Result<Option<User>, String> {
    match user {
        Ok(user) => Ok(user.map(|user| User {
            name: user.name,
            uid: user.uid.as_raw(),
            gid: user.gid.as_raw(),
            home: user.dir,
        })),
        // Some modules say so that there is none (getpwnam(3)).
        Err(Errno::ENOENT | Errno::ESRCH) => Ok(None),
        Err(error) => Err(error.desc().to_owned()),
    }
}

fn groups(user: &str, gid: u32) -> Result<Vec<u32>, String> {
    let user = CString::new(user).map_err(|error| error.to_string())?;
    let groups = getgrouplist(&user, Gid::from_raw(gid)).map_err(|error| error.desc().to_owned())?;
    Ok(groups.into_iter().map(Gid::as_raw).collect())
}

/// The names of a user and of groups. What has no name, or whose look-up fails, is left out: a container has no need of it.
fn accounts(uid: u32, groups: &[u32]) -> Accounts {
    let user = nix::unistd::User::from_uid(uid.into()).ok().flatten();
    let user = user.zip(groups.first()).map(|(user, gid)| accounts::User {
        name: user.name,
        uid,
        gid: *gid,
        gecos: user.gecos.to_string_lossy().into_owned(),
        home: user.dir.display().to_string(),
        shell: user.shell.display().to_string(),
    });
    let group = |gid: &u32| {
        let found = nix::unistd::Group::from_gid(Gid::from_raw(*gid)).ok()??;
        Some(accounts::Group { name: found.name, gid: *gid })
    };
    Accounts { user, groups: groups.iter().filter_map(group).collect() }
}

/// Returns `None` if libsubid is not installed.
fn subordinate_ids(user: &str, uid: u32) -> Option<Listed> {
    Listed::by_module(user, uid).ok()
}

fn trials(config: &Path) -> Result<Findings, String> {
    let config = Config::load(config).map_err(|error| error.to_string())?;
    Ok(probe(&config.agent.mount_program, config.lazy.enabled))
}
