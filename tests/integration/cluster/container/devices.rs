//! Devices: those of CDI specifications, and device nodes.

use std::fs;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

use super::refused;
use crate::cluster::backend::{STORE, with_config};

tests! { cluster:
    a_device_brings_variables_mounts_nodes_and_hooks,
    a_later_directory_takes_the_place_of_an_earlier_one,
    an_unknown_device_names_the_node_and_the_nearest,
    what_a_device_cannot_have_is_told,
    device_nodes_are_there_or_missing,
    devices_of_the_site,
    devices_of_an_environment_definition_file,
    a_specification_that_others_may_write_is_not_used,
}

const IMAGE: &str = "--parallax-image=debian";
/// A specification of two devices. The hook is given the container's root by the bundle's `config.json`.
const SPECIFICATION: &str = r#"cdiVersion: 0.6.0
kind: example.com/gpu
devices:
- name: one
  containerEdits:
    env: [GPU=one]
    deviceNodes: [{path: /opt/gpu/zero, hostPath: /dev/zero}, {path: /dev/null}]
    mounts:
    - {hostPath: /srv/gpu/lib, containerPath: /usr/lib/gpu, options: [ro, nosuid, rbind]}
    - {hostPath: tmpfs, containerPath: /gpu/scratch, type: tmpfs}
    hooks:
    - {hookName: createContainer, path: /srv/gpu/hook, args: [hook, linked], env: [LINK=/opt/gpu/link]}
    - {hookName: poststop, path: /srv/gpu/missing}
- name: two
  containerEdits: {env: [GPU=two]}
containerEdits: {env: [GPU_COMMON=yes, LANG=of-the-device]}
"#;
const HOOK: &str = r#"#!/usr/bin/python3
import json, os, sys
config = json.load(open(json.load(sys.stdin)["bundle"] + "/config.json"))
os.symlink(sys.argv[1], config["root"]["path"] + os.environ["LINK"])
"#;

/// Runs `body` while n1 has the specification and what belongs to it.
fn with_devices(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let make = format!(
        "mkdir -p /etc/cdi /var/run/cdi /srv/gpu/lib && echo library >/srv/gpu/lib/file\n\
         cat >/etc/cdi/gpu.yaml <<'END'\n{SPECIFICATION}END\n\
         cat >/srv/gpu/hook <<'END'\n{HOOK}END\nchmod a+x /srv/gpu/hook"
    );
    cluster.shell("n1", &make)?;
    let result = body();
    cluster.shell("n1", "rm -r /etc/cdi /var/run/cdi /srv/gpu")?;
    result
}

/// Runs a script with devices in the image, as u1 on n1.
fn with(cluster: &Cluster, devices: &str, script: &str) -> anyhow::Result<Done> {
    cluster.srun("u1", &["-w", "n1", IMAGE, &format!("--parallax-device={devices}"), "sh", "-c", script])
}

fn a_device_brings_variables_mounts_nodes_and_hooks(cluster: &Cluster) -> anyhow::Result<()> {
    with_devices(cluster, || {
        let script = "echo $GPU $GPU_COMMON $LANG; head -c2 /opt/gpu/zero | od -An -tx1; cat /usr/lib/gpu/file; \
                      touch /usr/lib/gpu/x 2>/dev/null && echo wrote; stat -f -c %T /gpu/scratch; readlink /opt/gpu/link";
        let done = with(cluster, "example.com/gpu=one", script)?.success()?;
        let expected = "one yes of-the-device\n 00 00\nlibrary\ntmpfs\nlinked\n";
        ensure!(done.stdout == expected, "{done:?}");
        // The user's own variables lie over those of devices; a second device adds to the first.
        let options = [IMAGE, "--parallax-env=LANG=own", "--parallax-device=example.com/gpu=one"];
        let more = ["--parallax-device=example.com/gpu=two", "-w", "n1", "-n2", "--overcommit"];
        let show = ["sh", "-c", "echo $GPU $LANG $(ls /usr/lib/gpu)"];
        let done = cluster.srun("u1", &[&options[..], &more, &show].concat())?.success()?;
        ensure!(done.stdout == "two own file\n".repeat(2), "{done:?}");
        Ok(())
    })
}

