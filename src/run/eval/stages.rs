//! One result: a single job, a job for each stage of a cascade, or a job on what another made.

use super::{How, job, run_job};
use crate::error::Result;
use crate::fs;
use crate::image::Depth;
use crate::metrics::Picture;
use crate::run::engine::Engine;
use crate::run::options::{Cancel, Size, UpscaleOptions};
use crate::system::cascade;
use crate::system::job::{Cascade, Sampler};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A result and what it took.
#[derive(Default)]
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) seconds: f64,
    pub(super) device_peak: u64,
    pub(super) parameters: u64,
    /// The pictures after each stage, the result last; empty where nothing goes by stages.
    pub(super) stages: Vec<PathBuf>,
}

/// What results are made with, and where they go.
pub(super) struct Making<'a> {
    pub(super) folder: &'a Path,
    /// The result's name without its ending.
    pub(super) name: &'a str,
    pub(super) engine: &'a mut Engine,
    pub(super) cancel: &'a Cancel,
}

impl Making<'_> {
    /// Enlarges one input; `stages` asks a single job for those of its system too.
    pub(super) fn enlarge(&mut self, how: &How, input: &Path, scale: f64, stages: bool) -> Result<Made> {
        fs::make_folder(self.folder)?;
        let path = self.folder.join(format!("{}.png", self.name));
        if let (How::Job(of), true) = (how, stages) {
            let stage_folder = Some(self.between()?);
            let of = UpscaleOptions { save_stages: true, stage_folder, ..(**of).clone() };
            let mut made = self.job(&of, input, &path, Size::Scale(scale))?;
            made.stages.push(path);
            return Ok(made);
        }
        self.make(how, input, scale, &path, Depth::Eight)
    }

    /// The folder of what lies between input and result.
    fn between(&self) -> Result<PathBuf> {
        let between = self.folder.join("stages");
        fs::make_folder(&between)?;
        Ok(between)
    }

    fn job(&mut self, of: &UpscaleOptions, from: &Path, to: &Path, size: Size) -> Result<Made> {
        let r = run_job(self.engine, &job(of, from, to, size), self.cancel)?;
        let (seconds, device_peak, parameters, stages) = (r.seconds, r.device_peak, r.parameters, r.stages);
        Ok(Made { path: to.to_owned(), seconds, device_peak, parameters, stages })
    }

    /// `depth` is that of bicubic results; a job's is its input's.
    fn make(&mut self, how: &How, input: &Path, scale: f64, to: &Path, depth: Depth) -> Result<Made> {
        match how {
            How::Bicubic => {
                let began = Instant::now();
                let small = Picture::read(input)?;
                let [w, h] = [small.width, small.height].map(|side| (side as f64 * scale).round() as usize);
                small.resized(w, h)?.write(to, depth, false)?;
                Ok(Made { path: to.to_owned(), seconds: began.elapsed().as_secs_f64(), ..Made::default() })
            }
            How::Job(of) => self.job(of, input, to, Size::Scale(scale)),
            How::Cascade(of) => self.cascade(of, input, scale, to),
            How::Then(first, of) => {
                let between = self.between()?;
                let base = between.join(format!("{}.base.tif", self.name));
                let deep = self.deep(input, "before")?;
                let before = self.make(first, &deep, scale, &base, Depth::Sixteen)?;
                let sampler = Sampler { enlarged: of.sampler.enlarged.or(Some(scale)), ..of.sampler.clone() };
                let of = UpscaleOptions { sampler, ..(**of).clone() };
                let made = self.job(&of, &base, to, Size::Scale(1.0))?;
                Ok(Made {
                    seconds: before.seconds + made.seconds,
                    device_peak: before.device_peak.max(made.device_peak),
                    parameters: before.parameters + made.parameters,
                    ..made
                })
            }
        }
    }

    /// The input with 16 bits. The depth of an output is that of its input: nothing is rounded to 8 bits in between.
    fn deep(&self, input: &Path, what: &str) -> Result<PathBuf> {
        let deep = self.between()?.join(format!("{}.{what}.tif", self.name));
        Picture::read(input)?.write(&deep, Depth::Sixteen, false)?;
        Ok(deep)
    }

    fn cascade(&mut self, of: &UpscaleOptions, input: &Path, scale: f64, to: &Path) -> Result<Made> {
        let small = Picture::read(input)?;
        let factors = cascade::factors(scale, Cascade::LargestFirst)?;
        let between = self.between()?;
        let mut from = self.deep(input, "0")?;
        let (mut made, mut reached) = (Made::default(), 1.0);
        for (k, factor) in factors.iter().enumerate() {
            reached *= factor;
            let last = k + 1 == factors.len();
            // Rounding once from the input's sides: the result has exactly the size of a single jump.
            let by = if last { scale } else { reached };
            let side = |v: usize| (v as f64 * by).round() as u64;
            let size = Size::Both(side(small.width), side(small.height));
            let next = if last { to.to_owned() } else { between.join(format!("{}.{}.tif", self.name, k + 1)) };
            let stage = self.job(of, &from, &next, size)?;
            made.seconds += stage.seconds;
            made.device_peak = made.device_peak.max(stage.device_peak);
            // The networks of every stage are the same.
            made.parameters = made.parameters.max(stage.parameters);
            made.stages.push(next.clone());
            from = next;
        }
        Ok(Made { path: to.to_owned(), ..made })
    }
}
