//! Decoded pictures that wait in a file: rows as they are, and strips of rows turned by 90 degrees.

use super::orient::mirror;
use super::raster::{from_u8, from_u16, to_u8, to_u16};
use super::{Depth, Header, Stored, zeroed};
use crate::error::Result;
use crate::fs::RowFile;
use crate::{extent, limits};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

/// Where a picture that can't be read by rows is held once it is decoded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReadOptions {
    /// Folder for decoded pictures of more than `memory` bytes, in files without a name. Without it they stay
    /// in memory.
    pub spool: Option<PathBuf>,
    /// Bytes of a decoded picture up to which it stays in memory.
    pub memory: u64,
}

impl Default for ReadOptions {
    fn default() -> ReadOptions {
        ReadOptions { spool: None, memory: limits::DECODED_IN_MEMORY }
    }
}

impl ReadOptions {
    /// The folder where a picture of `bytes` belongs; `None` for memory.
    pub(super) fn folder(&self, bytes: u64) -> Option<&Path> {
        self.spool.as_deref().filter(|_| bytes > self.memory)
    }
}

/// A new file of rows in `folder`. No other file of this process and no other process has its name, and where
/// the system can, it has none at all once it is open.
fn scratch(folder: &Path, row_bytes: usize, rows: u64) -> Result<RowFile> {
    static COUNT: AtomicU64 = AtomicU64::new(0);
    let n = COUNT.fetch_add(1, Ordering::Relaxed);
    let name = format!(".input-{}-{n}.tessera-part", std::process::id());
    let mut file = RowFile::create(&folder.join(name), row_bytes, rows)?;
    file.hide();
    Ok(file)
}

/// Packs values into bytes of the spool: samples in native byte order.
fn pack(depth: Depth, row: &[f32], out: &mut [u8]) {
    match depth {
        Depth::Eight => out.iter_mut().zip(row).for_each(|(o, v)| *o = to_u8(*v)),
        Depth::Sixteen => {
            out.chunks_exact_mut(2).zip(row).for_each(|(o, v)| o.copy_from_slice(&to_u16(*v).to_ne_bytes()))
        }
    }
}

/// The inverse of [`pack`]: exact for what has the depth's own steps.
fn unpack(depth: Depth, raw: &[u8], row: &mut [f32]) {
    match depth {
        Depth::Eight => row.iter_mut().zip(raw).for_each(|(o, v)| *o = from_u8(*v)),
        Depth::Sixteen => {
            row.iter_mut().zip(raw.chunks_exact(2)).for_each(|(o, v)| *o = from_u16(u16::from_ne_bytes([v[0], v[1]])))
        }
    }
}

/// Rows of a picture in a file.
pub(super) struct Spooled {
    file: RowFile,
    depth: Depth,
    raw: Vec<u8>,
}

impl Spooled {
    /// A picture like `header`, all zeros.
    pub(super) fn create(folder: &Path, header: &Header) -> Result<Spooled> {
        let row_bytes = header.row_len() * header.depth.bytes();
        let file = scratch(folder, row_bytes, header.height)?;
        Ok(Spooled { file, depth: header.depth, raw: zeroed("a row", row_bytes)? })
    }

    /// A picture of 8-bit samples that are decoded already.
    pub(super) fn of_bytes(folder: &Path, header: &Header, samples: &[u8]) -> Result<Spooled> {
        let spooled = Spooled::create(folder, header)?;
        // Whole rows, some megabytes at once.
        let rows = ((4usize << 20) / spooled.raw.len()).max(1);
        for (i, part) in samples.chunks(rows * spooled.raw.len()).enumerate() {
            spooled.file.write((i * rows) as u64, part)?;
        }
        Ok(spooled)
    }

    /// Reads every row of `stored`.
    pub(super) fn collect(folder: &Path, mut stored: Box<dyn Stored>) -> Result<Spooled> {
        let mut spooled = Spooled::create(folder, stored.header())?;
        let mut row = zeroed::<f32>("a row", stored.header().row_len())?;
        for y in 0..stored.header().height {
            stored.read_row(&mut row)?;
            pack(spooled.depth, &row, &mut spooled.raw);
            spooled.file.write(y, &spooled.raw)?;
        }
        Ok(spooled)
    }

    /// Reads row `y`.
    pub(super) fn read_row(&mut self, y: u64, row: &mut [f32]) -> Result<()> {
        self.file.read(y, &mut self.raw)?;
        unpack(self.depth, &self.raw, row);
        Ok(())
    }

    /// Puts `pixels` of `channels` values into row `y`, at `first`, `first + step`, ...
    pub(super) fn merge(&mut self, y: u64, pixels: &[f32], channels: usize, first: usize, step: usize) -> Result<()> {
        if step > 1 {
            self.file.read(y, &mut self.raw)?;
        }
        let bytes = channels * self.depth.bytes();
        let places = self.raw.chunks_exact_mut(bytes).skip(first).step_by(step);
        places.zip(pixels.chunks_exact(channels)).for_each(|(place, pixel)| pack(self.depth, pixel, place));
        self.file.write(y, &self.raw)
    }
}

