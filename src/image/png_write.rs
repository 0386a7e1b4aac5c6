//! PNG out: rows in, chunks out, memory of a few rows.
//!
//! Written here rather than by the `png` crate, whose streaming writer keeps the file to itself:
//! the file must come back to be synced and moved to its place.

use super::format::PNG_SIGNATURE;
use super::rows::{Packer, RowCount, write_error};
use super::target::Target;
use super::{Header, RowSink};
use crate::error::Result;
use crate::extent;
use flate2::{Compression, Crc, write::ZlibEncoder};
use std::io::Write;

/// Compressed bytes gathered for one IDAT chunk.
const IDAT_BYTES: usize = 1 << 17;
/// Level 1: on photographs level 6 is four times slower for some 3% less.
const LEVEL: u32 = 1;

pub(super) struct PngSink {
    file: Target,
    deflate: ZlibEncoder<Vec<u8>>,
    packer: Packer,
    rows: RowCount,
    pixel_bytes: usize,
    /// The row before, zeros at first, and the row being written: unfiltered, big-endian.
    above: Vec<u8>,
    this: Vec<u8>,
    /// Filter type and filtered bytes: the best so far, and the one being tried.
    best: Vec<u8>,
    tried: Vec<u8>,
}

impl PngSink {
    pub(super) fn create(mut file: Target, header: &Header) -> Result<PngSink> {
        let packer = Packer { depth: header.depth, big_endian: true };
        let pixel_bytes = header.colour.channels() * header.depth.bytes();
        let row_bytes = header.row_len() * header.depth.bytes();
        let colour = match (header.colour.is_gray(), header.colour.has_alpha()) {
            (true, false) => 0,
            (false, false) => 2,
            (true, true) => 4,
            (false, true) => 6,
        };
        let mut ihdr = Vec::with_capacity(13);
        ihdr.extend(extent::to_u32("width", header.width)?.to_be_bytes());
        ihdr.extend(extent::to_u32("height", header.height)?.to_be_bytes());
        // Depth, colour type, then deflate, adaptive filters, no interlacing.
        ihdr.extend([8 * header.depth.bytes() as u8, colour, 0, 0, 0]);
        let mut start = || -> std::io::Result<()> {
            file.write_all(&PNG_SIGNATURE)?;
            chunk(&mut file, *b"IHDR", &ihdr)?;
            if let Some(icc) = &header.icc {
                // A name is required; it says nothing that the profile does not say better.
                let mut encoder = ZlibEncoder::new(b"ICC profile\0\0".to_vec(), Compression::default());
                encoder.write_all(icc)?;
                chunk(&mut file, *b"iCCP", &encoder.finish()?)?;
            }
            Ok(())
        };
        start().map_err(|e| write_error(&file, &e))?;
        Ok(PngSink {
            file,
            deflate: ZlibEncoder::new(Vec::with_capacity(2 * IDAT_BYTES), Compression::new(LEVEL)),
            packer,
            rows: RowCount::new(header),
            pixel_bytes,
            above: vec![0; row_bytes],
            this: vec![0; row_bytes],
            best: vec![0; row_bytes + 1],
            tried: vec![0; row_bytes + 1],
        })
    }

    /// Filters `this` into `best`: of Sub, Up and Paeth the one with the least sum of magnitudes,
    /// the usual measure of what compresses well.
    fn filter(&mut self) {
        let mut least = u64::MAX;
        for kind in [1, 2, 4] {
            self.tried[0] = kind;
            let out = &mut self.tried[1..];
            match kind {
                1 => sub(&self.this, self.pixel_bytes, out),
                2 => out.iter_mut().zip(&self.this).zip(&self.above).for_each(|((o, t), a)| *o = t.wrapping_sub(*a)),
                _ => paeth(&self.this, &self.above, self.pixel_bytes, out),
            }
            let sum = magnitude(&self.tried[1..]);
            if sum < least {
                least = sum;
                std::mem::swap(&mut self.best, &mut self.tried);
            }
        }
    }

    fn drain(&mut self, at_least: usize) -> std::io::Result<()> {
        if self.deflate.get_ref().len() >= at_least {
            chunk(&mut self.file, *b"IDAT", self.deflate.get_ref())?;
            self.deflate.get_mut().clear();
        }
        Ok(())
    }
}

fn sub(this: &[u8], pixel: usize, out: &mut [u8]) {
    out[..pixel].copy_from_slice(&this[..pixel]);
    let left = &this[..this.len() - pixel];
    out[pixel..].iter_mut().zip(&this[pixel..]).zip(left).for_each(|((o, t), l)| *o = t.wrapping_sub(*l));
}

fn paeth(this: &[u8], above: &[u8], pixel: usize, out: &mut [u8]) {
    for i in 0..pixel {
        out[i] = this[i].wrapping_sub(above[i]);
    }
    let n = this.len() - pixel;
    let (left, up, corner) = (&this[..n], &above[pixel..], &above[..n]);
    for (i, o) in out[pixel..].iter_mut().enumerate() {
        let (a, b, c) = (i16::from(left[i]), i16::from(up[i]), i16::from(corner[i]));
        let (pa, pb, pc) = ((b - c).abs(), (a - c).abs(), (a + b - 2 * c).abs());
        // Ties go to left, then up: the decoder's order.
        let near_up = if pb <= pc { b } else { c };
        let guess = if pa <= pb && pa <= pc { a } else { near_up };
        *o = this[pixel + i].wrapping_sub(guess as u8);
    }
}

/// Sum of the bytes' magnitudes as signed numbers.
fn magnitude(bytes: &[u8]) -> u64 {
    // Sums of 128 bytes at most 128 each fit 16 bits; so the inner loop stays narrow.
    bytes.chunks(128).map(|c| u64::from(c.iter().map(|&b| u16::from((b as i8).unsigned_abs())).sum::<u16>())).sum()
}

/// Writes one chunk: length, name, body, check sum of name and body.
fn chunk(file: &mut impl Write, name: [u8; 4], body: &[u8]) -> std::io::Result<()> {
    let length = u32::try_from(body.len()).map_err(|_| std::io::Error::other("a PNG chunk is too long"))?;
    let mut crc = Crc::new();
    crc.update(&name);
    crc.update(body);
    file.write_all(&length.to_be_bytes())?;
    file.write_all(&name)?;
    file.write_all(body)?;
    file.write_all(&crc.sum().to_be_bytes())
}

impl RowSink for PngSink {
    fn write_row(&mut self, row: &[f32]) -> Result<()> {
        self.rows.next(row.len())?;
        self.packer.pack(row, &mut self.this);
        self.filter();
        let wrote = self.deflate.write_all(&self.best).and_then(|()| self.drain(IDAT_BYTES));
        wrote.map_err(|e| write_error(&self.file, &e))?;
        std::mem::swap(&mut self.above, &mut self.this);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.rows.complete()?;
        let mut end = || -> std::io::Result<()> {
            self.deflate.try_finish()?;
            self.drain(1)?;
            chunk(&mut self.file, *b"IEND", &[])
        };
        end().map_err(|e| write_error(&self.file, &e))?;
        self.file.commit()
    }
}
