//! CasArbi against PyTorch (`tools/reference/make_casarbi.py`): the whole sampler with the engine's noise, in one window and in many; and what no window, batch or order may change.

use crate::job::{Way, executors, program, psnr, run_on, way};
use crate::run::relative_l2;
use crate::tolerance;
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Instant;
use tessera::Kind;
use tessera::abi::Caps;
use tessera::backend::cpu::Cpu;
use tessera::graph::DType;
use tessera::run::connections::Connections;
use tessera::run::control::Control;
use tessera::run::interpreter::Interpreter;
use tessera::run::{
    Base, Cancel, Cascade, Observer, Off, Progress, Reference, Resume, Sampler, Silent, Size, TileOrder,
    UpscaleOptions, VaeMode, samples, upscale,
};
use tessera::system::Job;
use tessera::system::casarbi::CasArbi;
use tessera::system::onestep::OUTPUT;
use tessera::system::program::PICTURE;

fn folder() -> PathBuf {
    crate::job::folder("casarbi")
}

fn model() -> CasArbi {
    CasArbi::open(&folder().join("model")).expect("the model opens")
}

/// A tensor of the reference, NHWC; extents and values.
fn tensor(name: &str) -> ([usize; 4], Vec<f32>) {
    crate::job::tensor(&folder(), name)
}

/// A job over the reference's picture.
fn job(scale: f64, sampler: Sampler) -> Job {
    let ([_, h, w, _], _) = tensor("picture");
    crate::job::job([h as u32, w as u32], scale, sampler)
}

/// Windows of `tile` pixels, a quarter of which overlaps.
fn by(tile: u32) -> Way {
    way(tile, tile / 4)
}

/// One window over every stage of the reference.
const WHOLE: u32 = 256;

fn run(job: &Job, way: &Way) -> Vec<f32> {
    run_on(Box::new(Cpu::new().expect("cpu")), &model(), job, way, &tensor("picture").1)
}

#[test]
fn the_sampler_is_pytorchs_with_the_same_noise() {
    for scale in [2.0, 3.3, 5.3] {
        for (tile, suffix) in [(256, ""), (32, ".tiled")] {
            let name = format!("x{scale}{suffix}");
            let got = psnr(&run(&job(scale, Sampler::default()), &by(tile)), &tensor(&name).1);
            println!("{name}: {got:.1} dB against PyTorch");
            assert!(got >= tolerance::CASARBI_F32_DB, "{name}: {got:.1} dB");
        }
    }
}

#[test]
fn every_switch_is_pytorchs() {
    let base = Sampler::default;
    let cases: BTreeMap<&str, Sampler> = BTreeMap::from([
        ("off", Sampler { reference: Some(Reference::Off), ..base() }),
        ("original", Sampler { reference: Some(Reference::Original), ..base() }),
        ("base", Sampler { base: Some(Base::Original), ..base() }),
        ("uniform", Sampler { cascade: Some(Cascade::Uniform), ..base() }),
        ("first", Sampler { cascade: Some(Cascade::RemainderFirst), ..base() }),
        ("single", Sampler { cascade: Some(Cascade::Single), ..base() }),
        ("adapter", Sampler { no_adapter: true, ..base() }),
        ("one", Sampler { steps: Some(1), ..base() }),
        ("liif", Sampler { off: vec![Off::Liif], ..base() }),
        ("denoiser", Sampler { off: vec![Off::Denoiser], ..base() }),
        ("plain", Sampler { off: vec![Off::Liif, Off::Denoiser], base: Some(Base::Original), ..base() }),
        ("unlike", Sampler { off: vec![Off::Liif], base: Some(Base::Original), ..base() }),
    ]);
    let whole = tensor("x3.3").1;
    for (name, sampler) in cases {
        let expected = tensor(&format!("x3.3.{name}")).1;
        let got = run(&job(3.3, sampler), &by(WHOLE));
        let (near, apart) = (psnr(&got, &expected), psnr(&whole, &expected));
        println!("{name}: {near:.1} dB against PyTorch, {apart:.1} dB from the default");
        assert!(
            near >= tolerance::CASARBI_F32_DB && apart < tolerance::CASARBI_APART_DB,
            "{name}: {near:.1} dB, {apart:.1} dB"
        );
    }
    // Strength 0 is no guidance.
    let silent = run(&job(3.3, Sampler { guidance: Some(vec![0.0]), ..base() }), &by(WHOLE));
    assert!(silent == run(&job(3.3, Sampler { reference: Some(Reference::Off), ..base() }), &by(WHOLE)));
}

