//! Where graph outputs go. Whatever order windows are computed in, their results are taken in window order:
//! a window that is early waits in a buffer, so every sum at a pixel has one order.

use super::canvas::World;
use super::cell::Cell;
use super::connections::Connections;
use super::statistics::Moments;
use crate::error::{Error, Kind, Result};
use crate::system::phase::{Sink, WindowPhase};
use crate::system::program::{CanvasId, Program, Ratio, SavedId, StatisticId};
use crate::tile::{Axis, BandBlend, BlendWeights, Grid, Window};
use std::collections::BTreeMap;

/// A sink at work.
pub(super) enum Working {
    Blend(Box<Blend>),
    Save { saved: SavedId, gains: Vec<f32> },
    Store { canvas: CanvasId, ratio: Ratio },
    Partials { statistic: StatisticId, partials: Vec<Vec<Moments>> },
    Moments { statistic: StatisticId, ratio: Ratio, partials: Vec<Vec<Moments>> },
}

/// Blending into one canvas.
pub(super) struct Blend {
    canvas: CanvasId,
    ratio: Ratio,
    rows: BlendWeights,
    cols: BlendWeights,
    band: BandBlend,
    gains: Vec<f32>,
    last_step_only: bool,
    /// The next window to take; earlier ones are in the band.
    next: usize,
    /// Windows that are early or whose branches are not complete, with the number of branches in.
    waiting: BTreeMap<usize, (usize, Vec<f32>)>,
    /// Buffers to wait in.
    free: Vec<Vec<f32>>,
    /// Buffers ever made.
    made: u64,
}

/// One item's result on its way into a sink.
pub(super) struct Arrival<'a> {
    pub(super) grid: &'a Grid,
    pub(super) window: Window,
    pub(super) branch: usize,
    pub(super) values: &'a [f32],
    pub(super) channels: usize,
    pub(super) last_step: bool,
}

impl Working {
    /// The sink ready for its first pass.
    pub(super) fn new(program: &Program, phase: &WindowPhase, sink: &Sink) -> Result<Working> {
        let grid = &program.grids[phase.grid.0];
        Ok(match sink {
            Sink::Blend { canvas, ratio, ramp, halo, gains, last_step_only } => {
                let rows = grid.rows.scaled(|v| ratio.of(v))?;
                let cols = grid.cols.scaled(|v| ratio.of(v))?;
                let halo = u64::from(*halo) * u64::from(ratio.num) / u64::from(ratio.den.max(1));
                let [h, w] = program.extent(*canvas);
                Working::Blend(Box::new(Blend {
                    canvas: *canvas,
                    ratio: *ratio,
                    band: BandBlend::new(h, w, program.canvases[canvas.0].channels, rows.size),
                    rows: BlendWeights::new(&rows, *ramp, halo as u32),
                    cols: BlendWeights::new(&cols, *ramp, halo as u32),
                    gains: gains.clone(),
                    last_step_only: *last_step_only,
                    next: 0,
                    waiting: BTreeMap::new(),
                    free: Vec::new(),
                    made: 0,
                }))
            }
            Sink::Save { saved, gains } => Working::Save { saved: *saved, gains: gains.clone() },
            Sink::Store { canvas, ratio } => Working::Store { canvas: *canvas, ratio: *ratio },
            Sink::Partials { statistic } => {
                let channels = program.statistics[statistic.0].channels as usize;
                let partials = vec![vec![Moments::default(); channels]; grid.count()];
                Working::Partials { statistic: *statistic, partials }
            }
            Sink::Moments { statistic, ratio } => {
                let channels = program.statistics[statistic.0].channels as usize;
                let partials = vec![vec![Moments::default(); channels]; grid.count()];
                Working::Moments { statistic: *statistic, ratio: *ratio, partials }
            }
        })
    }

    /// Host bytes held at least.
    pub(super) fn bytes(&self) -> u64 {
        match self {
            Working::Blend(b) => b.band.bytes(),
            Working::Save { .. } | Working::Store { .. } => 0,
            Working::Partials { partials, .. } | Working::Moments { partials, .. } => {
                partials.iter().map(|p| (p.len() * size_of::<Moments>()) as u64).sum()
            }
        }
    }

