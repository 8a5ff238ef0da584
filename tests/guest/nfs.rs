//! Stores, trees and containers on NFS, whose server does not trust root (`root_squash`).

use std::fs::{self, Permissions};
use std::os::fd::AsFd as _;
use std::os::unix::fs::{PermissionsExt as _, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Done, repository};
use parallax_agent::layers::{Abilities, LayerTable, ReadBy};
use parallax_format::ImageRef;
use parallax_store::read::TrustedStore;
use parallax_sys::credentials::Credentials;
use parallax_sys::mount::DetachedMount;
use parallax_sys::user_namespace::{IdRange, UserNamespace};

use super::disk::{Disk, run};
use super::image::{add_erofs, make, noise};
use super::node::{Node, OTHER, USER};

tests! {
    a_store_of_an_account_is_mounted_by_the_kernel,
    a_closed_store_is_for_its_members,
    a_tree_gets_its_owners_by_a_metadata_image,
    a_tree_that_only_its_user_may_read_runs,
    a_server_that_stops_holds_no_step,
}

/// Size of the image's file in bytes.
const BYTES: usize = 1_000_000;
/// The account that owns the store.
const ACCOUNT: u32 = 2001;
/// The image in the repository.
const NAME: &str = "registry.example.org/library/app:1";
/// Timeout for the ends of two steps, and for one that does not need the server, in an emulated machine.
const END_TIMEOUT: Duration = Duration::from_secs(40);
/// Where the directory is mounted, as it is on all nodes.
const PLACE: &str = "/srv/nfs";

/// A directory of a disk that a server shares by NFS 4.2, and its mount.
struct Nfs {
    disk: Disk,
}

fn shell(script: &str) -> anyhow::Result<String> {
    run(Command::new("sh").args(["-euc", script]))
}

/// Starts the server. Clients of an earlier one are not waited for.
const START: &str = "rpc.nfsd -N 3 -V 4.2 2; echo Y >/proc/fs/nfsd/v4_end_grace";

impl Nfs {
    fn new() -> anyhow::Result<Self> {
        let nfs = Self { disk: Disk::new(&["mkfs.ext4", "-q"], "loop")? };
        let shown = nfs.disk.path();
        fs::set_permissions(&shown, Permissions::from_mode(0o755))?;
        shell(&format!(
            "mkdir -p /var/lib/nfs/v4recovery {PLACE}; modprobe nfsd; mountpoint -q /proc/fs/nfsd || mount -t nfsd nfsd /proc/fs/nfsd
             pidof rpc.mountd || rpc.mountd -N 2 -N 3
             exportfs -o rw,fsid=0,no_subtree_check,root_squash,insecure 127.0.0.1:{}; {START}
             mount -t nfs4 -o vers=4.2 127.0.0.1:/ {PLACE}",
            shown.display()
        ))?;
        Ok(nfs)
    }

    /// The same file on the server's disk, where root has all rights.
    fn on_server(&self, name: &str) -> PathBuf {
        self.disk.path().join(name)
    }

    fn path(name: &str) -> PathBuf {
        Path::new(PLACE).join(name)
    }

    /// A store into which an account has migrated an image, over NFS.
    fn store(&self) -> anyhow::Result<PathBuf> {
        let (image, tree) = (tempfile::tempdir()?, tempfile::tempdir()?);
        fill(tree.path())?;
        make(image.path(), tree.path())?;
        fs::set_permissions(image.path(), Permissions::from_mode(0o755))?;
        let (store, on_server) = (Self::path("store"), self.on_server("store"));
        fs::create_dir(&on_server)?;
        let source = format!("dir:{}", image.path().display());
        let by_root = parallax(0, &store, &["migrate", &source, "--name", "app"])?;
        ensure!(by_root.code != 0 && by_root.stderr.contains("Permission denied"), "{by_root:?}");
        chown(&on_server, Some(ACCOUNT), Some(ACCOUNT))?;
        parallax(ACCOUNT, &store, &["migrate", &source, "--name", "app"])?.success()?;
        let [_, erofs] = add_erofs(&on_server, tree.path())?;
        for file in [erofs.with_extension("erofs.json"), erofs] {
            chown(file, Some(ACCOUNT), Some(ACCOUNT))?;
        }
        Ok(store)
    }
}

