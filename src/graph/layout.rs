//! How packed weights lie in memory. The planner names a [`Packing`]; `weights/recipe` carries it out.
//!
//! All packings pad channels with zeros to the pitch (a multiple of 8), so kernels never test for the
//! end of a channel row.

use crate::extent;

/// Pixels of one statistics block: partial statistics cover runs of this many pixels of an item's row-major
/// pixel order, whatever the launch shape.
pub const NORM_BLOCK: u32 = 256;

/// How an op takes the elements of a checkpoint's tensor.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Order {
    /// As they are stored.
    Stored,
    /// A transposed convolution's `[in, out, k, k]` as a convolution's `[s * s * out, in, t, t]`, whose output channel
    /// `(dy * s + dx) * out + o` is channel `o` of the pixel `(dy, dx)` of each `s` x `s`: `t` is 1 where kernel and
    /// stride are equal, 3 for kernel 4, stride 2, padding 1. Tap `(ty, tx)` is the element
    /// `(dy + p - s (ty - t / 2), dx + p - s (tx - t / 2))`, zero where there is none.
    Transposed {
        /// Stride `s`.
        stride: u32,
        /// Padding `p`.
        padding: u32,
    },
    /// A convolution's `[out, c, p, p]`, whose stride is its kernel, as a product's `[out, p * p * c]` over patches in
    /// the channel order `(dy * p + dx) * c + k`.
    Patches,
    /// Columns `begin .. end` of a linear layer's `[out, in]`, as a convolution's `[out, (end - begin) / (k * k), k, k]`
    /// where `kernel` `k` is more than 1: they see a picture unfolded channel by channel.
    Columns {
        /// First column.
        begin: u32,
        /// The column after the last.
        end: u32,
        /// Side of the unfolding.
        kernel: u32,
    },
    /// A vector `[out]`, so many times over.
    Repeated {
        /// Copies.
        times: u32,
    },
}

impl Order {
    /// The shape as the op sees it of a tensor stored as `stored`; `None` where the order does not suit it.
    pub fn taken(self, stored: &[u64]) -> Option<Vec<u64>> {
        match (self, stored) {
            (Order::Stored, _) => Some(stored.to_vec()),
            (Order::Transposed { stride, padding }, &[input, out, kh, kw]) => {
                let s = u64::from(stride);
                let taps = match (kh == kw, kh, s, padding) {
                    (true, k, s, 0) if k == s && k > 0 => 1,
                    (true, 4, 2, 1) => 3,
                    _ => return None,
                };
                let out = out.checked_mul(s)?.checked_mul(s)?;
                Some(if taps == 1 { vec![out, input] } else { vec![out, input, taps, taps] })
            }
            (Order::Patches, &[out, c, kh, kw]) if kh == kw => Some(vec![out, c.checked_mul(kh)?.checked_mul(kw)?]),
            (Order::Columns { begin, end, kernel }, &[out, input]) if begin < end && u64::from(end) <= input => {
                let (columns, k) = (u64::from(end - begin), u64::from(kernel));
                match k {
                    1 => Some(vec![out, columns]),
                    k if k > 0 && columns.is_multiple_of(k * k) => Some(vec![out, columns / (k * k), k, k]),
                    _ => None,
                }
            }
            (Order::Repeated { times }, &[out]) => Some(vec![out.checked_mul(times.into())?]),
            (Order::Transposed { .. } | Order::Patches | Order::Columns { .. } | Order::Repeated { .. }, _) => None,
        }
    }
}

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
    /// One tensor whose elements are first put into the order that `then` packs.
    Reordered {
        /// Its order, not [`Order::Stored`].
        order: Order,
        /// Its shape in the checkpoint.
        shape: Vec<u32>,
        /// The layout.
        then: Box<Packing>,
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
            Packing::Reordered { then, .. } => then.elements(),
        }
    }
}
