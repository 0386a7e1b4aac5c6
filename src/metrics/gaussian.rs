//! Gaussian fits over the positions of a feature map, and how far two of them are apart.

use nalgebra::allocator::Allocator;
use nalgebra::{Const, DefaultAllocator, DimDiff, DimSub, OMatrix, OVector, SymmetricEigen, U1};

/// How many samples there are, their mean, and the sums of the products of their deviations from it.
#[derive(Debug, Clone)]
pub(super) struct Moments {
    count: usize,
    mean: Vec<f64>,
    /// Row by row, one row for each channel; symmetric.
    spread: Vec<f64>,
}

impl Moments {
    /// Of samples of `channels` values each, one behind the other. Sums run in the samples' order.
    #[inline(always)]
    pub(super) fn of<T: Copy + Into<f64>>(samples: &[T], channels: usize) -> Moments {
        let count = samples.len() / channels.max(1);
        let (mut mean, mut spread) = (vec![0.0; channels], vec![0.0; channels * channels]);
        for sample in samples.chunks_exact(channels) {
            mean.iter_mut().zip(sample).for_each(|(m, &v)| *m += v.into());
        }
        mean.iter_mut().for_each(|m| *m /= count.max(1) as f64);
        let mut away = vec![0.0; channels];
        for sample in samples.chunks_exact(channels) {
            away.iter_mut().zip(sample).zip(&mean).for_each(|((d, &v), m)| *d = v.into() - m);
            for (i, row) in spread.chunks_exact_mut(channels).enumerate() {
                let by = away[i];
                row[i..].iter_mut().zip(&away[i..]).for_each(|(s, d)| *s += by * d);
            }
        }
        for i in 0..channels {
            for j in 0..i {
                spread[i * channels + j] = spread[j * channels + i];
            }
        }
        Moments { count, mean, spread }
    }

    /// Of the samples of both: Chan's update.
    pub(super) fn joined(mut self, other: &Moments) -> Moments {
        let (n, m) = (self.count as f64, other.count as f64);
        let total = (n + m).max(1.0);
        let apart: Vec<f64> = other.mean.iter().zip(&self.mean).map(|(b, a)| b - a).collect();
        for (row, (others, by)) in self
            .spread
            .chunks_exact_mut(apart.len().max(1))
            .zip(other.spread.chunks_exact(apart.len().max(1)).zip(&apart))
        {
            for (s, (o, d)) in row.iter_mut().zip(others.iter().zip(&apart)) {
                *s += o + by * d * (n * m / total);
            }
        }
        self.mean.iter_mut().zip(&apart).for_each(|(a, d)| *a += d * (m / total));
        Moments { count: self.count + other.count, ..self }
    }

    /// Whether every number is finite.
    pub(super) fn is_finite(&self) -> bool {
        self.mean.iter().chain(&self.spread).all(|v| v.is_finite())
    }
}

/// Frechet distance `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` between the Gaussians of two sets of finite samples of `size`
/// channels. Covariances divide by the number of samples less `lost`. At least 0.
///
/// A size that is known when this is compiled and one that is not give figures that differ in the last places: nalgebra
/// multiplies their matrices in another order.
pub(super) fn distance<D>(size: D, a: &Moments, b: &Moments, lost: usize) -> f64
where
    D: DimSub<U1>,
    DefaultAllocator: Allocator<D> + Allocator<D, D> + Allocator<DimDiff<D, U1>>,
{
    let mean = |m: &Moments| OVector::<f64, D>::from_column_slice_generic(size, Const::<1>, &m.mean);
    let covariance = |m: &Moments| {
        let n = m.count.saturating_sub(lost).max(1) as f64;
        OMatrix::<f64, D, D>::from_iterator_generic(size, size, m.spread.iter().map(|s| s / n))
    };
    let (sa, sb) = (covariance(a), covariance(b));
    // tr (A B)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), which is symmetric.
    let eigen = SymmetricEigen::new(sa.clone());
    let values = eigen.eigenvalues.map(|v| v.max(0.0).sqrt());
    let root = &eigen.eigenvectors * OMatrix::<f64, D, D>::from_diagonal(&values) * eigen.eigenvectors.transpose();
    let joint = SymmetricEigen::new(&root * &sb * &root).eigenvalues.map(|v| v.max(0.0).sqrt()).sum();
    ((mean(a) - mean(b)).norm_squared() + sa.trace() + sb.trace() - 2.0 * joint).max(0.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::Dyn;

    #[test]
    fn one_dimensional_gaussians_have_the_known_distance() {
        // Two samples each: the mean and the deviation are what stands here.
        let gaussian = |mean: f64, deviation: f64| Moments::of(&[mean - deviation, 0.0, mean + deviation, 0.0], 2);
        let (a, b) = (gaussian(1.0, 2.0), gaussian(4.0, 0.5));
        let d = distance(Const::<2>, &a, &b, 0);
        assert!((d - (9.0 + 2.25)).abs() < 1e-9, "{d}");
        // One sample lost: variances double.
        let d = distance(Dyn(2), &a, &b, 1);
        assert!((d - (9.0 + 2.0 * 2.25)).abs() < 1e-9, "{d}");
    }

    #[test]
    fn parts_join_to_the_whole() {
        let value =
            |i: usize| ((i * i * 37 + i * 11) % 101) as f64 / 10.0 + if i.is_multiple_of(3) { 500.0 } else { 0.0 };
        let samples: Vec<f64> = (0..60).map(value).collect();
        let whole = Moments::of(&samples, 3);
        for at in [0, 1, 7, 20] {
            let (a, b) = samples.split_at(at * 3);
            let joined = Moments::of(a, 3).joined(&Moments::of(b, 3));
            let pairs = joined.mean.iter().chain(&joined.spread).zip(whole.mean.iter().chain(&whole.spread));
            assert!(joined.count == 20 && pairs.into_iter().all(|(x, y)| (x - y).abs() < 1e-9), "{joined:?} {whole:?}");
        }
    }
}
