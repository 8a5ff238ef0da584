//! Who can do what to whom on a node. docs/security.md has the whole picture and names these tests.

use std::collections::BTreeSet;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;

use super::daemon::python;

tests! { cluster:
    only_root_can_talk_to_the_agent,
    wrong_messages_change_nothing,
    floods_and_slow_clients_keep_no_step_waiting,
    a_connection_that_says_nothing_is_closed,
    hostile_names_over_the_socket_are_refused,
    a_steps_directory_is_closed_to_other_users,
    the_ids_of_a_mount_are_the_users_own,
    a_users_files_in_a_step_do_not_lead_root_astray,
    a_step_can_only_have_its_own_users_processes_ended,
    a_hostile_environment_stays_the_users,
    a_store_that_others_can_change_is_not_used,
}

const SOCKET: &str = "/run/parallax/agent.sock";

fn held(cluster: &Cluster, script: &str) -> anyhow::Result<HeldStep> {
    HeldStep::start(cluster, "u1", &["-w", "n1", "--parallax-image=python"], 1, script)
}

fn only_root_can_talk_to_the_agent(cluster: &Cluster) -> anyhow::Result<()> {
    let mode = fs::metadata(cluster.path_on("n1", SOCKET)?)?.permissions().mode() & 0o777;
    ensure!(mode == 0o600, "the socket's mode is {mode:o}");
    let done = cluster.run("n1", "u1", &["python3", "-c", &format!("{}connect()", include_str!("agent.py"))])?;
    ensure!(done.code != 0 && done.stderr.contains("PermissionError"), "{done:?}");
    // Even if the file's mode were wrong: nothing is said to anybody else, and nothing is done for them.
    cluster.shell("n1", &format!("chmod 0666 {SOCKET}"))?;
    let said = python(
        cluster,
        "u1",
        r#"
for message in ["status", "metrics", request(20), {"release-job": {"job": 1, "step": None}}]:
    client = connect()
    try:
        client.sendall(frame(message))
    except BrokenPipeError:
        pass
    print(receive(client))
"#,
    );
    cluster.shell("n1", &format!("chmod 0600 {SOCKET}"))?;
    ensure!(said? == "None\n".repeat(4), "a user was answered");
    ensure!(cluster.agent_status("n1")?.steps.is_empty(), "a user has a lease");
    Ok(())
}

fn wrong_messages_change_nothing(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
held, response = lease(21)
before = ask("status")
def refused(data):
    client = connect()
    client.sendall(data)
    response = receive(client)
    return response is None or "invalid message" in response["refused"]["reason"]
no_user = request(22)
no_user["lease"]["uid"] = 4294967295
print(ask(no_user)["refused"]["reason"])
nobody = request(22, uid=54321)
print(ask(nobody)["refused"]["reason"])
client = connect()
client.sendall(frame("status", version=3))
print(receive(client)["refused"]["reason"])
wrong = [
    b"GET / HTTP/1.1\r\n\r\n",
    struct.pack("<I", 0xffffffff),
    struct.pack("<I", 16 * 1024 + 1) + b"{",
    struct.pack("<I", 0),
    struct.pack("<I", 4) + b"\xff\xfe\xfd\xfc",
    struct.pack("<I", 10000) + b"[" * 10000,
    frame("stauts"),
    frame({"release": {"step": {"job": -1, "step": 0, "restart": 0}}}),
    frame({"release": {"step": {"job": 2**32, "step": 0, "restart": 0}}}),
    frame({"release": {"step": {"job": 21, "step": 0}}}),
    frame({"lease": dict(request(22)["lease"], mode="root")}),
    frame({"lease": dict(request(22)["lease"], image=7)}),
]
print([refused(data) for data in wrong].count(True) == len(wrong))
print(ask("status") == before)
"#;
    let said = python(cluster, "root", script)?;
    let lines: Vec<&str> = said.lines().collect();
    ensure!(lines[0].starts_with("invalid uid or gid"), "{said}");
    ensure!(lines[1].starts_with("this node has no user with the id 54321"), "{said}");
    ensure!(lines[2].contains("newer release (protocol version 3, here 2)"), "{said}");
    ensure!(lines[3..] == ["True", "True"], "{said}");
    wait_for_no_lease(cluster, "n1")
}

