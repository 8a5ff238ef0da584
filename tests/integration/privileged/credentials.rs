//! A user's credentials for access to files, in one thread of root's.

use std::fs::{self, Permissions};
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Barrier;
use std::thread;

use anyhow::{Context as _, ensure};
use parallax_agent::layers::{Abilities, LayerTable};
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::{Credentials, may_read};
use rustix::thread::{CapabilitySet, CapabilitySets, capabilities, set_capabilities};

tests! { machine:
    they_hold_for_one_thread_and_come_back,
    groups_count,
    a_layer_that_root_cannot_read_is_mounted,
}

const USER: u32 = 12_345;

fn user(groups: &[u32]) -> Credentials {
    Credentials { uid: USER, gid: USER, groups: groups.to_vec() }
}

/// The credentials and effective capabilities of the calling thread.
fn state() -> anyhow::Result<Vec<String>> {
    let status = fs::read_to_string("/proc/thread-self/status")?;
    let lines =
        status.lines().filter(|line| ["Uid:", "Gid:", "Groups:", "CapEff:"].iter().any(|key| line.starts_with(key)));
    Ok(lines.map(ToOwned::to_owned).collect())
}

fn they_hold_for_one_thread_and_come_back() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let path = directory.path().join("roots");
    fs::write(&path, "root's")?;
    fs::set_permissions(&path, Permissions::from_mode(0o600))?;
    let before = state()?;
    let (begun, looked) = (Barrier::new(2), Barrier::new(2));
    thread::scope(|scope| -> anyhow::Result<()> {
        let other = scope.spawn(|| {
            begun.wait();
            let seen = (fs::read(&path), state());
            looked.wait();
            seen
        });
        let own = user(&[7]).run(|| {
            begun.wait();
            looked.wait();
            (fs::read(&path).map_err(|error| error.kind()), state())
        })?;
        ensure!(own.0 == Err(ErrorKind::PermissionDenied), "{:?}", own.0);
        let now = own.1?;
        ensure!(
            now[0].ends_with(&USER.to_string()) && now[0].contains("\t0\t0\t0\t") && now[2].contains('7'),
            "{now:?}"
        );
        let (read, seen) = other.join().map_err(|_| anyhow::anyhow!("the other thread panicked"))?;
        ensure!(read? == b"root's" && seen? == before, "the other thread is another user, too");
        Ok(())
    })?;
    ensure!(state()? == before, "{:?}", state()?);
    let panicked = catch_unwind(AssertUnwindSafe(|| user(&[]).run(|| panic!("as the test wants it"))));
    ensure!(panicked.is_err() && state()? == before, "{:?}", state()?);
    // Root stays root.
    ensure!(Credentials::root().run(|| fs::read(&path))?? == b"root's", "not root's");
    Ok(())
}

fn groups_count() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    fs::set_permissions(directory.path(), Permissions::from_mode(0o755))?;
    let path = directory.path().join("groups");
    fs::write(&path, "a group's")?;
    let open = fs::File::open(&path)?;
    let readable = |groups: &[u32]| -> anyhow::Result<bool> {
        let (by_path, by_descriptor) =
            user(groups).run(|| (fs::read(&path), may_read(std::os::fd::AsFd::as_fd(&open))))?;
        ensure!(by_path.is_ok() == by_descriptor.is_ok(), "{by_path:?} {by_descriptor:?}");
        Ok(by_path.is_ok())
    };
    for (mode, member, other) in [(0o640, true, false), (0o604, false, true), (0o600, false, false)] {
        chown(&path, Some(0), Some(54_321))?;
        fs::set_permissions(&path, Permissions::from_mode(mode))?;
        ensure!(readable(&[1, 54_321])? == member && readable(&[1])? == other, "{mode:o}");
    }
    Ok(())
}

/// As on NFS with root_squash: root may do nothing there, and its users may.
fn a_layer_that_root_cannot_read_is_mounted() -> anyhow::Result<()> {
    let (directory, record) = super::store()?;
    let mounts = tempfile::tempdir()?;
    let mut tree = vec![directory.path().to_owned()];
    while let Some(path) = tree.pop() {
        chown(&path, Some(USER), Some(USER))?;
        if path.is_dir() {
            fs::set_permissions(&path, Permissions::from_mode(0o700))?;
            for entry in fs::read_dir(&path)? {
                tree.push(entry?.path());
            }
        } else {
            fs::set_permissions(&path, Permissions::from_mode(0o400))?;
        }
    }
    let (root, mount_points) = (directory.path().to_owned(), mounts.path().to_owned());
    let without_rights = move || -> anyhow::Result<()> {
        let has = capabilities(None)?;
        let rights = CapabilitySet::DAC_OVERRIDE | CapabilitySet::DAC_READ_SEARCH;
        let kept = CapabilitySets {
            effective: has.effective.difference(rights),
            permitted: has.permitted.difference(rights),
            inheritable: has.inheritable.difference(rights),
        };
        set_capabilities(None, kept)?;
        let store = user(&[]).run(|| TrustedStore::open(&root))??;
        ensure!(store.open_layer(&record).is_err(), "root can read the layer");
        let table = LayerTable::new(mount_points);
        let layer = table.get(&store, &record, &user(&[]), &Abilities::default())?;
        ensure!(fs::read_to_string(layer.entry().mount_point.join("seven"))? == "seven", "the wrong contents");
        // Who may not read it does not get it because it is mounted.
        let layers = std::slice::from_ref(&record);
        ensure!(table.already(&store, layers, &user(&[]))?.is_some_and(|all| all.len() == 1), "it is not known");
        let other = Credentials { uid: USER + 1, ..user(&[]) };
        let refused = table.already(&store, layers, &other).err().context("another user got it")?;
        ensure!(refused.to_string().contains("Permission denied"), "{refused}");
        ensure!(table.get(&store, &record, &other, &Abilities::default()).is_err(), "another user got it");
        Ok(())
    };
    // Capabilities are a thread's own.
    thread::spawn(without_rights).join().map_err(|_| anyhow::anyhow!("a thread panicked"))?
}
