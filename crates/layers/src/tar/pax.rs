//! Extended headers of POSIX (PAX) tar archives: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.

use base64::Engine as _;

/// Maximum number of extended attributes of one entry: twice as many as Linux lists (64 KiB of names).
const MAX_XATTRS: usize = 4096;

/// The content of the extended headers before an entry. For missing fields the entry's header counts.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pax {
    pub(crate) path: Option<Vec<u8>>,
    pub(crate) link_path: Option<Vec<u8>>,
    pub(crate) size: Option<u64>,
    pub(crate) uid: Option<u64>,
    pub(crate) gid: Option<u64>,
    pub(crate) mtime: Option<i64>,
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: PaxSparse,
}

/// A sparse file in the three forms of GNU tar's extended headers.
#[derive(Debug, Clone, Default)]
pub(crate) struct PaxSparse {
    /// `GNU.sparse.name`: the real name; the header then has a substitute.
    pub(crate) name: Option<Vec<u8>>,
    /// The file's size with its holes (`GNU.sparse.realsize` in 1.0, `GNU.sparse.size` before).
    pub(crate) real_size: Option<u64>,
    /// 1 in format 1.0, whose map is at the start of the data.
    pub(crate) major: Option<u64>,
    /// The map of formats 0.0 and 0.1: numbers, offset and length in turn.
    pub(crate) map: Vec<u64>,
}

impl Pax {
    /// Adds the records of one extended header; `None` if they are invalid.
    pub(crate) fn merge(&mut self, mut records: &[u8]) -> Option<()> {
        while records.first().is_some_and(|&first| first != 0) {
            let space = records.iter().position(|&b| b == b' ')?;
            let length = usize::try_from(decimal(records.get(..space)?)?).ok()?;
            let record = records.get(space + 1..length)?.strip_suffix(b"\n")?;
            let equals = record.iter().position(|&b| b == b'=')?;
            self.set(record.get(..equals)?, record.get(equals + 1..)?)?;
            records = records.get(length..)?;
        }
        Some(())
    }

    /// Sets a field. An empty value resets a field of a global header.
    fn set(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let bytes = || (!value.is_empty()).then(|| value.to_vec());
        let number = || if value.is_empty() { Some(None) } else { decimal(value).map(Some) };
        match key {
            b"path" => self.path = bytes(),
            b"linkpath" => self.link_path = bytes(),
            b"size" => self.size = number()?,
            b"uid" => self.uid = number()?,
            b"gid" => self.gid = number()?,
            b"mtime" => self.mtime = if value.is_empty() { None } else { Some(seconds(value)?) },
            b"GNU.sparse.name" => self.sparse.name = bytes(),
            b"GNU.sparse.realsize" | b"GNU.sparse.size" => self.sparse.real_size = number()?,
            b"GNU.sparse.major" => self.sparse.major = number()?,
            b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => self.sparse.map.push(decimal(value)?),
            b"GNU.sparse.map" => {
                self.sparse.map = value.split(|&b| b == b',').map(decimal).collect::<Option<_>>()?;
            }
            _ => return self.set_xattr(key, value),
        }
        Some(())
    }

    fn set_xattr(&mut self, key: &[u8], value: &[u8]) -> Option<()> {
        let (name, value) = if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
            (name.to_vec(), value.to_vec())
        } else if let Some(name) = key.strip_prefix(b"LIBARCHIVE.xattr.") {
            // bsdtar writes both forms; only SCHILY's is exact.
            let (name, value) = (percent_decoded(name), base64_decoded(value));
            let (false, Some(value)) = (self.xattrs.iter().any(|(known, _)| *known == name), value) else {
                return Some(());
            };
            (name, value)
        } else {
            return Some(());
        };
        self.xattrs.retain(|(known, _)| *known != name);
        self.xattrs.push((name, value));
        (self.xattrs.len() <= MAX_XATTRS).then_some(())
    }
}

