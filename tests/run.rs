//! `tessera run`: every component on the committed checkpoints against PyTorch's outputs, in the shapes
//! PyTorch uses; what it traces; what it refuses and how; and weights changed under a resident executor.

use crate::program;
use crate::reference;
use crate::source;
use crate::tolerance;
use safetensors::tensor::{Dtype, TensorView};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use tessera::abi::{Caps, Item};
use tessera::backend::null::{Counts, Null};
use tessera::backend::{Account, Backend, BufferId, ListId, Stop};
use tessera::graph::op::Padding;
use tessera::graph::{Builder, DType, Graph, Lifetime, Shape};
use tessera::plan;
use tessera::plan::command::{Dispatch, PackedWeight, Slot, SlotKind};
use tessera::run::executor::{Executor, SharedDevice};
use tessera::run::{Cancel, Component, ComponentOptions, Silent, component};
use tessera::weights::{Checkpoint, TensorWriter};
use tessera::{Kind, Result};

/// Tensors of a file by name: extents and values.
type Tensors = BTreeMap<String, (Vec<u64>, Vec<f32>)>;

fn data(path: &str) -> PathBuf {
    source::root().join("tests/data/reference").join(path)
}

fn read(path: &Path) -> Tensors {
    let file = Checkpoint::open(path).expect("a file of tensors");
    let numbers = |name: &str| -> Result<Vec<f32>> {
        file.read_f32(name).or_else(|_| Ok(file.read_i64(name)?.into_iter().map(|v| v as f32).collect()))
    };
    let tensors = file.tensors().iter();
    tensors.map(|t| (t.name.clone(), (t.shape.clone(), numbers(&t.name).expect("numbers")))).collect()
}

fn write(path: &Path, tensors: &Tensors) {
    let shapes: Vec<_> = tensors.iter().map(|(name, (shape, _))| (name.clone(), shape.clone())).collect();
    let mut w = TensorWriter::create(path, true, &shapes).expect("created");
    tensors.iter().for_each(|(name, (_, values))| w.write(name, values).expect("written"));
    w.finish().expect("in place");
}

/// The inputs of a committed case.
fn case(name: &str) -> Tensors {
    read(&data("cases").join(format!("{name}.in.safetensors")))
}

/// Options that run `component` of a committed checkpoint on the cpu, inputs and outputs in `folder`.
fn options(folder: &Path, component: Component, checkpoint: &str) -> ComponentOptions {
    let model = data("checkpoints").join(checkpoint);
    let mut o = ComponentOptions::new(component, model, folder.join("in.safetensors"), folder.join("out.safetensors"));
    (o.device, o.overwrite) = ("cpu".into(), true);
    o
}

fn run(o: &ComponentOptions) -> Result<Tensors> {
    component(o, &mut Silent, &Cancel::new())?;
    Ok(read(&o.output))
}

pub(crate) fn relative_l2(got: &[f32], expected: &[f32]) -> f64 {
    reference::relative_l2(got.iter().map(|&g| f64::from(g)), expected)
}

/// Writes one tensor of whole numbers.
fn write_ids(path: &Path, shape: &[usize], ids: &[i64]) {
    let bytes: Vec<u8> = ids.iter().flat_map(|i| i.to_le_bytes()).collect();
    let view = TensorView::new(Dtype::I64, shape.to_vec(), &bytes).expect("view");
    std::fs::write(path, safetensors::serialize([("input_ids", view)], None).expect("bytes")).expect("written");
}

#[test]
fn ids_outside_the_vocabulary_and_texts_that_are_too_long_are_the_inputs_fault() {
    let folder = tempfile::tempdir().expect("folder");
    let o = options(folder.path(), Component::TextEncoder, "clip_text_quick");
    for (shape, ids, part) in [
        ([1, 2], vec![0, -1], "`input_ids` element 1 is -1"),
        ([1, 2], vec![1 << 20, 0], "outside the vocabulary"),
        ([1, 500], vec![0; 500], "500 tokens"),
    ] {
        write_ids(&o.input, &shape, &ids);
        let e = run(&o).expect_err(part);
        assert!(e.kind() == Kind::BadInput && e.to_string().contains(part), "{e}");
    }
}

/// Element `i` of every tensor with a batch; what all share stays.
fn single(inputs: &Tensors, batch: usize, i: usize) -> Tensors {
    let pick = |(shape, values): &(Vec<u64>, Vec<f32>)| match shape.first() {
        Some(&n) if n as usize == batch => {
            let one = values.len() / batch;
            let shape = std::iter::once(1).chain(shape[1..].iter().copied()).collect();
            (shape, values[i * one..(i + 1) * one].to_vec())
        }
        _ => (shape.clone(), values.clone()),
    };
    inputs.iter().map(|(n, t)| (n.clone(), pick(t))).collect()
}