    /// Buffers made since the start.
    pub(super) fn growths(&self) -> u64 {
        match self {
            Working::Blend(b) => b.made,
            Working::Save { .. } | Working::Store { .. } | Working::Partials { .. } | Working::Moments { .. } => 0,
        }
    }

    /// Begins a pass over all windows but the first `skipped`, which reach no further than the rows above
    /// `finished` that an earlier run made.
    pub(super) fn begin(&mut self, skipped: usize, finished: u32) {
        match self {
            Working::Blend(b) => {
                b.band.restart_at(finished);
                b.next = skipped;
            }
            Working::Save { .. } | Working::Store { .. } => {}
            Working::Partials { partials, .. } | Working::Moments { partials, .. } => {
                partials.iter_mut().for_each(|p| p.fill(Moments::default()));
            }
        }
    }

    /// Takes one item's result.
    pub(super) fn take(&mut self, a: &Arrival<'_>, world: &mut World<'_>, io: &mut Connections<'_>) -> Result<()> {
        match self {
            Working::Blend(b) => {
                if a.last_step || !b.last_step_only {
                    b.take(a, world, io)?;
                }
                Ok(())
            }
            Working::Save { saved, gains } => {
                let gain = gains[a.branch];
                for (to, v) in world.saved_mut(*saved, a.window.index).iter_mut().zip(a.values) {
                    // The first branch replaces what an earlier step saved.
                    *to = if a.branch == 0 { gain * v } else { *to + gain * v };
                }
                Ok(())
            }
            Working::Store { canvas, ratio } => world.store(*canvas, &Cell::of(a.grid, a.window, *ratio)?, a.values),
            Working::Partials { partials, .. } => {
                // From nothing: a launch may be tried again.
                partials[a.window.index].fill(Moments::default());
                Moments::add_blocks(&mut partials[a.window.index], a.values);
                Ok(())
            }
            Working::Moments { ratio, partials, .. } => {
                if a.branch == 0 {
                    cell_moments(a, *ratio, &mut partials[a.window.index])?;
                }
                Ok(())
            }
        }
    }

    /// A row of windows of a chained pass begins: makes room for its cells in a band.
    pub(super) fn begin_row(&self, grid: &Grid, row: usize, world: &mut World<'_>) -> Result<()> {
        match self {
            Working::Store { canvas, ratio } => world.make_room(*canvas, ratio.of(grid.rows.cell(row)[1])?),
            Working::Blend(_) | Working::Save { .. } | Working::Partials { .. } | Working::Moments { .. } => Ok(()),
        }
    }

    /// It ends: what is finished leaves.
    pub(super) fn end_row(
        &mut self,
        grid: &Grid,
        row: usize,
        world: &mut World<'_>,
        io: &mut Connections<'_>,
    ) -> Result<()> {
        match self {
            Working::Store { canvas, ratio } => {
                let [first, end] = grid.rows.cell(row);
                world.drain(*canvas, ratio.of(first)?, ratio.of(end)?, io)
            }
            Working::Blend(b) => {
                let next = grid.rows.origins.get(row + 1).map_or(Ok(u32::MAX), |&o| b.ratio.of(o))?;
                let canvas = b.canvas;
                b.band.finish(next, |y, row| world.put(canvas, y, row, io))?;
                world.settle(canvas, io)
            }
            Working::Save { .. } | Working::Partials { .. } | Working::Moments { .. } => Ok(()),
        }
    }

    /// The canvas that an output is stored in as it is.
    pub(super) fn stored_in(&self) -> Option<(CanvasId, Ratio)> {
        match self {
            Working::Store { canvas, ratio } => Some((*canvas, *ratio)),
            Working::Blend(_) | Working::Save { .. } | Working::Partials { .. } | Working::Moments { .. } => None,
        }
    }

