//! CasArbi (arXiv 2506.07813): a cascade of residual-shifting stages, one network for all of them, at any scale.
//!
//! ```text
//! per stage:  base = LIIF(input),  y = gain (bicubic(input) - base),  x_T = y + kappa sqrt(eta_T) n
//! per step:   x0   = denoiser(c_t x_t, condition, 1000 sqrt(eta_t), 1000 / scale, coordinates)
//!             u    = base + x0 / gain,  u -= strength A^T (A u - reference)
//!             x    = a x_t + b gain (u - base) + c n
//! ```
//!
//! Pictures are in -1 to 1 inside; `A` reduces to the reference's size by antialiased bicubic.

use super::job::{Base, Cascade, Checkpoints, Form, Job, Off, Reference, Sampler, System};
use super::needs::Needs;
use super::onestep::{Shaping, read_json};
use super::onestep_index::{Index, wrong};
use super::program::Program;
use super::schedule::{MAX_STEPS, ResShift, ShiftStep};
use super::{casarbi_program, casarbi_stage};
use crate::error::{Error, Kind, Result};
use crate::graph::{DType, Graph};
use crate::limits;
use crate::model::casarbi::CasArbiDenoiser;
use crate::model::edsr::Edsr;
use crate::model::liif::Liif;
use crate::weights::json;
use std::path::{Path, PathBuf};

/// Its name.
pub const SYSTEM: &str = "casarbi";
/// Class named by `model_index.json`.
pub const CLASS: &str = "CasArbiPipeline";
/// Its networks, with what each is and where it comes from.
pub const PARTS: [(&str, &str); 4] = [
    ("liif", "LIIF with an EDSR encoder, the base picture: published by its authors, or trained by tools/train"),
    ("lr_encoder", "EDSR features of the stage's input: trained with the denoiser by tools/train"),
    ("hr_encoder", "EDSR features of the base picture: trained with the denoiser by tools/train"),
    ("denoiser", "the residual denoiser with its adapter: trained by tools/train"),
];
/// See [`Needs`].
pub const NEEDS: Needs = Needs { system: SYSTEM, class: CLASS, parts: &PARTS, scheduler: false };
/// What a job can leave out.
pub const OFF: [Off; 2] = [Off::Liif, Off::Denoiser];
/// Shares of the model's own window that are tried, largest first, in quarters.
const SHARES: [u32; 4] = [4, 3, 2, 1];

/// A model folder of this system, configs only.
#[derive(Debug, Clone, PartialEq)]
pub struct CasArbi {
    /// The folder.
    pub folder: PathBuf,
    /// The base picture's network.
    pub liif: Liif,
    /// Features of the stage's input.
    pub lr_encoder: Edsr,
    /// Features of the base picture.
    pub hr_encoder: Edsr,
    /// The denoiser.
    pub denoiser: CasArbiDenoiser,
    /// What the model was made for.
    pub settings: Settings,
    /// Smallest and largest factor of a stage in training.
    pub trained_scales: Option<[f64; 2]>,
    /// The same of the base picture alone.
    pub liif_trained_scales: Option<[f64; 2]>,
    tile: u32,
    overlap: u32,
}

/// What `x_t` is multiplied by before the network sees it; `v = kappa^2 eta_t`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum InputScaling {
    /// `1 / sqrt(1 + v)`: ResShift's.
    Variance,
    /// `d^2 / (d^2 + v)`: what the best linear estimate of a residual of this deviation `d` keeps.
    Wiener(f64),
}

/// How a run samples: the model's choice with what the job asked put in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The schedule.
    pub schedule: ResShift,
    /// What `x_t` is multiplied by before the network.
    pub scaling: InputScaling,
    /// Residual pictures are enlarged by this.
    pub gain: f64,
    /// Strength of the guidance per stage, the last one for all further ones.
    pub strength: Vec<f64>,
    /// What guidance holds a sample against.
    pub reference: Reference,
    /// The base picture's source.
    pub base: Base,
    /// The order of the factors.
    pub cascade: Cascade,
    /// The coordinate adapter takes part.
    pub adapter: bool,
    /// The base picture is LIIF's; else it is the bicubic enlargement.
    pub liif: bool,
    /// Residuals are sampled; else the base picture is a stage's result.
    pub denoiser: bool,
}

