//! The kinds of file systems, and what each can do.
//!
//! The type of a mount says more than the number of `statfs(2)`: all file systems in user space have one number. The abilities are
//! those of the kernel's sources (`fs/`) and of the file systems' own manuals. [`Can::Depends`] is what a mount option, a server or a
//! release decides: it has to be tried. What a kind cannot do need not be tried.

/// Whether a file system can do something.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Can {
    /// It can.
    Yes,
    /// It cannot.
    No,
    /// Its version, its server or its mount options decide.
    Depends,
}

use Can::{Depends, No, Yes};

/// Where a file system keeps its files.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// In the memory of the machine.
    Memory,
    /// On a disk of the machine, or in another file system of it.
    Local,
    /// On servers, for several machines.
    Shared,
    /// Somewhere that the kind does not say.
    Unknown,
}

/// A kind of file system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kind {
    /// The usual name.
    pub name: &'static str,
    /// Where the files are.
    pub place: Place,
    /// Locks (`fcntl(2)`) that hold for all machines that have it mounted.
    pub locks: Can,
    /// The upper layer of an overlay (`Documentation/filesystems/overlayfs.rst`).
    pub upper_layers: Can,
    /// Files without a name (`O_TMPFILE`).
    pub unnamed_files: Can,
    /// Extended attributes of users (`user.`).
    pub user_attributes: Can,
    /// Mounts with mapped ids (`MOUNT_ATTR_IDMAP`).
    pub mapped_ids: Can,
}

/// A kind whose abilities are given in the order of the fields.
const fn kind(name: &'static str, place: Place, can: [Can; 5]) -> Kind {
    let [locks, upper_layers, unnamed_files, user_attributes, mapped_ids] = can;
    Kind { name, place, locks, upper_layers, unnamed_files, user_attributes, mapped_ids }
}

/// What is not in the table: everything is to be tried.
const UNKNOWN: Kind = kind("unknown", Place::Unknown, [Depends; 5]);
/// File systems in user space whose subtype is not in the table. The kernel asks for `RENAME_WHITEOUT` in an upper layer.
const FUSE: Kind = kind("FUSE", Place::Unknown, [Depends, No, Depends, Depends, Depends]);
/// The type of mounts in user space, before a dot and the subtype.
const FUSE_TYPE: &str = "fuse";

