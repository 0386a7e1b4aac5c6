//! MultiDiffusion over a whole latent canvas, with a small denoiser of the published layout: what averaging
//! windows must not change.

use crate::tolerance;
use std::path::PathBuf;
use std::time::Instant;
use tessera::abi::Item;
use tessera::backend::Backend;
use tessera::backend::cpu::Cpu;
use tessera::graph::DType;
use tessera::model::Extents;
use tessera::model::unet::UNet2DConditionModel;
use tessera::plan::{self, command::PackedWeight};
use tessera::run::connections::Connections;
use tessera::run::control::Control;
use tessera::run::executor::{Executor, SharedDevice};
use tessera::run::interpreter::Interpreter;
use tessera::run::{Cancel, Silent, TileOrder};
use tessera::system::Program;
use tessera::system::multidiffusion::MultiDiffusion;
use tessera::system::phase::{Contexts, Source};
use tessera::system::program::{Canvas, CanvasId, Extent, GraphId, GridId, Residency, Table, TableId};
use tessera::system::schedule::{Method, Sampling, SchedulerConfig};
use tessera::tile::geometry::{Placement, Tiling};
use tessera::tile::{Grid, Ramp};
use tessera::weights::Checkpoint;

const CHANNELS: usize = 4;
const CONTEXT: usize = 20;

fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data/reference/checkpoints/tiny_unet_sd2")
}

fn unet() -> UNet2DConditionModel {
    let text = std::fs::read_to_string(folder().join("config.json")).expect("config");
    UNet2DConditionModel::from_config(&text).expect("network")
}

fn value(seed: u32, i: usize) -> f32 {
    let mut h = (i as u32).wrapping_mul(0x9e37_79b9) ^ seed.wrapping_mul(0x85eb_ca6b);
    h = (h ^ (h >> 15)).wrapping_mul(0x2c1b_3c6d);
    h ^= h >> 13;
    (h & 0xffff) as f32 / 32_768.0 - 1.0
}

fn sampling(method: Method, steps: u32) -> Sampling {
    let text = r#"{"num_train_timesteps":1000,"beta_start":0.00085,"beta_end":0.012,"beta_schedule":"scaled_linear",
        "prediction_type":"epsilon","timestep_spacing":"leading","steps_offset":1,"clip_sample":false}"#;
    SchedulerConfig::read_as(method, text).expect("schedule").sampling(steps).expect("steps")
}

/// What a run is made of.
struct Setting {
    extent: [u32; 2],
    tile: u32,
    step: u32,
    ramp: Ramp,
    batch: u32,
    guidance: Option<f64>,
    sampling: Sampling,
    /// Tokens of the table, and of each context row that count; every window has a row of its own where given.
    tokens: u32,
    counted: Option<Vec<u32>>,
}

impl Setting {
    fn new(extent: [u32; 2], tile: u32) -> Setting {
        Setting {
            extent,
            tile,
            step: 8,
            ramp: Ramp::Uniform,
            batch: 1,
            guidance: None,
            sampling: sampling(Method::Ddim { eta: 0.0 }, 2),
            tokens: 5,
            counted: None,
        }
    }

    fn grid(&self) -> Grid {
        let overlap = self.tile - self.step;
        let t = Tiling { tile: self.tile, overlap, stride: 1, quantum: 4, placement: Placement::Packed };
        Grid::new(self.extent[0], self.extent[1], &t).expect("grid")
    }

    fn rows(&self) -> u32 {
        match &self.counted {
            Some(counted) => counted.len() as u32,
            None => 1 + u32::from(self.guidance.is_some()),
        }
    }

    /// The contexts: beyond what counts there is nothing but zeros.
    fn contexts(&self) -> Vec<f32> {
        let row = self.tokens as usize * CONTEXT;
        let mut all: Vec<f32> = (0..self.rows() as usize * row).map(|i| value(7, i)).collect();
        for (row, &n) in all.chunks_exact_mut(row).zip(self.counted.iter().flatten()) {
            row[n as usize * CONTEXT..].fill(0.0);
        }
        all
    }

