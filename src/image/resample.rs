//! Bicubic resampling by rows, any ratio on each axis.
//!
//! Keys' kernel with a = -0.5, pixel centres aligned (the half-pixel rule, `align_corners=False`).
//! Enlarging takes four taps, those outside the picture clamped to its edge; shrinking widens the
//! kernel by the ratio and renormalises over the taps inside, as PyTorch's
//! `interpolate(mode='bicubic', antialias=True)` and Pillow do. The same size gives the same values.
//!
//! Weights are computed in f64, sums run in f32 in a fixed order. Values may leave [0, 1]: the
//! kernel overshoots at edges, and what comes after decides whether to clamp.

use crate::error::{Error, Kind, Result};
use crate::{extent, limits};

/// Half the width of Keys' kernel, in pixels of the coarser side.
const SUPPORT: f64 = 2.0;

/// Keys' cubic convolution kernel with a = -0.5.
fn keys(x: f64) -> f64 {
    const A: f64 = -0.5;
    let x = x.abs();
    if x < 1.0 {
        ((A + 2.0) * x - (A + 3.0)) * x * x + 1.0
    } else if x < 2.0 {
        ((A * x - 5.0 * A) * x + 8.0 * A) * x - 4.0 * A
    } else {
        0.0
    }
}

/// The taps of one target position: source positions `first..first + weights.len()`.
#[derive(Debug, Clone, Copy)]
struct Taps<'a> {
    first: usize,
    weights: &'a [f32],
}

/// The taps of every target position of one axis.
#[derive(Debug, Clone)]
struct Axis {
    first: Vec<u32>,
    /// Where each position's weights begin; one more than positions.
    start: Vec<usize>,
    weights: Vec<f32>,
    widest: usize,
}

impl Axis {
    fn new(from: u64, to: u64) -> Axis {
        let ratio = from as f64 / to as f64;
        let last = from as i64 - 1;
        let mut axis = Axis { first: Vec::new(), start: vec![0], weights: Vec::new(), widest: 0 };
        let mut taps: Vec<f64> = Vec::new();
        for i in 0..to {
            let centre = (i as f64 + 0.5) * ratio - 0.5;
            let (lo, hi);
            if to >= from {
                let left = centre.floor() as i64 - 1;
                (lo, hi) = (left.clamp(0, last), (left + 3).clamp(0, last));
                taps.clear();
                taps.resize((hi - lo + 1) as usize, 0.0);
                for tap in left..left + 4 {
                    taps[(tap.clamp(0, last) - lo) as usize] += keys(tap as f64 - centre);
                }
            } else {
                let reach = SUPPORT * ratio;
                lo = ((centre - reach).ceil() as i64).clamp(0, last);
                hi = ((centre + reach).floor() as i64).clamp(lo, last);
                taps.clear();
                taps.extend((lo..=hi).map(|tap| keys((tap as f64 - centre) / ratio)));
            }
            let sum: f64 = taps.iter().sum();
            axis.first.push(lo as u32);
            axis.weights.extend(taps.iter().map(|w| (w / sum) as f32));
            axis.start.push(axis.weights.len());
            axis.widest = axis.widest.max(taps.len());
        }
        axis
    }

    fn taps(&self, i: usize) -> Taps<'_> {
        Taps { first: self.first[i] as usize, weights: &self.weights[self.start[i]..self.start[i + 1]] }
    }
}

/// Resamples a picture that comes by rows into one that goes by rows.
///
/// Memory is a ring of target-wide rows, as many as the kernel is high: four when enlarging.
pub struct Resampler {
    channels: usize,
    from: (u64, u64),
    to: (u64, u64),
    columns: Axis,
    rows: Axis,
    /// Source rows resampled across; row `y` at slot `y % ring_rows`.
    ring: Vec<f32>,
    ring_rows: usize,
    source: Vec<f32>,
    pulled: usize,
    next: usize,
}

