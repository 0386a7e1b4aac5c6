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

use super::vector::{activate, gelu};
use pulp::{NullaryFnOnce, Simd};

/// Repeats a statement for `$i` in `0..$n` (at most 12, `$n` a constant), written out. A loop would leave it to the
/// compiler's size limits whether register tiles are kept in registers; constant indices always are.
macro_rules! each {
    ($n:ident, $i:ident => $body:expr) => {
        each!(@ $n, $i => $body; 0 1 2 3 4 5 6 7 8 9 10 11)
    };
    (@ $n:ident, $i:ident => $body:expr; $($index:literal)*) => {
        $(if $n > $index {
            const $i: usize = $index;
            $body;
        })*
    };
}
pub(super) use each;

/// `row += x * w`, one vector after another.
#[inline(always)]
pub(super) fn multiply_add<S: Simd, const V: usize>(simd: S, x: f32, w: &[S::f32s; V], row: &mut [S::f32s; V]) {
    let x = simd.splat_f32s(x);
    each!(V, I => row[I] = simd.mul_add_e_f32s(x, w[I], row[I]));
}

/// The first `V` vectors of a row.
#[inline(always)]
pub(super) fn load<S: Simd, const V: usize>(simd: S, row: &[f32]) -> [S::f32s; V] {
    let vectors = S::as_simd_f32s(&row[..V * S::F32_LANES]).0;
    let mut out = [simd.splat_f32s(0.0); V];
    each!(V, I => out[I] = vectors[I]);
    out
}

/// Stores `V` vectors to a row.
#[inline(always)]
pub(super) fn store<S: Simd, const V: usize>(_: S, values: &[S::f32s; V], row: &mut [f32]) {
    let vectors = S::as_mut_simd_f32s(&mut row[..V * S::F32_LANES]).0;
    each!(V, I => vectors[I] = values[I]);
}

/// Most columns of a block: four 512-bit vectors, which with 6 pixels fill 24 of 32 registers.
pub(super) const COLUMNS: usize = 64;
/// Columns come in groups of one 512-bit vector.
pub(super) const LANES: usize = 16;
/// Weight rows per K block: 64 columns of 128 rows are 32 KiB of L1.
const K_BLOCK: usize = 128;
/// The same for a product of one tap. Its input is read in runs of a block's length from rows far apart, and fewer,
/// longer runs are worth more than weights in L1 (K = 1280: a fifth faster); a 3x3 tap's rows are in the cache already.
const K_BLOCK_ONE_TAP: usize = 256;
/// Most channels of a segment, and so the least length of [`Operands::zeros`].
pub(super) const LONGEST: usize = K_BLOCK_ONE_TAP;
/// Scratch that [`panel`] packs a block of weights into.
pub(super) const PACKED: usize = K_BLOCK_ONE_TAP * COLUMNS;
/// Most pixels of a panel: 20 tiles of 12, 40 of 6; with their input they fill the L2 cache.
pub(super) const MOST_PIXELS: usize = 240;
/// Fewest, where there are as many: a panel packs the layer's weights once.
const FEWEST_PIXELS: usize = 24;
/// A panel's tables and accumulators are this many entries longer than the panel, so that the last tile
/// may run past it.
pub(super) const SLACK: usize = 16;
/// Table entry: the input is zero here.
pub(super) const NOWHERE: u32 = u32::MAX;

/// Pixels of a panel when `pixels` are shared out: equal parts, as many as keep every thread busy to the end. Since
/// sums do not depend on the panel, this may follow the number of threads.
pub(super) fn panel_height(pixels: usize) -> usize {
    let panels = pixels.div_ceil(MOST_PIXELS).next_multiple_of(rayon::current_num_threads());
    pixels.div_ceil(panels).clamp(FEWEST_PIXELS, MOST_PIXELS).next_multiple_of(12)
}

/// A run of K inside one tap and one source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Segment {
    /// Which table of rows.
    pub(super) tap: usize,
    /// 0: `x`, 1: `x2`.
    pub(super) source: usize,
    /// First channel.
    pub(super) channel: usize,
    /// Channels; at most [`LONGEST`].
    pub(super) len: usize,
}

