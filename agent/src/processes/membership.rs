//! Decides whether a process that names a step's directory is a process of the step (pure).
//!
//! To name the directory is not enough: variables are inherited. A job that is submitted out of a step, or a login shell that
//! took over the step's variables, names the directory as well and must survive the step's end. So the process must be in the
//! step's job, too:
//!
//! 1. Processes whose root is a container of the step's storage are the step's: the storage goes with the step.
//! 2. Descendants of the step's slurmstepd are the step's.
//! 3. Where Slurm tracks processes by control groups, these decide.
//! 4. Elsewhere (`proctrack/linuxproc`) a daemon whose parent is the init process is the step's if its environment has the job's id
//!    or, without any job's id, if its command line names the directory, as those of conmon and FUSE programs do.
//!    Descendants of another slurmstepd, or of another service such as sshd, are not.

use std::path::Path;

/// The step, as far as its processes are recognized by it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct StepProcesses<'a> {
    /// The step's directory.
    pub directory: &'a Path,
    /// The id of the job.
    pub job: u32,
    /// The pid of the step's slurmstepd, if it is alive.
    pub owner: Option<i32>,
    /// The control group of the step, or else of its job ([`owner_control_group`]), if Slurm tracks processes by control groups.
    pub control_group: Option<&'a str>,
    /// True if other steps use the directory, too: then its name and the container in it do not tell whose a process is.
    pub shared: bool,
}

/// The result of a walk from a process up to the init process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ancestor {
    /// The step's slurmstepd is among the ancestors.
    Owner,
    /// The slurmstepd of another step is.
    OtherStep,
    /// A process of another user is: a service such as sshd.
    Service,
    /// There are only processes of the user's: the topmost is a daemon.
    Init,
}

/// Facts about a process. Its own user can change all of them but the control group and the ancestors.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Evidence {
    /// True if the root of its mount namespace is a container in the step's directory.
    pub root: bool,
    /// True if its command line names the step's directory.
    pub command_line: bool,
    /// The job id in its environment.
    pub job: Option<u32>,
    /// The control group of the Slurm step that it is in.
    pub control_group: Option<String>,
    /// Its ancestors.
    pub ancestor: Ancestor,
}

impl StepProcesses<'_> {
    /// Returns `true` if a process that names the step's directory is the step's.
    #[must_use]
    pub fn has(&self, evidence: &Evidence) -> bool {
        if evidence.ancestor == Ancestor::Owner {
            return true;
        }
        if self.shared {
            return self.control_group.is_some() && self.control_group == evidence.control_group.as_deref();
        }
        if evidence.root {
            return true;
        }
        match (self.control_group, evidence.control_group.as_deref()) {
            (Some(own), Some(other)) if own == other => return true,
            // The group of the job is known, and not that of the step.
            (Some(own), Some(other)) if parent(other) == own => {}
            (Some(_), Some(_)) => return false,
            (Some(own), None) if step_part(own).is_some() => return false,
            _ => {}
        }
        match (evidence.ancestor, evidence.job) {
            (Ancestor::Init, Some(job)) => job == self.job,
            (Ancestor::Init, None) => evidence.command_line,
            _ => false,
        }
    }
}

/// Extracts the control group of a Slurm step from the text of `/proc/PID/cgroup`, in any hierarchy.
///
/// Slurm's groups are `…/JOB/step_STEP`, with further groups below (cgroup/v1 and cgroup/v2). How the job's group is named depends on the
/// release: 26.05 has a SLUID in the place of `job_ID`. The result is the path up to the step.
#[must_use]
pub fn step_control_group(text: &str) -> Option<String> {
    text.lines().find_map(|line| step_part(line.splitn(3, ':').nth(2)?).map(ToOwned::to_owned))
}

/// Extracts what identifies a step's processes from the text of its slurmstepd's `/proc/PID/cgroup`: the step's control group. With
/// cgroup/v1 slurmstepd is in the group of the job instead, above those of the steps; proctrack/cgroup always has the freezer.
#[must_use]
pub fn owner_control_group(text: &str) -> Option<String> {
    let freezer = |line: &str| {
        let mut fields = line.splitn(3, ':').skip(1);
        let has_freezer = fields.next()?.split(',').any(|controller| controller == "freezer");
        fields.next().filter(|path| has_freezer && *path != "/").map(ToOwned::to_owned)
    };
    step_control_group(text).or_else(|| text.lines().find_map(freezer))
}

