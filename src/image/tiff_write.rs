//! TIFF out: strips or tiles in order, the directory at the end, memory of a few strips or of a row of tiles.
//!
//! Deflate with the horizontal predictor, which every reader of the last twenty years knows.
//! BigTIFF when the file could pass 4 GiB.

use super::rows::{Packer, RowCount, write_error};
use super::target::Target;
use super::{Header, RowSink};
use crate::error::{Error, Kind, Result};
use crate::extent;
use flate2::{Compression, write::ZlibEncoder};
use rayon::prelude::*;
use std::io::{Seek, SeekFrom, Write};

/// Bytes of a strip before compression, unless that made too many strips.
const STRIP_BYTES: u64 = 1 << 18;
/// Most strips: readers hold the tables of all of them.
const MOST_STRIPS: u64 = 1 << 15;
/// Largest side of a tile.
const MOST_TILE: u32 = 4096;
/// Strips compressed at once.
const BATCH: usize = 8;
/// Level 1: speed counts for huge files; level 6 saves a few percent.
const LEVEL: u32 = 1;
/// Above this many bytes the offsets of a plain TIFF could overflow; deflate adds less than a tenth
/// of a percent to what it can't compress.
const BIG_ABOVE: u64 = 4_200_000_000;

/// TIFF field types.
const SHORT: u16 = 3;
const LONG: u16 = 4;
const UNDEFINED: u16 = 7;
const LONG8: u16 = 16;

pub(super) struct TiffSink {
    file: Target,
    header: Header,
    packer: Packer,
    rows: RowCount,
    big: bool,
    row_bytes: usize,
    rows_per_strip: u64,
    /// Side of a tile; `None` for strips.
    tile: Option<u64>,
    /// Whole strips to be compressed, the last one perhaps unfinished; or a row of tiles.
    raw: Vec<u8>,
    /// Place and length of each strip or tile written.
    strips: Vec<(u64, u64)>,
    at: u64,
}

/// Bytes the writer holds beside a few rows: a row of tiles and what it is compressed to.
pub(super) fn resident_bytes(header: &Header, tiles: Option<u32>) -> u64 {
    let row = (header.row_len() * header.depth.bytes()) as u64;
    tiles.map_or(0, |side| u64::from(side).min(header.height).saturating_mul(row).saturating_mul(2))
}

impl TiffSink {
    pub(super) fn create(file: Target, header: &Header, tiles: Option<u32>) -> Result<TiffSink> {
        let row_bytes = header.row_len() * header.depth.bytes();
        let total = extent::product("TIFF", &[row_bytes as u64, header.height])?;
        TiffSink::start(file, header, tiles, total > BIG_ABOVE)
    }

    fn start(mut file: Target, header: &Header, tiles: Option<u32>, big: bool) -> Result<TiffSink> {
        let row_bytes = header.row_len() * header.depth.bytes();
        let rows_per_strip =
            (STRIP_BYTES / row_bytes as u64).max(header.height.div_ceil(MOST_STRIPS)).clamp(1, header.height);
        if let Some(side) = tiles.filter(|side| *side == 0 || side % 16 != 0 || *side > MOST_TILE) {
            let text = format!("tiles of {side} pixels: a TIFF's have a multiple of 16, at most {MOST_TILE}");
            return Err(Error::new(Kind::Usage, "image", text));
        }
        // The place of the directory is filled in at the end.
        let start: &[u8] = if big { b"II+\0\x08\0\0\0\0\0\0\0\0\0\0\0" } else { b"II*\0\0\0\0\0" };
        file.write_all(start).map_err(|e| write_error(&file, &e))?;
        Ok(TiffSink {
            file,
            packer: Packer { depth: header.depth, big_endian: false },
            rows: RowCount::new(header),
            header: header.clone(),
            big,
            row_bytes,
            rows_per_strip,
            tile: tiles.map(u64::from),
            raw: Vec::new(),
            strips: Vec::new(),
            at: start.len() as u64,
        })
    }

    /// Bytes gathered before they are compressed.
    fn batch_bytes(&self) -> usize {
        match self.tile {
            None => BATCH * self.rows_per_strip as usize * self.row_bytes,
            Some(side) => side as usize * self.row_bytes,
        }
    }

