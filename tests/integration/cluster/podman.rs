//! `podman` mode: tasks on the node, where a plain `podman run` finds the image; and what batch scripts inherit.

use std::fs;

use anyhow::ensure;
use integration_tests::clean::wait_for_steps;
use integration_tests::cluster::Cluster;
use integration_tests::device_group::DeviceGroup;
use integration_tests::held::HeldStep;
use integration_tests::memory_group::MemoryGroup;
use integration_tests::processes::machine_pid;

pub(super) mod work;

tests! { cluster:
    a_plain_podman_run_starts_from_the_store,
    sizes_are_true_and_nothing_is_copied,
    a_batch_script_and_every_srun_in_it_have_the_image,
    an_allocation_hands_its_image_on,
    a_mode_that_was_said_is_handed_on,
    what_containers_leave_running_is_ended,
    every_command_works_without_options_and_with_the_users_files,
    containers_have_the_jobs_devices_and_memory,
}

const MODE: &str = "--parallax-mode=podman";

fn a_plain_podman_run_starts_from_the_store(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "hostname; podman run --rm --pull=never debian sh -c 'id -u; stat -c %u:%g /etc/shadow' && \
                  podman run --rm --userns=keep-id debian sh -c 'id -u; stat -c %u:%g /etc/shadow' && \
                  podman info --format '{{.Store.GraphDriverName}} {{index .Store.GraphStatus \"Native Overlay Diff\"}}' && \
                  ps -eo comm= | grep -ic fuse";
    let done = cluster.srun("u1", &["-w", "n1", "--parallax-image=debian", MODE, "sh", "-c", script])?;
    let lines: Vec<&str> = done.stdout.lines().collect();
    ensure!(lines[..5] == ["n1", "0", "0:42", "1001", "0:42"], "{done:?}");
    ensure!(lines.last() == Some(&"0"), "FUSE is at work: {done:?}");
    Ok(())
}

fn sizes_are_true_and_nothing_is_copied(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "podman images --format '{{.Repository}} {{.Size}} {{.ReadOnly}}'; \
                  podman run --rm --userns=keep-id python true || podman run --rm --entrypoint '' --userns=keep-id python true; \
                  podman unshare du -sk $(podman info --format '{{.Store.GraphRoot}}') | cut -f1";
    let done = cluster.srun("u1", &["--parallax-image=python", MODE, "bash", "-c", script])?.success()?;
    let listed = cluster.run("ctl", "u1", &["parallax", "list", "--json"])?.success()?;
    let images: serde_json::Value = serde_json::from_str(&listed.stdout)?;
    let python = images.as_array().into_iter().flatten().find(|image| image["names"][0] == "localhost/python:latest");
    let size = python.and_then(|image| image["size"].as_u64()).unwrap_or_default();
    let megabytes = format!("localhost/python {:.0} MB true", f64::from(u32::try_from(size)?) / 1e6);
    ensure!(done.stdout.starts_with(&megabytes), "not {megabytes}: {done:?}");
    let kept: u64 = done.stdout.lines().last().unwrap_or_default().parse()?;
    ensure!(kept < 4096, "Podman copied {kept} KiB of the image");
    Ok(())
}

fn a_batch_script_and_every_srun_in_it_have_the_image(cluster: &Cluster) -> anyhow::Result<()> {
    let home = cluster.home("u1");
    let script = "#!/bin/bash\n#SBATCH --parallax-image=python -N2 -n2 --output=batch.out\n\
                  test -e /opt/tool && echo in the image\n\
                  podman run --rm --entrypoint '' python tool\n\
                  srun sh -c 'echo srun: $(hostname) $(test -e /opt/tool && echo in the image)'\n\
                  srun --export=NONE sh -c 'test -e /opt/tool && echo exported nothing, in the image'\n\
                  srun --parallax-image=debian sh -c 'test -e /opt/tool || echo in another image'\n\
                  srun -N1 -n1 --parallax-image=none sh -c 'test -e /usr/sbin/slurmd && echo on the node'\n";
    fs::write(home.join("batch.sh"), script)?;
    let done = cluster.run("ctl", "u1", &["sbatch", "--wait", "batch.sh"])?;
    let output = fs::read_to_string(home.join("batch.out"))?;
    ensure!(done.code == 0, "{done:?}\n{output}");
    let count = |line: &str| output.lines().filter(|l| *l == line).count();
    ensure!(count("in the image") == 0, "the script itself ran in the image:\n{output}");
    ensure!(count("srun: n1 in the image") == 1 && count("srun: n2 in the image") == 1, "{output}");
    ensure!(count("exported nothing, in the image") == 2, "{output}");
    ensure!(count("in another image") == 2 && count("on the node") == 1, "{output}");
    Ok(())
}

