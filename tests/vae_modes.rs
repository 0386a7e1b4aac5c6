//! VAE modes: an encoder or decoder in windows, its norms' statistics pooled over all of them, is the function
//! of the whole picture, wherever the state between norms lives.

use crate::program;
use crate::source;
use crate::tolerance;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tessera::abi::Caps;
use tessera::backend::Backend;
use tessera::backend::cpu::Cpu;
use tessera::backend::null::Null;
use tessera::backend::wgpu::{WgpuBackend, adapters};
use tessera::graph::change;
use tessera::graph::{DType, Graph};
use tessera::knobs;
use tessera::model::vae::AutoencoderKL;
use tessera::noise::{self, Key};
use tessera::plan::{self, command::PackedWeight};
use tessera::run::connections::Connections;
use tessera::run::control::Control;
use tessera::run::executor::{Executor, SharedDevice};
use tessera::run::executors::Executors;
use tessera::run::interpreter::{Interpreter, RunStats};
use tessera::run::{Cancel, Silent, TileOrder};
use tessera::system::Program;
use tessera::system::program::{Canvas, CanvasId, Extent, Residency};
use tessera::system::vae_modes::{self, Attention, Feed, Keep, Part, Proxy};
use tessera::tile::Grid;
use tessera::weights::Checkpoint;

/// An autoencoder with its weights.
struct Vae {
    net: AutoencoderKL,
    weights: Checkpoint,
}

impl Vae {
    fn open(folder: &Path) -> Vae {
        let text = std::fs::read_to_string(folder.join("config.json")).expect("config.json");
        let net = AutoencoderKL::from_config(&text).expect("a config");
        Vae { net, weights: Checkpoint::open(folder).expect("weights") }
    }

    fn tiny(name: &str) -> Vae {
        Vae::open(&source::root().join("tests/data/reference/checkpoints").join(name))
    }

    fn shipped() -> Vae {
        Vae::open(&source::root().join("weights/onestep/vae"))
    }
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Side {
    Encoder,
    Decoder,
}

/// How one run is done.
#[derive(Clone)]
struct Way {
    /// `None`: the whole picture as one window.
    keep: Option<Keep>,
    tile: u32,
    batch: u32,
    order: TileOrder,
    attention: Attention,
    /// What activations are stored as.
    dtype: DType,
}

fn whole() -> Way {
    let (order, attention, dtype) = (TileOrder::Natural, Attention::Global, DType::F32);
    Way { keep: None, tile: 1, batch: 1, order, attention, dtype }
}

fn exact(keep: Keep, tile: u32) -> Way {
    Way { keep: Some(keep), tile, ..whole() }
}

/// Smooth waves with some noise: neighbours are alike, as in pictures.
fn input(extent: [u32; 2], channels: u32) -> Vec<f32> {
    let key = Key { seed: 5, stage: 0, purpose: 0, step: 0 };
    let mut values = Vec::new();
    for y in 0..extent[0] {
        for x in 0..extent[1] {
            for c in 0..channels {
                let (fy, fx, fc) = (y as f32, x as f32, c as f32);
                let wave = (fy * 0.11 + fc).sin() + (fx * 0.07 - fc).cos() + (fx * 0.013 * fy * 0.017).sin();
                values.push(0.5 * wave + 0.2 * noise::normal(key, y, x, c));
            }
        }
    }
    values
}

fn graph(vae: &Vae, side: Side, batch: u32, dtype: DType) -> Graph {
    let f = vae.net.factor();
    match side {
        Side::Encoder => vae.net.build_encoder(batch, 8 * f, 8 * f, dtype),
        Side::Decoder => vae.net.build_decoder(batch, 8, 8, dtype),
    }
    .expect("builds")
}

/// The program of one side of an autoencoder over `latents`: canvas 0 in, canvas 1 out.
fn modes(vae: &Vae, side: Side, latents: [u32; 2], way: &Way) -> Program {
    let f = vae.net.factor();
    let pixels = latents.map(|v| v * f);
    let mut program = Program::new("vae", pixels, 0);
    let z = vae.net.latent_channels();
    let (from, to, name) = match side {
        Side::Encoder => ((pixels, 3), (latents, 2 * z), "sample"),
        Side::Decoder => ((latents, z), (pixels, 3), "latent_sample"),
    };
    for (name, (extent, channels)) in [("in", from), ("out", to)] {
        let (extent, residency) = (Extent::Fixed(extent), Residency::Whole);
        program.canvases.push(Canvas { name: name.into(), extent, channels, residency });
    }
    let tensors = |name: &str| vae.weights.read_f32(name);
    let part = Part {
        name: "vae",
        graph: &graph(vae, side, way.batch, way.dtype),
        latents,
        tile: way.tile,
        batch: way.batch,
        feeds: vec![Feed { name: name.into(), canvas: CanvasId(0), affine: [1.0, 0.0] }],
        output: CanvasId(1),
        attention: way.attention,
        tensors: &tensors,
    };
    match way.keep {
        None => vae_modes::whole(&mut program, &part).expect("whole"),
        Some(keep) => {
            let laid = vae_modes::lay(&mut program, &part).expect("lays");
            let keep = vec![keep; laid.boundaries() + 1];
            vae_modes::exact(&mut program, &laid, &keep, false).expect("exact");
        }
    }
    program.check().expect("a sound program");
    program
}

fn spool() -> PathBuf {
    let folder = std::env::temp_dir().join(format!("tessera-vae-modes-{}", std::process::id()));
    std::fs::create_dir_all(&folder).expect("a folder");
    folder
}

fn run(backend: Box<dyn Backend>, vae: &Vae, program: &Program, order: TileOrder) -> (Vec<f32>, RunStats) {
    let device = SharedDevice::new(backend);
    let caps = device.caps();
    let mut executors = Vec::new();
    for graph in &program.graphs {
        let plan = plan::compile(graph.clone(), &caps).expect("plans");
        let mut pack = |w: &PackedWeight| vae.weights.packed(&w.tensors, &w.packing, w.dtype);
        executors.push(Executor::new(&device, plan, Some("vae"), &mut pack).expect("loads"));
    }
    let before = device.allocated();
    let mut interpreter = Interpreter::new(program, &mut executors).expect("prepares");
    interpreter.set_spool(spool());
    let extent = program.extent(CanvasId(0));
    let values = input(extent, program.canvases[0].channels);
    interpreter.canvas_mut(CanvasId(0)).expect("whole").copy_from_slice(&values);
    let cancel = Cancel::new();
    let mut control = Control { observer: &mut Silent, cancel: &cancel, order, began: Instant::now() };
    let stats = interpreter.run(&mut Connections::default(), &mut control).expect("runs");
    let out = interpreter.canvas(CanvasId(1)).expect("whole").to_vec();
    drop(interpreter);
    assert_eq!(device.allocated(), before, "canvases on the device are given back");
    (out, stats)
}

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new().expect("cpu"))
}

