//! squashfs-tools and erofs-utils, used for migrations.

use std::path::Path;

use parallax_layers::{MkfsErofs, Mksquashfs};

use super::check::Check;
use super::programs::find;

const TOPIC: &str = "squashfs-tools";
/// The topic of mkfs.erofs.
const EROFS_TOPIC: &str = "erofs-utils";
/// The program that unpacks a SquashFS file to compare it with its layer.
const READER: &str = "sqfs2tar";

/// Checks mksquashfs and the programs that it requires.
pub(super) fn check() -> Check {
    judge(Mksquashfs::find().map_err(|error| error.to_string()), find(READER).as_deref())
}

/// Checks mkfs.erofs. No machine needs it.
pub(super) fn check_erofs() -> Check {
    judge_erofs(MkfsErofs::find().map_err(|error| error.to_string()))
}

fn judge_erofs(tool: Result<MkfsErofs, String>) -> Check {
    match tool {
        Ok(tool) => Check::ok(EROFS_TOPIC, format!("mkfs.erofs {}", tool.version())),
        Err(reason) => Check::ok(EROFS_TOPIC, format!("images cannot be migrated to EROFS on this machine: {reason}")),
    }
}

fn judge(tool: Result<Mksquashfs, String>, reader: Option<&Path>) -> Check {
    let tool = match tool {
        Ok(tool) => tool,
        // Nodes need none.
        Err(reason) => return Check::ok(TOPIC, format!("images cannot be migrated on this machine: {reason}")),
    };
    let version = format!("mksquashfs {}", tool.version());
    if !tool.has_link_defect() {
        return Check::ok(TOPIC, version);
    }
    let defect = format!("{version} may write layers with hard links wrong (a defect up to 4.7.5)");
    match reader {
        Some(_) => Check::ok(TOPIC, format!("{defect}: parallax migrate reads these back and compares them")),
        None => Check::warning(
            TOPIC,
            format!("{defect}, and there is no {READER} to read them back"),
            "install squashfs-tools-ng, or squashfs-tools later than 4.7.5",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::*;

    #[test]
    fn old_erofs_utils_are_named() {
        let judged = |text: &str| judge_erofs(MkfsErofs::parse(text).map_err(|error| error.to_string()));
        assert_eq!(judged("mkfs.erofs (erofs-utils) 1.9.4"), Check::ok(EROFS_TOPIC, "mkfs.erofs 1.9.4"));
        let old = judged("mkfs.erofs 1.5");
        assert!(old.state == State::Ok && old.finding.contains("1.5") && old.finding.contains("1.8.9"), "{old:?}");
    }

    #[test]
    fn the_version_and_what_follows_are_named() {
        let tool = |text: &str| Mksquashfs::parse(text).map_err(|error| error.to_string());
        let state = |text, reader| judge(tool(text), reader);
        let reader = Some(Path::new("/usr/bin/sqfs2tar"));
        let checked = state("mksquashfs version 4.5.1 (2022/03/17)", reader);
        assert_eq!(checked.state, State::Ok);
        assert!(checked.finding.contains("mksquashfs 4.5.1 may write") && checked.finding.contains("compares them"));
        assert_eq!(state("mksquashfs version 4.7.5 (2025/10/01)", None).state, State::Warning);
        assert_eq!(state("mksquashfs version 4.8 (2027/01/01)", None), Check::ok(TOPIC, "mksquashfs 4.8"));
        assert_eq!(state("mksquashfs version 4.4 (2019/08/29)", None).state, State::Ok);
    }
}
