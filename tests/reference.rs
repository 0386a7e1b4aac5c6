//! Every network against PyTorch: the committed cases of `tools/reference/make_cases.py`, computed there
//! in f64 from the same checkpoint files, in the format of `tessera run`.
//!
//! Twice: by the naive interpreter (is the graph the network?) and by `tessera run` on the same files (do
//! planner, packing and kernels compute the graph?).

use crate::interpreter::{self, Rows};
use crate::source;
use crate::tolerance;
use safetensors::tensor::{Dtype, TensorView};
use serde_json::Value;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tessera::backend::wgpu::adapters;
use tessera::graph::{DType, Graph};
use tessera::knobs;
use tessera::model::Extents;
use tessera::model::controlnet::ControlNetModel;
use tessera::model::depth_anything::DepthAnything;
use tessera::model::sam::SamVisionModel;
use tessera::model::spixel_fcn::SpixelNet;
use tessera::model::unet::UNet2DConditionModel;
use tessera::model::vae::AutoencoderKL;
use tessera::run::{Cancel, Component, ComponentOptions, Silent, component};
use tessera::weights::{Checkpoint, Model};

/// A row of `cases.json`.
pub(crate) struct Row {
    /// Name of the case.
    pub(crate) name: String,
    /// The network.
    pub(crate) component: Component,
    /// Folder of its weights.
    pub(crate) checkpoint: String,
    /// Relative L2 error of PyTorch's own run in bf16, all outputs together.
    pytorch_bf16: f64,
}

impl Row {
    /// The file that goes in.
    pub(crate) fn input(&self) -> PathBuf {
        data().join(format!("cases/{}.in.safetensors", self.name))
    }

    /// The file that PyTorch's outputs are in.
    pub(crate) fn output(&self) -> PathBuf {
        data().join(format!("cases/{}.out.safetensors", self.name))
    }

    /// The model's folder.
    pub(crate) fn model(&self) -> PathBuf {
        data().join("checkpoints").join(&self.checkpoint)
    }
}

/// A case as its files hold it, with the graph its checkpoint's config makes of it.
struct Case {
    name: String,
    graph: Graph,
    checkpoint: Checkpoint,
    /// Tensors that are read on the host.
    host: Vec<(String, Vec<u64>)>,
    inputs: HashMap<String, Vec<f32>>,
    outputs: HashMap<String, Vec<f32>>,
    items: Vec<Rows>,
}

fn data() -> PathBuf {
    source::root().join("tests/data/reference")
}

/// Every case.
pub(crate) fn rows() -> Vec<Row> {
    let text = std::fs::read(data().join("cases.json")).expect("cases.json");
    let rows: Vec<Value> = serde_json::from_slice(&text).expect("a list");
    let text = |r: &Value, key: &str| r[key].as_str().expect("text").to_owned();
    let row = |r: &Value| Row {
        name: text(r, "name"),
        component: Component::parse(&text(r, "component")).expect("a component"),
        checkpoint: text(r, "checkpoint"),
        pytorch_bf16: r["pytorch"]["bf16"].as_f64().expect("an error"),
    };
    let rows: Vec<Row> = rows.iter().map(row).collect();
    for wanted in Component::ALL {
        assert!(rows.iter().any(|r| r.component == wanted), "no case of a {}", wanted.name());
    }
    rows
}

/// The cases of all networks whose graphs are built here; those of CLIP's towers are in `clip.rs`.
fn networks() -> impl Iterator<Item = Row> {
    let towers = [Component::TextEncoder, Component::VisionEncoder];
    rows().into_iter().filter(move |r| !towers.contains(&r.component))
}

/// A tensor of a case: its extents and its values in NHWC, as graphs take them.
struct Given {
    shape: Vec<usize>,
    values: Vec<f32>,
}

/// The tensors of a file of `tessera run` by name; whole numbers become floats.
fn tensors(path: &Path) -> HashMap<String, Given> {
    let file = Checkpoint::open(path).expect("a file of tensors");
    let given = file.tensors().iter().map(|t| {
        let shape: Vec<usize> = t.shape.iter().map(|&d| d as usize).collect();
        let values = match file.read_f32(&t.name) {
            Ok(values) => values,
            Err(_) => file.read_i64(&t.name).expect("numbers").into_iter().map(|v| v as f32).collect(),
        };
        let values = match shape[..] {
            [n, c, h, w] => {
                let at = |i: usize| ((i / (c * h * w)) * c + i % c) * h * w + i / c % (h * w);
                (0..n * c * h * w).map(|i| values[at(i)]).collect()
            }
            _ => values,
        };
        (t.name.clone(), Given { shape, values })
    });
    given.collect()
}

