//! THE shape inference: one formula per op, used by the builder, the verifier, the planner and the
//! cpu kernels' assertions.

use super::layout;
use super::op::{Attention, Axis, Conv2d, Graph, Op, Rearrange, ValueId};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::limits;
use std::fmt;

/// NHWC extents.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Shape {
    /// Batch (items), or rows of a table.
    pub n: u32,
    /// Rows of pixels; 1 for token sequences.
    pub h: u32,
    /// Columns of pixels, or tokens.
    pub w: u32,
    /// Channels, without pitch padding.
    pub c: u32,
}

impl Shape {
    /// `[n, h, w, c]`.
    pub fn new(n: u32, h: u32, w: u32, c: u32) -> Shape {
        Shape { n, h, w, c }
    }

    /// `h * w`.
    pub fn pixels(self) -> u64 {
        u64::from(self.h) * u64::from(self.w)
    }

    /// Channels rounded up to the pitch.
    pub fn pitch(self) -> u32 {
        self.c.next_multiple_of(extent::CHANNEL_ALIGN as u32)
    }

    /// Stored elements, pitch padding included.
    pub fn elements(self) -> u64 {
        u64::from(self.n) * self.pixels() * u64::from(self.pitch())
    }

    /// The same extents with other channels.
    pub fn with_c(self, c: u32) -> Shape {
        Shape { c, ..self }
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}x{}x{}x{}", self.n, self.h, self.w, self.c)
    }
}

fn wrong(op: &Op, why: impl fmt::Display, inputs: &[Shape]) -> Error {
    let shapes: Vec<String> = inputs.iter().map(Shape::to_string).collect();
    Error::new(Kind::Internal, "graph", format!("{}: {why} (inputs {})", op.name(), shapes.join(", ")))
}

/// Output side of a convolution: `(side + before + after - kernel) / stride + 1`
/// (PyTorch `Conv2d`, dilation 1).
pub fn conv_side(side: u32, before: u32, after: u32, kernel: u32, stride: u32) -> Option<u32> {
    (side + before + after).checked_sub(kernel).map(|d| d / stride + 1)
}

fn conv(op: &Op, p: &Conv2d, inputs: &[Shape]) -> Result<Shape> {
    let x = inputs[0];
    let mut next = 1;
    if p.second {
        let x2 = inputs[next];
        next += 1;
        if (x2.n, x2.h, x2.w) != (x.n, x.h, x.w) {
            return Err(wrong(op, "the two sources differ in extent", inputs));
        }
    }
    let [h, w] = match p.upsample {
        None => [x.h, x.w],
        Some(s) => {
            if [s[0].div_ceil(2), s[1].div_ceil(2)] != [x.h, x.w] {
                return Err(wrong(op, format!("upsample to {}x{} does not double the input", s[0], s[1]), inputs));
            }
            s
        }
    };
    let side = |side, before, after, k| conv_side(side, before, after, k, p.stride);
    let (Some(oh), Some(ow)) =
        (side(h, p.padding.top, p.padding.bottom, p.kernel[0]), side(w, p.padding.left, p.padding.right, p.kernel[1]))
    else {
        return Err(wrong(op, "the kernel is larger than the padded input", inputs));
    };
    let out = Shape::new(x.n, oh, ow, p.out_channels);
    if p.row_bias {
        let t = inputs[next];
        next += 1;
        if (t.h, t.w, t.c) != (1, 1, out.c) {
            return Err(wrong(op, "row_bias is not a table of the output's channels", inputs));
        }
    }
    if p.residual && inputs[next] != out {
        return Err(wrong(op, format!("residual differs from the output {out}"), inputs));
    }
    Ok(out)
}

/// Holds `rel` to the tokens of one sequence.
fn relative(op: &Op, p: &Attention, [h, w]: [u32; 2], inputs: &[Shape]) -> Result<()> {
    let (q, k, rel) = (inputs[0], inputs[1], inputs[3]);
    let tokens = |s: Shape| if p.rows { u64::from(s.w) } else { s.pixels() };
    let extent = u64::from(h) * u64::from(w);
    if extent == 0 || tokens(q) != extent || tokens(k) != extent {
        return Err(wrong(op, format!("sequences are not of {h} x {w} tokens"), inputs));
    }
    let (columns, c) = (u64::from(q.w) * u64::from(p.heads), 2 * (u64::from(h) + u64::from(w)) - 2);
    if (rel.n, rel.h, u64::from(rel.w), u64::from(rel.c)) != (q.n, q.h, columns, c) {
        return Err(wrong(op, format!("{c} relative positions for each query and head are not there"), inputs));
    }
    Ok(())
}

