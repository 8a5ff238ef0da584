//! `parallax.toml`.

use std::path::{Component, Path};

use parallax_config::Config;

/// Any text is a configuration that keeps its promises, or an error of one line.
///
/// # Panics
/// If it is neither.
pub fn check(input: &[u8]) {
    let Ok(text) = std::str::from_utf8(input) else { return };
    match Config::parse(text) {
        Ok(config) => sound(&config),
        Err((line, message)) => {
            assert!(!message.contains('\n') && !message.is_empty(), "{message:?}");
            assert!(line.is_none_or(|line| (1..=1 + text.matches('\n').count()).contains(&line)), "{line:?}");
        }
    }
}

fn sound(config: &Config) {
    assert!(!config.stores.is_empty());
    for path in config.stores.iter().chain([&config.agent.runtime_dir, &config.run.podman]) {
        assert!(path.is_absolute(), "{}", path.display());
    }
    assert!(config.agent.metrics_file().is_none_or(Path::is_absolute));
    for seconds in [config.step.start_timeout, config.step.end_timeout] {
        assert!((1..=3600).contains(&seconds), "{seconds}");
    }
    // It becomes an option of a mount.
    assert!(config.step.scratch_size.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'%'));
    for mount in &config.run.mounts {
        for path in [&mount.source, &mount.target] {
            assert!(path.is_absolute() && !path.components().any(|part| part == Component::ParentDir), "{mount:?}");
        }
        assert_ne!(mount.target, Path::new("/"));
    }
}
