//! The one-step system: the enlarged picture is encoded, denoised once without adding noise, decoded, and
//! (where the model says so) added to the enlarged picture.
//!
//! ```text
//! x  = 2 * bicubic - 1
//! z  = (mean(encode(x)) - shift) * scaling
//! x0 = a * z + b * unet([z, planes], t)        a, b from the scheduler at t
//! y  = decode(x0 / scaling + shift)
//! out = (x + y) / 2 + 0.5                      without a residual: y / 2 + 0.5
//! ```

use super::link::Linker;
pub use super::onestep_index::Plane;
use super::onestep_index::{Index, wrong};
use super::phase::{Block, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{Canvas, CanvasId, Extent, GraphId, GridId, Program, Ratio, Residency, Table, TableId};
use super::schedule::Schedule;
use crate::error::{Error, Kind, Result};
use crate::fs;
use crate::graph::op::{Graph, Op, Pointwise, Value};
use crate::graph::{Act, DType, Lifetime, Shape};
use crate::limits;
use crate::model::Extents;
use crate::model::unet::UNet2DConditionModel;
use crate::model::vae::AutoencoderKL;
use crate::tile::geometry::{Placement, QUANTUM, Tiling};
use crate::tile::{Grid, Ramp};
use crate::weights::{Checkpoint, json};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// Class named by `model_index.json`.
pub const CLASS: &str = "OneStepSuperResolution";
/// Name of the canvas that holds the enlarged picture, values 0 to 1.
pub const INPUT: &str = "enlarged";
/// Name of the canvas that holds the result, values 0 to 1 (not clamped).
pub const OUTPUT: &str = "result";

/// A model folder of this system, configs only.
#[derive(Debug, Clone)]
pub struct OneStep {
    /// The folder.
    pub folder: PathBuf,
    /// The autoencoder.
    pub vae: AutoencoderKL,
    /// The denoiser.
    pub unet: UNet2DConditionModel,
    /// `x0 = coefficients[0] * z + coefficients[1] * prediction`.
    pub coefficients: [f64; 2],
    /// The one time step.
    pub timestep: u32,
    /// Constant planes, in order.
    pub planes: Vec<Plane>,
    /// The decoder's picture is added to the enlarged one.
    pub residual: bool,
}

/// What a job asks of the network besides the picture.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Conditioning {
    /// Noise in the input, the model's unit.
    pub noise: f32,
    /// Compression artefacts in the input, the model's unit.
    pub jpeg: f32,
    /// Output side over input side.
    pub scale: f64,
}

/// The choices that shape a program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shaping {
    /// Window side, output pixels: the largest one where windows are `fitted`.
    pub tile: u32,
    /// Windows shrink to what the picture needs.
    pub fitted: bool,
    /// Overlap of neighbours, output pixels.
    pub overlap: u32,
    /// Windows per launch.
    pub batch: u32,
    /// Storage type.
    pub dtype: DType,
}

/// Reads a JSON file of a model folder.
pub fn read_json(path: &Path) -> Result<String> {
    let bytes = fs::File::open(path).and_then(|mut f| f.read_all(limits::MAX_CONFIG_BYTES)).map_err(|e| {
        let e = wrong(e.message().to_owned());
        e.advise("a model folder holds model_index.json and one folder per network with its config.json")
    })?;
    String::from_utf8(bytes).map_err(|_| wrong(format!("{} is not UTF-8 text", path.display())))
}

/// The `_class_name` of a model folder's `model_index.json`.
pub fn class_of(folder: &Path) -> Result<String> {
    let path = folder.join("model_index.json");
    let map = json::object(&path.display().to_string(), read_json(&path)?.as_bytes())?;
    match map.get("_class_name").and_then(Json::as_str) {
        Some(name) => Ok(name.to_owned()),
        None => Err(wrong(format!("{} has no `_class_name`", path.display()))),
    }
}