impl Resampler {
    /// From `from` to `to` (width, height), with `channels` interleaved channels.
    pub fn new(from: (u64, u64), to: (u64, u64), channels: usize) -> Result<Resampler> {
        for (what, (w, h)) in [("source", from), ("target", to)] {
            if w == 0 || h == 0 || w > limits::MAX_SIDE || h > limits::MAX_SIDE || channels == 0 {
                let text = format!("{what} of {w} x {h} pixels, {channels} channels");
                return Err(Error::new(Kind::Limit, "resample", text));
            }
        }
        let columns = Axis::new(from.0, to.0);
        let rows = Axis::new(from.1, to.1);
        let ring_rows = rows.widest;
        let ring = extent::product("resampler", &[ring_rows as u64, to.0, channels as u64])?;
        Ok(Resampler {
            channels,
            from,
            to,
            ring: super::zeroed("the resampler's rows", extent::to_usize("resampler", ring)?)?,
            ring_rows,
            source: super::zeroed("a row", extent::to_usize("row", from.0 * channels as u64)?)?,
            columns,
            rows,
            pulled: 0,
            next: 0,
        })
    }

    /// Bytes it holds.
    pub fn bytes(&self) -> u64 {
        let axis = |a: &Axis| a.first.len() * 4 + a.start.len() * 8 + a.weights.len() * 4;
        ((self.ring.len() + self.source.len()) * 4 + axis(&self.columns) + axis(&self.rows)) as u64
    }

    /// Values of a target row.
    pub fn row_len(&self) -> usize {
        self.to.0 as usize * self.channels
    }

    /// Puts the next target row into `out` ([`Resampler::row_len`] values), pulling as many source
    /// rows as it needs. An error of `pull` is handed on; the resampler can't go on after it.
    pub fn next_row(&mut self, mut pull: impl FnMut(&mut [f32]) -> Result<()>, out: &mut [f32]) -> Result<()> {
        let len = self.row_len();
        if out.len() != len || self.next >= self.to.1 as usize {
            let text = format!("row {} of {} asked for, {} values for {len}", self.next, self.to.1, out.len());
            return Err(Error::new(Kind::Internal, "resample", text));
        }
        let taps = self.rows.taps(self.next);
        while self.pulled < taps.first + taps.weights.len() {
            pull(&mut self.source)?;
            let slot = self.pulled % self.ring_rows;
            across(&self.columns, self.channels, &self.source, &mut self.ring[slot * len..][..len]);
            self.pulled += 1;
        }
        down(taps, &self.ring, self.ring_rows, out);
        self.next += 1;
        Ok(())
    }

    /// Pulls the source rows that no target row needed, so that damage at the very end of a file is
    /// found. None are left over unless the picture shrinks.
    pub fn drain(&mut self, mut pull: impl FnMut(&mut [f32]) -> Result<()>) -> Result<()> {
        while self.pulled < self.from.1 as usize {
            pull(&mut self.source)?;
            self.pulled += 1;
        }
        Ok(())
    }
}

/// Resamples a whole picture: `source` is `from` (width, height) pixels of `channels` values.
pub fn resize(source: &[f32], from: (u64, u64), to: (u64, u64), channels: usize) -> Result<Vec<f32>> {
    let mut resampler = Resampler::new(from, to, channels)?;
    let len = resampler.row_len();
    let size = extent::to_usize("picture", extent::product("picture", &[len as u64, to.1])?)?;
    let mut out = super::zeroed::<f32>("a resampled picture", size)?;
    let mut rows = source.chunks_exact(from.0 as usize * channels);
    for row in out.chunks_exact_mut(len) {
        let pull = |into: &mut [f32]| -> Result<()> {
            let short = || Error::new(Kind::Internal, "resample", "the source has fewer rows than it says");
            into.copy_from_slice(rows.next().ok_or_else(short)?);
            Ok(())
        };
        resampler.next_row(pull, row)?;
    }
    Ok(out)
}

/// One row across.
fn across(axis: &Axis, channels: usize, source: &[f32], out: &mut [f32]) {
    // The channel count as a constant lets the inner loops vanish.
    match channels {
        1 => across_n::<1>(axis, source, out),
        2 => across_n::<2>(axis, source, out),
        3 => across_n::<3>(axis, source, out),
        4 => across_n::<4>(axis, source, out),
        _ => {
            for (x, pixel) in out.chunks_exact_mut(channels).enumerate() {
                let taps = axis.taps(x);
                for (c, o) in pixel.iter_mut().enumerate() {
                    let at = |k: usize| source[(taps.first + k) * channels + c];
                    *o = taps.weights.iter().enumerate().map(|(k, w)| w * at(k)).sum();
                }
            }
        }
    }
}

