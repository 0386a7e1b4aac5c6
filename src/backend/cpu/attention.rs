//! `attention`: online softmax over blocks of keys, one block of queries of one head at a time.
//!
//! Scores are kept transposed, `[key][query]`, with queries in vector lanes: the maximum, the exponentials and
//! the sums then run down the columns without any shuffle, and the block of scores is already the right-hand
//! operand of the second product, `o[channel][query] += v[key][channel] * s[key][query]`. Keys and values are
//! read where they lie.

use super::product::{each, load, multiply_add, store};
use super::scratch::{Scratch, with_scratch};
use super::vector::exp;
use crate::abi::Item;
use crate::abi::params::AttentionParams;
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;

/// Queries of a block: four 512-bit vectors.
const QUERIES: usize = 64;
/// Keys of a block: their scores (24 KiB) stay in L1.
const KEYS: usize = 96;
/// Keys per register tile of the scores.
const TILE: usize = 6;
/// Channels of the queries that a pass over a block of keys multiplies: 32 KiB, so that they stay in L1.
const CHANNELS: usize = 128;
/// Channels per register tile of the second product; head sizes are multiples of it.
const GROUP: usize = 8;

/// Operands as f32 slices.
pub(super) struct Attention<'a> {
    pub(super) p: AttentionParams,
    pub(super) items: &'a [Item],
    pub(super) q: &'a [f32],
    pub(super) k: &'a [f32],
    pub(super) v: &'a [f32],
    /// Empty without relative positions.
    pub(super) rel: &'a [f32],
}