impl Drop for Nfs {
    fn drop(&mut self) {
        let export = self.disk.path();
        let stop = format!("umount {PLACE}; exportfs -u 127.0.0.1:{}; rpc.nfsd 0", export.display());
        if let Err(error) = shell(&stop) {
            eprintln!("{error:#}");
        }
    }
}

/// Makes a root file system: a program, a file of everybody, one of root alone.
fn fill(tree: &Path) -> anyhow::Result<()> {
    fs::create_dir_all(tree.join("bin"))?;
    fs::create_dir_all(tree.join("etc"))?;
    fs::copy("/usr/bin/busybox", tree.join("bin/busybox"))?;
    fs::write(tree.join("file"), noise(BYTES))?;
    fs::write(tree.join("etc/secret"), "secret\n")?;
    fs::set_permissions(tree.join("etc/secret"), Permissions::from_mode(0o600))?;
    Ok(fs::set_permissions(tree, Permissions::from_mode(0o755))?)
}

/// Runs `parallax` with a store as a user.
fn parallax(uid: u32, store: &Path, arguments: &[&str]) -> anyhow::Result<Done> {
    let mut command = Command::new("setpriv");
    command.args([format!("--reuid={uid}"), format!("--regid={uid}")]).args(["--clear-groups", "--inh-caps=-all"]);
    command.arg(repository().join("target/debug/parallax")).arg("--store").arg(store).args(arguments);
    Ok(Done::from(command.env("HOME", "/tmp").output()?))
}

fn config(store: &Path, keys: &str) -> String {
    format!("stores = [{store:?}]\n[agent]\ntrusted_owners = [\"root\", {ACCOUNT}]\n{keys}\n")
}

/// Reads the image's files in a container.
const READ: &str = "busybox wc -c </file; busybox stat -c '%u %a' /file /etc/secret; busybox cat /etc/secret";

fn a_store_of_an_account_is_mounted_by_the_kernel() -> anyhow::Result<()> {
    let nfs = Nfs::new()?;
    let store = nfs.store()?;
    for (job, reads) in [(1, "buffered"), (2, "direct")] {
        let node = Node::start(&config(&store, &format!("layer_reads = \"{reads}\"")))?;
        let lease = node.request(job, USER, "app", true)?.map_err(anyhow::Error::msg)?;
        let done = lease.run(READ)?.success()?;
        ensure!(done.stdout == format!("{BYTES}\n0 644\n0 600\nsecret\n"), "{reads}: {done:?}");
        let source = node.source(job)?;
        ensure!(source.starts_with("squashfs by native: ") && source.contains("is trusted"), "{reads}: {source}");
        ensure!(lease.release()?.is_empty(), "the release had problems");
        let shown = node.parallax(&["doctor"])?.stdout;
        for part in ["is on NFS 4.2, on servers; it has no", "mapped ids", "(root_squash): 2001 must run parallax"] {
            ensure!(shown.contains(part), "no {part:?}: {shown}");
        }
    }
    let read_by = erofs(&store, &Credentials::root())?;
    ensure!(read_by == Some(ReadBy::File), "{read_by:?}");
    Ok(())
}

fn a_closed_store_is_for_its_members() -> anyhow::Result<()> {
    let nfs = Nfs::new()?;
    let store = nfs.store()?;
    let on_server = nfs.on_server("store");
    run(Command::new("chgrp").args(["-R", &USER.to_string()]).arg(&on_server))?;
    run(Command::new("chmod").args(["-R", "o="]).arg(on_server.join("parallax/layers")))?;
    fs::set_permissions(&on_server, Permissions::from_mode(0o750))?;
    let node = Node::start(&config(&store, ""))?;
    let (done, source) = node.run(3, USER, "app", READ)?;
    ensure!(done.stdout.starts_with(&format!("{BYTES}\n")) && source.contains("by native"), "{source}: {done:?}");
    let refused = node.request(4, OTHER, "app", false)?.err().context("another user got it")?;
    ensure!(refused.contains("permission denied on the store /srv/nfs/store"), "{refused}");
    // Root has the file from the user, and can neither open it again nor mount it by its path.
    let user = Credentials { uid: USER, gid: USER, groups: vec![USER] };
    let read_by = erofs(&store, &user)?;
    ensure!(read_by == Some(ReadBy::LoopDevice), "{read_by:?}");
    Ok(())
}

