//! `tessera eval`: what it writes, what it measures, what it refuses.

use crate::program::{self, run};
use crate::tolerance;
use std::path::Path;
use tessera::metrics::{self, Picture};

fn folder() -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("in")).expect("made");
    std::fs::create_dir_all(folder.path().join("empty")).expect("made");
    std::fs::write(folder.path().join("in/a.png"), program::png(101, 90)).expect("written");
    std::fs::write(folder.path().join("in/b.png"), program::png(90, 120)).expect("written");
    std::fs::write(folder.path().join("in/broken.png"), &program::png(64, 64)[..80]).expect("written");
    std::fs::write(folder.path().join("in/notes.txt"), b"bread, milk\n").expect("written");
    folder
}

pub(crate) fn eval(folder: &Path, from: &str, to: &str, more: &[&str]) -> program::Run {
    let text = |name: &str| folder.join(name).to_str().expect("a plain name").to_owned();
    let mut all = vec!["eval".to_owned(), text(from), "-o".into(), text(to)];
    all.extend(more.iter().map(|a| a.to_string()));
    run(&all)
}

#[test]
fn methods_are_measured_against_the_originals() {
    let folder = folder();
    let rows = ["--method", "bicubic", "--method", "one=onestep -g cpu", "--method", "two=cascade:onestep -g cpu"];
    let more = ["--scales", "1.5,4.2", "--self-ssim", "--json"];
    let r = eval(folder.path(), "in", "out", &[&rows[..], &more[..]].concat());
    assert_eq!(r.code, Some(0), "{r:?}");
    let lines: Vec<serde_json::Value> = r.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let (matrices, results): (Vec<_>, Vec<_>) = lines.into_iter().partition(|l| l["self_ssim"].is_array());
    assert_eq!((results.len(), matrices.len()), (2 * 2 * 3, 3));
    for result in &results {
        // Sides of the result follow from those of the reduced input, to the pixel.
        let side = |v: u64, s: f64| ((v as f64 / s).floor() * s).round() as u32;
        let (w, h) = if result["picture"] == "a" { (101, 90) } else { (90, 120) };
        let scale = result["scale"].as_f64().expect("a number");
        let made = folder.path().join("out").join(result["path"].as_str().expect("a path"));
        let made = image::open(&made).expect("a picture");
        assert_eq!((made.width(), made.height()), (side(w, scale), side(h, scale)), "{result}");
        let psnr = result["psnr"].as_f64().expect("a figure");
        assert!((8.0..80.0).contains(&psnr) && result["seconds"].as_f64() > Some(0.0), "{result}");
        let stages = result["drift"].as_array().expect("a list").len();
        assert_eq!(stages, if result["method"] == "two" { 1 + usize::from(scale > 4.0) } else { 0 }, "{result}");
        // What the model's card says; x4.2 in stages is 4 and 1.05, which training has not seen.
        let parameters = if result["method"] == "bicubic" { 0 } else { 654_739 };
        assert_eq!(result["parameters"], parameters, "{result}");
        let outside = &result["outside_trained_scales"];
        assert_eq!(*outside == serde_json::json!([1.15, 8.0]), result["method"] == "two" && scale > 4.0, "{result}");
        assert!(outside.is_null() || outside.is_array(), "{result}");
    }
    for matrix in &matrices {
        let at = |i: usize, j: usize| matrix["self_ssim"][i][j].as_f64().expect("a figure");
        assert!(at(0, 0) > 0.999_999 && at(1, 1) > 0.999_999 && at(0, 1) < 1.0 && at(1, 0) < 1.0, "{matrix}");
    }
    let table = std::fs::read_to_string(folder.path().join("out/table.md")).expect("a table");
    assert!(table.contains("| x4.2 * | two | 2 |") && table.contains("broken.png"), "{table}");
    let page = std::fs::read_to_string(folder.path().join("out/index.html")).expect("a page");
    assert!(page.contains("bicubic/x1.5/a.png") && page.contains("654739") && page.contains("x4.2 *"), "{page}");
    assert!(table.contains("two x1.15 to x8") && !table.contains("one x1.15") && page.contains("two x1.15"), "{table}");
    assert!(image::open(folder.path().join("out/sheet.png")).is_ok());
    // Folders that other programs measure hold results only, under the originals' names.
    for kind in ["reference", "input", "bicubic", "one", "two"] {
        let of = folder.path().join("out").join(kind).join("x4.2");
        let mut files: Vec<_> = std::fs::read_dir(of).expect("there").map(|e| e.expect("entry")).collect();
        files.retain(|e| e.path().is_file());
        assert_eq!(files.len(), 2, "{kind}");
    }
}

