//! `tessera bench`: how fast kernels, networks and whole jobs are on a device.

use super::on_device::OnDevice;
use super::progress::{Display, say};
use super::units::sides;
use super::{out, upscale::UpscaleArgs};
use clap::builder::PossibleValuesParser;
use clap::{Args, Subcommand};
use std::cell::{Cell, RefCell};
use std::path::{Path, PathBuf};
use tessera::fs::{self, AtomicFile};
use tessera::run::bench::{self, BenchOptions, Figure, NetworkOptions};
use tessera::run::{Cancel, Component, Resume, shipped_model};
use tessera::{Error, Kind, Result};

/// Shown below the options.
pub(super) const HELP: &str = "\
Every figure is the median of runs that last --seconds together, after others that warm up. `spread`
is the median distance from it, `peak` the share of the device's arithmetic, `roof` that of the
roofline: the time that arithmetic or memory alone would take, over the time taken. Operands of
kernels rotate over more than caches hold. What a device can do at most is what the makers of known
cards state, what two loops measure on the host, or --peaks.

Examples:
  tessera bench kernels                               every kernel, on the shapes of SD 2.1
  tessera bench kernels vae conv3x3 -g cuda           those whose names have both words
  tessera bench model -m sd-turbo --component unet --size 64x64 --batch 4 --profile
  tessera bench upscale -i photo.png -s 4 -g cuda     a whole job, phase by phase
  tessera bench kernels --save new.jsonl --svg roofline.svg --compare old.jsonl";

/// Options of the command.
#[derive(Debug, Args)]
pub(super) struct BenchArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Single kernels, on the shapes that published networks have
    Kernels(KernelArgs),
    /// Whole networks of a model, with noise for weights: only its configs are read
    Model(ModelArgs),
    /// A whole job, again and again on a warm engine, phase by phase
    Upscale(Box<JobArgs>),
}

#[derive(Debug, Args)]
struct KernelArgs {
    /// Only those whose names contain all of these
    filter: Vec<String>,
    /// Lets operands stay where they are: small ones are then read from caches
    #[arg(long)]
    cached: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    kept: KeptArgs,
}

#[derive(Debug, Args)]
struct ModelArgs {
    /// The model: its folder, the folder of one network, or a single file [default: the one that ships]
    #[arg(short, long, value_name = "MODEL")]
    model: Option<PathBuf>,
    /// One network [default: all that run by themselves]
    #[arg(long, value_name = "NAME", value_parser = PossibleValuesParser::new(Component::ALL.map(Component::name)))]
    component: Option<String>,
    /// Width and height of what it takes: pixels of a picture, or those of a latent [default: for 512x512 pixels]
    #[arg(long, value_name = "WxH", value_parser = sides)]
    size: Option<[u32; 2]>,
    /// Items of one run
    #[arg(long, value_name = "N", default_value_t = 1)]
    batch: u32,
    /// Also every kernel of a network by itself, summed by variant
    #[arg(long)]
    profile: bool,
    #[command(flatten)]
    device: DeviceArgs,
    #[command(flatten)]
    kept: KeptArgs,
}

#[derive(Debug, Args)]
struct JobArgs {
    // Its --json is that of the figures here.
    #[command(flatten)]
    job: UpscaleArgs,
    /// Seconds of jobs after the first, at least three
    #[arg(long, value_name = "SECONDS", default_value_t = 5.0)]
    seconds: f64,
    #[command(flatten)]
    files: FileArgs,
}

/// Where it runs and how long.
#[derive(Debug, Args)]
struct DeviceArgs {
    #[command(flatten)]
    on: OnDevice,
    /// Seconds of timed runs of each figure
    #[arg(long, value_name = "SECONDS", default_value_t = 0.5)]
    seconds: f64,
    /// What the device can do at most, where it is not known or known better: TFLOP/s,GB/s
    #[arg(long, value_name = "TFLOPS,GBS", value_parser = peaks)]
    peaks: Option<[f64; 2]>,
}

/// What is kept of the figures, and held against them.
#[derive(Debug, Args)]
struct FileArgs {
    /// Also writes the figures, one JSON object a line
    #[arg(long, value_name = "FILE")]
    save: Option<PathBuf>,
    /// Holds them against figures that were saved before
    #[arg(long, value_name = "FILE")]
    compare: Option<PathBuf>,
}

#[derive(Debug, Args)]
struct KeptArgs {
    #[command(flatten)]
    files: FileArgs,
    /// Also draws the roofline
    #[arg(long, value_name = "FILE")]
    svg: Option<PathBuf>,
    /// Replaces files that exist
    #[arg(long)]
    overwrite: bool,
    /// Prints one JSON object a line instead of the table
    #[arg(long)]
    json: bool,
}

/// What becomes of the figures.
struct Kept<'a> {
    files: &'a FileArgs,
    svg: Option<&'a Path>,
    overwrite: bool,
    json: bool,
    /// The run to compare with, read before anything is measured.
    before: Option<Vec<Figure>>,
    /// What came so far: where measuring ends early, that much is saved.
    figures: RefCell<Vec<Figure>>,
    /// The file is this run's own by now.
    saved: Cell<bool>,
}

impl BenchArgs {
    /// Whether results, and errors, are JSON.
    pub(super) fn json(&self) -> bool {
        match &self.what {
            What::Kernels(a) => a.kept.json,
            What::Model(a) => a.kept.json,
            What::Upscale(a) => a.job.json,
        }
    }
}