/// Mounts the EROFS file of the store's layer as the agent does, and reads it; returns how the kernel reads it.
fn erofs(store: &Path, user: &Credentials) -> anyhow::Result<Option<ReadBy>> {
    let open = || -> anyhow::Result<_> {
        let store = TrustedStore::open(store)?;
        let record = store.resolve(&ImageRef::parse("app")?)?.context("no image")?;
        Ok((store, record))
    };
    let (store, record) = user.run(open)??;
    let mounts = tempfile::tempdir()?;
    let kernel = Abilities { erofs: true, ..Abilities::default() };
    let layer = LayerTable::new(mounts.path().to_owned()).get(&store, &record.layers[0], user, &kernel)?;
    let entry = layer.entry();
    ensure!(fs::read(entry.mount_point.join("file"))?.len() == BYTES, "the wrong contents");
    Ok(entry.erofs)
}

/// A repository of the account with an image.
fn repository_of(nfs: &Nfs) -> anyhow::Result<PathBuf> {
    let root = nfs.on_server("repository");
    let flat = format!(".flat/ab/{}", "ab".repeat(32));
    fill(&root.join(&flat))?;
    fs::create_dir_all(root.join(NAME).parent().context("no parent")?)?;
    symlink(Path::new("../..").join(&flat), root.join(NAME))?;
    run(Command::new("chown").args(["-R", &format!("{ACCOUNT}:{ACCOUNT}")]).arg(&root))?;
    Ok(Nfs::path("repository"))
}

/// What the kernel refuses is what parallax-file-system says of NFS.
fn ids_are_not_mapped(tree: &Path) -> anyhow::Result<()> {
    let map = [IdRange { inside: 0, outside: 100_000, count: 65_536 }];
    let namespace = UserNamespace::new(USER, USER, &map, &map)?;
    let tree = fs::File::open(tree)?;
    let mapped = DetachedMount::of_directory(tree.as_fd())?.map_ids(namespace.as_fd());
    let error = mapped.err().context("ids were mapped")?;
    ensure!(error.raw_os_error() == Some(rustix::io::Errno::INVAL.raw_os_error()), "{error}");
    Ok(())
}

fn a_tree_gets_its_owners_by_a_metadata_image() -> anyhow::Result<()> {
    let nfs = Nfs::new()?;
    let root = repository_of(&nfs)?;
    ids_are_not_mapped(&root.join(NAME))?;
    let place = tempfile::tempdir()?;
    fs::set_permissions(place.path(), Permissions::from_mode(0o755))?;
    chown(place.path(), Some(ACCOUNT), None)?;
    let store = place.path().join("store");
    let import = ["import", "--unpacked", root.to_str().context("no UTF-8")?];
    let done = parallax(0, &place.path().join("of-root"), &import)?;
    ensure!(done.code != 0 && done.stderr.contains("etc/secret: Permission denied"), "{done:?}");
    parallax(ACCOUNT, &store, &import)?.success()?;

    let named = config(&store, &format!("[trees]\npaths = [{root:?}]"));
    let node = Node::start(&named)?;
    let lease = node.request(5, USER, NAME, true)?.map_err(anyhow::Error::msg)?;
    let script = format!("{READ}; echo more >>/file && busybox wc -c </file; busybox rm /file && busybox ls /");
    let (source, done) = (node.source(5)?, lease.run(&script)?);
    ensure!(source.contains("by native") && source.contains("; metadata of /srv/nfs/repository/"), "{source}");
    // Its contents are read by root of the node, whom the server does not trust.
    ensure!(done.stderr.contains("/etc/secret': Permission denied"), "{done:?}");
    let seen = format!("{BYTES}\n0 644\n0 600\n{}\nbin\n", BYTES + 5);
    ensure!(done.stdout.starts_with(&seen) && !done.stdout.contains("file"), "{done:?}");
    ensure!(lease.release()?.is_empty(), "the release had problems");
    drop(node);

    // The directory as it is: by its name where the metadata image cannot be used, and by its path.
    let node = Node::start(&config(&store, ""))?;
    let path = root.join(NAME);
    for (job, image) in [(6, NAME), (7, path.to_str().context("no UTF-8")?)] {
        let (done, source) = node.run(job, USER, image, READ)?;
        ensure!(done.stdout == format!("{BYTES}\n65534 644\n65534 600\n"), "{source}: {done:?}");
        ensure!(source.starts_with("directory by native"), "{source}");
        ensure!(image != NAME || source.contains("trees.paths in parallax.toml"), "{source}");
    }
    Ok(())
}

