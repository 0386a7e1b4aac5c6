//! `norm_finalize`: merges partial statistics of a group's channels into (a, b) per channel.

use super::{Case, F32, MOMENTS, Operand, Rng, items, pitch, round};
use tessera::abi::Params;
use tessera::abi::params::NormFinalizeParams;
use tessera::graph::DType;

struct Problem {
    name: &'static str,
    n: usize,
    blocks: usize,
    c: [usize; 2],
    groups: usize,
    shift: f64,
    /// Blocks whose count is zero (outside `stats_rect`).
    empty: usize,
}

impl Problem {
    fn case(&self) -> Case {
        let mut rng = Rng::new(self.name);
        let [c1, c2] = self.c;
        let (p1, p2) = (pitch(c1), if c2 > 0 { pitch(c2) } else { 0 });
        let (total, ct) = (p1 + p2, c1 + c2);
        let position = |j: usize| if j < c1 { j } else { p1 + j - c1 };
        let mut partials = vec![0.0; self.n * self.blocks * MOMENTS * total];
        for (index, block) in partials.chunks_exact_mut(MOMENTS * total).enumerate() {
            let b = index % self.blocks;
            let count = match b {
                _ if b < self.empty => 0.0,
                _ if b + 1 == self.blocks => 100.0,
                _ => 256.0,
            };
            block[..total].fill(count);
            for j in (0..ct).map(position) {
                if count > 0.0 {
                    block[total + j] = round(rng.unit() + self.shift, DType::F32);
                    block[2 * total + j] = round((rng.unit() + 1.5) * count, DType::F32);
                }
            }
        }
        let half = pitch(ct);
        let affine = rng.matrix(2, ct, half, false, 1.0, DType::F32);
        let eps = 1e-5f32;
        let mut expected = vec![0.0; self.n * 2 * total];
        let per_group = ct / self.groups;
        for i in 0..self.n {
            for g in 0..self.groups {
                let channels: Vec<usize> = (g * per_group..(g + 1) * per_group).collect();
                let entries: Vec<[f64; 3]> = (0..self.blocks)
                    .flat_map(|b| channels.iter().map(move |&j| (b, j)))
                    .map(|(b, j)| {
                        let at = (i * self.blocks + b) * MOMENTS * total + position(j);
                        [partials[at], partials[at + total], partials[at + 2 * total]]
                    })
                    .collect();
                let count: f64 = entries.iter().map(|e| e[0]).sum();
                let mean = if count > 0.0 { entries.iter().map(|e| e[0] * e[1]).sum::<f64>() / count } else { 0.0 };
                let m2: f64 = entries.iter().map(|e| e[2] + e[0] * (e[1] - mean).powi(2)).sum();
                let var = if count > 0.0 { m2 / count } else { 0.0 };
                for j in channels {
                    let a = affine[j] / (var + f64::from(eps)).sqrt();
                    expected[i * 2 * total + position(j)] = a;
                    expected[(i * 2 + 1) * total + position(j)] = affine[half + j] - mean * a;
                }
            }
        }
        let params = NormFinalizeParams {
            n: self.n as u32,
            blocks: self.blocks as u32,
            c: c1 as u32,
            c2: c2 as u32,
            pitch_x: p1 as u32,
            pitch_x2: p2 as u32,
            groups: self.groups as u32,
            eps,
        };
        Case {
            name: self.name.into(),
            params: Params::NormFinalize(params),
            types: F32,
            items: items(self.n),
            operands: vec![
                Some(Operand::Data(partials, DType::F32)),
                Some(Operand::Data(affine, DType::F32)),
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
    let plain = |name, n, blocks, c, groups| Problem { name, n, blocks, c, groups, shift: 0.0, empty: 0 };
    let all = [
        plain("one block", 1, 1, [8, 0], 4),
        plain("one channel a group", 2, 3, [12, 0], 12),
        plain("one group", 1, 5, [20, 0], 1),
        plain("groups of three", 3, 2, [24, 0], 8),
        plain("many blocks", 1, 301, [32, 0], 8),
        plain("wide", 1, 4, [1280, 0], 32),
        plain("two sources", 2, 4, [20, 12], 8),
        // A group of 5 channels that spans both sources, and padding between them.
        plain("a group across sources", 1, 4, [13, 7], 4),
        Problem { shift: 50.0, ..plain("far from zero", 1, 9, [16, 0], 4) },
        Problem { empty: 2, ..plain("empty blocks", 2, 6, [16, 0], 4) },
        Problem { empty: 2, ..plain("nothing counted", 1, 2, [16, 0], 4) },
    ];
    all.iter().map(Problem::case).collect()
}
