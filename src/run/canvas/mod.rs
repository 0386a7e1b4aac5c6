//! States of a running program: canvases, saved values and statistics.

mod ops;
mod rows;

use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::run::connections::Connections;
use crate::run::executors::Executors;
use crate::run::kept::{DeviceCanvas, SpoolCanvas};
use crate::run::statistics::Moments;
use crate::system::chain::Band;
use crate::system::phase::{Nesting, Phase, Source, WindowPhase};
use crate::system::program::{CanvasId, Program, Residency, SavedId, StatisticId};
use crate::tile::RowRing;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

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
pub(in crate::run) struct World<'p> {
    pub(in crate::run) program: &'p Program,
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
    pub(in crate::run) fn new(program: &'p Program) -> World<'p> {
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
    pub(in crate::run) fn bytes(&self) -> u64 {
        let canvases = self.canvases.iter().map(|c| match c {
            State::Whole(values) => (values.len() * 4) as u64,
            State::Band(ring) => ring.bytes(),
            State::Passing | State::Spool(_) | State::Device(_) | State::Absent => 0,
        });
        canvases.sum::<u64>() + self.saved.iter().map(|s| (s.len() * 4) as u64).sum::<u64>()
    }

    /// The values of a whole canvas.
    pub(in crate::run) fn whole(&self, id: CanvasId) -> Result<&[f32]> {
        match &self.canvases[id.0] {
            State::Whole(values) => Ok(values),
            _ => Err(wrong(format!("canvas `{}` is not in host memory", self.program.canvases[id.0].name))),
        }
    }

    /// See [`World::whole`].
    pub(in crate::run) fn whole_mut(&mut self, id: CanvasId) -> Result<&mut [f32]> {
        match &mut self.canvases[id.0] {
            State::Whole(values) => Ok(values),
            _ => Err(wrong(format!("canvas `{}` is not in host memory", self.program.canvases[id.0].name))),
        }
    }

    /// Says whose values the slots of what is given up with its windows hold from here on.
    pub(in crate::run) fn begin_windows(&mut self, windows: impl Iterator<Item = usize>) {
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
    pub(in crate::run) fn saved(&self, id: SavedId, index: usize) -> &[f32] {
        &self.saved[id.0][self.slot(id, index)]
    }

    /// See [`World::saved`].
    pub(in crate::run) fn saved_mut(&mut self, id: SavedId, index: usize) -> &mut [f32] {
        let slot = self.slot(id, index);
        &mut self.saved[id.0][slot]
    }

    /// What every window saved.
    pub(in crate::run) fn gathered(&self, id: SavedId) -> &[f32] {
        &self.saved[id.0]
    }

    /// See [`World::gathered`].
    pub(in crate::run) fn gathered_mut(&mut self, id: SavedId) -> &mut [f32] {
        &mut self.saved[id.0]
    }

    /// Makes a canvas whole with these values.
    pub(in crate::run) fn set_whole(&mut self, id: CanvasId, values: Vec<f32>) {
        self.canvases[id.0] = State::Whole(values);
    }

    /// Moments per channel.
    pub(in crate::run) fn statistic(&self, id: StatisticId) -> &[Moments] {
        &self.statistics[id.0]
    }

    /// Sets the moments.
    pub(in crate::run) fn set_statistic(&mut self, id: StatisticId, values: Vec<Moments>) {
        self.statistics[id.0] = values;
    }

    /// Makes the bands and the transient canvases that a block needs.
    pub(in crate::run) fn open_block(
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
                    executors.make_room(program.device_bytes(id));
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
    pub(in crate::run) fn close_block(&mut self, index: usize, bands: &BTreeMap<CanvasId, Band>) {
        bands.keys().for_each(|id| self.canvases[id.0] = State::Absent);
        for (i, canvas) in self.program.canvases.iter().enumerate() {
            let kept = canvas.residency == Residency::Whole && !self.program.transient.contains(&CanvasId(i));
            if !kept && self.program.used_by(CanvasId(i)).is_some_and(|[_, last]| last == index) {
                self.canvases[i] = State::Absent;
            }
        }
    }

    /// The canvas on the device, if that is where it is.
    pub(in crate::run) fn on_device(&self, id: CanvasId) -> Option<&DeviceCanvas> {
        match &self.canvases[id.0] {
            State::Device(canvas) => Some(canvas),
            _ => None,
        }
    }

    /// Whether any canvas lies on the device now.
    pub(in crate::run) fn uses_device(&self) -> bool {
        self.canvases.iter().any(|c| matches!(c, State::Device(_)))
    }

    /// Sets the folder of canvases that live in files.
    pub(in crate::run) fn set_spool(&mut self, folder: PathBuf) {
        self.spool = Some(folder);
    }
}

fn reads(phase: &WindowPhase, id: CanvasId) -> bool {
    phase.sources.iter().any(|(_, s)| reads_source(s, id))
}

fn reads_source(source: &Source, id: CanvasId) -> bool {
    match source {
        Source::Crop { canvas, .. } | Source::CropAt { canvas, .. } => *canvas == id,
        Source::Superpixels { of, .. } => of.canvases().contains(&id),
        Source::Saved { initial, .. } => initial.as_ref().is_some_and(|s| reads_source(s, id)),
        Source::Constant(_)
        | Source::Table(_)
        | Source::Along { .. }
        | Source::Planes(_)
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
