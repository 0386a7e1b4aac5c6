//! Every network against PyTorch: the committed cases of `tools/reference/make_cases.py`, computed there
//! in f64 from the same checkpoint files.
//!
//! Twice: by the naive interpreter (is the graph the network?) and by plan and cpu backend (do planner,
//! packing and kernels compute the graph?).

use crate::interpreter::{self, Rows};
use crate::tolerance;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tessera::abi::{Caps, Item};
use tessera::backend::Backend;
use tessera::backend::wgpu::{WgpuBackend, adapters};
use tessera::graph::{DType, Graph, Lifetime};
use tessera::knobs;
use tessera::model::Extents;
use tessera::model::controlnet::ControlNetModel;
use tessera::model::unet::UNet2DConditionModel;
use tessera::model::vae::AutoencoderKL;
use tessera::plan;
use tessera::run::executor::{Executor, SharedDevice};
use tessera::weights::Checkpoint;

const CASES: [(&str, &str, &str); 11] = [
    ("unet_sd2_8x8", "unet", "tiny_unet_sd2"),
    ("unet_sd2_9x7", "unet", "tiny_unet_sd2"),
    ("unet_sd15_7x10", "unet", "tiny_unet_sd15"),
    ("unet_plain_5x6", "unet", "tiny_unet_plain"),
    ("unet_level_11x13", "unet", "tiny_unet_level"),
    ("controlnet_9x7", "controlnet", "tiny_controlnet"),
    ("unet_sd2_control_9x7", "unet", "tiny_unet_sd2"),
    ("vae_encoder", "vae_encoder", "tiny_vae"),
    ("vae_decoder", "vae_decoder", "tiny_vae"),
    ("vae_plain_encoder", "vae_encoder", "tiny_vae_plain"),
    ("vae_plain_decoder", "vae_decoder", "tiny_vae_plain"),
];

/// A case as its file holds it, with the graph its checkpoint's config makes of it.
struct Case {
    name: &'static str,
    graph: Graph,
    checkpoint: Checkpoint,
    inputs: HashMap<String, Vec<f32>>,
    outputs: HashMap<String, Vec<f32>>,
    items: Vec<Rows>,
}

/// The published networks, made by `make_cases.py --full`.
const FULL: [(&str, &str, &str); 5] = [
    ("sd_vae_encoder", "vae_encoder", "sd_vae"),
    ("sd_vae_decoder", "vae_decoder", "sd_vae"),
    ("sd21_unet", "unet", "sd21_unet"),
    ("sd15_unet", "unet", "sd15_unet"),
    ("sd21_controlnet", "controlnet", "sd21_controlnet"),
];

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference")
}

