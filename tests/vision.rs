//! The networks that look at pictures for a system: published files of either naming without a config, files of
//! another variant, what is folded, and pictures that are too small.

use crate::interpreter::{self, Rows};
use crate::reference;
use crate::source;
use crate::tolerance;
use crate::weights::{f32s, file, folder, write};
use flate2::read::GzDecoder;
use std::collections::{BTreeSet, HashMap};
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use tessera::Kind;
use tessera::graph::DType;
use tessera::graph::taps::Filter;
use tessera::model::depth_anything::DepthAnything;
use tessera::model::pictures;
use tessera::model::sam::SamVisionModel;
use tessera::model::spixel_fcn::SpixelNet;
use tessera::run::{Cancel, Component, ComponentOptions, InspectOptions, Silent, component, inspect};
use tessera::weights::{Checkpoint, Model, Part};

/// Written by `tools/reference/make_vision.py` from PyTorch's modules.
const NAMES: &[u8] = include_bytes!("data/layouts/vision.txt.gz");

/// Name and shape of every tensor of a published network in one naming.
fn published(arch: &str, naming: &str) -> Vec<(String, Vec<u64>)> {
    let mut text = String::new();
    GzDecoder::new(NAMES).read_to_string(&mut text).expect("gzip");
    let line = |line: &str| {
        let f: Vec<&str> = line.split(' ').collect();
        let shape = if f[3] == "." { vec![] } else { f[3].split('x').map(|d| d.parse().expect("extent")).collect() };
        (f[0] == arch && f[1] == naming).then(|| (f[2].to_owned(), shape))
    };
    let found: Vec<(String, Vec<u64>)> = text.lines().filter_map(line).collect();
    assert!(found.len() > 50, "{arch} {naming}");
    found
}

/// A file with these tensors as f16, whose data are a hole in the disk.
fn hollow(folder: &Path, tensors: &[(String, Vec<u64>)]) -> PathBuf {
    let (mut entries, mut end) = (Vec::new(), 0u64);
    for (name, shape) in tensors {
        let (dtype, size) = if name.ends_with("num_batches_tracked") { ("I64", 8) } else { ("F16", 2) };
        let begin = end;
        end += size * shape.iter().product::<u64>();
        let at = format!("\"data_offsets\":[{begin},{end}]");
        entries.push(format!("\"{name}\":{{\"dtype\":\"{dtype}\",\"shape\":{shape:?},{at}}}"));
    }
    let header = file(&format!("{{{}}}", entries.join(",")), &[]);
    let path = folder.join("model.safetensors");
    let mut f = std::fs::File::create(&path).expect("create");
    f.write_all(&header).expect("write");
    f.set_len(header.len() as u64 + end).expect("length");
    path
}

/// The config that a model's file implies, if every tensor that it makes the network ask for is there, and none over.
fn told(path: &Path, component: Component) -> String {
    let model = Model::open(path).expect("opens");
    let part = component.part();
    assert_eq!(model.parts(), [part], "{}", path.display());
    let config = model.config(part).expect("config");
    let wanted = component.tensors(&config).expect("tensors");
    let checkpoint = model.checkpoint(part).expect("checkpoint");
    let extra = checkpoint.check(wanted.iter().map(|(n, s)| (n.as_str(), s.as_slice()))).expect("fits");
    assert!(extra.is_empty(), "{extra:?}");
    component.fits(&config, &checkpoint).expect("the variant it is");
    config
}