    fn extents(&self) -> Extents {
        let grid = self.grid();
        Extents {
            batch: self.batch,
            height: grid.rows.size,
            width: grid.cols.size,
            steps: self.sampling.steps.len() as u32,
            contexts: self.rows(),
            tokens: self.tokens,
        }
    }

    fn program(&self) -> Program {
        let mut p = Program::new("multidiffusion", self.extent, 5);
        let extent = Extent::OfTarget { num: 1, den: 1 };
        let channels = CHANNELS as u32;
        p.canvases.push(Canvas { name: "latent".into(), extent, channels, residency: Residency::Whole });
        p.grids.push(self.grid());
        p.graphs.push(unet().build(&self.extents(), DType::F32).expect("graph"));
        p.tables.push(Table {
            name: "contexts".into(),
            width: self.tokens as usize * CONTEXT,
            values: self.contexts(),
        });
        let contexts = match &self.counted {
            None => Contexts::Branch,
            Some(tokens) => {
                let branches = 1 + u32::from(self.guidance.is_some());
                let rows = (0..p.grids[0].count() as u32).map(|w| w % (self.rows() / branches)).collect();
                Contexts::Window { rows, tokens: tokens.clone() }
            }
        };
        let denoise = MultiDiffusion {
            name: "denoise",
            latent: CanvasId(0),
            graph: GraphId(0),
            sample: "sample",
            timestep: "timestep",
            prediction: "sample",
            grid: GridId(0),
            ramp: self.ramp,
            guidance: self.guidance,
            contexts,
            sources: vec![("encoder_hidden_states".into(), Source::Table(TableId(0)))],
            sampling: &self.sampling,
            noise: (0, 1),
        };
        denoise.append(&mut p).expect("appended");
        p
    }

    /// The last latent, from `start`.
    fn run(&self, start: &[f32], order: TileOrder) -> Vec<f32> {
        let program = self.program();
        let device = SharedDevice::new(cpu());
        let mut executors = vec![resident(&device, &program.graphs[0])];
        let mut interpreter = Interpreter::new(&program, &mut executors).expect("prepared");
        interpreter.canvas_mut(CanvasId(0)).expect("whole").copy_from_slice(start);
        let cancel = Cancel::new();
        let mut control = Control { observer: &mut Silent, cancel: &cancel, order, began: Instant::now() };
        interpreter.run(&mut Connections::default(), &mut control).expect("runs");
        interpreter.canvas(CanvasId(0)).expect("whole").to_vec()
    }
}

fn cpu() -> Box<dyn Backend> {
    Box::new(Cpu::new().expect("cpu"))
}

fn resident(device: &SharedDevice, graph: &tessera::graph::Graph) -> Executor {
    let checkpoint = Checkpoint::open(&folder()).expect("weights");
    let plan = plan::compile(graph.clone(), &device.caps()).expect("plan");
    let mut pack = |w: &PackedWeight| checkpoint.packed(&w.tensors, &w.packing, w.dtype);
    Executor::new(device, plan, None, &mut pack).expect("resident")
}

fn start(extent: [u32; 2]) -> Vec<f32> {
    (0..extent[0] as usize * extent[1] as usize * CHANNELS).map(|i| 2.0 * value(3, i)).collect()
}

/// The sampler on the whole latent, the network run by hand: no windows, no canvases, no blend.
fn plain(s: &Setting, start: &[f32]) -> Vec<f32> {
    let device = SharedDevice::new(cpu());
    let mut e = resident(&device, &unet().build(&s.extents(), DType::F32).expect("graph"));
    let times: Vec<f32> = s.sampling.steps.iter().map(|s| s.timestep as f32).collect();
    e.write_input("timestep", &times).expect("times");
    e.write_input("encoder_hidden_states", &s.contexts()).expect("contexts");
    e.setup().expect("setup");
    let (mut x, mut prediction) = (start.to_vec(), vec![0.0; start.len()]);
    for (i, step) in s.sampling.steps.iter().enumerate() {
        let input: Vec<f32> = x.iter().map(|v| step.input as f32 * v).collect();
        e.write_input("sample", &input).expect("sample");
        e.run(&[Item { step_row: i as u32, ..Item::default() }]).expect("runs");
        e.read_output("sample", &mut prediction).expect("prediction");
        for (x, p) in x.iter_mut().zip(&prediction) {
            *x = step.next[0] as f32 * *x + step.next[1] as f32 * p;
        }
    }
    x
}

