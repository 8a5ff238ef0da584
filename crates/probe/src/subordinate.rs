//! A user's subordinate ids in a file such as `/etc/subuid` (`subuid(5)`).
//!
//! Podman takes all ranges under the user's name and all under the number (containers/storage `pkg/idtools`, `parseSubidFile`;
//! shadow's libsubid, `list_owner_ranges`), sorts them by their first id and maps one after the other. newuidmap(1) accepts both
//! owners, too. Neither merges ranges that overlap: the kernel refuses the map, and so Podman fails. Here such a range is left out and
//! its line is named.

use serde::{Deserialize, Serialize};

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
