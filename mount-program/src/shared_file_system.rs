//! Kind of the shared file system of a store, by the number that `statfs(2)` returns.
//!
//! This program never takes a lock or writes in a store. The kind is for the log, where it helps to explain slow starts.

use std::os::fd::AsFd;

use rustix::fs::fstatfs;

/// The numbers of `linux/magic.h` and of the file systems' own sources.
const KNOWN: [(u32, &str); 13] = [
    (0x0000_6969, "NFS"),
    (0x0BD0_0BD0, "Lustre"),
    (0x4750_4653, "GPFS"),
    (0x1983_0326, "BeeGFS"),
    (0x00C3_6400, "Ceph"),
    (0x6573_5546, "FUSE"),
    (0xFE53_4D42, "SMB"),
    (0xFF53_4D42, "CIFS"),
    (0x0102_1997, "9p"),
    (0x5346_414F, "AFS"),
    (0x0116_1970, "GFS2"),
    (0x7461_636F, "OCFS2"),
    (0xAAD7_AAEA, "PanFS"),
];

/// Returns the shared file system of an open file, if known.
///
/// # Errors
/// Those of `fstatfs(2)`.
pub(crate) fn of(file: impl AsFd) -> rustix::io::Result<Option<&'static str>> {
    Ok(name(i128::from(fstatfs(file)?.f_type)))
}

/// Returns the name for a number; some architectures extend its sign.
fn name(number: i128) -> Option<&'static str> {
    KNOWN.iter().find(|(known, _)| i128::from(*known) == number & 0xFFFF_FFFF).map(|(_, name)| *name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_that_statfs_gives() {
        for (number, expected) in [
            (0x6969, Some("NFS")),
            (0x0BD0_0BD0, Some("Lustre")),
            (0x4750_4653, Some("GPFS")),
            (0x1983_0326, Some("BeeGFS")),
            (0x00C3_6400, Some("Ceph")),
            (0x6573_5546, Some("FUSE")),
            (0xFE53_4D42, Some("SMB")),
            (-0x01AC_B2BE, Some("SMB")),
            (0xEF53, None),
            (0x0102_1994, None),
            (0x794C_7630, None),
        ] {
            assert_eq!(name(number), expected, "{number:#x}");
        }
    }

    #[test]
    fn a_file_of_this_machine_can_be_asked_about() {
        of(std::fs::File::open("/proc/self/stat").unwrap()).unwrap();
    }
}