    /// Ends a pass: what is finished leaves.
    pub(super) fn end(
        &mut self,
        grid: &Grid,
        last_step: bool,
        world: &mut World<'_>,
        io: &mut Connections<'_>,
    ) -> Result<()> {
        match self {
            Working::Blend(b) if last_step || !b.last_step_only => {
                if b.next != grid.count() {
                    let why = format!("{} of {} windows were blended", b.next, grid.count());
                    return Err(Error::new(Kind::Internal, "run", why));
                }
                let canvas = b.canvas;
                b.band.finish(u32::MAX, |y, row| world.put(canvas, y, row, io))?;
                world.settle(canvas, io)
            }
            Working::Blend(_) | Working::Save { .. } | Working::Store { .. } => Ok(()),
            Working::Partials { statistic, partials } | Working::Moments { statistic, partials, .. } => {
                let mut total = partials.first().cloned().unwrap_or_default();
                for partial in partials.iter().skip(1) {
                    total.iter_mut().zip(partial).for_each(|(t, p)| t.merge(p));
                }
                world.set_statistic(*statistic, total);
                Ok(())
            }
        }
    }
}

impl Blend {
    /// The canvas blended into.
    pub(super) fn canvas(&self) -> CanvasId {
        self.canvas
    }

    /// The rows of windows of `grid` in the canvas's own pixels.
    pub(super) fn axis(&self, grid: &Grid) -> Result<Axis> {
        grid.rows.scaled(|v| self.ratio.of(v))
    }

    fn take(&mut self, a: &Arrival<'_>, world: &mut World<'_>, io: &mut Connections<'_>) -> Result<()> {
        let index = a.window.index;
        if self.gains.len() == 1 && self.gains[0] == 1.0 && index == self.next {
            self.commit(a.grid, a.window, a.values, world, io)?;
        } else {
            let gain = self.gains[a.branch];
            let (free, made) = (&mut self.free, &mut self.made);
            let (seen, buffer) = self.waiting.entry(index).or_insert_with(|| {
                let mut buffer = free.pop().unwrap_or_else(|| {
                    *made += 1;
                    Vec::with_capacity(a.values.len())
                });
                buffer.clear();
                buffer.resize(a.values.len(), 0.0);
                (0, buffer)
            });
            buffer.iter_mut().zip(a.values).for_each(|(b, v)| *b += gain * v);
            *seen += 1;
        }
        while self.waiting.get(&self.next).is_some_and(|(seen, _)| *seen == self.gains.len()) {
            let Some((_, buffer)) = self.waiting.remove(&self.next) else { break };
            let window = a.grid.window(self.next);
            self.commit(a.grid, window, &buffer, world, io)?;
            self.free.push(buffer);
        }
        Ok(())
    }

    fn commit(
        &mut self,
        grid: &Grid,
        window: Window,
        values: &[f32],
        world: &mut World<'_>,
        io: &mut Connections<'_>,
    ) -> Result<()> {
        let at = [self.ratio.of(window.y)?, self.ratio.of(window.x)?];
        if window.col == 0 {
            let canvas = self.canvas;
            self.band.finish(at[0], |y, row| world.put(canvas, y, row, io))?;
            world.settle(canvas, io)?;
        }
        self.band.add(at, self.rows.of(window.row), self.cols.of(window.col), values)?;
        self.next += 1;
        debug_assert!(self.next <= grid.count());
        Ok(())
    }
}

/// Moments of the part of a window's result that lies in its cell.
fn cell_moments(a: &Arrival<'_>, ratio: Ratio, into: &mut [Moments]) -> Result<()> {
    into.fill(Moments::default());
    // Cell borders need not be whole on a coarser canvas; rounding down keeps neighbours disjoint.
    let scale = |v: u32| (u64::from(v) * u64::from(ratio.num) / u64::from(ratio.den.max(1))) as usize;
    let rows = a.grid.rows.cell(a.window.row).map(|v| scale(v) - scale(a.window.y));
    let cols = a.grid.cols.cell(a.window.col).map(|v| scale(v) - scale(a.window.x));
    let width = ratio.of(a.grid.cols.size)? as usize * a.channels;
    for row in a.values.chunks_exact(width).take(rows[1]).skip(rows[0]) {
        Moments::add_rows(into, &row[cols[0] * a.channels..cols[1] * a.channels]);
    }
    Ok(())
}
