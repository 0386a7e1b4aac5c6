//! `norm_apply`: one pass over memory, `act(x * a + b)`.

use super::product::panel_height;
use super::vector::{activate, sigmoid, vectorised};
use crate::abi::params::{ACT_SILU, NormApplyParams};
use pulp::Arch;
use rayon::prelude::*;

/// The one variant. `x[1]` is empty without a second source.
pub(super) fn base(arch: Arch, p: &NormApplyParams, x: [&[f32]; 2], ab: &[f32], y: &mut [f32]) {
    let pixels = p.pixels as usize;
    let pitch = p.pitch_y as usize;
    let pitches = [p.pitch_x as usize, p.pitch_x2 as usize];
    let channels = [p.c as usize, p.c2 as usize];
    let total = pitches[0] + pitches[1];
    let height = panel_height(pixels);
    y.par_chunks_mut(pixels * pitch).enumerate().for_each(|(item, y)| {
        let (a, b) = ab[item * 2 * total..][..2 * total].split_at(total);
        y.par_chunks_mut(height * pitch).enumerate().for_each(|(index, y)| {
            let first = item * pixels + index * height;
            if channels[1] == 0 && channels[0] == pitches[0] && pitch == pitches[0] && pitch <= REPEAT / 2 {
                let x = &x[0][first * pitch..][..y.len()];
                return vectorised(
                    arch,
                    #[inline(always)]
                    || narrow(p.act, x, a, b, y),
                );
            }
            vectorised(
                arch,
                #[inline(always)]
                || {
                    for (i, y) in y.chunks_exact_mut(pitch).enumerate() {
                        let mut at = 0;
                        let mut start = 0;
                        for s in 0..2 {
                            let n = channels[s];
                            if n == 0 {
                                continue;
                            }
                            let x = &x[s][(first + i) * pitches[s]..][..n];
                            row(p.act, x, &a[start..][..n], &b[start..][..n], &mut y[at..][..n]);
                            at += n;
                            start += pitches[s];
                        }
                        y[at..].fill(0.0);
                    }
                },
            );
        });
    });
}

/// Values that are scaled at a time where rows are short.
const REPEAT: usize = 256;

/// Rows much shorter than a loop's overhead: (a, b) are repeated, so that one loop serves many pixels.
#[inline(always)]
fn narrow(act: u32, x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) {
    let c = a.len();
    let length = REPEAT / c * c;
    let (mut aa, mut bb) = ([0f32; REPEAT], [0f32; REPEAT]);
    for i in 0..length {
        (aa[i], bb[i]) = (a[i % c], b[i % c]);
    }
    for (x, y) in x.chunks(length).zip(y.chunks_mut(length)) {
        let n = x.len();
        row(act, x, &aa[..n], &bb[..n], y);
    }
}

#[inline(always)]
fn row(act: u32, x: &[f32], a: &[f32], b: &[f32], y: &mut [f32]) {
    let parts = y.iter_mut().zip(x.iter().zip(a.iter().zip(b)));
    if act == ACT_SILU {
        for (y, (x, (a, b))) in parts {
            let v = x * a + b;
            *y = v * sigmoid(v);
        }
    } else {
        for (y, (x, (a, b))) in parts {
            *y = x * a + b;
        }
        activate(act, y);
    }
}
