//! The program of CasArbi. A stage is one block over windows of its result: what is the same in every step
//! is prepared once for a window (base picture, condition, coordinate features, the noisy start), then its steps follow.
//! So no more than the windows of one launch are ever in between, and stages meet in whole canvases of f32.

use super::casarbi::{CasArbi, Settings};
use super::casarbi_stage::{Prepare, Step};
use super::cascade::Stage;
use super::footprint::{Crop, Side, fits};
use super::job::{Base, Job, Reference};
use super::laid::{self, AXES, Laid};
use super::onestep::Shaping;
use super::phase::{Block, Contexts, GridAxis, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{GraphId, Program, Ratio, SavedId, TableId};
use crate::error::Result;
use crate::graph::Shape;
use crate::tile::geometry::{Placement, Tiling};
use crate::tile::{Axis, Grid, Ramp};

/// What noise is for: the start of a stage, and what each step adds.
const START: u16 = 0;
/// See [`START`].
const STEP: u16 = 1;
/// Pixels on either side that a bicubic enlargement reads.
const CUBIC_REACH: u32 = 3;
/// Pictures in 0 to 1 as networks see them: factor and shift.
const SIGNED: [f32; 2] = [2.0, -1.0];

/// A stage being laid.
struct Laying<'a> {
    model: &'a CasArbi,
    settings: &'a Settings,
    shaping: &'a Shaping,
    /// Sides of the job's picture.
    source: [u32; 2],
    at: Laid<'a>,
}

/// The program of a job.
pub(super) fn program(model: &CasArbi, job: &Job, shaping: &Shaping) -> Result<Program> {
    let settings = model.settings(job)?;
    let grid = |stage: &Stage| {
        let stride = model.denoiser.stride();
        let placement = if shaping.fitted { Placement::Fitted } else { Placement::Even };
        let [rows, cols] = stage.to.map(|side| {
            // One window is the side itself, whatever its length: the networks take any.
            let stride = if side <= shaping.tile { 1 } else { stride };
            let t = Tiling { tile: shaping.tile, overlap: shaping.overlap, stride, quantum: 1, placement };
            Axis::new(side, &t)
        });
        Ok(Grid { rows: rows?, cols: cols? })
    };
    let (settings, source) = (&settings, job.source);
    let lay = |at: Laid<'_>| Laying { model, settings, shaping, source, at }.lay();
    laid::program("casarbi", job, settings.cascade, grid, lay)
}

