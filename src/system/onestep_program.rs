//! The graphs and programs of the one-step system over pixel tiles: all networks joined in one graph, or one graph
//! for each network, run one after the other over all windows with the latents kept in between.

use super::link::Linker;
use super::onestep::{Conditioning, INPUT, INPUT_AGAIN, OUTPUT, OneStep, Shaping};
use super::phase::{Block, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{
    Canvas, CanvasId, Extent, GraphId, GridId, Program, Ratio, Residency, Saved, SavedId, Table, TableId,
};
use crate::error::{Error, Kind, Result};
use crate::graph::op::{Graph, Op, Pointwise, Value, ValueId};
use crate::graph::{Act, DType, Lifetime, Shape};
use crate::model::Extents;
use crate::tile::{Grid, Ramp};

/// Extents of one launch: windows, and sides of a window in output pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Launch {
    /// Windows.
    pub batch: u32,
    /// Rows.
    pub height: u32,
    /// Columns.
    pub width: u32,
    /// Rows of the context, 1 for a UNet that looks at none.
    pub tokens: u32,
    /// Storage type.
    pub dtype: DType,
}

/// Sources of a graph's inputs, by name.
type Sources = Vec<(String, Source)>;

impl OneStep {
    /// The whole network of one launch as one graph: `window` (f32, -1 to 1) to `result`, with the inputs
    /// `planes`, `unet.timestep` and, where the UNet looks at one, `unet.encoder_hidden_states`.
    pub fn graph(&self, batch: u32, height: u32, width: u32, tokens: u32, dtype: DType) -> Result<Graph> {
        let launch = Launch { batch, height, width, tokens, dtype };
        let mut l = self.linker("onestep", &launch)?;
        let x = window_input(&mut l, &launch);
        let z = self.encoded(&mut l, &launch, x)?;
        let clean = self.denoised(&mut l, &launch, z)?;
        let result = self.decoded(&mut l, &launch, clean, Some(x))?;
        l.output("result", result);
        Ok(l.finish())
    }

    /// One graph for each network: `window` to `latent` (f32); `latent` to `clean`, with the inputs of
    /// [`OneStep::graph`] beside; `clean` to `result`, with `window` where the picture is added.
    pub fn graphs(&self, launch: &Launch, batches: [u32; 3]) -> Result<[Graph; 3]> {
        let [encode, denoise, decode] = batches.map(|batch| Launch { batch, ..*launch });
        let launch = &encode;
        let mut l = self.linker("encode", launch)?;
        let x = window_input(&mut l, launch);
        let z = self.encoded(&mut l, launch, x)?;
        l.output("latent", z);
        let encoder = l.finish();
        let launch = &denoise;

        let mut l = self.linker("denoise", launch)?;
        let z = l.input(self.latent("latent", launch, DType::F32));
        let clean = self.denoised(&mut l, launch, z)?;
        l.output("clean", clean);
        let denoiser = l.finish();
        let launch = &decode;

        let mut l = self.linker("decode", launch)?;
        let clean = l.input(self.latent("clean", launch, launch.dtype));
        let x = self.residual.then(|| window_input(&mut l, launch));
        let result = self.decoded(&mut l, launch, clean, x)?;
        l.output("result", result);
        Ok([encoder, denoiser, l.finish()])
    }

