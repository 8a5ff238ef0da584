//! Inheritance: variables of a step that get beyond it, into jobs, steps and login sessions; and what tasks get of the launcher.

use std::fs;
use std::io::Read as _;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use integration_tests::clean::wait_for_no_lease;
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;

tests! { cluster:
    a_job_submitted_from_a_step_survives_the_steps_end,
    a_login_session_with_a_steps_variables_survives_its_end,
    daemons_of_a_step_end_with_it,
    tasks_have_the_signals_that_slurm_gives_them,
    steps_without_an_image_get_no_variables_of_another_step,
}

const PODMAN: [&str; 4] = ["-w", "n1", "--parallax-image=debian", "--parallax-mode=podman"];

/// The scripts of the first job and of the second one, which the first one submits after it took away all of Slurm's variables, as workflow
/// managers do. `KEPT` gets past the plugin, so that the second job's processes name the first one's directory: the batch script's
/// shell by its environment, and a daemon.
const FIRST: &str = "#!/bin/bash
#SBATCH -w n1 --parallax-image=debian --output=first.out
for name in $(compgen -v SLURM); do unset \"$name\"; done
export KEPT=:$XDG_RUNTIME_DIR
sbatch --export=ALL --parallax-image=none second.sh
read -r line < up && echo $line
";
const SECOND: &str = "#!/bin/bash
#SBATCH -w n1 --overcommit --output=second.out
[[ -n $KEPT ]] || exit 1
env | grep -F /run/parallax/steps/ | grep -v ^KEPT= && exit 1
setsid bash -c 'read -r line < go-daemon; echo daemon $line > down' &
exec bash -c 'echo started > up; read -r line < go-shell; echo $line > down'
";

fn a_job_submitted_from_a_step_survives_the_steps_end(cluster: &Cluster) -> anyhow::Result<()> {
    let home = cluster.home("u1");
    cluster.run("n1", "u1", &["mkfifo", "up", "go-daemon", "go-shell", "down"])?.success()?;
    fs::write(home.join("first.sh"), FIRST)?;
    fs::write(home.join("second.sh"), SECOND)?;
    let tested = cluster.run("ctl", "u1", &["sbatch", "--wait", "first.sh"]).and_then(|done| {
        let output = fs::read_to_string(home.join("first.out"))?;
        done.success().with_context(|| output.clone())?;
        ensure!(output.contains("started"), "{output}");
        wait_for_no_lease(cluster, "n1")?;
        // Each has a FIFO of its own: of two readers of one, the second may see its end only.
        let ask = "echo on > go-daemon; cat down; echo on > go-shell; cat down";
        cluster.run("n1", "u1", &["bash", "-c", ask])
    });
    let second = fs::read_to_string(home.join("second.out")).unwrap_or_default();
    for file in ["first.sh", "second.sh", "first.out", "second.out", "up", "go-daemon", "go-shell", "down"] {
        let _ = fs::remove_file(home.join(file));
    }
    let said = tested.with_context(|| format!("the second job says: {second:?}"))?.success()?;
    let mut lines: Vec<&str> = said.stdout.lines().collect();
    lines.sort_unstable();
    ensure!(lines == ["daemon on", "on"], "{said:?} {second:?}");
    Ok(())
}

/// The launcher is a program between slurmstepd and the command, and must leave no trace in what is inherited: ignored signals, descriptors.
fn tasks_have_the_signals_that_slurm_gives_them(cluster: &Cluster) -> anyhow::Result<()> {
    let show = ["sh", "-c", "grep -E '^Sig(Ign|Blk)' /proc/self/status; ls /proc/self/fd"];
    let steps: [&[&str]; 3] = [&["-w", "n1"], &PODMAN, &["-w", "n1", "--parallax-image=debian", "--parallax-mode=run"]];
    let shown: Vec<_> = steps
        .iter()
        .map(|step| Ok(cluster.srun("u1", &[step, &show[..]].concat())?.success()?.stdout))
        .collect::<anyhow::Result<_>>()?;
    ensure!(shown[0] == shown[1] && shown[0] == shown[2], "plain, podman mode and run mode differ: {shown:#?}");
    Ok(())
}

/// The step's directory.
fn directory(cluster: &Cluster) -> anyhow::Result<String> {
    let status = cluster.agent_status("n1")?;
    Ok(status.steps.first().context("no step")?.directory.display().to_string())
}