/// Kinds with the types of their mounts.
const BY_TYPE: &[(&[&str], Kind)] = &[
    // Of this machine.
    (&["ext4", "ext3", "ext2"], kind("ext4", Place::Local, [Yes, Yes, Yes, Yes, Yes])),
    (&["xfs"], kind("XFS", Place::Local, [Yes, Yes, Yes, Yes, Yes])),
    (&["btrfs"], kind("Btrfs", Place::Local, [Yes, Yes, Yes, Yes, Yes])),
    (&["f2fs"], kind("F2FS", Place::Local, [Yes, Yes, Yes, Yes, Yes])),
    (&["bcachefs"], kind("bcachefs", Place::Local, [Yes, Yes, Yes, Yes, Depends])),
    // Upper layers since OpenZFS 2.2.
    (&["zfs"], kind("ZFS", Place::Local, [Yes, Depends, Yes, Depends, Depends])),
    // Attributes of users since Linux 6.6.
    (&["tmpfs"], kind("tmpfs", Place::Memory, [Yes, Yes, Yes, Depends, Yes])),
    (&["ramfs"], kind("ramfs", Place::Memory, [Yes, No, Yes, No, No])),
    (&["overlay"], kind("overlay", Place::Local, [Yes, No, Depends, Depends, No])),
    (&["squashfs"], kind("SquashFS", Place::Local, [Yes, No, No, No, Depends])),
    (&["erofs"], kind("EROFS", Place::Local, [Yes, No, No, No, Depends])),
    (&["vfat", "msdos"], kind("FAT", Place::Local, [Yes, No, No, No, Yes])),
    (&["exfat"], kind("exFAT", Place::Local, [Yes, No, No, No, Depends])),
    (&["ntfs3", "ntfs", "fuseblk"], kind("NTFS", Place::Local, [Depends, No, No, Depends, No])),
    // Of servers. None has the whiteouts that an upper layer needs.
    (&["nfs"], kind("NFS", Place::Shared, [Depends, No, No, No, No])),
    // Attributes since version 4.2.
    (&["nfs4"], kind("NFS", Place::Shared, [Yes, No, No, Depends, No])),
    // Locks with the mount option flock.
    (&["lustre", "lustre_tgt"], kind("Lustre", Place::Shared, [Depends, No, No, Depends, No])),
    (&["gpfs", "mmfs"], kind("GPFS", Place::Shared, [Yes, No, No, Yes, No])),
    // Locks of one machine only unless tuneUseGlobalFileLocks is set.
    (&["beegfs", "beegfs_nodev"], kind("BeeGFS", Place::Shared, [Depends, No, No, Depends, No])),
    (&["ceph", "fuse.ceph", "fuse.ceph-fuse"], kind("CephFS", Place::Shared, [Yes, No, No, Yes, Depends])),
    (&["afs"], kind("AFS", Place::Shared, [Depends, No, No, No, No])),
    (&["panfs"], kind("PanFS", Place::Shared, [Depends, No, No, Depends, No])),
    (&["pvfs2", "fuse.pvfs2", "fuse.pvfs2fuse"], kind("OrangeFS", Place::Shared, [Depends, No, No, Depends, No])),
    (&["cifs", "smb3", "smbfs"], kind("SMB", Place::Shared, [Depends, No, No, Depends, No])),
    (&["wekafs"], kind("WekaFS", Place::Shared, [Yes, No, No, Depends, No])),
    (&["gfs2"], kind("GFS2", Place::Shared, [Yes, No, Yes, Yes, No])),
    (&["ocfs2"], kind("OCFS2", Place::Shared, [Depends, No, No, Yes, No])),
    (&["9p"], kind("9P", Place::Shared, [Depends, No, No, Depends, No])),
    (&["virtiofs"], kind("virtiofs", Place::Shared, [Depends, Depends, Depends, Depends, Depends])),
    // In user space.
    (&["fuse.cvmfs2", "fuse.cvmfs"], kind("CVMFS", Place::Shared, [No, No, No, No, No])),
    (&["fuse.glusterfs"], kind("GlusterFS", Place::Shared, [Yes, No, No, Yes, No])),
    (&["fuse.sshfs"], kind("SSHFS", Place::Shared, [No, No, No, No, No])),
    (&["fuse.s3fs", "fuse.goofys", "fuse.rclone"], kind("object storage", Place::Shared, [No, No, No, Depends, No])),
    (&["fuse.squashfuse", "fuse.squashfuse_ll"], kind("SquashFS", Place::Local, [Depends, No, No, No, No])),
    (&["fuse.fuse-overlayfs"], kind("fuse-overlayfs", Place::Local, [Depends, No, No, Depends, No])),
];

/// The numbers of `statfs(2)` (`linux/magic.h`, and the sources of file systems that are not the kernel's), with a type of
/// [`BY_TYPE`].
const BY_NUMBER: &[(u32, &str)] = &[
    (0x0000_EF53, "ext4"),
    (0x5846_5342, "xfs"),
    (0x9123_683E, "btrfs"),
    (0xF2F5_2010, "f2fs"),
    (0xCA45_1A4E, "bcachefs"),
    (0x2FC1_2FC1, "zfs"),
    (0x0102_1994, "tmpfs"),
    (0x8584_58F6, "ramfs"),
    (0x794C_7630, "overlay"),
    (0x7371_7368, "squashfs"),
    (0xE0F5_E1E2, "erofs"),
    (0x0000_4D44, "vfat"),
    (0x2011_BAB0, "exfat"),
    (0x0000_6969, "nfs"),
    (0x0BD0_0BD0, "lustre"),
    (0x4750_4653, "gpfs"),
    (0x1983_0326, "beegfs"),
    (0x00C3_6400, "ceph"),
    (0x5346_414F, "afs"),
    (0xAAD7_AAEA, "panfs"),
    (0x2003_0528, "pvfs2"),
    (0xFE53_4D42, "smb3"),
    (0xFF53_4D42, "cifs"),
    (0x0000_517B, "smbfs"),
    (0x0116_1970, "gfs2"),
    (0x7461_636F, "ocfs2"),
    (0x0102_1997, "9p"),
    (0x6573_5546, FUSE_TYPE),
];

impl Kind {
    /// The kind of a mount by its type, as `proc_pid_mountinfo(5)` has it: `nfs4`, `fuse.SUBTYPE`.
    #[must_use]
    pub fn of_type(name: &str) -> Self {
        let known = BY_TYPE.iter().find(|(types, _)| types.contains(&name));
        match known {
            Some((_, kind)) => *kind,
            None if subtype(name).is_some() || name == FUSE_TYPE => FUSE,
            None => UNKNOWN,
        }
    }

