//! A list of entries, of which most stay the texts that they were in the file.

use std::borrow::{Borrow, Cow};
use std::cell::OnceCell;
use std::collections::hash_map::RandomState;
use std::collections::{BTreeSet, HashMap};
use std::hash::BuildHasher as _;
use std::marker::PhantomData;
use std::ops::Range;

use memchr::memmem::Finder;
use object::Object;
use serde::Serialize;
use serde::de::{DeserializeOwned, Error as _};
use serde_json::Value;
use serde_json::value::{RawValue, to_raw_value};

mod object;

/// Usual start of an entry that containers/storage writes.
const USUAL_BEGINNING: &str = "{\"id\":\"";

/// The fields of an entry that are understood.
pub(super) trait Fields: Default + DeserializeOwned {
    /// The entry's id; none is empty.
    fn id(&self) -> &str;
}

/// The entries, each with the fields `T`. The whole file is looked through once, for where its entries are; what is in them is
/// read of those that are asked for, as there may be very many.
#[derive(Debug)]
pub(super) struct List<T> {
    /// The file.
    text: String,
    entries: Vec<Entry>,
    /// Positions of the ids, by their hashes, the first of several; made when an id is looked up first.
    places: OnceCell<HashMap<u64, usize>>,
    hasher: RandomState,
    changed: bool,
    fields: PhantomData<T>,
}

#[derive(Debug)]
enum Entry {
    /// As it is in the file, there.
    Read(Range<usize>),
    /// Written anew.
    Written(Box<RawValue>),
}

impl<T: Fields> List<T> {
    /// Reads the bytes of a file.
    ///
    /// # Errors
    /// They are no JSON array.
    pub(super) fn parse(bytes: Vec<u8>) -> serde_json::Result<Self> {
        let text = String::from_utf8(bytes).map_err(serde_json::Error::custom)?;
        // containers/storage takes an empty file as an empty list.
        let texts: Option<Vec<&RawValue>> = if text.is_empty() { None } else { serde_json::from_str(&text)? };
        let place = |entry: &RawValue| {
            let start = entry.get().as_ptr().addr() - text.as_ptr().addr();
            Entry::Read(start..start + entry.get().len())
        };
        let entries = texts.into_iter().flatten().map(place).collect();
        let (places, hasher) = (OnceCell::new(), RandomState::new());
        Ok(Self { text, entries, places, hasher, changed: false, fields: PhantomData })
    }

    /// Whether it was changed since it was read.
    pub(super) fn changed(&self) -> bool {
        self.changed
    }

    /// The fields of all entries.
    pub(super) fn all(&self) -> impl Iterator<Item = T> {
        self.texts().map(fields)
    }

    /// The fields of the entries in which a string may be that holds `part`.
    pub(super) fn holding(&self, part: &str) -> impl Iterator<Item = (usize, T)> {
        let finder = Finder::new(part).into_owned();
        // What has a backslash may spell anything in another way.
        let may = move |text: &str| finder.find(text.as_bytes()).is_some() || text.contains('\\');
        self.texts().enumerate().filter(move |(_, text)| may(text)).map(|(at, text)| (at, fields(text)))
    }

    /// Returns the position of the first entry with this id.
    pub(super) fn place(&self, id: &str) -> Option<usize> {
        let is_it = |at: &usize| may_have_id(self.text(*at), id) && self.fields(*at).id() == id;
        let first = *self.places().get(&self.hasher.hash_one(id)).filter(|_| !id.is_empty())?;
        // The one with that hash may be one of whose fields not all are understood, and is not it then.
        Some(first).filter(is_it).or_else(|| (first..self.entries.len()).find(is_it))
    }

    /// The fields of the first entry with this id.
    pub(super) fn find(&self, id: &str) -> Option<T> {
        self.place(id).map(|at| self.fields(at))
    }

    /// All that is written of the first entry with this id.
    pub(super) fn value(&self, id: &str) -> Option<Value> {
        self.place(id).map(|at| serde_json::from_str(self.text(at)).unwrap_or_default())
    }

    /// Takes out the entries with these ids.
    pub(super) fn remove<Id: Borrow<str> + Ord>(&mut self, ids: &BTreeSet<Id>) {
        let before = self.entries.len();
        let Self { text, entries, .. } = self;
        entries.retain(|entry| {
            let text = entry.text(text);
            usual_id(text).is_some_and(|id| !ids.contains(id)) || !ids.contains(fields::<T>(text).id())
        });
        if self.entries.len() != before {
            self.changed = true;
            self.places.take();
        }
    }

