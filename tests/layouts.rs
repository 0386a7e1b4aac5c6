//! Layouts: published names against diffusers' own conversion, configs inferred from shapes, folders with
//! variants and shards, families that are refused.

use crate::source;
use crate::weights::{f32s, file, folder, tensors, write};
use flate2::read::GzDecoder;
use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Write};
use std::path::PathBuf;
use tempfile::TempDir;
use tessera::Kind;
use tessera::graph::{DType, Graph};
use tessera::model::Extents;
use tessera::model::clip_text::ClipTextModel;
use tessera::model::clip_vision::ClipVisionModel;
use tessera::model::controlnet::ControlNetModel;
use tessera::model::unet::UNet2DConditionModel;
use tessera::model::vae::AutoencoderKL;
use tessera::weights::{Checkpoint, Model, Part};

/// Written by `tools/reference/make_layouts.py`, which made diffusers convert every name.
const NAMES: &[u8] = include_bytes!("data/layouts/names.txt.gz");

/// A stored tensor of a published file and what it is.
struct Line {
    case: String,
    part: Part,
    /// diffusers' name; `None` where the network does not have it.
    name: Option<String>,
    stored: String,
    /// Which third of the stored rows.
    third: Option<u64>,
    shape: Vec<u64>,
}

fn lines() -> Vec<Line> {
    let mut text = String::new();
    GzDecoder::new(NAMES).read_to_string(&mut text).expect("gzip");
    let line = |line: &str| {
        let f: Vec<&str> = line.split(' ').collect();
        Line {
            case: f[0].into(),
            part: Part::ALL.into_iter().find(|p| p.folder() == f[1]).expect("part"),
            name: (f[2] != "-").then(|| f[2].into()),
            stored: f[3].into(),
            third: f[4].parse().ok(),
            shape: f[5].split('x').map(|d| d.parse().expect("extent")).collect(),
        }
    };
    text.lines().map(line).collect()
}

/// The lines of one file.
fn case(name: &str) -> Vec<Line> {
    let lines: Vec<Line> = lines().into_iter().filter(|l| l.case == name).collect();
    assert!(lines.len() > 200, "{name}");
    lines
}

/// A file with these tensors as f16, of `shape`; its data are a hole in the disk unless `value` fills them.
fn ldm_file(
    dir: &TempDir,
    lines: &[Line],
    shape: impl Fn(&Line) -> Vec<u64>,
    value: Option<fn(&str, u64) -> f32>,
) -> PathBuf {
    let (mut entries, mut data, mut end, mut seen) = (Vec::new(), Vec::new(), 0u64, BTreeSet::new());
    for line in lines.iter().filter(|l| seen.insert(l.stored.clone())) {
        let (shape, begin) = (shape(line), end);
        let count: u64 = shape.iter().product();
        end += 2 * count;
        entries.push(format!(
            "\"{}\":{{\"dtype\":\"F16\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}",
            line.stored
        ));
        if let Some(value) = value {
            data.extend((0..count).flat_map(|i| half::f16::from_f32(value(&line.stored, i)).to_le_bytes()));
        }
    }
    let header = file(&format!("{{{}}}", entries.join(",")), &[]);
    let path = dir.path().join("model.safetensors");
    let mut f = std::fs::File::create(&path).expect("create");
    f.write_all(&header).and_then(|()| f.write_all(&data)).expect("write");
    f.set_len(header.len() as u64 + end).expect("length");
    path
}

/// Holds a graph's tensors against a part's: all there, of the right shapes, nothing over.
fn fits(model: &Model, part: Part, graphs: &[Graph]) {
    let wanted = graphs.iter().flat_map(|g| &g.weights).map(|w| (w.name.as_str(), &w.shape[..]));
    let extra = model.checkpoint(part).expect("checkpoint").check(wanted).expect("fits");
    assert!(extra.is_empty(), "{part:?}: {extra:?}");
}

/// SD 1.5's UNet, the fields that its config.json has and that differ from diffusers' defaults.
const SD15_UNET: &str = r#"{"attention_head_dim":8,"cross_attention_dim":768}"#;

