//! CASR against PyTorch (`tools/reference/make_casr.py`): whole jobs over one stage and two, in one window and in many,
//! with each part switched off; and what no window, batch or order may change.

use crate::job::{Way, apart, executors, folder, job, program, psnr, run_on, run_program, tensor, way};
use crate::tolerance;
use std::collections::BTreeMap;
use tessera::Kind;
use tessera::backend::cpu::Cpu;
use tessera::graph::DType;
use tessera::run::{Base, Cascade, LabelRule, Off, Sampler, TileOrder};
use tessera::system::casr::Casr;
use tessera::system::job::Form;
use tessera::system::latent::{LatentForm, LatentPlan, Norms};
use tessera::system::onestep::Shaping;
use tessera::system::program::{Extent, Residency};
use tessera::system::vae_modes::Attention;
use tessera::system::{Job, System};

/// Rows and columns of the reference's picture.
const SOURCE: [u32; 2] = [24, 32];

fn model() -> Casr {
    Casr::open(&folder("casr/model")).expect("the model opens")
}

fn expected(name: &str) -> Vec<f32> {
    tensor(&folder("casr"), name).1
}

fn run(job: &Job, way: &Way) -> Vec<f32> {
    run_on(Box::new(Cpu::new().expect("cpu")), &model(), job, way, &expected("picture"))
}

fn off(part: Off) -> Sampler {
    Sampler { off: vec![part], ..Sampler::default() }
}

#[test]
fn jobs_are_pytorchs() {
    for (name, scale, windows) in
        [("x3", 3.0, way(128, 32)), ("x6.25", 6.25, way(128, 32)), ("x6.25.tiled", 6.25, way(64, 16))]
    {
        let got = psnr(&run(&job(SOURCE, scale, Sampler::default()), &windows), &expected(name));
        println!("{name}: {got:.1} dB against PyTorch");
        assert!(got >= tolerance::CASR_F32_DB, "{name}: {got:.1} dB");
    }
}

#[test]
fn every_switch_is_pytorchs() {
    let base = Sampler::default;
    let cases: BTreeMap<&str, (f64, Sampler)> = BTreeMap::from([
        ("x3.superpixel", (3.0, off(Off::Superpixels))),
        ("x3.depth", (3.0, off(Off::Depth))),
        ("x3.sarm", (3.0, off(Off::Sarm))),
        ("x3.semantic", (3.0, off(Off::Semantic))),
        ("x6.25.cell", (6.25, Sampler { cell: Some(5), ..base() })),
        ("x6.25.nearest", (6.25, Sampler { rule: Some(LabelRule::Nearest), ..base() })),
        ("x6.25.original", (6.25, Sampler { semantic: Some(Base::Original), ..base() })),
    ]);
    for (name, (scale, sampler)) in cases {
        let (want, default) = (expected(name), expected(&format!("x{scale}")));
        let got = run(&job(SOURCE, scale, sampler), &way(128, 32));
        let (near, away) = (psnr(&got, &want), psnr(&default, &want));
        println!("{name}: {near:.1} dB against PyTorch, {away:.1} dB from the default");
        assert!(near >= tolerance::CASR_F32_DB && away < tolerance::SWITCHED_DB, "{name}: {near:.1} dB, {away:.1} dB");
    }
}

#[test]
fn neither_batch_nor_order_changes_a_bit() {
    let job = job(SOURCE, 5.0, Sampler::default());
    let want = run(&job, &way(64, 16));
    for (batch, order) in [(1, TileOrder::Natural), (1, TileOrder::Reversed), (3, TileOrder::Shuffled(3))] {
        assert!(run(&job, &Way { batch, order, ..way(64, 16) }) == want, "{batch} {order:?}");
    }
}

#[test]
fn stages_are_at_most_four_unless_one_jump_is_asked_for() {
    let model = model();
    let count = |scale: f64, cascade: Option<Cascade>| {
        let job = job(SOURCE, scale, Sampler { cascade, ..Sampler::default() });
        let program = program(&model, &job, &way(128, 32)).expect("program");
        program.canvases.iter().filter(|c| c.name.starts_with("colours")).count()
    };
    assert_eq!([count(4.0, None), count(16.0, None), count(18.0, None), count(64.0, None)], [1, 2, 3, 3]);
    assert_eq!(count(18.0, Some(Cascade::Single)), 1);
}

