//! What a job is asked to do, what it tells while it works, and what it reports at the end: plain data
//! that the command line, the C interface and tests share.

use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::fs;
use crate::image::{Format, ReadOptions, WriteOptions, is_pipe};
use crate::limits;
use crate::system::job::Sampler;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// The size asked for.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Size {
    /// A factor from 1 to `limits::MAX_SCALE`; sides are `round(side * factor)`.
    Scale(f64),
    /// Output width in pixels; the height follows in proportion.
    Width(u64),
    /// Output height in pixels; the width follows in proportion.
    Height(u64),
    /// Exactly this width and height.
    Both(u64, u64),
    /// About this many million pixels, in proportion.
    Megapixels(f64),
}

/// The size of one job's output.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Target {
    /// Output columns.
    pub width: u64,
    /// Output rows.
    pub height: u64,
    /// Output side over input side (the geometric mean of both axes).
    pub scale: f64,
}

impl Size {
    /// The output of an input of `width x height` pixels (upright), or why there is none.
    pub fn resolve(self, width: u64, height: u64) -> Result<Target> {
        if width == 0 || height == 0 {
            return Err(Error::new(Kind::BadInput, "size", format!("the picture is {width}x{height} pixels")));
        }
        let (w, h) = (width as f64, height as f64);
        let target = match self {
            Size::Scale(s) => {
                let s = checked_scale(s, "the scale")?;
                [extent::scaled_side(width, s), extent::scaled_side(height, s)]
            }
            Size::Width(to) => [to, extent::scaled_side(height, checked_scale(to as f64 / w, "the width's scale")?)],
            Size::Height(to) => [extent::scaled_side(width, checked_scale(to as f64 / h, "the height's scale")?), to],
            Size::Both(x, y) => {
                checked_scale(x as f64 / w, "the width's scale")?;
                checked_scale(y as f64 / h, "the height's scale")?;
                [x, y]
            }
            Size::Megapixels(m) => {
                if !m.is_finite() || m <= 0.0 {
                    return Err(Error::new(Kind::Usage, "size", format!("{m} megapixels make no picture")));
                }
                let s = checked_scale((m * 1e6 / (w * h)).sqrt(), "the scale for that many megapixels")?;
                [extent::scaled_side(width, s), extent::scaled_side(height, s)]
            }
        };
        let [tw, th] = target;
        if tw > limits::MAX_SIDE || th > limits::MAX_SIDE || tw.saturating_mul(th) > limits::MAX_OUTPUT_PIXELS {
            return Err(Error::new(
                Kind::Limit,
                "size",
                format!(
                    "{tw}x{th} pixels exceed the limits of {} a side and {} in all",
                    limits::MAX_SIDE,
                    limits::MAX_OUTPUT_PIXELS
                ),
            )
            .advise("ask for a smaller output"));
        }
        Ok(Target { width: tw, height: th, scale: (tw as f64 * th as f64 / (w * h)).sqrt() })
    }
}

fn checked_scale(scale: f64, what: &str) -> Result<f64> {
    if scale.is_finite() && (1.0..=limits::MAX_SCALE).contains(&scale) {
        return Ok(scale);
    }
    let advice = if scale > limits::MAX_SCALE {
        "enlarge the result once more: stages of a cascade do the same"
    } else {
        "this program enlarges; use any picture tool to shrink"
    };
    let why = format!("{what} is {scale:?}, it must be from 1 to {}", limits::MAX_SCALE);
    Err(Error::new(Kind::Usage, "size", why).advise(advice))
}

/// The order in which the windows of one row are computed. The output's bytes do not depend on it; it
/// exists so that a test can prove that.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum TileOrder {
    /// Left to right.
    #[default]
    Natural,
    /// Right to left.
    Reversed,
    /// In an order drawn from this seed.
    Shuffled(u64),
}

