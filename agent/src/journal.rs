//! The journal of leases, for a restarted agent: one file per lease, written before the step's directory is made and removed
//! after it is gone. It lies on the node's `/run`, so after a reboot there is neither journal nor mount.
//!
//! An agent may find what an older or a newer one wrote. Whatever a file contains, its name ([`Header`]) has the lease's step and
//! who owns it, and that never changes. So a step whose entry cannot be read stays as it is until its owner ends. Fields are added
//! with a default and without a new version; [`VERSION`] rises when an older agent would do harm by passing over what is new.

use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::UNIX_EPOCH;

use parallax_format::digest::ImageId;
use parallax_protocol::message::{LeaseRequest, Mode, StepId};
use parallax_protocol::node::SourceStatus;
use parallax_sys::process::{Process, start_time};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::identity::Identity;
use crate::layers::LayerEntry;
use crate::step::disk::DiskDirectory;

/// The version of the entries that this agent writes. 0 is that of entries without one, which have no identity.
pub const VERSION: u32 = 1;
/// The image of a lease whose entry cannot be read.
const UNKNOWN_IMAGE: &str = "(unknown: the journal entry cannot be read)";

/// The process that owns a lease: the step's slurmstepd.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owner {
    pid: i32,
    start_time: u64,
}

impl Owner {
    /// Returns the process that has this pid now.
    ///
    /// # Errors
    /// No such process.
    pub fn of(pid: i32) -> io::Result<Self> {
        Ok(Self { pid, start_time: start_time(pid)? })
    }

    /// Returns the process's pid, if it is alive.
    #[must_use]
    pub fn pid_if_alive(&self) -> Option<i32> {
        start_time(self.pid).is_ok_and(|time| time == self.start_time).then_some(self.pid)
    }

    /// Opens the process, if it is still the same one.
    #[must_use]
    pub fn open_process(&self) -> Option<Process> {
        let process = Process::open(self.pid).ok()?;
        (start_time(self.pid).ok()? == self.start_time).then_some(process)
    }
}

/// The unique key of a lease: the job, the step and the restart count, and the name of the step's directory, in
/// which a random number is. A step that is given a second lease after its first one has another key.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct LeaseKey {
    /// The step.
    pub step: StepId,
    /// The name of the step's directory.
    pub directory: String,
}

/// The record of a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The version of the format.
    #[serde(default)]
    pub version: u32,
    /// The request.
    pub request: LeaseRequest,
    /// The name of the step's directory.
    pub key: String,
    /// The owner of the lease.
    pub owner: Owner,
    /// The layers it uses.
    pub layers: Vec<LayerEntry>,
    /// Time of the grant in seconds since 1970.
    pub since: u64,
    /// The image and the store it is in.
    #[serde(default)]
    pub image: Option<StoreImage>,
    /// The names of that image when the lease was granted. The requested name need not be among them: it comes from the user.
    #[serde(default)]
    pub image_names: Vec<String>,
    /// The source of the layers. `None` for an image that Podman pulls, and in entries of agents that did not record it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<SourceStatus>,
    /// The step's user; missing in entries of agents that looked the user up once more at the end.
    #[serde(default)]
    pub identity: Option<Identity>,
    /// The control group of the step, or else of its job, as the owner's was when the lease was requested. `None` where Slurm does not
    /// track processes by control groups, and in entries of agents that did not record it.
    #[serde(default)]
    pub control_group: Option<String>,
    /// The site's directory on a disk of the node in which the lease has its writable layer, in a directory with the lease's key as its
    /// name. `None` if the layer is in memory.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub scratch: Option<PathBuf>,
    /// The directory of the container that the step shares with others; the step then has none of its own.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

/// An image of a store.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StoreImage {
    /// The store's path, as it is configured.
    pub store: PathBuf,
    /// The image's id.
    pub id: ImageId,
}

impl Entry {
    /// The step.
    #[must_use]
    pub fn step(&self) -> StepId {
        self.request.step
    }

    /// The name of the directory that the step's processes use.
    #[must_use]
    pub fn directory(&self) -> &str {
        self.container.as_deref().unwrap_or(&self.key)
    }

    /// The step's user, as known when the lease was granted.
    #[must_use]
    pub fn user(&self) -> Identity {
        self.identity.clone().unwrap_or_else(|| Identity::of_ids(self.request.uid, self.request.gid))
    }

    /// The lease's directory on a disk of the node.
    #[must_use]
    pub fn disk_directory(&self) -> Option<DiskDirectory> {
        self.scratch.clone().map(|scratch| DiskDirectory { scratch, name: self.key.clone() })
    }

    fn header(&self) -> Header {
        Header { key: self.lease_key(), owner: self.owner }
    }

    /// Returns the lease's key.
    #[must_use]
    pub fn lease_key(&self) -> LeaseKey {
        LeaseKey { step: self.request.step, directory: self.key.clone() }
    }
}

/// The contents of a file's name: `KEY.RESTART.PID.START_TIME.json`. Every version of the agent writes and reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    /// The lease's key.
    pub key: LeaseKey,
    /// The owner.
    pub owner: Owner,
}

impl Header {
    fn file_name(&self) -> String {
        let (key, owner) = (&self.key, &self.owner);
        format!("{}.{}.{}.{}.json", key.directory, key.step.restart, owner.pid, owner.start_time)
    }

    fn parse(file_name: &str) -> Option<Self> {
        let mut fields = file_name.strip_suffix(".json")?.rsplitn(4, '.');
        let start_time = fields.next()?.parse().ok()?;
        let pid = fields.next()?.parse().ok()?;
        let restart = fields.next()?.parse().ok()?;
        let directory = fields.next()?.to_owned();
        let (job, step) = StepId::numbers(directory.rsplit_once('-')?.0).ok()?;
        let key = LeaseKey { step: StepId { job, step, restart }, directory };
        Some(Self { key, owner: Owner { pid, start_time } })
    }
}