fn floods_and_slow_clients_keep_no_step_waiting(cluster: &Cluster) -> anyhow::Result<()> {
    // Ten thousand connections of root's, more than the agent keeps: silent ones, some in the middle of a message, some with garbage.
    // They stay open while a step starts and ends.
    let script = r#"
pieces = [b"", b"\x10", b"\x10\x00\x00\x00{", b"garbage garbage"]
memory = metric("parallax_agent_resident_bytes")
clients = []
for number in range(10000):
    client = connect()
    try:
        client.sendall(pieces[number % len(pieces)])
    except OSError:
        pass
    clients.append(client)
held, response = lease(23)
print(list(response)[0])
held.sendall(frame({"release": {"step": step(23)}}))
print(receive(held))
with open(f"/proc/{sys.argv[1]}/status") as status:
    print([line.split()[1] for line in status if line.startswith("Threads:")][0])
files = metric("parallax_agent_open_files")
print(files < 1100, files)
print(metric("parallax_agent_resident_bytes") - memory < 4 << 20)
print(metric('parallax_connections_dropped_total{reason="crowded"}') > 5000)
print(flush=True)
sys.stdin.read()
"#;
    let text = format!("{}{script}", include_str!("agent.py"));
    let pid = cluster.shell("n1", "pidof parallax-agent")?;
    let mut flood = cluster.command("n1", "root", &["prlimit", "--nofile=20000", "python3", "-c", &text, pid.trim()]);
    let mut flood = flood.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn()?;
    let mut said = Vec::new();
    let mut lines = std::io::BufRead::lines(std::io::BufReader::new(flood.stdout.take().context("no output")?));
    for line in lines.by_ref() {
        let line = line?;
        if line.is_empty() {
            break;
        }
        said.push(line);
    }
    let step = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=debian", "echo", "fine"]);
    drop(flood.stdin.take());
    flood.wait()?;
    let step = step?.success()?;
    ensure!(step.stdout == "fine\nfine\n", "{step:?}");
    ensure!(said.len() == 6 && said[0] == "granted" && said[1].contains("'problems': []"), "{said:?}");
    // One thread waits for all of them; a few may just be answering, or ending after they did.
    ensure!(said[2].parse::<u32>()? <= 16, "{said:?}");
    ensure!(said[3].starts_with("True") && said[4] == "True" && said[5] == "True", "{said:?}");
    Ok(())
}

fn a_connection_that_says_nothing_is_closed(cluster: &Cluster) -> anyhow::Result<()> {
    // One that is a lease is not.
    let script = r#"
held, response = lease(24)
silent, slow = connect(), connect()
slow.sendall(b"\x10\x00\x00\x00{")
print(receive(silent), receive(slow))
print(len(ask("status")["status"]["steps"]))
print(metric('parallax_connections_dropped_total{reason="slow"}') >= 2)
"#;
    let said = python(cluster, "root", script)?;
    ensure!(said == "None None\n1\nTrue\n", "{said}");
    wait_for_no_lease(cluster, "n1")
}

fn hostile_names_over_the_socket_are_refused(cluster: &Cluster) -> anyhow::Result<()> {
    let script = r#"
names = ["", "../../../../etc/passwd", "/etc/passwd", "a/../b", "a b", "a\nb", "a\u0000b", "%2e%2e%2fetc", "$(id)", "`id`", ";id",
         "%s%n", "-x", "a" * 5000, "\u202e", "a//b", "a@sha256:" + "0" * 63, "a@sha256:" + "/" * 64, "sha256:../" + "0" * 61,
         "/a b", "/a\nb", "/a\u0000b", "/a\"b", "/$(id)", "/`id`", "/" + "a" * 5000, "/images/python.sif", "./python.sqsh"]
for name in names:
    for field in ["image", "image_id"]:
        if (field, name) == ("image", "/etc/passwd"):
            # The path of an image, as far as the agent knows: it looks up none.
            continue
        message = request(25)
        message["lease"][field] = name
        answer = ask(message)
        assert list(answer) == ["refused"], (name, field, answer)
        assert "\n" not in answer["refused"]["reason"] and "\0" not in answer["refused"]["reason"], answer
print(len(ask("status")["status"]["steps"]))
"#;
    let said = python(cluster, "root", script)?;
    ensure!(said == "0\n", "{said}");
    Ok(())
}