/// How the autoencoder works on pictures larger than a window, see `docs/vae-modes.md`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VaeMode {
    /// The cheapest that measured figures justify; without them the best that fits and does not take out of
    /// proportion long.
    #[default]
    Auto,
    /// The whole picture in one graph.
    Whole,
    /// In windows, statistics pooled over all of them: the function of the whole picture.
    Exact,
    /// In windows, statistics from a sample of the picture: no seams, not exactly the function.
    Shared,
    /// Each window by itself, blended.
    Tile,
}

impl VaeMode {
    /// Every mode.
    pub const ALL: [VaeMode; 5] = [VaeMode::Auto, VaeMode::Whole, VaeMode::Exact, VaeMode::Shared, VaeMode::Tile];

    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            VaeMode::Auto => "auto",
            VaeMode::Whole => "whole",
            VaeMode::Exact => "exact",
            VaeMode::Shared => "shared",
            VaeMode::Tile => "tile",
        }
    }

    /// The mode of that name.
    pub fn parse(name: &str) -> Option<VaeMode> {
        VaeMode::ALL.into_iter().find(|m| m.name() == name)
    }
}

/// What becomes of a job that was interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Resume {
    /// A long job keeps its finished rows on disk, a short one does not. What an earlier run kept is neither
    /// used nor lost: the job is refused, unless an existing output may be replaced; then it begins anew.
    #[default]
    Auto,
    /// Goes on where an earlier run ended, and keeps its own finished rows on disk from the start.
    Always,
    /// Begins anew and keeps nothing.
    Never,
}

/// One upscaling job.
#[derive(Debug, Clone, PartialEq)]
pub struct UpscaleOptions {
    /// The picture; `-` is standard input.
    pub input: PathBuf,
    /// Where it goes; `None`: `{stem}_{scale}x.{ext}` beside the input. `-` is standard output.
    pub output: Option<PathBuf>,
    /// The output's format; `None`: what its name's ending says.
    pub format: Option<Format>,
    /// How large it becomes.
    pub size: Size,
    /// The model's folder; `None`: the shipped one.
    pub model: Option<PathBuf>,
    /// The system to run; `None`: the one the model's folder names.
    pub system: Option<String>,
    /// `cpu`, `cuda`, `cuda:N`, `wgpu`, `wgpu:N` or `auto`.
    pub device: String,
    /// Cap on device memory, bytes.
    pub vram: Option<u64>,
    /// Cap on host memory, bytes.
    pub ram: Option<u64>,
    /// Window side in output pixels; `None`: chosen.
    pub tile: Option<u32>,
    /// Pixels by which neighbouring windows overlap; `None`: chosen.
    pub overlap: Option<u32>,
    /// Windows per launch; `None`: chosen.
    pub batch: Option<u32>,
    /// See [`VaeMode`].
    pub vae: VaeMode,
    /// How a cascaded sampler runs.
    pub sampler: Sampler,
    /// Whether every stage's picture is written beside the output, as `{stem}_stage{number}.png` of 16 bits.
    pub save_stages: bool,
    /// A folder that is there for these pictures; `None`: beside the output.
    pub stage_folder: Option<PathBuf>,
    /// Noise in the input, 0 to 1 (see the model's card).
    pub noise: f32,
    /// Compression artefacts in the input, 0 to 1 (see the model's card).
    pub jpeg: f32,
    /// Seed of everything random.
    pub seed: u64,
    /// Whether an existing output may be replaced.
    pub overwrite: bool,
    /// An output that is there already is left as it is, and nothing is done.
    pub skip_existing: bool,
    /// See [`Resume`].
    pub resume: Resume,
    /// Where finished rows are kept until the picture is complete; `None`: beside the output.
    pub spool_dir: Option<PathBuf>,
    /// Only say what would be done.
    pub dry_run: bool,
    /// Host threads; `None`: all cores.
    pub threads: Option<usize>,
    /// See [`TileOrder`].
    pub tile_order: TileOrder,
}

