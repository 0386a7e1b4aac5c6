//! What every writer does with rows: packs them into bytes and counts them.

use super::raster::{to_u8, to_u16};
use super::target::Target;
use super::{Depth, Header};
use crate::error::{Error, Kind, Result};
use crate::fs;

/// The error of a failed write to `file`.
pub(super) fn write_error(file: &Target, e: &std::io::Error) -> Error {
    fs::io_error("cannot write", file.name(), e)
}

/// Turns rows of values into bytes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Packer {
    pub(super) depth: Depth,
    pub(super) big_endian: bool,
}

impl Packer {
    /// Clamps, rounds half up and packs `row` into `out`, which has the exact size.
    pub(super) fn pack(self, row: &[f32], out: &mut [u8]) {
        match (self.depth, self.big_endian) {
            (Depth::Eight, _) => out.iter_mut().zip(row).for_each(|(o, v)| *o = to_u8(*v)),
            (Depth::Sixteen, true) => {
                out.chunks_exact_mut(2).zip(row).for_each(|(o, v)| o.copy_from_slice(&to_u16(*v).to_be_bytes()));
            }
            (Depth::Sixteen, false) => {
                out.chunks_exact_mut(2).zip(row).for_each(|(o, v)| o.copy_from_slice(&to_u16(*v).to_le_bytes()));
            }
        }
    }
}

/// Packs a row of values as finished rows are kept: clamped, rounded half up, little-endian. A writer of that
/// depth makes the same samples of [`unpack_row`]'s values as of `row`'s own.
pub fn pack_row(depth: Depth, row: &[f32], out: &mut [u8]) {
    Packer { depth, big_endian: false }.pack(row, out);
}

/// The values of a row packed by [`pack_row`].
pub fn unpack_row(depth: Depth, bytes: &[u8], row: &mut [f32]) {
    match depth {
        Depth::Eight => row.iter_mut().zip(bytes).for_each(|(v, b)| *v = f32::from(*b) / depth.max()),
        Depth::Sixteen => row
            .iter_mut()
            .zip(bytes.chunks_exact(2))
            .for_each(|(v, b)| *v = f32::from(u16::from_le_bytes([b[0], b[1]])) / depth.max()),
    }
}

/// Counts the rows written: neither too few nor too many, and each of the right length.
pub(super) struct RowCount {
    height: u64,
    row_len: usize,
    written: u64,
}

impl RowCount {
    pub(super) fn new(header: &Header) -> RowCount {
        RowCount { height: header.height, row_len: header.row_len(), written: 0 }
    }

    pub(super) fn next(&mut self, len: usize) -> Result<()> {
        if len != self.row_len || self.written >= self.height {
            let text = format!(
                "row {} of {} with {len} values was written where a row has {}",
                self.written, self.height, self.row_len
            );
            return Err(Error::new(Kind::Internal, "image", text));
        }
        self.written += 1;
        Ok(())
    }

    pub(super) fn complete(&self) -> Result<()> {
        if self.written != self.height {
            let text = format!("{} of {} rows were written", self.written, self.height);
            return Err(Error::new(Kind::Internal, "image", text));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_sample_survives_packing() {
        for (depth, count) in [(Depth::Eight, 256usize), (Depth::Sixteen, 65_536)] {
            let bytes: Vec<u8> =
                (0..count).flat_map(|v| (v as u16).to_le_bytes().into_iter().take(depth.bytes())).collect();
            let mut row = vec![0.0; count];
            unpack_row(depth, &bytes, &mut row);
            let mut back = vec![0; bytes.len()];
            pack_row(depth, &row, &mut back);
            assert!(back == bytes, "{depth:?}");
            assert!(row.first() == Some(&0.0) && row.last() == Some(&1.0));
        }
    }
}
