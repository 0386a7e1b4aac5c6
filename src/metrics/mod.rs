//! How alike two pictures are: PSNR, SSIM, GMSD, HaarPSI; and measures of upscalers: SelfSSIM, self-similarity, drift.
//!
//! Each of the first four is computed as the `piq` package computes it with its default options, so that
//! figures can be compared with published ones; the tests hold values made with it. All work on
//! values in [0, 1], alpha left out.

pub mod features;
mod frechet;
mod gaussian;
mod gmsd;
mod haarpsi;
pub mod inception;
mod similarity;
mod ssim;

use crate::error::{Error, Kind, Result};
use crate::image::{self, Colour, colour};
use crate::{extent, limits};
use std::path::Path;

pub use frechet::{FeatureMap, frechet};
pub use gmsd::gmsd;
pub use haarpsi::haarpsi;
pub use inception::Inception;
pub use similarity::{self_similarity_error, self_ssim};
pub use ssim::ssim;

/// A picture held whole: grey or RGB, values in [0, 1].
#[derive(Debug, Clone, PartialEq)]
pub struct Picture {
    /// Pixels across.
    pub width: usize,
    /// Pixels down.
    pub height: usize,
    /// 1 or 3.
    pub channels: usize,
    /// Interleaved values, `width * height * channels` of them.
    pub values: Vec<f32>,
}

impl Picture {
    /// Reads the picture at `path`, without its alpha.
    pub fn read(path: &Path) -> Result<Picture> {
        let mut source = image::open(path)?;
        let (width, height, from) = (source.header().width, source.header().height, source.header().colour);
        let to = Colour::new(from.is_gray(), false);
        let channels = to.channels();
        let bytes = extent::product("picture", &[width, height, channels as u64, 4])?;
        if bytes > limits::MAX_DECODE_BYTES {
            let text = format!("{} needs {bytes} bytes to be compared", path.display());
            return Err(Error::new(Kind::Limit, "metrics", text).advise("compare parts of it"));
        }
        let (width, height) = (extent::to_usize("width", width)?, extent::to_usize("height", height)?);
        let mut values = vec![0.0; width * height * channels];
        let mut row = vec![0.0; width * from.channels()];
        let (mut rgb, mut alpha) = (vec![0.0; width * 3], vec![0.0; width]);
        for out in values.chunks_exact_mut(width * channels) {
            source.read_row(&mut row)?;
            colour::split_row(from, &row, &mut rgb, &mut alpha);
            colour::join_row(to, &rgb, &alpha, out);
        }
        Ok(Picture { width, height, channels, values })
    }

    /// The same picture with three channels.
    pub fn into_rgb(self) -> Picture {
        if self.channels == 3 {
            return self;
        }
        let values = self.values.iter().flat_map(|&v| [v; 3]).collect();
        Picture { channels: 3, values, ..self }
    }

    /// The same picture resized by bicubic interpolation, antialiased where it shrinks; enlarging is the baseline of every
    /// upscaler.
    pub fn resized(&self, width: usize, height: usize) -> Result<Picture> {
        let (from, to) = ((self.width as u64, self.height as u64), (width as u64, height as u64));
        let values = image::resample::resize(&self.values, from, to, self.channels)?;
        // A file holds no value outside this range, and bicubic interpolation overshoots at edges.
        let values = values.into_iter().map(|v| v.clamp(0.0, 1.0)).collect();
        Ok(Picture { width, height, channels: self.channels, values })
    }

    /// `width` x `height` pixels from column `x` and row `y` on, which must be inside.
    pub fn window(&self, x: usize, y: usize, width: usize, height: usize) -> Picture {
        let rows = self.values.chunks_exact((self.width * self.channels).max(1)).skip(y).take(height);
        let values = rows.flat_map(|row| &row[x * self.channels..(x + width) * self.channels]).copied().collect();
        Picture { width, height, channels: self.channels, values }
    }

