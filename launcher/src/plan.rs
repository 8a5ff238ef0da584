//! The plan of the step's container (pure): what the container shows beside the image, from the user's request, the site's
//! configuration and the facts of the node. [`crate::build`] carries the plan out.
//!
//! What belongs to one task and not to the container is decided in the task: variables ([`crate::environment`]) and the working
//! directory ([`crate::join`]).

use std::path::{Path, PathBuf};

use parallax_protocol::accounts::Accounts;
use parallax_protocol::step_file::StepFile;
use parallax_request::{Mount, MountSource, Request};

use crate::accounts;
use crate::mounts;

/// Directories of the node that every container shows, and whether they are read-only there.
const OF_THE_NODE: [(&str, bool); 3] = [("/proc", false), ("/sys", true), ("/dev", false)];
/// The directory for temporary files: the node's, or one of the step.
pub(crate) const TMP: &str = "/tmp";
/// Files of the node that every container has a copy of, in the place of the image's.
pub(crate) const COPIED: [&str; 5] =
    ["/etc/resolv.conf", "/etc/hosts", "/etc/hostname", "/etc/localtime", "/etc/machine-id"];
/// The file by which programs notice that they are in a container, as Podman makes it.
const CONTAINERENV: &str = "/run/.containerenv";

/// The facts of the node and of the image that the plan depends on.
#[derive(Debug, Clone, Default)]
pub(crate) struct Facts {
    /// The home directory of the job's environment.
    pub home: Option<PathBuf>,
    /// The directory in which the step was started.
    pub working_directory: Option<PathBuf>,
    /// The job's directory for temporary files (`TMPDIR`).
    pub job_tmp: Option<PathBuf>,
    /// The step's own directory that becomes `/tmp` where the site says so.
    pub step_tmp: PathBuf,
    /// Directories that MPI libraries share with Slurm.
    pub mpi_directories: Vec<PathBuf>,
    /// The mounts of devices.
    pub devices: Vec<Mount>,
    /// The contents of those of [`COPIED`] that the node has.
    pub copied: Vec<(PathBuf, Vec<u8>)>,
    /// The image's files of names.
    pub image_accounts: ImageAccounts,
    /// The user and their groups, as the node names them.
    pub accounts: Accounts,
}

/// The image's files of names; empty where it has none.
#[derive(Debug, Clone, Default)]
pub(crate) struct ImageAccounts {
    /// `/etc/passwd`.
    pub passwd: Vec<u8>,
    /// `/etc/group`.
    pub group: Vec<u8>,
}

/// The plan. Files come before mounts, and both are in order: a later mount may lie in an earlier one.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Plan {
    /// Files to put into the container's writable layer.
    pub files: Vec<(PathBuf, Vec<u8>)>,
    /// Paths of the node to show.
    pub mounts: Vec<Mount>,
    /// True if the root directory is to become read-only.
    pub read_only: bool,
}

/// Whether tasks start in the directory that they have on the node, so that it is an error if the container does not show that. Tasks
/// start in the image's directory where the site shows neither home nor working directory, and in a home (`home` is that of the job's
/// environment) that the user does not want to be shown.
pub(crate) fn starts_as_on_node(
    request: &Request,
    site: &StepFile,
    home: Option<&Path>,
    directory: Option<&Path>,
) -> bool {
    let is_home = directory.is_some() && [home, site.home.as_deref()].contains(&directory);
    (site.mount_home || site.mount_workdir) && !(request.home == Some(false) && is_home)
}