fn an_allocation_hands_its_image_on(cluster: &Cluster) -> anyhow::Result<()> {
    let line =
        ["salloc", "-N1", "--parallax-image=python", "srun", "sh", "-c", "test -e /opt/tool && echo in the image"];
    let done = cluster.run("ctl", "u1", &line)?.success()?;
    ensure!(done.stdout.contains("in the image"), "{done:?}");
    Ok(())
}

/// A mode that was said is handed on as well; one that was not leaves every srun at its default.
fn a_mode_that_was_said_is_handed_on(cluster: &Cluster) -> anyhow::Result<()> {
    let inner = "srun --overlap sh -c 'test -e /opt/tool && echo in the image || echo on the node'";
    let said = cluster.srun("u1", &["--parallax-image=python", MODE, "sh", "-c", inner])?.success()?;
    ensure!(said.stdout == "on the node\n", "{said:?}");
    let not_said = ["salloc", "-N1", "--parallax-image=python", "sh", "-c", inner];
    let not_said = cluster.run("ctl", "u1", &not_said)?.success()?;
    ensure!(not_said.stdout.contains("in the image"), "{not_said:?}");
    let left = cluster.srun("u1", &["--parallax-image=python", MODE, "env"])?.success()?;
    ensure!(!left.stdout.contains("\n_SLURM_SPANK"), "{left:?}");
    Ok(())
}

/// conmon and containers leave the step's process tree; the end of the step ends them all the same.
fn what_containers_leave_running_is_ended(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "podman run --detach debian sleep 1000 >/dev/null && podman run --detach --userns=keep-id debian sleep 1000 && podman ps -q | wc -l";
    let done = cluster.srun("u1", &["--parallax-image=debian", MODE, "sh", "-c", script])?.success()?;
    ensure!(done.stdout.trim_end().ends_with('2'), "{done:?}");
    Ok(())
}

/// A registry with a password at 127.0.0.1:5000, and the user's files for it. Its password is "secret".
const USERS_FILES: &str = r#"
    work=$(mktemp -d /tmp/XXXXXX)
    trap 'kill $registry; rm -rf "$work" ~/.config' EXIT
    echo 'admin:$2y$04$1WmjudzpA2zdZ4k8kk7IwuBpTEe1fzooBzP9RqifwsCjPg9w.5uIG' >$work/passwords
    printf '%s\n' 'version: 0.1' "storage: { filesystem: { rootdirectory: $work/registry } }" 'http: { addr: 127.0.0.1:5000 }' \
        "auth: { htpasswd: { realm: test, path: $work/passwords } }" >$work/registry.yml
    exec 3< <(exec docker-registry serve $work/registry.yml 2>&1)
    registry=$!
    sed '/listening on/q' <&3 | grep -q 'listening on'
    cat <&3 >/dev/null &
    mkdir -p ~/.config/containers
    printf '[[registry]]\nlocation = "127.0.0.1:5000"\ninsecure = true\n[aliases]\n"nick" = "127.0.0.1:5000/mine"\n' >~/.config/containers/registries.conf
    printf '{"auths":{"127.0.0.1:5000":{"auth":"%s"}}}' $(printf admin:secret | base64) >~/.config/containers/auth.json
    printf '[containers]\nenv = ["OF_THE_USER=yes"]\n' >~/.config/containers/containers.conf
    # The step's storage is not the user's.
    printf '[storage]\ndriver = "vfs"\ngraphroot = "/nonexistent"\n' >~/.config/containers/storage.conf
"#;

