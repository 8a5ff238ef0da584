//! `parallax doctor` on nodes that are well, and on some that are not.

use std::fs;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use integration_tests::images;
use serde_json::Value;

use crate::cluster::with_file;

tests! { cluster:
    a_node_that_is_well,
    what_a_user_and_a_login_node_see,
    a_bad_configuration_and_bad_stores,
    no_agent_and_no_podman,
    a_plugin_that_is_not_loaded,
    a_kernel_that_lacks_something,
}

const CONFIG: &str = "/etc/parallax/parallax.toml";
const PLUGSTACK: &str = "/etc/slurm/plugstack.conf";
const STORE: &str = "stores = [\"/shared/store\"]\n";

/// What the doctor says: the exit code and the checks.
fn doctor(cluster: &Cluster, node: &str, user: &str, options: &[&str]) -> anyhow::Result<(i32, Vec<Value>)> {
    let mut line = vec!["parallax", "doctor", "--json"];
    line.extend(options);
    let done = cluster.run(node, user, &line)?;
    let checks: Vec<Value> = serde_json::from_str(&done.stdout).with_context(|| format!("{done:?}"))?;
    for check in &checks {
        let is_ok = check["state"] == "ok";
        ensure!(check["remedy"].is_null() == is_ok, "a check without its remedy: {check}");
    }
    let problems = checks.iter().filter(|check| check["state"] == "problem").count();
    ensure!((done.code == 1) == (problems > 0) && done.code < 2, "{done:?}");
    Ok((done.code, checks))
}

/// That there is a problem of a topic with these words, in the finding or in the remedy.
fn problem(cluster: &Cluster, user: &str, options: &[&str], topic: &str, words: &[&str]) -> anyhow::Result<()> {
    let (code, checks) = doctor(cluster, "n1", user, options)?;
    let fits = |check: &&Value| {
        let text = format!("{} {}", check["finding"], check["remedy"]);
        check["topic"] == topic && check["state"] == "problem" && words.iter().all(|word| text.contains(word))
    };
    ensure!(code == 1 && checks.iter().any(|check| fits(&check)), "no problem of {topic} with {words:?}: {checks:#?}");
    Ok(())
}

fn a_node_that_is_well(cluster: &Cluster) -> anyhow::Result<()> {
    let (code, checks) = doctor(cluster, "n1", "root", &["--user", "u1"])?;
    ensure!(code == 0 && checks.iter().all(|check| check["state"] == "ok"), "{checks:#?}");
    for topic in ["configuration", "kernel", "podman", "users", "slurm", "agent", "store"] {
        ensure!(checks.iter().any(|check| check["topic"] == topic), "nothing of {topic}");
    }
    let said = cluster.run("n1", "root", &["parallax", "doctor"])?.success()?;
    let images = format!("{} images", images::IMAGES.len());
    for part in ["layers are mounted by the kernel", "kernel SquashFS with zstd", &images, "no problem found"] {
        ensure!(said.stdout.contains(part), "no {part:?}: {said:?}");
    }
    Ok(())
}

fn what_a_user_and_a_login_node_see(cluster: &Cluster) -> anyhow::Result<()> {
    let (code, checks) = doctor(cluster, "n1", "u1", &[])?;
    let warnings: Vec<&Value> = checks.iter().filter(|check| check["state"] != "ok").collect();
    ensure!(code == 0 && warnings.len() == 1, "{warnings:#?}");
    ensure!(warnings[0]["finding"].as_str().is_some_and(|text| text.contains("only root can try")), "{warnings:#?}");
    ensure!(checks.iter().any(|check| check["finding"] == "SquashFS by FUSE"), "{checks:#?}");

    problem(cluster, "u3", &[], "users", &["/etc/subuid has no ids for u3", "usermod --add-subuids"])?;
    problem(cluster, "root", &["--user", "u3"], "users", &["/etc/subgid has no ids for u3", "--add-subgids"])?;
    problem(cluster, "root", &["--user", "nobody-at-all"], "users", &["no user nobody-at-all"])?;

    let (_, checks) = doctor(cluster, "ctl", "u1", &[])?;
    ensure!(checks.iter().any(|check| check["topic"] == "slurm" && check["state"] == "ok"), "{checks:#?}");
    Ok(())
}

fn a_bad_configuration_and_bad_stores(cluster: &Cluster) -> anyhow::Result<()> {
    with_file(cluster, "n1", CONFIG, None, || {
        problem(cluster, "root", &[], "configuration", &["cannot read", CONFIG])
    })?;
    with_file(cluster, "n1", CONFIG, Some("stores = 7\n"), || {
        problem(cluster, "root", &[], "configuration", &[CONFIG, "line 1"])
    })?;
    let store = |path: &str, words: &[&str]| {
        let text = format!("stores = [\"{path}\"]\n");
        with_file(cluster, "n1", CONFIG, Some(&text), || problem(cluster, "root", &[], "store", words))
    };
    store("/shared/none", &["/shared/none", "No such file", "mount its file system"])?;
    cluster.shell("ctl", "install -d -m 0777 /shared/open /shared/open/inner; chmod 0755 /shared/open/inner")?;
    let tested = store("/shared/open", &["others than its owner may write", "chmod go-w /shared/open"])
        .and_then(|()| store("/shared/open/inner", &["can replace the store", "chmod go-w /shared/open"]));
    cluster.shell("ctl", "rm -r /shared/open")?;
    tested
}

