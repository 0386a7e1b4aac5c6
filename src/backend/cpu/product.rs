//! The register-tiled product under every convolution, fully connected layer and attention score:
//! `acc[pixel][column] = sum over k of x[pixel, k] * w[k][column]`, for a panel of pixels and a block of at most
//! [`COLUMNS`] columns.
//!
//! The rows of `x` are never copied. A table says, per tap and pixel of the panel, which row of the source holds
//! the input, or that the input is zero there; that serves padding, stride, nearest-neighbour doubling and
//! concatenated sources alike. One block of weights at a time is packed to lie contiguous in the L1 cache and
//! serves all tiles of the panel.
//!
//! The order of summation over k is fixed by the layer (its K blocks), never by panel, tile or thread, so every
//! pixel gives the same bits wherever it falls.

use pulp::{NullaryFnOnce, Simd};

/// Most columns of a block: four 512-bit vectors, which with 6 pixels fill 24 of 32 registers.
pub(super) const COLUMNS: usize = 64;
/// Columns come in groups of one 512-bit vector.
pub(super) const LANES: usize = 16;
/// Weight rows per K block: 64 columns of 128 rows are 32 KiB of L1.
pub(super) const K_BLOCK: usize = 128;
/// A panel's tables and accumulators are this many entries longer than the panel, so that the last tile
/// may run past it.
pub(super) const SLACK: usize = 16;
/// Table entry: the input is zero here.
pub(super) const NOWHERE: u32 = u32::MAX;

/// A run of K inside one tap and one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Which table of rows.
    pub(super) tap: usize,
    /// 0: `x`, 1: `x2`.
    pub(super) source: usize,
    /// First channel.
    pub(super) channel: usize,
    /// Channels; at most [`K_BLOCK`].
    pub(super) len: usize,
}

/// The K order of a layer: segments, and how many of them make a block of at most [`K_BLOCK`] rows.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    segments: Vec<Segment>,
    /// End of each block in `segments`, and its first row of the weight.
    blocks: Vec<(usize, usize)>,
}

impl Order {
    /// Tap by tap, then source by source, then channel: the order of `Packing::ConvKn`.
    pub(super) fn new(taps: usize, pitches: [usize; 2]) -> Order {
        let mut order = Order::default();
        let (mut row, mut first_row, mut filled) = (0, 0, 0);
        for tap in 0..taps {
            for (source, &pitch) in pitches.iter().enumerate() {
                // Equal parts rather than full blocks and a small rest.
                let parts = pitch.div_ceil(K_BLOCK).max(1);
                let len = pitch.div_ceil(parts).next_multiple_of(8);
                let mut channel = 0;
                while channel < pitch {
                    let len = len.min(pitch - channel);
                    if filled + len > K_BLOCK {
                        order.blocks.push((order.segments.len(), first_row));
                        (first_row, filled) = (row, 0);
                    }
                    order.segments.push(Segment { tap, source, channel, len });
                    (row, filled, channel) = (row + len, filled + len, channel + len);
                }
            }
        }
        order.blocks.push((order.segments.len(), first_row));
        order
    }
}

/// What a panel multiplies.
#[derive(Clone, Copy)]
pub(super) struct Operands<'a> {
    /// The sources, `[rows][pitch]`.
    pub(super) x: [&'a [f32]; 2],
    /// Their pitches.
    pub(super) pitch: [usize; 2],
    /// `[K][ld]`.
    pub(super) w: &'a [f32],
    /// Columns of `w`.
    pub(super) ld: usize,
    /// Zeros, at least [`K_BLOCK`].
    pub(super) zeros: &'a [f32],
    /// The layer's K order.
    pub(super) order: &'a Order,
    /// `[taps][stride]` rows of the sources, or [`NOWHERE`].
    pub(super) table: &'a [u32],
    /// Entries of one tap in `table`: the panel's pixels and [`SLACK`].
    pub(super) stride: usize,
    /// Pixels of the panel.
    pub(super) pixels: usize,
}

/// Columns of the accumulator for a block of `columns`: whole vectors.
pub(super) fn block_columns(columns: usize) -> usize {
    columns.min(COLUMNS).next_multiple_of(LANES)
}

/// Computes columns `first .. first + columns` (at most [`COLUMNS`]) of the panel into `acc`,
/// `[pixels + SLACK][block_columns(columns)]`. `packed` is scratch of `K_BLOCK * COLUMNS`.
#[inline(always)]
pub(super) fn panel<S: Simd>(
    simd: S,
    op: &Operands<'_>,
    first: usize,
    columns: usize,
    packed: &mut [f32],
    acc: &mut [f32],
) {
    let nb = block_columns(columns);
    let mut begin = 0;
    for (index, &(end, row)) in op.order.blocks.iter().enumerate() {
        let segments = &op.order.segments[begin..end];
        begin = end;
        let rows: usize = segments.iter().map(|s| s.len).sum();
        let packed = &mut packed[..rows * nb];
        for (k, to) in packed.chunks_exact_mut(nb).enumerate() {
            let from = &op.w[(row + k) * op.ld + first..][..columns];
            to[..columns].copy_from_slice(from);
            to[columns..].fill(0.0);
        }
        let fresh = index == 0;
        match (S::F32_LANES, nb / LANES) {
            (16, 4) => tiles::<S, 4, 6>(simd, op, segments, packed, nb, acc, fresh),
            (16, 3) => tiles::<S, 3, 8>(simd, op, segments, packed, nb, acc, fresh),
            (16, 2) => tiles::<S, 2, 12>(simd, op, segments, packed, nb, acc, fresh),
            (16, _) => tiles::<S, 1, 14>(simd, op, segments, packed, nb, acc, fresh),
            (8, _) => tiles::<S, 2, 6>(simd, op, segments, packed, nb, acc, fresh),
            (4, _) => tiles::<S, 4, 4>(simd, op, segments, packed, nb, acc, fresh),
            _ => tiles::<S, 16, 1>(simd, op, segments, packed, nb, acc, fresh),
        }
    }
}

