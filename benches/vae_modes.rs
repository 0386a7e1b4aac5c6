//! VAE modes side by side on the cpu backend:
//! `cargo bench --bench vae_modes -- vae=FOLDER picture=FILE [side=decoder] [size=1024] [tile=256] [only=NAME,..]`.
//!
//! Encodes or decodes one picture (enlarged or shrunk to a square; the decoder's latent is the encoder's mean of it)
//! in every mode and prints, as rows of a table: PSNR to `whole` (peak 2, as values run from -1 to 1; for latents the
//! largest less the least of `whole`), the mean step across borders of windows over the mean of the steps one pixel, two
//! pixels and one latent before and after them (`whole`, which has no borders, at the same places), seconds, the peak of the process's memory, bytes moved between states and the network, and a
//! hash of the result's bytes.

use std::path::PathBuf;
use std::time::Instant;
use tessera::backend::cpu::Cpu;
use tessera::error::{Error, Kind};
use tessera::graph::{DType, Graph};
use tessera::image::{self, colour, resample::Resampler};
use tessera::model::vae::AutoencoderKL;
use tessera::plan::command::{PackedWeight, Plan, SlotKind};
use tessera::run::connections::Connections;
use tessera::run::control::Control;
use tessera::run::executor::{Executor, SharedDevice};
use tessera::run::interpreter::Interpreter;
use tessera::run::{Cancel, Silent, TileOrder};
use tessera::system::Program;
use tessera::system::phase::{Block, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use tessera::system::program::{Canvas, CanvasId, Extent, GraphId, GridId, Ratio, Residency};
use tessera::system::vae_modes::{self, Attention, Feed, Keep, Part, Proxy};
use tessera::tile::geometry::{Placement, Tiling};
use tessera::tile::{Grid, Ramp};
use tessera::weights::Checkpoint;
use tessera::{Result, graph::cut, plan};

/// One row of the table.
#[derive(Clone, Copy, PartialEq)]
enum Mode {
    Whole,
    Exact(Keep),
    Shared(Proxy, u32),
    Tile(u32),
}

struct Job {
    net: AutoencoderKL,
    weights: Checkpoint,
    encoder: bool,
    latents: [u32; 2],
    tile: u32,
}

/// What one run gave.
struct Run {
    values: Vec<f32>,
    grid: Grid,
    seconds: f64,
    moved: u64,
    peak: u64,
}

fn usage(why: impl Into<String>) -> Error {
    Error::new(Kind::Usage, "bench", why.into())
}

/// The picture as a square of `side` pixels, values -1 to 1.
fn picture(path: &std::path::Path, side: u32) -> Result<Vec<f32>> {
    let mut source = image::open(path)?;
    let header = source.header();
    let (from, colour) = ((header.width, header.height), header.colour);
    let mut resampler = Resampler::new(from, (side.into(), side.into()), colour.channels())?;
    let mut wide = vec![0.0; resampler.row_len()];
    let n = side as usize;
    let (mut rgb, mut alpha) = (vec![0.0; 3 * n], vec![0.0; n]);
    let mut out = Vec::new();
    for _ in 0..side {
        resampler.next_row(|row| source.read_row(row), &mut wide)?;
        colour::split_row(colour, &wide, &mut rgb, &mut alpha);
        out.extend(rgb.iter().map(|v| 2.0 * v - 1.0));
    }
    Ok(out)
}

/// Largest resident size of the process since the last call, bytes; 0 where the system has no such count.
fn peak() -> u64 {
    let text = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|l| l.strip_prefix("VmHWM:"));
    let kib = line.and_then(|l| l.trim().strip_suffix("kB")?.trim().parse::<u64>().ok());
    kib.unwrap_or(0) * 1024
}

impl Job {
    fn factor(&self) -> u32 {
        self.net.factor()
    }

    fn graph(&self, window: u32) -> Result<Graph> {
        let f = self.factor();
        if self.encoder {
            self.net.build_encoder(1, window * f, window * f, DType::F32)
        } else {
            self.net.build_decoder(1, window, window, DType::F32)
        }
    }

