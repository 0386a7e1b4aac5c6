//! The features of SIFID (single image FID): what the first three layers of a trained Inception v3 make of a picture.
//!
//! SIFID is of Shaham, Dekel, Michaeli, "SinGAN", 2019. This follows the code the authors published, SIFID/inception.py and
//! SIFID/sifid_score.py of github.com/tamarott/SinGAN: its block of 64 channels, which ends before the first pooling layer. The
//! paper's text says the layer "just before the second pooling layer", which has 192 channels; the code's own figures are those of 64.
//! There each byte becomes 2 v / 255 - 1, the picture is not resized, and torchvision's own transform of inputs is left out. Then
//! three layers follow, each a 3x3 convolution without bias, a batch norm (eps 0.001, its running statistics) and ReLU:
//!
//! | layer | channels | stride | padding |
//! |---|---|---|---|
//! | `Conv2d_1a_3x3` | 3 to 32 | 2 | 0 |
//! | `Conv2d_2a_3x3` | 32 to 32 | 1 | 0 |
//! | `Conv2d_2b_3x3` | 32 to 64 | 1 | 1 |

use super::gaussian::Moments;
use super::{Picture, refuse};
use crate::error::{Error, Kind, Result};
use pulp::{Arch, NullaryFnOnce};
use rayon::prelude::*;

/// Features of one position.
pub const CHANNELS: usize = 64;
/// Least side of a picture, pixels: 5 x 5 positions. A side of 7 has the first one.
pub const LEAST_SIDE: usize = 15;

/// Name, channels in and out, stride.
const LAYERS: [(&str, usize, usize, usize); 3] =
    [("Conv2d_1a_3x3", 3, 32, 2), ("Conv2d_2a_3x3", 32, 32, 1), ("Conv2d_2b_3x3", 32, 64, 1)];
/// What batch norms add to variances.
const EPS: f64 = 1e-3;
/// Taps of a filter.
const TAPS: usize = 9;
/// Channels out, and neighbouring pixels, that are summed at a time: as many sums as registers hold.
const LANES: usize = 16;
const PIXELS: usize = 4;
/// Rows of features that are made at a time: what a band holds grows with the picture's width only. Fixed, since moments are
/// summed band by band.
const ROWS: usize = 16;

/// Name and shape of every tensor that [`Inception::new`] reads, as torchvision and pytorch-fid name them.
pub fn tensors() -> Vec<(String, Vec<u64>)> {
    let mut all = Vec::new();
    for (layer, inputs, outputs, _) in LAYERS {
        all.push((format!("{layer}.conv.weight"), vec![outputs as u64, inputs as u64, 3, 3]));
        for part in ["weight", "bias", "running_mean", "running_var"] {
            all.push((format!("{layer}.bn.{part}"), vec![outputs as u64]));
        }
    }
    all
}

/// A layer with its batch norm folded in.
#[derive(Debug)]
struct Layer {
    inputs: usize,
    outputs: usize,
    stride: usize,
    /// By block of [`LANES`] channels out, then row and column of the filter, channel in, channel out.
    weights: Vec<f32>,
    bias: Vec<f32>,
}

/// The first three layers of Inception v3.
#[derive(Debug)]
pub struct Inception {
    layers: [Layer; 3],
}

/// The features of a picture.
#[derive(Debug, Clone, PartialEq)]
pub struct Features {
    /// Columns.
    pub width: usize,
    /// Rows.
    pub height: usize,
    /// Row by row, [`CHANNELS`] values a position; at least 0.
    pub values: Vec<f32>,
}

