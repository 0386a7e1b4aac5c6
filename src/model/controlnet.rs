//! `ControlNetModel`: the down path of a UNet that reads a picture and gives residuals for each skip.

use super::Extents;
use super::blocks::{BlockConfig, Mid};
use super::config::Fields;
use crate::error::{Error, Kind, Result};
use crate::graph::op::{Lifetime, Padding, Pointwise};
use crate::graph::{Act, Builder, DType, Graph, Op, Shape, ValueId};
use crate::limits;
use serde_json::json;

/// A ControlNet as its config describes it.
#[derive(Debug, Clone, PartialEq)]
pub struct ControlNetModel {
    blocks: BlockConfig,
    conditioning_channels: u32,
    /// Channels of the picture's embedding, finest first; each but the first halves the sides.
    embedding: Vec<u32>,
}

impl ControlNetModel {
    /// Reads `controlnet/config.json`.
    pub fn from_config(text: &str) -> Result<ControlNetModel> {
        let mut f = Fields::new("ControlNetModel", text)?;
        let blocks = BlockConfig::read(&mut f)?;
        let conditioning_channels = f.u32("conditioning_channels", 3, limits::MAX_CHANNELS)?;
        let embedding = f.channels_list("conditioning_embedding_out_channels", &[16, 32, 96, 256])?;
        f.only("controlnet_conditioning_channel_order", &[json!("rgb")])?;
        f.only("global_pool_conditions", &[json!(false)])?;
        if blocks.mid == Mid::None {
            return Err(f.wrong("mid_block_type", "a ControlNet needs a middle"));
        }
        f.finish()?;
        Ok(ControlNetModel { blocks, conditioning_channels, embedding })
    }

    /// Channels of `sample`.
    pub fn in_channels(&self) -> u32 {
        self.blocks.in_channels
    }

    /// Channels of `controlnet_cond`.
    pub fn conditioning_channels(&self) -> u32 {
        self.conditioning_channels
    }

    /// Channels of the context tokens; `None` when no layer looks at a context, and then the graph has no
    /// input `encoder_hidden_states`.
    pub fn context_channels(&self) -> Option<u32> {
        if self.blocks.looks_at_context() { self.blocks.context.iter().flatten().next().copied() } else { None }
    }

    /// Picture pixels per latent, on each axis.
    pub fn factor(&self) -> u32 {
        1 << (self.embedding.len() - 1)
    }

    /// Number of `down_block_res_samples`.
    pub fn skips(&self) -> usize {
        self.blocks.skips()
    }

    /// The graph: inputs `sample`, `timestep`, `encoder_hidden_states` (where a layer looks at it) and
    /// `controlnet_cond` ([`ControlNetModel::factor`] times the sample's sides, RGB in 0 to 1); outputs
    /// `down_block_res_samples.N` and `mid_block_res_sample`, times `scale`.
    pub fn build(&self, e: &Extents, scale: f32, dtype: DType) -> Result<Graph> {
        let c = &self.blocks;
        let mut builder =
            Builder::new(format!("controlnet {}x{} b{} {}", e.height, e.width, e.batch, dtype.name()), dtype);
        let b = &mut builder;
        let window = |c: u32, f: u32| Shape::new(e.batch, f * e.height, f * e.width, c);
        let sides = u64::from(e.height.max(e.width)) * u64::from(self.factor());
        if sides > limits::MAX_SIDE {
            let why = format!("controlnet_cond has {sides} pixels a side, the limit is {}", limits::MAX_SIDE);
            return Err(Error::new(Kind::Limit, "model", why).advise("use a smaller tile"));
        }
        let sample = b.input("sample", window(c.in_channels, 1), dtype, Lifetime::Window);
        let shape = window(self.conditioning_channels, self.factor());
        let picture = b.input("controlnet_cond", shape, dtype, Lifetime::Window);
        let time = c.time(b, e.steps)?;
        let context = if c.looks_at_context() { c.context_input(b, e, dtype)? } else { None };
        let x = b.conv("conv_in", sample, c.channels[0], 3, 1, Padding::all(1))?;
        let p = self.embed(b, picture)?;
        let x = b.add("conv_in.sum", p, x)?;
        let skips = c.down(b, x, time, context)?;
        let mid = c.middle(b, skips[skips.len() - 1], time, context)?;
        for (i, &skip) in skips.iter().enumerate() {
            residual(b, &format!("controlnet_down_blocks.{i}"), skip, scale, &format!("down_block_res_samples.{i}"))?;
        }
        residual(b, "controlnet_mid_block", mid, scale, "mid_block_res_sample")?;
        Ok(builder.finish())
    }

    /// `ControlNetConditioningEmbedding`: the picture brought down to the latent's size.
    fn embed(&self, b: &mut Builder, picture: ValueId) -> Result<ValueId> {
        b.module("controlnet_cond_embedding", |b| {
            let x = b.conv("conv_in", picture, self.embedding[0], 3, 1, Padding::all(1))?;
            let mut x = b.activation("conv_in.act", x, Act::Silu)?;
            for (i, pair) in self.embedding.windows(2).enumerate() {
                for (name, out, stride) in [(2 * i, pair[0], 1), (2 * i + 1, pair[1], 2)] {
                    let name = format!("blocks.{name}");
                    x = b.conv(&name, x, out, 3, stride, Padding::all(1))?;
                    x = b.activation(&format!("{name}.act"), x, Act::Silu)?;
                }
            }
            b.conv("conv_out", x, self.blocks.channels[0], 3, 1, Padding::all(1))
        })
    }
}

/// A 1x1 convolution of a skip, scaled, as an output.
fn residual(b: &mut Builder, name: &str, x: ValueId, scale: f32, output: &str) -> Result<()> {
    let c = b.shape(x).c;
    let mut x = b.conv(name, x, c, 1, 1, Padding::default())?;
    if scale != 1.0 {
        let op = Pointwise { alpha: scale, beta: None, gamma: 0.0, act: Act::None, clamp: None, table: false };
        x = b.push(output, Op::Pointwise(op), &[x])?;
    }
    b.output(output, x);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::super::parameters;
    use super::super::published::SD21_CONTROLNET;
    use super::*;

    #[test]
    fn the_published_network_has_the_published_number_of_parameters() {
        let net = ControlNetModel::from_config(SD21_CONTROLNET).expect("config");
        let g = net.build(&Extents::of(64, 64), 1.0, DType::F16).expect("graph");
        assert_eq!(parameters(&g), 364_228_240);
        assert_eq!((g.outputs.len(), net.skips(), net.factor()), (13, 12, 8));
        assert_eq!(g.outputs[12].0, "mid_block_res_sample");
        assert_eq!(g.value(g.outputs[0].1).shape, Shape::new(1, 64, 64, 320));
    }

    #[test]
    fn swapped_channels_are_refused() {
        let text = SD21_CONTROLNET.replace("\"rgb\"", "\"bgr\"");
        let e = ControlNetModel::from_config(&text).expect_err("bgr");
        assert!(e.message().contains("controlnet_conditioning_channel_order"), "{e}");
    }
}
