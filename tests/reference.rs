//! Every network against PyTorch: the committed cases of `tools/reference/make_cases.py`, computed there
//! in f64 from the same checkpoint files, in the format of `tessera run`.
//!
//! Twice: by the naive interpreter (is the graph the network?) and by plan and backend (do planner, packing
//! and kernels compute the graph?).

use crate::interpreter::{self, Rows};
use crate::tolerance;
use serde_json::Value;
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

/// A row of `cases.json`.
struct Row {
    name: String,
    component: String,
    checkpoint: String,
    /// Relative L2 error of PyTorch's own run in bf16, all outputs together.
    pytorch_bf16: f64,
}

/// A case as its files hold it, with the graph its checkpoint's config makes of it.
struct Case {
    name: String,
    graph: Graph,
    checkpoint: Checkpoint,
    inputs: HashMap<String, Vec<f32>>,
    outputs: HashMap<String, Vec<f32>>,
    items: Vec<Rows>,
}

fn data() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference")
}

/// The cases of networks whose graphs are built here; text and vision encoders have tests of their own.
fn rows() -> Vec<Row> {
    let text = std::fs::read(data().join("cases.json")).expect("cases.json");
    let rows: Vec<Value> = serde_json::from_slice(&text).expect("a list");
    let text = |r: &Value, key: &str| r[key].as_str().expect("text").to_owned();
    let rows = rows.iter().map(|r| Row {
        name: text(r, "name"),
        component: text(r, "component"),
        checkpoint: text(r, "checkpoint"),
        pytorch_bf16: r["pytorch"]["bf16"].as_f64().expect("an error"),
    });
    let rows: Vec<Row> = rows.filter(|r| !r.component.ends_with("-encoder") || r.component == "vae-encoder").collect();
    for component in ["unet", "controlnet", "vae-encoder", "vae-decoder"] {
        assert!(rows.iter().any(|r| r.component == component), "no case of a {component}");
    }
    rows
}

/// A tensor of a case: its extents and its values in NHWC, as the engine takes them.
struct Given {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The tensors of a file of `tessera run`; whole numbers become floats.
fn tensors(path: &Path) -> HashMap<String, Given> {
    let bytes = std::fs::read(path).expect("case");
    let (length, rest) = bytes.split_first_chunk::<8>().expect("a length");
    let (header, data) = rest.split_at(u64::from_le_bytes(*length) as usize);
    let header: HashMap<String, Value> = serde_json::from_slice(header).expect("a header");
    let tensors = header.into_iter().filter(|(name, _)| name != "__metadata__").map(|(name, t)| {
        let list = |key: &str| -> Vec<usize> {
            t[key].as_array().expect(key).iter().map(|v| v.as_u64().expect(key) as usize).collect()
        };
        let (shape, range) = (list("shape"), list("data_offsets"));
        let bytes = &data[range[0]..range[1]];
        let values: Vec<f32> = match t["dtype"].as_str() {
            Some("F32") => bytes.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect(),
            Some("I64") => bytes.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b) as f32).collect(),
            other => panic!("{name} is {other:?}"),
        };
        let values = match shape[..] {
            [n, c, h, w] => {
                let at = |i: usize| ((i / (c * h * w)) * c + i % c) * h * w + i / c % (h * w);
                (0..n * c * h * w).map(|i| values[at(i)]).collect()
            }
            _ => values,
        };
        (name, Given { shape, values })
    });
    tensors.collect()
}

