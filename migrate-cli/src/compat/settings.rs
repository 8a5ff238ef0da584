//! Options for mksquashfs and their effect on layers. Most have none: layers are made from their archives in one way, so that the
//! same layer gives the same bytes.

use anyhow::{Context as _, bail};
use clap::Parser;
use parallax_layers::Compression;

use crate::migration::{Settings, SettingsOptions, compression};

#[derive(Debug, Parser)]
struct Line {
    #[command(flatten)]
    settings: SettingsOptions,
}

/// The options with an effect, in any order; the last of equal options counts.
#[derive(Debug, Default)]
struct Given<'a> {
    compressor: Option<&'a str>,
    level: Option<&'a str>,
    high: bool,
    raw_data: bool,
    raw_fragments: bool,
    block_size: Option<String>,
    processors: Option<&'a str>,
    ignored: Vec<String>,
}

/// The settings for a migration, and the words that have no effect on it.
///
/// # Errors
/// A value is missing or invalid, or the compressor is not supported.
pub(super) fn from_mksquashfs(words: &[String]) -> anyhow::Result<(Settings, Vec<String>)> {
    let given = Given::read(words)?;
    let mut line = vec!["parallax".to_owned()];
    line.extend(given.block_size.as_ref().map(|size| format!("--block-size={size}")));
    line.extend(given.processors.map(|number| format!("--processors={number}")));
    let parsed = Line::try_parse_from(line).map_err(|error| {
        let text = error.to_string();
        anyhow::anyhow!("mksquashfs-opts: {}", text.lines().next().unwrap_or_default())
    })?;
    let mut settings = parsed.settings.settings()?;
    let compression = given.compression()?;
    let is_raw = given.raw_data || given.raw_fragments;
    settings.asked |= compression.is_some() || is_raw;
    settings.squashfs.compression = compression.unwrap_or(settings.squashfs.compression);
    settings.squashfs.raw_data = given.raw_data;
    settings.squashfs.raw_fragments = given.raw_fragments;
    Ok((settings, given.ignored))
}

impl<'a> Given<'a> {
    fn read(words: &'a [String]) -> anyhow::Result<Self> {
        let mut given = Self::default();
        let mut words = words.iter().map(String::as_str).peekable();
        while let Some(word) = words.next() {
            let mut value = || words.next().with_context(|| format!("mksquashfs-opts: {word} needs a value"));
            match word {
                "-comp" => given.compressor = Some(value()?),
                "-Xcompression-level" => given.level = Some(value()?),
                "-Xhc" => given.high = true,
                "-noD" | "-noDataCompression" => given.raw_data = true,
                "-noF" | "-noFragmentCompression" => given.raw_fragments = true,
                "-b" => given.block_size = Some(with_unit(value()?)),
                "-processors" => given.processors = Some(value()?),
                // These are so in any case.
                "-noappend" | "-no-progress" | "-quiet" | "-no-exports" | "-no-recovery" | "-exit-on-error" => {}
                other => {
                    given.ignored.push(other.to_owned());
                    while let Some(value) = words.next_if(|next| !next.starts_with('-')) {
                        given.ignored.push(value.to_owned());
                    }
                }
            }
        }
        Ok(given)
    }

    /// The compression, if the options say anything of it. A compressor's own options without `-comp` mean mksquashfs' default,
    /// gzip.
    fn compression(&self) -> anyhow::Result<Option<Compression>> {
        let Self { compressor, level, high, .. } = self;
        let Some(method) = compressor.or((level.is_some() || *high).then_some("gzip")) else { return Ok(None) };
        let parsed = match (method, level) {
            ("lz4", None) if *high => Ok(Compression::Lz4 { high: true }),
            (_, _) if *high => bail!("mksquashfs-opts: -Xhc is an option of lz4, not of {method}"),
            // mksquashfs' own default; the one here is another.
            ("zstd", None) => Ok(Compression::Zstd(15)),
            ("zstd" | "gzip", Some(level)) => compression(&format!("{method}:{level}")),
            (_, Some(_)) => bail!("mksquashfs-opts: {method} has no -Xcompression-level"),
            ("lz4" | "gzip" | "xz", None) => compression(method),
            _ => bail!("mksquashfs-opts: {method} is not supported; there are zstd, lz4, gzip and xz"),
        };
        parsed.map(Some).map_err(|error| anyhow::anyhow!("mksquashfs-opts: {error}"))
    }
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
    use super::*;

    fn settings(text: &str) -> anyhow::Result<(Settings, Vec<String>)> {
        from_mksquashfs(&text.split_whitespace().map(str::to_owned).collect::<Vec<_>>())
    }

    /// The compression, and what is stored as it is: data, fragments.
    fn compression(text: &str) -> (Compression, bool, bool) {
        let squashfs = settings(text).unwrap().0.squashfs;
        (squashfs.compression, squashfs.raw_data, squashfs.raw_fragments)
    }

    #[test]
    fn options_that_mean_something_are_kept_and_others_told() {
        let (known, ignored) = settings("-noappend -comp zstd -Xcompression-level 5 -b 1M -e a b -no-xattrs").unwrap();
        assert_eq!((known.squashfs.compression, known.squashfs.block_size), (Compression::Zstd(5), 1 << 20));
        assert_eq!(ignored, ["-e", "a", "b", "-no-xattrs"]);
        let (known, ignored) = settings("-processors 1 -Xwindow-size 15 -nonsense").unwrap();
        assert_eq!((known.squashfs.processors.get(), known.jobs), (1, 1));
        assert_eq!(ignored, ["-Xwindow-size", "15", "-nonsense"]);
    }

    #[test]
    fn a_level_holds_for_what_is_compressed_in_any_order() {
        let go_tools_own = "-noappend -comp zstd -Xcompression-level 3 -noD -no-xattrs";
        assert_eq!(compression(go_tools_own), (Compression::Zstd(3), true, false));
        assert_eq!(compression("-noF -Xcompression-level 3 -comp zstd"), (Compression::Zstd(3), false, true));
        assert_eq!(compression("-Xcompression-level 3"), (Compression::Gzip(3), false, false));
        assert_eq!(compression("-Xhc -comp lz4"), (Compression::Lz4 { high: true }, false, false));
        assert_eq!(compression("-comp xz -comp gzip"), (Compression::Gzip(9), false, false));
        assert_eq!(compression("-comp zstd").0, Compression::Zstd(15));
        assert_eq!(compression("-b 64k").0, parallax_layers::SquashfsOptions::default().compression);
    }

    #[test]
    fn what_mksquashfs_would_refuse_is_refused() {
        for (text, says) in [
            ("-comp lzma", "lzma is not supported"),
            ("-comp none", "none is not supported"),
            ("-comp", "-comp needs a value"),
            ("-b 3", "--block-size"),
            ("-b", "-b needs a value"),
            ("-comp zstd -Xcompression-level 23", "levels of zstd are 1 to 22"),
            ("-Xcompression-level 10", "levels of gzip are 1 to 9"),
            ("-comp lz4 -Xcompression-level 1", "lz4 has no -Xcompression-level"),
            ("-comp zstd -Xhc", "-Xhc is an option of lz4"),
        ] {
            let error = settings(text).unwrap_err().to_string();
            assert!(error.starts_with("mksquashfs-opts: ") && error.contains(says), "{text}: {error}");
        }
    }
}
