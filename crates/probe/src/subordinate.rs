//! A user's subordinate ids, from a file such as `/etc/subuid` (`subuid(5)`) or from the module that `nsswitch.conf(5)` names.
//!
//! shadow reads one source: the first word after `subid:`, and the files without such a word (`lib/nss.c`, `nss_init`). Podman asks
//! libsubid for the ids, by the user's name and, if it has none for the name, by the number (containers/storage
//! `pkg/idtools/idtools_supported.go`). So the module is asked here by libsubid, too; without libsubid on the machine the files
//! count, as they do for a Podman without it.
//!
//! Podman takes all ranges under the user's name and all under the number (containers/storage `pkg/idtools`, `parseSubidFile`;
//! shadow's libsubid, `list_owner_ranges`), sorts them by their first id and maps one after the other. newuidmap(1) accepts both
//! owners, too. Neither merges ranges that overlap: the kernel refuses the map, and so Podman fails. Here such a range is left out and
//! its line is named.

use std::ffi::CString;
use std::fmt::Write as _;
use std::path::Path;

use parallax_sys::subid::{Libsubid, SubidKind};
use serde::{Deserialize, Serialize};

/// The configuration of name services.
const NSSWITCH: &str = "/etc/nsswitch.conf";

/// The source of subordinate ids on a machine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// `/etc/subuid` and `/etc/subgid`.
    Files,
    /// The module of this name, such as `sss`.
    Module(String),
}

impl Source {
    /// Returns the source that this machine's `nsswitch.conf` names.
    #[must_use]
    pub fn of_this_machine() -> Self {
        Self::of_file(Path::new(NSSWITCH))
    }

    fn of_file(path: &Path) -> Self {
        // As shadow: without a readable file the source is the files.
        std::fs::read(path).map_or(Self::Files, |text| Self::parse(&String::from_utf8_lossy(&text)))
    }

    /// Returns the name of the source for messages; `file` is the name of a file with ids.
    #[must_use]
    pub fn describe(&self, file: &str) -> String {
        match self {
            Self::Files => file.to_owned(),
            Self::Module(module) => format!("the source \"{module}\" (subid in {NSSWITCH})"),
        }
    }

    /// Parses `nsswitch.conf`: the first line with a source counts, and its first source.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        const KEY: &str = "subid:";
        let sources = |line: &'_ str| -> Option<String> {
            let (key, sources) = line.split_at_checked(KEY.len())?;
            let first = sources.split([' ', '\t']).find(|word| !word.is_empty())?;
            key.eq_ignore_ascii_case(KEY).then(|| first.to_owned())
        };
        match text.lines().find_map(sources) {
            Some(module) if module != "files" => Self::Module(module),
            _ => Self::Files,
        }
    }
}

/// The ids of a user from a module, in the form of the files.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// As in `/etc/subuid`.
    pub users: String,
    /// As in `/etc/subgid`.
    pub groups: String,
}

impl Listed {
    /// Asks the module of this machine for the ids of the user `name` with the number `uid`. Calls code of third parties, which may
    /// hang. A module that reports an error gives no ids: libsubid does not distinguish an error from an unknown user.
    ///
    /// # Errors
    /// The reason why libsubid cannot be loaded.
    pub fn by_module(name: &str, uid: u32) -> Result<Self, String> {
        let library = Libsubid::load()?;
        let number = uid.to_string();
        let list = |kind| {
            let ranges =
                |owner: &str| library.ranges(kind, &CString::new(owner).ok()?).filter(|ranges| !ranges.is_empty());
            let found = ranges(name).or_else(|| ranges(&number)).unwrap_or_default();
            found.iter().fold(String::new(), |mut text, (start, count)| {
                let _ = writeln!(text, "{number}:{start}:{count}");
                text
            })
        };
        Ok(Self { users: list(SubidKind::User), groups: list(SubidKind::Group) })
    }
}

/// A range of subordinate ids.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct SubordinateRange {
    /// The first id.
    pub start: u32,
    /// The number of ids.
    pub count: u32,
}

impl SubordinateRange {
    /// The id after the last one.
    fn end(self) -> u32 {
        self.start.saturating_add(self.count)
    }

    fn has(self, id: u32) -> bool {
        (self.start..self.end()).contains(&id)
    }
}

/// The ranges of a user, and the lines that are at fault.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Subordinate {
    /// The ranges, by their first id; none overlaps another or has the user's own id.
    pub ranges: Vec<SubordinateRange>,
    /// The user's lines that cannot be used.
    pub faults: Vec<Fault>,
}

/// A line that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// The line's number, from 1.
    pub line: usize,
    /// The line.
    pub text: String,
    /// The kind of the fault.
    pub kind: FaultKind,
}

/// The kind of a fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FaultKind {
    /// No `OWNER:FIRST:COUNT` with numbers, no ids at all, or more than there are. Passed over, as shadow's tools do.
    Malformed,
    /// Ids that an earlier range, in the order of first ids, has already: that of this line.
    Overlap(usize),
    /// The user's own id is among them, and an id can be in a map only once.
    OwnId(u32),
}

impl Fault {
    /// Returns `true` if the kernel refuses a map with this range, so that no container starts.
    #[must_use]
    pub fn is_fatal(&self) -> bool {
        self.kind != FaultKind::Malformed
    }