impl Inception {
    /// The network of tensors as `read` returns them by name: those of [`tensors`], finite, in the order of their shape. Fails
    /// where `read` does, where a tensor has another number of values, and where a variance is negative.
    pub fn new(read: &mut dyn FnMut(&str) -> Result<Vec<f32>>) -> Result<Inception> {
        let mut layer = |(name, inputs, outputs, stride): (&str, usize, usize, usize)| {
            let mut tensor = |part: &str, count: usize| {
                let name = format!("{name}.{part}");
                let values = read(&name)?;
                if values.len() != count {
                    return Err(bad(format!("`{name}` has {} values, not {count}", values.len())));
                }
                Ok(values)
            };
            let stored = tensor("conv.weight", outputs * inputs * TAPS)?;
            let [scale, shift, mean, variance] = [
                tensor("bn.weight", outputs)?,
                tensor("bn.bias", outputs)?,
                tensor("bn.running_mean", outputs)?,
                tensor("bn.running_var", outputs)?,
            ];
            if let Some(i) = variance.iter().position(|v| *v < 0.0) {
                let why = format!("`{name}.bn.running_var` element {i} is {}, a variance is at least 0", variance[i]);
                return Err(bad(why));
            }
            let by = |o: usize| f64::from(scale[o]) / (f64::from(variance[o]) + EPS).sqrt();
            let mut weights = Vec::with_capacity(stored.len());
            for block in 0..outputs / LANES {
                for tap in 0..TAPS {
                    for i in 0..inputs {
                        let out = block * LANES..(block + 1) * LANES;
                        weights.extend(out.map(|o| (f64::from(stored[(o * inputs + i) * TAPS + tap]) * by(o)) as f32));
                    }
                }
            }
            let bias = |o: usize| (f64::from(shift[o]) - f64::from(mean[o]) * by(o)) as f32;
            Ok(Layer { inputs, outputs, stride, weights, bias: (0..outputs).map(bias).collect() })
        };
        let [a, b, c] = LAYERS;
        Ok(Inception { layers: [layer(a)?, layer(b)?, layer(c)?] })
    }

    /// The features of a picture, sides from [`LEAST_SIDE`]: for a side of `n` pixels `(n - 1) / 2 - 2` positions, rounded down.
    pub fn features(&self, picture: &Picture) -> Result<Features> {
        let [width, height] = positions(picture)?;
        let bands = self.bands(picture, [width, height], |_, values| values);
        Ok(Features { width, height, values: bands.concat() })
    }

    /// The moments of the features over all positions; an error where they are not finite.
    pub(super) fn moments(&self, picture: &Picture) -> Result<Moments> {
        let size = positions(picture)?;
        let bands = self.bands(picture, size, |arch, values| arch.dispatch(Fit(values)));
        // In order, so that the figure does not depend on the threads.
        let whole = bands.into_iter().reduce(|a, b| a.joined(&b));
        whole
            .filter(Moments::is_finite)
            .ok_or_else(|| bad("features are beyond f32's range".into()).advise("take weights that a training made"))
    }

    /// What `of` makes of each band of rows.
    fn bands<T, F>(&self, picture: &Picture, [width, height]: [usize; 2], of: F) -> Vec<T>
    where
        T: Send,
        F: Fn(Arch, Vec<f32>) -> T + Sync,
    {
        let arch = Arch::new();
        let starts: Vec<usize> = (0..height).step_by(ROWS).collect();
        let band = |&from: &usize| {
            let rows = [from, (from + ROWS).min(height)];
            of(arch, arch.dispatch(Band { layers: &self.layers, picture, width, height, rows }))
        };
        starts.par_iter().map(band).collect()
    }
}

fn bad(why: String) -> Error {
    Error::new(Kind::Weights, "metrics", format!("Inception v3: {why}"))
}

/// Columns and rows of the features; refuses pictures that are too small or not whole.
fn positions(picture: &Picture) -> Result<[usize; 2]> {
    let Picture { width, height, channels, ref values } = *picture;
    if width.min(height) < LEAST_SIDE {
        return Err(refuse(format!("{width} x {height} pixels: at least {LEAST_SIDE} a side")));
    }
    if !matches!(channels, 1 | 3) || values.len() != width * height * channels {
        return Err(refuse(format!("{channels} channels and {} values for {width} x {height}", values.len())));
    }
    Ok([width, height].map(|side| (side - 1) / 2 - 2))
}

/// A band of rows of features on its way through the layers, compiled for the best instruction set of the machine. Products
/// are added one by one in one order, so that figures are those of any other machine.
struct Band<'a> {
    layers: &'a [Layer; 3],
    picture: &'a Picture,
    /// Columns of the features.
    width: usize,
    /// All their rows.
    height: usize,
    /// The band's first row, and the one behind its last.
    rows: [usize; 2],
}

