//! Consistency of pictures with themselves: over scales (SelfSSIM), and over positions (self-correlation).

use super::features::{CHANNELS, LEAST_SIDE, features};
use super::{Picture, check, refuse, ssim};
use crate::error::Result;

/// Cells a side into which a picture is divided for its self-correlation.
const CELLS: usize = 16;

/// SelfSSIM: `a` resized (antialiased bicubic) to the size of `b`, then SSIM. Both are results of one input at different
/// scales; the figure is not symmetric.
pub fn self_ssim(a: &Picture, b: &Picture) -> Result<f64> {
    ssim(&a.resized(b.width, b.height)?, b)
}

/// Self-similarity error: root mean square of `R(a) - R(b)`, where `R` holds the cosine between the mean features of any
/// two of 16 x 16 cells. Pictures of one size, sides from 64 pixels. 0 for equal pictures, at most 2.
pub fn self_similarity_error(a: &Picture, b: &Picture) -> Result<f64> {
    check(a, b, CELLS * 4)?;
    if a.width.min(a.height) < LEAST_SIDE {
        return Err(refuse(format!("{} x {} pixels: at least {LEAST_SIDE} a side", a.width, a.height)));
    }
    let (ra, rb) = (correlation(a), correlation(b));
    let sum: f64 = ra.iter().zip(&rb).map(|(x, y)| (x - y).powi(2)).sum();
    Ok((sum / ra.len() as f64).sqrt())
}

/// Cosines between cells, row by row.
fn correlation(p: &Picture) -> Vec<f64> {
    let octaves = features(p);
    let length = CHANNELS * octaves.len();
    let mut cells = vec![vec![0.0; length]; CELLS * CELLS];
    for (o, octave) in octaves.iter().enumerate() {
        let mut counts = vec![0.0f64; CELLS * CELLS];
        for (i, v) in octave.values.iter().enumerate() {
            let (y, x) = (i / octave.width, i % octave.width);
            let cell = y * CELLS / octave.height * CELLS + x * CELLS / octave.width;
            counts[cell] += 1.0;
            // Signed derivatives would cancel within a cell: their size is what a texture is known by.
            cells[cell][o * CHANNELS..][..CHANNELS].iter_mut().zip(v).for_each(|(s, v)| *s += v.abs());
        }
        for (cell, n) in cells.iter_mut().zip(&counts) {
            cell[o * CHANNELS..][..CHANNELS].iter_mut().for_each(|v| *v /= n.max(1.0));
        }
    }
    // Each feature counts relative to its mean, or luma would outweigh all others.
    for i in 0..length {
        let mean = cells.iter().map(|c| c[i]).sum::<f64>() / cells.len() as f64;
        cells.iter_mut().for_each(|c| c[i] = (c[i] - mean) / (mean.abs() + 1e-3));
    }
    let norms: Vec<f64> = cells.iter().map(|c| c.iter().map(|v| v * v).sum::<f64>().sqrt().max(1e-12)).collect();
    let mut out = Vec::with_capacity(cells.len() * cells.len());
    for (a, na) in cells.iter().zip(&norms) {
        for (b, nb) in cells.iter().zip(&norms) {
            out.push(a.iter().zip(b).map(|(x, y)| x * y).sum::<f64>() / (na * nb));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::super::tests::picture;
    use super::*;

    #[test]
    fn a_result_agrees_with_itself_at_its_own_scale() {
        let p = picture(128, 96, 0);
        assert!(self_ssim(&p, &p).unwrap() > 1.0 - 1e-12);
        let half = p.resized(64, 48).unwrap();
        let noisy = picture(128, 96, 9).resized(64, 48).unwrap();
        let [good, bad] = [&half, &noisy].map(|b| self_ssim(&p, b).unwrap());
        assert!(good > 1.0 - 1e-9 && bad < good, "{good} {bad}");
    }

    #[test]
    fn a_picture_whose_texture_went_is_less_like_the_original() {
        let p = picture(128, 128, 0);
        let blurred = |by: usize| p.resized(128 / by, 128 / by).unwrap().resized(128, 128).unwrap();
        let [none, some, more] = [p.clone(), blurred(2), blurred(8)].map(|b| self_similarity_error(&b, &p).unwrap());
        assert!(none == 0.0 && some > 0.0 && more > some, "{some} {more}");
        assert!(self_similarity_error(&picture(60, 128, 0), &picture(60, 128, 0)).is_err());
    }
}