fn result(vae: &Vae, side: Side, latents: [u32; 2], way: &Way) -> Vec<f32> {
    run(cpu(), vae, &modes(vae, side, latents, way), way.order).0
}

/// Relative L2 difference.
fn difference(a: &[f32], b: &[f32]) -> f64 {
    assert_eq!(a.len(), b.len());
    let square = |v: f64| v * v;
    let d: f64 = a.iter().zip(b).map(|(a, b)| square(f64::from(a - b))).sum();
    let s: f64 = b.iter().map(|b| square(f64::from(*b))).sum();
    (d / s).sqrt()
}

#[test]
fn exact_is_the_function_of_the_whole_picture() {
    let mut worst = 0f64;
    for name in ["tiny_vae", "tiny_vae_deep", "tiny_vae_plain"] {
        let vae = Vae::tiny(name);
        for side in [Side::Encoder, Side::Decoder] {
            for latents in [[23, 17], [31, 12], [5, 40], [9, 9]] {
                let expected = result(&vae, side, latents, &whole());
                for tile in [7, 12] {
                    let got = result(&vae, side, latents, &exact(Keep::Host, tile));
                    let d = difference(&got, &expected);
                    worst = worst.max(d);
                    assert!(d <= tolerance::VAE_EXACT, "{name} {side:?} {latents:?} tile {tile}: {d:e}");
                }
            }
        }
    }
    println!("exact and whole differ by {worst:e} at most");
}

#[test]
fn every_residence_gives_the_same_bytes() {
    for (name, side, latents) in [
        ("tiny_vae_deep", Side::Decoder, [23, 17]),
        ("tiny_vae_deep", Side::Encoder, [17, 23]),
        ("tiny_vae_plain", Side::Decoder, [19, 30]),
    ] {
        let vae = Vae::tiny(name);
        let expected = result(&vae, side, latents, &exact(Keep::Host, 9));
        for keep in [Keep::Device, Keep::Spool, Keep::Recompute] {
            assert!(result(&vae, side, latents, &exact(keep, 9)) == expected, "{name} {side:?} {keep:?}");
        }
    }
}

