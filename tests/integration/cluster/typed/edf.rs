//! Environment definition files: what tasks see of one, what is refused where it is typed, and what a job hands on.

use std::fs;
use std::os::unix::fs::chown;

use anyhow::ensure;
use integration_tests::cluster::{Cluster, Done};

use super::{U1, batch_output, refused};
use crate::cluster::with_file;

tests! { cluster:
    a_step_runs_in_its_environment,
    options_win_over_the_environment,
    an_environment_is_read_at_submission,
    a_variable_names_the_default_environment,
    a_job_hands_its_environment_on,
    what_is_wrong_is_told_with_its_position,
    the_command_validates_and_renders,
    a_site_turns_on_the_names_of_other_tools,
    a_node_that_does_not_know_an_option_refuses_the_step,
}

const PLUGSTACK: &str = "/etc/slurm/plugstack.conf";

/// Writes an environment into u1's directory of environments.
fn write(cluster: &Cluster, name: &str, text: &str) -> anyhow::Result<()> {
    let directory = cluster.home("u1").join(".edf");
    fs::create_dir_all(&directory)?;
    chown(&directory, Some(U1), Some(U1))?;
    Ok(fs::write(directory.join(name), text)?)
}

fn remove(cluster: &Cluster) -> anyhow::Result<()> {
    Ok(fs::remove_dir_all(cluster.home("u1").join(".edf"))?)
}

/// Runs a command of u1's on the login node with variables.
fn with_variables(cluster: &Cluster, variables: &[&str], command: &[&str]) -> anyhow::Result<Done> {
    cluster.run("ctl", "u1", &[&["env"], variables, command].concat())
}

const SHOW: [&str; 3] = [
    "sh",
    "-c",
    "pwd; echo [$A] [$B] [$LANG]; ls -d /one /two 2>/dev/null; (: >/var/tmp/x) 2>/dev/null && echo wrote; true",
];

fn a_step_runs_in_its_environment(cluster: &Cluster) -> anyhow::Result<()> {
    write(cluster, "base.toml", "image = \"python\"\nwritable = false\n[env]\nA = \"base\"\nB = \"base\"\n")?;
    let text = "base_environment = \"base\"\nimage = \"debian\"\nworkdir = \"/one\"\nmounts = [\"/opt:/one\", \"${HOME}:/two:ro+rslave\"]\n\
                [env]\nA = \"${WORD:-none}\"\nB = \"\"\n";
    write(cluster, "own.toml", text)?;
    let srun = ["srun", "-Q", "-w", "n1", "--parallax-edf=own"];
    let done = with_variables(cluster, &["WORD=word", "LANG=of-the-job"], &[&srun[..], &SHOW].concat())?.success()?;
    ensure!(done.stdout == "/one\n[word] [] []\n/one\n/two\n" && done.stderr.is_empty(), "{done:?}");
    // The same by a path, on two nodes.
    let srun = ["srun", "-Q", "-N2", "-l", "--parallax-edf=.edf/own.toml", "sh", "-c", "echo $A"];
    let done = cluster.run("ctl", "u1", &srun)?.success()?;
    ensure!(done.stdout.lines().filter(|line| line.ends_with(" none")).count() == 2, "{done:?}");
    remove(cluster)
}

fn options_win_over_the_environment(cluster: &Cluster) -> anyhow::Result<()> {
    write(
        cluster,
        "own.toml",
        "image = \"python\"\nworkdir = \"/one\"\nmounts = [\"/opt:/one\"]\n[env]\nA = \"edf\"\nB = \"edf\"\n",
    )?;
    let options =
        ["--parallax-edf=own", "--parallax-image=debian", "--parallax-workdir=/two", "--parallax-mount=/srv:/two"];
    let more = ["-w", "n1", "--parallax-env=A=typed", "--parallax-readonly"];
    let done = cluster.srun("u1", &[&options[..], &more, &SHOW].concat())?.success()?;
    ensure!(done.stdout == "/two\n[typed] [edf] []\n/one\n/two\n", "{done:?}");
    let done = cluster
        .srun("u1", &["-w", "n1", "--parallax-edf=own", "--parallax-image=debian", "cat", "/etc/debian_version"])?;
    ensure!(done.success()?.stdout.starts_with("13"), "the image is not the one that was typed");
    remove(cluster)
}

/// Nodes read no file of the user's.
fn an_environment_is_read_at_submission(cluster: &Cluster) -> anyhow::Result<()> {
    write(cluster, "own.toml", "image = \"debian\"\n[env]\nA = \"at submission\"\n")?;
    let script = "#!/bin/sh\nrm $HOME/.edf/own.toml\nsrun -Q sh -c 'echo $A; cat /etc/debian_version'\n";
    let said = batch_output(cluster, script, &["-w", "n1", "--parallax-edf=own"])?;
    ensure!(said.starts_with("at submission\n13"), "{said}");
    remove(cluster)
}

