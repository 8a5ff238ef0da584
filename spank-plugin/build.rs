//! Makes Rust of what is needed of C's headers: Slurm's version, so that it takes the plugin for its own, and some functions.

use std::env;
use std::path::PathBuf;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    println!("cargo:rerun-if-changed=build.rs");
    println!("cargo:rerun-if-env-changed=BINDGEN_EXTRA_CLANG_ARGS");
    // Nobody else asks for it where there is no standard library.
    println!("cargo:rustc-link-lib=c");
    bindgen::Builder::default()
        .header_contents(
            "plugin.h",
            "#include <slurm/spank.h>\n#include <dlfcn.h>\n#include <link.h>\n#include <linux/limits.h>\n#include <stdlib.h>\n",
        )
        .clang_arg("-D_GNU_SOURCE")
        .use_core()
        .allowlist_var("SLURM_VERSION_NUMBER|RTLD_NOW|RTLD_LOCAL|PATH_MAX")
        .allowlist_function(
            "spank_context|spank_option_register|spank_getenv|spank_unsetenv|spank_get_item|slurm_error",
        )
        .allowlist_type("dl_phdr_info")
        .allowlist_function("dladdr|dlopen|dlsym|dlerror|abort|getenv|setenv|unsetenv")
        .layout_tests(false)
        .generate()?
        .write_to_file(PathBuf::from(env::var("OUT_DIR")?).join("c.rs"))?;
    Ok(())
}
