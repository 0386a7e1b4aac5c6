//! Cascades: how a scale is shared out over stages, and the sizes between them.

use super::job::Cascade;
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::limits;

/// Scales this near to a power of two take no further stage.
const NEAR: f64 = 1e-9;

/// One stage.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Stage {
    /// Rows and columns of its input.
    pub from: [u32; 2],
    /// Rows and columns of its result.
    pub to: [u32; 2],
}

impl Stage {
    /// The factor that the networks are told: the root of the growth in area.
    pub fn scale(&self) -> f64 {
        let ratio = |i: usize| f64::from(self.to[i]) / f64::from(self.from[i]);
        (ratio(0) * ratio(1)).sqrt()
    }
}

/// Factors of the stages for a scale: `ceil(log2 scale)` of them, at least one.
pub fn factors(scale: f64, cascade: Cascade) -> Result<Vec<f64>> {
    if !(scale.is_finite() && (1.0 - NEAR..=limits::MAX_SCALE).contains(&scale)) {
        let why = format!("the scale is {scale}, it must be from 1 to {}", limits::MAX_SCALE);
        return Err(Error::new(Kind::Usage, "system", why));
    }
    let count = ((scale.log2() - NEAR).ceil() as i32).max(1);
    let rest = scale / 2f64.powi(count - 1);
    let mut factors = vec![2.0; count as usize];
    let last = factors.len() - 1;
    match cascade {
        Cascade::Single => factors = vec![scale],
        Cascade::Uniform => factors.fill(scale.powf(1.0 / f64::from(count))),
        Cascade::RemainderLast => factors[last] = rest,
        Cascade::RemainderFirst => factors[0] = rest,
        Cascade::LargestFirst => factors = largest_first(scale),
    }
    Ok(factors)
}

/// See [`Cascade::LargestFirst`].
fn largest_first(scale: f64) -> Vec<f64> {
    if scale <= 4.0 {
        vec![scale]
    } else if scale <= 16.0 {
        vec![4.0, scale / 4.0]
    } else if scale <= 48.0 {
        vec![4.0, 3.0, scale / 12.0]
    } else {
        let mut rest = largest_first(scale / 4.0);
        rest.insert(0, 4.0);
        rest
    }
}

/// The stages from a picture to its target. Sides between them are `round(side * product of the factors)`; where the
/// target stretches one side more than the other, each in its own proportion.
pub fn stages(source: [u32; 2], target: [u32; 2], cascade: Cascade) -> Result<Vec<Stage>> {
    let ratio = |i: usize| f64::from(target[i]) / f64::from(source[i]);
    let scale = (ratio(0) * ratio(1)).sqrt();
    let factors = factors(scale, cascade)?;
    let (mut stages, mut from, mut product) = (Vec::new(), source, 1.0);
    for (k, factor) in factors.iter().enumerate() {
        product *= factor;
        let side = |i: usize| -> Result<u32> {
            // Sides are rounded to whole pixels: that is no stretching.
            let even = (f64::from(source[i]) * scale - f64::from(target[i])).abs() <= 1.0;
            let grown = if even { product } else { ratio(i).powf(product.ln() / scale.ln()) };
            extent::to_u32("side", ((f64::from(source[i]) * grown + 0.5).floor() as u64).max(1))
        };
        let to = if k + 1 == factors.len() { target } else { [side(0)?, side(1)?] };
        stages.push(Stage { from, to });
        from = to;
    }
    Ok(stages)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn remainders_come_last_or_first() {
        let last = |s: f64| factors(s, Cascade::RemainderLast).expect("factors");
        assert_eq!(last(5.3).len(), 3);
        assert!((last(5.3)[2] - 1.325).abs() < 1e-12);
        assert_eq!(last(12.0), [2.0, 2.0, 2.0, 1.5]);
        assert_eq!((last(2.0), last(1.0), last(1.3)), (vec![2.0], vec![1.0], vec![1.3]));
        assert_eq!(last(64.0), [2.0; 6]);
        let published = factors(18.0, Cascade::LargestFirst).expect("factors");
        assert_eq!(published, [4.0, 3.0, 1.5]);
        for s in [1.0, 3.9, 8.0, 16.1, 30.0, 48.0, 63.7] {
            let f = factors(s, Cascade::LargestFirst).expect("factors");
            assert!((f.iter().product::<f64>() - s).abs() < 1e-9 && f.iter().all(|v| (1.0..=4.0).contains(v)), "{f:?}");
        }
        assert_eq!(factors(12.0, Cascade::RemainderFirst).expect("factors"), [1.5, 2.0, 2.0, 2.0]);
        assert_eq!(factors(12.0, Cascade::Single).expect("factors"), [12.0]);
        let uniform = factors(8.0, Cascade::Uniform).expect("factors");
        assert!(uniform.iter().all(|f| (f - 2.0).abs() < 1e-12) && uniform.len() == 3);
        for bad in [0.5, 65.0, f64::NAN] {
            assert_eq!(factors(bad, Cascade::RemainderLast).expect_err("refused").kind(), Kind::Usage);
        }
    }

    #[test]
    fn the_last_stage_ends_at_the_target() {
        for (source, target) in [([10, 17], [53, 90]), ([1, 1], [64, 64]), ([40, 20], [40, 160]), ([7, 9], [7, 9])] {
            for (_, cascade) in Cascade::ALL {
                let s = stages(source, target, cascade).expect("stages");
                assert_eq!((s[0].from, s[s.len() - 1].to), (source, target));
                assert!(s.windows(2).all(|w| w[0].to == w[1].from));
                assert!(s.iter().all(|s| (0..2).all(|i| s.to[i] >= s.from[i])), "{s:?}");
            }
        }
        let s = stages([10, 17], [53, 90], Cascade::RemainderLast).expect("stages");
        assert_eq!((s[0].to, s[1].to), ([20, 34], [40, 68]));
    }
}
