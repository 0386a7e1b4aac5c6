//! The main job: a picture in, a larger picture out.
//!
//! Rows are decoded, enlarged by bicubic, cut into windows, run through the network, blended, joined with the
//! alpha channel (enlarged apart) and encoded; no more than a band of any of them exists at a time.

use super::budget::{self, Choice};
use super::canvas::Connections;
use super::clock::Clock;
use super::engine::Engine;
use super::interpreter::{Control, Interpreter, RunStats};
use super::options::{Allocations, Cancel, Observer, Progress, Report, Size, Target, UpscaleOptions};
use super::shipped::{SYSTEM, model_folder};
use crate::error::{Error, Kind, Result};
use crate::extent;
use crate::image::{self, Colour, Header, RowSource, colour, resample::Resampler};
use crate::system::onestep::{self, Conditioning, OneStep};
use crate::tile::RowRing;
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Upscales one picture on a device opened for it.
pub fn upscale(options: &UpscaleOptions, observer: &mut dyn Observer, cancel: &Cancel) -> Result<Report> {
    // What needs no device is refused before one is opened.
    check_options(options)?;
    let mut engine = Engine::open(&options.device, options.threads)?;
    upscale_with(&mut engine, options, observer, cancel)
}

fn check_options(options: &UpscaleOptions) -> Result<()> {
    for (name, value) in [("noise", options.noise), ("jpeg", options.jpeg)] {
        if !(0.0..=1.0).contains(&value) {
            return Err(Error::new(Kind::Usage, "run", format!("{name} is {value}, it must be from 0 to 1")));
        }
    }
    match options.system.as_deref() {
        None | Some(SYSTEM | onestep::CLASS) => Ok(()),
        Some(other) => {
            Err(Error::new(Kind::Usage, "run", format!("there is no system `{other}`")).advise(format!("use {SYSTEM}")))
        }
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

    let header = image::probe(&options.input)?;
    let target = options.size.resolve(header.width, header.height)?;
    let path = options.output.clone().unwrap_or_else(|| default_output(&options.input, options.size, &target));
    let out_header = Header { width: target.width, height: target.height, notes: Vec::new(), ..header.clone() };
    image::check_output(&path, Some(&options.input), &out_header, options.overwrite)?;
    clock.lap("probe");

    let folder = model_folder(options)?;
    let class = onestep::class_of(&folder)?;
    if class != onestep::CLASS {
        let why = format!("{} holds a `{class}`", folder.display());
        return Err(
            Error::new(Kind::Weights, "run", why).advise(format!("a folder of class {} is needed", onestep::CLASS))
        );
    }
    let model = OneStep::open(&folder)?;
    clock.lap("model");

    let to = [extent::to_u32("height", target.height)?, extent::to_u32("width", target.width)?];
    let conditioning = Conditioning { noise: options.noise, jpeg: options.jpeg, scale: target.scale };
    let rows = row_bytes(&header, &target)?;
    let mut choice = budget::choose(engine, &model, options, to, &conditioning, rows, None)?;
    clock.lap("plan");

    let mut report = report(engine, &header, &target, &path, &folder, &choice);
    report.notes.extend(header.notes.iter().cloned());
    report.notes.extend(image::output_notes(&path, &out_header));
    report.notes.extend(choice.notes.iter().cloned());
    let copied = unchanged(options, &header, &target);
    if copied {
        report.notes.push("same size and nothing to remove: the picture's own pixels are written".into());
        (report.windows, report.flops) = (0, 0);
    }
    observer.note(&format!("device: {} ({})", engine.name(), engine.why()));
    report.notes.iter().for_each(|note| observer.note(note));
    if options.dry_run {
        report.dry_run = true;
        (report.phases, report.seconds) = (clock.phases, began.elapsed().as_secs_f64());
        return Ok(report);
    }

    if copied {
        copy(options, &path, &out_header, &target, cancel)?;
        clock.lap("copy");
        (report.phases, report.seconds) = (clock.phases, began.elapsed().as_secs_f64());
        return Ok(report);
    }

    let stage = |stage| Progress { stage, done: 0, total: 0, elapsed: began.elapsed().as_secs_f64(), left: None };
    observer.progress(&stage("load"));
    let scope = folder.display().to_string();
    let checkpoints = model.checkpoints()?;
    let extra = checkpoints.check(&choice.program.graphs[0])?;
    if !extra.is_empty() {
        let why = format!("{} tensor(s) that no network asks for, the first is `{}`", extra.len(), extra[0]);
        return Err(Error::new(Kind::Weights, "weights", why)
            .at(folder.display())
            .advise("use the config.json and the weights of one and the same checkpoint"));
    }
    let mut pack = |w: &crate::plan::command::PackedWeight| checkpoints.packed(&w.tensors, &w.packing, w.dtype);
    let executor = loop {
        match engine.executor(&choice.key, &scope, &choice.plan, &mut pack) {
            // Others may hold a part of the device's memory: smaller windows, before anything is written.
            Err(e) if e.kind() == Kind::Memory && options.tile.is_none() => {
                let tile = choice.shaping.tile;
                let smaller = budget::choose(engine, &model, options, to, &conditioning, rows, Some(tile));
                let Ok(smaller) = smaller else { return Err(e) };
                choice = smaller;
                let notes = std::mem::take(&mut report.notes);
                report = self::report(engine, &header, &target, &path, &folder, &choice);
                report.notes = notes;
                let why = format!("no room for windows of {tile}, trying {}: {}", choice.shaping.tile, e.message());
                observer.note(&why);
                report.notes.push(why);
            }
            other => break other?,
        }
    };
    clock.lap("load");

    let device = engine.device().clone();
    let mut executors = vec![executor];
    let result = {
        let mut interpreter = Interpreter::new(&choice.program, &mut executors)?;
        report.allocations.device_before = device.allocated();
        let mut control = Control { observer, cancel, order: options.tile_order, began };
        run(&mut interpreter, &mut control, options, &path, &out_header, &target)
    };
    report.allocations.device_after = device.allocated();
    executors.into_iter().for_each(|executor| engine.keep(&choice.key, &scope, executor));
    let (stats, times) = result?;

    report.allocations.host_growths = stats.growths;
    report.phases = clock.phases;
    report.phases.extend([
        ("read".to_owned(), times.read),
        ("windows".to_owned(), (stats.gather - times.read).max(0.0)),
        ("network".to_owned(), stats.compute),
        ("blend".to_owned(), (stats.scatter - times.write).max(0.0)),
        ("write".to_owned(), times.write + times.finish),
    ]);
    report.seconds = began.elapsed().as_secs_f64();
    Ok(report)
}

/// Seconds spent on rows: within the interpreter's gathering and scattering, and after it.
#[derive(Default)]
struct Times {
    read: f64,
    write: f64,
    finish: f64,
}

fn report(engine: &Engine, header: &Header, target: &Target, path: &Path, folder: &Path, choice: &Choice) -> Report {
    let grid = &choice.program.grids[0];
    Report {
        input: (header.width, header.height),
        output: (target.width, target.height),
        scale: target.scale,
        path: path.to_owned(),
        model: folder.to_owned(),
        system: SYSTEM.into(),
        device: engine.name().into(),
        why: engine.why().into(),
        dtype: choice.shaping.dtype.name().into(),
        tile: (grid.rows.size, grid.cols.size),
        overlap: choice.shaping.overlap,
        batch: choice.shaping.batch,
        windows: grid.count() as u64,
        flops: choice.plan.cost.flops,
        device_bytes: choice.needs.device,
        host_bytes: choice.needs.host,
        allocations: Allocations::default(),
        ..Report::default()
    }
}

/// Whether the picture is asked for as it is. A network trained to add what enlarging lost would only disturb it.
fn unchanged(options: &UpscaleOptions, header: &Header, target: &Target) -> bool {
    let same = (header.width, header.height) == (target.width, target.height);
    same && options.noise == 0.0 && options.jpeg == 0.0
}

/// Writes the picture's own rows.
fn copy(options: &UpscaleOptions, path: &Path, header: &Header, target: &Target, cancel: &Cancel) -> Result<()> {
    let mut source = Enlarged::open(&options.input, target)?;
    let mut sink = image::create(path, header, options.overwrite)?;
    for _ in 0..target.height {
        cancel.check()?;
        source.next_wide()?;
        sink.write_row(&source.wide)?;
    }
    source.drain()?;
    sink.finish()
}

/// Connects file, enlargement, program and file.
fn run(
    interpreter: &mut Interpreter<'_>,
    control: &mut Control<'_>,
    options: &UpscaleOptions,
    path: &Path,
    header: &Header,
    target: &Target,
) -> Result<(RunStats, Times)> {
    let program = interpreter.program();
    let (input, output) = (program.canvas(onestep::INPUT)?, program.canvas(onestep::OUTPUT)?);
    let width = extent::to_usize("width", target.width)?;
    let alpha = header.colour.has_alpha();
    // Alpha waits for its row to come out of the network: a band of input and a row of windows at most.
    let waiting = interpreter.rows_in_flight(input);
    let times = RefCell::new(Times::default());
    let held = RefCell::new(RowRing::new(if alpha { target.width as u32 } else { 1 }, 1, waiting));

    let mut source = Enlarged::open(&options.input, target)?;
    let mut sink = image::create(path, header, options.overwrite)?;
    let mut rows_in = |row: &mut [f32]| -> Result<()> {
        let at = Instant::now();
        let mut held = held.borrow_mut();
        let alpha_row = held.push();
        source.next_row(row, alpha_row)?;
        times.borrow_mut().read += at.elapsed().as_secs_f64();
        Ok(())
    };
    let mut joined = vec![0.0f32; width * header.colour.channels()];
    let mut rows_out = |y: u32, row: &[f32]| -> Result<()> {
        let at = Instant::now();
        let held = held.borrow();
        colour::join_row(header.colour, row, held.row(y)?, &mut joined);
        sink.write_row(&joined)?;
        times.borrow_mut().write += at.elapsed().as_secs_f64();
        Ok(())
    };
    let mut io = Connections { inputs: vec![(input, &mut rows_in)], outputs: vec![(output, &mut rows_out)] };
    let stats = interpreter.run(&mut io, control)?;
    drop(io);
    // Damage after the last row that was needed is damage all the same.
    source.drain()?;
    control.cancel.check()?;
    let at = Instant::now();
    let elapsed = control.began.elapsed().as_secs_f64();
    control.observer.progress(&Progress { stage: "write", done: 0, total: 0, elapsed, left: None });
    sink.finish()?;
    let mut times = times.into_inner();
    times.finish = at.elapsed().as_secs_f64();
    Ok((stats, times))
}

/// A picture read by rows and enlarged. Every channel is enlarged on its own, alpha included; grey becomes
/// RGB after it is enlarged.
struct Enlarged {
    source: Box<dyn RowSource>,
    colour: Colour,
    resampler: Resampler,
    wide: Vec<f32>,
}

impl Enlarged {
    fn open(path: &Path, target: &Target) -> Result<Enlarged> {
        let source = image::open(path)?;
        let header = source.header();
        let (colour, from) = (header.colour, (header.width, header.height));
        let resampler = Resampler::new(from, (target.width, target.height), colour.channels())?;
        let wide = vec![0.0; resampler.row_len()];
        Ok(Enlarged { source, colour, resampler, wide })
    }

    /// The next enlarged row into `wide`, the file's own channels.
    fn next_wide(&mut self) -> Result<()> {
        let source = &mut self.source;
        self.resampler.next_row(|row| source.read_row(row), &mut self.wide)
    }

    fn next_row(&mut self, rgb: &mut [f32], alpha: &mut [f32]) -> Result<()> {
        self.next_wide()?;
        colour::split_row(self.colour, &self.wide, rgb, alpha);
        Ok(())
    }

    fn drain(&mut self) -> Result<()> {
        let source = &mut self.source;
        self.resampler.drain(|row| source.read_row(row))
    }
}

/// Host bytes of what brings and takes rows: the resampler's ring and the rows in between. What the
/// decoder holds of a picture that cannot be read by rows is counted as all of it.
fn row_bytes(header: &Header, target: &Target) -> Result<u64> {
    let channels = header.colour.channels() as u64;
    let wide = extent::product("row", &[target.width, channels, 4])?;
    let whole = match header.format {
        image::Format::Jpeg => extent::product("picture", &[header.width, header.height, channels])?,
        image::Format::Png | image::Format::Tiff => 0,
    };
    let alpha = if header.colour.has_alpha() { extent::product("alpha", &[target.width, 4, 2048])? } else { 0 };
    Ok(whole.saturating_add(8 * wide).saturating_add(alpha))
}

/// `{stem}_{scale}x.{ext}` beside the input; extensions that are not written become `png`.
pub fn default_output(input: &Path, size: Size, target: &Target) -> PathBuf {
    let stem = input.file_stem().map_or_else(|| "picture".into(), |s| s.to_string_lossy().into_owned());
    let extension = input.extension().map(|e| e.to_string_lossy().to_lowercase()).unwrap_or_default();
    let extension = match extension.as_str() {
        e @ ("png" | "jpg" | "jpeg" | "tif" | "tiff") => e,
        _ => "png",
    };
    // The factor asked for: that of the rounded sides differs in the last digits.
    let scale = if let Size::Scale(asked) = size { asked } else { target.scale };
    let scale = (scale * 100.0).round() / 100.0;
    input.with_file_name(format!("{stem}_{scale}x.{extension}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn outputs_are_named_after_their_scale() {
        let t = |scale| Target { width: 1, height: 1, scale };
        let (asked, width) = (Size::Scale(2.5), Size::Width(9));
        assert_eq!(default_output(Path::new("a/b.c.JPG"), width, &t(4.0)), Path::new("a/b.c_4x.jpg"));
        assert_eq!(default_output(Path::new("x.webp"), asked, &t(2.52)), Path::new("x_2.5x.png"));
        assert_eq!(default_output(Path::new("x"), width, &t(1.0 + 1.0 / 3.0)), Path::new("x_1.33x.png"));
    }

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