fn across_n<const N: usize>(axis: &Axis, source: &[f32], out: &mut [f32]) {
    let (source, _) = source.as_chunks::<N>();
    let (out, _) = out.as_chunks_mut::<N>();
    for (x, pixel) in out.iter_mut().enumerate() {
        let taps = axis.taps(x);
        let mut sum = [0.0f32; N];
        for (w, p) in taps.weights.iter().zip(&source[taps.first..]) {
            for c in 0..N {
                sum[c] += w * p[c];
            }
        }
        *pixel = sum;
    }
}

/// One row down: the weighted sum of the ring's rows that `taps` names.
fn down(taps: Taps<'_>, ring: &[f32], ring_rows: usize, out: &mut [f32]) {
    let len = out.len();
    let row = |k: usize| &ring[((taps.first + k) % ring_rows) * len..][..len];
    let mut k = 0;
    // Four rows a pass: one read and write of `out` for four taps, the whole of it when enlarging.
    while k < taps.weights.len() {
        let w = &taps.weights[k..];
        let fresh = k == 0;
        if let [w0, w1, w2, w3, ..] = *w {
            let (r0, r1, r2, r3) = (row(k), row(k + 1), row(k + 2), row(k + 3));
            if fresh {
                for i in 0..len {
                    out[i] = w0 * r0[i] + w1 * r1[i] + w2 * r2[i] + w3 * r3[i];
                }
            } else {
                for i in 0..len {
                    out[i] += w0 * r0[i] + w1 * r1[i] + w2 * r2[i] + w3 * r3[i];
                }
            }
            k += 4;
        } else {
            let (w, r) = (w[0], row(k));
            if fresh {
                out.iter_mut().zip(r).for_each(|(o, v)| *o = w * v);
            } else {
                out.iter_mut().zip(r).for_each(|(o, v)| *o += w * v);
            }
            k += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A picture that the reference script makes too: no two neighbours alike, nothing periodic in
    /// the ratios tried.
    fn picture(w: usize, h: usize, channels: usize) -> Vec<f32> {
        (0..w * h * channels).map(|i| ((i * 7919 + (i / 5) * 104_729) % 1009) as f32 / 1008.0).collect()
    }

    #[test]
    fn the_same_size_is_the_same_picture() {
        let p = picture(13, 7, 3);
        assert_eq!(resize(&p, (13, 7), (13, 7), 3).unwrap(), p);
    }

    #[test]
    fn constants_stay_constant_at_any_ratio() {
        for (from, to) in [((1, 1), (9, 5)), ((17, 3), (5, 31)), ((2, 40), (64, 3)), ((100, 100), (1, 1))] {
            for channels in 1..=5 {
                let flat = vec![0.37; (from.0 * from.1) as usize * channels];
                let out = resize(&flat, from, to, channels).unwrap();
                assert_eq!(out.len(), (to.0 * to.1) as usize * channels);
                assert!(out.iter().all(|v| (v - 0.37).abs() < 1e-6), "{from:?} {to:?}");
            }
        }
    }

    #[test]
    fn channels_do_not_mix_and_channel_counts_agree() {
        let planes: Vec<Vec<f32>> =
            (0..5).map(|c| picture(11, 9, 1).iter().map(|v| v * (c + 1) as f32).collect()).collect();
        for n in 1..=5usize {
            let joint: Vec<f32> =
                (0..99).flat_map(|i| (0..n).map(move |c| (i, c))).map(|(i, c)| planes[c][i]).collect();
            let out = resize(&joint, (11, 9), (25, 4), n).unwrap();
            for (c, plane) in planes.iter().enumerate().take(n) {
                let alone = resize(plane, (11, 9), (25, 4), 1).unwrap();
                let taken: Vec<f32> = out.iter().skip(c).step_by(n).copied().collect();
                assert_eq!(taken, alone, "channel {c} of {n}");
            }
        }
    }

    fn gray(from: (u64, u64), to: (u64, u64)) -> Vec<f32> {
        resize(&picture(from.0 as usize, from.1 as usize, 1), from, to, 1).unwrap()
    }

    fn close(got: &[f32], wanted: &[f32]) {
        assert_eq!(got.len(), wanted.len());
        let worst = got.iter().zip(wanted).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        // Seven printed digits and the rounding of at most a hundred f32 products.
        assert!(worst < 1e-6, "{worst}");
    }

    // The constants below are made with PyTorch 2.8:
    // interpolate(picture, size, mode='bicubic', antialias=True, align_corners=False), in f64.

    #[test]
    fn shrinking_is_that_of_pytorch() {
        #[rustfmt::skip]
        close(&gray((13, 11), (5, 4)), &[
            0.5026475, 0.5781592, 0.5456269, 0.5806705, 0.5718425, 0.4746559, 0.5129151, 0.4979998, 0.4364977,
            0.5499416, 0.4365608, 0.3721431, 0.4849296, 0.4185569, 0.4070383, 0.5595375, 0.5508149, 0.5958014,
            0.5328675, 0.5467472,
        ]);
        // One axis shrinks, the other stays.
        #[rustfmt::skip]
        close(&gray((13, 11), (6, 11)), &[
            0.484769, 0.6011603, 0.3467825, 0.7411061, 0.3472657, 0.7312373, 0.4493203, 0.623701, 0.6777025,
            0.4876212, 0.8380195, 0.3986481, 0.5217642, 0.5902347, 0.3158725, 0.7717507, 0.2883197, 0.767573,
            0.387719, 0.6463733, 0.6900538, 0.159268, 0.6526936, 0.362633, 0.5580999, 0.5312887, 0.346517,
            0.7408407, 0.2773941, 0.8045681, 0.3556216, 0.2444423, 0.5893014, 0.1986625, 0.6131277, 0.3587459,
            0.5542127, 0.4917228, 0.3831874, 0.6849365, 0.2447907, 0.2950869, 0.3926168, 0.2335168, 0.5583914,
            0.229307, 0.5541817, 0.3950816, 0.4926115, 0.5143951, 0.3629685, 0.6578088, 0.3402046, 0.6884974,
            0.4065804, 0.6166398, 0.5944051, 0.5038072, 0.7512543, 0.4064906, 0.8583904, 0.5136267, 0.7610737,
            0.7047042, 0.3003143, 0.6846103,
        ]);
    }

    #[test]
    fn enlarging_is_that_of_pytorch_inside() {
        // There, at the border, PyTorch drops the taps outside; here they are clamped.
        let all = gray((12, 10), (29, 27));
        let inside: Vec<f32> = (12..15).flat_map(|y| all[y * 29 + 12..y * 29 + 17].to_vec()).collect();
        #[rustfmt::skip]
        close(&inside, &[
            0.6946943, 0.9328768, 0.8852175, 0.7393273, 0.6003324, 0.6827091, 0.7577763, 0.6894299, 0.5675226,
            0.4367635, 0.6122801, 0.5154562, 0.4507328, 0.3888741, 0.3027494,
        ]);
    }

    #[test]
    fn enlarging_clamps_at_the_border() {
        // Made from the picture extended by replication, doubled, and cropped.
        #[rustfmt::skip]
        close(&gray((4, 3), (8, 6)), &[
            -0.09336635, 0.1672389, 0.732232, 0.9304387, 0.7618589, 0.6377146, 0.558006, 0.5217091, 0.03344079,
            0.1954559, 0.5475808, 0.7373982, 0.7649081, 0.7247661, 0.6169722, 0.5671826, 0.3094927, 0.2577655,
            0.1483794, 0.3187861, 0.7689858, 0.9110037, 0.7448399, 0.666965, 0.4879718, 0.3627184, 0.09344985,
            0.1672452, 0.5841044, 0.7920254, 0.7910083, 0.7892917, 0.5688781, 0.5103146, 0.3827922, 0.2827753,
            0.2102638, 0.3678312, 0.7554775, 0.9341628, 0.6052518, 0.5780546, 0.5172222, 0.337264, 0.03818015,
            0.1719996, 0.7387224, 1.000531,
        ]);
    }

    #[test]
    fn misuse_is_an_error() {
        assert_eq!(Resampler::new((0, 4), (4, 4), 3).err().map(|e| e.kind()), Some(Kind::Limit));
        let mut r = Resampler::new((2, 2), (2, 1), 1).unwrap();
        let mut pulled = 0;
        let mut pull = |row: &mut [f32]| {
            pulled += 1;
            row.fill(1.0);
            Ok(())
        };
        assert_eq!(r.next_row(&mut pull, &mut [0.0; 3]).expect_err("length").kind(), Kind::Internal);
        r.next_row(&mut pull, &mut [0.0; 2]).unwrap();
        assert!(r.next_row(&mut pull, &mut [0.0; 2]).is_err());
        r.drain(&mut pull).unwrap();
        assert_eq!(pulled, 2);
    }
}