#[test]
fn pictures_smaller_than_anything_come_out_in_their_size() {
    let model = model();
    for (source, target) in [([1, 1], [2, 2]), ([1, 1], [7, 5]), ([3, 2], [9, 6]), ([2, 9], [16, 72]), ([5, 5], [5, 5])]
    {
        let job = Job { source, target, ..job(source, 2.0, Sampler::default()) };
        let picture = vec![0.25; 3 * (source[0] * source[1]) as usize];
        let out = run_on(Box::new(Cpu::new().expect("cpu")), &model, &job, &way(64, 16), &picture);
        assert!(out.iter().all(|v| v.is_finite()), "{source:?} to {target:?}");
    }
}

/// Norms over the few latents of a small window would make noise of it.
#[test]
fn flat_pictures_of_any_size_stay_flat() {
    let folder = tempfile::tempdir().expect("a folder");
    let colour = [153, 137, 126];
    for ([w, h], scale) in
        [([1, 1], "8"), ([1, 64], "2"), ([64, 2], "2"), ([2, 2], "8"), ([4, 4], "2"), ([3, 21], "5.3")]
    {
        let [small, large] = ["small.png", "large.png"].map(|n| folder.path().join(n));
        image::RgbImage::from_pixel(w, h, image::Rgb(colour)).save(&small).expect("written");
        let text = |p: &std::path::Path| p.to_str().expect("a plain name").to_owned();
        let (input, output) = (text(&small), text(&large));
        let args =
            ["upscale", "-i", &input, "-o", &output, "-s", scale, "--system", "casr", "-g", "cpu", "--overwrite"];
        let r = crate::program::run(&args);
        assert_eq!(r.code, Some(0), "{r:?}");
        let p = image::open(&large).expect("a picture").to_rgb8();
        let off = |p: &image::Rgb<u8>| (0..3).map(|c| p.0[c].abs_diff(colour[c])).max().expect("three channels");
        let most = p.pixels().map(off).max().expect("pixels");
        println!("{w}x{h} x{scale}: {most} levels");
        assert!(most <= tolerance::FLAT_LEVELS, "{w}x{h} x{scale}: {most} levels");
    }
}

#[test]
fn a_strip_costs_no_more_than_a_picture() {
    let model = model();
    let program = |source: [u32; 2], sampler| {
        let job = Job { source, target: source.map(|s| 2 * s), ..job(source, 2.0, sampler) };
        program(&model, &job, &way(64, 16)).expect("a program")
    };
    for source in [[1, 3000], [40_000, 1], [7, 900]] {
        let program = program(source, Sampler::default());
        let seen = program.canvases.iter().find(|c| c.name.starts_with("seen by depth")).expect("depth sees it");
        let Extent::Fixed([h, w]) = seen.extent else { panic!("{:?}", seen.extent) };
        assert!(h.max(w) <= 8 * h.min(w) + 14, "{source:?}: depth of {w}x{h}");
    }
    // Cells larger than the picture: one of them covers it.
    for (source, cell) in [([1, 64], 32), ([2, 2], 64)] {
        program(source, Sampler { cell: Some(cell), ..Sampler::default() });
    }
}

#[test]
fn it_runs_without_what_it_can_do_without() {
    let copy = tempfile::tempdir().expect("folder");
    let from = folder("casr/model");
    let put = |part: &str| {
        std::fs::create_dir_all(copy.path().join(part)).expect("folder");
        for entry in std::fs::read_dir(from.join(part)).expect("there") {
            let entry = entry.expect("entry");
            std::fs::copy(entry.path(), copy.path().join(part).join(entry.file_name())).expect("copied");
        }
    };
    std::fs::copy(from.join("model_index.json"), copy.path().join("model_index.json")).expect("copied");
    ["unet", "scheduler"].iter().for_each(|p| put(p));
    let e = Casr::open(copy.path()).expect_err("no autoencoder");
    let said = format!("{} {}", e.message(), e.advice().unwrap_or_default());
    assert!(e.kind() == Kind::Weights && said.contains("vae") && said.contains("onestep"), "{said}");
    put("vae");
    let bare = Casr::open(copy.path()).expect("two networks are enough");
    let lines = bare.describe().expect("described").join("\n");
    assert!(
        ["superpixel", "depth", "controlnet", "sarm", "sam"]
            .iter()
            .all(|p| lines.contains(&format!("no folder {p} ("))),
        "{lines}"
    );
    assert!(bare.lacks().iter().all(|l| l.contains("tools/train")) && model().lacks().is_empty(), "{lines}");
    // Each is told for itself, also where another is of no use without it; and a folder that has weights alone.
    put("depth");
    std::fs::create_dir(copy.path().join("sam")).expect("folder");
    let told = Casr::open(copy.path()).expect("opened").lacks().join("\n");
    assert!(!told.contains("no folder depth") && told.contains("no folder controlnet"), "{told}");
    assert!(told.contains("no config.json in sam"), "{told}");
    // It is what the whole model is with everything switched off.
    let all = tessera::system::casr::OFF.to_vec();
    let (job, bare_job) =
        (job(SOURCE, 3.0, Sampler { off: all, ..Sampler::default() }), job(SOURCE, 3.0, Sampler::default()));
    let picture = expected("picture");
    let got = run_on(Box::new(Cpu::new().expect("cpu")), &bare, &bare_job, &way(128, 32), &picture);
    assert!(got == run(&job, &way(128, 32)));
}

