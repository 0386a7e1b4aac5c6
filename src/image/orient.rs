//! The eight EXIF orientations, applied while reading.

use super::raster::{self, Raster};
use super::spooled::{Columns, ReadOptions, Spooled};
use super::{Header, RowSource, Stored};
use crate::error::Result;

/// How a stored picture must be turned to stand upright: the value of the EXIF tag, 1 to 8.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Orientation(u8);

impl Orientation {
    /// As stored.
    pub(super) const UPRIGHT: Orientation = Orientation(1);

    /// The orientation a tag asks for; `None` outside 1..=8.
    pub(super) fn from_tag(tag: u32) -> Option<Orientation> {
        u8::try_from(tag).ok().filter(|t| (1..=8).contains(t)).map(Orientation)
    }

    /// Whether width and height change places.
    fn swaps(self) -> bool {
        self.0 >= 5
    }

    /// The extents after turning.
    pub(super) fn turned(self, width: u64, height: u64) -> (u64, u64) {
        if self.swaps() { (height, width) } else { (width, height) }
    }

    /// The stored pixel that shows at the left end of upright row `y`, and the step (in x or y, by
    /// [`Orientation::swaps`]) to the next: `(x, y, step)`. `w` and `h` are the stored extents.
    fn row_walk(self, y: usize, w: usize, h: usize) -> (usize, usize, isize) {
        match self.0 {
            2 => (w - 1, y, -1),
            3 => (w - 1, h - 1 - y, -1),
            4 => (0, h - 1 - y, 1),
            5 => (y, 0, 1),
            6 => (y, h - 1, -1),
            7 => (w - 1 - y, h - 1, -1),
            8 => (w - 1 - y, 0, 1),
            _ => (0, y, 1),
        }
    }
}

/// `stored`, turned upright: by rows where the rows stay rows in order, from memory or the spool otherwise.
pub(super) fn upright(
    mut stored: Box<dyn Stored>,
    orientation: Orientation,
    options: &ReadOptions,
) -> Result<Box<dyn RowSource>> {
    if orientation.0 <= 2 {
        let resident = stored.resident_bytes(options);
        stored.hold(options);
        return Ok(Box::new(Plain { stored, resident, mirrored: orientation.0 == 2 }));
    }
    let before = stored.header();
    let (width, height) = orientation.turned(before.width, before.height);
    let bytes = raster::bytes(width, height, before.colour, before.depth)?;
    let header = Header { width, height, ..before.clone() };
    let resident = resident(&*stored, orientation, options)?;
    let held = match options.folder(bytes) {
        Some(folder) if orientation.swaps() => Held::Columns(Columns::collect(folder, stored)?),
        Some(folder) => Held::Rows(Spooled::collect(folder, stored)?),
        None => Held::Memory(stored.into_raster()?),
    };
    Ok(Box::new(Turned { header, held, resident, orientation, next: 0 }))
}

/// Bytes that reading `stored` upright holds at its peak beside a few rows.
pub(super) fn resident(stored: &dyn Stored, orientation: Orientation, options: &ReadOptions) -> Result<u64> {
    if orientation.0 <= 2 {
        return Ok(stored.resident_bytes(options));
    }
    let header = stored.header();
    let bytes = raster::bytes(header.width, header.height, header.colour, header.depth)?;
    Ok(match options.folder(bytes) {
        // What decodes whole stays in memory until it is turned.
        Some(_) if orientation.swaps() => {
            stored.resident_bytes(&ReadOptions::default()).saturating_add(Columns::resident_bytes(header))
        }
        Some(_) => stored.resident_bytes(&ReadOptions::default()),
        // What the reader of a picture that comes whole took is the same memory, or gone by then.
        None => bytes.max(stored.resident_bytes(&ReadOptions::default())),
    })
}

struct Plain {
    stored: Box<dyn Stored>,
    resident: u64,
    mirrored: bool,
}

impl RowSource for Plain {
    fn header(&self) -> &Header {
        self.stored.header()
    }

    fn resident_bytes(&self) -> u64 {
        self.resident
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        self.stored.read_row(row)?;
        if self.mirrored {
            mirror(row, self.stored.header().colour.channels());
        }
        Ok(())
    }
}

/// A picture that is read in another order than it is stored.
enum Held {
    Memory(Raster),
    Rows(Spooled),
    Columns(Columns),
}

struct Turned {
    header: Header,
    held: Held,
    resident: u64,
    orientation: Orientation,
    next: usize,
}

impl RowSource for Turned {
    fn header(&self) -> &Header {
        &self.header
    }

    fn resident_bytes(&self) -> u64 {
        self.resident
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        let turned = self.orientation.turned(self.header.width, self.header.height);
        let (w, h) = (turned.0 as usize, turned.1 as usize);
        let (x, y, step) = self.orientation.row_walk(self.next, w, h);
        match &mut self.held {
            Held::Memory(raster) => {
                let stride = if self.orientation.swaps() { step * w as isize } else { step };
                raster.read_walk(y * w + x, stride, row);
            }
            Held::Columns(columns) => columns.read(x as u64, step < 0, row)?,
            Held::Rows(rows) => {
                rows.read_row(y as u64, row)?;
                if step < 0 {
                    mirror(row, self.header.colour.channels());
                }
            }
        }
        self.next += 1;
        Ok(())
    }
}

/// The pixels of a row from its other end.
pub(super) fn mirror(row: &mut [f32], channels: usize) {
    // Reversing all values reverses the channels too; reversing each pixel sets them right.
    row.reverse();
    row.chunks_exact_mut(channels).for_each(<[f32]>::reverse);
}