impl NullaryFnOnce for Band<'_> {
    type Output = Vec<f32>;

    #[inline(always)]
    fn call(self) -> Vec<f32> {
        let Band { width, height, rows: [from, to], picture, .. } = self;
        let [first, second, third] = self.layers;
        // The rows of the second layer that there are among those the third one looks at.
        let (upper, lower) = (from.saturating_sub(1), (to + 1).min(height));
        let seen = picture.width * picture.channels;
        let pixels = &picture.values[2 * upper * seen..(2 * (lower + 1) + 3) * seen];
        let input: Vec<f32> = match picture.channels {
            1 => pixels.iter().flat_map(|v| [2.0 * v - 1.0; 3]).collect(),
            _ => pixels.iter().map(|v| 2.0 * v - 1.0).collect(),
        };
        let mut a = vec![0.0; (lower + 2 - upper) * (width + 2) * first.outputs];
        convolve(first, &input, picture.width, &mut a, [lower + 2 - upper, width + 2, width + 2]);
        // Zeros all around are the third layer's padding.
        let mut b = vec![0.0; (to + 2 - from) * (width + 2) * second.outputs];
        let corner = ((upper + 1 - from) * (width + 2) + 1) * second.outputs;
        convolve(second, &a, width + 2, &mut b[corner..], [lower - upper, width, width + 2]);
        let mut c = vec![0.0; (to - from) * width * third.outputs];
        convolve(third, &b, width + 2, &mut c, [to - from, width, width]);
        c
    }
}

/// The moments of a band, compiled like it.
struct Fit(Vec<f32>);

impl NullaryFnOnce for Fit {
    type Output = Moments;

    #[inline(always)]
    fn call(self) -> Moments {
        Moments::of(&self.0, CHANNELS)
    }
}