#[test]
fn what_a_job_cannot_have_is_refused() {
    let model = model();
    for sampler in [Sampler { cell: Some(1), ..Sampler::default() }, Sampler { cell: Some(65), ..Sampler::default() }] {
        let e = program(&model, &job(SOURCE, 2.0, sampler), &way(128, 32)).expect_err("refused");
        assert!(e.kind() == Kind::Usage && e.message().contains("cells"), "{e}");
    }
    let wide = Job { target: [2400, 3200], ..job(SOURCE, 2.0, Sampler::default()) };
    assert_eq!(program(&model, &wide, &way(128, 32)).expect_err("100 times").kind(), Kind::Usage);
}

#[test]
fn options_of_another_system_are_refused_by_name() {
    let model = model();
    for (sampler, name) in [
        (Sampler { steps: Some(3), ..Sampler::default() }, "steps"),
        (Sampler { base: Some(Base::Original), ..Sampler::default() }, "base"),
        (Sampler { no_adapter: true, ..Sampler::default() }, "no-adapter"),
        (Sampler { enlarged: Some(2.0), ..Sampler::default() }, "enlarged"),
        (off(Off::Liif), "liif"),
    ] {
        let e = program(&model, &job(SOURCE, 2.0, sampler), &way(128, 32)).expect_err("refused");
        assert!(e.kind() == Kind::Usage && e.message().contains(name), "{e}");
    }
}

#[test]
fn keys_are_pooled_beyond_the_budget_and_only_then() {
    let model = model();
    let kept = |scale: f64| {
        let program = program(&model, &job(SOURCE, scale, Sampler::default()), &way(64, 16)).expect("program");
        program.saved.iter().rev().find(|s| s.name.ends_with("keys")).expect("keys").shape.pixels()
    };
    // 8 x 8 tokens a tile of 64 pixels; the model's budget is 256, its pooled side 3.
    assert_eq!((kept(3.0), kept(4.0)), (64, 9));
}

#[test]
fn f16_is_near_f32_on_the_cpu_and_on_wgpu() {
    let (job, want) = (job(SOURCE, 3.0, Sampler::default()), expected("x3"));
    let way = Way { dtype: DType::F16, ..way(128, 32) };
    let cpu = psnr(&run(&job, &way), &want);
    println!("cpu f16: {cpu:.1} dB against PyTorch");
    assert!(cpu >= tolerance::CASR_F16_DB, "{cpu:.1} dB");
    if !crate::reference::have_wgpu() {
        return;
    }
    let backend = Box::new(tessera::backend::wgpu::WgpuBackend::open(0).expect("wgpu"));
    let wgpu = run_on(backend, &model(), &job, &way, &expected("picture"));
    println!("wgpu f16: {:.1} dB against PyTorch", psnr(&wgpu, &want));
    assert!(psnr(&wgpu, &want) >= tolerance::CASR_F16_DB && apart(&wgpu, &want) > 0.0);
}

#[test]
fn every_graph_has_its_weights() {
    let model = model();
    let program = program(&model, &job(SOURCE, 6.25, Sampler::default()), &way(128, 32)).expect("program");
    let made = executors(Box::new(Cpu::new().expect("cpu")), &model, &program);
    assert_eq!(made.len(), program.graphs.len());
    // Superpixels, depth and SAM of a stage's input, and two halves of its tiles, for each stage.
    assert!(program.graphs.len() >= 5, "{}", program.graphs.len());
}

#[test]
fn inspect_calls_things_as_options_do() {
    let lines = model().describe().expect("lines").join("\n");
    assert!(lines.contains("cells of 4 pixels by probabilities, latents of superpixels and stage-input"), "{lines}");
}

/// The result of a job whose autoencoder works on canvases.
fn over_latents(job: &Job, norms: Norms, tile: u32, overlap: u32) -> Vec<f32> {
    let plan = LatentPlan { norms, keep: Vec::new(), attention: Attention::Global, picture: Residency::Whole };
    let shaping = Shaping { tile, fitted: true, overlap, batch: 1, dtype: DType::F32 };
    let model = model();
    let made = model.latent_program(job, &shaping, &plan).expect("program");
    let cpu = Box::new(Cpu::new().expect("cpu"));
    run_program(cpu, &model, job, &made.program, TileOrder::Natural, &expected("picture"))
}

