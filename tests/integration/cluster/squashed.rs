//! Root without rights of its own in a store, as a file server with root_squash leaves it: here root without the capabilities by
//! which it would have them, so the kernel refuses it as the server would.

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use serde_json::Value;

use crate::cluster::with_file;

tests! { cluster:
    doctor_says_what_root_cannot_do,
    a_migration_by_root_says_who_can,
}

const CONFIG: &str = "/etc/parallax/parallax.toml";
const STORE: &str = "/shared/squashed";
/// Root with no more rights to files than their modes give it.
const SQUASHED: [&str; 2] = ["setpriv", "--bounding-set=-dac_override,-dac_read_search"];

/// Runs `body` with a store that u1 has made.
fn with_store(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    cluster.shell("ctl", &format!("install -d -o u1 -m 0755 {STORE}"))?;
    let made = cluster.run("ctl", "u1", &["parallax", "--store", STORE, "migrate", "oci:/images/static"])?.success();
    let tested = made.and_then(|_| body());
    cluster.shell("ctl", &format!("rm -rf {STORE}"))?;
    tested
}

/// What doctor finds of stores that is not as it should be, or what it says of this.
fn findings(cluster: &Cluster, before: &[&str]) -> anyhow::Result<Vec<Value>> {
    let mut line = before.to_vec();
    line.extend(["parallax", "doctor", "--json"]);
    let done = cluster.run("n1", "root", &line)?;
    let checks: Vec<Value> = serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
    Ok(checks.into_iter().filter(|check| check["topic"] == "store").collect())
}

fn has(checks: &[Value], state: &str, finding: &str, remedy: &str) -> bool {
    let contains = |value: &Value, part: &str| value.as_str().unwrap_or_default().contains(part);
    checks.iter().any(|check| {
        check["state"] == state && contains(&check["finding"], finding) && contains(&check["remedy"], remedy)
    })
}

fn doctor_says_what_root_cannot_do(cluster: &Cluster) -> anyhow::Result<()> {
    let config = |holds: bool| {
        format!("stores = [\"{STORE}\"]\n[agent]\ntrusted_owners = [\"root\", \"u1\"]\nholds = {holds}\n")
    };
    let no_rights = "root has no rights of its own in /shared/squashed (root_squash): u1 must run parallax migrate";
    with_store(cluster, || {
        with_file(cluster, "n1", CONFIG, Some(&config(true)), || {
            let checks = findings(cluster, &[])?;
            ensure!(checks.iter().all(|check| check["state"] == "ok"), "with all rights: {checks:#?}");
            let checks = findings(cluster, &SQUASHED)?;
            ensure!(has(&checks, "warning", no_rights, "agent.holds = false"), "{checks:#?}");
            let store = |mode: &str, what: &str| cluster.shell("ctl", &format!("chmod {mode} {STORE}/{what}"));
            for (mode, what, after) in
                [("0600", "parallax/images/*.json", "0644"), ("0700", "parallax/layers", "0755"), ("0700", "", "0755")]
            {
                store(mode, what)?;
                let checks = findings(cluster, &SQUASHED)?;
                let told = has(&checks, "warning", "root cannot read /shared/squashed", "as u1: chmod -R a+rX");
                ensure!(told, "{what}: {checks:#?}");
                store(after, what)?;
            }
            Ok(())
        })?;
        with_file(cluster, "n1", CONFIG, Some(&config(false)), || {
            let checks = findings(cluster, &SQUASHED)?;
            ensure!(has(&checks, "ok", no_rights, "") && !has(&checks, "warning", "", ""), "{checks:#?}");
            Ok(())
        })
    })
}

fn a_migration_by_root_says_who_can(cluster: &Cluster) -> anyhow::Result<()> {
    with_store(cluster, || {
        let mut line = SQUASHED.to_vec();
        line.extend(["parallax", "--store", STORE, "migrate", "oci:/images/debian"]);
        let done = cluster.run("ctl", "root", &line)?;
        let told = done.stderr.contains("ermission denied")
            && done.stderr.contains("(root_squash): run the command as the store's owner");
        ensure!(done.code == 1 && told, "{done:?}");
        let done = cluster.run("ctl", "u2", &line[2..])?;
        ensure!(done.code == 1 && !done.stderr.contains("root_squash"), "{done:?}");
        Ok(())
    })
}
