//! The system calls that the agent makes, and the filters that deny it all others.
//!
//! `seccompiler` makes the programs; no crate has lists that fit. libseccomp would be one more library on every node.

use std::collections::BTreeMap;

use parallax_sys::denied;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    apply_filter_all_threads,
};

/// There are filters for this architecture.
pub(super) const SUPPORTED: bool = true;

/// Denies the process all calls that are not listed. To be called while there is one thread only.
///
/// # Errors
/// The error of the kernel or of seccompiler.
pub(super) fn apply() -> Result<(), String> {
    denied::make_trapped_calls_fail().map_err(|error| error.to_string())?;
    for program in programs().map_err(|error| error.to_string())? {
        apply_filter_all_threads(&program).map_err(|error| error.to_string())?;
    }
    Ok(())
}

/// The filters as the kernel takes them, in the order in which they are applied: after the last one no other can be.
fn programs() -> Result<[BpfProgram; 2], seccompiler::BackendError> {
    let filter = |calls, otherwise, action| {
        SeccompFilter::new(calls, otherwise, action, std::env::consts::ARCH.try_into()?)?.try_into()
    };
    // Its arguments are in memory, where no filter sees them. The C library then makes threads by clone(2), as on older kernels. The
    // other filter has to allow it: of two answers the stricter one counts.
    let unknown = BTreeMap::from([(libc::SYS_clone3, Vec::new())]);
    let without_clone3 = filter(unknown, SeccompAction::Allow, SeccompAction::Errno(libc::ENOSYS.unsigned_abs()))?;
    let denial = if denied::SUPPORTED { SeccompAction::Trap } else { SeccompAction::Errno(libc::EPERM.unsigned_abs()) };
    let mut calls: BTreeMap<i64, Vec<_>> = CALLS.iter().chain(OLD_CALLS).map(|&call| (call, Vec::new())).collect();
    calls.extend(with_arguments()?);
    Ok([without_clone3, filter(calls, denial, SeccompAction::Allow)?])
}

/// The calls that are allowed with some arguments only: any of a call's rules.
fn with_arguments() -> Result<[(i64, Vec<SeccompRule>); 7], seccompiler::BackendError> {
    let rule = |argument, operator, value| {
        let condition = SeccompCondition::new(argument, SeccompCmpArgLen::Dword, operator, value)?;
        SeccompRule::new(vec![condition])
    };
    let bits = |flags: libc::c_int| u64::from(u32::from_ne_bytes(flags.to_ne_bytes()));
    let without = |argument, flags| rule(argument, SeccompCmpOp::MaskedEq(bits(flags)), 0);
    let one_of = |argument, values: &[u64]| {
        values.iter().map(|&value| rule(argument, SeccompCmpOp::Eq, value)).collect::<Result<Vec<_>, _>>()
    };
    let namespaces = libc::CLONE_NEWNS
        | libc::CLONE_NEWCGROUP
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER
        | libc::CLONE_NEWPID
        | libc::CLONE_NEWNET;
    Ok([
        // The creator of a user namespace has all capabilities there; with a network namespace they expose much of the kernel. A mount
        // namespace is made for containers that steps share.
        (libc::SYS_clone, vec![without(0, namespaces)?]),
        (libc::SYS_unshare, vec![without(0, !(libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_FS))?]),
        (libc::SYS_setns, one_of(1, &[bits(libc::CLONE_NEWNS)])?),
        // No memory that was written is ever executed; code comes from files only.
        (libc::SYS_mmap, vec![without(2, libc::PROT_WRITE)?, without(2, libc::PROT_EXEC)?]),
        (libc::SYS_mprotect, vec![without(2, libc::PROT_EXEC)?]),
        (libc::SYS_socket, one_of(0, &FAMILIES.map(bits))?),
        (libc::SYS_ioctl, one_of(1, &IOCTLS)?),
    ])
}

/// Families of sockets: the agent's own and systemd's.
const FAMILIES: [libc::c_int; 1] = [libc::AF_UNIX];

/// The allowed ioctls: for loop devices, the numbers of mount namespaces, project quotas, and fs-verity; the rest is the C library's and Rust's.
#[allow(clippy::unnecessary_cast, trivial_numeric_casts, reason = "their type depends on the C library")]
const IOCTLS: [u64; 12] = [
    parallax_sys::loop_device::LOOP_CTL_GET_FREE as u64,
    parallax_sys::loop_device::LOOP_CONFIGURE as u64,
    parallax_sys::loop_device::LOOP_CHANGE_FD as u64,
    parallax_sys::loop_device::LOOP_SET_DIRECT_IO as u64,
    libc::NS_GET_MNTNS_ID as u64,
    parallax_sys::project_quota::FS_IOC_FSGETXATTR as u64,
    parallax_sys::project_quota::FS_IOC_FSSETXATTR as u64,
    parallax_sys::verity::FS_IOC_MEASURE_VERITY as u64,
    libc::FIONBIO as u64,
    libc::FIOCLEX as u64,
    libc::FIONREAD as u64,
    libc::TCGETS as u64,
];

