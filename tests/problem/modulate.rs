//! `modulate`: `act(x * (1 + gamma) + beta)`.

use super::{ACTS, Case, F16, F32, Operand, Rng, TYPES, act, items, pitch};
use tessera::abi::params::{ACT_NONE, ModulateParams};
use tessera::abi::{Params, Types};

struct Problem {
    name: String,
    pixels: usize,
    c: usize,
    act: u32,
    types: Types,
    exact: bool,
    narrows: bool,
}

impl Problem {
    fn plain(name: &str, pixels: usize, c: usize) -> Problem {
        Problem { name: name.into(), pixels, c, act: ACT_NONE, types: F32, exact: false, narrows: false }
    }

    fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let (p, pg, t) = (pitch(self.c), pitch(2 * self.c), self.types.x);
        let x = rng.matrix(self.pixels, self.c, p, self.exact, if self.narrows { 60_000.0 } else { 2.0 }, t);
        let gb = rng.matrix(self.pixels, 2 * self.c, pg, self.exact, 1.5, t);
        let mut expected = vec![0.0; self.pixels * p];
        for (i, y) in expected.chunks_exact_mut(p).enumerate() {
            for k in 0..self.c {
                let (gamma, beta) = (gb[i * pg + k], gb[i * pg + self.c + k]);
                y[k] = act(self.act, x[i * p + k] * (1.0 + gamma) + beta);
            }
        }
        let params = ModulateParams {
            pixels: self.pixels as u32,
            c: self.c as u32,
            pitch: p as u32,
            pitch_gb: pg as u32,
            act: self.act,
            ..ModulateParams::default()
        };
        Case {
            name: self.name.clone(),
            params: Params::Modulate(params),
            types: self.types,
            items: items(1),
            operands: vec![
                Some(Operand::Data(x, t)),
                Some(Operand::Data(gb, t)),
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
        Problem { exact: true, ..plain("ints", 37, 16) },
        Problem { exact: true, ..plain("ints off the granularity", 37, 13) },
        Problem { exact: true, ..plain("ints of four", 37, 4) },
        Problem { exact: true, types: F16, ..plain("ints f16", 37, 5) },
        plain("one", 1, 1),
        plain("large", 4099, 64),
        plain("large and odd", 2051, 30),
        Problem { narrows: true, types: F16, ..plain("overflows f16", 40, 8) },
    ];
    all.extend(ACTS.iter().map(|(name, code)| Problem { act: *code, ..plain(&format!("act {name}"), 67, 20) }));
    for types in TYPES {
        let name = format!("types {} {}", types.x.name(), types.y.name());
        all.push(Problem { types, ..plain(&name, 67, 24) });
        all.push(Problem { types, ..plain(&format!("{name} odd"), 67, 21) });
    }
    all.iter().map(Problem::case).collect()
}
