//! A system's job on a small committed model, from a picture to a result, without files: what the tests of systems share.

use crate::run::relative_l2;
use std::path::{Path, PathBuf};
use std::time::Instant;
use tessera::backend::Backend;
use tessera::graph::{DType, Graph};
use tessera::plan::{self, command::PackedWeight};
use tessera::run::connections::{Connections, RowsIn, RowsOut};
use tessera::run::control::Control;
use tessera::run::executor::{Executor, SharedDevice};
use tessera::run::interpreter::Interpreter;
use tessera::run::{Cancel, Sampler, Silent, TileOrder};
use tessera::system::job::Form;
use tessera::system::onestep::{Conditioning, OUTPUT, Shaping};
use tessera::system::program::{PICTURE, Program};
use tessera::system::{Job, System};
use tessera::weights::Checkpoint;

/// The folder `tests/data/{name}`.
pub fn folder(name: &str) -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("tests/data").join(name)
}

/// A tensor of a folder's reference, NCHW there, as NHWC; extents and values.
pub fn tensor(folder: &Path, name: &str) -> ([usize; 4], Vec<f32>) {
    let file = Checkpoint::open(&folder.join("reference.safetensors")).expect("reference");
    let shape: Vec<u64> = file.tensors().iter().find(|t| t.name == name).expect(name).shape.clone();
    let planar = file.read_f32(name).expect(name);
    let mut s = [1usize; 4];
    shape.iter().zip(&mut s).for_each(|(&d, s)| *s = d as usize);
    let [n, c, h, w] = s;
    let value = |i: usize| planar[(i / (h * w * c) * c + i % c) * h * w + i / c % (h * w)];
    ([n, h, w, c], (0..n * h * w * c).map(value).collect())
}

/// The job that enlarges `source` by `scale`.
pub fn job(source: [u32; 2], scale: f64, sampler: Sampler) -> Job {
    let target = source.map(|side| (f64::from(side) * scale).round() as u32);
    let conditioning = Conditioning { noise: 0.0, jpeg: 0.0, scale, cascaded: false };
    Job { source, target, conditioning, seed: 7, sampler, keep_stages: false }
}

/// How a run goes.
pub struct Way {
    pub tile: u32,
    pub overlap: u32,
    pub batch: u32,
    pub order: TileOrder,
    pub dtype: DType,
}

/// Windows of `tile` pixels, one a launch, f32.
pub fn way(tile: u32, overlap: u32) -> Way {
    Way { tile, overlap, batch: 1, order: TileOrder::Natural, dtype: DType::F32 }
}

pub fn program(model: &dyn System, job: &Job, way: &Way) -> tessera::Result<Program> {
    let Way { tile, overlap, batch, dtype, .. } = *way;
    model.program(job, &Shaping { tile, fitted: false, overlap, batch, dtype }, Form::Joined)
}

/// An executor for each graph of a program, with the model's own weights.
pub fn executors(backend: Box<dyn Backend>, model: &dyn System, program: &Program) -> Vec<Executor> {
    let device = SharedDevice::new(backend);
    let files = model.checkpoints().expect("checkpoints");
    let unused = files.check(&model.networks().expect("networks")).expect("every tensor is there");
    assert!(unused.is_empty(), "{unused:?}");
    let resident = |graph: &Graph| {
        let plan = plan::compile(graph.clone(), &device.caps()).expect("plan");
        let mut pack = |w: &PackedWeight| files.packed(&w.tensors, &w.packing, w.dtype);
        Executor::new(&device, plan, None, &mut pack).expect("resident")
    };
    program.graphs.iter().map(resident).collect()
}

/// The result of a job on a picture, not clamped.
pub fn run_on(backend: Box<dyn Backend>, model: &dyn System, job: &Job, way: &Way, picture: &[f32]) -> Vec<f32> {
    let program = program(model, job, way).expect("program");
    run_program(backend, model, job, &program, way.order, picture)
}

/// The same of a program of the job.
pub fn run_program(
    backend: Box<dyn Backend>,
    model: &dyn System,
    job: &Job,
    program: &Program,
    order: TileOrder,
    picture: &[f32],
) -> Vec<f32> {
    let mut executors = executors(backend, model, program);
    let mut interpreter = Interpreter::new(program, &mut executors).expect("prepared");
    let mut rows = picture.chunks_exact(3 * job.source[1] as usize);
    let mut rows_in = |row: &mut [f32]| {
        row.copy_from_slice(rows.next().expect("a row"));
        Ok(())
    };
    let mut out = Vec::new();
    let mut rows_out = |y: u32, row: &[f32]| {
        assert_eq!(out.len(), y as usize * row.len(), "rows come in order");
        out.extend_from_slice(row);
        Ok(())
    };
    let inputs: Vec<(_, &mut dyn RowsIn)> = vec![(program.canvas(PICTURE).expect("picture"), &mut rows_in)];
    let outputs: Vec<(_, &mut dyn RowsOut)> = vec![(program.canvas(OUTPUT).expect("result"), &mut rows_out)];
    let cancel = Cancel::new();
    let mut control = Control { observer: &mut Silent, cancel: &cancel, order, began: Instant::now() };
    interpreter.run(&mut Connections { inputs, outputs }, &mut control).expect("runs");
    assert_eq!(out.len(), 3 * job.target[0] as usize * job.target[1] as usize, "exactly its size");
    out
}

/// PSNR of a result, clamped, against a picture of the reference, dB.
pub fn psnr(got: &[f32], expected: &[f32]) -> f64 {
    assert_eq!(got.len(), expected.len());
    let error = |(g, e): (&f32, &f32)| f64::from(g.clamp(0.0, 1.0) - e).powi(2);
    let mse = got.iter().zip(expected).map(error).sum::<f64>() / got.len() as f64;
    -10.0 * mse.max(f64::MIN_POSITIVE).log10()
}

/// How far two results are apart, relative to the second.
pub fn apart(a: &[f32], b: &[f32]) -> f64 {
    relative_l2(a, b)
}
