//! OCI hooks of the site.

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

use super::refused;
use crate::cluster::backend::{STORE, with_config};

tests! { cluster:
    hooks_run_by_stage_and_see_the_container,
    conditions_decide_which_containers_have_a_hook,
    hooks_write_by_fuse,
    a_hook_that_fails_on_one_node_is_told,
    a_later_step_makes_the_container_that_a_hook_prevented,
    a_hook_that_hangs_is_ended,
    a_hook_that_stays_ends_with_the_step,
    invalid_hooks_fail_the_step,
}

const IMAGE: &str = "--parallax-image=debian";
/// Appends a line to a file in the container's root: the stage that it is told, and facts of the bundle.
const HOOK: &str = r#"#!/usr/bin/python3
import json, os, sys
state = json.load(sys.stdin)
config = json.load(open(state["bundle"] + "/config.json"))
user, process = config["process"]["user"], config["process"]
shown = [m["destination"] for m in config["mounts"] if m["source"] == "/srv/hooks"]
with open(config["root"]["path"] + "/etc/hooks", "a") as out:
    print(sys.argv[1], state["status"], os.getuid() == user["uid"] == 1001, process["args"][0], *shown,
          "FROM_JOB=1" in process["env"], config["root"]["readonly"], sorted(config["annotations"].items()), file=out)
assert os.readlink("/proc/self/ns/mnt") == os.readlink("/proc/%d/ns/mnt" % state["pid"])
assert os.path.exists("/usr/sbin/slurmd") and state["id"]
"#;

/// A file of `hooks.d`.
fn file(command: &str, when: &str, stages: &[&str], more: &str) -> String {
    let stages = stages.join("\", \"");
    format!(
        r#"{{"version": "1.0.0", "hook": {{"path": "/bin/sh", "args": ["sh", "-c", "{command}"]{more}}},
             "when": {{{when}}}, "stages": ["{stages}"]}}"#
    )
}

/// Runs `body` while a node has these hooks, beside the script of above as `/srv/hooks/hook`.
fn with_hooks(
    cluster: &Cluster,
    node: &str,
    files: &[(&str, String)],
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut make = format!(
        "mkdir -p /srv/hooks/a.d /srv/hooks/b.d\ncat >/srv/hooks/hook <<'END'\n{HOOK}END\nchmod a+x /srv/hooks/hook\n"
    );
    for (name, text) in files {
        make.push_str(&format!("cat >/srv/hooks/{name} <<'END'\n{text}\nEND\n"));
    }
    cluster.shell(node, &make)?;
    let config = format!("{STORE}[run]\nhook_directories = [\"/srv/hooks/a.d\", \"/srv/hooks/b.d\"]\n");
    let result = with_config(cluster, node, &config, body);
    cluster.shell(node, "rm -r /srv/hooks")?;
    result
}

/// Runs a script in the image on n1.
fn inside(cluster: &Cluster, options: &[&str], script: &str) -> anyhow::Result<Done> {
    cluster.srun("u1", &[&["-w", "n1", IMAGE], options, &["sh", "-c", script]].concat())
}

fn hooks_run_by_stage_and_see_the_container(cluster: &Cluster) -> anyhow::Result<()> {
    let own =
        |word: &str, stages: &[&str]| file(&format!("exec /srv/hooks/hook {word}"), "\"always\": true", stages, "");
    let files = [
        ("a.d/2.json", own("last", &["createContainer", "poststart", "poststop", "startContainer"])),
        ("a.d/1.json", own("replaced", &["createContainer"])),
        ("b.d/1.json", own("first", &["prestart", "createRuntime"])),
        ("b.d/readme.txt", "no hook".to_owned()),
    ];
    with_hooks(cluster, "n1", &files, || {
        let options = ["--parallax-annotation=a.b=c", "--parallax-annotation=d=e", "--parallax-mount=/srv/hooks:/one"];
        let options =
            [&options[..], &["--parallax-readonly", "--parallax-env=FROM_JOB=1", "-n2", "--overcommit"]].concat();
        let script = "[ $SLURM_PROCID = 1 ] || { cat /etc/hooks; touch /etc/hooks 2>&1 | grep -o Read-only; }";
        let done = inside(cluster, &options, script)?.success()?;
        let facts = "creating True sh /one True True [('a.b', 'c'), ('d', 'e')]";
        let expected = format!("first {facts}\nfirst {facts}\nlast {facts}\nRead-only\n");
        ensure!(done.stdout == expected, "{done:?}\nexpected: {expected}");
        Ok(())
    })
}

