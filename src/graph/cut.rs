//! Cuts a network at its group norms, so that each norm's statistics can be pooled over many windows.
//!
//! Segment `s` holds what lies between the norms of depth `s` and those of depth `s + 1` (a value's depth is the
//! number of norms on the longest way to it); a node is computed in the last segment that still serves all its
//! readers, so that a shortcut goes with its sum. In a segment a norm is a [`ChannelAffine`] whose factors are an
//! input; values that the next norms normalise have their [`Op::ChannelMoments`] as a second output.

use super::op::{ChannelAffine, Graph, GroupNorm, Node, Op, Value, ValueId, WeightId};
use super::{DType, Lifetime, Shape, shape, verify};
use crate::error::{Error, Kind, Result};

/// Prefix of the name of an output that holds a value's moments.
pub const MOMENTS: &str = "moments.";

/// A group norm of the uncut network.
#[derive(Debug, Clone, PartialEq)]
pub struct Norm {
    /// The value that is normalised.
    pub of: ValueId,
    /// Segment that makes that value and its moments.
    pub made: usize,
    /// Name of its factors, an input `[n, 1, 2, c]` of every segment that applies it.
    pub factors: String,
    /// Its parameters; the tensors are those of the uncut graph.
    pub norm: GroupNorm,
}

/// A piece of the network.
#[derive(Debug, Clone, PartialEq)]
pub struct Segment {
    /// Its graph. Window inputs and outputs are called as the values of the uncut graph, moments
    /// [`MOMENTS`] before that.
    pub graph: Graph,
    /// Values of the uncut graph that it reads, its inputs over windows.
    pub reads: Vec<ValueId>,
    /// Values of the uncut graph that it makes for later segments, for norms or as outputs of the whole.
    pub makes: Vec<ValueId>,
    /// Norms (by index) whose factors it needs.
    pub norms: Vec<usize>,
    /// Holds an attention: every pixel depends on every other.
    pub attends: bool,
    /// Pixels at an inner edge of a window that are wrong for want of neighbours, in units of the coarsest value.
    pub halo: u32,
}

/// A network cut at its norms.
#[derive(Debug, Clone, PartialEq)]
pub struct Cut {
    /// The pieces, in order.
    pub segments: Vec<Segment>,
    /// Every norm.
    pub norms: Vec<Norm>,
    /// Per value of the uncut graph: the segment that makes it; inputs have none.
    pub made: Vec<Option<usize>>,
    /// Per value: the last segment that reads it; the outputs of the whole are read by none but live on.
    pub last_read: Vec<Option<usize>>,
}

fn wrong(graph: &Graph, why: impl std::fmt::Display) -> Error {
    Error::new(Kind::Internal, "graph", format!("{} cannot be cut: {why}", graph.name))
}

/// Cuts an unfused graph.
pub fn cut(graph: &Graph) -> Result<Cut> {
    verify::verify(graph)?;
    let depth = depths(graph)?;
    let last = depth.iter().copied().max().unwrap_or(0);
    let place = places(graph, &depth, last);
    let made: Vec<Option<usize>> = graph.nodes.iter().fold(vec![None; graph.values.len()], |mut made, n| {
        if !matches!(n.op, Op::Input(_)) {
            made[n.output.0 as usize] = place[n.output.0 as usize];
        }
        made
    });
    let mut norms = Vec::new();
    let mut last_read = vec![None; graph.values.len()];
    for node in &graph.nodes {
        let Some(at) = made[node.output.0 as usize] else { continue };
        for v in &node.inputs {
            last_read[v.0 as usize] = last_read[v.0 as usize].max(Some(at));
        }
        if let Op::GroupNorm(norm) = &node.op {
            let of = node.inputs[0];
            let Some(made) = made[of.0 as usize] else {
                return Err(wrong(graph, "a norm of an input, whose moments nothing computes"));
            };
            let factors = format!("{}.factors", graph.value(node.output).name);
            norms.push(Norm { of, made, factors, norm: norm.clone() });
        }
    }
    let segments = (0..=last).map(|s| segment(graph, s, &made, &last_read, &norms)).collect::<Result<_>>()?;
    Ok(Cut { segments, norms, made, last_read })
}

