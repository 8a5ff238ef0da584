//! Chunks in a registry, beside the image: Debian's docker-registry, which asks for a password.

use std::fs;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, ChildStdout, Stdio};

use anyhow::{Context as _, ensure};
use integration_tests::cluster::Cluster;
use integration_tests::held::HeldStep;
use integration_tests::lazy_service::LazyService;
use serde_json::Value;

use super::backend::with_config;
use super::lazy::{end_reading, expected, middle_chunk, publish, start_reading, wait_for_text};

tests! { cluster:
    a_step_reads_an_image_from_a_registry,
}

const NODE: &str = "n1";
const DIRECTORY: &str = "/run/registry-test";
const CONFIG: &str = "stores = [\"/shared/lazy\"]\n[lazy]\nenabled = true\nsocket = \"/run/lazy/socket\"\ncache = \"/run/lazy/cache\"\n\
    sources = [\"docker://127.0.0.1:5000/other/thing\", \"docker://127.0.0.1:5000/some/thing\", \"/shared/aside/default.castr\"]\n\
    insecure_registries = [\"127.0.0.1:5000\"]\nregistry_credentials = \"/run/registry-test/node.json\"\ntimeout = 60\n";

/// Starts the registry at "start", and kills it at "kill".
const SERVER: &str = r#"
    cd /run/registry-test
    start() {
        exec 3< <(exec docker-registry serve config.yml 2>&1)
        registry=$!
        sed '/listening on/q' <&3 >/dev/null
        cat <&3 >/dev/null &
    }
    trap 'kill -KILL $registry 2>/dev/null' EXIT
    while read -r word; do
        case $word in start) start ;; kill) kill -KILL $registry ;; esac
        echo "$word"
    done
"#;

/// The registry's settings, and the credentials of the administrator (`admin:secret`) and of the node.
const SETTINGS: &str = r#"
    rm -rf /run/registry-test; mkdir /run/registry-test; cd /run/registry-test
    echo 'admin:$2y$04$1WmjudzpA2zdZ4k8kk7IwuBpTEe1fzooBzP9RqifwsCjPg9w.5uIG' >passwords
    cat >config.yml <<END
version: 0.1
storage: { filesystem: { rootdirectory: /run/registry-test/data } }
http: { addr: "127.0.0.1:5000" }
auth: { htpasswd: { realm: test, path: /run/registry-test/passwords } }
END
    echo '{"auths": {"127.0.0.1:5000": {"auth": "YWRtaW46c2VjcmV0"}}}' >auth.json
    umask 077
    echo '{"auths": {"127.0.0.1:5000": {"auth": "YWRtaW46d3Jvbmc="}}}' >node.json
    chown 65534:65534 node.json
    chmod 711 .
"#;

struct Registry {
    child: Child,
    output: BufReader<ChildStdout>,
}

impl Registry {
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        cluster.shell(NODE, SETTINGS)?;
        let mut command = cluster.command(NODE, "root", &["bash", "-uc", SERVER]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
        let output = BufReader::new(child.stdout.take().context("no output")?);
        let mut registry = Self { child, output };
        registry.send("start")?;
        Ok(registry)
    }

    fn send(&mut self, word: &str) -> anyhow::Result<()> {
        writeln!(self.child.stdin.as_mut().context("no input")?, "{word}")?;
        let mut line = String::new();
        self.output.read_line(&mut line)?;
        ensure!(line.trim() == word, "the registry's script said {line:?}");
        Ok(())
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        drop(self.child.stdin.take());
        let _ = self.child.wait();
    }
}

/// Runs `parallax chunk --push` on the node with the registry.
fn push(cluster: &Cluster, to: &str) -> anyhow::Result<String> {
    let push = format!(
        "parallax --store /shared/lazy chunk --push docker://127.0.0.1:5000/{to} --tls-verify=false \
         --authfile {DIRECTORY}/auth.json python 2>&1"
    );
    cluster.shell(NODE, &push)
}

fn sources(cluster: &Cluster) -> anyhow::Result<Vec<Value>> {
    let status: Value = serde_json::from_str(&cluster.shell(NODE, "parallax status --lazy --json")?)?;
    Ok(status["sources"].as_array().context("no sources")?.clone())
}

fn a_step_reads_an_image_from_a_registry(cluster: &Cluster) -> anyhow::Result<()> {
    let expected = expected(cluster, "n2")?;
    publish(cluster, false)?;
    let tested = Registry::start(cluster).and_then(|mut registry| {
        push_beside_the_image(cluster)?;
        cluster
            .shell("ctl", "mkdir /shared/aside; mv /shared/lazy/parallax/layers/default.castr /shared/aside/away")?;
        with_config(cluster, NODE, CONFIG, || read_while_the_registry_is_down(cluster, &mut registry, &expected))?;
        // Another agent has no layer yet.
        with_config(cluster, NODE, CONFIG, || read_with_a_corrupt_chunk(cluster, &expected))
    });
    cluster.shell(NODE, &format!("rm -rf {DIRECTORY}"))?;
    cluster.shell("ctl", "rm -rf /shared/lazy /shared/aside")?;
    tested
}