impl OneStep {
    /// Reads the configs of a model folder. Every field that changes the arithmetic is honoured or refused.
    pub fn open(folder: &Path) -> Result<OneStep> {
        let index_path = folder.join("model_index.json");
        let name = index_path.display().to_string();
        let index = json::object(&name, read_json(&index_path)?.as_bytes())?;
        let index = Index { name: &name, map: &index };
        index.only("_class_name", CLASS)?;
        index.only_if_present("latent", &Json::from("mean * scaling_factor"))?;
        index.only_if_present("num_inference_steps", &Json::from(1))?;
        index.only_if_present("add_noise", &Json::from(false))?;
        index.only_if_present("sample_posterior", &Json::from(false))?;
        let config = |part: &str| read_json(&folder.join(part).join("config.json"));
        let at = |part: &'static str| move |e: Error| e.at(format!("{part}/config.json"));
        let vae = AutoencoderKL::from_config(&config("vae")?).map_err(at("vae"))?;
        let unet = UNet2DConditionModel::from_config(&config("unet")?).map_err(at("unet"))?;
        let schedule = Schedule::from_config(&read_json(&folder.join("scheduler").join("scheduler_config.json"))?)?;
        let timestep = index.integer("timestep")?;
        let prediction = index.text("prediction_type")?;
        let own = match schedule.prediction {
            super::schedule::Prediction::Epsilon => "epsilon",
            super::schedule::Prediction::V => "v_prediction",
            super::schedule::Prediction::Sample => "sample",
        };
        if prediction.is_some_and(|p| p != own) {
            return Err(wrong(format!("{name}: prediction_type differs from the scheduler's, {own}")));
        }
        let model = OneStep {
            folder: folder.to_owned(),
            coefficients: schedule.clean(timestep)?,
            timestep,
            planes: index.planes()?,
            residual: index.residual()?,
            vae,
            unet,
        };
        model.check()?;
        Ok(model)
    }

    fn check(&self) -> Result<()> {
        let (z, planes) = (self.vae.latent_channels(), self.planes.len() as u32);
        if [self.vae.in_channels(), self.vae.out_channels()] != [3, 3] {
            return Err(wrong("the autoencoder does not take and give 3 channels"));
        }
        if self.unet.in_channels() != z + planes || self.unet.out_channels() != z {
            return Err(wrong(format!(
                "the UNet takes {} and gives {} channels; {z} latent channels and {planes} planes need {} and {z}",
                self.unet.in_channels(),
                self.unet.out_channels(),
                z + planes
            )));
        }
        Ok(())
    }

    /// Output pixels per pixel of the coarsest level: windows start at its multiples.
    pub fn stride(&self) -> u32 {
        self.vae.factor() * self.unet.stride()
    }

    /// How windows of a target are laid out.
    pub fn tiling(&self, shaping: &Shaping) -> Tiling {
        let (tile, overlap) = (shaping.tile, shaping.overlap);
        let placement = if shaping.fitted { Placement::Fitted } else { Placement::Even };
        Tiling { tile, overlap, stride: self.stride(), quantum: QUANTUM, placement }
    }

