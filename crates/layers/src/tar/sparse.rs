//! The holes of sparse files, in the four forms of GNU tar.

use std::io::Read;

use super::entry::TarError;
use super::header::{BLOCK, Header};
use super::pax::{PaxSparse, decimal};
use crate::error::EntryError;

/// Maximum number of pieces of data in a sparse file.
const MAX_PIECES: usize = 1 << 20;

/// One piece of data of a file with holes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// A file with holes.
#[derive(Debug)]
pub(crate) struct Sparse {
    /// The file's size in bytes, holes included.
    pub(crate) size: u64,
    /// Its data, in the order of the stream.
    pub(crate) pieces: Vec<Piece>,
}

/// Reads the map of a file's holes; `None` for a file without holes. `stored` is the size of the file's data in the stream in
/// bytes, from which a map at the start of the data is subtracted.
pub(crate) fn holes(
    header: &Header,
    described: PaxSparse,
    stored: &mut u64,
    source: &mut impl Read,
    refuse: &dyn Fn(EntryError) -> TarError,
) -> Result<Option<Sparse>, TarError> {
    let PaxSparse { real_size, major, map, .. } = described;
    let (size, numbers) = if header.0[156] == b'S' {
        gnu_map(header, source)?
    } else if major == Some(1) && real_size.is_some() {
        (real_size, map_in_data(stored, source)?)
    } else if real_size.is_some() && !map.is_empty() {
        (real_size, Some(map))
    } else {
        return Ok(None);
    };
    let invalid = || refuse(EntryError::SparseMap);
    let (size, numbers) = size.zip(numbers).ok_or_else(invalid)?;
    let pieces = pieces(size, &numbers, *stored).ok_or_else(invalid)?;
    Ok(Some(Sparse { size, pieces }))
}

/// Reads the map of the old GNU format: four pieces in the header and 21 in each block that follows it.
fn gnu_map(header: &Header, source: &mut impl Read) -> Result<(Option<u64>, Option<Vec<u64>>), TarError> {
    let real_size = Header::number(&header.0[483..495]);
    let mut numbers = Some(Vec::new());
    let mut take = |fields: &[u8]| {
        for field in fields.chunks_exact(12).take_while(|field| field.first() != Some(&0)) {
            match (Header::number(field), &mut numbers) {
                (Some(number), Some(numbers)) if numbers.len() < 2 * MAX_PIECES => numbers.push(number),
                _ => numbers = None,
            }
        }
    };
    take(&header.0[386..482]);
    let mut more = header.0[482] != 0;
    while more {
        let block = block(source)?;
        take(&block[..504]);
        more = block[504] != 0;
    }
    Ok((real_size, numbers))
}

/// Reads the map of PAX format 1.0: decimal numbers, one a line, in whole blocks before the data.
fn map_in_data(stored: &mut u64, source: &mut impl Read) -> Result<Option<Vec<u64>>, TarError> {
    let mut text = Vec::new();
    let mut numbers = Vec::new();
    let mut wanted = None;
    while wanted.is_none_or(|wanted| numbers.len() < wanted) {
        if *stored < BLOCK as u64 {
            return Ok(None);
        }
        text.extend_from_slice(&block(source)?);
        *stored -= BLOCK as u64;
        while let Some(end) = text.iter().position(|&b| b == b'\n') {
            let Some(number) = text.get(..end).and_then(decimal) else { return Ok(None) };
            text.drain(..=end);
            match wanted {
                None if number > MAX_PIECES as u64 => return Ok(None),
                None => wanted = Some(number as usize * 2),
                Some(wanted) if numbers.len() < wanted => numbers.push(number),
                Some(_) => break,
            }
        }
        if text.len() > 2 * BLOCK {
            return Ok(None);
        }
    }
    Ok(Some(numbers))
}

fn block(source: &mut impl Read) -> Result<[u8; BLOCK], TarError> {
    let mut block = [0; BLOCK];
    source.read_exact(&mut block).map_err(TarError::of_read)?;
    Ok(block)
}

/// Returns the pieces of alternating offsets and lengths; `None` unless they are in order, inside the file, and cover the stored
/// bytes exactly.
fn pieces(real_size: u64, numbers: &[u64], stored: u64) -> Option<Vec<Piece>> {
    let mut position = 0;
    let mut total = 0_u64;
    let mut pieces = Vec::with_capacity(numbers.len() / 2);
    if numbers.len() % 2 != 0 {
        return None;
    }
    for pair in numbers.chunks_exact(2) {
        let &[offset, length] = pair else { return None };
        let piece = Piece { offset, length };
        let end = piece.offset.checked_add(piece.length)?;
        if piece.offset < position || end > real_size {
            return None;
        }
        position = end;
        total = total.checked_add(piece.length)?;
        pieces.push(piece);
    }
    (total == stored).then_some(pieces)
}
