//! What memory a command and all the processes it starts take.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use parallax_sys::process::Process;
use serde::{Deserialize, Serialize};

/// How far apart two looks at the processes are. What is missed is what a process takes more in its last such moment.
const INTERVAL: Duration = Duration::from_millis(10);

/// The most memory that was in use, in KiB.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Peak {
    /// By all processes at one time: private memory, and shared one as often as processes have it.
    pub all: u64,
    /// By one process of each name.
    pub each: BTreeMap<String, u64>,
}

/// Runs a command to its end and watches it.
///
/// # Errors
/// It failed.
pub(crate) fn of(command: &[String]) -> anyhow::Result<Peak> {
    let [program, arguments @ ..] = command else { bail!("the command is empty") };
    let mut child = Command::new(program).args(arguments).stdin(Stdio::null()).stdout(Stdio::null()).spawn()?;
    let root = i32::try_from(child.id())?;
    let process = Process::open(root).context("the command's process")?;
    let mut peak = Peak::default();
    while !process.wait_until_ended(INTERVAL)? {
        peak.look_at(&tree(root, &all_processes()?));
    }
    let status = child.wait()?;
    ensure!(status.success(), "{} failed ({status})", command.join(" "));
    ensure!(peak.all > 0, "{} ended before anything was seen of it", command.join(" "));
    Ok(peak)
}

impl Peak {
    fn look_at(&mut self, processes: &[&Status]) {
        self.all = self.all.max(processes.iter().map(|status| status.resident).sum());
        for status in processes {
            let most = self.each.entry(status.name.clone()).or_default();
            *most = (*most).max(status.most);
        }
    }
}

/// What `/proc/PID/status` tells.
#[derive(Debug, Default, PartialEq, Eq)]
struct Status {
    pid: i32,
    parent: i32,
    name: String,
    /// What is in memory now, in KiB.
    resident: u64,
    /// The most that ever was.
    most: u64,
}

impl Status {
    fn parse(text: &str) -> Self {
        let mut status = Self::default();
        for (key, value) in text.lines().filter_map(|line| line.split_once(':')) {
            let value = value.trim();
            let number = || value.split(' ').next().and_then(|word| word.parse::<u64>().ok()).unwrap_or(0);
            match key {
                "Name" => value.clone_into(&mut status.name),
                "Pid" => status.pid = value.parse().unwrap_or(0),
                "PPid" => status.parent = value.parse().unwrap_or(0),
                "VmRSS" => status.resident = number(),
                "VmHWM" => status.most = number(),
                _ => {}
            }
        }
        status
    }
}

fn all_processes() -> anyhow::Result<Vec<Status>> {
    let pids = fs::read_dir("/proc")?.filter_map(|entry| entry.ok()?.file_name().to_str()?.parse::<u32>().ok());
    // One that has ended meanwhile has no status any more.
    Ok(pids
        .filter_map(|pid| fs::read_to_string(format!("/proc/{pid}/status")).ok())
        .map(|text| Status::parse(&text))
        .collect())
}

/// A process and all that come from it.
fn tree(root: i32, all: &[Status]) -> Vec<&Status> {
    let mut found = BTreeSet::from([root]);
    loop {
        let before = found.len();
        found.extend(
            all.iter().filter(|status| found.contains(&status.parent)).map(|status| status.pid).collect::<Vec<_>>(),
        );
        if found.len() == before {
            return all.iter().filter(|status| found.contains(&status.pid)).collect();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_has_children_of_children_and_nobody_else() {
        let process = |pid, parent| Status { pid, parent, ..Status::default() };
        let all = [process(5, 4), process(4, 3), process(3, 1), process(9, 1), process(1, 0)];
        assert_eq!(tree(3, &all).iter().map(|status| status.pid).collect::<Vec<_>>(), [5, 4, 3]);
    }

    #[test]
    fn each_process_of_a_command_is_told_apart() {
        let script = "read -r _ </dev/null; sleep 0.3 & sleep 0.3; wait";
        let peak = of(&["sh", "-c", script].map(ToOwned::to_owned)).unwrap();
        assert!(peak.each.contains_key("sleep"), "{peak:?}");
        assert!(peak.all > *peak.each.values().max().unwrap(), "{peak:?}");
        assert!(
            of(&["sh".into(), "-c".into(), "sleep 0.1; exit 3".into()]).unwrap_err().to_string().contains("failed")
        );
    }

    #[test]
    fn what_the_kernel_tells_is_read() {
        let status = Status::parse("Name:\tmksquashfs\nPid:\t7\nPPid:\t3\nVmHWM:\t  300 kB\nVmRSS:\t  200 kB\n");
        let expected = Status { pid: 7, parent: 3, name: "mksquashfs".into(), resident: 200, most: 300 };
        assert_eq!(status, expected);
    }
}