fn every_command_works_without_options_and_with_the_users_files(cluster: &Cluster) -> anyhow::Result<()> {
    let text = r#"
        podman run --name one debian sh -c 'echo run $OF_THE_USER; echo committed >/new'
        podman ps --all --format 'ps {{.Names}} {{.Image}}'
        podman commit --quiet one mine >/dev/null
        podman tag mine 127.0.0.1:5000/mine
        podman push --quiet 127.0.0.1:5000/mine
        podman rm one >/dev/null; podman rmi localhost/mine 127.0.0.1:5000/mine >/dev/null
        podman pull --quiet nick >/dev/null
        podman run --rm nick cat /new
        printf 'FROM nick\nRUN echo built >/built\n' | podman build --quiet --tag built - >/dev/null
        podman run --rm built cat /built
        podman run --detach --name two debian sleep 1000 >/dev/null
        podman exec two sh -c 'echo exec $(id -u)'
        podman pod create pod >/dev/null
        podman run --pod pod debian echo in the pod
        podman images --format '{{.Repository}} {{.ReadOnly}}' | grep -E 'mine|built|debian' | sort
        podman info --format '{{.Store.GraphDriverName}}'
        podman volume create data >/dev/null
        podman run --rm --volume data:/data debian sh -c 'echo volume >/data/file && cat /data/file'
        podman pod rm --force --time 0 pod >/dev/null; podman rm --force --time 0 two >/dev/null
    "#;
    let script = format!("{USERS_FILES}\n{text}");
    let options = ["--quiet", "-w", "n1", "--parallax-image=debian", MODE, "bash", "-euc", &script];
    let done = cluster.srun("u1", &options)?.success()?;
    let expected = "run yes\nps one localhost/debian:latest\ncommitted\nbuilt\nexec 0\nin the pod\n127.0.0.1:5000/mine false\n\
                    localhost/built false\nlocalhost/debian true\noverlay\nvolume\n";
    ensure!(done.stdout == expected && done.stderr.is_empty(), "{done:?}");
    Ok(())
}

/// Slurm limits jobs by control groups. Here the task is moved into such groups, since the machine's are not Slurm's to change.
fn containers_have_the_jobs_devices_and_memory(cluster: &Cluster) -> anyhow::Result<()> {
    let script = format!(
        "device='head -c1 {0} | wc -c'; memory='head -c 600M /dev/zero | tail -c 600M | wc -c'; echo $$; read -r _; \
         podman run --rm debian sh -c \"$device 2>&1\" | tail -n1; \
         podman run --rm --device {0} debian sh -c \"$device 2>&1\" | tail -n1; \
         podman run --detach --name one debian sleep 1000 >/dev/null; podman exec one sh -c \"$device 2>&1\" | tail -n1; \
         podman run --rm debian sh -c \"$memory\" | tail -n1; echo goes on",
        DeviceGroup::DEVICE
    );
    let options = ["-w", "n1", "--parallax-image=debian", MODE];
    let run = |limited: bool| -> anyhow::Result<Vec<String>> {
        let mut step = HeldStep::start(cluster, "u1", &options, 1, &script)?;
        let task = machine_pid(cluster, "n1", step.lines[0].parse()?)?;
        let groups =
            if limited { Some((DeviceGroup::new(cluster)?, MemoryGroup::new(cluster, 400 << 20)?)) } else { None };
        if let Some((devices, memory)) = &groups {
            devices.add(task)?;
            memory.add(task)?;
        }
        step.write_line("go")?;
        let mut lines = vec![step.read_line()?];
        while lines.last().is_some_and(|line| line != "goes on") {
            lines.push(step.read_line()?);
        }
        step.end()?;
        // The groups can be removed when all that was in them has ended.
        wait_for_steps(cluster, "n1")?;
        Ok(lines)
    };
    let free = run(false)?;
    ensure!(free == ["1", "1", "1", "629145600", "goes on"], "{free:?}");
    let limited = run(true)?;
    // The kernel ends a process that takes more memory than there is, be it one in the container or not.
    ensure!(limited[..3] == ["0"; 3] && !limited.contains(&free[3]), "{limited:?}");
    Ok(())
}
