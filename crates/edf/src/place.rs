//! Positions in a file.

use std::fmt;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

/// A position in a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<Path>,
    /// The line, from 1.
    pub line: usize,
    /// The column in characters, from 1.
    pub column: usize,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, line {}, column {}", self.file.display(), self.line, self.column)
    }
}

/// A value and its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Located<T> {
    /// The value.
    pub value: T,
    /// Its position.
    pub place: Place,
}

/// A string and its position.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Text {
    /// The string.
    pub value: String,
    /// Its position: that of the first quotation mark.
    pub place: Place,
    /// True if the file has the string letter for letter, in one line, so that positions in it are known.
    pub is_literal: bool,
}

impl Text {
    /// The position of the character that begins at a byte of the string; that of the string if that is not known.
    pub(crate) fn place_of(&self, byte: usize) -> Place {
        let mut place = self.place.clone();
        if self.is_literal {
            place.column += 1 + self.value.get(..byte).map_or(0, |before| before.chars().count());
        }
        place
    }
}

/// A file's text, in which positions are found.
#[derive(Debug, Clone)]
pub(crate) struct Source<'a> {
    /// The file.
    pub file: &'a Arc<Path>,
    /// Its text.
    pub text: &'a str,
}

impl Source<'_> {
    /// The position of a byte.
    pub(crate) fn place(&self, byte: usize) -> Place {
        let before = self.text.get(..byte).unwrap_or(self.text);
        let line = before.rsplit('\n').next().unwrap_or_default();
        Place { file: Arc::clone(self.file), line: before.matches('\n').count() + 1, column: line.chars().count() + 1 }
    }

    /// A string that the file has at these bytes.
    pub(crate) fn string(&self, value: &str, span: &Range<usize>) -> Text {
        let raw = self.text.get(span.clone()).unwrap_or_default();
        let inner = raw.get(1..raw.len().saturating_sub(1)).unwrap_or_default();
        let place = self.place(span.start);
        Text { value: value.to_owned(), place, is_literal: inner == value && !inner.contains('\n') }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_and_columns_begin_with_one() {
        let file = Arc::from(Path::new("/e/a.toml"));
        let source = Source { file: &file, text: "a = 1\nü = \"x\"\n" };
        assert_eq!(source.place(0).to_string(), "/e/a.toml, line 1, column 1");
        assert_eq!(source.place(11).to_string(), "/e/a.toml, line 2, column 5");
        let text = source.string("x", &(11..14));
        assert_eq!((text.place_of(0).column, text.is_literal), (6, true));
        assert!(!source.string("y", &(11..14)).is_literal);
    }
}
