//! `group_norm_stats`: count, mean and M2 per channel and block of pixels, masked by `stats_rect`.

use super::{BF16, Case, F16, F32, MOMENTS, Operand, Rng, items};
use tessera::abi::params::{GroupNormStatsParams, NORM_BLOCK};
use tessera::abi::{Item, Params, Types};
use tessera::graph::DType;

/// `stats_rect` in pixels of an `h` x `w` value: `[y0, x0, y1, x1]`, half open. Row `y` counts when
/// `y0 * h / 65536 <= y < y1 * h / 65536`, exactly, so that adjacent rectangles share no pixel.
pub fn rect_pixels(rect: [i32; 4], h: usize, w: usize) -> [usize; 4] {
    if rect == [0; 4] {
        return [0, 0, h, w];
    }
    let edge = |part: i32, side: usize| (part as usize * side).div_ceil(65_536);
    [edge(rect[0], h), edge(rect[1], w), edge(rect[2], h), edge(rect[3], w)]
}

/// `[item][block][count, mean, M2][channel]` of `value(item, pixel, channel)` over the pixels of each block that count.
pub fn moments(
    items: &[Item],
    [h, w]: [usize; 2],
    blocks: &[Vec<usize>],
    channels: usize,
    value: impl Fn(usize, usize, usize) -> f64,
) -> Vec<f64> {
    let mut out = vec![0.0; items.len() * blocks.len() * MOMENTS * channels];
    for (i, item) in items.iter().enumerate() {
        let [y0, x0, y1, x1] = rect_pixels(item.stats_rect, h, w);
        let counts = |p: &usize| (y0..y1).contains(&(p / w)) && (x0..x1).contains(&(p % w));
        for (b, block) in blocks.iter().enumerate() {
            for c in 0..channels {
                let values: Vec<f64> = block.iter().copied().filter(counts).map(|p| value(i, p, c)).collect();
                let count = values.len() as f64;
                let mean = if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / count };
                let m2: f64 = values.iter().map(|v| (v - mean).powi(2)).sum();
                for (row, v) in [count, mean, m2].into_iter().enumerate() {
                    out[((i * blocks.len() + b) * MOMENTS + row) * channels + c] = v;
                }
            }
        }
    }
    out
}

struct Problem {
    name: String,
    n: usize,
    hw: [usize; 2],
    pitch: [usize; 2],
    rects: Vec<[i32; 4]>,
    /// Added to every value: large against the spread, as at deep layers.
    shift: f64,
    types: Types,
    exact: bool,
}

impl Problem {
    fn plain(name: &str, n: usize, hw: [usize; 2], c: usize) -> Problem {
        Problem {
            name: name.into(),
            n,
            hw,
            pitch: [c, 0],
            rects: vec![[0; 4]; n],
            shift: 0.0,
            types: F32,
            exact: false,
        }
    }

    fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let ([h, w], [p1, p2], t) = (self.hw, self.pitch, self.types.x);
        let mut source = |p: usize| -> Vec<f64> {
            let mut v = rng.matrix(self.n * h * w, p, p, self.exact, 1.0, t);
            for v in &mut v {
                *v = super::round(*v + self.shift, t);
            }
            v
        };
        let x = source(p1);
        let x2 = (p2 > 0).then(|| source(p2));
        let mut items = items(self.n);
        for (item, &rect) in items.iter_mut().zip(&self.rects) {
            item.stats_rect = rect;
        }
        let (block, total) = (NORM_BLOCK as usize, p1 + p2);
        let blocks = (h * w).div_ceil(block);
        let blocks: Vec<Vec<usize>> =
            (0..blocks).map(|b| (b * block..((b + 1) * block).min(h * w)).collect()).collect();
        let expected = moments(&items, self.hw, &blocks, total, |i, p, c| match (&x2, c < p1) {
            (Some(x2), false) => x2[(i * h * w + p) * p2 + c - p1],
            _ => x[(i * h * w + p) * p1 + c],
        });
        let params = GroupNormStatsParams {
            n: self.n as u32,
            h: h as u32,
            w: w as u32,
            pitch_x: p1 as u32,
            pitch_x2: p2 as u32,
            blocks: blocks.len() as u32,
            parts: u32::from(p2 > 0),
            ..GroupNormStatsParams::default()
        };
        Case {
            name: self.name.clone(),
            params: Params::GroupNormStats(params),
            types: self.types,
            items,
            operands: vec![
                Some(Operand::Data(x, t)),
                x2.map(|v| Operand::Data(v, t)),
                Some(Operand::Output(expected.len(), DType::F32)),
            ],
            other_weights: Vec::new(),
            expected,
            exact: false,
            narrows: false,
        }
    }
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let plain = Problem::plain;
    let f32_out = |t: Types| Types { y: DType::F32, ..t };
    let all = vec![
        plain("one pixel", 1, [1, 1], 8),
        plain("one block", 1, [16, 16], 16),
        plain("a pixel past a block", 2, [1, 257], 8),
        plain("odd", 3, [23, 31], 24),
        plain("wide", 1, [9, 7], 1288),
        Problem { pitch: [16, 40], ..plain("two sources", 2, [19, 17], 0) },
        Problem { shift: 100.0, ..plain("far from zero", 1, [20, 30], 16) },
        Problem {
            rects: vec![[0, 0, 32_768, 65_536], [16_384, 8_192, 49_152, 65_536], [0; 4]],
            ..plain("rects", 3, [24, 32], 8)
        },
        // Thirds do not fall on pixels of an odd value; whole blocks lie outside.
        Problem {
            rects: vec![[21_845, 21_845, 43_690, 43_690], [65_535, 0, 65_536, 65_536]],
            ..plain("rects off the grid", 2, [41, 29], 16)
        },
        Problem { types: f32_out(F16), pitch: [24, 8], ..plain("f16", 2, [21, 13], 0) },
        Problem { types: f32_out(BF16), ..plain("bf16", 1, [21, 13], 24) },
        Problem { exact: true, ..plain("ints", 1, [16, 32], 8) },
    ];
    all.iter().map(Problem::case).collect()
}