/// Measures and prints.
pub(super) fn run(args: &BenchArgs, cancel: &Cancel) -> Result<()> {
    let mut display = Display::new(None);
    match &args.what {
        What::Kernels(a) => {
            let kept = Kept::new(&a.kept)?;
            let options = BenchOptions { cached: a.cached, ..a.device.options() };
            kept.end(bench::kernels(&options, &a.filter, &mut |f| kept.each(f), &mut display, cancel))
        }
        What::Model(a) => {
            let kept = Kept::new(&a.kept)?;
            let model = a.model.clone().map_or_else(|| shipped_model("onestep"), Ok)?;
            let component = a.component.as_deref().map(Component::parse).transpose()?;
            // Written like a picture's size, kept like a value's.
            let size = a.size.map(|[w, h]| [h, w]);
            let networks = NetworkOptions { model, component, size, batch: a.batch, profile: a.profile };
            kept.end(bench::networks(&a.device.options(), &networks, &mut |f| kept.each(f), &mut display, cancel))
        }
        What::Upscale(a) => job(a, &mut display, cancel),
    }
}

fn job(a: &JobArgs, display: &mut Display, cancel: &Cancel) -> Result<()> {
    let mut job = a.job.options();
    let kept = Kept::of(&a.files, None, job.overwrite, a.job.json)?;
    let (given, ending) = (job.output.is_some(), job.format);
    let output = job.output.get_or_insert_with(|| {
        let ending = ending.map_or("png", |f| f.extension());
        std::env::temp_dir().join(format!("tessera-bench-{}.{ending}", std::process::id()))
    });
    let output = output.clone();
    job.resume = Resume::Never;
    let options = BenchOptions {
        device: job.device.clone(),
        threads: job.threads,
        seconds: a.seconds,
        ..BenchOptions::default()
    };
    let outcome = bench::jobs(&options, &job, &mut |f| kept.each(f), display, cancel);
    display.finish();
    if !given {
        // It may never have been written.
        let _ = std::fs::remove_file(output);
    }
    kept.end(outcome)
}

impl DeviceArgs {
    fn options(&self) -> BenchOptions {
        BenchOptions {
            device: self.on.device.clone(),
            threads: self.on.threads,
            dtype: self.on.dtype.clone(),
            seconds: self.seconds,
            peaks: self.peaks,
            ..BenchOptions::default()
        }
    }
}

impl<'a> Kept<'a> {
    fn new(a: &'a KeptArgs) -> Result<Kept<'a>> {
        Kept::of(&a.files, a.svg.as_deref(), a.overwrite, a.json)
    }

    fn of(files: &'a FileArgs, svg: Option<&'a Path>, overwrite: bool, json: bool) -> Result<Kept<'a>> {
        for path in files.save.as_deref().into_iter().chain(svg) {
            // Minutes of measuring are not to end in this.
            fs::refuse_existing(path, overwrite)?;
            drop(AtomicFile::create(path, overwrite)?);
        }
        let before = files.compare.as_deref().map(bench::read).transpose()?;
        Ok(Kept { files, svg, overwrite, json, before, figures: RefCell::default(), saved: Cell::new(false) })
    }

    fn each(&self, figure: Figure) {
        let line = if self.json {
            bench::json_lines(std::slice::from_ref(&figure)).map(|l| l.trim_end().to_owned())
        } else if self.figures.borrow().is_empty() {
            Ok(format!("{}\n{}", Figure::head(), figure.row()))
        } else {
            Ok(figure.row())
        };
        self.figures.borrow_mut().push(figure);
        // A figure that cannot be printed is still saved, and the other way round.
        for problem in [line.and_then(|l| out(&l)), self.save()].into_iter().filter_map(Result::err) {
            say(&problem.to_string());
        }
    }

    /// Writes all figures there are so far: however the program ends, they are kept.
    fn save(&self) -> Result<()> {
        let figures = self.figures.borrow();
        if let Some(path) = self.files.save.as_ref().filter(|_| !figures.is_empty()) {
            fs::write(path, self.overwrite || self.saved.get(), bench::json_lines(&figures)?.as_bytes())?;
            self.saved.set(true);
        }
        Ok(())
    }

    fn end(&self, outcome: Result<()>) -> Result<()> {
        self.save()?;
        outcome?;
        let figures = self.figures.borrow();
        if let Some(path) = self.svg {
            let drawing = bench::roofline(&figures).ok_or_else(|| {
                Error::new(Kind::Usage, "bench", "no figure has both operations and bytes: there is nothing to draw")
            })?;
            fs::write(path, self.overwrite, drawing.as_bytes())?;
        }
        match &self.before {
            // JSON alone on stdout.
            Some(before) if self.json => bench::comparison(&figures, before).lines().for_each(say),
            Some(before) => out(&format!("\n{}", bench::comparison(&figures, before)))?,
            None => {}
        }
        Ok(())
    }
}

/// Reads `TFLOPS,GBS`, as a rate of operations and one of bytes.
fn peaks(text: &str) -> std::result::Result<[f64; 2], String> {
    let number = |t: &str| t.trim().parse::<f64>().ok().filter(|v| v.is_finite() && *v > 0.0);
    let pair = text.split_once(',').and_then(|(flops, bytes)| Some([number(flops)? * 1e12, number(bytes)? * 1e9]));
    pair.ok_or_else(|| format!("`{text}` is no TFLOP/s and GB/s; write 989,4800"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn peaks_are_two_numbers() {
        assert_eq!(peaks("989.5,4800"), Ok([989.5e12, 4.8e12]));
        for bad in ["", "989", "989,", "0,1", "-1,1", "nan,1", "1,inf", "1,2,3"] {
            assert!(peaks(bad).is_err(), "{bad}");
        }
    }
}
