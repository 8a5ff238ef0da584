//! Variables by which PyTorch's processes find each other (`torch.distributed`), as pyxis' users get them from enroot's hook.

use std::ffi::{OsStr, OsString};

use crate::environment::Variables;

/// The variable that images with PyTorch have.
const SIGN: &str = "PYTORCH_VERSION";

/// Adds the variables that the task does not have yet, if the image has PyTorch.
pub(crate) fn add(variables: &mut Variables) {
    if !variables.contains_key(OsStr::new(SIGN)) {
        return;
    }
    let of_slurm = |name: &str| variables.get(OsStr::new(name)).and_then(|value| value.to_str());
    // Jobs of one node get ports of their own. No port below 61000 is taken: they are the kernel's for outgoing connections.
    let port = of_slurm("SLURM_JOB_ID").and_then(|job| job.parse::<u64>().ok()).map(|job| job % 4536 + 61000);
    let added = [
        ("MASTER_ADDR", of_slurm("SLURM_STEP_NODELIST").and_then(first_host)),
        ("MASTER_PORT", port.map(|port| port.to_string())),
        ("WORLD_SIZE", of_slurm("SLURM_STEP_NUM_TASKS").or(of_slurm("SLURM_NTASKS")).map(ToOwned::to_owned)),
        ("RANK", of_slurm("SLURM_PROCID").map(ToOwned::to_owned)),
        ("LOCAL_RANK", of_slurm("SLURM_LOCALID").map(ToOwned::to_owned)),
    ];
    for (name, value) in added {
        if let Some(value) = value {
            variables.entry(OsString::from(name)).or_insert(value.into());
        }
    }
}

/// The first host of Slurm's list, such as `n1` of `n[1-3,7],m2` and `r0c1` of `r[0-1]c[1-4]`.
fn first_host(list: &str) -> Option<String> {
    let mut host = String::new();
    let mut rest = list;
    while let Some((before, after)) = rest.split_once(['[', ',']) {
        host.push_str(before);
        if !rest.get(before.len()..)?.starts_with('[') {
            return Some(host).filter(|host| !host.is_empty());
        }
        let (ranges, after) = after.split_once(']')?;
        host.push_str(ranges.split(['-', ',']).next()?);
        rest = after;
    }
    host.push_str(rest);
    Some(host).filter(|host| !host.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_host_of_a_list() {
        for (list, host) in [
            ("n1", "n1"),
            ("n1,n2", "n1"),
            ("n[1-3,7],m2", "n1"),
            ("n[003,007-9]", "n003"),
            ("r[0-1]c[1-4]-x", "r0c1-x"),
            ("a-b-1,c", "a-b-1"),
        ] {
            assert_eq!(first_host(list).as_deref(), Some(host), "{list}");
        }
        assert_eq!((first_host(""), first_host("n[1-3")), (None, None));
    }

    #[test]
    fn an_image_with_pytorch_gets_what_it_lacks() {
        let of = |entries: &[(&str, &str)]| -> Variables {
            entries.iter().map(|(name, value)| (OsString::from(name), OsString::from(value))).collect()
        };
        let slurm = [
            ("SLURM_JOB_ID", "4537"),
            ("SLURM_STEP_NODELIST", "n[1-2]"),
            ("SLURM_STEP_NUM_TASKS", "8"),
            ("SLURM_NTASKS", "16"),
            ("SLURM_PROCID", "5"),
            ("SLURM_LOCALID", "1"),
            ("RANK", "own"),
        ];
        let mut without = of(&slurm);
        add(&mut without);
        assert_eq!(without, of(&slurm));
        let mut with = of(&[&slurm[..], &[(SIGN, "2.1")]].concat());
        add(&mut with);
        let expected = [
            ("MASTER_ADDR", "n1"),
            ("MASTER_PORT", "61001"),
            ("WORLD_SIZE", "8"),
            ("RANK", "own"),
            ("LOCAL_RANK", "1"),
        ];
        for (name, value) in expected {
            assert_eq!(with.get(OsStr::new(name)).and_then(|value| value.to_str()), Some(value), "{name}");
        }
    }
}
