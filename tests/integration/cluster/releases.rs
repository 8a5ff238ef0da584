//! Neighbours of other releases: what an older or a newer agent left in the journal, and what an older or a newer plugin says. And what
//! the start of an agent does not wait for.

use std::fs;
use std::path::PathBuf;

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use serde_json::{Value, json};

use super::daemon::{SLOW_STORE, SlowStore, python};
use super::own_agent::{self, OwnAgent};

tests! { cluster:
    an_entry_of_another_release_ends_no_step,
    an_unreadable_entry_goes_with_its_owner,
    a_plugin_of_another_release_is_understood_or_refused,
    a_start_waits_for_no_stale_lease,
}

const LEASES: &str = "/run/parallax/leases";

/// The one entry of n1's journal.
fn entry(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    let mut files = fs::read_dir(cluster.path_on("n1", LEASES)?)?;
    let file = files.next().context("no entry")??.path();
    ensure!(files.next().is_none(), "more than one entry");
    Ok(file)
}

/// Stops the agent, changes the entry of the step that runs, and starts an agent.
fn with_entry(cluster: &Cluster, change: impl FnOnce(&mut Value) -> Option<String>) -> anyhow::Result<()> {
    cluster.service("n1", "stop", "agent")?;
    let file = entry(cluster)?;
    let mut value: Value = serde_json::from_slice(&fs::read(&file)?).unwrap_or_default();
    let text = change(&mut value).unwrap_or_else(|| value.to_string());
    fs::write(&file, text)?;
    cluster.service("n1", "start", "agent")
}

fn is_held(cluster: &Cluster, step: &mut HeldStep, image: &str) -> anyhow::Result<()> {
    let status = cluster.agent_status("n1")?;
    let [found] = status.steps.as_slice() else { anyhow::bail!("not one step: {status:?}") };
    ensure!(found.image == image && found.uid == 1001 && found.since > 0, "{found:?}");
    step.write_line("go")?;
    let read = step.read_line().context("the step's files are gone")?;
    ensure!(read.starts_with("VERSION"), "{read}");
    Ok(())
}

const SCRIPT: &str = "echo started; while read -r go; do grep -h ^VERSION_ID= /etc/os-release; done";

fn later_fields(value: &mut Value) -> Option<String> {
    value["later"] = json!({"a": 1});
    for part in ["request", "owner", "image", "identity"] {
        value[part]["later"] = 1.into();
    }
    for layer in value["layers"].as_array_mut().into_iter().flatten() {
        layer["later"] = 1.into();
    }
    None
}

fn an_entry_of_another_release_ends_no_step(cluster: &Cluster) -> anyhow::Result<()> {
    let unknown = "(unknown: the journal entry cannot be read)";
    let start = || HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=python"], 1, SCRIPT);
    let mut step = start()?;
    with_entry(cluster, later_fields)?;
    is_held(cluster, &mut step, "python")?;
    // As agents wrote it that did not know versions.
    cluster.service("n1", "stop", "agent")?;
    let file = entry(cluster)?;
    let mut value: Value = serde_json::from_slice(&fs::read(&file)?)?;
    let fields = value.as_object_mut().context("no object")?;
    fields.remove("version").context("no version")?;
    fields.remove("identity").context("no identity")?;
    let old_name = format!("{}.json", value["key"].as_str().context("no key")?);
    fs::remove_file(&file)?;
    fs::write(file.with_file_name(old_name), value.to_string())?;
    cluster.service("n1", "start", "agent")?;
    is_held(cluster, &mut step, "python")?;
    step.finish()?;
    wait_for_no_lease(cluster, "n1")?;
    // What this agent cannot read stays as it is; other steps come and go.
    let changes: [fn(&mut Value) -> Option<String>; 3] = [
        |value| {
            value["version"] = 2.into();
            None
        },
        |value| {
            value["request"] = json!({"all": "is new"});
            None
        },
        |_| Some("no JSON at all".to_owned()),
    ];
    for change in changes {
        let mut step = start()?;
        with_entry(cluster, change)?;
        is_held(cluster, &mut step, unknown)?;
        cluster.srun("u1", &["-w", "n1", "--overlap", "--parallax-image=python", "true"])?.success()?;
        cluster.service("n1", "stop", "agent")?;
        cluster.service("n1", "start", "agent")?;
        is_held(cluster, &mut step, unknown)?;
        step.finish()?;
        wait_for_no_lease(cluster, "n1")?;
        let left = cluster.shell("n1", &format!("ls {LEASES} /run/parallax/layers | grep -v : || :"))?;
        ensure!(left.trim().is_empty(), "left: {left}");
    }
    Ok(())
}

fn an_unreadable_entry_goes_with_its_owner(cluster: &Cluster) -> anyhow::Result<()> {
    let step = HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=python"], 1, "echo $SLURM_JOB_ID")?;
    let job = step.lines[0].clone();
    with_entry(cluster, |value| {
        value["version"] = 2.into();
        None
    })?;
    integration_tests::processes::kill(cluster, "n1", "slurmstepd")?;
    let left = wait_for_no_lease(cluster, "n1");
    cluster.run("ctl", "root", &["scancel", &job])?.success()?;
    step.wait()?;
    left
}