    /// The kind by the number that `statfs(2)` returns; some architectures extend its sign.
    #[must_use]
    pub fn of_number(number: i128) -> Self {
        let known = BY_NUMBER.iter().find(|(known, _)| i128::from(*known) == number & 0xFFFF_FFFF);
        known.map_or(UNKNOWN, |(_, name)| Self::of_type(name))
    }

    /// True if the files may be on servers: a file system in user space may have them anywhere.
    #[must_use]
    pub fn may_be_shared(&self) -> bool {
        self.is_known() && matches!(self.place, Place::Shared | Place::Unknown)
    }

    /// What it cannot do, in words for administrators.
    #[must_use]
    pub fn lacks(&self) -> Vec<&'static str> {
        let all = [
            ("locks", self.locks),
            ("upper layers of overlays", self.upper_layers),
            ("O_TMPFILE", self.unnamed_files),
            ("attributes of users", self.user_attributes),
            ("mapped ids", self.mapped_ids),
        ];
        all.into_iter().filter(|(_, can)| *can == No).map(|(what, _)| what).collect()
    }

    /// True if the kind is in the table.
    #[must_use]
    pub fn is_known(&self) -> bool {
        self.name != UNKNOWN.name
    }
}

/// Returns the subtype of a type of mounts in user space.
pub(crate) fn subtype(name: &str) -> Option<&str> {
    name.strip_prefix(FUSE_TYPE)?.strip_prefix('.')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_of_mounts_are_recognised() {
        for (name, expected, place) in [
            ("ext4", "ext4", Place::Local),
            ("nfs", "NFS", Place::Shared),
            ("nfs4", "NFS", Place::Shared),
            ("lustre", "Lustre", Place::Shared),
            ("gpfs", "GPFS", Place::Shared),
            ("beegfs", "BeeGFS", Place::Shared),
            ("ceph", "CephFS", Place::Shared),
            ("fuse.ceph-fuse", "CephFS", Place::Shared),
            ("afs", "AFS", Place::Shared),
            ("panfs", "PanFS", Place::Shared),
            ("pvfs2", "OrangeFS", Place::Shared),
            ("smb3", "SMB", Place::Shared),
            ("fuse.cvmfs2", "CVMFS", Place::Shared),
            ("fuse.own", "FUSE", Place::Unknown),
            ("fuse", "FUSE", Place::Unknown),
            ("fusectl", "unknown", Place::Unknown),
            ("tmpfs", "tmpfs", Place::Memory),
            ("overlay", "overlay", Place::Local),
            ("newfs", "unknown", Place::Unknown),
        ] {
            let kind = Kind::of_type(name);
            assert_eq!((kind.name, kind.place), (expected, place), "{name}");
        }
    }

    #[test]
    fn numbers_mean_a_kind_of_the_table() {
        assert!(BY_NUMBER.iter().all(|(_, name)| Kind::of_type(name).is_known()));
        assert_eq!(Kind::of_number(0x6969).name, "NFS");
        assert_eq!(Kind::of_number(-0x01AC_B2BE).name, "SMB");
        assert_eq!(Kind::of_number(0x6573_5546).name, "FUSE");
        assert!(!Kind::of_number(0x1234_5678).is_known());
        let shared = [0x6969, 0x0BD0_0BD0, 0x6573_5546, 0xEF53, 0x0102_1994, 0x1234_5678];
        let shared = shared.map(|number| Kind::of_number(number).may_be_shared());
        assert_eq!(shared, [true, true, true, false, false, false]);
    }

    #[test]
    fn what_a_kind_lacks_is_named() {
        assert_eq!(Kind::of_type("nfs4").lacks(), ["upper layers of overlays", "O_TMPFILE", "mapped ids"]);
        assert!(Kind::of_type("ext4").lacks().is_empty() && Kind::of_type("newfs").lacks().is_empty());
    }

    #[test]
    fn no_type_is_listed_twice() {
        let mut all: Vec<&str> = BY_TYPE.iter().flat_map(|(types, _)| types.iter().copied()).collect();
        let before = all.len();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), before);
    }

    #[test]
    fn upper_layers_are_for_disks_and_memory_of_the_machine() {
        for (_, kind) in BY_TYPE {
            assert!(kind.upper_layers != Yes || kind.place != Place::Shared, "{kind:?}");
            assert!(kind.upper_layers != Yes || kind.user_attributes != No, "{kind:?}");
        }
        assert_eq!((FUSE.upper_layers, UNKNOWN.upper_layers), (No, Depends));
    }
}
