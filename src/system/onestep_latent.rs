//! The one-step system over latent canvases: the picture is encoded in windows, the denoiser's windows lie on one
//! latent of the whole picture, and that is decoded in windows, each network's norms as the VAE mode has it.

use super::job::Job;
use super::latent::{self, Autoencoder, LatentForm, LatentPlan, LatentProgram};
use super::onestep::{Conditioning, INPUT, OUTPUT, OneStep, Shaping};
use super::onestep_program::Launch;
use super::phase::{Block, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use super::program::{Canvas, CanvasId, Extent, GraphId, GridId, Program, Ratio, Residency, Table, TableId};
use super::vae_modes::{self, Attention, Feed, Part};
use crate::error::Result;
use crate::graph::{DType, Graph};
use crate::model::vae::AutoencoderKL;
use crate::tile::geometry::{Placement, Tiling};
use crate::tile::{Grid, Ramp};
use crate::weights::Checkpoint;

/// How the programs of this form are called, before the mode.
pub const NAME: &str = "onestep, vae";
/// Side, latents, of the windows that a graph is first built for; it is resized to those of the picture.
const BUILT: u32 = 16;
impl LatentForm for OneStep {
    fn vae(&self) -> &AutoencoderKL {
        &self.vae
    }

    fn latent_program(&self, job: &Job, shaping: &Shaping, plan: &LatentPlan) -> Result<LatentProgram> {
        let target = job.target;
        let mut program = Program::new(format!("{NAME} {}", plan.norms.name()), target, 0);
        let canvases = self.canvases(&mut program, plan.picture);
        let graphs = self.vae_graphs(shaping)?;
        let checkpoint = Checkpoint::open(&self.folder.join("vae"))?;
        let tensors = |name: &str| latent::read(&checkpoint, name);
        let mut vae = Autoencoder::new(plan, &checkpoint);
        for i in 0..2 {
            let part = self.part(i, &graphs, target, shaping, plan.attention, &canvases, &tensors);
            vae.lay(&mut program, &part)?;
            if i == 0 {
                self.denoise(&mut program, target, &job.conditioning, shaping, &canvases)?;
            }
        }
        program.check()?;
        Ok(vae.finish(program))
    }
}

impl OneStep {
    /// The three networks as they are, over one small window: what the checkpoints must hold.
    pub fn uncut(&self) -> Result<[Graph; 3]> {
        let side = BUILT * self.stride();
        let tokens = self.prompt()?.map_or(1, |p| p.0);
        self.graphs(&Launch { batch: 1, height: side, width: side, tokens, dtype: DType::F32 }, [1; 3])
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