    /// Writes it as a file; the name's ending says the format.
    pub fn write(&self, path: &Path, depth: image::Depth, overwrite: bool) -> Result<()> {
        let header = image::Header {
            width: self.width as u64,
            height: self.height as u64,
            colour: Colour::new(self.channels == 1, false),
            depth,
            format: image::Format::Png,
            icc: None,
            notes: Vec::new(),
        };
        let mut sink = image::create(path, &header, overwrite)?;
        self.values.chunks_exact((self.width * self.channels).max(1)).try_for_each(|row| sink.write_row(row))?;
        sink.finish()
    }
}

/// The metrics of a pair.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Scores {
    /// Peak signal-to-noise ratio, dB; higher is better, infinite for equal pictures.
    pub psnr: f64,
    /// Structural similarity; higher is better, at most 1.
    pub ssim: f64,
    /// Gradient magnitude similarity deviation; lower is better, at least 0.
    pub gmsd: f64,
    /// Haar wavelet-based perceptual similarity; higher is better, at most 1.
    pub haarpsi: f64,
}

/// All metrics of `a` against `b`. A grey picture and an RGB one are compared in RGB.
pub fn compare(a: &Picture, b: &Picture) -> Result<Scores> {
    if a.channels != b.channels {
        let (a, b) = (a.clone().into_rgb(), b.clone().into_rgb());
        return compare(&a, &b);
    }
    Ok(Scores { psnr: psnr(a, b)?, ssim: ssim(a, b)?, gmsd: gmsd(a, b)?, haarpsi: haarpsi(a, b)? })
}

/// Peak signal-to-noise ratio over all channels, dB: `-10 log10(mean((a - b)^2))`. On values in
/// [0, 1] that is the same as on 8-bit values with a peak of 255.
pub fn psnr(a: &Picture, b: &Picture) -> Result<f64> {
    check(a, b, 1)?;
    let pairs = a.values.iter().zip(&b.values);
    let sum: f64 = pairs.map(|(x, y)| (f64::from(*x) - f64::from(*y)).powi(2)).sum();
    Ok(-10.0 * (sum / a.values.len() as f64).log10())
}

fn refuse(text: String) -> Error {
    Error::new(Kind::Usage, "metrics", text)
}

/// Refuses pictures of different shape, and those smaller than `least` on a side.
fn check(a: &Picture, b: &Picture, least: usize) -> Result<()> {
    let shape = |p: &Picture| (p.width, p.height, p.channels);
    if shape(a) != shape(b) {
        let text = format!(
            "{}x{}x{} and {}x{}x{} can't be compared",
            a.width, a.height, a.channels, b.width, b.height, b.channels
        );
        return Err(refuse(text).advise("compare pictures of one size"));
    }
    let whole = |p: &Picture| p.values.len() == p.width * p.height * p.channels;
    if !matches!(a.channels, 1 | 3) || !whole(a) || !whole(b) {
        return Err(refuse(format!(
            "{} channels and {} values for {} x {}",
            a.channels,
            a.values.len(),
            a.width,
            a.height
        )));
    }
    if a.width.min(a.height) < least {
        return Err(refuse(format!("{} x {} pixels: at least {least} a side", a.width, a.height)));
    }
    Ok(())
}

/// One channel of f64 values.
struct Plane {
    width: usize,
    height: usize,
    values: Vec<f64>,
}

impl Plane {
    /// The weighted sum of the channels: weights of RGB, or the grey itself.
    fn of(p: &Picture, weights: [f64; 3]) -> Plane {
        let sum = |px: &[f32]| px.iter().zip(weights).map(|(v, w)| f64::from(*v) * w).sum();
        let values = match p.channels {
            1 => p.values.iter().map(|&v| f64::from(v)).collect(),
            _ => p.values.chunks_exact(p.channels).map(sum).collect(),
        };
        Plane { width: p.width, height: p.height, values }
    }

    fn row(&self, y: usize) -> &[f64] {
        &self.values[y * self.width..][..self.width]
    }

    /// Means of 2x2 pixels. As in piq: when either side is odd, both are first extended by a row and
    /// column of zeros, and what then does not fill a 2x2 is dropped.
    fn halved(&self) -> Plane {
        let pad = (self.width % 2).max(self.height % 2);
        let (width, height) = ((self.width + pad) / 2, (self.height + pad) / 2);
        let at =
            |x: usize, y: usize| if x < self.width && y < self.height { self.values[y * self.width + x] } else { 0.0 };
        let mean = |x: usize, y: usize| {
            (at(2 * x, 2 * y) + at(2 * x + 1, 2 * y) + at(2 * x, 2 * y + 1) + at(2 * x + 1, 2 * y + 1)) / 4.0
        };
        let values = (0..height).flat_map(|y| (0..width).map(move |x| (x, y))).map(|(x, y)| mean(x, y)).collect();
        Plane { width, height, values }
    }
}

