//! Chained passes: window phases joined by bands run in one pass, each row of windows of a later phase pulling
//! the rows it needs through the phases before (`system::chain` says in which order).

use super::canvas::World;
use super::cell::{Cell, stats_rect};
use super::connections::Connections;
use super::control::{Control, sequence};
use super::executor::Executor;
use super::interpreter::Interpreter;
use super::kept::Place;
use super::recover;
use super::sinks::{Arrival, Working};
use super::window_phase::{fill, item, settle};
use crate::abi::Item;
use crate::error::{Error, Kind, Result};
use crate::graph::{Lifetime, Op, Shape};
use crate::system::chain;
use crate::system::phase::{Phase, Source, WindowPhase};
use crate::system::program::Program;
use crate::tile::Grid;
use std::time::Instant;

/// An input or output of a phase.
struct Port<'p> {
    name: &'p str,
    shape: Shape,
    /// Values of one item.
    item: usize,
}

/// A window phase of a chain; its values pass through the chain's one staging.
struct Link<'p> {
    phase: &'p WindowPhase,
    grid: &'p Grid,
    /// Windows in the order they run, row by row.
    windows: Vec<usize>,
    batch: usize,
    inputs: Vec<(Port<'p>, &'p Source)>,
    outputs: Vec<(Port<'p>, Vec<Working>)>,
}

