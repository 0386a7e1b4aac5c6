//! `gemm`: rows of `x` by a packed weight, with bias, activation, GEGLU and residual.

use super::{ACTS, BF16, Case, F16, F16_F32, F32, Operand, Rng, TYPES, act, items, pitch};
use tessera::abi::params::{ACT_GELU, ACT_NONE, GemmParams};
use tessera::abi::{Params, Types};
use tessera::graph::DType;

/// A fully connected layer.
#[derive(Debug, Clone)]
pub struct Problem {
    pub name: String,
    pub m: usize,
    pub items: usize,
    pub k: usize,
    pub n: usize,
    pub act: u32,
    pub geglu: bool,
    pub residual: bool,
    pub types: Types,
    pub exact: bool,
    pub narrows: bool,
}

impl Problem {
    /// Without optional parts.
    pub fn plain(name: &str, m: usize, k: usize, n: usize) -> Problem {
        Problem {
            name: name.into(),
            m,
            items: 1,
            k,
            n,
            act: ACT_NONE,
            geglu: false,
            residual: false,
            types: F32,
            exact: false,
            narrows: false,
        }
    }

    /// Operands, parameters and the expected output.
    pub fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let (pk, pn) = (pitch(self.k), pitch(self.n));
        let columns = if self.geglu { 2 * pn } else { pn };
        let scale = if self.narrows { 60_000.0 } else { (3.0 / self.k as f64).sqrt() };
        let x = rng.matrix(self.m, self.k, pk, self.exact, 1.0, self.types.x);
        let mut weight = rng.matrix(self.k, columns, columns, self.exact, scale, self.types.w);
        weight.resize(pk * columns, 0.0);
        let mut bias = rng.matrix(1, columns, columns, self.exact, 1.0, DType::F32);
        // Zero the columns between n and its pitch, in the value half and in the gate half.
        for row in weight.chunks_exact_mut(pn).chain(bias.chunks_exact_mut(pn)) {
            row[self.n..].fill(0.0);
        }
        let residual = self.residual.then(|| rng.matrix(self.m, self.n, pn, self.exact, 1.0, self.types.y));
        let mut expected = vec![0.0; self.m * pn];
        for r in 0..self.m {
            let column = |j: usize| bias[j] + (0..pk).map(|i| x[r * pk + i] * weight[i * columns + j]).sum::<f64>();
            for j in 0..self.n {
                let v = if self.geglu { column(j) * act(ACT_GELU, column(pn + j)) } else { act(self.act, column(j)) };
                expected[r * pn + j] = v + residual.as_ref().map_or(0.0, |z| z[r * pn + j]);
            }
        }
        let params = GemmParams {
            m: self.m as u32,
            n: self.n as u32,
            k: pk as u32,
            pitch_y: pn as u32,
            act: self.act,
            parts: u32::from(self.geglu) | u32::from(self.residual) << 2,
            items: self.items as u32,
            ..GemmParams::default()
        };
        Case {
            name: self.name.clone(),
            params: Params::Gemm(params),
            types: self.types,
            items: items(self.items),
            operands: vec![
                Some(Operand::Data(x, self.types.x)),
                Some(Operand::Data(weight, self.types.w)),
                Some(Operand::Data(bias, DType::F32)),
                residual.map(|v| Operand::Data(v, self.types.y)),
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
        Problem { exact: true, ..plain("ints", 7, 11, 13) },
        Problem { exact: true, types: F16, residual: true, ..plain("ints f16", 33, 24, 40) },
        Problem { exact: true, residual: true, ..plain("ints residual", 65, 40, 5) },
        plain("one row", 1, 320, 1280),
        plain("one column", 19, 8, 1),
        plain("one", 1, 1, 1),
        plain("tall", 301, 64, 72),
        plain("tile edges", 64, 64, 64),
        plain("past tile edges", 65, 65, 65),
        plain("deep", 5, 1000, 24),
        Problem { geglu: true, ..plain("geglu", 37, 40, 44) },
        Problem { geglu: true, residual: true, ..plain("geglu residual", 130, 64, 96) },
        Problem { narrows: true, types: F16, ..plain("overflows f16", 9, 8, 8) },
    ];
    for (name, code) in ACTS {
        all.push(Problem { act: code, residual: true, ..plain(&format!("act {name}"), 21, 36, 20) });
    }
    for types in TYPES {
        let name = format!("types {} {} {}", types.x.name(), types.w.name(), types.y.name());
        all.push(Problem { types, residual: true, ..plain(&name, 45, 52, 36) });
        all.push(Problem { types, geglu: true, ..plain(&format!("{name} geglu"), 45, 52, 36) });
    }
    all.push(Problem { items: 2, residual: true, ..plain("items", 2 * 70, 72, 60) });
    // Half types past the edges of the largest tiles, in every direction.
    all.push(Problem { exact: true, types: F16, residual: true, ..plain("ints f16 wide", 130, 40, 120) });
    for types in [F16, F16_F32, BF16] {
        let name = format!("wide {} {}", types.x.name(), types.y.name());
        all.push(Problem { types, residual: true, ..plain(&name, 150, 136, 200) });
        all.push(Problem { types, geglu: true, residual: true, ..plain(&format!("{name} geglu"), 131, 72, 100) });
        all.push(Problem { types, act: ACT_GELU, ..plain(&format!("{name} deep"), 3, 1000, 24) });
        // One tile, K for several parts, with a rest.
        all.push(Problem { types, residual: true, ..plain(&format!("{name} one tile"), 100, 1160, 120) });
        all.push(Problem { types, geglu: true, ..plain(&format!("{name} one tile geglu"), 90, 1160, 60) });
        // Items that have parts alone as they have together.
        all.push(Problem { types, items: 3, residual: true, ..plain(&format!("{name} items"), 3 * 60, 1160, 120) });
        all.push(Problem { types, items: 3, geglu: true, ..plain(&format!("{name} items geglu"), 3 * 50, 1160, 60) });
        // More tiles than processors, K with a rest.
        all.push(Problem { types, residual: true, ..plain(&format!("{name} tall"), 520, 328, 248) });
        all.push(Problem { types, geglu: true, residual: true, ..plain(&format!("{name} tall geglu"), 400, 72, 116) });
    }
    all.iter().map(Problem::case).collect()
}
