//! The cell of a window: the part of its result that no other window has. Cells divide a canvas without gap or overlap.

use crate::error::Result;
use crate::system::program::Ratio;
use crate::tile::{Grid, Window};

/// A window's cell on a canvas: where it lies there and in the window's own values.
#[derive(Debug, Clone, Copy)]
pub(super) struct Cell {
    /// First row and column on the canvas.
    pub(super) at: [u32; 2],
    /// Rows and columns.
    pub(super) size: [u32; 2],
    /// First row and column in the window.
    pub(super) from: [u32; 2],
    /// Columns of the window.
    pub(super) width: u32,
}

impl Cell {
    /// The cell of `window` on a canvas of `ratio` pixels per grid pixel.
    pub(super) fn of(grid: &Grid, window: Window, ratio: Ratio) -> Result<Cell> {
        let [top, bottom] = grid.rows.cell(window.row);
        let [left, right] = grid.cols.cell(window.col);
        Ok(Cell {
            at: [ratio.of(top)?, ratio.of(left)?],
            size: [ratio.of(bottom - top)?, ratio.of(right - left)?],
            from: [ratio.of(top - window.y)?, ratio.of(left - window.x)?],
            width: ratio.of(grid.cols.size)?,
        })
    }
}

/// A window's cell in 1/65536 of the window. A border at `c` of `n` grid pixels is `floor(c * 65536 / n)`; at a
/// level of `r` pixels per grid pixel the kernel takes the ceiling of that times `n * r / 65536`, which is
/// exactly `c * r` as long as `n * r` is at most 65,536. So cells of neighbours share no pixel and leave none out.
pub(super) fn stats_rect(grid: &Grid, w: Window) -> [i32; 4] {
    let part = |v: u32, size: u32| ((u64::from(v) << 16) / u64::from(size.max(1))) as i32;
    let [top, bottom] = grid.rows.cell(w.row).map(|v| part(v - w.y, grid.rows.size));
    let [left, right] = grid.cols.cell(w.col).map(|v| part(v - w.x, grid.cols.size));
    [top, left, bottom, right]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::geometry::{Placement, Tiling};

    #[test]
    fn cells_are_whole_at_every_level_for_every_window() {
        for tile in 3..200u32 {
            for extent in [tile, tile + 1, 2 * tile - 1, 3 * tile + 2] {
                let t = Tiling { tile, overlap: 2.min(tile - 1), stride: 1, quantum: 1, placement: Placement::Even };
                let grid = Grid::new(extent, extent, &t).expect("fits");
                for level in [1, 2, 4, 8, 16] {
                    let rows = grid.rows.size * level;
                    let mut next = 0;
                    for k in 0..grid.rows.count() {
                        let w = grid.window(k * grid.cols.count());
                        let [y0, _, y1, _] = stats_rect(&grid, w);
                        let border = |v: i32| ((v as u64 * u64::from(rows)).div_ceil(65_536)) as u32 + w.y * level;
                        assert_eq!(border(y0), next, "a gap or an overlap: {tile} {extent} {level}");
                        next = border(y1);
                        let cell = Cell::of(&grid, w, Ratio { num: level, den: 1 }).expect("whole");
                        assert_eq!([cell.at[0], cell.at[0] + cell.size[0]], [border(y0), next]);
                    }
                    assert_eq!(next, extent * level);
                }
            }
        }
    }
}
