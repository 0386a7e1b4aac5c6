//! `attention`: online softmax over blocks of keys, one block of queries of one head at a time.
//!
//! Scores are kept transposed, `[key][query]`, with queries in vector lanes: the maximum, the exponentials and
//! the sums then run down the columns without any shuffle, and the block of scores is already the right-hand
//! operand of the second product, `o[channel][query] += v[key][channel] * s[key][query]`. Keys and values are
//! read where they lie.

use super::kernel::{Scratch, with_scratch};
use super::product::{each, load, multiply_add, store};
use super::vector::exp;
use crate::abi::Item;
use crate::abi::params::AttentionParams;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Queries of a block: four 512-bit vectors.
const QUERIES: usize = 64;
/// Keys of a block: their scores (24 KiB) stay in L1.
const KEYS: usize = 96;
/// Keys per register tile.
const TILE: usize = 6;

/// Operands as f32 slices.
pub(super) struct Attention<'a> {
    pub(super) p: AttentionParams,
    pub(super) items: &'a [Item],
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
}

/// Thread scratch of a launch: queries, output, scores, maxima, sums.
pub(super) fn scratch(p: &AttentionParams) -> Scratch {
    Scratch { floats: QUERIES * (2 * p.head_dim as usize + KEYS + 2), indices: 0 }
}

/// One block of queries, all heads.
struct Block<'a, 'b> {
    a: &'a Attention<'a>,
    item: usize,
    first: usize,
    scratch: &'b mut [f32],
    y: &'b mut [f32],
}

/// The one variant.
pub(super) fn base(arch: Arch, a: &Attention<'_>, y: &mut [f32]) {
    let pitch = a.p.pitch_y as usize;
    let need = scratch(&a.p);
    y.par_chunks_mut(a.p.queries as usize * pitch).enumerate().for_each(|(item, y)| {
        y.par_chunks_mut(QUERIES * pitch).enumerate().for_each(|(block, y)| {
            with_scratch(need, |scratch, _, _| {
                arch.dispatch(Block { a, item, first: block * QUERIES, scratch, y });
            });
        });
    });
}

impl WithSimd for Block<'_, '_> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let Block { a, item, first, scratch, y } = self;
        let p = &a.p;
        let (pitch, d) = (p.pitch_y as usize, p.head_dim as usize);
        let count = y.len() / pitch;
        let row = if p.parts & 2 != 0 { a.items[item].ctx_row as usize } else { item };
        let keys = p.keys as usize;
        let (q, rest) = scratch.split_at_mut(QUERIES * d);
        let (o, rest) = rest.split_at_mut(QUERIES * d);
        let (s, rest) = rest.split_at_mut(QUERIES * KEYS);
        let (max, sum) = rest[..2 * QUERIES].split_at_mut(QUERIES);
        for head in 0..p.heads as usize {
            q.fill(0.0);
            for i in 0..count {
                let at = (item * p.queries as usize + first + i) * p.pitch_q as usize + p.offset_q as usize + head * d;
                for (c, &v) in a.q[at..][..d].iter().enumerate() {
                    q[c * QUERIES + i] = v * p.scale;
                }
            }
            o.fill(0.0);
            max.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            // Causal blocks end at the last query's own key.
            let visible = if p.parts & 1 != 0 { keys.min(first + count) } else { keys };
            let mut key = 0;
            while key < visible {
                let n = KEYS.min(visible - key);
                let at = |offset: u32, pitch: u32| (row * keys + key) * pitch as usize + offset as usize + head * d;
                scores(simd, &a.k[at(p.offset_k, p.pitch_k)..], p.pitch_k as usize, n, d, q, s);
                if p.parts & 1 != 0 {
                    for (j, s) in s.chunks_exact_mut(QUERIES).take(n).enumerate() {
                        // Query `first + i` sees keys up to its own index.
                        let hidden = (key + j).saturating_sub(first).min(QUERIES);
                        s[..hidden].fill(f32::NEG_INFINITY);
                    }
                }
                softmax_step(&mut s[..n * QUERIES], max, sum, o);
                weigh(simd, &a.v[at(p.offset_v, p.pitch_v)..], p.pitch_v as usize, n, s, o);
                key += n;
            }
            for (i, y) in y.chunks_exact_mut(pitch).enumerate() {
                let factor = 1.0 / sum[i];
                for (c, y) in y[head * d..][..d].iter_mut().enumerate() {
                    *y = o[c * QUERIES + i] * factor;
                }
            }
        }
        for y in y.chunks_exact_mut(pitch) {
            y[p.heads as usize * d..].fill(0.0);
        }
    }
}