fn a_steps_directory_is_closed_to_other_users(cluster: &Cluster) -> anyhow::Result<()> {
    let step = held(cluster, "echo started")?;
    let directory = cluster.agent_status("n1")?.steps.first().context("no step")?.directory.clone();
    let directory = directory.to_str().context("not UTF-8")?;
    for path in [directory.to_owned(), format!("{directory}/store"), format!("{directory}/container-namespace")] {
        let done = cluster.run("n1", "u2", &["ls", &path])?;
        ensure!(done.code != 0 && done.stderr.contains("Permission denied"), "{path}: {done:?}");
    }
    // Nor can anybody find out what there is, or get at the layers in other ways.
    for path in ["/run/parallax/steps", "/run/parallax/layers", "/run/parallax/leases"] {
        for user in ["u1", "u2"] {
            let done = cluster.run("n1", user, &["ls", path])?;
            ensure!(done.code != 0 && done.stderr.contains("Permission denied"), "{user} {path}: {done:?}");
        }
    }
    // The container's root is the user's own, too.
    let look = "for p in $(pgrep -u u1); do ls /proc/$p/root/ /proc/$p/cwd/ >/dev/null 2>&1 && echo $p; done; true";
    let seen = cluster.run("n1", "u2", &["sh", "-c", look])?.success()?.stdout;
    ensure!(seen.is_empty(), "u2 sees the root of process {seen}");
    cluster.run("n1", "u1", &["ls", &format!("{directory}/store")])?.success()?;
    step.finish()
}

fn the_ids_of_a_mount_are_the_users_own(cluster: &Cluster) -> anyhow::Result<()> {
    let step = held(cluster, "echo started")?;
    let directory = cluster.agent_status("n1")?.steps.first().context("no step")?.directory.clone();
    let overlay = cluster.path_on("n1", &format!("{}/store/overlay", directory.display()))?;
    let mut ids = BTreeSet::new();
    let mut files = 0;
    for layer in fs::read_dir(overlay.join("l"))? {
        owners(&layer?.path(), &mut ids, &mut files)?;
    }
    let range = |path: &str| -> anyhow::Result<(u32, u32)> {
        let text = fs::read_to_string(cluster.path_on("n1", path)?)?;
        let line = text.lines().find_map(|line| line.strip_prefix("u1:")).context("no ids for u1")?;
        let (start, count) = line.split_once(':').context("not a range")?;
        Ok((start.parse()?, count.parse()?))
    };
    let ((uids, uid_count), (gids, gid_count)) = (range("/etc/subuid")?, range("/etc/subgid")?);
    ensure!(files > 1000 && ids.len() > 1, "only {files} files of {ids:?}");
    for &(uid, gid) in &ids {
        let own = |id: u32, start: u32, count: u32| id == 1001 || (id >= start && id - start < count);
        ensure!(own(uid, uids, uid_count) && own(gid, gids, gid_count), "a file of {uid}:{gid} in {ids:?}");
    }
    let mounts = cluster.shell("n1", "cat /proc/1/mountinfo")?;
    let layers: Vec<&str> = mounts.lines().filter(|mount| mount.contains(" - squashfs ")).collect();
    ensure!(layers.len() >= 2, "{mounts}");
    for mount in layers {
        let options: Vec<&str> = mount.split(' ').nth(5).unwrap_or_default().split(',').collect();
        ensure!(["ro", "nosuid", "nodev"].iter().all(|option| options.contains(option)), "{mount}");
    }
    let own = mounts.lines().find(|mount| mount.contains(" - tmpfs ") && mount.contains("/run/parallax/steps/"));
    let own = own.context("no step is mounted")?;
    ensure!(own.contains("nosuid") && own.contains("nodev"), "{own}");
    step.finish()
}

