//! `layer_norm`: mean, then mean squared distance, then the row.

use super::product::panel_height;
use super::vector::vectorised;
use crate::abi::params::LayerNormParams;
use pulp::Arch;
use rayon::prelude::*;

/// Independent partial sums, so that the reduction vectorises.
const LANES: usize = 16;

/// The one variant.
pub(super) fn base(arch: Arch, p: &LayerNormParams, x: &[f32], affine: &[f32], y: &mut [f32]) {
    let (c, pitch) = (p.c as usize, p.pitch as usize);
    let (weight, bias) = affine.split_at(pitch);
    let height = panel_height(p.rows as usize);
    y.par_chunks_mut(height * pitch).enumerate().for_each(|(index, y)| {
        let x = &x[index * height * pitch..][..y.len()];
        vectorised(
            arch,
            #[inline(always)]
            || {
                for (x, y) in x.chunks_exact(pitch).zip(y.chunks_exact_mut(pitch)) {
                    let (x, pads) = (&x[..c], c);
                    let mean = sum(x, |v| v) / c as f32;
                    let variance = sum(x, |v| (v - mean) * (v - mean)) / c as f32;
                    let factor = 1.0 / (variance + p.eps).sqrt();
                    for (y, (x, (w, b))) in y.iter_mut().zip(x.iter().zip(weight.iter().zip(bias))) {
                        *y = (x - mean) * factor * w + b;
                    }
                    y[pads..].fill(0.0);
                }
            },
        );
    });
}

/// Sum of `f` over a row, in [`LANES`] parts.
#[inline(always)]
fn sum(x: &[f32], f: impl Fn(f32) -> f32) -> f32 {
    let mut parts = [0f32; LANES];
    let chunks = x.chunks_exact(LANES);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..LANES {
            parts[i] += f(chunk[i]);
        }
    }
    for (p, &v) in parts.iter_mut().zip(rest) {
        *p += f(v);
    }
    parts.iter().sum()
}
