//! Toy programs of the five shapes that published systems have. All of them run on the null backend, which
//! checks every launch; those that compute something simple run on cpu too and are compared with plain
//! loops over whole pictures.

use crate::tolerance;
use std::time::Instant;
use tessera::Result;
use tessera::abi::Caps;
use tessera::backend::Backend;
use tessera::backend::null::Null;
use tessera::graph::op::{Attention, Conv2d, Padding, Pointwise, TimeEmbedding};
use tessera::graph::{Act, Builder, DType, Graph, Lifetime, Op, Shape};
use tessera::plan::{self, command::PackedWeight};
use tessera::run::connections::{Connections, RowsOut};
use tessera::run::control::Control;
use tessera::run::executor::{Executor, SharedDevice};
use tessera::run::interpreter::{Interpreter, RunStats};
use tessera::run::{Cancel, Silent, TileOrder};
use tessera::system::Program;
use tessera::system::phase::{Block, CanvasOp, Coefficient, Contexts, Nesting, Phase, Sink, Source, WindowPhase};
use tessera::system::program::{
    Affine, Canvas, CanvasId, Extent, GraphId, GridId, Ratio, Residency, Saved, SavedId, Statistic, StatisticId, Table,
    TableId,
};
use tessera::system::schedule::{BetaSchedule, Prediction, Schedule, alphas_cumprod, trailing};
use tessera::tile::geometry::{Placement, Tiling};
use tessera::tile::{Grid, Ramp};
use tessera::weights::recipe;

/// A value for element `i` of the tensor called `name`, in -0.5..0.5.
fn weight(name: &str, i: usize) -> f32 {
    let mut h = name.bytes().fold(i as u32 ^ 0x9e37, |h, b| (h ^ u32::from(b)).wrapping_mul(0x0100_0193));
    h ^= h >> 15;
    h = h.wrapping_mul(0x2c1b_3c6d);
    h ^= h >> 12;
    (h & 0xffff) as f32 / 65_536.0 - 0.5
}

fn tensor(graph: &Graph, name: &str) -> Vec<f32> {
    let decl = graph.weights.iter().find(|w| w.name == name).expect("declared");
    (0..decl.shape.iter().product::<u64>() as usize).map(|i| weight(name, i)).collect()
}

