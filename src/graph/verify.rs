//! The verifier: what every graph must hold, checked when it is built and again after each pass.
//!
//! The first broken rule is returned as an error that names the node; a graph that fails here is a bug
//! in a model builder or a pass, except for sizes, which a user can reach through the tile.

use super::layout::Order;
use super::op::{Attention, Conv2d, Graph, Linear, Node, Op, Padding, ValueId, WeightId};
use super::{Act, DType, Lifetime, shape};
use crate::error::{Error, Kind, Result};
use crate::limits;
use std::collections::HashSet;
use std::fmt;

fn bad(why: impl fmt::Display) -> Error {
    Error::new(Kind::Internal, "graph", why.to_string())
}

/// Checks `graph`: single assignment, order, arity, shapes, lifetimes, types, weights, outputs.
pub fn verify(graph: &Graph) -> Result<()> {
    if graph.nodes.len() > limits::MAX_NODES {
        let why = format!("{}: {} nodes, the limit is {}", graph.name, graph.nodes.len(), limits::MAX_NODES);
        return Err(Error::new(Kind::Limit, "graph", why));
    }
    let mut defined = vec![false; graph.values.len()];
    let mut inputs = HashSet::new();
    for node in &graph.nodes {
        let name = match graph.values.get(node.output.0 as usize) {
            Some(v) => &v.name,
            None => return Err(bad(format!("{}: a node writes value {} of none", graph.name, node.output.0))),
        };
        check_node(graph, node, &defined).map_err(|e| e.at(name).at(&graph.name))?;
        if std::mem::replace(&mut defined[node.output.0 as usize], true) {
            return Err(bad("made twice").at(name).at(&graph.name));
        }
        if matches!(node.op, Op::Input(_)) && !inputs.insert(name.as_str()) {
            return Err(bad("two inputs of this name").at(name).at(&graph.name));
        }
    }
    if let Some(i) = defined.iter().position(|d| !d) {
        return Err(bad("no node makes it").at(&graph.values[i].name).at(&graph.name));
    }
    check_items(graph)?;
    check_constants(graph)?;
    check_outputs(graph)
}

/// [`verify`], and no concatenation or upsampling is left that would have to be materialised.
pub fn lowered(graph: &Graph) -> Result<()> {
    verify(graph)?;
    for node in &graph.nodes {
        if matches!(node.op, Op::Concat | Op::Upsample { .. }) {
            let why = format!("a {} is left that no consumer takes in", node.op.name());
            return Err(bad(why).at(&graph.value(node.output).name).at(&graph.name));
        }
    }
    Ok(())
}

/// Number of batch items: the `n` that all values of lifetime `Window` share (1 when there are none).
pub fn items(graph: &Graph) -> u32 {
    graph.values.iter().find(|v| v.lifetime == Lifetime::Window).map_or(1, |v| v.shape.n)
}

fn check_items(graph: &Graph) -> Result<()> {
    let n = items(graph);
    match graph.values.iter().find(|v| v.lifetime == Lifetime::Window && v.shape.n != n) {
        None => Ok(()),
        Some(v) => Err(bad(format!("{} items where the others have {n}", v.shape.n)).at(&v.name).at(&graph.name)),
    }
}

fn check_constants(graph: &Graph) -> Result<()> {
    let mut seen = HashSet::new();
    for (id, values) in &graph.constants {
        let Some(value) = graph.values.get(id.0 as usize) else {
            return Err(bad(format!("constant {} of no value", id.0)).at(&graph.name));
        };
        let input = graph.nodes.iter().any(|n| n.output == *id && n.op == Op::Input(Lifetime::Job));
        let s = value.shape;
        let count = s.pixels() * u64::from(s.c);
        let why = if !input || !seen.insert(id.0) {
            "is no input of the job, or given twice".to_owned()
        } else if values.len() as u64 != count {
            format!("has {} values for {s}", values.len())
        } else if let Some(i) = values.iter().position(|v| !v.is_finite()) {
            format!("has the value {} at {i}", values[i])
        } else {
            continue;
        };
        return Err(bad(format!("a constant {why}")).at(&value.name).at(&graph.name));
    }
    Ok(())
}

