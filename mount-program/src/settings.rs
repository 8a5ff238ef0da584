//! The variables a site can set; they are those of the mount script that this program replaces.

use std::ffi::OsString;

/// The programs to use, and how much to say.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// The programs that serve SquashFS, the first that is there is taken.
    pub squashfuse: Vec<OsString>,
    /// Arguments for it, before all others.
    pub squashfuse_flags: Vec<OsString>,
    /// The overlay in user space.
    pub fuse_overlayfs: OsString,
    /// Whether to say what was done and why, not only what went wrong.
    pub verbose: bool,
}

impl Settings {
    /// What the environment says; unset and empty variables mean the default.
    pub fn from_environment(get: impl Fn(&str) -> Option<OsString>) -> Self {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let mut flags: Vec<OsString> = Vec::new();
        if let Some(text) = get("PARALLAX_MP_SQUASHFUSE_FLAG") {
            flags.extend(text.to_string_lossy().split_whitespace().map(OsString::from));
        }
        // All files of one owner, for images whose ids the user has not got. Only both together mean that.
        if let (Some(uid), Some(gid)) = (get("PARALLAX_MP_UID"), get("PARALLAX_MP_GID")) {
            let mut option = OsString::from("uid=");
            option.push(uid);
            option.push(",gid=");
            option.push(gid);
            flags.extend(["-o".into(), option]);
        }
        let level = get("PARALLAX_MP_LOGLEVEL").unwrap_or_default().to_string_lossy().to_ascii_lowercase();
        Self {
            squashfuse: get("PARALLAX_MP_SQUASHFUSE_CMD")
                .map_or_else(|| vec!["squashfuse_ll".into(), "squashfuse".into()], |command| vec![command]),
            squashfuse_flags: flags,
            fuse_overlayfs: get("PARALLAX_MP_FUSE_OVERLAYFS_CMD").unwrap_or_else(|| "fuse-overlayfs".into()),
            verbose: ["info", "debug", "trace"].contains(&level.as_str()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults() {
        let settings = Settings::from_environment(|_| None);
        assert_eq!(settings.squashfuse, ["squashfuse_ll", "squashfuse"]);
        assert!(settings.squashfuse_flags.is_empty() && !settings.verbose);
    }

    #[test]
    fn what_a_site_sets() {
        let settings = Settings::from_environment(|name| {
            let value = match name {
                "PARALLAX_MP_SQUASHFUSE_CMD" => "/opt/squashfuse_ll",
                "PARALLAX_MP_SQUASHFUSE_FLAG" => " -s  -o clone_fd",
                "PARALLAX_MP_UID" => "1000",
                "PARALLAX_MP_GID" => "100",
                "PARALLAX_MP_LOGLEVEL" => "DEBUG",
                _ => return Some(OsString::new()),
            };
            Some(value.into())
        });
        assert_eq!(settings.squashfuse, ["/opt/squashfuse_ll"]);
        assert_eq!(settings.squashfuse_flags, ["-s", "-o", "clone_fd", "-o", "uid=1000,gid=100"]);
        assert_eq!(settings.fuse_overlayfs, "fuse-overlayfs");
        assert!(settings.verbose);
    }
}
