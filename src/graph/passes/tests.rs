//! What each pass folds, and what it must leave alone. That the function stays the same is shown on random
//! graphs by the integration tests.

use super::super::op::{Lifetime, Padding};
use super::super::{Act, Builder, DType, Op, Shape, ValueId};
use super::*;

fn input(b: &mut Builder, name: &str, c: u32) -> ValueId {
    b.input(name, Shape::new(1, 8, 8, c), DType::F16, Lifetime::Window)
}

/// A builder with one f16 input of 8 channels.
fn start() -> (Builder, ValueId) {
    let mut b = Builder::new("g", DType::F16);
    let x = input(&mut b, "x", 8);
    (b, x)
}

fn fused(mut b: Builder, y: ValueId) -> Graph {
    b.output("y", y);
    fuse(b.finish()).expect("fuses")
}

fn names(g: &Graph) -> Vec<&'static str> {
    g.nodes.iter().map(|n| n.op.name()).collect()
}

fn conv3(b: &mut Builder, name: &str, x: ValueId) -> ValueId {
    b.conv(name, x, 8, 3, 1, Padding::all(1)).expect("conv")
}

#[test]
fn both_readers_of_a_concatenation_take_both_sources() {
    let (mut b, x) = start();
    let x2 = input(&mut b, "x2", 16);
    let both = b.push("cat", Op::Concat, &[x, x2]).expect("concat");
    let norm = b.group_norm("norm", both, 4, 1e-5, Act::Silu).expect("norm");
    let main = b.conv("main", norm, 8, 3, 1, Padding::all(1)).expect("conv");
    let shortcut = b.conv("shortcut", both, 8, 1, 1, Padding::default()).expect("conv");
    let y = b.add("sum", main, shortcut).expect("add");
    let g = fused(b, y);
    assert_eq!(names(&g), ["input", "input", "group_norm", "conv2d", "conv2d"]);
    assert_eq!((g.nodes[2].inputs.len(), g.value(g.nodes[2].output).shape.c), (2, 24));
    // The 3x3 convolution is deeper than the shortcut, so it takes the sum, and the shortcut stays free.
    let takers: Vec<(u32, bool)> = g
        .nodes
        .iter()
        .filter_map(|n| if let Op::Conv2d(p) = &n.op { Some((p.kernel[0], p.residual)) } else { None })
        .collect();
    assert_eq!(takers, [(1, false), (3, true)]);
}

#[test]
fn a_concatenation_that_nothing_can_take_in_is_refused() {
    let (mut b, x) = start();
    let both = b.push("cat", Op::Concat, &[x, x]).expect("concat");
    let y = b.activation("act", both, Act::Silu).expect("act");
    b.output("y", y);
    let e = fuse(b.finish()).expect_err("left");
    assert!(e.message().contains("a concat is left"), "{e}");
}

#[test]
fn a_doubling_joins_its_convolution() {
    let (mut b, x) = start();
    let up = b.push("up", Op::Upsample { size: [15, 16] }, &[x]).expect("upsample");
    let y = conv3(&mut b, "conv", up);
    let g = fused(b, y);
    assert_eq!(names(&g), ["input", "conv2d"]);
    assert!(matches!(&g.nodes[1].op, Op::Conv2d(p) if p.upsample == Some([15, 16])));
}

#[test]
fn activations_and_sums_join_products_but_only_where_nothing_else_reads_them() {
    let (mut b, x) = start();
    let first = conv3(&mut b, "first", x);
    let act = b.activation("act", first, Act::Silu).expect("act");
    let second = conv3(&mut b, "second", act);
    let sum = b.add("sum", x, second).expect("add");
    // `sum` has two readers: the activation must not swallow it, nor the sum's own product.
    let late = b.activation("late", sum, Act::Gelu).expect("act");
    let y = b.add("y", late, sum).expect("add");
    let g = fused(b, y);
    assert_eq!(names(&g), ["input", "conv2d", "conv2d", "pointwise", "pointwise"]);
    assert!(matches!(&g.nodes[1].op, Op::Conv2d(p) if p.act == Act::Silu && !p.residual));
    assert!(matches!(&g.nodes[2].op, Op::Conv2d(p) if p.act == Act::None && p.residual));
    assert_eq!(g.value(g.nodes[2].output).name, "sum");
}

