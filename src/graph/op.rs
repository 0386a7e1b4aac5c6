//! THE op set: a closed enum. Every `match` on [`Op`] is exhaustive, without wildcard arms.
//!
//! Values are NHWC ([`Shape`]); token sequences are `[n, 1, tokens, c]` (the same memory as
//! `[n, h, w, c]` with `tokens = h * w`). Channel pitch is a multiple of 8 and pad channels are zero.

use super::layout::Order;
use super::{DType, Shape};

/// Index of a value in [`Graph::values`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ValueId(pub u32);

/// Index of a weight in [`Graph::weights`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct WeightId(pub u32);

/// How long a value stays valid. A node's lifetime is the latest of its inputs'; whatever does not
/// depend on the window is computed once per job (the plan's setup list), not once per launch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Lifetime {
    /// Fixed with the checkpoint.
    Weight,
    /// Fixed for one picture.
    Job,
    /// A table with one row per step of the sampler; kernels read row `Item::step_row`.
    Step,
    /// A table with one row per context (prompt, tokens); kernels read row `Item::ctx_row`.
    Context,
    /// Differs for every window.
    Window,
}

/// Activation applied in an epilogue, on the f32 accumulator.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Act {
    /// y = x.
    None,
    /// y = x * sigmoid(x).
    Silu,
    /// y = x * Phi(x), the exact (erf) form.
    Gelu,
    /// x * sigmoid(1.702 x), CLIP's approximation.
    QuickGelu,
    /// max(x, 0).
    Relu,
    /// max(x, 0) + 0.1 min(x, 0).
    LeakyRelu,
}

/// Zero padding of a convolution, pixels.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Padding {
    /// Rows above.
    pub top: u32,
    /// Columns on the left.
    pub left: u32,
    /// Rows below.
    pub bottom: u32,
    /// Columns on the right.
    pub right: u32,
}

impl Padding {
    /// The same padding on all four sides.
    pub fn all(p: u32) -> Padding {
        Padding { top: p, left: p, bottom: p, right: p }
    }
}

/// 2-D convolution with its optional parts:
/// `y = act(conv(concat(x, x2)) + bias + row_bias[step_row]) + residual`.
///
/// Node inputs, in order: `x`, then `x2`, `row_bias`, `residual` as far as present.
#[derive(Debug, Clone, PartialEq)]
pub struct Conv2d {
    /// `[out, in, kh, kw]` in the checkpoint.
    pub weight: WeightId,
    /// `[out]`.
    pub bias: Option<WeightId>,
    /// Output channels.
    pub out_channels: u32,
    /// Kernel height and width: 1 or 3.
    pub kernel: [u32; 2],
    /// 1 or 2, both axes.
    pub stride: u32,
    /// Zero padding, applied after `upsample`.
    pub padding: Padding,
    /// Nearest-neighbour doubling of the input before the convolution, cropped to this `[h, w]`.
    pub upsample: Option<[u32; 2]>,
    /// A second source is concatenated on the channel axis.
    pub second: bool,
    /// A table `[rows, 1, 1, out]` whose row `Item::step_row` is added per channel.
    pub row_bias: bool,
    /// A value of the output's shape is added last.
    pub residual: bool,
    /// Applied before `residual`.
    pub act: Act,
}

/// Fully connected layer on the channel axis: `y = act(x W^T + bias) + residual`; with `geglu` the
/// weight has `2 * out` rows (value rows first, then gate rows) and
/// `y = (x Wv^T + bv) * gelu(x Wg^T + bg)`.
///
/// Node inputs: `x`, then `residual` if present.
#[derive(Debug, Clone, PartialEq)]
pub struct Linear {
    /// Weights `[out, in]` in the checkpoint, stacked along `out` when there are several (q, k, v in one
    /// product). A convolution's `[out, c, kh, kw]` with `c * kh * kw = in` is accepted: it is the same
    /// product where the kernel is 1x1, or where the input holds one patch per pixel.
    pub weights: Vec<WeightId>,
    /// One `[out_i]` per weight, or none at all.
    pub biases: Vec<WeightId>,
    /// Output channels in all, after the GEGLU product where there is one.
    pub out_channels: u32,
    /// Value times GELU(gate).
    pub geglu: bool,
    /// A value of the output's shape is added last.
    pub residual: bool,
    /// Applied before `residual`.
    pub act: Act,
}

