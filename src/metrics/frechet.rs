//! How far two pictures are apart as textures: the Frechet distance between Gaussian fits of their features.

use super::features::{CHANNELS, LEAST_SIDE, Octave, features};
use super::{Picture, refuse};
use crate::error::Result;
use nalgebra::{SMatrix, SVector, SymmetricEigen};

type Matrix = SMatrix<f64, CHANNELS, CHANNELS>;
type Vector = SVector<f64, CHANNELS>;

/// Frechet distance `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` between Gaussian fits over all positions of a feature
/// map, as SIFID has it (Shaham, Dekel, Michaeli 2019), summed over the octaves of [`features`] instead of an Inception layer.
/// The pictures may differ in size. At least 0; 0 for equal pictures.
pub fn frechet(a: &Picture, b: &Picture) -> Result<f64> {
    for p in [a, b] {
        if p.width.min(p.height) < LEAST_SIDE {
            return Err(refuse(format!("{} x {} pixels: at least {LEAST_SIDE} a side", p.width, p.height)));
        }
    }
    Ok(features(a).iter().zip(&features(b)).map(|(a, b)| distance(&fit(a), &fit(b))).sum())
}

/// Mean and covariance.
fn fit(octave: &Octave) -> (Vector, Matrix) {
    let n = octave.values.len().max(1) as f64;
    let mean = octave.values.iter().fold(Vector::zeros(), |m, v| m + Vector::from(*v)) / n;
    let spread = octave.values.iter().fold(Matrix::zeros(), |s, v| {
        let d = Vector::from(*v) - mean;
        s + d * d.transpose()
    });
    (mean, spread / n)
}

fn distance((ma, sa): &(Vector, Matrix), (mb, sb): &(Vector, Matrix)) -> f64 {
    // tr (A B)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), which is symmetric.
    let root = root(sa);
    let joint = SymmetricEigen::new(root * sb * root).eigenvalues.map(|v| v.max(0.0).sqrt()).sum();
    ((ma - mb).norm_squared() + sa.trace() + sb.trace() - 2.0 * joint).max(0.0)
}

/// The symmetric root of a covariance.
fn root(m: &Matrix) -> Matrix {
    let eigen = SymmetricEigen::new(*m);
    let values = eigen.eigenvalues.map(|v| v.max(0.0).sqrt());
    eigen.eigenvectors * Matrix::from_diagonal(&values) * eigen.eigenvectors.transpose()
}

#[cfg(test)]
mod tests {
    use super::super::tests::picture;
    use super::*;

    #[test]
    fn one_dimensional_gaussians_have_the_known_distance() {
        let gaussian = |mean: f64, deviation: f64| {
            let mut m = (Vector::zeros(), Matrix::zeros());
            (m.0[0], m.1[(0, 0)]) = (mean, deviation * deviation);
            m
        };
        let d = distance(&gaussian(1.0, 2.0), &gaussian(4.0, 0.5));
        assert!((d - (9.0 + 2.25)).abs() < 1e-9, "{d}");
    }

    #[test]
    fn what_is_blurred_more_is_further_away() {
        let sharp = picture(96, 80, 0);
        let blurred = |by: usize| {
            let small = sharp.resized(96 / by, 80 / by).unwrap();
            small.resized(96, 80).unwrap()
        };
        let [near, far] = [blurred(2), blurred(4)].map(|p| frechet(&p, &sharp).unwrap());
        assert!(frechet(&sharp, &sharp).unwrap() < 1e-9 && near > 1e-6 && far > near, "{near} {far}");
        assert!(frechet(&picture(19, 40, 0), &sharp).is_err());
    }
}