#[test]
fn ablations_are_held_against_the_whole() {
    let folder = folder();
    let casr = format!("whole={}", small("casr"));
    let casarbi = format!("other={}", small("casarbi"));
    let more = ["--scales", "2", "--first", "1", "--ablate", "--json", "--method", &casr, "--method", &casarbi];
    let r = eval(folder.path(), "in", "out", &more);
    assert_eq!(r.code, Some(0), "{r:?}");
    let lines: Vec<serde_json::Value> = r.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let names: Vec<&str> = lines.iter().map(|l| l["method"].as_str().expect("a name")).collect();
    let parts = ["superpixels", "depth", "sarm", "semantic"].map(|p| format!("whole without {p}"));
    let others = ["liif", "denoiser", "adapter", "guidance"].map(|p| format!("other without {p}"));
    let rows: Vec<&str> = parts.iter().chain(&others).map(String::as_str).collect();
    assert_eq!(names, [vec!["whole", "other"], rows].concat());
    assert!(lines[..2].iter().all(|l| l["apart"].is_null()));
    // What is left out is not counted: each of SARM's rows has fewer parameters, guidance has none.
    let count = |i: usize| lines[i]["parameters"].as_u64().expect("a count");
    assert!((2..6).all(|i| count(i) < count(0)) && (6..9).all(|i| count(i) < count(1)) && count(9) == count(1));
    assert!(lines[2..].iter().all(|l| l["apart"].as_f64().is_some_and(|v| v > 0.0)), "{lines:?}");
}

/// A model folder of `system` beside the tests, as an option.
fn small(system: &str) -> String {
    format!("{system} -g cpu -m {}", crate::job::folder(system).join("model").display())
}

#[test]
fn a_base_picture_is_a_row_and_another_system_may_follow() {
    let folder = folder();
    let liif = small("casarbi").replace("casarbi -g", "liif -g");
    let rows = [
        "one=onestep -g cpu".to_owned(),
        "bicubic".to_owned(),
        "again=bicubic+onestep -g cpu".to_owned(),
        format!("liif={liif}"),
        format!("both={liif} then onestep -g cpu"),
        format!("sampled={}", small("casarbi")),
    ];
    let mut more = vec!["--scales", "3", "--json"];
    rows.iter().for_each(|row| more.extend(["--method", row]));
    let r = eval(folder.path(), "in", "out", &more);
    assert_eq!(r.code, Some(0), "{r:?}");
    let lines: Vec<serde_json::Value> = r.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let of = |name: &str| lines.iter().find(|l| l["method"] == name && l["picture"] == "a").expect("a row");
    let pixels = |name: &str| {
        let path = folder.path().join("out").join(of(name)["path"].as_str().expect("a path"));
        image::open(path).expect("a picture").to_rgb16().into_raw()
    };
    let levels = |a: &str, b: &str| {
        let (a, b) = (pixels(a), pixels(b));
        let square = |(a, b): (&u16, &u16)| (f64::from(*a) - f64::from(*b)).powi(2);
        (a.iter().zip(&b).map(square).sum::<f64>() / a.len() as f64).sqrt() / 257.0
    };
    // The one-step system enlarges by bicubic itself: given a picture that is enlarged so, it does the same.
    let same = levels("one", "again");
    assert!(same < tolerance::SAME_BASE_LEVELS, "{same} levels");
    for (a, b) in [("liif", "bicubic"), ("both", "liif"), ("both", "one"), ("sampled", "liif"), ("one", "bicubic")] {
        assert!(levels(a, b) > tolerance::OTHER_BASE_LEVELS, "{a} and {b}: {} levels", levels(a, b));
    }
    let count = |name: &str| of(name)["parameters"].as_u64().expect("a count");
    assert!(count("liif") > 0 && count("both") == count("liif") + count("one") && count("sampled") > count("liif"));
    assert_eq!(count("again"), count("one"));
    // x3 is 2 and 1.5, whose pictures stay apart from the results.
    assert_eq!(of("sampled")["drift"].as_array().map(Vec::len), Some(2));
    assert_eq!(of("liif")["drift"].as_array().map(Vec::len), Some(0));
    let results = std::fs::read_dir(folder.path().join("out/sampled/x3")).expect("there");
    assert_eq!(results.filter(|e| e.as_ref().expect("entry").path().is_file()).count(), 2);
    let stage = image::open(folder.path().join("out/sampled/x3/stages/a_stage1.png")).expect("a stage");
    assert_eq!(stage.color(), image::ColorType::Rgb16);
}

