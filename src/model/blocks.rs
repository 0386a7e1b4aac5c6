//! What `UNet2DConditionModel` and `ControlNetModel` share: their config fields, the time embedding, the
//! down path and the middle.

use super::Extents;
use super::config::Fields;
use super::resnet::{Norm, downsample, resnet};
use super::transformer::{Transformer, transformer};
use crate::error::{Error, Kind, Result};
use crate::extent::CHANNEL_ALIGN;
use crate::graph::op::{Lifetime, TimeEmbedding};
use crate::graph::{Act, Builder, DType, Shape, ValueId};
use crate::limits;
use serde_json::json;

/// The middle of a UNet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mid {
    /// Resnet, transformer, resnet.
    CrossAttn,
    /// One resnet: diffusers builds `UNetMidBlock2D` with no further layers here.
    Resnet,
    /// Nothing.
    None,
}

/// Fields of the down path, the middle and the time embedding, checked.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct BlockConfig {
    pub(super) in_channels: u32,
    /// Channels of each level, finest first.
    pub(super) channels: Vec<u32>,
    /// Resnets of each level on the way down (one more on the way up).
    pub(super) layers: Vec<u32>,
    /// Whether a level of the down path has transformers.
    pub(super) attention: Vec<bool>,
    pub(super) mid: Mid,
    pub(super) heads: Vec<u32>,
    pub(super) transformer_layers: Vec<u32>,
    /// Channels of the context tokens; `None` only where nothing looks at them.
    pub(super) context: Vec<Option<u32>>,
    pub(super) groups: u32,
    pub(super) eps: f32,
    pub(super) downsample_padding: u32,
    pub(super) flip_sin_to_cos: bool,
    pub(super) freq_shift: f32,
    pub(super) time_dim: u32,
}

const DOWN: [&str; 2] = ["DownBlock2D", "CrossAttnDownBlock2D"];
const MIDS: [&str; 2] = ["UNetMidBlock2DCrossAttn", "UNetMidBlock2D"];

impl BlockConfig {
    /// Reads the shared fields. Defaults are diffusers'.
    pub(super) fn read(f: &mut Fields) -> Result<BlockConfig> {
        let in_channels = f.u32("in_channels", 4, limits::MAX_CHANNELS)?;
        let channels = f.channels_list("block_out_channels", &[320, 640, 1280, 1280])?;
        let levels = channels.len();
        let down = f.choices("down_block_types", &[1, 1, 1, 0], &DOWN)?;
        if down.len() != levels {
            return Err(f.wrong("down_block_types", format!("expected one per block_out_channels, {levels}")));
        }
        let attention: Vec<bool> = down.iter().map(|&i| i == 1).collect();
        let mid = match f.choice("mid_block_type", 0, &MIDS)? {
            Some(0) => Mid::CrossAttn,
            Some(_) => Mid::Resnet,
            None => Mid::None,
        };
        let layers = f.per_level("layers_per_block", 2, u64::from(limits::MAX_LEVEL_LAYERS), levels)?;
        let transformer_layers =
            f.per_level("transformer_layers_per_block", 1, u64::from(limits::MAX_LEVEL_LAYERS), levels)?;
        // Named a dimension, meant (and read by diffusers) as the number of heads.
        let heads = f.per_level("attention_head_dim", 8, limits::MAX_CHANNELS, levels)?;
        f.only("num_attention_heads", &[])?;
        let context = if f.is_null("cross_attention_dim") {
            vec![None; levels]
        } else {
            let dims = f.per_level("cross_attention_dim", 1280, limits::MAX_CHANNELS, levels)?;
            dims.into_iter().map(Some).collect()
        };
        let groups = f.u32("norm_num_groups", 32, limits::MAX_CHANNELS)?;
        let eps = f.eps("norm_eps", 1e-5)?;
        f.choice("act_fn", 0, &["silu", "swish"])?.ok_or_else(|| f.wrong("act_fn", "supported are silu, swish"))?;
        f.only("downsample_padding", &[json!(0), json!(1)])?;
        let downsample_padding = u32::from(f.f32("downsample_padding", 1.0)? != 0.0);
        let flip_sin_to_cos = f.bool("flip_sin_to_cos", true)?;
        let freq_shift = f.f32("freq_shift", 0.0)?;
        let half = channels[0] / 2;
        if channels[0] % 2 != 0 || !(freq_shift >= 0.0 && freq_shift < half as f32) {
            let why = format!("the time embedding has {} channels: an even number is needed, and more", channels[0]);
            return Err(f.wrong("freq_shift", format!("{why} than twice the shift")));
        }
        for (level, (&c, &h)) in channels.iter().zip(&heads).enumerate() {
            if c % groups != 0 {
                return Err(f.wrong("norm_num_groups", format!("does not divide the {c} channels of level {level}")));
            }
            let attends = attention[level] || (level + 1 == levels && mid == Mid::CrossAttn);
            if attends && !heads_fit(c, h) {
                return Err(f.wrong("attention_head_dim", heads_misfit(c, h)));
            }
            if attends && context[level].is_none() {
                return Err(f.wrong("cross_attention_dim", format!("level {level} has attention and needs it")));
            }
        }
        refuse_variants(f)?;
        let time_dim = 4 * channels[0];
        Ok(BlockConfig {
            in_channels,
            channels,
            layers,
            attention,
            mid,
            heads,
            transformer_layers,
            context,
            groups,
            eps,
            downsample_padding,
            flip_sin_to_cos,
            freq_shift,
            time_dim,
        })
    }

    pub(super) fn norm(&self) -> Norm {
        Norm { groups: self.groups, eps: self.eps }
    }

