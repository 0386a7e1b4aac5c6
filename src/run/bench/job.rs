//! Whole jobs: the same picture again and again on an engine that stays warm, phase by phase.

use super::figure::Figure;
use super::timing::{LEAST_RUNS, Timing};
use super::{BenchOptions, check};
use crate::error::{Error, Kind, Result};
use crate::image;
use crate::run::engine::Engine;
use crate::run::options::{Cancel, Observer, Report, Silent, UpscaleOptions};
use crate::run::upscale::upscale_with;
use std::time::Instant;

/// Jobs of one figure at most.
const MOST_JOBS: usize = 1000;

/// Runs the job `job` once to warm up (a figure of its own, with opening the device and loading the weights), then again for
/// [`BenchOptions::seconds`], at least three times. The output is written and replaced each time; device, threads and everything
/// else of the job are those of `job`.
pub fn jobs(
    o: &BenchOptions,
    job: &UpscaleOptions,
    each: &mut dyn FnMut(Figure),
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<()> {
    check(o)?;
    let again = job.output.as_deref().is_some_and(|path| !image::is_pipe(path)) && !image::is_pipe(&job.input);
    if !again || job.dry_run || job.skip_existing {
        let why = "a job that is timed reads its input and writes its output several times: no pipes, no dry run";
        return Err(Error::new(Kind::Usage, "bench", why));
    }
    let began = Instant::now();
    let mut engine = Engine::open(&job.device, job.threads)?;
    let first = upscale_with(&mut engine, job, observer, cancel)?;
    let cold = began.elapsed().as_secs_f64();
    let again = UpscaleOptions { overwrite: true, ..job.clone() };
    let (mut reports, began) = (Vec::new(), Instant::now());
    while reports.len() < LEAST_RUNS || (began.elapsed().as_secs_f64() < o.seconds && reports.len() < MOST_JOBS) {
        reports.push(upscale_with(&mut engine, &again, &mut Silent, cancel)?);
    }
    let name = format!("{} to {}x{}", first.system, first.output.0, first.output.1);
    let of = |what: &str, part: &str, taken: &[f64]| {
        let t = Timing::of(taken);
        Figure {
            what: what.into(),
            name: if part.is_empty() { name.clone() } else { format!("{name}: {part}") },
            dtype: first.dtype.clone(),
            working_set: first.device_peak as f64,
            ..super::figure(o, engine.caps(), engine.caps().storage, t)
        }
    };
    let mut figures = vec![of("job", "first, cold", &[cold])];
    figures.push(of("job", "", &reports.iter().map(|r| r.seconds).collect::<Vec<_>>()));
    for (part, taken) in phases(&reports) {
        figures.push(of("phase", part, &taken));
    }
    figures.retain(|f| f.seconds > 0.0);
    figures.into_iter().for_each(each);
    Ok(())
}

/// Seconds of each phase in each job, in the order of the first.
fn phases(reports: &[Report]) -> Vec<(&str, Vec<f64>)> {
    let Some(first) = reports.first() else { return Vec::new() };
    let of = |r: &Report, name: &str| r.phases.iter().filter(|p| p.0 == name).map(|p| p.1).sum::<f64>();
    let mut names: Vec<&str> = Vec::new();
    for (name, _) in &first.phases {
        if !names.contains(&name.as_str()) {
            names.push(name);
        }
    }
    names.into_iter().map(|name| (name, reports.iter().map(|r| of(r, name)).collect())).collect()
}
