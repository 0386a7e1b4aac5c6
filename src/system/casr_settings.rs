//! How a CASR run goes: the fields of `model_index.json`, and what a job may put in their place.

use super::casr::{OFF, SYSTEM};
use super::job::{Base, Job, Off};
use super::onestep::Plane;
use super::onestep_index::Index;
use super::superpixels::LabelRule;
use crate::error::{Error, Kind, Result};
use crate::limits;

/// Cells of the superpixels that the publication compares, pixels of the stage input.
const CELLS: std::ops::RangeInclusive<u32> = 2..=64;

/// What residuals of the ControlNet and of SARM may be multiplied by at most.
const LARGEST_SCALE: f64 = 4.0;

/// A picture whose latent the denoiser takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Latent {
    /// The superpixel picture.
    Superpixels,
    /// The stage's bicubic enlargement.
    StageInput,
}

impl Latent {
    const ALL: [(&'static str, Latent); 2] =
        [("superpixels", Latent::Superpixels), ("stage-input", Latent::StageInput)];

    /// As model folders call it, but for dashes.
    pub(super) fn name(self) -> &'static str {
        Latent::ALL.iter().find(|(_, latent)| *latent == self).map_or("", |(name, _)| name)
    }

    /// The picture that is encoded: without superpixels the enlargement stands in for them.
    pub(super) fn shown(self, superpixels: bool) -> Latent {
        if superpixels { self } else { Latent::StageInput }
    }

    /// The input of a graph that takes the moments of its latent.
    pub(super) fn moments(self) -> &'static str {
        match self {
            Latent::Superpixels => "moments.superpixels",
            Latent::StageInput => "moments.stage_input",
        }
    }
}

/// How a run goes: the model's choice with what the job asked put in its place.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// The one time step.
    pub timestep: u32,
    /// The pictures whose latents go to the UNet, in order.
    pub latents: Vec<Latent>,
    /// The one of them that the step starts from.
    pub sample: usize,
    /// Constant planes after the latents.
    pub planes: Vec<Plane>,
    /// The decoder's picture is added to the enlargement.
    pub residual: bool,
    /// Side of a superpixel cell, pixels of the stage input.
    pub cell: u32,
    /// The cell that the superpixel network was trained for; its input is enlarged by `trained_cell / cell`.
    pub trained_cell: u32,
    /// See [`LabelRule`].
    pub rule: LabelRule,
    /// Factor of the ControlNet's residuals.
    pub conditioning_scale: f32,
    /// Factor of what SARM adds, for jobs of one stage, of two and so on; the last counts for longer ones.
    pub sarm_scale: Vec<f32>,
    /// SARM looks at all tokens of all tiles while these are no more.
    pub token_budget: u32,
    /// Beyond that at so many a side of each tile, or as many fewer as keep within the budget; see [`pooled`].
    pub pooled_side: u32,
    /// What SAM sees.
    pub semantic: Base,
    /// Window side, pixels.
    pub tile: u32,
    /// Overlap of neighbours, pixels.
    pub overlap: u32,
    /// What is switched off beside what lacks.
    pub off: Vec<Off>,
}

