//! The variables of the user's command: the job's, overridden by the image's, which the image's programs need.

use std::collections::BTreeMap;
use std::ffi::{CStr, CString, OsStr, OsString};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};

use parallax_request::Variable;

/// `PATH` for an image that sets none (as in Podman and Docker).
pub(crate) const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The variables, by name.
pub(crate) type Variables = BTreeMap<OsString, OsString>;

/// Variables that stay the job's although the image sets them, by what their names begin with: what Slurm and MPI libraries tell
/// their tasks.
const KEPT_PREFIXES: [&str; 5] = ["SLURM", "SLINGSHOT", "PMI", "PALS", "PARALLAX_"];
/// The same by whole names: devices of the job, and what belongs to the user.
const KEPT: [&str; 11] = [
    "CUDA_VISIBLE_DEVICES",
    "NVIDIA_VISIBLE_DEVICES",
    "ROCR_VISIBLE_DEVICES",
    "HIP_VISIBLE_DEVICES",
    "ZE_AFFINITY_MASK",
    "GPU_DEVICE_ORDINAL",
    "HOME",
    "USER",
    "LOGNAME",
    "TMPDIR",
    "TERM",
];
/// The variable for the number of threads, which stays the job's if it is the number of processors that Slurm gave the task; and the one
/// for the latter.
pub(crate) const THREADS: (&str, &CStr) = ("OMP_NUM_THREADS", c"SLURM_CPUS_PER_TASK");

/// What becomes of a variable of the task.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Rule {
    /// It has this value.
    Set(OsString),
    /// It has this value if the task does not have the variable.
    Default(OsString),
    /// It has this value unless the task has as many threads as processors ([`THREADS`]).
    Threads(OsString),
    /// It is removed.
    Unset,
}

/// What becomes of the task's variables, by name; all others stay.
pub(crate) type Rules = BTreeMap<OsString, Rule>;

/// The rules that follow from the image's variables (`NAME=VALUE`), which have precedence over most of the task's, those of devices, and the
/// user's changes; the later ones have precedence over all before. The task's `PATH` names directories of the node and is dropped, unless the
/// user keeps it.
pub(crate) fn rules(image: &[String], devices: &[(String, String)], changes: &[Variable]) -> Rules {
    let mut rules = Rules::from([("PATH".into(), Rule::Set(DEFAULT_PATH.into()))]);
    // An entry without a value sets nothing (CVE-2026-57231: it must not show a variable of the node either).
    for (name, value) in image.iter().filter_map(|variable| variable.split_once('=')) {
        if !name.is_empty() {
            rules.insert(name.into(), of_image_entry(name, value.into()));
        }
    }
    rules.extend(devices.iter().map(|(name, value)| (name.into(), Rule::Set(value.into()))));
    for change in changes {
        let name = OsString::from(change.name());
        let rule = match change {
            Variable::Set(_, value) => Some(Rule::Set(value.into())),
            // A variable that the task does not have cannot be kept, so the image's stays.
            Variable::Keep(_) => match rules.remove(&name) {
                Some(Rule::Set(value) | Rule::Default(value) | Rule::Threads(value)) => Some(Rule::Default(value)),
                Some(Rule::Unset) | None => None,
            },
            Variable::Image(_) => Some(of_image(image, change.name()).map_or(Rule::Unset, Rule::Set)),
            Variable::Unset(_) => Some(Rule::Unset),
        };
        rules.extend(rule.map(|rule| (name, rule)));
    }
    rules
}

fn of_image_entry(name: &str, value: OsString) -> Rule {
    if name == THREADS.0 {
        Rule::Threads(value)
    } else if KEPT.contains(&name) || KEPT_PREFIXES.iter().any(|prefix| name.starts_with(prefix)) {
        Rule::Default(value)
    } else {
        Rule::Set(value)
    }
}

/// Applies the rules to the task's variables.
pub(crate) fn apply(rules: &Rules, of_task: impl Iterator<Item = (OsString, OsString)>) -> Variables {
    let mut variables: Variables = of_task.collect();
    let threads = variables.get(OsStr::new(THREADS.0));
    let has_threads = threads.is_some() && threads == variables.get(OsStr::from_bytes(THREADS.1.to_bytes()));
    for (name, rule) in rules {
        match rule {
            Rule::Threads(_) if has_threads => {}
            Rule::Set(value) | Rule::Threads(value) => drop(variables.insert(name.clone(), value.clone())),
            Rule::Default(value) => drop(variables.entry(name.clone()).or_insert_with(|| value.clone())),
            Rule::Unset => drop(variables.remove(name)),
        }
    }
    variables
}

/// The value that the image gives a variable; the last of several.
fn of_image(image: &[String], name: &str) -> Option<OsString> {
    let of_name = |entry: &&String| entry.split_once('=').is_some_and(|(known, _)| known == name);
    image.iter().rfind(of_name).and_then(|entry| Some(entry.split_once('=')?.1.into()))
}