    fn linker(&self, name: &str, launch: &Launch) -> Result<Linker> {
        let factor = self.vae.factor();
        let Launch { batch, height, width, dtype, .. } = launch;
        if !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
            // what is over would be missing in the result
            let why = format!("onestep: a window of {height}x{width} is not a multiple of {factor} on both sides");
            return Err(Error::new(Kind::Usage, "system", why).advise("choose another window"));
        }
        Ok(Linker::new(format!("{name} {height}x{width} b{batch} {}", dtype.name())))
    }

    /// A latent as an input of its own.
    fn latent(&self, name: &str, launch: &Launch, dtype: DType) -> Value {
        let f = self.vae.factor();
        let shape = Shape::new(launch.batch, launch.height / f, launch.width / f, self.vae.latent_channels());
        Value { name: name.into(), shape, dtype, lifetime: Lifetime::Window }
    }

    /// The scaled latent, f32, of the window `x`.
    fn encoded(&self, l: &mut Linker, launch: &Launch, x: ValueId) -> Result<ValueId> {
        let sample = narrow(l, launch, "window.stored", x)?;
        let encoder = self.vae.build_encoder(launch.batch, launch.height, launch.width, launch.dtype)?;
        let moments = l.part("vae", &encoder, &[("sample", sample)])?[0];
        let channels = self.vae.latent_channels();
        let mean = l.push("latent.mean", Op::Slice { begin: 0, channels }, &[moments], DType::F32)?;
        let (scaling, shift) = (self.vae.scaling_factor, self.vae.shift_factor);
        if (scaling, shift) == (1.0, 0.0) {
            return Ok(mean);
        }
        affine(l, "latent", mean, scaling, -shift * scaling, DType::F32)
    }

    /// What the decoder takes, from the scaled latent `z`.
    fn denoised(&self, l: &mut Linker, launch: &Launch, z: ValueId) -> Result<ValueId> {
        let dtype = launch.dtype;
        let mut sample = narrow(l, launch, "latent.stored", z)?;
        let latent = l.value(z).shape;
        if !self.planes.is_empty() {
            let shape = latent.with_c(self.planes.len() as u32);
            let planes = l.input(Value { name: "planes".into(), shape, dtype, lifetime: Lifetime::Job });
            sample = l.push("latent.with_planes", Op::Concat, &[sample, planes], dtype)?;
        }
        let (batch, tokens) = (launch.batch, launch.tokens);
        let extents = Extents { batch, height: latent.h, width: latent.w, steps: 1, contexts: 1, tokens };
        let unet = self.unet.build(&extents, dtype)?;
        let prediction = l.part("unet", &unet, &[("sample", sample)])?[0];
        let [a, b] = self.coefficients;
        let scaling = f64::from(self.vae.scaling_factor);
        let step = Pointwise {
            alpha: (a / scaling) as f32,
            beta: Some((b / scaling) as f32),
            gamma: self.vae.shift_factor,
            act: Act::None,
            clamp: None,
            table: false,
        };
        // The step itself is always computed in f32 from f32 operands; only its result is stored narrow.
        l.push("clean", Op::Pointwise(step), &[z, prediction], dtype)
    }

    /// The result, 0 to 1, from what the decoder takes; `x` is the window where the picture is added.
    fn decoded(&self, l: &mut Linker, launch: &Launch, clean: ValueId, x: Option<ValueId>) -> Result<ValueId> {
        let latent = l.value(clean).shape;
        let decoder = self.vae.build_decoder(launch.batch, latent.h, latent.w, launch.dtype)?;
        let picture = l.part("vae", &decoder, &[("latent_sample", clean)])?[0];
        match x.filter(|_| self.residual) {
            Some(x) => {
                let sum =
                    Pointwise { alpha: 0.5, beta: Some(0.5), gamma: 0.5, act: Act::None, clamp: None, table: false };
                l.push("result", Op::Pointwise(sum), &[picture, x], DType::F32)
            }
            None => affine(l, "result", picture, 0.5, 0.5, DType::F32),
        }
    }

    /// The program for a target of `[rows, columns]` in one graph.
    pub fn program(&self, target: [u32; 2], conditioning: &Conditioning, shaping: &Shaping) -> Result<Program> {
        let (mut program, launch, sources) = self.frame("onestep", target, conditioning, shaping)?;
        program.graphs.push(self.graph(launch.batch, launch.height, launch.width, launch.tokens, launch.dtype)?);
        let sources = std::iter::once(crop(CanvasId(0))).chain(sources).collect();
        let phases = vec![windows("upscale", 0, sources, ("result", blend(CanvasId(1), shaping)))];
        program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
        program.check()?;
        Ok(program)
    }

    /// The same with one graph for each network, each over all windows before the next: no two networks are needed
    /// at a time. The latents of all windows are kept in between, and a model that adds the picture reads it a
    /// second time ([`INPUT_AGAIN`]). `batches` are the windows per launch of encoder, denoiser and decoder.
    pub fn split_program(
        &self,
        target: [u32; 2],
        conditioning: &Conditioning,
        shaping: &Shaping,
        batches: [u32; 3],
    ) -> Result<Program> {
        let shaping = Shaping { batch: batches[1], ..*shaping };
        let (mut program, launch, sources) = self.frame("onestep by network", target, conditioning, &shaping)?;
        program.graphs.extend(self.graphs(&launch, batches)?);
        let shape = Shape { n: 1, ..self.latent("latent", &launch, DType::F32).shape };
        program.saved.push(Saved { name: "latent".into(), grid: GridId(0), shape });
        let saved = || Source::Saved { saved: SavedId(0), affine: None, initial: None };
        let save = || Sink::Save { saved: SavedId(0), gains: vec![1.0] };
        let denoise = std::iter::once(("latent".to_owned(), saved())).chain(sources).collect();
        let mut decode = vec![("clean".to_owned(), saved())];
        if self.residual {
            program.canvases.push(band(INPUT_AGAIN));
            decode.push(crop(CanvasId(2)));
        }
        let phases = vec![
            windows("encode", 0, vec![crop(CanvasId(0))], ("latent", save())),
            windows("denoise", 1, denoise, ("clean", save())),
            windows("decode", 2, decode, ("result", blend(CanvasId(1), &shaping))),
        ];
        program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
        program.check()?;
        Ok(program)
    }

    /// What both programs have: canvases, windows, the table of the time step, and the sources of the denoiser's
    /// inputs beside the latent.
    fn frame(
        &self,
        name: &str,
        target: [u32; 2],
        conditioning: &Conditioning,
        shaping: &Shaping,
    ) -> Result<(Program, Launch, Sources)> {
        let mut program = Program::new(name, target, 0);
        let grid = Grid::new(target[0], target[1], &self.tiling(shaping))?;
        let [height, width] = [grid.rows.size, grid.cols.size];
        program.grids.push(grid);
        program.canvases.extend([band(INPUT), band(OUTPUT)]);
        program.tables.push(Table { name: "timestep".into(), width: 1, values: vec![self.timestep as f32] });
        let prompt = self.prompt()?;
        let tokens = prompt.as_ref().map_or(1, |p| p.0);
        let launch = Launch { batch: shaping.batch, height, width, tokens, dtype: shaping.dtype };
        let mut sources = vec![("unet.timestep".to_owned(), Source::Table(TableId(0)))];
        if !self.planes.is_empty() {
            let values: Vec<f32> = self.planes.iter().map(|p| conditioning.of(*p)).collect();
            let f = self.vae.factor();
            let pixels = launch.batch as usize * (height / f) as usize * (width / f) as usize;
            sources.push(("planes".to_owned(), Source::Constant(values.repeat(pixels))));
        }
        if let Some((_, values)) = prompt {
            sources.push(("unet.encoder_hidden_states".to_owned(), Source::Constant(values)));
        }
        Ok((program, launch, sources))
    }
}

