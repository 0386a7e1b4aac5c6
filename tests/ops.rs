//! Ops that the builder makes of others: small graphs from end to end, on every backend present, against the naive
//! interpreter.

use crate::interpreter::{self, Rows};
use crate::{reference, tolerance};
use std::collections::HashMap;
use tessera::abi::{Caps, Item};
use tessera::backend::Backend;
use tessera::graph::op::{Attention, Rearrange};
use tessera::graph::taps::Filter;
use tessera::graph::{Act, Builder, DType, Graph, Lifetime, Op, Shape};
use tessera::plan;
use tessera::plan::command::PackedWeight;
use tessera::run::executor::{Executor, SharedDevice};
use tessera::weights::recipe::{Tensor, pack};

const ITEMS: u32 = 2;

/// Numbers in [-1, 1) that only the name fixes.
fn numbers(name: &str, count: u64) -> Vec<f32> {
    let mut state = name.bytes().fold(0x811c_9dc5u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    let mut next = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) as f32 / (1 << 23) as f32 - 1.0
    };
    (0..count).map(|_| next()).collect()
}

/// A graph of one input `x` and one output `y`.
fn graph(dtype: DType, [h, w, c]: [u32; 3], body: impl FnOnce(&mut Builder) -> tessera::Result<()>) -> Graph {
    let mut b = Builder::new("ops", dtype);
    b.input("x", Shape::new(ITEMS, h, w, c), dtype, Lifetime::Window);
    body(&mut b).expect("builds");
    b.finish()
}

fn weights(graph: &Graph) -> impl FnMut(&PackedWeight) -> tessera::Result<Vec<u8>> + use<> {
    let count = |s: &[u64]| s.iter().product::<u64>();
    let sizes: HashMap<String, u64> = graph.weights.iter().map(|w| (w.name.clone(), count(&w.shape))).collect();
    move |w| {
        let values: Vec<Option<(&str, Vec<f32>)>> =
            w.tensors.iter().map(|n| n.as_deref().map(|n| (n, numbers(n, sizes[n])))).collect();
        let tensors: Vec<_> = values.iter().map(|t| t.as_ref().map(|(name, values)| Tensor { name, values })).collect();
        pack(&tensors, &w.packing, w.dtype)
    }
}

/// Runs `graph` on `backend` and returns the largest error as a part of the largest value.
fn error(graph: Graph, backend: Box<dyn Backend>) -> f64 {
    let x = graph.value(tessera::graph::ValueId(0)).shape;
    let values = numbers("x", u64::from(x.n) * x.pixels() * u64::from(x.c));
    let sizes: HashMap<&str, u64> = graph.weights.iter().map(|w| (w.name.as_str(), w.shape.iter().product())).collect();
    let inputs = HashMap::from([("x".to_owned(), values.clone())]);
    let items = [Rows::default(); ITEMS as usize];
    let expected = interpreter::run(&graph, &|n| numbers(n, sizes[n]), &inputs, &items)["y"].clone();

    let caps: Caps = backend.caps().clone();
    let mut source = weights(&graph);
    let plan = plan::compile(graph, &caps).expect("plans");
    assert!(plan.inputs.iter().map(|p| p.name.as_str()).eq(["x"]), "constants need not be given");
    let device = SharedDevice::new(backend);
    let mut executor = Executor::new(&device, plan, None, &mut source).expect("resident");
    executor.setup().expect("setup");
    executor.write_input("x", &values).expect("x");
    executor.run(&[Item::default(); ITEMS as usize]).expect("runs");
    let mut got = vec![0.0; expected.len()];
    executor.read_output("y", &mut got).expect("y");
    let largest = expected.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    assert!(largest > 0.0, "the result is nothing");
    got.iter().zip(&expected).fold(0.0f64, |m, (g, e)| m.max((f64::from(*g) - e).abs())) / largest
}

/// Holds the graph that `build` makes for a type to the interpreter.
fn hold(what: &str, build: &dyn Fn(DType) -> Graph) {
    let mut subjects: Vec<(&str, DType, Box<dyn Backend>)> =
        vec![("cpu", DType::F32, Box::new(tessera::backend::cpu::Cpu::new().expect("cpu")))];
    if reference::have_wgpu() {
        for dtype in [DType::F32, DType::F16] {
            subjects.push(("wgpu", dtype, Box::new(tessera::backend::wgpu::WgpuBackend::open(0).expect("wgpu"))));
        }
    }
    for (name, dtype, backend) in subjects {
        let allowed = if dtype == DType::F32 { tolerance::OPS_F32 } else { tolerance::OPS_F16 };
        let got = error(build(dtype), backend);
        println!("{what} on {name} in {}: {got:.1e}", dtype.name());
        assert!(got <= allowed, "{what} on {name} in {}: {got:.2e}", dtype.name());
    }
}

