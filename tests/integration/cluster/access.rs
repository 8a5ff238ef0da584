//! A store's access rights hold for the user of a step: its groups, its ACLs, its closed directories and files.

use std::fs;
use std::path::PathBuf;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};
use integration_tests::held::HeldStep;

use super::backend::with_config;
use super::daemon::python;
use crate::cluster::foreign::ForeignStore;
use crate::cluster::with_file;

tests! { cluster:
    store_of_another_group_is_refused,
    batch_script_is_refused,
    closed_files_of_mounted_layers_are_refused,
    acl_grants_and_denies,
    another_tools_store_is_closed_too,
    private_store_of_another_user_yields_nothing,
    closed_store_never_leads_to_a_pull,
    slurms_groups_decide,
}

const CONFIG: &str = "/etc/parallax/parallax.toml";
const IMAGE: &str = "--parallax-image=licensed/app:1";
/// What is said to a user without access.
const DENIED: &str = "permission denied on the store /shared/licensed";

/// A store beside the cluster's, removed with this value.
struct ClosedStore(PathBuf);

impl ClosedStore {
    /// A store that only root and the group "licensed", of which u1 is a member, may enter; with `licensed/app:1` in it, an image that
    /// no other store has.
    fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let store = Self(cluster.shared().join("licensed"));
        cluster.shell(
            "ctl",
            "install -d -m 0750 -g licensed /shared/licensed
             rm -rf /tmp/licensed; cp -r /images/debian /tmp/licensed
             umoci config --image /tmp/licensed:$(umoci ls --layout /tmp/licensed) --config.env LICENSED=1
             parallax --quiet --store /shared/licensed migrate oci:/tmp/licensed --name licensed/app:1
             rm -r /tmp/licensed",
        )?;
        Ok(store)
    }
}

impl Drop for ClosedStore {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            eprintln!("{} is left: {error}", self.0.display());
        }
    }
}

/// Runs `body` with a closed store, which ctl and n1 are configured to use.
fn with_closed_store(cluster: &Cluster, more: &str, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let _store = ClosedStore::new(cluster)?;
    let text = format!("stores = [\"/shared/licensed\", \"/shared/store\"]\n{more}");
    with_file(cluster, "ctl", CONFIG, Some(&text), || with_config(cluster, "n1", &text, body))
}

fn run(cluster: &Cluster, user: &str, more: &[&str]) -> anyhow::Result<Done> {
    let mut arguments = vec!["-w", "n1"];
    arguments.extend(more);
    cluster.srun(user, &arguments)
}

fn ensure_denied(done: &Done) -> anyhow::Result<()> {
    ensure!(done.code == 125 && done.stdout.is_empty(), "{done:?}");
    ensure!(done.stderr.matches("parallax: ").count() == 1 && done.stderr.contains(DENIED), "{done:?}");
    ensure!(done.stderr.contains("ask the store's owner or the administrator for access"), "{done:?}");
    Ok(())
}

/// That u1 gets the image and u2 does not, in both modes.
fn ensure_open_to_u1_alone(cluster: &Cluster) -> anyhow::Result<()> {
    for more in [&["-n2", IMAGE, "true"][..], &[IMAGE, "--parallax-mode=podman", "true"]] {
        run(cluster, "u1", more)?.success()?;
        ensure_denied(&run(cluster, "u2", more)?)?;
    }
    Ok(())
}

fn store_of_another_group_is_refused(cluster: &Cluster) -> anyhow::Result<()> {
    for more in ["", "[agent]\nmounts = \"fuse\"\n"] {
        with_closed_store(cluster, more, || {
            ensure_open_to_u1_alone(cluster)?;
            // With the layers mounted for somebody else, too.
            let step = HeldStep::start(cluster, "u1", &["-w", "n1", IMAGE], 1, "echo started")?;
            ensure_open_to_u1_alone(cluster)?;
            step.finish()?;
            // Names of the store are its members' to see.
            let misspelt = ["--parallax-image=licensed/ap:1", "true"];
            let (member, other) = (run(cluster, "u1", &misspelt)?, run(cluster, "u2", &misspelt)?);
            ensure!(member.stderr.contains("did you mean \"licensed/app:1\""), "{member:?}");
            ensure_denied(&other)?;
            ensure!(!other.stderr.contains("licensed/app:1"), "{other:?}");
            // Other stores are not concerned.
            run(cluster, "u2", &["--parallax-image=debian", "true"])?.success().map(drop)
        })?;
    }
    Ok(())
}