fn load(row: &Row, dtype: DType) -> Case {
    let mut inputs = tensors(&row.input());
    let outputs = tensors(&row.output());
    let x = inputs.get("sample").unwrap_or_else(|| &inputs["pixel_values"]).shape.clone();
    let first = |name: &str| inputs.get(name).map_or(1, |t| t.shape.first().map_or(1, |&n| n as u32));
    let (steps, contexts) = (first("timestep"), first("encoder_hidden_states"));
    let tokens = inputs.get("encoder_hidden_states").map_or(1, |t| t.shape[1] as u32);
    // one row for all items, or one for each
    let items = (0..x[0]).map(|i| Rows { step: i % steps as usize, context: i % contexts as usize }).collect();
    let e = Extents { batch: x[0] as u32, height: x[2] as u32, width: x[3] as u32, steps, contexts, tokens };
    let config = std::fs::read_to_string(row.model().join("config.json")).expect("config");
    // as it is loaded: renamed, and with what is folded into it
    let model = Model::open(&row.model()).expect("model");
    let checkpoint = model.checkpoint(row.component.part()).expect("checkpoint");
    let mut host = Vec::new();
    let autoencoder = || AutoencoderKL::from_config(&config);
    let graph = match row.component {
        Component::Unet => UNet2DConditionModel::from_config(&config).and_then(|n| {
            if inputs.contains_key("mid_block_res_sample") {
                n.build_with_residuals(&e, dtype)
            } else {
                n.build(&e, dtype)
            }
        }),
        Component::ControlNet => {
            let scale = inputs.remove("conditioning_scale").map_or(1.0, |t| t.values[0]);
            ControlNetModel::from_config(&config).and_then(|n| n.build(&e, scale, dtype))
        }
        Component::VaeEncoder => autoencoder().and_then(|n| n.build_encoder(e.batch, e.height, e.width, dtype)),
        Component::VaeDecoder => {
            let latent = inputs.remove("sample").expect("sample");
            inputs.insert("latent_sample".into(), latent);
            autoencoder().and_then(|n| n.build_decoder(e.batch, e.height, e.width, dtype))
        }
        Component::Superpixel => {
            SpixelNet::from_config(&config).and_then(|n| n.build(e.batch, e.height, e.width, dtype))
        }
        Component::Depth => DepthAnything::from_config(&config).and_then(|n| {
            host.extend(n.host_tensors());
            let given = n.inputs(&checkpoint, e.batch, e.height, e.width)?;
            inputs.extend(given.into_iter().map(|(name, values)| (name.to_owned(), Given { shape: vec![], values })));
            n.build(e.batch, e.height, e.width, dtype)
        }),
        Component::SamEncoder => SamVisionModel::from_config(&config).and_then(|n| {
            host.extend(n.host_tensors());
            let given = n.inputs(&checkpoint, e.batch)?;
            inputs.extend(given.into_iter().map(|(name, values)| (name.to_owned(), Given { shape: vec![], values })));
            n.build(e.batch, dtype)
        }),
        Component::TextEncoder | Component::VisionEncoder => unreachable!("{} is a tower", row.name),
    };
    let plain = |t: HashMap<String, Given>| t.into_iter().map(|(name, t)| (name, t.values)).collect();
    Case {
        name: row.name.clone(),
        graph: graph.expect("graph"),
        checkpoint,
        host,
        inputs: plain(inputs),
        outputs: plain(outputs),
        items,
    }
}

/// Writes the tensor `name` of uniform numbers, with noise's deviation, as an input of `tessera run`.
pub(crate) fn noise(file: &Path, name: &str, shape: [usize; 4]) {
    let mut rng = crate::problem::Rng::new(name);
    let values: Vec<f32> = (0..shape.iter().product()).map(|_| 1.7 * rng.unit() as f32).collect();
    let view = TensorView::new(Dtype::F32, shape.to_vec(), bytemuck::cast_slice(&values)).expect("view");
    safetensors::serialize_to_file([(name, view)], None, file).expect("written");
}

/// The values of a file with one tensor.
pub(crate) fn output(file: &Path) -> Vec<f32> {
    let mut all = tensors(file);
    assert_eq!(all.len(), 1, "{}", file.display());
    all.drain().map(|(_, t)| t.values).next().expect("one")
}