fn a_plugin_of_another_release_is_understood_or_refused(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
later = request(61)
later["lease"]["later"] = {"more": 1}
later["lease"]["step"]["later"] = 1
client = connect()
client.sendall(frame(later))
print(list(receive(client))[0])
# What nobody here knows is refused, and the lease stays.
for message in [frame({"extend": {"seconds": 9}}), frame("status", version=9), frame(request(62)), struct.pack("<I", 2) + b"{]"]:
    client.sendall(message)
    print(receive(client)["refused"]["reason"].split(":")[0], len(ask("status")["status"]["steps"]))
client.sendall(frame({"release": {"step": step(61), "later": 1}}))
print(receive(client))
# A connection on which nothing can be told any more is not the end of its lease: that is its process.
child = os.fork()
if child == 0:
    client, response = lease(63)
    client.sendall(struct.pack("<I", 2**31))
    client.recv(1)
    os._exit(len(ask("status")["status"]["steps"]))
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
# A newer plugin that needs what this agent does not have is told so.
client = connect()
client.sendall(frame({"lease": {"image": {"by": "digest"}}}, version=3))
print(receive(client)["refused"]["reason"])
client = connect()
client.sendall(frame({"lease": {"image": {"by": "digest"}}}))
print(receive(client)["refused"]["reason"])
"#;
    let said = python(cluster, "root", script)?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[0] == "granted", "{said}");
    ensure!(lines[1..5].iter().all(|line| line.starts_with("unsupported") || line.starts_with("invalid")), "{said}");
    ensure!(lines[1..5].iter().all(|line| line.ends_with(" 1")), "{said}");
    ensure!(lines[5..7] == ["{'released': {'problems': []}}", "1"], "{said}");
    ensure!(lines[7].contains("newer release (protocol version 3, here 2)"), "{said}");
    ensure!(lines[8].starts_with("invalid message: ") && lines[8].contains("different releases"), "{said}");
    wait_for_no_lease(cluster, "n1")
}

fn a_start_waits_for_no_stale_lease(cluster: &Cluster) -> anyhow::Result<()> {
    let store = SlowStore::mount(cluster)?;
    let agent = OwnAgent::start(cluster, &[SLOW_STORE], &[])?;
    // Leases whose process has ended, and in each a process of the user's that waits for the store. At least the first one of these
    // cannot be ended: it waits for the disk, the others for the same page.
    let script = format!(
        r#"
import subprocess
owner = os.fork()
if owner == 0:
    held = []
    for number in range(4):
        client, response = lease(70 + number, {socket:?}, image="python")
        directory = response["granted"]["directory"]
        layers = [entry.path for entry in os.scandir(directory + "/store/overlay/l")]
        files = [os.path.join(where, name) for layer in layers for where, _, names in os.walk(layer) for name in names]
        held.append((client, directory, [name for name in files if os.path.isfile(name) and not os.path.islink(name)]))
    subprocess.run(["pkill", "-STOP", "-f", "^[f]use-overlayfs.*slow-store"], check=True)
    for client, directory, files in held:
        reader = subprocess.Popen(["cat", *files], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, user=1001,
                                  group=1001, env={{"STEP": directory + "/"}})
        def state():
            with open(f"/proc/{{reader.pid}}/stat") as stat:
                return stat.read().rpartition(")")[2].split()[0]
        while state() != "D":
            pass
    subprocess.run(["pkill", "-KILL", "-f", "parallax-agent.*[o]wn-agent.toml"], check=True)
    os._exit(0)
print(os.waitpid(owner, 0)[1])
"#,
        socket = own_agent::SOCKET
    );
    let said = python(cluster, "root", &script)?;
    ensure!(said == "0\n", "{said}");
    drop(agent);
    // The store still hangs, so not all of the leases can have been released: the agent is ready all the same.
    let agent = OwnAgent::start(cluster, &[SLOW_STORE], &[])?;
    let script = format!(
        r#"
print(len(ask("status", {socket:?})["status"]["steps"]))
os.system("pkill -CONT -f '^[f]use-overlayfs.*slow-store'")
# A new step with the number of a stale one has a directory of its own.
client, response = lease(71, {socket:?}, image="python")
print(list(response)[0], os.path.exists(response["granted"]["directory"] + "/step.json"))
for number in range(4):
    print(ask({{"release": {{"step": step(70 + number)}}}}, {socket:?}))
print(os.listdir("/run/own-agent/steps"), os.listdir("/run/own-agent/leases"))
"#,
        socket = own_agent::SOCKET
    );
    let said = python(cluster, "root", &script)?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[0] != "0" && lines[1] == "granted True", "{said}");
    ensure!(lines.last() == Some(&"[] []"), "{said}");
    drop(store);
    agent.stop().map(drop)
}
