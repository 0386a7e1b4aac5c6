//! Evaluates a graph naively in f64, straight from the definitions of its ops: the oracle that stands
//! between a network's builder and the planner and kernels. Slow, and meant to be.

use std::collections::HashMap;
use tessera::graph::layout::Order;
use tessera::graph::op::{
    Attention, Axis, Conv2d, GroupNorm, LayerNorm, Linear, Pointwise, Rearrange, Resample, TimeEmbedding,
};
use tessera::graph::{Act, Graph, Lifetime, Op, Shape, ValueId, WeightId};

/// Which rows of the tables one batch element uses.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Rows {
    /// Row of the tables over steps.
    pub(crate) step: usize,
    /// Row of the tables over contexts.
    pub(crate) context: usize,
}

/// A value: its extents, its numbers without pitch padding, and its lifetime.
#[derive(Clone)]
struct Tensor {
    shape: Shape,
    data: Vec<f64>,
    lifetime: Lifetime,
}

impl Tensor {
    fn at(&self, n: usize, y: usize, x: usize, c: usize) -> f64 {
        let s = self.shape;
        self.data[((n * s.h as usize + y) * s.w as usize + x) * s.c as usize + c]
    }
}

struct Interpreter<'a> {
    graph: &'a Graph,
    weights: &'a dyn Fn(&str) -> Vec<f32>,
    items: &'a [Rows],
}

/// Runs `graph` on `inputs` (by name, NHWC) with one entry of `items` per batch element; returns every
/// value by name.
pub(crate) fn run(
    graph: &Graph,
    weights: &dyn Fn(&str) -> Vec<f32>,
    inputs: &HashMap<String, Vec<f32>>,
    items: &[Rows],
) -> HashMap<String, Vec<f64>> {
    let this = Interpreter { graph, weights, items };
    let mut values: HashMap<ValueId, Tensor> = HashMap::new();
    for node in &graph.nodes {
        let v = graph.value(node.output);
        let args: Vec<&Tensor> = node.inputs.iter().map(|i| &values[i]).collect();
        let data = match &node.op {
            Op::Input(_) => match graph.constants.iter().find(|(id, _)| *id == node.output) {
                Some((_, one)) => one.repeat(v.shape.n as usize).into_iter().map(f64::from).collect(),
                None => inputs[&v.name].iter().map(|&x| f64::from(x)).collect(),
            },
            Op::Conv2d(p) => this.conv(p, &args, v.shape),
            Op::Linear(p) => this.linear(p, &args),
            Op::GroupNorm(p) => this.group_norm(p, &args),
            Op::LayerNorm(p) => this.layer_norm(p, args[0]),
            Op::Attention(p) => this.attention(p, &args),
            Op::TimeEmbedding(p) => time_embedding(p, args[0]),
            Op::Pointwise(p) => this.pointwise(p, &args),
            Op::Slice { begin, channels } => slice(args[0], *begin as usize, *channels as usize),
            Op::Concat => concat(&args),
            Op::Upsample { size } => upsample(args[0], *size),
            Op::ChannelAffine(p) => channel_affine(p.act, args[0], args[1]),
            Op::ChannelMoments => channel_moments(args[0]),
            Op::Resample(p) => resample(p, args[0], args[1], v.shape),
            Op::Rearrange(p) => rearrange(p, args[0], v.shape),
            Op::Modulate(p) => modulate(p.act, args[0], args[1]),
        };
        assert_eq!(data.len() as u64, u64::from(v.shape.n) * v.shape.pixels() * u64::from(v.shape.c), "{}", v.name);
        values.insert(node.output, Tensor { shape: v.shape, data, lifetime: v.lifetime });
    }
    let mut named: HashMap<String, Vec<f64>> =
        values.iter().map(|(id, t)| (graph.value(*id).name.clone(), t.data.clone())).collect();
    // outputs last: an output may be called like an input
    named.extend(graph.outputs.iter().map(|(name, id)| (name.clone(), values[id].data.clone())));
    named
}

fn channel_affine(a: Act, x: &Tensor, ab: &Tensor) -> Vec<f64> {
    let (c, item) = (x.shape.c as usize, x.data.len() / x.shape.n as usize);
    let factors = |i: usize| i / item * 2 * c + i % c;
    x.data.iter().enumerate().map(|(i, v)| act(a, ab.data[factors(i)] * v + ab.data[factors(i) + c])).collect()
}

