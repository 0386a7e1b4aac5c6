//! `layer_norm`: every row normalised over its channels.

use super::{Case, F32, Operand, Rng, TYPES, items, pitch, round};
use tessera::abi::params::LayerNormParams;
use tessera::abi::{Params, Types};
use tessera::graph::DType;

struct Problem {
    name: String,
    rows: usize,
    c: usize,
    shift: f64,
    types: Types,
}

impl Problem {
    fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let (c, p, t) = (self.c, pitch(self.c), self.types.x);
        let mut x = rng.matrix(self.rows, c, p, false, 2.0, t);
        for row in x.chunks_exact_mut(p) {
            for v in &mut row[..c] {
                *v = round(*v + self.shift, t);
            }
        }
        let affine = rng.matrix(2, c, p, false, 1.0, DType::F32);
        let eps = 1e-5f32;
        let mut expected = vec![0.0; self.rows * p];
        for r in 0..self.rows {
            let row = &x[r * p..r * p + c];
            let mean = row.iter().sum::<f64>() / c as f64;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / c as f64;
            for j in 0..c {
                expected[r * p + j] = (row[j] - mean) / (var + f64::from(eps)).sqrt() * affine[j] + affine[p + j];
            }
        }
        let params = LayerNormParams { rows: self.rows as u32, c: c as u32, pitch: p as u32, eps };
        Case {
            name: self.name.clone(),
            params: Params::LayerNorm(params),
            types: self.types,
            items: items(1),
            operands: vec![
                Some(Operand::Data(x, t)),
                Some(Operand::Data(affine, DType::F32)),
                Some(Operand::Output(expected.len(), self.types.y)),
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
    let plain = |name: &str, rows, c| Problem { name: name.into(), rows, c, shift: 0.0, types: F32 };
    let mut all = vec![
        plain("one channel", 3, 1),
        plain("odd", 19, 13),
        plain("one row", 1, 320),
        plain("many rows", 257, 40),
        plain("wide", 5, 1280),
        plain("text encoder", 77, 1024),
        Problem { shift: 60.0, ..plain("far from zero", 9, 100) },
    ];
    for types in TYPES {
        let name = format!("types {} {}", types.x.name(), types.y.name());
        all.push(Problem { types, ..plain(&name, 33, 52) });
    }
    all.iter().map(Problem::case).collect()
}
