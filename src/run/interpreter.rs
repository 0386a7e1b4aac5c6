//! The only interpreter of programs: batching, order, progress, cancel and error positions exist once, here.

use super::canvas::World;
use super::connections::Connections;
use super::control::{Control, sequence};
use super::executors::Executors;
use super::options::Progress;
use super::points::{self, Point};
use super::recover::{self, Outcome};
use super::sinks::Working;
use super::window_phase::Prepared;
use crate::error::{Error, Kind, Result};
use crate::system::phase::{Nesting, Phase, Source};
use crate::system::program::{CanvasId, Program};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;

/// Items computed again in a wider type that are told of one by one; the rest is counted.
const TOLD: usize = 3;

/// What a run did.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct RunStats {
    /// Launches.
    pub launches: u64,
    /// Items computed, dummies apart.
    pub items: u64,
    /// Seconds spent making inputs: reading and enlarging rows, cutting windows.
    pub gather: f64,
    /// Seconds spent in launches, transfers included.
    pub compute: f64,
    /// Seconds spent blending and writing rows.
    pub scatter: f64,
    /// Host buffers made after the first row of windows of a pass.
    pub growths: u64,
    /// Bytes moved between canvases and ports, on whichever side.
    pub moved: u64,
    /// Items computed again in a wider storage type.
    pub redone: u64,
}

/// A program with its executors and states.
pub struct Interpreter<'p> {
    pub(super) program: &'p Program,
    pub(super) executors: &'p mut dyn Executors,
    pub(super) world: World<'p>,
    pub(super) phases: Vec<Prepared<'p>>,
    /// Rows of an output band that an earlier run finished.
    pub(super) finished: Option<(CanvasId, u32)>,
    /// The phase whose job inputs the executor of a graph holds, and which executor that was.
    pub(super) holds: Vec<Option<(usize, u64)>>,
    pub(super) stats: RunStats,
    pub(super) total: u64,
    /// The first items that were computed again, in words.
    told: Vec<String>,
}