/// Of all pixels: the naive interpreter has no windows.
fn channel_moments(x: &Tensor) -> Vec<f64> {
    let (c, item) = (x.shape.c as usize, x.data.len() / x.shape.n as usize);
    let mut out = Vec::new();
    for block in x.data.chunks(item).flat_map(|item| item.chunks(256 * c)) {
        let count = (block.len() / c) as f64;
        let channel = |k: usize| block.iter().skip(k).step_by(c);
        let means: Vec<f64> = (0..c).map(|k| channel(k).sum::<f64>() / count).collect();
        out.extend(std::iter::repeat_n(count, c));
        out.extend(&means);
        out.extend((0..c).map(|k| channel(k).map(|v| (v - means[k]).powi(2)).sum::<f64>()));
    }
    out
}

fn act(a: Act, x: f64) -> f64 {
    match a {
        Act::None => x,
        Act::Silu => x / (1.0 + (-x).exp()),
        Act::Gelu => gelu(x),
        Act::QuickGelu => x / (1.0 + (-1.702 * x).exp()),
        Act::Relu => x.max(0.0),
        Act::LeakyRelu => x.max(0.0) + 0.1 * x.min(0.0),
    }
}

fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + erf(x * std::f64::consts::FRAC_1_SQRT_2))
}

/// The error function by its Taylor series: exact to f64 for the arguments that matter; beyond 6 it is
/// 1 to the last place.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    // erf(x) = 2/sqrt(pi) e^(-x^2) sum_n 2^n x^(2n+1) / (2n+1)!! : all terms of one sign
    let (mut term, mut sum, mut n) = (x, x, 0.0);
    while term.abs() > 1e-18 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    std::f64::consts::FRAC_2_SQRT_PI * (-x * x).exp() * sum
}

fn concat(args: &[&Tensor]) -> Vec<f64> {
    let channels: Vec<usize> = args.iter().map(|t| t.shape.c as usize).collect();
    let pixels = args[0].data.len() / channels[0];
    let rows = |p: usize| args.iter().zip(&channels).flat_map(move |(t, &c)| &t.data[p * c..(p + 1) * c]);
    (0..pixels).flat_map(rows).copied().collect()
}

fn slice(x: &Tensor, begin: usize, channels: usize) -> Vec<f64> {
    x.data.chunks(x.shape.c as usize).flat_map(|p| &p[begin..begin + channels]).copied().collect()
}

fn upsample(x: &Tensor, [h, w]: [u32; 2]) -> Vec<f64> {
    let s = x.shape;
    let mut out = Vec::new();
    for n in 0..s.n as usize {
        for y in 0..h as usize {
            for xx in 0..w as usize {
                out.extend((0..s.c as usize).map(|c| x.at(n, y / 2, xx / 2, c)));
            }
        }
    }
    out
}

fn resample(p: &Resample, x: &Tensor, table: &Tensor, out: Shape) -> Vec<f64> {
    let s = out;
    let mut y = Vec::new();
    for n in 0..s.n as usize {
        for (oy, ox) in (0..s.h as usize).flat_map(|oy| (0..s.w as usize).map(move |ox| (oy, ox))) {
            let (o, side) = if p.axis == Axis::Rows { (oy, x.shape.h) } else { (ox, x.shape.w) };
            let row = |i: usize| table.at(if table.shape.n == 1 { 0 } else { n }, 0, o, i);
            let at = |i: usize| (row(0) + i as f64).clamp(0.0, f64::from(side) - 1.0) as usize;
            let source = |i: usize| if p.axis == Axis::Rows { (at(i), ox) } else { (oy, at(i)) };
            y.extend((0..s.c as usize).map(|c| -> f64 {
                (0..p.taps as usize).map(|i| row(1 + i) * x.at(n, source(i).0, source(i).1, c)).sum()
            }));
        }
    }
    y
}

