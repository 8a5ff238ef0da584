//! What the agent's unit forbids: whether systemd took it as it was meant, and whether the kernel enforces it.

use std::collections::BTreeSet;
use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, Done, repository};
use serde_json::Value;

use super::{AGENT, NODE, property};

/// The unit's lines that restrict what the agent may do.
const RESTRICTIONS: [&str; 7] = [
    "NoNewPrivileges",
    "RestrictAddressFamilies",
    "RestrictRealtime",
    "MemoryDenyWriteExecute",
    "LockPersonality",
    "SystemCallArchitectures",
    "KeyringMode",
];

/// How times are called that systemd shows, and in which words.
const TIMES: [(&str, &str, &str); 3] = [
    ("RestartSec", "RestartUSec", "1s"),
    ("WatchdogSec", "WatchdogUSec", "1min"),
    ("TimeoutStopSec", "TimeoutStopUSec", "30s"),
];

/// The unit's settings of the service, in the order of the file that is installed.
fn settings() -> anyhow::Result<Vec<(String, String)>> {
    let text = fs::read_to_string(repository().join("etc").join(AGENT))?;
    let service = text.split("[Service]\n").nth(1).and_then(|rest| rest.split("[Install]").next());
    let lines = service.context("the unit has no [Service]")?.lines().filter(|line| !line.starts_with('#'));
    Ok(lines.filter_map(|line| line.split_once('=')).map(|(key, value)| (key.to_owned(), value.to_owned())).collect())
}

/// Every setting of the unit is one that this systemd knows, took as it is written, and applied to the agent.
pub(super) fn what_the_unit_says_holds(cluster: &Cluster) -> anyhow::Result<()> {
    let words = |text: &str| text.split_whitespace().map(ToOwned::to_owned).collect::<BTreeSet<_>>();
    let settings = settings()?;
    for (key, value) in settings.iter().filter(|(key, _)| !key.starts_with("Exec")) {
        let time = TIMES.iter().find(|(name, _, _)| name == key);
        let (name, expected) = time.map_or((key.as_str(), value.as_str()), |&(_, name, shown)| (name, shown));
        let shown = property(cluster, name)?;
        ensure!(words(&shown) == words(expected), "{key}={value} in the unit, and systemd has {name}={shown}");
    }
    for name in RESTRICTIONS {
        ensure!(settings.iter().any(|(key, _)| key == name), "the unit has no {name}");
    }
    let analyze = ["systemd-analyze", "security", "--no-pager", "--json=short", AGENT];
    let judged: Vec<Value> = serde_json::from_str(&cluster.run(NODE, "root", &analyze)?.success()?.stdout)?;
    for name in RESTRICTIONS {
        // Families are judged one by one; those of the Internet are for look-ups of users.
        let allowed = [
            "RestrictAddressFamilies_AF_INET_INET6",
            "RestrictAddressFamilies_AF_UNIX",
            "RestrictAddressFamilies_AF_NETLINK",
        ];
        let mut of_name = judged.iter().filter(|entry| {
            let field = entry["json_field"].as_str().unwrap_or_default();
            field.starts_with(name) && !allowed.contains(&field)
        });
        ensure!(of_name.clone().count() > 0 && of_name.all(|entry| entry["set"] == true), "{name}: {judged:?}");
    }
    let status = cluster.shell(NODE, &format!("cat /proc/{}/status", property(cluster, "MainPID")?))?;
    let field = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).unwrap_or_default().trim();
    let filters: usize = field("Seccomp_filters:").parse()?;
    ensure!(field("NoNewPrivs:") == "1" && filters > 5, "systemd's filters are not all there: {status}");
    Ok(())
}

/// A service with the agent's own restrictions, line by line, that tries what they forbid, and mounts something.
pub(super) fn what_it_forbids_fails_and_mounts_get_out(cluster: &Cluster) -> anyhow::Result<()> {
    let own = ["Type", "Exec", "Restart", "Watchdog", "Timeout"];
    let restrictions = settings()?
        .into_iter()
        .filter(|(key, _)| RESTRICTIONS.contains(&key.as_str()) || !own.iter().any(|part| key.starts_with(part)))
        .map(|(key, value)| format!("{key}={value}\n"));
    let unit = format!(
        "[Service]\nType=oneshot\nExecStart=/run/trial.program\nStandardOutput=file:/run/trial.told\n{}",
        restrictions.collect::<String>()
    );
    let at = |path: &str| cluster.path_on(NODE, path);
    let source = repository().join("tests/integration/cluster/systemd/trial.c");
    let compiled = Command::new("cc").arg("-o").arg(at("/run/trial.program")?).arg(source).output()?;
    Done::from(compiled).success()?;
    fs::write(at("/run/systemd/system/trial.service")?, unit)?;
    cluster.shell(NODE, "systemctl daemon-reload; systemctl start trial")?;
    let mounted = cluster.shell(NODE, "cat /run/trial/seen; umount /run/trial; rmdir /run/trial")?;
    let told = fs::read_to_string(at("/run/trial.told")?)?;
    let expected = [
        "memory that can be written and executed: EPERM",
        "a packet socket: EAFNOSUPPORT",
        "a socket of a virtual machine: EAFNOSUPPORT",
        "a real-time process: EPERM",
        "another personality: EPERM",
        "more privileges: EPERM",
        "a local socket: can",
        "a file beneath a directory: can",
        "a mount namespace of its own: EEXIST",
        "a mount: can",
    ];
    ensure!(told.lines().eq(expected), "a service with the agent's restrictions told\n{told}");
    ensure!(mounted == "by the service", "the node sees {mounted:?} where the service mounted something");
    Ok(())
}