/// The first `batch` elements of a case that is repeated as often as needed, no two of them alike.
fn batched(inputs: &Tensors, batch: usize) -> Tensors {
    let first = inputs.get("sample").or_else(|| inputs.get("latent_sample")).expect("a sample");
    let n = first.0[0] as usize;
    let grow = |name: &str, (shape, values): &(Vec<u64>, Vec<f32>)| {
        if shape.first() != Some(&(n as u64)) {
            return (shape.clone(), values.clone());
        }
        let one = values.len() / n;
        let element = |i: usize| {
            let from = &values[i % n * one..(i % n + 1) * one];
            // Time steps differ by whole steps, everything else by a factor.
            from.iter().map(move |v| if name == "timestep" { v + i as f32 } else { v * (1.0 + i as f32 / 8.0) })
        };
        let shape = std::iter::once(batch as u64).chain(shape[1..].iter().copied()).collect();
        (shape, (0..batch).flat_map(element).collect())
    };
    inputs.iter().map(|(name, t)| (name.clone(), grow(name, t))).collect()
}

#[test]
fn a_batch_gives_the_bytes_of_single_runs() {
    let cases = ["unet_sd2_9x7", "unet_sd2_control_9x7", "controlnet_9x7", "vae_encoder", "vae_decoder"];
    for row in reference::rows().into_iter().filter(|r| cases.contains(&r.name.as_str())) {
        let (name, folder) = (row.name.as_str(), tempfile::tempdir().expect("folder"));
        let o = options(folder.path(), row.component, &row.checkpoint);
        let all = batched(&case(name), 4);
        let singles: Vec<Tensors> = (0..4)
            .map(|i| {
                write(&o.input, &single(&all, 4, i));
                run(&o).expect(name)
            })
            .collect();
        for batch in 2..=4 {
            let mut inputs = all.clone();
            for (shape, values) in inputs.values_mut().filter(|(shape, _)| shape.first() == Some(&4)) {
                values.truncate(values.len() / 4 * batch);
                shape[0] = batch as u64;
            }
            write(&o.input, &inputs);
            for (n, (shape, values)) in run(&o).expect(name) {
                assert_eq!(shape[0], batch as u64);
                let one = values.len() / batch;
                for (i, part) in values.chunks(one).enumerate() {
                    let same = part.iter().zip(&singles[i][&n].1).all(|(a, b)| a.to_bits() == b.to_bits());
                    assert!(same, "{name} {n}: element {i} of {batch}");
                }
            }
        }
    }
}

#[test]
fn shapes_and_types_that_pytorch_takes_are_taken() {
    let folder = tempfile::tempdir().expect("folder");
    let o = options(folder.path(), Component::Unet, "tiny_unet_sd2");
    let mut inputs = case("unet_sd2_8x8");
    write(&o.input, &inputs);
    let expected = run(&o).expect("a scalar");
    let t = inputs.get_mut("timestep").expect("timestep");
    assert_eq!((t.0.as_slice(), t.1.as_slice()), (&[][..], &[999.0][..]));
    t.0.push(1);
    write(&o.input, &inputs);
    assert_eq!(run(&o).expect("[1]"), expected);
    // As PyTorch saves it: I64 steps, halves.
    let (_, x) = &inputs["sample"];
    let halves: Vec<half::f16> = x.iter().map(|&v| half::f16::from_f32(v)).collect();
    let (c, steps) = (&inputs["encoder_hidden_states"], 999i64.to_le_bytes());
    let views = |t: &[u8], ty, sample: &[u8], sample_type| {
        let dims = |s: &[u64]| s.iter().map(|&d| d as usize).collect::<Vec<_>>();
        let v = |ty, shape, bytes| TensorView::new(ty, shape, bytes).expect("view");
        let all = [
            ("timestep", v(ty, vec![], t)),
            ("sample", v(sample_type, dims(&inputs["sample"].0), sample)),
            ("encoder_hidden_states", v(Dtype::F32, dims(&c.0), bytemuck::cast_slice(&c.1))),
        ];
        std::fs::write(&o.input, safetensors::serialize(all, None).expect("bytes")).expect("written");
    };
    views(&steps, Dtype::I64, bytemuck::cast_slice(x), Dtype::F32);
    assert_eq!(run(&o).expect("I64"), expected);
    views(&999i32.to_le_bytes(), Dtype::I32, bytemuck::cast_slice(&halves), Dtype::F16);
    let rounded = run(&o).expect("I32, F16");
    assert_ne!(rounded, expected, "the halves were read");
    let error = relative_l2(&rounded["sample"].1, &expected["sample"].1);
    assert!(error <= tolerance::NETWORK_F16_INPUT, "{error:e}");
    // A latent under the name of the decoder's own argument.
    let o = options(folder.path(), Component::VaeDecoder, "tiny_vae");
    let mut inputs = case("vae_decoder");
    write(&o.input, &inputs);
    let expected = run(&o).expect("sample");
    let latent = inputs.remove("sample").expect("a latent");
    inputs.insert("latent_sample".into(), latent);
    write(&o.input, &inputs);
    assert_eq!(run(&o).expect("latent_sample"), expected);
}