const X: tessera::graph::ValueId = tessera::graph::ValueId(0);

#[test]
fn resizes_bring_their_own_tables() {
    for (filter, to) in [
        (Filter::Nearest, [9, 26]),
        (Filter::Bilinear, [5, 40]),
        (Filter::BilinearCorners, [31, 13]),
        (Filter::Bicubic { a: -0.75, antialias: false }, [22, 19]),
        (Filter::Bicubic { a: -0.5, antialias: true }, [3, 5]),
    ] {
        hold(&format!("{filter:?}"), &|dtype| {
            graph(dtype, [11, 13, 12], |b| {
                let y = b.module("head", |b| b.resize("resize", X, to, filter))?;
                let y = b.activation("act", y, Act::LeakyRelu)?;
                b.output("y", y);
                Ok(())
            })
        });
    }
}

#[test]
fn transposed_convolutions_and_patches_are_products() {
    for (kernel, stride, padding) in [(2, 2, 0), (4, 4, 0), (4, 2, 1)] {
        hold(&format!("transposed {kernel} {stride} {padding}"), &|dtype| {
            graph(dtype, [5, 7, 12], |b| {
                let y = b.conv_transpose("up", X, 10, kernel, stride, padding)?;
                let y = b.activation("act", y, Act::LeakyRelu)?;
                b.output("y", y);
                Ok(())
            })
        });
    }
    hold("patches", &|dtype| {
        graph(dtype, [28, 14, 3], |b| {
            let y = b.patch_embed("patch_embed.projection", X, 20, 14)?;
            b.output("y", y);
            Ok(())
        })
    });
    let mut b = Builder::new("none", DType::F32);
    let x = b.input("x", Shape::new(1, 4, 4, 8), DType::F32, Lifetime::Window);
    let e = b.conv_transpose("up", x, 8, 3, 2, 1).expect_err("no such kernel");
    assert!(e.message().contains("kernel 3, stride 2"), "{e}");
}

#[test]
fn attention_in_windows_with_relative_positions() {
    for rows in [true, false] {
        hold(if rows { "windows" } else { "whole" }, &|dtype| {
            graph(dtype, [9, 6, 16], |b| {
                let size = 4;
                let x = if rows { b.rearrange("windows", X, Rearrange::Windows { size })? } else { X };
                let [rh, rw] = if rows { [size; 2] } else { [9, 6] };
                let [q, k, v] = [b.linear("q", x, 16, true)?, b.linear("k", x, 16, true)?, b.linear("v", x, 16, true)?];
                let heads = b.rearrange("heads", q, Rearrange::SplitChannels { parts: 2 })?;
                let rel = b.linear("rel", heads, 2 * (rh + rw) - 2, false)?;
                let op = Attention {
                    heads: 2,
                    head_dim: 8,
                    scale: 0.35,
                    q_offset: 0,
                    k_offset: 0,
                    v_offset: 0,
                    causal: false,
                    rows,
                    relative: Some([rh, rw]),
                };
                let mut y = b.push("attention", Op::Attention(op), &[q, k, v, rel])?;
                if rows {
                    y = b.rearrange("back", y, Rearrange::Unwindows { size, to: [9, 6] })?;
                }
                let gb = b.linear("gb", y, 32, true)?;
                let y = b.modulate("modulate", y, gb, Act::Silu)?;
                b.output("y", y);
                Ok(())
            })
        });
    }
}

/// A graph brings constants of one item along, whatever its batch; a program is not asked for them.
#[test]
fn constants_serve_every_item() {
    hold("constant", &|dtype| {
        graph(dtype, [4, 6, 8], |b| {
            let shape = Shape::new(ITEMS, 4, 6, 8);
            let position = b.constant("position", shape, numbers("position", 4 * 6 * 8));
            let y = b.add("sum", X, position)?;
            let y = b.rearrange("drop", y, Rearrange::Pixels { begin: 4, size: [4, 5] })?;
            b.output("y", y);
            Ok(())
        })
    });
    let mut b = Builder::new("short", DType::F32);
    let x = b.constant("x", Shape::new(1, 1, 2, 2), vec![0.0; 3]);
    b.output("y", x);
    let e = tessera::graph::verify::verify(&b.finish()).expect_err("3 values for 4");
    assert!(e.message().contains("3 values"), "{e}");
}