fn check_outputs(graph: &Graph) -> Result<()> {
    let mut names = HashSet::new();
    for (name, id) in &graph.outputs {
        if id.0 as usize >= graph.values.len() {
            return Err(bad(format!("output `{name}` is value {} of none", id.0)).at(&graph.name));
        }
        if !names.insert(name.as_str()) {
            return Err(bad(format!("two outputs called `{name}`")).at(&graph.name));
        }
    }
    if graph.outputs.is_empty() { Err(bad("no outputs").at(&graph.name)) } else { Ok(()) }
}

fn check_node(graph: &Graph, node: &Node, defined: &[bool]) -> Result<()> {
    if let Some(v) = node.inputs.iter().find(|v| !defined.get(v.0 as usize).copied().unwrap_or(false)) {
        return Err(bad(format!("{} reads value {} before it is made", node.op.name(), v.0)));
    }
    let out = graph.value(node.output);
    if u64::from(out.shape.c) > limits::MAX_CHANNELS {
        let why = format!("{} channels, the limit is {}", out.shape.c, limits::MAX_CHANNELS);
        return Err(Error::new(Kind::Limit, "graph", why));
    }
    if let Op::Input(lifetime) = node.op {
        if lifetime != out.lifetime || !node.inputs.is_empty() {
            return Err(bad("an input takes no inputs and has its own lifetime"));
        }
        let elements = out.shape.elements();
        return if elements == 0 || elements > limits::MAX_VALUE_ELEMENTS {
            let why = format!("{} has {elements} elements, the limit is {}", out.shape, limits::MAX_VALUE_ELEMENTS);
            Err(Error::new(Kind::Limit, "graph", why).advise("use a smaller tile"))
        } else {
            Ok(())
        };
    }
    let expected = shape::infer(&node.op, &shape::of(graph, &node.inputs))?;
    if expected != out.shape {
        return Err(bad(format!("{} makes {expected}, declared {}", node.op.name(), out.shape)));
    }
    let lifetime = node.inputs.iter().map(|&v| graph.value(v).lifetime).max();
    if lifetime != Some(out.lifetime) {
        return Err(bad(format!("lifetime {:?}, its inputs give {lifetime:?}", out.lifetime)));
    }
    check_tables(graph, node)?;
    check_op(graph, node)
}

/// Index of the input that is read as a table over steps, if the op has one.
pub fn table_input(op: &Op) -> Option<usize> {
    match op {
        Op::Conv2d(p) if p.row_bias => Some(1 + usize::from(p.second)),
        Op::Pointwise(p) if p.table => Some(1 + usize::from(p.beta.is_some())),
        Op::Conv2d(_)
        | Op::Pointwise(_)
        | Op::Input(_)
        | Op::Linear(_)
        | Op::GroupNorm(_)
        | Op::LayerNorm(_)
        | Op::Attention(_)
        | Op::TimeEmbedding(_)
        | Op::Slice { .. }
        | Op::Concat
        | Op::Upsample { .. }
        | Op::ChannelAffine(_)
        | Op::ChannelMoments
        | Op::Resample(_)
        | Op::Rearrange(_)
        | Op::Modulate(_) => None,
    }
}

/// Values over steps and contexts have one row per step or context, not per item: a node over windows may
/// read them only where its kernel picks the item's row.
fn check_tables(graph: &Graph, node: &Node) -> Result<()> {
    let window = graph.value(node.output).lifetime == Lifetime::Window;
    let table = table_input(&node.op);
    if table.is_some() && !window {
        return Err(bad("reads a table row, which only items have, but does not depend on the window"));
    }
    if !window {
        return Ok(());
    }
    let attention = matches!(node.op, Op::Attention(_));
    for (i, &v) in node.inputs.iter().enumerate() {
        let value = graph.value(v);
        let allowed = match value.lifetime {
            Lifetime::Window | Lifetime::Job | Lifetime::Weight => true,
            Lifetime::Step => table == Some(i),
            Lifetime::Context => attention && matches!(i, 1 | 2),
        };
        if !allowed {
            let what = format!("reads `{}` per item, which has one row per {:?}", value.name, value.lifetime);
            return Err(bad(what));
        }
    }
    Ok(())
}

