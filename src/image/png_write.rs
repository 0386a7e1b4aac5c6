//! PNG out: rows in, chunks out, memory of some megabytes.
//!
//! Written here rather than by the `png` crate, whose streaming writer keeps the file to itself:
//! the file must come back to be synced and moved to its place. Groups of rows are filtered and compressed
//! side by side, each without what came before it; the groups depend on the row's length alone, so the
//! bytes do not depend on how many threads there are.

use super::format::PNG_SIGNATURE;
use super::rows::{Packer, RowCount, write_error};
use super::target::Target;
use super::{Header, RowSink};
use crate::error::Result;
use crate::extent;
use flate2::{Compress, Compression, Crc, FlushCompress, Status, write::ZlibEncoder};
use rayon::prelude::*;
use std::io::Write;

/// Bytes of the rows of one group, unless one row has more: starting afresh costs deflate about 16 KiB of its
/// memory of what came before, so some hundredths of what it saves.
const GROUP_BYTES: usize = 1 << 19;
/// Groups compressed at once, unless their rows are longer.
const GROUPS: usize = 8;
/// Level 1: on photographs level 6 is four times slower for some 3% less.
const LEVEL: u32 = 1;
/// How a stream ends that was flushed to a whole byte: the lengths of an empty stored block.
const SYNCED: [u8; 4] = [0, 0, 255, 255];

pub(super) struct PngSink {
    file: Target,
    packer: Packer,
    rows: RowCount,
    pixel_bytes: usize,
    row_bytes: usize,
    rows_per_group: usize,
    groups: usize,
    /// The last row written out, zeros at first, then the rows of the groups to be compressed: unfiltered,
    /// big-endian.
    raw: Vec<u8>,
    /// Check sum of all filtered bytes so far.
    adler: Adler,
    begun: bool,
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
            packer,
            rows: RowCount::new(header),
            pixel_bytes,
            row_bytes,
            rows_per_group: (GROUP_BYTES / row_bytes).max(1),
            groups: (GROUPS * GROUP_BYTES / row_bytes.max(GROUP_BYTES)).max(1),
            raw: super::zeroed("a PNG row", row_bytes)?,
            adler: Adler::default(),
            begun: false,
        })
    }

    /// Compresses and writes what is gathered; `last` ends the stream.
    fn flush(&mut self, last: bool) -> std::io::Result<()> {
        let (row, pixel, size) = (self.row_bytes, self.pixel_bytes, self.rows_per_group * self.row_bytes);
        let body = self.raw.len() - row;
        let count = body.div_ceil(size);
        let raw = &self.raw;
        let packed: Vec<std::io::Result<(Vec<u8>, Adler)>> = (0..count)
            .into_par_iter()
            .map(|i| {
                // Each group begins with the row above it.
                let rows = &raw[i * size..(row + (i + 1) * size).min(raw.len())];
                pack(rows, row, pixel, last && i + 1 == count)
            })
            .collect();
        for group in packed {
            let (mut bytes, adler) = group?;
            self.adler = self.adler.then(adler);
            if !self.begun {
                // The head of a zlib stream: deflate, a window of 32 KiB, the fastest level.
                bytes.splice(0..0, [0x78, 0x01]);
                self.begun = true;
            }
            chunk(&mut self.file, *b"IDAT", &bytes)?;
        }
        self.raw.copy_within(body.., 0);
        self.raw.truncate(row);
        Ok(())
    }
}

/// Filters and compresses the rows after the first of `rows`. What is not the stream's end ends at a whole byte.
fn pack(rows: &[u8], row_bytes: usize, pixel: usize, last: bool) -> std::io::Result<(Vec<u8>, Adler)> {
    let count = rows.len() / row_bytes - 1;
    let mut filtered = Vec::with_capacity(count * (row_bytes + 1));
    let (mut best, mut tried) = (vec![0u8; row_bytes + 1], vec![0u8; row_bytes + 1]);
    for y in 0..count {
        let (above, this) = rows[y * row_bytes..(y + 2) * row_bytes].split_at(row_bytes);
        filter(this, above, pixel, &mut best, &mut tried);
        filtered.extend(&best);
    }
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    // One call, with room for all: a compressor whose output was full may keep input back, and stop before it at the
    // next call although there is room again. What does not shrink is stored, at five bytes for every 32 KiB or so.
    let mut out = Vec::with_capacity(filtered.len() + filtered.len() / 8 + 1024);
    let mut deflate = Compress::new(Compression::new(LEVEL), false);
    let status = deflate.compress_vec(&filtered, &mut out, flush).map_err(std::io::Error::other)?;
    let ended = if last { status == Status::StreamEnd } else { out.ends_with(&SYNCED) };
    if !ended || deflate.total_in() as usize != filtered.len() || out.len() == out.capacity() {
        return Err(std::io::Error::other("deflate did not take the rows of a group at once"));
    }
    Ok((out, Adler::of(&filtered)))
}

