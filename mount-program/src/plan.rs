//! The plan of the mounts (pure, except for the given look-up function).

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::layer::{Layer, LayerError, Source};
use crate::options::{Options, Upper};

/// Options that only fuse-overlayfs has, for id maps and the like.
const FUSE_OVERLAYFS_ONLY: [&str; 6] =
    ["uidmapping", "gidmapping", "squash_to_root", "squash_to_uid", "squash_to_gid", "xattr_permissions"];
/// Prefix of the option for the SELinux context of all files.
const CONTEXT: &[u8] = b"context=";
/// Options that the kernel's overlay accepts unchanged.
const KERNELS: [&str; 10] = [
    "volatile",
    "context",
    "fscontext",
    "defcontext",
    "rootcontext",
    "index",
    "metacopy",
    "redirect_dir",
    "xino",
    "nfs_export",
];
/// Mount flags, which Podman itself leaves out with a mount program, and what this program decides for itself.
const IGNORED: [&str; 15] = [
    "ro",
    "rw",
    "dev",
    "nodev",
    "suid",
    "nosuid",
    "exec",
    "noexec",
    "atime",
    "noatime",
    "relatime",
    "private",
    "rprivate",
    "userxattr",
    "lazytime",
];

/// The plan of a mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Plan {
    /// No layer is a SquashFS file or a list of directories, and no path needs escapes: the mount is passed to fuse-overlayfs unchanged.
    PassThrough,
    /// An overlay over these layers.
    Overlay(OverlayPlan),
}

/// An overlay with layers from SquashFS files.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct OverlayPlan {
    /// Its layers, the topmost first.
    pub layers: Vec<Source>,
    /// Directories for changes.
    pub upper: Option<Upper>,
    /// Further options for the kernel's overlay, or the reason why it cannot be used.
    pub kernel: Result<Vec<OsString>, String>,
    /// Further options for fuse-overlayfs.
    pub fuse_overlayfs: Vec<OsString>,
    /// The SELinux context of all files, for fuse-overlayfs: its mount is made by this program.
    pub context: Option<String>,
}

/// Error of making a plan.
#[derive(Debug, thiserror::Error)]
pub(crate) enum PlanError {
    /// A layer cannot be used.
    #[error(transparent)]
    Layer(#[from] LayerError),
    /// All layers of an additional store's image have no files.
    #[error("all layers of the image in {} are empty and none has a SquashFS file: migrate it again", .0.display())]
    Hollow(PathBuf),
}

/// Makes the plan. `own_home` is the `overlay` directory of the caller's own store, where empty images are possible.
pub(crate) fn plan(
    options: &Options,
    own_home: Option<&Path>,
    mut look_up: impl FnMut(&Path) -> Result<Option<Layer>, LayerError>,
) -> Result<Plan, PlanError> {
    let mut seen = BTreeSet::new();
    let mut layers = Vec::new();
    for lower in &options.lower {
        let Some(layer) = look_up(lower)? else { continue };
        // A layer that an image has twice (an empty one, mostly) has no effect below itself, and the kernel refuses it.
        if seen.insert(layer.identity) {
            layers.push(layer.source);
        }
    }
    if let Some(store) = hollow_image(&layers, own_home) {
        return Err(PlanError::Hollow(store.to_owned()));
    }
    let is_ours = |layer: &Source| matches!(layer, Source::Squashfs(_) | Source::Parts(_));
    if !layers.iter().any(is_ours) && !options.lower.iter().any(|path| is_odd(path)) {
        return Ok(Plan::PassThrough);
    }
    Ok(Plan::Overlay(OverlayPlan {
        kernel: for_kernel(&layers, &options.other),
        layers,
        upper: options.upper.clone(),
        fuse_overlayfs: for_fuse_overlayfs(&options.other),
        context: options.other.iter().find_map(|option| {
            let label = option.as_encoded_bytes().strip_prefix(CONTEXT)?;
            Some(String::from_utf8_lossy(label).trim_matches('"').to_owned())
        }),
    }))
}

/// Returns the options for fuse-overlayfs. SquashFS files have no ACLs, and older versions of fuse-overlayfs (1.10) cannot create
/// files in a directory without ACL support.
fn for_fuse_overlayfs(others: &[OsString]) -> Vec<OsString> {
    let taken = others.iter().filter(|option| !option.as_encoded_bytes().starts_with(CONTEXT));
    taken.cloned().chain(["noacl".into()]).collect()
}

/// Whether fuse-overlayfs would misread the path: no version supports Podman's escapes.
fn is_odd(path: &Path) -> bool {
    path.as_os_str().as_encoded_bytes().iter().any(|byte| b":,\\".contains(byte))
}

/// Returns the store whose image has no files at all, if it is not the caller's own store.
fn hollow_image<'a>(layers: &'a [Source], own_home: Option<&Path>) -> Option<&'a Path> {
    let mut hollow_in = None;
    for layer in layers {
        match layer {
            Source::Directory { hollow_in: Some(overlay), .. } if Some(overlay.as_path()) != own_home => {
                hollow_in = Some(overlay.as_path());
            }
            _ => return None,
        }
    }
    hollow_in
}

