//! `CLIPEncoder`: the transformer that both towers of CLIP are made of.

use super::config::Fields;
use crate::error::Result;
use crate::extent::CHANNEL_ALIGN;
use crate::graph::{Act, Builder, DType, ValueId};
use crate::limits;

/// Activations by transformers' names; its `gelu` is the exact one. The tanh approximations are refused.
pub(super) const ACTIVATIONS: [(&str, Act); 4] =
    [("quick_gelu", Act::QuickGelu), ("gelu", Act::Gelu), ("relu", Act::Relu), ("silu", Act::Silu)];

/// The layers of one tower.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Encoder {
    /// Channels of the running sum.
    pub(super) hidden: u32,
    /// Epsilon of every layer norm.
    pub(super) eps: f32,
    intermediate: u32,
    layers: u32,
    heads: u32,
    act: Act,
}

impl Encoder {
    /// Reads the fields that both towers have. The defaults that differ between them are given: hidden size,
    /// size of the feed-forward's middle, number of heads.
    pub(super) fn read(f: &mut Fields, [hidden, intermediate, heads]: [u32; 3]) -> Result<Encoder> {
        let hidden = f.u32("hidden_size", hidden, limits::MAX_CHANNELS)?;
        let intermediate = f.u32("intermediate_size", intermediate, limits::MAX_CHANNELS)?;
        let layers = f.u32("num_hidden_layers", 12, u64::from(limits::MAX_LEVEL_LAYERS))?;
        let heads = f.u32("num_attention_heads", heads, limits::MAX_CHANNELS)?;
        let eps = f.eps("layer_norm_eps", 1e-5)?;
        let act = f.choice("hidden_act", 0, &ACTIVATIONS.map(|(name, _)| name))?;
        let Some(act) = act else { return Err(f.wrong("hidden_act", "a feed-forward needs one")) };
        f.only("pruned_heads", &[serde_json::json!({})])?;
        if hidden % heads != 0 {
            return Err(f.wrong("num_attention_heads", format!("it does not divide `hidden_size`, {hidden}")));
        }
        if u64::from(hidden / heads) % CHANNEL_ALIGN != 0 {
            let why = format!("heads have {} channels; kernels take multiples of {CHANNEL_ALIGN}", hidden / heads);
            return Err(f.wrong("num_attention_heads", why));
        }
        Ok(Encoder { hidden, eps, intermediate, layers, heads, act: ACTIVATIONS[act].1 })
    }

    /// All layers on `x`, tokens `[n, 1, tokens, hidden]`; with `causal` a token sees itself and those before
    /// it. The last sum is stored as `dtype`.
    pub(super) fn build(&self, b: &mut Builder, mut x: ValueId, causal: bool, dtype: DType) -> Result<ValueId> {
        b.module("encoder.layers", |b| {
            for layer in 0..self.layers {
                let last = layer + 1 == self.layers;
                x = b.module(&layer.to_string(), |b| self.layer(b, x, causal, last.then_some(dtype)))?;
            }
            Ok(x)
        })
    }

    /// `CLIPEncoderLayer`: attention and a feed-forward, each on the layer norm of the running sum.
    fn layer(&self, b: &mut Builder, x: ValueId, causal: bool, dtype: Option<DType>) -> Result<ValueId> {
        let n = b.layer_norm("layer_norm1", x, self.eps)?;
        let a = b.module("self_attn", |b| self.attention(b, n, causal))?;
        let x = b.add("self_attn.sum", a, x)?;
        let n = b.layer_norm("layer_norm2", x, self.eps)?;
        let h = b.module("mlp", |b| {
            let h = b.linear("fc1", n, self.intermediate, true)?;
            let h = b.activation("activation_fn", h, self.act)?;
            b.linear("fc2", h, self.hidden, true)
        })?;
        match dtype {
            Some(dtype) => b.add_as("", h, x, dtype),
            None => b.add("", h, x),
        }
    }

    /// `CLIPAttention`: biases everywhere, scores by `1 / sqrt(head channels)`.
    fn attention(&self, b: &mut Builder, x: ValueId, causal: bool) -> Result<ValueId> {
        let q = b.linear("q_proj", x, self.hidden, true)?;
        let k = b.linear("k_proj", x, self.hidden, true)?;
        let v = b.linear("v_proj", x, self.hidden, true)?;
        let scale = 1.0 / ((self.hidden / self.heads) as f32).sqrt();
        let a = b.masked_attention("softmax", [q, k, v], self.heads, scale, causal)?;
        b.linear("out_proj", a, self.hidden, true)
    }
}
