//! `conv2d`: direct convolution over the zero-padded, optionally doubled, concatenated input.

use super::{
    ACTS, BF16, Case, F16, F16_F32, F32, MOMENTS, Operand, Rng, TABLE_ROWS, TYPES, act, group_norm_stats, items, pitch,
    round,
};
use tessera::abi::params::{ACT_NONE, ACT_SILU, Conv2dParams, PRODUCT_BLOCK, STATISTICS};
use tessera::abi::table::WeightForm;
use tessera::abi::{Item, Params, Types};
use tessera::graph::DType;

/// A convolution in the field's own terms; [`Problem::case`] lays it out.
#[derive(Debug, Clone)]
pub struct Problem {
    pub name: String,
    pub n: usize,
    pub hw: [usize; 2],
    /// Channels of `x` and of `x2` (0 without it).
    pub c: [usize; 2],
    pub oc: usize,
    pub kernel: usize,
    pub stride: usize,
    /// top, left, bottom, right.
    pub pad: [usize; 4],
    /// Size of the doubled, cropped input.
    pub upsample: Option<[usize; 2]>,
    pub row_bias: bool,
    pub residual: bool,
    pub act: u32,
    pub types: Types,
    pub exact: bool,
    pub narrows: bool,
    /// Statistics of the result too, over these rectangles of the items; empty without.
    pub rects: Vec<[i32; 4]>,
}

impl Problem {
    /// A 3x3 convolution of padding 1 without optional parts.
    pub fn plain(name: &str, n: usize, hw: [usize; 2], c: usize, oc: usize) -> Problem {
        Problem {
            name: name.into(),
            n,
            hw,
            c: [c, 0],
            oc,
            kernel: 3,
            stride: 1,
            pad: [1; 4],
            upsample: None,
            row_bias: false,
            residual: false,
            act: ACT_NONE,
            types: F32,
            exact: false,
            narrows: false,
            rects: Vec::new(),
        }
    }

    /// The same with statistics of whole items and of parts of them.
    fn measured(self) -> Problem {
        let rects = [[0, 0, 32_768, 65_536], [0; 4], [21_845, 8_192, 49_152, 65_536]];
        Problem { rects: rects.into_iter().cycle().take(self.n).collect(), ..self }
    }

    /// Output rows and columns.
    pub fn out(&self) -> [usize; 2] {
        let [h, w] = self.upsample.unwrap_or(self.hw);
        [
            (h + self.pad[0] + self.pad[2] - self.kernel) / self.stride + 1,
            (w + self.pad[1] + self.pad[3] - self.kernel) / self.stride + 1,
        ]
    }

    /// Operands, parameters and the expected output.
    pub fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let ([h, w], [oh, ow], k) = (self.hw, self.out(), self.kernel);
        let (p1, p2, py) = (pitch(self.c[0]), if self.c[1] > 0 { pitch(self.c[1]) } else { 0 }, pitch(self.oc));
        let ct = self.c[0] + self.c[1];
        let x = rng.matrix(self.n * h * w, self.c[0], p1, self.exact, 1.0, self.types.x);
        let x2 = (p2 > 0).then(|| rng.matrix(self.n * h * w, self.c[1], p2, self.exact, 1.0, self.types.x));
        // The checkpoint's [out][in][kh][kw], scaled so that outputs are about 1 (or overflow f16).
        let scale = if self.narrows { 60_000.0 } else { (3.0 / (ct * k * k) as f64).sqrt() };
        let mut weight = rng.matrix(self.oc, ct * k * k, ct * k * k, self.exact, scale, self.types.w);
        if self.upsample.is_some() && !self.exact {
            // Folding adds up to four taps before they are rounded to the storage type; small multiples of a
            // power of two make that sum exact, so that folded and plain weights mean the same.
            let unit = 2f64.powi(scale.log2().floor() as i32 - 1);
            weight.iter_mut().for_each(|w| *w = rng.int() * unit);
        }
        let bias = rng.matrix(1, self.oc, py, self.exact, 1.0, DType::F32);
        // A pitch of its own: the table may be a slice of a larger one.
        let prb = py + 8;
        let row_bias = self.row_bias.then(|| rng.matrix(TABLE_ROWS, self.oc, prb, self.exact, 1.0, DType::F32));
        let residual = self.residual.then(|| rng.matrix(self.n * oh * ow, self.oc, py, self.exact, 1.0, self.types.y));
        let mut items = items(self.n);
        for (item, &rect) in items.iter_mut().zip(&self.rects) {
            item.stats_rect = rect;
        }