/// Makes the plan. `exists` says whether the node has a path.
pub(crate) fn plan(request: &Request, site: &StepFile, facts: Facts, mut exists: impl FnMut(&Path) -> bool) -> Plan {
    let mut files = facts.copied;
    files.extend(
        accounts::passwd(&facts.image_accounts.passwd, &facts.accounts).map(|text| ("/etc/passwd".into(), text)),
    );
    files.extend(accounts::group(&facts.image_accounts.group, &facts.accounts).map(|text| ("/etc/group".into(), text)));
    files.push((CONTAINERENV.into(), containerenv(site)));
    let mut chosen: Vec<Mount> =
        OF_THE_NODE.iter().map(|(path, read_only)| of_path(Path::new(path), Path::new(path), *read_only)).collect();
    let (tmp, own_tmp) = (Path::new(TMP), site.own_tmp);
    chosen.push(of_path(if own_tmp { &facts.step_tmp } else { tmp }, tmp, false));
    let of_site = site.mounts.iter().filter(|mount| exists(&mount.source));
    chosen.extend(of_site.map(|mount| of_path(&mount.source, &mount.target, mount.read_only)));
    let home = request.home.unwrap_or(site.mount_home);
    // Who starts in a home that is not to be shown does not ask for it by that.
    let (of_job, directory) = (facts.home.as_deref(), facts.working_directory.as_deref());
    let mount_workdir = site.mount_workdir && starts_as_on_node(request, site, of_job, directory);
    let own = [(facts.home, home), (site.home.clone(), home)];
    // With a /tmp of the step the node's directory is not there, and what lies in it is shown only as the job's own.
    let job_tmp = facts.job_tmp.filter(|path| own_tmp && path.starts_with(tmp));
    let own = own.into_iter().chain([(facts.working_directory, mount_workdir), (job_tmp, true)]);
    let own = own.filter_map(|(path, wanted)| path.filter(|path| wanted && !mounts::hides_image(path)));
    // Slurm's directories for MPI lie where an image may have files of its own, such as /var.
    let mpi = facts.mpi_directories.into_iter().filter(|path| !mounts::is_of_image(path));
    for path in own.chain(mpi) {
        let is_own_tmp = |mount: &Mount| own_tmp && mount.target == tmp;
        let shown = path == tmp || chosen.iter().any(|mount| path.starts_with(&mount.target) && !is_own_tmp(mount));
        if path.is_absolute() && !shown && exists(&path) {
            chosen.push(of_path(&path, &path, false));
        }
    }
    chosen.retain(|mount| !request.unmounts.contains(&mount.target));
    let mut is_left_out = |mount: &Mount| mount.optional && mount.source.path().is_some_and(|path| !exists(path));
    let mut wanted = request.mounts.clone();
    wanted.retain(|mount| !is_left_out(mount));
    chosen.extend(facts.devices);
    chosen.extend(wanted);
    Plan { files, mounts: chosen, read_only: request.writable == Some(false) }
}

/// A path of the node, with what is mounted below it later.
fn of_path(source: &Path, target: &Path, read_only: bool) -> Mount {
    let source = MountSource::Path(source.to_owned());
    Mount { source, target: target.to_owned(), read_only, private: false, optional: false }
}

/// The lines of `/run/.containerenv`, by the names that Podman uses (`containerenv(5)`).
fn containerenv(site: &StepFile) -> Vec<u8> {
    let id = site.image_id.as_deref().unwrap_or_default();
    format!("engine=\"parallax\"\nimage=\"{}\"\nimageid=\"{id}\"\nrootless=1\n", site.image).into_bytes()
}

#[cfg(test)]
mod tests {
    use parallax_protocol::step_file;

    use super::*;

    fn site(mounts: &[&str]) -> StepFile {
        let mount = |path: &&str| step_file::Mount { source: path.into(), target: path.into(), read_only: false };
        StepFile {
            image: "a".into(),
            image_id: None,
            pulled_id: None,
            notice: None,
            user: "u1".into(),
            home: None,
            accounts: Accounts::default(),
            environment: Vec::new(),
            working_directory: None,
            entrypoint: Vec::new(),
            other_platform: None,
            layers: Vec::new(),
            directory: None,
            keep_id_maps: None,
            mount_program: None,
            squashfs_program: None,
            mounts: mounts.iter().map(mount).collect(),
            devices: Vec::new(),
            cdi_directories: Vec::new(),
            hook_directories: Vec::new(),
            mount_home: true,
            mount_workdir: true,
            as_root: false,
            container: None,
            own_tmp: false,
            podman: "/usr/bin/podman".into(),
            start_timeout: 1,
        }
    }