impl<'p> Interpreter<'p> {
    /// Makes all states and staging for `program`; the executors are asked for
    /// when a launch needs them.
    pub fn new(program: &'p Program, executors: &'p mut dyn Executors) -> Result<Interpreter<'p>> {
        program.check()?;
        if executors.count() != program.graphs.len() {
            return Err(Error::new(Kind::Internal, "run", "one executor per graph is needed"));
        }
        let mut phases = Vec::new();
        let mut total = 0;
        for block in &program.blocks {
            for phase in &block.phases {
                let Phase::Windows(phase) = phase else { continue };
                let items = program.grids[phase.grid.0].count() as u64 * u64::from(phase.branches);
                total += items * u64::from(block.steps);
                // Phases of a chain share one staging and exist while their pass runs.
                if block.nesting != Nesting::Chained {
                    phases.push(Prepared::new(program, phase)?);
                }
            }
        }
        let holds = vec![None; executors.count()];
        let world = World::new(program);
        let (finished, stats, told) = (None, RunStats::default(), Vec::new());
        Ok(Interpreter { program, executors, world, phases, finished, holds, stats, total, told })
    }

    /// Host bytes of states and staging.
    pub fn host_bytes(&self) -> u64 {
        let phases = self.phases.iter().map(|p| {
            let inputs: usize = p.inputs.iter().map(|i| i.staging.len() * 4).sum();
            let outputs: usize = p.outputs.iter().map(|o| o.values.len() * 4).sum();
            let sinks: u64 = p.outputs.iter().flat_map(|o| &o.sinks).map(Working::bytes).sum();
            (inputs + outputs) as u64 + sinks
        });
        self.world.bytes() + phases.sum::<u64>() + self.executors.host_bytes()
    }

    /// Sentences on the first items that were computed again in a wider storage type.
    pub fn told(&self) -> &[String] {
        &self.told
    }

    /// Sets the folder of canvases that live in files; without one a program that has any cannot run.
    pub fn set_spool(&mut self, folder: PathBuf) {
        self.world.set_spool(folder);
    }

    /// The program.
    pub fn program(&self) -> &'p Program {
        self.program
    }

    /// Rows of a band that lie between the first one not yet finished and the last one pulled, at most:
    /// what a companion of the rows (alpha) must hold.
    pub fn rows_in_flight(&self, id: CanvasId) -> u32 {
        // Rows of a finished row of windows leave when the next row's first window has been blended.
        self.world.band_capacity(id).saturating_mul(2).min(self.program.extent(id)[0])
    }

    /// The values of a whole canvas.
    pub fn canvas(&self, id: CanvasId) -> Result<&[f32]> {
        self.world.whole(id)
    }

    /// See [`Interpreter::canvas`]; set before the run.
    pub fn canvas_mut(&mut self, id: CanvasId) -> Result<&mut [f32]> {
        self.world.whole_mut(id)
    }

    /// Runs the program.
    pub fn run(&mut self, io: &mut Connections<'_>, control: &mut Control<'_>) -> Result<RunStats> {
        self.stats = RunStats::default();
        self.holds.fill(None);
        self.world.load(io)?;
        let program = self.program;
        let mut first = 0;
        // What an earlier run has done is not done again.
        let point = self.world.go_on(io)?;
        self.total = self.total.saturating_sub(points::items_before(program, point));
        for (number, block) in program.blocks.iter().enumerate() {
            if number < point.block {
                if block.nesting != Nesting::Chained {
                    first += block.phases.iter().filter(|p| matches!(p, Phase::Windows(_))).count();
                }
                continue;
            }
            let begun = if number == point.block { point.phases } else { 0 };
            self.world.open_block(number, &BTreeMap::new(), self.executors, io)?;
            let windows = block.phases.iter().filter(|p| matches!(p, Phase::Windows(_))).count();
            match block.nesting {
                Nesting::StepOutside => {
                    let (mut unit, units) = (0, block.steps * block.phases.len() as u32);
                    for step in 0..block.steps {
                        let mut index = first;
                        for phase in &block.phases {
                            let at = index;
                            index += usize::from(matches!(phase, Phase::Windows(_)));
                            unit += 1;
                            if unit <= begun {
                                continue;
                            }
                            match phase {
                                Phase::Windows(_) => {
                                    self.passes(at..at + 1, step..step + 1, block.steps, io, control)?;
                                }
                                Phase::Canvas(op) => {
                                    control.cancel.check()?;
                                    self.world.canvas_op(op, step)?;
                                }
                            }
                            if unit < units {
                                self.world.offer(Point { block: number, phases: unit }, io)?;
                            }
                        }
                    }
                }
                Nesting::WindowOutside => {
                    self.passes(first..first + windows, 0..block.steps, block.steps, io, control)?
                }
                Nesting::Chained => self.chain(number, io, control)?,
            }
            self.world.close_block(number, &BTreeMap::new());
            if number + 1 < program.blocks.len() {
                self.world.offer(Point { block: number + 1, phases: 0 }, io)?;
            }
            if block.nesting != Nesting::Chained {
                first += windows;
            }
        }
        self.world.unload(io)?;
        Ok(self.stats)
    }

    /// One pass over the windows that `phases` share; for every batch of windows all `steps` of all of them.
    fn passes(
        &mut self,
        phases: std::ops::Range<usize>,
        steps: std::ops::Range<u32>,
        block_steps: u32,
        io: &mut Connections<'_>,
        control: &mut Control<'_>,
    ) -> Result<()> {
        let Some(lead) = self.phases.get(phases.start) else { return Ok(()) };
        let (grid, branches) = (lead.grid, lead.phase.branches as usize);
        let together = phases.len() > 1 || steps.len() > 1;
        // Items of a launch. Branches of one window stay together where a later step needs their sum.
        let count = if together { lead.batch / branches * branches } else { lead.batch };
        let fits =
            self.phases[phases.clone()].iter().all(|p| p.batch >= count && p.phase.branches as usize == branches);
        if count == 0 || !fits {
            let why = format!("a batch of {} cannot hold the {branches} branches of a window", lead.batch);
            return Err(Error::new(Kind::Internal, "run", why));
        }
        let (start, finished) = self.start_of(phases.clone());
        let skipped = start * grid.cols.count();
        for p in phases.clone() {
            for output in &mut self.phases[p].outputs {
                output.sinks.iter_mut().for_each(|s| s.begin(skipped, finished));
            }
            // What all windows saved changes from pass to pass.
            if self.phases[p].inputs.iter().any(|i| matches!(i.source, Source::Gather(_) | Source::Factors(_))) {
                self.holds[self.phases[p].phase.graph.0] = None;
            }
        }
        let windows = sequence(grid, control.order).split_off(skipped);
        self.total -= (skipped * branches * steps.len() * phases.len()) as u64;
        let all: Vec<(usize, u32)> = windows.iter().flat_map(|&w| (0..branches as u32).map(move |b| (w, b))).collect();
        let warm = all.len().min(grid.cols.count() * branches);
        let (mut done, mut growths) = (0, None);
        for batch in all.chunks(count) {
            for step in steps.clone() {
                for p in phases.clone() {
                    self.launch(p, batch, step, step + 1 == block_steps, io, control)?;
                }
            }
            done += batch.len();
            if growths.is_none() && done >= warm {
                growths = Some(self.growths(phases.clone()));
            }
        }
        self.stats.growths += self.growths(phases.clone()) - growths.unwrap_or_default();
        let last = steps.end == block_steps;
        let at = Instant::now();
        for p in phases {
            for output in &mut self.phases[p].outputs {
                for sink in &mut output.sinks {
                    sink.end(grid, last, &mut self.world, io)?;
                }
            }
        }
        self.stats.scatter += at.elapsed().as_secs_f64();
        Ok(())
    }

    fn growths(&self, phases: std::ops::Range<usize>) -> u64 {
        self.phases[phases].iter().flat_map(|p| &p.outputs).flat_map(|o| &o.sinks).map(Working::growths).sum()
    }

    /// One launch of phase `p` over `batch` (window and branch of each item).
    fn launch(
        &mut self,
        p: usize,
        batch: &[(usize, u32)],
        step: u32,
        last_step: bool,
        io: &mut Connections<'_>,
        control: &mut Control<'_>,
    ) -> Result<()> {
        let mut rest = batch;
        while !rest.is_empty() {
            let began = Instant::now();
            let prepared = &mut self.phases[p];
            // After memory ran out an executor may take fewer items than the program's launches have.
            let most = match recover::settled(prepared, p, self.executors, &mut self.holds, &self.world) {
                Ok(executor) => executor.batch(),
                Err(e) => {
                    recover::again(prepared, rest, self.executors, &mut self.holds, e, control)?;
                    continue;
                }
            };
            let (now, later) = rest.split_at(most.min(rest.len()));
            prepared.gather(self.program, now, step, &mut self.world, io)?;
            let gathered = Instant::now();
            let (executors, holds) = (&mut *self.executors, &mut self.holds);
            let told = match recover::compute(prepared, now, executors, holds, &self.world, control)? {
                Outcome::Again => continue,
                Outcome::Done { redone, told } => {
                    self.stats.redone += redone;
                    told
                }
            };
            let computed = Instant::now();
            prepared.scatter(now, last_step, &mut self.world, io)?;
            told.into_iter().for_each(|text| self.tell(text, control));
            let name = self.phases[p].phase.name.as_str();
            self.count(name, now.len(), [began, gathered, computed, Instant::now()], control);
            rest = later;
        }
        Ok(())
    }

    /// Tells of an item that was computed again, unless enough were.
    pub(super) fn tell(&mut self, text: String, control: &mut Control<'_>) {
        if self.told.len() < TOLD {
            control.observer.note(&text);
            self.told.push(text);
        }
    }

    /// Counts a launch over `items` items that began, had its inputs, its results and its sinks filled at `times`.
    pub(super) fn count(&mut self, stage: &str, items: usize, times: [Instant; 4], control: &mut Control<'_>) {
        let stats = &mut self.stats;
        stats.launches += 1;
        stats.items += items as u64;
        stats.gather += (times[1] - times[0]).as_secs_f64();
        stats.compute += (times[2] - times[1]).as_secs_f64();
        stats.scatter += (times[3] - times[2]).as_secs_f64();
        let spent = stats.gather + stats.compute + stats.scatter;
        let left = self.total.saturating_sub(stats.items) as f64 / stats.items as f64 * spent;
        let elapsed = control.began.elapsed().as_secs_f64();
        let (done, total) = (stats.items, self.total);
        control.observer.progress(&Progress { stage, done, total, elapsed, left: Some(left) });
    }
}