/// The part of a control group's path up to a step.
fn step_part(path: &str) -> Option<&str> {
    // The first: groups below the step may be named by its user.
    let start = path.find("/step_")?;
    let name = path.get(start + 1..)?.split('/').next()?;
    // systemd's units are not Slurm's, whatever their names are.
    let unit = [".scope", ".service", ".slice"].iter().any(|suffix| name.ends_with(suffix));
    // A step's group lies in its job's.
    path.get(..=start + name.len()).filter(|_| start > 0 && !unit)
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn step(control_group: Option<&str>) -> StepProcesses<'_> {
        StepProcesses {
            directory: Path::new("/run/parallax/steps/6.0-1a2b"),
            job: 6,
            owner: Some(70),
            control_group,
            shared: false,
        }
    }

    fn evidence(ancestor: Ancestor) -> Evidence {
        Evidence { root: false, command_line: false, job: None, control_group: None, ancestor }
    }

    #[test]
    fn descendants_of_the_owner_and_containers_are_the_steps() {
        for group in [None, Some("/slurm/job_6/step_0")] {
            assert!(step(group).has(&evidence(Ancestor::Owner)));
            assert!(step(group).has(&Evidence { root: true, ..evidence(Ancestor::OtherStep) }));
        }
    }

    #[test]
    fn a_process_of_another_job_is_not_the_steps() {
        let other = Evidence { command_line: true, job: Some(6), ..evidence(Ancestor::OtherStep) };
        assert!(!step(None).has(&other));
        assert!(!step(None).has(&Evidence { ancestor: Ancestor::Service, ..other }));
        assert!(!step(None).has(&Evidence { job: Some(7), command_line: true, ..evidence(Ancestor::Init) }));
    }

    #[test]
    fn control_groups_decide_where_there_are_any() {
        let own = "/system.slice/slurmstepd.scope/job_6/step_0";
        let inside = |group: Option<&str>| Evidence {
            command_line: true,
            job: Some(6),
            control_group: group.map(ToOwned::to_owned),
            ..evidence(Ancestor::Init)
        };
        assert!(step(Some(own)).has(&inside(Some(own))));
        assert!(!step(Some(own)).has(&inside(None)), "a login session");
        assert!(!step(Some(own)).has(&inside(Some("/system.slice/slurmstepd.scope/job_6/step_extern"))));
        assert!(!step(Some(own)).has(&inside(Some("/system.slice/slurmstepd.scope/job_7/step_0"))));
    }

    #[test]
    fn processes_of_other_steps_in_a_shared_container_are_left_alone() {
        let own = Some("/s.scope/job_6/step_0");
        let shared = |group| StepProcesses { shared: true, ..step(group) };
        let inside = |group: Option<&str>, ancestor| Evidence {
            root: true,
            job: Some(6),
            control_group: group.map(ToOwned::to_owned),
            ..evidence(ancestor)
        };
        assert!(shared(own).has(&inside(own, Ancestor::Init)) && shared(None).has(&inside(None, Ancestor::Owner)));
        assert!(!shared(own).has(&inside(Some("/s.scope/job_6/step_1"), Ancestor::OtherStep)));
        assert!(!shared(None).has(&inside(None, Ancestor::Init)), "it ends with the container");
    }

    /// As with cgroup/v1.
    #[test]
    fn other_facts_decide_within_the_jobs_control_group() {
        let own = Some("/slurm/uid_1001/job_6");
        let within = |group: &str, ancestor| Evidence {
            job: Some(6),
            control_group: Some(group.to_owned()),
            ..evidence(ancestor)
        };
        assert!(step(own).has(&within("/slurm/uid_1001/job_6/step_0", Ancestor::Init)));
        assert!(!step(own).has(&within("/slurm/uid_1001/job_6/step_1", Ancestor::OtherStep)));
        assert!(!step(own).has(&within("/slurm/uid_1001/job_6/step_extern", Ancestor::Service)));
        assert!(!step(own).has(&within("/slurm/uid_1001/job_7/step_0", Ancestor::Init)));
        assert!(!step(own).has(&Evidence { control_group: None, ..within("", Ancestor::Service) }));
    }

    #[test]
    fn a_daemon_is_the_steps_by_its_job_or_else_by_its_command_line() {
        let daemon = |job, command_line| Evidence { job, command_line, ..evidence(Ancestor::Init) };
        assert!(step(None).has(&daemon(Some(6), false)));
        assert!(step(None).has(&daemon(None, true)));
        assert!(!step(None).has(&daemon(None, false)));
    }

    #[test]
    fn a_steps_control_group_is_found_whatever_the_jobs_is_called() {
        let group = |text| step_control_group(text);
        let unified = "0::/system.slice/n1_slurmstepd.scope/job_6/step_0/user/task_0\n";
        assert_eq!(group(unified).as_deref(), Some("/system.slice/n1_slurmstepd.scope/job_6/step_0"));
        let sluid = "0::/system.slice/slurmstepd.scope/s1HPRKT5RDXH00/step_batch/slurm\n";
        assert_eq!(group(sluid).as_deref(), Some("/system.slice/slurmstepd.scope/s1HPRKT5RDXH00/step_batch"));
        let first = "9:name=systemd:/\n4:freezer:/slurm/uid_1001/job_6/step_0\n0::/\n";
        assert_eq!(group(first).as_deref(), Some("/slurm/uid_1001/job_6/step_0"));
        let nested = "0::/s.scope/job_6/step_0/user/step_9";
        assert_eq!(group(nested).as_deref(), Some("/s.scope/job_6/step_0"));
    }

    #[test]
    fn slurmstepd_is_in_the_steps_control_group_or_in_the_jobs() {
        let group = |text| owner_control_group(text);
        assert_eq!(group("0::/s.scope/job_6/step_0/slurm\n").as_deref(), Some("/s.scope/job_6/step_0"));
        let first = "9:name=systemd:/system.slice/slurmd.service\n6:freezer:/slurm_n2/uid_1001/job_8\n0::/\n";
        assert_eq!(group(first).as_deref(), Some("/slurm_n2/uid_1001/job_8"));
        assert_eq!(group("6:freezer:/\n0::/system.slice/slurmd.service\n"), None);
    }

    #[test]
    fn other_control_groups_are_no_steps() {
        for text in ["", "0::/", "0::/user.slice/session-1.scope", "0::/step_1", "0::/user.slice/step_1.service/x", "x"]
        {
            assert_eq!(step_control_group(text), None, "{text}");
        }
    }
}