/// Norms on the longest way to each value.
fn depths(graph: &Graph) -> Result<Vec<usize>> {
    let mut depth = vec![0; graph.values.len()];
    for node in &graph.nodes {
        let before = node.inputs.iter().map(|v| depth[v.0 as usize]).max().unwrap_or(0);
        let is_norm = match &node.op {
            Op::GroupNorm(p) if p.second => return Err(wrong(graph, "a norm of two values")),
            Op::GroupNorm(_) => true,
            Op::Input(_) if graph.value(node.output).lifetime != Lifetime::Window => {
                return Err(wrong(graph, "an input that does not differ by window"));
            }
            // Where their pixels lie in the whole picture is not known in a window.
            Op::Resample(_) | Op::Rearrange(_) => return Err(wrong(graph, format!("a {} in it", node.op.name()))),
            Op::Input(_)
            | Op::Conv2d(_)
            | Op::Linear(_)
            | Op::LayerNorm(_)
            | Op::Attention(_)
            | Op::TimeEmbedding(_)
            | Op::Pointwise(_)
            | Op::Slice { .. }
            | Op::Concat
            | Op::Upsample { .. }
            | Op::ChannelAffine(_)
            | Op::ChannelMoments
            | Op::Modulate(_) => false,
        };
        depth[node.output.0 as usize] = before + usize::from(is_norm);
    }
    Ok(depth)
}

/// The segment in which each value is computed: the first that reads it; a norm reads before it is applied.
fn places(graph: &Graph, depth: &[usize], last: usize) -> Vec<Option<usize>> {
    let mut place: Vec<Option<usize>> = vec![None; graph.values.len()];
    for (_, v) in &graph.outputs {
        place[v.0 as usize] = Some(last);
    }
    for node in graph.nodes.iter().rev() {
        let Some(mut at) = place[node.output.0 as usize] else { continue };
        if matches!(node.op, Op::GroupNorm(_)) {
            at = at.min(depth[node.output.0 as usize] - 1);
        }
        for v in &node.inputs {
            let p = &mut place[v.0 as usize];
            *p = Some(p.map_or(at, |p| p.min(at)));
        }
    }
    place
}

fn segment(
    graph: &Graph,
    s: usize,
    made: &[Option<usize>],
    last_read: &[Option<usize>],
    norms: &[Norm],
) -> Result<Segment> {
    let name = graph.name.split_once(' ').map_or((graph.name.as_str(), ""), |(a, b)| (a, b));
    let mut to = Graph { name: format!("{}.{s} {}", name.0, name.1), ..Graph::default() };
    let mut map: Vec<Option<ValueId>> = vec![None; graph.values.len()];
    let mut weights: Vec<Option<WeightId>> = vec![None; graph.weights.len()];
    let (mut reads, mut makes, mut used) = (Vec::new(), Vec::new(), Vec::new());
    let inside = |v: ValueId| made[v.0 as usize] == Some(s);
    for node in graph.nodes.iter().filter(|n| inside(n.output)) {
        for &v in node.inputs.iter().filter(|&&v| !inside(v)) {
            if map[v.0 as usize].is_none() {
                map[v.0 as usize] = Some(push(&mut to, Op::Input(Lifetime::Window), &[], graph.value(v).clone()));
                reads.push(v);
            }
        }
        let mut inputs: Vec<ValueId> = node.inputs.iter().filter_map(|v| map[v.0 as usize]).collect();
        let value = graph.value(node.output);
        let op = match &node.op {
            Op::GroupNorm(p) => {
                let factors = format!("{}.factors", value.name);
                let shape = Shape { h: 1, w: 2, ..value.shape };
                let port = Value { name: factors.clone(), shape, dtype: DType::F32, lifetime: Lifetime::Job };
                inputs.push(push(&mut to, Op::Input(Lifetime::Job), &[], port));
                used.extend(norms.iter().position(|n| n.factors == factors));
                Op::ChannelAffine(ChannelAffine { act: p.act })
            }
            op => op.with_weights(&mut |w| {
                *weights[w.0 as usize].get_or_insert_with(|| {
                    to.weights.push(graph.weight(w).clone());
                    WeightId(to.weights.len() as u32 - 1)
                })
            }),
        };
        map[node.output.0 as usize] = Some(push(&mut to, op, &inputs, value.clone()));
    }
    for node in graph.nodes.iter().filter(|n| inside(n.output)) {
        let v = node.output;
        let Some(id) = map[v.0 as usize] else { continue };
        let whole = graph.outputs.iter().find(|(_, o)| *o == v).map(|(name, _)| name.clone());
        if last_read[v.0 as usize] > Some(s) || whole.is_some() {
            to.outputs.push((whole.unwrap_or_else(|| graph.value(v).name.clone()), id));
            makes.push(v);
        }
        if norms.iter().any(|n| n.of == v) {
            let value = to.value(id).clone();
            let name = format!("{MOMENTS}{}", value.name);
            let shape = shape::infer(&Op::ChannelMoments, &[value.shape])?;
            let value = Value { name: name.clone(), shape, dtype: DType::F32, ..value };
            let moments = push(&mut to, Op::ChannelMoments, &[id], value);
            to.outputs.push((name, moments));
        }
    }
    let attends = to.nodes.iter().any(|n| matches!(n.op, Op::Attention(_)));
    let unit = graph.values.iter().filter(|v| v.shape.h > 1 || v.shape.w > 1).map(|v| v.shape.h).min().unwrap_or(1);
    let halo = if attends { 0 } else { halo(&to, unit)? };
    verify::verify(&to)?;
    Ok(Segment { graph: to, reads, makes, norms: used, attends, halo })
}