#[test]
fn published_single_files_have_diffusers_names_shapes_and_configs() {
    let unets = [("sd15", SD15_UNET), ("sd21", include_str!("data/configs/sd21_unet.json"))];
    for (name, published) in unets {
        let (dir, lines) = (folder(), case(name));
        let model = Model::open(&ldm_file(&dir, &lines, |l| l.shape.clone(), None)).expect("opens");
        assert_eq!(model.parts(), [Part::Unet, Part::Vae, Part::TextEncoder]);
        for part in model.parts() {
            let checkpoint = model.checkpoint(part).expect("checkpoint");
            let mine: BTreeSet<&str> = checkpoint.tensors().iter().map(|t| t.name.as_str()).collect();
            let theirs: BTreeSet<&str> =
                lines.iter().filter(|l| l.part == part).filter_map(|l| l.name.as_deref()).collect();
            assert_eq!(mine, theirs, "{name} {part:?}");
            for line in lines.iter().filter(|l| l.part == part) {
                let Some(name) = &line.name else { continue };
                let t = checkpoint.find(name).expect("found");
                let rows = line.shape[0] / if line.third.is_some() { 3 } else { 1 };
                assert_eq!((t.shape[0], &t.shape[1..], t.stored()), (rows, &line.shape[1..], line.stored.as_str()));
            }
        }
        let unet = UNet2DConditionModel::from_config(&model.config(Part::Unet).expect("config")).expect("reads");
        assert_eq!(unet, UNet2DConditionModel::from_config(published).expect("published"));
        fits(&model, Part::Unet, &[unet.build(&Extents::of(8, 8), DType::F16).expect("graph")]);
        let vae = AutoencoderKL::from_config(&model.config(Part::Vae).expect("config")).expect("reads");
        assert_eq!(vae, AutoencoderKL::from_config(include_str!("data/configs/sd_vae.json")).expect("published"));
        let graphs = [vae.build_encoder(1, 64, 64, DType::F16), vae.build_decoder(1, 8, 8, DType::F16)];
        fits(&model, Part::Vae, &graphs.map(|g| g.expect("graph")));
        let text: serde_json::Value =
            serde_json::from_str(&model.config(Part::TextEncoder).expect("config")).expect("JSON");
        let (width, layers, mlp, act) =
            if name == "sd15" { (768, 12, 3072, "quick_gelu") } else { (1024, 23, 4096, "gelu") };
        for (key, value) in [
            ("hidden_size", width),
            ("num_hidden_layers", layers),
            ("intermediate_size", mlp),
            ("num_attention_heads", width / 64),
            ("vocab_size", 49408),
            ("max_position_embeddings", 77),
        ] {
            assert_eq!(text[key], value, "{name} {key}");
        }
        assert_eq!(text["hidden_act"], act);
        let scheduler: serde_json::Value = serde_json::from_str(&model.scheduler().expect("scheduler")).expect("JSON");
        assert_eq!(scheduler["prediction_type"], if name == "sd15" { "epsilon" } else { "v_prediction" });
        let e = model.checkpoint(Part::ControlNet).expect_err("none");
        assert!(e.message().contains("has no controlnet; it has: unet, vae, text_encoder"), "{e}");
    }
}

#[test]
fn controlnets_and_autoencoders_stand_alone() {
    let (dir, lines) = (folder(), case("controlnet21"));
    let model = Model::open(&ldm_file(&dir, &lines, |l| l.shape.clone(), None)).expect("opens");
    assert_eq!(model.parts(), [Part::ControlNet]);
    let net = ControlNetModel::from_config(&model.config(Part::ControlNet).expect("config")).expect("reads");
    fits(&model, Part::ControlNet, &[net.build(&Extents::of(8, 8), 1.0, DType::F16).expect("graph")]);
    assert_eq!((net.factor(), net.skips()), (8, 12));

    let (dir, lines) = (folder(), case("vae"));
    let model = Model::open(&ldm_file(&dir, &lines, |l| l.shape.clone(), None)).expect("opens");
    assert_eq!(model.parts(), [Part::Vae]);
    let vae = AutoencoderKL::from_config(&model.config(Part::Vae).expect("config")).expect("reads");
    let graphs = [vae.build_encoder(1, 64, 64, DType::F16), vae.build_decoder(1, 8, 8, DType::F16)];
    fits(&model, Part::Vae, &graphs.map(|g| g.expect("graph")));
}

