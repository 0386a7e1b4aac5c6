//! How far two pictures are apart as textures: the Frechet distance between Gaussian fits of their features.

use super::features::{CHANNELS, LEAST_SIDE, features};
use super::gaussian::{Moments, distance};
use super::inception::{self, Inception};
use super::{Picture, refuse};
use crate::error::Result;
use nalgebra::{Const, Dyn};

/// What features [`FeatureMap::frechet`] takes its distances in.
#[derive(Debug, Default)]
pub enum FeatureMap {
    /// Those of [`features`], which need no weights.
    #[default]
    Fixed,
    /// Those of a trained network: the distance is SIFID.
    Inception(Box<Inception>),
}

impl FeatureMap {
    /// Least side of a picture, pixels.
    pub fn least_side(&self) -> usize {
        match self {
            FeatureMap::Fixed => LEAST_SIDE,
            FeatureMap::Inception(_) => inception::LEAST_SIDE,
        }
    }

    /// Frechet distance `|m1 - m2|^2 + tr(S1 + S2 - 2 (S1 S2)^(1/2))` between Gaussian fits over all positions of the map, as
    /// SIFID has it (Shaham, Dekel, Michaeli 2019). In the fixed map it is summed over the octaves of [`features`], and covariances
    /// divide by the number of positions; in Inception's by one less, as the published code does.
    ///
    /// The pictures may differ in size; sides from [`FeatureMap::least_side`], smaller ones are an error. At least 0; 0 for
    /// equal pictures.
    pub fn frechet(&self, a: &Picture, b: &Picture) -> Result<f64> {
        let least = self.least_side();
        for p in [a, b] {
            if p.width.min(p.height) < least {
                return Err(refuse(format!("{} x {} pixels: at least {least} a side", p.width, p.height)));
            }
        }
        Ok(match self {
            FeatureMap::Fixed => {
                let [a, b] = [a, b].map(|p| {
                    let octaves = features(p);
                    octaves.iter().map(|o| Moments::of(o.values.as_flattened(), CHANNELS)).collect::<Vec<_>>()
                });
                a.iter().zip(&b).map(|(a, b)| distance(Const::<CHANNELS>, a, b, 0)).sum()
            }
            FeatureMap::Inception(net) => distance(Dyn(inception::CHANNELS), &net.moments(a)?, &net.moments(b)?, 1),
        })
    }
}

/// [`FeatureMap::frechet`] in the fixed map.
pub fn frechet(a: &Picture, b: &Picture) -> Result<f64> {
    FeatureMap::Fixed.frechet(a, b)
}

#[cfg(test)]
mod tests {
    use super::super::tests::picture;
    use super::*;

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

    #[test]
    fn the_fixed_maps_figure_stays() {
        // Figures of different versions are held beside each other.
        let d = frechet(&picture(96, 80, 0), &picture(96, 80, 9)).unwrap();
        assert!((d - 0.000_448_301_071_587_220_43).abs() < 1e-12, "{d:?}");
    }
}
