//! How the variables of the user's command follow from those of the task.

use core::ffi::CStr;

use crate::fields::{Encoder, Fields};

/// What becomes of one variable. Entries are `NAME=VALUE`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule<'a> {
    /// It has this value.
    Set(&'a CStr),
    /// It has this value if the task does not have the variable.
    Default(&'a CStr),
    /// It has this value unless the task has the variable with the same value as the variable `other`.
    UnlessEqual {
        /// The entry.
        entry: &'a CStr,
        /// The name of the other variable.
        other: &'a CStr,
    },
    /// It is removed.
    Unset(&'a CStr),
}

const SET: u8 = b'S';
const DEFAULT: u8 = b'D';
const UNLESS_EQUAL: u8 = b'E';
const UNSET: u8 = b'U';

impl<'a> Rule<'a> {
    /// Writes the rule.
    #[must_use]
    pub fn write<F: FnMut(&[u8])>(&self, encoder: Encoder<F>) -> Encoder<F> {
        match self {
            Self::Set(entry) => encoder.parts(&[&[SET], entry.to_bytes()]),
            Self::Default(entry) => encoder.parts(&[&[DEFAULT], entry.to_bytes()]),
            Self::UnlessEqual { entry, other } => {
                encoder.parts(&[&[UNLESS_EQUAL], entry.to_bytes()]).field(other.to_bytes())
            }
            Self::Unset(name) => encoder.parts(&[&[UNSET], name.to_bytes()]),
        }
    }

    /// The rules in these fields; `None` for what is none.
    pub(crate) fn all(mut fields: Fields<'a>) -> impl Iterator<Item = Option<Self>> {
        core::iter::from_fn(move || {
            let field = fields.next()?;
            Some(Self::read(field, &mut fields))
        })
    }

    fn read(field: &'a CStr, rest: &mut Fields<'a>) -> Option<Self> {
        let (kind, text) = field.to_bytes_with_nul().split_first()?;
        let text = CStr::from_bytes_with_nul(text).ok()?;
        let rule = match *kind {
            SET => Self::Set(text),
            DEFAULT => Self::Default(text),
            UNLESS_EQUAL => Self::UnlessEqual { entry: text, other: rest.next()? },
            UNSET => Self::Unset(text),
            _ => return None,
        };
        Some(rule)
    }
}

/// The name of an entry, and its value if it has one.
#[must_use]
pub fn split(entry: &[u8]) -> (&[u8], Option<&[u8]>) {
    let end = entry.iter().position(|&byte| byte == b'=');
    end.and_then(|end| entry.split_at_checked(end)).map_or((entry, None), |(name, value)| (name, value.get(1..)))
}

/// Variables, in memory that the caller gives.
#[derive(Debug)]
pub struct Variables<'m, 'a> {
    entries: &'m mut [&'a CStr],
    length: usize,
}

impl<'m, 'a> Variables<'m, 'a> {
    /// No variables; there is room for as many as `entries` has.
    #[must_use]
    pub fn new(entries: &'m mut [&'a CStr]) -> Self {
        Self { entries, length: 0 }
    }

    /// The entries.
    #[must_use]
    pub fn entries(&self) -> &[&'a CStr] {
        self.entries.get(..self.length).unwrap_or_default()
    }

    /// Adds an entry, of a name that is not there yet. `None` if there is no room.
    pub fn push(&mut self, entry: &'a CStr) -> Option<()> {
        *self.entries.get_mut(self.length)? = entry;
        self.length += 1;
        Some(())
    }

    fn position(&self, name: &[u8]) -> Option<usize> {
        self.entries().iter().position(|entry| split(entry.to_bytes()).0 == name)
    }

    /// The value of a variable.
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&'a [u8]> {
        let entry = self.entries.get(self.position(name)?)?;
        split(entry.to_bytes()).1
    }

    /// Applies a rule. `None` if there is no room.
    pub fn apply(&mut self, rule: Rule<'a>) -> Option<()> {
        match rule {
            Rule::Set(entry) => self.set(entry),
            Rule::Default(entry) => match self.position(split(entry.to_bytes()).0) {
                Some(_) => Some(()),
                None => self.push(entry),
            },
            Rule::UnlessEqual { entry, other } => {
                let own = self.get(split(entry.to_bytes()).0);
                if own.is_some() && own == self.get(other.to_bytes()) { Some(()) } else { self.set(entry) }
            }
            Rule::Unset(name) => {
                if let Some(position) = self.position(name.to_bytes()) {
                    self.length -= 1;
                    // The order of variables has no meaning.
                    self.entries.swap(position, self.length);
                }
                Some(())
            }
        }
    }

    fn set(&mut self, entry: &'a CStr) -> Option<()> {
        match self.position(split(entry.to_bytes()).0).and_then(|position| self.entries.get_mut(position)) {
            Some(known) => *known = entry,
            None => self.push(entry)?,
        }
        Some(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn applied<'a>(room: &mut [&'a CStr], of_task: &[&'a CStr], rules: &[Rule<'a>]) -> Option<usize> {
        let mut variables = Variables::new(room);
        of_task.iter().try_for_each(|entry| variables.push(entry))?;
        rules.iter().try_for_each(|rule| variables.apply(*rule))?;
        Some(variables.entries().len())
    }

    #[test]
    fn rules_are_applied() {
        let mut room = [c""; 4];
        let rules = [
            Rule::Set(c"A=new"),
            Rule::Default(c"B=new"),
            Rule::Default(c"C=new"),
            Rule::Set(c"D=gone"),
            Rule::Unset(c"D"),
            Rule::Unset(c"E"),
        ];
        assert_eq!(applied(&mut room, &[c"A=1", c"B=2"], &rules), Some(3));
        assert_eq!(room.get(..3).unwrap(), [c"A=new", c"B=2", c"C=new"]);
    }

    #[test]
    fn a_value_that_equals_anothers_stays() {
        let rule = Rule::UnlessEqual { entry: c"THREADS=1", other: c"CPUS" };
        for (of_task, expected) in [
            (&[c"THREADS=4", c"CPUS=4"][..], c"THREADS=4"),
            (&[c"THREADS=8", c"CPUS=4"], c"THREADS=1"),
            (&[c"THREADS=8"], c"THREADS=1"),
        ] {
            let mut room = [c""; 4];
            assert!(applied(&mut room, of_task, &[rule]).is_some());
            assert_eq!(room.first(), Some(&expected));
        }
        let mut room = [c""; 4];
        assert_eq!(applied(&mut room, &[], &[rule]), Some(1));
    }

    #[test]
    fn there_may_be_no_room() {
        assert_eq!(applied(&mut [c""; 1], &[c"A=1"], &[Rule::Set(c"B=1")]), None);
        assert_eq!(applied(&mut [c""; 1], &[c"A=1"], &[Rule::Set(c"A=2")]), Some(1));
    }
}
