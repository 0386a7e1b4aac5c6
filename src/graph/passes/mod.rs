//! The fusion passes: each turns a valid graph into a valid graph that computes the same function with
//! fewer values stored. The verifier runs after every one of them.

mod attention;
mod epilogue;
mod sources;
mod types;

use super::op::{Graph, Node, Op, ValueId};
use super::verify;
use crate::error::Result;

/// One pass: its name and what it does to a graph.
type Pass = (&'static str, fn(&mut Graph) -> Result<()>);

/// Every fusion pass, in the order they run. Sources come first because they decide which convolutions
/// stay plain enough to become matrix products; stacking comes after the epilogues because it wants bare
/// linears; casts come last because fusion changes who reads what.
const PASSES: [Pass; 7] = [
    ("concat", sources::fold_concat),
    ("upsample", sources::fold_upsample),
    ("linear", sources::conv_to_linear),
    ("epilogue", epilogue::fold),
    ("stack", attention::stack),
    ("dead", remove_dead),
    ("types", types::unify),
];

/// Fuses `graph`: no concatenation or upsampling is left, additions and activations sit in the products
/// that make their operand, q, k and v come from one product, every operand has the type its kernel wants.
/// The result computes the same function up to the rounding of values that are no longer stored.
pub fn fuse(graph: Graph) -> Result<Graph> {
    let mut graph = graph;
    verify::verify(&graph)?;
    for (name, pass) in PASSES {
        pass(&mut graph)?;
        verify::verify(&graph).map_err(|e| e.at(format!("after pass `{name}`")))?;
    }
    verify::lowered(&graph)?;
    Ok(graph)
}

/// Node that makes each value; `None` for a value that lost its node and waits for [`compact`].
fn producers(graph: &Graph) -> Vec<Option<usize>> {
    let mut producers = vec![None; graph.values.len()];
    for (i, node) in graph.nodes.iter().enumerate() {
        producers[node.output.0 as usize] = Some(i);
    }
    producers
}

/// Drops values that no node makes and renumbers the rest in their old order.
fn compact(graph: &mut Graph) {
    let made = producers(graph);
    let mut next = 0u32;
    let renumbered: Vec<u32> = made
        .iter()
        .map(|m| {
            next += u32::from(m.is_some());
            next.wrapping_sub(1)
        })
        .collect();
    let mut keep = made.iter().map(Option::is_some);
    graph.values.retain(|_| keep.next().unwrap_or(false));
    let renumber = |v: &mut ValueId| v.0 = renumbered[v.0 as usize];
    for node in &mut graph.nodes {
        node.inputs.iter_mut().for_each(renumber);
        renumber(&mut node.output);
    }
    graph.outputs.iter_mut().for_each(|(_, v)| renumber(v));
    graph.constants.retain(|(v, _)| made[v.0 as usize].is_some());
    graph.constants.iter_mut().for_each(|(v, _)| renumber(v));
}

/// Puts back the nodes a pass left over and renumbers the values.
fn rebuild(graph: &mut Graph, nodes: Vec<Option<Node>>) {
    graph.nodes = nodes.into_iter().flatten().collect();
    compact(graph);
}

/// Removes nodes whose value nothing reads. Inputs stay, constants apart: they are the graph's signature.
fn remove_dead(graph: &mut Graph) -> Result<()> {
    let mut live = vec![false; graph.values.len()];
    for (_, v) in &graph.outputs {
        live[v.0 as usize] = true;
    }
    for node in graph.nodes.iter().rev() {
        if live[node.output.0 as usize] {
            node.inputs.iter().for_each(|v| live[v.0 as usize] = true);
        }
    }
    let own: Vec<ValueId> = graph.constants.iter().map(|(v, _)| *v).collect();
    graph.nodes.retain(|n| live[n.output.0 as usize] || (matches!(n.op, Op::Input(_)) && !own.contains(&n.output)));
    compact(graph);
    Ok(())
}

#[cfg(test)]
mod tests;
