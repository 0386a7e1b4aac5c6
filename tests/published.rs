//! Networks of the published sizes, planned from their configs alone: they fit small cards, every network of a plan
//! passes every check of the null backend, and never are more bytes held than planned.

use crate::budget::{job, options, picture, run};
use crate::source;
use safetensors::tensor::TensorView;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tessera::abi::{Caps, Item};
use tessera::backend::null::Null;
use tessera::graph::Lifetime;
use tessera::image::Colour;
use tessera::run::budget;
use tessera::run::executor::SharedWeights;
use tessera::run::executors::Executors;
use tessera::run::loader::Loader;
use tessera::run::options::VaeMode;
use tessera::run::{Engine, UpscaleOptions};
use tessera::system::System;
use tessera::system::casr::Casr;
use tessera::system::onestep::OneStep;

const SCHEDULER: &str = r#"{"beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear","num_train_timesteps":1000,
    "prediction_type":"epsilon","clip_sample":false}"#;

fn config(name: &str) -> String {
    std::fs::read_to_string(source::root().join("tests/data/configs").join(name)).expect("a config")
}

fn zeros(file: &Path, tensors: &[(String, Vec<u64>)]) {
    std::fs::create_dir_all(file.parent().expect("has one")).expect("folder");
    let bytes: Vec<Vec<u8>> = tensors.iter().map(|(_, s)| vec![0; 4 * s.iter().product::<u64>() as usize]).collect();
    let views = tensors.iter().zip(&bytes).map(|((name, shape), bytes)| {
        let shape = shape.iter().map(|&d| d as usize).collect();
        (name.as_str(), TensorView::new(safetensors::Dtype::F32, shape, bytes).expect("view"))
    });
    safetensors::serialize_to_file(views, None, file).expect("written");
}

/// A folder with configs of Stable Diffusion 2.1's size and a prompt of zeros.
fn folder(at: PathBuf, index: &str, configs: &[(&str, String)]) -> PathBuf {
    let base = [
        ("model_index.json", index.to_owned()),
        ("scheduler/scheduler_config.json", SCHEDULER.to_owned()),
        ("vae/config.json", config("sd_vae.json")),
        ("unet/config.json", config("sd21_unet.json")),
    ];
    for (name, text) in base.iter().chain(configs) {
        let path = at.join(name);
        std::fs::create_dir_all(path.parent().expect("has one")).expect("folder");
        std::fs::write(path, text).expect("written");
    }
    zeros(&at.join("prompt/embeddings.safetensors"), &[("encoder_hidden_states".into(), vec![1, 77, 1024])]);
    at
}

fn onestep(at: &Path) -> PathBuf {
    let index = r#"{"_class_name":"OneStepSuperResolution","timestep":999,"vae_modes":{"tile_psnr":{"1":60}}}"#;
    let at = folder(at.join("sd21"), index, &[]);
    checkpoints(&at, &OneStep::open(&at).expect("configs"), &["vae"]);
    at
}

/// Checkpoints of zeros with what planning reads: positions, the autoencoder's norms over canvases, and the vectors, by
/// whose number a variant is told.
fn checkpoints(at: &Path, model: &dyn System, parts: &[&str]) {
    let graphs = model.networks().expect("networks");
    let vectors = graphs.iter().flat_map(|g| &g.weights).filter(|w| w.shape.len() == 1);
    let all: Vec<_> =
        vectors.map(|w| (w.name.clone(), w.shape.clone())).chain(model.host_tensors().expect("positions")).collect();
    for part in parts {
        let own = |(name, shape): &(String, Vec<u64>)| {
            let name = name.strip_prefix(part)?.strip_prefix('.')?;
            Some((name.to_owned(), shape.clone()))
        };
        let tensors: BTreeMap<_, _> = all.iter().filter_map(own).collect();
        let file = if *part == "vae" { "diffusion_pytorch_model.safetensors" } else { "model.safetensors" };
        zeros(&at.join(part).join(file), &tensors.into_iter().collect::<Vec<_>>());
    }
}

/// CASR with every network that it may have, as published: the UNet sees the superpixel picture alone.
fn casr(at: &Path) -> PathBuf {
    let parts = ["controlnet", "superpixel", "depth", "sarm", "sam"];
    let names = parts.map(|p| (format!("{p}/config.json"), config(&format!("casr/{p}.json"))));
    let configs: Vec<(&str, String)> = names.iter().map(|(n, text)| (n.as_str(), text.clone())).collect();
    let at = folder(at.join("casr"), &config("casr/model_index.json"), &configs);
    checkpoints(&at, &Casr::open(&at).expect("configs"), &["depth", "sam"]);
    at
}

