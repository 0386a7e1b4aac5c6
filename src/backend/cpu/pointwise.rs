//! `pointwise`: one pass over memory.

use super::product::panel_height;
use super::vector::{activate, vectorised};
use crate::abi::Item;
use crate::abi::params::PointwiseParams;
use pulp::Arch;
use rayon::prelude::*;

/// Elements of a row of `table`.
const TABLE_PITCH: usize = 8;

/// The one variant. `b` and `table` are empty where absent.
pub(super) fn base(
    arch: Arch,
    p: &PointwiseParams,
    items: &[Item],
    a: &[f32],
    b: &[f32],
    table: &[f32],
    y: &mut [f32],
) {
    let (pixels, c) = (p.pixels as usize, p.c as usize);
    let (pitch, pitch_a, pitch_b) = (p.pitch_y as usize, p.pitch_a as usize, p.pitch_b as usize);
    let height = panel_height(pixels);
    y.par_chunks_mut(pixels * pitch).enumerate().for_each(|(item, y)| {
        let [alpha, beta] = if table.is_empty() {
            [p.alpha, p.beta]
        } else {
            let row = items[item].step_row as usize * TABLE_PITCH;
            [table[row], table[row + 1]]
        };
        y.par_chunks_mut(height * pitch).enumerate().for_each(|(index, y)| {
            let first = item * pixels + index * height;
            vectorised(
                arch,
                #[inline(always)]
                || {
                    for (i, y) in y.chunks_exact_mut(pitch).enumerate() {
                        let (y, pads) = y.split_at_mut(c);
                        let a = &a[(first + i) * pitch_a + p.offset as usize..][..c];
                        if b.is_empty() {
                            y.iter_mut().zip(a).for_each(|(y, a)| *y = alpha * a + p.gamma);
                        } else {
                            let b = &b[(first + i) * pitch_b..][..c];
                            y.iter_mut()
                                .zip(a.iter().zip(b))
                                .for_each(|(y, (a, b))| *y = alpha * a + beta * b + p.gamma);
                        }
                        activate(p.act, y);
                        // Comparisons that a NaN passes through unchanged.
                        for v in y {
                            *v = if *v < p.lo { p.lo } else { *v };
                            *v = if *v > p.hi { p.hi } else { *v };
                        }
                        pads.fill(0.0);
                    }
                },
            );
        });
    });
}