impl<'p> Link<'p> {
    fn new(program: &'p Program, phase: &'p WindowPhase, control: &Control<'_>) -> Result<Link<'p>> {
        let graph = &program.graphs[phase.graph.0];
        let port = |name: &'p str, shape: Shape| Port { name, shape, item: shape.pixels() as usize * shape.c as usize };
        let mut inputs = Vec::new();
        for node in graph.nodes.iter().filter(|n| n.op == Op::Input(Lifetime::Window)) {
            let value = graph.value(node.output);
            let Some((_, source)) = phase.sources.iter().find(|(name, _)| *name == value.name) else { continue };
            inputs.push((port(&value.name, value.shape), source));
        }
        let mut outputs: Vec<(Port<'p>, Vec<Working>)> = Vec::new();
        for (name, sink) in &phase.sinks {
            let Some((name, id)) = graph.outputs.iter().find(|(n, _)| n == name) else { continue };
            let mut working = Working::new(program, phase, sink)?;
            working.begin(0, 0);
            match outputs.iter_mut().find(|(p, _)| p.name == name) {
                Some((_, sinks)) => sinks.push(working),
                None => outputs.push((port(name, graph.value(*id).shape), vec![working])),
            }
        }
        let grid = &program.grids[phase.grid.0];
        let windows = sequence(grid, control.order);
        Ok(Link { phase, grid, windows, batch: program.batch(phase)? as usize, inputs, outputs })
    }

    fn sinks(&mut self) -> impl Iterator<Item = &mut Working> {
        self.outputs.iter_mut().flat_map(|(_, sinks)| sinks)
    }

    /// The most values that pass through the staging at once.
    fn largest(&self) -> usize {
        let ports = self.inputs.iter().map(|(p, _)| p).chain(self.outputs.iter().map(|(p, _)| p));
        ports.map(|p| p.item).max().unwrap_or(0) * self.batch
    }

    fn items(&self, batch: &[(usize, u32)]) -> Vec<Item> {
        let item = |&(index, branch): &(usize, u32)| {
            let stats_rect = stats_rect(self.grid, self.grid.window(index));
            Item { stats_rect, ..item(self.phase, self.grid, index, branch, 0) }
        };
        batch.iter().map(item).collect()
    }
}

impl<'p> Interpreter<'p> {
    /// Runs the chained block `number` in one pass.
    pub(super) fn chain(&mut self, number: usize, io: &mut Connections<'_>, control: &mut Control<'_>) -> Result<()> {
        let program = self.program;
        let block = &program.blocks[number];
        let (from, finished) = self.start_of_chain(block);
        let schedule = chain::schedule(program, block, from)?;
        let before = program.blocks[..number].iter().map(|b| b.phases.len()).sum::<usize>();
        let phases = block.phases.iter().filter_map(|p| match p {
            Phase::Windows(w) => Some(w),
            Phase::Canvas(_) => None,
        });
        let mut links = phases.map(|p| Link::new(program, p, control)).collect::<Result<Vec<_>>>()?;
        for (i, link) in links.iter_mut().enumerate() {
            let first = schedule.turns.iter().find(|(phase, _)| *phase == i).map_or(0, |(_, row)| *row);
            let skipped = first * link.grid.cols.count();
            self.total = self.total.saturating_sub(skipped as u64 * u64::from(link.phase.branches));
            link.sinks().filter(|s| matches!(s, Working::Blend(_))).for_each(|s| s.begin(skipped, finished));
        }
        self.world.open_block(number, &schedule.bands, self.executors, io)?;
        let mut staging = vec![0.0f32; links.iter().map(Link::largest).max().unwrap_or(0)];
        for &(i, row) in &schedule.turns {
            let Some(link) = links.get_mut(i) else { continue };
            let grid = link.grid;
            for sink in link.sinks() {
                sink.begin_row(grid, row, &mut self.world)?;
            }
            let columns = grid.cols.count();
            let branches = link.phase.branches;
            let windows = &link.windows[row * columns..(row + 1) * columns];
            let all: Vec<(usize, u32)> = windows.iter().flat_map(|&w| (0..branches).map(move |b| (w, b))).collect();
            let batch = link.batch;
            for items in all.chunks(batch) {
                // Numbers beyond those of the plain phases: no two phases share one.
                let token = usize::MAX - before - i;
                self.launch_link(link, token, items, &mut staging, io, control)?;
            }
            let at = Instant::now();
            for sink in link.sinks() {
                sink.end_row(grid, row, &mut self.world, io)?;
            }
            self.stats.scatter += at.elapsed().as_secs_f64();
        }
        for link in &mut links {
            let grid = link.grid;
            for sink in link.sinks() {
                sink.end(grid, true, &mut self.world, io)?;
            }
        }
        self.world.close_block(number, &schedule.bands);
        Ok(())
    }

    fn launch_link(
        &mut self,
        link: &mut Link<'p>,
        token: usize,
        batch: &[(usize, u32)],
        staging: &mut [f32],
        io: &mut Connections<'_>,
        control: &mut Control<'_>,
    ) -> Result<()> {
        let mut rest = batch;
        while !rest.is_empty() {
            control.cancel.check()?;
            match self.attempt(link, token, rest, staging, io, control) {
                Ok(done) => rest = &rest[done..],
                Err(e) => {
                    let more = if rest.len() > 1 { format!(" and {} more", rest.len() - 1) } else { String::new() };
                    let e = e.at(format!("{}: {}{more}", link.phase.name, link.grid.describe(rest[0].0)));
                    // What lies on a lost device is lost with it.
                    if e.kind() == Kind::DeviceLost && self.world.uses_device() {
                        return Err(e);
                    }
                    recover::retry(link.phase.graph.0, self.executors, &mut self.holds, e, control)?;
                }
            }
        }
        Ok(())
    }

    /// One launch over as many of `batch` as the executor takes; returns how many.
    fn attempt(
        &mut self,
        link: &mut Link<'p>,
        token: usize,
        batch: &[(usize, u32)],
        staging: &mut [f32],
        io: &mut Connections<'_>,
        control: &mut Control<'_>,
    ) -> Result<usize> {
        let began = Instant::now();
        let graph = link.phase.graph.0;
        let executor = self.executors.executor(graph)?;
        let held = Some((token, executor.serial()));
        if self.holds[graph] != held {
            settle(self.program, link.phase, executor, &self.world)?;
            self.holds[graph] = held;
        }
        // After memory ran out an executor may take fewer items than the program's launches have.
        let batch = &batch[..executor.batch().min(batch.len())];
        let mut gathered = began;
        let ran = gather(self.program, link, batch, executor, staging, &mut self.world, io).and_then(|moved| {
            gathered = Instant::now();
            executor.run_until(&link.items(batch), &|| control.cancel.check()).map(|()| moved)
        });
        let moved = match ran {
            Ok(moved) => moved,
            // Which of them it was is not known, and an item's bytes must not depend on the others: one by one.
            Err(e) if e.kind() == Kind::NonFinite && batch.len() > 1 => {
                return self.attempt(link, token, &batch[..1], staging, io, control);
            }
            Err(e) if e.kind() == Kind::NonFinite => {
                return self.attempt_wider(link, batch, staging, io, control, e).map(|()| 1);
            }
            Err(e) => return Err(e),
        };
        let computed = Instant::now();
        let more = scatter(link, batch, executor, staging, &mut self.world, io)?;
        self.stats.moved += moved + more;
        let name = link.phase.name.as_str();
        self.count(name, batch.len(), [began, gathered, computed, Instant::now()], control);
        Ok(batch.len())
    }

    /// One item again, which `failed` in the storage type, in a wider one. Not where states lie on the device: there
    /// they have the type they were stored in.
    fn attempt_wider(
        &mut self,
        link: &mut Link<'p>,
        one: &[(usize, u32)],
        staging: &mut [f32],
        io: &mut Connections<'_>,
        control: &mut Control<'_>,
        failed: Error,
    ) -> Result<()> {
        let failed = failed.at(format!("{}: {}", link.phase.name, link.grid.describe(one[0].0)));
        if self.world.uses_device() {
            return Err(failed);
        }
        let began = Instant::now();
        let graph = link.phase.graph.0;
        let Some((wide, dtype)) = self.executors.wide(graph)? else { return Err(failed) };
        // The executors of all graphs may have gone to make room.
        self.holds.fill(None);
        settle(self.program, link.phase, wide, &self.world)?;
        let moved = gather(self.program, link, one, wide, staging, &mut self.world, io)?;
        let gathered = Instant::now();
        wide.run_until(&link.items(one), &|| control.cancel.check())
            .map_err(|e| recover::refused_wider(&failed, dtype, e))?;
        let computed = Instant::now();
        let more = scatter(link, one, wide, staging, &mut self.world, io)?;
        self.stats.moved += moved + more;
        self.stats.redone += 1;
        self.tell(recover::redone_in(dtype, &failed), control);
        self.count(link.phase.name.as_str(), 1, [began, gathered, computed, Instant::now()], control);
        Ok(())
    }
}

/// Fills the inputs that differ between windows; returns the bytes moved.
fn gather(
    program: &Program,
    link: &Link<'_>,
    batch: &[(usize, u32)],
    executor: &mut Executor,
    staging: &mut [f32],
    world: &mut World<'_>,
    io: &mut Connections<'_>,
) -> Result<u64> {
    let mut moved = 0;
    for (port, source) in &link.inputs {
        moved += (port.item * batch.len() * 4) as u64;
        if let Source::Crop { canvas, ratio, gain, shift } = source
            && let Some(from) = world.on_device(*canvas)
        {
            if (*gain, *shift) != (1.0, 0.0) {
                return Err(Error::new(Kind::Internal, "run", "a canvas on the device is read as it is"));
            }
            // Dummy items compute on the first window, as everywhere: on finite values.
            for k in 0..executor.batch() {
                let w = link.grid.window(batch.get(k).unwrap_or(&batch[0]).0);
                from.load([ratio.of(w.y)?, ratio.of(w.x)?], &executor.place(port.name, false, k)?)?;
            }
            continue;
        }
        for (k, &(index, _)) in batch.iter().enumerate() {
            let to = &mut staging[k * port.item..(k + 1) * port.item];
            fill(source, link.grid, link.grid.window(index), 0, port.shape, None, program, world, io, to)?;
        }
        executor.write_input(port.name, &staging[..batch.len() * port.item])?;
    }
    Ok(moved)
}

/// Hands the outputs to their sinks; returns the bytes moved.
fn scatter(
    link: &mut Link<'_>,
    batch: &[(usize, u32)],
    executor: &mut Executor,
    staging: &mut [f32],
    world: &mut World<'_>,
    io: &mut Connections<'_>,
) -> Result<u64> {
    let mut moved = 0;
    for (port, sinks) in &mut link.outputs {
        moved += (port.item * batch.len() * 4) as u64;
        let device = |s: &Working, world: &World<'_>| s.stored_in().filter(|(c, _)| world.on_device(*c).is_some());
        for (canvas, ratio) in sinks.iter().filter_map(|s| device(s, world)) {
            for (k, &(index, _)) in batch.iter().enumerate() {
                let cell: Cell = Cell::of(link.grid, link.grid.window(index), ratio)?;
                let from: Place<'_> = executor.place(port.name, true, k)?;
                if let Some(canvas) = world.on_device(canvas) {
                    canvas.store(&cell, &from)?;
                }
            }
        }
        if sinks.iter().all(|s| device(s, world).is_some()) {
            continue;
        }
        executor.read_output(port.name, &mut staging[..batch.len() * port.item])?;
        for (&(index, branch), values) in batch.iter().zip(staging.chunks_exact(port.item)) {
            let window = link.grid.window(index);
            let (grid, channels, branch) = (link.grid, port.shape.c as usize, branch as usize);
            let arrival = Arrival { grid, window, branch, values, channels, last_step: true };
            for sink in sinks.iter_mut() {
                if device(sink, world).is_none() {
                    sink.take(&arrival, world, io)?;
                }
            }
        }
    }
    Ok(moved)
}
