//! Memory: weights that are streamed, networks that take turns, caps that hold, and advice that works.

use crate::source;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tessera::abi::{Caps, Item};
use tessera::backend::Backend;
use tessera::backend::cpu::Cpu;
use tessera::backend::null::Null;
use tessera::backend::wgpu::{WgpuBackend, adapters};
use tessera::graph::DType;
use tessera::image::{self, Colour, Depth, Format, Header};
use tessera::knobs;
use tessera::plan::command::{Plan, Slot, SlotKind};
use tessera::plan::{self, stream};
use tessera::run::budget;
use tessera::run::executor::{Executor, SharedDevice, SharedWeights};
use tessera::run::{Cancel, Engine, Report, Sampler, Silent, Size, UpscaleOptions, VaeMode, upscale_with};
use tessera::system::onestep::{Conditioning, OneStep};
use tessera::system::{Job, System};

/// A job of the one-step system, `scale` times as large.
pub(crate) fn job(target: [u32; 2], scale: u32) -> Job {
    let conditioning = Conditioning { noise: 0.0, jpeg: 0.0, scale: scale.into(), cascaded: false };
    let (source, sampler) = (target.map(|side| side / scale), Sampler::default());
    Job { source, target, conditioning, seed: 0, sampler, keep_stages: false }
}

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
pub(crate) fn hold_streamed(open: &dyn Fn() -> Box<dyn Backend>, rounds: usize) {
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
    for (piece, keep) in
        [(least, 0), (least, u64::MAX), (weights / 3, weights / 2), (2 * weights, 0)].into_iter().take(rounds)
    {
        let streamed = stream::stream(&plan, piece).expect("cut");
        let mut executor = Executor::streamed(&device, &streamed, source.clone(), keep).expect("ready");
        let pieces = streamed.body.len();
        println!("{}: {pieces} pieces of at most {} bytes", caps.name, streamed.largest_piece());
        assert!(streamed.largest_piece() <= piece && (piece != least || pieces > 4));
        for _ in 0..rounds.min(2) {
            assert!(same_bits(&results(&mut executor), &want), "pieces of {piece}, {keep} bytes kept");
        }
    }
    assert_eq!(device.allocated(), 0, "everything is given back");
}

#[test]
fn streamed_weights_give_the_same_bytes_on_cpu() {
    hold_streamed(&|| Box::new(Cpu::new().expect("cpu")), 4);
}