/// Group normalisation over (h, w, channels of the group), statistics masked by
/// `Item::stats_rect`: `y = act((x - mean) * rsqrt(var + eps) * weight + bias)`.
///
/// Node inputs: `x`, then a second source concatenated on the channel axis if `second`.
#[derive(Debug, Clone, PartialEq)]
pub struct GroupNorm {
    /// Number of groups; divides the channels in all.
    pub groups: u32,
    /// Added to the variance.
    pub eps: f32,
    /// `[c]`.
    pub weight: WeightId,
    /// `[c]`.
    pub bias: WeightId,
    /// A second source is concatenated; the output is the normalised concatenation.
    pub second: bool,
    /// `None` or `Silu`.
    pub act: Act,
}

/// Per channel `y = act(a * x + b)`: a group norm whose statistics were pooled elsewhere.
///
/// Node inputs: `x`, then `ab`, f32 `[n, 1, 2, c]` (a, then b), fixed for a job or differing by window.
#[derive(Debug, Clone, PartialEq)]
pub struct ChannelAffine {
    /// `None` or `Silu`.
    pub act: Act,
}

/// Layer normalisation over the channels of each pixel.
#[derive(Debug, Clone, PartialEq)]
pub struct LayerNorm {
    /// Added to the variance.
    pub eps: f32,
    /// `[c]`.
    pub weight: WeightId,
    /// `[c]`.
    pub bias: WeightId,
}

/// Multi-head attention `softmax(scale * q k^T [+ rel] [causal]) v` over the tokens of each item, or of each row.
///
/// Node inputs: `q`, `k`, `v`, then `rel` with `relative`. Head `i` takes channels `offset + i*head_dim ..`; the three may be one
/// value with different offsets. Output: `[n, q_h, q_w, heads * head_dim]`. When `k` and `v` have the lifetime
/// `Context`, their row is `Item::ctx_row`; otherwise it is the item's own index.
#[derive(Debug, Clone, PartialEq)]
pub struct Attention {
    /// Number of heads.
    pub heads: u32,
    /// Channels of one head.
    pub head_dim: u32,
    /// Factor of the scores, usually `1/sqrt(head_dim)`.
    pub scale: f32,
    /// First channel of the queries in `q`.
    pub q_offset: u32,
    /// First channel of the keys in `k`.
    pub k_offset: u32,
    /// First channel of the values in `v`.
    pub v_offset: u32,
    /// Token `i` sees keys `0..=i` only.
    pub causal: bool,
    /// Every row of the map is a sequence of its own: the windows of [`Rearrange::Windows`].
    pub rows: bool,
    /// The extent `[H, W]` of one sequence's tokens, `H * W` of them in row-major order, where positions count
    /// relative to each other: `rel` is `[n, h, w * heads, (2 H - 1) + (2 W - 1)]`, and the score of a query at
    /// `(qy, qx)` and a key at `(ky, kx)` grows by `r[qy - ky + H - 1] + r[2 H - 1 + qx - kx + W - 1]`, where `r` is
    /// column `query * heads + head` of the query's row (decomposed relative positions, arXiv 2304.02643).
    pub relative: Option<[u32; 2]>,
}

/// Which way a [`Resample`] goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Axis {
    /// Along `h`: every column by itself.
    Rows,
    /// Along `w`: every row by itself.
    Columns,
}

/// Along one axis, `y[o] = sum over i < taps of weight[o][i] * x[clamp(first[o] + i)]`, summed in f32 in that order.
///
/// Node inputs: `x` `[n, h, w, c]`, then `table`, f32 `[1 or n, 1, out, 1 + taps]`: row `o` holds the first source
/// index (a whole number; every tap's index is clamped to the picture) and then the weights. A table that is fixed
/// for a job has one row of tables for all items, one that differs by window has one for each. `graph/taps.rs` makes
/// them.
#[derive(Debug, Clone, PartialEq)]
pub struct Resample {
    /// The axis that changes.
    pub axis: Axis,
    /// Weights of each output.
    pub taps: u32,
}

