//! Tests that need root but no cluster; the whole program runs in a mount namespace of its own.

use std::fs::{self, File};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;
use std::process::Command;
use std::sync::Arc;
use std::thread;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Done;
use nix::sched::CloneFlags;
use parallax_agent::layers::{Abilities, LayerTable};
use parallax_format::record::LayerRecord;
use parallax_store::hash::link_of_layer;
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::{DetachedMount, make_read_only, take_down};
use parallax_sys::namespace_number;
use parallax_sys::root::Root;
use parallax_sys::user_namespace::{IdRange, UserNamespace};
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

pub(crate) mod credentials;
pub(crate) mod lazy;
pub(crate) mod probe;
pub(crate) mod trust;

tests! { machine:
    a_layer_is_mounted_once_and_goes_with_its_last_holder,
    equal_layers_of_two_stores_are_not_mixed_up,
    another_agent_adopts_each_mount_of_a_file,
    an_id_map_shows_the_users_ids,
    a_namespace_belongs_to_its_user,
    maps_that_overlap_are_refused,
    a_mount_namespace_is_newer_than_those_of_all_processors,
    a_file_of_another_owner_is_not_trusted,
    a_dropped_mount_leaves_no_loop_device,
    a_read_only_root_keeps_what_is_mounted_in_it_writable,
}

/// The root of a container, as the launcher makes it.
fn a_read_only_root_keeps_what_is_mounted_in_it_writable() -> anyhow::Result<()> {
    let place = tempfile::tempdir()?;
    DetachedMount::tmpfs(&[])?.attach_over(Root::open(place.path())?)?;
    let root = Root::open(place.path())?;
    let (open, closed) = (place.path().join("open"), place.path().join("closed"));
    DetachedMount::tmpfs(&[])?.attach_over(root.mount_point(Path::new("/open"), true)?)?;
    let read_only = DetachedMount::tmpfs(&[])?;
    read_only.make_read_only()?;
    read_only.attach_over(root.mount_point(Path::new("/closed"), true)?)?;
    make_read_only(&root)?;
    let write = |directory: &Path| fs::write(directory.join("file"), "x").map_err(|error| error.kind());
    let results = [place.path(), &open, &closed].map(write);
    let refused = Err(std::io::ErrorKind::ReadOnlyFilesystem);
    ensure!(results == [refused, Ok(()), refused], "{results:?}");
    drop(root);
    for directory in [&open, &closed, place.path()] {
        rustix::mount::unmount(directory, rustix::mount::UnmountFlags::empty())?;
    }
    Ok(())
}

/// A store with one layer, in which root, 7:8 and 60000:60001 have a file each.
fn store() -> anyhow::Result<(tempfile::TempDir, LayerRecord)> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    let tree = tempfile::tempdir()?;
    for (name, uid, gid) in [("root", 0, 0), ("seven", 7, 8), ("high", 60_000, 60_001)] {
        fs::write(tree.path().join(name), name)?;
        chown(tree.path().join(name), Some(uid), Some(gid))?;
    }
    let hex = "0123456789abcdef".repeat(4);
    let mut layer = LayerRecord {
        id: hex.parse()?,
        link: link_of_layer(&hex),
        diff_id: hex.parse()?,
        size: 1,
        format: parallax_format::LayerFormat::Squashfs,
        squashfs_size: 0,
        squashfs_sha256: hex.parse().ok(),
        max_uid: 60_000,
        max_gid: 60_001,
        sidecar: false,
        tree: None,
        parts: Vec::new(),
    };
    let file = directory.path().join(layer.file_path());
    fs::create_dir_all(file.parent().context("no parent")?)?;
    let made = Command::new("mksquashfs").arg(tree.path()).arg(&file).args(["-quiet", "-no-progress"]).output()?;
    Done::from(made).success()?;
    layer.squashfs_size = file.metadata()?.len();
    Ok((directory, layer))
}

/// The loop devices over files below a directory.
fn loop_devices(below: &Path) -> anyhow::Result<usize> {
    let mut count = 0;
    for device in fs::read_dir("/sys/block")? {
        let backing = fs::read_to_string(device?.path().join("loop/backing_file")).unwrap_or_default();
        count += usize::from(Path::new(backing.trim()).starts_with(below));
    }
    Ok(count)
}

