//! Parsing and formatting of sizes and times.
//!
//! No crate serves: `humansize` and `bytesize` round to decimal places, Podman to three digits.

use std::collections::BTreeMap;
use std::time::Duration;

use parallax_format::record::ImageRecord;

/// Formats a size in bytes with three digits and a decimal unit, as `podman images` does.
pub(crate) fn bytes(size: u64) -> String {
    const UNITS: [&str; 4] = ["kB", "MB", "GB", "TB"];
    let mut value = size as f64;
    if value < 999.5 {
        return format!("{size} B");
    }
    value /= 1000.0;
    let mut unit = "PB";
    for smaller in UNITS {
        if value < 999.5 {
            unit = smaller;
            break;
        }
        value /= 1000.0;
    }
    match value {
        ..9.995 => format!("{value:.2} {unit}"),
        ..99.95 => format!("{value:.1} {unit}"),
        _ => format!("{value:.0} {unit}"),
    }
}

/// Formats a count: `1 writer`, `2 writers`.
pub(crate) fn count(number: usize, thing: &str) -> String {
    format!("{number} {thing}{}", if number == 1 { "" } else { "s" })
}

/// Returns the sum of untrusted sizes, saturated at the largest number.
pub(crate) fn total(sizes: impl IntoIterator<Item = u64>) -> u64 {
    sizes.into_iter().fold(0, u64::saturating_add)
}

/// Returns the sizes of an image in bytes: of its unpacked layers, and of their SquashFS files, each once.
pub(crate) fn sizes(record: &ImageRecord) -> (u64, u64) {
    let files: BTreeMap<String, u64> =
        record.layers.iter().map(|layer| (layer.file_path(), layer.squashfs_size)).collect();
    (total(record.layers.iter().map(|layer| layer.size)), total(files.into_values()))
}

/// Parses a size in bytes, with a decimal unit (`200GB`), a binary one (`4TiB`) or none.
pub(crate) fn parse(text: &str) -> Result<u64, String> {
    const UNITS: [(&str, u64); 11] = [
        ("", 1),
        ("B", 1),
        ("kB", 1000),
        ("KiB", 1 << 10),
        ("MB", 1_000_000),
        ("MiB", 1 << 20),
        ("GB", 1_000_000_000),
        ("GiB", 1 << 30),
        ("TB", 1_000_000_000_000),
        ("TiB", 1 << 40),
        ("PiB", 1 << 50),
    ];
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim();
    let factor = UNITS.iter().find(|(name, _)| name.eq_ignore_ascii_case(unit)).map(|(_, factor)| *factor);
    let number: Option<u64> = digits.parse().ok();
    let size = number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor));
    size.ok_or_else(|| "a size is a whole number and a unit: 200GB, 4TiB".to_owned())
}

/// Parses a time with a unit: `90s`, `30min`, `24h`, `7d`.
pub(crate) fn parse_time(text: &str) -> Result<Duration, String> {
    const UNITS: [(&str, u64); 5] = [("s", 1), ("min", 60), ("m", 60), ("h", 3600), ("d", 86_400)];
    let digits = text.trim_end_matches(|c: char| !c.is_ascii_digit());
    let unit = text[digits.len()..].trim();
    let factor = UNITS.iter().find(|(name, _)| *name == unit).map(|(_, factor)| *factor);
    let number: Option<u64> = digits.parse().ok();
    let seconds = match number {
        Some(0) if unit.is_empty() => Some(0),
        number => number.zip(factor).and_then(|(number, factor)| number.checked_mul(factor)),
    };
    seconds
        .map(Duration::from_secs)
        .ok_or_else(|| "a time is a whole number and a unit: 90s, 30min, 24h, 7d".to_owned())
}

/// Lays out lines of cells in columns. Columns without content are left out.
pub(crate) fn columns<const N: usize>(lines: &[[String; N]]) -> String {
    let mut widths = [0; N];
    for line in lines {
        for (width, cell) in widths.iter_mut().zip(line) {
            *width = cell.len().max(*width);
        }
    }
    lines.iter().fold(String::new(), |mut text, line| {
        let cells = line.iter().zip(&widths).filter(|(_, width)| **width > 0);
        let cells: Vec<String> = cells.map(|(cell, width)| format!("{cell:width$}")).collect();
        text.push_str(cells.join("  ").trim_end());
        text.push('\n');
        text
    })
}

#[cfg(test)]
mod tests {
    use super::{Duration, bytes, parse, parse_time};

    #[test]
    fn times_are_read() {
        for (text, seconds) in [("0", 0), ("0s", 0), ("90s", 90), ("30min", 1800), ("24h", 86_400), ("7 d", 604_800)] {
            assert_eq!(parse_time(text).unwrap(), Duration::from_secs(seconds), "{text}");
        }
        for text in ["", "h", "5", "1.5h", "99999999999999999999d", "3 weeks"] {
            assert!(parse_time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read() {
        for (text, size) in [("0", 0), ("12", 12), ("200GB", 200_000_000_000), ("4 TiB", 4 << 40), ("1mib", 1 << 20)] {
            assert_eq!(parse(text).unwrap(), size, "{text}");
        }
        for text in ["", "GB", "1.5GB", "1 parsec", "99999999PiB"] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn three_digits_and_a_unit() {
        for (size, text) in [
            (0, "0 B"),
            (999, "999 B"),
            (1000, "1.00 kB"),
            (12_345, "12.3 kB"),
            (999_499, "999 kB"),
            (999_500, "1.00 MB"),
            (118_000_000, "118 MB"),
        ] {
            assert_eq!(bytes(size), text);
        }
    }
}
