//! `norm_finalize`: partial statistics to (a, b). Sums run in f64 over blocks, then over the channels of a
//! group, always in this order.

use crate::abi::params::NormFinalizeParams;
use rayon::prelude::*;

/// The one variant.
pub(super) fn base(p: &NormFinalizeParams, partials: &[f32], affine: &[f32], ab: &mut [f32]) {
    let (c, c2) = (p.c as usize, p.c2 as usize);
    let total = (p.pitch_x + p.pitch_x2) as usize;
    let half = crate::extent::pitch((c + c2) as u64) as usize;
    let per_group = (c + c2) / p.groups as usize;
    let position = |j: usize| if j < c { j } else { p.pitch_x as usize + j - c };
    ab.par_chunks_mut(2 * total).enumerate().for_each(|(item, ab)| {
        ab.fill(0.0);
        let (a, b) = ab.split_at_mut(total);
        let blocks = &partials[item * p.blocks as usize * 3 * total..][..p.blocks as usize * 3 * total];
        for group in 0..p.groups as usize {
            let channels = group * per_group..(group + 1) * per_group;
            let (mut count, mut sum) = (0f64, 0f64);
            for block in blocks.chunks_exact(3 * total) {
                for at in channels.clone().map(position) {
                    let n = f64::from(block[at]);
                    count += n;
                    sum += n * f64::from(block[total + at]);
                }
            }
            let factor = if count > 0.0 { 1.0 / count } else { 0.0 };
            let mean = sum * factor;
            let mut m2 = 0f64;
            for block in blocks.chunks_exact(3 * total) {
                for at in channels.clone().map(position) {
                    let d = f64::from(block[total + at]) - mean;
                    m2 += f64::from(block[2 * total + at]) + f64::from(block[at]) * d * d;
                }
            }
            let inverse = 1.0 / (m2 * factor + f64::from(p.eps)).sqrt();
            for j in channels {
                let scale = f64::from(affine[j]) * inverse;
                a[position(j)] = scale as f32;
                b[position(j)] = (f64::from(affine[half + j]) - mean * scale) as f32;
            }
        }
    });
}
