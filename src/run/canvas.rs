//! States of a running program: canvases, saved values, statistics, and the rows that come and go.

use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::noise;
use crate::run::executors::Executors;
use crate::run::kept::{DeviceCanvas, SpoolCanvas};
use crate::run::sinks::Cell;
use crate::run::statistics::{Factors, Moments};
use crate::system::chain::Band;
use crate::system::phase::{CanvasOp, Coefficient, Nesting, Phase, Source, WindowPhase};
use crate::system::program::{CanvasId, Program, Residency, SavedId, StatisticId};
use crate::tile::{RowRing, band};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// Rows that feed a canvas, top to bottom.
pub trait RowsIn {
    /// The next row, `width * channels` values.
    fn next_row(&mut self, row: &mut [f32]) -> Result<()>;
}

/// Where the finished rows of a canvas go, top to bottom.
pub trait RowsOut {
    /// Row `y`, `width * channels` values.
    fn put_row(&mut self, y: u32, row: &[f32]) -> Result<()>;

    /// Called when all rows that a row of windows finished have been put.
    fn settle(&mut self) -> Result<()> {
        Ok(())
    }

    /// Whether the states of the program shall be saved at the point it has come to.
    fn wants_point(&mut self) -> Result<bool> {
        Ok(false)
    }

    /// Saves the states at point `at`.
    fn save_point(&mut self, _at: u64, _states: &[&[u8]]) -> Result<()> {
        Ok(())
    }

    /// The last point that an earlier run saved.
    fn point(&self) -> Option<u64> {
        None
    }

    /// The states of that point, of these lengths; `None` when they cannot be proved.
    fn load_point(&mut self, _lengths: &[usize]) -> Result<Option<Vec<Vec<u8>>>> {
        Ok(None)
    }
}

impl<F: FnMut(&mut [f32]) -> Result<()>> RowsIn for F {
    fn next_row(&mut self, row: &mut [f32]) -> Result<()> {
        self(row)
    }
}

impl<F: FnMut(u32, &[f32]) -> Result<()>> RowsOut for F {
    fn put_row(&mut self, y: u32, row: &[f32]) -> Result<()> {
        self(y, row)
    }
}

/// What a job connects to a program's canvases. Whole canvases that are fed are read before the first
/// phase, those that are drained are written after the last.
#[derive(Default)]
pub struct Connections<'a> {
    /// Canvases fed by rows.
    pub inputs: Vec<(CanvasId, &'a mut dyn RowsIn)>,
    /// Canvases drained by rows.
    pub outputs: Vec<(CanvasId, &'a mut dyn RowsOut)>,
}

enum State {
    Whole(Vec<f32>),
    /// A band being read: rows pulled as windows need them.
    Band(RowRing),
    /// A band being blended into: the ring is the sink's.
    Passing,
    /// All of it, in a file.
    Spool(SpoolCanvas),
    /// All of it, on the device.
    Device(DeviceCanvas),
    /// Nothing, until a block that uses it begins.
    Absent,
}

/// Everything a program's phases read and write.
pub(super) struct World<'p> {
    pub(super) program: &'p Program,
    canvases: Vec<State>,
    saved: Vec<Vec<f32>>,
    /// Whether a saved value exists for the windows of one launch only.
    passing: Vec<bool>,
    /// The windows of that launch.
    windows: Vec<usize>,
    statistics: Vec<Vec<Moments>>,
    /// Folder of canvases that live in files.
    spool: Option<PathBuf>,
}

fn wrong(message: String) -> Error {
    Error::new(Kind::Internal, "run", message)
}

