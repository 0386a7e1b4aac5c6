//! Parameter structs of the stems: `repr(C)`, 4-byte words only, a multiple of 16 bytes, so that one
//! definition serves Rust, WGSL uniforms and CUDA arguments. Extents are in elements, pitches in
//! channels. What varies between launches of one plan is in [`Item`], never here.
//!
//! What holds for every stem, and for every backend's kernel of it:
//! - Pad channels of every input value, weight and vector are zero; every kernel writes all channels of
//!   `y` up to its pitch, the pad channels as zeros. A kernel never reads or writes outside its ranges.
//! - The output overlaps no input. Inputs may overlap each other (q, k and v in one tensor).
//! - Tables (`row_bias`, pointwise's `table`, `partials`, `ab`), biases and affines are f32.
//! - Sums, statistics and activations are computed in f32; a store rounds to nearest even. A store to f16
//!   of |v| > 65504 or of a value that is not finite sets [`STATUS_NARROW`]; what it stores is not defined.
//! - A kernel reads nothing of its output, so that a second run gives the same bytes.

use super::Stem;
use bytemuck::{Pod, Zeroable};

pub use crate::graph::layout::NORM_BLOCK;

/// Rows of a block of the statistics that a product's ending makes: pixels of an item in row-major order, with
/// `WeightForm::Up2x2` those of the input, once per phase.
pub const PRODUCT_BLOCK: u32 = 128;

/// Bit of [`Conv2dParams::parts`]: `statistics` are made.
pub const STATISTICS: u32 = 8;

/// Words of the control buffer before the first [`Item`].
pub const CONTROL_HEADER_WORDS: u32 = 16;

/// Bit of status word 0: a store to f16 met |v| > 65504 or a value that is not finite.
pub const STATUS_NARROW: u32 = 1;

/// One batch element of one launch; 64 bytes.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable, Default)]
pub struct Item {
    /// Row and column of the window in its canvas, pixels of the graph's first window input.
    pub origin: [i32; 2],
    /// `[y0, x0, y1, x1]` of the window that lies inside the picture; zero means all of it.
    pub valid_rect: [i32; 4],
    /// `[y0, x0, y1, x1]`, the part that counts for statistics, in 1/65536 of the value's height and width
    /// (the same rectangle at every level of the network); all zeros mean all of it. Half open, and exact:
    /// row `y` of `h` counts when `ceil(y0 * h / 65536) <= y < ceil(y1 * h / 65536)`, columns alike, so
    /// that adjacent rectangles share no pixel. Sides are at most 65,535, so the products fit u32.
    pub stats_rect: [i32; 4],
    /// Row of the tables over steps.
    pub step_row: u32,
    /// Row of the tables over contexts.
    pub ctx_row: u32,
    /// Guidance branch: 0 = conditional, 1 = unconditional.
    pub branch: u32,
    /// Slot the result goes to.
    pub out_slot: u32,
    /// Keys that count where attention reads a table over contexts: the first so many of the row, 0 for all of
    /// them. Contexts of different lengths share one table; attention within the window sees all its keys.
    pub keys: u32,
    /// Zero.
    pub pad: u32,
}

/// Head of the control buffer; items follow.
#[repr(C)]
#[derive(Debug, Clone, Copy, PartialEq, Eq, Pod, Zeroable, Default)]
pub struct Control {
    /// Word 0: status bits, set by kernels, cleared by the host. The others are zero.
    pub status: [u32; CONTROL_HEADER_WORDS as usize],
}