#[test]
fn neither_batch_nor_order_changes_a_bit() {
    let vae = Vae::tiny("tiny_vae");
    for keep in [Keep::Host, Keep::Device, Keep::Recompute] {
        let way = exact(keep, 8);
        let expected = result(&vae, Side::Decoder, [21, 26], &way);
        for (batch, order) in [(1, TileOrder::Reversed), (2, TileOrder::Natural), (4, TileOrder::Shuffled(3))] {
            let other = Way { batch, order, ..way.clone() };
            assert!(result(&vae, Side::Decoder, [21, 26], &other) == expected, "{keep:?} {batch} {order:?}");
        }
    }
}

#[test]
fn windowed_attention_is_the_same_in_every_residence_and_global_where_one_window_covers_all() {
    let vae = Vae::tiny("tiny_vae");
    let windowed = |keep, tile| Way { attention: Attention::Windowed(tile), ..exact(keep, 9) };
    let global = result(&vae, Side::Decoder, [20, 14], &exact(Keep::Host, 9));
    assert!(result(&vae, Side::Decoder, [20, 14], &windowed(Keep::Host, 32)) == global);
    let expected = result(&vae, Side::Decoder, [20, 14], &windowed(Keep::Host, 8));
    assert!(expected != global && expected.iter().all(|v| v.is_finite()));
    for keep in [Keep::Device, Keep::Spool, Keep::Recompute] {
        assert!(result(&vae, Side::Decoder, [20, 14], &windowed(keep, 8)) == expected, "{keep:?}");
    }
}

#[test]
fn the_null_backend_finds_nothing_wrong() {
    let vae = Vae::tiny("tiny_vae_plain");
    for side in [Side::Encoder, Side::Decoder] {
        for keep in [Keep::Host, Keep::Device, Keep::Recompute] {
            let way = Way { batch: 3, ..exact(keep, 9) };
            let (_, stats) = run(Box::new(Null::new(Caps::cpu())), &vae, &modes(&vae, side, [20, 11], &way), way.order);
            assert!(stats.launches > 0 && stats.moved > 0);
        }
    }
}

#[test]
fn on_a_gpu_the_state_stays_on_the_device() {
    if adapters().is_empty() {
        assert!(!knobs::is_on("TESSERA_REQUIRE_WGPU"), "no wgpu adapter");
        println!("SKIPPED: no wgpu adapter");
        return;
    }
    let vae = Vae::tiny("tiny_vae");
    let expected = result(&vae, Side::Decoder, [14, 11], &whole());
    let gpu = || Box::new(WgpuBackend::open(0).expect("the first adapter opens"));
    let [device, host] = [Keep::Device, Keep::Host].map(|keep| {
        let way = Way { batch: 2, ..exact(keep, 9) };
        run(gpu(), &vae, &modes(&vae, Side::Decoder, [14, 11], &way), way.order).0
    });
    assert!(device == host, "the same bytes on the device and through the host");
    let d = difference(&device, &expected);
    assert!(d <= tolerance::VAE_EXACT, "{d:e}");
}

#[test]
fn the_shipped_autoencoder_has_no_seams() {
    let vae = Vae::shipped();
    let latents = [50, 61];
    let whole = result(&vae, Side::Decoder, latents, &whole());
    let got = result(&vae, Side::Decoder, latents, &exact(Keep::Host, 20));
    let d = difference(&got, &whole);
    println!("shipped decoder: {d:e}");
    assert!(d <= tolerance::VAE_EXACT, "{d:e}");
    // A border of windows is a place like any other: `whole`, which has none, steps as much there.
    let f = vae.net.factor();
    let grid = vae_modes::grid(latents, 20, vae_modes::halo(&graph(&vae, Side::Decoder, 1, DType::F32)).expect("cut"));
    let grid = grid.expect("windows");
    // One pixel away; two, the same phase of a doubling; one latent, the same phase of all doublings.
    for away in [1, 2, f as usize] {
        let at_borders = |values: &[f32]| border_step(values, &grid, f, away);
        let (expected, found) = (at_borders(&whole), at_borders(&got));
        println!("step across borders over the step {away} away: whole {expected:.5}, exact {found:.5}");
        assert!((found / expected - 1.0).abs() <= tolerance::VAE_EXACT_BORDER, "{found} and {expected}");
        // What a seam of a hundredth would do.
        let seam = |i: usize, v: &f32| {
            let row = (i / 3) as u32 / (latents[1] * f) / f;
            v + if (0..grid.rows.count())
                .any(|k| k % 2 == 1 && (grid.rows.cell(k)[0]..grid.rows.cell(k)[1]).contains(&row))
            {
                0.01
            } else {
                0.0
            }
        };
        let spoiled: Vec<f32> = got.iter().enumerate().map(|(i, v)| seam(i, v)).collect();
        assert!((at_borders(&spoiled) / expected - 1.0).abs() > tolerance::VAE_EXACT_BORDER, "a seam would be seen");
    }
}

