//! An image to migrate, and the products.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::Context as _;
use integration_tests::cluster::{Done, repository};
use parallax_format::LayerFormat;
use parallax_layers::fs_verity_digest;
use parallax_store::LayerFile;
use parallax_store::hash::sha256;
use parallax_sys::verity;

use super::disk::run;

/// Bytes that do not compress, so that the file of a layer with them has their size.
pub(crate) fn noise(bytes: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let noise = std::iter::repeat_with(|| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_be_bytes()[0]
    });
    noise.take(bytes).collect()
}

/// Makes an image with one layer in a directory, as `skopeo copy … dir:` does.
pub(crate) fn make(directory: &Path, tree: &Path) -> anyhow::Result<()> {
    let archive = tree.with_extension("tar");
    run(Command::new("tar").args(["--sort=name", "--mtime=@0", "-cf"]).arg(&archive).arg("-C").arg(tree).arg("."))?;
    let layer = fs::read(&archive)?;
    fs::remove_file(&archive)?;
    let diff_id = sha256(&layer);
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","config":{{}},"rootfs":{{"type":"layers","diff_ids":["sha256:{diff_id}"]}}}}"#
    );
    let digest = sha256(config.as_bytes());
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json","config":{{"mediaType":"application/vnd.oci.image.config.v1+json","digest":"sha256:{digest}","size":{}}},"layers":[{{"mediaType":"application/vnd.oci.image.layer.v1.tar","digest":"sha256:{diff_id}","size":{}}}]}}"#,
        config.len(),
        layer.len()
    );
    fs::create_dir_all(directory)?;
    fs::write(directory.join("version"), "Directory Transport Version: 1.1\n")?;
    fs::write(directory.join(digest.as_str()), config)?;
    fs::write(directory.join(diff_id.as_str()), layer)?;
    fs::write(directory.join("manifest.json"), manifest)?;
    Ok(())
}

/// Runs `parallax` with a store.
pub(crate) fn parallax(store: &Path, arguments: &[&str]) -> anyhow::Result<Done> {
    let program = repository().join("target/debug/parallax");
    let mut command = Command::new(program);
    Ok(Done::from(command.arg("--store").arg(store).args(arguments).output().context("parallax cannot be started")?))
}

/// Migrates an image with a file of so many bytes to a store, and adds the layer in EROFS; returns the layer's two files.
pub(crate) fn migrate(store: &Path, bytes: usize) -> anyhow::Result<[PathBuf; 2]> {
    let (place, tree) = (tempfile::tempdir()?, tempfile::tempdir()?);
    fs::write(tree.path().join("file"), noise(bytes))?;
    make(place.path(), tree.path())?;
    parallax(store, &["migrate", &format!("dir:{}", place.path().display()), "--name", "app"])?.success()?;
    add_erofs(store, tree.path())
}

/// Makes the EROFS file of a store's only layer as a migration does, if it is not there; returns the layer's two files. Debian trixie's mkfs.erofs
/// is too old for a migration: it reads archives wrongly.
pub(crate) fn add_erofs(store: &Path, tree: &Path) -> anyhow::Result<[PathBuf; 2]> {
    let mut files = fs::read_dir(store.join("parallax/layers"))?.filter_map(|entry| Some(entry.ok()?.path()));
    let squashfs =
        files.find(|path| path.extension().is_some_and(|end| end == "squash")).context("no file of a layer")?;
    let erofs = squashfs.with_extension("erofs");
    if erofs.exists() {
        return Ok([squashfs, erofs]);
    }
    run(Command::new("mkfs.erofs")
        .args(["--quiet", "-T0", "-U00000000-0000-0000-0000-000000000000"])
        .arg(&erofs)
        .arg(tree))?;
    let bytes = fs::read(&erofs)?;
    let description: LayerFile = serde_json::from_slice(&fs::read(squashfs.with_extension("json"))?)?;
    let described = LayerFile {
        format: LayerFormat::Erofs,
        squashfs_size: bytes.len() as u64,
        squashfs_sha256: sha256(&bytes),
        fs_verity: Some(fs_verity_digest(bytes.as_slice())?),
        ..description
    };
    fs::write(erofs.with_extension("erofs.json"), serde_json::to_vec(&described)?)?;
    verity::enable(File::open(&erofs)?)?;
    Ok([squashfs, erofs])
}
