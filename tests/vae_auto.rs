//! `--vae auto`: which mode is taken, and why, for every branch of the rule.

use crate::source;
use std::path::{Path, PathBuf};
use tessera::error::Kind;
use tessera::run::budget;
use tessera::run::{Cancel, Engine, Report, Sampler, Silent, Size, UpscaleOptions, VaeMode, upscale_with};
use tessera::system::Job;
use tessera::system::onestep::{Conditioning, OneStep};

/// A job of the one-step system, `scale` times as large.
fn job(target: [u32; 2], scale: u32) -> Job {
    let conditioning = Conditioning { noise: 0.0, jpeg: 0.0, scale: scale.into(), cascaded: false };
    let (source, sampler) = (target.map(|side| side / scale), Sampler::default());
    Job { source, target, conditioning, seed: 0, sampler, keep_stages: false }
}

/// The shipped model with this section of measured figures, or none.
fn model(folder: &Path, figures: Option<&str>) -> PathBuf {
    let to = folder.join("model");
    copy(&source::root().join("weights/onestep"), &to);
    let index = to.join("model_index.json");
    let text = std::fs::read_to_string(&index).expect("an index");
    let mut map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&text).expect("an object");
    map.remove("vae_modes");
    if let Some(figures) = figures {
        map.insert("vae_modes".into(), serde_json::from_str(figures).expect("JSON"));
    }
    std::fs::write(&index, serde_json::Value::from(map).to_string()).expect("written");
    to
}

fn copy(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).expect("a folder");
    for entry in std::fs::read_dir(from).expect("a folder").flatten() {
        let target = to.join(entry.file_name());
        if entry.path().is_dir() { copy(&entry.path(), &target) } else { drop(std::fs::copy(entry.path(), target)) }
    }
}

/// A dry run of a square of `side` pixels by 4.
fn planned(folder: &Path, side: u32, change: impl FnOnce(&mut UpscaleOptions)) -> tessera::Result<Report> {
    let input = folder.join(format!("in-{side}.ppm"));
    let mut bytes = format!("P6\n{side} {side}\n255\n").into_bytes();
    bytes.resize(bytes.len() + (side * side * 3) as usize, 100);
    std::fs::write(&input, bytes).expect("a picture");
    let mut options = UpscaleOptions::new(&input, Size::Scale(4.0));
    options.output = Some(folder.join("out.png"));
    (options.device, options.dry_run) = ("cpu".into(), true);
    change(&mut options);
    let mut engine = Engine::open("cpu", None).expect("opens");
    upscale_with(&mut engine, &options, &mut Silent, &Cancel::new())
}

const MIB: u64 = 1 << 20;

#[test]
fn what_ships_is_measured_and_takes_windows_of_their_own() {
    let folder = tempfile::tempdir().expect("folder");
    let report = planned(folder.path(), 64, |_| {}).expect("planned");
    assert_eq!(report.vae, "tile");
    assert!(report.vae_why.contains("dB from whole as measured"), "{}", report.vae_why);
    // A mode that is asked for needs no reason.
    let report = planned(folder.path(), 64, |o| o.vae = VaeMode::Shared).expect("planned");
    assert_eq!((report.vae.as_str(), report.vae_why.as_str()), ("shared", ""));
}

