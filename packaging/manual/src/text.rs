//! Paragraphs as doc comments have them, with program text in backticks.

use clap_mangen::roff::{Inline, bold, roman};

/// The lines of a doc comment as one paragraph.
pub(crate) fn paragraph(lines: &[&str]) -> String {
    lines.iter().map(|line| line.trim()).collect::<Vec<_>>().join(" ")
}

/// A paragraph for a manual page: program text is bold.
pub(crate) fn inlines(paragraph: &str) -> Vec<Inline> {
    let parts = paragraph.split('`').enumerate();
    parts.map(|(at, part)| if at % 2 == 0 { roman(part) } else { bold(part) }).collect()
}

/// A paragraph as comment lines of at most 120 columns: program text is quoted. The first line begins with `first`, others with
/// `further`.
pub(crate) fn comment(paragraph: &str, first: &str, further: &str) -> String {
    const WIDTH: usize = 120;
    let mut lines = vec![first.to_owned()];
    for word in paragraph.replace('`', "\"").split(' ') {
        let full = lines.last().is_some_and(|line| line.len() + 1 + word.len() > WIDTH);
        if full {
            lines.push(further.to_owned());
        }
        if let Some(line) = lines.last_mut() {
            line.push(' ');
            line.push_str(word);
        }
    }
    lines.join("\n") + "\n"
}