/// A number that says which tensor and which element it is, exact in f16.
fn mark(stored: &str, i: u64) -> f32 {
    let hash = stored.bytes().fold(0x811c_9dc5_u32, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    (hash.wrapping_add((i as u32).wrapping_mul(0x9e37_79b9)) >> 21) as f32 - 1024.0
}

#[test]
fn every_tensor_of_the_published_files_reads_the_values_it_is_stored_with() {
    for name in ["sd15", "sd21", "controlnet21", "vae"] {
        let (dir, lines) = (folder(), case(name));
        // six rows, or two of each fused third; the layout is told by names alone
        let small = |l: &Line| -> Vec<u64> {
            l.shape.iter().enumerate().map(|(i, &d)| d.min(if i == 0 { 6 } else { 2 })).collect()
        };
        let model = Model::open(&ldm_file(&dir, &lines, small, Some(mark))).expect("opens");
        let checkpoints: BTreeMap<Part, Checkpoint> =
            model.parts().into_iter().map(|p| (p, model.checkpoint(p).expect("checkpoint"))).collect();
        for line in &lines {
            let Some(name) = &line.name else { continue };
            let all: u64 = small(line).iter().product();
            let range = line.third.map_or(0..all, |third| third * all / 3..(third + 1) * all / 3);
            let expected: Vec<f32> = range.map(|i| mark(&line.stored, i)).collect();
            assert_eq!(checkpoints[&line.part].read_f32(name).expect("reads"), expected, "{name}");
        }
    }
}

/// SD-Turbo's single file calls the text tower as its trainer does; SDXL's files begin alike.
#[test]
fn turbos_single_file_is_not_taken_for_sdxl() {
    let (dir, mut lines) = (folder(), case("sd21"));
    for l in &mut lines {
        l.stored = l.stored.replace("cond_stage_model.model.", "conditioner.embedders.0.model.");
    }
    let model = Model::open(&ldm_file(&dir, &lines, |l| l.shape.clone(), None)).expect("opens");
    assert_eq!(model.parts(), [Part::Unet, Part::Vae, Part::TextEncoder]);
    let text = model.checkpoint(Part::TextEncoder).expect("text encoder");
    let mine: BTreeSet<&str> = text.tensors().iter().map(|t| t.name.as_str()).collect();
    let theirs = lines.iter().filter(|l| l.part == Part::TextEncoder).filter_map(|l| l.name.as_deref());
    assert_eq!(mine, theirs.collect());
}

/// CLIP as OpenAI published it: both towers in one file, one config for both.
#[test]
fn a_whole_clip_gives_both_towers_as_a_folder_and_as_a_file() {
    let dir = folder();
    let towers = ["clip_text_quick", "clip_vision_quick"].map(|t| tiny_vae().with_file_name(t));
    let configs = towers.each_ref().map(|t| std::fs::read_to_string(t.join("config.json")).expect("config"));
    let whole = format!(
        r#"{{"architectures":["CLIPModel"],"model_type":"clip","projection_dim":8,"logit_scale_init_value":2.6592,
        "text_config":{},"vision_config":{}}}"#,
        configs[0], configs[1]
    );
    write(&dir, "config.json", whole.as_bytes());
    let files = towers.each_ref().map(|t| Checkpoint::open(&t.join("model.safetensors")).expect("tower"));
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    let more =
        [("logit_scale", vec![]), ("text_projection.weight", vec![8, 8]), ("visual_projection.weight", vec![8, 8])];
    let of_towers = files.iter().flat_map(|f| {
        f.tensors().iter().map(|t| (t.name.as_str(), t.shape.clone(), f.read_f32(&t.name).expect("reads")))
    });
    let others =
        more.iter().map(|(name, shape)| (*name, shape.clone(), vec![1.0; shape.iter().product::<u64>() as usize]));
    for (name, shape, values) in of_towers.chain(others) {
        let begin = data.len();
        data.extend(values.iter().flat_map(|v| v.to_le_bytes()));
        let end = data.len();
        entries.push(format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{begin},{end}]}}"));
    }
    let path = write(&dir, "model.safetensors", &file(&format!("{{{}}}", entries.join(",")), &data));
    for path in [dir.path(), path.as_path()] {
        let model = Model::open(path).expect("opens");
        assert_eq!(model.parts(), [Part::TextEncoder, Part::ImageEncoder]);
        let text = ClipTextModel::from_config(&model.config(Part::TextEncoder).expect("config")).expect("text");
        assert_eq!(text, ClipTextModel::from_config(&configs[0]).expect("published"));
        let vision = ClipVisionModel::from_config(&model.config(Part::ImageEncoder).expect("config")).expect("vision");
        assert_eq!(vision, ClipVisionModel::from_config(&configs[1]).expect("published"));
        for (part, file) in [(Part::TextEncoder, &files[0]), (Part::ImageEncoder, &files[1])] {
            let tower = model.checkpoint(part).expect("tower");
            let names: BTreeSet<&str> = tower.tensors().iter().map(|t| t.name.as_str()).collect();
            assert_eq!(names, file.tensors().iter().map(|t| t.name.as_str()).collect());
            for name in names {
                assert_eq!(tower.read_f32(name).expect("reads"), file.read_f32(name).expect("reads"), "{name}");
            }
        }
    }
    // a file of both towers that lies beside another network's config has none of its own
    write(&dir, "config.json", br#"{"_class_name":"UNet2DConditionModel"}"#);
    assert!(Model::open(&path).and_then(|m| m.config(Part::ImageEncoder)).is_err());
}

