//! Directories that MPI libraries share with Slurm, and that a container shows without being asked for.

use std::path::{Path, PathBuf};

use crate::node_name::node_name;

/// Variables with such directories: PMIx (the server's, and the clients' if the user chose it), and Cray's PALS.
const VARIABLES: [&str; 3] = [SERVER, CLIENTS, "PALS_SPOOL_DIR"];
/// Set in steps with `--mpi=pmix`.
const SERVER: &str = "PMIX_SERVER_TMPDIR";
const CLIENTS: &str = "SLURM_PMIX_TMPDIR";
/// Slurm's variables for the job and the step.
const STEP: [&str; 2] = ["SLURM_JOB_ID", "SLURM_STEP_ID"];
/// Slurm's variable for the path of its configuration, beside which the others are.
const CONFIGURATION: &str = "SLURM_CONF";
/// Where the configuration is without it: as a file, and as slurmd gets it from slurmctld.
const CONFIGURATIONS: [&str; 2] = ["/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf"];
/// `TmpFS` where slurm.conf has none.
const DEFAULT_TMP_FS: &str = "/tmp";

/// What the directories depend on beside variables and files.
#[derive(Debug)]
pub(crate) struct Names {
    /// The user's id.
    pub uid: u32,
    /// The node's name in Slurm.
    pub node: String,
    /// Its hostname up to the first dot.
    pub host: String,
}

/// Returns the directories. The clients' one (`spmix_appdir_…`) lies in a directory that no variable names, unless the user chose it: that
/// of mpi.conf, else that of slurm.conf (`_env_set` of Slurm's mpi/pmix). Both are returned: in a `/tmp` of the step's own, the node's `/tmp`
/// is not there, and the clients' directory in it has to be.
pub(crate) fn directories(
    variable: impl Fn(&str) -> Option<PathBuf>,
    read: impl Fn(&Path) -> Option<String>,
    names: &Names,
) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = VARIABLES.iter().filter_map(|name| variable(name)).collect();
    if variable(SERVER).is_none() {
        return directories;
    }
    let base = variable(CLIENTS).unwrap_or_else(|| {
        let mut paths = variable(CONFIGURATION).into_iter().chain(CONFIGURATIONS.map(PathBuf::from));
        let found = paths.find_map(|path| Some((read(&path)?, path)));
        let mpi = found.as_ref().and_then(|(_, path)| read(&path.with_file_name("mpi.conf"))).unwrap_or_default();
        let slurm = found.map(|(slurm, _)| slurm).unwrap_or_default();
        let of_mpi = value(&mpi, "PMIxCliTmpDirBase").map(ToOwned::to_owned);
        of_mpi.unwrap_or_else(|| expand(value(&slurm, "TmpFS").unwrap_or(DEFAULT_TMP_FS), names)).into()
    });
    let [job, step] = STEP.map(|name| variable(name).unwrap_or_default());
    let own = base.join(format!("spmix_appdir_{}_{}.{}", names.uid, job.display(), step.display()));
    if !directories.contains(&base) {
        directories.push(base);
    }
    directories.push(own);
    directories
}

/// Returns the directories as the task's environment and the node's files have them.
pub(crate) fn directories_of_task() -> Vec<PathBuf> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let host = host.split('.').next().unwrap_or_default().to_owned();
    let names = Names { uid: rustix::process::getuid().as_raw(), node: node_name(), host };
    directories(|name| std::env::var_os(name).map(PathBuf::from), |path| std::fs::read_to_string(path).ok(), &names)
}

/// Returns the value of a key in a configuration of Slurm's. The last line that sets the key counts; keys have no case.
fn value<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    let lines = text.lines().filter_map(|line| line.split('#').next()?.split_once('='));
    let mut values = lines.filter(|(name, _)| name.trim().eq_ignore_ascii_case(key)).map(|(_, value)| value.trim());
    values.next_back()
}

/// Replaces the node's names in `TmpFS`, the first of each (`slurm_conf_expand_slurmd_path`).
fn expand(path: &str, names: &Names) -> String {
    path.replacen("%h", &names.host, 1).replacen("%n", &names.node, 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Vec<String> {
        let get = |all: &[(&str, &str)], name: &str| {
            all.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
        };
        let step = [(STEP[0], "7"), (STEP[1], "0")];
        let variable = |name: &str| get(variables, name).or_else(|| get(&step, name)).map(PathBuf::from);
        let read = |path: &Path| get(files, path.to_str().unwrap());
        let names = Names { uid: 1001, node: "n1".into(), host: "host1".into() };
        let directories = directories(variable, read, &names);
        directories.iter().map(|path| path.display().to_string()).collect()
    }

    const SLURM: (&str, &str) = ("/etc/slurm/slurm.conf", "ClusterName=x\n TmpFS = /local # of the node\n");
    const MPI: (&str, &str) = ("/etc/slurm/mpi.conf", "#PMIxCliTmpDirBase=/no\npmixclitmpdirbase=/pmix\n");
    /// The clients' directory of the step.
    const OWN: &str = "spmix_appdir_1001_7.0";

    #[test]
    fn variables_name_directories() {
        assert_eq!(found(&[("PALS_SPOOL_DIR", "/s"), (CLIENTS, "/c")], &[SLURM]), ["/c", "/s"]);
        assert!(found(&[], &[SLURM, MPI]).is_empty());
    }

    #[test]
    fn the_clients_directory_is_that_of_slurms_configuration() {
        let server = (SERVER, "/s");
        let with = |base: &str| vec!["/s".to_owned(), base.to_owned(), format!("{base}/{OWN}")];
        assert_eq!(found(&[server], &[SLURM, MPI]), with("/pmix"));
        assert_eq!(found(&[server], &[SLURM]), with("/local"));
        assert_eq!(found(&[server, (CLIENTS, "/c")], &[SLURM, MPI]), with("/c"));
        assert_eq!(found(&[server], &[MPI]), with("/tmp"));
        let other = [("/opt/slurm.conf", ""), ("/opt/mpi.conf", "PMIxCliTmpDirBase=/other"), SLURM];
        assert_eq!(found(&[server, (CONFIGURATION, "/opt/slurm.conf")], &other), with("/other"));
    }

    #[test]
    fn names_of_the_node_are_replaced_as_slurm_does() {
        let slurm = [("/etc/slurm/slurm.conf", "TmpFS=/local/%h/%n/%n")];
        assert_eq!(found(&[(SERVER, "/s")], &slurm)[1], "/local/host1/n1/%n");
    }
}