impl UpscaleOptions {
    /// A job with every choice left open.
    pub fn new(input: impl Into<PathBuf>, size: Size) -> UpscaleOptions {
        UpscaleOptions {
            input: input.into(),
            output: None,
            format: None,
            size,
            model: None,
            system: None,
            device: "auto".into(),
            vram: None,
            ram: None,
            tile: None,
            overlap: None,
            batch: None,
            vae: VaeMode::Auto,
            sampler: Sampler::default(),
            save_stages: false,
            stage_folder: None,
            noise: 0.0,
            jpeg: 0.0,
            seed: 0,
            overwrite: false,
            skip_existing: false,
            resume: Resume::Auto,
            spool_dir: None,
            dry_run: false,
            threads: None,
            tile_order: TileOrder::Natural,
        }
    }

    /// How the input is read: what must be decoded whole waits where the rows of unfinished jobs do, or beside
    /// the output.
    pub fn reading(&self) -> ReadOptions {
        let output = self.output.as_ref().unwrap_or(&self.input);
        let beside = (!is_pipe(output)).then(|| fs::parent(output).to_path_buf());
        ReadOptions { spool: self.spool_dir.clone().or(beside), ..ReadOptions::default() }
    }

    /// How the output is written.
    pub fn writing(&self) -> WriteOptions {
        WriteOptions { format: self.format, ..WriteOptions::new(self.overwrite) }
    }
}

/// How far a job has come.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Progress<'a> {
    /// What is being done (`load`, a phase's name, `write`).
    pub stage: &'a str,
    /// Units done.
    pub done: u64,
    /// Units in all; 0 while unknown.
    pub total: u64,
    /// Seconds since the job began.
    pub elapsed: f64,
    /// Seconds left, once it can be estimated.
    pub left: Option<f64>,
}

/// Someone who is told how a job goes.
pub trait Observer {
    /// Called after every launch and at the start and end of every stage.
    fn progress(&mut self, progress: &Progress<'_>);
    /// A sentence for the user: what was chosen and why, what was given up.
    fn note(&mut self, text: &str);
}

/// An observer that listens to nothing.
#[derive(Debug, Clone, Copy, Default)]
pub struct Silent;

impl Observer for Silent {
    fn progress(&mut self, _: &Progress<'_>) {}
    fn note(&mut self, _: &str) {}
}

/// A flag that ends a job at the next launch. Clones share it; it may be set from any thread.
#[derive(Debug, Clone, Default)]
pub struct Cancel(Arc<AtomicBool>);

impl Cancel {
    /// A flag that is not set.
    pub fn new() -> Cancel {
        Cancel::default()
    }

    /// Asks the job to end.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Relaxed);
    }

    /// Whether it was asked to.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    /// An error of kind `Cancelled` once the flag is set.
    pub fn check(&self) -> Result<()> {
        if self.is_cancelled() {
            return Err(Error::new(Kind::Cancelled, "run", "the job was cancelled"));
        }
        Ok(())
    }
}

/// What memory did during the launches of a job.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Allocations {
    /// Device bytes held when the first launch began.
    pub device_before: u64,
    /// Device bytes held when the last launch had ended; equal to `device_before` unless something leaks.
    pub device_after: u64,
    /// Growths of the job's own host buffers after the first row of windows; 0 in a steady state.
    pub host_growths: u64,
}

/// How long a job should take.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Estimate {
    /// Seconds of the networks and of loading their weights; reading and writing the pictures comes on top.
    pub seconds: f64,
    /// Where the rate comes from: measured on this device, or assumed of its kind.
    pub origin: String,
}

