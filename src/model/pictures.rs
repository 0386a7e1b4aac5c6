//! How networks that look at pictures want them: to what size, and with which mean and deviation.

use crate::error::{Error, Kind, Result};
use crate::graph::op::{Axis, ChannelAffine, Lifetime};
use crate::graph::taps::{Filter, Taps};
use crate::graph::{Act, Builder, DType, Graph, Op, Shape};
use crate::limits;

/// Mean and standard deviation by channel (red, green, blue) that a network takes its pictures with, of values from
/// 0 to 1: it sees `(x - mean) / deviation`.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Normalisation {
    /// Subtracted first.
    pub mean: [f32; 3],
    /// Divided by.
    pub deviation: [f32; 3],
}

/// Those of ImageNet, as Depth Anything takes its pictures.
pub const IMAGENET: Normalisation = Normalisation { mean: [0.485, 0.456, 0.406], deviation: [0.229, 0.224, 0.225] };
/// The same in grey levels, rounded, as SAM takes its pictures.
pub const SAM: Normalisation = Normalisation {
    mean: [123.675 / 255.0, 116.28 / 255.0, 103.53 / 255.0],
    deviation: [58.395 / 255.0, 57.12 / 255.0, 57.375 / 255.0],
};

impl Normalisation {
    /// The same as `a * x + b`, for [`crate::graph::op::ChannelAffine`]: the row of `a`, then the row of `b`.
    pub fn factors(&self) -> [f32; 6] {
        let [r, g, b] = self.deviation.map(|d| 1.0 / d);
        let [mr, mg, mb] = self.mean;
        [r, g, b, -mr * r, -mg * g, -mb * b]
    }
}

/// A graph that makes a network's picture: input `picture` `[batch, height, width, 3]` of the size `from`, values from 0
/// to 1; output `pixel_values`, normalised, resized to `to` and filled up with zeros on the right and below to `size`.
pub fn preparation(
    batch: u32,
    from: [u32; 2],
    to: [u32; 2],
    size: [u32; 2],
    filter: Filter,
    normalisation: &Normalisation,
    dtype: DType,
) -> Result<Graph> {
    if to[0] > size[0] || to[1] > size[1] {
        let why = format!("a picture resized to {}x{} does not fit into {}x{}", to[0], to[1], size[0], size[1]);
        return Err(Error::new(Kind::Internal, "model", why));
    }
    let mut b = Builder::new(format!("preparation {}x{} b{batch} {}", size[0], size[1], dtype.name()), dtype);
    let x = b.input("picture", Shape::new(batch, from[0], from[1], 3), dtype, Lifetime::Window);
    let factors = b.constant("normalisation", Shape::new(batch, 1, 2, 3), normalisation.factors().to_vec());
    let mut x = b.push("normalised", Op::ChannelAffine(ChannelAffine { act: Act::None }), &[x, factors])?;
    for (axis, i, name) in [(Axis::Rows, 0, "rows"), (Axis::Columns, 1, "columns")] {
        if from[i] == to[i] && to[i] == size[i] {
            continue;
        }
        let taps = Taps::of(filter, from[i], to[i])?;
        let shape = Shape::new(1, 1, size[i], taps.taps() + 1);
        let mut rows = taps.into_values();
        // a row without weight is a zero
        rows.resize(size[i] as usize * shape.c as usize, 0.0);
        let table = b.constant(&format!("{name}.taps"), shape, rows);
        x = b.resample(name, x, table, axis)?;
    }
    b.output("pixel_values", x);
    Ok(b.finish())
}