fn a_login_session_with_a_steps_variables_survives_its_end(cluster: &Cluster) -> anyhow::Result<()> {
    let step = HeldStep::start(cluster, "u1", &PODMAN, 1, "echo started")?;
    let variable = format!("XDG_RUNTIME_DIR={}/run", directory(cluster)?);
    // It comes from outside of the node's processes, as from sshd. The daemon has no parent, as screen.
    let script = "exec 9<&0; setsid sh -c 'echo daemon; read -r line <&9; echo daemon $line' & wait";
    let mut session = cluster.command("n1", "u1", &["env", &variable, "sh", "-c", script]);
    let mut session = session.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let output = session.stdout.as_mut().context("no output")?;
    let mut started = [0; "daemon\n".len()];
    output.read_exact(&mut started)?;
    step.finish()?;
    wait_for_no_lease(cluster, "n1")?;
    std::io::Write::write_all(&mut session.stdin.take().context("no input")?, b"lives\n")?;
    let mut rest = String::new();
    session.stdout.as_mut().context("no output")?.read_to_string(&mut rest)?;
    ensure!(session.wait()?.success() && rest == "daemon lives\n", "{rest:?}");
    Ok(())
}

/// What leaves the step's process tree ends with it: by the job's id in its environment, or by its command line.
fn daemons_of_a_step_end_with_it(cluster: &Cluster) -> anyhow::Result<()> {
    // Each daemon's parent ends at once, and each says that it is there. What would be left is found after the test.
    let script = "read -r one < <( (setsid bash -c 'echo up; exec tail -f /dev/null >/dev/null 2>&1' &) ); \
                  read -r two < <( (setsid env -i bash -c 'echo up; exec >/dev/null 2>&1; tail -f /dev/null; : '$XDG_RUNTIME_DIR/x &) ); \
                  podman run --detach debian sleep 1000 >/dev/null; echo $one $two; pgrep -c -u u1 -x conmon";
    let done = cluster.srun("u1", &[&PODMAN[..], &["bash", "-c", script]].concat())?.success()?;
    ensure!(done.stdout == "up up\n1\n", "{done:?}");
    wait_for_no_lease(cluster, "n1")
}

fn steps_without_an_image_get_no_variables_of_another_step(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "export DOCKER_HOST=unix://$XDG_RUNTIME_DIR/podman.sock OTHER=/run/parallax/steps KEPT=1; env; echo ==; \
                  srun --overlap --parallax-image=none env; echo ==; srun --overlap --parallax-mode=run env";
    let done = cluster.srun("u1", &[&PODMAN[..], &["bash", "-c", script]].concat())?.success()?;
    let parts: Vec<&str> = done.stdout.split("==\n").collect();
    let [own, none, run] = parts[..] else { anyhow::bail!("{done:?}") };
    let names = ["CONTAINERS_STORAGE_CONF", "CONTAINERS_CONF_OVERRIDE", "XDG_RUNTIME_DIR", "DOCKER_HOST"];
    let settings = ["DBUS_SESSION_BUS_ADDRESS", "DISABLE_HC_SYSTEMD", "PARALLAX_STEP_DIRECTORY"];
    for name in names[..3].iter().chain(&settings) {
        ensure!(own.lines().any(|line| line.starts_with(&format!("{name}="))), "no {name} in {own}");
    }
    for (what, environment) in [("no image", none), ("run mode", run)] {
        let has = |name: &str| environment.lines().any(|line| line.starts_with(&format!("{name}=")));
        let left: Vec<_> = names.iter().chain(&settings).filter(|name| has(name)).collect();
        ensure!(left.is_empty() && has("KEPT") && has("OTHER"), "{what}: {left:?} of {environment}");
    }
    // What a user has set elsewhere stays.
    let set = ["env", "XDG_RUNTIME_DIR=/somewhere", "DBUS_SESSION_BUS_ADDRESS=disabled:", "srun", "-w", "n1", "env"];
    let kept = cluster.run("ctl", "u1", &set)?.success()?;
    ensure!(kept.stdout.contains("XDG_RUNTIME_DIR=/somewhere\n") && kept.stdout.contains("=disabled:\n"), "{kept:?}");
    Ok(())
}