    /// Compresses and writes what is gathered.
    fn flush(&mut self) -> std::io::Result<()> {
        if self.raw.is_empty() {
            return Ok(());
        }
        let (row_bytes, channels, wide) =
            (self.row_bytes, self.header.colour.channels(), self.header.depth.bytes() == 2);
        let packed: Vec<std::io::Result<Vec<u8>>> = match self.tile {
            None => {
                let size = self.rows_per_strip as usize * row_bytes;
                let strips = self.raw.par_chunks_mut(size);
                strips.map(|strip| deflate(strip, row_bytes, channels, wide)).collect()
            }
            Some(side) => {
                let (side, raw) = (side as usize, &self.raw);
                let across = self.header.width.div_ceil(side as u64) as usize;
                let tile_row = side * channels * self.header.depth.bytes();
                let tile = |i: usize| {
                    // Tiles are whole: what lies beyond the picture is zero.
                    let mut tile = vec![0u8; side * tile_row];
                    for (to, from) in tile.chunks_exact_mut(tile_row).zip(raw.chunks_exact(row_bytes)) {
                        let from = &from[i * tile_row..row_bytes.min((i + 1) * tile_row)];
                        to[..from.len()].copy_from_slice(from);
                    }
                    deflate(&mut tile, tile_row, channels, wide)
                };
                (0..across).into_par_iter().map(tile).collect()
            }
        };
        self.raw.clear();
        for strip in packed {
            let strip = strip?;
            self.file.write_all(&strip)?;
            self.strips.push((self.at, strip.len() as u64));
            self.at += strip.len() as u64;
        }
        Ok(())
    }

    /// Writes the directory and points the header at it.
    fn directory(&mut self) -> std::io::Result<()> {
        let h = &self.header;
        let channels = h.colour.channels();
        let place = if self.big { LONG8 } else { LONG };
        let bits = vec![8 * h.depth.bytes() as u64; channels];
        // Deflate 8, predictor 2; photometric 1 is grey, 2 RGB; orientation 1: already upright.
        let mut entries: Vec<(u16, u16, Vec<u64>)> = vec![
            (256, LONG, vec![h.width]),
            (257, LONG, vec![h.height]),
            (258, SHORT, bits),
            (259, SHORT, vec![8]),
            (262, SHORT, vec![if h.colour.is_gray() { 1 } else { 2 }]),
            (274, SHORT, vec![1]),
            (277, SHORT, vec![channels as u64]),
            (284, SHORT, vec![1]),
            (317, SHORT, vec![2]),
        ];
        let (places, lengths) = self.strips.iter().copied().unzip();
        entries.extend(match self.tile {
            None => vec![(273, place, places), (278, LONG, vec![self.rows_per_strip]), (279, place, lengths)],
            Some(side) => {
                vec![(322, LONG, vec![side]), (323, LONG, vec![side]), (324, place, places), (325, place, lengths)]
            }
        });
        if h.colour.has_alpha() {
            // Unassociated: alpha is straight.
            entries.push((338, SHORT, vec![2]));
        }
        if let Some(icc) = &h.icc {
            entries.push((34_675, UNDEFINED, icc.iter().map(|&b| u64::from(b)).collect()));
        }
        // In order, as the format demands.
        entries.sort_by_key(|e| e.0);
        let (inline, count_bytes) = if self.big { (8usize, 8usize) } else { (4, 4) };
        let entry_bytes = 4 + count_bytes + inline;
        // Values that do not fit their entry go first, each at an even place.
        let mut body = Vec::new();
        let mut fields = Vec::new();
        if self.at % 2 == 1 {
            body.push(0);
        }
        for (tag, kind, values) in &entries {
            let mut bytes: Vec<u8> = Vec::new();
            for v in values {
                let le = v.to_le_bytes();
                let width = match *kind {
                    SHORT => 2,
                    LONG => 4,
                    LONG8 => 8,
                    _ => 1,
                };
                bytes.extend(&le[..width]);
            }
            let mut field = vec![0u8; inline];
            if bytes.len() <= inline {
                field[..bytes.len()].copy_from_slice(&bytes);
            } else {
                field.copy_from_slice(&(self.at + body.len() as u64).to_le_bytes()[..inline]);
                body.extend(&bytes);
                body.resize(body.len().next_multiple_of(2), 0);
            }
            fields.extend(tag.to_le_bytes());
            fields.extend(kind.to_le_bytes());
            fields.extend(&(values.len() as u64).to_le_bytes()[..count_bytes]);
            fields.extend(field);
        }
        debug_assert_eq!(fields.len(), entries.len() * entry_bytes);
        let directory_at = self.at + body.len() as u64;
        let count = (entries.len() as u64).to_le_bytes();
        body.extend(&count[..if self.big { 8 } else { 2 }]);
        body.extend(&fields);
        // No further directory.
        body.extend(&[0u8; 8][..inline]);
        self.file.write_all(&body)?;
        self.file.seek(SeekFrom::Start(if self.big { 8 } else { 4 }))?;
        self.file.write_all(&directory_at.to_le_bytes()[..inline])
    }
}