macro_rules! params {
    ($(#[$doc:meta])* $name:ident { $($(#[$fdoc:meta])* $field:ident : $ty:ty),* $(,)? }) => {
        $(#[$doc])*
        #[repr(C)]
        #[derive(Debug, Clone, Copy, PartialEq, Pod, Zeroable, Default)]
        pub struct $name { $($(#[$fdoc])* pub $field: $ty),* }
        impl $name {
            /// Field names and Rust types in order, for the generated `abi.wgsl`.
            pub const FIELDS: &'static [(&'static str, &'static str)] = &[$((stringify!($field), stringify!($ty))),*];
        }
    };
}

params! {
    /// `conv2d`: `y = act(conv + bias + row_bias[step_row]) + residual`. Padding below and on the right
    /// follows from `oh` and `ow`: whatever lies outside the input is zero. Windows' `valid_rect` is not read.
    ///
    /// With `upsample` the stride is 1 and the padding `kernel / 2` on every side, so the doubled input is
    /// `oh` by `ow`: `2h` or `2h - 1` rows, and in the odd case the last doubled row counts as outside, zero.
    ///
    /// `statistics` are the partials of a [`GroupNormStatsParams`] of `y` as stored, `[n][blocks][3][pitch_y]`, over
    /// blocks of [`PRODUCT_BLOCK`] pixels: as many as the row of the table says.
    Conv2dParams {
        /// Items.
        n: u32,
        /// Input rows, before upsampling.
        h: u32,
        /// Input columns, before upsampling.
        w: u32,
        /// Channel pitch of `x`.
        pitch_x: u32,
        /// Channel pitch of `x2`, 0 without it.
        pitch_x2: u32,
        /// Output rows.
        oh: u32,
        /// Output columns.
        ow: u32,
        /// Output channels.
        oc: u32,
        /// Output channel pitch.
        pitch_y: u32,
        /// Kernel side: 1 or 3.
        kernel: u32,
        /// Stride: 1 or 2.
        stride: u32,
        /// Zero rows above.
        pad_top: u32,
        /// Zero columns on the left.
        pad_left: u32,
        /// 1: the input is doubled by nearest neighbour first.
        upsample: u32,
        /// Activation code, see [`act_code`].
        act: u32,
        /// Bit 0 `x2`, bit 1 `row_bias`, bit 2 `residual`, bit 3 ([`STATISTICS`]) `statistics` present.
        parts: u32,
        /// Channel pitch of `row_bias`, at least `pitch_y`; 0 without it.
        pitch_row_bias: u32,
        /// Zero.
        pad0: u32,
        /// Zero.
        pad1: u32,
        /// Zero.
        pad2: u32,
    }
}

params! {
    /// `gemm`: `m` rows of `k` channels by `[k][pitch_y]`, `y = act(x W + bias) + residual`; with GEGLU
    /// `y = (x Wv + bv) * gelu(x Wg + bg) + residual`, `act` is none, the weight `[k][2 * pitch_y]` and the
    /// bias `[2 * pitch_y]`, value columns first.
    GemmParams {
        /// Rows in all: items * pixels.
        m: u32,
        /// Output channels (after GEGLU).
        n: u32,
        /// Channel pitch of `x`: the K extent, padding included.
        k: u32,
        /// Output channel pitch; the weight has this many columns, twice with GEGLU.
        pitch_y: u32,
        /// Activation code.
        act: u32,
        /// Bit 0: GEGLU. Bit 2: `residual` present.
        parts: u32,
        /// Items; 0 for one. No result depends on it, but the order of sums does (`tma_split`).
        items: u32,
        /// Zero.
        pad0: u32,
    }
}

params! {
    /// `attention`: `y[.., head * head_dim ..] = softmax(scale * q k^T + rel) v`. `head_dim` and the offsets are
    /// multiples of 8. Relative: tokens are `rel_h` by `rel_w`, row-major; the score of query `(qy, qx)` and key
    /// `(ky, kx)` grows by elements `qy - ky + rel_h - 1` and `2 rel_h - 1 + qx - kx + rel_w - 1` of row
    /// `query * heads + head` of `rel`, whose pitch is [`AttentionParams::pitch_rel`]. Causal: token `i` sees keys `0 ..= i`. Channels of `y` past `heads * head_dim` are zero.
    AttentionParams {
        /// Items.
        n: u32,
        /// Query tokens per item.
        queries: u32,
        /// Key tokens per item (or context row).
        keys: u32,
        /// Heads.
        heads: u32,
        /// Channels of a head.
        head_dim: u32,
        /// Channel pitch of `q`.
        pitch_q: u32,
        /// Channel pitch of `k`.
        pitch_k: u32,
        /// Channel pitch of `v`.
        pitch_v: u32,
        /// Channel pitch of `y`.
        pitch_y: u32,
        /// First channel of `q`.
        offset_q: u32,
        /// First channel of `k`.
        offset_k: u32,
        /// First channel of `v`.
        offset_v: u32,
        /// Factor of the scores.
        scale: f32,
        /// Bit 0: causal. Bit 1: keys and values are context tables, row `Item::ctx_row`. Bit 2: `rel` present.
        parts: u32,
        /// Rows of tokens, 0 without `rel`.
        rel_h: u32,
        /// Columns of tokens, 0 without `rel`.
        rel_w: u32,
    }
}

impl AttentionParams {
    /// Channel pitch of `rel`.
    pub fn pitch_rel(&self) -> u32 {
        (2 * (self.rel_h + self.rel_w)).saturating_sub(2).next_multiple_of(8)
    }
}

params! {
    /// `group_norm_stats`: partials `[n][blocks][3][pitch_x + pitch_x2]` f32 = count, mean, M2 (the sum of
    /// squared distances from that mean) of each channel over the pixels of the block inside `stats_rect`;
    /// all three are 0 where there is none. Pad channels are counted like others. M2 must not cancel: two
    /// passes, or Welford, or a shift by a value of the block.
    GroupNormStatsParams {
        /// Items.
        n: u32,
        /// Rows.
        h: u32,
        /// Columns.
        w: u32,
        /// Channel pitch of `x`.
        pitch_x: u32,
        /// Channel pitch of `x2`, 0 without it.
        pitch_x2: u32,
        /// Blocks of [`NORM_BLOCK`] pixels per item.
        blocks: u32,
        /// Bit 0: `x2` present.
        parts: u32,
        /// Zero.
        pad0: u32,
    }
}

params! {
    /// `norm_finalize`: ab `[n][2][pitch_x + pitch_x2]` f32 in the sources' channel positions;
    /// `affine` = weight then bias, each `c + c2` values padded to their pitch, in concatenated channel
    /// order. Group `g` holds concatenated channels `g * (c + c2) / groups ..`; it may span both sources.
    /// `a = weight / sqrt(M2 / count + eps)`, `b = bias - mean * a`; mean and variance are 0 where nothing
    /// was counted. Pad positions of `ab` are 0.
    NormFinalizeParams {
        /// Items.
        n: u32,
        /// Blocks per item.
        blocks: u32,
        /// Channels of `x`.
        c: u32,
        /// Channels of `x2`, 0 without it.
        c2: u32,
        /// Channel pitch of `x`.
        pitch_x: u32,
        /// Channel pitch of `x2`, 0 without it.
        pitch_x2: u32,
        /// Groups over `c + c2` channels.
        groups: u32,
        /// Added to the variance.
        eps: f32,
    }
}

params! {
    /// `norm_apply`: y has the concatenated channels without inner padding, pitch `pitch_y`; `ab` is
    /// `[n][2][pitch_x + pitch_x2]` in the sources' channel positions, and its pad positions may hold anything.
    NormApplyParams {
        /// Items.
        n: u32,
        /// Pixels per item.
        pixels: u32,
        /// Channels of `x`.
        c: u32,
        /// Channels of `x2`, 0 without it.
        c2: u32,
        /// Channel pitch of `x`.
        pitch_x: u32,
        /// Channel pitch of `x2`, 0 without it.
        pitch_x2: u32,
        /// Output channel pitch.
        pitch_y: u32,
        /// Activation code.
        act: u32,
    }
}

params! {
    /// `layer_norm`: affine = weight then bias, `pitch` values each; mean and variance over the `c` channels
    /// of a row, the variance as mean squared distance from the mean.
    LayerNormParams {
        /// Rows: items * pixels.
        rows: u32,
        /// Channels.
        c: u32,
        /// Channel pitch.
        pitch: u32,
        /// Added to the variance.
        eps: f32,
    }
}

params! {
    /// `time_embedding`: `t` is `[rows]` with pitch 8, f32 (element `8 * row`); row `r` of y is
    /// `sin(t f_0) .. sin(t f_(half - 1))`, then the cosines, or cosines first with `flip`.
    TimeEmbeddingParams {
        /// Rows.
        rows: u32,
        /// Output channels, even.
        dim: u32,
        /// Output channel pitch.
        pitch: u32,
        /// 1: cosines first.
        flip: u32,
        /// `freq_shift`.
        shift: f32,
        /// 10000 usually.
        max_period: f32,
        /// Zero.
        pad0: u32,
        /// Zero.
        pad1: u32,
    }
}

params! {
    /// `pointwise`: `y[p][c] = clamp(act(alpha * a[p][offset + c] + beta * b[p][c] + gamma))`. `offset` is any
    /// channel, also an odd one; with `table`, alpha and beta are elements 0 and 1 of row `step_row`.
    PointwiseParams {
        /// Items.
        n: u32,
        /// Pixels per item.
        pixels: u32,
        /// Output channels.
        c: u32,
        /// Channel pitch of `a`.
        pitch_a: u32,
        /// Channel pitch of `b`, 0 without it.
        pitch_b: u32,
        /// Output channel pitch.
        pitch_y: u32,
        /// First channel of `a`.
        offset: u32,
        /// Activation code.
        act: u32,
        /// Factor of `a`.
        alpha: f32,
        /// Factor of `b`.
        beta: f32,
        /// Constant.
        gamma: f32,
        /// Lower bound, -inf without one.
        lo: f32,
        /// Upper bound, +inf without one.
        hi: f32,
        /// Bit 0: `b` present. Bit 1: `table` present (row `step_row` holds alpha, beta; pitch 8).
        parts: u32,
        /// Zero.
        pad0: u32,
        /// Zero.
        pad1: u32,
    }
}

params! {
    /// `resample`: along one axis `y[o] = sum of weight[o][i] * x[clamp(first[o] + i)]` over `i < taps`, in f32 and in
    /// that order. Row `o` of the table is `first` (a whole number; a kernel clamps it to +-2^24 before it converts
    /// it), then the weights.
    ResampleParams {
        /// Items.
        n: u32,
        /// Input rows.
        h: u32,
        /// Input columns.
        w: u32,
        /// Channel pitch of `x` and `y`.
        pitch: u32,
        /// Output rows or columns.
        out: u32,
        /// 0: along the rows' axis (`h` becomes `out`); 1: along the columns'.
        axis: u32,
        /// Weights of a row.
        taps: u32,
        /// Values of a row of `table`.
        pitch_table: u32,
        /// Bit 0: a table for each item, else one for all.
        parts: u32,
        /// Zero.
        pad0: u32,
        /// Zero.
        pad1: u32,
        /// Zero.
        pad2: u32,
    }
}

params! {
    /// `rearrange`: every output value is a value of `x`, or zero, see [`crate::graph::op::Rearrange`].
    RearrangeParams {
        /// Items.
        n: u32,
        /// Input rows.
        h: u32,
        /// Input columns.
        w: u32,
        /// Input channels.
        c_x: u32,
        /// Channel pitch of `x`.
        pitch_x: u32,
        /// Output rows.
        oh: u32,
        /// Output columns.
        ow: u32,
        /// Output channels.
        c: u32,
        /// Output channel pitch.
        pitch_y: u32,
        /// Which move, see [`MOVE_DEPTH_TO_SPACE`].
        kind: u32,
        /// The factor, the side of a window, the first pixel, or the number of parts.
        size: u32,
        /// Windows side by side in a row of the picture; 0 for the other moves.
        across: u32,
    }
}

params! {
    /// `modulate`: `y = act(x * (1 + gamma) + beta)`; `gb` is `[pixels][pitch_gb]`, gamma in channels `0 .. c`, beta in
    /// `c .. 2 c`.
    ModulateParams {
        /// Pixels of all items.
        pixels: u32,
        /// Channels.
        c: u32,
        /// Channel pitch of `x` and `y`.
        pitch: u32,
        /// Channel pitch of `gb`.
        pitch_gb: u32,
        /// Activation code.
        act: u32,
        /// Zero.
        pad0: u32,
        /// Zero.
        pad1: u32,
        /// Zero.
        pad2: u32,
    }
}

/// Codes of the moves of `rearrange`, in the order of [`crate::graph::op::Rearrange`].
pub const MOVE_DEPTH_TO_SPACE: u32 = 0;
/// See [`MOVE_DEPTH_TO_SPACE`].
pub const MOVE_SPACE_TO_DEPTH: u32 = 1;
/// See [`MOVE_DEPTH_TO_SPACE`].
pub const MOVE_WINDOWS: u32 = 2;
/// See [`MOVE_DEPTH_TO_SPACE`].
pub const MOVE_UNWINDOWS: u32 = 3;
/// See [`MOVE_DEPTH_TO_SPACE`].
pub const MOVE_PIXELS: u32 = 4;
/// See [`MOVE_DEPTH_TO_SPACE`].
pub const MOVE_SPLIT_CHANNELS: u32 = 5;

/// Code of an activation in the parameter structs and shaders: 0 none, 1 SiLU, 2 GELU (erf),
/// 3 quick GELU, 4 ReLU, 5 leaky ReLU.
pub const ACT_NONE: u32 = 0;
/// See [`ACT_NONE`].
pub const ACT_SILU: u32 = 1;
/// See [`ACT_NONE`].
pub const ACT_GELU: u32 = 2;
/// See [`ACT_NONE`].
pub const ACT_QUICK_GELU: u32 = 3;
/// See [`ACT_NONE`].
pub const ACT_RELU: u32 = 4;
/// See [`ACT_NONE`].
pub const ACT_LEAKY_RELU: u32 = 5;

/// The parameters of one launch.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Params {
    /// See [`Conv2dParams`].
    Conv2d(Conv2dParams),
    /// See [`GemmParams`].
    Gemm(GemmParams),
    /// See [`AttentionParams`].
    Attention(AttentionParams),
    /// See [`GroupNormStatsParams`].
    GroupNormStats(GroupNormStatsParams),
    /// See [`NormFinalizeParams`].
    NormFinalize(NormFinalizeParams),
    /// See [`NormApplyParams`].
    NormApply(NormApplyParams),
    /// See [`LayerNormParams`].
    LayerNorm(LayerNormParams),
    /// See [`TimeEmbeddingParams`].
    TimeEmbedding(TimeEmbeddingParams),
    /// See [`PointwiseParams`].
    Pointwise(PointwiseParams),
    /// See [`ResampleParams`].
    Resample(ResampleParams),
    /// See [`RearrangeParams`].
    Rearrange(RearrangeParams),
    /// See [`ModulateParams`].
    Modulate(ModulateParams),
}

impl Params {
    /// The stem these parameters belong to.
    pub fn stem(&self) -> Stem {
        match self {
            Params::Conv2d(_) => Stem::Conv2d,
            Params::Gemm(_) => Stem::Gemm,
            Params::Attention(_) => Stem::Attention,
            Params::GroupNormStats(_) => Stem::GroupNormStats,
            Params::NormFinalize(_) => Stem::NormFinalize,
            Params::NormApply(_) => Stem::NormApply,
            Params::LayerNorm(_) => Stem::LayerNorm,
            Params::TimeEmbedding(_) => Stem::TimeEmbedding,
            Params::Pointwise(_) => Stem::Pointwise,
            Params::Resample(_) => Stem::Resample,
            Params::Rearrange(_) => Stem::Rearrange,
            Params::Modulate(_) => Stem::Modulate,
        }
    }

    /// Whether the launch also makes statistics of its result.
    pub fn wants_statistics(&self) -> bool {
        matches!(self, Params::Conv2d(p) if p.parts & STATISTICS != 0)
    }

    /// The struct's bytes, as uploaded.
    pub fn bytes(&self) -> &[u8] {
        match self {
            Params::Conv2d(p) => bytemuck::bytes_of(p),
            Params::Gemm(p) => bytemuck::bytes_of(p),
            Params::Attention(p) => bytemuck::bytes_of(p),
            Params::GroupNormStats(p) => bytemuck::bytes_of(p),
            Params::NormFinalize(p) => bytemuck::bytes_of(p),
            Params::NormApply(p) => bytemuck::bytes_of(p),
            Params::LayerNorm(p) => bytemuck::bytes_of(p),
            Params::TimeEmbedding(p) => bytemuck::bytes_of(p),
            Params::Pointwise(p) => bytemuck::bytes_of(p),
            Params::Resample(p) => bytemuck::bytes_of(p),
            Params::Rearrange(p) => bytemuck::bytes_of(p),
            Params::Modulate(p) => bytemuck::bytes_of(p),
        }
    }
}