fn conditions_decide_which_containers_have_a_hook(cluster: &Cluster) -> anyhow::Result<()> {
    // A hook starts in the bundle, beside which the root directory is.
    let write = |word: &str| format!("echo {word} >>../root/etc/hooks");
    let conditional = |word: &str, when: &str| file(&write(word), when, &["createRuntime"], "");
    let files = [
        ("a.d/1.json", conditional("annotated", r#""annotations": {"^com\\.site\\.gpu$": "^(on|1)$"}"#)),
        ("a.d/2.json", conditional("command", r#""commands": ["(^|/)sh$"]"#)),
        ("a.d/3.json", conditional("mounts", r#""hasBindMounts": true"#)),
        ("a.d/4.json", conditional("never", r#""always": true, "commands": ["^perl$"]"#)),
    ];
    with_hooks(cluster, "n1", &files, || {
        let seen = |options: &[&str]| -> anyhow::Result<String> {
            Ok(inside(cluster, options, "cat /etc/hooks")?.success()?.stdout)
        };
        for (options, expected) in [
            (&[][..], "command\n"),
            (&["--parallax-annotation=com.site.gpu=off"], "command\n"),
            (&["--parallax-annotation=com.site.gpu=on", "--parallax-mount=/srv:/x"], "annotated\ncommand\nmounts\n"),
            (&["--parallax-mount=tmpfs:/x"], "command\n"),
        ] {
            let seen = seen(options)?;
            ensure!(seen == expected, "{options:?}: {seen:?}");
        }
        let done = cluster.srun("u1", &["-w", "n1", IMAGE, "cat", "/etc/hooks"])?;
        ensure!(done.code == 1, "a hook ran: {done:?}");
        Ok(())
    })
}

/// There the root directory is a process's, which must honour what the hook may do.
fn hooks_write_by_fuse(cluster: &Cluster) -> anyhow::Result<()> {
    let writing =
        file("mkdir ../root/usr/hook && ls ../root/usr >../root/etc/hooks", "\"always\": true", &["prestart"], "");
    with_hooks(cluster, "n1", &[("a.d/x.json", writing)], || {
        let step = || -> anyhow::Result<()> {
            let script = "test -d /usr/hook && grep -x -e hook -e bin /etc/hooks";
            let done = inside(cluster, &[], script)?.success()?;
            ensure!(done.stdout == "bin\nhook\n", "{done:?}");
            Ok(())
        };
        step()?;
        let config = format!("{STORE}[agent]\nmounts = \"fuse\"\n[run]\nhook_directories = [\"/srv/hooks/a.d\"]\n");
        with_config(cluster, "n1", &config, step)
    })
}

fn a_hook_that_fails_on_one_node_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    let failing = file("echo first; echo no such device >&2; exit 3", "\"always\": true", &["prestart"], "");
    with_hooks(cluster, "n2", &[("a.d/gpu.json", failing)], || {
        let done = cluster.srun("u1", &["-N2", "-n4", "--overcommit", IMAGE, "true"])?;
        let hook = "the hook /bin/sh (prestart of /srv/hooks/a.d/gpu.json)";
        refused(&done, &[hook, "failed on the node n2 (exit status: 3): first / no such device"])?;
        cluster.srun("u1", &["-w", "n1", IMAGE, "true"])?.success().map(drop)
    })
}

/// Steps share the container, so what the failed step has left is there.
fn a_later_step_makes_the_container_that_a_hook_prevented(cluster: &Cluster) -> anyhow::Result<()> {
    let hook = file("test -e /tmp/ready", "\"always\": true", &["createContainer"], "");
    with_hooks(cluster, "n1", &[("a.d/1.json", hook)], || {
        let step = format!("srun -Q -n1 {IMAGE} --parallax-name=env echo");
        let script = format!("{step} no; touch /tmp/ready; {step} made; {step} joined; rm /tmp/ready");
        let said = cluster.home("u1").join("hooks.out");
        let line = ["sbatch", "--wait", "-w", "n1", "-o", "hooks.out", "--wrap", &script];
        cluster.run("ctl", "u1", &line)?.success()?;
        let text = std::fs::read_to_string(&said)?;
        std::fs::remove_file(said)?;
        let lines: Vec<&str> = text.lines().filter(|line| !line.starts_with("srun: ")).collect();
        ensure!(lines.len() == 3 && lines[1..] == ["made", "joined"], "{text}");
        ensure!(lines[0].starts_with("parallax: ") && lines[0].contains("failed on the node n1"), "{text}");
        Ok(())
    })
}

fn a_hook_that_hangs_is_ended(cluster: &Cluster) -> anyhow::Result<()> {
    // The hook's own child is ended, too: the suite finds what is left.
    let hanging = file("sleep 1000 & echo waiting; wait", "\"always\": true", &["prestart"], ", \"timeout\": 1");
    with_hooks(cluster, "n1", &[("a.d/x.json", hanging)], || {
        let done = inside(cluster, &[], "true")?;
        refused(&done, &["(prestart of /srv/hooks/a.d/x.json) did not end within 1 s on the node n1: waiting"])
    })
}

fn a_hook_that_stays_ends_with_the_step(cluster: &Cluster) -> anyhow::Result<()> {
    let staying = file("setsid sleep 1000 & exit 0", "\"always\": true", &["createContainer"], "");
    with_hooks(cluster, "n1", &[("a.d/x.json", staying)], || {
        let done = inside(cluster, &[], "grep -lz '^sleep' /proc/[0-9]*/cmdline | wc -l")?.success()?;
        ensure!(done.stdout == "1\n", "{done:?}");
        Ok(())
    })
}

fn invalid_hooks_fail_the_step(cluster: &Cluster) -> anyhow::Result<()> {
    let fine = || file("exit 0", "\"always\": true", &["prestart"], "");
    with_hooks(cluster, "n1", &[("a.d/x.json", "{}".to_owned())], || {
        let step = || inside(cluster, &[], "true");
        let begin = "cannot use the hooks of this node: /srv/hooks/a.d/x.json: ";
        refused(&step()?, &[begin, "tell the administrator"])?;
        cluster.shell("n1", &format!("echo '{}' >/srv/hooks/a.d/x.json", fine()))?;
        step()?.success()?;
        cluster.shell("n1", "chown u1 /srv/hooks/a.d/x.json")?;
        refused(&step()?, &[begin, "it does not belong to root"])?;
        cluster.shell("n1", "rm /srv/hooks/a.d/x.json")?;
        step()?.success().map(drop)
    })
}
