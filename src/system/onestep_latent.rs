//! The one-step system over latent canvases: the picture is encoded in windows, the denoiser's windows lie on one
//! latent of the whole picture, and that is decoded in windows, each network's norms as the VAE mode has it.

use super::onestep::{Conditioning, INPUT, OUTPUT, OneStep, Shaping};
use super::onestep_program::Launch;
use super::phase::{Block, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{Canvas, CanvasId, Extent, GraphId, GridId, Program, Ratio, Residency, Table, TableId, wrong};
use super::vae_modes::{self, Attention, Feed, Keep, Laid, Part, Proxy};
use crate::error::Result;
use crate::graph::{DType, Graph};
use crate::tile::geometry::{Placement, Tiling};
use crate::tile::{Grid, Ramp};
use crate::weights::Checkpoint;

/// How the programs of this form are called, before the mode.
pub const NAME: &str = "onestep, vae";
/// Side, latents, of the windows that a graph is first built for; it is resized to those of the picture.
const BUILT: u32 = 16;
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

/// The choices beside those of pixel tiles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LatentPlan {
    /// See [`Norms`].
    pub norms: Norms,
    /// Where the states between the norms of encoder and decoder live, by boundary; what is missing is recomputed.
    pub keep: [Vec<Keep>; 2],
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

impl OneStep {
    /// Rows and columns of the latent of a target.
    pub fn latents(&self, target: [u32; 2]) -> [u32; 2] {
        target.map(|side| side.div_ceil(self.vae.factor()))
    }

    /// The three networks as they are, over one small window: what the checkpoints must hold.
    pub fn uncut(&self) -> Result<[Graph; 3]> {
        let side = BUILT * self.stride();
        let tokens = self.prompt()?.map_or(1, |p| p.0);
        self.graphs(&Launch { batch: 1, height: side, width: side, tokens, dtype: DType::F32 }, [1; 3])
    }

    /// Segments and states of encoder and decoder.
    pub fn stages(&self, target: [u32; 2], shaping: &Shaping, attention: Attention) -> Result<[Stages; 2]> {
        let mut program = Program::new("stages", target, 0);
        let canvases = self.canvases(&mut program, Residency::Whole);
        let graphs = self.vae_graphs(shaping)?;
        let checkpoint = self.norm_tensors()?;
        let tensors = |name: &str| read(&checkpoint, name);
        let of = |program: &mut Program, i: usize| -> Result<Stages> {
            let part = self.part(i, &graphs, target, shaping, attention, &canvases, &tensors);
            let laid = vae_modes::lay(program, &part, None)?;
            let segment = |s: usize| {
                let windows = program.grids[laid.grid(s).0].count() as u64;
                (program.graphs[laid.graph(s).0].clone(), windows)
            };
            let count = laid.boundaries() + 1;
            Ok(Stages {
                segments: (0..count).map(segment).collect(),
                states: (0..count).map(|b| if b == 0 { 0 } else { laid.state_bytes(b) }).collect(),
                forced: (0..count).map(|s| laid.must_keep(s)).collect(),
            })
        };
        Ok([of(&mut program, 0)?, of(&mut program, 1)?])
    }

    /// The program for a target of `[rows, columns]`.
    pub fn latent_program(
        &self,
        target: [u32; 2],
        conditioning: &Conditioning,
        shaping: &Shaping,
        plan: &LatentPlan,
    ) -> Result<Program> {
        let norms = match plan.norms {
            Norms::Whole => "whole",
            Norms::Exact => "exact",
            Norms::Shared => "shared",
        };
        let name = format!("{NAME} {norms}");
        let mut program = Program::new(name, target, 0);
        let canvases = self.canvases(&mut program, plan.picture);
        let graphs = self.vae_graphs(shaping)?;
        let checkpoint = self.norm_tensors()?;
        let tensors = |name: &str| read(&checkpoint, name);
        for i in 0..2 {
            let part = self.part(i, &graphs, target, shaping, plan.attention, &canvases, &tensors);
            match plan.norms {
                Norms::Whole => vae_modes::whole(&mut program, &part)?,
                Norms::Exact => {
                    let laid = vae_modes::lay(&mut program, &part, None)?;
                    vae_modes::exact(&mut program, &laid, &plan.keep[i], false)?;
                }
                Norms::Shared => {
                    let laid: Laid = vae_modes::lay(&mut program, &part, None)?;
                    let (blocks, windows) = MOSAIC;
                    let side = part.tile.saturating_mul(windows);
                    let sampled = vae_modes::proxy(&mut program, &part, &laid, Proxy::Mosaic(blocks), side)?;
                    vae_modes::shared(&mut program, &laid, &sampled.statistics)?;
                }
            }
            if i == 0 {
                self.denoise(&mut program, target, conditioning, shaping, &canvases)?;
            }
        }
        program.check()?;
        Ok(program)
    }

    /// Picture, result, latent before and after the denoiser.
    fn canvases(&self, program: &mut Program, picture: Residency) -> [CanvasId; 4] {
        let pixels = Extent::OfTarget { num: 1, den: 1 };
        let latents = Extent::Fixed(self.latents(program.target));
        let z = self.vae.latent_channels();
        let list = [
            (INPUT, pixels, 3, picture),
            (OUTPUT, pixels, 3, Residency::Band),
            ("latent", latents, z, Residency::Whole),
            ("clean", latents, z, Residency::Whole),
        ];
        list.map(|(name, extent, channels, residency)| {
            program.canvases.push(Canvas { name: name.into(), extent, channels, residency });
            let id = CanvasId(program.canvases.len() - 1);
            if name == INPUT {
                program.transient.push(id);
            }
            id
        })
    }

    /// Encoder and decoder with what joins them to picture and latent, over one small window.
    fn vae_graphs(&self, shaping: &Shaping) -> Result<[Graph; 2]> {
        let side = BUILT * self.vae.factor();
        let (batch, dtype) = (shaping.batch, shaping.dtype);
        let launch = Launch { batch, height: side, width: side, tokens: 1, dtype };
        let [encode, _, decode] = self.graphs(&launch, [batch; 3])?;
        Ok([encode, decode])
    }

    /// The autoencoder's file, of which the norms' vectors are read.
    fn norm_tensors(&self) -> Result<Checkpoint> {
        Checkpoint::open(&self.folder.join("vae"))
    }

    #[expect(clippy::too_many_arguments, reason = "a part is made of all of these")]
    fn part<'a>(
        &self,
        i: usize,
        graphs: &'a [Graph; 2],
        target: [u32; 2],
        shaping: &Shaping,
        attention: Attention,
        canvases: &[CanvasId; 4],
        tensors: &'a vae_modes::Tensors<'a>,
    ) -> Part<'a> {
        let [picture, result, latent, clean] = *canvases;
        let window = Feed { name: "window".into(), canvas: picture, affine: [2.0, -1.0] };
        let (name, feeds, output) = if i == 0 {
            ("encode", vec![window], latent)
        } else {
            let clean = Feed { name: "clean".into(), canvas: clean, affine: [1.0, 0.0] };
            ("decode", if self.residual { vec![clean, window] } else { vec![clean] }, result)
        };
        Part {
            name,
            graph: &graphs[i],
            latents: self.latents(target),
            tile: (shaping.tile / self.vae.factor()).max(1),
            batch: shaping.batch,
            feeds,
            output,
            attention,
            tensors,
        }
    }

    /// The denoiser's windows over the latent. Its one step is linear in the prediction, so blending the latents of
    /// the windows is blending their predictions.
    fn denoise(
        &self,
        program: &mut Program,
        target: [u32; 2],
        conditioning: &Conditioning,
        shaping: &Shaping,
        canvases: &[CanvasId; 4],
    ) -> Result<()> {
        let (f, stride) = (self.vae.factor(), self.unet.stride());
        let latents = self.latents(target);
        let tile = (shaping.tile / f).next_multiple_of(stride).max(stride);
        let overlap = (shaping.overlap / f).min(tile / 2);
        let placement = Placement::Fitted;
        let grid = Grid::new(latents[0], latents[1], &Tiling { tile, overlap, stride, quantum: stride, placement })?;
        let prompt = self.prompt()?;
        let tokens = prompt.as_ref().map_or(1, |p| p.0);
        let [height, width] = [grid.rows.size * f, grid.cols.size * f];
        let launch = Launch { batch: shaping.batch, height, width, tokens, dtype: shaping.dtype };
        let [_, graph, _] = self.graphs(&launch, [shaping.batch; 3])?;
        program.tables.push(Table { name: "timestep".into(), width: 1, values: vec![self.timestep as f32] });
        let table = TableId(program.tables.len() - 1);
        let crop = Source::Crop { canvas: canvases[2], ratio: Ratio::ONE, gain: 1.0, shift: 0.0 };
        let mut sources = vec![("latent".to_owned(), crop), ("unet.timestep".to_owned(), Source::Table(table))];
        if !self.planes.is_empty() {
            let values: Vec<f32> = self.planes.iter().map(|p| conditioning.of(*p)).collect();
            let pixels = shaping.batch as usize * (grid.rows.size * grid.cols.size) as usize;
            sources.push(("planes".to_owned(), Source::Constant(values.repeat(pixels))));
        }
        if let Some((_, values)) = prompt {
            sources.push(("unet.encoder_hidden_states".to_owned(), Source::Constant(values)));
        }
        let blend = Sink::Blend {
            canvas: canvases[3],
            ratio: Ratio::ONE,
            ramp: Ramp::Cosine,
            halo: overlap / 8,
            gains: vec![1.0],
            last_step_only: false,
        };
        program.graphs.push(graph);
        program.grids.push(grid);
        let phase = WindowPhase {
            name: "denoise".into(),
            graph: GraphId(program.graphs.len() - 1),
            grid: GridId(program.grids.len() - 1),
            branches: 1,
            contexts: Contexts::Branch,
            sources,
            sinks: vec![("clean".to_owned(), blend)],
        };
        program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases: vec![Phase::Windows(phase)] });
        Ok(())
    }
}

/// A tensor of the autoencoder by the joined graph's name for it.
fn read(checkpoint: &Checkpoint, name: &str) -> Result<Vec<f32>> {
    let own = name.strip_prefix("vae.").ok_or_else(|| wrong(format!("`{name}` is not the autoencoder's")))?;
    checkpoint.read_f32(own)
}