/// Compresses the rows of a strip or tile, which are changed on the way.
fn deflate(rows: &mut [u8], row_bytes: usize, channels: usize, wide: bool) -> std::io::Result<Vec<u8>> {
    rows.chunks_exact_mut(row_bytes).for_each(|row| predict(row, channels, wide));
    let mut encoder = ZlibEncoder::new(Vec::with_capacity(rows.len() / 2), Compression::new(LEVEL));
    encoder.write_all(rows)?;
    encoder.finish()
}

/// Replaces each sample by its difference to the same channel of the pixel before.
fn predict(row: &mut [u8], channels: usize, wide: bool) {
    if wide {
        for i in (channels..row.len() / 2).rev() {
            let at = |j: usize| u16::from_le_bytes([row[2 * j], row[2 * j + 1]]);
            let d = at(i).wrapping_sub(at(i - channels)).to_le_bytes();
            row[2 * i..2 * i + 2].copy_from_slice(&d);
        }
    } else {
        for i in (channels..row.len()).rev() {
            row[i] = row[i].wrapping_sub(row[i - channels]);
        }
    }
}

impl RowSink for TiffSink {
    fn write_row(&mut self, row: &[f32]) -> Result<()> {
        self.rows.next(row.len())?;
        let start = self.raw.len();
        self.raw.resize(start + self.row_bytes, 0);
        self.packer.pack(row, &mut self.raw[start..]);
        if self.raw.len() >= self.batch_bytes() {
            self.flush().map_err(|e| write_error(&self.file, &e))?;
        }
        Ok(())
    }

    fn finish(mut self: Box<Self>) -> Result<()> {
        self.rows.complete()?;
        self.flush().and_then(|()| self.directory()).map_err(|e| write_error(&self.file, &e))?;
        self.file.commit()
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Colour, Depth, Format, open};
    use super::*;
    use crate::fs::AtomicFile;

    #[test]
    fn bigtiff_reads_back() {
        bigtiff(None);
        bigtiff(Some(64));
    }

    fn bigtiff(tiles: Option<u32>) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("big.tif");
        let (colour, depth) = (Colour::GrayAlpha, Depth::Sixteen);
        let icc = Some(vec![3; 77].into());
        let header = Header { width: 301, height: 777, colour, depth, icc, format: Format::Tiff, notes: Vec::new() };
        let mut sink = Box::new(
            TiffSink::start(Target::File(AtomicFile::create(&path, false).unwrap()), &header, tiles, true).unwrap(),
        );
        let row = |y: u64| -> Vec<f32> { (0..602).map(|i| ((i * 77 + y * 991) % 65_536) as f32 / 65_535.0).collect() };
        for y in 0..777 {
            sink.write_row(&row(y)).unwrap();
        }
        sink.finish().unwrap();
        assert_eq!(std::fs::read(&path).unwrap()[..4], *b"II+\0");
        let mut source = open(&path).unwrap();
        assert_eq!((source.header().colour, &source.header().icc), (colour, &header.icc));
        let mut got = vec![0.0; 602];
        for y in 0..777 {
            source.read_row(&mut got).unwrap();
            assert_eq!(got, row(y), "row {y}");
        }
    }
}
