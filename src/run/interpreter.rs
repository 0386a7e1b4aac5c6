//! The only interpreter of programs: batching, order, progress, cancel and error positions exist once, here.

use super::canvas::{Connections, World};
use super::executor::Executor;
use super::options::{Cancel, Observer, Progress, TileOrder};
use super::sinks::{Arrival, Working};
use super::statistics::Factors;
use crate::abi::Item;
use crate::error::{Error, Kind, Result};
use crate::graph::{Lifetime, Op, Shape};
use crate::noise::{self, Key};
use crate::system::program::{CanvasId, Contexts, Nesting, Phase, Program, Source, WindowPhase};
use crate::tile::{Grid, Window};
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
}

/// An input of a phase with its staging.
struct Input<'p> {
    name: &'p str,
    source: &'p Source,
    shape: Shape,
    lifetime: Lifetime,
    /// Values of one item.
    item: usize,
    staging: Vec<f32>,
    /// Factors of a saved value's normalisation, made at the start of each pass.
    factors: Option<Factors>,
}

/// An output of a phase with its sinks.
struct Output<'p> {
    name: &'p str,
    channels: usize,
    item: usize,
    values: Vec<f32>,
    sinks: Vec<Working>,
}

/// A window phase ready to run.
struct Prepared<'p> {
    phase: &'p WindowPhase,
    grid: &'p Grid,
    batch: usize,
    inputs: Vec<Input<'p>>,
    outputs: Vec<Output<'p>>,
    items: Vec<Item>,
}

/// A program with its executors and states.
pub struct Interpreter<'p> {
    program: &'p Program,
    executors: &'p mut [Executor],
    world: World<'p>,
    phases: Vec<Prepared<'p>>,
    /// The phase whose job inputs an executor holds.
    holds: Vec<Option<usize>>,
    stats: RunStats,
    total: u64,
}

impl<'p> Interpreter<'p> {
    /// Makes all states and staging for `program`; `executors[i]` runs graph `i`.
    pub fn new(program: &'p Program, executors: &'p mut [Executor]) -> Result<Interpreter<'p>> {
        program.check()?;
        if executors.len() != program.graphs.len() {
            return Err(Error::new(Kind::Internal, "run", "one executor per graph is needed"));
        }
        let mut phases = Vec::new();
        let mut total = 0;
        for (phase, steps) in program.window_phases() {
            let prepared = Prepared::new(program, phase)?;
            let items = prepared.grid.count() as u64 * u64::from(phase.branches);
            total += items * u64::from(steps);
            phases.push(prepared);
        }
        let holds = vec![None; executors.len()];
        let world = World::new(program);
        Ok(Interpreter { program, executors, world, phases, holds, stats: RunStats::default(), total })
    }

    /// Host bytes of states and staging.
    pub fn host_bytes(&self) -> u64 {
        let phases = self.phases.iter().map(|p| {
            let inputs: usize = p.inputs.iter().map(|i| i.staging.len() * 4).sum();
            let outputs: usize = p.outputs.iter().map(|o| o.values.len() * 4).sum();
            let sinks: u64 = p.outputs.iter().flat_map(|o| &o.sinks).map(Working::bytes).sum();
            (inputs + outputs) as u64 + sinks
        });
        let executors: u64 = self.executors.iter().map(Executor::host_bytes).sum();
        self.world.bytes() + phases.sum::<u64>() + executors
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
        for block in &program.blocks {
            let windows = block.phases.iter().filter(|p| matches!(p, Phase::Windows(_))).count();
            match block.nesting {
                Nesting::StepOutside => {
                    for step in 0..block.steps {
                        let mut index = first;
                        for phase in &block.phases {
                            match phase {
                                Phase::Windows(_) => {
                                    self.passes(index..index + 1, step..step + 1, block.steps, io, control)?;
                                    index += 1;
                                }
                                Phase::Canvas(op) => {
                                    control.cancel.check()?;
                                    self.world.canvas_op(op, step)?;
                                }
                            }
                        }
                    }
                }
                Nesting::WindowOutside => {
                    self.passes(first..first + windows, 0..block.steps, block.steps, io, control)?
                }
            }
            first += windows;
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
        for p in phases.clone() {
            for output in &mut self.phases[p].outputs {
                output.sinks.iter_mut().for_each(Working::begin);
            }
            // What all windows saved changes from pass to pass.
            if self.phases[p].inputs.iter().any(|i| matches!(i.source, Source::Gather(_))) {
                self.holds[self.phases[p].phase.graph.0] = None;
            }
        }
        let windows = sequence(grid, control.order);
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
        control.cancel.check()?;
        let began = Instant::now();
        let prepared = &mut self.phases[p];
        let graph = prepared.phase.graph.0;
        let executor = &mut self.executors[graph];
        if self.holds[graph] != Some(p) {
            prepared.settle(executor, &self.world)?;
            self.holds[graph] = Some(p);
        }
        prepared.gather(self.program, batch, step, &mut self.world, io)?;
        let gathered = Instant::now();
        let place = |e: Error, phase: &Prepared<'_>| {
            let more = if batch.len() > 1 { format!(" and {} more", batch.len() - 1) } else { String::new() };
            e.at(format!("{}: {}{more}", phase.phase.name, phase.grid.describe(batch[0].0)))
        };
        prepared.compute(executor, batch.len()).map_err(|e| place(e, prepared))?;
        let computed = Instant::now();
        prepared.scatter(batch, last_step, &mut self.world, io)?;
        let stats = &mut self.stats;
        stats.launches += 1;
        stats.items += batch.len() as u64;
        stats.gather += (gathered - began).as_secs_f64();
        stats.compute += (computed - gathered).as_secs_f64();
        stats.scatter += computed.elapsed().as_secs_f64();
        let spent = stats.gather + stats.compute + stats.scatter;
        let left = (self.total - stats.items) as f64 / stats.items as f64 * spent;
        control.observer.progress(&Progress {
            stage: &prepared.phase.name,
            done: stats.items,
            total: self.total,
            elapsed: control.began.elapsed().as_secs_f64(),
            left: Some(left),
        });
        Ok(())
    }
}

