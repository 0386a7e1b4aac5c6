//! THE blend weights. Per axis and pixel they are whole multiples of 2^-12 that sum to exactly one; a
//! pixel's weight is the product of its row's and its column's, a multiple of 2^-24 and therefore exact
//! in f32. So the weights of all windows at a pixel sum to exactly one, and no division follows the blend.

use super::geometry::Axis;

/// Shape of the weights where windows overlap.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Ramp {
    /// Straight from 0 to 1 across the overlap.
    Linear,
    /// Raised cosine across the overlap: no kink at either end.
    #[default]
    Cosine,
    /// Gaussian over the whole window, variance 0.01 of the side squared.
    Gaussian,
    /// The same everywhere: a mean over windows.
    Uniform,
}

/// Weights per axis are multiples of `1 / ONE`; two of them multiply exactly in f32.
const ONE: u32 = 1 << 12;

/// Weights of every window of one axis.
#[derive(Debug, Clone, PartialEq)]
pub struct BlendWeights {
    size: usize,
    values: Vec<f32>,
}

impl BlendWeights {
    /// Weights for the windows of `axis`. Pixels nearer than `halo` to an inner edge of a window count
    /// only where no other window covers them better; at the picture's edges there is no halo.
    pub fn new(axis: &Axis, ramp: Ramp, halo: u32) -> BlendWeights {
        let size = axis.size as usize;
        let mut values = vec![0.0f32; size * axis.count()];
        // Windows over a pixel are neighbours in the list: `first..end` slides along.
        let (mut first, mut end) = (0usize, 0usize);
        let mut raw: Vec<f64> = Vec::new();
        for p in 0..axis.padded {
            while end < axis.count() && axis.origins[end] <= p {
                end += 1;
            }
            while axis.origins[first] + axis.size <= p {
                first += 1;
            }
            raw.clear();
            raw.extend((first..end).map(|k| raw_weight(axis, k, p, ramp, halo)));
            share_out(&raw, |i, units| {
                let k = first + i;
                values[k * size + (p - axis.origins[k]) as usize] = units as f32 / ONE as f32;
            });
        }
        BlendWeights { size, values }
    }

    /// The weights of window `k`, one per pixel of its side.
    pub fn of(&self, k: usize) -> &[f32] {
        &self.values[k * self.size..(k + 1) * self.size]
    }
}

/// Weight of window `k` at pixel `p` before normalisation, in (0, 1] except inside a halo.
fn raw_weight(axis: &Axis, k: usize, p: u32, ramp: Ramp, halo: u32) -> f64 {
    let origin = axis.origins[k];
    let i = f64::from(p - origin);
    let t = f64::from(axis.size);
    match ramp {
        Ramp::Uniform => 1.0,
        Ramp::Gaussian => {
            let d = i - (t - 1.0) / 2.0;
            (-d * d / (t * t * 2.0 * 0.01)).exp()
        }
        Ramp::Linear | Ramp::Cosine => {
            let before = k.checked_sub(1).map(|j| axis.origins[j] + axis.size - origin);
            let after = axis.origins.get(k + 1).map(|next| origin + axis.size - next);
            let left = before.map_or(1.0, |overlap| rise(i + 0.5, overlap, halo));
            let right = after.map_or(1.0, |overlap| rise(t - i - 0.5, overlap, halo));
            let u = left.min(right);
            if ramp == Ramp::Linear { u } else { 0.5 - 0.5 * (std::f64::consts::PI * u).cos() }
        }
    }
}

/// From 0 at `halo` to 1 at `overlap - halo`, `d` pixels inside the edge. A halo that would leave no ramp
/// shrinks.
fn rise(d: f64, overlap: u32, halo: u32) -> f64 {
    if overlap == 0 {
        return 1.0;
    }
    let halo = f64::from(halo.min((overlap - 1) / 2));
    ((d - halo) / (f64::from(overlap) - 2.0 * halo)).clamp(0.0, 1.0)
}

/// Splits [`ONE`] units in proportion to `raw`: whole parts first, what is left to the largest fractions,
/// the earlier window where they are equal.
fn share_out(raw: &[f64], mut give: impl FnMut(usize, u32)) {
    let total: f64 = raw.iter().sum();
    // Nothing but halo here: the windows share evenly.
    let part = |r: f64| if total > 0.0 { r / total * f64::from(ONE) } else { f64::from(ONE) / raw.len() as f64 };
    let whole = |r: f64| part(r).floor().min(f64::from(ONE));
    let mut left = ONE.saturating_sub(raw.iter().map(|&r| whole(r) as u32).sum());
    let fraction = |r: f64| part(r) - whole(r);
    for (i, &r) in raw.iter().enumerate() {
        let ahead = raw
            .iter()
            .enumerate()
            .filter(|&(j, &o)| fraction(o) > fraction(r) || (fraction(o) == fraction(r) && j < i))
            .count() as u32;
        let extra = u32::from(ahead < left.min(raw.len() as u32));
        give(i, whole(r) as u32 + extra);
    }
    left = left.saturating_sub(raw.len() as u32);
    debug_assert_eq!(left, 0, "fewer units are left than windows");
}

#[cfg(test)]
mod tests {
    use super::super::geometry::{Placement, Tiling};
    use super::*;

    fn axis(extent: u32, tile: u32, overlap: u32) -> Axis {
        let t = Tiling { tile, overlap, stride: 4, quantum: 64, placement: Placement::Even };
        Axis::new(extent, &t).expect("fits")
    }

    #[test]
    fn the_middle_counts_fully_and_ramps_are_smooth() {
        let a = axis(896, 512, 128);
        assert_eq!(a.origins, [0, 384]);
        for ramp in [Ramp::Linear, Ramp::Cosine] {
            let w = BlendWeights::new(&a, ramp, 0);
            assert!(w.of(0)[..384].iter().all(|&v| v == 1.0));
            assert!(w.of(1)[128..].iter().all(|&v| v == 1.0));
            assert!(w.of(1)[..128].windows(2).all(|p| p[0] <= p[1]));
            assert!(w.of(1)[0] < 0.01 && w.of(1)[127] > 0.99);
        }
    }

    #[test]
    fn a_halo_is_left_out() {
        let a = axis(896, 512, 128);
        let w = BlendWeights::new(&a, Ramp::Cosine, 32);
        assert!(w.of(1)[..32].iter().all(|&v| v == 0.0), "the halo does not count");
        assert!(w.of(1)[32..].iter().all(|&v| v > 0.0));
        assert!(w.of(0)[..416].iter().all(|&v| v == 1.0), "the other window stands in for it");
        // A halo wider than the overlap shrinks instead of leaving a hole.
        let w = BlendWeights::new(&a, Ramp::Linear, 200);
        let sum = |p: usize| w.of(0)[p] + w.of(1)[p - 384];
        assert!((384..512).all(|p| sum(p) == 1.0));
    }

    #[test]
    fn a_mean_over_windows_is_a_mean() {
        let t = Tiling { tile: 64, overlap: 32, stride: 1, quantum: 1, placement: Placement::Packed };
        let a = Axis::new(128, &t).expect("fits");
        let w = BlendWeights::new(&a, Ramp::Uniform, 0);
        assert_eq!((w.of(0)[0], w.of(0)[40], w.of(1)[8]), (1.0, 0.5, 0.5));
    }
}
