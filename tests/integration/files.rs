//! The files that are installed as they are, and promises about the build.

use std::fs;
use std::process::Command;

use anyhow::{Context as _, ensure};
use integration_tests::cluster::{Done, repository};

use crate::Listed;
use crate::cluster::faults::Fault;

mod circles;
mod documents;
mod facts;
mod rules;

tests! { machine:
    the_example_configuration_is_taken,
    the_unit_and_plugstack_line_name_what_is_installed,
    the_units_are_taken_by_systemd_and_leave_mounts_alone,
    the_threat_model_names_tests_that_exist,
    the_plugin_links_neither_the_store_nor_a_runtime,
}

/// Every test of this group.
pub(crate) fn tests() -> impl Iterator<Item = &'static Listed> {
    TESTS.iter().chain(circles::TESTS).chain(documents::TESTS).chain(facts::TESTS).chain(rules::TESTS)
}

fn read(path: &str) -> anyhow::Result<String> {
    fs::read_to_string(repository().join(path)).with_context(|| path.to_owned())
}

/// What it says of each key is checked where it is made: packaging/manual.
fn the_example_configuration_is_taken() -> anyhow::Result<()> {
    let error = |(line, message)| anyhow::anyhow!("etc/parallax.toml, line {line:?}: {message}");
    let example = parallax_config::Config::parse(&read("etc/parallax.toml")?).map_err(error)?;
    ensure!(example.agent == parallax_config::Agent::default(), "{example:?}");
    Ok(())
}

fn the_unit_and_plugstack_line_name_what_is_installed() -> anyhow::Result<()> {
    ensure!(read("etc/parallax-agent.service")?.contains("ExecStart=/usr/sbin/parallax-agent"), "the unit");
    let line = read("etc/plugstack.conf")?;
    let plugin = line.lines().find(|line| !line.starts_with('#') && !line.is_empty()).unwrap_or_default();
    ensure!(plugin == "required /usr/lib/parallax/spank_parallax.so", "{plugin}");
    Ok(())
}

/// Directives that give a service a mount namespace of its own (systemd.exec(5)), whose mounts do not reach others.
const OWN_NAMESPACE: [&str; 29] = [
    "MountFlags",
    "PrivateMounts",
    "PrivateTmp",
    "PrivateDevices",
    "PrivateNetwork",
    "PrivateIPC",
    "PrivateUsers",
    "PrivatePIDs",
    "ProtectSystem",
    "ProtectHome",
    "ProtectProc",
    "ProcSubset",
    "ProtectHostname",
    "ProtectKernelTunables",
    "ProtectKernelModules",
    "ProtectKernelLogs",
    "ProtectControlGroups",
    "ReadWritePaths",
    "ReadOnlyPaths",
    "InaccessiblePaths",
    "ExecPaths",
    "NoExecPaths",
    "TemporaryFileSystem",
    "BindPaths",
    "BindReadOnlyPaths",
    "RootDirectory",
    "RootImage",
    "MountImages",
    "ExtensionImages",
];

fn the_units_are_taken_by_systemd_and_leave_mounts_alone() -> anyhow::Result<()> {
    let service = read("etc/parallax-agent.service")?;
    let directives: Vec<(&str, &str)> =
        service.lines().filter(|line| !line.starts_with('#')).filter_map(|line| line.split_once('=')).collect();
    for (name, _) in &directives {
        ensure!(!OWN_NAMESPACE.contains(name), "{name}= would keep the agent's mounts from the jobs");
    }
    let value = |wanted: &str| directives.iter().find(|(name, _)| *name == wanted).map_or("", |(_, value)| value);
    // Else the user database may not be there yet when the first steps come.
    ensure!(value("After").split(' ').any(|unit| unit == "nss-user-lookup.target"), "{service}");
    ensure!(value("KillMode") == "process" && value("Type") == "notify", "{service}");
    // The agent tries the node with all that root has, and restricts itself then.
    for name in ["CapabilityBoundingSet", "AmbientCapabilities", "RestrictNamespaces", "SystemCallFilter", "User"] {
        ensure!(value(name).is_empty(), "{name}= would hold for the agent's trials of the node");
    }
    ensure!(value("RestrictSUIDSGID").is_empty(), "RestrictSUIDSGID= takes openat2(2) from the agent");
    let socket = read("etc/parallax-agent.socket")?;
    let listens = format!("ListenStream={}", parallax_config::Agent::default().socket().display());
    ensure!(socket.lines().any(|line| line == listens) && socket.contains("\nSocketMode=0600\n"), "{socket}");
    // systemd says nothing about units it likes. The program need not be installed here.
    let directory = tempfile::tempdir()?;
    let service = service.replace("/usr/sbin/parallax-agent", "/bin/true");
    fs::write(directory.path().join("parallax-agent.service"), service)?;
    fs::write(directory.path().join("parallax-agent.socket"), socket)?;
    let lazy = read("etc/parallax-lazy.socket")?;
    let listens = format!("ListenSequentialPacket={}", parallax_config::Lazy::default().socket.display());
    ensure!(lazy.lines().any(|line| line == listens) && lazy.contains("\nSocketMode=0600\n"), "{lazy}");
    fs::write(directory.path().join("parallax-lazy.socket"), lazy)?;
    let service = read("etc/parallax-lazy.service")?.replace("/usr/sbin/parallax-lazy", "/bin/true");
    fs::write(directory.path().join("parallax-lazy.service"), service)?;
    let names = ["parallax-agent.service", "parallax-agent.socket", "parallax-lazy.service", "parallax-lazy.socket"];
    let units = names.map(|name| directory.path().join(name));
    let done = Done::from(Command::new("systemd-analyze").args(["verify", "--man=no"]).args(units).output()?);
    ensure!(done.code == 0 && done.stderr.is_empty(), "{done:?}");
    Ok(())
}

fn the_threat_model_names_tests_that_exist() -> anyhow::Result<()> {
    let text = read("docs/security.md")?;
    let listed = crate::machine_tests().chain(crate::cluster::tests()).map(Listed::name);
    let known: Vec<String> = listed.chain(crate::cluster::faults::all().map(Fault::name)).collect();
    let mut named = 0;
    for name in text.split('`').filter(|part| part.contains("::") && !part.contains(['\n', ' '])) {
        let exists = match name.split_once(".rs::") {
            Some((file, test)) => read(&format!("{file}.rs"))?.contains(&format!("fn {test}()")),
            None => known.iter().any(|known| known == name),
        };
        ensure!(exists, "docs/security.md names {name}, which there is not");
        named += 1;
    }
    ensure!(named > 30, "only {named} tests are named");
    Ok(())
}

fn the_plugin_links_neither_the_store_nor_a_runtime() -> anyhow::Result<()> {
    let arguments = ["tree", "--package", "spank-parallax-step", "--edges", "normal", "--prefix", "none", "--offline"];
    let tree = Command::new(env!("CARGO")).args(arguments).current_dir(repository()).output()?;
    let tree = Done::from(tree).success()?.stdout;
    for banned in ["parallax-store", "parallax-agent", "tokio", "sha2 ", "clap "] {
        ensure!(!tree.contains(banned), "the plugin links {banned}:\n{tree}");
    }
    Ok(())
}