/// The size `[height, width]` that Depth Anything takes a picture of `height` x `width` at: enlarged or reduced by one
/// factor, so that the shorter side is `side` (518 as published), then each side rounded to a multiple of `patch`
/// (14), half to even, and up where that left it below `side`. Depth Anything's "lower bound"; the filter is a bicubic
/// one, the picture's values are from 0 to 1.
pub fn lower_bound(height: u32, width: u32, side: u32, patch: u32) -> Result<[u32; 2]> {
    if height.min(width) == 0 || side.min(patch) == 0 {
        let why = format!("a picture of {height}x{width} has no size with a shorter side of {side}");
        return Err(Error::new(Kind::Usage, "model", why));
    }
    let scale = f64::from(side) / f64::from(height.min(width));
    let step = f64::from(patch);
    let sides = [height, width].map(|v| {
        let v = scale * f64::from(v);
        let near = (v / step).round_ties_even() * step;
        if near < f64::from(side) { (v / step).ceil() * step } else { near }
    });
    if sides.iter().any(|&s| s > limits::MAX_SIDE as f64) {
        let why = format!("a picture of {height}x{width} is too narrow: its shorter side would become {side} pixels");
        return Err(Error::new(Kind::Limit, "model", why).advise("split it"));
    }
    Ok(sides.map(|s| s as u32))
}

/// The size `[height, width]` that SAM takes a picture at: the longer side is `side` (1024 as published), the other
/// rounded half up. The rest of the square, to the right and below, is filled with zeros after the normalisation.
pub fn longest_side(height: u32, width: u32, side: u32) -> [u32; 2] {
    let scale = f64::from(side) / f64::from(height.max(width).max(1));
    [height, width].map(|v| ((f64::from(v) * scale + 0.5) as u32).clamp(1, side.max(1)))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Against Depth Anything's own transform, computed by hand.
    #[test]
    fn depth_anything_sees_pictures_at_least_as_large_as_it_was_trained_on() {
        for (size, expected) in [
            ([518, 518], [518, 518]),
            ([480, 640], [518, 686]),
            ([640, 480], [686, 518]),
            ([1080, 1920], [518, 924]),
            ([100, 100], [518, 518]),
            ([37, 1000], [518, 14000]),
            ([513, 500], [532, 518]),
            // 525 and 539 pixels, 37.5 and 38.5 patches: both go to the even number
            ([74, 75], [518, 532]),
            ([77, 74], [532, 518]),
        ] {
            assert_eq!(lower_bound(size[0], size[1], 518, 14).expect("size"), expected, "{size:?}");
        }
        // where the shorter side is no multiple of a patch, it is rounded up
        assert_eq!(lower_bound(100, 100, 20, 14).expect("size"), [28, 28]);
        assert_eq!(lower_bound(0, 4, 518, 14).expect_err("nothing").kind(), Kind::Usage);
        assert_eq!(lower_bound(1, 1 << 24, 518, 14).expect_err("a line").kind(), Kind::Limit);
    }

    #[test]
    fn sam_sees_the_longest_side_at_its_own() {
        assert_eq!(longest_side(1200, 1800, 1024), [683, 1024]);
        assert_eq!(longest_side(300, 200, 1024), [1024, 683]);
        assert_eq!(longest_side(1, 4000, 1024), [1, 1024]);
    }

    #[test]
    fn a_preparation_has_the_networks_size() {
        let bicubic = Filter::Bicubic { a: -0.75, antialias: false };
        for (from, to, size) in [([30, 20], [42, 28], [42, 28]), ([8, 8], [8, 8], [16, 8]), ([9, 7], [9, 7], [9, 7])] {
            let graph = preparation(2, from, to, size, bicubic, &IMAGENET, DType::F16).expect("graph");
            crate::graph::verify::verify(&graph).expect("sound");
            assert_eq!(graph.value(graph.outputs[0].1).shape, Shape::new(2, size[0], size[1], 3));
            assert_eq!(graph.inputs().count(), 1, "constants are the graph's own");
        }
        let e = preparation(1, [8, 8], [8, 20], [16, 16], bicubic, &SAM, DType::F32).expect_err("too large");
        assert!(e.message().contains("8x20"), "{e}");
    }

    #[test]
    fn a_normalisation_is_a_factor_and_a_shift() {
        for n in [IMAGENET, SAM] {
            let f = n.factors();
            for (c, x) in [(0, 0.25f32), (1, 0.5), (2, 1.0)] {
                let expected = (x - n.mean[c]) / n.deviation[c];
                let difference = (f[c] * x + f[3 + c] - expected).abs();
                assert!(difference < f32::EPSILON * 8.0, "{c}: {difference}");
            }
        }
    }
}