/// The system calls that the agent makes, whatever their arguments.
const CALLS: &[libc::c_long] = &[
    // Files.
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_readv,
    libc::SYS_writev,
    libc::SYS_pread64,
    libc::SYS_pwrite64,
    libc::SYS_lseek,
    libc::SYS_close,
    libc::SYS_dup,
    libc::SYS_dup3,
    libc::SYS_fcntl,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    libc::SYS_statfs,
    libc::SYS_fstatfs,
    libc::SYS_faccessat,
    libc::SYS_faccessat2,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_getcwd,
    libc::SYS_umask,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_renameat2,
    libc::SYS_symlinkat,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_ftruncate,
    libc::SYS_fsync,
    libc::SYS_fgetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_flock,
    libc::SYS_pipe2,
    libc::SYS_fadvise64,
    libc::SYS_quotactl_fd,
    libc::SYS_memfd_create,
    // Mounts and namespaces.
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chdir,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_open_tree,
    libc::SYS_move_mount,
    libc::SYS_mount_setattr,
    // Memory.
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_madvise,
    libc::SYS_brk,
    // Threads and processes.
    libc::SYS_clone3,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_wait4,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_rseq,
    libc::SYS_prctl,
    libc::SYS_sched_yield,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_setaffinity,
    libc::SYS_getpid,
    libc::SYS_gettid,
    libc::SYS_getuid,
    libc::SYS_geteuid,
    libc::SYS_getgid,
    libc::SYS_getegid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_getgroups,
    libc::SYS_setgroups,
    libc::SYS_pidfd_open,
    libc::SYS_pidfd_send_signal,
    libc::SYS_kill,
    libc::SYS_tgkill,
    libc::SYS_prlimit64,
    libc::SYS_uname,
    libc::SYS_sysinfo,
    libc::SYS_getrandom,
    libc::SYS_restart_syscall,
    // Signals, events and time.
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sigaltstack,
    libc::SYS_signalfd4,
    libc::SYS_eventfd2,
    libc::SYS_inotify_init1,
    libc::SYS_inotify_add_watch,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_pwait2,
    libc::SYS_ppoll,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_gettimeofday,
    // Sockets: the agent's own, its helper's and systemd's.
    libc::SYS_socketpair,
    libc::SYS_bind,
    libc::SYS_listen,
    libc::SYS_accept4,
    libc::SYS_connect,
    libc::SYS_shutdown,
    libc::SYS_sendto,
    libc::SYS_sendmsg,
    libc::SYS_recvfrom,
    libc::SYS_recvmsg,
    libc::SYS_getsockopt,
    libc::SYS_setsockopt,
    libc::SYS_getsockname,
    libc::SYS_getpeername,
];

/// System calls of older architectures.
#[cfg(target_arch = "aarch64")]
const OLD_CALLS: &[libc::c_long] = &[libc::SYS_renameat];
/// System calls of older architectures.
#[cfg(target_arch = "x86_64")]
const OLD_CALLS: &[libc::c_long] = &[
    libc::SYS_access,
    libc::SYS_arch_prctl,
    libc::SYS_chmod,
    libc::SYS_dup2,
    libc::SYS_epoll_wait,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_open,
    libc::SYS_pause,
    libc::SYS_poll,
    libc::SYS_readlink,
    libc::SYS_rename,
    libc::SYS_renameat,
    libc::SYS_rmdir,
    libc::SYS_stat,
    libc::SYS_symlink,
    libc::SYS_unlink,
];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const OLD_CALLS: &[libc::c_long] = &[];

#[cfg(test)]
mod tests {
    use super::*;

    /// What was denied is remembered for the whole process.
    static ALONE: std::sync::Mutex<()> = std::sync::Mutex::new(());

    /// In a thread of its own, which alone is restricted.
    #[test]
    fn a_call_that_is_not_listed_fails_and_is_remembered() {
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::thread::spawn(|| {
            denied::make_trapped_calls_fail().unwrap();
            for program in programs().unwrap() {
                seccompiler::apply_filter(&program).unwrap();
            }
            assert!(rustix::thread::current_timer_slack().is_ok());
            assert_eq!(rustix::process::setpriority_process(None, 1).unwrap_err(), rustix::io::Errno::PERM);
            assert!(denied::take().contains(&usize::try_from(libc::SYS_setpriority).unwrap()));
            assert!(denied::take().is_empty());
        })
        .join()
        .unwrap();
    }

    #[test]
    fn arguments_that_the_agent_does_not_use_are_denied() {
        use nix::sched::{CloneFlags, setns, unshare};
        use rustix::net::{AddressFamily, SocketType, socket};
        let _alone = ALONE.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        std::thread::spawn(|| {
            denied::make_trapped_calls_fail().unwrap();
            for program in programs().unwrap() {
                seccompiler::apply_filter(&program).unwrap();
            }
            let denied = Err(nix::Error::EPERM);
            for namespace in [CloneFlags::CLONE_NEWNET, CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET] {
                assert_eq!(unshare(namespace), denied);
            }
            let own = std::fs::File::open("/proc/self/ns/net").unwrap();
            assert_eq!(setns(&own, CloneFlags::CLONE_NEWNET), denied);
            assert_eq!(setns(&own, CloneFlags::empty()), denied);
            assert_eq!(unshare(CloneFlags::CLONE_FS), Ok(()));
            for family in [AddressFamily::PACKET, AddressFamily::INET, AddressFamily::INET6, AddressFamily::NETLINK] {
                assert_eq!(socket(family, SocketType::DGRAM, None).unwrap_err(), rustix::io::Errno::PERM);
            }
            socket(AddressFamily::UNIX, SocketType::STREAM, None).unwrap();
            let _ = denied::take();
            let flags = rustix::fs::ioctl_getflags(std::fs::File::open("/").unwrap()).unwrap_err();
            assert_eq!(flags, rustix::io::Errno::PERM);
            assert_eq!(denied::take(), [usize::try_from(libc::SYS_ioctl).unwrap()]);
            // Without clone3(2).
            std::thread::spawn(|| {}).join().unwrap();
        })
        .join()
        .unwrap();
    }
}
