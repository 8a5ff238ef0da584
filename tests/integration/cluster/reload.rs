//! What SIGHUP brings, key by key, and what it does not; and layers that stay for a while, which is one of the keys.

use std::fs::{self, File};
use std::io::{Read as _, Seek as _};
use std::os::unix::fs::FileExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Cluster, TEST_TIMEOUT};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use super::daemon::{python, wait_for_line};
use super::own_agent::{self, NODE, OwnAgent};

tests! { cluster:
    every_key_that_a_step_can_notice_is_taken,
    a_file_that_is_wrong_changes_nothing,
    what_is_mounted_is_checked_once_that_is_asked_for,
    idle_layers_go_when_their_time_is_over,
}

const STORES: &str = "stores = [\"/shared/store\"]\n";
const RELOADED: &str = "configuration reloaded";

/// Gives the agent a configuration by SIGHUP: what stands before the agent's own keys, and those with what follows.
fn reload(cluster: &Cluster, agent: &OwnAgent<'_>, text: &str, keys: &str, answer: &str) -> anyhow::Result<()> {
    own_agent::configure_with(cluster, text, keys)?;
    agent.signal("HUP")?;
    let (begin, end) = (agent.event()?, agent.event()?);
    ensure!(begin.starts_with("RELOADING=1") && end.contains(answer), "{keys:?}: {begin:?}, {end:?}; not {answer:?}");
    Ok(())
}

/// Takes a lease of the image and gives it back. Returns what the step had, or why it was refused.
fn lease(cluster: &Cluster, image: &str) -> anyhow::Result<Value> {
    let script = format!(
        r#"
client, response = lease(30, {socket:?}, image={image:?})
if "granted" in response:
    directory = response["granted"]["directory"]
    room = os.statvfs(directory)
    with open(directory + "/step.json") as step_file:
        print(json.dumps({{
            "layers": len(ask("status", {socket:?})["status"]["layers"]),
            "room": room.f_blocks * room.f_frsize,
            "step": json.load(step_file),
        }}))
    client.sendall(frame({{"release": {{"step": step(30)}}}}))
    assert receive(client) == {{"released": {{"problems": []}}}}
else:
    print(json.dumps(response))
"#,
        socket = own_agent::SOCKET
    );
    Ok(serde_json::from_str(&python(cluster, "root", &script)?)?)
}

/// Whether the kernel mounted the layers of a step.
fn is_native(had: &Value) -> bool {
    had["layers"].as_u64().is_some_and(|layers| layers > 0) && !is_fuse(had)
}

/// Whether the step was to mount them by the mount program.
fn is_fuse(had: &Value) -> bool {
    had["step"]["mount_program"].is_string()
}

fn every_key_that_a_step_can_notice_is_taken(cluster: &Cluster) -> anyhow::Result<()> {
    type Noticed = fn(&Value) -> bool;
    let keys: [(&str, &str, Noticed); 9] = [
        ("mounts = \"fuse\"", "debian", |had| is_fuse(had) && had["layers"] == 0),
        ("trusted_owners = [\"u1\"]", "debian", is_fuse),
        ("[step]\nscratch_size = \"4m\"", "debian", |had| had["room"] == 4 << 20),
        ("[step]\non_missing = \"pull\"", "nothing:1", |had| had["layers"] == 0),
        ("[run]\nmounts = [\"/srv\"]", "debian", |had| had["step"].to_string().contains("/srv")),
        ("[run]\nmount_home = false", "debian", |had| had["step"].to_string().contains("\"mount_home\":false")),
        ("[run]\nmount_workdir = false", "debian", |had| had["step"].to_string().contains("\"mount_workdir\":false")),
        ("[run]\ntmp = \"step\"", "debian", |had| had["step"]["own_tmp"] == true),
        ("[run]\npodman = \"/opt/podman\"", "debian", |had| had["step"].to_string().contains("/opt/podman")),
    ];
    let agent = OwnAgent::start(cluster, &["/shared/store"], &[])?;
    for (key, image, noticed) in keys {
        let before = lease(cluster, image)?;
        ensure!(!noticed(&before) && (image != "debian" || is_native(&before)), "without {key}: {before}");
        reload(cluster, &agent, STORES, key, RELOADED)?;
        let after = lease(cluster, image)?;
        ensure!(noticed(&after), "with {key}: {after}");
        reload(cluster, &agent, STORES, "", RELOADED)?;
    }
    // Where the metrics go, of which no step knows.
    let file = "/run/own-agent.prom";
    let path = cluster.path_on(NODE, file)?;
    reload(cluster, &agent, STORES, &format!("metrics_file = \"{file}\""), RELOADED)?;
    let written = wait_for_line(&path, "parallax_reloads_total{result=\"ok\"} 19");
    let _ = fs::remove_file(&path);
    written?;
    // Its own directory is the one thing that an agent can't change.
    let elsewhere = "stores = [\"/shared/store\"]\n[agent]\nruntime_dir = \"/run/elsewhere\"\n";
    own_agent::write(cluster, elsewhere)?;
    agent.signal("HUP")?;
    ensure!(agent.event()?.starts_with("RELOADING=1") && agent.event()?.contains(RELOADED), "no reload");
    ensure!(is_native(&lease(cluster, "debian")?), "the agent has moved");
    let log = agent.stop()?;
    ensure!(log.contains("agent.runtime_dir changed; restart the agent"), "{log}");
    Ok(())
}

