//! FUSE's protocol for a file system whose root is one read-only file (`linux/fuse.h`, version 7.31).

/// Size of `struct fuse_in_header` in bytes.
const HEADER: usize = 40;
/// Size of `struct fuse_out_header` in bytes.
pub(crate) const ANSWER_HEADER: usize = 16;
/// Maximum size of a read in bytes: what the kernel asks for without `FUSE_MAX_PAGES`.
pub const MAX_READ: u32 = 128 << 10;
/// The version that is spoken.
const VERSION: (u32, u32) = (7, 31);
/// `FUSE_ASYNC_READ` and `FUSE_ASYNC_DIO`: several reads at a time.
const FLAGS: u32 = 1 | (1 << 15);
/// `FOPEN_KEEP_CACHE` and `FOPEN_NOFLUSH`: closing the file waits for nobody.
const OPEN_FLAGS: u32 = (1 << 1) | (1 << 5);
/// Reads in the background at a time, as which the kernel counts those of a loop device.
const MAX_BACKGROUND: u16 = 64;
/// Maximum size of a write; the file is not written to, and a larger one would need larger buffers.
const MAX_WRITE: u32 = 4096;
/// `S_IFREG`, readable.
const MODE: u32 = 0o100_444;
/// Seconds for which the kernel may keep what never changes.
const FOREVER: u64 = 1 << 40;

const ENOSYS: i32 = 38;
const EIO: i32 = 5;

/// A request of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Request {
    /// Its number, by which it is answered.
    pub unique: u64,
    /// What is asked for.
    pub kind: Kind,
}

/// What is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// The first request: versions and flags.
    Init {
        /// The kernel's minor version.
        minor: u32,
        /// What the kernel can do.
        flags: u32,
    },
    /// The attributes of the file.
    Attributes,
    /// Opening the file.
    Open,
    /// Bytes of the file.
    Read {
        /// The offset in bytes.
        offset: u64,
        /// The number of bytes.
        size: u32,
    },
    /// Closing the file.
    Release,
    /// A request that has no answer.
    Silent,
    /// Anything else.
    Other,
}

impl Request {
    /// Parses a request; `None` if the buffer is empty or has only a part of one.
    #[must_use]
    pub fn parse(bytes: &[u8]) -> Option<Self> {
        let length = usize::try_from(number32(bytes, 0)?).ok()?;
        if length < HEADER {
            return None;
        }
        let unique = number64(bytes, 8)?;
        let kind = match number32(bytes, 4)? {
            // FUSE_FORGET, FUSE_INTERRUPT, FUSE_BATCH_FORGET.
            2 | 36 | 42 => Kind::Silent,
            3 => Kind::Attributes,
            14 => Kind::Open,
            15 => {
                let (offset, size) = (number64(bytes, HEADER + 8)?, number32(bytes, HEADER + 16)?);
                // Otherwise it is being written at this moment.
                if length < HEADER + 40 || size == 0 {
                    return None;
                }
                Kind::Read { offset, size: size.min(MAX_READ) }
            }
            18 => Kind::Release,
            26 => Kind::Init { minor: number32(bytes, HEADER + 4)?, flags: number32(bytes, HEADER + 12)? },
            _ => Kind::Other,
        };
        Some(Self { unique, kind })
    }

    /// Returns the answer to a request of any kind but [`Kind::Read`], with its header; `None` if it has none. `size` is that of the file in
    /// bytes.
    #[must_use]
    pub fn answer(&self, size: u64) -> Option<Vec<u8>> {
        match self.kind {
            Kind::Init { minor, flags } => Some(with_header(self.unique, 0, &init(minor, flags))),
            Kind::Attributes => Some(with_header(self.unique, 0, &attributes(size))),
            Kind::Open => Some(with_header(self.unique, 0, &open())),
            Kind::Release => Some(with_header(self.unique, 0, &[])),
            Kind::Silent => None,
            Kind::Other => Some(with_header(self.unique, -ENOSYS, &[])),
            Kind::Read { .. } => Some(self.failure()),
        }
    }

    /// Returns the answer that the request failed, with its header.
    #[must_use]
    pub fn failure(&self) -> Vec<u8> {
        with_header(self.unique, -EIO, &[])
    }
}

fn open() -> Vec<u8> {
    // No file handle.
    let mut body = vec![0; 8];
    body.extend(OPEN_FLAGS.to_ne_bytes());
    body.resize(16, 0);
    body
}

