//! The same network for other circumstances: fewer items a launch, a wider storage type. Both work on a graph
//! that was not fused yet, and keep every name, so that sources, sinks and weights stay what they were.

use super::op::{Graph, Lifetime, Op};
use super::{DType, verify};
use crate::error::Result;

/// `graph` with `items` items a launch. What an item gives does not depend on how many there are. Inputs of the job
/// that have one row an item keep as many rows as there are items.
pub fn with_items(graph: &Graph, items: u32) -> Result<Graph> {
    let per_item = per_item(graph);
    let mut graph = graph.clone();
    for (value, _) in graph.values.iter_mut().zip(&per_item).filter(|(_, per_item)| **per_item) {
        value.shape.n = items;
    }
    // Factors of channel affines are fixed for a job, one row per item all the same.
    for node in graph.nodes.iter().filter(|n| matches!(n.op, Op::ChannelAffine(_))) {
        graph.values[node.inputs[1].0 as usize].shape.n = items;
    }
    graph.name = format!("{} of {items}", graph.name);
    verify::verify(&graph)?;
    Ok(graph)
}

/// Which values have one row an item: all that differ between windows, and what lives longer but is laid beside
/// those, or is what that is made of.
fn per_item(graph: &Graph) -> Vec<bool> {
    let mut found: Vec<bool> = graph.values.iter().map(|v| v.lifetime == Lifetime::Window).collect();
    for node in graph.nodes.iter().rev().filter(|n| matches!(n.op, Op::Concat | Op::Pointwise(_) | Op::Modulate(_))) {
        if found[node.output.0 as usize] {
            let n = graph.value(node.output).shape.n;
            // A table of coefficients has its own rows.
            let beside = node
                .inputs
                .iter()
                .filter(|v| graph.value(**v).shape.pixels() == graph.value(node.output).shape.pixels());
            beside.filter(|v| graph.value(**v).shape.n == n).for_each(|v| found[v.0 as usize] = true);
        }
    }
    for node in graph.nodes.iter().rev() {
        if found[node.output.0 as usize] && graph.value(node.output).lifetime == Lifetime::Job {
            // A table of taps that is fixed for a job serves all items.
            let own = if matches!(node.op, Op::Resample(_)) { 1 } else { node.inputs.len() };
            node.inputs[..own].iter().for_each(|v| found[v.0 as usize] = true);
        }
    }
    found
}

/// `graph` with every value of a type other than `dtype` and f32 stored as `dtype`: for values that leave the
/// range of f16.
pub fn widened(graph: &Graph, dtype: DType) -> Result<Graph> {
    let mut graph = graph.clone();
    for value in graph.values.iter_mut().filter(|v| v.dtype != DType::F32) {
        value.dtype = dtype;
    }
    graph.name = format!("{} in {}", graph.name, dtype.name());
    verify::verify(&graph)?;
    Ok(graph)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::graph::op::Padding;
    use crate::graph::{Act, Builder, Shape, passes};

    fn graph(items: u32, dtype: DType) -> Graph {
        let mut b = Builder::new("net", dtype);
        let x = b.input("x", Shape::new(items, 4, 6, 8), dtype, Lifetime::Window);
        let t = b.input("t", Shape::new(3, 1, 1, 8), DType::F32, Lifetime::Step);
        let t = b.linear("time", t, 16, true).expect("linear");
        let y = b.conv("conv", x, 16, 3, 1, Padding::all(1)).expect("conv");
        let y = b.group_norm("norm", y, 4, 1e-5, Act::Silu).expect("norm");
        let y = b.conv_as("out", y, 16, 3, 1, Padding::all(1), DType::F32).expect("conv");
        // One row an item, though the same for all windows: what a constant plane beside a latent is.
        let plane = b.input("plane", Shape::new(items, 4, 6, 3), DType::F32, Lifetime::Job);
        let plane = b.activation("plane.silu", plane, Act::Silu).expect("activation");
        let both = b.push("both", Op::Concat, &[y, plane]).expect("concat");
        let y = b.conv_as("last", both, 16, 1, 1, Padding::default(), DType::F32).expect("conv");
        b.output("y", y);
        b.output("t", t);
        b.finish()
    }

    #[test]
    fn a_changed_graph_is_the_graph_that_would_have_been_built() {
        let same = |changed: &Graph, built: &Graph| {
            assert_eq!(
                (&changed.values, &changed.nodes, &changed.outputs),
                (&built.values, &built.nodes, &built.outputs)
            );
            passes::fuse(changed.clone()).expect("fuses");
        };
        same(&with_items(&graph(4, DType::F16), 1).expect("changes"), &graph(1, DType::F16));
        same(&widened(&graph(2, DType::F16), DType::F32).expect("changes"), &graph(2, DType::F32));
        same(&widened(&graph(2, DType::F16), DType::Bf16).expect("changes"), &graph(2, DType::Bf16));
        assert!(with_items(&graph(4, DType::F16), 0).is_err());
    }
}
