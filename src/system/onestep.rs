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

use super::job::{Checkpoints, Form, Job, Sampler, System};
use super::latent::LatentForm;
use super::needs::Needs;
use super::onestep_index::{Index, wrong};
pub use super::onestep_index::{Plane, VaeFigures};
pub use super::onestep_program::Launch;
use super::program::Program;
use super::schedule::Schedule;
use crate::error::{Error, Result};
use crate::fs;
use crate::graph::{DType, Graph};
use crate::limits;
use crate::model::unet::UNet2DConditionModel;
use crate::model::vae::AutoencoderKL;
use crate::tile::geometry::{Placement, QUANTUM, Tiling};
use crate::weights::{Checkpoint, json};
use serde_json::Value as Json;
use std::path::{Path, PathBuf};

/// Its name.
pub const SYSTEM: &str = "onestep";
/// Window sides tried, largest first.
const SIDES: [u32; 10] = [512, 448, 384, 320, 256, 192, 160, 128, 96, 64];
/// Share of a window side that neighbours overlap by, and its bounds, pixels. On a photograph at x4, windows
/// of 64 to 256 with overlaps of 16 and of 32 gave the same picture to 50 dB and the same fidelity to 0.01
/// dB; more only costs time.
const OVERLAP_SHARE: u32 = 8;
/// See [`OVERLAP_SHARE`].
const OVERLAP_BOUNDS: [u32; 2] = [16, 32];
/// Class named by `model_index.json`.
pub const CLASS: &str = "OneStepSuperResolution";
/// See [`Needs`].
pub const NEEDS: Needs = Needs {
    system: SYSTEM,
    class: CLASS,
    parts: &[("vae", "the autoencoder"), ("unet", "the denoiser")],
    scheduler: true,
};
/// Name of the canvas that holds the enlarged picture, values 0 to 1.
pub const INPUT: &str = "enlarged";
/// Name of the canvas that holds the enlarged picture once more, for the last pass of a program by network.
pub const INPUT_AGAIN: &str = "enlarged again";
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
    /// What was measured of the autoencoder's modes.
    pub figures: VaeFigures,
    /// Smallest and largest scale of its training.
    pub trained_scales: Option<[f64; 2]>,
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
    /// The input is the result of an earlier stage.
    pub cascaded: bool,
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
            figures: index.vae_figures()?,
            trained_scales: index.scales("trained_scales")?,
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

    /// See [`prompt`].
    pub(super) fn prompt(&self) -> Result<Option<(u32, Vec<f32>)>> {
        prompt(&self.folder, self.unet.context_channels())
    }
}

/// Tokens and values of the constant context of a UNet that looks at `channels`: the tensor `encoder_hidden_states` of
/// `prompt/embeddings.safetensors` in a model's folder.
pub(super) fn prompt(folder: &Path, channels: Option<u32>) -> Result<Option<(u32, Vec<f32>)>> {
    let Some(channels) = channels else { return Ok(None) };
    let path = folder.join("prompt").join("embeddings.safetensors");
    let values = Checkpoint::open(&path)?.read_f32("encoder_hidden_states")?;
    let tokens = values.len() / channels as usize;
    if tokens == 0 || tokens * channels as usize != values.len() {
        return Err(wrong(format!("{}: {} values are no tokens of {channels}", path.display(), values.len())));
    }
    Ok(Some((crate::extent::to_u32("tokens", tokens as u64)?, values)))
}

impl Conditioning {
    pub(super) fn of(&self, plane: Plane) -> f32 {
        match plane {
            Plane::Noise => self.noise,
            Plane::Jpeg => self.jpeg,
            Plane::InverseScale => (1.0 / self.scale) as f32,
            Plane::Cascaded => f32::from(u8::from(self.cascaded)),
        }
    }
}

impl System for OneStep {
    fn name(&self) -> &'static str {
        SYSTEM
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn stride(&self) -> u32 {
        OneStep::stride(self)
    }

    fn sides(&self) -> Vec<u32> {
        SIDES.to_vec()
    }

    fn overlap(&self, side: u32) -> u32 {
        let [least, most] = OVERLAP_BOUNDS;
        (side / OVERLAP_SHARE).clamp(least, most).next_multiple_of(OneStep::stride(self)).min(side / 2)
    }

    fn in_turn(&self) -> bool {
        false
    }

    fn divides(&self) -> bool {
        true
    }

    fn program(&self, job: &Job, shaping: &Shaping, form: Form) -> Result<Program> {
        job.sampler.only(SYSTEM, &["enlarged"])?;
        match form {
            Form::Joined => OneStep::program(self, job.target, &job.conditioning, shaping),
            Form::Apart(batches) => self.split_program(job.target, &job.conditioning, shaping, batches),
        }
    }

    fn networks(&self) -> Result<Vec<Graph>> {
        Ok(self.uncut()?.into())
    }

    fn checkpoints(&self) -> Result<Checkpoints> {
        Checkpoints::open(&self.folder, &["vae", "unet"])
    }

    fn describe(&self) -> Result<Vec<String>> {
        let [a, b] = self.coefficients;
        let mut details = vec![
            format!("one step at t = {}: x0 = {a:.6} z + {b:.6} prediction", self.timestep),
            format!(
                "windows start at multiples of {} pixels; residual over bicubic: {}",
                OneStep::stride(self),
                self.residual
            ),
        ];
        let planes: Vec<&str> = self.planes.iter().map(|p| p.name()).collect();
        if !planes.is_empty() {
            details.push(format!("conditioning planes: {}", planes.join(", ")));
        }
        Ok(details)
    }

    fn latent_form(&self) -> Option<&dyn LatentForm> {
        Some(self)
    }

    fn planes(&self) -> &[Plane] {
        &self.planes
    }

    fn trained_scales(&self, _: &Sampler) -> Option<[f64; 2]> {
        self.trained_scales
    }

    fn host_tensors(&self) -> Result<Vec<(String, Vec<u64>)>> {
        // Where the autoencoder is cut at its norms, their vectors are the host's.
        Ok(self.uncut()?.into_iter().flat_map(|g| g.weights).map(|w| (w.name, w.shape)).collect())
    }

    fn as_one_step(&self) -> Option<&OneStep> {
        Some(self)
    }
}