#[test]
fn a_trace_names_modules_and_changes_nothing() {
    for row in reference::rows() {
        let (name, folder) = (row.name.as_str(), tempfile::tempdir().expect("folder"));
        let mut o = options(folder.path(), row.component, &row.checkpoint);
        o.input = row.input();
        let plain = run(&o).expect(name);
        o.trace = true;
        let traced = run(&o).expect(name);
        for (n, t) in &plain {
            assert_eq!(&traced[n], t, "{name} {n}: traced or not, the same bytes");
        }
        let more = traced.len() - plain.len();
        assert!(more >= 8, "{name}: {more} values");
        assert!(traced.keys().all(|n| plain.contains_key(n) || n.starts_with("trace.")), "{name}");
        let tower = match row.component {
            Component::TextEncoder => "text_model",
            Component::VisionEncoder => "vision_model",
            _ => continue,
        };
        let layer = &traced[&format!("trace.{tower}.encoder.layers.0")].0;
        assert_eq!(*layer, plain["last_hidden_state"].0, "{name}: [N, T, C]");
    }
    let folder = tempfile::tempdir().expect("folder");
    let mut o = options(folder.path(), Component::Unet, "tiny_unet_sd2");
    o.trace = true;
    let inputs = case("unet_sd2_9x7");
    write(&o.input, &inputs);
    let traced = run(&o).expect("traced");
    let block = "trace.down_blocks.0.attentions.0.transformer_blocks.0";
    // Name, extents without the channels' number: a picture, tokens, a row per item.
    let expected: [(&str, &[u64]); 7] = [
        ("trace.conv_in", &[3, 0, 9, 7]),
        ("trace.down_blocks.0.resnets.0", &[3, 0, 9, 7]),
        ("trace.down_blocks.0.resnets.0.norm1+silu", &[3, 0, 9, 7]),
        (block, &[3, 63, 0]),
        ("trace.time_proj", &[3, 0]),
        ("trace.time_embedding.act", &[3, 0]),
        ("trace.conv_act", &[3, 0, 9, 7]),
    ];
    for (n, shape) in expected {
        let (have, _) = traced.get(n).unwrap_or_else(|| panic!("no {n} in {:?}", traced.keys().collect::<Vec<_>>()));
        let channels = if shape.len() == 4 { 1 } else { shape.len() - 1 };
        let mut have = have.clone();
        have[channels] = 0;
        assert_eq!(have, shape, "{n}");
    }
    // The last convolution is the output; keys and values of the context have a row per item, like PyTorch's.
    assert_eq!(traced["trace.conv_out"], traced["sample"]);
    let keys = &traced[&format!("{block}.attn2.to_k+to_v")].0;
    assert_eq!(keys[..2], inputs["encoder_hidden_states"].0[..2]);
    // Items of one time step have one time embedding, others another.
    let (time, steps) = (&traced["trace.time_proj"].1, &inputs["timestep"].1);
    let rows: Vec<&[f32]> = time.chunks(time.len() / 3).collect();
    for (i, j) in [(0, 1), (0, 2), (1, 2)] {
        assert_eq!(rows[i] == rows[j], steps[i] == steps[j], "items {i} and {j}");
    }
    assert!(steps.iter().any(|t| *t != steps[0]), "the case has several steps");
}