fn init(minor: u32, flags: u32) -> Vec<u8> {
    let mut body = Vec::with_capacity(64);
    for word in [VERSION.0, VERSION.1.min(minor), 0, flags & FLAGS] {
        body.extend(word.to_ne_bytes());
    }
    body.extend(MAX_BACKGROUND.to_ne_bytes());
    body.extend(MAX_BACKGROUND.to_ne_bytes());
    body.extend(MAX_WRITE.to_ne_bytes());
    // The granularity of times.
    body.extend(1_u32.to_ne_bytes());
    body.resize(64, 0);
    body
}

fn attributes(size: u64) -> Vec<u8> {
    let mut body = Vec::with_capacity(104);
    body.extend(FOREVER.to_ne_bytes());
    body.extend([0; 8]);
    // Number, size and blocks; three times.
    for word in [1, size, size.div_ceil(512), 0, 0, 0] {
        body.extend(word.to_ne_bytes());
    }
    // The nanoseconds of three times; mode, links, user, group, device, size of a block, flags.
    for word in [0, 0, 0, MODE, 1, 0, 0, 0, 4096, 0] {
        body.extend(word.to_ne_bytes());
    }
    body
}

/// Returns an answer's header.
pub(crate) fn header(unique: u64, error: i32, body: usize) -> [u8; ANSWER_HEADER] {
    let length = u32::try_from(ANSWER_HEADER + body).unwrap_or(u32::MAX);
    let mut header = [0; ANSWER_HEADER];
    let bytes = length.to_ne_bytes().into_iter().chain(error.to_ne_bytes()).chain(unique.to_ne_bytes());
    header.iter_mut().zip(bytes).for_each(|(to, from)| *to = from);
    header
}

fn with_header(unique: u64, error: i32, body: &[u8]) -> Vec<u8> {
    [&header(unique, error, body.len())[..], body].concat()
}

fn number32(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(bytes.get(at..at + 4)?.try_into().ok()?))
}

fn number64(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(bytes.get(at..at + 8)?.try_into().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(opcode: u32, body: &[u8]) -> Vec<u8> {
        let length = u32::try_from(HEADER + body.len()).unwrap();
        let mut bytes = [&length.to_ne_bytes()[..], &opcode.to_ne_bytes(), &77_u64.to_ne_bytes()].concat();
        bytes.resize(HEADER, 0);
        [&bytes, body].concat()
    }

    fn read(offset: u64, size: u32) -> Vec<u8> {
        let mut body = [&[0; 8][..], &offset.to_ne_bytes(), &size.to_ne_bytes()].concat();
        body.resize(40, 0);
        request(15, &body)
    }

    #[test]
    fn requests_are_parsed_and_answered_with_their_numbers() {
        let parsed = Request::parse(&read(4096, 512)).unwrap();
        assert_eq!(parsed, Request { unique: 77, kind: Kind::Read { offset: 4096, size: 512 } });
        assert_eq!(Request::parse(&read(0, u32::MAX)).unwrap().kind, Kind::Read { offset: 0, size: MAX_READ });
        let init = request(26, &[[7_u32, 40, 0, u32::MAX].map(u32::to_ne_bytes).concat(), vec![0; 48]].concat());
        let answer = Request::parse(&init).unwrap().answer(9).unwrap();
        assert_eq!((answer.len(), number32(&answer, 20), number32(&answer, 28)), (80, Some(31), Some(FLAGS)));
        for (opcode, size) in [(3, 120), (14, 32), (18, 16), (1, 16)] {
            let answer = Request::parse(&request(opcode, &[0; 16])).unwrap().answer(12_345).unwrap();
            assert_eq!((answer.len(), number64(&answer, 8)), (size, Some(77)), "{opcode}");
            assert_eq!(number32(&answer, 0), u32::try_from(size).ok(), "{opcode}");
        }
        let attributes = Request::parse(&request(3, &[0; 16])).unwrap().answer(12_345).unwrap();
        assert_eq!(number64(&attributes, 16 + 16 + 8), Some(12_345));
        assert_eq!(Request::parse(&request(36, &[0; 8])).unwrap().answer(1), None);
    }

    #[test]
    fn a_request_that_is_not_there_as_a_whole_is_none() {
        for bytes in [&[][..], &[0; 80], &[1; 7]] {
            assert_eq!(Request::parse(bytes), None);
        }
        let whole = read(4096, 512);
        for size in 0..HEADER + 20 {
            // As memory that is zero is filled from its beginning.
            let mut part = whole[..size].to_vec();
            part.resize(80, 0);
            assert!(Request::parse(&part).is_none_or(|request| request.unique != 77 || size > HEADER + 16), "{size}");
        }
    }
}