#[test]
fn streamed_weights_give_the_same_bytes_through_wgpu() {
    if adapters().is_empty() {
        assert!(!knobs::is_on("TESSERA_REQUIRE_WGPU"), "no wgpu adapter, and one is required");
        println!("SKIPPED: streamed weights through wgpu: no adapter");
        return;
    }
    hold_streamed(&|| Box::new(WgpuBackend::open(0).expect("opens")), 4);
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

/// A picture of `width x height` with a gradient and edges, and an empty folder beside it.
pub(crate) fn picture(folder: &Path, width: u64, height: u64, colour: Colour) -> PathBuf {
    let path = folder.join("in.png");
    let header = Header { width, height, colour, depth: Depth::Eight, icc: None, format: Format::Png, notes: vec![] };
    let mut sink = image::create(&path, &header, true).expect("sink");
    let channels = colour.channels();
    for y in 0..height {
        let row: Vec<f32> = (0..width as usize * channels)
            .map(|i| {
                let (x, c) = (i / channels, i % channels);
                let edge = if (x / 7 + y as usize / 5).is_multiple_of(2) { 0.2 } else { 0.0 };
                (x as f32 / width as f32 * 0.5 + y as f32 / height as f32 * 0.3 + edge + c as f32 * 0.02).min(1.0)
            })
            .collect();
        sink.write_row(&row).expect("row");
    }
    sink.finish().expect("picture");
    path
}

pub(crate) fn options(folder: &Path, input: &Path, scale: f64, device: &str) -> UpscaleOptions {
    let mut options = UpscaleOptions::new(input, Size::Scale(scale));
    options.model = Some(source::root().join("weights/onestep"));
    options.output = Some(folder.join("out.png"));
    options.overwrite = true;
    options.device = device.into();
    options
}

pub(crate) fn run(engine: &mut Engine, options: &UpscaleOptions) -> Result<Report, tessera::Error> {
    upscale_with(engine, options, &mut Silent, &Cancel::new())
}

/// The smallest caps that a refusal names, typed into the options.
fn as_advised(options: &UpscaleOptions, e: &tessera::Error) -> UpscaleOptions {
    assert_eq!(e.kind(), tessera::Kind::Memory, "{e}");
    let advice = e.advice().expect("advice");
    let number = |option: &str| {
        let text = advice.split(option).nth(1)?.trim_start().split("MiB").next()?;
        Some(text.parse::<u64>().unwrap_or_else(|_| panic!("{advice}")) << 20)
    };
    let mut advised = options.clone();
    assert!(number("--vram").or(number("--ram")).is_some(), "{advice}");
    advised.vram = number("--vram").or(options.vram);
    advised.ram = number("--ram").or(options.ram);
    advised
}

/// A smaller cap is refused, and what the refusal advises works; one MiB less does not.
fn hold_advice(engine: &mut Engine, options: &UpscaleOptions) {
    let mut options = options.clone();
    options.dry_run = true;
    let e = run(engine, &options).expect_err("too little");
    let advised = as_advised(&options, &e);
    let report = run(engine, &advised).unwrap_or_else(|again| panic!("{e} and then {again}"));
    assert!(advised.vram.is_none_or(|cap| report.device_bytes <= cap), "{report:?}");
    assert!(advised.ram.is_none_or(|cap| report.host_bytes <= cap), "{report:?}");
    // Of the caps that it names: one that was large enough may be larger than needed.
    let named = |cap: Option<u64>, option| {
        cap.map(|v| v - if e.advice().is_some_and(|a| a.contains(option)) { 1 << 20 } else { 0 })
    };
    for less in [
        UpscaleOptions { vram: named(advised.vram, "--vram"), ..advised.clone() },
        UpscaleOptions { ram: named(advised.ram, "--ram"), ..advised.clone() },
    ] {
        if less != advised {
            match run(engine, &less) {
                Err(less) => assert_eq!(less.kind(), tessera::Kind::Memory),
                Ok(report) => panic!("{e}, but {:?} works: {}", report.bounds, report.residency),
            }
        }
    }
}

/// With less and less device memory, by `step` bytes, until nothing fits: the bytes of the job with all that it wants.
fn hold_turns(engine: &mut Engine, mut options: UpscaleOptions, step: u64) {
    let all = run(engine, &options).expect("upscaled");
    assert!(all.residency.contains("all networks"), "{}", all.residency);
    let want = std::fs::read(&all.path).expect("written");
    let mut seen = vec![all.residency.clone()];
    let mut cap = all.device_bytes - 1;
    loop {
        (options.vram, options.dry_run) = (Some(cap), true);
        let Ok(dry) = run(engine, &options) else { break };
        cap -= step;
        if seen.contains(&dry.residency) {
            continue;
        }
        seen.push(dry.residency.clone());
        options.dry_run = false;
        let turns = run(engine, &options).expect("upscaled");
        assert_eq!(turns.residency, dry.residency);
        assert!(turns.device_peak > 0 && turns.device_peak <= options.vram.expect("set"), "{turns:?}");
        assert!(turns.device_bytes < all.device_bytes);
        assert_eq!(turns.allocations.device_before, turns.allocations.device_after);
        let got = std::fs::read(&turns.path).expect("written");
        assert!(got == want, "{:?}, {}", options.input, turns.residency);
    }
    println!("{} bytes for all, then down to {cap}: {seen:?}", all.device_bytes);
    assert!(seen.iter().any(|r| r == "one network at a time"), "{seen:?}");
    assert!(seen.iter().any(|r| r.contains("streamed")), "{seen:?}");
}

#[test]
fn networks_in_turn_give_the_bytes_of_all_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    let mut engine = Engine::open("cpu", None).expect("cpu");
    for colour in [Colour::Rgb, Colour::Rgba, Colour::Gray] {
        let input = picture(folder.path(), 70, 45, colour);
        let options = UpscaleOptions { tile: Some(64), ..options(folder.path(), &input, 2.0, "cpu") };
        hold_turns(&mut engine, options, 32 << 10);
    }
}