    /// The program: canvas 0 in, canvas 1 out; and the grid whose borders are looked at, latents.
    fn program(&self, mode: Mode) -> Result<(Program, Grid)> {
        let f = self.factor();
        let pixels = self.latents.map(|v| v * f);
        let mut program = Program::new("vae", pixels, 0);
        let z = self.net.latent_channels();
        let ends = if self.encoder {
            [("in", pixels, 3), ("out", self.latents, 2 * z)]
        } else {
            [("in", self.latents, z), ("out", pixels, 3)]
        };
        for (name, extent, channels) in ends {
            let (extent, residency) = (Extent::Fixed(extent), Residency::Whole);
            program.canvases.push(Canvas { name: name.into(), extent, channels, residency });
        }
        let graph = self.graph(16)?;
        let tensors = |name: &str| self.weights.read_f32(name);
        let input = if self.encoder { "sample" } else { "latent_sample" };
        let part = Part {
            name: "vae",
            graph: &graph,
            latents: self.latents,
            tile: self.tile,
            batch: 1,
            feeds: vec![Feed { name: input.into(), canvas: CanvasId(0), affine: [1.0, 0.0] }],
            output: CanvasId(1),
            attention: Attention::Global,
            tensors: &tensors,
        };
        match mode {
            Mode::Whole => vae_modes::whole(&mut program, &part)?,
            Mode::Exact(keep) => {
                let laid = vae_modes::lay(&mut program, &part)?;
                let keep = vec![keep; laid.boundaries() + 1];
                vae_modes::exact(&mut program, &laid, &keep, false)?;
            }
            Mode::Shared(proxy, side) => {
                let laid = vae_modes::lay(&mut program, &part)?;
                let sampled = vae_modes::proxy(&mut program, &part, &laid, proxy, side)?;
                vae_modes::shared(&mut program, &laid, &sampled.statistics)?;
            }
            Mode::Tile(overlap) => {
                let (tile, placement) = (self.tile, Placement::Fitted);
                let tiling = Tiling { tile, overlap, stride: 1, quantum: 1, placement };
                let grid = Grid::new(self.latents[0], self.latents[1], &tiling)?;
                program.graphs.push(cut::resized(&graph, 1, [16, 16], [grid.rows.size, grid.cols.size])?);
                program.grids.push(grid);
                let (to, from) = (Ratio { num: f, den: 1 }, Ratio::ONE);
                let (from, to) = if self.encoder { (to, from) } else { (from, to) };
                let blend = Sink::Blend {
                    canvas: CanvasId(1),
                    ratio: to,
                    ramp: Ramp::Cosine,
                    halo: overlap / 8,
                    gains: vec![1.0],
                    last_step_only: false,
                };
                let crop = Source::Crop { canvas: CanvasId(0), ratio: from, gain: 1.0, shift: 0.0 };
                let output = program.graphs[0].outputs[0].0.clone();
                let phase = WindowPhase {
                    name: "tiles".into(),
                    graph: GraphId(0),
                    grid: GridId(0),
                    branches: 1,
                    contexts: Contexts::Branch,
                    sources: vec![(input.into(), crop)],
                    sinks: vec![(output, blend)],
                };
                let phases = vec![Phase::Windows(phase)];
                program.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
            }
        }
        program.check()?;
        // `whole` has one window; its steps are looked at where `exact` has borders.
        let grid = match mode {
            Mode::Whole => vae_modes::grid(self.latents, self.tile, vae_modes::halo(&graph)?)?,
            Mode::Exact(_) | Mode::Shared(..) | Mode::Tile(_) => program.grids[0].clone(),
        };
        Ok((program, grid))
    }

