//! The look-up of the user's and their groups' names in the node's databases (`nsswitch.conf(5)`).
//!
//! Modules of these databases may start threads, which would keep the process from entering a user namespace, and may hang. So a
//! child process looks the names up while its parent does other work.

use std::ffi::CStr;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::os::fd::OwnedFd;

use nix::unistd::{Gid, Group as Found, User as FoundUser, getgid, getgroups, getuid};
use parallax_protocol::step_file::StepFile;
use parallax_sys::process::{Process, in_child};
use rustix::pipe::{PipeFlags, pipe_with};
use rustix::process::{Pid, Signal, WaitOptions, set_parent_process_death_signal, waitpid};

use crate::accounts::{Accounts, Group, User};

/// A look-up that has begun.
#[derive(Debug)]
pub(crate) struct LookUp {
    process: Process,
    answer: OwnedFd,
}

impl LookUp {
    /// Begins the look-up for the user of this process.
    ///
    /// # Errors
    /// Those of `fork(2)` and `pipe(2)`.
    pub(crate) fn begin(step: &StepFile) -> io::Result<Self> {
        let (answer, writer) = pipe_with(PipeFlags::CLOEXEC)?;
        let process = in_child(|| match answer_of(step, writer) {
            Ok(()) => 0,
            Err(_) => 1,
        })?;
        Ok(Self { process, answer })
    }

    /// Waits for the end of the look-up and returns the names.
    ///
    /// # Errors
    /// The child has failed.
    pub(crate) fn finish(self) -> io::Result<Accounts> {
        let mut bytes = Vec::new();
        File::from(self.answer).read_to_end(&mut bytes)?;
        waitpid(Pid::from_raw(self.process.pid()), WaitOptions::empty())?;
        Ok(serde_json::from_slice(&bytes)?)
    }
}

fn answer_of(step: &StepFile, writer: OwnedFd) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::KILL))?;
    File::from(writer).write_all(&serde_json::to_vec(&accounts(step))?)
}

/// The names of this process's user and groups. A group without a name is left out; a user who has none gets that of the step.
fn accounts(step: &StepFile) -> Accounts {
    let (uid, gid) = (getuid(), getgid());
    let home = || step.home.as_ref().map_or_else(|| "/".to_owned(), |home| home.display().to_string());
    let user = match FoundUser::from_uid(uid) {
        Ok(Some(found)) => User {
            name: found.name,
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            gecos: text(&found.gecos),
            home: found.dir.display().to_string(),
            shell: found.shell.display().to_string(),
        },
        _ => User {
            name: step.user.clone(),
            uid: uid.as_raw(),
            gid: gid.as_raw(),
            gecos: String::new(),
            home: home(),
            shell: "/bin/sh".to_owned(),
        },
    };
    let mut ids = vec![gid];
    ids.extend(getgroups().unwrap_or_default().into_iter().filter(|other| *other != gid));
    Accounts { user: Some(user), groups: ids.into_iter().filter_map(group).collect() }
}

fn group(gid: Gid) -> Option<Group> {
    let found = Found::from_gid(gid).ok()??;
    Some(Group { name: found.name, gid: gid.as_raw() })
}

fn text(bytes: &CStr) -> String {
    bytes.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use nix::unistd::Uid;

    use super::*;

    #[test]
    fn a_user_without_a_name_gets_the_steps() {
        let step = serde_json::json!({
            "image": "a", "user": "u1", "environment": [], "mounts": [], "mount_home": true, "mount_workdir": true,
            "podman": "/usr/bin/podman", "start_timeout": 1
        });
        let accounts = accounts(&serde_json::from_value(step).unwrap());
        let user = accounts.user.unwrap();
        let expected = FoundUser::from_uid(Uid::current()).unwrap().map_or_else(|| "u1".to_owned(), |user| user.name);
        assert_eq!((user.name, user.uid), (expected, Uid::current().as_raw()));
        assert!(accounts.groups.iter().all(|group| !group.name.is_empty()));
    }
}