/// Moves of whole pixels and channels; nothing is computed.
#[derive(Debug, Clone, PartialEq)]
pub enum Rearrange {
    /// `[n, h, w, f * f * c]` to `[n, f * h, f * w, c]`: pixel `(f y + dy, f x + dx)` takes channels
    /// `(dy * f + dx) * c ..`.
    DepthToSpace {
        /// Factor `f` of both sides.
        factor: u32,
    },
    /// The inverse: `[n, f * h, f * w, c]` to `[n, h, w, f * f * c]`.
    SpaceToDepth {
        /// Factor `f` of both sides, which it divides.
        factor: u32,
    },
    /// `[n, h, w, c]` to `[n, ceil(h / s) * ceil(w / s), s * s, c]`: every row of the result is one window, its pixels
    /// in row-major order; zeros beyond the picture.
    Windows {
        /// Side `s` of a window.
        size: u32,
    },
    /// The inverse, without what lies beyond the picture.
    Unwindows {
        /// Side of a window.
        size: u32,
        /// Output `[h, w]`.
        to: [u32; 2],
    },
    /// Pixels `begin ..` in row-major order as a map: drops a class token, makes tokens a map.
    Pixels {
        /// First pixel.
        begin: u32,
        /// Output `[h, w]`.
        size: [u32; 2],
    },
    /// `[n, h, w, p * c]` to `[n, h, w * p, c]`: channels `i * c ..` of column `x` become column `x * p + i`.
    SplitChannels {
        /// Number of parts `p`.
        parts: u32,
    },
}

/// Spatial feature modulation: `y = act(x * (1 + gamma) + beta)`.
///
/// Node inputs: `x` `[n, h, w, c]`, then `[n, h, w, 2 c]`: gamma, then beta.
#[derive(Debug, Clone, PartialEq)]
pub struct Modulate {
    /// Applied last.
    pub act: Act,
}

/// Sinusoidal embedding of a scalar per row (`[r, 1, 1, 1]` to `[r, 1, 1, dim]`), f32:
/// `freq_i = exp(-ln(max_period) * i / (half - shift))`, `half = dim / 2`.
#[derive(Debug, Clone, PartialEq)]
pub struct TimeEmbedding {
    /// Output channels, even.
    pub dim: u32,
    /// Cosines first.
    pub flip_sin_to_cos: bool,
    /// `freq_shift` of the config.
    pub freq_shift: f32,
    /// 10000 in every published network.
    pub max_period: f32,
}

/// `y = clamp(act(alpha * a + beta * b + gamma), lo, hi)`, elementwise.
///
/// Node inputs: `a`, then `b` if `beta` is present. With `table`, a table `[rows, 1, 1, 2]` follows as
/// the last input and (alpha, beta) are row `Item::step_row` of it (the scheduler's coefficients).
#[derive(Debug, Clone, PartialEq)]
pub struct Pointwise {
    /// Factor of `a`.
    pub alpha: f32,
    /// Factor of `b`; `None` means there is no `b`.
    pub beta: Option<f32>,
    /// Constant term.
    pub gamma: f32,
    /// Activation.
    pub act: Act,
    /// Bounds applied last.
    pub clamp: Option<[f32; 2]>,
    /// Coefficients come from a table.
    pub table: bool,
}

/// One operation.
#[derive(Debug, Clone, PartialEq)]
pub enum Op {
    /// A value given from outside under the value's name.
    Input(Lifetime),
    /// See [`Conv2d`].
    Conv2d(Conv2d),
    /// See [`Linear`].
    Linear(Linear),
    /// See [`GroupNorm`].
    GroupNorm(GroupNorm),
    /// See [`LayerNorm`].
    LayerNorm(LayerNorm),
    /// See [`Attention`].
    Attention(Attention),
    /// See [`TimeEmbedding`].
    TimeEmbedding(TimeEmbedding),
    /// See [`Pointwise`].
    Pointwise(Pointwise),
    /// Channels `begin .. begin + channels` of the input.
    Slice {
        /// First channel.
        begin: u32,
        /// Number of channels.
        channels: u32,
    },
    /// Two inputs side by side on the channel axis. Never materialised: fusion gives both sources to
    /// the consumers, and the verifier refuses a graph in which one is left.
    Concat,
    /// Nearest-neighbour doubling cropped to `size`. Never materialised: fusion folds it into the
    /// convolution that follows.
    Upsample {
        /// Output `[h, w]`, each `2 * input` or `2 * input - 1`.
        size: [u32; 2],
    },
    /// See [`ChannelAffine`].
    ChannelAffine(ChannelAffine),
    /// Moments per channel over fixed blocks of [`super::layout::NORM_BLOCK`] pixels of each item's row-major order,
    /// masked by `Item::stats_rect`: `[n, h, w, c]` to `[n, blocks, 3, c]` f32, the three rows of a block being
    /// count, mean and the sum of squared distances from that mean. What they hold in pad channels is not defined.
    ChannelMoments,
    /// See [`Resample`].
    Resample(Resample),
    /// See [`Rearrange`].
    Rearrange(Rearrange),
    /// See [`Modulate`].
    Modulate(Modulate),
}

