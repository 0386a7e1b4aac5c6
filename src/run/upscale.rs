//! The main job: a picture in, a larger picture out.
//!
//! What must be known is looked at first, the shape of the work is chosen, then rows are decoded, enlarged by
//! bicubic, cut into windows, run through the network, blended (`rows`), and delivered (`delivery`).

use super::budget::{self, Choice};
use super::clock::Clock;
use super::control::Control;
use super::delivery::{self, Delivery};
use super::engine::Engine;
use super::key::Deciding;
use super::naming::default_output;
use super::options::{Allocations, Cancel, Observer, Progress, Report, Target, UpscaleOptions};
use super::rows;
use super::shipped::model_folder;
use super::work::Work;
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::image::{self, Header, WriteOptions};
use crate::limits;
use crate::system::cascade::stages;
use crate::system::job::{Checkpoints, Job};
use crate::system::onestep::{Conditioning, Plane};
use crate::system::program::{Program, Residency as Placed};
use crate::system::{System, registry};
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

/// Upscales one picture on a device opened for it.
pub fn upscale(options: &UpscaleOptions, observer: &mut dyn Observer, cancel: &Cancel) -> Result<Report> {
    // What needs no device is refused before one is opened.
    check_options(options)?;
    let mut engine = Engine::open(&options.device, options.threads)?;
    upscale_with(&mut engine, options, observer, cancel)
}

pub(super) fn check_options(options: &UpscaleOptions) -> Result<()> {
    if let Some(factor) = options.sampler.enlarged.filter(|f| !(1.0..=limits::MAX_SCALE).contains(f)) {
        let why = format!("the picture was enlarged by {factor}, it must be from 1 to {}", limits::MAX_SCALE);
        return Err(Error::new(Kind::Usage, "run", why));
    }
    for (name, value) in [("noise", options.noise), ("jpeg", options.jpeg)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Error::new(Kind::Usage, "run", format!("{name} is {value}, it must be from 0 to 1")));
        }
    }
    match options.system.as_deref() {
        None => Ok(()),
        Some(name) => registry::find(name).map(|_| ()),
    }
}

