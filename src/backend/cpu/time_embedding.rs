//! `time_embedding`: a few hundred values per job, computed in f64.

use crate::abi::params::TimeEmbeddingParams;

/// The one variant.
pub(super) fn base(p: &TimeEmbeddingParams, t: &[f32], y: &mut [f32]) {
    let half = (p.dim / 2) as usize;
    let step = -f64::from(p.max_period).ln() / (half as f64 - f64::from(p.shift));
    for (t, y) in t.chunks_exact(8).zip(y.chunks_exact_mut(p.pitch as usize)) {
        y.fill(0.0);
        let (sines, cosines) = if p.flip == 1 { (half, 0) } else { (0, half) };
        for i in 0..half {
            let (sin, cos) = (f64::from(t[0]) * (step * i as f64).exp()).sin_cos();
            y[sines + i] = sin as f32;
            y[cosines + i] = cos as f32;
        }
    }
}
