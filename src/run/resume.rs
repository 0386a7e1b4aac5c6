//! How an interrupted program goes on: rows of its output that are finished are not made again.

use super::interpreter::Interpreter;
use super::sinks::Working;
use crate::system::phase::{Block, Phase, Sink, Source};
use crate::system::program::{CanvasId, Program, Residency, SavedId};
use crate::tile::Axis;

/// The first row of windows that reaches below row `done` of the canvas whose windows `axis` gives. What
/// rows of windows before it add lies above; so sums at all rows from `done` on have their every term.
pub(super) fn first_row(axis: &Axis, done: u32) -> usize {
    if done >= axis.extent {
        return axis.count();
    }
    axis.origins.iter().position(|o| o + axis.size > done).unwrap_or(axis.count())
}

impl Interpreter<'_> {
    /// Says that the rows of an output band above row `done` are finished. The pass that makes them begins at
    /// the first row of windows that reaches further; where a pass has other results too, it begins at the top.
    /// Finished rows may come again and have the same values then.
    pub fn resume_at(&mut self, canvas: CanvasId, done: u32) {
        self.finished = Some((canvas, done));
    }

    /// The row of windows at which a pass of `phases` begins, and the finished rows of its output.
    pub(super) fn start_of(&self, phases: std::ops::Range<usize>) -> (usize, u32) {
        let Some((canvas, done)) = self.finished.filter(|(_, done)| *done > 0) else { return (0, 0) };
        let mut start = None;
        for p in phases.clone() {
            for sink in self.phases[p].outputs.iter().flat_map(|o| &o.sinks) {
                let row = match sink {
                    Working::Blend(b) if b.canvas() == canvas => match b.axis(self.phases[p].grid) {
                        Ok(axis) => first_row(&axis, done),
                        Err(_) => return (0, 0),
                    },
                    Working::Save { saved, .. } if !read_elsewhere(self.program, *saved, &phases) => continue,
                    _ => return (0, 0),
                };
                start = Some(start.map_or(row, |s: usize| s.min(row)));
            }
        }
        start.map_or((0, 0), |row| (row, done))
    }
}

impl Interpreter<'_> {
    /// The row of windows at which the last phases of a chained pass begin, and the finished rows of its output.
    /// Only a pass whose one result is that output begins in the middle.
    pub(super) fn start_of_chain(&self, block: &Block) -> (usize, u32) {
        let Some((output, done)) = self.finished.filter(|(_, done)| *done > 0) else { return (0, 0) };
        let mut start = None;
        for phase in &block.phases {
            let Phase::Windows(phase) = phase else { return (0, 0) };
            for (_, sink) in &phase.sinks {
                let rows = &self.program.grids[phase.grid.0].rows;
                match sink {
                    Sink::Blend { canvas, ratio, .. } if *canvas == output => {
                        let Ok(axis) = rows.scaled(|v| ratio.of(v)) else { return (0, 0) };
                        start = Some(first_row(&axis, done).min(rows.count() - 1));
                    }
                    Sink::Store { canvas, ratio } if *canvas == output => {
                        let reaches = |k: &usize| ratio.of(rows.cell(*k)[1]).is_ok_and(|end| end > done);
                        start = Some((0..rows.count()).find(reaches).unwrap_or(rows.count() - 1));
                    }
                    // Of the phases before, rows that nobody needs are not made.
                    Sink::Store { canvas, .. } if self.program.canvases[canvas.0].residency == Residency::Band => {}
                    _ => return (0, 0),
                }
            }
        }
        start.map_or((0, 0), |row| (row, done))
    }
}

/// Whether another window phase than those in `phases` reads a saved value.
fn read_elsewhere(program: &Program, saved: SavedId, phases: &std::ops::Range<usize>) -> bool {
    let windows = program.blocks.iter().flat_map(|b| &b.phases).filter_map(|p| match p {
        Phase::Windows(w) => Some(w),
        Phase::Canvas(_) => None,
    });
    windows.enumerate().filter(|(i, _)| !phases.contains(i)).any(|(_, phase)| {
        phase.sources.iter().any(|(_, source)| match source {
            Source::Saved { saved: s, .. } | Source::Gather(s) => *s == saved,
            _ => false,
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tile::geometry::{Placement, Tiling};

    #[test]
    fn the_first_row_is_the_first_that_reaches_further() {
        let t = Tiling { tile: 64, overlap: 32, stride: 1, quantum: 1, placement: Placement::Packed };
        let axis = Axis::new(169, &t).expect("fits");
        assert_eq!(axis.origins, [0, 32, 64, 96, 105]);
        for (done, row) in
            [(0, 0), (1, 0), (32, 0), (63, 0), (64, 1), (96, 2), (105, 2), (160, 4), (168, 4), (169, 5), (999, 5)]
        {
            assert_eq!(first_row(&axis, done), row, "{done}");
            // No row of windows left out reaches below what is finished.
            assert!(axis.origins[..row].iter().all(|o| o + axis.size <= done.max(axis.size * u32::from(row > 0))));
        }
    }
}
