//! SIFID: the network and the distance against PyTorch and numpy, what `eval --inception` prints, which files are refused.

use crate::eval::eval;
use crate::program;
use crate::tolerance;
use crate::weights::{f32s, file, folder, write};
use safetensors::SafeTensors;
use std::path::PathBuf;
use tessera::Kind;
use tessera::metrics::inception::tensors;
use tessera::metrics::{FeatureMap, Picture};
use tessera::run::eval::inception;

/// Written by `tools/reference/make_inception.py`.
const REFERENCE: &[u8] = include_bytes!("data/inception/reference.safetensors");

/// The synthetic checkpoint of the same script.
fn checkpoint() -> PathBuf {
    crate::source::root().join("tests/data/inception/inception.safetensors")
}

/// A picture of the reference file.
fn picture(file: &SafeTensors, name: &str) -> Picture {
    let t = file.tensor(name).expect("there");
    let [height, width, channels] = *t.shape() else { panic!("{:?}", t.shape()) };
    Picture { width, height, channels, values: t.data().iter().map(|v| f32::from(*v) / 255.0).collect() }
}

#[test]
fn features_and_distance_are_those_of_pytorch() {
    let file = SafeTensors::deserialize(REFERENCE).expect("safetensors");
    let net = inception(&checkpoint()).expect("a network");
    let [a, b] = ["a", "b"].map(|name| picture(&file, name));
    let (got, wanted) = (net.features(&a).expect("large enough"), file.tensor("features").expect("there"));
    assert_eq!(wanted.shape(), [got.height, got.width, 64]);
    let wanted: Vec<f64> = wanted.data().as_chunks().0.iter().map(|b| f64::from(f32::from_le_bytes(*b))).collect();
    let most = wanted.iter().copied().fold(0.0, f64::max);
    let off = got.values.iter().zip(&wanted).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max) / most;
    let wanted = f64::from_le_bytes(file.tensor("distance").expect("there").data().try_into().expect("one number"));
    let found = FeatureMap::Inception(Box::new(net)).frechet(&a, &b).expect("large enough");
    let apart = (found - wanted).abs() / wanted;
    println!("features differ by {off:.1e}, SIFID {found:.9} by {apart:.1e}");
    assert!(off < tolerance::INCEPTION_F32, "{off}");
    assert!(apart < tolerance::SIFID, "{found} {wanted}");
}

#[test]
fn eval_measures_in_the_features_of_the_network_it_is_given() {
    let folder = folder();
    std::fs::create_dir_all(folder.path().join("in")).expect("made");
    std::fs::write(folder.path().join("in/a.png"), program::png(61, 50)).expect("written");
    let rows = ["--scales", "5", "--method", "bicubic", "--method", "two=cascade:onestep -g cpu"];
    let net = checkpoint();
    let given = ["--inception", net.to_str().expect("a plain name")];
    let r = eval(folder.path(), "in", "out", &[&rows[..], &given].concat());
    assert_eq!(r.code, Some(0), "{r:?}");
    let head = r.stdout.lines().next().expect("a table");
    assert!(head.contains("| SIFID |") && !head.contains("Frechet"), "{head}");
    assert!(r.stdout.contains("\nSIFID (features of Inception v3) to the original after each stage:"), "{r:?}");
    let results = std::fs::read_to_string(folder.path().join("out/results.jsonl")).expect("results");
    let lines: Vec<serde_json::Value> = results.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let map = FeatureMap::Inception(Box::new(inception(&net).expect("a network")));
    let read = |path: &str| Picture::read(&folder.path().join("out").join(path)).expect("a picture");
    let reference = read("reference/x5/a.png");
    for line in &lines {
        let result = read(line["path"].as_str().expect("a path"));
        let wanted = map.frechet(&result, &reference).expect("large enough");
        assert_eq!(line["frechet"], serde_json::json!(wanted));
        assert_eq!((&line["frechet_features"], &line["frechet_against"]), (&"inception".into(), &"original".into()));
    }
    let stage = read("two/x5/stages/a.1.tif");
    let reduced = reference.resized(stage.width, stage.height).expect("resized");
    let wanted = map.frechet(&stage, &reduced).expect("large enough");
    assert_eq!(lines[1]["drift"], serde_json::json!([wanted, lines[1]["frechet"]]));
    // Without it they are in the fixed map.
    let r = eval(folder.path(), "in", "plain", &[&rows[..4], &["--json"]].concat());
    assert_eq!(r.json()["frechet_features"], "fixed");
    assert_ne!(r.json()["frechet"], lines[0]["frechet"]);
}

