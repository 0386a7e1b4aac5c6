//! THE tile maths: where windows lie. Windows never have partial shapes; the last is flush with the
//! border, the others start at multiples of the network's total stride. A side shorter than a window is
//! mirrored up to a whole number of [`QUANTUM`] pixels and becomes one window.

use crate::error::{Error, Kind, Result};
use crate::extent;

/// A side shorter than a window is mirrored up to a multiple of this, pixels.
pub const QUANTUM: u32 = 64;

/// How windows share out a side.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Placement {
    /// Evenly: every overlap is at least the one asked for and all are about equal.
    #[default]
    Even,
    /// Every `tile - overlap` pixels, the last flush with the border (as the published latent tilings do).
    Packed,
    /// Evenly, by windows no larger than needed: as many as `Even` takes, each shrunk until the overlaps are
    /// the ones asked for. Saves what a fixed window would compute twice (up to half of all pixels).
    Fitted,
}

/// What is asked of the windows of both axes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Tiling {
    /// Window side.
    pub tile: u32,
    /// Least overlap of neighbours.
    pub overlap: u32,
    /// The network's total stride; windows start at its multiples, `tile` is one.
    pub stride: u32,
    /// See [`QUANTUM`]; in units of the grid, a multiple of `stride`.
    pub quantum: u32,
    /// See [`Placement`].
    pub placement: Placement,
}

/// The windows of one axis.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Axis {
    /// Pixels of the picture.
    pub extent: u32,
    /// Pixels that exist once a short side is mirrored; otherwise `extent`.
    pub padded: u32,
    /// Window side.
    pub size: u32,
    /// First pixel of each window, rising.
    pub origins: Vec<u32>,
}

impl Axis {
    /// Windows over `extent` pixels.
    pub fn new(extent: u32, t: &Tiling) -> Result<Axis> {
        if extent == 0 || t.stride == 0 || t.tile == 0 || !t.tile.is_multiple_of(t.stride) || t.overlap >= t.tile {
            return Err(Error::new(
                Kind::Usage,
                "tile",
                format!(
                    "windows of {} with an overlap of {} cannot cover {extent} pixels at stride {}",
                    t.tile, t.overlap, t.stride
                ),
            )
            .advise(format!("the window is a multiple of {}, the overlap smaller than the window", t.stride.max(1))));
        }
        if extent <= t.tile {
            let quantum = t.quantum.max(1).next_multiple_of(t.stride);
            let size = extent::to_u32("tile", extent::round_up(extent.into(), quantum.into()))?.min(t.tile);
            return Ok(Axis { extent, padded: size, size, origins: vec![0] });
        }
        // The step is a multiple of the stride, so that rounding origins up to the stride never makes a gap
        // between neighbours longer than the step.
        let step = ((t.tile - t.overlap) / t.stride * t.stride).max(t.stride);
        let count = (extent - t.tile).div_ceil(step) + 1;
        let size = if t.placement == Placement::Fitted {
            let (n, overlap) = (u64::from(count), u64::from(t.overlap.next_multiple_of(t.stride)));
            let least = (u64::from(extent) + (n - 1) * overlap).div_ceil(n).next_multiple_of(t.stride.into());
            extent::to_u32("tile", least)?.min(t.tile)
        } else {
            t.tile
        };
        let last = extent - size;
        let at = |i: u32| -> u32 {
            if i + 1 == count {
                return last;
            }
            match t.placement {
                Placement::Packed => i * step,
                Placement::Even | Placement::Fitted => {
                    let exact = (u64::from(i) * u64::from(last)).div_ceil(u64::from(count - 1));
                    (exact.next_multiple_of(u64::from(t.stride)) as u32).min(last)
                }
            }
        };
        Ok(Axis { extent, padded: extent, size, origins: (0..count).map(at).collect() })
    }

    /// Number of windows.
    pub fn count(&self) -> usize {
        self.origins.len()
    }

    /// First and end pixel of window `k`'s cell: cells divide the picture at the middle of every overlap.
    pub fn cell(&self, k: usize) -> [u32; 2] {
        let middle = |k: usize| (self.origins[k] + self.origins[k - 1] + self.size) / 2;
        let first = if k == 0 { 0 } else { middle(k) };
        let end = if k + 1 == self.count() { self.extent } else { middle(k + 1) };
        [first, end]
    }

    /// The same windows on a canvas with `num / den` pixels per pixel of this axis, when all are whole.
    pub fn scaled(&self, scale: impl Fn(u32) -> Result<u32>) -> Result<Axis> {
        Ok(Axis {
            extent: scale(self.extent)?,
            padded: scale(self.padded)?,
            size: scale(self.size)?,
            origins: self.origins.iter().map(|&o| scale(o)).collect::<Result<_>>()?,
        })
    }
}

