//! One window phase of a program: its staging, and the four steps of a launch over some windows: gather inputs,
//! compute, scatter outputs, after what differs by pass only was settled.

use super::canvas::World;
use super::connections::Connections;
use super::executor::Executor;
use super::options::Cancel;
use super::sinks::{Arrival, Working};
use super::statistics::Factors;
use crate::abi::Item;
use crate::error::{Error, Kind, Result};
use crate::graph::{Lifetime, Op, Shape};
use crate::noise;
use crate::system::phase::{Contexts, Source, WindowPhase};
use crate::system::program::Program;
use crate::tile::{Grid, Window};
use std::ops::Range;

/// An input of a phase with its staging.
pub(super) struct Input<'p> {
    pub(super) name: &'p str,
    pub(super) source: &'p Source,
    pub(super) shape: Shape,
    pub(super) lifetime: Lifetime,
    /// Values of one item.
    pub(super) item: usize,
    pub(super) staging: Vec<f32>,
    /// Factors of a saved value's normalisation, made at the start of each pass.
    pub(super) factors: Option<Factors>,
}

/// An output of a phase with its sinks.
pub(super) struct Output<'p> {
    pub(super) name: &'p str,
    pub(super) channels: usize,
    pub(super) item: usize,
    pub(super) values: Vec<f32>,
    pub(super) sinks: Vec<Working>,
}

/// A window phase ready to run.
pub(super) struct Prepared<'p> {
    pub(super) phase: &'p WindowPhase,
    pub(super) grid: &'p Grid,
    pub(super) batch: usize,
    pub(super) inputs: Vec<Input<'p>>,
    pub(super) outputs: Vec<Output<'p>>,
    pub(super) items: Vec<Item>,
}

impl<'p> Prepared<'p> {
    pub(super) fn new(program: &'p Program, phase: &'p WindowPhase) -> Result<Prepared<'p>> {
        let graph = &program.graphs[phase.graph.0];
        let batch = program.batch(phase)? as usize;
        let mut inputs = Vec::new();
        for (name, source) in &phase.sources {
            let Some(value) = graph.inputs().map(|(v, _)| graph.value(v)).find(|v| v.name == *name) else {
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
    pub(super) fn settle(&mut self, executor: &mut Executor, world: &World<'_>) -> Result<()> {
        settle(world.program, self.phase, executor, world)
    }

    /// Fills the staging of every window input, and the items.
    pub(super) fn gather(
        &mut self,
        program: &Program,
        batch: &[(usize, u32)],
        step: u32,
        world: &mut World<'_>,
        io: &mut Connections<'_>,
    ) -> Result<()> {
        self.items.clear();
        for &(window, branch) in batch {
            self.items.push(item(self.phase, self.grid, window, branch, step));
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

    /// Runs the items `which` of those gathered, and takes their results.
    pub(super) fn compute(&mut self, executor: &mut Executor, which: Range<usize>, cancel: &Cancel) -> Result<()> {
        let of = |item: usize| which.start * item..which.end * item;
        for input in self.inputs.iter().filter(|i| i.lifetime == Lifetime::Window) {
            executor.write_input(input.name, &input.staging[of(input.item)])?;
        }
        executor.run_until(&self.items[which.clone()], &|| cancel.check())?;
        for output in &mut self.outputs {
            executor.read_output(output.name, &mut output.values[of(output.item)])?;
        }
        Ok(())
    }

    pub(super) fn scatter(
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

/// What tells the device which window and branch a batch element is.
pub(super) fn item(phase: &WindowPhase, grid: &Grid, window: usize, branch: u32, step: u32) -> Item {
    let w = grid.window(window);
    let ctx_row = match &phase.contexts {
        Contexts::Branch => branch,
        Contexts::Window { rows, .. } => rows[window] * phase.branches + branch,
    };
    let keys = match &phase.contexts {
        Contexts::Branch => 0,
        Contexts::Window { tokens, .. } => tokens.get(ctx_row as usize).copied().unwrap_or(0),
    };
    Item {
        origin: [w.y as i32, w.x as i32],
        valid_rect: grid.valid_rect(),
        step_row: step,
        ctx_row,
        branch,
        out_slot: window as u32,
        keys,
        ..Item::default()
    }
}

/// Writes the inputs of a phase that do not differ between windows and runs the setup list.
pub(super) fn settle(program: &Program, phase: &WindowPhase, executor: &mut Executor, world: &World<'_>) -> Result<()> {
    let graph = &program.graphs[phase.graph.0];
    let window = |name: &str| {
        let mut inputs = graph.nodes.iter().filter(|n| n.op == Op::Input(Lifetime::Window));
        inputs.any(|n| graph.value(n.output).name == name)
    };
    for (name, source) in phase.sources.iter().filter(|(name, _)| !window(name)) {
        match source {
            Source::Constant(values) => {
                // An executor for fewer items has fewer rows of what is the same for all of them.
                let port = executor.plan().input(name)?;
                let most = port.shape.n as usize * port.shape.pixels() as usize * port.shape.c as usize;
                executor.write_input(name, &values[..most.min(values.len())])?;
            }
            Source::Table(table) => executor.write_input(name, &program.tables[table.0].values)?,
            Source::Gather(saved) => executor.write_input(name, world.gathered(*saved))?,
            Source::Factors(affine) => {
                executor.write_input(name, &Factors::new(affine, |id| world.statistic(id)).rows())?;
            }
            Source::Crop { .. } | Source::Saved { .. } | Source::Noise { .. } => {
                let why = format!("`{name}` does not differ between windows");
                return Err(Error::new(Kind::Internal, "run", why));
            }
        }
    }
    executor.setup()
}

/// One item's values of one source.
#[expect(clippy::too_many_arguments, reason = "a source may draw on every state of the run")]
pub(super) fn fill(
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
        Source::Factors(affine) => to.copy_from_slice(&Factors::new(affine, |id| world.statistic(id)).rows()),
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