#[test]
fn published_files_of_either_naming_are_told_by_their_shapes() {
    for (arch, variant) in [("s", "S (ViT-S)"), ("b", "B (ViT-B)"), ("l", "L (ViT-L)")] {
        for naming in ["transformers", "original"] {
            let (dir, tensors) = (folder(), published(&format!("depth_anything_{arch}"), naming));
            let config = told(&hollow(dir.path(), &tensors), Component::Depth);
            let net = DepthAnything::from_config(&config).expect("config");
            assert_eq!((net.variant(), net.patch()), (Some(variant), 14), "{naming}");
            assert_eq!(net.input_size(100, 200).expect("size"), [518, 1036]);
            // how positions are interpolated is the repository's own rule
            assert_eq!(config.contains("interpolate_offset"), naming == "original");
        }
    }
    for (arch, variant) in [("b", "ViT-B"), ("l", "ViT-L"), ("h", "ViT-H")] {
        for naming in ["transformers", "original"] {
            let (dir, mut tensors) = (folder(), published(&format!("sam_vit_{arch}"), naming));
            // of a whole SAM, the picture's encoder
            tensors.push(("mask_decoder.iou_token.weight".into(), vec![1, 256]));
            let config = told(&hollow(dir.path(), &tensors), Component::SamEncoder);
            let net = SamVisionModel::from_config(&config).expect("config");
            let given = include_str!("data/reference/checkpoints/tiny_sam/config.json");
            assert_ne!(net, SamVisionModel::from_config(given).expect("another"));
            assert_eq!((net.variant(), net.image_size(), net.grid()), (Some(variant), 1024, 64), "{naming}");
        }
    }
    assert_eq!(
        SamVisionModel::from_config("{}").expect("the base one by default"),
        SamVisionModel::from_config(&{
            let dir = folder();
            told(&hollow(dir.path(), &published("sam_vit_b", "original")), Component::SamEncoder)
        })
        .expect("config")
    );
    for (arch, prefix) in [("spixel_fcn", ""), ("spixel_fcn_pruned", "state_dict.module.")] {
        let dir = folder();
        let mut tensors = published(arch, "original");
        tensors.push(("pred_mask3.weight".into(), vec![9, 128, 3, 3]));
        tensors.iter_mut().for_each(|(name, _)| *name = format!("{prefix}{name}"));
        let config = told(&hollow(dir.path(), &tensors), Component::Superpixel);
        let net = SpixelNet::from_config(&config).expect("config");
        assert_eq!((net.factor(), net.cell_size(), net.in_channels()), (16, 16, 3));
        assert_eq!(config.contains("166"), arch.ends_with("pruned"));
    }
}

/// A folder with the config of one variant and the tensors of another.
#[test]
fn tensors_of_another_variant_are_refused_with_both_names() {
    for (arch, component, config, says) in [
        (
            "depth_anything_l",
            Component::Depth,
            told_config("depth_anything_s", Component::Depth),
            "Depth Anything L (ViT-L): 24 layers of 1024 channels; the config describes Depth Anything S (ViT-S)",
        ),
        (
            "sam_vit_h",
            Component::SamEncoder,
            "{\"architectures\":[\"SamVisionModel\"]}".into(),
            "SAM ViT-H: 32 layers of 1280 channels; the config describes SAM ViT-B",
        ),
    ] {
        for naming in ["transformers", "original"] {
            let dir = folder();
            hollow(dir.path(), &published(arch, naming));
            std::fs::write(dir.path().join("config.json"), &config).expect("write");
            let input = write(&dir, "in.safetensors", &crate::weights::tensors(&[("pixel_values", &[1, 3, 14, 14])]));
            let mut o = ComponentOptions::new(component, dir.path(), &input, dir.path().join("out.safetensors"));
            o.device = "cpu".into();
            if component == Component::Depth {
                let e = run_error(&o);
                assert!(e.kind() == Kind::Weights && e.message().contains(says), "{e}");
            }
            let found =
                inspect(&InspectOptions { path: dir.path().into(), ..InspectOptions::default() }).expect("is read");
            let problems = &found.networks[0].problems;
            assert!(problems.iter().any(|p| p.contains(says)), "{problems:?}");
            assert!(found.networks[0].components.is_empty());
        }
    }
}

fn told_config(arch: &str, component: Component) -> String {
    let dir = folder();
    told(&hollow(dir.path(), &published(arch, "transformers")), component)
}

fn run_error(o: &ComponentOptions) -> tessera::Error {
    component(o, &mut Silent, &Cancel::new()).expect_err("refused")
}