    /// The targets beside those that all containers have.
    fn shown(site: &StepFile, facts: Facts) -> Vec<String> {
        let plan = plan(&Request::default(), site, facts, |path| !path.starts_with("/missing"));
        let targets: Vec<String> = plan.mounts.iter().map(|mount| mount.target.display().to_string()).collect();
        let (node, rest) = targets.split_at(OF_THE_NODE.len() + 1);
        assert_eq!(node, ["/proc", "/sys", "/dev", "/tmp"]);
        rest.to_vec()
    }

    fn chosen(mounts: &[&str], home: &str, workdir: &str) -> Vec<String> {
        let (home, working_directory) = (Some(home.into()), Some(workdir.into()));
        shown(&site(mounts), Facts { home, working_directory, ..Facts::default() })
    }

    #[test]
    fn home_and_workdir_are_shown() {
        assert_eq!(chosen(&[], "/home/u1", "/scratch/u1"), ["/home/u1", "/scratch/u1"]);
        let without = StepFile { mount_home: false, mount_workdir: false, ..site(&[]) };
        let facts = Facts { home: Some("/home/u1".into()), working_directory: Some("/w".into()), ..Facts::default() };
        assert!(shown(&without, facts).is_empty());
    }

    #[test]
    fn the_home_of_the_user_database_is_shown_without_a_variable() {
        let site = StepFile { home: Some("/home/u1".into()), ..site(&[]) };
        let chosen = |home: Option<&str>| shown(&site, Facts { home: home.map(PathBuf::from), ..Facts::default() });
        assert_eq!(chosen(None), ["/home/u1"]);
        assert_eq!(chosen(Some("/scratch/u1")), ["/scratch/u1", "/home/u1"]);
        assert_eq!(chosen(Some("/home/u1")), ["/home/u1"]);
    }

    #[test]
    fn what_is_shown_already_is_not_shown_again() {
        assert_eq!(chosen(&["/home"], "/home/u1", "/home/u1/run"), ["/home"]);
        assert_eq!(chosen(&[], "/home/u1", "/home/u1/run"), ["/home/u1"]);
        assert!(chosen(&[], "/tmp", "/tmp/x").is_empty());
    }

    #[test]
    fn a_step_has_a_tmp_of_its_own_where_the_site_says_so() {
        let own = StepFile { own_tmp: true, home: Some("/tmp".into()), ..site(&[]) };
        let facts = Facts {
            working_directory: Some("/tmp/run".into()),
            job_tmp: Some("/tmp/job.7".into()),
            step_tmp: "/step/tmp".into(),
            mpi_directories: vec!["/tmp/pmix".into()],
            ..Facts::default()
        };
        let own = plan(&Request::default(), &own, facts.clone(), |_| true).mounts;
        assert!(own.contains(&of_path(Path::new("/step/tmp"), Path::new("/tmp"), false)));
        let below: Vec<_> =
            own.iter().filter(|mount| mount.target.starts_with(TMP) && mount.target != Path::new(TMP)).collect();
        let expected =
            ["/tmp/run", "/tmp/job.7", "/tmp/pmix"].map(|path| of_path(Path::new(path), Path::new(path), false));
        assert_eq!(below, expected.iter().collect::<Vec<_>>());
        assert!(shown(&site(&[]), facts).is_empty());
    }

    #[test]
    fn nothing_hides_the_image() {
        assert!(chosen(&[], "/", "/usr/local/src").is_empty());
        assert_eq!(chosen(&[], "/root", "/srv/x"), ["/root", "/srv/x"]);
    }

    #[test]
    fn what_is_missing_on_the_node_is_left_out() {
        assert!(chosen(&["/missing/a"], "/missing/b", "/missing/c").is_empty());
    }

    #[test]
    fn directories_for_mpi_are_shown_where_they_are() {
        let all = ["/var/spool/slurmd/pmix.1.0", "/tmp/spmix", "relative", "/missing/x", "/usr", "/"];
        let facts = Facts { mpi_directories: all.map(PathBuf::from).to_vec(), ..Facts::default() };
        assert_eq!(shown(&site(&[]), facts), ["/var/spool/slurmd/pmix.1.0"]);
    }