    /// The whole network of one launch as one graph: `window` (f32, -1 to 1) to `result`, with the inputs
    /// `planes`, `unet.timestep` and, where the UNet looks at one, `unet.encoder_hidden_states`.
    pub fn graph(&self, batch: u32, height: u32, width: u32, tokens: u32, dtype: DType) -> Result<Graph> {
        let factor = self.vae.factor();
        if !height.is_multiple_of(factor) || !width.is_multiple_of(factor) {
            // what is over would be missing in the result
            let why = format!("onestep: a window of {height}x{width} is not a multiple of {factor} on both sides");
            return Err(Error::new(Kind::Usage, "system", why).advise("choose another window"));
        }
        let mut l = Linker::new(format!("onestep {height}x{width} b{batch} {}", dtype.name()));
        let window =
            |name: &str, shape| Value { name: name.into(), shape, dtype: DType::F32, lifetime: Lifetime::Window };
        let x = l.input(window("window", Shape::new(batch, height, width, 3)));
        let narrow = |l: &mut Linker, name: &str, v| {
            if dtype == DType::F32 { Ok(v) } else { affine(l, name, v, 1.0, 0.0, dtype) }
        };
        let sample = narrow(&mut l, "window.stored", x)?;
        let encoder = self.vae.build_encoder(batch, height, width, dtype)?;
        let moments = l.part("vae", &encoder, &[("sample", sample)])?[0];
        let channels = self.vae.latent_channels();
        let mean = l.push("latent.mean", Op::Slice { begin: 0, channels }, &[moments], DType::F32)?;
        let (scaling, shift) = (self.vae.scaling_factor, self.vae.shift_factor);
        let z = if (scaling, shift) == (1.0, 0.0) {
            mean
        } else {
            affine(&mut l, "latent", mean, scaling, -shift * scaling, DType::F32)?
        };
        let mut sample = narrow(&mut l, "latent.stored", z)?;
        let latent = l.value(z).shape;
        if !self.planes.is_empty() {
            let shape = latent.with_c(self.planes.len() as u32);
            let planes = l.input(Value { name: "planes".into(), shape, dtype, lifetime: Lifetime::Job });
            sample = l.push("latent.with_planes", Op::Concat, &[sample, planes], dtype)?;
        }
        let extents = Extents { batch, height: latent.h, width: latent.w, steps: 1, contexts: 1, tokens };
        let unet = self.unet.build(&extents, dtype)?;
        let prediction = l.part("unet", &unet, &[("sample", sample)])?[0];
        let [a, b] = self.coefficients;
        let scaling = f64::from(scaling);
        let step = Pointwise {
            alpha: (a / scaling) as f32,
            beta: Some((b / scaling) as f32),
            gamma: shift,
            act: Act::None,
            clamp: None,
            table: false,
        };
        // The step itself is always computed in f32 from f32 operands; only its result is stored narrow.
        let clean = l.push("clean", Op::Pointwise(step), &[z, prediction], dtype)?;
        let decoder = self.vae.build_decoder(batch, latent.h, latent.w, dtype)?;
        let picture = l.part("vae", &decoder, &[("latent_sample", clean)])?[0];
        let result = if self.residual {
            let sum = Pointwise { alpha: 0.5, beta: Some(0.5), gamma: 0.5, act: Act::None, clamp: None, table: false };
            l.push("result", Op::Pointwise(sum), &[picture, x], DType::F32)?
        } else {
            affine(&mut l, "result", picture, 0.5, 0.5, DType::F32)?
        };
        l.output("result", result);
        Ok(l.finish())
    }

    /// The program for a target of `[rows, columns]`.
    pub fn program(&self, target: [u32; 2], conditioning: &Conditioning, shaping: &Shaping) -> Result<Program> {
        let mut program = Program::new("onestep", target, 0);
        let grid = Grid::new(target[0], target[1], &self.tiling(shaping))?;
        let [h, w] = [grid.rows.size, grid.cols.size];
        let prompt = self.prompt()?;
        let tokens = prompt.as_ref().map_or(1, |p| p.0);
        program.graphs.push(self.graph(shaping.batch, h, w, tokens, shaping.dtype)?);
        program.grids.push(grid);
        let canvas = |name: &str| Canvas {
            name: name.into(),
            extent: Extent::OfTarget { num: 1, den: 1 },
            channels: 3,
            residency: Residency::Band,
        };
        program.canvases.extend([canvas(INPUT), canvas(OUTPUT)]);
        program.tables.push(Table { name: "timestep".into(), width: 1, values: vec![self.timestep as f32] });
        let mut sources = vec![
            ("window".to_owned(), Source::Crop { canvas: CanvasId(0), ratio: Ratio::ONE, gain: 2.0, shift: -1.0 }),
            ("unet.timestep".to_owned(), Source::Table(TableId(0))),
        ];
        if !self.planes.is_empty() {
            let values: Vec<f32> = self.planes.iter().map(|p| conditioning.of(*p)).collect();
            let f = self.vae.factor();
            let pixels = shaping.batch as usize * (h / f) as usize * (w / f) as usize;
            sources.push(("planes".to_owned(), Source::Constant(values.repeat(pixels))));
        }
        if let Some((_, values)) = prompt {
            sources.push(("unet.encoder_hidden_states".to_owned(), Source::Constant(values)));
        }
        let blend = Sink::Blend {
            canvas: CanvasId(1),
            ratio: Ratio::ONE,
            ramp: Ramp::Cosine,
            halo: shaping.overlap / 8,
            gains: vec![1.0],
            last_step_only: false,
        };
        let phase = WindowPhase {
            name: "upscale".into(),
            graph: GraphId(0),
            grid: GridId(0),
            branches: 1,
            contexts: Contexts::Branch,
            sources,
            sinks: vec![("result".to_owned(), blend)],
        };
        program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases: vec![Phase::Windows(phase)] });
        program.check()?;
        Ok(program)
    }

    /// Tokens and values of the constant context, for a UNet that looks at one: the tensor
    /// `encoder_hidden_states` of `prompt/embeddings.safetensors`.
    fn prompt(&self) -> Result<Option<(u32, Vec<f32>)>> {
        let Some(channels) = self.unet.context_channels() else { return Ok(None) };
        let path = self.folder.join("prompt").join("embeddings.safetensors");
        let values = Checkpoint::open(&path)?.read_f32("encoder_hidden_states")?;
        let tokens = values.len() / channels as usize;
        if tokens == 0 || tokens * channels as usize != values.len() {
            return Err(wrong(format!("{}: {} values are no tokens of {channels}", path.display(), values.len())));
        }
        Ok(Some((crate::extent::to_u32("tokens", tokens as u64)?, values)))
    }

    /// The checkpoints behind the graph's tensor names: those that begin with `vae.` and with `unet.`.
    pub fn checkpoints(&self) -> Result<Checkpoints> {
        Ok(Checkpoints {
            vae: Checkpoint::open(&self.folder.join("vae"))?,
            unet: Checkpoint::open(&self.folder.join("unet"))?,
        })
    }
}