#[test]
fn pictures_without_whole_patches_or_cells_are_refused() {
    for (which, checkpoint, [h, w], says) in [
        (Component::Depth, "tiny_depth", [6, 21], "smaller than one patch of 7x7"),
        (Component::Depth, "tiny_depth", [21, 30], "whole patches of 7x7"),
        (Component::Superpixel, "tiny_spixel", [8, 16], "multiples of 16"),
        (Component::SamEncoder, "tiny_sam", [40, 44], "[N, 3, 40, 40]"),
    ] {
        let dir = folder();
        let shape = [1, 3, h, w];
        let input = write(&dir, "in.safetensors", &crate::weights::tensors(&[("pixel_values", &shape)]));
        let model = source::root().join("tests/data/reference/checkpoints").join(checkpoint);
        let mut o = ComponentOptions::new(which, model, &input, dir.path().join("out.safetensors"));
        o.device = "cpu".into();
        let e = run_error(&o);
        assert!(e.kind() == Kind::BadInput && e.message().contains(says), "{e}");
        assert!(e.advice().is_some());
    }
}

#[test]
fn a_model_without_the_network_says_so() {
    let dir = folder();
    let tiny = source::root().join("tests/data/reference/checkpoints/tiny_spixel");
    std::fs::create_dir(dir.path().join("superpixel")).expect("folder");
    for name in ["config.json", "diffusion_pytorch_model.safetensors"] {
        std::fs::copy(tiny.join(name), dir.path().join("superpixel").join(name)).expect("copy");
    }
    let model = Model::open(dir.path()).expect("opens");
    assert_eq!(model.parts(), [Part::Superpixel]);
    let single = Model::open(&tiny).expect("opens");
    let e = single.checkpoint(Part::Depth).expect_err("none");
    assert!(e.kind() == Kind::Weights && e.message().contains("has no depth; it has: superpixel"), "{e}");
}

/// A convolution and its batch norm, and what becomes of them.
fn normed(extra: &[(&str, &[f32])]) -> Result<Checkpoint, tessera::Error> {
    let all: [(&str, &[f32]); 5] = [
        ("conv0a.0.weight", &[1.0, 2.0, 3.0, 4.0]),
        ("conv0a.1.weight", &[0.5, -2.0]),
        ("conv0a.1.bias", &[0.25, 1.0]),
        ("conv0a.1.running_mean", &[3.0, 0.5]),
        ("conv0a.1.running_var", &[0.25 - 1e-5, 4.0 - 1e-5]),
    ];
    let mut tensors: Vec<(&str, &[f32])> = all.into_iter().filter(|(n, _)| extra.iter().all(|(e, _)| e != n)).collect();
    tensors.extend(extra.iter().filter(|(_, values)| !values.is_empty()));
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, values) in tensors {
        let begin = data.len();
        data.extend(f32s(values));
        let shape = if name.ends_with("0.weight") { "[2,2,1,1]".into() } else { format!("[{}]", values.len()) };
        let at = format!("\"data_offsets\":[{begin},{}]", data.len());
        header.push(format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape},{at}}}"));
    }
    let dir = folder();
    let path = write(&dir, "x.safetensors", &file(&format!("{{{}}}", header.join(",")), &data));
    let checkpoint = Model::open(&path)?.checkpoint(Part::Superpixel)?;
    for name in ["conv0a.0.weight", "conv0a.0.bias"] {
        checkpoint.read_f32(name)?;
    }
    Ok(checkpoint)
}

