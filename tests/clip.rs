//! CLIP's two towers against transformers: the committed cases of `tools/reference/make_clip.py`, computed
//! there in f64 from the same checkpoint files, by the naive interpreter; `reference.rs` holds the backends to them.

use crate::interpreter::{self, Rows};
use crate::reference::relative_l2;
use crate::source;
use crate::tolerance;
use std::collections::HashMap;
use std::path::{Path, PathBuf};
use tessera::Kind;
use tessera::graph::{DType, Graph};
use tessera::model::clip_text::ClipTextModel;
use tessera::model::clip_vision::ClipVisionModel;
use tessera::weights::Checkpoint;

const CASES: [&str; 4] = ["clip_text_quick", "clip_text_gelu", "clip_vision_quick", "clip_vision_gelu"];

fn data() -> PathBuf {
    source::root().join("tests/data/reference")
}

fn config(data: &Path, name: &str) -> String {
    std::fs::read_to_string(data.join("checkpoints").join(name).join("config.json")).expect("config")
}

/// A case as its file holds it, with the graph its checkpoint's config makes of it.
struct Case {
    graph: Graph,
    checkpoint: Checkpoint,
    inputs: HashMap<String, Vec<f32>>,
    expected: Vec<f32>,
    host: Vec<(String, Vec<u64>)>,
    items: usize,
}

fn load(name: &str, dtype: DType) -> Case {
    let open = |what: &str| Checkpoint::open(&data().join(what)).expect(what);
    let file = open(&format!("cases/{name}.in.safetensors"));
    let checkpoint = open(&format!("checkpoints/{name}"));
    let config = config(&data(), name);
    let (graph, inputs, host, items);
    if let Some(t) = file.find("input_ids") {
        let net = ClipTextModel::from_config(&config).expect("config");
        let tokens = t.shape[1] as usize;
        let values = file.read_i64("input_ids").expect("ids");
        let ids: Vec<Vec<u32>> = values.chunks(tokens).map(|c| c.iter().map(|&v| v as u32).collect()).collect();
        items = ids.len();
        graph = net.build(items as u32, tokens as u32, dtype);
        inputs = HashMap::from([("inputs_embeds".to_owned(), net.embed(&checkpoint, &ids).expect("embeds"))]);
        host = net.host_tensors();
    } else {
        let net = ClipVisionModel::from_config(&config).expect("config");
        let pixels = file.read_f32("pixel_values").expect("pixels");
        items = pixels.len() / (net.channels() * net.image_size() * net.image_size()) as usize;
        graph = net.build(items as u32, dtype);
        let values = net.inputs(&checkpoint, &pixels, items as u32).expect("inputs");
        inputs = values.into_iter().map(|(n, v)| (n.to_owned(), v)).collect();
        host = net.host_tensors();
    }
    let output = open(&format!("cases/{name}.out.safetensors"));
    let expected = output.read_f32("last_hidden_state").expect("output");
    Case { graph: graph.expect("graph"), checkpoint, inputs, expected, host, items }
}

#[test]
fn every_tensor_of_the_towers_is_read() {
    for name in CASES {
        let c = load(name, DType::F32);
        let graph = c.graph.weights.iter().map(|w| (w.name.as_str(), w.shape.as_slice()));
        let host = c.host.iter().map(|(n, s)| (n.as_str(), s.as_slice()));
        let extra = c.checkpoint.check(graph.chain(host)).expect("every tensor is there");
        // only the pooled output, which is not computed, goes through this norm
        assert!(extra.iter().all(|n| n.starts_with("vision_model.post_layernorm.")), "{name}: {extra:?}");
    }
}

#[test]
fn the_graphs_are_the_towers() {
    for name in CASES {
        for dtype in [DType::F32, DType::F16] {
            let c = load(name, dtype);
            let fused = tessera::graph::passes::fuse(c.graph.clone()).expect("fuses");
            // seven kernels a layer: two norms, q with k and v, attention, and three products with their sums
            let layers = fused.nodes.iter().filter(|n| n.op.name() == "attention").count();
            let products = fused.nodes.iter().filter(|n| n.op.name() == "linear").count();
            assert_eq!(products, 4 * layers + usize::from(name.starts_with("clip_vision")), "{name}");
            for (graph, what) in [(&c.graph, "as built"), (&fused, "fused")] {
                let weights = |tensor: &str| c.checkpoint.read_f32(tensor).expect(tensor);
                let got = interpreter::run(graph, &weights, &c.inputs, &vec![Rows::default(); c.items]);
                let got = &got["last_hidden_state"];
                assert_eq!(got.len(), c.expected.len(), "{name}");
                let error = relative_l2(got.iter().copied(), &c.expected);
                println!("{name} {what}: relative L2 {error:.2e}");
                assert!(error <= tolerance::CLIP_F64, "{name} {what}: {error:e}");
            }
        }
    }
}

#[test]
fn a_token_beyond_the_vocabulary_is_an_error_that_names_it() {
    let checkpoint = Checkpoint::open(&data().join("checkpoints/clip_text_gelu")).expect("checkpoint");
    let net = ClipTextModel::from_config(&config(&data(), "clip_text_gelu")).expect("config");
    let last = net.vocabulary() - 1;
    assert_eq!(net.embed(&checkpoint, &[vec![0, last]]).expect("known").len(), 2 * 64);
    for (ids, says) in [
        (vec![vec![0, last], vec![3, last + 1]], "text 1, token 1: id 41 is outside the vocabulary of 41"),
        (vec![vec![0; 78]], "1 to 77"),
        (vec![vec![1, 2], vec![1]], "text 1 has 1 tokens"),
        (vec![], "0 tokens"),
        (vec![vec![]], "0 tokens"),
    ] {
        let e = net.embed(&checkpoint, &ids).expect_err(says);
        assert!(e.kind() == Kind::Usage && e.message().contains(says), "{e}");
    }
    // rows of another width than the config's: the weights of another checkpoint
    let other = Checkpoint::open(&data().join("checkpoints/clip_text_quick")).expect("checkpoint");
    assert_eq!(net.embed(&other, &[vec![0]]).expect_err("other").kind(), Kind::Weights);
}

#[test]
fn pictures_of_another_size_are_refused() {
    let checkpoint = Checkpoint::open(&data().join("checkpoints/clip_vision_gelu")).expect("checkpoint");
    let net = ClipVisionModel::from_config(&config(&data(), "clip_vision_gelu")).expect("config");
    for (values, batch) in [(3 * 17 * 17 - 1, 1), (3 * 17 * 17, 2), (0, 0)] {
        let e = net.inputs(&checkpoint, &vec![0.0; values], batch).expect_err("size");
        assert!(e.kind() == Kind::Usage && e.message().contains("3x17x17"), "{e}");
    }
    let pixels: Vec<f32> = (0..3 * 17 * 17).map(|i| i as f32).collect();
    let inputs = net.inputs(&checkpoint, &pixels, 1).expect("inputs");
    let (name, patches) = &inputs[0];
    assert_eq!((*name, patches.len()), ("patches", 10 * 75));
    assert!(patches[..75].iter().all(|&v| v == 0.0));
    // the patch in row 1, column 2 of the grid; its channel 1, row 3, column 4
    assert_eq!(patches[75 * (1 + 3 + 2) + 25 + 3 * 5 + 4], (17 * 17 + (5 + 3) * 17 + 10 + 4) as f32);
}