fn check_op(graph: &Graph, node: &Node) -> Result<()> {
    let channels = |i: usize| graph.value(node.inputs[i]).shape.c;
    match &node.op {
        Op::Conv2d(p) => {
            let c = channels(0) + if p.second { channels(1) } else { 0 };
            check_conv(graph, p, c)
        }
        Op::Linear(p) => check_linear(graph, p, channels(0)),
        Op::GroupNorm(p) => {
            if !matches!(p.act, Act::None | Act::Silu) {
                return Err(bad(format!("a group norm has no activation {:?}", p.act)));
            }
            let c = u64::from(graph.value(node.output).shape.c);
            tensor(graph, p.weight, &[c])?;
            tensor(graph, p.bias, &[c])
        }
        Op::LayerNorm(p) => {
            let c = u64::from(channels(0));
            tensor(graph, p.weight, &[c])?;
            tensor(graph, p.bias, &[c])
        }
        Op::Attention(p) => check_attention(graph, node, p),
        Op::TimeEmbedding(p) => {
            let [x, y] = [node.inputs[0], node.output].map(|v| graph.value(v).dtype);
            if p.dim % 2 != 0 || channels(0) != 1 || (x, y) != (DType::F32, DType::F32) {
                return Err(bad(format!(
                    "needs one f32 channel in and an even number out, has {} and {}",
                    x.name(),
                    p.dim
                )));
            }
            Ok(())
        }
        Op::Pointwise(p) => {
            if p.table && graph.value(node.inputs[node.inputs.len() - 1]).shape.c != 2 {
                return Err(bad("its table does not hold (alpha, beta)"));
            }
            Ok(())
        }
        Op::ChannelAffine(p) => {
            let ab = graph.value(node.inputs[1]);
            if !matches!(p.act, Act::None | Act::Silu) || ab.dtype != DType::F32 {
                return Err(bad(format!("activation {:?} or factors of type {}", p.act, ab.dtype.name())));
            }
            Ok(())
        }
        Op::ChannelMoments if graph.value(node.output).dtype != DType::F32 => Err(bad("moments are f32")),
        Op::Resample(_) => {
            let (x, table) = (graph.value(node.inputs[0]), graph.value(node.inputs[1]));
            // A table fixed for a job serves all items, one over windows has a table for each.
            let rows = if table.lifetime == Lifetime::Window { x.shape.n } else { 1 };
            if table.dtype != DType::F32 || table.shape.n != rows {
                let what = table.dtype.name();
                return Err(bad(format!("{} tables of type {what}, not {rows} of f32", table.shape.n)));
            }
            Ok(())
        }
        Op::ChannelMoments
        | Op::Input(_)
        | Op::Slice { .. }
        | Op::Concat
        | Op::Upsample { .. }
        | Op::Rearrange(_)
        | Op::Modulate(_) => Ok(()),
    }
}

fn check_attention(graph: &Graph, node: &Node, p: &Attention) -> Result<()> {
    // Kernels load heads in groups of the pitch's granularity.
    let firsts = [p.head_dim, p.q_offset, p.k_offset, p.v_offset];
    if firsts.iter().any(|&c| u64::from(c) % crate::extent::CHANNEL_ALIGN != 0) {
        return Err(bad(format!("heads of {} channels at {:?} are off the channel pitch", p.head_dim, &firsts[1..])));
    }
    let [q, k, v] = [0, 1, 2].map(|i| graph.value(node.inputs[i]));
    let context = |l| l == Lifetime::Context;
    if context(k.lifetime) && (p.rows || p.relative.is_some()) {
        return Err(bad("rows and relative positions are those of the window's own tokens, not of a context's"));
    }
    if context(k.lifetime) != context(v.lifetime) {
        return Err(bad("only one of keys and values has one row per context"));
    }
    let rows_are_contexts = context(k.lifetime) && !context(q.lifetime);
    if !rows_are_contexts && k.shape.n != q.shape.n {
        return Err(bad(format!("{} items of keys for {} of queries", k.shape.n, q.shape.n)));
    }
    Ok(())
}