fn load(case: (&'static str, &str, &str), dtype: DType) -> Case {
    load_from(&data(), case, dtype)
}

fn load_from(data: &Path, (name, kind, checkpoint): (&'static str, &str, &str), dtype: DType) -> Case {
    let file = Checkpoint::open(&data.join(format!("cases/{name}.safetensors"))).expect("case");
    let (mut inputs, mut outputs, mut shapes) = (HashMap::new(), HashMap::new(), HashMap::new());
    for t in file.tensors() {
        let values = file.read_f32(&t.name).expect("tensor");
        if let Some(n) = t.name.strip_prefix("in.") {
            shapes.insert(n.to_owned(), t.shape.iter().map(|&d| d as u32).collect::<Vec<_>>());
            inputs.insert(n.to_owned(), values);
        } else if let Some(n) = t.name.strip_prefix("out.") {
            outputs.insert(n.to_owned(), values);
        }
    }
    let x = &shapes[if kind == "vae_decoder" { "latent_sample" } else { "sample" }];
    let (batch, height, width) = (x[0], x[1], x[2]);
    let rows = |key: &str| inputs.get(key).cloned().unwrap_or_else(|| vec![0.0; batch as usize]);
    let items = rows("step_row").into_iter().zip(rows("ctx_row"));
    let items = items.map(|(s, c)| Rows { step: s as usize, context: c as usize }).collect();
    let (contexts, tokens) = shapes.get("encoder_hidden_states").map_or((1, 1), |s| (s[0], s[2]));
    let steps = shapes.get("timestep").map_or(1, |s| s[0]);
    let e = Extents { batch, height, width, steps, contexts, tokens };
    let folder = data.join("checkpoints").join(checkpoint);
    let config = std::fs::read_to_string(folder.join("config.json")).expect("config");
    let graph = match kind {
        "unet" => {
            let net = UNet2DConditionModel::from_config(&config).expect("unet config");
            if inputs.contains_key("mid_block_res_sample") {
                net.build_with_residuals(&e, dtype)
            } else {
                net.build(&e, dtype)
            }
        }
        "controlnet" => {
            ControlNetModel::from_config(&config).and_then(|n| n.build(&e, inputs["conditioning_scale"][0], dtype))
        }
        "vae_encoder" => AutoencoderKL::from_config(&config).and_then(|n| n.build_encoder(batch, height, width, dtype)),
        "vae_decoder" => AutoencoderKL::from_config(&config).and_then(|n| n.build_decoder(batch, height, width, dtype)),
        other => panic!("unknown kind {other}"),
    };
    let checkpoint = Checkpoint::open(&folder).expect("checkpoint");
    Case { name, graph: graph.expect("graph"), checkpoint, inputs, outputs, items }
}

fn relative_l2(got: impl IntoIterator<Item = f64>, expected: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (g, &e) in got.into_iter().zip(expected) {
        difference += (g - f64::from(e)).powi(2);
        norm += f64::from(e).powi(2);
    }
    (difference / norm).sqrt()
}

#[test]
fn every_checkpoint_fits_its_config() {
    for case in CASES {
        let c = load(case, DType::F32);
        let wanted = c.graph.weights.iter().map(|w| (w.name.as_str(), w.shape.as_slice()));
        let extra = c.checkpoint.check(wanted).expect("every tensor is there");
        // encoder and decoder share a file, so each leaves the other's tensors
        let other = ["encoder.", "decoder.", "quant_conv.", "post_quant_conv."];
        assert!(extra.iter().all(|n| c.name.starts_with("vae") && other.iter().any(|o| n.starts_with(o))), "{extra:?}");
    }
}

fn interpret_and_compare(c: &Case, graph: &Graph, what: &str) {
    let weights = |name: &str| c.checkpoint.read_f32(name).expect(name);
    let got = interpreter::run(graph, &weights, &c.inputs, &c.items);
    assert_eq!(c.outputs.len(), graph.outputs.len(), "{}", c.name);
    for (name, expected) in &c.outputs {
        assert_eq!(got[name].len(), expected.len(), "{} {name}", c.name);
        let error = relative_l2(got[name].iter().copied(), expected);
        println!("{} {name}, {what}: relative L2 {error:.2e}", c.name);
        assert!(error <= tolerance::NETWORK_F64, "{} {name}, {what}: {error:e}", c.name);
    }
}

#[test]
fn the_graphs_are_the_networks() {
    for case in CASES {
        let c = load(case, DType::F32);
        interpret_and_compare(&c, &c.graph, "as built");
    }
}

#[test]
fn fusion_leaves_the_networks_what_they_are() {
    for dtype in [DType::F32, DType::F16] {
        for case in CASES {
            let c = load(case, dtype);
            let fused = tessera::graph::passes::fuse(c.graph.clone()).expect("fuses");
            interpret_and_compare(&c, &fused, "fused");
        }
    }
}

/// Runs a case through plan, packing, executor and kernels; the largest relative L2 error of its outputs.
fn error_on(c: &Case, device: &SharedDevice, caps: &Caps, dtype: DType) -> f64 {
    let plan = plan::compile(c.graph.clone(), caps).expect(c.name);
    let mut weights = |w: &plan::command::PackedWeight| c.checkpoint.packed(&w.tensors, &w.packing, w.dtype);
    let mut executor = Executor::new(device, plan, None, &mut weights).expect(c.name);
    let ports: Vec<(String, Lifetime)> = executor.plan().inputs.iter().map(|p| (p.name.clone(), p.lifetime)).collect();
    for early in [true, false] {
        for (name, _) in ports.iter().filter(|(_, l)| (*l != Lifetime::Window) == early) {
            executor.write_input(name, &c.inputs[name]).expect(name);
        }
        if early {
            executor.setup().expect("setup");
        }
    }
    let item = |r: &Rows| Item { step_row: r.step as u32, ctx_row: r.context as u32, ..Item::default() };
    executor.run(&c.items.iter().map(item).collect::<Vec<_>>()).expect(c.name);
    let mut worst = 0.0f64;
    for (name, expected) in &c.outputs {
        let mut got = vec![0.0; expected.len()];
        executor.read_output(name, &mut got).expect(name);
        let error = relative_l2(got.into_iter().map(f64::from), expected);
        println!("{} {name} as {} on {}: relative L2 {error:.2e}", c.name, dtype.name(), caps.name);
        worst = worst.max(error);
    }
    worst
}

fn hold(backend: Box<dyn Backend>, caps: Caps, dtype: DType, limit: f64) {
    let device = SharedDevice::new(backend);
    for case in CASES {
        let c = load(case, dtype);
        let error = error_on(&c, &device, &caps, dtype);
        assert!(error <= limit, "{} on {} in {}: relative L2 {error:e}", c.name, caps.name, dtype.name());
    }
}

#[test]
fn the_cpu_backend_computes_the_networks_in_every_storage_type() {
    for (dtype, limit) in [
        (DType::F32, tolerance::NETWORK_F32),
        (DType::F16, tolerance::NETWORK_F16),
        (DType::Bf16, tolerance::NETWORK_BF16),
    ] {
        let backend = tessera::backend::cpu::Cpu::new().expect("cpu");
        let caps = backend.caps().clone();
        hold(Box::new(backend), caps, dtype, limit);
    }
}

#[test]
fn the_wgpu_backend_computes_the_networks_in_f32_and_f16() {
    if adapters().is_empty() {
        assert!(!knobs::is_on("TESSERA_REQUIRE_WGPU"), "wgpu is required and no adapter was found");
        println!("SKIPPED: no wgpu adapter");
        return;
    }
    for (dtype, limit) in [(DType::F32, tolerance::NETWORK_F32), (DType::F16, tolerance::NETWORK_F16)] {
        let backend = WgpuBackend::open(0).expect("wgpu");
        let caps = backend.caps().clone();
        hold(Box::new(backend), caps, dtype, limit);
    }
}

#[test]
#[ignore = "needs gigabytes and PyTorch: run by tools/reference/full"]
fn the_published_networks_are_computed_on_the_cpu() {
    let data = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/reference");
    for case in FULL {
        if !data.join(format!("cases/{}.safetensors", case.0)).exists() {
            panic!("{} is not made: run tools/reference/full", case.0);
        }
        let backend = tessera::backend::cpu::Cpu::new().expect("cpu");
        let caps = backend.caps().clone();
        let c = load_from(&data, case, DType::F32);
        let error = error_on(&c, &SharedDevice::new(Box::new(backend)), &caps, DType::F32);
        assert!(error <= tolerance::NETWORK_F32_FULL, "{}: relative L2 {error:e}", c.name);
    }
}