    /// The line and what is wrong with it: a part of a sentence.
    #[must_use]
    pub fn describe(&self, file: &str) -> String {
        let line = format!("line {} of {file} (\"{}\")", self.line, self.text.escape_debug());
        match self.kind {
            FaultKind::Malformed => format!("{line} is malformed"),
            FaultKind::Overlap(other) => format!("{line} overlaps line {other}"),
            FaultKind::OwnId(id) => format!("{line} contains the user's own id {id}"),
        }
    }
}

impl Subordinate {
    /// The ranges of the user `name` with the number `uid`. `own` is the id that is mapped beside them: `uid`, or the user's group.
    #[must_use]
    pub fn parse(text: &str, name: &str, uid: u32, own: u32) -> Self {
        let number = uid.to_string();
        let mut found = Vec::new();
        let mut faults = Vec::new();
        for (line, text) in (1..).zip(text.lines().map(str::trim)) {
            if !text.split_once(':').is_some_and(|(owner, _)| owner == name || owner == number) {
                continue;
            }
            match range(text) {
                Some(range) => found.push((range, line, text)),
                None => faults.push(Fault { line, text: text.to_owned(), kind: FaultKind::Malformed }),
            }
        }
        found.sort_by_key(|(range, ..)| *range);
        let mut last: Option<(SubordinateRange, usize)> = None;
        let mut ranges = Vec::new();
        for (range, line, text) in found {
            let kind = match last {
                Some((before, other)) if before.end() > range.start => FaultKind::Overlap(other),
                _ if range.has(own) => FaultKind::OwnId(own),
                _ => {
                    ranges.push(range);
                    last = Some((range, line));
                    continue;
                }
            };
            faults.push(Fault { line, text: text.to_owned(), kind });
        }
        faults.sort_by_key(|fault| fault.line);
        Self { ranges, faults }
    }
}

/// The ids of a line `OWNER:FIRST:COUNT`.
fn range(line: &str) -> Option<SubordinateRange> {
    let mut parts = line.split(':').skip(1);
    let range = SubordinateRange { start: parts.next()?.parse().ok()?, count: parts.next()?.parse().ok()? };
    let usable = parts.next().is_none() && range.count > 0 && range.start.checked_add(range.count).is_some();
    usable.then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> (Vec<(u32, u32)>, Vec<String>) {
        let Subordinate { ranges, faults } = Subordinate::parse(text, "u1", 1001, 1001);
        let ranges = ranges.iter().map(|range| (range.start, range.count)).collect();
        (ranges, faults.iter().map(|fault| fault.describe("F")).collect())
    }

    #[test]
    fn the_source_is_the_first_word_of_the_first_line_with_one() {
        let module = |name: &str| Source::Module(name.to_owned());
        for (text, source) in [
            ("", Source::Files),
            ("passwd: files sss\n", Source::Files),
            ("subid: files sss\n", Source::Files),
            ("passwd: files\nSubID:\t sss files\n", module("sss")),
            ("subid:sss", module("sss")),
            ("subid:\nsubid: \nsubid: ldap\n", module("ldap")),
            ("#subid: sss\nsubid: files\n", Source::Files),
            (" subid: sss\n", Source::Files),
            ("sübid: sss\n", Source::Files),
        ] {
            assert_eq!(Source::parse(text), source, "{text:?}");
        }
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("nsswitch.conf");
        assert_eq!(Source::of_file(&file), Source::Files);
        std::fs::write(&file, b"\xff\nsubid: sss\n").unwrap();
        assert_eq!(Source::of_file(&file), module("sss"));
    }

    #[test]
    fn ranges_under_name_and_number_are_merged() {
        let text = "u2:5:5\n1001:300:7\n u1:100:5 \n#u1:1:1\n10010:1:1\nu1x:1:1\n";
        assert_eq!(parse(text), (vec![(100, 5), (300, 7)], Vec::new()));
        assert_eq!(parse("u2:5:5\n"), (Vec::new(), Vec::new()));
    }

    #[test]
    fn ranges_that_touch_stay_two() {
        assert_eq!(parse("u1:105:5\nu1:100:5\n"), (vec![(100, 5), (105, 5)], Vec::new()));
    }

    #[test]
    fn malformed_lines_are_passed_over_and_named() {
        let text = "u1:bad:1\nu1:4294967295:9\nu1:9:0\nu1:1\nu1:1:1:1\nu1:7:1\n";
        let (ranges, faults) = parse(text);
        assert_eq!((ranges, faults.len()), (vec![(7, 1)], 5));
        assert_eq!(faults[0], "line 1 of F (\"u1:bad:1\") is malformed");
    }

    #[test]
    fn a_line_that_overlaps_another_is_named() {
        let duplicate = parse("u1:100000:65536\n\nu1:100000:65536\n");
        assert_eq!(
            duplicate,
            (vec![(100_000, 65_536)], vec!["line 3 of F (\"u1:100000:65536\") overlaps line 1".to_owned()])
        );
        // A wide range hides several others.
        let (ranges, faults) = parse("u1:150:10\n1001:100:100\nu1:199:2\nu1:200:1\n");
        assert_eq!(ranges, [(100, 100), (200, 1)]);
        assert_eq!(
            faults,
            ["line 1 of F (\"u1:150:10\") overlaps line 2", "line 3 of F (\"u1:199:2\") overlaps line 2"]
        );
    }

    #[test]
    fn a_range_with_the_users_own_id_is_named() {
        let (ranges, faults) = parse("u1:1000:65536\nu1:100000:10\n");
        assert_eq!(ranges, [(100_000, 10)]);
        assert_eq!(faults, ["line 1 of F (\"u1:1000:65536\") contains the user's own id 1001"]);
    }
}