fn check_conv(graph: &Graph, p: &Conv2d, c: u32) -> Result<()> {
    let [kh, kw] = p.kernel;
    if kh != kw || !matches!(kh, 1 | 3) || !matches!(p.stride, 1 | 2) {
        return Err(bad(format!("no kernel for a {kh}x{kw} convolution of stride {}", p.stride)));
    }
    // Padding of a whole kernel would make pixels that see no input at all.
    let pad = p.padding;
    if [pad.top, pad.left, pad.bottom, pad.right].iter().any(|&p| p >= kh) {
        return Err(bad(format!("{pad:?} is as wide as the kernel")));
    }
    let half = Padding::all(kh / 2);
    if p.upsample.is_some() && (p.stride != 1 || pad != half) {
        return Err(bad(format!("doubles its input, but has stride {} and {pad:?} instead of {half:?}", p.stride)));
    }
    tensor(graph, p.weight, &[u64::from(p.out_channels), u64::from(c), u64::from(kh), u64::from(kw)])?;
    if p.upsample.is_some() && graph.weights.get(p.weight.0 as usize).is_some_and(|w| w.order != Order::Stored) {
        return Err(bad("doubles its input with a tensor in another order"));
    }
    p.bias.map_or(Ok(()), |b| tensor(graph, b, &[u64::from(p.out_channels)]))
}

/// Output channels of each stacked weight of a linear layer, GEGLU's two halves counted once.
pub fn linear_outs(graph: &Graph, p: &Linear) -> Vec<u32> {
    let halves = if p.geglu { 2 } else { 1 };
    let rows = |&w: &WeightId| {
        let w = graph.weight(w);
        w.order.taken(&w.shape).and_then(|s| s.first().copied()).unwrap_or(0) / halves
    };
    p.weights.iter().map(|w| u32::try_from(rows(w)).unwrap_or(u32::MAX)).collect()
}

fn check_linear(graph: &Graph, p: &Linear, c: u32) -> Result<()> {
    if let Some(w) = p.weights.iter().chain(&p.biases).find(|w| w.0 as usize >= graph.weights.len()) {
        return Err(bad(format!("reads weight {} of {}", w.0, graph.weights.len())));
    }
    let outs = linear_outs(graph, p);
    let total: u64 = outs.iter().map(|&o| u64::from(o)).sum();
    if outs.is_empty() || total != u64::from(p.out_channels) || (p.geglu && outs.len() != 1) {
        return Err(bad(format!("weights of {outs:?} rows do not make {} channels", p.out_channels)));
    }
    if !p.biases.is_empty() && p.biases.len() != p.weights.len() {
        return Err(bad(format!("{} weights but {} biases", p.weights.len(), p.biases.len())));
    }
    let reordered = |w: &WeightId| graph.weight(*w).order != Order::Stored;
    if p.weights.iter().chain(&p.biases).any(reordered) && (p.weights.len() != 1 || p.geglu) {
        return Err(bad("a tensor in another order beside others"));
    }
    for (i, &w) in p.weights.iter().enumerate() {
        let rows = u64::from(outs[i]) * if p.geglu { 2 } else { 1 };
        match graph.weight(w).shape[..] {
            [o, i, kh, kw]
                if graph.weight(w).order == Order::Stored
                    && o == rows
                    && [i, kh, kw].iter().product::<u64>() == u64::from(c) => {}
            _ => tensor(graph, w, &[rows, u64::from(c)])?,
        }
        if let Some(&b) = p.biases.get(i) {
            tensor(graph, b, &[rows])?;
        }
    }
    Ok(())
}

