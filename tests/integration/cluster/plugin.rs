//! The plugin's hooks in a Slurm that fails (`tests/plugin/fake-slurm.c`), and what loading it costs.

use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::ensure;
use integration_tests::clean::assert_clean;
use integration_tests::cluster::{Cluster, Done, repository};

tests! { cluster:
    only_a_few_symbols_are_resolved_at_load,
    the_launcher_needs_no_shared_library,
    a_plugin_without_its_part_fails_who_wants_an_image,
    no_failure_of_slurm_drains_a_node,
    a_step_with_an_image_never_runs_without_it,
    an_agent_that_never_answers_is_waited_for_in_vain,
}

/// `S_CTX_REMOTE` and `S_CTX_SLURMD` of `slurm/spank.h`.
const SLURMSTEPD: &str = "2";
const SLURMD: &str = "4";

/// What of Slurm can fail.
const FAILURES: [&str; 8] = ["nothing", "context", "items", "getenv", "setenv", "register", "prepend", "everything"];

/// The plugin as the cluster's nodes have it.
fn plugin(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    cluster.path_on("n1", "/usr/lib/parallax/spank_parallax.so")
}

/// Its part for steps with an image, there too.
fn step_part(cluster: &Cluster) -> anyhow::Result<PathBuf> {
    cluster.path_on("n1", "/usr/lib/parallax/spank_parallax_step.so")
}

/// What a shared library says of itself.
struct Symbols {
    defined: Vec<String>,
    undefined: Vec<String>,
    libraries: Vec<String>,
}

impl Symbols {
    fn of(file: &Path) -> anyhow::Result<Self> {
        let lines = |program: &str, arguments: &[&str]| -> anyhow::Result<Vec<String>> {
            let listed = Command::new(program).args(arguments).arg(file).output()?;
            Ok(Done::from(listed).success()?.stdout.lines().map(|line| line.trim().to_owned()).collect())
        };
        let symbols = |which: &str| lines("nm", &["--dynamic", "--format=just-symbols", which]);
        let needed = lines("objdump", &["-p"])?;
        let libraries = needed.iter().filter_map(|line| line.strip_prefix("NEEDED")).map(|name| name.trim().to_owned());
        Ok(Self {
            defined: symbols("--defined-only")?,
            undefined: symbols("--undefined-only")?,
            libraries: libraries.collect(),
        })
    }

    /// What is neither the system's nor a compiler's.
    fn of_slurm(&self) -> Vec<&str> {
        let foreign = |name: &&str| !name.contains("@GLIBC") && !name.starts_with('_');
        self.undefined.iter().map(String::as_str).filter(foreign).collect()
    }
}

/// Every job loads the plugin.
fn only_a_few_symbols_are_resolved_at_load(cluster: &Cluster) -> anyhow::Result<()> {
    let plugin = plugin(cluster)?;
    let symbols = Symbols::of(&plugin)?;
    let hooks = ["exit", "init", "init_post_opt", "task_init", "task_init_privileged", "user_init"];
    let mut expected = ["plugin_name", "plugin_type", "plugin_version"].map(str::to_owned).to_vec();
    expected.extend(hooks.iter().map(|hook| format!("slurm_spank_{hook}")));
    ensure!(symbols.defined == expected, "the plugin defines {:?}", symbols.defined);
    let of_slurm = symbols.of_slurm();
    let expected =
        ["slurm_error", "spank_context", "spank_get_item", "spank_getenv", "spank_option_register", "spank_unsetenv"];
    ensure!(of_slurm == expected, "{of_slurm:?}");
    ensure!(symbols.undefined.len() <= 20, "resolved at load: {:?}", symbols.undefined);
    ensure!(symbols.libraries.iter().all(|library| library.starts_with("libc.so")), "{:?}", symbols.libraries);
    let bytes = std::fs::metadata(&plugin)?.len();
    ensure!(bytes < 64 << 10, "the plugin has {bytes} bytes");

    let step = Symbols::of(&step_part(cluster)?)?;
    // slurm-spank's own is not used.
    let defined: Vec<&String> = step.defined.iter().filter(|name| *name != "spank_option_callback").collect();
    ensure!(defined == ["parallax_step_hooks_4"], "the part for steps with an image defines {defined:?}");
    let of_slurm = step.of_slurm();
    let known = |name: &&str| name.starts_with("spank_") || name.starts_with("slurm_");
    ensure!(of_slurm.iter().all(known) && of_slurm.len() <= 20, "it needs {of_slurm:?}");
    ensure!(step.undefined.len() <= 120, "{} symbols are resolved when it is loaded", step.undefined.len());
    let system = ["libc.so", "ld-linux", "libgcc_s.so", "libm.so"];
    let is_known = |library: &String| system.iter().any(|own| library.starts_with(own));
    ensure!(step.libraries.iter().all(is_known), "it loads {:?}", step.libraries);
    Ok(())
}

/// Each task begins with one of these two, and pays for what it loads.
fn the_launcher_needs_no_shared_library(cluster: &Cluster) -> anyhow::Result<()> {
    for name in ["parallax-launch", "parallax-join"] {
        let program = cluster.path_on("n1", &format!("/usr/libexec/parallax/{name}"))?;
        let headers = Command::new("objdump").arg("-p").arg(&program).output()?;
        let headers = Done::from(headers).success()?.stdout;
        let dynamic = |line: &&str| ["INTERP", "NEEDED"].iter().any(|word| line.trim_start().starts_with(word));
        ensure!(!headers.lines().any(|line| dynamic(&line)), "{headers}");
        // Without a C library.
        ensure!(name != "parallax-join" || program.metadata()?.len() < 64 << 10, "{name} is large");
    }
    Ok(())
}

/// A node with half an installation: whoever wants an image is told so and gets none, others do not notice.
fn a_plugin_without_its_part_fails_who_wants_an_image(cluster: &Cluster) -> anyhow::Result<()> {
    let step = |node: &str, image: &[&str]| {
        let line = [&["srun", "--nodelist", "n1"], image, &["echo", "it ran"]].concat();
        cluster.run(node, "u1", &line)
    };
    let image = ["--parallax-image=debian"];
    let part = step_part(cluster)?;
    let aside = part.with_extension("aside");
    std::fs::rename(&part, &aside)?;
    let tested = || -> anyhow::Result<()> {
        // Only the node lacks it; then srun does.
        for from in ["ctl", "n1"] {
            let done = step(from, &image)?;
            ensure!(done.code != 0 && !done.stdout.contains("it ran"), "from {from}: {done:?}");
            ensure!(done.stderr.contains("incomplete Parallax installation on this"), "from {from}: {done:?}");
            ensure!(done.stderr.contains("spank_parallax_step.so"), "from {from}: {done:?}");
            ensure!(step(from, &[])?.success()?.stdout == "it ran\n", "from {from}");
        }
        Ok(())
    };
    let tested = tested();
    std::fs::rename(&aside, &part)?;
    tested?;
    assert_clean(cluster)?;
    step("ctl", &image)?.success().map(drop)
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

fn an_agent_that_never_answers_is_waited_for_in_vain(cluster: &Cluster) -> anyhow::Result<()> {
    let slurm = FakeSlurm::new(cluster)?;
    let _mute = UnixListener::bind(socket(slurm.directory.path()))?;
    let done = slurm.call(SLURMSTEPD, "nothing", "debian")?;
    ensure!(!drains(&done) && done.stdout.contains("no answer in time"), "{done:?}");
    Ok(())
}

fn socket(runtime: &Path) -> PathBuf {
    runtime.join("agent.sock")
}
