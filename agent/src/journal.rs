//! What an agent that is started anew must know: one file per lease, written before the step's directory is made and removed
//! after it is gone. It lies on the node's `/run`, so after a reboot there is neither journal nor mount.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};

use parallax_protocol::message::{LeaseRequest, StepId};
use parallax_sys::process::{Process, start_time};
use serde::{Deserialize, Serialize};

use crate::layers::LayerEntry;

/// The process that holds a lease: the step's slurmstepd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pid: i32,
    start_time: u64,
}

impl Owner {
    /// The process that has this number now.
    ///
    /// # Errors
    /// There is none.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start_time: start_time(pid)? })
    }

    /// Takes hold of the process, if it is still the same one.
    #[must_use]
    pub fn hold(&self) -> Option<Process> {
        let process = Process::open(self.pid).ok()?;
        (start_time(self.pid).ok()? == self.start_time).then_some(process)
    }
}

/// What tells a lease from every other one: the job, the step and the restart count, and the name of the step's directory, in
/// which a random number is. A step that is given a second lease after its first one has another key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    /// The step.
    pub step: StepId,
    /// The name of the step's directory.
    pub directory: String,
}

/// A lease as it is written down.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// What was asked for.
    pub request: LeaseRequest,
    /// The name of the step's directory.
    pub key: String,
    /// Who holds the lease.
    pub owner: Owner,
    /// The layers it uses.
    pub layers: Vec<LayerEntry>,
    /// When it was granted, seconds since 1970.
    pub since: u64,
    /// The image and the store it is in.
    #[serde(default)]
    pub image: Option<HeldImage>,
    /// The names of that image when the lease was granted. What was asked for need not be among them: it is what the user says.
    #[serde(default)]
    pub image_names: Vec<String>,
}

/// An image of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct HeldImage {
    /// The store's path, as it is configured.
    pub store: PathBuf,
    /// The image's id.
    pub id: String,
}

impl Entry {
    /// The step.
    #[must_use]
    pub fn step(&self) -> StepId {
        self.request.step
    }

    /// What tells this lease from every other one.
    #[must_use]
    pub fn lease_key(&self) -> LeaseKey {
        LeaseKey { step: self.request.step, directory: self.key.clone() }
    }
}

/// The directory of the entries.
#[derive(Debug)]
pub struct Journal {
    directory: PathBuf,
}

impl Journal {
    /// A journal in a directory that exists and that only root can enter.
    #[must_use]
    pub fn new(directory: PathBuf) -> Self {
        Self { directory }
    }

    /// Writes an entry, whole or not at all.
    ///
    /// # Errors
    /// What the system said.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        let path = self.path(&entry.key);
        let partial = path.with_extension("new");
        let written = fs::File::create(&partial)
            .and_then(|mut file| file.write_all(&serde_json::to_vec(entry)?))
            .and_then(|()| fs::rename(&partial, path));
        if written.is_err() {
            // Where the node's memory for files is used up there is room for the name at most.
            let _ = fs::remove_file(&partial);
        }
        written
    }

    /// Removes an entry; one that is not there is no error.
    ///
    /// # Errors
    /// What the system said.
    pub fn remove(&self, key: &str) -> io::Result<()> {
        match fs::remove_file(self.path(key)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// All entries. One that can't be read is logged and removed: its step's directory is then nobody's, and is taken
    /// down with the rest of what is nobody's.
    ///
    /// # Errors
    /// The directory can't be read.
    pub fn read(&self) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            let path = file?.path();
            match read_entry(&path) {
                Ok(entry) => entries.push(entry),
                Err(error) => {
                    tracing::warn!(file = %path.display(), "a journal entry is of no use: {error}");
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(entries)
    }

    fn path(&self, key: &str) -> PathBuf {
        self.directory.join(format!("{key}.json"))
    }
}

fn read_entry(path: &Path) -> io::Result<Entry> {
    if path.extension().is_none_or(|extension| extension != "json") {
        return Err(io::Error::other("it was not finished"));
    }
    Ok(serde_json::from_slice(&fs::read(path)?)?)
}

#[cfg(test)]
mod tests {
    use parallax_protocol::message::Mode;

    use super::*;

    fn entry() -> Entry {
        let step = StepId { job: 1, step: 0, restart: 0 };
        let request = LeaseRequest {
            step,
            uid: 1001,
            gid: 1001,
            groups: None,
            image: "a".into(),
            image_id: None,
            mode: Mode::Run,
        };
        let owner = Owner::of(i32::try_from(std::process::id()).unwrap()).unwrap();
        Entry {
            request,
            key: "1.0-0001".into(),
            owner,
            layers: Vec::new(),
            since: 7,
            image: None,
            image_names: Vec::new(),
        }
    }

    #[test]
    fn entries_come_back_and_go() {
        let directory = tempfile::tempdir().unwrap();
        let journal = Journal::new(directory.path().to_owned());
        journal.write(&entry()).unwrap();
        assert_eq!(journal.read().unwrap(), [entry()]);
        journal.remove("1.0-0001").unwrap();
        journal.remove("1.0-0001").unwrap();
        assert!(journal.read().unwrap().is_empty());
    }

    #[test]
    fn what_was_half_written_is_cleared_away() {
        let directory = tempfile::tempdir().unwrap();
        fs::write(directory.path().join("a.new"), "{").unwrap();
        fs::write(directory.path().join("b.json"), "{").unwrap();
        assert!(Journal::new(directory.path().to_owned()).read().unwrap().is_empty());
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
    }

    #[test]
    fn an_owner_is_told_from_a_later_process_with_its_number() {
        let mut owner = entry().owner;
        assert!(owner.hold().is_some());
        owner.start_time += 1;
        assert!(owner.hold().is_none());
    }
}
