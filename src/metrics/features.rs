//! A fixed feature map, for measures that need one where no trained network is at hand: derivatives of luma, and the
//! chroma, in three octaves. It has no weights, so its figures are comparable between machines and versions.

use super::{Picture, Plane, YIQ};

/// Features of one pixel.
pub const CHANNELS: usize = 10;
/// Octaves, each half the size of the one before.
pub const OCTAVES: usize = 3;
/// Least side of a picture: the last octave still has pixels with all their neighbours.
pub const LEAST_SIDE: usize = 20;

/// The features of one octave, where all neighbours exist.
#[derive(Debug, Clone, PartialEq)]
pub struct Octave {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row by row: luma, I, Q (of YIQ), the first derivatives across and down, the second ones across, down and mixed, the
    /// magnitude of the gradient, that of the Laplacian. Central differences of values in [0, 1] per pixel.
    pub values: Vec<[f64; CHANNELS]>,
}

/// The features of a picture, one entry for each of [`OCTAVES`]; sides from [`LEAST_SIDE`].
pub fn features(picture: &Picture) -> Vec<Octave> {
    let mut planes = YIQ.map(|weights| Plane::of(picture, weights));
    if picture.channels == 1 {
        // Grey has no chroma; `Plane::of` gives the grey itself whatever the weights.
        planes[1].values.fill(0.0);
        planes[2].values.fill(0.0);
    }
    let mut octaves = Vec::with_capacity(OCTAVES);
    for octave in 0..OCTAVES {
        if octave > 0 {
            planes = planes.map(|p| halved(&p));
        }
        octaves.push(of_planes(&planes));
    }
    octaves
}

/// Means of 2x2 pixels; an odd last row or column is left out.
fn halved(p: &Plane) -> Plane {
    let (width, height) = (p.width / 2, p.height / 2);
    let mut values = Vec::with_capacity(width * height);
    for y in 0..height {
        let (a, b) = (p.row(2 * y), p.row(2 * y + 1));
        values.extend((0..width).map(|x| (a[2 * x] + a[2 * x + 1] + b[2 * x] + b[2 * x + 1]) / 4.0));
    }
    Plane { width, height, values }
}

fn of_planes([luma, i, q]: &[Plane; 3]) -> Octave {
    let (width, height) = (luma.width.saturating_sub(2), luma.height.saturating_sub(2));
    let mut values = Vec::with_capacity(width * height);
    for y in 1..=height {
        let [up, here, down] = [luma.row(y - 1), luma.row(y), luma.row(y + 1)];
        for x in 1..=width {
            let (gx, gy) = ((here[x + 1] - here[x - 1]) / 2.0, (down[x] - up[x]) / 2.0);
            let gxx = here[x + 1] - 2.0 * here[x] + here[x - 1];
            let gyy = down[x] - 2.0 * here[x] + up[x];
            let gxy = (down[x + 1] - down[x - 1] - up[x + 1] + up[x - 1]) / 4.0;
            let magnitudes = [gx.hypot(gy), (gxx + gyy).abs()];
            let chroma = [i.row(y)[x], q.row(y)[x]];
            values.push([here[x], chroma[0], chroma[1], gx, gy, gxx, gyy, gxy, magnitudes[0], magnitudes[1]]);
        }
    }
    Octave { width, height, values }
}
