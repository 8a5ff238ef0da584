//! The holes of sparse files, in the four forms of GNU tar.

use std::io::Read;

use crate::error::EntryError;
use crate::header::Header;
use crate::pax::decimal;
use crate::tar::{BLOCK, TarError, TarReader};

/// The most pieces of data in a sparse file.
const MAX_PIECES: usize = 1 << 20;

/// One piece of data of a file with holes.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Piece {
    pub(crate) offset: u64,
    pub(crate) length: u64,
}

/// What extended headers say about a file's holes.
pub(crate) struct SparseSource {
    pub(crate) real_size: Option<u64>,
    pub(crate) major: Option<u64>,
    pub(crate) map: Vec<u64>,
}

impl<R: Read> TarReader<'_, R> {
    /// Learns the current file's holes, if it has any, and returns its size.
    pub(crate) fn holes(
        &mut self,
        header: &Header,
        source: SparseSource,
        refuse: &dyn Fn(EntryError) -> TarError,
    ) -> Result<u64, TarError> {
        let (real_size, numbers) = if header.0[156] == b'S' {
            self.gnu_map(header)?
        } else if source.major == Some(1) && source.real_size.is_some() {
            (source.real_size, self.map_in_data()?)
        } else if source.real_size.is_some() && !source.map.is_empty() {
            (source.real_size, Some(source.map))
        } else {
            return Ok(self.data.stored);
        };
        let damaged = || refuse(EntryError::SparseMap);
        let (real_size, numbers) = real_size.zip(numbers).ok_or_else(damaged)?;
        let pieces = pieces(real_size, &numbers, self.data.stored).ok_or_else(damaged)?;
        self.data.sparse = Some((real_size, pieces));
        Ok(real_size)
    }

    /// The map of the old GNU format: four pieces in the header and 21 in each block that follows it.
    fn gnu_map(&mut self, header: &Header) -> Result<(Option<u64>, Option<Vec<u64>>), TarError> {
        let real_size = Header::number(&header.0[483..495]);
        let mut numbers = Some(Vec::new());
        let mut take = |fields: &[u8]| {
            for field in fields.chunks_exact(12).take_while(|field| field[0] != 0) {
                match (Header::number(field), &mut numbers) {
                    (Some(number), Some(numbers)) if numbers.len() < 2 * MAX_PIECES => numbers.push(number),
                    _ => numbers = None,
                }
            }
        };
        take(&header.0[386..482]);
        let mut more = header.0[482] != 0;
        while more {
            let mut block = [0; BLOCK];
            self.fill(&mut block)?;
            take(&block[..504]);
            more = block[504] != 0;
        }
        Ok((real_size, numbers))
    }

    /// The map of PAX format 1.0: decimal numbers, one a line, in whole blocks before the data.
    fn map_in_data(&mut self) -> Result<Option<Vec<u64>>, TarError> {
        let mut text = Vec::new();
        let mut numbers = Vec::new();
        let mut wanted = None;
        while wanted.is_none_or(|wanted| numbers.len() < wanted) {
            let mut block = [0; BLOCK];
            if self.data.stored < BLOCK as u64 {
                return Ok(None);
            }
            self.fill(&mut block)?;
            self.data.stored -= BLOCK as u64;
            text.extend_from_slice(&block);
            while let Some(end) = text.iter().position(|&b| b == b'\n') {
                let Some(number) = decimal(&text[..end]) else { return Ok(None) };
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
}

/// Pieces out of offsets and lengths in turn, if they are in order, inside the file and cover the stored bytes exactly.
fn pieces(real_size: u64, numbers: &[u64], stored: u64) -> Option<Vec<Piece>> {
    let mut position = 0;
    let mut total = 0_u64;
    let mut pieces = Vec::with_capacity(numbers.len() / 2);
    if numbers.len() % 2 != 0 {
        return None;
    }
    for pair in numbers.chunks_exact(2) {
        let piece = Piece { offset: pair[0], length: pair[1] };
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
