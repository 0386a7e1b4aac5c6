//! HaarPSI (Reisenhofer, Bosse, Kutyniok, Wiegand 2018).

use super::{Picture, Plane, YIQ, check};
use crate::error::Result;

/// Keeps quotients of small coefficients steady, for values in [0, 255].
const C: f64 = 30.0;
/// Steepness of the logistic function that local similarities pass.
const ALPHA: f64 = 4.2;
/// Wavelet scales; the two finer give similarities, the coarsest gives weights.
const SCALES: usize = 3;

/// Haar wavelet-based perceptual similarity: on YIQ averaged over 2x2 pixels, local similarities of
/// the Haar coefficients of luma in two orientations and of the means of I and Q, each through a
/// logistic function, averaged with the larger of both pictures' coarsest coefficients as weights,
/// and back through the inverse, squared. Sides from 16 pixels.
pub fn haarpsi(a: &Picture, b: &Picture) -> Result<f64> {
    check(a, b, 1 << (SCALES + 1))?;
    let (pa, pb) = (Haar::of(a), Haar::of(b));
    let pixels = pa.width * pa.height;
    let (mut sum, mut weights) = (0.0, 0.0);
    for i in 0..pixels {
        let mut weight_sum = 0.0;
        for o in 0..2 {
            let weight = pa.coefficients[2][o][i].max(pb.coefficients[2][o][i]);
            let local =
                (0..2).map(|s| similarity(pa.coefficients[s][o][i], pb.coefficients[s][o][i])).sum::<f64>() / 2.0;
            sum += weight * logistic(local);
            weights += weight;
            weight_sum += weight;
        }
        if let (Some(ca), Some(cb)) = (&pa.chroma, &pb.chroma) {
            let local = (similarity(ca[0][i], cb[0][i]) + similarity(ca[1][i], cb[1][i])) / 2.0;
            let weight = weight_sum / 2.0;
            sum += weight * logistic(local);
            weights += weight;
        }
    }
    // Flat pictures have no weights at all: they are alike as far as wavelets see.
    let eps = f64::from(f32::EPSILON);
    let score = (sum + eps) / (weights + eps);
    if weights == 0.0 || score >= 1.0 {
        return Ok(1.0);
    }
    Ok(((score / (1.0 - score)).ln() / ALPHA).powi(2))
}

fn similarity(a: f64, b: f64) -> f64 {
    (2.0 * a * b + C) / (a * a + b * b + C)
}

fn logistic(v: f64) -> f64 {
    1.0 / (1.0 + (-ALPHA * v).exp())
}

/// Magnitudes of what HaarPSI looks at.
struct Haar {
    width: usize,
    height: usize,
    /// By scale, then by orientation.
    coefficients: [[Vec<f64>; 2]; SCALES],
    /// Of the 2x2 means of I and Q, where the picture has colour.
    chroma: Option<[Vec<f64>; 2]>,
}

impl Haar {
    fn of(p: &Picture) -> Haar {
        let halved = |weights: [f64; 3]| {
            let mut plane = Plane::of(p, weights).halved();
            plane.values.iter_mut().for_each(|v| *v *= 255.0);
            plane
        };
        let luma = halved(YIQ[0]);
        let sums = Sums::of(&luma);
        let coefficients = [2, 4, 8].map(|side| [sums.haar(side, true), sums.haar(side, false)]);
        let chroma = (p.channels == 3).then(|| [means(&halved(YIQ[1])), means(&halved(YIQ[2]))]);
        Haar { width: luma.width, height: luma.height, coefficients, chroma }
    }
}

/// Magnitudes of the means of each pixel with its right, lower and lower right neighbours; zeros
/// beyond the border.
fn means(p: &Plane) -> Vec<f64> {
    let at = |x: usize, y: usize| if x < p.width && y < p.height { p.values[y * p.width + x] } else { 0.0 };
    let mut out = Vec::with_capacity(p.values.len());
    for y in 0..p.height {
        for x in 0..p.width {
            out.push(((at(x, y) + at(x + 1, y) + at(x, y + 1) + at(x + 1, y + 1)) / 4.0).abs());
        }
    }
    out
}

/// Sums over all rectangles that begin at the origin.
struct Sums {
    width: usize,
    height: usize,
    table: Vec<f64>,
}

impl Sums {
    fn of(p: &Plane) -> Sums {
        let stride = p.width + 1;
        let mut table = vec![0.0; stride * (p.height + 1)];
        for y in 0..p.height {
            let mut run = 0.0;
            for x in 0..p.width {
                run += p.values[y * p.width + x];
                table[(y + 1) * stride + x + 1] = table[y * stride + x + 1] + run;
            }
        }
        Sums { width: p.width, height: p.height, table }
    }

    /// The sum over columns `x0..x1` and rows `y0..y1`, cut to the picture: zeros lie outside.
    fn rectangle(&self, x0: isize, x1: isize, y0: isize, y1: isize) -> f64 {
        let (w, h) = (self.width as isize, self.height as isize);
        let at = |x: isize, y: isize| self.table[y.clamp(0, h) as usize * (self.width + 1) + x.clamp(0, w) as usize];
        at(x1, y1) - at(x0, y1) - at(x1, y0) + at(x0, y0)
    }

    /// Magnitudes of the responses to a square filter of `side`, one half positive and the other
    /// negative, split into upper and lower halves or left and right ones.
    fn haar(&self, side: isize, upper_lower: bool) -> Vec<f64> {
        // An even filter has no middle: it reaches one pixel further right and down.
        let before = side / 2 - 1;
        let mut out = Vec::with_capacity(self.width * self.height);
        for y in 0..self.height as isize {
            for x in 0..self.width as isize {
                let (x0, y0) = (x - before, y - before);
                let (x1, y1) = (x0 + side, y0 + side);
                let (xm, ym) = (x0 + side / 2, y0 + side / 2);
                let (first, second) = if upper_lower {
                    (self.rectangle(x0, x1, y0, ym), self.rectangle(x0, x1, ym, y1))
                } else {
                    (self.rectangle(x0, xm, y0, y1), self.rectangle(xm, x1, y0, y1))
                };
                out.push(((first - second) / side as f64).abs());
            }
        }
        out
    }
}
