//! How packed weights lie in memory. The planner names a [`Packing`]; `weights/recipe` carries it out.
//!
//! All packings pad channels with zeros to the pitch (a multiple of 8), so kernels never test for the
//! end of a channel row.

use crate::extent;

/// Pixels of one statistics block: partial statistics cover runs of this many pixels of an item's row-major
/// pixel order, whatever the launch shape.
pub const NORM_BLOCK: u32 = 256;

/// Layout of one packed weight buffer.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Packing {
    /// Convolution `[out, in, kh, kw]` as `[kh * kw][pitch(sources[0]) + pitch(sources[1]) ..][pitch(out)]`:
    /// a K x N matrix, K ordered tap by tap, then source by source, then channel.
    ConvKn {
        /// Taps: `kh * kw`.
        taps: u32,
        /// Channels of each concatenated source.
        sources: Vec<u32>,
        /// Output channels.
        out: u32,
    },
    /// Nearest-2x followed by a 3x3 convolution of padding 1, folded into four 2x2 convolutions on the
    /// small input: `[phase = 2 * (y & 1) + (x & 1)][2 * 2 taps][pitch(in)][pitch(out)]`. Tap (i, j) of
    /// phase (a, b) reads input pixel `(y / 2 + i - 1 + a, x / 2 + j - 1 + b)`; its weight is the sum, in
    /// f32, of the 3x3 taps that fall on that pixel.
    ConvUp2x2 {
        /// Input channels.
        input: u32,
        /// Output channels.
        out: u32,
    },
    /// Linear weights `[out_i, in]`, several stacked along `out`, as `[pitch(in)][pitch(sum of out_i)]`.
    /// With `geglu` the one weight has `2 * out` rows and the result is
    /// `[pitch(in)][2 * pitch(out)]`, value columns first, then gate columns.
    LinearKn {
        /// Input channels.
        input: u32,
        /// Rows of each stacked weight (halved for `geglu`).
        outs: Vec<u32>,
        /// See above.
        geglu: bool,
    },
    /// f32 vectors one after another, each of the given length padded to its pitch; missing tensors
    /// (a bias that is not there) are zeros. A GEGLU bias is two vectors of `out`.
    Vectors {
        /// Length of each vector.
        lengths: Vec<u32>,
    },
}

fn pitch(c: u32) -> u64 {
    extent::pitch(u64::from(c))
}

impl Packing {
    /// Elements of the packed buffer.
    pub fn elements(&self) -> u64 {
        match self {
            Packing::ConvKn { taps, sources, out } => {
                u64::from(*taps) * sources.iter().map(|&c| pitch(c)).sum::<u64>() * pitch(*out)
            }
            Packing::ConvUp2x2 { input, out } => 16 * pitch(*input) * pitch(*out),
            Packing::LinearKn { input, outs, geglu } => {
                let out = pitch(outs.iter().sum());
                pitch(*input) * if *geglu { 2 * out } else { out }
            }
            Packing::Vectors { lengths } => lengths.iter().map(|&c| pitch(c)).sum(),
        }
    }
}