#[test]
fn early_text_encoders_and_prefixed_autoencoders_are_found() {
    let dir = folder();
    let head = "cond_stage_model.transformer.";
    let names = [format!("{head}embeddings.token_embedding.weight"), format!("{head}encoder.layers.0.mlp.fc1.bias")];
    let list: Vec<(&str, &[u64])> = names.iter().map(|n| (n.as_str(), &[4u64, 2][..])).collect();
    let model = Model::open(&write(&dir, "early.safetensors", &tensors(&list))).expect("opens");
    let c = model.checkpoint(Part::TextEncoder).expect("checkpoint");
    assert!(c.find("text_model.encoder.layers.0.mlp.fc1.bias").is_some());

    let list: [(&str, &[u64]); 2] =
        [("vae.encoder.down.0.block.0.conv1.weight", &[2]), ("vae.decoder.up.0.block.0.norm1.weight", &[2])];
    let model = Model::open(&write(&dir, "vae.safetensors", &tensors(&list))).expect("opens");
    let c = model.checkpoint(Part::Vae).expect("checkpoint");
    assert!(c.find("decoder.up_blocks.0.resnets.0.norm1.weight").is_some());
    // a shape that no published network has leaves the config unknown
    let e = model.config(Part::Vae).expect_err("unknown");
    assert!(e.advice().is_some_and(|a| a.contains("config.json")), "{e}");
}

