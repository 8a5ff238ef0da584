//! System calls that need unsafe code, each behind a safe function.
//!
//! Only this crate of the workspace may use `unsafe`, and only in the modules that declare it. The crate also wraps safe calls of
//! `rustix` that are easy to misuse.
//!
//! - [`allocator`]: the free memory that malloc(3) keeps.
//! - [`limits`]: the names of limits that errors do not name.
//! - [`loop_device`]: a block device over a file, for file systems that need one.
//! - [`mount`]: mounts as file descriptors, completed before they are attached.
//! - [`overlay`]: the kernel's overlay.
//! - [`root`]: files and mount points below a root that somebody else filled.
//! - [`subid`]: subordinate ids from the module that nsswitch.conf names.
//! - [`user_namespace`]: user namespaces that only carry an id map.
//! - [`credentials`]: access to files with a user's own rights, in one thread.
//! - [`activation`]: sockets that systemd has opened.
//! - [`denied`]: system calls that this process denied itself.
//! - [`fault`]: a process that ends at a chosen step, in tests.
//! - [`namespace_number`]: the order of mount namespaces.
//! - [`process`]: processes referred to by a descriptor, so that a reused id cannot be mistaken for them.
//! - [`project_quota`]: limits of directories.
//! - [`room`]: room for a container in an image whose directories belong to nobody it knows.
//! - [`shared_slots`]: memory that two processes share.
//! - [`verity`]: files that the kernel checks.

#[allow(unsafe_code, reason = "descriptors that systemd passed have no owner yet")]
pub mod activation;
#[allow(unsafe_code, reason = "calls mallopt(3)")]
pub mod allocator;
#[allow(unsafe_code, reason = "calls setfsuid(2), setgroups(2) and faccessat2(2)")]
pub mod credentials;
#[allow(unsafe_code, reason = "a signal handler reads and writes registers")]
pub mod denied;
pub mod fault;
pub mod limits;
#[allow(unsafe_code, reason = "calls ioctl(2)")]
pub mod loop_device;
#[allow(unsafe_code, reason = "calls mount_setattr(2)")]
pub mod mount;
#[allow(unsafe_code, reason = "calls ioctl(2)")]
pub mod namespace_number;
pub mod overlay;
#[allow(unsafe_code, reason = "acts between fork(2) and execve(2)")]
pub mod process;
#[allow(unsafe_code, reason = "calls ioctl(2) and quotactl_fd(2)")]
pub mod project_quota;
pub mod room;
pub mod root;
#[allow(unsafe_code, reason = "maps memory that another process writes")]
pub mod shared_slots;
#[allow(unsafe_code, reason = "calls functions of a library that is loaded by name")]
pub mod subid;
#[allow(unsafe_code, reason = "calls clone(2)")]
pub mod user_namespace;
#[allow(unsafe_code, reason = "calls ioctl(2)")]
pub mod verity;