        // Value of the concatenated, doubled, zero-padded input; coordinates before padding is taken off.
        let [uh, uw] = self.upsample.unwrap_or(self.hw);
        let halve = usize::from(self.upsample.is_some());
        let at = |i: usize, y: isize, xx: isize, c: usize| -> f64 {
            if y < 0 || xx < 0 || y >= uh as isize || xx >= uw as isize {
                return 0.0;
            }
            let pixel = (i * h + (y as usize >> halve)) * w + (xx as usize >> halve);
            if c < self.c[0] { x[pixel * p1 + c] } else { x2.as_ref().map_or(0.0, |v| v[pixel * p2 + c - self.c[0]]) }
        };
        let mut expected = vec![0.0; self.n * oh * ow * py];
        for i in 0..self.n {
            for oy in 0..oh {
                for ox in 0..ow {
                    for o in 0..self.oc {
                        let mut sum = bias[o];
                        for ky in 0..k {
                            for kx in 0..k {
                                let y = (oy * self.stride + ky) as isize - self.pad[0] as isize;
                                let xx = (ox * self.stride + kx) as isize - self.pad[1] as isize;
                                for c in 0..ct {
                                    sum += at(i, y, xx, c) * weight[((o * ct + c) * k + ky) * k + kx];
                                }
                            }
                        }
                        if let Some(table) = &row_bias {
                            sum += table[items[i].step_row as usize * prb + o];
                        }
                        let at = ((i * oh + oy) * ow + ox) * py + o;
                        expected[at] = act(self.act, sum) + residual.as_ref().map_or(0.0, |r| r[at]);
                    }
                }
            }
        }

        let params = Conv2dParams {
            n: self.n as u32,
            h: h as u32,
            w: w as u32,
            pitch_x: p1 as u32,
            pitch_x2: p2 as u32,
            oh: oh as u32,
            ow: ow as u32,
            oc: self.oc as u32,
            pitch_y: py as u32,
            kernel: k as u32,
            stride: self.stride as u32,
            pad_top: self.pad[0] as u32,
            pad_left: self.pad[1] as u32,
            upsample: u32::from(self.upsample.is_some()),
            act: self.act,
            parts: u32::from(p2 > 0)
                | u32::from(self.row_bias) << 1
                | u32::from(self.residual) << 2
                | if self.rects.is_empty() { 0 } else { STATISTICS },
            pitch_row_bias: if self.row_bias { prb as u32 } else { 0 },
            ..Conv2dParams::default()
        };
        let mut other_weights = Vec::new();
        if self.upsample.is_some() && k == 3 && p2 == 0 {
            let folded = pack_up2x2(&weight, self.oc, ct).iter().map(|&v| round(v, self.types.w)).collect();
            other_weights.push((WeightForm::Up2x2, Operand::Data(folded, self.types.w)));
        }
        let kn = pack_kn(&weight, self.oc, self.c, k);
        let blocks = self.n * oh * ow / PRODUCT_BLOCK as usize;
        let statistics = (!self.rects.is_empty()).then_some(Operand::Output(blocks * MOMENTS * py, DType::F32));
        Case {
            name: self.name.clone(),
            params: Params::Conv2d(params),
            types: self.types,
            items,
            operands: vec![
                Some(Operand::Data(x, self.types.x)),
                x2.map(|v| Operand::Data(v, self.types.x)),
                Some(Operand::Data(kn, self.types.w)),
                Some(Operand::Data(bias, DType::F32)),
                row_bias.map(|v| Operand::Data(v, DType::F32)),
                residual.map(|v| Operand::Data(v, self.types.y)),
                Some(Operand::Output(expected.len(), self.types.y)),
                None,
                statistics,
            ],
            other_weights,
            expected,
            exact: self.exact,
            narrows: self.narrows,
        }
    }
}

