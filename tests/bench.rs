//! `tessera bench`: what it measures, keeps, draws and refuses.

use crate::program::{self, run};
use std::path::Path;

fn bench(args: &[&str]) -> program::Run {
    run(&[&["bench"], args].concat())
}

/// Figures printed as JSON, each with what every figure must have.
fn figures(r: &program::Run) -> Vec<serde_json::Value> {
    assert_eq!(r.code, Some(0), "{r:?}");
    let lines: Vec<serde_json::Value> = r.stdout.lines().map(|l| serde_json::from_str(l).expect("JSON")).collect();
    for f in &lines {
        let number = |name: &str| f[name].as_f64().unwrap_or_else(|| panic!("no {name} in {f}"));
        let (best, median) = (number("best"), number("seconds"));
        assert!(0.0 < best && best <= median && (0.0..median).contains(&number("spread")), "{f}");
        assert!(number("runs") >= 1.0 && number("flops") >= 0.0 && number("bytes") >= 0.0, "{f}");
        for name in ["what", "name", "device", "dtype", "version"] {
            assert!(f[name].as_str().is_some_and(|s| !s.is_empty()), "no {name} in {f}");
        }
    }
    lines
}

fn text(path: &Path) -> &str {
    path.to_str().expect("a plain name")
}

#[test]
fn kernels_are_measured_kept_drawn_and_compared() {
    let folder = tempfile::tempdir().expect("a folder");
    let [kept, svg] = ["kept.jsonl", "roof.svg"].map(|n| folder.path().join(n));
    let common = ["kernels", "small", "conv3x3 16->", "-g", "cpu", "--seconds", "0.02"];
    let files = ["--json", "--save", text(&kept), "--svg", text(&svg), "--peaks", "0.5,20"];
    let r = bench(&[&common[..], &files[..]].concat());
    let lines = figures(&r);
    assert_eq!(lines.len(), 3, "{r:?}");
    for f in &lines {
        // 16 -> oc channels of 3x3 on side x side pixels.
        let name = f["name"].as_str().unwrap_or_default();
        let (oc, side) = name.rsplit_once("->").and_then(|n| n.1.split_once(" @")).expect("a shape");
        let number = |t: &str| t.parse::<f64>().expect("a number");
        assert_eq!(f["flops"].as_f64(), Some(2.0 * 9.0 * 16.0 * number(oc) * number(side).powi(2)), "{f}");
        assert!(f["working_set"].as_f64() >= Some(128e6) && f["variant"] == "base" && f["what"] == "kernel", "{f}");
        assert_eq!((f["peak_flops"].as_f64(), f["peak_bytes"].as_f64()), (Some(0.5e12), Some(20e9)));
    }
    assert_eq!(std::fs::read_to_string(&kept).expect("kept"), r.stdout);
    assert_eq!(std::fs::read_to_string(&svg).expect("drawn").matches("<circle").count(), 3 + 1);

    // The same again, as a table, beside what was kept; operands in caches.
    let r = bench(&[&common[..], &["--cached", "--compare", text(&kept)]].concat());
    assert_eq!(r.code, Some(0), "{r:?}");
    assert!(r.stdout.starts_with("what ") && r.stdout.contains("3 figures in both runs"), "{}", r.stdout);
    assert!(r.stdout.contains("0 only in this run, 0 only in the kept one"), "{}", r.stdout);
    // Nothing is replaced unasked, and that is said before anything is measured.
    let before = program::snapshot(folder.path());
    let r = bench(&[&common[..], &["--save", text(&kept)]].concat());
    assert!(r.code == Some(6) && r.last_line().contains("kept.jsonl") && r.stdout.is_empty(), "{r:?}");
    assert_eq!(program::snapshot(folder.path()), before);
}