fn a_file_that_is_wrong_changes_nothing(cluster: &Cluster) -> anyhow::Result<()> {
    let agent = OwnAgent::start(cluster, &["/shared/store"], &[])?;
    reload(cluster, &agent, STORES, "mounts = \"fuse\"", RELOADED)?;
    let wrong = [
        ("stores = [", ""),
        (STORES, "keep_wram = 1"),
        (STORES, "keep_warm = -1"),
        (STORES, "verify = \"sometimes\""),
        (STORES, "[step]\nscratch_size = \"much\""),
        ("stores = []\n", ""),
        ("stores = [\"relative\"]\n", ""),
    ];
    for (text, keys) in wrong {
        reload(cluster, &agent, text, keys, "configuration rejected, the old one is kept: /run/own-agent.toml")?;
        let had = lease(cluster, "debian")?;
        ensure!(is_fuse(&had), "after {text}{keys}: {had}");
    }
    // Not even one that is not there.
    fs::remove_file(cluster.path_on(NODE, "/run/own-agent.toml")?)?;
    agent.signal("HUP")?;
    let (_, end) = (agent.event()?, agent.event()?);
    ensure!(end.contains("configuration rejected, the old one is kept: cannot read /run/own-agent.toml"), "{end}");
    ensure!(is_fuse(&lease(cluster, "debian")?), "nothing holds any more");
    let log = agent.stop()?;
    let told = log
        .lines()
        .filter(|line| line.contains("configuration rejected, the old one is kept") && line.contains("ERROR"));
    ensure!(told.count() == wrong.len() + 1, "{log}");
    Ok(())
}

fn what_is_mounted_is_checked_once_that_is_asked_for(cluster: &Cluster) -> anyhow::Result<()> {
    let entry = cluster.shared().join("store/parallax/names/localhost%2Fstatic:latest");
    let image: Value = serde_json::from_str(&fs::read_to_string(&entry)?)?;
    let layer = image["layers"][0]["diff_id"].as_str().context("no layer")?.to_owned();
    let path = cluster.shared().join(format!("store/parallax/layers/{layer}.squash"));
    // A byte in the padding: the file is as good a SquashFS as before.
    let file = fs::OpenOptions::new().read(true).write(true).open(&path)?;
    let last = file.metadata()?.len() - 1;
    let mut byte = [0];
    file.read_exact_at(&mut byte, last)?;
    let agent = OwnAgent::start(cluster, &["/shared/store"], &[])?;
    file.write_all_at(&[byte[0] ^ 1], last)?;
    let tested = (|| {
        let unchecked = lease(cluster, "static")?;
        ensure!(is_native(&unchecked), "{unchecked}");
        reload(cluster, &agent, STORES, "verify = \"always\"", RELOADED)?;
        let checked = lease(cluster, "static")?;
        let reason = checked["refused"]["reason"].as_str().unwrap_or_default();
        ensure!(reason.contains(&layer) && reason.contains("is not what was migrated"), "{checked}");
        Ok(())
    })();
    file.write_all_at(&byte, last)?;
    tested
}

fn idle_layers_go_when_their_time_is_over(cluster: &Cluster) -> anyhow::Result<()> {
    let agent = OwnAgent::start(cluster, &["/shared/store"], &[])?;
    let mut mounts = Mounts::of_node(cluster)?;
    lease(cluster, "layers40")?;
    ensure!(mounts.of_layers()? == 0, "layers stay that were to go at once");
    reload(cluster, &agent, STORES, "keep_warm = 3600", RELOADED)?;
    lease(cluster, "layers40")?;
    let kept = mounts.of_layers()?;
    ensure!(kept >= 40, "{kept} layers stay");
    // A shorter time holds for those that are kept, too.
    let begin = Instant::now();
    reload(cluster, &agent, STORES, "keep_warm = 1", RELOADED)?;
    mounts.wait_for_no_layer()?;
    ensure!(begin.elapsed() >= Duration::from_secs(1), "they went after {:?}", begin.elapsed());
    let begin = Instant::now();
    let again = lease(cluster, "layers40")?;
    ensure!(again["layers"] == kept, "{again}");
    mounts.wait_for_no_layer()?;
    ensure!(begin.elapsed() >= Duration::from_secs(1), "they went after {:?}", begin.elapsed());
    agent.stop().map(drop)
}

/// The mounts that a node's first process sees.
struct Mounts(File);

impl Mounts {
    fn of_node(cluster: &Cluster) -> anyhow::Result<Self> {
        Ok(Self(File::open(format!("/proc/{}/mountinfo", cluster.first_process(NODE)?))?))
    }

    /// How many of them are layers that the test's agent mounted.
    fn of_layers(&mut self) -> anyhow::Result<usize> {
        let mut text = String::new();
        self.0.rewind()?;
        self.0.read_to_string(&mut text)?;
        Ok(text
            .lines()
            .filter(|line| line.contains(" /run/own-agent/layers/") && line.contains(" - squashfs "))
            .count())
    }

    /// Waits until there is none. The kernel tells of every change (proc_pid_mountinfo(5)).
    fn wait_for_no_layer(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + TEST_TIMEOUT;
        loop {
            let mounted = self.of_layers()?;
            if mounted == 0 {
                return Ok(());
            }
            let left = Timespec::try_from(deadline.saturating_duration_since(Instant::now()))?;
            let changed = poll(&mut [PollFd::new(&self.0, PollFlags::PRI)], Some(&left))? > 0;
            ensure!(changed, "{mounted} layers stay mounted");
        }
    }
}