impl Op {
    /// The op with every weight `to` gives for its own: where graphs are joined or cut, weights are numbered anew.
    pub fn with_weights(&self, to: &mut dyn FnMut(WeightId) -> WeightId) -> Op {
        let mut op = self.clone();
        match &mut op {
            Op::Conv2d(p) => {
                p.weight = to(p.weight);
                p.bias = p.bias.map(to);
            }
            Op::Linear(p) => p.weights.iter_mut().chain(&mut p.biases).for_each(|w| *w = to(*w)),
            Op::GroupNorm(p) => (p.weight, p.bias) = (to(p.weight), to(p.bias)),
            Op::LayerNorm(p) => (p.weight, p.bias) = (to(p.weight), to(p.bias)),
            Op::Input(_)
            | Op::Attention(_)
            | Op::TimeEmbedding(_)
            | Op::Pointwise(_)
            | Op::Slice { .. }
            | Op::Concat
            | Op::Upsample { .. }
            | Op::ChannelAffine(_)
            | Op::ChannelMoments
            | Op::Resample(_)
            | Op::Rearrange(_)
            | Op::Modulate(_) => {}
        }
        op
    }

    /// Name as printed.
    pub fn name(&self) -> &'static str {
        match self {
            Op::Input(_) => "input",
            Op::Conv2d(_) => "conv2d",
            Op::Linear(_) => "linear",
            Op::GroupNorm(_) => "group_norm",
            Op::LayerNorm(_) => "layer_norm",
            Op::Attention(_) => "attention",
            Op::TimeEmbedding(_) => "time_embedding",
            Op::Pointwise(_) => "pointwise",
            Op::Slice { .. } => "slice",
            Op::Concat => "concat",
            Op::Upsample { .. } => "upsample",
            Op::ChannelAffine(_) => "channel_affine",
            Op::ChannelMoments => "channel_moments",
            Op::Resample(_) => "resample",
            Op::Rearrange(_) => "rearrange",
            Op::Modulate(_) => "modulate",
        }
    }
}

/// One value: the output of exactly one node.
#[derive(Debug, Clone, PartialEq)]
pub struct Value {
    /// The module path that makes it (`down_blocks.0.resnets.1.conv1`), or the input's name.
    pub name: String,
    /// NHWC extents.
    pub shape: Shape,
    /// Storage type.
    pub dtype: DType,
    /// How long it stays valid.
    pub lifetime: Lifetime,
}

/// One checkpoint tensor a graph reads.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightDecl {
    /// Tensor name in the checkpoint (diffusers' naming).
    pub name: String,
    /// Shape as stored in the checkpoint.
    pub shape: Vec<u64>,
    /// How its elements are taken by the op that reads it.
    pub order: Order,
}

/// One node: an operation, its inputs in the op's order, and its single output.
#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    /// The operation.
    pub op: Op,
    /// Its inputs.
    pub inputs: Vec<ValueId>,
    /// Its output.
    pub output: ValueId,
}

/// A static graph. Nodes are in a valid execution order.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Graph {
    /// Name of the network and what fixes it, for reports (`unet 64x64 b1 f16`).
    pub name: String,
    /// Every value.
    pub values: Vec<Value>,
    /// Every weight.
    pub weights: Vec<WeightDecl>,
    /// Every node, in execution order.
    pub nodes: Vec<Node>,
    /// Values that must be readable when a run has ended, by name.
    pub outputs: Vec<(String, ValueId)>,
    /// Inputs of the job whose values belong to the graph, so that nobody else gives them: one item each, NHWC without
    /// pitch padding, the same for every item of the input.
    pub constants: Vec<(ValueId, Vec<f32>)>,
}

impl Graph {
    /// The value behind `id`.
    pub fn value(&self, id: ValueId) -> &Value {
        &self.values[id.0 as usize]
    }

    /// Whether `id` is one of the graph's own constants.
    pub fn is_constant(&self, id: ValueId) -> bool {
        self.constants.iter().any(|(v, _)| *v == id)
    }

    /// The inputs that somebody has to give: all but the constants.
    pub fn inputs(&self) -> impl Iterator<Item = (ValueId, Lifetime)> + '_ {
        self.nodes.iter().filter_map(|n| match n.op {
            Op::Input(lifetime) if !self.is_constant(n.output) => Some((n.output, lifetime)),
            _ => None,
        })
    }

    /// The weight behind `id`.
    pub fn weight(&self, id: WeightId) -> &WeightDecl {
        &self.weights[id.0 as usize]
    }
}
