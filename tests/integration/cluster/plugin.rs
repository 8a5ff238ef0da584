//! The plugin's hooks in a Slurm that fails (`tests/plugin/fake-slurm.c`), and what loading it costs.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done, repository};

use crate::OnCluster;

pub const TESTS: &[(&str, OnCluster)] = &[
    ("cluster::plugin::only_a_few_symbols_are_resolved_at_load", only_a_few_symbols_are_resolved_at_load),
    ("cluster::plugin::no_failure_of_slurm_drains_a_node", no_failure_of_slurm_drains_a_node),
    ("cluster::plugin::a_step_with_an_image_never_runs_without_it", a_step_with_an_image_never_runs_without_it),
    ("cluster::plugin::an_agent_that_never_answers_is_waited_for_in_vain", an_agent_that_never_answers),
];

/// `S_CTX_REMOTE` and `S_CTX_SLURMD` of `slurm/spank.h`.
const SLURMSTEPD: &str = "2";
const SLURMD: &str = "4";

/// What of Slurm can fail.
const FAILURES: [&str; 8] = ["nothing", "context", "items", "getenv", "setenv", "register", "prepend", "everything"];

/// The plugin as the cluster's nodes have it.
fn plugin(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    cluster.path_on("n1", "/usr/lib/parallax/spank_parallax.so")
}

fn only_a_few_symbols_are_resolved_at_load(cluster: &Cluster) -> anyhow::Result<()> {
    let symbols = |which: &str| -> anyhow::Result<Vec<String>> {
        let listed =
            Command::new("nm").args(["--dynamic", "--format=just-symbols", which]).arg(plugin(cluster)?).output()?;
        Ok(Done::from(listed).success()?.stdout.lines().map(ToOwned::to_owned).collect())
    };
    let mut defined = symbols("--defined-only")?;
    // slurm-spank's; Slurm is given its address and does not look for it.
    defined.retain(|name| name != "spank_option_callback");
    let hooks = ["exit", "init", "init_post_opt", "task_init", "task_init_privileged", "user_init"];
    let mut expected = ["plugin_name", "plugin_type", "plugin_version"].map(str::to_owned).to_vec();
    expected.extend(hooks.iter().map(|hook| format!("slurm_spank_{hook}")));
    ensure!(defined == expected, "the plugin defines {defined:?}");
    let undefined = symbols("--undefined-only")?;
    let foreign = |name: &&String| !name.contains("@GLIBC") && !name.starts_with('_');
    let of_slurm: Vec<&String> = undefined.iter().filter(foreign).collect();
    let known = |name: &&String| name.starts_with("spank_") || name.starts_with("slurm_");
    ensure!(of_slurm.iter().all(known) && of_slurm.len() <= 20, "the plugin needs {of_slurm:?}");
    ensure!(undefined.len() <= 120, "{} symbols are resolved at load", undefined.len());
    let needed = Command::new("objdump").arg("-p").arg(plugin(cluster)?).output()?;
    let needed = Done::from(needed).success()?.stdout;
    let libraries: Vec<&str> =
        needed.lines().filter_map(|line| line.trim().strip_prefix("NEEDED")).map(str::trim).collect();
    let system =
        |library: &&str| ["libc.so", "ld-linux", "libgcc_s.so", "libm.so"].iter().any(|own| library.starts_with(own));
    ensure!(libraries.iter().all(system), "the plugin loads {libraries:?}");
    Ok(())
}

/// A directory with the program, a configuration, and place for an agent's socket.
struct FakeSlurm {
    directory: tempfile::TempDir,
    plugin: PathBuf,
}

impl FakeSlurm {
    fn new(cluster: &Cluster) -> anyhow::Result<Self> {
        let slurm = Self { directory: tempfile::tempdir()?, plugin: plugin(cluster)? };
        let source = repository().join("tests/plugin/fake-slurm.c");
        let built = Command::new("cc").args(["-rdynamic", "-o"]).args([&slurm.path("slurm"), &source]).output()?;
        Done::from(built).success()?;
        let runtime = slurm.directory.path().display();
        let text = format!(
            "stores = [\"/nonexistent\"]\n[agent]\nruntime_dir = \"{runtime}\"\n[step]\nstart_timeout = 1\nend_timeout = 1\n"
        );
        std::fs::write(slurm.path("config"), text)?;
        Ok(slurm)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    /// Calls all hooks.
    fn call(&self, context: &str, failure: &str, image: &str) -> anyhow::Result<Done> {
        let config = format!("config={}", self.path("config").display());
        let line =
            ["20", &self.path("slurm").display().to_string(), &self.plugin.display().to_string()].map(str::to_owned);
        let output = Command::new("timeout").args(line).args([context, failure, image, &config]).output()?;
        let done = Done::from(output).success()?;
        for part in ["\nthreads: 1\n", "\ndescriptors: 0\n"] {
            ensure!(done.stdout.contains(part), "no {part:?} with {failure}, {image}: {done:?}");
        }
        Ok(done)
    }
}

/// The hooks whose failure would drain a node.
fn drains(done: &Done) -> bool {
    let harmless = ["threads", "descriptors", "task", "option", "task_init"];
    done.stdout
        .lines()
        .filter_map(|line| line.split_once(": "))
        .any(|(hook, result)| !harmless.contains(&hook) && result != "0")
}

fn no_failure_of_slurm_drains_a_node(cluster: &Cluster) -> anyhow::Result<()> {
    let slurm = FakeSlurm::new(cluster)?;
    for context in [SLURMSTEPD, SLURMD] {
        for failure in FAILURES {
            for image in ["-", "debian", "%s%n", "\u{fffd}\u{1}", &"x".repeat(100_000)] {
                let done = slurm.call(context, failure, image)?;
                ensure!(!drains(&done), "with {failure}: {done:?}");
            }
        }
        // Whoever asked for no image does not notice.
        for failure in FAILURES {
            let done = slurm.call(context, failure, "-")?;
            ensure!(done.stdout.contains("\ntask_init: 0\n") && !done.stdout.contains("task: "), "{failure}: {done:?}");
        }
    }
    Ok(())
}

fn a_step_with_an_image_never_runs_without_it(cluster: &Cluster) -> anyhow::Result<()> {
    let slurm = FakeSlurm::new(cluster)?;
    // There is no agent; of what fails besides, the user need not hear.
    for failure in ["nothing", "items", "getenv", "setenv", "register", "prepend"] {
        let done = slurm.call(SLURMSTEPD, failure, "debian")?;
        let told = done.stdout.contains("task: /usr/libexec/parallax/parallax-launch fail ");
        let failed = done.stdout.contains("task_init: -1\n");
        ensure!(told || failed, "the task runs on the node: {failure}: {done:?}");
    }
    Ok(())
}

fn an_agent_that_never_answers(cluster: &Cluster) -> anyhow::Result<()> {
    let slurm = FakeSlurm::new(cluster)?;
    let _mute = UnixListener::bind(socket(slurm.directory.path()))?;
    let done = slurm.call(SLURMSTEPD, "nothing", "debian")?;
    ensure!(!drains(&done) && done.stdout.contains("no answer in time"), "{done:?}");
    Ok(())
}

fn socket(runtime: &Path) -> PathBuf {
    runtime.join("agent.sock")
}