fn a_variable_names_the_default_environment(cluster: &Cluster) -> anyhow::Result<()> {
    write(cluster, "own.toml", "image = \"debian\"\nmounts = [\"/opt:/one\"]\n[env]\nA = \"edf\"\nB = \"edf\"\n")?;
    write(cluster, "other.toml", "image = \"debian\"\n[env]\nA = \"other\"\n")?;
    let show = ["sh", "-c", "echo [$A] [$B] $(ls -d /one 2>/dev/null)"];
    let run = |variables: &[&str], options: &[&str]| {
        with_variables(cluster, variables, &[&["srun", "-Q", "-w", "n1"], options, &show].concat())?.success()
    };
    ensure!(run(&["PARALLAX_EDF=own"], &[])?.stdout == "[edf] [edf] /one\n");
    // Another variable wins, and so does what is typed.
    ensure!(run(&["PARALLAX_EDF=own", "PARALLAX_ENV=A=default"], &[])?.stdout == "[default] [edf] /one\n");
    ensure!(run(&["PARALLAX_EDF=own"], &["--parallax-edf=other"])?.stdout == "[other] []\n");
    ensure!(run(&["PARALLAX_EDF=own"], &["--parallax-image=none"])?.stdout == "[] []\n");
    remove(cluster)
}

fn a_job_hands_its_environment_on(cluster: &Cluster) -> anyhow::Result<()> {
    write(cluster, "own.toml", "image = \"debian\"\nmounts = [\"/opt:/one\"]\n[env]\nA = \"edf\"\n")?;
    write(cluster, "other.toml", "image = \"python\"\n[env]\nB = \"other\"\n")?;
    let script = "#!/bin/sh\n\
                  #SBATCH -w n1 --parallax-edf=own --parallax-env=C=job\n\
                  show='echo [$A] [$B] [$C] $(ls -d /one 2>/dev/null)'\n\
                  srun -Q sh -c \"$show\"\n\
                  srun -Q --parallax-env=B=step sh -c \"$show\"\n\
                  srun -Q --export=NONE sh -c \"$show\"\n\
                  srun -Q --parallax-edf=other sh -c \"$show\"\n\
                  srun -Q --parallax-image=none sh -c \"$show; ls /usr/sbin/slurmd\"\n\
                  sbatch -Q --wait -o own.out --wrap 'ls -d /usr/sbin/slurmd; srun -Q sh -c \"echo [\\$A]; ls /usr/sbin/slurmd\"'\n\
                  cat own.out; rm own.out\n";
    let said = batch_output(cluster, script, &[])?;
    let expected = "[edf] [] [job] /one\n[edf] [step] [job] /one\n[edf] [] [job] /one\n[] [other] []\n[] [] []\n\
                    /usr/sbin/slurmd\n/usr/sbin/slurmd\n[]\n/usr/sbin/slurmd\n";
    ensure!(said == expected, "{said}");
    remove(cluster)
}

fn what_is_wrong_is_told_with_its_position(cluster: &Cluster) -> anyhow::Result<()> {
    write(cluster, "typo.toml", "image = \"debian\"\nmount = [\"/opt:/one\"]\n")?;
    write(cluster, "flag.toml", "image = \"debian\"\nmounts = [\n  \"/opt:/one:rprivat\"]\n")?;
    write(cluster, "type.toml", "image = \"debian\"\nworkdir = 1\n")?;
    write(cluster, "none.toml", "workdir = \"/\"\n")?;
    write(cluster, "sif.toml", "image = \"/x/a.sif\"\n")?;
    for (options, parts) in [
        (
            &["--parallax-edf=flag"][..],
            &["--parallax-edf: /home/u1/.edf/flag.toml, line 3, column 3:", "did you mean \"rprivate\"?"][..],
        ),
        (
            &["--parallax-edf=type"],
            &["/home/u1/.edf/type.toml, line 2, column 11: \"workdir\" is a string, and this is a number"],
        ),
        (&["--parallax-edf=none"], &["/home/u1/.edf/none.toml has no image"]),
        (&["--parallax-edf=sif"], &["line 1, column 9: ", "the path of a directory or of a SquashFS file"]),
        (&["--parallax-edf=flg"], &["is in none of the directories /home/u1/.edf, /etc/edf", "did you mean \"flag\"?"]),
        (
            &["--parallax-edf=typo", "--parallax-mode=podman"],
            &["--parallax-edf has no effect with --parallax-mode=podman"],
        ),
        (&["--parallax-edf=typo", "--parallax-edf=none"], &["name different environments"]),
    ] {
        let done = cluster.srun("u1", &[options, &["touch", "ran"]].concat())?;
        // A warning may come first.
        let stderr = done.stderr.lines().filter(|line| !line.contains("warning: ")).collect::<Vec<_>>().join("\n");
        refused(&Done { stderr, ..done }, parts)?;
    }
    ensure!(!cluster.home("u1").join("ran").exists(), "a step ran");
    let done = cluster.srun("u1", &["-w", "n1", "--parallax-edf=typo", "true"])?.success()?;
    let said = "parallax: warning: /home/u1/.edf/typo.toml, line 2, column 1: the key \"mount\" is unknown and has no effect; did you mean \"mounts\"?";
    ensure!(done.stderr.lines().filter(|line| line.contains(said)).count() == 1, "{done:?}");
    remove(cluster)
}