fn tensor(graph: &Graph, id: WeightId, shape: &[u64]) -> Result<()> {
    match graph.weights.get(id.0 as usize) {
        None => Err(bad(format!("reads weight {} of {}", id.0, graph.weights.len()))),
        Some(w) if w.order.taken(&w.shape).as_deref() != Some(shape) => {
            Err(bad(format!("tensor {} is {:?} ({:?}), the op needs {shape:?}", w.name, w.shape, w.order)))
        }
        Some(_) => Ok(()),
    }
}

/// How often each value is read, graph outputs included.
pub fn uses(graph: &Graph) -> Vec<u32> {
    let mut uses = vec![0u32; graph.values.len()];
    let ids = graph.nodes.iter().flat_map(|n| &n.inputs).chain(graph.outputs.iter().map(|(_, v)| v));
    for ValueId(v) in ids {
        uses[*v as usize] += 1;
    }
    uses
}

#[cfg(test)]
mod tests {
    use super::super::{Builder, Shape};
    use super::*;

    fn small() -> Graph {
        let mut b = Builder::new("small", DType::F32);
        let x = b.input("x", Shape::new(1, 8, 8, 4), DType::F32, Lifetime::Window);
        let y = b.conv("conv", x, 8, 3, 1, Padding::all(1)).expect("conv");
        let z = b.activation("act", y, Act::Silu).expect("act");
        b.output("y", z);
        b.finish()
    }

    /// Breaks the small graph by `f` and returns what the verifier says.
    fn broken(f: impl FnOnce(&mut Graph)) -> String {
        let mut g = small();
        f(&mut g);
        verify(&g).expect_err("must be refused").to_string()
    }

    #[test]
    fn a_sound_graph_passes() {
        verify(&small()).expect("sound");
    }

    #[test]
    fn each_rule_refuses_its_breach() {
        assert!(broken(|g| g.nodes.swap(1, 2)).contains("before it is made"));
        assert!(broken(|g| g.nodes.push(g.nodes[2].clone())).contains("made twice"));
        assert!(broken(|g| g.values[1].shape.h = 9).contains("declared 1x9x8x8"));
        assert!(broken(|g| g.values[2].lifetime = Lifetime::Job).contains("lifetime Job"));
        assert!(broken(|g| g.weights[0].shape[1] = 5).contains("the op needs [8, 4, 3, 3]"));
        assert!(broken(|g| g.outputs.clear()).contains("no outputs"));
        assert!(broken(|g| g.outputs[0].1 = ValueId(99)).contains("value 99 of none"));
        assert!(
            broken(|g| {
                g.nodes[1].inputs.pop();
            })
            .contains("takes 1 inputs")
        );
        assert!(
            broken(|g| {
                g.nodes.remove(2);
            })
            .contains("no node makes it")
        );
        assert!(
            broken(|g| if let Op::Conv2d(p) = &mut g.nodes[1].op {
                (p.kernel, p.padding) = ([5, 5], Padding::all(2))
            })
            .contains("5x5")
        );
        assert!(
            broken(|g| if let Op::Conv2d(p) = &mut g.nodes[1].op {
                p.weight = WeightId(7)
            })
            .contains("weight 7 of")
        );
    }

    #[test]
    fn tables_are_read_by_row_only() {
        let mut b = Builder::new("table", DType::F32);
        let x = b.input("x", Shape::new(2, 1, 1, 4), DType::F32, Lifetime::Window);
        let t = b.input("t", Shape::new(2, 1, 1, 4), DType::F32, Lifetime::Step);
        let y = b.add("sum", x, t).expect("shapes agree");
        b.output("y", y);
        assert!(verify(&b.finish()).expect_err("rows are not items").to_string().contains("one row per Step"));
    }
}