impl CasArbi {
    /// Reads the configs of a model folder. What lacks is named, with where it comes from.
    pub fn open(folder: &Path) -> Result<CasArbi> {
        let path = folder.join("model_index.json");
        let name = path.display().to_string();
        let map = json::object(&name, read_json(&path)?.as_bytes())?;
        let index = Index { name: &name, map: &map };
        index.only("_class_name", CLASS)?;
        NEEDS.check(folder)?;
        let config = |part: &str| read_json(&folder.join(part).join("config.json"));
        let at = |part: &'static str| move |e: Error| e.at(format!("{part}/config.json"));
        let model = CasArbi {
            folder: folder.to_owned(),
            liif: Liif::from_config(&config("liif")?).map_err(at("liif"))?,
            lr_encoder: Edsr::from_config(&config("lr_encoder")?).map_err(at("lr_encoder"))?,
            hr_encoder: Edsr::from_config(&config("hr_encoder")?).map_err(at("hr_encoder"))?,
            denoiser: CasArbiDenoiser::from_config(&config("denoiser")?).map_err(at("denoiser"))?,
            settings: Settings::read(&index)?,
            trained_scales: index.scales("trained_scales")?,
            liif_trained_scales: index.scales("liif_trained_scales")?,
            tile: index.whole("tile", 256, 1..=limits::MAX_TILE)?,
            overlap: index.whole("overlap", 64, 0..=limits::MAX_TILE)?,
        };
        model.check(&index)?;
        Ok(model)
    }

    fn check(&self, index: &Index<'_>) -> Result<()> {
        let stride = self.denoiser.stride();
        if self.tile < 4 * stride || self.tile > limits::MAX_TILE || !self.tile.is_multiple_of(4 * stride) {
            return Err(index.bad("tile", &format!("a multiple of {} up to {}", 4 * stride, limits::MAX_TILE)));
        }
        if self.overlap > self.tile / 2 {
            return Err(index.bad("overlap", "at most half of the tile"));
        }
        let (features, pictures) = (self.denoiser.feature_channels(), self.denoiser.picture_channels());
        if features != [self.lr_encoder.feats(), self.hr_encoder.feats()] {
            let have = [self.lr_encoder.feats(), self.hr_encoder.feats()];
            return Err(wrong(format!("the denoiser takes {features:?} features, the encoders give {have:?}")));
        }
        let colours = [self.lr_encoder.in_channels(), self.hr_encoder.in_channels()];
        if pictures != [3, 3] || colours != [3, 3] {
            return Err(wrong(format!("denoiser {pictures:?}, encoders {colours:?}: RGB pictures are needed")));
        }
        self.settings.schedule.run().map(|_| ())
    }

    /// How a job samples.
    pub fn settings(&self, job: &Job) -> Result<Settings> {
        let (mut s, asked) = (self.settings.clone(), &job.sampler);
        asked.only(SYSTEM, &["steps", "cascade", "guidance", "guidance-reference", "base", "no-adapter", "off"])?;
        asked.only_off(SYSTEM, &OFF)?;
        if let Some(steps) = asked.steps {
            s.schedule.steps = steps;
        }
        s.cascade = asked.cascade.unwrap_or(s.cascade);
        s.reference = asked.reference.unwrap_or(s.reference);
        s.base = asked.base.unwrap_or(s.base);
        (s.liif, s.denoiser) = (!asked.off.contains(&Off::Liif), !asked.off.contains(&Off::Denoiser));
        s.adapter &= !asked.no_adapter && self.denoiser.has_adapter();
        if let Some(strength) = &asked.guidance {
            if strength.is_empty() || strength.iter().any(|v| !(0.0..=1.0).contains(v)) {
                let why = format!("guidance of strength {strength:?}; each is from 0 to 1");
                return Err(Error::new(Kind::Usage, "system", why));
            }
            s.strength = strength.iter().map(|&v| f64::from(v)).collect();
        }
        Ok(s)
    }
}