    fn run(&self, mode: Mode, input: &[f32], spool: &std::path::Path) -> Result<Run> {
        let (program, grid) = self.program(mode)?;
        // Asks Linux to count the peak anew; elsewhere nothing happens.
        let _ = std::fs::write("/proc/self/clear_refs", "5");
        let device = SharedDevice::new(Box::new(Cpu::new()?));
        let mut executors = Vec::new();
        let plan = |graph: &Graph| plan::compile(graph.clone(), &device.caps());
        let plans = program.graphs.iter().map(plan).collect::<Result<Vec<_>>>()?;
        // Segments run one after another, in one arena.
        let arena = |p: &Plan| p.slots.iter().find(|s| s.kind == SlotKind::Arena).map_or(0, |s| s.bytes);
        let arena = [plans.iter().map(arena).max().unwrap_or(0)];
        for plan in plans {
            let mut pack = |w: &PackedWeight| self.weights.packed(&w.tensors, &w.packing, w.dtype);
            executors.push(Executor::in_arena(&device, plan, Some("vae"), &mut pack, &arena)?);
        }
        let mut interpreter = Interpreter::new(&program, &mut executors)?;
        interpreter.set_spool(spool.to_owned());
        interpreter.canvas_mut(CanvasId(0))?.copy_from_slice(input);
        let cancel = Cancel::new();
        let began = Instant::now();
        let mut control = Control { observer: &mut Silent, cancel: &cancel, order: TileOrder::Natural, began };
        let stats = interpreter.run(&mut Connections::default(), &mut control)?;
        let seconds = began.elapsed().as_secs_f64();
        let values = interpreter.canvas(CanvasId(1))?.to_vec();
        Ok(Run { values, grid, seconds, moved: stats.moved, peak: peak() })
    }
}

/// Mean step across borders of windows' cells, over the mean of the steps `away` pixels before and after them. Borders lie at
/// whole latents, so that an even distance compares steps at the same phase of a doubling, and a latent's pixels (the
/// last one) at the same phase of all of them.
fn border(run: &Run, extent: [u32; 2], scale: u32, channels: usize, away: usize) -> f64 {
    let width = extent[1] as usize;
    let at = |y: usize, x: usize, c: usize| f64::from(run.values[(y * width + x) * channels + c]);
    let (mut across, mut beside) = (0.0, 0.0);
    let axes = [(&run.grid.rows, true), (&run.grid.cols, false)];
    for (axis, down) in axes {
        let along = if down { extent[1] } else { extent[0] } as usize;
        for k in 1..axis.count() {
            let border = (axis.cell(k)[0] * scale) as usize;
            for i in 0..along {
                for c in 0..channels {
                    let step = |p: usize| {
                        let (a, b) = if down { (at(p - 1, i, c), at(p, i, c)) } else { (at(i, p - 1, c), at(i, p, c)) };
                        (b - a).abs()
                    };
                    across += step(border);
                    beside += 0.5 * (step(border - away) + step(border + away));
                }
            }
        }
    }
    across / beside
}

fn psnr(a: &[f32], b: &[f32], peak: f64) -> f64 {
    let square = |(a, b): (&f32, &f32)| f64::from(a - b) * f64::from(a - b);
    let mse = a.iter().zip(b).map(square).sum::<f64>() / a.len() as f64;
    10.0 * (peak * peak / mse).log10()
}

/// Relative L2 difference.
fn relative(a: &[f32], b: &[f32]) -> f64 {
    let d: f64 = a.iter().zip(b).map(|(a, b)| f64::from(a - b).powi(2)).sum();
    let s: f64 = b.iter().map(|b| f64::from(*b).powi(2)).sum();
    (d / s).sqrt()
}