/// Upscales one picture on an engine that stays warm: its plans, weights and buffers serve the next picture.
pub fn upscale_with(
    engine: &mut Engine,
    options: &UpscaleOptions,
    observer: &mut dyn Observer,
    cancel: &Cancel,
) -> Result<Report> {
    check_options(options)?;
    cancel.check()?;
    let mut clock = Clock::start();
    let began = clock.began;

    let image::Probe { header, mut resident_bytes } = image::probe_with(&options.input, &options.reading())?;
    let target = options.size.resolve(header.width, header.height)?;
    let path = match &options.output {
        Some(path) => path.clone(),
        None if image::is_pipe(&options.input) => {
            let why = "standard input has no name to make the output's from";
            return Err(Error::new(Kind::Usage, "run", why).advise("name the output, or - for standard output"));
        }
        None => default_output(&options.input, options.format, options.size, &target),
    };
    let out_header = Header { width: target.width, height: target.height, notes: Vec::new(), ..header.clone() };
    if options.skip_existing && std::fs::symlink_metadata(&path).is_ok() {
        observer.note(&format!("{} is there already", path.display()));
        let (input, output) = ((header.width, header.height), (target.width, target.height));
        return Ok(Report { input, output, scale: target.scale, path, skipped: true, ..Report::default() });
    }
    let writing = options.writing();
    let placed = delivery::check_spool(options, &path)?;
    let allowed = WriteOptions { overwrite: writing.overwrite || placed, ..writing.clone() };
    image::check_output_with(&path, Some(&options.input), &out_header, &allowed)?;
    clock.lap("probe");

    let folder = model_folder(options)?;
    let model = registry::open(&folder, options.system.as_deref())?;
    let model = model.as_ref();
    check_conditioning(options, model)?;
    if options.save_stages && image::is_pipe(&path) {
        let why = "--save-stages writes files beside the output, and there is none beside a pipe";
        return Err(Error::new(Kind::Usage, "run", why).advise("name an output file"));
    }
    clock.lap("model");

    let to = [extent::to_u32("height", target.height)?, extent::to_u32("width", target.width)?];
    let job = Job {
        source: [extent::to_u32("height", header.height)?, extent::to_u32("width", header.width)?],
        target: to,
        conditioning: Conditioning {
            noise: options.noise,
            jpeg: options.jpeg,
            scale: target.scale * options.sampler.enlarged.unwrap_or(1.0),
            cascaded: false,
        },
        seed: options.seed,
        sampler: options.sampler.clone(),
        keep_stages: options.save_stages,
    };
    // A large picture that cannot be read by rows waits in the job's folder once it is decoded.
    let mut reading = options.reading();
    let decoded_to_disk = resident_bytes > limits::DECODED_IN_MEMORY && !image::is_pipe(&path);
    if decoded_to_disk {
        reading.spool = Some(delivery::spool_of(options, &path));
        resident_bytes = image::probe_with(&options.input, &reading)?.resident_bytes;
    }
    let held = resident_bytes.saturating_add(image::output_resident_bytes_with(&path, &out_header, &writing)?);
    let rows = rows::host_bytes(&header, &target, held)?;
    let mode = delivery::earlier_mode(options, &path);
    let mut choice = budget::choose(engine, model, options, &job, rows, None, mode)?;
    if let Some(tile) = delivery::earlier_tile(options, &path).filter(|&tile| tile < choice.taken.shaping.tile) {
        let earlier = budget::choose(engine, model, options, &job, rows, Some(tile + 1), mode);
        choice = earlier.ok().filter(|c| c.taken.shaping.tile == tile).unwrap_or(choice);
    }
    clock.lap("plan");

    let mut report = report(engine, model, &header, &target, &path, &choice)?;
    report.notes.extend(header.notes.iter().cloned());
    report.notes.extend(image::output_notes_with(&path, &out_header, &writing));
    report.notes.extend(model.lacks());
    report.notes.extend(stages_of(model, &job)?);
    report.notes.extend(choice.notes.iter().cloned());
    let copied = unchanged(options, &header, &target);
    if copied {
        report.notes.push("same size and nothing to remove: the picture's own pixels are written".into());
        (report.windows, report.flops, report.parameters) = (0, 0, 0);
    }
    observer.note(&format!("device: {} ({})", engine.name(), engine.why()));
    if !report.vae_why.is_empty() {
        observer.note(&format!("autoencoder: {} ({})", report.vae, report.vae_why));
    }
    report.notes.iter().for_each(|note| observer.note(note));
    if options.dry_run {
        report.dry_run = true;
        if !copied {
            report.estimate = Some(budget::estimate(engine, &choice));
        }
        (report.phases, report.seconds) = (clock.phases, began.elapsed().as_secs_f64());
        return Ok(report);
    }

    if copied {
        rows::copy(options, &path, &out_header, &target, cancel)?;
        clock.lap("copy");
        (report.phases, report.seconds) = (clock.phases, began.elapsed().as_secs_f64());
        return Ok(report);
    }

    let keep = |engine: &Engine, choice: &Choice| {
        let depth = image::output_depth(&path, &out_header, &writing)?;
        let deciding = Deciding::new(engine, options, &header, &target, depth, &folder, choice);
        let window_rows = choice.taken.program.grids[0].rows.count();
        let in_files = choice.taken.program.canvases.iter().any(|c| c.residency == Placed::Spool);
        Delivery::open(options, &path, &out_header, deciding, window_rows, placed, decoded_to_disk || in_files)
    };
    let mut delivery = keep(engine, &choice)?;
    delivery.notes.iter().for_each(|note| observer.note(note));
    let mut told = delivery.notes.len();
    report.resumed_rows = delivery.done();
    let stage = |stage| Progress { stage, done: 0, total: 0, elapsed: began.elapsed().as_secs_f64(), left: None };
    let mut times = Vec::new();
    if delivery.is_complete() {
        if !delivery.is_placed() {
            rows::check(options, &reading, &target, &mut clock)?;
        }
    } else {
        observer.progress(&stage("load"));
        let checkpoints = checked(model)?;
        let work = Work {
            options,
            reading: &reading,
            colour: header.colour,
            target: &target,
            output: (&path, &out_header),
            scope: folder.display().to_string(),
            weights: Arc::new(move |w| checkpoints.packed(&w.tensors, &w.packing, w.dtype)),
        };
        loop {
            let mut control = Control { observer, cancel, order: options.tile_order, began };
            let done = work.run(engine, &choice, &mut delivery, &mut report, &mut clock, &mut control);
            let e = match done {
                Ok(phases) => {
                    times = phases;
                    break;
                }
                Err(e) => e,
            };
            // Others may hold a part of the device's memory. With smaller windows everything is done again: there are
            // never two geometries in one picture.
            let tile = choice.taken.shaping.tile;
            let may = e.kind() == Kind::Memory && options.tile.is_none();
            let piped = image::is_pipe(&options.input) || image::is_pipe(&path);
            let smaller =
                (may && !piped).then(|| budget::choose(engine, model, options, &job, rows, Some(tile), None).ok());
            let Some(smaller) = smaller.flatten() else { return Err(delivery.fail(e)) };
            delivery.abandon()?;
            choice = smaller;
            delivery = keep(engine, &choice)?;
            told = delivery.notes.len();
            let before = std::mem::take(&mut report);
            report = self::report(engine, model, &header, &target, &path, &choice)?;
            (report.notes, report.resumed_rows) = (before.notes, delivery.done());
            let why = format!("no room for windows of {tile}, trying {}: {}", choice.taken.shaping.tile, e.message());
            observer.note(&why);
            report.notes.push(why);
        }
    }
    observer.progress(&stage("write"));
    let at = Instant::now();
    if let Err(e) = delivery.finish(cancel) {
        return Err(delivery.fail(e));
    }
    let notes = delivery.close();
    notes.iter().skip(told).for_each(|note| observer.note(note));
    report.notes.extend(notes);
    match times.last_mut() {
        Some((_, seconds)) => *seconds += at.elapsed().as_secs_f64(),
        None => times.push(("write".to_owned(), at.elapsed().as_secs_f64())),
    }
    report.phases = clock.phases;
    report.phases.extend(times);
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// The model's checkpoints, held against the program's network.
fn checked(model: &dyn System) -> Result<Checkpoints> {
    let checkpoints = model.checkpoints()?;
    // Of the networks as they are: pieces cut at norms do not hold the norms' vectors.
    let extra = checkpoints.check(&model.networks()?)?;
    if extra.is_empty() {
        return Ok(checkpoints);
    }
    let why = format!("{} tensor(s) that no network asks for, the first is `{}`", extra.len(), extra[0]);
    Err(Error::new(Kind::Weights, "weights", why)
        .at(model.folder().display())
        .advise("use the config.json and the weights of one and the same checkpoint"))
}

fn report(
    engine: &Engine,
    model: &dyn System,
    header: &Header,
    target: &Target,
    path: &Path,
    choice: &Choice,
) -> Result<Report> {
    let grid = &choice.taken.program.grids[0];
    // Windows over latent canvases are counted in latents.
    let scale = choice.taken.program.target[0].div_ceil(grid.rows.extent.max(1)).max(1);
    Ok(Report {
        input: (header.width, header.height),
        output: (target.width, target.height),
        scale: target.scale,
        path: path.to_owned(),
        model: model.folder().to_owned(),
        system: model.name().into(),
        device: engine.name().into(),
        why: engine.why().into(),
        dtype: choice.taken.shaping.dtype.name().into(),
        tile: (grid.rows.size * scale, grid.cols.size * scale),
        vae: if model.latent_form().is_some() { choice.vae.name().into() } else { "none".into() },
        vae_why: choice.why.clone(),
        overlap: choice.taken.shaping.overlap,
        batch: choice.taken.shaping.batch,
        windows: grid.count() as u64,
        parameters: parameters(model, &choice.taken.program)?,
        flops: choice.taken.parts.iter().map(|p| p.plan.cost.flops).sum(),
        device_bytes: choice.taken.needs.device.total(),
        host_bytes: choice.taken.needs.host.total(),
        residency: choice.taken.residency_words(),
        batches: choice.taken.batches_used(),
        bounds: choice.bounds.clone(),
        device_parts: choice.taken.needs.device.parts().map(|(name, bytes)| (name.to_owned(), bytes)).to_vec(),
        host_parts: choice.taken.needs.host.parts().map(|(name, bytes)| (name.to_owned(), bytes)).to_vec(),
        allocations: Allocations::default(),
        ..Report::default()
    })
}

/// Parameters of the networks that a program runs, each once.
fn parameters(model: &dyn System, program: &Program) -> Result<u64> {
    let of_graphs = program.graphs.iter().flat_map(|g| &g.weights).map(|w| (w.name.clone(), w.shape.clone()));
    let mut tensors: BTreeMap<String, Vec<u64>> = of_graphs.collect();
    let network = |name: &str| name.split('.').next().unwrap_or_default().to_owned();
    let run: BTreeSet<String> = tensors.keys().map(|name| network(name)).collect();
    tensors.extend(model.host_tensors()?.into_iter().filter(|(name, _)| run.contains(&network(name))));
    Ok(tensors.values().map(|shape| shape.iter().product::<u64>()).sum())
}

/// Whether the picture is asked for as it is, and was not enlarged before. A network trained to add what enlarging lost would
/// only disturb it.
fn unchanged(options: &UpscaleOptions, header: &Header, target: &Target) -> bool {
    let same = (header.width, header.height) == (target.width, target.height);
    same && options.noise == 0.0 && options.jpeg == 0.0 && options.sampler.enlarged.is_none()
}

/// An error where the job says of the picture what the model is not told.
fn check_conditioning(options: &UpscaleOptions, model: &dyn System) -> Result<()> {
    for (name, value, plane) in [("--noise", options.noise, Plane::Noise), ("--jpeg", options.jpeg, Plane::Jpeg)] {
        if value != 0.0 && !model.planes().contains(&plane) {
            let why =
                format!("{name} {value}: {}'s model in {} is not told of it", model.name(), model.folder().display());
            return Err(
                Error::new(Kind::Usage, "run", why).advise(format!("leave {name} away, or choose another --system"))
            );
        }
    }
    Ok(())
}

/// The stages of a job that has several, in words.
fn stages_of(model: &dyn System, job: &Job) -> Result<Option<String>> {
    let Some(cascade) = model.cascade(&job.sampler) else { return Ok(None) };
    let stages = stages(job.source, job.target, cascade)?;
    let told: Vec<String> = stages.iter().map(|s| format!("{}x{}", s.to[1], s.to[0])).collect();
    Ok((stages.len() > 1).then(|| format!("{} stages: {}", stages.len(), told.join(", "))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn strengths_and_systems_are_checked() {
        let mut options = UpscaleOptions::new("missing.png", super::super::options::Size::Scale(2.0));
        assert!(check_options(&options).is_ok());
        options.noise = f32::NAN;
        assert_eq!(check_options(&options).expect_err("NaN").kind(), Kind::Usage);
        options.noise = 0.0;
        options.system = Some("nonsense".into());
        assert_eq!(check_options(&options).expect_err("unknown").kind(), Kind::Usage);
    }
}