fn for_kernel(layers: &[Source], others: &[OsString]) -> Result<Vec<OsString>, String> {
    let plain = layers.iter().find_map(|layer| match layer {
        Source::Directory { path, .. } => Some(path),
        Source::Parts(paths) => paths.first(),
        Source::Squashfs(_) => None,
    });
    if let Some(path) = plain {
        // Podman unpacks layers with `.wh.` files when it has a mount program.
        return Err(format!("{} is a plain directory, whose deletions only fuse-overlayfs knows", path.display()));
    }
    let mut taken = Vec::new();
    for option in others {
        let text = option.to_string_lossy();
        let key = text.split_once('=').map_or(&*text, |(key, _)| key);
        if FUSE_OVERLAYFS_ONLY.contains(&key) {
            return Err(format!("only fuse-overlayfs has {key}"));
        } else if KERNELS.contains(&key) {
            taken.push(option.clone());
        } else if !IGNORED.contains(&key) {
            return Err(format!("the kernel's overlay has no option {key}"));
        }
    }
    Ok(taken)
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::layer::{Sidecar, Stamp};

    /// Layers named `s…` lie in SquashFS files, `p…` in directories elsewhere, `h…` are hollow, all others are plain; the last letter is the identity.
    fn planned(text: &str) -> Result<Plan, PlanError> {
        let options = Options::parse(OsStr::new(text)).unwrap();
        plan(&options, Some(Path::new("/own")), |path| {
            let name = path.to_str().unwrap();
            let source = match name.as_bytes()[0] {
                b's' => sidecar(name),
                b'p' => Source::Parts(vec!["/part".into()]),
                b'h' => Source::Directory { path: path.into(), hollow_in: Some("/store/overlay".into()) },
                b'o' => Source::Directory { path: path.into(), hollow_in: Some("/own".into()) },
                _ => Source::Directory { path: path.into(), hollow_in: None },
            };
            Ok(Some(Layer { source, identity: (0, u64::from(*name.as_bytes().last().unwrap())) }))
        })
    }

    fn sidecar(name: &str) -> Source {
        let path = format!("{name}.squash").into();
        let format = parallax_format::LayerFormat::Squashfs;
        Source::Squashfs(Sidecar {
            format,
            path,
            chunks: None,
            stamp: Stamp::default(),
            store_device: 0,
            shared_file_system: None,
        })
    }

    fn overlay(text: &str) -> OverlayPlan {
        match planned(text).unwrap() {
            Plan::Overlay(plan) => plan,
            Plan::PassThrough => panic!("{text} is passed through"),
        }
    }

    #[test]
    fn what_is_not_ours_is_passed_through() {
        assert_eq!(planned("lowerdir=/a:/b,private").unwrap(), Plan::PassThrough);
        assert_eq!(planned("lowerdir=own1").unwrap(), Plan::PassThrough);
        assert!(overlay("lowerdir=/a\\:b1").kernel.is_err());
    }

    #[test]
    fn layers_keep_their_order_and_come_once() {
        let plan = overlay("lowerdir=s1:s2:s1:s3,upperdir=/u,workdir=/w,volatile,,nodev");
        assert_eq!(plan.layers, ["s1", "s2", "s3"].map(sidecar));
        assert_eq!(plan.kernel, Ok(vec!["volatile".into()]));
        assert_eq!(plan.fuse_overlayfs, ["volatile", "nodev", "noacl"]);
    }

    #[test]
    fn an_id_map_plain_layers_and_unknown_options_need_fuse_overlayfs() {
        for (text, word) in [
            ("lowerdir=s1,uidmapping=:0:1:5,gidmapping=:0:1:5", "uidmapping"),
            ("lowerdir=s1,squash_to_uid=5", "squash_to_uid"),
            ("lowerdir=s1,xattr_permissions=2", "xattr_permissions"),
            ("lowerdir=/plain:s1", "plain directory"),
            ("lowerdir=p1", "/part is a plain directory"),
            ("lowerdir=s1,noacl", "noacl"),
        ] {
            let reason = overlay(text).kernel.unwrap_err();
            assert!(reason.contains(word), "{reason}");
        }
    }

    #[test]
    fn a_context_is_for_the_kernel_and_for_the_mount_of_fuse_overlayfs() {
        let plan = overlay("lowerdir=s1,context=\"a,b\",volatile");
        assert_eq!(plan.kernel, Ok(vec!["context=\"a,b\"".into(), "volatile".into()]));
        assert_eq!(
            (plan.context.as_deref(), plan.fuse_overlayfs),
            (Some("a,b"), vec!["volatile".into(), "noacl".into()])
        );
    }

    #[test]
    fn an_image_with_no_file_at_all_is_an_error_in_an_additional_store() {
        assert!(matches!(planned("lowerdir=h1:h2"), Err(PlanError::Hollow(_))));
        assert!(planned("lowerdir=h1:s2").is_ok());
        assert!(planned("lowerdir=/plain:h1").is_ok());
    }
}