/// The windows of a grid, row by row, each row in the order asked for.
fn sequence(grid: &Grid, order: TileOrder) -> Vec<usize> {
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

impl<'p> Prepared<'p> {
    fn new(program: &'p Program, phase: &'p WindowPhase) -> Result<Prepared<'p>> {
        let graph = &program.graphs[phase.graph.0];
        let batch = program.batch(phase)? as usize;
        let mut inputs = Vec::new();
        for (name, source) in &phase.sources {
            let Some(value) = graph
                .nodes
                .iter()
                .filter(|n| matches!(n.op, Op::Input(_)))
                .map(|n| graph.value(n.output))
                .find(|v| v.name == *name)
            else {
                continue;
            };
            let item = value.shape.pixels() as usize * value.shape.c as usize;
            inputs.push(Input {
                name,
                source,
                shape: value.shape,
                lifetime: value.lifetime,
                item,
                staging: vec![0.0; item * value.shape.n as usize],
                factors: None,
            });
        }
        let mut outputs: Vec<Output<'p>> = Vec::new();
        for (name, sink) in &phase.sinks {
            let Some((name, id)) = graph.outputs.iter().find(|(n, _)| n == name) else { continue };
            let working = Working::new(program, phase, sink)?;
            if let Some(output) = outputs.iter_mut().find(|o| o.name == name) {
                output.sinks.push(working);
                continue;
            }
            let shape = graph.value(*id).shape;
            let item = shape.pixels() as usize * shape.c as usize;
            let values = vec![0.0; item * batch];
            outputs.push(Output { name, channels: shape.c as usize, item, values, sinks: vec![working] });
        }
        let items = Vec::with_capacity(batch);
        Ok(Prepared { phase, grid: &program.grids[phase.grid.0], batch, inputs, outputs, items })
    }

    /// Writes what does not differ between windows and runs the setup list.
    fn settle(&mut self, executor: &mut Executor, world: &World<'_>) -> Result<()> {
        for input in self.inputs.iter_mut().filter(|i| i.lifetime != Lifetime::Window) {
            match input.source {
                Source::Constant(values) => executor.write_input(input.name, values)?,
                Source::Table(table) => executor.write_input(input.name, &world.program.tables[table.0].values)?,
                Source::Gather(saved) => executor.write_input(input.name, world.gathered(*saved))?,
                Source::Crop { .. } | Source::Saved { .. } | Source::Noise { .. } => {
                    let why = format!("`{}` does not differ between windows", input.name);
                    return Err(Error::new(Kind::Internal, "run", why));
                }
            }
        }
        executor.setup()?;
        Ok(())
    }

    /// Fills the staging of every window input, and the items.
    fn gather(
        &mut self,
        program: &Program,
        batch: &[(usize, u32)],
        step: u32,
        world: &mut World<'_>,
        io: &mut Connections<'_>,
    ) -> Result<()> {
        self.items.clear();
        for &(window, branch) in batch {
            let w = self.grid.window(window);
            let ctx_row = match &self.phase.contexts {
                Contexts::Branch => branch,
                Contexts::Window(rows) => rows[window] * self.phase.branches + branch,
            };
            self.items.push(Item {
                origin: [w.y as i32, w.x as i32],
                valid_rect: self.grid.valid_rect(),
                step_row: step,
                ctx_row,
                branch,
                out_slot: window as u32,
                ..Item::default()
            });
        }
        let grid = self.grid;
        for input in self.inputs.iter_mut().filter(|i| i.lifetime == Lifetime::Window) {
            if let Source::Saved { affine: Some(affine), .. } = input.source {
                input.factors = Some(Factors::new(affine, |id| world.statistic(id)));
            }
            for (k, &(window, _)) in batch.iter().enumerate() {
                let to = &mut input.staging[k * input.item..(k + 1) * input.item];
                let w = grid.window(window);
                let factors = input.factors.as_ref();
                fill(input.source, grid, w, step, input.shape, factors, program, world, io, to)?;
            }
        }
        Ok(())
    }

    fn compute(&mut self, executor: &mut Executor, count: usize) -> Result<()> {
        for input in self.inputs.iter().filter(|i| i.lifetime == Lifetime::Window) {
            executor.write_input(input.name, &input.staging[..count * input.item])?;
        }
        executor.run(&self.items)?;
        for output in &mut self.outputs {
            executor.read_output(output.name, &mut output.values[..count * output.item])?;
        }
        Ok(())
    }

    fn scatter(
        &mut self,
        batch: &[(usize, u32)],
        last_step: bool,
        world: &mut World<'_>,
        io: &mut Connections<'_>,
    ) -> Result<()> {
        for output in &mut self.outputs {
            for (&(window, branch), values) in batch.iter().zip(output.values.chunks_exact(output.item)) {
                let window = self.grid.window(window);
                let (grid, channels, branch) = (self.grid, output.channels, branch as usize);
                let arrival = Arrival { grid, window, branch, values, channels, last_step };
                for sink in &mut output.sinks {
                    sink.take(&arrival, world, io)?;
                }
            }
        }
        Ok(())
    }
}

