//! `norm_apply`: `act(x * a + b)` per channel; two sources become one value without inner padding.

use super::{ACTS, Case, F16, F32, Operand, Rng, TYPES, act, items, pitch};
use tessera::abi::params::{ACT_NONE, ACT_SILU, NormApplyParams};
use tessera::abi::{Params, Types};
use tessera::graph::DType;

struct Problem {
    name: String,
    n: usize,
    pixels: usize,
    c: [usize; 2],
    act: u32,
    types: Types,
    exact: bool,
    narrows: bool,
}

impl Problem {
    fn plain(name: &str, n: usize, pixels: usize, c: usize, code: u32) -> Problem {
        Problem { name: name.into(), n, pixels, c: [c, 0], act: code, types: F32, exact: false, narrows: false }
    }

    fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let [c1, c2] = self.c;
        let (p1, p2, py) = (pitch(c1), if c2 > 0 { pitch(c2) } else { 0 }, pitch(c1 + c2));
        let total = p1 + p2;
        let t = self.types.x;
        let scale = if self.narrows { 60_000.0 } else { 3.0 };
        let x = rng.matrix(self.n * self.pixels, c1, p1, self.exact, scale, t);
        let x2 = (p2 > 0).then(|| rng.matrix(self.n * self.pixels, c2, p2, self.exact, scale, t));
        // Positions of pad channels hold numbers as well: they must not reach the output.
        let ab = rng.matrix(self.n * 2, total, total, self.exact, 2.0, DType::F32);
        let mut expected = vec![0.0; self.n * self.pixels * py];
        for i in 0..self.n {
            for p in 0..self.pixels {
                for j in 0..c1 + c2 {
                    let (v, at) = match &x2 {
                        Some(x2) if j >= c1 => (x2[(i * self.pixels + p) * p2 + j - c1], p1 + j - c1),
                        _ => (x[(i * self.pixels + p) * p1 + j], j),
                    };
                    let (a, b) = (ab[i * 2 * total + at], ab[(i * 2 + 1) * total + at]);
                    expected[(i * self.pixels + p) * py + j] = act(self.act, v * a + b);
                }
            }
        }
        let params = NormApplyParams {
            n: self.n as u32,
            pixels: self.pixels as u32,
            c: c1 as u32,
            c2: c2 as u32,
            pitch_x: p1 as u32,
            pitch_x2: p2 as u32,
            pitch_y: py as u32,
            act: self.act,
        };
        Case {
            name: self.name.clone(),
            params: Params::NormApply(params),
            types: self.types,
            items: items(self.n),
            operands: vec![
                Some(Operand::Data(x, t)),
                x2.map(|v| Operand::Data(v, t)),
                Some(Operand::Data(ab, DType::F32)),
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
        Problem { exact: true, ..plain("ints", 2, 35, 13, ACT_NONE) },
        Problem { exact: true, c: [5, 12], ..plain("ints two sources", 2, 35, 0, ACT_NONE) },
        plain("one", 1, 1, 1, ACT_SILU),
        plain("pixels past a tile", 3, 1025, 24, ACT_SILU),
        plain("wide", 1, 7, 1288, ACT_SILU),
        Problem { c: [20, 12], ..plain("two sources", 2, 77, 0, ACT_SILU) },
        Problem { c: [24, 8], ..plain("two sources unpadded", 1, 77, 0, ACT_SILU) },
        Problem { narrows: true, types: F16, ..plain("overflows f16", 1, 50, 8, ACT_NONE) },
    ];
    all.extend(ACTS.iter().map(|(name, code)| plain(&format!("act {name}"), 2, 67, 20, *code)));
    for types in TYPES {
        let name = format!("types {} {}", types.x.name(), types.y.name());
        all.push(Problem { types, ..plain(&name, 2, 67, 21, ACT_SILU) });
        all.push(Problem { types, c: [9, 18], ..plain(&format!("{name} two"), 1, 67, 0, ACT_SILU) });
    }
    all.iter().map(Problem::case).collect()
}