fn batch_script_is_refused(cluster: &Cluster) -> anyhow::Result<()> {
    with_closed_store(cluster, "", || {
        for (user, ran) in [("u1", true), ("u2", false)] {
            let wrap = "echo the script ran; srun true && echo the step ran";
            let submit = ["sbatch", "--wait", "-w", "n1", "--output=licensed.out", IMAGE, "--wrap", wrap];
            let done = cluster.run("ctl", user, &submit)?;
            let output = cluster.run("ctl", user, &["cat", "licensed.out"])?.success()?.stdout;
            ensure!((done.code == 0) == ran && output.contains("the step ran") == ran, "{user}: {done:?} {output}");
            ensure!(output.contains("the script ran") == ran && output.contains(DENIED) != ran, "{user}: {output}");
        }
        Ok(())
    })
}

/// The rights of what is below the store's directory: u1's step has the layers mounted all the time.
fn closed_files_of_mounted_layers_are_refused(cluster: &Cluster) -> anyhow::Result<()> {
    with_closed_store(cluster, "", || {
        cluster.shell("ctl", "chmod 0755 /shared/licensed")?;
        run(cluster, "u2", &[IMAGE, "true"])?.success()?;
        let step = HeldStep::start(cluster, "u1", &["-w", "n1", IMAGE], 1, "echo started")?;
        for (closed, open) in [
            ("parallax/layers", "0755"),
            ("parallax/layers/*.squash", "0644"),
            ("parallax/images/*.json", "0644"),
            ("parallax/names", "0755"),
        ] {
            let close = format!("cd /shared/licensed; chgrp licensed {closed}; chmod o= {closed}");
            cluster.shell("ctl", &close)?;
            ensure_open_to_u1_alone(cluster).map_err(|error| error.context(closed))?;
            cluster.shell("ctl", &format!("cd /shared/licensed; chgrp root {closed}; chmod {open} {closed}"))?;
            run(cluster, "u2", &[IMAGE, "true"])?.success()?;
        }
        step.finish()
    })
}

fn acl_grants_and_denies(cluster: &Cluster) -> anyhow::Result<()> {
    with_closed_store(cluster, "", || {
        cluster.shell("ctl", "setfacl -m u:u2:r-x /shared/licensed")?;
        for user in ["u1", "u2"] {
            run(cluster, user, &[IMAGE, "true"])?.success()?;
        }
        cluster.shell("ctl", "setfacl -m u:u1:---,u:u2:--- /shared/licensed")?;
        for user in ["u1", "u2"] {
            ensure_denied(&run(cluster, user, &[IMAGE, "true"])?)?;
        }
        // A group that everybody else has more rights than.
        cluster.shell("ctl", "setfacl -b /shared/licensed; chmod 0705 /shared/licensed")?;
        ensure_denied(&run(cluster, "u1", &[IMAGE, "true"])?)?;
        run(cluster, "u2", &[IMAGE, "true"])?.success().map(drop)
    })
}

fn another_tools_store_is_closed_too(cluster: &Cluster) -> anyhow::Result<()> {
    let store = ForeignStore::new(cluster, "licensed")?;
    cluster.shell("ctl", "chgrp licensed /shared/licensed; chmod 0750 /shared/licensed")?;
    let text = format!("stores = [\"{}\"]\n", store.path);
    with_file(cluster, "ctl", CONFIG, Some(&text), || {
        with_config(cluster, "n1", &text, || {
            for image in ["--parallax-image=go:1", "--parallax-image=hpc:1"] {
                run(cluster, "u1", &[image, "true"])?.success()?;
                ensure_denied(&run(cluster, "u2", &[image, "true"])?)?;
                let step = HeldStep::start(cluster, "u1", &["-w", "n1", image], 1, "echo started")?;
                ensure_denied(&run(cluster, "u2", &[image, "true"])?)?;
                step.finish()?;
            }
            Ok(())
        })
    })
}