#[test]
fn networks_need_configs_only() {
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(folder.path().join("vae")).expect("made");
    std::fs::copy("weights/onestep/vae/config.json", folder.path().join("vae/config.json")).expect("copied");
    let m = text(folder.path());
    let decoder =
        ["model", "-m", m, "--component", "vae-decoder", "--size", "24x16", "-g", "cpu", "--seconds", "0", "--json"];
    let whole = figures(&bench(&decoder));
    assert_eq!((whole.len(), whole[0]["name"].as_str()), (1, Some("vae-decoder 24x16 b1")));
    let profiled = figures(&bench(&[&decoder[..], &["--profile", "--batch", "2"]].concat()));
    let of = |lines: &[serde_json::Value], what: &str, field: &str| -> f64 {
        lines.iter().filter(|f| f["what"] == what).filter_map(|f| f[field].as_f64()).sum()
    };
    // The parts are the whole, and two items twice one.
    assert!(profiled.len() > 3, "{profiled:?}");
    assert_eq!(of(&profiled, "stem", "flops"), of(&profiled, "network", "flops"));
    let twice = of(&profiled, "network", "flops") / of(&whole, "network", "flops");
    assert!((1.99..2.01).contains(&twice), "{twice}");
    for (args, says) in [
        (&["model", "-m", m, "--component", "unet"][..], "unet"),
        (&["model", "-m", m, "--size", "8x8"], "--component"),
        (&["model", "-m", m, "--batch", "0"], "batch"),
        (&["model", "-m", "no/such/model"], "no/such/model"),
        (&["model", "-m", m, "--component", "vae-decoder", "--dtype", "f16", "-g", "cpu", "--size", "0x8"], "0x8"),
    ] {
        let r = bench(args);
        assert!(r.code.is_some_and(|c| c == 2 || c == 3) && r.last_line().contains(says), "{args:?}: {r:?}");
    }
}

#[test]
fn a_job_is_measured_phase_by_phase_and_leaves_no_picture() {
    let folder = tempfile::tempdir().expect("a folder");
    let (input, output) = (folder.path().join("a.png"), folder.path().join("b.png"));
    std::fs::write(&input, program::png(20, 14)).expect("written");
    let before = program::snapshot(folder.path());
    let job = ["upscale", "-i", text(&input), "-s", "2", "-g", "cpu", "--seconds", "0", "--json"];
    let lines = figures(&bench(&job));
    let names: Vec<&str> = lines.iter().filter_map(|f| f["name"].as_str()).collect();
    assert_eq!(&names[..2], ["onestep to 40x28: first, cold", "onestep to 40x28"]);
    assert!(names.contains(&"onestep to 40x28: network") && names.contains(&"onestep to 40x28: write"), "{names:?}");
    assert_eq!((lines[0]["runs"].as_u64(), lines[1]["runs"].as_u64()), (Some(1), Some(3)));
    assert_eq!(program::snapshot(folder.path()), before);
    // Its own output stays, and is not replaced unasked.
    let kept = [&job[..], &["-o", text(&output)]].concat();
    assert_eq!(bench(&kept).code, Some(0));
    assert_eq!(image::open(&output).map(|p| (p.width(), p.height())).expect("a picture"), (40, 28));
    assert_eq!(bench(&kept).code, Some(6));
}

#[test]
fn what_makes_no_sense_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let bad = folder.path().join("bad.jsonl");
    std::fs::write(&bad, "{\"what\":\"kernel\"}\n").expect("written");
    for (args, code, says) in [
        (&["kernels", "no such kernel"][..], 2, "no such kernel"),
        (&["kernels", "--seconds", "-1"], 2, "-1"),
        (&["kernels", "--seconds", "nan"], 2, "NaN"),
        (&["kernels", "--peaks", "1"], 2, "989,4800"),
        (&["kernels", "-g", "gpu"], 4, "gpu"),
        (&["kernels", "--compare", text(&bad)], 6, "line 1"),
        (&["kernels", "--compare", "missing.jsonl"], 6, "missing.jsonl"),
        (&["upscale", "-i", "-"], 2, "pipes"),
        (&["upscale", "-i", "missing.png"], 6, "missing.png"),
        (&["upscale", "-i", "missing.png", "--dry-run"], 2, "dry run"),
        (&["all"], 2, "all"),
    ] {
        let r = bench(args);
        assert!(r.code == Some(code) && r.last_line().contains(says) && r.stdout.is_empty(), "{args:?}: {r:?}");
    }
}

#[cfg(unix)]
#[test]
fn what_was_measured_before_an_interrupt_is_saved() {
    use std::io::{BufRead, BufReader};
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("kept.jsonl");
    let args = ["bench", "kernels", "-g", "cpu", "--seconds", "1", "--json", "--save", text(&kept)];
    let mut child = program::command(&args).spawn().expect("starts");
    let mut first = String::new();
    BufReader::new(child.stdout.take().expect("a pipe")).read_line(&mut first).expect("a figure");
    let _ = std::process::Command::new("kill").args(["-INT", &child.id().to_string()]).status();
    assert_eq!(child.wait().expect("ends").code(), Some(130));
    assert!(std::fs::read_to_string(&kept).expect("saved").starts_with(&first), "{first}");
}