#[test]
fn batch_norms_are_folded_into_the_convolutions_before_them() {
    let c = normed(&[]).expect("folds");
    let names: BTreeSet<&str> = c.tensors().iter().map(|t| t.name.as_str()).collect();
    assert_eq!(names, BTreeSet::from(["conv0a.0.weight", "conv0a.0.bias"]));
    // factors 0.5 / 0.5 and -2 / 2
    assert_eq!(c.read_f32("conv0a.0.weight").expect("weight"), [1.0, 2.0, -3.0, -4.0]);
    assert_eq!(c.read_f32("conv0a.0.bias").expect("bias"), [0.25 - 3.0, 1.0 + 0.5]);
    // published without norms, too: then the convolution has a bias of its own
    let none: &[f32] = &[];
    let plain = normed(&[
        ("conv0a.1.weight", none),
        ("conv0a.1.bias", none),
        ("conv0a.1.running_mean", none),
        ("conv0a.1.running_var", none),
        ("conv0a.0.bias", &[5.0, 6.0]),
    ]);
    assert_eq!(plain.expect("nothing to fold").read_f32("conv0a.0.bias").expect("bias"), [5.0, 6.0]);
    for (extra, says) in [
        (("conv0a.1.running_var", none), "conv0a.1.running_var"),
        (("conv0a.1.running_mean", none), "conv0a.1.running_mean"),
        (("conv0a.1.bias", none), "conv0a.1.bias"),
        (("conv0a.1.running_var", &[1.0, -1.0][..]), "is -1, no variance"),
        (("conv0a.1.running_var", &[1.0, f32::NAN][..]), "is NaN"),
        (("conv0a.1.running_mean", &[1.0][..]), "not of one layer"),
        (("conv0a.1.weight", &[1.0; 3][..]), "not of one layer"),
        (("conv0a.0.bias", &[1.0; 2][..]), "two tensors are `conv0a.0.bias`"),
    ] {
        let e = normed(&[extra]).expect_err(says);
        assert!(e.kind() == Kind::Weights && e.message().contains(says), "{e}");
    }
}

/// Normalised, resized by the filter, and zeros beyond.
#[test]
fn a_picture_is_prepared_as_its_network_wants_it() {
    let n = pictures::SAM;
    let graph = pictures::preparation(2, [2, 3], [2, 3], [4, 4], Filter::Bilinear, &n, DType::F32).expect("graph");
    let picture: Vec<f32> = (0..36).map(|i| i as f32 / 36.0).collect();
    let given = HashMap::from([("picture".to_owned(), picture.clone())]);
    let got = interpreter::run(&graph, &|_: &str| Vec::new(), &given, &[Rows::default(); 2]);
    for (i, &v) in got["pixel_values"].iter().enumerate() {
        let [item, y, x, c] = [i / 48, i / 12 % 4, i / 3 % 4, i % 3];
        let inside = y < 2 && x < 3;
        let seen = picture[((item * 2 + y.min(1)) * 3 + x.min(2)) * 3 + c];
        let expected = if inside { f64::from((seen - n.mean[c]) / n.deviation[c]) } else { 0.0 };
        assert!((v - expected).abs() <= tolerance::PREPARED, "{i}: {v} {expected}");
    }
}

#[test]
fn layer_scales_are_folded_and_missed() {
    let row = reference::rows().into_iter().find(|r| r.name == "depth_21x21").expect("the case");
    let raw = Checkpoint::open(&row.model()).expect("file");
    let folded = Model::open(&row.model()).expect("opens").checkpoint(Part::Depth).expect("checkpoint");
    let layer = "backbone.encoder.layer.2";
    for (end, scale) in [("attention.output.dense", "layer_scale1"), ("mlp.fc2", "layer_scale2")] {
        let factors = raw.read_f32(&format!("{layer}.{scale}.lambda1")).expect("scale");
        for leaf in ["weight", "bias"] {
            let name = format!("{layer}.{end}.{leaf}");
            let (was, is) = (raw.read_f32(&name).expect("raw"), folded.read_f32(&name).expect("folded"));
            let columns = was.len() / factors.len();
            let expected: Vec<f32> = was.iter().enumerate().map(|(i, w)| w * factors[i / columns]).collect();
            assert_eq!(is, expected, "{name}");
        }
    }
    let config = std::fs::read_to_string(row.model().join("config.json")).expect("config");
    let wanted = Component::Depth.tensors(&config).expect("tensors");
    assert!(wanted.iter().any(|(n, _)| n.ends_with("layer_scale1.lambda1")), "one that is missing is said");
}