/// A user's own store, in which the configuration of an image has a secret.
fn private_store_of_another_user_yields_nothing(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.shell(
        "ctl",
        "install -d -m 0700 -o u1 -g u1 /shared/private /tmp/image
         cp -r /images/static/. /tmp/image
         umoci config --image /tmp/image:$(umoci ls --layout /tmp/image) --config.env API_KEY=hush
         chown -R u1:u1 /tmp/image",
    )?;
    let migrate = ["parallax", "--quiet", "--store", "/shared/private", "migrate", "oci:/tmp/image", "--name", "own:1"];
    let migrated = cluster.run("ctl", "u1", &migrate)?.success();
    fs::remove_dir_all(cluster.path_on("ctl", "/tmp/image")?)?;
    migrated?;
    let text = "stores = [\"/shared/private\"]\n";
    let show = "podman image inspect own:1; cat $(dirname $CONTAINERS_STORAGE_CONF)/store/overlay-images/*/*";
    let arguments = ["-w", "n1", "--parallax-image=own:1", "--parallax-mode=podman", "sh", "-c", show];
    let tested = with_file(cluster, "ctl", CONFIG, Some(text), || {
        with_config(cluster, "n1", text, || {
            let own = cluster.srun("u1", &arguments)?.success()?;
            ensure!(own.stdout.matches("API_KEY=hush").count() >= 2, "{own:?}");
            let other = cluster.srun("u2", &arguments)?;
            ensure!(other.code == 125 && other.stdout.is_empty(), "{other:?}");
            ensure!(other.stderr.contains("permission denied on the store /shared/private"), "{other:?}");
            ensure!(!other.stderr.contains("hush"), "{other:?}");
            Ok(())
        })
    });
    fs::remove_dir_all(cluster.shared().join("private"))?;
    tested
}

fn closed_store_never_leads_to_a_pull(cluster: &Cluster) -> anyhow::Result<()> {
    with_closed_store(cluster, "[step]\non_missing = \"pull\"\n", || {
        ensure_denied(&run(cluster, "u2", &[IMAGE, "true"])?)?;
        // Whatever the name: only the closed store knows which ones it has.
        ensure_denied(&run(cluster, "u2", &["--parallax-image=no/such:1", "true"])?)?;
        run(cluster, "u1", &[IMAGE, "true"])?.success().map(drop)
    })
}

/// The list of groups that Slurm gives a step decides, as it does for the step's tasks; without one, the user database.
fn slurms_groups_decide(cluster: &Cluster) -> anyhow::Result<()> {
    with_closed_store(cluster, "", || {
        let script = r#"
cases = [(1001, [2001]), (1001, []), (1002, [2001]), (1002, []), (1001, None), (1002, None)]
for number, (uid, groups) in enumerate(cases):
    message = request(60 + number, image="licensed/app:1", uid=uid)
    if groups is not None:
        message["lease"]["groups"] = groups
    answer = ask(message)
    print(uid, groups, list(answer)[0])
    refused = answer.get("refused")
    assert refused is None or "permission denied on the store /shared/licensed" in refused["reason"], answer
message = request(70, image="licensed/app:1")
message["lease"]["groups"] = [4294967295]
print("taken on" if "cannot take on" in ask(message)["refused"]["reason"] else "granted")
"#;
        let said = python(cluster, "root", script)?;
        let expected = "1001 [2001] granted\n1001 [] refused\n1002 [2001] granted\n1002 [] refused\n\
                        1001 None granted\n1002 None refused\ntaken on\n";
        ensure!(said == expected, "{said}");
        integration_tests::clean::wait_for_no_lease(cluster, "n1")
    })
}
