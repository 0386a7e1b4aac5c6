//! `rearrange`: every move by its definition, forwards: each value of the input is put where it belongs.

use super::{Case, F32, Operand, Rng, TYPES, items, pitch};
use tessera::abi::params::RearrangeParams;
use tessera::abi::{Params, Types};
use tessera::graph::op::Rearrange;

struct Problem {
    name: String,
    /// Extent of the input.
    x: [usize; 4],
    op: Rearrange,
    types: Types,
    narrows: bool,
}

/// Where the value `(y, x, k)` of an input `[h, w, c]` goes: output extents, and the place if there is one.
fn place(op: &Rearrange, [h, w, c]: [usize; 3], [y, x, k]: [usize; 3]) -> ([usize; 3], Option<[usize; 3]>) {
    match *op {
        Rearrange::DepthToSpace { factor } => {
            let f = factor as usize;
            let (inner, sub) = (c / (f * f), k / (c / (f * f)));
            ([h * f, w * f, inner], Some([y * f + sub / f, x * f + sub % f, k % inner]))
        }
        Rearrange::SpaceToDepth { factor } => {
            let f = factor as usize;
            let sub = y % f * f + x % f;
            ([h / f, w / f, c * f * f], Some([y / f, x / f, sub * c + k]))
        }
        Rearrange::Windows { size } => {
            let s = size as usize;
            let across = w.div_ceil(s);
            ([h.div_ceil(s) * across, s * s, c], Some([y / s * across + x / s, y % s * s + x % s, k]))
        }
        Rearrange::Unwindows { size, to: [oh, ow] } => {
            let (s, oh, ow) = (size as usize, oh as usize, ow as usize);
            let across = ow.div_ceil(s);
            let (row, column) = (y / across * s + x / s, y % across * s + x % s);
            ([oh, ow, c], (row < oh && column < ow).then_some([row, column, k]))
        }
        Rearrange::Pixels { begin, size: [oh, ow] } => {
            let (oh, ow) = (oh as usize, ow as usize);
            let at = (y * w + x).checked_sub(begin as usize).filter(|&at| at < oh * ow);
            ([oh, ow, c], at.map(|at| [at / ow, at % ow, k]))
        }
        Rearrange::SplitChannels { parts } => {
            let p = parts as usize;
            let inner = c / p;
            ([h, w * p, inner], Some([y, x * p + k / inner, k % inner]))
        }
    }
}

impl Problem {
    fn case(&self) -> Case {
        let mut rng = Rng::new(&self.name);
        let [n, h, w, c] = self.x;
        let px = pitch(c);
        let scale = if self.narrows { 200_000.0 } else { 2.0 };
        let x = rng.matrix(n * h * w, c, px, false, scale, self.types.x);
        let ([oh, ow, oc], _) = place(&self.op, [h, w, c], [0; 3]);
        let py = pitch(oc);
        let mut expected = vec![0.0; n * oh * ow * py];
        for item in 0..n {
            for (at, pixel) in x[item * h * w * px..][..h * w * px].chunks_exact(px).enumerate() {
                for (k, &value) in pixel[..c].iter().enumerate() {
                    if let (_, Some([oy, ox, ok])) = place(&self.op, [h, w, c], [at / w, at % w, k]) {
                        expected[((item * oh + oy) * ow + ox) * py + ok] = value;
                    }
                }
            }
        }
        let (kind, size, across) = match self.op {
            Rearrange::DepthToSpace { factor } => (0, factor, 0),
            Rearrange::SpaceToDepth { factor } => (1, factor, 0),
            Rearrange::Windows { size } => (2, size, (w as u32).div_ceil(size)),
            Rearrange::Unwindows { size, to } => (3, size, to[1].div_ceil(size)),
            Rearrange::Pixels { begin, .. } => (4, begin, 0),
            Rearrange::SplitChannels { parts } => (5, parts, 0),
        };
        let [n, h, w, c_x, oh, ow, c, pitch_x, pitch_y] = [n, h, w, c, oh, ow, oc, px, py].map(|v| v as u32);
        let params = RearrangeParams { n, h, w, c_x, pitch_x, oh, ow, c, pitch_y, kind, size, across };
        Case {
            name: self.name.clone(),
            params: Params::Rearrange(params),
            types: self.types,
            items: items(n as usize),
            operands: vec![Some(Operand::Data(x, self.types.x)), Some(Operand::Output(expected.len(), self.types.y))],
            other_weights: Vec::new(),
            expected,
            // Between two types the store rounds.
            exact: self.types.x == self.types.y,
            narrows: self.narrows,
        }
    }
}

/// Moves of every kind, with channels on and off the granularity.
fn moves() -> Vec<(String, [usize; 4], Rearrange)> {
    let mut all = Vec::new();
    for (c, what) in [(1, "one channel"), (3, "three"), (4, "four"), (8, "eight"), (20, "twenty"), (40, "forty")] {
        all.extend([
            (format!("depth to space {what}"), [2, 5, 7, 4 * c], Rearrange::DepthToSpace { factor: 2 }),
            (format!("space to depth {what}"), [2, 6, 10, c], Rearrange::SpaceToDepth { factor: 2 }),
            (format!("windows {what}"), [2, 11, 9, c], Rearrange::Windows { size: 4 }),
            (format!("unwindows {what}"), [2, 9, 16, c], Rearrange::Unwindows { size: 4, to: [11, 9] }),
            (format!("pixels {what}"), [2, 1, 50, c], Rearrange::Pixels { begin: 1, size: [7, 7] }),
            (format!("split {what}"), [2, 3, 13, 3 * c], Rearrange::SplitChannels { parts: 3 }),
        ]);
    }
    all.extend([
        ("depth to space 4".into(), [1, 3, 4, 48], Rearrange::DepthToSpace { factor: 4 }),
        ("space to depth 14".into(), [1, 28, 42, 3], Rearrange::SpaceToDepth { factor: 14 }),
        ("one window of all".into(), [1, 5, 6, 16], Rearrange::Windows { size: 14 }),
        ("whole windows".into(), [1, 8, 12, 16], Rearrange::Windows { size: 4 }),
        ("windows of one".into(), [1, 3, 4, 16], Rearrange::Windows { size: 1 }),
        ("from one window".into(), [1, 1, 196, 16], Rearrange::Unwindows { size: 14, to: [5, 6] }),
        ("pixels from the first".into(), [2, 6, 8, 12], Rearrange::Pixels { begin: 0, size: [1, 48] }),
        ("pixels from the middle".into(), [1, 70, 9, 8], Rearrange::Pixels { begin: 100, size: [40, 3] }),
        ("large".into(), [1, 64, 96, 24], Rearrange::Windows { size: 14 }),
    ]);
    all
}

/// Every case.
pub fn cases() -> Vec<Case> {
    let mut all: Vec<Problem> =
        moves().into_iter().map(|(name, x, op)| Problem { name, x, op, types: F32, narrows: false }).collect();
    for types in TYPES {
        for (name, x, op) in moves().into_iter().take(24).skip(6) {
            let name = format!("{name} {} {}", types.x.name(), types.y.name());
            all.push(Problem { name, x, op, types, narrows: false });
        }
    }
    let types = super::F32_F16;
    let op = Rearrange::Windows { size: 2 };
    all.push(Problem { name: "overflows f16".into(), x: [1, 4, 4, 8], op, types, narrows: true });
    all.iter().map(Problem::case).collect()
}