/// Mean step across borders of windows' cells, over the mean of the steps `away` pixels before and after them.
fn border_step(values: &[f32], grid: &Grid, scale: u32, away: usize) -> f64 {
    let width = (grid.cols.extent * scale) as usize;
    let at = |y: usize, x: usize| &values[(y * width + x) * 3..][..3];
    let (mut across, mut beside) = (0.0, 0.0);
    for (axis, along, down) in [(&grid.rows, grid.cols.extent, true), (&grid.cols, grid.rows.extent, false)] {
        for k in 1..axis.count() {
            let border = (axis.cell(k)[0] * scale) as usize;
            for i in 0..(along * scale) as usize {
                let step = |p: usize| -> f64 {
                    let (a, b) = if down { (at(p - 1, i), at(p, i)) } else { (at(i, p - 1), at(i, p)) };
                    a.iter().zip(b).map(|(a, b)| f64::from((a - b).abs())).sum()
                };
                across += step(border);
                beside += 0.5 * (step(border - away) + step(border + away));
            }
        }
    }
    across / beside
}

/// Upscales the example by 2.03 through the program with `arguments`; the picture's bytes.
fn upscaled(arguments: &[&str]) -> Vec<u8> {
    let folder = tempfile::tempdir().expect("folder");
    let out = folder.path().join("out.tif");
    let input = source::root().join("docs/example/astronaut_128.png");
    let (input, path) = (input.to_string_lossy().into_owned(), out.to_string_lossy().into_owned());
    let mut all = vec!["upscale", "-i", &input, "-o", &path, "-s", "2.03", "-g", "cpu", "--progress", "none"];
    all.extend(arguments);
    let run = program::run(&all);
    assert_eq!(run.code, Some(0), "{arguments:?}: {}", run.stderr);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("folder").flatten().map(|e| e.path()).collect();
    assert_eq!(left, std::slice::from_ref(&out), "nothing is left behind");
    std::fs::read(out).expect("a picture")
}

#[test]
fn the_program_upscales_in_every_mode_and_exact_is_the_same_wherever_states_live() {
    let exact = upscaled(&["--vae", "exact", "--tile", "128"]);
    assert!(upscaled(&["--vae", "exact", "--tile", "128", "--ram", "130MiB"]) == exact, "less memory, same bytes");
    for mode in ["whole", "shared", "tile", "auto"] {
        assert!(!upscaled(&["--vae", mode, "--tile", "128"]).is_empty(), "{mode}");
    }
    let report = program::run(&[
        "upscale",
        "-i",
        "docs/example/astronaut_128.png",
        "-s",
        "3",
        "-g",
        "cpu",
        "--vae",
        "exact",
        "--tile",
        "128",
        "--dry-run",
        "--json",
    ]);
    let report = report.json();
    assert_eq!(report["vae"], "exact");
    assert!(report["notes"].to_string().contains("states between norms"), "{report}");
}

