//! Files that are exchanged while the agent looks at them.

use std::fs;
use std::io::Read as _;
use std::os::fd::AsFd as _;
use std::os::unix::fs::{MetadataExt as _, chown, symlink};
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context as _, ensure};
use parallax_store::read::TrustedStore;
use parallax_sys::loop_device::{LoopDevice, Reads};
use parallax_sys::mount::{DetachedMount, take_down};

use super::store;

tests! { machine:
    a_file_that_is_exchanged_after_the_check_is_not_used,
    files_that_are_exchanged_all_the_time_are_never_mistaken,
}

fn a_file_that_is_exchanged_after_the_check_is_not_used() -> anyhow::Result<()> {
    let (directory, record) = store()?;
    let path = directory.path().join(record.file_path());
    let file = TrustedStore::open(directory.path())?.open_layer(&record)?;
    // What lies there now is no file system at all, and a user's.
    let theirs = directory.path().join("theirs");
    fs::write(&theirs, "theirs")?;
    chown(&theirs, Some(1001), Some(1001))?;
    fs::rename(&theirs, &path)?;
    let device = LoopDevice::attach(file.as_fd(), Reads::Buffered)?;
    let place = directory.path().join("place");
    fs::create_dir(&place)?;
    DetachedMount::squashfs(device.path())?.attach_at(&place)?;
    let seen = fs::read_to_string(place.join("seven"));
    take_down(&place)?;
    ensure!(seen? == "seven", "another file was mounted");
    Ok(())
}

fn files_that_are_exchanged_all_the_time_are_never_mistaken() -> anyhow::Result<()> {
    let (directory, record) = store()?;
    let path = directory.path().join(record.file_path());
    let (good, theirs) = (directory.path().join("good"), directory.path().join("theirs"));
    fs::rename(&path, &good)?;
    fs::write(&theirs, "theirs")?;
    chown(&theirs, Some(1001), Some(1001))?;
    let store = TrustedStore::open(directory.path())?;
    let done = AtomicBool::new(false);
    let (mut taken, mut refused) = (0, 0);
    std::thread::scope(|scope| -> anyhow::Result<()> {
        let exchange = || -> std::io::Result<()> {
            let next = path.with_extension("next");
            while !done.load(Ordering::Relaxed) {
                fs::hard_link(&good, &next)?;
                fs::rename(&next, &path)?;
                fs::hard_link(&theirs, &next)?;
                fs::rename(&next, &path)?;
                symlink(&good, &next)?;
                fs::rename(&next, &path)?;
                // A rename onto another name of the same file does nothing.
                fs::remove_file(&path)?;
            }
            Ok(())
        };
        let exchanger = scope.spawn(exchange);
        let mut look = || -> anyhow::Result<()> {
            while taken < 200 || refused < 200 {
                let Ok(mut file) = store.open_layer(&record) else {
                    refused += 1;
                    continue;
                };
                let mut magic = [0; 4];
                file.read_exact(&mut magic)?;
                ensure!(file.metadata()?.uid() == 0 && &magic == b"hsqs", "somebody else's file was taken");
                taken += 1;
            }
            Ok(())
        };
        let looked = look();
        done.store(true, Ordering::Relaxed);
        exchanger.join().ok().context("the other thread panicked")??;
        looked
    })
}
