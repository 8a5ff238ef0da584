//! Environment definition files.

use std::io;
use std::path::Path;

use parallax_edf::{Locations, Rendered, Sources, render};

/// The file that is read, and one that it may name as its base.
const FILE: &str = "/here/own.toml";
const BASE: (&str, &str) = ("/edf/base.toml", "image = \"base\"\nmounts = [\"/a:/b:ro\"]\n[env]\nA = \"1\"\n");

/// A machine with two files.
struct Machine<'a>(&'a [u8]);

impl Sources for Machine<'_> {
    fn read(&self, path: &Path, limit: u64) -> io::Result<Vec<u8>> {
        let text = match path.to_str() {
            Some(FILE) => self.0,
            Some(path) if path == BASE.0 => BASE.1.as_bytes(),
            _ => return Err(io::ErrorKind::NotFound.into()),
        };
        Ok(text.iter().copied().take(usize::try_from(limit).unwrap_or(usize::MAX)).collect())
    }

    fn is_file(&self, path: &Path) -> bool {
        path.to_str().is_some_and(|path| [FILE, BASE.0].contains(&path))
    }

    fn list(&self, directory: &Path) -> Vec<String> {
        if directory == Path::new("/edf") { vec!["base.toml".to_owned()] } else { Vec::new() }
    }

    fn variable(&self, name: &str) -> Option<String> {
        (name == "HOME").then(|| "/home/u1".to_owned())
    }
}

fn rendered(text: &[u8]) -> Option<Rendered> {
    let locations = Locations { directories: vec!["/edf".into()], current: "/here".into() };
    match render(FILE, &locations, &Machine(text)) {
        Ok(rendered) => Some(rendered),
        Err(error) => {
            assert!(!error.to_string().is_empty());
            None
        }
    }
}

/// Any text is refused with a sentence, or comes to an environment that is an environment definition file of its own, which means the same;
/// what nodes get of it has absolute paths only.
///
/// # Panics
/// If it is not.
pub fn check(input: &[u8]) {
    let Some(first) = rendered(input) else { return };
    let text = first.environment.to_toml();
    let second = rendered(text.as_bytes()).expect("what was rendered");
    assert_eq!(second.environment.to_toml(), text);
    let mut warnings = Vec::new();
    if let Ok(mut request) = first.request(&mut warnings) {
        // The rendered form has the format's defaults.
        request.writable.get_or_insert(true);
        request.entrypoint.get_or_insert(false);
        assert_eq!(second.request(&mut warnings).ok().as_ref(), Some(&request));
        for mount in &request.mounts {
            assert!(mount.target.is_absolute() && mount.source.path().is_none_or(Path::is_absolute), "{mount:?}");
        }
        assert!(request.working_directory.is_none_or(|directory| directory.is_absolute()));
    }
    if let (Ok(first), Ok(second)) = (first.image(), second.image()) {
        assert_eq!(first, second);
    }
}