fn a_tree_that_only_its_user_may_read_runs() -> anyhow::Result<()> {
    let nfs = Nfs::new()?;
    let tree = nfs.on_server("own");
    fill(&tree)?;
    run(Command::new("chown").args(["-R", &format!("{USER}:{USER}")]).arg(&tree))?;
    fs::set_permissions(&tree, Permissions::from_mode(0o700))?;
    let path = Nfs::path("own");
    ensure!(fs::read_dir(&path).is_err(), "root can read it");
    let node = Node::start("stores = [\"/srv\"]\n")?;
    let image = path.to_str().context("no UTF-8")?;
    let (done, _) = node.run(8, USER, image, READ)?;
    ensure!(done.stdout == format!("{BYTES}\n{USER} 644\n{USER} 600\nsecret\n"), "{done:?}");
    let (done, _) = node.run(9, OTHER, image, READ)?;
    ensure!(done.code == 125 && done.stderr.contains("you may not read it; ask its owner for access"), "{done:?}");
    Ok(())
}

fn a_server_that_stops_holds_no_step() -> anyhow::Result<()> {
    let nfs = Nfs::new()?;
    let store = nfs.store()?;
    let node = Node::start(&config(&store, "[step]\nstart_timeout = 8"))?;
    let lease = |job, uid| node.request(job, uid, "app", true)?.map_err(anyhow::Error::msg);
    let (idle, reading) = (lease(10, USER)?, lease(11, OTHER)?);
    reading.run("busybox stat /file")?.success()?;
    // Nothing of the store is in memory, so the program is read from the server.
    shell("sync; echo 3 >/proc/sys/vm/drop_caches; rpc.nfsd 0")?;
    let mut reader = reading.command("true").spawn()?;
    let during = || -> anyhow::Result<[String; 2]> {
        let begun = Instant::now();
        let problems = idle.release()?;
        ensure!(problems.is_empty(), "{problems:?}");
        let other = node.run(12, USER, "/mnt/local", READ)?.0;
        ensure!(other.stdout.starts_with(&format!("{BYTES}\n")), "{other:?}");
        let refused = node.request(13, USER, "app", false)?.err().context("an image without its server")?;
        // No signal ends a process that waits for the server.
        let problem = reading.release()?.pop().context("the reader ended")?;
        ensure!(begun.elapsed() < END_TIMEOUT, "it took {:?}", begun.elapsed());
        Ok([refused, problem])
    };
    fill(Path::new("/mnt/local"))?;
    let told = during();
    shell(START)?;
    let [refused, problem] = told?;
    ensure!(problem.contains("timed out waiting for the end of the process"), "{problem}");
    ensure!(refused.contains("/srv/nfs/store (NFS 4.2) does not respond"), "{refused}");
    ensure!(!reader.wait()?.success(), "the reader was not killed");
    // The kernel frees the loop device of the last mount on its own time.
    rustix::fs::sync();
    let devices = run(Command::new("losetup").arg("--list"))?;
    ensure!(!devices.contains(".squash"), "{devices}");
    let (done, _) = node.run(14, USER, "app", READ)?;
    ensure!(done.stdout.starts_with(&format!("{BYTES}\n")), "{done:?}");
    Ok(())
}