/// Relative L2 error.
pub(crate) fn relative_l2(got: impl IntoIterator<Item = f64>, expected: &[f32]) -> f64 {
    let (mut difference, mut norm) = (0.0, 0.0);
    for (g, &e) in got.into_iter().zip(expected) {
        difference += (g - f64::from(e)).powi(2);
        norm += f64::from(e).powi(2);
    }
    (difference / norm).sqrt()
}

#[test]
fn every_checkpoint_fits_its_config() {
    for row in networks() {
        let c = load(&row, DType::F32);
        let wanted = c.graph.weights.iter().map(|w| (w.name.as_str(), w.shape.as_slice()));
        let host = c.host.iter().map(|(n, s)| (n.as_str(), s.as_slice()));
        let extra = c.checkpoint.check(wanted.chain(host)).expect("every tensor is there");
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
    for row in networks() {
        let c = load(&row, DType::F32);
        interpret_and_compare(&c, &c.graph, "as built");
    }
}

#[test]
fn fusion_leaves_the_networks_what_they_are() {
    for dtype in [DType::F32, DType::F16] {
        for row in networks() {
            let c = load(&row, dtype);
            let fused = tessera::graph::passes::fuse(c.graph.clone()).expect("fuses");
            interpret_and_compare(&c, &fused, "fused");
        }
    }
}

/// Runs a case's files as `tessera run` does; the relative L2 error of its outputs taken together.
fn error_of(row: &Row, device: &str, dtype: &str) -> f64 {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().join("out.safetensors");
    let mut o = ComponentOptions::new(row.component, row.model(), row.input(), &out);
    (o.device, o.dtype) = (device.into(), Some(dtype.into()));
    component(&o, &mut Silent, &Cancel::new()).expect(&row.name);
    let (got, expected) = (tensors(&out), tensors(&row.output()));
    assert_eq!(got.len(), expected.len(), "{}", row.name);
    let (mut all, mut all_expected) = (Vec::new(), Vec::new());
    for (name, e) in &expected {
        assert_eq!(got[name].shape, e.shape, "{} {name}", row.name);
        all.extend(got[name].values.iter().map(|&v| f64::from(v)));
        all_expected.extend_from_slice(&e.values);
    }
    relative_l2(all, &all_expected)
}

/// Holds every case to a limit that may depend on PyTorch's own error in bf16.
pub(crate) fn hold(device: &str, dtype: &str, limit: impl Fn(&Row) -> f64) {
    let mut problems = Vec::new();
    for row in rows() {
        let (error, limit) = (error_of(&row, device, dtype), limit(&row));
        let bf16 = error / row.pytorch_bf16;
        println!("{} on {device} in {dtype}: relative L2 {error:.2e}, {bf16:.3} of PyTorch's in bf16", row.name);
        if error.is_nan() || error > limit {
            problems.push(format!("{}: relative L2 {error:.3e}, allowed {limit:.3e}", row.name));
        }
    }
    assert!(problems.is_empty(), "{device} in {dtype}:\n{}", problems.join("\n"));
}

/// Whether there is an adapter; says so where not.
pub(crate) fn have_wgpu() -> bool {
    let there = !adapters().is_empty();
    assert!(there || !knobs::is_on("TESSERA_REQUIRE_WGPU"), "wgpu is required and no adapter was found");
    if !there {
        println!("SKIPPED: no wgpu adapter");
    }
    there
}

/// What a network stored in f16 may be in error by.
pub(crate) fn half_limit(row: &Row) -> f64 {
    tolerance::NETWORK_F16_OF_BF16 * row.pytorch_bf16
}

/// The same in bf16.
pub(crate) fn bf16_limit(row: &Row) -> f64 {
    tolerance::NETWORK_BF16_OF_BF16 * row.pytorch_bf16
}

#[test]
fn the_cpu_backend_computes_the_networks_in_every_storage_type() {
    hold("cpu", "f32", |_| tolerance::NETWORK_F32);
    hold("cpu", "f16", half_limit);
    hold("cpu", "bf16", bf16_limit);
}

#[test]
fn the_wgpu_backend_computes_the_networks_in_f32_and_f16() {
    if have_wgpu() {
        hold("wgpu:0", "f32", |_| tolerance::NETWORK_F32);
        hold("wgpu:0", "f16", half_limit);
    }
}
