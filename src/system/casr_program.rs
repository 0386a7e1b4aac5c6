//! The program of a CASR job. A stage is two blocks: what is known of its whole input (superpixels, depth, SAM's tokens),
//! then its tiles. Stages meet in whole canvases of f32, so nothing is rounded between them.

use super::cascade::Stage;
use super::casr::Casr;
use super::casr_latent::Latents;
use super::casr_settings::{Settings, pooled};
use super::casr_stage::{Looks, Tiles, on_picture};
use super::footprint::{Crop, Side};
use super::job::{Base, Cascade, Job, System};
use super::laid::{self, AXES, Laid, STAGE, crop};
use super::latent::{Autoencoder, LatentPlan, LatentProgram};
use super::onestep::Shaping;
use super::phase::{Block, CanvasOp, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{Canvas, CanvasId, Extent, GraphId, GridId, Program, Ratio, Residency, SavedId};
use super::superpixels::Superpixels;
use crate::error::Result;
use crate::extent;
use crate::graph::Shape;
use crate::graph::taps::Filter;
use crate::model::{pictures, spixel_fcn};
use crate::tile::geometry::{Axis, Placement, Tiling};
use crate::tile::{Grid, Ramp};

/// Pixels on either side that an enlargement reads.
const REACH: u32 = 3;
/// Side of the windows over which superpixels are labelled, pixels of the network's input, and their overlap.
const LABELLED: [u32; 2] = [512, 64];
/// Least side of a window, pixels; smaller pictures are mirrored up to it.
const SMALLEST: u32 = 32;
/// Times its shorter side that the depth network sees of a picture's longer one at most.
const LONGEST_DEPTH: u32 = 8;
/// Enlargements: as the picture itself is enlarged, and as a map of depth.
const BICUBIC: Filter = Filter::Bicubic { a: -0.5, antialias: false };

/// The program of a job, tile by tile.
pub(super) fn program(model: &Casr, job: &Job, shaping: &Shaping) -> Result<Program> {
    laid(model, job, shaping, None)
}

/// The program of a job whose autoencoder works on canvases of a whole stage.
pub(super) fn latent_program(model: &Casr, job: &Job, shaping: &Shaping, plan: &LatentPlan) -> Result<LatentProgram> {
    let checkpoint = model.checkpoint("vae")?;
    let mut vae = Autoencoder::new(plan, &checkpoint);
    let program = laid(model, job, shaping, Some(&mut vae))?;
    Ok(vae.finish(program))
}

fn laid(model: &Casr, job: &Job, shaping: &Shaping, mut vae: Option<&mut Autoencoder<'_>>) -> Result<Program> {
    let settings = model.settings(job)?;
    let over_latents = vae.is_some();
    let grid = |stage: &Stage| {
        let (stride, placement) = (model.unit(), if shaping.fitted { Placement::Fitted } else { Placement::Even });
        let axis = |v: u32| {
            // A latent that lies partly outside is a latent.
            let side = if over_latents { v.next_multiple_of(model.vae.factor()) } else { v };
            // Norms over a few latents make noise of a flat picture.
            let quantum = if side < SMALLEST { SMALLEST.next_multiple_of(stride) } else { stride };
            Axis::new(side, &Tiling { tile: shaping.tile, overlap: shaping.overlap, stride, quantum, placement })
        };
        Ok(Grid { rows: axis(stage.to[0])?, cols: axis(stage.to[1])? })
    };
    let s = &settings;
    let lay = |at: Laid<'_>| Laying { model, s, job, shaping, at }.lay(vae.as_deref_mut());
    laid::program("casr", job, model.cascade(&job.sampler).unwrap_or(Cascade::LargestFirst), grid, lay)
}

/// A stage being laid.
pub(super) struct Laying<'a> {
    pub(super) model: &'a Casr,
    pub(super) s: &'a Settings,
    pub(super) job: &'a Job,
    pub(super) shaping: &'a Shaping,
    pub(super) at: Laid<'a>,
}

/// What a stage's tiles know of the whole input.
#[derive(Default)]
pub(super) struct Known {
    pub(super) superpixels: Option<Superpixels>,
    depth: Option<CanvasId>,
    semantic: Option<SavedId>,
}

