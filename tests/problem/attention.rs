//! `attention`: softmax(scale q k^T) v per head, written as the definition says.

use super::{BF16, Case, F16, F32, Operand, Rng, TABLE_ROWS, TYPES, items, pitch};
use tessera::abi::params::AttentionParams;
use tessera::abi::{Params, Types};

/// An attention layer.
#[derive(Debug, Clone)]
pub struct Problem {
    pub name: String,
    pub n: usize,
    pub queries: usize,
    pub keys: usize,
    pub heads: usize,
    pub head_dim: usize,
    pub causal: bool,
    /// Keys and values come from a table over contexts.
    pub context: bool,
    /// Keys that count of each item, in turn (0: all); none where all count.
    pub counts: &'static [u32],
    /// Queries, keys and values are channels of one tensor.
    pub fused: bool,
    /// Extent of the tokens, where relative positions count.
    pub relative: Option<[usize; 2]>,
    /// Size of the scores before the softmax; large values make it nearly one-hot.
    pub spread: f64,
    pub types: Types,
}

impl Problem {
    /// Self attention from three tensors.
    pub fn plain(name: &str, n: usize, queries: usize, keys: usize, heads: usize, head_dim: usize) -> Problem {
        Problem {
            name: name.into(),
            n,
            queries,
            keys,
            heads,
            head_dim,
            causal: false,
            context: false,
            counts: &[],
            fused: false,
            relative: None,
            spread: 1.0,
            types: F32,
        }
    }

