//! Disks: files in memory with a file system of their own.

use std::fs::File;
use std::path::Path;
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
        let image = directory.path().join("image");
        File::create(&image)?.set_len(SIZE)?;
        let disk = Self { directory };
        std::fs::create_dir(disk.path())?;
        run(Command::new(mkfs[0]).args(&mkfs[1..]).arg(&image))?;
        run(Command::new("mount").args(["-o", options]).arg(&image).arg(disk.path()))?;
        Ok(disk)
    }

    /// The place at which the disk is mounted.
    pub(crate) fn path(&self) -> std::path::PathBuf {
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