    #[test]
    fn the_users_own_mounts_come_last() {
        let mount = of_path(Path::new("/data"), Path::new("/home/data"), true);
        let tmpfs = Mount { source: MountSource::Tmpfs, target: "/t".into(), ..mount.clone() };
        let missing = Mount { optional: true, ..of_path(Path::new("/missing/x"), Path::new("/x"), false) };
        let request = Request {
            mounts: vec![mount.clone(), missing, tmpfs.clone()],
            writable: Some(false),
            ..Request::default()
        };
        let exists = |path: &Path| !path.starts_with("/missing");
        let device = of_path(Path::new("/dev/a"), Path::new("/dev/b"), false);
        let facts = Facts { devices: vec![device.clone()], ..Facts::default() };
        let plan = plan(&request, &site(&["/home"]), facts, exists);
        assert_eq!(plan.mounts.iter().rev().take(3).collect::<Vec<_>>(), [&tmpfs, &mount, &device]);
        assert!(plan.read_only);
    }

    #[test]
    fn the_user_may_leave_out_what_the_site_shows() {
        let own = of_path(Path::new("/data"), Path::new("/home"), true);
        let request =
            Request { unmounts: vec!["/sys".into(), "/home".into()], mounts: vec![own.clone()], ..Request::default() };
        let mounts = plan(&request, &site(&["/home", "/scratch"]), Facts::default(), |_| true).mounts;
        let targets: Vec<&str> = mounts.iter().filter_map(|mount| mount.target.to_str()).collect();
        assert_eq!(targets, ["/proc", "/dev", "/tmp", "/scratch", "/home"]);
        assert_eq!(mounts.last(), Some(&own));
    }

    #[test]
    fn a_missing_source_that_is_not_optional_stays_an_error() {
        let missing = of_path(Path::new("/missing/x"), Path::new("/x"), false);
        let request = Request { mounts: vec![missing.clone()], ..Request::default() };
        assert_eq!(plan(&request, &site(&[]), Facts::default(), |_| false).mounts.last(), Some(&missing));
    }

    #[test]
    fn the_user_decides_about_the_home() {
        let facts = || Facts { home: Some("/home/u1".into()), ..Facts::default() };
        let targets = |home: bool, site: &StepFile| {
            let request = Request { home: Some(home), ..Request::default() };
            plan(&request, site, facts(), |_| true).mounts.iter().any(|mount| mount.target == Path::new("/home/u1"))
        };
        assert!(!targets(false, &site(&[])));
        assert!(targets(true, &StepFile { mount_home: false, ..site(&[]) }));
    }

    #[test]
    fn a_home_that_is_not_shown_is_not_where_tasks_start() {
        let starts = |home: Option<bool>, site: &StepFile, directory: &str| {
            let request = Request { home, ..Request::default() };
            starts_as_on_node(&request, site, Some(Path::new("/home/u1")), Some(Path::new(directory)))
        };
        assert!(starts(None, &site(&[]), "/home/u1") && starts(Some(false), &site(&[]), "/home/u1/run"));
        assert!(!starts(Some(false), &site(&[]), "/home/u1"));
        let without = |mount_home| StepFile { mount_home, mount_workdir: false, ..site(&[]) };
        assert!(starts(None, &without(true), "/scratch") && !starts(None, &without(false), "/scratch"));
        let facts =
            Facts { home: Some("/home/u1".into()), working_directory: Some("/home/u1".into()), ..Facts::default() };
        let request = Request { home: Some(false), ..Request::default() };
        let plan = plan(&request, &site(&[]), facts, |_| true);
        assert!(plan.mounts.iter().all(|mount| mount.target != Path::new("/home/u1")));
    }

    #[test]
    fn files_of_the_node_are_put_into_the_container() {
        let copied = vec![("/etc/hosts".into(), b"127.0.0.1 localhost\n".to_vec())];
        let site = StepFile { image_id: Some("ab".into()), ..site(&[]) };
        let plan = plan(&Request::default(), &site, Facts { copied: copied.clone(), ..Facts::default() }, |_| true);
        assert_eq!(plan.files.first(), copied.first());
        let (path, text) = plan.files.last().unwrap();
        assert_eq!(path, Path::new(CONTAINERENV));
        assert!(std::str::from_utf8(text).unwrap().contains("image=\"a\"\nimageid=\"ab\"\n"));
    }
}
