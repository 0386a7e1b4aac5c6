//! CASR (arXiv 2602.22159): a cascade of one-step latent stages, each fed with the superpixel picture and the depth of what
//! the stage before has made, so that errors do not grow from stage to stage.
//!
//! ```text
//! per stage:  S = superpixel picture of I at the target size,  d = depth of I,  u = bicubic(I)
//! per tile:   z = (mean(encode(2 p - 1)) - shift) scaling   for each picture p the model takes: S, u
//!             v = unet([z.., planes], t, residuals of controlnet([z.., planes], t, d))
//!             x0 = a z + b v,  out = decode(x0 / scaling + shift) [+ 2 u - 1], to 0..1
//! ```
//!
//! With SARM the tiles' features before the UNet's last norm are made first, for all tiles; then each tile is refined by
//! those of all and by SAM's tokens. Of the networks only `vae` and `unet` are needed; each missing one is what the
//! publication's ablation calls off. Fields where the publication is silent are listed in `docs/decisions`.

pub use super::casr_settings::{Latent, Settings};
use super::job::{Cascade, Checkpoints, Form, Job, Off, Sampler, System};
use super::latent::{LatentForm, LatentPlan, LatentProgram};
use super::needs::Needs;
use super::onestep::{Plane, Shaping, read_json};
use super::onestep_index::{Index, wrong};
use super::program::Program;
use super::schedule::{Prediction, Schedule};
use super::{casr_program, casr_stage};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::graph::Graph;
use crate::limits;
use crate::model::controlnet::ControlNetModel;
use crate::model::depth_anything::DepthAnything;
use crate::model::sam::SamVisionModel;
use crate::model::sarm::Sarm;
use crate::model::spixel_fcn::SpixelNet;
use crate::model::unet::UNet2DConditionModel;
use crate::model::vae::AutoencoderKL;
use crate::weights::{Checkpoint, json};
use std::path::{Path, PathBuf};

/// Its name.
pub const SYSTEM: &str = "casr";
/// Class named by `model_index.json`.
pub const CLASS: &str = "CasrPipeline";
/// The networks it cannot do without, with what each is and where it comes from.
pub const PARTS: [(&str, &str); 2] = [
    ("vae", "the autoencoder: SD-Turbo's with the encoder's adapters merged, or trained by tools/train"),
    ("unet", "the denoiser: SD-Turbo's with its adapters merged, or trained by tools/train"),
];
/// See [`Needs`].
pub const NEEDS: Needs = Needs { system: SYSTEM, class: CLASS, parts: &PARTS, scheduler: true };
/// The networks it can do without: what a job goes without where they lack, and where they come from.
pub const OPTIONAL: [(&str, &str, &str); 5] = [
    ("superpixel", "superpixel pictures", "SpixelFCN's SpixelNet1l_bn, or tools/train/casr_superpixel.py"),
    ("depth", "depth", "Depth Anything v1, or tools/train/casr_depth.py"),
    ("controlnet", "depth", "a ControlNet for depth maps of the UNet's size, or tools/train/casr_train.py"),
    ("sarm", "refinement over tiles", "tools/train/casr_train.py; no published checkpoint has it"),
    ("sam", "semantic tokens in the refinement", "SAM's picture encoder, or tools/train/casr_train.py"),
];
/// What a job can leave out.
pub const OFF: [Off; 4] = [Off::Superpixels, Off::Depth, Off::Sarm, Off::Semantic];

/// A model folder of this system, configs only.
#[derive(Debug, Clone)]
pub struct Casr {
    /// The folder.
    pub folder: PathBuf,
    /// The autoencoder.
    pub vae: AutoencoderKL,
    /// The denoiser.
    pub unet: UNet2DConditionModel,
    /// Superpixels.
    pub superpixel: Option<SpixelNet>,
    /// Depth, and what reads it.
    pub depth: Option<(DepthAnything, ControlNetModel)>,
    /// The refinement, and what gives its semantic tokens.
    pub sarm: Option<(Sarm, Option<SamVisionModel>)>,
    /// `x0 = coefficients[0] * z + coefficients[1] * prediction`.
    pub coefficients: [f64; 2],
    /// What the model was made for.
    pub settings: Settings,
    /// Smallest and largest factor of a stage in training.
    pub trained_scales: Option<[f64; 2]>,
}