/// The contents of a file of the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// An entry.
    Entry(Box<Entry>),
    /// A file that this agent cannot read, with the header from its name, and the image if that could be parsed.
    Unreadable {
        /// The header from the file's name.
        header: Header,
        /// The image.
        image: Option<StoreImage>,
        /// The reason, a part of a sentence.
        reason: String,
    },
}

/// An entry for a lease of which the header alone is known, and whose step's directory is `directory`: its owner is the step's user.
#[must_use]
pub fn entry_of_unreadable(header: &Header, image: Option<StoreImage>, directory: &Path) -> Entry {
    use std::os::unix::fs::MetadataExt as _;
    let found = fs::symlink_metadata(directory);
    let (uid, gid) = found.as_ref().map_or((u32::MAX, u32::MAX), |found| (found.uid(), found.gid()));
    let since = found.and_then(|found| found.created().or_else(|_| found.modified())).ok();
    let since = since.and_then(|time| time.duration_since(UNIX_EPOCH).ok()).map_or(0, |time| time.as_secs());
    let request = LeaseRequest {
        step: header.key.step,
        uid,
        gid,
        groups: None,
        image: UNKNOWN_IMAGE.to_owned(),
        image_id: None,
        mode: Mode::default(),
        memory: None,
        as_root: false,
        container: None,
        rule: None,
    };
    let key = header.key.directory.clone();
    Entry {
        version: VERSION,
        request,
        key,
        owner: header.owner,
        layers: Vec::new(),
        since,
        image,
        image_names: Vec::new(),
        source: None,
        identity: None,
        control_group: None,
        scratch: None,
        container: None,
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
    /// Those of the system calls.
    pub fn write(&self, entry: &Entry) -> io::Result<()> {
        let path = self.directory.join(entry.header().file_name());
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
    /// Those of the system calls.
    pub fn remove(&self, entry: &Entry) -> io::Result<()> {
        match fs::remove_file(self.directory.join(entry.header().file_name())) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns all entries. Partial files, and malformed files without a header, are logged and removed: the directories of their
    /// steps are then released as stale.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn read(&self) -> io::Result<Vec<Recorded>> {
        let mut all = Vec::new();
        for file in fs::read_dir(&self.directory)? {
            let path = file?.path();
            match self.read_file(&path) {
                Ok(recorded) => all.push(recorded),
                Err(error) => {
                    tracing::warn!(file = %path.display(), "journal entry removed: {error}");
                    fs::remove_file(&path)?;
                }
            }
        }
        Ok(all)
    }

    /// Whether there is an entry with this key, of any version.
    ///
    /// # Errors
    /// The directory cannot be read.
    pub fn has(&self, key: &str) -> io::Result<bool> {
        for file in fs::read_dir(&self.directory)? {
            let header = file?.file_name().to_str().and_then(Header::parse);
            if header.is_some_and(|header| header.key.directory == key) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    fn read_file(&self, path: &Path) -> io::Result<Recorded> {
        if path.extension().is_none_or(|extension| extension != "json") {
            return Err(io::Error::other("partial file"));
        }
        let header = path.file_name().and_then(|name| Header::parse(name.to_str()?));
        let parsed = fs::read(path).and_then(|bytes| parse(&bytes, header.as_ref()).map_err(io::Error::other));
        match (parsed, header) {
            (Ok(recorded), Some(_)) => Ok(recorded),
            // Agents without versions named the file after the directory alone.
            (Ok(Recorded::Entry(entry)), None) => {
                fs::rename(path, self.directory.join(entry.header().file_name()))?;
                Ok(Recorded::Entry(entry))
            }
            (Ok(Recorded::Unreadable { reason, .. }), None) => Err(io::Error::other(reason)),
            (Err(error), Some(header)) => Ok(Recorded::Unreadable { header, image: None, reason: error.to_string() }),
            (Err(error), None) => Err(error),
        }
    }
}

/// Parses a file of the journal; `header` is parsed from its name, if the name has one.
///
/// # Errors
/// The reason why the file is malformed, if it has no header either.
pub fn parse(bytes: &[u8], header: Option<&Header>) -> Result<Recorded, String> {
    let value: Result<Value, _> = serde_json::from_slice(bytes);
    let image = value.as_ref().ok().and_then(|value| serde_json::from_value(value.get("image")?.clone()).ok());
    let read = value.map_err(|error| error.to_string()).and_then(|value| {
        let version = value.get("version").map_or(Some(0), Value::as_u64);
        match version {
            Some(version) if version <= u64::from(VERSION) => {}
            Some(version) => return Err(format!("unsupported version {version}, this agent reads up to {VERSION}")),
            None => return Err("its version is not a number".to_owned()),
        }
        let entry: Entry = serde_json::from_value(value).map_err(|error| error.to_string())?;
        // A key is the name of one directory.
        let fits = header.map_or_else(
            || entry.key.starts_with(&format!("{}-", entry.step())) && !entry.key.contains('/'),
            |header| *header == entry.header(),
        );
        if fits { Ok(entry) } else { Err("the entry does not match the file's name".to_owned()) }
    });
    match (read, header) {
        (Ok(entry), _) => Ok(Recorded::Entry(Box::new(entry))),
        (Err(reason), Some(header)) => Ok(Recorded::Unreadable { header: header.clone(), image, reason }),
        (Err(reason), None) => Err(reason),
    }
}

#[cfg(test)]
mod tests;
