//! The shipped model against PyTorch: one picture through every stage, computed by diffusers from the same
//! files (`tools/train/make_vector.py`), and by the engine on each backend.

use crate::source;
use crate::tolerance;
use std::path::{Path, PathBuf};
use tessera::abi::{Caps, Item};
use tessera::backend::Backend;
use tessera::backend::cpu::Cpu;
use tessera::backend::wgpu::{WgpuBackend, adapters};
use tessera::graph::DType;
use tessera::knobs;
use tessera::metrics::{Picture, psnr as psnr_of};
use tessera::plan;
use tessera::run::executor::{Executor, SharedDevice};
use tessera::run::{Cancel, Silent, Size, UpscaleOptions, upscale};
use tessera::system::System;
use tessera::system::onestep::OneStep;
use tessera::weights::Checkpoint;
use tessera::weights::manifest::Manifest;

fn root() -> PathBuf {
    source::root().to_path_buf()
}

/// A tensor of the vector, `[1, c, h, w]`, as NHWC.
fn nhwc(vector: &Checkpoint, name: &str) -> ([usize; 2], Vec<f32>) {
    let shape: Vec<u64> = vector.tensors().iter().find(|t| t.name == name).expect(name).shape.clone();
    let [c, h, w] = [shape[1], shape[2], shape[3]].map(|d| usize::try_from(d).expect("small"));
    let planar = vector.read_f32(name).expect(name);
    let value = |i: usize| planar[(i % c) * h * w + i / c];
    ([h, w], (0..c * h * w).map(value).collect())
}

/// PSNR of the result against PyTorch's, dB on [0, 1].
fn psnr(backend: Box<dyn Backend>, dtype: DType) -> f64 {
    let model = OneStep::open(&root().join("weights/onestep")).expect("the shipped model opens");
    let vector = Checkpoint::open(&root().join("tests/data/onestep/reference.safetensors")).expect("vector");
    let ([h, w], x) = nhwc(&vector, "x");
    let (_, expected) = nhwc(&vector, "out");
    let caps = Caps { storage: dtype, ..backend.caps().clone() };
    let graph = model.graph(1, h as u32, w as u32, 1, dtype).expect("graph");
    let plan = plan::compile(graph, &caps).expect("plan");
    let files = model.checkpoints().expect("checkpoints");
    let device = SharedDevice::new(backend);
    let mut weights = |p: &plan::command::PackedWeight| files.packed(&p.tensors, &p.packing, p.dtype);
    let mut executor = Executor::new(&device, plan, None, &mut weights).expect("resident");
    let planes = vector.read_f32("planes").expect("planes");
    let latent = executor.plan().input("planes").expect("planes").shape;
    executor.write_input("planes", &planes.repeat(latent.pixels() as usize)).expect("planes");
    executor.write_input("unet.timestep", &[999.0]).expect("timestep");
    executor.setup().expect("setup");
    executor.write_input("window", &x).expect("window");
    executor.run(&[Item::default()]).expect("runs");
    let mut got = vec![0.0f32; expected.len()];
    executor.read_output("result", &mut got).expect("result");
    let error = |(g, e): (&f32, &f32)| f64::from(g.clamp(0.0, 1.0) - e).powi(2);
    let mse = got.iter().zip(&expected).map(error).sum::<f64>() / got.len() as f64;
    -10.0 * mse.max(f64::MIN_POSITIVE).log10()
}

/// Whether `what` must be left out for want of an adapter: loudly, and a failure where one is required.
fn lacks_adapter(what: &str) -> bool {
    let lacking = adapters().is_empty();
    if lacking {
        assert!(!knobs::is_on("TESSERA_REQUIRE_WGPU"), "no wgpu adapter, and one is required");
        println!("SKIPPED: {what}: no adapter");
    }
    lacking
}

#[test]
fn the_shipped_model_is_what_pytorch_computes() {
    let got = psnr(Box::new(Cpu::new().expect("cpu")), DType::F32);
    println!("cpu f32: {got:.1} dB against PyTorch");
    assert!(got >= tolerance::ONESTEP_F32_DB, "cpu f32: {got:.1} dB");
}

#[test]
fn the_shipped_model_is_the_same_through_wgpu() {
    if lacks_adapter("the shipped model on wgpu") {
        return;
    }
    for (dtype, bar) in [(DType::F32, tolerance::ONESTEP_F32_DB), (DType::F16, tolerance::ONESTEP_F16_DB)] {
        let got = psnr(Box::new(WgpuBackend::open(0).expect("opens")), dtype);
        println!("wgpu {}: {got:.1} dB against PyTorch", dtype.name());
        assert!(got >= bar, "wgpu {}: {got:.1} dB", dtype.name());
    }
}

#[test]
fn shipped_files_are_what_the_manifest_says() {
    let folder = root().join("weights");
    let manifest = Manifest::open(Path::new(&folder)).expect("manifest");
    assert!(manifest.model("onestep").is_some());
    for model in &manifest.models {
        model.verify(&folder).expect("as shipped");
    }
}

/// The example photograph, doubled on `device` by the whole program.
fn doubled(device: &str, folder: &Path) -> Picture {
    let mut options = UpscaleOptions::new(root().join("docs/example/astronaut_128.png"), Size::Scale(2.0));
    options.model = Some(root().join("weights/onestep"));
    options.output = Some(folder.join(format!("{}.png", device.replace(':', "_"))));
    options.device = device.to_owned();
    let report = upscale(&options, &mut Silent, &Cancel::new()).expect("upscales");
    Picture::read(&report.path).expect("a picture")
}

#[test]
fn a_photograph_is_the_same_on_cpu_and_wgpu() {
    if lacks_adapter("a photograph on wgpu") {
        return;
    }
    let folder = tempfile::tempdir().expect("folder");
    let (cpu, wgpu) = (doubled("cpu", folder.path()), doubled("wgpu:0", folder.path()));
    let got = psnr_of(&cpu, &wgpu).expect("one size");
    println!("cpu f32 against wgpu f16, 8 bits: {got:.1} dB");
    assert!(got >= tolerance::DEVICES_DB, "{got:.1} dB");
}