impl Settings {
    pub(super) fn read(index: &Index<'_>) -> Result<Settings> {
        let latents = index.list("latents", &Latent::ALL)?.unwrap_or_else(|| vec![Latent::Superpixels]);
        if latents.is_empty() || latents.len() > 2 || (latents.len() == 2 && latents[0] == latents[1]) {
            return Err(index.bad("latents", "one picture, or two different ones"));
        }
        let wanted = index.named("sample", &Latent::ALL)?;
        let Some(sample) = latents.iter().position(|l| wanted.is_none_or(|w| *l == w)) else {
            return Err(index.bad("sample", "one of `latents`"));
        };
        let planes = index.list("planes", &Plane::ALL)?.unwrap_or_default();
        let scale = index.number("controlnet_conditioning_scale", 1.0)?;
        if !(0.0..=LARGEST_SCALE).contains(&scale) {
            return Err(index.bad("controlnet_conditioning_scale", &format!("a number from 0 to {LARGEST_SCALE}")));
        }
        if index.number("largest_stage", 4.0)? != 4.0 {
            return Err(index.bad("largest_stage", "4"));
        }
        Ok(Settings {
            timestep: index.integer("timestep")?,
            sample,
            latents,
            planes,
            residual: index.named("residual", &[("bicubic", true), ("none", false)])?.unwrap_or(false),
            cell: index.whole("cell", 4, CELLS)?,
            trained_cell: index.whole("trained_cell", 16, CELLS)?,
            rule: index.named("superpixel_rule", &LabelRule::ALL)?.unwrap_or(LabelRule::Probabilities),
            conditioning_scale: scale as f32,
            sarm_scale: index.numbers("sarm_scale", &[1.0], LARGEST_SCALE)?.iter().map(|&v| v as f32).collect(),
            token_budget: index.whole("sarm_token_budget", 16384, 1..=1 << 20)?,
            pooled_side: index.whole("sarm_pooled_side", 8, 1..=256)?,
            semantic: index.named("semantic_reference", &Base::ALL)?.unwrap_or(Base::StageInput),
            tile: index.whole("tile", 512, 1..=limits::MAX_TILE)?,
            overlap: index.whole("overlap", 64, 0..=limits::MAX_TILE)?,
            off: Vec::new(),
        })
    }

    /// Factor of what SARM adds in a job of so many stages.
    pub(super) fn sarm_scale(&self, stages: usize) -> f32 {
        self.sarm_scale.get(stages.saturating_sub(1)).or(self.sarm_scale.last()).copied().unwrap_or(1.0)
    }

    /// With what a job asks in its place.
    pub(super) fn of(&self, job: &Job) -> Result<Settings> {
        let (mut s, asked) = (self.clone(), &job.sampler);
        asked.only(SYSTEM, &["cascade", "off", "cell", "labels", "semantic-reference"])?;
        asked.only_off(SYSTEM, &OFF)?;
        if let Some(cell) = asked.cell {
            if !CELLS.contains(&cell) {
                let why = format!(
                    "superpixel cells of {cell} pixels; from {} to {} are possible",
                    CELLS.start(),
                    CELLS.end()
                );
                return Err(Error::new(Kind::Usage, "system", why).advise("the publication compares 3, 4, 5 and 8"));
            }
            // A network of small cells labels its own cells; one of published size gets its input enlarged.
            s.cell = cell;
        }
        s.rule = asked.rule.unwrap_or(s.rule);
        s.semantic = asked.semantic.unwrap_or(s.semantic);
        s.off.extend(asked.off.iter().copied());
        Ok(s)
    }
}

/// The side that each tile's tokens, `own` of them, are pooled to before `tiles` tiles look at each other's: the largest
/// of at most `side` with which all tokens keep within `budget`, at least 1. `None` where they do so as they are.
pub(super) fn pooled(own: [u32; 2], tiles: u64, budget: u32, side: u32) -> Option<u32> {
    let tokens = |side: u32| own.iter().map(|&o| u64::from(o.min(side))).product::<u64>().saturating_mul(tiles);
    let fits = |side: &u32| tokens(*side) <= u64::from(budget);
    if fits(&u32::MAX) { None } else { Some((1..=side).rev().find(fits).unwrap_or(1)) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_of_all_tiles_keep_within_the_budget() {
        let pooled = |own, tiles| pooled(own, tiles, 1000, 8);
        assert_eq!(pooled([10, 20], 5), None);
        assert_eq!(pooled([10, 20], 6), Some(8));
        assert_eq!(pooled([10, 20], 16), Some(7));
        assert_eq!(pooled([3, 20], 42), Some(7), "no more rows than there are");
        assert_eq!(pooled([10, 20], 250), Some(2));
        assert_eq!(pooled([10, 20], 5000), Some(1), "one a tile is the least");
    }
}