#[test]
fn adapters_are_merged_with_their_strength() {
    let folder = tempfile::tempdir().expect("folder");
    let mut o = options(folder.path(), Component::Unet, "tiny_unet_sd2");
    o.input = data("cases/unet_sd2_8x8.in.safetensors");
    let plain = run(&o).expect("plain");
    // One module of rank 2, in peft's naming; the change is its factors' product.
    let module = "mid_block.attentions.0.transformer_blocks.0.attn1.to_q";
    let checkpoint = Checkpoint::open(&data("checkpoints/tiny_unet_sd2")).expect("checkpoint");
    let shape = checkpoint.find(&format!("{module}.weight")).expect("the module").shape.clone();
    let (out, input) = (shape[0], shape[1]);
    let values = |name: &str, n: u64| (0..n as usize).map(|i| noise(5, name, i)).collect::<Vec<_>>();
    let adapter = Tensors::from([
        (format!("unet.{module}.lora_A.weight"), (vec![2, input], values("down", 2 * input))),
        (format!("unet.{module}.lora_B.weight"), (vec![out, 2], values("up", 2 * out))),
    ]);
    let file = folder.path().join("lora.safetensors");
    write(&file, &adapter);
    o.lora = vec![(file.clone(), 0.75)];
    let changed = run(&o).expect("with it");
    assert_ne!(changed, plain);
    // The same sum written into the weights by hand.
    let model = folder.path().join("merged");
    std::fs::create_dir(&model).expect("folder");
    std::fs::copy(data("checkpoints/tiny_unet_sd2/config.json"), model.join("config.json")).expect("config");
    let mut merged = read(&data("checkpoints/tiny_unet_sd2/diffusion_pytorch_model.safetensors"));
    let (_, weight) = merged.get_mut(&format!("{module}.weight")).expect("the module");
    let [down, up] = [values("down", 2 * input), values("up", 2 * out)];
    for (i, w) in weight.iter_mut().enumerate() {
        let (row, column) = (i / input as usize, i % input as usize);
        *w += 0.75 * (0..2).map(|r| up[row * 2 + r] * down[r * input as usize + column]).sum::<f32>();
    }
    write(&model.join("diffusion_pytorch_model.safetensors"), &merged);
    let mut by_hand = o.clone();
    (by_hand.model, by_hand.lora) = (model, Vec::new());
    let by_hand = run(&by_hand).expect("merged by hand");
    let apart = |a: &Tensors, b: &Tensors| relative_l2(&a["sample"].1, &b["sample"].1);
    let (error, change) = (apart(&changed, &by_hand), apart(&plain, &by_hand));
    assert!(error <= tolerance::NETWORK_F32 && change > tolerance::NETWORK_F32, "{error:e}, {change:e}");
    // There and back again; and one that fits nothing.
    o.lora.push((file.clone(), -0.75));
    assert!(apart(&run(&o).expect("both"), &plain) <= tolerance::NETWORK_F32);
    (o.component, o.model) = (Component::VaeDecoder, data("checkpoints/tiny_vae"));
    o.input = data("cases/vae_decoder.in.safetensors");
    let e = run(&o).expect_err("no autoencoder");
    assert!(e.kind() == Kind::Weights && e.message().contains("lora.safetensors"), "{e}");
    let told = program::run(&["inspect", &file.to_string_lossy()]);
    assert!(told.code == Some(0) && told.stdout.contains("adapter (LoRA) of 1 modules of unet, rank 2"), "{told:?}");
}

