//! Memory: weights that are streamed, networks that take turns, caps that hold, and advice that works.

use crate::source;
use std::sync::Arc;
use tessera::abi::{Caps, Item};
use tessera::backend::Backend;
use tessera::backend::cpu::Cpu;
use tessera::backend::null::Null;
use tessera::backend::wgpu::{WgpuBackend, adapters};
use tessera::graph::DType;
use tessera::knobs;
use tessera::plan::command::Plan;
use tessera::plan::{self, stream};
use tessera::run::executor::{Executor, SharedDevice, SharedWeights};
use tessera::system::onestep::OneStep;

fn shipped() -> OneStep {
    OneStep::open(&source::root().join("weights/onestep")).expect("the shipped model opens")
}

fn packed(model: &OneStep) -> SharedWeights {
    let files = model.checkpoints().expect("checkpoints");
    Arc::new(move |w| files.packed(&w.tensors, &w.packing, w.dtype))
}

/// Smooth values with an edge, different for each `seed`.
fn values(n: usize, seed: usize) -> Vec<f32> {
    (0..n).map(|i| ((i * (seed + 3)) % 251) as f32 / 251.0 - 0.5 + if i % 97 > 48 { 0.3 } else { 0.0 }).collect()
}

/// Two launches with different windows; what came out.
fn results(executor: &mut Executor) -> Vec<Vec<f32>> {
    let planes = executor.plan().input("planes").expect("planes").shape;
    executor.write_input("planes", &values((planes.pixels() * 3) as usize, 1)).expect("planes");
    executor.write_input("unet.timestep", &[999.0]).expect("timestep");
    executor.setup().expect("setup");
    let window = executor.plan().input("window").expect("window").shape;
    let n = (window.pixels() * 3) as usize;
    (0..2)
        .map(|seed| {
            executor.write_input("window", &values(n, seed)).expect("window");
            executor.run(&[Item::default()]).expect("runs");
            let mut out = vec![0.0; n];
            executor.read_output("result", &mut out).expect("result");
            out
        })
        .collect()
}

fn same_bits(a: &[Vec<f32>], b: &[Vec<f32>]) -> bool {
    a.iter().flatten().map(|v| v.to_bits()).eq(b.iter().flatten().map(|v| v.to_bits()))
}

/// The shipped networks with resident and with streamed weights, on windows of 64.
pub(crate) fn hold_streamed(open: &dyn Fn() -> Box<dyn Backend>) {
    let model = shipped();
    let device = SharedDevice::new(open());
    let caps = device.caps();
    let plan: Plan = plan::compile(model.graph(1, 64, 64, 1, caps.storage).expect("graph"), &caps).expect("plan");
    let source = packed(&model);
    let own = source.clone();
    let mut resident = Executor::new(&device, plan.clone(), None, &mut |w| own(w)).expect("resident");
    let want = results(&mut resident);
    drop(resident);
    let least = stream::largest_command(&plan);
    let weights = plan.cost.weight_bytes;
    for (piece, keep) in [(least, 0), (least, u64::MAX), (weights / 3, weights / 2), (2 * weights, 0)] {
        let streamed = stream::stream(&plan, piece).expect("cut");
        let mut executor = Executor::streamed(&device, &streamed, source.clone(), keep).expect("ready");
        let pieces = streamed.body.len();
        println!("{}: {pieces} pieces of at most {} bytes", caps.name, streamed.largest_piece());
        assert!(streamed.largest_piece() <= piece && (piece != least || pieces > 4));
        for _ in 0..2 {
            assert!(same_bits(&results(&mut executor), &want), "pieces of {piece}, {keep} bytes kept");
        }
    }
    assert_eq!(device.allocated(), 0, "everything is given back");
}

#[test]
fn streamed_weights_give_the_same_bytes_on_cpu() {
    hold_streamed(&|| Box::new(Cpu::new().expect("cpu")));
}

#[test]
fn streamed_weights_give_the_same_bytes_through_wgpu() {
    if adapters().is_empty() {
        assert!(!knobs::is_on("TESSERA_REQUIRE_WGPU"), "no wgpu adapter, and one is required");
        println!("SKIPPED: streamed weights through wgpu: no adapter");
        return;
    }
    hold_streamed(&|| Box::new(WgpuBackend::open(0).expect("opens")));
}

#[test]
fn streamed_plans_pass_the_null_backend() {
    for caps in [Caps::cpu(), Caps::wgpu_default(), Caps::cuda_default()] {
        let caps = Caps { storage: if caps.name == "cpu" { DType::F32 } else { DType::F16 }, ..caps };
        let model = shipped();
        let device = SharedDevice::new(Box::new(Null::new(caps.clone())));
        let graph = model.graph(2, 128, 64, 1, caps.storage).expect("graph");
        let plan = plan::compile(graph, &caps).expect("plan");
        let streamed = stream::stream(&plan, stream::largest_command(&plan)).expect("cut");
        // Every command is in exactly one piece, in order.
        for (pieces, list) in [(&streamed.setup, &plan.setup), (&streamed.body, &plan.body)] {
            let ends: Vec<usize> = pieces.iter().map(|p| p.commands.end).collect();
            let starts: Vec<usize> = pieces.iter().map(|p| p.commands.start).collect();
            assert_eq!(starts.first().copied().unwrap_or(0), 0);
            assert_eq!(ends.last().copied().unwrap_or(0), list.len());
            assert!(starts.iter().skip(1).eq(ends.iter().take(ends.len().saturating_sub(1))));
            assert!(pieces.windows(2).all(|p| p[0].ring != p[1].ring));
        }
        let mut executor = Executor::streamed(&device, &streamed, packed(&model), 0).expect("ready");
        executor.setup().expect_err("inputs of the job are missing");
        let planes = executor.plan().input("planes").expect("planes").shape;
        executor.write_input("planes", &vec![0.5; (planes.pixels() * 3) as usize]).expect("planes");
        executor.write_input("unet.timestep", &[999.0]).expect("timestep");
        executor.setup().expect("setup");
        executor.write_input("window", &vec![0.5; 128 * 64 * 3]).expect("window");
        executor.run(&[Item::default()]).expect("every check of the null backend");
        assert_eq!(stream::stream(&plan, 1).expect_err("too small").kind(), tessera::Kind::Internal);
    }
}
