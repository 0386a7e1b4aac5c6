//! Points from which an interrupted program goes on: after every block, and after every phase of every step of a
//! block whose steps are outside. What later work reads is saved there: whole canvases, values of windows, statistics.

use super::canvas::World;
use super::connections::Connections;
use super::statistics::Moments;
use crate::error::Result;
use crate::system::phase::{Block, Phase, Source};
use crate::system::program::{CanvasId, Program, Residency, SavedId, StatisticId};

/// Where a program stands: blocks done, and phases done, step by step, of the one after them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Point {
    pub(super) block: usize,
    pub(super) phases: u32,
}

impl Point {
    fn number(self) -> u64 {
        ((self.block as u64) << 32) | u64::from(self.phases)
    }

    fn of(number: u64) -> Point {
        Point { block: (number >> 32) as usize, phases: (number & 0xffff_ffff) as u32 }
    }
}

/// One state that is saved.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Canvas(CanvasId),
    Saved(SavedId),
    /// All moments of all statistics.
    Statistics,
}

/// What work after `point` reads of work before it; `outputs` are read at the end. `None` where a part of it lies in
/// no host memory or exists by bands only: then there is no such point.
fn live(program: &Program, point: Point, outputs: &[CanvasId]) -> Option<Vec<State>> {
    let mut states = vec![State::Statistics];
    // Of a block that is half done everything counts.
    let begun = point.block + usize::from(point.phases > 0);
    for (i, canvas) in program.canvases.iter().enumerate() {
        let id = CanvasId(i);
        let Some([first, last]) = program.used_by(id) else { continue };
        let drained = outputs.contains(&id) && canvas.residency == Residency::Whole;
        if first >= begun || (last < point.block && !drained) {
            continue;
        }
        if canvas.residency != Residency::Whole {
            return None;
        }
        states.push(State::Canvas(id));
    }
    let rest = program.blocks.iter().skip(point.block).flat_map(|b| &b.phases);
    let reads = |id: SavedId| {
        rest.clone().any(|p| match p {
            Phase::Windows(w) => w.sources.iter().any(|(_, s)| match s {
                Source::Saved { saved, .. } | Source::Gather(saved) => *saved == id,
                _ => false,
            }),
            Phase::Canvas(_) => false,
        })
    };
    states.extend((0..program.saved.len()).map(SavedId).filter(|id| reads(*id)).map(State::Saved));
    Some(states)
}

impl World<'_> {
    fn bytes_of(&self, state: State) -> Result<Vec<u8>> {
        Ok(match state {
            State::Canvas(id) => bytemuck::cast_slice(self.whole(id)?).to_vec(),
            State::Saved(id) => bytemuck::cast_slice(self.gathered(id)).to_vec(),
            State::Statistics => {
                let all = (0..self.program.statistics.len()).flat_map(|i| self.statistic(StatisticId(i)));
                all.flat_map(|m| [m.count, m.mean, m.m2]).flat_map(f64::to_le_bytes).collect()
            }
        })
    }

    fn length_of(&self, state: State) -> Result<usize> {
        Ok(match state {
            State::Canvas(id) => crate::extent::to_usize("canvas", self.program.canvas_bytes(id))?,
            State::Saved(id) => size_of_val(self.gathered(id)),
            State::Statistics => self.program.statistics.iter().map(|s| s.channels as usize * 24).sum(),
        })
    }

    fn restore(&mut self, state: State, bytes: &[u8]) -> Result<()> {
        let float = |b: &[u8]| f32::from_ne_bytes([b[0], b[1], b[2], b[3]]);
        match state {
            State::Canvas(id) => self.set_whole(id, bytes.chunks_exact(4).map(float).collect()),
            State::Saved(id) => {
                self.gathered_mut(id).iter_mut().zip(bytes.chunks_exact(4)).for_each(|(v, b)| *v = float(b));
            }
            State::Statistics => {
                let double = |b: &[u8]| f64::from_le_bytes(std::array::from_fn(|i| b[i]));
                let mut moments = bytes.chunks_exact(24).map(|b| Moments {
                    count: double(&b[..8]),
                    mean: double(&b[8..16]),
                    m2: double(&b[16..]),
                });
                for (i, statistic) in self.program.statistics.iter().enumerate() {
                    let values = moments.by_ref().take(statistic.channels as usize).collect();
                    self.set_statistic(StatisticId(i), values);
                }
            }
        }
        Ok(())
    }

    /// Brings back what an earlier run saved last, when whoever takes the rows kept it; says where that was.
    pub(super) fn go_on(&mut self, io: &mut Connections<'_>) -> Result<Point> {
        let outputs: Vec<CanvasId> = io.outputs.iter().map(|(id, _)| *id).collect();
        for (_, rows) in &mut io.outputs {
            let Some(number) = rows.point() else { continue };
            let point = Point::of(number);
            let Some(states) = live(self.program, point, &outputs) else { continue };
            let lengths = states.iter().map(|s| self.length_of(*s)).collect::<Result<Vec<_>>>()?;
            let Some(saved) = rows.load_point(&lengths)? else { continue };
            for (state, bytes) in states.iter().zip(&saved) {
                self.restore(*state, bytes)?;
            }
            return Ok(point);
        }
        Ok(Point::default())
    }

    /// Offers the states at `point` to whoever takes the rows.
    pub(super) fn offer(&self, point: Point, io: &mut Connections<'_>) -> Result<()> {
        let outputs: Vec<CanvasId> = io.outputs.iter().map(|(id, _)| *id).collect();
        for (_, rows) in &mut io.outputs {
            let Some(states) = live(self.program, point, &outputs) else { return Ok(()) };
            if rows.wants_point()? {
                let bytes = states.iter().map(|s| self.bytes_of(*s)).collect::<Result<Vec<_>>>()?;
                rows.save_point(point.number(), &bytes.iter().map(Vec::as_slice).collect::<Vec<_>>())?;
            }
        }
        Ok(())
    }
}

/// Items that the work before `point` consists of.
pub(super) fn items_before(program: &Program, point: Point) -> u64 {
    let items = |p: &Phase| match p {
        Phase::Windows(w) => program.grids[w.grid.0].count() as u64 * u64::from(w.branches),
        Phase::Canvas(_) => 0,
    };
    let step = |b: &Block| b.phases.iter().map(items).sum::<u64>();
    let whole: u64 = program.blocks.iter().take(point.block).map(|b| step(b) * u64::from(b.steps)).sum();
    let Some(block) = program.blocks.get(point.block) else { return whole };
    let (steps, rest) =
        (point.phases as usize / block.phases.len().max(1), point.phases as usize % block.phases.len().max(1));
    whole + step(block) * steps as u64 + block.phases.iter().take(rest).map(items).sum::<u64>()
}