fn the_command_validates_and_renders(cluster: &Cluster) -> anyhow::Result<()> {
    write(
        cluster,
        "own.toml",
        "base_environment = \"base\"\nmounts = [\"./x:/x\"]\nmuonts = []\n[env]\nP = \"$$${HOME}\"\n",
    )?;
    write(cluster, "base.toml", "image = \"debian\"\n")?;
    write(cluster, "bad.toml", "image = 7\n")?;
    let parallax = |arguments: &[&str]| cluster.run("ctl", "u1", &[&["parallax", "edf"], arguments].concat());
    let done = parallax(&["render", "own"])?.success()?;
    ensure!(
        done.stdout.contains("mounts = [\"/home/u1/x:/x\"]") && done.stdout.contains("P = \"$$/home/u1\""),
        "{done:?}"
    );
    let done = parallax(&["render", "--json", "own"])?.success()?;
    let value: serde_json::Value = serde_json::from_str(&done.stdout)?;
    ensure!(value["image"] == "debian" && value["env"]["P"] == "$/home/u1" && value["writable"] == true, "{value}");
    let done = parallax(&["validate", "own", ".edf/base.toml"])?.success()?;
    ensure!(done.stdout == "/home/u1/.edf/own.toml: valid\n/home/u1/.edf/base.toml: valid\n", "{done:?}");
    ensure!(done.stderr.contains("line 3, column 1: the key \"muonts\" is unknown"), "{done:?}");
    let done = parallax(&["validate", "bad"])?;
    ensure!(done.code == 1 && done.stderr.contains("line 1, column 9: \"image\" is a string"), "{done:?}");
    remove(cluster)
}

fn a_site_turns_on_the_names_of_other_tools(cluster: &Cluster) -> anyhow::Result<()> {
    write(cluster, "own.toml", "image = \"debian\"\n[env]\nA = \"edf\"\n")?;
    let show = ["sh", "-c", "echo $A; cat /etc/debian_version"];
    let run = |option: &str| cluster.srun("u1", &[&["-w", "n1", option], &show[..]].concat());
    let done = run("--edf=own")?;
    ensure!(done.code != 0 && done.stderr.contains("unrecognized option '--edf=own'"), "{done:?}");
    let turned_on = with_names(cluster, &["ctl", "n1", "n2"], "edf", || {
        for option in ["--edf=own", "--environment=own"] {
            let done = run(option)?.success()?;
            ensure!(done.stdout.starts_with("edf\n13"), "{option}: {done:?}");
        }
        let script = "#!/bin/sh\nsrun -Q sh -c 'echo $A; cat /etc/debian_version'\n";
        let said = batch_output(cluster, script, &["-w", "n1", "--environment=own"])?;
        ensure!(said.starts_with("edf\n13"), "{said}");
        let help = cluster.run("ctl", "u1", &["srun", "--help"])?.success()?.stdout;
        ensure!(help.contains("--edf=NAME|FILE") && help.contains("--environment=NAME|FILE"), "{help}");
        Ok(())
    });
    turned_on?;
    remove(cluster)
}

/// Slurm passes over an option that a node's plugin does not know.
fn a_node_that_does_not_know_an_option_refuses_the_step(cluster: &Cluster) -> anyhow::Result<()> {
    write(cluster, "own.toml", "image = \"debian\"\n")?;
    with_names(cluster, &["ctl"], "edf", || {
        let done = cluster.srun("u1", &["-w", "n1", "--edf=own", "echo", "it ran"])?;
        let said = "its plugstack.conf differs from that of the other nodes";
        ensure!(done.code == 125 && done.stdout.is_empty() && done.stderr.contains(said), "{done:?}");
        Ok(())
    })?;
    remove(cluster)
}

/// Runs `body` while the plugin on these nodes has the names.
pub(super) fn with_names(
    cluster: &Cluster,
    nodes: &[&str],
    names: &str,
    body: impl FnOnce() -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let Some((node, others)) = nodes.split_first() else { return body() };
    let path = cluster.path_on(node, PLUGSTACK)?;
    let text = fs::read_to_string(&path)?;
    let changed: Vec<String> = text
        .lines()
        .map(|line| if line.contains("spank_parallax.so") { format!("{line} names={names}") } else { line.to_owned() })
        .collect();
    with_file(cluster, node, PLUGSTACK, Some(&(changed.join("\n") + "\n")), || with_names(cluster, others, names, body))
}