#[test]
fn figures_hold_for_windows_no_smaller_than_those_measured() {
    let folder = tempfile::tempdir().expect("folder");
    let model = model(folder.path(), Some(r#"{"tile_psnr": {"64": 51.0, "128": 60.0}}"#));
    let with = |tile: u32| {
        planned(folder.path(), 96, |o| (o.model, o.tile) = (Some(model.clone()), Some(tile))).expect("planned")
    };
    let (large, middle, small) = (with(128), with(64), with(32));
    assert!(large.vae == "tile" && large.vae_why.contains("60.0 dB"), "{}", large.vae_why);
    assert!(middle.vae == "tile" && middle.vae_why.contains("51.0 dB"), "{}", middle.vae_why);
    assert!(small.vae == "whole" && small.vae_why.contains("nothing was measured"), "{}", small.vae_why);
}

#[test]
fn without_figures_that_suffice_the_best_mode_that_fits_is_taken() {
    let folder = tempfile::tempdir().expect("folder");
    for (figures, word) in [(None, "nothing was measured"), (Some(r#"{"tile_psnr": {"16": 47.9}}"#), "only 47.9 dB")] {
        let model = model(folder.path(), figures);
        let with = |ram: u64, output: &str| {
            let report = planned(folder.path(), 256, |o| {
                (o.model, o.ram) = (Some(model.clone()), Some(ram * MIB));
                o.output = Some(if output == "-" { PathBuf::from("-") } else { folder.path().join(output) });
                o.format = Some(tessera::run::Format::Png);
            });
            let report = report.expect("planned");
            println!("{ram} MiB to {output}: {}: {}", report.vae, report.vae_why);
            assert!(report.vae_why.contains(word), "{}", report.vae_why);
            assert!(report.host_bytes <= ram * MIB);
            (report.vae, report.vae_why)
        };
        let (vae, why) = with(4096, "out.png");
        assert!(vae == "whole" && why.ends_with("whole is the best that fits"), "{vae}: {why}");
        let (vae, why) = with(230, "out.png");
        assert!(vae == "exact" && why.contains("whole does not fit"), "{vae}: {why}");
        // Beside a pipe no state can wait in a file: to compute all of them again takes too long.
        let (vae, why) = with(230, "-");
        assert!(vae == "shared" && why.contains("exact would take"), "{vae}: {why}");
        // With ever less, in which `tile` takes longer too: the others as long as they fit, one network at a time in the end.
        let mut less = (60..=150).rev().step_by(5).map(|ram| with(ram, "-"));
        let (_, why) = less.find(|(vae, _)| vae == "tile").expect("it takes the least");
        assert!(why.contains("shared does not fit"), "{why}");
    }
}

#[test]
fn where_nothing_fits_the_advice_is_that_of_windows() {
    let folder = tempfile::tempdir().expect("folder");
    let model = model(folder.path(), None);
    let e =
        planned(folder.path(), 64, |o| (o.model, o.ram) = (Some(model.clone()), Some(MIB))).expect_err("too little");
    assert_eq!(e.kind(), Kind::Memory);
    let tile = planned(folder.path(), 64, |o| {
        (o.model, o.ram, o.vae) = (Some(model), Some(MIB), VaeMode::Tile);
    });
    assert_eq!(e.to_string(), tile.expect_err("too little").to_string());
}

#[test]
fn a_job_that_is_resumed_keeps_the_mode_it_began_with() {
    let folder = tempfile::tempdir().expect("folder");
    let net = OneStep::open(&model(folder.path(), None)).expect("configs");
    let mut options = UpscaleOptions::new("in.png", Size::Scale(2.0));
    let mut engine = Engine::open("cpu", None).expect("opens");
    let mut chosen = |options: &UpscaleOptions, earlier| {
        budget::choose(&mut engine, &net, options, &job([256, 256], 2), 0, None, earlier).expect("fits")
    };
    assert_eq!(chosen(&options, None).vae, VaeMode::Whole);
    for mode in [VaeMode::Exact, VaeMode::Shared, VaeMode::Tile] {
        let choice = chosen(&options, Some(mode));
        assert!(choice.vae == mode && choice.why.contains("began with it"), "{}", choice.why);
    }
    // What the user asks for now is what counts.
    options.vae = VaeMode::Tile;
    assert_eq!(chosen(&options, Some(VaeMode::Shared)).vae, VaeMode::Tile);
}

#[test]
fn figures_that_are_no_figures_are_refused() {
    let folder = tempfile::tempdir().expect("folder");
    for bad in [r#"{"tile_psnr": 50}"#, r#"{"tile_psnr": {"x": 50}}"#, r#"{"shared_psnr": {"64": "50"}}"#, "[]", "7"] {
        let model = model(folder.path(), Some(bad));
        let e = OneStep::open(&model).expect_err(bad);
        assert!(e.kind() == Kind::Weights && e.message().contains("vae_modes"), "{bad}: {e}");
    }
}
