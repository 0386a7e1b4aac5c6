//! SSIM (Wang, Bovik, Sheikh, Simoncelli 2004), per channel, means of all.

use super::{Picture, Plane, check};
use crate::error::Result;
use rayon::prelude::*;

/// Side of the Gaussian window.
const WINDOW: usize = 11;
/// Its standard deviation, pixels.
const SIGMA: f64 = 1.5;
/// The constants that keep quotients of small numbers steady, for values in [0, 1].
const C1: f64 = 0.01 * 0.01;
const C2: f64 = 0.03 * 0.03;
/// Pictures are averaged down until their shorter side is near this: the metric was tuned there.
const TUNED_SIDE: f64 = 256.0;

/// Structural similarity: over all windows inside the picture, with Gaussian means, variances and
/// covariance, the mean of
/// `(2 mx my + C1)(2 sxy + C2) / ((mx^2 + my^2 + C1)(sx + sy + C2))`. Sides from 11 pixels.
pub fn ssim(a: &Picture, b: &Picture) -> Result<f64> {
    check(a, b, WINDOW)?;
    // Half goes to the even number, as Python rounds.
    let factor = (a.width.min(a.height) as f64 / TUNED_SIDE).round_ties_even().max(1.0) as usize;
    let mut sum = 0.0;
    for c in 0..a.channels {
        let (x, y) = (channel(a, c, factor), channel(b, c, factor));
        sum += of_planes(&x, &y);
    }
    Ok(sum / a.channels as f64)
}

/// Channel `c`, averaged over `factor` x `factor` pixels; what does not fill one is dropped.
fn channel(p: &Picture, c: usize, factor: usize) -> Plane {
    let (width, height) = (p.width / factor, p.height / factor);
    let mut values = vec![0.0; width * height];
    for (y, row) in values.chunks_exact_mut(width).enumerate() {
        for dy in 0..factor {
            let source = &p.values[(y * factor + dy) * p.width * p.channels..][..p.width * p.channels];
            for (x, v) in row.iter_mut().enumerate() {
                for dx in 0..factor {
                    *v += f64::from(source[(x * factor + dx) * p.channels + c]);
                }
            }
        }
        row.iter_mut().for_each(|v| *v /= (factor * factor) as f64);
    }
    Plane { width, height, values }
}

fn of_planes(a: &Plane, b: &Plane) -> f64 {
    let half = (WINDOW / 2) as f64;
    let bell: Vec<f64> = (0..WINDOW).map(|i| (-(i as f64 - half).powi(2) / (2.0 * SIGMA * SIGMA)).exp()).collect();
    let total: f64 = bell.iter().sum();
    let bell: Vec<f64> = bell.iter().map(|v| v / total).collect();
    let (width, height) = (a.width - WINDOW + 1, a.height - WINDOW + 1);
    // The window is a product of two bells: first down, then across. Rows run side by side; their
    // sums are added in order, so that the result does not depend on the threads.
    let sums: Vec<f64> = (0..height)
        .into_par_iter()
        .map_init(
            || vec![[0.0; 5]; a.width],
            |down, y| {
                down.fill([0.0; 5]);
                for (dy, w) in bell.iter().enumerate() {
                    for (m, (x, y)) in down.iter_mut().zip(a.row(y + dy).iter().zip(b.row(y + dy))) {
                        let terms = [*x, *y, x * x, y * y, x * y];
                        m.iter_mut().zip(terms).for_each(|(m, t)| *m += w * t);
                    }
                }
                (0..width).map(|x| similarity(&down[x..x + WINDOW], &bell)).sum()
            },
        )
        .collect();
    sums.iter().sum::<f64>() / (width * height) as f64
}

fn similarity(moments: &[[f64; 5]], bell: &[f64]) -> f64 {
    let mut m = [0.0; 5];
    for (column, w) in moments.iter().zip(bell) {
        m.iter_mut().zip(column).for_each(|(m, v)| *m += w * v);
    }
    let [mx, my, xx, yy, xy] = m;
    let (sx, sy, sxy) = (xx - mx * mx, yy - my * my, xy - mx * my);
    (2.0 * mx * my + C1) / (mx * mx + my * my + C1) * ((2.0 * sxy + C2) / (sx + sy + C2))
}