#[test]
fn one_window_over_everything_is_the_plain_run_bit_for_bit() {
    for ramp in [Ramp::Uniform, Ramp::Gaussian] {
        for method in [Method::Ddim { eta: 0.0 }, Method::Euler] {
            let s = Setting { ramp, sampling: sampling(method, 3), ..Setting::new([16, 24], 24) };
            assert_eq!(s.grid().count(), 1);
            let start = start(s.extent);
            let want = plain(&s, &start);
            assert!(want != start && want.iter().all(|v| v.is_finite()));
            assert!(s.run(&start, TileOrder::Natural) == want, "{ramp:?} {method:?}");
        }
    }
}

#[test]
fn neither_batch_nor_order_changes_a_bit() {
    for (ramp, step) in [(Ramp::Uniform, 8), (Ramp::Gaussian, 4), (Ramp::Gaussian, 12)] {
        // Noise of the sampler's own is part of it: it depends on the place in the picture alone.
        let sampling = sampling(Method::Ddim { eta: 1.0 }, 2);
        assert!(sampling.steps.iter().any(|s| s.next[2] != 0.0));
        let setting = |batch| Setting {
            ramp,
            step,
            batch,
            guidance: Some(3.5),
            sampling: sampling.clone(),
            ..Setting::new([20, 28], 16)
        };
        let start = start([20, 28]);
        let want = setting(1).run(&start, TileOrder::Natural);
        for (batch, order) in [(2, TileOrder::Reversed), (3, TileOrder::Shuffled(9)), (8, TileOrder::Natural)] {
            assert!(setting(batch).run(&start, order) == want, "{ramp:?} {step}: {batch}, {order:?}");
        }
    }
}

#[test]
fn a_shift_of_the_grid_by_a_stride_changes_nothing_where_windows_coincide() {
    for ramp in [Ramp::Uniform, Ramp::Gaussian] {
        // One step: a further one would carry what differs at the border inwards.
        let whole = Setting { ramp, sampling: sampling(Method::Ddim { eta: 0.0 }, 1), ..Setting::new([32, 40], 16) };
        let start = start(whole.extent);
        let all = whole.run(&start, TileOrder::Natural);
        // The same picture without its first 8 rows and columns: its windows are those of the whole picture's
        // that begin a stride further on.
        let cut = |values: &[f32]| -> Vec<f32> {
            let rows = values.chunks_exact(40 * CHANNELS).skip(8);
            rows.flat_map(|row| row[8 * CHANNELS..].to_vec()).collect()
        };
        let shifted = Setting { extent: [24, 32], ..whole };
        let got = shifted.run(&cut(&start), TileOrder::Natural);
        let want = cut(&all);
        let (mut same, mut other) = (0, 0);
        for (i, (g, w)) in got.chunks_exact(CHANNELS).zip(want.chunks_exact(CHANNELS)).enumerate() {
            let (y, x) = (i / 32, i % 32);
            // The first 8 rows and columns lost a window that covered them.
            if y >= 8 && x >= 8 {
                assert!(g == w, "{ramp:?} at {y}, {x}");
                same += 1;
            } else {
                other += usize::from(g != w);
            }
        }
        assert!(same == 16 * 24 && other > 100, "{same} {other}: the comparison must be able to fail");
    }
}

