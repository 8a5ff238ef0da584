//! Options that a site sets or keeps to itself (`run.defaults`, `run.locked`).

use anyhow::ensure;
use integration_tests::cluster::Cluster;

use super::{batch_output, refused};
use crate::cluster::with_file;

tests! { cluster:
    defaults_hold_unless_the_user_has_others,
    locked_options_are_refused_in_every_form,
    a_wrong_key_is_named,
}

const CONFIG: &str = "/etc/parallax/parallax.toml";
const IMAGE: &str = "--parallax-image=debian";

/// Runs a test with keys of the section `run` on the login node, where options are typed.
fn with_keys(cluster: &Cluster, keys: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let text = format!("stores = [\"/shared/store\"]\n[run]\n{keys}\n");
    with_file(cluster, "ctl", CONFIG, Some(&text), body)
}

fn defaults_hold_unless_the_user_has_others(cluster: &Cluster) -> anyhow::Result<()> {
    let show = ["sh", "-c", "echo [$A] [$B]; ls -d /one; (: >/var/tmp/x) 2>/dev/null && echo wrote; true"];
    let run = |options: &[&str]| cluster.srun("u1", &[&["-w", "n1", IMAGE], options, &show[..]].concat())?.success();
    with_keys(cluster, "defaults = [\"readonly\", \"mount=/opt:/one\", \"env=A=site,B=site\"]", || {
        ensure!(run(&[])?.stdout == "[site] [site]\n/one\n");
        ensure!(run(&["--parallax-writable", "--parallax-env=A=own"])?.stdout == "[own] [site]\n/one\nwrote\n");
        let script = "#!/bin/sh\nsrun -Q sh -c 'echo [$A] [$B]; ls -d /one'\n";
        let said = batch_output(cluster, script, &["-w", "n1", IMAGE, "--parallax-env=A=job"])?;
        ensure!(said == "[job] [site]\n/one\n", "{said}");
        Ok(())
    })
}

fn locked_options_are_refused_in_every_form(cluster: &Cluster) -> anyhow::Result<()> {
    let said = ["the site does not permit --parallax-writable (run.locked in /etc/parallax/parallax.toml)"];
    with_keys(cluster, "defaults = [\"readonly\"]\nlocked = [\"writable\", \"readonly\"]", || {
        refused(&cluster.srun("u1", &[IMAGE, "--parallax-writable", "true"])?, &said)?;
        let srun = ["env", "PARALLAX_WRITABLE=1", "srun", IMAGE, "true"];
        refused(&cluster.run("ctl", "u1", &srun)?, &said)?;
        cluster.run("ctl", "u1", &["sh", "-c", "echo 'image = \"debian\"\nwritable = true' >own.toml"])?.success()?;
        refused(&cluster.srun("u1", &["--parallax-edf=own.toml", "true"])?, &said)?;
        cluster.run("ctl", "u1", &["rm", "own.toml"])?.success()?;
        // Other options, and steps of a job with the site's own, are as before.
        let script = "#!/bin/sh\nsrun -Q --parallax-env=A=1 sh -c '(: >/var/tmp/x) 2>/dev/null || echo $A read-only'\n";
        let said = batch_output(cluster, script, &["-w", "n1", IMAGE])?;
        ensure!(said == "1 read-only\n", "{said}");
        Ok(())
    })
}

fn a_wrong_key_is_named(cluster: &Cluster) -> anyhow::Result<()> {
    for (keys, said) in [
        (
            "defaults = [\"readonli\"]",
            "invalid run.defaults in /etc/parallax/parallax.toml: the option \"readonli\" is unknown; did you mean",
        ),
        ("locked = [\"image\"]", "invalid run.locked in /etc/parallax/parallax.toml: the option \"image\" is unknown"),
    ] {
        with_keys(cluster, keys, || refused(&cluster.srun("u1", &[IMAGE, "true"])?, &[said]))?;
    }
    Ok(())
}