/// One item's values of one source.
#[expect(clippy::too_many_arguments, reason = "a source may draw on every state of the run")]
fn fill(
    source: &Source,
    grid: &Grid,
    w: Window,
    step: u32,
    shape: Shape,
    factors: Option<&Factors>,
    program: &Program,
    world: &mut World<'_>,
    io: &mut Connections<'_>,
    to: &mut [f32],
) -> Result<()> {
    match source {
        Source::Constant(values) => to.copy_from_slice(values),
        Source::Table(table) => to.copy_from_slice(program.tables[table.0].row(w.index)),
        Source::Crop { canvas, ratio, gain, shift } => {
            let (y, x) = (ratio.of(w.y)?, ratio.of(w.x)?);
            world.pull(*canvas, y.saturating_add(shape.h), io)?;
            world.crop(*canvas, [i64::from(y), i64::from(x)], [shape.h, shape.w], to)?;
            if (*gain, *shift) != (1.0, 0.0) {
                to.iter_mut().for_each(|v| *v = gain * *v + shift);
            }
        }
        Source::Saved { saved, initial, .. } => match initial {
            Some(initial) if step == 0 => {
                return fill(initial, grid, w, step, shape, None, program, world, io, to);
            }
            Some(_) | None => {
                to.copy_from_slice(world.saved(*saved, w.index));
                if let Some(factors) = factors {
                    factors.apply(to);
                }
            }
        },
        Source::Gather(saved) => to.copy_from_slice(world.gathered(*saved)),
        Source::Noise { stage, purpose, gain } => {
            let key = program.noise_key(*stage, *purpose, step);
            // Positions in the picture's own pixels of this input, so that windows agree where they overlap.
            let scale = |v: u32, side: u32, size: u32| (u64::from(v) * u64::from(side) / u64::from(size)) as u32;
            let (y0, x0) = (scale(w.y, shape.h, grid.rows.size), scale(w.x, shape.w, grid.cols.size));
            for (i, pixel) in to.chunks_exact_mut(shape.c as usize).enumerate() {
                let (y, x) = (y0 + (i as u32) / shape.w, x0 + (i as u32) % shape.w);
                for (v, channel) in pixel.iter_mut().zip(0..) {
                    *v = gain * noise::normal(key, y, x, channel);
                }
            }
        }
    }
    Ok(())
}
