//! The networks that only one system has, each alone against PyTorch (`tools/reference/make_casarbi.py`, `make_casr.py`).
//!
//! The committed references are small. Those of the published sizes are made with `--published DIR` and held by
//! `TESSERA_REFERENCES=DIR cargo test --release --test tests -- parts:: --show-output`.

use crate::run::relative_l2;
use crate::tolerance;
use std::path::PathBuf;
use tessera::abi::Item;
use tessera::backend::cpu::Cpu;
use tessera::graph::{DType, Graph};
use tessera::knobs;
use tessera::model::casarbi::CasArbiDenoiser;
use tessera::model::edsr::Edsr;
use tessera::model::liif::{Liif, LiifExtents};
use tessera::model::sarm::{Sarm, SarmExtents};
use tessera::plan::{self, command::PackedWeight};
use tessera::run::executor::{Executor, SharedDevice};
use tessera::system::footprint::whole_picture;
use tessera::weights::Checkpoint;

/// One system's reference: networks and what they give.
struct Reference(PathBuf);

impl Reference {
    fn of(system: &str) -> Reference {
        match knobs::get("TESSERA_REFERENCES") {
            Some(other) => Reference(PathBuf::from(other).join(system)),
            None => Reference(crate::job::folder(system)),
        }
    }

    /// A tensor, NHWC; extents and values.
    fn tensor(&self, name: &str) -> ([usize; 4], Vec<f32>) {
        crate::job::tensor(&self.0, name)
    }

    fn config(&self, part: &str) -> String {
        std::fs::read_to_string(self.0.join("model").join(part).join("config.json")).expect("config")
    }

    /// The first output of a network's graph, from its own checkpoint.
    fn run(&self, part: &str, graph: &Graph, inputs: &[(&str, Vec<f32>)], items: usize) -> Vec<f32> {
        let checkpoint = Checkpoint::open(&self.0.join("model").join(part)).expect("weights");
        let wanted = graph.weights.iter().map(|w| (w.name.as_str(), w.shape.as_slice()));
        checkpoint.check(wanted).expect("every tensor is there");
        let device = SharedDevice::new(Box::new(Cpu::new().expect("cpu")));
        let plan = plan::compile(graph.clone(), &device.caps()).expect("plan");
        let mut pack = |w: &PackedWeight| checkpoint.packed(&w.tensors, &w.packing, w.dtype);
        let mut e = Executor::new(&device, plan, None, &mut pack).expect("resident");
        // Setup makes what lasts longer than a window from its inputs, and may use the windows' memory.
        for (name, values) in inputs {
            e.write_input(name, values).expect(name);
        }
        e.setup().expect("setup");
        for (name, values) in inputs {
            e.write_input(name, values).expect(name);
        }
        e.run(&vec![Item::default(); items]).expect("runs");
        let shape = graph.value(graph.outputs[0].1).shape;
        let mut out = vec![0.0; items * shape.pixels() as usize * shape.c as usize];
        e.read_output(&graph.outputs[0].0, &mut out).expect("output");
        out
    }
}

fn hold(what: &str, got: &[f32], expected: &[f32]) {
    assert_eq!(got.len(), expected.len(), "{what}");
    let error = relative_l2(got, expected);
    println!("{what}: relative L2 {error:.2e}");
    // The networks of the published size have a bar of their own.
    let full = knobs::get("TESSERA_REFERENCES").is_some();
    let bar = if full { tolerance::NETWORK_FULL_SIZE } else { tolerance::NETWORK_F32 };
    assert!(error <= bar, "{what}: {error:.2e}");
}

#[test]
fn edsr_is_what_pytorch_computes() {
    let r = Reference::of("casarbi");
    for (case, part) in [("edsr", "lr_encoder"), ("edsr_scaled", "hr_encoder")] {
        let ([n, h, w, _], x) = r.tensor(&format!("{case}.in"));
        let net = Edsr::from_config(&r.config(part)).expect("network");
        let graph = net.build(n as u32, h as u32, w as u32, DType::F32).expect("graph");
        hold(case, &r.run(part, &graph, &[("sample", x)], n), &r.tensor(&format!("{case}.out")).1);
    }
}

#[test]
fn liif_is_what_pytorch_computes() {
    let r = Reference::of("casarbi");
    let (([_, h, w, _], x), ([_, oh, ow, _], expected)) = (r.tensor("liif.in"), r.tensor("liif.out"));
    let net = Liif::from_config(&r.config("liif")).expect("network");
    let [from, to] = [[h as u32, w as u32], [oh as u32, ow as u32]];
    let graph = net.build(&LiifExtents { batch: 1, from, to }, DType::F32).expect("graph");
    let mut inputs = whole_picture(&net, from, to).expect("tables");
    inputs.push(("sample".to_owned(), x));
    let inputs: Vec<(&str, Vec<f32>)> = inputs.iter().map(|(n, v)| (n.as_str(), v.clone())).collect();
    hold("liif", &r.run("liif", &graph, &inputs, 1), &expected);
}

#[test]
fn the_denoiser_is_what_pytorch_computes() {
    let r = Reference::of("casarbi");
    let net = CasArbiDenoiser::from_config(&r.config("denoiser")).expect("network");
    for case in ["odd", "even"] {
        let part = |name: &str| r.tensor(&format!("denoiser_{case}.{name}"));
        let [n, h, w, _] = part("x").0;
        let graph = net.build(n as u32, [h as u32, w as u32], 1, DType::F32).expect("graph");
        let mut inputs = vec![("timestep", part("t").1), ("scale", part("s").1)];
        inputs.extend(["x", "condition", "coordinates"].map(|name| (name, part(name).1)));
        hold(case, &r.run("denoiser", &graph, &inputs, n), &part("out").1);
        // The adapter matters.
        assert!(relative_l2(&part("out").1, &part("plain").1) > tolerance::CASARBI_PART);
    }
}

#[test]
fn sarm_is_what_pytorch_computes() {
    let r = Reference::of("casr");
    let net = Sarm::from_config(&r.config("sarm")).expect("network");
    let (([n, h, w, _], x), ([_, _, cache, _], keys)) = (r.tensor("sarm.in"), r.tensor("sarm.cache"));
    let ([_, _, tokens, _], semantic) = r.tensor("sarm.semantic");
    let e = SarmExtents {
        batch: n as u32,
        map: [h as u32, w as u32],
        cache: cache as u32,
        semantic: Some(tokens as u32),
        scale: 1.0,
    };
    let graph = net.build_keys(&e, DType::F32).expect("graph");
    hold("sarm's keys", &r.run("sarm", &graph, &[("hidden_states", x.clone())], n), &keys);
    let graph = net.build(&e, DType::F32).expect("graph");
    let inputs = [("hidden_states", x), ("cache", keys), ("encoder_hidden_states", semantic)];
    let expected = r.tensor("sarm.out").1;
    hold("sarm", &r.run("sarm", &graph, &inputs, n), &expected);
    // The block adds something of its own, and SAM's tokens are heard.
    for other in ["sarm.in", "sarm.deaf"] {
        assert!(relative_l2(&r.tensor(other).1, &expected) > tolerance::CASARBI_PART, "{other}");
    }
}