    /// Adds an entry.
    ///
    /// # Errors
    /// The entry cannot be written as JSON.
    pub(super) fn push(&mut self, entry: &impl Serialize) -> serde_json::Result<()> {
        let text = to_raw_value(entry)?;
        if let Some(places) = self.places.get_mut() {
            places.entry(self.hasher.hash_one(&*id::<T>(text.get()))).or_insert(self.entries.len());
        }
        self.entries.push(Entry::Written(text));
        self.changed = true;
        Ok(())
    }

    /// Writes a field of an entry anew, which must not be the id. The others stay as they are.
    pub(super) fn set(&mut self, at: usize, field: &str, to: &impl Serialize) {
        let write = |text: &str| -> serde_json::Result<Box<RawValue>> {
            let mut object: Object = serde_json::from_str(text)?;
            let value = to_raw_value(to)?;
            object.set(field, &value);
            to_raw_value(&object)
        };
        // An entry with fields that are understood is an object.
        let written = write(self.text(at));
        if let (Ok(text), Some(entry)) = (written, self.entries.get_mut(at)) {
            *entry = Entry::Written(text);
            self.changed = true;
        }
    }

    /// The bytes of the file, in pieces to be written one after the other: entries that follow one another as they did
    /// before are one.
    pub(super) fn pieces(&self) -> Vec<&[u8]> {
        let mut parts: Vec<&str> = Vec::new();
        let mut run: Option<Range<usize>> = None;
        for entry in &self.entries {
            match (entry, &mut run) {
                (Entry::Read(here), Some(run)) if self.are_neighbours(run.end, here.start) => run.end = here.end,
                (Entry::Read(here), _) => {
                    parts.extend(run.replace(here.clone()).map(|run| &self.text[run]));
                }
                (Entry::Written(text), _) => {
                    parts.extend(run.take().map(|run| &self.text[run]).into_iter().chain([text.get()]));
                }
            }
        }
        parts.extend(run.map(|run| &self.text[run]));
        let mut pieces = vec![b"[".as_slice()];
        for (number, part) in parts.into_iter().enumerate() {
            pieces.extend((number > 0).then_some(b",".as_slice()));
            pieces.push(part.as_bytes());
        }
        pieces.push(b"]");
        pieces
    }

    /// Whether between two entries of the file there is none that was taken out.
    fn are_neighbours(&self, end: usize, start: usize) -> bool {
        self.text[end..start].bytes().all(|byte| byte == b',' || byte.is_ascii_whitespace())
    }

    fn places(&self) -> &HashMap<u64, usize> {
        self.places.get_or_init(|| {
            let hash = |text| self.hasher.hash_one(&*id::<T>(text));
            let places = self.texts().map(hash).enumerate().collect::<Vec<_>>();
            // Backwards, so that the first one stays.
            places.into_iter().rev().map(|(at, hash)| (hash, at)).collect()
        })
    }

    /// The fields of one entry.
    pub(super) fn fields(&self, at: usize) -> T {
        fields(self.text(at))
    }

    fn text(&self, at: usize) -> &str {
        self.entries.get(at).map_or("", |entry| entry.text(&self.text))
    }

    fn texts(&self) -> impl Iterator<Item = &str> {
        self.entries.iter().map(|entry| entry.text(&self.text))
    }
}

impl Entry {
    fn text<'a>(&'a self, file: &'a str) -> &'a str {
        match self {
            Self::Read(range) => &file[range.clone()],
            Self::Written(text) => text.get(),
        }
    }
}

/// An entry of another shape than known belongs to nobody here and is kept.
fn fields<T: Fields>(text: &str) -> T {
    // serde takes an array for a structure too.
    Some(text).filter(|text| text.starts_with('{')).and_then(|text| serde_json::from_str(text).ok()).unwrap_or_default()
}

/// The id of an entry that begins as usual. Whether all that follows is understood is not known.
fn usual_id(text: &str) -> Option<&str> {
    let (id, _) = text.strip_prefix(USUAL_BEGINNING)?.split_once('"')?;
    Some(id).filter(|id| !id.contains('\\'))
}

fn id<T: Fields>(text: &str) -> Cow<'_, str> {
    usual_id(text).map_or_else(|| Cow::Owned(fields::<T>(text).id().to_owned()), Cow::Borrowed)
}

fn may_have_id(text: &str, id: &str) -> bool {
    usual_id(text).is_none_or(|usual| usual == id)
}