/// Runs `program` on `backend`; `fill` sets whole canvases first, `look` sees them afterwards.
fn run_on(
    backend: Box<dyn Backend>,
    program: &Program,
    order: TileOrder,
    fill: impl FnOnce(&mut Interpreter<'_>),
    look: impl FnOnce(&Interpreter<'_>),
) -> Result<RunStats> {
    run_connected(backend, program, order, &mut Connections::default(), fill, look)
}

/// The same with rows connected.
fn run_connected(
    backend: Box<dyn Backend>,
    program: &Program,
    order: TileOrder,
    io: &mut Connections<'_>,
    fill: impl FnOnce(&mut Interpreter<'_>),
    look: impl FnOnce(&Interpreter<'_>),
) -> Result<RunStats> {
    let device = SharedDevice::new(backend);
    let caps = device.caps();
    let mut executors = Vec::new();
    for graph in &program.graphs {
        let plan = plan::compile(graph.clone(), &caps)?;
        let mut pack = |w: &PackedWeight| {
            let data: Vec<Option<(&str, Vec<f32>)>> =
                w.tensors.iter().map(|n| n.as_deref().map(|n| (n, tensor(graph, n)))).collect();
            let sources: Vec<Option<recipe::Tensor<'_>>> =
                data.iter().map(|d| d.as_ref().map(|(name, v)| recipe::Tensor { name, values: v })).collect();
            recipe::pack(&sources, &w.packing, w.dtype)
        };
        executors.push(Executor::new(&device, plan, None, &mut pack)?);
    }
    let before = device.allocated();
    let mut interpreter = Interpreter::new(program, &mut executors)?;
    fill(&mut interpreter);
    let cancel = Cancel::new();
    let mut control = Control { observer: &mut Silent, cancel: &cancel, order, began: Instant::now() };
    let stats = interpreter.run(io, &mut control)?;
    look(&interpreter);
    assert_eq!(device.allocated(), before, "nothing is allocated on the device after warm-up");
    drop(interpreter);
    drop(executors);
    assert_eq!(device.allocated(), 0, "everything is given back");
    Ok(stats)
}

fn null() -> Box<dyn Backend> {
    Box::new(Null::new(Caps::cpu()))
}

fn canvas(name: &str, channels: u32, num: u32, den: u32) -> Canvas {
    Canvas { name: name.into(), extent: Extent::OfTarget { num, den }, channels, residency: Residency::Whole }
}

fn tiling(tile: u32, overlap: u32, stride: u32) -> Tiling {
    Tiling { tile, overlap, stride, quantum: stride, placement: Placement::Packed }
}

fn crop(canvas: usize, ratio: Ratio) -> Source {
    Source::Crop { canvas: CanvasId(canvas), ratio, gain: 1.0, shift: 0.0 }
}

fn blend(canvas: usize, ramp: Ramp, halo: u32, gains: &[f32]) -> Sink {
    let gains = gains.to_vec();
    Sink::Blend { canvas: CanvasId(canvas), ratio: Ratio::ONE, ramp, halo, gains, last_step_only: false }
}

fn phase(name: &str, graph: usize, sources: Vec<(&str, Source)>, sinks: Vec<(&str, Sink)>) -> WindowPhase {
    WindowPhase {
        name: name.into(),
        graph: GraphId(graph),
        grid: GridId(0),
        branches: 1,
        contexts: Contexts::Branch,
        sources: sources.into_iter().map(|(n, s)| (n.to_owned(), s)).collect(),
        sinks: sinks.into_iter().map(|(n, s)| (n.to_owned(), s)).collect(),
    }
}

/// A smooth picture with a step in it.
fn texture(values: &mut [f32], width: usize, channels: usize) {
    for (i, v) in values.iter_mut().enumerate() {
        let (y, x, c) = (i / channels / width, i / channels % width, i % channels);
        *v = ((y as f32) * 0.3 + c as f32).sin() * 0.5 + (x as f32 * 0.17).cos() * 0.4 + f32::from(u8::from(x > 20));
    }
}

/// `y[p] = bias + sum w * x`, 3x3, zero padding, whole picture, f64.
fn plain_conv(graph: &Graph, name: &str, x: &[f64], [h, w]: [usize; 2], [ci, co]: [usize; 2]) -> Vec<f64> {
    let (weights, bias) = (tensor(graph, &format!("{name}.weight")), tensor(graph, &format!("{name}.bias")));
    let mut y = vec![0.0; h * w * co];
    for (p, out) in y.chunks_exact_mut(co).enumerate() {
        for (o, v) in out.iter_mut().enumerate() {
            *v = f64::from(bias[o]);
            for (ky, kx) in (0..3).flat_map(|ky| (0..3).map(move |kx| (ky, kx))) {
                let (sy, sx) = ((p / w + ky).wrapping_sub(1), (p % w + kx).wrapping_sub(1));
                if sy < h && sx < w {
                    for c in 0..ci {
                        *v += f64::from(weights[((o * ci + c) * 3 + ky) * 3 + kx]) * x[(sy * w + sx) * ci + c];
                    }
                }
            }
        }
    }
    y
}

fn worst(got: &[f32], want: &[f64]) -> f64 {
    assert_eq!(got.len(), want.len());
    got.iter().zip(want).map(|(g, w)| (f64::from(*g) - w).abs()).fold(0.0, f64::max)
}

// ---------------------------------------------------------------- 1. MultiDiffusion with guidance

const STEPS: u32 = 3;
const GUIDANCE: f32 = 2.5;

/// Predicts noise: a convolution, and what attention over the one token of the branch's context gives (the
/// token's values themselves). With `time`, a time embedding goes through a row bias as well.
fn denoiser(batch: u32, time: bool) -> Graph {
    let mut b = Builder::new(format!("denoiser b{batch}"), DType::F32);
    let x = b.input("sample", Shape::new(batch, 16, 16, 8), DType::F32, Lifetime::Window);
    let keys = b.input("keys", Shape::new(2, 1, 1, 8), DType::F32, Lifetime::Context);
    let tokens = b.input("tokens", Shape::new(2, 1, 1, 8), DType::F32, Lifetime::Context);
    let y = if time {
        let t = b.input("timestep", Shape::new(STEPS, 1, 1, 1), DType::F32, Lifetime::Step);
        let op = TimeEmbedding { dim: 16, flip_sin_to_cos: true, freq_shift: 0.0, max_period: 10_000.0 };
        let t = b.time_embedding("time", t, op).expect("embedding");
        let t = b.linear("time_proj", t, 8, true).expect("linear");
        let weight = b.weight("conv.weight", &[8, 8, 3, 3]);
        let bias = Some(b.weight("conv.bias", &[8]));
        let op = Conv2d {
            weight,
            bias,
            out_channels: 8,
            kernel: [3, 3],
            stride: 1,
            padding: Padding::all(1),
            upsample: None,
            second: false,
            row_bias: true,
            residual: false,
            act: Act::None,
        };
        b.push("conv", Op::Conv2d(op), &[x, t]).expect("conv")
    } else {
        b.conv("conv", x, 8, 3, 1, Padding::all(1)).expect("conv")
    };
    let op = Attention {
        heads: 1,
        head_dim: 8,
        scale: 0.35,
        q_offset: 0,
        k_offset: 0,
        v_offset: 0,
        causal: false,
        rows: false,
        relative: None,
    };
    let a = b.push("attention", Op::Attention(op), &[x, keys, tokens]).expect("attention");
    let sum = b.add("sum", y, a).expect("sum");
    b.output("noise", sum);
    b.finish()
}

fn multidiffusion(batch: u32, time: bool) -> Program {
    let mut p = Program::new("multidiffusion", [24, 40], 11);
    p.canvases.extend([canvas("latent", 8, 1, 1), canvas("noise", 8, 1, 1)]);
    p.grids.push(Grid::new(24, 40, &tiling(16, 8, 1)).expect("grid"));
    p.graphs.push(denoiser(batch, time));
    let schedule = Schedule {
        alphas_cumprod: alphas_cumprod(BetaSchedule::ScaledLinear, 0.00085, 0.012, 1000),
        prediction: Prediction::Epsilon,
    };
    let steps = trailing(1000, STEPS);
    let mut coefficients = Vec::new();
    for (i, &t) in steps.iter().enumerate() {
        let [a, b] = schedule.ddim(t, steps.get(i + 1).copied()).expect("inside");
        coefficients.extend([a as f32, b as f32]);
    }
    p.tables.push(Table { name: "steps".into(), width: 2, values: coefficients });
    p.tables.push(Table { name: "t".into(), width: 1, values: steps.iter().map(|&t| t as f32).collect() });
    p.tables.push(Table { name: "contexts".into(), width: 8, values: (0..16).map(|i| weight("ctx", i)).collect() });
    let mut sources = vec![
        ("sample", crop(0, Ratio::ONE)),
        ("keys", Source::Table(TableId(2))),
        ("tokens", Source::Table(TableId(2))),
    ];
    if time {
        sources.push(("timestep", Source::Table(TableId(1))));
    }
    // Branch 0 is conditional: uncond + w (cond - uncond).
    let sinks = vec![("noise", blend(1, Ramp::Gaussian, 0, &[GUIDANCE, 1.0 - GUIDANCE]))];
    let denoise = WindowPhase { branches: 2, ..phase("denoise", 0, sources, sinks) };
    let step = CanvasOp::Combine {
        to: CanvasId(0),
        terms: vec![(CanvasId(0), Coefficient::Step(TableId(0), 0)), (CanvasId(1), Coefficient::Step(TableId(0), 1))],
        noise: None,
        constant: 0.0,
        clamp: None,
    };
    let start = CanvasOp::Combine {
        to: CanvasId(0),
        terms: Vec::new(),
        noise: Some((0, 0, Coefficient::Value(1.0))),
        constant: 0.0,
        clamp: None,
    };
    p.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases: vec![Phase::Canvas(start)] });
    let phases = vec![Phase::Windows(denoise), Phase::Canvas(step)];
    p.blocks.push(Block { steps: STEPS, nesting: Nesting::StepOutside, phases });
    p
}

#[test]
fn multidiffusion_runs_on_null() {
    for batch in [1, 2, 3, 8] {
        let program = multidiffusion(batch, true);
        let stats = run_on(null(), &program, TileOrder::Natural, |_| {}, |_| {}).expect("runs");
        let windows = program.grids[0].count() as u64;
        assert_eq!(stats.items, windows * 2 * u64::from(STEPS));
        assert_eq!(stats.launches, (windows * 2).div_ceil(u64::from(batch)) * u64::from(STEPS));
    }
}

// ---------------------------------------------------------------- 2. Exchange across tiles

fn exchange(batch: u32) -> Program {
    let mut p = Program::new("exchange", [48, 80], 1);
    p.canvases.extend([canvas("picture", 8, 1, 1), canvas("result", 8, 1, 1)]);
    p.grids.push(Grid::new(48, 80, &tiling(32, 8, 2)).expect("grid"));
    let tiles = p.grids[0].count() as u32;
    let shape = Shape::new(batch, 32, 32, 8);
    // Pass 1: what a tile tells the others is a quarter of its features.
    let mut b = Builder::new("tell", DType::F32);
    let x = b.input("x", shape, DType::F32, Lifetime::Window);
    let y = b.conv("features", x, 8, 3, 1, Padding::all(1)).expect("conv");
    let told = b.conv("pool", y, 8, 3, 2, Padding::all(1)).expect("conv");
    b.output("told", told);
    p.graphs.push(b.finish());
    // Pass 2: every pixel attends to what all tiles told.
    let mut b = Builder::new("listen", DType::F32);
    let x = b.input("x", shape, DType::F32, Lifetime::Window);
    let all = b.input("all", Shape::new(1, 1, tiles * 16 * 16, 8), DType::F32, Lifetime::Context);
    let q = b.linear("q", x, 8, false).expect("linear");
    let k = b.linear("k", all, 8, false).expect("linear");
    let v = b.linear("v", all, 8, false).expect("linear");
    let a = b.attention("attention", [q, k, v], 1, 0.35).expect("attention");
    let y = b.add("sum", x, a).expect("sum");
    b.output("y", y);
    p.graphs.push(b.finish());
    p.saved.push(Saved { name: "told".into(), grid: GridId(0), shape: Shape::new(1, 16, 16, 8) });
    let tell = phase(
        "tell",
        0,
        vec![("x", crop(0, Ratio::ONE))],
        vec![("told", Sink::Save { saved: SavedId(0), gains: vec![1.0] })],
    );
    let listen = phase(
        "listen",
        1,
        vec![("x", crop(0, Ratio::ONE)), ("all", Source::Gather(SavedId(0)))],
        vec![("y", blend(1, Ramp::Linear, 0, &[1.0]))],
    );
    let phases = vec![Phase::Windows(tell), Phase::Windows(listen)];
    p.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
    p
}

#[test]
fn exchange_across_tiles_runs_on_null() {
    for batch in [1, 4] {
        let stats = run_on(null(), &exchange(batch), TileOrder::Reversed, |_| {}, |_| {}).expect("runs");
        assert_eq!(stats.launches, 2 * 6u64.div_ceil(u64::from(batch)));
    }
}

// ---------------------------------------------------------------- 3. A barrier at every norm

const HALO: u32 = 2;

fn exact_norm(batch: u32) -> Program {
    let mut p = Program::new("exact", [40, 56], 1);
    p.canvases.extend([canvas("picture", 3, 1, 1), canvas("result", 3, 1, 1)]);
    p.grids.push(Grid::new(40, 56, &tiling(24, 8, 1)).expect("grid"));
    let mut b = Builder::new("before", DType::F32);
    let x = b.input("x", Shape::new(batch, 24, 24, 3), DType::F32, Lifetime::Window);
    let y = b.conv("conv1", x, 8, 3, 1, Padding::all(1)).expect("conv");
    b.output("y", y);
    p.graphs.push(b.finish());
    let mut b = Builder::new("after", DType::F32);
    let x = b.input("x", Shape::new(batch, 24, 24, 8), DType::F32, Lifetime::Window);
    let x = b.activation("silu", x, Act::Silu).expect("silu");
    let y = b.conv("conv2", x, 3, 3, 1, Padding::all(1)).expect("conv");
    b.output("y", y);
    p.graphs.push(b.finish());
    p.saved.push(Saved { name: "state".into(), grid: GridId(0), shape: Shape::new(1, 24, 24, 8) });
    p.statistics.push(Statistic { name: "norm".into(), channels: 8 });
    let before = phase(
        "before",
        0,
        vec![("x", crop(0, Ratio::ONE))],
        vec![
            ("y", Sink::Save { saved: SavedId(0), gains: vec![1.0] }),
            ("y", Sink::Moments { statistic: StatisticId(0), ratio: Ratio::ONE }),
        ],
    );
    let affine = Affine::GroupNorm {
        of: StatisticId(0),
        groups: 2,
        eps: 1e-6,
        weight: (0..8).map(|i| 1.0 + weight("norm.weight", i)).collect(),
        bias: (0..8).map(|i| weight("norm.bias", i)).collect(),
    };
    let after = phase(
        "after",
        1,
        vec![("x", Source::Saved { saved: SavedId(0), affine: Some(affine), initial: None })],
        vec![("y", blend(1, Ramp::Linear, HALO, &[1.0]))],
    );
    let phases = vec![Phase::Windows(before), Phase::Windows(after)];
    p.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
    p
}

/// The same on the whole picture.
fn exact_norm_plain(program: &Program, picture: &[f32]) -> Vec<f64> {
    let x: Vec<f64> = picture.iter().map(|&v| f64::from(v)).collect();
    let mut y = plain_conv(&program.graphs[0], "conv1", &x, [40, 56], [3, 8]);
    for g in 0..2 {
        let of = |c: usize| c / 4 == g;
        let values: Vec<f64> = y.iter().enumerate().filter(|(i, _)| of(i % 8)).map(|(_, v)| *v).collect();
        let mean = values.iter().sum::<f64>() / values.len() as f64;
        let var = values.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / values.len() as f64;
        for (i, v) in y.iter_mut().enumerate().filter(|(i, _)| of(i % 8)) {
            let c = i % 8;
            let (w, b) = (1.0 + f64::from(weight("norm.weight", c)), f64::from(weight("norm.bias", c)));
            let n = (*v - mean) / (var + 1e-6).sqrt() * w + b;
            *v = n / (1.0 + (-n).exp());
        }
    }
    plain_conv(&program.graphs[1], "conv2", &y, [40, 56], [8, 3])
}

#[test]
fn a_barrier_at_a_norm_runs_on_null() {
    let stats = run_on(null(), &exact_norm(2), TileOrder::Shuffled(5), |_| {}, |_| {}).expect("runs");
    assert_eq!(stats.items, 2 * exact_norm(2).grids[0].count() as u64);
}

// ---------------------------------------------------------------- 4. A cascade with a colour statistic

fn cascade(batch: u32) -> Program {
    let mut p = Program::new("cascade", [64, 96], 3);
    // Input, then enlarged and refined pictures of three stages (x2, x4, x8 of 8x12), the last twice.
    p.canvases.push(canvas("input", 3, 1, 8));
    for (stage, den) in [(1, 4), (2, 2), (3, 1)] {
        p.canvases.push(canvas(&format!("enlarged{stage}"), 3, 1, den));
        p.canvases.push(canvas(&format!("refined{stage}"), 3, 1, den));
    }
    p.statistics.push(Statistic { name: "colour of the result".into(), channels: 3 });
    p.statistics.push(Statistic { name: "colour of the input".into(), channels: 3 });
    let mut phases = vec![];
    for stage in 0..3usize {
        let (from, enlarged, refined) = (stage * 2, stage * 2 + 1, stage * 2 + 2);
        let [h, w] = p.extent(CanvasId(enlarged));
        p.grids.push(Grid::new(h, w, &tiling(16, 4, 2)).expect("grid"));
        let mut b = Builder::new(format!("stage{stage}"), DType::F32);
        let x = b.input("x", Shape::new(batch, 16, 16, 3), DType::F32, Lifetime::Window);
        let y = b.conv("conv", x, 3, 3, 1, Padding::all(1)).expect("conv");
        let y = b.add("sum", x, y).expect("sum");
        b.output("y", y);
        p.graphs.push(b.finish());
        phases.push(Phase::Canvas(CanvasOp::Resize { from: CanvasId(from), to: CanvasId(enlarged) }));
        let refine = phase(
            "refine",
            stage,
            vec![("x", crop(enlarged, Ratio::ONE))],
            vec![("y", blend(refined, Ramp::Cosine, 0, &[1.0]))],
        );
        phases.push(Phase::Windows(WindowPhase { grid: GridId(stage), ..refine }));
    }
    phases.push(Phase::Canvas(CanvasOp::Moments { from: CanvasId(6), to: StatisticId(0) }));
    phases.push(Phase::Canvas(CanvasOp::Moments { from: CanvasId(0), to: StatisticId(1) }));
    let affine = Affine::Match { of: StatisticId(0), like: StatisticId(1), eps: 1e-5 };
    phases.push(Phase::Canvas(CanvasOp::Affine { from: CanvasId(6), affine, to: CanvasId(6) }));
    p.blocks.push(Block { steps: 1, nesting: Nesting::StepOutside, phases });
    p
}

fn mean_and_deviation(values: &[f32], channel: usize) -> [f64; 2] {
    let v: Vec<f64> = values.iter().skip(channel).step_by(3).map(|&v| f64::from(v)).collect();
    let mean = v.iter().sum::<f64>() / v.len() as f64;
    [mean, (v.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (v.len() - 1) as f64).sqrt()]
}

#[test]
fn a_cascade_runs_on_null() {
    let program = cascade(2);
    let stats = run_on(null(), &program, TileOrder::Natural, |_| {}, |_| {}).expect("runs");
    assert_eq!(stats.items, program.grids.iter().map(|g| g.count() as u64).sum::<u64>());
}

// ---------------------------------------------------------------- 5. Pixel tiles of T steps each

const TILE_STEPS: u32 = 4;

/// Each step: `state = a[t] * state + b[t] * condition`, coefficients from a table on the device.
fn pixel_tiles(batch: u32) -> Program {
    let mut p = Program::new("pixel tiles", [30, 50], 77);
    p.canvases.extend([canvas("condition", 3, 1, 1), canvas("result", 3, 1, 1)]);
    p.grids.push(Grid::new(30, 50, &tiling(16, 4, 1)).expect("grid"));
    let shape = Shape::new(batch, 16, 16, 3);
    let mut b = Builder::new("step", DType::F32);
    let state = b.input("state", shape, DType::F32, Lifetime::Window);
    let condition = b.input("condition", shape, DType::F32, Lifetime::Window);
    let table = b.input("table", Shape::new(TILE_STEPS, 1, 1, 2), DType::F32, Lifetime::Step);
    let op = Pointwise { alpha: 0.0, beta: Some(0.0), gamma: 0.0, act: Act::None, clamp: None, table: true };
    let next = b.push("next", Op::Pointwise(op), &[state, condition, table]).expect("step");
    b.output("next", next);
    p.graphs.push(b.finish());
    p.saved.push(Saved { name: "state".into(), grid: GridId(0), shape: Shape::new(1, 16, 16, 3) });
    let values = (0..TILE_STEPS as usize * 2).map(|i| 0.5 + weight("coefficients", i)).collect();
    p.tables.push(Table { name: "steps".into(), width: 2, values });
    let initial = Some(Box::new(Source::Noise { stage: 0, purpose: 3, gain: 0.25 }));
    let step = phase(
        "step",
        0,
        vec![
            ("state", Source::Saved { saved: SavedId(0), affine: None, initial }),
            ("condition", crop(0, Ratio::ONE)),
            ("table", Source::Table(TableId(0))),
        ],
        vec![
            ("next", Sink::Save { saved: SavedId(0), gains: vec![1.0] }),
            (
                "next",
                Sink::Blend {
                    canvas: CanvasId(1),
                    ratio: Ratio::ONE,
                    ramp: Ramp::Cosine,
                    halo: 0,
                    gains: vec![1.0],
                    last_step_only: true,
                },
            ),
        ],
    );
    let phases = vec![Phase::Windows(step)];
    p.blocks.push(Block { steps: TILE_STEPS, nesting: Nesting::WindowOutside, phases });
    p
}

#[test]
fn pixel_tiles_run_on_null() {
    for batch in [1, 3] {
        let program = pixel_tiles(batch);
        let stats = run_on(null(), &program, TileOrder::Natural, |_| {}, |_| {}).expect("runs");
        assert_eq!(stats.items, program.grids[0].count() as u64 * u64::from(TILE_STEPS));
    }
}

#[test]
fn what_does_not_fit_is_refused_before_anything_runs() {
    let refused = |change: &dyn Fn(&mut Program), what: &str| {
        let mut p = pixel_tiles(1);
        change(&mut p);
        let e = p.check().expect_err(what);
        assert!(e.to_string().contains(what), "{e}");
    };
    refused(&|p| p.tables[0].values.truncate(6), "rows");
    refused(&|p| p.canvases[1].channels = 4, "does not cover");
    refused(&|p| p.saved[0].shape.c = 4, "state");
    refused(&|p| p.blocks[0].steps = 0, "no steps");
    let mut p = multidiffusion(1, true);
    p.canvases[0].residency = Residency::Band;
    assert!(p.check().is_err(), "three passes read the latent");
    let mut p = exact_norm(1);
    p.blocks[0].nesting = Nesting::WindowOutside;
    p.check().expect("two phases over one grid may share a loop over windows");
    let mut p = multidiffusion(1, true);
    p.blocks[1].nesting = Nesting::WindowOutside;
    assert!(p.check().is_err(), "a canvas operation needs all windows");
    let mut p = cascade(1);
    p.canvases[6].residency = Residency::Band;
    assert!(p.check().is_err(), "statistics need the whole canvas");
}

// ---------------------------------------------------------------- The same on cpu, against plain loops

fn cpu() -> Box<dyn Backend> {
    Box::new(tessera::backend::cpu::Cpu::new().expect("cpu"))
}

/// Runs on cpu and returns the values of a canvas.
fn result(program: &Program, order: TileOrder, picture: Option<(usize, usize, usize)>, out: usize) -> Vec<f32> {
    let mut values = Vec::new();
    let fill = |i: &mut Interpreter<'_>| {
        if let Some((id, width, channels)) = picture {
            texture(i.canvas_mut(CanvasId(id)).expect("whole"), width, channels);
        }
    };
    let look = |i: &Interpreter<'_>| values.extend_from_slice(i.canvas(CanvasId(out)).expect("whole"));
    run_on(cpu(), program, order, fill, look).expect("runs");
    values
}

#[test]
fn multidiffusion_equals_a_plain_loop() {
    let program = multidiffusion(1, false);
    let ([h, w], tile) = ([24usize, 40usize], 16usize);
    let key = program.noise_key(0, 0, 0);
    let mut latent: Vec<f64> = (0..h * w * 8)
        .map(|i| {
            let (p, c) = (i / 8, i % 8);
            f64::from(tessera::noise::normal(key, (p / w) as u32, (p % w) as u32, c as u32))
        })
        .collect();
    let context = |branch: usize, c: usize| f64::from(weight("ctx", branch * 8 + c));
    let origins = |n: usize| (0..).map(|i| i * 8).take_while(move |o| o + tile <= n);
    for step in 0..STEPS as usize {
        let (mut sum, mut total) = (vec![0.0; latent.len()], vec![0.0; latent.len()]);
        for (oy, ox) in origins(h).flat_map(|y| origins(w).map(move |x| (y, x))) {
            let at = |y: usize, x: usize| ((oy + y) * w + ox + x) * 8;
            let mut x = Vec::new();
            for (y, col) in (0..tile).flat_map(|y| (0..tile).map(move |x| (y, x))) {
                x.extend_from_slice(&latent[at(y, col)..at(y, col) + 8]);
            }
            let conv = plain_conv(&program.graphs[0], "conv", &x, [tile, tile], [8, 8]);
            let gauss = |i: usize| (-(i as f64 - 7.5).powi(2) / (256.0 * 2.0 * 0.01)).exp();
            for (i, v) in conv.iter().enumerate() {
                let (y, col, c) = (i / 8 / tile, i / 8 % tile, i % 8);
                let weight = gauss(y) * gauss(col);
                let (cond, uncond) = (v + context(0, c), v + context(1, c));
                let guided = uncond + f64::from(GUIDANCE) * (cond - uncond);
                sum[at(y, col) + c] += weight * guided;
                total[at(y, col) + c] += weight;
            }
        }
        let row = program.tables[0].row(step);
        for ((l, s), t) in latent.iter_mut().zip(&sum).zip(&total) {
            *l = f64::from(row[0]) * *l + f64::from(row[1]) * (s / t);
        }
    }
    let first = result(&program, TileOrder::Natural, None, 0);
    let scale = latent.iter().fold(0.0f64, |m, v| m.max(v.abs()));
    // The weights are rounded to 1/4096 per axis, so this is a comparison of blends, not of bits.
    assert!(worst(&first, &latent) / scale < tolerance::TOYS_BLEND, "{} of {scale}", worst(&first, &latent));
    for (batch, order) in [(2, TileOrder::Natural), (3, TileOrder::Shuffled(4)), (8, TileOrder::Reversed)] {
        let other = result(&multidiffusion(batch, false), order, None, 0);
        assert!(first == other, "batch {batch}, {order:?}: the same bits");
    }
}

#[test]
fn tiles_with_pooled_statistics_equal_the_whole_picture() {
    let program = exact_norm(1);
    let mut picture = vec![0.0; 40 * 56 * 3];
    texture(&mut picture, 56, 3);
    let want = exact_norm_plain(&program, &picture);
    let first = result(&program, TileOrder::Natural, Some((0, 56, 3)), 1);
    assert!(worst(&first, &want) < tolerance::TOYS, "{}", worst(&first, &want));
    for (batch, order) in [(2, TileOrder::Shuffled(1)), (4, TileOrder::Reversed)] {
        let other = result(&exact_norm(batch), order, Some((0, 56, 3)), 1);
        assert!(first == other, "batch {batch}, {order:?}: the same bits");
    }
}

#[test]
fn an_exchange_across_tiles_does_not_depend_on_the_order() {
    let first = result(&exchange(1), TileOrder::Natural, Some((0, 80, 8)), 1);
    let alone = {
        // Without what the other tiles told, the result is another.
        let mut p = exchange(1);
        p.blocks[0].phases.remove(0);
        result(&p, TileOrder::Natural, Some((0, 80, 8)), 1)
    };
    assert!(first.iter().zip(&alone).any(|(a, b)| (a - b).abs() > tolerance::TOYS_CHANGE));
    for (batch, order) in [(4, TileOrder::Natural), (2, TileOrder::Reversed)] {
        assert!(first == result(&exchange(batch), order, Some((0, 80, 8)), 1), "batch {batch}, {order:?}");
    }
}

#[test]
fn a_cascade_ends_with_the_colours_of_its_input() {
    let mut input = vec![0.0; 8 * 12 * 3];
    texture(&mut input, 12, 3);
    let out = result(&cascade(1), TileOrder::Natural, Some((0, 12, 3)), 6);
    for channel in 0..3 {
        let (a, b) = (mean_and_deviation(&input, channel), mean_and_deviation(&out, channel));
        assert!((a[0] - b[0]).abs() < tolerance::TOYS && (a[1] - b[1]).abs() < tolerance::TOYS, "{a:?} {b:?}");
    }
    assert!(out == result(&cascade(3), TileOrder::Reversed, Some((0, 12, 3)), 6));
}

#[test]
fn pixel_tiles_equal_a_plain_loop() {
    let program = pixel_tiles(1);
    let (h, w) = (30usize, 50usize);
    let mut condition = vec![0.0; h * w * 3];
    texture(&mut condition, w, 3);
    let key = program.noise_key(0, 3, 0);
    let mut want: Vec<f64> = (0..h * w * 3)
        .map(|i| 0.25 * f64::from(tessera::noise::normal(key, (i / 3 / w) as u32, (i / 3 % w) as u32, (i % 3) as u32)))
        .collect();
    for step in 0..TILE_STEPS as usize {
        let row = program.tables[0].row(step);
        for (v, c) in want.iter_mut().zip(&condition) {
            *v = f64::from(row[0]) * *v + f64::from(row[1]) * f64::from(*c);
        }
    }
    let first = result(&program, TileOrder::Natural, Some((0, w, 3)), 1);
    assert!(worst(&first, &want) < tolerance::TOYS, "{}", worst(&first, &want));
    for (batch, order) in [(2, TileOrder::Reversed), (4, TileOrder::Natural)] {
        assert!(first == result(&pixel_tiles(batch), order, Some((0, w, 3)), 1), "batch {batch}, {order:?}");
    }
}

/// Keeps every point that is offered, and gives one back.
#[derive(Default)]
struct Points {
    kept: Vec<(u64, Vec<Vec<u8>>)>,
    given: Option<(u64, Vec<Vec<u8>>)>,
    rows: Vec<f32>,
}

impl RowsOut for Points {
    fn put_row(&mut self, _: u32, row: &[f32]) -> Result<()> {
        self.rows.extend_from_slice(row);
        Ok(())
    }

    fn wants_point(&mut self) -> Result<bool> {
        Ok(true)
    }

    fn save_point(&mut self, at: u64, states: &[&[u8]]) -> Result<()> {
        self.kept.push((at, states.iter().map(|s| s.to_vec()).collect()));
        Ok(())
    }

    fn point(&self) -> Option<u64> {
        self.given.as_ref().map(|(at, _)| *at)
    }

    fn load_point(&mut self, lengths: &[usize]) -> Result<Option<Vec<Vec<u8>>>> {
        let given = self.given.as_ref().map(|(_, states)| states.clone());
        Ok(given.filter(|states| states.iter().map(Vec::len).eq(lengths.iter().copied())))
    }
}

/// Every shape of program goes on from every point it offers, with nothing but the saved states, to the same bits.
#[test]
fn programs_go_on_from_every_point() {
    let programs = [
        (multidiffusion(1, false), (0, 0, 0), 0, 3),
        (exact_norm(1), (0, 56, 3), 1, 1),
        (exchange(1), (0, 80, 8), 1, 0),
        (cascade(1), (0, 12, 3), 6, 2),
    ];
    for (program, (canvas, width, channels), out, least) in programs {
        let run = |points: &mut Points, fed: bool| {
            let mut io = Connections { inputs: Vec::new(), outputs: vec![(CanvasId(out), points)] };
            let fill = |i: &mut Interpreter<'_>| {
                if fed && width > 0 {
                    texture(i.canvas_mut(CanvasId(canvas)).expect("whole"), width, channels);
                }
            };
            run_connected(cpu(), &program, TileOrder::Natural, &mut io, fill, |_| {}).expect("runs")
        };
        let mut whole = Points::default();
        let all = run(&mut whole, true);
        assert!(whole.kept.len() >= least, "{}: {} points", program.name, whole.kept.len());
        for given in &whole.kept {
            let mut rest = Points { given: Some(given.clone()), ..Points::default() };
            let stats = run(&mut rest, false);
            assert!(stats.launches <= all.launches, "{}", program.name);
            assert!(rest.rows == whole.rows, "{} from point {:x}: the same bits", program.name, given.0);
        }
        // The last point leaves less to do than the first.
        if let [first, .., last] = &whole.kept[..] {
            let [a, b] = [first, last]
                .map(|given| run(&mut Points { given: Some(given.clone()), ..Points::default() }, false).launches);
            assert!(b < a && a <= all.launches, "{}", program.name);
        }
    }
}
