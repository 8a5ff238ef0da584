//! Images that are in no store are pulled by Podman, where the configuration says so.

use std::fs;
use std::process::Stdio;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;

use crate::cluster::backend::{CONFIG, STORE, with_config};
use crate::cluster::with_file;

tests! { cluster:
    a_missing_image_is_pulled_if_told,
    what_cannot_be_pulled_is_told,
    steps_share_a_container_of_a_pulled_image,
}

/// The registry on n1, for as long as this value lives.
pub(super) struct Registry {
    process: std::process::Child,
}

pub(super) const REGISTRY: &str = "127.0.0.1:5000";

impl Registry {
    /// Starts it, with the image `python` as `some/thing:1`.
    pub(super) fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let script = "
            rm -rf /tmp/registry; mkdir /tmp/registry; cd /tmp/registry
            printf 'version: 0.1\\nstorage: { filesystem: { rootdirectory: /tmp/registry } }\\nhttp: { addr: REGISTRY }\\n' >config.yml
            exec 3< <(exec docker-registry serve config.yml 2>&1)
            registry=$!
            trap 'kill $registry; rm -rf /tmp/registry' EXIT
            sed '/listening on/q' <&3 >/dev/null
            skopeo copy --quiet --dest-tls-verify=false oci:/images/python docker://REGISTRY/some/thing:1
            echo ready
            cat >/dev/null
        "
        .replace("REGISTRY", REGISTRY);
        let mut process = cluster
            .command("n1", "root", &["bash", "-euc", &script])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let mut line = String::new();
        let output = process.stdout.take().context("no output")?;
        std::io::BufRead::read_line(&mut std::io::BufReader::new(output), &mut line)?;
        ensure!(line == "ready\n", "the registry did not start");
        Ok(Self { process })
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        // It goes with the end of its input.
        drop(self.process.stdin.take());
        let _ = self.process.wait();
    }
}

/// Runs `body` with a registry on n1, and a configuration on n1 and ctl by which missing images are pulled.
fn with_pulling(cluster: &Cluster, body: impl FnOnce() -> anyhow::Result<()>) -> anyhow::Result<()> {
    let text = format!("{STORE}[step]\non_missing = \"pull\"\n");
    let trusted = format!("[[registry]]\nlocation = \"{REGISTRY}\"\ninsecure = true\n");
    let trusted_at = cluster.path_on("n1", "/etc/containers/registries.conf.d/loopback.conf")?;
    let registry = Registry::start(cluster)?;
    fs::write(&trusted_at, trusted)?;
    let result = with_file(cluster, "ctl", CONFIG, Some(&text), || with_config(cluster, "n1", &text, body));
    fs::remove_file(trusted_at)?;
    drop(registry);
    result
}

fn a_missing_image_is_pulled_if_told(cluster: &Cluster) -> anyhow::Result<()> {
    let image = format!("{REGISTRY}/some/thing:1");
    let option = format!("--parallax-image={image}");
    let notice = format!("parallax: the image \"{image}\" is in no store (/shared/store), so Podman pulls it");
    with_pulling(cluster, || {
        let script = "test -e /opt/tool && pwd && id -u && echo $GREETING && stat -c %u:%g /etc/shadow";
        let run = cluster.srun("u1", &["-w", "n1", "-n3", &option, "sh", "-c", script])?.success()?;
        let lines: Vec<&str> = run.stdout.lines().collect();
        ensure!(lines.len() == 12 && lines.iter().filter(|line| **line == "0:42").count() == 3, "{run:?}");
        ensure!(lines.iter().filter(|line| **line == "1001").count() == 3, "{run:?}");
        ensure!(run.stderr.matches("parallax: ").count() == 1 && run.stderr.contains(&notice), "{run:?}");

        let podman = ["-w", "n1", "-n2", &option, "--parallax-mode=podman", "podman", "run", "--rm", &image, "tool"];
        let podman = cluster.srun("u1", &podman)?.success()?;
        ensure!(podman.stdout.matches("tool: ").count() == 2, "{podman:?}");
        ensure!(podman.stderr.matches("parallax: ").count() == 1 && podman.stderr.contains(&notice), "{podman:?}");

        let wrap = "hostname; srun test -e /opt/tool && echo in the image";
        let batch = ["sbatch", "--wait", "-w", "n1", "--output=pulled.out", &option, "--wrap", wrap];
        let batch = cluster.run("ctl", "u1", &batch)?;
        let output = cluster.run("ctl", "u1", &["cat", "pulled.out"])?.stdout;
        ensure!(batch.code == 0 && output.contains("\nin the image\n") && output.contains("\nn1\n"), "{output}");
        ensure!(output.matches(&notice).count() == 2, "{output}");

        // What a store has comes from there.
        let stored = cluster.srun("u1", &["-w", "n1", "--parallax-image=static", "hello"])?.success()?;
        ensure!(!stored.stderr.contains("parallax: "), "{stored:?}");
        Ok(())
    })
}

fn what_cannot_be_pulled_is_told(cluster: &Cluster) -> anyhow::Result<()> {
    with_pulling(cluster, || {
        let nothing = format!("--parallax-image={REGISTRY}/no/thing:1");
        let done = cluster.srun("u1", &["-w", "n1", "-n2", &nothing, "true"])?;
        ensure!(done.code == 125 && done.stderr.matches("parallax: ").count() == 2, "{done:?}");
        ensure!(done.stderr.contains("cannot pull the image") && done.stderr.contains("manifest unknown"), "{done:?}");
        // Nobody can pull an image id.
        let id = format!("--parallax-image={}", "0123456789abcdef".repeat(4));
        let done = cluster.srun("u1", &["-w", "n1", &id, "true"])?;
        ensure!(done.code != 0 && done.stderr.contains("is in no store (/shared/store)"), "{done:?}");
        ensure!(!done.stderr.contains("Podman pulls"), "{done:?}");
        Ok(())
    })?;
    // By default a missing image is an error.
    let image = format!("--parallax-image={REGISTRY}/some/thing:1");
    let done = cluster.srun("u1", &["-w", "n1", &image, "true"])?;
    ensure!(done.code != 0 && done.stderr.contains("is in no store (/shared/store)"), "{done:?}");
    Ok(())
}

fn steps_share_a_container_of_a_pulled_image(cluster: &Cluster) -> anyhow::Result<()> {
    with_pulling(cluster, || {
        let step = format!("srun -Q -n1 --parallax-name=a --parallax-image={REGISTRY}/some/thing:1");
        let script = format!(
            "{step} sh -c 'test -e /opt/tool && echo $GREETING >/var/tmp/greeting'\n\
             {step} sh -c 'cat /var/tmp/greeting; stat -c %u:%g /etc/shadow; echo $GREETING; pwd'"
        );
        let submit = ["sbatch", "--wait", "--quiet", "-w", "n1", "--output=pulled.out", "--wrap", &script];
        let done = cluster.run("ctl", "u1", &submit);
        let out = cluster.home("u1").join("pulled.out");
        let said = fs::read_to_string(&out)?;
        fs::remove_file(out)?;
        done?.success().with_context(|| said.clone())?;
        let lines: Vec<&str> = said.lines().filter(|line| !line.starts_with("parallax: ")).collect();
        let greeting = "hello, world = everyone";
        ensure!(lines == [greeting, "0:42", greeting, "/home/u1"], "{said}");
        Ok(())
    })
}