/// `s[key][query] = sum over c of k[key][c] * q[c][query]` for `n` keys.
#[inline(always)]
fn scores<S: Simd>(simd: S, k: &[f32], pitch: usize, n: usize, d: usize, q: &[f32], s: &mut [f32]) {
    let mut tile = 0;
    while tile < n {
        // Tiles past the last key repeat it; nobody looks at their scores.
        let rows: [&[f32]; TILE] = std::array::from_fn(|j| &k[(tile + j).min(n - 1) * pitch..][..d]);
        let s = &mut s[tile * QUERIES..][..TILE * QUERIES];
        match S::F32_LANES {
            16 => score_tile::<S, 4, TILE>(simd, rows, d, q, s),
            8 => score_tile::<S, 2, TILE>(simd, rows, d, q, s),
            4 => score_tile::<S, 4, TILE>(simd, rows, d, q, s),
            _ => score_tile::<S, 1, TILE>(simd, rows, d, q, s),
        }
        tile += TILE;
    }
}

#[inline(always)]
fn score_tile<S: Simd, const V: usize, const P: usize>(simd: S, k: [&[f32]; P], d: usize, q: &[f32], s: &mut [f32]) {
    let width = V * S::F32_LANES;
    let mut column = 0;
    while column < QUERIES {
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        for (c, q) in q.chunks_exact(QUERIES).take(d).enumerate() {
            let q = load(simd, &q[column..]);
            each!(P, I => multiply_add(simd, k[I][c], &q, &mut sums[I]));
        }
        each!(P, I => store(simd, &sums[I], &mut s[I * QUERIES + column..]));
        column += width;
    }
}

/// Turns a block of scores into weights against the running maximum, and rescales what was summed so far.
#[inline(always)]
fn softmax_step(s: &mut [f32], max: &mut [f32], sum: &mut [f32], o: &mut [f32]) {
    let mut next = [0f32; QUERIES];
    next.copy_from_slice(max);
    for s in s.chunks_exact(QUERIES) {
        for (m, &s) in next.iter_mut().zip(s) {
            *m = if s > *m { s } else { *m };
        }
    }
    let mut factor = [0f32; QUERIES];
    let mut moved = false;
    for i in 0..QUERIES {
        factor[i] = exp(max[i] - next[i]);
        moved |= max[i] != next[i];
        sum[i] *= factor[i];
        max[i] = next[i];
    }
    for s in s.chunks_exact_mut(QUERIES) {
        for i in 0..QUERIES {
            s[i] = exp(s[i] - next[i]);
            sum[i] += s[i];
        }
    }
    // Most blocks late in a row leave every maximum where it was.
    if moved {
        for o in o.chunks_exact_mut(QUERIES) {
            for i in 0..QUERIES {
                o[i] *= factor[i];
            }
        }
    }
}

/// `o[c][query] += sum over key of v[key][c] * s[key][query]`.
#[inline(always)]
fn weigh<S: Simd>(simd: S, v: &[f32], pitch: usize, n: usize, s: &[f32], o: &mut [f32]) {
    match S::F32_LANES {
        16 => weigh_all::<S, 4>(simd, v, pitch, n, s, o),
        8 => weigh_all::<S, 2>(simd, v, pitch, n, s, o),
        4 => weigh_all::<S, 4>(simd, v, pitch, n, s, o),
        _ => weigh_all::<S, 1>(simd, v, pitch, n, s, o),
    }
}

#[inline(always)]
fn weigh_all<S: Simd, const V: usize>(simd: S, v: &[f32], pitch: usize, n: usize, s: &[f32], o: &mut [f32]) {
    let d = o.len() / QUERIES;
    let mut c = 0;
    // Head sizes are multiples of 8, so sixes leave 0, 2 or 4.
    while c + 6 <= d {
        weigh_tile::<S, V, 6>(simd, &v[c..], pitch, n, s, &mut o[c * QUERIES..]);
        c += 6;
    }
    while c < d {
        weigh_tile::<S, V, 2>(simd, &v[c..], pitch, n, s, &mut o[c * QUERIES..]);
        c += 2;
    }
}

#[inline(always)]
fn weigh_tile<S: Simd, const V: usize, const P: usize>(
    simd: S,
    v: &[f32],
    pitch: usize,
    n: usize,
    s: &[f32],
    o: &mut [f32],
) {
    let width = V * S::F32_LANES;
    let mut column = 0;
    while column < QUERIES {
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        each!(P, I => sums[I] = load(simd, &o[I * QUERIES + column..]));
        for (key, s) in s.chunks_exact(QUERIES).take(n).enumerate() {
            let s = load(simd, &s[column..]);
            let row = &v[key * pitch..][..P];
            each!(P, I => multiply_add(simd, row[I], &s, &mut sums[I]));
        }
        each!(P, I => store(simd, &sums[I], &mut o[I * QUERIES + column..]));
        column += width;
    }
}