fn a_later_directory_takes_the_place_of_an_earlier_one(cluster: &Cluster) -> anyhow::Result<()> {
    with_devices(cluster, || {
        let device = r#"{"name":"two","containerEdits":{"env":["GPU=of-run"]}}"#;
        let spec = format!(r#"{{"cdiVersion":"1.0.0","kind":"example.com/gpu","devices":[{device}]}}"#);
        cluster.shell("n1", &format!("echo '{spec}' >/var/run/cdi/gpu.json"))?;
        let done = with(cluster, "example.com/gpu=two", "echo $GPU [$GPU_COMMON]")?.success()?;
        ensure!(done.stdout == "of-run []\n", "{done:?}");
        // In one directory nobody can say which is meant.
        cluster.shell("n1", "mv /var/run/cdi/gpu.json /etc/cdi/other.json")?;
        let both = ["on the node n1", "\"example.com/gpu=two\" is in /etc/cdi/gpu.yaml and in /etc/cdi/other.json"];
        refused(&with(cluster, "?example.com/gpu=two", "true")?, &both)
    })
}

fn an_unknown_device_names_the_node_and_the_nearest(cluster: &Cluster) -> anyhow::Result<()> {
    with_devices(cluster, || {
        let near = "there is no device \"example.com/gpu=noe\"; did you mean \"example.com/gpu=one\"?";
        refused(&with(cluster, "example.com/gpu=noe", "true")?, &["on the node n1", near])?;
        // n2 has no specification.
        let step = |device: &str| cluster.srun("u1", &["-N2", "-n4", "--overcommit", IMAGE, device, "true"]);
        let done = step("--parallax-device=example.com/gpu=two")?;
        refused(&done, &["on the node n2 there is no device \"example.com/gpu=two\""])?;
        step("--parallax-device=?example.com/gpu=two")?.success().map(drop)
    })
}

fn what_a_device_cannot_have_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    with_devices(cluster, || {
        let device = |name: &str, edits: &str| format!(r#"{{"name":"{name}","containerEdits":{{{edits}}}}}"#);
        let all = [
            device("group", r#""additionalGids":[12345]"#),
            device("member", r#""additionalGids":[1001]"#),
            device("cache", r#""intelRdt":{"closID":"x"}"#),
            device("node", r#""deviceNodes":[{"path":"/dev/gpu-none","type":"c","major":1,"minor":3}]"#),
            device("moved", r#""deviceNodes":[{"path":"/dev/gpu-none","hostPath":"/dev/null"}]"#),
            device("library", r#""mounts":[{"hostPath":"/srv/none","containerPath":"/x"}]"#),
        ];
        let spec = format!(r#"{{"cdiVersion":"0.7.0","kind":"example.com/odd","devices":[{}]}}"#, all.join(","));
        cluster.shell("n1", &format!("echo '{spec}' >/etc/cdi/odd.json"))?;
        for (name, said) in [
            ("group", "the device needs the group 12345, of which you are no member"),
            ("cache", "\"intelRdt\" needs privileges"),
            ("node", "/dev/gpu-none does not exist, and only root can make device nodes"),
            ("moved", "/dev/null cannot be shown as /dev/gpu-none: /dev is the node's"),
            ("library", "/srv/none does not exist"),
        ] {
            let done = with(cluster, &format!("example.com/odd={name}"), "true")?;
            refused(&done, &["/etc/cdi/odd.json on the node n1: ", said, "tell the administrator"])?;
        }
        with(cluster, "example.com/odd=member", "true")?.success().map(drop)
    })
}

fn device_nodes_are_there_or_missing(cluster: &Cluster) -> anyhow::Result<()> {
    let done = with(cluster, "/dev/null,/dev/ful*,?/dev/none*", "test -c /dev/full && echo there")?.success()?;
    ensure!(done.stdout == "there\n", "{done:?}");
    let said = ["the node n1 has no device /dev/none*", "\"?/dev/none*\" leaves it out"];
    refused(&with(cluster, "/dev/none*", "true")?, &said)?;
    refused(&with(cluster, "/etc/passwd", "true")?, &["has no device /etc/passwd"])
}

fn devices_of_the_site(cluster: &Cluster) -> anyhow::Result<()> {
    let config = format!(
        "{STORE}[run]\ndevices = [\"?/dev/none*\", \"?example.com/none=x\", \"example.com/gpu=two\"]\n\
         cdi_directories = [\"/srv/gpu/cdi\"]\n"
    );
    with_devices(cluster, || {
        cluster.shell("n1", "mkdir /srv/gpu/cdi && mv /etc/cdi/gpu.yaml /srv/gpu/cdi/gpu.yml")?;
        with_config(cluster, "n1", &config, || {
            let done = cluster.srun("u1", &["-w", "n1", IMAGE, "sh", "-c", "echo $GPU"])?.success()?;
            ensure!(done.stdout == "two\n", "{done:?}");
            let done = with(cluster, "example.com/gpu=one", "echo $GPU; cat /usr/lib/gpu/file")?.success()?;
            ensure!(done.stdout == "one\nlibrary\n", "{done:?}");
            Ok(())
        })
    })
}

fn devices_of_an_environment_definition_file(cluster: &Cluster) -> anyhow::Result<()> {
    let file = cluster.home("u1").join("gpu.toml");
    fs::write(&file, "image = \"debian\"\ndevices = [\"example.com/gpu=two\", \"/dev/null\", \"?/dev/none\"]\n")?;
    let result = with_devices(cluster, || {
        let script = ["sh", "-c", "echo $GPU $GPU_COMMON"];
        let done =
            cluster.srun("u1", &[&["-w", "n1", "--parallax-edf=./gpu.toml"][..], &script].concat())?.success()?;
        ensure!(done.stdout == "two yes\n", "{done:?}");
        Ok(())
    });
    fs::remove_file(file)?;
    result
}

fn a_specification_that_others_may_write_is_not_used(cluster: &Cluster) -> anyhow::Result<()> {
    with_devices(cluster, || {
        for change in ["chown u1 /etc/cdi/gpu.yaml", "chown root /etc/cdi/gpu.yaml; chmod o+w /etc/cdi/gpu.yaml"] {
            cluster.shell("n1", change)?;
            let done = with(cluster, "example.com/gpu=one", "true")?;
            let why = "(not usable: /etc/cdi/gpu.yaml: it does not belong to root, or others may write it)";
            refused(&done, &["there is no device \"example.com/gpu=one\"", why])?;
        }
        Ok(())
    })
}