impl Laying<'_> {
    fn lay(&mut self, vae: Option<&mut Autoencoder<'_>>) -> Result<()> {
        let mut phases = Vec::new();
        let known = Known {
            superpixels: self.superpixels(&mut phases)?,
            depth: self.depth(&mut phases)?,
            semantic: self.semantic(&mut phases)?,
        };
        if !phases.is_empty() {
            self.at.program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
        }
        if let Some(vae) = vae {
            return self.over_latents(&known, vae);
        }
        let phases = self.tiles(&known, None)?;
        self.at.program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
        Ok(())
    }

    /// Probabilities and colours of the input's superpixels.
    fn superpixels(&mut self, phases: &mut Vec<Phase>) -> Result<Option<Superpixels>> {
        let Some(net) = self.model.superpixels(self.s) else { return Ok(None) };
        let (low, cell, trained) = (self.at.stage.from, self.s.cell, self.s.trained_cell);
        let mut seen = self.at.input;
        let mut size = low;
        if trained != cell {
            // A network of larger cells sees the input enlarged, so that its cells are ours.
            let larger = |side: u32| (f64::from(side) * f64::from(trained) / f64::from(cell)).round().max(1.0) as u64;
            size = [extent::to_u32("rows", larger(low[0]))?, extent::to_u32("columns", larger(low[1]))?];
            seen = self.canvas("seen by superpixel", size, 3);
            phases.push(Phase::Canvas(CanvasOp::Resize { from: self.at.input, to: seen }));
        }
        let stride = extent::common_multiple(net.factor(), trained);
        let whole = |v: u32| v.next_multiple_of(stride).max(stride);
        let [tile, overlap] = [whole(LABELLED[0]), LABELLED[1]];
        let overlap = if overlap < tile { overlap } else { 0 };
        let t = Tiling { tile, overlap, stride, quantum: stride, placement: Placement::Fitted };
        let grid = self.grid_of(size, &t)?;
        let window = [self.at.program.grids[grid.0].rows.size, self.at.program.grids[grid.0].cols.size];
        let graph = net.build(1, window[0], window[1], self.shaping.dtype)?;
        let graph = self.at.program.graph(on_picture("superpixel", &graph, &spixel_fcn::NORMALISATION, "logits")?);
        let probabilities = self.canvas("probabilities", size, 9);
        let blend = self.blend(probabilities, Ramp::Linear);
        phases.push(self.windows("superpixels", graph, grid, vec![whole_crop(seen)], vec![("logits".into(), blend)]));
        phases.push(Phase::Canvas(CanvasOp::Softmax { canvas: probabilities }));
        let colours = self.canvas("colours", low.map(|side| side.div_ceil(cell)), 3);
        let of = Superpixels { probabilities, picture: self.at.input, colours, cell, rule: self.s.rule };
        phases.push(Phase::Canvas(CanvasOp::RegionMeans(of)));
        Ok(Some(of))
    }

    /// The input's depth, 0 to 1, once for each channel of the ControlNet's picture.
    fn depth(&mut self, phases: &mut Vec<Phase>) -> Result<Option<CanvasId>> {
        let Some((net, _)) = self.model.depth(self.s) else { return Ok(None) };
        // The shorter side decides the network's size; of a strip it sees a squeezed picture, or a line of pixels would take hours.
        let shorter = self.at.stage.from[0].min(self.at.stage.from[1]);
        let [height, width] = self.at.stage.from.map(|side| side.min(shorter.saturating_mul(LONGEST_DEPTH)));
        let size = net.input_size(height, width)?;
        let seen = self.canvas("seen by depth", size, 3);
        phases.push(Phase::Canvas(CanvasOp::Resize { from: self.at.input, to: seen }));
        let map = net.build(1, size[0], size[1], self.shaping.dtype)?;
        let graph = self.at.program.graph(on_picture("depth", &map, &pictures::IMAGENET, "depth")?);
        let grid = self.one_window(size, net.patch())?;
        let (raw, depth) = (self.canvas("inverse depth", size, 1), self.canvas("depth", size, 3));
        let mut sources = vec![whole_crop(seen)];
        let checkpoint = self.model.checkpoint("depth")?;
        net.fits(&checkpoint)?;
        for (name, values) in net.inputs(&checkpoint, 1, size[0], size[1])? {
            sources.push((format!("depth.{name}"), Source::Constant(values)));
        }
        let blend = self.blend(raw, Ramp::Uniform);
        phases.push(self.windows("depth", graph, grid, sources, vec![("depth".into(), blend)]));
        phases.push(Phase::Canvas(CanvasOp::Span { from: raw, to: depth }));
        Ok(Some(depth))
    }

    /// SAM's tokens of the input, or of the job's picture.
    fn semantic(&mut self, phases: &mut Vec<Phase>) -> Result<Option<SavedId>> {
        let Some((_, Some(sam))) = self.model.refinement(self.s) else { return Ok(None) };
        let (from, sides) = match self.s.semantic {
            Base::StageInput => (self.at.input, self.at.stage.from),
            Base::Original => (self.at.picture, self.job.source),
        };
        let side = sam.image_size();
        let seen = self.canvas("seen by sam", [side; 2], 3);
        // The mean becomes zero when the picture is normalised.
        let fill = pictures::SAM.mean.to_vec();
        phases.push(Phase::Canvas(CanvasOp::Place { from, to: seen, size: sam.resized(sides[0], sides[1]), fill }));
        let graph =
            self.at.program.graph(on_picture("sam", &sam.build(1, self.shaping.dtype)?, &pictures::SAM, "tokens")?);
        let grid = self.one_window([side; 2], side)?;
        let mut sources = vec![whole_crop(seen)];
        let checkpoint = self.model.checkpoint("sam")?;
        sam.fits(&checkpoint)?;
        for (name, values) in sam.inputs(&checkpoint, 1)? {
            sources.push((format!("sam.{name}"), Source::Constant(values)));
        }
        let saved = self.at.saved("semantic tokens", grid, Shape::new(1, sam.grid(), sam.grid(), sam.out_channels()));
        let save = Sink::Save { saved, gains: vec![1.0] };
        phases.push(self.windows("semantics", graph, grid, sources, vec![("tokens".into(), save)]));
        Ok(Some(saved))
    }

    /// The phases over the stage's tiles, between canvases of latents where there are such.
    pub(super) fn tiles(&mut self, known: &Known, latents: Option<&Latents>) -> Result<Vec<Phase>> {
        let mut grid = self.at.program.grids[self.at.grid.0].clone();
        // What is enlarged ends where the stage's picture ends, not with its last latent.
        (grid.rows.extent, grid.cols.extent) = self.at.stage.to.into();
        let (m, s) = (self.model, self.s);
        let sides = [Side { windows: &grid.rows }, Side { windows: &grid.cols }];
        let crops = |from: [u32; 2]| [0, 1].map(|i| sides[i].crop(from[i], REACH));
        let (input, prompt) = (crops(self.at.stage.from), m.prompt()?);
        let lengths = |c: &[Crop; 2]| [c[0].length, c[1].length];
        let depth = known.depth.map(|id| (id, self.at.program.extent(id))).map(|(id, from)| (id, from, crops(from)));
        let t = Tiles {
            batch: self.shaping.batch,
            window: [grid.rows.size, grid.cols.size],
            input: lengths(&input),
            depth: depth.as_ref().map(|d| lengths(&d.2)),
            superpixels: known.superpixels.is_some(),
            latent: latents.is_some(),
            tokens: prompt.as_ref().map_or(1, |p| p.0),
            dtype: self.shaping.dtype,
        };
        let mut enlarged = vec![crop("input", self.at.input, &input, [2.0, -1.0])];
        for (i, (axis, leaf)) in AXES.into_iter().enumerate() {
            let table = sides[i].taps(BICUBIC, self.at.stage.from[i], &input[i])?;
            enlarged.push(self.at.along(&format!("input.{leaf}"), axis, table));
        }
        let mut sources = enlarged.clone();
        let ratio = Ratio { num: 1, den: m.vae.factor() };
        for (latent, canvas) in latents.map_or(&[][..], |l| &l.moments) {
            let crop = Source::Crop { canvas: *canvas, ratio, gain: 1.0, shift: 0.0 };
            sources.push((latent.moments().to_owned(), crop));
        }
        if let Some(of) = known.superpixels {
            sources.push(("superpixels".into(), Source::Superpixels { of, gain: 2.0, shift: -1.0 }));
        }
        if let Some((id, from, crops)) = &depth {
            sources.push(crop("depth", *id, crops, [1.0, 0.0]));
            for (i, (axis, leaf)) in AXES.into_iter().enumerate() {
                let table = sides[i].taps(Filter::Bilinear, from[i], &crops[i])?;
                sources.push(self.at.along(&format!("depth.{leaf}"), axis, table));
            }
        }
        let timestep = self.at.table("timestep", 1, vec![s.timestep as f32]);
        for part in ["unet", "controlnet"] {
            sources.push((format!("{part}.timestep"), Source::Table(timestep)));
            if let Some((_, values)) = &prompt {
                sources.push((format!("{part}.encoder_hidden_states"), Source::Constant(values.clone())));
            }
        }
        let f = m.vae.factor();
        let map = t.window.map(|side| side / f);
        if !s.planes.is_empty() {
            let (scale, cascaded) = (self.at.stage.scale(), self.at.number > 0);
            let of = super::onestep::Conditioning { scale, cascaded, ..self.job.conditioning };
            let values: Vec<f32> = s.planes.iter().map(|p| of.of(*p)).collect();
            sources.push(("factors".into(), Source::Constant(m.factors(&values, t.batch))));
            sources.push(("planes".into(), Source::Constant(values.repeat((t.batch * map[0] * map[1]) as usize))));
        }
        let result = match latents {
            None => ("result".to_owned(), self.blend(self.at.output, Ramp::Linear)),
            Some(l) => ("clean".to_owned(), blend(l.clean, ratio, Ramp::Linear)),
        };
        let Some((sarm, sam)) = m.refinement(s) else {
            let graph = self.at.program.graph(m.tile(s, &t)?);
            return Ok(vec![self.windows("upscale", graph, self.at.grid, sources, vec![result])]);
        };

        let count = grid.count() as u64;
        let own = map.map(|side| side / sarm.reduce());
        let tokens = |side: [u32; 2]| u64::from(side[0]) * u64::from(side[1]) * count;
        let side = pooled(own, count, s.token_budget, s.pooled_side);
        let kept = side.map_or(own, |most| own.map(|side| side.min(most)));
        let looks = Looks {
            cache: extent::to_u32("tokens of all tiles", tokens(kept))?,
            pooled: side,
            semantic: sam.filter(|_| known.semantic.is_some()).map(|sam| sam.grid() * sam.grid()),
            scale: s.sarm_scale(self.at.of),
        };
        let shape = |side: [u32; 2], c: u32| Shape::new(1, side[0], side[1], c);
        let features = self.at.saved("features", self.at.grid, shape(map, m.unet.feature_channels()));
        let latent = self.at.saved("latent", self.at.grid, shape(map, m.vae.latent_channels()));
        let keys = self.at.saved("keys", self.at.grid, shape(kept, sarm.channels()));
        let save = |saved: SavedId| Sink::Save { saved, gains: vec![1.0] };
        let sinks =
            vec![("features".into(), save(features)), ("latent".into(), save(latent)), ("keys".into(), save(keys))];
        let graph = self.at.program.graph(m.features(s, &t, &looks)?);
        let first = self.windows("features", graph, self.at.grid, sources, sinks);
        let again = |saved: SavedId| Source::Saved { saved, affine: None, initial: None };
        let mut sources = vec![
            ("features".into(), again(features)),
            ("latent".into(), again(latent)),
            ("sarm.cache".into(), Source::Gather(keys)),
        ];
        sources.extend(known.semantic.map(|id| ("sarm.encoder_hidden_states".into(), Source::Gather(id))));
        sources.extend(enlarged);
        let graph = self.at.program.graph(m.refined(s, &t, &looks)?);
        Ok(vec![first, self.windows("refine", graph, self.at.grid, sources, vec![result])])
    }

    fn windows(
        &self,
        name: &str,
        graph: GraphId,
        grid: GridId,
        sources: Vec<(String, Source)>,
        sinks: Vec<(String, Sink)>,
    ) -> Phase {
        let declared = &self.at.program.graphs[graph.0];
        // A graph says by itself which of the inputs it has.
        let has = |name: &str| declared.values.iter().any(|v| v.name == name);
        let sources = sources.into_iter().filter(|(name, _)| has(name)).collect();
        let name = format!("{STAGE}{} {name}", self.at.number + 1);
        Phase::Windows(WindowPhase { name, graph, grid, branches: 1, contexts: Contexts::Branch, sources, sinks })
    }

    fn blend(&self, canvas: CanvasId, ramp: Ramp) -> Sink {
        blend(canvas, Ratio::ONE, ramp)
    }

    pub(super) fn canvas(&mut self, what: &str, extent: [u32; 2], channels: u32) -> CanvasId {
        // The names of stages' results begin with the word.
        let name = format!("{what} of {STAGE}{}", self.at.number + 1);
        let (extent, residency) = (Extent::Fixed(extent), Residency::Whole);
        self.at.program.canvases.push(Canvas { name, extent, channels, residency });
        let id = CanvasId(self.at.program.canvases.len() - 1);
        self.at.program.transient.push(id);
        id
    }

    fn grid_of(&mut self, size: [u32; 2], t: &Tiling) -> Result<GridId> {
        self.at.program.grids.push(Grid::new(size[0], size[1], t)?);
        Ok(GridId(self.at.program.grids.len() - 1))
    }

    /// One window over all of `size`, whose sides are multiples of `unit`.
    fn one_window(&mut self, size: [u32; 2], unit: u32) -> Result<GridId> {
        let tile = size[0].max(size[1]);
        self.grid_of(size, &Tiling { tile, overlap: 0, stride: unit, quantum: unit, placement: Placement::Fitted })
    }
}

fn blend(canvas: CanvasId, ratio: Ratio, ramp: Ramp) -> Sink {
    Sink::Blend { canvas, ratio, ramp, halo: 0, gains: vec![1.0], last_step_only: false }
}

/// A window of a canvas of its own grid.
fn whole_crop(canvas: CanvasId) -> (String, Source) {
    ("picture".into(), Source::Crop { canvas, ratio: Ratio::ONE, gain: 1.0, shift: 0.0 })
}