/// Returns the directories of `PATH`.
pub(crate) fn path(variables: &Variables) -> Vec<OsString> {
    let path = variables.get(OsStr::new("PATH")).map_or(OsStr::new(DEFAULT_PATH), OsString::as_os_str);
    path.as_bytes().split(|&b| b == b':').map(|part| OsString::from_vec(part.to_vec())).collect()
}

/// Returns the variables in the form of `execve(2)`.
pub(crate) fn to_exec(variables: &Variables) -> Vec<CString> {
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

    fn merged(job: &[(&str, &str)], image: &[&str], changes: &[&str]) -> Vec<String> {
        with_devices(job, image, &[], changes)
    }

    fn with_devices(job: &[(&str, &str)], image: &[&str], devices: &[(&str, &str)], changes: &[&str]) -> Vec<String> {
        let devices: Vec<_> = devices.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned())).collect();
        let job = job.iter().map(|(name, value)| (OsString::from(name), OsString::from(value)));
        let image: Vec<String> = image.iter().map(ToString::to_string).collect();
        let changes: Vec<Variable> = changes.iter().map(|text| Variable::parse(text).unwrap()).collect();
        let entries = to_exec(&apply(&rules(&image, &devices, &changes), job));
        let entries = entries.iter().map(|entry| entry.to_str().unwrap().to_owned());
        entries.filter(|entry| *entry != format!("PATH={DEFAULT_PATH}")).collect()
    }

    #[test]
    fn the_image_wins_and_the_rest_stays() {
        let variables =
            merged(&[("A", "job"), ("SLURM_PROCID", "0"), ("PATH", "/node")], &["A=image=1", "PATH=/opt/bin"], &[]);
        assert_eq!(variables, ["A=image=1", "PATH=/opt/bin", "SLURM_PROCID=0"]);
    }

    #[test]
    fn what_slurm_and_the_user_set_stays() {
        let job = [("PMIX_RANK", "1"), ("CUDA_VISIBLE_DEVICES", "0"), ("HOME", "/home/u1"), ("SLINGSHOT_VNIS", "9")];
        let image = ["PMIX_RANK=9", "CUDA_VISIBLE_DEVICES=all", "HOME=/root", "SLINGSHOT_VNIS=0", "USER=root"];
        let expected = ["CUDA_VISIBLE_DEVICES=0", "HOME=/home/u1", "PMIX_RANK=1", "SLINGSHOT_VNIS=9", "USER=root"];
        assert_eq!(merged(&job, &image, &[]), expected);
    }

    #[test]
    fn threads_stay_if_they_are_slurms() {
        let image = ["OMP_NUM_THREADS=1"];
        let of = |threads: &str| {
            merged(&[("OMP_NUM_THREADS", threads), ("SLURM_CPUS_PER_TASK", "4")], &image, &[]).remove(0)
        };
        assert_eq!(of("4"), "OMP_NUM_THREADS=4");
        assert_eq!(of("8"), "OMP_NUM_THREADS=1");
        assert_eq!(merged(&[], &image, &[]), image);
    }

    #[test]
    fn the_nodes_path_is_never_taken_but_when_it_is_asked_for() {
        assert!(merged(&[("PATH", "/node")], &["", "=x", "B"], &[]).is_empty());
        assert_eq!(merged(&[("PATH", "/node")], &["PATH=/opt"], &["PATH"]), ["PATH=/node"]);
    }

    #[test]
    fn devices_come_before_the_users_changes_alone() {
        let job = [("NVIDIA_VISIBLE_DEVICES", "0"), ("A", "job")];
        let devices = [("NVIDIA_VISIBLE_DEVICES", "void"), ("A", "device"), ("B", "device")];
        let variables = with_devices(&job, &["A=image", "B=image"], &devices, &["A=own", "-C"]);
        assert_eq!(variables, ["A=own", "B=device", "NVIDIA_VISIBLE_DEVICES=void"]);
    }

    #[test]
    fn the_users_changes_come_last() {
        let job = [("A", "job"), ("B", "job"), ("C", "job")];
        let image = ["A=image", "B=image", "D=image", "E=image"];
        let changes = ["A", "B=", "-C", "-D", "E", "F=1", "F=2"];
        assert_eq!(merged(&job, &image, &changes), ["A=job", "B=", "E=image", "F=2"]);
    }

    #[test]
    fn a_variable_may_be_the_images_alone() {
        let job = [("LANG".into(), "job".into()), ("TERM".into(), "job".into()), ("X".into(), "job".into())];
        let image = ["TERM=image".to_owned(), "X=1".to_owned(), "X=2=3".to_owned()];
        let changes = ["LANG", "TERM", "X", "Y"].map(|name| Variable::Image(name.to_owned()));
        let merged = apply(&rules(&image, &[], &changes), job.into_iter());
        let of = |name: &str| merged.get(OsStr::new(name)).and_then(|value| value.to_str());
        assert_eq!((of("LANG"), of("TERM"), of("X"), of("Y")), (None, Some("image"), Some("2=3"), None));
    }
}