/// What a launch's statistics must be, its result being `y` and its weight in `form`.
pub fn statistics(p: &Conv2dParams, items: &[Item], y: &[f64], form: WeightForm) -> Vec<f64> {
    let [w, oh, ow, pitch] = [p.w, p.oh, p.ow, p.pitch_y].map(|v| v as usize);
    let rows: Vec<usize> = if form == WeightForm::Up2x2 {
        // Phase after phase, the input's pixels in order.
        let phase = |f: usize| (0..p.h as usize * w).map(move |i| (2 * (i / w) + f / 2) * ow + 2 * (i % w) + f % 2);
        (0..4).flat_map(phase).collect()
    } else {
        (0..oh * ow).collect()
    };
    let blocks: Vec<Vec<usize>> = rows.chunks(PRODUCT_BLOCK as usize).map(<[usize]>::to_vec).collect();
    group_norm_stats::moments(items, [oh, ow], &blocks, pitch, |i, at, c| y[(i * oh * ow + at) * pitch + c])
}

/// `Packing::ConvKn` of `[out][c0 + c1][k][k]`.
pub fn pack_kn(weight: &[f64], oc: usize, c: [usize; 2], k: usize) -> Vec<f64> {
    let (ct, py) = (c[0] + c[1], pitch(oc));
    let p = [pitch(c[0]), if c[1] > 0 { pitch(c[1]) } else { 0 }];
    let mut out = vec![0.0; k * k * (p[0] + p[1]) * py];
    for tap in 0..k * k {
        for j in 0..ct {
            let row = tap * (p[0] + p[1]) + if j < c[0] { j } else { p[0] + j - c[0] };
            for o in 0..oc {
                out[row * py + o] = weight[(o * ct + j) * k * k + tap];
            }
        }
    }
    out
}

/// `Packing::ConvUp2x2` of `[out][in][3][3]`: output row `2q + a` of the doubled picture reads doubled rows
/// `2q + a - 1 ..= 2q + a + 1`, which are input rows `q - 1 + a` (tap 0) and `q + a` (tap 1).
pub fn pack_up2x2(weight: &[f64], oc: usize, ic: usize) -> Vec<f64> {
    let (pi, py) = (pitch(ic), pitch(oc));
    let mut out = vec![0.0; 16 * pi * py];
    let tap = |phase: usize, t: usize| (phase + t).div_ceil(2) - phase;
    for (phase, (a, b)) in [(0, 0), (0, 1), (1, 0), (1, 1)].into_iter().enumerate() {
        for (ky, kx) in (0..9).map(|t| (t / 3, t % 3)) {
            let (i, j) = (tap(a, ky), tap(b, kx));
            for c in 0..ic {
                for o in 0..oc {
                    out[((phase * 4 + i * 2 + j) * pi + c) * py + o] += weight[((o * ic + c) * 3 + ky) * 3 + kx];
                }
            }
        }
    }
    out
}

/// Every case.
pub fn cases() -> Vec<Case> {
    problems().iter().map(Problem::case).collect()
}

