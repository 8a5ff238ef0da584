//! Rules that run: the checks of crates, and what `.ci/run` runs.

use std::fs;
use std::process::Command;

use anyhow::ensure;
use integration_tests::cluster::{Done, repository};

use super::read;

tests! { machine:
    ci_runs_the_lints_and_then_all_tests,
    a_license_that_is_not_allowed_is_found,
    duplicate_versions_and_stale_exceptions_are_found,
    a_fault_in_a_shell_script_is_found,
    install_brings_every_page_and_completion,
}

fn ci_runs_the_lints_and_then_all_tests() -> anyhow::Result<()> {
    let script = read(".ci/run")?;
    let commands: Vec<&str> = script.lines().filter(|line| line.contains("make ") && !line.starts_with('#')).collect();
    let last = commands.len().saturating_sub(3);
    ensure!(commands[last..] == ["make dependencies", "make lint", "exec make test"], "{commands:?}");
    // What lint is made of is listed once, and each part exists.
    let makefile = read("Makefile")?;
    let parts = makefile.lines().find_map(|line| line.strip_prefix("lint: ")).unwrap_or_default();
    for part in ["format", "shell", "dependencies", "clippy", "docs", "minimum-rust"] {
        ensure!(parts.split(' ').any(|name| name == format!("lint-{part}")), "make lint leaves out {part}: {parts}");
        ensure!(makefile.contains(&format!("\nlint-{part}:")), "there is no lint-{part}");
    }
    Ok(())
}

/// Runs the check of crates with other rules.
fn check_dependencies(rules: &str) -> anyhow::Result<Done> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("rules.toml");
    fs::write(&file, rules)?;
    Ok(Done::from(Command::new(repository().join("tests/lint/dependencies")).arg(file).output()?))
}

fn a_license_that_is_not_allowed_is_found() -> anyhow::Result<()> {
    let rules = read("packaging/dependencies.toml")?;
    ensure!(rules.contains("    \"ISC\",\n"), "{rules}");
    check_dependencies(&rules)?.success()?;
    let done = check_dependencies(&rules.replace("    \"ISC\",\n", ""))?;
    ensure!(done.code == 1 && done.stderr.contains("has the license ISC, which is not allowed"), "{done:?}");
    // "MIT OR Apache-2.0" is allowed by one half.
    ensure!(!done.stderr.contains("OR Apache-2.0"), "{done:?}");
    Ok(())
}

fn duplicate_versions_and_stale_exceptions_are_found() -> anyhow::Result<()> {
    let rules = read("packaging/dependencies.toml")?;
    let (licenses, _) = rules.split_once("[duplicates]").unwrap_or_default();
    let done = check_dependencies(&format!("{licenses}[duplicates]\nanyhow = \"no longer\"\n"))?;
    ensure!(done.code == 1 && done.stderr.contains("syn comes in the versions 2."), "{done:?}");
    ensure!(done.stderr.contains("anyhow is listed as a duplicate and is none any more"), "{done:?}");
    Ok(())
}

fn a_fault_in_a_shell_script_is_found() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let lint = directory.path().join("tests/lint");
    fs::create_dir_all(&lint)?;
    fs::copy(repository().join("tests/lint/shell"), lint.join("shell"))?;
    for number in 0..12 {
        fs::write(directory.path().join(format!("script-{number}")), "#!/bin/sh\ntrue\n")?;
    }
    Done::from(Command::new(lint.join("shell")).output()?).success()?;
    // Not named like a script.
    fs::write(directory.path().join("README"), "#!/usr/bin/env bash\nrm $1\n")?;
    let done = Done::from(Command::new(lint.join("shell")).output()?);
    ensure!(done.code != 0 && done.stdout.contains("SC2086"), "{done:?}");
    Ok(())
}

fn install_brings_every_page_and_completion() -> anyhow::Result<()> {
    let directory = tempfile::tempdir()?;
    let (made, root) = (directory.path().join("docs"), directory.path().join("root"));
    for file in ["man/parallax.1", "man/parallax.toml.5", "man/parallax-agent.8", "bash/parallax", "zsh/_parallax"] {
        let path = made.join(file);
        fs::create_dir_all(path.parent().unwrap_or(&made))?;
        fs::write(path, "")?;
    }
    fs::create_dir(made.join("fish"))?;
    fs::write(made.join("fish/parallax.fish"), "")?;
    let variables = [format!("DOCS={}", made.display()), format!("DESTDIR={}", root.display())];
    let mut make = Command::new("make");
    make.args(["--silent", "install-docs"]).args(variables).current_dir(repository());
    // This may itself be run by make.
    Done::from(make.env_remove("MAKEFLAGS").env_remove("MAKELEVEL").output()?).success()?;
    for file in [
        "man/man1/parallax.1",
        "man/man1/parallax-mount-program.1",
        "man/man5/parallax.toml.5",
        "man/man8/parallax-agent.8",
        "bash-completion/completions/parallax",
        "zsh/site-functions/_parallax",
        "fish/vendor_completions.d/parallax.fish",
    ] {
        ensure!(root.join("usr/share").join(file).is_file(), "{file} is not installed");
    }
    Ok(())
}
