//! What systems share whose autoencoder may work over canvases of the whole picture instead of tile by tile: the choices
//! of such a program, and its encoders and decoders laid by the norms' mode.

use super::job::Job;
use super::onestep::Shaping;
use super::program::{Program, Residency, wrong};
use super::vae_modes::{self, Attention, Keep, Laid, Part, Proxy};
use crate::error::Result;
use crate::graph::Graph;
use crate::model::vae::AutoencoderKL;
use crate::weights::Checkpoint;
use std::fmt;

/// Blocks of the mosaic that statistics are taken from, and its side in windows. Of the proxies that were
/// measured (`docs/vae-modes.md`) this one comes nearest to the statistics of the whole picture.
const MOSAIC: ([u32; 2], u32) = ([4, 4], 2);

/// How the norms of the autoencoder get their statistics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Norms {
    /// One graph over the whole picture.
    Whole,
    /// Pooled over all windows.
    Exact,
    /// From a sample of the picture.
    Shared,
}

impl Norms {
    /// As `--vae` calls it.
    pub fn name(self) -> &'static str {
        match self {
            Norms::Whole => "whole",
            Norms::Exact => "exact",
            Norms::Shared => "shared",
        }
    }
}

/// The choices beside those of pixel tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatentPlan {
    /// See [`Norms`].
    pub norms: Norms,
    /// Where the states between the norms live: for every encoder and decoder in the program's order, by boundary; what
    /// is missing is recomputed.
    pub keep: Vec<Vec<Keep>>,
    /// What the middle attention sees.
    pub attention: Attention,
    /// Where the enlarged picture lives, which several passes read: in host memory or in the spool.
    pub picture: Residency,
}

/// A network's segments and the states between them, for choosing where those live.
#[derive(Debug, Clone)]
pub struct Stages {
    /// Graph and number of windows of each segment.
    pub segments: Vec<(Graph, u64)>,
    /// Bytes of the state at each boundary; the first, the input, is 0.
    pub states: Vec<u64>,
    /// Segments whose result must be kept in host memory.
    pub forced: Vec<bool>,
}

/// A program over latent canvases.
#[derive(Debug)]
pub struct LatentProgram {
    /// The program.
    pub program: Program,
    /// Its encoders and decoders in order, where their norms are [`Norms::Exact`].
    pub passes: Vec<Stages>,
}

/// A system with an autoencoder that may work over canvases.
pub trait LatentForm: fmt::Debug {
    /// The autoencoder.
    fn vae(&self) -> &AutoencoderKL;

    /// The program of a job.
    fn latent_program(&self, job: &Job, shaping: &Shaping, plan: &LatentPlan) -> Result<LatentProgram>;

    /// Rows and columns of the latent of a picture.
    fn latents(&self, picture: [u32; 2]) -> [u32; 2] {
        picture.map(|side| side.div_ceil(self.vae().factor()))
    }
}

/// The encoders and decoders of a program while it is laid.
pub(super) struct Autoencoder<'a> {
    pub(super) plan: &'a LatentPlan,
    /// Its file, of which the norms' vectors are read.
    pub(super) checkpoint: &'a Checkpoint,
    passes: Vec<Stages>,
}

impl<'a> Autoencoder<'a> {
    /// None yet.
    pub(super) fn new(plan: &'a LatentPlan, checkpoint: &'a Checkpoint) -> Autoencoder<'a> {
        Autoencoder { plan, checkpoint, passes: Vec::new() }
    }

    /// Adds the passes of the next encoder or decoder.
    pub(super) fn lay(&mut self, program: &mut Program, part: &Part<'_>) -> Result<()> {
        match self.plan.norms {
            Norms::Whole => vae_modes::whole(program, part)?,
            Norms::Exact => {
                let laid = vae_modes::lay(program, part)?;
                let keep = self.plan.keep.get(self.passes.len()).map_or(&[][..], Vec::as_slice);
                vae_modes::exact(program, &laid, keep, false)?;
                self.passes.push(stages(program, &laid));
            }
            Norms::Shared => {
                let laid = vae_modes::lay(program, part)?;
                let (blocks, windows) = MOSAIC;
                let side = part.tile.saturating_mul(windows);
                let sampled = vae_modes::proxy(program, part, &laid, Proxy::Mosaic(blocks), side)?;
                vae_modes::shared(program, &laid, &sampled.statistics)?;
            }
        }
        Ok(())
    }

    /// The program with what was laid.
    pub(super) fn finish(self, program: Program) -> LatentProgram {
        LatentProgram { program, passes: self.passes }
    }
}

fn stages(program: &Program, laid: &Laid) -> Stages {
    let segment = |s: usize| {
        let windows = program.grids[laid.grid(s).0].count() as u64;
        (program.graphs[laid.graph(s).0].clone(), windows)
    };
    let count = laid.boundaries() + 1;
    Stages {
        segments: (0..count).map(segment).collect(),
        states: (0..count).map(|b| if b == 0 { 0 } else { laid.state_bytes(b) }).collect(),
        forced: (0..count).map(|s| laid.must_keep(s)).collect(),
    }
}

/// A tensor of the autoencoder by the joined graph's name for it.
pub(super) fn read(checkpoint: &Checkpoint, name: &str) -> Result<Vec<f32>> {
    let own = name.strip_prefix("vae.").ok_or_else(|| wrong(format!("`{name}` is not the autoencoder's")))?;
    checkpoint.read_f32(own)
}
