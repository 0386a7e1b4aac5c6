//! Fixed-order reductions on the host: moments per channel in f64, merged pairwise in one order (Chan), and
//! the per-channel factors that follow from them.

use crate::system::program::{Affine, StatisticId};

/// Count, mean and sum of squared deviations.
#[derive(Debug, Clone, Copy, PartialEq, Default)]
pub struct Moments {
    /// Values counted.
    pub count: f64,
    /// Their mean.
    pub mean: f64,
    /// Sum of squared deviations from the mean.
    pub m2: f64,
}

impl Moments {
    /// Counts one value (Welford).
    pub fn add(&mut self, v: f64) {
        self.count += 1.0;
        let d = v - self.mean;
        self.mean += d / self.count;
        self.m2 += d * (v - self.mean);
    }

    /// Counts what `other` counted. The result depends on the order of merging; callers keep to one.
    pub fn merge(&mut self, other: &Moments) {
        let n = self.count + other.count;
        if other.count == 0.0 {
            return;
        }
        let d = other.mean - self.mean;
        self.mean += d * other.count / n;
        self.m2 += other.m2 + d * d * self.count * other.count / n;
        self.count = n;
    }

    /// Counts interleaved pixels, one accumulator per channel.
    pub fn add_rows(per_channel: &mut [Moments], values: &[f32]) {
        for pixel in values.chunks_exact(per_channel.len().max(1)) {
            for (m, v) in per_channel.iter_mut().zip(pixel) {
                m.add(f64::from(*v));
            }
        }
    }

    /// Counts what an `Op::ChannelMoments` counted over one item, block by block: `[blocks, 3, channels]`.
    pub fn add_blocks(per_channel: &mut [Moments], values: &[f32]) {
        let c = per_channel.len().max(1);
        for block in values.chunks_exact(3 * c) {
            for (k, m) in per_channel.iter_mut().enumerate() {
                let [count, mean, m2] = [block[k], block[c + k], block[2 * c + k]].map(f64::from);
                m.merge(&Moments { count, mean, m2 });
            }
        }
    }

    /// Variance of the values themselves.
    pub fn variance(&self) -> f64 {
        if self.count > 0.0 { self.m2 / self.count } else { 0.0 }
    }

    /// Estimate of the variance of what the values were drawn from.
    pub fn unbiased(&self) -> f64 {
        if self.count > 1.0 { self.m2 / (self.count - 1.0) } else { 0.0 }
    }
}

/// Per channel `a * x + b`.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Factors {
    a: Vec<f32>,
    b: Vec<f32>,
}

impl Factors {
    /// The factors `affine` means now.
    pub fn new<'a>(affine: &Affine, statistic: impl Fn(StatisticId) -> &'a [Moments]) -> Factors {
        match affine {
            Affine::GroupNorm { of, groups, eps, weight, bias } => {
                let moments = statistic(*of);
                let size = moments.len() / (*groups).max(1) as usize;
                let mut factors = Factors::default();
                for (c, (w, bias)) in weight.iter().zip(bias).enumerate() {
                    let first = c / size * size;
                    let mut group = Moments::default();
                    moments[first..first + size].iter().for_each(|m| group.merge(m));
                    let a = f64::from(*w) / (group.variance() + eps).sqrt();
                    factors.a.push(a as f32);
                    factors.b.push((f64::from(*bias) - group.mean * a) as f32);
                }
                factors
            }
            Affine::Match { of, like, eps } => {
                let pairs = statistic(*of).iter().zip(statistic(*like));
                let both = pairs.map(|(x, y)| {
                    let a = ((y.unbiased() + eps) / (x.unbiased() + eps)).sqrt();
                    (a as f32, (y.mean - x.mean * a) as f32)
                });
                let (a, b) = both.unzip();
                Factors { a, b }
            }
        }
    }

    /// `a` of all channels, then `b`: an input of `Op::ChannelAffine`.
    pub fn rows(&self) -> Vec<f32> {
        self.a.iter().chain(&self.b).copied().collect()
    }

    /// Applies them to interleaved pixels.
    pub fn apply(&self, values: &mut [f32]) {
        for pixel in values.chunks_exact_mut(self.a.len().max(1)) {
            for ((v, a), b) in pixel.iter_mut().zip(&self.a).zip(&self.b) {
                *v = a * *v + b;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn merged_moments_are_those_of_all_values() {
        let values: Vec<f64> = (0..100).map(|i| f64::from(i * i % 37) - 3.0).collect();
        let mut all = Moments::default();
        values.iter().for_each(|&v| all.add(v));
        let mut merged = Moments::default();
        for part in values.chunks(7) {
            let mut m = Moments::default();
            part.iter().for_each(|&v| m.add(v));
            merged.merge(&m);
        }
        merged.merge(&Moments::default());
        assert_eq!(merged.count, 100.0);
        assert!((merged.mean - all.mean).abs() < 1e-12 && (merged.m2 - all.m2).abs() < 1e-8);
        let mean = values.iter().sum::<f64>() / 100.0;
        let m2: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
        assert!((all.mean - mean).abs() < 1e-12 && (all.variance() - m2 / 100.0).abs() < 1e-10);
        assert!((all.unbiased() - m2 / 99.0).abs() < 1e-10);
    }

    #[test]
    fn matching_gives_the_wanted_mean_and_deviation() {
        let mut x: Vec<f32> = (0..50).map(|i| (i % 7) as f32).collect();
        let like: Vec<f32> = (0..50).map(|i| 3.0 - 0.1 * (i % 5) as f32).collect();
        let moments = |v: &[f32]| {
            let mut m = vec![Moments::default()];
            Moments::add_rows(&mut m, v);
            m
        };
        let stats = [moments(&x), moments(&like)];
        let affine = Affine::Match { of: StatisticId(0), like: StatisticId(1), eps: 0.0 };
        Factors::new(&affine, |id| stats[id.0].as_slice()).apply(&mut x);
        let after = moments(&x)[0];
        assert!((after.mean - stats[1][0].mean).abs() < 1e-6);
        assert!((after.variance() - stats[1][0].variance()).abs() < 1e-6);
    }
}