#[test]
fn networks_of_cascades_take_turns_and_are_streamed() {
    let folder = tempfile::tempdir().expect("folder");
    let mut engine = Engine::open("cpu", None).expect("cpu");
    let input = picture(folder.path(), 36, 30, Colour::Rgb);
    for (system, scale, tile) in [("casr", 5.5, 64), ("casarbi", 3.3, 48)] {
        let mut options = options(folder.path(), &input, scale, "cpu");
        options.model = Some(source::root().join("tests/data").join(system).join("model"));
        (options.system, options.tile) = (Some(system.into()), Some(tile));
        hold_turns(&mut engine, options, 8 << 10);
    }
}

/// The autoencoder over canvases: of `exact` and `shared`, whose parts go over a picture row by row, all parts are one network.
#[test]
fn networks_between_latents_take_turns_and_are_streamed() {
    let folder = tempfile::tempdir().expect("folder");
    let mut engine = Engine::open("cpu", None).expect("cpu");
    let input = picture(folder.path(), 36, 30, Colour::Rgb);
    for (system, scale) in [("casr", 5.5), ("onestep", 2.0)] {
        for vae in [VaeMode::Whole, VaeMode::Exact, VaeMode::Shared] {
            let mut options = options(folder.path(), &input, scale, "cpu");
            if system == "casr" {
                options.model = Some(source::root().join("tests/data/casr/model"));
            }
            (options.system, options.tile, options.vae) = (Some(system.into()), Some(64), vae);
            println!("{system}, --vae {}", vae.name());
            hold_turns(&mut engine, options, 48 << 10);
        }
    }
}

#[test]
fn a_refusal_names_caps_that_work() {
    let folder = tempfile::tempdir().expect("folder");
    let input = picture(folder.path(), 300, 200, Colour::Rgba);
    let mut cpu = Engine::open("cpu", None).expect("cpu");
    let plain = options(folder.path(), &input, 4.0, "cpu");
    let mut null = Engine::with_backend(Box::new(Null::new(Caps::wgpu_default())), "null", "a test");
    for engine in [&mut cpu, &mut null] {
        for (vram, ram) in [(Some(1), None), (None, Some(1)), (Some(1), Some(1)), (Some(1 << 20), Some(64 << 20))] {
            hold_advice(engine, &UpscaleOptions { vram, ram, ..plain.clone() });
        }
    }
    for (vram, ram) in [(Some(0), None), (None, Some(0))] {
        let e = run(&mut cpu, &UpscaleOptions { vram, ram, ..plain.clone() }).expect_err("nothing to work in");
        assert_eq!(e.kind(), tessera::Kind::Usage, "{e}");
    }
    let caps = Caps { memory: Some(8 << 30), ..Caps::cuda_default() };
    let mut card = Engine::with_backend(Box::new(Null::new(caps)), "null", "a test");
    let e = run(&mut card, &UpscaleOptions { vram: Some(9 << 30), ..plain }).expect_err("more than there is");
    assert!(e.kind() == tessera::Kind::Memory && e.message().contains("8192MiB"), "{e}");
}

