//! What bad input gets: one sentence that names the thing and the next step, an exit code that is not 0, an idle node. (Faults of the
//! node and the store are in [`super::faults`].)

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

use crate::cluster::with_file;

tests! { cluster:
    an_unknown_image_is_known_at_submit,
    an_unknown_image_on_the_node_alone,
    a_name_with_odd_characters,
    options_that_make_no_sense,
    an_unreadable_store,
    a_user_without_subordinate_ids,
    a_bad_configuration_at_submit_and_on_the_node,
    a_command_that_is_not_there,
    a_batch_job_says_it_in_its_output,
}

/// Makes sure that a command failed, and that exactly one line came from Parallax, with all these parts.
fn one_sentence(done: &Done, parts: &[&str]) -> anyhow::Result<()> {
    ensure!(done.code != 0, "it did not fail: {done:?}");
    let lines: Vec<&str> = done.stderr.lines().filter(|line| line.contains("parallax: ")).collect();
    ensure!(lines.len() == 1, "not one sentence: {done:?}");
    for part in parts {
        ensure!(lines[0].contains(part), "no {part:?} in {:?}", lines[0]);
    }
    let noise = done.stderr.lines().find(|line| line.contains("spank") || line.contains("slurmstepd: error"));
    ensure!(noise.is_none(), "Slurm adds noise: {done:?}");
    Ok(())
}

fn an_unknown_image_is_known_at_submit(cluster: &Cluster) -> anyhow::Result<()> {
    let parts = ["image \"pyton\" is in no store (/shared/store)", "did you mean \"python\"?", "parallax migrate"];
    let done = cluster.srun("u1", &["-N2", "--parallax-image=pyton", "true"])?;
    one_sentence(&done, &parts)?;
    ensure!(!done.stderr.contains("queued") && !done.stderr.contains("error: n1"), "a node was troubled: {done:?}");
    one_sentence(&cluster.run("ctl", "u1", &["sbatch", "--parallax-image=pyton", "--wrap", "true"])?, &parts)?;
    one_sentence(&cluster.run("ctl", "u1", &["salloc", "--parallax-image=pyton", "true"])?, &parts)
}

/// A submit host that has no configuration leaves it to the nodes.
fn an_unknown_image_on_the_node_alone(cluster: &Cluster) -> anyhow::Result<()> {
    with_file(cluster, "ctl", CONFIG, None, || {
        let done = cluster.srun("u1", &["-w", "n1", "-n3", "--parallax-image=pyton", "true"])?;
        one_sentence(&done, &["image \"pyton\" is in no store (/shared/store)", "did you mean \"python\"?"])
    })
}

fn a_name_with_odd_characters(cluster: &Cluster) -> anyhow::Result<()> {
    for name in ["a b", "a;rm -rf ~", "$(id)", "%s%n", "a\nb", "UPPER", "-x", "x:y:z", "é"] {
        let done = cluster.srun("u1", &[&format!("--parallax-image={name}"), "true"])?;
        one_sentence(&done, &["is not an image name"])?;
    }
    // A path, of a file that is none.
    let file = cluster.srun("u1", &["-w", "n1", "--parallax-image=../../etc/passwd", "true"])?;
    one_sentence(&file, &["cannot mount the SquashFS file /", "/etc/passwd", "SquashFS"])?;
    one_sentence(&cluster.srun("u1", &["--parallax-image=", "true"])?, &["must not be empty"])
}

fn options_that_make_no_sense(cluster: &Cluster) -> anyhow::Result<()> {
    let done = cluster.srun("u1", &["--parallax-image=debian", "--parallax-mode=rnu", "true"])?;
    one_sentence(&done, &["\"rnu\"", "\"run\"", "\"podman\""])?;
    one_sentence(&cluster.srun("u1", &["--parallax-mode=run", "true"])?, &["needs an image", "--parallax-image="])
}

fn an_unreadable_store(cluster: &Cluster) -> anyhow::Result<()> {
    let store = cluster.shared().join("store");
    let away = cluster.shared().join("store-away");
    fs::rename(&store, &away)?;
    let missing = cluster.srun("u1", &["--parallax-image=debian", "true"]);
    fs::rename(&away, &store)?;
    one_sentence(&missing?, &["/shared/store", "cannot be read", "tell the administrator"])?;

    fs::set_permissions(&store, Permissions::from_mode(0o777))?;
    let writable = cluster.srun("u1", &["--parallax-image=debian", "true"]);
    fs::set_permissions(&store, Permissions::from_mode(0o755))?;
    one_sentence(&writable?, &["/shared/store", "not trusted", "may write"])
}

fn a_user_without_subordinate_ids(cluster: &Cluster) -> anyhow::Result<()> {
    let done = cluster.srun("u3", &["-N1", "-n2", "--parallax-image=python", "true"])?;
    one_sentence(&done, &["\"python\"", "u3", "/etc/subuid", "ask the administrator"])?;
    // An image whose files are all root's does without them, for a container whose root is the user.
    let podman = ["--parallax-image=static", "--parallax-mode=podman", "podman", "run", "--rm", "static"];
    let done = cluster.srun("u3", &podman)?.success()?;
    ensure!(done.stdout.contains("hello"), "{done:?}");
    Ok(())
}

const CONFIG: &str = "/etc/parallax/parallax.toml";

fn a_bad_configuration_at_submit_and_on_the_node(cluster: &Cluster) -> anyhow::Result<()> {
    let unknown_key = "stores = [\"/shared/store\"]\nstoers = 1\n";
    let wrong_type = "stores = 7\n";
    for node in ["ctl", "n1"] {
        for (text, part) in [(unknown_key, "storers"), (wrong_type, "stores")] {
            let part = if part == "storers" { "stoers" } else { part };
            with_file(cluster, node, CONFIG, Some(text), || {
                let done = cluster.srun("u1", &["-w", "n1", "-n2", "--parallax-image=debian", "true"])?;
                one_sentence(&done, &[CONFIG, "line ", "the administrator must correct it"])?;
                ensure!(node == "n1" || done.stderr.contains(part) || text == wrong_type, "{done:?}");
                cluster.srun("u1", &["-w", "n1", "true"])?.success().map(drop)
            })?;
        }
    }
    Ok(())
}

fn a_command_that_is_not_there(cluster: &Cluster) -> anyhow::Result<()> {
    let done = cluster.srun("u1", &["--parallax-image=debian", "no-such-command"])?;
    ensure!(done.code == 127, "{done:?}");
    one_sentence(&done, &["\"no-such-command\"", "\"debian\""])?;
    let done = cluster.srun("u1", &["--parallax-image=debian", "/etc/passwd"])?;
    ensure!(done.code == 126, "{done:?}");
    one_sentence(&done, &["/etc/passwd", "Permission denied"])
}

fn a_batch_job_says_it_in_its_output(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.service("n1", "stop", "agent")?;
    let submit =
        ["sbatch", "--wait", "-w", "n1", "--output=failed.out", "--parallax-image=debian", "--wrap", "echo ran"];
    let done = cluster.run("ctl", "u1", &submit);
    cluster.service("n1", "start", "agent")?;
    let output = cluster.run("ctl", "u1", &["cat", "failed.out"])?;
    let done = done?;
    ensure!(done.code != 0, "{done:?}");
    ensure!(output.stdout.contains("parallax: node n1: the Parallax agent is not running"), "{output:?}");
    ensure!(!output.stdout.contains("ran\n"), "the script ran without its image: {output:?}");
    Ok(())
}
