//! Packets of the SSH File Transfer Protocol, version 3 (draft-ietf-secsh-filexfer-02): what reading a file needs.
//!
//! `openssh-sftp-client` needs an asynchronous runtime, and `ssh2` brings a library of its own, which reads neither the
//! site's `ssh_config` nor its certificates of hosts. What is needed here are four requests.

use crate::source::SourceError;

/// Version of the protocol, the one that all servers have.
const VERSION: u32 = 3;
/// Maximum size of an answer in bytes, as OpenSSH's client has it.
pub(super) const MAX_SIZE: u32 = 256 << 10;
/// Maximum number of characters of a server's message that are passed on.
const MAX_MESSAGE: usize = 200;

const INIT: u8 = 1;
const VERSION_ANSWER: u8 = 2;
const OPEN: u8 = 3;
const CLOSE: u8 = 4;
const READ: u8 = 5;
const FSTAT: u8 = 8;
const STATUS: u8 = 101;
const HANDLE: u8 = 102;
const DATA: u8 = 103;
const ATTRIBUTES: u8 = 105;

/// Flag of `OPEN`: for reading.
const FOR_READING: u32 = 1;
/// Flag of attributes: the size is there.
const HAS_SIZE: u32 = 1;

/// A request, without its number.
#[derive(Debug, Clone, Copy)]
pub(super) enum Request<'a> {
    /// Opens a file for reading.
    Open(&'a str),
    /// Closes a file.
    Close(&'a [u8]),
    /// Reads a part of a file.
    Read {
        /// The file.
        handle: &'a [u8],
        /// The beginning of the part.
        offset: u64,
        /// Its size in bytes.
        size: u32,
    },
    /// Asks for the size of a file.
    Stat(&'a [u8]),
}

/// An answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Answer {
    /// The request ended with this status.
    Status {
        /// The number that the protocol gives the status.
        code: u32,
        /// The server's message.
        message: String,
    },
    /// The file is open.
    Handle(Vec<u8>),
    /// Bytes of a file.
    Data(Vec<u8>),
    /// The size of a file, if the server knows it.
    Size(Option<u64>),
}

impl Answer {
    /// Returns the error that this answer is for a request that needs another one.
    pub(super) fn error(self) -> SourceError {
        match self {
            Self::Status { code: 2, .. } => SourceError::NotFound,
            Self::Status { code: 3, .. } => SourceError::Denied("the server denies access to the file".to_owned()),
            Self::Status { code: 1, .. } => SourceError::Temporary("the file is truncated".to_owned()),
            Self::Status { code, message } => SourceError::Temporary(format!("the server's error {code}: {message}")),
            _ => SourceError::Permanent("the server's answer belongs to another request".to_owned()),
        }
    }
}

/// Returns the first packet of a connection.
pub(super) fn init() -> Vec<u8> {
    packet(INIT, |body| body.extend(VERSION.to_be_bytes()))
}

/// Whether this is the server's answer to [`init`]: the same version.
pub(super) fn is_version(packet: &[u8]) -> bool {
    let mut fields = Fields(packet);
    fields.byte() == Some(VERSION_ANSWER) && fields.number() == Some(VERSION)
}

impl Request<'_> {
    /// Returns the packet with this number.
    pub(super) fn packet(self, number: u32) -> Vec<u8> {
        let kind = match self {
            Self::Open(_) => OPEN,
            Self::Close(_) => CLOSE,
            Self::Read { .. } => READ,
            Self::Stat(_) => FSTAT,
        };
        packet(kind, |body| {
            body.extend(number.to_be_bytes());
            match self {
                Self::Open(path) => {
                    text(body, path.as_bytes());
                    body.extend(FOR_READING.to_be_bytes());
                    // No attributes.
                    body.extend(0_u32.to_be_bytes());
                }
                Self::Close(handle) | Self::Stat(handle) => text(body, handle),
                Self::Read { handle, offset, size } => {
                    text(body, handle);
                    body.extend(offset.to_be_bytes());
                    body.extend(size.to_be_bytes());
                }
            }
        })
    }
}

fn packet(kind: u8, fill: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
    let mut body = vec![kind];
    fill(&mut body);
    let mut packet = length(&body).to_vec();
    packet.append(&mut body);
    packet
}

fn text(body: &mut Vec<u8>, text: &[u8]) {
    body.extend(length(text));
    body.extend(text);
}

fn length(bytes: &[u8]) -> [u8; 4] {
    u32::try_from(bytes.len()).unwrap_or(u32::MAX).to_be_bytes()
}

