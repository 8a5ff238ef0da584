//! Disks: files in memory with a file system of their own.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Command;

use integration_tests::cluster::Done;

/// Size of a disk in bytes.
const SIZE: u64 = 512 << 20;

/// A mounted disk. It is unmounted and removed with this value.
pub(crate) struct Disk {
    directory: tempfile::TempDir,
}

impl Disk {
    /// Makes a disk with the file system of a command (`mkfs.ext4 -q`) and mounts it with some options.
    pub(crate) fn new(mkfs: &[&str], options: &str) -> anyhow::Result<Self> {
        let directory = tempfile::tempdir()?;
        let disk = Self { directory };
        let image = disk.image();
        File::create(&image)?.set_len(SIZE)?;
        std::fs::create_dir(disk.path())?;
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image))?;
        run(Command::new("mount").args(["-o", options]).arg(&image).arg(disk.path()))?;
        Ok(disk)
    }

    /// The file in which the disk is.
    pub(crate) fn image(&self) -> PathBuf {
        self.directory.path().join("image")
    }

    /// The place at which the disk is mounted.
    pub(crate) fn path(&self) -> PathBuf {
        self.directory.path().join("disk")
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        if let Err(error) = run(Command::new("umount").arg(self.path())) {
            eprintln!("{error:#}");
        }
    }
}

/// Runs a command; returns what it printed.
pub(crate) fn run(command: &mut Command) -> anyhow::Result<String> {
    Ok(Done::from(command.output()?).success()?.stdout)
}

/// Runs a shell script in a directory as a user who is not root.
pub(crate) fn as_user(directory: &Path, script: &str) -> anyhow::Result<Done> {
    let mut command = Command::new("setpriv");
    command.args(["--reuid=1001", "--regid=1001", "--clear-groups", "--inh-caps=-all", "sh", "-c", script]);
    Ok(Done::from(command.current_dir(directory).output()?))
}