#[test]
fn neither_batch_nor_order_changes_a_bit_and_seeds_do() {
    let way = |batch, order| Way { batch, order, ..by(32) };
    let job = job(3.3, Sampler::default());
    let want = run(&job, &way(1, TileOrder::Natural));
    for (batch, order) in
        [(1, TileOrder::Natural), (1, TileOrder::Reversed), (2, TileOrder::Natural), (5, TileOrder::Shuffled(3))]
    {
        assert!(run(&job, &way(batch, order)) == want, "{batch} {order:?}");
    }
    let other = run(&Job { seed: 8, ..job }, &way(1, TileOrder::Natural));
    assert!(relative_l2(&other, &want) > tolerance::CASARBI_PART, "another seed is another sample");
}

#[test]
fn pictures_smaller_than_anything_come_out_in_their_size() {
    for (source, target) in
        [([1, 1], [2, 2]), ([1, 1], [7, 5]), ([3, 2], [9, 6]), ([1, 9], [64, 576]), ([5, 5], [6, 6])]
    {
        let job = Job { source, target, ..job(2.0, Sampler { steps: Some(1), ..Sampler::default() }) };
        let picture = vec![0.25; 3 * (source[0] * source[1]) as usize];
        let out = run_on(Box::new(Cpu::new().expect("cpu")), &model(), &job, &by(32), &picture);
        assert!(out.iter().all(|v| v.is_finite()), "{source:?} to {target:?}");
    }
}

/// Cancels after some launches.
struct Impatient(Cancel, u32);

impl Observer for Impatient {
    fn progress(&mut self, _: &Progress<'_>) {
        self.1 = self.1.saturating_sub(1);
        if self.1 == 0 {
            self.0.cancel();
        }
    }

    fn note(&mut self, _: &str) {}
}

#[test]
fn a_run_is_cancelled_between_launches() {
    let (model, job) = (model(), job(3.3, Sampler::default()));
    let program = program(&model, &job, &by(32)).expect("program");
    let mut executors = executors(Box::new(Cpu::new().expect("cpu")), &model, &program);
    let mut interpreter = Interpreter::new(&program, &mut executors).expect("prepared");
    let mut rows_in = |row: &mut [f32]| {
        row.fill(0.5);
        Ok(())
    };
    let mut rows_out = |_: u32, _: &[f32]| Ok(());
    let mut io = Connections {
        inputs: vec![(program.canvas(PICTURE).expect("picture"), &mut rows_in)],
        outputs: vec![(program.canvas(OUTPUT).expect("result"), &mut rows_out)],
    };
    let cancel = Cancel::new();
    let mut observer = Impatient(cancel.clone(), 7);
    let order = TileOrder::Natural;
    let mut control = Control { observer: &mut observer, cancel: &cancel, order, began: Instant::now() };
    let e = interpreter.run(&mut io, &mut control).expect_err("cancelled");
    assert_eq!(e.kind(), Kind::Cancelled);
}

#[test]
fn a_folder_without_a_network_says_which_and_whence() {
    let copy = tempfile::tempdir().expect("folder");
    for part in ["liif", "lr_encoder"] {
        std::fs::create_dir(copy.path().join(part)).expect("folder");
        let config = folder().join("model").join(part).join("config.json");
        std::fs::copy(config, copy.path().join(part).join("config.json")).expect("copied");
    }
    std::fs::copy(folder().join("model/model_index.json"), copy.path().join("model_index.json")).expect("copied");
    let e = CasArbi::open(copy.path()).expect_err("two are missing");
    assert_eq!(e.kind(), Kind::Weights);
    let said = format!("{} {}", e.message(), e.advice().unwrap_or_default());
    assert!(["hr_encoder", "denoiser", "tools/train", "onestep"].iter().all(|w| said.contains(w)), "{said}");
    assert!(!said.contains("liif ("), "{said}");
}

#[test]
fn what_a_job_cannot_have_is_refused() {
    let model = model();
    let program = |job: &Job| program(&model, job, &by(32));
    for sampler in [
        Sampler { steps: Some(0), ..Sampler::default() },
        Sampler { guidance: Some(vec![2.0]), ..Sampler::default() },
        Sampler { guidance: Some(Vec::new()), ..Sampler::default() },
        Sampler { off: vec![Off::Liif, Off::Sarm], ..Sampler::default() },
        Sampler { enlarged: Some(2.0), ..Sampler::default() },
    ] {
        assert_eq!(program(&job(2.0, sampler)).expect_err("refused").kind(), Kind::Usage);
    }
    let wide = Job { source: [2, 2], target: [200, 200], ..job(2.0, Sampler::default()) };
    assert_eq!(program(&wide).expect_err("100 times").kind(), Kind::Usage);
}

