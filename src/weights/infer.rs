//! The config.json that a network's tensors imply, for files that come without one.
//!
//! Shapes fix nearly everything. What they cannot tell is what the published networks of that shape have
//! (head counts, activation, scaling factor), and where no published network has that shape, an error.
//! Fields that are left out have diffusers' defaults, which are the published values.

use super::Part;
use super::layout::{Naming, count};
use crate::error::{Error, Kind, Result};
use crate::limits;
use serde_json::{Value, json};
use std::collections::HashMap;

/// Channels per head of every network with linear projections, and of CLIP text encoders.
const HEAD: u64 = 64;
/// Heads of every level of the networks with 1x1-convolution projections (SD 1.x).
const SD1_HEADS: u64 = 8;
/// Groups of every published norm.
const GROUPS: u64 = 32;
/// Channels of a latent of SD 1.x and 2.x.
const LATENT: u64 = 4;

/// Shapes of a network's tensors by diffusers' names.
pub(super) struct Shapes<'a> {
    path: &'a str,
    map: HashMap<&'a str, &'a [u64]>,
}

impl<'a> Shapes<'a> {
    pub(super) fn new(path: &'a str, tensors: impl Iterator<Item = (&'a str, &'a [u64])>) -> Shapes<'a> {
        Shapes { path, map: tensors.collect() }
    }

    fn has(&self, name: &str) -> bool {
        self.map.contains_key(name)
    }

    pub(super) fn bad(&self, why: impl std::fmt::Display) -> Error {
        Error::new(Kind::Weights, "weights", format!("{}: {why}", self.path))
            .advise("put the config.json of the same checkpoint beside the file")
    }

    /// Extent `axis` of a tensor that must be there.
    pub(super) fn extent(&self, name: &str, axis: usize) -> Result<u64> {
        let shape = self.map.get(name).ok_or_else(|| self.bad(format!("no tensor `{name}`")))?;
        let extent = shape.get(axis).copied().filter(|&e| e > 0);
        extent.ok_or_else(|| self.bad(format!("`{name}` is {shape:?}: no axis {axis} to read the config from")))
    }

    /// Tensors `{head}{i}{tail}`, at most `limit`.
    pub(super) fn count(&self, head: &str, tail: &str, limit: usize) -> Result<usize> {
        match count(|n| self.has(n), head, tail) {
            n if n <= limit => Ok(n),
            n => Err(self.bad(format!("{n} of `{head}N{tail}`, the limit is {limit}"))),
        }
    }

    /// The config of `part`.
    pub(super) fn config(&self, part: Part, naming: Naming) -> Result<String> {
        let config = match part {
            Part::Unet => self.unet()?,
            Part::ControlNet => self.controlnet()?,
            Part::Vae => self.vae()?,
            Part::TextEncoder => self.text(naming)?,
            Part::ImageEncoder => self.vision()?,
            Part::Superpixel => self.superpixel()?,
            Part::Depth => self.depth(naming)?,
            Part::Sam => self.sam()?,
        };
        Ok(config.to_string())
    }

    fn grouped(&self, channels: &[u64]) -> Result<()> {
        match channels.iter().find(|c| !c.is_multiple_of(GROUPS)) {
            None => Ok(()),
            Some(c) => {
                Err(self.bad(format!("{c} channels are not a multiple of {GROUPS}: the norms' groups are unknown")))
            }
        }
    }

    /// Fields that UNets and ControlNets share.
    fn down(&self) -> Result<Value> {
        let levels = self.count("down_blocks.", ".resnets.0.conv1.weight", limits::MAX_NETWORK_LEVELS)?;
        if levels == 0 {
            return Err(self.bad("no tensor `down_blocks.0.resnets.0.conv1.weight`"));
        }
        let (mut channels, mut layers, mut depth, mut kinds) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut context = None;
        let mut linear = None;
        let mut attends = |head: &str| -> Result<usize> {
            let n =
                self.count(&format!("{head}.transformer_blocks."), ".norm1.weight", limits::MAX_LEVEL_LAYERS as usize)?;
            if n > 0 && context.is_none() {
                context = Some(self.extent(&format!("{head}.transformer_blocks.0.attn2.to_k.weight"), 1)?);
                linear = self.map.get(format!("{head}.proj_in.weight").as_str()).map(|s| s.len() == 2);
            }
            Ok(n)
        };
        for level in 0..levels {
            let head = format!("down_blocks.{level}");
            channels.push(self.extent(&format!("{head}.resnets.0.conv1.weight"), 0)?);
            layers.push(self.count(&format!("{head}.resnets."), ".conv1.weight", limits::MAX_LEVEL_LAYERS as usize)?);
            let blocks = attends(&format!("{head}.attentions.0"))?;
            kinds.push(if blocks > 0 { "CrossAttnDownBlock2D" } else { "DownBlock2D" });
            depth.push(blocks.max(1));
        }
        let middle = attends("mid_block.attentions.0")?;
        if middle > 0 {
            // the middle is as deep as the last level's transformers
            depth[levels - 1] = middle;
        }
        let mid = match (middle, self.has("mid_block.resnets.0.conv1.weight")) {
            (0, false) => Value::Null,
            (0, true) => json!("UNetMidBlock2D"),
            _ => json!("UNetMidBlock2DCrossAttn"),
        };
        self.grouped(&channels)?;
        let linear = linear.unwrap_or(false);
        let heads: Value = if linear {
            if let Some(c) = channels.iter().find(|c| !c.is_multiple_of(HEAD)) {
                return Err(self.bad(format!("{c} channels are not a multiple of {HEAD}: the head count is unknown")));
            }
            channels.iter().map(|c| c / HEAD).collect()
        } else {
            json!(SD1_HEADS)
        };
        Ok(json!({
            "in_channels": self.extent("conv_in.weight", 1)?,
            "block_out_channels": channels,
            "layers_per_block": layers,
            "transformer_layers_per_block": depth,
            "down_block_types": kinds,
            "mid_block_type": mid,
            "cross_attention_dim": context,
            "use_linear_projection": linear,
            "attention_head_dim": heads,
            "norm_num_groups": GROUPS,
        }))
    }

    fn unet(&self) -> Result<Value> {
        let mut config = self.down()?;
        let levels = self.count("up_blocks.", ".resnets.0.conv1.weight", limits::MAX_NETWORK_LEVELS)?;
        let kind = |i: usize| match self.has(&format!("up_blocks.{i}.attentions.0.norm.weight")) {
            true => "CrossAttnUpBlock2D",
            false => "UpBlock2D",
        };
        config["_class_name"] = json!("UNet2DConditionModel");
        config["out_channels"] = json!(self.extent("conv_out.weight", 0)?);
        config["up_block_types"] = (0..levels).map(kind).collect();
        Ok(config)
    }

    fn controlnet(&self) -> Result<Value> {
        let mut config = self.down()?;
        let embedding = "controlnet_cond_embedding";
        let mut channels = vec![self.extent(&format!("{embedding}.conv_in.weight"), 0)?];
        let blocks = self.count(&format!("{embedding}.blocks."), ".weight", 2 * limits::MAX_NETWORK_LEVELS)?;
        for block in (1..blocks).step_by(2) {
            channels.push(self.extent(&format!("{embedding}.blocks.{block}.weight"), 0)?);
        }
        config["_class_name"] = json!("ControlNetModel");
        config["conditioning_channels"] = json!(self.extent(&format!("{embedding}.conv_in.weight"), 1)?);
        config["conditioning_embedding_out_channels"] = json!(channels);
        Ok(config)
    }

    fn vae(&self) -> Result<Value> {
        let levels = self.count("encoder.down_blocks.", ".resnets.0.conv1.weight", limits::MAX_NETWORK_LEVELS)?;
        if levels == 0 {
            return Err(self.bad("an autoencoder without an encoder"));
        }
        let mut channels = Vec::new();
        for level in 0..levels {
            channels.push(self.extent(&format!("encoder.down_blocks.{level}.resnets.0.conv1.weight"), 0)?);
        }
        self.grouped(&channels)?;
        let latent = self.extent("decoder.conv_in.weight", 1)?;
        if latent != LATENT {
            let family = if latent == 16 { " (those of SD3 and FLUX have 16)" } else { "" };
            return Err(self.bad(format!("latents of {latent} channels{family}: their scaling factor is unknown")));
        }
        let layers =
            self.count("encoder.down_blocks.0.resnets.", ".conv1.weight", limits::MAX_LEVEL_LAYERS as usize)?;
        Ok(json!({
            "_class_name": "AutoencoderKL",
            "in_channels": self.extent("encoder.conv_in.weight", 1)?,
            "out_channels": self.extent("decoder.conv_out.weight", 0)?,
            "block_out_channels": channels,
            "down_block_types": vec!["DownEncoderBlock2D"; levels],
            "up_block_types": vec!["UpDecoderBlock2D"; levels],
            "layers_per_block": layers,
            "latent_channels": latent,
            "norm_num_groups": GROUPS,
            "mid_block_add_attention": self.has("encoder.mid_block.attentions.0.group_norm.weight"),
            "use_quant_conv": self.has("quant_conv.weight"),
            "use_post_quant_conv": self.has("post_quant_conv.weight"),
            "scaling_factor": 0.18215,
        }))
    }

    fn text(&self, naming: Naming) -> Result<Value> {
        let hidden = self.extent("text_model.embeddings.token_embedding.weight", 1)?;
        let layers =
            self.count("text_model.encoder.layers.", ".mlp.fc1.weight", 4 * limits::MAX_LEVEL_LAYERS as usize)?;
        // OpenAI's CLIP was trained with an approximate GELU, OpenCLIP with the true one.
        let act = match (naming, hidden) {
            (Naming::OpenClip, _) | (_, 1024) => "gelu",
            (Naming::Ldm, _) | (_, 768) => "quick_gelu",
            (Naming::Diffusers | Naming::Original, _) => {
                return Err(self.bad(format!("a text encoder of width {hidden}: its activation is unknown")));
            }
        };
        if layers == 0 || !hidden.is_multiple_of(HEAD) {
            let why = format!("a text encoder of {layers} layers and width {hidden}: its head count is unknown");
            return Err(self.bad(why));
        }
        Ok(json!({
            "architectures": ["CLIPTextModel"],
            "model_type": "clip_text_model",
            "vocab_size": self.extent("text_model.embeddings.token_embedding.weight", 0)?,
            "hidden_size": hidden,
            "intermediate_size": self.extent("text_model.encoder.layers.0.mlp.fc1.weight", 0)?,
            "num_hidden_layers": layers,
            "num_attention_heads": hidden / HEAD,
            "max_position_embeddings": self.extent("text_model.embeddings.position_embedding.weight", 0)?,
            "hidden_act": act,
            "layer_norm_eps": 1e-5,
        }))
    }

    fn vision(&self) -> Result<Value> {
        let patch = "vision_model.embeddings.patch_embedding.weight";
        let (hidden, side) = (self.extent(patch, 0)?, self.extent(patch, 2)?);
        // ViT-L/14 of OpenAI and ViT-H/14 of OpenCLIP; both have 16 heads
        let act = match hidden {
            1024 => "quick_gelu",
            1280 => "gelu",
            _ => return Err(self.bad(format!("a vision encoder of width {hidden}: its activation is unknown"))),
        };
        let tokens = self.extent("vision_model.embeddings.position_embedding.weight", 0)?;
        let rows = (tokens - 1).isqrt();
        if rows == 0 || rows * rows + 1 != tokens || side > limits::MAX_SIDE / rows {
            return Err(self.bad(format!("{tokens} positions are not a square of patches and a class token")));
        }
        Ok(json!({
            "architectures": ["CLIPVisionModel"],
            "model_type": "clip_vision_model",
            "hidden_size": hidden,
            "intermediate_size": self.extent("vision_model.encoder.layers.0.mlp.fc1.weight", 0)?,
            "num_hidden_layers": self.count("vision_model.encoder.layers.", ".mlp.fc1.weight", 4 * limits::MAX_LEVEL_LAYERS as usize)?,
            "num_attention_heads": 16,
            "num_channels": self.extent(patch, 1)?,
            "image_size": rows * side,
            "patch_size": side,
            "hidden_act": act,
            "layer_norm_eps": 1e-5,
        }))
    }

    /// The scheduler's config that goes with a UNet of this shape. What a UNet predicts cannot be seen in
    /// its weights; diffusers takes epsilon for context width 768 and v for 1024 (the 768-pixel SD 2.x).
    pub(super) fn scheduler(&self) -> Result<String> {
        let context = self.down()?["cross_attention_dim"].as_u64();
        let prediction = if context == Some(1024) { "v_prediction" } else { "epsilon" };
        Ok(json!({
            "_class_name": "PNDMScheduler",
            "beta_start": 0.00085,
            "beta_end": 0.012,
            "beta_schedule": "scaled_linear",
            "num_train_timesteps": 1000,
            "prediction_type": prediction,
            "skip_prk_steps": true,
            "set_alpha_to_one": false,
            "steps_offset": 1,
        })
        .to_string())
    }
}
