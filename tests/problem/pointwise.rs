//! `pointwise`: linear combination, constant, activation, bounds, channel slice, table coefficients.

use super::{ACTS, Case, F16, F32, Operand, Rng, TABLE_ROWS, TYPES, act, items, pitch};
use tessera::abi::params::{ACT_NONE, PointwiseParams};
use tessera::abi::{Params, Types};
use tessera::graph::DType;

struct Problem {
    name: String,
    n: usize,
    pixels: usize,
    c: usize,
    /// Channels of `a` and the first that is taken.
    ca: usize,
    offset: usize,
    b: bool,
    table: bool,
    factors: [f32; 3],
    clamp: Option<[f32; 2]>,
    act: u32,
    types: Types,
    exact: bool,
    narrows: bool,
}

impl Problem {
    fn plain(name: &str, n: usize, pixels: usize, c: usize) -> Problem {
        Problem {
            name: name.into(),
            n,
            pixels,
            c,
            ca: c,
            offset: 0,
            b: false,
            table: false,
            factors: [1.0, 1.0, 0.0],
            clamp: None,
            act: ACT_NONE,
            types: F32,
            exact: false,
            narrows: false,
        }
    }

    fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let (pa, py, t) = (pitch(self.ca), pitch(self.c), self.types.x);
        let scale = if self.narrows { 60_000.0 } else { 2.0 };
        let rows = self.n * self.pixels;
        let a = rng.matrix(rows, self.ca, pa, self.exact, scale, t);
        let b = self.b.then(|| rng.matrix(rows, self.c, py, self.exact, scale, t));
        let table = self.table.then(|| rng.matrix(TABLE_ROWS, 2, 8, self.exact, 1.0, DType::F32));
        let items = items(self.n);
        let [lo, hi] = self.clamp.unwrap_or([f32::NEG_INFINITY, f32::INFINITY]);
        let mut expected = vec![0.0; rows * py];
        for r in 0..rows {
            let row = items[r / self.pixels].step_row as usize * 8;
            let (alpha, beta) = match &table {
                Some(t) => (t[row], t[row + 1]),
                None => (f64::from(self.factors[0]), f64::from(self.factors[1])),
            };
            for j in 0..self.c {
                let mut v = alpha * a[r * pa + self.offset + j] + f64::from(self.factors[2]);
                if let Some(b) = &b {
                    v += beta * b[r * py + j];
                }
                expected[r * py + j] = act(self.act, v).max(f64::from(lo)).min(f64::from(hi));
            }
        }
        let params = PointwiseParams {
            n: self.n as u32,
            pixels: self.pixels as u32,
            c: self.c as u32,
            pitch_a: pa as u32,
            pitch_b: if self.b { py as u32 } else { 0 },
            pitch_y: py as u32,
            offset: self.offset as u32,
            act: self.act,
            alpha: self.factors[0],
            beta: self.factors[1],
            gamma: self.factors[2],
            lo,
            hi,
            parts: u32::from(self.b) | u32::from(self.table) << 1,
            ..PointwiseParams::default()
        };
        Case {
            name: self.name.clone(),
            params: Params::Pointwise(params),
            types: self.types,
            items,
            operands: vec![
                Some(Operand::Data(a, t)),
                b.map(|v| Operand::Data(v, t)),
                table.map(|v| Operand::Data(v, DType::F32)),
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
        Problem { exact: true, b: true, factors: [2.0, -3.0, 1.0], ..plain("ints", 2, 37, 13) },
        Problem { exact: true, ca: 24, offset: 11, ..plain("ints slice", 2, 37, 9) },
        Problem { exact: true, ca: 9, offset: 4, types: F16, ..plain("ints slice f16", 1, 37, 5) },
        Problem { exact: true, ca: 8, offset: 3, types: F16, ..plain("ints one channel", 1, 11, 1) },
        Problem { exact: true, b: true, table: true, ..plain("ints table", 3, 21, 5) },
        Problem { exact: true, table: true, ..plain("ints table without b", 3, 21, 5) },
        plain("one", 1, 1, 1),
        Problem { factors: [0.5, 1.0, 0.25], clamp: Some([-0.3, 0.4]), ..plain("clamp", 1, 300, 3) },
        // Pad channels stay zero even where gamma or the bounds would move them.
        Problem { factors: [1.0, 1.0, 5.0], clamp: Some([1.0, 9.0]), ..plain("gamma over pads", 2, 33, 3) },
        Problem { b: true, factors: [0.7, 1.3, -0.2], ..plain("large", 2, 4099, 24) },
        Problem { b: true, table: true, ..plain("table", 3, 513, 4) },
        Problem { narrows: true, types: F16, factors: [3.0, 0.0, 0.0], ..plain("overflows f16", 1, 40, 8) },
    ];
    all.extend(ACTS.iter().map(|(name, code)| Problem {
        act: *code,
        b: true,
        factors: [2.0, 3.0, 0.1],
        ..plain(&format!("act {name}"), 2, 67, 20)
    }));
    for types in TYPES {
        let name = format!("types {} {}", types.x.name(), types.y.name());
        all.push(Problem { types, b: true, ca: 24, offset: 1, ..plain(&name, 2, 67, 21) });
    }
    all.iter().map(Problem::case).collect()
}
