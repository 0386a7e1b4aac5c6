//! GMSD (Xue, Zhang, Mou, Bovik 2013).

use super::{Picture, Plane, YIQ, check};
use crate::error::Result;

/// Keeps quotients of small gradients steady, for values in [0, 1].
const T: f64 = 170.0 / (255.0 * 255.0);

/// Gradient magnitude similarity deviation: on luma averaged over 2x2 pixels, with Prewitt
/// gradients (zeros outside the picture) of magnitudes `g` and `h`, the standard deviation over the
/// picture of `(2 g h + T) / (g^2 + h^2 + T)`.
pub fn gmsd(a: &Picture, b: &Picture) -> Result<f64> {
    check(a, b, 2)?;
    let (g, h) = (gradient(&Plane::of(a, YIQ[0]).halved()), gradient(&Plane::of(b, YIQ[0]).halved()));
    let map: Vec<f64> = g.iter().zip(&h).map(|(g, h)| (2.0 * g * h + T) / (g * g + h * h + T)).collect();
    let mean = map.iter().sum::<f64>() / map.len() as f64;
    let variance = map.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / map.len() as f64;
    Ok(variance.sqrt())
}

/// Magnitudes of the Prewitt gradient, weights 1/3.
fn gradient(p: &Plane) -> Vec<f64> {
    let at = |x: isize, y: isize| -> f64 {
        let inside = x >= 0 && y >= 0 && (x as usize) < p.width && (y as usize) < p.height;
        if inside { p.values[y as usize * p.width + x as usize] } else { 0.0 }
    };
    let mut out = Vec::with_capacity(p.values.len());
    for y in 0..p.height as isize {
        for x in 0..p.width as isize {
            let column = |dx: isize| at(x + dx, y - 1) + at(x + dx, y) + at(x + dx, y + 1);
            let row = |dy: isize| at(x - 1, y + dy) + at(x, y + dy) + at(x + 1, y + dy);
            let (gx, gy) = ((column(1) - column(-1)) / 3.0, (row(1) - row(-1)) / 3.0);
            out.push((gx * gx + gy * gy).sqrt());
        }
    }
    out
}