fn a_layer_is_mounted_once_and_goes_with_its_last_holder() -> anyhow::Result<()> {
    let (directory, record) = store()?;
    let mounts = tempfile::tempdir()?;
    let store = TrustedStore::open(directory.path())?;
    let table = Arc::new(LayerTable::new(mounts.path().to_owned()));
    let holders: Vec<_> = thread::scope(|scope| {
        let threads: Vec<_> = (0..16)
            .map(|_| scope.spawn(|| table.get(&store, &record, &Credentials::root(), &Abilities::default())))
            .collect();
        threads.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    let mut layers = Vec::new();
    for holder in holders {
        layers.push(holder.map_err(|_| anyhow::anyhow!("a thread panicked"))??);
    }
    ensure!(layers.iter().all(|layer| Arc::ptr_eq(layer, &layers[0])), "it was mounted more than once");
    ensure!(loop_devices(directory.path())? == 1 && table.mounted().len() == 1, "not one device");
    let mount_point = layers[0].entry().mount_point;
    ensure!(fs::read_to_string(mount_point.join("seven"))? == "seven", "the wrong contents");
    drop(layers);
    ensure!(!mount_point.exists() && table.mounted().is_empty(), "it is still mounted");
    ensure!(fs::read_dir(mounts.path())?.count() == 0, "a mount point is left");
    Ok(())
}

fn equal_layers_of_two_stores_are_not_mixed_up() -> anyhow::Result<()> {
    let ((one, record), (two, _)) = (store()?, store()?);
    let mounts = tempfile::tempdir()?;
    let table = LayerTable::new(mounts.path().to_owned());
    let first = table.get(&TrustedStore::open(one.path())?, &record, &Credentials::root(), &Abilities::default())?;
    let second = table.get(&TrustedStore::open(two.path())?, &record, &Credentials::root(), &Abilities::default())?;
    ensure!(!Arc::ptr_eq(&first, &second), "a layer of one store was taken for another's");
    Ok(())
}

/// A file has two mounts after reading one of them has failed, and steps use both.
fn another_agent_adopts_each_mount_of_a_file() -> anyhow::Result<()> {
    let (directory, record) = store()?;
    let mounts = tempfile::tempdir()?;
    let store = TrustedStore::open(directory.path())?;
    // Two tables are as two agents, which know nothing of each other's mounts.
    let mount =
        || LayerTable::new(mounts.path().to_owned()).get(&store, &record, &Credentials::root(), &Abilities::default());
    let (one, two) = (mount()?, mount()?);
    let entries = [one.entry(), two.entry(), one.entry(), two.entry()];
    let later = LayerTable::new(mounts.path().to_owned());
    let adopted = entries.map(|entry| later.adopt(entry));
    ensure!(adopted[0].entry().mount_point == one.entry().mount_point, "another mount");
    ensure!(adopted[1].entry().mount_point == two.entry().mount_point, "another mount");
    ensure!(Arc::ptr_eq(&adopted[0], &adopted[2]) && Arc::ptr_eq(&adopted[1], &adopted[3]), "not shared");
    ensure!(later.orphaned()?.is_empty(), "{:?}", later.orphaned()?);
    drop(adopted);
    ensure!(fs::read_dir(mounts.path())?.count() == 0, "a mount point is left");
    Ok(())
}

fn an_id_map_shows_the_users_ids() -> anyhow::Result<()> {
    let (directory, record) = store()?;
    let mounts = tempfile::tempdir()?;
    let table = LayerTable::new(mounts.path().to_owned());
    let layer =
        table.get(&TrustedStore::open(directory.path())?, &record, &Credentials::root(), &Abilities::default())?;
    let map = [IdRange { inside: 0, outside: 1001, count: 1 }, IdRange { inside: 1, outside: 200_000, count: 50_000 }];
    let namespace = UserNamespace::new(1001, 1001, &map, &map)?;
    let mapped = layer.another_mount()?;
    mapped.map_ids(namespace.as_fd())?;
    let place = mounts.path().join("mapped");
    fs::create_dir(&place)?;
    mapped.attach_at(&place)?;
    let ids = |name: &str| fs::metadata(place.join(name)).map(|metadata| (metadata.uid(), metadata.gid()));
    let seen = [ids("root")?, ids("seven")?, ids("high")?];
    take_down(&place)?;
    // What the map does not have is nobody's.
    ensure!(seen == [(1001, 1001), (200_006, 200_007), (65_534, 65_534)], "{seen:?}");
    Ok(())
}

fn a_namespace_belongs_to_its_user() -> anyhow::Result<()> {
    let map = [IdRange { inside: 0, outside: 12_345, count: 1 }];
    let namespace = UserNamespace::new(12_345, 54_321, &map, &map)?;
    // ioctl_ns(2), NS_GET_OWNER_UID, by a program that has it.
    let path = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&namespace.as_fd()));
    let script = "import fcntl, struct, sys; f = open(sys.argv[1]); b = bytearray(4); fcntl.ioctl(f, 0xb704, b); print(struct.unpack('I', b)[0])";
    let owner = Done::from(Command::new("python3").args(["-c", script, &path]).output()?).success()?.stdout;
    ensure!(owner.trim() == "12345", "it belongs to {owner}");
    Ok(())
}