/// The owners of all files below a directory.
fn owners(directory: &Path, ids: &mut BTreeSet<(u32, u32)>, files: &mut usize) -> anyhow::Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let metadata = entry.metadata()?;
        ids.insert((metadata.uid(), metadata.gid()));
        *files += 1;
        if metadata.is_dir() {
            owners(&entry.path(), ids, files)?;
        }
    }
    Ok(())
}

/// The directory belongs to the user, who can do with it what they like. The end of the step must not follow them anywhere.
fn a_users_files_in_a_step_do_not_lead_root_astray(cluster: &Cluster) -> anyhow::Result<()> {
    let step = held(cluster, "echo started")?;
    let directory = cluster.agent_status("n1")?.steps.first().context("no step")?.directory.clone();
    let directory = directory.to_str().context("not UTF-8")?;
    let precious = cluster.path_on("n1", "/run/precious")?;
    fs::create_dir_all(&precious)?;
    fs::write(precious.join("file"), "precious")?;
    let script = format!(
        "cd {directory}; mv store old-store; ln -s /run/precious store; rm -rf launch; ln -s /run/precious launch; \
         ln -s /run/precious/file run/link; mkfifo run/fifo; rm -f step.json; ln -s /etc/shadow step.json; chmod 0000 ."
    );
    cluster.run("n1", "u1", &["sh", "-c", &script])?;
    step.finish()?;
    wait_for_no_lease(cluster, "n1")?;
    let kept = fs::read_to_string(precious.join("file"));
    let mode = fs::metadata(&precious)?.uid();
    fs::remove_dir_all(&precious)?;
    ensure!(
        kept.is_ok_and(|text| text == "precious") && mode == 0,
        "the end of the step went through the user's links"
    );
    Ok(())
}

/// A process belongs to a step if it names the step's directory; what others than the step's user name is of no interest.
fn a_step_can_only_have_its_own_users_processes_ended(cluster: &Cluster) -> anyhow::Result<()> {
    let step = held(cluster, "echo started")?;
    let status = cluster.agent_status("n1")?.steps.first().context("no step")?.clone();
    let marked = format!("STEP={}/x", status.directory.display());
    let of_job = format!("SLURM_JOB_ID={}", status.step.job);
    let bystander = |user: &str| {
        let mut command = cluster.command("n1", user, &["env", &marked, &of_job, "sh", "-c", "echo here; exec cat"]);
        command.stdin(std::process::Stdio::piped()).stdout(std::process::Stdio::piped()).spawn()
    };
    let (mut other, mut root, mut own) = (bystander("u2")?, bystander("root")?, bystander("u1")?);
    for process in [&mut other, &mut root, &mut own] {
        let mut line = [0; 5];
        std::io::Read::read_exact(process.stdout.as_mut().context("no output")?, &mut line)?;
    }
    step.finish()?;
    wait_for_no_lease(cluster, "n1")?;
    let own = own.wait()?;
    let lives = |process: &mut std::process::Child| -> anyhow::Result<bool> {
        let lives = process.try_wait()?.is_none();
        drop(process.stdin.take());
        Ok(lives && process.wait()?.success())
    };
    ensure!(lives(&mut other)? && lives(&mut root)?, "somebody else's process was ended");
    ensure!(!own.success(), "the user's process was left");
    Ok(())
}