/// Rows turned into columns at once, so that what is written of each column is not a single pixel.
const BLOCK: usize = 16;

/// A picture whose columns are read as rows. In the file, strip after strip of stored rows, each with its
/// columns one after the other: strips are written, and some columns of all strips are read, in long runs.
pub(super) struct Columns {
    file: RowFile,
    depth: Depth,
    width: u64,
    height: usize,
    pixel: usize,
    strip_rows: usize,
    strips: usize,
    /// Columns `group_at..` of all strips, strip after strip.
    group: Vec<u8>,
    group_at: u64,
    group_columns: u64,
    raw: Vec<u8>,
}

impl Columns {
    /// Bytes of its buffers while a picture like `header` is turned and read.
    pub(super) fn resident_bytes(header: &Header) -> u64 {
        let column = header.height * (header.colour.channels() * header.depth.bytes()) as u64;
        limits::TURNING_BUFFER + limits::TURNING_BUFFER.max(2 * column)
    }

    /// Reads every row of `stored`, whose header gives the extents before turning.
    pub(super) fn collect(folder: &Path, mut stored: Box<dyn Stored>) -> Result<Columns> {
        let header = stored.header().clone();
        let pixel = header.colour.channels() * header.depth.bytes();
        let row_bytes = header.row_len() * header.depth.bytes();
        let height = extent::to_usize("height", header.height)?;
        let fit = (limits::TURNING_BUFFER as usize / row_bytes).clamp(1, height);
        let strip_rows = if fit > BLOCK { fit - fit % BLOCK } else { fit };
        let in_block = BLOCK.min(strip_rows);
        let strips = height.div_ceil(strip_rows);
        let records = extent::product("a turned picture", &[strips as u64, header.width])?;
        let file = scratch(folder, strip_rows * pixel, records)?;

        let mut row = zeroed::<f32>("a row", header.row_len())?;
        let mut block = zeroed::<u8>("rows to be turned", in_block * row_bytes)?;
        let mut strip = zeroed::<u8>("a strip to be turned", strip_rows * row_bytes)?;
        for s in 0..strips {
            let rows = strip_rows.min(height - s * strip_rows);
            for first in (0..rows).step_by(in_block) {
                let count = in_block.min(rows - first);
                for raw in block.chunks_exact_mut(row_bytes).take(count) {
                    stored.read_row(&mut row)?;
                    pack(header.depth, &row, raw);
                }
                for (x, column) in strip.chunks_exact_mut(strip_rows * pixel).enumerate() {
                    for i in 0..count {
                        column[(first + i) * pixel..][..pixel]
                            .copy_from_slice(&block[i * row_bytes + x * pixel..][..pixel]);
                    }
                }
            }
            file.write(s as u64 * header.width, &strip)?;
        }
        drop((strip, block));
        let column = (strips * strip_rows * pixel) as u64;
        let group_columns = (limits::TURNING_BUFFER / column).clamp(1, header.width);
        let group = zeroed("columns of a turned picture", extent::to_usize("columns", group_columns * column)?)?;
        let raw = zeroed("a column", height * pixel)?;
        let (depth, width) = (header.depth, header.width);
        Ok(Columns {
            file,
            depth,
            width,
            height,
            pixel,
            strip_rows,
            strips,
            group,
            group_at: u64::MAX,
            group_columns,
            raw,
        })
    }

    /// Reads column `x`, from its end where `reversed`.
    pub(super) fn read(&mut self, x: u64, reversed: bool, row: &mut [f32]) -> Result<()> {
        let record = self.strip_rows * self.pixel;
        let run = self.group_columns as usize * record;
        if x < self.group_at || x >= self.group_at.saturating_add(self.group_columns) {
            // Groups of a fixed grid serve both directions; the last is moved inside.
            let at = (x / self.group_columns * self.group_columns).min(self.width - self.group_columns);
            for (s, part) in self.group.chunks_exact_mut(run).enumerate() {
                self.file.read(s as u64 * self.width + at, part)?;
            }
            self.group_at = at;
        }
        let inside = (x - self.group_at) as usize * record;
        for s in 0..self.strips {
            let rows = self.strip_rows.min(self.height - s * self.strip_rows);
            let from = &self.group[s * run + inside..][..rows * self.pixel];
            let to = s * self.strip_rows * self.pixel;
            self.raw[to..to + from.len()].copy_from_slice(from);
        }
        unpack(self.depth, &self.raw, row);
        if reversed {
            mirror(row, self.pixel / self.depth.bytes());
        }
        Ok(())
    }
}
