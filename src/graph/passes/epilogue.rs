//! Activations and additions move into the product that makes their operand, where the accumulator still
//! is f32 and nothing has to be stored in between.

use super::super::op::{Act, Graph, Node, Op, Pointwise, ValueId};
use super::super::verify;
use crate::error::Result;

/// One sweep over the nodes. Nodes merge into `done`, whose entries never move: an activation joins its
/// product in place, an addition takes its product's node along to where both operands exist.
pub(super) fn fold(graph: &mut Graph) -> Result<()> {
    let uses = verify::uses(graph);
    let mut done: Vec<Option<Node>> = Vec::with_capacity(graph.nodes.len());
    let mut made: Vec<Option<usize>> = vec![None; graph.values.len()];
    // Longest way from the inputs, in nodes.
    let mut depth: Vec<u32> = vec![0; graph.values.len()];
    for node in std::mem::take(&mut graph.nodes) {
        // The product may take the pointwise node's place only if nothing else reads it, and if it does not
        // have to leave the once-per-job list for it.
        let fits = |v: ValueId, rule: fn(Room) -> bool| -> Option<usize> {
            let at = made[v.0 as usize]?;
            let product = done[at].as_ref()?;
            let same_life = graph.value(v).lifetime == graph.value(node.output).lifetime;
            (uses[v.0 as usize] == 1 && same_life && room(&product.op).is_some_and(rule)).then_some(at)
        };
        let mut place = done.len();
        let mut merged = node.clone();
        match &node.op {
            Op::Pointwise(p) if is_activation(p) => {
                // A move of pixels in between does not matter: activations keep zero, which is all that a move adds.
                let moved = made[node.inputs[0].0 as usize]
                    .filter(|_| uses[node.inputs[0].0 as usize] == 1)
                    .and_then(|at| done[at].clone().map(|n| (at, n)))
                    .filter(|(_, n)| matches!(n.op, Op::Rearrange(_)));
                if let Some((at, moved)) = moved {
                    if let Some(product) = fits(moved.inputs[0], |room| room.act)
                        && let Some(e) = done[product].as_mut().and_then(|n| epilogue(&mut n.op))
                    {
                        *e.act = p.act;
                        (place, merged) = (at, Node { output: node.output, ..moved });
                    }
                } else if let Some(at) = fits(node.inputs[0], |room| room.act)
                    && let Some(mut product) = done[at].take()
                {
                    if let Some(e) = epilogue(&mut product.op) {
                        *e.act = p.act;
                    }
                    product.output = node.output;
                    (place, merged) = (at, product);
                }
            }
            Op::Pointwise(p) if is_sum(p) => {
                let [a, b] = [node.inputs[0], node.inputs[1]];
                // Of two products the deeper one takes the addition: it has to come late anyway, and the
                // planner stays free to compute the shallow one (a shortcut) first, so that its input can die.
                let choice =
                    |v: ValueId, other| fits(v, |room| room.residual).map(|at| (depth[v.0 as usize], at, other));
                if let Some((_, at, other)) = choice(a, b).max(choice(b, a))
                    && let Some(mut product) = done[at].take()
                {
                    if let Some(e) = epilogue(&mut product.op) {
                        *e.residual = true;
                    }
                    product.inputs.push(other);
                    product.output = node.output;
                    merged = product;
                }
            }
            Op::Pointwise(_)
            | Op::Input(_)
            | Op::Conv2d(_)
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
            | Op::Modulate(_) => {}
        }
        let deepest = merged.inputs.iter().map(|v| depth[v.0 as usize]).max();
        depth[merged.output.0 as usize] = deepest.map_or(0, |d| d + 1);
        made[merged.output.0 as usize] = Some(place);
        if place == done.len() {
            done.push(Some(merged));
        } else {
            done[place] = Some(merged);
        }
    }
    super::rebuild(graph, done);
    Ok(())
}

fn is_activation(p: &Pointwise) -> bool {
    p.alpha == 1.0 && p.beta.is_none() && p.gamma == 0.0 && p.act != Act::None && p.clamp.is_none() && !p.table
}

fn is_sum(p: &Pointwise) -> bool {
    p.alpha == 1.0 && p.beta == Some(1.0) && p.gamma == 0.0 && p.act == Act::None && p.clamp.is_none() && !p.table
}

/// What a product does with its sums; other ops have no epilogue.
struct Epilogue<'a> {
    act: &'a mut Act,
    residual: &'a mut bool,
}

fn epilogue(op: &mut Op) -> Option<Epilogue<'_>> {
    match op {
        Op::Conv2d(p) => Some(Epilogue { act: &mut p.act, residual: &mut p.residual }),
        Op::Linear(p) => Some(Epilogue { act: &mut p.act, residual: &mut p.residual }),
        Op::Input(_)
        | Op::GroupNorm(_)
        | Op::LayerNorm(_)
        | Op::Attention(_)
        | Op::TimeEmbedding(_)
        | Op::Pointwise(_)
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

/// What an epilogue still has room for.
struct Room {
    residual: bool,
    act: bool,
}

/// Whether an addition, and whether an activation too, still fits: the activation of an epilogue comes before
/// the residual and after the GEGLU product, so a product that has either takes none.
fn room(op: &Op) -> Option<Room> {
    match op {
        Op::Conv2d(p) => Some(Room { residual: !p.residual, act: p.act == Act::None && !p.residual }),
        Op::Linear(p) => Some(Room { residual: !p.residual, act: p.act == Act::None && !p.residual && !p.geglu }),
        Op::Input(_)
        | Op::GroupNorm(_)
        | Op::LayerNorm(_)
        | Op::Attention(_)
        | Op::TimeEmbedding(_)
        | Op::Pointwise(_)
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
