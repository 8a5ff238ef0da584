//! Selection of the node's paths that are mounted into the container.

use std::path::{Path, PathBuf};

use parallax_protocol::step_file::{Mount, StepFile};

/// Directories that make up the image. A user's directory that is, or lies in, one of these would hide a part of the image, so
/// it is not mounted automatically; an administrator may still configure it.
const OF_THE_IMAGE: [&str; 14] = [
    "/", "/bin", "/boot", "/dev", "/etc", "/lib", "/lib32", "/lib64", "/proc", "/run", "/sbin", "/sys", "/usr", "/var",
];

/// Chooses the mounts: the node's devices, configured paths that exist, the user's home (that of the user
/// database and that of the job's environment), and the directory the step was started in, unless it is below one of
/// those.
pub fn choose(
    step: &StepFile,
    home: Option<&Path>,
    workdir: Option<&Path>,
    exists: impl Fn(&Path) -> bool,
) -> Vec<Mount> {
    let same = |path: &Path| Mount { source: path.to_owned(), target: path.to_owned(), read_only: false };
    let mut chosen = vec![same(Path::new("/dev"))];
    chosen.extend(step.mounts.iter().filter(|mount| exists(&mount.source)).cloned());
    let own = [(home, step.mount_home), (step.home.as_deref(), step.mount_home), (workdir, step.mount_workdir)];
    for path in own.into_iter().filter_map(|(path, wanted)| path.filter(|_| wanted)) {
        let shown = chosen.iter().any(|mount| path.starts_with(&mount.target));
        if path.is_absolute() && !shown && !hides_image(path) && exists(path) {
            chosen.push(same(path));
        }
    }
    chosen
}

/// Whether a path is one of the directories that make up an image, or lies in one.
pub fn hides_image(path: &Path) -> bool {
    OF_THE_IMAGE.iter().any(|part| {
        let part = PathBuf::from(part);
        if part == Path::new("/") { path == part } else { path.starts_with(part) }
    })
}

/// Returns the mount in the format of Podman's `--mount`: a CSV record, in which a field may be quoted.
pub fn argument(mount: &Mount) -> String {
    let field = |key: &str, path: &Path| format!("\"{key}={}\"", path.display().to_string().replace('"', "\"\""));
    let mut argument = format!(
        "--mount=type=bind,{},{},bind-propagation=rslave",
        field("source", &mount.source),
        field("destination", &mount.target)
    );
    if mount.read_only {
        argument.push_str(",readonly=true");
    }
    argument
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(mounts: &[&str]) -> StepFile {
        let mount = |path: &&str| Mount { source: path.into(), target: path.into(), read_only: false };
        StepFile {
            image: "a".into(),
            image_id: None,
            notice: None,
            user: "u1".into(),
            home: None,
            environment: Vec::new(),
            working_directory: None,
            mounts: mounts.iter().map(mount).collect(),
            mount_home: true,
            mount_workdir: true,
            podman: "/usr/bin/podman".into(),
            runtime: "/usr/bin/crun".into(),
            start_timeout: 1,
        }
    }

    fn chosen(mounts: &[&str], home: &str, workdir: &str) -> Vec<String> {
        choose(&step(mounts), Some(Path::new(home)), Some(Path::new(workdir)), |path| !path.starts_with("/missing"))
            .iter()
            .map(|mount| mount.target.display().to_string())
            .collect()
    }

    #[test]
    fn home_and_workdir_are_shown() {
        assert_eq!(chosen(&[], "/home/u1", "/scratch/u1"), ["/dev", "/home/u1", "/scratch/u1"]);
    }

    #[test]
    fn the_home_of_the_user_database_is_shown_without_a_variable() {
        let step = StepFile { home: Some("/home/u1".into()), ..step(&[]) };
        let chosen = |home: Option<&str>| -> Vec<PathBuf> {
            choose(&step, home.map(Path::new), None, |_| true).into_iter().map(|mount| mount.target).collect()
        };
        assert_eq!(chosen(None), [Path::new("/dev"), Path::new("/home/u1")]);
        assert_eq!(chosen(Some("/scratch/u1")), [Path::new("/dev"), Path::new("/scratch/u1"), Path::new("/home/u1")]);
        assert_eq!(chosen(Some("/home/u1")), [Path::new("/dev"), Path::new("/home/u1")]);
    }

    #[test]
    fn what_is_shown_already_is_not_shown_again() {
        assert_eq!(chosen(&["/home"], "/home/u1", "/home/u1/run"), ["/dev", "/home"]);
        assert_eq!(chosen(&[], "/home/u1", "/home/u1/run"), ["/dev", "/home/u1"]);
    }

    #[test]
    fn nothing_hides_the_image() {
        assert_eq!(chosen(&[], "/", "/usr/local/src"), ["/dev"]);
        assert_eq!(chosen(&[], "/root", "/tmp/x"), ["/dev", "/root", "/tmp/x"]);
    }

    #[test]
    fn what_is_missing_on_the_node_is_left_out() {
        assert_eq!(chosen(&["/missing/a"], "/missing/b", "/missing/c"), ["/dev"]);
    }

    #[test]
    fn odd_paths_are_quoted() {
        let mount = Mount { source: "/a,b".into(), target: "/c\"d".into(), read_only: true };
        assert_eq!(
            argument(&mount),
            "--mount=type=bind,\"source=/a,b\",\"destination=/c\"\"d\",bind-propagation=rslave,readonly=true"
        );
    }
}
