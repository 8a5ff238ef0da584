//! `registries.conf`, and what short names come to by it.

use parallax_migrate_cli::source::registries::Registries;
use parallax_migrate_cli::source::short_name::candidates;

/// Any text is refused, or says what a short name may stand for: at least one name, each with a registry.
///
/// # Panics
/// If it does not.
pub fn check(input: &[u8]) {
    let text = String::from_utf8_lossy(input);
    let Ok(registries) = Registries::parse(&text) else { return };
    let words = registries.aliases.keys().map(String::as_str).take(5).chain(["debian", "a/b:1", "quay.io/a"]);
    for word in words {
        if let Ok(names) = candidates(word, &registries, None) {
            assert!(!names.is_empty(), "{word}");
        }
    }
}
