//! How a run is watched, stopped and ordered.

use super::options::{Cancel, Observer, TileOrder};
use crate::noise::{self, Key};
use crate::tile::Grid;
use std::time::Instant;

/// How a run is watched, stopped and ordered.
pub struct Control<'a> {
    /// Who is told.
    pub observer: &'a mut dyn Observer,
    /// Checked before every launch.
    pub cancel: &'a Cancel,
    /// Order of the windows within a row.
    pub order: TileOrder,
    /// When the job began.
    pub began: Instant,
}

/// The windows of a grid, row by row, each row in the order asked for.
pub(super) fn sequence(grid: &Grid, order: TileOrder) -> Vec<usize> {
    let columns = grid.cols.count();
    let mut all: Vec<usize> = (0..grid.count()).collect();
    for (r, row) in all.chunks_exact_mut(columns).enumerate() {
        match order {
            TileOrder::Natural => {}
            TileOrder::Reversed => row.reverse(),
            TileOrder::Shuffled(seed) => {
                let key = Key { seed, stage: 0, purpose: u16::MAX, step: r as u32 };
                for i in (1..row.len()).rev() {
                    row.swap(i, noise::below(key, i as u32, i as u32 + 1) as usize);
                }
            }
        }
    }
    all
}