fn a_hostile_environment_stays_the_users(cluster: &Cluster) -> anyhow::Result<()> {
    // What the user sets reaches no program of root's, and what it does to their own is theirs to see.
    for variable in [
        "SLURM_PARALLAX_PIN=- debian ../../../../etc/passwd",
        "SLURM_PARALLAX_PIN=%s %s %s%n",
        "_SLURM_SPANK_OPTION_parallax_parallax_mode=$(touch /run/owned)",
        "CONTAINERS_STORAGE_CONF=/etc/shadow",
        "CONTAINERS_CONF=/nonexistent",
        "XDG_RUNTIME_DIR=/root",
        "LD_PRELOAD=/nonexistent.so",
        "PATH=/nonexistent",
        "HOME=/root",
        "TMPDIR=$(touch /run/owned)",
        "BASH_FUNC_ls%%=() { touch /run/owned; }",
    ] {
        let mut command = vec!["env", variable, "/usr/bin/srun", "-w", "n1", "--parallax-image=debian"];
        command.extend(["/bin/sh", "-c", "echo $(/usr/bin/id -u)"]);
        let done = cluster.run("ctl", "u1", &command)?;
        // It works as the user, or it fails with a sentence.
        let fine = done.code == 0 && done.stdout == "1001\n";
        ensure!(fine || done.code != 0 && done.stderr.contains("parallax: "), "{variable}: {done:?}");
    }
    for node in ["ctl", "n1"] {
        ensure!(!cluster.path_on(node, "/run/owned")?.exists(), "a shell was reached on {node}");
    }
    Ok(())
}

fn a_store_that_others_can_change_is_not_used(cluster: &Cluster) -> anyhow::Result<()> {
    let store = cluster.shared().join("store");
    let static_layer = cluster.shell(
        "ctl",
        "python3 -c \"import json; print(json.load(open('/shared/store/parallax/names/localhost%2Fstatic:latest'))['layers'][0]['diff_id'])\"",
    )?;
    let layer = store.join(format!("parallax/layers/{}.squash", static_layer.trim()));
    let refused = |what: &str, sentence: &str| -> anyhow::Result<()> {
        let done = cluster.srun("u1", &["-w", "n1", "--parallax-image=static", "hello"])?;
        ensure!(done.code != 0 && done.stderr.contains(sentence), "{what}: {done:?}");
        Ok(())
    };
    // A file that its group may write.
    fs::set_permissions(&layer, fs::Permissions::from_mode(0o664))?;
    let group = refused("group-writable", "others than its owner may write it");
    fs::set_permissions(&layer, fs::Permissions::from_mode(0o644))?;
    group?;
    // A user's own image in its place: another owner's file, and a hard link to one.
    let away = layer.with_extension("away");
    fs::rename(&layer, &away)?;
    let theirs = cluster.shared().join("users-own");
    fs::copy(&away, &theirs)?;
    std::os::unix::fs::chown(&theirs, Some(1001), Some(1001))?;
    fs::hard_link(&theirs, &layer)?;
    let linked = refused("a user's file", "does not belong to the store's owner");
    fs::remove_file(&layer)?;
    fs::remove_file(&theirs)?;
    // A device, which root could read.
    cluster.shell("n1", &format!("mknod /shared/store/parallax/layers/{}.squash b 7 0", static_layer.trim()))?;
    let device = refused("a device", "it is not a regular file");
    fs::remove_file(&layer)?;
    // A FIFO, which nobody writes to: nobody waits for it.
    cluster.shell("n1", &format!("mkfifo -m 0644 /shared/store/parallax/layers/{}.squash", static_layer.trim()))?;
    let fifo = refused("a FIFO", "it is not a regular file");
    fs::remove_file(&layer)?;
    // Another file system mounted over it, on the node alone.
    fs::rename(&away, &layer)?;
    let over = format!("/shared/store/parallax/layers/{}.squash", static_layer.trim());
    cluster.shell("n1", &format!("cp {over} /tmp/other.squash; mount --bind /tmp/other.squash {over}"))?;
    let mounted = refused("a mount", "on another file system than the store");
    cluster.shell("n1", &format!("umount {over}; rm /tmp/other.squash"))?;
    linked.and(device).and(fifo).and(mounted)?;
    cluster.srun("u1", &["-w", "n1", "--parallax-image=static", "hello"])?.success().map(drop)
}
