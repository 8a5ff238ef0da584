//! Files of `hooks.d`.

use std::path::Path;

use parallax_oci_hooks::{Container, HookFile};

/// Any text is refused with a sentence, or is a hook that meets the specification, and that a container has for each of the file's stages or
/// not at all.
///
/// # Panics
/// If it does not.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let file = match HookFile::parse(&text) {
        Ok(file) => file,
        Err(error) => return assert!(!error.to_string().is_empty()),
    };
    assert_eq!(file.hook().check(), Ok(()));
    assert!(!file.stages().is_empty());
    let annotations = [("com.hooks.a".to_owned(), "true".to_owned())];
    let arguments = ["/bin/sh".to_owned()];
    let plain = Container { arguments: &arguments, ..Container::default() };
    let annotated = Container { annotations: &annotations, has_bind_mounts: true, ..plain.clone() };
    for container in [&plain, &annotated] {
        let hooks: Vec<_> = file.hooks_for(container, Path::new("/etc/hooks.d/a.json")).collect();
        assert!(hooks.is_empty() || hooks.len() == file.stages().len());
        let config = container.config(&hooks);
        assert_eq!(serde_json::from_str::<serde_json::Value>(&config.to_string()).ok(), Some(config));
    }
}
