//! The files that are installed as they are, and promises about the build.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Done, repository};

use crate::OnMachine;

pub const TESTS: &[(&str, OnMachine)] = &[
    (
        "files::the_example_configuration_is_taken_and_says_every_key",
        the_example_configuration_is_taken_and_says_every_key,
    ),
    ("files::the_unit_and_plugstack_line_name_what_is_installed", the_unit_and_plugstack_line_name_what_is_installed),
    ("files::the_plugin_links_neither_the_store_nor_a_runtime", the_plugin_links_neither_the_store_nor_a_runtime),
];

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(repository().join(path)).with_context(|| path.to_owned())
}

fn the_example_configuration_is_taken_and_says_every_key() -> anyhow::Result<()> {
    let text = read("etc/parallax.toml")?;
    let error = |(line, message)| anyhow::anyhow!("etc/parallax.toml, line {line:?}: {message}");
    let example = parallax_config::Config::parse(&text).map_err(error)?;
    // The keys that are commented out show the defaults.
    let all: String = text.lines().map(|line| line.strip_prefix("#= ").unwrap_or(line)).collect::<Vec<_>>().join("\n");
    let complete = parallax_config::Config::parse(&all).map_err(error)?;
    ensure!(complete.step == example.step && complete.agent == example.agent, "a default is shown wrong");
    let shown = all.lines().filter(|line| !line.starts_with('#') && line.contains(" = ")).count();
    ensure!(shown == 11, "the example shows {shown} keys");
    Ok(())
}

fn the_unit_and_plugstack_line_name_what_is_installed() -> anyhow::Result<()> {
    ensure!(read("etc/parallax-agent.service")?.contains("ExecStart=/usr/sbin/parallax-agent"), "the unit");
    let line = read("etc/plugstack.conf")?;
    let plugin = line.lines().find(|line| !line.starts_with('#') && !line.is_empty()).unwrap_or_default();
    ensure!(plugin == "required /usr/lib/parallax/spank_parallax.so", "{plugin}");
    Ok(())
}

fn the_plugin_links_neither_the_store_nor_a_runtime() -> anyhow::Result<()> {
    let arguments = ["tree", "--package", "spank-parallax", "--edges", "normal", "--prefix", "none", "--offline"];
    let tree = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output()?;
    let tree = Done::from(tree).success()?.stdout;
    for banned in ["parallax-store", "parallax-agent", "tokio", "sha2 ", "clap "] {
        ensure!(!tree.contains(banned), "the plugin links {banned}:\n{tree}");
    }
    Ok(())
}