impl Casr {
    /// Reads the configs of a model folder.
    pub fn open(folder: &Path) -> Result<Casr> {
        let path = folder.join("model_index.json");
        let name = path.display().to_string();
        let map = json::object(&name, read_json(&path)?.as_bytes())?;
        let index = Index { name: &name, map: &map };
        index.only("_class_name", CLASS)?;
        NEEDS.check(folder)?;
        let at = |part: &'static str| move |e: Error| e.at(format!("{part}/config.json"));
        let config = |part: &'static str| read_json(&folder.join(part).join("config.json"));
        let has = |part: &str| has(folder, part);
        let schedule = Schedule::from_config(&read_json(&folder.join("scheduler").join("scheduler_config.json"))?)?;
        let settings = Settings::read(&index)?;
        let own = match schedule.prediction {
            Prediction::Epsilon => "epsilon",
            Prediction::V => "v_prediction",
            Prediction::Sample => "sample",
        };
        if index.text("prediction_type")?.is_some_and(|p| p != own) {
            return Err(wrong(format!("{name}: prediction_type differs from the scheduler's, {own}")));
        }
        let superpixel = if has("superpixel") {
            Some(SpixelNet::from_config(&config("superpixel")?).map_err(at("superpixel"))?)
        } else {
            None
        };
        let depth = if has("depth") && has("controlnet") {
            let depth = DepthAnything::from_config(&config("depth")?).map_err(at("depth"))?;
            Some((depth, ControlNetModel::from_config(&config("controlnet")?).map_err(at("controlnet"))?))
        } else {
            None
        };
        let sarm = if has("sarm") {
            let sarm = Sarm::from_config(&config("sarm")?).map_err(at("sarm"))?;
            let sam =
                if has("sam") { Some(SamVisionModel::from_config(&config("sam")?).map_err(at("sam"))?) } else { None };
            Some((sarm, sam))
        } else {
            None
        };
        let model = Casr {
            folder: folder.to_owned(),
            vae: AutoencoderKL::from_config(&config("vae")?).map_err(at("vae"))?,
            unet: UNet2DConditionModel::from_config(&config("unet")?).map_err(at("unet"))?,
            superpixel,
            depth,
            sarm,
            coefficients: schedule.clean(settings.timestep)?,
            settings,
            trained_scales: index.scales("trained_scales")?,
        };
        model.check(&index)?;
        Ok(model)
    }