/// By its inverse: which input value an output value is.
fn rearrange(p: &Rearrange, x: &Tensor, out: Shape) -> Vec<f64> {
    let s = x.shape;
    let [h, w, c] = [out.h, out.w, out.c].map(|v| v as usize);
    let at = |oy: usize, ox: usize, k: usize| -> [usize; 3] {
        match *p {
            Rearrange::DepthToSpace { factor } => {
                let f = factor as usize;
                [oy / f, ox / f, (oy % f * f + ox % f) * c + k]
            }
            Rearrange::SpaceToDepth { factor } => {
                let (f, inner) = (factor as usize, s.c as usize);
                [oy * f + k / inner / f, ox * f + k / inner % f, k % inner]
            }
            Rearrange::Windows { size } => {
                let size = size as usize;
                let across = (s.w as usize).div_ceil(size);
                [oy / across * size + ox / size, oy % across * size + ox % size, k]
            }
            Rearrange::Unwindows { size, .. } => {
                let size = size as usize;
                [oy / size * w.div_ceil(size) + ox / size, oy % size * size + ox % size, k]
            }
            Rearrange::Pixels { begin, .. } => {
                let pixel = begin as usize + oy * w + ox;
                [pixel / s.w as usize, pixel % s.w as usize, k]
            }
            Rearrange::SplitChannels { parts } => [oy, ox / parts as usize, ox % parts as usize * c + k],
        }
    };
    let mut y = Vec::new();
    for n in 0..out.n as usize {
        for (oy, ox) in (0..h).flat_map(|oy| (0..w).map(move |ox| (oy, ox))) {
            y.extend((0..c).map(|k| match at(oy, ox, k) {
                [row, column, k] if row < s.h as usize && column < s.w as usize => x.at(n, row, column, k),
                _ => 0.0,
            }));
        }
    }
    y
}

fn modulate(a: Act, x: &Tensor, gb: &Tensor) -> Vec<f64> {
    let c = x.shape.c as usize;
    let pixels = x.data.chunks(c).zip(gb.data.chunks(2 * c));
    pixels.flat_map(|(x, gb)| (0..c).map(move |k| act(a, x[k] * (1.0 + gb[k]) + gb[c + k]))).collect()
}

fn time_embedding(p: &TimeEmbedding, t: &Tensor) -> Vec<f64> {
    let half = p.dim as usize / 2;
    let angles = |t: f64| -> Vec<f64> {
        let step = f64::from(p.max_period).ln() / (half as f64 - f64::from(p.freq_shift));
        (0..half).map(|i| t * (-step * i as f64).exp()).collect()
    };
    let row = |&t: &f64| {
        let a = angles(t);
        let (sin, cos): (Vec<f64>, Vec<f64>) = a.iter().map(|v| v.sin_cos()).unzip();
        if p.flip_sin_to_cos { [cos, sin].concat() } else { [sin, cos].concat() }
    };
    t.data.iter().flat_map(row).collect()
}

/// A tensor as its op takes it, from the definitions of the orders.
fn in_order(stored: Vec<f64>, order: Order, shape: &[u64]) -> Vec<f64> {
    let side: Vec<usize> = shape.iter().map(|&s| s as usize).collect();
    match order {
        Order::Stored => stored,
        Order::Repeated { times } => stored.repeat(times as usize),
        Order::Columns { begin, end, .. } => {
            let columns = begin as usize..end as usize;
            stored.chunks(side[1]).flat_map(|row| row[columns.clone()].to_vec()).collect()
        }
        Order::Patches => {
            let [out, c, p] = [side[0], side[1], side[2]];
            let all = (0..out).flat_map(|o| (0..p * p * c).map(move |i| (o, i / c, i % c)));
            all.map(|(o, at, k)| stored[(o * c + k) * p * p + at]).collect()
        }
        Order::Transposed { stride, padding } => {
            let ([input, out, k], s) = ([side[0], side[1], side[2]], stride as usize);
            let taps = if k == s { 1 } else { 3 };
            let mut to = Vec::new();
            for row in 0..s * s * out {
                let (phase, o) = (row / out, row % out);
                for (i, tap) in (0..input).flat_map(|i| (0..taps * taps).map(move |t| (i, t))) {
                    // Input pixel `y / s + tap - taps / 2` adds element `y + padding - s * pixel` to output row `y`.
                    let seen =
                        |d: usize, t: usize| d as i64 + i64::from(padding) - s as i64 * (t as i64 - taps as i64 / 2);
                    let (ky, kx) = (seen(phase / s, tap / taps), seen(phase % s, tap % taps));
                    let inside = |v: i64| (0..k as i64).contains(&v);
                    let at = |ky: i64, kx: i64| stored[((i * out + o) * k + ky as usize) * k + kx as usize];
                    to.push(if inside(ky) && inside(kx) { at(ky, kx) } else { 0.0 });
                }
            }
            to
        }
    }
}

