//! Resolves entry names that contain symbolic links of the same layer, such as `lib -> usr/lib` and then `lib/x.so`.
//!
//! Extraction, by containers/storage in a chroot, lets the kernel follow the links of directories on the way to an entry, so
//! that `/` is the layer's root and `..` in the root is the root. The last component is not followed: the entry replaces the
//! link. If the target directory is not in the layer, extraction fails; the converter makes the directory, which may be
//! in a layer below.

use std::collections::VecDeque;

use crate::error::EntryError;
use crate::path::LayerPath;

/// Maximum number of symbolic links in one name, as in the kernel (`MAXSYMLINKS`).
const MAX_LINKS: u32 = 40;

/// The kind of a path for name resolution.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step<'a> {
    /// A directory, all of whose parents are directories too.
    Directory,
    /// A symbolic link, with its target.
    Link(&'a [u8]),
    /// Another file, or none.
    Other,
}

/// Returns the path that an entry's name means. `look` looks a path up.
pub(crate) fn resolve<'a>(path: LayerPath, look: impl Fn(&LayerPath) -> Step<'a>) -> Result<LayerPath, EntryError> {
    let Some(parent) = path.parent() else { return Ok(path) };
    // The usual case.
    if parent.is_root() || look(&parent) == Step::Directory {
        return Ok(path);
    }
    let split = |path: &[u8]| -> Vec<Vec<u8>> { path.split(|&b| b == b'/').map(<[u8]>::to_vec).collect() };
    let mut left: VecDeque<Vec<u8>> = split(parent.as_bytes()).into();
    let mut place = LayerPath::root();
    let mut links = 0;
    while let Some(name) = left.pop_front() {
        match &name[..] {
            b"" | b"." => continue,
            b".." => {
                place = place.parent().unwrap_or(place);
                continue;
            }
            _ => {}
        }
        let next = place.child(&name);
        let Step::Link(target) = look(&next) else {
            place = next;
            continue;
        };
        links += 1;
        if links > MAX_LINKS {
            return Err(EntryError::LinkLoop);
        }
        if target.first() == Some(&b'/') {
            place = LayerPath::root();
        }
        for name in split(target).into_iter().rev() {
            left.push_front(name);
        }
    }
    if links == 0 {
        return Ok(path);
    }
    // Links make short names longer, so the limits are checked again.
    LayerPath::of_entry(place.child(path.file_name()).as_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(name: &str, links: &[(&str, &str)]) -> Result<String, EntryError> {
        let look = |path: &LayerPath| {
            let link = links.iter().find(|(name, _)| name.as_bytes() == path.as_bytes());
            link.map_or(Step::Other, |(_, target)| Step::Link(target.as_bytes()))
        };
        resolve(LayerPath::of_entry(name.as_bytes()).unwrap(), look).map(|path| path.to_string())
    }

    #[test]
    fn links_on_the_way_are_followed_inside_of_the_layer_only() {
        let links = [
            ("lib", "usr/lib"),
            ("abs", "/opt/./x"),
            ("usr/up", "../lib"),
            ("out", "../../../../etc"),
            ("opt/x/deep", ".."),
        ];
        for (name, place) in [
            ("lib/x.so", "usr/lib/x.so"),
            ("lib", "lib"),
            ("abs/a/b", "opt/x/a/b"),
            ("usr/up/x.so", "usr/lib/x.so"),
            ("out/shadow", "etc/shadow"),
            ("opt/x/deep/y", "opt/y"),
            ("other/x", "other/x"),
        ] {
            assert_eq!(resolved(name, &links).as_deref(), Ok(place), "{name}");
        }
    }

    #[test]
    fn links_that_go_round_are_refused() {
        assert_eq!(resolved("a/x", &[("a", "b"), ("b", "a")]), Err(EntryError::LinkLoop));
        assert_eq!(resolved("a/x", &[("a", "a/b")]), Err(EntryError::LinkLoop));
    }
}