/// Name, shape and values.
type Tensor = (String, Vec<u64>, Vec<f32>);

/// A checkpoint of zeros as f32, changed by `change`.
fn changed(change: &dyn Fn(&mut Vec<Tensor>)) -> Vec<u8> {
    let zeros = |(name, shape): (String, Vec<u64>)| {
        let count = shape.iter().product::<u64>() as usize;
        (name, shape, vec![0.0; count])
    };
    let mut list: Vec<_> = tensors().into_iter().map(zeros).collect();
    change(&mut list);
    let (mut entries, mut data) = (Vec::new(), Vec::new());
    for (name, shape, values) in &list {
        let begin = data.len();
        data.extend(f32s(values));
        let at = format!("\"data_offsets\":[{begin},{}]", data.len());
        entries.push(format!("\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},{at}}}"));
    }
    file(&format!("{{{}}}", entries.join(",")), &data)
}

#[test]
fn files_that_hold_no_such_network_are_refused() {
    let folder = folder();
    let mut n = 0;
    let mut refused = |bytes: &[u8], ending: &str, wanted: &[&str]| {
        n += 1;
        let path = write(&folder, &format!("{n}.{ending}"), bytes);
        let e = inception(&path).expect_err("refused");
        let text = e.to_string();
        assert!(e.kind() == Kind::Weights && wanted.iter().all(|w| text.contains(w)), "{text}: {wanted:?}");
        let named = text.contains(&path.display().to_string());
        assert!(named && e.advice().is_some_and(|a| a.contains("tools/convert")), "{text}: {:?}", e.advice());
    };
    refused(b"PK\x03\x04 a zip archive", "pth", &["pickle"]);
    refused(b"GIF89a, a picture, nothing else", "safetensors", &["not a safetensors file"]);
    let lacking = changed(&|list| list.truncate(8));
    refused(&lacking, "safetensors", &["7 of 15", "`Conv2d_2a_3x3.bn.running_mean` [32] is missing", "2b_3x3.bn.bias"]);
    let other = changed(&|list| (list[5].1, list[5].2) = (vec![32, 32, 1, 1], vec![0.0; 1024]));
    refused(&other, "safetensors", &["1 of 15", "`Conv2d_2a_3x3.conv.weight` is [32, 32, 1, 1], not [32, 32, 3, 3]"]);
    let infinite = changed(&|list| list[0].2[31] = f32::INFINITY);
    refused(&infinite, "safetensors", &["Conv2d_1a_3x3.conv.weight", "element 31", "[1, 0, 1, 1]", "inf"]);
    let negative = changed(&|list| list[14].2[2] = -0.5);
    refused(&negative, "safetensors", &["`Conv2d_2b_3x3.bn.running_var` element 2 is -0.5"]);
    let short = write(&folder, "short.safetensors", &changed(&|_| ())[..9000]);
    let e = inception(&short).expect_err("refused");
    assert!(e.kind() == Kind::Weights && e.to_string().contains("truncated") && e.advice().is_some(), "{e}");
    let e = inception(&folder.path().join("none.safetensors")).expect_err("refused");
    assert!(e.kind() == Kind::Io && e.advice().is_some_and(|a| a.contains("inception_v3")), "{e}");
}