impl<'p> World<'p> {
    /// All states of `program`, zeroed.
    pub(super) fn new(program: &'p Program) -> World<'p> {
        let blocks = program.blocks.iter().filter(|b| b.nesting == Nesting::Chained);
        let phases = blocks.flat_map(|b| &b.phases).filter_map(|p| match p {
            Phase::Windows(w) => Some(w),
            Phase::Canvas(_) => None,
        });
        let chained: BTreeSet<CanvasId> = phases.flat_map(WindowPhase::canvases).collect();
        let canvases = program.canvases.iter().enumerate().map(|(i, canvas)| {
            let [h, w] = program.extent(CanvasId(i));
            let values = h as usize * w as usize * canvas.channels as usize;
            match canvas.residency {
                Residency::Spool | Residency::Device => State::Absent,
                Residency::Whole if program.transient.contains(&CanvasId(i)) => State::Absent,
                Residency::Band if chained.contains(&CanvasId(i)) => State::Absent,
                Residency::Whole => State::Whole(vec![0.0; values]),
                Residency::Band => match program.window_phases().find(|(p, _)| reads(p, CanvasId(i))) {
                    Some((phase, _)) => {
                        let rows = rows_in_flight(program, phase).max(program.band_rows(CanvasId(i)));
                        State::Band(RowRing::new(w, canvas.channels, rows.min(h)))
                    }
                    None => State::Passing,
                },
            }
        });
        let saved = program.saved.iter().enumerate().map(|(i, s)| {
            let windows = program.slots(SavedId(i));
            vec![0.0; windows * s.shape.pixels() as usize * s.shape.c as usize]
        });
        let given_up: BTreeSet<SavedId> = program.blocks.iter().flat_map(|b| b.passing()).collect();
        World {
            program,
            canvases: canvases.collect(),
            saved: saved.collect(),
            passing: (0..program.saved.len()).map(|i| given_up.contains(&SavedId(i))).collect(),
            windows: Vec::new(),
            statistics: program.statistics.iter().map(|s| vec![Moments::default(); s.channels as usize]).collect(),
            spool: None,
        }
    }

    /// Host bytes held.
    pub(super) fn bytes(&self) -> u64 {
        let canvases = self.canvases.iter().map(|c| match c {
            State::Whole(values) => (values.len() * 4) as u64,
            State::Band(ring) => ring.bytes(),
            State::Passing | State::Spool(_) | State::Device(_) | State::Absent => 0,
        });
        canvases.sum::<u64>() + self.saved.iter().map(|s| (s.len() * 4) as u64).sum::<u64>()
    }

    /// The values of a whole canvas.
    pub(super) fn whole(&self, id: CanvasId) -> Result<&[f32]> {
        match &self.canvases[id.0] {
            State::Whole(values) => Ok(values),
            _ => Err(wrong(format!("canvas `{}` is not in host memory", self.program.canvases[id.0].name))),
        }
    }

    /// See [`World::whole`].
    pub(super) fn whole_mut(&mut self, id: CanvasId) -> Result<&mut [f32]> {
        match &mut self.canvases[id.0] {
            State::Whole(values) => Ok(values),
            _ => Err(wrong(format!("canvas `{}` is not in host memory", self.program.canvases[id.0].name))),
        }
    }

    /// Says whose values the slots of what is given up with its windows hold from here on.
    pub(super) fn begin_windows(&mut self, windows: impl Iterator<Item = usize>) {
        self.windows.clear();
        for window in windows {
            if !self.windows.contains(&window) {
                self.windows.push(window);
            }
        }
    }

    /// Where the value of window `index` lies.
    fn slot(&self, id: SavedId, index: usize) -> std::ops::Range<usize> {
        let shape = self.program.saved[id.0].shape;
        let len = shape.pixels() as usize * shape.c as usize;
        let held = || self.windows.iter().position(|&w| w == index).unwrap_or(0);
        let slot = if self.passing[id.0] { held() } else { index };
        slot * len..(slot + 1) * len
    }

    /// What window `index` saved.
    pub(super) fn saved(&self, id: SavedId, index: usize) -> &[f32] {
        &self.saved[id.0][self.slot(id, index)]
    }

    /// See [`World::saved`].
    pub(super) fn saved_mut(&mut self, id: SavedId, index: usize) -> &mut [f32] {
        let slot = self.slot(id, index);
        &mut self.saved[id.0][slot]
    }

    /// What every window saved.
    pub(super) fn gathered(&self, id: SavedId) -> &[f32] {
        &self.saved[id.0]
    }

    /// See [`World::gathered`].
    pub(super) fn gathered_mut(&mut self, id: SavedId) -> &mut [f32] {
        &mut self.saved[id.0]
    }

    /// Makes a canvas whole with these values.
    pub(super) fn set_whole(&mut self, id: CanvasId, values: Vec<f32>) {
        self.canvases[id.0] = State::Whole(values);
    }

    /// Moments per channel.
    pub(super) fn statistic(&self, id: StatisticId) -> &[Moments] {
        &self.statistics[id.0]
    }

    /// Sets the moments.
    pub(super) fn set_statistic(&mut self, id: StatisticId, values: Vec<Moments>) {
        self.statistics[id.0] = values;
    }

    /// Reads the whole canvases that are fed.
    pub(super) fn load(&mut self, io: &mut Connections<'_>) -> Result<()> {
        for (id, rows) in &mut io.inputs {
            let [_, w] = self.program.extent(*id);
            let n = w as usize * self.program.canvases[id.0].channels as usize;
            if let State::Whole(values) = &mut self.canvases[id.0] {
                values.chunks_exact_mut(n).try_for_each(|row| rows.next_row(row))?;
            }
        }
        Ok(())
    }

    /// Writes the whole canvases that are drained.
    pub(super) fn unload(&self, io: &mut Connections<'_>) -> Result<()> {
        for (id, rows) in &mut io.outputs {
            let [_, w] = self.program.extent(*id);
            let n = w as usize * self.program.canvases[id.0].channels as usize;
            if let State::Whole(values) = &self.canvases[id.0] {
                values.chunks_exact(n).zip(0..).try_for_each(|(row, y)| rows.put_row(y, row))?;
                rows.settle()?;
            }
        }
        Ok(())
    }

    /// Pulls rows so that a band holds everything above row `until`.
    pub(super) fn pull(&mut self, id: CanvasId, until: u32, io: &mut Connections<'_>) -> Result<()> {
        let [h, _] = self.program.extent(id);
        if let State::Band(ring) = &mut self.canvases[id.0] {
            while ring.end() < until.min(h) {
                let Some((_, rows)) = io.inputs.iter_mut().find(|(c, _)| *c == id) else {
                    return Err(wrong(format!("nothing feeds canvas `{}`", self.program.canvases[id.0].name)));
                };
                rows.next_row(ring.push())?;
            }
        }
        Ok(())
    }

    /// Takes a finished row of a blended canvas.
    pub(super) fn put(&mut self, id: CanvasId, y: u32, row: &[f32], io: &mut Connections<'_>) -> Result<()> {
        match &mut self.canvases[id.0] {
            State::Whole(values) => {
                values[y as usize * row.len()..][..row.len()].copy_from_slice(row);
                Ok(())
            }
            State::Spool(file) => file.write(y, 0, row),
            State::Band(ring) if io.outputs.iter().all(|(c, _)| *c != id) => {
                ring.push().copy_from_slice(row);
                Ok(())
            }
            State::Device(_) | State::Absent => {
                Err(wrong(format!("canvas `{}` takes no rows", self.program.canvases[id.0].name)))
            }
            State::Band(_) | State::Passing => match io.outputs.iter_mut().find(|(c, _)| *c == id) {
                Some((_, rows)) => rows.put_row(y, row),
                None => Err(wrong(format!("nothing takes canvas `{}`", self.program.canvases[id.0].name))),
            },
        }
    }

    /// Tells who takes the rows of a band that a row of windows is complete.
    pub(super) fn settle(&mut self, id: CanvasId, io: &mut Connections<'_>) -> Result<()> {
        match (&self.canvases[id.0], io.outputs.iter_mut().find(|(c, _)| *c == id)) {
            (State::Band(_) | State::Passing, Some((_, rows))) => rows.settle(),
            _ => Ok(()),
        }
    }

    /// Rows a canvas holds at a time.
    pub(super) fn band_capacity(&self, id: CanvasId) -> u32 {
        match &self.canvases[id.0] {
            State::Band(ring) => ring.capacity(),
            State::Whole(_) | State::Passing | State::Spool(_) | State::Device(_) | State::Absent => {
                self.program.extent(id)[0]
            }
        }
    }

    /// Cuts `[h, w]` pixels at (`y`, `x`), mirrored beyond the canvas.
    pub(super) fn crop(&self, id: CanvasId, at: [i64; 2], size: [u32; 2], out: &mut [f32]) -> Result<()> {
        let extent = self.program.extent(id);
        let channels = self.program.canvases[id.0].channels as usize;
        let n = extent[1] as usize * channels;
        match &self.canvases[id.0] {
            State::Whole(values) => band::crop(|y| Ok(&values[y as usize * n..][..n]), extent, channels, at, size, out),
            State::Band(ring) => band::crop(|y| ring.row(y), extent, channels, at, size, out),
            State::Spool(file) => file.crop(at, size, out),
            State::Passing | State::Device(_) | State::Absent => {
                Err(wrong(format!("canvas `{}` cannot be read", self.program.canvases[id.0].name)))
            }
        }
    }

    /// Makes the bands and the transient canvases that a block needs.
    pub(super) fn open_block(
        &mut self,
        index: usize,
        bands: &BTreeMap<CanvasId, Band>,
        executors: &mut dyn Executors,
        io: &mut Connections<'_>,
    ) -> Result<()> {
        let program = self.program;
        for (&id, band) in bands {
            let [_, w] = program.extent(id);
            let ring = RowRing::starting_at(band.first, w, program.canvases[id.0].channels, band.rows);
            self.canvases[id.0] = State::Band(ring);
        }
        for (i, canvas) in program.canvases.iter().enumerate() {
            let id = CanvasId(i);
            let begins = program.used_by(id).is_some_and(|[first, _]| first == index);
            if !begins || !matches!(self.canvases[i], State::Absent) {
                continue;
            }
            let extent = program.extent(id);
            self.canvases[i] = match canvas.residency {
                Residency::Band => continue,
                Residency::Whole => {
                    let values = extent::to_usize("canvas", program.canvas_bytes(id) / 4)?;
                    State::Whole(vec![0.0; values])
                }
                Residency::Spool => {
                    let Some(folder) = &self.spool else {
                        return Err(wrong(format!("canvas `{}` needs a spool folder", canvas.name)));
                    };
                    State::Spool(SpoolCanvas::create(folder, extent, canvas.channels)?)
                }
                Residency::Device => {
                    // The port that writes it decides how it is stored.
                    let Some((graph, dtype)) = program.port_of(id) else { continue };
                    let device = executors.executor(graph.0)?.device().clone();
                    State::Device(DeviceCanvas::create(&device, extent, canvas.channels, dtype)?)
                }
            };
            // One that is fed is read whole now.
            if let Some((_, rows)) = io.inputs.iter_mut().find(|(c, _)| *c == id) {
                let mut row = vec![0.0; extent::to_usize("row", program.row_bytes(id) / 4)?];
                for y in 0..extent[0] {
                    rows.next_row(&mut row)?;
                    match &mut self.canvases[i] {
                        State::Whole(to) => to[y as usize * row.len()..][..row.len()].copy_from_slice(&row),
                        State::Spool(file) => file.write(y, 0, &row)?,
                        State::Band(_) | State::Passing | State::Device(_) | State::Absent => {
                            return Err(wrong(format!("canvas `{}` cannot be fed", canvas.name)));
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Gives back what no later block reads.
    pub(super) fn close_block(&mut self, index: usize, bands: &BTreeMap<CanvasId, Band>) {
        bands.keys().for_each(|id| self.canvases[id.0] = State::Absent);
        for (i, canvas) in self.program.canvases.iter().enumerate() {
            let kept = canvas.residency == Residency::Whole && !self.program.transient.contains(&CanvasId(i));
            if !kept && self.program.used_by(CanvasId(i)).is_some_and(|[_, last]| last == index) {
                self.canvases[i] = State::Absent;
            }
        }
    }

    /// The canvas on the device, if that is where it is.
    pub(super) fn on_device(&self, id: CanvasId) -> Option<&DeviceCanvas> {
        match &self.canvases[id.0] {
            State::Device(canvas) => Some(canvas),
            _ => None,
        }
    }

    /// Whether any canvas lies on the device now.
    pub(super) fn uses_device(&self) -> bool {
        self.canvases.iter().any(|c| matches!(c, State::Device(_)))
    }

    /// Extends a band down to row `end`.
    pub(super) fn make_room(&mut self, id: CanvasId, end: u32) -> Result<()> {
        let [h, _] = self.program.extent(id);
        if let State::Band(ring) = &mut self.canvases[id.0] {
            while ring.end() < end.min(h) {
                ring.push().fill(0.0);
            }
        }
        Ok(())
    }

    /// Writes a window's cell; what lies beyond the canvas is left out.
    pub(super) fn store(&mut self, id: CanvasId, cell: &Cell, values: &[f32]) -> Result<()> {
        let [h, w] = self.program.extent(id);
        let c = self.program.canvases[id.0].channels as usize;
        let count = cell.size[1].min(w.saturating_sub(cell.at[1])) as usize * c;
        for i in 0..cell.size[0].min(h.saturating_sub(cell.at[0])) {
            let from = (cell.from[0] + i) as usize * cell.width as usize + cell.from[1] as usize;
            let (y, x) = (cell.at[0] + i, cell.at[1] as usize * c);
            let values = &values[from * c..][..count];
            match &mut self.canvases[id.0] {
                State::Whole(to) => to[y as usize * w as usize * c + x..][..count].copy_from_slice(values),
                State::Band(ring) => ring.row_mut(y)?[x..x + count].copy_from_slice(values),
                State::Spool(file) => file.write(y, cell.at[1], values)?,
                State::Passing | State::Device(_) | State::Absent => {
                    let name = &self.program.canvases[id.0].name;
                    return Err(wrong(format!("canvas `{name}` takes no cells from the host")));
                }
            }
        }
        Ok(())
    }

    /// Hands rows `first..end` of a band that is connected to an output to it.
    pub(super) fn drain(&mut self, id: CanvasId, first: u32, end: u32, io: &mut Connections<'_>) -> Result<()> {
        let [h, _] = self.program.extent(id);
        if let State::Band(ring) = &self.canvases[id.0]
            && let Some((_, rows)) = io.outputs.iter_mut().find(|(c, _)| *c == id)
        {
            for y in first..end.min(h) {
                rows.put_row(y, ring.row(y)?)?;
            }
            rows.settle()?;
        }
        Ok(())
    }

    /// Sets the folder of canvases that live in files.
    pub(super) fn set_spool(&mut self, folder: PathBuf) {
        self.spool = Some(folder);
    }

    /// Carries out an operation on whole canvases.
    pub(super) fn canvas_op(&mut self, op: &CanvasOp, step: u32) -> Result<()> {
        match op {
            CanvasOp::Combine { to, terms, noise, constant, clamp } => {
                self.combine(*to, terms, *noise, *constant, *clamp, step)
            }
            CanvasOp::Resize { from, to } => {
                let ([fh, fw], [th, tw]) = (self.program.extent(*from), self.program.extent(*to));
                let channels = self.program.canvases[from.0].channels as usize;
                let values = crate::image::resample::resize(
                    self.whole(*from)?,
                    (u64::from(fw), u64::from(fh)),
                    (u64::from(tw), u64::from(th)),
                    channels,
                )?;
                self.whole_mut(*to)?.copy_from_slice(&values);
                Ok(())
            }
            CanvasOp::Sample { from, to, blocks } => self.sample(*from, *to, *blocks),
            CanvasOp::Moments { from, to } => {
                let channels = self.program.canvases[from.0].channels as usize;
                let mut moments = vec![Moments::default(); channels];
                Moments::add_rows(&mut moments, self.whole(*from)?);
                self.set_statistic(*to, moments);
                Ok(())
            }
            CanvasOp::Affine { from, affine, to } => {
                let factors = Factors::new(affine, |id| self.statistic(id));
                let mut values = self.whole(*from)?.to_vec();
                factors.apply(&mut values);
                self.whole_mut(*to)?.copy_from_slice(&values);
                Ok(())
            }
        }
    }

    fn sample(&mut self, from: CanvasId, to: CanvasId, blocks: [u32; 2]) -> Result<()> {
        let (large, small) = (self.program.extent(from), self.program.extent(to));
        let c = self.program.canvases[from.0].channels as usize;
        let size = [small[0] / blocks[0].max(1), small[1] / blocks[1].max(1)];
        // One block alone is taken from the middle.
        let place = |i: usize, k: u32| {
            let room = u64::from(large[i].saturating_sub(size[i]));
            if blocks[i] == 1 { room / 2 } else { room * u64::from(k) / u64::from(blocks[i] - 1) }
        };
        let mut cut = vec![0.0f32; size[0] as usize * size[1] as usize * c];
        for (row, column) in (0..blocks[0]).flat_map(|r| (0..blocks[1]).map(move |c| (r, c))) {
            let at = [place(0, row), place(1, column)].map(|v| v as i64);
            self.crop(from, at, size, &mut cut)?;
            let (n, width) = (size[1] as usize * c, small[1] as usize * c);
            let first = row as usize * size[0] as usize * width + column as usize * n;
            for (values, y) in cut.chunks_exact(n).zip(0..) {
                self.whole_mut(to)?[first + y * width..][..n].copy_from_slice(values);
            }
        }
        Ok(())
    }

    fn combine(
        &mut self,
        to: CanvasId,
        terms: &[(CanvasId, Coefficient)],
        noise: Option<(u16, u16, Coefficient)>,
        constant: f32,
        clamp: Option<[f32; 2]>,
        step: u32,
    ) -> Result<()> {
        let factor = |c: Coefficient| match c {
            Coefficient::Value(v) => v,
            Coefficient::Step(table, column) => self.program.tables[table.0].row(step as usize)[column],
        };
        let [_, w] = self.program.extent(to);
        let channels = self.program.canvases[to.0].channels as usize;
        let mut out = vec![constant; self.whole(to)?.len()];
        for (from, c) in terms {
            let c = factor(*c);
            for (o, v) in out.iter_mut().zip(self.whole(*from)?) {
                *o += c * v;
            }
        }
        if let Some((stage, purpose, c)) = noise {
            let (key, gain) = (self.program.noise_key(stage, purpose, step), factor(c));
            for (i, pixel) in out.chunks_exact_mut(channels).enumerate() {
                let (y, x) = (i / w as usize, i % w as usize);
                for (o, channel) in pixel.iter_mut().zip(0..) {
                    *o += gain * noise::normal(key, y as u32, x as u32, channel);
                }
            }
        }
        if let Some([lo, hi]) = clamp {
            out.iter_mut().for_each(|o| *o = o.clamp(lo, hi));
        }
        self.whole_mut(to)?.copy_from_slice(&out);
        Ok(())
    }
}

fn reads(phase: &WindowPhase, id: CanvasId) -> bool {
    phase.sources.iter().any(|(_, s)| reads_source(s, id))
}

fn reads_source(source: &Source, id: CanvasId) -> bool {
    match source {
        Source::Crop { canvas, .. } | Source::CropAt { canvas, .. } => *canvas == id,
        Source::Saved { initial, .. } => initial.as_ref().is_some_and(|s| reads_source(s, id)),
        Source::Constant(_)
        | Source::Table(_)
        | Source::Along { .. }
        | Source::Planes { .. }
        | Source::Gather(_)
        | Source::Factors(_)
        | Source::Noise { .. } => false,
    }
}

/// Rows between the top of a batch's first window and the bottom of its last: a batch may reach into the
/// next rows of windows.
fn rows_in_flight(program: &Program, phase: &WindowPhase) -> u32 {
    let axis = &program.grids[phase.grid.0].rows;
    let columns = program.grids[phase.grid.0].cols.count();
    let windows = program.batch(phase).map_or(1, |b| b as usize).div_ceil(phase.branches.max(1) as usize);
    // A launch may begin at the last column of one row.
    let further = (windows + columns - 2) / columns;
    let span = |r: usize| axis.origins[(r + further).min(axis.count() - 1)] + axis.size - axis.origins[r];
    let rows = (0..axis.count()).map(span).max().unwrap_or(axis.size);
    let scale = |s: &Source| match s {
        Source::Crop { ratio, .. } => ratio.of(rows).unwrap_or(rows),
        _ => rows,
    };
    phase.sources.iter().map(|(_, s)| scale(s)).max().unwrap_or(rows)
}