#[test]
fn inspect_tells_what_a_model_is_good_for() {
    let shipped = source::root().join("weights/onestep").to_string_lossy().into_owned();
    let text = program::run(&["inspect", &shipped]);
    assert!(text.stdout.contains("system onestep: runs"), "{text:?}");
    assert!(text.stdout.contains("tessera run: unet, vae-encoder, vae-decoder"), "{text:?}");
    let found = program::run(&["inspect", &shipped, "--json"]).json();
    assert_eq!(found["systems"][0], serde_json::json!({"system": "onestep", "runs": true, "missing": []}));

    // What only a system runs is counted too: the figures of its card, and of its files.
    for (model, parts) in [
        (
            "weights/casarbi",
            [("liif", 148_387), ("lr_encoder", 84_128), ("hr_encoder", 12_048), ("denoiser", 1_337_795)].as_slice(),
        ),
        ("tests/data/casr/model", &[("sarm", 0)]),
    ] {
        let folder = source::root().join(model);
        let found = program::run(&["inspect", &folder.to_string_lossy(), "--json"]).json();
        for (part, parameters) in parts {
            let networks = found["networks"].as_array().expect("a list");
            let network = networks.iter().find(|n| n["part"] == *part).expect(part);
            let weights = Checkpoint::open(&folder.join(part)).expect("checkpoint");
            let held: u64 = weights.tensors().iter().map(|t| t.elements()).sum();
            assert_eq!(network["parameters"], held, "{network}");
            assert!(*parameters == 0 || network["parameters"] == *parameters, "{network}");
            assert_eq!((&network["problems"], &network["unused"]), (&serde_json::json!([]), &serde_json::json!([])));
            let counts = network["multiply_adds"].as_array().expect("a list");
            assert!(!counts.is_empty() && counts.iter().all(|c| c["count"].as_u64() > Some(0)), "{network}");
        }
    }

    // A folder of networks that no system runs as a whole: each of them does all the same.
    let folder = tempfile::tempdir().expect("folder");
    for (part, from) in [("unet", "tiny_unet_sd2"), ("vae", "tiny_vae")] {
        std::fs::create_dir(folder.path().join(part)).expect("folder");
        for file in ["config.json", "diffusion_pytorch_model.safetensors"] {
            let from = data("checkpoints").join(from).join(file);
            std::fs::copy(from, folder.path().join(part).join(file)).expect("copied");
        }
    }
    let index = folder.path().join("model_index.json");
    std::fs::write(index, r#"{"_class_name": "StableDiffusionPipeline"}"#).expect("written");
    let model = folder.path().to_string_lossy().into_owned();
    let found = program::run(&["inspect", &model, "--json"]).json();
    assert_eq!(found["class"], "StableDiffusionPipeline");
    let missing = found["systems"][0]["missing"].as_array().expect("a list");
    assert_eq!((missing.len(), &found["systems"][0]["runs"]), (2, &false.into()), "{found}");
    let unet = &found["networks"][0];
    assert_eq!((&unet["part"], &unet["components"][0]), (&"unet".into(), &"unet".into()), "{found}");
    let weights = Checkpoint::open(&data("checkpoints/tiny_unet_sd2")).expect("checkpoint");
    let parameters: u64 = weights.tensors().iter().map(|t| t.elements()).sum();
    assert_eq!(unet["parameters"], parameters);
    assert_eq!((&unet["problems"], &unet["unused"]), (&serde_json::json!([]), &serde_json::json!([])));

    // Plans and drawings of one network at a size; what does not say which is a usage error.
    let svg = folder.path().join("arena.svg").to_string_lossy().into_owned();
    let plan = ["inspect", &model, "--component", "vae-decoder", "--size", "24x16", "--plan", "--svg", &svg];
    let text = program::run(&plan);
    assert!(text.code == Some(0) && text.stdout.contains("plan vae_decoder 16x24"), "{text:?}");
    let drawn = std::fs::read_to_string(&svg).expect("drawn");
    assert!(drawn.starts_with("<svg") && drawn.contains(">16 x 24<"), "the coarsest level is in the legend");
    assert_eq!(program::run(&plan).code, Some(6), "the drawing exists");
    // For devices that need not be here.
    for (device, variant) in [("any-cuda", "conv2d.mma"), ("any-wgpu", "conv2d.registers")] {
        let text = program::run(&["inspect", &model, "--component", "vae-decoder", "--plan", "-g", device]);
        assert!(text.code == Some(0) && text.stdout.contains(variant), "{device}: {text:?}");
    }
    for wrong in [
        &["inspect", &model, "--svg", "new.svg"][..],
        &["inspect", &model, "--size", "8x8", "--plan"],
        &["inspect", &model, "--component", "unet"],
        &["inspect", &model, "--size", "8by8", "--plan"],
    ] {
        let r = program::run(wrong);
        assert_eq!((r.code, r.stderr.lines().count()), (Some(2), 1), "{wrong:?}: {r:?}");
    }
    // Weights that do not fit their config: said, and nothing is promised.
    let config = data("checkpoints/tiny_vae_plain/config.json");
    std::fs::copy(config, folder.path().join("vae/config.json")).expect("copied");
    let text = program::run(&["inspect", &model]);
    assert!(text.code == Some(0) && text.stdout.contains("does not run: "), "{text:?}");
    assert!(text.stdout.contains("tessera run: unet\n"), "{text:?}");
}

/// Runs the program on files of `folder`.
fn refused(folder: &Path, args: &[&str]) -> program::Run {
    let before = program::snapshot(folder);
    let r = program::run(args);
    assert_ne!(r.code, Some(0), "{args:?}: {r:?}");
    assert_eq!((r.stdout.as_str(), r.last_line().lines().count()), ("", 1), "{args:?}: {r:?}");
    assert!(program::snapshot(folder) == before, "{args:?}: something changed");
    r
}

#[test]
fn bad_inputs_are_named_all_at_once() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (input, output) = (path("in.safetensors"), path("new.safetensors"));
    let model = |name: &str| data("checkpoints").join(name).to_string_lossy().into_owned();
    let unet = model("tiny_unet_sd2");
    let refuse = |component: &str, model: &str, code: i32, parts: &[&str]| {
        let args = ["run", component, "-m", model, "--in", &input, "--out", &output, "-g", "cpu"];
        let r = refused(folder.path(), &args);
        assert_eq!(r.code, Some(code), "{r:?}");
        for part in parts {
            assert!(r.last_line().contains(part), "no `{part}` in {}", r.last_line());
        }
    };
    let good = case("unet_sd2_8x8");
    let with = |change: &dyn Fn(&mut Tensors)| {
        let mut inputs = good.clone();
        change(&mut inputs);
        write(Path::new(&input), &inputs);
    };
    refuse("unet", &unet, 6, &["cannot open", "in.safetensors"]);
    std::fs::write(&input, b"no tensors at all").expect("written");
    refuse("unet", &unet, 6, &["in.safetensors"]);

    // Four problems of one file in one message, each with what was expected.
    with(&|t| {
        t.remove("timestep");
        t.get_mut("sample").expect("sample").1[5] = f32::NAN;
        t.get_mut("encoder_hidden_states").expect("context").0 = vec![7, 1, 20];
        t.insert("timesteps".into(), (vec![1], vec![3.0]));
    });
    let parts = ["4 problem(s)", "`timestep` is missing (nearest: `timesteps`), expected [] or [1] or [1]"];
    refuse("unet", &unet, 6, &parts);
    let parts =
        ["`sample` element 5", "is NaN", "`encoder_hidden_states` is [7, 1, 20], expected [N, T, 20] or [1, T, 20]"];
    // The sample fits in shape, so the batch is known.
    refuse("unet", &unet, 6, &[parts[0], parts[1], &parts[2].replace("[N, T", "[1, T")]);
    refuse(
        "unet",
        &unet,
        6,
        &["`timesteps` is no input of a unet", "a unet takes sample, timestep, encoder_hidden_states"],
    );

    with(&|t| t.get_mut("sample").expect("sample").0 = vec![1, 8, 8, 4]);
    refuse("unet", &unet, 6, &["`sample` is [1, 8, 8, 4], expected [N, 4, H, W]"]);
    with(&|t| t.get_mut("timestep").expect("timestep").1[0] = f32::INFINITY);
    refuse("unet", &unet, 6, &["`timestep`", "inf"]);
    with(&|t| {
        t.insert("mid_block_res_sample".into(), (vec![1, 1], vec![0.0]));
    });
    refuse(
        "unet",
        &unet,
        6,
        &["`mid_block_res_sample` is [1, 1], expected [1, ", "`down_block_res_samples.0` is missing"],
    );

    // The right file for another component, a picture of the wrong size, ints where floats belong.
    with(&|_| {});
    refuse("vae-decoder", &model("tiny_vae"), 6, &["`timestep` is no input of a vae-decoder"]);
    refuse("controlnet", &unet, 3, &["has no controlnet", "unet"]);
    refuse("vae-encoder", &folder.path().join("none").to_string_lossy(), 3, &["none"]);
    write(Path::new(&input), &Tensors::from([("sample".into(), (vec![1, 3, 1, 12], vec![0.5; 36]))]));
    refuse("vae-encoder", &model("tiny_vae"), 6, &["[1, 3, 1, 12]", "H (2 or more)"]);
    let view = TensorView::new(Dtype::I64, vec![1, 4, 1, 1], &[0; 32]).expect("view");
    std::fs::write(&input, safetensors::serialize([("sample", view)], None).expect("bytes")).expect("written");
    refuse("vae-decoder", &model("tiny_vae"), 6, &["`sample` is stored as I64, expected F32, F16 or BF16"]);
    let many = Tensors::from([("sample".into(), (vec![65, 4, 1, 1], vec![0.5; 260]))]);
    write(Path::new(&input), &many);
    refuse("vae-decoder", &model("tiny_vae"), 6, &["a batch of 65, the limit is 64"]);
}