fn maps_that_overlap_are_refused() -> anyhow::Result<()> {
    let range = IdRange { inside: 0, outside: 1001, count: 10 };
    ensure!(UserNamespace::new(1001, 1001, &[range, range], &[range]).is_err(), "taken");
    ensure!(UserNamespace::new(1001, 1001, &[], &[]).is_err(), "taken");
    Ok(())
}

/// Its file could not be shown in them otherwise. On Linux 6.18 this fails for one that is made like any other.
fn a_mount_namespace_is_newer_than_those_of_all_processors() -> anyhow::Result<()> {
    let map = [IdRange { inside: 0, outside: 1001, count: 1 }];
    let allowed = sched_getaffinity(None)?;
    for processor in (0..CpuSet::MAX_CPU).filter(|processor| allowed.is_set(*processor)) {
        let earlier = thread::spawn(move || -> anyhow::Result<File> {
            let mut only = CpuSet::new();
            only.set(processor);
            sched_setaffinity(None, &only)?;
            nix::sched::unshare(CloneFlags::CLONE_FS | CloneFlags::CLONE_NEWNS)?;
            Ok(File::open("/proc/thread-self/ns/mnt")?)
        });
        let earlier = earlier.join().map_err(|_| anyhow::anyhow!("the thread panicked"))??;
        let (_, mounts) = UserNamespace::with_mounts(1001, 1001, &map, &map)?;
        let [earlier, later] = [earlier.as_fd(), mounts.as_fd()].map(namespace_number::number);
        let (earlier, later) = (earlier?, later?);
        ensure!(earlier < later, "processor {processor}: {earlier}, then {later}");
    }
    Ok(())
}

fn a_file_of_another_owner_is_not_trusted() -> anyhow::Result<()> {
    let (directory, record) = store()?;
    chown(directory.path().join(record.file_path()), Some(1001), None)?;
    let error = TrustedStore::open(directory.path())?.open_layer(&record).err().context("it was trusted")?;
    ensure!(error.to_string().contains("does not belong to the store's owner"), "{error}");
    Ok(())
}

fn a_dropped_mount_leaves_no_loop_device() -> anyhow::Result<()> {
    let (directory, record) = store()?;
    let file = TrustedStore::open(directory.path())?.open_layer(&record)?;
    let device = LoopDevice::attach(file.as_fd(), Reads::Buffered)?;
    let mount = DetachedMount::squashfs(device.path())?;
    drop(device);
    ensure!(loop_devices(directory.path())? == 1, "the mount does not hold the device");
    drop(mount);
    // The kernel frees the device after the last reference, on its own time: /dev/loop-control tells no one, so sync(2), which
    // flushes that work, comes first.
    rustix::fs::sync();
    ensure!(loop_devices(directory.path())? == 0, "the device is left");
    Ok(())
}
