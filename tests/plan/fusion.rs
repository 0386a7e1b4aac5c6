//! Fused graphs compute what the graphs they came from compute, by the naive interpreter.

use super::random::random_graph;
use crate::interpreter::{self, Rows};
use crate::tolerance;
use std::collections::HashMap;
use tessera::graph::{DType, Graph, passes};

/// Numbers in [-1, 1) that only the name fixes.
fn numbers(name: &str, count: u64) -> Vec<f32> {
    let mut state = name.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

fn evaluate(graph: &Graph) -> HashMap<String, Vec<f64>> {
    let shapes: HashMap<&str, u64> =
        graph.weights.iter().map(|w| (w.name.as_str(), w.shape.iter().product::<u64>())).collect();
    let inputs = graph.inputs().map(|(v, _)| graph.value(v));
    let inputs = inputs.map(|v| {
        (v.name.clone(), numbers(&v.name, v.shape.elements() / u64::from(v.shape.pitch()) * u64::from(v.shape.c)))
    });
    let items = [Rows { step: 2, context: 1 }, Rows { step: 0, context: 0 }, Rows { step: 3, context: 1 }];
    let mut all = interpreter::run(graph, &|name| numbers(name, shapes[name]), &inputs.collect(), &items);
    all.retain(|name, _| graph.outputs.iter().any(|(n, _)| n == name));
    all
}

/// In f64 both forms differ by the order of a few sums at most.
#[test]
fn fused_random_graphs_compute_the_same_function() {
    let mut changed = 0;
    for seed in 0..48 {
        let graph = random_graph(seed, &[DType::F32, DType::F16]);
        let fused = passes::fuse(graph.clone()).expect("fuses");
        changed += usize::from(fused.nodes.len() < graph.nodes.len());
        let (plain, fused) = (evaluate(&graph), evaluate(&fused));
        assert_eq!(plain.len(), fused.len());
        for (name, want) in &plain {
            let scale = want.iter().fold(1.0f64, |m, v| m.max(v.abs()));
            let worst = want.iter().zip(&fused[name]).map(|(a, b)| (a - b).abs()).fold(0.0, f64::max) / scale;
            assert!(worst <= tolerance::FUSION_F64, "graph {seed}, {name}: {worst:e}");
        }
    }
    assert!(changed > 40, "{changed} graphs of 48 were fused at all");
}
