//! Links the unwinder into the plugin.
//!
//! The standard library wants it from `libgcc_s.so.1`, which neither srun nor slurmstepd has loaded: finding, mapping and relocating
//! that library took as long as all else that this part's loading takes. Taken whole and before the shared one,
//! the archive leaves nothing for that to resolve, and the linker drops it (`--as-needed`, which rustc says).

use std::env;
use std::path::Path;
use std::process::Command;

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=CC");
    let compiler = env::var("CC").unwrap_or_else(|_| "cc".to_owned());
    let asked = Command::new(&compiler).arg("-print-file-name=libgcc_eh.a").output();
    let answer = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned()).unwrap_or_default();
    // Without the archive (clang without gcc, musl) the shared one does.
    if let Some(directory) = Path::new(&answer).parent().filter(|directory| directory.is_absolute()) {
        println!("cargo:rustc-link-search=native={}", directory.display());
        println!("cargo:rustc-link-lib=static:+whole-archive=gcc_eh");
    }
}
