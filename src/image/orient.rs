//! The eight EXIF orientations, applied while reading.

use super::raster::Raster;
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

/// `stored`, turned upright: by rows where the rows stay rows in order, whole otherwise.
pub(super) fn upright(stored: Box<dyn Stored>, orientation: Orientation) -> Result<Box<dyn RowSource>> {
    match orientation.0 {
        1 => Ok(Box::new(Plain { stored, mirrored: false })),
        2 => Ok(Box::new(Plain { stored, mirrored: true })),
        _ => {
            let (width, height) = orientation.turned(stored.header().width, stored.header().height);
            let header = Header { width, height, ..stored.header().clone() };
            let reader_bytes = stored.resident_bytes();
            Ok(Box::new(Turned { header, raster: stored.into_raster()?, reader_bytes, orientation, next: 0 }))
        }
    }
}

struct Plain {
    stored: Box<dyn Stored>,
    mirrored: bool,
}

impl RowSource for Plain {
    fn header(&self) -> &Header {
        self.stored.header()
    }

    fn resident_bytes(&self) -> u64 {
        self.stored.resident_bytes()
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        self.stored.read_row(row)?;
        if self.mirrored {
            let channels = self.stored.header().colour.channels();
            // Reversing all values reverses the channels too; reversing each pixel sets them right.
            row.reverse();
            row.chunks_exact_mut(channels).for_each(<[f32]>::reverse);
        }
        Ok(())
    }
}

struct Turned {
    header: Header,
    raster: Raster,
    reader_bytes: u64,
    orientation: Orientation,
    next: usize,
}

impl RowSource for Turned {
    fn header(&self) -> &Header {
        &self.header
    }

    fn resident_bytes(&self) -> u64 {
        // What the reader of a picture that comes whole took is the same memory, or gone by now.
        self.raster.bytes().max(self.reader_bytes)
    }

    fn read_row(&mut self, row: &mut [f32]) -> Result<()> {
        let (w, h) = (self.raster.width, self.raster.height);
        let (x, y, step) = self.orientation.row_walk(self.next, w, h);
        let stride = if self.orientation.swaps() { step * w as isize } else { step };
        self.raster.read_walk(y * w + x, stride, row);
        self.next += 1;
        Ok(())
    }
}