#[test]
fn outputs_are_kept_and_devices_are_held_to_their_types() {
    let folder = tempfile::tempdir().expect("folder");
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (input, output) = (path("in.safetensors"), path("out.safetensors"));
    write(Path::new(&input), &case("unet_sd2_8x8"));
    let unet = data("checkpoints/tiny_unet_sd2").to_string_lossy().into_owned();
    let args = |out: &'static str, more: &[&'static str]| {
        let out = if out == "in" { input.clone() } else { path(out) };
        let mut all = ["run", "unet", "-m", &unet, "--in", &input, "--out", &out].map(str::to_owned).to_vec();
        all.extend(more.iter().map(|s| (*s).to_owned()));
        all
    };
    let refuse = |args: Vec<String>, code: i32, part: &str| {
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        let r = refused(folder.path(), &args);
        assert_eq!(r.code, Some(code), "{r:?}");
        assert!(r.last_line().contains(part), "no `{part}` in {}", r.last_line());
    };
    std::fs::write(&output, b"here before").expect("written");
    refuse(args("out.safetensors", &["-g", "cpu"]), 6, "exists");
    refuse(args("in", &["-g", "cpu", "--overwrite"]), 6, "is the input");
    refuse(args("no/such/folder.safetensors", &["-g", "cpu"]), 6, "folder.safetensors");
    refuse(args("new", &["-g", "cpu", "--dtype", "f64"]), 2, "f64");
    refuse(args("new", &["-g", "cuda:99"]), 4, "no device `cuda:99`");
    refuse(args("new", &["-g", "cpu", "--threads", "0"]), 2, "0 threads");
    let r = program::run(&["run", "text-decoder", "-m", &unet, "--in", &input, "--out", &output]);
    assert_eq!(r.code, Some(2), "{r:?}");
    if reference::have_wgpu() {
        refuse(args("new", &["-g", "wgpu", "--dtype", "bf16"]), 4, "does not store bf16");
    }
    let r = program::run(&args("out.safetensors", &["-g", "cpu", "--overwrite", "--json"]));
    assert_eq!(r.code, Some(0), "{r:?}");
    let report = r.json();
    assert_eq!((&report["component"], &report["dtype"], &report["batch"]), (&"unet".into(), &"f32".into(), &1.into()));
    assert_eq!(report["output"]["tensors"][0], serde_json::json!({"name": "sample", "shape": [1, 4, 8, 8]}));
    let r = program::run(&args("plain.safetensors", &["-g", "cpu"]));
    assert_eq!((r.code, r.stdout.trim()), (Some(0), path("plain.safetensors").as_str()), "{r:?}");
    assert_eq!(read(Path::new(&output)), read(&folder.path().join("plain.safetensors")));
}