#[test]
fn wgpu_gives_the_same_in_f32_and_nearly_in_f16() {
    if !crate::reference::have_wgpu() {
        return;
    }
    let job = job(2.0, Sampler::default());
    let want = tensor("x2").1;
    for (dtype, bar) in [(DType::F32, tolerance::CASARBI_F32_DB), (DType::F16, tolerance::CASARBI_F16_DB)] {
        let backend = Box::new(tessera::backend::wgpu::WgpuBackend::open(0).expect("wgpu"));
        let got = psnr(&run_on(backend, &model(), &job, &Way { dtype, ..by(WHOLE) }, &tensor("picture").1), &want);
        println!("wgpu {}: {got:.1} dB against PyTorch", dtype.name());
        assert!(got >= bar, "{}: {got:.1} dB", dtype.name());
    }
}

#[test]
fn f16_on_the_cpu_is_near_f32() {
    let caps = Caps { storage: DType::F16, ..Caps::cpu() };
    assert_eq!(caps.storage, DType::F16);
    let got = psnr(&run(&job(2.0, Sampler::default()), &Way { dtype: DType::F16, ..by(WHOLE) }), &tensor("x2").1);
    println!("cpu f16: {got:.1} dB against PyTorch");
    assert!(got >= tolerance::CASARBI_F16_DB, "{got:.1} dB");
}

/// The picture as a file, and a job over it with the small model.
fn options(folder: &std::path::Path, scale: f64) -> UpscaleOptions {
    let input = folder.join("in.png");
    std::fs::write(&input, crate::program::png(20, 14)).expect("written");
    let mut o = UpscaleOptions::new(input, Size::Scale(scale));
    (o.output, o.model) = (Some(folder.join("out.png")), Some(self::folder().join("model")));
    (o.device, o.overwrite) = ("cpu".into(), true);
    o
}

fn bytes(path: &std::path::Path) -> Vec<u8> {
    std::fs::read(path).expect("a file")
}

#[test]
fn a_job_by_folder_gives_the_same_bytes_twice_and_its_stages() {
    let folder = tempfile::tempdir().expect("folder");
    let mut o = options(folder.path(), 5.3);
    o.save_stages = true;
    let job = |o: &UpscaleOptions| upscale(o, &mut Silent, &Cancel::new()).expect("upscales");
    let report = job(&o);
    assert_eq!((report.system.as_str(), report.vae.as_str(), report.output), ("casarbi", "none", (106, 74)));
    let first = bytes(&report.path);
    for (number, size) in [("1", (40, 28)), ("2", (80, 56))] {
        let header = tessera::image::probe(&folder.path().join(format!("out_stage{number}.png"))).expect("a stage");
        assert_eq!((header.width, header.height), size);
    }
    o.save_stages = false;
    assert_eq!(bytes(&job(&o).path), first);
    o.seed = 1;
    assert_ne!(bytes(&job(&o).path), first, "another seed");
    // A plan is told and nothing is written.
    std::fs::remove_file(&report.path).expect("removed");
    o.dry_run = true;
    let plan = job(&o);
    assert!(plan.dry_run && plan.estimate.is_some() && plan.host_bytes > 0 && !report.path.exists());
    // Caps hold: smaller windows where they must be, a refusal that names what would do where nothing can.
    o.ram = Some(1 << 20);
    let e = upscale(&o, &mut Silent, &Cancel::new()).expect_err("a megabyte");
    assert!(e.kind() == Kind::Memory && e.advice().is_some_and(|a| a.contains("--ram")), "{e}");
    // The model says which system it is for.
    (o.ram, o.system) = (None, Some("onestep".into()));
    assert_eq!(upscale(&o, &mut Silent, &Cancel::new()).expect_err("another system's").kind(), Kind::Weights);
    (o.system, o.vae) = (None, VaeMode::Exact);
    assert_eq!(upscale(&o, &mut Silent, &Cancel::new()).expect_err("no autoencoder").kind(), Kind::Usage);
}

#[test]
fn an_interrupted_job_goes_on_and_makes_the_same_bytes() {
    let folder = tempfile::tempdir().expect("folder");
    let mut o = options(folder.path(), 3.0);
    (o.tile, o.resume) = (Some(16), Resume::Always);
    let job = |o: &UpscaleOptions, observer: &mut dyn Observer, cancel: &Cancel| upscale(o, observer, cancel);
    let whole = job(&o, &mut Silent, &Cancel::new()).expect("upscales");
    let want = bytes(&whole.path);
    std::fs::remove_file(&whole.path).expect("removed");
    o.overwrite = false;
    let mut resumed = 0;
    for launches in [20, 90, 160, 230] {
        let cancel = Cancel::new();
        let mut observer = Impatient(cancel.clone(), launches);
        match job(&o, &mut observer, &cancel) {
            Ok(report) => {
                resumed = report.resumed_rows.max(resumed);
                break;
            }
            Err(e) => assert_eq!(e.kind(), Kind::Cancelled),
        }
    }
    if !whole.path.exists() {
        resumed = job(&o, &mut Silent, &Cancel::new()).expect("goes on").resumed_rows.max(resumed);
    }
    println!("{resumed} rows were there");
    assert_eq!(bytes(&whole.path), want);
}