#[test]
fn a_picture_too_small_for_drift_leaves_the_others_alone() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("in")).expect("made");
    // x8 is 4 and 2: the first stage of the smaller picture has 16 pixels a side, too few for the fixed map.
    std::fs::write(folder.path().join("in/large.png"), program::png(96, 96)).expect("written");
    std::fs::write(folder.path().join("in/small.png"), program::png(32, 32)).expect("written");
    let more = ["--scales", "8", "--method", "two=cascade:onestep -g cpu", "--json"];
    let r = eval(folder.path(), "in", "out", &more);
    assert_eq!(r.code, Some(0), "{r:?}");
    let lines: Vec<serde_json::Value> = r.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    let drift = |name: &str| {
        let of = lines.iter().find(|l| l["picture"] == name).expect("a row")["drift"].as_array().expect("a list");
        of.iter().map(serde_json::Value::as_f64).collect::<Vec<_>>()
    };
    let ([Some(first), Some(last)], [None, Some(other)]) = (&drift("large")[..], &drift("small")[..]) else {
        panic!("{lines:?}")
    };
    // Each stage with its own kind.
    let table = std::fs::read_to_string(folder.path().join("out/table.md")).expect("a table");
    let row = format!("| x8 | two | {first:.6}, {:.6} |", (last + other) / 2.0);
    assert!(
        table.contains(&row) && table.contains("\nFrechet distance to the original after each stage"),
        "{row} {table}"
    );
    // Where no picture has it there is no figure.
    std::fs::remove_file(folder.path().join("in/large.png")).expect("removed");
    let r = eval(folder.path(), "in", "again", &more[..4]);
    assert!(r.stdout.contains(&format!("| x8 | two | -, {other:.6} |")), "{r:?}");
}

#[test]
fn where_there_is_no_original_the_input_is_held_beside_as_it_is() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir_all(folder.path().join("in")).expect("made");
    std::fs::write(folder.path().join("in/a.png"), program::png(30, 24)).expect("written");
    let more = ["--scales", "5", "--inputs-only", "--json", "--method", "two=cascade:onestep -g cpu"];
    let r = eval(folder.path(), "in", "out", &more);
    assert_eq!(r.code, Some(0), "{r:?}");
    let line = r.json();
    let out = folder.path().join("out");
    let input = Picture::read(&folder.path().join("in/a.png")).expect("a picture");
    let to_input =
        |of: &str| metrics::frechet(&Picture::read(&out.join(of)).expect("a picture"), &input).expect("large");
    let wanted = ["two/x5/stages/a.1.tif", "two/x5/a.png"].map(to_input);
    assert_eq!(line["drift"], serde_json::json!(wanted));
    assert_eq!(line["frechet"], serde_json::json!(wanted[1]));
    assert_eq!((&line["frechet_features"], &line["frechet_against"]), (&"fixed".into(), &"input".into()));
    let table = std::fs::read_to_string(out.join("table.md")).expect("a table");
    assert!(table.contains("| Frechet to the input |") && table.contains("distance to the input after"), "{table}");
    let page = std::fs::read_to_string(out.join("index.html")).expect("a page");
    assert!(page.contains("<th>Frechet to the input</th>"), "{page}");
}

#[test]
fn what_cannot_be_measured_is_refused_before_work_begins() {
    let folder = folder();
    std::fs::create_dir_all(folder.path().join("full/x")).expect("made");
    for (from, to, more, wanted) in [
        ("in", "full", &["--method", "bicubic"][..], "not empty"),
        ("empty", "out", &["--method", "bicubic"], "no pictures"),
        ("none", "out", &["--method", "bicubic"], "none"),
        ("in", "out", &["--method", "bicubic", "--method", "bicubic"], "called"),
        ("in", "out", &["--method", "x=nosuchsystem"], "nosuchsystem"),
        ("in", "out", &["--method", "onestep -m nowhere"], "nowhere"),
        ("in", "out", &["--scales", "0.5"], "0.5"),
        ("in", "out", &["--protocol", "nosuch"], "casr-div8k"),
        ("in", "out", &["--method", "bicubic", "--inception", "nowhere.safetensors"], "nowhere.safetensors"),
    ] {
        let r = eval(folder.path(), from, to, more);
        assert!(r.code != Some(0) && r.stderr.contains(wanted), "{more:?}: {r:?}");
        assert!(!folder.path().join("out").exists(), "{more:?}");
    }
}