fn load(row: &Row, dtype: DType) -> Case {
    let cases = data().join("cases");
    let mut inputs = tensors(&cases.join(format!("{}.in.safetensors", row.name)));
    let outputs = tensors(&cases.join(format!("{}.out.safetensors", row.name)));
    let x = inputs["sample"].shape.clone();
    let first = |name: &str| inputs.get(name).map_or(1, |t| t.shape.first().map_or(1, |&n| n as u32));
    let (steps, contexts) = (first("timestep"), first("encoder_hidden_states"));
    let tokens = inputs.get("encoder_hidden_states").map_or(1, |t| t.shape[1] as u32);
    // one row for all items, or one for each
    let items = (0..x[0]).map(|i| Rows { step: i % steps as usize, context: i % contexts as usize }).collect();
    let e = Extents { batch: x[0] as u32, height: x[2] as u32, width: x[3] as u32, steps, contexts, tokens };
    let folder = data().join("checkpoints").join(&row.checkpoint);
    let config = std::fs::read_to_string(folder.join("config.json")).expect("config");
    let autoencoder = || AutoencoderKL::from_config(&config);
    let graph = match row.component.as_str() {
        "unet" => UNet2DConditionModel::from_config(&config).and_then(|n| {
            if inputs.contains_key("mid_block_res_sample") {
                n.build_with_residuals(&e, dtype)
            } else {
                n.build(&e, dtype)
            }
        }),
        "controlnet" => {
            let scale = inputs.remove("conditioning_scale").map_or(1.0, |t| t.values[0]);
            ControlNetModel::from_config(&config).and_then(|n| n.build(&e, scale, dtype))
        }
        "vae-encoder" => autoencoder().and_then(|n| n.build_encoder(e.batch, e.height, e.width, dtype)),
        "vae-decoder" => {
            let latent = inputs.remove("sample").expect("sample");
            inputs.insert("latent_sample".into(), latent);
            autoencoder().and_then(|n| n.build_decoder(e.batch, e.height, e.width, dtype))
        }
        other => panic!("unknown component {other}"),
    };
    let plain = |t: HashMap<String, Given>| t.into_iter().map(|(name, t)| (name, t.values)).collect();
    Case {
        name: row.name.clone(),
        graph: graph.expect("graph"),
        checkpoint: Checkpoint::open(&folder).expect("checkpoint"),
        inputs: plain(inputs),
        outputs: plain(outputs),
        items,
    }
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
    for row in rows() {
        let c = load(&row, DType::F32);
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
    for row in rows() {
        let c = load(&row, DType::F32);
        interpret_and_compare(&c, &c.graph, "as built");
    }
}

#[test]
fn fusion_leaves_the_networks_what_they_are() {
    for dtype in [DType::F32, DType::F16] {
        for row in rows() {
            let c = load(&row, dtype);
            let fused = tessera::graph::passes::fuse(c.graph.clone()).expect("fuses");
            interpret_and_compare(&c, &fused, "fused");
        }
    }
}

/// Runs a case through plan, packing, executor and kernels; the relative L2 error of its outputs taken
/// together.
fn error_on(c: &Case, device: &SharedDevice, caps: &Caps, dtype: DType) -> f64 {
    let plan = plan::compile(c.graph.clone(), caps).expect(&c.name);
    let mut weights = |w: &plan::command::PackedWeight| c.checkpoint.packed(&w.tensors, &w.packing, w.dtype);
    let mut executor = Executor::new(device, plan, None, &mut weights).expect(&c.name);
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
    executor.run(&c.items.iter().map(item).collect::<Vec<_>>()).expect(&c.name);
    let (mut all, mut all_expected) = (Vec::new(), Vec::new());
    for (name, expected) in &c.outputs {
        let mut got = vec![0.0; expected.len()];
        executor.read_output(name, &mut got).expect(name);
        all.extend(got.into_iter().map(f64::from));
        all_expected.extend_from_slice(expected);
    }
    let error = relative_l2(all, &all_expected);
    println!("{} as {} on {}: relative L2 {error:.2e}", c.name, dtype.name(), caps.name);
    error
}

/// Holds every case to a limit that may depend on PyTorch's own error in bf16.
fn hold(backend: Box<dyn Backend>, dtype: DType, limit: impl Fn(&Row) -> f64) {
    let caps = backend.caps().clone();
    let device = SharedDevice::new(backend);
    let mut problems = Vec::new();
    for row in rows() {
        let error = error_on(&load(&row, dtype), &device, &caps, dtype);
        let (limit, bf16) = (limit(&row), error / row.pytorch_bf16);
        println!("    {bf16:.3} of PyTorch's error in bf16");
        if !(error <= limit) {
            problems.push(format!("{}: relative L2 {error:.3e}, allowed {limit:.3e}", row.name));
        }
    }
    assert!(problems.is_empty(), "{} in {}:\n{}", caps.name, dtype.name(), problems.join("\n"));
}

fn half_limit(row: &Row) -> f64 {
    tolerance::NETWORK_F16_OF_BF16 * row.pytorch_bf16
}

#[test]
fn the_cpu_backend_computes_the_networks_in_every_storage_type() {
    let cpu = || Box::new(tessera::backend::cpu::Cpu::new().expect("cpu"));
    hold(cpu(), DType::F32, |_| tolerance::NETWORK_F32);
    hold(cpu(), DType::F16, half_limit);
    hold(cpu(), DType::Bf16, |row| tolerance::NETWORK_BF16_OF_BF16 * row.pytorch_bf16);
}

#[test]
fn the_wgpu_backend_computes_the_networks_in_f32_and_f16() {
    if adapters().is_empty() {
        assert!(!knobs::is_on("TESSERA_REQUIRE_WGPU"), "wgpu is required and no adapter was found");
        println!("SKIPPED: no wgpu adapter");
        return;
    }
    let wgpu = || Box::new(WgpuBackend::open(0).expect("wgpu"));
    hold(wgpu(), DType::F32, |_| tolerance::NETWORK_F32);
    hold(wgpu(), DType::F16, half_limit);
}
