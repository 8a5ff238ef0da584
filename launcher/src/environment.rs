//! The variables of the user's command: the job's, overridden by the image's, which the image's programs need.

use std::collections::BTreeMap;
use std::ffi::{CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

/// `PATH` for an image that sets none (as in Podman and Docker).
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables, by name.
pub type Variables = BTreeMap<OsString, OsString>;

/// Merges the job's variables with the image's (`NAME=VALUE`), which have precedence. The job's `PATH` names directories of the
/// node and is dropped.
pub fn merge(job: impl Iterator<Item = (OsString, OsString)>, image: &[String]) -> Variables {
    let mut variables: Variables = job.collect();
    variables.insert("PATH".into(), DEFAULT_PATH.into());
    for variable in image {
        let (name, value) = variable.split_once('=').unwrap_or((variable, ""));
        if !name.is_empty() {
            variables.insert(name.into(), value.into());
        }
    }
    variables
}

/// Returns the directories of `PATH`.
pub fn path(variables: &Variables) -> Vec<OsString> {
    let path = variables.get(OsStr::new("PATH")).map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    path.as_bytes().split(|&b| b == b':').map(|part| OsString::from_vec(part.to_vec())).collect()
}

/// Returns the variables in the form of `execve(2)`.
pub fn to_exec(variables: &Variables) -> Vec<CString> {
    let entry = |(name, value): (&OsString, &OsString)| {
        let mut entry = name.as_bytes().to_vec();
        entry.push(b'=');
        entry.extend_from_slice(value.as_bytes());
        CString::new(entry).ok()
    };
    variables.iter().filter_map(entry).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(job: &[(&str, &str)], image: &[&str]) -> Vec<String> {
        let job = job.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let image: Vec<String> = image.iter().map(ToString::to_string).collect();
        to_exec(&merge(job, &image)).iter().map(|entry| entry.to_str().unwrap().to_owned()).collect()
    }

    #[test]
    fn the_image_wins_and_the_rest_stays() {
        let variables =
            merged(&[("A", "job"), ("SLURM_PROCID", "0"), ("PATH", "/node")], &["A=image=1", "PATH=/opt/bin"]);
        assert_eq!(variables, ["A=image=1", "PATH=/opt/bin", "SLURM_PROCID=0"]);
    }

    #[test]
    fn the_nodes_path_is_never_taken() {
        assert_eq!(merged(&[("PATH", "/node")], &["", "=x", "B"]), ["B=".to_owned(), format!("PATH={DEFAULT_PATH}")]);
    }
}
