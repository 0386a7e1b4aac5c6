//! q, k and v of one input become one product whose output attention reads by channel offset; k and v
//! of one context likewise. One wide product keeps a device busier than three narrow ones.

use super::super::layout::Order;
use super::super::op::{Act, Attention, Graph, Linear, Node, Op, Value, ValueId};
use super::super::verify;
use super::producers;
use crate::error::Result;
use crate::extent::CHANNEL_ALIGN;

/// Stacks the projections of every attention node as far as they allow it.
pub(super) fn stack(graph: &mut Graph) -> Result<()> {
    let uses = verify::uses(graph);
    let made = producers(graph);
    let mut nodes: Vec<Option<Node>> = graph.nodes.iter().cloned().map(Some).collect();
    for i in 0..nodes.len() {
        let Some(Node { op: Op::Attention(p), inputs, output }) = nodes[i].clone() else { continue };
        // All three if they can be, else keys and values.
        for first in [0, 1] {
            if let Some(group) = bare_linears(graph, &nodes, &made, &uses, &inputs[first..3]) {
                let (product, offsets) = merge(graph, &nodes, &group);
                let mut inputs = inputs.clone();
                inputs[first..3].fill(product.output);
                for &at in &group {
                    nodes[at] = None;
                }
                let at = group.iter().copied().min().unwrap_or(i);
                nodes[at] = Some(product);
                let op = Op::Attention(shift(p, first, &offsets));
                nodes[i] = Some(Node { op, inputs, output });
                break;
            }
        }
    }
    super::rebuild(graph, nodes);
    Ok(())
}

/// The nodes that make `values`, if all are plain one-weight linears of one input, read only here, with
/// the same type and lifetime, and with channels that end on the pitch (all but the last).
fn bare_linears(
    graph: &Graph,
    nodes: &[Option<Node>],
    made: &[Option<usize>],
    uses: &[u32],
    values: &[ValueId],
) -> Option<Vec<usize>> {
    let mut found: Vec<(usize, &Node, &Linear)> = Vec::with_capacity(values.len());
    for v in values {
        // Values added by this pass are past the end of `made`: they are stacked already.
        let at = (*made.get(v.0 as usize)?)?;
        let node = nodes[at].as_ref()?;
        let Op::Linear(p) = &node.op else { return None };
        let plain = p.weights.iter().chain(&p.biases).all(|w| graph.weight(*w).order == Order::Stored);
        let bare = p.weights.len() == 1 && plain && !p.geglu && !p.residual && p.act == Act::None;
        if !bare || uses[v.0 as usize] != 1 || found.iter().any(|(other, ..)| *other == at) {
            return None;
        }
        found.push((at, node, p));
    }
    let (_, first, p0) = *found.first()?;
    let model = graph.value(first.output);
    for (i, (_, node, p)) in found.iter().enumerate() {
        let value = graph.value(node.output);
        let alike = node.inputs == first.inputs
            && p.biases.len() == p0.biases.len()
            && (value.dtype, value.lifetime) == (model.dtype, model.lifetime);
        let aligned = i + 1 == found.len() || u64::from(p.out_channels) % CHANNEL_ALIGN == 0;
        if !alike || !aligned {
            return None;
        }
    }
    Some(found.iter().map(|(at, ..)| *at).collect())
}

/// The stacked product of the linears at `group`, with a new value, and each part's first channel.
fn merge(graph: &mut Graph, nodes: &[Option<Node>], group: &[usize]) -> (Node, Vec<u32>) {
    let mut total = Linear {
        weights: Vec::new(),
        biases: Vec::new(),
        out_channels: 0,
        geglu: false,
        residual: false,
        act: Act::None,
    };
    let (mut offsets, mut inputs, mut model, mut name) = (Vec::new(), Vec::new(), None, String::new());
    for node in group.iter().filter_map(|&at| nodes[at].as_ref()) {
        let Op::Linear(p) = &node.op else { continue };
        offsets.push(total.out_channels);
        total.weights.extend(&p.weights);
        total.biases.extend(&p.biases);
        total.out_channels += p.out_channels;
        let value = graph.value(node.output);
        if name.is_empty() {
            name.clone_from(&value.name);
        } else {
            name = format!("{name}+{}", value.name.rsplit('.').next().unwrap_or_default());
        }
        inputs.clone_from(&node.inputs);
        model.get_or_insert_with(|| value.clone());
    }
    let output = ValueId(graph.values.len() as u32);
    if let Some(value) = model {
        graph.values.push(Value { name, shape: value.shape.with_c(total.out_channels), ..value });
    }
    (Node { op: Op::Linear(total), inputs, output }, offsets)
}

/// The attention with the offsets of its operands `first..` moved to their place in the stack.
fn shift(p: Attention, first: usize, offsets: &[u32]) -> Attention {
    let mut at = [p.q_offset, p.k_offset, p.v_offset];
    for (slot, offset) in at[first..].iter_mut().zip(offsets) {
        *slot += offset;
    }
    Attention { q_offset: at[0], k_offset: at[1], v_offset: at[2], ..p }
}