/// A 3x3 convolution with bias and ReLU, of rows of `width` pixels, nothing around them: `rows` x `columns` pixels, at least
/// [`PIXELS`] columns, go out in rows that begin `pitch` pixels apart.
#[inline(always)]
fn convolve(layer: &Layer, input: &[f32], width: usize, output: &mut [f32], [rows, columns, pitch]: [usize; 3]) {
    let (inputs, outputs, stride) = (layer.inputs, layer.outputs, layer.stride);
    let blocks = layer.weights.chunks_exact(TAPS * inputs * LANES).zip(layer.bias.as_chunks::<LANES>().0);
    for y in 0..rows {
        for (block, (weights, bias)) in blocks.clone().enumerate() {
            for x in (0..columns).step_by(PIXELS) {
                // The last pixels are those at the end of the row, some of them for the second time.
                let x = x.min(columns - PIXELS);
                let mut sums = [*bias; PIXELS];
                for (ky, weights) in weights.chunks_exact(3 * inputs * LANES).enumerate() {
                    let at = |p: usize| ((y * stride + ky) * width + (x + p) * stride) * inputs;
                    let seen: [&[f32]; PIXELS] = std::array::from_fn(|p| &input[at(p)..][..3 * inputs]);
                    for (i, w) in weights.as_chunks::<LANES>().0.iter().enumerate() {
                        for (sums, seen) in sums.iter_mut().zip(&seen) {
                            let v = seen[i];
                            sums.iter_mut().zip(w).for_each(|(s, w)| *s += v * w);
                        }
                    }
                }
                for (p, sums) in sums.iter().enumerate() {
                    let out = &mut output[(y * pitch + x + p) * outputs + block * LANES..][..LANES];
                    // `max` would turn NaN into 0 and hide it.
                    out.iter_mut().zip(sums).for_each(|(o, &s)| *o = if s < 0.0 { 0.0 } else { s });
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::FeatureMap;
    use super::super::tests::picture;
    use super::*;

    /// Some network: numbers in [-0.5, 0.5), variances in [0, 1).
    fn tensor(name: &str) -> Vec<f32> {
        let (_, shape) = tensors().into_iter().find(|t| t.0 == name).unwrap();
        let add = if name.ends_with("var") { 0.0 } else { -0.5 };
        let value = |i: u64| ((i * 7919 + name.len() as u64 * 31 + i * i % 97) % 1009) as f32 / 1009.0 + add;
        (0..shape.iter().product()).map(value).collect()
    }

    fn network() -> Inception {
        Inception::new(&mut |name| Ok(tensor(name))).unwrap()
    }

    /// The same in f64 by the definition, position by position, nothing folded.
    fn plain(picture: &Picture) -> Vec<f64> {
        let mut values: Vec<f64> = picture.values.iter().map(|v| 2.0 * f64::from(*v) - 1.0).collect();
        let (mut w, mut h) = (picture.width as isize, picture.height as isize);
        for ((name, inputs, outputs, stride), pad) in LAYERS.into_iter().zip([0, 0, 1]) {
            let get =
                |part: &str| -> Vec<f64> { tensor(&format!("{name}.{part}")).into_iter().map(f64::from).collect() };
            let (k, [g, b, m, v]) =
                (get("conv.weight"), ["bn.weight", "bn.bias", "bn.running_mean", "bn.running_var"].map(get));
            let (ow, oh) = ((w + 2 * pad - 3) / stride as isize + 1, (h + 2 * pad - 3) / stride as isize + 1);
            let mut out = Vec::new();
            for (y, x) in (0..oh).flat_map(|y| (0..ow).map(move |x| (y, x))) {
                for o in 0..outputs {
                    let mut sum = 0.0;
                    for tap in 0..9 {
                        let at = [y * stride as isize + tap / 3 - pad, x * stride as isize + tap % 3 - pad];
                        if (0..h).contains(&at[0]) && (0..w).contains(&at[1]) {
                            let pixel = &values[(at[0] * w + at[1]) as usize * inputs..][..inputs];
                            let k = |i: usize| k[(o * inputs + i) * 9 + tap as usize];
                            sum += pixel.iter().enumerate().map(|(i, p)| p * k(i)).sum::<f64>();
                        }
                    }
                    out.push(((sum - m[o]) / (v[o] + 1e-3).sqrt() * g[o] + b[o]).max(0.0));
                }
            }
            (values, w, h) = (out, ow, oh);
        }
        values
    }

    #[test]
    fn features_are_those_of_the_definition() {
        let net = network();
        // One band, several, one whose last has a single row; rows that do not divide by the pixels of a block.
        for (w, h) in [(15, 15), (16, 17), (40, 39), (22, 103)] {
            let p = picture(w, h, 5);
            let (got, wanted) = (net.features(&p).unwrap(), plain(&p));
            assert_eq!((got.width, got.height), ((w - 1) / 2 - 2, (h - 1) / 2 - 2));
            assert_eq!(got.values.len(), wanted.len());
            let most = wanted.iter().copied().fold(0.0, f64::max);
            let off = got.values.iter().zip(&wanted).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max);
            assert!(off < 1e-5 * most, "{w}x{h}: {off} of {most}");
        }
    }

    #[test]
    fn grey_is_three_equal_channels_and_small_pictures_are_refused() {
        let map = FeatureMap::Inception(Box::new(network()));
        let p = picture(15, 40, 0);
        let grey = Picture { channels: 1, values: p.values.iter().step_by(3).copied().collect(), ..p };
        let d = map.frechet(&grey, &grey.clone().into_rgb()).unwrap();
        let other = map.frechet(&grey, &p).unwrap();
        assert!(d < 1e-6 * other, "{d} {other}");
        let e = map.frechet(&p, &picture(14, 40, 0)).unwrap_err();
        assert!(e.to_string().contains("14 x 40 pixels: at least 15 a side"), "{e}");
    }

    #[test]
    fn tensors_that_make_no_network_are_refused() {
        let with = |name: &str, f: &dyn Fn(&mut Vec<f32>)| {
            Inception::new(&mut |n| {
                let mut values = tensor(n);
                (n == name).then(|| f(&mut values));
                Ok(values)
            })
        };
        let e = with("Conv2d_2a_3x3.bn.running_var", &|v| v[3] = -1.0).unwrap_err();
        assert!(e.kind() == Kind::Weights && e.to_string().contains("running_var` element 3 is -1"), "{e}");
        let e = with("Conv2d_2b_3x3.conv.weight", &|v| v.truncate(9)).unwrap_err();
        assert!(e.to_string().contains("`Conv2d_2b_3x3.conv.weight` has 9 values, not 18432"), "{e}");
        // Finite numbers whose products are not: an error, not a figure and not a search without end.
        let huge = with("Conv2d_1a_3x3.conv.weight", &|v| v.fill(3e38)).unwrap();
        let huge = FeatureMap::Inception(Box::new(huge));
        assert_eq!(huge.frechet(&picture(20, 20, 0), &picture(20, 20, 1)).unwrap_err().kind(), Kind::Weights);
    }
}
