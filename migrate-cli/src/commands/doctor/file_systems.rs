//! The file systems of stores, repositories, home directories and writable layers.

use std::path::Path;

use parallax_config::Config;
use parallax_file_system::{FileSystem, Place, scratch};
use parallax_sys::project_quota;

use super::check::Check;
use super::users;

/// The topic of these checks.
const TOPIC: &str = "file system";

/// Shows the file systems of all directories of the configuration that are there, and of the home directory of the user of
/// [`users::of_option`]; checks the directory for writable layers.
pub(super) fn check(config: &Config, user: Option<&str>, is_root: bool) -> Vec<Check> {
    let home = users::of_option(user, is_root).and_then(Result::ok).map(|user| user.dir);
    // What is missing is reported with the stores and the repositories.
    let shown = config.stores.iter().chain(&config.trees.paths).chain(&home);
    let mut checks: Vec<Check> =
        shown.filter_map(|path| Some(Check::ok(TOPIC, described(path, &FileSystem::of(path).ok()?)))).collect();
    checks.extend(config.step.scratch().map(|path| of_scratch(path, &config.step.scratch_quota)));
    checks
}

fn described(path: &Path, file_system: &FileSystem) -> String {
    let place = match file_system.kind.place {
        Place::Memory => ", in memory",
        Place::Local => "",
        Place::Shared => ", on servers",
        Place::Unknown => ", of unknown abilities",
    };
    let lacks = match file_system.kind.lacks().as_slice() {
        [] => String::new(),
        lacks => format!("; it has no {}", lacks.join(", no ")),
    };
    format!("{} is on {file_system}{place}{lacks}", path.display())
}

/// Shows the directory for writable layers, and whether its limit holds.
fn of_scratch(path: &Path, quota: &str) -> Check {
    match scratch::open(path) {
        Ok(found) if found.file_system.kind.place == Place::Memory => Check::warning(
            TOPIC,
            format!("writable layers are in {}, which is in memory and beyond the limits of jobs", path.display()),
            "name a directory on a disk in \"step.scratch\", or remove the key",
        ),
        Ok(found) => {
            let place = format!("writable layers are in {}, on {}", path.display(), found.file_system);
            match (quota, project_quota::are_enforced(&found.directory)) {
                ("", _) => Check::ok(TOPIC, format!("{place}, without a limit")),
                (_, true) => Check::ok(TOPIC, format!("{place}, and each has at most {quota} by a project quota")),
                (_, false) => Check::warning(
                    TOPIC,
                    format!("{place}, which enforces no project quotas: \"step.scratch_quota\" limits nothing"),
                    "mount the file system with the option prjquota (ext4 needs tune2fs -O project,quota before)",
                ),
            }
        }
        Err(error) => {
            let text = error.to_string();
            let (finding, remedy) = text.rsplit_once("; ").unwrap_or((&text, "correct \"step.scratch\""));
            Check::problem(TOPIC, finding, remedy)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::check::State;
    use super::*;

    #[test]
    fn directories_have_their_file_systems() {
        let config = Config::parse("stores = [\"/nonexistent\", \"/proc/self\"]").unwrap();
        let checks = check(&config, None, true);
        assert_eq!(checks, [Check::ok(TOPIC, "/proc/self is on proc, of unknown abilities")]);
    }

    #[test]
    fn a_scratch_directory_that_cannot_be_used_has_its_remedy() {
        let check = of_scratch(Path::new("/nonexistent/scratch"), "");
        assert_eq!(check.state, State::Problem);
        assert!(!check.finding.contains(';') && check.remedy.unwrap().contains("step.scratch"), "{}", check.finding);
    }
}
