//! `resample`: weighted sums of neighbours along one axis.

use super::{BF16, Case, F16, F32, Operand, Rng, TYPES, items, pitch};
use tessera::abi::params::ResampleParams;
use tessera::abi::{Params, Types};
use tessera::graph::DType;

struct Problem {
    name: String,
    n: usize,
    h: usize,
    w: usize,
    c: usize,
    out: usize,
    columns: bool,
    taps: usize,
    /// A table for each item.
    per_item: bool,
    types: Types,
    exact: bool,
    narrows: bool,
}

impl Problem {
    fn plain(name: &str, [n, h, w, c]: [usize; 4], out: usize, columns: bool, taps: usize) -> Problem {
        let name = name.to_owned();
        Problem { name, n, h, w, c, out, columns, taps, per_item: false, types: F32, exact: false, narrows: false }
    }

    fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let (pc, pt, t) = (pitch(self.c), pitch(self.taps + 1), self.types.x);
        let scale = if self.narrows { 60_000.0 } else { 2.0 };
        let x = rng.matrix(self.n * self.h * self.w, self.c, pc, self.exact, scale, t);
        let tables = if self.per_item { self.n } else { 1 };
        let mut table = rng.matrix(tables * self.out, self.taps + 1, pt, self.exact, 1.0, DType::F32);
        let side = if self.columns { self.w } else { self.h };
        for (o, row) in table.chunks_exact_mut(pt).enumerate() {
            // Windows that begin before the picture, inside, and reach beyond it; some lie outside altogether.
            let at = (o % self.out * (side + 4) / self.out) as f64 - 3.0;
            row[0] = match o % 7 {
                5 => at - 1000.0,
                6 => at + 1e9,
                _ => (at + 4.0 * rng.unit()).round(),
            };
        }
        let (oh, ow) = if self.columns { (self.h, self.out) } else { (self.out, self.w) };
        let mut expected = vec![0.0; self.n * oh * ow * pc];
        for item in 0..self.n {
            for y in 0..oh {
                for xx in 0..ow {
                    let o = if self.columns { xx } else { y };
                    let row = &table[(if self.per_item { item * self.out } else { 0 } + o) * pt..][..pt];
                    for k in 0..self.c {
                        let at = |i: usize| {
                            let at = (row[0] + i as f64).clamp(0.0, side as f64 - 1.0) as usize;
                            let (r, c) = if self.columns { (y, at) } else { (at, xx) };
                            x[((item * self.h + r) * self.w + c) * pc + k]
                        };
                        let sum = (0..self.taps).map(|i| row[1 + i] * at(i)).sum();
                        expected[((item * oh + y) * ow + xx) * pc + k] = sum;
                    }
                }
            }
        }
        let params = ResampleParams {
            n: self.n as u32,
            h: self.h as u32,
            w: self.w as u32,
            pitch: pc as u32,
            out: self.out as u32,
            axis: u32::from(self.columns),
            taps: self.taps as u32,
            pitch_table: pt as u32,
            parts: u32::from(self.per_item),
            ..ResampleParams::default()
        };
        Case {
            name: self.name.clone(),
            params: Params::Resample(params),
            types: self.types,
            items: items(self.n),
            operands: vec![
                Some(Operand::Data(x, t)),
                Some(Operand::Data(table, DType::F32)),
                Some(Operand::Output(expected.len(), self.types.y)),
            ],
            other_weights: Vec::new(),
            expected,
            exact: self.exact,
            narrows: self.narrows,
        }
    }
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let plain = Problem::plain;
    let mut all = vec![
        Problem { exact: true, ..plain("ints rows", [2, 9, 7, 5], 23, false, 3) },
        Problem { exact: true, ..plain("ints columns", [2, 9, 7, 5], 23, true, 3) },
        Problem { exact: true, per_item: true, ..plain("ints rows per item", [3, 6, 5, 12], 4, false, 2) },
        Problem { exact: true, per_item: true, ..plain("ints columns per item", [3, 6, 5, 12], 4, true, 2) },
        Problem { exact: true, types: F16, ..plain("ints f16", [2, 5, 6, 9], 11, true, 1) },
        plain("one", [1, 1, 1, 1], 1, false, 1),
        plain("one pixel made many", [1, 1, 1, 3], 17, true, 4),
        plain("many made one", [1, 40, 3, 8], 1, false, 40),
        plain("five taps", [1, 12, 31, 24], 40, true, 5),
        plain("six taps", [1, 12, 31, 24], 7, false, 6),
        plain("a row longer than a block", [1, 5, 700, 8], 9, false, 4),
        plain("an output longer than a block", [1, 3, 200, 8], 1031, true, 4),
        plain("wide", [1, 7, 9, 300], 13, true, 2),
        Problem { narrows: true, types: F16, ..plain("overflows f16", [1, 8, 8, 8], 9, false, 16) },
    ];
    for types in TYPES {
        let name = format!("types {} {}", types.x.name(), types.y.name());
        all.push(Problem { types, ..plain(&format!("{name} rows"), [2, 11, 6, 21], 17, false, 4) });
        all.push(Problem { types, ..plain(&format!("{name} columns"), [2, 11, 6, 21], 17, true, 4) });
    }
    for types in [F16, BF16] {
        all.push(Problem {
            types,
            per_item: true,
            ..plain(&format!("per item {}", types.x.name()), [2, 8, 9, 40], 5, true, 3)
        });
    }
    all.iter().map(Problem::case).collect()
}