/// The K order of a layer: segments, and how many of them make a block.
#[derive(Debug, Clone, Default)]
pub(super) struct Order {
    segments: Vec<Segment>,
    /// End of each block in `segments`, and its first row of the weight.
    blocks: Vec<(usize, usize)>,
}

impl Order {
    /// Tap by tap, then source by source, then channel: the order of `Packing::ConvKn`. Narrow layers
    /// (`columns` of weight) have longer blocks of the same size in bytes.
    pub(super) fn new(taps: usize, pitches: [usize; 2], columns: usize) -> Order {
        let mut order = Order::default();
        let block = if taps == 1 { K_BLOCK_ONE_TAP } else { K_BLOCK };
        let most = block * COLUMNS / block_columns(columns);
        let (mut row, mut first_row, mut filled) = (0, 0, 0);
        for tap in 0..taps {
            for (source, &pitch) in pitches.iter().enumerate() {
                // Equal parts rather than full blocks and a small rest.
                let parts = pitch.div_ceil(block).max(1);
                let len = pitch.div_ceil(parts).next_multiple_of(8);
                let mut channel = 0;
                while channel < pitch {
                    let len = len.min(pitch - channel);
                    if filled + len > most {
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
    /// Zeros, at least [`LONGEST`].
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
/// `[pixels + SLACK][block_columns(columns)]`. `packed` is scratch of [`PACKED`] floats.
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
            (16, _) => tiles::<S, 1, 12>(simd, op, segments, packed, nb, acc, fresh),
            (8, _) => tiles::<S, 2, 6>(simd, op, segments, packed, nb, acc, fresh),
            (4, _) => tiles::<S, 4, 4>(simd, op, segments, packed, nb, acc, fresh),
            _ => tiles::<S, 8, 1>(simd, op, segments, packed, nb, acc, fresh),
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
                    each!(P, I => sums[I] = load(simd, &acc[(tile + I) * nb + column..]));
                }
                let mut k = 0;
                for s in segments {
                    let rows = &op.table[s.tap * op.stride + tile..][..P];
                    let (x, pitch) = (op.x[s.source], op.pitch[s.source]);
                    let w = &packed[k * nb..(k + s.len) * nb];
                    if V <= 2 && S::F32_LANES == 16 && pitch <= 32 && consecutive(rows) {
                        let x = &x[rows[0] as usize * pitch + s.channel..];
                        match pitch {
                            8 => dense::<S, V, P, 8>(simd, x, s.len, w, &mut sums),
                            16 => dense::<S, V, P, 16>(simd, x, s.len, w, &mut sums),
                            24 => dense::<S, V, P, 24>(simd, x, s.len, w, &mut sums),
                            _ => dense::<S, V, P, 32>(simd, x, s.len, w, &mut sums),
                        }
                    } else {
                        let mut xs: [&[f32]; P] = [&[]; P];
                        each!(P, I => xs[I] = if rows[I] == NOWHERE {
                            &op.zeros[..s.len]
                        } else {
                            &x[rows[I] as usize * pitch + s.channel..][..s.len]
                        });
                        multiply::<S, V, P>(simd, xs, s.len, w, nb, column, &mut sums);
                    }
                    k += s.len;
                }
                each!(P, I => store(simd, &sums[I], &mut acc[(tile + I) * nb + column..]));
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
        let w = load(simd, &row[column..]);
        each!(P, I => multiply_add(simd, xs[I][k], &w, &mut local[I]));
    }
    *sums = local;
}

/// Whether a tile reads neighbouring rows of its source: inside a picture's row, away from the edges.
#[inline(always)]
fn consecutive(rows: &[u32]) -> bool {
    // The first test refuses runs that begin or end at `NOWHERE`, one less than zero in wrapping arithmetic.
    rows[0] < NOWHERE - SLACK as u32 && rows.windows(2).fold(true, |all, w| all & (w[1].wrapping_sub(w[0]) == 1))
}

/// [`multiply`] for neighbouring rows of a small constant pitch: one pointer and constant distances instead of
/// `P` pointers, of which the processor has too few registers.
#[inline(always)]
fn dense<S: Simd, const V: usize, const P: usize, const PITCH: usize>(
    simd: S,
    x: &[f32],
    len: usize,
    w: &[f32],
    sums: &mut [[S::f32s; V]; P],
) {
    let mut local = *sums;
    // From k on, the tile's values span this many; the last row need not be whole.
    let span = (P - 1) * PITCH + 1;
    let x = &x[..span - 1 + len];
    for (x, row) in x.windows(span).zip(w.chunks_exact(V * S::F32_LANES)) {
        let w = load(simd, row);
        each!(P, I => multiply_add(simd, x[I * PITCH], &w, &mut local[I]));
    }
    *sums = local;
}

/// What follows the sums of a block of columns.
#[derive(Clone, Copy)]
pub(super) struct Epilogue {
    /// Added first, one value per column.
    pub(super) bias: [f32; COLUMNS],
    /// Activation code.
    pub(super) act: u32,
}

impl Epilogue {
    /// `bias` and, where it is not empty, `row_bias`.
    pub(super) fn new(act: u32, bias: &[f32], row_bias: &[f32]) -> Epilogue {
        let mut sum = [0.0; COLUMNS];
        sum.iter_mut().zip(bias).for_each(|(s, b)| *s += b);
        sum.iter_mut().zip(row_bias).for_each(|(s, b)| *s += b);
        Epilogue { bias: sum, act }
    }

    /// `y = act(sums + bias) + residual` for one pixel. Whole vectors have code of constant length.
    #[inline(always)]
    pub(super) fn row(&self, sums: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        match y.len() {
            64 => self.fixed::<64>(sums, residual, y),
            32 => self.fixed::<32>(sums, residual, y),
            16 => self.fixed::<16>(sums, residual, y),
            _ => {
                y.iter_mut().zip(sums.iter().zip(&self.bias)).for_each(|(y, (s, b))| *y = s + b);
                activate(self.act, y);
                if let Some(r) = residual {
                    y.iter_mut().zip(r).for_each(|(y, r)| *y += r);
                }
            }
        }
    }

    /// `y = act((value + bias) * gelu(gate + gate_bias)) + residual` for one pixel.
    #[inline(always)]
    pub(super) fn gated(
        &self,
        [value, gate]: [&[f32]; 2],
        gate_bias: &[f32; COLUMNS],
        residual: Option<&[f32]>,
        y: &mut [f32],
    ) {
        // Whole blocks of a constant length vectorise; what lies beyond `y` is computed and dropped.
        let mut v = [0f32; COLUMNS];
        let mut g = [0f32; COLUMNS];
        v[..y.len()].copy_from_slice(&value[..y.len()]);
        g[..y.len()].copy_from_slice(&gate[..y.len()]);
        v.iter_mut().zip(&self.bias).for_each(|(v, b)| *v += b);
        g.iter_mut().zip(gate_bias).for_each(|(g, b)| *g = gelu(*g + b));
        v.iter_mut().zip(&g).for_each(|(v, g)| *v *= g);
        activate(self.act, &mut v);
        if let Some(r) = residual {
            v.iter_mut().zip(r).for_each(|(v, r)| *v += r);
        }
        let count = y.len();
        y.copy_from_slice(&v[..count]);
    }

    #[inline(always)]
    fn fixed<const N: usize>(&self, sums: &[f32], residual: Option<&[f32]>, y: &mut [f32]) {
        let mut v = [0f32; N];
        v.copy_from_slice(&sums[..N]);
        v.iter_mut().zip(&self.bias).for_each(|(v, b)| *v += b);
        activate(self.act, &mut v);
        if let Some(r) = residual {
            v.iter_mut().zip(&r[..N]).for_each(|(v, r)| *v += r);
        }
        y.copy_from_slice(&v);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn orders_cover_every_row_once_in_blocks_that_fit() {
        for (taps, pitches, columns) in
            [(9, [16, 0], 16), (9, [320, 640], 320), (1, [8, 0], 8), (4, [520, 8], 48), (9, [128, 64], 64)]
        {
            let order = Order::new(taps, pitches, columns);
            let most = PACKED / block_columns(columns);
            let mut expected = 0;
            let mut begin = 0;
            for &(end, row) in &order.blocks {
                assert_eq!(row, expected);
                let rows: usize = order.segments[begin..end].iter().map(|s| s.len).sum();
                assert!(rows > 0 && rows <= most, "{rows} rows");
                expected += rows;
                begin = end;
            }
            assert_eq!(expected, taps * (pitches[0] + pitches[1]));
            assert_eq!(begin, order.segments.len());
        }
    }
}