/// The weights of a model folder.
#[derive(Debug)]
pub struct Checkpoints {
    vae: Checkpoint,
    unet: Checkpoint,
}

impl Checkpoints {
    /// Checks that every tensor of `graph` is there in the right shape; returns the names nobody wants.
    pub fn check(&self, graph: &Graph) -> Result<Vec<String>> {
        let mut extra = Vec::new();
        for (prefix, checkpoint) in [("vae.", &self.vae), ("unet.", &self.unet)] {
            let wanted = graph.weights.iter().filter_map(|w| Some((w.name.strip_prefix(prefix)?, w.shape.as_slice())));
            extra.extend(checkpoint.check(wanted)?.into_iter().map(|name| format!("{prefix}{name}")));
        }
        Ok(extra)
    }

    /// Carries out one packing recipe.
    pub fn packed(
        &self,
        recipe: &[Option<String>],
        packing: &crate::graph::layout::Packing,
        dtype: DType,
    ) -> Result<Vec<u8>> {
        let prefix = recipe.iter().flatten().next().and_then(|n| n.split_once('.')).map_or("", |p| p.0);
        let checkpoint = match prefix {
            "vae" => &self.vae,
            "unet" => &self.unet,
            other => return Err(Error::new(Kind::Internal, "system", format!("no checkpoint holds `{other}`"))),
        };
        let names: Vec<Option<String>> = recipe
            .iter()
            .map(|n| n.as_ref().map(|n| n.split_once('.').map_or(n.as_str(), |p| p.1).to_owned()))
            .collect();
        checkpoint.packed(&names, packing, dtype)
    }
}

impl Conditioning {
    fn of(&self, plane: Plane) -> f32 {
        match plane {
            Plane::Noise => self.noise,
            Plane::Jpeg => self.jpeg,
            Plane::InverseScale => (1.0 / self.scale) as f32,
        }
    }
}

/// `gain * v + shift`, stored as `dtype`.
fn affine(
    l: &mut Linker,
    name: &str,
    v: crate::graph::ValueId,
    gain: f32,
    shift: f32,
    dtype: DType,
) -> Result<crate::graph::ValueId> {
    let op = Pointwise { alpha: gain, beta: None, gamma: shift, act: Act::None, clamp: None, table: false };
    l.push(name, Op::Pointwise(op), &[v], dtype)
}