/// Parses an answer, without the length before it. Returns the request's number and the answer; `None` if it is malformed.
pub(super) fn parse(packet: &[u8]) -> Option<(u32, Answer)> {
    let mut fields = Fields(packet);
    let kind = fields.byte()?;
    let number = fields.number()?;
    let answer = match kind {
        STATUS => {
            let code = fields.number()?;
            // Old servers have no message.
            let message = String::from_utf8_lossy(fields.text().unwrap_or_default()).into_owned();
            let message = message.chars().filter(|letter| !letter.is_control()).take(MAX_MESSAGE).collect();
            Answer::Status { code, message }
        }
        HANDLE => Answer::Handle(fields.text()?.to_vec()),
        DATA => Answer::Data(fields.text()?.to_vec()),
        ATTRIBUTES => {
            let flags = fields.number()?;
            Answer::Size(if flags & HAS_SIZE == 0 { None } else { Some(fields.long()?) })
        }
        _ => return None,
    };
    Some((number, answer))
}

/// What is left of a packet.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn take(&mut self, size: usize) -> Option<&'a [u8]> {
        let (taken, rest) = self.0.split_at_checked(size)?;
        self.0 = rest;
        Some(taken)
    }

    fn byte(&mut self) -> Option<u8> {
        self.take(1)?.first().copied()
    }

    fn number(&mut self) -> Option<u32> {
        self.take(4)?.try_into().ok().map(u32::from_be_bytes)
    }

    fn long(&mut self) -> Option<u64> {
        self.take(8)?.try_into().ok().map(u64::from_be_bytes)
    }

    fn text(&mut self) -> Option<&'a [u8]> {
        let size = self.number()?;
        self.take(usize::try_from(size).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_those_of_the_draft() {
        assert_eq!(init(), [0, 0, 0, 5, 1, 0, 0, 0, 3]);
        let open = [0, 0, 0, 19, 3, 0, 0, 0, 7, 0, 0, 0, 2, b'/', b'a', 0, 0, 0, 1, 0, 0, 0, 0];
        assert_eq!(Request::Open("/a").packet(7), open);
        assert_eq!(Request::Close(b"h").packet(8), [0, 0, 0, 10, 4, 0, 0, 0, 8, 0, 0, 0, 1, b'h']);
        assert_eq!(Request::Stat(b"h").packet(8), [0, 0, 0, 10, 8, 0, 0, 0, 8, 0, 0, 0, 1, b'h']);
        let read = [0, 0, 0, 22, 5, 0, 0, 0, 9, 0, 0, 0, 1, b'h', 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 5];
        assert_eq!(Request::Read { handle: b"h", offset: 256, size: 5 }.packet(9), read);
    }

    #[test]
    fn answers_are_understood_and_malformed_ones_are_not() {
        assert!(is_version(&[2, 0, 0, 0, 3, 0, 0, 0, 1, b'x']));
        assert!(!is_version(&[2, 0, 0, 0, 6]) && !is_version(&[101, 0, 0, 0, 3]) && !is_version(&[]));
        let status = |code, message: &str| Answer::Status { code, message: message.to_owned() };
        assert_eq!(parse(&[101, 0, 0, 0, 1, 0, 0, 0, 2, 0, 0, 0, 2, b'n', 7]), Some((1, status(2, "n"))));
        assert_eq!(parse(&[101, 0, 0, 0, 1, 0, 0, 0, 4]), Some((1, status(4, ""))));
        assert_eq!(parse(&[102, 0, 0, 0, 2, 0, 0, 0, 1, 9]), Some((2, Answer::Handle(vec![9]))));
        assert_eq!(parse(&[103, 0, 0, 0, 3, 0, 0, 0, 2, 8, 9]), Some((3, Answer::Data(vec![8, 9]))));
        let sized = [105, 0, 0, 0, 4, 0, 0, 0, 5, 0, 0, 0, 0, 0, 0, 1, 1, 0, 0];
        assert_eq!(parse(&sized), Some((4, Answer::Size(Some(257)))));
        assert_eq!(parse(&[105, 0, 0, 0, 4, 0, 0, 0, 4]), Some((4, Answer::Size(None))));
        for malformed in [&[][..], &[101], &[103, 0, 0, 0, 3, 0, 0, 0, 3, 8, 9], &[200, 0, 0, 0, 1], &[105, 0, 0, 0, 4]]
        {
            assert_eq!(parse(malformed), None, "{malformed:?}");
        }
        assert_eq!(status(2, "x").error(), SourceError::NotFound);
        assert!(matches!(status(3, "x").error(), SourceError::Denied(_)));
        assert_eq!(status(4, "Failure").error(), SourceError::Temporary("the server's error 4: Failure".to_owned()));
    }
}
