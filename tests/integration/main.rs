//! The tests that need root: `privileged`, in private namespaces of this machine, and `cluster`, on a real Slurm cluster.
//!
//! None is ever skipped: who is not root is told so, and everything fails. Name a part of a test's name to run only those.

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use integration_tests::clean::assert_clean;
use integration_tests::cluster::Cluster;
use integration_tests::images;
use libtest_mimic::{Arguments, Failed, Trial};

mod cluster;
mod files;
mod privileged;

/// A test on the cluster.
type OnCluster = fn(&Cluster) -> anyhow::Result<()>;
/// A test on this machine.
type OnMachine = fn() -> anyhow::Result<()>;

/// The cluster, brought up by the first test that needs it, or why it could not be.
type Shared = Arc<OnceLock<Result<Cluster, String>>>;

fn main() -> ExitCode {
    let mut arguments = Arguments::from_args();
    // Every test looks at whole nodes.
    arguments.test_threads = Some(1);
    let listing = arguments.list;
    if !listing {
        if let Err(message) = be_root_in_private() {
            eprintln!("{message}");
            return ExitCode::FAILURE;
        }
    }
    let shared = Shared::default();
    let machine = files::TESTS.iter().chain(privileged::TESTS).chain(privileged::trust::TESTS);
    let mut trials: Vec<Trial> = machine.map(|&(name, test)| Trial::test(name, move || Ok(test()?))).collect();
    for &(name, test) in cluster::tests() {
        let shared = Arc::clone(&shared);
        trials.push(Trial::test(name, move || on_cluster(&shared, test)));
    }
    let conclusion = libtest_mimic::run(&arguments, trials);
    drop(shared);
    conclusion.exit_code()
}

/// These tests mount and make devices. What they mount stays in a mount namespace of their own.
fn be_root_in_private() -> Result<(), String> {
    if !rustix::process::geteuid().is_root() {
        return Err("these tests mount file systems and run a Slurm cluster in namespaces: run them as root".to_owned());
    }
    let private = || -> Result<(), Box<dyn std::error::Error>> {
        nix::sched::unshare(nix::sched::CloneFlags::CLONE_NEWNS)?;
        use rustix::mount::{MountPropagationFlags, mount_change};
        Ok(mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?)
    };
    private().map_err(|error| format!("no mount namespace can be made for the tests: {error}"))
}

/// Runs a test on the cluster and makes sure that it leaves nothing there.
fn on_cluster(shared: &Shared, test: OnCluster) -> Result<(), Failed> {
    let cluster = shared.get_or_init(|| bring_up().map_err(|error| format!("{error:#}")));
    let cluster = cluster.as_ref().map_err(|message| Failed::from(message.clone()))?;
    let tested = test(cluster);
    let clean = assert_clean(cluster);
    match (tested, clean) {
        (Ok(()), Ok(())) => Ok(()),
        (Err(error), Ok(())) | (Ok(()), Err(error)) => Err(Failed::from(format!("{error:#}"))),
        (Err(error), Err(left)) => Err(Failed::from(format!("{error:#}\nand then: {left:#}"))),
    }
}

fn bring_up() -> anyhow::Result<Cluster> {
    images::build(&images::IMAGES)?;
    let cluster = Cluster::up()?;
    for name in images::IMAGES {
        images::migrate(&cluster, name)?;
    }
    Ok(cluster)
}
