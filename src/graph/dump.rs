//! A stable text form of a graph: one line per node, for `inspect`, golden tests and bug reports.

use super::Act;
use super::op::{Axis, Graph, Lifetime, Op, Rearrange, WeightId};
use std::fmt::Write;

/// The graph as text. The same graph gives the same text in every release that has the same op set.
///
/// A line reads `%3 = conv2d(%1, %2) 3x3 +residual [down.0.conv1.weight, ..] : 1x64x64x320 f16 window  # name`.
pub fn dump(graph: &Graph) -> String {
    let mut text = format!("graph {} ({} nodes, {} tensors)\n", graph.name, graph.nodes.len(), graph.weights.len());
    for node in &graph.nodes {
        let out = graph.value(node.output);
        let inputs: Vec<String> = node.inputs.iter().map(|v| format!("%{}", v.0)).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(
            text,
            "  %{} = {}({}){} : {} {} {}  # {}",
            node.output.0,
            node.op.name(),
            inputs.join(", "),
            details(graph, &node.op),
            out.shape,
            out.dtype.name(),
            lifetime(out.lifetime),
            out.name
        );
    }
    for (v, values) in &graph.constants {
        let _ = writeln!(text, "  constant %{} of {} values", v.0, values.len());
    }
    for (name, v) in &graph.outputs {
        let _ = writeln!(text, "  output {name} = %{}", v.0);
    }
    text
}

/// Name of a lifetime as printed.
pub fn lifetime(l: Lifetime) -> &'static str {
    match l {
        Lifetime::Weight => "weight",
        Lifetime::Job => "job",
        Lifetime::Step => "step",
        Lifetime::Context => "context",
        Lifetime::Window => "window",
    }
}

fn act(a: Act) -> &'static str {
    match a {
        Act::None => "",
        Act::Silu => " silu",
        Act::Gelu => " gelu",
        Act::QuickGelu => " quick_gelu",
        Act::Relu => " relu",
        Act::LeakyRelu => " leaky_relu",
    }
}

fn flag(on: bool, text: &'static str) -> &'static str {
    if on { text } else { "" }
}

fn tensors<'a>(graph: &Graph, ids: impl IntoIterator<Item = &'a WeightId>) -> String {
    // A dump must also print broken graphs, so ids out of range are shown, not followed.
    let name = |id: &WeightId| graph.weights.get(id.0 as usize).map_or(format!("?{}", id.0), |w| w.name.clone());
    let names: Vec<String> = ids.into_iter().map(name).collect();
    format!(" [{}]", names.join(", "))
}

fn details(graph: &Graph, op: &Op) -> String {
    match op {
        Op::Input(_) | Op::Concat | Op::ChannelMoments => String::new(),
        Op::ChannelAffine(p) => act(p.act).to_owned(),
        Op::Modulate(p) => act(p.act).to_owned(),
        Op::Resample(p) => format!(" {} taps {}", if p.axis == Axis::Rows { "rows" } else { "columns" }, p.taps),
        Op::Rearrange(p) => rearrange(p),
        Op::Conv2d(p) => {
            let d = p.padding;
            let mut s = format!(" {}x{}", p.kernel[0], p.kernel[1]);
            if p.stride != 1 {
                let _ = write!(s, " stride {}", p.stride);
            }
            if [d.top, d.left, d.bottom, d.right] != [0; 4] {
                let _ = write!(s, " pad {},{},{},{}", d.top, d.left, d.bottom, d.right);
            }
            if let Some([h, w]) = p.upsample {
                let _ = write!(s, " up {h}x{w}");
            }
            s += flag(p.second, " +second");
            s += flag(p.row_bias, " +row_bias");
            s += act(p.act);
            s += flag(p.residual, " +residual");
            s + &tensors(graph, std::iter::once(&p.weight).chain(&p.bias))
        }
        Op::Linear(p) => {
            let mut s = flag(p.geglu, " geglu").to_owned();
            s += act(p.act);
            s += flag(p.residual, " +residual");
            s + &tensors(graph, p.weights.iter().chain(&p.biases))
        }
        Op::GroupNorm(p) => {
            let s = format!(" groups {} eps {:e}{}{}", p.groups, p.eps, flag(p.second, " +second"), act(p.act));
            s + &tensors(graph, [&p.weight, &p.bias])
        }
        Op::LayerNorm(p) => format!(" eps {:e}{}", p.eps, tensors(graph, [&p.weight, &p.bias])),
        Op::Attention(p) => {
            let offsets = [p.q_offset, p.k_offset, p.v_offset];
            let at = if offsets == [0; 3] { String::new() } else { format!(" at {offsets:?}") };
            let relative = p.relative.map_or(String::new(), |[h, w]| format!(" relative {h}x{w}"));
            let flags = [flag(p.causal, " causal"), flag(p.rows, " rows")].concat();
            format!(" heads {}x{} scale {}{at}{flags}{relative}", p.heads, p.head_dim, p.scale)
        }
        Op::TimeEmbedding(p) => {
            let flip = flag(p.flip_sin_to_cos, " flip");
            format!(" dim {} shift {} period {}{flip}", p.dim, p.freq_shift, p.max_period)
        }
        Op::Pointwise(p) => {
            let mut s = format!(" {}*a", p.alpha);
            if let Some(beta) = p.beta {
                let _ = write!(s, " + {beta}*b");
            }
            if p.gamma != 0.0 {
                let _ = write!(s, " + {}", p.gamma);
            }
            s += flag(p.table, " +table");
            s += act(p.act);
            if let Some([lo, hi]) = p.clamp {
                let _ = write!(s, " clamp {lo}..{hi}");
            }
            s
        }
        Op::Slice { begin, channels } => format!(" {begin}..{}", begin + channels),
        Op::Upsample { size } => format!(" {}x{}", size[0], size[1]),
    }
}

fn rearrange(p: &Rearrange) -> String {
    match p {
        Rearrange::DepthToSpace { factor } => format!(" depth_to_space {factor}"),
        Rearrange::SpaceToDepth { factor } => format!(" space_to_depth {factor}"),
        Rearrange::Windows { size } => format!(" windows {size}"),
        Rearrange::Unwindows { size, to: [h, w] } => format!(" unwindows {size} to {h}x{w}"),
        Rearrange::Pixels { begin, size: [h, w] } => format!(" pixels {begin}.. as {h}x{w}"),
        Rearrange::SplitChannels { parts } => format!(" split_channels {parts}"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::op::Padding;
    use super::super::{Builder, DType, Shape};
    use super::*;

    #[test]
    fn lines_are_stable() {
        let mut b = Builder::new("g", DType::F16);
        let x = b.input("x", Shape::new(1, 4, 4, 3), DType::F32, Lifetime::Window);
        let y = b.conv("conv_in", x, 8, 3, 2, Padding::all(1)).expect("conv");
        b.output("y", y);
        let expected = "graph g (2 nodes, 2 tensors)
  %0 = input() : 1x4x4x3 f32 window  # x
  %1 = conv2d(%0) 3x3 stride 2 pad 1,1,1,1 [conv_in.weight, conv_in.bias] : 1x2x2x8 f16 window  # conv_in
  output y = %1
";
        assert_eq!(dump(&b.finish()), expected);
    }
}