#[test]
fn what_is_stored_twice_or_cannot_be_split_is_refused() {
    let dir = folder();
    let head = "model.diffusion_model.input_blocks.0.0";
    let list: [(&str, &[u64]); 2] = [
        ("model.diffusion_model.input_blocks.0.0.weight", &[2]),
        ("model.diffusion_model.input_blocks.01.0.norm", &[2]),
    ];
    assert!(Model::open(&write(&dir, "a.safetensors", &tensors(&list))).is_ok(), "{head}");
    let list: [(&str, &[u64]); 3] = [
        ("model.diffusion_model.input_blocks.0.0.weight", &[2]),
        ("model.diffusion_model.input_blocks.1.1.norm.bias", &[2]),
        ("model.diffusion_model.input_blocks.01.1.norm.bias", &[2]),
    ];
    let model = Model::open(&write(&dir, "b.safetensors", &tensors(&list))).expect("opens");
    let e = model.checkpoint(Part::Unet).expect_err("twice");
    assert!(e.message().contains("two tensors are `down_blocks.0.attentions.0.norm.bias`"), "{e}");
    let list: [(&str, &[u64]); 2] = [
        ("cond_stage_model.model.token_embedding.weight", &[2, 2]),
        ("cond_stage_model.model.transformer.resblocks.0.attn.in_proj_bias", &[7]),
    ];
    let tower: [(&str, &[u64]); 3] =
        [list[0], list[1], ("cond_stage_model.model.transformer.resblocks.1.ln_1.bias", &[7])];
    let model = Model::open(&write(&dir, "c.safetensors", &tensors(&tower))).expect("opens");
    let e = model.checkpoint(Part::TextEncoder).expect_err("7 rows");
    assert!(e.message().contains("not 3 equal blocks of rows"), "{e}");
}

/// A tiny autoencoder in diffusers' naming with its config, from the reference checkpoints.
fn tiny_vae() -> PathBuf {
    source::root().join("tests/data/reference/checkpoints/tiny_vae")
}

#[test]
fn one_network_in_diffusers_naming_opens_as_a_folder_and_as_a_file() {
    let file = tiny_vae().join("diffusion_pytorch_model.safetensors");
    let (of_folder, of_file) = (Model::open(&tiny_vae()).expect("folder"), Model::open(&file).expect("file"));
    assert_eq!((of_folder.parts(), of_file.parts()), (vec![Part::Vae], vec![Part::Vae]));
    assert_eq!(of_folder.config(Part::Vae).expect("read"), of_file.config(Part::Vae).expect("beside"));
    let name = "decoder.mid_block.attentions.0.to_q.weight";
    let read = |m: &Model| m.checkpoint(Part::Vae).and_then(|c| c.read_f32(name)).expect("reads");
    assert_eq!(read(&of_folder), read(&of_file));
    // a network's folder in one that lost its model_index.json
    let dir = folder();
    std::fs::create_dir(dir.path().join("vae")).expect("folder");
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        std::fs::copy(tiny_vae().join(name), dir.path().join("vae").join(name)).expect("copy");
    }
    let of_part = Model::open(dir.path()).expect("no index");
    assert_eq!((of_part.parts(), read(&of_part)), (vec![Part::Vae], read(&of_folder)));
    // another network's config beside the file
    let dir = folder();
    let copy = dir.path().join("vae.safetensors");
    std::fs::copy(&file, &copy).expect("copy");
    write(&dir, "config.json", br#"{"_class_name":"UNet2DConditionModel"}"#);
    let e = Model::open(&copy).expect_err("mismatch");
    assert!(e.message().contains("describes a unet") && e.message().contains("holds a vae"), "{e}");
    // without one, the tiny widths are of no published network
    std::fs::remove_file(dir.path().join("config.json")).expect("remove");
    let e = Model::open(&copy).and_then(|m| m.config(Part::Vae)).expect_err("unknown groups");
    assert!(e.message().contains("multiple of 32"), "{e}");
}