#[test]
fn statistics_of_a_sample_make_no_seams() {
    let vae = Vae::shipped();
    let latents = [50, 61];
    let mut p = modes(&vae, Side::Decoder, latents, &exact(Keep::Host, 20));
    let whole = result(&vae, Side::Decoder, latents, &whole());
    p.blocks.clear();
    p.graphs.clear();
    let mut p = Program { grids: Vec::new(), statistics: Vec::new(), transient: Vec::new(), ..p };
    p.canvases.truncate(2);
    let tensors = |name: &str| vae.weights.read_f32(name);
    let part = Part {
        name: "vae",
        graph: &graph(&vae, Side::Decoder, 1, DType::F32),
        latents,
        tile: 20,
        batch: 1,
        feeds: vec![Feed { name: "latent_sample".into(), canvas: CanvasId(0), affine: [1.0, 0.0] }],
        output: CanvasId(1),
        attention: Attention::Global,
        tensors: &tensors,
    };
    let laid = vae_modes::lay(&mut p, &part).expect("lays");
    let sampled = vae_modes::proxy(&mut p, &part, &laid, Proxy::Mosaic([4; 2]), 40).expect("a proxy");
    vae_modes::shared(&mut p, &laid, &sampled.statistics).expect("shared");
    p.check().expect("a sound program");
    let got = run(cpu(), &vae, &p, TileOrder::Natural).0;
    let d = difference(&got, &whole);
    println!("shared and whole differ by {d:e}");
    assert!(d > 0.0 && d <= tolerance::VAE_SHARED, "{d:e}");
    // One function over the whole picture has no seams: at borders of windows it changes as it does elsewhere.
    let grid = p.grids[0].clone();
    let columns = (latents[1] * vae.net.factor()) as usize * 3;
    let error = |y: usize, x: usize| f64::from(got[y * columns + x] - whole[y * columns + x]);
    let mut steps = [0.0; 2];
    for k in 1..grid.rows.count() {
        let y = (grid.rows.cell(k)[0] * vae.net.factor()) as usize;
        for x in 0..columns {
            steps[0] += (error(y, x) - error(y - 1, x)).abs();
            steps[1] += 0.5 * (error(y - 1, x) - error(y - 2, x)).abs() + 0.5 * (error(y + 1, x) - error(y, x)).abs();
        }
    }
    println!("steps of the difference across borders and beside them: {steps:?}");
    assert!(steps[0] <= tolerance::VAE_BORDER * steps[1], "{steps:?}");
}

/// Executors in the program's type, and for one item in f32.
struct Wider {
    narrow: Vec<Executor>,
    wide: Vec<Executor>,
}

impl Executors for Wider {
    fn count(&self) -> usize {
        self.narrow.len()
    }

    fn executor(&mut self, graph: usize) -> tessera::Result<&mut Executor> {
        self.narrow.executor(graph)
    }

    fn host_bytes(&self) -> u64 {
        0
    }

    fn wide(&mut self, graph: usize) -> tessera::Result<Option<(&mut Executor, DType)>> {
        Ok(Some((self.wide.executor(graph)?, DType::F32)))
    }
}

#[test]
fn windows_beyond_f16_are_computed_again_in_f32_and_states_keep_their_values() {
    let vae = Vae::tiny("tiny_vae");
    let huge = |values: &mut [f32]| values.iter_mut().for_each(|v| *v *= 1e6);
    let compute = |dtype: DType, keep: Keep, batch: u32| {
        let program = modes(&vae, Side::Decoder, [13, 17], &Way { batch, dtype, ..exact(keep, 8) });
        let device = SharedDevice::new(cpu());
        let caps = device.caps();
        let load = |graph: Graph| {
            let plan = plan::compile(graph, &caps).expect("plans");
            let mut pack = |w: &PackedWeight| vae.weights.packed(&w.tensors, &w.packing, w.dtype);
            Executor::new(&device, plan, None, &mut pack).expect("loads")
        };
        let wider = |g: &Graph| change::widened(&change::with_items(g, 1).expect("one"), DType::F32).expect("wider");
        let narrow = program.graphs.iter().map(|g| load(g.clone())).collect();
        let wide = program.graphs.iter().map(|g| load(wider(g))).collect();
        let mut executors = Wider { narrow, wide };
        let mut interpreter = Interpreter::new(&program, &mut executors).expect("prepares");
        interpreter.set_spool(spool());
        let mut values = input(program.extent(CanvasId(0)), program.canvases[0].channels);
        huge(&mut values);
        interpreter.canvas_mut(CanvasId(0)).expect("whole").copy_from_slice(&values);
        let (cancel, order) = (Cancel::new(), TileOrder::Natural);
        let mut control = Control { observer: &mut Silent, cancel: &cancel, order, began: Instant::now() };
        let stats = interpreter.run(&mut Connections::default(), &mut control).expect("runs");
        (interpreter.canvas(CanvasId(1)).expect("whole").to_vec(), stats.redone)
    };
    let (want, none) = compute(DType::F32, Keep::Host, 1);
    assert_eq!(none, 0);
    let (first, redone) = compute(DType::F16, Keep::Host, 1);
    assert!(redone > 0);
    let error = difference(&first, &want);
    assert!(error < tolerance::VAE_WIDER, "{error:.1e}");
    for (keep, batch) in [(Keep::Host, 3), (Keep::Recompute, 1), (Keep::Spool, 2)] {
        assert!(compute(DType::F16, keep, batch).0 == first, "{keep:?} {batch}: the same bytes");
    }
}