#[test]
fn samples_come_with_their_mean_and_deviation() {
    let folder = tempfile::tempdir().expect("folder");
    let mut o = options(folder.path(), 2.0);
    o.seed = 5;
    let done = samples(&o, 3, &mut Silent, &Cancel::new()).expect("samples");
    let names: Vec<String> =
        done.reports.iter().map(|r| r.path.file_name().expect("a name").to_string_lossy().into()).collect();
    assert_eq!(names, ["out_sample5.png", "out_sample6.png", "out_sample7.png"]);
    let rows = |path: &std::path::Path| -> Vec<f32> {
        let mut source = tessera::image::open(path).expect("a picture");
        let (len, height) = (source.header().row_len(), source.header().height);
        let mut all = vec![0.0; len * height as usize];
        all.chunks_exact_mut(len).for_each(|row| source.read_row(row).expect("a row"));
        all
    };
    let all: Vec<Vec<f32>> = done.reports.iter().map(|r| rows(&r.path)).collect();
    let (mean, deviation) = (rows(&done.pictures[0]), rows(&done.pictures[1]));
    // Both are rounded to 8 bits.
    let (step, far) = (1.0 / 255.0, 4.0 / 255.0);
    for i in 0..mean.len() {
        let (a, b, c) = (all[0][i], all[1][i], all[2][i]);
        let m = (a + b + c) / 3.0;
        let d = (((a - m).powi(2) + (b - m).powi(2) + (c - m).powi(2)) / 3.0).sqrt();
        assert!((mean[i] - m).abs() < step && (deviation[i] - d).abs() < step, "{i}");
    }
    assert!(deviation.iter().any(|&d| d > far), "samples differ");
    assert_eq!(samples(&o, 0, &mut Silent, &Cancel::new()).expect_err("none").kind(), Kind::Usage);
    // As words and as JSON; of a folder they are refused.
    let text = |p: &std::path::Path| p.to_str().expect("a plain name").to_owned();
    let (model, input, output) =
        (text(&o.model.expect("a model")), text(&o.input), text(&folder.path().join("again.png")));
    let args =
        ["upscale", "-i", &input, "-o", &output, "-m", &model, "-s", "2", "-g", "cpu", "--samples", "2", "--json"];
    let r = crate::program::run(&args);
    let told = r.json();
    assert_eq!(
        (told["samples"].as_array().map(Vec::len), told["pictures"].as_array().map(Vec::len)),
        (Some(2), Some(2))
    );
    let r = crate::program::run(&["upscale", "-i", &text(folder.path()), "-m", &model, "-g", "cpu", "--samples", "2"]);
    assert!(r.code == Some(2) && r.stderr.contains("2 samples of a folder"), "{r:?}");
    let r = crate::program::run(&["upscale", "-i", &input, "-m", &model, "-g", "cpu", "--noise", "1", "--overwrite"]);
    assert!(r.code == Some(2) && r.stderr.contains("--noise 1") && r.stderr.contains("is not told"), "{r:?}");
}

#[test]
fn numbers_of_an_index_are_not_bent() {
    let copy = tempfile::tempdir().expect("folder");
    let from = options(copy.path(), 2.0).model.expect("a model");
    for part in ["liif", "lr_encoder", "hr_encoder", "denoiser"] {
        std::fs::create_dir_all(copy.path().join("m").join(part)).expect("folder");
        let [a, b] = [from.clone(), copy.path().join("m")].map(|f| f.join(part).join("config.json"));
        std::fs::copy(a, b).expect("copied");
    }
    let index = std::fs::read_to_string(from.join("model_index.json")).expect("an index");
    for (key, value) in [
        ("overlap", "-5"),
        ("overlap", "64.7"),
        ("tile", "256.9"),
        ("num_inference_steps", "4.9"),
        ("num_inference_steps", "-4"),
        ("num_inference_steps", "1e12"),
    ] {
        let mut map: serde_json::Map<String, serde_json::Value> = serde_json::from_str(&index).expect("JSON");
        map.insert(key.into(), serde_json::from_str(value).expect("a number"));
        let text = serde_json::to_string(&map).expect("JSON");
        std::fs::write(copy.path().join("m").join("model_index.json"), text).expect("written");
        let e = CasArbi::open(&copy.path().join("m")).expect_err("refused");
        assert!(e.kind() == Kind::Weights && e.message().contains(key) && e.message().contains("whole number"), "{e}");
    }
}
