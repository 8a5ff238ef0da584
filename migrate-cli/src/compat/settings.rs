//! What options for mksquashfs mean for layers, as far as they mean anything: layers are made from their archives, in one
//! way, so that the same layer gives the same bytes.

use clap::Parser;

use crate::migration::{Settings, SettingsOptions};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    settings: SettingsOptions,
}

/// The settings for a migration, and the words that have no effect on it.
///
/// # Errors
/// If a value makes no sense.
pub fn from_mksquashfs(words: &[String]) -> anyhow::Result<(Settings, Vec<String>)> {
    let (mut compression, mut level, mut ignored) = (None, None, Vec::new());
    let mut line = vec!["parallax".to_owned()];
    let mut words = words.iter().map(String::as_str).peekable();
    while let Some(word) = words.next() {
        match word {
            "-comp" => compression = words.next().map(str::to_owned),
            "-Xcompression-level" => level = words.next(),
            "-noD" | "-noDataCompression" => compression = Some("none".to_owned()),
            "-b" => line.extend(words.next().map(|size| format!("--block-size={}", with_unit(size)))),
            "-processors" => line.extend(words.next().map(|number| format!("--processors={number}"))),
            // These are so in any case.
            "-noappend" | "-no-progress" | "-quiet" | "-no-duplicates" => {}
            other => {
                ignored.push(other.to_owned());
                ignored.extend(words.next_if(|next| !next.starts_with('-')).map(str::to_owned));
            }
        }
    }
    if let Some(method) = compression {
        let level = level.filter(|_| method == "zstd").map_or(String::new(), |level| format!(":{level}"));
        line.push(format!("--compression={method}{level}"));
    }
    let parsed = Line::try_parse_from(line).map_err(|error| {
        let text = error.to_string();
        anyhow::anyhow!("mksquashfs-opts: {}", text.lines().next().unwrap_or_default())
    })?;
    Ok((parsed.settings.settings()?, ignored))
}

/// mksquashfs means 1024 and its powers.
fn with_unit(size: &str) -> String {
    match size.strip_suffix(['k', 'K']) {
        Some(number) => format!("{number}KiB"),
        None => size.strip_suffix(['m', 'M']).map_or_else(|| size.to_owned(), |number| format!("{number}MiB")),
    }
}

#[cfg(test)]
mod tests {
    use parallax_layers::Compression;

    use super::*;

    fn settings(text: &str) -> anyhow::Result<(Settings, Vec<String>)> {
        from_mksquashfs(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    #[test]
    fn options_that_mean_something_are_kept_and_others_told() {
        let (known, ignored) = settings("-noappend -comp zstd -Xcompression-level 5 -b 1M -e a -no-xattrs").unwrap();
        assert_eq!((known.squashfs.compression, known.squashfs.block_size), (Compression::Zstd(5), 1 << 20));
        assert_eq!(ignored, ["-e", "a", "-no-xattrs"]);
        let (known, _) = settings("-comp zstd -Xcompression-level 1 -noD").unwrap();
        assert_eq!(known.squashfs.compression, Compression::None);
        let (known, _) = settings("-processors 1").unwrap();
        assert_eq!((known.squashfs.processors.get(), known.jobs), (1, 1));
        assert!(settings("-comp lzma").is_err());
        assert!(settings("-b 3").is_err());
    }
}