fn rearrange(op: &Op, p: &Rearrange, inputs: &[Shape]) -> Result<Shape> {
    let x = inputs[0];
    let bad = |why: &str| wrong(op, why, inputs);
    let side = |factors: &[u32]| {
        let factors: Vec<u64> = factors.iter().map(|&f| u64::from(f)).collect();
        extent::to_u32("rearranged side", extent::product("rearranged side", &factors)?)
    };
    Ok(match *p {
        Rearrange::DepthToSpace { factor: 0 } | Rearrange::SpaceToDepth { factor: 0 } => return Err(bad("factor 0")),
        Rearrange::Windows { size: 0 } | Rearrange::Unwindows { size: 0, .. } => return Err(bad("windows of nothing")),
        Rearrange::SplitChannels { parts: 0 } => return Err(bad("no parts")),
        Rearrange::DepthToSpace { factor } => {
            let square = side(&[factor, factor])?;
            if !x.c.is_multiple_of(square) {
                return Err(bad(&format!("{square} pixels do not share the channels")));
            }
            Shape { h: side(&[x.h, factor])?, w: side(&[x.w, factor])?, c: x.c / square, ..x }
        }
        Rearrange::SpaceToDepth { factor } => {
            if !x.h.is_multiple_of(factor) || !x.w.is_multiple_of(factor) {
                return Err(bad(&format!("sides are not multiples of {factor}")));
            }
            Shape { h: x.h / factor, w: x.w / factor, c: side(&[x.c, factor, factor])?, ..x }
        }
        Rearrange::Windows { size } => {
            Shape { h: side(&[x.h.div_ceil(size), x.w.div_ceil(size)])?, w: side(&[size, size])?, ..x }
        }
        Rearrange::Unwindows { size, to: [h, w] } => {
            if (x.h, x.w) != (side(&[h.div_ceil(size), w.div_ceil(size)])?, side(&[size, size])?) {
                return Err(bad(&format!("these are not the windows of {h} x {w} pixels")));
            }
            Shape { h, w, ..x }
        }
        Rearrange::Pixels { begin, size: [h, w] } => {
            if u64::from(begin) + u64::from(h) * u64::from(w) > x.pixels() {
                return Err(bad(&format!("{h} x {w} pixels from {begin} are not there")));
            }
            Shape { h, w, ..x }
        }
        Rearrange::SplitChannels { parts } => {
            if !x.c.is_multiple_of(parts) {
                return Err(bad(&format!("{parts} parts do not share the channels")));
            }
            Shape { w: side(&[x.w, parts])?, c: x.c / parts, ..x }
        }
    })
}

/// Number of inputs `op` takes.
pub fn arity(op: &Op) -> usize {
    match op {
        Op::Input(_) => 0,
        Op::Conv2d(p) => 1 + usize::from(p.second) + usize::from(p.row_bias) + usize::from(p.residual),
        Op::Linear(p) => 1 + usize::from(p.residual),
        Op::GroupNorm(p) => 1 + usize::from(p.second),
        Op::LayerNorm(_)
        | Op::TimeEmbedding(_)
        | Op::Slice { .. }
        | Op::Upsample { .. }
        | Op::ChannelMoments
        | Op::Rearrange(_) => 1,
        Op::Attention(p) => 3 + usize::from(p.relative.is_some()),
        Op::Pointwise(p) => 1 + usize::from(p.beta.is_some()) + usize::from(p.table),
        Op::Concat | Op::ChannelAffine(_) | Op::Resample(_) | Op::Modulate(_) => 2,
    }
}

