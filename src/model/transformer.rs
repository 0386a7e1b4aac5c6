//! The pieces made of attention: `Transformer2DModel` and the autoencoder's attention block.

use super::resnet::Norm;
use crate::error::Result;
use crate::graph::op::Linear;
use crate::graph::{Act, Builder, Op, ValueId};

/// Epsilon of the group norm in front of a transformer; diffusers fixes it, whatever `norm_eps` says.
const TRANSFORMER_NORM_EPS: f32 = 1e-6;
/// Epsilon of the layer norms of a transformer block.
const LAYER_NORM_EPS: f32 = 1e-5;

/// One transformer of a UNet: how many heads and blocks, and the context it looks at.
#[derive(Debug, Clone, Copy)]
pub(super) struct Transformer {
    pub(super) heads: u32,
    pub(super) layers: u32,
    pub(super) groups: u32,
    pub(super) context: ValueId,
}

/// `Transformer2DModel`: norm, projection, blocks, projection, + input. A 1x1 convolution and a linear
/// layer are the same product in NHWC, so `use_linear_projection` only decides how the tensor is stored.
pub(super) fn transformer(b: &mut Builder, name: &str, x: ValueId, t: Transformer) -> Result<ValueId> {
    b.module(name, |b| {
        let c = b.shape(x).c;
        let h = b.group_norm("norm", x, t.groups, TRANSFORMER_NORM_EPS, Act::None)?;
        let mut h = b.linear("proj_in", h, c, true)?;
        b.module("transformer_blocks", |b| {
            for layer in 0..t.layers {
                h = b.module(&layer.to_string(), |b| block(b, h, t))?;
            }
            Ok(())
        })?;
        let h = b.linear("proj_out", h, c, true)?;
        b.add("", h, x)
    })
}

/// `BasicTransformerBlock`: self-attention, cross-attention and a GEGLU feed-forward, each on the layer
/// norm of the running sum.
fn block(b: &mut Builder, x: ValueId, t: Transformer) -> Result<ValueId> {
    let n = b.layer_norm("norm1", x, LAYER_NORM_EPS)?;
    let a = b.module("attn1", |b| attention(b, n, n, t.heads, false))?;
    let x = b.add("attn1.sum", a, x)?;
    let n = b.layer_norm("norm2", x, LAYER_NORM_EPS)?;
    let a = b.module("attn2", |b| attention(b, n, t.context, t.heads, false))?;
    let x = b.add("attn2.sum", a, x)?;
    let n = b.layer_norm("norm3", x, LAYER_NORM_EPS)?;
    let f = feed_forward(b, n)?;
    b.add("", f, x)
}

/// `FeedForward` with GEGLU, module `ff`: to four times the channels and back.
pub(super) fn feed_forward(b: &mut Builder, x: ValueId) -> Result<ValueId> {
    let c = b.shape(x).c;
    b.module("ff", |b| {
        b.module("net", |b| {
            let h = b.module("0", |b| geglu(b, "proj", x, 4 * c))?;
            b.linear("2", h, c, true)
        })
    })
}

/// `value * gelu(gate)` of one product with `2 * out` columns.
fn geglu(b: &mut Builder, name: &str, x: ValueId, out: u32) -> Result<ValueId> {
    let c = u64::from(b.shape(x).c);
    b.module(name, |b| {
        let weights = vec![b.weight("weight", &[2 * u64::from(out), c])];
        let biases = vec![b.weight("bias", &[2 * u64::from(out)])];
        let op = Linear { weights, biases, out_channels: out, geglu: true, residual: false, act: Act::None };
        b.push("", Op::Linear(op), &[x])
    })
}

/// Attention of `x` over `context` (`x` itself: self-attention) with output projection; `bias` tells
/// whether q, k and v have one (the autoencoder's do).
/// The projections are written apart; fusion stacks those that share an input into one product.
pub(super) fn attention(b: &mut Builder, x: ValueId, context: ValueId, heads: u32, bias: bool) -> Result<ValueId> {
    let c = b.shape(x).c;
    let q = b.linear("to_q", x, c, bias)?;
    let k = b.linear("to_k", context, c, bias)?;
    let v = b.linear("to_v", context, c, bias)?;
    let scale = 1.0 / ((c / heads) as f32).sqrt();
    let a = b.attention("softmax", [q, k, v], heads, scale)?;
    b.module("to_out", |b| b.linear("0", a, c, true))
}

/// The autoencoder's attention block: one head over all pixels, with its own norm and residual.
pub(super) fn pixel_attention(b: &mut Builder, name: &str, x: ValueId, norm: Norm) -> Result<ValueId> {
    b.module(name, |b| {
        let n = b.group_norm("group_norm", x, norm.groups, norm.eps, Act::None)?;
        let a = attention(b, n, n, 1, true)?;
        b.add("", a, x)
    })
}