#[test]
fn contexts_of_different_lengths_are_as_if_each_had_a_table_of_its_own() {
    // Two windows side by side without overlap, one step: each is the plain run with its own context.
    let counted = vec![3, 7];
    let base = || Setting { step: 16, sampling: sampling(Method::Ddim { eta: 0.0 }, 1), ..Setting::new([16, 32], 16) };
    let s = Setting { tokens: 7, counted: Some(counted.clone()), ..base() };
    let start = start(s.extent);
    let got = s.run(&start, TileOrder::Natural);
    let contexts = s.contexts();
    let half = |values: &[f32], w: usize| -> Vec<f32> {
        let rows = values.chunks_exact(32 * CHANNELS);
        rows.flat_map(|r| r[w * 16 * CHANNELS..(w + 1) * 16 * CHANNELS].to_vec()).collect()
    };
    for (w, &tokens) in counted.iter().enumerate() {
        // A network built for this many tokens.
        let one = Setting { extent: [16, 16], tokens, counted: None, ..base() };
        let device = SharedDevice::new(cpu());
        let mut e = resident(&device, &unet().build(&one.extents(), DType::F32).expect("graph"));
        e.write_input("timestep", &[one.sampling.steps[0].timestep as f32]).expect("time");
        let from = w * 7 * CONTEXT;
        e.write_input("encoder_hidden_states", &contexts[from..from + tokens as usize * CONTEXT]).expect("context");
        e.setup().expect("setup");
        let x = half(&start, w);
        e.write_input("sample", &x).expect("sample");
        e.run(&[Item::default()]).expect("runs");
        let mut prediction = vec![0.0; x.len()];
        e.read_output("sample", &mut prediction).expect("prediction");
        let step = one.sampling.steps[0];
        let want: Vec<f32> =
            x.iter().zip(&prediction).map(|(x, p)| step.next[0] as f32 * x + step.next[1] as f32 * p).collect();
        assert!(half(&got, w) == want, "window {w} with {tokens} tokens");
    }
    // And the lengths matter: with all seven tokens (zeros among them) the first window differs.
    let all = Setting { tokens: 7, counted: Some(vec![0, 0]), ..base() };
    let mut padded = all.contexts();
    padded[..7 * CONTEXT].copy_from_slice(&contexts[..7 * CONTEXT]);
    assert!(half(&all.run(&start, TileOrder::Natural), 0) != half(&got, 0));
}

#[test]
fn lengths_that_do_not_fit_are_refused() {
    for counted in [vec![8], vec![1, 2, 3]] {
        let mut program = Setting { tokens: 7, counted: Some(vec![7]), ..Setting::new([16, 16], 16) }.program();
        for block in &mut program.blocks {
            for phase in &mut block.phases {
                if let tessera::system::phase::Phase::Windows(w) = phase {
                    w.contexts = Contexts::Window { rows: vec![0], tokens: counted.clone() };
                }
            }
        }
        let e = program.check().expect_err("refused");
        assert!(e.message().contains("context"), "{e}");
    }
}

#[test]
fn on_wgpu_it_is_the_same_within_the_tolerance() {
    if !crate::reference::have_wgpu() {
        return;
    }
    let s = Setting {
        tokens: 7,
        counted: Some(vec![3, 7, 1, 5, 2, 6, 4, 7]),
        guidance: Some(2.0),
        batch: 3,
        ..Setting::new([16, 24], 16)
    };
    let start = start(s.extent);
    let want = s.run(&start, TileOrder::Natural);
    let program = s.program();
    let device = SharedDevice::new(Box::new(tessera::backend::wgpu::WgpuBackend::open(0).expect("wgpu")));
    let mut executors = vec![resident(&device, &program.graphs[0])];
    let mut interpreter = Interpreter::new(&program, &mut executors).expect("prepared");
    interpreter.canvas_mut(CanvasId(0)).expect("whole").copy_from_slice(&start);
    let cancel = Cancel::new();
    let order = TileOrder::Natural;
    let mut control = Control { observer: &mut Silent, cancel: &cancel, order, began: Instant::now() };
    interpreter.run(&mut Connections::default(), &mut control).expect("runs");
    let got = interpreter.canvas(CanvasId(0)).expect("whole");
    let error = crate::run::relative_l2(got, &want);
    assert!(error < tolerance::MULTIDIFFUSION_WGPU_F32, "{error:.1e}");
}