    /// Whether anything on the way down or in the middle looks at the context.
    pub(super) fn looks_at_context(&self) -> bool {
        self.mid == Mid::CrossAttn || self.attention.contains(&true)
    }

    /// Skips that the down path leaves: the first convolution, every layer, every downsampling.
    pub(super) fn skips(&self) -> usize {
        self.layers.iter().map(|&l| l as usize).sum::<usize>() + self.channels.len()
    }

    /// Declares the context tokens, one input for each width: published networks have one.
    pub(super) fn context_input(&self, b: &mut Builder, e: &Extents, dtype: DType) -> Result<Option<ValueId>> {
        let mut dims: Vec<u32> = self.context.iter().flatten().copied().collect();
        dims.dedup();
        match dims[..] {
            [] => Ok(None),
            [dim] => {
                let shape = Shape::new(e.contexts, 1, e.tokens, dim);
                Ok(Some(b.input("encoder_hidden_states", shape, dtype, Lifetime::Context)))
            }
            _ => Err(Error::new(
                Kind::Weights,
                "model",
                format!("cross_attention_dim {dims:?}: levels with different contexts are not supported"),
            )),
        }
    }

    /// SiLU of the time embedding, one row per step: every consumer applies SiLU to it first.
    pub(super) fn time(&self, b: &mut Builder, steps: u32) -> Result<ValueId> {
        let t = b.input("timestep", Shape::new(steps, 1, 1, 1), DType::F32, Lifetime::Step);
        let op = TimeEmbedding {
            dim: self.channels[0],
            flip_sin_to_cos: self.flip_sin_to_cos,
            freq_shift: self.freq_shift,
            max_period: 10_000.0,
        };
        let t = b.time_embedding("time_proj", t, op)?;
        b.module("time_embedding", |b| {
            let t = b.linear("linear_1", t, self.time_dim, true)?;
            let t = b.activation("act", t, Act::Silu)?;
            let t = b.linear("linear_2", t, self.time_dim, true)?;
            b.activation("linear_2+silu", t, Act::Silu)
        })
    }

    /// A transformer of `level`.
    pub(super) fn transformer(&self, level: usize, context: Option<ValueId>) -> Result<Transformer> {
        let context = context.ok_or_else(|| {
            Error::new(Kind::Internal, "model", format!("level {level} has attention but there is no context input"))
        })?;
        Ok(Transformer {
            heads: self.heads[level],
            layers: self.transformer_layers[level],
            groups: self.groups,
            context,
        })
    }

    /// The down path from the first convolution's output `x`; returns every skip, `x` first.
    pub(super) fn down(
        &self,
        b: &mut Builder,
        x: ValueId,
        time: ValueId,
        context: Option<ValueId>,
    ) -> Result<Vec<ValueId>> {
        let mut skips = vec![x];
        let mut x = x;
        let last = self.channels.len() - 1;
        for (level, &c) in self.channels.iter().enumerate() {
            b.module(&format!("down_blocks.{level}"), |b| {
                for i in 0..self.layers[level] {
                    x = resnet(b, &format!("resnets.{i}"), x, c, self.norm(), Some(time))?;
                    if self.attention[level] {
                        x = transformer(b, &format!("attentions.{i}"), x, self.transformer(level, context)?)?;
                    }
                    skips.push(x);
                }
                if level != last {
                    x = downsample(b, x, self.downsample_padding)?;
                    skips.push(x);
                }
                Ok(())
            })?;
        }
        Ok(skips)
    }

    /// The middle.
    pub(super) fn middle(
        &self,
        b: &mut Builder,
        x: ValueId,
        time: ValueId,
        context: Option<ValueId>,
    ) -> Result<ValueId> {
        let last = self.channels.len() - 1;
        let c = self.channels[last];
        b.module("mid_block", |b| match self.mid {
            Mid::None => Ok(x),
            Mid::Resnet => resnet(b, "resnets.0", x, c, self.norm(), Some(time)),
            Mid::CrossAttn => {
                let x = resnet(b, "resnets.0", x, c, self.norm(), Some(time))?;
                let x = transformer(b, "attentions.0", x, self.transformer(last, context)?)?;
                resnet(b, "resnets.1", x, c, self.norm(), Some(time))
            }
        })
    }
}

/// Whether `heads` divide `channels` into parts that begin on the channel pitch, as kernels load them. Every
/// published network's do.
pub(super) fn heads_fit(channels: u32, heads: u32) -> bool {
    channels.is_multiple_of(heads) && u64::from(channels / heads).is_multiple_of(CHANNEL_ALIGN)
}

/// Says what [`heads_fit`] asks for.
pub(super) fn heads_misfit(channels: u32, heads: u32) -> String {
    format!(
        "{heads} heads (diffusers reads this field as a head count) do not divide {channels} channels into \
         multiples of {CHANNEL_ALIGN}"
    )
}

/// Fields that change the network in ways not built here; each is refused unless it has the value that
/// means "as built".
fn refuse_variants(f: &mut Fields) -> Result<()> {
    for key in [
        "class_embed_type",
        "num_class_embeds",
        "addition_embed_type",
        "addition_time_embed_dim",
        "encoder_hid_dim",
        "encoder_hid_dim_type",
        "projection_class_embeddings_input_dim",
    ] {
        f.only(key, &[])?;
    }
    // Read by diffusers only when addition_embed_type is set, which is refused above.
    f.without_effect("addition_embed_type_num_heads");
    // Scores are always f32 here, and how projections are stored is read from the tensors.
    f.bool("upcast_attention", false)?;
    f.bool("use_linear_projection", false)?;
    f.only("only_cross_attention", &[json!(false)])?;
    f.only("resnet_time_scale_shift", &[json!("default")])?;
    f.only("mid_block_scale_factor", &[json!(1)])
}