fn push(graph: &mut Graph, op: Op, inputs: &[ValueId], value: Value) -> ValueId {
    graph.values.push(value);
    let output = ValueId(graph.values.len() as u32 - 1);
    graph.nodes.push(Node { op, inputs: inputs.to_vec(), output });
    output
}

/// Walks back from the outputs: how many pixels beyond its share each value is read, before and after; then the
/// largest of the inputs, in units of `unit` rows over the window. An output pixel `o` of a convolution reads
/// inputs `o * s - p .. o * s - p + k`.
fn halo(graph: &Graph, unit: u32) -> Result<u32> {
    let mut margin = vec![[0u32; 2]; graph.values.len()];
    let mut worst = 0;
    for node in graph.nodes.iter().rev() {
        let [before, after] = margin[node.output.0 as usize];
        let wide = match &node.op {
            Op::Conv2d(p) => {
                let (k, s, d) = (p.kernel[0], p.stride, p.padding);
                let first = before * s + d.top.max(d.left);
                let end = (after * s + k).saturating_sub(d.top.min(d.left) + s);
                if p.upsample.is_some() { [first.div_ceil(2), end.div_ceil(2)] } else { [first, end] }
            }
            Op::Upsample { .. } => [before.div_ceil(2), after.div_ceil(2)],
            Op::Input(_) => {
                let h = graph.value(node.output).shape.h;
                if graph.value(node.output).lifetime == Lifetime::Window {
                    worst = worst.max((before.max(after) * unit).div_ceil(h.max(1)));
                }
                continue;
            }
            Op::ChannelMoments
            | Op::Linear(_)
            | Op::LayerNorm(_)
            | Op::Pointwise(_)
            | Op::Slice { .. }
            | Op::Concat
            | Op::ChannelAffine(_)
            | Op::Modulate(_) => [before, after],
            Op::GroupNorm(_) | Op::Attention(_) | Op::TimeEmbedding(_) | Op::Resample(_) | Op::Rearrange(_) => {
                return Err(wrong(graph, format!("a {} has no halo", node.op.name())));
            }
        };
        for v in &node.inputs {
            let m = &mut margin[v.0 as usize];
            *m = [m[0].max(wide[0]), m[1].max(wide[1])];
        }
    }
    Ok(worst)
}

/// The same segment over `batch` windows of another size: `from` and `to` are the `[h, w]` of any one value.
pub fn resized(graph: &Graph, batch: u32, from: [u32; 2], to: [u32; 2]) -> Result<Graph> {
    let side = |v: u32, axis: usize| -> Result<u32> {
        let scaled = u64::from(v) * u64::from(to[axis]);
        if from[axis] == 0 || !scaled.is_multiple_of(from[axis].into()) {
            return Err(wrong(graph, format!("{v} pixels do not scale by {}/{}", to[axis], from[axis])));
        }
        crate::extent::to_u32("window", scaled / u64::from(from[axis]))
    };
    let name = graph.name.split(' ').next().unwrap_or_default();
    let mut out = Graph { name: format!("{name} {}x{} b{batch}", to[0], to[1]), ..graph.clone() };
    for i in 0..out.nodes.len() {
        if let Op::Upsample { size } = &mut out.nodes[i].op {
            *size = [side(size[0], 0)?, side(size[1], 1)?];
        }
        let node = out.nodes[i].clone();
        let value = &out.values[node.output.0 as usize];
        let s = value.shape;
        let shape = if let Op::Input(lifetime) = node.op {
            // Factors have one row per item.
            let [h, w] = if lifetime == Lifetime::Window { [side(s.h, 0)?, side(s.w, 1)?] } else { [s.h, s.w] };
            Shape { n: batch, h, w, ..s }
        } else {
            shape::infer(&node.op, &shape::of(&out, &node.inputs))?
        };
        out.values[node.output.0 as usize].shape = shape;
    }
    if let Some(v) = out.values.first() {
        out.name = format!("{} {}", out.name, v.dtype.name());
    }
    verify::verify(&out)?;
    Ok(out)
}