/// Output shape of `op` on `inputs`; [`Op::Input`] has none of its own and is refused.
pub fn infer(op: &Op, inputs: &[Shape]) -> Result<Shape> {
    if inputs.len() != arity(op) {
        return Err(wrong(op, format!("takes {} inputs, has {}", arity(op), inputs.len()), inputs));
    }
    let out = match op {
        Op::Input(_) => return Err(wrong(op, "its shape is declared, not inferred", inputs)),
        Op::Conv2d(p) => conv(op, p, inputs)?,
        Op::Linear(p) => {
            let out = inputs[0].with_c(p.out_channels);
            if p.residual && inputs[1] != out {
                return Err(wrong(op, format!("residual differs from the output {out}"), inputs));
            }
            out
        }
        Op::GroupNorm(p) => {
            let c = inputs.iter().map(|s| s.c).sum::<u32>();
            if p.groups == 0 || c % p.groups != 0 {
                return Err(wrong(op, format!("{} groups do not divide {c} channels", p.groups), inputs));
            }
            if p.second && (inputs[0].n, inputs[0].h, inputs[0].w) != (inputs[1].n, inputs[1].h, inputs[1].w) {
                return Err(wrong(op, "the two sources differ in extent", inputs));
            }
            inputs[0].with_c(c)
        }
        Op::LayerNorm(_) => inputs[0],
        Op::Attention(p) => {
            let (q, k, v) = (inputs[0], inputs[1], inputs[2]);
            let c = p.heads * p.head_dim;
            if p.q_offset + c > q.c || p.k_offset + c > k.c || p.v_offset + c > v.c {
                return Err(wrong(op, format!("{} heads of {} exceed the channels", p.heads, p.head_dim), inputs));
            }
            if k.pixels() != v.pixels() || k.n != v.n {
                return Err(wrong(op, "keys and values differ in count", inputs));
            }
            if p.rows && (q.h, q.n, v.h) != (k.h, k.n, k.h) {
                return Err(wrong(op, "queries and keys differ in rows", inputs));
            }
            if let Some([h, w]) = p.relative {
                relative(op, p, [h, w], inputs)?;
            }
            q.with_c(c)
        }
        Op::TimeEmbedding(p) => inputs[0].with_c(p.dim),
        Op::Pointwise(p) => {
            if p.beta.is_some() && inputs[1] != inputs[0] {
                return Err(wrong(op, "a and b differ", inputs));
            }
            inputs[0]
        }
        Op::Slice { begin, channels } => {
            if begin + channels > inputs[0].c {
                return Err(wrong(op, format!("channels {begin}..{} are outside", begin + channels), inputs));
            }
            inputs[0].with_c(*channels)
        }
        Op::Concat => {
            let (a, b) = (inputs[0], inputs[1]);
            if (a.n, a.h, a.w) != (b.n, b.h, b.w) {
                return Err(wrong(op, "the two inputs differ in extent", inputs));
            }
            a.with_c(a.c + b.c)
        }
        Op::Upsample { size } => {
            let x = inputs[0];
            if [size[0].div_ceil(2), size[1].div_ceil(2)] != [x.h, x.w] {
                return Err(wrong(op, format!("{}x{} does not double the input", size[0], size[1]), inputs));
            }
            Shape { h: size[0], w: size[1], ..x }
        }
        Op::ChannelAffine(_) => {
            let (x, ab) = (inputs[0], inputs[1]);
            if ab != Shape::new(x.n, 1, 2, x.c) {
                return Err(wrong(op, "the factors are not two rows of the channels per item", inputs));
            }
            x
        }
        Op::ChannelMoments => {
            let blocks = inputs[0].pixels().div_ceil(layout::NORM_BLOCK.into());
            Shape { h: extent::to_u32("statistics blocks", blocks)?, w: 3, ..inputs[0] }
        }
        Op::Resample(p) => {
            let (x, table) = (inputs[0], inputs[1]);
            let rows = table.n == 1 || table.n == x.n;
            if !rows || table.h != 1 || p.taps == 0 || table.c != p.taps.saturating_add(1) {
                return Err(wrong(op, format!("no table of {} taps", p.taps), inputs));
            }
            match p.axis {
                Axis::Rows => Shape { h: table.w, ..x },
                Axis::Columns => Shape { w: table.w, ..x },
            }
        }
        Op::Rearrange(p) => rearrange(op, p, inputs)?,
        Op::Modulate(_) => {
            let (x, gb) = (inputs[0], inputs[1]);
            if u64::from(gb.c) != 2 * u64::from(x.c) || gb.with_c(x.c) != x {
                return Err(wrong(op, "gamma and beta are not two values for each of x", inputs));
            }
            x
        }
    };
    if out.elements() == 0 || out.elements() > limits::MAX_VALUE_ELEMENTS {
        return Err(Error::new(
            Kind::Limit,
            "graph",
            format!(
                "{}: output {out} has {} elements, the limit is {}",
                op.name(),
                out.elements(),
                limits::MAX_VALUE_ELEMENTS
            ),
        )
        .advise("use a smaller tile"));
    }
    Ok(out)
}

/// Shapes of a node's inputs.
pub fn of(graph: &Graph, inputs: &[ValueId]) -> Vec<Shape> {
    inputs.iter().map(|&v| graph.value(v).shape).collect()
}
