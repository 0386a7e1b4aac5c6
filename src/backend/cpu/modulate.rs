//! `modulate`: one pass over memory, `act(x * (1 + gamma) + beta)`.

use super::product::panel_height;
use super::vector::{activate, vectorised};
use crate::abi::params::ModulateParams;
use pulp::Arch;
use rayon::prelude::*;

/// The one variant.
pub(super) fn base(arch: Arch, p: &ModulateParams, x: &[f32], gb: &[f32], y: &mut [f32]) {
    let (c, pitch, pitch_gb) = (p.c as usize, p.pitch as usize, p.pitch_gb as usize);
    let height = panel_height(p.pixels as usize);
    y.par_chunks_mut(height * pitch).enumerate().for_each(|(index, y)| {
        let first = index * height;
        vectorised(
            arch,
            #[inline(always)]
            || {
                for (i, y) in y.chunks_exact_mut(pitch).enumerate() {
                    let (y, pads) = y.split_at_mut(c);
                    let x = &x[(first + i) * pitch..][..c];
                    let (gamma, beta) = gb[(first + i) * pitch_gb..][..2 * c].split_at(c);
                    for (y, (x, (g, b))) in y.iter_mut().zip(x.iter().zip(gamma.iter().zip(beta))) {
                        *y = x * (1.0 + g) + b;
                    }
                    activate(p.act, y);
                    pads.fill(0.0);
                }
            },
        );
    });
}
