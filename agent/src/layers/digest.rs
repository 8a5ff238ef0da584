//! The check of a layer's SquashFS file: its SHA-256 against the one recorded at migration.
//!
//! The digest is computed through the descriptor that is mounted, so the file cannot be replaced in between. A user who may
//! write the file can change it after the check; the check finds corruption, and files that were exchanged by mistake.

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::unix::fs::{FileExt as _, MetadataExt as _};
use std::sync::{Mutex, PoisonError};

use parallax_config::Verify;
use parallax_format::digest::Sha256;
use parallax_store::hash::Digester;

/// Size of one read in bytes.
const CHUNK: usize = 1 << 20;

/// An error of a check.
#[derive(Debug, thiserror::Error)]
pub enum DigestError {
    /// The file cannot be read to its end.
    #[error("cannot read the file to check it: {0}")]
    Read(io::Error),
    /// The digest differs.
    #[error("its SHA-256 is {found:.16}…, and {recorded:.16}… was recorded when it was migrated")]
    Differs {
        /// The file's SHA-256.
        found: Box<Sha256>,
        /// The recorded SHA-256.
        recorded: Box<Sha256>,
    },
    /// The digest by which the kernel checks the file differs.
    #[error(
        "the kernel checks it by the fs-verity digest {found:.16}…, and {recorded:.16}… was recorded when it was migrated"
    )]
    KernelDiffers {
        /// The file's digest.
        found: Box<Sha256>,
        /// The recorded digest.
        recorded: Box<Sha256>,
    },
}

// The message contains the cause; as a source it would be printed twice.
impl From<io::Error> for DigestError {
    fn from(error: io::Error) -> Self {
        Self::Read(error)
    }
}

/// The state of a file that passed the check; any change of the file changes it.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
struct Checked {
    device: u64,
    inode: u64,
    size: u64,
    changed: (i64, i64),
    digest: Sha256,
}

/// Checks files, as often as it is configured.
#[derive(Debug, Default)]
pub struct Checker {
    when: Mutex<Verify>,
    right: Mutex<HashMap<(u64, u64), Checked>>,
}

impl Checker {
    /// Makes a checker with this configuration.
    #[must_use]
    pub fn new(when: Verify) -> Self {
        Self { when: Mutex::new(when), right: Mutex::default() }
    }

    /// Returns `true` if files are checked at all.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.when() != Verify::Off
    }

    /// Changes the configuration.
    pub fn set(&self, when: Verify) {
        *self.when.lock().unwrap_or_else(PoisonError::into_inner) = when;
    }

    fn when(&self) -> Verify {
        *self.when.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Checks a file that is about to be mounted against its recorded SHA-256; nothing if none was
    /// recorded, as for files of other tools.
    ///
    /// # Errors
    /// [`DigestError`].
    pub fn check(&self, file: &File, recorded: Option<Sha256>) -> Result<(), DigestError> {
        let Some(recorded) = recorded.filter(|_| self.is_on()) else { return Ok(()) };
        let metadata = file.metadata()?;
        let key = (metadata.dev(), metadata.ino());
        let checked = Checked {
            device: key.0,
            inode: key.1,
            size: metadata.size(),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
            digest: recorded,
        };
        let right = || self.right.lock().unwrap_or_else(PoisonError::into_inner);
        if self.when() == Verify::First && right().get(&key) == Some(&checked) {
            return Ok(());
        }
        let found = sha256(file)?;
        if found != recorded {
            return Err(DigestError::Differs { found: Box::new(found), recorded: Box::new(recorded) });
        }
        right().insert(key, checked);
        Ok(())
    }
}

/// Returns the SHA-256 of an open file.
///
/// # Errors
/// Those of reading it.
pub(super) fn sha256(file: &File) -> io::Result<Sha256> {
    let mut hash = Digester::default();
    let mut buffer = vec![0; CHUNK];
    let mut offset = 0;
    loop {
        let read = file.read_at(&mut buffer, offset)?;
        if read == 0 {
            return Ok(hash.finish());
        }
        hash.update(buffer.get(..read).unwrap_or(&buffer));
        offset += read as u64;
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    /// Of "abc", from FIPS 180-2.
    const ABC: &str = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";

    #[test]
    fn a_file_that_was_changed_is_found_even_if_it_was_right_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("layer");
        for when in [Verify::First, Verify::Always] {
            fs::write(&path, "abc").unwrap();
            let checker = Checker::new(when);
            checker.check(&File::open(&path).unwrap(), Sha256::parse(ABC)).unwrap();
            checker.check(&File::open(&path).unwrap(), Sha256::parse(ABC)).unwrap();
            fs::write(&path, "abcd").unwrap();
            let error = checker.check(&File::open(&path).unwrap(), Sha256::parse(ABC)).unwrap_err().to_string();
            assert!(error.contains("ba7816bf8f01cfea…") && error.contains("was recorded"), "{error}");
        }
    }

    #[test]
    fn nothing_is_read_when_it_is_off_or_nothing_was_recorded() {
        let checker = Checker::new(Verify::Off);
        // Reading a directory would fail.
        checker.check(&File::open("/").unwrap(), Sha256::parse(ABC)).unwrap();
        Checker::new(Verify::Always).check(&File::open("/").unwrap(), None).unwrap();
        assert!(Checker::new(Verify::Always).check(&File::open("/").unwrap(), Sha256::parse(ABC)).is_err());
    }
}