/// Returns a record in the form of a header, with its own length.
pub(crate) fn record(key: &[u8], value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let digits = |n: usize| n.to_string().len();
    let mut length = rest + digits(rest);
    if digits(length) > digits(rest) {
        length = rest + digits(length);
    }
    [length.to_string().as_bytes(), b" ", key, b"=", value, b"\n"].concat()
}

pub(crate) fn decimal(text: &[u8]) -> Option<u64> {
    let text = text.trim_ascii();
    if text.is_empty() || !text.iter().all(u8::is_ascii_digit) {
        return None;
    }
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// Parses a decimal number into whole seconds, rounded down, since SquashFS has no fractions.
fn seconds(text: &[u8]) -> Option<i64> {
    let text = std::str::from_utf8(text).ok()?;
    let (whole, fraction) = text.split_once('.').unwrap_or((text, ""));
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let seconds: i64 = whole.parse().ok()?;
    let below = whole.starts_with('-') && fraction.bytes().any(|b| b != b'0');
    Some(if below { seconds.checked_sub(1)? } else { seconds })
}

/// Decodes an attribute name, which libarchive escapes as in URLs.
fn percent_decoded(name: &[u8]) -> Vec<u8> {
    let mut decoded = Vec::with_capacity(name.len());
    let mut rest = name;
    while let Some((&byte, tail)) = rest.split_first() {
        let hex = tail.get(..2).filter(|_| byte == b'%').and_then(|hex| std::str::from_utf8(hex).ok());
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                decoded.push(value);
                rest = tail.get(2..).unwrap_or_default();
            }
            None => {
                decoded.push(byte);
                rest = tail;
            }
        }
    }
    decoded
}

fn base64_decoded(value: &[u8]) -> Option<Vec<u8>> {
    let bare: Vec<u8> = value.iter().copied().filter(|&b| b != b'=' && !b.is_ascii_whitespace()).collect();
    base64::engine::general_purpose::STANDARD_NO_PAD.decode(bare).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_counts_its_own_length() {
        assert_eq!(record(b"k", b"v"), b"6 k=v\n");
        for size in 0..1100 {
            let record = record(b"key", &vec![b'x'; size]);
            let length: usize = decimal(record.split(|&b| b == b' ').next().unwrap()).unwrap() as usize;
            assert_eq!(length, record.len());
        }
    }

    #[test]
    fn binary_values_survive() {
        let value = b"\x01\0\0\x02\n=\xff 12 x=y\n";
        let mut pax = Pax::default();
        pax.merge(&[record(b"SCHILY.xattr.security.capability", value), record(b"uid", b"3000000")].concat()).unwrap();
        assert_eq!(pax.xattrs, [(b"security.capability".to_vec(), value.to_vec())]);
        assert_eq!(pax.uid, Some(3_000_000));
    }

    #[test]
    fn attributes_of_libarchive_are_decoded_once() {
        let mut pax = Pax::default();
        pax.merge(&record(b"LIBARCHIVE.xattr.user.a%3db", b"AAE")).unwrap();
        pax.merge(&record(b"SCHILY.xattr.user.x", b"exact")).unwrap();
        pax.merge(&record(b"LIBARCHIVE.xattr.user.x", b"b3RoZXI=")).unwrap();
        assert_eq!(pax.xattrs, [(b"user.a=b".to_vec(), vec![0, 1]), (b"user.x".to_vec(), b"exact".to_vec())]);
    }

    #[test]
    fn times_are_rounded_down() {
        for (text, value) in [("12.9", 12), ("12", 12), ("-1.5", -2), ("-1", -1), ("-0.5", -1), ("0.5", 0)] {
            assert_eq!(seconds(text.as_bytes()), Some(value), "{text}");
        }
        assert_eq!(seconds(b"1.x"), None);
    }

    #[test]
    fn invalid_records_are_found() {
        for bad in [&b"5 a=b"[..], b"999 a=b\n", b"x a=b\n", b"6 a=bb\n", b"4 =\n\n", b"7 size\n", b"9 size=x\n"] {
            assert!(Pax::default().merge(bad).is_none(), "{}", String::from_utf8_lossy(bad));
        }
    }
}