/// What a job did.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Report {
    /// Input width and height, upright.
    pub input: (u64, u64),
    /// Output width and height.
    pub output: (u64, u64),
    /// Output side over input side.
    pub scale: f64,
    /// The file written (or that would be, in a dry run).
    pub path: PathBuf,
    /// The model's folder.
    pub model: PathBuf,
    /// The system that ran.
    pub system: String,
    /// The device that ran it.
    pub device: String,
    /// Why this device.
    pub why: String,
    /// Storage type of activations and weights.
    pub dtype: String,
    /// Window height and width in output pixels.
    pub tile: (u32, u32),
    /// Overlap of neighbouring windows, pixels.
    pub overlap: u32,
    /// Windows per launch.
    pub batch: u32,
    /// Windows in all.
    pub windows: u64,
    /// Rows that an earlier run had finished.
    pub resumed_rows: u64,
    /// Parameters of the networks that run, each once.
    pub parameters: u64,
    /// Floating-point operations of one launch.
    pub flops: u64,
    /// Seconds per phase, in order: `load`, `plan`, then what the work consisted of.
    pub phases: Vec<(String, f64)>,
    /// Seconds in all.
    pub seconds: f64,
    /// Device bytes planned: weights, arena, persistent values.
    pub device_bytes: u64,
    /// What stays on the device, in words.
    pub residency: String,
    /// What the autoencoder did, see [`VaeMode`].
    pub vae: String,
    /// Why, where `auto` chose it; else empty.
    pub vae_why: String,
    /// Windows per launch of each network, where they take turns; else of all.
    pub batches: Vec<u32>,
    /// What device and host memory are bounded by, in words, where they are.
    pub bounds: [Option<String>; 2],
    /// Device bytes planned by what they are for.
    pub device_parts: Vec<(String, u64)>,
    /// Host bytes planned by what they are for.
    pub host_parts: Vec<(String, u64)>,
    /// How long it should take; in a dry run.
    pub estimate: Option<Estimate>,
    /// Most device bytes allocated at once, transfers and parameters included; 0 in a dry run.
    pub device_peak: u64,
    /// Windows computed again in a wider storage type, because values left the range of the device's own.
    pub redone: u64,
    /// Host bytes planned: staging, canvases, bands.
    pub host_bytes: u64,
    /// What memory did.
    pub allocations: Allocations,
    /// Pictures of stages that were written, in order.
    pub stages: Vec<PathBuf>,
    /// Sentences for the user.
    pub notes: Vec<String>,
    /// Whether nothing was run.
    pub dry_run: bool,
    /// Whether the output was there already and was left as it is.
    pub skipped: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_exact() {
        let t = Size::Scale(2.5).resolve(3, 5).expect("fine");
        assert_eq!((t.width, t.height), (8, 13));
        let t = Size::Width(640).resolve(320, 201).expect("fine");
        assert_eq!((t.width, t.height), (640, 402));
        let t = Size::Height(10).resolve(7, 10).expect("fine");
        assert_eq!((t.width, t.height), (7, 10));
        let t = Size::Both(20, 41).resolve(10, 20).expect("fine");
        assert_eq!((t.width, t.height), (20, 41));
        let t = Size::Megapixels(4.0).resolve(1000, 1000).expect("fine");
        assert_eq!((t.width, t.height, t.scale), (2000, 2000, 2.0));
    }

    #[test]
    fn senseless_sizes_are_usage_errors() {
        let bad = [
            Size::Scale(0.0),
            Size::Scale(-2.0),
            Size::Scale(f64::NAN),
            Size::Scale(f64::INFINITY),
            Size::Scale(0.999),
            Size::Scale(limits::MAX_SCALE * 1.01),
            Size::Width(1),
            Size::Height(0),
            Size::Both(100, 5),
            Size::Megapixels(f64::NAN),
            Size::Megapixels(-1.0),
        ];
        for size in bad {
            let e = size.resolve(10, 10).expect_err("refused");
            assert_eq!(e.kind(), Kind::Usage, "{size:?}");
        }
        let e = Size::Scale(64.0).resolve(limits::MAX_SIDE, 1).expect_err("refused");
        assert_eq!(e.kind(), Kind::Limit);
        assert_eq!(Size::Scale(2.0).resolve(0, 4).expect_err("refused").kind(), Kind::BadInput);
    }

    #[test]
    fn cancel_is_shared() {
        let a = Cancel::new();
        let b = a.clone();
        assert!(b.check().is_ok());
        a.cancel();
        assert_eq!(b.check().expect_err("set").kind(), Kind::Cancelled);
    }
}
