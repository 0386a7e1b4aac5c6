//! A CASR stage whose autoencoder works on canvases of the whole stage: its pictures at the target size, their latents,
//! the tiles between these, and the decoder. So no tile has statistics of its own but the UNet's.

use super::casr_program::{Known, Laying};
use super::casr_settings::Latent;
use super::casr_stage::Tiles;
use super::latent::{self, Autoencoder, LatentForm};
use super::phase::{Block, CanvasOp, Nesting, Phase};
use super::program::CanvasId;
use super::vae_modes::{Feed, Part};
use crate::error::Result;
use crate::graph::Graph;

/// Side, latents, of the windows that the autoencoder's graphs are first built for; they are resized to those of the picture.
const BUILT: u32 = 16;
/// Pictures in 0 to 1 as the encoder sees them: factor and shift.
const SIGNED: [f32; 2] = [2.0, -1.0];

/// The canvases between which a stage's tiles work.
pub(super) struct Latents {
    /// Each picture's moments.
    pub(super) moments: Vec<(Latent, CanvasId)>,
    /// What the decoder takes.
    pub(super) clean: CanvasId,
}

impl Laying<'_> {
    /// The blocks of a stage over latents.
    pub(super) fn over_latents(&mut self, known: &Known, vae: &mut Autoencoder<'_>) -> Result<()> {
        let (m, s, to) = (self.model, self.s, self.at.stage.to);
        let (latents, channels) = (m.latents(to), m.vae.latent_channels());
        let with = known.superpixels.is_some();
        let mut shown: Vec<Latent> = s.latents.iter().map(|l| l.shown(with)).collect();
        shown.dedup();

        let enlarged = self.canvas("enlargement", to, 3);
        let mut phases = vec![Phase::Canvas(CanvasOp::Resize { from: self.at.input, to: enlarged })];
        let mut pictures = Vec::new();
        for latent in shown {
            let canvas = match (latent, known.superpixels) {
                (Latent::Superpixels, Some(of)) => {
                    let picture = self.canvas("superpixel picture", to, 3);
                    phases.push(Phase::Canvas(CanvasOp::Paint { of, to: picture }));
                    picture
                }
                _ => enlarged,
            };
            pictures.push((latent, canvas));
        }
        self.at.program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });

        let graphs = {
            let window = [BUILT * m.vae.factor(); 2];
            let (batch, dtype) = (self.shaping.batch, self.shaping.dtype);
            let (input, depth, superpixels, tokens) = ([1; 2], None, with, 1);
            m.autoencoder(s, &Tiles { batch, window, input, depth, superpixels, latent: true, tokens, dtype })?
        };
        let mut moments = Vec::new();
        for (latent, picture) in pictures {
            let canvas = self.canvas(latent.moments(), latents, 2 * channels);
            self.pass(vae, "encode", &graphs[0], vec![window(picture)], canvas)?;
            moments.push((latent, canvas));
        }
        let clean = self.canvas("clean latent", latents, channels);
        let phases = self.tiles(known, Some(&Latents { moments, clean }))?;
        self.at.program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
        let mut feeds = vec![Feed { name: "clean".into(), canvas: clean, affine: [1.0, 0.0] }];
        if s.residual {
            feeds.push(window(enlarged));
        }
        self.pass(vae, "decode", &graphs[1], feeds, self.at.output)
    }

    fn pass(
        &mut self,
        vae: &mut Autoencoder<'_>,
        name: &str,
        graph: &Graph,
        feeds: Vec<Feed>,
        output: CanvasId,
    ) -> Result<()> {
        let checkpoint = vae.checkpoint;
        let tensors = |name: &str| latent::read(checkpoint, name);
        let part = Part {
            name,
            graph,
            latents: self.model.latents(self.at.stage.to),
            tile: (self.shaping.tile / self.model.vae.factor()).max(1),
            batch: self.shaping.batch,
            feeds,
            output,
            attention: vae.plan.attention,
            tensors: &tensors,
        };
        vae.lay(self.at.program, &part)
    }
}

fn window(canvas: CanvasId) -> Feed {
    Feed { name: "window".into(), canvas, affine: SIGNED }
}