/// Thread scratch of a launch: queries, output, scores, maxima, sums, packed values, relative positions.
pub(super) fn scratch(p: &AttentionParams) -> Scratch {
    let d = p.head_dim as usize;
    let relative = (p.rel_h + p.rel_w) as usize;
    Scratch { floats: QUERIES * (2 * d + KEYS + 2 + relative) + KEYS * d, indices: 0 }
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
        // Beyond its own length a context's row is padding.
        let counted = match a.items.get(item).map_or(0, |i| i.keys as usize) {
            n if n > 0 && p.parts & 2 != 0 => n.min(keys),
            _ => keys,
        };
        let (q, rest) = scratch.split_at_mut(QUERIES * d);
        let (o, rest) = rest.split_at_mut(QUERIES * d);
        let (s, rest) = rest.split_at_mut(QUERIES * KEYS);
        let (max, rest) = rest.split_at_mut(QUERIES);
        let (sum, rest) = rest.split_at_mut(QUERIES);
        let (packed, rest) = rest.split_at_mut(KEYS * d);
        let relative = &mut rest[..QUERIES * (p.rel_h + p.rel_w) as usize];
        for head in 0..p.heads as usize {
            q.fill(0.0);
            for i in 0..count {
                let at = (item * p.queries as usize + first + i) * p.pitch_q as usize + p.offset_q as usize + head * d;
                for (c, &v) in a.q[at..][..d].iter().enumerate() {
                    q[c * QUERIES + i] = v * p.scale;
                }
            }
            if !a.rel.is_empty() {
                spread(
                    p,
                    &a.rel[item * p.queries as usize * p.heads as usize * p.pitch_rel() as usize..],
                    head,
                    first,
                    count,
                    relative,
                );
            }
            o.fill(0.0);
            max.fill(f32::NEG_INFINITY);
            sum.fill(0.0);
            // Causal blocks end at the last query's own key.
            let visible = if p.parts & 1 != 0 { counted.min(first + count) } else { counted };
            let mut key = 0;
            while key < visible {
                let n = KEYS.min(visible - key);
                let at = |offset: u32, pitch: u32| (row * keys + key) * pitch as usize + offset as usize + head * d;
                scores(simd, &a.k[at(p.offset_k, p.pitch_k)..], p.pitch_k as usize, n, d, q, s);
                if !a.rel.is_empty() {
                    lift(p, key, relative, &mut s[..n * QUERIES]);
                }
                if p.parts & 1 != 0 {
                    for (j, s) in s.chunks_exact_mut(QUERIES).take(n).enumerate() {
                        // Query `first + i` sees keys up to its own index.
                        let hidden = (key + j).saturating_sub(first).min(QUERIES);
                        s[..hidden].fill(f32::NEG_INFINITY);
                    }
                }
                softmax_step(&mut s[..n * QUERIES], max, sum, o);
                pack(&a.v[at(p.offset_v, p.pitch_v)..], p.pitch_v as usize, n, d, packed);
                weigh(simd, packed, n, s, o);
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

/// What each row and each column of keys adds to the scores of a block of queries, `[rel_h + rel_w][query]`: from it a
/// score takes two values where it would else compute two addresses.
#[inline(always)]
fn spread(p: &AttentionParams, rel: &[f32], head: usize, first: usize, count: usize, to: &mut [f32]) {
    let (h, w, pitch) = (p.rel_h as usize, p.rel_w as usize, p.pitch_rel() as usize);
    to.fill(0.0);
    for i in 0..count {
        let query = first + i;
        let r = &rel[(query * p.heads as usize + head) * pitch..][..pitch];
        let (qy, qx) = (query / w, query % w);
        for ky in 0..h {
            to[ky * QUERIES + i] = r[qy + h - 1 - ky];
        }
        for kx in 0..w {
            to[(h + kx) * QUERIES + i] = r[2 * h - 1 + qx + w - 1 - kx];
        }
    }
}

/// Adds relative positions to the scores of the keys from `key` on.
#[inline(always)]
fn lift(p: &AttentionParams, key: usize, relative: &[f32], s: &mut [f32]) {
    let (h, w) = (p.rel_h as usize, p.rel_w as usize);
    for (j, s) in s.chunks_exact_mut(QUERIES).enumerate() {
        let (ky, kx) = ((key + j) / w, (key + j) % w);
        let row = &relative[ky * QUERIES..][..QUERIES];
        let column = &relative[(h + kx) * QUERIES..][..QUERIES];
        for i in 0..QUERIES {
            s[i] += row[i] + column[i];
        }
    }
}

/// `s[key][query] = sum over c of k[key][c] * q[c][query]` for `n` keys.
#[inline(always)]
fn scores<S: Simd>(simd: S, k: &[f32], pitch: usize, n: usize, d: usize, q: &[f32], s: &mut [f32]) {
    let mut c = 0;
    while c < d {
        let len = CHANNELS.min(d - c);
        let q = &q[c * QUERIES..][..len * QUERIES];
        let mut tile = 0;
        while tile < n {
            // Tiles past the last key repeat it; nobody looks at their scores.
            let rows: [&[f32]; TILE] = std::array::from_fn(|j| &k[(tile + j).min(n - 1) * pitch + c..][..len]);
            let s = &mut s[tile * QUERIES..][..TILE * QUERIES];
            match S::F32_LANES {
                16 => score_tile::<S, 4, TILE>(simd, rows, q, s, c == 0),
                8 => score_tile::<S, 2, TILE>(simd, rows, q, s, c == 0),
                4 => score_tile::<S, 4, TILE>(simd, rows, q, s, c == 0),
                _ => score_tile::<S, 1, TILE>(simd, rows, q, s, c == 0),
            }
            tile += TILE;
        }
        c += len;
    }
}

#[inline(always)]
fn score_tile<S: Simd, const V: usize, const P: usize>(simd: S, k: [&[f32]; P], q: &[f32], s: &mut [f32], fresh: bool) {
    let width = V * S::F32_LANES;
    let len = q.len() / QUERIES;
    let mut column = 0;
    while column < QUERIES {
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        if !fresh {
            each!(P, I => sums[I] = load(simd, &s[I * QUERIES + column..]));
        }
        for (c, q) in q.chunks_exact(QUERIES).take(len).enumerate() {
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

/// Copies a block of values to `[channel / GROUP][key][GROUP]`. In place, a register tile would touch one cache
/// line per key, and pitches are such that those lines compete for few sets of the L1 cache.
#[inline(always)]
fn pack(v: &[f32], pitch: usize, n: usize, d: usize, packed: &mut [f32]) {
    for key in 0..n {
        for (group, v) in v[key * pitch..][..d].chunks_exact(GROUP).enumerate() {
            packed[(group * KEYS + key) * GROUP..][..GROUP].copy_from_slice(v);
        }
    }
}

/// `o[c][query] += sum over key of v[key][c] * s[key][query]`.
#[inline(always)]
fn weigh<S: Simd>(simd: S, packed: &[f32], n: usize, s: &[f32], o: &mut [f32]) {
    for (v, o) in packed.chunks_exact(KEYS * GROUP).zip(o.chunks_exact_mut(GROUP * QUERIES)) {
        match S::F32_LANES {
            16 => weigh_tile::<S, 2, GROUP>(simd, v, n, s, o),
            8 => weigh_tile::<S, 1, GROUP>(simd, v, n, s, o),
            4 => weigh_tile::<S, 2, GROUP>(simd, v, n, s, o),
            _ => weigh_tile::<S, 1, GROUP>(simd, v, n, s, o),
        }
    }
}

#[inline(always)]
fn weigh_tile<S: Simd, const V: usize, const P: usize>(simd: S, v: &[f32], n: usize, s: &[f32], o: &mut [f32]) {
    let width = V * S::F32_LANES;
    let mut column = 0;
    while column < QUERIES {
        let mut sums = [[simd.splat_f32s(0.0); V]; P];
        each!(P, I => sums[I] = load(simd, &o[I * QUERIES + column..]));
        for (v, s) in v.chunks_exact(P).zip(s.chunks_exact(QUERIES)).take(n) {
            let s = load(simd, &s[column..]);
            each!(P, I => multiply_add(simd, v[I], &s, &mut sums[I]));
        }
        each!(P, I => store(simd, &sums[I], &mut o[I * QUERIES + column..]));
        column += width;
    }
}