#[test]
fn variants_and_their_shards_open() {
    let one = || tensors(&[("a", &[2])]);
    for name in ["diffusion_pytorch_model.fp16.safetensors", "model.fp16.safetensors", "model.safetensors"] {
        let dir = folder();
        write(&dir, name, &one());
        assert_eq!(Checkpoint::open(dir.path()).expect(name).tensors().len(), 1);
    }
    for index in [
        "diffusion_pytorch_model.safetensors.index.fp16.json",
        "model.safetensors.index.fp16.json",
        "model.fp16.safetensors.index.json",
    ] {
        let dir = folder();
        write(&dir, "model.fp16-00001-of-00002.safetensors", &one());
        write(&dir, "model.fp16-00002-of-00002.safetensors", &tensors(&[("b", &[3])]));
        let map = r#"{"weight_map":{"a":"model.fp16-00001-of-00002.safetensors","b":"model.fp16-00002-of-00002.safetensors"}}"#;
        write(&dir, index, map.as_bytes());
        assert_eq!(Checkpoint::open(dir.path()).expect(index).read_f32("b").expect("second"), [1.0, 2.0, 3.0]);
    }
    // a whole checkpoint of shards, named by its index, is a single file too
    let dir = folder();
    write(&dir, "m-1.safetensors", &tensors(&[("first_stage_model.encoder.down.0.block.0.conv1.weight", &[2])]));
    write(&dir, "m-2.safetensors", &tensors(&[("first_stage_model.quant_conv.bias", &[3])]));
    let map = r#"{"weight_map":{"first_stage_model.encoder.down.0.block.0.conv1.weight":"m-1.safetensors","first_stage_model.quant_conv.bias":"m-2.safetensors"}}"#;
    let model = Model::open(&write(&dir, "m.safetensors.index.json", map.as_bytes())).expect("index");
    assert_eq!(
        model.checkpoint(Part::Vae).and_then(|c| c.read_f32("quant_conv.bias")).expect("reads"),
        [1.0, 2.0, 3.0]
    );
}

#[test]
fn pickles_are_refused_with_the_converter() {
    for name in ["v1-5.ckpt", "ema.PTH", "vae.pt", "x.bin", "x.pkl"] {
        let dir = folder();
        let e = Model::open(&write(&dir, name, b"\x80\x02}q\x00.")).expect_err(name);
        assert_eq!(e.kind(), Kind::Weights);
        assert!(e.advice().is_some_and(|a| a.contains("tools/convert")), "{e}");
    }
    for name in ["pytorch_model.bin", "diffusion_pytorch_model.fp16.bin"] {
        let dir = folder();
        write(&dir, name, b"\x80\x02}q\x00.");
        let e = Checkpoint::open(dir.path()).expect_err(name);
        assert!(e.advice().is_some_and(|a| a.contains("tools/convert")), "{e}");
    }
}

#[test]
fn other_families_are_refused_by_name() {
    for (tensor, family) in [
        ("conditioner.embedders.1.model.transformer.resblocks.9.mlp.c_proj.bias", "SDXL"),
        ("conditioner.embedders.0.transformer.text_model.final_layer_norm.bias", "SDXL"),
        ("model.diffusion_model.label_emb.0.0.weight", "SDXL"),
        ("add_embedding.linear_1.weight", "SDXL"),
        ("model.diffusion_model.joint_blocks.0.context_block.adaLN_modulation.1.bias", "Stable Diffusion 3"),
        ("double_blocks.0.img_attn.norm.key_norm.scale", "FLUX"),
        ("model.diffusion_model.double_blocks.0.img_attn.proj.weight", "FLUX"),
        ("single_transformer_blocks.0.norm.linear.weight", "FLUX"),
        ("model.diffusion_model.single_blocks.0.linear1.weight", "FLUX"),
        ("model.diffusion_model.label_emb.weight", "upscaler"),
        ("lora_unet_mid_block_attentions_0_proj_in.lora_down.weight", "LoRA adapter"),
        ("text_encoder.x.hada_w1_a", "LoHa"),
        ("frobnicator.weight", "no network that is known; it has `frobnicator.weight`"),
    ] {
        let dir = folder();
        let list: [(&str, &[u64]); 2] = [("model.diffusion_model.input_blocks.0.0.weight", &[2]), (tensor, &[2])];
        let list = if tensor.starts_with("frob") { &list[1..] } else { &list[..] };
        let e = Model::open(&write(&dir, "x.safetensors", &tensors(list))).expect_err(family);
        assert_eq!(e.kind(), Kind::Weights);
        assert!(e.message().contains(family), "{tensor}: {e}");
    }
    let dir = folder();
    let e = Model::open(&write(&dir, "x.safetensors", &file("{}", &f32s(&[])))).expect_err("empty");
    assert!(e.message().contains("it has no tensors"), "{e}");
}
