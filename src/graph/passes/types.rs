//! Kernels take operands of one type each (`abi::Types`): where a graph's values disagree, a cast is
//! stored once and shared.

use super::super::op::{Act, Graph, Node, Op, Pointwise, Value, ValueId};
use super::super::{DType, verify};
use crate::error::Result;
use std::collections::HashMap;

/// The type each input of `node` must have; `None` where any will do.
fn wanted(graph: &Graph, node: &Node) -> Vec<Option<DType>> {
    let dtype = |v: ValueId| graph.value(v).dtype;
    let y = dtype(node.output);
    let mut want = vec![None; node.inputs.len()];
    match &node.op {
        Op::Conv2d(p) => {
            if p.second {
                want[1] = Some(dtype(node.inputs[0]));
            }
            if p.residual {
                want[node.inputs.len() - 1] = Some(y);
            }
        }
        Op::Linear(p) => {
            if p.residual {
                want[1] = Some(y);
            }
        }
        Op::GroupNorm(p) => {
            if p.second {
                want[1] = Some(dtype(node.inputs[0]));
            }
        }
        Op::Attention(_) | Op::Modulate(_) => want[1..].fill(Some(dtype(node.inputs[0]))),
        Op::Resample(_) => want[1] = Some(DType::F32),
        Op::Pointwise(p) => {
            if p.beta.is_some() {
                // The wider of the two, so that nothing is lost before the sum.
                let [a, b] = [dtype(node.inputs[0]), dtype(node.inputs[1])];
                let wide = if a.bytes() >= b.bytes() { a } else { b };
                want[..2].fill(Some(wide));
            }
        }
        // Concat and Upsample are gone by now, or refused by the verifier.
        Op::Input(_)
        | Op::LayerNorm(_)
        | Op::TimeEmbedding(_)
        | Op::Slice { .. }
        | Op::Concat
        | Op::Upsample { .. }
        | Op::ChannelAffine(_)
        | Op::ChannelMoments
        | Op::Rearrange(_) => {}
    }
    if let Some(i) = verify::table_input(&node.op) {
        want[i] = Some(DType::F32);
    }
    want
}

/// Inserts the casts.
pub(super) fn unify(graph: &mut Graph) -> Result<()> {
    let mut casts: HashMap<(ValueId, DType), ValueId> = HashMap::new();
    let nodes = std::mem::take(&mut graph.nodes);
    for mut node in nodes {
        for (i, want) in wanted(graph, &node).into_iter().enumerate() {
            let from = node.inputs[i];
            let Some(dtype) = want.filter(|&d| d != graph.value(from).dtype) else { continue };
            node.inputs[i] = *casts.entry((from, dtype)).or_insert_with(|| {
                let value = graph.values[from.0 as usize].clone();
                let output = ValueId(graph.values.len() as u32);
                let name = format!("{}.as_{}", value.name, dtype.name());
                graph.values.push(Value { name, dtype, ..value });
                let op = Pointwise { alpha: 1.0, beta: None, gamma: 0.0, act: Act::None, clamp: None, table: false };
                graph.nodes.push(Node { op: Op::Pointwise(op), inputs: vec![from], output });
                output
            });
        }
        graph.nodes.push(node);
    }
    Ok(())
}
