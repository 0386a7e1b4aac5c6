//! `time_embedding`: sines and cosines of a scalar per row.

use super::{Case, F32, Operand, items, pitch};
use tessera::abi::Params;
use tessera::abi::params::TimeEmbeddingParams;
use tessera::graph::DType;

struct Problem {
    name: &'static str,
    t: Vec<f64>,
    dim: usize,
    flip: bool,
    shift: f32,
}

impl Problem {
    fn case(&self) -> Case {
        let (rows, half, p) = (self.t.len(), self.dim / 2, pitch(self.dim));
        let mut t = vec![0.0; rows * 8];
        let mut expected = vec![0.0; rows * p];
        for (r, &value) in self.t.iter().enumerate() {
            t[r * 8] = value;
            for i in 0..half {
                let frequency = (-(10_000f64.ln()) * i as f64 / (half as f64 - f64::from(self.shift))).exp();
                let (sin, cos) = (value * frequency).sin_cos();
                let (first, second) = if self.flip { (cos, sin) } else { (sin, cos) };
                expected[r * p + i] = first;
                expected[r * p + half + i] = second;
            }
        }
        let params = TimeEmbeddingParams {
            rows: rows as u32,
            dim: self.dim as u32,
            pitch: p as u32,
            flip: u32::from(self.flip),
            shift: self.shift,
            max_period: 10_000.0,
            ..TimeEmbeddingParams::default()
        };
        Case {
            name: self.name.into(),
            params: Params::TimeEmbedding(params),
            types: F32,
            items: items(1),
            operands: vec![Some(Operand::Data(t, DType::F32)), Some(Operand::Output(expected.len(), DType::F32))],
            other_weights: Vec::new(),
            expected,
            exact: false,
            narrows: false,
        }
    }
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let plain = |name, t: &[f64], dim| Problem { name, t: t.to_vec(), dim, flip: true, shift: 0.0 };
    let all = [
        plain("sd", &[0.0, 1.0, 481.0, 999.0], 320),
        Problem { flip: false, ..plain("sines first", &[0.5, 7.0], 32) },
        Problem { shift: 1.0, ..plain("shift", &[3.0, 250.0, 761.0], 64) },
        plain("padded", &[20.0], 10),
    ];
    all.iter().map(Problem::case).collect()
}
