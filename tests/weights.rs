//! Checkpoints, good and bad: what is read, what is refused, and what the refusal says.

use std::path::{Path, PathBuf};
use tempfile::TempDir;
use tessera::Kind;
use tessera::weights::Checkpoint;
use tessera::weights::manifest::Manifest;

pub fn folder() -> TempDir {
    tempfile::tempdir().expect("temporary folder")
}

pub fn write(dir: &TempDir, name: &str, bytes: &[u8]) -> PathBuf {
    let path = dir.path().join(name);
    std::fs::write(&path, bytes).expect("write");
    path
}

/// A safetensors file of `header` and `data` as they are.
pub fn file(header: &str, data: &[u8]) -> Vec<u8> {
    [&(header.len() as u64).to_le_bytes()[..], header.as_bytes(), data].concat()
}

pub fn f32s(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|v| v.to_le_bytes()).collect()
}

/// A well-formed file of f32 tensors that all hold 1, 2, 3, ...
pub fn tensors(list: &[(&str, &[u64])]) -> Vec<u8> {
    let (mut header, mut data) = (Vec::new(), Vec::new());
    for (name, shape) in list {
        let count = shape.iter().product::<u64>() as usize;
        let begin = data.len();
        data.extend(f32s(&(1..=count).map(|i| i as f32).collect::<Vec<_>>()));
        header.push(format!(
            "\"{name}\":{{\"dtype\":\"F32\",\"shape\":{shape:?},\"data_offsets\":[{begin},{}]}}",
            data.len()
        ));
    }
    file(&format!("{{{}}}", header.join(",")), &data)
}

fn open(bytes: &[u8]) -> Result<Checkpoint, tessera::Error> {
    let dir = folder();
    Checkpoint::open(&write(&dir, "x.safetensors", bytes))
}

#[test]
fn every_stored_type_is_read_as_f32() {
    let header = r#"{"__metadata__":{"format":"pt"},
        "a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},
        "b":{"dtype":"F16","shape":[1,2],"data_offsets":[8,12]},
        "c":{"dtype":"BF16","shape":[2],"data_offsets":[12,16]},
        "d":{"dtype":"I64","shape":[1],"data_offsets":[16,24]},
        "e":{"dtype":"F32","shape":[0,3],"data_offsets":[24,24]}}    "#;
    let mut data = f32s(&[1.5, -2.0]);
    data.extend([0x00, 0x3e, 0x01, 0x00, 0xc0, 0x3f, 0x80, 0xff - 0x40]);
    data.extend([0; 8]);
    let dir = folder();
    let c = Checkpoint::open(&write(&dir, "x.safetensors", &file(header, &data))).expect("opens");
    assert_eq!(c.read_f32("a").expect("f32"), [1.5, -2.0]);
    assert_eq!(c.read_f32("b").expect("f16"), [1.5, 2f32.powi(-24)]);
    assert_eq!(c.read_f32("c").expect("bf16"), [1.5, -1.0]);
    assert!(c.read_f32("d").expect_err("i64").message().contains("I64"));
    assert_eq!(c.read_f32("e").expect("empty").len(), 0);
    assert_eq!(c.tensors().len(), 5);
    assert!(c.read_f32("aa").expect_err("absent").message().contains("aa"));
}

#[test]
fn a_header_of_any_length_is_read() {
    let header = r#"{"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}"#;
    for length in 56..56 + 256 {
        let padded = format!("{header:<length$}");
        assert_eq!(open(&file(&padded, &f32s(&[1.0]))).expect("padded").tensors().len(), 1, "{length}");
    }
}

#[test]
fn a_file_that_shrinks_after_it_was_opened_is_an_error() {
    let dir = folder();
    let bytes = tensors(&[("a", &[4])]);
    let path = write(&dir, "x.safetensors", &bytes);
    let c = Checkpoint::open(&path).expect("opens");
    std::fs::OpenOptions::new()
        .write(true)
        .open(&path)
        .and_then(|f| f.set_len(bytes.len() as u64 - 1))
        .expect("truncate");
    let e = c.read_f32("a").expect_err("short");
    assert!(e.kind() == Kind::Io && e.message().contains("`a`"), "{e}");
}

#[test]
fn a_misfit_lists_everything_at_once() {
    let dir = folder();
    let have: Vec<(&str, &[u64])> =
        vec![("conv_in.weights", &[4, 3, 3, 3]), ("norm.weight", &[8]), ("proj.weight", &[6, 5, 1, 1]), ("ema", &[1])];
    let c = Checkpoint::open(&write(&dir, "x.safetensors", &tensors(&have))).expect("opens");
    let wanted: Vec<(&str, &[u64])> =
        vec![("conv_in.weight", &[4, 3, 3, 3]), ("norm.weight", &[7]), ("proj.weight", &[6, 5]), ("gone", &[2])];
    let e = c.check(wanted).expect_err("misfit");
    assert_eq!(e.kind(), Kind::Weights);
    for part in [
        "3 tensor(s)",
        "`conv_in.weight` is missing (nearest: `conv_in.weights`)",
        "`gone` is missing",
        "`norm.weight` is [8] here, the config asks for [7]",
        "2 tensor(s) are not asked for: `conv_in.weights`, `ema`",
    ] {
        assert!(e.message().contains(part), "wanted `{part}` in: {e}");
    }
    assert!(!e.message().contains("proj.weight"), "a 1x1 convolution is a linear layer: {e}");
    let fits: [(&str, &[u64]); 2] = [("norm.weight", &[8]), ("proj.weight", &[6, 5])];
    assert_eq!(c.check(fits).expect("fits"), ["conv_in.weights", "ema"]);
}