fn no_agent_and_no_podman(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.service("n1", "stop", "agent")?;
    let tested = problem(cluster, "root", &[], "agent", &["systemctl enable --now parallax-agent"]);
    cluster.service("n1", "start", "agent")?;
    tested?;
    let text = format!("{STORE}[run]\npodman = \"/none/podman\"\n");
    with_file(cluster, "n1", CONFIG, Some(&text), || {
        problem(cluster, "root", &[], "podman", &["/none/podman cannot be started", "install podman"])
    })
}

fn a_plugin_that_is_not_loaded(cluster: &Cluster) -> anyhow::Result<()> {
    let directory = "/tmp/doctor";
    let on_node = cluster.path_on("n1", directory)?;
    fs::create_dir(&on_node)?;
    let list = |line: &str| -> anyhow::Result<()> { Ok(fs::write(on_node.join("plugstack.conf"), line)?) };
    let option = format!("{directory}/plugstack.conf");
    let told = |words: &[&str]| problem(cluster, "root", &["--plugstack", &option], "slurm", words);
    let tests = || -> anyhow::Result<()> {
        told(&["plugstack.conf cannot be read"])?;
        list("required /usr/lib/other.so\n")?;
        told(&["does not name spank_parallax.so", "add the line: required"])?;
        list("required /none/spank_parallax.so\n")?;
        told(&["/none/spank_parallax.so cannot be read"])?;
        list("required /usr/lib/parallax/spank_parallax.so launcher=/none/launch\n")?;
        told(&["the launcher /none/launch is not here"])?;
        // The plugin as if it were built for another Slurm: the number is in it once, as data.
        let version = cluster.shell("n1", "srun --version")?;
        let mut numbers = version.split([' ', '.', '\n']).filter_map(|word| word.parse::<u32>().ok());
        let number = numbers.by_ref().take(3).fold(0, |number, part| (number << 8) | part).to_le_bytes();
        let mut plugin = fs::read(cluster.path_on("n1", "/usr/lib/parallax/spank_parallax.so")?)?;
        for at in 0..plugin.len() - 4 {
            if plugin[at..at + 4] == number {
                plugin[at + 2] = 20;
            }
        }
        fs::write(on_node.join("spank_parallax.so"), plugin)?;
        list(&format!("required {directory}/spank_parallax.so\n"))?;
        told(&["is for Slurm 20.", "Slurm does not load it", "build it against the headers"])?;
        told(&["spank_parallax_step.so cannot be read", "together, from one release"])?;
        fs::write(on_node.join("spank_parallax_step.so"), "another one")?;
        told(&["spank_parallax_step.so is of another release than the plugin", "together, from one release"])
    };
    let tested = tests();
    fs::remove_dir_all(on_node)?;
    tested?;
    with_file(cluster, "n1", PLUGSTACK, Some("optional /usr/lib/parallax/spank_parallax.so\n"), || {
        let (code, checks) = doctor(cluster, "n1", "root", &[])?;
        let warned = checks.iter().any(|check| check["topic"] == "slurm" && check["state"] == "warning");
        ensure!(code == 0 && warned, "{checks:#?}");
        Ok(())
    })
}

fn a_kernel_that_lacks_something(cluster: &Cluster) -> anyhow::Result<()> {
    let hidden = |devices: &str, body: &dyn Fn() -> anyhow::Result<()>| -> anyhow::Result<()> {
        cluster.shell("n1", &format!("for device in {devices}; do mount --bind /dev/null $device; done"))?;
        let result = body();
        cluster.shell("n1", &format!("umount {devices}"))?;
        result
    };
    hidden("/dev/loop-control", &|| {
        // FUSE is there.
        let (code, checks) = doctor(cluster, "n1", "root", &[])?;
        let says = |state: &str, part: &str| {
            checks.iter().any(|check| {
                check["state"] == state && check["finding"].as_str().is_some_and(|text| text.contains(part))
            })
        };
        ensure!(code == 0 && says("warning", "no kernel SquashFS"), "{checks:#?}");
        ensure!(says("ok", "layers are mounted by FUSE"), "{checks:#?}");
        with_file(cluster, "n1", CONFIG, Some(&format!("{STORE}[agent]\nmounts = \"native\"\n")), || {
            problem(cluster, "root", &[], "kernel", &["layers cannot be mounted", "no kernel SquashFS"])
        })
    })?;
    hidden("/dev/loop-control /dev/fuse", &|| {
        problem(cluster, "root", &[], "kernel", &["no SquashFS by FUSE", "open /dev/fuse to users"])
    })
}