impl Interpreter<'_> {
    fn weight(&self, id: WeightId) -> Vec<f64> {
        let decl = self.graph.weight(id);
        let stored: Vec<f64> = (self.weights)(&decl.name).into_iter().map(f64::from).collect();
        in_order(stored, decl.order, &decl.shape)
    }

    /// The table row of batch element `n`.
    fn step_row(&self, table: &Tensor, n: usize) -> usize {
        if table.shape.n == 1 { 0 } else { self.items[n].step }
    }

    fn conv(&self, p: &Conv2d, args: &[&Tensor], out: Shape) -> Vec<f64> {
        let mut next = args.iter().copied();
        let mut x = next.next().expect("x").clone();
        if p.second {
            let x2 = next.next().expect("x2");
            x.data = concat(&[&x, x2]);
            x.shape.c += x2.shape.c;
        }
        if let Some(size) = p.upsample {
            x.data = upsample(&x, size);
            (x.shape.h, x.shape.w) = (size[0], size[1]);
        }
        let table = p.row_bias.then(|| next.next().expect("row_bias"));
        let residual = p.residual.then(|| next.next().expect("residual"));
        let (w, bias) = (self.weight(p.weight), p.bias.map(|b| self.weight(b)));
        let (kh, kw, ci) = (p.kernel[0] as usize, p.kernel[1] as usize, x.shape.c as usize);
        let mut y = Vec::with_capacity(out.elements() as usize);
        for n in 0..out.n as usize {
            for oy in 0..out.h as usize {
                for ox in 0..out.w as usize {
                    for o in 0..out.c as usize {
                        let mut sum = bias.as_ref().map_or(0.0, |b| b[o]);
                        for ky in 0..kh {
                            for kx in 0..kw {
                                let iy = (oy * p.stride as usize + ky).checked_sub(p.padding.top as usize);
                                let ix = (ox * p.stride as usize + kx).checked_sub(p.padding.left as usize);
                                let (Some(iy), Some(ix)) = (iy, ix) else { continue };
                                if iy >= x.shape.h as usize || ix >= x.shape.w as usize {
                                    continue;
                                }
                                for i in 0..ci {
                                    sum += x.at(n, iy, ix, i) * w[((o * ci + i) * kh + ky) * kw + kx];
                                }
                            }
                        }
                        sum += table.map_or(0.0, |t| t.at(self.step_row(t, n), 0, 0, o));
                        y.push(act(p.act, sum) + residual.map_or(0.0, |r| r.at(n, oy, ox, o)));
                    }
                }
            }
        }
        y
    }

    fn linear(&self, p: &Linear, args: &[&Tensor]) -> Vec<f64> {
        let x = args[0];
        let w: Vec<f64> = p.weights.iter().flat_map(|&w| self.weight(w)).collect();
        let b: Vec<f64> = p.biases.iter().flat_map(|&b| self.weight(b)).collect();
        let (k, out) = (x.shape.c as usize, p.out_channels as usize);
        let mut y = Vec::new();
        for row in x.data.chunks(k) {
            let product = |o: usize| {
                let dot: f64 = row.iter().zip(&w[o * k..]).map(|(a, b)| a * b).sum();
                dot + b.get(o).copied().unwrap_or(0.0)
            };
            for o in 0..out {
                y.push(act(p.act, if p.geglu { product(o) * gelu(product(out + o)) } else { product(o) }));
            }
        }
        if p.residual {
            y.iter_mut().zip(&args[1].data).for_each(|(y, r)| *y += r);
        }
        y
    }

    fn group_norm(&self, p: &GroupNorm, args: &[&Tensor]) -> Vec<f64> {
        let c: usize = args.iter().map(|t| t.shape.c as usize).sum();
        let x = concat(args);
        let (gamma, beta) = (self.weight(p.weight), self.weight(p.bias));
        let per_group = c / p.groups as usize;
        let mut y = vec![0.0; x.len()];
        let item = x.len() / args[0].shape.n as usize;
        for (x, y) in x.chunks(item).zip(y.chunks_mut(item)) {
            for g in 0..p.groups as usize {
                let members: Vec<usize> = (0..item).filter(|i| i % c / per_group == g).collect();
                let mean = members.iter().map(|&i| x[i]).sum::<f64>() / members.len() as f64;
                let var = members.iter().map(|&i| (x[i] - mean).powi(2)).sum::<f64>() / members.len() as f64;
                for i in members {
                    let v = (x[i] - mean) / (var + f64::from(p.eps)).sqrt();
                    y[i] = act(p.act, v * gamma[i % c] + beta[i % c]);
                }
            }
        }
        y
    }

    fn layer_norm(&self, p: &LayerNorm, x: &Tensor) -> Vec<f64> {
        let (gamma, beta) = (self.weight(p.weight), self.weight(p.bias));
        let normalise = |row: &[f64]| -> Vec<f64> {
            let mean = row.iter().sum::<f64>() / row.len() as f64;
            let var = row.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / row.len() as f64;
            let s = 1.0 / (var + f64::from(p.eps)).sqrt();
            row.iter().enumerate().map(|(i, v)| (v - mean) * s * gamma[i] + beta[i]).collect()
        };
        x.data.chunks(x.shape.c as usize).flat_map(normalise).collect()
    }

    fn attention(&self, p: &Attention, args: &[&Tensor]) -> Vec<f64> {
        if p.rows {
            // Every row becomes an item of its own.
            let items = |t: &&Tensor| {
                let mut t = (*t).clone();
                (t.shape.n, t.shape.h) = (t.shape.n * t.shape.h, 1);
                t
            };
            let all: Vec<Tensor> = args.iter().map(items).collect();
            let p = Attention { rows: false, ..p.clone() };
            return self.attention(&p, &all.iter().collect::<Vec<_>>());
        }
        let (q, k, v) = (args[0], args[1], args[2]);
        let tokens = |t: &Tensor| t.shape.pixels() as usize;
        let token = |t: &Tensor, n: usize, i: usize, c: usize| t.data[(n * tokens(t) + i) * t.shape.c as usize + c];
        let dim = p.head_dim as usize;
        let mut y = Vec::new();
        for n in 0..q.shape.n as usize {
            let kn = if k.lifetime == Lifetime::Context { self.items[n].context } else { n };
            for i in 0..tokens(q) {
                for head in 0..p.heads as usize {
                    let seen = if p.causal { i + 1 } else { tokens(k) };
                    let at = |offset: u32, d: usize| offset as usize + head * dim + d;
                    let score = |j: usize| -> f64 {
                        let dot = |d| token(q, n, i, at(p.q_offset, d)) * token(k, kn, j, at(p.k_offset, d));
                        let product = f64::from(p.scale) * (0..dim).map(dot).sum::<f64>();
                        let Some([h, w]) = p.relative.map(|e| e.map(|v| v as usize)) else { return product };
                        let rel = args[3];
                        let c = rel.shape.c as usize;
                        let r = &rel.data[((n * tokens(q) + i) * p.heads as usize + head) * c..][..c];
                        product + r[i / w + h - 1 - j / w] + r[2 * h - 1 + i % w + w - 1 - j % w]
                    };
                    let scores: Vec<f64> = (0..seen).map(score).collect();
                    let top = scores.iter().copied().fold(f64::MIN, f64::max);
                    let e: Vec<f64> = scores.iter().map(|s| (s - top).exp()).collect();
                    let total: f64 = e.iter().sum();
                    for d in 0..dim {
                        let sum: f64 = e.iter().enumerate().map(|(j, e)| e * token(v, kn, j, at(p.v_offset, d))).sum();
                        y.push(sum / total);
                    }
                }
            }
        }
        y
    }

    fn pointwise(&self, p: &Pointwise, args: &[&Tensor]) -> Vec<f64> {
        let a = args[0];
        let b = p.beta.map(|_| args[1]);
        let table = p.table.then(|| args[args.len() - 1]);
        let item = a.data.len() / a.shape.n as usize;
        let value = |i: usize| {
            let (mut alpha, mut beta) = (f64::from(p.alpha), f64::from(p.beta.unwrap_or(0.0)));
            if let Some(t) = table {
                let row = self.step_row(t, i / item);
                (alpha, beta) = (t.at(row, 0, 0, 0), t.at(row, 0, 0, 1));
            }
            let y = act(p.act, alpha * a.data[i] + b.map_or(0.0, |b| beta * b.data[i]) + f64::from(p.gamma));
            p.clamp.map_or(y, |[lo, hi]| y.clamp(f64::from(lo), f64::from(hi)))
        };
        (0..a.data.len()).map(value).collect()
    }
}
