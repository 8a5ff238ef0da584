//! Directories that MPI libraries share with Slurm, and that a container shows without being asked for.

use std::path::{Path, PathBuf};

/// Variables with such directories: PMIx (the server's, and the clients' if the user chose it), and Cray's PALS.
const VARIABLES: [&str; 3] = [SERVER, CLIENTS, "PALS_SPOOL_DIR"];
/// Set in steps with `--mpi=pmix`.
const SERVER: &str = "PMIX_SERVER_TMPDIR";
const CLIENTS: &str = "SLURM_PMIX_TMPDIR";
/// Slurm's variable for the path of its configuration, beside which the others are.
const CONFIGURATION: &str = "SLURM_CONF";
/// Where the configuration is without it: as a file, and as slurmd gets it from slurmctld.
const CONFIGURATIONS: [&str; 2] = ["/etc/slurm/slurm.conf", "/run/slurm/conf/slurm.conf"];

/// Returns the directories. The clients' one (`spmix_appdir_…`) lies in a directory that no variable names, unless the user chose it: that
/// of mpi.conf, else that of slurm.conf (`_resources_set` of Slurm's mpi/pmix).
pub(crate) fn directories(
    variable: impl Fn(&str) -> Option<PathBuf>,
    read: impl Fn(&Path) -> Option<String>,
) -> Vec<PathBuf> {
    let mut directories: Vec<PathBuf> = VARIABLES.iter().filter_map(|name| variable(name)).collect();
    if variable(SERVER).is_some() && variable(CLIENTS).is_none() {
        let mut paths = variable(CONFIGURATION).into_iter().chain(CONFIGURATIONS.map(PathBuf::from));
        let found = paths.find_map(|path| Some((read(&path)?, path)));
        let base = found.and_then(|(slurm, path)| {
            let mpi = read(&path.with_file_name("mpi.conf")).unwrap_or_default();
            value(&mpi, "PMIxCliTmpDirBase").or_else(|| value(&slurm, "TmpFS"))
        });
        directories.extend(base);
    }
    directories
}

/// Returns the directories as the task's environment and the node's files have them.
pub(crate) fn directories_of_task() -> Vec<PathBuf> {
    directories(|name| std::env::var_os(name).map(PathBuf::from), |path| std::fs::read_to_string(path).ok())
}

/// Returns the value of a key in a configuration of Slurm's. The last line that sets the key counts; keys have no case.
fn value(text: &str, key: &str) -> Option<PathBuf> {
    let lines = text.lines().filter_map(|line| line.split('#').next()?.split_once('='));
    let mut values = lines.filter(|(name, _)| name.trim().eq_ignore_ascii_case(key)).map(|(_, value)| value.trim());
    values.next_back().map(PathBuf::from)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(variables: &[(&str, &str)], files: &[(&str, &str)]) -> Vec<String> {
        let get = |all: &[(&str, &str)], name: &str| {
            all.iter().find(|(own, _)| *own == name).map(|(_, value)| (*value).to_owned())
        };
        let read = |path: &Path| get(files, path.to_str().unwrap());
        let directories = directories(|name| get(variables, name).map(PathBuf::from), read);
        directories.iter().map(|path| path.display().to_string()).collect()
    }

    const SLURM: (&str, &str) = ("/etc/slurm/slurm.conf", "ClusterName=x\n TmpFS = /local # of the node\n");
    const MPI: (&str, &str) = ("/etc/slurm/mpi.conf", "#PMIxCliTmpDirBase=/no\npmixclitmpdirbase=/pmix\n");

    #[test]
    fn variables_name_directories() {
        assert_eq!(found(&[("PALS_SPOOL_DIR", "/s"), (CLIENTS, "/c")], &[SLURM]), ["/c", "/s"]);
        assert!(found(&[], &[SLURM, MPI]).is_empty());
    }

    #[test]
    fn the_clients_directory_is_that_of_slurms_configuration() {
        let server = (SERVER, "/s");
        assert_eq!(found(&[server], &[SLURM, MPI]), ["/s", "/pmix"]);
        assert_eq!(found(&[server], &[SLURM]), ["/s", "/local"]);
        assert_eq!(found(&[server, (CLIENTS, "/c")], &[SLURM, MPI]), ["/s", "/c"]);
        assert_eq!(found(&[server], &[MPI]), ["/s"]);
        let other = [("/opt/slurm.conf", ""), ("/opt/mpi.conf", "PMIxCliTmpDirBase=/other"), SLURM];
        assert_eq!(found(&[server, (CONFIGURATION, "/opt/slurm.conf")], &other), ["/s", "/other"]);
    }
}