impl Settings {
    fn read(index: &Index<'_>) -> Result<Settings> {
        let schedule = ResShift {
            steps: index.whole("num_inference_steps", 15, 1..=MAX_STEPS)?,
            kappa: index.number("kappa", 2.0)?,
            power: index.number("power", 0.3)?,
            etas_end: index.number("etas_end", 0.99)?,
            min_noise: index.number("min_noise_level", 0.04)?,
        };
        let gain = index.number("gain", 4.0)?;
        if gain <= 0.0 {
            return Err(index.bad("gain", "a positive number"));
        }
        let scaling = match index.text("input_scaling")? {
            None | Some("variance") => InputScaling::Variance,
            Some("wiener") => InputScaling::Wiener(index.number("data_deviation", 0.25)?),
            Some(_) => return Err(index.bad("input_scaling", "variance or wiener")),
        };
        if matches!(scaling, InputScaling::Wiener(d) if d <= 0.0) {
            return Err(index.bad("data_deviation", "a positive number"));
        }
        Ok(Settings {
            schedule,
            scaling,
            gain,
            strength: index.numbers("guidance_strength", &[0.5], 1.0)?,
            reference: index.named("guidance", &Reference::ALL)?.unwrap_or(Reference::Previous),
            base: index.named("base", &Base::ALL)?.unwrap_or(Base::StageInput),
            cascade: index.named("cascade", &Cascade::ALL)?.unwrap_or(Cascade::RemainderLast),
            adapter: true,
            liif: true,
            denoiser: true,
        })
    }

    /// What `x_t` of a step is multiplied by before the network sees it.
    pub fn input_scale(&self, step: &ShiftStep) -> f64 {
        let v = (self.schedule.kappa * step.sqrt_eta).powi(2);
        match self.scaling {
            InputScaling::Variance => step.input,
            InputScaling::Wiener(d) => d * d / (d * d + v),
        }
    }

    /// Strength of the guidance in stage `k`; 0 where it is off.
    pub fn strength(&self, k: usize) -> f64 {
        match self.reference {
            Reference::Off => 0.0,
            Reference::Original | Reference::Previous => {
                self.strength.get(k).or(self.strength.last()).copied().unwrap_or(0.0)
            }
        }
    }
}

impl System for CasArbi {
    fn name(&self) -> &'static str {
        SYSTEM
    }

    fn folder(&self) -> &Path {
        &self.folder
    }

    fn stride(&self) -> u32 {
        self.denoiser.stride()
    }

    fn sides(&self) -> Vec<u32> {
        SHARES.iter().map(|s| self.tile / 4 * s).collect()
    }

    fn overlap(&self, side: u32) -> u32 {
        (u64::from(side) * u64::from(self.overlap) / u64::from(self.tile.max(1))) as u32
    }

    fn in_turn(&self) -> bool {
        true
    }

    fn divides(&self) -> bool {
        false
    }

    fn program(&self, job: &Job, shaping: &Shaping, form: Form) -> Result<Program> {
        match form {
            Form::Joined => casarbi_program::program(self, job, shaping),
            Form::Apart(_) => Err(Error::new(Kind::Internal, "system", "casarbi is not divided by networks")),
        }
    }

    fn networks(&self) -> Result<Vec<Graph>> {
        casarbi_stage::networks(self)
    }

    fn checkpoints(&self) -> Result<Checkpoints> {
        Checkpoints::open(&self.folder, &PARTS.map(|p| p.0))
    }

    fn cascade(&self, sampler: &Sampler) -> Option<Cascade> {
        Some(sampler.cascade.unwrap_or(self.settings.cascade))
    }

    fn trained_scales(&self, sampler: &Sampler) -> Option<[f64; 2]> {
        if sampler.off.contains(&Off::Denoiser) { self.liif_trained_scales } else { self.trained_scales }
    }

    fn describe(&self) -> Result<Vec<String>> {
        let s = &self.settings;
        let parameters: u64 = {
            let mut seen = std::collections::BTreeMap::new();
            for w in self.networks()?.into_iter().flat_map(|g| g.weights) {
                seen.insert(w.name, w.shape.iter().product::<u64>());
            }
            seen.values().sum()
        };
        Ok(vec![
            format!("{} steps a stage, kappa {}, residuals times {}", s.schedule.steps, s.schedule.kappa, s.gain),
            format!("windows of {} pixels, overlapping by {}; {parameters} parameters", self.tile, self.overlap),
            format!("cascade {:?}, guidance {:?} {:?}, base {:?}", s.cascade, s.reference, s.strength, s.base),
        ])
    }
}

/// The type in which programs are priced where nothing is computed.
pub(super) const PLAIN: DType = DType::F32;
