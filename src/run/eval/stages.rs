//! One result: a single job, or a job for each stage of a cascade.

use super::{How, Method, job, run_job};
use crate::error::Result;
use crate::fs;
use crate::image::Depth;
use crate::metrics::Picture;
use crate::run::engine::Engine;
use crate::run::options::{Cancel, Size};
use crate::system::cascade;
use crate::system::job::Cascade;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// A result and what it took.
pub(super) struct Made {
    pub(super) path: PathBuf,
    pub(super) seconds: f64,
    pub(super) device_peak: u64,
    pub(super) parameters: u64,
    /// The pictures after each stage, the result last; empty for single jobs.
    pub(super) stages: Vec<PathBuf>,
}

/// Enlarges one input by one method into `folder`.
pub(super) fn enlarge(
    method: &Method,
    input: &Path,
    scale: f64,
    folder: &Path,
    name: &str,
    engine: &mut Engine,
    cancel: &Cancel,
) -> Result<Made> {
    fs::make_folder(folder)?;
    let path = folder.join(format!("{name}.png"));
    match &method.how {
        How::Bicubic => {
            let began = Instant::now();
            let small = Picture::read(input)?;
            let [w, h] = [small.width, small.height].map(|side| (side as f64 * scale).round() as usize);
            small.resized(w, h)?.write(&path, Depth::Eight, false)?;
            let seconds = began.elapsed().as_secs_f64();
            Ok(Made { path, seconds, device_peak: 0, parameters: 0, stages: Vec::new() })
        }
        How::Job(of) => {
            let r = run_job(engine, &job(of, input, &path, Size::Scale(scale)), cancel)?;
            let (seconds, device_peak, parameters) = (r.seconds, r.device_peak, r.parameters);
            Ok(Made { path, seconds, device_peak, parameters, stages: Vec::new() })
        }
        How::Cascade(of) => {
            let small = Picture::read(input)?;
            let factors = cascade::factors(scale, Cascade::LargestFirst)?;
            // The depth of an output is that of its input: nothing is rounded to 8 bits between stages.
            let between = folder.join("stages");
            fs::make_folder(&between)?;
            let deep = between.join(format!("{name}.0.tif"));
            small.write(&deep, Depth::Sixteen, false)?;
            let (mut from, mut stages) = (deep, Vec::new());
            let (mut seconds, mut device_peak, mut parameters, mut reached) = (0.0, 0, 0, 1.0);
            for (k, factor) in factors.iter().enumerate() {
                reached *= factor;
                let last = k + 1 == factors.len();
                // Rounding once from the input's sides: the result has exactly the size of a single jump.
                let by = if last { scale } else { reached };
                let side = |v: usize| (v as f64 * by).round() as u64;
                let size = Size::Both(side(small.width), side(small.height));
                let to = if last { path.clone() } else { between.join(format!("{name}.{}.tif", k + 1)) };
                let r = run_job(engine, &job(of, &from, &to, size), cancel)?;
                seconds += r.seconds;
                device_peak = device_peak.max(r.device_peak);
                // The networks of every stage are the same.
                parameters = parameters.max(r.parameters);
                stages.push(to.clone());
                from = to;
            }
            Ok(Made { path, seconds, device_peak, parameters, stages })
        }
    }
}