fn problems() -> Vec<Problem> {
    let plain = Problem::plain;
    let mut all = vec![
        // Index logic: integers, so that any wrong element shows exactly.
        Problem { exact: true, ..plain("ints 3x3", 2, [5, 7], 11, 13) },
        Problem { exact: true, types: F16, ..plain("ints 3x3 f16", 1, [6, 9], 16, 24) },
        Problem { exact: true, kernel: 1, pad: [0; 4], ..plain("ints 1x1", 3, [3, 5], 9, 17) },
        Problem { exact: true, stride: 2, ..plain("ints stride 2", 1, [9, 11], 5, 8) },
        Problem { exact: true, stride: 2, pad: [0, 0, 1, 1], ..plain("ints stride 2 pad below", 2, [8, 6], 4, 5) },
        Problem { exact: true, pad: [2, 0, 1, 1], ..plain("ints lopsided padding", 1, [5, 6], 3, 4) },
        Problem { exact: true, upsample: Some([10, 14]), ..plain("ints upsample", 2, [5, 7], 6, 10) },
        Problem { exact: true, upsample: Some([9, 13]), ..plain("ints upsample odd crop", 1, [5, 7], 6, 10) },
        Problem { exact: true, upsample: Some([9, 14]), ..plain("ints upsample one odd side", 1, [5, 7], 8, 8) },
        Problem { exact: true, c: [5, 12], ..plain("ints two sources", 2, [4, 7], 5, 9) },
        Problem {
            exact: true,
            c: [8, 16],
            row_bias: true,
            residual: true,
            ..plain("ints all parts", 3, [5, 5], 8, 12)
        },
        // Shapes at the edges of tiles.
        plain("one pixel", 1, [1, 1], 8, 8),
        plain("one row", 1, [1, 37], 16, 16),
        plain("one column", 2, [33, 1], 8, 8),
        plain("one channel", 1, [6, 6], 1, 1),
        plain("3 to 16 wide", 1, [7, 67], 3, 16),
        plain("16 to 16", 1, [19, 45], 16, 16),
        plain("16 to 3", 1, [17, 34], 16, 3),
        plain("32 to 32", 1, [18, 35], 32, 32),
        plain("64 to 64", 2, [9, 33], 64, 64),
        plain("48 to 40", 1, [13, 21], 48, 40),
        plain("wide channels", 1, [6, 5], 264, 136),
        Problem { upsample: Some([36, 68]), ..plain("upsample 16 to 16", 1, [18, 34], 16, 16) },
        Problem { upsample: Some([20, 22]), ..plain("upsample 32 to 64", 2, [10, 11], 32, 64) },
        Problem { stride: 2, pad: [0, 0, 1, 1], ..plain("stride 2 16 to 32", 1, [34, 30], 16, 32) },
        Problem { stride: 2, ..plain("stride 2 64 to 64", 1, [15, 17], 64, 64) },
        Problem { kernel: 1, pad: [0; 4], c: [40, 24], ..plain("1x1 two sources", 2, [7, 9], 40, 48) },
        Problem { kernel: 1, stride: 2, pad: [0; 4], ..plain("1x1 stride 2", 1, [7, 9], 8, 8) },
        Problem { c: [32, 16], residual: true, ..plain("3x3 two sources", 2, [11, 13], 32, 32) },
        Problem { narrows: true, types: F16, ..plain("overflows f16", 1, [4, 4], 8, 8) },
    ];
    for (name, code) in ACTS {
        all.push(Problem {
            act: code,
            residual: true,
            row_bias: true,
            ..plain(&format!("act {name}"), 2, [5, 6], 12, 20)
        });
    }
    for types in TYPES {
        let name = format!("types {} {} {}", types.x.name(), types.w.name(), types.y.name());
        all.push(Problem { types, residual: true, row_bias: true, act: ACT_SILU, ..plain(&name, 2, [7, 9], 20, 28) });
        all.push(Problem { types, upsample: Some([14, 18]), ..plain(&format!("{name} up"), 1, [7, 9], 20, 28) });
        all.push(Problem { types, c: [10, 7], ..plain(&format!("{name} two"), 1, [7, 9], 10, 28) });
        all.push(Problem { types, ..plain(&format!("{name} small"), 1, [7, 40], 16, 16) });
        all.push(Problem { types, kernel: 1, pad: [0; 4], ..plain(&format!("{name} 1x1"), 1, [7, 9], 24, 12) });
    }
    // Past the edges of the largest tiles, in every direction.
    let ints = plain("ints f16 wide", 3, [7, 9], 16, 120);
    all.push(Problem { exact: true, types: F16, c: [8, 16], row_bias: true, residual: true, ..ints });
    let small = plain("ints f32 wide", 3, [7, 9], 16, 120);
    all.push(Problem { exact: true, c: [8, 16], row_bias: true, residual: true, ..small });
    let doubled = plain("ints f16 wide up", 2, [9, 8], 8, 72);
    all.push(Problem { exact: true, types: F16, upsample: Some([18, 16]), row_bias: true, residual: true, ..doubled });
    // Launches that the tensor memory accelerator can be told of: whole blocks of 64 channels, and more tiles than processors.
    let two = plain("ints f16 blocks two", 3, [9, 11], 64, 104);
    all.push(Problem { exact: true, types: F16, c: [64, 64], row_bias: true, residual: true, ..two });
    let up = plain("ints f16 blocks up", 2, [11, 13], 64, 104);
    all.push(Problem { exact: true, types: F16, upsample: Some([22, 26]), row_bias: true, residual: true, ..up });
    let up = plain("ints f16 large blocks up", 2, [16, 16], 64, 104);
    all.push(Problem { exact: true, types: F16, upsample: Some([32, 32]), ..up });
    let halved = plain("ints f16 blocks half", 2, [24, 26], 64, 112);
    all.push(Problem { exact: true, types: F16, stride: 2, pad: [0, 0, 1, 1], ..halved });
    all.push(Problem { exact: true, types: F16, stride: 2, ..plain("ints f16 blocks odd half", 1, [33, 35], 64, 128) });
    for types in [F16, F16_F32, BF16] {
        let name = format!("blocks {} {}", types.x.name(), types.y.name());
        all.push(Problem { types, act: ACT_SILU, ..plain(&name, 1, [3, 97], 64, 128) });
        let deep = plain(&format!("{name} deep"), 1, [9, 11], 64, 104);
        all.push(Problem { types, c: [64, 128], row_bias: true, residual: true, ..deep });
        let items = plain(&format!("{name} items"), 3, [9, 7], 128, 104);
        all.push(Problem { types, residual: true, ..items });
        let one = plain(&format!("{name} 1x1"), 5, [8, 13], 64, 208);
        all.push(Problem { types, kernel: 1, pad: [0; 4], c: [64, 128], residual: true, ..one });
    }
    for types in [F16, F16_F32, BF16, F32] {
        let name = format!("wide {} {}", types.x.name(), types.y.name());
        all.push(Problem { types, c: [24, 9], residual: true, ..plain(&name, 1, [13, 11], 24, 120) });
        all.push(Problem { types, upsample: Some([10, 54]), ..plain(&format!("{name} up"), 1, [5, 27], 16, 72) });
        all.push(Problem {
            types,
            stride: 2,
            pad: [0, 0, 1, 1],
            ..plain(&format!("{name} half"), 2, [18, 16], 16, 72)
        });
        all.push(Problem { types, kernel: 1, pad: [0; 4], ..plain(&format!("{name} 1x1"), 2, [9, 15], 40, 200) });
    }
    // With statistics: items, and phases of a doubled input, of whole blocks of rows, over more than one tile both ways.
    for types in [F16, BF16, F32] {
        let name = format!("measured {}", types.x.name());
        let all_parts = Problem { types, row_bias: true, residual: true, ..plain(&name, 3, [16, 16], 16, 136) };
        all.push(Problem { act: ACT_SILU, ..all_parts }.measured());
        all.push(Problem { types, ..plain(&format!("{name} narrow"), 2, [8, 16], 24, 61) }.measured());
        let up = plain(&format!("{name} up"), 2, [16, 8], 16, 72);
        all.push(Problem { types, upsample: Some([32, 16]), ..up }.measured());
        // For the tensor memory accelerator, of both sizes of tiles.
        all.push(Problem { types, ..plain(&format!("{name} blocks"), 3, [16, 16], 64, 104) }.measured());
        all.push(
            Problem { types, c: [64, 64], ..plain(&format!("{name} few blocks"), 1, [24, 16], 64, 128) }.measured(),
        );
        let up = plain(&format!("{name} blocks up"), 2, [16, 16], 64, 104);
        all.push(Problem { types, upsample: Some([32, 32]), ..up }.measured());
        let half = plain(&format!("{name} half"), 2, [32, 16], 64, 112);
        all.push(Problem { types, stride: 2, pad: [0, 0, 1, 1], ..half }.measured());
    }
    all
}