fn window_input(l: &mut Linker, launch: &Launch) -> ValueId {
    let shape = Shape::new(launch.batch, launch.height, launch.width, 3);
    l.input(Value { name: "window".into(), shape, dtype: DType::F32, lifetime: Lifetime::Window })
}

fn narrow(l: &mut Linker, launch: &Launch, name: &str, v: ValueId) -> Result<ValueId> {
    if launch.dtype == DType::F32 { Ok(v) } else { affine(l, name, v, 1.0, 0.0, launch.dtype) }
}

/// `gain * v + shift`, stored as `dtype`.
fn affine(l: &mut Linker, name: &str, v: ValueId, gain: f32, shift: f32, dtype: DType) -> Result<ValueId> {
    let op = Pointwise { alpha: gain, beta: None, gamma: shift, act: Act::None, clamp: None, table: false };
    l.push(name, Op::Pointwise(op), &[v], dtype)
}

/// A canvas of the result's size that passes by in rows.
fn band(name: &str) -> Canvas {
    let extent = Extent::OfTarget { num: 1, den: 1 };
    Canvas { name: name.into(), extent, channels: 3, residency: Residency::Band }
}

/// The window of a picture as the networks take it, -1 to 1.
fn crop(canvas: CanvasId) -> (String, Source) {
    ("window".to_owned(), Source::Crop { canvas, ratio: Ratio::ONE, gain: 2.0, shift: -1.0 })
}

fn blend(canvas: CanvasId, shaping: &Shaping) -> Sink {
    Sink::Blend {
        canvas,
        ratio: Ratio::ONE,
        ramp: Ramp::Cosine,
        halo: shaping.overlap / 8,
        gains: vec![1.0],
        last_step_only: false,
    }
}

fn windows(name: &str, graph: usize, sources: Vec<(String, Source)>, sink: (&str, Sink)) -> Phase {
    Phase::Windows(WindowPhase {
        name: name.into(),
        graph: GraphId(graph),
        grid: GridId(0),
        branches: 1,
        contexts: Contexts::Branch,
        sources,
        sinks: vec![(sink.0.to_owned(), sink.1)],
    })
}
