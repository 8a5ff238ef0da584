//! What a task knows of its user where the job's environment is not handed on: the same as without an image.

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::batch_output;

tests! { cluster:
    the_home_is_there_without_its_variable,
    a_home_that_the_job_names_is_there_too,
}

/// (bash sets `SHELL` itself, by the user database; an image need not have the user's shell, so there it is `/bin/sh`.)
/// Says the home by its variable, by the user database, and what is in it. `/bin/bash` looks `~` up there.
const SCRIPT: &str = "echo ${HOME-unset} ${USER-unset} ${LOGNAME-unset} ~; \
                      while IFS=: read -r name _ uid _ _ home _; do \
                      [ $uid != $UID ] || echo $name $home; done </etc/passwd; [ -O ~ ] && cd ~ && pwd";

fn the_home_is_there_without_its_variable(cluster: &Cluster) -> anyhow::Result<()> {
    let wanted = "unset unset unset /home/u1\nu1 /home/u1\n/home/u1\n";
    for export in ["--export=NONE", "--export=X=1", "--export=NIL"] {
        for image in [None, Some("--parallax-image=debian"), Some("--parallax-image=python")] {
            let options = [Some("-n1"), Some("--chdir=/"), Some(export), image];
            let options: Vec<&str> = options.into_iter().flatten().collect();
            let done = cluster.srun("u1", &[&options, &["/bin/bash", "-c", SCRIPT][..]].concat())?.success()?;
            ensure!(done.stdout == wanted, "{options:?}: {done:?}");
        }
    }
    // A batch job gets the user's own environment of the node, and its steps what srun is told.
    let script = format!("#!/bin/bash\nsrun -n1 --export=NONE --chdir=/ /bin/bash -c '{SCRIPT}'\n");
    let written = batch_output(cluster, &script, &["--export=NONE", "--parallax-image=debian"])?;
    ensure!(written.ends_with(wanted), "{written}");
    Ok(())
}

fn a_home_that_the_job_names_is_there_too(cluster: &Cluster) -> anyhow::Result<()> {
    let script = "mkdir -p other-home && cd / && HOME=/home/u1/other-home srun -n1 --parallax-image=debian \
                  bash -c '[ -O ~ ] && cd ~ && pwd && ls -d /home/u1/other-home'";
    let done = cluster.run("ctl", "u1", &["sh", "-c", script])?.success()?;
    ensure!(done.stdout == "/home/u1/other-home\n/home/u1/other-home\n", "{done:?}");
    Ok(())
}