    fn check(&self, index: &Index<'_>) -> Result<()> {
        let (z, s) = (self.vae.latent_channels(), &self.settings);
        if [self.vae.in_channels(), self.vae.out_channels()] != [3, 3] {
            return Err(wrong("the autoencoder does not take and give 3 channels"));
        }
        let takes = z * s.latents.len() as u32 + s.planes.len() as u32;
        if self.unet.in_channels() != takes || self.unet.out_channels() != z {
            let (i, o) = (self.unet.in_channels(), self.unet.out_channels());
            let what = format!("{} latents of {z} channels and {} planes", s.latents.len(), s.planes.len());
            return Err(wrong(format!("the UNet takes {i} and gives {o} channels; {what} need {takes} and {z}")));
        }
        if let Some((_, control)) = &self.depth {
            if control.in_channels() != takes || control.skips() != self.unet.skips() {
                return Err(wrong("the ControlNet does not fit the UNet: other input channels or other skips"));
            }
            if control.factor() != self.vae.factor() || control.conditioning_channels() != 3 {
                return Err(wrong("the ControlNet does not read 3 channels at the picture's size"));
            }
        }
        if let Some((sarm, sam)) = &self.sarm {
            if sarm.channels() != self.unet.feature_channels() {
                let (a, b) = (sarm.channels(), self.unet.feature_channels());
                return Err(wrong(format!("SARM has {a} channels, the UNet's last features {b}")));
            }
            if let (Some(wants), Some(sam)) = (sarm.semantic_channels(), sam)
                && wants != sam.out_channels()
            {
                return Err(wrong(format!("SARM looks at {wants} channels, SAM gives {}", sam.out_channels())));
            }
        }
        if s.planes.len() as u32 > z {
            return Err(index.bad("planes", &format!("at most {z}, the latent's channels")));
        }
        let unit = 4 * self.unit();
        if s.tile < unit || s.tile > limits::MAX_TILE || !s.tile.is_multiple_of(unit) {
            return Err(index.bad("tile", &format!("a multiple of {unit} up to {}", limits::MAX_TILE)));
        }
        if s.overlap > s.tile / 2 {
            return Err(index.bad("overlap", "at most half of the tile"));
        }
        if self.superpixel.as_ref().is_some_and(|n| n.cell_size() != s.trained_cell) {
            return Err(index.bad("trained_cell", "the cell_size of superpixel/config.json"));
        }
        Ok(())
    }

    /// Pixels that windows are multiples of: one of the coarsest level, and of SARM's tokens.
    pub(super) fn unit(&self) -> u32 {
        let tokens = self.sarm.as_ref().map_or(1, |(s, _)| s.reduce());
        self.vae.factor() * extent::common_multiple(self.unet.stride(), tokens)
    }

    /// How a job runs.
    pub fn settings(&self, job: &Job) -> Result<Settings> {
        self.settings.of(job)
    }

    /// The superpixel network, where it takes part.
    pub(super) fn superpixels(&self, s: &Settings) -> Option<&SpixelNet> {
        let wanted = s.latents.contains(&Latent::Superpixels) && !s.off.contains(&Off::Superpixels);
        self.superpixel.as_ref().filter(|_| wanted)
    }

    /// Depth and ControlNet, where they take part.
    pub(super) fn depth(&self, s: &Settings) -> Option<&(DepthAnything, ControlNetModel)> {
        self.depth.as_ref().filter(|_| !s.off.contains(&Off::Depth))
    }

    /// The refinement, where it takes part, and SAM's encoder where that does.
    pub(super) fn refinement(&self, s: &Settings) -> Option<(&Sarm, Option<&SamVisionModel>)> {
        let (sarm, sam) = self.sarm.as_ref().filter(|_| !s.off.contains(&Off::Sarm))?;
        Some((sarm, sam.as_ref().filter(|_| sarm.semantic_channels().is_some() && !s.off.contains(&Off::Semantic))))
    }

    /// Tokens and values of the constant context, for a UNet that looks at one.
    pub(super) fn prompt(&self) -> Result<Option<(u32, Vec<f32>)>> {
        super::onestep::prompt(&self.folder, self.unet.context_channels())
    }

    /// A network's checkpoint. Of one that it can do without the error says so.
    pub(super) fn checkpoint(&self, part: &str) -> Result<Checkpoint> {
        super::job::checkpoint(&self.folder, part).map_err(|e| {
            match OPTIONAL.iter().find(|(optional, ..)| *optional == part && e.advice().is_none()) {
                Some((_, what, whence)) => {
                    e.advise(format!("put its weights there ({whence}), or take the folder away and go without {what}"))
                }
                None => e,
            }
        })
    }

    fn parts(&self) -> Vec<&'static str> {
        let mut parts = vec!["vae", "unet"];
        parts.extend(self.superpixel.as_ref().map(|_| "superpixel"));
        if self.depth.is_some() {
            parts.extend(["depth", "controlnet"]);
        }
        if let Some((_, sam)) = &self.sarm {
            parts.push("sarm");
            parts.extend(sam.as_ref().map(|_| "sam"));
        }
        parts
    }
}