/// Filters `this` into `best`: of Sub, Up and Paeth the one with the least sum of magnitudes, the usual
/// measure of what compresses well.
fn filter(this: &[u8], above: &[u8], pixel: usize, best: &mut Vec<u8>, tried: &mut Vec<u8>) {
    let mut least = u64::MAX;
    for kind in [1, 2, 4] {
        tried[0] = kind;
        let out = &mut tried[1..];
        match kind {
            1 => sub(this, pixel, out),
            2 => out.iter_mut().zip(this).zip(above).for_each(|((o, t), a)| *o = t.wrapping_sub(*a)),
            _ => paeth(this, above, pixel, out),
        }
        let sum = magnitude(&tried[1..]);
        if sum < least {
            least = sum;
            std::mem::swap(best, tried);
        }
    }
}

/// Adler-32 of some bytes, and how many they are: two sums modulo a prime, which can be joined.
#[derive(Debug, Clone, Copy)]
struct Adler {
    a: u64,
    b: u64,
    len: u64,
}

impl Default for Adler {
    fn default() -> Adler {
        Adler { a: 1, b: 0, len: 0 }
    }
}

impl Adler {
    const PRIME: u64 = 65_521;

    fn of(bytes: &[u8]) -> Adler {
        let (mut a, mut b) = (1u64, 0u64);
        // Sums of that many bytes stay far below 64 bits.
        for part in bytes.chunks(1 << 20) {
            for &byte in part {
                a += u64::from(byte);
                b += a;
            }
            (a, b) = (a % Adler::PRIME, b % Adler::PRIME);
        }
        Adler { a, b, len: bytes.len() as u64 }
    }

    /// The sum of these bytes followed by those of `next`.
    fn then(self, next: Adler) -> Adler {
        let p = Adler::PRIME;
        // `next` began at 1 where it should have begun at `self.a`.
        let begin = self.a + p - 1;
        let b = self.b + next.b + next.len % p * (begin % p);
        Adler { a: (begin + next.a) % p, b: b % p, len: self.len + next.len }
    }

    fn sum(self) -> u32 {
        (self.b << 16 | self.a) as u32
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
        // Not before there is a row more: the stream's last group must be here when it ends.
        if self.raw.len() >= self.row_bytes * (self.groups * self.rows_per_group + 1) {
            self.flush(false).map_err(|e| write_error(&self.file, &e))?;
        }
        let start = self.raw.len();
        self.raw.resize(start + self.row_bytes, 0);
        self.packer.pack(row, &mut self.raw[start..]);
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.rows.complete()?;
        let mut end = || -> std::io::Result<()> {
            self.flush(true)?;
            chunk(&mut self.file, *b"IDAT", &self.adler.sum().to_be_bytes())?;
            chunk(&mut self.file, *b"IEND", &[])
        };
        end().map_err(|e| write_error(&self.file, &e))?;
        self.file.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sums_of_parts_join_to_that_of_the_whole() {
        // The value that the format's specification gives for this text.
        assert_eq!(Adler::of(b"Wikipedia").sum(), 0x11e6_0398);
        let bytes: Vec<u8> = (0..200_000u32).map(|i| (i.wrapping_mul(i) >> 7) as u8).collect();
        let whole = Adler::of(&bytes).sum();
        for cut in [0, 1, 65_521, 131_073, 200_000] {
            let joined = Adler::default().then(Adler::of(&bytes[..cut])).then(Adler::of(&bytes[cut..]));
            assert_eq!(joined.sum(), whole, "cut at {cut}");
        }
    }

    /// Bytes below `levels`, the same at every call.
    fn noise(levels: u32, n: usize) -> Vec<u8> {
        let mut state = 9u32;
        let mut next = || {
            state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (((state >> 16) * levels) >> 16) as u8
        };
        (0..n).map(|_| next()).collect()
    }

    /// `rows` as two groups of one stream, read back.
    fn twice(rows: &[u8], row: usize) {
        let [first, second] = [false, true].map(|last| pack(rows, row, 3, last).unwrap().0);
        assert!(first.ends_with(&SYNCED), "{} bytes: not at a whole byte", rows.len());
        let mut back = Vec::new();
        let stream = [first, second].concat();
        std::io::Read::read_to_end(&mut flate2::read::DeflateDecoder::new(&stream[..]), &mut back).unwrap();
        assert_eq!(back.len(), 2 * (rows.len() / row - 1) * (row + 1), "{} bytes", rows.len());
        assert_eq!(back[..back.len() / 2], back[back.len() / 2..]);
    }

    #[test]
    fn groups_end_at_whole_bytes_however_long_they_get() {
        twice(&[7; 40 * 300], 300);
        // Noise does not shrink.
        twice(&noise(256, 40 * 300), 300);
        twice(&noise(256, 300_000 * 3), 300_000);
    }

    #[test]
    fn groups_are_whole_whatever_they_shrink_to() {
        // A compressor whose output is full holds input back, and once there is room again may stop before it. So
        // lengths and rates at which any assumption about the output's length would be met at any block's end.
        for levels in 9..15 {
            for rows in (150..280).step_by(2) {
                twice(&noise(levels, rows * 900), 900);
            }
        }
    }
}