/// Tells results of different bytes apart (FNV-1a over the words).
fn hash(values: &[f32]) -> u32 {
    values.iter().fold(0x811c_9dc5, |h: u32, v| (h ^ v.to_bits()).wrapping_mul(0x0100_0193))
}

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let value = |name: &str| arguments.iter().find_map(|a| a.strip_prefix(&format!("{name}=")).map(str::to_owned));
    let number = |name: &str, otherwise: u32| match value(name) {
        Some(text) => text.parse().map_err(|_| usage(format!("{name}={text} is not a number"))),
        None => Ok(otherwise),
    };
    // Without arguments there is nothing to compare: `cargo bench` runs every bench.
    let (Some(folder), Some(file)) = (value("vae"), value("picture")) else {
        println!("vae_modes: name vae=FOLDER and picture=FILE");
        return Ok(());
    };
    let folder = PathBuf::from(folder);
    let text = std::fs::read_to_string(folder.join("config.json")).map_err(|e| usage(e.to_string()))?;
    let net = AutoencoderKL::from_config(&text)?;
    let (size, tile) = (number("size", 1024)?, number("tile", 256)?);
    let f = net.factor();
    let latents = [size / f; 2];
    let z = net.latent_channels() as usize;
    let encoder = value("side").as_deref() == Some("encoder");
    let mut job = Job { net, weights: Checkpoint::open(&folder)?, encoder: true, latents, tile: tile / f };
    let spool = std::env::temp_dir();

    let mut input = picture(PathBuf::from(file).as_path(), size / f * f)?;
    if !encoder {
        let moments = job.run(Mode::Exact(Keep::Host), &input, &spool)?;
        input = moments.values.chunks_exact(2 * z).flat_map(|p| p[..z].iter().copied()).collect();
        job.encoder = false;
    }
    let side = job.tile;
    let mut modes = vec![
        ("whole", Mode::Whole),
        ("exact, state in host memory", Mode::Exact(Keep::Host)),
        ("exact, state on the device", Mode::Exact(Keep::Device)),
        ("exact, state in the spool", Mode::Exact(Keep::Spool)),
        ("exact, recomputed", Mode::Exact(Keep::Recompute)),
        ("shared, mosaic of 2x2", Mode::Shared(Proxy::Mosaic([2; 2]), side)),
        ("shared, mosaic of 4x4", Mode::Shared(Proxy::Mosaic([4; 2]), side)),
        ("shared, mosaic of 4x4, twice the side", Mode::Shared(Proxy::Mosaic([4; 2]), 2 * side)),
        ("shared, downscaled", Mode::Shared(Proxy::Small, side)),
        ("shared, downscaled, twice the side", Mode::Shared(Proxy::Small, 2 * side)),
        ("tile", Mode::Tile((tile / 8).clamp(16, 32) / f)),
    ];
    if let Some(only) = value("only") {
        modes.retain(|(name, _)| *name == "whole" || only.split(',').any(|o| name.contains(o)));
    }
    println!(
        "| mode | PSNR to whole, dB | relative L2 | border step | 2 away | {f} away | seconds | peak MiB | MiB moved | bytes |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    let (scale, channels) = if encoder { (1, 2 * z) } else { (f, 3) };
    let extent = latents.map(|v| v * scale);
    let mut whole: Option<Run> = None;
    for (name, mode) in modes {
        let run = job.run(mode, &input, &spool)?;
        let reference = whole.as_ref().map_or(&run.values, |w| &w.values);
        let least = reference.iter().copied().fold(f32::INFINITY, f32::min);
        let largest = reference.iter().copied().fold(f32::NEG_INFINITY, f32::max);
        let peak = if encoder { f64::from(largest - least) } else { 2.0 };
        let db = match whole {
            Some(_) => format!("{:.1} | {:.1e}", psnr(&run.values, reference, peak), relative(&run.values, reference)),
            None => "- | -".into(),
        };
        let [step, two, latent] = [1, 2, f as usize].map(|away| border(&run, extent, scale, channels, away));
        let mib = |b: u64| b >> 20;
        let (peak, moved, hash) = (mib(run.peak), mib(run.moved), hash(&run.values));
        let steps = format!("{step:.4} | {two:.4} | {latent:.4}");
        println!("| {name} | {db} | {steps} | {:.2} | {peak} | {moved} | {hash:08x} |", run.seconds);
        if whole.is_none() {
            whole = Some(run);
        }
    }
    Ok(())
}
