//! Rows of pixels in flight: a ring of input rows that windows are cut from, and a ring of output rows
//! that windows are added to. Both hold O(width x window height) values, whatever the picture's height.

use super::geometry::mirror;
use crate::error::{Error, Kind, Result};

/// A band of consecutive rows of a canvas, `channels` values a pixel.
#[derive(Debug, Clone)]
pub struct RowRing {
    width: usize,
    channels: usize,
    capacity: usize,
    /// Rows `first..end` are held; row `y` lies in slot `y % capacity`.
    first: u32,
    end: u32,
    data: Vec<f32>,
}

impl RowRing {
    /// An empty ring for `capacity` rows.
    pub fn new(width: u32, channels: u32, capacity: u32) -> RowRing {
        let (width, channels, capacity) = (width as usize, channels as usize, capacity.max(1) as usize);
        RowRing { width, channels, capacity, first: 0, end: 0, data: vec![0.0; width * channels * capacity] }
    }

    /// The same, with `first` as the first row that is pushed.
    pub fn starting_at(first: u32, width: u32, channels: u32, capacity: u32) -> RowRing {
        RowRing { first, end: first, ..RowRing::new(width, channels, capacity) }
    }

    /// Values of one row.
    pub fn row_len(&self) -> usize {
        self.width * self.channels
    }

    /// Host bytes held.
    pub fn bytes(&self) -> u64 {
        (self.data.len() * size_of::<f32>()) as u64
    }

    /// Rows it can hold.
    pub fn capacity(&self) -> u32 {
        self.capacity as u32
    }

    /// The row after the last one held.
    pub fn end(&self) -> u32 {
        self.end
    }

    /// Makes room for the next row, forgetting the oldest when the ring is full, and gives its values.
    pub fn push(&mut self) -> &mut [f32] {
        if (self.end - self.first) as usize == self.capacity {
            self.first += 1;
        }
        let y = self.end;
        self.end += 1;
        self.slot(y)
    }

    /// Row `y`, if it is held.
    pub fn row(&self, y: u32) -> Result<&[f32]> {
        if y < self.first || y >= self.end {
            return Err(Error::new(
                Kind::Internal,
                "tile",
                format!("row {y} is not among the rows {}..{} held", self.first, self.end),
            ));
        }
        let n = self.row_len();
        let at = y as usize % self.capacity * n;
        Ok(&self.data[at..at + n])
    }

    /// See [`RowRing::row`].
    pub fn row_mut(&mut self, y: u32) -> Result<&mut [f32]> {
        self.row(y)?;
        Ok(self.slot(y))
    }

    fn slot(&mut self, y: u32) -> &mut [f32] {
        let n = self.row_len();
        let at = y as usize % self.capacity * n;
        &mut self.data[at..at + n]
    }
}

/// Cuts `[h, w]` pixels at (`y`, `x`) out of a canvas of `extent = [rows, columns]` whose rows `row(y)`
/// gives, mirrored beyond its edges.
pub fn crop<'a>(
    row: impl Fn(u32) -> Result<&'a [f32]>,
    extent: [u32; 2],
    channels: usize,
    [y, x]: [i64; 2],
    [h, w]: [u32; 2],
    out: &mut [f32],
) -> Result<()> {
    let n = w as usize * channels;
    for (i, to) in out.chunks_exact_mut(n).take(h as usize).enumerate() {
        let from = row(mirror(y + i as i64, extent[0]))?;
        if x >= 0 && x + i64::from(w) <= i64::from(extent[1]) {
            let at = x as usize * channels;
            to.copy_from_slice(&from[at..at + n]);
            continue;
        }
        for (j, pixel) in to.chunks_exact_mut(channels).enumerate() {
            let at = mirror(x + j as i64, extent[1]) as usize * channels;
            pixel.copy_from_slice(&from[at..at + channels]);
        }
    }
    Ok(())
}

/// Rows that windows are blended into. Windows come in the order of their index, so that the sum at a
/// pixel has one order; rows above the next window are final and leave.
#[derive(Debug, Clone)]
pub struct BandBlend {
    ring: RowRing,
    rows: u32,
    /// Rows `..done` have left.
    done: u32,
    /// Rows `..from` left before it began.
    from: u32,
}

impl BandBlend {
    /// For a canvas of `rows x width` pixels and windows at most `tile` rows high.
    pub fn new(rows: u32, width: u32, channels: u32, tile: u32) -> BandBlend {
        BandBlend { ring: RowRing::new(width, channels, tile.min(rows)), rows, done: 0, from: 0 }
    }

    /// Host bytes held.
    pub fn bytes(&self) -> u64 {
        self.ring.bytes()
    }

    /// Adds a window at (`y`, `x`): `wy[i] * wx[j] * values[i][j]`. What lies beyond the canvas (the mirrored
    /// rim) is left out.
    pub fn add(&mut self, [y, x]: [u32; 2], wy: &[f32], wx: &[f32], values: &[f32]) -> Result<()> {
        let c = self.ring.channels;
        let n = wx.len() * c;
        let inside = wx.len().min(self.ring.width.saturating_sub(x as usize));
        let bottom = y.saturating_add(wy.len() as u32).min(self.rows);
        // What a window adds to rows that left before the start is left out.
        let hidden = self.from.saturating_sub(y).min(bottom.saturating_sub(y));
        let (y, wy, values) = (y + hidden, &wy[hidden as usize..], &values[hidden as usize * n..]);
        if y < self.done.min(bottom) || bottom.saturating_sub(self.done) > self.ring.capacity as u32 {
            return Err(Error::new(
                Kind::Internal,
                "tile",
                format!("rows {y}..{bottom} do not fit the band that begins at {}", self.done),
            ));
        }
        while self.ring.end < bottom {
            self.ring.push().fill(0.0);
        }
        for ((row, &wy), from) in (y..bottom).zip(wy).zip(values.chunks_exact(n)) {
            let to = &mut self.ring.slot(row)[x as usize * c..(x as usize + inside) * c];
            for ((to, from), &wx) in to.chunks_exact_mut(c).zip(from.chunks_exact(c)).zip(wx) {
                let weight = wy * wx;
                for (t, f) in to.iter_mut().zip(from) {
                    *t += weight * f;
                }
            }
        }
        Ok(())
    }

    /// Hands the rows `..until` that have not left yet to `take`, top first.
    pub fn finish(&mut self, until: u32, mut take: impl FnMut(u32, &[f32]) -> Result<()>) -> Result<()> {
        while self.done < until.min(self.rows) {
            take(self.done, self.ring.row(self.done)?)?;
            self.done += 1;
        }
        Ok(())
    }

    /// Starts over at the top.
    pub fn restart(&mut self) {
        self.restart_at(0);
    }

    /// Starts over below the rows `..from`: these have left, and what windows add to them is left out.
    pub fn restart_at(&mut self, from: u32) {
        let from = from.min(self.rows);
        (self.ring.first, self.ring.end, self.done, self.from) = (from, from, from, from);
    }
}