#[test]
fn long_misfits_are_counted_and_stay_short() {
    let dir = folder();
    let c = Checkpoint::open(&write(&dir, "x.safetensors", &tensors(&[("a", &[1])]))).expect("opens");
    let names: Vec<String> = (0..500).map(|i| format!("block.{i}.weight")).collect();
    let e = c.check(names.iter().map(|n| (n.as_str(), &[1u64][..]))).expect_err("misfit");
    assert!(e.message().contains("500 tensor(s)") && e.message().contains("and 480 more"), "{e}");
    assert!(e.message().len() < 4000, "{} bytes", e.message().len());
}

#[test]
fn old_attention_names_are_found() {
    let dir = folder();
    let old = tensors(&[("encoder.mid_block.attentions.0.query.weight", &[2, 2])]);
    let c = Checkpoint::open(&write(&dir, "x.safetensors", &old)).expect("opens");
    assert_eq!(c.read_f32("encoder.mid_block.attentions.0.to_q.weight").expect("alias"), [1.0, 2.0, 3.0, 4.0]);
}

#[test]
fn folders_and_shards_open_and_lying_indices_do_not() {
    let dir = folder();
    write(&dir, "diffusion_pytorch_model.fp16.safetensors", &tensors(&[("a", &[1])]));
    assert_eq!(Checkpoint::open(dir.path()).expect("fp16 name").tensors().len(), 1);

    let dir = folder();
    write(&dir, "m-1.safetensors", &tensors(&[("a", &[1]), ("b", &[2])]));
    write(&dir, "m-2.safetensors", &tensors(&[("c", &[3])]));
    let index = |map: &str| format!(r#"{{"metadata":{{}},"weight_map":{{{map}}}}}"#);
    let path = "diffusion_pytorch_model.safetensors.index.json";
    let good = r#""a":"m-1.safetensors","b":"m-1.safetensors","c":"m-2.safetensors""#;
    write(&dir, path, index(good).as_bytes());
    let c = Checkpoint::open(dir.path()).expect("shards");
    assert_eq!(c.read_f32("c").expect("second shard"), [1.0, 2.0, 3.0]);
    for (map, reason) in [
        (r#""a":"m-2.safetensors""#.to_owned(), "but is nowhere"),
        (r#""a":"../m-1.safetensors""#.to_owned(), "plain name"),
        (r#""a":"/etc/passwd""#.to_owned(), "plain name"),
        (r#""a":7"#.to_owned(), "names no file"),
        (good.replace(r#""c":"m-2"#, r#""c":"m-1"#), "but is nowhere"),
        (good.replace(r#""b":"m-1"#, r#""b":"m-2"#), "should be in m-2.safetensors but is in m-1.safetensors"),
    ] {
        let e = Checkpoint::open(&write(&dir, path, index(&map).as_bytes())).expect_err(reason);
        assert!(e.message().contains(reason), "wanted `{reason}`, got: {e}");
    }
    write(&dir, "m-2.safetensors", &tensors(&[("a", &[3])]));
    let e = Checkpoint::open(&write(&dir, path, index(good).as_bytes())).expect_err("twice");
    assert!(e.message().contains("in another shard too"), "{e}");

    let dir = folder();
    assert!(Checkpoint::open(dir.path()).expect_err("empty folder").message().contains("holds none of"));
    write(&dir, "diffusion_pytorch_model.bin", b"\x80\x02");
    let e = Checkpoint::open(dir.path()).expect_err("pickle");
    assert!(e.advice().is_some_and(|a| a.contains("tools/convert")), "{e}");
    assert_eq!(Checkpoint::open(Path::new("/nonexistent/x.safetensors")).expect_err("absent").kind(), Kind::Io);
}

#[test]
fn the_manifest_finds_damaged_files() {
    let dir = folder();
    std::fs::create_dir(dir.path().join("m")).expect("folder");
    write(&dir, "m/w", b"abc");
    let manifest = |path: &str, bytes: u64, sha: &str| {
        format!(
            r#"{{"models":[{{"name":"m","licence":"MIT","files":[{{"path":"{path}","bytes":{bytes},"sha256":"{sha}"}}]}}]}}"#
        )
    };
    // the published test vector of SHA-256
    let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
    let verify = |text: String| {
        write(&dir, "manifest.json", text.as_bytes());
        let manifest = Manifest::open(dir.path())?;
        manifest.model("m").expect("model").verify(dir.path())
    };
    verify(manifest("m/w", 3, sha)).expect("intact");
    assert!(verify(manifest("m/w", 4, sha)).expect_err("length").message().contains("3 bytes"));
    assert!(verify(manifest("m/w", 3, &sha.replace('b', "c"))).expect_err("hash").message().contains("SHA-256"));
    assert!(verify(manifest("../w", 3, sha)).expect_err("outside").message().contains("not a path inside"));
    assert!(verify(manifest("m/gone", 3, sha)).is_err());
    assert!(verify("{\"models\":[],\"x\":1}".into()).is_err());
}