#[test]
fn a_cap_holds_at_the_allocator() {
    let slot = |bytes| Slot { kind: SlotKind::Arena, bytes };
    let mut backends: Vec<Box<dyn Backend>> =
        vec![Box::new(Cpu::new().expect("cpu")), Box::new(Null::new(Caps::cuda_default()))];
    if !adapters().is_empty() {
        backends.push(Box::new(WgpuBackend::open(0).expect("opens")));
    }
    for mut backend in backends {
        let before = backend.account().held();
        backend.account().limit(Some(before + 4096));
        let one = backend.alloc(&slot(4096)).expect("fits");
        assert_eq!(backend.alloc(&slot(256)).expect_err("full").kind(), tessera::Kind::Memory);
        assert_eq!(backend.account().peak(), before + 4096);
        backend.free(one);
        assert_eq!(backend.account().held(), before);
        backend.alloc(&slot(256)).expect("fits again");
    }
}

/// Host staging of `exact`: an executor for each segment with its largest port, but one place for the values of all of them.
#[test]
fn a_chain_has_one_staging() {
    let folder = tempfile::tempdir().expect("folder");
    let input = picture(folder.path(), 64, 64, Colour::Rgb);
    let mut engine = Engine::open("cpu", None).expect("cpu");
    let mut options = options(folder.path(), &input, 4.0, "cpu");
    (options.tile, options.vae) = (Some(128), VaeMode::Exact);
    let net = shipped();
    let choice = budget::choose(&mut engine, &net, &options, &job([256, 256], 4), 0, None, None).expect("a plan").taken;
    let plans: Vec<&Plan> = choice.parts.iter().map(|p| p.plan.as_ref()).collect();
    let ports = |p: &Plan| p.inputs.iter().chain(&p.outputs).map(|p| p.range.bytes).collect::<Vec<_>>();
    let stored: u64 = plans.iter().map(|p| ports(p).into_iter().max().unwrap_or(0)).sum();
    let all: u64 = plans.iter().flat_map(|p| ports(p)).sum();
    let planned = choice.needs.host.staging;
    println!("{} segments: {planned} planned, {stored} stored, {all} in all ports", plans.len());
    assert!(plans.len() > 10 && planned >= stored && planned < stored + all / 4, "{planned}");
    let pack = packed(&net);
    let executors: Vec<Executor> = plans
        .iter()
        .map(|p| Executor::new(engine.device(), (*p).clone(), None, &mut |w| pack(w)).expect("loads"))
        .collect();
    // Control words beside: some bytes an item.
    let held: u64 = executors.iter().map(Executor::host_bytes).sum();
    assert!(held <= planned, "{held} held, {planned} planned");
}

/// The same picture through wgpu under different caps: what is allocated on the device never exceeds them, and
/// the pictures agree. (The full size is measured in `benches/runs/2026-11-21-budget`.)
#[test]
fn what_wgpu_allocates_keeps_within_the_cap() {
    if adapters().is_empty() {
        assert!(!knobs::is_on("TESSERA_REQUIRE_WGPU"), "no wgpu adapter, and one is required");
        println!("SKIPPED: caps through wgpu: no adapter");
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let input = picture(folder.path(), 48, 40, Colour::Rgb);
    let mut engine = Engine::open("wgpu:0", None).expect("opens");
    let mut pictures: Vec<Vec<u8>> = Vec::new();
    let mut caps = vec![512 << 20, 128 << 20];
    // And the least there is.
    let mut options = options(folder.path(), &input, 2.0, "wgpu:0");
    (options.tile, options.vram, options.dry_run) = (Some(64), Some(1 << 20), true);
    let e = run(&mut engine, &options).expect_err("too little");
    caps.push(as_advised(&options, &e).vram.expect("the smallest"));
    options.dry_run = false;
    for cap in caps {
        options.vram = Some(cap);
        let report = run(&mut engine, &options).expect("upscaled");
        println!(
            "{} MiB: peak {} of {} planned, {}",
            cap >> 20,
            report.device_peak,
            report.device_bytes,
            report.residency
        );
        assert!(report.device_peak > 0 && report.device_peak <= report.device_bytes && report.device_bytes <= cap);
        pictures.push(std::fs::read(&report.path).expect("written"));
    }
    let (first, rest) = pictures.split_first().expect("some");
    assert!(rest.iter().all(|p| p == first), "residency changes no byte");
}