#[test]
fn what_runs_once_per_job_is_not_pulled_into_the_launch() {
    let mut b = Builder::new("g", DType::F32);
    let job = b.input("job", Shape::new(1, 8, 8, 8), DType::F32, Lifetime::Job);
    let x = b.input("x", Shape::new(1, 8, 8, 8), DType::F32, Lifetime::Window);
    let made = b.conv_as("conv", job, 8, 3, 1, Padding::all(1), DType::F32).expect("conv");
    let y = b.add("sum", made, x).expect("add");
    let g = fused(b, y);
    assert_eq!(names(&g), ["input", "input", "conv2d", "pointwise"]);
}

#[test]
fn projections_stack_as_far_as_their_sources_agree() {
    let (mut b, x) = start();
    let context = b.input("context", Shape::new(2, 1, 5, 12), DType::F16, Lifetime::Context);
    let attend = |b: &mut Builder, name: &str, source: ValueId| {
        b.module(name, |b| {
            let q = b.linear("to_q", x, 16, false)?;
            let k = b.linear("to_k", source, 16, false)?;
            let v = b.linear("to_v", source, 16, false)?;
            b.attention("y", [q, k, v], 2, 0.5)
        })
        .expect("attention")
    };
    let (own, cross) = (attend(&mut b, "own", x), attend(&mut b, "cross", context));
    let y = b.add("sum", own, cross).expect("add");
    let g = fused(b, y);
    assert_eq!(names(&g), ["input", "input", "linear", "attention", "linear", "linear", "attention", "pointwise"]);
    let offsets: Vec<[u32; 3]> = g
        .nodes
        .iter()
        .filter_map(|n| if let Op::Attention(p) = &n.op { Some([p.q_offset, p.k_offset, p.v_offset]) } else { None })
        .collect();
    assert_eq!(offsets, [[0, 16, 32], [0, 0, 16]]);
    assert_eq!(g.value(g.nodes[2].output).name, "own.to_q+to_k+to_v");
    assert_eq!(g.value(g.nodes[2].output).shape.c, 48);
}

#[test]
fn projections_of_different_bias_stay_apart() {
    let (mut b, x) = start();
    let q = b.linear("q", x, 16, true).expect("q");
    let k = b.linear("k", x, 16, false).expect("k");
    let v = b.linear("v", x, 16, true).expect("v");
    let y = b.attention("y", [q, k, v], 2, 0.5).expect("attention");
    assert_eq!(names(&fused(b, y)), ["input", "linear", "linear", "linear", "attention"]);
}

#[test]
fn operands_that_disagree_in_type_are_cast_once() {
    let mut b = Builder::new("g", DType::F16);
    let wide = b.input("wide", Shape::new(1, 8, 8, 8), DType::F32, Lifetime::Window);
    let x = input(&mut b, "x", 8);
    let one = conv3(&mut b, "one", x);
    let one = b.add("a", one, wide).expect("add");
    let two = conv3(&mut b, "two", one);
    let y = b.add("b", two, wide).expect("add");
    let g = fused(b, y);
    // One cast of `wide` to f16 serves both residuals.
    assert_eq!(names(&g), ["input", "input", "pointwise", "conv2d", "conv2d"]);
    assert_eq!(g.value(g.nodes[2].output).name, "wide.as_f16");
    assert_eq!(g.nodes[3].inputs[1], g.nodes[4].inputs[1]);
}

#[test]
fn dead_values_go_and_inputs_stay() {
    let (mut b, x) = start();
    let unused = input(&mut b, "unused", 4);
    b.activation("dead", unused, Act::Silu).expect("act");
    let y = conv3(&mut b, "conv", x);
    assert_eq!(names(&fused(b, y)), ["input", "input", "conv2d"]);
}

#[test]
fn an_activation_behind_a_move_joins_the_product_before_it() {
    let (mut b, x) = start();
    let y = b.conv_transpose("up", x, 8, 4, 2, 1).expect("transposed");
    let y = b.activation("act", y, Act::LeakyRelu).expect("act");
    let g = fused(b, y);
    assert_eq!(names(&g), ["input", "conv2d", "rearrange"]);
    assert!(matches!(&g.nodes[1].op, Op::Conv2d(p) if p.act == Act::LeakyRelu), "{:?}", g.nodes[1].op);
    assert_eq!(g.value(g.outputs[0].1).name, "act");
    // What something else reads before the activation stays as it is.
    let (mut b, x) = start();
    let up = b.conv_transpose("up", x, 8, 2, 2, 0).expect("transposed");
    let y = b.activation("act", up, Act::Relu).expect("act");
    let y = b.add("sum", y, up).expect("add");
    assert_eq!(names(&fused(b, y)), ["input", "linear", "rearrange", "pointwise", "pointwise"]);
}