/// The pixel inside `0..extent` that a mirrored coordinate shows; the edge pixel is not repeated.
pub fn mirror(i: i64, extent: u32) -> u32 {
    let last = i64::from(extent) - 1;
    if last <= 0 {
        return 0;
    }
    let m = i.rem_euclid(2 * last);
    (if m > last { 2 * last - m } else { m }) as u32
}

/// One window.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    /// Position in the grid's row-major order.
    pub index: usize,
    /// Row and column in the grid.
    pub row: usize,
    /// See `row`.
    pub col: usize,
    /// First row of pixels.
    pub y: u32,
    /// First column of pixels.
    pub x: u32,
}

/// The windows of a picture, row-major.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Grid {
    /// Down.
    pub rows: Axis,
    /// Across.
    pub cols: Axis,
}

impl Grid {
    /// Windows over `height x width` pixels.
    pub fn new(height: u32, width: u32, tiling: &Tiling) -> Result<Grid> {
        Ok(Grid { rows: Axis::new(height, tiling)?, cols: Axis::new(width, tiling)? })
    }

    /// Number of windows.
    pub fn count(&self) -> usize {
        self.rows.count() * self.cols.count()
    }

    /// Window `index`.
    pub fn window(&self, index: usize) -> Window {
        let (row, col) = (index / self.cols.count(), index % self.cols.count());
        Window { index, row, col, y: self.rows.origins[row], x: self.cols.origins[col] }
    }

    /// `[y0, x0, y1, x1]` of a window's pixels that lie inside the picture; all zero when all of them do.
    pub fn valid_rect(&self) -> [i32; 4] {
        let (y, x) = (self.rows.extent.min(self.rows.size), self.cols.extent.min(self.cols.size));
        if (y, x) == (self.rows.size, self.cols.size) { [0; 4] } else { [0, 0, y as i32, x as i32] }
    }

    /// The window's name in messages.
    pub fn describe(&self, index: usize) -> String {
        let w = self.window(index);
        format!("window {} of {} (row {}, column {})", index + 1, self.count(), w.y, w.x)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn packed(tile: u32, overlap: u32) -> Tiling {
        Tiling { tile, overlap, stride: 1, quantum: 1, placement: Placement::Packed }
    }

    #[test]
    fn packed_offsets_are_the_published_ones() {
        let t = packed(64, 32);
        assert_eq!(Axis::new(169, &t).expect("fits").origins, [0, 32, 64, 96, 105]);
        let a = Axis::new(255, &t).expect("fits");
        assert_eq!((a.count(), a.origins[5], a.origins[6]), (7, 160, 191));
        let prompt = packed(128, 64);
        assert_eq!(Axis::new(510, &prompt).expect("fits").origins, [0, 64, 128, 192, 256, 320, 382]);
        assert_eq!(Axis::new(339, &prompt).expect("fits").origins, [0, 64, 128, 192, 211]);
    }

    #[test]
    fn short_sides_become_one_mirrored_window() {
        let t = Tiling { tile: 512, overlap: 64, stride: 4, quantum: QUANTUM, placement: Placement::Even };
        let a = Axis::new(80, &t).expect("fits");
        assert_eq!((a.size, a.padded, a.origins.as_slice()), (128, 128, [0].as_slice()));
        assert_eq!(Axis::new(512, &t).expect("fits").size, 512);
        assert_eq!(Axis::new(513, &t).expect("fits").origins, [0, 1]);
        // A window that is no multiple of 64 bounds the mirrored side.
        let t = Tiling { tile: 100, ..t };
        assert_eq!(Axis::new(90, &t).expect("fits").size, 100);
    }

    #[test]
    fn fitted_windows_waste_nothing() {
        let t = Tiling { tile: 512, overlap: 32, stride: 4, quantum: QUANTUM, placement: Placement::Fitted };
        let a = Axis::new(1024, &t).expect("fits");
        assert_eq!((a.size, a.origins.as_slice()), (364, [0, 332, 660].as_slice()));
        let a = Axis::new(7680, &t).expect("fits");
        assert_eq!((a.size, a.count()), (512, 16));
        let a = Axis::new(600, &t).expect("fits");
        assert_eq!((a.size, a.count()), (316, 2));
    }

    #[test]
    fn mirroring_reflects_without_repeating_the_edge() {
        let got: Vec<u32> = (-3..8).map(|i| mirror(i, 4)).collect();
        assert_eq!(got, [3, 2, 1, 0, 1, 2, 3, 2, 1, 0, 1]);
        assert_eq!(mirror(17, 1), 0);
        assert!((0..50).all(|i| mirror(i, 2) == (i % 2) as u32));
    }

    #[test]
    fn nonsense_is_refused() {
        let t = packed(64, 32);
        assert!(Axis::new(0, &t).is_err());
        assert!(Axis::new(100, &packed(64, 64)).is_err());
        assert!(Axis::new(100, &Tiling { stride: 7, ..t }).is_err());
    }
}