/// Luma, and the two chroma weights, of the YIQ space.
const YIQ: [[f64; 3]; 3] = [[0.299, 0.587, 0.114], [0.5959, -0.2746, -0.3213], [0.2115, -0.5227, 0.3112]];

#[cfg(test)]
mod tests {
    use super::*;

    /// A textured picture, and with `k` a coarse error added: the formula of the reference script.
    pub(super) fn picture(w: usize, h: usize, k: i64) -> Picture {
        let mut values = Vec::new();
        for y in 0..h as i64 {
            for x in 0..w as i64 {
                for c in 0..3i64 {
                    let mut v = (x * (3 + c) + y * (5 - c) + ((x * y) / (7 + c)) % 64 * 2) % 256;
                    if k > 0 {
                        v = (v + (x * 31 + y * 17 + c * 11) % (9 + 2 * k) - (4 + k)).clamp(0, 255);
                    }
                    values.push(v as f32 / 255.0);
                }
            }
        }
        Picture { width: w, height: h, channels: 3, values }
    }

    fn gray(p: &Picture) -> Picture {
        Picture { channels: 1, values: p.values.iter().step_by(3).copied().collect(), ..*p }
    }

    #[test]
    fn values_are_those_of_piq() {
        // Made with piq 0.8.0 in f64: psnr, ssim, gmsd, haarpsi of RGB, then of the red channel.
        type Made = ((usize, usize), [f64; 4], [f64; 4]);
        let made: [Made; 3] = [
            (
                (97, 64),
                [35.48866833, 0.99344442671, 0.006850560978, 0.980103079786],
                [35.516755433, 0.994275879305, 0.013656962859, 0.963036489338],
            ),
            (
                (80, 50),
                [35.4912134837, 0.991794507982, 0.006896229436, 0.980680837391],
                [35.5297556093, 0.993191989305, 0.011980313215, 0.966733118068],
            ),
            // Large enough that SSIM takes means of 2x2 first.
            (
                (600, 530),
                [35.4925193685, 0.993502182375, 0.009346325057, 0.972310937745],
                [35.4921603159, 0.993796108701, 0.01906683989, 0.932855484747],
            ),
        ];
        for ((w, h), rgb, red) in made {
            let (a, b) = (picture(w, h, 0), picture(w, h, 3));
            for (a, b, wanted) in [(a.clone(), b.clone(), rgb), (gray(&a), gray(&b), red)] {
                let s = compare(&a, &b).unwrap();
                // piq adds 1e-8 to the mean square, 2e-4 dB here; the rest is f32 input.
                assert!((s.psnr - wanted[0]).abs() < 3e-4, "{w}x{h} {s:?}");
                for (got, wanted) in [(s.ssim, wanted[1]), (s.gmsd, wanted[2]), (s.haarpsi, wanted[3])] {
                    assert!((got - wanted).abs() < 2e-6, "{w}x{h} {s:?}: {wanted}");
                }
            }
        }
    }

    #[test]
    fn equal_pictures_score_perfectly_and_unequal_shapes_are_refused() {
        let p = picture(33, 40, 0);
        let s = compare(&p, &p).unwrap();
        assert!(s.psnr == f64::INFINITY && s.ssim > 1.0 - 1e-12 && s.gmsd == 0.0 && s.haarpsi > 1.0 - 1e-9, "{s:?}");
        assert_eq!(compare(&p, &picture(40, 33, 0)).expect_err("shape").kind(), Kind::Usage);
        let small = picture(9, 9, 0);
        assert!(psnr(&small, &small).is_ok() && ssim(&small, &small).is_err() && haarpsi(&small, &small).is_err());
        let flat = gray(&p);
        assert!(compare(&flat, &flat.clone().into_rgb()).unwrap().psnr.is_infinite());
    }
}
