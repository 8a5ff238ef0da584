//! Tests that need what the kernel of this machine may lack: project quotas, fs-verity, NFS. `make guest-test` runs them on the kernel of Debian, in
//! a virtual machine.
//!
//! None is ever skipped: outside of that machine, and on a kernel that lacks something, they fail.

#![allow(clippy::indexing_slicing, reason = "a test that indexes past the end fails, as it should")]

use std::fs;
use std::process::ExitCode;

use libtest_mimic::{Arguments, Failed, Trial};

/// Lists a module's tests: functions.
macro_rules! tests {
    ($($test:ident),+ $(,)?) => {
        pub(crate) const TESTS: &[crate::Listed] = &[$((concat!(module_path!(), "::", stringify!($test)), $test)),+];
    };
}

mod disk;
mod image;
mod nfs;
mod node;
mod quota;
mod verity;

/// The path of a test's function, and the function.
type Listed = (&'static str, fn() -> anyhow::Result<()>);

fn main() -> ExitCode {
    let words: Vec<String> = std::env::args().skip(1).collect();
    if let [quota::RESTRICTED, scratch] = [0, 1].map(|index| words.get(index).map_or("", String::as_str)) {
        return quota::as_the_agent(scratch);
    }
    let mut arguments = Arguments::from_args();
    // Of a machine without a clock to go by, and with little memory.
    arguments.test_threads = Some(1);
    let trials = quota::TESTS.iter().chain(verity::TESTS).chain(nfs::TESTS).map(|&(path, test)| {
        let name = path.strip_prefix("guest::").unwrap_or(path);
        Trial::test(name, move || {
            be_in_the_virtual_machine()?;
            test().map_err(|error| Failed::from(format!("{error:#}")))
        })
    });
    libtest_mimic::run(&arguments, trials.collect()).exit_code()
}

fn be_in_the_virtual_machine() -> Result<(), Failed> {
    let is = fs::read_to_string("/proc/cmdline").is_ok_and(|line| line.contains("parallax.guest"));
    if is { Ok(()) } else { Err("these tests run in a virtual machine: make guest-test".into()) }
}
