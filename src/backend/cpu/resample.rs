//! `resample`: a few scaled lines are added up. Along the rows' axis a line is a row of the map, along the columns' a
//! pixel; in memory both are equally long runs one after another.

use super::vector::vectorised;
use crate::abi::params::ResampleParams;
use pulp::Arch;
use rayon::prelude::*;

/// Values of a task.
const TASK: usize = 1 << 14;
/// Lines that are added at a time.
const GROUP: usize = 4;
/// Largest first index, either way; whole numbers up to here are exact.
const FARTHEST: f32 = 16_777_216.0;

/// Channels come in runs of eight: the pitch is a multiple.
type Eight = [f32; 8];

/// The one variant.
pub(super) fn base(arch: Arch, p: &ResampleParams, x: &[f32], table: &[f32], y: &mut [f32]) {
    let (h, w, pitch, out) = (p.h as usize, p.w as usize, p.pitch as usize, p.out as usize);
    // Lines of an item are `outer` times `side`, each of `length` runs.
    let (outer, side, length) = if p.axis == 0 { (1, h, w * pitch / 8) } else { (h, w, pitch / 8) };
    let rows = out * p.pitch_table as usize;
    let (x, y): (&[Eight], &mut [Eight]) = (bytemuck::cast_slice(x), bytemuck::cast_slice_mut(y));
    let count = (TASK / 8 / length).max(1);
    y.par_chunks_mut(count * length).enumerate().for_each(|(task, y)| {
        vectorised(
            arch,
            #[inline(always)]
            || {
                for (i, y) in y.chunks_exact_mut(length).enumerate() {
                    let line = task * count + i;
                    let (group, o) = (line / out, line % out);
                    let item = if p.parts & 1 != 0 { group / outer } else { 0 };
                    let row = &table[item * rows + o * p.pitch_table as usize..][..p.taps as usize + 1];
                    sum(&x[group * side * length..][..side * length], side, row, y);
                }
            },
        );
    });
}

/// One line of the result: `row` is the first index and the weights.
#[inline(always)]
fn sum(x: &[Eight], side: usize, row: &[f32], y: &mut [Eight]) {
    let first = row[0].clamp(-FARTHEST, FARTHEST) as i64;
    let length = y.len();
    let line = |tap: usize| {
        let at = (first + tap as i64).clamp(0, side as i64 - 1) as usize;
        &x[at * length..][..length]
    };
    let mut tap = 0;
    for weights in row[1..].chunks(GROUP) {
        let fresh = tap == 0;
        match *weights {
            [a] => add(y, fresh, [a], [line(tap)]),
            [a, b] => add(y, fresh, [a, b], [line(tap), line(tap + 1)]),
            [a, b, c] => add(y, fresh, [a, b, c], [line(tap), line(tap + 1), line(tap + 2)]),
            [a, b, c, d] => add(y, fresh, [a, b, c, d], [line(tap), line(tap + 1), line(tap + 2), line(tap + 3)]),
            _ => {}
        }
        tap += weights.len();
    }
}

/// `y += sum of weights * x`, in order; `fresh`: y counts as zero.
#[inline(always)]
fn add<const N: usize>(y: &mut [Eight], fresh: bool, weights: [f32; N], x: [&[Eight]; N]) {
    let n = y.len();
    let x = x.map(|x| &x[..n]);
    for (i, y) in y.iter_mut().enumerate() {
        for (lane, y) in y.iter_mut().enumerate() {
            let mut v = if fresh { 0.0 } else { *y };
            for tap in 0..N {
                v += weights[tap] * x[tap][i][lane];
            }
            *y = v;
        }
    }
}
