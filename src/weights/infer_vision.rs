//! The config.json that the tensors of a superpixel network, of Depth Anything and of SAM's encoder imply. Shapes
//! tell the variant; what they do not tell is what every published one has.

use super::infer::Shapes;
use super::layout::Naming;
use crate::error::Result;
use crate::limits;
use serde_json::{Value, json};

/// Channels of a head of DINOv2.
const HEAD: u64 = 64;
/// Layers that any of these networks may have.
const MAX_LAYERS: usize = limits::MAX_LEVEL_LAYERS as usize;

impl Shapes<'_> {
    pub(super) fn superpixel(&self) -> Result<Value> {
        let levels = self.count("conv", "a.0.weight", limits::MAX_NETWORK_LEVELS)?;
        let width = |i| self.extent(&format!("conv{i}a.0.weight"), 0);
        let channels: Vec<u64> = (0..levels).map(width).collect::<Result<_>>()?;
        Ok(json!({
            "_class_name": "SpixelNet1l_bn",
            "in_channels": self.extent("conv0a.0.weight", 1)?,
            "out_channels": self.extent("pred_mask0.weight", 0)?,
            "block_out_channels": channels,
        }))
    }

    /// Side of the square grid that `positions` are of.
    fn grid(&self, positions: u64, patch: u64) -> Result<u64> {
        let side = positions.isqrt();
        if side == 0 || side * side != positions || patch > limits::MAX_SIDE / side {
            return Err(self.bad(format!("{positions} positions are not those of a square of patches")));
        }
        Ok(side)
    }

    /// Depth Anything v1, whose last four layers go on.
    pub(super) fn depth(&self, naming: Naming) -> Result<Value> {
        let patch_weight = "backbone.embeddings.patch_embeddings.projection.weight";
        let (hidden, patch) = (self.extent(patch_weight, 0)?, self.extent(patch_weight, 2)?);
        let layers = self.count("backbone.encoder.layer.", ".norm1.weight", MAX_LAYERS)?;
        if layers < 4 || !hidden.is_multiple_of(HEAD) {
            return Err(self.bad(format!("{layers} layers of width {hidden}: no variant of Depth Anything")));
        }
        let positions = self.extent("backbone.embeddings.position_embeddings", 1)?;
        let side = self.grid(positions - 1, patch)?;
        let middle = self.extent("backbone.encoder.layer.0.mlp.fc1.weight", 0)?;
        let neck = |i| self.extent(&format!("neck.reassemble_stage.layers.{i}.projection.weight"), 0);
        let mut backbone = json!({
            "model_type": "dinov2",
            "hidden_size": hidden,
            "image_size": side * patch,
            "patch_size": patch,
            "num_channels": self.extent(patch_weight, 1)?,
            "num_attention_heads": hidden / HEAD,
            "num_hidden_layers": layers,
            "mlp_ratio": middle as f64 / hidden as f64,
            "out_indices": (layers - 3..=layers).collect::<Vec<_>>(),
            "reshape_hidden_states": false,
        });
        if naming == Naming::Original {
            backbone["interpolate_offset"] = json!(0.1);
        }
        Ok(json!({
            "architectures": ["DepthAnythingForDepthEstimation"],
            "model_type": "depth_anything",
            "backbone_config": backbone,
            "patch_size": patch,
            "reassemble_hidden_size": hidden,
            "neck_hidden_sizes": (0..4).map(neck).collect::<Result<Vec<_>>>()?,
            "fusion_hidden_size": self.extent("neck.convs.0.weight", 0)?,
            "head_hidden_size": self.extent("head.conv2.weight", 0)?,
        }))
    }

    /// SAM's encoder: layers whose relative positions span the whole grid look at all of it, the others at windows.
    pub(super) fn sam(&self) -> Result<Value> {
        let layer = |i: usize, leaf: &str| format!("vision_encoder.layers.{i}.{leaf}");
        let patch_weight = "vision_encoder.patch_embed.projection.weight";
        let (hidden, patch) = (self.extent(patch_weight, 0)?, self.extent(patch_weight, 2)?);
        let layers = self.count("vision_encoder.layers.", ".layer_norm1.weight", MAX_LAYERS)?;
        let side = self.extent("vision_encoder.pos_embed", 1)?;
        self.grid(side.saturating_mul(side), patch)?;
        let (mut global, mut window) = (Vec::new(), None);
        for i in 0..layers {
            let reach = self.extent(&layer(i, "attn.rel_pos_h"), 0)?.div_ceil(2);
            match reach == side {
                true => global.push(i),
                false => window = window.or(Some(reach)),
            }
        }
        let head = self.extent(&layer(0, "attn.rel_pos_h"), 1)?;
        if !hidden.is_multiple_of(head) {
            return Err(self.bad(format!("heads of {head} channels in a width of {hidden}")));
        }
        Ok(json!({
            "architectures": ["SamVisionModel"],
            "model_type": "sam_vision_model",
            "hidden_size": hidden,
            "image_size": side * patch,
            "patch_size": patch,
            "num_channels": self.extent(patch_weight, 1)?,
            "num_attention_heads": hidden / head,
            "num_hidden_layers": layers,
            "mlp_dim": self.extent(&layer(0, "mlp.lin1.weight"), 0)?,
            "output_channels": self.extent("vision_encoder.neck.conv1.weight", 0)?,
            "global_attn_indexes": global,
            "window_size": window.unwrap_or(14),
        }))
    }
}
