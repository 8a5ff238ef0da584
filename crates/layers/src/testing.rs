//! Archives for tests.

use crate::tar::header::padding;
use crate::tar::pax;

/// An archive under construction, in the raw form a builder could have written.
#[derive(Default, Clone)]
pub(crate) struct Archive(pub(crate) Vec<u8>);

impl Archive {
    pub(crate) fn header(mut self, flag: u8, name: &[u8], link: &[u8], size: u64) -> Self {
        let mut block = [0_u8; 512];
        block[..name.len()].copy_from_slice(name);
        for (at, text) in [(100, "0000644"), (108, "0000005"), (116, "0000007"), (136, "00000000012")] {
            block[at..at + text.len()].copy_from_slice(text.as_bytes());
        }
        block[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
        block[156] = flag;
        block[157..157 + link.len()].copy_from_slice(link);
        block[257..265].copy_from_slice(b"ustar\x0000");
        // A name that mksquashfs would look up on this machine.
        block[265..269].copy_from_slice(b"root");
        block[148..156].fill(b' ');
        let sum: u64 = block.iter().map(|&b| u64::from(b)).sum();
        block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        self.0.extend(block);
        self
    }

    pub(crate) fn data(mut self, data: &[u8]) -> Self {
        self.0.extend(data);
        self.0.extend(vec![0; padding(data.len() as u64) as usize]);
        self
    }

    pub(crate) fn file(self, name: &str, data: &[u8]) -> Self {
        self.header(b'0', name.as_bytes(), b"", data.len() as u64).data(data)
    }

    pub(crate) fn dir(self, name: &str) -> Self {
        self.header(b'5', name.as_bytes(), b"", 0)
    }

    pub(crate) fn link(self, flag: u8, name: &str, target: &str) -> Self {
        self.header(flag, name.as_bytes(), target.as_bytes(), 0)
    }

    pub(crate) fn pax(self, records: &[(&[u8], &[u8])]) -> Self {
        let records: Vec<u8> = records.iter().flat_map(|(key, value)| pax::record(key, value)).collect();
        self.header(b'x', b"pax", b"", records.len() as u64).data(&records)
    }

    pub(crate) fn end(mut self) -> Vec<u8> {
        self.0.extend([0; 1024]);
        self.0
    }
}
