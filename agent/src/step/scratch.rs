//! The size of a step's tmpfs: what the administrator configured, or less where the job has a memory limit.
//!
//! What is in a tmpfs counts as the memory of the job whose tasks wrote it. Without a smaller size a full writable layer would end in
//! the OOM killer; with it the writer gets `ENOSPC`, as on a disk.

use std::fs;
use std::path::{Path, PathBuf};

/// The mount point of control groups.
const CONTROL_GROUPS: &str = "/sys/fs/cgroup";
/// Memory that is left to the processes, at least, where the limit allows it.
const MIN_RESERVE: u64 = 64 << 20;
/// Bytes of the file system for each file that it may have. This is the kernel's own default (`tmpfs(5)`, `nr_inodes`): empty files take
/// memory, too.
const BYTES_PER_FILE: u64 = 4096;

/// The options of a step's tmpfs.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Size {
    /// `size`, as `tmpfs(5)` takes it.
    pub size: String,
    /// `nr_inodes`, where it is not the kernel's default.
    pub files: Option<u64>,
}

impl Size {
    /// Chooses the size: the one that is configured, or what a memory limit in bytes leaves room for, if that is less.
    /// `total` is the memory of the node.
    #[must_use]
    pub fn new(configured: &str, limit: Option<u64>, total: u64) -> Self {
        let most = limit.map(room).filter(|most| bytes(configured, total).is_none_or(|bytes| *most < bytes));
        match most {
            Some(most) => Self { size: most.to_string(), files: Some(most / BYTES_PER_FILE) },
            None => Self { size: configured.to_owned(), files: None },
        }
    }
}

/// The part of a memory limit that files may take: all but an eighth or [`MIN_RESERVE`], and half of a small limit.
fn room(limit: u64) -> u64 {
    limit - (limit / 8).max(MIN_RESERVE).min(limit / 2)
}

/// The bytes that a size means (`tmpfs(5)`), in percent of `total`; `None` for what is no size.
pub(super) fn bytes(text: &str, total: u64) -> Option<u64> {
    let unit = text.chars().last().filter(|last| !last.is_ascii_digit());
    let number: u64 = text.trim_end_matches(|c: char| !c.is_ascii_digit()).parse().ok()?;
    match unit.map(|unit| unit.to_ascii_lowercase()) {
        None => Some(number),
        Some('k') => number.checked_mul(1 << 10),
        Some('m') => number.checked_mul(1 << 20),
        Some('g') => number.checked_mul(1 << 30),
        Some('%') => Some(total / 100 * number),
        Some(_) => None,
    }
}

/// The lowest memory limit, in bytes, of the control groups that a process is in; `None` without a limit.
#[must_use]
pub fn memory_limit(pid: i32) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).ok()?;
    limits(&text).into_iter().filter_map(|file| fs::read_to_string(file).ok()?.trim().parse().ok()).min()
}

/// The files that hold the limits of all control groups on the way to a process's, by the text of `/proc/PID/cgroup`. Where there is no
/// limit, cgroup/v2 has `max`, and cgroup/v1 a number that is larger than any memory.
fn limits(text: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for line in text.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, file) = match controllers {
            "" => (CONTROL_GROUPS.to_owned(), "memory.max"),
            _ if controllers.split(',').any(|name| name == "memory") => {
                (format!("{CONTROL_GROUPS}/{controllers}"), "memory.limit_in_bytes")
            }
            _ => continue,
        };
        let below = Path::new(path).strip_prefix("/").unwrap_or(Path::new(""));
        files.extend(below.ancestors().map(|group| Path::new(&root).join(group).join(file)));
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    const GIB: u64 = 1 << 30;

    #[test]
    fn a_limit_of_the_job_makes_the_size_smaller() {
        let size = |configured, limit| Size::new(configured, limit, 64 * GIB);
        assert_eq!(size("50%", None), Size { size: "50%".into(), files: None });
        assert_eq!(size("50%", Some(63 * GIB)), Size { size: "50%".into(), files: None });
        assert_eq!(size("50%", Some(8 * GIB)), Size { size: (7 * GIB).to_string(), files: Some(7 * GIB / 4096) });
        assert_eq!(size("1g", Some(8 * GIB)).size, "1g");
        assert_eq!(size("8G", Some(8 * GIB)).size, (7 * GIB).to_string());
    }

    #[test]
    fn processes_keep_some_of_a_small_limit() {
        assert_eq!(room(200 << 20), 136 << 20);
        assert_eq!(room(100 << 20), 50 << 20);
        assert_eq!(room(0), 0);
    }

    #[test]
    fn sizes_are_read_as_tmpfs_does() {
        let all = [("7", 7), ("2k", 2048), ("2M", 2 << 20), ("3g", 3 << 30), ("50%", 500)];
        assert!(all.iter().all(|(text, expected)| bytes(text, 1000) == Some(*expected)));
        assert_eq!((bytes("", 1), bytes("7x", 1), bytes("%", 1)), (None, None, None));
    }

    #[test]
    fn limits_are_read_along_the_way_in_both_versions() {
        let files = |text: &str| limits(text).iter().map(|file| file.display().to_string()).collect::<Vec<_>>();
        let unified = ["a/job_6/memory.max", "a/memory.max", "memory.max"].map(|file| format!("/sys/fs/cgroup/{file}"));
        assert_eq!(files("0::/a/job_6\n"), unified);
        let first = ["slurm/memory.limit_in_bytes", "memory.limit_in_bytes"];
        let first = first.map(|file| format!("/sys/fs/cgroup/memory/{file}"));
        assert_eq!(files("9:name=systemd:/x\n4:memory:/slurm\n3:cpuset:/slurm\nx"), first);
    }
}