/// Plans the job, and then again to run each of its networks once on the null backend.
fn hold(caps: Caps, model: &dyn System, options: &UpscaleOptions) {
    let mut engine = Engine::with_backend(Box::new(Null::new(caps.clone())), "null", "a test");
    let vram = options.vram.expect("bounded");
    let began = std::time::Instant::now();
    let report = run(&mut engine, options).expect("a plan");
    let took = began.elapsed().as_secs_f64();
    println!(
        "{} on {} in {vram}: {} {:?} {:?}",
        model.name(),
        caps.name,
        report.residency,
        report.tile,
        report.batches
    );
    println!("  {:?}, host {}, {took:.2} s", report.device_parts, report.host_bytes);
    assert_eq!(report.output, (7680, 4320));
    assert!(report.device_bytes <= vram && report.estimate.is_some(), "{report:?}");

    let choice = budget::choose(&mut engine, model, options, &job([4320, 7680], 4), 0, None, None).expect("again");
    engine.limit(choice.cap);
    let device = engine.device().clone();
    let zeros: SharedWeights = Arc::new(|w| Ok(vec![0; (w.packing.elements() * w.dtype.bytes()) as usize]));
    let mut loader = Loader::new(&mut engine, &choice, model.name(), zeros).expect("loads");
    for graph in 0..loader.count() {
        let executor = loader.executor(graph).expect("loads");
        let inputs = executor.plan().inputs.clone();
        for port in &inputs {
            let n = u64::from(port.shape.n) * port.shape.pixels() * u64::from(port.shape.c);
            executor.write_input(&port.name, &vec![0.25; n as usize]).expect("an input");
        }
        executor.setup().expect("setup");
        for port in inputs.iter().filter(|p| p.lifetime == Lifetime::Window) {
            let n = u64::from(port.shape.n) * port.shape.pixels() * u64::from(port.shape.c);
            executor.write_input(&port.name, &vec![0.5; n as usize]).expect("an input");
        }
        executor.run(&[Item::default()]).expect("every check of the null backend");
    }
    let planned = choice.taken.needs.device.allocated();
    assert!(device.peak() <= planned, "{} held, {planned} planned", device.peak());
    assert!(planned <= choice.cap.expect("bounded"));
}

fn cards() -> [Caps; 2] {
    [Caps::wgpu_default(), Caps { memory: Some(24 << 30), ..Caps::cuda_default() }]
}

/// Plans the job on each card in each of `bounds` device bytes.
fn hold_on_cards(at: &Path, model: &dyn System, vae: VaeMode, bounds: &[u64]) {
    let input = picture(at, 1920, 1080, Colour::Rgb);
    for (caps, vram) in cards().into_iter().flat_map(|c| bounds.iter().map(move |&vram| (c.clone(), vram))) {
        let options = UpscaleOptions {
            model: Some(model.folder().to_owned()),
            system: Some(model.name().into()),
            vram: Some(vram),
            vae,
            dry_run: true,
            ..options(at, &input, 4.0, "null")
        };
        hold(caps, model, &options);
    }
}

#[test]
fn the_one_step_system_is_planned_for_8k_in_1_gib() {
    let at = tempfile::tempdir().expect("folder");
    hold_on_cards(at.path(), &OneStep::open(&onestep(at.path())).expect("configs"), VaeMode::Auto, &[2 << 30, 1 << 30]);
}

/// No seams between windows of the autoencoder on a card that does not hold the UNet.
#[test]
fn the_one_step_system_between_latents_is_planned_for_8k_in_1_gib() {
    let at = tempfile::tempdir().expect("folder");
    let model = OneStep::open(&onestep(at.path())).expect("configs");
    for vae in [VaeMode::Shared, VaeMode::Exact] {
        hold_on_cards(at.path(), &model, vae, &[1 << 30]);
    }
}

#[test]
fn casr_is_planned_for_8k_in_2_gib() {
    let at = tempfile::tempdir().expect("folder");
    hold_on_cards(at.path(), &Casr::open(&casr(at.path())).expect("configs"), VaeMode::Auto, &[8 << 30, 2 << 30]);
}