/// The same tile by tile, in windows of the same size.
fn by_tiles(job: &Job, tile: u32, overlap: u32) -> Vec<f32> {
    let shaping = Shaping { tile, fitted: true, overlap, batch: 1, dtype: DType::F32 };
    let model = model();
    let program = model.program(job, &shaping, Form::Joined).expect("program");
    let cpu = Box::new(Cpu::new().expect("cpu"));
    run_program(cpu, &model, job, &program, TileOrder::Natural, &expected("picture"))
}

#[test]
fn one_window_over_latents_is_the_tile_of_the_whole_picture() {
    for sampler in [Sampler::default(), off(Off::Superpixels), off(Off::Sarm), off(Off::Depth)] {
        // Nothing is mirrored at this size.
        let job = job(SOURCE, 4.0, sampler);
        let tile = by_tiles(&job, 128, 32);
        for norms in [Norms::Whole, Norms::Exact] {
            let apart = apart(&over_latents(&job, norms, 128, 32), &tile);
            println!("{norms:?}, {:?} off: {apart:.1e} from the tile's picture", job.sampler.off);
            assert!(apart <= tolerance::CASR_LATENT, "{norms:?}: {apart:.1e}");
        }
    }
}

#[test]
fn exact_norms_over_latents_are_the_whole_pictures_over_stages_and_odd_sizes() {
    for scale in [3.0, 5.3] {
        let job = job(SOURCE, scale, Sampler::default());
        let [whole, exact] = [Norms::Whole, Norms::Exact].map(|norms| over_latents(&job, norms, 64, 16));
        let (near, away) = (apart(&exact, &whole), apart(&by_tiles(&job, 64, 16), &whole));
        println!("x{scale}: exact {near:.1e} from whole, tiles {away:.1e}");
        assert!(near <= tolerance::CASR_LATENT && away > tolerance::CASR_LATENT, "x{scale}: {near:.1e}, {away:.1e}");
    }
}

/// Mean absolute step between neighbouring rows (or columns) of a picture, from the border inwards.
fn steps(p: &image::RgbImage, count: u32, pixel: impl Fn(u32, u32) -> [u32; 2]) -> Vec<f64> {
    let length = p.width().min(p.height());
    let at = |i: u32, along: u32| {
        let [x, y] = pixel(i, along);
        p.get_pixel(x, y).0.map(f64::from)
    };
    let step = |i: u32, along: u32| -> f64 {
        let (a, b) = (at(i, along), at(i + 1, along));
        (0..3).map(|c| (a[c] - b[c]).abs()).sum::<f64>() / 3.0
    };
    (0..count).map(|i| (0..length).map(|along| step(i, along)).sum::<f64>() / f64::from(length)).collect()
}

#[test]
fn the_stages_that_ship_draw_no_line_along_the_border() {
    let folder = tempfile::tempdir().expect("a folder");
    let [small, large] = ["small.png", "large.png"].map(|n| folder.path().join(n));
    let photograph = image::open("docs/example/astronaut_128.png").expect("a picture").to_rgb8();
    image::imageops::crop_imm(&photograph, 40, 20, 32, 32).to_image().save(&small).expect("written");
    let text = |p: &std::path::Path| p.to_str().expect("a plain name").to_owned();
    let (input, output) = (text(&small), text(&large));
    let r = crate::program::run(&["upscale", "-i", &input, "-o", &output, "-s", "18", "--system", "casr", "-g", "cpu"]);
    assert_eq!(r.code, Some(0), "{r:?}");
    let p = image::open(&large).expect("a picture").to_rgb8();
    let last = p.width() - 1;
    type Place = fn(u32, u32, u32) -> [u32; 2];
    let borders: [(&str, Place); 4] = [
        ("top", |i, a, _| [a, i]),
        ("left", |i, a, _| [i, a]),
        ("bottom", |i, a, last| [a, last - i]),
        ("right", |i, a, last| [last - i, a]),
    ];
    for (border, place) in borders {
        let steps = steps(&p, 24, |i, a| place(i, a, last));
        let usual = steps[8..].iter().sum::<f64>() / 16.0;
        let most = steps[..4].iter().copied().fold(0.0, f64::max);
        assert!(
            most < tolerance::BORDER_STEPS * usual + 1.0,
            "{border}: a step of {most:.2} levels, inside {usual:.2}"
        );
    }
}