/// All tiles of `P` pixels by `V` vectors of a panel, over one K block.
struct Tiles<'a, 'b, S: Simd, const V: usize, const P: usize> {
    simd: S,
    op: &'a Operands<'a>,
    segments: &'a [Segment],
    packed: &'a [f32],
    nb: usize,
    acc: &'b mut [f32],
    fresh: bool,
}

/// A function of its own for every tile shape: inlined into one, the shapes compete for registers and
/// the compiler keeps the sums in memory.
#[inline(never)]
fn tiles<S: Simd, const V: usize, const P: usize>(
    simd: S,
    op: &Operands<'_>,
    segments: &[Segment],
    packed: &[f32],
    nb: usize,
    acc: &mut [f32],
    fresh: bool,
) {
    simd.vectorize(Tiles::<S, V, P> { simd, op, segments, packed, nb, acc, fresh });
}

impl<S: Simd, const V: usize, const P: usize> NullaryFnOnce for Tiles<'_, '_, S, V, P> {
    type Output = ();

    #[inline(always)]
    fn call(self) {
        let Tiles { simd, op, segments, packed, nb, acc, fresh } = self;
        let width = V * S::F32_LANES;
        let mut tile = 0;
        while tile < op.pixels {
            let mut column = 0;
            while column < nb {
                let mut sums = [[simd.splat_f32s(0.0); V]; P];
                if !fresh {
                    for (p, sums) in sums.iter_mut().enumerate() {
                        let row = S::as_simd_f32s(&acc[(tile + p) * nb + column..][..width]).0;
                        sums.copy_from_slice(&row[..V]);
                    }
                }
                let mut k = 0;
                for s in segments {
                    let rows = &op.table[s.tap * op.stride + tile..][..P];
                    let (x, pitch) = (op.x[s.source], op.pitch[s.source]);
                    let xs: [&[f32]; P] = std::array::from_fn(|p| {
                        if rows[p] == NOWHERE {
                            &op.zeros[..s.len]
                        } else {
                            &x[rows[p] as usize * pitch + s.channel..][..s.len]
                        }
                    });
                    let w = &packed[k * nb..(k + s.len) * nb];
                    multiply::<S, V, P>(simd, xs, s.len, w, nb, column, &mut sums);
                    k += s.len;
                }
                for (p, sums) in sums.iter().enumerate() {
                    let row = S::as_mut_simd_f32s(&mut acc[(tile + p) * nb + column..][..width]).0;
                    row[..V].copy_from_slice(sums);
                }
                column += width;
            }
            tile += P;
        }
    }
}

/// The inner loop: `sums[p] += x[p][k] * w[k]`, everything but `x` and `w` in registers.
#[inline(always)]
fn multiply<S: Simd, const V: usize, const P: usize>(
    simd: S,
    xs: [&[f32]; P],
    len: usize,
    w: &[f32],
    nb: usize,
    column: usize,
    sums: &mut [[S::f32s; V]; P],
) {
    let mut local = *sums;
    for (k, row) in w.chunks_exact(nb).take(len).enumerate() {
        let vectors = S::as_simd_f32s(&row[column..]).0;
        let w: [S::f32s; V] = std::array::from_fn(|v| vectors[v]);
        for p in 0..P {
            let x = simd.splat_f32s(xs[p][k]);
            for v in 0..V {
                local[p][v] = simd.mul_add_e_f32s(x, w[v], local[p][v]);
            }
        }
    }
    *sums = local;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_cover_every_row_once_in_blocks_that_fit() {
        for (taps, pitches) in [(9, [16, 0]), (9, [320, 640]), (1, [8, 0]), (4, [520, 8]), (9, [128, 64])] {
            let order = Order::new(taps, pitches);
            let mut expected = 0;
            let mut begin = 0;
            for &(end, row) in &order.blocks {
                assert_eq!(row, expected);
                let rows: usize = order.segments[begin..end].iter().map(|s| s.len).sum();
                assert!(rows > 0 && rows <= K_BLOCK, "{rows} rows");
                expected += rows;
                begin = end;
            }
            assert_eq!(expected, taps * (pitches[0] + pitches[1]));
            assert_eq!(begin, order.segments.len());
        }
    }
}