impl Laying<'_> {
    fn lay(&mut self) -> Result<()> {
        let grid = self.at.program.grids[self.at.grid.0].clone();
        let window = [fits(grid.rows.size, "a window")?, fits(grid.cols.size, "a window")?];
        let sides = [Side { windows: &grid.rows }, Side { windows: &grid.cols }];
        let crop = |from: [u32; 2], reach: u32| -> [Crop; 2] { [0, 1].map(|i| sides[i].crop(from[i], reach)) };
        let (m, s) = (self.model, self.settings);
        let (batch, dtype) = (self.shaping.batch, self.shaping.dtype);

        // What is prepared; the base picture first.
        let lr = crop(self.at.stage.from, m.lr_encoder.reach() + CUBIC_REACH);
        let (source, from) = match s.base {
            Base::StageInput => (self.at.input, self.at.stage.from),
            Base::Original => (self.at.picture, self.source),
        };
        let seen = crop(from, if s.liif { m.liif.reach() } else { CUBIC_REACH });
        let lengths = |c: &[Crop; 2]| [c[0].length, c[1].length];
        let shape = Prepare {
            batch,
            from: lengths(&lr),
            base: lengths(&seen),
            window,
            adapter: s.adapter,
            liif: s.liif,
            dtype,
        };
        let mut sources = vec![laid::crop("source", source, &seen, SIGNED)];
        if s.liif {
            self.liif(&sides, from, &seen, &mut sources)?;
        } else {
            for (i, (axis, name)) in AXES.into_iter().enumerate() {
                let table = sides[i].cubic(from[i], &seen[i])?;
                sources.push(self.at.along(&format!("plain.{name}"), axis, table));
            }
        }
        if !s.denoiser {
            let graph = self.at.program.graph(m.base_alone(&shape)?);
            let sinks = vec![("picture".to_owned(), self.blend(false))];
            let phases = vec![Phase::Windows(self.phase("base", graph, sources, sinks))];
            self.at.program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
            return Ok(());
        }
        let prepare = self.at.program.graph(m.prepare(&shape, s)?);
        sources.push(laid::crop("input", self.at.input, &lr, SIGNED));
        for (i, (axis, name)) in AXES.into_iter().enumerate() {
            let table = sides[i].cubic(self.at.stage.from[i], &lr[i])?;
            sources.push(self.at.along(&format!("cubic.{name}"), axis, table));
        }
        let initial = s.schedule.initial()?;
        sources.push(("noise".into(), self.noise(START, initial as f32)));
        if s.adapter {
            let bands = m.denoiser.bands();
            // Columns first: x, then y.
            let parts = [1, 0].map(|i| {
                let side = f64::from(self.at.stage.to[i]);
                let place = move |p: u32| -1.0 + (2.0 * f64::from(p) + 1.0) / side;
                let angle = move |l: u32, p: u32| std::f64::consts::PI * f64::from(1u32 << l) * place(p);
                let sines: Vec<_> = (0..bands).map(|l| move |p: u32| angle(l, p).sin()).collect();
                let cosines: Vec<_> = (0..bands).map(|l| move |p: u32| angle(l, p).cos()).collect();
                let mut planes: Vec<&dyn Fn(u32) -> f64> = vec![&place];
                planes.extend(sines.iter().map(|f| f as &dyn Fn(u32) -> f64));
                planes.extend(cosines.iter().map(|f| f as &dyn Fn(u32) -> f64));
                (AXES[i].0, self.at.table("coordinates", axis_of(&grid, i), sides[i].planes(&planes)))
            });
            sources.push(("coordinates".into(), Source::Planes(parts.into())));
        }
        let channels = [3, 3, m.denoiser.condition_channels(), m.denoiser.coordinate_channels()];
        let names = ["base", "x", "condition", "coordinate_features"];
        let count = if s.adapter { 4 } else { 3 };
        let saved: Vec<SavedId> = (0..count)
            .map(|i| self.at.saved(names[i], self.at.grid, Shape::new(1, window[0], window[1], channels[i])))
            .collect();
        let save = |i: usize| (names[i].to_owned(), Sink::Save { saved: saved[i], gains: vec![1.0] });
        let first = self.phase("prepare", prepare, sources, (0..count).map(save).collect());

        // The steps.
        let steps = s.schedule.run()?;
        let guidance = self.guidance(&sides)?;
        let (size, sources) = match guidance {
            Some((size, taps, sources)) => (Some((size, taps)), sources),
            None => (None, Vec::new()),
        };
        let shape = Step { batch, steps: s.schedule.steps, window, guidance: size, adapter: s.adapter, dtype };
        let graph = self.at.program.graph(m.step(&shape, s)?);
        let mut sources = sources;
        for (i, id) in saved.iter().enumerate() {
            sources.push((names[i].into(), Source::Saved { saved: *id, affine: None, initial: None }));
        }
        let scale = self.at.stage.scale();
        let rows =
            |of: &dyn Fn(usize) -> Vec<f64>| -> Vec<f32> { (0..steps.len()).flat_map(of).map(|v| v as f32).collect() };
        for (name, values) in [
            ("timestep", rows(&|i| vec![1000.0 * steps[i].sqrt_eta])),
            ("scale", rows(&|_| vec![1000.0 / scale])),
            ("input", rows(&|i| vec![s.input_scale(&steps[i]), 0.0])),
            ("next", rows(&|i| steps[i].next[..2].to_vec())),
            ("added", rows(&|i| vec![1.0, steps[i].next[2]])),
        ] {
            let table = self.at.table(name, steps.len(), values);
            sources.push((name.into(), Source::Table(table)));
        }
        sources.push(("noise".into(), self.noise(STEP, 1.0)));
        let sinks = vec![save(1), ("picture".to_owned(), self.blend(true))];
        let step = self.phase("denoise", graph, sources, sinks);
        let phases = vec![Phase::Windows(first), Phase::Windows(step)];
        self.at.program.blocks.push(Block { steps: s.schedule.steps, nesting: Nesting::Prepared { once: 1 }, phases });
        Ok(())
    }

    /// The sources of LIIF's tables and planes.
    fn liif(
        &mut self,
        sides: &[Side<'_>; 2],
        from: [u32; 2],
        seen: &[Crop; 2],
        sources: &mut Vec<(String, Source)>,
    ) -> Result<()> {
        let liif = &self.model.liif;
        let corners = liif.corners();
        let cell = [0, 1].map(|i| 2.0 * f64::from(from[i]) / f64::from(self.at.stage.to[i]));
        let mut places: [Vec<TableId>; 2] = Default::default();
        let mut cell_table = None;
        for (i, (axis, name)) in AXES.into_iter().enumerate() {
            let side = &sides[i];
            let count = side.windows.count();
            let short = if i == 0 { "row" } else { "column" };
            for (c, cells) in side.cells(from[i], &seen[i], corners).into_iter().enumerate() {
                sources.push(self.at.along(&format!("liif.{name}.{c}"), axis, cells.near));
                if corners > 1 {
                    sources.push(self.at.along(&format!("liif.{short}_weights.{c}"), axis, cells.shares));
                }
                places[i].push(self.at.table("liif.place", count, cells.place));
            }
            if liif.skips() {
                let table = side.cubic(from[i], &seen[i])?;
                sources.push(self.at.along(&format!("liif.cubic.{name}"), axis, table));
            }
            if i == 1 && liif.decodes_cell() {
                let planes = side.planes(&[&|_| cell[0], &|_| cell[1]]);
                cell_table = Some(self.at.table("liif.cell", count, planes));
            }
        }
        for (i, rows) in places[0].iter().enumerate() {
            for (j, columns) in places[1].iter().enumerate() {
                let mut parts = vec![(GridAxis::Rows, *rows), (GridAxis::Columns, *columns)];
                parts.extend(cell_table.map(|t| (GridAxis::Columns, t)));
                sources.push((format!("liif.planes.{i}{j}"), Source::Planes(parts)));
            }
        }
        Ok(())
    }

    /// The reference's extent in a window, the taps of both tables on both axes, and the sources; `None`: no guidance.
    #[expect(clippy::type_complexity, reason = "three things that belong together, taken apart at once")]
    fn guidance(&mut self, sides: &[Side<'_>; 2]) -> Result<Option<([u32; 2], [[u32; 2]; 2], Vec<(String, Source)>)>> {
        let strength = self.settings.strength(self.at.number);
        let (canvas, to) = match self.settings.reference {
            Reference::Off => return Ok(None),
            Reference::Original => (self.at.picture, self.source),
            Reference::Previous => (self.at.input, self.at.stage.from),
        };
        if strength == 0.0 {
            return Ok(None);
        }
        let crops = [0, 1].map(|i| sides[i].crop(to[i], 1));
        let mut sources = vec![laid::crop("reference", canvas, &crops, SIGNED)];
        let mut taps = [[0; 2]; 2];
        for (i, (axis, name)) in AXES.into_iter().enumerate() {
            // strength s_h s_w in all, one factor to each axis.
            let grown = f64::from(self.at.stage.to[i]) / f64::from(to[i]);
            let factor = grown * if i == 0 { strength } else { 1.0 };
            let [(forth, reduce), (back, adjoint)] = sides[i].reduction(to[i], &crops[i], factor)?;
            (taps[0][i], taps[1][i]) = (forth, back);
            sources.push(self.at.along(&format!("reduce.{name}"), axis, reduce));
            sources.push(self.at.along(&format!("adjoint.{name}"), axis, adjoint));
        }
        Ok(Some(([crops[0].length, crops[1].length], taps, sources)))
    }

    /// Into the stage's result.
    fn blend(&self, last_step_only: bool) -> Sink {
        let (canvas, ramp) = (self.at.output, Ramp::Linear);
        Sink::Blend { canvas, ratio: Ratio::ONE, ramp, halo: 0, gains: vec![1.0], last_step_only }
    }

    fn noise(&self, purpose: u16, gain: f32) -> Source {
        Source::Noise { stage: self.at.number as u16, purpose, gain }
    }

    fn phase(
        &self,
        name: &str,
        graph: GraphId,
        sources: Vec<(String, Source)>,
        sinks: Vec<(String, Sink)>,
    ) -> WindowPhase {
        let name = format!("{name} {}", self.at.number + 1);
        WindowPhase { name, graph, grid: self.at.grid, branches: 1, contexts: Contexts::Branch, sources, sinks }
    }
}

fn axis_of(grid: &Grid, i: usize) -> usize {
    if i == 0 { grid.rows.count() } else { grid.cols.count() }
}