/// A network of every kind of weight: convolution, norm, linear, and a table that the setup list makes.
fn small() -> Graph {
    let mut b = Builder::new("small", DType::F32);
    let x = b.input("x", Shape::new(1, 6, 5, 8), DType::F32, Lifetime::Window);
    let k = b.input("k", Shape::new(1, 1, 3, 8), DType::F32, Lifetime::Context);
    let y = b.conv("conv", x, 16, 3, 1, Padding::all(1)).expect("conv");
    let y = b.group_norm("norm", y, 4, 1e-5, tessera::graph::Act::Silu).expect("norm");
    let (keys, values) = (b.linear("to_k", k, 16, true).expect("k"), b.linear("to_v", k, 16, false).expect("v"));
    let y = b.attention("softmax", [y, keys, values], 2, 0.5).expect("attention");
    let y = b.linear("out", y, 4, true).expect("out");
    b.output("y", y);
    b.finish()
}

/// Values that depend on the seed, the tensor and the place, in -0.5 to 0.5.
fn noise(seed: u64, name: &str, i: usize) -> f32 {
    let hash =
        name.bytes().fold(seed ^ 0x9e37_79b9_7f4a_7c15, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let mixed =
        (hash ^ i as u64).wrapping_mul(0xd6e8_feb8_6659_fd93).rotate_left(29).wrapping_mul(0xa076_1d64_78bd_642f);
    (mixed >> 40) as f32 / (1u64 << 24) as f32 - 0.5
}

/// Weights of the small network for a seed, packed as asked for.
fn weights(graph: &Graph, seed: u64) -> impl FnMut(&PackedWeight) -> Result<Vec<u8>> + use<> {
    let shapes: BTreeMap<String, usize> =
        graph.weights.iter().map(|w| (w.name.clone(), w.shape.iter().product::<u64>() as usize)).collect();
    move |w| {
        let data: Vec<Option<(&str, Vec<f32>)>> = w
            .tensors
            .iter()
            .map(|n| n.as_deref().map(|n| (n, (0..shapes[n]).map(|i| noise(seed, n, i)).collect())))
            .collect();
        let tensors: Vec<_> = data
            .iter()
            .map(|d| d.as_ref().map(|(name, values)| tessera::weights::recipe::Tensor { name, values }))
            .collect();
        tessera::weights::recipe::pack(&tensors, &w.packing, w.dtype)
    }
}

fn feed(e: &mut Executor) {
    e.write_input("k", &(0..24).map(|i| noise(1, "k", i)).collect::<Vec<_>>()).expect("k");
    e.setup().expect("setup");
}

fn result(e: &mut Executor) -> Vec<f32> {
    e.write_input("x", &(0..240).map(|i| noise(1, "x", i)).collect::<Vec<_>>()).expect("x");
    e.run(&[Item::default()]).expect("runs");
    let mut y = vec![0.0; 120];
    e.read_output("y", &mut y).expect("y");
    y
}

#[test]
fn weights_change_in_place_and_each_set_gives_its_own_result() {
    let mut backends: Vec<Box<dyn Backend>> = vec![Box::new(tessera::backend::cpu::Cpu::new().expect("cpu"))];
    if reference::have_wgpu() {
        backends.push(Box::new(tessera::backend::wgpu::WgpuBackend::open(0).expect("wgpu")));
    }
    for backend in backends {
        let caps = backend.caps().clone();
        let device = SharedDevice::new(backend);
        let compile = || plan::compile(small(), &caps).expect("plans");
        let fresh = |seed| {
            let mut e = Executor::new(&device, compile(), None, &mut weights(&small(), seed)).expect("resident");
            feed(&mut e);
            result(&mut e)
        };
        let (one, two) = (fresh(1), fresh(2));
        assert_ne!(one, two, "the weights matter");
        // A scope, so that the weights are shared ones: the next executor of it must not meet the changed ones.
        let mut e = Executor::new(&device, compile(), Some("model"), &mut weights(&small(), 1)).expect("resident");
        feed(&mut e);
        assert_eq!(result(&mut e), one);
        let (held, plan) = (device.allocated(), e.plan().clone());
        for (seed, expected) in [(2, &two), (1, &one), (2, &two)] {
            // No input is written again: what setup makes of the context follows the weights by itself.
            e.reload_weights(&mut weights(&small(), seed)).expect("reloads");
            assert_eq!(&result(&mut e), expected, "{}: weights {seed}", caps.name);
            assert_eq!(device.allocated(), held, "no device memory is taken");
        }
        assert_eq!(e.plan(), &plan);
        let mut other = Executor::new(&device, compile(), Some("model"), &mut weights(&small(), 1)).expect("resident");
        feed(&mut other);
        assert_eq!(result(&mut other), one, "the scope still means its own checkpoint");
        // Shared weights are refused, and nothing has changed by that.
        let third = Executor::new(&device, compile(), Some("model"), &mut weights(&small(), 1)).expect("resident");
        let refused = other.reload_weights(&mut weights(&small(), 2)).expect_err("shared");
        assert!(refused.message().contains("shared"), "{refused}");
        assert_eq!(result(&mut other), one);
        drop(third);
        // A reload that fails half way leaves no executor that computes with a mix.
        let (mut calls, mut pack) = (0, weights(&small(), 2));
        let failed = other.reload_weights(&mut |w| {
            calls += 1;
            if calls > 2 { Err(tessera::Error::new(Kind::Io, "test", "gone")) } else { pack(w) }
        });
        assert_eq!(failed.expect_err("gone").kind(), Kind::Io);
        assert_eq!(other.run(&[Item::default()]).expect_err("mixed").kind(), Kind::Internal);
        other.reload_weights(&mut weights(&small(), 2)).expect("whole again");
        assert_eq!(result(&mut other), two);
    }
}

/// The null backend with its counts in reach while an executor owns it.
struct Counting(Null, Arc<Mutex<Counts>>);

impl Counting {
    fn note<T>(&self, out: T) -> T {
        *self.1.lock().expect("counts") = self.0.counts();
        out
    }
}

impl Backend for Counting {
    fn caps(&self) -> &Caps {
        self.0.caps()
    }
    fn alloc(&mut self, slot: &Slot) -> Result<BufferId> {
        let out = self.0.alloc(slot);
        self.note(out)
    }
    fn free(&mut self, buffer: BufferId) {
        self.0.free(buffer);
    }
    fn write(&mut self, buffer: BufferId, offset: u64, bytes: &[u8]) -> Result<()> {
        let out = self.0.write(buffer, offset, bytes);
        self.note(out)
    }
    fn read(&mut self, buffer: BufferId, offset: u64, bytes: &mut [u8]) -> Result<()> {
        self.0.read(buffer, offset, bytes)
    }
    fn prepare(&mut self, commands: &[Dispatch], slots: &[BufferId]) -> Result<ListId> {
        let out = self.0.prepare(commands, slots);
        self.note(out)
    }
    fn discard(&mut self, list: ListId) {
        self.0.discard(list);
    }
    fn run_until(&mut self, list: ListId, stop: &Stop<'_>) -> Result<()> {
        let out = self.0.run_until(list, stop);
        self.note(out)
    }
    fn account(&mut self) -> &mut Account {
        self.0.account()
    }
    fn allocated(&self) -> u64 {
        self.0.allocated()
    }
}

#[test]
fn a_reload_writes_weights_and_runs_setup_and_nothing_else() {
    let counts = Arc::new(Mutex::new(Counts::default()));
    let device = SharedDevice::new(Box::new(Counting(Null::new(Caps::cpu()), counts.clone())));
    let compiled = plan::compile(small(), &Caps::cpu()).expect("plans");
    let recipes = compiled.slots.iter().filter(|s| matches!(s.kind, SlotKind::Weight(_))).count() as u64;
    let mut e = Executor::new(&device, compiled, None, &mut weights(&small(), 1)).expect("resident");
    feed(&mut e);
    let before = *counts.lock().expect("counts");
    e.reload_weights(&mut weights(&small(), 2)).expect("reloads");
    let after = *counts.lock().expect("counts");
    assert_eq!((after.allocs, after.prepares), (before.allocs, before.prepares));
    // One write of each weight and one of the items for setup, which runs once.
    assert_eq!((after.writes - before.writes, after.runs - before.runs), (recipes + 1, 1));
}

#[test]
fn a_launch_ends_between_segments_when_it_is_told_to_and_the_next_one_is_whole() {
    let device = SharedDevice::new(Box::new(tessera::backend::cpu::Cpu::new().expect("cpu")));
    let plan = plan::compile(small(), &device.caps()).expect("plans");
    let commands = plan.body.len();
    let mut e = Executor::new(&device, plan, None, &mut weights(&small(), 1)).expect("resident");
    feed(&mut e);
    let want = result(&mut e);
    for last in 0..commands {
        let asked = std::sync::atomic::AtomicUsize::new(0);
        let stop = || match asked.fetch_add(1, std::sync::atomic::Ordering::Relaxed) {
            n if n == last => Err(tessera::Error::new(Kind::Cancelled, "test", "enough")),
            _ => Ok(()),
        };
        let e = e.run_until(&[Item::default()], &stop).expect_err("stopped");
        assert_eq!((e.kind(), asked.into_inner()), (Kind::Cancelled, last + 1));
    }
    assert!(result(&mut e) == want);
}