/// Whether a model's folder has a network, by its config.
fn has(folder: &Path, part: &str) -> bool {
    folder.join(part).join("config.json").is_file()
}

impl LatentForm for Casr {
    fn vae(&self) -> &AutoencoderKL {
        &self.vae
    }

    fn latent_program(&self, job: &Job, shaping: &Shaping, plan: &LatentPlan) -> Result<LatentProgram> {
        casr_program::latent_program(self, job, shaping, plan)
    }
}

impl System for Casr {
    fn name(&self) -> &'static str {
        SYSTEM
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn stride(&self) -> u32 {
        self.unit()
    }

    fn sides(&self) -> Vec<u32> {
        let unit = self.unit();
        (1..=4).rev().map(|quarters| self.settings.tile * quarters / 4 / unit * unit).filter(|&s| s > 0).collect()
    }

    fn overlap(&self, side: u32) -> u32 {
        (u64::from(side) * u64::from(self.settings.overlap) / u64::from(self.settings.tile.max(1))) as u32
    }

    fn in_turn(&self) -> bool {
        true
    }

    fn divides(&self) -> bool {
        false
    }

    fn program(&self, job: &Job, shaping: &Shaping, form: Form) -> Result<Program> {
        match form {
            Form::Joined => casr_program::program(self, job, shaping),
            Form::Apart(_) => Err(Error::new(Kind::Internal, "system", "casr is not divided by networks")),
        }
    }

    fn networks(&self) -> Result<Vec<Graph>> {
        casr_stage::networks(self)
    }

    fn latent_form(&self) -> Option<&dyn LatentForm> {
        Some(self)
    }

    fn checkpoints(&self) -> Result<Checkpoints> {
        Checkpoints::opened(&self.parts(), |part| self.checkpoint(part))
    }

    fn cascade(&self, sampler: &Sampler) -> Option<Cascade> {
        Some(sampler.cascade.unwrap_or(Cascade::LargestFirst))
    }

    fn planes(&self) -> &[Plane] {
        &self.settings.planes
    }

    fn trained_scales(&self, _: &Sampler) -> Option<[f64; 2]> {
        self.trained_scales
    }

    fn host_tensors(&self) -> Result<Vec<(String, Vec<u64>)>> {
        let depth = self.depth.iter().flat_map(|(net, _)| net.host_tensors()).map(|(n, s)| (format!("depth.{n}"), s));
        let sam = self.sarm.iter().filter_map(|(_, sam)| sam.as_ref()).flat_map(SamVisionModel::host_tensors);
        // Where the autoencoder is cut at its norms, their vectors are the host's.
        let graphs = self.networks()?.into_iter().flat_map(|g| g.weights);
        let vae = graphs.filter(|w| w.name.starts_with("vae.")).map(|w| (w.name, w.shape));
        Ok(depth.chain(sam.map(|(n, s)| (format!("sam.{n}"), s))).chain(vae).collect())
    }

    fn describe(&self) -> Result<Vec<String>> {
        let s = &self.settings;
        let latents: Vec<&str> = s.latents.iter().map(|l| l.name()).collect();
        let mut lines = vec![
            format!("one step a stage at t = {}, stages of at most x4, windows of {} pixels", s.timestep, s.tile),
            format!("superpixel cells of {} pixels by {}, latents of {}", s.cell, s.rule.name(), latents.join(" and ")),
        ];
        lines.extend(self.lacks());
        Ok(lines)
    }

    fn lacks(&self) -> Vec<String> {
        let missing = OPTIONAL.iter().filter(|(part, ..)| !has(&self.folder, part));
        let say = |(part, what, whence): &(&str, &str, &str)| {
            let lacking = if self.folder.join(part).is_dir() { "config.json in" } else { "folder" };
            format!("runs without {what}: the model has no {lacking} {part} ({whence})")
        };
        missing.map(say).collect()
    }
}