    /// Operands, parameters and the expected output.
    pub fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let width = self.heads * self.head_dim;
        let mut items = items(self.n);
        for (item, &keys) in items.iter_mut().zip(self.counts.iter().cycle()) {
            item.keys = keys;
        }
        let rows = if self.context { TABLE_ROWS } else { self.n };
        // Channels outside the heads hold numbers too: a wrong offset then shows.
        let (pq, pk, pv) =
            if self.fused { (3 * width, 3 * width, 3 * width) } else { (width, pitch(width + 8), pitch(2 * width)) };
        let (oq, ok, ov) = if self.fused { (0, width, 2 * width) } else { (0, 8, width) };
        let t = self.types.x;
        let q = rng.matrix(self.n * self.queries, pq, pq, false, 1.7 * self.spread, t);
        let (k, v) = if self.fused {
            (q.clone(), q.clone())
        } else {
            (rng.matrix(rows * self.keys, pk, pk, false, 1.7, t), rng.matrix(rows * self.keys, pv, pv, false, 1.0, t))
        };
        let [rh, rw] = self.relative.unwrap_or_default();
        let rel_c = (2 * (rh + rw)).saturating_sub(2);
        let pr = pitch(rel_c.max(1));
        let rel = rng.matrix(self.n * self.queries * self.heads, rel_c, pr, false, 2.0, t);
        let lift = |item: usize, query: usize, head: usize, key: usize| match self.relative {
            None => 0.0,
            Some([h, w]) => {
                let r = &rel[((item * self.queries + query) * self.heads + head) * pr..][..pr];
                r[query / w + h - 1 - key / w] + r[2 * h - 1 + query % w + w - 1 - key % w]
            }
        };
        let scale = 1.0 / (self.head_dim as f32).sqrt();
        let py = pitch(width);
        let mut expected = vec![0.0; self.n * self.queries * py];
        for (i, item) in items.iter().enumerate() {
            let row = if self.context { item.ctx_row as usize } else { i };
            for query in 0..self.queries {
                for head in 0..self.heads {
                    let first = head * self.head_dim;
                    let counted = match item.keys as usize {
                        n if n > 0 && self.context => n,
                        _ => self.keys,
                    };
                    let visible = if self.causal { counted.min(query + 1) } else { counted };
                    let qs = &q[(i * self.queries + query) * pq + oq + first..][..self.head_dim];
                    let scores: Vec<f64> = (0..visible)
                        .map(|key| {
                            let ks = &k[(row * self.keys + key) * pk + ok + first..][..self.head_dim];
                            f64::from(scale) * qs.iter().zip(ks).map(|(a, b)| a * b).sum::<f64>()
                                + lift(i, query, head, key)
                        })
                        .collect();
                    let max = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                    let weights: Vec<f64> = scores.iter().map(|s| (s - max).exp()).collect();
                    let total: f64 = weights.iter().sum();
                    for d in 0..self.head_dim {
                        let sum: f64 = weights
                            .iter()
                            .enumerate()
                            .map(|(key, p)| p * v[(row * self.keys + key) * pv + ov + first + d])
                            .sum();
                        expected[(i * self.queries + query) * py + first + d] = sum / total;
                    }
                }
            }
        }
        let params = AttentionParams {
            n: self.n as u32,
            queries: self.queries as u32,
            keys: self.keys as u32,
            heads: self.heads as u32,
            head_dim: self.head_dim as u32,
            pitch_q: pq as u32,
            pitch_k: pk as u32,
            pitch_v: pv as u32,
            pitch_y: py as u32,
            offset_q: oq as u32,
            offset_k: ok as u32,
            offset_v: ov as u32,
            scale,
            parts: u32::from(self.causal) | u32::from(self.context) << 1 | u32::from(self.relative.is_some()) << 2,
            rel_h: rh as u32,
            rel_w: rw as u32,
        };
        let source = |v: Vec<f64>| if self.fused { Operand::Same(0) } else { Operand::Data(v, t) };
        Case {
            name: self.name.clone(),
            params: Params::Attention(params),
            types: self.types,
            items,
            operands: vec![
                Some(Operand::Data(q, t)),
                Some(source(k)),
                Some(source(v)),
                self.relative.map(|_| Operand::Data(rel, t)),
                Some(Operand::Output(expected.len(), self.types.y)),
                None,
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
    let mut all = vec![
        Problem { fused: true, ..plain("fused", 2, 35, 35, 3, 16) },
        Problem { context: true, ..plain("context", 3, 29, 77, 2, 40) },
        Problem { context: true, counts: &[5, 0, 70], ..plain("contexts of different lengths", 3, 29, 77, 2, 40) },
        Problem { context: true, counts: &[1, 64, 129], ..plain("lengths at borders of tiles", 3, 9, 193, 1, 16) },
        Problem { counts: &[3], ..plain("lengths are for contexts only", 2, 9, 11, 1, 8) },
        Problem { causal: true, fused: true, ..plain("causal", 2, 77, 77, 2, 64) },
        Problem { causal: true, fused: true, ..plain("causal past blocks", 1, 201, 201, 1, 16) },
        Problem { causal: true, ..plain("causal one token", 2, 1, 1, 2, 8) },
        Problem { fused: true, ..plain("image tower", 1, 257, 257, 2, 64) },
        Problem { spread: 40.0, ..plain("peaked", 1, 33, 65, 2, 24) },
        Problem { relative: Some([5, 7]), fused: true, ..plain("relative", 2, 35, 35, 3, 16) },
        Problem { relative: Some([14, 14]), ..plain("relative window", 2, 196, 196, 2, 64) },
        Problem { relative: Some([3, 43]), causal: true, ..plain("relative causal", 1, 129, 129, 1, 40) },
        Problem { relative: Some([1, 1]), ..plain("relative of one", 2, 1, 1, 2, 8) },
        plain("one token", 1, 1, 1, 1, 8),
        plain("one key", 2, 5, 1, 2, 8),
        plain("head 8", 1, 67, 131, 1, 8),
        plain("head 40", 1, 70, 130, 2, 40),
        plain("head 64", 1, 129, 129, 2, 64),
        plain("head 80", 1, 17, 19, 2, 80),
        plain("head 160", 1, 33, 35, 2, 160),
        plain("head 512", 1, 37, 41, 1, 512),
        plain("many keys", 1, 3, 1031, 1, 32),
    ];
    for types in TYPES {
        let name = format!("types {} {} {}", types.x.name(), types.w.name(), types.y.name());
        all.push(Problem { types, fused: true, ..plain(&name, 2, 37, 37, 2, 24) });
        all.push(Problem { types, context: true, ..plain(&format!("{name} context"), 2, 19, 77, 2, 40) });
        let relative = Some([6, 6]);
        all.push(Problem { types, relative, ..plain(&format!("{name} relative"), 2, 36, 36, 2, 64) });
    }
    // Half types with the heads of published networks.
    for types in [F16, BF16] {
        let plain = |what: &str, n, queries, keys, heads, head_dim| Problem {
            types,
            ..Problem::plain(&format!("{} {what}", types.x.name()), n, queries, keys, heads, head_dim)
        };
        all.extend([
            plain("head 40", 1, 133, 135, 2, 40),
            plain("head 64", 2, 129, 70, 2, 64),
            plain("head 80", 1, 17, 67, 2, 80),
            plain("head 160", 1, 70, 66, 2, 160),
            plain("head 512", 1, 9, 37, 1, 512),
            plain("head 64 past blocks", 2, 200, 300, 2, 64),
            plain("many keys", 1, 3, 519, 1, 64),
            plain("one key", 1, 5, 1, 1, 64),
            // Half of a block of 192 queries and more, which the tensor memory accelerator may bring.
            plain("many keys for many", 1, 97, 519, 1, 64),
            plain("one key for many", 2, 100, 1, 1, 64),
            Problem { fused: true, ..plain("wholly filled", 2, 192, 192, 2, 64) },
            Problem { spread: 40.0, ..plain("peaked for many", 1, 130, 65, 1, 64) },
            Problem { causal: true, fused: true, ..plain("causal", 1, 201, 201, 1, 64) },
            Problem { causal: true, fused: true, ..plain("causal wide", 1, 77, 77, 1, 160) },
            Problem { context: true, ..plain("context", 3, 29, 77, 2, 80) },
            Problem { context: true, counts: &[5, 0, 70], ..plain("lengths", 3, 29, 77, 2, 64) },
            Problem { context: true, counts: &[1, 33, 37], ..plain("lengths wide", 3, 9, 37, 1, 512) },
            Problem { spread: 40.0, ..plain("peaked", 1, 33, 65, 1, 64) },
        ]);
    }
    all.iter().map(Problem::case).collect()
}
