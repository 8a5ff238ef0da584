//! The programs that a site may choose, and the settings that name them.

use std::ffi::OsString;
use std::io::{self, ErrorKind};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

/// Candidate programs; the first that is installed is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Programs {
    /// Names, searched in PATH, or paths.
    pub names: Vec<OsString>,
    /// The setting that names them, with its file; none for the defaults.
    pub named_by: Option<String>,
}

impl Programs {
    /// The defaults.
    pub(crate) fn default_of(names: &[&str]) -> Self {
        Self { names: names.iter().map(OsString::from).collect(), named_by: None }
    }

    /// A program of Parallax: beside this one, in the `sbin` directory of the same installation, or wherever `PATH` has it.
    pub(crate) fn of_parallax(name: &str) -> Self {
        let this = std::env::current_exe().unwrap_or_default();
        // libexec/parallax/parallax-mount-program
        let installed = this.ancestors().nth(3).map(|prefix| prefix.join("sbin").join(name));
        let paths = [Some(this.with_file_name(name)), installed].into_iter().flatten();
        Self { names: paths.map(OsString::from).chain([name.into()]).collect(), named_by: None }
    }

    /// One program, named by a setting.
    pub(crate) fn named(name: impl Into<OsString>, by: impl Into<String>) -> Self {
        Self { names: vec![name.into()], named_by: Some(by.into()) }
    }

    /// The names as text.
    pub(crate) fn shown(&self) -> String {
        let names: Vec<_> = self.names.iter().map(|name| name.to_string_lossy()).collect();
        names.join(" or ")
    }

    /// The setting in brackets, to follow a statement about one of the programs.
    pub(crate) fn origin(&self) -> String {
        self.named_by.as_ref().map_or_else(String::new, |by| format!(" (named by {by})"))
    }

    /// Returns the error message if none of them is found.
    pub(crate) fn missing(&self) -> String {
        let is_path = self.names.iter().all(|name| name.as_bytes().contains(&b'/'));
        let path = if is_path { "" } else { ", or not on the PATH that Podman was started with" };
        let remedy = if self.named_by.is_some() { "; install it, or correct the name" } else { "" };
        format!("{} is not installed{path}{}{remedy}", self.shown(), self.origin())
    }
}

/// Whether starting a program failed because it does not exist. A program that exists but whose interpreter does not gives the
/// same error number.
pub(crate) fn is_missing(name: &OsString, error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound && !(name.as_bytes().contains(&b'/') && Path::new(name).exists())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_named_with_its_setting() {
        let default = Programs::default_of(&["a", "b"]);
        assert_eq!(default.missing(), "a or b is not installed, or not on the PATH that Podman was started with");
        let named = Programs::named("/opt/a", "PARALLAX_MP_SQUASHFUSE_CMD");
        assert_eq!(
            named.missing(),
            "/opt/a is not installed (named by PARALLAX_MP_SQUASHFUSE_CMD); install it, or correct the name"
        );
        assert!(Programs::named("a", "X").missing().contains("PATH that Podman was started with (named by X)"));
    }

    #[test]
    fn a_program_without_its_interpreter_is_not_missing() {
        let directory = tempfile::tempdir().unwrap();
        let script = directory.path().join("script");
        std::fs::write(&script, "#!/nonexistent\n").unwrap();
        let error = io::Error::from(ErrorKind::NotFound);
        assert!(!is_missing(&script.into_os_string(), &error));
        assert!(is_missing(&"/nonexistent".into(), &error) && is_missing(&"nonexistent".into(), &error));
    }
}