/// The image stays what it was, for stock tools too.
fn push_beside_the_image(cluster: &Cluster) -> anyhow::Result<()> {
    let missing = push(cluster, "some/thing:1");
    ensure!(missing.is_err_and(|error| format!("{error:#}").contains("push the image there first")));
    let copy = format!(
        "skopeo copy --quiet --dest-authfile {DIRECTORY}/auth.json --dest-tls-verify=false oci:/images/python docker://127.0.0.1:5000/"
    );
    cluster.shell(NODE, &format!("{copy}some/thing:1"))?;
    let inspect = format!(
        "skopeo inspect --raw --authfile {DIRECTORY}/auth.json --tls-verify=false docker://127.0.0.1:5000/some/thing:1 | sha256sum"
    );
    let before = cluster.shell(NODE, &inspect)?;
    let other = push(cluster, "some/thing:2");
    ensure!(other.is_err(), "{other:?}");
    let pushed = push(cluster, "some/thing:1")?;
    ensure!(pushed.contains("the chunks of 5 layers are in the registry"), "{pushed}");
    let again = push(cluster, "some/thing:1")?;
    ensure!(again.contains("nothing to do"), "{again}");
    ensure!(cluster.shell(NODE, &inspect)? == before, "the image has changed");
    let left = cluster.shell("ctl", "ls -A /shared/lazy/parallax/tmp")?;
    ensure!(left.is_empty(), "left in the store: {left}");
    let podman = format!(
        "podman='podman --root {DIRECTORY}/podman --runroot {DIRECTORY}/podman-run --storage-driver vfs'
        $podman pull -q --authfile {DIRECTORY}/auth.json --tls-verify=false 127.0.0.1:5000/some/thing:1 >/dev/null
        $podman history -q 127.0.0.1:5000/some/thing:1 | wc -l
        rm -rf {DIRECTORY}/podman {DIRECTORY}/podman-run"
    );
    let history: usize = cluster.shell(NODE, &podman)?.trim().parse()?;
    ensure!(history >= 5, "podman history has {history} lines");
    Ok(())
}

/// With a wrong password nothing is read; with the right one all of it, though the registry is killed meanwhile.
fn read_while_the_registry_is_down(cluster: &Cluster, registry: &mut Registry, expected: &str) -> anyhow::Result<()> {
    let _service = LazyService::start(cluster, NODE)?;
    let done = cluster.srun("u1", &["-w", NODE, "--parallax-image=python", "true"])?;
    let part = "docker://127.0.0.1:5000/some/thing: HTTP status 401";
    ensure!(done.code != 0 && done.stderr.contains(part), "no {part:?} in {done:?}");
    let doctor = cluster.shell(NODE, "parallax doctor || true")?;
    let part = "came from docker://127.0.0.1:5000/some/thing: HTTP status 401";
    ensure!(doctor.contains(part), "no {part:?} in {doctor}");
    // The password is replaced while the worker runs.
    cluster.shell(NODE, &format!("cat {DIRECTORY}/auth.json >{DIRECTORY}/node.json"))?;
    // The largest layer cannot be complete; the start needs nothing of this.
    change_a_chunk(cluster)?;
    let step = HeldStep::start(cluster, "u1", &["-w", NODE, "--parallax-image=python"], 1, "echo begun")?;
    registry.send("kill")?;
    let reading = start_reading(cluster, NODE)?;
    wait_for_text(&cluster.path_on(NODE, "/run/lazy/log")?, 0, "readers wait")?;
    change_a_chunk(cluster)?;
    registry.send("start")?;
    end_reading(reading, expected)?;
    let sources = sources(cluster)?;
    // The first repository does not have the image.
    ensure!(sources[0]["chunks"] == 0 && sources[1]["chunks"].as_u64() > Some(500), "{sources:?}");
    step.finish()
}

/// A chunk that is corrupt in the registry comes from the next chunk store.
fn read_with_a_corrupt_chunk(cluster: &Cluster, expected: &str) -> anyhow::Result<()> {
    cluster.shell("ctl", "mv /shared/aside/away /shared/aside/default.castr")?;
    let _service = LazyService::start(cluster, NODE)?;
    change_a_chunk(cluster)?;
    end_reading(start_reading(cluster, NODE)?, expected)?;
    let sources = sources(cluster)?;
    let reason = sources[1]["reason"].as_str().unwrap_or_default();
    ensure!(reason.contains("the chunk is corrupt"), "{sources:?}");
    ensure!(sources[1]["chunks"].as_u64() > Some(100) && sources[2]["chunks"].as_u64() >= Some(1), "{sources:?}");
    Ok(())
}

/// Changes a bit of the chunk in the middle of the largest layer, in the registry's blob. Again, it is as before.
fn change_a_chunk(cluster: &Cluster) -> anyhow::Result<()> {
    let middle = middle_chunk(cluster)?;
    let aside = cluster.shared().join("aside");
    let chunk = ["away", "default.castr"].iter().find_map(|name| fs::read(aside.join(name).join(middle.path())).ok());
    let chunk = chunk.context("the chunk is nowhere")?;
    let (beginning, changed) = chunk.split_at(chunk.len() / 2);
    let blobs = cluster.path_on(NODE, &format!("{DIRECTORY}/data/docker/registry/v2/blobs/sha256"))?;
    for prefix in fs::read_dir(blobs)? {
        for blob in fs::read_dir(prefix?.path())? {
            let path = blob?.path().join("data");
            let mut bytes = fs::read(&path)?;
            let Some(place) = bytes.windows(beginning.len()).position(|part| part == beginning) else { continue };
            let place = place + beginning.len();
            let byte = bytes.get_mut(place).context("the blob ends early")?;
            ensure!(changed.first().is_some_and(|whole| *byte | 1 == *whole | 1), "the blob has another chunk");
            *byte ^= 1;
            return Ok(fs::write(path, bytes)?);
        }
    }
    anyhow::bail!("no blob has the chunk {middle}")
}
